"""Commands of an adapter: train it, approve it."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
from pathlib import Path

import click

from raft.cli.frame import JSON, QUIET, SET, acting, main


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["auto", "peft", "unsloth"]), help="What trains.  [default: as set]")
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
    from raft import api, config, words_tuning
    from raft.progress import Progress

    with Progress(silent=quiet) as progress:
        card = api.train(
            run,
            backend=backend,
            epochs=epochs,
            learning_rate=learning_rate,
            rank=rank,
            settings=dict(config.parse_assignment(text) for text in assignments),
            listen=progress,
        )
    click.echo(json.dumps(card, ensure_ascii=False, indent=1) if as_json else words_tuning.trained(card, str(run)))


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
