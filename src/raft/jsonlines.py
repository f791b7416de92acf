"""JSON lines that a person wrote or chose: each line an object, each fault with its line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft.errors import UsageError


def read_objects(path: Path, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a file with the words that say where it stands; blank lines are passed over.

    Args:
        path: a file of JSON lines in UTF-8.
        hint: what to change, said with each error.

    Raises:
        UsageError: the file cannot be read, or a line is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The file cannot be read: {error}.", where=path, hint=hint) from None
    yield from parse_objects(text, path, hint)


def parse_objects(text: str, source: object, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of JSON lines as `read_objects` does; `source` is what the text came from."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The line is no JSON: {error}.", where=where, hint=hint) from None
        if not isinstance(value, dict):
            raise UsageError("The line is no JSON object.", where=where, hint=hint)
        yield where, value
