"""Readers: one document format a file; each turns a file into text, or says in one sentence why it cannot.

A file that cannot be read is never a traceback: whatever the parser of a format raises becomes `Unreadable`. Work is
bounded: files have a largest size, archives are inflated within limits before a library sees them.
"""

import importlib
import importlib.util
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from raft.errors import MissingExtra, RaftError

MEGABYTE = 1_000_000
MAX_FILE = 256 * MEGABYTE
MAX_INFLATED = 200 * MEGABYTE
MAX_RATIO = 200

SUFFIXES = {
    ".md": "md",
    ".markdown": "md",
    ".txt": "txt",
    ".text": "txt",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".yaml": "yaml",
    ".yml": "yaml",
}
"""File suffixes that can be read, and the format each stands for."""

_MODULES = {
    "md": "text",
    "txt": "text",
    "rst": "text",
    "html": "html",
    "pdf": "pdf",
    "docx": "docx",
    "xlsx": "sheets",
    "csv": "sheets",
    "tsv": "sheets",
    "json": "records",
    "jsonl": "records",
    "yaml": "yaml",
}
_NEEDED = {
    "html": ("markdownify", "bs4"),
    "pdf": ("pypdf",),
    "docx": ("mammoth", "markdownify", "bs4"),
    "xlsx": ("fastexcel",),
}
_VERSIONS = {"md": 2, "html": 2}
"""Of readers that once made something else of the same bytes."""
_LARGEST = {"html": 32 * MEGABYTE, "yaml": 32 * MEGABYTE}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Reading:
    """One document as it was read.

    Attributes:
        title: what the document calls itself, else its file's name without the suffix.
        text: what it says; never empty unless there is an error.
        format: "md", "html", "pdf", ... (a value of `SUFFIXES`).
        pages: the offset in `text` at which each page starts; empty when the format has no pages.
        record: 0-based number of the record in a file of many records, else None.
        error: why this record could not be read, in one sentence; None when it was.
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
    """Read the documents in a file: one, or one a record of JSON.

    Args:
        path: the file; its suffix names the format.
        text_field: the field of JSON records that holds a document's text.
        drop_templates: leave template syntax (`{{ }}`, `{% %}`) out of Markdown and HTML.

    Raises:
        Unreadable: the file is empty, binary, damaged, protected, too large, or without any text.
        MissingExtra: the package that reads this format is not installed.
    """
    kind = format_of(path)
    if kind is None:
        raise Unreadable(f"There is no reader for {path.suffix or 'files without a suffix'}.")
    reader = importlib.import_module(f"raft.corpus.readers.{_MODULES[kind]}")
    try:
        size, limit = path.stat().st_size, _LARGEST.get(kind, MAX_FILE)
        if size == 0:
            raise Unreadable("The file is empty.")
        if size > limit:
            raise Unreadable(f"The file is too large: {size // MEGABYTE} MB; the most is {limit // MEGABYTE}.")
        readings: list[Reading] = reader.read(path, kind=kind, text_field=text_field, drop_templates=drop_templates)
    except RaftError:
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
    return [replace(reading, title=" ".join(clean(reading.title).split())) for reading in readings]


def format_of(path: Path) -> str | None:
    """Return the format that a file's suffix stands for, or None when there is no reader for it."""
    return SUFFIXES.get(path.suffix.lower())


def missing(path: Path) -> str | None:
    """Return the package without which a file cannot be read and that is not installed, or None."""
    needed = _NEEDED.get(format_of(path) or "", ())
    return next((package for package in needed if importlib.util.find_spec(package) is None), None)


def versions(paths: Iterable[Path]) -> dict[str, int]:
    """Return by format the versions of the readers that these files need, without those that are the first."""
    return {kind: _VERSIONS[kind] for kind in sorted({format_of(path) or "" for path in paths} & _VERSIONS.keys())}


def require(package: str, *, why: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: the module to import.
        why: what it is needed for, as the end of "The package x is needed ...".

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, extra="docs", why=why) from None


def decode(data: bytes) -> str:
    r"""Return the text of a text file, lines ended by `\n`, without a byte order mark.

    UTF-8 and, with a byte order mark, UTF-16; Windows-1252 when the result looks like text.

    Raises:
        Unreadable: the bytes are no text in one of these encodings.
    """
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return clean(data.decode("utf-16"), binary=True)
        if b"\0" in data:
            raise Unreadable("It is not a text file: it holds zero bytes.")
        return clean(data.decode("utf-8-sig"), binary=True)
    except UnicodeDecodeError:
        return _decode_western(data)


def _decode_western(data: bytes) -> str:
    # Any bytes pass as Windows-1252; in text of a western language few of them lie beyond ASCII.
    foreign = sum(map(len, re.findall(rb"[\x80-\xff]+", data)))
    try:
        if foreign > 0.3 * len(data) or data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError
        return clean(data.decode("cp1252"), binary=True)
    except ValueError:
        raise Unreadable("It is not a text file: neither UTF-8, UTF-16 nor Windows-1252.") from None


def clean(text: str, *, binary: bool = False) -> str:
    r"""Return `text` with lines ended by `\n`, and without control characters and halves of characters.

    Args:
        text: what a file says.
        binary: refuse a text with more than one control character in a thousand: it is no text.

    Raises:
        Unreadable: `binary` is set and this is no text.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, controls = _CONTROL.subn(" ", text)
    if binary and controls * 1000 > len(text):
        raise Unreadable("It is not a text file: it is full of control characters.")
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\ufeff", ""))


def check_archive(path: Path) -> None:
    """Inflate every file of a zip archive, keeping nothing, to see that it stays within limits.

    The sizes that an archive states can be false, so they are not believed.

    Raises:
        Unreadable: it is no archive, is protected, or inflates to far more than a document does.
    """
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
