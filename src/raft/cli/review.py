"""The commands with which a person judges: the rows of a run, and what users said of a server's answers."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from raft.cli.group import JSON, RUN, Place, acting, echo, main, show, tell_of_writers
from raft.errors import pasted, typed
from raft.text import shortened

_LONGEST = 70
"""Most characters of a text in a list, but for a passage: whether it is about the question, its end may say."""


def _opened(event: str, facts: Mapping[str, Any]) -> None:
    for remark in facts.get("remarks", ()):
        echo(f"raft: {remark}", err=True)
    echo(f"raft: open {facts['address']}   (this machine alone can; Ctrl-C, or Done on the page, ends it)", err=True)


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

    tell_of_writers(run)
    found = api.review(run, on_event=_opened, **options)
    show(found, as_json, lambda found: _judged(found, run, options))


def _judged(found: Mapping[str, Any], run: Path, options: Mapping[str, Any]) -> str:
    from raft.store.again import again

    export, learn, sample, reviewer = (options[name] for name in ("export", "learn", "sample", "reviewer"))
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


@main.command()
@RUN
@click.option("--by", metavar="NAME", help="Who decides.  [default: your name on this machine]")
@click.option("--list", "listed", is_flag=True, help="Print what came, with its numbers, and open no page.")
@click.option("--accept", type=int, multiple=True, metavar="ID", help="Accept feedback ID as it is; may be repeated.")
@click.option("--reject", type=int, multiple=True, metavar="ID", help="Reject feedback ID; may be repeated.")
@click.option("--export", type=Place(), metavar="FILE", help="Write what is accepted, for raft build --qa FILE.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the page listens.  [default: any]")
@JSON
@acting
def feedback(*, run: Path, listed: bool, as_json: bool, **options: Any) -> None:
    """Review on a page what users said of RUN's answers. What is accepted, the next build learns from."""
    from raft.api.feedback import feedback as reviewed

    found = reviewed(run, page=not listed, on_event=_opened, **options)
    show(found, as_json, lambda found: "\n".join(_said(found, run, options, listed=listed)))


def _said(found: Mapping[str, Any], run: Path, options: Mapping[str, Any], *, listed: bool) -> Iterator[str]:
    from raft.store.again import again, pair_files

    export, accept = options["export"], options["accept"]
    if export is not None:
        files = {Path(file).resolve(): file for file in [*pair_files(run), str(export)]}
        rows = "row" if found["exported"] == 1 else "rows"
        yield f"{found['exported']:,} {rows} to learn from written to {export}"
        yield f"  next:  {pasted(again(run, {'questions.qa': [*files.values()]}))}"
        return
    if not found["rows"]:
        yield "Nobody has said anything of an answer yet."
        yield f"  next:  raft serve {typed(run)}   # its page has thumbs, and there is POST /v1/feedback"
        return
    for row in found["rows"]:
        if listed or row["id"] in accept:  # its passage was found by raft: a person has to see it
            yield from _row(row)
    for line in found["text"]:
        yield f"{line}."
    if found["accepted"]:
        yield f"  next:  raft feedback {typed(run)} --export people.jsonl"
    elif found["rows"]:
        yield f"  next:  raft feedback {typed(run)}" + ("" if listed else " --list")


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    decided = f"{row['decision']} by {row['by']}" if row["decision"] else "open"
    yield f"{row['id']:>6}  {row['rating'] or '-':<4}  {decided}"
    told = {name: row[name] for name in ("question", "answer", "correction", "comment")}
    told["passage"] = f"{row['document']}: {row['quote'] or ''}" if row["document"] else None
    for name, text in told.items():
        if text:
            said = " ".join(text.split()) if name == "passage" else shortened(text, _LONGEST)
            yield f"        {name:<10}  {said}"
