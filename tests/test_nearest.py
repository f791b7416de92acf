"""Comparing vectors with every one of many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raft.similarity import nearest_rows

seeds, counts = st.integers(0, 2**32 - 1), st.integers(1, 8)


def drawn(seed, rows):
    """So many vectors of few different ones, so that there are ties, and others beside them."""
    rng = np.random.default_rng(seed)
    few = rng.integers(-1, 2, (rows // 2 + 1, 24)) + 1e-6 * rng.standard_normal((rows // 2 + 1, 24))
    found = few[rng.integers(0, len(few), rows)].astype(np.float32)
    found[:, 0] += 2.0
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@given(seeds, st.integers(8, 400), counts)
def test_the_nearest_are_those_of_a_plain_sort(seed, rows, count):
    """What blocks and groups find is what sorting all distances finds, and of equal ones the first row comes first."""
    vectors, queries = drawn(seed, rows), drawn(seed + 1, 5)
    places, distances = nearest_rows(queries, vectors, count)
    for query, mine, far in zip(queries, places, distances, strict=True):
        plain = np.round(1.0 - np.einsum("ij,j->i", vectors, query), 6)
        order = np.lexsort((np.arange(rows), plain))[:count]
        assert mine.tolist() == order.tolist()
        assert far.tobytes() == plain[order].tobytes()


@given(seeds, st.integers(8, 400), counts)
def test_a_query_finds_the_same_whatever_is_asked_beside_it(seed, rows, count):
    """Each query has the same rows and distances, to the last bit, alone, in any order and among hundreds of others."""
    vectors, queries = drawn(seed, rows), drawn(seed + 1, 300)
    places, distances = nearest_rows(queries, vectors, count)
    order = np.random.default_rng(seed).permutation(300)
    again = nearest_rows(queries[order], vectors, count)
    assert (again[0] == places[order]).all() and again[1].tobytes() == distances[order].tobytes()
    for number in order[:3]:
        alone = nearest_rows(queries[number : number + 1], vectors, count)
        assert (alone[0] == places[number]).all() and alone[1].tobytes() == distances[number].tobytes()


@given(seeds, st.integers(8, 200), counts, st.integers(1, 8))
def test_a_larger_count_only_adds(seed, rows, count, more):
    """The first of many are those of few."""
    vectors, queries = drawn(seed, rows + more), drawn(seed + 1, 5)
    few, many = nearest_rows(queries, vectors, count), nearest_rows(queries, vectors, count + more)
    assert (many[0][:, :count] == few[0]).all() and (many[1][:, :count] == few[1]).all()
