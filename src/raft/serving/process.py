"""A server as a process: a run is opened, answers are given until a signal, and nothing is left behind."""

import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from raft.api.http import HOME, PATIENCE, config, listen
from raft.errors import UsageError, typed
from raft.protocols import OnEvent
from raft.serving import keys as keyring
from raft.serving import metrics
from raft.serving.engine import Engine, Sources
from raft.serving.feedback import Recorder
from raft.serving.follow_ups import FollowUps
from raft.serving.routing import Router
from raft.serving.server import SECONDS, Application, Server, ServerConnection
from raft.serving.snapshots import Snapshot
from raft.serving.spans import Spans
from raft.serving.versions import Versions
from raft.text.secrets import is_loopback

PORT = 8080


def serve(
    run: Path | str,
    *,
    host: str = HOME,
    port: int = PORT,
    keys: Path | None = None,
    model: str | None = None,
    adapter: str | None = None,
    spans: bool = False,
    on_event: OnEvent | None = None,
) -> None:
    """Serve the answers of a run until Ctrl-C or SIGTERM: `POST /v1/chat/completions` as OpenAI has it, and a page.

    A build that finishes meanwhile is taken over between two answers.

    Args:
        run: the run directory.
        host: the address to listen at; others than this machine's own need `keys`.
        port: the port; 0: any that is free.
        keys: a file of keys (`raft serve --new-key`), one of which each request must bring.
        model: a model's name; None: the run's student. At a vLLM (`hosted_vllm/BASE`) the registry holds as for that.
        adapter: an adapter's id or the beginning of it, or "none". Where neither it nor another `model` is given, the
            version answers that the registry has in production, and its candidate those who are to meet it; without one
            in production the adapter that is current now.
        spans: whether OpenTelemetry is told of each request.
        on_event: told "opened" with the `address`, `remarks`, `model`, `adapter`, `version` and whether traffic is
            `kept`; "ready" with the `seconds` that loading took; "refreshed" with `documents`, `index` and the steps
            that `changed` when a build or a training was taken over; "changed" with the `standing` when the registry
            was; "kept" with `why` when one of them changes nothing; "stopped" with `why` when the guard withdraws a
            candidate; "stumbled" with an `error` that nobody foresaw; "stopping" with how many are `waiting`.

    Raises:
        UsageError: another address without keys, or the file of keys has none.
        RaftError: the port is taken, or the run cannot be asked (`raft.load(run).ask`).
        KeyboardInterrupt: Ctrl-C a second time.
    """

    def tell(event: str, facts: Mapping[str, Any]) -> None:
        with suppress(Exception):  # a closed terminal, a log on a full disk: answers and rollbacks go on
            if on_event is not None:
                on_event(event, facts)

    if keys is None and not is_loopback(host):
        raise UsageError(
            "Whoever reaches another address than this machine's own could ask, and nobody would be asked for a key.",
            where=f"--host {host}",
            hint=f"raft serve --new-key NAME --keys keys.txt && raft serve {typed(run)} --host {typed(host)} "
            "--keys keys.txt",
        )
    known = keyring.read(keys) if keys is not None else None
    with _tidy(), listen(host, port) as listening, Versions(run, model, adapter, tell) as versions:
        _serve(listening, Path(run), versions, known, tell, spans=Spans() if spans else None)


def _serve(
    listening: socket.socket,
    run: Path,
    versions: Versions,
    known: Mapping[str, str] | None,
    tell: OnEvent,
    *,
    spans: Spans | None,
) -> None:
    failed: list[Exception] = []
    count, ended, first = metrics.Metrics(), Event(), versions.take()

    def heard(event: str, facts: dict[str, Any]) -> None:
        if event == "failed":
            failed.append(facts["error"])
            server.should_exit = True
        elif event == "unfit":
            versions.unfit(**facts)
        else:
            tell(event, facts)

    def offer(sources: Sources) -> None:
        engine.offer(sources)
        router.change(sources, versions.standing)

    def built(snapshot: Snapshot, changed: list[str]) -> None:
        count.refreshed()
        recorder.follow(snapshot.loaded.settings)
        tell("refreshed", {"documents": snapshot.documents, "index": snapshot.index, "changed": changed})

    engine, snapshot = Engine(first, heard), versions.snapshot
    chosen, collection = snapshot.loaded.settings, str(snapshot.loaded.run.manifest["collection"])
    with ExitStack() as parting:  # another signal while one part ends does not keep the others from it
        follow_ups = FollowUps(chosen, collection, tell) if chosen.serving.rewrite else None
        recorder = Recorder(run, chosen, tell)
        for one in (spans, follow_ups, recorder):
            if one is not None:
                parting.callback(one.close)
        router = Router(run, collection, tell, versions.wake.set)
        router.change(first, versions.standing)
        parts: dict[str, Any] = {"recorder": recorder, "router": router, "follow_ups": follow_ups, "spans": spans}
        application = Application(engine, versions.name, known, count, tell, folder=run, **parts)
        server = Server(config(application, ServerConnection, graceful=int(SECONDS)))
        told = {"address": _address(listening), "name": versions.name, "remarks": versions.remarks, "kept": recorder.on}
        now = first.production
        tell("opened", {**told, "model": now.answerer.model, "adapter": now.answerer.adapter, "version": now.version})
        parting.callback(lambda: engine.end(0.0 if server.force_exit else PATIENCE))
        engine.start()
        watching = versions.watch(ended, offer, built)
        try:
            server.run(sockets=[listening])
        finally:
            ended.set()
            versions.wake.set()
            for thread in watching:
                thread.join(PATIENCE)
    if failed:
        raise failed[0]
    if server.force_exit:
        raise KeyboardInterrupt("stopped; what was in flight was not answered")


@contextmanager
def _tidy() -> Iterator[None]:
    """Have SIGTERM end what goes on before and after the server runs as Ctrl-C does: what lies in scratch goes too."""
    if current_thread() is not main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise KeyboardInterrupt("stopped")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
