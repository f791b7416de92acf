"""Indexes with vectors in files: damage is found before Chroma opens them, and builds search them exactly."""

import random
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import polars as pl
import pytest

from raft.backends.index import chroma
from raft.backends.index.chroma import ChromaIndex
from raft.backends.index.hybrid import Indexes
from raft.errors import DamagedArtifact
from raft.testing import HashEmbedder

COUNT = 1_300  # Chroma writes files from a thousand on
WORDS = "pump valve hose seal motor desk oil gauge lamp spring rotor plate".split()  # noqa: SIM905


def chunks(order=None):
    """Return chunks, many of them alike but for a number, in the order of their ids or in another."""
    draw = random.Random(0)
    rows = []
    for number in range(COUNT):
        words = " ".join(draw.choices(WORDS, k=6))
        rows.append({"chunk_id": f"c{number:05d}", "doc_id": f"d{number // 9}", "heading": "", "text": words})
    frame = pl.DataFrame(rows)
    return frame if order is None else frame.sample(fraction=1.0, shuffle=True, seed=order)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an index whose vectors lie in files; no test writes to it."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    with ChromaIndex(HashEmbedder(), folder=folder) as index:
        index.sync([chunks()])
    return folder


def flip(path, begin, end):
    """Change bytes of a part of a file."""
    content = bytearray(path.read_bytes())
    for place in range(begin, min(end, len(content))):
        content[place] ^= 0xA5
    path.write_bytes(bytes(content))


def pages(size):
    """Return where every third page of a file begins, from about a third of it on."""
    return range(size // 3 // 4096 * 4096, size, 3 * 4096)


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "deleted": lambda path: path.unlink(),
    "head flipped": lambda path: flip(path, 0, 64),
    "flipped": lambda path: [flip(path, place, place + 60) for place in pages(path.stat().st_size)],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["data_level0.bin", "header.bin", "link_lists.bin", "index_metadata.pickle", "sqlite"])
def test_a_damaged_index_is_refused_and_made_anew(whole, tmp_path, name, damage):
    """Whatever is done to a file of an index, it is refused before it answers, and the next build makes it whole."""
    folder = shutil.copytree(whole, tmp_path / "index")
    path = folder / "chroma.sqlite3" if name == "sqlite" else next(folder.glob(f"*/{name}"))
    DAMAGE[damage](path)
    with pytest.raises(DamagedArtifact) as caught, ChromaIndex(HashEmbedder(), folder=folder):
        pass
    assert caught.value.hint
    if damage == "halved":  # one of them: to make it anew takes a second
        (tmp_path / "run").mkdir()
        folder.rename(tmp_path / "run" / "index")
        indexes = Indexes(tmp_path / "run", HashEmbedder(), hybrid=False, url=None, collection="chunks")
        assert indexes.digest() is None
        assert indexes.sync(lambda: iter([chunks()]))["embedded"] == COUNT
        assert indexes.digest() is not None


def test_of_very_many_vectors_a_share_is_looked_at(whole, tmp_path, monkeypatch):
    """An index with more vectors than are all looked at opens where it is whole, and is refused where many are not."""
    monkeypatch.setattr(chroma, "_MOST", 256)
    monkeypatch.setattr(chroma, "_BLOCK", 64)
    folder = shutil.copytree(whole, tmp_path / "index")
    with ChromaIndex(HashEmbedder(), folder=folder) as index:
        assert len(index.contents()) == COUNT
    path = next(folder.glob("*/data_level0.bin"))
    flip(path, path.stat().st_size // 2, path.stat().st_size)
    with pytest.raises(DamagedArtifact), ChromaIndex(HashEmbedder(), folder=folder):
        pass


def test_an_index_of_any_size_opens_again(tmp_path):
    """An index whose vectors went to files while there was room for more opens again, and has each of its chunks."""
    with ChromaIndex(HashEmbedder(), folder=tmp_path) as index:
        index.sync([chunks().head(1_000)])  # written at a thousand, with room for 1,024
    assert next(tmp_path.glob("*/data_level0.bin"))
    with ChromaIndex(HashEmbedder(), folder=tmp_path) as index:
        assert len(index.contents()) == 1_000
        assert index.search(["pump valve hose"], k=5).height == 5


def test_an_index_that_is_whole_opens_again_and_again(whole, tmp_path):
    """Opening and searching, which rewrite its files, leave an index that opens the next time too."""
    folder = shutil.copytree(whole, tmp_path / "index")
    found = []
    for _ in range(3):
        with ChromaIndex(HashEmbedder(), folder=folder) as index:
            found.append(index.search(["pump valve hose"], k=5))
            index.sync([chunks().head(COUNT - 1)])
    assert all(one.equals(found[0]) for one in found)


def test_a_journal_that_a_kill_has_left_is_rolled_back(whole, tmp_path):
    """A transaction of the index's database that a dead process began is undone, and the index is that of before."""
    folder = shutil.copytree(whole, tmp_path / "index")
    with closing(sqlite3.connect(folder / "chroma.sqlite3", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA cache_size=1")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM embedding_metadata")
        shutil.copytree(folder, tmp_path / "killed")
    assert (tmp_path / "killed" / "chroma.sqlite3-journal").stat().st_size > 0
    with ChromaIndex(HashEmbedder(), folder=tmp_path / "killed") as index:
        assert len(index.contents()) == COUNT


def test_what_a_build_searches_does_not_depend_on_the_graph(tmp_path):
    """However the chunks came in, an exact search has the best ones, equal scores in the order of their ids."""
    queries = [" ".join(random.Random(seed).choices(WORDS, k=4)) for seed in range(40)]
    found = []
    for order in (None, 1, 2):
        with ChromaIndex(HashEmbedder(), folder=tmp_path / f"index{order}", exact=True) as index:
            index.sync([chunks(order)])
            found.append(index.search(queries, k=7))
    assert found[0].equals(found[1]) and found[0].equals(found[2])
    texts = chunks()
    embedder = HashEmbedder()
    scores = np.round(embedder.embed(queries) @ embedder.embed(texts["text"].to_list()).T, 6)
    for query, (row, hits) in enumerate(zip(scores, found[0].partition_by("query", maintain_order=True), strict=True)):
        best = sorted(range(COUNT), key=lambda place, row=row: (-row[place], place))[:7]
        assert hits["chunk_id"].to_list() == [texts["chunk_id"][place] for place in best], query
