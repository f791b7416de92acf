"""From documents to production and back, as a user types it: build, train, bench, promote, serve, learn, go back."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from test_serve import serving

import raft
from raft.cli import main
from served import ask, until

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION, ANSWER = "How large may a goodwill refund to a private customer be for one order?", "120 euros"
FEW = [
    "chunking.tokens=60",
    "questions.way=rules",
    "questions.limit=32",
    "examples.documents=2",
    "index.k=2",
    "split.valid=0.2",
]
QUICK = ["benchmark.exemplars=[0]", "benchmark.tuning_questions=2", "benchmark.latency_questions=1"]
QUICK += ["benchmark.contenders=verdict", "benchmark.capability=[]", "answering.max_tokens=12"]


def settings(pairs):
    """Return options that set settings."""
    return [part for pair in pairs for part in ("--set", pair)]


def typed(*words, code=0):
    """Type `raft` and words; return what it says, and see that it ends as it should."""
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == code and "Traceback" not in done.output, (words, done.output, done.exception)
    return done.stdout if "--json" in words else done.output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A few documents of the example, and the questions that its experts ask about them."""
    home = tmp_path_factory.mktemp("story")
    shutil.copytree(EXAMPLES / "handbook" / "policies", home / "handbook" / "policies")
    shutil.copytree(EXAMPLES / "handbook" / "support", home / "handbook" / "support")
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if re.match(r"policies|support", json.loads(line).get("document") or "")]
    (home / "questions.jsonl").write_text("\n".join(kept[:12]) + "\n", encoding="utf-8")
    return home


def versions():
    """Return the versions of the run, as the registry lists them."""
    return [json.loads(line) for line in typed("registry", "list", "run", "--json").splitlines()]


def digest(run):
    """Return the digest of a run's index."""
    manifest = json.loads((Path(run) / "manifest.json").read_bytes())
    return manifest["steps"]["index"]["artifacts"]["index"]["digest"]


def test_a_run_goes_into_production_and_learns_from_its_users(corpus, tiny_student, monkeypatch):
    """Each command is typed and served in its order, and each answer names the version that gave it."""
    openai = pytest.importorskip("openai")
    monkeypatch.chdir(corpus)
    build = [
        "build",
        "handbook",
        "--out",
        "run",
        "--eval",
        "questions.jsonl",
        "--student",
        tiny_student,
        *settings(FEW),
    ]
    typed(*build)
    typed("train", "run", "--set", "training.epochs=1")
    said = typed("bench", "run", "--questions", "questions.jsonl", *settings(QUICK))
    assert "report.html" in said
    (first,) = {one["id"] for one in versions() if one["kind"] == "adapter"}
    refused = typed("registry", "promote", "run", first, "--by", "Ada", code=2)
    assert "--because" in refused
    typed("approve", "run", "--by", "Ada", "--note", "read 20 answers")
    typed("registry", "promote", "run", first, "--by", "Ada", "--because", "a trial on this machine")
    with serving(corpus / "run", before="") as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)

        def asked(question=QUESTION, **more):
            return client.chat.completions.create(
                model="raft", messages=[{"role": "user", "content": question}], **more
            )

        reply = asked()
        assert (reply.raft["version"], reply.raft["arm"]) == (first, "production")
        *_, last = asked(stream=True)
        assert last.raft["version"] == first
        said = {"reply_id": reply.raft["id"], "rating": "down", "correction": ANSWER}
        assert ask(server.address, "/v1/feedback", said)[0] == 200
        (came,) = json.loads(typed("feedback", "run", "--list", "--json"))["rows"]
        assert (came["question"], came["correction"]) == (QUESTION, ANSWER)
        typed("feedback", "run", "--list", "--accept", came["id"], "--by", "Ada")
        typed("feedback", "run", "--list", "--export", "people.jsonl")
        typed(*build, "--qa", "people.jsonl")
        ours = raft.load("run").cleaned.filter(pl.col("model") == "human")
        assert ours["question"].to_list() == [QUESTION]
        until(lambda: asked().raft["index"] == digest("run"), server.process)

        typed("train", "run", "--set", "training.epochs=1", "--set", "seed=1")
        (second,) = {one["id"] for one in versions() if one["kind"] == "adapter"} - {first}
        typed("registry", "candidate", "run", second, "--share", "1", "--by", "Ada", "--because", "it read more")
        until(lambda: asked(user="caller").raft["arm"] == "candidate", server.process)
        assert asked(user="caller").raft["version"] == second
        typed("registry", "candidate", "run", "none", "--by", "Ada")
        typed("registry", "rollback", "run", "--by", "Ada", "--because", "the trial is over")
        until(lambda: asked().raft["version"] == "0", server.process)

        watched = "monitor", "run", "--url", f"{server.address}/v1", "--json"
        assert json.loads(typed(*watched))["asked"]
        assert not json.loads(typed(*watched))["asked"], "nothing has changed"
        assert server.end() == 0
    log = [json.loads(line) for line in typed("registry", "log", "run", "--json").splitlines()]
    assert [(one["action"], one["version"]) for one in log if one["who"] == "Ada"] == [
        ("promote", first),
        ("candidate", second),
        ("withdraw", second),
        ("rollback", "0"),
    ]
    assert log[-1]["why"] == "the trial is over"
    assert "production" in typed("status", "run")
