"""Asking a hosted model: requests flow through the ledger and a pool of calls, and come back in their order.

Only so many are looked at ahead of the one whose outcome is due: the endpoint has enough to do, and memory stays flat.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from raft.backends.asking import (
    FINAL,
    Model,
    Reply,
    add_up,
    asked_again,
    entry_of,
    judge,
    known_replies,
    needs_room,
    no_totals,
)
from raft.backends.hosted.calls import Call, RequestPool
from raft.backends.hosted.endpoints import endpoint_facts
from raft.backends.hosted.model import HostedModel
from raft.errors import RaftError
from raft.protocols import Completion, Failure, OnEvent, Request
from raft.store.budget import Budget
from raft.store.ledger import Entry, Ledger, kept_under, request_key

_LEAST_AHEAD = 64
_AHEAD_OF_EACH = 8
"""Requests looked at ahead for each call that may be in flight: with fewer, one that waits to be asked again leaves the
others nothing to do (5 percent of errors held 64 calls at a quarter of their rate with twice as many as in flight)."""
_AT_ONE_GO = 16  # requests that are made and looked up together; more would hold up the calls in flight
_LEAST_JUDGED = 50  # outcomes before a share of failures means anything
_LEAST_CUT = 24  # replies, all of them cut off, that tell of a limit which none will keep
_TELL_SECONDS = 0.5
_WORTH_TELLING = 3.0  # seconds that an endpoint asks to wait

Progress = Callable[[Mapping[str, Any]], None]


@dataclass
class _Slot:
    """One request on its way: `call` is what its next or present attempt asks."""

    request: Request
    call: Request
    attempt: int = 0
    widened: bool = False
    key: str = ""
    outcome: Completion | Failure | None = None


@dataclass
class _Window:
    """The requests between the one whose outcome is due and the last one taken."""

    slots: deque[_Slot] = field(default_factory=deque)
    unknown: list[_Slot] = field(default_factory=list)  # to be looked up
    queued: deque[Call] = field(default_factory=deque)  # to be submitted
    asked: dict[str, list[_Slot]] = field(default_factory=dict)  # who waits for the reply under a key
    settled: int = 0
    failures: int = 0
    replies: int = 0
    cut: int = 0  # replies of no use that were cut off at the token limit
    lately: deque[Failure] = field(default_factory=lambda: deque(maxlen=3))


class FlowingGenerator:
    """A `Generator` made of a hosted model, a ledger and a budget.

    Args:
        model: what answers.
        ledger: what was answered already.
        budget: what calls are paid from; on the same ledger.
        attempts: how often one request is asked before it is a failure.
        max_failures: share of requests without a usable reply at which a call of `complete` stops; None: never.
        progress: told about twice a second, and at the end: "new" and "replayed" replies since it was last told,
            calls "in_flight" and their "limit", dollars of the run ("cost", None where the price is unknown), its
            "cap", "input_tokens", "output_tokens" and "failures" so far; where the model has several endpoints, its
            name ("model") and their "endpoints", each as a `Tally`.
        say: told "waiting" (the endpoint's "words", the "seconds" that it asks to wait), "refusing" ("where" is one of
            several endpoints, which refuses all calls, and its "words") and "stopping" ("replies" that are waited for,
            since they are being paid for, and whether it was "interrupted" by the user).
    """

    def __init__(
        self,
        model: HostedModel,
        ledger: Ledger,
        budget: Budget,
        *,
        attempts: int,
        max_failures: float | None = None,
        progress: Progress | None = None,
        say: OnEvent = lambda event, facts: None,
    ) -> None:
        self._model, self._ledger, self._budget, self._say = model, ledger, budget, say
        self._waiting, self._refusing = _Waiting(model.name, say), _Refusing(model.name, say)
        self._attempts, self._max_failures, self._progress = attempts, max_failures, progress
        self._ahead = max(_AHEAD_OF_EACH * model.concurrency, _LEAST_AHEAD)
        self._new = self._replayed = self._failures = 0
        self._told_at = time.monotonic()
        self.identity = model.identity
        self.identities = kept_under(model)
        self.totals = no_totals()

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request, in the order of the requests.

        What is in flight when this ends early, by an error or by Ctrl-C, is waited for and kept; a second Ctrl-C
        does not wait.

        Raises:
            UsageError: the provider answers no request at all (key, model, balance).
            CapReached: the next call could pass the cap.
            RaftError: the endpoint stays away, or too many requests had no usable reply.
        """
        source, window = iter(requests), _Window()
        pool: RequestPool | None = None
        with ExitStack() as stack:
            try:
                while self._fill(window, source):
                    if window.queued and pool is None:
                        pool = stack.enter_context(self._model.pool(self._budget))
                    while pool and window.queued and pool.room:
                        pool.submit(window.queued.popleft())
                    while window.slots and (outcome := window.slots[0].outcome):
                        window.slots.popleft()
                        yield outcome
                    if pool and window.slots and not window.unknown and not window.slots[0].outcome:
                        self._collect(window, pool)
                    self._tell(pool)
            except BaseException as stop:
                if pool:
                    if pool.endpoints.in_flight:
                        by_user = isinstance(stop, KeyboardInterrupt)
                        self._say("stopping", {"replies": pool.endpoints.in_flight, "interrupted": by_user})
                    pool.drain()  # it is being paid for, and the ledger keeps it
                raise
            finally:
                self._tell(pool, at_once=True)

    def _fill(self, window: _Window, source: Iterator[Request]) -> bool:
        """Take more requests and look up what is new; tell whether any request is left."""
        free = self._ahead - len(window.slots)
        for request in islice(source, free if free >= _AT_ONE_GO else 0):
            slot = _Slot(request, request)
            window.slots.append(slot)
            window.unknown.append(slot)
        if not window.unknown:
            return bool(window.slots)
        looked_up, window.unknown = window.unknown, []
        for slot in looked_up:
            slot.key = request_key(slot.call, self._model.identity, slot.attempt)
        new = [(slot.key, slot.call, slot.attempt) for slot in looked_up if slot.key not in window.asked]
        known = known_replies(self._ledger, new, self.identities[1:])
        self._count(list(known.values()), replayed=True)
        for slot in looked_up:
            if slot.key in known:
                self._judge(window, slot, known[slot.key], replayed=True)
            elif slot.key in window.asked:
                window.asked[slot.key].append(slot)
            else:
                window.asked[slot.key] = [slot]
                window.queued.append(Call(slot.key, slot.call, slot.attempt))
        return bool(window.slots)

    def _collect(self, window: _Window, pool: RequestPool) -> None:
        for call, result in pool.collect(_TELL_SECONDS):
            if isinstance(result, Entry):
                self._count([result], replayed=False)
            for slot in window.asked.pop(call.key):
                self._judge(window, slot, result, replayed=False)

    def _judge(self, window: _Window, slot: _Slot, result: Entry | Failure, *, replayed: bool) -> None:
        outcome = judge(slot.request, result, replayed, attempt=slot.attempt, model=self._model.name)
        window.replies += 1
        if isinstance(outcome, Failure) and outcome.kind == "length":
            window.cut += 1
            self._check_cut(window, outcome)
        cut = needs_room(slot.call, result)
        failed = isinstance(outcome, Failure) and outcome.kind not in FINAL
        again = failed and isinstance(result, Entry) and slot.attempt + 1 < self._attempts
        if again and not (cut and slot.widened):
            slot.call, slot.attempt = asked_again(slot.call, result), slot.attempt + 1
            slot.widened = cut or slot.widened
            window.unknown.append(slot)
            return
        slot.outcome = outcome
        window.settled += 1
        if isinstance(outcome, Failure):
            self._failures += 1
            window.failures += 1
            window.lately.append(outcome)
            self._check_failures(window)

    def _check_cut(self, window: _Window, last: Failure) -> None:
        if self._max_failures in (None, 1) or not window.cut == window.replies >= _LEAST_CUT:
            return
        raise RaftError(
            f"The first {window.replies} replies of {self._model.name} were all cut off at the token limit, as where a"
            " model thinks at length before it writes. Everything that came is kept.",
            where=f"{last.kind}: {last.message}: {last.reply[:200]!r}",
            hint="--set generator.reasoning_effort=low (or minimal, none), or a model that does not think, or go on"
            " all the same: --set generator.max_failures=1",
        )

    def _check_failures(self, window: _Window) -> None:
        share = window.failures / window.settled
        if self._max_failures is None or window.settled < _LEAST_JUDGED or share <= self._max_failures:
            return
        came = "; ".join(f"{one.kind}: {one.message}: {one.reply[:200]!r}" for one in window.lately)
        hint = "try a more capable model (--generator)"
        if 2 * window.cut > window.replies:
            hint = "--set generator.reasoning_effort=low: most replies were cut off at the token limit"
        raise RaftError(
            f"{window.failures:,} of {window.settled:,} requests to {self._model.name} had no usable reply"
            f" ({share:.0%}, more than the {self._max_failures:.0%} of max_failures). Everything that came is kept.",
            where=came,
            hint=f"{hint}, or go on all the same: --set generator.max_failures=1",
        )

    def _count(self, entries: Sequence[Entry], *, replayed: bool) -> None:
        add_up(self.totals, entries, replayed=replayed)
        self._replayed += len(entries) if replayed else 0
        self._new += 0 if replayed else len(entries)

    def _tell(self, pool: RequestPool | None, *, at_once: bool = False) -> None:
        now = time.monotonic()
        self._waiting.tell(pool)
        self._refusing.tell(pool)
        if self._progress is None or (not at_once and now - self._told_at < _TELL_SECONDS):
            return
        facts = {
            "new": self._new,
            "replayed": self._replayed,
            "in_flight": pool.endpoints.in_flight if pool else 0,
            "limit": int(pool.endpoints.limit) if pool else 0,
            "cost": self._budget.spent if self._budget.price else None,
            "cap": self._budget.cap,
            "input_tokens": int(self.totals["input_tokens"]),
            "output_tokens": int(self.totals["output_tokens"]),
            "failures": self._failures,
        }
        facts |= endpoint_facts(self._model.name, getattr(self._model, "tallies", ()))
        self._new = self._replayed = 0
        self._told_at = now
        self._progress(facts)


class _Waiting:
    """Tells "waiting" once for each time that an endpoint asks to wait."""

    def __init__(self, model: str, say: OnEvent) -> None:
        self._model, self._say, self._until = model, say, 0.0

    def tell(self, pool: RequestPool | None) -> None:
        now, (until, words) = time.monotonic(), (pool and pool.pause) or (0.0, "")
        if until - max(now, self._until) > _WORTH_TELLING:
            self._until = until
            self._say("waiting", {"model": self._model, "seconds": round(until - now), "words": words})


class _Refusing:
    """Tells "refusing" once for each of several endpoints that refuses all calls while others answer."""

    def __init__(self, model: str, say: OnEvent) -> None:
        self._model, self._say, self._told = model, say, set[str]()

    def tell(self, pool: RequestPool | None) -> None:
        for one in pool.endpoints.all if pool and pool.endpoints.several else ():
            if one.standing.denied and one.where not in self._told:
                self._told.add(one.where)
                self._say("refusing", {"model": self._model, "where": one.where, "words": one.standing.tally.words})


class UncachedGenerator:
    """A `Generator` that asks anew each time, one request after the other; calls to a hosted model need a budget.

    `say` is told "waiting", as by `FlowingGenerator`.
    """

    def __init__(
        self, model: Model | HostedModel, budget: Budget | None = None, *, say: OnEvent = lambda event, facts: None
    ) -> None:
        self._model, self._budget, self._waiting = model, budget, _Waiting(model.name, say)
        self.identity = model.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request; the next one is taken only then. Connections stay open until the last.

        Raises:
            CapReached: the next call could pass the cap.
            RaftError: the endpoint stays away, or refuses all requests.
        """
        if isinstance(self._model, HostedModel):
            yield from self._pooled(self._model, requests)
            return
        for request in requests:
            for batch in self._model.answer([request], [True]):
                for _, reply in batch:
                    if isinstance(reply, Reply):
                        yield self._judged(request, entry_of(reply, "", request, attempt=0, model=self._model.name))
                    else:
                        yield reply

    def _pooled(self, model: HostedModel, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        assert self._budget is not None, "calls to a hosted model are paid from a budget"
        with model.pool(self._budget) as pool:
            try:
                for request in requests:
                    pool.submit(Call(request_key(request, self.identity, 0), request, 0))
                    while not (settled := pool.collect(_TELL_SECONDS)):
                        self._waiting.tell(pool)
                    for _, outcome in settled:
                        yield self._judged(request, outcome)
            except BaseException:
                pool.drain()  # it is being paid for
                raise

    def _judged(self, request: Request, outcome: Entry | Failure) -> Completion | Failure:
        return judge(request, outcome, False, attempt=0, model=self._model.name)
