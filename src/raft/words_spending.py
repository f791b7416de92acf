"""What is said to a person about money: an estimate, and what a run has spent."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raft.spending import dollars

_DOING = {
    "questions": "writing questions",
    "cleaned": "judging questions",
    "examples": "wording answers",
    "embeddings": "embedding texts",
    "sample": "the sample of an estimate",
    "benchmark": "measuring",
    "ask": "answering",
    "index": "embedding chunks",
}


def estimate(facts: Mapping[str, Any]) -> str:
    """Return an estimate as text; `facts` is what `Estimate.summary` returns."""
    corpus = f"{facts['documents']:,} documents, {facts['chunks']:,} chunks, {facts['questions']:,} questions wanted"
    lines = [f"  {'corpus':<11} {corpus}"]
    for part in facts["parts"]:
        lines.append(f"  {'calls' if part['purpose'] != 'embeddings' else 'texts':<11} {_part(part)}")
    lines.append(f"  {'cost':<11} {_cost(facts)}")
    if facts["seconds"] is not None and facts["calls"]:
        low, high = facts["seconds"]
        lines.append(f"  {'time':<11} {long(low)} to {long(high)} at the limits that are set")
    based = f"{facts['measured']:,} replies of this model" if facts["measured"] else "experience with other models"
    better = "" if facts["measured"] else "; --sample 10 asks ten calls and knows better"
    lines.append(f"  {'rests on':<11} {based}{better}")
    return "\n".join(lines)


def estimated(facts: Mapping[str, Any]) -> str:
    """Return an estimate on one line."""
    return f"{facts['calls']:,} calls to make, {_cost(facts)}"


def advice(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the next commands after an estimate."""
    if facts["model"] in facts["unpriced"] and facts["own"]:
        yield "  next:  the same command without --estimate; or with --price IN/OUT, to know what it costs"
    elif facts["model"] in facts["unpriced"]:
        yield "  next:  the same command with --price IN/OUT (dollars per million tokens, e.g. --price 0.15/0.60)"
    elif facts["cap"] is None and facts["known_dollars"][1] > 0:
        high = facts["spent"] + facts["known_dollars"][1]
        yield f"  next:  the same command without --estimate, and with --max-cost {max(0.01, round(high + 0.005, 2)):g}"
    else:
        yield "  next:  the same command without --estimate"


def spending(facts: Mapping[str, Any]) -> list[str]:
    """Return what a run has spent as lines.

    Args:
        facts: `rows` (of `Ledger.spending`), `spent` and `open` in dollars, `cap` and `left` (None without a cap).
    """
    lines = [f"  {'spent on':<26} {'calls':>8} {'read':>12} {'written':>12} {'dollars':>10}  model"]
    for row in facts["rows"]:
        lines += list(_row(row))
    unknown = sum(row["calls_without_price"] for row in facts["rows"])
    total = "unknown" if unknown and not facts["spent"] else dollars(facts["spent"])
    if facts["cap"] is not None:
        total += f" of {dollars(facts['cap'])}, {dollars(max(0.0, facts['left']))} left"
    if facts["open"]:
        total += f"; {dollars(facts['open'])} at most is under way"
    total += f"; {unknown:,} calls of unknown price are not in it" if unknown and facts["spent"] else ""
    return [*lines, f"  in all: {total}"]


def paid(cost: float, unpriced: float) -> str:
    """Return what replies cost: `cost` dollars, and so many of them an unknown sum."""
    known = [f"${cost:,.4f}"] if cost or not unpriced else []
    return " and ".join([*known, *([f"{unpriced:,.0f} replies of unknown price"] if unpriced else [])])


def long(seconds: float) -> str:
    """Return a time span as a person says it."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def count(number: float) -> str:
    """Return a large number in short: 999, 12.3k, 4.5M."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 999_950 else f"{number / 1e6:.1f}M"


def _part(part: Mapping[str, Any]) -> str:
    text = f"{part['calls']:,} for {_DOING.get(part['purpose'], part['purpose'])} with {part['model']}"
    text += f" ({part['answered']:,} in the ledger)" if part["answered"] else ""
    if part["calls"] == part["answered"]:
        return text
    text += f": {_span(part['input_tokens'])} tokens read"
    return text + (f", {_span(part['output_tokens'])} written" if part["output_tokens"][1] else "")


def _cost(facts: Mapping[str, Any]) -> str:
    low, high = facts["known_dollars"]
    known = "nothing" if not high else f"{dollars(low)} to {dollars(high)}"
    price = facts["price"]
    if facts["unpriced"]:
        text = f"unknown, for want of the price of {', '.join(facts['unpriced'])}"
        text += f"; {known} for the rest" if high else ""
    else:
        text = known
        text += f" at ${price['input']:g}/${price['output']:g} a million tokens" if high and price else ""
    text += f"; {dollars(facts['spent'])} spent before" if facts["spent"] else ""
    return text + (f"; the cap is {dollars(facts['cap'])}" if facts["cap"] is not None else "")


def _span(pair: Sequence[float]) -> str:
    low, high = (count(one) for one in pair)
    return low if low == high else f"{low} to {high}"


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    doing = _DOING.get(row["purpose"], row["purpose"])
    price = "unknown" if not row["cost"] and row["calls_without_price"] else f"{row['cost']:,.4f}"
    yield (
        f"    {doing:<24} {row['calls']:>8,} {row['input_tokens']:>12,} {row['output_tokens']:>12,}"
        f" {price:>10}  {row['model']}"
    )
    others = {"lost": "  lost, at their worst", "open": "  under way, at most", "batch": "  in a batch, at most"}
    for state, words in others.items():
        if row[state]:
            yield f"    {words:<24} {row[state]:>8,} {'':>12} {'':>12} {row[f'{state}_cost']:>10,.4f}"
