"""How long answers are: training rows against references, and against a user's examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.evaluation.lengths import apart, typical, unlike_examples
from raft.rag.format import ABSTENTION

FACTS = ["30 days", "Marta Quill", "7.5 kg"]
SENTENCES = ["One hands in a written notice, which then counts from the end of the quarter in which it came in."] * 3


def test_facts_against_sentences_are_told():
    """Training answers of two words and references of a sentence differ, either way round; alike ones do not."""
    assert "the training answers have 2 words at the median, the references 20" in apart(FACTS, SENTENCES)
    assert "the training answers have 20 words at the median, the references 2" in apart(SENTENCES, FACTS)
    assert apart(FACTS, FACTS[:1]) is apart(SENTENCES, SENTENCES) is None


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_what_differs_does_so_by_words_and_by_times(one, other):
    """Nothing is told where medians are within five words, or neither is three times the other; and it is symmetric."""
    trained, asked = ([" ".join(["word"] * count) for count in counts] for counts in (one, other))
    low, high = sorted([typical(trained), typical(asked)])
    assert (apart(trained, asked) is None) == (high - low < 5 or high < 3 * low)
    assert (apart(asked, trained) is None) == (apart(trained, asked) is None)


def test_refusals_have_no_length():
    """An abstention is no answer whose length counts, and without any answer nothing is told."""
    assert typical([ABSTENTION, "30 days"]) == 2
    assert typical([ABSTENTION]) is None
    assert apart([ABSTENTION], SENTENCES) is None


@pytest.mark.parametrize(
    ("examples", "kinds", "told"),
    [
        (SENTENCES[:1], ["fact", "number"], True),
        (SENTENCES[:1], ["fact", "explanation"], False),
        (SENTENCES[:1], ["procedure"], False),
        (FACTS[:2], ["fact"], False),
        ([], ["fact"], False),
    ],
)
def test_examples_of_sentences_want_a_kind_that_has_them(examples, kinds, told):
    """Long examples beside kinds that are answered in some words are told, with the setting that asks for sentences."""
    said = unlike_examples(examples, kinds)
    assert (said is not None) == told
    assert not told or "questions.kinds=[explanation]" in said
