"""What scripts and the command line call: settings in, a run directory out."""

from raft.api.asking import Answerer
from raft.api.benchmarking import bench
from raft.api.building import build
from raft.api.estimating import estimate
from raft.api.opened import Built, load
from raft.api.reading import export, initialise, state, table
from raft.api.training import approve, export_model, train

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
