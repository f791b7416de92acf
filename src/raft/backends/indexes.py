"""The two indexes of a run directory: made, checked and opened together."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from raft import artifacts
from raft.backends.chroma import ChromaIndex
from raft.backends.lexical import LexicalIndex
from raft.backends.retrievers import HybridRetriever, open_retriever
from raft.errors import DamagedArtifact, OtherEmbedder
from raft.protocols import Embedder


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

    def digest(self) -> str | None:
        """Return the digest of the sorted (chunk id, text digest) pairs and the embedder; None if there are none."""
        folder = self._run / "index"
        if not self._url and not (folder / "chroma.sqlite3").is_file():
            return None
        try:
            with self._dense() as dense:
                return dense.digest() if dense.contents() else None
        except (DamagedArtifact, OtherEmbedder):
            return None

    def sync(self, chunks: Callable[[], Iterator[pl.DataFrame]]) -> dict[str, int]:
        """Make the index hold exactly these chunks; a damaged one, or one of another embedder, is made anew."""
        try:
            with self._dense() as dense:
                return dense.sync(chunks())._asdict()
        except (DamagedArtifact, OtherEmbedder):
            if self._url:  # a server may be shared: nothing on it is deleted unasked
                raise
            shutil.rmtree(self._run / "index")
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
        LexicalIndex.build(chunks(), self._run / "lexical")

    def open(self) -> ChromaIndex | HybridRetriever:
        """Open the indexes for searching.

        Raises:
            RaftError: there is no index, or another embedder made it.
            DamagedArtifact: an index cannot be read.
        """
        return open_retriever(self._run, self._embedder, hybrid=self._hybrid, url=self._url, name=self._collection)

    def _dense(self) -> ChromaIndex:
        folder = None if self._url else self._run / "index"
        return ChromaIndex(self._embedder, folder=folder, url=self._url, name=self._collection)
