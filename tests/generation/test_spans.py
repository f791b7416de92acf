"""Questions whose answer a model copies from a sentence: copied word for word, of the right kind, evenly spread."""

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raft.generation.generate import (
    LONGEST,
    MOST_ANSWER_WORDS,
    SHORTEST,
    again,
    kind_of,
    parse_span,
    plan,
    plan_spans,
    read_prompts,
    span_ask,
)
from raft.generation.plan import Survey
from raft.store import tables
from raft.text import normalise

USED = read_prompts(None)
PROMPT = USED.span
KINDS = ("fact", "number", "date", "name")
TIMBER = "Most of the timber was shipped to Lisbon until the treaty of 1703 closed the port."
PUMP = "The Delta pump costs $4,250.50 in the shop, lifts 1.5 km³ a year and loses 12% in the -20 °C of a cold winter."


def chunk(number, text, doc="a", **fields):
    """Return one row of chunks."""
    row = {
        "chunk_id": f"{doc}{number}",
        "doc_id": doc,
        "position": number,
        "start": 0,
        "end": len(text),
        "page": 0,
        "heading": "Harbour towns > Trade",
        "text": text,
        "tokens": len(text.split()),
        "boilerplate": False,
        "document_sha256": "",
    }
    return row | fields


def sentence(number, words=10):
    """Return a sentence of its own with so many words."""
    return " ".join([f"Warehouse{number}", "holds", *["barrels"] * (words - 4), "of", "oil."])


def asked(*rows, questions, kinds=KINDS):
    """Return what is asked of some chunks, when each document is given so many questions."""
    frame = tables.frame(tables.CHUNKS, rows)
    given = dict.fromkeys(frame["doc_id"], questions) if isinstance(questions, int) else questions
    return list(plan_spans([frame], Survey(), given, USED, kinds))


def prefilled(ask):
    """Return what a request gives the model of its reply."""
    return ask.request.messages[-1]["content"]


def statement_of(ask):
    """Return the sentence that a request shows."""
    return ask.request.messages[-2]["content"].partition("Sentence: ")[2]


# reading a reply


@pytest.mark.parametrize(
    ("reply", "statement", "answer"),
    [
        (" Lisbon\nQuestion: Where to?", TIMBER, "Lisbon"),
        ("Answer: Lisbon\nQuestion: Where to?", TIMBER, "Lisbon"),
        ('"lisbon."\n\nQuestion: Where to?\nAnswer: Porto', TIMBER, "Lisbon"),
        ("The treaty, of 1703\nQuestion: Where to?", TIMBER, "the treaty of 1703"),
        ("4,250.50\nQuestion: Where to?", PUMP, "$4,250.50"),
        ("12\nQuestion: Where to?", PUMP, "12%"),
        ("20 °C\nQuestion: Where to?", PUMP, "-20 °C"),
        ("1.5 km³\nQuestion: Where to?", PUMP, "1.5 km³"),
        (
            "Große Straße\nQuestion: Where to?",
            "The new office of the club lies in the Große Straße of Bremen.",
            "Große Straße",
        ),
        ("O'Hara-Smith\nQuestion: Where to?", "A report was read to the whole club by Miss O’Hara-Smith.", None),
        (
            "O’Hara-Smith\nQuestion: Where to?",
            "A report was read to the whole club by Miss O’Hara-Smith.",
            "O’Hara-Smith",
        ),
    ],
)
def test_an_answer_is_what_the_sentence_writes(reply, statement, answer):
    """Case, quotation marks and spaces of a copy do not matter, signs belong to their number; nothing else passes."""
    if answer is None:
        with pytest.raises(ValueError, match="not in the sentence"):
            parse_span(reply, statement)
        return
    assert parse_span(reply, statement) == (answer, "Where to?")
    assert answer in statement


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "no answer with a question"),
        ("Lisbon", "no answer with a question"),
        ("Question: Where to?", "no answer with a question"),
        ("Lisbon Question: Where to?", "no answer with a question"),
        ("...\nQuestion: Where to?", "answer is empty"),
        ("Porto\nQuestion: Where to?", "not in the sentence"),
        ("Lisb\nQuestion: Where to?", "not in the sentence"),
        ("Lisbon the treaty\nQuestion: Where to?", "not in the sentence"),
        ("Most of the timber was shipped to Lisbon until\nQuestion: Where to?", "most of the sentence"),
    ],
)
def test_a_reply_that_is_no_copy_is_refused(reply, why):
    """Without an answer, with one that the sentence lacks, or that is half of the sentence, a reply is of no use."""
    with pytest.raises(ValueError, match=why):
        parse_span(reply, TIMBER)


@pytest.mark.parametrize("part", ["5", "1", "250.50", "4,250", "50"])
def test_a_part_of_a_number_is_no_answer(part):
    """Digits out of the middle of a number are another number."""
    with pytest.raises(ValueError, match="not in the sentence"):
        parse_span(f"{part}\nQuestion: How many?", PUMP)


def test_an_answer_has_few_words():
    """However long the sentence is, an answer has at most `MOST_ANSWER_WORDS` words."""
    statement = " ".join(f"w{number}" for number in range(40))
    words = statement.split()
    fits, long = (" ".join(words[:count]) for count in (MOST_ANSWER_WORDS, MOST_ANSWER_WORDS + 1))
    assert parse_span(f"{fits}\nQuestion: What?", statement)[0] == fits
    with pytest.raises(ValueError, match="most of the sentence"):
        parse_span(f"{long}\nQuestion: What?", statement)


@given(st.data(), st.lists(st.text("abcÄßéł12.,'’-$%€ ", min_size=1, max_size=8), min_size=8, max_size=20))
def test_whatever_is_copied_stands_in_the_sentence(data, pieces):
    """Any run of a sentence's words is taken for what it is, or refused; never something that is not there."""
    statement = " ".join(" ".join(pieces).split())
    words = statement.split()
    assume(len(words) >= 4)
    start = data.draw(st.integers(0, len(words) - 1))
    copied = " ".join(words[start : start + data.draw(st.integers(1, 3))])
    try:
        answer, question = parse_span(f"{copied}\nQuestion: What  is\tit?", statement)
    except ValueError:
        return
    assert question == "What is it?"
    assert answer in statement
    assert normalise(answer) == normalise(copied)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("12 years", "number"),
        ("$4,250.50", "number"),
        ("12%", "number"),
        ("3 May 2021", "date"),
        ("16:30", "date"),
        ("Marta Quill", "name"),
        ("Lisbon", "name"),
        ("RH-77", "fact"),
        ("a lamp had been left alight", "fact"),
        ("the treaty of 1703", "fact"),
        ("timber", "fact"),
    ],
)
def test_the_kind_follows_from_the_answer(answer, kind):
    """Numbers, dates and names are told from facts by what is copied."""
    assert kind_of(answer) == kind


# asking


def test_a_reply_becomes_a_question_with_a_verbatim_quote():
    """The row has question, exact answer and kind, and quotes the sentence as the chunk's text has it."""
    text = "An introduction.\n\nMost of the **timber** was shipped to [Lisbon](x.md) until the treaty of 1703."
    start = text.index("Most")
    ask = span_ask(PROMPT, chunk(0, text), start, len(text), KINDS)
    assert statement_of(ask) == "Most of the timber was shipped to Lisbon until the treaty of 1703."
    (row,) = ask.read(" Lisbon\nQuestion: To which city was most of the timber shipped until the treaty?")
    assert (row["answer"], row["kind"]) == ("Lisbon", "name")
    assert row["question"] == "To which city was most of the timber shipped until the treaty?"
    (quote,) = row["quotes"]
    assert quote == {"chunk_id": "a0", "start": start, "end": len(text), "text": text[start:]}
    assert (ask.item_id, ask.doc_ids) == ("a0", ("a",))


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("Lisbon\nQuestion: Was most of the timber shipped to Lisbon until the treaty?", "gives the answer away"),
        ("Lisbon\nQuestion: Most of the timber was shipped until the treaty.", "not one question"),
        ("Lisbon\nQuestion: Which unicorn bought the golden saddle in winter?", "something else"),
        ("Lisbon\nQuestion: What is the trade of Harbour towns?", "something else"),
        ("Lisbon\nQuestion: To which city was the timber of the passage shipped?", "speaks of the sentence"),
        ("Porto\nQuestion: To which city was most of the timber shipped?", "not in the sentence"),
    ],
)
def test_a_reply_of_no_use_is_refused(reply, why):
    """The request's own check refuses what must not become a question, so that it is asked again."""
    ask = span_ask(PROMPT, chunk(0, TIMBER), 0, len(TIMBER), KINDS)
    with pytest.raises(ValueError, match=why):
        ask.request.check(reply)


def test_a_kind_that_is_off_is_refused():
    """Where names are not asked for, an answer that is a name is of no use."""
    reply = "Lisbon\nQuestion: To which city was most of the timber shipped until the treaty?"
    assert span_ask(PROMPT, chunk(0, TIMBER), 0, len(TIMBER), KINDS).read(reply)
    with pytest.raises(ValueError, match="'name' is none of the kinds"):
        span_ask(PROMPT, chunk(0, TIMBER), 0, len(TIMBER), ("number", "date")).read(reply)


# planning


def test_questions_are_spread_over_the_chunks():
    """Each chunk is given its share by size, and its sentences are chosen evenly from first to last."""
    text = "\n\n".join(sentence(number) for number in range(8))
    asks = asked(chunk(0, text), chunk(1, text.replace("barrels", "crates")), questions=8)
    assert [ask.item_id for ask in asks] == ["a0"] * 4 + ["a1"] * 4
    assert [statement_of(ask) for ask in asks][:4] == [sentence(number) for number in (0, 2, 4, 6)]


def test_a_sentence_is_asked_about_once():
    """A chunk with fewer sentences than questions is asked about each of them once."""
    asks = asked(chunk(0, "\n\n".join(sentence(number) for number in range(3))), questions=20)
    assert [statement_of(ask) for ask in asks] == [sentence(number) for number in range(3)]


def test_candidates_are_asked_for_again_and_warmer():
    """Where candidates are wanted, each request comes so often, the others warmer; what is asked stays."""
    frame = tables.frame(tables.CHUNKS, [chunk(0, "\n\n".join(sentence(number) for number in range(3)))])
    known, shape = Survey(sizes={"a": 40}, chunks=1), {"strategy": "spans", "per_chunk": 9, "limit": None}

    def requests(kinds, **more):
        return [one.request for one in plan(iter([frame]), known, USED, **{**shape, "kinds": kinds, **more}).tasks]

    once, thrice = requests(KINDS), requests(KINDS, candidates=3)
    assert [request.messages for request in thrice] == [request.messages for request in once for _ in range(3)]
    assert [(request.temperature, request.sample) for request in thrice[:3]] == [(0.0, 0), (0.8, 1), (0.8, 2)]
    assert len(requests(("decision",), candidates=3)) == len(requests(("decision",))) > 0
    assert len(requests(KINDS, strategy="items", candidates=3)) == len(requests(KINDS, strategy="items")) > 0


def test_candidates_name_the_task_that_brought_them():
    """Rows of one task are told by their prompt to be of one question, and rows of others to be none; alone, not."""
    rows = [chunk(0, "\n\n".join(sentence(number) for number in range(3)))]
    once = asked(*rows, questions=3)
    thrice = [*again(once, 3)]
    assert len({task.asked for task in thrice}) == len(once) > 1
    assert [task.asked for task in thrice[:3]] == [thrice[0].asked] * 3
    assert {task.asked for task in again(once, 1)} == {""}


def test_exact_facts_are_given_where_more_questions_are_wanted():
    """Only when each sentence has been asked about are its numbers, dates and codes given as answers, three at most."""
    rows = [chunk(0, f"{TIMBER}\n\n{PUMP}")]
    assert [prefilled(ask) for ask in asked(*rows, questions=2)] == ["Answer:"] * 2
    more = [prefilled(ask) for ask in asked(*rows, questions=20)]
    assert more[:2] == ["Answer:"] * 2
    assert more[2:] == [f"Answer: {fact}\nQuestion:" for fact in ("1703", "$4,250.50", "1.5 km³", "12%")]
    assert [prefilled(ask) for ask in asked(*rows, questions=20, kinds=("date",))] == ["Answer:"] * 2


def test_a_chunk_that_begins_with_its_heading_is_asked_about_below_it():
    """The model is told what a sentence is about also where the heading stands in the chunk itself."""
    (ask,) = asked(chunk(0, f"# Harbour towns\n\n{TIMBER}", heading=""), questions=1)
    assert "Section: Harbour towns\n" in ask.request.messages[-2]["content"]
    (bare,) = asked(chunk(0, TIMBER, heading=""), questions=1)
    assert "Section: \n" in bare.request.messages[-2]["content"]


def test_names_are_given_as_answers_where_they_are_surely_whole():
    """A name is asked for too, but not the one that begins a sentence, nor one that was cut at an initial."""
    text = "Many Rowers met Anna Blum in the hall of the Harbour Club, where Karl E. was not let in that year."
    (_, *given) = asked(chunk(0, text), questions=20)
    assert [prefilled(ask) for ask in given] == ["Answer: Anna Blum\nQuestion:", "Answer: Harbour Club\nQuestion:"]


def test_a_given_answer_stays_as_it_is():
    """The reply is the question alone, the row has the answer that was given; a reply that says it is of no use."""
    ask = span_ask(PROMPT, chunk(0, TIMBER), 0, len(TIMBER), KINDS, answer="1703")
    (row,) = ask.read(" Until the treaty of which year was most of the timber shipped?\nAnswer: 1704")
    assert (row["question"], row["answer"]) == (
        "Until the treaty of which year was most of the timber shipped?",
        "1703",
    )
    assert [quote["text"] for quote in row["quotes"]] == [TIMBER]
    with pytest.raises(ValueError, match="gives the answer away"):
        ask.read("Was most of the timber shipped until the treaty of 1703?")


def test_what_is_too_short_or_too_long_is_left_out():
    """Only sentences of `SHORTEST` to `LONGEST` words are asked about, and no rows of tables."""
    table = "| Part | Price of one part in the shop |\n| --- | --- |\n| Delta housing of the pump | 88 euros in cash |"
    lengths = [SHORTEST - 1, SHORTEST, LONGEST, LONGEST + 1]
    text = "\n\n".join([*(sentence(number, words) for number, words in enumerate(lengths)), table])
    asks = asked(chunk(0, text), questions=20)
    assert [len(statement_of(ask).split()) for ask in asks] == [SHORTEST, LONGEST]


def test_a_document_without_a_budget_is_not_asked_about():
    """Held-out documents, which are given nothing, and boilerplate are left alone."""
    text = sentence(1)
    rows = [chunk(0, text, doc="a"), chunk(0, text, doc="b"), chunk(1, text, doc="b", boilerplate=True)]
    assert [ask.item_id for ask in asked(*rows, questions={"a": 0, "b": 5})] == ["b0"]
    assert asked(*rows, questions={}) == []
    assert list(plan_spans([tables.frame(tables.CHUNKS, [])], Survey(), {"a": 3}, USED, KINDS)) == []


def test_frames_do_not_matter():
    """The same chunks in frames of one row are asked the same."""
    rows = [chunk(number, "\n\n".join(sentence(n + 10 * number) for n in range(5))) for number in range(4)]
    whole = tables.frame(tables.CHUNKS, rows)
    frames: list[pl.DataFrame] = [whole[place : place + 1] for place in range(4)]
    one, other = (
        [ask.request for ask in plan_spans(each, Survey(), {"a": 9}, USED, KINDS)] for each in ([whole], frames)
    )
    assert one == other
    assert len(one) == 9


def test_each_row_of_a_sheet_is_asked_about():
    """Rows of a sheet are asked about one by one, for a value by its name, and the quote is the row."""
    rows = [f"Tool: Rake{number} Orlo; Price: {number}.50 €; Weight: {number} kg" for number in range(4)]
    made = asked(chunk(0, "\n".join(rows)), questions=4)
    questions = [ask.read(" in the shop?")[0] for ask in made]
    assert [row["quotes"][0]["text"] for row in questions] == rows
    assert [row["question"].split(" for ")[1] for row in questions] == [f"Rake{n} Orlo in the shop?" for n in range(4)]
    assert len(asked(chunk(0, "\n".join(rows)), questions=8)) == 8
