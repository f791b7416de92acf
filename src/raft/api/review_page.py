"""The server of the page on which people judge: on loopback, behind a token, one request at a time.

Whoever can open the page can write decisions, so each request has to know the token, be sent to this machine by name
(a page elsewhere whose name was rebound to it is not), and be small; what is sent must be JSON of this page's own.
"""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from raft.api.http import HEADERS, HOME, Refused, check_local, config, json_body, listen
from raft.curation.decisions import APPROVED, EDITED, LONGEST, REASONS, REJECTED, is_edit
from raft.errors import RaftError

_LARGEST = 64 << 10


class Session(Protocol):
    """Rows that one person is shown, in lists of ids, and what they have said of them (`reviewing.Session`)."""

    lists: dict[str, list[str]]

    def state(self) -> dict[str, Any]:
        """Return the lists, this person's verdicts, and what all say."""

    def view(self, name: str) -> dict[str, Any] | None:
        """Return a row as the page shows it; None: it is not shown."""

    def decide(
        self, name: str, verdict: str, *, reason: str | None, edit: Mapping[str, str] | None, shown: str
    ) -> None:
        """Write a verdict down, onto the disk; ValueError: it cannot be, for a reason in words."""

    def undo(self) -> str | None:
        """Take the last verdict back, and return the id of its row; None: there is none."""

    def figures(self) -> dict[str, Any]:
        """Return what all verdicts say, as `text` in lines."""


def application(session: Session, page: str, token: str, done: Callable[[], None]) -> Starlette:
    """Return the server's application: all that it knows is below `/TOKEN/`."""

    async def answer(request: Request) -> Response:
        try:
            response = await _answered(request, session, page, token, done)
        except Refused as refused:
            response = PlainTextResponse(f"{refused}\n", refused.status, refused.headers)
        except ClientDisconnect:
            response = PlainTextResponse("", 400)
        except RaftError as error:
            response = PlainTextResponse(f"{error}\n", 409)
        except OSError as error:
            why = error.strerror or "another program holds the file"
            response = PlainTextResponse(f"the verdict was not saved: {why}\n", 507)
        response.headers.update(HEADERS)
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
    check_local(request)
    _, given, *rest = request.url.path.split("/")
    if not secrets.compare_digest(given.encode(), token.encode()) or len(rest) != 1:
        raise Refused(404, "there is nothing here; open the whole address that raft review printed")
    (what,) = rest
    if request.method == "GET":
        if what == "":
            return HTMLResponse(page)
        if what == "state":
            return JSONResponse(session.state())
        if what == "row" and (row := session.view(request.query_params.get("id", ""))):
            return JSONResponse(row)
        raise Refused(404, "there is no such row")
    if request.method != "POST":
        raise Refused(405, "GET and POST are understood")
    sent = await json_body(request, _LARGEST)
    if what == "decide":
        return _decided(session, sent)
    if what == "undo":
        return JSONResponse({"id": session.undo(), **session.state()})
    if what == "done":
        done()
        return JSONResponse({"said": session.figures()["text"]})
    raise Refused(404, "there is nothing here")


def _decided(session: Session, sent: dict[str, Any]) -> Response:
    name, verdict, shown = (sent.get(key) for key in ("id", "verdict", "list"))
    reason, edit = sent.get("reason"), sent.get("edit")
    if not isinstance(name, str) or session.view(name) is None:
        raise Refused(404, "there is no such row")
    if verdict not in (APPROVED, EDITED, REJECTED) or shown not in (*session.lists,):
        raise Refused(400, "there is no such verdict")
    if (reason in REASONS) != (verdict == REJECTED) or (reason is not None and verdict != REJECTED):
        raise Refused(400, "a rejection has one of the reasons, and nothing else has")
    if (edit is None) == (verdict == EDITED) or (edit is not None and not is_edit(edit)):
        raise Refused(400, f"an edit has a question and an answer, of at most {LONGEST:,} characters")
    try:
        session.decide(name, verdict, reason=reason, edit=edit, shown=shown)
    except ValueError as wrong:
        raise Refused(422, str(wrong)) from None
    return JSONResponse(session.state())


def serve(session: Session, page: str, port: int, opened: Callable[[str], None]) -> None:
    """Serve the page until it is done with, or Ctrl-C; `opened` is told its address.

    Raises:
        RaftError: the port is taken.
    """
    token = secrets.token_urlsafe(24)

    def done() -> None:
        server.should_exit = True

    with listen(HOME, port) as listening, suppress(KeyboardInterrupt):
        server = uvicorn.Server(config(application(session, page, token, done)))
        opened(f"http://{HOME}:{listening.getsockname()[1]}/{token}/")
        server.run(sockets=[listening])
