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
_KEYS = ("question", "answers", "document", "question_id", "kind")
Row = dict[str, Any]


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
    as in documents.parquet), `question_id` and `kind`. No answers, or the abstention alone, mean that the corpus does
    not answer the question. Where a question without an id stands in several lines, the answers of all of them count.
    Without `documents` nothing is said of those that are named: they have not been read yet.

    Raises:
        UsageError: the file is missing, empty or no JSONL; a key is missing or unknown; a value has the wrong type; a
            document is unknown; a question_id stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UsageError("There is no such file of questions.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"The file of evaluation questions cannot be read: {error}.", str(path)) from None
    paths = None if documents is None else frozenset(documents["path"].to_list())
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            row, named = _registered(line, where, paths)
            first = rows.setdefault(row["question_id"], row)
            if first is row:
                continue
            if named:
                raise _wrong(f"The question_id {row['question_id']} stands twice.", where)
            if first["kind"] != row["kind"] and "unanswerable" in (first["kind"], row["kind"]):
                raise _wrong("The question stands twice, with an answer and without one.", where)
            first["answers"] = [*dict.fromkeys([*first["answers"], *row["answers"]])]
    if not rows:
        raise _wrong("The file holds no questions.", str(path))
    return tables.frame(tables.EVALUATION, rows.values())


def _wrong(what: str, where: str) -> UsageError:
    return UsageError(what, where=where, hint=f"a line reads {_EXAMPLE}")


def _registered(line: str, where: str, paths: frozenset[str] | None) -> tuple[Row, bool]:
    """Return a line's row, and whether the line names its id."""
    try:
        value = from_json(line)
    except ValueError as error:
        raise _wrong(f"The line is no JSON: {error}.", where) from None
    if not isinstance(value, dict):
        raise _wrong("The line is no JSON object.", where)
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        raise _wrong(f"The keys of a question are {', '.join(_KEYS)}; {', '.join(unknown)} is none.", where)
    question, answers, document = _typed(value, where)
    if document is not None and paths is not None and document not in paths:
        near = get_close_matches(document, paths, n=1, cutoff=0)
        raise _wrong(f"There is no document {document}." + (f" Did you mean {near[0]}?" if near else ""), where)
    known = hashlib.sha256(json.dumps([document, normalise(question)]).encode()).hexdigest()[:16]
    kind = "unanswerable" if all(map(is_no_answer, answers)) else "fact"
    row = {
        "question_id": value.get("question_id") or f"user-{known}",
        "question": question,
        "answers": answers,
        "document": document,
        "golden_chunk_ids": [],
        "kind": value.get("kind") or kind,
        "split": "user",
    }
    return row, bool(value.get("question_id"))


def _typed(value: Mapping[str, Any], where: str) -> tuple[str, list[str], str | None]:
    question, answers, document = value.get("question"), value.get("answers"), value.get("document")
    if not isinstance(question, str) or not question.strip():
        raise _wrong("The line has no question.", where)
    if "answers" not in value:
        raise _wrong("The line has no answers.", where)
    listed = [answers] if isinstance(answers, str) else answers
    if isinstance(listed, list) and any(isinstance(answer, str) and not answer.strip() for answer in listed):
        raise _wrong("An answer is empty; no answers, [], says that the documents do not answer the question.", where)
    if not isinstance(listed, list) or not all(isinstance(answer, str) and answer.strip() for answer in listed):
        raise _wrong("The answers are a list of texts, or one text.", where)
    for key in ("document", "question_id", "kind"):
        if not isinstance(value.get(key), (str, type(None))):
            raise _wrong(f"The value of {key} is a text.", where)
    return question.strip(), listed or [ABSTENTION], document
