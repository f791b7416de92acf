"""What watching a run found, in words and as one page; `facts` is what `raft.api.monitoring.monitor` returns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from markupsafe import Markup

from raft.errors import me, pasted, typed
from raft.report.figures import full, share, spread
from raft.report.measures import MEASURES
from raft.report.page import fill, render
from raft.report.report import Scale, absolute, ticks

Facts = Mapping[str, Any]
TRAFFIC = "The traffic alone was looked at."
TOO_FEW = "nothing can be told of so few"
RATES = {
    "unsupported": "unsupported, of those that can be checked",
    "abstained": "abstained",
    "failed": "failed",
    "slow": "slow",
}
"""The rates of replies in words."""
_STATES = {
    "act": "certain: retrain or go back",
    "look": "certain: look into it",
    "perhaps": "and it may be nothing",
}
_SIGNS = {"act": ("act", "▼"), "look": ("unclear", "!"), "perhaps": ("unclear", "?"), "fine": ("good", "✔")}
_ROLES = ("contender", "baseline", "other")


def headline(facts: Facts) -> str:
    """Return what was found in one line."""
    point = facts["measure"]
    if facts["not_measured"] or point is None:
        return "Not measured." if facts["not_measured"] else TRAFFIC
    change, state = point["change"], point["state"]
    if state == "first" or change is None:
        return "The first measure: later ones are compared with it."
    moved = change["difference"]["value"]
    if state == "fine":
        return f"No fall that counts ({share(moved, signed=True)} points)."
    return f"Fell by {100 * abs(moved):.1f} points, {_STATES[state]}."


def sentences(facts: Facts) -> list[str]:
    """Return what was found of what production answers, a sentence each; no sentence of the traffic."""
    missing = facts["not_measured"]
    if missing:
        return [missing["what"]]
    point = facts["measure"]
    if point is None:
        return []
    found = [_measured(point, asked=facts["asked"]), *_compared(facts, point)]
    if point["lost"]:
        found.append(f"{point['lost']} questions were not answered, and count neither way.")
    if facts["acted"]:
        done = facts["acted"]
        found.append(
            f"Plain RAG is in production again: {done['why']}." if done["done"] else f"Nothing was done: {done['why']}."
        )
    return found


def _measured(point: Facts, *, asked: int) -> str:
    when = datetime.fromtimestamp(point["at"], UTC).isoformat(" ", "minutes")[:16]
    how = f"{asked} asked" if asked else f"nothing has changed since {when} UTC, and nobody was asked"
    title = MEASURES[point["measure"]].title
    which = "plain RAG" if point["version"] == "0" else f"version {point['version']}"
    return f"{title} {full(point['value'])} on {point['count']} questions: {which}, {how}."


def _compared(facts: Facts, point: Facts) -> list[str]:
    change = point["change"]
    if change is None:
        return []
    found, then = change["difference"], next(one for one in facts["history"] if one["id"] == point["reference"])
    when = datetime.fromtimestamp(then["at"], UTC).date().isoformat()
    what = "the first measure of this version" if point["against"] == "itself" else f"version {then['version']} before"
    what = "the measure chosen as the reference" if then["reference_from_here"] and what[:3] == "the" else what
    chance = "" if found["value"] >= 0 else f"p {change['p']:.2g}, " if change["p"] >= 0.001 else "p < 0.001, "
    told = [
        f"{share(found['value'], signed=True)} points against {what} ({when}): {_interval(found)}, {chance}on "
        f"{found['questions']} questions.",
        f"Replies in other words: {change['replies']}; scores that fell: {change['worse']}; that rose: "
        f"{change['better']}.",
    ]
    names = {"index": "the index", "adapter_digest": "the adapter's files", "model": "the model", "version": "version"}
    if point["changed"]:
        told.append(f"Changed since: {', '.join(names[one] for one in point['changed'])}.")
        if "index" in point["changed"] and point["state"] in ("act", "look", "perhaps"):
            told.append("The documents are others: look whether the references are still right.")
    if point["needed"]:
        size = share(facts["look"])
        told.append(f"About {point['needed']:,} questions would tell a fall of {size} from none four times of five.")
    if change["replies"] and not point["changed"]:
        told.append("Nothing that the server tells has changed: chance, or a model behind an address that did.")
    return told


def _interval(found: Facts) -> str:
    return f"95 % interval {spread(found, signed=True)}" if found["groups"] >= 20 else spread(found)


def advice(facts: Facts) -> list[str]:
    """Return the commands to type next."""
    run, point = typed(facts["run"]), facts["measure"]
    if facts["not_measured"]:
        return [pasted(facts["not_measured"]["hint"])]
    state = point["state"] if point else ""
    if facts["acted"] and facts["acted"]["done"]:
        return [f"raft registry log {run}", f"raft train {run}"]
    back = [f"raft registry rollback {run} --to 0 --by {me()} --because 'it got worse'"]
    if state == "act":
        return [f"raft train {run}", *(back if point["version"] != "0" else [])]
    if state in ("look", "perhaps"):
        return [
            f"open {typed(facts['run'] + '/monitor.html')}",
            f"raft monitor {run} --reference   # if it is right so",
        ]
    return []


def traffic_lines(facts: Facts) -> list[str]:
    """Return what the traffic tells, a line each."""
    found = facts["traffic"]
    if found is None:
        return ["There is no traffic yet."]
    many = (
        f"{found['replies']:,} replies in {found['conversations']:,} conversations, {found['first']} to {found['last']}"
    )
    lines = [many if found["enough"] else f"{many}: {TOO_FEW}"]
    for one in found["rates"]["systems"] if found["enough"] else ():
        told = [f"{name} {full(one[name])}" for name in RATES if one[name]]
        lines.append(f"{_system(one)}: {', '.join(told) or TOO_FEW} of {one['replies']:,}")
    if found["without_vectors"]:
        lines.append(f"No vectors, and so neither drift nor topics: {found['without_vectors']}")
    lines += drift_lines(found)
    return lines


def drift_lines(found: Facts) -> list[str]:
    """Return whether people ask something else than was measured, or than before; nothing without vectors."""
    if found["without_vectors"]:
        return []
    whose = "people's" if found["by_people"] else "generated"
    lines = [
        _drifted(found["known"], f"{whose} questions that it is measured with"),
        _drifted(found["recently"], f"the days before the last {found['days']}"),
    ]
    if found["far"]:
        many = f"{full(found['far']['share'])} percent of the questions, and at most 5 of the held-out ones"
        lines.append(f"far from all that is indexed or trained on: {many}")
    return lines


def _drifted(found: Facts | None, than: str) -> str:
    if found is None:
        return f"what is asked against {than}: too few questions to tell"
    size = f"{found['mmd']:.4f}".replace("-", "−")
    told = f"MMD² {size}, p {found['p']:.3f}, {found['ours']} questions against {found['theirs']}"
    word = "differs from" if found["p"] <= 0.05 else "is not seen to differ from"
    return f"what is asked {word} {than} ({told})"


def _system(one: Facts) -> str:
    name = "plain RAG" if one["version"] == "0" else one["version"]
    return f"{one['arm']} {name}"


@dataclass(frozen=True)
class Line:
    """A line of a plot: its label, points (x, y) in order, whiskers (x, low, high), and a role for its look."""

    label: str
    points: Sequence[tuple[float, float]]
    whiskers: Sequence[tuple[float, float, float]] = ()
    role: str = "contender"
    dots: bool = True


def lines(
    rows: Sequence[Line],
    *,
    title: str,
    marks: Sequence[tuple[float, str]],
    guides: Sequence[tuple[float, str]] = (),
    least: Sequence[float] = (),
) -> Markup:
    """Return lines over an axis with named `marks`; `guides` are dashed and named, `least` is what the height holds."""
    heights = [y for row in rows for _, y in row.points]
    heights += [y for row in rows for _, low, high in row.whiskers for y in (low, high)]
    heights = [y for y in (*heights, *(y for y, _ in guides), *least) if math.isfinite(y)]
    ends = [x for row in rows for x, _ in row.points] + [x for x, _ in marks]
    first, last = min(ends, default=0.0), max(ends, default=1.0)
    steps = ticks(heights)
    beside = 0.03 * (last - first) or 1.0
    across = Scale(first - beside, last + beside, 9, 88)
    up = Scale(steps[0], steps[-1], 86, -80)
    shown = [
        (row, " ".join(f"{1000 * across.share(x):.1f},{1000 - 1000 * up.share(y):.1f}" for x, y in row.points))
        for row in rows
    ]
    return render("lines.svg", title=title, marks=marks, steps=steps, across=across, up=up, rows=shown, guides=guides)


def html(facts: Facts) -> str:
    """Return the page: complete without a script, and it loads nothing."""
    point = facts["measure"]
    tone, sign = _SIGNS.get(point["state"] if point else "", ("open", "○"))
    if facts["not_measured"]:
        tone, sign = "open", "–"
    name, found = _name(facts["run"]), facts["traffic"]
    if absolute(facts["run"]):  # who the page is sent to need not know where it lies
        missing = facts["not_measured"]
        missing = missing and {**missing, "hint": str(missing["hint"]).replace(facts["run"], name)}
        facts = {**facts, "run": name, "not_measured": missing}
    about = [facts["at"].replace("T", " ").replace("+00:00", " UTC"), f"raft {facts['raft']}"]
    return fill(
        "monitor",
        facts=facts,
        title=f"{name}: {headline(facts)}",
        run=name,
        about=" · ".join(about),
        tone=tone,
        sign=sign,
        headline=headline(facts),
        sentences=sentences(facts),
        advice=advice(facts),
        history=[_row(one) for one in reversed(facts["history"])],
        over_time=_over_time(facts),
        worst=facts.get("worst") or [],
        measure=MEASURES[point["measure"]].title if point else "",
        traffic=found,
        rates=RATES,
        systems=[(_system(one), one) for one in found["rates"]["systems"]] if found else [],
        rate_plots=_rate_plots(found) if found else [],
        drift=drift_lines(found) if found else [],
        nearness=_nearness(found["far"]) if found and found["far"] else None,
    )


def _name(run: str) -> str:
    return run.rstrip("/").rpartition("/")[2] or run


def _row(point: Facts) -> dict[str, Any]:
    change = point["change"]
    said = {"act": "retrain or go back", "look": "look into it", "perhaps": "may be nothing", "first": "first"}
    return {
        "when": datetime.fromtimestamp(point["at"], UTC).isoformat(" ", "minutes")[:16],
        "version": "plain RAG" if point["version"] == "0" else point["version"],
        "index": point["index"] or "",
        "value": point["value"],
        "questions": point["count"],
        "change": change["difference"] if change else None,
        "replies": change["replies"] if change else None,
        "said": said.get(point["state"], "fine")
        + ("; the reference from here on" if point["reference_from_here"] else ""),
    }


def _over_time(facts: Facts) -> tuple[Markup, list[tuple[str, str]], Markup | None] | None:
    """Return the scores of all measures, the names of their lines, and the differences from their references."""
    history = [one for one in facts["history"] if one["value"]]
    if not history:
        return None
    now = facts["measure"] or history[-1]
    history = [one for one in history if one["measure"] == now["measure"]]
    versions = list(dict.fromkeys(one["version"] for one in reversed(history)))
    scores, differences = [], []
    for number, version in enumerate(versions):
        own = [one for one in history if one["version"] == version]
        label, role = "plain RAG" if version == "0" else f"version {version}", _ROLES[min(number, 2)]
        scores.append(_line(label, role, [(one["at"], one["value"]) for one in own]))
        changes = [(one["at"], one["change"]["difference"]) for one in own if one["against"] == "itself"]
        differences += [_line(label, role, changes)] if changes else []
    marks, title = _dates([one["at"] for one in history]), MEASURES[now["measure"]].title
    guides = [(-100 * facts[name], f"{share(-facts[name])}: {what}") for name, what in _LIMITS]
    plot = lines(scores, title=f"{title} of each measure", marks=marks)
    what = f"Difference of each measure's {title} from that of its reference"
    beside = lines(differences, title=what, marks=marks, guides=guides, least=(0.0,)) if differences else None
    return plot, [(row.label, row.role) for row in scores], beside


def _line(label: str, role: str, values: Sequence[tuple[float, Facts]]) -> Line:
    points = [(at, 100 * one["value"]) for at, one in values]
    return Line(label, points, [(at, 100 * one["low"], 100 * one["high"]) for at, one in values], role)


_LIMITS = (("look", "look into it"), ("act", "retrain or go back"))


def _dates(times: Sequence[float]) -> list[tuple[float, str]]:
    """Return up to three places of a time axis with their dates: more do not fit a telephone."""
    first, last = min(times), max(times)
    places = [first] if last - first < 1 else [first, (first + last) / 2, last]
    named = [(one, datetime.fromtimestamp(one, UTC).date().isoformat()) for one in places]
    return [one for number, one in enumerate(named) if one[1] not in [name for _, name in named[:number]]]


def _rate_plots(found: Facts) -> list[tuple[str, Markup, list[tuple[str, str]]]]:
    """Return for each rate its plot over time and the names of its lines; the systems with most replies alone."""
    systems = sorted(found["rates"]["systems"], key=lambda one: -one["replies"])[: len(_ROLES)]
    plots = []
    for name, title in RATES.items():
        rows = []
        for role, system in zip(_ROLES, systems, strict=False):
            own = [
                (_seconds(one["begin"]), one[name])
                for one in found["rates"]["periods"]
                if (one["arm"], one["version"]) == (system["arm"], system["version"]) and one[name]
            ]
            if own:
                rows.append(_line(_system(system), role, own))
        if rows:
            what = f"{title} (over {found['slow']:g} s)" if name == "slow" else title
            times = [at for row in rows for at, _ in row.points]
            plot = lines(rows, title=f"Percent of replies {what}", marks=_dates(times), least=(0.0, 5.0))
            plots.append((f"{what}, a {found['rates']['period']}", plot, [(row.label, row.role) for row in rows]))
    return plots


def _seconds(day: str) -> float:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()


def _nearness(found: Facts) -> Markup:
    """Return how near questions are to what is nearest: of the traffic, and of those to measure with."""
    rows = []
    for name, label, role in (("asked", "asked by users", "contender"), ("known", "held out", "baseline")):
        values = found["quantiles"][name]
        points = [(value, 100 * place / (len(values) - 1)) for place, value in enumerate(values)]
        rows.append(Line(label, points, (), role, dots=False))
    ends = [x for row in rows for x, _ in row.points]
    marks = [(one, f"{one:g}") for one in ticks(ends, 4) if min(ends) <= one <= max(ends)]
    title = "Percent of questions whose nearest chunk or question is no nearer than this cosine"
    return lines(rows, title=title, marks=marks, least=(0.0, 100.0))
