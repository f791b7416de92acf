"""The systems of a benchmark, and which of them the tuned model has to beat."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raft.prompts import Prompt
from raft.protocols import Completion, Failure, Generator, Message, Request, Scorer, Tokenizer
from raft.rag.format import up_to_answer
from raft.rag.grounding import Answer

TUNED = "raft"
"""The system that the verdict is about."""

UNTUNED = ("rag", "rag_few")
"""Plain RAG, without and with worked examples in the prompt; the better one is the baseline."""

GOLDEN = "golden"
"""The untuned model with the chunk that bears the answer given: what perfect retrieval would bring."""

OTHER = "other"
"""An adapter tuned on another corpus: it has learned the form of the answers, and nothing of these documents."""

ORIGINAL = "original"
"""The adapter that what is measured was made of: merged into one model, in another format, in fewer bits."""

LARGER = "model:"
"""The name of a larger model's system begins so."""

TITLES: Mapping[str, str] = {
    "closed": "base model, no documents",
    "closed_few": "base model, no documents, with examples",
    "rag": "base model + RAG",
    "rag_few": "base model + RAG, with examples",
    "golden": "base model, golden document given",
    "tuned_closed": "tuned model, no documents",
    "raft": "tuned + RAG",
    "tuned_golden": "tuned model, golden document given",
    "other": "tuned on another corpus + RAG",
    "original": "the adapter that it was made of + RAG",
    "previous": "the adapter before this one + RAG",
}


@dataclass(frozen=True)
class System:
    """One system, as `benchmark.json` describes it.

    `name` is a key of `TITLES`, or "model:" and a larger model's name; `adapter` is the id of what is loaded, None for
    the model as it is; `exemplars` are counted; `context` is which chunks the prompt shows.
    """

    name: str
    title: str
    model: str
    adapter: str | None
    prompt: str
    prompt_digest: str
    exemplars: int
    context: Literal["none", "retrieved", "golden"]
    tuned: bool


def title(name: str) -> str:
    """Return the name of a system for people."""
    return TITLES.get(name, f"{name.removeprefix(LARGER)} + RAG")


def baseline(tuning: Iterable[Mapping[str, Any]], measured: Collection[str]) -> str | None:
    """Return the system to beat: of plain RAG with and without examples the one with the higher F1 on `valid`.

    Of equals the one with fewer examples is taken; without any figures, plain RAG; None where neither has answers.

    Args:
        tuning: rows with the keys `arm`, `exemplars` and `f1` (0 to 1, or None).
        measured: names of the systems that have answers.
    """
    usable = [row for row in tuning if row["arm"] in UNTUNED and row["arm"] in measured and row["f1"] is not None]
    best = max(usable, key=lambda row: (row["f1"], -row["exemplars"]), default=None)
    return str(best["arm"]) if best else next((name for name in UNTUNED if name in measured), None)


@dataclass(frozen=True)
class RunningSystem:
    """A system with the model that answers (what it said before is replayed), and what it is asked with.

    `scorer` gives log-likelihoods, None where the model has none; `uncached` is asked one question at a time, with
    nothing replayed, None where it is not timed.
    """

    system: System
    generator: Generator
    prompt: Prompt
    exemplars: tuple[Message, ...] = ()
    scorer: Scorer | None = None
    uncached: Generator | None = None


@dataclass
class Stopwatch:
    """A generator that notes how long those replies took that were not replayed.

    `count` of them were written now, in so many `seconds`, each by itself; `elapsed` went by while they were waited
    for, less where several were written at a time.
    """

    generator: Generator
    count: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        """Take over the generator's identity."""
        self.identity = self.generator.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield what the generator yields."""
        outcomes = iter(self.generator.complete(requests))
        while True:
            begun = time.monotonic()
            outcome = next(outcomes, None)
            self.elapsed += time.monotonic() - begun
            if outcome is None:
                return
            if isinstance(outcome, Completion) and not outcome.replayed:
                self.count += 1
                self.seconds += outcome.seconds
            yield outcome

    def rate(self) -> float | None:
        """Return questions a second, or None when every reply was replayed.

        Loading a model counts in `elapsed` alone, so the smaller of the two times is that of the replies.
        """
        taken = min(self.seconds, self.elapsed)
        return self.count / taken if self.count and taken else None


def beginnings(answers: Sequence[Answer], chats: Sequence[Sequence[Message]], scorer: Scorer) -> list[str]:
    """Return for each free answer, and the turns that asked for it, the text that a label of a closed set follows.

    Of a reply that kept the form, the label takes the answer's place, behind the quotes that stand before it; else the
    label is the whole reply.
    """
    return [
        scorer.render(chat) + (up_to_answer(answer.raw) if answer.followed else "")
        for answer, chat in zip(answers, chats, strict=True)
    ]


def labelled(answers: Sequence[Answer], labels: Sequence[str]) -> list[Answer]:
    """Return the answers with their text replaced by the labels that were chosen for them."""
    return [replace(answer, text=label, abstained=False) for answer, label in zip(answers, labels, strict=True)]


@dataclass(frozen=True)
class OpenedModel:
    """A model, with its adapter's id or as it is, ready to be asked in batches, through the ledger.

    `uncached` and `scorer` are those of `RunningSystem`; `prompt_limit` is its tokenizer, and how many tokens a prompt
    of it may have, None where the model doesn't tell.
    """

    name: str
    adapter: str | None
    generator: Generator
    uncached: Generator | None
    scorer: Scorer | None
    prompt_limit: tuple[Tokenizer, int] | None = None


@dataclass(frozen=True)
class BenchmarkModels:
    """Who takes part: the student as it is, tuned once it was trained, and what it is compared with.

    `previous` has the best adapter before this one, `other` one that was tuned on another corpus; `larger` are untuned.
    `original` is the adapter that `tuned` was made of, where that is no adapter itself.
    `judge` compares what was answered.
    """

    base: OpenedModel
    tuned: OpenedModel | None = None
    previous: OpenedModel | None = None
    other: OpenedModel | None = None
    original: OpenedModel | None = None
    larger: Sequence[OpenedModel] = ()
    judge: OpenedModel | None = None

    def prompt_limits(self) -> list[tuple[Tokenizer, int]]:
        """Return the limits of those that tell; what takes an adapter has the limit of its base."""
        return [one.prompt_limit for one in (self.base, *self.larger) if one.prompt_limit is not None]
