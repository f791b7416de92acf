"""Files are read in a process of their own: one that takes too long, needs too much or breaks down costs one file.

The process reads any number of files, and starts anew when it ended. It imports nothing of the working directory,
where the documents may lie.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import raft
from raft.corpus.readers import MEGABYTE, Reading, read, seconds_for, unread
from raft.errors import RaftError

MEMORY = 4_000 * MEGABYTE
"""Most bytes of addresses that the process may use, all that it imports included."""

_LATE = -getattr(signal, "SIGALRM", 0)
"""How the process ends when its time is over; only Unix has such an alarm."""

_BEGIN = "from raft.corpus.reading import serve; serve()"
_READY = b"ready\n"


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
        why = f"It takes longer than {seconds} seconds to read." if late else ""
        why = why or f"Its reader broke down, or needs more than {MEMORY // MEGABYTE:,} MB of memory."
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
    here, home = Path.cwd(), Path(raft.__file__).parents[1]
    paths = [str(path) for path in map(Path.resolve, map(Path, sys.path)) if path != here or path == home]
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-c", _BEGIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # parsers tell there what becomes a row's error
        # each thread takes of the addresses that are limited
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "POLARS_MAX_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
    )
    if child.stdout and child.stdout.readline() != _READY:
        child.kill()
        child.communicate()
        raise RaftError(
            "The process that reads documents does not start.",
            where=sys.executable,
            hint=f"try: {sys.executable} -P -c 'import raft.corpus.reading', which says why",
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
