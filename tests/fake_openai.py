"""A chat server that speaks as OpenAI's does, for tests and for trying raft by hand: `python tests/fake_openai.py`.

It listens on 127.0.0.1 only. A reply depends on the request alone. What goes wrong is said in the request's last turn
or by `faults`: the first attempt at an equal request meets the first fault, the second the second, and so on.
"""

import argparse
import hashlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ERRORS: Mapping[str, tuple[int, str, str]] = {
    "400": (400, "invalid_request_error", "Invalid value for 'temperature'."),
    "401": (401, "invalid_api_key", "Incorrect API key provided."),
    "403": (403, "permission_denied", "You may not use this model."),
    "404": (404, "model_not_found", "The model `test-model` does not exist."),
    "422": (422, "unprocessable_entity", "The request is well formed and of no use."),
    "429": (429, "rate_limit_exceeded", "Rate limit reached for requests."),
    "500": (500, "server_error", "The server had an error while processing your request."),
    "503": (503, "overloaded", "The engine is currently overloaded."),
    "context": (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.",
    ),
    "policy": (400, "content_policy_violation", "Your request was rejected as a result of our safety system."),
}
"""Faults that answer with an error: status, code and message. Others: "empty", "malformed", "length", "close"."""


class FakeOpenAI(ThreadingHTTPServer):
    """The server; as a context manager it runs in a thread.

    Args:
        faults: what goes wrong with a request whose last turn holds the key, attempt by attempt.
        limit: how many requests are answered at most; the rest gets 503.
        port: where to listen; 0 for any free port.

    Attributes:
        seen: the bodies of all requests, in the order in which they came.
    """

    daemon_threads = True

    def __init__(self, faults: Mapping[str, Sequence[str]] | None = None, *, limit: int = 500, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.faults, self.limit = dict(faults or {}), limit
        self.seen: list[dict[str, Any]] = []
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address to give as `api_base`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def fault(self, body: dict[str, Any]) -> str | None:
        """Take note of a request and return what is to go wrong with it."""
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            self.seen.append(body)
            attempt = self._attempts[digest]
            self._attempts[digest] += 1
            if len(self.seen) > self.limit:
                return "503"
        text = body["messages"][-1]["content"]
        planned = next((faults for key, faults in self.faults.items() if key in text), ())
        return planned[attempt] if attempt < len(planned) else None


def reply_to(body: Mapping[str, Any]) -> str:
    """Return the text of the reply to a request: items as JSON for a passage, otherwise an echo of the last turn."""
    text = body["messages"][-1]["content"]
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


class _Handler(BaseHTTPRequestHandler):
    server: FakeOpenAI
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.fault(body)
        if not self.path.endswith("/chat/completions"):
            self._error(404, "not_found", f"There is no {self.path}.")
        elif fault in ERRORS:
            self._error(*ERRORS[fault])
        elif fault == "malformed":
            self._send(200, b'{"id": "chat-1", "choices": [{"mess')
        elif fault == "close":
            self.close_connection = True
        else:
            self._send(200, json.dumps(_completion(body, fault)).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _error(self, status: int, code: str, message: str) -> None:
        error = {"message": message, "type": code, "param": None, "code": code}
        self._send(status, json.dumps({"error": error}).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)


def _completion(body: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
    text = reply_to(body)
    words = text.split()
    if fault == "length":
        text = " ".join(words[: max(1, len(words) // 2)])
    read = sum(len(turn["content"].split()) for turn in body["messages"])
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if fault == "length" else "stop",
    }
    return {
        "id": "chat-" + hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12],
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", "test-model"),
        "choices": [] if fault == "empty" else [choice],
        "usage": {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)},
    }


def main() -> None:
    """Serve until Ctrl-C; print the address to give as `--set generator.api_base=...`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limit", type=int, default=10_000, help="requests that are answered")
    chosen = parser.parse_args()
    server = FakeOpenAI(port=chosen.port, limit=chosen.limit)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.stdout.write(f"{len(server.seen)} requests\n")


if __name__ == "__main__":
    main()
