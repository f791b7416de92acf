"""The command line: arguments in, calls of `raft.api`, words out."""

from raft.cli import feedback, monitor, registry, review, serve
from raft.cli.commands import main

__all__ = ["feedback", "main", "monitor", "registry", "review", "serve"]
