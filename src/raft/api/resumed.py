"""A run directory that is written to again: its settings with what was changed, and the run itself."""

from collections.abc import Callable, Mapping
from typing import Any

from raft import config
from raft.api.opened import Built
from raft.protocols import Listen
from raft.run import Run
from raft.settings import Settings


def settings_of(built: Built, changes: Mapping[str, Any]) -> Settings:
    """Return the settings that a run was built with, with those replaced that are given by their dotted names.

    Raises:
        UsageError: a key is unknown, or a value is of the wrong type or out of range.
    """
    return config.changed(built.settings, {name: value for name, value in changes.items() if value is not None})


def writable(built: Built, listen: Listen, meter: Callable[[], dict[str, float]] | None = None) -> Run:
    """Return the run for writing; `listen` is told of its steps."""

    def report(name: str, state: str) -> None:
        listen(state, {"step": name, "line": run.manifest["steps"].get(name, {})})

    run = Run(built.folder, meter=meter, report=report)
    return run
