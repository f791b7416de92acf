"""JSON and JSON lines: records that hold texts, or data told in readable lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft.corpus.readers import Reading, Unreadable, clean, decode

MAX_DEPTH = 64


def read(path: Path, *, kind: str, text_field: str, **_others: object) -> list[Reading]:
    """Read each record that has the text field as a document, or the whole file as one of readable lines.

    A line of JSON lines that is no JSON is a reading with an error that names the line.

    Raises:
        raft.corpus.readers.Unreadable: it is no text, no JSON at all, or nested too deeply.
    """
    source = decode(path.read_bytes())
    if kind == "json":
        value = _parse(source)
        records = value if isinstance(value, list) else [value]
        many = isinstance(value, list)
    else:
        records, many = [_parse_line(number, line) for number, line in enumerate(source.split("\n"), start=1)], True
        records = [record for record in records if record is not None]
        faults = [record for record in records if isinstance(record, Unreadable)]
        if faults and len(faults) == len(records):
            raise faults[0]
    if not any(_has_text(record, text_field) or isinstance(record, Unreadable) for record in records):
        return [Reading(path.stem, told(records if many else records[0]), kind)]
    return [
        _reading(record, number if many else None, path.stem, kind, text_field) for number, record in enumerate(records)
    ]


def told(value: Any, *, limit: int | None = None) -> str:
    """Tell data in lines: one for each value with its path (`site > owner: Ada`), one for each flat item of a list.

    Args:
        value: dictionaries, lists and scalars, at most `MAX_DEPTH` deep.
        limit: the most characters that may come out, or None.

    Raises:
        raft.corpus.readers.Unreadable: it is nested more deeply, or would come out longer.
    """
    lines, size = [], 0
    for line in _lines(value, "", 0):
        size += len(line) + 1
        if limit is not None and size > limit:
            raise Unreadable("The file refers to itself so often that it grows without end.")
        lines.append(line)
    return clean("\n".join(lines)).strip()


def _lines(value: Any, path: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise Unreadable("The file is nested too deeply.")
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _lines(child, f"{path} > {key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        if all(_is_scalar(item) for item in value):
            words = ", ".join(filter(None, map(_word, value)))
            if words:
                yield f"{path}: {words}" if path else words
            return
        for number, item in enumerate(value, start=1):
            yield from _item(item, f"{path} {number}" if path else "", depth + 1)
    elif word := _word(value):
        yield f"{path}: {word}" if path else word


def _item(item: Any, path: str, depth: int) -> Iterator[str]:
    """Tell an item of a list: what is flat in it in one line, so that the line can be understood alone."""
    if not isinstance(item, dict):
        yield from _lines(item, path, depth)
        return
    flat = {key: " ".join(_word(child).split()) for key, child in item.items() if _is_scalar(child)}
    line = "; ".join(f"{key}: {word}" for key, word in flat.items() if word)
    if line:
        yield f"{path}: {line}" if path else line
    yield from _lines({key: child for key, child in item.items() if not _is_scalar(child)}, path, depth)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _word(value: Any) -> str:
    if value is None:
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _parse(source: str) -> Any:
    try:
        # Numbers stay as they are written: 1.50 is not 1.5, and an account number is no float.
        return json.loads(source, parse_float=str, parse_int=str)
    except json.JSONDecodeError as error:
        raise Unreadable(f"It is not JSON: {error.msg} in line {error.lineno}.") from error


def _parse_line(number: int, line: str) -> Any:
    if not line.strip():
        return None
    try:
        return json.loads(line, parse_float=str, parse_int=str)
    except json.JSONDecodeError as error:
        return Unreadable(f"Line {number} is not JSON: {error.msg} at character {error.colno}.")
    except RecursionError:
        return Unreadable(f"Line {number} is nested too deeply.")


def _has_text(record: Any, text_field: str) -> bool:
    return isinstance(record, dict) and isinstance(record.get(text_field), str) and bool(record[text_field].strip())


def _reading(record: Any, number: int | None, stem: str, kind: str, text_field: str) -> Reading:
    title = stem if number is None else f"{stem} {number + 1}"
    if isinstance(record, Unreadable):
        return Reading(title, "", kind, record=number, error=record.what)
    named = record.get("title") if isinstance(record, dict) else None
    if isinstance(named, str) and named.strip():
        title = clean(" ".join(named.split()))
    text = clean(record[text_field]).strip() if _has_text(record, text_field) else told(record)
    return Reading(title, text, kind, record=number)
