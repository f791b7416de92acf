"""Prices: what the list knows, and what it only seems to know."""

import pytest

from raft.backends.hosted import providers
from raft.store.budget import Price

ENTRIES = {
    "small": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 4e-6,
    },
    "maker/large": {"litellm_provider": "maker", "input_cost_per_token": 2e-6, "output_cost_per_token": 3e-6},
    "vectors": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 2e-8},
    "trial": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "letters": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_character": 1e-6},
}


@pytest.fixture
def listed(monkeypatch):
    """A list with some models."""
    monkeypatch.setattr(providers, "price_list", lambda: ENTRIES)


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("openai/small", Price(1.0, 4.0)),
        ("maker/large", Price(2.0, 3.0)),
        ("openai/vectors", Price(0.02, 0.0)),
        ("hosted_vllm/small", None),
        ("openrouter/small", None),
        ("openai/trial", None),
        ("openai/letters", None),
        ("openai/no-such-model", None),
    ],
)
def test_a_price_is_known_or_it_is_not(listed, name, price):
    """A model has the price of its own provider; nothing, another unit and another provider's price are no price."""
    found = providers.list_price(name)
    assert (found is None) == (price is None)
    if found is not None:
        assert (found.input, found.output) == pytest.approx((price.input, price.output))


def test_the_list_that_comes_with_litellm_is_read():
    """The installed list has prices of common models and embedders, in dollars per million tokens."""
    chat, embedder = providers.list_price("openai/gpt-4o-mini"), providers.list_price("openai/text-embedding-3-small")
    assert 0.01 < chat.input < chat.output < 100
    assert 0.001 < embedder.input < 1
    assert embedder.output == 0


@pytest.mark.parametrize(
    ("name", "api_base", "own"),
    [
        ("openai/gpt-4o-mini", None, False),
        ("openai/my-model", "http://127.0.0.1:8000/v1", True),
        ("hosted_vllm/my-model", None, True),
        ("ollama/llama3", None, True),
    ],
)
def test_an_endpoint_of_ones_own_is_known(name, api_base, own):
    """A model at an address of one's own, or of a program that runs on one's own machine, brings no bill."""
    assert providers.is_own(name, api_base) is own
