"""Readers: one document format a file; each turns a file into text, or says in one sentence why it cannot.

A file that cannot be read is never a traceback: whatever the parser of a format raises becomes `Unreadable`. Work is
bounded: files have a largest size, archives are inflated within limits before a library sees them, and a build reads in
a process of its own (`ReadingProcess`), so that what takes too long, needs too much or breaks down costs one file.
"""

import importlib
import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from raft.errors import MissingExtra, RaftError
from raft.store.children import import_path
from raft.text import whole

MEGABYTE = 1_000_000
MAX_FILE = 256 * MEGABYTE
MAX_INFLATED = 200 * MEGABYTE
MAX_RATIO = 200
MEMORY = 4_000 * MEGABYTE
"""Most bytes of addresses that the process may use, all that it imports included."""

_LATE = -getattr(signal, "SIGALRM", 0)
"""How the process ends when its time is over; only Unix has such an alarm."""

_TOO_LONG, _BROKE_DOWN = "It takes longer than ", "Its reader broke down"

_BEGIN = "from raft.corpus.readers import serve; serve()"
_READY = b"ready\n"


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
    "pdf": _Format("pdf", ".pdf", ("pypdfium2",), seconds=300, version=2),
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
        left_out: what of the document is not in the text, in words, and how often.
    """

    title: str
    text: str
    format: str
    pages: tuple[int, ...] = ()
    record: int | None = None
    error: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)


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


def may_pass(error: str) -> bool:
    """Tell whether an error is one of the moment or the machine: another time the file may be read."""
    return error.startswith((_TOO_LONG, _BROKE_DOWN))


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


class ReadingProcess:
    """Reads files one after the other; started with the first of them."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, *, text_field: str, drop_templates: bool) -> list[Reading]:
        """Read a file as `readers.read` does; what keeps it from being read is the error of a reading.

        Raises:
            RaftError: the process does not start.
        """
        seconds = seconds_for(path)
        request = [os.fsencode(path).decode("latin-1"), seconds, text_field, drop_templates]
        while True:
            fresh = self._child is None
            self._child = self._child or _start()
            reply, code = self._ask(json.dumps(request).encode() + b"\n")
            if reply is not None:
                return [Reading(**{**reading, "pages": tuple(reading["pages"])}) for reading in reply]
            late = code == _LATE
            if late or fresh:  # else what was read before may be to blame
                break
        why = f"{_TOO_LONG}{seconds} seconds to read." if late else ""
        why = why or f"{_BROKE_DOWN}, or needs more than {MEMORY // MEGABYTE:,} MB of memory."
        return [unread(path, why)]

    def close(self) -> None:
        """End the process."""
        if self._child:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _ask(self, request: bytes) -> tuple[list[Any] | None, int]:
        child = self._child
        assert child and child.stdin and child.stdout
        reply = b""
        with suppress(BrokenPipeError):
            child.stdin.write(request)
            child.stdin.flush()
            reply = child.stdout.readline()
        if reply.endswith(b"\n"):
            return json.loads(reply), 0
        child.wait()
        self.close()
        return None, child.returncode


def _start() -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-c", _BEGIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # parsers tell there what becomes a row's error
        # each thread takes of the addresses that are limited
        env={**os.environ, "PYTHONPATH": import_path(sys.path), "POLARS_MAX_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
    )
    if child.stdout and child.stdout.readline() != _READY:
        child.kill()
        child.communicate()
        raise RaftError(
            "The process that reads documents does not start.",
            where=sys.executable,
            hint=f"try: {sys.executable} -P -c 'import raft.corpus.readers', which says why",
        )
    return child


def serve() -> None:
    """Read the files that standard input names, one a line, until it ends; the readings go to standard output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that asks
    _limit_memory()
    alarm = getattr(signal, "alarm", lambda seconds: None)
    replies.write(_READY)
    replies.flush()
    for line in sys.stdin.buffer:
        name, seconds, text_field, drop_templates = json.loads(line)
        path = Path(os.fsdecode(name.encode("latin-1")))
        alarm(seconds)
        try:
            readings = read(path, text_field=text_field, drop_templates=drop_templates)
        except RaftError as error:
            reason = error.what + (f" {error.hint}" if error.hint else "")
            readings = [unread(path, reason)]
        reply = json.dumps([vars(reading) for reading in readings], ensure_ascii=False)
        replies.write(reply.encode() + b"\n")
        replies.flush()
        alarm(0)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not every system can
        import resource  # noqa: PLC0415  Unix has it

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
