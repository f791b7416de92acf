"""Adapters at a vLLM that was started with `--enable-lora`: each is called by its digest, and loaded where it is not.

A name that stands for another adapter than yesterday would make replies nobody's. A digest cannot. The engine is asked
for `GET /v1/models` and `POST /v1/load_lora_adapter` (docs.vllm.ai, "LoRA Adapters", dynamically serving); the latter
needs `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` there, and a folder of the adapter that the engine can read.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from raft.backends.asking import Reply
from raft.backends.hosted.calls import RequestPool
from raft.backends.hosted.errors import AccessDenied, Transport, UnknownModel
from raft.backends.hosted.model import HostedModel
from raft.backends.hosted.providers import address_of, key_of, whole_address
from raft.errors import DamagedArtifact, EndpointRefuses, RaftError, UsageError, typed
from raft.protocols import Request as Asked
from raft.store import adapters
from raft.store.budget import Budget
from raft.text import from_json
from raft.text.secrets import ApiBase, each_address, shown_address

PROVIDER = "hosted_vllm"
_SECONDS = 120.0
"""An engine reads an adapter from its disk, perhaps behind requests that it is answering."""
_MOST = 1 << 24  # bytes of a reply
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
_ADDRESS = "export HOSTED_VLLM_API_BASE=http://HOST:8000/v1"
_ANEW = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve BASE --enable-lora   (start it anew)"


def takes_adapters(name: str) -> bool:
    """Tell whether adapters can be loaded where a hosted model is."""
    return name.partition("/")[0] == PROVIDER


class TunedModel(HostedModel):
    """A base model with an adapter at a vLLM, which is loaded there before the first call, and where it was lost.

    An engine that was started anew has forgotten its adapters: where it answers that it does not know this one, that
    is loaded again, once for all who met it, and what was asked is asked again.

    Of several engines one is enough: that another has not loaded it, it says itself when it is asked, and it is loaded
    there then; what it says to that is its own fault alone.

    Args:
        name: `hosted_vllm/BASE`, the base model as the engine calls it.
        adapter: the adapter's folder; the engine has to find it at the same path. The digest of its weights and
            settings is its name there. The `base` of its card has to be the model that the engine has, by the last part
            of its name, and the engine started for matrices of its rank.
        api_base: the engine's address, or those of several; None: that of the environment.
        options: others of `HostedModel`.

    Attributes:
        held: the identities of what is known to be loaded; several may share it.
    """

    exact = True

    def __init__(self, name: str, adapter: Path, *, api_base: ApiBase, **options: Any) -> None:
        digest, card = adapters.digest(adapter) or "", adapters.read_card(adapter)
        super().__init__(f"{PROVIDER}/{digest}", api_base=api_base, **options)
        load = partial(_load, name, adapter, digest, card)
        self._engines = [_Loader(partial(load, one)) for one in each_address(api_base) or (None,)]
        self._changing, self.held = Lock(), set[str]()

    @property
    def loaded(self) -> bool:
        """Whether an engine has it, as far as is known."""
        return self.identity in self.held

    def load(self) -> None:
        """Load the adapter at each engine, of which one that does is enough; nothing where that was done.

        Raises:
            UsageError: no address is known, the engine has no such base model, or the adapter was tuned on another.
            DamagedArtifact: the adapter's files are not those of its digest.
            RaftError: the engine cannot be reached, or does not load it.
        """
        if self.loaded:  # it may be lost, and somebody be loading it again: who asks finds out
            return
        with self._changing:
            lacks: list[RaftError] = []
            for engine in () if self.loaded else self._engines:
                try:
                    engine.load()
                except RaftError as error:
                    lacks.append(error)
            if len(lacks) == len(self._engines):
                raise lacks[0]
            self.held.add(self.identity)

    def pool(self, budget: Budget) -> RequestPool:
        """Return what sends calls, as `HostedModel.pool` does, once the adapter is loaded."""
        self.load()
        return super().pool(budget)

    def _transport(self, given: str | None, key: str | None) -> Transport:
        return _Loading(super()._transport(given, key), self._engines[self._given.index(given)])


class _Loader:
    """Loads an adapter at one engine, for one caller at a time; `loads` is how often that was tried."""

    def __init__(self, load: Callable[..., None]) -> None:
        self._load, self._changing, self.loads = load, Lock(), 0
        self._lack: Exception | None = None

    def load(self) -> None:
        """Load it where it is not yet; it raises as `TunedModel.load`."""
        with self._changing:
            self._try(anew=False)

    def load_again(self, seen: int) -> None:
        """Load what the engine has lost, unless somebody did who met the same; `seen` were `loads` before."""
        with self._changing:
            if self.loads == seen:
                self._try(anew=True)
            elif self._lack is not None:
                raise self._lack

    def _try(self, *, anew: bool) -> None:
        self._lack = None
        try:
            self._load(anew=anew)
        except Exception as error:
            self._lack = error
            raise
        finally:
            self.loads += 1  # at the end: who was sent away meanwhile is to have met the same


class _Loading:
    """Sends requests, and has a lost adapter loaded again, once a request."""

    def __init__(self, transport: Transport, engine: _Loader) -> None:
        self._transport, self._engine = transport, engine
        self.limits, self.close = transport.limits, transport.close

    async def send(self, request: Asked) -> Reply:
        seen = self._engine.loads
        try:
            return await self._sent(request)
        except UnknownModel:
            pass
        try:
            await _aside(partial(self._engine.load_again, seen))
        except Exception as error:
            raise _Lost(error) from None
        try:
            return await self._sent(request)
        except UnknownModel as error:
            said = RaftError(f"It says to have loaded it, and then: {error.words}", hint=_ANEW)
            raise _Lost(said) from None

    async def _sent(self, request: Asked) -> Reply:
        try:
            return await self._transport.send(request)
        finally:
            self.limits = self._transport.limits


class _Lost(AccessDenied):
    """An engine has lost an adapter, and does not answer with it again."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(getattr(why, "what", why)))
        self._hint = getattr(why, "hint", None) or _ANEW

    def stop(self, model: str, where: str) -> EndpointRefuses:
        what = f"The engine has lost the adapter {model.partition('/')[2][:12]}: {self.words}"
        return EndpointRefuses(what, where=where, hint=self._hint)


async def _aside(function: Callable[[], None]) -> None:
    """Wait for a function in a thread that no end of the process waits for."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def work() -> None:
        error = None
        try:
            function()
        except Exception as found:
            error = found
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, error)

    Thread(target=work, name="raft-adapter", daemon=True).start()
    await done


def _load(name: str, adapter: Path, digest: str, card: Mapping[str, Any], api_base: str | None, *, anew: bool) -> None:
    """Load an adapter at an engine where it is not yet; with `anew` though the engine should list it. See `load`."""
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
    if (parent := found.get(digest, {}).get("parent")) and parent not in (base, found[base].get("root")):
        raise UsageError(
            f"The engine has the adapter {adapter.name} upon {parent}, not upon {base}.",
            where=engine.where,
            hint=f"--model {PROVIDER}/{parent}",
        )
    if digest in found and not anew:
        return
    if adapters.digest(adapter) != digest:
        run = adapter.parent.parent if adapter.parent.name == "adapters" else "RUN"
        # a server's callers read it: it names no user of the machine
        hint = f"raft registry promote {typed(run)} 0 --by NAME   (plain RAG answers; or bring its files back)"
        what = f"The files of the adapter {adapter.name} are missing, or have changed since it was opened."
        raise DamagedArtifact(what, where=adapter, hint=hint)
    rank = _ranked(int(card["hyperparameters"].get("rank", _RANKS[0])))
    engine.load(adapter.resolve(), digest, f"vllm serve {typed(base)} {engine.port} --enable-lora {rank}")


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
            try:
                reply = urlopen(asked, timeout=_SECONDS)  # noqa: S310
            except HTTPError as error:
                reply = error
            with reply:
                return int(reply.status), reply.read(_MOST).decode("utf-8", "replace")
        except (URLError, OSError, ValueError, HTTPException) as error:
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
