"""The command line: arguments in, calls of `raft.api`, words out."""

from raft.cli import answers, benchmarking, runs, tuning
from raft.cli.frame import main

__all__ = ["answers", "benchmarking", "main", "runs", "tuning"]
