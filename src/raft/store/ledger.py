"""What has been paid for already: completions and embeddings, in SQLite, keyed by what was asked.

The key of a completion is the whole request, the model's identity, the sample number and the attempt, and nothing
that cannot change the reply (no timeout, no concurrency). Each write is one transaction: after `kill -9` at any
instant the file holds whole rows only. Many processes may share one ledger.

Beside the replies stand the calls: each that costs money is written down before it is sent (see `raft.store.budget`).
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from raft.errors import RaftError
from raft.protocols import Embedder, Message, Request, Scorer, Tokenizer, in_order
from raft.store import folders
from raft.store.run import is_locked
from raft.store.sqlite import PATIENTLY, Database, transaction
from raft.text import whole
from raft.text.secrets import ApiBase, each_address, shown_address

FORMAT = 1
_LEDGER = Database("The ledger", FORMAT, "what it held is then asked, and paid for, again")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, attempt INTEGER NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL,
  finish_reason TEXT NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
  cost REAL, seconds REAL NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (key TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL, purpose TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL,
  worst REAL, cost REAL, input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL CHECK (state IN ('open', 'paid', 'lost', 'batch')), created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE TABLE IF NOT EXISTS endpoints (
  model TEXT NOT NULL, address TEXT NOT NULL, known_as TEXT NOT NULL, PRIMARY KEY (model, address)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, place TEXT NOT NULL, cap REAL, created REAL NOT NULL);
"""
_OWN = "."  # the place of the run in whose folder the ledger lies, wherever both are moved
_ELSEWHERE = f"SELECT name FROM runs WHERE place != '{_OWN}'"  # noqa: S608
_REGISTER = (
    "INSERT INTO runs (name, place, cap, created) VALUES (?,?,?,?) ON CONFLICT (name) DO UPDATE"
    " SET place = excluded.place, cap = COALESCE(excluded.cap, cap), created = excluded.created"
)
_BATCH = 500
LOOK_SECONDS = 0.2
"""After which what another run has under way is looked for again."""
_ADD = (
    "INSERT INTO completions (key, model, attempt, request, reply, finish_reason, input_tokens, output_tokens, cost,"
    " seconds, created) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(key) DO NOTHING"
)

_T = TypeVar("_T")
Writing = tuple[str, Iterable[Sequence[object]]]
"""An SQL statement, and the rows that it is carried out with, one after the other."""


@dataclass(frozen=True)
class Entry:
    """One reply of a model, as it came.

    `cost` is in US dollars, None when the price is unknown; `seconds` how long the call took.
    """

    key: str
    model: str
    attempt: int
    request: str
    reply: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float


def request_key(request: Request, identity: str, attempt: int) -> str:
    """Return the key under which the reply to `request` by the model `identity` is kept (SHA-256, hex)."""
    return _digest(f"{request_text(request)}\n{identity}\n{request.sample}\n{attempt}")


def request_text(request: Request) -> str:
    """Return what is asked as canonical JSON; the check and the sample number are not part of it."""
    asked = {
        "messages": list(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "schema": request.schema,
    }
    return json.dumps(asked, sort_keys=True, ensure_ascii=False)


class Ledger:
    """An open ledger file.

    Args:
        path: the file; it is made if missing, together with its folder.

    Attributes:
        path: as given.
        shared: what is known of each run as long as the ledger is open, by the run's name; see `raft.store.budget`.

    Raises:
        RaftError: the file is no ledger, is damaged, or cannot be written; so with every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shared: dict[str, Any] = {}
        self._lock = threading.RLock()  # what is written may depend on what is read in the same transaction
        with _LEDGER.guarded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.stat().st_size and folders.is_foreign(path):
                hint = "--set ledger=another-file.sqlite"
                raise RaftError("The file is the database of another program, and no ledger.", where=path, hint=hint)
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            PATIENTLY(self._db.execute, "PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_autocheckpoint=8000")  # pages; each checkpoint waits for the disk
            _LEDGER.check_format(self._db, path)
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        began = self.read("PRAGMA data_version")
        self._untouched = [] if self.read("SELECT 1 FROM calls WHERE state = 'open' LIMIT 1") else began

    def close(self) -> None:
        """Close the file; the ledger is of no use afterwards."""
        self._db.close()

    def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that exist among `keys`."""
        columns = "key, model, attempt, request, reply, finish_reason, input_tokens, output_tokens, cost, seconds"
        return {row[0]: Entry(*row) for row in self.select(columns, "completions", keys)}

    def add(self, entries: Iterable[Entry]) -> None:
        """Store entries, all or none; one that is there already is left as it is."""
        self.write_all([adding(entries)])

    def find_vectors(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the float32 vectors that exist among `keys`."""
        rows = self.select("key, vector", "embeddings", keys)
        return {key: np.frombuffer(blob, dtype=np.float32) for key, blob in rows}

    def add_vectors(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Store vectors, all or none."""
        rows = [(key, vector.astype(np.float32).tobytes()) for key, vector in vectors.items()]
        self.write("INSERT INTO embeddings (key, vector) VALUES (?,?) ON CONFLICT(key) DO NOTHING", rows)

    def spent(self) -> list[dict[str, object]]:
        """Return calls, tokens and dollars by model over the ledger's whole life; unknown prices are counted apart."""
        query = (
            "SELECT model, COUNT(*), SUM(input_tokens), SUM(output_tokens), SUM(cost), SUM(cost IS NULL),"
            " SUM(seconds) FROM completions GROUP BY model ORDER BY model"
        )
        names = ("model", "calls", "input_tokens", "output_tokens", "cost", "calls_without_price", "seconds")
        return [dict(zip(names, row, strict=True)) for row in self.read(query)]

    def spending(self, run: str) -> list[dict[str, Any]]:
        """Return what a run has spent over its whole life, a row for each purpose and model.

        `calls` were paid for, with `input_tokens`, `output_tokens` and `cost` in dollars; of `lost` ones nobody knows
        what they cost, `lost_cost` at most; for `open` ones a process awaits the reply (or was killed while it did),
        and for `batch` ones a batch is awaited, likewise; `calls_without_price` are of all these. Of
        `calls_without_usage` the provider told no tokens that can be believed: they were paid at their worst case.
        """
        query = (
            "SELECT purpose, model, SUM(state = 'paid'), SUM(input_tokens), SUM(output_tokens),"
            " TOTAL(CASE WHEN state = 'paid' THEN cost END), SUM(state = 'lost'),"
            " TOTAL(CASE WHEN state = 'lost' THEN worst END), SUM(state = 'open'),"
            " TOTAL(CASE WHEN state = 'open' THEN worst END), SUM(state = 'batch'),"
            " TOTAL(CASE WHEN state = 'batch' THEN worst END), SUM(cost IS NULL AND worst IS NULL),"
            " SUM(state = 'paid' AND input_tokens = 0)"
            " FROM calls WHERE run IN (SELECT value FROM json_each(?)) GROUP BY purpose, model ORDER BY MIN(id)"
        )
        names = "purpose model calls input_tokens output_tokens cost lost lost_cost open open_cost batch batch_cost"
        titles = [*names.split(), "calls_without_price", "calls_without_usage"]
        return [dict(zip(titles, row, strict=True)) for row in self.read(query, (json.dumps(self.names(run)),))]

    def register(self, run: str, folder: Path, cap: float | None) -> None:
        """Note where a run is built, and the most dollars that it may cost; None: what was noted before holds."""
        self.write(_REGISTER, [(run, self._place(folder), cap, time.time())])

    def run_at(self, folder: Path) -> tuple[str | None, float | None]:
        """Return name and cap of the run that was last built in a folder; None for what is not known here."""
        place = self._place(folder)
        found = self.read("SELECT name, cap FROM runs WHERE place = ? ORDER BY created DESC LIMIT 1", (place,))
        if not found and place == _OWN:  # made by an earlier raft, which noted names with calls only
            last = f"SELECT run, NULL FROM calls WHERE run != '' AND run NOT IN ({_ELSEWHERE}) ORDER BY id DESC LIMIT 1"  # noqa: S608
            found = self.read(last)
        return found[0] if found else (None, None)

    def names(self, run: str) -> list[str]:
        """Return a run's name, and all that it ever had: what a ledger in its own folder has of no other run."""
        own = "SELECT 1 FROM runs WHERE name = ? AND place = ?"
        others = f"SELECT DISTINCT run FROM calls WHERE run NOT IN ('', ?) AND run NOT IN ({_ELSEWHERE})"  # noqa: S608
        earlier = self.read(others, (run,)) if self.read(own, (run, _OWN)) else []
        return [run, *(name for (name,) in earlier)]

    def untouched(self) -> bool:
        """Tell whether nobody else has written since this file was opened, nor was a call open then."""
        return self.read("PRAGMA data_version") == self._untouched

    def awaited_elsewhere(self, run: str, keys: Sequence[str], states: Sequence[str] = ("open",)) -> set[str]:
        """Return those of `keys` that another run asks for now; what a killed process asked for does not count.

        `states` are those of its calls.
        """
        names = ", ".join(f"'{state}'" for state in states)
        table = f"calls JOIN runs ON run = name AND state IN ({names})"
        found = [(key, place) for key, name, place in self.select("key, name, place", table, keys) if name != run]
        places = {place: self.path.parent if place == _OWN else Path(place) for _, place in found}
        alive = {place for place, folder in places.items() if is_locked(folder)}
        return {key for key, place in found if place in alive}

    def _place(self, folder: Path) -> str:
        return _OWN if folder.resolve() == self.path.parent.resolve() else str(folder.resolve())

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query; for modules that keep tables of their own in the ledger."""
        with _LEDGER.guarded(self.path), self._lock:
            return self._db.execute(query, parameters).fetchall()

    def write(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Carry out a statement once a row, all or none; for modules that keep tables of their own in the ledger."""
        self.write_all([(statement, rows)])

    def write_all(self, writings: Iterable[Writing]) -> int:
        """Carry out several statements, all or none, and return the number of the row that was inserted last."""
        last = 0
        with _LEDGER.guarded(self.path), self._lock, transaction(self._db):
            for statement, rows in writings:
                for row in rows:
                    last = self._db.execute(statement, row).lastrowid or last
        return last

    def select(self, columns: str, table: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield these columns of the rows of a table that have one of these keys."""
        for begin in range(0, len(keys), _BATCH):
            part = keys[begin : begin + _BATCH]
            query = f"SELECT {columns} FROM {table} WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
            yield from self.read(query, part)


def adding(entries: Iterable[Entry]) -> Writing:
    """Return what stores entries, for a transaction that does more; one that is there already is left as it is."""
    now = time.time()
    return _ADD, [tuple(whole([*vars(entry).values(), now])) for entry in entries]


def kept_under(model: Any) -> Sequence[str]:
    """Return the identities under which replies or vectors of a model may be kept: its own first, others after it."""
    found: Sequence[str] = getattr(model, "identities", (model.identity,))
    return found


def known_as(ledger: Ledger, model: str, api_base: ApiBase) -> tuple[str, ...]:
    """Return the addresses under which replies of a model are kept: that for new ones first, then others to look at.

    Keys of replies hold one address. Of several that answer the same the ledger takes note which it is, and that stays,
    so that an address may be added or taken away, the first one too, and nothing is asked again. Of one that was never
    among several, it is that one; of none, there are none.
    """
    given = [shown_address(one) for one in each_address(api_base)]
    rows = ledger.read("SELECT address, known_as FROM endpoints WHERE model = ?", (model,)) if given else []
    settled: dict[str, str] = dict(rows)
    names = list(dict.fromkeys(settled[one] for one in given if one in settled)) or given[:1]
    if len(given) > 1 and (new := [one for one in given if one not in settled]):
        add = "INSERT INTO endpoints (model, address, known_as) VALUES (?,?,?) ON CONFLICT DO NOTHING"
        ledger.write(add, [(model, one, names[0]) for one in new])
    same = [address for address, name in rows if name in names]
    return tuple(dict.fromkeys([*names, *given, *same]))


class AwaitedElsewhere(Exception):
    """Another run of this ledger asks for the same now, and will have stored it soon; nothing was sent."""


class CachedEmbedder:
    """An embedder that looks into the ledger first; each text is embedded once.

    Args:
        embedder: the one that does the work.
        ledger: where vectors are kept, so many texts at a time as the embedder's `window` says, or else `WINDOW`.
        told: told how many texts were embedded, a window at a time.
    """

    WINDOW = 512

    def __init__(self, embedder: Embedder, ledger: Ledger, told: Callable[[int], None] = lambda count: None) -> None:
        self._embedder, self._ledger, self._told = embedder, ledger, told
        self._size: int = getattr(embedder, "window", self.WINDOW)
        self.identity: str = embedder.identity
        self._others = kept_under(embedder)[1:]
        self.tokenizer: Tokenizer = embedder.tokenizer
        self.max_tokens: int = embedder.max_tokens
        self.ahead: int = getattr(embedder, "ahead", 0)
        self._under_way: set[str] = set()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), dimensions) whose rows have length 1."""
        return self.begin(texts)()

    def begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """Begin to embed texts, where the embedder does so elsewhere, and return what waits for the array of `embed`.

        `ahead` says how many lots of texts may be begun at a time; they are to be waited for in their order.
        """
        keys, others = self._keys(texts), self._elsewhere(texts)
        windows = _windows(
            self._ledger,
            keys,
            texts,
            window=self._size,
            begin=self._begin,
            elsewhere=others,
            under_way=self._under_way,
        )
        begun = list(islice(windows, 1))

        def wait() -> np.ndarray:
            vectors = [one for part in in_order(chain(begun, windows), self.ahead) for one in part]
            return np.stack(vectors).astype(np.float32) if vectors else np.empty((0, 0), dtype=np.float32)

        return wait

    def uncached(self, texts: Sequence[str]) -> np.ndarray:
        """Return what the embedder says now; nothing is looked up or kept, and nobody waits for it."""
        vectors: np.ndarray = getattr(self._embedder, "uncached", self._embedder.embed)(texts)
        return vectors

    def known(self, texts: Sequence[str]) -> list[bool]:
        """Tell of each text whether it is in the ledger."""
        keys = self._keys(texts)
        others = self._elsewhere(texts)
        every = [*keys, *(other for some in others.values() for other in some)]
        found = {key for (key,) in self._ledger.select("key", "embeddings", every)}
        return [not found.isdisjoint((key, *others.get(key, ()))) for key in keys]

    def _elsewhere(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return by key under which others the same may be, where several endpoints embed the same."""
        if not self._others:
            return {}
        by_identity = [self._keys(texts, identity) for identity in self._others]
        return dict(zip(self._keys(texts), zip(*by_identity, strict=True), strict=True))

    def _begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        begin = getattr(self._embedder, "begin", None)
        wait = begin(texts) if begin else lambda: self._embedder.embed(texts)

        def told() -> np.ndarray:
            vectors: np.ndarray = wait()
            self._told(len(texts))
            return vectors

        return told

    def _keys(self, texts: Sequence[str], identity: str | None = None) -> list[str]:
        return [_digest(f"{identity or self.identity}\n{text}") for text in texts]


class CachedScorer:
    """A scorer that looks into the ledger first; how likely a text is, is computed once.

    Args:
        scorer: the one that does the work.
        ledger: where likelihoods are kept, as vectors of three numbers.
    """

    WINDOW = 256

    def __init__(self, scorer: Scorer, ledger: Ledger) -> None:
        self._scorer, self._ledger = scorer, ledger
        self.identity: str = scorer.identity

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool, int]]:
        """Return what the scorer returns, log-likelihoods rounded to 32 bits."""
        keys = [_digest(json.dumps(["likelihood", self.identity, *pair])) for pair in pairs]

        def begin(some: list[tuple[str, str]]) -> Callable[[], np.ndarray]:
            return lambda: np.array(self._scorer.score(some))

        windows = _windows(self._ledger, keys, pairs, window=self.WINDOW, begin=begin)
        return [
            (float(likely), bool(greedy), int(count))
            for likely, greedy, count in chain.from_iterable(window() for window in windows)
        ]

    def render(self, messages: Sequence[Message]) -> str:
        """Return what the scorer returns."""
        return self._scorer.render(messages)


def _windows(
    ledger: Ledger,
    keys: Sequence[str],
    asked: Sequence[_T],
    *,
    window: int,
    begin: Callable[[list[_T]], Callable[[], np.ndarray]],
    elsewhere: Mapping[str, Sequence[str]] = MappingProxyType({}),
    under_way: set[str] | None = None,
) -> Iterator[Callable[[], list[np.ndarray]]]:
    """Yield what waits for the vectors of each window of `keys`, whose missing ones are begun with it.

    What is `under_way` for a window before is not begun again.
    """
    # A window is stored whole, so that a build that was killed asks the same batches when it goes on: the last bits of
    # a vector depend on what it was batched with.
    sent = set() if under_way is None else under_way
    for start in range(0, len(keys), window):
        part = dict(zip(keys[start : start + window], asked[start : start + window], strict=True))
        yield _window(ledger, keys[start : start + window], part, begin=begin, elsewhere=elsewhere, sent=sent)


def _window(
    ledger: Ledger,
    keys: Sequence[str],
    asked: Mapping[str, _T],
    *,
    begin: Callable[[list[_T]], Callable[[], np.ndarray]],
    elsewhere: Mapping[str, Sequence[str]],
    sent: set[str],
) -> Callable[[], list[np.ndarray]]:
    known = ledger.find_vectors(keys)
    if left := {key: elsewhere[key] for key in keys if key not in known and key in elsewhere}:
        there = ledger.find_vectors([other for others in left.values() for other in others])
        known |= {key: there[other] for key, others in left.items() for other in reversed(others) if other in there}
    own = [key for key in asked if key not in known and key not in sent]
    sent.update(own)
    first = begin([asked[key] for key in own]) if own else None

    def wait() -> list[np.ndarray]:
        missing, awaited = own, first
        while True:
            try:
                made = awaited().astype(np.float32) if awaited else ()
            except AwaitedElsewhere:
                time.sleep(LOOK_SECONDS)
            else:
                uncached = dict(zip(missing, made, strict=True)) if awaited else {}
                ledger.add_vectors(uncached)
                known.update(uncached)
                sent.difference_update(uncached)
            if left := [key for key in asked if key not in known]:  # what others, or a window before, have made
                known.update(ledger.find_vectors(left))
            missing = [key for key in left if key not in known]
            if not missing:
                return [known[key] for key in keys]
            awaited = begin([asked[key] for key in missing])

    return wait


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
