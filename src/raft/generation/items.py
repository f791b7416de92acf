"""Questions, answers and quotes as JSON, several at a time: for models that are capable enough.

What such a model wraps its items in differs from model to model, so that each item is looked at by itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raft.generation.tasks import Row, Task, in_language, must, room, row_of
from raft.kinds import KINDS, traits
from raft.prompts import Prompt, also
from raft.protocols import Request
from raft.rag.format import abstention
from raft.text import as_written, find_quote, from_json
from raft.text.languages import EN, Language
from raft.text.replies import json_readings
from raft.text.values import facts

VERSION = 5
"""Raised when other items of a reply are kept: runs that ask for items read their replies anew."""
ITEM_TOKENS = 160
_SENTENCES = 120
"""More tokens of an item whose answer may be sentences."""

_FIELDS = ("question", "answer", "quote", "kind")
_ALSO = {
    "question": "q question_text query frage pregunta domanda pergunta vraag вопрос 问题 質問",
    "answer": "a response answer_text short_answer exact_answer antwort"
    " réponse respuesta risposta resposta ответ 答案 回答",
    "quote": "evidence citation excerpt supporting_quote verbatim_quote source_quote supporting_text quotes zitat cita "
    "citazione citação citaat цитата 引用 snippet passage context reference source",
    "kind": "type category question_type question_kind art tipo categoría catégorie soort тип 类型 種類",
}
_NAMES = {also: name for name, others in _ALSO.items() for also in (name, *others.split())}
"""What models call the fields of an item, in the form of `_spelled`."""
_RANKS = {also: rank for rank, also in enumerate(_NAMES)}
_LABEL = re.compile(
    r"(?!\W*[\"'][\w ]+[\"']\s*:)\W*(?:\d+[\W_]++)?(\w[\w ]{0,24}?)[*_\"'`)\]]*\s*"
    r"(?:[:：][*_`]*(?:\s+|(?=\W|$))(.*)|$)"
)
"""A line that begins with a name, or is one: `question: x`, `- **Answer:** x`, `2) Q2: x`, `Zitat：x`, `## Quote`.

A name in quotes is JSON's, which is read as such or not at all.
"""
_ASKED = re.compile(r"\W*(?:question\s*|q)?\d+[\W_]+(.{0,500}\?)[*_\s]*", re.I)
_PAIRS = ('""', "''", "“”", "„“", "«»", "‘’")
_LONGEST_QUESTION, _MOST_CELLS = 600, 50
"""Of a line: longer ones, as of a model that runs away, are none."""
_CELL = re.compile(r"(?<!\\)\|")
_FURNITURE = re.compile(r"\s*(?:```\w*|~~~\w*|[-*_=]{3,})\s*")


def items_ask(
    prompt: Prompt,
    chunk: Mapping[str, Any],
    count: int,
    kinds: Sequence[str],
    *,
    language: Language = EN,
    wording: Prompt | None = None,
    like: str = "",
    others: Prompt | None = None,
    had: Sequence[str] = (),
) -> Task:
    """Ask for `count` questions with answers and quotes as JSON, in a language that `wording` (language.md) names.

    `like` is what is said of questions that people have asked (like.md). Where the chunk was asked before, `others`
    (others.md) says that they are to be others than the questions it `had`.
    """
    own = dict(zip(EN.decided, language.decided, strict=False))
    messages = prompt.render(
        count=str(count),
        kinds="\n".join(f"  - {kind}: {_meaning(kind, own)}" for kind in kinds),
        context=chunk["heading"],
        passage=chunk["text"],
    )
    messages = also(in_language(messages, wording, language) if wording else messages, like)
    if others and had:
        (told,) = others.render(questions="\n".join(f"  - {question}" for question in had))
        messages = (*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n\n{told['content']}"})
    each = ITEM_TOKENS + (_SENTENCES if any(KINDS[kind].sentences for kind in kinds) else 0)

    def read(reply: str) -> list[Row]:
        return [_item(item, chunk, language, own) for item in parse_items(reply, kinds)[0][:count]]

    request = Request(
        messages, room(each * count + 40, chunk["text"], language), schema=_items_schema(kinds), check=read
    )
    return Task(
        request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt, lambda reply: parse_items(reply, kinds)[1], count
    )


def _meaning(kind: str, words: Mapping[str, str]) -> str:
    """Return what a kind means, with the language's own words for yes, no and maybe."""
    meaning = KINDS[kind].meaning
    for english, own in words.items():
        meaning = meaning.replace(f'"{english}"', f'"{own}"')
    return meaning


def parse_items(reply: str, kinds: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the items of a JSON reply that are of use, and what is wrong with each of the others.

    What is nearly JSON is repaired; what the list is called, or lies in, does not matter. Where there is none, items
    are read that stand in lines with the names of their fields, as in YAML and lists, or in the rows of a table.

    Raises:
        ValueError: no item is of use: there is none, or each lacks a question, an answer, a quote or a known kind.
    """
    best: tuple[list[dict[str, str]], list[str]] = [], []
    try:
        for tree in json_readings(reply):
            best = _better(best, _sorted(tree, kinds))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not best[0]:
        for read in (_rows, _labelled):
            best = _better(best, _sorted([*read(reply)], kinds))
    if not best[0]:
        raise ValueError(best[1][0] if best[1] else "there are no items in it")
    return best


def _better(
    best: tuple[list[dict[str, str]], list[str]], found: tuple[list[dict[str, str]], list[str]]
) -> tuple[list[dict[str, str]], list[str]]:
    """Return the reading with more items; of as many those read first, which are less mended, and all that is wrong."""
    if len(found[0]) == len(best[0]):
        return best[0], max(best[1], found[1], key=len)
    return max(best, found, key=lambda one: len(one[0]))


def _labelled(reply: str) -> Iterator[dict[str, str]]:
    """Yield the items whose fields begin a line each with their name; one begins where its question does.

    A text goes on in the lines below it, up to an empty one. A numbered line with a question needs no name.
    """
    entry: dict[str, list[str]] = {}
    field = ""
    for line in [*reply.splitlines(), "question:"]:
        label, asked = _LABEL.fullmatch(line), len(line) < _LONGEST_QUESTION and _ASKED.fullmatch(line)
        name = _NAMES.get(_spelled(label[1])) if label else None
        said = label[2] or "" if label else ""
        if not name and asked and field in ("", "kind"):
            name, said = "question", asked[1]
        if name == "question" and "answer" in entry and "question" in entry:
            yield {known: _said(lines) for known, lines in entry.items()}
            entry = {}
        if name and not any(map(str.strip, entry.get(name, []))):
            entry[name], field = [said], name
        elif field and line.strip() and not _FURNITURE.fullmatch(line):
            entry[field].append(line)
        elif field and any(map(str.strip, entry[field])):
            field = ""


def _said(lines: Sequence[str]) -> str:
    """Return what the lines of a field say, without the marks of YAML and Markdown around it."""
    said = " ".join(" ".join(lines).split())
    said = re.sub(r"\A[|>][+-]?(?:\s|\Z)", "", said).strip("*`").strip()
    if len(said) < 2 or f"{said[0]}{said[-1]}" not in _PAIRS:
        return said
    parsed = _parsed(f"[{said}]")
    inner = said[1:-1].replace("''", "'") if said[0] == "'" else said[1:-1]
    return str(parsed[0]) if isinstance(parsed, list) and len(parsed) == 1 else inner


def _rows(reply: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a table in Markdown whose header names the fields of items."""
    names: list[str] = []
    for line in reply.splitlines():
        if not 1 < line.count("|") < _MOST_CELLS:
            continue
        cells = [cell.replace("\\|", "|").strip(" *`") for cell in _CELL.split(line.strip().strip("|"))]
        known = [_NAMES.get(_spelled(cell), "") for cell in cells]
        if "question" in known and "answer" in known:
            names = known
        elif len(cells) == len(names) and any(cell.strip("-: ") for cell in cells):
            yield {name: _said([cell]) for name, cell in zip(names, cells, strict=True) if name}


def _sorted(tree: Any, kinds: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the items of use in what a reply holds, and what is wrong with each of the others."""
    items: list[dict[str, str]] = []
    faults: list[str] = []
    for entry in _entries(tree):
        try:
            items.append(_checked(entry, kinds))
        except ValueError as error:
            faults.append(str(error))
    return items, faults


def _entries(tree: Any) -> Iterator[Any]:
    """Yield the objects of a reply that are meant as items, and what stands in a list among them."""
    if isinstance(tree, dict):
        named = [(_spelled(name), value) for name, value in tree.items()]
        named.sort(key=lambda one: (one[1] not in (None, "", []), -_RANKS.get(one[0], 0)))
        entry = {_NAMES.get(name, name): value for name, value in named}  # of two quotes that which is called so
        parts = [] if isinstance(entry.get("question"), (str, int, float)) else [*map(_parsed, tree.values())]
        inner = [one for part in parts if isinstance(part, (dict, list)) for one in _entries(part)]
        bare = [one for part in parts if isinstance(part, list) for one in part if not isinstance(one, (dict, list))]
        yield from inner or ([entry] if not entry.keys().isdisjoint(_FIELDS) else bare)
    elif isinstance(tree, list):
        tree = [*map(_parsed, tree)]
        found = [list(_entries(part)) if isinstance(part, (dict, list)) else [part] for part in tree]
        if any(isinstance(part, (dict, list)) and entries for part, entries in zip(tree, found, strict=True)):
            yield from (one for entries in found for one in entries)


def _spelled(name: Any) -> str:
    """Return the name of a field in the form of `_NAMES`, without the number that models put behind it."""
    return re.sub(r"[\W_]+", "_", str(name).strip().lower()).strip("_").rstrip("0123456789_") or str(name)


def _parsed(value: Any) -> Any:
    """Return what a text holds that is a list or an object in JSON; any other value is returned as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return from_json(value, parse_int=str, parse_float=str)
        except ValueError:
            return value
    return value


def _checked(entry: Any, kinds: Sequence[str]) -> dict[str, str]:
    must(isinstance(entry, dict), "an item is no object")
    item = {name: as_written(_text(entry.get(name))) for name in _FIELDS}
    item["kind"] = _kind(item, kinds)
    bare = not traits(item["kind"]).answered
    for name in ("question",) if bare else _FIELDS[:3]:
        must(entry.get(name) is not None, f"an item has no {name}")
    must(item["kind"] in kinds, f"{_text(entry.get('kind'))!r} is none of the kinds asked for")
    must(item["question"].strip(), "a question is empty")
    must(bare or (item["answer"].strip() and item["quote"].strip()), "an answer or a quote is empty")
    return item


def _kind(item: Mapping[str, str], kinds: Sequence[str]) -> str:
    """Return the kind that an item names in whatever form, or else the one that its answer shows."""
    words: list[str] = re.findall(r"\w+", item["kind"].lower().replace("_", " "))
    named = [one for word in words for one in (word, word.removesuffix("s")) if one in kinds]
    if named or (words and words[0] in KINDS):
        return named[0] if named else words[0]
    answer = item["answer"].strip().rstrip(".").lower()
    shown: set[str] = {fact.kind for fact in facts(item["answer"]) if 2 * len(fact.text) > len(answer)}
    shown |= {"decision"} if answer in EN.decided else set()
    return next((kind for kind in kinds if kind in shown), words[0] if words else "")


def _text(value: Any) -> str:
    """Return a value of a reply as text; numbers come as texts already, so that 1.50 stays 1.50."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        said = [value[name] for name in ("text", "quote", "answer", "content") if name in value][:1]
        return " ".join(
            map(_text, said or [value[name] for name in ("value", "unit") if name in value] or value.values())
        )
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value) if isinstance(value, (str, int, float)) else ""


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
