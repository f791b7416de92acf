"""What a training says to a person: what came of it, and what to type next."""

from collections.abc import Iterator, Mapping
from typing import Any

from raft.stages.tuning import FEW_ROWS


def trained(card: Mapping[str, Any], run: str) -> str:
    """Return the outcome of a training as text; `card` is the adapter's, `run` the run directory as it was typed."""
    lines = [f"Trained {card['adapter']}, an adapter of {card['base']}", ""]
    lines += [f"  {label:<9} {text}" for label, text in _facts(card, run)]
    lines += ["", *_warnings(card)]
    lines.append(f"  next:  raft ask {run} 'your question'")
    lines.append(f"         raft bench {run}                 (is it better than plain RAG?)")
    lines.append(f"         raft approve {run} --by NAME     (when you have seen that it is)")
    return "\n".join(lines)


def _facts(card: Mapping[str, Any], run: str) -> Iterator[tuple[str, str]]:
    general = f", {card['rehearsal']:,} general ones among them" if card["rehearsal"] else ""
    yield "rows", f"{card['rows'] + card['rehearsal']:,} learned from{general}; {card['valid']:,} to validate with"
    rate = card["tokens"] / max(card["seconds"], 1e-3)
    yield "tokens", f"{card['tokens']:,} read in {card['seconds']:,.0f} s, {rate:,.0f} a second with all measurements"
    yield "loss", _losses(card)
    yield "steps", f"{card['steps']:,}; the adapter is that of step {card['best_step']:,}"
    yield "where", f"{run}/adapters/{card['adapter']}   ({card['backend']}, {card['hardware']})"


def _losses(card: Mapping[str, Any]) -> str:
    curve = card["loss_curve"]
    measured = [point["valid_loss"] for point in curve if "valid_loss" in point]
    if measured:
        return f"{measured[0]:.4f} when first measured on the validation rows, {min(measured):.4f} at best"
    losses = [point["loss"] for point in curve if "loss" in point]
    return f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last, on the training rows" if losses else "not told"


def _warnings(card: Mapping[str, Any]) -> Iterator[str]:
    notes = card["notes"]
    if "few_rows" in notes:
        yield f"  {notes['few_rows']} training questions are few: under {FEW_ROWS}, tuning rarely beats plain RAG."
    if "no_valid" in notes:
        yield "  There are no validation rows, so the last step was kept, be it the best or not."
    if "not_learned" in notes:
        yield "  No measurement was better than the first: a lower --learning-rate, or more rows, may help."
    if {"few_rows", "no_valid", "not_learned"} & notes.keys():
        yield ""
