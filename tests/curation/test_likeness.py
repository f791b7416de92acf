"""Likeness: how far generated questions are from people's, in figures that can be counted by hand."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from raft.curation.likeness import likeness
from raft.report.figures import wording_shown
from raft.store import tables
from raft.text import normalise

CHUNKS = pl.DataFrame(
    {
        "chunk_id": ["a#0", "a#1", "b#0"],
        "doc_id": ["a", "a", "b"],
        "heading": ["Pumps", "Pumps > Winter", "Desk"],
        "text": ["The Delta pump weighs 7.5 kg.", "Empty the pump before 15 November.", "The desk opens at 08:15."],
        "boilerplate": [False, False, False],
    }
)
PATHS = {"a": "pumps.md", "b": "desk.md"}


def kept(*questions):
    """Return rows of cleaned.parquet about the first chunk."""
    rows = [
        {"question_id": str(number), "question": text, "kind": "number", "golden_chunk_ids": ["a#0"]}
        for number, text in enumerate(questions)
    ]
    return tables.frame(tables.CLEANED, rows)


def own(*rows):
    """Return a user's own questions, each with its answer and document."""
    names = ("question", "answers", "document")
    given = [dict(zip(names, row, strict=True)) for row in rows]
    return tables.frame(tables.EVALUATION, [{**row, "question_id": str(n)} for n, row in enumerate(given)])


def test_words_of_the_passage_are_counted():
    """Half of one question's content words stand in its passage, by their stems, and all of the other's."""
    found = likeness(kept("What do Delta pumps weigh?", "How heavy is the big Delta pump?"), None, [CHUNKS], PATHS)
    assert found["generated"]["overlap"] == {"of": 2, "mean": 0.75, "all": 0.5}
    assert found["generated"]["begin"] == {"how": 0.5, "what": 0.5}
    assert found["generated"]["words"][1] == 6
    assert "own" not in found


def test_own_questions_are_measured_in_the_chunk_that_bears_their_answer():
    """An answer is looked for in the document that is named, or in all; one that stands nowhere is not measured."""
    asked = own(
        ("When does the desk open?", ["08:15"], None),
        ("By which day is the pump emptied?", ["15 November"], "pumps.md"),
        ("By which day is the pump emptied?", ["15 November"], "desk.md"),
        ("Is there coffee?", [], None),
    )
    found = likeness(kept("What do Delta pumps weigh?"), asked, [CHUNKS.head(1), CHUNKS.tail(2)], PATHS)
    assert found["own"]["questions"] == 4
    assert found["own"]["overlap"]["of"] == 2
    assert found["own"]["begin"]["by"] == 0.5
    said = wording_shown(found)
    assert [whose for whose, _, _ in said] == ["the kept ones", "your own"]
    assert "of 2)" in said[1][1]


@given(st.lists(st.text("ab7. ", max_size=8), max_size=4), st.lists(st.text("ab7. ", max_size=30), max_size=4))
def test_an_answer_is_found_wherever_it_stands(answers, texts):
    """A question has a source where a text has one of its answers word for word, and nowhere else."""
    count = len(texts)
    chunks = pl.DataFrame(
        {
            "chunk_id": [str(number) for number in range(count)],
            "doc_id": ["a"] * count,
            "heading": [""] * count,
            "text": texts,
            "boilerplate": [False] * count,
        },
        schema=CHUNKS.schema,
    )
    found = likeness(kept("What?"), own(("What?", answers, None)), [chunks], PATHS)["own"]
    plain = [normalise(one) for one in answers if len(one) >= 3]
    assert ("overlap" in found) == any(f" {one} " in f" {normalise(text)} " for one in plain if one for text in texts)


@given(st.lists(st.text("abc ?", max_size=12), max_size=8))
def test_any_questions_have_figures(questions):
    """Shares are from 0 to 1 and quartiles in order, whatever the questions, and none are no error."""
    found = likeness(kept(*questions), own(*((one, ["7.5 kg"], None) for one in questions)), [CHUNKS], PATHS)
    for one in found.values():
        assert one["questions"] == len(questions)
        low, middle, high = one["words"]
        assert low <= middle <= high
        shares = [*one["begin"].values(), *(one.get("overlap", {}).get(name, 0) for name in ("mean", "all"))]
        assert all(0 <= share <= 1 for share in shares)
    assert len(wording_shown(found)) == len(found)
