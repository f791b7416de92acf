"""The command that lets a person judge the rows of a run, and what the command line says of what people found."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from raft.cli.commands import JSON, RUN, Place, acting, echo, main, show
from raft.errors import typed


@main.command()
@RUN
@click.option("--reviewer", metavar="NAME", help="Who judges.  [default: your name on this machine]")
@click.option("--sample", type=click.IntRange(min=1), default=100, show_default=True, help="Rows drawn to judge by.")
@click.option("--export", type=Place(), metavar="FILE", help="Write approved evaluation questions, for build --eval.")
@click.option("--learn", type=Place(), metavar="FILE", help="Teach the learned filter by the verdicts; write it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the page listens.  [default: any]")
@JSON
@acting
def review(*, run: Path, as_json: bool, **options: Any) -> None:
    """Judge rows of RUN on a page, and learn how many of all are wrong. Verdicts count in the next build."""
    from raft import api

    def opened(event: str, facts: Mapping[str, Any]) -> None:
        for remark in facts["remarks"]:
            echo(f"raft: {remark}", err=True)
        echo(
            f"raft: open {facts['address']}   (this machine alone can; Ctrl-C, or Done on the page, ends it)", err=True
        )

    found = api.review(run, on_event=opened, **options)
    show(found, as_json, lambda found: _words(found, run, options["export"], options["learn"]))


def _words(found: Mapping[str, Any], run: Path, export: Path | None, learn: Path | None) -> str:
    if learn is not None:
        again = f"  next:  raft build CORPUS --out {typed(run)} --set cleaning.learned={typed(learn)}"
        told = f"The filter was taught by {found['learned']:,} verdicts, and written to {learn}"
        return f"{told}\n{again}   # with its other options"
    if export is not None:
        again = f"  next:  raft build CORPUS --out {typed(run)} --eval {typed(export)}   # with its other options"
        return f"{found['exported']:,} questions to measure with written to {export}\n{again}"
    lines = [text[0].upper() + text[1:] + "." for text in found["text"]]
    if found["seen"]:
        lines.append(
            f"  next:  raft build CORPUS --out {typed(run)}   # with its options: verdicts count, no model is asked"
        )
    return "\n".join(lines)
