"""What a build is going to ask and what that may cost, and when it must be confirmed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raft.errors import UsageError
from raft.spending import Price, dollars

Pair = tuple[float, float]
"""A lowest and a highest value."""


@dataclass(frozen=True)
class Part:
    """What one step asks of one model.

    Attributes:
        purpose: the step, or "embeddings".
        model: what is asked.
        calls: how many it makes at most, those not counted that are made again.
        answered: how many of these the ledger answers already; they cost nothing.
        input_tokens: tokens read by the other calls, from and to.
        output_tokens: tokens that they write, from and to.
        dollars: what they cost, from and to; None when the price is unknown.
    """

    purpose: str
    model: str
    calls: int
    answered: int
    input_tokens: Pair
    output_tokens: Pair
    dollars: Pair | None


@dataclass(frozen=True)
class Estimate:
    """What a build would ask from now on.

    Attributes:
        run: the run directory.
        documents: how many could be read.
        chunks: how many they were cut into.
        questions: how many the budget allows.
        parts: what each step asks.
        seconds: how long the endpoint takes, from and to; None for a local model and for a batch endpoint.
        measured: replies of this model, of a sample or an earlier build, that the estimate rests on.
        model: the generator.
        price: of the generator, in dollars per million tokens; None when it is unknown.
        own: the generator is local or self-hosted: an unknown price is no obstacle.
        spent: dollars that the run has cost so far.
        cap: `generator.max_cost`.
        confirm_above: `generator.confirm_above`.
    """

    run: str
    documents: int
    chunks: int
    questions: int
    parts: tuple[Part, ...]
    seconds: Pair | None
    measured: int
    model: str
    price: Price | None
    own: bool
    spent: float
    cap: float | None
    confirm_above: float

    @property
    def calls(self) -> int:
        """Calls that are still to be made, at most; texts that are embedded are not counted."""
        return sum(part.calls - part.answered for part in self.parts if part.purpose != "embeddings")

    @property
    def unpriced(self) -> list[str]:
        """Models that are still to be asked, and whose price is unknown."""
        return sorted({part.model for part in self.parts if part.dollars is None and part.calls > part.answered})

    @property
    def known_dollars(self) -> Pair:
        """What the calls cost whose price is known, from and to."""
        known = [part.dollars for part in self.parts if part.dollars is not None]
        return sum(low for low, _ in known), sum(high for _, high in known)

    @property
    def dollars(self) -> Pair | None:
        """What all of it costs, from and to; None when some price is unknown."""
        return None if self.unpriced else self.known_dollars

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        derived = {name: getattr(self, name) for name in ("calls", "unpriced", "known_dollars", "dollars")}
        return {**asdict(self), **derived}


def confirm(found: Estimate) -> None:
    """Let a build go on to its first call, or say what is needed before.

    Args:
        found: what it is going to cost.

    Raises:
        UsageError: it may cost more than `generator.confirm_above` and has no cap, or its price is unknown.
    """
    if found.cap is not None:
        return
    words = as_text(found.summary())
    if found.model in found.unpriced and not found.own:
        raise UsageError(
            f"What this build costs is unknown, since the price of {found.model} is. Nothing was asked yet.\n{words}",
            where="generator.input_price, generator.output_price",
            hint="raft build ... --price IN/OUT   (dollars per million tokens read and written, e.g. 0.15/0.60)",
        )
    high = found.known_dollars[1]
    if high > found.confirm_above:
        raise UsageError(
            f"This build may cost {dollars(high)}: say how much it may cost at most. Nothing was asked yet.\n{words}",
            where=f"generator.confirm_above is {dollars(found.confirm_above)}",
            hint=f"raft build ... --max-cost {rounded_up(found.spent + high)}",
        )


def rounded_up(amount: float) -> str:
    """Return an amount of dollars, rounded up to cents or to two digits."""
    step = 0.01 if amount < 10 else 10.0 ** (len(str(int(amount))) - 2)
    return f"{-(-amount // step) * step:.10g}"


DOING = {
    "questions": "writing questions",
    "cleaned": "judging questions",
    "examples": "wording answers",
    "embeddings": "embedding texts",
    "sample": "the sample of an estimate",
    "benchmark": "measuring",
    "ask": "answering",
    "index": "embedding chunks",
}
"""What calls are made for, by the name of their step, in words."""


def as_text(facts: Mapping[str, Any]) -> str:
    """Return an estimate as text; `facts` is what `Estimate.summary` returns."""
    corpus = f"{facts['documents']:,} documents, {facts['chunks']:,} chunks, {facts['questions']:,} questions wanted"
    lines = [f"  {'corpus':<11} {corpus}"]
    for part in facts["parts"]:
        lines.append(f"  {'calls' if part['purpose'] != 'embeddings' else 'texts':<11} {_part_text(part)}")
    lines.append(f"  {'cost':<11} {cost_text(facts)}")
    if facts["seconds"] is not None and facts["calls"]:
        low, high = facts["seconds"]
        lines.append(f"  {'time':<11} {long(low)} to {long(high)} at the limits that are set")
    based = f"{facts['measured']:,} replies of this model" if facts["measured"] else "experience with other models"
    better = "" if facts["measured"] else "; --sample 10 asks ten calls and knows better"
    lines.append(f"  {'rests on':<11} {based}{better}")
    return "\n".join(lines)


def long(seconds: float) -> str:
    """Return a time span as a person says it."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def count(number: float) -> str:
    """Return a large number in short: 999, 12.3k, 4.5M."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 999_950 else f"{number / 1e6:.1f}M"


def _part_text(part: Mapping[str, Any]) -> str:
    text = f"{part['calls']:,} for {DOING.get(part['purpose'], part['purpose'])} with {part['model']}"
    text += f" ({part['answered']:,} in the ledger)" if part["answered"] else ""
    if part["calls"] == part["answered"]:
        return text
    text += f": {_span(part['input_tokens'])} tokens read"
    return text + (f", {_span(part['output_tokens'])} written" if part["output_tokens"][1] else "")


def cost_text(facts: Mapping[str, Any]) -> str:
    """Return what an estimate says of money, on one line."""
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
