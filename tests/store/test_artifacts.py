"""Artifacts: what is written is what is read, and a file never depends on how it came to be."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import DamagedArtifact, RaftError
from raft.store import artifacts, tables

TEXT = st.text(max_size=30)
EVALUATION = st.fixed_dictionaries(
    {
        "question_id": TEXT,
        "question": TEXT,
        "answers": st.lists(TEXT, max_size=3),
        "document": st.none() | TEXT,
        "golden_chunk_ids": st.lists(TEXT, max_size=3),
        "kind": TEXT,
        "split": st.sampled_from(["eval_seen", "eval_unseen", "user"]),
    }
)


def documents(count, text="word "):
    """Return a frame of documents whose texts have different lengths, some of them null."""
    rows = [
        {"doc_id": f"d{i // 2}", "path": f"{i}.md", "characters": i, "text": text * (i % 7) or None, "pages": [0, i]}
        for i in range(count)
    ]
    return tables.frame(tables.DOCUMENTS, rows)


def parts(table, cuts):
    """Return the frame in pieces that end at the cuts; a cut that comes twice makes an empty piece."""
    places = [0, *sorted(cuts), table.height]
    return [table[begin:end] for begin, end in pairwise(places)]


@pytest.fixture
def small_groups(monkeypatch):
    """Make row groups so small that a few rows fill several."""
    monkeypatch.setattr(artifacts, "_ROW_GROUP_BYTES", 60)
    monkeypatch.setattr(artifacts, "_ROW_GROUP_ROWS", 5)


@given(count=st.integers(0, 40), cuts=st.lists(st.integers(0, 40), max_size=6), small=st.booleans())
@settings(max_examples=30, deadline=None)
def test_how_rows_come_in_does_not_change_the_file(count, cuts, small):
    """A table written from any split into frames has the bytes of the one written whole, and reads as it was."""
    table = documents(count)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(artifacts, "_ROW_GROUP_BYTES", 60)
            patch.setattr(artifacts, "_ROW_GROUP_ROWS", 5)
        path = Path(name) / "documents.parquet"
        assert artifacts.write(path, table) == count
        whole = path.read_bytes()
        assert artifacts.write(path, parts(table, [min(cut, count) for cut in cuts])) == count
        assert path.read_bytes() == whole
        assert artifacts.read(path).equals(table)


@given(
    order=st.randoms(use_true_random=False),
    cuts=st.lists(st.integers(0, 150), min_size=1, max_size=12),
)
@settings(max_examples=12, deadline=None)
def test_large_tables_do_not_depend_on_frames_either(order, cuts):
    """Several megabytes of text, which fill many pages and row groups, are the same bytes however they are cut."""
    rows = [
        {
            "chunk_id": f"c{number}",
            "doc_id": f"d{number // 9}",
            "heading": "ä" * (number % 5),
            "text": f"{number:05} words. " * order.randint(900, 5_000),
            "document_sha256": "0" * 64,
        }
        for number in range(150)
    ]
    table = tables.frame(tables.CHUNKS, rows)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "chunks.parquet"
        artifacts.write(path, table)
        whole = path.read_bytes()
        artifacts.write(path, parts(table, cuts))
        assert path.read_bytes() == whole
        artifacts.write(path, parts(table, range(table.height)))
        assert path.read_bytes() == whole


def test_streaming_a_table_gives_its_rows_in_order(tmp_path, small_groups):
    """The pieces of a streamed table are its rows, in order, with the columns that were asked for."""
    table = documents(30)
    artifacts.write(tmp_path / "documents.parquet", table)
    pieces = list(artifacts.stream(tmp_path / "documents.parquet", ["path", "text"]))
    assert len(pieces) > 3
    assert pl.concat(pieces).equals(table.select("path", "text"))


def test_a_table_without_rows_streams_nothing(tmp_path):
    """An empty table can be written, read and streamed."""
    path = tmp_path / "documents.parquet"
    assert artifacts.write(path, []) == 0
    assert artifacts.read(path).equals(tables.DOCUMENTS.to_frame())
    assert list(artifacts.stream(path)) == []


@given(sizes=st.lists(st.integers(1, 6), max_size=10), order=st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_lookup_returns_exactly_the_rows_of_a_key(sizes, order):
    """Asked in any order, each key brings all its rows and no others, and an unknown key brings None."""
    rows = [
        {"doc_id": f"d{key}", "path": f"{key}/{i}", "text": "x" * 25} for key, n in enumerate(sizes) for i in range(n)
    ]
    table = tables.frame(tables.DOCUMENTS, rows)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "_ROW_GROUP_BYTES", 60)
        artifacts.write(Path(name) / "documents.parquet", table)
        find = artifacts.lookup(Path(name) / "documents.parquet", lambda frame: frame["doc_id"])
        keys = [f"d{key}" for key in range(len(sizes))]
        order.shuffle(keys)
        for key in keys:
            assert find(key).equals(table.filter(pl.col("doc_id") == key))
        assert find("d99") is None


def test_a_finder_returns_the_rows_of_the_wanted_values_alone(tmp_path, small_groups):
    """In whatever row groups they lie, the rows of the wanted ids come, each once; of unknown ids none."""
    path, table = tmp_path / "documents.parquet", documents(12)
    artifacts.write(path, table)
    find = artifacts.finder(path, "doc_id")
    for wanted in (table["doc_id"].unique().to_list(), ["d3", "d0", "d3", "d99"], ["d99"], []):
        assert find(wanted).equals(table.filter(pl.col("doc_id").is_in(wanted)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedArtifact):
        find(["d3"])


def test_a_lookup_takes_several_columns_as_its_key(tmp_path, small_groups):
    """A key of two columns is found by a tuple of their values."""
    table = documents(12)
    artifacts.write(tmp_path / "documents.parquet", table)
    find = artifacts.lookup(
        tmp_path / "documents.parquet", lambda frame: frame.select(pl.struct("doc_id", "path")).to_series()
    )
    assert find(("d3", "7.md")).equals(table.filter(pl.col("path") == "7.md"))
    assert find(("d3", "1.md")) is None


@pytest.mark.parametrize("name", sorted(tables.ARTIFACTS))
def test_a_missing_table_says_which_command_makes_it(tmp_path, name):
    """A table that is not there is an error with the command that builds it."""
    with pytest.raises(DamagedArtifact) as caught:
        artifacts.read(tmp_path / name)
    assert name in caught.value.what
    assert ("raft bench" if name == "answers.parquet" else "raft build") in caught.value.hint


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"no table at all"]
)
def test_a_damaged_parquet_says_what_to_do(tmp_path, damage):
    """A table that was emptied, cut off or replaced is an error with a next step."""
    path = tmp_path / "documents.parquet"
    artifacts.write(path, documents(5))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedArtifact) as caught:
        artifacts.read(path)
    assert caught.value.where == str(path)
    assert "raft build" in caught.value.hint


@pytest.mark.parametrize("text", ["no json\n", '{"question_id": 1', '{"question_id": "a"}\n[1, 2\n'])
def test_a_damaged_jsonl_says_what_to_do(tmp_path, text):
    """An evaluation file that is no JSON is an error with a next step."""
    path = tmp_path / "eval.jsonl"
    path.write_text(text)
    with pytest.raises(DamagedArtifact) as caught:
        artifacts.read(path)
    assert "raft build" in caught.value.hint


def test_a_table_with_other_columns_is_neither_written_nor_read(tmp_path):
    """A frame that differs from its schema is refused on both sides."""
    path = tmp_path / "documents.parquet"
    with pytest.raises(DamagedArtifact, match="no column path"):
        artifacts.write(path, documents(2).drop("path"))
    documents(2).drop("path").write_parquet(path)
    with pytest.raises(DamagedArtifact, match="no column path"):
        artifacts.read(path)


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """Where replacing fails before its last instant, the old text is still there."""
    path = tmp_path / "manifest.json"
    artifacts.atomically(path, "old")

    def fail(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "fsync", fail)
        with pytest.raises(OSError, match="no space"):
            artifacts.atomically(path, "new")
    assert path.read_text() == "old"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            artifacts.atomically(path, "new")
    assert path.read_text() == "old"
    artifacts.atomically(path, "new ❄\n")
    assert path.read_text(encoding="utf-8") == "new ❄\n"


@given(rows=st.lists(EVALUATION, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_an_evaluation_file_reads_as_it_was_written(rows):
    """Any text, list or null survives the way through `eval.jsonl`, one JSON object a line."""
    table = tables.frame(tables.EVALUATION, rows)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "eval.jsonl"
        assert artifacts.write(path, table) == len(rows)
        assert artifacts.read(path).equals(table)
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")] == rows


def test_an_evaluation_file_without_rows_reads_as_none(tmp_path):
    """When nothing was held out, the evaluation file is empty and reads as an empty table."""
    path = tmp_path / "eval.jsonl"
    assert artifacts.write(path, tables.EVALUATION.to_frame()) == 0
    assert artifacts.read(path).equals(tables.EVALUATION.to_frame())


def test_lines_are_written_as_they_are(tmp_path):
    """A JSONL file of ready lines holds each on one line, and its rows are counted."""
    assert artifacts.write(tmp_path / "train.jsonl", iter(['{"a": 1}', '{"b": "ü"}'])) == 2
    assert (tmp_path / "train.jsonl").read_bytes() == '{"a": 1}\n{"b": "ü"}\n'.encode()


def test_every_error_of_a_table_is_one_that_a_user_can_act_on(tmp_path):
    """A folder in the place of a table is a RaftError, not a traceback."""
    (tmp_path / "documents.parquet").mkdir()
    with pytest.raises(RaftError):
        artifacts.read(tmp_path / "documents.parquet")
