"""Where a hosted model is asked: the address that a setting gives, or else one that litellm reads from the environment.

Another server may have another model under the same name, and send other bills: so an address that is not the
provider's own is part of a model's identity, and only what is on this machine costs nothing.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
    "bedrock": ("AWS_BEDROCK_RUNTIME_ENDPOINT",),
    "cohere_chat": ("COHERE_API_BASE",),
    "fireworks_ai": ("FIREWORKS_API_BASE",),
    "huggingface": ("HF_API_BASE", "HUGGINGFACE_API_BASE"),
    "mistral": ("MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE"),
    "ollama_chat": ("OLLAMA_API_BASE",),
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "text-completion-openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "vertex_ai": ("VERTEXAI_API_BASE", "VERTEX_API_BASE"),
    "watsonx": ("WATSONX_API_BASE", "WATSONX_URL", "WX_URL", "WML_URL"),
}
"""Variables that hold a provider's address, in litellm's order; all other providers have PROVIDER_API_BASE."""
_USUAL = {
    "ollama": "http://localhost:11434",
    "ollama_chat": "http://localhost:11434",
    "openai": "https://api.openai.com/v1",
    "text-completion-openai": "https://api.openai.com/v1",
    "xinference": "http://127.0.0.1:9997/v1",
}
"""Addresses that providers have by themselves."""
_PROGRAMS = frozenset(["hosted_vllm", "lm_studio", "ollama", "ollama_chat", "openai_like", "xinference"])
"""Providers that are programs on a machine of one's own."""
_GATEWAYS = frozenset(["litellm_proxy"])
"""Providers that pass on what they are asked to others, which send bills."""


def address_of(name: str, api_base: str | None) -> str | None:
    """Return where a hosted model is asked; None: at the provider's own address.

    Args:
        name: `provider/model`.
        api_base: the address that a setting gives; it wins over the environment.
    """
    if api_base:
        return api_base
    provider = name.partition("/")[0]
    variables = _VARIABLES.get(provider, (f"{provider.upper()}_API_BASE",))
    found = next((os.environ[one].strip().rstrip("/") for one in variables if os.environ.get(one)), "")
    return None if found in ("", _USUAL.get(provider)) else found


def identity_of(name: str, api_base: str | None) -> str:
    """Return what a hosted model is known by: its name, and its address where that is not the provider's own."""
    address = address_of(name, api_base)
    return f"{name}@{address}" if address else name


def is_free(name: str, api_base: str | None) -> bool:
    """Tell whether a hosted model costs nothing where no price of it is known: it is on this machine."""
    provider = name.partition("/")[0]
    address = address_of(name, api_base) or _USUAL.get(provider)
    if provider in _GATEWAYS:
        return False
    return _is_loopback(address) if address else provider in _PROGRAMS


def _is_loopback(address: str) -> bool:
    try:
        host = (urlsplit(address if "://" in address else f"http://{address}").hostname or "").removesuffix(".")
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
