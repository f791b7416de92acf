"""Targets and asks: what can be asked of a chunk, and which replies to it are of use."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import prompts
from raft.errors import UsageError
from raft.generation import items, tasks
from raft.generation.facts import pattern_of, plain, read_prefixes, statements, targets
from raft.rag.format import ABSTENTION

OPENINGS = read_prefixes(prompts.load_text("openings.yaml"))
FACTS = ("fact", "number", "date", "name")
TABLE = """\
| Model | Weight | Since |
|-------|-------:|-------|
| Quillon 2 | 14 kg | 2019-03-01 |
| Quillon 3 | about 17 kg | 2021-05-01 |
"""


def found(text, *kinds):
    """Return kind, answer and opening of each target."""
    return [(one.kind, one.answer, one.opening) for one in targets(text, OPENINGS, kinds or FACTS)]


@pytest.mark.parametrize(
    ("sentence", "kind", "answer", "opening"),
    [
        ("The museum in Aster opened its doors in 1987.", "date", "1987", "In which year"),
        ("The frame has been sold unchanged since March 2019.", "date", "March 2019", "Since which month"),
        ("The reading room is open from 8:30 for members.", "date", "8:30", "From what time"),
        ("Requests reach the office before 12 March 2026 at the latest.", "date", "12 March 2026", "Before which date"),
        ("The contract was signed on 30 June 2021 by both parties.", "date", "30 June 2021", "On which date"),
        ("The yearly licence for the tool costs $48 per seat.", "number", "$48", "How much"),
        ("About 80 percent of the yearly fee is paid back.", "number", "80 percent", "What percentage"),
        ("The boiler heats the water to 65 °C during the night.", "number", "65 °C", "What temperature"),
        ("The valve opens when the system reaches 3.5 bar inside.", "number", "3.5 bar", "What pressure"),
        ("The charger in the garage delivers 230 V to the car.", "number", "230 V", "What voltage"),
        ("The fuse of the pump is rated for 16 A continuously.", "number", "16 A", "What current"),
        ("Tighten the bolts of the wheel with 120 Nm each.", "number", "120 Nm", "What torque"),
        ("The river trail is marked and runs for 12 km north.", "number", "12 km", "What distance"),
        ("The heavy ladder in the cellar is 240 cm long.", "number", "240 cm", "What length"),
        ("The motor of the large mixer draws 750 W at most.", "number", "750 W", "What power"),
        ("The cheapest plan of the archive holds 50 GB of data.", "number", "50 GB", "What amount of storage"),
        ("The drum of the washer spins with 1400 rpm at most.", "number", "1400 rpm", "What speed"),
        ("The router in the hall sends with 5 GHz by default.", "number", "5 GHz", "What frequency"),
        ("The Quillon 2 heater in the hall weighs 14 kg empty.", "number", "14 kg", "What weight"),
        ("The battery of the cabin stores 10 kWh when it is full.", "number", "10 kWh", "How much energy"),
        ("The fan in the office is as loud as 42 dB at night.", "number", "42 dB", "What noise level"),
        ("Refunds are paid out within 30 days after the return.", "number", "30 days", "Within how many days"),
        ("Every parent may take 18 weeks of leave in all.", "number", "18 weeks", "How many weeks"),
        ("The night desk is reached under extension 4711 only.", "number", "4711", "What is the extension"),
        ("The hotel near the station has 120 rooms for guests.", "number", "120", "How many rooms"),
        ("The city had 3.5 million inhabitants in the last count.", "number", "3.5 million", "How many inhabitants"),
        (
            "The seal of the Delta pump has the part number QK-771-C and is blue.",
            "fact",
            "QK-771-C",
            "What is the part number",
        ),
        (
            "Write to the team at help@example.org when you need a key.",
            "fact",
            "help@example.org",
            "Which email address",
        ),
        ("Large spills are reported to Petra Lindqvist, the site chemist.", "name", "Petra Lindqvist", "Who"),
        ("The annual meeting takes place in Port Harcourt, near the harbour.", "name", "Port Harcourt", "Where"),
    ],
)
def test_each_fact_is_asked_for_in_its_own_words(sentence, kind, answer, opening):
    """The opening of a question fits the kind and the unit of its answer."""
    assert found(sentence) == [(kind, answer, opening)]


@pytest.mark.parametrize(
    "sentence",
    [
        "The pump weighs 14 kg and the hose weighs 14 kg too.",
        "The rooms are listed [on this page](https://example.org/2024-05-01/rooms) for all of our guests.",
        "The rooms of the hotel are listed under https://example.org/a/120 for all of the guests.",
        'The colour <span data-size="14 kg">of the pump</span> is a deep blue since ever.',
        "It weighs 14 kg and stands in the cellar of the house.",
        "This costs $48 per seat and year for all members.",
        "The pump weighs 14 kg.",
        "# The pump of the cellar weighs 14 kg in all",
    ],
    ids=["twice", "link", "url", "tag", "it", "this", "short", "heading"],
)
def test_what_cannot_stand_for_itself_is_not_asked(sentence):
    """Facts stated twice, hidden in links and tags, in dangling or too short sentences are never targets."""
    assert found(sentence) == []


def test_digits_inside_another_number_are_not_a_second_place():
    """A figure whose digits stand in another figure too is left alone; the other may be asked for."""
    assert [answer for _, answer, _ in found("A box holds 3 of the 30 parts that are needed.")] == ["30"]


def test_the_text_of_a_link_is_what_a_reader_sees():
    """The words of a link may be asked for, and the statement shows no markup; the quote keeps it."""
    text = "The *hotel* has [120 rooms](https://example.org/30) for guests of the fair."
    (one,) = targets(text, OPENINGS, FACTS)
    assert (one.answer, one.statement) == ("120", "The hotel has 120 rooms for guests of the fair.")
    assert text[one.start : one.end] == text


def test_kinds_that_are_off_are_not_asked():
    """Only the kinds that were asked for are found."""
    text = "On 30 June 2021 the hotel near the station opened 120 rooms for guests."
    assert {kind for kind, *_ in found(text)} == {"date", "number"}
    assert {kind for kind, *_ in found(text, "date")} == {"date"}
    assert found(text, "unanswerable") == []


def test_a_cell_is_asked_for_by_its_row_and_column():
    """A cell that is one fact is asked for; a cell with other words, and the first cell, are not."""
    assert sorted(found(TABLE)) == [
        ("date", "2019-03-01", "What is the since for Quillon 2"),
        ("date", "2021-05-01", "What is the since for Quillon 3"),
        ("number", "14 kg", "What is the weight for Quillon 2"),
    ]
    (first,) = targets(TABLE, OPENINGS, ("number",))
    assert first.statement == "Model: Quillon 2; Weight: 14 kg; Since: 2019-03-01"
    assert TABLE[first.start : first.end].startswith("| Quillon 2 |")


def test_a_column_without_a_name_is_not_asked():
    """A cell under an empty head is no question's answer, and stops nothing."""
    table = "|  |  | Weight |\n| --- | --- | --- |\n| Quillon 2 | 14 kg | 3 kg |"
    assert [answer for _, answer, _ in found(table)] == ["3 kg"]


def test_a_table_of_two_columns_is_asked_for_with_its_title():
    """The rows of a property sheet name no subject, so that the document's title does."""
    text = "| Property | Value |\n|---|---|\n| Weight | 14 kg |\n"
    assert found(text) == [("number", "14 kg", "According to $title, what is the weight")]


@pytest.mark.parametrize(
    "text",
    [
        "| Quillon 2 | 14 kg |\n| Quillon 3 | 17 kg |\n",
        "| A | B |\n|---|---|\n\nText between.\n\n| Quillon 2 | 14 kg |\n",
    ],
    ids=["no rule", "another table"],
)
def test_a_row_that_lost_its_columns_is_not_asked(text):
    """Where a table was cut, nothing says what its cells mean."""
    assert found(text) == []


def test_the_same_cell_twice_in_a_row_is_not_asked():
    """A cell that stands twice in its row has no one place to quote."""
    assert found("| Model | In | Out |\n|---|---|---|\n| Quillon | 14 kg | 14 kg |\n") == []


def test_three_steps_are_a_procedure():
    """A list of at least three steps is answered with all of them, verbatim; two steps are no procedure."""
    text = "To reset the pump:\n\n1. Close the valve.\n2. Wait for the lamp.\n3. Press the key.\n\nThen call us."
    (one,) = targets(text, OPENINGS, ("procedure",))
    assert one.answer == text[one.start : one.end] == "1. Close the valve.\n2. Wait for the lamp.\n3. Press the key."
    assert one.opening == "What are the steps to"
    assert "1." not in one.statement
    assert targets("1. Close the valve.\n2. Wait.\n", OPENINGS, ("procedure",)) == []
    assert targets(text, OPENINGS, FACTS) == []


@pytest.mark.parametrize(
    ("sentence", "answer", "opening"),
    [
        ("Employees may park their cars behind the hall.", "yes", "May employees"),
        ("Visitors must not use the lift during an alarm.", "no", "Must visitors"),
        ("The annual fee is never paid back in full.", "no", "Is the annual fee"),
    ],
)
def test_a_rule_is_answered_with_yes_or_no(sentence, answer, opening):
    """A decision's answer follows from whether the rule is negated."""
    assert found(sentence, "decision") == [("decision", answer, opening)]


@given(st.text(alphabet="ab 1.2|\n-#[](){}<>*:%kgQK7@", max_size=120) | st.text(max_size=80))
@settings(max_examples=80, deadline=None)
def test_any_text_gives_targets_that_stand_in_it(text):
    """No text is too odd; each quote lies within it and each exact answer stands once in its quote."""
    for one in targets(text, OPENINGS, (*FACTS, "procedure", "decision")):
        assert 0 <= one.start < one.end <= len(text)
        if one.kind in FACTS:
            assert text[one.start : one.end].count(one.answer) == 1
    for one in statements(text):
        assert text[one.start : one.end].strip()


def test_lookalikes_share_a_pattern():
    """Statements that differ in their facts alone have one pattern."""
    one, two = pattern_of("The A pump weighs 14 kg."), pattern_of("The A pump weighs 1,700 g.")
    other = pattern_of("The A pump costs 14 euros.")
    assert one == two != other


@pytest.mark.parametrize("text", ["- {kind: date}", "7", "- {kind: date, answer: '(', opening: x}", "a: ["])
def test_openings_that_cannot_be_read_are_a_usage_error(text):
    """A rule without its parts, or with a broken pattern, is named with what a rule needs."""
    with pytest.raises(UsageError, match="openings") as caught:
        read_prefixes(text)
    assert "kind, answer and opening" in caught.value.hint


CHUNK = {
    "chunk_id": "c1",
    "doc_id": "d1",
    "heading": "Quillon heaters > Warranty",
    "text": "The Quillon 2 heater in the hall weighs 14 kg empty.\nCall us.",
}
(TARGET,) = targets(CHUNK["text"], OPENINGS, FACTS)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("What weight has the Quillon 2 heater in the hall", "not one question"),
        ("What weight has the heater in the hall? Is it empty?", "not one question"),
        ("What weight has the Quillon heater in the hall, 14 kg?", "gives the answer away"),
        ("What weight has the Quillon heater in the hall, 14 or so?", "gives the answer away"),
        ("What weight?", "asks for nothing"),
        ("What weight has the famous elephant of Hannibal crossing mountains?", "about something else"),
        ("What weight does the Quillon warranty?", "leaves out"),
        ("What weight weight weight has the Quillon heater hall heater heater Quillon hall hall?", "repeats itself"),
    ],
)
def test_a_question_of_no_use_says_why(question, reason):
    """A question is refused in words that say what is wrong with it."""
    with pytest.raises(ValueError, match=reason):
        tasks.check_question(question, TARGET, CHUNK["heading"])


def test_a_good_question_passes():
    """A question in the statement's words that does not give the answer away is taken."""
    tasks.check_question("What weight has the Quillon 2 heater in the hall when empty?", TARGET, CHUNK["heading"])


def test_a_decision_is_not_asked_in_the_negative():
    """A yes-or-no question with a "not" in it would turn its answer round."""
    rule = replace(TARGET, kind="decision", answer="no", opening="May guests", statement="Guests may not use the lift.")
    tasks.check_question("May guests use the lift?", rule, "Rules")
    with pytest.raises(ValueError, match="negative"):
        tasks.check_question("May guests not use the lift?", rule, "Rules")


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        (
            " has the Quillon 2 heater in the hall when empty?",
            "What weight has the Quillon 2 heater in the hall when empty?",
        ),
        ("What weight has the Quillon 2 heater in the hall?", "What weight has the Quillon 2 heater in the hall?"),
        ("has the  Quillon 2 heater in the hall?\nAnswer: 14 kg", "What weight has the Quillon 2 heater in the hall?"),
    ],
)
def test_a_reply_continues_the_opening(reply, question):
    """A reply that goes on from the opening, or repeats it, gives the same question; what follows it is left out."""
    ask = tasks.answer_first_ask(prompts.load("answer_first"), CHUNK, TARGET, CHUNK["heading"], name_document=False)
    assert ask.request.messages[-1] == {"role": "assistant", "content": "What weight"}
    ask.request.check(reply)
    (row,) = ask.read(reply)
    assert (row["question"], row["answer"], row["kind"]) == (question, "14 kg", "number")
    quote = {"chunk_id": "c1", "start": 0, "end": 52, "text": CHUNK["text"][:52]}
    assert row["quotes"] == [quote]


def test_a_lookalike_is_named():
    """Where other documents say the same of other things, the question names its document, unless it does already."""
    ask = tasks.answer_first_ask(prompts.load("answer_first"), CHUNK, TARGET, "Boreal handbook > X", name_document=True)
    (row,) = ask.read(" has the Quillon 2 heater in the hall?")
    assert row["question"] == "According to Boreal handbook, what weight has the Quillon 2 heater in the hall?"
    named = tasks.answer_first_ask(prompts.load("answer_first"), CHUNK, TARGET, CHUNK["heading"], name_document=True)
    (row,) = named.read(" has the Quillon 2 heater in the hall?")
    assert row["question"] == "What weight has the Quillon 2 heater in the hall?"


def item(**changes):
    """Return an item of a reply."""
    return {"question": "How heavy?", "answer": "14 kg", "quote": "weighs 14 kg", "kind": "number", **changes}


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps({"items": [item()]}),
        json.dumps([item()]),
        "```json\n" + json.dumps({"items": [item()]}) + "\n```",
        json.dumps({"items": [item()]})[:-1],
        json.dumps({"items": [item()]}).replace('"}]', '",}],'),
        json.dumps({"questions": [item()]}),
        json.dumps({"result": {"count": 1, "qa_pairs": [item()]}}),
        json.dumps(item()),
        json.dumps([{"Question": "How heavy?", "ANSWER": "14 kg", "Quote": "weighs 14 kg", "kind": " Number"}]),
    ],
    ids=["whole", "bare list", "fenced", "cut off", "trailing comma", "named", "nested", "single", "capitals"],
)
def test_items_that_are_nearly_json_are_read(reply):
    """What a model usually gets wrong about JSON is repaired."""
    assert items.parse_items(reply, ["number"]) == ([item()], [])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no items"),
        ("I am sorry.", "no items"),
        ("{}", "no items"),
        ("7", "no items"),
        ('{"items": []}', "no items"),
        ('{"items": ["a"]}', "no object"),
        (json.dumps([item(question=None)]), "no question"),
        (json.dumps([{"question": "Q?", "answer": "A", "kind": "number"}]), "no quote"),
        (json.dumps([item(answer=None)]), "no answer"),
        (json.dumps([item(answer={})]), "answer or a quote is empty"),
        (json.dumps([item(kind="poem", answer="A ballad")]), "'poem' is none of the kinds"),
        (json.dumps([item(question=" ")]), "question is empty"),
        (json.dumps([item(quote="")]), "quote is empty"),
    ],
)
def test_items_of_no_use_say_why(reply, reason):
    """A reply without usable items is refused in words that say what is missing."""
    with pytest.raises(ValueError, match=reason):
        items.parse_items(reply, ["number", "unanswerable"])


PRINTED = [
    item(),
    item(question="Who runs it?", answer="Ada Lind", quote='Run by Ada Lind: she said, "on-duty".', kind="name"),
]


def written(form, between="\n"):
    """Return items as lines, one a field."""
    return "\n\n".join(between.join(form.format(name, value) for name, value in one.items()) for one in PRINTED)


@pytest.mark.parametrize(
    "reply",
    [
        written("{}: {}"),
        written("{0}:\n{1}"),
        written("**{0}**\n{1}"),
        written("* **{}:** {}"),
        written("{}： {}").replace("question", "1. 问题"),
        "items:\n" + written("    {}: {}").replace("    question", "  - question"),
        "- " + written("{}: {}", "\n  ").replace("\n\n", "\n- "),
        "\n".join(f"Q{n}: {one['question']}\nA{n}: {one['answer']}\nSource: '{one['quote']}'\nType: {one['kind']}\n---"
                  for n, one in enumerate(PRINTED, 1)),
        "\n".join(f"{n}) {one['question']}\nAnswer: {one['answer']}\nQuote: {json.dumps(one['quote'])}\n"
                  f"Kind: {one['kind']}" for n, one in enumerate(PRINTED, 1)),
        "|Question|Answer|Quote|Kind|\n|:--|:-:|--:|---|\n"
        + "\n".join(f"|{'|'.join(one.values())}|" for one in PRINTED),
        json.dumps(PRINTED).replace('"', "&quot;"),
        json.dumps(json.dumps(PRINTED))[1:-1],
        json.dumps(json.dumps(PRINTED, indent=1))[1:-1],
        json.dumps([json.dumps(one) for one in PRINTED]),
    ],
)  # fmt: skip
def test_items_in_another_form_than_json_are_read(reply):
    """Lines with the names of the fields, as in YAML and lists, rows of a table and escaped JSON are items."""
    assert items.parse_items(reply, ["number", "name"]) == (PRINTED, [])


def test_a_text_goes_on_until_an_empty_line():
    """A quote over several lines is whole, names in it are no fields, and what is said after the items is no item."""
    reply = (
        "Question: How heavy?\nAnswer: 14 kg\nKind: number\nQuote: >-\n  It weighs\n  Answer: 14 kg\n\nAnything else?"
    )
    assert items.parse_items(reply, ["number"])[0] == [item(quote="It weighs Answer: 14 kg")]


def test_a_backslash_of_markdown_is_no_part_of_a_text():
    """What Markdown escapes and JSON does not know is read as it was meant; other backslashes stay."""
    reply = json.dumps([item(answer="max_len", quote=r"C:\dir: max_len")]).replace("_", r"\_")
    assert items.parse_items(reply, ["number"])[0] == [item(answer="max_len", quote=r"C:\dir: max_len")]


@pytest.mark.parametrize("end", [-3, -12, -60])
def test_texts_of_a_cut_reply_stay_as_they_were_written(end):
    """What was whole before a cut is kept to the letter: quotes of print and backslashes in it are no marks of JSON."""
    first = item(quote=r'Send {"net": "14 kg", "gross": "„15 kg“"} to C:\new\table; &quot;so&quot;')
    reply = f"Here:\n{json.dumps([first, item()], ensure_ascii=False, indent=1)[:end]}"
    found, faults = items.parse_items(reply, ["number"])
    assert found[0] == first and len(found) + len(faults) == 2


@pytest.mark.parametrize("answer", ["", None])
def test_an_item_in_json_that_is_no_item_is_not_read_from_its_lines(answer):
    """An answer that is empty or null in JSON over several lines stays none."""
    with pytest.raises(ValueError, match="answer"):
        items.parse_items(json.dumps([item(answer=answer)], indent=1), ["number"])


@pytest.mark.parametrize("line", ["1 " + "_" * 5_000 + "(!", "1" + "?" * 200_000 + "x", "|" * 500_000, "1 _" * 50_000])
def test_a_model_that_runs_away_takes_no_time(line):
    """A line without an end is looked through once."""
    with pytest.raises(ValueError, match="no items"):
        items.parse_items(line, ["number"])


@pytest.mark.parametrize("kind", ["numbers", "Kind: number", "numeric", "Zahl", "数字", None, ["number"]])
def test_a_kind_in_other_words_is_known_by_its_answer(kind):
    """A kind in the plural, in another language, in other words or left out is the one that the answer shows."""
    found, faults = items.parse_items(json.dumps([item(kind=kind)]), ["name", "number", "decision"])
    assert (found, faults) == ([item()], [])


@pytest.mark.parametrize(
    "entry",
    [
        {"Frage": "How heavy?", "Antwort": "14 kg", "Zitat": "weighs 14 kg", "Art": "number"},
        {"问题": "How heavy?", "答案": "14 kg", "引用": "weighs 14 kg", "类型": "number"},
        {"question1": "How heavy?", "answer_1": "14 kg", "quote 1": "weighs 14 kg", "kind": "number"},
        item(source="a.md", type="x"),
        {"question": "How heavy?", "answer": "14 kg", "context": "weighs 14 kg", "kind": "number"},
        item(quote={"start": 3, "text": "weighs 14 kg"}, answer={"value": 14, "unit": "kg"}),
        {"question": "How heavy?", "answer": "14 kg", "quotes": ["weighs 14 kg"], "kind": "number"},
        item(quote="", evidence="weighs 14 kg"),
        item(quote=None, evidence="weighs 14 kg"),
    ],
)  # fmt: skip
def test_fields_in_other_words_are_read(entry):
    """What a model calls fields in the language of the documents, numbers or makes objects of, is what it means."""
    assert items.parse_items(json.dumps([entry]), ["number"]) == ([item()], [])


def test_answers_that_are_no_texts_are_read():
    """Numbers are answers as they are spelled; what has no answer needs none; true is yes, and a list its parts."""
    spelled = '[{"question": "Q?", "answer": 1.50, "quote": "costs 1.50", "kind": "number"}]'
    assert items.parse_items(spelled, ["number"])[0][0]["answer"] == "1.50"
    for answer, text in ((45, "45"), (-2, "-2"), (True, "yes"), (["bolt", 2], "bolt, 2")):
        assert items.parse_items(json.dumps([item(answer=answer)]), ["number"])[0][0]["answer"] == text
    bare = {"question": "Who?", "answer": None, "kind": "unanswerable"}
    assert items.parse_items(json.dumps([bare]), ["unanswerable"])[0][0]["question"] == "Who?"


@given(
    st.permutations([item(), item(answer="7"), item(answer=None), item(kind="poem", answer="A ballad"), "a", {}, None])
)
def test_bad_items_cost_themselves_alone(entries):
    """Each good item of a reply is read, and each bad one is said, wherever it stands."""
    kept, faults = items.parse_items(json.dumps({"items": entries}), ["number"])
    assert kept == [entry for entry in entries if entry in (item(), item(answer="7"))]
    assert len(faults) == 4


def test_an_endless_bracket_is_malformed():
    """A model that repeats one bracket until its limit has given a malformed reply, and the run goes on."""
    with pytest.raises(ValueError, match=r"."):
        items.parse_items('{"items": ' + "[" * 5000, ["number"])


@given(st.text(alphabet='[]{}",:items question answer quote kind', max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_reply_is_items_or_malformed(reply):
    """Whatever comes back is read or refused, and nothing else."""
    try:
        assert items.parse_items(reply, ["number"])
    except ValueError as error:
        assert str(error)


def test_items_know_where_their_quote_stands():
    """A verbatim quote has its place in the chunk; one that is only near, or invented, is kept with the place -1."""
    ask = items.items_ask(prompts.load("items"), CHUNK, 3, ["number"])
    assert ask.request.schema["properties"]["items"]["items"]["properties"]["kind"]["enum"] == ["number"]
    quotes = ["weighs 14 kg empty", "weighs  14 kg empty", "has a price of 48 euros", "left out: a fourth of three"]
    rows = ask.read(json.dumps({"items": [item(quote=quote) for quote in quotes]}))
    places = [(row["quotes"][0]["start"], row["quotes"][0]["end"]) for row in rows]
    assert places == [(CHUNK["text"].find("weighs"), CHUNK["text"].find(".")), (-1, -1), (-1, -1)]
    assert [row["quotes"][0]["text"] for row in rows] == quotes[:3]


def test_an_unanswerable_item_has_no_quote():
    """A question that the passage does not answer is answered with the abstention."""
    ask = items.items_ask(prompts.load("items"), CHUNK, 1, ["unanswerable"])
    (row,) = ask.read(json.dumps([item(kind="unanswerable", answer="", quote="")]))
    assert (row["answer"], row["quotes"]) == (ABSTENTION, [])


def test_an_unanswerable_question_holds_a_new_word_on_the_subject():
    """A question is unanswerable when it is about the statement and uses a word that no document holds."""
    words = tasks.stems("The Quillon 2 heater in the hall weighs 14 kg empty, and is painted.")
    ask = tasks.unanswerable_ask(prompts.load("unanswerable"), CHUNK, TARGET, words)
    ask.request.check("Who repaired the Quillon heater in the hall?")
    for reply, reason in [
        ("Who repaired the old organ of Lund?", "something else"),
        ("Is the Quillon heater painted?", "the corpus may answer"),
        ("Tell me of the Quillon heater.", "not one question"),
    ]:
        with pytest.raises(ValueError, match=reason):
            ask.request.check(reply)


def test_a_comparison_names_both_and_quotes_both():
    """A comparison's answer holds the fact of each document, each with its quote."""
    other = {**CHUNK, "chunk_id": "c2", "doc_id": "d2", "heading": "Boreal stoves > Data"}
    ask = tasks.comparison_ask(prompts.load("comparison"), CHUNK, TARGET, other, replace(TARGET, answer="9 kg"))
    (row,) = ask.read(" what they weigh?")
    assert row["question"] == "How do Boreal stoves and Quillon heaters differ in what they weigh?"
    assert row["answer"] == "Boreal stoves: 9 kg; Quillon heaters: 14 kg"
    assert [quote["chunk_id"] for quote in row["quotes"]] == ["c2", "c1"]
    assert ask.doc_ids == ("d2", "d1")
    with pytest.raises(ValueError, match="something else"):
        ask.request.check(" the colour of their box?")


ROWS = """\
No: 1; Tool: Hedge shears Marlow; Price: 32.50 €; Weight: 1.4 kg; column 5: 12 kg
No: 2; Tool: Pruning saw Teal; Price: 24.00 €; Remark: Folds. Cuts green wood
No: 3; Tool: Pruning saw Orlo; Price: 19.90 €
"""


def test_a_row_of_a_sheet_is_asked_about_by_its_name_and_quotes_itself_alone():
    """The values of a record are asked for by the names of row and column; the quote is the row."""
    made = targets(ROWS, OPENINGS, FACTS)
    assert {(one.answer, one.opening) for one in made} == {
        ("32.50 €", "What is the price for Hedge shears Marlow"),
        ("1.4 kg", "What is the weight for Hedge shears Marlow"),
        ("24.00 €", "What is the price for Pruning saw Teal"),
        ("19.90 €", "What is the price for Pruning saw Orlo"),
    }
    assert {ROWS[one.start : one.end] for one in made} == set(ROWS.splitlines())
    assert "tool: Hedge shears Marlow; price: 32.50 €" in {one.statement for one in made}


def test_rows_that_begin_alike_are_told_apart_by_their_next_cells():
    """Where several rows have the same first cell the second is named too; what nothing tells apart is not asked."""
    alike = "Shed: North; Day: 2026-03-01; Litres: 40\nShed: North; Day: 2026-03-02; Litres: 45"
    assert ("number", "40", "What is the litres for North, 2026-03-01") in found(alike)
    assert found("Shed: North; Litres: 40\nShed: North; Litres: 45") == []


def test_a_value_with_its_name_is_asked_for_under_the_title():
    """Of lines `name: value` the value is asked for by its name and the document's title; prose stays a sentence."""
    text = "Warranty: 24 months\nMade by: Pell and Daughters, who have lived in Port Harcourt since 1998."
    assert ("number", "24 months", "What is the warranty according to $title") in found(text)
    assert [one.cells for one in statements(text)][1] == ()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("See [the guide](guide.md) and ![a fan](fan.png).", "See the guide and a fan."),
        ("[![a fan](fan.png)](shop.html) costs 5 euros", "![a fan](shop.html) costs 5 euros"),
        ("[see [the guide](guide.md) [1] (new)", "see [the guide [1] (new)"),
        ("[open [the guide](guide.md", "[open [the guide](guide.md"),
        ("f[0](x", "f[0](x"),
    ],
)
def test_a_link_is_read_as_its_words(text, seen):
    """Of links and pictures the words stay; brackets that are none stay as they are."""
    assert plain(text) == seen


@pytest.mark.parametrize("text", ["[" * 60_000, "[" * 60_000 + "](x)", "![a](b " * 20_000, "{{" * 10_000])
def test_open_brackets_take_no_time(text):
    """A text of brackets that nothing closes is read once, not once for each of them."""
    begun = time.process_time()
    plain(text)
    assert time.process_time() - begun < 2
