"""What is known of each provider of hosted models, in one table. To add a provider: one row.

Another server may have another model under the same name, and send other bills: so an address that is not the
provider's own is part of a model's identity, and only what is on this machine costs nothing.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raft.backends.vendors import import_litellm
from raft.errors import UsageError
from raft.store.budget import Price
from raft.text.secrets import HIDDEN, ApiBase, each_address, is_loopback, malformed, shown_address


@dataclass(frozen=True)
class Provider:
    """One provider.

    Attributes:
        address: where it listens unless a setting or a variable says otherwise; None: one has to say it, or litellm
            knows.
        direct: it speaks OpenAI's chat protocol and is asked without litellm.
        own: it is a program on a machine of one's own: nobody sends a bill.
        local: it is asked at the address that is given and nowhere else, so that a server on this machine can be it.
        gateway: it passes on what it is asked to others, which send bills.
        batches: litellm makes, lists and reads its batches in the form of OpenAI.
        bases: variables that may hold its address, in litellm's order; none: its name in capitals with _API_BASE.
        keys: variables that may hold its key; none: its name in capitals with _API_KEY.
        folder: what stands before a model's name that has no folder of its own.
    """

    address: str | None = None
    direct: bool = False
    own: bool = False
    local: bool = False
    gateway: bool = False
    batches: bool = False
    bases: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    folder: str = ""


_OPENAI = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_OLLAMA = Provider("http://localhost:11434", own=True, local=True, bases=("OLLAMA_API_BASE",))
_ELSEWHERE = "azure_ai cohere databricks gemini jina_ai sagemaker snowflake voyage"
PROVIDERS: Mapping[str, Provider] = {
    **dict.fromkeys(_ELSEWHERE.split(), Provider()),
    "anthropic": Provider(bases=("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")),
    "azure": Provider(batches=True),
    "bedrock": Provider(bases=("AWS_BEDROCK_RUNTIME_ENDPOINT",)),
    "cerebras": Provider("https://api.cerebras.ai/v1", direct=True),
    "cohere_chat": Provider(bases=("COHERE_API_BASE",)),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai", direct=True),
    "deepseek": Provider("https://api.deepseek.com/beta", direct=True),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference/v1",
        direct=True,
        bases=("FIREWORKS_API_BASE",),
        keys=("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
        folder="accounts/fireworks/models/",
    ),
    "github": Provider("https://models.inference.ai.azure.com", direct=True),
    "groq": Provider("https://api.groq.com/openai/v1", direct=True),
    "hosted_vllm": Provider(direct=True, own=True, local=True, batches=True),
    "huggingface": Provider(bases=("HF_API_BASE", "HUGGINGFACE_API_BASE")),
    "litellm_proxy": Provider(direct=True, local=True, gateway=True, batches=True),
    "lm_studio": Provider(direct=True, own=True, local=True),
    "mistral": Provider("https://api.mistral.ai/v1", direct=True, bases=("MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE")),
    "nebius": Provider("https://api.studio.nebius.ai/v1", direct=True),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", direct=True),
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
    "openai": Provider("https://api.openai.com/v1", direct=True, local=True, batches=True, bases=_OPENAI),
    "openai_like": Provider(direct=True, own=True, local=True),
    "openrouter": Provider("https://openrouter.ai/api/v1", direct=True),
    "perplexity": Provider(
        "https://api.perplexity.ai", direct=True, keys=("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY")
    ),
    "sambanova": Provider("https://api.sambanova.ai/v1", direct=True),
    "text-completion-openai": Provider("https://api.openai.com/v1", local=True, bases=_OPENAI),
    "together_ai": Provider(
        "https://api.together.ai/v1",
        direct=True,
        keys=("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_AI_TOKEN"),
    ),
    "vertex_ai": Provider(bases=("VERTEXAI_API_BASE", "VERTEX_API_BASE")),
    "watsonx": Provider(bases=("WATSONX_API_BASE", "WATSONX_URL", "WX_URL", "WML_URL")),
    "xai": Provider("https://api.x.ai/v1", direct=True),
    "xinference": Provider("http://127.0.0.1:9997/v1", direct=True, own=True, local=True),
}


def provider_of(name: str) -> Provider:
    """Return what is known of the provider of `provider/model`; of one that has no row, nothing."""
    return PROVIDERS.get(name.partition("/")[0], Provider())


def address_of(name: str, api_base: str | None) -> str | None:
    """Return where a model is asked: the address given, that of the environment, or its provider's own."""
    given = api_base or next(iter(addresses_in_environment(name)), None)
    return given or provider_of(name).address


def addresses_in_environment(name: str) -> list[str]:
    """Return the addresses that variables hold for the provider of a model, the first of which counts."""
    return [os.environ[one] for one in _bases(name) if os.environ.get(one)]


def _bases(name: str) -> tuple[str, ...]:
    return provider_of(name).bases or (f"{_capitals(name)}_API_BASE",)


def whole_address(name: str, api_base: str | None) -> str | None:
    """Return an address to call: with its key from the environment, where a run directory has kept it without.

    Raises:
        UsageError: no variable has the address with its key.
    """
    if not api_base or HIDDEN not in api_base:
        return api_base
    found = next((one for one in addresses_in_environment(name) if shown_address(one) == api_base), None)
    if found is None:
        raise UsageError(
            f"The address of {name} was kept without the key in it.",
            where=api_base,
            hint=f"export {_bases(name)[0]}=...   (the whole address), then the same command again",
        )
    return found


def identity_of(name: str, api_base: str | None, effort: str | None = None) -> str:
    """Return what a hosted model is known by: name, address where it is not the provider's own, and effort if set."""
    address = api_base or next((one.strip().rstrip("/") for one in addresses_in_environment(name)), "")
    known = not address or (address == provider_of(name).address and not api_base)
    return (name if known else f"{name}@{shown_address(address)}") + (f" effort={effort}" if effort else "")


def identities_of(name: str, api_base: ApiBase, effort: str | None = None) -> tuple[str, ...]:
    """Return what a hosted model is known by at each of its addresses, as `identity_of` does; each once."""
    known = [identity_of(name, one, effort) for one in each_address(api_base) or (None,)]
    return tuple(dict.fromkeys(known))


def is_free(name: str, api_base: ApiBase) -> bool:
    """Tell whether a hosted model costs nothing where no price of it is known: it is on this machine, wherever asked.

    What listens here in the name of a provider that is elsewhere passes on what it is asked, and the bill.
    """
    return all(_is_free(name, one) for one in each_address(api_base) or (None,))


def _is_free(name: str, api_base: str | None) -> bool:
    provider, address = provider_of(name), address_of(name, api_base)
    if provider.gateway or (address and not provider.local):
        return False
    return _is_loopback(address) if address else provider.own


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):
        host = urlsplit(address if "://" in address else f"http://{address}").hostname or ""
        return is_loopback(host.removesuffix("."))
    return False


def look_for(name: str, api_base: ApiBase) -> None:
    """Check that a server on this machine listens where a model is to be asked, and that ollama has the model.

    Of several addresses one is enough.

    Raises:
        UsageError: nobody listens there, or ollama does not have it; the hint starts the one and brings the other.
    """
    *others, last = each_address(api_base) or (None,)
    for one in others:
        with suppress(UsageError):
            _look_for(name, one)
            return
    _look_for(name, last)


def _look_for(name: str, api_base: str | None) -> None:
    address = whole_address(name, address_of(name, api_base))
    if not address or not provider_of(name).own or not _is_loopback(address):
        return
    import httpx

    provider, _, model = name.partition("/")
    is_ollama, server = provider_of(name) is _OLLAMA, address if "://" in address else f"http://{address}"
    try:
        with httpx.Client(timeout=10, trust_env=False) as client:
            reply = client.get(f"{server.rstrip('/').removesuffix('/v1')}/api/tags" if is_ollama else server)
    except httpx.ConnectError:
        raise UsageError(
            f"Nobody listens at {shown_address(server)}, where {name} is to be asked.",
            where="generator.api_base",
            hint=f"ollama serve   (then: ollama pull {model})"
            if is_ollama
            else f"start the server of {provider}, or"
            " give its address: --set generator.api_base=http://127.0.0.1:8000/v1",
        ) from None
    except (httpx.InvalidURL, ValueError):
        raise UsageError(
            "The address is malformed.",
            where=f"generator.api_base: {shown_address(address)}",
            hint="--set generator.api_base=http://127.0.0.1:8000/v1",
        ) from None
    except httpx.HTTPError:  # it listens; what it says to real requests is told with them
        return
    try:
        found = [one["name"] for one in reply.json()["models"]] if is_ollama and reply.is_success else []
    except (ValueError, TypeError, KeyError):  # it is something else than ollama
        return
    if found and not {model, f"{model}:latest"} & set(found):
        known = ", ".join(found[:10])
        raise UsageError(f"ollama has no model {model}; it has {known}.", where=name, hint=f"ollama pull {model}")


def key_of(name: str, api_base: str | None) -> str | None:
    """Return the key of a model that is asked directly; None where there is none and an endpoint of one's own is asked.

    Raises:
        UsageError: there is none in the environment, and its provider wants one.
    """
    variables = key_variables(name)
    found = next((os.environ[one] for one in variables if os.environ.get(one)), None)
    if found is None and not provider_of(name).own and address_of(name, api_base) == provider_of(name).address:
        raise _no_key(name, variables)
    return found


def key_variables(name: str) -> tuple[str, ...]:
    """Return the variables that may hold the key of a model's provider."""
    return provider_of(name).keys or (f"{_capitals(name)}_API_KEY",)


def check_key(name: str, api_base: str | None) -> None:
    """Check that a hosted model has an address that can be asked, and a key where its provider wants one.

    Raises:
        UsageError: the address is malformed, or there is no key in the environment.
    """
    address = (api_base or next(iter(addresses_in_environment(name)), "")).strip()
    if address and provider_of(name).direct and (why := malformed(address)):
        where = "its api_base" if api_base else ", ".join(_bases(name))
        hint = "give another with --set" if api_base else f"export {_bases(name)[0]}=http://127.0.0.1:8000/v1"
        raise UsageError(f"The address of {name} {why}, and it is {shown_address(address)!r}.", where=where, hint=hint)
    (key_of if provider_of(name).direct else litellm_key)(name, api_base)


def litellm_key(name: str, api_base: str | None) -> str | None:
    """Return the key to give to litellm; None where it finds the provider's in the environment.

    Raises:
        UsageError: there is none, and no endpoint of one's own is asked.
    """
    needed = import_litellm().validate_environment(name)["missing_keys"]
    keys = [one for one in needed if one.endswith("_API_KEY")]
    missing = tuple(one for one in keys if not os.environ.get(one.replace("_API_KEY", "_AD_TOKEN")))  # as Azure's
    if missing and not api_base:
        raise _no_key(name, missing)
    return "none" if missing else None  # an endpoint of one's own may need none, but litellm does not ask without


def _no_key(name: str, variables: tuple[str, ...]) -> UsageError:
    return UsageError(
        f"There is no key for {name} in the environment.", where=", ".join(variables), hint=f"export {variables[0]}=..."
    )


def no_address(name: str) -> UsageError:
    """Return the error to raise where nothing tells the address of a model."""
    return UsageError(
        f"The address of {name} is not known.",
        where="generator.api_base",
        hint="--set generator.api_base=http://127.0.0.1:8000/v1",
    )


def is_own(name: str, api_base: ApiBase) -> bool:
    """Tell whether a hosted model is one's own: it has an address of its own, or its provider is a local program."""
    return bool(api_base) or provider_of(name).own


def _capitals(name: str) -> str:
    return name.partition("/")[0].upper().replace("-", "_")


_LIST = "model_prices_and_context_window_backup.json"


def list_price(name: str) -> Price | None:
    """Return what a hosted model or embedder costs; None when the list does not know it.

    A price of nothing is no price: the list has it for models on trial, in other units, and on one's own machine.
    """
    entry = listed(name)
    read, written = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if entry.get("mode") == "embedding":
        written = written or 0.0
    if read is None or written is None or not (read or written):
        return None
    return Price(input=float(read) * 1e6, output=float(written) * 1e6)


def listed(name: str) -> Mapping[str, Any]:
    """Return what the list says of a model, by its whole name or by its name at the provider; nothing if unknown."""
    provider, _, short = name.partition("/")
    entry = price_list().get(name)
    if entry is None:
        entry = price_list().get(short) or {}
        # the same name at another provider, or on a machine of one's own, has another price
        if not str(entry.get("litellm_provider", "")).startswith(provider):
            return {}
    return entry


@lru_cache(maxsize=1)
def price_list() -> Mapping[str, Mapping[str, Any]]:
    """Return prices and limits of models from the file in litellm's folder; importing litellm would take seconds."""
    spec = find_spec("litellm")
    path = Path(spec.origin).parent / _LIST if spec and spec.origin else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
