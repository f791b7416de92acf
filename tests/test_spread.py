"""The transport that asks through litellm in processes of its own, against a server on this machine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_openai import FakeOpenAI
from raft.backends.faults import Broken
from raft.backends.hosted import HostedModel
from raft.backends.spread import FAULTS, SpreadTransport, processes_for
from raft.protocols import Request
from transport_faults import EXPECTED

KEY = "sk-dummy-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_this_machine")]


def request(text, **changes):
    """Return a request of one turn."""
    return Request(({"role": "user", "content": text},), **{"max_tokens": 9, **changes})


def within(url, doing, *, processes=1, name="openai/test-model"):
    """Return what `doing` returns, given a transport that is closed afterwards."""

    async def whole():
        transport = SpreadTransport(processes, name=name, api_base=url, key=KEY, timeout=20)
        try:
            return await doing(transport)
        finally:
            await transport.close()

    return asyncio.run(whole())


def workers(transport):
    """Return the processes of a transport."""
    return [worker._process for worker in transport._workers]


def test_replies_are_those_of_one_process():
    """Each request gets its own reply, whichever process sends it; key, limits, temperature and schema arrive."""
    texts = [f"number {i} – ß\n{{}}" for i in range(20)]

    async def doing(transport):
        calls = [request(text, temperature=0.5, schema=SCHEMA) for text in texts]
        return await asyncio.gather(*map(transport.send, calls)), [one.pid for one in workers(transport)]

    with FakeOpenAI() as server:
        replies, pids = within(server.url, doing, processes=2, name="openai/gpt-4o-mini")
    assert [reply.text for reply in replies] == [f"echo: {text}" for text in texts]
    assert {(reply.finish_reason, reply.cost, reply.output_tokens > 0) for reply in replies} == {("stop", None, True)}
    assert len(set(pids)) == 2
    assert {(body["max_tokens"], body["temperature"]) for body in server.seen} == {(9, 0.5)}
    assert all(body["response_format"]["json_schema"]["schema"] == SCHEMA for body in server.seen)
    assert all(f"authorization: bearer {KEY}".lower() in head.lower() for head in server.heads)


def test_limits_that_the_provider_tells_arrive():
    """What the provider says of its limits is known here after the first reply."""

    async def doing(transport):
        await transport.send(request("one"))
        return transport.limits

    with FakeOpenAI(requests_per_minute=600) as server:
        assert within(server.url, doing) == {"requests_per_minute": 600.0}


def test_each_fault_arrives_as_it_was_raised():
    """What goes wrong in the other process has the same kind, words and facts here, and none is sent twice."""
    faults = {f"x{number:02}": [fault] for number, (fault, _, _) in enumerate(EXPECTED)}

    async def doing(transport):
        calls = (transport.send(request(text)) for text in faults)
        return await asyncio.gather(*calls, return_exceptions=True)

    with FakeOpenAI(faults) as server:
        found = within(server.url, doing)
        asked = len(server.seen)
    assert [type(one) for one in found] == [kind for _, kind, _ in EXPECTED]
    for error, (_, _, facts) in zip(found, EXPECTED, strict=True):
        assert vars(error).items() >= facts.items()
        assert error.words
    assert asked == len(EXPECTED)


def test_a_process_that_is_killed_is_started_again():
    """What it was asked may have been billed and may be sent again; the next calls are answered by one new process."""
    started = []

    async def doing(transport):
        first = await transport.send(request("one"))
        (process,) = workers(transport)
        waiting = asyncio.create_task(transport.send(request("late")))
        while not any("late" in json.dumps(body) for body in server.seen):
            await asyncio.sleep(0.01)
        process.kill()
        (broken,) = await asyncio.gather(waiting, return_exceptions=True)
        more = await asyncio.gather(*(transport.send(request(text)) for text in ("two", "three")))
        started.extend(workers(transport))
        return first, broken, more

    with FakeOpenAI({"late": ["timeout"]}) as server:
        first, broken, more = within(server.url, doing)
    assert [reply.text for reply in (first, *more)] == ["echo: one", "echo: two", "echo: three"]
    assert [process.returncode for process in started] == [0]
    assert isinstance(broken, Broken)
    assert broken.billed
    assert "process" in broken.words


def test_a_call_that_nobody_waits_for_is_given_up():
    """Cancelling a call ends it in the other process too, and harms no other call."""

    async def doing(transport):
        waiting = asyncio.create_task(transport.send(request("late")))
        while not server.seen:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for _ in range(1000):  # until the endpoint sees that the connection was closed
            if not server.waiting:
                break
            await asyncio.sleep(0.01)
        return waiting.cancelled(), server.waiting, await transport.send(request("two"))

    with FakeOpenAI({"late": ["timeout"]}) as server:
        cancelled, left, reply = within(server.url, doing)
    assert (cancelled, left) == (True, 0)
    assert reply.text == "echo: two"


def test_no_process_is_left_behind():
    """Closing ends all processes, also one that was never asked anything."""
    kept = []

    async def doing(transport):
        kept.extend(workers(transport))

    within("http://127.0.0.1:9/v1", doing, processes=2)
    assert [process.returncode for process in kept] == [0, 0]


def test_processes_end_with_the_one_that_asks():
    """A build that is killed leaves nobody behind who goes on asking."""
    program = (
        "import asyncio, time\n"
        "from raft.backends.spread import SpreadTransport\n"
        "async def main():\n"
        "    transport = SpreadTransport(1, name='openai/x', api_base='http://127.0.0.1:9/v1', key='k', timeout=5)\n"
        "    await asyncio.sleep(0)\n"
        "    print(transport._workers[0]._process.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    ends = time.monotonic() + 120
    while _runs(pid) and time.monotonic() < ends:
        time.sleep(0.05)
    left = _runs(pid)
    if left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _runs(pid):
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_model_with_many_calls_in_flight_is_asked_by_several_processes(monkeypatch):
    """One process for each 64 calls in flight, no more than there are processors; one alone asks by itself."""
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert [processes_for(count) for count in (1, 64, 127, 128, 1000)] == [1, 1, 1, 2, 3]
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)

    async def transport_of(concurrency):
        model = HostedModel("deepseek/x", api_base="http://127.0.0.1:9/v1", concurrency=concurrency, timeout=5)
        transport = model._transport(KEY)
        await transport.close()
        return transport

    assert isinstance(asyncio.run(transport_of(128)), SpreadTransport)
    assert not isinstance(asyncio.run(transport_of(64)), SpreadTransport)


def test_all_faults_can_be_told() -> None:
    """Every kind of fault that a transport may raise is known by its name on the way back."""
    said: Mapping[str, Any] = {kind.__name__: kind for _, kind, _ in EXPECTED}
    assert said == FAULTS
