"""Files to documents; personal data and secrets in them are named, replaced or refused before all else sees them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from raft import notes, privacy, readers
from raft.artifacts import Output
from raft.errors import RaftError
from raft.privacy import counted
from raft.run import Run, Step
from raft.settings import Settings
from raft.stages import corpus

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
        return {"documents.parquet": notes.noting(kept, partial(notes.documents, step.notes))}

    run.step(
        "documents",
        work,
        version=1,
        outputs=["documents.parquet"],
        using={
            "text_field": settings.chunking.text_field,
            **({"redacted": privacy.RULES} if replace else {}),
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
            text, pages = privacy.cleaned(row["text"] or "", row["pages"] or [])
            title, _ = privacy.cleaned(row["title"] or "")
            changed = text != row["text"] or title != row["title"]
            rows.append(
                {**row, "title": title, "text": text, "characters": len(text), "pages": pages} if changed else row
            )
        yield pl.DataFrame(rows, schema=frame.schema)


def look_through(run: Run, settings: Settings) -> None:
    """Note in the manifest what the documents hold: kinds and documents, never the text that was found.

    Raises:
        RaftError: something was found, and `privacy.found` is "refuse".
    """
    mode = settings.privacy.found
    line = run.make(
        "privacy",
        _look_through,
        version=privacy.RULES,
        outputs=[],
        inputs=["documents.parquet"],
        using={"found": mode if mode in ("ignore", "redact") else "named"},
    )
    documents = line["notes"].get("documents")
    if mode == "refuse" and documents:
        shown = [f"{path}: {counted(kinds)}" for path, kinds in list(documents.items())[:_SHOWN]]
        more = line["notes"]["in"] - len(shown)
        raise RaftError(
            "The documents hold personal data or secrets, and privacy.found is refuse.",
            where="; ".join([*shown, *([f"and {more:,} more documents"] if more else [])]),
            hint="take them out of the documents, or have them replaced: --set privacy.found=redact",
        )


def _look_through(step: Step, *, found: str) -> Mapping[str, Output]:
    if found != "ignore":
        rows = (row for frame in step.run.stream("documents.parquet") for row in frame.iter_rows(named=True))
        step.notes.update(_noted(rows, redacted=found == "redact"))
    return {}


def _file_and_digest(table: pl.DataFrame) -> pl.Series:
    named = table.with_columns(path=pl.col("path").str.replace(r"#\d+$", ""))
    return named.select(pl.struct("path", "sha256")).to_series()


def _noted(rows: Iterable[Mapping[str, Any]], *, redacted: bool) -> dict[str, Any]:
    """Count findings (in redacted documents: placeholders) by kind, in all and for each document."""
    total: dict[str, int] = {}
    documents: dict[str, dict[str, int]] = {}
    several = 0
    for row in rows:
        kinds = _kinds(row["title"] or "", row["text"] or "", redacted=redacted)
        several += bool(kinds)
        for kind, count in kinds.items():
            total[kind] = total.get(kind, 0) + count
        if kinds and len(documents) < _NAMED:
            documents[row["path"]] = kinds
    ordered = {kind: total[kind] for kind in privacy.PLACEHOLDERS if kind in total}
    return {"found": ordered, "in": several, "documents": documents, "redacted": redacted}


def _kinds(title: str, text: str, *, redacted: bool) -> dict[str, int]:
    counts: Counter[privacy.Kind] = Counter()
    # a title is mostly the first heading of the text, where it is counted already
    for part in [text] if title in text else [title, text]:
        counts += privacy.placeholders(part) if redacted else Counter(found.kind for found in privacy.scan(part))
    return {kind: counts[kind] for kind in privacy.PLACEHOLDERS if kind in counts}
