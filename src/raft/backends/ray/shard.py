"""What one worker of a cluster does: it reads, cuts, embeds, and asks models; it decides nothing and grants nothing.

A reply that costs money is in the shard's ledger before it goes back. All else is done one piece at a time.
"""

import asyncio
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from raft.backends import hub
from raft.backends.asking import Reply
from raft.backends.embedding import SentenceEmbedder
from raft.backends.hosted.calls import Call, paid
from raft.backends.hosted.errors import Fault, Transport
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.model import Wire
from raft.backends.local.generate import LocalModel
from raft.backends.ray.cluster import import_ray
from raft.errors import RaftError, typed
from raft.protocols import Failure, Request
from raft.store import shards
from raft.store.budget import GROUP_SECONDS, Payment, Price
from raft.store.shards import Found, Left, ShardLedger

Answers = list[Reply | Failure]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Opening:
    """What a shard is told when it starts.

    Attributes:
        number: of the shard, over the whole build.
        run: the run's name in its ledger.
        node: the machine that the run directory is on, by Ray's id.
        folder: where shards on that machine have their ledgers; on others it is a folder for temporary files.
        variables: of the environment that models depend on, as they are there; None: not set.
        local_only: nothing is downloaded.
    """

    number: int
    run: str
    node: str
    folder: str
    variables: Mapping[str, str | None]
    local_only: bool


@dataclass(frozen=True)
class Asked:
    """What calls of one model have in common: its wire, its price, and how long it is to think."""

    wire: Wire
    price: Price | None
    effort: str | None


@dataclass(frozen=True)
class Learned:
    """What a shard knows of an endpoint after a call: manners, as in `Manners`, and limits, as in `Transport`."""

    refused: frozenset[str]
    thinks: bool
    met: bool
    limits: Mapping[str, float]


class Shard:
    """One worker: an actor of Ray's, whose methods it calls."""

    def __init__(self, opening: Opening) -> None:
        for name, value in opening.variables.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        hub.offline(opening.local_only)
        self._opening = opening
        self._ledger: ShardLedger | None = None
        self._worker = ThreadPoolExecutor(1)
        self._disk = ThreadPoolExecutor(1)
        self._wires: dict[Asked, tuple[Transport, Manners]] = {}
        self._waiting: list[tuple[Payment, asyncio.Future[None]]] = []
        self._taken: list[int] = []
        self._writing: asyncio.Task[None] | None = None
        self._shared: dict[str, Any] = {}

    async def ready(self) -> tuple[str, str] | RaftError:
        """Return the id of the shard's node, and the path of its ledger; an error as it is, here and below."""
        node = import_ray().get_runtime_context().get_node_id()
        try:
            self._ledger = self._ledger or ShardLedger(folder_of(self._opening, node), self._opening.number)
        except RaftError as error:
            return error
        return node, str(self._ledger.path)

    async def send(
        self, asked: Asked, number: int, call: Call, worst: float | None, taken: Sequence[int]
    ) -> tuple[Reply | Fault | RaftError, Learned | None]:
        """Send a call that the run's ledger has under this number, and return its reply once the disk has it.

        `taken` are numbers of calls whose replies the run's ledger has, too.
        """
        try:
            return await self._sent(asked, number, call, worst, taken)
        except RaftError as error:
            return error, None

    async def _sent(
        self, asked: Asked, number: int, call: Call, worst: float | None, taken: Sequence[int]
    ) -> tuple[Reply | Fault, Learned]:
        self._taken += taken
        if asked not in self._wires:
            manners = Manners(asked.wire.name, asked.effort)
            self._wires[asked] = asked.wire.transport(manners), manners
        transport, manners = self._wires[asked]
        came: Reply | Fault
        try:
            came = await transport.send(call.request)
        except Fault as fault:
            came = fault
        else:
            await self._kept(paid(number, call, came, worst, price=asked.price, model=asked.wire.name))
        return came, Learned(manners.refused, manners.thinks, manners.met, dict(transport.limits))

    async def do(self, work: Callable[..., Any], given: Sequence[Any], shared: Sequence[Any]) -> Any:
        """Return what a function makes of what is given, and of the one thing that is shared; an error as it is."""
        name = shared[0].hex() if shared else ""
        if shared and name not in self._shared:
            self._shared = {name: await shared[0]}
        return await self._done(work, *given, self._shared.get(name))

    async def batches(self, name: str, batch: int, calls: Sequence[Request], wanted: Sequence[bool]) -> Any:
        """Return which calls a local model answers together."""
        return await self._done(lambda: _local(name, batch).batches(calls, wanted))

    async def answer(self, name: str, batch: int, identity: str, calls: Sequence[Request]) -> Any:
        """Return the replies of a local model to one batch."""
        return await self._done(_answered, name, batch, identity, calls)

    async def embed(self, name: str, identity: str, texts: Sequence[str]) -> Any:
        """Return the vectors of one lot of texts by a local embedder."""
        return await self._done(_embedded, name, identity, texts)

    async def end(self, taken: Sequence[int]) -> list[Left] | RaftError:
        """Return replies that the run's ledger does not have; `taken` are those that it has."""
        while self._writing is not None:
            await asyncio.sleep(GROUP_SECONDS)
        if self._ledger is None:
            return []
        forgotten = [*self._taken, *taken]
        return await asyncio.get_running_loop().run_in_executor(self._disk, valued, self._ledger.end, forgotten)

    def _done(self, work: Callable[..., Any], *given: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._worker, valued, work, *given)

    async def _kept(self, payment: Payment) -> None:
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[None] = loop.create_future()
        self._waiting.append((payment, kept))
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        await kept

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            taken, self._taken = self._taken, []
            payments = [payment for payment, _ in waiting]
            wrong: Exception | None = None
            try:
                assert self._ledger is not None
                await loop.run_in_executor(self._disk, self._ledger.write, self._opening.run, payments, taken)
            except Exception as error:  # whatever it is, who waits hears of it, and what comes later is written
                wrong = error
            for kept in [kept for _, kept in waiting if not kept.done()]:
                if wrong is None:
                    kept.set_result(None)
                else:
                    kept.set_exception(wrong)
            await asyncio.sleep(GROUP_SECONDS)
        self._writing = None


def folder_of(opening: Opening, node: str) -> Path:
    """Return where the shards of a run have their ledgers on a node: in the run directory, where that is there.

    Elsewhere it is a folder for temporary files that this user alone can open, which is made.

    Raises:
        RaftError: somebody else has laid it there.
    """
    if node == opening.node:
        return Path(opening.folder)
    own = Path(tempfile.gettempdir()) / f"raft-shards-{os.getuid()}"
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RaftError(
            "The folder for replies of shards is another user's.",
            where=f"{os.uname().nodename}: {own}",
            hint=f"sudo rm -r {typed(str(own))}   (on that node; or the same command with --engine local)",
        )
    own.chmod(0o700)
    return own / opening.run


def leave(opening: Opening, node: str) -> list[Found]:
    """Return what shards of earlier builds of this run have left on a node."""
    return shards.left_in(folder_of(opening, node))


def left_at(path: str) -> list[Left]:
    """Return what a shard that has ended has left in its ledger, which it may not have begun."""
    return shards.left_by(Path(path)) if Path(path).is_file() else []


def valued(work: Callable[..., _T], *given: Any) -> _T | RaftError:
    """Return what a function returns, or the error that it raises: Ray would wrap it up with a traceback."""
    try:
        return work(*given)
    except RaftError as error:
        return error


@lru_cache(maxsize=2)
def _local(name: str, batch: int) -> LocalModel:
    return LocalModel(name, batch=batch)


def _answered(name: str, batch: int, identity: str, calls: Sequence[Request]) -> Answers:
    model = _local(name, batch)
    _check_same(name, model.identity, identity)
    found = dict(one for some in model.answer(calls, [True] * len(calls)) for one in some)
    return [found[place] for place in range(len(calls))]


@lru_cache(maxsize=2)
def _embedder(name: str) -> SentenceEmbedder:
    return SentenceEmbedder(name)


def _embedded(name: str, identity: str, texts: Sequence[str]) -> np.ndarray:
    embedder = _embedder(name)
    _check_same(name, embedder.identity, identity)
    return embedder.embed(texts)


def _check_same(name: str, there: str, here: str) -> None:
    if there != here:
        raise RaftError(
            f"The model {name} is another one on a node of the cluster than on this machine ({there}, not {here}).",
            where=os.uname().nodename,
            hint="the same command with --engine local   (or lay the same files of the model on each node)",
        )
