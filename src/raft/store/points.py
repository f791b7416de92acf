"""What `raft monitor` has measured, in `RUN/monitor.sqlite`: one point a measure, with the reply to each question.

Rows are added, and never changed or deleted: triggers refuse it. A reply is on the disk before the next one is waited
for, and a point follows when all its replies are there, so that a measure that was stopped goes on where it was.
"""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft.store.sqlite import Database

FILE = "monitor.sqlite"
FORMAT = 1
_POINTS = Database("The history of measures", FORMAT, "the next measure is then the first")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS begun (id INTEGER PRIMARY KEY, at REAL NOT NULL, made_of TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
  point INTEGER NOT NULL REFERENCES begun (id), question_id TEXT NOT NULL, at REAL NOT NULL, facts TEXT NOT NULL,
  PRIMARY KEY (point, question_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS points (
  id INTEGER PRIMARY KEY REFERENCES begun (id), at REAL NOT NULL, facts TEXT NOT NULL
);
"""
_APPEND_ONLY = "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{word} BEFORE {word.upper()} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'rows are never changed'); END;\n"
    for table in ("begun", "replies", "points")
    for word in ("update", "delete")
) + "".join(  # INSERT OR REPLACE fires no trigger of DELETE
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608
    f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = {new}) "
    f"BEGIN SELECT RAISE(ABORT, 'rows are never changed'); END;\n"
    for table, key, new in (
        ("begun", "id", "NEW.id"),
        ("replies", "(point, question_id)", "(NEW.point, NEW.question_id)"),
        ("points", "id", "NEW.id"),
    )
)
_FRESH = 24 * 3600.0
"""Seconds for which a measure that was stopped is gone on with."""


class Points:
    """The measures of one run, opened; a context manager.

    Args:
        run: the run directory. Nothing is made there before the first measure begins.

    Raises:
        RaftError: the file is of a later raft, damaged, or cannot be read; so with every method.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FILE
        self._database: sqlite3.Connection | None = None
        if self.path.exists():
            self._open()

    def __enter__(self) -> "Points":
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def all(self) -> list[dict[str, Any]]:
        """Return the points, oldest first: the facts of each, with its `id` and `at` (seconds since 1970)."""
        rows = self._read("SELECT id, at, facts FROM points ORDER BY id")
        return [{**json.loads(facts), "id": number, "at": at} for number, at, facts in rows]

    def replies(self, point: int) -> dict[str, dict[str, Any]]:
        """Return the facts of a point's replies by question id."""
        rows = self._read("SELECT question_id, facts FROM replies WHERE point = ?", (point,))
        return {name: json.loads(facts) for name, facts in rows}

    def begin(self, made_of: Mapping[str, Any]) -> int:
        """Return the number of a new measure, or of one of the same that was stopped within a day."""
        if self._database is None:
            self._open()
        told, now = json.dumps(made_of, sort_keys=True), time.time()
        last = self._read("SELECT id, at, made_of FROM begun ORDER BY id DESC LIMIT 1")
        done = self._read("SELECT MAX(id) FROM points")[0][0] or 0
        if last and last[0][0] > done and last[0][2] == told and now - last[0][1] < _FRESH:
            return int(last[0][0])
        return self._write("INSERT INTO begun (at, made_of) VALUES (?, ?)", (now, told))

    def reply(self, point: int, question_id: str, facts: Mapping[str, Any]) -> None:
        """Keep the reply to a question; it is on the disk when this returns."""
        row = (point, question_id, time.time(), json.dumps(facts, ensure_ascii=False))
        self._write("INSERT INTO replies (point, question_id, at, facts) VALUES (?, ?, ?, ?)", row)

    def end(self, point: int, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what a measure has come to, all its replies being there; return it as `all` does."""
        now = time.time()
        self._write("INSERT INTO points (id, at, facts) VALUES (?, ?, ?)", (point, now, json.dumps(facts)))
        return {**facts, "id": point, "at": now}

    def _open(self) -> None:
        with _POINTS.guarded(self.path):
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables - {"begun", "replies", "points"}:
                raise _POINTS.foreign(self.path)
            _POINTS.check_format(self._database, self.path)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(f"{_SCHEMA}{_APPEND_ONLY}PRAGMA user_version={FORMAT};")

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        if self._database is None:
            return []
        with _POINTS.guarded(self.path):
            return self._database.execute(query, values).fetchall()

    def _write(self, statement: str, values: Sequence[object]) -> int:
        assert self._database is not None
        with _POINTS.guarded(self.path):
            return int(self._database.execute(statement, values).lastrowid or 0)
