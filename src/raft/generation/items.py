"""Questions, answers and quotes as JSON, several at a time: for models that are capable enough.

What such a model wraps its items in differs from model to model, so that each item is looked at by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import json_repair

from raft.generation.tasks import Row, Task, in_language, must, room, row_of
from raft.kinds import KINDS, traits
from raft.prompts import Prompt
from raft.protocols import Request
from raft.rag.format import abstention
from raft.text import as_written, find_quote, from_json, whole
from raft.text.languages import EN, Language

VERSION = 2
"""Raised when other items of a reply are kept: runs that ask for items read their replies anew."""
ITEM_TOKENS = 160

_FIELDS = ("question", "answer", "quote", "kind")


def items_ask(
    prompt: Prompt,
    chunk: Mapping[str, Any],
    count: int,
    kinds: Sequence[str],
    *,
    language: Language = EN,
    wording: Prompt | None = None,
) -> Task:
    """Ask for `count` questions with answers and quotes as JSON, in a language that `wording` (language.md) names."""
    own = dict(zip(EN.decided, language.decided, strict=False))
    messages = prompt.render(
        count=str(count),
        kinds="\n".join(f"  - {kind}: {_meaning(kind, own)}" for kind in kinds),
        context=chunk["heading"],
        passage=chunk["text"],
    )
    messages = in_language(messages, wording, language) if wording else messages

    def read(reply: str) -> list[Row]:
        return [_item(item, chunk, language, own) for item in parse_items(reply, kinds)[0][:count]]

    request = Request(
        messages, room(ITEM_TOKENS * count + 40, chunk["text"], language), schema=_items_schema(kinds), check=read
    )
    return Task(
        request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt, lambda reply: parse_items(reply, kinds)[1]
    )


def _meaning(kind: str, words: Mapping[str, str]) -> str:
    """Return what a kind means, with the language's own words for yes, no and maybe."""
    meaning = KINDS[kind].meaning
    for english, own in words.items():
        meaning = meaning.replace(f'"{english}"', f'"{own}"')
    return meaning


def parse_items(reply: str, kinds: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the items of a JSON reply that are of use, and what is wrong with each of the others.

    What is nearly JSON is repaired; what the list is called, or lies in, does not matter.

    Raises:
        ValueError: no item is of use: there is none, or each lacks a question, an answer, a quote or a known kind.
    """
    try:
        found = list(_entries(_read_json(reply)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    items: list[dict[str, str]] = []
    faults: list[str] = []
    for entry in found:
        try:
            items.append(_checked(entry, kinds))
        except ValueError as error:
            faults.append(str(error))
    if not items:
        raise ValueError(faults[0] if faults else "there are no items in it")
    return items, faults


def _entries(tree: Any) -> Iterator[Any]:
    """Yield the objects of a reply that are meant as items, and what stands in a list in their place."""
    if isinstance(tree, dict):
        entry = {str(name).strip().lower(): value for name, value in tree.items()}
        if not entry.keys().isdisjoint(_FIELDS):
            yield entry
            return
        tree = [part for part in tree.values() if isinstance(part, (dict, list))]
    for part in tree if isinstance(tree, list) else []:
        yield from _entries(part) if isinstance(part, (dict, list)) else [part]


def _checked(entry: Any, kinds: Sequence[str]) -> dict[str, str]:
    must(isinstance(entry, dict), "an item is no object")
    item = {name: as_written(_text(entry.get(name))) for name in _FIELDS}
    item["kind"] = item["kind"].strip().lower()
    bare = not traits(item["kind"]).answered
    for name in ("question", "kind") if bare else _FIELDS:
        must(entry.get(name) is not None, f"an item has no {name}")
    must(item["kind"] in kinds, f"{_text(entry['kind'])!r} is none of the kinds asked for")
    must(item["question"].strip(), "a question is empty")
    must(bare or (item["answer"].strip() and item["quote"].strip()), "an answer or a quote is empty")
    return item


def _text(value: Any) -> str:
    """Return a value of a reply as text; numbers come as texts already, so that 1.50 stays 1.50."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value) if isinstance(value, (str, int, float)) else ""


def _read_json(reply: str) -> Any:
    """Return what a JSON reply holds, numbers as they are spelled, repaired where it is nearly JSON ("" for none)."""
    try:
        return from_json(reply, parse_int=str, parse_float=str)
    except ValueError:
        return whole(json_repair.loads(reply))


def _item(item: Mapping[str, str], chunk: Mapping[str, Any], language: Language, own: Mapping[str, str]) -> Row:
    question, kind = item["question"].strip(), traits(item["kind"])
    if not kind.answered:
        return row_of(question, abstention(language), item["kind"])
    text = item["quote"].strip()
    start, end = find_quote(item["quote"], chunk["text"]) or (-1, -1)
    if chunk["text"][start:end] != text:  # nearly there: cleaning puts the chunk's own words in its place
        start = end = -1
    quote = {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": text}
    answer = item["answer"].strip()
    return row_of(question, own.get(answer.lower(), answer) if kind.fixed else answer, item["kind"], quote)


def _items_schema(kinds: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: {"type": "string"} for name in ("question", "answer", "quote")}
    fields["kind"] = {"type": "string", "enum": list(kinds)}
    item = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item}},
        "required": ["items"],
        "additionalProperties": False,
    }
