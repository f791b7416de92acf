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
from raft.text.secrets import shown, shown_address

_LONGEST = 500
_ENDPOINT = re.compile(
    r"/(?:(?:chat/)?completions|models|api/(?:chat|generate|tags)|api|responses|embeddings|messages|chat|docs)$"
)
_VERSION = re.compile(r"/v\d|openai")
_TWICE = re.compile(r"(/v\d\w*)\1+$")
WANTS_TLS = re.compile(r"plain http request.*https|client sent an http request to an https|requires tls", re.I)
_NO_TLS = re.compile(r"wrong.version.number|record.layer.failure|http.request\]", re.I)
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
    """The endpoint has no model of that name (404, or in words)."""

    def stop(self, model: str, where: str) -> EndpointRefuses:
        """Return the error to raise, with the command that lists the names that the endpoint knows."""
        found, key = re.search(r"https?://[^\s,?#]+", where), key_variables(model)[0]
        hint = f"check the model's name, {model}"
        if found:
            asked = f'curl -H "Authorization: Bearer ${key}" {_ENDPOINT.sub("", found[0].rstrip("/"))}/models'
            hint = f"{asked}   (the names of its models, to put behind {model.partition('/')[0]}/)"
        return EndpointRefuses(f"The endpoint has no such model as {model}: {self.words}", where=where, hint=hint)


class NoEndpoint(AccessDenied):
    """What answers at the address speaks another language: a web page, a stream, a path that it does not have.

    `there` is the address where it says that it is to be asked.
    """

    def __init__(self, words: str, *, there: str = "") -> None:
        self._there = shown_address(there)
        super().__init__(words)

    def stop(self, model: str, where: str) -> EndpointRefuses:
        """Return the error to raise, with the address that was likely meant."""
        words = f"There is no chat endpoint of {model} at the address: {self.words}"
        return EndpointRefuses(words, where=where, hint=_address_hint(where, self._there, self.words))


def _address_hint(where: str, there: str = "", words: str = "") -> str:
    """Return what to type where no chat endpoint is at an address, by what it said and `there`, where it sent us."""
    found = re.search(r"https?://\S+", where)
    if not found:
        return "--set generator.api_base=http://127.0.0.1:8000/v1   (the address of a chat endpoint; most end in /v1)"
    if "certificate" in words.lower():
        return "export SSL_CERT_FILE=ca.pem   (the certificate of who signed the endpoint's own; then the same command)"
    where, sent = found[0], re.fullmatch(r"https?://[^/?#\s\[\]]+\S*/chat/completions/?", there) is not None
    parts = urlsplit((there if sent else where).rstrip("/"))
    path = _TWICE.sub(r"\1", _ENDPOINT.sub("", parts.path))
    scheme = "https" if WANTS_TLS.search(words) else "http" if _NO_TLS.search(words) else parts.scheme
    likely = f"{scheme}://{parts.netloc}{path if sent or _VERSION.search(path) else path + '/v1'}"
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
