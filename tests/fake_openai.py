"""A chat server that speaks as OpenAI's does, for tests, benchmarks, and for trying raft by hand.

    python tests/fake_openai.py --latency 0.2 --requests-per-minute 600 --faults 429=0.05,500=0.05,cut=0.02

It listens on 127.0.0.1 only, and stops by itself after so many requests and seconds. A reply depends on the request
alone. What goes wrong depends on the request and on how often it was asked before: it is said in the request's last
turn or by `faults` (the first attempt at an equal request meets the first fault, the second the second, and so on),
or drawn by `shares` from the hash of request and attempt.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Self, TextIO

ERRORS: Mapping[str, tuple[int, str, str]] = {
    "400": (400, "invalid_request_error", "Invalid value for 'top_p'."),
    "401": (401, "invalid_api_key", "Incorrect API key provided."),
    "402": (402, "insufficient_quota", "You exceeded your current quota."),
    "403": (403, "permission_denied", "You may not use this model."),
    "404": (404, "model_not_found", "The model `test-model` does not exist."),
    "422": (422, "unprocessable_entity", "The request is well formed and of no use."),
    "429": (429, "rate_limit_exceeded", "Rate limit reached for requests."),
    "500": (500, "server_error", "The server had an error while processing your request."),
    "502": (502, "bad_gateway", "The gateway got no reply."),
    "503": (503, "overloaded", "The engine is currently overloaded."),
    "529": (529, "overloaded_error", "Overloaded."),
    "context": (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.",
    ),
    "policy": (400, "content_policy_violation", "Your request was rejected as a result of our safety system."),
    "quota": (429, "insufficient_quota", "You exceeded your current quota, please check your plan."),
    "schema": (400, "invalid_request_error", "This endpoint does not support response_format of type json_schema."),
    "max_tokens": (400, "unsupported_parameter", "Use 'max_completion_tokens' instead of 'max_tokens'."),
    "temperature": (400, "unsupported_value", "'temperature' does not support 0.0 with this model."),
    "system": (400, "invalid_request_error", "System role not supported"),
    "effort": (400, "unsupported_value", "Supported values of 'reasoning_effort' are: 'low', 'medium', and 'high'."),
}
"""Faults that answer with an error: status, code and message."""

_ONLY_WITH: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "schema": lambda body: "response_format" in body,
    "max_tokens": lambda body: "max_tokens" in body,
    "temperature": lambda body: "temperature" in body,
    "system": lambda body: body["messages"][0]["role"] == "system",
    "effort": lambda body: body.get("reasoning_effort") in ("none", "minimal"),
}
"""Faults that a request meets only where it has something."""

BROKEN = ("malformed", "close", "cut", "timeout")
"""Faults without a whole reply: a body that is no JSON, no reply, half a reply, no reply and no end."""

ODD = ("empty", "length", "truncated", "usage", "refusal", "page")
"""Whole replies of no use: no choice, cut off and saying so, JSON that ends in its first item, absurd token counts, the
model's words that it refuses, a web page."""

THOUGHT = 'Perhaps {"items": [{"question": "draft"}]} or [1, 2]? It has "quotes" and {braces}.\n</think>\n\n'

_USAGES: Sequence[Any] = (
    None,
    {"prompt_tokens": -7, "completion_tokens": 3, "total_tokens": -4},
    {"prompt_tokens": "many", "completion_tokens": "few"},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
)
_NORMAL = NormalDist()


class FakeOpenAI:
    """The server; as a context manager it runs in a thread, by `run` in the caller's.

    Args:
        faults: what goes wrong with a request whose last turn holds the key, attempt by attempt; a name of `ERRORS`,
            `BROKEN` or `ODD`, or "" for nothing.
        limit: how many requests are answered at most; the rest gets 503.
        port: where to listen; 0 for any free port.
        shares: fault to share of all attempts, for example `{"429": 0.05}`.
        latency: seconds until a reply, the median where there is a spread.
        spread: standard deviation of the logarithm of the latency, which is drawn from the request's hash; 0: constant.
        slow_start: seconds from the first request on in which replies take up to ten times as long.
        requests_per_minute: more are turned away with 429; a second's worth may come at once.
        retry_after: say with a 429 how long to wait.
        headers: tell the limit in `x-ratelimit-*`.
        counts: a file to which a line is added for each attempt: seconds since 1970, the request's digest, the number
            of the attempt, and "answered", "abandoned" (a whole reply to a client that had gone) or the fault.
        keep: remember the bodies of all requests in `seen`.
        refuses: names of `ERRORS` that each request meets which has what they name.
        thinks: tokens of thoughts before each reply, in a field of their own; a limit below them cuts the reply off.

    Attributes:
        seen: the bodies of all requests, in the order in which they came.
        heads: their request lines and headers, where bodies are kept.
        connections: how many were opened.
        came: how many requests came.
        waiting: how many of them are not answered yet.
        most_waiting: the most that waited at once.
        answered: digest of a request to how often it got a whole reply, and so would have been charged for.
        outcomes: how often each ending (as in `counts`, and "limited" for the rate limit) was met.
    """

    def __init__(
        self,
        faults: Mapping[str, Sequence[str]] | None = None,
        *,
        limit: int = 500,
        port: int = 0,
        shares: Mapping[str, float] | None = None,
        latency: float = 0.0,
        spread: float = 0.0,
        slow_start: float = 0.0,
        requests_per_minute: float | None = None,
        retry_after: bool = True,
        headers: bool = True,
        counts: Path | None = None,
        keep: bool = True,
        refuses: Sequence[str] = (),
        thinks: int = 0,
    ):
        self.refuses, self.thinks = refuses, thinks
        self.faults, self.limit, self.shares = dict(faults or {}), limit, dict(shares or {})
        for name in (*self.shares, *(fault for planned in self.faults.values() for fault in planned)):
            if name and name not in (*ERRORS, *BROKEN, *ODD):
                raise ValueError(f"there is no fault {name!r}")
        self.latency, self.spread, self.slow_start = latency, spread, slow_start
        self.requests_per_minute, self.retry_after, self.headers = requests_per_minute, retry_after, headers
        self.seen: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.connections = self.came = self.waiting = self.most_waiting = 0
        self.answered: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.keep = keep
        self._attempts: Counter[str] = Counter()
        self._bucket = _Bucket(requests_per_minute) if requests_per_minute else None
        self._first: float | None = None
        self._log: TextIO | None = counts.open("a", encoding="utf-8") if counts else None
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.open: set[_Connection] = set()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """The address to give as `api_base`."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._url = self.url
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def serve(self, seconds: float | None = None) -> None:
        """Serve until it is stopped, `seconds` at most."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), sock=self._socket)
        self._ready.set()
        flushing = asyncio.create_task(self._flush())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        flushing.cancel()
        server.close()
        for connection in list(self.open):
            connection.transport.abort()
        await asyncio.sleep(0)  # the connections say good-bye
        self._socket.close()
        if self._log:
            self._log.close()

    def stop(self) -> None:
        """End `serve`; to be called in its loop."""
        self._stop.set()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            if self._log:
                self._log.flush()

    def take(self, connection: "_Connection", data: bytes) -> None:
        """Take a request in and answer it when its time has come."""
        try:
            body = json.loads(data)
            digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        except ValueError:
            connection.send(*_error(400, "invalid_json", "The body is no JSON."))
            return
        self.came += 1
        if self.keep:
            self.seen.append(body)
        if self.came > self.limit:
            connection.send(*_error(*ERRORS["503"]))
            return
        wait = self._bucket.take(self._loop.time()) if self._bucket else 0.0
        if wait:
            self.outcomes["limited"] += 1
            connection.send(*_error(*ERRORS["429"]), self._limits(wait))
            return
        name = digest.hex()
        attempt = self._attempts[name]
        self._attempts[name] += 1
        draw = hashlib.sha256(digest + attempt.to_bytes(4, "big")).digest()
        fault = self._fault(body, attempt, int.from_bytes(draw[:8], "big") / 2**64)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        seconds = self._seconds((int.from_bytes(draw[8:15], "big") + 0.5) / 2**56)
        if fault == "timeout":
            self._note(name, attempt, "timeout")
            connection.hung = True
        elif seconds > 0:
            self._loop.call_later(seconds, self._answer, connection, body, digest, attempt, fault)
        else:
            self._answer(connection, body, digest, attempt, fault)

    def _fault(self, body: Mapping[str, Any], attempt: int, draw: float) -> str | None:
        if not body["messages"]:
            return "400"
        for name in self.refuses:
            if _ONLY_WITH[name](body):
                return name
        if self.faults:
            text = _text(body["messages"][-1])
            planned = next((faults for key, faults in self.faults.items() if key in text), ())
            if attempt < len(planned):
                chosen = planned[attempt]
                return chosen if chosen and (chosen not in _ONLY_WITH or _ONLY_WITH[chosen](body)) else None
        for fault, share in self.shares.items():
            if draw < share:
                return fault
            draw -= share
        return None

    def _seconds(self, draw: float) -> float:
        now = self._loop.time()
        self._first = now if self._first is None else self._first
        seconds = self.latency * (2.718281828 ** (self.spread * _NORMAL.inv_cdf(draw)) if self.spread else 1.0)
        cold = 1 - (now - self._first) / self.slow_start if self.slow_start else 0.0
        return seconds * (1 + 9 * max(0.0, cold))

    def _answer(
        self, connection: "_Connection", body: Mapping[str, Any], digest: bytes, attempt: int, fault: str | None
    ) -> None:
        self.waiting -= 1
        name = digest.hex()
        gone = connection.transport.is_closing()
        if fault in ERRORS:
            headers = self._limits(0.0) if ERRORS[fault][0] == 429 and ERRORS[fault][1] != "insufficient_quota" else ""
            connection.send(*_error(*ERRORS[fault]), headers)
        elif fault == "malformed":
            connection.send(200, b'{"id": "chat-1", "choices": [{"mess')
        elif fault == "page":
            connection.send(200, b"<!DOCTYPE html><html><body>Gateway login</body></html>")
        elif fault == "close":
            connection.transport.close()
        else:
            data = json.dumps(_completion(body, digest, fault, self.thinks)).encode()
            if fault == "cut":
                connection.send(200, data, self._limits(), until=len(data) // 2)
            else:
                self.answered[name] += 1
                connection.send(200, data, self._limits())
                self._note(name, attempt, "abandoned" if gone else fault or "answered")
                return
        self._note(name, attempt, fault or "")

    def _note(self, digest: str, attempt: int, ending: str) -> None:
        self.outcomes[ending] += 1
        if self._log:
            self._log.write(f"{time.time():.3f} {digest} {attempt} {ending}\n")

    def _limits(self, wait: float | None = None) -> str:
        lines = ""
        if wait is not None and self.retry_after:
            lines += f"Retry-After: {math.ceil(wait)}\r\nretry-after-ms: {math.ceil(wait * 1000)}\r\n"
        if self._bucket and self.headers:
            lines += f"x-ratelimit-limit-requests: {self.requests_per_minute:g}\r\n"
            lines += f"x-ratelimit-remaining-requests: {int(self._bucket.level)}\r\n"
        return lines


class _Bucket:
    """Lets so many requests a minute through, and a second's worth at once."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._most = self.level = max(1.0, self._rate)
        self._then: float | None = None

    def take(self, now: float) -> float:
        """Return 0 for a request that may pass, otherwise the seconds until one may."""
        since = now - self._then if self._then is not None else 0.0
        self.level, self._then = min(self._most, self.level + since * self._rate), now
        if self.level < 1:
            return (1 - self.level) / self._rate
        self.level -= 1
        return 0.0


class _Connection(asyncio.Protocol):
    """One client's connection: requests in, replies out, one after the other."""

    transport: asyncio.Transport

    def __init__(self, server: FakeOpenAI) -> None:
        self._server, self._data = server, b""
        self.hung = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, so that it can be closed at the end."""
        self.transport = transport  # type: ignore[assignment]
        self._server.open.add(self)
        self._server.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._server.open.discard(self)
        if self.hung:
            self._server.waiting -= 1

    def data_received(self, data: bytes) -> None:
        """Answer each request that is there in whole."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].decode("latin-1")
            length = re.search(r"^content-length:\s*(\d+)", head, re.IGNORECASE | re.MULTILINE)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < size:
                return
            body, self._data = self._data[end + 4 : size], self._data[size:]
            if self._server.keep:
                self._server.heads.append(head)
            method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
            if method == "POST" and path.partition("?")[0].endswith("/chat/completions"):
                self._server.take(self, body)
            elif method == "GET" and path.endswith("/models"):
                self.send(200, json.dumps({"object": "list", "data": [{"id": "test-model"}]}).encode())
            else:
                self.send(*_error(404, "not_found", f"There is no {path}."))

    def send(self, status: int, data: bytes, headers: str = "", until: int | None = None) -> None:
        """Send a reply, or its body up to byte `until` and then cut the connection."""
        if self.transport.is_closing():
            return
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + data[:until])
        if until is not None:
            self.transport.close()


def _text(turn: Mapping[str, Any]) -> str:
    """Return what a turn says, whose content may be a text or a list of parts."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def reply_to(body: Mapping[str, Any]) -> str:
    """Return the text of the reply to a request: items as JSON for a passage, otherwise an echo of the last turn.

    Of a rubric it chooses the first answer. A question about a sentence's first words is worded anew (`reword.md`), and
    read (`reader.md`), by these words.
    """
    text = _text(body["messages"][-1])
    if points := re.findall(r"^(\d+)\. .*\?$", text.partition("\nRubric:\n")[2], re.MULTILINE):
        return json.dumps({**{number: {"A": "yes", "B": "no"} for number in points}, "better": "A"})
    asked = next((_text(turn) for turn in reversed(body["messages"]) if turn["role"] == "user"), text)
    about = re.search(r"^Question: .*? about (.*)\?$", asked, re.MULTILINE)
    if about and "\nReword it: " in asked:
        return f"What can you people tell me about {about[1]}?"
    if about and asked.startswith("Passage:"):
        said = next((one for one in re.split(r"(?<=[.!?])\s+", asked) if about[1] in one), "")
        return " ".join(said.split()[-3:]).rstrip(".")
    passage = re.search(r'"""\n(.*)\n"""', text, re.DOTALL)
    if not passage:
        return f"echo: {text}"
    wanted = re.search(r"Write (\d+)", text)
    kinds = re.findall(r"^  - (\w+):", text, re.MULTILINE) or ["fact"]
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", passage[1]) if len(part.split()) > 3]
    items = [
        {
            "question": f"What do the documents say about {' '.join(sentence.split()[:6]).rstrip('.')}?",
            "answer": " ".join(sentence.split()[-3:]).rstrip("."),
            "quote": sentence,
            "kind": kinds[0],
        }
        for sentence in sentences[: int(wanted[1]) if wanted else 1]
    ]
    return json.dumps({"items": items})


def _error(status: int, code: str, message: str) -> tuple[int, bytes]:
    error = {"message": message, "type": code, "param": None, "code": code}
    return status, json.dumps({"error": error}).encode()


def _completion(body: Mapping[str, Any], digest: bytes, fault: str | None, thinks: int = 0) -> dict[str, Any]:
    text = reply_to(body)
    words = text.split()
    if fault == "length":
        text = " ".join(words[: max(1, len(words) // 2)])
    if fault == "truncated":
        text = text[: min(40, len(text) // 2)]
    message = {"role": "assistant", "content": text}
    if fault == "refusal":
        message |= {"content": None, "refusal": "I cannot help with that."}
    written = thinks + len(words)
    cut = thinks > 0 and written > body.get("max_tokens", body.get("max_completion_tokens", written))
    if thinks:
        message |= {"content": "" if cut else text, "reasoning_content": "Let me think"}
    read = sum(len(_text(turn).split()) for turn in body["messages"])
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "length" if cut or fault == "length" else "stop",
    }
    completion = {
        "id": "chat-" + digest.hex()[:12],
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", "test-model"),
        "choices": [] if fault == "empty" else [choice],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }
    if fault == "usage":
        completion["usage"] = _USAGES[digest[0] % len(_USAGES)]
        if completion["usage"] is None:
            del completion["usage"]
    return completion


def parse_shares(text: str) -> dict[str, float]:
    """Return the faults and their shares in `429=0.05,cut=0.02`."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name.strip(): float(share) for name, _, share in pairs}


def main() -> None:
    """Serve until Ctrl-C; print the address to give as `--set generator.api_base=...`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limit", type=int, default=10_000, help="requests that are answered")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so many")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until a reply")
    parser.add_argument("--spread", type=float, default=0.0, help="standard deviation of the latency's logarithm")
    parser.add_argument("--slow-start", type=float, default=0.0, help="seconds in which the server warms up")
    parser.add_argument("--requests-per-minute", type=float, help="turn more away with 429")
    parser.add_argument("--no-retry-after", action="store_true", help="do not say how long to wait after a 429")
    parser.add_argument("--no-headers", action="store_true", help="do not tell the limit in x-ratelimit headers")
    parser.add_argument(
        "--faults", type=parse_shares, default={}, help="NAME=SHARE,...: " + ", ".join((*ERRORS, *BROKEN, *ODD))
    )
    parser.add_argument("--counts", type=Path, help="add a line for each attempt to this file")
    chosen = parser.parse_args()
    server = FakeOpenAI(
        port=chosen.port,
        limit=chosen.limit,
        shares=chosen.faults,
        latency=chosen.latency,
        spread=chosen.spread,
        slow_start=chosen.slow_start,
        requests_per_minute=chosen.requests_per_minute,
        retry_after=not chosen.no_retry_after,
        headers=not chosen.no_headers,
        counts=chosen.counts,
        keep=False,
    )
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    asyncio.run(_by_hand(server, chosen.seconds))
    facts = {"requests": server.came, "most_waiting": server.most_waiting, "processor_seconds": time.process_time()}
    sys.stdout.write(f"{json.dumps({**facts, **server.outcomes})}\n")


async def _by_hand(server: FakeOpenAI, seconds: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve(seconds)


if __name__ == "__main__":
    main()
