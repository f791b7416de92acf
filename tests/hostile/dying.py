"""Runs raft in processes that end, without a farewell, at the n-th call that changes files.

It is started with `faults.c` loaded. It reads a JSON object a line: `do` ("build", "train", "bench", "approve", "turns"
with the id of an adapter, or "command", with `arguments`), `run`, `corpus`, `kinds` (of calls that count: "rename fsync
unlink mkdir write"), `at` (0: never), `shadow` ("" or a folder) and `log`; and writes one a line: `ended` (the exit
status, negative for a signal; None for what was not done in time), `seen` (how many calls counted), `error` and
`output`. Each is done in a fork of this process, in which everything is imported already and no thread runs.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

TESTS = Path(__file__).parents[1]
ANSWER = 'Answer: 30 days\nQuote [1]: "within 30 days of delivery"'
SECONDS = 120
sys.path[:0] = [str(TESTS), str(TESTS / "api")]


def build(given):
    """Build with models that cost nothing, as the tests of builds do."""
    import test_build

    from conftest import Fakes

    fakes = Fakes()
    fakes.log = given["log"]
    fakes.install(setattr)
    test_build.build(given["corpus"], given["run"], {"index.hybrid": True})


def train(given):
    """Tune the tiny student, as the tests of training do."""
    import raft

    raft.train(given["run"], settings={"training.evaluations": 1})


def bench(given):
    """Measure with few questions, as the tests of benchmarks do."""
    import test_bench

    from conftest import Fakes

    Fakes().install_around_student(setattr)
    test_bench.bench(given["run"])


def approve(given):
    """Approve the current adapter."""
    import raft

    raft.approve(given["run"], "Marta")


def turns(given):
    """Put an adapter into production and go back, in turns; log each line of the history once it is acknowledged."""
    from raft.store import registry

    run, name = Path(given["run"]), given["arguments"][0]
    for turn in range(4):
        put = registry.rollback(run, by="Bo") if turn % 2 else registry.promote(run, name, by="Ann", because="a try")
        with Path(given["log"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps(put) + "\n")


def command(given):
    """Do what was typed, with models that cost nothing; the student is real where torch is imported."""
    from conftest import Fakes, reply_by_rule
    from raft.cli import main as raft

    fakes = Fakes()
    fakes.log = given["log"]
    fakes.reply = lambda request: ANSWER if "Question: " in request.messages[-1]["content"] else reply_by_rule(request)
    (fakes.install_around_student if "torch" in sys.modules else fakes.install)(setattr)
    os.chdir(Path(given["run"]).parent)
    raft([*given["arguments"]])


def die(given, told):
    """Do what is wanted with the faults armed, in this process, and end it."""
    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    faults.faults_seen.restype = ctypes.c_long
    status, error = 0, ""
    printed = tempfile.TemporaryFile()  # noqa: SIM115  it lasts as long as the process
    os.dup2(printed.fileno(), 1)
    os.dup2(printed.fileno(), 2)
    signal.alarm(SECONDS)
    arguments = [str(given["run"]).encode(), given["kinds"].encode()]
    faults.faults_arm(*arguments, ctypes.c_long(given["at"]), given.get("shadow", "").encode())
    try:
        does = {"build": build, "train": train, "bench": bench, "approve": approve, "turns": turns, "command": command}
        does[given["do"]](given)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        status, error = 70, traceback.format_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    output = os.pread(printed.fileno(), 20_000, 0).decode("utf-8", "replace")
    with os.fdopen(told, "wb") as pipe:
        pipe.write(json.dumps({"seen": faults.faults_seen(), "error": error, "output": output}).encode())
    os._exit(status)


def main():
    """Serve until the input ends."""
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"
    import chromadb.api.shared_system_client  # noqa: F401
    import polars  # noqa: F401
    import test_build  # noqa: F401

    import conftest  # noqa: F401
    import raft.api  # noqa: F401

    if "torch" in sys.argv:
        import test_bench  # noqa: F401
        import torch
        import trl.trainer.sft_trainer  # noqa: F401

        torch.set_num_threads(1)
    for line in sys.stdin:
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            die(json.loads(line), into)
        os.close(into)
        with os.fdopen(out, "rb") as pipe:
            told = json.loads(pipe.read() or "{}")
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        ended = None if ended == -signal.SIGALRM else ended
        sys.stdout.write(json.dumps({"ended": ended, "seen": 0, "error": "", "output": "", **told}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
