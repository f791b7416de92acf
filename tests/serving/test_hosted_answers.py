"""A hosted model behind `raft serve`: asked as everywhere, at the run's expense, several questions at once."""

import json

import pytest

from conftest import FakeEmbedder, Fakes
from fake_openai import FakeOpenAI
from raft.api import models
from raft.serving.versions import Versions
from served import Callers, Served, said

MODEL = "hosted_vllm/test-model"
SETTINGS = {"generator.attempts": 2}


@pytest.fixture(scope="module")
def run(whole):
    """A finished build; no test writes to it but its settings."""
    return whole / "run"


def test_a_hosted_model_answers_many_at_once(run, monkeypatch, on_this_machine):
    """Callers of a hosted model wait together for it; its refusals have a status, and spare the others."""
    fakes = Fakes()
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, fakes))
    with FakeOpenAI({"forbidden": ["policy"] * 9}, latency=0.5) as provider:
        manifest = json.loads((run / "manifest.json").read_bytes())
        manifest["settings"]["generator"] |= {"model": MODEL, "api_base": provider.url}
        (run / "manifest.json").write_text(json.dumps(manifest))
        with Versions(run, MODEL, None, lambda event, facts: None) as versions, Served(versions.take()) as served:
            replies = {}

            def ask(number):
                question = "What is forbidden?" if number == 3 else f"Who approves refunds above {number} euros?"
                sent = {"model": "raft", "messages": [{"role": "user", "content": question}]}
                replies[number] = served.ask("/v1/chat/completions", sent)

            with Callers(8, ask):
                pass
            assert {number: reply[0] for number, reply in replies.items()} == {
                n: 502 if n == 3 else 200 for n in range(8)
            }
            for number in {*range(8)} - {3}:
                reply = json.loads(replies[number][2])
                assert f"above {number} euros?" in reply["choices"][0]["message"]["content"], "each has its own"
                assert (reply["raft"]["system"], reply["raft"]["model"]) == ("rag", MODEL)
            events = served.chat("Who approves refunds above 99 euros?", stream=True)
            assert "above 99 euros?" in said(events)
            assert provider.most_waiting > 1
            assert [event for event, _ in served.events if event == "stumbled"] == []
