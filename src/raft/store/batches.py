"""The batches that a provider works on for hours: what is in each, and what became of it, in the ledger.

A batch is planned here before it is made at the provider: its calls stand among the run's calls at their worst case
from then on, so that a build which is killed at any instant knows what it may have paid for. What a batch has
answered can be read from it again until the ledger holds the replies themselves.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from raft.store.ledger import Ledger, Writing

_TABLES = (
    "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, id TEXT, file TEXT, run TEXT NOT NULL,"
    " identity TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('planned', 'sent', 'settled')),"
    " created REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS batch_members (key TEXT NOT NULL, batch TEXT NOT NULL, call INTEGER NOT NULL,"
    " PRIMARY KEY (key, batch)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS members_of_batch ON batch_members (batch)",
)
_PLAN = "INSERT INTO batches (name, run, identity, state, created) VALUES (?, ?, ?, 'planned', ?)"
_CALL = (
    "INSERT INTO calls (run, purpose, model, key, worst, state, created)"
    " SELECT run, ?, ?, ?, ?, 'batch', created FROM batches WHERE name = ?"
)
_MEMBER = "INSERT INTO batch_members (key, batch, call) VALUES (?, ?, last_insert_rowid())"
_PAID = (
    "UPDATE calls SET state = 'paid', cost = MIN(COALESCE(?1, worst), COALESCE(worst, ?1)), input_tokens = ?2,"
    " output_tokens = ?3 WHERE id = (SELECT call FROM batch_members WHERE key = ?4 AND batch = ?5) AND state = 'batch'"
)
_FREE = "DELETE FROM calls WHERE id = (SELECT call FROM batch_members WHERE key = ? AND batch = ?) AND state = 'batch'"
_LOST = (
    "UPDATE calls SET state = 'lost' WHERE id IN (SELECT call FROM batch_members WHERE batch = ?) AND state = 'batch'"
)
_FORGET = "DELETE FROM batch_members WHERE key = ? AND batch = ?"
_COLUMNS = "name, id, file, identity, state, created"


@dataclass(frozen=True)
class Batch:
    """One batch as the ledger knows it.

    Attributes:
        name: a digest of its run, its members and the moment it was planned; the provider keeps it as metadata.
        id: the provider's name for it; None while it is not known to exist there.
        file: the provider's name for the file of requests; None before it is uploaded.
        identity: `provider/model`, with the address of a self-hosted endpoint after an "@".
        state: "planned", "sent" (it exists at the provider) or "settled" (its calls are paid, lost or given back).
        created: when it was planned, in seconds since 1970.
    """

    name: str
    id: str | None
    file: str | None
    identity: str
    state: str
    created: float


@dataclass(frozen=True)
class Bill:
    """What one member of a batch cost in US dollars (None: it counts at its worst case); tokens not told are < 0."""

    cost: float | None
    input_tokens: int
    output_tokens: int


class BatchBook:
    """The batches of a run, which has the same name in the ledger over all its builds.

    Raises:
        RaftError: the ledger cannot be used; so with every method.
    """

    def __init__(self, ledger: Ledger, run: str) -> None:
        self._ledger, self.run = ledger, run
        ledger.write_all((table, [()]) for table in _TABLES)

    def known(self, keys: Sequence[str]) -> frozenset[str]:
        """Return those of `keys` whose replies the ledger holds."""
        return frozenset(self._ledger.find(keys))

    def plan(self, identity: str, worst: Mapping[str, float | None], *, model: str, purpose: str) -> Batch | None:
        """Write down a batch that is about to be made, with its calls, all or nothing.

        It is None, and nothing is written, while another run has some of these calls in a batch of its own.

        `worst` holds the most dollars that each member can cost, by its key; None where the price is unknown. Its calls
        are counted under `model`, and under the step `purpose`.
        """
        now = time.time()
        planned: list[Batch] = []
        name = hashlib.sha256("\n".join([self.run, identity, repr(now), *worst]).encode()).hexdigest()[:32]

        def planning() -> Iterator[Writing]:
            if self._ledger.awaited_elsewhere(self.run, list(worst), ["batch"]):
                return
            planned.append(Batch(name, None, None, identity, "planned", now))
            yield _PLAN, [(name, self.run, identity, now)]
            for key, most in worst.items():
                yield _CALL, [(purpose, model, key, most, name)]
                yield _MEMBER, [(key, name)]

        self._ledger.write_all(planning())
        return planned[0] if planned else None

    def filed(self, batch: Batch, file: str) -> Batch:
        """Note that the file of requests is at the provider; an uploaded file costs nothing yet."""
        self._ledger.write("UPDATE batches SET file = ? WHERE name = ?", [(file, batch.name)])
        return self._read(batch)

    def sent(self, batch: Batch, name: str) -> Batch:
        """Note that the provider has made the batch, and calls it `name`."""
        self._ledger.write("UPDATE batches SET id = ?, state = 'sent' WHERE name = ?", [(name, batch.name)])
        return self._read(batch)

    def drop(self, batch: Batch) -> None:
        """Forget a planned batch that the provider never made: nothing was billed for its calls."""
        keys = self.keys(batch)
        self._ledger.write_all([*_giving_back(batch, keys), ("DELETE FROM batches WHERE name = ?", [(batch.name,)])])

    def settle(self, batch: Batch, paid: Mapping[str, Bill], free: Collection[str]) -> None:
        """Write down what became of a batch's calls, all or nothing; a second time changes nothing.

        Args:
            batch: one that is over.
            paid: what was answered, by key; it can be read from the batch again.
            free: keys of what was not done and not billed.

        All others are lost: nobody knows what they cost, so they count at their worst case.
        """
        others = [key for key in self.keys(batch) if key not in paid]
        bills = [
            (bill.cost, max(0, bill.input_tokens), max(0, bill.output_tokens), key, batch.name)
            for key, bill in paid.items()
        ]
        self._ledger.write_all(
            [
                (_PAID, bills),
                *_giving_back(batch, [key for key in others if key in free]),
                (_LOST, [(batch.name,)]),
                (_FORGET, [(key, batch.name) for key in others]),
                ("UPDATE batches SET state = 'settled' WHERE name = ?", [(batch.name,)]),
            ]
        )

    def forget(self, batch: Batch, keys: Collection[str]) -> None:
        """Note that the replies to `keys` cannot be read from the batch any more; what they cost stays counted."""
        self._ledger.write(_FORGET, [(key, batch.name) for key in keys])

    def unfinished(self, identity: str) -> list[Batch]:
        """Return this run's batches of a model that are not settled, in the order in which they were planned."""
        runs = json.dumps(self._ledger.names(self.run))
        which = "run IN (SELECT value FROM json_each(?)) AND identity = ? AND state != 'settled' ORDER BY created"
        rows = self._ledger.read(f"SELECT {_COLUMNS} FROM batches WHERE {which}", (runs, identity))  # noqa: S608
        return [Batch(*row) for row in rows]

    def holding(self, keys: Sequence[str]) -> dict[Batch, list[str]]:
        """Return the batches, made at the provider by any run, in which `keys` are, and which of them.

        A key is in one batch alone, the last that it was put into.
        """
        members = "batch_members JOIN batches ON name = batch AND id IS NOT NULL"
        rows = sorted(self._ledger.select(f"key, {_COLUMNS}", members, keys), key=lambda row: row[-1])
        last = {key: Batch(*row) for key, *row in rows}
        found: dict[Batch, list[str]] = {}
        for key, batch in last.items():
            found.setdefault(batch, []).append(key)
        return found

    def keys(self, batch: Batch) -> list[str]:
        """Return the keys of a batch's members."""
        return [key for (key,) in self._ledger.read("SELECT key FROM batch_members WHERE batch = ?", (batch.name,))]

    def _read(self, batch: Batch) -> Batch:
        (row,) = self._ledger.read(f"SELECT {_COLUMNS} FROM batches WHERE name = ?", (batch.name,))  # noqa: S608
        return Batch(*row)


def _giving_back(batch: Batch, keys: Sequence[str]) -> list[Writing]:
    pairs = [(key, batch.name) for key in keys]
    return [(_FREE, pairs), (_FORGET, pairs)]
