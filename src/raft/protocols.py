"""The components: what a stage may ask of a model, an index or a tokenizer, and nothing of how it is done.

A stage receives objects of these protocols as arguments; `raft.backends` holds the real ones, `raft.testing` the
fakes. `identity` names everything about the object that can change its results (model, revision, precision), and
enters the key of each step that uses it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

_T = TypeVar("_T")
Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""

UNFINISHED, REHEARSED = "unfinished", "rehearsed"
"""Marks ("yes") that the last turn of a row may have: the reply was cut off, and that it ends there is not learned; the
row is a general one, in which the student shall stay near what it is (`TrainingPlan.kl`)."""


@dataclass(frozen=True)
class Request:
    """One thing to ask a generator.

    Attributes:
        messages: the chat so far; a last message of role "assistant" is a beginning that the reply continues.
        max_tokens: the most tokens the reply may have.
        temperature: 0 for the most likely reply, more for sampling.
        sample: number of this request among equal ones, so that equal requests can have different replies.
        schema: the JSON schema that the reply must follow, or None for free text.
        check: raises ValueError when a reply is of no use; the backend then asks again, within its limits.
            It is not part of the request's key.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    schema: Mapping[str, Any] | None = None
    check: Callable[[str], object] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Completion:
    """A reply that passed its request's check.

    `cost` is in US dollars (0 for a local model, None when the price is unknown); `replayed` is true when the
    reply came from the ledger.
    """

    text: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    finish_reason: str = "stop"
    replayed: bool = False


@dataclass(frozen=True)
class Failure:
    """A request that stayed without a usable reply.

    `kind` is "malformed" (no reply passed the check), "length" (cut off), "refused", or "error"; `reply` the last
    text that came back, `message` why it was of no use.
    """

    kind: str
    message: str
    reply: str = ""
    attempts: int = 1


class Tokenizer(Protocol):
    """Counts the tokens of each text, without special tokens, or of a whole chat in the model's template."""

    identity: str

    def count(self, texts: Sequence[str]) -> list[int]: ...

    def count_chat(self, messages: Sequence[Message]) -> int: ...


class Generator(Protocol):
    """Yields one outcome a request, in the order of the requests, lazily: neither is ever held whole."""

    identity: str

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]: ...


class Embedder(Protocol):
    """Turns texts into a float32 array of shape (len(texts), dimensions) whose rows have length 1."""

    identity: str
    tokenizer: Tokenizer
    max_tokens: int
    """Tokens of text that fit into one embedding (special tokens not counted); the rest would be cut off."""

    def embed(self, texts: Sequence[str]) -> np.ndarray: ...


class Retriever(Protocol):
    """Finds the best `k` chunks of each query, as a frame of `tables.HITS`; its embedder embeds the queries."""

    embedder: Embedder

    @property
    def identity(self) -> str: ...

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame: ...


class Indexes(Protocol):
    """Holds the chunks of a run for searching, by vectors and by words, in its directory or beside it."""

    def digest(self) -> str | None:
        """Return the digest of the sorted (chunk id, text digest) pairs and the embedder; None if there are none."""
        ...

    def sync(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> dict[str, int]:
        """Make the index hold exactly these chunks; return how many were embedded, deleted and left unchanged."""
        ...

    def lexical_digest(self) -> str | None: ...

    def build_lexical(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> None: ...

    def searching(self) -> AbstractContextManager[Retriever]:
        """Return what a build searches with: exactly, and no question twice until the chunks change."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """How an adapter of the base model `student` is trained; `settings.Training` says what most fields mean.

    The low-rank update of each linear layer is multiplied by alpha / rank (LoRA, arXiv 2106.09685); 4 bits quantise the
    base (QLoRA, arXiv 2305.14314; CUDA only). `max_tokens` is the longest row in the student's tokens, `seed` that of
    initialisation and row order.
    """

    student: str
    rank: int
    alpha: int
    learning_rate: float
    epochs: float
    batch: int
    evaluations: int
    patience: int
    checkpoint_minutes: float
    bits: int
    max_tokens: int
    seed: int
    layers: str = "all"
    kl: float = 0.0


@dataclass(frozen=True)
class TrainingReport:
    """What a training did.

    Attributes:
        curve: in the order of steps, `{"step", "epoch", "loss"}` (training) and `{"step", "epoch", "valid_loss"}`.
        best_step: the step, of `steps`, whose adapter was kept.
        tokens: tokens read in all passes, labels and context, without padding.
        seconds: of all sittings, where the training was interrupted and went on.
        versions: name to version of each package that took part.
        hardware: processor or card, cores, memory, in words.
        backend: "peft" or "unsloth".
    """

    curve: tuple[Mapping[str, float], ...]
    best_step: int
    steps: int
    tokens: int
    seconds: float
    versions: Mapping[str, str]
    hardware: str
    backend: str


class Trainer(Protocol):
    """Tunes an adapter of a small model."""

    identity: str

    def train(
        self,
        rows: Sequence[Sequence[Message]],
        valid: Sequence[Sequence[Message]],
        plan: TrainingPlan,
        *,
        out: Path,
        checkpoints: Path,
        on_event: Callable[[Mapping[str, float]], None],
    ) -> TrainingReport:
        """Train on chats, in which only the last turn (the answer) is learned, and write the best adapter to `out`.

        Args:
            rows: chats to learn from; each ends with a turn of role "assistant".
            valid: chats whose loss decides which checkpoint is kept; may be empty, then the last is kept.
            plan: how.
            out: an empty folder; gets `adapter_config.json`, `adapter_model.safetensors` and the tokenizer's files.
            checkpoints: a folder of this training's own; an interrupted training goes on from what is in it.
            on_event: told `{"step", "steps", "epoch", "loss", "tokens_per_second"}` while it goes on.

        Raises:
            RaftError: the loss is no number, memory is short, or the student cannot be trained.
        """
        ...


class Scorer(Protocol):
    """Says how likely a model finds a text; what has no log-likelihoods (a hosted model) is no Scorer.

    Of each (context, continuation) `score` tells the continuation's log-likelihood in nats, whether each of its tokens
    is the most likely one, and their number; no tokens are added. `render` makes a context of a chat.
    """

    identity: str

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool, int]]: ...

    def render(self, messages: Sequence[Message]) -> str: ...


class Streamer(Protocol):
    """Yields the pieces of one reply while they are written; nothing is kept in the ledger."""

    identity: str

    def stream(self, request: Request) -> Iterator[str]: ...


class Workers(Protocol):
    """Others who do work on documents; what they make of it is what would be made here."""

    ahead: int
    """How many pieces of work are begun before the result of the first is asked for."""

    def begin(self, work: Callable[..., _T], *given: Any, shared: Any = None) -> Callable[[], _T]:
        """Begin a module's function on values that can be sent, and return what waits for its result.

        `shared` is its last argument, the same over many calls, and sent once.
        """
        ...


def in_order(begun: Iterable[Callable[[], _T]], ahead: int) -> Iterator[_T]:
    """Yield the results of what is begun, in its order; so many more are begun before the first is waited for."""
    waiting: deque[Callable[[], _T]] = deque()
    for one in begun:
        waiting.append(one)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Told what happens while it happens: an event's name and its facts."""
