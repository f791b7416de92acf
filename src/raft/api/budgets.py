"""The one place where budgets are opened: what hosted calls are paid from, and what an estimate knows of prices."""

from collections.abc import Iterator, Sequence
from typing import cast

from raft.backends import hub
from raft.backends.asking import AskingGenerator, Reply
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.providers import is_free, is_own, list_price
from raft.errors import UsageError
from raft.pipeline.build import Components
from raft.pipeline.counting import UNASKED, CostContext
from raft.protocols import Failure, Request
from raft.settings import Settings
from raft.store.budget import Budget, Price, dollars
from raft.store.ledger import CachedEmbedder, Ledger, kept_under
from raft.text.secrets import ApiBase

FREE = Price(0.0, 0.0)
_BATCH_DISCOUNT = 0.5


def budget_of(
    name: str, settings: Settings, ledger: Ledger, run: str, *, api_base: ApiBase, keeps: bool = True
) -> Budget | None:
    """Open the budget that calls to a model are paid from, whoever asks in a run's name; None for a local model.

    `run` is the run's name in the ledger, "" where calls are nobody's and no cap holds; with `keeps`, replies are kept
    beside what they cost.

    Raises:
        UsageError: the run has a cap, and the model's price is unknown.
    """
    if not hub.is_hosted(name):
        return None
    price, cap = price_of(name, settings, api_base), settings.generator.max_cost if run else None
    if cap is not None and price is None:
        larger = f"--set 'benchmark.larger=[{{model: {name}, input_price: 0.15, output_price: 0.60}}]'"
        judge = settings.benchmark.judge
        told = f"--set 'benchmark.judge={{model: {name}, input_price: 0.15, output_price: 0.60}}'"
        ways = {
            **({judge.model: told} if judge else {}),
            settings.index.embedder: "--set index.input_price=0.02",
            settings.generator.model: "--price 0.15/0.60",
        }
        raise UsageError(
            f"The price of {name} is unknown, so that a cap of {dollars(cap)} could not be kept.",
            where="generator.max_cost",
            hint=f"{ways.get(name, larger)}   (with yours: dollars per million tokens, those read and those written)",
        )
    return Budget(ledger, run=run, model=name, price=price, cap=cap, keeps=keeps)


def price_of(name: str, settings: Settings, api_base: ApiBase) -> Price | None:
    """Return what a hosted model or embedder costs: by the settings, by the list, or nothing as it is on this machine.

    None when it is elsewhere, and nobody knows.

    Raises:
        UsageError: the settings have one half of a price, and the list does not know the other.
    """
    return _told_price(name, settings) or (FREE if is_free(name, api_base) else None)


def _told_price(name: str, settings: Settings) -> Price | None:
    if name == settings.index.embedder and settings.index.input_price is not None:
        return Price(settings.index.input_price, 0.0)
    given = [settings.generator] if name == settings.generator.model else []
    judge = settings.benchmark.judge
    asked = [*settings.benchmark.larger, *([judge] if judge else [])]
    given += [one for one in asked if one.model == name]  # type: ignore[misc]
    for one in given:
        read, written = one.input_price, one.output_price
        if read is not None and written is not None:
            return Price(read, written)
        if read is not None or written is not None:
            known = list_price(name)
            if known is None:
                raise UsageError(
                    f"Only one of the two prices of {name} is given, and the other is unknown.",
                    where="input_price, output_price",
                    hint="--price 0.15/0.60   (with yours: dollars per million tokens read and written)",
                )
            return Price(known.input if read is None else read, known.output if written is None else written)
    return list_price(name)


def cost_context(settings: Settings, ledger: Ledger, collection: str, components: Components) -> CostContext:
    """Return what an estimate has to know of prices, and of what the ledger holds already."""
    chosen, hosted = settings.generator, hub.is_hosted(settings.generator.model)
    price = price_of(chosen.model, settings, chosen.api_base) if hosted else FREE
    name, identities = chosen.model, kept_under(components.generator)
    asked_before = bool(ledger.read("SELECT EXISTS (SELECT 1 FROM completions WHERE model = ?)", (name,))[0][0])
    embedder = settings.index.embedder
    paying = hub.is_hosted(embedder) and isinstance(components.embedder, CachedEmbedder)
    rows = ledger.spending(collection)
    return CostContext(
        price=price.times(_BATCH_DISCOUNT) if price and chosen.batch_endpoint else price,
        embedder_price=price_of(embedder, settings, settings.index.api_base),
        hosted=hosted,
        own=not hosted or is_own(chosen.model, chosen.api_base),
        replay=AskingGenerator(_Nobody(name, identities), ledger, attempts=chosen.attempts) if asked_before else None,
        paid=lambda purpose: sum(row["calls"] for row in rows if row["purpose"] == purpose),
        embedded=cast("CachedEmbedder", components.embedder).known if paying else None,
        spent=sum(row["cost"] + row["lost_cost"] for row in rows),
        room=Manners(name, chosen.reasoning_effort).room if hosted else 0,
    )


class _Nobody:
    """A model that answers nothing: what is left is what the ledger answers."""

    window = 512

    def __init__(self, name: str, identities: Sequence[str]) -> None:
        self.name, self.identity, self.identities = name, identities[0], identities

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        yield [(i, Failure(UNASKED, "it was not asked yet")) for i, is_wanted in enumerate(wanted) if is_wanted]
