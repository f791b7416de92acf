"""Planted duplicates and look-alikes: which questions are one, and how their clusters are shown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.cli import messages
from raft.curation import duplicates
from raft.curation.duplicates import _same
from raft.similarity import near, set_apart, turned_round

APART = [
    ("How much does the depot pay the workshop for a test?", "How much does the workshop pay the depot for a test?"),
    ("May the new buyer inform the seller?", "May the seller inform the new buyer?"),
    ("What is paid for one night away?", "What is paid for two nights away?"),
    ("What is due after the first reminder?", "What is due after the second reminder?"),
    ("Which parcels are returned?", "Which parcels are not returned?"),
    ("How far is it from Moss to Halden?", "How far is it from Halden to Moss?"),
    ("Who may enter the hall before noon?", "Who may enter the hall after noon?"),
    ("How much is charged with an appointment?", "How much is charged without an appointment?"),
    ("How heavy is the Quillon 2?", "How heavy is the Quillon 3?"),
]
TOGETHER = [
    ("How much salt and pepper goes in?", "How much pepper and salt goes in?"),
    ("Who goes from the depot to the harbour?", "Who goes to the harbour from the depot?"),
    ("Who leaves in spring with the team by bus?", "Who leaves by bus with the team in spring?"),
    ("At 60 bar, which pressure does the pump reach?", "Which pressure does the pump reach at 60 bar?"),
    ("In Halden, what did the firm build in 1998?", "In 1998, what did the firm build in Halden?"),
    ("When was the office opened by Orlin?", "When did Orlin open the office?"),
    ("What is the restocking fee?", "what is the restocking  fee ?"),
]


def merged(one, other):
    """Tell whether cleaning merges two questions with one answer from one chunk whose vectors are equal."""
    rows = [
        {"question": text, "answer": "3 euros", "kind": "fact", "golden_chunk_ids": ["c"], "doc_ids": ["d"]}
        for text in (one, other)
    ]
    return bool(_same(rows, np.ones((2, 1), dtype=np.float32), 0.92))


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_asks_for_something_else_is_kept(one, other):
    """Exchanged parts, reversals, numerals and numbers keep two questions apart, even where their vectors are equal."""
    assert not merged(one, other)
    assert not near(one, other)


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_what_asks_for_the_same_is_merged(one, other):
    """Joined words and whole phrases may change places, and punctuation does not matter."""
    assert merged(one, other)


@given(
    st.lists(
        st.sampled_from(["depot", "pays", "the", "shop", "in", "May", "not", "for", "two", "first", "and"]),
        min_size=1,
        max_size=9,
    )
)
def test_nothing_is_apart_from_itself(words):
    """A text is never turned round or set apart from itself, and the order of two texts does not matter."""
    one, other = " ".join(words), " ".join(reversed(words))
    assert not turned_round(one, one) and not set_apart(one, one)
    assert set_apart(one, other) == set_apart(other, one)
    assert turned_round(one, other) == turned_round(other, one)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), max_size=12), st.integers(1, 5))
def test_what_may_mean_the_same_is_what_comparing_each_with_each_finds(drawn, block):
    """Candidates of a row are, in order, the earlier ones near it that have its facts, and its answer or its source."""
    rows = [
        {
            "question": f"What of {number} kg?",
            "answer": f"for {answer} days",
            "kind": "fact",
            "golden_chunk_ids": [f"c{source}"],
            "doc_ids": ["d"],
        }
        for number, answer, source, _ in drawn
    ]
    angles = np.array([0.3 * turn for *_, turn in drawn])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    alike = lambda one, other: one[0] == other[0] and (one[1] == other[1] or one[2] == other[2])  # noqa: E731
    wanted = {
        number: found
        for number, row in enumerate(drawn)
        if (found := [n for n in range(number) if alike(drawn[n], row) and abs(drawn[n][3] - row[3]) < 2])
    }
    found = {}
    for pairs in parts(rows, vectors, block, kept=range(len(rows))):
        found |= pairs
    assert found == wanted


def test_rows_that_all_mean_the_same_are_not_all_paired_with_each_other():
    """Of a thousand rows that say one thing each is compared with those of its block and the one that was kept."""
    row = {"question": "Who?", "answer": "Orlin", "kind": "fact", "golden_chunk_ids": ["c"], "doc_ids": ["d"]}
    vectors = np.tile(np.array([1, 0], dtype=np.float32), (1000, 1))
    found = [*parts([row] * 1000, vectors, 20, kept=[0])]
    assert sum(len(others) for pairs in found for others in pairs.values()) < 1000 * 20


def parts(rows, vectors, block, kept):
    """Yield the pairs of each block of rows, and then keep those of it that are to be."""
    alike = duplicates._Alike(rows, vectors, 0.9)
    for start in range(0, len(rows), block):
        part = range(start, min(start + block, len(rows)))
        yield alike.pairs(part)
        for number in part:
            if number in kept:
                alike.keep(number)


def test_clusters_are_shown_with_what_was_kept_first():
    """A cluster names the kept question, then those dropped for it with their cosine, or "same" for equal words."""
    rows = [
        {"question": f"Q{n}?", "answer": "3", "question_id": f"q{n}", "scores": {"similarity": None}} for n in range(3)
    ]
    rows[1]["scores"]["similarity"] = 0.954
    (text,) = messages.duplicates([{"kept": rows[0], "dropped": rows[1:]}])
    assert [line.split()[0] for line in text.strip().split("\n")] == ["3", "kept", "0.95", "same"]
