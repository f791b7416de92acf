"""Checkpoints of a training: which one is whole, and whether the training was over with it."""

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from raft.adapters import WEIGHTS, tensors

STATE = "trainer_state.json"
ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What a checkpoint holds besides weights and state; torch writes them as zip archives."""


def last_whole(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; one that was cut off is removed."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _is_whole(path: Path) -> bool:
    try:
        json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors(path / WEIGHTS)
        for name in ARCHIVES:
            with ZipFile(path / name) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, ValueError, BadZipFile):
        return False
    return True


def finished(trainer: Any, last: Path) -> bool:
    """Tell whether a checkpoint is the end of its training; if it is, put its best adapter into the model."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(last / STATE))
    control = state.stateful_callbacks.get("TrainerControl")
    stopped = isinstance(control, dict) and control.get("args", {}).get("should_training_stop")
    if not stopped and state.global_step < state.max_steps:
        return False
    best = last.parent / f"checkpoint-{state.best_global_step or state.global_step}"
    if not _is_whole(best):
        return False
    trainer.model.load_adapter(str(best), "default")
    trainer.state = state
    return True
