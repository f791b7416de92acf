"""Calls in flight: a thread with an event loop that sends them at the endpoint's pace and out of the run's budget.

Here is the one layer of retries. A call is written down before it is sent, and its reply is in the ledger before
anything else sees it; whatever stops the run, what is in flight is waited for, since it is being paid for.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Self

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from raft.backends.asking import Reply, entry_of
from raft.backends.hosted.endpoints import Endpoint, Endpoints, Place
from raft.backends.hosted.errors import AccessDenied, Fault, RateLimited, Rejected, Transient, Transport
from raft.errors import EndpointRefuses, RaftError
from raft.protocols import Failure, Request
from raft.store.budget import Budget, Payment, Price, TransactionBatcher, believed, most_tokens
from raft.store.ledger import LOOK_SECONDS, Entry

_TRIES = 8  # of a call that breaks, at most; one that meets a busy endpoint is sent more often
_PATIENCE_SECONDS = 600.0  # without any reply after which an endpoint counts as away
_LOST_ALONE, _BUSY_ALONE = 3, 20  # billed or busy tries of one call, while others are answered, until it is given up
_WAITS = wait_random_exponential(multiplier=0.5, max=30)
_HEARD_SECONDS = 0.2  # after which Ctrl-C is heard: where polars has run, nothing that waits for ever is interrupted
_AHEAD = 8  # calls that wait to be sent, besides one for each in flight
_BYTES_A_TOKEN = 4  # about; only the pace goes by it, never the budget

Outcome = Entry | Failure


@dataclass(frozen=True)
class Call:
    """One attempt at a request; `key` is where the ledger keeps its reply."""

    key: str
    request: Request
    attempt: int


def paid(number: int, call: Call, reply: Reply, worst: float | None, *, price: Price | None, model: str) -> Payment:
    """Return what a reply settles: its call, and the entry that keeps it; without usage it counts at its worst case."""
    read, written = believed((reply.input_tokens, reply.output_tokens), call.request)
    if reply.text and not written:
        read = written = -1
    cost = price.cost(read, written) if price and read >= 0 else None
    kept = replace(reply, input_tokens=read, output_tokens=written, cost=worst if cost is None else cost)
    entry = entry_of(kept, call.key, call.request, attempt=call.attempt, model=model)
    return Payment(number, entry, cost, read, written)


@dataclass
class _Trouble:
    """What went wrong with one call so far; `since` is when, in seconds of the loop's clock."""

    since: float = float("inf")
    busy: int = 0
    broken: int = 0
    lost: int = 0

    def note(self, fault: Fault, now: float, *, moves: bool) -> None:
        """Count a fault; where the call `moves` to another endpoint at once it is no try, but may have cost money."""
        self.since = min(self.since, now)
        if isinstance(fault, RateLimited):
            self.busy += not moves
        elif isinstance(fault, Transient):
            self.broken += not moves
            self.lost += fault.billed


def _fault(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    # where the endpoint is busy, the pace makes everybody wait already
    return 0.0 if isinstance(_fault(state), RateLimited) else _WAITS(state)


class RequestPool:
    """Sends calls, as many at a time as the endpoints bear; a context manager.

    Args:
        endpoints: where they go.
        budget: what they are paid from.
        model: the model's name, for entries and errors.
        loop: makes the event loop.
        roomy: returns what is sent for a request, at the moment that it is: what was learned by then counts.

    Attributes:
        endpoints: as given.
        pause: until when (`time.monotonic`) all endpoints have asked to wait, and in which words; None: they have not.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        budget: Budget,
        model: str,
        loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        roomy: Callable[[Request], Request] = lambda request: request,
    ) -> None:
        self.endpoints = endpoints
        self._budget, self._model = budget, model
        self._make_loop, self._roomy = loop, roomy
        self._results: SimpleQueue[tuple[Call, Outcome] | None] = SimpleQueue()  # None: no more will come
        self._outstanding, self._ended = 0, False
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._halted, self._error = False, None  # type: bool, BaseException | None
        self._answered_at, self._tokens_ratio = float("-inf"), 1.0
        self.pause: tuple[float, str] | None = None

    def __enter__(self) -> Self:
        self._loop = self._make_loop()
        self._batcher = TransactionBatcher(self._budget, self._loop)
        self._stopping, self._settled = asyncio.Event(), asyncio.Event()
        self._ready = asyncio.Semaphore(max(1, self.endpoints.most // 8))
        self._opened = 0  # written down, and not sent yet
        self._thread = threading.Thread(target=self._run, name="raft-pool", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def room(self) -> int:
        """How many more calls may be submitted now: a little more than can be sent, so that none is waited for."""
        return max(0, int(2 * self.endpoints.limit) + _AHEAD - self._outstanding)

    def submit(self, call: Call) -> None:
        """Have a call sent as soon as pace and budget allow; `collect` tells what becomes of it."""
        self._outstanding += 1
        self._call(self._begin, call)

    def collect(self, seconds: float = float("inf")) -> list[tuple[Call, Outcome]]:
        """Wait until a call is settled, and return all that are; nothing after `seconds`, or when no call is left.

        Raises:
            UsageError: the provider answers no request at all (key, model, balance).
            CapReached: the next call could pass the cap.
            RaftError: the endpoint stays away, or the ledger cannot be used. Whatever is raised, all calls that were
                in flight have been returned before.
        """
        settled = [] if self._ended or not self._outstanding else self._take(seconds)
        if not settled and self._ended and self._error is not None:
            raise self._error
        return settled

    def drain(self) -> list[tuple[Call, Outcome]]:
        """Send nothing any more, wait for what is in flight, and return it."""
        settled: list[tuple[Call, Outcome]] = []
        self._call(self._halt, None)
        while not self._ended:
            settled += self._take()
        return settled

    def close(self) -> None:
        """End the thread; a call that is in flight is cut, and counts at its worst case."""
        self._call(self._stopping.set)
        while self._thread.is_alive():
            self._thread.join(_HEARD_SECONDS)
        self._ended = True

    def _call(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the thread has ended, and says so to `collect`
            self._loop.call_soon_threadsafe(function, *args)

    def _take(self, seconds: float = float("inf")) -> list[tuple[Call, Outcome]]:
        came: list[tuple[Call, Outcome] | None] = []
        until = time.monotonic() + seconds
        while not came:
            try:
                came.append(self._results.get(timeout=_HEARD_SECONDS))
            except Empty:
                if time.monotonic() >= until:
                    return []
        while not self._results.empty():
            came.append(self._results.get())
        self._ended = came[-1] is None
        settled = [one for one in came if one is not None]
        self._outstanding -= len(settled)
        return settled

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # such as a package that the transport misses: the caller is to see it
            self._error = self._error or error
        finally:
            self._results.put(None)
            self._loop.close()

    async def _serve(self) -> None:
        made: list[Endpoint] = []
        try:
            for endpoint in self.endpoints.all:
                endpoint.transport = endpoint.make()
                made.append(endpoint)
            await self._stopping.wait()
        finally:
            self._halted = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._batcher.flush()  # replies that came while the pool was being closed
            for endpoint in made:
                await endpoint.transport.close()

    def _begin(self, call: Call) -> None:
        if not self._halted:
            task = self._loop.create_task(self._settle(call))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._halted and not self._tasks:
            self._stopping.set()

    def _halt(self, error: BaseException | None) -> None:
        """Send nothing more; calls that are in flight may end."""
        if not self._halted:
            self._halted, self._error = True, error
            for task in self._tasks - self._in_flight - {asyncio.current_task(self._loop)}:
                task.cancel()
            if not self._tasks:
                self._stopping.set()

    async def _settle(self, call: Call) -> None:
        trouble, result = _Trouble(), None  # type: _Trouble, Outcome | None
        try:
            result = await self._answered(call, trouble)
        except Rejected as error:
            result = Failure(error.kind, error.words)
        except (RateLimited, Transient) as error:
            if self._halted or self._answered_at <= trouble.since or self.endpoints.hopeless():
                self._halt(self._away(error))
                return
            result = Failure("error", error.words)
        except AccessDenied as error:
            self._halt(self._denied(error))
            return
        except Exception as error:
            self._halt(error)
            return
        self._results.put((call, result))

    async def _answered(self, call: Call, trouble: _Trouble) -> Entry:
        """Send a call until it is answered or given up."""
        try:
            return await self._tried(call, trouble)
        except (RateLimited, Transient) as error:
            first = error  # tenacity takes so much time that it is not troubled with first tries
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((RateLimited, Transient)),
            wait=_wait,
            stop=lambda state: self._gives_up(_fault(state), trouble),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                return await self._tried(call, trouble)
        raise first

    async def _tried(self, call: Call, trouble: _Trouble) -> Entry:
        """Try a call once: at one endpoint after the other, as long as any is left that has not failed it and is well.

        An endpoint that refuses all calls says nothing of this one, which waits for another if need be.
        """
        failed: set[Endpoint] = set()
        while True:
            try:
                return await self._send(call, failed)
            except (RateLimited, Transient, AccessDenied) as error:
                denied = isinstance(error, AccessDenied)
                moves = self.endpoints.well(failed) or (denied and self.endpoints.several)
                trouble.note(error, self._loop.time(), moves=moves)
                if not moves or self._halted or self._lost(trouble) or (denied and self.endpoints.denied()):
                    raise

    async def _send(self, call: Call, failed: set[Endpoint]) -> Entry:
        """Send a call once and keep its reply; an endpoint that fails it comes to those that have `failed`."""
        guess = most_tokens(call.request) / _BYTES_A_TOKEN + call.request.max_tokens
        call, worst, came = await self._admitted(call, guess, failed)
        if isinstance(came, Entry):
            self._answered_at = self._loop.time()
            return came
        (number, place), fault, answered = came, None, False  # type: tuple[int, Place], Fault | None, bool
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        try:
            try:
                reply = await self._sent(number, call, worst, place.endpoint)
                answered, self._answered_at = True, self._loop.time()
            except Rejected:
                answered, self._answered_at = True, self._loop.time()
                raise
            except (RateLimited, Transient, AccessDenied) as error:
                fault = error
                failed.add(place.endpoint)
                raise
            finally:  # the next call may go while this one is written down
                self.endpoints.leave(place, fault, answered=answered)
                self._note_pause(fault)
            payment = paid(number, call, reply, worst, price=self._budget.price, model=self._model)
            entry = payment.entry
            assert entry is not None
            if used := entry.input_tokens + entry.output_tokens:
                self._tokens_ratio += (min(4.0, used / guess) - self._tokens_ratio) / 32
            await self._batcher.pay(payment)
            self._kept(number, place.endpoint.transport)
            place.endpoint.standing.tally.answered += 1
            return entry
        finally:
            self._in_flight.discard(task)
            self._settled.set()

    def _note_pause(self, fault: Fault | None) -> None:
        if isinstance(fault, RateLimited) and not (self.endpoints.several and self.endpoints.well()):
            self.pause = (time.monotonic() + self._asked_to_wait(fault), fault.words)

    async def _admitted(
        self, call: Call, guess: float, failed: set[Endpoint]
    ) -> tuple[Call, float | None, tuple[int, Place] | Entry]:
        """Write a call down, as it is sent, and wait for its place in flight; its reply, where another run paid it."""
        request, price = call.request, self._budget.price
        while True:
            async with self._ready:  # the disk is waited for while others are in flight, not in a place among them
                call = replace(call, request=self._roomy(request))  # what was learned while it waited counts
                worst = price.cost(most_tokens(request), call.request.max_tokens) if price else None
                await self._granted(worst)
                self._opened += 1
                try:
                    number = await self._batcher.open(call.key, worst)
                    if isinstance(number, int):
                        tokens = max(1, round(guess * self._tokens_ratio))
                        return call, worst, (number, await self._entered(number, tokens, failed))
                finally:
                    self._opened -= 1
                    self._settled.set()
            if isinstance(number, Entry):
                return call, worst, number
            await asyncio.sleep(LOOK_SECONDS)

    async def _entered(self, number: int, tokens: int, failed: set[Endpoint]) -> Place:
        try:
            return await self.endpoints.enter(tokens, failed)
        except asyncio.CancelledError:
            self._budget.release(number)  # it was not sent
            raise

    async def _granted(self, worst: float | None) -> None:
        while not self._budget.reserve(worst):
            if not self._in_flight and not self._opened:
                raise self._budget.cap_reached(worst)
            self._settled.clear()
            await self._settled.wait()  # what comes back may have cost less than the most it could

    async def _sent(self, number: int, call: Call, worst: float | None, endpoint: Endpoint) -> Reply:
        if self._halted:
            self._budget.release(number)
            raise asyncio.CancelledError
        try:
            reply = await self._transmitted(number, call, worst, endpoint.transport)
        except (RateLimited, Rejected, AccessDenied):
            self._budget.release(number)
            raise
        except Transient as error:
            (self._budget.lose if error.billed else self._budget.release)(number)
            raise
        except BaseException as error:  # cut off, or an error that no transport may raise
            (self._budget.lose if getattr(error, "billed", True) else self._budget.release)(number)
            raise
        endpoint.listen()
        return reply

    async def _transmitted(self, number: int, call: Call, worst: float | None, transport: Transport) -> Reply:
        """Send a call that is written down under this number, with the most dollars that it can cost."""
        return await transport.send(call.request)

    def _kept(self, number: int, transport: Transport) -> None:
        """Hear that the ledger has the reply to the call of this number."""

    def _gives_up(self, fault: BaseException | None, trouble: _Trouble) -> bool:
        alone = self._answered_at > trouble.since
        now = self._loop.time()
        away = now - max(trouble.since, self._answered_at) >= _PATIENCE_SECONDS or self.endpoints.hopeless()
        if self._halted or away or self._too_long(fault):
            return True
        if isinstance(fault, RateLimited):
            return alone and trouble.busy >= _BUSY_ALONE
        return trouble.broken >= _TRIES or self._lost(trouble)

    def _lost(self, trouble: _Trouble) -> bool:
        return self._answered_at > trouble.since and trouble.lost >= _LOST_ALONE

    def _too_long(self, fault: BaseException | None) -> bool:
        return self._asked_to_wait(fault) > _PATIENCE_SECONDS

    def _asked_to_wait(self, fault: BaseException | None) -> float:
        """Return the seconds until anything may be asked; 0 where only what is in flight can tell."""
        if self.endpoints.several:
            wait = self.endpoints.wait(self._loop.time())
            return wait if wait < float("inf") else 0.0
        return (fault.retry_after or 0.0) if isinstance(fault, RateLimited) else 0.0

    def _away(self, fault: RateLimited | Transient) -> RaftError:
        wait = fault.retry_after if isinstance(fault, RateLimited) and self._too_long(fault) else None
        asks = f" (it asks to wait {wait:,.0f} seconds)" if wait else ""
        kept = "run the same command again later: replies that came are kept and not paid for twice"
        if not self.endpoints.several:
            said = f"The endpoint of {self._model} does not answer: {fault.words}{asks}"
            return RaftError(said, where=self.endpoints.where, hint=kept)
        said = f"None of the {len(self.endpoints.all)} endpoints of {self._model} answers: {self._words()}{asks}"
        return RaftError(said, where=self.endpoints.where, hint=f"start one of {self.endpoints.where}, and {kept}")

    def _denied(self, fault: AccessDenied) -> RaftError:
        if not self.endpoints.several:
            return fault.stop(self._model, self.endpoints.where)
        said = f"All {len(self.endpoints.all)} endpoints of {self._model} refuse it: {self._words()}"
        hint = fault.stop(self._model, self.endpoints.all[0].where).hint
        return EndpointRefuses(said, where=self.endpoints.where, hint=hint)

    def _words(self) -> str:
        return "; ".join(f"{one.where}: {one.standing.tally.words}" for one in self.endpoints.all)
