"""What can become of a call to a hosted model, as one vocabulary for all transports.

A transport sends one request once and returns its reply, or raises one of these four; whether to ask again, to slow
down or to stop is decided elsewhere.
"""

import re
from collections.abc import Mapping
from typing import Protocol

from raft.backends.asking import Reply
from raft.errors import UsageError
from raft.protocols import Request
from raft.text.secrets import shown

_LONGEST = 500
_SECRETS = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w*.-]{5,}[\w*]|\bAIza[\w-]{20,}|\b[Bb]earer\s+\S+")


class Fault(Exception):
    """A call that brought no reply; `words` are what the provider or the network said, in one line without keys."""

    def __init__(self, words: str) -> None:
        lines = words.strip().splitlines()
        self.words = _SECRETS.sub("***", shown(lines[0] if lines else ""))[:_LONGEST]
        super().__init__(self.words)


class RateLimited(Fault):
    """The endpoint wants fewer calls (429, or overloaded): slow down and ask again; nothing was billed.

    `retry_after` are the seconds that it asks to wait; None where it does not say.
    """

    def __init__(self, words: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(words)


class Transient(Fault):
    """A call that failed by chance (5xx, cut, timed out, a body that cannot be read): it may be sent again.

    `billed` tells whether the provider may have charged for it, as for one that was cut, timed out or came garbled.
    """

    def __init__(self, words: str, *, billed: bool) -> None:
        self.billed = billed
        super().__init__(words)


class Rejected(Fault):
    """This request alone is not answered, however often it is sent.

    `kind` is "refused" (content policy, bad request) or "too long" (more than the model's context).
    """

    def __init__(self, words: str, *, kind: str) -> None:
        self.kind = kind
        super().__init__(words)


class AccessDenied(Fault):
    """No request is answered: the key, a permission, the model's name or the account's balance is at fault."""

    def stop(self, model: str, where: str) -> UsageError:
        """Return the error to raise where a model cannot be asked at all."""
        return UsageError(
            f"The provider refuses {model}: {self.words}",
            where=where,
            hint="check the model's name and the key in the environment, for example OPENAI_API_KEY",
        )


class Transport(Protocol):
    """Sends a request to an endpoint, once.

    A reply's `cost` is None and its tokens are -1 each where the reply has no believable usage.
    """

    limits: Mapping[str, float]
    """What the endpoint last said of its limits: "requests_per_minute", "tokens_per_minute"; empty if nothing."""

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request.

        Raises:
            Fault: one of the four.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
