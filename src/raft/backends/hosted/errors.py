"""What can become of a call to a hosted model, as one vocabulary for all transports.

A transport sends one request once and returns its reply, or raises one of these four; whether to ask again, to slow
down or to stop is decided elsewhere.
"""

import re
from collections.abc import Mapping
from typing import Protocol

from raft.backends.asking import Reply
from raft.protocols import Request

_LONGEST = 500
_SECRETS = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w*.-]{5,}[\w*]|\bAIza[\w-]{20,}|\b[Bb]earer\s+\S+")


class RateLimited(Exception):
    """The endpoint wants fewer calls (429, or overloaded): slow down and ask again; nothing was billed.

    Args:
        words: what the provider said.
        retry_after: seconds that it asks to wait; None where it does not say.
    """

    def __init__(self, words: str, *, retry_after: float | None = None) -> None:
        self.words, self.retry_after = _plain(words), retry_after
        super().__init__(self.words)


class Transient(Exception):
    """A call that failed by chance (5xx, cut, timed out, a body that cannot be read): it may be sent again.

    Args:
        words: what the provider or the network said.
        billed: whether the provider may have charged for it; true for a call that was cut, timed out or came garbled.
    """

    def __init__(self, words: str, *, billed: bool) -> None:
        self.words, self.billed = _plain(words), billed
        super().__init__(self.words)


class Rejected(Exception):
    """This request alone is not answered, however often it is sent.

    Args:
        words: what the provider said.
        kind: "refused" (content policy, bad request) or "too long" (more than the model's context).
    """

    def __init__(self, words: str, *, kind: str) -> None:
        self.words, self.kind = _plain(words), kind
        super().__init__(self.words)


class AccessDenied(Exception):
    """No request is answered: the key, a permission, the model's name or the account's balance is at fault.

    Args:
        words: what the provider said.
    """

    def __init__(self, words: str) -> None:
        self.words = _plain(words)
        super().__init__(self.words)


class Transport(Protocol):
    """Sends a request to an endpoint, once.

    A reply's `cost` is None and its tokens are -1 each where the reply has no believable usage.
    """

    limits: Mapping[str, float]
    """What the endpoint last said of its limits: "requests_per_minute", "tokens_per_minute"; empty if nothing."""

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request.

        Raises:
            RateLimited: the endpoint wants fewer calls.
            Transient: the call failed by chance.
            Rejected: this request is not answered.
            AccessDenied: no request is answered.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def _plain(words: str) -> str:
    """Return the first line of what was said, cut to a bearable length, with nothing in it that looks like a key."""
    lines = words.strip().splitlines()
    return _SECRETS.sub("***", lines[0] if lines else "")[:_LONGEST]
