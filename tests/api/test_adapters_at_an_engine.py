"""Adapters at a vLLM: called by their digests, loaded once, answered with; what it cannot do is said with a command."""

import pytest
from test_train import build_for

import raft
from conftest import Fakes, HashEmbedder
from raft.api import models
from raft.errors import RaftError, UsageError
from raft.store import adapters
from stand_in import standing_in

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

QUESTION = "How heavy is the Delta garden pump?"


class Engine:
    """What a vLLM says over HTTP of its models, of adapters that are loaded at runtime, and to chats.

    Attributes:
        base: what its model is called.
        cards: the list of models.
        loads: the bodies of the requests to load an adapter.
        asked: the names of the models that were asked.
        updates: whether adapters may be loaded.
        keys: the Authorization of each request.
    """

    def __init__(self, base):
        self.base, self.updates = base, True
        self.cards = [{"id": base, "object": "model", "root": f"org/{base}", "parent": None}]
        self.loads, self.asked, self.keys = [], [], []

    def answer(self, path, body):
        """Return status and reply."""
        if path == "/v1/models":
            return 200, {"object": "list", "data": self.cards}
        if path == "/v1/load_lora_adapter" and self.updates:
            self.loads.append(body)
            if any(card["id"] == body["lora_name"] for card in self.cards):
                return 400, {"error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}}
            self.cards.append({"id": body["lora_name"], "root": body["lora_path"], "parent": self.base})
            return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
        if path == "/v1/chat/completions":
            self.asked.append(body["model"])
            message = {"role": "assistant", "content": 'Answer: 7.5 kg\nQuote [1]: "weighs 7.5 kg"'}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return 200, {"choices": [choice], "usage": {"prompt_tokens": 90, "completion_tokens": 9}}
        return 404, {"detail": "Not Found"}


@pytest.fixture(scope="module")
def finished(tiny_student, tmp_path_factory):
    """A finished build for the tiny student with an adapter; no test writes to it."""
    run = build_for(tiny_student, tmp_path_factory.mktemp("engine"))
    raft.train(run, settings={"training.epochs": 1.0})
    return run


@pytest.fixture
def engine(tiny_student, monkeypatch):
    """An engine that listens, and whose address the environment has."""
    found = Engine(tiny_student.name)

    def answer(method, path, headers, body):
        found.keys.append(headers.get("authorization"))
        return found.answer(path, body)

    with standing_in(answer) as address:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", f"{address}/v1")
        monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: _Embedder(name))
        yield found


class _Embedder(HashEmbedder):
    def __init__(self, name):
        super().__init__()
        self.identity = f"hash:{name}"


def test_an_adapter_answers_at_an_engine_by_its_digest(finished, engine):
    """It is loaded once, from its folder, under its digest; answers are the engine's, and name the adapter."""
    adapter = adapters.find(finished)
    digest = adapters.digest(adapter)
    for _ in range(2):
        built = raft.load(finished)
        said = built.ask(QUESTION, model=f"hosted_vllm/{engine.base}", adapter=adapter.name[:6])
        assert (said.text, said.adapter, said.quotes_verbatim) == ("7.5 kg", adapter.name, True)
    assert engine.loads == [{"lora_name": digest, "lora_path": str(adapter.resolve())}]
    assert set(engine.asked) == {digest}
    raft.load(finished).ask(QUESTION, model=f"hosted_vllm/{engine.base}")
    assert engine.asked[-1] == engine.base


def test_a_race_to_load_is_no_error(finished, engine, monkeypatch):
    """Where another process loads the same adapter in between, it is taken as loaded."""
    digest = adapters.digest(adapters.find(finished))
    listed = list(engine.cards)
    engine.cards.append({"id": digest, "root": "elsewhere", "parent": engine.base})
    answer = engine.answer
    shown = lambda path, body: (200, {"data": listed}) if path == "/v1/models" else answer(path, body)  # noqa: E731
    monkeypatch.setattr(engine, "answer", shown)
    assert raft.load(finished).ask(QUESTION, model=f"hosted_vllm/{engine.base}", adapter=adapters.current(finished))
    assert len(engine.loads) == 1


def test_the_key_goes_with_each_request(finished, engine, monkeypatch):
    """Where the engine has a key, listing, loading and asking bring it."""
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sesame")
    raft.load(finished).ask(QUESTION, model=f"hosted_vllm/{engine.base}", adapter=adapters.current(finished))
    assert engine.keys == ["Bearer sesame"] * 3


def refused(run, model):
    """Return the refusal of a question to a model with the run's adapter."""
    with pytest.raises(RaftError) as found:
        raft.load(run).ask(QUESTION, model=model, adapter=adapters.current(run))
    return found.value


def test_what_an_engine_cannot_do_is_said_with_the_command(finished, engine, monkeypatch):
    """Refused, with what to type: no updates at runtime, no such or another base or parent, no vLLM, no engine."""
    name, digest = f"hosted_vllm/{engine.base}", adapters.digest(adapters.find(finished))
    engine.updates = False
    told = refused(finished, name)
    assert "404, " in told.what and "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve" in told.hint
    assert f"--lora-modules {digest}=" in told.hint and "--max-lora-rank" in told.hint
    other = refused(finished, "hosted_vllm/other")
    assert isinstance(other, UsageError) and engine.base in other.what
    engine.cards[0]["root"], engine.cards[0]["id"] = "org/another", "served"
    assert "was tuned on" in refused(finished, "hosted_vllm/served").what
    engine.cards[:] = [{"id": engine.base, "root": None}, {"id": digest, "parent": "another"}]
    assert "upon another" in refused(finished, name).what
    monkeypatch.setattr(engine, "answer", lambda path, body: (200, "<html>"))
    assert "does not say which models" in refused(finished, name).what
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in refused(finished, name).what
    monkeypatch.delenv("HOSTED_VLLM_API_BASE")
    assert "no address" in refused(finished, name).what.lower()
    assert not engine.asked


def test_other_hosted_models_take_no_adapter(finished, engine, monkeypatch):
    """A model at a provider is refused with an adapter, and told of what takes one."""
    Fakes().install_around_student(monkeypatch.setattr)
    assert "hosted_vllm/NAME" in refused(finished, "openai/gpt-4o-mini").hint
