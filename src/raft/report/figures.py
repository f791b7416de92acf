"""Figures as a person reads them: shares times 100, intervals, durations and money."""

import math
from collections.abc import Mapping
from typing import Any

NOT_MEASURED = "not measured"
UNKNOWN = "unknown"
TOO_FEW = "too few to tell"
FEW_GROUPS = 20
"""Under so many resampled groups a bootstrap interval is too narrow to be believed."""

DECISIONS: Mapping[str, tuple[str, str]] = {
    "ship": ("Ship the tuned model.", "It answers better than plain RAG, and the rules for shipping are met."),
    "investigate": ("Look closer before you decide.", "The figures do not settle it yet."),
    "keep plain RAG": ("Keep plain RAG.", "What tuning gains is not worth what it costs; the reasons say why."),
    "not tuned yet": ("Not tuned yet.", "These are the figures that a tuned model has to beat."),
}
"""Each verdict in plain words."""


def known(value: Any) -> bool:
    """Tell whether a number was measured: it is there, and finite."""
    return value is not None and math.isfinite(value)


def measured(interval: Mapping[str, Any] | None) -> bool:
    """Tell whether an interval (the JSON form of `raft.evaluation.metrics.Interval`) has a value."""
    return interval is not None and known(interval.get("value"))


def few(interval: Mapping[str, Any]) -> bool:
    """Tell whether an interval rests on too few documents, or on whatever else is resampled."""
    return interval["groups"] < FEW_GROUPS or not (known(interval.get("low")) and known(interval.get("high")))


def share(value: float | None, *, signed: bool = False) -> str:
    """Return a share (0 to 1) or a difference of shares times 100 with one decimal."""
    if value is None or not known(value):
        return NOT_MEASURED
    digits = f"{abs(100 * value):.1f}"
    if digits == "0.0":
        return digits
    return ("−" if value < 0 else "+" if signed else "") + digits


def spread(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    """Return the bounds of an interval, or that there are too few to tell."""
    if few(interval):
        return TOO_FEW
    return f"{share(interval['low'], signed=signed)} to {share(interval['high'], signed=signed)}"


def full(interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return value and bounds in one line: "42.1 (36.0 to 48.2)"."""
    if interval is None or not measured(interval):
        return NOT_MEASURED
    return f"{share(interval['value'], signed=signed)} ({spread(interval, signed=signed)})"


def headline(verdict: Mapping[str, Any]) -> str:
    """Return what was gained, of which so much is form and so much substance, in one line; "" without a gain.

    `verdict` is that of `benchmark.json`; where it tells no parts, as before raft 0.3, the gain stands alone.
    """
    gain, form, substance = (verdict.get(name) for name in ("gain", "form", "substance"))
    if not measured(gain):
        return ""
    told = f"gain {_bracketed(gain, ' points')}"
    if not (measured(form) and measured(substance)):
        return told
    least, most = ("at least ", "at most ") if verdict.get("form_by") == "cut" else ("", "")
    return f"{told}: {least}{_bracketed(form, ' of form')}, {most}{_bracketed(substance, ' of substance')}"


def _bracketed(interval: Any, unit: str) -> str:
    bounds = TOO_FEW if few(interval) else f"{share(interval['low'])}, {share(interval['high'])}"
    return f"{share(interval['value'])}{unit} [{bounds}]"


def value(interval: Mapping[str, Any] | None) -> str:
    """Return the value of an interval without its bounds."""
    return NOT_MEASURED if interval is None else share(interval.get("value"))


def amount(value: float | None, *, digits: int = 1, unit: str = "") -> str:
    """Return a number with its unit, thousands separated."""
    return NOT_MEASURED if value is None or not known(value) else f"{value:,.{digits}f}{unit}"


def money(dollars: float | None) -> str:
    """Return US dollars, with as many decimals as a small amount needs; None: some price is not known."""
    if dollars is None or not known(dollars):
        return UNKNOWN
    return f"${dollars:,.2f}" if dollars == 0 or abs(dollars) >= 0.1 else f"${dollars:,.4f}"


def chosen_blindly(blind: Mapping[str, Any]) -> str:
    """Return what people chose between pairs of answers, in words; `blind` is that of `benchmark.json`.

    A choice of neither counted as a tie before raft 0.3, whatever was meant by it.
    """
    told = (
        f"{blind['rated']} of {blind['pairs']} pairs rated: the tuned model's answer was chosen {blind['wins']} times,"
    )
    told += f" the baseline's {blind['losses']} times"
    if "both_wrong" not in blind:
        return f"{told}, neither {blind['ties']} times. Win rate: {full(blind['win_rate'])}."
    told += f", both were equally good {blind['ties']} times and both wrong {blind['both_wrong']} times."
    won = blind.get("preferred")
    if won is None or not measured(won):
        return f"{told} One was never better than the other."
    bounds = f"95 % interval {share(won['low'])} to {share(won['high'])}"
    test = f"sign test p = {blind['sign_test']:.2g}"
    return f"{told} Where one was better, it was the tuned model's in {share(won['value'])} percent ({bounds}, {test})."


def judged(judge: Mapping[str, Any]) -> list[str]:
    """Return what a judge said of pairs of answers, in sentences; `judge` is that of `benchmark.json`."""
    chosen = judge["wins"] + judge["losses"] + judge["ties"]
    lost = f"; to {judge['unusable']} there is no usable reply" if judge["unusable"] else ""
    told = (
        f"{judge['model']} compared {judge['pairs']} pairs in both orders{lost}. It chose alike in both for {chosen},"
    )
    told += (
        f" another for {judge['disagreed']}, which do not count: the tuned model's answer {judge['wins']} times, the"
    )
    lines = [f"{told} baseline's {judge['losses']} times, neither {judge['ties']} times."]
    won = judge.get("preferred")
    if won is not None and measured(won):
        bounds = f"95 % interval {share(won['low'])} to {share(won['high'])}, sign test p = {judge['sign_test']:.2g}"
        lines.append(f"Where one was better, it was the tuned model's in {share(won['value'])} percent ({bounds}).")
    for one in judge["yes"]:
        shares = f"{share(one['contender'])} for the tuned model, {share(one['baseline'])} for the baseline"
        lines.append(f"Percent yes to “{one['question']}”: {shares}.")
    people = judge.get("people")
    if people:
        beyond = "" if people["kappa"] is None else f", Cohen's kappa {people['kappa']:.2f}"
        lines.append(f"It chose as people did on {share(people['share'])} percent of {people['pairs']} pairs{beyond}.")
    return lines


def parts_shown(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what each part of the tuned system adds on the verdict's questions, by its name, in words.

    What was refused was never asked, so that of the refusals only bounds can be told. `facts` is `benchmark.json`.
    """
    verdict, lines = facts["verdict"], []
    if measured(verdict.get("gain")):
        against = "tuned against baseline with the same passages and the same refusals"
        lines.append(("reader", f"{headline(verdict)}; {against}"))
    told = (facts.get("refused") or {}).get(verdict["question_set"])
    if told:
        with_one, without = told["answerable"], told["unanswerable"]
        said = f"{told['answerable_refused']} of {with_one} questions with an answer were refused unasked"
        said += (
            f" ({told['found_refused']} although it was found), {told['unanswerable_refused']} of {without} without one"
        )
        most = [
            share(told[f"{kind}_refused"] / told[kind] if told[kind] else 0.0)
            for kind in ("answerable", "unanswerable")
        ]
        bounds = f"asked all the same, at most {most[0]} points more right answers and {most[1]} more false ones"
        lines.append(("refusal", f"{said}; {bounds}"))
    tuned = facts.get("retriever") or {"sets": {}}
    found = tuned["sets"].get(verdict["question_set"])
    if found and found["questions"]:
        lines.append(("retriever", _searched(found, tuned["k"], used=tuned["used"], why=tuned.get("why"))))
    return lines


PARTS: Mapping[str, tuple[str, str]] = {
    "reader": ("untuned", "tuned"),
    "retriever": ("untuned", "tuned"),
    "refusal": ("by rule", "by head"),
}
"""What each part of a system is called that was not learned, and that was."""


def paired(facts: Mapping[str, Any]) -> list[tuple[list[str], list[Mapping[str, Any]]]]:
    """Return the names of each reader, retriever and refusal that were asked together, and three intervals with them.

    These are the verdict's measure, false answers and false refusals; the first name of what is in use has an asterisk.
    `facts` is `benchmark.json`.
    """
    found = facts.get("parts") or {"rows": []}
    told = []
    for row in found["rows"]:
        first, *others = (_part(found, part, learned=row[part]) for part in PARTS)
        names = [f"{first}*" if row["used"] else first, *others]
        told.append((names, [row[name] for name in (found["measure"], "false_answers", "false_refusals")]))
    return told


def added_shown(facts: Mapping[str, Any], title: str) -> list[str]:
    """Return what each learned part adds to what is in use, in words; `title` is that of the verdict's measure."""
    found = facts.get("parts") or {"adds": {}}
    names = {found.get("measure"): title, "false_answers": "false answers", "false_refusals": "false refusals"}
    return [
        f"{part}, {PARTS[part][1]} for {_part(found, part, learned=False)}: "
        + ", ".join(f"{words} {full(one[name], signed=True)}" for name, words in names.items())
        for part, one in found["adds"].items()
    ]


def _part(found: Mapping[str, Any], part: str, *, learned: bool) -> str:
    return PARTS[part][learned] if learned or part != "refusal" or found["by_rule"] else "none"


def _searched(found: Mapping[str, Any], k: int, *, used: bool, why: str | None) -> str:
    names = {"recall_at_1": "recall@1", "recall_at_k": f"recall@{k}", "mrr": "MRR"}
    told = (
        f"{title} {value(found[name]['before'])} untuned, {value(found[name]['after'])} tuned "
        f"({full(found[name]['difference'], signed=True)})"
        for name, title in names.items()
        if name != "recall_at_k" or k > 1
    )
    state = "used" if used else f"not used: {why}" if why else "not used"
    return f"{', '.join(told)} over {found['questions']:,} questions; {state}"


def together_shown(facts: Mapping[str, Any]) -> list[str]:
    """Return, for each set with questions that need several documents, for how many search found each of them."""
    lines = []
    for name, one in (facts.get("retrieval") or {}).items():
        if several := one.get("together"):
            found = ", ".join(f"{full(share)} of them in the first {k}" for k, share in several["all_found"].items())
            count = several["questions"]
            lines.append(
                f"{name}: {count:,} question{'s' * (count != 1)} need several documents; all found for {found}."
            )
    return lines


def wording_shown(likeness: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return of the kept questions, and of the user's own, whose they are, how they are worded, and how they begin.

    `likeness` are a build's figures (`curation.likeness`), None for a build of before.
    """
    names = {"generated": "the kept ones", "own": "your own"}
    return [(name, *_worded(likeness[key])) for key, name in names.items() if likeness and key in likeness]


def _worded(one: Mapping[str, Any]) -> tuple[str, str]:
    low, middle, high = one["words"]
    text = f"{middle:g} words ({low:g} to {high:g})"
    if overlap := one.get("overlap"):
        text += f"; {overlap['mean']:.0%} of the content words stand in the passage"
        text += f" (all of them in {overlap['all']:.0%} of {overlap['of']:,})"
    begun = sorted(one["begin"].items(), key=lambda pair: (-pair[1], pair[0]))  # a manifest sorts by name
    return text, "they begin with " + ", ".join(f"{word} {share:.0%}" for word, share in begun)


def documents_shown(facts: Mapping[str, Any]) -> str:
    """Return how many documents were shown for a question, in words; `facts` is what `benchmark.json` holds."""
    fewer = facts.get("shortened") or 0
    where = f", fewer for {amount(fewer, digits=0)} questions: more do not fit into a model's context"
    return f"{facts['k']} documents a question{where if fewer else ''}"


def left_out(facts: Mapping[str, Any]) -> str:
    """Return how many questions were left out, and why, in words; "" for none."""
    reasons = {
        "a person said that the reference is wrong": len(facts.get("wrong_references") or ()),
        "the threshold of refusals was set on them": (facts.get("refusal") or {}).get("left_out") or 0,
    }
    told = (f"{n:,} question{'s' * (n != 1)} left out: {why}." for why, n in reasons.items() if n)
    return " ".join(told)


def duration(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds, the two greatest of them."""
    if seconds is None or not known(seconds):
        return NOT_MEASURED
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def tick(mark: float) -> str:
    """Return the number at a mark of an axis, as short as it can be."""
    return f"{mark:g}".replace("-", "−")
