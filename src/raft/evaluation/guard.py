"""A guard over a candidate: it may be looked at after every reply, and stops a sound one in at most 5 of 100 cases.

Each reply tells four things: whether it was unsupported, an abstention, an error, or slow. For each the test asks
whether the candidate has more of them than production, by betting against "no more": replies are taken in blocks of so
many from either side, sizes chosen before the block begins. With rates `p` of production and `c` of the candidate, and
`m` their mean over the block's replies, the product of `c/m` (or `(1-c)/(1-m)`, where it did not happen) of the
candidate's and `p/m` of production's replies is on average at most 1 for whatever true rates, where those of the
candidate are no higher (Turner, Ly and Gruenwald, arXiv 2106.02693; for rates that are no higher rather than equal,
Turner and Gruenwald, arXiv 2203.09785: by the inequality of the means, also where rates change from block to block).
The evidence is the mean of such products over a grid of rates (the method of mixtures). By Ville's inequality it ever
reaches 80 in at most one of 80 cases; over the four together in at most one of 20.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np

Arm = Literal["production", "candidate"]
SIGNALS = {
    "unsupported": "unsupported answers",
    "abstained": "abstentions",
    "failed": "errors",
    "slow": "slow replies",
}
"""What is watched, and what it is called."""
MISTAKES = 0.05
"""In how many cases a candidate that is no worse may be stopped, all signals together."""
LIMIT = len(SIGNALS) / MISTAKES
"""Evidence in one signal at which a candidate is stopped."""
EACH = 10
"""Replies of one conversation that count, its first: no caller alone shall decide."""

_RATES = (0.003, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.55)  # of production
_MORE = (0.4, 0.75, 1.25, 2.0, 3.5, 6.0)  # by how much the log odds of the candidate are higher
_LARGEST, _FIRST, _LATEST, _QUANTILE = 100, 50, 500, 0.95
_SEATS = 1 << 20
_ARMS: tuple[Arm, Arm] = ("production", "candidate")


@dataclass(frozen=True)
class Seen:
    """What a reply told; `seconds` are those that the answer took (without its wait for the model), None: unknown."""

    unsupported: bool = False
    abstained: bool = False
    failed: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Figure:
    """One signal: how often it happened among the replies of either side, and the evidence that the candidate is worse."""

    name: str
    candidate: int
    candidate_replies: int
    production: int
    production_replies: int
    evidence: float

    def __str__(self) -> str:
        ours = _share(self.candidate, self.candidate_replies)
        theirs = _share(self.production, self.production_replies)
        told = f"{self.evidence:.3g} to 1; {LIMIT:g} to 1 is the limit"
        return f"{SIGNALS[self.name]}: {ours} of the candidate's replies, {theirs} of production's (evidence {told})"


class Guard:
    """The test of one candidate against one production.

    Attributes:
        crossed: the signal that reached the limit first, as it was then; None while none has.
    """

    def __init__(self) -> None:
        self.crossed: Figure | None = None
        self._bets = np.zeros((len(SIGNALS), len(_RATES) * len(_MORE)))  # logarithms of products
        self._came = dict.fromkeys(_ARMS, 0)
        self._counts = {arm: np.zeros(len(SIGNALS) + 1, dtype=np.int64) for arm in _ARMS}
        self._waiting = {arm: deque[Seen](maxlen=2 * _LARGEST) for arm in _ARMS}
        self._sizes = dict.fromkeys(_ARMS, 1)
        self._lately, self._slow, self._until_slow = deque[float](maxlen=_LATEST), math.inf, _FIRST
        self._seats = np.zeros(_SEATS, dtype=np.uint8)

    def saw(self, arm: Arm, seen: Seen, conversation: str = "") -> Figure | None:
        """Take in a reply, and return what crossed the limit now or before.

        Args:
            arm: who answered.
            seen: what the reply told.
            conversation: hexadecimal digits that stand for it, of which the first `EACH` replies count; "": unknown.
        """
        if not conversation or self._seated(conversation):
            self._came[arm] += 1
            self._waiting[arm].append(seen)
            while all(len(self._waiting[one]) >= self._sizes[one] for one in _ARMS):
                self._bet()
        return self.crossed

    def figures(self) -> list[Figure]:
        """Return each signal as it stands, by the replies of the blocks that are whole."""
        ours, theirs = self._counts["candidate"], self._counts["production"]
        return [
            Figure(name, int(ours[at]), int(ours[-1]), int(theirs[at]), int(theirs[-1]), evidence)
            for at, (name, evidence) in enumerate(zip(SIGNALS, self._evidence().tolist(), strict=True))
        ]

    def _evidence(self) -> np.ndarray:
        return np.exp(np.minimum(self._bets, 700)).mean(axis=1)

    def _bet(self) -> None:
        """Bet on a block that is whole, then choose how large the next one is, and from when on a reply is slow."""
        for arm, (otherwise, happened) in zip(_ARMS, _factors(*(self._sizes[arm] for arm in _ARMS)), strict=True):
            size = self._sizes[arm]
            block = [self._waiting[arm].popleft() for _ in range(size)]
            times = [sum(told) for told in zip(*(self._told(one) for one in block), strict=True)]
            self._counts[arm] += [*times, size]
            self._bets += np.outer(times, happened - otherwise) + size * otherwise
            if arm == "production":
                self._lately.extend(one.seconds for one in block if one.seconds is not None)
                self._until_slow -= size
        if self.crossed is None and self._evidence().max() >= LIMIT:
            self.crossed = max(self.figures(), key=lambda one: one.evidence)
        theirs, ours = (self._came[arm] for arm in _ARMS)
        self._sizes = {"production": _times(theirs, ours), "candidate": _times(ours, theirs)}
        if self._until_slow <= 0 and len(self._lately) >= _FIRST:
            self._slow, self._until_slow = float(np.quantile(self._lately, _QUANTILE)), _FIRST

    def _told(self, seen: Seen) -> tuple[bool, ...]:
        slow = seen.seconds is not None and seen.seconds > self._slow
        return seen.unsupported, seen.abstained, seen.failed, slow

    def _seated(self, conversation: str) -> bool:
        """Tell whether a reply of a conversation counts still; of many conversations a few share a seat."""
        seat = int(conversation[:12], 16) % _SEATS
        free = bool(self._seats[seat] < EACH)
        self._seats[seat] += free
        return free


def _times(many: int, few: int) -> int:
    return max(1, min(_LARGEST, round(many / few)))


@lru_cache(maxsize=512)
def _factors(production: int, candidate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for production and candidate the logarithms of the bets' factors: where it did not happen, and where."""
    theirs, ours = np.array(list(_alternatives())).T
    mean = (production * theirs + candidate * ours) / (production + candidate)
    rows = [np.log([(1 - rate) / (1 - mean), rate / mean]) for rate in (theirs, ours)]
    return rows[0], rows[1]


def _alternatives() -> Iterator[tuple[float, float]]:
    for rate, more in product(_RATES, _MORE):
        odds = rate / (1 - rate) * math.exp(more)
        yield rate, odds / (1 + odds)


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,}" + (f" ({100 * count / of:.1f} %)" if of else "")
