"""Questions turned round: one word is replaced by its contrary, and only where the text answers both."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.generation.yes_no import OPPOSITES, goes_one_way, reversed_question


@pytest.mark.parametrize(
    ("question", "statement", "turned"),
    [
        ("Did the rate decrease?", "The rate decreased by 5 %.", "Did the rate increase?"),
        ("Is the risk higher in men?", "Men had a higher risk.", "Is the risk lower in men?"),
        ("Is there an increased risk?", "There was an increased risk.", "Is there a decreased risk?"),
        ("Is there a reduction of noise?", "It leads to a reduction of noise.", "Is there an increase of noise?"),
        ("More than 5 kg?", "It weighs more than 5 kg.", "Less than 5 kg?"),
        ("Does it improve sleep?", "It was found to improve sleep.", "Does it worsen sleep?"),
        ("Is the fee above 5 euros?", "The fee is above 5 euros.", "Is the fee below 5 euros?"),
    ],
)
def test_one_word_is_turned_round(question, statement, turned):
    """The word is replaced by its contrary, in its form, with the article that it needs; the rest stays."""
    assert reversed_question(question, statement) == turned


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("Did the rate change?", "The rate decreased."),
        ("Are higher fees worse?", "Higher fees are worse."),
        ("Is the rate higher?", "The rate was measured."),
        ("Is A higher than B?", "A was higher in the north, and lower in the south."),
        ("Does the lower limb hurt?", "The lower limb hurts."),
        ("Did the rate increase, more or less?", "The rate increased, more or less."),
        ("Is it a well-above-average result?", "It is a well-above-average result."),
        ("Is the lower back painful?", "The lower back is painful."),
    ],
)
def test_what_has_no_clear_contrary_stays(question, statement):
    """No such word, several, one that the text lacks or takes back, and the lower back: nothing is turned round."""
    assert reversed_question(question, statement) is None


@given(st.sampled_from(sorted(OPPOSITES)), st.sampled_from(["", "a ", "an ", "the "]))
def test_only_that_word_and_its_article_change(word, article):
    """Whichever word it is, it is replaced once, and all others stay."""
    question = f"Was {article}{word} value found in the west?"
    turned = reversed_question(question, f"In the west they found {word} values.")
    assert OPPOSITES[word] in turned.split()
    left, right = (re.sub(r"\ban? ", "", text) for text in (question, turned))
    assert left.replace(word, OPPOSITES[word], 1) == right


def test_a_statement_that_says_both_goes_no_way():
    """A statement with a word and its contrary, in whichever form, tells nothing that can be turned round."""
    assert goes_one_way("The rate increased.")
    assert not goes_one_way("The rate increased, and then it was decreasing.")
    assert not goes_one_way("The rate was measured.")
