"""How many calls may be in flight at once, and how fast they may follow each other.

Additive increase and multiplicative decrease (Chiu and Jain 1989, doi:10.1016/0169-7552(89)90019-6), from a start that
doubles. Where calls a minute are limited and nobody says to how many, that alone would hit the limit at each round
trip: after a few cuts in a row the rate at which calls are taken is kept to instead, and given up again where that does
not help. What the endpoint says is obeyed. Time is the running event loop's, so that a simulated one can drive it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

_FIRST = 8  # calls in flight at the beginning
_ALONE_SECONDS = 3.0  # that others wait for what an unknown endpoint replies to the first call
_SLOWER = 4.0  # replies that take so many times as long as they did say that more calls would only queue
_SAME = 1e-9  # seconds, less than which are rounding
_NOW = 1e-6  # seconds that nobody waits for
_CATCH_UP = 0.05  # seconds that a late timer may make up for
_OFTEN = 50  # accepted calls; cuts that follow each other sooner are too many
_TELLING = 20  # accepted calls that a rate is measured over, at least
_BELOW = 0.985  # share of the measured rate at which calls go on
_FUTILE = 0.6  # share of the calls that were taken before, below which keeping to a rate is of no use
_MEMORY = 50.0  # calls over which the share of those turned away is taken
_SHUT = 3.0  # seconds without a call that is taken, after which an endpoint counts by periods
_CHANCE = 0.15  # share of calls turned away that is borne where slowing down was of no use
_TOLD = 0.98  # share of a limit that the endpoint states
_LONGEST_PAUSE = 6.0  # seconds between two calls that feel whether an endpoint takes any again


class RateLimiter:
    """Decides when the next call may be sent.

    Args:
        most: most calls in flight, ever; `limit` is how many may be at present, `in_flight` how many are.
        requests_per_minute: most calls a minute; None for what the endpoint takes.
        tokens_per_minute: most tokens a minute, likewise.
        alone: the first call goes alone, for nothing is known of the endpoint: what it refuses, it refuses once.

    Attributes:
        more: called when others may go beside the first call; for whoever keeps those that wait (`Endpoints`).
    """

    def __init__(
        self,
        most: int,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        alone: bool = False,
    ) -> None:
        self.limit, self.in_flight = 1.0 if alone else float(min(most, _FIRST)), 0
        self.most, self._alone = most, alone
        self.more: Callable[[], None] = lambda: None
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._due = {"requests": 0.0, "tokens": 0.0, "learned": 0.0}
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._starting, self._full_at = True, -1.0
        self._seconds, self._best, self._replies = 0.0, float("inf"), 0
        self._pause_until, self._cut_at, self._refused = 0.0, -1.0, 0
        self._accepted, self._free, self._free_until = 0, 2000, 0
        self._taken = 0.0
        self._rate: float | None = None  # calls a second, as learned at the last cut
        self._rate_at, self._first_cut_at, self._cuts, self._share = 0.0, 0.0, 0, 0.0
        self._mark: tuple[float, int] | tuple[()] = ()  # since when cuts are counted, and calls accepted before

    async def enter(self, tokens: int) -> None:
        """Wait until one more call, of so many tokens, may be sent; those who came first go first."""
        self._begin()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, tokens))
        self._admit()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # it was granted and is not used
                self.in_flight -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in all who may be sent now; those who came first go first."""
        loop = asyncio.get_running_loop()
        while self._waiting and self.in_flight < max(1, int(self.limit)):
            granted, tokens = self._waiting[0]
            wait = self.wait(loop.time())
            if granted.done():
                self._waiting.popleft()
            elif wait:
                if self._timer is None:  # what comes back meanwhile may shorten or lengthen the wait
                    self._timer = loop.call_later(min(wait, 0.25), self._wake)
                return
            else:
                self._waiting.popleft()
                self.take(loop.time(), tokens)
                granted.set_result(None)

    def wait(self, now: float) -> float:
        """Return the seconds until one more call may be sent: 0 for now, infinity where one has to come back first."""
        if self.in_flight >= max(1, int(self.limit)):
            return float("inf")
        wait = max(*self._due.values(), self._pause_until) - now
        return wait if wait > _NOW else 0.0

    def take(self, now: float, tokens: int) -> None:
        """Note that a call of so many tokens is sent; for whoever asked `wait` and keeps those that wait."""
        self._begin()
        self._book(now, tokens)
        self.in_flight += 1
        if self.in_flight >= int(self.limit):
            self._full_at = now

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._mark and self._alone:
            loop.call_later(_ALONE_SECONDS, self._open)
        self._mark = self._mark or (loop.time(), 0)

    def _open(self) -> None:
        """Let others go beside the first call, whose outcome is known or takes long."""
        if self._alone:
            self._alone, self.limit = False, max(self.limit, float(min(self.most, _FIRST)))
            self._admit()
            self.more()

    def _wake(self) -> None:
        self._timer = None
        self._admit()

    def leave(
        self, outcome: Literal["ok", "busy", "broken"], *, seconds: float, retry_after: float | None = None
    ) -> None:
        """Say what became of a call, so many `seconds` after it was sent.

        "ok": it was taken, whatever the reply; "busy": the endpoint wants fewer calls, and asks everybody to wait for
        `retry_after` seconds.
        """
        now = asyncio.get_running_loop().time()
        self.in_flight -= 1
        if outcome == "busy":
            self._slow_down(now, now - seconds, retry_after)
        elif outcome == "ok":
            self._open()
            self._accepted += 1
            self._refused = 0
            self._share -= self._share / _MEMORY
            if self._cuts and now - seconds >= self._first_cut_at - _SAME:
                self._learn(now - seconds)
            self._grow(now - seconds, seconds)
        self._admit()

    def advise(self, *, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """Take note of limits that the endpoint states; they can only make a set limit stricter."""
        if requests_per_minute is not None and requests_per_minute > 0:
            self._requests = min(self._requests or float("inf"), requests_per_minute * _TOLD)
        if tokens_per_minute is not None and tokens_per_minute > 0:
            self._tokens = min(self._tokens or float("inf"), tokens_per_minute * _TOLD)

    def _book(self, now: float, tokens: int) -> None:
        spans = {
            "requests": 60 / self._requests if self._requests else 0.0,
            "tokens": tokens * 60 / self._tokens if self._tokens else 0.0,
            "learned": self._spacing(now),
        }
        for name, span in spans.items():
            self._due[name] = max(self._due[name], now - _CATCH_UP) + span

    def _spacing(self, now: float) -> float:
        if self._rate is not None:
            return 1 / self._rate_now(now)
        # replies that came together would send the next calls together, and such a volley passes any limit
        return 0.0 if self._starting else self._seconds / (1.25 * self.limit)

    def _rate_now(self, now: float) -> float:
        age = now - self._rate_at
        growth: float = 1.001 ** min(age + age**2 / 20, 1e4)  # slow at first, then faster
        return (self._rate or 0.0) * growth

    def _grow(self, begun: float, seconds: float) -> None:
        self._replies += 1
        self._seconds += (seconds - self._seconds) / min(self._replies, 16)
        if self._replies >= _FIRST:
            self._best = min(self._best, self._seconds)
        used = self._full_at >= begun - _SAME  # a limit that was not reached meanwhile may be far too high already
        if used and self._seconds <= _SLOWER * self._best:
            step = 1.0 if self._starting else max(1.0, self.most / 16) / self.limit
            self.limit = min(self.most, self.limit + step)

    def _slow_down(self, now: float, begun: float, retry_after: float | None) -> None:
        self._pause_until = max(self._pause_until, now + (retry_after or 0.0))
        self._share += (1 - self._share) / _MEMORY
        if begun < self._cut_at - _SAME:
            return  # all that were in flight at a cut count as one sign
        if self._share >= _CHANCE:
            self._free_until = self._accepted
        elif retry_after == 0 or self._accepted < self._free_until:
            return  # to come again at once is no wish for fewer calls, and slowing down was of no use
        self._refused += 1
        if self._refused > 1 and not retry_after:
            self._pause_until = max(self._pause_until, now + min(0.25 * 2 ** min(self._refused, 9), _LONGEST_PAUSE))
        self._cuts += 1
        if self._cuts == 1:
            self._first_cut_at = now
        self._starting, self._alone, self._cut_at = False, False, now
        self.limit = max(1.0, self.limit / 2)
        if self._rate is not None:  # Little's law, with some room
            self.limit = min(self.most, max(self.limit, 1 + 1.25 * self._rate * self._seconds))

    def _learn(self, now: float) -> None:
        """Take up a rate where cuts come often, lower it where it is too high, give it up where that is of no use."""
        since, before = self._mark or (now, 0)
        count = self._accepted - before
        if count < _TELLING or now <= since:
            return
        often, taken = count < _OFTEN * self._cuts, count / (now - since)
        self._mark, self._cuts = (now, self._accepted), 0
        if self._rate is None:
            if (often or now - self._first_cut_at > _SHUT) and self._accepted >= self._free_until:
                self._set_rate(now, taken * _BELOW)
                self._taken = taken
        elif taken < _FUTILE * self._taken and self._share < _CHANCE:
            self._rate, self._starting = None, True
            self._free_until, self._free = self._accepted + self._free, 2 * self._free
        else:
            self._taken = max(self._taken, taken) if self._share < _CHANCE else taken
            self._set_rate(now, min(self._rate_now(now), taken) * _BELOW)

    def _set_rate(self, now: float, rate: float) -> None:
        self._rate, self._rate_at = rate, now
