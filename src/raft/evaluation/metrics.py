"""Measures of answers, labels and rankings, and how sure their means are: pure functions.

All measures are shares from 0 to 1. None stands for what was not measured, and is what a mean over nothing returns.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft.rag.format import is_no_answer
from raft.report.measures import ANSWER_MEASURES, MEASURES
from raft.text import PIECE, spaced

TOO_FEW = 20
"""Under 20 documents, or what else is resampled: too few to tell. The percentile bootstrap is too narrow there."""
DRAWS = 2000
"""Resamples of an interval; about 1,000 are the least for steady ends (Efron and Tibshirani 1993)."""

_TAILS = (0.025, 0.975)
_Z = 1.959963984540054  # of the normal distribution's 97.5 percent
_ALL_SIGNS = 14  # of so many groups at most each pattern of signs is tried: 16,384
_CELLS = 4_000_000  # most numbers of one batch of resamples: 32 MB

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Interval:
    """A measure's value over so many questions, with its 95 percent interval.

    `groups` is how many documents they come from, or what else was resampled; under `TOO_FEW` the interval is too
    narrow to decide by.
    """

    value: float
    low: float
    high: float
    questions: int
    groups: int


def bootstrap_mean(
    values: Sequence[float | None], groups: Sequence[Hashable], *, seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """Return the mean of all values, with the interval of the percentile bootstrap over whole groups.

    Args:
        values: one a question; None and NaN are left out.
        groups: the document of each question. With a single one its questions are resampled instead, which says how
            sure the mean is for this document, and nothing of others.
        seed: of the draws; the same seed gives the same interval.
        draws: how many resamples.

    Returns:
        None where nothing was measured.

    References:
        Field and Welsh: Bootstrapping clustered data. Journal of the Royal Statistical Society B 69(3), 2007.
    """
    rows = np.stack([_floats(values), np.ones(len(values))], axis=1)
    return bootstrap_sums(rows, groups, lambda sums: sums[:, 0] / sums[:, 1], seed=seed, draws=draws)


def paired_difference(
    ours: Sequence[float | None], theirs: Sequence[float | None], groups: Sequence[Hashable]
) -> Interval | None:
    """Return the mean of `ours - theirs` over the questions that both measured, as `bootstrap_mean` does."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    return bootstrap_mean((_floats(ours) - _floats(theirs)).tolist(), groups)


def bootstrap_sums(
    rows: Floats,
    groups: Sequence[Hashable],
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return a statistic of sums over rows, with the interval of `bootstrap_mean`; fast: groups are summed once.

    The first axis of the array counts rows, and a row that holds NaN is left out. The statistic takes sums of shape
    (some draws, *shape of a row) and returns a number a draw.

    Raises:
        ValueError: there are not as many groups as rows.
    """
    if len(groups) != len(rows):
        raise ValueError(f"{len(groups)} groups for {len(rows)} rows")
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    kept = np.flatnonzero(~np.isnan(flat).any(axis=1)).tolist()
    flat = flat[kept]
    if not flat.size:
        return None
    units, count = _units([groups[row] for row in kept])
    sums = np.zeros((int(units.max()) + 1, flat.shape[1]))
    np.add.at(sums, units, flat)
    drawn = []
    for chosen in _draw(len(sums), seed, draws):
        cells = chosen + np.arange(len(chosen))[:, None] * len(sums)
        times = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
        drawn.append(statistic((times @ sums).reshape(-1, *rows.shape[1:])))
    low, high = np.quantile(np.concatenate(drawn), _TAILS)
    value = statistic(flat.sum(axis=0).reshape(1, *rows.shape[1:]))[0]
    return Interval(float(value), float(low), float(high), len(flat), count)


def win_rate(wins: int, losses: int, ties: int) -> Interval | None:
    """Return the share of comparisons won, a tie counting half, with Wilson's score interval; None without any.

    `groups` is the number of comparisons, which count as independent.

    References:
        Wilson: Probable inference, the law of succession, and statistical inference. JASA 22(158), 1927.
    """
    pairs = wins + losses + ties
    if not pairs:
        return None
    share = (wins + ties / 2) / pairs
    shrink = 1 + _Z**2 / pairs
    centre = (share + _Z**2 / (2 * pairs)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / pairs + _Z**2 / (4 * pairs**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), pairs, pairs)


def sign_test(wins: int, losses: int) -> float | None:
    """Return how likely so uneven a choice is (0 to 1, two-sided) where neither side is better; None without a choice.

    The exact binomial test of one half; ties are left out.

    References:
        Dixon and Mood: The statistical sign test. JASA 41(236), 1946.
    """
    choices = wins + losses
    tail = sum(math.comb(choices, count) for count in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**choices) if choices else None


def randomisation_test(
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    draws: int = 20_000,
) -> float | None:
    """Return how likely it is (0 to 1) that ours are as far below theirs where they differ by chance alone.

    Then each group's difference may as well have the other sign: all signs are tried, of many groups `draws` random
    ones. It holds for few differences too, where the percentile bootstrap is too narrow. Groups are as in
    `bootstrap_mean`; None where nothing was measured by both.

    References:
        Smucker, Allan and Carterette: A comparison of statistical significance tests for information retrieval
        evaluation. CIKM 2007 (after Fisher: The design of experiments, 1935); of whole groups, as there is one noise
        for each.
    """
    differences = _floats(ours) - _floats(theirs)
    kept = np.flatnonzero(~np.isnan(differences)).tolist()
    if not kept:
        return None
    units, _ = _units([groups[row] for row in kept])
    sums = np.bincount(units, weights=differences[kept])
    sizes, found = sums[np.abs(sums) > 1e-12], float(sums.sum())
    if len(sizes) <= _ALL_SIGNS:
        signs = 1 - 2 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
        return float((signs @ sizes <= found + 1e-9).mean())
    random, hits, batch = np.random.default_rng(seed), 0, max(1, _CELLS // len(sizes))
    for start in range(0, draws, batch):
        signs = 2 * random.integers(2, size=(min(batch, draws - start), len(sizes))) - 1
        hits += int((signs @ sizes <= found + 1e-9).sum())
    return (1 + hits) / (1 + draws)


def kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> tuple[float, float | None] | None:
    """Return the share of pairs of judgements that agree (0 to 1), and Cohen's kappa; None without any.

    Kappa is 1 for full agreement, 0 for that of chance, and None where both judge all alike.

    References:
        Cohen: A coefficient of agreement for nominal scales. Educational and Psychological Measurement 20(1), 1960.
    """
    if not pairs:
        return None
    same = sum(one == other for one, other in pairs) / len(pairs)
    named = {name for pair in pairs for name in pair}
    shares = [[sum(pair[place] == name for pair in pairs) / len(pairs) for place in (0, 1)] for name in named]
    chance = sum(one * other for one, other in shares)
    return same, None if len(named) == 1 else (same - chance) / (1 - chance)


def percentile(values: Sequence[float | None], share: float) -> float | None:
    """Return the value under which the share (0 to 1) of the values lies, interpolated linearly; None without any."""
    measured = _floats(values)
    measured = measured[~np.isnan(measured)]
    return float(np.quantile(measured, share)) if len(measured) else None


def _draw(units: int, seed: int, draws: int) -> Iterator[Rows]:
    """Yield resamples of the numbers under `units`, as arrays of shape (some draws, units)."""
    random = np.random.default_rng(seed)
    batch = max(1, _CELLS // units)
    for start in range(0, draws, batch):
        yield random.integers(units, size=(min(batch, draws - start), units), dtype=np.intp)


def _units(groups: Sequence[Hashable]) -> tuple[Rows, int]:
    """Return for each row the number of what it is resampled with, and how many groups there are."""
    numbers: dict[Hashable, int] = {}
    units = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
    return (np.arange(len(units)) if len(numbers) == 1 else units), len(numbers)


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def score_answer(
    answer: str, references: Sequence[str], *, abstained: bool, language: str = "en"
) -> dict[str, float | None]:
    """Return `ANSWER_MEASURES` of an answer without its quotes; to abstain is one of the possible right answers.

    A question is unanswerable if each reference is empty or an abstention (`rag.format`): abstaining scores 1 on all
    measures, answering scores 0, and there are no facts to measure. On an answerable question abstaining scores 0, and
    an answer is compared with those references that are none. Without references nothing is measured.
    """
    if not references:
        return dict.fromkeys(ANSWER_MEASURES)
    real = [reference for reference in references if not is_no_answer(reference)]
    if not real or abstained:
        score = float(abstained and not real)
        return {name: None if of("", real) is None else score for name, of in ANSWER_MEASURES.items()}
    told = {name: {"language": language} if MEASURES[name].by_language else {} for name in ANSWER_MEASURES}
    return {name: of(answer, real, **told[name]) for name, of in ANSWER_MEASURES.items()}


def bleu(answer: str, references: Sequence[str]) -> float:
    """Return BLEU-4 of one answer against all references, over lower-cased words, with a penalty for brevity.

    Counts of two to four words are smoothed by one, so that a short answer is not always 0.

    References:
        Papineni et al.: BLEU: a method for automatic evaluation of machine translation. ACL 2002; smoothed as in Lin
        and Och: ORANGE: a method for evaluating automatic evaluation metrics for machine translation. COLING 2004.
    """
    given, wanted = _pieces(answer), [_pieces(one) for one in references]
    if not given or not wanted:
        return 0.0
    logs = []
    for size in range(1, 5):
        most: Counter[tuple[str, ...]] = Counter()
        for one in wanted:
            most |= _grams(one, size)
        said, smooth = _grams(given, size), int(size > 1)
        hits = (said & most).total() + smooth
        if not hits:
            return 0.0
        logs.append(math.log(hits / (said.total() + smooth)))
    nearest = min((abs(len(one) - len(given)), len(one)) for one in wanted)[1]
    return math.exp(min(0.0, 1 - nearest / len(given)) + math.fsum(logs) / len(logs))


def _pieces(text: str) -> list[str]:
    return PIECE.findall(spaced(text.lower())) or text.lower().split()


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _confusion(systems: Sequence[Sequence[str | None]], labels: Sequence[str | None], classes: Sequence[str]) -> Floats:
    """Return for each row, system and class whether it is a hit, predicted, and the label: (rows, systems, classes, 3).

    Rows without a label are NaN.
    """
    names = np.array(list(dict.fromkeys(classes)), dtype=object)
    actual = np.array(labels, dtype=object)[:, None] == names
    counts = np.empty((len(labels), len(systems), len(names), 3))
    for system, predictions in enumerate(systems):
        predicted = np.array(predictions, dtype=object)[:, None] == names
        if len(predicted) != len(actual):
            raise ValueError(f"{len(predicted)} predictions for {len(actual)} labels")
        counts[:, system] = np.stack([predicted & actual, predicted, actual], axis=-1)
    counts[[label is None for label in labels]] = np.nan
    return counts


def _macro(counts: Floats) -> Floats:
    """Return the macro F1 of counts of shape (..., classes, 3)."""
    hits, predicted, actual = np.moveaxis(counts, -1, 0)
    mean: Floats = (2 * hits / np.maximum(predicted + actual, 1)).mean(axis=-1)
    return mean


def recall_at(ranks: Sequence[int | None], k: int) -> float | None:
    """Return the share of relevant chunks found among the first k, from their ranks (from 1; None: not found)."""
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks) if ranks else None


def reciprocal_rank(rank: int | None, depth: int = 10) -> float:
    """Return 1 / the rank (from 1) of the first relevant chunk, 0 if it is not among the first `depth`.

    Its mean over questions is the MRR (Voorhees: The TREC-8 question answering track report. TREC 1999).
    """
    return 1 / rank if rank is not None and rank <= depth else 0.0


def ndcg(relevant_ranks: Sequence[int | None], relevant: int, k: int) -> float | None:
    """Return the normalised discounted cumulated gain at k of binary relevance, discounted by log2(rank + 1).

    The ranks (from 1; None: not found) are those of the `relevant` chunks; ones not found may be left out. None where
    nothing is relevant.

    References:
        Järvelin and Kekäläinen: Cumulated gain-based evaluation of IR techniques. ACM TOIS 20(4), 2002; with the
        discount of Burges et al.: Learning to rank using gradient descent. ICML 2005, which also discounts rank 2.
    """
    if relevant < 1:
        return None
    gain = math.fsum(1 / math.log2(rank + 1) for rank in relevant_ranks if rank is not None and rank <= k)
    return gain / math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, k) + 1))


def macro_f1_interval(
    predictions: Sequence[str | None], labels: Sequence[str | None], groups: Sequence[Hashable], classes: Sequence[str]
) -> Interval | None:
    """Return the mean over `classes` of each class's F1, with the interval of `bootstrap_mean`.

    A class that is neither predicted nor a label counts 0. Rows without a label are left out; a prediction that is
    none of the classes lowers the recall of its row's label, and no class's precision.
    """
    counts = _confusion([predictions], labels, classes)
    return bootstrap_sums(counts, groups, lambda sums: _macro(sums)[:, 0])


def macro_f1_difference(
    ours: Sequence[str | None],
    theirs: Sequence[str | None],
    labels: Sequence[str | None],
    groups: Sequence[Hashable],
    classes: Sequence[str],
) -> Interval | None:
    """Return how much greater our macro F1 is than theirs on the same rows, as `macro_f1_interval` measures it."""
    counts = _confusion([ours, theirs], labels, classes)

    def difference(sums: Floats) -> Floats:
        both = _macro(sums)
        return both[:, 0] - both[:, 1]

    return bootstrap_sums(counts, groups, difference)
