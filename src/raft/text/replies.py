"""JSON in what models reply, whatever they wrap it in or spell it like."""

import json
import re
from collections.abc import Iterator
from typing import Any

from raft.text import from_json, whole

_SPELLED: dict[str, Any] = {"parse_int": str, "parse_float": str}  # 1.50 stays 1.50
_DECODER = json.JSONDecoder(strict=False, **_SPELLED)
_STARTS = re.compile(r"[{\[]")
_FENCE = re.compile(r"```[\w-]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_MOST_STARTS = 500
"""Brackets at which JSON is looked for: a reply with more that begin none is no reply."""


def json_readings(reply: str) -> Iterator[Any]:
    """Yield what a reply may hold, likeliest first, numbers as they are spelled.

    A reply that is JSON is read as such, and once more if it is JSON in a text. In any other first each list and object
    is read that stands whole in it or in its fences, one behind the other; then the whole is repaired.

    Raises:
        ValueError: it is nested too deeply.
    """
    reply = reply.lstrip("\ufeff")
    try:
        tree = from_json(reply, **_SPELLED)
    except json.JSONDecodeError:
        yield from _repaired(reply)
        return
    yield tree
    if isinstance(tree, str) and _STARTS.search(tree):
        yield from json_readings(tree)


def _repaired(reply: str) -> Iterator[Any]:
    import json_repair  # noqa: PLC0415  few replies need it

    try:
        yield whole(_standing(reply))
        yield whole(json_repair.loads(reply))
        yield whole([json_repair.loads(part) for part in _FENCE.findall(reply)])
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _standing(text: str) -> list[Any]:
    """Return each list and object that stands whole in a text and in no other."""
    found: list[Any] = []
    place = 0
    for _ in range(_MOST_STARTS):
        start = _STARTS.search(text, place)
        if not start:
            break
        try:
            value, place = _DECODER.raw_decode(text, start.start())
            found.append(value)
        except ValueError:
            place = start.end()
    return found
