"""A key that is missing is told of before any work is done in vain."""

from contextlib import closing

import pytest

import raft
from raft import api
from raft.api import models
from raft.backends.hosted.providers import check_key
from raft.errors import UsageError
from raft.store.ledger import Entry, Ledger

HOSTED = {"generator": "openai/some-model", "price": (0.0, 0.0)}
TEXTS = {"embedder": "openai/text-embedding-3-small", "max_cost": 1.0}


@pytest.fixture(autouse=True)
def no_key(fake_models, monkeypatch):
    """Models cost nothing, and yet want the key that is not there."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(models, "check_key", check_key)


@pytest.mark.parametrize("options", [HOSTED, TEXTS])
def test_a_missing_key_is_missed_before_the_first_step(options, corpus, tmp_path):
    """No document is read, and nothing is embedded or asked, where the generator's or the embedder's key is missing."""
    events = []
    with pytest.raises(UsageError, match=f"no key for {options.get('generator', options.get('embedder'))}") as caught:
        raft.build(corpus, out=tmp_path / "run", on_event=lambda event, facts: events.append(event), **options)
    assert caught.value.hint == "export OPENAI_API_KEY=..."
    assert events == []
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".parquet", ".json", ".jsonl")]


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        ({}, False),
        ({"questions.way": "rules", "questions.limit": 9}, False),
        ({"cleaning.judge": True}, True),
        ({"cleaning.reader": True}, True),
        ({"answer_style.tone": "friendly"}, True),
    ],
)
def test_a_generator_that_is_not_asked_needs_no_key(settings, asks, corpus, tmp_path):
    """With rules or pairs alone nobody misses the generator's key, until a judge, filter or style would ask it."""
    (tmp_path / "qa.csv").write_text("question,answer\nHow many days may customers return a pump?,10 days\n")
    options = {**HOSTED, "qa": tmp_path / "qa.csv"}
    settings = {"questions.limit": 0, "split.unseen": 0.0, "chunking.tokens": 60, **settings}
    if asks:
        with pytest.raises(UsageError, match="There is no key"):
            raft.build(corpus, out=tmp_path / "run", settings=settings, **options)
    else:
        assert raft.build(corpus, out=tmp_path / "run", settings=settings, **options).examples.height


def test_an_estimate_needs_a_key_for_its_sample_alone(corpus, tmp_path):
    """What asks nobody needs no key; a sample is refused without one before a document is read."""
    assert raft.estimate(corpus, out=tmp_path / "run", **HOSTED).calls
    with pytest.raises(UsageError, match="There is no key"):
        raft.estimate(corpus, out=tmp_path / "other", sample=2, **HOSTED)
    assert not (tmp_path / "other").exists()


def test_what_is_built_or_in_the_ledger_needs_no_key(corpus, tmp_path, monkeypatch):
    """A build that asks nothing new opens without the key; one that does is refused before its first step."""
    run = tmp_path / "run"
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    made = raft.build(corpus, out=run, **HOSTED).questions
    monkeypatch.delenv("OPENAI_API_KEY")
    raft.build(corpus, out=run, **HOSTED)
    for name in ("manifest.json", "questions.parquet"):
        (run / name).unlink()
    assert raft.build(corpus, out=run, **HOSTED).questions.equals(made)
    (corpus / "new.md").write_text("# New\n\nThe Gamma pump weighs 31 kg. It lifts water over 44 metres.\n")
    events = []
    with pytest.raises(UsageError, match="There is no key"):
        raft.build(corpus, out=run, on_event=lambda event, facts: events.append(event), **HOSTED)
    assert not {"made", "embedded", "asked"} & set(events)


def test_those_who_answer_are_looked_at_first(corpus, tmp_path):
    """A hosted model that is to answer or to be measured is refused before anything is searched or asked."""
    run = raft.build(corpus, out=tmp_path / "run").folder
    with pytest.raises(UsageError, match="no key for openai/large"):
        raft.load(run).answerer(model="openai/large")
    events = []
    with pytest.raises(UsageError, match="no key for openai/large"):
        api.bench(run, larger=["openai/large"], on_event=lambda event, facts: events.append(event))
    assert events == []


def test_a_model_that_a_ledger_knows_may_need_no_key(tmp_path):
    """Replies that were paid for are read without the key of who gave them; a local model never needs one."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        ledger.add([Entry("k", "openai/known", 0, "{}", "yes", "stop", 1, 1, None, 0.1)])
        models.check_keys({"openai/known": None, "some/local-model": None, "hosted_vllm/m": "http://x/v1"}, ledger)
        with pytest.raises(UsageError, match="no key for openai/unknown"):
            models.check_keys({"openai/unknown": None}, ledger)
