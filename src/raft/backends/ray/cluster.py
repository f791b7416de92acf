"""A Ray cluster: reached, looked at, and left again; what is wrong with it is one error with the next command."""

import importlib
import logging
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from raft.errors import MissingExtra, RaftError, UsageError, typed
from raft.text.secrets import shown_address
from raft.version import __version__

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",  # else what a shard computes waits for whatever else the machine does
    "RAY_gcs_rpc_server_reconnect_timeout_s": "90",  # without its head Ray then ends this process, and says no word
}
"""What Ray reads before it is imported: nothing is sent anywhere."""
_STORE = 256 * 2**20
"""Bytes of Ray's object store where raft starts Ray itself; what does not fit is laid on the disk."""
_REACH_SECONDS, _PROBE_SECONDS = 5.0, 120.0
_KNOCKS, _KNOCK_SECONDS, _PAUSE_SECONDS = 5, 1.0, 1.0
"""How often it is knocked at a head until it is gone, how long each, and how long between: it may be restarting."""
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # the question is empty; the answer names the version
_PLACES = ("RAFT_MODELS", "RAFT_CACHE", "HF_HOME")
_HERE = Path(__file__).resolve().parents[3]
_LOCAL = "the same command with --engine local"


def import_ray() -> Any:
    """Import Ray so that it sends and prints nothing by itself.

    Raises:
        MissingExtra: it is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it says that it is safe
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        missing = error.name or "ray"
        raise MissingExtra(missing, extra="ray", why="to spread a build over a cluster (engine.kind)") from None


@contextmanager
def connected(address: str | None, shards: int, *, local_only: bool = False) -> Iterator[Any]:
    """Give Ray, connected to a cluster, or to one of `shards` processes that is started on this machine and ended.

    A Ray that this process is connected to already is taken as it is.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: nothing, or something else, answers at the address; the cluster has another Ray or Python, or a
            node of it another raft or none; or it has other machines than this one, and `local_only` is set.
        RaftError: Ray does not start on this machine.
    """
    ray = import_ray()
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        _check_nodes(ray, local_only=local_only)
        yield ray
        return
    # what Ray says of a process that died would stand among what is for programs; whoever waits for it says it, too
    noisy: Any = importlib.import_module("ray._private.worker")
    noisy.print_to_stdstream = lambda *_, **__: None
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        with chdir(_HERE):  # Ray has its workers import what lies in the working directory
            if address is None:
                ray.init("local", num_cpus=shards, include_dashboard=False, object_store_memory=_STORE, **quiet)
            else:
                with _hushed():
                    ray.init(address, **quiet)
    except Exception as error:  # Ray raises whatever its parts do
        ray.shutdown()
        raise _unusable(address, error) from error
    try:
        if address is not None:
            _check_nodes(ray, local_only=local_only)
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse at once an address that nothing listens at, or that is no Ray's: Ray itself takes minutes, or dies of it.

    Raises:
        UsageError: so it is.
    """
    if address in ("auto", "local"):
        return  # Ray knows by itself where a cluster was started on this machine
    host, _, port = address.rpartition(":")
    if {*"@/"} & {*address} or not (port.isdecimal() and 0 < int(port) < 2**16) or not host:
        wrong = f"engine.address is host:port, and it is {shown_address(address)!r}."
        hint = "--set engine.address=127.0.0.1:6379   (host and port of the head, as ray start told them there)"
        raise UsageError(wrong, where="engine.address", hint=hint)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:  # or no host can be called so
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"No Ray cluster answers at {address}: {words}.",
            where="engine.address",
            hint=f"ray start --head --port {port}   (on the head; or {_LOCAL})",
        ) from None
    _check_ray(address)


def _check_ray(address: str) -> None:
    """Ask what listens at an address whether it is a head of Ray, and of which: Ray's library ends the process else."""
    try:
        grpc, channels = map(importlib.import_module, ("grpc", "ray._private.grpc_utils"))  # with token, certificates
        with channels.init_grpc_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            reply: bytes = channel.unary_unary(_ALIVE)(b"", timeout=_REACH_SECONDS)
        there = re.findall(rb"\d+(?:\.\w+){2,}", reply)[0].decode()
    except (ImportError, AttributeError, TypeError, IndexError):  # another Ray, in whose own parts this is not found
        return  # what is wrong then Ray says by itself
    except grpc.RpcError as error:
        raise _unheard(address, error, grpc.StatusCode) from None
    except Exception as error:  # such as no token where one is wanted
        raise _unusable(address, error) from error
    if there != (here := str(import_ray().__version__)):
        raise _unusable(address, Exception(f"Version mismatch: it is Ray {there} there, and Ray {here} here"))


def _unheard(address: str, error: Any, codes: Any) -> RaftError:
    """Return what to say of an address where nobody answers as a head of Ray does."""
    if error.code() is codes.UNAUTHENTICATED:
        return _unusable(address, Exception(error.details()))
    what = f"What answers at {address} is no Ray"
    if error.code() is codes.DEADLINE_EXCEEDED:
        what = f"What listens at {address} does not answer in {_REACH_SECONDS:g} seconds: it is slow, or no Ray"
    elif os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
        what += ", or one with TLS, where RAY_USE_TLS=1 and Ray's certificates are to be set"
    hint = f"ray status --address {typed(address)}   (the address is that of the head's ray start; or {_LOCAL})"
    return UsageError(f"{what}.", where="engine.address", hint=hint)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep from the screen what Ray's own library writes there by itself; what it raises says the same."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _unusable(address: str | None, error: Exception) -> RaftError:
    words = " ".join(str(error).split())[:400]
    if address is None:
        return RaftError(f"Ray does not start on this machine: {words}", where="engine.kind=ray", hint=_LOCAL)
    if "ersion mismatch" in words:
        what = f"The cluster at {address} has another Ray or Python than this process: {words}"
        return UsageError(what, where="engine.address", hint=_same_versions())
    hint = f"ray status --address {typed(address)}, or {_LOCAL}"
    if "any running Ray instance" in words:
        hint = f"ray start --head   (on this machine; or {_LOCAL})"
    elif "RAY_AUTH_MODE" not in os.environ:  # Ray tells no word of it
        hint = f"export RAY_AUTH_MODE=token   (where the cluster has a token, in ~/.ray/auth_token; else: {hint})"
    what = f"The Ray cluster at {address} cannot be used: {words}"
    return UsageError(what, where="engine.address", hint=hint)


def _same_versions() -> str:
    ray = import_ray()
    needed = f"pip install ray=={ray.__version__} raft-pipeline=={__version__}"
    return f"{needed}   (on each node, with Python {platform.python_version()}; or {_LOCAL})"


def _check_nodes(ray: Any, *, local_only: bool) -> None:
    """Refuse a cluster with a node whose raft is another one, or that has none; where need be, of other machines.

    Raises:
        UsageError: so it is.
    """
    if away := sorted({str(node["NodeManagerAddress"]) for node in nodes(ray)} if local_only else ()):
        away = [address for address in away if not _is_here(address)]
    if away:
        raise UsageError(
            f"local_only is set, and the cluster has nodes that are not this machine: {', '.join(away)}.",
            where="engine.kind=ray",
            hint=f"{_LOCAL}   (or --set local_only=false)",
        )

    def look() -> str | None:  # sent as it stands here, since a node may have no raft
        try:
            from raft.version import __version__ as there
        except ImportError:
            return None
        return str(there)

    pinned = import_ray().util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = {
        ray.remote(look).options(num_cpus=0, scheduling_strategy=pinned(node["NodeID"], soft=False)).remote(): node
        for node in nodes(ray)
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
    found = {str(asked[ref]["NodeManagerAddress"]): ray.get(ref) for ref in done}
    wrong = [f"{where} has {there or 'none'}" for where, there in sorted(found.items()) if there != __version__]
    wrong += [f"{asked[ref]['NodeManagerAddress']} starts no process" for ref in late]
    if wrong:
        what = f"The cluster has not the raft of this process, {__version__}, on each node: {', '.join(wrong)}."
        raise UsageError(what, where="engine.address", hint=_same_versions())


def room(ray: Any, shards: int, cards: float, *, grows: bool) -> int:
    """Return how many of so many shards the nodes that are there have room for, were nothing else on them.

    Raises:
        UsageError: for none, and it does not grow: Ray would wait for ever. Of a cluster that others started nobody
            can tell whether it does.
    """
    has = [node["Resources"] for node in nodes(ray)]
    found = sum(int(min(one.get("CPU", 0), one.get("GPU", 0) / cards if cards else shards)) for one in has)
    if not found and not grows:
        what = f"This machine has not the graphics cards that a shard takes, engine.cards={cards:g}."
        raise UsageError(what, where="engine.cards", hint=f"--set engine.cards=0   (or {_LOCAL})")
    return min(found, shards)


def _is_here(address: str) -> bool:
    """Tell whether an address is one of this machine's: it alone can listen there."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.bind(place)
    except OSError:
        return False
    return True


def environment() -> dict[str, str | None]:
    """Return the variables that models depend on, as shards are to have them, wherever they are; None: not set.

    With as many threads as here they add up in the same order.
    """
    found = {name: os.environ.get(name) for name in (*_PLACES, "HF_HUB_OFFLINE", "HF_ENDPOINT")}
    if found["HF_HOME"]:  # the hub's package reads it so, other than raft its own
        found["HF_HOME"] = str(Path(os.path.expandvars(found["HF_HOME"])).expanduser())
    found |= {name: str(Path(place).absolute()) for name in _PLACES if (place := found[name])}
    return {**found, "OMP_NUM_THREADS": str(_threads())}


def _threads() -> int:
    """Return how many threads torch has here, or would have: it takes a thread a core."""
    if hasattr(torch := sys.modules.get("torch"), "get_num_threads"):
        return int(torch.get_num_threads())  # type: ignore[union-attr]
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return int(given)
    mine = os.sched_getaffinity(0)
    tables = [Path(f"/sys/devices/system/cpu/cpu{number}/topology") for number in mine]
    try:
        return len({tuple((one / name).read_text() for name in ("physical_package_id", "core_id")) for one in tables})
    except OSError:
        return len(mine)


def answers(ray: Any) -> bool:
    """Tell whether the head of the cluster is there still; Ray itself waits for it, and then ends the process.

    One that does not answer has some seconds to restart in, and the caller waits so long.
    """
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    for knock in range(_KNOCKS):
        if knock:
            time.sleep(_PAUSE_SECONDS)
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
            return True
    return False


def nodes(ray: Any) -> list[Mapping[str, Any]]:
    """Return the nodes that are there now."""
    return [node for node in ray.nodes() if node["Alive"]]
