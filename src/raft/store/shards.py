"""The ledger of one shard: replies that have come on another process or machine and are not in the run's ledger yet.

The run's ledger has each call written down before a shard is asked. What the shard is sent back it keeps here before
anything else sees it, and forgets once the run's ledger has it, too. What is left where either of them died is merged.
"""

import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from raft.store.budget import Payment
from raft.store.ledger import Entry, Ledger, Writing, adding

_NAME = "shard-{pid}-{number}.sqlite"
_KEEP = (
    "INSERT INTO calls (id, run, purpose, model, key, worst, cost, input_tokens, output_tokens, state, created)"
    " VALUES (?,?,?,?,?,?,?,?,?,'paid',?) ON CONFLICT (id) DO NOTHING"
)
_SETTLE = (
    "UPDATE calls SET state = 'paid', cost = ?, input_tokens = ?, output_tokens = ?"
    " WHERE id = ? AND key = ? AND run = ? AND state IN ('open', 'lost')"
)
_DYING_SECONDS = 10.0
"""How long the processes of shards whose build died are waited for."""


@dataclass(frozen=True)
class Left:
    """A reply that a shard has, and the call that it settles: its number in the run's ledger, and what it cost.

    The dollars are None where the price is unknown.
    """

    number: int
    run: str
    cost: float | None
    input_tokens: int
    output_tokens: int
    entry: Entry


@dataclass(frozen=True)
class Found:
    """The ledger of a shard in a folder, its replies, and whether the shard had ended when they were read."""

    path: Path
    replies: list[Left]
    ended: bool


class ShardLedger:
    """The ledger of this process, in a folder that shards of the same run may share; made with its first reply."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / _NAME.format(pid=os.getpid(), number=number)
        self._ledger: Ledger | None = None

    def write(self, run: str, payments: Sequence[Payment], taken: Collection[int]) -> None:
        """Keep replies, and forget those that the run's ledger has taken; all or none."""
        self._ledger = self._ledger or Ledger(self.path)
        now, rows = time.time(), [(one, one.entry) for one in payments if one.entry is not None]
        kept = [
            (
                *(one.number, run, "shard", entry.model, entry.key, entry.cost, entry.cost),
                *(max(0, one.input_tokens), max(0, one.output_tokens), now),
            )
            for one, entry in rows
        ]
        forget: list[Writing] = [
            ("DELETE FROM completions WHERE key IN (SELECT key FROM calls WHERE id = ?)", [(one,) for one in taken]),
            ("DELETE FROM calls WHERE id = ?", [(one,) for one in taken]),
        ]
        self._ledger.write_all([*forget, adding(entry for _, entry in rows), (_KEEP, kept)])

    def end(self, taken: Collection[int]) -> list[Left]:
        """Return what the run's ledger has not taken, and close the file; it is deleted where nothing is left."""
        if self._ledger is None:
            return []
        self.write("", [], taken)
        left = _left(self._ledger)
        self._ledger.close()
        self._ledger = None
        if not left:
            forget([self.path])
        return left


def left_in(folder: Path) -> list[Found]:
    """Return what shards have left in a folder; one that is about to end is waited for, but not for long."""
    paths = sorted(folder.glob(_NAME.format(pid="*", number="*")))
    until = time.monotonic() + _DYING_SECONDS
    return [Found(path=path, ended=_has_ended(path, until), replies=_read(path)) for path in paths]


def left_by(path: Path) -> list[Left]:
    """Return what a shard that has ended has left in its ledger."""
    _has_ended(path, time.monotonic() + _DYING_SECONDS)
    return _read(path)


def merge(path: Path, left: Iterable[Left]) -> int:
    """Put what shards have left into the run's ledger, and return how many replies that were.

    The call of each was open or lost there, and is settled by what it cost.
    """
    rows = list(left)
    if rows:  # through a connection of its own: who else has the ledger open looks for replies before it asks
        settled = [(one.cost, one.input_tokens, one.output_tokens, one.number, one.entry.key, one.run) for one in rows]
        with closing(Ledger(path)) as ledger:
            ledger.write_all([adding(one.entry for one in rows), (_SETTLE, settled)])
    return len(rows)


def forget(paths: Iterable[Path]) -> None:
    """Delete ledgers of shards whose replies were merged."""
    for path in paths:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def merge_left(folder: Path, path: Path) -> int:
    """Merge what shards have left in a folder into the ledger at `path`; return how many replies that were.

    The file of one that still lives stays: what comes to it is merged the next time.
    """
    found = left_in(folder)
    merged = sum(merge(path, one.replies) for one in found)
    forget(one.path for one in found if one.ended)
    return merged


def _read(path: Path) -> list[Left]:
    with closing(Ledger(path)) as ledger:
        return _left(ledger)


def _left(ledger: Ledger) -> list[Left]:
    rows = ledger.read("SELECT id, run, cost, input_tokens, output_tokens, key FROM calls ORDER BY id")
    entries = ledger.find([row[-1] for row in rows])
    return [
        Left(number, run, cost, read, written, entries[key])
        for number, run, cost, read, written, key in rows
        if key in entries
    ]


def _has_ended(path: Path, until: float) -> bool:
    """Tell whether the process of a shard has ended; it is waited for until then."""
    process = Path("/proc") / path.name.split("-")[1]
    while process.exists():
        if time.monotonic() >= until:
            return False
        time.sleep(0.1)
    return True
