"""Whether a fall is one: tests and intervals that hold, drift that is seen, topics that do not depend on an order."""

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.evaluation import monitor
from raft.evaluation.metrics import Interval, randomisation_test
from raft.store import traffic

LIMITS = {"look": 0.03, "act": 0.05}
SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60)


def table(scores, answers=None, groups=None):
    """Return a measure by question."""
    return {
        f"q{number:03}": {
            "score": one,
            "answer": answers[number] if answers else str(one),
            "group": groups[number] if groups else f"q{number:03}",
        }
        for number, one in enumerate(scores)
    }


def fallen(count, of=100):
    """Compare a measure in which so many right answers became wrong."""
    then = [1.0] * of
    return monitor.change(table([0.0] * count + then[count:]), table(then), **LIMITS)


@pytest.mark.parametrize(
    ("count", "state", "certain", "sure"),
    [
        (0, "fine", False, False),
        (2, "fine", False, False),
        (3, "perhaps", False, False),
        (4, "perhaps", False, False),
        (5, "act", True, False),
        (9, "act", True, False),
        (10, "act", True, False),
        (11, "act", True, True),
        (60, "act", True, True),
    ],
)
def test_a_fall_has_a_size_and_a_certainty(count, state, certain, sure):
    """Of 100 questions three wrong ones may be chance, five are a fall, and eleven one that a program acts upon."""
    found = fallen(count)
    assert (found.state, found.certain, found.sure) == (state, certain, sure)
    assert (found.worse, found.better, found.replies) == (count, 0, count)


def test_a_certain_fall_below_the_second_limit_is_looked_into():
    """A fall of 4 of 300 points that no chance explains is looked into, and no more."""
    assert fallen(12, of=300).state == "look"
    assert fallen(8, of=300).state == "fine"


@given(st.lists(st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (None, 1.0)]), min_size=1, max_size=50))
def test_a_rise_is_no_fall(pairs):
    """Where two measures change places, at most one of them is a fall; and nothing is lost of the counts."""
    one, other = (table([pair[side] for pair in pairs]) for side in (0, 1))
    there, back = monitor.change(one, other, **LIMITS), monitor.change(other, one, **LIMITS)
    assert (there.worse, there.better) == (back.better, back.worse)
    assert not (there.certain and back.certain)
    if there.difference is not None:
        assert there.difference.value == pytest.approx(-back.difference.value)
        assert there.difference.low <= there.difference.value + 1e-9
        assert there.difference.value <= there.difference.high + 1e-9


@given(SCORES, st.randoms(use_true_random=False))
def test_the_order_of_questions_changes_nothing(scores, order):
    """A comparison is the same in whatever order questions come."""
    then = table([1.0] * len(scores))
    now = table(scores)
    shuffled = [*now.items()]
    order.shuffle(shuffled)
    assert monitor.change(dict(shuffled), then, **LIMITS) == monitor.change(now, then, **LIMITS)


@given(SCORES)
def test_the_same_measure_is_no_change(scores):
    """A measure compared with itself is fine, whatever it is."""
    found = monitor.change(table(scores), table(scores), **LIMITS)
    assert (found.state, found.difference.value, found.replies, found.certain) == ("fine", 0.0, 0, False)
    assert found.p == 1.0


def test_nothing_in_common_is_no_comparison():
    """Measures that share no question, or no reply, are not compared."""
    assert monitor.change(table([1.0]), {}, **LIMITS).state == "first"
    assert monitor.change(table([None]), table([1.0]), **LIMITS).state == "first"


def test_few_groups_are_never_certain():
    """With fewer than twenty documents, or what else is resampled, no fall is certain, however large."""
    groups = [f"d{number % 10}" for number in range(100)]
    found = monitor.change(table([0.0] * 100, groups=groups), table([1.0] * 100), **LIMITS)
    assert (found.state, found.certain, found.sure) == ("perhaps", False, False)


def test_questions_on_one_document_fall_together():
    """Fifty questions that fell in one document of thirty are one event, and may be chance."""
    groups = [f"d{max(0, number - 50)}" for number in range(100)]
    found = monitor.change(table([0.0] * 50 + [1.0] * 50, groups=groups), table([1.0] * 100), **LIMITS)
    assert (found.state, found.p) == ("perhaps", 0.5)


def test_white_space_is_no_other_reply():
    """A reply that differs in white space alone counts as the same."""
    now, then = table([1.0], answers=["30  days\n"]), table([1.0], answers=["30 days"])
    assert monitor.change(now, then, **LIMITS).replies == 0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_all_signs_are_tried(differences):
    """Of few groups the test is that of all patterns of signs, as counted by hand."""
    ours, theirs = [float(one) for one in differences], [0.0] * len(differences)
    patterns = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    wanted = sum(one <= sum(differences) for one in patterns) / len(patterns)
    groups = [str(number) for number in range(len(differences))]
    assert randomisation_test(ours, theirs, groups) == pytest.approx(wanted)


def test_random_signs_come_near_to_all_of_them():
    """Of many groups the test is close to the exact one: the tail of a binomial."""
    ours = [-1.0] * 20 + [1.0] * 10
    exact = 0.04937  # at most 10 of 30 heads
    assert randomisation_test(ours, [0.0] * 30, range(30)) == pytest.approx(exact, abs=0.005)
    assert randomisation_test([], [], []) is None


def test_of_looks_without_a_change_few_say_that_it_fell():
    """Of 400 looks at a system of which a tenth of the replies are chance, at most 1 in 20 says certain, none acts."""
    draw = random.Random(7)
    certain = acted = 0
    for _ in range(400):
        coins = [draw.random() < 0.2 for _ in range(100)]
        now, then = ([float(draw.random() < 0.5) if coin else 1.0 for coin in coins] for _ in range(2))
        if sum(now) < sum(then):
            found = monitor.change(table(now), table(then), **LIMITS)
            certain, acted = certain + found.certain, acted + found.sure
    assert certain <= 0.05 * 400
    assert acted == 0


def test_a_large_fall_is_found_through_noise():
    """A fall of 15 points among a tenth of replies that are chance is found in nine of ten looks."""
    draw = random.Random(8)
    found = 0
    for _ in range(60):
        noise = [float(draw.random() < 0.5) for _ in range(40)]
        now = table([0.0] * 15 + [1.0] * 45 + [float(draw.random() < 0.5) for _ in range(20)] + noise[:20])
        then = table([1.0] * 60 + noise[20:] + noise[:20])
        found += monitor.change(now, then, **LIMITS).state == "act"
    assert found >= 54


def test_how_many_questions_would_tell():
    """Twice as wide an interval needs four times as many questions."""
    one = monitor.questions_needed(Interval(-0.03, -0.07, 0.01, 100, 100), 0.03)
    other = monitor.questions_needed(Interval(-0.03, -0.11, 0.05, 100, 100), 0.03)
    assert other == pytest.approx(4 * one, abs=4)
    assert 350 < one < 400


@pytest.mark.parametrize(
    ("answer", "abstained", "labels", "score"),
    [
        ("30 days", False, (), 1.0),
        ("within 30 days", False, (), 0.8),
        ("", True, (), 0.0),
        (None, False, (), None),
        ("30 days", False, ("30 days", "no"), 1.0),
        ("no", False, ("30 days", "no"), 0.0),
        ("within 30 days", False, ("30 days", "no"), 0.0),
    ],
)
def test_a_reply_is_scored_as_in_a_benchmark(answer, abstained, labels, score):
    """A reply is scored by F1, or by its label where the questions are a closed set."""
    found = monitor.score({"answers": ["30 days"]}, {"answer": answer, "abstained": abstained}, labels, "en")
    assert found == (None if score is None else pytest.approx(score))


def test_abstaining_is_right_where_the_documents_say_nothing():
    """To abstain scores where the right reply is that the documents don't say, of a closed set too."""
    question = {"answers": ["The documents do not answer this question."]}
    assert monitor.score(question, {"answer": "", "abstained": True}, ("yes", "no"), "en") == 1.0
    assert monitor.score(question, {"answer": "yes", "abstained": False}, ("yes", "no"), "en") == 0.0


def directions(count, mean, seed):
    """Return vectors of length 1 around a mean."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(count, 16)) + mean
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_drift_is_seen_and_not_invented():
    """Questions about something else give a p of the least there is; of 60 pairs of samples alike few are a drift."""
    mean = 2.0 * np.eye(16)[0]
    away = monitor.drift(directions(80, mean, 1), directions(80, 2.0 * np.eye(16)[3], 2))
    assert away.p <= 0.001 and away.mmd > 0.1
    seen = sum(monitor.drift(directions(40, mean, n), directions(40, mean, 999 - n)).p <= 0.05 for n in range(60))
    assert seen <= 7


def test_the_statistic_of_drift_is_that_of_the_paper():
    """The unbiased statistic is what its definition says, added up by hand."""
    ours, theirs = directions(20, np.zeros(16), 3), directions(25, 1.0 * np.eye(16)[1], 4)
    every = np.concatenate([ours, theirs])
    squares = ((every[:, None] - every[None]) ** 2).sum(axis=2)
    width = np.median(squares[np.triu_indices(45, 1)])
    k = np.exp(-squares / width)
    within = sum(k[i, j] for i in range(20) for j in range(20) if i != j) / (20 * 19)
    others = sum(k[i, j] for i in range(20, 45) for j in range(20, 45) if i != j) / (25 * 24)
    across = 2 * k[:20, 20:].sum() / (20 * 25)
    assert monitor.drift(ours, theirs).mmd == pytest.approx(within + others - across)


def test_of_few_questions_no_drift_is_told():
    """Fewer than twenty questions on a side tell nothing."""
    assert monitor.drift(directions(19, 0.0, 1), directions(80, 0.0, 2)) is None


def test_alike_questions_are_no_drift():
    """A thousand times the same question, on both sides, is no drift."""
    same = np.tile(np.eye(16)[0], (30, 1))
    assert monitor.drift(same, same).p == 1.0


def test_far_is_far_from_everything():
    """What is near in one respect is not far; of the questions that are known few are."""
    known = np.stack([np.linspace(0.5, 0.9, 100), np.linspace(0.3, 0.8, 100)], axis=1)
    asked = np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.1]])
    assert monitor.far(asked, known)[0] == [False, False, True]
    assert sum(monitor.far(known, known)[0]) <= 5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.randoms(use_true_random=False))
def test_clusters_are_those_of_the_directions(kinds, order):
    """What points one way is one cluster, what stands at right angles is another, in whatever order they come."""
    order.shuffle(kinds)
    labels = monitor.grouped(np.eye(4)[kinds], 0.5)
    for one, other in itertools.combinations(range(len(kinds)), 2):
        assert (labels[one] == labels[other]) == (kinds[one] == kinds[other])


def test_no_chain_joins_what_is_far_apart():
    """Directions that turn by 20 degrees each are not one cluster, as they would be link by link."""
    angles = np.radians(np.arange(0, 181, 20))
    labels = monitor.grouped(np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.8)
    assert len(set(labels)) >= 3
    assert labels[0] != labels[-1]


def test_the_scale_of_a_topic_is_the_embedders_own():
    """The cosine of one topic lies above that of questions about different documents, and has a default."""
    vectors = directions(60, 3.0 * np.eye(16)[0], 5)
    documents = [f"d{number % 20}" for number in range(60)]
    found = monitor.topic_similarity(vectors, documents)
    pairs = [vectors[a] @ vectors[b] for a, b in itertools.combinations(range(60), 2) if documents[a] != documents[b]]
    assert np.mean(np.array(pairs) < found) > 0.98
    assert monitor.topic_similarity(vectors[:5], documents[:5]) == 0.6
    assert monitor.topic_similarity(np.empty((0, 1)), []) == 0.6


def replies(*rows):
    """Return a frame of replies."""
    usual = {"arm": "production", "version": "v1", "conversation": "", "outcome": "answered", "supported": None}
    usual |= {"abstained": False, "refused": False, "seconds": 1.0, "at": 1_790_000_000.0}
    made = [{**usual, "reply_id": f"r{number}", "question": "Who?", **row} for number, row in enumerate(rows)]
    return pl.DataFrame([{name: row.get(name) for name in traffic.REPLIES} for row in made], schema=traffic.REPLIES)


NOTHING = pl.DataFrame(schema=traffic.FEEDBACK)


@given(st.randoms(use_true_random=False))
def test_topics_do_not_depend_on_the_order_of_replies(order):
    """The list for owners of documents is the same in whatever order replies come."""
    asked = ["Where is room 1?", "where is  room 2?", "May I bring a dog?", "May I bring my dog?", "What is the wifi?"]
    rows = [
        {"question": asked[n % 5], "conversation": f"c{n % 7}", "abstained": True, "at": 1e9 + n} for n in range(40)
    ]
    vectors = {
        "Where is room 1?": [1, 0, 0],
        "where is room 2?": [1, 0, 0],
        "May I bring a dog?": [0, 1, 0],
        "May I bring my dog?": [0, 1, 0],
        "What is the wifi?": [0, 0, 1],
    }

    def told(some):
        openly = monitor.unanswered(replies(*some), NOTHING)
        texts = monitor.distinct(openly)
        return monitor.topics(openly, texts, np.array([vectors[one] for one in texts], dtype=float), 0.9, [])

    shuffled = list(rows)
    order.shuffle(shuffled)
    usual = [{name: one[name] for name in one if name != "conversations"} for one in told(rows)]
    assert [{name: one[name] for name in one if name != "conversations"} for one in told(shuffled)] == usual
    assert [one["times"] for one in usual] == [16, 16, 8]
    assert sum(one["times"] for one in usual) == 40


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_topics_do_not_depend_on_the_order_of_their_questions(seed, order):
    """Where several questions are equally near, the same ones are joined in whatever order they are given."""
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-1, 2, size=(12, 3)) + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"Question {letter}?" for letter in "abcdefghijkl"]
    openly = monitor.unanswered(replies(*({"question": one, "abstained": True} for one in texts)), NOTHING)
    places = list(range(12))
    order.shuffle(places)
    shuffled = monitor.topics(openly, [texts[one] for one in places], vectors[places], 0.5, [])
    assert shuffled == monitor.topics(openly, texts, vectors, 0.5, [])


def test_what_is_unanswered():
    """Refused, abstained and rated down leave a question open; failed replies and answers do not."""
    rows = replies({}, {"abstained": True}, {"abstained": True, "refused": True}, {}, {"outcome": "failed"})
    down = pl.DataFrame([{"reply_id": "r3", "rating": "down"}, {"reply_id": "r0", "rating": "up"}])
    assert monitor.unanswered(rows, down).select("reply_id", "why").rows() == [
        ("r1", "abstained"),
        ("r2", "refused"),
        ("r3", "rated down"),
    ]


def test_rates_have_their_own_denominators():
    """Unsupported is of what can be checked, abstained and slow of what was answered, failed of all."""
    rows = [{"supported": n % 2 == 0, "seconds": 20.0 * (n < 6)} for n in range(30)]
    rows += [{"outcome": "failed", "seconds": 60.0} for _ in range(10)] + [{"abstained": True} for _ in range(20)]
    (one,) = monitor.rates(replies(*rows), slow=10.0)["systems"]
    assert one["replies"] == 60
    assert one["unsupported"]["value"] == 0.5
    assert one["abstained"]["value"] == pytest.approx(0.4)
    assert one["slow"]["value"] == pytest.approx(6 / 50)
    assert one["failed"]["value"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("a_day", "period"), [(30, "day"), (5, "week"), (1, "month")])
def test_rates_over_time_have_enough_replies_each(a_day, period):
    """The less is asked, the longer are the periods over which rates are told."""
    rows = [{"at": 1_789_344_000.0 + 86_400 * d + n} for d in range(28) for n in range(a_day)]
    found = monitor.rates(replies(*rows), slow=10.0)
    assert found["period"] == period
    assert sum(one["replies"] for one in found["periods"]) == len(rows)


def test_conversations_count_once():
    """The first question of each conversation is taken; replies of none are each their own."""
    rows = replies({"conversation": "a", "at": 2.0}, {"conversation": "a", "at": 1.0}, {}, {}, {"conversation": "b"})
    assert monitor.one_a_conversation(rows)["reply_id"].to_list() == ["r1", "r2", "r3", "r4"]
