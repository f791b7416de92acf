"""The server: requests in OpenAI's form to the engine, its answers back, and a page for people."""

import asyncio
import base64
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from raft.api.http import HEADERS, PATIENCE, Connection, Refused, check_local, json_body
from raft.errors import EndpointRefuses, RaftError, UsageError, pasted
from raft.protocols import OnEvent
from raft.rag.format import settled
from raft.serving import keys as keyring
from raft.serving import metrics, openai
from raft.serving.engine import Answered, Arm, Busy, Engine, Job
from raft.serving.feedback import LARGEST as LARGEST_FEEDBACK
from raft.serving.feedback import Recorder, feedback_is_off, not_kept, read_feedback
from raft.serving.follow_ups import LATEST, FollowUps
from raft.serving.routing import HEADER, Route, Router, shadow
from raft.serving.spans import Spans
from raft.store.budget import CapReached

LARGEST = 1 << 20
"""Most bytes of a request."""
SECONDS = 120.0
"""Within which a request is answered, or told that it is not; what is in flight when the server ends has them too."""
_LARGEST_HEAD = 16 << 10
_AGAIN = {"Retry-After": "2"}


class ServerConnection(Connection):
    """A connection whose every error is JSON."""

    MOST = 512

    def send_400_response(self, msg: str) -> None:
        """Say that what came is no HTTP, or that its head is too long."""
        body = json.dumps(openai.error(400, msg)).encode()
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


class Application:
    """What is asked and answered over HTTP, as an ASGI application.

    Args:
        engine: answers.
        name: the run's, by which its system is called; "raft" is another name of it.
        keys: names by the digests of their keys (`keys.read`); None: anybody on this machine may ask.
        count: counts.
        on_event: told "stumbled" with an `error` that nobody foresaw.
        recorder: keeps replies and what is said of them; None: nothing is kept.
        router: says which system answers; None: production does.
        follow_ups: words what does not stand alone; None: it is searched with the turns before.
        spans: is told of each request that ends; None: nobody is.
        folder: the run's, which nobody who asks is told.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        keys: Mapping[str, str] | None,
        count: metrics.Metrics,
        on_event: OnEvent,
        *,
        recorder: Recorder | None = None,
        router: Router | None = None,
        follow_ups: FollowUps | None = None,
        spans: Spans | None = None,
        folder: Path | None = None,
    ) -> None:
        self._untold = () if folder is None else (folder,)
        self._engine, self._keys, self._count, self._on_event = engine, keys, count, on_event
        self._recorder, self._router, self._follow_ups, self._spans = recorder, router, follow_ups, spans
        self._names, self._since = tuple(dict.fromkeys((name, "raft"))), time.time()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request, begun = Request(scope, receive), False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            async with asyncio.timeout(PATIENCE):  # for who reads too slowly
                await send(message)

        try:
            response = await self._answered(request)
        except Refused as refused:
            response = _refusal(refused)
        except ClientDisconnect:
            return
        except Exception as error:
            self._on_event("stumbled", {"error": error})
            response = _refusal(Refused(500, "something went wrong here that nobody foresaw", "internal_error"))
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        try:
            await response(scope, receive, sent)
        except TimeoutError:
            transport = getattr(getattr(receive, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()
        except Exception as error:
            self._on_event("stumbled", {"error": error})

    async def _answered(self, request: Request) -> Response:
        path, method = request.url.path, request.method
        if sum(len(name) + len(value) for name, value in request.headers.raw) > _LARGEST_HEAD:
            raise Refused(431, "the head of the request is too long", headers={"Connection": "close"})
        if path in ("/healthz", "/readyz"):
            ready = path == "/healthz" or self._engine.ready.is_set()
            return JSONResponse({"status": "ok" if ready else "loading"}, 200 if ready else 503)
        if self._keys is None:
            check_local(request)
        if path == "/" and method in ("GET", "HEAD"):
            page = _PAGE.text if self._recorder and self._recorder.on else _PAGE.quiet
            return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE.policy})
        caller = self._caller(request)
        if path == "/v1/chat/completions":
            _allow(method, "POST")
            return await self._chat(request, caller)
        if path == "/v1/feedback":
            _allow(method, "POST")
            return await self._feedback(request, caller)
        if path == "/v1/models" or path.startswith("/v1/models/"):
            _allow(method, "GET")
            wanted = path.removeprefix("/v1/models").removeprefix("/")
            if wanted and wanted not in self._names:
                raise openai.unknown_model(wanted, self._names)
            now = self._engine.sources, self._since
            return JSONResponse(openai.model(wanted, *now) if wanted else openai.models(self._names, *now))
        if path == "/metrics":
            _allow(method, "GET")
            return Response(self._count.text(self._engine.waiting), media_type=metrics.TYPE)
        if path == "/":
            _allow(method, "GET")
        raise Refused(
            404, f"there is nothing at {path[:200]}; there are /v1/chat/completions, /v1/feedback and /v1/models"
        )

    def _caller(self, request: Request) -> str:
        """Return the name of who asks, "" where nobody needs a key."""
        if self._keys is None:
            return ""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        name = keyring.owner(self._keys, given.strip())
        if kind.lower() != "bearer" or name is None:
            self._count.ended("invalid")
            raise Refused(
                401,
                "a key is needed: Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return name

    async def _feedback(self, request: Request, caller: str) -> Response:
        said = read_feedback(await json_body(request, LARGEST_FEEDBACK))
        if self._recorder is None:
            raise feedback_is_off()
        try:
            number = await asyncio.wrap_future(self._recorder.feedback(caller, **said))
        except RaftError as error:
            raise not_kept(error) from None
        return JSONResponse({"object": "feedback", "id": number, **said})

    async def _chat(self, request: Request, caller: str) -> Response:
        try:
            asked = await self._alone(openai.read_request(await json_body(request, LARGEST), self._names))
            reply, route = openai.Reply(self._names[0], asked), self._route(request, asked, caller)
            exchange = _Exchange(asked, reply, caller, route, request=request, engine=self._engine)
        except Refused:
            self._count.ended("invalid")
            raise
        except Busy:
            self._count.ended("busy")
            raise Refused(503, "too many questions wait; ask again in a moment", "overloaded", headers=_AGAIN) from None
        kind, value, heard = "piece", cast("Any", None), ""
        while kind == "piece" and not heard:  # a stream begins with its first piece: until then an error is a status
            kind, value = await self._next(exchange)
            heard = value if kind == "piece" and asked.streamed else ""
        if kind == "gone":
            return Response(status_code=499)
        if kind == "failed":
            raise value
        if asked.streamed:
            chunks = self._streamed(exchange, heard, None if kind == "piece" else value)
            return _Stream(chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        return JSONResponse(reply.whole(value))

    async def _alone(self, asked: openai.Asked) -> openai.Asked:
        """Return what is asked with a question that stands alone, where it does not and something can word it so."""
        if self._follow_ups is None or not asked.leans_on:
            return asked
        worded = self._follow_ups.threads.submit(self._follow_ups.alone, asked.question, asked.leans_on)
        with suppress(TimeoutError):
            async with asyncio.timeout(LATEST):
                said = await asyncio.wrap_future(worded)
                return replace(asked, question=said, searched=said, worded=said) if said else asked
        return asked

    def _route(self, request: Request, asked: openai.Asked, caller: str) -> Route:
        if self._router is None:
            return Route()
        header = request.headers.get(HEADER, "").strip()
        return self._router.route(caller=caller, user=asked.user, header=header, first=asked.first, probe=asked.probe)

    def _ended(self, exchange: "_Exchange", answered: Answered | None) -> None:
        """Keep a reply, None: it failed; show it to the guard, and have the candidate answer too where it is to."""
        if answered is None and self._recorder:
            self._recorder.failed(exchange)
        elif answered is not None and self._recorder:
            self._recorder.answered(exchange, answered)
        if self._router is None or exchange.asked.probe:
            return
        self._router.saw(exchange.route.conversation, exchange.asked.question, *exchange.met, answered)
        if exchange.route.shadow and answered is not None and self._recorder and self._recorder.on:
            asked = exchange.asked
            self._engine.shadow(shadow(exchange.reply.id, asked.question, asked.searched, self._recorder.shadowed))

    async def _next(self, exchange: "_Exchange") -> tuple[str, Any]:
        """Return what happens next to a question, failures as `Refused`; each end is counted once."""
        kind, value = await exchange.next()
        if kind == "answered":
            if value.answer.error is not None:
                said = f"the model did not answer: {value.answer.error}"
                kind, value = "failed", Refused(502, _without_paths(said, *self._untold), "no_answer")
            else:
                self._count.answered(value)
                self._ended(exchange, value)
        elif kind == "failed":
            value = _failure(value, *self._untold)
        if kind != "piece":
            exchange.close()
            if kind == "failed" and value.status >= 500:
                self._ended(exchange, None)
            late = kind == "failed" and value.status == 504
            invalid = kind == "failed" and value.status < 500
            outcome = "late" if late else "invalid" if invalid else kind
            self._count.ended(outcome)
            if self._spans is not None:
                self._spans.ended(exchange, self._names[0], outcome, value if kind == "answered" else None)
        return kind, value

    async def _streamed(self, exchange: "_Exchange", heard: str, ended: Any) -> AsyncGenerator[bytes]:
        reply, told = exchange.reply, ""
        try:
            yield _event(reply.piece(""))
            while ended is None:
                if (text := settled(heard)) != told:
                    yield _event(reply.piece(text[len(told) :]))
                    told = text
                kind, value = await self._next(exchange)
                if kind == "piece":
                    heard += value
                elif kind == "answered":
                    ended = value
                elif kind == "gone":
                    return
                else:
                    yield _event(_told(value)) + _DONE
                    return
            answer = ended.answer
            if answer.text != told and answer.text.startswith(told):
                yield _event(reply.piece(answer.text[len(told) :]))
            for one in reply.last(ended):
                yield _event(one)
            yield _DONE
        finally:
            exchange.close()


class _Exchange:
    """A question on its way through the engine: what happens to it, one after the other, until its time is over.

    Pieces of a reply that come faster than they are sent on are sent on as one.
    """

    def __init__(
        self, asked: openai.Asked, reply: openai.Reply, caller: str, route: Route, *, request: Request, engine: Engine
    ) -> None:
        self.headers: Mapping[str, str] = request.headers
        self.begun = time.monotonic()
        self.asked, self.reply, self.caller, self.route = asked, reply, caller, route
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]]()
        self._pieces = deque[str]()
        self._job = Job(asked.question, asked.searched, asked.streamed, self._tell, route.arm)
        engine.submit(self._job)
        self._until, self._receive = self._loop.time() + SECONDS, request.receive
        self._watch = self._loop.create_task(self._gone())

    @property
    def met(self) -> tuple[Arm, str]:
        """As what, and which version, answers; "" while its turn has not come."""
        arm, source = self._job.met or (self.route.arm, None)
        return arm, source.version if source else ""

    def _tell(self, kind: str, value: Any) -> None:
        if kind == "piece":
            self._pieces.append(value)
            if len(self._pieces) > 1:  # the first of them is on its way, and brings the others along
                return
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, value))

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._events.put_nowait(("gone", None))

    async def next(self) -> tuple[str, Any]:
        try:
            async with asyncio.timeout_at(self._until):
                kind, value = await self._events.get()
                return kind, value if kind != "piece" else "".join(self._drained())
        except TimeoutError:
            return "failed", Refused(504, f"it was not answered within {SECONDS:g} seconds", "timeout")
        except asyncio.CancelledError:
            self.close()
            raise

    def _drained(self) -> Iterator[str]:
        while self._pieces:
            yield self._pieces.popleft()

    def close(self) -> None:
        self._job.left.set()
        self._watch.cancel()


class _Stream(StreamingResponse):
    """A stream that does not itself wait for the other end to hang up: the exchange does."""

    def __init__(self, chunks: AsyncGenerator[bytes], **options: Any) -> None:
        super().__init__(chunks, **options)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.stream_response(send)
        finally:
            await self._chunks.aclose()


def _failure(error: Exception, *untold: Path) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, UsageError) and not isinstance(error, EndpointRefuses):
        return Refused(400, _without_paths(error.what, *untold), "invalid_question")
    if isinstance(error, CapReached):
        return Refused(429, error.what, "insufficient_quota")
    if isinstance(error, RaftError):
        command = (error.hint or "").partition("\n")[0] if isinstance(error, EndpointRefuses) else ""
        told = f"{error.what} next: {pasted(command)}" if command else error.what
        return Refused(502, _without_paths(told, *untold), "engine_error")
    if isinstance(error, OSError):  # it was moved away, say; the terminal is told more
        return Refused(503, "the files of the run cannot be read", "engine_error")
    return Refused(500, "something went wrong here that nobody foresaw", "internal_error")


_FILE_URL = re.compile(r"\bfile://")
_PATH = re.compile(r"(?<![\w/.])(?:~|\.{0,2})/(?!v1/)(?:[^\s/'\",;:()]+/)*([^\s/'\",;:()]+)")


def _without_paths(text: str, *known: Path) -> str:
    """Return a text with the last part alone of each path: where files lie here is nothing for who asks.

    The folders that are known, the user's, the one worked in and those of `known`, go first: they may have spaces.
    """
    ours = {str(path) for one in (*known, *_folders()) for path in (one.absolute(), one.resolve())}
    text = _FILE_URL.sub("", text)
    for folder in sorted(ours - {"/"}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w/.:-]){re.escape(folder)}(?=[/\s'\",;:)]|$)", "", text)
    return _PATH.sub(r"\1", text)


def _folders() -> Iterator[Path]:
    """Yield the folder worked in and the user's, as far as there are any."""
    for find in (Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):
            yield find()


def _told(refused: Refused) -> dict[str, Any]:
    return openai.error(refused.status, str(refused), refused.code, refused.param)


def _refusal(refused: Refused) -> Response:
    return JSONResponse(_told(refused), refused.status, headers=refused.headers)


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


_DONE = b"data: [DONE]\n\n"


def _allow(method: str, *known: str) -> None:
    if method not in known:
        raise Refused(405, f"{' and '.join(known)} alone is understood here", headers={"Allow": ", ".join(known)})


class _Page:
    @cached_property
    def text(self) -> str:
        """The page."""
        return files("raft.serving").joinpath("page.html").read_text(encoding="utf-8")

    @cached_property
    def quiet(self) -> str:
        """The page where no feedback is kept."""
        return self.text.replace("<body>", '<body class="quiet">', 1)

    @cached_property
    def policy(self) -> str:
        """What the page may do: run its own script, use its own style, and ask this server."""

        def digests(tag: str) -> str:
            found = re.findall(rf"<{tag}>(.*?)</{tag}>", self.text, re.DOTALL)
            hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
            return " ".join(f"'sha256-{one}'" for one in hashes)

        own = f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'"
        return f"{own}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


_PAGE = _Page()


class Server(uvicorn.Server):
    """A server that the first Ctrl-C or SIGTERM ends when what is in flight is answered, and the second at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.force_exit = self.should_exit
        self.should_exit = True
