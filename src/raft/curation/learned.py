"""A filter that was learned from pairs which people labelled: how likely a person would call a question right.

A logistic regression over likelihoods of a local model: how much likelier it finds the quoted sentence after question
and answer, and the question after sentence and answer, than each by itself; and how much likelier it says yes than no,
asked whether the sentence says so, which a model of a billion parameters can tell and a smaller one cannot. The numbers
are in a file, with the model that they go with; `learn` makes one of what people said of a run's own questions.
"""

import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, model_validator

from raft import logistic
from raft.curation.decisions import APPROVED, HUMAN
from raft.errors import UsageError, regular, typed
from raft.kinds import traits
from raft.logistic import Logistic
from raft.prompts import Prompt
from raft.protocols import Scorer
from raft.store.again import again
from raft.text import at_home

UNLIKELY = "unlikely to be right"
NAME = "learned filter"
"""What its verdict is called among a row's readings."""
BROUGHT = ("smollm2-135m", "qwen2.5-coder-1.5b")
"""Weights that raft brings, for the likelihoods of two models."""
KEEP = 0.7
"""Share of the right pairs that weights are made to keep."""
LEAST = 20
"""Pairs of each sort, right and wrong, to learn from: with fewer the four numbers say more of chance than of pairs."""
_BY_RULE = "by_rule"
_TOLD = re.compile(r"(\w+) (-?\d+(?:\.\d+)?)")
Row = dict[str, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Weights(BaseModel, frozen=True, extra="forbid"):
    """What was learned.

    Attributes:
        model: whose likelihoods the scores are.
        scores: their names, of `SCORES`.
        centre: the mean of each score, where it was learned.
        spread: the standard deviation of each.
        weights: of each score, once centred and spread.
        bias: what is added.
        minimum: probability from which a question is kept.
        pairs: how many pairs were learned from.
    """

    model: Annotated[str, Field(min_length=1)]
    scores: Annotated[tuple[Literal["said", "asked", "affirmed"], ...], Field(min_length=1)]
    centre: tuple[FiniteFloat, ...]
    spread: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    weights: tuple[FiniteFloat, ...]
    bias: FiniteFloat
    minimum: Annotated[float, Field(ge=0, le=1)]
    pairs: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if {*map(len, (self.centre, self.spread, self.weights))} != {len(self.scores)}:
            raise ValueError("each score has one centre, one spread and one weight")
        return self

    @property
    def identity(self) -> str:
        """Return them as JSON: what a file of them holds."""
        return self.model_dump_json(indent=2) + "\n"

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return how likely each row of scores, shape (rows, scores), is right: shape (rows,)."""
        fitted = (np.array(self.centre), np.array(self.spread), np.array(self.weights), self.bias)
        return Logistic(*fitted).probabilities(scores)


def load(name: str) -> Weights:
    """Return the weights of a file that `learn` wrote (`Weights` as JSON), or of a name of `BROUGHT`.

    Raises:
        UsageError: the file cannot be read, or is none.
    """
    try:
        return _read(Path(__file__).parent / "weights" / f"{name}.json" if name in BROUGHT else at_home(name))
    except (OSError, ValueError) as error:
        told = str(error)
        if isinstance(error, OSError):
            told = "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        elif isinstance(error, UnicodeDecodeError):
            told = "it is no text in UTF-8"
        elif isinstance(error, ValidationError):
            first = error.errors()[0]
            told = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        hint = f"--set cleaning.learned={BROUGHT[0]}   (or {BROUGHT[1]}, or a file that raft review --learn wrote)"
        raise UsageError(f"The learned filter cannot be read: {told}.", where=name, hint=hint) from None


def _read(path: Path) -> Weights:
    return Weights.model_validate_json(regular(path).read_text(encoding="utf-8-sig"))


def is_weights(path: Path) -> bool:
    """Tell whether a file is one of weights."""
    try:
        return bool(_read(path))
    except (OSError, ValueError, UsageError):
        return False


def applies(row: Mapping[str, Any]) -> bool:
    """Tell whether a question is one that a model wrote, with a quote; those made by rule are right far more often."""
    kind = traits(row["kind"])
    written = row["model"] != HUMAN and not (row["prompt"] or "").startswith(_BY_RULE)
    return bool(written and kind.answered and not kind.fixed and not kind.steps and row["quotes"])


def drop(rows: Sequence[Row], weights: Weights, prompt: Prompt, scorer: Scorer, *, spared: Container[str] = ()) -> None:
    """Drop rows that are likelier wrong than the weights allow, but those `spared`; note probabilities and scores."""
    asked = [row for row in rows if applies(row)]
    if not asked:
        return
    shown = [shown_of(row["question"], row["answer"], [quote["text"] for quote in row["quotes"]]) for row in asked]
    scores = measure(shown, scorer, prompt, weights.scores)
    scores = np.round(scores, 4)  # as they are noted, so that what is made of them can be made again
    for row, own, likely in zip(asked, scores, weights.probabilities(scores), strict=True):
        told = ", ".join(f"{name} {value:.4f}" for name, value in zip(weights.scores, own, strict=True))
        row["readings"] = [
            *(row.get("readings") or []),
            {"asked": NAME, "verdict": round(float(likely), 3), "said": told},
        ]
        if likely < weights.minimum and row["question_id"] not in spared:
            row["reason"] = UNLIKELY


class Shown(NamedTuple):
    """A question with its answer, and the sentence that is quoted for it."""

    question: str
    answer: str
    sentence: str


def shown_of(question: str, answer: str, quotes: Sequence[str]) -> Shown:
    """Return a pair with its quotes on one line."""
    return Shown(question, answer, " ".join(" ".join(quotes).split()))


def _said(pairs: Sequence[Shown], scorer: Scorer, _prompt: Prompt) -> Floats:
    """Nats a token that question and answer make the sentence likelier."""
    after = [(f"Question: {one.question}\nAnswer: {one.answer}\nText:", f" {one.sentence}") for one in pairs]
    return _likely(scorer, after) - _likely(scorer, [("Text:", sentence) for _, sentence in after])


def _asked(pairs: Sequence[Shown], scorer: Scorer, _prompt: Prompt) -> Floats:
    """Nats a token that sentence and answer make the question likelier: their pointwise mutual information."""
    after = [(f"Text: {one.sentence}\nAnswer: {one.answer}\nQuestion:", f" {one.question}") for one in pairs]
    return _likely(scorer, after) - _likely(scorer, [("Question:", question) for _, question in after])


def _affirmed(pairs: Sequence[Shown], scorer: Scorer, prompt: Prompt) -> Floats:
    """Nats that yes is likelier than no, asked whether the pair is right (Kadavath et al., arXiv 2207.05221)."""
    chats = [scorer.render(prompt.render(**one._asdict())) for one in pairs]
    words = _likely(scorer, [(chat, word) for chat in chats for word in ("Yes", "No")])  # at once: a chat is read once
    return words[::2] - words[1::2]


SCORES: Mapping[str, Callable[[Sequence[Shown], Scorer, Prompt], Floats]] = {
    "said": _said,
    "asked": _asked,
    "affirmed": _affirmed,
}


def measure(pairs: Sequence[Shown], scorer: Scorer, prompt: Prompt, scores: Sequence[str]) -> np.ndarray:
    """Return these of the `SCORES` of pairs, in nats, shape (pairs, scores); `prompt` is prompts/right.md."""
    return np.column_stack([SCORES[name](pairs, scorer, prompt) for name in scores])


def _likely(scorer: Scorer, texts: Sequence[tuple[str, str]]) -> Floats:
    return np.array([nats / max(1, tokens) for nats, _, tokens in scorer.score(texts)], dtype=np.float64)


def fit(scores: np.ndarray, right: np.ndarray, model: str, names: Sequence[str], *, keep: float) -> Weights:
    """Return a logistic regression (`logistic.fit`) that keeps a share of the right pairs.

    Args:
        scores: shape (pairs, scores).
        right: what people said, shape (pairs,), booleans, both of them.
        model: whose likelihoods the scores are.
        names: of the scores.
        keep: share (0 to 1) of the right pairs that `minimum` keeps.

    Raises:
        ValueError: all pairs are right, or none is.
    """
    found = logistic.fit(scores, right)
    made = Weights(
        model=model,
        scores=tuple(names),
        centre=_rounded(found.centre),
        spread=_rounded(found.spread),
        weights=_rounded(found.weights),
        bias=round(found.bias, 6),
        minimum=0.0,
        pairs=len(scores),
    )
    likely = made.probabilities(scores)[right]  # by the numbers as they are rounded
    minimum = float(np.quantile(likely, 1 - keep, method="lower"))
    return made.model_copy(update={"minimum": math.floor(minimum * 1e4) / 1e4})


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(one), 6) for one in values)


def learn(
    cleaned: Sequence[Row],
    said: Mapping[str, str],
    weights: Weights,
    *,
    keep: float,
    built_with: Mapping[str, Any] | None = None,
    run: Path | str = "RUN",
) -> Weights:
    """Return weights learned from what people said of a run's questions: an edit says that it was not right.

    `cleaned` are rows of `tables.CLEANED` that were filtered with `weights`, `said` are verdicts by question_id. A row
    that a build has taken an edit of is a person's, and has no scores any more. `built_with` are the weights that the
    build noted (None: an earlier raft noted none, and the scores tell); `run` is named in what is raised.

    Raises:
        UsageError: too few were judged, of either sort, or the weights are not those that the run was built with.
    """
    judged = [(_noted(row), said.get(row["question_id"])) for row in cleaned]
    known = [(scores, verdict, likely) for (scores, likely), verdict in judged if scores and verdict]
    others = (([*scores] != [*weights.scores] or _likely_of(weights, scores) != likely) for scores, _, likely in known)
    if built_with not in (None, weights.model_dump(mode="json")) or any(others):
        raise UsageError(
            "The weights are not those that the run was built with: whose likelihoods its scores are is not known.",
            where=run,
            hint=again(run, remark="scores its questions anew"),
        )
    seen = [([*scores.values()], verdict == APPROVED) for scores, verdict, _ in known]
    right = np.array([one for _, one in seen], dtype=bool)
    if min(right.sum(), (~right).sum()) < LEAST:
        raise UsageError(
            f"Of the questions that the learned filter has scored, people called {right.sum()} right and"
            f" {(~right).sum()} wrong: {LEAST} of each are needed.",
            hint=f"raft review {typed(run)} --sample 200",
        )
    return fit(np.array([scores for scores, _ in seen]), right, weights.model, weights.scores, keep=keep)


def _noted(row: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Return the scores that a row got, and the probability that was made of them; no scores where it was not asked."""
    for one in row.get("readings") or ():
        if one["asked"] == NAME:
            return {name: float(value) for name, value in _TOLD.findall(one["said"])}, one["verdict"]
    return {}, 0.0


def _likely_of(weights: Weights, scores: Mapping[str, float]) -> float:
    return round(float(weights.probabilities(np.array([[*scores.values()]]))[0]), 3)
