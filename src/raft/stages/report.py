"""Scores -> one self-contained HTML page for a person, and a Markdown summary for a pull request.

Both are pure functions of what `benchmark.json` holds. The page is complete without a script but for its table of
questions; every word of a corpus or a model goes through `raft.pages`, which escapes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raft import plots
from raft.measures import MEASURES
from raft.pages import Html, code_spans, embed, fill, join, sections, table, tag, text
from raft.pages.figures import (
    DECISIONS,
    NOT_MEASURED,
    amount,
    documents_shown,
    duration,
    few,
    full,
    known,
    measured,
    share,
    spread,
)
from raft.pages.markdown import markdown

__all__ = ["html", "markdown"]
Facts = Mapping[str, Any]
_SCORES, _FAILURES = (
    [name for name, one in MEASURES.items() if one.shown == where] for where in ("scores", "failures")
)
_SIGNS = {"ship": "✔", "investigate": "?", "keep plain RAG": "■", "not tuned yet": "○"}


def html(facts: Facts) -> str:
    """Return the report as one page that loads nothing.

    Args:
        facts: what `benchmark.json` holds; what was not measured is None there, and is said to be.
    """
    return fill(
        "report",
        title=f"{_name(facts['run'])}: {_decision(facts)[0]}",
        run=_name(facts["run"]),
        about=_about(facts),
        verdict=_verdict(facts),
        arms=_arms(facts),
        failures=_failures(facts),
        capability=sections.capability(facts),
        training=sections.training(facts),
        cost=sections.cost(facts),
        tuning=sections.tuning(facts),
        blind=sections.blind(facts),
        sets=sections.question_sets(facts),
        setup=sections.setup(facts),
        compared=f"Outcome and difference compare the {_compared(facts)} of the two answers",
        questions=amount(len(facts["questions"]), digits=0),
        data=embed(_rows(facts)),
    )


def _name(run: str) -> str:
    return run.rstrip("/").rpartition("/")[2] or run


def _about(facts: Facts) -> Html:
    parts = [facts["date"], f"raft {facts['raft']}", facts["hardware"], documents_shown(facts)]
    if known(facts.get("seconds")):
        parts.append(f"measured in {duration(facts['seconds'])}")
    return join([part for part in parts if part], " · ")


def _decision(facts: Facts) -> tuple[str, str]:
    decision = facts["verdict"]["decision"]
    return DECISIONS.get(decision, (str(decision), ""))


def _compared(facts: Facts) -> str:
    return MEASURES["exact_match" if facts["verdict"]["measure"] == "accuracy" else "f1"].title


def _set_names(facts: Facts) -> list[str]:
    """Return the names of the question sets that an arm answered, that of the verdict first."""
    first = facts["verdict"].get("question_set")
    names = dict.fromkeys([first, *(one["name"] for one in facts["question_sets"])])
    return [name for name in names if any(name in arm["sets"] for arm in facts["arms"])]


def _scores(arm: Facts, question_set: str, *within: str) -> Any:
    """Return the interval at `within` of an arm's scores on a set; None where something on the way is missing."""
    found = arm["sets"].get(question_set)
    for key in within:
        found = (found or {}).get(key)
    return found


def _dot(label: str, interval: Facts | None, role: str, *, signed: bool = False) -> plots.Dot:
    if interval is None or not measured(interval):
        return plots.Dot(label, NOT_MEASURED, None, None, None, role)
    low, high = (100 * interval[key] if known(interval.get(key)) else None for key in ("low", "high"))
    shown = share(interval["value"], signed=signed)
    return plots.Dot(label, shown, 100 * interval["value"], low, high, role, few(interval))


def _verdict(facts: Facts) -> Html:
    verdict = facts["verdict"]
    headline, meaning = _decision(facts)
    sign = tag("span", _SIGNS.get(verdict["decision"], "●"), class_="sign", aria_hidden="true")
    title = tag("h2", sign, " ", headline)
    reasons = tag("ul", *(tag("li", code_spans(reason)) for reason in verdict["reasons"]))
    next_step = tag("p", code_spans(verdict["advice"] or "Nothing."))
    kind = {"ship": "good", "investigate": "unclear", "keep plain RAG": "plain"}.get(verdict["decision"], "open")
    why = tag("div", tag("h3", "What to do next"), next_step, tag("h3", "Why"), reasons)
    halves = tag("div", tag("div", tag("p", meaning), *_gain(facts)), why, class_="halves")
    return tag("section", title, halves, class_=f"verdict {kind}", id="verdict")


def _gain(facts: Facts) -> Iterable[Html]:
    verdict, titles = facts["verdict"], sections.titles_of(facts)
    gain, measure = verdict.get("gain"), MEASURES[verdict["measure"]].title
    who = [titles.get(verdict.get(side), "an arm that was not measured") for side in ("contender", "baseline")]
    if not measured(gain):
        yield tag("p", f"Gain over {who[1]}: {NOT_MEASURED}.")
        return
    size = tag("span", share(gain["value"], signed=True), class_="size")
    bounds = f"{gain['groups']} documents: " if few(gain) else "95 % interval "
    unit = tag("span", f"{measure} points", tag("br"), bounds, spread(gain, signed=True), class_="unit")
    yield tag("p", size, " ", unit, class_="gain")
    based = f"{gain['questions']} questions on {gain['groups']} documents, question set “{verdict['question_set']}”"
    yield tag("p", tag("b", who[0]), " against ", tag("b", who[1]), f", answering the same {based}.")
    dot = replace(_dot("", gain, "contender", signed=True), shown="")
    words = f"Gain of {full(gain, signed=True)} {measure} points over the baseline"
    yield plots.dots([dot], title=words, reference=0.0, reference_label="no difference")


def _per_set(facts: Facts, make: Any) -> Html:
    """Return what `make` returns for each question set, those after the first folded."""
    first, *others = _set_names(facts) or [""]
    if not first:
        return tag("p", f"The arms: {NOT_MEASURED}.")
    folded = (tag("details", tag("summary", f"Question set “{name}”"), make(name)) for name in others)
    return join([make(first), *folded])


def _arms(facts: Facts) -> Html:
    def one(name: str) -> Html:
        measure = facts["verdict"]["measure"]
        found = [(arm, _scores(arm, name, measure)) for arm in facts["arms"] if name in arm["sets"]]
        found.sort(key=lambda pair: -pair[1]["value"] if measured(pair[1]) else 2.0)
        bases = [score for arm, score in found if sections.role_of(facts, arm["name"]) == "baseline"]
        base = next(filter(measured, bases), None)
        rows = [_dot(arm["title"], score, sections.role_of(facts, arm["name"])) for arm, score in found]
        words = f"{MEASURES[measure].title} of each arm on the question set “{name}”, with 95 % intervals"
        line = f"baseline {share(base['value'])}" if base else ""
        at = 100 * base["value"] if base else None
        both = [
            tag("div", plots.dots(rows, title=words, reference=at, reference_label=line, beside=beside), class_=way)
            for way, beside in (("beside", True), ("above", False))
        ]
        figure = tag("figure", tag("figcaption", words + "."), *both)
        return join([figure, _scores_table(facts, name, _SCORES, "Scores", against=measure)])

    return _per_set(facts, one)


def _scores_table(facts: Facts, name: str, wanted: Sequence[str], what: str, *, against: str = "") -> Html:
    """Return the arms by their measures; a measure that no arm has is named under the table."""
    arms = [arm for arm in facts["arms"] if name in arm["sets"]]
    there = [key for key in wanted if any(measured(_scores(arm, name, key)) for arm in arms)]
    head: list[object] = ["Arm", *(tag("abbr", MEASURES[key].title, title=MEASURES[key].explained) for key in there)]
    rows = [[sections.arm_cell(facts, arm), *(sections.cell(_scores(arm, name, key)) for key in there)] for arm in arms]
    if against:
        head.insert(2, f"{MEASURES[against].title} against the baseline")
        for row, arm in zip(rows, arms, strict=True):
            base = sections.role_of(facts, arm["name"]) == "baseline"
            row.insert(2, text("–") if base else sections.cell(_scores(arm, name, "against", against), signed=True))
    missing = [MEASURES[key].title for key in wanted if key not in there]
    made = table(f"{what}, question set “{name}”", head, rows)
    return join([made, tag("p", f"Not measured: {', '.join(missing)}.", class_="note")]) if missing else made


def _failures(facts: Facts) -> Html:
    headroom = facts["verdict"].get("headroom")
    if headroom:
        golden, retrieved, missed = (share(headroom.get(key)) for key in ("golden", "retrieved", "missed"))
        room = {"with the right text given": golden, "with what search brings": retrieved}
        room["% of questions whose text search missed"] = missed
        items = [tag("div", tag("dt", label), tag("dd", sections.plain(value))) for label, value in room.items()]
        shown = join([tag("p", "What the untuned model scores, and so where there is room:"), tag("dl", *items)])
    else:
        shown = tag("p", f"Headroom: {NOT_MEASURED}.")
    tables = _per_set(facts, lambda name: _scores_table(facts, name, _FAILURES, "Refusals, quotes and figures"))
    meanings = [
        tag("div", tag("dt", one.title), tag("dd", one.explained)) for one in map(MEASURES.__getitem__, _FAILURES)
    ]
    legend = tag("details", tag("summary", "What these mean"), tag("dl", *meanings, class_="legend"))
    return join([tag("h3", "Headroom"), shown, tag("h3", "Retrieval"), sections.retrieval(facts),
                 tag("h3", "Answers"), tables, legend])  # fmt: skip


def _rows(facts: Facts) -> dict[str, Any]:
    """Return what the page's script shows; answers as lists, since there may be tens of thousands."""
    keys = ("condition", "answer", "quotes", "f1", "exact_match", "abstained", "supported", "why")
    rows = [
        [row["question_id"], row["question_set"], row["question"], row.get("document"), row.get("references") or [],
         row.get("golden") or "", row.get("retrieved_bearing"),
         {arm: [found.get(key) for key in keys] for arm, found in row["answers"].items()}]
        for row in facts["questions"]
    ]  # fmt: skip
    verdict = facts["verdict"]
    said = {arm: None for row in facts["questions"] for arm in row["answers"]}
    titles = sections.titles_of(facts)
    order = [name for name in titles if name in said] + [name for name in said if name not in titles]
    chosen = {side: verdict.get(side) if verdict.get(side) in said else None for side in ("contender", "baseline")}
    arms = [[name, titles.get(name, name)] for name in order]
    return {"measure": verdict["measure"], **chosen, "arms": arms, "rows": rows}
