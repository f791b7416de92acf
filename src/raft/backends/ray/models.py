"""Models whose work shards do: the same seams, identities and batches as on one machine, and so the same bytes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raft.backends.asking import Reply
from raft.backends.embedding import SentenceEmbedder
from raft.backends.hosted.calls import Call, RequestPool
from raft.backends.hosted.errors import Transport
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.model import HostedModel, Wire
from raft.backends.hosted.providers import provider_of
from raft.backends.local.generate import LocalModel
from raft.backends.ray.engine import RayEngine
from raft.backends.ray.shard import Asked
from raft.protocols import Failure, Request, Tokenizer
from raft.store.budget import Budget


def by_shards(name: str, engine: RayEngine) -> "Callable[..., SpreadHostedModel] | None":
    """Return what makes a hosted model that shards ask; None for one that is asked from where the build runs.

    litellm looks for keys and addresses in the environment and files of whoever asks, which a node does not have.
    """
    return partial(SpreadHostedModel, name, engine) if engine.here or provider_of(name).direct else None


class _SpreadPool(RequestPool):
    async def _transmitted(self, number: int, call: Call, worst: float | None, transport: Transport) -> Reply:
        assert isinstance(transport, _ByShards)
        return await transport.send_call(number, call, worst)

    def _kept(self, number: int, transport: Transport) -> None:
        assert isinstance(transport, _ByShards)
        transport.kept(number)


class SpreadHostedModel(HostedModel):
    """A hosted model that shards ask; pace, budget and retries are those of one machine, and stay on it.

    `concurrency` times as many calls are in flight at each endpoint as there are shards; where fewer live, each of
    those has more. The other arguments are those of `HostedModel`.
    """

    _pool = _SpreadPool

    def __init__(self, name: str, engine: RayEngine, *, concurrency: int, **how: Any) -> None:
        super().__init__(name, concurrency=concurrency * engine.count, **how)
        self._engine, self._effort = engine, how.get("effort")

    def pool(self, budget: Budget) -> RequestPool:
        """Return what sends calls by way of shards, which are started."""
        self._budget = budget
        pool = super().pool(budget)
        self._engine.start()
        return pool

    def _transport(self, given: str | None, key: str | None) -> Transport:
        wire = Wire(self.name, self._address(given), key, self._timeout, self._connections)
        return _ByShards(self._engine, Asked(wire, self._budget.price, self._effort), self._manners)


class _ByShards:
    """The transport to one endpoint, by way of the shards."""

    def __init__(self, engine: RayEngine, asked: Asked, manners: Manners) -> None:
        self._engine, self._asked, self._manners = engine, asked, manners
        self.limits: Mapping[str, float] = {}

    async def send_call(self, number: int, call: Call, worst: float | None) -> Reply:
        """Send a call that is written down under a number; it raises as `Transport.send`."""
        reply, learned = await self._engine.send(self._asked, number, call, worst)
        if learned is not None:
            self._manners.refused |= learned.refused
            self._manners.thinks, self._manners.met = self._manners.thinks or learned.thinks, True
            if learned.limits != self.limits:
                self.limits = learned.limits
        return reply

    def kept(self, number: int) -> None:
        """Let the shard that has the reply to a call forget it, since the run's ledger has it."""
        self._engine.kept(number)

    async def send(self, request: Request) -> Reply:
        """Refuse what is not written down."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave connections to the shards, which end with the build."""


class SpreadModel:
    """A local model of which each shard has the weights: it answers the batches of one machine, a shard each."""

    def __init__(self, model: LocalModel, batch: int, engine: RayEngine) -> None:
        self.name, self.identity, self.window = model.name, model.identity, model.window
        self._which, self._engine = (_place(model.name), batch), engine

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, a batch at a time."""
        bare = [replace(call, check=None) for call in calls]
        batches = self._engine.ask("batches", *self._which, bare, list(wanted))()
        begun = [self._engine.ask("answer", *self._which, self.identity, [bare[i] for i in one]) for one in batches]
        for batch, wait in zip(batches, begun, strict=True):
            yield list(zip(batch, wait(), strict=True))


class SpreadEmbedder:
    """A local embedder of which each shard has the weights: each lot of texts is embedded whole, by one of them."""

    def __init__(self, name: str, embedder: SentenceEmbedder, engine: RayEngine) -> None:
        self.identity: str = embedder.identity
        self.tokenizer: Tokenizer = embedder.tokenizer
        self.max_tokens: int = embedder.max_tokens
        self.ahead = engine.ahead
        self._name, self._engine = _place(name), engine

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), dimensions) whose rows have length 1."""
        return self.begin(texts)()

    def begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """Begin to embed a lot of texts, and return what waits for its vectors."""
        return self._engine.ask("embed", self._name, self.identity, list(texts))


def _place(name: str) -> str:
    """Return a model's name, or its folder as it is found from anywhere."""
    return str(Path(name).resolve()) if Path(name).exists() else name
