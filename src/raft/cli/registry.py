"""The commands of the registry: what is in production, who put it there, and how it is changed."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import click

from raft.cli.group import JSON, RUN, Commands, Place, acting, echo, main, show
from raft.errors import UsageError, me, typed
from raft.report import figures
from raft.report.measures import MEASURES

_BY = click.option("--by", metavar="NAME", default="", help="Who says so; the history keeps it.")
_BECAUSE = click.option("--because", metavar="TEXT", default="", help="Why; the history keeps it.")
_ID = click.argument("version", metavar="ID")
_NONE = "none"


@main.group(cls=Commands)
def registry() -> None:
    """Say which version answers, and since when. Put another one there, and go back."""


@registry.command("list")
@RUN
@JSON
@acting
def list_versions(run: Path, as_json: bool) -> None:
    """List the versions of RUN. They are plain RAG (0), its adapters, and what was exported of them."""
    from raft.api import registry as api

    found = api.listed(run)
    if not as_json:
        echo(_table(found, run))
    for line in found if as_json else ():
        show(line, as_json, str)


@registry.command("show")
@RUN
@_ID
@JSON
@acting
def show_version(run: Path, version: str, as_json: bool) -> None:
    """Show version ID of RUN with its figures and history. ID may be production, candidate or previous."""
    from raft.api import registry as api

    show(api.shown(run, version), as_json, lambda facts: "\n".join(_one(facts, run)))


@registry.command()
@RUN
@_ID
@_BY
@_BECAUSE
@JSON
@acting
def promote(*, run: Path, version: str, by: str, because: str, as_json: bool) -> None:
    """Put version ID into production. A running server takes it over by itself."""
    from raft.api import registry as api

    show(api.promote(run, version, by=by, because=because), as_json, lambda line: _changed(line, run))


@registry.command()
@RUN
@_ID
@click.option(
    "--share", type=click.FloatRange(0, 1), metavar="X", help="Share of conversations that it answers, 0 to 1."
)
@click.option("--shadow", type=click.FloatRange(0, 1), metavar="X", help="Share of requests that both answer, 0 to 1.")
@_BY
@_BECAUSE
@JSON
@acting
def candidate(
    *, run: Path, version: str, share: float | None, shadow: float | None, by: str, because: str, as_json: bool
) -> None:
    """Try version ID on some conversations, or in the shadow. ID none ends it."""
    from raft.api import registry as api

    if version == _NONE:
        if share is not None or shadow is not None:
            hint = f"raft registry candidate {typed(run)} none --by {me(by)}"
            raise UsageError("No candidate has no share.", where="--share, --shadow", hint=hint)
        withdrawn = api.withdraw(run, by=by, because=because)
        show(
            withdrawn,
            as_json,
            lambda line: f"{line['version']} is not tried any more" if line else "There is no candidate",
        )
        return
    if share is None and shadow is None:
        hint = f"raft registry candidate {typed(run)} {version} --by {me(by)} --share 0.1 --shadow 0.05"
        raise UsageError("A candidate is tried on a share, or in the shadow.", where="--share, --shadow", hint=hint)
    line = api.candidate(run, version, share=share or 0.0, shadow=shadow or 0.0, by=by, because=because)
    show(line, as_json, lambda line: f"{line['version']} is tried: {_tried(line)}\n{_next(run, 'log')}")


@registry.command()
@RUN
@click.option("--to", metavar="ID", help="The version to go back to.  [default: what was in production before]")
@_BY
@_BECAUSE
@JSON
@acting
def rollback(*, run: Path, to: str | None, by: str, because: str, as_json: bool) -> None:
    """Go back to what was in production before. At last that is plain RAG (0). A running server follows by itself."""
    from raft.api import registry as api

    show(api.rollback(run, by=by, because=because, to=to), as_json, lambda line: _changed(line, run))


@registry.command()
@RUN
@_ID
@_BY
@_BECAUSE
@JSON
@acting
def retire(*, run: Path, version: str, by: str, because: str, as_json: bool) -> None:
    """Take version ID out of use; its files stay."""
    from raft.api import registry as api

    line = api.retire(run, version, by=by, because=because)
    show(line, as_json, lambda line: f"{line['version']} is retired\n{_next(run, 'list')}")


@registry.command()
@RUN
@JSON
@acting
def log(run: Path, as_json: bool) -> None:
    """Print who put which version where, when and why. The oldest line comes first."""
    from raft.api import registry as api

    found = api.log(run)
    for line in found:
        show(line, as_json, _said)
    if not found:
        echo(f"nothing was ever promoted\n{_next(run, 'list')}", err=True)


@registry.command()
@RUN
@click.option("--mlflow", "url", required=True, metavar="URL", help="The address of an MLflow server.")
@click.option("--name", metavar="NAME", help="Of the registered model there.  [default: the run's folder]")
@JSON
@acting
def push(run: Path, url: str, name: str | None, as_json: bool) -> None:
    """Mirror the versions of RUN to an MLflow server. Cards and figures go with them, no document or question."""
    from raft.api import registry as api

    show(api.push(run, url, name=name), as_json, _pushed)


def _changed(line: Mapping[str, Any], run: Path) -> str:
    former = line["former"]
    stood = f", in the place of {_named(former)}" if former and former != line["version"] else ""
    text = f"{_named(line['version'])} is in production since {_when(line['at'])}, by {line['who']}{stood}"
    if before := line.get("was_retired"):
        text += f"\nit was retired before, on {_when(before['at'])}, by {before['who']}{_why(before['why'])}"
    return f"{text}\n{_next(run, 'log')}"


def _next(run: Path, command: str) -> str:
    return f"  next:  raft registry {command} {typed(run)}"


def _named(version: str) -> str:
    return "0 (plain RAG)" if version == "0" else version


def _when(at: str) -> str:
    return f"{at[:16].replace('T', ' ')} UTC"


def _tried(facts: Mapping[str, Any]) -> str:
    shares = {"of conversations meet it": facts["share"], "of requests are answered by both": facts["shadow"]}
    return ", ".join(f"{100 * share:g} percent {words}" for words, share in shares.items() if share) or "on nothing yet"


def _table(found: Sequence[Mapping[str, Any]], run: Path) -> str:
    width = max(len("version"), *(len(one["id"]) for one in found))
    lines = [f"  {'version':<{width}}  {'kind':<8} {'digest':<12}  {'verdict':<14} {'gain':>6}  approved by"]
    for one in found:
        gain = f"{100 * one['gain']['value']:+.1f}" if one["gain"] else ""
        kind, verdict = "plain" if one["kind"] == "rag" else one["kind"], one["verdict"] or "-"
        state = [*(alias.upper() if alias == "production" else alias for alias in one["aliases"])]
        state += ["retired"] * one["retired"] + [one["lacks"]] * bool(one["lacks"])
        told = f"   {', '.join(state)}" if state else ""
        line = f"  {one['id']:<{width}}  {kind:<8} {one['digest'][:12] or '-':<12}  {verdict:<14} {gain:>6}  "
        lines.append(f"{line}{one['approved_by'] or '-'}{told}")
    stands = next((one for one in found if "since" in one), None)
    tried = next((one for one in found if "share" in one), None)
    if stands:
        lines += ["", f"  in production since {_when(stands['since'])}, by {stands['by']}{_why(stands['because'])}"]
        lines += [f"  {tried['id']} is tried: {_tried(tried)}"] if tried else []
        return "\n".join(lines)
    best = next((one for one in reversed(found) if one["kind"] != "rag"), found[0])
    tuned = any(one["kind"] == "adapter" for one in found)
    answers = "with the current adapter" if tuned else "untuned, as version 0"
    lines += ["", f"  nothing is in production: a server answers {answers}"]
    if best["kind"] == "rag" or best["verdict"]:
        return "\n".join([*lines, f"  next:  raft registry promote {typed(run)} {best['id']} --by {me()}"])
    flag = "adapter" if best["kind"] == "adapter" else "version"
    return "\n".join([*lines, f"  next:  raft bench {typed(run)} --{flag} {best['id']}"])


def _one(facts: Mapping[str, Any], run: Path) -> Iterator[str]:
    state = ", ".join([*facts["aliases"], *["retired"] * facts["retired"]])
    kind = {"rag": "plain RAG", "adapter": "an adapter", "gguf": "a GGUF file", "4bit": "a model in 4 bits"}
    made = f", made of adapter {facts['adapter']}" if facts["adapter"] not in (None, facts["id"]) else ""
    yield f"{facts['id']}: {kind.get(facts['kind'], 'a merged model')} of {PurePath(facts['model']).name}{made}"
    yield f"  state     {state or 'neither in production nor tried'}"
    if facts["path"]:
        yield f"  where     {run}/{facts['path']}"
        yield f"  digest    {facts['digest'] or '-'}"
    if facts["lacks"]:
        yield f"  ! {facts['lacks']}"
    if facts["kind"] != "rag":  # which needs nobody's approval
        yield f"  approved  {facts['approved_by'] or 'by nobody yet'}"
    gain = f", {figures.full(facts['gain'], signed=True)} points" if facts["gain"] else ""
    yield (
        f"  verdict   {facts['verdict']}{gain} ({facts['measured']})"
        if facts["verdict"]
        else "  verdict   not measured"
    )
    for title, sets in {facts["id"]: facts["figures"], **facts["compared"]}.items():
        for name, scores in sets.items():
            told = ", ".join(f"{MEASURES[measure].title} {figures.full(one)}" for measure, one in scores.items())
            yield f"    {title} on {name}: {told}"
    for line in facts["history"]:
        yield f"  {_said(line)}"
    if not facts["verdict"] and facts["kind"] != "rag":
        flag = "adapter" if facts["kind"] == "adapter" else "version"
        yield f"  next:  raft bench {typed(run)} --{flag} {facts['id']}"


def _said(line: Mapping[str, Any]) -> str:
    what = {
        "register": "was made",
        "promote": "put into production",
        "rollback": "gone back to",
        "candidate": "tried",
        "withdraw": "not tried any more",
        "retire": "retired",
    }[line["action"]]
    text = f"{line['line']:>4}  {_when(line['at'])}  {_named(line['version'])} {what}, by {line['who']}"
    text += f": {_tried(line)}" if line["action"] == "candidate" else ""
    if line["action"] in ("promote", "rollback"):
        text += f", in the place of {_named(line['former'])}" if line["former"] else ""
        if line["version"] != "0":
            report = f" (report {line['report'][:12]})" if line["report"] else ""
            approved = f"approved by {line['approved_by']}" if line["approved_by"] else "approved by nobody"
            text += f"; verdict {line['verdict'] or 'none'}{report}, {approved}"
    return text + _why(line["why"])


def _why(because: str) -> str:
    return f"\n      because: {because}" if because else ""


def _pushed(facts: Mapping[str, Any]) -> str:
    counts = f"{len(facts['new'])} new, {len(facts['changed'])} changed, {len(facts['same'])} as they were"
    aliases = ", ".join(f"{alias} {one}" for alias, one in facts["aliases"].items() if one) or "none"
    return f"Versions of the registered model {facts['name']} at {facts['url']}: {counts}; aliases: {aliases}"


def exported(run: Path, made: Path) -> Iterator[str]:
    """Yield what is said of a model that was exported: which version it is, or that the registry could not note it."""
    from raft.api import registry as api

    version = api.version_at(run, made)
    if version is None:
        yield "it is no version: the run's registry cannot be written or read, so it cannot be promoted"
    else:
        yield f"it is version {version}; raft bench {typed(run)} --version {version} measures it beside the adapter"


def answers(run: Path, model: str, adapter: str | None) -> str:
    """Return in words what answers: a model with its adapter, untuned, or a version that is a model of its own."""
    from raft.api import registry as api

    if adapter is not None:
        return f"{model}, adapter {adapter}"
    found = api.version_at(run, Path(model))
    if found is None:
        return f"{model}, adapter none"
    digest = api.shown(run, found)["digest"]
    return f"{model}, which is version {found} (digest {digest[:12]})"


def in_production(facts: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield what `raft status` says of the registry; `facts` are those of `store.registry.told`."""
    if facts is None:
        return
    if "lacks" in facts:
        yield from ("", *(f"  {line}" for line in facts["lacks"].splitlines()))
    elif facts["production"]:
        why = f": {facts['because']}" if facts["because"] else ""
        version = _named(facts["production"]["id"])
        yield from ("", f"  in production: {version} since {_when(facts['since'])}, by {facts['by']}{why}")
    if facts.get("candidate"):
        yield f"  {facts['candidate']['id']} is tried: {_tried(facts)}"


@registry.command()
@RUN
@click.option("--version", metavar="ID", help="The candidate.  [default: that of now, else the last in the shadow]")
@click.option("--pairs", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option("--out", type=Place(), metavar="FILE", help="The page.  [default: pairs.html in RUN]")
@click.option("--ratings", type=Place(), metavar="FILE", help="What an expert chose, as the page saved it.")
@JSON
@acting
def pairs(*, run: Path, version: str | None, count: int, out: Path | None, ratings: Path | None, as_json: bool) -> None:
    """Write a page of blind pairs, of production and candidate.

    They hold what both said to users' questions, the candidate in the shadow.

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
        f"  of about {facts['meant']:,} replies that {facts['candidate']} was to answer unseen, it answered "
        f"{facts['shadowed']:,}; {facts['given_up']:,} were given up (an error, or others waited); alike answers and a "
        "question's earlier ones make no pair\n"
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
            f"\nwhere one was better it was the candidate's in {figures.share(won['value'])} percent (95 % interval "
            f"{figures.share(won['low'])} to {figures.share(won['high'])}, sign test p = {facts['sign_test']:.2g})"
        )
    better = facts["wins"] > facts["losses"]
    return f"{told}\n  next:  raft registry {'promote' if better else 'show'} {typed(run)} {facts['candidate']}" + (
        f" --by {me()}" if better else ""
    )
