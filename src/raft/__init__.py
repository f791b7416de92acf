"""Retrieval-augmented fine-tuning: from a corpus to a small model that answers with quotes, and an index of its facts.

import raft

raft.estimate("handbook/", out="runs/handbook", generator="openai/gpt-4o-mini").dollars
run = raft.build("handbook/", out="runs/handbook", generator="openai/gpt-4o-mini")
run.questions, run.cleaned, run.examples
run.index.search(["what is the refund limit?"], k=5)

raft.train("runs/handbook")
raft.load("runs/handbook").ask("What is the refund limit?")
raft.bench("runs/handbook")["verdict"]

raft.status("runs/handbook")
raft.show("runs/handbook", "cleaned", only="dropped")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raft.version import __version__

if TYPE_CHECKING:
    from raft.api.asking import Answerer
    from raft.api.benchmarking import bench
    from raft.api.building import build, estimate
    from raft.api.feedback import feedback
    from raft.api.monitoring import monitor
    from raft.api.reviewing import review
    from raft.api.run import Built, export, initialise, load, show, status
    from raft.api.training import approve, export_model, train
    from raft.cli.progress import Progress
    from raft.errors import RaftError
    from raft.rag.grounding import Answer

_HOMES = {
    "raft.api.asking": ("Answerer",),
    "raft.api.benchmarking": ("bench",),
    "raft.api.building": ("build", "estimate"),
    "raft.api.feedback": ("feedback",),
    "raft.api.monitoring": ("monitor",),
    "raft.api.reviewing": ("review",),
    "raft.api.run": ("Built", "export", "initialise", "load", "show", "status"),
    "raft.api.training": ("approve", "export_model", "train"),
    "raft.cli.progress": ("Progress",),
    "raft.errors": ("RaftError",),
    "raft.rag.grounding": ("Answer",),
}

__all__ = [
    "Answer",
    "Answerer",
    "Built",
    "Progress",
    "RaftError",
    "__version__",
    "approve",
    "bench",
    "build",
    "estimate",
    "export",
    "export_model",
    "feedback",
    "initialise",
    "load",
    "monitor",
    "review",
    "show",
    "status",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import raft` stays instant."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'raft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, also those that were not used yet."""
    return sorted(__all__)
