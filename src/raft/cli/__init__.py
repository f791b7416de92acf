"""The command line: arguments in, calls of `raft.api`, words out."""

from raft.cli import monitor, registry, review, serve
from raft.cli.commands import main

__all__ = ["main", "monitor", "registry", "review", "serve"]
