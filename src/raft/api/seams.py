"""Models and indexes opened from the settings: the one place where a setting becomes a vendor's object."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from raft import pipeline
from raft.backends import models, unsloth
from raft.backends.asking import AskingGenerator, Model, Reply
from raft.backends.batches import BatchModel
from raft.backends.embedding import open_embedder
from raft.backends.flowing import FlowingGenerator
from raft.backends.fresh import FreshGenerator
from raft.backends.hosted import HostedModel
from raft.backends.indexes import Indexes
from raft.backends.local import LocalModel
from raft.backends.manners import Manners
from raft.backends.peft import PeftTrainer
from raft.backends.prices import list_price
from raft.backends.providers import is_own
from raft.backends.weights import Weights
from raft.batchbook import BatchBook
from raft.errors import UsageError
from raft.ledger import CachedEmbedder, CachedScorer, Ledger
from raft.pipeline.estimating import UNASKED, Circumstances
from raft.pipeline.field import Opened
from raft.protocols import Embedder, Failure, Generator, Request, Retriever, Trainer
from raft.settings import Settings
from raft.spending import CheckedGenerator, PaidEmbedder, Price, Purse

_BATCH_DISCOUNT = 0.5
_FREE = Price(0.0, 0.0)


def open_seams(
    folder: Path,
    settings: Settings,
    ledger: Ledger,
    collection: str,
    tell: pipeline.Listen,
    *,
    check: Callable[[], None] = lambda: None,
) -> pipeline.Seams:
    """Open the models and indexes of a build.

    Args:
        folder: the run directory.
        settings: the experiment.
        ledger: what was asked and embedded before is taken from it.
        collection: the index's name at a Chroma server, and the run's name in the ledger.
        tell: told of each batch of replies ("asked").
        check: called before something is asked that may cost money; it raises where it must not be asked.

    Raises:
        UsageError: a model is unknown, its package is not installed, or there is a cap for what has no known price.
    """
    embedder = _embedder(settings, ledger, collection, check)
    chosen = settings.generator
    model: Model
    if not models.is_hosted(chosen.model):
        model = LocalModel(chosen.model, batch=chosen.batch)
    elif chosen.batch_endpoint:
        price = price_of(chosen.model, settings)
        model = BatchModel(
            chosen.model,
            api_base=chosen.api_base,
            timeout=chosen.timeout,
            effort=chosen.reasoning_effort,
            book=BatchBook(ledger, collection),
            price=price,
            purse=Purse(ledger, run=collection, model=chosen.model, price=price, cap=chosen.max_cost),
            say=tell,
        )
    else:
        model = _hosted(chosen.model, settings, chosen.api_base)
        if BatchBook(ledger, collection).unfinished(model.identity):
            raise UsageError(
                f"A batch that this run has asked of {chosen.model} is still under way: to ask directly now would be"
                " paid for twice.",
                where=folder,
                hint="--set generator.batch_endpoint=true   (goes on waiting for it)",
            )
    generator = asker(
        model,
        settings,
        ledger,
        run=collection,
        attempts=chosen.attempts,
        cap=chosen.max_cost,
        max_failures=chosen.max_failures,
        tell=tell,
    )
    return pipeline.Seams(
        generator=CheckedGenerator(generator, check) if models.is_hosted(chosen.model) else generator,
        embedder=embedder,
        student=models.tokenizer(settings.student),
        indexes=_indexes(folder, settings, embedder, collection),
    )


def asker(
    model: Model,
    settings: Settings,
    ledger: Ledger,
    *,
    run: str = "",
    attempts: int,
    cap: float | None = None,
    max_failures: float | None = None,
    tell: pipeline.Listen = lambda event, facts: None,
) -> Generator:
    """Return what asks a model, through the ledger: many requests in flight, where the model can do so.

    Args:
        model: what answers.
        settings: prices are taken from them.
        ledger: what was answered before is taken from it.
        run: the run's name in the ledger, whose calls they are; "" where they are nobody's.
        attempts: how often one request is asked before it is a failure.
        cap: dollars that the run may cost in all.
        max_failures: share of requests without a usable reply at which it stops.
        tell: told of replies ("asked").

    Raises:
        UsageError: there is a cap, and the model's price is unknown.
    """
    if not hasattr(model, "flight"):
        return AskingGenerator(
            model,
            ledger,
            attempts=attempts,
            progress=lambda new, replayed: tell("asked", {"new": new, "replayed": replayed}),
        )
    return FlowingGenerator(
        cast("HostedModel", model),
        ledger,
        Purse(ledger, run=run, model=model.name, price=price_of(model.name, settings), cap=cap),
        attempts=attempts,
        max_failures=max_failures,
        progress=lambda facts: tell("asked", facts),
    )


def price_of(name: str, settings: Settings) -> Price | None:
    """Return what a hosted model costs: by the settings, or else by the list; None when neither knows it.

    Raises:
        UsageError: the settings have one half of a price, and the list does not know the other.
    """
    given = [settings.generator] if name == settings.generator.model else []
    given += [one for one in settings.benchmark.larger if one.model == name]  # type: ignore[misc]
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
                    hint="--price IN/OUT   (dollars per million tokens read and written)",
                )
            return Price(known.input if read is None else read, known.output if written is None else written)
    return list_price(name)


def circumstances(settings: Settings, ledger: Ledger, collection: str, seams: pipeline.Seams) -> Circumstances:
    """Return what an estimate has to know of prices, and of what the ledger holds already."""
    chosen, hosted = settings.generator, models.is_hosted(settings.generator.model)
    price = price_of(chosen.model, settings) if hosted else _FREE
    name, identity = chosen.model, seams.generator.identity
    asked_before = bool(ledger.read("SELECT EXISTS (SELECT 1 FROM completions WHERE model = ?)", (name,))[0][0])
    embedder = settings.index.embedder
    paying = models.is_hosted(embedder) and isinstance(seams.embedder, CachedEmbedder)
    embedder_price = list_price(embedder) or (_FREE if is_own(embedder, settings.index.api_base) else None)
    rows = ledger.spending(collection)
    return Circumstances(
        price=price.times(_BATCH_DISCOUNT) if price and chosen.batch_endpoint else price,
        embedder_price=embedder_price,
        hosted=hosted,
        own=not hosted or is_own(chosen.model, chosen.api_base),
        replay=AskingGenerator(_Nobody(name, identity), ledger, attempts=chosen.attempts) if asked_before else None,
        paid=lambda purpose: sum(row["calls"] for row in rows if row["purpose"] == purpose),
        embedded=cast("CachedEmbedder", seams.embedder).known if paying else None,
        spent=sum(row["cost"] + row["lost_cost"] for row in rows),
        room=Manners(name, chosen.reasoning_effort).room if hosted else 0,
    )


class _Nobody:
    """A model that answers nothing: what is left is what the ledger answers."""

    window = 512

    def __init__(self, name: str, identity: str) -> None:
        self.name, self.identity = name, identity

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Fail all wanted calls."""
        yield [(i, Failure(UNASKED, "it was not asked yet")) for i, is_wanted in enumerate(wanted) if is_wanted]


def open_retriever(folder: Path, settings: Settings, collection: str) -> Retriever:
    """Open the index of a run directory for searching; `collection` is the index's name at a Chroma server."""
    embedder = open_embedder(settings.index.embedder, settings.index.api_base)
    return _indexes(folder, settings, embedder, collection).open()


def _embedder(settings: Settings, ledger: Ledger, run: str, check: Callable[[], None]) -> Embedder:
    name = settings.index.embedder
    embedder = open_embedder(name, settings.index.api_base)
    if models.is_hosted(name):
        price, cap = list_price(name), settings.generator.max_cost
        if price is None and is_own(name, settings.index.api_base):
            price = _FREE
        if price is None and cap is not None:
            raise UsageError(
                f"The price of the embedder {name} is unknown, so that a cap could not be kept.",
                where="generator.max_cost",
                hint="--embedder openai/text-embedding-3-small, or one on this machine; or leave out --max-cost",
            )
        embedder = PaidEmbedder(embedder, Purse(ledger, run=run, model=name, price=price, cap=cap), check)
    return CachedEmbedder(embedder, ledger)


def _indexes(folder: Path, settings: Settings, embedder: Embedder, collection: str) -> Indexes:
    return Indexes(folder, embedder, hybrid=settings.index.hybrid, url=settings.index.url, collection=collection)


def question_embedder(settings: Settings, ledger: Ledger) -> Embedder:
    """Open the embedder with what the ledger holds already."""
    return CachedEmbedder(open_embedder(settings.index.embedder, settings.index.api_base), ledger)


def open_model(
    name: str,
    settings: Settings,
    ledger: Ledger,
    *,
    adapter: Path | None = None,
    weights: Weights | None = None,
    api_base: str | None = None,
    run: str = "",
    tell: pipeline.Listen = lambda event, facts: None,
) -> Opened:
    """Open a model that answers questions.

    Args:
        name: a hub name, a folder, or provider/name.
        settings: the experiment.
        ledger: what it said before is taken from it.
        adapter: the folder of an adapter, or None.
        weights: the model's weights, where several adapters share them.
        api_base: address of a self-hosted endpoint.
        run: the run's name in the ledger, whose calls they are; its cap holds for them too.
        tell: told of each batch of replies ("asked").

    Raises:
        UsageError: the model is unknown, its package is not installed, or the run has a cap and its price is unknown.
    """
    model = open_bare(name, settings, adapter=adapter, weights=weights, api_base=api_base)
    # what costs nothing needs no price to keep a cap
    free = is_own(name, api_base) and price_of(name, settings) is None
    limit = most_tokens(name, settings)
    return Opened(
        name=name,
        adapter=adapter.name if adapter else None,
        generator=asker(
            model,
            settings,
            ledger,
            run=run,
            attempts=1,
            cap=settings.generator.max_cost if run and not free else None,
            tell=tell,
        ),
        fresh=FreshGenerator(model),
        scorer=None if models.is_hosted(name) else CachedScorer(cast("LocalModel", model), ledger),
        room=None if limit is None else (models.tokenizer(name), limit),
    )


def most_tokens(name: str, settings: Settings) -> int | None:
    """Return how many tokens a prompt of a model may have beside the answer; None where the model doesn't tell."""
    context = None if models.is_hosted(name) else models.context_length(name)
    return None if context is None else context - settings.answering.max_tokens


def open_bare(
    name: str,
    settings: Settings,
    *,
    adapter: Path | None = None,
    weights: Weights | None = None,
    api_base: str | None = None,
) -> HostedModel | LocalModel:
    """Open a model that answers questions as it is, without a ledger.

    Args:
        name: a hub name, a folder, or provider/name.
        settings: the experiment.
        adapter: the folder of an adapter, or None.
        weights: the model's weights, where several adapters share them.
        api_base: address of a self-hosted endpoint.

    Raises:
        UsageError: the model is unknown, its package is not installed, or it is hosted and an adapter is given.
    """
    if not models.is_hosted(name):
        return LocalModel(name, batch=settings.answering.batch, adapter=adapter, weights=weights)
    if adapter is not None:
        raise UsageError(
            "A hosted model takes no adapter from here.", where=name, hint="leave out --adapter, or name a local model"
        )
    return _hosted(name, settings, api_base)


def _hosted(name: str, settings: Settings, api_base: str | None) -> HostedModel:
    chosen = settings.generator
    return HostedModel(
        name,
        api_base=api_base,
        concurrency=chosen.concurrency,
        timeout=chosen.timeout,
        requests_per_minute=chosen.requests_per_minute,
        tokens_per_minute=chosen.tokens_per_minute,
        effort=chosen.reasoning_effort if name == chosen.model else None,
    )


def open_trainer(backend: str) -> Trainer:
    """Return what trains: `backend` is "peft", "unsloth", or "auto" for Unsloth where it is at hand."""
    if backend == "unsloth" or (backend == "auto" and unsloth.available()):
        return unsloth.UnslothTrainer()
    return PeftTrainer()
