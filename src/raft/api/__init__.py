"""What scripts and the command line call: settings in, a run directory out."""

from raft.api.building import build
from raft.api.opened import Built, load
from raft.api.reading import export, initialise, state, table

__all__ = ["Built", "build", "export", "initialise", "load", "state", "table"]
