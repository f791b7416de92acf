"""Readers: one document format a file; each turns a file into text, or says in one sentence why it cannot.

A file that cannot be read is never a traceback: whatever the parser of a format raises becomes `Unreadable`. Work is
bounded: files have a largest size, archives are inflated within limits before a library sees them, and a build reads in
a process of its own (`ReadingProcess`), so that what takes too long, needs too much or breaks down costs one file.
"""

import codecs
import importlib
import importlib.util
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from raft.corpus.readers.guessing import guessed
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


_PAGES = ("markdownify", "bs4", "lxml")
_FORMATS = {
    "md": _Format("text", ".md .markdown", version=5),
    "mdx": _Format("text", ".mdx", version=2),
    "txt": _Format("text", ".txt .text", version=2),
    "rst": _Format("text", ".rst", version=2),
    "html": _Format("html", ".html .htm .xhtml", _PAGES, largest=32 * MEGABYTE, version=6),
    "pdf": _Format("pdf", ".pdf", ("pypdfium2",), seconds=300, version=3),
    "docx": _Format("docx", ".docx", ("mammoth", *_PAGES), version=4),
    "xlsx": _Format("sheets", ".xlsx .xlsm", ("openpyxl",), version=3),
    "csv": _Format("sheets", ".csv", version=3),
    "tsv": _Format("sheets", ".tsv", version=3),
    "json": _Format("records", ".json", version=4),
    "jsonl": _Format("records", ".jsonl .ndjson", version=4),
    "yaml": _Format("records", ".yaml .yml", largest=32 * MEGABYTE, version=2),
    "ipynb": _Format("notebook", ".ipynb", version=2),
    "pptx": _Format("slides", ".pptx", version=2),
    "eml": _Format("mail", ".eml", _PAGES, version=3),
    "epub": _Format("epub", ".epub", _PAGES, version=3),
    "srt": _Format("subtitles", ".srt .vtt", version=2),
}
SUFFIXES = {suffix: kind for kind, its in _FORMATS.items() for suffix in its.suffixes.split()}
"""File suffixes that can be read, and the format each stands for."""

_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/(\w+)")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_JOINED = r"\u0590-\u1dff\u2100-\U0010ffff"
_INVISIBLE = re.compile(
    r"\u00ad(?:\n(?=\w))?|[\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    rf"|[\U000e0000-\U000e007f]|(?<![{_JOINED}])[\u200c\u200d]+|[\u200c\u200d]+(?![{_JOINED}])"
)
_ALIKES = {
    **{chr(code): bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)},  # as browsers take them
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f", " "),
    **dict.fromkeys("\u2028\u2029", "\n"),
    **dict(zip("\u2010\u2011ﬀﬁﬂﬃﬄﬅﬆ", ("-", "-", "ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True)),
}
_ALIKE = re.compile(f"[{''.join(_ALIKES)}]")

_MARKS = (
    *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
_CHARSET = re.compile(
    rb"""<\?xml\b[^>]{0,200}encoding\s*=\s*["']([\w.:-]+)|<meta\b[^>]{0,400}charset\s*=[\s"']*([\w.:-]+)""",
    re.IGNORECASE,
)
_ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp_2"), (b"\x1b$@", "iso2022_jp_2"))
_TEXT_CODEC = re.compile("utf-(?:8|16|32)|cp|iso8859|iso2022|koi8|mac|shift|euc|gb|big5|hz|johab|tis|kz|ptcp")
_SUPERSETS = {
    **{"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874"},
    **{"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "big5": "big5hkscs"},
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "utf-8"),  # who can read the name has read no UTF-16
}
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f\ufffd]")


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
        left_out: what of the file is not in the text: how many of each kind, as "hidden parts".
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


def decode(data: bytes, left_out: dict[str, int] | None = None) -> str:
    r"""Return the text of a text file as `clean` leaves it, without a byte order mark.

    In this order: what a mark says, UTF-8, UTF-16 without a mark, the charset that the page names, and the best guess
    of charset-normalizer. `left_out` learns of bytes that stand for no character, and of a guess.

    Raises:
        Unreadable: it is not text.
    """
    said = {} if left_out is None else left_out
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    named = _CHARSET.search(data, 0, 4096)
    charset = _python_name((named[1] or named[2]).decode()) if named and not marked else None
    if charset and charset.startswith(("iso2022", "hz")):  # seven bits, which pass as UTF-8
        marked, charset = charset, None
    elif not marked and b"\x1b$" in data and data.isascii():
        marked = next((name for sign, name in _ESCAPES if sign in data), None)
    elif not marked and b"\0" in data:
        marked = _unmarked_utf16(data)
    with suppress(UnicodeDecodeError):
        return clean(data.decode(marked or "utf-8"), binary=True)
    for encoding, most in ((marked, 0.01), ("utf-8", 1), (charset, 0.01)):
        if encoding is None or (marked and encoding != marked):
            continue
        text = data.decode(encoding, "replace")
        lost, telling = text.count("\ufffd"), len(text) if encoding != "utf-8" else len(_BEYOND_ASCII.findall(text))
        if lost <= max(most * telling, telling > 100):
            said.update({"bytes that are no character": lost} if lost else {})
            return clean(text, binary=True)
    if marked or not (guess := guessed(data)):
        raise Unreadable("It is not a text file, or one of an encoding that cannot be told: save it as UTF-8.")
    said["encodings guessed"] = 1
    text = data.decode(guess, "replace")
    return clean(text.replace("¤", "€") if guess in ("cp1252", "iso8859_2") else text, binary=True)  # as in ISO 8859-15


def _python_name(charset: str) -> str | None:
    """Return the codec for a charset as a page names it; as browsers do, the larger of two that are often confused."""
    with suppress(LookupError):
        name = codecs.lookup(charset.lower().removeprefix("x-")).name
        return _SUPERSETS.get(name, name) if _TEXT_CODEC.match(name) else None
    return None


def _unmarked_utf16(data: bytes) -> str:
    """Return the byte order in which bytes with zeros among them are text of UTF-16."""
    best, most = "", 0
    for order in ("utf-16-le", "utf-16-be"):
        sample = data[:4000].decode(order, "replace")
        odd = sum(unicodedata.category(mark) in {"Cc", "Cn", "Co"} and mark not in "\r\n\t\f" for mark in sample)
        common = len(re.findall(r"[\s\d.,。，、a-z]", sample, re.ASCII))
        if odd * 100 <= len(sample) and common > most:
            best, most = order, common
    if not best:
        raise Unreadable("It is not a text file: it holds zero bytes.")
    return best


def clean(text: str, *, binary: bool = False) -> str:
    r"""Return `text` with lines ended by `\n`, and without what nobody sees or what only looks different.

    Control characters, halves of characters, soft hyphens, marks of width zero and of direction go (joiners stay
    between letters of scripts that need them, and in emoji); spaces that do not break become spaces, ligatures letters.
    With `binary` more than one control character in a thousand is `Unreadable`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, controls = _CONTROL.subn(" ", text)
    if binary and controls * 1000 > len(text):
        raise Unreadable("It is not a text file: it is full of control characters.")
    if text.isascii():
        return text
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", _ALIKE.sub(lambda found: _ALIKES[found[0]], text))


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
        if (data := path.read_bytes()).startswith(_OLD_OFFICE):
            if "EncryptedPackage".encode("utf-16-le") in data:
                raise Unreadable("The file is protected by a password.") from error
            raise Unreadable("It is a file of an older Office under a new name: save it in the new form.") from error
        raise Unreadable(f"The file is damaged: {_sentence(error)}") from error


def office(path: Path) -> Path | io.BytesIO:
    """Return an Office document that was checked as an archive; one that was saved as "Strict" with its usual names."""
    check_archive(path)
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive:
        if "_rels/.rels" not in archive.namelist() or _STRICT.search(archive.read("_rels/.rels")) is None:
            return path
        with zipfile.ZipFile(made, "w") as copy:
            for name in archive.namelist():
                copy.writestr(name, _STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/\2", archive.read(name)))
    made.seek(0)
    return made


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
