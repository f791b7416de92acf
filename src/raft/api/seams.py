"""Models and indexes opened from the settings: the one place where a setting becomes a vendor's object."""

from pathlib import Path

from raft import pipeline
from raft.backends import models
from raft.backends.asking import AskingGenerator
from raft.backends.embedding import open_embedder
from raft.backends.fresh import FreshGenerator
from raft.backends.hosted import HostedModel
from raft.backends.indexes import Indexes
from raft.backends.local import LocalModel
from raft.backends.weights import Weights
from raft.ledger import CachedEmbedder, Ledger
from raft.pipeline.benchmarking import Opened
from raft.protocols import Embedder, Retriever
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
) -> Opened:
    """Open a model that answers questions.

    Args:
        name: a hub name, a folder, or provider/name.
        settings: the experiment.
        ledger: what it said before is taken from it.
        adapter: the folder of an adapter, or None.
        weights: the model's weights, where several adapters share them.
        api_base: address of a self-hosted endpoint.

    Raises:
        UsageError: the model is unknown, or its package is not installed.
    """
    model: HostedModel | LocalModel
    if models.is_hosted(name):
        chosen = settings.generator
        model = HostedModel(name, api_base=api_base, concurrency=chosen.concurrency, timeout=chosen.timeout)
    else:
        model = LocalModel(name, batch=settings.answering.batch, adapter=adapter, weights=weights)
    return Opened(
        name=name,
        adapter=adapter.name if adapter else None,
        generator=AskingGenerator(model, ledger, attempts=1),
        fresh=FreshGenerator(model),
        scorer=model if isinstance(model, LocalModel) else None,
    )
