"""The shards of a build, from where it runs.

They are started when there is work, replaced when they die, and merged when they end.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from raft.backends.asking import Reply
from raft.backends.hosted.calls import Call
from raft.backends.hosted.errors import Fault, Transient
from raft.backends.ray.cluster import connected, nodes
from raft.backends.ray.shard import Asked, Learned, Opening, Shard, leave
from raft.errors import RaftError
from raft.protocols import OnEvent
from raft.store import shards
from raft.store.shards import Left

_T = TypeVar("_T")
_VARIABLES = ("OMP_NUM_THREADS", "RAFT_MODELS", "HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT")
"""What models depend on, besides themselves: with as many threads as here they add up in the same order."""
_DEATHS = 3  # of shards in one place, or of one piece of work, without a result between them, until it is given up
_START_SECONDS, _LOOK_SECONDS = 180.0, 0.5
_END_SECONDS = 15.0
_AT_ONCE = 100_000
"""Calls that a shard may have at a time; how many it gets is decided by the endpoint's limiter."""
_AHEAD = 2
_SPARE_SECONDS = 60.0


@dataclass
class _Place:
    """One of the shards, and what follows it when it dies."""

    number: int
    actor: Any = None
    ready: Any = None
    ledger: str = ""
    in_flight: int = 0
    deaths: int = 0
    why: str = ""
    taken: list[int] = field(default_factory=list)
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
        say: told "shards" (how many `shards` on how many `nodes`) and "shard lost" (its `shard`, and `why`).

    Attributes:
        count: as given.
        ahead: as `protocols.Workers` says.
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
        self._address, self._cards, self._ledger, self._opening = address, cards, ledger, opening
        self._merged, self._say = merged, say
        self._stack, self._starting = ExitStack(), threading.Lock()
        self._ray: Any = None
        self._places: list[_Place] = []
        self._number = 0
        self._shared: dict[int, tuple[Any, Any]] = {}
        self._held: dict[int, _Place] = {}
        self._dead: dict[str, dict[int, Left]] = {}
        self._reading = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the shards; what they have and the run's ledger has not is merged."""
        try:
            ends = {place.actor.end.remote(place.taken): place for place in self._places if place.actor}
            done, _ = self._ray.wait(list(ends), num_returns=len(ends), timeout=_END_SECONDS) if ends else ([], [])
            for ref in done:
                with suppress(self._ray.exceptions.RayError):
                    self._merge(self._ray.get(ref))
            for place in self._places:
                self._ray.kill(place.actor)
            if self._ray is not None:
                shards.merge_left(Path(self._opening.folder), self._ledger)  # of those that died
        finally:
            self._stack.close()
            self._ray, self._places = None, []

    def start(self) -> None:
        """Have shards started, if there are none yet, and wait for the first.

        Raises:
            UsageError: the cluster cannot be used.
            RaftError: no shard starts.
        """
        with self._starting:
            if self._ray is not None:
                return
            self._ray = self._stack.enter_context(connected(self._address, self.count))
            here = self._ray.get_runtime_context().get_node_id()
            self._opening = replace(self._opening, node=here)
            self._merge_left()
            self._places = [self._placed(_Place(number)) for number in range(1, self.count + 1)]
            self._wait()
            self._say("shards", {"shards": self.count, "nodes": len(nodes(self._ray))})

    def begin(self, work: Callable[..., _T], *given: Any, shared: Any = None) -> Callable[[], _T]:
        """Begin a module's function on some shard, as `protocols.Workers` says; it raises what the function raises."""
        self.start()
        if shared is not None and id(shared) not in self._shared:
            self._shared[id(shared)] = shared, self._ray.put(shared)
        refs = [] if shared is None else [self._shared[id(shared)][1]]
        return self.ask("do", work, given, refs)

    def ask(self, method: str, *given: Any) -> Callable[[], Any]:
        """Begin a method of some shard, and return what waits for its result; where a shard dies, another does it.

        Raises:
            RaftError: it is what came of the work, or shards die of it.
        """
        self.start()
        place, actor, ref = self._asked(method, given)

        def wait() -> Any:
            nonlocal place, actor, ref
            for died in range(1, _DEATHS + 1):
                try:
                    result = self._ray.get(ref)
                except self._ray.exceptions.RayActorError as error:
                    self._lost(place, actor, error)
                    if died == _DEATHS:
                        raise _deadly(error) from error
                    place, actor, ref = self._asked(method, given)
                    continue
                self._settled(place, actor)
                if isinstance(result, BaseException):
                    raise result
                return result
            raise AssertionError

        return wait

    async def send(self, asked: Asked, number: int, call: Call, worst: float | None) -> tuple[Reply, Learned | None]:
        """Have some shard send a call that the ledger has under this number, and return its reply.

        Raises:
            Fault: of the call, or that the shard died with it.
            RaftError: all shards die.
        """
        place = self._best()
        with place.lock:
            taken, place.taken = place.taken, []
        actor, ledger, place.in_flight = place.actor, place.ledger, place.in_flight + 1
        bare = replace(call, request=replace(call.request, check=None))
        try:
            ref = actor.send.remote(asked, number, bare, worst, taken)
            came, learned = await asyncio.wait_for(ref, asked.wire.timeout + _SPARE_SECONDS)
        except self._ray.exceptions.RayActorError as error:
            self._lost(place, actor, error)
            left = await asyncio.get_running_loop().run_in_executor(None, self._left_by, ledger)
            if number not in left:
                raise Transient(f"shard {place.number} died: {place.why}", billed=True) from None
            kept = left[number].entry
            used = kept.input_tokens, kept.output_tokens
            return Reply(kept.reply, kept.finish_reason, *used, None, kept.seconds), None
        except TimeoutError:
            raise Transient(f"shard {place.number} does not answer", billed=True) from None
        finally:
            if place.actor is actor:
                place.in_flight -= 1
        place.deaths = 0
        if isinstance(came, Fault):
            raise came
        self._held[number] = place
        return came, learned

    def kept(self, number: int) -> None:
        """Note that the run's ledger has the reply to a call that was sent: its shard may forget it."""
        if place := self._held.pop(number, None):
            with place.lock:
                place.taken.append(number)

    def _placed(self, place: _Place) -> _Place:
        """Start the shard of a place."""
        self._number += 1
        variables = {name: os.environ.get(name) for name in _VARIABLES}
        opening = replace(self._opening, number=self._number, variables=variables)
        made = self._ray.remote(Shard).options(
            num_cpus=1, num_gpus=self._cards or None, max_concurrency=_AT_ONCE, scheduling_strategy="SPREAD"
        )
        place.actor = made.remote(opening)
        place.ready, place.ledger, place.in_flight, place.taken = place.actor.ready.remote(), "", 0, []
        return place

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while not any(self._is_ready(place) for place in self._places):
            if time.monotonic() > until or all(place.given_up for place in self._places):
                raise self._hopeless()
            self._ray.wait([place.ready for place in self._places], timeout=_LOOK_SECONDS)

    def _is_ready(self, place: _Place) -> bool:
        if place.ledger or place.given_up:
            return bool(place.ledger)
        if self._ray.wait([place.ready], timeout=0)[0]:
            try:
                place.ledger = self._ray.get(place.ready)
            except self._ray.exceptions.RayError as error:
                self._lost(place, place.actor, error)
        return bool(place.ledger)

    def _best(self) -> _Place:
        """Return the place with the least to do, of those that are ready if any is."""
        standing = [place for place in self._places if not place.given_up]
        ready = [place for place in standing if self._is_ready(place)]
        if not standing:
            raise self._hopeless()
        return min(ready or standing, key=lambda place: place.in_flight)

    def _asked(self, method: str, given: Sequence[Any]) -> tuple[_Place, Any, Any]:
        place = self._best()
        place.in_flight += 1
        return place, place.actor, getattr(place.actor, method).remote(*given)

    def _settled(self, place: _Place, actor: Any) -> None:
        if place.actor is actor:
            place.in_flight, place.deaths = place.in_flight - 1, 0

    def _lost(self, place: _Place, actor: Any, error: BaseException) -> None:
        """Put another shard in the place of one that died; the first who hears of it does."""
        with place.lock:
            if place.actor is not actor:
                return
            place.deaths += 1
            place.why = _cause(error)
            self._say("shard lost", {"shard": place.number, "why": place.why, "given_up": place.given_up})
            if not place.given_up:
                self._placed(place)

    def _left_by(self, ledger: str) -> dict[int, Left]:
        """Return what a shard that died had kept, by the number of the call, where its ledger can be read from here."""
        with self._reading:
            if ledger not in self._dead:
                path = Path(ledger)
                found = shards.left_by(path) if ledger and path.is_file() else []
                self._dead[ledger] = {one.number: one for one in found}
            return self._dead[ledger]

    def _merge_left(self) -> None:
        """Merge what shards of a build that died have left on any node."""
        pinned = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        found = self._ray.remote(leave)
        for node in nodes(self._ray):
            where = pinned(node["NodeID"], soft=False)
            ref = found.options(num_cpus=0, scheduling_strategy=where).remote(self._opening, node["NodeID"])
            with suppress(self._ray.exceptions.RayError):
                left = self._ray.get(ref)
                self._merge([one for some in left.values() for one in some])
                gone = self._ray.remote(shards.forget).options(num_cpus=0, scheduling_strategy=where)
                self._ray.get(gone.remote([Path(path) for path in left]))

    def _merge(self, left: Sequence[Left]) -> None:
        if shards.merge(self._ledger, left):
            self._merged()

    def _hopeless(self) -> RaftError:
        why = next((place.why for place in self._places if place.why), "")
        if why:
            return RaftError(
                f"Each of the {self.count} shards died {_DEATHS} times: {why}. Everything that came is kept.",
                where="engine.kind=ray",
                hint="the same command with --engine local   (goes on from there; or look at the nodes: ray status)",
            )
        return RaftError(
            f"No shard was started within {_START_SECONDS:.0f} seconds: the cluster has no processor or card free.",
            where=f"engine.shards={self.count}, engine.cards={self._cards:g}",
            hint="ray status   (tells what is free; then the same command again, or with --engine local)",
        )


def _cause(error: BaseException) -> str:
    """Return what Ray says of why a process ended, without what it says of itself."""
    text = " ".join(str(getattr(error, "cause", None) or error).split())
    found = re.search(r"The actor is dead because (.*)", text) or re.search(r"(?:ERROR|detail:) (.*)", text)
    return (found[1] if found else text)[:300]


def _deadly(error: BaseException) -> RaftError:
    return RaftError(
        f"{_DEATHS} shards died one after the other of the same piece of work: {_cause(error)}",
        where="engine.kind=ray",
        hint="the same command with --engine local   (goes on from there; or give the nodes more memory)",
    )
