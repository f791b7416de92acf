"""The command that lets a person judge the rows of a run, and what the command line says of what people found."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from raft.cli.group import JSON, RUN, Place, acting, echo, main, show, tell_of_writers
from raft.errors import pasted, typed


@main.command()
@RUN
@click.option("--reviewer", metavar="NAME", help="Who judges.  [default: your name on this machine]")
@click.option("--sample", type=click.IntRange(min=1), default=100, show_default=True, help="Rows drawn to judge by.")
@click.option("--only", metavar="LIST", help="sample, suspicious, dropped, evaluation, or human: what people wrote.")
@click.option("--export", type=Place(), metavar="FILE", help="Write approved evaluation questions, for build --eval.")
@click.option("--learn", type=Place(), metavar="FILE", help="Teach the learned filter by the verdicts; write it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the page listens.  [default: any]")
@JSON
@acting
def review(*, run: Path, as_json: bool, **options: Any) -> None:
    """Judge rows of RUN on a page, to learn how many are wrong. Verdicts count in the next build."""
    from raft import api

    def opened(event: str, facts: Mapping[str, Any]) -> None:
        for remark in facts["remarks"]:
            echo(f"raft: {remark}", err=True)
        echo(
            f"raft: open {facts['address']}   (this machine alone can; Ctrl-C, or Done on the page, ends it)", err=True
        )

    tell_of_writers(run)
    found = api.review(run, on_event=opened, **options)
    show(found, as_json, lambda found: _words(found, run, **options))


def _words(
    found: Mapping[str, Any],
    run: Path,
    *,
    export: Path | None,
    learn: Path | None,
    sample: int,
    reviewer: str | None,
    **_: Any,
) -> str:
    from raft.store.again import again

    if learn is not None:
        build = pasted(again(run, {"cleaning.learned": learn}))
        return f"The filter was taught by {found['learned']:,} verdicts, and written to {learn}\n  next:  {build}"
    if export is not None:
        instead = "in place of the questions that it measures with today" if " --eval " in again(run) else ""
        build = pasted(again(run, {"evaluation": export}, remark=instead))
        return f"{found['exported']:,} questions to measure with written to {export}\n  next:  {build}"
    lines = [text[0].upper() + text[1:] + "." for text in found["text"]]
    place = typed(run)
    own = f" --sample {sample}" * (sample != 100) + (f" --reviewer {typed(reviewer)}" if reviewer else "")
    steps = [f"raft review {place}{own}   # {found['left']:,} of the sample are left"] if found["left"] else []
    steps += [pasted(again(run, remark="verdicts count, no model is asked"))] if found.get("waiting") else []
    steps += [f"raft train {place}"]
    begins, judged = ["  next:  ", *["         "] * 2], found["seen"] or found.get("waiting")
    return "\n".join(lines + [a + b for a, b in zip(begins, steps, strict=False)] * bool(judged))
