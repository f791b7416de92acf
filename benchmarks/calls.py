"""Whether what a program calls of raft and of other benchmarks exists, with these parameters; nothing is run."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft.settings import known_keys

OURS = ("raft", *(file.stem for file in Path(__file__).parent.glob("*.py")))

FILES = ("parquet", "jsonl")
"""Some files of a run are called like a section of the settings."""


def wrong(file: Path) -> Iterator[str]:
    """Yield a line for each import of ours that fails, each call that does not fit, and each setting nobody knows.

    Methods of objects are not seen, nor are functions that are handed on to be called elsewhere.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                try:
                    known |= _imported(node, alias)
                except (ImportError, AttributeError) as error:
                    yield f"{file.name}:{node.lineno}: {error}"
    keys = set(known_keys())
    sections = {key.partition(".")[0] for key in keys}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            fault = _fault(node, known)
            if fault:
                yield f"{file.name}:{node.lineno}: {ast.unparse(node.func)}: {fault}"
        elif isinstance(node, ast.Dict):
            for key in (one.value for one in node.keys if isinstance(one, ast.Constant)):
                section, _, name = str(key).partition(".")
                if name and section in sections and name not in FILES and key not in keys:
                    yield f"{file.name}:{node.lineno}: there is no setting {key}"


def _imported(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> dict[str, Any]:
    """Return a name with what it stands for, where that is ours."""
    home = alias.name if isinstance(node, ast.Import) else str(node.module)
    if home.partition(".")[0] not in OURS:
        return {}
    module = importlib.import_module(home)
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: module}
    if hasattr(module, alias.name):
        return {alias.asname or alias.name: getattr(module, alias.name)}
    return {alias.asname or alias.name: importlib.import_module(f"{home}.{alias.name}")}


def _fault(call: ast.Call, known: dict[str, Any]) -> str | None:
    """Return why a call cannot be made; None where it can, or where it is none of ours."""
    parts = ast.unparse(call.func).split(".")
    if parts[0] not in known or not all(part.isidentifier() for part in parts):
        return None
    function = known[parts[0]]
    for part in parts[1:]:
        if not hasattr(function, part):
            return f"there is no {part}"
        function = getattr(function, part)
    places = [None for one in call.args if not isinstance(one, ast.Starred)]
    names = {one.arg: None for one in call.keywords if one.arg}
    open_ended = len(places) < len(call.args) or len(names) < len(call.keywords)
    try:
        signature = inspect.signature(function)
    except ValueError:  # an exception's, which Python does not tell
        return None
    try:
        (signature.bind_partial if open_ended else signature.bind)(*places, **names)
    except TypeError as error:
        return str(error)
    return None
