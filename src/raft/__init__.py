"""Retrieval-augmented fine-tuning: from a corpus to a small model that answers with quotes, and an index of its facts.

import raft

run = raft.build("handbook/", out="runs/handbook", generator="openai/gpt-4o-mini")
run.questions, run.cleaned, run.examples
run.index.search(["what is the refund limit?"], k=5)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raft.api import Built, build, export, initialise, load
    from raft.errors import RaftError

_HOMES = {
    "Built": "raft.api",
    "build": "raft.api",
    "export": "raft.api",
    "initialise": "raft.api",
    "load": "raft.api",
    "RaftError": "raft.errors",
}

__all__ = ["Built", "RaftError", "__version__", "build", "export", "initialise", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import raft` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raft' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
