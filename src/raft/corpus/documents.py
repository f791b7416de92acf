"""From files to documents; memory holds one file at a time."""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import has_magic
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from raft.corpus.readers import MAX_FILE, SUFFIXES, Reading, ReadingProcess, format_of
from raft.errors import UsageError, place
from raft.protocols import Workers, in_order
from raft.store import tables
from raft.store.folders import is_ours


@dataclass(frozen=True)
class Source:
    """A file of the corpus, by its path relative to it (`/` between the parts); `sha256` is "" if it can't be read."""

    path: Path
    name: str
    sha256: str


def find_sources(
    corpus: Sequence[str], *, besides: Mapping[Path, str] | None = None
) -> tuple[list[Source], list[tuple[str, str]]]:
    """Return the files of a corpus that have a reader, sorted by name, and (name, reason) for each one left out.

    Folders that raft made are left out, and what is named in `besides` (by its real path, with what it is).

    A corpus is files, folders and globs such as `docs/**/*.md`. A file's name is its path relative to the folder given,
    or to the fixed beginning of a glob; a file given by itself is named as it is. With more than one entry, each name
    begins with its folder's name.

    Raises:
        UsageError: an entry does not exist, or nothing was found that can be read.
    """
    skipped: list[tuple[str, str]] = []
    entries = [_entry(text) for text in corpus]
    labels = _labels([root for root, _, _ in entries]) if len(entries) > 1 else {}
    sources: dict[Path, Source] = {}
    spelled: dict[Path, str] = {}
    for root, starts, alone in entries:
        prefix = labels[root] + "/" if labels else ""
        for start in starts:
            walked = [(start, _real(start))] if alone else _walk(start, root, prefix, skipped, besides or {})
            for path, real in walked:
                name = _name(path, root, prefix)
                if format_of(path) is None:
                    skipped.append(
                        (name, f"there is no reader for {_readable(path.suffix) or 'files without a suffix'}")
                    )
                elif _is_ratings(path):
                    skipped.append((name, "it is what experts chose in a blind comparison"))
                elif real in sources:
                    skipped.append((name, f"it is {sources[real].name}, which is in the corpus already"))
                else:
                    sources[real] = Source(path, name, _file_sha256(path))
                    spelled[real] = _readable(prefix + _below(path, root), "utf-8")
    names = Counter(source.name for source in sources.values())
    for real, source in sources.items():
        if names[source.name] > 1:  # é and e with an accent: two files, which each keep their own spelling
            sources[real] = replace(source, name=spelled[real])
    if not sources:
        tried = ", ".join(corpus) or "nothing: no corpus is given"
        left_out = "".join(f" Left out: {name} ({reason})." for name, reason in skipped[:3])
        raise UsageError(
            f"There are no documents in the corpus (tried: {tried}).{left_out}",
            where="corpus",
            hint=f"name files, folders or globs with {', '.join(dict.fromkeys(SUFFIXES.values()))} files",
        )
    return sorted(sources.values(), key=lambda source: source.name), sorted(set(skipped))


def doc_id(name: str) -> str:
    """Return the id of a document from its name: a file's, or `file.jsonl#3` for a record of one."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def read_documents(
    sources: Iterable[Source],
    *,
    text_field: str,
    drop_templates: bool = False,
    previous: Callable[[str, str], pl.DataFrame | None] | None = None,
    left_out: dict[str, dict[str, int]] | None = None,
    workers: Workers | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield one frame of `tables.DOCUMENTS` for each file, in order; a file that cannot be read is a row that says why.

    `previous` returns for a file's name and sha256 the rows read from the same bytes before; where they hold an error
    the file is read again. `left_out` holds by a file's name what was left out of it, and learns so of those that are
    read. With `workers`, some files are read there at a time, and so many are in memory. For the others see
    `readers.read`.
    """
    told = {} if left_out is None else left_out
    process = ReadingProcess()

    def begin(source: Source) -> Callable[[], pl.DataFrame]:
        rows = previous(source.name, source.sha256) if previous and source.sha256 else None
        if rows is not None and not rows["error"].count():
            return lambda: rows
        how = (text_field, drop_templates)
        data = _sendable(source.path) if workers else None
        if workers and data is not None:
            reading = workers.begin(_read_there, os.fsencode(source.path.name), data, *how)
        else:
            reading = partial(process.read, source.path, text_field=text_field, drop_templates=drop_templates)
        return lambda: _noted(source, reading(), told)

    try:
        yield from in_order(map(begin, sources), workers.ahead if workers else 0)
    finally:
        process.close()


def _noted(source: Source, readings: Sequence[Reading], told: dict[str, dict[str, int]]) -> pl.DataFrame:
    counts = sum((Counter(reading.left_out) for reading in readings), Counter[str]())
    told.pop(source.name, None)
    told.update({source.name: dict(counts)} if counts else {})
    return _document_rows(source, readings)


def _sendable(path: Path) -> bytes | None:
    """Return a file's bytes, to be read elsewhere; None where what is wrong with it has to be told from here."""
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_FILE else None
    except OSError:
        return None


_THERE = ReadingProcess()
"""The one of a worker; it ends with it."""


def _read_there(name: bytes, data: bytes, text_field: str, drop_templates: bool, _: None) -> list[Reading]:
    with TemporaryDirectory(prefix="raft-reading-") as folder:
        path = Path(folder) / os.fsdecode(name)
        path.write_bytes(data)
        return _THERE.read(path, text_field=text_field, drop_templates=drop_templates)


def _entry(text: str) -> tuple[Path, list[Path], bool]:
    """Return the folder that an entry's names are relative to, where to look, and whether that is one named file."""
    path = place(text, "corpus")
    try:
        there = path.exists()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be opened: {error.strerror}.", where=f"corpus: {text}", hint=f'ls -ld "{path.parent}"'
        ) from error
    if there:
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


def _walk(
    start: Path, root: Path, prefix: str, skipped: list[tuple[str, str]], besides: Mapping[Path, str]
) -> Iterator[tuple[Path, Path]]:
    """Yield the files at or below `start`, each with its real path; what is not followed goes to `skipped`."""
    inside = _real(root)  # looked for once, as each file's is: of very many files that is most of the time

    def skip(path: str | Path, reason: str) -> None:
        skipped.append((_name(Path(path), root, prefix), reason))

    def fitting(paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
        for path in paths:
            try:
                real = _real(path)
                reason = _unfit(path, real, root, inside, besides)
            except OSError as error:
                reason = f"it cannot be opened: {error.strerror}"
            if reason:
                skip(path, reason)
            else:
                yield path, real

    if not start.is_dir() or not [*fitting([start])]:
        yield from fitting([] if start.is_dir() else [start])
        return
    for folder, folders, files in os.walk(
        start, onerror=lambda error: skip(error.filename, f"the folder cannot be opened: {error.strerror}")
    ):
        here = Path(folder)
        folders[:] = [path.name for path, _ in fitting(here / name for name in sorted(folders))]
        yield from fitting(here / name for name in sorted(files))


def _unfit(path: Path, real: Path, root: Path, inside: Path, besides: Mapping[Path, str]) -> str | None:
    if what := besides.get(real):
        return f"it is {what}"
    if path.is_dir() and is_ours(path):
        return "raft made it"
    if any(part.startswith((".", "~$")) for part in path.relative_to(root).parts):
        return "it is hidden"
    if path.is_symlink() and path.is_dir():
        return "it is a link to a folder"
    return None if real.is_relative_to(inside) else "it is a link that leads out of the corpus"


def _name(path: Path, root: Path, prefix: str) -> str:
    return unicodedata.normalize("NFC", _readable(prefix + _below(path, root)))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _is_ratings(path: Path) -> bool:
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(2000))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and {"pair_id", "choice"} <= first.keys()


def _readable(name: str, encoding: str = "") -> str:
    # a byte \xff is told from the four characters where both are there: as \udcff, which is its other spelling
    data = name.encode(encoding, "backslashreplace") if encoding else os.fsencode(name)
    return data.decode("utf-8", "backslashreplace").translate(_LINES)


_LINES = {ord(sign): repr(sign)[1:-1] for sign in "\n\r\t"}
"""Signs in a name that would end its line where it is shown."""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # which a link to itself does not stop


def _file_sha256(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would be waited for
            return ""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _document_rows(source: Source, readings: Iterable[Reading]) -> pl.DataFrame:
    rows = []
    for reading in readings:
        name = source.name if reading.record is None else f"{source.name}#{reading.record}"
        of_file = {"doc_id": doc_id(name), "path": name, "sha256": source.sha256}
        rows.append({**vars(reading), **of_file, "characters": len(reading.text), "pages": list(reading.pages)})
    return tables.frame(tables.DOCUMENTS, rows)
