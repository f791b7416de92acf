"""Where hosted models are asked: part of what they are known by, and what tells whether they cost anything."""

import pytest

from raft.backends.embedding import HostedEmbedder
from raft.backends.hosted.model import HostedModel
from raft.backends.hosted.providers import identity_of, is_free

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
