"""A filter that was learned from pairs which people labelled: how likely a person would call a question right.

A logistic regression over likelihoods of a local model: how much likelier it finds the quoted sentence after question
and answer, and the question after sentence and answer, than each by itself; and how much likelier it says yes than no,
asked whether the sentence says so, which a model of a billion parameters can tell and a smaller one cannot. The numbers
are in a file, with the model that they go with; `learn` makes one of what people said of a run's own questions.
"""

import json
import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raft.curation.decisions import APPROVED, HUMAN
from raft.curation.figures import sentence_of
from raft.errors import RaftError, UsageError
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Scorer
from raft.store.folders import place, regular

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
_ROUNDS = 50
Row = dict[str, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Weights:
    """What was learned.

    Attributes:
        model: whose likelihoods the scores are.
        scores: their names.
        centre: the mean of each score, where it was learned.
        spread: the standard deviation of each.
        weights: of each score, once centred and spread.
        bias: what is added.
        minimum: probability from which a question is kept.
        pairs: how many pairs were learned from.
    """

    model: str
    scores: tuple[str, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    minimum: float
    pairs: int

    @property
    def text(self) -> str:
        """Return what a file of them holds."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @property
    def identity(self) -> str:
        """Return all that can change a verdict, but the model's weights."""
        return json.dumps(asdict(self), sort_keys=True)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return how likely each row of scores, shape (rows, scores), is right: shape (rows,)."""
        centred = (scores - np.array(self.centre)) / np.array(self.spread)
        return _sigmoid(centred @ np.array(self.weights) + self.bias)


def load(name: str) -> Weights:
    """Return the weights of a file that `learn` wrote (`Weights` as JSON), or of a name of `BROUGHT`.

    Raises:
        UsageError: the file cannot be read, or is none.
    """
    try:
        brought = Path(__file__).parent / "weights" / f"{name}.json"
        file = brought if name in BROUGHT else regular(place(name, "cleaning.learned"))
        text = file.read_text(encoding="utf-8-sig")
        given = json.loads(text)
        centre, spread, own = (tuple(map(float, given[key])) for key in ("centre", "spread", "weights"))
        bias, minimum = float(given["bias"]), float(given["minimum"])
        scores, pairs = tuple(given["scores"]), int(given["pairs"])
        found = Weights(str(given["model"]), scores, centre, spread, own, bias, minimum, pairs)
        whole = [*found.centre, *found.weights, found.bias, found.minimum]
        if not scores or not {*scores} <= SCORES.keys() or {*map(len, (centre, spread, own))} != {len(scores)}:
            raise ValueError(f"it is not about some of the scores {', '.join(SCORES)}")
        if not all(map(math.isfinite, whole)) or not all(0 < one < math.inf for one in found.spread):
            raise ValueError("a number of it is none")
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        told = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        hint = f"--set cleaning.learned={BROUGHT[0]}   (or {BROUGHT[1]}, or a file that raft review --learn wrote)"
        raise UsageError(f"The learned filter cannot be read: {told}.", where=name, hint=hint) from None
    return found


def is_weights(path: Path) -> bool:
    """Tell whether a file is one of weights."""
    try:
        load(str(path))
    except RaftError:
        return False
    return True


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
    shown = [Shown(row["question"], row["answer"], _sentence(row)) for row in asked]
    scores = measure(shown, scorer, prompt, weights.scores)
    for row, own, likely in zip(asked, scores, weights.probabilities(scores), strict=True):
        told = ", ".join(f"{name} {value:.4f}" for name, value in zip(weights.scores, own, strict=True))
        row["readings"] = [
            *(row.get("readings") or []),
            {"asked": NAME, "verdict": round(float(likely), 4), "said": told},
        ]
        if likely < weights.minimum and row["question_id"] not in spared:
            row["reason"] = UNLIKELY


class Shown(NamedTuple):
    """A question with its answer, and the sentence that is quoted for it."""

    question: str
    answer: str
    sentence: str


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


def _sentence(row: Mapping[str, Any]) -> str:
    quotes = [" ".join(sentence_of(quote["text"] or "", row["answer"]).split()) for quote in row["quotes"]]
    return " ".join(quotes)


def fit(scores: np.ndarray, right: np.ndarray, model: str, names: Sequence[str], *, keep: float) -> Weights:
    """Return a logistic regression (ridge 1 on standardised scores) that keeps a share of the right pairs.

    Args:
        scores: shape (pairs, scores).
        right: what people said, shape (pairs,), booleans, both of them.
        model: whose likelihoods the scores are.
        names: of the scores.
        keep: share (0 to 1) of the right pairs that `minimum` keeps.

    Raises:
        ValueError: all pairs are right, or none is.

    References:
        Newton's method for logistic regression; Hastie, Tibshirani and Friedman: The Elements of Statistical
        Learning, 2009, section 4.4.
    """
    if right.all() or not right.any():
        raise ValueError("pairs of one sort alone teach nothing")
    centre, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    columns = np.column_stack([(scores - centre) / spread, np.ones(len(scores))])
    ridge = np.diag([1.0] * scores.shape[1] + [0.0])
    weights = np.zeros(columns.shape[1])
    for _ in range(_ROUNDS):
        likely = _sigmoid(columns @ weights)
        slope = columns.T @ (likely - right) + ridge @ weights
        curve = (columns * (likely * (1 - likely))[:, None]).T @ columns + ridge
        weights = weights - np.linalg.solve(curve, slope)
    likely = _sigmoid(columns @ weights)
    minimum = float(np.quantile(likely[right], 1 - keep, method="lower"))
    rounded = [tuple(round(float(one), 6) for one in column) for column in (centre, spread, weights)]
    return Weights(
        model, tuple(names), rounded[0], rounded[1], rounded[2][:-1], rounded[2][-1], math.floor(minimum * 1e4) / 1e4,
        len(scores),
    )  # fmt: skip


def learn(cleaned: Sequence[Row], said: Mapping[str, str], weights: Weights, *, keep: float) -> Weights:
    """Return weights learned from what people said of a run's questions: an edit says that it was not right.

    `cleaned` are rows of `tables.CLEANED` that were filtered with `weights`, `said` are verdicts by question_id.

    Raises:
        UsageError: too few were judged, of either sort, or the filter has not seen them.
    """
    judged = [(_noted(row, weights.scores), said.get(row["question_id"])) for row in cleaned]
    seen = [(scores, verdict == APPROVED) for scores, verdict in judged if scores and verdict]
    right = np.array([one for _, one in seen], dtype=bool)
    if min(right.sum(), (~right).sum()) < LEAST:
        raise UsageError(
            f"Of the questions that the learned filter has scored, people called {right.sum()} right and"
            f" {(~right).sum()} wrong: {LEAST} of each are needed.",
            hint="raft review RUN --sample 200   (of a run that was built with --set cleaning.learned={BROUGHT[0]})",
        )
    return fit(np.array([scores for scores, _ in seen]), right, weights.model, weights.scores, keep=keep)


def _noted(row: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    told = next((one["said"] for one in row.get("readings") or () if one["asked"] == NAME), "")
    found = {name: float(value) for name, value in _TOLD.findall(told)}
    return [found[name] for name in names] if found.keys() >= {*names} else []


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))
