"""The server of the page on which people judge: on loopback, behind a token, one request at a time.

Whoever can open the page can write decisions, so each request has to know the token, be sent to this machine by name
(a page elsewhere whose name was rebound to it is not), and be small; what is sent must be JSON of this page's own.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from raft.api.reviewing import Session
from raft.curation.decisions import APPROVED, EDITED, LONGEST, REASONS, REJECTED, is_edit
from raft.errors import RaftError
from raft.pipeline.review import LISTS
from raft.text import from_json

_HOME = "127.0.0.1"
_LARGEST = 64 << 10
_PATIENCE = 10.0  # seconds for the head of a request, and for the rest of it
_MOST_LINES = 64  # a page needs six
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page has the rest, with its script's digest
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Line(H11Protocol):
    """A connection that asks in time, or is closed; of too many one that asks nothing makes room, else the new one.

    It is the one that has waited longest since it came, or since its last answer; those that never asked go first.
    """

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > _MOST_LINES:
            waiting = [one for one in self.connections if isinstance(one, _Line) and one is not self and one._waits()]
            least = min(waiting, key=lambda one: (one.cycle is not None, one._since), default=self)
            least.timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def _wait(self) -> None:
        """Give the head of a request its time, however slowly its pieces come."""
        if not self._waits() and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._waits() and self._timer is None:
            self._since = self.loop.time()
            self._timer = self.loop.call_later(_PATIENCE, self.timeout_keep_alive_handler)


class _Refused(Exception):
    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


def application(session: Session, page: str, token: str, done: Callable[[], None]) -> Starlette:
    """Return the server's application: all that it knows is below `/TOKEN/`."""

    async def answer(request: Request) -> Response:
        try:
            response = await _answered(request, session, page, token, done)
        except _Refused as refused:
            response = PlainTextResponse(f"{refused}\n", refused.status)
        except ClientDisconnect:
            response = PlainTextResponse("", 400)
        except RaftError as error:
            response = PlainTextResponse(f"{error}\n", 409)
        except OSError as error:
            why = error.strerror or "another program holds the file"
            response = PlainTextResponse(f"the verdict was not saved: {why}\n", 507)
        response.headers.update(_HEADERS)
        return response

    served = Starlette()
    served.router.default = _Endpoint(answer)
    return served


class _Endpoint:
    """One function for all paths, so that none of the framework's own answers tells what there is."""

    def __init__(self, answer: Callable[[Request], Any]) -> None:
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (await self.answer(Request(scope, receive)))(scope, receive, send)


async def _answered(request: Request, session: Session, page: str, token: str, done: Callable[[], None]) -> Response:
    _check_origin(request)
    _, given, *rest = request.url.path.split("/")
    if not secrets.compare_digest(given.encode(), token.encode()) or len(rest) != 1:
        raise _Refused(404, "there is nothing here; open the whole address that raft review printed")
    (what,) = rest
    if request.method == "GET":
        if what == "":
            return HTMLResponse(page)
        if what == "state":
            return JSONResponse(session.state())
        if what == "row" and (row := session.view(request.query_params.get("id", ""))):
            return JSONResponse(row)
        raise _Refused(404, "there is no such row")
    if request.method != "POST":
        raise _Refused(405, "GET and POST are understood")
    sent = await _body(request)
    if what == "decide":
        return _decided(session, sent)
    if what == "undo":
        return JSONResponse({"id": session.undo(), **session.state()})
    if what == "done":
        done()
        return JSONResponse({"said": session.figures()["text"]})
    raise _Refused(404, "there is nothing here")


def _check_origin(request: Request) -> None:
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"http://{host}").hostname
    except ValueError:
        name = None
    if name not in (_HOME, "localhost"):
        raise _Refused(421, "this page is known as 127.0.0.1 or localhost alone")
    if request.headers.get("origin", f"http://{host}") != f"http://{host}":
        raise _Refused(403, "another page sent this")


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refused(415, "what is sent is JSON")
    read = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for piece in request.stream():
                read += piece
                if len(read) > _LARGEST:
                    raise _Refused(413, "it is too long")
    except TimeoutError:
        raise _Refused(408, "it took too long") from None
    try:
        value = from_json(bytes(read))
    except (ValueError, RecursionError):
        raise _Refused(400, "it is no JSON") from None
    if not isinstance(value, dict):
        raise _Refused(400, "it is no JSON object")
    return value


def _decided(session: Session, sent: dict[str, Any]) -> Response:
    name, verdict, shown = (sent.get(key) for key in ("id", "verdict", "list"))
    reason, edit = sent.get("reason"), sent.get("edit")
    if not isinstance(name, str) or session.view(name) is None:
        raise _Refused(404, "there is no such row")
    if verdict not in (APPROVED, EDITED, REJECTED) or shown not in LISTS:
        raise _Refused(400, "there is no such verdict")
    if (reason in REASONS) != (verdict == REJECTED) or (reason is not None and verdict != REJECTED):
        raise _Refused(400, "a rejection has one of the reasons, and nothing else has")
    if (edit is None) == (verdict == EDITED) or (edit is not None and not is_edit(edit)):
        raise _Refused(400, f"an edit has a question and an answer, of at most {LONGEST:,} characters")
    try:
        session.decide(name, verdict, reason=reason, edit=edit, shown=shown)
    except ValueError as wrong:
        raise _Refused(422, str(wrong)) from None
    return JSONResponse(session.state())


def serve(session: Session, page: str, port: int, opened: Callable[[str], None]) -> None:
    """Serve the page until it is done with, or Ctrl-C; `opened` is told its address.

    Raises:
        RaftError: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOME, port))
        listening.listen()  # whoever opens the page at once waits for the server
    except (OSError, OverflowError) as error:
        listening.close()
        raise RaftError(f"The page cannot listen here: {error}.", where=f"port {port}", hint="--port 0") from None

    def done() -> None:
        server.should_exit = True

    app: ASGIApp = application(session, page, token, done)
    config = uvicorn.Config(
        app,
        **{"http": _Line, "ws": "none", "loop": "asyncio", "lifespan": "off", "interface": "asgi3"},  # type: ignore[arg-type]
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    with listening, suppress(KeyboardInterrupt):
        opened(f"http://{_HOME}:{listening.getsockname()[1]}/{token}/")
        server.run(sockets=[listening])
