"""What is said to a person about money: an estimate, and what a run has spent."""

from collections.abc import Iterator, Mapping
from typing import Any

from raft.estimates import DOING, cost_text
from raft.spending import dollars


def estimated(facts: Mapping[str, Any]) -> str:
    """Return an estimate on one line."""
    return f"{facts['calls']:,} calls to make, {cost_text(facts)}"


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


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    doing = DOING.get(row["purpose"], row["purpose"])
    price = "unknown" if not row["cost"] and row["calls_without_price"] else f"{row['cost']:,.4f}"
    yield (
        f"    {doing:<24} {row['calls']:>8,} {row['input_tokens']:>12,} {row['output_tokens']:>12,}"
        f" {price:>10}  {row['model']}"
    )
    others = {"lost": "  lost, at their worst", "open": "  under way, at most", "batch": "  in a batch, at most"}
    for state, words in others.items():
        if row[state]:
            yield f"    {words:<24} {row[state]:>8,} {'':>12} {'':>12} {row[f'{state}_cost']:>10,.4f}"
