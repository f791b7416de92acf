"""What a build is going to ask and what that may cost, and when it must be confirmed."""

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


def confirm(found: Estimate, words: str) -> None:
    """Let a build go on to its first call, or say what is needed before.

    Args:
        found: what it is going to cost.
        words: the same for a person.

    Raises:
        UsageError: it may cost more than `generator.confirm_above` and has no cap, or its price is unknown.
    """
    if found.cap is not None:
        return
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
