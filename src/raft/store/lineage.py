"""What a step was made of: the key that names it, and whether what it read is still what is there."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ValidationError

from raft.settings import Settings

Lines = Mapping[str, dict[str, Any]]
"""The steps of a manifest, by name."""
_SECTIONS = {name for name, one in Settings.model_fields.items() if isinstance(one.default, BaseModel)}


def named(value: Any) -> Any:
    """Return what stands for a value in a step's key, as a JSON value: an identity, a digest, or what it holds."""
    if isinstance(value, Mapping):
        return {name: named(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [named(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, pl.DataFrame):
        return value.to_dicts()
    return getattr(value, "identity", getattr(value, "digest", value))


def key(name: str, version: int, using: Mapping[str, Any], given: Any, read: Mapping[str, str]) -> tuple[str, str]:
    """Return a step's basis, which is everything but its inputs, and its key (both SHA-256, hex)."""
    basis = _digest({"step": name, "version": version, "using": named(using)})
    return basis, _digest({"basis": basis, "given": given, "inputs": read})


def trust(lines: Lines, order: Sequence[str]) -> None:
    """Take lines that don't say what they were made from at their word: from what lies before them in `order`."""
    before: dict[str, str] = {}
    for line in (lines[name] for name in order if name in lines):
        line.setdefault("inputs", dict(before))
        before |= {artifact: entry["digest"] for artifact, entry in line["artifacts"].items()}


def stale(lines: Lines) -> set[str]:
    """Return the steps that were not finished, or were made from something else than what is there now."""
    there = {name: entry["digest"] for line in lines.values() for name, entry in line["artifacts"].items()}
    maker = {artifact: name for name, line in lines.items() for artifact in line["artifacts"]}
    found: set[str] = set()
    while True:
        more = {
            name
            for name, line in lines.items()
            if "unfinished" in line
            or any(there.get(one) != digest or maker[one] in found for one, digest in line.get("inputs", {}).items())
        }
        if more == found:
            return found
        found = more


class _Strict(BaseModel, strict=True):
    """What is checked of a manifest: kinds of values, whatever else stands beside them."""


class _Entry(_Strict):
    digest: str | None
    rows: int | None = None


class _Notes(_Strict):
    reasons: dict[str, int] = {}
    splits: dict[str, int] = {}


class _Line(_Strict):
    key: str
    basis: str
    artifacts: dict[str, _Entry]
    inputs: dict[str, str] = {}
    notes: _Notes = _Notes()
    settings: dict[str, Any] = {}
    finished: str = ""
    seconds: float = 0
    calls: float = 0
    replayed: float = 0
    cost: float = 0
    unpriced: float = 0
    input_tokens: float = 0
    output_tokens: float = 0


class _Known(_Strict):
    groups: list[list[str]] = []
    found: dict[str, str] | bool = {}


class _Manifest(_Strict):
    steps: dict[str, _Line]
    collection: str = ""
    home: str | None = None
    pipeline: str | None = None
    corpus: list[str] | None = None
    like: list[str] | None = None
    skipped: list[list[str]] | None = None
    models: dict[str, str] | None = None
    begun: dict[str, Any] | None = None
    decided: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None
    copies: _Known = _Known()
    languages: _Known = _Known()
    records: _Known = _Known()
    settings: dict[str, Any] | None = None


def damaged(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the places in a manifest where something else stands than what belongs there: a list, say, for a text."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        return [tuple(map(str, one["loc"])) for one in error.errors()]
    settings = manifest.get("settings") or {}
    return [("settings", name) for name in _SECTIONS & settings.keys() if not isinstance(settings[name], dict)]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
