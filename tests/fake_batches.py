"""A server with the batch endpoint of OpenAI's, for tests: files up, batches made, looked at and read.

It listens on 127.0.0.1 only, and answers a bounded number of requests. There is no clock: a batch is one step further
each time that it is looked at. A reply depends on the request alone; what goes wrong is said by the arguments.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from fake_openai import ERRORS, reply_to

STEPS = ("validating", "in_progress", "finalizing")
"""What a batch goes through before it is over, one step a look."""


class FakeBatches(ThreadingHTTPServer):
    """The server; as a context manager it runs in a thread.

    Args:
        faults: what goes wrong with a request whose last turn holds the key, the first time that it is in a batch, the
            second time, and so on: the name of an error of `fake_openai.ERRORS`, "empty", "length", "usage" (absurd
            token counts), "garbled" (a reply that is no completion), "broken line", "silent" (no line at all).
        endings: how the first batch ends, the second, and so on: "completed", "failed", "limit" (refused, because too
            many tokens wait already), "expired" or "cancelled" (each with the first half of its requests done).
        troubles: what happens to the first request of such a method and path, the second, and so on, for example
            `{"POST /batches": ["500", "cut"]}`: "ok", an error's name, or "cut" (it is done, and the reply is lost).
        page: batches in one page of the list.
        limit: requests that are answered at most; the rest gets 503.

    Attributes:
        batches: all that were made, in order, as the provider describes them.
        billed: how often each request was answered, by its name and its body as JSON.
        seen: method and path of each request.
        made: called when a batch is made, before the reply is sent.
    """

    daemon_threads = True

    def __init__(
        self,
        faults: Mapping[str, Sequence[str]] | None = None,
        *,
        endings: Sequence[str] = (),
        troubles: Mapping[str, Sequence[str]] | None = None,
        page: int = 2,
        limit: int = 500,
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.endings, self.page, self.limit = dict(faults or {}), list(endings), page, limit
        self.troubles = {path: list(planned) for path, planned in (troubles or {}).items()}
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.billed: Counter[tuple[str, str]] = Counter()
        self.seen: list[str] = []
        self.made: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self._times: Counter[str] = Counter()

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

    def asked(self) -> list[list[str]]:
        """Return the last turn of each request, batch by batch."""
        rows = [self._rows(batch) for batch in self.batches]
        return [[row["body"]["messages"][-1]["content"] for row in batch] for batch in rows]

    def upload(self, data: bytes) -> dict[str, Any]:
        """Keep a file."""
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return {
            **{"id": name, "object": "file", "bytes": len(data), "created_at": 1_700_000_000},
            **{"filename": "raft.jsonl", "purpose": "batch", "status": "processed"},
        }

    def make(self, asked: Mapping[str, Any], now: int) -> dict[str, Any]:
        """Make a batch."""
        batch = {
            **{"id": f"batch-{len(self.batches)}", "object": "batch", "endpoint": asked["endpoint"], "errors": None},
            **{"input_file_id": asked["input_file_id"], "completion_window": asked["completion_window"]},
            **{"status": STEPS[0], "output_file_id": None, "error_file_id": None, "created_at": now},
            **{"request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": asked.get("metadata")},
        }
        self.batches.append(batch)
        self.made()
        return batch

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch as it is, and let it do its next step."""
        shown = dict(batch)
        if batch["status"] in STEPS[:-1]:
            batch["status"] = STEPS[STEPS.index(batch["status"]) + 1]
        elif batch["status"] == STEPS[-1]:
            self._finish(batch)
        return shown

    def listed(self, after: str | None, limit: int) -> dict[str, Any]:
        """Return a page of the list, the latest first."""
        names = [batch["id"] for batch in reversed(self.batches)]
        begin = names.index(after) + 1 if after else 0
        part = list(reversed(self.batches))[begin : begin + min(limit, self.page)]
        return {"object": "list", "data": part, "has_more": begin + len(part) < len(names)}

    def _finish(self, batch: dict[str, Any]) -> None:
        ending = self.endings.pop(0) if self.endings else "completed"
        rows = self._rows(batch)
        if ending in ("failed", "limit"):
            code = "token_limit_exceeded" if ending == "limit" else "invalid_json_line"
            words = (
                "Enqueued token limit reached." if ending == "limit" else "This line is not parseable as valid JSON."
            )
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": words, "line": 1, "param": None}]}
            batch["status"] = "failed"
            return
        done = rows if ending == "completed" else rows[: len(rows) // 2]
        lines = [line for row in done for line in self._answer(row)]
        if ending == "expired":
            error = {"code": "batch_expired", "message": "This request could not be executed in time."}
            lines += [
                (False, {"custom_id": row["custom_id"], "response": None, "error": error}) for row in rows[len(done) :]
            ]
        counts = Counter(good for good, _ in lines)
        batch["request_counts"] = {"total": len(rows), "completed": counts[True], "failed": counts[False]}
        for field, wanted in (("output_file_id", True), ("error_file_id", False)):
            texts = [line if isinstance(line, str) else json.dumps(line) for good, line in lines if good is wanted]
            if texts:
                batch[field] = f"{batch['id']}-{field}"
                self.files[batch[field]] = "".join(f"{text}\n" for text in reversed(texts)).encode()  # in any order
        batch["status"] = ending

    def _answer(self, row: Mapping[str, Any]) -> Iterator[tuple[bool, dict[str, Any] | str]]:
        text = row["body"]["messages"][-1]["content"]
        planned = next((faults for key, faults in self.faults.items() if key in text), ())
        fault = planned[self._times[text]] if self._times[text] < len(planned) else None
        self._times[text] += 1
        line = {"id": "req", "custom_id": row["custom_id"], "error": None}
        if fault in ERRORS:
            status, code, words = ERRORS[fault]
            body = {"error": {"message": words, "type": code, "code": code}}
            yield False, {**line, "response": {"status_code": status, "body": body}}
            return
        self.billed[row["custom_id"], json.dumps(row["body"], sort_keys=True)] += 1
        if fault == "silent":
            return
        if fault == "broken line":
            yield True, '{"id": "req", "custom_id": "' + row["custom_id"]
            return
        body = {"id": "chat"} if fault == "garbled" else _completion(row["body"], fault)
        yield True, {**line, "response": {"status_code": 200, "body": body}}

    def _rows(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]


class _Handler(BaseHTTPRequestHandler):
    server: FakeBatches
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a file, or make a batch."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self._serve("POST", lambda parts: self._post(parts, data))

    def do_GET(self) -> None:
        """Show a batch, the list of batches, or what is in a file."""
        self._serve("GET", self._get)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self, method: str, work: Callable[[list[str]], Any]) -> None:
        parts = urlsplit(self.path).path.removeprefix("/v1/").split("/")
        with self.server.lock:
            self.server.seen.append(f"{method} /{'/'.join(parts)}")
            planned = next(
                (planned for path, planned in self.server.troubles.items() if self.server.seen[-1].startswith(path)), []
            )
            trouble = planned.pop(0) if planned else "ok"
            if len(self.server.seen) > self.server.limit:
                trouble = "503"
            if trouble in ERRORS:
                self._error(*ERRORS[trouble])
                return
            answer = work(parts)
        if trouble == "cut":
            self.close_connection = True
        elif answer is None:
            self._error(404, "not_found", f"There is no {self.path}.")
        else:
            self._send(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def _post(self, parts: list[str], data: bytes) -> Any:
        if parts == ["files"]:
            boundary = re.search("boundary=([^;]+)", self.headers["Content-Type"])[1].encode()
            fields = data.split(b"--" + boundary)
            (file,) = (field for field in fields if b"filename=" in field.partition(b"\r\n\r\n")[0])
            return self.server.upload(file.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        return self.server.make(json.loads(data), int(time.time())) if parts == ["batches"] else None

    def _get(self, parts: list[str]) -> Any:
        if parts == ["batches"]:
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            return self.server.listed(asked.get("after"), int(asked.get("limit", 20)))
        if parts[0] == "files" and parts[2:] == ["content"]:
            return self.server.files.get(parts[1])
        found = [batch for batch in self.server.batches if batch["id"] == parts[-1]]
        return self.server.look(found[0]) if found else None

    def _error(self, status: int, code: str, message: str) -> None:
        error = {"message": message, "type": code, "param": None, "code": code}
        self._send(status, json.dumps({"error": error}).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _completion(body: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
    text = reply_to(body)
    words = text.split()
    if fault == "length":
        text = " ".join(words[: len(words) // 2])
    read = -7 if fault == "usage" else sum(len(turn["content"].split()) for turn in body["messages"])
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if fault == "length" else "stop",
    }
    return {
        "id": "chat",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [] if fault == "empty" else [choice],
        "usage": {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)},
    }
