"""Where hosted models are asked: part of what they are known by, and what tells whether they cost anything."""

import json
import socket
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raft.backends.embedding import HostedEmbedder
from raft.backends.hosted.model import HostedModel
from raft.backends.hosted.providers import check_key, identity_of, is_free, look_for, whole_address
from raft.errors import UsageError
from raft.settings import Settings, changed
from raft.store.budget import Budget
from raft.store.ledger import Ledger
from raft.text.secrets import shown, shown_address

OURS = "http://10.0.0.7:8000/v1"
VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OLLAMA_API_BASE", "GROQ_API_BASE", "HOSTED_VLLM_API_BASE")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No variable names an address."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "given", "variables", "identity"),
    [
        ("openai/m", None, {}, "openai/m"),
        ("openai/m", OURS, {}, f"openai/m@{OURS}"),
        ("openai/m", None, {"OPENAI_BASE_URL": OURS}, f"openai/m@{OURS}"),
        ("openai/m", None, {"OPENAI_API_BASE": f"{OURS}/ "}, f"openai/m@{OURS}"),
        ("openai/m", None, {"OPENAI_BASE_URL": "https://api.openai.com/v1/"}, "openai/m"),
        ("openai/m", "http://other/v1", {"OPENAI_BASE_URL": OURS}, "openai/m@http://other/v1"),
        ("groq/m", None, {"GROQ_API_BASE": OURS}, f"groq/m@{OURS}"),
        ("groq/m", None, {"OPENAI_BASE_URL": OURS}, "groq/m"),
        ("ollama/m", None, {"OLLAMA_API_BASE": "http://localhost:11434"}, "ollama/m"),
        ("ollama/m", None, {"OLLAMA_API_BASE": OURS}, f"ollama/m@{OURS}"),
    ],
)
def test_an_identity_names_the_address(monkeypatch, name, given, variables, identity):
    """Models and embedders at another address than the provider's own are others, whoever named it; else none is."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert identity_of(name, given) == identity
    assert HostedModel(name, api_base=given, concurrency=1, timeout=1).identity == identity
    assert HostedEmbedder(name, api_base=given).identity == identity


@pytest.mark.parametrize(
    ("name", "address", "free"),
    [
        ("openai/m", None, False),
        ("openai/m", "http://127.0.0.1:8000/v1", True),
        ("openai/m", "http://[::1]:8000/v1", True),
        ("openai/m", "localhost:8000", True),
        ("openai/m", "http://localhost.example:8000/v1", False),
        ("openai/m", OURS, False),
        ("hosted_vllm/m", OURS, False),
        ("hosted_vllm/m", None, True),
        ("ollama/m", None, True),
        ("litellm_proxy/m", "http://127.0.0.1:4000", False),
        ("openai/m", "http://[broken", False),
    ],
)
def test_only_what_is_on_this_machine_is_free(name, address, free):
    """An address of one's own elsewhere may send bills, and so may what a gateway on this machine passes on."""
    assert is_free(name, address) is free


def test_a_program_of_ones_own_may_be_elsewhere(monkeypatch):
    """A variable moves it off this machine, and then nobody knows what it costs."""
    monkeypatch.setenv("OLLAMA_API_BASE", OURS)
    assert not is_free("ollama/m", None)


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("openai/mine", True),
        ("hosted_vllm/mine", True),
        ("ollama/mine", True),
        ("groq/mine", False),
        ("litellm_proxy/x", False),
    ],
)
def test_what_listens_here_is_free_only_where_it_can_be_a_server_of_ones_own(name, free):
    """On the loopback a local server costs nothing; what stands for a provider elsewhere passes its bill on."""
    assert is_free(name, "http://127.0.0.1:4000/v1") is free


SECRET = "s3cr3t-of-ours"


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        (f"http://user:{SECRET}@host:8000/v1", "http://***@host:8000/v1"),
        (f"https://{SECRET}@host/v1", "https://***@host/v1"),
        (f"user:{SECRET}@host:8000/v1", "***@host:8000/v1"),
        (f"http://user:a/#{SECRET}@host/v1", "http://***@host/v1"),
        (
            f"https://host/v1?api-key={SECRET}&api-version=2024-02-01",
            "https://host/v1?api-key=***&api-version=2024-02-01",
        ),
        (f"https://host/v1?version=1&subscription%2Dkey={SECRET}", "https://host/v1?version=1&subscription%2Dkey=***"),
        (f"https://host/api?code={SECRET}#token={SECRET}", "https://host/api?code=***#token=***"),
        ("https://host/sk-proj-abcdefghij0123456789/v1", "https://host/***/v1"),
        ("http://host:8000/models@v1?api-version=3&x=a@b", "http://host:8000/models@v1?api-version=3&x=a@b"),
        (OURS, OURS),
        ("localhost:11434", "localhost:11434"),
    ],
)
def test_an_address_is_kept_without_its_keys(monkeypatch, address, kept):
    """What is written down of an address has no user, password or key in it, and is otherwise the address."""
    settings = Settings.model_validate(
        {"generator": {"api_base": address}, "index": {"api_base": address, "url": address}}
    )
    told = settings.model_dump(mode="json")
    assert told["generator"]["api_base"] == told["index"]["api_base"] == told["index"]["url"] == kept
    assert changed(settings, {"seed": 2}).generator.api_base == address  # what is called is whole
    assert shown_address(kept) == kept and identity_of("groq/m", address) == f"groq/m@{kept}"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    assert SECRET not in identity_of("openai/m", None)
    error = UsageError(f"{address} is no address.", where=address)
    assert SECRET not in f"{error} {error.where}" or "//" not in address


def test_a_kept_address_gets_its_key_from_the_environment(monkeypatch, tmp_path):
    """A run directory has an address without its key; the variable that has it whole is asked for, and then used."""
    whole, kept = f"http://user:{SECRET}@127.0.0.1:9/v1", "http://***@127.0.0.1:9/v1"
    model = HostedModel("openai/m", api_base=kept, concurrency=1, timeout=1)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run="r", model="openai/m", price=None, cap=None)
        with pytest.raises(UsageError, match="without the key") as refused:
            model.pool(budget)
    assert "export OPENAI_BASE_URL=" in str(refused.value.hint)
    monkeypatch.setenv("OPENAI_BASE_URL", whole)
    assert whole_address("openai/m", kept) == whole and whole_address("openai/m", OURS) == OURS


@contextmanager
def ollama(reply):
    """Run a server that answers each question for its models with `reply`; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/tags" else 404)
            self.end_headers()
            self.wfile.write(reply if self.path == "/api/tags" else b"")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_not_there_is_missed_at_once():
    """Where nobody listens on this machine the error names the address, and how to start what should."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UsageError, match=address) as caught:
        look_for("ollama/small:3b", address)
    assert caught.value.hint == "ollama serve   (then: ollama pull small:3b)"
    with pytest.raises(UsageError, match=address) as caught:
        look_for("hosted_vllm/m", f"{address}/v1")
    assert "generator.api_base" in caught.value.hint


@pytest.mark.parametrize("name", ["ollama/small", "ollama_chat/small:3b"])
def test_a_model_that_ollama_has_is_found(name):
    """A name with or without its tag is found among those that ollama has; another is an error that names those."""
    with ollama(json.dumps({"models": [{"name": "small:latest"}, {"name": "small:3b"}]}).encode()) as address:
        look_for(name, address)
        with pytest.raises(UsageError, match="no model large; it has small:latest, small:3b") as caught:
            look_for("ollama/large", address)
    assert caught.value.hint == "ollama pull large"


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b'{"models": [3]}', b'{"models": []}'])
def test_a_server_that_says_something_else_is_left_to_the_first_call(reply):
    """What is no list of models stops nothing; neither does a server of another kind, or elsewhere."""
    with ollama(reply) as address:
        look_for("ollama/small", address)
        look_for("hosted_vllm/m", f"{address}/v1")
    look_for("openai/gpt-4o-mini", None)


@pytest.mark.parametrize("address", ["http://[::1/v1", "http://host:99999/v1", "host:8000/v1", "http:///v1"])
def test_a_malformed_address_of_the_environment_is_named(address, monkeypatch):
    """An address where nobody can be asked is told with the variables that may hold it, before any request."""
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for call in (check_key, lambda name, base: HostedModel(name, api_base=base, concurrency=1, timeout=1).pool(None)):
        with pytest.raises(UsageError, match=r"(?s)The address of openai/m .*OPENAI_BASE_URL") as caught:
            call("openai/m", None)
        assert caught.value.hint


@pytest.mark.parametrize(
    "key",
    ["Zk3rT9wQx2LmN8vB5cD1aF", "/key/a-short-one", "/token/5f2b7c1e", "sk-a1b2c3d4e5f6g7h8i9j0k1", "sk-SHORTKEY7"],
)
def test_a_key_in_the_path_of_an_address_is_not_written_down(key):
    """What looks like a key in a path is hidden wherever an address is kept, and hidden once."""
    assert shown_address(f"http://[bad/{key}").endswith("/***")
    kept = shown_address(f"https://gateway.example/proxy/{key}/v1")
    assert key.split("/")[-1] not in kept
    assert kept.endswith("***/v1")
    assert shown_address(kept) == kept


@pytest.mark.parametrize(
    "path",
    [
        *("accounts/023e105f4ecef8ad9ca31a8372d0c353/ai/v1", "d/8c4f6a10-9b1e-4c55-8f7a-0d2c6b1e9f33/v1", "key/v1"),
        *(
            "openai/deployments/gpt-4o-mini-2024-07-18",
            "models/Meta-Llama-3.1-8B-Instruct-Turbo",
            "my_long_team_name_2",
        ),
    ],
)
def test_a_path_without_a_key_stays(path):
    """Ids of accounts and deployments, and names of models, are no keys: hidden, nobody could ask there again."""
    assert shown_address(f"https://gateway.example/{path}") == f"https://gateway.example/{path}"


@pytest.mark.parametrize(
    "name",
    ["mailto:someone@example.org", "sip:me@example.org", "image:tag@sha256:4f1c", "'registry/image@sha256:4f1c'"],
)
def test_what_names_a_person_or_an_image_is_no_password(name):
    """An address that people are written to at and the digest of an image are shown, beside a password too."""
    assert shown(name) == shown_address(name) == name
    assert shown(f"{name} user:{SECRET}@host mailto:user:{SECRET}@host").count(SECRET) == 0
