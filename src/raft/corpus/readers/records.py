"""JSON, JSON lines and YAML: records that hold texts, or data told in readable lines.

Of YAML the parser's events are read one by one and no object of a tag is ever made, so that a file can neither run
code nor grow: an alias is only a second reference to the same value, and what comes out of it is limited.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raft.corpus.readers import MEGABYTE, Reading, Unreadable, clean, decode

_BETWEEN = re.compile(r"[\s,]*")
_MAX_DEPTH = 64
_MAX_KEY = 10_000
_LONG = 60
_PAIR = (("question", "q", "frage", "pregunta"), ("answer", "a", "answers", "antwort", "respuesta"))
"""Fields of an FAQ's records, which are the text where there is none of that name."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path, *, kind: str, text_field: str, **_others: object) -> list[Reading]:
    """Read each record that has the text field as a document, or the whole file as one of readable lines.

    A line of JSON lines that is no JSON is a reading with an error that names the line. YAML is one document. Values
    stay as they are written: a date stays a date, 1.50 stays 1.50.
    """
    left_out: dict[str, int] = {}
    readings = _readings(decode(path.read_bytes(), left_out), path.stem, kind, text_field, left_out)
    return [replace(readings[0], left_out=left_out), *readings[1:]]


def _readings(source: str, stem: str, kind: str, text_field: str, left_out: dict[str, int]) -> list[Reading]:
    if kind == "yaml":
        return [_read_yaml(source, stem)]
    many = kind == "jsonl"
    value = None if many else _parse(source)
    if isinstance(value, Unreadable) or (many and not _are_lines(source)):
        value = value if (streamed := _streamed(source)) is None else streamed
    if value is None or isinstance(value, Unreadable):
        parsed = [_parse_line(number, line) for number, line in enumerate(source.split("\n"), start=1)]
        records, many = [record for record in parsed if record is not None], True
        faults = [record for record in records if isinstance(record, Unreadable)]
        if faults and (len(faults) == len(records) or (isinstance(records[0], Unreadable) and value)):
            raise value or faults[0]
    else:
        found = value if isinstance(value, list) else _held(value, text_field)
        many = isinstance(found, list)
        records = found if isinstance(found, list) else [value]
        if many and (beside := _beside(value, records)):
            left_out["values beside the records"] = beside
    if not any(_text(record, text_field) or isinstance(record, Unreadable) for record in records):
        fields = _fields(records)
        if many and fields and text_field != "text":
            there = ", ".join(fields[:12]) + (", …" if len(fields) > 12 else "")
            raise Unreadable(f"No record has a text in the field {text_field!r}; the fields are: {there}.")
        return [Reading(stem, _told(records if many else records[0]), kind)]
    return [_reading(record, number if many else None, stem, kind, text_field) for number, record in enumerate(records)]


def _are_lines(source: str) -> bool:
    """Tell whether the first line of JSON lines is a record that is whole."""
    first = next((line for line in source.split("\n") if line.strip()), "")
    return isinstance(_parse_line(1, first), dict)


def _streamed(source: str) -> list[Any] | None:
    """Return the values of a file of JSON values one behind the other, over lines or with commas; None for others."""
    found: list[Any] = []
    place = 0
    while (begun := _BETWEEN.match(source, place)) and begun.end() < len(source):
        try:
            value, place = _DECODER.raw_decode(source, begun.end())
        except (ValueError, RecursionError):
            return None
        found.append(value)
    if not found or not all(isinstance(one, dict | list) for one in found):
        return None
    return found[0] if len(found) == 1 and isinstance(found[0], list) else found


def _held(value: Any, text_field: str, depth: int = 0) -> list[Any] | None:
    """Return the longest list of records with a text that stands in a key of this value, or below."""
    if not isinstance(value, dict) or depth > 3 or _text(value, text_field):
        return None
    lists = [
        child for child in value.values() if isinstance(child, list) and any(_text(one, text_field) for one in child)
    ]
    lists += filter(None, (_held(child, text_field, depth + 1) for child in value.values()))
    return max(lists, key=len, default=None)


def _beside(value: Any, records: list[Any]) -> int:
    """Count the values that stand outside a list of records."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            waiting += [] if one is records else one.values() if isinstance(one, dict) else one
        else:
            count += bool(_word(one).strip())
    return count


def _text(record: Any, text_field: str) -> str:
    """Return what a record holds as text: a field (`content.text` is within `content`), or question and answer."""
    value = record.get(text_field) if isinstance(record, dict) else None
    if value is None and isinstance(record, dict):
        value = record
        for name in text_field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if value is None and isinstance(record, dict) and text_field == "text":
        fields = {str(name).strip().casefold(): one for name, one in record.items()}
        question, answer = (next(filter(None, (_string(fields.get(name)) for name in names)), "") for names in _PAIR)
        return f"{question}\n\n{answer}" if question and answer else ""
    return _string(value)


def _string(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):  # paragraphs
        value = "\n\n".join(value)
    return value.strip() if isinstance(value, str) else ""


def _fields(records: Sequence[Any]) -> list[str]:
    """Return the names of the fields of the first records, as they can be given for the text field."""
    found: dict[str, None] = {}
    for record in records[:100]:
        inner = [(str(key), child) for key, child in record.items()] if isinstance(record, dict) else []
        while inner:
            name, value = inner.pop(0)
            if isinstance(value, dict) and name.count(".") < 4:
                inner[:0] = [(f"{name}.{key}", child) for key, child in value.items()]
            elif isinstance(value, str):
                found[name] = None
    return list(found)


def _told(value: Any, *, limit: int | None = None) -> str:
    """Tell data in lines: one for each value with its path (`site > owner: Ada`), one for each flat item of a list."""
    lines, size = [], 0
    for line in _lines(value, "", 0):
        size += len(line) + 1
        if limit is not None and size > limit:
            raise Unreadable("The file refers to itself so often that it grows without end.")
        lines.append(line)
    return clean("\n".join(lines)).strip()


def _lines(value: Any, path: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise Unreadable("The file is nested too deeply.")
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _lines(child, f"{path} > {key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        if all(_is_scalar(item) for item in value):
            words = ", ".join(filter(None, map(_word, value)))
            if len(words) > _LONG * max(6, len(value)) or len(words) > 20 * _LONG:  # paragraphs, or very many words
                yield from (f"{path}: {word}" if path else word for word in map(_word, value) if word)
                return
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


def _paired(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a key that is said twice all values stay."""
    made = dict(pairs)
    if len(made) < len(pairs):
        said: dict[str, list[Any]] = {}
        for name, value in pairs:
            said.setdefault(name, []).append(value)
        made = {name: values[0] if all(one == values[0] for one in values) else values for name, values in said.items()}
    return made


def _constant(word: str) -> str | None:
    return None if word == "NaN" else word  # what programs write for an empty cell


_SPELLED: dict[str, Any] = {
    **{"parse_float": str, "parse_int": str},
    **{"parse_constant": _constant, "object_pairs_hook": _paired},
}
_DECODER = json.JSONDecoder(**_SPELLED)


def _parse(source: str) -> Any:
    try:
        # Numbers stay as they are written: 1.50 is not 1.5, and an account number is no float.
        return json.loads(source, **_SPELLED)
    except json.JSONDecodeError as error:
        return Unreadable(f"It is not JSON: {error.msg} in line {error.lineno}.")


def _parse_line(number: int, line: str) -> Any:
    if not line.strip():
        return None
    try:
        return json.loads(line, **_SPELLED)
    except json.JSONDecodeError as error:
        return Unreadable(f"Line {number} is not JSON: {error.msg} at character {error.colno}.")
    except RecursionError:
        return Unreadable(f"Line {number} is nested too deeply.")


def _reading(record: Any, number: int | None, stem: str, kind: str, text_field: str) -> Reading:
    title = stem if number is None else f"{stem} {number + 1}"
    if isinstance(record, Unreadable):
        return Reading(title, "", kind, record=number, error=record.what)
    named = record.get("title") if isinstance(record, dict) else None
    if isinstance(named, str) and named.strip():
        title = clean(" ".join(named.split()))
    text = clean(_text(record, text_field)).strip() or _told(record)
    return Reading(title, text, kind, record=number)


def _read_yaml(source: str, stem: str) -> Reading:
    try:
        values = list(_yaml_values(source))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Unreadable(f"It is not YAML: {error.problem or 'malformed'}{line}.") from error
    text = "\n\n".join(_told(value, limit=max(MEGABYTE, 8 * len(source))) for value in values)
    title = values[0].get("title") if values and isinstance(values[0], dict) else None
    return Reading(title if isinstance(title, str) and title.strip() else stem, text, "yaml")


def _yaml_values(source: str) -> Iterator[Any]:
    """Yield the value of each document of a YAML stream, made of dictionaries, lists, strings and None."""
    anchors: dict[str, Any] = {}
    open_ones: list[tuple[Any, list[Any]]] = []
    for event in yaml.parse(source, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(open_ones) >= _MAX_DEPTH:
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
        bases = child if isinstance(child, list) else [child]
        if key == "<<" and all(isinstance(base, dict) for base in bases):
            for base in bases:
                value.update({name: merged for name, merged in base.items() if name not in value})
        else:
            value[key if isinstance(key, str) else _told(key, limit=_MAX_KEY).replace("\n", "; ") or "null"] = child
