"""The shards of a build, from where it runs.

They are started when there is work, replaced when they die, and merged when they end.
"""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from raft.backends.asking import Reply
from raft.backends.hosted.calls import Call
from raft.backends.hosted.errors import Transient
from raft.backends.ray.cluster import answers, connected, environment, import_ray, nodes, room
from raft.backends.ray.shard import Asked, Learned, Opening, Shard, leave, left_at, valued
from raft.errors import RaftError
from raft.protocols import OnEvent
from raft.store import shards
from raft.store.shards import Left

_T = TypeVar("_T")
_DEATHS = 3  # of shards in one place, or of one piece of work, without a result between them, until it is given up
_START_SECONDS, _LOOK_SECONDS, _NODE_SECONDS, _HEAD_SECONDS = 180.0, 0.5, 120.0, 2.0
_END_SECONDS, _SPARE_SECONDS = 15.0, 60.0
_AT_ONCE = 100_000
"""Calls that a shard may have at a time; how many it gets is decided by the endpoint's limiter."""
_AHEAD = 2
_GONE = (
    *("RayActorError", "ObjectLostError", "NodeDiedError", "WorkerCrashedError", "OutOfMemoryError"),
    *("ActorUnschedulableError", "TaskUnschedulableError"),
)
"""Ray's errors that say that a process or a node is there no more, and nothing of what it did."""
_HEADLESS = "The head of the Ray cluster does not answer any more, and the cluster ends with it"
_AGAIN = "the same command with --engine local   (goes on from there; or look at the nodes: ray status)"


class NoShard(RaftError):
    """No shard could take a call, which was not sent."""

    billed = False


class _Unsent(asyncio.CancelledError):
    billed = False


@dataclass(eq=False)
class _Seat:
    """One shard: its actor, and what is known of it; the one that takes its place is another.

    `ready` brings the path of its ledger and its node; `taken` are calls whose replies it may forget.
    """

    actor: Any
    ready: "Future[Any]"
    ledger: str = ""
    node: str = ""
    in_flight: int = 0
    taken: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Place:
    """Where one of the shards is, and what follows it when it dies."""

    number: int
    seat: _Seat
    deaths: int = 0
    why: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def given_up(self) -> bool:
        return self.deaths >= _DEATHS


class RayEngine:
    """Processes of a Ray cluster that share the work of one build; a context manager.

    Args:
        address: host:port of a cluster; None: Ray is started on this machine.
        count: how many shards.
        cards: graphics cards that each needs, 0 for none.
        ledger: the path of the run's ledger.
        opening: what each shard is told, but its number and the run directory's machine.
        merged: called when replies were merged into the ledger.
        say: told "shards" (how many `shards` on how many `nodes`, how many are `ready`, for how many there is `room`)
            and "shard lost" (its `shard`, `why`, and whether it is `given_up`).

    Attributes:
        count: as given.
        ahead: as `protocols.Workers` says.
        here: whether Ray is started by this process, so that shards have its environment and files.
    """

    def __init__(
        self,
        address: str | None,
        count: int,
        *,
        cards: float,
        ledger: Path,
        opening: Opening,
        merged: Callable[[], None],
        say: OnEvent = lambda event, facts: None,
    ) -> None:
        self.count, self.ahead = count, _AHEAD * count
        self.here = address is None and not import_ray().is_initialized()
        self._address, self._cards, self._ledger, self._opening = address, cards, ledger, opening
        self._merged, self._say = merged, say
        self._stack, self._starting = ExitStack(), threading.Lock()
        self._ray = self._made = None  # type: Any
        self._started, self._failed = False, None  # type: bool, RaftError | None
        self._places: list[_Place] = []
        self._number = 0
        self._shared: dict[int, tuple[Any, Any]] = {}
        self._held: dict[int, tuple[_Place, _Seat]] = {}
        self._dead: dict[str, dict[int, Left]] = {}
        self._headless, self._look_at = False, 0.0
        self._reading, self._looking = threading.Lock(), threading.Lock()
        self._readers, self._lookers = ThreadPoolExecutor(1), ThreadPoolExecutor(1)  # the loop's are the run's ledger's

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the shards; what they have and the run's ledger has not is merged.

        Raises:
            RaftError: a ledger cannot be used, and nothing else has ended the build; what is there stays.
        """
        try:
            wrong = self._end() if self._ray is not None else []
        finally:
            self._stack.close()
            for threads in (self._readers, self._lookers):
                threads.shutdown(wait=False)
            self._ray, self._places = None, []
        if wrong and kind is None:
            raise wrong[0]

    def start(self) -> None:
        """Have shards started, if there are none yet, and wait for the first; what failed once fails again at once.

        Raises:
            UsageError: the cluster cannot be used.
            RaftError: no shard starts, or what earlier ones left cannot be read.
        """
        with self._starting:
            if self._failed is not None:
                raise self._failed
            if self._started:
                return
            try:
                self._start()
            except RaftError as error:
                self._failed = error
                raise
            self._started = True

    def begin(self, work: Callable[..., _T], *given: Any, shared: Any = None) -> Callable[[], _T]:
        """Begin a module's function on some shard, as `protocols.Workers` says; it raises what the function raises."""
        self.start()
        if shared is not None and id(shared) not in self._shared:
            try:
                self._shared[id(shared)] = shared, self._ray.put(shared)
            except self._ray.exceptions.RayError as error:
                raise _broken(error) from error
        refs = [] if shared is None else [self._shared[id(shared)][1]]
        return self.ask("do", work, given, refs)

    def ask(self, method: str, *given: Any) -> Callable[[], Any]:
        """Begin a method of some shard, and return what waits for its result; where a shard dies, another does it.

        Raises:
            RaftError: it is what came of the work, shards die of it, or Ray cannot do it.
        """
        self.start()
        place, seat, ref = self._asked(method, given)

        def wait_for() -> Any:
            nonlocal place, seat, ref
            for died in range(1, _DEATHS + 1):
                try:
                    result = self._got(ref)
                except self._gone as error:
                    self._lost(place, seat, error)
                    if died == _DEATHS:
                        raise _deadly(error) from error
                    place, seat, ref = self._asked(method, given)
                    continue
                except self._ray.exceptions.RayError as error:
                    self._settled(place, seat)
                    raise _broken(error) from error
                self._settled(place, seat)
                if isinstance(result, BaseException):
                    raise result
                return result
            raise AssertionError

        return wait_for

    async def send(self, asked: Asked, number: int, call: Call, worst: float | None) -> tuple[Reply, Learned | None]:
        """Have some shard send a call that the ledger has under this number, and return its reply.

        The shard keeps it until it is told that the run's ledger has it (`kept`).

        Raises:
            Fault: of the call, or that the shard died with it.
            NoShard: all shards are dead; it was not sent.
            RaftError: what a shard or Ray says that cannot be gone on with.
        """
        place, seat = await self._free()
        with place.lock:
            taken, seat.taken = seat.taken, []
        bare, came = replace(call, request=replace(call.request, check=None)), None
        try:
            ref = seat.actor.send.remote(asked, number, bare, worst, taken)
            came, learned = await asyncio.wait_for(ref, asked.wire.timeout + _SPARE_SECONDS)
        except self._gone as error:
            self._lost(place, seat, error)
            left = await asyncio.get_running_loop().run_in_executor(self._readers, self._left_by, seat)
            if number not in left:
                raise Transient(f"shard {place.number} died: {place.why}", billed=True) from None
            kept = left[number].entry
            used = kept.input_tokens, kept.output_tokens
            return Reply(kept.reply, kept.finish_reason, *used, None, kept.seconds), None
        except self._ray.exceptions.RayError as error:
            raise _broken(error) from error
        except TimeoutError:
            raise Transient(f"shard {place.number} does not answer", billed=True) from None
        finally:
            self._settled(place, seat, did=came is not None)
        if isinstance(came, Exception):
            raise came
        self._held[number] = place, seat
        return came, learned

    def kept(self, number: int) -> None:
        """Note that the run's ledger has the reply to a call that was sent: its shard may forget it."""
        place, seat = self._held.pop(number, (None, None))
        if place and seat:
            with place.lock:
                seat.taken.append(number)

    @property
    def _gone(self) -> tuple[type[Exception], ...]:
        return tuple(getattr(self._ray.exceptions, name) for name in _GONE)

    def _start(self) -> None:
        try:
            alone = self._opening.local_only
            self._ray = self._stack.enter_context(connected(self._address, self.count, local_only=alone))
            self._opening = replace(self._opening, node=self._ray.get_runtime_context().get_node_id())
            room(self._ray, self.count, self._cards, grows=not self.here)
            self._merge_left()
            self._places = [_Place(number, self._seat()) for number in range(1, self.count + 1)]
            ready = self._wait()
        except import_ray().exceptions.RayError as error:
            raise _broken(error) from error
        found = room(self._ray, self.count, self._cards, grows=True)  # it may have grown
        facts = {"shards": self.count, "nodes": len(nodes(self._ray)), "ready": ready, "room": found}
        self._say("shards", facts)

    def _end(self) -> list[RaftError]:
        """End all shards, merge what they have, and return what went wrong with that."""
        ends = [place.seat.actor.end.remote(place.seat.taken) for place in self._places if place.seat.ledger]
        done, _ = self._ray.wait(ends, num_returns=len(ends), timeout=_END_SECONDS) if ends else ([], [])
        wrong: list[RaftError] = []
        for ref in done:
            try:
                self._merge(_raised(self._ray.get(ref)))
            except self._gone:  # what it has is on its disk
                continue
            except self._ray.exceptions.RayError as error:
                wrong.append(_broken(error))
            except RaftError as error:
                wrong.append(error)
        for place in self._places:
            self._ray.kill(place.seat.actor)
        try:
            shards.merge_left(Path(self._opening.folder), self._ledger)  # of those that died
        except RaftError as error:
            wrong.append(error)
        return wrong

    def _seat(self) -> _Seat:
        """Start a shard."""
        self._number += 1
        opening = replace(self._opening, number=self._number, variables=environment())
        how = {"num_cpus": 1, "num_gpus": self._cards or None, "max_concurrency": _AT_ONCE}
        self._made = self._made or self._ray.remote(Shard).options(**how, scheduling_strategy="SPREAD")  # sent once
        actor = self._made.remote(opening)
        return _Seat(actor, actor.ready.remote().future())

    def _wait(self) -> int:
        """Wait until a shard is ready, and return how many are."""
        until = time.monotonic() + _START_SECONDS
        while not (ready := sum(self._is_ready(place) for place in self._places)):
            self._check_head()
            awaited = [place.seat.ready for place in self._places if not place.given_up]
            if time.monotonic() > until or not awaited:
                raise self._hopeless()
            wait(awaited, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        return ready

    def _is_ready(self, place: _Place) -> bool:
        """Tell whether the shard of a place has started; Ray isn't asked, since this stands before each call."""
        seat = place.seat
        if not seat.ledger and not place.given_up and seat.ready.done():
            try:
                seat.node, seat.ledger = _raised(seat.ready.result())
            except (RaftError, self._ray.exceptions.RayError) as error:
                self._lost(place, seat, error)
        return bool(seat.ledger) and not place.given_up and place.seat is seat

    def _taken(self) -> tuple[_Place, _Seat] | None:
        """Return the shard with the least to do of those that are ready, with one more piece of work; None: none is.

        What is given to it has been sent; to one that there is no room for it might never be.
        """
        ready = [(place, place.seat) for place in self._places if self._is_ready(place)]
        self._check_standing()
        best = min((one for one in ready if one[1].ledger), key=lambda one: one[1].in_flight, default=None)
        if best:
            with best[0].lock:
                best[1].in_flight += 1
        return best

    def _check_standing(self) -> None:
        if all(place.given_up for place in self._places):
            raise self._hopeless()

    async def _free(self) -> tuple[_Place, _Seat]:
        until = time.monotonic() + _START_SECONDS
        try:
            while True:
                if self._unsure:  # it may take seconds, in which the loop has other things to do
                    await asyncio.get_running_loop().run_in_executor(self._lookers, self._check_head)
                if found := self._taken():
                    return found
                if time.monotonic() > until:
                    raise self._hopeless()
                await asyncio.sleep(_LOOK_SECONDS)
        except asyncio.CancelledError:
            raise _Unsent from None

    def _asked(self, method: str, given: Sequence[Any]) -> tuple[_Place, _Seat, Any]:
        self._check_head()
        while not (found := self._taken()):
            self._wait()
        return *found, getattr(found[1].actor, method).remote(*given)

    def _got(self, ref: Any) -> Any:
        """Return a result once it is there; where no shard stands any more, nothing is waited for: it cost nothing."""
        while not self._ray.wait([ref], timeout=_HEAD_SECONDS)[0]:
            self._check_head()
            self._check_standing()
        return self._ray.get(ref)

    def _settled(self, place: _Place, seat: _Seat, *, did: bool = True) -> None:
        """Note that a shard has something no more, and did it; a place that was given up before stays given up."""
        with place.lock:
            seat.in_flight -= 1
            if did and place.seat is seat and not place.given_up:
                place.deaths = 0

    def _lost(self, place: _Place, seat: _Seat, error: BaseException) -> None:
        """Put another shard in the place of one that died; the first who hears of it does."""
        with place.lock:
            if place.seat is not seat or place.given_up:
                return
            place.deaths += 1
            place.why = _cause(error)
            self._say("shard lost", {"shard": place.number, "why": place.why, "given_up": place.given_up})
            self._ray.kill(seat.actor)  # it may live, out of reach, and hold what the next one needs
            if not place.given_up:
                place.seat = self._seat()

    @property
    def _unsure(self) -> bool:
        return not self._headless and time.monotonic() >= self._look_at

    def _check_head(self) -> None:
        """Give all shards up where the cluster's head is gone: they may answer what they were sent, and no more."""
        if not self._unsure:
            return
        with self._looking:
            if not self._unsure:  # another thread has looked
                return
            self._headless = not answers(self._ray)
            self._look_at = time.monotonic() + _HEAD_SECONDS
            lost = self._places if self._headless else []
            for place in lost:
                with place.lock:
                    place.deaths, place.why = _DEATHS, _HEADLESS
            for place in lost:
                self._say("shard lost", {"shard": place.number, "why": place.why, "given_up": True})

    def _on(self, node: str, work: Callable[..., _T], *given: Any) -> _T:
        """Return what a function returns on a node of the cluster.

        Raises:
            RayError: one of `_GONE`, or the node did not answer.
            RaftError: so does the function, or Ray cannot do it.
        """
        pinned = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        there = self._ray.remote(valued).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        try:
            found: _T = _raised(self._ray.get(there.remote(work, *given), timeout=_NODE_SECONDS))
        except RaftError as error:
            if node != self._opening.node:
                address = next((one["NodeManagerAddress"] for one in nodes(self._ray) if one["NodeID"] == node), node)
                error.where = f"{address}: {error.where}"
            raise
        except (*self._gone, self._ray.exceptions.GetTimeoutError):
            raise
        except self._ray.exceptions.RayError as error:
            raise _broken(error) from error
        return found

    def _left_by(self, seat: _Seat) -> dict[int, Left]:
        """Return what a shard that died had kept, by the number of the call; nothing where its node died with it."""
        with self._reading:
            if seat.ledger not in self._dead:
                found: list[Left] = []
                try:
                    if seat.ledger and seat.node == self._opening.node:
                        found = left_at(seat.ledger)
                    elif seat.ledger and answers(self._ray):
                        found = self._on(seat.node, left_at, seat.ledger)
                except (*self._gone, self._ray.exceptions.GetTimeoutError):
                    pass
                self._dead[seat.ledger] = {one.number: one for one in found}
            return self._dead[seat.ledger]

    def _merge_left(self) -> None:
        """Merge what shards of a build that died have left on any node; a node that is lost now waits for the next."""
        for node in nodes(self._ray):
            with suppress(*self._gone, self._ray.exceptions.GetTimeoutError):
                left = self._on(node["NodeID"], leave, self._opening, node["NodeID"])
                self._merge([one for found in left for one in found.replies])
                self._on(node["NodeID"], shards.forget, [found.path for found in left if found.ended])

    def _merge(self, left: Sequence[Left]) -> None:
        if shards.merge(self._ledger, left):
            self._merged()

    def _hopeless(self) -> NoShard:
        why = next((place.why for place in self._places if place.why), "")
        kept, where, hint = "Everything that came is kept.", "engine.kind=ray", _AGAIN
        if self._headless:
            what = f"{_HEADLESS}. {kept}"
        elif all(place.given_up for place in self._places):
            what = f"Each of the {self.count} shards died {_DEATHS} times: {why}. {kept}"
        else:
            what = f"No shard was started within {_START_SECONDS:.0f} seconds: no processor or card is free."
            what += f" One died before: {why}. {kept}" if why else ""
            where = f"engine.shards={self.count}, engine.cards={self._cards:g}"
            hint = "ray status   (tells what is free; then the same command again, or with --engine local)"
        return NoShard(what, where=where, hint=hint)


def _raised(result: Any) -> Any:
    """Return a result that came from another process; an error that came as one is raised."""
    if isinstance(result, RaftError):
        raise result
    return result


def _cause(error: BaseException) -> str:
    """Return what Ray says of why a process ended, without what it says of itself."""
    text = " ".join(str(getattr(error, "what", None) or getattr(error, "cause", None) or error).split())
    found = re.search(r"The actor is dead because (.*)", text) or re.search(r"(?:ERROR|detail:) (.*)", text)
    return (found[1] if found else text)[:300]


def _broken(error: BaseException) -> RaftError:
    cause = getattr(error, "cause", None) or error
    what = f"The Ray cluster failed: {type(cause).__name__}: {_cause(error)}. Everything that came is kept."
    return RaftError(what, where="engine.kind=ray", hint=_AGAIN)


def _deadly(error: BaseException) -> RaftError:
    return RaftError(
        f"{_DEATHS} shards died one after the other of the same piece of work: {_cause(error)}",
        where="engine.kind=ray",
        hint="the same command with --engine local   (goes on from there; or give the nodes more memory)",
    )
