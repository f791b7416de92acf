"""A process that asks a provider through litellm for another one: `python -m raft.backends.litellm_worker`.

Its standard input is a socket: the first line says whom to ask, each further one what, or that nobody waits for it any
more; the answers go back over the same socket as they come. It ends with the socket, as when its parent is killed.
"""

import asyncio
import dataclasses
import json
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any

from raft.backends.faults import Broken, Busy, Denied, Refused
from raft.backends.loops import fastest_loop
from raft.backends.spread import LONGEST_LINE
from raft.backends.through_litellm import LitellmTransport
from raft.protocols import Request


async def serve(connection: socket.socket) -> None:
    """Answer what is asked over a connection until it is closed."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=LONGEST_LINE)
    if not (options := await reader.readline()):
        return
    transport = LitellmTransport(**json.loads(options))
    asking: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, request: Request) -> None:
        told = await outcome(transport, request)
        writer.write(json.dumps({"number": number, "limits": dict(transport.limits), **told}).encode() + b"\n")

    while line := await reader.readline():
        order = json.loads(line)
        number, asked = order["number"], order.get("request")
        if asked is None:
            if number in asking:
                asking[number].cancel()
            continue
        asking[number] = asyncio.create_task(answer(number, Request(**{**asked, "messages": tuple(asked["messages"])})))
        asking[number].add_done_callback(partial(_forget, asking, number))
    for task in list(asking.values()):
        task.cancel()
    await transport.close()


def _forget(asking: dict[int, asyncio.Task[None]], number: int, _: object) -> None:
    del asking[number]


async def outcome(transport: LitellmTransport, request: Request) -> Mapping[str, Any]:
    """Return a reply, or what became of a call instead, as it is told to the parent."""
    try:
        return {"reply": dataclasses.asdict(await transport.send(request))}
    except (Busy, Broken, Refused, Denied) as fault:
        return {"fault": type(fault).__name__, "facts": dict(vars(fault))}
    except Exception as error:  # no transport may raise it; whoever waits is to hear of it all the same
        return {"fault": "Broken", "facts": {"words": repr(error), "billed": True}}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(serve(socket.socket(fileno=0)))
