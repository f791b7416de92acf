"""The command that makes blind pairs of what production and a candidate said to the same questions."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from raft.cli.commands import JSON, RUN, Place, acting, show
from raft.cli.registry import registry
from raft.errors import UsageError, typed
from raft.report.figures import share


@registry.command()
@RUN
@click.option("--version", metavar="ID", help="The candidate.  [default: that of now, else the last in the shadow]")
@click.option("--pairs", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option("--out", type=Place(), metavar="FILE", help="The page.  [default: pairs.html in RUN]")
@click.option("--ratings", type=Place(), metavar="FILE", help="What an expert chose, as the page saved it.")
@JSON
@acting
def pairs(*, run: Path, version: str | None, count: int, out: Path | None, ratings: Path | None, as_json: bool) -> None:
    """Write a page of blind pairs: what production and the candidate in its shadow said to users' questions.

    With --ratings: say what the experts chose.
    """
    from raft.api import pairs as api

    if ratings is not None:
        if out is not None or version is not None:
            hint = f"raft registry pairs {typed(run)} --ratings {typed(ratings)}"
            raise UsageError("Ratings are of the page that was written.", where="--ratings", hint=hint)
        show(api.rated(run, ratings), as_json, lambda facts: _chosen(facts, run))
        return
    show(api.write(run, version=version, count=count, out=out), as_json, lambda facts: _written(facts, run))


def _written(facts: Mapping[str, Any], run: Path) -> str:
    return (
        f"{facts['path']}: {facts['pairs']} pairs, of {facts['candidate']} and {facts['production']} in production. It "
        "has users' questions: delete it when they are rated\n"
        f"  next:  raft registry pairs {typed(run)} --ratings ratings.jsonl   (which the page saves)"
    )


def _chosen(facts: Mapping[str, Any], run: Path) -> str:
    told = (
        f"{facts['rated']} of {facts['pairs']} pairs rated: {facts['candidate']} was chosen {facts['wins']} times, "
        f"{facts['production']} {facts['losses']} times; {facts['ties']} equally good, {facts['both_wrong']} both wrong"
    )
    won = facts["preferred"]
    if won is not None:
        told += (
            f"\nwhere one was better it was the candidate's in {share(won['value'])} percent (95 % interval "
            f"{share(won['low'])} to {share(won['high'])}, sign test p = {facts['sign_test']:.2g})"
        )
    better = facts["wins"] > facts["losses"]
    return f"{told}\n  next:  raft registry {'promote' if better else 'show'} {typed(run)} {facts['candidate']}" + (
        " --by NAME" if better else ""
    )
