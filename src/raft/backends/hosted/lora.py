"""Adapters at a vLLM that was started with `--enable-lora`: each is called by its digest, and loaded where it is not.

A name that stands for another adapter than yesterday would make replies nobody's. A digest cannot. The engine is asked
for `GET /v1/models` and `POST /v1/load_lora_adapter` (docs.vllm.ai, "LoRA Adapters", dynamically serving); the latter
needs `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` there, and a folder of the adapter that the engine can read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from raft.backends.hosted.providers import address_of, key_of, whole_address
from raft.errors import RaftError, UsageError, typed
from raft.text import from_json
from raft.text.secrets import shown_address

PROVIDER = "hosted_vllm"
_SECONDS = 120.0
"""An engine reads an adapter from its disk, perhaps behind requests that it is answering."""
_MOST = 1 << 24  # bytes of a reply
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
_ADDRESS = "export HOSTED_VLLM_API_BASE=http://HOST:8000/v1"


def takes_adapters(name: str) -> bool:
    """Tell whether adapters can be loaded where a hosted model is."""
    return name.partition("/")[0] == PROVIDER


def loaded(name: str, adapter: Path, digest: str, card: Mapping[str, Any], *, api_base: str | None) -> str:
    """Return what an adapter is called at the engine of a model, after loading it there where it is not yet.

    Args:
        name: `hosted_vllm/BASE`, the base model as the engine calls it.
        adapter: the adapter's folder; the engine has to find it at the same path.
        digest: of the adapter's weights and settings; its name at the engine.
        card: the adapter's; its `base` has to be the model that the engine has, by the last part of its name, and the
            engine started for matrices of its rank.
        api_base: the engine's address; None: that of the environment.

    Raises:
        UsageError: no address is known, or the engine has no such base model, or the adapter was tuned on another.
        RaftError: the engine cannot be reached, or does not load it.
    """
    address = address_of(name, whole_address(name, api_base))
    if not address:
        raise UsageError("The engine has no address.", where=name, hint=_ADDRESS)
    base, engine = name.partition("/")[2], _Engine(address.rstrip("/"), key_of(name, api_base))
    found = engine.models()
    if base not in found:
        others = ", ".join(one for one, card in found.items() if not card.get("parent")) or "none"
        raise UsageError(
            f"The engine has no base model {base}; it has {others}.",
            where=engine.where,
            hint=f"--model {PROVIDER}/NAME",
        )
    tuned_on, root = str(card["base"]), found[base].get("root")
    if _last(tuned_on) not in (_last(base), _last(str(root or ""))):
        raise UsageError(
            f"The adapter {adapter.name} was tuned on {tuned_on}, and the engine has {root or base}.",
            where=engine.where,
            hint=f"vllm serve {typed(tuned_on)} {engine.port} --enable-lora   (by another name: --served-model-name)",
        )
    if digest not in found:
        rank = _ranked(int(card["hyperparameters"].get("rank", _RANKS[0])))
        engine.load(adapter.resolve(), digest, f"vllm serve {typed(base)} {engine.port} --enable-lora {rank}")
    elif (parent := found[digest].get("parent")) and parent not in (base, found[base].get("root")):
        raise UsageError(
            f"The engine has the adapter {adapter.name} upon {parent}, not upon {base}.",
            where=engine.where,
            hint=f"--model {PROVIDER}/{parent}",
        )
    return f"{PROVIDER}/{digest}"


def _ranked(rank: int) -> str:
    return f"--max-lora-rank {next((one for one in _RANKS if one >= rank), rank)}"


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


class _Engine:
    """A vLLM at an address, which is asked with a key or without."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address, self._key, self.where = address, key, shown_address(address)

    @property
    def port(self) -> str:
        return f"--port {urlsplit(self._address).port or 8000}"

    def models(self) -> dict[str, Mapping[str, Any]]:
        """Return the cards of its models by what they are called."""
        status, said = self._asked("models")
        try:
            listed = from_json(said)["data"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            listed = None
        if not isinstance(listed, list):
            raise RaftError(
                f"The engine does not say which models it has: {status}, {_short(said)}",
                where=self.where,
                hint="is it a vLLM, and its key in HOSTED_VLLM_API_KEY?",
            )
        return {str(one.get("id")): one for one in listed if isinstance(one, dict)}

    def load(self, adapter: Path, digest: str, start: str) -> None:
        """Load an adapter; `start` is the command that starts an engine which can."""
        status, said = self._asked("load_lora_adapter", {"lora_name": digest, "lora_path": str(adapter)})
        if status != 200 and "already been loaded" not in said:  # else another raft was faster
            raise RaftError(
                f"The engine does not load the adapter {adapter.name}: {status}, {_short(said)}",
                where=self.where,
                hint=f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {start}\n"
                f"  or, for good:  {start} --lora-modules {digest}={typed(adapter)}",
            )

    def _asked(self, path: str, body: Mapping[str, str] | None = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        data = None if body is None else json.dumps(body).encode()
        try:
            asked = Request(f"{self._address}/{path}", data, headers)  # noqa: S310  the user's own address
            with urlopen(asked, timeout=_SECONDS) as reply:  # noqa: S310
                return reply.status, reply.read(_MOST).decode("utf-8", "replace")
        except HTTPError as error:
            with error:
                return error.code, error.read(_MOST).decode("utf-8", "replace")
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            hint = f"start it, or name another:  {_ADDRESS}"
            raise RaftError(f"The engine cannot be reached: {reason}.", where=self.where, hint=hint) from None


def _short(said: str) -> str:
    """Return what an engine said in one line: the message of an error in OpenAI's form, or its beginning."""
    try:
        value = from_json(said)
        found = value.get("error", value) if isinstance(value, dict) else said
        said = str(found.get("message", said)) if isinstance(found, dict) else str(found)
    except ValueError:
        pass
    return " ".join(said.split())[:300]
