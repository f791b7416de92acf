"""Models and indexes opened from the settings: the one place where a setting becomes a vendor's object."""

from pathlib import Path
from typing import cast

from raft import pipeline
from raft.backends import models, unsloth
from raft.backends.asking import AskingGenerator
from raft.backends.embedding import open_embedder
from raft.backends.fresh import FreshGenerator
from raft.backends.hosted import HostedModel
from raft.backends.indexes import Indexes
from raft.backends.local import LocalModel
from raft.backends.peft import PeftTrainer
from raft.backends.weights import Weights
from raft.errors import UsageError
from raft.ledger import CachedEmbedder, CachedScorer, Ledger
from raft.pipeline.benchmarking import Opened
from raft.protocols import Embedder, Retriever, Trainer
from raft.settings import Settings


def open_seams(
    folder: Path, settings: Settings, ledger: Ledger, collection: str, tell: pipeline.Listen
) -> pipeline.Seams:
    """Open the models and indexes of a build.

    Args:
        folder: the run directory.
        settings: the experiment.
        ledger: what was asked and embedded before is taken from it.
        collection: the index's name at a Chroma server.
        tell: told of each batch of replies ("asked").

    Raises:
        UsageError: a model is unknown, or its package is not installed.
    """
    embedder = CachedEmbedder(open_embedder(settings.index.embedder, settings.index.api_base), ledger)
    chosen = settings.generator
    model: HostedModel | LocalModel
    if models.is_hosted(chosen.model):
        model = HostedModel(
            chosen.model, api_base=chosen.api_base, concurrency=chosen.concurrency, timeout=chosen.timeout
        )
    else:
        model = LocalModel(chosen.model, batch=chosen.batch)
    return pipeline.Seams(
        generator=AskingGenerator(
            model,
            ledger,
            attempts=chosen.attempts,
            progress=lambda new, replayed: tell("asked", {"new": new, "replayed": replayed}),
        ),
        embedder=embedder,
        student=models.tokenizer(settings.student),
        indexes=_indexes(folder, settings, embedder, collection),
    )


def open_retriever(folder: Path, settings: Settings, collection: str) -> Retriever:
    """Open the index of a run directory for searching; `collection` is the index's name at a Chroma server."""
    embedder = open_embedder(settings.index.embedder, settings.index.api_base)
    return _indexes(folder, settings, embedder, collection).open()


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
        tell: told of each batch of replies ("asked").

    Raises:
        UsageError: the model is unknown, or its package is not installed.
    """
    model = open_bare(name, settings, adapter=adapter, weights=weights, api_base=api_base)
    return Opened(
        name=name,
        adapter=adapter.name if adapter else None,
        generator=AskingGenerator(
            model, ledger, attempts=1, progress=lambda new, replayed: tell("asked", {"new": new, "replayed": replayed})
        ),
        fresh=FreshGenerator(model),
        scorer=None if models.is_hosted(name) else CachedScorer(cast("LocalModel", model), ledger),
    )


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
    chosen = settings.generator
    return HostedModel(name, api_base=api_base, concurrency=chosen.concurrency, timeout=chosen.timeout)


def open_trainer(backend: str) -> Trainer:
    """Return what trains: `backend` is "peft", "unsloth", or "auto" for Unsloth where it is at hand."""
    if backend == "unsloth" or (backend == "auto" and unsloth.available()):
        return unsloth.UnslothTrainer()
    return PeftTrainer()
