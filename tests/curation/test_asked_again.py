"""Filters that ask a model: each verdict is kept, and a question without one is too."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.curation import clean as cleaning
from raft.curation import reading
from raft.errors import DamagedArtifact, UsageError
from raft.rag.format import ABSTENTION
from raft.settings.sections import Cleaning
from raft.store import artifacts, tables
from raft.testing import HashEmbedder, OverlapRetriever, ScriptedGenerator, make_chunks, make_question

CHUNKS = make_chunks(
    {
        "ferry": [
            "A bicycle costs 4 euros on the Skarn ferry, a car 22 euros.",
            "Tickets are sold by Ines Holm on board.",
        ],
        "mill": ["The mill at Orrest grinds rye because wheat does not ripen there.", "It may be visited on Sundays."],
    }
)
ROWS = {row["chunk_id"]: row for row in CHUNKS.iter_rows(named=True)}
ASKED = [
    make_question(ROWS["ferry#0"], "How much does a car cost on the Skarn ferry?", "4 euros", kind="number"),
    make_question(ROWS["ferry#0"], "How much does a bicycle cost on the Skarn ferry?", "4 euros", kind="number"),
    make_question(ROWS["ferry#1"], "Who sells tickets on board?", "Ines Holm", kind="name"),
    make_question(ROWS["mill#0"], "Why does the mill at Orrest grind rye?", "wheat does not ripen there"),
    make_question(ROWS["mill#1"], "How high is the mill at Orrest?", ABSTENTION, kind="unanswerable"),
]
SAID = {"a car": "22 euros", "a bicycle": "4 euros", "Who sells": "Ines Holm", "Why does": "wheat does not"}


def says(request):
    """Answer as a good reader does."""
    question = request.messages[-1]["content"].rpartition("Question: ")[2]
    return next((said for begin, said in SAID.items() if begin in question), "22 euros")


def clean(rows=ASKED, model=None, held_out=frozenset(), seed=0, **settings):
    """Clean with the filters that the settings ask for."""
    return cleaning.clean(
        tables.frame(tables.QUESTIONS, rows),
        CHUNKS,
        retriever=OverlapRetriever(CHUNKS),
        embedder=HashEmbedder(),
        held_out=held_out,
        min_words=3,
        max_words=40,
        max_answer_words=60,
        similarity=0.99,
        round_trip_k=2,
        judge=None,
        judge_prompt=None,
        judge_minimum=0.6,
        filters=reading.chosen(Cleaning.model_validate(settings), None, seed=seed),
        reader=model or ScriptedGenerator(says),
    )


def test_what_a_reader_answers_otherwise_is_dropped():
    """A question whose golden chunk gives another answer is dropped; what the reader said is kept."""
    cleaned = clean(reader=True)
    assert cleaned["reason"].to_list() == ["read otherwise", None, None, None, None]
    assert [row and row[0]["verdict"] for row in cleaned["readings"].to_list()] == [0.0, 1.0, 1.0, 0.75, None]
    assert cleaned["readings"][0][0]["said"] == "22 euros"


def test_a_reader_is_asked_of_what_is_left():
    """What a cheaper rule drops costs no call, nor does a question that nothing answers."""
    model = ScriptedGenerator(says)
    clean([*ASKED, make_question(ROWS["mill#1"], "Orrest?", "Sundays")], model, reader=True)
    assert len(model.requests) == 4
    assert all("Skarn" in str(one.messages) for one in model.requests[:2])


def test_of_what_is_known_without_documents_a_share_is_kept():
    """What is answered rightly without a document is dropped but for a share, drawn by seed and question."""
    rows = [
        make_question(ROWS["ferry#0"], f"How much does car {n} cost on the Skarn ferry?", "22 euros") for n in range(40)
    ]
    kept = {
        share: set(clean(rows, closed_book_share=share).filter(pl.col("reason").is_null())["question_id"])
        for share in (0.0, 0.4, 1.0)
    }
    assert len(kept[0.0]) == 0
    assert 5 < len(kept[0.4]) < 30
    assert len(kept[1.0]) == 40
    assert kept[0.4] == set(clean(rows[::-1], closed_book_share=0.4).filter(pl.col("reason").is_null())["question_id"])
    assert kept[0.4] != set(
        clean(rows, closed_book_share=0.4, seed=1).filter(pl.col("reason").is_null())["question_id"]
    )


def test_what_is_held_out_or_not_known_stays():
    """A question that is not answered without its document stays, as does each on a document that is held out."""
    assert clean(ASKED[:2], closed_book_share=0.0)["reason"].to_list() == [None, "known without it"]
    assert clean(ASKED[:2], closed_book_share=0.0, held_out=frozenset({"ferry"}))["reason"].to_list() == [None, None]


def test_a_rubric_drops_what_it_says_no_to(tmp_path):
    """One no of a rubric's questions drops a row; each verdict is kept with the words that it rests on."""
    file = tmp_path / "mine.md"
    file.write_text('# Mine\n\n1. Is it said?\n- "Is it about the ferry?"\n', encoding="utf-8")

    def judged(request):
        told = request.messages[-1]["content"]
        assert "1. Is it said?\n2. Is it about the ferry?" in told
        verdict = "no" if "a car cost on the Skarn ferry?" in told.partition("Question:")[2] else "yes"
        return json.dumps({"1": {"words": "rye", "verdict": "yes"}, "2": {"words": "4 euros", "verdict": verdict}})

    model = ScriptedGenerator(judged)
    cleaned = clean(model=model, rubric=str(file))
    assert cleaned["reason"].to_list() == ["judged poor", None, None, None, None]
    assert cleaned["readings"][0].to_list() == [
        {"asked": "Is it said?", "verdict": 1.0, "said": "rye"},
        {"asked": "Is it about the ferry?", "verdict": 0.0, "said": "4 euros"},
    ]
    assert cleaned["readings"][4] is None
    assert clean(model=ScriptedGenerator(lambda _: "yes, all"), rubric="default")["reason"].null_count() == len(ASKED)


@pytest.mark.parametrize(
    ("reply", "verdicts"),
    [
        ('{"1": {"verdict": "Yes", "words": "a"}, "2": {"verdict": "no"}}', [(True, "a"), (False, "")]),
        ('```json\n[{"verdict": true}, {"verdict": "no", "words": "b"}]\n```', [(True, ""), (False, "b")]),
        ('{"rubric": {"1": {"verdict": "no"}, "2": {"verdict": "yes"}}}', [(False, ""), (True, "")]),
        ('{"1": {"verdict": "yes"}}', None),
        ('{"1": {"verdict": "yes"}, "2": {"verdict": "maybe"}}', None),
        ("yes and no", None),
    ],
)
def test_verdicts_are_read_whatever_they_are_wrapped_in(reply, verdicts):
    """Verdicts are read from fences, lists and wrappings; a reply that lacks one is asked for again."""
    if verdicts is None:
        with pytest.raises(ValueError, match="verdict"):
            reading.read_verdicts(reply, 2)
    else:
        assert reading.read_verdicts(reply, 2) == verdicts


@pytest.mark.parametrize("text", ["", "# only a note", "Is it said?\nIt must be said.", None])
def test_a_rubric_without_questions_is_an_error(tmp_path, text):
    """A rubric that is missing, empty, or has a line that is no question is refused with what to write."""
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="rubric") as caught:
        reading.read_rubric(str(file))
    assert caught.value.hint


def test_without_filters_nothing_is_asked_and_no_column_is_added():
    """Unless it is asked for, no model is asked and the table has the columns that it had."""
    model = ScriptedGenerator(says)
    assert clean(model=model).schema == tables.CLEANED
    assert model.requests == []


@pytest.mark.parametrize(
    ("answer", "said", "kind", "low", "high"),
    [
        ("14 kg", "It weighs 14 kg.", "number", 1, 1),
        ("14 kg", "14 kg or 17 kg", "number", 0, 0),
        ("Yes", "Yes, on Sundays.", "decision", 1, 1),
        ("Yes", "No", "decision", 0, 0),
        ("the wet years", "wet years", "fact", 1, 1),
        ("a lamp in the workshop", "in the workshop", "fact", 0.5, 0.99),
        ("a lamp in the workshop", "not stated", "fact", 0, 0),
    ],
)
def test_answers_agree_by_facts_or_else_by_words(answer, said, kind, low, high):
    """Two answers with exact facts agree or don't; others agree by the words that they share."""
    assert low <= reading.agreement(answer, said, kind=kind) <= high


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["fact", "number", "decision", "own"]))
def test_agreement_is_a_share(one, other, kind):
    """Whatever is said, agreement lies between 0 and 1, and what says the same agrees wholly."""
    assert 0.0 <= reading.agreement(one, other, kind=kind) <= 1.0
    assert reading.agreement(one, one, kind=kind) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.permutations(ASKED), st.integers(0, len(ASKED)))
def test_verdicts_depend_on_their_rows_alone(rows, count):
    """Rows in equals rows out, in whatever order and company, and each has the reason that it has among all."""
    told = {"reader": True, "closed_book_share": 0.5}
    reasons = dict(clean(**told)["question_id", "reason"].rows())
    some = clean(rows[:count], **told)
    assert some["question_id"].to_list() == [row["question_id"] for row in rows[:count]]
    assert all(reasons[name] == reason for name, reason in some["question_id", "reason"].rows())


def test_a_table_with_readings_is_stored_and_one_without_is_as_before(tmp_path):
    """What was asked is read again as it was stored; in a table where nothing was, there is no such column."""
    path = tmp_path / "cleaned.parquet"
    for table in (clean(reader=True), clean()):
        artifacts.write(path, table)
        assert artifacts.read(path).equals(table)
        assert next(artifacts.stream(path, ["question_id"])).height == len(ASKED)
    table.with_columns(pl.lit(1).alias("readings")).write_parquet(path)
    with pytest.raises(DamagedArtifact, match="readings"):
        artifacts.read(path)
