"""Questions with answers that people have already: each is given the chunk that bears it, and the quote.

An FAQ, tickets, an old model's answers: what no document bears is told apart and never learned from. No model is asked.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from math import isfinite, log1p
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from raft.corpus import pii, readers
from raft.curation.clean import DECIDED, HUMAN
from raft.errors import UsageError, regular, typed
from raft.protocols import Retriever
from raft.rag.format import is_no_answer
from raft.rag.relevant import ABOUT, is_short, search_all
from raft.settings.sections import Questions
from raft.similarity import names
from raft.store import tables
from raft.text import contains, content_words, embedded_text, find_quote, from_json, normalise, sentences
from raft.text.languages import of_text, stems
from raft.text.values import covers, fact_values

NAMES = {
    "question": ("question", "q", "questions", "query", "prompt", "instruction", "input", "user", "frage", "pregunta"),
    "answer": (
        "answer",
        "a",
        "answers",
        "response",
        "reply",
        "output",
        "completion",
        "solution",
        "antwort",
        "respuesta",
    ),
    "document": ("document", "doc", "file", "path", "source"),
}
"""What a column or field may be called, whatever its case, the best first."""

_EXAMPLE = "a header question,answer and a row: How long is the warranty?,2 years"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
_CANDIDATES = 20
_LEAST, _LEAST_DECIDED, _NEAR = 0.6, 0.6, 0.25
"""Least share of an answer's words that a chunk holds, of a question's words where the answer is yes or no alone, and
of a question's words that the quotes hold with the heading above them. Of the 120 questions of `examples/`, 108 find a
chunk so, 106 in the right document; with the answers of one another 27 of 119 do."""
_MOST_QUOTES = 3
_POSSESSIVE = re.compile(r"['’]s?$")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a file, in order, and what is wrong with the rows left out.

    A pair is line, question, answer and document, and the quote where one is given.
    """

    rows: list[Row]
    wrong: list[str]


def pairs_of(asked: Questions) -> list[Row]:
    """Return the pairs of all files that settings name; it raises as `read_pairs`."""
    return [row for file in asked.qa for row in read_pairs(file).rows]


def read_pairs(path: Path, *, name: str = "", redact: bool = False) -> Pairs:
    """Read a file of questions and answers: CSV or TSV with a header, JSON, or JSON lines; columns by `NAMES`.

    A chat (`messages`) is the last question with its answer. A `quote` is kept as it stands. With `redact`, personal
    data is replaced. `name` is what the file is called where a row is wrong; its own where none is given.

    Raises:
        UsageError: the file is missing or empty, is none of these, or no row of it is a pair.
    """
    name = name or path.name
    try:
        data = regular(path).read_bytes()
        text = readers.decode(data)
    except FileNotFoundError:
        raise UsageError("There is no such file of pairs.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, readers.Unreadable) as error:
        raise _wrong(f"The file of pairs cannot be read: {error}", path) from None
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise _wrong(f"Pairs are read from {', '.join(_READERS)}; {kind or 'a file without a suffix'} is none.", path)
    found: dict[tuple[str, str, str], Row] = {}
    wrong, fields = [], dict[str, None]()
    for line, record in _READERS[kind](text, path):
        fields |= dict.fromkeys(map(str, record)) if isinstance(record, dict) else {}
        row = _pair(record) if isinstance(record, dict) else record if isinstance(record, str) else "it is no record"
        if isinstance(row, str):
            wrong.append(f"{name}, {line}: {row}")
            continue
        row = {part: pii.cleaned(value)[0] for part, value in row.items()} if redact else row
        if (key := (normalise(row["question"]), row["answer"], row["document"])) in found:
            wrong.append(f"{name}, {line}: it stands twice")
        else:
            found[key] = {"line": line, **row}
    if not found:
        there = f"; the fields are {', '.join([*fields][:12])}" if fields else ""
        if b"\0" in data:
            there += f"; line {data[: data.index(0)].count(10) + 1} has a NUL byte: save the file as UTF-8 text"
        raise _wrong(f"No row has a question and an answer{there}.", "; ".join(wrong[:5]) or path)
    return Pairs([*found.values()], wrong)


def _wrong(what: str, where: object) -> UsageError:
    return UsageError(what, where=where, hint=_EXAMPLE)


def _table(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True)
    begun, header = 1, list[str]()
    for cells in reader:
        line, begun = begun, reader.line_num + 1
        if not any(map(str.strip, cells)):
            continue
        if begun > line + 1 and not _closed(lines[line - 1 : begun - 1], reader.dialect.delimiter):
            yield f"lines {line} to {begun - 1}", "a quote that begins there has no end of its own"
        elif header and any(map(str.strip, cells[len(header) :])):
            counted = f"it has {len(cells)} cells, the header {len(header)}"
            yield f"line {line}", f"{counted} (put texts with {_DELIMITERS[reader.dialect.delimiter]} in quotes)"
        elif header:
            yield f"line {line}", dict(zip(header, cells, strict=False))
        else:
            header = [cell.strip() for cell in cells]


def _closed(lines: list[str], delimiter: str) -> bool:
    """Tell whether the lines are one row, and not several that a quote too many holds together."""
    try:
        return len([*csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)]) == 1
    except csv.Error:
        return False


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", from_json(line)
            except ValueError as error:
                yield f"line {number}", f"it is no JSON ({error})"


def _records(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        value = from_json(text)
    except json.JSONDecodeError as error:
        raise _wrong(f"The file is no JSON: {error.msg}.", f"{path}, line {error.lineno}") from None
    except ValueError as error:
        raise _wrong(f"The file is no JSON: {error}.", path) from None
    if isinstance(value, dict) and not isinstance(_pair(value), dict):
        lists = [one for one in value.values() if isinstance(one, list) and one]
        said = all(isinstance(one, str) for one in value.values())  # {"How long is it?": "2 years"}
        value = [{"q": q, "a": a} for q, a in value.items()] if said else max(lists, key=len, default=[])
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield f"record {number}", record


_READERS: Mapping[str, Callable[[str, Path], Iterator[tuple[str, Any]]]] = {
    **dict.fromkeys((".csv", ".tsv"), _table),
    ".json": _records,
    **dict.fromkeys((".jsonl", ".ndjson"), _lines),
}


def _pair(record: Mapping[str, Any]) -> dict[str, str] | str:
    """Return question, answer and document of a record, and its quote if it has one, or what is wrong with it."""
    fields = {str(name).strip().casefold(): value for name, value in record.items()}
    if isinstance(chat := fields.get("messages"), list):
        turns = [turn for turn in chat if isinstance(turn, dict)]
        if turns and not (last := _last_pair(turns)):
            return "its messages have no question with an answer"
        fields |= last if turns else {}
    row = {what: next(filter(None, (_text(fields.get(name)) for name in known)), "") for what, known in NAMES.items()}
    if isinstance(quote := fields.get("quote"), str) and quote.strip():
        row["quote"] = quote.strip()
    return next((f"it has no {what}" for what in ("question", "answer") if not row[what]), row)


def _last_pair(turns: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the last question of a chat that has an answer, with the last thing that is said to it."""
    asked, pair = "", dict[str, str]()
    for turn in turns:
        content = turn.get("content")
        said = " ".join(filter(None, map(_text, content if isinstance(content, list) else [content])))
        if turn.get("role") == "user":
            asked = said
        elif turn.get("role") == "assistant" and asked and said:
            pair = {"question": asked, "answer": said}
    return pair


def _text(value: Any) -> str:
    if isinstance(value, dict):  # as in SQuAD
        value = value.get("text")
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split()) if isinstance(value, str) or isfinite(value) else ""


def find_sources(
    pairs: Sequence[Row],
    chunks: pl.DataFrame,
    documents: pl.DataFrame,
    *,
    retriever: Retriever,
    name: str,
    kind_of: Callable[[str], str],
) -> tuple[pl.DataFrame, list[str]]:
    """Return the pairs as `tables.QUESTIONS`, and which documents that they name are none of the corpus.

    A pair's golden chunk is the one that bears its answer best, among what search brings for question and answer, and
    in the document that the pair names; a pair that no chunk bears has no golden chunk. `model` is "human", `prompt`
    the file's `name` with the line. `kind_of` tells the kind of an answer.

    Where a pair has a `quote` its golden chunk is the one in which that stands, if the chunk has all numbers, dates and
    codes of the answer; where it stands nowhere so, the answer decides.
    """
    known = {row["chunk_id"]: row for row in chunks.iter_rows(named=True) if not row["boilerplate"]}
    held: dict[str, list[str]] = {}
    for chunk_id, row in known.items():
        held.setdefault(row["doc_id"], []).append(chunk_id)
    called: dict[str, str] = {}
    for doc_id, path, title in documents.select("doc_id", "path", "title").iter_rows():
        for one in (path, PurePosixPath(path).name, PurePosixPath(path).stem, title or ""):
            called.setdefault(one.casefold(), doc_id)
    hits = search_all([f"{pair['question']}\n{pair['answer']}" for pair in pairs], retriever, _CANDIDATES)
    rows, unknown = [], dict[str, None]()
    for pair, found in zip(pairs, hits, strict=True):
        doc_id = called.get(pair["document"].casefold())
        if pair["document"] and doc_id is None:
            unknown[pair["document"]] = None
        places = [*dict.fromkeys([one for one in found if one in known] + held.get(doc_id or "", []))]
        if doc_id is not None:
            places = [one for one in places if known[one]["doc_id"] == doc_id]
        others = known if doc_id is None and pair.get("quote") else ()
        stands = quoted(pair, [known[one] for one in places], (known[one] for one in others))
        rows.append(_row(pair, [known[one] for one in places], stands, name, kind_of))
    return tables.frame(tables.QUESTIONS, rows), [*unknown]


def quoted(pair: Row, places: Sequence[Row], others: Iterable[Row] = ()) -> tuple[Row, Row] | None:
    """Return the chunk in which the quote of a pair stands with the facts of its answer, and the quote; or None.

    It is looked for in `places`, the best first, and word for word in `others` too.
    """
    quote = pair.get("quote")
    if not quote:
        return None
    said = fact_values(DECIDED.sub("", pair["answer"], count=1))
    exact = (chunk for chunk in chain(places, others) if quote in chunk["text"])
    for chunk in chain(exact, places):
        span = find_quote(quote, chunk["text"])
        if span and covers(fact_values(embedded_text(chunk["heading"], chunk["text"])), said):
            start, end = span
            return chunk, {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": chunk["text"][start:end]}
    return None


def lost(pair: Row, unknown: Sequence[str]) -> str:
    """Return why a pair with an answer has no golden chunk; `unknown` are documents that are none of the corpus."""
    document = pair["document"]
    where = "" if not document else f" of {document}"
    if document in unknown:
        return f"there is no document {document}, and no passage bears its answer"
    if pair.get("quote"):
        return f"no passage{where} holds its quote and the facts of its answer, and none bears the answer by itself"
    return f"no passage{where} bears its answer"


def _row(
    pair: Row, places: Sequence[Row], stands: tuple[Row, Row] | None, name: str, kind_of: Callable[[str], str]
) -> Row:
    question, answer = pair["question"], pair["answer"]
    kind = "decision" if is_short(answer, question) else kind_of(answer)
    kind = "unanswerable" if is_no_answer(answer) else kind
    chunk, borne = None, list[Row]()
    if stands and kind != "unanswerable":
        chunk, borne = stands[0], [stands[1]]
    elif kind != "unanswerable":
        ranked = [(*how, -rank, one) for rank, one in enumerate(places) if (how := bears(question, answer, one))]
        chunk = max(ranked, key=lambda one: one[:-1])[-1] if ranked else None
        borne = quotes(question, answer, chunk) if chunk else []
    about = chunk or (places[0] if places and kind == "unanswerable" else None)
    golden = [chunk["chunk_id"]] if chunk else []
    told = "\n".join([HUMAN, *golden, pair["document"], normalise(question), answer])
    return {
        "question_id": hashlib.sha256(told.encode()).hexdigest()[:16],
        "kind": kind,
        "question": question,
        "answer": answer,
        "quotes": borne,
        "golden_chunk_ids": golden,
        "doc_ids": [about["doc_id"]] if about else [],
        "model": HUMAN,
        "prompt": f"{name}, {pair['line']}",
    }


# not `figures.stemmed`: a pair may be in any language, and words of bounds and times tell which chunk it is from
@lru_cache(maxsize=8192)
def _stems(text: str) -> frozenset[str]:
    language = of_text(text)
    words = (_POSSESSIVE.sub("", word) for word in content_words(text, language))
    return frozenset(stems(words, replace(language, stemmer=language.stemmer or "english")))


def _overlap(wanted: str, text: str) -> float:
    """Return the share (0 to 1) of the content words of one text that stand in another, whatever their endings."""
    words = _stems(wanted)
    return len(words & _stems(text)) / len(words) if words else 1.0


def bears(question: str, answer: str, chunk: Mapping[str, Any]) -> tuple[bool, float] | None:
    """Return how well a chunk bears an answer, better ones greater: word for word, and by shares of the words.

    None where it does not: it is not about the question, lacks a number, date, code or name of the answer, or most of
    its words.
    """
    text = embedded_text(chunk["heading"], chunk["text"])
    about = _overlap(question, text)
    if is_short(answer, question):
        return (False, about) if about >= _LEAST_DECIDED else None
    said = DECIDED.sub("", answer, count=1)
    if about < ABOUT or not covers(fact_values(text), fact_values(said)):
        return None
    share, verbatim = _overlap(said, text), contains(chunk["text"], answer)
    named = names(said.partition(" ")[2])  # the first word is capitalised as any sentence's
    if not verbatim and (share < _LEAST or not all(contains(text, one) for one in named)):
        return None
    near = _overlap(
        question, embedded_text(chunk["heading"], " ".join(one["text"] for one in quotes(question, answer, chunk)))
    )
    return (verbatim, round(share + about + near, 6)) if near >= _NEAR else None


def rarity(question: str, plain: Collection[str]) -> dict[str, float]:
    """Return what each content word of a question, by its stem, weighs: the more, the fewer texts have it, as in BM25.

    `plain` are the texts of a corpus's chunks, normalised, each between two spaces; a word begins with its stem. The
    weight is Robertson and Zaragoza's (2009), which no word has below 0.
    """
    held = {word: sum(f" {word}" in text for text in plain) for word in _stems(question)}
    return {word: log1p((len(plain) - count + 0.5) / (count + 0.5)) for word, count in held.items()}


def means(weights: Mapping[str, float], question: str, answer: str, chunk: Mapping[str, Any]) -> bool:
    """Tell whether the sentences of a chunk that bear an answer are about its question, by the `rarity` of its words.

    What is found for no more than that the answer stands there needs more than a word that stands everywhere. Of the
    119 answered questions of `examples/`, 96 find a chunk so, 95 in the right document (by the number of words 99, 98);
    with the answers of one another 36 of 584 do (57).
    """
    there = _stems(embedded_text(chunk["heading"], " ".join(one["text"] for one in quotes(question, answer, chunk))))
    return sum(weight for word, weight in weights.items() if word in there) >= _NEAR * sum(weights.values())


def quotes(question: str, answer: str, chunk: Mapping[str, Any]) -> list[Row]:
    """Return the sentences of a chunk that bear an answer, in their order: the best, and others for facts it lacks.

    Best is a sentence with the answer word for word, then with its facts, then with most of its words.
    """
    text = chunk["text"]
    spans = [(start, end, text[start:end]) for start, end in sentences(text)] or [(0, len(text), text)]
    short = is_short(answer, question)  # "no" stands in many a sentence that says something else
    wanted, said = fact_values(answer), question if short else answer
    chosen: list[tuple[int, int, str]] = []
    while len(chosen) < min(_MOST_QUOTES, len(spans)):
        so_far = " ".join(one for _, _, one in chosen)
        missing = {value for value in wanted if not covers(fact_values(so_far), [value])}
        if chosen and (not missing or (not short and contains(so_far, answer))):
            break

        def worth(span: tuple[int, int, str], missing: set[Any] = missing, so_far: str = so_far) -> tuple[Any, ...]:
            there = fact_values(span[2])
            found = sum(covers(there, [value]) for value in missing)
            share = _overlap(said, f"{so_far} {span[2]}")
            return not short and contains(span[2], answer), found, share, _overlap(question, span[2]), -span[0]

        best = max((span for span in spans if span not in chosen), key=worth)
        if chosen and not worth(best)[1]:
            break
        chosen.append(best)
    return [
        {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": part} for start, end, part in sorted(chosen)
    ]
