"""Questions worded as people's: other wordings that may take a question's place, and examples of how people ask."""

import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.curation import clean as cleaning
from raft.curation import wording
from raft.curation.coverage import choose
from raft.errors import RaftError, UsageError
from raft.generation.generate import question_id
from raft.protocols import Completion, Failure
from raft.rag.format import ABSTENTION
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, ScriptedGenerator, make_chunks, make_question
from raft.text import overlap

CHUNKS = make_chunks(
    {
        "ferry": ["A bicycle costs 4 euros on the Skarn ferry.", "Tickets are sold by Ines Holm on board."],
        "mill": ["The mill at Orrest grinds rye because wheat does not ripen there.", "It may be visited on Sundays."],
        "held": ["The Lund bridge was opened in 1931 by a mayor.", "It is painted green."],
    }
)
ROWS = {row["chunk_id"]: row for row in CHUNKS.iter_rows(named=True)}
BICYCLE = make_question(ROWS["ferry#0"], "How much does a bicycle cost on the Skarn ferry?", "4 euros", kind="number")
MILL = make_question(ROWS["mill#0"], "Why does the mill at Orrest grind rye?", "wheat does not ripen there")
BRIDGE = make_question(ROWS["held#0"], "When was the Lund bridge opened by a mayor?", "1931", kind="date")
NOTHING = make_question(ROWS["mill#1"], "How high is the mill at Orrest?", ABSTENTION, kind="unanswerable")
PAIR = {**make_question(ROWS["ferry#1"], "Who sells the tickets on board?", "Ines Holm", kind="name"), "model": "human"}
ASKED = [BICYCLE, MILL, BRIDGE, NOTHING, PAIR]
GOOD = "What do I pay for taking a bicycle with me on the Skarn boat?"
ANSWERS = {"bicycle": "4 euros", "rye": "wheat does not ripen there"}


def says(text, read=None):
    """Return what words each question as `text`, and reads as a good reader does, or says `read`."""

    def answer(request):
        last = request.messages[-1]["content"]
        if request.messages[-1]["role"] == "assistant":
            return text
        question = last.rpartition("Question: ")[2]
        return read or next((said for word, said in ANSWERS.items() if word in question), "not stated")

    return ScriptedGenerator(answer)


def reword(model, rows=ASKED, share=1.0, each=1, examples=(), **changes):
    """Word rows anew; return the new ones and the figures."""
    how = {"seed": 0, "k": 2, "held_out": frozenset({"held"}), **changes}
    return wording.reword(
        tables.frame(tables.QUESTIONS, rows),
        CHUNKS,
        wording.asked(None, examples, each=each, least=0.5),
        generator=model,
        model="some-model",
        retriever=OverlapRetriever(CHUNKS),
        share=share,
        limits={"min_words": 3, "max_words": 40, "max_answer_words": 60},
        languages={},
        identify=question_id,
        **how,
    )


def clean(rows, **changes):
    """Clean rows, of several wordings of a fact leaving one."""
    return cleaning.clean(
        tables.frame(tables.QUESTIONS, rows),
        CHUNKS,
        retriever=OverlapRetriever(CHUNKS),
        embedder=HashEmbedder(),
        held_out=frozenset(),
        min_words=3,
        max_words=40,
        max_answer_words=60,
        round_trip_k=2,
        judge=None,
        judge_prompt=None,
        judge_minimum=0.6,
        **{"wordings": True, "similarity": 0.99, **changes},
    )


def reasons(rows, **changes):
    """Return the reason of each row."""
    return clean(rows, **changes)["reason"].to_list()


def test_a_good_wording_takes_the_questions_place():
    """A wording that passes all checks is a row of its own, with the old one's answer and quote, and names that one."""
    new, stats = reword(says(GOOD), [BICYCLE])
    (row,) = new.to_dicts()
    assert row["question"] == GOOD
    assert row["prompt"].startswith("reword@")
    assert row["prompt"].endswith(f" {BICYCLE['question_id']}")
    same = ("kind", "answer", "quotes", "golden_chunk_ids", "doc_ids", "reasoning")
    assert {name: row[name] for name in same} == {name: BICYCLE[name] for name in same}
    assert (stats["drawn"], stats["wordings"], stats["questions"], stats["left_out"]) == (1, 1, 1, {})
    assert stats["after"]["overlap"] < stats["before"]["overlap"]
    cleaned = clean([BICYCLE, row])
    assert cleaned["reason"].to_list() == ["other wording", None]
    assert cleaned["duplicate_of"].to_list() == [row["question_id"], None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("How much does a bicycle cost on the Skarn ferry?", "same words"),
        ("How much does a bicycle cost on the Torv boat?", "other facts"),
        ("How much do 2 bicycles cost on the Skarn boat?", "other facts"),
        ("How much does a bicycle cost?", "other facts"),
        ("How many euros does it cost on Skarn?", "read otherwise"),
        ("Is a bicycle taken for 4 euros on the Skarn boat?", "other facts"),
        ("The price of a bicycle on the Skarn boat.", "no question"),
        ("Here is one: what do I pay for a bicycle on the Skarn boat?", "malformed"),
        ("According to the passage, what do I pay for a bicycle on the Skarn boat?", "does not stand alone"),
        ("", "no question"),
    ],
)
def test_a_wording_that_fails_a_check_is_left_out(text, why):
    """What lost or gained a name or number, says the same, is no question, or points at a text never becomes a row."""
    new, stats = reword(says(text), [BICYCLE])
    assert new.height == 0
    assert [*stats["left_out"]] == [why]


def test_a_wording_that_is_another_question_is_left_out():
    """A wording that nearly equals the question for another fact would cost one of the two, and is no row."""
    other = make_question(ROWS["ferry#1"], GOOD.lower(), "Ines Holm", kind="name")
    assert reword(says(GOOD), [BICYCLE, other], k=1)[1]["left_out"] == {"duplicate": 1}


def test_a_wording_that_is_answered_otherwise_is_left_out():
    """A reader of the chunk has to answer a wording alike; one that says nothing of use does not."""
    assert reword(says(GOOD, read="22 euros"), [BICYCLE])[1]["left_out"] == {"read otherwise": 1}
    assert reword(says(GOOD, read=" "), [BICYCLE])[1]["left_out"] == {"read otherwise": 1}


def test_a_wording_that_nobody_reads_is_left_out():
    """Where no reply of the reader comes, nobody knows whether a wording is answered alike, and the question stays."""

    class Deaf(ScriptedGenerator):
        def complete(self, requests):
            for request in requests:
                last = request.messages[-1]["role"]
                yield Failure("refused", "no") if last == "user" else Completion(GOOD, "some-model")

    assert reword(Deaf(lambda _: ""), [BICYCLE])[1]["left_out"] == {"read otherwise": 1}


def test_a_wording_has_to_find_its_chunk():
    """A wording whose chunk is not among the results of a search is left out."""
    vague = "What do I pay at Skarn for things on board, or by Ines, or Holm?".replace("Ines", "ines").replace("H", "h")
    model = says(vague, read="4 euros")
    assert reword(model, [BICYCLE], k=1)[1]["left_out"] == {"round trip": 1}


def test_what_is_not_a_models_to_change_is_not_asked_about():
    """Neither a pair of people, nor what nothing answers, nor a question on a held-out document is worded anew."""
    model = says(GOOD)
    _, stats = reword(model)
    assert stats["drawn"] == 2
    told = " ".join(request.messages[-2]["content"] for request in model.requests if request.max_tokens == 64)
    assert "Lund" not in told
    assert "Ines" not in told


def test_no_call_is_spent_on_what_the_rules_drop():
    """A question that a rule or the round trip drops is not worded anew."""
    bad = make_question(ROWS["ferry#0"], "Bicycle euros Skarn ferry.", "4 euros")
    lost = make_question(ROWS["ferry#0"], "Why does the mill at Orrest grind rye?", "4 euros")
    model = says(GOOD)
    assert reword(model, [bad, lost], k=1)[1]["drawn"] == 0
    assert model.requests == []


def test_a_share_is_drawn_by_seed_and_question():
    """Which questions are worded anew depends on seed and question alone, and a larger share only adds to it."""
    rows = [
        make_question(ROWS["ferry#0"], f"How much does bicycle {n} cost on the Skarn ferry?", "4 euros")
        for n in range(40)
    ]
    rows = [
        {**row, "quotes": [{**row["quotes"][0], "start": n, "text": CHUNKS["text"][0][n:]}]}
        for n, row in enumerate(rows)
    ]

    def drawn(share, **changes):
        model = says("?")
        reword(model, rows, share=share, **changes)
        return {str(request.messages[-2]["content"]) for request in model.requests}

    assert 5 < len(drawn(0.4)) < 30
    assert drawn(0.4) < drawn(1.0)
    assert drawn(0.4) != drawn(0.4, seed=1)


def test_several_wordings_are_in_several_manners():
    """Asked for several wordings of one question, the model is told another manner each time."""
    model = says("?")
    reword(model, [BICYCLE], each=3)
    manners = [request.messages[-2]["content"].rpartition("Reword it: ")[2] for request in model.requests]
    assert len(set(manners)) == 3


def test_examples_are_shown_to_who_words_anew():
    """The user's own questions stand in the prompt of a rewording."""
    model = says(GOOD)
    reword(model, [BICYCLE], examples=["whats the wifi code"])
    assert "- whats the wifi code" in model.requests[0].messages[0]["content"]


TEXTS = st.one_of(st.sampled_from([GOOD, "", "Why?", BICYCLE["question"], "What is 4 euros?"]), st.text(max_size=80))


@given(TEXTS, TEXTS)
def test_rewording_never_touches_anything_else(text, read):
    """Whatever a model says, answers, quotes and golden chunks stay; a wording passes or is no row at all."""
    new, stats = reword(says(text, read=read or "-"), [BICYCLE, MILL])
    old = {row["question_id"]: row for row in (BICYCLE, MILL)}
    for row in new.iter_rows(named=True):
        before = old[row["prompt"].rpartition(" ")[2]]
        assert [row[name] for name in ("answer", "quotes", "golden_chunk_ids", "kind")] == [
            before[name] for name in ("answer", "quotes", "golden_chunk_ids", "kind")
        ]
    assert stats["wordings"] + sum(stats["left_out"].values()) == stats["drawn"] == 2
    if not new.height:
        table = tables.frame(tables.QUESTIONS, [BICYCLE, MILL])
        assert pl.concat([table, new]).equals(table)


@given(st.text(max_size=60), st.text(max_size=200))
def test_overlap_is_a_share(question, source):
    """The share of a question's words that its chunk holds is between 0 and 1, and 1 in itself."""
    assert 0 <= overlap(question, source) <= 1
    assert overlap(question, question) == 1


TASK = {"prompt": "answer_first@0123456789ab of abcdef012345"}
FIRST = {**BICYCLE, **TASK}


def candidate(question, **changes):
    """Return another question for the bicycle's price, of one task unless told otherwise."""
    return {**make_question(ROWS["ferry#0"], question, "4 euros", kind="number"), **TASK, **changes}


def test_of_candidates_the_one_stays_that_repeats_least():
    """Of several questions of one task the one with the smallest share of its chunk's words stays; without, all do."""
    near, far = FIRST, candidate("What do bicycles pay at Skarn?")  # with fewer words to be understood by
    assert reasons([near, far]) == ["other wording", None]
    assert reasons([far, near]) == [None, "other wording"]
    assert reasons([near, far], wordings=False) == [None, None]


def test_a_candidate_that_fails_a_rule_does_not_count():
    """A candidate that repeats less and is dropped by a rule leaves the other in its place."""
    assert reasons([FIRST, candidate("Price of a bicycle on the Skarn boat")]) == [None, "not a question"]


def test_what_two_tasks_asked_are_two_questions():
    """One quote and one answer do not make one question of two: only what one task brought are wordings of it."""
    other = candidate("What do bicycles pay at Skarn?", prompt="answer_first@0123456789ab of 012345abcdef")
    assert reasons([FIRST, other]) == [None, None]
    assert reasons([BICYCLE, candidate("What do bicycles pay at Skarn?", prompt="by_rule@5")]) == [None, None]


def test_what_people_wrote_or_approved_is_never_another_wording():
    """Neither a user's own pair nor a row that was approved is dropped for another wording, whichever is better."""
    own = candidate("What do bicycles pay at Skarn?", model="human", prompt="faq.csv, line 2")
    assert reasons([own, candidate("What do I pay with a bicycle at Skarn?", prompt="faq.csv, line 3")]) == [None, None]
    rows = [FIRST, candidate("What do bicycles pay at Skarn?"), candidate(GOOD)]
    said = {row["question_id"]: ["approved"] for row in rows[:2]}
    assert reasons(rows, decided=said) == [None, None, "other wording"]


def test_a_rejected_candidate_leaves_the_fact_to_another():
    """Where people reject the wording that was chosen, the next best one takes its place."""
    far = candidate("What do bicycles pay at Skarn?")
    said = {far["question_id"]: ["rejected"]}
    assert reasons([FIRST, candidate(GOOD), far], decided=said) == ["other wording", None, "rejected by a person"]


def test_a_rejected_rewording_gives_the_question_back():
    """A rewording that people reject leaves the question before in its place, however nearly they say the same."""
    near = {**BICYCLE, "question_id": "new", "prompt": f"reword@1 {BICYCLE['question_id']}"}
    near["question"] = "How much does one bicycle cost on the Skarn ferry?"
    assert reasons([BICYCLE, near], similarity=0.5) == ["other wording", None]
    said = {"new": ["rejected"]}
    assert reasons([BICYCLE, near], similarity=0.5, decided=said) == [None, "rejected by a person"]


def test_of_candidates_the_best_is_reworded_and_the_share_is_of_facts():
    """A share of the facts is reworded, however many candidates each has, and of these the one that stays."""
    texts = [f"A bicycle costs {n + 3} euros on the ferry {n + 100}." for n in range(40)]
    chunks = make_chunks({"lines": texts})
    rows = []
    for n, row in enumerate(chunks.iter_rows(named=True)):
        for text in (f"How much does a bicycle cost on the ferry {n + 100}?", f"What do bicycles pay at {n + 100}?"):
            prompt = f"answer_first@0123456789ab of {n:012x}"
            rows.append({**make_question(row, text, f"{n + 3} euros", kind="number"), "prompt": prompt})
    model = says("?")
    _, stats = wording.reword(
        tables.frame(tables.QUESTIONS, rows),
        chunks,
        wording.asked(None, (), each=1, least=0.5),
        generator=model,
        model="some-model",
        retriever=OverlapRetriever(chunks),
        share=0.5,
        limits={"min_words": 3, "max_words": 40, "max_answer_words": 60},
        languages={},
        identify=question_id,
        seed=0,
        k=40,
        held_out=frozenset(),
    )
    assert 12 <= stats["drawn"] <= 28
    assert all("What do bicycles pay" in request.messages[-2]["content"] for request in model.requests)


def test_what_a_person_has_judged_comes_before_a_wording():
    """What a person approved stays in spite of a wording, and what they rejected takes its wordings along."""
    row = candidate(GOOD, prompt=f"reword@1 {BICYCLE['question_id']}")
    rejected = "rejected by a person"
    for verdict, expected in (("approved", [None, "other wording"]), ("rejected", [rejected, rejected])):
        said = {BICYCLE["question_id"]: [verdict]}
        assert reasons([BICYCLE, row], decided=said) == expected


def test_a_wording_of_what_is_dropped_is_dropped():
    """Where a question turns out to be wrong, so is its other wording: they have one answer."""
    wrong = {**BICYCLE, "question": "How much does a car cost in the passage?", "question_id": "wrong"}
    assert reasons([wrong, candidate(GOOD, prompt="reword@1 wrong")]) == ["does not stand alone"] * 2


def write(tmp_path, text):
    """Write a file of examples."""
    path = tmp_path / "like.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_examples_are_lines_or_json(tmp_path):
    """A question a line, bare or as JSON with other keys; notes, blank lines and repetitions are passed over."""
    text = '# mine\n\nhow long  is it?\n{"question": "who pays?", "answers": ["x"]}\nHow long is it?\n'
    assert wording.read_examples(write(tmp_path, text)) == ["how long is it?", "who pays?"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no questions"),
        ("{1}", "no JSON"),
        ('{"answers": []}', "no question"),
        ("?!", "no question"),
        ("a " * 300, "500 characters"),
    ],
)
def test_a_file_of_examples_that_is_none_is_refused(tmp_path, text, what):
    """A file without questions, or with a line that is none, is an error that says how a line reads."""
    with pytest.raises(UsageError, match=what) as error:
        wording.read_examples(write(tmp_path, text))
    assert '{"question":' in str(error.value.hint)


def test_a_file_of_examples_that_cannot_be_read_is_refused(tmp_path):
    """A file that is missing, a folder, or no text is an error that names it."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    for name in ("none", "bytes", "."):
        with pytest.raises(UsageError) as error:
            wording.read_examples(tmp_path / name)
        assert str(tmp_path) in str(error.value.where)


def test_what_is_measured_with_is_no_example(tmp_path):
    """An example that is nearly a question of --eval is refused: it would be shown to the generator."""
    path = write(tmp_path, "who pays for the ferry?\nHow much does a bicycle cost on the Skarn ferry\n")
    with pytest.raises(UsageError, match="1 of the examples"):
        wording.read_examples(path, ["Where is it?", BICYCLE["question"]])
    assert len(wording.read_examples(path, ["Where is it?"])) == 2


def test_personal_data_in_examples_is_treated_as_elsewhere(tmp_path):
    """What is personal in the examples is refused, or replaced before a model is shown it, as privacy.found says."""
    path = write(tmp_path, "does ada.lovelace@example.org answer mails?\n")
    with pytest.raises(RaftError, match="personal data"):
        wording.read_examples(path, found="refuse")
    (line,) = wording.read_examples(path, found="redact")
    assert "ada" not in line


def kept(count):
    """Return a frame of cleaned rows, half of which begin as people do."""
    rows = []
    for n in range(count):
        text = f"how long is part {n}?" if n % 2 else f"What is the length of the part with the number {n}?"
        rows.append({**make_question(ROWS["ferry#0"], text, "4 euros"), "question_id": f"q{n}"})
    return tables.frame(tables.CLEANED, rows)


def test_what_is_kept_follows_the_examples():
    """With examples, questions that begin and are as long as theirs are chosen before others; without, as before."""

    def chosen(like):
        table = choose(kept(100), {}, 30, seed=0, like=like).filter(pl.col("reason").is_null())
        return Counter(question.split()[0] for question in table["question"])

    assert chosen(()) == Counter(
        question.split()[0]
        for question in choose(kept(100), {}, 30, seed=0).filter(pl.col("reason").is_null())["question"]
    )
    assert chosen(("how long is it?", "how far is the bus?", "how big is a box?"))["how"] >= 24
    assert 8 <= chosen(())["how"] <= 22


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1), st.lists(st.text(max_size=30), min_size=1))
def test_no_question_has_no_weight(examples, questions):
    """However people ask, each question has a weight above 0 and below infinity."""
    alike = wording.Likeness(examples, questions)
    assert all(0 < alike.weight(question) < float("inf") for question in questions)


def test_where_people_and_questions_are_alike_all_weigh_the_same():
    """Questions that are worded as the examples are have the weight 1."""
    both = ["how long is it?", "who pays for all of that here?"]
    alike = wording.Likeness(both, both)
    assert [alike.weight(question) for question in both] == [pytest.approx(1.0)] * 2


def test_a_reply_is_read_whatever_is_around_it():
    """Labels, quotes and a second line are no part of a question; a reply without one is refused."""
    assert wording.read_reply('\n New question: "who  pays?"\nAnswer: me') == "who pays?"
    assert wording.read_reply("Question: **who pays?**") == "who pays?"
    with pytest.raises(ValueError, match="no question"):
        wording.read_reply(" \n New question: ")


@pytest.mark.parametrize(
    "reply",
    [
        "**New question:** who pays?",
        "**New question: who pays?**",
        "Here is the reworded question:\n\nwho pays?",
        "Sure! Here you go:\n> who pays?",
        "1. who pays?\n2. who has to?",
        "- who pays?",
        "* `who pays?`",
        "Sure! New question: who pays?",
        "Sure!\n### New question\n“who pays?”",
    ],
)
def test_what_chats_put_around_a_question_is_taken_off(reply):
    """A reply in the usual forms of chats is read: with a label, marks, a bullet or number, or a line that leads in."""
    assert wording.read_reply(reply) == "who pays?"


@pytest.mark.parametrize("reply", ["Sure!", "Here is the question:", "I cannot do that.", "The price of it"])
def test_a_reply_that_asks_nothing_is_refused(reply):
    """A reply without a question is refused, so that it is asked for again."""
    with pytest.raises(ValueError, match="no question"):
        wording.read_reply(reply)


def test_questions_without_a_mark_are_read_where_a_language_has_them():
    """In a language that asks without a mark such a question is read, and so is any language's own mark."""
    assert wording.read_reply("1. 営業時間は何時までですか。") == "営業時間は何時までですか。"
    assert wording.read_reply("New question: كم ثمن الدراجة؟") == "كم ثمن الدراجة؟"


def test_a_line_of_examples_reads_as_the_hint_says(tmp_path):
    """The line that an error shows is one that is read."""
    assert wording.read_examples(write(tmp_path, wording._LINE)) == [json.loads(wording._LINE)["question"]]
