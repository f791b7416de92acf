"""The command that measures."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
from pathlib import Path
from typing import Any

import click

from raft.cli.frame import JSON, QUIET, SET, acting, main


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
    from raft import api, config, words_benchmark
    from raft.progress import Progress

    with Progress(silent=quiet) as progress:
        facts = api.bench(
            run,
            settings=dict(config.parse_assignment(text) for text in assignments),
            listen=progress,
            **options,
        )
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else words_benchmark.benchmark(facts))
