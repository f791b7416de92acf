"""The databases of a run: what SQLite says of one that cannot be used, in words, the same for each of them."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from raft.errors import DamagedArtifact, RaftError, typed

PATIENTLY = Retrying(  # SQLite does not wait where two processes make one file at the same moment
    retry=retry_if_exception(lambda error: isinstance(error, sqlite3.Error) and "locked" in str(error)),
    wait=wait_random(0, 0.1),
    stop=stop_after_delay(20),
    reraise=True,
)
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_FULL = ("SQLITE_FULL",)
_CLOSED = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Write all that is written within, or none of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done it
            database.execute("ROLLBACK")
        raise


@dataclass(frozen=True)
class Database:
    """What is said of one kind of file.

    `name` is what it holds, as a sentence begins; `format` the number that this raft writes; `without` what follows
    when it is moved aside.
    """

    name: str
    format: int
    without: str

    @contextmanager
    def guarded(self, path: Path) -> Iterator[None]:
        """Turn what SQLite and the system say within into words.

        Raises:
            DamagedArtifact: the file is damaged.
            RaftError: it cannot be used otherwise.
        """
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self.unusable(path, error) from error

    def unusable(self, path: Path, error: BaseException) -> RaftError:
        """Return what an error means to who typed the command, with the command that goes on."""
        code, number = getattr(error, "sqlite_errorname", None) or "", getattr(error, "errno", None)
        file, folder = typed(path), typed(path.parent)
        if code.startswith(_DAMAGED):
            return self.damaged(path, str(error))
        why, hint = str(error), f"df -h {folder}; ls -ld {folder} {file}   (then run the same command again)"
        if code.startswith(_BUSY):
            why, hint = f"another process writes to it ({error})", f"lsof {file}   (tells which; then wait for it)"
        elif code.startswith(_FULL) or number in (errno.ENOSPC, errno.EDQUOT):
            why = f"the disk is full ({error})"
            hint = f"df -h {folder}   (make room, then run the same command again)"
        elif code.startswith(_CLOSED) or number in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = f"ls -ld {folder} {file}   (make them writable, then run the same command again)"
        return RaftError(f"{self.name} cannot be used: {why}.", where=path, hint=hint)

    def damaged(self, path: Path, why: str) -> DamagedArtifact:
        """Return that a file is damaged; nothing else is said so: what is moved aside is gone."""
        hint = f"mv {typed(path)} {typed(path)}.damaged   ({self.without})"
        return DamagedArtifact(f"{self.name} cannot be used: the file is damaged ({why}).", where=path, hint=hint)

    def foreign(self, path: Path) -> RaftError:
        """Return that a file is another program's."""
        hint = f"mv {typed(path)} {typed(path)}.mine   (then the same command again)"
        return RaftError("The file is another program's database.", where=path, hint=hint)

    def check_format(self, database: sqlite3.Connection, path: Path) -> None:
        """Check that a database has no other format than this raft writes; a new one has none yet.

        Raises:
            RaftError: it has.
        """
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, self.format):
            what = f"{self.name} has format {version}; this raft reads format {self.format}."
            raise RaftError(what, where=path, hint="pip install --upgrade raft-pipeline")
