"""The command that watches what production answers, and what is said of it."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from raft.backends.hosted.endpoint import URL
from raft.cli.group import JSON, QUIET, RUN, SET, Place, acting, echo, main, show
from raft.errors import NotMeasured, RaftError, pasted
from raft.text import shortened

FINE, LOOK, ACT, NOT_MEASURED = 0, 10, 11, NotMeasured.exit_code
"""Exit codes for cron. 1 and 2 are those of any command: a failure, and wrong usage."""
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = 120  # characters of a question that somebody asked
_AGAIN = 3600.0  # seconds after which what could not be measured is tried again


class Every(click.ParamType[float]):
    """How often, as typed: 30m, 12h, 7d, 2w."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or say what is wrong."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,4})([mhdw])", value.strip())
        if found is None or not int(found[1]):
            self.fail(f"{value!r} is no time: 30m, 12h, 7d or 2w", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])}).total_seconds()


@main.command(
    epilog="Exit codes, for cron: 0 no fall that counts (or one that may be nothing), 10 look into it, 11 retrain or "
    "go back, 12 it could not be measured, 2 wrong usage, 1 any other failure."
)
@RUN
@click.option("--url", metavar="URL", default=URL, show_default=True, help="Where RUN is served.")
@click.option("--key-file", type=Place(), metavar="FILE", help="A file with the key.  [default: $RAFT_API_KEY]")
@click.option("--questions", metavar="FILE", help="Your own questions (JSONL).  [default: the run's held-out ones]")
@click.option("--traffic-only", is_flag=True, help="Ask nobody; look at the traffic alone.")
@click.option("--again", is_flag=True, help="Ask although nothing has changed.")
@click.option("--reference", is_flag=True, help="Ask, and compare later measures with this one.")
@click.option("--act", is_flag=True, help="Go back to plain RAG where the fall calls for it, beyond doubt.")
@click.option("--every", type=Every(), metavar="TIME", help="Stay, and look again after 30m, 12h, 7d, ...")
@SET
@QUIET
@JSON
@acting
def monitor(*, run: Path, every: float | None, as_json: bool, **options: Any) -> None:
    """Say whether what is served of RUN got worse, and what is asked. Held-out questions are asked of it."""
    if every is None:
        sys.exit(_once(run, as_json=as_json, **options))
    while True:
        code: int = NOT_MEASURED
        try:
            code = _once(run, as_json=as_json, **options)
            options["reference"] &= code == NOT_MEASURED  # once it is measured, it was this one
        except RaftError as error:  # the next look may find it mended
            if error.exit_code == 2:
                raise
            echo(f"raft: {error}", err=True)
        rest = min(every, _AGAIN) if code == NOT_MEASURED else every
        then = datetime.now(UTC) + timedelta(seconds=rest)
        echo(f"raft: the next look is at {then.isoformat(' ', 'minutes')[:16]} UTC; Ctrl-C ends it", err=True)
        time.sleep(rest)


def _once(run: Path, *, assignments: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> int:
    from raft import settings
    from raft.api import monitor as look
    from raft.cli.progress import Progress

    with Progress(silent=quiet) as progress:
        found = look(run, settings=settings.parse_assignments(assignments), on_event=progress, **options)
    show(found, as_json, words)
    if found["not_measured"]:
        missing = found["not_measured"]
        told = RaftError(missing["what"], where=missing["where"], hint=missing["hint"])
        echo(f"raft: {told}", err=True)
        return NOT_MEASURED
    point = found["measure"]
    return {"look": LOOK, "act": ACT}.get(point["state"] if point else "", FINE)


def words(found: Mapping[str, Any]) -> str:
    """Return what was found as text."""
    from raft.report.monitor import advice, headline, sentences, traffic_lines

    lines = [headline(found)]
    if not found["not_measured"] and (told := sentences(found)):
        lines += ["", *(f"  {one}" for one in told)]
    traffic = found["traffic"]
    lines += [
        "",
        *(f"  traffic: {one}" if not place else f"    {one}" for place, one in enumerate(traffic_lines(found))),
    ]
    if traffic and traffic["topics"]:
        lines += ["", f"  asked, and not answered or rated wrong ({traffic['unanswered']:,} replies):"]
        for one in traffic["topics"][:10]:
            note = ", another subject" if one["far"] else ""
            lines.append(
                f"    {one['times']:>5,} x  {shortened(one['example'], _LONGEST)}   (last {one['last']}{note})"
            )
        if len(traffic["topics"]) > 10:
            lines.append(f"    and {len(traffic['topics']) - 10:,} more topics")
    lines += ["", f"  page: {found['run']}/monitor.html"]
    if not found["not_measured"]:
        lines += [f"  {'next:' if not place else '':<6}{pasted(one)}" for place, one in enumerate(advice(found))]
    return "\n".join(lines)
