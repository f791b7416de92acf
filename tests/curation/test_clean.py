"""Cleaning: each question with a reason, none deleted."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import prompts
from raft import similarity as duplicates
from raft.curation import clean as cleaning
from raft.curation.reading import read_mark
from raft.rag.format import ABSTENTION
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, ScriptedGenerator, make_chunks, make_question

CHUNKS = make_chunks(
    {
        "warranty": [
            "The Quillon 2 heater weighs 14 kg and has a warranty of 3 years.",
            "The Quillon 3 heater weighs 17 kg and has a warranty of 5 years.",
            "Maria Lopez signs every warranty claim before 12 March 2026.",
        ],
        "leave": [
            "Employees have 25 days of paid leave a year, and managers approve the dates.",
            "To ask for leave, fill in form L-7 and send it to the office.",
            "Office plants are watered on Fridays.",
        ],
        "travel": [
            "Hotels in Oslo may cost 180 euros a night.",
            "Trains are booked in second class.",
            "Receipts are kept for six years.",
        ],
    }
)
ROWS = {row["chunk_id"]: row for row in CHUNKS.iter_rows(named=True)}


def ask(chunk_id, question, answer, kind="fact", **changes):
    """Return a question on one of the chunks."""
    return {**make_question(ROWS[chunk_id], question, answer, kind=kind), **changes}


GOOD = [
    ask("warranty#0", "How heavy is the Quillon 2 heater?", "14 kg", "number"),
    ask("warranty#1", "How heavy is the Quillon 3 heater?", "17 kg", "number"),
    ask("warranty#2", "Who signs the warranty claims?", "Maria Lopez", "name"),
    ask("leave#0", "How many days of paid leave do employees have?", "25 days", "number"),
    ask("leave#1", "List the steps to ask for leave.", "Fill in form L-7 and send it to the office", "procedure"),
    ask("travel#0", "May a hotel in Oslo cost 150 euros a night?", "Yes", "decision"),
    ask("travel#1", "In which class are trains booked?", "second class"),
    ask("travel#2", "How high is the dog allowance in Oslo?", ABSTENTION, "unanswerable"),
]
BAD = [
    ("malformed", ask("leave#0", "Sure! Here is one: who approves the dates?", "managers")),
    ("malformed", ask("leave#0", "Question: Who approves the dates of leave?", "managers")),
    ("malformed", ask("leave#0", '{"question": "Who approves the dates?"}', "managers")),
    ("malformed", ask("leave#0", "Who approves leave? Who approves the dates?", "managers")),
    ("malformed", ask("leave#0", "Who approves leave leave leave for employees?", "managers")),
    ("malformed", ask("leave#0", "Who approves the dates of the", "managers")),
    ("malformed", ask("leave#0", "Who approves the dates of leave?", " ")),
    ("malformed", ask("leave#0", "Who approves the dog allowance?", "nobody", "unanswerable")),
    ("too short", ask("leave#0", "Who approves?", "managers")),
    (
        "too long",
        ask("leave#0", f"Who approves {'the long and dreary dates ' * 2}of {'a b c d e f g ' * 5}?", "managers"),
    ),
    ("not a question", ask("leave#0", "Managers approve the dates of leave.", "managers")),
    ("not a question", ask("leave#1", "List the form for leave.", "form L-7")),
    ("does not stand alone", ask("leave#0", "Who is named in the passage on leave?", "managers")),
    ("does not stand alone", ask("leave#0", "According to the document, who approves dates?", "managers")),
    ("does not stand alone", ask("leave#0", "How many days do they have?", "25 days")),
    ("does not stand alone", ask("leave#0", "Who approves the dates mentioned above?", "managers")),
    ("answer not in chunk", ask("leave#0", "How much paid leave do managers have?", "30 days", "number")),
    ("answer not in chunk", ask("leave#0", "How do the leaves compare in days?", "25 and 31 days", "comparison")),
    ("quote not verbatim", ask("leave#0", "How much paid leave do employees have?", "25 days", "number", quotes=[])),
    ("gives the answer away", ask("leave#0", "Do managers or others approve the dates of leave?", "managers")),
]


def clean(rows, chunks=CHUNKS, **changes):
    """Clean with the fakes and everyday settings."""
    table = rows if isinstance(rows, pl.DataFrame) else tables.frame(tables.QUESTIONS, rows)
    usual = {
        "retriever": OverlapRetriever(chunks),
        "embedder": HashEmbedder(),
        "held_out": frozenset(),
        "min_words": 4,
        "max_words": 40,
        "max_answer_words": 60,
        "similarity": 0.92,
        "round_trip_k": 3,
        "judge": None,
        "judge_prompt": None,
        "judge_minimum": 0.6,
    }
    return cleaning.clean(table, chunks, **{**usual, **changes})


def reasons(rows, **changes):
    """Return the reason of each row."""
    return clean(rows, **changes)["reason"].to_list()


def quote(chunk_id, text, start=0):
    """Return a quote at the beginning of a chunk."""
    return {"chunk_id": chunk_id, "start": start, "end": start + len(text), "text": text}


def test_good_questions_are_kept():
    """A question that stands alone, with its answer and its quote in its chunk, is kept."""
    cleaned = clean(GOOD)
    assert cleaned.schema == tables.CLEANED
    assert cleaned["reason"].to_list() == [None] * len(GOOD)
    assert cleaned["split"].null_count() == cleaned["original_quotes"].null_count() == len(GOOD)


@pytest.mark.parametrize(("reason", "row"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_questions_are_named(reason, row):
    """Each kind of bad question is dropped with the reason that says what is wrong."""
    assert reasons([row]) == [reason]


@pytest.mark.parametrize(
    "question",
    [
        "How long does it take to get leave?",
        "Is it possible to have paid leave?",
        "What happens above 40 °C in the office?",
        "When must employees ask before they travel?",
        "What must the document of leave contain?",
        "What's the company's rule on leave?",
        "If managers agree, how much leave is paid?",
        "Prior to the summer, who has leave?",
        "Employees have leave on how many days?",
        "Leave of employees: is it paid by managers?",
        "What is it called when managers approve dates?",
        "What do managers have that other employees miss?",
    ],
)
def test_questions_that_only_look_unresolved_are_kept(question):
    """A dummy it, a pronoun with its noun in the question, or a word such as document does not drop a question."""
    assert reasons([ask("leave#0", question, "Yes", "decision")], round_trip_k=9, held_out={"leave"}) == [None]


def test_a_near_quote_is_repaired():
    """A quote with a slip becomes the chunk's own words, and what came is kept beside it."""
    came = [quote("leave#0", "Employees have 25 days of payed leave a year")]
    row = clean([{**GOOD[3], "quotes": came}]).row(0, named=True)
    (repaired,) = row["quotes"]
    assert ROWS["leave#0"]["text"][repaired["start"] : repaired["end"]] == repaired["text"]
    assert repaired["text"].startswith("Employees have 25 days of paid leave a year")
    assert row["original_quotes"] == came
    assert row["reason"] is None


def test_a_quote_with_another_figure_is_not_repaired():
    """A quote that changes a number is another claim, and drops the question."""
    came = [quote("leave#0", "Employees have 26 days of paid leave a year")]
    row = clean([{**GOOD[3], "quotes": came}]).row(0, named=True)
    assert (row["reason"], row["quotes"], row["original_quotes"]) == ("quote not verbatim", came, None)


def test_look_alikes_with_other_numbers_or_names_are_no_duplicates():
    """Questions on two products are two questions, however alike they sound."""
    rows = [*GOOD[:2], ask("travel#0", "Which hotels in Oslo cost 180 euros?", "Hotels in Oslo", "decision")]
    assert reasons(rows[:2], similarity=0.1) == [None, None]
    assert not duplicates.near("Who signs the Aster contract?", "Who signs the Basel contract?")
    assert not duplicates.near("What is the maximum speed of the fan?", "What is the minimum speed of the fan?")
    assert not duplicates.near("Can opened goods be returned?", "Cannot opened goods be returned?")
    assert not duplicates.near("Did Aster defeat Basel?", "Did Basel defeat Aster?")
    assert not duplicates.near("Did New Aster sue Basel Ltd in Moss?", "In Moss, did Basel Ltd sue New Aster?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do Aster and Basel differ?", "How do Basel and Aster differ?"),
        ("What does the Aster cost in Moss?", "In Moss, what does the Aster cost?"),
        ("Did Aster or Basel pay Moss?", "Did Basel or Aster pay Moss?"),
    ],
)
def test_names_that_change_places_without_parts_are_the_same_question(one, other):
    """Joined names have no order, and a name keeps its part where the word before it goes along."""
    assert duplicates.near(one, other)


def test_duplicates_name_the_one_that_is_kept():
    """Exact, reworded and similar questions are dropped for the one that says most, never for one that is dropped."""
    same = [
        ask("leave#0", "How many days of paid leave do employees have?", "25 days"),
        ask("leave#0", "how many days of paid leave do employees have ?", "25 days", "number"),
        ask("leave#0", "How many days of paid leaves do employees have?", "25 days"),
        ask("leave#0", "How many paid days of leave do the employees have each year?", "25 days"),
    ]
    cleaned = clean(same, similarity=0.7)
    assert cleaned["reason"].to_list() == ["duplicate", "duplicate", "duplicate", None]
    assert set(cleaned["duplicate_of"].to_list()) == {same[3]["question_id"], None}


def test_one_question_with_two_answers_of_one_chunk_is_two_questions():
    """Similar questions on one chunk with different answers are both kept."""
    rows = [
        ask("warranty#0", "How heavy, all in all, is the Quillon 2 heater?", "14 kg"),
        ask("warranty#0", "How old, all in all, is the Quillon 2 heater?", "3 years"),
    ]
    assert reasons(rows, similarity=0.5) == [None, None]


def test_round_trip_drops_what_the_retriever_does_not_find():
    """A question whose golden chunk is not among the results is dropped, and the rank of one that is found is noted."""
    lost = ask("leave#1", "Which heater is heavy, the Quillon 2 or the Quillon 3?", "Form L-7", "decision")
    cleaned = clean([lost, GOOD[0]])
    assert cleaned["reason"].to_list() == ["round trip", None]
    assert [scores["golden_rank"] for scores in cleaned["scores"]] == [None, 1]


def test_round_trip_spares_held_out_documents_and_unanswerable_questions():
    """No rule that asks the retriever drops a question on a held-out document, or one without golden chunks."""
    lost = ask("leave#1", "Which heater is heavy, the Quillon 2 or the Quillon 3?", "Form L-7", "decision")
    assert reasons([lost, GOOD[-1]], held_out=frozenset({"leave"})) == [None, None]


def test_round_trip_accepts_a_copy_of_the_golden_chunk():
    """Finding a chunk that repeats the golden one counts as finding it."""
    chunks = make_chunks({"a": ["Leave is 25 days."], "b": ["Leave is 25 days."], "c": ["Plants are watered."]})
    row = make_question(chunks.row(1, named=True), "How many days is the leave?", "25 days")
    cleaned = clean([row], chunks, round_trip_k=1)
    assert (cleaned["reason"][0], cleaned["scores"][0]["golden_rank"]) == (None, 1)


def test_the_golden_chunks_are_all_that_cleaning_reads():
    """Questions are cleaned alike whether all chunks are given or the golden ones alone."""
    golden = CHUNKS.filter(pl.col("chunk_id").is_in([name for row in GOOD for name in row["golden_chunk_ids"]]))
    assert clean(GOOD, golden, retriever=OverlapRetriever(CHUNKS)).equals(clean(GOOD))


def test_a_comparison_needs_all_its_chunks():
    """A question with two golden chunks is kept only if both are found, even where few results are asked for."""
    both = {"golden_chunk_ids": ["warranty#0", "warranty#1"]}
    good = ask("warranty#0", "Which heater is heavier, the Quillon 2 or the Quillon 3?", "the second", "comparison")
    assert reasons([{**good, **both}], round_trip_k=1) == [None]
    assert reasons([{**good, "golden_chunk_ids": ["warranty#0", "leave#0"]}]) == ["round trip"]


def test_the_judge_drops_what_it_marks_low():
    """A question marked below the minimum is dropped; the mark, from 0 to 1, is noted."""
    judge = ScriptedGenerator(lambda request: json.dumps({"mark": 2 if "Lopez" in str(request.messages) else 4}))
    cleaned = clean([GOOD[2], GOOD[3], GOOD[-1]], judge=judge, judge_prompt=prompts.load("judge"))
    assert cleaned["reason"].to_list() == ["judged poor", None, None]
    assert [scores["judge"] for scores in cleaned["scores"]] == [0.25, 0.75, None]


def test_a_judge_that_cannot_answer_drops_nothing():
    """A question whose mark could not be had is kept without one."""
    judge = ScriptedGenerator(lambda _: "five stars")
    cleaned = clean([GOOD[2]], judge=judge, judge_prompt=prompts.load("judge"))
    assert cleaned.select("reason").row(0) == (None,)
    assert cleaned["scores"][0]["judge"] is None


@pytest.mark.parametrize("reply", ["", "5", "{5}", '{"mark": 6}', '{"mark": true}', '{"note": 1}', "x " + "[" * 60_000])
def test_only_a_mark_from_one_to_five_is_a_mark(reply):
    """A reply without a mark in range is refused, so that it is asked for again."""
    with pytest.raises(ValueError):
        read_mark(reply)


@pytest.mark.parametrize(
    "reply",
    [
        '{"mark": 4}',
        '{"Mark": "4"}',
        '{"mark": 4.0, "why": "{clumsy}"}',
        '```json\n{"mark": 4}\n```',
        'It reads [well]: {"mark": 4}. Anything {else}?',
        "{'mark': 4,}",
        '{"result": {"mark": "4/5"}}',
        '[{"score": 4}]',
        "**Mark:** 4",
    ],
)
def test_a_mark_is_read_whatever_it_is_wrapped_in(reply):
    """A judge's mark is not lost for a fence, a note, quotes or capitals."""
    assert read_mark(reply) == 0.75


def test_a_dropped_question_knows_how_alike_the_kept_one_is():
    """A duplicate in other words has its cosine with the kept question; neither has what is kept or has its words."""
    texts = [
        "How many paid days of leave do the employees have each year?",
        "how many paid days of leave do the employees have each year ?",
        "How many days of paid leave do employees have?",
    ]
    same = [ask("leave#0", text, "25 days") for text in texts]
    cosine = float(np.prod(HashEmbedder().embed([texts[0], texts[2]]), axis=0).sum())
    found = {(row["reason"], row["scores"]["similarity"]) for row in clean(same, similarity=0.7).iter_rows(named=True)}
    assert found == {(None, None), ("duplicate", None), ("duplicate", round(cosine, 4))}


def test_no_questions_are_no_problem():
    """An empty table stays an empty table."""
    assert clean([]).schema == tables.CLEANED


POOL = [*GOOD, *(row for _, row in BAD)]
WORDS = [
    "how",
    "many",
    "days",
    "of",
    "paid",
    "leave",
    "do",
    "employees",
    "the",
    "Quillon",
    "2",
    "3",
    "heater",
    "is",
    "it",
]
QUESTION = st.lists(st.sampled_from(WORDS), min_size=3, max_size=9).map(lambda words: f"What {' '.join(words)}?")
MADE = st.builds(
    ask,
    st.sampled_from(["leave#0", "warranty#0", "warranty#1"]),
    QUESTION,
    st.sampled_from(["25 days", "14 kg", "17 kg", "Yes"]),
)
TABLES = st.lists(st.one_of(st.sampled_from(POOL), MADE), max_size=12, unique_by=lambda row: row["question_id"])


@settings(max_examples=40, deadline=None)
@given(TABLES, st.sampled_from([0.3, 0.92]))
def test_rows_in_equals_rows_out(rows, similarity):
    """Rows and their order stay; a duplicate names a kept row, and only a duplicate names one."""
    cleaned = clean(rows, similarity=similarity)
    assert cleaned["question_id"].to_list() == [row["question_id"] for row in rows]
    kept = set(cleaned.filter(pl.col("reason").is_null())["question_id"])
    for row in cleaned.iter_rows(named=True):
        assert (row["duplicate_of"] in kept) == (row["reason"] == "duplicate")


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_cleaning_again_keeps_what_was_kept(rows):
    """What was kept is kept again, with nothing left to repair."""
    kept = clean(rows).filter(pl.col("reason").is_null())
    again = clean(kept.select(tables.QUESTIONS.names()))
    assert again["reason"].to_list() == again["original_quotes"].to_list() == [None] * len(kept)


@settings(max_examples=25, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_reason(rows, chance):
    """Each question has the same reason wherever it stands in the table."""
    shuffled = chance.sample(rows, len(rows))
    one, two = clean(rows), clean(shuffled)
    assert one.sort("question_id").equals(two.sort("question_id"))


@given(st.lists(QUESTION, max_size=12), QUESTION)
def test_the_index_finds_what_a_comparison_with_each_would(questions, asked):
    """The index of near questions finds each one that is near, in order."""
    index = duplicates.NearIndex([*questions, asked])
    for question in questions:
        index.add(question)
    expected = [number for number, question in enumerate(questions) if duplicates.near(asked, question)]
    assert set(index.find(asked)) <= set(expected)
    same = [number for number in expected if questions[number] == asked]
    assert set(same) <= set(index.find(asked))


@given(st.text(), st.text())
def test_nearness_is_reflexive_and_symmetric(one, other):
    """A question is near itself, and nearness has no direction."""
    assert duplicates.near(one, one)
    assert duplicates.same_marks(one, one)
    assert not duplicates.conflicting(one, one)
    assert duplicates.near(one, other) == duplicates.near(other, one)
    assert duplicates.same_answer(one, other) == duplicates.same_answer(other, one)


@pytest.mark.parametrize(
    ("source", "answer"),
    [("the building after hours (6pm-6am)", "6am"), ("will cost more than $10,000._ For these", "$10,000")],
)
def test_an_answer_that_stands_there_as_it_is_is_in_the_chunk(source, answer):
    """An answer beside a hyphen or markup is found; a part of a longer number is not."""
    assert cleaning.supported(answer, source, share=0.8)
    assert not cleaning.supported("10", "it costs 1,100 euros and 210 cents", share=0.8)
