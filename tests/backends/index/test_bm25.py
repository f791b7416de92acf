"""The index of words, and its fusion with vectors."""

import json
import os
import re
import subprocess
import sys

import bm25s
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from raft.backends.index.bm25 import LexicalIndex, words
from raft.backends.index.chroma import ChromaIndex
from raft.backends.index.hybrid import HybridRetriever, open_retriever
from raft.errors import DamagedArtifact, RaftError
from raft.store.tables import HITS
from raft.testing import HashEmbedder

TEXTS = {
    "c1": ("Valves", "The part HX-204-B closes at 3.5 bar."),
    "c2": ("Valves", "The part HX-204-C closes at 4 bar."),
    "c3": ("Prices", "A replacement costs 1,250 euros."),
    "c4": ("", "Die Größe der Tür beträgt zwei Meter."),
}


def chunks(texts=TEXTS):
    """Chunks of the given headings and texts."""
    return pl.DataFrame(
        [
            {"chunk_id": key, "doc_id": f"d-{key}", "heading": heading, "text": text}
            for key, (heading, text) in texts.items()
        ],
        schema=dict.fromkeys(["chunk_id", "doc_id", "heading", "text"], pl.String),
    )


@pytest.fixture
def index(tmp_path):
    """An index of all texts."""
    return LexicalIndex.build([chunks()], tmp_path / "lexical")


def best(index, query):
    """The ids of the best chunk of a query."""
    return index.search([query], 1)["chunk_id"].to_list()


def test_codes_are_found_whole(index):
    """A code finds the chunk with exactly this code before chunks with its neighbours."""
    assert index.search(["hx-204-c"], 2)["chunk_id"].to_list() == ["c2", "c1"]


@pytest.mark.parametrize("query", ["1250", "1,250", "How much is it: 1,250?"])
def test_numbers_are_found_with_and_without_separators(index, query):
    """A number is the same word with and without thousands separators."""
    assert best(index, query) == ["c3"]


def test_headings_are_searched(index):
    """A chunk is found by its heading."""
    assert best(index, "prices") == ["c3"]


def test_other_languages(index):
    """Words of any script are words, whatever their case and their Unicode form."""
    assert best(index, "GRO\u0308ßE") == ["c4"]


def test_words_keep_codes_whole_and_in_parts():
    """A code is a word, and so are its parts; stop words and single marks are none."""
    assert words("What's the HX-204-B?") == ["hx-204-b", "hx", "204", "b"]
    assert words("3.5 bar, e.g. v1.2_rc") == ["3.5", "3", "5", "bar", "e.g", "e", "g", "v1.2_rc", "v1", "2", "rc"]


def test_hits_are_of_the_common_schema(index):
    """Results carry the chunk's own text and document, ranked from 1 for each query."""
    hits = index.search(["bar", "nothing matches here", "euros"], 5)
    assert hits.schema == HITS
    assert hits.select("query", "rank").rows() == [(0, 1), (0, 2), (2, 1)]
    assert hits["text"].to_list()[-1] == "A replacement costs 1,250 euros."
    assert hits["doc_id"].to_list()[-1] == "d-c3"
    assert index.search([], 5).schema == HITS


def test_ties_go_by_chunk_id(tmp_path):
    """Chunks of equal score come in the order of their ids, and the cut at k respects it."""
    index = LexicalIndex.build([chunks({f"c{n}": ("", "the same words") for n in (3, 1, 2)})], tmp_path / "lexical")
    assert index.search(["same"], 2)["chunk_id"].to_list() == ["c1", "c2"]


def test_order_of_chunks_does_not_matter(tmp_path, index):
    """The same chunks in another order, or in other frames, make the same index."""
    rows = chunks().reverse()
    other = LexicalIndex.build([rows[:1], rows[1:]], tmp_path / "other")
    assert other.identity == index.identity
    assert_frame_equal(other.search(["part costs bar"], 4), index.search(["part costs bar"], 4))


def test_digest_follows_the_words(tmp_path, index):
    """Another text is another digest."""
    other = LexicalIndex.build([chunks({**TEXTS, "c3": ("Prices", "It costs 1,300 euros.")})], tmp_path / "other")
    assert other.identity != index.identity
    assert other.identity != index.identity


def test_built_and_loaded_answer_alike(tmp_path, index):
    """An index that was closed and loaded gives the same results."""
    loaded = LexicalIndex.load(tmp_path / "lexical")
    assert loaded.identity == index.identity
    assert_frame_equal(loaded.search(["part bar"], 3), index.search(["part bar"], 3))


def test_rebuilding_replaces(tmp_path, index):
    """Building into the same folder replaces the index and leaves nothing else behind."""
    LexicalIndex.build([chunks({"n1": ("", "something new")})], tmp_path / "lexical")
    assert best(LexicalIndex.load(tmp_path / "lexical"), "new") == ["n1"]
    assert best(index, "euros") == ["c3"]
    assert [path.name for path in tmp_path.iterdir()] == ["lexical"]


def test_an_empty_corpus_has_no_hits(tmp_path):
    """An index without chunks can be built, and finds nothing."""
    assert LexicalIndex.build([], tmp_path / "lexical").search(["anything"], 5).is_empty()


@pytest.mark.parametrize("name", ["about.json", "chunks.arrow", "data.csc.index.npy", "vocab.index.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_damage_is_reported(tmp_path, index, name, how):
    """A file that is gone or cut off is a DamagedArtifact, so that the caller can build anew."""
    path = tmp_path / "lexical" / name
    if how == "gone":
        path.unlink()
    else:
        content = path.read_bytes()[: path.stat().st_size // 2]
        path.unlink()
        path.write_bytes(content)
    with pytest.raises(DamagedArtifact):
        LexicalIndex.load(tmp_path / "lexical")


@pytest.mark.parametrize(("asked", "wrong"), [(1, b": 9999999"), (20, b": 9999999"), (20, b": word"), (1, b"")])
def test_damage_within_the_list_of_words_is_reported(tmp_path, index, asked, wrong):
    """A number that no word has, or what is no JSON, is a DamagedArtifact, at the latest when its word is asked for."""
    path = tmp_path / "lexical" / "vocab.index.json"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(re.sub(rb":\s*\d+", wrong, whole, count=1))
    with pytest.raises(DamagedArtifact) as caught:
        LexicalIndex.load(tmp_path / "lexical").search([next(iter(json.loads(whole)))] * asked, 3)
    assert str(caught.value.where) == str(tmp_path / "lexical")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of 600 chunks whose words are as frequent as those of a language, and bm25s' own reading of it."""
    rng = np.random.default_rng(0)
    drawn = (400 * rng.random((600, 12)) ** 3).astype(int)
    texts = {f"c{number:03}": ("", " ".join(f"word{word}" for word in row)) for number, row in enumerate(drawn)}
    folder = tmp_path_factory.mktemp("many") / "lexical"
    return LexicalIndex.build([chunks(texts)], folder), bm25s.BM25.load(folder, show_progress=False)


@settings(deadline=None)
@given(asked=st.lists(st.integers(0, 399), min_size=1, max_size=8), k=st.integers(1, 60))
def test_the_best_are_those_of_all_scores(many, asked, k):
    """What is found rare words first is what scoring every chunk and sorting finds, equal scores by chunk_id."""
    query = " ".join(f"word{word}" for word in asked)
    index, ranking = many
    scores = ranking.get_scores([word for word in words(query) if word in ranking.vocab_dict])
    order = np.lexsort((np.arange(600), -scores))[:k]
    hits = index.search([query], k)
    assert hits["chunk_id"].to_list() == [f"c{row:03}" for row in order if scores[row] > 0]
    assert hits["score"].to_list() == [float(scores[row]) for row in order if scores[row] > 0]


def test_one_question_finds_what_many_find(tmp_path):
    """The first question, for which no list of words is read, finds what it does among many; also beside like words."""
    spelt = ["valve", "valv", "alve", "Größe", "HX-204-B", "204", "4", "nothing"]
    LexicalIndex.build([chunks({f"c{n}": ("", word) for n, word in enumerate(spelt)})], tmp_path / "lexical")
    together = LexicalIndex.load(tmp_path / "lexical").search(spelt * 2, 3).filter(pl.col("query") < len(spelt))
    alone = [LexicalIndex.load(tmp_path / "lexical").search([word], 3) for word in [*spelt, "absent"]]
    shifted = [hits.with_columns(pl.lit(n, pl.Int64).alias("query")) for n, hits in enumerate(alone)]
    assert_frame_equal(pl.concat(shifted), together)
    assert together["query"].n_unique() == len(spelt)


def test_hybrid_finds_what_either_finds(tmp_path):
    """Hybrid search brings chunks of both lists in one ranking, and its identity follows both indexes."""
    with ChromaIndex(HashEmbedder(), folder=tmp_path / "index") as dense:
        dense.sync([chunks()])
    lexical = LexicalIndex.build([chunks()], tmp_path / "lexical")
    with open_retriever(tmp_path, HashEmbedder(), hybrid=True) as hybrid:
        assert isinstance(hybrid, HybridRetriever)
        assert best(hybrid, "part HX-204-B") == ["c1"]
        assert hybrid.search(["part"], 10)["chunk_id"].n_unique() == 4
        assert lexical.identity in hybrid.identity
    with open_retriever(tmp_path, HashEmbedder(), hybrid=False) as dense:
        assert best(dense, "the part hx 204 b closes") == ["c1"]


def test_a_run_without_index_says_how_to_make_one(tmp_path):
    """Searching a run that was never indexed names the command that indexes it."""
    with pytest.raises(RaftError, match="raft build"):
        open_retriever(tmp_path, HashEmbedder(), hybrid=True)
    assert list(tmp_path.iterdir()) == []


def test_searching_needs_nothing_that_builds(tmp_path, index):
    """Words are searched without bm25s, and with it SciPy: they take longer to import than an index to be opened."""
    program = (
        "import pathlib, sys\nfrom raft.backends.index.bm25 import LexicalIndex\n"
        f"assert LexicalIndex.load(pathlib.Path({str(tmp_path / 'lexical')!r})).search(['HX-204-B'], 1).height\n"
        "print({'bm25s', 'scipy'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_indexing_words_leaves_jax_alone(tmp_path):
    """Where JAX is installed, words are indexed without it: it would take most of a card's memory."""
    fake = tmp_path / "jax"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise SystemExit('jax was imported')\n", encoding="utf-8")
    program = (
        "import sys\nfrom raft.backends.index.bm25 import _rank\n"
        "_rank(['valve'])\nassert 'jax' not in sys.modules\n"
        "try:\n    import jax\nexcept SystemExit:\n    print('jax can be had afterwards')\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "jax can be had afterwards", done.stderr
