"""Ctrl-C while an endpoint is waited for: a real signal to a real process, after polars has taken a hand in signals."""

import signal
import subprocess
import sys

import pytest

from fake_openai import FakeOpenAI
from raft.cli.progress import Progress

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")

BUILD = """
import signal, sys
from pathlib import Path
import polars as pl
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.cli.progress import Progress
from raft.protocols import Request
from raft.store.budget import Budget
from raft.store.ledger import Ledger

signal.signal(signal.SIGINT, signal.default_int_handler)
pl.DataFrame({"a": [1, 2]}).lazy().filter(pl.col("a") > 1).collect()
ledger, name = Ledger(Path(sys.argv[2])), "hosted_vllm/m"
progress = Progress()
def say(event, facts):
    progress(event, facts)
    print(event, facts, flush=True)
model = HostedModel(name, api_base=sys.argv[1], concurrency=2, timeout=600)
budget = Budget(ledger, run="r", model=name, price=None, cap=None)
asked = [Request(({"role": "user", "content": sys.argv[3]},), 9)]
generator = FlowingGenerator(model, ledger, budget, attempts=1, progress=lambda facts: say("asked", facts), say=say)
try:
    list(generator.complete(asked))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def started(server, folder, text):
    """Return a process that asks a server for one reply, in which SIGINT is what Ctrl-C sends."""
    command = [sys.executable, "-c", BUILD, server.url, str(folder / "ledger.sqlite"), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process, beginning):
    """Return the next line that begins so."""
    return next(line for line in process.stdout if line.startswith(beginning))


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_what_an_endpoint_asks_to_wait_is_shown_and_can_be_left(tmp_path):
    """A daily limit is told with its seconds at once, and Ctrl-C does not wait for its end."""
    with FakeOpenAI({"x": ["429"] * 9}, requests_per_minute=0.1) as server:
        server._bucket.take(server._loop.time())  # the day's only request
        process = started(server, tmp_path, "x")
        line = told(process, "waiting")
        assert "'words': 'Rate limit reached for requests.'" in line
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=20)
    assert out.splitlines()[-1] == "interrupted"
    assert "hosted_vllm/m asks to wait" in said


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_replies_that_are_being_paid_for_are_waited_for_until_the_second_signal(tmp_path):
    """The first Ctrl-C is answered at once with the number of replies in flight, the second one drops them."""
    with FakeOpenAI({"x": ["timeout"]}) as server:
        process = started(server, tmp_path, "x")
        assert "'in_flight': 1" in told(process, "asked {'new': 0, 'replayed': 0, 'in_flight': 1")
        process.send_signal(signal.SIGINT)
        assert "'replies': 1" in told(process, "stopping")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=20)
    assert out.splitlines()[-1] == "interrupted"
    assert "waiting for 1 replies that are being paid for; Ctrl-C again to drop them" in said


def test_an_error_that_waits_for_replies_says_so_too(capsys):
    """What is waited for is told whoever stopped the run."""
    Progress()("stopping", {"replies": 4, "interrupted": False})
    assert "waiting for 4 replies that are being paid for; Ctrl-C to drop them" in capsys.readouterr().err
