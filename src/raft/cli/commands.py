"""Commands of a run directory: make one, look at it, take things out of it."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them
import sys

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them
# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raft.errors import RaftError, UsageError
from raft.version import __version__

_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. index.k=8."
)


def acting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one screen of words and an exit code: 2 for usage, 1 for failure, 130 for Ctrl-C."""

    @wraps(command)
    def run(*args: Any, debug: bool, **options: Any) -> None:
        try:
            command(*args, **options)
        except RaftError as error:
            if debug:
                raise
            click.echo(f"raft: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            what = str(stop) or "stopped; what was answered is kept. Run the same command again to go on."
            click.echo(f"\nraft: {what}", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except Exception as error:
            if debug:
                raise
            click.echo(
                f"raft: something went wrong that raft does not know how to explain: {type(error).__name__}: {error}\n"
                "  next:  run the same command with --debug, and report what it prints; what was done is kept",
                err=True,
            )
            sys.exit(1)

    return _DEBUG(run)


def price_pair(text: str | None) -> tuple[float, float] | None:
    """Read a price as typed, `0.15/0.60`: dollars per million tokens read and written.

    Raises:
        UsageError: it is not of that form.
    """
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(
            f"A price is two numbers, and {text!r} is not: dollars per million tokens read, and written.",
            where="--price",
            hint="--price 0.15/0.60",
        ) from None
    return read, written


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raft")
def main() -> None:
    """Train a small model to answer from your documents, and measure it against plain RAG."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@acting
def init(folder: Path) -> None:
    """Copy pipelines and prompts to FOLDER for editing, with a YAML file that explains every setting."""
    from raft import api

    written = api.initialise(folder)
    click.echo(f"{len(written)} files written to {folder}" if written else f"{folder} has all files already")
    click.echo(f"  next:  edit {folder / 'raft.yaml'}, then raft build CORPUS --pipeline {folder / 'raft.yaml'}")


@main.command()
@click.argument("corpus", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/NAME-OF-CORPUS]")
@click.option("--pipeline", metavar="FILE", help="Settings: a YAML file, or one of the package's (embedded, hosted).")
@click.option("--generator", metavar="MODEL", help="The model that writes questions: hub name, folder, provider/name.")
@click.option("--embedder", metavar="MODEL", help="The model that makes vectors.")
@click.option("--student", metavar="MODEL", help="The small model that will be tuned.")
@click.option("--questions-per-chunk", type=float, metavar="N", help="Questions asked for, a chunk, on average.")
@click.option("--limit", type=int, metavar="N", help="At most N questions, spread evenly over the documents.")
@click.option("--seed", type=int, metavar="N", help="Seed of every random choice.")
@click.option(
    "--eval", "evaluation", metavar="FILE", help="Your own questions: JSONL with question, answers, document."
)
@click.option("--estimate", is_flag=True, help="Say what it would ask and cost, and stop before the first call.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=0, metavar="N", help="With --estimate: ask N calls to know better."
)
@click.option("--max-cost", type=float, metavar="USD", help="Dollars that the run may cost in all, over restarts.")
@click.option("--price", metavar="IN/OUT", help="The generator's dollars per million tokens: 0.15/0.60.")
@click.option("--local-only", is_flag=True, default=None, help="Refuse what is not on this machine.")
@SET
@QUIET
@JSON
@acting
def build(*, corpus: tuple[str, ...], assignments: tuple[str, ...], pipeline: str | None, quiet: bool, as_json: bool,
          estimate: bool, sample: int, price: str | None, **options: Any) -> None:  # fmt: skip
    """Build a training set and an index from CORPUS (files, folders, globs). Resumes by itself."""
    from raft import api, settings
    from raft.cli import messages
    from raft.cli.progress import Progress
    from raft.pipeline import estimate as estimates

    if sample and not estimate:
        raise UsageError(
            "A sample belongs to an estimate.", where="--sample", hint="raft build CORPUS --estimate --sample 10"
        )
    told = {
        **options,
        "price": price_pair(price),
        "pipeline_file": pipeline,
        "settings": dict(settings.parse_assignment(text) for text in assignments),
    }
    with Progress(silent=quiet) as progress:
        if estimate:
            facts = api.estimate(list(corpus) or None, sample=sample, on_event=progress, **told).summary()
        else:
            facts = api.build(list(corpus) or None, on_event=progress, **told).summary()
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    elif estimate:
        click.echo("\n".join([estimates.as_text(facts), "", *messages.advice(facts)]))
    else:
        click.echo(messages.summary(facts))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@JSON
@acting
def status(run: Path, as_json: bool) -> None:
    """Say what RUN holds, step by step, and what was spent on it."""
    from raft import api
    from raft.cli import messages

    facts = api.state(run)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        told = facts["summary"], facts["spent"], facts["running"], facts["adapters"], facts["money"]
        click.echo(messages.status(*told))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("table", metavar="TABLE")
@click.option("-n", "--rows", "count", default=10, show_default=True, help="How many rows.")
@click.option("--only", metavar="WORD", help="kept, dropped, a split, a reason or a kind.")
@JSON
@acting
def show(run: Path, table: str, count: int, only: str | None, as_json: bool) -> None:
    """Print rows of TABLE: documents, chunks, questions, failures, cleaned, examples or eval."""
    from raft import api
    from raft.cli import messages

    rows = api.table(run, table, only=only).head(count)
    if as_json:
        for row in rows.iter_rows(named=True):
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        for text in messages.rows(rows, table):
            click.echo(text)
    if rows.is_empty():
        click.echo("no such rows", err=True)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["openai", "axolotl", "hf"]), help="Training rows, and who will read them."
)
@click.option("--merged", is_flag=True, help="Student and adapter as one model, for transformers, vLLM and others.")
@click.option("--gguf", is_flag=True, help="Student and adapter as one GGUF file, for llama.cpp and others.")
@click.option("--adapter", metavar="ID", help="With --merged or --gguf: the adapter.  [default: the current one]")
@click.option("--out", type=click.Path(path_type=Path), help="Where to.  [default: in RUN]")
@acting
def export(*, run: Path, form: str | None, merged: bool, gguf: bool, adapter: str | None, out: Path | None) -> None:
    """Write the training rows of RUN for a trainer or a service, or its tuned model for a server."""
    from raft import api

    if (form is not None) + merged + gguf != 1:
        raise UsageError(
            "One thing is exported at a time: --format, --merged or --gguf.", hint=f"raft export {run} --merged"
        )
    if form is not None and adapter is not None:
        raise UsageError("Training rows have no adapter.", where="--adapter", hint=f"raft export {run} --merged")
    if form is not None:
        click.echo(api.export(run, format=form, out=out))
    else:
        click.echo(api.export_model(run, adapter=adapter, gguf=gguf, out=out))


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
    from raft.cli import messages

    heard: list[str] = []

    def on_event(piece: str) -> None:
        heard.append(piece)
        click.echo(piece, nl=False)

    said = answerer.ask(
        question, k=way.k, when_unsupported=way.when_unsupported, on_event=on_event if way.stream else None
    )
    if heard:
        click.echo()
    if way.as_json:
        click.echo(json.dumps(asdict(said), ensure_ascii=False))
    else:
        click.echo(messages.answer(said, context=way.context, heard=bool(heard)))


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


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--questions", metavar="FILE", help="Your own questions: JSONL with question, answers, document.")
@click.option("--adapter", metavar="ID", help="The adapter to measure.  [default: the current one]")
@click.option("--model", "larger", multiple=True, metavar="NAME", help="A larger model to compare with; repeatable.")
@click.option("--drop-leaks", is_flag=True, help="Leave out questions that the adapter was trained on.")
@click.option(
    "--blind",
    "blind_pairs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write blind.html: N anonymous pairs of answers for experts.",
)
@click.option("--ratings", metavar="FILE", help="What the experts chose, as blind.html saved it.")
@SET
@QUIET
@JSON
@acting
def bench(*, run: Path, assignments: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> None:
    """Measure RUN against plain RAG, and say which is the better buy."""
    from raft import api, settings
    from raft.cli import messages
    from raft.cli.progress import Progress

    with Progress(silent=quiet) as progress:
        facts = api.bench(
            run,
            settings=dict(settings.parse_assignment(text) for text in assignments),
            on_event=progress,
            **options,
        )
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else messages.benchmark(facts))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--backend", metavar="NAME", help="What trains: auto, peft, unsloth, ...  [default: as set]")
@click.option("--epochs", type=float, metavar="N", help="Most passes over the rows.")
@click.option("--learning-rate", type=float, metavar="X", help="The highest learning rate.")
@click.option("--rank", type=int, metavar="N", help="Rank of the adapter's matrices.")
@SET
@QUIET
@JSON
@acting
def train(
    *,
    run: Path,
    backend: str | None,
    epochs: float | None,
    learning_rate: float | None,
    rank: int | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Tune an adapter of the student on the rows of RUN. Resumes by itself."""
    from raft import api, settings
    from raft.cli import messages
    from raft.cli.progress import Progress

    with Progress(silent=quiet) as progress:
        card = api.train(
            run,
            backend=backend,
            epochs=epochs,
            learning_rate=learning_rate,
            rank=rank,
            settings=dict(settings.parse_assignment(text) for text in assignments),
            on_event=progress,
        )
    click.echo(json.dumps(card, ensure_ascii=False, indent=1) if as_json else messages.trained(card, str(run)))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--by", required=True, metavar="NAME", help="Who approves.")
@click.option("--adapter", metavar="ID", help="The adapter.  [default: the current one]")
@acting
def approve(run: Path, by: str, adapter: str | None) -> None:
    """Write into an adapter's card who approved it."""
    from raft import api

    card = api.approve(run, by, adapter=adapter)
    click.echo(f"{card['adapter']} is approved by {card['approved_by']}, {card['approved']}")
