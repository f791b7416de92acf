"""Readers: one document format a file; each turns a file into text, or says in one sentence why it cannot.

A file that cannot be read is never a traceback: whatever the parser of a format raises becomes `Unreadable`. Work is
bounded: files have a largest size, archives are inflated within limits before a library sees them, and
`corpus.reading` gives each file a time and all a memory.
"""

import importlib
import importlib.util
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from raft.errors import MissingExtra, RaftError
from raft.text import whole

MEGABYTE = 1_000_000
MAX_FILE = 256 * MEGABYTE
MAX_INFLATED = 200 * MEGABYTE
MAX_RATIO = 200


class _Format(NamedTuple):
    module: str
    suffixes: str
    packages: tuple[str, ...] = ()
    largest: int | None = None
    seconds: int = 60
    version: int | None = None
    """Set where the reader once made something else of the same bytes."""


_FORMATS = {
    "md": _Format("text", ".md .markdown", version=2),
    "txt": _Format("text", ".txt .text"),
    "rst": _Format("text", ".rst"),
    "html": _Format("html", ".html .htm .xhtml", ("markdownify", "bs4"), largest=32 * MEGABYTE, version=2),
    "pdf": _Format("pdf", ".pdf", ("pypdf",), seconds=300),
    "docx": _Format("docx", ".docx", ("mammoth", "markdownify", "bs4")),
    "xlsx": _Format("sheets", ".xlsx .xlsm", ("fastexcel",)),
    "csv": _Format("sheets", ".csv"),
    "tsv": _Format("sheets", ".tsv"),
    "json": _Format("records", ".json"),
    "jsonl": _Format("records", ".jsonl .ndjson"),
    "yaml": _Format("records", ".yaml .yml", largest=32 * MEGABYTE),
}
SUFFIXES = {suffix: kind for kind, its in _FORMATS.items() for suffix in its.suffixes.split()}
"""File suffixes that can be read, and the format each stands for."""

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Reading:
    """One document as it was read.

    Attributes:
        title: what the document calls itself, else its file's name without the suffix.
        text: never empty unless there is an error.
        format: a value of `SUFFIXES`.
        pages: the offset in `text` at which each page starts; empty when the format has no pages.
        record: 0-based number of the record in a file of many records, else None.
        error: why this record could not be read, in one sentence.
    """

    title: str
    text: str
    format: str
    pages: tuple[int, ...] = ()
    record: int | None = None
    error: str | None = None


class Unreadable(RaftError):
    """A file has no text that could be read; `what` says why in one short sentence."""


def read(path: Path, *, text_field: str, drop_templates: bool = False) -> list[Reading]:
    """Read the documents in a file: one, or one a record of JSON (its text stands in `text_field`).

    `drop_templates` leaves template syntax (`{{ }}`, `{% %}`) out of Markdown and HTML.

    Raises:
        Unreadable: the file is empty, binary, damaged, protected, too large, or without any text.
        MissingExtra: the package that reads this format is not installed.
        MemoryError: reading takes more memory than the process may have.
    """
    kind = format_of(path)
    if kind is None:
        raise Unreadable(f"There is no reader for {path.suffix or 'files without a suffix'}.")
    its = _FORMATS[kind]
    reader = importlib.import_module(f"raft.corpus.readers.{its.module}")
    try:
        state, limit = path.stat(), its.largest or MAX_FILE
        size = state.st_size
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable("It is not a file but a pipe, a device or the like.")
        if size == 0:
            raise Unreadable("The file is empty.")
        if size > limit:
            raise Unreadable(f"The file is too large: {size // MEGABYTE} MB; the most is {limit // MEGABYTE}.")
        readings: list[Reading] = reader.read(path, kind=kind, text_field=text_field, drop_templates=drop_templates)
    except (RaftError, MemoryError):
        raise
    except OSError as error:
        if error.strerror is None:  # a parser's own
            raise Unreadable(f"The file is damaged: {_sentence(error)}") from error
        raise Unreadable(f"The file cannot be opened: {error.strerror}.") from error
    except RecursionError as error:
        raise Unreadable("The file is nested too deeply.") from error
    except Exception as error:  # a parser's own failure, whatever it is, is this file's and not the program's
        raise Unreadable(f"The file is damaged: {_sentence(error)}") from error
    readings = [reading for reading in readings if reading.error or reading.text.strip()]
    if not readings:
        raise Unreadable("There is no text in it.")
    return [
        replace(reading, text=whole(reading.text), title=" ".join(clean(whole(reading.title)).split()))
        for reading in readings
    ]


def unread(path: Path, why: str) -> Reading:
    """Return what stands for a file that cannot be read."""
    return Reading(whole(path.stem), "", format_of(path) or "", error=whole(why))


def format_of(path: Path) -> str | None:
    """Return the format that a file's suffix stands for, or None when there is no reader for it."""
    return SUFFIXES.get(path.suffix.lower())


def seconds_for(path: Path) -> int:
    """Return the longest time in seconds that reading a file may take: its format's, and ten for each megabyte."""
    kind = format_of(path)
    with suppress(OSError):
        return (_FORMATS[kind].seconds if kind else 0) + 10 * path.stat().st_size // MEGABYTE
    return 60


def missing(path: Path) -> str | None:
    """Return the package without which a file cannot be read and that is not installed, or None."""
    kind = format_of(path)
    needed = _FORMATS[kind].packages if kind else ()
    return next((package for package in needed if importlib.util.find_spec(package) is None), None)


def versions(paths: Iterable[Path]) -> dict[str, int]:
    """Return by format the versions of the readers that these files need, without those that are the first."""
    kinds = sorted({kind for kind in map(format_of, paths) if kind})
    return {kind: version for kind in kinds if (version := _FORMATS[kind].version)}


def require(package: str, *, why: str) -> ModuleType:
    """Import an optional package or raise `MissingExtra`; `why` ends "The package x is needed ..."."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, extra="docs", why=why) from None


def decode(data: bytes) -> str:
    r"""Return the text of a text file, lines ended by `\n`, without a byte order mark.

    UTF-8 and, with a byte order mark, UTF-16; Windows-1252 when the result looks like text. Else it is `Unreadable`.
    """
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in data and not utf16:
        raise Unreadable("It is not a text file: it holds zero bytes.")
    # Any bytes pass as Windows-1252; in text of a western language few of them lie beyond ASCII.
    western = not utf16 and sum(map(len, re.findall(rb"[\x80-\xff]+", data))) <= 0.3 * len(data)
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252") if western else ("utf-8-sig",):
        with suppress(UnicodeDecodeError):
            return clean(data.decode(encoding), binary=True)
    raise Unreadable("It is not a text file: neither UTF-8, UTF-16 nor Windows-1252.")


def clean(text: str, *, binary: bool = False) -> str:
    r"""Return `text` with lines ended by `\n`, and without control characters and halves of characters.

    With `binary` more than one control character in a thousand is `Unreadable`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, controls = _CONTROL.subn(" ", text)
    if binary and controls * 1000 > len(text):
        raise Unreadable("It is not a text file: it is full of control characters.")
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\ufeff", ""))


def check_archive(path: Path) -> None:
    """Raise `Unreadable` unless a zip archive inflates within limits, whatever sizes it states; nothing is kept."""
    try:
        with zipfile.ZipFile(path) as archive:
            limit = min(MAX_INFLATED, max(10 * MEGABYTE, MAX_RATIO * path.stat().st_size))
            for member in archive.infolist():
                if member.flag_bits & 1:
                    raise Unreadable("The file is protected by a password.")
                with archive.open(member) as stream:
                    while block := stream.read(1 << 20):
                        limit -= len(block)
                        if limit < 0:
                            raise Unreadable("The file inflates to far more than a document does (a zip bomb?).")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise Unreadable(f"The file is damaged: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    words = " ".join(clean(str(error)).split())
    words = words if len(words) <= 200 else words[:200] + "…"
    return f"{type(error).__name__}: {words}".rstrip(": .") + "."
