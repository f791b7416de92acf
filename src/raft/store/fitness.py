"""Whether a version is fit to answer: what it is made of, whether its files are still those, what stands against it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raft.errors import DamagedArtifact, me, typed
from raft.store import adapters, artifacts, reports

Kind = Literal["rag", "adapter", "merged", "gguf", "4bit"]

PLAIN = "0"
"""The version that is plain RAG: the run's student untuned, with the index."""

_BESIDE = ("README.md", "card.json")
"""Files of an exported model that tell of it and are no part of it."""


@dataclass(frozen=True)
class Version:
    """One of what may answer.

    `id` is "0" for plain RAG, an adapter's own, or `<adapter>-<kind>`; `model` the name of the base model; `adapter`
    the adapter that it is, or was made of; `digest` its content's (SHA-256, hex; "" for plain RAG); `path` where it
    lies, relative to the run directory, None for plain RAG.
    """

    id: str
    kind: Kind
    model: str
    adapter: str | None
    digest: str
    path: str | None
    retired: bool = False


def whole(run: Path, version: Version) -> Path | None:
    """Return where the files of a version lie, None for plain RAG, once they are known to be those of its digest.

    Raises:
        DamagedArtifact: they are missing, or changed.
    """
    if version.path is None:
        return None
    place = run / version.path
    found = content_digest(place)
    if found != version.digest or not found:
        what = "have changed since it became a version" if found else "are missing or damaged"
        hint = f"raft registry promote {typed(run)} 0 --by {me()}   (plain RAG answers; or bring its files back)"
        raise DamagedArtifact(f"The files of version {version.id} {what}.", where=place, hint=hint)
    return place


def content_digest(place: Path) -> str | None:
    """Return the digest (SHA-256, hex) of an adapter's folder, a model's folder or a file; None where none is whole.

    What only tells of a model (`_BESIDE`) does not count.
    """
    if (place / adapters.CONFIG).is_file():
        return adapters.digest(place)
    try:
        if place.is_file():
            return artifacts.digest(place)
        files = sorted(one for one in place.rglob("*") if one.is_file() and one.name not in _BESIDE)
        rows = [[one.relative_to(place).as_posix(), artifacts.digest(one)] for one in files]
    except OSError:
        return None
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest() if (place / "config.json").is_file() else None


def objections(run: Path, version: Version) -> dict[str, str]:
    """Return what stands against a version in production, in words, each with the command that mends it, "" for none.

    Nothing stands against plain RAG.
    """
    found: dict[str, str] = {}
    if version.id == PLAIN:
        return found
    report, place = reports.of(run, version.id), typed(run)
    if report is None:
        flag = "adapter" if version.kind == "adapter" else "version"
        found["no benchmark of this run measured it"] = f"raft bench {place} --{flag} {version.id}"
    elif report.verdict != "ship":
        found[f"its verdict is {report.verdict}"] = ""
    if not approved_by(run, version):
        found["nobody has approved it"] = f"raft approve {place} --by {me()} --adapter {version.adapter}"
    return found


def approved_by(run: Path, version: Version) -> str:
    """Return who approved the adapter that a version is, or was made of; "" for nobody."""
    if version.adapter is None:
        return ""
    try:
        return str(adapters.read_card(run / "adapters" / version.adapter).get("approved_by") or "")
    except DamagedArtifact:
        return ""
