"""What was measured of each version of a run.

`benchmark.json` is the last benchmark of an adapter; a copy of it stays in `benchmarks/<adapter>/` when another adapter
is measured. What was made of an adapter is measured into a folder of its own there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.store import artifacts

LAST = "benchmark.json"
FOLDER = "benchmarks"


@dataclass(frozen=True)
class Report:
    """The benchmark of a version.

    `path` is where it lies, `digest` its SHA-256 (hex), `verdict` what it decided ("ship", ...), `facts` what it holds.
    """

    path: Path
    digest: str
    verdict: str
    facts: Mapping[str, Any]


def place(run: Path, version_id: str) -> Path:
    """Return the folder in which the benchmark of a version stays."""
    return run / FOLDER / version_id


def of(run: Path, version_id: str) -> Report | None:
    """Return the last benchmark whose verdict is about a version; None where there is none that can be read."""
    for path in (run / LAST, place(run, version_id) / LAST):
        try:
            facts = json.loads(path.read_bytes())
            verdict = facts["verdict"]
            contender = next((one for one in facts["arms"] if one["name"] == verdict["contender"]), None)
            if contender and contender.get("adapter") == version_id:
                return Report(path, artifacts.digest(path), str(verdict["decision"]), facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def keep(run: Path, version_id: str) -> None:
    """Keep the last benchmark as that of a version, for when another one takes its place."""
    artifacts.link(run / LAST, place(run, version_id) / LAST)
