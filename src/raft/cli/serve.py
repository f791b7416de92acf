"""The command that serves the answers of a run, and the one that makes keys for who may ask."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from raft.cli.group import QUIET, Place, acting, echo, main
from raft.errors import RaftError, UsageError, typed


@main.command()
@click.argument("run", type=Place(), required=False)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option("--keys", type=Place(), metavar="FILE", help="Who may ask: a file that --new-key writes.")
@click.option("--new-key", metavar="NAME", help="Make a key for NAME, print it once, and add its hash to --keys.")
@click.option(
    "--model",
    metavar="MODEL",
    help="A vLLM with LoRA (hosted_vllm/BASE), or any other, whatever the registry says: hub name, provider/name.",
)
@click.option("--adapter", metavar="ID", help="An adapter's id, or none, whatever the registry says.")
@click.option("--spans", is_flag=True, help="Tell OpenTelemetry of each request (OTEL_EXPORTER_OTLP_ENDPOINT).")
@QUIET
@acting
def serve(*, run: Path | None, new_key: str | None, quiet: bool, **options: Any) -> None:
    """Answer from RUN over HTTP, as OpenAI's chat completions do. Finished builds are taken over as it runs.

    The version in production answers (raft registry), and its candidate a share of the conversations; without one the
    current adapter.
    """
    if new_key is not None:
        _make_key(new_key, run, options["keys"])
        return
    if run is None:
        raise UsageError("Which run?", where="raft serve", hint=f"raft serve {_some_run()}")
    from raft.cli.registry import answers
    from raft.serving.process import serve as start

    def told(event: str, facts: Mapping[str, Any]) -> None:
        if event == "opened":
            facts = {**facts, "by": answers(run, facts["model"], facts["adapter"])}
        for line in () if quiet and event != "opened" else _lines(event, facts):
            echo(f"raft: {line}", err=True)

    start(run, on_event=told, **options)


def _some_run() -> str:
    """Return the newest run below this folder, as it is typed, or else one as `raft build` names it by itself."""
    found = [one for way in ("", "*/", "*/*/") for one in Path().glob(f"{way}manifest.json") if one.is_file()]
    return typed(max(found, key=lambda one: one.stat().st_mtime).parent if found else "runs/handbook")


def _make_key(name: str, run: Path | None, keys: Path | None) -> None:
    from raft.serving.keys import new_key

    if keys is None:
        raise UsageError(
            "Where are keys kept?", where="--new-key", hint=f"raft serve --new-key {typed(name)} --keys keys.txt"
        )
    echo(new_key(keys, name))
    echo(
        f"raft: this is {name}'s key; it is not shown again\n"
        f"  next:  raft serve {typed(run) if run else _some_run()} --host 0.0.0.0 --keys {typed(keys)}",
        err=True,
    )


def _lines(event: str, facts: Mapping[str, Any]) -> list[str]:
    """Return what is said of an event of the server, a line each."""
    said = _SAID.get(event)
    return said(facts) if said else []


def _opened(facts: Mapping[str, Any]) -> list[str]:
    by = f"version {facts['version']}: {facts['by']}" if facts["version"] else facts["by"]
    where = f"{facts['address']}/v1   (model {facts['name']}: {by}), and a page at {facts['address']}/"
    kept = "questions, answers and feedback are kept in traffic.sqlite (serving.traffic=false: nothing is)"
    said = [*facts["remarks"], *([kept] if facts["kept"] else [])]
    return [*said, f"listening at {where}", "Ctrl-C ends it when what is in flight is answered"]


def _refreshed(facts: Mapping[str, Any]) -> list[str]:
    trained = [name for name in facts["changed"] if name in ("refusal", "retriever")]
    if trained and trained == facts["changed"]:
        return [f"what was trained meanwhile was taken over: {' and '.join(trained)}"]
    return [f"a build was taken over: {facts['documents']:,} documents, index {facts['index'][:12]}"]


def _kept(facts: Mapping[str, Any]) -> list[str]:
    if facts.get("version"):
        return [f"version {facts['version']} cannot answer here; what was there before goes on. {facts['why']}"]
    return [f"the run has changed and cannot be taken over; answers come from what was there before. {facts['why']}"]


def _changed(facts: Mapping[str, Any]) -> list[str]:
    return [_stands(facts["standing"])]


def _stopped(facts: Mapping[str, Any]) -> list[str]:
    first = f"the guard has stopped the candidate {facts['candidate']}, and production answers all: {facts['why']}"
    return [first, f"  beside it: {facts['figures']}"]


def _stumbled(facts: Mapping[str, Any]) -> list[str]:
    error = facts["error"]
    if isinstance(error, RaftError):  # of the traffic: that of an answer is told to who asked
        return str(error).splitlines()
    return [f"a question was not answered, for a reason that nobody foresaw: {type(error).__name__}: {error}"]


def _stands(standing: Any) -> str:
    production = f"version {standing.production.id} is in production" if standing.production else "nothing is promoted"
    if standing.candidate is None:
        return f"by the registry {production}, and there is no candidate"
    shares = [f"{standing.share:.3g} of the conversations"] if standing.share else []
    shares += [f"{standing.shadow:.3g} of the requests unseen"] if standing.shadow else []
    meets = f"meets {' and '.join(shares)}" if shares else "meets nobody yet"
    return f"by the registry {production}, and the candidate {standing.candidate.id} {meets}"


_SAID: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "opened": _opened,
    "ready": lambda facts: [f"ready after {facts['seconds']:.1f} s"],
    "refreshed": _refreshed,
    "kept": _kept,
    "changed": _changed,
    "stopped": _stopped,
    "stumbled": _stumbled,
}
