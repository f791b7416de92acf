"""Asking: questions in, checked answers out. What was loaded for one question answers the next.

No answer is taken from or kept in the run's ledger: each is fresh, and so are its timings. What a hosted model costs is
written down there, and the run's cap holds.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import polars as pl

from raft import prompts
from raft.api import models
from raft.api.budgets import budget_of
from raft.backends import hub
from raft.backends.asking import Model
from raft.backends.hosted.lora import TunedModel
from raft.backends.hosted.model import HostedModel
from raft.backends.local.generate import LocalModel
from raft.backends.local.weights import Weights, give_back_memory
from raft.errors import UsageError, typed
from raft.pipeline.build import searched
from raft.pipeline.retriever import lacks
from raft.protocols import Completion, Embedder, Failure, Generator, OnEvent, Request, Streamer, Tokenizer
from raft.rag import answering
from raft.rag.answering import WhenUnsupported
from raft.rag.format import PROMPTS, render_style
from raft.rag.grounding import Answer, Passage
from raft.rag.refusal import Refusal
from raft.settings import Settings
from raft.store import adapters, artifacts
from raft.store.budget import Budget, enter
from raft.store.ledger import Ledger
from raft.store.run import Run, existing, is_written_by_others
from raft.text import whole

BASE = "none"
"""What stands for "no adapter" where an adapter's id is expected."""

_DEPTH = 20
"""Chunks searched for, at least: what takes the place of boilerplate among the best."""

Tell = Callable[[str], None]


class LoadedRun:
    """What the answerers of one run directory share: index, corpus, and the weights of each model.

    What another process writes into the run directory meanwhile is seen by the next question.

    Args:
        run: the run directory.
        settings: those that it was built with.
        before: another loading of the run, whose weights are used again.

    Attributes:
        turn: held by who searches: several may ask at once, and search one after the other.
    """

    def __init__(self, run: Run, settings: Settings, before: "LoadedRun | None" = None) -> None:
        self.run, self.settings, self.turn = run, settings, RLock()
        self._corpus: _Corpus | None = None
        self._weights: dict[str, Weights] = before._weights if before else {}
        self._models: dict[tuple[str, Path | None], Model | HostedModel] = {}
        self._at_engines: set[str] = before._at_engines if before else set()

    def search(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        """Return the best `k` passages for each question, boilerplate left out."""
        return self._opened().search(questions, k)

    def open(self) -> None:
        """Open the index and the tables now.

        Raises:
            RaftError: they cannot be used.
        """
        self._opened()

    def index_digest(self) -> str:
        """Return the digest of what is indexed, all of which is read for it, as the manifest has it."""
        return self._opened().index.digest()

    def _opened(self) -> "_Corpus":
        stamp = (self.run.folder / "manifest.json").stat().st_mtime_ns
        if self._corpus is None or self._corpus.stamp != stamp:
            self._let_go()
            self._corpus = _Corpus(self.whole(), self.settings, stamp, self.paying)
        return self._corpus

    def close(self) -> None:
        """Let go of the run's files."""
        self._let_go()
        if "_ledger" in self.__dict__:
            self._ledger.close()

    def _let_go(self) -> None:
        if self._corpus is not None and hasattr(self._corpus.index, "close"):
            self._corpus.index.close()
        self._corpus = None

    def whole(self) -> Run:
        """Return the run as it is now; DamagedArtifact where what is searched is missing, or of two builds."""
        run = existing(self.run.folder)
        gone = [name for name in ("documents.parquet", "chunks.parquet") if not (run.folder / name).is_file()]
        if gone and is_written_by_others(run.folder):  # then a build that runs is the better reason, if it is one
            run.require(*searched(self.settings))
        if gone:
            raise artifacts.missing(run.folder / gone[0])
        run.require(*searched(self.settings))
        return run

    def refusal_lacks(self) -> str:
        """Return why the run's refusal head cannot be used; "" where it can."""
        return models.refusal_lacks(existing(self.run.folder), self.settings, self._embedder)

    def refusal(self, least: float | None) -> Refusal | None:
        """Return what decides, of what `search` found, that no model is asked; `least` is a person's own threshold."""
        assert self._corpus is not None
        return self._corpus.refusal(
            least, self._weights.setdefault(self.settings.student, Weights(self.settings.student))
        )

    @property
    def _embedder(self) -> Embedder:
        if self._corpus is not None:
            return self._corpus.index.embedder
        return models.search_embedder(self.settings, self.run.manifest["collection"], self.paying)

    def model(self, name: str, adapter: Path | None) -> Model | HostedModel:
        """Return a model with an adapter, or none; weights are loaded once."""
        key = name, adapter
        if key not in self._models:
            address = models.address_of(name, self.settings)
            models.check_keys({name: address})
            self._models[key] = opened = models.open_bare(
                name,
                self.settings,
                adapter=adapter,
                weights=self._weights.setdefault(name, Weights(name)),
                api_base=address,
            )
            if isinstance(opened, TunedModel):
                opened.held = self._at_engines
        return self._models[key]

    def holds(self, name: str) -> bool:
        """Tell whether the weights of a model are in memory."""
        return name in self._weights and self._weights[name].loaded

    def forget(self, name: str) -> None:
        """Let go of the weights of a model that nobody asks any more."""
        if self._weights.pop(name, None) is not None:
            self._models = {key: model for key, model in self._models.items() if key[0] != name}
            give_back_memory()

    def budget(self, name: str) -> Budget | None:
        """Return what calls to a model are paid from; None for a local one."""
        if not hub.is_hosted(name):
            return None
        address = models.address_of(name, self.settings)
        run = self.run.manifest["collection"]
        return budget_of(name, self.settings, self.paying(), run, api_base=address, keeps=False)

    def paying(self) -> Ledger:
        """Return the run's ledger, which is opened where something may cost money."""
        with self.turn:
            enter(self._ledger, self.run.manifest["collection"], "ask", alone=False)
            return self._ledger

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.settings.ledger or self.run.folder / "ledger.sqlite")


class _Corpus:
    """Index and tables as they were at one time; `stamp` is when the manifest was written."""

    def __init__(self, run: Run, settings: Settings, stamp: int, ledger: Callable[[], Ledger]) -> None:
        self.stamp, self._run, self._settings = stamp, run, settings
        self._refusals: dict[float | None, Refusal | None] = {}
        self.index = models.open_retriever(run.folder, settings, run.manifest["collection"], ledger)
        documents = pl.concat(list(run.stream("documents.parquet", ["doc_id", "path", "title"])))
        self._paths = dict(documents.select("doc_id", "path").iter_rows())
        self._titles = dict(documents.select("doc_id", "title").iter_rows())
        self._find: Callable[[Collection[str]], pl.DataFrame] | None = None
        self._chunks: dict[str, dict[str, Any]] = {}
        self._read, self._boilerplate = set[str](), list[str]()

    def refusal(self, least: float | None, weights: Weights) -> Refusal | None:
        if least not in self._refusals:
            chosen = models.open_refusal(self._run, self._settings, self.index.embedder, weights=weights, least=least)
            self._refusals[least] = chosen
        return self._refusals[least]

    def search(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        hits = self._best(self.index.search(questions, max(_DEPTH, 4 * k)), k)
        queries = len(questions)
        return answering.passages_of(hits, self._chunks, paths=self._paths, titles=self._titles, queries=queries, k=k)

    def _best(self, hits: pl.DataFrame, k: int) -> pl.DataFrame:
        """Return the best `k` hits of each query but boilerplate; no rows but theirs are read, each with its group."""
        hits = hits.sort("query", "rank").unique(["query", "chunk_id"], keep="first", maintain_order=True)
        while True:
            best = (
                hits.filter(~pl.col("chunk_id").is_in(self._boilerplate)).group_by("query", maintain_order=True).head(k)
            )
            unread = {*best["chunk_id"]} - self._read
            if not unread:
                return best
            self._find = self._find or artifacts.finder(self._run.folder / "chunks.parquet", "chunk_id")
            self._chunks |= {row["chunk_id"]: row for row in self._find(unread).iter_rows(named=True)}
            self._read |= unread
            self._boilerplate += [name for name in unread if name in self._chunks and self._chunks[name]["boilerplate"]]


class Answerer:
    """One model, with an adapter or none, that answers from one run directory; `Built.answerer` returns one.

    With `later`, an adapter is loaded at an engine by `load`, and not at once.

    Attributes:
        model: the model's name.
        adapter: id of its adapter, None for the model as it is.
        remarks: what a person should know before the first answer.

    Raises:
        UsageError: there is no such adapter, it was trained on another base model, or the model is unknown.
        DamagedArtifact: the adapter is not whole, or what is searched is not.
    """

    def __init__(
        self,
        loaded: LoadedRun,
        model: str | None = None,
        adapter: str | None = None,
        on_event: OnEvent = lambda event, facts: None,
        *,
        later: bool = False,
    ) -> None:
        loaded.whole()  # what is missing is said before any advice
        self._loaded, settings, self._on_event = loaded, loaded.settings, on_event
        self.model = model or settings.student
        self._prompt = prompts.load(PROMPTS[settings.examples.quotes], settings.prompts)
        self._style = render_style(**settings.answer_style.model_dump())
        remarks: list[str] = []
        if lack := lacks(existing(loaded.run.folder)):
            remarks.append(f"{lack}: raft train {typed(loaded.run.folder)} --part retriever")
        if settings.answering.false_answers and (lack := loaded.refusal_lacks()):
            remarks.append(
                f"nothing is promised of refusals, for {lack}: raft train {typed(loaded.run.folder)} --part refusal"
            )
        folder = self._chosen(adapter, given=model is not None, remarks=remarks)
        if folder is not None:
            if not hub.is_hosted(self.model):  # an engine says itself what it has
                adapters.check_base(folder, hub.identity(self.model), self.model)
            remarks += self._differences(adapters.read_card(folder))
        self.adapter = folder.name if folder else None
        self.remarks = tuple(remarks)
        self._asked = loaded.model(self.model, folder)
        if isinstance(self._asked, TunedModel) and not later:
            self._asked.load()

    def _chosen(self, adapter: str | None, *, given: bool, remarks: list[str]) -> Path | None:
        if adapter == BASE or (adapter is None and given):
            return None
        folder = self._loaded.run.folder
        if adapter is None and adapters.current(folder) is None and not adapters.listed(folder):
            remarks.append(f"no adapter yet: {self.model} answers untuned. Tune it with: raft train {typed(folder)}")
            return None
        return adapters.find(folder, adapter)

    def _differences(self, card: Mapping[str, Any]) -> Iterator[str]:
        told = {
            "prompt": (card.get("prompt_digest"), self._prompt.digest),
            "answer style": (card.get("style"), self._style),
        }
        for name, (trained, now) in told.items():
            if trained != now:
                yield f"the {name} is not the one that the adapter was trained with; it may answer worse"

    def warm(self) -> None:
        """Load now what the first question would: the embedder, where it is on this machine, and a local model."""
        if not hub.is_hosted(self._loaded.settings.index.embedder):
            self._loaded.search(["What is it about?"], 1)
        self.load()

    @property
    def ready(self) -> bool:
        """Whether no adapter is to be loaded at an engine before it answers."""
        return not isinstance(self._asked, TunedModel) or self._asked.loaded

    def load(self) -> None:
        """Load a local model with its adapter now, or an adapter at an engine."""
        if isinstance(self._asked, TunedModel):
            self._asked.load()
        elif isinstance(self._asked, LocalModel):
            self._asked.render([{"role": "user", "content": "What is it about?"}])

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
        min_relevance: float | None = None,
        searched: Sequence[str] | None = None,
    ) -> list[Answer]:
        """Return one checked answer a question, in order, as `ask` does; a local model answers them in batches.

        `searched` is what is searched for in the place of each question, where that does not stand alone.
        """
        with closing(Ledger(Path(":memory:"))) as ledger:
            attempts = self._loaded.settings.generator.attempts
            budget = self._loaded.budget(self.model)
            generator = models.asker(self._asked, ledger, budget, attempts=attempts, on_event=self._on_event)
            return self._answers(questions, generator, k, when_unsupported, min_relevance, searched=searched)

    def ask(
        self,
        question: str,
        *,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
        min_relevance: float | None = None,
        searched: str | None = None,
        on_event: Tell | None = None,
    ) -> Answer:
        """Return one checked answer; `k`, `when_unsupported` and `min_relevance` are None where the settings hold.

        `searched` is what is searched for in the place of the question, where that does not stand alone. `on_event` is
        told the reply piece by piece while it is written, where the model can do so and no piece may have to be taken
        back: not with "retry" and "refuse". What it raises ends the writing.

        Raises:
            UsageError: the question is empty, or not even one passage fits beside it into the model's context.
            RaftError: index or model cannot be used.
        """
        wanted = when_unsupported or self._loaded.settings.answering.when_unsupported
        if on_event is not None and wanted == "mark" and hasattr(self._asked, "stream"):
            spoken = _Spoken(self.model, self._asked, self._tokenizer, on_event)
            (answer,) = self._answers([question], spoken, k, wanted, min_relevance, searched=[searched or question])
        else:
            (answer,) = self.ask_all(
                [question],
                k=k,
                when_unsupported=wanted,
                min_relevance=min_relevance,
                searched=[searched or question],
            )
        return answer

    def _answers(
        self,
        questions: Sequence[str],
        generator: Generator,
        k: int | None,
        when_unsupported: WhenUnsupported | None,
        least: float | None,
        *,
        searched: Sequence[str] | None,
    ) -> list[Answer]:
        asked = [whole(question).strip() for question in questions]
        if not all(asked):
            raise UsageError(
                "A question is empty.", hint=f"raft ask {typed(self._loaded.run.folder)} 'How long is the warranty?'"
            )
        if k is not None and k < 1:
            raise UsageError(f"{k} passages cannot be shown.", where="k", hint="--k 5")
        if least is not None and not 0 <= least <= 1:
            raise UsageError(f"{least} is no share.", where="min_relevance", hint="--min-relevance 0.5   (0 to 1)")
        if not asked:
            return []
        settings, begun = self._loaded.settings, time.monotonic()
        wanted = [whole(one).strip() for one in searched] if searched else asked
        with self._loaded.turn:
            found = self._loaded.search(wanted, k or settings.index.k)
            shown = [self._fitting(*pair) for pair in zip(asked, found, strict=True)]
            refusal = self._loaded.refusal(least)
            little = refusal.under(wanted, shown) if refusal else None
        seconds = (time.monotonic() - begun) / len(asked)
        said = answering.answer_all(
            asked,
            shown,
            generator,
            prompt=self._prompt,
            style=self._style,
            max_tokens=settings.answering.max_tokens,
            when_unsupported=when_unsupported or settings.answering.when_unsupported,
            model=self.model,
            adapter=self.adapter,
            retrieval_seconds=[seconds] * len(asked),
            asked=[score is None for score in little] if little else None,
        )
        return [
            one
            if score is None or not one.passages or refusal is None
            else replace(one, relevance=score, min_relevance=refusal.least, promised=refusal.promised)
            for one, score in zip(said, little or [None] * len(asked), strict=True)
        ]

    def _fitting(self, question: str, passages: Sequence[Passage]) -> Sequence[Passage]:
        if self._limit is None or not passages:
            return passages
        kept = answering.fit(
            passages, question, prompt=self._prompt, style=self._style, tokenizer=self._tokenizer, limit=self._limit
        )
        if not kept:
            raise UsageError(
                f"The question and one passage do not fit into the context of {self.model}: "
                f"{self._limit:,} tokens beside the answer.",
                where=question[:200],
                hint="ask a shorter question, or name a model with a longer context behind --model",
            )
        return kept

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return hub.tokenizer(self.model)

    @cached_property
    def _limit(self) -> int | None:
        """Most tokens of a prompt; None where the model does not tell."""
        return models.most_tokens(self.model, self._loaded.settings)


class _Spoken:
    """A `Generator` that tells each piece of a reply while it is written."""

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, on_event: Tell) -> None:
        self._name, self._tokenizer, self._tell = name, tokenizer, on_event
        self._model: Streamer = model
        self.identity = self._model.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        for request in requests:
            begun, pieces = time.monotonic(), []
            with closing(self._model.stream(request)) as stream:  # type: ignore[type-var]  # a generator
                for piece in stream:
                    pieces.append(piece)
                    self._tell(piece)
            text = "".join(pieces)
            yield Completion(
                text=text,
                model=self._name,
                input_tokens=self._tokenizer.count_chat(request.messages),
                output_tokens=self._tokenizer.count([text])[0],
                cost=0.0,
                seconds=time.monotonic() - begun,
            )
