"""Several addresses of one model: where the next call goes, and who is left out for a while.

A call goes where the fewest are in flight. An endpoint that fails is left out, each time for longer, and has to answer
a single call before others follow. What one reply says of the endpoint is decided here; when to give up is not.
"""

import asyncio
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from raft.backends.hosted.errors import AccessDenied, Fault, RateLimited, Transport
from raft.backends.hosted.rate_limit import RateLimiter

_FIRST_OUT, _LONGEST_OUT = 0.5, 30.0  # seconds that an endpoint is left out
_FAULTS = 3  # in a row, after which an endpoint is left out though it answered not long ago
_NOW = 1e-6  # seconds that nobody waits for
_TOLD = ("where", "answered", "left_out", "words", "denied")  # of a tally
_NUMBERS = count(1)
HOPELESS = 8
"""Single calls in a row that an endpoint did not answer; where all have come to it, none is asked any more."""


@dataclass
class Tally:
    """What became of the calls to one endpoint, over all pools of a model.

    Attributes:
        where: its address, as it is shown.
        answered: replies that were kept.
        left_out: how often it was left out.
        words: what it, or the network, said when it last failed, without its address.
        denied: whether it refuses all calls, as with a wrong key or an unknown model.
        until: until when it is left out, as far as the pool knows that heard of it last.
        outs: how often in a row, likewise.
        used: when it was last taken, as a number that grows.
    """

    where: str
    answered: int = 0
    left_out: int = 0
    words: str = ""
    denied: bool = False
    until: float | None = None
    outs: int = 0
    used: int = 0


def _bare(words: str, where: str) -> str:
    """Return what was said of an endpoint without its address, which is told beside it."""
    return re.sub(rf"\s(?:(?:to|at|by|of|from)\s)?{re.escape(where.rstrip('/'))}[\w/.-]*\b", "", f" {words}").strip()


def endpoint_facts(name: str, tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return the facts of a model's "endpoints" for whoever is told of progress; none where it has one alone."""
    told = [{fact: getattr(one, fact) for fact in _TOLD} for one in tallies]
    return {"model": name, "endpoints": told} if len(told) > 1 else {}


@dataclass
class Standing:
    """How one endpoint stands in one pool, as the last pool left it. Times are seconds of one clock, whichever it is.

    Attributes:
        until: until when it is left out; None: it takes calls.
        trying: whether a single call is out to see if it answers again.
        denied: whether it refuses all calls.
        outs: how often in a row it has been left out; a single call that is answered makes it nought.
    """

    tally: Tally
    until: float | None = field(init=False)
    outs: int = field(init=False)
    trying: bool = False
    denied: bool = False
    _faults: int = 0
    _heard: float = float("-inf")

    def __post_init__(self) -> None:
        self.until, self.outs = self.tally.until, self.tally.outs

    def set(self, until: float | None, outs: int) -> None:
        """Leave it out until then, or not any more; those who come later go by it too."""
        self.until, self.outs = self.tally.until, self.tally.outs = until, outs

    @property
    def well(self) -> bool:
        """Tell whether it takes calls, many at a time."""
        return self.until is None and not self.denied

    def wait(self, now: float) -> float:
        """Return the seconds until it may be asked: 0 for now, infinity where only what comes back can tell."""
        if self.denied or self.trying:
            return float("inf")
        wait = (self.until or now) - now
        return wait if wait > _NOW else 0.0

    def take(self) -> bool:
        """Note that a call goes there; tell whether it is the single one that tries it."""
        self.tally.used = next(_NUMBERS)
        self.trying = self.until is not None
        return self.trying

    def answer(self, now: float, *, single: bool) -> None:
        """Note that a call was answered, whatever the reply; `single`: it is the one that tried the endpoint."""
        self._heard, self._faults = now, 0
        if single:
            self.trying = False
            self.set(None, 0)

    def drop(self, *, single: bool) -> None:
        """Note that a call ended before anybody could answer it."""
        self.trying = self.trying and not single

    def fail(self, now: float, begun: float, fault: Fault, *, single: bool) -> None:
        """Note that a call failed that was sent at `begun`.

        A fault while others were answered is chance, up to so many in a row; those who were in flight when the endpoint
        was left out say nothing new.
        """
        self.tally.words = _bare(fault.words, self.tally.where)
        self.trying = self.trying and not single
        if isinstance(fault, AccessDenied):
            self.denied = self.tally.denied = True
            return
        wait = (fault.retry_after or 0.0) if isinstance(fault, RateLimited) else 0.0
        if isinstance(fault, RateLimited):
            failed = single or wait > 0  # else its own limiter slows down, which is all it wants
        else:
            self._faults += 1
            unheard = self._heard <= begun or not getattr(fault, "reached", True)
            failed = single or unheard or self._faults >= _FAULTS
        if self.until is not None and not single:
            self.set(max(self.until, now + wait), self.outs)
        elif failed:
            out = min(_LONGEST_OUT, _FIRST_OUT * 2 ** min(self.outs, HOPELESS))
            self.set(now + max(wait, out), self.outs + 1)
            self._faults = 0
            self.tally.left_out += 1


@dataclass(eq=False)
class Endpoint:
    """One address, with what sends calls to it and how fast.

    Attributes:
        where: the address, as it is shown.
        limiter: how many calls at a time, and how fast.
        make: makes the transport, inside the event loop.
        tally: counts what becomes of the calls; None: nobody asks.
    """

    where: str
    limiter: RateLimiter
    make: Callable[[], Transport]
    tally: Tally | None = None
    transport: Transport = field(init=False)
    limits: Mapping[str, float] = field(init=False, default_factory=dict)
    standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        self.standing = Standing(self.tally or Tally(self.where))

    def listen(self) -> None:
        """Take note of the limits that the endpoint states."""
        if self.transport.limits is not self.limits:
            self.limits = self.transport.limits
            self.limiter.advise(**self.limits)


@dataclass(frozen=True)
class Place:
    """A call's place in flight at an endpoint; `single`: it is the one that tries an endpoint that was left out."""

    endpoint: Endpoint
    begun: float
    single: bool = False


@dataclass
class _Waiting:
    granted: "asyncio.Future[Place]"
    tokens: int
    besides: Container[Endpoint]


class Endpoints:
    """Where calls go: one endpoint, which alone is never left out, or several that answer the same.

    Args:
        endpoints: at least one; each has its own limiter.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.all = tuple(endpoints)
        self.several = len(self.all) > 1
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        if not self.well():  # all were left out when the last call went: whether one is back is seen by asking
            for one in self.all:
                one.standing.set(None, 0)
        for one in self.all if self.several else ():
            one.limiter.more = self._admit

    @property
    def in_flight(self) -> int:
        """How many calls are in flight."""
        return sum(one.limiter.in_flight for one in self.all)

    @property
    def limit(self) -> float:
        """How many may be in flight at present, at those that take calls."""
        return max(1.0, sum(one.limiter.limit for one in self.all if one.standing.well))

    @property
    def most(self) -> int:
        """How many may be in flight, ever."""
        return sum(one.limiter.most for one in self.all)

    @property
    def where(self) -> str:
        """The addresses, as they are shown."""
        return ", ".join(one.where for one in self.all)

    def well(self, besides: Container[Endpoint] = ()) -> bool:
        """Tell whether any endpoint takes calls, besides those."""
        return any(one.standing.well and one not in besides for one in self.all)

    def denied(self) -> bool:
        """Tell whether all endpoints refuse all calls."""
        return all(one.standing.denied for one in self.all)

    def wait(self, now: float) -> float:
        """Return the seconds until any endpoint may be asked at all, however many are in flight."""
        return 0.0 if self.well() else min(one.standing.wait(now) for one in self.all)

    def hopeless(self) -> bool:
        """Tell whether no endpoint has answered any of the last `HOPELESS` single calls."""
        return self.several and all(one.standing.denied or one.standing.outs >= HOPELESS for one in self.all)

    async def enter(self, tokens: int, besides: Container[Endpoint] = ()) -> Place:
        """Wait until one more call, of so many tokens, may be sent, and return its place.

        `besides` are endpoints that have just failed it: others are preferred as long as any may be asked.
        """
        loop = asyncio.get_running_loop()
        if not self.several:
            await self.all[0].limiter.enter(tokens)
            return Place(self.all[0], loop.time())
        waiting = _Waiting(loop.create_future(), tokens, besides)
        self._waiting.append(waiting)
        self._admit()
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled():  # it was granted and is not used
                place = waiting.granted.result()
                place.endpoint.limiter.in_flight -= 1
                place.endpoint.standing.drop(single=place.single)
                self._admit()
            raise

    def leave(self, place: Place, fault: Fault | None, *, answered: bool) -> None:
        """Give a place back: the call was `answered`, or met a `fault`, or neither of both, as where it was cut."""
        now, endpoint = asyncio.get_running_loop().time(), place.endpoint
        outcome: Literal["ok", "busy", "broken"] = "ok" if answered else "broken"
        wait = None
        if isinstance(fault, RateLimited):
            outcome, wait = "busy", fault.retry_after
        if self.several and answered:
            endpoint.standing.answer(now, single=place.single)
        elif self.several and fault is not None:
            endpoint.standing.fail(now, place.begun, fault, single=place.single)
        elif self.several:
            endpoint.standing.drop(single=place.single)
        endpoint.limiter.leave(outcome, seconds=now - place.begun, retry_after=wait)
        if self.several:
            self._admit()

    def _admit(self) -> None:
        """Let in all who may be sent now; those who came first go first, but wait for nobody's sake."""
        loop = asyncio.get_running_loop()
        now, soonest, left = loop.time(), float("inf"), []
        for one in self._waiting:
            if one.granted.done():
                continue
            endpoint, wait = self._choice(now, one.besides)
            if endpoint is None:
                left.append(one)
                soonest = min(soonest, wait)
                continue
            endpoint.limiter.take(now, one.tokens)
            one.granted.set_result(Place(endpoint, now, single=endpoint.standing.take()))
        self._waiting = left
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(soonest, self._admit) if soonest < float("inf") else None

    def _choice(self, now: float, besides: Container[Endpoint]) -> tuple[Endpoint | None, float]:
        """Return where a call goes now, or None and the seconds until it is worth looking again."""
        waits = {one: one.standing.wait(now) for one in self.all}
        well = [one for one in self.all if not waits[one]]
        may = [one for one in well if one not in besides] or well
        paced = {one: one.limiter.wait(now) for one in may}
        free = [one for one in may if not paced[one]]
        if free:
            return min(free, key=lambda one: (one.limiter.in_flight, one.standing.tally.used)), 0.0
        return None, min([*paced.values(), *(wait for wait in waits.values() if wait)])
