"""A build whose cluster loses its head ends with a word, and everything that was paid is kept."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_ray import build, home, states  # noqa: F401  a fixture

from conftest import tables_of
from fake_openai import FakeOpenAI

pytestmark = pytest.mark.slow

_BUILD = """
import os, pathlib, signal, sys
sys.path[:0] = {paths}
import test_ray
from raft.api import models
from raft.backends.ray import engine
from raft.errors import RaftError

engine._HEAD_SECONDS = 0.1  # looked at before nearly each call
engine.answers.__globals__["_PAUSE_SECONDS"] = 0.1  # it does not come again
models.open_embedder = lambda *_, **__: test_ray.HashEmbedder()
models.hub.tokenizer = lambda name: test_ray.WordTokenizer()
told = []

def watch(event, facts):
    if event == "shard lost":
        told.append(facts["given_up"])
    if event == "asked" and facts["in_flight"] and not told:
        told.append("killed")
        head = engine.import_ray()._private.worker._global_node.all_processes["gcs_server"][0].process
        os.kill(head.pid, signal.SIGKILL)
        head.wait()

try:
    more = {{"generator.concurrency": 1}}
    test_ray.build(pathlib.Path({home!r}), "spread", {url!r}, shards=2, more=more, on_event=watch)
except RaftError as error:
    print(error)
print(told)
"""


def test_a_head_that_dies_ends_the_build_with_a_word_and_costs_nothing(home):  # noqa: F811
    """Where Ray's head is killed, calls in flight are waited for, the build says what happened, and goes on without."""
    with FakeOpenAI(latency=0.5) as fake:
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        program = _BUILD.format(paths=paths, home=str(home), url=fake.url)
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "The head of the Ray cluster does not answer any more" in ended.stdout, ended
        assert "the same command with --engine local" in ended.stdout
        assert ended.stdout.endswith("['killed', True, True]\n")
        assert ended.returncode == 0
        assert "Traceback" not in ended.stderr
        assert 0 < len(fake.answered) == states(home, "spread")["paid"]
        assert set(states(home, "spread")) == {"paid"}
        fake.latency = 0.0
        build(home, "spread", fake.url)
        assert set(fake.answered.values()) == {1}
        build(home, "alone", fake.url)
    assert tables_of(home / "spread") == tables_of(home / "alone")
