"""YAML files, told in readable lines.

The parser's events are read one by one and no object of a tag is ever made, so that a file can neither run code nor
grow: an alias is only a second reference to the same value, and what comes out of it is limited.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raft.corpus.readers import MEGABYTE, Reading, Unreadable, decode
from raft.corpus.readers.records import MAX_DEPTH, told

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a YAML file as one document; values stay as they are written (a date stays a date, 1.50 stays 1.50).

    Raises:
        raft.corpus.readers.Unreadable: it is no text, no YAML, nested too deeply, or multiplies itself by aliases.
    """
    source = decode(path.read_bytes())
    limit = max(MEGABYTE, 8 * len(source))
    try:
        values = list(_documents(source))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Unreadable(f"It is not YAML: {error.problem or 'malformed'}{line}.") from error
    text = "\n\n".join(told(value, limit=limit) for value in values)
    title = values[0].get("title") if values and isinstance(values[0], dict) else None
    return [Reading(title if isinstance(title, str) and title.strip() else path.stem, text, kind)]


def _documents(source: str) -> Iterator[Any]:
    """Yield the value of each document of a YAML stream, made of dictionaries, lists, strings and None."""
    anchors: dict[str, Any] = {}
    open_ones: list[tuple[Any, list[Any]]] = []
    for event in yaml.parse(source, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(open_ones) >= MAX_DEPTH:
                raise Unreadable("The file is nested too deeply.")
            value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            if event.anchor:
                anchors[event.anchor] = value
            open_ones.append((value, []))
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            value, parts = open_ones.pop()
            _fill(value, parts)
        elif isinstance(event, yaml.ScalarEvent):
            value = None if event.implicit[0] and event.value in {"", "~", "null"} else event.value
            if event.anchor:
                anchors[event.anchor] = value
        elif isinstance(event, yaml.AliasEvent):
            value = anchors.get(event.anchor or "")
        else:
            continue
        if open_ones:
            open_ones[-1][1].append(value)
        else:
            yield value


def _fill(value: Any, parts: list[Any]) -> None:
    if isinstance(value, list):
        value.extend(parts)
        return
    for key, child in zip(parts[::2], parts[1::2], strict=True):
        if key == "<<" and isinstance(child, dict):
            value.update({name: merged for name, merged in child.items() if name not in value})
        else:
            value[key if isinstance(key, str) else "(…)"] = child
