"""How many calls may be in the air at once, and how fast they may follow each other.

Two things are learned from what comes back. The most calls in flight grows while replies come in time and is halved
when the endpoint says that it is busy (as TCP does with its window). Where an endpoint limits calls a minute, that
alone would hit the limit again and again; so the rate at which calls are accepted is measured as well, kept to, and
raised by little steps. Time is the running event loop's, so that a simulated one can drive it.
"""

import asyncio
from collections import deque
from typing import Literal

_FIRST = 8  # calls in flight at the beginning
_SLOWER = 4.0  # replies that take so many times as long as they did say that more calls would only queue
_SHUT = 0.3  # share of the last calls that were turned away, from which the endpoint counts as shut
_MEMORY = 6.0  # calls over which that share is taken
_QUICK = 3.0  # seconds; an endpoint that opens again as soon refills by and by, one shut for longer counts by periods
_HISTORY = 90.0  # seconds of accepted calls that are remembered; longer than the minute that limits are stated for
_FEELING, _UNSURE, _SURE = 1.0, 30.0, float("inf")  # seconds in which a rate doubles, by what is known of it
_SAME = 1e-9  # seconds, less than which are rounding
_CATCH_UP = 0.05  # seconds that a late timer may make up for
_BELOW, _LEAST = 0.985, 0.7  # how far below the measured rate calls go on, and the furthest fall at once
_TELLING = 20  # accepted calls that a rate is measured over, at least
_OFTEN = 50  # accepted calls; cuts that follow each other sooner are too many
_ENGAGE = 3  # such cuts until the rate is blamed
_FUTILE = 0.6  # share of a rate that was taken before, below which calls that are turned away acquit it
_FREE = 2000  # accepted calls for which it is then free, at first
_STEADY = 100.0  # calls over which the share of those turned away is taken, to tell whether it is what it was
_AS_BEFORE = (2.0, 0.03)  # how much more of that is still taken for chance: so many times as much, or so much more
_TOLD = 0.98  # share of a limit that the endpoint states


class Pace:
    """Decides when the next call may be sent.

    Args:
        most: most calls in flight.
        requests_per_minute: most calls a minute; None for what the endpoint takes.
        tokens_per_minute: most tokens a minute, likewise.

    Attributes:
        limit: how many calls may be in flight at present.
        in_flight: how many are.
    """

    def __init__(
        self, most: int, *, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        self.limit, self.in_flight = float(min(most, _FIRST)), 0
        self._most = most
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._due = {"requests": 0.0, "tokens": 0.0, "learned": 0.0}
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._starting, self._full_at = True, -1.0
        self._seconds, self._best, self._replies = 0.0, float("inf"), 0
        self._pause_until, self._cut_at = 0.0, -1.0
        self._share, self._shut_at, self._opened_at, self._probes = 0.0, -1.0, -1.0, 0
        self._rate: float | None = None  # as it was at _rate_at; see _rate_now
        self._rate_at, self._doubling = 0.0, _SURE
        self._accepted, self._cut_accepted, self._short_cuts = 0, 0, 0
        self._steady, self._chance, self._taken = 0.0, 0.0, 0.0
        self._free, self._free_until = _FREE, 0
        self._history: deque[tuple[float, int]] = deque()
        self._marks: deque[tuple[float, int]] = deque(maxlen=4)

    async def enter(self, tokens: int) -> None:
        """Wait until one more call, of so many tokens, may be sent; those who came first go first."""
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
            wait = max(*self._due.values(), self._pause_until) - loop.time()
            if granted.done():
                self._waiting.popleft()
            elif wait > 1e-6:
                if self._timer is None:  # what comes back meanwhile may shorten or lengthen the wait
                    self._timer = loop.call_later(min(wait, 0.25), self._wake)
                return
            else:
                self._waiting.popleft()
                self._book(loop.time(), tokens)
                self.in_flight += 1
                if self.in_flight >= int(self.limit):
                    self._full_at = loop.time()
                granted.set_result(None)

    def _wake(self) -> None:
        self._timer = None
        self._admit()

    def leave(
        self, outcome: Literal["ok", "busy", "broken"], *, seconds: float, retry_after: float | None = None
    ) -> None:
        """Say what became of a call.

        Args:
            outcome: "ok" when it was taken, whatever the reply; "busy" when the endpoint wants fewer calls.
            seconds: since it was sent.
            retry_after: seconds that the endpoint asks everybody to wait.
        """
        now = asyncio.get_running_loop().time()
        self.in_flight -= 1
        begun = now - seconds
        if outcome == "busy":
            self._slow_down(now, begun, retry_after)
        elif outcome == "ok":
            self._accepted += 1
            self._remember(now)
            self._share -= self._share / _MEMORY
            self._steady -= self._steady / _STEADY
            if self._shut_at >= 0 and begun >= self._shut_at - _SAME:
                self._reopen(now, begun)
            self._grow(begun, seconds)
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
        if self._shut_at >= 0:  # one call at a time feels whether it is open again
            longest = 5.0 if now - self._shut_at < 120 else 30.0
            self._pause_until = now + min(0.5 * 2**self._probes, longest)
            self._probes += 1

    def _spacing(self, now: float) -> float:
        if self._rate is not None:
            return 1 / self._rate_now(now)
        # replies that came together would send the next calls together, and such a volley passes any limit
        return 0.0 if self._starting else self._seconds / (1.25 * self.limit)

    def _grow(self, begun: float, seconds: float) -> None:
        self._replies += 1
        self._seconds += (seconds - self._seconds) / min(self._replies, 16)
        if self._replies >= _FIRST:
            self._best = min(self._best, self._seconds)
        used = self._full_at >= begun - _SAME  # a limit that was not reached meanwhile may be far too high already
        if used and self._seconds <= _SLOWER * self._best:
            step = 1.0 if self._starting else max(1.0, self._most / 16) / self.limit
            self.limit = min(self._most, self.limit + step)

    def _slow_down(self, now: float, begun: float, retry_after: float | None) -> None:
        if retry_after is not None:
            self._pause_until = max(self._pause_until, now + retry_after)
        if self._shut_at >= 0 or begun < self._opened_at - _SAME:
            return  # this one says nothing new
        self._share += (1 - self._share) / _MEMORY
        self._steady += (1 - self._steady) / _STEADY
        if self._is_chance():
            return
        if begun >= self._cut_at - _SAME:  # all that were in the air at a cut count as one sign
            self._starting = False
            self._short_cuts = self._short_cuts + 1 if self._accepted - self._cut_accepted < _OFTEN else 0
            self._blame(now)
            if self._chance:
                return
            self.limit = max(1.0, self.limit / 2, self._needed(now))
            self._cut_at, self._cut_accepted = now, self._accepted
            self._marks.append((now, self._accepted))
        if self._share > _SHUT:
            if self._feeling:  # found; what was taken on the way there tells nothing
                self._set_rate(now, _LEAST * self._rate_now(now), _UNSURE)
                self._marks.clear()
            self._shut_at, self._probes, self._short_cuts = now, 0, 0
            self._pause_until = max(self._pause_until, now + 0.25)

    def _blame(self, now: float) -> None:
        """Find the rate that the endpoint takes, at a cut; or stop believing in one where obeying it is of no use."""
        measured = self._measured(now)
        if self._rate is None:
            if self._short_cuts >= _ENGAGE and self._accepted >= self._free_until and measured is not None:
                self._set_rate(now, measured * _BELOW)
                self._taken = measured
        elif self._feeling:
            if self._rate_now(now) * self._seconds > 2 * self._most:
                self._rate = None  # it takes whatever can be in flight
        elif measured is not None and measured < _FUTILE * self._taken:
            self._acquit()
        else:
            self._taken = max(self._taken, measured or 0.0)
            self._lower(now)

    def _acquit(self) -> None:
        """Stop believing in a rate: calls are turned away at a pace at which more were taken before."""
        self._rate, self._taken, self._short_cuts, self._starting = None, 0.0, 0, True
        self._chance = self._steady
        self._free_until, self._free = self._accepted + self._free, 2 * self._free

    def _is_chance(self) -> bool:
        """Tell whether no more calls are turned away than slowing down was found to be of no use against."""
        times, more = _AS_BEFORE
        if self._steady > max(times * self._chance, self._chance + more):
            self._chance, self._free_until = 0.0, min(self._free_until, self._accepted)
        elif self._accepted >= self._free_until:
            self._chance = 0.0
        return self._chance > 0

    def _lower(self, now: float) -> None:
        present, measured = self._rate_now(now), self._measured(now)
        if measured is not None:  # far from where it was, what was measured tells more of the way than of the place
            rate = max(_LEAST * present, min(present, measured)) * _BELOW
            self._set_rate(now, rate, _SURE if rate > 0.85 * present else _UNSURE)
        else:
            self._set_rate(now, present * max(_LEAST, 1.07 - self._share), _UNSURE)

    def _reopen(self, now: float, sent: float) -> None:
        """Go on after the endpoint was shut: `sent` is when the first call was sent that it took."""
        begin, before = self._history[0]
        count = self._accepted - before
        quick = sent - self._shut_at < _QUICK
        self._shut_at, self._opened_at, self._cut_at = -1.0, now, now
        self._share, self._pause_until = 0.0, min(self._pause_until, now)
        if self._marks:
            self._marks.pop()  # that of the cut: a period ends where the next one begins
        if self._rate is None and (quick or count < _TELLING):
            self._set_rate(now, max(1.0, count / 60, count / max(1.0, sent - begin) / 8), _FEELING)
        elif self._rate is None:
            self._set_rate(now, count / (sent - begin))
        elif self._measured(sent) is not None:
            self._lower(sent)
        self._marks.append((sent, self._accepted))
        self.limit = min(self._most, max(self.limit, self._needed(now)))

    @property
    def _feeling(self) -> bool:
        return self._rate is not None and self._doubling == _FEELING

    def _set_rate(self, now: float, rate: float, doubling: float = _SURE) -> None:
        self._rate, self._rate_at, self._doubling = rate, now, doubling

    def _rate_now(self, now: float) -> float:
        # the less is known of it, the faster it rises; one that is known rises faster when nothing happened for long
        age = now - self._rate_at
        if self._doubling == _SURE:
            return (self._rate or 0.0) * (1 + 0.001 * age) * 2 ** min(max(0.0, age - 120) / 60, 20.0)
        return (self._rate or 0.0) * 2 ** min(age / (self._doubling * max(1.0, 2 * self._seconds)), 20.0)

    def _measured(self, now: float) -> float | None:
        """Return how many calls a second were taken since a moment at which the endpoint had turned calls away."""
        for then, accepted in self._marks:
            if self._accepted - accepted >= _TELLING and now > then:
                return (self._accepted - accepted) / (now - then)
        return None

    def _needed(self, now: float) -> float:
        """Return how many calls are in flight at the learned rate (Little's law), with some room."""
        return 0.0 if self._rate is None else min(self._most, 1 + 1.25 * self._rate_now(now) * self._seconds)

    def _remember(self, now: float) -> None:
        if not self._history or now - self._history[-1][0] >= 1:
            self._history.append((now, self._accepted - 1))
        while now - self._history[0][0] > _HISTORY:
            self._history.popleft()
