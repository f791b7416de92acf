"""`raft monitor` against the real server: probes, production, a fall, and going back, from one end to the other."""

import json

import pytest
from click.testing import CliRunner
from test_adapters import write_adapter
from test_serve import serving

import raft
from conftest import Fakes, write_corpus
from raft.api import monitor
from raft.backends import hub
from raft.cli import main
from raft.store import registry, traffic
from served import ask, until

ASKED = {f"How heavy is part number {number} of the Delta pump?": f"{number + 100} kg" for number in range(40)}
ANSWERS = """
import json
from pathlib import Path
fakes.install(setattr)
def by_file(request):
    asked = next(turn["content"] for turn in reversed(request.messages) if turn["role"] == "user")
    known = json.loads(Path({path!r}).read_text())
    return next((f"Answer: {{said}}" for question, said in known.items() if question in asked), "Answer: I do not know")
fakes.reply = by_file
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A built run with an adapter in production, questions of its user, and a file of what is answered."""
    lines = [{"question": question, "answers": [answer]} for question, answer in ASKED.items()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    Fakes().install(monkeypatch.setattr)
    build(tmp_path)
    student = raft.load(tmp_path / "run").settings.student
    write_adapter(tmp_path / "run", "aaa1", base=student, base_identity=hub.identity(student))
    (tmp_path / "answers.json").write_text(json.dumps(ASKED))
    return tmp_path


def build(home):
    """Build the run, or build it again."""
    settings = {"generator.attempts": 2, "questions.per_chunk": 1}
    corpus = home / "corpus" if (home / "corpus").exists() else write_corpus(home / "corpus")
    raft.build(corpus, out=home / "run", evaluation=home / "own.jsonl", settings=settings)


def served(home):
    """Serve the run in a process of its own."""
    return serving(home / "run", before=ANSWERS.format(path=str(home / "answers.json")))


def test_from_the_first_measure_to_plain_rag(home):
    """A run is served, measured, rebuilt, worse and gone back from; probes are no traffic and meet no candidate."""
    run = home / "run"
    registry.promote(run, "aaa1", by="Ann", because="a test")
    registry.nominate(run, "0", share=1.0, shadow=0.0, by="Ann")
    with served(home) as server:
        assert server.address, server.said
        url = f"{server.address}/v1"
        first = monitor(run, url=url)
        assert (first["measure"]["state"], first["measure"]["version"], first["asked"]) == ("first", "aaa1", 40)
        assert first["measure"]["value"]["value"] == 1.0
        assert monitor(run, url=url)["asked"] == 0
        registry.withdraw(run, by="Ann", because="a test")
        question = {"model": "raft", "messages": [{"role": "user", "content": "May I bring a dog?"}]}
        assert ask(server.address, "/v1/chat/completions", question)[0] == 200
        until(lambda: traffic.replies(run).height > 0, server.process)
        assert traffic.replies(run)["question"].to_list() == ["May I bring a dog?"], "no probe is traffic"

        (home / "corpus" / "new.md").write_text("# Parts\n\nThe parts of the Delta pump are listed elsewhere.\n")
        (home / "answers.json").write_text("{}")
        before = json.loads(ask(server.address, "/v1/models")[2])["data"][0]["raft"]["index"]
        build(home)
        until(lambda: json.loads(ask(server.address, "/v1/models")[2])["data"][0]["raft"]["index"] != before)
        done = CliRunner().invoke(main, ["monitor", str(run), "--url", url, "--act", "--quiet"])
        assert done.exit_code == 11, done.output
        assert "Fell by 100.0 points, certain: retrain or go back." in done.stdout
        assert "Plain RAG is in production again" in done.stdout
        assert registry.standing(run).production.id == "0"
        until(lambda: json.loads(ask(server.address, "/v1/models")[2])["data"][0]["raft"]["version"] == "0")
        back = monitor(run, url=url, act=True)
        assert (back["measure"]["version"], back["measure"]["state"], back["acted"]) == ("0", "first", None)
        assert [line["who"] for line in registry.history(run)][-1] == "monitor"
        assert server.end() == 0
    assert "Is it still as good? run" in (run / "monitor.html").read_text()
