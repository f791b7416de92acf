"""A stand-in for a server of raft's, which says of itself what it is told to say, and answers by rule."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn:
    """Such a server in a thread, a context manager.

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
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Nothing is logged."""

            def _send(self, status, value, **headers):
                body = json.dumps(value).encode()
                self.send_response(status)
                for name, one in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
                    self.send_header(name, str(one))
                self.end_headers()
                self.wfile.write(body)

            def _refused(self):
                if outer.key and self.headers.get("Authorization") != f"Bearer {outer.key}":
                    self._send(401, {"error": {"message": "a key is needed"}})
                    return True
                return False

            def do_GET(self):
                """Say what is served."""
                if self._refused():
                    return
                outer.looked += 1
                self._send(200, {"object": "list", "data": outer.models()})

            def do_POST(self):
                """Answer."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self._refused():
                    return
                if outer.fails:
                    status = outer.fails.pop(0)
                    self._send(status, {"error": {"message": "not now"}}, **{"Retry-After": 7})
                    return
                question = body["messages"][-1]["content"]
                outer.asked.append(question)
                outer.bodies.append(body)
                said = outer.reply(question)
                answer, more = said if isinstance(said, tuple) else (said, {})
                told = {"abstained": False, "supported": True, **outer.served, **more}
                self._send(200, {"choices": [{"message": {"content": answer}}], "raft": told})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def models(self):
        """Return what is said of the models."""
        return [{"id": self.name, "object": "model", "raft": self.served}]
