"""Steps of a measurement on a borrowed card: a process each, with a limit of time, and a table of all."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.errors import RaftError

SPARE, LEAST = 10.0, 15.0
"""Seconds kept for the end of all, and those with fewer of which no step is begun."""
NOT_BEGUN, OK = "not begun", "ok"


class LeftOut(Exception):
    """This machine lacks what a step needs; its text says what."""


@dataclass(frozen=True)
class Step:
    """What is done in one process: `does` is given the command line's arguments, and then `parts`.

    Attributes:
        seconds: after which it is ended.
        needs: names of steps without which it is not begun.
    """

    name: str
    does: Callable[..., Mapping[str, Any]]
    seconds: int
    needs: tuple[str, ...] = ()
    parts: tuple[Any, ...] = ()


def do(step: Step, args: argparse.Namespace) -> None:
    """Do a step in this process, and leave in `--out` what it told, or in one line why it failed."""
    try:
        told = {"state": OK, **step.does(args, *step.parts)}
    except LeftOut as error:
        told = {"state": "left out", "note": str(error)}
    except Exception as error:
        traceback.print_exc()
        told = {"state": "failed", "note": error.what if isinstance(error, RaftError) else repr(error)}
    (args.out / f"{step.name}.told").write_text(json.dumps(told, default=str), encoding="utf-8")


def run(
    waves: Sequence[Sequence[Step]], program: Path, out: Path, *, seconds: float, more: Callable[[], str] = str
) -> dict[str, dict[str, Any]]:
    """Do all steps that were not done before, one wave after the other, and return what became of each.

    Each is `program` with this process's arguments and `--step NAME`. `table.md` in `out` has them all after each wave,
    with what `more` returns below; it is printed at the end. The steps have `seconds` in all, but for `SPARE`.
    """
    ends = time.monotonic() + seconds - SPARE
    out.mkdir(parents=True, exist_ok=True)
    became: dict[str, dict[str, Any]] = {}
    text = ""
    for wave in waves:
        begun = []
        for step in wave:
            earlier = out / f"{step.name}.row"
            lacking = [name for name in step.needs if became.get(name, {}).get("state") != OK]
            if earlier.is_file() and (row := json.loads(earlier.read_text(encoding="utf-8")))["state"] == OK:
                became[step.name] = row
            elif lacking:
                became[step.name] = {"state": NOT_BEGUN, "note": f"needs {lacking[0]}"}
            elif ends - time.monotonic() < LEAST:
                became[step.name] = {"state": NOT_BEGUN, "note": "no time was left"}
            else:
                begun.append(step)
        for name, row in _done(begun, program, out, ends).items():
            became[name] = row
            (out / f"{name}.row").write_text(json.dumps(row), encoding="utf-8")
        text = f"{table(became)}\n\n{more()}\n"
        (out / "table.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    return became


def _done(wave: Sequence[Step], program: Path, out: Path, ends: float) -> dict[str, dict[str, Any]]:
    """Do these steps beside each other; return what became of each. None of their processes is left."""
    cache = out / "work" / "cache"
    known = {
        **{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        **{"TRITON_CACHE_DIR": str(cache / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")},
        **({"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(wave)))} if len(wave) > 1 else {}),
        **os.environ,
    }
    running: dict[Step, subprocess.Popen[bytes]] = {}
    found: dict[str, dict[str, Any]] = {}
    begun, peak = time.monotonic(), math.nan
    try:
        for step in wave:
            (out / f"{step.name}.told").unlink(missing_ok=True)
            with (out / f"{step.name}.log").open("wb") as log:
                running[step] = subprocess.Popen(
                    [sys.executable, str(program), *sys.argv[1:], "--step", step.name],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=known,
                    start_new_session=True,
                )
        while running:
            peak = max((one for one in (peak, memory()) if not math.isnan(one)), default=math.nan)
            time.sleep(0.5)
            now = time.monotonic()
            for step, child in list(running.items()):
                late = now > min(begun + step.seconds, ends)
                if child.poll() is not None or late:
                    end(child)
                    del running[step]
                    why = f"ended after {now - begun:.0f} s, its limit" if late else f"exit code {child.returncode}"
                    found[step.name] = _told(out, step.name, why) | {"seconds": now - begun, "peak": peak}
                    row = found[step.name]
                    print(f"{step.name}: {row['state']}, {now - begun:.0f} s, {row.get('note', '')}", flush=True)
    finally:
        for child in running.values():
            end(child)
    return found


def _told(out: Path, name: str, why: str) -> dict[str, Any]:
    """Return what a step told; of one that could not, why it ended and the end of its log."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((out / f"{name}.told").read_text(encoding="utf-8"))
        return found
    lines = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return {"state": "failed", "note": f"{why}; it last wrote: {last}"}


def table(became: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what became of steps as Markdown; memory is that of the whole card."""
    lines = [
        "| step | | seconds | peak GiB of the card | tokens a second | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, row in became.items():
        figures = [row.get("seconds"), row.get("peak"), row.get("tokens_per_second")]
        cells = ["" if one is None or math.isnan(one) else f"{one:,.1f}" for one in figures]
        note = " ".join(str(row.get("note", "")).split()).replace("|", "/")[:400]
        lines.append(f"| {name} | {row['state']} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines)


def end(child: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, by their ids."""
    with suppress(ProcessLookupError, PermissionError):
        for pid in below(child.pid) if child.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.killpg(child.pid, signal.SIGKILL)  # its session: what is left of it when it ended by itself
    child.wait()


def below(pid: int) -> list[int]:
    """Return a process and all that it started, and these in turn."""
    found = [pid]
    for one in found:  # grows while it is read
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in file.read_text(encoding="ascii").split()]
    return found


def memory() -> float:
    """Return the GiB of the first card that are taken, by whatever process; NaN where nobody tells."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        return float(subprocess.run(command, check=True, capture_output=True, timeout=5).stdout) / 1024
    return math.nan
