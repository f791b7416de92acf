"""The embedded defaults: a real small model, real vectors, no key and no network."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import raft
from conftest import tables_of
from raft.curation import learned
from raft.errors import UsageError
from raft.examples.examples import check_examples

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
BROUGHT = learned.BROUGHT[0]
LIMIT = 24
BATCH = 8


def command(out, *others, way="answer_first"):
    """Return the command that builds the example handbook, with other options."""
    run = "from raft.cli import main; main()"
    options = [
        "--limit",
        LIMIT,
        "--eval",
        EXAMPLES / "questions.jsonl",
        "--set",
        f"generator.batch={BATCH}",
        "--set",
        "generator.attempts=2",
        "--set",
        f"questions.way={way}",
        *others,
    ]
    return [sys.executable, "-c", run, "build", *map(str, [EXAMPLES / "handbook", "--out", out, "--quiet", *options])]


def environment():
    """Return an environment without a key and without the hub."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(out, *others, **way):
    """Build the example handbook in a process of its own."""
    return subprocess.run(
        command(out, *others, **way),
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
        env=environment(),
        cwd=EXAMPLES,
    )


def replies(path):
    """Return how many replies a ledger holds."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as ledger:
            return ledger.execute("SELECT COUNT(*) FROM completions").fetchone()[0]
    except sqlite3.OperationalError:  # it is being made
        return 0


def without_replies(ledger, path, kept=0):
    """Copy a ledger and forget its replies, the first ones excepted: with the copy nothing is embedded again."""
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
        later = f"SELECT key FROM completions ORDER BY created, key LIMIT -1 OFFSET {kept}"
        copy.executescript(f"DELETE FROM completions WHERE key IN ({later}); DELETE FROM calls; DELETE FROM runs")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The example handbook, built undisturbed, and what the build said."""
    out = tmp_path_factory.mktemp("embedded") / "run"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return raft.load(out), done


def test_the_defaults_build_without_key_and_network(built):
    """A build with the embedded models ends well, says what it made, and asked for the questions that were wanted."""
    run, done = built
    assert done.stderr == ""
    assert f"Built {run.folder}" in done.stdout
    facts = run.summary()["steps"]
    assert facts["questions"]["calls"] >= LIMIT
    assert facts["questions"]["cost"] == 0
    assert run.documents["error"].null_count() == run.documents.height
    assert run.questions.height + run.failures.height <= LIMIT


def test_by_default_no_model_is_asked_for_what_rules_understand(built, tmp_path):
    """A build with the defaults asks by rule first, and keeps nearly all of what it asks so."""
    ledger = without_replies(built[0].folder / "ledger.sqlite", tmp_path / "ledger.sqlite")
    done = run(tmp_path / "run", "--set", f"ledger={ledger}", way="auto")
    assert done.returncode == 0, done.stderr
    made = raft.load(tmp_path / "run")
    assert (made.summary()["steps"]["questions"]["calls"], made.questions.height) == (0, LIMIT)
    assert made.cleaned["reason"].null_count() >= 0.8 * LIMIT


def test_a_small_model_writes_usable_questions(built):
    """Of what the small model is asked for, at least half becomes a question that is kept."""
    run, _ = built
    assert run.cleaned["reason"].null_count() >= LIMIT / 2


def test_the_rows_are_what_they_say(built):
    """Each training row holds what `check_examples` promises, in the student's tokens."""
    run, _ = built
    assert run.examples.height
    check_examples(run.examples, run.chunks)
    assert run.examples["tokens"].max() <= run.settings.examples.max_tokens


def test_experts_questions_are_registered(built):
    """The 120 questions of the example are there to measure with, and none is trained on."""
    run, _ = built
    own = run.evaluation.filter(pl.col("split") == "user")
    assert own.height == 120
    learned = run.cleaned.filter(pl.col("split").is_in(["train", "valid"]))["question"]
    assert set(learned).isdisjoint(own["question"])


def test_the_index_brings_the_right_document(built):
    """For most of the experts' questions a chunk of the right document is among the best five."""
    run, _ = built
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [row for row in map(json.loads, lines[::5]) if row.get("document")]
    hits = run.index.search([row["question"] for row in asked], k=5)
    paths = dict(run.documents.select("doc_id", "path").iter_rows())
    found = [
        row["document"] in {paths[name] for name in hits.filter(pl.col("query") == number)["doc_id"]}
        for number, row in enumerate(asked)
    ]
    assert sum(found) >= 0.8 * len(asked)


def test_a_second_build_does_nothing(built):
    """The same command again asks nothing, and leaves every byte as it is."""
    one, _ = built
    before, steps = tables_of(one.folder), one.manifest["steps"]
    done = run(one.folder)
    assert done.returncode == 0, done.stderr
    assert tables_of(one.folder) == before
    assert raft.load(one.folder).manifest["steps"] == steps


def test_a_build_that_is_killed_goes_on(built, tmp_path):
    """After `kill -9` while questions are written, the same command ends with the bytes of an undisturbed build."""
    one, _ = built
    out, whole = tmp_path / "run", one.folder / "ledger.sqlite"
    told = (replies(whole) - 1) // BATCH * BATCH - 2 * BATCH  # a batch before the kill, and two after it
    ledger = without_replies(whole, tmp_path / "ledger.sqlite", told)
    shared = ["--set", f"ledger={ledger}"]
    with subprocess.Popen(
        command(out, *shared),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=EXAMPLES,
        start_new_session=True,
    ) as process:
        try:
            for _ in range(6000):
                if replies(ledger) > told or process.poll() is not None:
                    break
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = replies(ledger)
    assert told < kept < replies(whole)
    assert not (out / "questions.parquet").exists()
    done = run(out, *shared)
    assert done.returncode == 0, done.stderr
    assert tables_of(out) == tables_of(one.folder)
    asked = raft.load(out).manifest["steps"]["questions"]
    assert asked["replayed"] == kept
    assert replies(ledger) == replies(whole)


def test_a_learned_filter_scores_what_a_model_wrote(built, tmp_path):
    """What is likelier wrong than the weights allow is dropped; without verdicts of people nothing can be taught."""
    folder = tmp_path / "run"
    shutil.copytree(built[0].folder, folder)
    own = {"questions.limit": LIMIT, "questions.way": "answer_first", "generator.attempts": 2, "generator.batch": BATCH}
    build = partial(raft.build, EXAMPLES / "handbook", out=folder, eval=EXAMPLES / "questions.jsonl")
    with pytest.raises(UsageError, match="without a learned filter"):
        raft.review(folder, learn=tmp_path / "own.json")
    filtered = build(settings={**own, "cleaning.learned": BROUGHT})
    rows = filtered.cleaned.to_dicts()
    scored = {row["question_id"]: row["readings"][-1]["verdict"] for row in rows if row["readings"]}
    unlikely = {row["question_id"] for row in rows if row["reason"] == learned.UNLIKELY}
    assert unlikely
    assert unlikely == {name for name, likely in scored.items() if likely < learned.load(BROUGHT).minimum}
    events = []
    build(
        settings={**own, "cleaning.learned": BROUGHT},
        on_event=lambda event, facts: events.append((event, facts.get("step"))),
    )
    assert ("reused", "cleaned") in events
    milder = learned.load(BROUGHT).model_copy(update={"minimum": 0.0})
    file = tmp_path / "milder.json"
    file.write_text(milder.identity, encoding="utf-8")
    assert build(settings={**own, "cleaning.learned": str(file)}).cleaned.filter(reason=learned.UNLIKELY).is_empty()
    with pytest.raises(UsageError, match="20 of each are needed"):
        raft.review(folder, learn=tmp_path / "own.json")
