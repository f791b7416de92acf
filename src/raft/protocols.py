"""The seams: what a stage may ask of a model, an index or a tokenizer, and nothing of how it is done.

A stage receives objects of these protocols as arguments; `raft.backends` holds the real ones, `raft.testing` the
fakes. `identity` names everything about the object that can change its results (model, revision, precision), and
enters the key of each step that uses it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


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
    """Counts tokens as one model does."""

    identity: str

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special tokens."""
        ...

    def count_chat(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a whole chat, in the model's chat template."""
        ...


class Generator(Protocol):
    """Writes text."""

    identity: str

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request, in the order of the requests, lazily: neither is ever held whole."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    identity: str
    tokenizer: Tokenizer
    max_tokens: int
    """Tokens of text that fit into one embedding (special tokens not counted); the rest would be cut off."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), dimensions) whose rows have length 1."""
        ...


class Retriever(Protocol):
    """Finds the chunks that answer a question."""

    identity: str

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query as a frame of `tables.HITS`."""
        ...


class Indexes(Protocol):
    """Holds the chunks of a run for searching, in its directory or beside it."""

    def digest(self) -> str | None:
        """Return the digest of the sorted (chunk id, text digest) pairs and the embedder; None if there are none."""
        ...

    def sync(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> dict[str, int]:
        """Make the index hold exactly these chunks; return how many were embedded, deleted and left unchanged."""
        ...

    def lexical_digest(self) -> str | None:
        """Return a digest of the lexical index; None when it is not there."""
        ...

    def build_lexical(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> None:
        """Build the lexical index anew."""
        ...

    def open(self) -> AbstractContextManager[Retriever]:
        """Open the indexes for searching."""
        ...
