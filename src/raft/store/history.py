"""The file of a run's registry: one table that only grows, `history` in `RUN/registry.sqlite`.

It has a rollback journal, not a write-ahead log: it is written some times a month and read several times a second, also
where nothing can be written, and so a reader leaves no file beside it. `synchronous=EXTRA` makes a line that was
acknowledged outlive a loss of power (sqlite.org/pragma.html#pragma_synchronous).
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from raft.errors import UsageError, me
from raft.store.sqlite import Database, transaction
from raft.text import whole

FILE = "registry.sqlite"
FORMAT = 1
_OURS = 0x72616674  # "raft": by it a database is known as a registry
_SCHEMA = (
    "CREATE TABLE history (line INTEGER PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL,"
    " why TEXT NOT NULL, action TEXT NOT NULL CHECK (action IN"
    " ('register', 'promote', 'rollback', 'candidate', 'withdraw', 'retire')), version TEXT NOT NULL,"
    " digest TEXT NOT NULL, report TEXT NOT NULL, verdict TEXT NOT NULL, facts TEXT NOT NULL)",
    "CREATE TRIGGER no_update BEFORE UPDATE ON history BEGIN SELECT RAISE(ABORT, 'the history only grows'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON history BEGIN SELECT RAISE(ABORT, 'the history only grows'); END",
    # INSERT OR REPLACE fires no trigger of DELETE
    "CREATE TRIGGER in_order BEFORE INSERT ON history"
    " WHEN NEW.line IS NOT (SELECT COALESCE(MAX(line), 0) + 1 FROM history)"
    " BEGIN SELECT RAISE(ABORT, 'the history only grows'); END",
)
_REGISTRY = Database("The registry", FORMAT, "then plain RAG answers until you promote anew; or bring back a copy")
_COLUMNS = ("line", "at", "who", "why", "action", "version", "digest", "report", "verdict", "facts")
_PATIENCE = 60.0  # seconds in which others may write first


def add(
    database: sqlite3.Connection, *, who: str, why: str, facts: Mapping[str, Any], **columns: str
) -> dict[str, Any]:
    """Write a line and return it; it is there for good once the transaction around it ends.

    `columns` are the others of `_COLUMNS`, `facts` what else is told of it, as JSON values.
    """
    row = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": " ".join(whole(who).split()),
        "why": " ".join(whole(why).split()),
        **columns,
        "facts": json.dumps(facts, ensure_ascii=False),
    }
    database.execute(
        f"INSERT INTO history (line, {', '.join(row)})"  # noqa: S608
        f" SELECT COALESCE(MAX(line), 0) + 1, {', '.join('?' * len(row))} FROM history",
        [*row.values()],
    )
    return lines(database)[-1]


def lines(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return all lines, oldest first, with what `registry.history` tells of each, but for `former`."""
    rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM history ORDER BY line").fetchall()  # noqa: S608
    plain = {"kind": "rag", "model": "", "adapter": None, "path": None, "approved_by": "", "share": 0.0, "shadow": 0.0}
    found = []
    for row in rows:
        line = dict(zip(_COLUMNS, row, strict=True))
        found.append({**plain, **json.loads(line.pop("facts")), **line})
    return found


@contextmanager
def writing(run: Path, by: str) -> Iterator[sqlite3.Connection]:
    """Yield the registry of a run within one transaction; whoever comes meanwhile waits for its turn.

    Raises:
        UsageError: no name is given.
        RaftError: the registry cannot be written, or is of a newer raft.
    """
    if not whole(by).strip():
        raise UsageError(
            "The history keeps who said so, and no name is given.",
            where="--by",
            hint=f"the same command with --by {me()}",
        )
    path = run / FILE
    with _REGISTRY.guarded(path):
        if not path.exists():
            _make(path)
        with closing(_opened(path)) as database:
            database.execute("PRAGMA synchronous=EXTRA")
            with transaction(database):
                _check(database, path)
                yield database


def _make(path: Path) -> None:
    """Make an empty history elsewhere and put it there whole: a file of no bytes is then always damage."""
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with FileLock(scratch / "registry.lock", timeout=_PATIENCE):
        if path.exists():  # others were faster
            return
        draft = scratch / FILE
        for left in (draft, draft.with_name(f"{FILE}-journal")):  # by a kill
            left.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous=EXTRA")
            with transaction(database):
                for statement in (*_SCHEMA, f"PRAGMA application_id={_OURS}", f"PRAGMA user_version={FORMAT}"):
                    database.execute(statement)
        draft.replace(path)


@contextmanager
def reading(run: Path) -> Iterator[sqlite3.Connection | None]:
    """Yield the registry of a run for reading; None where there is none.

    A transaction that a kill cut short is undone by whoever opens the file next, which takes writing: where nothing can
    be written, a copy is read.
    """
    path = run / FILE
    if not path.is_file():
        yield None
        return
    with ExitStack() as stack, _REGISTRY.guarded(path):
        try:
            database = stack.enter_context(closing(_opened(path)))
            _check(database, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise  # whoever closes a file lets go of all locks that its process holds on it, of SQLite too
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for file in (path, path.with_name(f"{path.name}-journal")):
                if file.is_file():
                    shutil.copyfile(file, work / file.name)
            database = stack.enter_context(closing(_opened(work / path.name)))
            _check(database, path)
        yield database


def _opened(path: Path) -> sqlite3.Connection:
    # "rw" makes no file, and is read-only by itself where nothing may be written
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None)


def _check(database: sqlite3.Connection, path: Path) -> None:
    """Check that a database is a registry that this raft reads.

    Raises:
        DamagedArtifact: it is empty, as none that was made is.
        RaftError: it is of a newer raft, or another program's.
    """
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if owner != _OURS and tables:
        raise _REGISTRY.foreign(path)
    _REGISTRY.check_format(database, path)
    if "history" not in tables:
        raise _REGISTRY.damaged(path, "it is empty: what was in production is not known")
