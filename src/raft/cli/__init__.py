"""The command line: arguments in, calls of `raft.api`, words out."""

from raft.cli import commands, monitor, registry, review, serve
from raft.cli.group import main

__all__ = ["commands", "main", "monitor", "registry", "review", "serve"]
