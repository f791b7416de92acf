"""An OpenAI-compatible endpoint, asked over aiohttp with nothing in between; a server full of vLLM needs no more.

What a status, a code and some words mean (slow down, ask again, this request never, no request at all) is said here
once, for this transport and for others.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from raft.backends.asking import Reply
from raft.backends.faults import Broken, Busy, Denied, Refused
from raft.protocols import Request

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS = 30.0
_IDLE_SECONDS = (
    4.0  # shorter than the five after which many servers drop a connection, in which a request would be lost
)
_DENIED_CODES = frozenset(
    (
        *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"),
        *("invalid_api_key", "invalid_authentication", "model_not_found", "permission_denied"),
    )
)
_DENIED_WORDS = re.compile(
    r"api.?key (?:\w+ )*(?:not valid|invalid|incorrect)|(?:invalid|incorrect) api.?key|credit balance is too low", re.I
)
_TOO_LONG = re.compile(
    r"context.?(?:length|window)|max_model_len|too many (?:input )?tokens|(?:prompt|input|request) (?:is )?too long|"
    r"reduce the length|exceeds? the (?:maximum )?(?:number of tokens|token limit)",
    re.I,
)
_CONTENT = re.compile(r"content.?(?:policy|filter|management)|safety system|moderation|flagged", re.I)
_OVERLOAD = re.compile(r"overload|capacity|too many|rate.?limit|slow down|throttl|\bbusy\b", re.I)
NO_SCHEMA = re.compile(r"response_format|json_schema|structured output|guided|\bschema\b", re.I)
_NO_MAX_TOKENS = re.compile(r"max_completion_tokens")


class DirectTransport:
    """Sends requests to `/chat/completions` of an OpenAI-compatible endpoint.

    Args:
        name: `provider/model`; what follows the first slash is the model's name at the endpoint.
        api_base: the endpoint's address, as in `http://127.0.0.1:8000/v1`.
        key: sent as bearer token; None where the endpoint wants none.
        timeout: seconds for one reply, from the first byte sent to the last one read.
        connections: the most that are open at once; more requests than that wait for each other.

    Attributes:
        limits: what the endpoint's headers last said, see `Transport`.
    """

    def __init__(self, name: str, *, api_base: str, key: str | None, timeout: float, connections: int) -> None:
        self._model = name.partition("/")[2] or name
        base = api_base.strip().rstrip("/")
        self._url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        self._key, self._timeout, self._connections = (key or "").strip(), timeout, connections
        self._plain = False  # whether the endpoint was found to take no schema
        self._room = "max_tokens"
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        self._told: tuple[str | None, str | None] = (None, None)
        self.limits: Mapping[str, float] = {}

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request; see `Transport.send` for what is raised.

        What the endpoint turns down as unknown to it (a schema, the name of the token limit) is sent once more without
        it, then and from then on.
        """
        while True:
            asked = (self._plain or request.schema is None, self._room)
            begun = time.monotonic()
            status, headers, data = await self._post(self._body(request, *asked))
            if status == 200:
                return read_reply(data, time.monotonic() - begun)
            words, code = read_error(data, status)
            if status in (400, 422) and self._adapted(words, *asked):
                continue
            raise fault(status, self._masked(words), code=code, retry_after=retry_after(headers))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _body(self, request: Request, plain: bool, room: str) -> bytes:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": request.messages,
            room: request.max_tokens,
            "temperature": request.temperature,
        }
        if not plain:
            body["response_format"] = response_format(request)
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

    def _adapted(self, words: str, plain: bool, room: str) -> bool:
        if not plain and NO_SCHEMA.search(words):
            self._plain = True
        elif room == "max_tokens" and _NO_MAX_TOKENS.search(words):
            self._room = "max_completion_tokens"
        else:
            return False
        return True

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        session = self._session or self._open()
        try:
            # a redirect could lead documents and key to another machine, and drops what was posted besides
            async with session.post(self._url, data=body, proxy=self._proxy, allow_redirects=False) as response:
                self._listen(response.headers)
                return response.status, response.headers, await response.read()
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise Broken(self._masked(f"no connection to {self._url}: {error}"), billed=False) from None
        except TimeoutError:
            raise Broken(f"no reply from {self._url} within {self._timeout:g} seconds", billed=True) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise Denied(self._masked(f"{self._url} cannot be asked: {error}")) from None
        except (aiohttp.ClientError, OSError) as error:
            words = str(error) or type(error).__name__
            raise Broken(self._masked(f"the connection to {self._url} broke: {words}"), billed=True) from None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        self._proxy = _proxy_for(self._url)  # looked up once; aiohttp would look it up for each request
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(_CONNECT_SECONDS, self._timeout)),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        )
        return self._session

    def _listen(self, headers: Mapping[str, str]) -> None:
        told = (headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens"))
        if told != self._told:
            self._told = told
            self.limits = {**self.limits, **read_limits(headers)}

    def _masked(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words


def fault(
    status: int, words: str, *, code: str = "", retry_after: float | None = None
) -> Busy | Broken | Refused | Denied:
    """Return what an endpoint's refusal means.

    Args:
        status: the HTTP status.
        words: what the endpoint said.
        code: the error's code or type, where there is one.
        retry_after: seconds that it asks to wait.
    """
    words = words or f"HTTP status {status}"
    said = f"{code} {words}"
    found: Busy | Broken | Refused | Denied = Refused(words, kind="refused")
    if status < 500 and _CONTENT.search(said):
        pass
    elif code in _DENIED_CODES or (status < 500 and status != 429 and _DENIED_WORDS.search(words)):
        found = Denied(words)
    elif status in (429, 529) or (status == 503 and (retry_after is not None or _OVERLOAD.search(said))):
        found = Busy(words, retry_after=retry_after)
    elif status in (408, 409, 425) or status >= 500:
        # where a gateway gave up waiting, the reply may have been written behind it
        found = Broken(words, billed=status in (408, 504, 524))
    elif status == 413 or _TOO_LONG.search(said):
        found = Refused(words, kind="too long")
    elif status in (401, 402, 403, 404, 405) or status < 400:
        found = Denied(words)
    return found


def read_reply(data: bytes, seconds: float) -> Reply:
    """Return what the body of a good response holds.

    Raises:
        Broken: it is no chat completion.
        Busy, Refused, Denied: it is an error after all; some gateways send those with a good status.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise Broken("the reply's body is no JSON", billed=True) from None
    choices = tree.get("choices") if isinstance(tree, dict) else None
    if isinstance(tree, dict) and choices is None and tree.get("error"):
        words, code = read_error(data, 0)
        number = tree["error"].get("code") if isinstance(tree["error"], dict) else None
        raise fault(number, words, code=code) if isinstance(number, int) else Broken(words, billed=True)
    if not isinstance(choices, list):
        raise Broken("the reply's body is no chat completion", billed=True)
    tokens = read_usage(tree.get("usage"))
    if not choices:
        return Reply("", "empty", *tokens, None, seconds)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    text = read_content(message.get("content") if isinstance(message, dict) else None)
    return Reply(text, str(choice.get("finish_reason") or "stop"), *tokens, None, seconds)


def read_content(content: Any) -> str:
    """Return the text of a message, whose content may be a text, a list of parts, or missing."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def read_usage(usage: Any) -> tuple[int, int]:
    """Return the tokens read and written according to a reply, (-1, -1) where that cannot be believed."""
    if isinstance(usage, Mapping):
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(read) is int and type(written) is int and read > 0 and written >= 0:
            return read, written
    return -1, -1


def read_error(data: bytes, status: int) -> tuple[str, str]:
    """Return the words and the code of an error's body, in any of the shapes that are about."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        text = data[:2000].decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text) or f"HTTP status {status}", ""
    tree = tree[0] if isinstance(tree, list) and tree else tree
    inner = tree.get("error", tree) if isinstance(tree, dict) else tree
    if not isinstance(inner, dict):
        return str(inner) or f"HTTP status {status}", ""
    words = inner.get("message") or inner.get("detail") or inner.get("msg") or f"HTTP status {status}"
    codes = [inner.get(name) for name in ("code", "type", "status")]
    named = [one for one in codes if isinstance(one, str)]
    return str(words), next((one for one in named if one in _DENIED_CODES), named[0] if named else "")


def read_limits(headers: Mapping[str, str]) -> dict[str, float]:
    """Return the limits a minute that `x-ratelimit-limit-*` headers tell."""
    limits = {}
    for kind in ("requests", "tokens"):
        try:
            limit = float(headers.get(f"x-ratelimit-limit-{kind}") or "")
        except ValueError:
            continue
        if 0 < limit < math.inf:
            limits[f"{kind}_per_minute"] = limit
    return limits


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds an endpoint's headers ask to wait, None where they do not say."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            seconds = float(given) * unit
        except ValueError:
            try:
                then = parsedate_to_datetime(given)
            except ValueError:
                continue
            then = then if then.tzinfo else then.replace(tzinfo=UTC)
            seconds = (then - datetime.now(UTC)).total_seconds()
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def response_format(request: Request) -> dict[str, Any]:
    """Return how a request's schema is put to an endpoint."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": dict(request.schema or {}), "strict": True},
    }


def _proxy_for(url: str) -> str | None:
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
