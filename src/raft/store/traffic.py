"""What was asked of a server and answered, and what people said of it: `RUN/traffic.sqlite`.

A server puts replies in a queue, and a thread writes them in groups, so that nobody waits for the disk; only who gives
feedback does: it is on disk before it is acknowledged (WAL, `synchronous=FULL`). Several processes may write to one
file. Nothing is changed in place: a later feedback of one caller on one reply counts in the place of the earlier, a
later decision on a feedback likewise, and what was before stays to be read. What is older than the retention is
deleted, but for feedback that a person accepted.
"""

import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Literal

import polars as pl

from raft.errors import RaftError, UsageError, typed
from raft.protocols import OnEvent
from raft.store.sqlite import PATIENTLY, Database, transaction
from raft.text import whole

FILE, FORMAT = "traffic.sqlite", 1
_TRAFFIC = Database("The traffic", FORMAT, "a new one is made; feedback in it is lost")
Rating = Literal["up", "down"]
ACCEPTED, REJECTED = "accepted", "rejected"
WAITING = 10_000
"""Most replies that wait to be written; where the disk is slower than that for long, those that come then are lost."""
GATHER = 0.2
"""Seconds for which replies are gathered into one group, where nobody waits for what is written."""
_GROUP = 1_000
_DAY, _HOUR = 86_400.0, 3_600.0
_TEXTS = ("question", "answer", "correction", "comment")
"""What people wrote, or an answer took up from them."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply, whole or streamed, and what is known of it.

    Attributes:
        reply_id: by which feedback names it.
        at: when it was finished, in seconds since 1970.
        caller: the name of the key with which it was asked for; "" where none is needed.
        conversation: digest (hex) of what decides which system answers; "" where nothing does.
        arm: whether production or a candidate answered.
        version: what answered, as the registry calls it.
        adapter_digest: of the adapter's weights; None without one.
        index: digest of the index.
        model: name of the model.
        question: what was asked.
        answer: what was said; "" where it failed.
        citations: its quotes, as the object `raft` of a reply has them.
        outcome: "answered" or "failed".
        supported: whether what it says stands in what it rests on; None where there is nothing to check.
        abstained: it says that the documents do not answer.
        refused: no model was asked, or its answer was not given.
        relevance: of what was found for the question (0 to 1).
        seconds: that it took, from the question to the whole answer.
        waited: of these, how long it waited for its turn.
        input_tokens: read.
        output_tokens: written.
        cost: in US dollars; None where the price is unknown.
        streamed: piece by piece.
    """

    reply_id: str
    at: float
    caller: str = ""
    conversation: str = ""
    arm: Literal["production", "candidate"] = "production"
    version: str = "0"
    adapter_digest: str | None = None
    index: str = ""
    model: str = ""
    question: str
    answer: str = ""
    citations: Sequence[Mapping[str, Any]] = ()
    outcome: Literal["answered", "failed"] = "answered"
    supported: bool | None = None
    abstained: bool = False
    refused: bool = False
    relevance: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    streamed: bool = False


CITATIONS = pl.List(
    pl.Struct(
        {
            "document": pl.String,
            "page": pl.Int64,
            "start": pl.Int64,
            "end": pl.Int64,
            "quote": pl.String,
            "chunk_id": pl.String,
        }
    )
)
_KINDS: Mapping[str, Any] = {
    "id": pl.Int64,
    "at": pl.Float64,
    "citations": CITATIONS,
    **dict.fromkeys(("supported", "abstained", "refused", "streamed", "counted"), pl.Boolean),
    **dict.fromkeys(("relevance", "seconds", "waited", "cost"), pl.Float64),
    **dict.fromkeys(("input_tokens", "output_tokens", "feedback_id"), pl.Int64),
}


def _schema(names: Sequence[str]) -> pl.Schema:
    return pl.Schema({name: _KINDS.get(name, pl.String) for name in names})


_COLUMNS = tuple(field.name for field in fields(Reply))
_SHADOWED = tuple(name for name in _COLUMNS if name not in ("caller", "conversation", "question", "streamed"))
REPLIES, SHADOWS = _schema(_COLUMNS), _schema(_SHADOWED)
FEEDBACK = _schema(("id", "at", "reply_id", "caller", "rating", "correction", "comment", "counted"))
DECISIONS = _schema(("id", "at", "feedback_id", "decision", "by", "question", "answer", "document", "quote", "note"))
"""What people decided on feedback, with the row to learn from that was accepted."""

_SQL = {pl.Float64: "REAL", pl.Int64: "INTEGER", pl.Boolean: "INTEGER"}


def _declared(schema: pl.Schema) -> str:
    stored = [(name, kind) for name, kind in schema.items() if name not in ("id", "counted")]
    return ", ".join(f'"{name}" {_SQL.get(kind, "TEXT")}' for name, kind in stored)  # type: ignore[call-overload]


_MADE = f"""
CREATE TABLE IF NOT EXISTS replies ({_declared(REPLIES)}, PRIMARY KEY (reply_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_time ON replies (at);
CREATE TABLE IF NOT EXISTS shadows ({_declared(SHADOWS)}, PRIMARY KEY (reply_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (id INTEGER PRIMARY KEY AUTOINCREMENT, {_declared(FEEDBACK)});
CREATE INDEX IF NOT EXISTS feedback_by_reply ON feedback (reply_id, caller);
CREATE TABLE IF NOT EXISTS decisions (id INTEGER PRIMARY KEY AUTOINCREMENT, {_declared(DECISIONS)});
"""

_ACCEPTED = (
    "SELECT feedback_id FROM decisions WHERE id IN (SELECT MAX(id) FROM decisions GROUP BY feedback_id)"
    " AND decision = 'accepted'"
)
_WITHOUT_REPLY = "NOT EXISTS (SELECT 1 FROM replies WHERE replies.reply_id = feedback.reply_id)"
_OLD = (
    ("replies", "reply_id", "at < :before"),
    ("shadows", "reply_id", "at < :before"),
    ("feedback", "id", f"(at < :before OR {_WITHOUT_REPLY}) AND id NOT IN ({_ACCEPTED})"),
    ("decisions", "id", "at < :before AND feedback_id NOT IN (SELECT id FROM feedback)"),
)
"""What is deleted, one after the other: table, key, and which rows."""
_THEIRS = "SELECT 1 FROM replies WHERE reply_id = :reply_id AND (caller IN ('', :caller) OR :caller = '')"
"""A reply that a caller may speak of: with keys their own, or one of when none were needed; without keys any."""
_COUNTED = "id = (SELECT MAX(id) FROM feedback AS later WHERE (later.reply_id, later.caller) = (f.reply_id, f.caller))"

_Waiting = tuple[str, dict[str, Any], Future[int] | None]
"""A table, a row of it, and who waits until it is written."""


class UnknownReply(UsageError):
    """Feedback names a reply that was never given, or has been deleted since."""


class Traffic:
    """The traffic of one run, open for a server to write.

    Args:
        run: the run directory.
        retention_days: after how many days replies and what was said of them are deleted.
        redact: what becomes of each text before it is written; None: it is written as it is.
        on_event: told "stumbled" with an `error` where replies are lost: they could not be written, or came too fast.

    Raises:
        RaftError: the file cannot be used, or is of a later raft.
    """

    def __init__(
        self,
        run: Path | str,
        *,
        retention_days: float = 90,
        redact: Callable[[str], str] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._path, self._days, self._redact = Path(run) / FILE, retention_days, redact
        self._on_event = on_event or (lambda event, facts: None)
        self._waiting: deque[_Waiting] = deque()
        self._changed, self._urgent, self._ended, self._swept = Condition(), 0, False, 0.0
        self.lost = self._untold = 0
        """How many replies could not be written."""
        _open(self._path).close()  # what is wrong with it is told here
        self._thread = Thread(target=self._work, name="raft-traffic", daemon=True)
        self._thread.start()

    def record(self, reply: Reply) -> None:
        """Take on a reply to be written soon; it returns at once."""
        self._put("replies", {name: getattr(reply, name) for name in _COLUMNS})

    def shadowed(self, reply_id: str, **facts: Any) -> None:
        """Take on what another system says to the question of a reply; `facts` are named as those of `Reply`.

        Raises:
            TypeError: a fact has another name.
        """
        reply = Reply(reply_id=reply_id, question="", **{"at": time.time(), **facts})
        self._put("shadows", {name: getattr(reply, name) for name in _SHADOWED})

    def feedback(
        self, reply_id: str, *, rating: Rating | None = None, correction: str = "", comment: str = "", caller: str = ""
    ) -> int:
        """Write down what a caller says of a reply, and return its number once it is on disk.

        Raises:
            UnknownReply: there is no such reply, or it was given to a caller with another key.
            RaftError: it could not be written.
        """
        return self.submit(reply_id, rating=rating, correction=correction, comment=comment, caller=caller).result()

    def submit(
        self, reply_id: str, *, rating: Rating | None = None, correction: str = "", comment: str = "", caller: str = ""
    ) -> Future[int]:
        """Do as `feedback` does, without waiting: what it returns or raises comes with the future."""
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()  # who does not wait any more cannot take it back, nor disturb the others
        row = {"at": time.time(), "reply_id": reply_id, "caller": caller, "rating": rating}
        self._put("feedback", {**row, "correction": correction or None, "comment": comment or None}, done)
        return done

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _put(self, table: str, row: dict[str, Any], done: Future[int] | None = None) -> None:
        with self._changed:
            if self._ended and done is not None:
                done.set_exception(RaftError("The server ends.", where=self._path, hint="send it again in a moment"))
                return
            if done is None and (self._ended or len(self._waiting) >= WAITING):
                self.lost, self._untold = self.lost + 1, self._untold + 1
                return
            self._waiting.append((table, row, done))
            self._urgent += done is not None
            if done is not None or len(self._waiting) == 1 or len(self._waiting) >= _GROUP:
                self._changed.notify()

    def _work(self) -> None:
        database: sqlite3.Connection | None = None
        group: list[_Waiting] | None = []
        while group is not None:
            try:
                if database is None:
                    database = _open(self._path)
                self._write(database, group)
                self._sweep(database)
            except BaseException as error:  # whoever waits is told, and the next group is tried anew
                self._failed(group, error)
                if database is not None:
                    database.close()
                database = None
            group = self._next()
            self._tell_of_lost()
        if database is not None:
            database.close()

    def _next(self) -> list[_Waiting] | None:
        """Wait for something to write; return it, nothing where it is time to delete, or None at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._ended, _HOUR):
                return []
            self._changed.wait_for(lambda: self._urgent or self._ended or len(self._waiting) >= _GROUP, GATHER)
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
            self._urgent -= sum(done is not None for *_, done in group)
            return group or None

    def _tell_of_lost(self) -> None:
        with self._changed:
            count, self._untold = self._untold, 0
        if count:
            what = f"The disk is slower than replies come: {count:,} of them are not kept."
            hint = f"df -h {typed(self._path.parent)}   (is its disk a slow one, or a busy one?)"
            self._on_event("stumbled", {"error": RaftError(what, where=self._path, hint=hint)})

    def _write(self, database: sqlite3.Connection, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        ready = [(table, self._stored(row), done) for table, row, done in group]
        kept: list[tuple[Future[int], int | UnknownReply]] = []
        with transaction(database):
            for table, row, done in ready:
                if done is None:
                    _insert(database, table, row, "OR REPLACE ")
                elif database.execute(_THEIRS, row).fetchone():
                    kept.append((done, _insert(database, table, row)))
                else:
                    kept.append((done, self._unknown(row["reply_id"])))
        for done, outcome in kept:  # only now is it on disk
            if isinstance(outcome, int):
                done.set_result(outcome)
            else:
                done.set_exception(outcome)

    def _stored(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(whole(dict(row)))
        if self._redact is not None:
            found |= {name: self._redact(found[name]) for name in _TEXTS if found.get(name)}
        if "citations" in found:
            said = [{**one, "quote": (self._redact or str)(one.get("quote") or "")} for one in found["citations"]]
            found["citations"] = json.dumps(said, ensure_ascii=False)
        return found

    def _unknown(self, reply_id: str) -> UnknownReply:
        what = f"There is no reply {reply_id[:100]} here, or it was deleted after {self._days:g} days."
        return UnknownReply(what, where=self._path, hint="name the `id` of a reply that this server gave")

    def _sweep(self, database: sqlite3.Connection) -> None:
        if time.monotonic() - self._swept >= _HOUR or not self._swept:
            self._swept = time.monotonic()
            delete_older(database, time.time() - self._days * _DAY)

    def _failed(self, group: Sequence[_Waiting], error: BaseException) -> None:
        told = error if isinstance(error, RaftError) else _TRAFFIC.unusable(self._path, error)
        for *_, done in group:
            if done is None:
                self.lost += 1
            elif not done.done():
                done.set_exception(told)
        with suppress(Exception):  # who cannot be told does not end the thread that others wait for
            self._on_event("stumbled", {"error": told})


def delete_older(database: sqlite3.Connection, before: float) -> None:
    """Delete what came before a moment (seconds since 1970), but feedback that was accepted, a few rows at a time.

    Feedback goes with its reply; with an accepted one stays the row to learn from, not the reply.
    """
    for table, key, which in _OLD:
        query = f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {which} LIMIT {_GROUP})"  # noqa: S608
        left = _GROUP
        while left == _GROUP:
            with transaction(database):
                left = database.execute(query, {"before": before}).rowcount


def replies(run: Path | str, since: float | None = None) -> pl.DataFrame:
    """Return the replies of a run that stand on disk (`REPLIES`), oldest first; `since` in seconds since 1970.

    Raises:
        RaftError: the file cannot be read, or is of a later raft.
    """
    return _read(run, REPLIES, "SELECT {} FROM replies WHERE at >= ? ORDER BY at, reply_id", (since or 0.0,))


def shadows(run: Path | str, since: float | None = None) -> pl.DataFrame:
    """Return what other systems said to the same questions (`SHADOWS`), by the `reply_id` of what users saw.

    It raises as `replies`.
    """
    return _read(run, SHADOWS, "SELECT {} FROM shadows WHERE at >= ? ORDER BY at, reply_id", (since or 0.0,))


def feedback(run: Path | str, *, history: bool = False) -> pl.DataFrame:
    """Return the feedback of a run (`FEEDBACK`), oldest first: what counts, which is the last of a caller on a reply.

    With `history` all of it, `counted` or not. It raises as `replies`.
    """
    which = "" if history else " WHERE counted"
    query = f"SELECT {{}} FROM (SELECT *, {_COUNTED} AS counted FROM feedback AS f){which} ORDER BY id"  # noqa: S608
    return _read(run, FEEDBACK, query)


def decisions(run: Path | str) -> pl.DataFrame:
    """Return what people decided on feedback (`DECISIONS`), oldest first; the last on a feedback counts.

    It raises as `replies`.
    """
    return _read(run, DECISIONS, "SELECT {} FROM decisions ORDER BY id")


def decide(run: Path | str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write down decisions on feedback, all or none: `feedback_id`, `decision`, `by`, and the row to learn from.

    Raises:
        UsageError: nobody's name is given.
        RaftError: the file cannot be written.
    """
    if any(not str(row.get("by") or "").strip() for row in rows):
        raise UsageError("A decision needs the name of the person who decides.", hint="--by 'Marta Quill'")
    path = Path(run) / FILE
    with _TRAFFIC.guarded(path), closing(_open(path)) as database, transaction(database):
        for row in rows:
            _insert(database, "decisions", whole({"at": time.time(), **row}))


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any], how: str = "") -> int:
    names, places = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    done = database.execute(f"INSERT {how}INTO {table} ({names}) VALUES ({places})", tuple(row.values()))  # noqa: S608
    return int(done.lastrowid or 0)


def _open(path: Path) -> sqlite3.Connection:
    with _TRAFFIC.guarded(path):
        database = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            PATIENTLY(_check_format, database, path)
            PATIENTLY(database.execute, "PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA secure_delete=ON")  # what is deleted is gone from the file too
            with transaction(database):
                for statement in filter(str.strip, _MADE.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version={FORMAT}")
        except BaseException:
            database.close()
            raise
    return database


def _check_format(database: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "replies" not in tables:  # all of ours are made at once
        raise _TRAFFIC.foreign(path)
    _TRAFFIC.check_format(database, path)


def _read(run: Path | str, schema: pl.Schema, query: str, given: Sequence[Any] = ()) -> pl.DataFrame:
    path, rows = Path(run) / FILE, list[tuple[Any, ...]]()
    if path.is_file():
        with _TRAFFIC.guarded(path), closing(_reading(path)) as database:
            _check_format(database, path)
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'decisions'").fetchone():  # it was made whole
                rows = database.execute(query.format(", ".join(f'"{name}"' for name in schema)), given).fetchall()
    places = [place for place, kind in enumerate(schema.values()) if kind in (pl.Boolean, CITATIONS)]
    told = [_told(row, places) for row in rows] if places else rows
    return pl.DataFrame(told, schema=schema, orient="row")


def _told(row: Sequence[Any], places: Sequence[int]) -> list[Any]:
    found = list(row)
    for place in places:  # SQLite has neither booleans nor lists
        value = found[place]
        if value is not None:
            found[place] = json.loads(value) if isinstance(value, str) else bool(value)
    return found


def _reading(path: Path) -> sqlite3.Connection:
    address = path.resolve().as_uri()
    database = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=30)
    try:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # in a folder that nobody may write to, with nothing that waits beside it
        database.close()
        database = sqlite3.connect(f"{address}?immutable=1", uri=True)
    return database
