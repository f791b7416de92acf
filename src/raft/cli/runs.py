"""Commands of a run directory: make one, look at it, take things out of it."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
from pathlib import Path
from typing import Any

import click

from raft.cli import frame
from raft.cli.frame import JSON, QUIET, SET, acting, main
from raft.errors import UsageError


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
    from raft import api, config, estimates, words, words_spending
    from raft.progress import Progress

    if sample and not estimate:
        raise UsageError(
            "A sample belongs to an estimate.", where="--sample", hint="raft build CORPUS --estimate --sample 10"
        )
    told = {
        **options,
        "price": frame.price(price),
        "pipeline_file": pipeline,
        "settings": dict(config.parse_assignment(text) for text in assignments),
    }
    with Progress(silent=quiet) as progress:
        if estimate:
            facts = api.estimate(list(corpus) or None, sample=sample, listen=progress, **told).summary()
        else:
            facts = api.build(list(corpus) or None, listen=progress, **told).summary()
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    elif estimate:
        click.echo("\n".join([estimates.as_text(facts), "", *words_spending.advice(facts)]))
    else:
        click.echo(words.summary(facts))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@JSON
@acting
def status(run: Path, as_json: bool) -> None:
    """Say what RUN holds, step by step, and what was spent on it."""
    from raft import api, words

    facts = api.state(run)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        told = facts["summary"], facts["spent"], facts["running"], facts["adapters"], facts["money"]
        click.echo(words.status(*told))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("table", metavar="TABLE")
@click.option("-n", "--rows", "count", default=10, show_default=True, help="How many rows.")
@click.option("--only", metavar="WORD", help="kept, dropped, a split, a reason or a kind.")
@JSON
@acting
def show(run: Path, table: str, count: int, only: str | None, as_json: bool) -> None:
    """Print rows of TABLE: documents, chunks, questions, failures, cleaned, examples or eval."""
    from raft import api, words

    rows = api.table(run, table, only=only).head(count)
    if as_json:
        for row in rows.iter_rows(named=True):
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        for text in words.rows(rows, table):
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
