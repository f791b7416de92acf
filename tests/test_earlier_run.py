"""A run that an earlier raft finished opens in this one: nothing is made again, nothing is asked again."""

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

import raft

FINISHED = Path(__file__).parent / "fixtures" / "run-0.2.0.tar.xz"
"""A run of the example handbook, with its corpus and its student; `fixtures/README.md` says how it was made."""

STEPS = ["documents", "chunks", "survey", "index", "lexical", "questions", "cleaned", "examples"]

pytestmark = pytest.mark.slow


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The folder of the finished run, made current, with corpus and student beside it as they were."""
    with tarfile.open(FINISHED) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def build(run, on_event=None):
    """Build as the command that made the run did."""
    return raft.build(
        "examples/handbook",
        out=run,
        pipeline_file="embedded",
        student="student",
        evaluation="examples/questions.jsonl",
        on_event=on_event,
    )


def replies(run):
    """Return how many completions and calls the run's ledger holds."""
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        return [ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("completions", "calls")]


def heard(events):
    """Return a listener that keeps which step was reported as what."""
    return lambda event, facts: events.append((facts["step"], event)) if event in ("begins", "made", "reused") else None


def test_a_build_on_an_earlier_run_finds_every_step_unchanged(earlier):
    """The command that built a run with an earlier raft says of every step that it is unchanged, and asks nothing."""
    before, asked, events = json.loads((earlier / "manifest.json").read_text()), replies(earlier), []
    build(earlier, heard(events))
    after = json.loads((earlier / "manifest.json").read_text())
    assert [step for step, event in events if event == "made"] == []
    assert [step for step, event in events if step in STEPS and event == "reused"] == STEPS
    assert replies(earlier) == asked
    for step in STEPS:
        assert after["steps"][step]["artifacts"] == before["steps"][step]["artifacts"], step


def test_a_rule_that_is_new_cleans_an_earlier_run(earlier, monkeypatch):
    """Once the version of the step is raised, an earlier run is cleaned by the rules of now; its questions stay."""
    events = []
    monkeypatch.setattr("raft.pipeline.build._CLEANED", 4)
    build(earlier, heard(events))
    assert ("cleaned", "begins") in events and ("questions", "begins") not in events


def test_a_training_on_an_earlier_run_is_reused(earlier):
    """The command that trained an adapter with an earlier raft finds it, and trains nothing."""
    events, current = [], (earlier / "adapters" / "current").read_text()
    card = raft.train(earlier, on_event=heard(events))
    assert [step for step, event in events if event == "made"] == []
    assert card["adapter"] == current.strip()
    assert (earlier / "adapters" / "current").read_text() == current


def test_a_benchmark_on_an_earlier_run_replays_every_answer(earlier):
    """What an earlier raft asked in a benchmark is replayed: no call is made, and every reply is the same."""
    columns = ["arm", "question_id", "condition", "raw"]
    before, asked = pl.read_parquet(earlier / "answers.parquet"), replies(earlier)
    raft.bench(earlier, settings={"benchmark.latency_questions": 1})  # what is timed is never replayed
    after = pl.read_parquet(earlier / "answers.parquet")
    assert replies(earlier) == asked
    assert after.select(columns).sort(columns).equals(before.select(columns).sort(columns))


def test_an_earlier_run_still_answers(earlier):
    """The adapter of an earlier run answers from its index."""
    answer = raft.load(earlier).ask("How many telephones may be paired with one Sense controller?")
    assert answer.text
    assert len(answer.passages) > 0
