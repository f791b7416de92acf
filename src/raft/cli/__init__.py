"""The command line: arguments in, calls of `raft.api`, words out."""

from raft.cli import commands, feedback, monitor, registry, review, serve
from raft.cli.group import main

__all__ = ["commands", "feedback", "main", "monitor", "registry", "review", "serve"]
