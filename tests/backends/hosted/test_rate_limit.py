"""The pace of calls, on a clock that jumps: as many as the endpoint bears, as fast as it takes them, and no more."""

import asyncio
import random
from itertools import pairwise

import pytest

from raft.backends.hosted.rate_limit import RateLimiter
from simulated import run


class Bucket:
    """A limit that refills all the time, as a token bucket does."""

    def __init__(self, per_minute, burst):
        self.rate, self.burst = per_minute / 60, burst
        self.level, self.then = burst, 0.0

    def take(self, now):
        """Return whether a call is taken, and after how many seconds the next one would be."""
        self.level = min(self.burst, self.level + (now - self.then) * self.rate)
        self.then = now
        if self.level >= 1:
            self.level -= 1
            return True, 0.0
        return False, (1 - self.level) / self.rate


class Minutes:
    """A limit that is counted anew each minute."""

    def __init__(self, per_minute):
        self.most, self.minute, self.count = per_minute, -1, 0

    def take(self, now):
        """Return whether a call is taken, and after how many seconds the next one would be."""
        if now // 60 != self.minute:
            self.minute, self.count = now // 60, 0
        self.count += 1
        return self.count <= self.most, 60 - now % 60


class Chance:
    """A server that turns a share of all calls away, whatever one does."""

    def __init__(self, share):
        self.share, self.random = share, random.Random(1)

    def take(self, now):
        """Return whether a call is taken."""
        return self.random.random() >= self.share, 0.0


class Later:
    """A limit that becomes another one at a moment."""

    def __init__(self, before, after, at):
        self.before, self.after, self.at = before, after, at

    def take(self, now):
        """Return whether a call is taken, and after how many seconds the next one would be."""
        return (self.before if now < self.at else self.after).take(now)


class Traffic:
    """What came of calls that were sent as fast as a pace allows.

    Attributes:
        taken: seconds at which calls were sent that the endpoint took.
        wasted: seconds at which calls were sent that it turned away.
        peak: the most that were in flight at once.
    """

    def __init__(self, pace, *, limiter=None, latency=0.2, room=None, retry_after=None, tokens=10, turned=0.2):
        self.pace, self.limiter, self.latency, self.room = pace, limiter, latency, room
        self.retry_after, self.tokens, self.turned = retry_after, tokens, turned
        self.taken, self.wasted, self.peak = [], [], 0

    async def go_on(self, seconds, callers):
        """Send calls for so many seconds, `callers` of them wanting to be in flight at any time."""
        self.end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(self._caller() for _ in range(callers)))
        return self

    async def _caller(self):
        loop = asyncio.get_running_loop()
        while loop.time() < self.end:
            await self.pace.enter(self.tokens)
            sent = loop.time()
            if sent >= self.end:
                self.pace.leave("broken", seconds=0.0)
                return
            self.peak = max(self.peak, self.pace.in_flight)
            taken, wait = self.limiter.take(sent) if self.limiter else (True, 0.0)
            taken = taken and (self.room is None or self.pace.in_flight <= self.room)
            await asyncio.sleep(
                self.turned if not taken else self.latency(sent) if callable(self.latency) else self.latency
            )
            (self.taken if taken else self.wasted).append(sent)
            seconds, wait = loop.time() - sent, self.retry_after(wait) if self.retry_after else None
            self.pace.leave("ok" if taken else "busy", seconds=seconds, retry_after=None if taken else wait)

    @property
    def waste(self):
        """Return the share of calls that were turned away."""
        return len(self.wasted) / (len(self.taken) + len(self.wasted))


def traffic(pace, seconds, callers=128, **options):
    """Return what comes of calls in some simulated seconds."""

    async def drive():
        return await Traffic(pace, **options).go_on(seconds, callers)

    return run(drive())


def whole_seconds(wait):
    """Return how long to wait as most servers say it."""
    return -(-wait // 1)


@pytest.mark.parametrize("most", [1, 3, 64, 256])
def test_a_willing_endpoint_is_filled_within_a_few_round_trips(most):
    """Calls in flight double each round trip up to the most that is allowed, and stay there."""
    done = traffic(RateLimiter(most), 3.0, callers=2 * most)
    assert done.peak == most
    assert sum(1.0 <= sent < 3.0 for sent in done.taken) >= 0.98 * most * 10


def test_all_calls_of_one_volley_halve_the_limit_once():
    """Several calls that were in flight when the endpoint was busy count as one sign of it."""

    async def volley():
        pace = RateLimiter(64)
        for _ in range(8):
            await pace.enter(1)
        await asyncio.sleep(0.2)
        before = pace.limit
        for _ in range(2):
            pace.leave("busy", seconds=0.2)
        after = pace.limit
        for _ in range(6):
            pace.leave("busy", seconds=0.2)
        return before, after, pace.limit, pace.in_flight

    before, after, at_last, flying = run(volley())
    assert (after, at_last, flying) == (before / 2, before / 2, 0)


def test_after_a_cut_calls_in_flight_grow_step_by_step():
    """After the first sign of overload the limit no longer doubles; each round trip adds a set number."""

    async def grow():
        pace = RateLimiter(32)
        for _ in range(8):
            await pace.enter(1)
        await asyncio.sleep(0.2)
        pace.leave("busy", seconds=0.2)
        for _ in range(7):
            pace.leave("ok", seconds=0.2)
        limits = [pace.limit]
        for _ in range(4):
            calls = int(pace.limit)
            for _ in range(calls):
                await pace.enter(1)
            await asyncio.sleep(0.2)
            for _ in range(calls):
                pace.leave("ok", seconds=0.2)
            limits.append(pace.limit)
        return limits

    limits = run(grow())
    assert all(0.5 < later - earlier <= 2.5 for earlier, later in pairwise(limits))


def test_calls_that_only_queue_are_not_added_to():
    """While replies take much longer than they did, no call in flight is added."""
    slow = RateLimiter(256)
    done = traffic(slow, 30.0, callers=300, latency=lambda now: 0.2 if now < 0.5 else 3.0)
    assert done.peak < 80
    assert traffic(RateLimiter(256), 30.0, callers=300, latency=lambda now: 0.2 if now < 0.5 else 0.5).peak == 256


def test_retry_after_makes_everybody_wait():
    """When one call is asked to wait, none is sent until the time is over."""

    async def ask():
        loop, pace, sent = asyncio.get_running_loop(), RateLimiter(64), []

        async def call():
            await pace.enter(1)
            sent.append(loop.time())
            await asyncio.sleep(0.1)
            pace.leave("busy" if len(sent) == 1 else "ok", seconds=0.1, retry_after=7.0 if len(sent) == 1 else None)

        await call()
        await asyncio.gather(*(call() for _ in range(5)))
        return sent

    first, *others = run(ask())
    assert all(other >= first + 7.1 for other in others)


@pytest.mark.parametrize("per_minute", [30, 600, 6000])
def test_configured_requests_a_minute_are_never_passed(per_minute):
    """In no minute more requests are sent than the setting says, and hardly fewer."""
    done = traffic(RateLimiter(64, requests_per_minute=per_minute), 150.0, latency=0.1)
    sent = sorted(done.taken)
    windows = [sum(begin <= one < begin + 60 for one in sent) for begin in sent[:: max(1, len(sent) // 20)]]
    assert max(windows) <= per_minute + per_minute / 600 + 1
    assert len(sent) >= 0.98 * per_minute * 2.5


def test_configured_tokens_a_minute_are_kept():
    """Calls are spaced by the tokens that they have."""
    done = traffic(RateLimiter(64, tokens_per_minute=60_000), 120.0, tokens=500)
    assert 0.98 * 240 <= len(done.taken) <= 241


def test_a_limit_that_the_endpoint_states_is_taken_up_unless_the_setting_is_stricter():
    """Limits in an endpoint's headers slow calls down; they never loosen a setting."""
    told, strict = RateLimiter(64), RateLimiter(64, requests_per_minute=60)
    for pace in (told, strict):
        pace.advise(requests_per_minute=600.0)
    assert 0.95 * 600 <= len(traffic(told, 60.0).taken) <= 600
    assert len(traffic(strict, 60.0).taken) <= 61


def test_calls_that_are_turned_away_at_once_do_not_hide_the_limit():
    """Where refusals come faster than replies, the limit of 600 calls a minute is found no less."""
    done = traffic(RateLimiter(64), 120.0, limiter=Bucket(600, 10), retry_after=lambda wait: wait, turned=0.002)
    assert len(done.taken) >= 0.95 * 10 * 120
    assert done.waste < 0.05


@pytest.mark.parametrize("retry_after", [None, whole_seconds], ids=["silent", "retry-after"])
@pytest.mark.parametrize(
    ("limiter", "seconds"),
    [(lambda: Bucket(600, 10), 240.0), (lambda: Minutes(600), 480.0), (lambda: Bucket(600, 600), 480.0)],
    ids=["bucket", "minutes", "full bucket"],
)
def test_an_unknown_rate_limit_is_found_and_kept(limiter, seconds, retry_after):
    """At 600 calls a minute, of which nobody spoke, 95 percent are used, and few calls are turned away."""
    done = traffic(RateLimiter(64), seconds, limiter=limiter(), retry_after=retry_after)
    assert len(done.taken) >= 0.95 * 10 * seconds
    assert sum(sent >= seconds / 2 for sent in done.taken) >= 0.95 * 10 * seconds / 2
    assert done.waste < (0.02 if retry_after else 0.04)


def test_a_rate_limit_is_found_where_replies_take_long():
    """With replies of five seconds, as many calls are in flight as the rate needs; a cut does not starve it."""
    done = traffic(RateLimiter(64), 400.0, limiter=Bucket(600, 10), latency=5.0)
    assert sum(sent >= 200 for sent in done.taken) >= 0.6 * 2000
    assert done.waste < 0.02


def test_an_endpoint_that_takes_so_many_at_once_is_kept_near_that():
    """Where 32 calls at once are the most, more than half of that is used from the first, and few are turned away."""
    done = traffic(RateLimiter(128), 60.0, room=32, callers=200)
    assert len(done.taken) >= 0.55 * 160 * 60
    assert done.waste < 0.03


@pytest.mark.parametrize(("share", "least"), [(0.01, 0.3), (0.05, 0.6)])
def test_calls_turned_away_by_chance_do_not_bring_everything_to_a_halt(share, least):
    """Slowing down does not help where calls are turned away at random, so that it is not carried on with."""
    done = traffic(RateLimiter(64), 180.0, limiter=Chance(share))
    assert sum(sent >= 120 for sent in done.taken) >= least * 320 * 60


@pytest.mark.parametrize("retry_after", [None, whole_seconds], ids=["silent", "retry-after"])
@pytest.mark.parametrize("before", [lambda: Chance(0.05), lambda: Bucket(1200, 10)], ids=["chance", "higher"])
def test_a_limit_that_comes_later_is_found_and_kept(before, retry_after):
    """A limit of 300 calls a minute is kept, whatever turned calls away before it was set."""
    done = traffic(RateLimiter(64), 480.0, limiter=Later(before(), Bucket(300, 10), at=180.0), retry_after=retry_after)
    late, wasted = (sum(sent >= 240 for sent in sents) for sents in (done.taken, done.wasted))
    assert late >= 0.95 * 5 * 240
    assert wasted < 0.03 * late


def test_calls_turned_away_with_the_word_to_come_again_at_once_slow_nothing_down():
    """A `Retry-After` of no seconds is obeyed: as many calls as before stay in flight."""
    done = traffic(RateLimiter(64), 60.0, limiter=Chance(0.05), retry_after=lambda wait: 0.0)
    assert len(done.taken) >= 0.9 * 320 * 60


def test_an_endpoint_that_is_shut_is_only_felt_for():
    """While everything is turned away, single calls ask whether that is over, more and more seldom."""

    class Shut:
        def take(self, now):
            return now > 300, 0.0

    done = traffic(RateLimiter(64), 320.0, limiter=Shut())
    assert len(done.wasted) < 70
    assert len(done.taken) > 20


def test_who_came_first_is_sent_first_and_who_gave_up_is_not_waited_for():
    """Callers are served in their order; one that was cancelled while waiting takes no place."""

    async def queue():
        pace, order = RateLimiter(1, requests_per_minute=600), []

        async def call(name):
            await pace.enter(1)
            order.append(name)
            await asyncio.sleep(0.05)
            pace.leave("ok", seconds=0.05)

        tasks = [asyncio.create_task(call(name)) for name in "abcde"]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        tasks[3].cancel()
        await asyncio.wait(tasks)
        return "".join(order), pace.in_flight

    assert run(queue()) == ("ace", 0)
