"""What can become of a call to a hosted model, as one vocabulary for all transports.

A transport sends one request once and returns its reply, or raises one of these four; whether to ask again, to slow
down or to stop is decided elsewhere.
"""

import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from raft.backends.asking import Reply
from raft.backends.hosted.providers import key_variables
from raft.errors import EndpointRefuses, as_it_was
from raft.protocols import Request
from raft.text.secrets import shown

_LONGEST = 500
_ENDPOINT = re.compile(r"/(?:(?:chat/)?completions|models|api/(?:chat|generate|tags)|api|responses|docs)$")
_VERSION = re.compile(r"/v\d|openai")
_SECRETS = re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w*.-]{5,}[\w*]|\bAIza[\w-]{20,}|\b[Bb]earer\s+\S+")


class Fault(Exception):
    """A call that brought no reply; `words` are what the provider or the network said, in one line without keys."""

    def __init__(self, words: str) -> None:
        lines = words.strip().splitlines()
        self.words = _SECRETS.sub("***", shown(lines[0] if lines else ""))[:_LONGEST]
        super().__init__(self.words)

    def __reduce__(self) -> tuple[object, ...]:
        return as_it_was, (type(self), self.args, vars(self))


class RateLimited(Fault):
    """The endpoint wants fewer calls (429, or overloaded): slow down and ask again; nothing was billed.

    `retry_after` are the seconds that it asks to wait; None where it does not say.
    """

    def __init__(self, words: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(words)


class Transient(Fault):
    """A call that failed by chance (5xx, cut, timed out, a body that cannot be read): it may be sent again.

    `billed` tells whether the provider may have charged for it, as for one that was cut, timed out or came garbled;
    `reached`, whether anything listened at all.
    """

    def __init__(self, words: str, *, billed: bool, reached: bool = True) -> None:
        self.billed, self.reached = billed, reached
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

    def stop(self, model: str, where: str) -> EndpointRefuses:
        """Return the error to raise where a model cannot be asked at all."""
        return EndpointRefuses(
            f"The provider refuses {model}: {self.words}",
            where=where,
            hint=f"check the model's name and the key in the environment ({key_variables(model)[0]})",
        )


class UnknownModel(AccessDenied):
    """The endpoint has no model of that name (404)."""


class NoEndpoint(AccessDenied):
    """What answers at the address speaks another language: a web page, a stream, a path that it does not have."""

    def stop(self, model: str, where: str) -> EndpointRefuses:
        """Return the error to raise, with the address that was likely meant."""
        words = f"There is no chat endpoint of {model} at the address: {self.words}"
        return EndpointRefuses(words, where=where, hint=_address_hint(where))


def _address_hint(where: str) -> str:
    found = re.search(r"https?://\S+", where)
    if not found:
        return "--set generator.api_base=http://127.0.0.1:8000/v1   (the address of a chat endpoint; most end in /v1)"
    where, parts = found[0], urlsplit(found[0])
    path = _ENDPOINT.sub("", parts.path.rstrip("/"))
    likely = f"{parts.scheme}://{parts.netloc}{path if _VERSION.search(path) else path + '/v1'}"
    if likely != where.rstrip("/"):
        return f"--set generator.api_base={likely}   (the address of a chat endpoint; most end in /v1)"
    return f"check the address generator.api_base={where}: what is asked is {likely}/chat/completions"


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
