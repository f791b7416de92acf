"""The prepared script for a card: checked without one, and a step that fails or hangs does not end the others."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = f"""
import argparse, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
import steps

def works(args):
    return {{"note": "done", "tokens_per_second": 3.0}}

def breaks(args):
    raise ValueError("no such | card")

def dies(args):
    print("out of luck", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

def hangs(args):
    signal.pause()

def lacks(args):
    raise steps.LeftOut("no converter")

Step = steps.Step
WAVES = [
    [Step("breaks", breaks, 60), Step("dies", dies, 60)],
    [Step("hangs", hangs, 1)],
    [Step("after", works, 60, needs=("breaks",)), Step("lacks", lacks, 60), Step("works", works, 60)],
]
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step")
    args = parser.parse_args()
    steps.do(next(one for wave in WAVES for one in wave if one.name == args.step), args)
"""


@pytest.fixture
def benchmark(monkeypatch):
    """Return what imports a module of `benchmarks/`; afterwards they are forgotten."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__
    for path in BENCHMARKS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


def test_all_that_the_script_calls_exists(benchmark, monkeypatch, capsys):
    """`--check` passes without a card: each function of raft takes what the script gives it, each setting is known."""
    monkeypatch.setattr(sys, "argv", ["card.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        benchmark("card").main()
    assert "All that is called exists" in capsys.readouterr().out
    assert ended.value.code == 0


def test_without_a_card_the_script_refuses(benchmark, monkeypatch, tmp_path):
    """Where no CUDA device is shown, one line says so, with the command that needs none, and nothing is written."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["card.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"no CUDA device.*--check") as ended:
        benchmark("card").main()
    assert "\n" not in ended.value.code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import raft\nraft.train('run', colour=1)", "colour"),
        ("import raft\nraft.bench()", "folder"),
        ("import raft\nraft.trains('run')", "no trains"),
        ("from raft.store import adapters\nadapters.find(1, 2, 3)", "too many"),
        ("from raft.api import nothing", "nothing"),
        ("SETTINGS = {'training.colour': 1}", "training.colour"),
    ],
)
def test_a_call_that_does_not_fit_is_told(benchmark, tmp_path, text, told):
    """A parameter unknown or missing, a name that is gone, a setting that nobody knows: each is told with its line."""
    file = tmp_path / "program.py"
    file.write_text(text, encoding="utf-8")
    (line,) = benchmark("calls").wrong(file)
    assert line.startswith(f"program.py:{text.count(chr(10)) + 1}: ")
    assert told in line


@pytest.fixture
def planned(benchmark, monkeypatch, tmp_path):
    """Return the module `steps`, the program that has some, and these."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["program.py", "--out", str(tmp_path)])
    yield benchmark("steps"), program, benchmark("program").WAVES
    sys.modules.pop("program", None)


def test_what_fails_does_not_end_the_rest(planned, tmp_path, capsys):
    """Steps that raise, die or hang are told in a line each, those that need them are not begun, others are done."""
    steps, program, waves = planned
    became = steps.run(waves, program, tmp_path, seconds=600.0)
    assert {name: row["state"] for name, row in became.items()} == {
        "breaks": "failed",
        "dies": "failed",
        "hangs": "failed",
        "after": "not begun",
        "lacks": "left out",
        "works": "ok",
    }
    assert became["dies"]["note"] == "exit code -11; it last wrote: out of luck"
    assert "its limit" in became["hangs"]["note"]
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| breaks | failed |" in table
    assert "no such / card" in table
    assert table.strip() in capsys.readouterr().out


def test_a_step_is_ended_with_all_that_it_started(benchmark):
    """Who is ended takes along what it had started, though that stands in a session of its own."""
    hanging = "import signal; signal.pause()"
    starting = f"""import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {hanging!r}], start_new_session=True)
print(child.pid, flush=True)
child.wait()"""
    with subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE, start_new_session=True) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        benchmark("steps").end(parent)
        assert parent.returncode == -signal.SIGKILL
    ended, _, _ = select.select([child], [], [], 60)  # it is readable once the process has ended
    os.close(child)
    assert ended == [child]


def test_what_was_done_is_not_done_again_and_no_step_begins_too_late(planned, tmp_path):
    """With no time left, steps that were done before keep their figures, and all others are not begun."""
    steps, program, waves = planned
    (tmp_path / "works.row").write_text(json.dumps({"state": "ok", "seconds": 7.0}), encoding="utf-8")
    (tmp_path / "breaks.row").write_text(json.dumps({"state": "failed"}), encoding="utf-8")
    became = steps.run(waves, program, tmp_path, seconds=steps.SPARE)
    assert became.pop("works")["seconds"] == 7.0
    assert {row["state"] for row in became.values()} == {"not begun"}
