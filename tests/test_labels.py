"""Labelled pairs: the file keeps its promises, and passages and quotes are found again by their digests."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import RaftError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def labels():
    """The module that loads labelled pairs."""
    sys.path.insert(0, str(BENCHMARKS))
    import labels

    yield labels
    sys.path.remove(str(BENCHMARKS))
    for name in ("labels", "data"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def rows(labels):
    """All rows of the file."""
    return labels.read(labels.PAIRS)


def test_labels_are_those_of_the_rubric(labels, rows):
    """Each label is known, and the rubric defines it."""
    rubric = (BENCHMARKS / "labels" / "RUBRIC.md").read_text(encoding="utf-8")
    assert {row["label"] for row in rows} <= {*labels.LABELS}
    assert all(f"| `{label}` | applies" in rubric or f"`{label}` |" in rubric for label in labels.LABELS)


def test_pairs_are_told_apart(rows):
    """No two pairs have one id, and each says where it comes from and when it was labelled."""
    assert len({row["id"] for row in rows}) == len(rows)
    told = ("corpus", "way", "generator", "kind", "question", "answer", "document", "sha256", "labelled")
    assert all(row[name] for row in rows for name in told)


def test_quotes_lie_in_their_passages(rows):
    """Each quote is a part of the passage that its pair was generated from."""
    for row in rows:
        for quote in row["quotes"]:
            assert 0 <= row["passage"]["start"] <= quote["start"] < quote["end"] <= row["passage"]["end"], row["id"]


def test_a_second_reader_labels_known_pairs(labels, rows):
    """Whatever a second reader labelled is a pair of the file, once, with a label of the rubric."""
    second = labels.read(labels.SECOND) if labels.SECOND.exists() else []
    assert {row["id"] for row in second} <= {row["id"] for row in rows}
    assert len({row["id"] for row in second}) == len(second)
    assert {row["label"] for row in second} <= {*labels.LABELS}


def test_what_rules_made_elsewhere_is_labelled_by_the_same_rubric(labels, rows):
    """Pairs that rules made of other documents have labels of the rubric, and are told apart from all other pairs."""
    others = labels.read(labels.BY_RULE)
    assert {row["corpus"] for row in others} == {*labels.OTHERS}
    assert {row["label"] for row in others} <= {*labels.LABELS}
    test_pairs_are_told_apart([*rows, *others])
    test_quotes_lie_in_their_passages(others)


def test_pairs_of_the_example_are_found_in_its_documents(labels):
    """Passages and quotes of the example handbook are found in it, and a quote is a part of its passage."""
    pairs = labels.load(["example"])
    assert pairs.height >= 100
    for passage, quotes in pairs.select("passage", "quotes").iter_rows():
        assert all(quote in passage for quote in quotes)


@pytest.mark.skipif("RAFT_DATA" not in os.environ, reason="RAFT_DATA names no folder with the other corpora")
def test_pairs_of_other_corpora_are_found_in_their_documents(labels, rows):
    """With the public sources at hand, every pair is loaded."""
    assert labels.load().height == len(rows)
    assert labels.load(labels.OTHERS, labels.BY_RULE).height == len(labels.read(labels.BY_RULE))


def test_a_text_that_moved_is_found_where_it_stands_now(labels):
    """A passage is found by its digest when the document has got longer before it, and is None when it has changed."""
    span = {"start": 4, "end": 9, "sha256": labels.digest("right")}
    assert labels._find("the right one", span) == 4
    assert labels._find("now the right one", span) == 8
    assert labels._find("the wrong one", span) is None


def test_a_missing_document_is_named(labels, rows, monkeypatch):
    """Where a document is gone or has changed, loading stops and names it."""
    lost = labels.documents("example").filter(labels.pl.col("path") != "people/leave.docx")
    monkeypatch.setattr(labels, "documents", lambda name: lost)
    with pytest.raises(RaftError, match="not there") as caught:
        labels.load(["example"])
    assert "people/leave.docx" in str(caught.value)


def test_agreement_is_cohens(labels):
    """Share and kappa are those of a table worked out by hand: 35 of 50 alike, 25 expected by chance."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    share, kappa = labels.agreement(*zip(*pairs, strict=True))
    assert (share, kappa) == (pytest.approx(0.7), pytest.approx(0.4))


@given(st.lists(st.sampled_from("abc"), min_size=1), st.data())
def test_agreement_does_not_depend_on_who_is_first(labels, first, data):
    """Two readers agree as much whoever is named first, at most fully, and a reader fully with themselves."""
    second = data.draw(st.lists(st.sampled_from("abc"), min_size=len(first), max_size=len(first)))
    assert labels.agreement(first, second) == pytest.approx(labels.agreement(second, first))
    assert labels.agreement(first, second)[1] <= 1
    assert labels.agreement(first, first) == (1, 1)


def test_no_labels_or_uneven_ones_are_refused(labels):
    """Agreement of nothing, or of lists of different length, is a ValueError."""
    for first, second in (([], []), (["right"], []), (["right"], ["right", "twice"])):
        with pytest.raises(ValueError, match="labels of one reader"):
            labels.agreement(first, second)


def test_rows_are_json_a_line(labels):
    """Every line of the file is one JSON object with the same fields."""
    lines = labels.PAIRS.read_text(encoding="utf-8").splitlines()
    assert len({tuple(json.loads(line)) for line in lines}) == 1
