"""What raft's servers share: connections that nobody can hold for ever, and requests that are small and from here.

They are for one machine, or for few people: each connection costs a file, and each request some memory, for as long as
the other end likes. So the other end is given a time for each thing it does, and a number of connections.
"""

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from raft.errors import RaftError
from raft.text import from_json

HOME = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for the head of a request, for the rest of it, and for each piece of an answer to be taken."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # a page has the rest, with its script's digest
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What each answer says to a browser."""
_DRAINED = 16 << 20  # of a body that is too long: who still sends does not read that it was refused


class Refused(Exception):
    """A request that is not answered: `status` is HTTP's, and the text says why; `code` is a word for programs.

    `param` is the part of the request that is at fault, `headers` what goes with the answer.
    """

    def __init__(
        self,
        status: int,
        what: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}


class Connection(H11Protocol):
    """A connection that asks in time, or is closed; of too many one that asks nothing makes room, else the new one.

    It is the one that has waited longest since it came, or since its last answer; those that never asked go first.
    """

    MOST = 64
    """Connections at a time; a page needs six."""
    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the new connection its time, and make room for it."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.MOST:
            waiting = [
                one for one in self.connections if isinstance(one, Connection) and one is not self and one._waits()
            ]
            least = min(waiting, key=lambda one: (one.cycle is not None, one._since), default=self)
            least.timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, and drop it where nobody takes what was written."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(PATIENCE, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
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
            self._timer = self.loop.call_later(PATIENCE, self.timeout_keep_alive_handler)


def check_local(request: Request) -> None:
    """Check that a request was sent to this machine by name, and by no page of another one.

    A page elsewhere whose name was rebound to this machine gives that name as the host.

    Raises:
        Refused: it was not.
    """
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"http://{host}").hostname
    except ValueError:
        name = None
    if name not in (HOME, "localhost", "::1"):
        raise Refused(421, "this server is known as 127.0.0.1 or localhost alone", "wrong_host")
    if request.headers.get("origin", f"http://{host}") != f"http://{host}":
        raise Refused(403, "another page sent this", "wrong_origin")


async def json_body(request: Request, most: int) -> dict[str, Any]:
    """Return the JSON object that a request brings, in at most so many bytes.

    Raises:
        Refused: it is something else, too long, or too slow.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "what is sent is JSON: Content-Type: application/json")
    read, length = bytearray(), 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for piece in request.stream():
                length += len(piece)
                if length <= most:
                    read += piece
                elif length > most + _DRAINED:
                    break
    except TimeoutError:
        raise Refused(408, "it took too long", headers={"Connection": "close"}) from None
    if length > most:
        raise Refused(413, f"it is too long: at most {most:,} bytes are read", headers={"Connection": "close"})
    try:
        value = from_json(bytes(read))
    except (ValueError, RecursionError):
        raise Refused(400, "it is no JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "it is no JSON object")
    return value


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; whoever asks at once waits for the server.

    Raises:
        RaftError: the port is taken, or the address is none of this machine.
    """
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)  # named, else asyncio leaves Nagle's delay of 40 ms on
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        where = f"port {port}" if host == HOME else f"{host}, port {port}"
        raise RaftError(
            f"Nothing can listen here: {getattr(error, 'strerror', None) or error}.",
            where=where,
            hint="the same command with --port 0   (any that is free)",
        ) from None
    return listening


def config(app: ASGIApp, connection: type[Connection] = Connection, *, graceful: int = 2) -> uvicorn.Config:
    """Return how an application is served: on one loop, with nothing told of it but the answers.

    `graceful` is how many seconds what is in flight has when the server ends.
    """
    return uvicorn.Config(
        app,
        **{"http": connection, "ws": "none", "loop": "asyncio", "lifespan": "off", "interface": "asgi3"},  # type: ignore[arg-type]
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=graceful,
    )
