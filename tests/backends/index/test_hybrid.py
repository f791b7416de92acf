"""Fusing rankings."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from conftest import CountingEmbedder
from raft.backends.index.hybrid import DEPTH, Indexes, fuse
from raft.store.tables import HITS, frame

IDS = [f"c{number}" for number in range(12)]
rankings = st.lists(st.lists(st.sampled_from(IDS), unique=True, max_size=8), min_size=1, max_size=4)


def hits(*chunk_ids, query=0):
    """One query's ranking."""
    return frame(
        HITS,
        [
            {"query": query, "rank": rank, "chunk_id": chunk_id, "doc_id": "d", "score": 1 / rank, "text": chunk_id}
            for rank, chunk_id in enumerate(chunk_ids, start=1)
        ],
    )


@given(rankings, st.integers(1, 10))
def test_ranks_are_1_to_n_without_duplicates(lists, k):
    """A fused ranking counts from 1, names each chunk once, and is no longer than asked for."""
    fused = fuse([hits(*ranking) for ranking in lists], k)
    assert fused.schema == HITS
    assert fused["rank"].to_list() == list(range(1, len(fused) + 1))
    assert fused["chunk_id"].is_unique().all()
    assert len(fused) == min(k, len(set().union(*lists)))
    assert fused["score"].is_sorted(descending=True)


@given(rankings, st.randoms())
def test_order_of_lists_does_not_matter(lists, random):
    """Fusing the same lists in another order gives the same frame, to the last digit."""
    shuffled = random.sample(lists, len(lists))
    assert_frame_equal(
        fuse([hits(*ranking) for ranking in lists], 8),
        fuse([hits(*ranking) for ranking in shuffled], 8),
        check_exact=True,
    )


@given(rankings)
def test_first_everywhere_stays_first(lists):
    """A chunk that every list has first is first."""
    fused = fuse([hits("best", *ranking) for ranking in lists], 3)
    assert fused["chunk_id"][0] == "best"


@given(rankings)
def test_longer_k_only_lengthens(lists):
    """The best three are the beginning of the best ten."""
    ranked = [hits(*ranking) for ranking in lists]
    assert_frame_equal(fuse(ranked, 3), fuse(ranked, 10).filter(pl.col("rank") <= 3))


def test_score_is_the_sum_of_reciprocal_ranks():
    """A chunk scores 1 / (constant + rank) in each list that holds it."""
    fused = fuse([hits("a", "b"), hits("b")], 2, constant=10)
    assert fused["chunk_id"].to_list() == ["b", "a"]
    assert fused["score"].to_list() == [1 / 11 + 1 / 12, 1 / 11]


def test_queries_are_fused_apart():
    """Each query keeps its own ranking, in the order of the queries."""
    fused = fuse([pl.concat([hits("a", query=1), hits("b", query=0)]), hits("c", query=1)], 5)
    assert fused.select("query", "rank", "chunk_id").rows() == [(0, 1, "b"), (1, 1, "a"), (1, 2, "c")]


def test_nothing_fused_is_an_empty_frame():
    """No lists, or empty ones, give an empty frame of the right columns."""
    assert fuse([], 5).schema == fuse([hits()], 5).schema == HITS


def chunks(count):
    """So many chunks, each with a word of its own and some that others have."""
    rows = [
        {"chunk_id": f"c{n:03}", "doc_id": f"d{n % 7}", "heading": "", "text": f"own{n} fifth{n % 5} ninth{n % 9} all"}
        for n in range(count)
    ]
    return pl.DataFrame(rows)


QUESTIONS = ["own3 fifth1", "ninth2 all", "nothing of it", "fifth4", "own80 own81 ninth0"]


@pytest.fixture(params=[True, False], ids=["words too", "vectors alone"])
def indexes(request, tmp_path):
    """Indexes of 100 chunks, and the texts that were embedded since."""
    embedder = CountingEmbedder()
    found = Indexes(tmp_path, embedder, hybrid=request.param, url=None, collection="chunks")
    found.sync(lambda: iter([chunks(100)]))
    found.build_lexical(lambda: iter([chunks(100)]))
    embedder.texts.clear()
    return found, embedder.texts


def test_a_build_searches_for_each_question_once_and_finds_the_same(indexes):
    """What a build finds again, for more or fewer chunks and in another order, is what searching anew finds."""
    found, embedded = indexes
    for queries, k in ((QUESTIONS[:3], 3), (QUESTIONS[::-1] + QUESTIONS[:2], 30), (QUESTIONS, DEPTH), ([], 5)):
        with found.searching() as searching, found.open(exact=True) as anew:
            again = searching.search(queries, k)
            asked = [*embedded]
            assert_frame_equal(again, anew.search(queries, k), check_exact=True)
            embedded[:] = asked
    assert sorted(embedded) == sorted(QUESTIONS)


def test_more_chunks_than_are_kept_are_searched_for(indexes):
    """As many chunks as are asked for come, though fewer are kept in mind."""
    found, _ = indexes
    with found.searching() as searching, found.open(exact=True) as anew:
        first = searching.search(QUESTIONS, 5)
        assert_frame_equal(searching.search(QUESTIONS, DEPTH + 20), anew.search(QUESTIONS, DEPTH + 20))
        assert_frame_equal(searching.search(QUESTIONS, 5), first)


def test_changed_chunks_are_searched_anew(indexes):
    """Once the chunks have changed, a question that was searched for finds those that are there now."""
    found, _ = indexes
    with found.searching() as searching:
        assert searching.search(["own3 fifth1"], 1)["chunk_id"].to_list() == ["c003"]
    found.sync(lambda: iter([chunks(3)]))
    found.build_lexical(lambda: iter([chunks(3)]))
    with found.searching() as searching:
        hits = searching.search(["own3 fifth1"], 5)["chunk_id"]
        assert set(hits) <= {"c000", "c001", "c002"} and hits[0] == "c001"
