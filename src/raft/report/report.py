"""Scores -> one self-contained HTML page for a person, and a Markdown summary for a pull request.

Both are pure functions of what `benchmark.json` holds. The page is complete without a script but for its table of
questions; every word of a corpus or a model goes through `raft.report.page`, which escapes it.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import PureWindowsPath
from typing import Any

from markupsafe import Markup

from raft.report.figures import (
    DECISIONS,
    NOT_MEASURED,
    documents_shown,
    duration,
    few,
    full,
    known,
    left_out,
    measured,
    share,
)
from raft.report.measures import MEASURES
from raft.report.page import embed, fill, render

Facts = Mapping[str, Any]
_LONGEST = 40  # characters of a label that fit a telephone, or the space beside the dots


@dataclass(frozen=True)
class Dot:
    """A row of a dot-and-whisker plot: what was measured, its value as text, and value and bounds in the plot's unit.

    Without a value there is no dot, without a bound no whisker. `role` is "contender", "baseline" or "other"; with too
    `few` documents to tell, the dot is hollow and the whisker dashed.
    """

    label: str
    shown: str
    value: float | None
    low: float | None
    high: float | None
    role: str = "other"
    few: bool = False

    @property
    def short(self) -> str:
        """The label, cut where it is too long to be drawn."""
        return self.label if len(self.label) <= _LONGEST else self.label[: _LONGEST - 1] + "…"


def dots(
    rows: Sequence[Dot], *, title: str, reference: float | None = None, reference_label: str = "", beside: bool = False
) -> Markup:
    """Return a horizontal dot-and-whisker plot, one row a dot from top to bottom.

    `title` is for those who cannot see it; a dashed vertical line stands at `reference`; labels stand `beside` the
    dots, for a plot of 800 pixels or more, or above them.
    """
    values = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    marks = ticks([*values, *([] if reference is None else [reference])])
    scale = Scale(marks[0], marks[-1], *((33, 58) if beside else (3, 94)))
    row_height, label_at, dot_at = (28, 18, 14) if beside else (36, 12, 25)
    share = scale.share(reference or 0.0)
    top = 20 if reference_label else 4
    return render(
        "dots.svg",
        rows=rows,
        title=title,
        marks=marks,
        scale=scale,
        reference=reference,
        reference_label=reference_label,
        anchor="start" if share < 0.3 else "middle" if share < 0.7 else "end",
        row_height=row_height,
        label_at=label_at,
        dot_at=dot_at,
        top=top,
        end=top + len(rows) * row_height,
    )


def curve(
    train: Sequence[tuple[float, float]], valid: Sequence[tuple[float, float]], *, title: str, best: float | None = None
) -> Markup:
    """Return a loss curve: a line for training, a dashed line with dots for validation, over the steps.

    Both series hold (step, loss) in the order of the steps; `best` is the step whose weights were kept.
    """
    points = [point for point in (*train, *valid) if all(math.isfinite(number) for number in point)]
    steps, losses = ticks([step for step, _ in points]), ticks([loss for _, loss in points])
    across, up = Scale(steps[0], steps[-1], 9, 88), Scale(losses[0], losses[-1], 86, -80)
    return render(
        "curve.svg",
        title=title,
        steps=steps,
        losses=losses,
        across=across,
        up=up,
        best=best if best is not None and steps[0] <= best <= steps[-1] else None,
        lines={"train": _points(train, across, up), "valid": _points(valid, across, up)},
        dotted=[point for point in valid if point in points] + (list(train) if len(train) == 1 else []),
    )


def _points(series: Iterable[tuple[float, float]], across: "Scale", up: "Scale") -> str:
    return " ".join(
        f"{1000 * across.share(step):.1f},{1000 - 1000 * up.share(loss):.1f}"
        for step, loss in series
        if math.isfinite(step) and math.isfinite(loss)
    )


def ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """Return about `count` round numbers, evenly spaced, from under the least to above the greatest of `values`.

    Steps are 1, 2 or 5 times a power of ten (Heckbert, "Nice Numbers for Graph Labels", Graphics Gems, 1990).
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """From a value to a percentage: `low` stands at `begin` percent, `high` is `length` percent further."""

    low: float
    high: float
    begin: float
    length: float

    def share(self, value: float) -> float:
        """Return how far from low to high a value is, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def __call__(self, value: float) -> str:
        """Return the place of a value."""
        return f"{self.begin + self.length * self.share(value):.2f}%"


def markdown(facts: Facts) -> str:
    """Return the summary of a benchmark as GitHub Markdown; `facts` as for `html`."""
    facts = _shareable(facts)
    about = [facts["run"], facts["date"], f"raft {facts['raft']}", facts["hardware"], documents_shown(facts)]
    points = (facts.get("training") or {}).get("curve") or []
    name = facts["verdict"]["question_set"]
    made = render(
        "summary.md",
        **_common(facts),
        arms=[system for system in facts["arms"] if system["sets"].get(name) is not None],
        titles={measure: one.title for measure, one in MEASURES.items()},
        beside=("rouge_l" if _long(facts, name) else "exact_match", "false_answers", "false_refusals"),
        loss=min((one["valid_loss"] for one in points if known(one.get("valid_loss"))), default=None),
        about=", ".join(str(one) for one in about if one),
        left_out=left_out(facts),
    )
    return f"{made}\n"


def _long(facts: Facts, name: str) -> bool:
    return any(one["name"] == name and one.get("long_answers") for one in facts["question_sets"])


def _common(facts: Facts) -> dict[str, Any]:
    verdict = facts["verdict"]
    headline, meaning = DECISIONS.get(verdict["decision"], (str(verdict["decision"]), ""))
    titles = {system["name"]: system["title"] for system in facts["arms"]}
    sides = {side: titles.get(verdict.get(side), "a system not measured") for side in ("contender", "baseline")}
    cuts = {cut for found in (facts.get("retrieval") or {}).values() for cut in found["recall"]}
    said = {"facts": facts, "headline": headline, "meaning": meaning, "roles": _roles(verdict)}
    return {**said, **sides, "cuts": sorted(cuts, key=int)}


_SIGNS = {
    "ship": ("good", "✔"),
    "investigate": ("unclear", "?"),
    "keep plain RAG": ("plain", "■"),
    "not tuned yet": ("open", "○"),
}


def html(facts: Facts) -> str:
    """Return the report as one page that loads nothing.

    `facts` is what `benchmark.json` holds; what was not measured is None there, and is said to be.
    """
    facts = _shareable(facts)
    verdict, common = facts["verdict"], _common(facts)
    tone, sign = _SIGNS.get(verdict["decision"], ("open", "●"))
    unasked = {"bleu"} - {key for arm in facts["arms"] for own in arm["sets"].values() for key in own or {} if own[key]}
    measures = {name: (one.title, one.explained) for name, one in MEASURES.items() if name not in unasked}
    return fill(
        "report",
        **{**common, "cuts": {cut: f"found in the first {cut}" for cut in common["cuts"]}},
        title=f"{_name(facts['run'])}: {common['headline']}",
        run=_name(facts["run"]),
        about=_about(facts),
        tone=tone,
        sign=sign,
        titles={system["name"]: system["title"] for system in facts["arms"]},
        measures=measures,
        score_measures={name: told for name, told in measures.items() if MEASURES[name].shown == "scores"},
        failure_measures={name: measures[name] for name, one in MEASURES.items() if one.shown == "failures"},
        gain_plot=_gain_plot(verdict),
        sets=[_question_set(facts, name) for name in _set_names(facts)],
        curve=_curve(facts.get("training") or {}),
        compared=measures["exact_match" if verdict["measure"] == "accuracy" else "f1"][0],
        data=embed(_rows(facts)),
        left_out=left_out(facts),
        earlier=facts.get("earlier") or [],
    )


def rows_as_csv(facts: Facts) -> str:
    """Return every answer of a benchmark as CSV, a row a question and system; what a spreadsheet would run is text."""
    made, titles = StringIO(), {system["name"]: system["title"] for system in facts["arms"]}
    own = ("answer", "f1", "exact_match", "abstained", "supported", "why")
    table = csv.writer(made, lineterminator="\n")
    asked = ("question_set", "question_id", "question", "document", "references", "search_found_it")
    table.writerow([*asked, "system", "condition", *own, "quotes", "shown"])
    known = facts.get("passages") or {}
    for row in facts["questions"]:
        about = [row["question_set"], row["question_id"], row["question"], row.get("document")]
        about += ["\n".join(row.get("references") or []), row.get("retrieved_bearing")]
        for system, said in row["answers"].items():
            shown = [_place(known[one]) if one in known else one for one in said.get("shown") or []]
            cells = [*about, titles.get(system, system), said["condition"], *(said.get(name) for name in own)]
            table.writerow(map(_cell, [*cells, "\n".join(said.get("quotes") or []), "\n".join(shown)]))
    return (
        "\ufeff" + made.getvalue().encode("utf-8", "replace").decode()
    )  # the mark tells spreadsheets that it is UTF-8


def _cell(value: Any) -> Any:
    # a spreadsheet runs what begins so (OWASP, "CSV Injection"), but for a bare figure or words
    runs = isinstance(value, str) and value[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"[+-][\w.,%° ]*", value)
    return f"'{value}" if runs else value


def _place(passage: Facts) -> str:
    page = f", page {passage['page']}" if passage.get("page") else ""
    return f"{passage['document']}{page}: {passage['title']}"


def _shareable(facts: Facts) -> Facts:
    """Return facts in which the run and models that lie at absolute paths are called by their last part alone."""
    training = facts.get("training") or {}
    named = {str(facts["run"]), str(training.get("base")), *(str(system["model"]) for system in facts["arms"])}
    named |= {part for one in (facts.get("capability") or {}).values() for part in str(one["title"]).split()}
    paths = sorted((one for one in named if absolute(one)), key=len, reverse=True)

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {told(name): told(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [told(one) for one in value]
        for path in paths if isinstance(value, str) else ():
            value = value.replace(path, PureWindowsPath(path).name)
        return value

    return told(facts) if paths else facts  # type: ignore[no-any-return]


def absolute(path: str) -> bool:
    """Tell whether a path says where on a machine something lies."""
    return path.startswith(("/", "~", "\\")) or PureWindowsPath(path).is_absolute()


def _name(run: str) -> str:
    return run.rstrip("/").rpartition("/")[2] or run


def _about(facts: Facts) -> str:
    parts = [facts["date"], f"raft {facts['raft']}", facts["hardware"], documents_shown(facts)]
    if known(facts.get("seconds")):
        parts.append(f"measured in {duration(facts['seconds'])}")
    return " · ".join(part for part in parts if part)


def _roles(verdict: Facts) -> dict[str, str]:
    return {verdict[side]: side for side in ("baseline", "contender") if verdict.get(side)}


def _set_names(facts: Facts) -> list[str]:
    """Return the names of the question sets that a system answered, that of the verdict first."""
    first = facts["verdict"].get("question_set")
    names = dict.fromkeys([first, *(one["name"] for one in facts["question_sets"])])
    return [name for name in names if any(name in system["sets"] for system in facts["arms"])]


def _dot(label: str, interval: Facts | None, role: str, *, signed: bool = False) -> Dot:
    if interval is None or not measured(interval):
        return Dot(label, NOT_MEASURED, None, None, None, role)
    low, high = (100 * interval[key] if known(interval.get(key)) else None for key in ("low", "high"))
    shown = share(interval["value"], signed=signed)
    return Dot(label, shown, 100 * interval["value"], low, high, role, few(interval))


def _gain_plot(verdict: Facts) -> Markup | None:
    gain = verdict.get("gain")
    if not measured(gain):
        return None
    rows = [replace(_dot("", gain, "contender", signed=True), shown="")]
    if measured(verdict.get("form")) and measured(verdict.get("substance")):
        rows = [_dot("gain", gain, "contender", signed=True)]
        rows += [_dot(f"of {part}", verdict[part], "other", signed=True) for part in ("form", "substance")]
    words = f"Gain of {full(gain, signed=True)} {MEASURES[verdict['measure']].title} points over the baseline"
    return dots(rows, title=words, reference=0.0, reference_label="no difference")


def _question_set(facts: Facts, name: str) -> dict[str, Any]:
    """Return the systems that answered a question set, what they were measured by, and a plot for either width."""
    verdict, arms = facts["verdict"], [system for system in facts["arms"] if name in system["sets"]]
    measure, roles = verdict["measure"], _roles(verdict)
    scored: list[tuple[Facts, Any]] = [(system, (system["sets"][name] or {}).get(measure)) for system in arms]
    scored.sort(key=lambda pair: -pair[1]["value"] if measured(pair[1]) else 2.0)
    rows = [_dot(system["title"], score, roles.get(system["name"], "other")) for system, score in scored]
    bases = [score["value"] for system, score in scored if roles.get(system["name"]) == "baseline" and measured(score)]
    line = {"reference": 100 * bases[0], "reference_label": f"baseline {share(bases[0])}"} if bases else {}
    caption = f"{MEASURES[measure].title} of each system on the question set “{name}”, with 95 % intervals"
    return {
        "name": name,
        "arms": arms,
        "there": [key for key in MEASURES if any(measured((system["sets"][name] or {}).get(key)) for system in arms)],
        "caption": caption,
        "beside": dots(rows, title=caption, beside=True, **line),
        "above": dots(rows, title=caption, beside=False, **line),
    }


def _curve(training: Facts) -> Markup | None:
    points = training.get("curve") or []
    train, valid = ([(p["step"], p[key]) for p in points if known(p.get(key))] for key in ("loss", "valid_loss"))
    if not (train or valid):
        return None
    return curve(train, valid, title="Loss by step", best=training.get("best_step"))


def _rows(facts: Facts) -> dict[str, Any]:
    """Return what the page's script shows; answers as lists, since there may be tens of thousands."""
    keys = ("condition", "answer", "quotes", "f1", "exact_match", "abstained", "supported", "why", "shown")
    rows = []
    for row in facts["questions"]:
        answers = {system: [found.get(key) for key in keys] for system, found in row["answers"].items()}
        asked = [row["question_id"], row["question_set"], row["question"], row.get("document")]
        right = [row.get("references") or [], row.get("golden") or "", row.get("retrieved_bearing")]
        rows.append([*asked, *right, answers])
    verdict = facts["verdict"]
    said = {system: None for row in facts["questions"] for system in row["answers"]}
    titles = {system["name"]: system["title"] for system in facts["arms"]}
    order = [name for name in titles if name in said] + [name for name in said if name not in titles]
    chosen = {side: verdict.get(side) if verdict.get(side) in said else None for side in ("contender", "baseline")}
    arms = [[name, titles.get(name, name)] for name in order]
    places = {
        name: [_place(one), one["text"] or "(the text is in chunks.parquet)"]
        for name, one in (facts.get("passages") or {}).items()
    }
    return {"measure": verdict["measure"], **chosen, "arms": arms, "rows": rows, "passages": places}
