"""A build with questions and answers that the user has already."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

from raft import api
from raft.cli import main, messages
from raft.errors import RaftError, UsageError
from raft.rag.format import parse

SETTINGS = {"chunking.tokens": 60, "generator.attempts": 2}
PAIRS = """question,answer,document
Who approves home refunds above 250 euros?,Marta Quill,
Within how many days may trade customers return a pump?,10 days,refunds/trade.md
What is the part number of the seal kit of the Delta pump?,QK-771-C,
For how many months does the service desk keep call records?,36 months,
How many fire extinguishers does the workshop hold?,4 fire extinguishers,
Which phone number has the mayor of Orlin?,555-0199,
,no question,
"""


@pytest.fixture
def pairs(corpus):
    """A file of pairs that lies in the corpus."""
    path = corpus / "faq.csv"
    path.write_text(PAIRS)
    return path


def test_pairs_alone_become_training_rows_without_a_model(corpus, pairs, tmp_path, fake_models):
    """With a limit of 0 the pairs that the YAML file names are cleaned, split and made examples; nothing is asked."""
    (corpus / "raft.yaml").write_text("questions: {qa: faq.csv, limit: 0}\nsplit: {unseen: 0.0}\n")
    built = api.build(corpus, out=tmp_path / "run", pipeline=corpus / "raft.yaml", settings=SETTINGS)
    assert fake_models.asked == []
    assert "faq.csv" not in built.documents["path"].to_list()
    rows = {row["answer"]: row for row in built.cleaned.iter_rows(named=True)}
    assert rows["555-0199"]["reason"] == "no document says it"
    assert rows["10 days"]["reason"] is None
    assert set(built.cleaned["model"]) == {"human"}
    learned = built.cleaned.filter(pl.col("split").is_in(["train", "valid"]))
    assert learned.height == built.examples.height > 0
    for row in built.examples.filter(pl.col("golden_positions").list.len() > 0).iter_rows(named=True):
        assert parse(row["messages"][-1]["content"]).quotes
    said = messages.summary(built.summary())
    assert "pairs       6 from faq.csv; 1 rows of it are left out:" in said
    assert "faq.csv, line 8: it has no question" in said
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "run"), "qa", "-n", "2"]).output
    assert shown.count("  quote ") == 2


def test_pairs_stand_beside_generated_questions(corpus, pairs, tmp_path, fake_models):
    """Pairs win over questions that say the same; leaving them out again finds the run as it was without them."""
    settings = {**SETTINGS, "questions.per_chunk": 4, "split.unseen": 0.0}
    pairs.unlink()
    plain = api.build(corpus, out=tmp_path / "run", settings=settings)
    cleaned, asked = plain.cleaned, len(fake_models.asked)
    kept = cleaned.filter(pl.col("split") == "train").row(0, named=True)
    (tmp_path / "own.jsonl").write_text(json.dumps({"question": kept["question"], "answer": kept["answer"]}))
    both = api.build(corpus, out=tmp_path / "run", qa=tmp_path / "own.jsonl", settings=settings)
    assert both.cleaned.height == cleaned.height + 1
    same = dict(both.cleaned.filter(pl.col("question") == kept["question"]).select("model", "reason").iter_rows())
    assert same.pop("human") is None
    assert set(same.values()) == {"duplicate"}
    again = api.build(corpus, out=tmp_path / "run", settings=settings)
    assert again.cleaned.equals(cleaned)
    assert len(fake_models.asked) == asked
    assert not [name for name, line in again.summary()["steps"].items() if line.get("stale")]
    assert "own.jsonl" in messages.summary(both.summary()) and "pairs  " not in messages.summary(again.summary())
    assert "\n  qa " not in CliRunner().invoke(main, ["status", str(tmp_path / "run")]).output
    told = CliRunner().invoke(main, ["show", str(tmp_path / "run"), "qa"])
    assert (told.exit_code, "--qa FILE" in told.output) == (2, True)


def test_nothing_to_ask_is_refused(corpus, tmp_path, fake_models):
    """No questions of the generator and no pairs either is an error that names both."""
    with pytest.raises(UsageError, match="no pairs are given") as told:
        api.build(corpus, out=tmp_path / "run", limit=0)
    assert "--qa FILE" in told.value.hint


def test_personal_data_in_pairs_is_refused(corpus, tmp_path, fake_models):
    """What `privacy.found` says of documents holds for pairs."""
    (tmp_path / "faq.csv").write_text(PAIRS + "Who answers at ada.berg@example.com on working days?,The desk,\n")
    settings = {**SETTINGS, "split.unseen": 0.0, "privacy.found": "refuse"}
    with pytest.raises(RaftError, match="The questions hold personal data"):
        api.build(corpus, out=tmp_path / "run", qa=tmp_path / "faq.csv", limit=0, settings=settings)


def test_personal_data_in_examples_is_named(corpus, tmp_path, fake_models):
    """What examples of how people ask hold is told as it is of documents and own questions."""
    (tmp_path / "like.txt").write_text("Who answers at ada.berg@example.com on working days?\n")
    settings = {**SETTINGS, "questions.like": str(tmp_path / "like.txt")}
    built = api.build(corpus, out=tmp_path / "run", settings=settings)
    assert "in your own questions, left as they are" in messages.summary(built.summary())
