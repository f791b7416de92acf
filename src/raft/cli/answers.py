"""The command that answers: one question, or a session of several."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raft.cli.frame import JSON, acting, main
from raft.errors import RaftError

if TYPE_CHECKING:
    from raft.api import Answerer, Built

_HELP = ":adapter ID (or none) answers with another adapter, :context shows or hides what was found, an empty line ends"


@dataclass(frozen=True)
class _Way:
    """How answers are made and shown."""

    k: int | None
    when_unsupported: Any
    context: bool
    as_json: bool
    stream: bool


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("question", required=False)
@click.option("--model", metavar="MODEL", help="Any model: hub name, folder, provider/name.  [default: the student]")
@click.option("--adapter", metavar="ID", help="An adapter's id, or none.  [default: the current one]")
@click.option("--k", type=int, metavar="N", help="Most passages that the model is shown.")
@click.option(
    "--when-unsupported",
    type=click.Choice(["mark", "retry", "refuse"]),
    help="What becomes of an answer that no document supports.",
)
@click.option("--show-context", is_flag=True, help="Also show the passages that the model was shown.")
@click.option("--no-stream", is_flag=True, help="Show an answer when it is whole and checked.")
@JSON
@acting
def ask(
    *,
    run: Path,
    question: str | None,
    model: str | None,
    adapter: str | None,
    k: int | None,
    when_unsupported: str | None,
    show_context: bool,
    no_stream: bool,
    as_json: bool,
) -> None:
    """Answer QUESTION from the documents of RUN, with quotes that were checked; without one, questions as they come."""
    from raft import api

    built = api.load(run)
    way = _Way(k, when_unsupported, show_context, as_json, stream=sys.stdout.isatty() and not (no_stream or as_json))
    answerer = _opened(built, model, adapter)
    if question is not None:
        _say(answerer, question, way)
    else:
        _converse(built, answerer, model, way)


def _opened(built: "Built", model: str | None, adapter: str | None) -> "Answerer":
    answerer = built.answerer(model=model, adapter=adapter)
    for remark in answerer.remarks:
        click.echo(f"raft: {remark}", err=True)
    return answerer


def _say(answerer: "Answerer", question: str, way: _Way) -> None:
    from raft import words_answers

    heard: list[str] = []

    def tell(piece: str) -> None:
        heard.append(piece)
        click.echo(piece, nl=False)

    said = answerer.ask(question, k=way.k, when_unsupported=way.when_unsupported, tell=tell if way.stream else None)
    if heard:
        click.echo()
    if way.as_json:
        click.echo(json.dumps(asdict(said), ensure_ascii=False))
    else:
        click.echo(words_answers.answer(said, context=way.context, heard=bool(heard)))


def _converse(built: "Built", answerer: "Answerer", model: str | None, way: _Way) -> None:
    """Answer each line; the model stays loaded, and a question that fails does not end the session."""
    if sys.stdin.isatty():
        click.echo(_HELP, err=True)
    for line in _lines():
        try:
            if line == ":context":
                way = replace(way, context=not way.context)
            elif line.split()[0] == ":adapter":
                answerer = _opened(built, model, line.removeprefix(":adapter").strip() or None)
                click.echo(f"raft: {answerer.model}, adapter {answerer.adapter or 'none'}", err=True)
            elif line.startswith(":"):
                click.echo(f"raft: {_HELP}", err=True)
            else:
                _say(answerer, line, way)
        except RaftError as error:
            click.echo(f"raft: {error}", err=True)


def _lines() -> Iterator[str]:
    """Yield what is typed, line by line, until an empty line or the end."""
    prompt = "\n? " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line
