"""The retriever that building, answering and benchmarks share: vectors, or vectors and words together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import polars as pl

from raft.backends.chroma import ChromaIndex
from raft.backends.lexical import LexicalIndex
from raft.errors import RaftError
from raft.protocols import Embedder
from raft.retrieval import fuse

DEPTH = 50
"""Chunks that each list contributes to the fusion; fixed, so that a larger k only lengthens a result."""


class HybridRetriever:
    """Vectors and words fused by reciprocal rank; a `Retriever`.

    Args:
        dense: finds chunks that mean the same.
        lexical: finds chunks that say the same.

    Attributes:
        embedder: that of the vectors.
        identity: what search results depend on.
    """

    def __init__(self, dense: ChromaIndex, lexical: LexicalIndex) -> None:
        self._dense, self._lexical = dense, lexical
        self.embedder = dense.embedder
        self.identity = f"fused:{DEPTH}({dense.identity},{lexical.identity})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._dense.close()

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query as a frame of `tables.HITS`; the score is that of `fuse`."""
        depth = max(k, DEPTH)
        return fuse([self._dense.search(queries, depth), self._lexical.search(queries, depth)], k)


def open_retriever(
    run: Path, embedder: Embedder, *, hybrid: bool, url: str | None = None, name: str = "chunks"
) -> ChromaIndex | HybridRetriever:
    """Open the index of a run directory for searching.

    Args:
        run: the run directory, with `index/` (unless `url` is given) and, for `hybrid`, `lexical/`.
        embedder: the one that the index was made with.
        hybrid: fuse vectors with words.
        url: a Chroma server, instead of `index/`.
        name: the collection's name.

    Raises:
        RaftError: there is no index, or another embedder made it.
        DamagedArtifact: the index cannot be read.
    """
    expected = [] if url else [run / "index" / "chroma.sqlite3"]
    for path in [*expected, *([run / "lexical"] if hybrid else [])]:
        if not path.exists():
            raise RaftError("The run has no index.", where=path, hint="raft build")
    dense = ChromaIndex(embedder, folder=None if url else run / "index", url=url, name=name)
    if not hybrid:
        return dense
    try:
        return HybridRetriever(dense, LexicalIndex.load(run / "lexical"))
    except BaseException:
        dense.close()
        raise
