"""From files to documents, from documents to chunks with provenance; memory holds one file at a time."""

import hashlib
import os
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

import polars as pl

from raft.corpus.blocks import is_boilerplate
from raft.corpus.chunking import cut
from raft.corpus.readers import Reading, format_of, read
from raft.errors import RaftError, UsageError
from raft.protocols import Tokenizer
from raft.store import tables


@dataclass(frozen=True)
class Source:
    """A file of the corpus.

    Attributes:
        path: where it is.
        name: its path relative to the corpus, with `/` between the parts.
        sha256: digest of its bytes; empty when they cannot be read.
    """

    path: Path
    name: str
    sha256: str


def find_sources(corpus: Sequence[str]) -> tuple[list[Source], list[tuple[str, str]]]:
    """Find the files of a corpus.

    A file's name is its path relative to the folder given, or to the fixed beginning of a glob; a file given by
    itself is named as it is. With more than one entry, each name begins with its folder's name.

    Args:
        corpus: files, folders (with all that is in them) and globs such as `docs/**/*.md`.

    Returns:
        The files that have a reader, sorted by name, and (name, reason) for each one left out: hidden ones, links
        that lead out of the corpus, and formats without a reader.

    Raises:
        UsageError: an entry does not exist, or nothing was found that can be read.
    """
    skipped: list[tuple[str, str]] = []
    entries = [_entry(text) for text in corpus]
    labels = _labels([root for root, _, _ in entries]) if len(entries) > 1 else {}
    sources: dict[Path, Source] = {}
    for root, starts, alone in entries:
        prefix = labels[root] + "/" if labels else ""
        for start in starts:
            for path in [start] if alone else _walk(start, root, prefix, skipped):
                name, real = _name(path, root, prefix), path.resolve()
                if format_of(path) is None:
                    skipped.append((name, f"there is no reader for {path.suffix or 'files without a suffix'}"))
                elif real in sources:
                    skipped.append((name, f"it is {sources[real].name}, which is in the corpus already"))
                else:
                    sources[real] = Source(path, name, _file_sha256(path))
    if not sources:
        tried = ", ".join(corpus) or "nothing: no corpus is given"
        left_out = "".join(f" Left out: {name} ({reason})." for name, reason in skipped[:3])
        raise UsageError(
            f"There are no documents in the corpus (tried: {tried}).{left_out}",
            where="corpus",
            hint="name files, folders or globs with md, txt, html, pdf, docx, xlsx, csv, json, jsonl or yaml files",
        )
    return sorted(sources.values(), key=lambda source: source.name), sorted(set(skipped))


def doc_id(name: str) -> str:
    """Return the id of a document from its name: a file's, or `file.jsonl#3` for a record of one."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def document_sha256(title: str, format: str, text: str) -> str:
    """Return the digest of all that decides how a document is cut."""
    return hashlib.sha256("\0".join((title, format, text)).encode()).hexdigest()


def read_documents(
    sources: Iterable[Source],
    *,
    text_field: str,
    drop_templates: bool = False,
    previous: Callable[[str, str], pl.DataFrame | None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield one frame of `tables.DOCUMENTS` for each file, in order; a file that cannot be read is a row that says why.

    Args:
        sources: the files.
        text_field: the field of JSON records that holds a document's text.
        drop_templates: leave template syntax out of Markdown and HTML.
        previous: asked first, with a file's name and sha256, for the rows read from the same bytes before; a file of
            which something could not be read then is read again.
    """
    for source in sources:
        rows = previous(source.name, source.sha256) if previous and source.sha256 else None
        if rows is None or rows["error"].count():
            rows = _document_rows(source, text_field, drop_templates)
        yield rows


def chunk_documents(
    documents: Iterable[pl.DataFrame],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    overlap: int,
    max_tokens: int,
    repeated: Collection[int] = frozenset(),
    previous: Callable[[str, str], pl.DataFrame | None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield one frame of `tables.CHUNKS` for each document that has no error, in order.

    Args:
        documents: frames of `tables.DOCUMENTS`.
        tokenizer: the embedder's.
        tokens: about how long a chunk is, heading included.
        overlap: at most so many tokens are repeated from the chunk before.
        max_tokens: the most tokens that the embedder takes.
        repeated: what `boilerplate.repeated_lines` found; a chunk that is half or more of such lines is boilerplate.
        previous: asked first, with a doc_id and its `document_sha256`, for the rows cut from the same text in the
            same way; only `boilerplate` is computed afresh for them.
    """
    words: dict[str, int] = {}
    for frame in documents:
        for row in frame.filter(pl.col("error").is_null()).iter_rows(named=True):
            digest = document_sha256(row["title"], row["format"], row["text"])
            chunks = previous(row["doc_id"], digest) if previous else None
            if chunks is None:
                spans = cut(
                    row["text"],
                    title=row["title"],
                    format=row["format"],
                    tokenizer=tokenizer,
                    tokens=tokens,
                    overlap=overlap,
                    max_tokens=max_tokens,
                    words=words,
                )
                chunks = _chunk_rows(row, digest, spans)
            flags = [is_boilerplate(text, repeated) for text in chunks["text"]]
            yield chunks.with_columns(pl.Series("boilerplate", flags, pl.Boolean))


def _entry(text: str) -> tuple[Path, list[Path], bool]:
    """Return the folder that an entry's names are relative to, where to look, and whether that is one named file."""
    path = Path(text).expanduser()
    if path.exists():
        return (path, [path], False) if path.is_dir() else (path.parent, [path], True)
    if has_magic(text):
        fixed = path.parts[: next(number for number, part in enumerate(path.parts) if has_magic(part))]
        root = Path(*fixed)
        pattern = str(path.relative_to(root)) if fixed else str(path)
        if root.is_dir():
            matches = sorted(root.glob(pattern))
            return root, [match for match in matches if match.is_file()] or matches, False
        path = root
    raise UsageError(
        f"There is no {path}.",
        where=f"corpus: {text}",
        hint="give a file, a folder, or a glob in quotes such as 'docs/**/*.md'",
    )


def _labels(roots: Iterable[Path]) -> dict[Path, str]:
    """Return for each folder as much of its path's end as tells it from the others."""
    real = {root: root.resolve() for root in roots}
    depth = 1
    while True:
        labels = {root: "/".join(path.parts[1:][-depth:]) for root, path in real.items()}
        if len(set(labels.values())) == len(set(real.values())) or depth > max(len(p.parts) for p in real.values()):
            return labels
        depth += 1


def _walk(start: Path, root: Path, prefix: str, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield the files at or below `start`; what is not followed goes to `skipped`."""
    if not start.is_dir():
        if not _unfit(start, root, prefix, skipped):
            yield start
        return

    def cannot(error: OSError) -> None:
        skipped.append((_name(Path(error.filename), root, prefix), f"the folder cannot be opened: {error.strerror}"))

    for folder, folders, files in os.walk(start, onerror=cannot):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not _unfit(here / name, root, prefix, skipped))
        yield from (here / name for name in sorted(files) if not _unfit(here / name, root, prefix, skipped))


def _unfit(path: Path, root: Path, prefix: str, skipped: list[tuple[str, str]]) -> bool:
    reason = None
    if any(part.startswith((".", "~$")) for part in path.relative_to(root).parts):
        reason = "it is hidden"
    elif path.is_symlink() and path.is_dir():
        reason = "it is a link to a folder"
    elif not path.resolve().is_relative_to(root.resolve()):
        reason = "it is a link that leads out of the corpus"
    if reason:
        skipped.append((_name(path, root, prefix), reason))
    return reason is not None


def _name(path: Path, root: Path, prefix: str) -> str:
    relative = path.relative_to(root).as_posix() if path != root else path.name
    readable = os.fsencode(prefix + relative).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", readable)


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _document_rows(source: Source, text_field: str, drop_templates: bool) -> pl.DataFrame:
    kind = format_of(source.path) or ""
    try:
        readings = read(source.path, text_field=text_field, drop_templates=drop_templates)
    except RaftError as error:
        reason = error.what + (f" {error.hint}" if error.hint else "")
        readings = [Reading(source.path.stem, "", kind, error=reason)]
    rows = []
    for reading in readings:
        name = source.name if reading.record is None else f"{source.name}#{reading.record}"
        rows.append(
            {
                "doc_id": doc_id(name),
                "path": name,
                "title": reading.title,
                "format": reading.format,
                "sha256": source.sha256,
                "characters": len(reading.text),
                "text": reading.text,
                "pages": list(reading.pages),
                "error": reading.error,
            }
        )
    return tables.frame(tables.DOCUMENTS, rows)


def _chunk_rows(document: dict[str, object], digest: str, spans: Sequence[tuple[int, int, str, int]]) -> pl.DataFrame:
    identity, text, pages = str(document["doc_id"]), str(document["text"]), document["pages"]
    starts = list(pages) if isinstance(pages, list) else []
    seen: Counter[str] = Counter()
    rows = []
    for position, (start, end, heading, tokens) in enumerate(spans):
        part = text[start:end]
        chunk_id = hashlib.sha256("\0".join((identity, part, str(seen[part]))).encode()).hexdigest()[:16]
        seen[part] += 1
        rows.append(
            {
                "chunk_id": chunk_id,
                "doc_id": identity,
                "position": position,
                "start": start,
                "end": end,
                "page": max(1, bisect_right(starts, start)) if starts else None,
                "heading": heading,
                "text": part,
                "tokens": tokens,
                "boilerplate": False,
                "document_sha256": digest,
            }
        )
    return tables.frame(tables.CHUNKS, rows)
