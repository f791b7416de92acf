"""Training with Unsloth, in a process of its own.

Unsloth rewrites transformers and TRL when it is imported, and must be imported before them: neither is to be had in a
process that also embeds, asks or trains otherwise. Here is the parent; `unsloth_worker` is the child.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raft.backends import hub
from raft.errors import MissingExtra, RaftError, UsageError
from raft.protocols import Message, TrainingPlan, TrainingReport
from raft.store.children import import_path

WORKPLACE = "unsloth"
"""Folder inside a training's checkpoints: what parent and child tell each other, the log, and Unsloth's own cache."""
LOG = "log.txt"
AGAIN = "run the same command again: it goes on from its last checkpoint"
ELSEWHERE = "--set training.backend=peft, which trains on any machine"

_SETTINGS = {
    "UNSLOTH_AUTO_INSTALL": "0",  # it would call the system's package manager, and take no answer for a yes
    "UNSLOTH_DISABLE_CPU_FALLBACK": "1",  # without a card it would train on the processor, and say so in its log alone
    "UNSLOTH_DISABLE_STATISTICS": "1",
}
_GRACE_SECONDS = 10.0
_TAIL_LINES, _TAIL_CHARACTERS = 5, 300


def available() -> bool:
    """Say whether this machine can train with Unsloth, without importing anything heavy."""
    return has_cuda() and find_spec("unsloth") is not None


def has_cuda() -> bool:
    """Say whether the system shows an NVIDIA card that is not hidden by `CUDA_VISIBLE_DEVICES`.

    Whether torch can use it is only known to torch; the child says so where it cannot.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if sys.platform == "linux":  # a container without a card may have nvidia-smi all the same
        return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    return shutil.which("nvidia-smi") is not None


def require() -> None:
    """Refuse what could not end well, before anything is started.

    Raises:
        UsageError: the machine has no CUDA device.
        MissingExtra: unsloth is not installed.
    """
    if not has_cuda():
        raise UsageError(
            "Training with Unsloth needs an NVIDIA card (CUDA), and this machine shows none.", hint=ELSEWHERE
        )
    if find_spec("unsloth") is None:
        raise MissingExtra("unsloth", extra="unsloth", why="to train with training.backend=unsloth")


class UnslothTrainer:
    """Trains on one NVIDIA card with Unsloth's kernels; on its seam it is like any other `protocols.Trainer`.

    A Ctrl-C ends the child; a child that was killed is reported; a parent that was killed takes its child with it, so
    that the next run finds the checkpoints to itself.
    """

    identity = "unsloth:1"

    def train(
        self,
        rows: Sequence[Sequence[Message]],
        valid: Sequence[Sequence[Message]],
        plan: TrainingPlan,
        *,
        out: Path,
        checkpoints: Path,
        on_event: Callable[[Mapping[str, float]], None],
    ) -> TrainingReport:
        """Train as `protocols.Trainer.train` says.

        Raises:
            UsageError: there is no CUDA device, no such student, Unsloth cannot use the card, or `plan.kl` is set.
            MissingExtra: unsloth is not installed.
            RaftError: the card's memory is short, the child was killed, or the training failed.
        """
        if plan.kl:
            again = "raft train RUN --set training.backend=peft"  # Unsloth's loss hands out no distributions to compare
            raise UsageError("training.kl needs backend peft.", where=f"training.kl={plan.kl:g}", hint=again)
        require()
        folder = checkpoints.resolve() / WORKPLACE
        folder.mkdir(parents=True, exist_ok=True)
        for name, chats in (("rows.jsonl", rows), ("valid.jsonl", valid)):
            with (folder / name).open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(list(chat), ensure_ascii=False)}\n" for chat in chats)
        student = hub.resolve(plan.student)
        spec = {
            "task": "train",
            "plan": dataclasses.asdict(plan),
            "model": str(Path(student).resolve()) if Path(student).is_dir() else student,
            "rows": str(folder / "rows.jsonl"),
            "valid": str(folder / "valid.jsonl"),
            "out": str(out.resolve()),
            "checkpoints": str(checkpoints.resolve()),
        }
        report = run_worker(spec, folder, log=folder / LOG, on_event=on_event)
        return TrainingReport(**{**report, "curve": tuple(report["curve"])})


def run_worker(
    spec: Mapping[str, Any], folder: Path, *, log: Path, on_event: Callable[[Mapping[str, float]], None]
) -> dict[str, Any]:
    """Start the child, pass on what it tells, and return what it reports at its end.

    Args:
        spec: what the child shall do (JSON); `task` names one of `unsloth_worker.TASKS`.
        folder: where parent and child leave files for each other.
        log: file for all that Unsloth and its friends print.
        on_event: told the progress.

    Raises:
        RaftError: the child failed or was killed; the end of its log is quoted where it did not say why.
        UsageError: the child refused.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    path = folder / "spec.json"
    path.write_text(json.dumps({**spec, "report": str(report)}, indent=1), encoding="utf-8")
    # -P as with the `raft` command: what lies in the working directory is not imported
    command = [sys.executable, "-P", "-m", "raft.backends.trainers.unsloth_worker", str(path)]
    error: Mapping[str, Any] | None = None
    with (
        log.open("wb") as sink,
        # a session of its own: Ctrl-C reaches the parent alone, which then ends the child
        subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,  # never written to: its end tells the child that the parent is gone
            stdout=subprocess.PIPE,
            stderr=sink,
            env=_environment(folder),
            start_new_session=True,
        ) as child,
    ):
        try:
            for line in child.stdout or ():
                message = _message(line)
                error = message if "error" in message else error
                if "progress" in message:
                    on_event(message["progress"])
            child.wait()
        finally:
            _end(child)
    if error is not None or child.returncode != 0 or not report.is_file():
        raise _failure(error, child.returncode, log)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _message(line: bytes) -> Mapping[str, Any]:
    """Read a line of the child; an interpreter may print something of its own before the child has its way."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _environment(folder: Path) -> dict[str, str]:
    # processes that the child starts in turn import nothing of the working directory either
    safe = {"PYTHONSAFEPATH": "1", "PYTHONPATH": import_path(sys.path)}
    return {**_SETTINGS, "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), **os.environ, **safe}


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _failure(error: Mapping[str, Any] | None, code: int, log: Path) -> RaftError:
    if error is not None:
        kind = UsageError if error["usage"] else RaftError
        return kind(error["error"], where=error["where"] or log, hint=error["hint"])
    if code >= 0:
        what = f"The process that works with Unsloth ended with exit code {code} and did not say why."
    elif -code == signal.SIGKILL:
        what = "The process that works with Unsloth was killed, as systems do when the machine's memory is full."
    else:
        what = f"The process that works with Unsloth was ended by signal {_signal_name(-code)}."
    last = tail(log)
    return RaftError(f"{what} It last wrote:\n{last}" if last else what, where=log, hint=AGAIN)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def tail(log: Path) -> str:
    """Return the last lines of a log, indented and cut; empty when there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line[:_TAIL_CHARACTERS]}" for line in lines[-_TAIL_LINES:])
