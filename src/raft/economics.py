"""What tuning costs against what it saves: money, tokens, speed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def break_even(training_cost: float, saving_per_question: float) -> int | None:
    """Return after how many questions a saving has paid for the training; None if never.

    Args:
        training_cost: in US dollars.
        saving_per_question: in US dollars.
    """
    if training_cost <= 0:
        return 0 if saving_per_question >= 0 else None
    return math.ceil(round(training_cost / saving_per_question, 6)) if saving_per_question > 0 else None


def economics(
    arms: Mapping[str, Mapping[str, Any]],
    *,
    contender: str | None,
    baseline: str | None,
    larger: Sequence[str],
    training_seconds: float | None,
    build_cost: float | None,
    machine_hour: float | None,
) -> dict[str, Any]:
    """Return what tuning costs against what it saves, as `benchmark.json` holds it.

    Args:
        arms: by name, `{"cost_per_thousand", "questions_per_second", "tokens"}` as in `benchmark.json`.
        contender: the tuned arm.
        baseline: the untuned arm it is measured against.
        larger: names of the arms of larger models; the cheapest that costs something is what tuning has to beat.
        training_seconds: how long the training took.
        build_cost: what building the rows cost, in US dollars; None when unknown: then so is the break-even.
        machine_hour: price of an hour of the machine that trains and serves, in US dollars; None counts as free,
            and the sentences say so.
    """
    result = {"training_seconds": training_seconds, "build_cost": build_cost, "break_even_questions": None}
    if contender is None or training_seconds is None:
        return {**result, "sentences": []}
    sentences = [
        _spent(training_seconds, build_cost, machine_hour),
        *(_serving(name, arms[name]) for name in (contender, baseline) if name is not None and name in arms),
    ]
    known = {name: cost for name in larger if (cost := arms[name]["cost_per_thousand"])}
    if not known:
        return {**result, "sentences": [*sentences, "No larger model with a known price was measured."]}
    cheapest = min(known, key=lambda name: (known[name], name))
    against = f"Against {cheapest} at {known[cheapest]:.2f} dollars per thousand questions, "
    ours = arms[contender]["cost_per_thousand"]
    if ours is None or build_cost is None:
        return {**result, "sentences": [*sentences, f"{against}it is unknown when tuning has paid for itself."]}
    spent = build_cost + training_seconds / 3600 * (machine_hour or 0.0)
    count = break_even(spent, (known[cheapest] - ours) / 1000)
    paid = "tuning never pays for itself" if count is None else f"tuning has paid for itself after {count:,} questions"
    return {**result, "sentences": [*sentences, f"{against}{paid}."], "break_even_questions": count}


def _spent(training_seconds: float, build_cost: float | None, machine_hour: float | None) -> str:
    trained = f"Training took {training_seconds:,.0f} seconds"
    priced = f"at {machine_hour:.2f} dollars an hour" if machine_hour else "with this machine's time counted as free"
    training = training_seconds / 3600 * (machine_hour or 0.0)
    if build_cost is None:
        return f"{trained}, {training:.2f} dollars {priced}; what building its rows cost is unknown."
    return (
        f"{trained}, and building its rows cost {build_cost:.2f} dollars: {build_cost + training:.2f} dollars {priced}."
    )


def _serving(name: str, arm: Mapping[str, Any]) -> str:
    tokens, speed, cost = arm["tokens"]["input"], arm["questions_per_second"], arm["cost_per_thousand"]
    parts = [
        tokens is not None and f"reads {tokens:,.0f} tokens a question",
        speed is not None and f"answers {speed:.2f} questions a second",
        cost is not None and f"costs {cost:.2f} dollars per thousand questions",
    ]
    said = ", ".join(part for part in parts if part)
    return f"{name} {said}." if said else f"What {name} costs to serve was not measured."
