"""Runs raft in processes that end, without a farewell, at the n-th call that changes files; started with `faults.c` loaded.

It reads a JSON object a line: `do` ("build", "train", "bench", "approve"), `run`, `corpus`, `kinds` (of calls that
count: "rename fsync unlink mkdir write"), `at` (0: never), `shadow` ("" or a folder) and `log`; and writes one a line:
`ended` (the exit status, negative for a signal), `seen` (how many calls counted) and `error`. Each is done in a fork of
this process, in which everything is imported already and no thread runs.
"""

import ctypes
import json
import os
import sys
import traceback
from pathlib import Path

TESTS = Path(__file__).parents[1]
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


def die(given, told):
    """Do what is wanted with the faults armed, in this process, and end it."""
    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    faults.faults_seen.restype = ctypes.c_long
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    status, error = 0, ""
    arguments = [str(given["run"]).encode(), given["kinds"].encode()]
    faults.faults_arm(*arguments, ctypes.c_long(given["at"]), given.get("shadow", "").encode())
    try:
        {"build": build, "train": train, "bench": bench, "approve": approve}[given["do"]](given)
    except BaseException:
        status, error = 1, traceback.format_exc()
    os.write(told, json.dumps({"seen": faults.faults_seen(), "error": error}).encode())
    os._exit(status)


def main():
    """Serve until the input ends."""
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"
    import chromadb.api.shared_system_client  # noqa: F401
    import conftest  # noqa: F401
    import polars  # noqa: F401
    import test_build  # noqa: F401

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
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status), "seen": 0, "error": "", **told}), flush=True)


if __name__ == "__main__":
    main()
