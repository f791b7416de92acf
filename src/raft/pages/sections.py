"""Sections of the report that are the same for every verdict: facts of `benchmark.json` in, a table or a plot out."""

from collections.abc import Mapping
from typing import Any

from raft import plots
from raft.measures import MEASURES
from raft.pages import Html, code_spans, join, table, tag, text
from raft.pages.figures import (
    NOT_MEASURED,
    amount,
    duration,
    few,
    full,
    known,
    measured,
    money,
    share,
    spread,
)

Facts = Mapping[str, Any]


def titles_of(facts: Facts) -> dict[str, str]:
    """Return the title of each arm by its name."""
    return {arm["name"]: arm["title"] for arm in facts["arms"]}


def role_of(facts: Facts, arm: str) -> str:
    """Return "contender", "baseline" or "other": what an arm is in the verdict."""
    roles = {facts["verdict"].get("baseline"): "baseline", facts["verdict"].get("contender"): "contender"}
    return roles.get(arm, "other")


def cell(interval: Facts | None, *, signed: bool = False) -> Html:
    """Return an interval for a table: the value, and its bounds or that there are too few documents under it."""
    if interval is None or not measured(interval):
        return tag("span", NOT_MEASURED, class_="none")
    groups = f"{interval['questions']} questions on {interval['groups']} documents"
    bounds = tag("span", spread(interval, signed=signed), class_="few" if few(interval) else "spread", title=groups)
    return join([tag("b", share(interval["value"], signed=signed)), bounds], " ")


def plain(cell: str) -> Html:
    """Return a figure for a table, set apart where it was not measured."""
    return tag("span", cell, class_="none") if cell == NOT_MEASURED else text(cell)


def arm_cell(facts: Facts, arm: Facts) -> Html:
    """Return an arm's title, with a badge where it is one of the two that the verdict compares."""
    role = role_of(facts, arm["name"])
    return join([text(arm["title"]), *([tag("span", role, class_=f"badge {role}")] if role != "other" else [])], " ")


def retrieval(facts: Facts) -> Html:
    """Return how often search brings a text that bears the answer."""
    found = facts.get("retrieval") or {}
    if not found:
        return tag("p", f"Retrieval: {NOT_MEASURED}.")
    cuts = sorted({cut for one in found.values() for cut in one["recall"]}, key=int)
    head = ["Question set", *(f"found in the first {cut}" for cut in cuts), "MRR", "nDCG", "questions"]
    rows = [
        [name, *(cell(one["recall"].get(cut)) for cut in cuts), cell(one["mrr"]), cell(one["ndcg"]), one["bearing"]]
        for name, one in found.items()
    ]
    return table("Share of questions for which search brought a text that bears the answer", head, rows)


def capability(facts: Facts) -> Html:
    """Return what the model could do before and after tuning."""
    found = facts.get("capability")
    if not found:
        return tag("p", f"General capability before and after tuning: {NOT_MEASURED}.")
    head = ["Benchmark", "measure", "before", "after", "change", "questions"]
    rows = [
        [one["title"], one["measure"], plain(share(one["before"])), plain(share(one["after"])),
         cell(one["change"], signed=True), f"{one['questions']:,}"]
        for one in found.values()
    ]  # fmt: skip
    return table("General capability before and after tuning", head, rows)


def training(facts: Facts) -> Html:
    """Return what was trained on, how long, and the loss curve."""
    found = facts.get("training")
    if not found:
        return tag("p", f"Training: {NOT_MEASURED}.")
    curve = found.get("curve") or []
    train, valid = ([(p["step"], p[key]) for p in curve if known(p.get(key))] for key in ("loss", "valid_loss"))
    parts = [tag("p", _trained(found))]
    if train or valid:
        keys = (("train", "training"), ("valid", "validation"))
        legend = join(tag("span", label, class_=f"key {name}") for name, label in keys)
        caption = tag("figcaption", "Loss by step:", legend)
        plot = plots.curve(train, valid, title="Loss by step", best=found.get("best_step"))
        parts.append(tag("figure", caption, plot))
    return join(parts)


def _trained(found: Facts) -> str:
    return (
        f"Adapter {found['adapter']} on {found['base']}: {found['rows']:,} rows to train on, {found['valid']:,} to "
        f"validate with, {duration(found.get('seconds'))} on {found.get('hardware') or 'unknown hardware'}."
    )


def cost(facts: Facts) -> Html:
    """Return tokens, money and latency of each arm, and what tuning cost."""
    head = ["Arm", "tokens read", "tokens written", "cost of 1,000 questions", "questions a second", "median latency",
            "95th percentile", "questions timed"]  # fmt: skip
    rows = []
    for arm in facts["arms"]:
        tokens, latency = arm.get("tokens") or {}, arm.get("latency") or {}
        row = [amount(tokens.get("input")), amount(tokens.get("output")), money(arm.get("cost_per_thousand"))]
        row += [amount(arm.get("questions_per_second"), digits=2)]
        row += [amount(latency.get(key), digits=2, unit=" s") for key in ("median", "p95")]
        cells = [*row, amount(latency.get("questions"), digits=0)]
        rows.append([arm_cell(facts, arm), *(plain(cell) for cell in cells)])
    economics = facts.get("economics") or {}
    sentences = [tag("li", code_spans(sentence)) for sentence in economics.get("sentences") or []]
    spent = {
        "training took": duration(economics.get("training_seconds")),
        "building the data cost": money(economics.get("build_cost")),
        "questions after which it has paid for itself": amount(economics.get("break_even_questions"), digits=0),
    }
    listed = tag("dl", *(tag("div", tag("dt", key), tag("dd", plain(shown))) for key, shown in spent.items()))
    return join([table("Each arm, means of a question", head, rows), listed, tag("ul", *sentences)])


def tuning(facts: Facts) -> Html:
    """Return what was tried to make the baseline strong."""
    found, titles = facts.get("baseline_tuning") or [], titles_of(facts)
    if not found:
        return tag("p", "The baseline was used as it is.")
    rows = [
        [titles.get(one["arm"], one["arm"]), one["exemplars"], one["split"], plain(share(one["f1"])), one["questions"],
         "chosen" if one["chosen"] else ""]
        for one in found
    ]  # fmt: skip
    head = ["Arm", "exemplars", "questions of", MEASURES["f1"].title, "questions", "used"]
    return table("What was tried for the baseline", head, rows)


def blind(facts: Facts) -> Html:
    """Return how experts chose."""
    found = facts.get("blind")
    if not found:
        return tag("p", f"Blind comparison by experts: {NOT_MEASURED}.")
    counts = f"the contender's answer was chosen {found['wins']} times, the baseline's {found['losses']} times"
    rated = f"{found['rated']} of {found['pairs']} pairs rated: {counts}, neither {found['ties']} times."
    return tag("p", f"{rated} Win rate: {full(found['win_rate'])}.")


def question_sets(facts: Facts) -> Html:
    """Return the question sets, with who wrote them."""
    rows = [
        [one["name"], f"{one['questions']:,}", f"{one['withheld']:,}", f"{one['documents']:,}", one["written_by"],
         tag("code", str(one["digest"])[:16], title=one["digest"])]
        for one in facts["question_sets"]
    ]  # fmt: skip
    head = ["Name", "questions", "asked again without the text", "documents", "written by", "digest"]
    return table("Question sets", head, rows)


def setup(facts: Facts) -> Html:
    """Return model, prompt and documents of each arm."""
    head = ["Arm", "model", "adapter", "documents", "exemplars", "prompt", "prompt digest"]
    rows = [
        [arm_cell(facts, arm), arm["model"], arm.get("adapter") or "–", arm["context"], arm["exemplars"],
         arm["prompt"], tag("code", str(arm["prompt_digest"])[:16], title=arm["prompt_digest"])]
        for arm in facts["arms"]
    ]  # fmt: skip
    return table("How each arm was set up", head, rows)
