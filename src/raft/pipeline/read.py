"""Files to documents; personal data and secrets in them are named, replaced or refused before all else sees them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from raft.corpus import documents as corpus
from raft.corpus import pii, readers
from raft.corpus.pii import counted
from raft.curation import user_questions
from raft.errors import RaftError
from raft.settings import Settings
from raft.store import tables
from raft.store.artifacts import Output
from raft.store.run import Run, Step

_NAMED = 1_000
"""Most documents with findings that are named in the manifest; the others are counted."""
_SHOWN = 20
"""Most documents that are named in an error."""


def read_documents(run: Run, settings: Settings, sources: Sequence[corpus.Source]) -> None:
    """Files to `documents.parquet`, looked through; a file that cannot be read is a row that says why.

    Raises:
        RaftError: nothing can be read, or something was found and `privacy.found` is "refuse".
    """
    replace, drop = settings.privacy.found == "redact", settings.chunking.templates == "drop"
    newer = readers.versions(source.path for source in sources)

    def work(step: Step) -> Mapping[str, Output]:
        known = step.previous("documents.parquet", _file_and_digest)
        previous = None if known is None else (lambda name, sha256: known((name, sha256)))
        frames = corpus.read_documents(
            sources, text_field=settings.chunking.text_field, drop_templates=drop, previous=previous
        )
        kept = redacted(frames) if replace else frames
        return {"documents.parquet": noting(kept, partial(note_documents, step.notes))}

    run.step(
        "documents",
        work,
        version=1,
        outputs=["documents.parquet"],
        using={
            "text_field": settings.chunking.text_field,
            **({"redacted": pii.RULES} if replace else {}),
            **({"readers": newer} if newer else {}),
            **({"templates": "drop"} if drop and newer else {}),
        },
        # a package that is missing is named with its file, so that the file is read once the package is there
        given=[[source.name, source.sha256, *filter(None, [readers.missing(source.path)])] for source in sources],
    )
    listed = documents_listed(run)
    if listed.filter(pl.col("error").is_null()).is_empty():
        tried = [f"{row['path']}: {row['error']}" for row in listed.head(10).iter_rows(named=True)]
        raise RaftError(
            "No document of the corpus can be read.",
            where="; ".join(tried),
            hint="pip install 'raft-pipeline[docs]' brings the readers of PDF, DOCX, XLSX and HTML",
        )
    look_through(run, settings)


def documents_listed(run: Run) -> pl.DataFrame:
    """Return all documents of a run without their text."""
    columns = ["doc_id", "path", "title", "format", "characters", "error"]
    return pl.concat(list(run.stream("documents.parquet", columns)))


def redacted(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield frames of `tables.DOCUMENTS` with placeholders for what the rules find in titles and texts."""
    for frame in frames:
        rows = []
        for row in frame.iter_rows(named=True):
            text, pages = pii.cleaned(row["text"] or "", row["pages"] or [])
            title, _ = pii.cleaned(row["title"] or "")
            changed = text != row["text"] or title != row["title"]
            rows.append(
                {**row, "title": title, "text": text, "characters": len(text), "pages": pages} if changed else row
            )
        yield pl.DataFrame(rows, schema=frame.schema)


def look_through(run: Run, settings: Settings) -> None:
    """Note in the manifest what documents, their names and own questions hold: kinds and places, never what was found.

    Raises:
        RaftError: something was found, and `privacy.found` is "refuse".
    """
    mode = settings.privacy.found
    before = run.manifest["steps"].get("privacy", {}).get("notes", {})
    # without a count nobody has looked: what was sent then may have held anything
    held = before.get("in") != 0 or "questions" in before
    sent = "chunks" in run.manifest["steps"] and not before.get("redacted") and held
    questions = _kinds("", _text_of(settings.evaluation)) if mode != "ignore" else {}

    line = run.make(
        "privacy",
        _look_through,
        version=pii.RULES,
        outputs=[],
        inputs=["documents.parquet"],
        using={
            "found": mode if mode in ("ignore", "redact") else "named",
            **({"questions": questions} if questions else {}),
        },
        beside={"sent": mode == "redact" and bool(sent or before.get("sent"))},
    )
    noted = line["notes"]
    places = [(path, kinds) for part in ("documents", "names") for path, kinds in noted.get(part, {}).items()]
    if mode == "refuse" and places:
        shown = [f"{path}: {counted(kinds)}" for path, kinds in places[:_SHOWN]]
        more = max(noted["in"], len(places)) - len(shown)
        raise _refused("documents", [*shown, *([f"and {more:,} more documents"] if more else [])])


def own_questions(settings: Settings, file: Path, documents: pl.DataFrame) -> pl.DataFrame:
    """Read a user's own questions, as `questionfiles.register` does; what is found in them is treated as in documents.

    Raises:
        UsageError: the file is not what it should be.
        RaftError: something was found, and `privacy.found` is "refuse".
    """
    own = user_questions.register(file, documents)
    if settings.privacy.found == "refuse" and (kinds := _kinds("", _text_of(file))):
        raise _refused("questions", [f"{file}: {counted(kinds)}"])
    if settings.privacy.found != "redact":
        return own
    rows = [
        {**row, "question": _clean(row["question"]), "answers": list(map(_clean, row["answers"]))}
        for row in own.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=own.schema)


def _refused(what: str, where: Sequence[str]) -> RaftError:
    return RaftError(
        f"The {what} hold personal data or secrets, and privacy.found is refuse.",
        where="; ".join(where),
        hint=f"take them out of the {what}, or have them replaced: --set privacy.found=redact",
    )


def _clean(text: str) -> str:
    return pii.cleaned(text)[0]


def _text_of(file: Path | None) -> str:
    """Return what a file says; nothing where it cannot be read, which is told where its questions are."""
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace") if file else ""
    except OSError:
        return ""


def _look_through(
    step: Step, *, found: str, sent: bool, questions: Mapping[str, int] | None = None
) -> Mapping[str, Output]:
    if found != "ignore":
        rows = (row for frame in step.run.stream("documents.parquet") for row in frame.iter_rows(named=True))
        step.notes.update(_noted(rows, redacted=found == "redact"))
        step.notes.update({"questions": questions} if questions else {})
    if sent:
        step.notes["sent"] = True
    return {}


def _file_and_digest(table: pl.DataFrame) -> pl.Series:
    named = table.with_columns(path=pl.col("path").str.replace(r"#\d+$", ""))
    return named.select(pl.struct("path", "sha256")).to_series()


def _noted(rows: Iterable[Mapping[str, Any]], *, redacted: bool) -> dict[str, Any]:
    """Count findings (in redacted documents: placeholders) by kind, in all and for each document."""
    total: dict[str, int] = {}
    documents: dict[str, dict[str, int]] = {}
    names: dict[str, dict[str, int]] = {}
    several = 0
    for row in rows:
        # a suffix would make a file's name of an address at its end
        named = _kinds("", "\n".join(PurePosixPath(row["path"]).with_suffix("").parts))
        if named and len(names) < _NAMED:
            names[row["path"]] = named
        kinds = _kinds(row["title"] or "", row["text"] or "", redacted=redacted)
        several += bool(kinds)
        for kind, count in kinds.items():
            total[kind] = total.get(kind, 0) + count
        if kinds and len(documents) < _NAMED:
            documents[row["path"]] = kinds
    ordered = {kind: total[kind] for kind in pii.PLACEHOLDERS if kind in total}
    noted = {"found": ordered, "in": several, "documents": documents, "redacted": redacted}
    return {**noted, **({"names": names} if names else {})}


def _kinds(title: str, text: str, *, redacted: bool = False) -> dict[str, int]:
    counts: Counter[pii.Kind] = Counter()
    # a title is mostly the first heading of the text, where it is counted already
    for part in [text] if title in text else [title, text]:
        counts += pii.placeholders(part) if redacted else Counter(found.kind for found in pii.scan(part))
    return {kind: counts[kind] for kind in pii.PLACEHOLDERS if kind in counts}


Notes = dict[str, Any]


def counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    """Return how often each value of a column occurs, most frequent first; null is not counted."""
    present = table.filter(pl.col(column).is_not_null())
    return dict(present.group_by(column).len().sort("len", column, descending=[True, False]).iter_rows())


def noting(frames: Iterable[pl.DataFrame], note: Callable[[pl.DataFrame], None]) -> Iterator[pl.DataFrame]:
    """Yield the frames, each after `note` has seen it."""
    for frame in frames:
        note(frame)
        yield frame


def note_documents(notes: Notes, frame: pl.DataFrame) -> None:
    """Count characters, and list what could not be read."""
    notes["characters"] = notes.get("characters", 0) + int(frame["characters"].sum() or 0)
    notes.setdefault("unreadable", []).extend(
        [row["path"], row["error"]] for row in frame.filter(pl.col("error").is_not_null()).iter_rows(named=True)
    )


def note_chunks(notes: Notes, frame: pl.DataFrame) -> None:
    """Count tokens and boilerplate."""
    notes["tokens"] = notes.get("tokens", 0) + int(frame["tokens"].sum() or 0)
    notes["boilerplate"] = notes.get("boilerplate", 0) + int(frame["boilerplate"].sum() or 0)


def note_questions(notes: Notes, frame: pl.DataFrame) -> None:
    """Count questions by kind."""
    kinds = notes.setdefault("kinds", {})
    for kind, count in sorted(Counter(frame["kind"].to_list()).items()):
        kinds[kind] = kinds.get(kind, 0) + count


def failures_frame(failures: list[dict[str, Any]], notes: Notes) -> Iterator[pl.DataFrame]:
    """Yield the failures as one frame, and count them by kind.

    It is lazy, and read after the questions: only then is the list complete.
    """
    notes["failures"] = {}
    for row in failures:
        notes["failures"][row["kind"]] = notes["failures"].get(row["kind"], 0) + 1
    yield tables.frame(tables.FAILURES, failures)
