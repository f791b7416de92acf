"""What of a version a benchmark measures, and where the figures of each are kept."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from raft.api.run import Built
from raft.errors import UsageError, typed
from raft.evaluation.systems import BenchmarkModels, OpenedModel
from raft.report import report
from raft.store import adapters, artifacts, registry, reports
from raft.store.fitness import PLAIN, Version, whole

_LOG = logging.getLogger("raft")
_MEASURED = "measured.json"
"""Beside an adapter: what its last benchmark measured."""

_EARLIER = "benchmarks.jsonl"
"""Beside a benchmark: a line of figures (`summary.digest_of`) of each that was there."""


def to_measure(built: Built, wanted: str | None, adapter: str | None) -> tuple[str | None, Version | None, Path]:
    """Return the adapter that a benchmark measures, what was made of it that it measures, and where its report goes.

    Raises:
        UsageError: there is no version `wanted`, it is plain RAG, which each benchmark measures, or it was made of
            another adapter.
        DamagedArtifact: its files are missing or changed.
    """
    if wanted is None:
        return adapter, None, built.folder
    found, place = registry.find(built.folder, wanted), typed(built.folder)
    if found.id == PLAIN:
        hint = f"raft bench {place}"
        raise UsageError("Each benchmark measures plain RAG: it is what others have to beat.", where=wanted, hint=hint)
    if adapter is not None and adapters.find(built.folder, adapter).name != found.adapter:
        what = f"Version {found.id} is of the adapter {found.adapter}."
        raise UsageError(what, where="--adapter", hint=f"raft bench {place} --version {found.id}")
    whole(built.folder, found)
    if found.kind == "adapter":
        return found.id, None, built.folder
    return found.adapter, found, reports.place(built.folder, found.id)


def beside(
    models: BenchmarkModels, run: Path, version: Version, open_one: Callable[..., OpenedModel]
) -> BenchmarkModels:
    """Return who takes part where a version is measured: it is the tuned model, and what it was made of the original.

    `open_one` opens a model by its name.
    """
    opened = open_one(str((run / str(version.path)).resolve()))
    return replace(models, tuned=replace(opened, adapter=version.id), original=models.tuned, previous=None)


def remembered(folder: Path, line: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the line of a benchmark behind those of the others beside it, and return these, oldest first."""
    others = [one for one in _earlier(folder) if one != line]
    kept = [json.dumps(one, ensure_ascii=False) + "\n" for one in [*others, line]]
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.atomically(folder / _EARLIER, "".join(kept))
    return others


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """Return what is kept of the benchmarks of before, oldest first; what cannot be read is left out."""
    try:
        lines = [json.loads(line) for line in (folder / _EARLIER).read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if isinstance(line, dict)]
    except (OSError, ValueError):
        return []


def previous(folder: Path, tuned: Path, identity: str) -> Path | None:
    """Return the best other adapter of this base model, by what its benchmark measured; None without any."""
    cards = [card for card in adapters.listed(folder) if card.get("base_identity") == identity]
    others = [folder / "adapters" / card["adapter"] for card in cards if card["adapter"] != tuned.name]
    found = {path: _value(path / _MEASURED) for path in others if adapters.digest(path)}
    measured = {path: value for path, value in found.items() if value is not None}
    return max(measured, key=measured.__getitem__, default=None)


def _value(file: Path) -> float | None:
    """Return what a benchmark measured, None where none did, or the file is damaged, which is said."""
    try:
        value = float(json.loads(file.read_bytes())["value"])
        return value if isfinite(value) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
        _LOG.warning("raft: %s is damaged: its adapter is left out until it is measured again", file)
        return None


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what a benchmark found, and its report; what is about an adapter of the run also stays beside it."""
    artifacts.atomically(folder / reports.LAST, json.dumps(facts, ensure_ascii=False, indent=1, default=str))
    artifacts.atomically(folder / "report.html", report.html(facts))
    artifacts.atomically(folder / "report.md", report.markdown(facts))
    artifacts.atomically(folder / "report.csv", report.rows_as_csv(facts))
    verdict = facts["verdict"]
    system = next((one for one in facts["arms"] if one["name"] == verdict["contender"]), None)
    if system and system["adapter"]:
        score = (system["sets"].get(verdict["question_set"]) or {}).get(verdict["measure"])
        home = folder / "adapters" / system["adapter"]
        if score and home.is_dir():
            kept = {"value": score["value"], "measure": verdict["measure"], "question_set": verdict["question_set"]}
            artifacts.atomically(home / _MEASURED, json.dumps(kept))
        if home.is_dir():
            reports.keep(folder, system["adapter"])
