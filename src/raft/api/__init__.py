"""What scripts and the command line call: settings in, a run directory out."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from raft.api.asking import Answerer
from raft.api.benchmarking import bench
from raft.api.building import build, estimate
from raft.api.run import Built, export, initialise, load, state, table
from raft.api.training import approve, export_model, train

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def _formerly_listen(function: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    # scripts that were written for 0.2 say `listen=`
    @wraps(function)
    def called(*args: _Given.args, **options: _Given.kwargs) -> _Made:
        if "listen" in options:
            options["on_event"] = options.pop("listen")
        return function(*args, **options)

    return called


build, estimate = _formerly_listen(build), _formerly_listen(estimate)
train, bench = _formerly_listen(train), _formerly_listen(bench)

__all__ = [
    "Answerer",
    "Built",
    "approve",
    "bench",
    "build",
    "estimate",
    "export",
    "export_model",
    "initialise",
    "load",
    "state",
    "table",
    "train",
]
