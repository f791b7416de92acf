"""The index of vectors."""

import gc
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conftest import CountingEmbedder
from raft.backends.index.chroma import ChromaIndex
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.store.tables import HITS
from raft.testing import HashEmbedder


def chunks(count=4, first=0, **changed):
    """Chunks `c<first>`, `c<first + 1>`, ...; keywords give some of them another text."""
    rows = [
        {"chunk_id": f"c{n}", "doc_id": f"d{n % 2}", "heading": "H" if n % 2 else "", "text": f"word{n} common"}
        for n in range(first, first + count)
    ]
    return pl.DataFrame([{**row, "text": changed.get(row["chunk_id"], row["text"])} for row in rows])


@pytest.fixture
def embedder():
    """An embedder that remembers."""
    return CountingEmbedder()


@pytest.fixture
def index(tmp_path, embedder):
    """An empty index."""
    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        yield index


def test_only_new_and_changed_chunks_are_embedded(index, embedder):
    """A second sync embeds what is new or changed, deletes what vanished, and leaves the rest alone."""
    assert index.sync([chunks(3), chunks(1, first=3)]) == (4, 0, 0)
    assert embedder.texts == ["word0 common", "H\nword1 common", "word2 common", "H\nword3 common"]
    embedder.texts.clear()
    assert index.sync([chunks(4, first=1, c2="another text")]) == (2, 1, 2)
    assert embedder.texts == ["another text", "word4 common"]
    assert sorted(index.contents()) == ["c1", "c2", "c3", "c4"]
    assert index.search(["another text"], 1)["text"].to_list() == ["another text"]


def test_a_sync_that_was_cut_off_is_completed(index, embedder):
    """What was embedded before a failure is not embedded again."""

    def failing():
        yield chunks(300)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.sync(failing())
    embedder.texts.clear()
    assert index.sync([chunks(300)]).embedded == len(embedder.texts) < 100


def test_contents_are_what_chroma_says_itself(index):
    """What is listed from Chroma's own tables is what it tells: no deleted chunks, and none of another collection."""
    index.sync([chunks(300)])
    index.sync([chunks(290, first=5, c7="changed")])
    index._client.create_collection("another").add(ids=["x"], embeddings=[[1.0]], metadatas=[{"digest": "of x"}])
    listed = index._listed()
    assert len(listed) == 290 == index.size()
    assert listed == index._paged() == index.contents()


def test_digest_is_of_contents_not_of_history(tmp_path, index, embedder):
    """Two indexes of the same chunks have the same digest and identity, however they came about."""
    index.sync([chunks(6)])
    before = index.identity
    index.sync([chunks(2, c0="changed")])
    assert index.identity != before
    index.sync([chunks(6)])
    with ChromaIndex(embedder, folder=tmp_path / "other") as other:
        other.sync([chunks(3, first=3), chunks(3)])
        assert other.digest() == index.digest()
        assert other.identity == index.identity == before


def test_hits_are_ranked_by_cosine(index, embedder):
    """The score is the cosine of query and chunk; results carry text and document, ranked from 1 for each query."""
    index.sync([chunks(4)])
    hits = index.search(["word2 common", "word0"], 3)
    assert hits.schema == HITS
    assert hits["query"].to_list() == [0, 0, 0, 1, 1, 1]
    assert hits["rank"].to_list() == [1, 2, 3, 1, 2, 3]
    assert hits.row(0, named=True)["doc_id"] == "d0"
    query, chunk = HashEmbedder().embed(["word0", "word0 common"])
    assert hits["chunk_id"][3] == "c0"
    assert hits["score"][3] == pytest.approx(float(query @ chunk), abs=1e-5)


def test_ties_go_by_chunk_id(index):
    """Chunks of equal score come in the order of their ids, and the cut at k respects it."""
    index.sync([chunks(8, **{f"c{n}": "same" for n in range(8)}).with_columns(heading=pl.lit(""))])
    assert index.search(["same"], 3)["chunk_id"].to_list() == ["c0", "c1", "c2"]


def test_asking_for_more_than_there_is(index):
    """A k beyond the index brings all of it; an index without chunks brings nothing."""
    assert index.search(["word"], 5).schema == HITS
    index.sync([chunks(3)])
    assert len(index.search(["word1"], 50)) == 3
    assert index.search([], 5).is_empty()
    index.sync([])
    assert index.contents() == {}
    assert index.search(["word1"], 5).is_empty()


def test_nearest_are_the_true_nearest(tmp_path):
    """The graph finds what comparing with every vector finds."""
    rng = np.random.default_rng(0)

    class RandomEmbedder(HashEmbedder):
        def embed(self, texts):
            """Return random vectors, and keep the last."""
            vectors = rng.normal(size=(len(texts), 64)).astype(np.float32)
            self.last = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            return self.last

    embedder = RandomEmbedder()
    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        stored = []
        for part in (chunks(250), chunks(250, first=250), chunks(250, first=500), chunks(250, first=750)):
            everything = pl.concat([*stored, part])
            index.sync([everything])
            stored.append(part)
        got = index._collection.get(include=["embeddings"])
        hits = index.search(["q"] * 20, 5)
        exact = embedder.last @ np.asarray(got["embeddings"]).T
        for query in range(20):
            best = {got["ids"][row] for row in np.argsort(-exact[query])[:5]}
            assert set(hits.filter(pl.col("query") == query)["chunk_id"]) == best


@pytest.mark.parametrize("count", [3, 600])
def test_what_is_synced_is_opened_and_not_indexed_again(tmp_path, embedder, count):
    """After a sync no chunk is in Chroma's log alone, from which each opening would put it into the graph again."""

    def left():
        with closing(sqlite3.connect(tmp_path / "index" / "chroma.sqlite3")) as database:
            return database.execute("SELECT count(*) FROM embeddings_queue").fetchone()[0]

    for wanted in (chunks(count), chunks(count, **{"c1": "changed"}), chunks(count - 1)):
        with ChromaIndex(embedder, folder=tmp_path / "index") as index:
            index.sync([wanted])
            assert len(index.contents()) == len(wanted)
        assert left() <= 2  # the last one stays, as a mark, and one that came alone
    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        assert index.search(["changed"], 1).height == 1


def test_closing_frees_the_folder(tmp_path, embedder):
    """A closed index can be opened again, and its folder deleted and made anew, in one process."""
    for count in (3, 2):
        with ChromaIndex(embedder, folder=tmp_path / "index") as index:
            index.sync([chunks(count)])
        with ChromaIndex(embedder, folder=tmp_path / "index") as index:
            assert len(index.contents()) == count
        shutil.rmtree(tmp_path / "index")


def test_an_index_can_be_moved(tmp_path, embedder):
    """The folder can be moved: nothing in it depends on where it lies."""
    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        index.sync([chunks(3)])
        identity = index.identity
    (tmp_path / "index").rename(tmp_path / "moved")
    with ChromaIndex(embedder, folder=tmp_path / "moved") as index:
        assert index.identity == identity
        assert index.search(["word1 common"], 1)["chunk_id"].to_list() == ["c1"]


def test_another_embedder_is_refused(tmp_path, embedder):
    """An index made with another embedder names both, and the next command."""
    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        index.sync([chunks(3)])
    other = HashEmbedder()
    other.identity = "another-embedder"
    with pytest.raises(RaftError, match=r"hash-256[\s\S]*another-embedder[\s\S]*raft build") as caught:
        ChromaIndex(other, folder=tmp_path / "index")
    assert not isinstance(caught.value, DamagedArtifact)


def cut_database(folder):
    """Keep half of the database."""
    path = folder / "chroma.sqlite3"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble_database(folder):
    """Replace the database by something else."""
    (folder / "chroma.sqlite3").write_bytes(b"garbage" * 1000)


def lose_database(folder):
    """Delete the database, not the vectors."""
    (folder / "chroma.sqlite3").unlink()


def lose_vectors(folder):
    """Delete the vectors, not the database."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def empty_vectors(folder):
    """Empty the files of the vectors."""
    for path in folder.rglob("*.bin"):
        path.write_bytes(b"")


def garble_ids(folder):
    """Replace the list of ids that belongs to the vectors."""
    for path in folder.rglob("*.pickle"):
        path.write_bytes(b"garbage")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An index that is large enough for Chroma to write its vectors to files."""
    folder = tmp_path_factory.mktemp("large") / "index"
    with ChromaIndex(HashEmbedder(), folder=folder) as index:
        index.sync([chunks(1200)])
    return folder


@pytest.mark.parametrize(
    "damage", [cut_database, garble_database, lose_database, lose_vectors, empty_vectors, garble_ids]
)
def test_damage_is_reported_and_can_be_repaired(tmp_path, large, damage):
    """A damaged index is a DamagedArtifact when it is opened, and deleting its folder is enough to build it anew."""
    folder = tmp_path / "index"
    shutil.copytree(large, folder)
    damage(folder)
    with pytest.raises(DamagedArtifact):
        ChromaIndex(HashEmbedder(), folder=folder)
    shutil.rmtree(folder)
    with ChromaIndex(HashEmbedder(), folder=folder) as index:
        assert index.sync([chunks(3)]).embedded == 3


def test_a_server_must_answer(embedder):
    """A server that does not answer, or an address that is none, is an error with the address."""
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:9"):
        ChromaIndex(embedder, url="http://127.0.0.1:9")
    with pytest.raises(UsageError, match="localhost"):
        ChromaIndex(embedder, url="localhost")
    with pytest.raises(UsageError):
        ChromaIndex(embedder)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files here")
def test_an_index_that_nobody_closes_leaves_no_file_open(tmp_path, embedder):
    """Whoever opens runs in a loop, and forgets to close them, does not run out of files."""

    def opened():
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()])

    with ChromaIndex(embedder, folder=tmp_path / "index") as index:
        index.sync([chunks()])
    before = opened()
    for _ in range(3):
        ChromaIndex(embedder, folder=tmp_path / "index").search(["word1"], 1)
    assert opened() <= before


def test_a_vector_without_numbers_names_the_embedder(tmp_path, embedder, monkeypatch):
    """Where an embedder makes NaN of a question, an exact search is one error that names it."""
    with ChromaIndex(embedder, folder=tmp_path / "exact", exact=True) as exact:
        exact.sync([chunks(3)])
        embed = embedder.embed
        monkeypatch.setattr(embedder, "embed", lambda texts: embed(texts) * np.float32(np.nan))
        with pytest.raises(RaftError, match="holds no numbers") as caught:
            exact.search(["word1"], 2)
    assert embedder.identity in str(caught.value)
