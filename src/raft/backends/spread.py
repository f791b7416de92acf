"""litellm in processes of its own, where one core is too slow for it: a transport that spreads its calls.

litellm takes 5 to 8 ms of a processor for a call, so that a process sends 100 to 200 a second, whatever the endpoint
bears. Processes are started anew, not forked, and speak with this one over a socket in lines of JSON
(`raft.backends.litellm_worker`); pace, purse, ledger and retries stay here.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from raft.backends.asking import Reply
from raft.backends.faults import Broken, Busy, Denied, Refused
from raft.protocols import Request

CALLS_OF_A_PROCESS = 64
"""Calls in flight for each process: at half a second a reply, about as many as one process can keep up with."""

LONGEST_LINE = 2**26
"""Bytes of a request or a reply, at most."""

_ENDING_SECONDS = 10.0
FAULTS: Mapping[str, type[Busy | Broken | Refused | Denied]] = {
    kind.__name__: kind for kind in (Busy, Broken, Refused, Denied)
}


def processes_for(concurrency: int) -> int:
    """Return how many processes so many calls in flight are worth, no more than there are processors."""
    return max(1, min(os.cpu_count() or 1, concurrency // CALLS_OF_A_PROCESS))


class SpreadTransport:
    """Sends each call by the process that has the fewest in flight; one that ends is started again for the next call.

    Args:
        processes: how many.
        name: `provider/model`.
        api_base: the address of a self-hosted endpoint; None: the provider's.
        key: the provider's key; None: litellm looks into the environment.
        timeout: seconds for one reply.

    Attributes:
        limits: what the provider's headers last said, see `Transport`.
    """

    def __init__(self, processes: int, *, name: str, api_base: str | None, key: str | None, timeout: float) -> None:
        self._options = {"name": name, "api_base": api_base, "key": key, "timeout": timeout}
        self._workers = [_Worker(self._options) for _ in range(processes)]
        self._ended: list[_Worker] = []  # closed in the end: waiting for it here, two calls would start two others
        self.limits: Mapping[str, float] = {}

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request; see `Transport.send` for what is raised."""
        place = min(range(len(self._workers)), key=lambda one: len(self._workers[one].waiting))
        if self._workers[place].ended:
            self._ended.append(self._workers[place])
            self._workers[place] = _Worker(self._options)
        answer = await self._workers[place].ask(request)
        if answer["limits"] != self.limits:
            self.limits = answer["limits"]
        if "fault" in answer:
            raise FAULTS[answer["fault"]](**answer["facts"])
        return Reply(**answer["reply"])

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(*(worker.close() for worker in (*self._workers, *self._ended)))


class _Worker:
    """A process, and who waits for what it was asked."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.ended = False
        self._asked = 0
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "raft.backends.litellm_worker"]
        with theirs:  # in a session of its own, so that Ctrl-C ends it only when what is in the air has come back
            self._process = subprocess.Popen(  # noqa: S603  our own module
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
            )
        ours.setblocking(False)
        self._orders = _line(options)  # the key goes this way, where no list of processes shows it
        self._listening = asyncio.create_task(self._listen(ours))
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Request) -> dict[str, Any]:
        number, self._asked = self._asked, self._asked + 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.waiting[number] = answer
        asked = {name: getattr(request, name) for name in ("messages", "max_tokens", "temperature")}
        asked["schema"] = None if request.schema is None else dict(request.schema)
        self._write({"number": number, "request": asked})
        try:
            return await answer
        except asyncio.CancelledError:
            self._write({"number": number})  # nobody waits for it any more
            raise
        finally:
            self.waiting.pop(number, None)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        else:
            self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        wait = partial(self._process.wait, _ENDING_SECONDS)
        try:
            await asyncio.get_running_loop().run_in_executor(None, wait)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, order: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._orders += _line(order)
        elif not self._writer.is_closing():
            self._writer.write(_line(order))

    async def _listen(self, connection: socket.socket) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(sock=connection, limit=LONGEST_LINE)
            self._writer.write(self._orders)
            while line := await reader.readline():
                answer = json.loads(line)
                waiter = self.waiting.get(answer["number"])
                if waiter is not None and not waiter.done():
                    waiter.set_result(answer)
        except (OSError, ValueError):  # it broke off in the middle of a line
            pass
        finally:
            self.ended = True
            connection.close() if self._writer is None else self._writer.close()
            for waiter in self.waiting.values():
                if not waiter.done():
                    waiter.set_exception(Broken("the process that asks the provider has ended", billed=True))


def _line(order: Mapping[str, Any]) -> bytes:
    return json.dumps(order).encode() + b"\n"
