"""When to refuse: what a head learns, and what its threshold promises."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raft import logistic, prompts
from raft.rag import refusal
from raft.rag.grounding import Passage, ceiled, relevance
from raft.rag.refusal import SURE, Head, Learned, Linear, Seen, by_head, by_rule, learn, question_digest, threshold
from raft.testing import HashEmbedder

EMBED = HashEmbedder().embed
SHARES = st.floats(0, 1, allow_nan=False, width=32)


def passage(text, title=""):
    """Return a passage."""
    return Passage(text, "d", "d.md", title, None, 0, text)


def head(unanswerable, signals=None, reading=None):
    """Return a head that goes by words alone, or by these parts."""
    words = Linear(centre=(0.5, 0, 0), spread=(0.1, 1, 1), weights=(1.0, 0.0, 0.0), bias=0.0)
    return Head(
        embedder="e",
        reader=None,
        hybrid=True,
        k=2,
        signals=signals or words,
        reading=reading,
        questions=20,
        whose="the run's",
        answerable=(),
        unanswerable=unanswerable,
    )


def test_a_promise_is_broken_as_rarely_as_it_says():
    """Over 1,000 draws of questions, more than the promised share is answered in about 5 percent of them at most."""
    draw = np.random.default_rng(0)
    for rate, count in ((0.1, 100), (0.2, 60), (0.05, 300)):
        broken = 0
        for _ in range(1000):
            least, promised = threshold(draw.normal(size=count).tolist(), rate)
            answered = 0.5 * math.erfc(least / math.sqrt(2))  # the share of all questions that reaches it
            assert promised == rate
            broken += answered > rate
        assert broken / 1000 <= 1 - SURE + 0.015  # two standard deviations of a share of 1,000


def test_a_threshold_is_as_low_as_the_promise_allows():
    """Of 100 unanswerable questions four may pass for 10 percent: a fifth would break Clopper and Pearson's bound."""
    least, promised = threshold([one / 100 for one in range(100)], 0.1)
    assert (sum(one / 100 >= least for one in range(100)), promised) == (4, 0.1)
    assert threshold([0.5] * 28, 0.1)[1] == pytest.approx(1 - 0.05 ** (1 / 28))
    assert threshold([0.5] * 29, 0.1)[1] == 0.1


@given(st.lists(SHARES, min_size=1, max_size=200), st.floats(0.01, 0.5))
def test_no_more_pass_than_a_promise_bears(scores, rate):
    """Whatever the scores, ties among them, those that pass prove the promised share, and a larger one lets in more."""
    least, promised = threshold(scores, rate)
    passing = sum(score >= least for score in scores)
    count, hits = len(scores), range(passing + 1)
    at_most = sum(math.comb(count, one) * promised**one * (1 - promised) ** (count - one) for one in hits)
    assert at_most <= 1 - SURE + 1e-9
    assert promised >= rate
    assert threshold(scores, min(0.9, 2 * rate))[0] <= least


def test_a_head_learns_what_tells_passages_that_bear_an_answer():
    """By signals alone, and better with states that say more, new passages that bear an answer score higher."""
    draw = np.random.default_rng(1)
    bears = np.arange(200) % 2 == 0
    columns = draw.normal(size=(200, 3)) + bears[:, None] * [1.2, 0.8, 0.0]
    states = draw.normal(size=(200, 300)) + 4 * bears[:, None] * (np.arange(300) == 7)
    folds = np.arange(200) // 2 % 5
    plain, read = (
        learn(columns[:150], None, bears[:150], folds[:150]),
        learn(columns[:150], states[:150], bears[:150], folds[:150]),
    )
    assert plain.reading is None
    right = []
    for learned, seen in ((plain, None), (read, states[150:])):
        likely = learned.probabilities(columns[150:], seen)
        right.append(np.mean(likely[bears[150:]][:, None] > likely[~bears[150:]]))
    assert 0.7 < right[0] < right[1]
    assert read.signals.weights[3] > 0


def test_a_score_is_that_of_the_best_passage():
    """Several passages score as the best of them alone does, in any order, and none at all scores 0."""
    question = "How long is the warranty of the pump?"
    good, bad = passage("The warranty of the pump is long: 3 years."), passage("Lunch is at noon.")
    found = head((0.5,)).scores([question] * 5, [[good], [bad], [bad, good], [good, bad], []], Seen(EMBED))
    assert found[0] == found[2] == found[3] > found[1]
    assert found[4] == 0.0


def test_more_passages_than_a_threshold_was_set_on_change_nothing():
    """A head that was set on two passages looks at the first two of more: else more questions would pass by chance."""
    question = "How long is the warranty of the pump?"
    bad, good = passage("Lunch is at noon."), passage("The warranty of the pump is long: 3 years.")
    other = passage("Dinner is at eight.")
    found = head((0.5,)).scores([question] * 2, [[bad, other, good], [bad, other]], Seen(EMBED))
    assert found[0] == found[1]


def test_scores_that_are_next_to_nothing_do_not_pass():
    """Where all that is unanswerable scores 0, a score that rounds to 0 is refused as well."""
    far = Linear(centre=(0.0, 0.0, 0.0), spread=(1.0, 1.0, 1.0), weights=(0.0, 0.0, 0.0), bias=-30.0)
    made = by_head(head((0.0,) * 40, signals=far), Seen(EMBED), 0.1)
    assert made.under(["How long?"], [[passage("Lunch is at noon.")]]) == [0.0]


def test_a_refusal_by_head_keeps_its_threshold_and_its_promise():
    """What does not reach the threshold is told with its score; what does is None."""
    scores = [one / 100 for one in range(100)]
    made = by_head(head(scores), Seen(EMBED), 0.1)
    question = "How long is the warranty of the pump?"
    shown = [[passage("The warranty of the pump is long: 3 years.")], [passage("Lunch is at noon.")]]
    first, second = made.scores([question] * 2, shown)
    assert second < made.least <= first
    assert made.under([question] * 2, shown) == [None, second]
    assert (made.least, made.promised) == threshold(scores, 0.1)
    assert made.identity != by_head(head((0.5,)), Seen(EMBED), 0.1).identity


def test_the_rule_is_relevance_with_a_chosen_threshold():
    """Without a head the score is `relevance`, and nothing is promised."""
    shown = [[passage("Pumps are delivered within 3 days.")]]
    made, asked = by_rule(0.99, EMBED), ["When are pumps delivered?"]
    assert made.under(asked, shown) == made.scores(asked, shown) == relevance(asked, shown, EMBED)
    assert (made.promised, made.identity) == (None, "")


def test_a_head_is_read_as_it_was_written():
    """A head comes back from its file as it was; one whose parts don't fit together is refused."""
    made = head((0.25, 0.5))
    assert Head.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError, match="a signal too many or too few"):
        head((0.25, 0.5), reading=Linear(centre=(0.0,), spread=(1.0,), weights=(0.5,), bias=0.1))
    with pytest.raises(ValidationError, match="one centre, one spread and one weight"):
        Linear(centre=(0.0, 0.0), spread=(1.0,), weights=(1.0,), bias=0.0)
    with pytest.raises(ValidationError):
        head(())


def test_a_reader_is_shown_the_passage_and_the_question():
    """The reader's prompt has the passage under its title, then the question, and nothing of a reply."""
    system, user = refusal.asked(prompts.load("stated"), " How long?  ", passage("It is long.", "The pump"))
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].index("[1] The pump\nIt is long.") < user["content"].index("Question: How long?\n")


def test_a_logistic_regression_finds_the_least_loss():
    """With more columns than rows as with fewer, what is fitted has the least penalised loss: no step lowers it."""
    draw = np.random.default_rng(2)
    for rows, columns in ((80, 5), (40, 120)):
        values = draw.normal(2.0, 3.0, size=(rows, columns))
        yes = values[:, 0] + draw.normal(size=rows) > 2
        found = logistic.fit(values, yes, ridge=3.0)
        standard = (values - found.centre) / found.spread
        slope = standard.T @ (found.probabilities(values) - yes) + 3.0 * found.weights
        assert np.abs(slope).max() < 1e-6
        assert abs((found.probabilities(values) - yes).sum()) < 1e-6
    with pytest.raises(ValueError, match="one sort"):
        logistic.fit(np.ones((3, 2)), np.array([True] * 3))


def test_a_promise_is_never_shown_better_than_it_is():
    """Shares are rounded up in words: what proves 10.15 percent does not say 10."""
    assert [ceiled(one) for one in (0.1, 0.1015, 0.05, 1.0, 0.0)] == ["10 %", "10.2 %", "5 %", "100 %", "0 %"]


def test_a_question_is_known_however_it_is_spelled():
    """Case, spaces and marks at the end make no other question."""
    assert (
        question_digest("How  long is it?") == question_digest("how long is it") != question_digest("How wide is it?")
    )


def test_what_was_fitted_survives_a_file():
    """Rounded to six digits, a fitted regression says the same to four."""
    draw = np.random.default_rng(3)
    values = draw.normal(size=(60, 4))
    found = logistic.fit(values, values[:, 0] > 0)
    kept = Learned(Linear.of(found), None)
    assert np.allclose(kept.probabilities(values, None), found.probabilities(values), atol=1e-4)
