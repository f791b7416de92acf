"""The retriever that building, answering and benchmarks share: vectors, or vectors and words together."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from raft.backends.index.bm25 import LexicalIndex
from raft.backends.index.chroma import ChromaIndex
from raft.errors import DamagedArtifact, OtherEmbedder, RaftError
from raft.protocols import Embedder
from raft.store import artifacts, folders
from raft.store.again import again
from raft.store.tables import HITS


def fuse(hits: Sequence[pl.DataFrame], k: int, constant: int = 60) -> pl.DataFrame:
    """Fuse rankings by reciprocal rank: a chunk scores the sum of 1 / (constant + rank) over the lists that hold it.

    Only ranks count, so that lists whose scores have different scales can be fused. The order of the lists does not
    matter; chunks of equal score are ordered by chunk_id.

    Args:
        hits: frames of `tables.HITS`, one a retriever, for the same queries.
        k: chunks to keep for a query.
        constant: the larger, the less the first ranks weigh against the later ones; 60 is the paper's.

    Returns:
        A frame of `tables.HITS`, ordered by query and rank.

    References:
        Cormack, Clarke and Büttcher: Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods. SIGIR 2009.
    """
    return (
        pl.concat([pl.DataFrame(schema=HITS), *hits])
        .group_by("query", "chunk_id")
        .agg(
            pl.col("doc_id").first(),
            # sorted, because the last digit of a sum depends on the order of its terms
            score=(1 / (constant + pl.col("rank").sort())).sum(),
            text=pl.col("text").first(),
        )
        .sort("query", "score", "chunk_id", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("query"))
        .filter(pl.col("rank") <= k)
        .select(list(HITS))
    )


_MADE = r"chroma\.sqlite3(?:-journal|-wal|-shm)?|[0-9a-f-]{36}/[\w.]+"
_CHUNK = ("chunk_id", "doc_id", "text")
DEPTH = 50
"""Chunks that each list contributes to the fusion; fixed, so that a larger k only lengthens a result."""


class HybridRetriever(AbstractContextManager["HybridRetriever"]):
    """Vectors and words fused by reciprocal rank; a `Retriever`.

    Args:
        dense: finds chunks that mean the same.
        lexical: finds chunks that say the same.
    """

    def __init__(self, dense: ChromaIndex, lexical: LexicalIndex) -> None:
        self._dense, self._lexical = dense, lexical
        self.embedder = dense.embedder

    @property
    def identity(self) -> str:
        """What search results depend on: both indexes."""
        return f"fused:{DEPTH}({self._dense.identity},{self._lexical.identity})"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._dense.close()

    def digest(self) -> str:
        """Return the digest of the vectors' index (`ChromaIndex.digest`)."""
        return self._dense.digest()

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query as a frame of `tables.HITS`; the score is that of `fuse`."""
        depth = max(k, DEPTH)
        return fuse([self._dense.search(queries, depth), self._lexical.search(queries, depth)], k)


class RememberingRetriever(AbstractContextManager["RememberingRetriever"]):
    """Another retriever, which is asked for each question once, however many steps of a build ask; a `Retriever`.

    Of each question it keeps the numbers of the first `DEPTH` chunks, with their scores, and the texts of each chunk
    once. It may be closed and used again.

    Args:
        embedder: that of the other one.
        opened: opens the other one, once a question comes that is new; what is searched must not change.
    """

    def __init__(self, embedder: Embedder, opened: Callable[[], ChromaIndex | HybridRetriever]) -> None:
        self.embedder, self._open = embedder, opened
        self._retriever: ChromaIndex | HybridRetriever | None = None
        self._hits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._numbers: dict[str, int] = {}
        self._chunks: list[tuple[str, str, str]] = []

    def __exit__(self, *_: object) -> None:
        if self._retriever is not None:
            self._retriever.close()
        self._retriever = None

    @property
    def identity(self) -> str:
        """That of the other one."""
        return self._opened().identity

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return what the other one does: of the first `DEPTH` chunks, a larger `k` only adds to a smaller one's."""
        if k > DEPTH:
            return self._opened().search(queries, k)
        if new := [query for query in dict.fromkeys(queries) if query not in self._hits]:
            self._add(new, self._opened().search(new, DEPTH))
        hits = [(numbers[:k], scores[:k]) for numbers, scores in map(self._hits.__getitem__, queries)]
        counts = np.array([len(numbers) for numbers, _ in hits], dtype=np.int64)
        chunks = [self._chunks[number] for numbers, _ in hits for number in numbers.tolist()]
        columns = {
            "query": np.repeat(np.arange(len(hits)), counts),
            "rank": np.arange(1, len(chunks) + 1) - np.repeat(counts.cumsum() - counts, counts),
            **{name: [chunk[place] for chunk in chunks] for place, name in enumerate(_CHUNK)},
            "score": np.concatenate([np.empty(0), *(scores for _, scores in hits)]),
        }
        return pl.DataFrame(columns, schema_overrides=HITS).select(list(HITS))

    def _opened(self) -> ChromaIndex | HybridRetriever:
        self._retriever = self._retriever or self._open()
        return self._retriever

    def _add(self, queries: Sequence[str], hits: pl.DataFrame) -> None:
        names, fresh = hits["chunk_id"].to_list(), list[int]()
        for place, name in enumerate(names):
            if name not in self._numbers:
                self._numbers[name] = len(self._numbers)
                fresh.append(place)
        self._chunks += hits[fresh].select(_CHUNK).iter_rows()
        numbers = np.array([self._numbers[name] for name in names], dtype=np.uint32)
        ends = hits["query"].to_numpy().searchsorted(np.arange(len(queries) + 1))
        scores = hits["score"].to_numpy()
        for number, query in enumerate(queries):
            part = slice(ends[number], ends[number + 1])
            self._hits[query] = numbers[part].copy(), scores[part].copy()


def open_retriever(
    run: Path,
    embedder: Embedder,
    *,
    hybrid: bool,
    url: str | None = None,
    name: str = "chunks",
    exact: bool = False,
    asker: Embedder | None = None,
) -> ChromaIndex | HybridRetriever:
    """Open the index of a run directory for searching.

    Args:
        run: the run directory, with `index/` (unless `url` is given) and, for `hybrid`, `lexical/`.
        embedder: the one that the index was made with.
        hybrid: fuse vectors with words.
        url: a Chroma server, instead of `index/`.
        name: the collection's name.
        exact: as for `ChromaIndex`.
        asker: as for `ChromaIndex`.

    Raises:
        RaftError: there is no index, or another embedder made it.
        DamagedArtifact: the index cannot be read.
    """
    expected = [] if url else [run / "index" / "chroma.sqlite3"]
    for path in [*expected, *([run / "lexical"] if hybrid else [])]:
        if not path.exists():
            what = "lexical index" if path.name == "lexical" else "index"
            raise RaftError(f"The run has no {what}.", where=path, hint=again(run, remark="makes it anew"))
    folder = None if url else run / "index"
    dense = ChromaIndex(embedder, folder=folder, url=url, name=name, exact=exact, asker=asker)
    if not hybrid:
        return dense
    try:
        return HybridRetriever(dense, LexicalIndex.load(run / "lexical"))
    except BaseException:
        dense.close()
        raise


class Indexes:
    """`index/` (Chroma, or a collection on a server) and `lexical/` (BM25) of one run directory.

    Args:
        run: the run directory.
        embedder: embeds chunks and questions.
        hybrid: whether `lexical/` is kept and fused with the vectors.
        url: a Chroma server instead of `index/`.
        collection: the name on the server.
    """

    def __init__(self, run: Path, embedder: Embedder, *, hybrid: bool, url: str | None, collection: str) -> None:
        self._run, self._embedder = run, embedder
        self._hybrid, self._url, self._collection = hybrid, url, collection
        self._searching = self._remembering()

    def digest(self) -> str | None:
        """Return the digest of the sorted (chunk id, text digest) pairs and the embedder; None if there are none."""
        folder = self._run / "index"
        if not self._url and not (folder / "chroma.sqlite3").is_file():
            return None
        try:
            with self._dense() as dense:
                return dense.digest() if dense.size() else None
        except (DamagedArtifact, OtherEmbedder):
            return None

    def sync(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> dict[str, int]:
        """Make the index hold exactly these chunks; a damaged one, or one of another embedder, is made anew."""
        self._searching = self._remembering()
        try:
            with self._dense() as dense:
                return dense.sync(chunks())._asdict()
        except (DamagedArtifact, OtherEmbedder):
            if self._url:  # a server may be shared: nothing on it is deleted unasked
                raise
            folders.clear(self._run / "index", _MADE)
            with self._dense() as dense:
                return dense.sync(chunks())._asdict()

    def lexical_digest(self) -> str | None:
        """Return a digest of the files of the lexical index; None when it is not there."""
        folder = self._run / "lexical"
        if not folder.is_dir():
            return None
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{path.relative_to(folder).as_posix()} {artifacts.digest(path)}" for path in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def build_lexical(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> None:
        """Build the lexical index anew."""
        self._searching = self._remembering()
        LexicalIndex.build(chunks(), self._run / "lexical")

    def open(self, *, exact: bool = False, asker: Embedder | None = None) -> ChromaIndex | HybridRetriever:
        """Open the indexes for searching, `exact` and `asker` as for `ChromaIndex`; it raises as `open_retriever`."""
        how: dict[str, Any] = {"hybrid": self._hybrid, "url": self._url, "name": self._collection}
        return open_retriever(self._run, self._embedder, **how, exact=exact, asker=asker)

    def searching(self) -> RememberingRetriever:
        """Return what a build searches with: exactly, and no question twice until the indexes change."""
        return self._searching

    def _remembering(self) -> RememberingRetriever:
        return RememberingRetriever(self._embedder, partial(self.open, exact=True))

    def _dense(self) -> ChromaIndex:
        folder = None if self._url else self._run / "index"
        return ChromaIndex(self._embedder, folder=folder, url=self._url, name=self._collection)
