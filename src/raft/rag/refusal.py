"""When not to answer: how much of what was found holds the answer to a question, and where "too little" begins.

Without anything learned, `grounding.relevance` and a threshold that a person chose. A head is learned from a run's own
questions, each with passages that bear its answer and with others that are found for it: a logistic regression over
words, over vectors, and over what the student's middle layers make of question and passage (a linear probe on the
hidden state at the end of the prompt; Lavi et al., arXiv 2509.22449). What is found holds the answer as far as the best
passage does. The threshold follows from the share of unanswerable questions that may be answered.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, model_validator

from raft import logistic
from raft.logistic import Logistic
from raft.prompts import Prompt
from raft.protocols import Message
from raft.rag.format import Shown, render_documents
from raft.rag.grounding import Passage, coverage, relevance, too_little
from raft.text import normalise

SURE = 0.95
"""How sure a promise is: of so many heads that were calibrated on questions drawn anew, it holds."""
DIGITS = 6
"""Digits of a score: the threshold is one of them, and what is rounded otherwise would miss it."""
_RIDGE = 1000.0
"""A hidden state has more numbers than there are questions; on XQuAD's `dev` 300 to 3,000 do alike."""
Floats = np.ndarray


class Linear(BaseModel, frozen=True, extra="forbid"):
    """A logistic regression as a file holds it (`logistic.Logistic`)."""

    centre: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    spread: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    weights: tuple[FiniteFloat, ...]
    bias: FiniteFloat

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if {len(self.spread), len(self.weights)} != {len(self.centre)}:
            raise ValueError("each column has one centre, one spread and one weight")
        return self

    @classmethod
    def of(cls, fitted: Logistic) -> Self:
        """Return what was fitted, rounded to six digits."""
        parts = (tuple(round(float(one), 6) for one in part) for part in fitted[:3])
        return cls(**dict(zip(("centre", "spread", "weights"), parts, strict=True)), bias=round(fitted.bias, 6))

    def nats(self, columns: Floats) -> Floats:
        """Return the log-odds of yes for each row, shape (rows, columns): shape (rows,)."""
        fitted = Logistic(np.array(self.centre), np.array(self.spread), np.array(self.weights), self.bias)
        return fitted.nats(columns)


class Head(BaseModel, frozen=True, extra="forbid"):
    """What was learned about when to refuse; `refusal/head.json` in a run directory.

    Attributes:
        embedder: identity of what makes the vectors.
        reader: identity of what reads question and passage, with the digest of its prompt; None where the student is
            hosted.
        hybrid: whether words are searched beside vectors.
        retriever: identity of what embeds the questions that are searched for; None: the embedder.
        k: how many passages the threshold is set on; of more, the first count.
        signals: of words and vectors (`Seen.measure`), and of the reader's log-odds where there is one.
        reading: of the reader's hidden state; None without one.
        questions: how many questions were learned from.
        whose: whose questions the threshold is set on: the run's own, or those of a person.
        answerable: scores (0 to 1) of those whose passages bear the answer.
        unanswerable: scores of those whose passages do not.
        calibrated: digests (`question_digest`) of a person's questions that the threshold is set on: a benchmark does
            not measure with them.
    """

    embedder: str
    reader: str | None
    hybrid: bool
    k: Annotated[int, Field(ge=1)]
    signals: Linear
    reading: Linear | None
    questions: int
    whose: Literal["the run's", "yours"]
    answerable: tuple[FiniteFloat, ...]
    unanswerable: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    calibrated: tuple[str, ...] = ()
    retriever: str | None = None

    @model_validator(mode="after")
    def _one_of_each_signal(self) -> Self:
        if len(self.signals.centre) != 3 + (self.reading is not None) or (self.reading is None) != (
            self.reader is None
        ):
            raise ValueError("there is a signal too many or too few")
        return self

    def scores(self, questions: Sequence[str], passages: Sequence[Sequence[Passage]], seen: "Seen") -> list[float]:
        """Return how likely one of the passages of each question bears its answer (0 to 1); 0 without passages."""
        first = [shown[: self.k] for shown in passages]
        pairs = [(question, one) for question, shown in zip(questions, first, strict=True) for one in shown]
        if not pairs:
            return [0.0] * len(questions)
        likely = iter(Learned(self.signals, self.reading).probabilities(*seen.look(pairs)))
        return [max((round(float(next(likely)), DIGITS) for _ in shown), default=0.0) for shown in first]


Pair = tuple[str, Passage]
"""A question and a passage."""


@dataclass(frozen=True)
class Seen:
    """What a head looks with.

    Attributes:
        embed: `protocols.Embedder.embed`.
        read: the hidden states of the reader at the end of each pair, shape (pairs, hidden size); None without one.
    """

    embed: Callable[[Sequence[str]], Floats]
    read: Callable[[Sequence[Pair]], Floats] | None = None

    def look(self, pairs: Sequence[Pair]) -> tuple[Floats, Floats | None]:
        """Return the signals of pairs (`measure`), and the reader's states; None without a reader."""
        return self.measure(pairs), None if self.read is None else self.read(pairs)

    def measure(self, pairs: Sequence[Pair]) -> Floats:
        """Return words, sense and topic of questions with passages, shape (pairs, 3).

        Words: the share of the question's words that the passage holds. Sense: the highest cosine of the question and a
        sentence. Topic: the cosine of the question and the passage: of two that have the question's words, a look-alike
        is as near as a whole, and no sentence of it is.
        """
        questions, shown = [question for question, _ in pairs], [[one] for _, one in pairs]
        words = np.array([coverage(question, [one]) for question, one in pairs])
        sense = 2 * np.array(relevance(questions, shown, self.embed)) - words
        whole = [f"{one.title}\n{one.text}" for _, one in pairs]
        places: dict[str, int] = {}
        for text in (*questions, *whole):
            places.setdefault(text, len(places))
        vectors = self.embed(list(places))
        ours, theirs = ([places[text] for text in texts] for texts in (questions, whole))
        return np.column_stack([words, sense, (vectors[ours] * vectors[theirs]).sum(axis=1)])


class Learned(NamedTuple):
    """What tells pairs whose passage bears the answer from others: by the signals, and by the reader's states."""

    signals: Linear
    reading: Linear | None

    def probabilities(self, columns: Floats, states: Floats | None) -> Floats:
        """Return how likely each pair's passage bears the answer, shape (pairs,); the arguments are `Seen.look`'s."""
        if self.reading is not None and states is not None:
            columns = np.column_stack([columns, self.reading.nats(states)])
        return logistic.sigmoid(self.signals.nats(columns))


def learn(columns: Floats, states: Floats | None, bears: Floats, folds: Floats) -> Learned:
    """Return what tells pairs whose passage bears the answer from others.

    How far the reader's word counts beside the other signals is learned from readings that were learned without the
    question: of what it has seen, it is too sure (stacking; Wolpert, Neural Networks 5, 1992).

    Args:
        columns: the signals, shape (pairs, 3).
        states: the reader's, shape (pairs, hidden size), or None.
        bears: whether the passage bears the answer, shape (pairs,), booleans, both of them.
        folds: which part of the questions a pair belongs to, shape (pairs,), whole numbers, at least two of them.

    Raises:
        ValueError: all pairs, or all but a fold's, are of one sort.
    """
    reading = None
    if states is not None:
        nats = np.zeros(len(bears))
        for fold in np.unique(folds):
            others = folds != fold
            nats[~others] = logistic.fit(states[others], bears[others], ridge=_RIDGE).nats(states[~others])
        columns = np.column_stack([columns, nats])
        reading = Linear.of(logistic.fit(states, bears, ridge=_RIDGE))
    return Learned(Linear.of(logistic.fit(columns, bears)), reading)


def threshold(unanswerable: Sequence[float], rate: float) -> tuple[float, float]:
    """Return the score from which questions are answered, and the share of false answers that it promises.

    With a probability of `SURE` over the questions, drawn independently, at most that share of unanswerable questions
    like these reaches the score: so many of `unanswerable` may, that the upper bound of Clopper and Pearson stays
    within the `rate` (0 to 1). The loss falls with the threshold, so that one test is enough (risk-controlling
    prediction sets; Bates et al., J. ACM 68(6), 2021, arXiv 2101.02703). Where so few questions cannot prove the rate,
    none may, and the share is the least that they prove.
    """
    count = len(unanswerable)
    allowed = -1
    while allowed + 1 < count and _at_most(allowed + 1, count, rate) <= 1 - SURE:
        allowed += 1
    proven = rate if allowed >= 0 else 1 - (1 - SURE) ** (1 / count)
    highest = sorted(unanswerable, reverse=True)[max(allowed, 0)]
    return math.nextafter(highest, math.inf), proven


def _at_most(hits: int, tries: int, rate: float) -> float:
    """Return the probability of at most so many hits (the binomial distribution); the rate is neither 0 nor 1."""
    whole, hit, miss = math.lgamma(tries + 1), math.log(rate), math.log1p(-rate)
    ways = (whole - math.lgamma(one + 1) - math.lgamma(tries - one + 1) for one in range(hits + 1))
    return math.fsum(math.exp(way + one * hit + (tries - one) * miss) for one, way in enumerate(ways))


@dataclass(frozen=True)
class Refusal:
    """What decides that no model is asked.

    Attributes:
        least: the score from which a model is asked.
        scores: of questions with their passages, 0 to 1.
        under: the same, None where it is not under `least`.
        promised: share of unanswerable questions that are answered, at most; None where a person chose `least`.
        identity: of the head; empty without one.
        calibrated: digests of questions that its threshold is set on, and that it is not measured with.
    """

    least: float
    scores: Callable[[Sequence[str], Sequence[Sequence[Passage]]], list[float]]
    under: Callable[[Sequence[str], Sequence[Sequence[Passage]]], list[float | None]]
    promised: float | None = None
    identity: str = ""
    calibrated: tuple[str, ...] = ()


def by_rule(least: float, embed: Callable[[Sequence[str]], Floats]) -> Refusal:
    """Return the rule of words and vectors (`grounding.relevance`) with a threshold that a person chose."""
    return Refusal(least, partial(relevance, embed=embed), partial(too_little, embed=embed, least=least))


def by_head(head: Head, seen: Seen, rate: float) -> Refusal:
    """Return a head with the threshold of a rate (0 to 1) of false answers."""
    least, promised = threshold(head.unanswerable, rate)

    def scores(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float]:
        return head.scores(questions, passages, seen)

    def under(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float | None]:
        return [None if score >= least else score for score in scores(questions, passages)]

    identity = hashlib.sha256(head.model_dump_json().encode()).hexdigest()
    return Refusal(least, scores, under, promised, identity, head.calibrated)


def question_digest(question: str) -> str:
    """Return what a question is known by, however it is spelled: SHA-256 (hex) of its normalised words."""
    return hashlib.sha256(normalise(question).encode()).hexdigest()


def asked(prompt: Prompt, question: str, passage: Passage) -> tuple[Message, ...]:
    """Return the turns that a reader is shown; `prompt` is prompts/stated.md."""
    shown = render_documents([Shown(passage.chunk_id, passage.title, passage.text)])
    return prompt.render(document=shown, question=question.strip())
