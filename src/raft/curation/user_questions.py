"""Files of a user's own questions, to measure with; personal data in them is treated as that in documents."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from raft.corpus import pii
from raft.errors import RaftError, UsageError, typed
from raft.rag.format import ABSTENTION, is_no_answer
from raft.settings import Settings
from raft.store import tables
from raft.text import from_json, normalise

_EXAMPLE = '{"question": "How long is the warranty?", "answers": ["2 years"], "document": "warranty.md"}'
_KEYS = ("question", "answers", "document", "page", "documents", "question_id", "kind")
_PAGED = '{"document": "warranty.pdf", "page": [3, 4]}'
Row = dict[str, Any]
Place = dict[str, Any]
"""An item of the column `places` (`tables.PLACES`): `document`, and `pages`, None for the whole document."""


def own_questions(settings: Settings, file: Path, documents: pl.DataFrame) -> pl.DataFrame:
    """Read a user's own questions, as `register` does; what is found in them is refused or replaced as `privacy` says.

    Raises:
        UsageError: the file is not what it should be.
        RaftError: something was found, and `privacy.found` is "refuse".
    """
    own = register(file, documents)
    if settings.privacy.found == "refuse" and (kinds := personal_data(file)):
        raise refused("questions", [f"{file}: {pii.counted(kinds)}"])
    if settings.privacy.found != "redact":
        return own

    def clean(text: str) -> str:
        return pii.cleaned(text)[0]

    rows = [
        {**row, "question": clean(row["question"]), "answers": list(map(clean, row["answers"]))}
        for row in own.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=own.schema)


def personal_data(file: Path) -> dict[str, int]:
    """Count by kind what a file holds; nothing where it cannot be read, which is told where its questions are."""
    try:
        found = pii.scan(file.read_text(encoding="utf-8-sig", errors="replace"))
    except OSError:
        return {}
    counts = Counter(one.kind for one in found)
    return {kind: counts[kind] for kind in pii.PLACEHOLDERS if kind in counts}


def refused(what: str, where: Sequence[str]) -> RaftError:
    """Return the error that what was found ("documents", "questions") raises where it is to be refused."""
    return RaftError(
        f"The {what} hold personal data or secrets, and privacy.found is refuse.",
        where="; ".join(where),
        hint=f"take them out of the {what}, or have them replaced: --set privacy.found=redact",
    )


def register(path: Path, documents: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return a user's own evaluation questions, of a JSONL file, as `tables.EVALUATION` with the split `user`.

    Each line is a JSON object with `question` and `answers` (a list, or one string) and optionally `document` (a path
    as in documents.parquet), `page` (one of it, 1 is the first, or a list of pages each of which bears the answer),
    `question_id` and `kind`. A question whose answer needs several documents has `documents` in their place: all of
    them, each a path, or an object with `document` and `page`. No answers, or the abstention alone, mean that the
    corpus does not answer the question. Where a question without an id stands in several lines, the answers and pages
    of all of them count.

    Args:
        path: the file.
        documents: a frame with `path`, and `pages` as in `tables.DOCUMENTS` to check pages too. Without it nothing is
            said of the documents that are named: they have not been read yet.

    Raises:
        UsageError: the file is missing, empty or no JSONL; a key is missing or unknown; a value has the wrong type; a
            document or a page is unknown; a question_id stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UsageError("There is no such file of questions.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"The file of evaluation questions cannot be read: {error}.", str(path)) from None
    there = None if documents is None else _page_counts(documents)
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            row, named = _registered(line, where, there)
            first = rows.setdefault(row["question_id"], row)
            if first is row:
                continue
            if named:
                raise _wrong(f"The question_id {row['question_id']} stands twice.", where)
            if first["kind"] != row["kind"] and "unanswerable" in (first["kind"], row["kind"]):
                raise _wrong("The question stands twice, with an answer and without one.", where)
            first["answers"] = [*dict.fromkeys([*first["answers"], *row["answers"]])]
            first["places"] = _joined(first["places"], row["places"])
    if not rows:
        raise _wrong("The file holds no questions.", str(path))
    for row in rows.values():  # a document alone is told by its own column, as ever
        row["places"] = row["places"] if len(row["places"]) > 1 or any(one["pages"] for one in row["places"]) else None
    return tables.frame(tables.EVALUATION, rows.values())


def _page_counts(documents: pl.DataFrame) -> dict[str, int | None]:
    """Return how many pages each document has, by its path: 0 where it has none, None where that is not known."""
    if "pages" not in documents.columns:
        return dict.fromkeys(documents["path"])
    return {path: len(pages or []) for path, pages in documents.select("path", "pages").iter_rows()}


def _joined(one: list[Place], other: list[Place]) -> list[Place]:
    """Return the same documents with the pages of both; a line that names no page means the whole document."""
    return [
        {**mine, "pages": sorted({*mine["pages"], *its["pages"]}) if mine["pages"] and its["pages"] else None}
        for mine, its in zip(one, other, strict=True)
    ]


def _wrong(what: str, where: str) -> UsageError:
    return UsageError(what, where=where, hint=f"a line reads {_EXAMPLE}")


def _registered(line: str, where: str, there: Mapping[str, int | None] | None) -> tuple[Row, bool]:
    """Return a line's row, and whether the line names its id."""
    try:
        value = from_json(line)
    except ValueError as error:
        raise _wrong(f"The line is no JSON: {error}.", where) from None
    if not isinstance(value, dict):
        raise _wrong("The line is no JSON object.", where)
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        near = get_close_matches(unknown[0], _KEYS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        what = f"There is no key {', '.join(map(repr, unknown))}.{meant} The keys of a question are {', '.join(_KEYS)}."
        raise _wrong(what, where)
    question, answers = _typed(value, where)
    places = _places(value, where)
    if there is not None:
        _check_places(places, there, where)
    named = [place["document"] for place in places]
    document = named[0] if named else None
    known = json.dumps([named if len(named) > 1 else document, normalise(question)])
    kind = "unanswerable" if all(map(is_no_answer, answers)) else "fact"
    row = {
        "question_id": value.get("question_id") or f"user-{hashlib.sha256(known.encode()).hexdigest()[:16]}",
        "question": question,
        "answers": answers,
        "document": document,
        "places": places,
        "golden_chunk_ids": [],
        "kind": value.get("kind") or kind,
        "split": "user",
    }
    return row, bool(value.get("question_id"))


def _places(value: Mapping[str, Any], where: str) -> list[Place]:
    """Return the documents that a line names, each with its pages, and each once."""
    documents = value.get("documents")
    if documents is None:
        return [] if value.get("document") is None and value.get("page") is None else [_place(value, where)]
    if value.get("document") is not None or value.get("page") is not None:
        raise _wrong("A line names one document, with its page, or the documents that are needed: not both.", where)
    if not isinstance(documents, list) or not documents:
        raise _wrong("The documents are a list of paths, or of objects with document and page.", where)
    objects = [one if isinstance(one, dict) else {"document": one} for one in documents]
    if unknown := [key for one in objects for key in one if key not in ("document", "page")]:
        raise _wrong(f"There is no key {unknown[0]!r}. The keys of a document are document and page: {_PAGED}.", where)
    places = [_place(one, where) for one in objects]
    named = [place["document"] for place in places]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise _wrong(f"The document {twice} stands twice; its pages are a list: {_PAGED}.", where)
    return places


def _place(value: Mapping[str, Any], where: str) -> Place:
    document, page = value.get("document"), value.get("page")
    listed = page if isinstance(page, list) else [] if page is None else [page]
    pages = [int(one) if isinstance(one, float) and one.is_integer() else one for one in listed]  # 3.0 of a data frame
    if page == [] or any(not isinstance(one, int) or isinstance(one, bool) or one < 1 for one in pages):
        raise _wrong("The value of page is a number from 1 on, or a list of them.", where)
    if document is None and pages:
        raise _wrong("A page is one of a document, and the line names none.", where)
    if not isinstance(document, str):
        raise _wrong("A document is named by its path, a text.", where)
    return {"document": document, "pages": sorted({*pages}) or None}


def _check_places(places: Sequence[Place], there: Mapping[str, int | None], where: str) -> None:
    for place in places:
        document, count = place["document"], there.get(place["document"])
        if document not in there and (records := [name for name in there if name.startswith(f"{document}#")]):
            has = f"{document} is read as {len(records):,} documents, a record each"
            raise _wrong(f"{has}: name that of the answer, {records[0]} (the first) to {records[-1]}.", where)
        if document not in there:
            near = get_close_matches(document, there, n=1, cutoff=0)
            raise _wrong(f"There is no document {document}." + (f" Did you mean {near[0]}?" if near else ""), where)
        wrong = [page for page in place["pages"] or () if count is not None and page > count]
        if wrong and not count:
            raise _wrong(f"{document} has no pages: name the document alone.", where)
        if wrong:
            has = f"pages 1 to {count}" if count != 1 else "one page"
            raise _wrong(f"{document} has no page {', '.join(map(str, wrong))}: it has {has}.", where)


def _typed(value: Mapping[str, Any], where: str) -> tuple[str, list[str]]:
    question, answers = value.get("question"), value.get("answers")
    if not isinstance(question, str) or not question.strip():
        raise _wrong("The line has no question.", where)
    if "answers" not in value:
        raise _wrong("The line has no answers.", where)
    listed = [answers] if isinstance(answers, str) else answers
    if isinstance(listed, list) and any(isinstance(answer, str) and not answer.strip() for answer in listed):
        raise _wrong("An answer is empty; no answers, [], says that the documents do not answer the question.", where)
    if not isinstance(listed, list) or not all(isinstance(answer, str) and answer.strip() for answer in listed):
        raise _wrong("The answers are a list of texts, or one text.", where)
    for key in ("question_id", "kind"):
        if not isinstance(value.get(key), (str, type(None))):
            raise _wrong(f"The value of {key} is a text.", where)
    return question.strip(), listed or [ABSTENTION]
