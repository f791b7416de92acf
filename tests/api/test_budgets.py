"""One budget for a run, whoever asks: what benchmarks and answers cost is written down, and the cap holds for them."""

from contextlib import closing

import pytest

import raft
from conftest import FakeEmbedder, Fakes, write_corpus
from fake_openai import FakeOpenAI
from raft import settings as config
from raft.api import models
from raft.errors import UsageError
from raft.protocols import Completion, Request
from raft.store.budget import CapReached
from raft.store.ledger import Ledger
from raft.testing import WordTokenizer

LARGER = "openai/some-model"


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def requests(count):
    """Return equal requests."""
    return [Request(({"role": "user", "content": "hello"},), max_tokens=9) for _ in range(count)]


def settings(cap, **larger):
    """Return settings with a cap, and a larger model to compare with."""
    return config.load(None, {"generator.max_cost": cap, "benchmark.larger": [{"model": LARGER, **larger}]})


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_what_latency_is_measured_with_is_paid_for(ledger):
    """Each question that is asked to time a model is asked anew, written down with its cost, and held by the cap."""
    with FakeOpenAI() as server:
        options = {"api_base": server.url, "run": "r"}
        chosen = settings(1.0, input_price=10.0, output_price=10.0)
        uncached = models.open_model(LARGER, chosen, ledger, **options).uncached
        assert all(isinstance(one, Completion) for one in uncached.complete(requests(3)))
        (spent,) = ledger.spending("r")
        assert (spent["calls"], len(server.seen)) == (3, 3)
        assert spent["cost"] > 0
        assert ledger.spent() == []
        small = settings(spent["cost"] + 1e-6, input_price=10.0, output_price=10.0)
        with pytest.raises(CapReached):
            list(models.open_model(LARGER, small, ledger, **options).uncached.complete(requests(1)))
        assert len(server.seen) == 3


@pytest.mark.parametrize(("address", "known"), [("http://gpu.example/v1", False), ("http://127.0.0.1:9/v1", True)])
def test_a_cap_needs_a_price_in_a_benchmark_too(ledger, address, known):
    """A self-hosted model of unknown price is refused under a cap with what gives a price, but on this machine free."""
    if known:
        models.open_model(LARGER, settings(1.0), ledger, api_base=address, run="r")
        return
    with pytest.raises(UsageError, match=r"benchmark\.larger=.*input_price") as caught:
        models.open_model(LARGER, settings(1.0), ledger, api_base=address, run="r")
    assert LARGER in str(caught.value)
    models.open_model(LARGER, settings(None), ledger, api_base=address, run="r")
    models.open_model(LARGER, settings(1.0, input_price=1.0, output_price=1.0), ledger, api_base=address, run="r")


def test_embedding_a_question_is_paid_for_once(tmp_path, fake_models):
    """What a hosted embedder is asked by who searches a run is paid from the run's budget, and kept."""
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "run"
    raft.build(corpus, out=out, embedder="openai/text-embedding-3-small", max_cost=5.0, settings={"split.seen": 0.0})
    fake_models.embedded.clear()
    index = raft.load(out).index
    for _ in range(2):
        assert len(index.search(["How heavy is the pump?"], 3)) == 3
    assert fake_models.embedded == ["How heavy is the pump?"]
    with closing(Ledger(out / "ledger.sqlite")) as ledger:
        rows = {row["purpose"]: row for row in ledger.spending(raft.load(out).manifest["collection"])}
    assert rows["ask"]["calls"] == 1
    assert rows["ask"]["cost"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_an_answer_is_paid_for_and_not_kept(tmp_path, monkeypatch):
    """What `ask` costs at a hosted model stands among the run's calls; what was said is not in its ledger."""
    fakes, corpus, out = Fakes(), write_corpus(tmp_path / "corpus"), tmp_path / "run"
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, fakes))
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())
    with FakeOpenAI() as server:
        changes = {"generator.api_base": server.url, "split.seen": 0.0}
        built = raft.build(corpus, out=out, generator="hosted_vllm/test-model", max_cost=1.0, settings=changes)
        with closing(Ledger(out / "ledger.sqlite")) as ledger:
            before = ledger.spent()
        for _ in range(2):
            built.ask("How heavy is the pump?", model="hosted_vllm/test-model")
    with closing(Ledger(out / "ledger.sqlite")) as ledger:
        rows = {row["purpose"]: row for row in ledger.spending(built.manifest["collection"])}
        assert (rows["ask"]["calls"], rows["ask"]["cost"]) == (2, 0.0)
        assert ledger.spent() == before
