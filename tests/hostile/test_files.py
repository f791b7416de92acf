"""Files that mean no good: each costs itself at most, and the good ones beside it are read as if they were alone."""

import polars as pl
import pytest
from click.testing import CliRunner
from make import make

from conftest import Fakes, write_corpus
from raft.cli import main
from raft.corpus.documents import find_sources, read_documents
from raft.corpus.readers import read

HEAVY = 20_000
"""Bytes of a file from which on it is left out where a whole build goes over all: each was read before."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of hostile files, and the text that is in each of the good ones among them."""
    folder = tmp_path_factory.mktemp("hostile") / "corpus"
    return folder, make(folder)


@pytest.fixture(scope="module")
def found(hostile):
    """The files that were found, what was left out, and what was read."""
    sources, skipped = find_sources([str(hostile[0])])
    return sources, skipped, list(read_documents(sources, text_field="text"))


def test_each_file_has_a_row_or_is_said_to_be_left_out(hostile, found):
    """Of 430 hostile files each is a text, an error in one sentence, or named with the reason why it is left out."""
    folder, _ = hostile
    sources, skipped, frames = found
    paths = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    assert len(paths) >= 430
    left_out = {name for name, _ in skipped}
    assert len(paths) == len(sources) + len(left_out)
    for source, frame in zip(sources, frames, strict=True):
        assert len(frame), source.name
        for row in frame.iter_rows(named=True):
            assert bool(row["text"].strip()) != bool(row["error"]), row
            assert row["error"] is None or ("Traceback" not in row["error"] and len(row["error"]) < 400), row


def test_good_files_are_read_as_if_they_were_alone(hostile, found):
    """What lies beside a good file changes nothing in its title and text."""
    sources, _, frames = found
    read_of = {source.path: frame for source, frame in zip(sources, frames, strict=True)}
    for path, text in hostile[1].items():
        alone = read(path, text_field="text")
        assert [(one.title, one.text) for one in alone] == read_of[path].select("title", "text").rows()
        assert text in alone[0].text


def test_what_no_reader_survives_is_named(found):
    """Nesting, links to themselves, pipes and sockets have an error that says what they are."""
    rows = {row["path"]: row for frame in found[2] for row in frame.iter_rows(named=True)}
    for name, words in {
        "blocks-deep.html": "nested too deeply",
        "tables-deep.html": "nested too deeply",
        "bomb.docx": "zip bomb",
        "itself.md": "symbolic links",
        "pipe.md": "pipe",
        "socket.md": "pipe",
        "sparse.txt": "too large",
    }.items():
        assert words in rows[name]["error"], name


def test_a_build_goes_over_all_of_them(hostile, tmp_path, monkeypatch):
    """The command makes rows of the good documents, and ends with exit code 0 and without a traceback."""
    among = tmp_path / "hostile"
    among.mkdir()
    for path in hostile[0].iterdir():
        light = path.is_symlink() or not path.is_file() or path.stat().st_size < HEAVY
        if light and path.name not in {"paragraphs.docx", "tables.docx", "itself-drawn.pdf"}:
            path.rename(among / path.name)
    corpus = write_corpus(tmp_path / "docs")
    Fakes().install(monkeypatch.setattr)
    told = ["--set", "chunking.tokens=60", "--set", "questions.per_chunk=1"]
    done = CliRunner().invoke(main, ["build", str(corpus), str(among), "--out", str(tmp_path / "run"), *told])
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    documents = pl.read_parquet(tmp_path / "run/documents.parquet")
    assert documents.filter(pl.col("error").is_not_null()).height > 150
    assert (tmp_path / "run/train.jsonl").stat().st_size
