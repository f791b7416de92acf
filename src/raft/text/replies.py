"""JSON in what models reply, whatever they wrap it in or spell it like."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from raft.text import from_json, whole

_SPELLED: dict[str, Any] = {"parse_int": str, "parse_float": str}  # 1.50 stays 1.50
_DECODER = json.JSONDecoder(strict=False, **_SPELLED)
_STARTS = re.compile(r"[{\[]")
_FENCE = re.compile(r"```[\w-]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_MARKED = re.compile(r"(?<!\\)((?:\\\\)*)\\(?=[_$'*#%&~-])")
"""A backslash of Markdown, which JSON does not know."""
_ENTITY = re.compile(r"&(?:quot|#34|#x22);", re.I)
_ESCAPED = re.compile(r'[{,]\s*(?:\\n\s*)?\\"\w')
_OPENING = re.compile(r"([{\[,:，：]\s*)[“”„«»]")
_CLOSING = re.compile(r"[“”«»](?=\s*(?:[}\]:：]|[,，]\s*[“”„«»\"{]))")
_PRINTED = re.compile(r'(?<=["\d}\]])\s*[：，](?=\s*["\d{\[])')
"""A colon or a comma of East Asian print between two values."""
_MOST_STARTS = 500
"""Brackets at which JSON is looked for: a reply with more that begin none is no reply."""


def json_readings(reply: str) -> Iterator[Any]:
    """Yield what a reply may hold, likeliest first, numbers as they are spelled.

    A reply that is JSON is read as such, and once more if it is JSON in a text. In any other first each list and object
    is read that stands whole in it or in its fences, one behind the other; then the whole is repaired, and at last what
    JSON it is where its marks were escaped or set as in print.

    Raises:
        ValueError: it is nested too deeply.
    """
    reply = reply.lstrip("\ufeff")
    try:
        tree = from_json(reply, **_SPELLED)
    except json.JSONDecodeError:
        told = _MARKED.sub(r"\1", reply)
        standing = _standing(told)
        yield standing
        plain = _plain(told)
        forms = [told]
        if plain != told and not any(_has_object(one) for one in standing):  # what stands needs no other marks
            yield _standing(plain)
            forms.append(plain)
        for form in forms:
            yield from _repaired(form)
        return
    yield tree
    if isinstance(tree, str) and _STARTS.search(tree):
        yield from json_readings(tree)


def _plain(reply: str) -> str:
    """Return a reply whose JSON was escaped for a page or a text, or has the quotes of print, with its own marks."""
    if _ENTITY.search(reply):
        reply = html.unescape(reply)
    if _ESCAPED.search(reply):
        reply = re.sub(r'\\(["\\/nt])', lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), reply)
    reply = _OPENING.sub(r'\1"', _CLOSING.sub('"', reply))
    return _PRINTED.sub(lambda found: found[0].replace("：", ":").replace("，", ","), reply)


def _repaired(reply: str) -> Iterator[Any]:
    import json_repair  # noqa: PLC0415  few replies need it

    try:
        yield whole(json_repair.loads(reply))
        yield whole([json_repair.loads(part) for part in _FENCE.findall(reply)])
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _standing(text: str) -> list[Any]:
    """Return each list and object that stands whole in a text and in no other.

    Raises:
        ValueError: they are nested too deeply.
    """
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
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    try:
        return [whole(one) for one in found]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _has_object(tree: Any) -> bool:
    return bool(tree) if isinstance(tree, dict) else any(isinstance(one, dict) and one for one in tree)
