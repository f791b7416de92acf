"""An estimate: what a build is going to ask, in figures and in words. `pipeline.counting` counts it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raft.errors import UsageError
from raft.generation.rounds import ROUNDS
from raft.store.budget import Price, dollars

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
        documents: how many could be read, and were cut into so many `chunks`.
        questions: how many the budget allows; with `questions.keep`, in the first round.
        parts: what each step asks.
        seconds: how long the endpoint takes, from and to; None for a local model and for a batch endpoint.
        measured: replies of this model, of a sample or an earlier build, that the estimate rests on.
        model: the generator; `own` where it is local or self-hosted: an unknown price is no obstacle.
        price: of the generator, in dollars per million tokens; None when it is unknown.
        spent: dollars that the run has cost so far.
        cap: `generator.max_cost`; without one, a build of more than `confirm_above` dollars is not begun.
        keep: how many are wanted (`questions.keep`), and `most` how many all rounds together may ask for them.
        left_out: a sentence for each language in which kinds of question are not asked.
        attempts: how often one call is made at most, where its reply is of no use.
        scorer: the local model that reads the questions for `cleaning.learned`; None: none does.
        unreadable: path and reason of each document that cannot be read.
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
    keep: int | None = None
    most: int | None = None
    left_out: tuple[str, ...] = ()
    attempts: int = 1
    scorer: str | None = None
    batched: bool = False
    unreadable: tuple[tuple[str, str], ...] = ()

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


_NAMED = 10
"""Most documents that are named of those that cannot be read, as after a build."""


def confirm(found: Estimate) -> None:
    """Let a build go on to its first call, or say what is needed before.

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
            hint="the same command with --price 0.15/0.60   (dollars per million tokens read and written: yours)",
        )
    high = found.known_dollars[1]
    if high > found.confirm_above:
        raise UsageError(
            f"This build may cost {dollars(high)}: say how much it may cost at most. Nothing was asked yet.\n{words}",
            where=f"generator.confirm_above is {dollars(found.confirm_above)}",
            hint=f"the same command with --max-cost {rounded_up(found.spent + high)}",
        )


def rounded_up(amount: float) -> str:
    """Return an amount of dollars, rounded up to cents or to two digits."""
    step = 0.01 if amount < 10 else 10.0 ** (len(str(int(amount))) - 2)
    return f"{-(-amount // step) * step:.10g}"


DOING = {
    "questions": "writing questions",
    "reworded": "wording questions anew",
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
    corpus = f"{facts['documents']:,} documents, {facts['chunks']:,} chunks, "
    if facts["keep"]:
        corpus += (
            f"{facts['keep']:,} kept questions wanted: {facts['questions']:,} asked for in the first round, at most"
        )
        corpus += f" {facts['most']:,} in {ROUNDS}"
    else:
        corpus += f"{facts['questions']:,} questions wanted"
    lines = [f"  {'corpus':<11} {corpus}"]
    if lost := [f"{path}: {reason}" for path, reason in facts["unreadable"]]:
        more = [f"and {len(lost) - _NAMED:,} more"] if len(lost) > _NAMED else []
        lines += [f"  {'unreadable':<11} {len(lost):,} could not be read:"]
        lines += [f"  {'':<11}   {one}" for one in [*lost[:_NAMED], *more]]
    lines += [f"  {'left out':<11} {line}" for line in facts["left_out"]]
    for part in facts["parts"]:
        lines.append(f"  {'texts' if part['purpose'] == 'embeddings' else 'calls':<11} {_part_text(part)}")
    if facts["calls"] and facts["attempts"] > 1:
        most = facts["calls"] * facts["attempts"]
        again = f"replies of no use are asked for again: at most {most:,} calls in all (generator.attempts)"
        lines.append(f"  {'again':<11} {again}")
    if facts["scorer"]:
        read = f"{facts['scorer']} reads the questions on this machine, at most {facts['questions']:,}"
        lines.append(f"  {'filter':<11} {read}: it takes time and no money (cleaning.learned)")
    lines.append(f"  {'cost':<11} {cost_text(facts)}")
    if facts["keep"] and facts["batched"] and facts["calls"]:
        lines.append(f"  {'batches':<11} each round is a batch of its own: up to {ROUNDS} turnarounds of the provider")
    if facts["seconds"] is not None and facts["calls"]:
        low, high = facts["seconds"]
        lines.append(f"  {'time':<11} {long(low)} to {long(high)} at the limits that are set")
    guessed = "experience with other models; --sample 10 asks ten calls and knows better"
    replies = "reply" if facts["measured"] == 1 else "replies"
    based = f"{facts['measured']:,} {replies} of this model" if facts["measured"] else guessed
    return "\n".join([*lines, f"  {'rests on':<11} {based}"])


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
