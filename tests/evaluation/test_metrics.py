"""Measures of answers, labels and rankings, and the intervals around them."""

import json
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.evaluation import metrics
from raft.evaluation.metrics import Interval, score_answer
from raft.rag.format import ABSTENTION
from raft.report import measures
from raft.report.measures import ANSWER_MEASURES, MEASURES
from raft.text.values import fact_values

TEXTS = st.text(st.sampled_from("abcX thean30.,'-”é\n"), max_size=30) | st.text(max_size=30)
BEST_OF = [measures.exact_match, measures.f1, measures.contains_reference, measures.rouge_l, measures.fact_accuracy]
SYMMETRIC = [measures.exact_match, measures.f1, measures.rouge_l]


# answers


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos", "the Broncos"], 1, 1),
        ("The Denver Broncos.", ["denver  broncos"], 1, 1),
        ("a cat and an owl", ["Cat and owl!"], 1, 1),
        ("Broncos", ["Denver Broncos", "Carolina Panthers"], 0, 2 / 3),  # precision 1, recall 1/2
        ("the blue Denver Broncos team", ["Denver Broncos"], 0, 2 / 3),  # precision 2/4, recall 1
        ("30 days", ["thirty days", "14 days after 30 weeks"], 0, 4 / 7),  # 1/2 of the first, 2*2/(2+5) of the second
        ("no no no", ["no"], 0, 1 / 2),  # a word counts as often as both have it
        ("can't", ["cant"], 1, 1),
        ("$5 + tax", ["5 tax"], 1, 1),
        ("then and there", ["n and re"], 0, 1 / 3),  # articles are whole words
        ("“30–40” days", ["30-40 days"], 1, 1),  # typographic punctuation
        ("", ["Denver"], 0, 0),
        ("Denver", [""], 0, 0),
        ("", [""], 1, 1),
        (" ", ["the"], 0, 0),
        ("The", ["A"], 0, 0),
        ("A.", ["a"], 0, 0),  # "A." has punctuation to drop, but nothing would be left
        ("anything", [], 0, 0),
    ],
)
def test_words_are_compared_as_squad_does(prediction, references, exact, f1):
    """Case, punctuation, articles and spaces do not count, words do, and the best reference is the one that does."""
    assert measures.exact_match(prediction, references) == exact
    assert measures.f1(prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("reply", "references", "expected"),
    [
        ("You have 30 days to return it.", ["thirty days", "30 days"], 1),
        ("You have the 30, the days.", ["30 days"], 1),  # punctuation and articles do not part words
        ("You have 130 days.", ["30 days"], 0),
        ("30 daystar", ["30 days"], 0),
        ("Days: 30", ["30 days"], 0),
        ("", ["30 days"], 0),
        ("30 days", [""], 0),
    ],
)
def test_a_reference_stands_in_a_reply_as_whole_words(reply, references, expected):
    """A reply of any length contains a reference whose words it has one after the other."""
    assert measures.contains_reference(reply, references) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("police killed the gunman", ["police kill the gunman"], 3 / 4),  # Lin 2004, section 3.1
        ("police killed the gunman", ["the gunman kill police"], 2 / 4),
        ("The GUNMAN", ["police killed the gunman"], 2 / 3),  # precision 1, recall 1/2
        ("the police", ["the gunman kill police", "the police!"], 1),
        ("one two three", ["three two one"], 1 / 3),
        ("", ["x"], 0),
        ("x", ["..."], 0),
        ("word", [], 0),
    ],
)
def test_order_of_words_counts_for_rouge(prediction, references, expected):
    """Words count as far as they come in the reference's order."""
    assert measures.rouge_l(prediction, references) == pytest.approx(expected)


@given(*[st.lists(st.sampled_from(["a", "bb", "cc", "d"]), max_size=8)] * 2)
def test_rouge_is_the_longest_common_subsequence(one, other):
    """The F measure is that of the subsequence which the recursive definition finds."""

    @cache
    def longest(i, j):
        if i == len(one) or j == len(other):
            return 0
        if one[i] == other[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    expected = 2 * longest(0, 0) / (len(one) + len(other)) if one or other else 1
    assert measures.rouge_l(" ".join(one), [" ".join(other)]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("within 1000 euros by March 12, 2024", ["1,000 euros, 12 March 2024"], 1),
        ("1,000 euros and a form", ["1,000 euros, 12 March 2024"], 0),  # all facts of a reference, not some
        ("30 days, sometimes 45", ["30 days"], 1),
        ("3.5 bar", ["35 bar"], 0),
        ("On E-104!", ["Form E-104", "the blue form"], 1),
        ("the blue form", ["Form E-104", "the blue form"], 0),  # a reference without facts asks for none
        ("12 days", ["14 days", "12 days"], 1),
        ("14 or 12 days", ["the blue form"], None),
        ("", ["30 days"], 0),
        ("30 days", [], None),
    ],
)
def test_facts_are_right_or_wrong(prediction, references, expected):
    """All numbers, dates and codes of one reference stand in the answer, in any spelling; without any, no score."""
    assert measures.fact_accuracy(prediction, references) == expected


@given(TEXTS, st.lists(TEXTS, max_size=4), st.randoms())
def test_scores_are_shares_and_references_have_no_order(prediction, references, random):
    """Every measure is from 0 to 1, and the same for the references in another order."""
    shuffled = random.sample(references, len(references))
    for measure in BEST_OF:
        score = measure(prediction, references)
        assert score is None or 0 <= score <= 1
        assert score == measure(prediction, shuffled)


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_a_reference_itself_is_right(text, others):
    """Repeating one of the references word for word scores 1 on every measure."""
    for measure in (*SYMMETRIC, measures.contains_reference):
        assert measure(text, [*others, text]) == 1
    assert not fact_values(text) or measures.fact_accuracy(text, [*others, text]) == 1


@given(TEXTS, TEXTS)
def test_comparison_has_no_direction(one, other):
    """Prediction and reference can change places; an exact match is right by F1 and contained too."""
    for measure in SYMMETRIC:
        assert measure(one, [other]) == measure(other, [one])
    assert measures.exact_match(one, [other]) <= measures.contains_reference(one, [other])
    assert measures.exact_match(one, [other]) <= measures.f1(one, [other])


def test_an_answer_gets_each_measure():
    """A parsed answer is scored by each measure, against the references that are no abstentions."""
    scores = score_answer("The limit is 30 days", ["30 days", ABSTENTION], abstained=False)
    # words: limit is 30 days; the longest common subsequence: 2 of 5 and 2 words
    assert scores == pytest.approx(
        {"f1": 2 / 3, "exact_match": 0, "contains": 1, "rouge_l": 4 / 7, "fact_accuracy": 1},
    )
    assert set(scores) == set(ANSWER_MEASURES)


@pytest.mark.parametrize(
    ("answer", "references", "abstained", "score", "facts"),
    [
        (ABSTENTION, ["30 days"], True, 0, 0),
        (ABSTENTION, ["30 days", ABSTENTION], True, 0, 0),
        ("I do not know whether it is 30 days", ["30 days"], True, 0, 0),
        (ABSTENTION, ["blue"], True, 0, None),
        (ABSTENTION, [ABSTENTION], True, 1, None),
        ("The document does not say.", [ABSTENTION], True, 1, None),
        (ABSTENTION, [ABSTENTION, ""], True, 1, None),
        ("Unknown", ["Unknown"], False, 1, None),
        ("The document does not cover it.", ["The document does not cover it."], False, 1, None),
        ("30 days", [ABSTENTION], False, 0, None),
        ("The documents answer this question.", [ABSTENTION], False, 0, None),
        ("30 days", [], False, None, None),
        (ABSTENTION, [], True, None, None),
    ],
)
def test_abstention_is_an_answer(answer, references, abstained, score, facts):
    """Abstaining is right where nothing answers the question, wrong where something does; so is answering, reversed."""
    scores = score_answer(answer, references, abstained=abstained)
    assert scores.pop("fact_accuracy") == facts
    assert set(scores.values()) == {score}


# labels


@pytest.mark.parametrize(
    ("predictions", "labels", "classes", "expected"),
    [
        # yes: precision 1/2, recall 1/2; no: precision 1/2, recall 1; maybe: never hit
        (["yes", "yes", "no", "no"], ["yes", "maybe", "no", "yes"], ["yes", "no", "maybe"], (1 / 2 + 2 / 3 + 0) / 3),
        (["yes", "no"], ["yes", "no"], ["yes", "no"], 1),
        (["yes", "no"], ["yes", "no"], ["yes", "no", "maybe"], 2 / 3),  # a class of no row counts, if it is given
        (["yes", "yes", "yes", "no"], ["yes", "yes", "yes", "yes"], ["yes"], 6 / 7),
        (["yes", None], ["yes", "yes"], ["yes"], 2 / 3),  # precision 1, recall 1/2
        (["yes", "banana"], ["yes", "no"], ["yes", "no"], 1 / 2),
        (["yes", "no"], ["yes", None], ["yes", "no"], 1 / 2),  # a row without a label is nobody's mistake
        ([], [], ["yes"], None),
        (["yes"], [None], ["yes"], None),
        (["yes"], ["yes"], [], None),
    ],
)
def test_classes_weigh_the_same(predictions, labels, classes, expected):
    """Macro F1 is the mean over the classes given, however many rows each has."""
    found = metrics.macro_f1_interval(predictions, labels, range(len(labels)), classes)
    assert (found and found.value) == (None if expected is None else pytest.approx(expected))


# rankings


def test_recall_counts_what_is_found():
    """Recall at k is the share of relevant chunks whose rank is k or better."""
    ranks = [1, 3, None, 4]
    assert [metrics.recall_at(ranks, k) for k in (0, 1, 2, 3, 5)] == [0, 0.25, 0.25, 0.5, 0.75]
    assert metrics.recall_at([], 5) is None


def test_reciprocal_rank_ends_at_its_depth():
    """The reciprocal rank is 1, 1/2, 1/3 and so on, and 0 for what is too deep or not found."""
    assert [metrics.reciprocal_rank(rank) for rank in (1, 2, 10, 11, None)] == [1, 1 / 2, 1 / 10, 0, 0]
    assert metrics.reciprocal_rank(4, depth=3) == 0


@pytest.mark.parametrize(
    ("ranks", "relevant", "k", "expected"),
    [
        ([1], 1, 5, 1),
        ([2], 1, 5, 1 / math.log2(3)),
        ([3], 1, 5, 1 / 2),
        ([1, 3], 2, 5, 1.5 / (1 + 1 / math.log2(3))),
        ([3, None], 2, 5, 0.5 / (1 + 1 / math.log2(3))),
        ([3], 2, 5, 0.5 / (1 + 1 / math.log2(3))),
        ([2, 1], 3, 2, 1),  # the best that two places can show
        ([6], 1, 5, 0),
        ([None], 1, 5, 0),
        ([], 0, 5, None),
    ],
)
def test_gain_is_discounted_by_rank(ranks, relevant, k, expected):
    """The gain of a relevant chunk is 1 / log2(rank + 1), set against the best possible ranking."""
    assert metrics.ndcg(ranks, relevant, k) == (None if expected is None else pytest.approx(expected))


# intervals


def clustered(random, *, groups=40, spread=1.0):
    """Return values of true mean 0 whose groups differ by `spread`, in groups of 1 to 12, and their groups."""
    sizes = random.integers(1, 13, size=groups)
    members = np.repeat(np.arange(groups), sizes)
    return random.normal(0, spread, size=groups)[members] + random.normal(size=len(members)), members


def width(interval):
    """Return an interval's width."""
    return interval.high - interval.low


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Over 300 samples of 40 documents the truth is in the interval 95 times in 100; ignoring documents, far less."""
    random = np.random.default_rng(7)
    covered = naive = 0
    for seed in range(300):
        values, groups = clustered(random)
        by_group = metrics.bootstrap_mean(values, groups, seed=seed, draws=400)
        by_row = metrics.bootstrap_mean(values, range(len(values)), seed=seed, draws=400)
        covered += by_group.low <= 0 <= by_group.high
        naive += by_row.low <= 0 <= by_row.high
    assert 0.90 <= covered / 300 <= 0.985
    assert naive / 300 < 0.75


def test_the_interval_is_as_wide_as_the_formula_says():
    """For equal groups the width is that of the normal interval over the groups' means."""
    random = np.random.default_rng(1)
    means = random.normal(size=200)
    interval = metrics.bootstrap_mean(np.repeat(means, 5), np.repeat(np.arange(200), 5))
    assert interval.value == pytest.approx(means.mean())
    assert width(interval) == pytest.approx(2 * 1.96 * means.std() / math.sqrt(200), rel=0.05)
    assert (interval.questions, interval.groups) == (1000, 200)


def test_two_arms_are_compared_question_by_question():
    """What makes questions hard for both arms cancels out: the paired interval is narrower than two apart."""
    random = np.random.default_rng(3)
    hard, groups = clustered(random)
    ours, theirs = hard + 0.2 + random.normal(0, 0.3, len(hard)), hard + random.normal(0, 0.3, len(hard))
    paired = metrics.paired_difference(ours, theirs, groups)
    apart = [metrics.bootstrap_mean(arm, groups) for arm in (ours, theirs)]
    assert paired.value == pytest.approx(apart[0].value - apart[1].value)
    assert width(paired) < 0.5 * math.hypot(*map(width, apart))
    assert paired.low > 0  # the gain of 0.2 shows
    assert apart[0].low < apart[1].high  # and would not, apart


@given(
    st.lists(st.tuples(st.none() | st.just(math.nan) | st.floats(0, 1), st.integers(0, 5)), max_size=30),
    st.integers(0, 3),
)
def test_an_interval_lies_among_its_values(rows, seed):
    """The interval is within the values, holds nearly their mean, counts what was measured, and comes again."""
    values, groups = [value for value, _ in rows], [f"document {group}" for _, group in rows]
    measured = [(value, group) for value, group in rows if value is not None and not math.isnan(value)]
    interval = metrics.bootstrap_mean(values, groups, seed=seed, draws=200)
    assert interval == metrics.bootstrap_mean(values, groups, seed=seed, draws=200)
    if not measured:
        assert interval is None
        return
    kept = [value for value, _ in measured]
    assert min(kept) - 1e-9 <= interval.low <= interval.high <= max(kept) + 1e-9
    assert interval.value == pytest.approx(sum(kept) / len(kept))
    assert interval.low - 0.05 <= interval.value <= interval.high + 0.05
    assert (interval.questions, interval.groups) == (len(kept), len({group for _, group in measured}))
    assert json.loads(json.dumps(asdict(interval))) == asdict(interval)


def test_only_questions_that_both_arms_measured_are_paired():
    """A question that one arm did not measure is left out of the difference."""
    interval = metrics.paired_difference([1, 0.5, None, 1], [0, math.nan, 1, 0], ["a", "b", "c", "d"])
    assert interval == Interval(1.0, 1.0, 1.0, questions=2, groups=2)
    assert metrics.paired_difference([None], [1], ["a"]) is None


def test_another_seed_draws_otherwise():
    """The seed decides the draws."""
    values, groups = clustered(np.random.default_rng(0))
    assert len({metrics.bootstrap_mean(values, groups, seed=seed).low for seed in range(5)}) > 1


def test_one_document_has_an_interval_over_its_questions():
    """A single document does not pass for certainty: its questions are resampled, and it counts as one."""
    interval = metrics.bootstrap_mean([0, 1] * 50, ["only"] * 100)
    assert width(interval) == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.1)
    assert (interval.questions, interval.groups) == (100, 1)


@pytest.mark.parametrize(
    "misfit",
    [
        lambda: metrics.bootstrap_mean([1, 2], ["a"]),
        lambda: metrics.bootstrap_mean([1], ["a", "b"]),
        lambda: metrics.paired_difference([1], [1, 2], ["a", "b"]),
        lambda: metrics.macro_f1_interval(["yes"], ["yes", "no"], ["a", "b"], ["yes"]),
        lambda: metrics.macro_f1_interval(["yes"], ["yes"], ["a", "b"], ["yes"]),
    ],
)
def test_lists_of_different_lengths_are_refused(misfit):
    """Values, labels and groups that do not belong together are never cut to fit."""
    with pytest.raises(ValueError, match=r"\d|shorter|longer"):
        misfit()


def test_batches_of_draws_are_one_series(monkeypatch):
    """However much is drawn at once, the interval is the same."""
    values, groups = clustered(np.random.default_rng(0))
    whole = metrics.bootstrap_mean(values, groups)
    monkeypatch.setattr("raft.evaluation.metrics._CELLS", 1000)
    assert asdict(metrics.bootstrap_mean(values, groups)) == pytest.approx(asdict(whole))


def labelled(random, rows=120):
    """Return labels, two arms of predictions, and groups; some are missing."""
    classes = ["yes", "no", "maybe"]
    labels = random.choice(classes, rows, p=[0.6, 0.3, 0.1]).tolist()
    arms = [
        [label if random.random() < right else random.choice([*classes, None]) for label in labels]
        for right in (0.8, 0.5)
    ]
    return labels, arms, random.integers(25, size=rows).tolist(), classes


def resampled(statistic, groups, draws=metrics.DRAWS, seed=0):
    """Return a statistic of rows and its interval, computed anew on each resample of whole groups."""
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    chosen = np.random.default_rng(seed).integers(len(members), size=(draws, len(members)))
    drawn = [statistic(np.concatenate([members[unit] for unit in one])) for one in chosen]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return pytest.approx([statistic(np.arange(len(groups))), low, high])


def test_fast_intervals_are_those_of_any_statistic():
    """Counts summed by group give the intervals that computing each measure anew on each resample gives."""
    labels, (ours, theirs), groups, classes = labelled(np.random.default_rng(5))

    def macro(arm, rows):
        predictions, actual = np.array(arm, dtype=object)[rows], np.array(labels, dtype=object)[rows]
        hits = [2 * np.sum((predictions == one) & (actual == one)) for one in classes]
        return np.mean(
            [
                hit / max(1, np.sum(predictions == one) + np.sum(actual == one))
                for hit, one in zip(hits, classes, strict=True)
            ]
        )

    fast = metrics.macro_f1_interval(ours, labels, groups, classes)
    assert [fast.value, fast.low, fast.high] == resampled(lambda rows: macro(ours, rows), groups)
    assert fast.low < fast.value < fast.high

    fast = metrics.macro_f1_difference(ours, theirs, labels, groups, classes)
    assert [fast.value, fast.low, fast.high] == resampled(lambda rows: macro(ours, rows) - macro(theirs, rows), groups)
    assert 0 < fast.low < fast.high

    values = [float(one == label) for one, label in zip(ours, labels, strict=True)]
    fast = metrics.bootstrap_mean(values, groups)
    assert [fast.value, fast.low, fast.high] == resampled(lambda rows: np.take(values, rows).mean(), groups)


def test_rows_without_a_label_are_in_no_interval():
    """A row that has no label is left out of macro F1's intervals, and its document with it."""
    interval = metrics.macro_f1_interval(["yes", "no", "yes"], ["yes", "no", None], ["a", "b", "c"], ["yes", "no"])
    assert (interval.value, interval.questions, interval.groups) == (1, 2, 2)
    assert metrics.macro_f1_interval(["yes"], [None], ["a"], ["yes"]) is None
    assert metrics.macro_f1_difference([], [], [], [], ["yes"]) is None


def test_arms_that_say_the_same_do_not_differ():
    """The difference of an arm and itself is 0, for certain."""
    labels, (ours, _), groups, classes = labelled(np.random.default_rng(6))
    same = metrics.macro_f1_difference(ours, ours, labels, groups, classes)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((10, 0, 0), (1.0, 0.7225, 1.0)),  # 10 / (10 + z²)
        ((0, 10, 0), (0.0, 0.0, 0.2775)),
        ((5, 5, 0), (0.5, 0.2366, 0.7634)),
        ((0, 0, 10), (0.5, 0.2366, 0.7634)),
        ((20, 15, 13), (26.5 / 48, 0.4128, 0.6836)),
    ],
)
def test_rates_have_intervals_by_wilson(counts, expected):
    """A win rate counts a tie as half a win and never leaves 0 to 1."""
    rate = metrics.win_rate(*counts)
    assert (rate.value, rate.low, rate.high) == pytest.approx(expected, abs=1e-4)
    assert rate.questions == sum(counts)


def test_a_sign_test_is_the_exact_binomial():
    """Nine of ten happen by chance in 22 of 1024 cases, an even choice always; without a choice there is no test."""
    assert metrics.sign_test(9, 1) == metrics.sign_test(1, 9) == pytest.approx(22 / 1024)
    assert metrics.sign_test(4, 4) == 1.0
    assert metrics.sign_test(5, 0) == pytest.approx(2 / 32)
    assert metrics.sign_test(0, 0) is None


@given(*[st.integers(0, 200)] * 3)
def test_a_win_of_one_is_a_loss_of_the_other(wins, losses, ties):
    """Seen from the other side the win rate is its complement; without comparisons there is none."""
    rate, other = metrics.win_rate(wins, losses, ties), metrics.win_rate(losses, wins, ties)
    if rate is None:
        assert wins + losses + ties == 0
        return
    assert (other.value, other.low, other.high) == pytest.approx((1 - rate.value, 1 - rate.high, 1 - rate.low))
    assert 0 <= rate.low <= rate.value + 1e-12 <= rate.high + 2e-12 <= 1 + 3e-12


def test_percentiles_lie_between_values():
    """Percentiles are interpolated between the two nearest values; what was not measured is left out."""
    values = [4.0, 1.0, None, 3.0, math.nan, 2.0]
    assert metrics.percentile(values, 0.5) == 2.5
    assert metrics.percentile(values, 0.95) == pytest.approx(3.85)
    assert (metrics.percentile(values, 0), metrics.percentile(values, 1)) == (1, 4)
    assert metrics.percentile([None], 0.5) is None


def test_what_a_measure_is_called_is_said_once():
    """Title and meaning of a measure stand in its table alone, so that one line there renames it everywhere."""
    sources = [path for path in Path(metrics.__file__).parent.rglob("*.py") if path.name != "measures.py"]
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for name, measure in MEASURES.items():
        assert f'"{measure.meaning}' not in said, name
        assert f'"{measure.title}"' not in said.replace(f'"{name}"', ""), name


def test_names_are_no_facts_that_count():
    """What "facts right" counts is what it says: numbers, dates and codes; a wrong name is not seen."""
    assert "name" not in MEASURES["fact_accuracy"].meaning
    assert measures.fact_accuracy("Ann Lee, 30 days", ["Bo Rey, 30 days"]) == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("It is 5 °C.", "-5 °C", 0),
        ("5 thousand dollars", "$5 million", 0),
        ("three days", "3 days", 1),
        ("Due on 2024-03-12", "12 March 2024", 1),
        ("Due on 12/03/2024", "12 March 2024", 1),
    ],
)
def test_facts_are_right_in_sign_scale_unit_and_any_form(prediction, reference, right):
    """A fact counts as right in whatever form it is written, and not with another sign or scale."""
    assert measures.fact_accuracy(prediction, [reference]) == right


@pytest.mark.parametrize(
    ("answer", "references", "value"),
    [
        ("the cat sat on the mat", ["the cat sat on the mat"], 1.0),
        ("The cat, sat on the mat!", ["the cat sat on the mat"], 1.0),
        ("dogs bark", ["the cat sat on the mat"], 0.0),
        ("", ["the cat"], 0.0),
        ("the the the the the the the", ["the cat is on the mat"], (2 / 7 * 1 / 7 * 1 / 6 * 1 / 5) ** 0.25),
        ("the cat", ["the cat sat on the mat"], math.exp(1 - 6 / 2)),
        ("a cat sat", ["the cat sat", "a dog ran"], (3 / 3 * 2 / 3 * 1 / 2 * 1) ** 0.25),
    ],
)
def test_bleu_is_what_its_papers_say(answer, references, value):
    """Clipped counts over all references, smoothed by one from pairs on, and a penalty for brevity."""
    assert metrics.bleu(answer, references) == pytest.approx(value)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_bleu_is_a_share(answer, references):
    """BLEU of whatever texts lies between 0 and 1."""
    assert 0 <= metrics.bleu(answer, references) <= 1
