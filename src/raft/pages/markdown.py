"""What a benchmark found, as Markdown for a pull request: short, and safe to paste whatever a name holds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raft.measures import MEASURES
from raft.pages import with_backticks
from raft.pages.figures import (
    DECISIONS,
    NOT_MEASURED,
    amount,
    documents_shown,
    duration,
    full,
    known,
    measured,
    money,
    share,
)

Facts = Mapping[str, Any]
_BESIDE = ("exact_match", "false_answers", "false_refusals")
_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&$])")


def markdown(facts: Facts) -> str:
    """Return the summary of a benchmark as GitHub Markdown.

    Args:
        facts: what `benchmark.json` holds; what was not measured is None there, and is said to be.
    """
    verdict = facts["verdict"]
    headline, meaning = DECISIONS.get(verdict["decision"], (str(verdict["decision"]), ""))
    parts = [f"## raft: {cell(headline)}", *_said(facts, meaning), *_arms(facts), *_capability(facts)]
    parts += [*_retrieval(facts), _training(facts), f"**Next:** {sentence(verdict['advice'] or 'nothing.')}"]
    about = [facts["run"], facts["date"], f"raft {facts['raft']}", facts["hardware"]]
    about = [str(one) for one in (*about, documents_shown(facts)) if one]
    return "\n\n".join([*parts, f"{cell(', '.join(about))}. Scores are times 100, with 95 % intervals."]) + "\n"


def cell(value: object) -> str:
    """Return a value as one line of plain text, in which nothing is markup or a table's border."""
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split()))


def sentence(value: object) -> str:
    """Return a sentence as one line in which nothing is markup but its code."""
    parts = with_backticks(" ".join(str(value).split())).split("`")
    if len(parts) % 2 == 0:
        return cell(value)
    return "".join(f"`{part}`" if number % 2 and part else cell_within(part) for number, part in enumerate(parts))


def cell_within(part: str) -> str:
    """Return a part of a line with its markup escaped, and its spaces as they are."""
    return _MARKUP.sub(r"\\\1", part)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose cells are one line each; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _said(facts: Facts, meaning: str) -> Iterator[str]:
    verdict = facts["verdict"]
    titles = {arm["name"]: arm["title"] for arm in facts["arms"]}
    who = [cell(titles.get(verdict.get(side), "an arm that was not measured")) for side in ("contender", "baseline")]
    gain, measure = verdict.get("gain"), MEASURES[verdict["measure"]].title
    if measured(gain):
        size = f"**{full(gain, signed=True)} {measure} points**: {who[0]} against {who[1]}"
        yield f"{cell(meaning)} {size}, on {gain['questions']} questions of {gain['groups']} documents.".strip()
    else:
        yield f"{cell(meaning)} Gain over {who[1]}: {NOT_MEASURED}.".strip()
    if verdict["reasons"]:
        yield "\n".join(f"- {sentence(reason)}" for reason in verdict["reasons"])


def _arms(facts: Facts) -> Iterator[str]:
    verdict = facts["verdict"]
    name, measure = verdict["question_set"], verdict["measure"]
    rows = []
    for arm in facts["arms"]:
        scores, latency = arm["sets"].get(name), arm.get("latency") or {}
        if scores is None:
            continue
        mark = {verdict.get("contender"): " (contender)", verdict.get("baseline"): " (baseline)"}.get(arm["name"], "")
        few = [value(scores.get(key)) for key in _BESIDE]
        median = amount(latency.get("median"), digits=2, unit=" s")
        rows.append([arm["title"] + mark, full(scores.get(measure)), *few, median, money(arm.get("cost_per_thousand"))])
    head = [
        "Arm",
        *(MEASURES[one].title for one in (measure, *_BESIDE)),
        "median latency",
        "cost of 1,000",
    ]
    if rows:
        yield f"Question set {cell(name)}:\n\n{table(head, rows)}"


def value(interval: Facts | None) -> str:
    """Return the value of an interval without its bounds."""
    return share(interval["value"]) if interval is not None and measured(interval) else NOT_MEASURED


def _capability(facts: Facts) -> Iterator[str]:
    found = facts.get("capability")
    if not found:
        yield f"General capability before and after tuning: {NOT_MEASURED}."
        return
    rows = [
        [one["title"], share(one["before"]), share(one["after"]), full(one["change"], signed=True)]
        for one in found.values()
    ]
    yield table(["General capability", "before", "after", "change"], rows)


def _retrieval(facts: Facts) -> Iterator[str]:
    found = facts.get("retrieval")
    if not found:
        yield f"Retrieval: {NOT_MEASURED}."
        return
    cuts = sorted({cut for one in found.values() for cut in one["recall"]}, key=int)
    rows = [
        [name, *(full(one["recall"].get(cut)) for cut in cuts), value(one["mrr"]), value(one["ndcg"]), one["bearing"]]
        for name, one in found.items()
    ]
    yield table(["Retrieval", *(f"in the first {cut}" for cut in cuts), "MRR", "nDCG", "questions"], rows)


def _training(facts: Facts) -> str:
    found = facts.get("training")
    if not found:
        return f"Training: {NOT_MEASURED}."
    losses = [point["valid_loss"] for point in found.get("curve") or [] if known(point.get("valid_loss"))]
    best = f", least validation loss {min(losses):.3f}" if losses else ""
    about = f"adapter {found['adapter']} on {found['base']}, {found['rows']:,} rows, {duration(found.get('seconds'))}"
    return f"Training: {cell(about)}{best}."
