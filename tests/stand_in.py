"""A stand-in for somebody else's HTTP server: it listens on this machine, and a function says what it answers."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def standing_in(answer):
    """Listen, and give the address without a path.

    Args:
        answer: called with the method, the path, the headers and the body (JSON, or None); returns the status and the
            reply, a text or what becomes JSON.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            """Answer."""
            length = int(self.headers.get("content-length") or 0)
            status, said = answer(self.command, self.path, self.headers, json.loads(self.rfile.read(length) or b"null"))
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(said, str) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET  # noqa: N815  the library's names

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
