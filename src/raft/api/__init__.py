"""What scripts and the command line call: settings in, a run directory out."""

from raft.api.asking import Answerer
from raft.api.benchmarking import bench
from raft.api.building import build, estimate
from raft.api.monitoring import monitor
from raft.api.reviewing import duplicates, review
from raft.api.run import Built, export, initialise, load, located, show, state, status, table, text_of
from raft.api.training import approve, export_model, export_remarks, train

__all__ = [
    "Answerer",
    "Built",
    "approve",
    "bench",
    "build",
    "duplicates",
    "estimate",
    "export",
    "export_model",
    "export_remarks",
    "initialise",
    "load",
    "located",
    "monitor",
    "review",
    "show",
    "state",
    "status",
    "table",
    "text_of",
    "train",
]
