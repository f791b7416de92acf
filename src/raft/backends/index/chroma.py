"""The index of vectors: Chroma in a folder or on a server, kept in step with the chunks by their ids.

Chroma computes no embeddings here and sends no telemetry. A chunk's entry carries the digest of the text that was
embedded, so that an unchanged chunk is never embedded again.
"""

import hashlib
import pickle
import sqlite3
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from raft.backends.vendors import import_without
from raft.errors import DamagedArtifact, OtherEmbedder, RaftError, UsageError
from raft.protocols import Embedder, in_order
from raft.similarity import nearest_rows
from raft.store.tables import HITS
from raft.text import embedded_text

_BATCH = 256
_LOG = 8192  # vectors that Chroma keeps in its log before it writes all to files, with each time all names
_PAGE = 5000
_SPARE = 10
"""Neighbours asked for beyond k, so that ties at the end are broken by chunk_id and not by the graph."""

_CHUNK = {name: HITS[name] for name in ("chunk_id", "doc_id", "text")}

_VECTORS = "SELECT id FROM segments JOIN max_seq_id ON id = segment_id WHERE scope = 'VECTOR'"
"""Segments of vectors that Chroma has written to files; where they are gone, it finds only the newest chunks."""
_CONTENTS = """
SELECT embedding_id, string_value FROM embeddings JOIN embedding_metadata USING (id)
JOIN segments ON segments.id = segment_id WHERE collection = ? AND key = 'digest'
"""
_HEADER = struct.Struct("<i6QiI3QdQ")  # of hnswlib's index, as Chroma writes it
_BLOCK, _MOST = 1 << 12, 1 << 16  # rows looked at in one go, and in all
_SMALL = 1 << 28  # bytes of a database that is read whole before it is used; a larger one is opened as it is
_NEAR = 1e-2

_REBUILD = "delete the folder and run the same raft command again: it is built anew"


class Changes(NamedTuple):
    """What `sync` did: how many chunks were embedded (new or changed), deleted, and left as they were."""

    embedded: int
    deleted: int
    unchanged: int


class ChromaIndex(AbstractContextManager["ChromaIndex"]):
    """Chunks by cosine similarity; a `Retriever`. One writer at a time.

    Close it (or use it in a `with` block) before its folder is deleted.

    Args:
        embedder: embeds chunks, and queries.
        folder: where the index lies; it is made if it is missing. Not together with `url`.
        url: address of a Chroma server, `http://host:port`.
        name: the collection's name; on a server each run needs its own.
        exact: compare queries with every vector: Chroma's graph, made by several threads, differs from build to build.
        asker: embeds queries in the place of `embedder`, into the same space.

    Attributes:
        embedder: as given.

    Raises:
        UsageError: both or none of `folder` and `url`, or the server is out of reach.
        OtherEmbedder: the index was made with another embedder.
        DamagedArtifact: the folder's files are not what Chroma wrote; deleting it and building anew helps.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        folder: Path | None = None,
        url: str | None = None,
        name: str = "chunks",
        exact: bool = False,
        asker: Embedder | None = None,
    ) -> None:
        if (folder is None) == (url is None):
            raise UsageError("An index lies in a folder or on a server.", hint="give a folder or index.url, not both")
        self.embedder, self._folder, self._name, self._exact = embedder, folder, name, exact
        self._asker = asker or embedder
        self._where = str(folder or url)
        self._open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; the folder can then be deleted, moved or opened again."""
        self._end()

    def _open(self) -> None:
        self._client = _open_folder(self._folder) if self._folder else _open_server(self._where)
        self._end = weakref.finalize(self, self._client.close)  # whoever forgets to close it leaves no file open
        self._end.atexit = False
        try:
            self._collection = self._find()
            self._check()
        except BaseException:
            self.close()
            raise

    def sync(self, chunks: Iterable[pl.DataFrame]) -> Changes:
        """Make the index hold exactly these chunks; only new and changed ones are embedded.

        A sync that was cut off is completed by the next one.

        Args:
            chunks: frames with `chunk_id`, `doc_id`, `heading` and `text`; of the whole corpus only ids are kept.
        """
        before = self.contents()
        size = min(_BATCH, self._client.get_max_batch_size())
        wanted: set[str] = set()
        embedded = 0
        pending = map(self._begun, _pending(chunks, before, wanted, size))
        for batch, vectors in in_order(pending, getattr(self.embedder, "ahead", 0)):
            self._write(batch, vectors)
            embedded += len(batch)
        vanished = sorted(before.keys() - wanted)
        for start in range(0, len(vanished), size):
            self._guard(self._collection.delete, ids=vanished[start : start + size])
        if self._folder and (embedded or vanished):
            self._write_down()
        for known in ("identity", "_everything"):
            self.__dict__.pop(known, None)
        return Changes(embedded, len(vanished), len(wanted) - embedded)

    @cached_property
    def identity(self) -> str:
        """What search results depend on: the embedders and the indexed chunks, all of which are read for it."""
        own = "" if self._asker is self.embedder else f":{self._asker.identity}"
        return f"chroma:{self.digest()}{own}"

    def size(self) -> int:
        """Return how many chunks are indexed."""
        return int(self._guard(self._collection.count)) if self._collection is not None else 0

    def contents(self) -> dict[str, str]:
        """Return the indexed chunk ids, each with the digest of the text that was embedded."""
        size = self.size()  # asked first, for which Chroma writes down what it has in its log alone
        found = self._listed() if size and self._folder else {}
        return found if len(found) == size else self._paged()

    def _listed(self) -> dict[str, str]:
        # what Chroma's tables list, many times as fast as it says so itself; nothing where they cannot be read
        address = f"{(Path(self._where) / 'chroma.sqlite3').resolve().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True)) as opened:
                return dict(opened.execute(_CONTENTS, (str(self._collection.id),)))
        except sqlite3.Error:  # of another version of Chroma, or in use
            return {}

    def _paged(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while True:
            page = self._guard(self._collection.get, limit=_PAGE, offset=len(found), include=["metadatas"])
            found.update(zip(page["ids"], (entry["digest"] for entry in page["metadatas"]), strict=True))
            if len(page["ids"]) < _PAGE:
                return found

    def digest(self) -> str:
        """Return a stable digest of the embedder and the sorted (chunk id, text digest) pairs."""
        whole = hashlib.sha256(self.embedder.identity.encode())
        for chunk_id, digest in sorted(self.contents().items()):
            whole.update(f"\n{chunk_id} {digest}".encode())
        return whole.hexdigest()

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query as a frame of `tables.HITS`; the score is the cosine.

        Equal scores are ordered by chunk_id. Fewer come back where the index holds fewer, or hundreds of chunks whose
        vectors are the same.
        """
        size = self.size()
        if not queries or not size:
            return pl.DataFrame(schema=HITS)
        find = self._exactly if self._exact else self._nearest
        # float32 noise below the sixth digit must not decide an order
        return (
            find(self._asker.embed(queries), k, size)
            .with_columns(score=(1.0 - pl.col("distance")).round(6))
            .sort("query", "score", "chunk_id", descending=[False, True, False])
            .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("query"))
            .filter(pl.col("rank") <= k)
            .select(list(HITS))
        )

    def _begun(self, batch: list[dict[str, str]]) -> Callable[[], tuple[list[dict[str, str]], Any]]:
        texts = [row["embedded"] for row in batch]
        begin = getattr(self.embedder, "begin", None)
        wait = begin(texts) if begin else lambda: self.embedder.embed(texts)
        return lambda: (batch, wait())

    def _write(self, batch: list[dict[str, str]], vectors: Any) -> None:
        if self._collection is None:
            self._collection = self._create(vectors.shape[1])
        self._guard(
            self._collection.upsert,
            ids=[row["chunk_id"] for row in batch],
            embeddings=vectors,
            documents=[row["text"] for row in batch],
            metadatas=[{"doc_id": row["doc_id"], "digest": row["digest"]} for row in batch],
        )

    def _write_down(self) -> None:
        """Have Chroma write its log to the files: what is there alone it puts into the graph at each opening anew."""
        for most in (2, _LOG):  # it takes none under 2
            self._guard(self._collection.modify, configuration={"hnsw": {"sync_threshold": most}})
            self.close()
            self._open()

    def _create(self, dimensions: int) -> Any:
        return self._client.create_collection(
            self._name,
            embedding_function=None,
            metadata={"embedder": self.embedder.identity, "dimensions": dimensions},
            configuration={
                "hnsw": {"space": "cosine", "ef_construction": 200, "ef_search": 256, "sync_threshold": _LOG}
            },
        )

    def _find(self) -> Any:
        from chromadb.errors import NotFoundError

        try:
            return self._guard(self._client.get_collection, self._name, embedding_function=None)
        except NotFoundError:
            return None

    def _check(self) -> None:
        """Refuse another embedder's index, and files that no search can use."""
        if self._collection is None:
            if self._folder and any(path.is_dir() for path in self._folder.iterdir()):
                raise DamagedArtifact("The index has vectors but no list of them.", where=self._where, hint=_REBUILD)
            return
        made_with = (self._collection.metadata or {}).get("embedder")
        if made_with != self.embedder.identity:
            raise OtherEmbedder(
                f"The index was made with the embedder {made_with}, and {self.embedder.identity} is asked for.",
                where=self._where,
                hint="set index.embedder back, or delete the index and run raft build again",
            )
        size = self._guard(self._collection.count)
        if size:
            axis = np.eye(1, self._collection.metadata["dimensions"], dtype=np.float32)
            self._query(axis, min(_SPARE, size))

    def _nearest(self, vectors: np.ndarray, k: int, size: int) -> pl.DataFrame:
        reply = self._query(vectors, min(k + _SPARE, size))
        rows = [
            {"query": query, "chunk_id": chunk_id, "doc_id": entry["doc_id"], "distance": distance, "text": text}
            for query, columns in enumerate(
                zip(reply["ids"], reply["metadatas"], reply["distances"], reply["documents"], strict=True)
            )
            for chunk_id, entry, distance, text in zip(*columns, strict=True)
        ]
        return pl.DataFrame(rows, schema={"query": pl.Int64, **_CHUNK, "distance": pl.Float64})

    def _query(self, vectors: np.ndarray, count: int) -> Any:
        include = ["documents", "metadatas", "distances"]
        return self._guard(self._collection.query, query_embeddings=vectors, n_results=count, include=include)

    def _exactly(self, vectors: np.ndarray, k: int, size: int) -> pl.DataFrame:
        chunks, matrix = self._everything
        if not np.isfinite(vectors).all():
            what = f"The embedder {self.embedder.identity} made a vector of a question that holds no numbers (NaN)."
            raise RaftError(what, where=self._where, hint="set index.embedder to another one, and raft build again")
        places, distances = nearest_rows(vectors, matrix, min(k, size))
        query = pl.Series("query", np.arange(places.size) // places.shape[1], dtype=pl.Int64)
        distance = pl.Series("distance", distances.ravel(), dtype=pl.Float64)
        return chunks[places.ravel()].with_columns(query, distance)

    @cached_property
    def _everything(self) -> tuple[pl.DataFrame, np.ndarray]:
        """All chunks in the order of their ids, so that among equals the smaller one comes first, and their vectors."""
        parts: list[pl.DataFrame] = []
        vectors: list[np.ndarray] = []
        while sum(map(len, parts)) % _PAGE == 0:
            include = ["embeddings", "documents", "metadatas"]
            page = self._guard(self._collection.get, limit=_PAGE, offset=sum(map(len, parts)), include=include)
            if not page["ids"]:
                break
            owners = [entry["doc_id"] for entry in page["metadatas"]]
            parts.append(pl.DataFrame([page["ids"], owners, page["documents"]], schema=_CHUNK))
            vectors.append(np.asarray(page["embeddings"], dtype=np.float32))
        chunks = pl.concat(parts).with_row_index("row").sort("chunk_id")
        return chunks.drop("row"), np.concatenate(vectors)[chunks["row"]]

    def _guard(self, call: Any, *args: Any, **options: Any) -> Any:
        """Call Chroma; what it says of unreadable files becomes an error that a caller can act on."""
        from chromadb.errors import InternalError

        try:
            return call(*args, **options)
        except BaseException as error:
            if _is_panic(error):
                raise DamagedArtifact(f"The index cannot be read: {error}", where=self._where, hint=_REBUILD) from None
            if not isinstance(error, InternalError):
                raise
            if self._folder is None:
                hint = "look at the server's log, then the same command again"
                raise RaftError(f"The Chroma server failed: {error}", where=self._where, hint=hint) from None
            if "locked" in str(error):
                raise _in_use(self._where) from None
            raise DamagedArtifact(f"The index cannot be read: {error}", where=self._where, hint=_REBUILD) from None


def _import_chroma() -> tuple[Any, Any]:
    """Return Chroma, and settings with which it sends no telemetry."""
    import_without("httpx", "pygments")  # Chroma's HTTP client has a command, for which it takes rich and more
    import chromadb
    from chromadb.config import Settings

    return chromadb, Settings(anonymized_telemetry=False)


def _open_folder(folder: Path) -> Any:
    chromadb, quietly = _import_chroma()
    database = folder / "chroma.sqlite3"
    if database.exists():
        try:
            wrong = _damage(database)
        except BlockingIOError:
            raise _in_use(database) from None
        if wrong is not None:
            raise DamagedArtifact(wrong, where=database, hint=_REBUILD)
    else:  # a client of this process that is still open would be handed out again, with files that are gone
        from chromadb.api.shared_system_client import SharedSystemClient

        SharedSystemClient._identifier_to_system.pop(str(folder.resolve()), None)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return chromadb.PersistentClient(str(folder.resolve()), settings=quietly)
    except BaseException as error:
        if _is_panic(error):
            raise DamagedArtifact(f"The index cannot be read: {error}", where=folder, hint=_REBUILD) from None
        raise


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"  # of Rust, which is no Exception


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an index")


def _damage(database: Path) -> str | None:
    """Return what is wrong with the index of this database, in words; None where nothing is.

    A journal that a process left when it was killed is rolled back. Of very many vectors an even share is looked at.

    Raises:
        BlockingIOError: another process writes to it.
    """
    address = f"{database.resolve().as_uri()}?mode=rw"  # to be read alone, a journal would have to be gone already
    try:
        with closing(sqlite3.connect(address, uri=True)) as opened:
            small = database.stat().st_size <= _SMALL
            (state,) = opened.execute("PRAGMA quick_check(1)").fetchone() if small else ("ok",)
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
            written = opened.execute(_VECTORS).fetchall() if {"segments", "max_seq_id"} <= tables else []
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise BlockingIOError from None
        return f"The index cannot be read: {error}"
    if state != "ok":
        return f"The index cannot be read: {state}"
    for (segment,) in written:
        folder = database.parent / segment
        if not (folder / "data_level0.bin").is_file():
            return "The index has lost its vectors."
        try:
            _read(folder)
        except Exception as error:  # a damaged pickle raises whatever it likes
            return f"The index's vectors are damaged: {error}."
    return None


def _read(folder: Path) -> None:
    fields = _HEADER.unpack((folder / "header.bin").read_bytes())
    version, _, room, count, size, label, begin, _, entry, upper, width, *_ = fields
    _must(
        version == 1 and begin == 4 + 4 * width and label + 8 == size and begin < label and count <= room, "the header"
    )
    kept, rest = divmod((folder / "data_level0.bin").stat().st_size, size)
    _must(not rest and count <= kept <= room, "the size of the vectors")  # rows that are not filled yet may be left out
    if not count:
        return
    _must(entry < count, "the header")
    rows = np.memmap(folder / "data_level0.bin", dtype=np.uint8, mode="r", shape=(count, size))
    for start in range(0, count, _BLOCK * -(-count // _MOST)):
        part = np.array(rows[start : min(count, start + _BLOCK)])
        links = part[:, :begin].copy().view("<u4")
        used = links[:, :1] & 0xFFFF
        linked = links[:, 1:][np.arange(width) < used]
        _must(bool((used <= width).all()) and bool((linked < count).all()), "the graph")
        lengths = np.linalg.norm(part[:, begin:label].copy().view("<f4"), axis=1)
        _must(bool((np.abs(lengths - 1) < _NEAR).all()), "a vector")
    if count > _MOST:  # Chroma says itself where the rest is not whole, and takes seconds to read as much of it
        return
    _read_upper(folder / "link_lists.bin", count, upper)
    with (folder / "index_metadata.pickle").open("rb") as file:
        names = _Plain(file).load()
    _must(isinstance(names, dict) and len(names.get("id_to_label", ())) <= room, "the names")


def _read_upper(path: Path, count: int, width: int) -> None:
    content = path.read_bytes()
    _must(len(content) % 4 == 0, "the size of the graph")
    words = np.frombuffer(content, "<u4")  # of each row how many bytes follow, mostly none, and these
    place = rows = 0
    for begin in np.flatnonzero(words).tolist():
        if begin < place:
            continue
        end = begin + 1 + int(words[begin]) // 4
        linked = words[begin + 1 : end]
        rows, place = rows + begin - place + 1, end
        _must(words[begin] % (4 * width + 4) == 0 and end <= len(words), "the graph")
        for level in linked.reshape(-1, width + 1):
            _must(bool(level[0] <= width) and bool((level[1 : 1 + level[0]] < count).all()), "the graph")
    _must(rows + len(words) - place == count, "the size of the graph")


def _must(holds: bool, what: str) -> None:
    """Refuse a file; `what` is the part of it that is not as it was written.

    Raises:
        ValueError: it does not hold.
    """
    if not holds:
        raise ValueError(f"{what} is not as it was written")


def _in_use(where: object) -> RaftError:
    return RaftError("The index is in use by another process.", where=where, hint="wait for it to end, then try again")


def _open_server(url: str) -> Any:
    chromadb, quietly = _import_chroma()
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError(
            f"{url} is no address of a Chroma server.", where="index.url", hint="index.url: http://localhost:8000"
        )
    secure = address.scheme == "https"
    try:
        port = address.port or (443 if secure else 8000)
        return chromadb.HttpClient(host=address.hostname, port=port, ssl=secure, settings=quietly)
    except ValueError as error:
        raise UsageError(f"The Chroma server does not answer: {error}", where=url, hint="chroma run") from None


def _entries(chunks: Iterable[pl.DataFrame]) -> Iterator[dict[str, str]]:
    for part in chunks:
        for row in part.select("chunk_id", "doc_id", "heading", "text").iter_rows(named=True):
            text = embedded_text(row["heading"], row["text"])
            yield {**row, "embedded": text, "digest": hashlib.sha256(text.encode()).hexdigest()}


def _pending(
    chunks: Iterable[pl.DataFrame], before: Mapping[str, str], wanted: set[str], size: int
) -> Iterator[list[dict[str, str]]]:
    """Yield rows that are not in the index as they are, so many at a time; `wanted` learns of all ids."""
    pending: list[dict[str, str]] = []
    for row in _entries(chunks):
        if row["chunk_id"] in wanted:
            continue
        wanted.add(row["chunk_id"])
        if before.get(row["chunk_id"]) != row["digest"]:
            pending.append(row)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending
