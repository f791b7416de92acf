"""The guard: bets that pay nothing on average where a candidate is no worse, looked at after every reply."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.evaluation import guard
from raft.evaluation.guard import EACH, LIMIT, SIGNALS, Guard, Seen

SIZES, RATES = st.integers(1, 100), st.floats(0, 1)


@given(SIZES, SIZES, RATES, RATES)
def test_a_bet_pays_at_most_its_stake_where_the_candidate_is_no_worse(production, candidate, one, other):
    """Whatever the sizes of a block and the true rates, each bet is worth its stake at most on average."""
    ours, theirs = sorted((one, other))
    factors = guard._factors(production, candidate)
    worth = factors["nothing"].copy()
    for arm, size, rate in (("production", production, theirs), ("candidate", candidate, ours)):
        worth += size * np.log(1 - rate + rate * np.exp(factors[arm]))
    assert np.all(worth <= 1e-9)


@given(SIZES, SIZES, st.lists(RATES, min_size=2, max_size=6))
def test_rates_may_change_within_a_block(production, candidate, rates):
    """Replies of a block with rates of their own are worth no more than with the mean of these rates."""
    factors = guard._factors(production, candidate)
    for arm in ("production", "candidate"):
        worth = np.array([1 - rate + rate * np.exp(factors[arm]) for rate in rates])
        assert np.all(np.log(worth).sum(axis=0) <= len(rates) * np.log(worth.mean(axis=0)) + 1e-9)


def run_of(seed, share, count, *, ours, theirs):
    """Return after how many replies a guard stopped a candidate with these rates, None: it did not."""
    draw, made = np.random.default_rng(seed), Guard()
    for number in range(count):
        candidate = draw.random() < share
        rates = ours if candidate else theirs
        seen = Seen(*(bool(one) for one in draw.random(3) < rates), seconds=float(draw.lognormal()))
        if made.saw("candidate" if candidate else "production", seen):
            return number + 1
    return None


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_few_candidates_without_a_difference_are_stopped(share):
    """Looked at after each of 1,200 replies, at most 2 of 40 candidates like production are stopped."""
    usual = (0.05, 0.1, 0.01)
    stops = [run_of(seed, share, 1_200, ours=usual, theirs=usual) for seed in range(40)]
    assert sum(stop is not None for stop in stops) <= 2


def test_a_better_candidate_is_not_stopped():
    """The test asks one way: a candidate with fewer errors is never evidence against it."""
    made = Guard()
    for _ in range(300):
        assert made.saw("candidate", Seen(seconds=1.0)) is None
        assert made.saw("production", Seen(unsupported=True, failed=True, seconds=2.0)) is None
    assert all(figure.evidence < 1 for figure in made.figures())


@pytest.mark.parametrize(("share", "within"), [(0.5, 4_000), (0.1, 12_000)])
def test_a_doubling_is_found(share, within):
    """Twice as many unsupported answers are found within 4,000 requests at one half, 12,000 at one tenth."""
    found = [run_of(seed, share, within, ours=(0.1, 0.1, 0.01), theirs=(0.05, 0.1, 0.01)) for seed in range(6)]
    assert None not in found


@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_is_watched(name):
    """A candidate that is bad in one thing alone is stopped for that, by its figures."""
    made = Guard()
    for number in range(2_000):
        seconds = 1.0 + number % 19 / 100
        bad = {"seconds": 9.0} if name == "slow" else {name: True, "seconds": seconds}
        made.saw("production", Seen(seconds=seconds))
        if made.saw("candidate", Seen(**bad)):
            break
    crossed = made.crossed
    assert crossed.name == name and crossed.evidence >= LIMIT
    assert crossed.candidate / crossed.candidate_replies > 2 * crossed.production / crossed.production_replies
    assert name == "slow" or crossed.candidate == crossed.candidate_replies
    assert SIGNALS[name] in str(crossed) and f"{LIMIT:g} to 1" in str(crossed)


def test_what_crossed_once_stays():
    """The figure is that of the moment at which the limit was reached, whatever comes later."""
    made = Guard()
    while made.crossed is None:
        made.saw("production", Seen())
        made.saw("candidate", Seen(failed=True))
    crossed = made.crossed
    for _ in range(50):
        assert made.saw("candidate", Seen()) is crossed


def test_what_is_tried_again_counts_once():
    """Somebody who sends the same failing question again and again is one observation, many who do are as many."""
    alone, many = Guard(), Guard()
    for number in range(60):
        for made, name in ((alone, "f" * 32), (many, f"{number:032x}")):
            made.saw("production", Seen(), f"p{number}", "What else?")
            made.saw("candidate", Seen(failed=True), name, "What does \ud800 cost?")
    assert many.crossed is not None
    assert alone.crossed is None
    assert {figure.candidate_replies for figure in alone.figures() if figure.name != "slow"} == {1}


def test_of_one_conversation_the_first_replies_count():
    """Who asks much has no more weight than somebody who asks ten times."""
    made = Guard()
    for number in range(400):
        made.saw("production", Seen(), f"p{number}", "What else?")
        made.saw("candidate", Seen(), "f" * 32, f"What is {number}?")
    assert made.figures()[0].candidate_replies == EACH


def test_many_of_one_side_first_do_not_keep_the_other_waiting():
    """Where sixty replies of the candidate come before the first of production, errors are found all the same."""
    made = Guard()
    for _ in range(60):
        made.saw("candidate", Seen(failed=True))
    for _ in range(30):
        made.saw("production", Seen())
    assert made.crossed is not None and made.crossed.name == "failed"


def test_what_is_told_once_counts_once():
    """Replies without seconds say nothing of how fast they are, and all else."""
    made = Guard()
    for _ in range(100):
        made.saw("production", Seen())
        made.saw("candidate", Seen())
    figures = {figure.name: figure for figure in made.figures()}
    assert (figures["slow"].candidate_replies, figures["failed"].candidate_replies) == (0, 100)
