"""What a child process imports: what its parent does, and nothing that lies in the working directory."""

import os
from collections.abc import Iterable
from pathlib import Path


def import_path(entries: Iterable[str]) -> str:
    """Return a `PYTHONPATH` of these entries (an empty one is the working directory) but for the working directory."""
    here, home = os.path.realpath(""), str(Path(__file__).resolve().parents[2])
    paths = map(os.path.realpath, entries)
    return os.pathsep.join(path for path in paths if path != here or path == home)
