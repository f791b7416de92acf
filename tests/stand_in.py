"""Stand-ins for HTTP servers: they listen on this machine, and a function, or a rule, says what they answer."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def standing_in(answer):
    """Listen, and give the address without a path.

    Args:
        answer: called with the method, the path, the headers and the body (JSON, or None); returns the status, the
            reply, a text or what becomes JSON, and headers of it, if it is to have any.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            """Answer."""
            length = int(self.headers.get("content-length") or 0)
            sent = json.loads(self.rfile.read(length) or b"null")
            status, said, *more = answer(self.command, self.path, self.headers, sent)
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            kind = "text/plain" if isinstance(said, str) else "application/json"
            told = {"content-type": kind, "content-length": str(len(data)), **dict(*more)}
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET  # noqa: N815  the library's names

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class StandIn:
    """A server of raft's in a thread, which says of itself what it is told to say; a context manager.

    Attributes:
        served: the object `raft` of its model.
        name: of its model.
        reply: returns the answer to a question, or a pair: the answer and what the object `raft` says beside it.
        fails: statuses that the next requests get, in order.
        key: the key that is asked for; None: none is.
        asked: the questions that were asked, in order.
        bodies: of the requests that asked them.
        looked: how often its models were asked for.
    """

    def __init__(self, **served):
        usual = {"version": "v1", "adapter_digest": "a" * 64, "index": "i" * 64, "model": "tiny", "candidate": None}
        self.served, self.name = {**usual, **served}, "run"
        self.reply, self.fails, self.key = lambda question: "I do not know", [], None
        self.asked, self.bodies, self.looked = [], [], 0

    def __enter__(self):
        self._listening = standing_in(self._answer)
        self.url = f"{self._listening.__enter__()}/v1"
        return self

    def __exit__(self, *told):
        self._listening.__exit__(*told)

    def _answer(self, method, path, headers, body):
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": "a key is needed"}}
        if method == "GET":
            self.looked += 1
            return 200, {"object": "list", "data": self.models()}
        if self.fails:
            return self.fails.pop(0), {"error": {"message": "not now"}}, {"retry-after": "7"}
        question = body["messages"][-1]["content"]
        self.asked.append(question)
        self.bodies.append(body)
        said = self.reply(question)
        answer, more = said if isinstance(said, tuple) else (said, {})
        told = {"abstained": False, "supported": True, **self.served, **more}
        return 200, {"choices": [{"message": {"content": answer}}], "raft": told}

    def models(self):
        """Return what is said of the models."""
        return [{"id": self.name, "object": "model", "raft": self.served}]
