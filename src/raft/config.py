"""Reading settings: a YAML file (`pipelines/*.yaml`), then flags.

What there is to set, with its defaults, is in `raft.settings`; a key that is not known is an error which names the
nearest one that is.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raft.errors import UsageError
from raft.settings import Settings

__all__ = ["Settings", "commented_yaml", "known_keys", "load", "load_text", "parse_assignment"]

_EXPLAINED = "raft init my-pipeline   (writes a YAML file with every setting explained)"
_PATHS = ("prompts", "ledger", "evaluation", "corpus", "training.rehearsal_file", "benchmark.other_adapter")
"""Settings that are paths: a relative one is taken from the folder of the file that it stands in."""
_PATHS_OR_NAMES = ("benchmark.capability",)
"""Settings that are paths where there is such a file beside the YAML file, and names otherwise."""


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings: flags win over the YAML file, the YAML file over the defaults.

    Relative paths in the file (`corpus`, `prompts`, `evaluation` and their like) are taken from the file's folder.

    Args:
        path: a YAML file, or None for the defaults alone.
        overrides: dotted keys to values, e.g. `{"index.k": 8}`.

    Raises:
        UsageError: the file is missing or no YAML, a key is unknown (the nearest known one is named), or a value is
            of the wrong type or out of range.
    """
    return _validated(_read(path) if path else {}, overrides, path)


def load_text(text: str, overrides: Mapping[str, Any] | None = None, *, where: str) -> Settings:
    """Read settings from YAML text; `where` names it in errors.

    Raises:
        UsageError: as `load`.
    """
    return _validated(_parse(text, where), overrides, where)


def changed(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return settings with those replaced that are given by their dotted names.

    Raises:
        UsageError: as `load`.
    """
    return _validated(settings.model_dump(mode="python"), overrides, "--set")


def _validated(tree: dict[str, Any], overrides: Mapping[str, Any] | None, where: object) -> Settings:
    for key, value in (overrides or {}).items():
        _plant(tree, key, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where) from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `key=value` as typed after `--set`; the value is read as YAML.

    Raises:
        UsageError: there is no `=`, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, and {text!r} is not of that form.", hint="--set index.k=8")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"The value of {key} is no YAML: {error}", where="--set", hint=f"--set '{key}=...'") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("There is no such pipeline file.", where=path, hint="raft init my-pipeline") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The pipeline file cannot be read: {error}.", where=path, hint=_EXPLAINED) from None
    tree = _parse(text, path)
    for key in _PATHS:
        _change(tree, key, lambda entry: str(path.parent / entry))
    for key in _PATHS_OR_NAMES:
        _change(tree, key, lambda entry: str(path.parent / entry) if (path.parent / entry).exists() else entry)
    if isinstance(tree.get("corpus"), str):
        tree["corpus"] = [tree["corpus"]]
    return tree


def _change(tree: dict[str, Any], key: str, change: Callable[[str], str]) -> None:
    """Change the text, or each text of the list, that stands at a dotted key; whatever else stands there is left."""
    section, _, name = key.rpartition(".")
    owner = tree.get(section) if section else tree
    if not isinstance(owner, dict):
        return
    value = owner.get(name)
    if isinstance(value, str):
        owner[name] = change(value)
    elif isinstance(value, list):
        owner[name] = [change(entry) if isinstance(entry, str) else entry for entry in value]


def _parse(text: str, where: object) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The pipeline file is no YAML: {error}", where=where, hint=_EXPLAINED) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError("A pipeline file holds settings as `key: value`.", where=where, hint="raft init my-pipeline")
    return tree


def _plant(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        child = tree.get(section)
        if not isinstance(child, dict):
            child = tree[section] = {}
        tree = child
    tree[name] = value


def _explain(error: ValidationError, where_from: object) -> UsageError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(where, known_keys(), n=1, cutoff=0.5)
            lines.append(f"There is no setting {where}." + (f" Did you mean {near[0]}?" if near else ""))
        else:
            lines.append(f"{where}: {problem['msg']} (it is {problem['input']!r}).")
    return UsageError(" ".join(lines), where=where_from or "the command line", hint=_EXPLAINED)


def known_keys(section: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings, in the order in which they are declared."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def commented_yaml(
    values: Mapping[str, Any] | None = None, section: type[BaseModel] = Settings, indent: str = ""
) -> str:
    """Return a YAML file with every setting, its meaning as a comment, and its default or the given value."""
    values = values or {}
    lines: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            summary = (kind.__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{indent}# {summary}", f"{indent}{name}:"]
            lines.append(commented_yaml(values.get(name), kind, indent + "  ").rstrip("\n"))
        else:
            value = values.get(name, field.default)
            lines += [f"{indent}# {field.description}", f"{indent}{name}: {_yaml_value(value)}"]
    return "\n".join(lines).lstrip("\n") + "\n"


def _yaml_value(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
