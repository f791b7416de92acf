"""What was measured of each version: the last benchmark in `benchmark.json`, each one's in `benchmarks/`."""

import json
from dataclasses import dataclass
from pathlib import Path

from raft.store import artifacts

LAST = "benchmark.json"
FOLDER = "benchmarks"


@dataclass(frozen=True)
class Report:
    """The benchmark of a version: where it lies, its digest (SHA-256, hex), and what it decided ("ship", ...)."""

    path: Path
    digest: str
    verdict: str


def of(run: Path, version_id: str) -> Report | None:
    """Return the last benchmark whose verdict is about a version; None where there is none that can be read."""
    for path in (run / LAST, run / FOLDER / f"{version_id}.json"):
        if (verdict := _verdict(path, version_id)) is not None:
            return Report(path, artifacts.digest(path), verdict)
    return None


def keep(run: Path, version_id: str) -> None:
    """Keep the last benchmark as that of a version, for when another one takes its place."""
    artifacts.link(run / LAST, run / FOLDER / f"{version_id}.json")


def _verdict(path: Path, version_id: str) -> str | None:
    """Return what a benchmark decided of a version; None where it is about another one, or cannot be read."""
    try:
        facts = json.loads(path.read_bytes())
        told = facts["verdict"]
        about = {one["name"]: one.get("adapter") for one in facts["arms"]}
        return str(told["decision"]) if about.get(told["contender"]) == version_id else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
