"""The command that builds a run once more, with the options of its build, as it is typed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raft.errors import RaftError, regular, typed
from raft.prompts import packaged
from raft.settings import PATHS, PATHS_OR_NAMES, named, yaml_value
from raft.text import is_address
from raft.text.secrets import HIDDEN, shown_address

OPTIONS = {
    "generator.model": "--generator",
    "index.embedder": "--embedder",
    "student": "--student",
    "questions.per_chunk": "--questions-per-chunk",
    "questions.limit": "--limit",
    "seed": "--seed",
    "engine.kind": "--engine",
    "evaluation": "--eval",
    "questions.qa": "--qa",
    "decisions": "--decisions",
}
"""Settings that have an option of their own; the others are said with `--set`."""
_ELSEWHERE = ("corpus", "generator.max_cost")
"""A corpus is an argument, and a cap holds until another one is given."""
_ADDRESSES = ("api_base", "url", "address")
"""Settings that may hold a password or a key, which a dump of settings does not tell."""


def again(run: Path | str, change: Mapping[str, Any] | None = None, *, remark: str = "") -> str:
    """Return the `raft build` that made a run, or that was stopped on it, with some settings changed, by dotted names.

    It names the pipeline file, where it is still there, or the one of the package that says most of what it said, and
    each setting that differs from it; of a run that nobody knows, `CORPUS` in the corpus's place. Paths are those from
    the folder that one stands in, wherever the build was typed. A remark stands behind, as `errors.pasted` takes it.
    """
    told = _told(Path(run))
    home = _home(Path(run), told)
    corpus = _from_here(home, told["corpus"]) if told.get("corpus") else ["CORPUS"]
    file, differing = _pipeline(told.get("pipeline"), home, told.get("settings") or {})
    given = {**differing, **_shown(change or {})}
    parts = ["raft build", *map(typed, corpus), "--out", typed(run), *(["--pipeline", typed(file)] if file else [])]
    parts += [_option(key, value) for key, value in given.items()]
    hidden = "*** stands for a password or key" if any(HIDDEN in str(value) for value in given.values()) else ""
    remarks = "; ".join(filter(None, [hidden, remark]))
    return " ".join(parts) + (f"   ({remarks})" if remarks else "")


def pair_files(run: Path | str) -> list[str]:
    """Return the files of `questions.qa` that a run was built with, as paths from here."""
    told = _told(Path(run))
    files = told.get("settings", {}).get("questions", {}).get("qa") or []
    return list(_from_here(_home(Path(run), told), [files] if isinstance(files, str) else files))


def more_questions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to change, by its dotted name, for a build to write more questions; `settings` are a manifest's.

    A build that goes on until so many are kept (`questions.keep`) does not end with more for a larger
    `questions.per_chunk`.
    """
    asked = settings["questions"]
    name = "keep" if asked.get("keep") else "per_chunk"
    return {f"questions.{name}": 2 * asked[name]}


def option(change: Mapping[str, Any]) -> str:
    """Return settings by dotted name as options of `raft build`, as they are typed."""
    return " ".join(_option(key, value) for key, value in change.items())


def _told(run: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(regular(run / "manifest.json").read_bytes())
        told = {**manifest, **(manifest.get("begun") or {})}
    except (OSError, ValueError, RecursionError, TypeError, AttributeError, RaftError):
        return {}
    right = isinstance(told.get("settings"), dict) and isinstance(told.get("corpus"), list)
    right = right and all(isinstance(one, str) for one in told["corpus"])
    return told if right else {}


def _home(run: Path, told: Mapping[str, Any]) -> Path:
    """Return the folder that a build was typed in, as a path from here; it is this one where nobody knows better."""
    home, corpus = (
        run / str(told.get("home", "")),
        [one for one in told.get("corpus", ()) if one[:1] not in ("/", "~") and not is_address(one)],
    )
    if "home" not in told or not home.is_dir() or home.samefile("."):
        return Path()
    if corpus and not ((home / corpus[0]).exists() or any(home.glob(corpus[0]))):
        return Path()  # the run was moved away from it
    return Path(min(str(home.resolve()), os.path.relpath(home.resolve()), key=len))


def _from_here(home: Path, path: Any, *, may_be_name: bool = False) -> Any:
    """Return a path, or each of a list, as it is from here; a name stays one."""
    if isinstance(path, list):
        return [_from_here(home, one, may_be_name=may_be_name) for one in path]
    stays = (
        home == Path()
        or not path
        or not isinstance(path, str)
        or path.startswith("~")
        or is_address(path)
        or (may_be_name and not (home / path).is_file())
    )
    return path if stays else str(home / path)


def _pipeline(told: Any, home: Path, tree: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:

    def from_it(file: str | None) -> tuple[str | None, dict[str, Any]]:
        return file, dict(_differing(tree, named(file).model_dump(mode="json"), home))

    own = _from_here(home, told) if isinstance(told, str) else None
    if own and Path(own).is_file():  # else it was moved, or is a pipe, or a name
        with suppress(RaftError, OSError):  # it is another one now
            return from_it(own)
    known = [name.removesuffix(".yaml") for name in packaged("pipelines")] if own else []
    known = [name for name in known if not Path(name).exists()]
    return min(map(from_it, [*({*known} & {str(told)}), None, *known]), key=lambda one: len(one[1]))


def _differing(
    tree: Mapping[str, Any], base: Mapping[str, Any], home: Path, before: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, told in tree.items():
        key, usual = f"{before}{name}", base.get(name)
        if isinstance(told, dict) and isinstance(usual, dict) and not before:
            yield from _differing(told, usual, home, f"{name}.")
            continue
        is_path = key in (*PATHS, *PATHS_OR_NAMES)
        value = _from_here(home, told, may_be_name=key in PATHS_OR_NAMES) if is_path else told
        if value != usual and key not in _ELSEWHERE:
            yield key, value


def _shown(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(one, key.rpartition(".")[2]) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one, name) for one in value]
    return shown_address(value) if name in _ADDRESSES and isinstance(value, str) else value


def _option(key: str, value: Any) -> str:
    if key == "local_only" and value is True:
        return "--local-only"
    if key in OPTIONS and value is not None:
        return " ".join(f"{OPTIONS[key]} {typed(one)}" for one in (value if isinstance(value, list) else [value]))
    return f"--set {typed(f'{key}={yaml_value(value)}')}"
