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
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np

Arm = Literal["production", "candidate"]
SIGNALS = {"unsupported": "unsupported answers", "abstained": "abstentions", "failed": "errors", "slow": "slow replies"}
"""What is watched, and what it is called."""
MISTAKES = 0.05
"""In how many cases a candidate that is no worse may be stopped, all signals together."""
LIMIT = len(SIGNALS) / MISTAKES
"""Evidence in one signal at which a candidate is stopped."""
EACH = 10
"""Replies of one conversation that count, its first."""

_RATES = (0.003, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.55)  # of production
_MORE = (0.4, 0.75, 1.25, 2.0, 3.5, 6.0)  # by how much the log odds of the candidate are higher
_CALM = 10  # replies of either side that are thought to have come before: the first do not make blocks lopsided
_LARGEST, _FIRST, _LATEST, _QUANTILE = 100, 50, 500, 0.95
_SEATS = 1 << 22
_ARMS: tuple[Arm, Arm] = ("production", "candidate")


@dataclass(frozen=True)
class Seen:
    """What a reply told.

    `seconds` are those that the model took (without the wait for it); None where they are unknown, or cannot be
    compared: a call takes longer the more answers it makes, and the larger share has the larger calls.
    """

    unsupported: bool = False
    abstained: bool = False
    failed: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Figure:
    """One signal: how often it happened on either side, and the evidence that it happens more with the candidate."""

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
        self._tests = {name: _Slow() if name == "slow" else _Test() for name in SIGNALS}
        self._seats = np.zeros(_SEATS, dtype=np.uint8)

    def saw(self, arm: Arm, seen: Seen, conversation: str = "", question: str = "") -> Figure | None:
        """Take in a reply, and return what crossed the limit now or before.

        The bets take replies as independent. So the same question again in a conversation, as where somebody tries once
        more, does not count, nor does more than `EACH` replies of one conversation.

        Args:
            arm: who answered.
            seen: what the reply told.
            conversation: stands for it; "": unknown, and the reply counts.
            question: what was asked; "": unknown.
        """
        if self.crossed is None and self._counts(arm, conversation, question):
            told = {"unsupported": seen.unsupported, "abstained": seen.abstained, "failed": seen.failed}
            for name, value in {**told, "slow": seen.seconds}.items():
                if value is not None and self._tests[name].saw(arm, value) >= LIMIT and self.crossed is None:
                    self.crossed = self._tests[name].figure(name)
        return self.crossed

    def figures(self) -> list[Figure]:
        """Return each signal as it stands, by the replies of the blocks that are whole."""
        return [test.figure(name) for name, test in self._tests.items()]

    def _counts(self, arm: Arm, conversation: str, question: str) -> bool:
        if not conversation or (question and not self._seated(f"{arm} {conversation} {question}", 1)):
            return not conversation
        return self._seated(f"{arm} {conversation}", EACH)

    def _seated(self, name: str, most: int) -> bool:
        """Take a seat of those of a name, and tell whether there was one; of very many names some share theirs."""
        seat = zlib.crc32(name.encode("utf-8", "surrogatepass")) % _SEATS
        free = bool(self._seats[seat] < most)
        self._seats[seat] += free
        return free


class _Test:
    """The bets on one signal, which happened where a reply's value is above `limit`."""

    limit = 0.5

    def __init__(self) -> None:
        self._bets = np.zeros(len(_RATES) * len(_MORE))  # logarithms of products
        self._came, self._bet_on, self._happened = (dict.fromkeys(_ARMS, 0) for _ in range(3))
        self._waiting = {arm: deque[float](maxlen=2 * _LARGEST) for arm in _ARMS}
        self._sizes, self._evidence = dict.fromkeys(_ARMS, 1), 1.0

    def saw(self, arm: Arm, value: float) -> float:
        """Take in a value, and return the evidence."""
        self._came[arm] += 1
        self._waiting[arm].append(value)
        while all(len(self._waiting[one]) >= self._sizes[one] for one in _ARMS):
            self._bet()
        return self._evidence

    def figure(self, name: str) -> Figure:
        """Return the signal as it stands."""
        ours, theirs = ((self._happened[arm], self._bet_on[arm]) for arm in reversed(_ARMS))
        return Figure(name, *ours, *theirs, self._evidence)

    def _bet(self) -> None:
        """Bet on a block that is whole, then choose how large the next one is."""
        blocks = {arm: [self._waiting[arm].popleft() for _ in range(size)] for arm, size in self._sizes.items()}
        factors = _factors(*self._sizes.values())
        self._bets += factors["nothing"]
        for arm, block in blocks.items():
            if happened := sum(value > self.limit for value in block):
                self._bets += happened * factors[arm]
                self._happened[arm] += happened
            self._bet_on[arm] += len(block)
        self._evidence = float(np.exp(self._bets).sum()) / self._bets.size
        theirs, ours = (came + _CALM for came in self._came.values())
        self._sizes = {"production": _times(theirs, ours), "candidate": _times(ours, theirs)}
        self._learn(blocks["production"])

    def _learn(self, values: list[float]) -> None:
        """Choose the limit for the next block."""


class _Slow(_Test):
    """Slow is what takes longer than 19 in 20 of production's latest, of those that were bet on."""

    limit = math.inf

    def __init__(self) -> None:
        super().__init__()
        self._lately, self._new = deque[float](maxlen=_LATEST), 0

    def _learn(self, values: list[float]) -> None:
        self._lately.extend(values)
        self._new += len(values)
        if self._new >= _FIRST:
            self.limit, self._new = float(np.quantile(self._lately, _QUANTILE)), 0


def _times(many: int, few: int) -> int:
    return max(1, min(_LARGEST, round(many / few)))


@lru_cache(maxsize=512)
def _factors(production: int, candidate: int) -> dict[str, np.ndarray]:
    """Return the logarithms of the bets' factors for a block of so many replies of either side.

    `nothing` is for a block in which it never happens, `production` and `candidate` what is added for each reply of
    theirs in which it does.
    """
    theirs, ours = np.array(list(_alternatives())).T
    mean = (production * theirs + candidate * ours) / (production + candidate)
    otherwise = [np.log((1 - rate) / (1 - mean)) for rate in (theirs, ours)]
    more = [np.log(rate / mean) - other for rate, other in zip((theirs, ours), otherwise, strict=True)]
    nothing = production * otherwise[0] + candidate * otherwise[1]
    return {"nothing": nothing, "production": more[0], "candidate": more[1]}


def _alternatives() -> Iterator[tuple[float, float]]:
    for rate, more in product(_RATES, _MORE):
        odds = rate / (1 - rate) * math.exp(more)
        yield rate, odds / (1 + odds)


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,}" + (f" ({100 * count / of:.1f} %)" if of else "")
