"""How sure one can be of a mean, a difference or a rate: 95 percent intervals.

Questions about one document succeed and fail together, so that whole documents are resampled. What was not measured is
None (or NaN) in, and left out; None comes out where nothing was measured.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOO_FEW = 20
"""Under 20 documents: too few to tell. The percentile bootstrap is too narrow there."""
DRAWS = 2000
"""Resamples of an interval; about 1,000 are the least for steady ends (Efron and Tibshirani 1993)."""

_TAILS = (0.025, 0.975)
_Z = 1.959963984540054  # of the normal distribution's 97.5 percent
_CELLS = 4_000_000  # most numbers of one batch of resamples: 32 MB

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 percent interval.

    Attributes:
        value: the measure over all questions.
        low: lower end.
        high: upper end.
        questions: how many were measured.
        groups: how many documents they come from; under `TOO_FEW` the interval is too narrow to decide by.
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
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return the mean of `ours - theirs` over the questions that both measured, as `bootstrap_mean` does."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    return bootstrap_mean((_floats(ours) - _floats(theirs)).tolist(), groups, seed=seed, draws=draws)


def bootstrap_sums(
    rows: Floats,
    groups: Sequence[Hashable],
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return a statistic of sums over rows, with the interval of `bootstrap_mean`; fast: groups are summed once.

    Args:
        rows: an array whose first axis counts rows; a row that holds NaN is left out.
        groups: the document of each row.
        statistic: takes sums of shape (some draws, *shape of a row) and returns a number a draw.
        seed: of the draws.
        draws: how many resamples.

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
