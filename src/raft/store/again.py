"""The command that builds a run once more, with the options of its build, as it is typed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raft.errors import RaftError, typed
from raft.settings import Settings, named, yaml_value
from raft.store.folders import regular
from raft.text.secrets import HIDDEN, shown_address

_OPTIONS = {
    "generator.model": "--generator",
    "index.embedder": "--embedder",
    "student": "--student",
    "questions.per_chunk": "--questions-per-chunk",
    "questions.limit": "--limit",
    "seed": "--seed",
    "evaluation": "--eval",
    "questions.qa": "--qa",
    "decisions": "--decisions",
}
"""Settings that have an option of their own; the others are said with `--set`."""
_ELSEWHERE = ("corpus", "generator.max_cost")
"""A corpus is an argument, and a cap holds until another one is given."""
_ADDRESSES = ("api_base", "url")
"""Settings that may hold a password or a key, which a dump of settings does not tell."""


def again(run: Path | str, change: Mapping[str, Any] | None = None, *, remark: str = "") -> str:
    """Return the `raft build` that made a run, or that was stopped on it, with some settings changed, by dotted names.

    It names the pipeline file, where it is still there, and each setting that differs from it; of a run that nobody
    knows, `CORPUS` in the corpus's place. A remark stands behind it, as `errors.pasted` takes it.
    """
    told = _told(Path(run))
    corpus, file = told.get("corpus") or ["CORPUS"], told.get("pipeline")
    try:
        base = named(file if isinstance(file, str) and Path(file).is_file() else None)
    except (RaftError, OSError):  # it is another one now
        base = None
    if base is None or not isinstance(file, str) or not Path(file).is_file():  # or was moved, or is a pipe
        file, base = None, Settings()
    given = {**dict(_differing(told.get("settings") or {}, base.model_dump(mode="json"))), **_shown(change or {})}
    parts = ["raft build", *map(typed, corpus), "--out", typed(run), *(["--pipeline", typed(file)] if file else [])]
    parts += [_option(key, value) for key, value in given.items()]
    hidden = "*** stands for a password or key" if any(HIDDEN in str(value) for value in given.values()) else ""
    remarks = "; ".join(filter(None, [hidden, remark]))
    return " ".join(parts) + (f"   ({remarks})" if remarks else "")


def _told(run: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(regular(run / "manifest.json").read_bytes())
        told = {**manifest, **(manifest.get("begun") or {})}
    except (OSError, ValueError, RecursionError, TypeError, AttributeError, RaftError):
        return {}
    right = isinstance(told.get("settings"), dict) and isinstance(told.get("corpus"), list)
    return told if right else {}


def _differing(tree: Mapping[str, Any], base: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key, usual = f"{before}{name}", base.get(name)
        if isinstance(value, dict) and isinstance(usual, dict) and not before:
            yield from _differing(value, usual, f"{name}.")
        elif value != usual and key not in _ELSEWHERE:
            yield key, value


def _shown(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(one, key.rpartition(".")[2]) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return shown_address(value) if name in _ADDRESSES and isinstance(value, str) else value


def _option(key: str, value: Any) -> str:
    if key == "local_only" and value is True:
        return "--local-only"
    if key in _OPTIONS and value is not None:
        return f"{_OPTIONS[key]} {typed(value)}"
    return f"--set {typed(f'{key}={yaml_value(value)}')}"
