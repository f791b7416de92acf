"""Models and indexes opened from the settings: the one place where a setting becomes a vendor's object."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from raft import prompts
from raft.api.budgets import budget_of
from raft.backends import hub
from raft.backends.asking import AskingGenerator, Model
from raft.backends.embedding import SentenceEmbedder, open_embedder
from raft.backends.hosted import lora, providers
from raft.backends.hosted.batches import BatchModel
from raft.backends.hosted.endpoints import endpoint_facts
from raft.backends.hosted.flowing import FlowingGenerator, UncachedGenerator
from raft.backends.hosted.model import HostedModel
from raft.backends.hosted.providers import addresses_in_environment, check_key, provider_of
from raft.backends.index.chroma import ChromaIndex
from raft.backends.index.hybrid import HybridRetriever, Indexes
from raft.backends.local.generate import LocalModel
from raft.backends.local.states import StateEmbedder
from raft.backends.local.weights import Weights
from raft.backends.ray.engine import RayEngine
from raft.backends.ray.models import SpreadEmbedder, SpreadModel, by_shards
from raft.curation import learned
from raft.errors import DamagedArtifact, UsageError, typed
from raft.evaluation.contexts import depth
from raft.evaluation.systems import OpenedModel
from raft.pipeline.bench import Search
from raft.pipeline.build import Components
from raft.pipeline.refusal import Reader, read_head
from raft.pipeline.retriever import tuned, used
from raft.protocols import Embedder, Generator, OnEvent, Retriever, Tokenizer
from raft.rag.grounding import Passage
from raft.rag.refusal import Pair, Refusal, Seen, asked, by_head, by_rule
from raft.settings import Settings
from raft.store.again import again
from raft.store.batches import BatchBook
from raft.store.budget import Budget, PaidEmbedder
from raft.store.ledger import CachedEmbedder, CachedScorer, Ledger, kept_under, known_as
from raft.store.run import Run
from raft.text.secrets import ApiBase, each_address, is_loopback, shown_address, tell_in_the_clear


def open_components(
    folder: Path,
    settings: Settings,
    ledger: Ledger,
    collection: str,
    on_event: OnEvent,
    *,
    engine: RayEngine | None = None,
) -> Components:
    """Open the models and indexes of a build; `collection` is its name in the ledger, and at a Chroma server.

    With an `engine` its shards do the work of the models, and read and cut documents.

    Raises:
        UsageError: a model is unknown, its package is not installed, or there is a cap for what has no known price.
    """
    embedder = question_embedder(settings, ledger, collection, on_event, engine)
    chosen = settings.generator
    model: Model | HostedModel
    budget = budget_of(chosen.model, settings, ledger, collection, api_base=chosen.api_base)
    if budget is None:
        own = LocalModel(chosen.model, batch=chosen.batch)
        model = SpreadModel(own, chosen.batch, engine) if engine else own
    elif chosen.batch_endpoint:
        if not isinstance(chosen.api_base, str | None):
            raise UsageError(
                "A batch is asked of one endpoint, and generator.api_base has several.",
                where="generator.batch_endpoint",
                hint="--set generator.batch_endpoint=false   (or one address: --set "
                f"{typed(f'generator.api_base={shown_address(chosen.api_base[0])}')})",
            )
        model = BatchModel(
            chosen.model,
            api_base=chosen.api_base,
            timeout=chosen.timeout,
            effort=chosen.reasoning_effort,
            known_as=[str(chosen.api_base), *known_as(ledger, chosen.model, chosen.api_base)]
            if chosen.api_base
            else (),
            book=BatchBook(ledger, collection),
            price=budget.price,
            budget=budget,
            say=on_event,
        )
    else:
        spread = by_shards(chosen.model, engine) if engine else None
        model = _hosted(chosen.model, settings, chosen.api_base, ledger, spread)
        book = BatchBook(ledger, collection)
        if any(book.unfinished(identity) for identity in kept_under(model)):
            raise UsageError(
                f"A batch that this run has asked of {chosen.model} is still under way: to ask directly now would be"
                " paid for twice.",
                where=folder,
                hint="--set generator.batch_endpoint=true   (goes on waiting for it)",
            )
    generator = asker(
        model, ledger, budget, attempts=chosen.attempts, max_failures=chosen.max_failures, on_event=on_event
    )
    return Components(
        generator=generator,
        embedder=embedder,
        student=_student(settings.student),
        indexes=open_indexes(folder, settings, embedder, collection),
        scorer=_scorer(settings, model, ledger),
        workers=engine,
    )


def _scorer(settings: Settings, model: Any, ledger: Ledger) -> CachedScorer | None:
    if settings.cleaning.learned is None:
        return None
    name = learned.load(settings.cleaning.learned).model
    own = isinstance(model, LocalModel) and model.name == name  # the generator, whose weights are there already
    return CachedScorer(model if own else LocalModel(name, batch=settings.generator.batch), ledger)


def _student(name: str) -> Tokenizer:
    """Return the student's tokenizer, whose chat template has been tried: a row that it refuses would come too late."""
    tokenizer = hub.tokenizer(name)
    if not hub.is_hosted(name):
        tokenizer.count_chat(hub.TRIED)
    return tokenizer


def asker(
    model: Model | HostedModel,
    ledger: Ledger,
    budget: Budget | None,
    *,
    attempts: int,
    max_failures: float | None = None,
    on_event: OnEvent = lambda event, facts: None,
) -> Generator:
    """Return what asks a model, through the ledger and paid from a budget: many requests at once, where the model can.

    A request is a failure after so many `attempts`, and all end at a share of `max_failures` without a usable reply.
    """
    if budget is None or not hasattr(model, "pool"):
        return AskingGenerator(
            cast("Model", model),
            ledger,
            attempts=attempts,
            progress=lambda new, replayed: on_event("asked", {"new": new, "replayed": replayed}),
        )
    return FlowingGenerator(
        cast("HostedModel", model),
        ledger,
        budget,
        attempts=attempts,
        max_failures=max_failures,
        progress=lambda facts: on_event("asked", facts),
        say=on_event,
    )


def open_retriever(
    folder: Path, settings: Settings, collection: str, ledger: Callable[[], Ledger]
) -> ChromaIndex | HybridRetriever:
    """Open the index of a run directory for searching, with its tuned retriever where one is used; close it.

    `ledger` is called where embedding questions costs money: they are paid for and kept there.

    Raises:
        UsageError: the run has a cap, and the embedder's price is unknown.
        DamagedArtifact: an index is not what the build made.
    """
    embedder = search_embedder(settings, collection, ledger)
    indexes, run = open_indexes(folder, settings, embedder, collection), Run(folder)
    made = run.manifest["steps"].get("lexical", {}).get("artifacts", {}).get("lexical", {}).get("digest")
    if settings.index.hybrid and made is not None and indexes.lexical_digest() not in (None, made):
        hint = again(folder, remark="makes it anew")
        raise DamagedArtifact("The lexical index is damaged.", where=folder / "lexical", hint=hint)
    return indexes.open(asker=tuned(run, embedder, open_embedder))


def search_embedder(settings: Settings, collection: str, ledger: Callable[[], Ledger]) -> Embedder:
    """Open the embedder that searches, as `open_retriever` does."""
    if hub.is_hosted(settings.index.embedder):
        return question_embedder(settings, ledger(), collection)
    return open_embedder(settings.index.embedder)


def open_reader(
    settings: Settings,
    embedder: Embedder,
    ledger: Ledger | None = None,
    weights: Weights | None = None,
    *,
    anew: bool = False,
) -> Reader:
    """Open what a refusal head looks with: the embedder, and the student where it is local.

    What the student's layers made of a text before is taken from the `ledger`; without one, nothing of it is kept.
    With `anew` vectors are made anew too, so that they can be timed.
    """
    cached = embedder if isinstance(embedder, CachedEmbedder) else None
    embed = cached.uncached if cached and anew else embedder.embed
    if hub.is_hosted(settings.student):
        return Reader(Seen(embed), embedder.identity, None)
    prompt = prompts.load("stated", settings.prompts)
    weights = weights or Weights(settings.student)
    states = StateEmbedder(settings.student, weights)
    spoken = LocalModel(settings.student, batch=1, weights=weights)
    kept = states if ledger is None else CachedEmbedder(states, ledger)

    def read(pairs: Sequence[Pair]) -> Any:
        return kept.embed([spoken.render(asked(prompt, *pair)) for pair in pairs])

    return Reader(Seen(embed, read), embedder.identity, f"{states.identity}:{prompt.digest}")


def refusal_lacks(run: Run, settings: Settings, embedder: Embedder) -> str:
    """Return why the run's refusal head cannot be used; "" where it can. `embedder` is the index's.

    Raises:
        DamagedArtifact: the head cannot be read.
    """
    head = read_head(run)
    if head is None:
        return "the run has no refusal head of its questions of now"
    reader = open_reader(settings, embedder)
    made = head.embedder, head.reader, head.hybrid, head.retriever
    if made != (reader.embedder, reader.reader, settings.index.hybrid, used(run, reader.embedder)):
        return "the refusal head is of another student, prompt, embedder or way to search"
    return ""


def open_refusal(
    run: Run,
    settings: Settings,
    embedder: Embedder,
    *,
    ledger: Ledger | None = None,
    weights: Weights | None = None,
    least: float | None = None,
    anew: bool = False,
) -> Refusal | None:
    """Return what decides that no model is asked: the run's head, a rule where there is none, or None.

    `embedder` is the index's, `least` a threshold of the rule, in the place of what is set; `ledger`, `weights` (the
    student's, where they are loaded) and `anew` are as for `open_reader`.

    Raises:
        DamagedArtifact: the head cannot be read.
    """
    rate = settings.answering.false_answers
    if rate and least is None and not refusal_lacks(run, settings, embedder):
        head = read_head(run)
        assert head is not None
        return by_head(head, open_reader(settings, embedder, ledger, weights, anew=anew).seen, rate)
    chosen = settings.answering.min_relevance if least is None else least
    if not chosen:
        return None
    cached = embedder if isinstance(embedder, CachedEmbedder) else None
    return by_rule(chosen, cached.uncached if cached and anew else embedder.embed)


def uncached_search(retriever: Retriever, settings: Settings, refusal: Refusal | None) -> Search:
    """Return what does for one question all that comes before a model is asked, the ledger's vectors left aside."""
    embedder = retriever.embedder
    cached = embedder if isinstance(embedder, CachedEmbedder) else None

    def search(question: str, passages: Sequence[Passage]) -> None:
        if cached:
            cached.uncached([question])
        retriever.search([question], depth(settings.index.k))
        if refusal:
            refusal.under([question], [passages])

    return search


def open_indexes(folder: Path, settings: Settings, embedder: Embedder, collection: str) -> Indexes:
    """Return the indexes of a run directory; nothing is opened yet."""
    return Indexes(folder, embedder, hybrid=settings.index.hybrid, url=settings.index.url, collection=collection)


def question_embedder(
    settings: Settings,
    ledger: Ledger,
    run: str,
    on_event: OnEvent = lambda event, facts: None,
    engine: RayEngine | None = None,
) -> Embedder:
    """Open the embedder with what the ledger holds already; what it does not is paid for by the run of that name.

    Where it is a local one, the shards of an `engine` do its work.

    `on_event` is told of texts that were embedded ("embedded", `new`; of several endpoints also `model`, `endpoints`).

    Raises:
        UsageError: the run has a cap, and the embedder's price is unknown.
    """
    name, address = settings.index.embedder, settings.index.api_base
    known = known_as(ledger, name, address) if hub.is_hosted(name) else ()
    embedder = open_embedder(name, address, known_as=known)
    budget = budget_of(name, settings, ledger, run, api_base=address)
    paid = PaidEmbedder(embedder, budget) if budget else embedder
    if engine and isinstance(embedder, SentenceEmbedder):
        paid = SpreadEmbedder(name, embedder, engine)
    facts = partial(endpoint_facts, name, getattr(embedder, "tallies", ()))
    return CachedEmbedder(paid, ledger, lambda count: on_event("embedded", {"new": count, **facts()}))


def open_model(
    name: str,
    settings: Settings,
    ledger: Ledger,
    *,
    adapter: Path | None = None,
    weights: Weights | None = None,
    api_base: ApiBase = None,
    run: str = "",
    on_event: OnEvent = lambda event, facts: None,
) -> OpenedModel:
    """Open a model that answers questions, as `open_bare` does; what it said before is taken from the ledger.

    `run` is the run's name in the ledger, whose calls they are, and whose cap holds for them too; `on_event` is told of
    each batch of replies ("asked").

    Raises:
        UsageError: the model is unknown, its package is not installed, or the run has a cap and its price is unknown.
    """
    model = open_bare(name, settings, adapter=adapter, weights=weights, api_base=api_base, ledger=ledger)
    if isinstance(model, lora.TunedModel):
        model.load()  # before any work is done in vain
    pay = partial(budget_of, name, settings, ledger, run, api_base=api_base)
    limit = most_tokens(name, settings)
    return OpenedModel(
        name=name,
        adapter=adapter.name if adapter else None,
        generator=asker(model, ledger, pay(), attempts=1, on_event=on_event),
        uncached=UncachedGenerator(model, pay(keeps=False), say=on_event),
        scorer=None if hub.is_hosted(name) else CachedScorer(cast("LocalModel", model), ledger),
        prompt_limit=None if limit is None else (hub.tokenizer(name), limit),
    )


def most_tokens(name: str, settings: Settings) -> int | None:
    """Return how many tokens a prompt of a model may have beside the answer; None where the model doesn't tell."""
    context = None if hub.is_hosted(name) else hub.context_length(name)
    return None if context is None else context - settings.answering.max_tokens


def open_bare(
    name: str,
    settings: Settings,
    *,
    adapter: Path | None = None,
    weights: Weights | None = None,
    api_base: ApiBase = None,
    ledger: Ledger | None = None,
) -> HostedModel | LocalModel:
    """Open a model that answers questions as it is: nothing is looked up, and nothing kept.

    Args:
        name: a hub name, a folder, or provider/name.
        settings: the experiment.
        adapter: the folder of an adapter.
        weights: the model's weights, where several adapters share them.
        api_base: address of a self-hosted endpoint, or of several.
        ledger: what knows the name of its endpoints, where its replies are to be kept.

    Raises:
        UsageError: the model is unknown, its package is not installed, or it is hosted and an adapter is given.
    """
    if not hub.is_hosted(name):
        return LocalModel(name, batch=settings.answering.batch, adapter=adapter, weights=weights)
    if adapter is not None:
        if not lora.takes_adapters(name):
            hint = f"leave out --adapter, or name a local model, or a vLLM: --model {lora.PROVIDER}/NAME"
            raise UsageError("A hosted model takes no adapter from here.", where=name, hint=hint)
        return _hosted("", settings, api_base, ledger, partial(lora.TunedModel, name, adapter))
    return _hosted(name, settings, api_base, ledger)


def _hosted(
    name: str,
    settings: Settings,
    api_base: ApiBase,
    ledger: Ledger | None,
    tuned: Callable[..., HostedModel] | None = None,
) -> HostedModel:
    chosen = settings.generator
    return (tuned or partial(HostedModel, name))(
        api_base=api_base,
        concurrency=chosen.concurrency,
        timeout=chosen.timeout,
        requests_per_minute=chosen.requests_per_minute,
        tokens_per_minute=chosen.tokens_per_minute,
        effort=chosen.reasoning_effort if name == chosen.model else None,
        known_as=known_as(ledger, name or lora.PROVIDER, api_base) if ledger else (),
    )


def check(settings: Settings, *, asked: Mapping[str, ApiBase] | None = None) -> None:
    """Let a command go on, or refuse it under `local_only`; from then on hub downloads are refused too, or allowed.

    `asked` are the models that the command asks, with their addresses (None: the provider's own), by default the
    generator; embedder and index are looked at in any case.

    Raises:
        UsageError: `local_only` is set, and a model or the index is not on this machine; nothing was started.
    """
    hub.offline(settings.local_only)
    if not settings.local_only:
        return
    generator = settings.generator
    wanted: Mapping[str, ApiBase] = {generator.model: generator.api_base} if asked is None else asked
    named = [("the model", name, address) for name, address in wanted.items()]
    named.append(("index.embedder", settings.index.embedder, settings.index.api_base))
    found = [f"{role} {name}: {why}" for role, name, address in named for why in _why_remote(name, address)]
    url = settings.index.url
    found += [f"index.url: {why}" for why in (why_off_loopback(url) if url else ())]
    cluster = settings.engine.address if settings.engine.kind == "ray" else None
    if cluster and cluster not in ("auto", "local"):  # Ray asks no proxy; which nodes it has is seen once it is reached
        cluster = cluster if "://" in cluster else f"ray://{cluster}"
        found += [f"engine.address: {why}" for why in why_off_loopback(cluster)]
    if found:
        raise UsageError(
            "local_only is set, and not everything that would be asked is on this machine.",
            where="; ".join(found),
            hint="name local models, or servers at 127.0.0.1, ::1 or localhost; or --set local_only=false",
        )


def check_keys(asked: Mapping[str, ApiBase], ledger: Ledger | None = None) -> None:
    """Check that there are the keys of hosted models, by name with their addresses, before work is done in vain.

    A model that the `ledger` knows may be asked nothing new, and is told of when it is.

    Raises:
        UsageError: there is no key in the environment.
    """
    known = "SELECT EXISTS (SELECT 1 FROM completions WHERE model = ?) OR EXISTS (SELECT 1 FROM calls WHERE model = ?)"
    for name, address in asked.items():
        if hub.is_hosted(name) and not (ledger and ledger.read(known, (name, name))[0][0]):
            for one in each_address(address) or (None,):
                check_key(name, one)
                if any(os.environ.get(key) for key in providers.key_variables(name)):
                    tell_in_the_clear(providers.address_of(name, one) or "https:")


def address_of(name: str, settings: Settings) -> ApiBase:
    """Return the address, or addresses, that the settings give for a model that answers; None: its provider's own."""
    if name == settings.generator.model:
        return settings.generator.api_base
    return next((one.api_base for one in settings.benchmark.larger if one.model == name), None)


def _why_remote(name: str, api_base: ApiBase) -> Iterator[str]:
    """Say why a model is not on this machine; nothing where it is."""
    if not hub.is_hosted(name):
        return
    provider = provider_of(name)
    if not provider.local:
        yield f"{name.partition('/')[0]} is not on this machine"
        return
    # which of the variables wins is the vendor's affair: each one that is set has to name this machine
    given = [*each_address(api_base)] or addresses_in_environment(name) or [provider.address or ""]
    for address in given:
        yield from why_off_loopback(address) if address else ["it has no address (api_base)"]


def why_off_loopback(address: str) -> Iterator[str]:
    """Say why an address is not this machine's own; nothing where it is. No name is looked up."""
    if not address.isprintable() or set(address) & set(" \\"):
        yield "its address is malformed"
        return
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host = (parts.hostname or "").removesuffix(".")
    except ValueError:
        yield "its address is malformed"
        return
    if not is_loopback(host):
        yield f"{host or 'its address'} is not the loopback"
    elif parts.scheme in getproxies() and not proxy_bypass(host):
        yield f"a proxy is set for {parts.scheme}, and NO_PROXY does not name {host}"
