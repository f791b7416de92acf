"""An OpenAI-compatible endpoint, asked over aiohttp with nothing in between, and what endpoints mean by what they say.

A status, a code and some words are read here for all transports: slow down, ask again, this request never, none at all.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from raft.backends.asking import Reply
from raft.backends.hosted.errors import (
    WANTS_TLS,
    AccessDenied,
    Fault,
    NoEndpoint,
    RateLimited,
    Rejected,
    Transient,
    UnknownModel,
)
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.providers import provider_of
from raft.protocols import Request
from raft.text.secrets import shown_address

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS = 30.0
_MANY = 2**31  # tokens, and more: of no request
_LARGEST = 4 * 2**20  # bytes of a body that is read; a hundred thousand tokens have a tenth of it
_LARGEST_STREAM = 16 * _LARGEST  # each token of a stream comes in some hundred bytes of its own
_IDLE_SECONDS = 4.0  # many servers drop a connection after five, and with it a request that was just sent
_DENIED_CODES = frozenset(
    (
        *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"),
        *("invalid_api_key", "invalid_authentication", "model_not_found", "permission_denied"),
    )
)
_UNPAID = re.compile(
    r"(?:balance|funds|credits?) (?:is |are )?(?:too low|insufficient|exhausted|not enough)|"
    r"insufficient (?:\w+ )?(?:balance|funds|credits?)",
    re.I,
)
_DENIED_WORDS = re.compile(
    r"api.?key (?:\w+ )*(?:not valid|invalid|incorrect)|(?:invalid|incorrect) api.?key|"
    rf"(?:location|country|region|territory) (?:is |are )?not (?:supported|available)|{_UNPAID.pattern}",
    re.I,
)
_NO_MODEL = re.compile(
    r"(?:invalid|unknown|no such|unsupported|not a valid) model\b(?![ -](?:param|in|out|resp|role|gen|set))|"
    r"\bmodels?(?: identifier)?(?:[ :/](?!output|response|reply)\S+)? (?:(?:is|was|are|has been) (?:decommissioned|"
    r"deprecated|invalid)\b|(?:(?:is|was|are|has been|does) )?not (?:found|exist|available|loaded|deployed|"
    r"supported by))|not a chat model|no models? loaded",
    re.I,
)
_TOO_LONG = re.compile(
    r"context.?(?:length|window|size)|max_model_len|too many (?:input )?tokens|"
    r"(?:prompt|input|request) (?:is )?too (?:long|large)|"
    r"reduce the length|exceeds? the (?:maximum )?(?:number of tokens|token limit)",
    re.I,
)
_CONTENT = re.compile(r"content.?(?:policy|filter|management)|safety system|moderation|flagged", re.I)
_OVERLOAD = re.compile(
    r"overload|capacity|too many|rate.?limit|slow down|throttl|\bbusy\b|(?<!error )(?<!while )\bloading\b|warming up",
    re.I,
)
_PAGE = re.compile(r"\s*<(?:!doctype|!--|html|head|body|\?xml)", re.I)
_STREAM = re.compile(r"\s*(?:(?:data|event|id|retry)?:)")
_PIECE = re.compile(r"^(?:data: ?)+(.*)$", re.M)
_ENDINGS = {
    **dict.fromkeys(("max_tokens", "model_length", "max_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("safety", "sensitive", "recitation", "blocklist", "prohibited_content"), "content_filter"),
}
"""What servers say of why a reply ends, beside OpenAI's own words."""
_MODEL = re.compile(r"\bmodel\b|deployment|\badapter\b", re.I)
_AGAIN_LATER = (408, 409, 425)
_SEEN = 120  # characters of what came that are shown
_AGAIN = re.compile(
    r"(?:try again|retry|wait)\D{0,20}?((?:[\d.]+\s?(?:ms|[hms]|seconds?|minutes?|hours?)[ ,]*)+)", re.I
)
_SPAN = re.compile(r"([\d.]+)\s?(ms|[hms])", re.I)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class DirectTransport:
    """Sends requests to `/chat/completions` of an OpenAI-compatible endpoint.

    Args:
        name: `provider/model`; what follows the first slash is the model's name at the endpoint.
        api_base: the endpoint's address, as in `http://127.0.0.1:8000/v1`.
        key: sent as bearer token; None where the endpoint wants none.
        timeout: seconds for one reply, from the first byte sent to the last one read.
        connections: the most that are open at once; more requests than that wait for each other.
        manners: how the model wants to be asked, as far as is known; None: nothing is.
        exact: whether a reply counts for nothing that says that another model wrote it.
    """

    def __init__(
        self,
        name: str,
        *,
        api_base: str,
        key: str | None,
        timeout: float,
        connections: int,
        manners: Manners | None = None,
        exact: bool = False,
    ) -> None:
        model = name.partition("/")[2] or name
        self._model = model if "/" in model else provider_of(name).folder + model
        self._manners, self._exact = manners or Manners(name), exact
        base, mark, query = api_base.strip().partition("?")
        base = base.rstrip("/")
        self._url = (base if base.endswith("/chat/completions") else f"{base}/chat/completions") + mark + query
        self._key, self._timeout, self._connections = (key or "").strip(), timeout, connections
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        self._told: tuple[str | None, str | None] = (None, None)
        self.limits: Mapping[str, float] = {}

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request; see `Transport.send` for what is raised.

        What the endpoint turns down by name (a schema, a temperature, a system turn, the name of the token limit) is
        left out or said otherwise in another try at once, and from then on.
        """
        refused: frozenset[str] = frozenset()
        while True:
            refused |= self._manners.refused
            begun = time.monotonic()
            status, headers, data = await self._post(self._body(request, refused))
            if status == 200:
                reply = read_reply(data, time.monotonic() - begun, self._model if self._exact else None)
                self._manners.learn(reply, refused)
                return reply
            words, code = read_error(data, status)
            found = fault(status, self._masked(words), code=code, retry_after=retry_after(headers, words))
            if 300 <= status < 400:
                there = headers.get("Location", "")
                with suppress(ValueError):
                    there = urljoin(self._url, there)
                found = NoEndpoint(self._masked(f"it redirects to {there}"), there=there)
            more = self._manners.objection(status, words, request, refused, plain=is_plain(found))
            if not more:
                raise found
            refused |= more

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _body(self, request: Request, refused: frozenset[str]) -> bytes:
        turns, options = self._manners.messages(request, refused), self._manners.options(request, refused)
        body = {"model": self._model, "messages": turns, **options}
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        session = self._session or self._open()
        try:
            # a redirect could lead documents and key to another machine, and drops what was posted besides
            async with session.post(self._url, data=body, proxy=self._proxy, allow_redirects=False) as response:
                self._listen(response.headers)
                return response.status, response.headers, await self._body_of(response)
        except aiohttp.ClientSSLError as error:
            raise NoEndpoint(self._masked(f"no safe connection to {self._url}: {error}")) from None
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            words = self._masked(f"no connection to {self._url}: {error}")
            raise Transient(words, billed=False, reached=False) from None
        except TimeoutError:
            raise Transient(
                self._masked(f"no reply from {self._url} within {self._timeout:g} seconds"), billed=True
            ) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise AccessDenied(self._masked(f"{self._url} cannot be asked: {error}")) from None
        except (aiohttp.ClientError, OSError) as error:
            words = str(error) or type(error).__name__
            raise Transient(self._masked(f"the connection to {self._url} broke: {words}"), billed=True) from None

    async def _body_of(self, response: "aiohttp.ClientResponse") -> bytes:
        data = bytearray()
        most = _LARGEST_STREAM if response.content_type == "text/event-stream" else _LARGEST
        async for part in response.content.iter_any():
            data += part
            if len(data) > most:
                break
        return bytes(data)

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        self._proxy = _proxy_for(self._url)  # looked up once; aiohttp would look it up for each request
        headers = {"Content-Type": "application/json"}
        if self._key and urlsplit(self._url).username is None:  # aiohttp makes another of a user in the address
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
        words = words.replace(self._url, shown_address(self._url))
        return words.replace(self._key, "***") if self._key else words


def fault(status: int, words: str, *, code: str = "", retry_after: float | None = None) -> Fault:
    """Return what an endpoint's refusal means by its HTTP status, its words, and the error's code or type.

    `retry_after` are the seconds that it asks to wait.
    """
    words = words or f"HTTP status {status}"
    said = f"{code} {words}"
    found: Fault = Rejected(words, kind="refused")
    if status < 500 and _CONTENT.search(said):
        pass
    elif (status == 404 and _MODEL.search(said)) or (
        status in (400, 403, 404, 422) and (code == "model_not_found" or _NO_MODEL.search(words))
    ):
        found = UnknownModel(words)
    elif (
        code in _DENIED_CODES
        or (status == 429 and retry_after is None and _UNPAID.search(words))
        or (status < 500 and status != 429 and _DENIED_WORDS.search(words))
    ):
        found = AccessDenied(words)
    elif status in (429, 529) or (status == 503 and (retry_after is not None or _OVERLOAD.search(said))):
        found = RateLimited(words, retry_after=retry_after)
    elif status == 413 or (status <= 500 and status not in _AGAIN_LATER and _TOO_LONG.search(said)):
        found = Rejected(words, kind="too long")
    elif status in _AGAIN_LATER or status >= 500:
        # where a gateway gave up waiting, the reply may have been written behind it
        found = Transient(words, billed=status in (408, 504, 524))
    elif status in (401, 402, 403, 407, 451):
        found = AccessDenied(words)
    elif status in (404, 405) or status < 400 or (status == 400 and WANTS_TLS.search(words)):
        found = NoEndpoint(words)
    return found


def read_reply(data: bytes, seconds: float, model: str | None = None) -> Reply:
    """Return what the body of a good response holds; with `model`, one that says to be another model's is refused.

    Raises:
        Rejected: another model wrote it.
        Transient: it is no whole JSON.
        NoEndpoint: it is no chat completion at all.
        Fault: it is an error after all; some gateways send those with a good status.
    """
    words = data.decode("utf-8", "replace").lstrip("\ufeff")
    streamed = _STREAM.match(words)
    if len(data) > (_LARGEST_STREAM if streamed else _LARGEST):  # billed, and kept as it is of use: empty
        return Reply("", "too large", -1, -1, None, seconds)
    try:
        tree = _joined(words) if streamed else json.loads(words, strict=False)  # a bare line end costs no reply
    except (ValueError, RecursionError):
        raise no_reply(words) from None
    choices = tree.get("choices") if isinstance(tree, dict) else None
    if isinstance(tree, dict) and not choices and (found := _good_status_fault(tree)):
        raise found
    if not isinstance(choices, list):
        if isinstance(tree, dict) and "choices" in tree:
            raise Transient("the reply's body is no chat completion", billed=True)
        raise no_reply(words)
    if model is not None and tree.get("model") not in (None, model):
        raise Rejected(
            f"the reply is said to be of {str(tree['model'])[:_SEEN]}, and {model} was asked", kind="refused"
        )
    tokens = read_usage(tree.get("usage"))
    if not choices:
        return Reply("", "empty", *tokens, None, seconds)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    if isinstance(choice.get("error"), dict):
        raise choice_fault(choice["error"])
    message = choice.get("message")
    finish = str(choice.get("finish_reason") or "stop")
    text, finish = read_message(message if isinstance(message, dict) else {}, finish)
    return Reply(text, finish, *tokens, None, seconds)


def _good_status_fault(tree: Mapping[str, Any]) -> Fault | None:
    """Return what an error means that came with a good status; None where there is none."""
    told = tree.get("error") or tree.get("errors")
    inner = told[0] if isinstance(told, list) else told
    codes = [one.get(name) for one in (inner, tree) if isinstance(one, Mapping) for name in ("code", "status")]
    number = next((int(str(one)) for one in codes if re.fullmatch("[45]\\d\\d", str(one))), None)
    if not told and not (number and {"message", "msg", "detail"} & tree.keys()):
        return None
    said, code = read_error(json.dumps(tree).encode(), 200)
    found = fault(number or 500, said, code=code)
    return Transient(said, billed=True) if isinstance(found, Transient) else found


def _joined(stream: str) -> Any:
    """Return the chat completion whose pieces came as an event stream, asked for or not; None: they are of no such.

    Raises:
        Transient: the stream ends before the reply does.
    """
    came: dict[str, Any] = {"usage": None}
    said: dict[str, list[str]] = {name: [] for name in ("content", "refusal", "reasoning_content", "reasoning")}
    finish, ended, meant = None, False, False
    for told in _PIECE.findall(stream):
        try:
            piece = json.loads(told, strict=False)
        except ValueError:
            ended = ended or told.strip() == "[DONE]"
            continue
        if not isinstance(piece, dict):
            continue
        if piece.get("error"):
            return {"error": piece["error"]}
        came |= {name: piece[name] for name in ("model", "usage") if piece.get(name)}
        choices = piece.get("choices")
        meant = meant or isinstance(choices, list)
        first = choices[0] if isinstance(choices, list) and choices else None
        choice = first if isinstance(first, dict) else {}
        part = choice.get("delta") or (None if any(map(any, said.values())) else choice.get("message"))
        delta = part if isinstance(part, dict) else {}
        for name, parts in said.items():
            if isinstance(delta.get(name), (str, list)):
                parts.append(read_content(delta[name]))
        finish = choice.get("finish_reason") or finish
    if meant and not (finish or ended):
        raise Transient("the stream broke off before its end", billed=True)
    message = {name: "".join(parts) for name, parts in said.items()}
    return {**came, "choices": [{"message": message, "finish_reason": finish}]} if meant else None


def read_message(message: Mapping[str, Any], finish: str) -> tuple[str, str]:
    """Return what a message says and why it ends: its text, or else its refusal, or else its thoughts."""
    finish = _ENDINGS.get(finish.lower(), finish.lower())
    text = read_content(message.get("content"))
    if text:
        return (text, finish) if len(text) <= _LARGEST else ("", "too large")
    if refusal := read_content(message.get("refusal")):
        return refusal, "refusal"
    if called := read_call(message):
        return called
    told = (message.get("reasoning_content"), message.get("reasoning"))
    thoughts = next(filter(None, (read_content(one) for one in told if isinstance(one, (str, list)))), "")
    if finish == "stop" and _is_json(thoughts):
        return thoughts, finish  # a server that takes all for thoughts where the model did not think
    return (f"<think>{thoughts}" if thoughts else ""), finish


def _is_json(text: str) -> bool:
    """Tell whether a text is an object or a list in JSON from its beginning to its end, in a fence or without."""
    bare = re.sub(r"\A\s*```\w*\s|```\s*\Z", "", text).strip()
    try:
        return bare.startswith(("{", "[")) and isinstance(json.loads(bare), (dict, list))
    except (ValueError, RecursionError):
        return False


def read_call(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what a message hands to a tool, and "tool call" with the tool's name; None where it calls none."""
    calls = message.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else {"function": message.get("function_call")}
    function = first.get("function") if isinstance(first, dict) else None
    if not isinstance(function, dict):
        return None
    return read_content(function.get("arguments")), f"tool call: {function.get('name')}"


def choice_fault(error: Mapping[str, Any]) -> Fault:
    """Return what an error means that stands in a reply's choice, as gateways have it."""
    number, words = error.get("code"), str(error.get("message") or error)
    return fault(number, words) if isinstance(number, int) and number >= 400 else Transient(words, billed=True)


def no_reply(text: str) -> Fault:
    """Return what it means that a text came with a good status, where a chat completion should."""
    begins = " ".join(re.sub(r"<[^>]*>", " ", text).split() if _PAGE.match(text) else text.split())[:_SEEN]
    if _PAGE.match(text):
        return NoEndpoint(f"a web page (HTML) came instead of a reply: {begins!r}")
    if _STREAM.match(text):
        return NoEndpoint(f"an event stream came instead of a reply: {begins!r}")
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        if not text.strip() or text.lstrip()[0] in "{[":  # it may have been cut on its way
            words = "the reply's body is no JSON" if text.strip() else "the reply's body is empty, and no JSON"
            return Transient(words, billed=True)
    return NoEndpoint(f"what came is no chat completion: {begins!r}")


def is_plain(found: Fault) -> bool:
    """Tell whether a refusal may be about how a request was put, rather than about what it says or how long it is."""
    return isinstance(found, (Transient, UnknownModel)) or (  # "json_schema on model m is not supported by ..."
        isinstance(found, Rejected) and found.kind == "refused" and not _CONTENT.search(found.words)
    )


def read_content(content: Any) -> str:
    """Return the text of a message, whose content may be a text, a list of parts, or missing."""
    try:
        if isinstance(content, list):
            return "".join(read_content(part.get("text") if isinstance(part, dict) else part) for part in content)
        if isinstance(content, dict):  # a part alone, or JSON that was read already
            names = (name for name in ("text", "value") if isinstance(content.get(name), (str, dict)))
            name = next(names, None)
            return read_content(content[name]) if name else json.dumps(content, ensure_ascii=False)
    except RecursionError:
        return ""
    return content if isinstance(content, str) else ""


def read_usage(usage: Any) -> tuple[int, int]:
    """Return the tokens read and written according to a reply, (-1, -1) where that cannot be believed."""
    if isinstance(usage, Mapping):
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(read) is int and type(written) is int and 0 < read < _MANY and 0 <= written < _MANY:
            return read, written
    return -1, -1


def read_error(data: bytes, status: int) -> tuple[str, str]:
    """Return the words of an error's body, with the field that it names, and its code, in any shape that is about."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        text = data[:2000].decode("utf-8", "replace").strip()
        if text.startswith("<"):
            text = f"HTTP status {status}: " + " ".join(re.sub(r"<[^>]*>", " ", text).split())[:_SEEN]
        return text or f"HTTP status {status}", ""
    tree = tree[0] if isinstance(tree, list) and tree else tree
    inner = (tree.get("error") or tree.get("errors") or tree) if isinstance(tree, dict) else tree
    inner = inner[0] if isinstance(inner, list) and inner else inner
    if not isinstance(inner, dict):
        return str(inner) or f"HTTP status {status}", ""
    words = inner.get("message") or inner.get("detail") or inner.get("msg") or f"HTTP status {status}"
    if isinstance(named := inner.get("param"), str) and named not in str(words):
        words = f"{words} ({named})"
    codes = [inner.get(name) for name in ("code", "type", "status")]
    told = [one for one in codes if isinstance(one, str)]
    return str(words), next((one for one in told if one in _DENIED_CODES), told[0] if told else "")


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


def retry_after(headers: Mapping[str, str], words: str = "") -> float | None:
    """Return how many seconds an endpoint asks to wait by its headers or else its words, None where it does not say."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = _seconds(headers.get(name, "")) * unit
            if math.isfinite(seconds):
                return max(0.0, seconds)
    told = _AGAIN.search(words)
    with suppress(ValueError):
        return sum(float(number) * _UNITS[unit.lower()] for number, unit in _SPAN.findall(told[1])) if told else None
    return None


def _seconds(given: str) -> float:
    with suppress(ValueError):
        return float(given)
    then = parsedate_to_datetime(given)
    return ((then if then.tzinfo else then.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()


def _proxy_for(url: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
