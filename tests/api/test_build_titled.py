"""Builds whose questions are completed with their documents' titles."""

import re

import polars as pl
import pytest

import raft
from conftest import reply_by_rule, tables_of
from raft.generation.generate import question_id

pytestmark = pytest.mark.slow
WAY = {"questions.way": "answer_first", "chunking.tokens": 60, "questions.per_chunk": 9}
TITLED = {**WAY, "questions.titled": True}
TEXTS = {
    "pool": "# Terms of the Tornby Pool\n\n"
    + "A guest pays 9 euros for a towel of the house. After 4 warnings a guest leaves the water for 20 minutes.\n\n"
    + "The Tornby attendant opens the gate at 7:00 on each day of the week. A locker costs 3 euros for each visit.\n",
    "yard": "# Terms of the Moss Yard\n\n"
    + "An owner pays 40 euros for a place at the wall. After 3 reminders a boat is moved within 14 days by staff.\n\n"
    + "The Moss crane lifts boats of 12 tonnes on each day of the week. A mast costs 30 euros for each winter.\n",
}


@pytest.fixture
def corpus(tmp_path, fake_models):
    """Two documents of a kind, of which few sentences name anything; questions go on in small letters."""
    fake_models.reply = lambda request: re.sub(r"^ ([A-Z])", lambda found: found[0].lower(), reply_by_rule(request))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return folder


def test_questions_that_name_nothing_of_their_document_are_completed(tmp_path, corpus):
    """Their rows are those of a build without, but for question and id; the id is that of the completed question."""
    plain = raft.build(corpus, out=tmp_path / "plain", settings=WAY).questions.to_dicts()
    built = raft.build(corpus, out=tmp_path / "run", settings=TITLED)
    titles = dict(built.documents.select("doc_id", "title").iter_rows())
    now = built.questions.to_dicts()
    changed = [(old, new) for old, new in zip(plain, now, strict=True) if old != new]
    assert 3 <= len(changed) < len(now)
    for old, new in changed:
        assert (
            new["question"]
            == f"According to {titles[new['doc_ids'][0]]}, {old['question'][0].lower()}{old['question'][1:]}"
        )
        assert new["question_id"] == question_id(new["golden_chunk_ids"], new["kind"], new["question"])
        assert {**old, "question": 0, "question_id": 0} == {**new, "question": 0, "question_id": 0}


def test_nothing_is_asked_again_and_the_bytes_come_back(tmp_path, corpus, fake_models):
    """A run that is built with titles later asks no model anew, and lost tables are made again to the same bytes."""
    raft.build(corpus, out=tmp_path / "run", settings=WAY)
    asked = len(fake_models.asked)
    built = raft.build(corpus, out=tmp_path / "run", settings=TITLED)
    before = tables_of(built.folder)
    for name in ("questions.parquet", "cleaned.parquet"):
        (built.folder / name).unlink()
    assert tables_of(raft.build(corpus, out=tmp_path / "run", settings=TITLED).folder) == before
    assert len(fake_models.asked) == asked


def test_rounds_complete_their_questions_too(tmp_path, corpus):
    """With `questions.keep` the questions of each round are completed."""
    built = raft.build(corpus, out=tmp_path / "run", settings={**TITLED, "questions.keep": 12})
    assert built.questions.filter(pl.col("question").str.starts_with("According to ")).height > 0


def test_off_it_is_part_of_no_key(tmp_path, corpus):
    """Without the setting the step's line says nothing of it, so that runs of before keep theirs."""
    built = raft.build(corpus, out=tmp_path / "run", settings=WAY)
    line = built.manifest["steps"]["questions"]
    assert "documents.parquet" not in line["inputs"]
    again = raft.build(corpus, out=tmp_path / "run", settings={**WAY, "questions.titled": False})
    assert again.manifest["steps"]["questions"] == line
