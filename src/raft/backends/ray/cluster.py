"""A Ray cluster: reached, looked at, and left again; what is wrong with it is one error with the next command."""

import importlib
import logging
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from raft.errors import MissingExtra, RaftError, UsageError, typed
from raft.version import __version__

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",  # else what a shard computes waits for whatever else the machine does
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}
"""What Ray reads before it is imported: nothing is sent anywhere."""
_STORE = 256 * 2**20
"""Bytes of Ray's object store where raft starts Ray itself; what does not fit is laid on the disk."""
_REACH_SECONDS, _PROBE_SECONDS = 5.0, 120.0
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
def connected(address: str | None, shards: int) -> Iterator[Any]:
    """Give Ray, connected to a cluster, or to one of `shards` processes that is started on this machine and ended.

    A Ray that this process is connected to already is taken as it is.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: nothing, or something else, answers at the address; the cluster has another Ray or Python, or a
            node of it another raft or none.
        RaftError: Ray does not start on this machine.
    """
    ray = import_ray()
    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        _check_nodes(ray)
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
            _check_nodes(ray)
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse at once an address that nothing listens at, or that is no Ray's: Ray itself takes minutes, or dies of it.

    Raises:
        UsageError: so it is.
    """
    wrong = f"engine.address is host:port, and it is {address!r}."
    hint = "--set engine.address=127.0.0.1:6379   (host and port of the head, as ray start --head told them there)"
    if "://" in address:
        raise UsageError(wrong, where="engine.address", hint=hint)
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):
        return  # Ray knows by itself where a cluster was started on this machine
    if not port.isdecimal() or not host:
        raise UsageError(wrong, where="engine.address", hint=hint)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS) as connection:
            connection.settimeout(_REACH_SECONDS)
            said = _greeting(connection)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"No Ray cluster answers at {address}: {words}.",
            where="engine.address",
            hint=f"ray start --head --port {port}   (on the head; or {_LOCAL})",
        ) from None
    if not said:
        raise UsageError(
            f"What answers at {address} is no Ray.",
            where="engine.address",
            hint=f"ray status --address {typed(address)}   (the address is that of the head's ray start; or {_LOCAL})",
        )


def _greeting(connection: socket.socket) -> bool:
    """Tell whether the other side speaks HTTP/2, as a head of Ray does: it answers settings with settings."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    with suppress(OSError):
        head = connection.recv(9)
        return len(head) >= 4 and head[3] == 4
    return False


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
    if "RAY_AUTH_MODE" not in os.environ:  # Ray tells no word of it
        hint = f"export RAY_AUTH_MODE=token   (where the cluster has a token, in ~/.ray/auth_token; else: {hint})"
    what = f"The Ray cluster at {address} cannot be used: {words}"
    return UsageError(what, where="engine.address", hint=hint)


def _same_versions() -> str:
    ray = import_ray()
    needed = f"pip install ray=={ray.__version__} raft-pipeline=={__version__}"
    return f"{needed}   (on each node, with Python {platform.python_version()}; or {_LOCAL})"


def _check_nodes(ray: Any) -> None:
    """Refuse a cluster with a node whose raft is another one, or that has none.

    Raises:
        UsageError: so it is.
    """

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


def nodes(ray: Any) -> list[Mapping[str, Any]]:
    """Return the nodes that are there now."""
    return [node for node in ray.nodes() if node["Alive"]]
