"""Measures of answers, labels and rankings: pure functions; `raft.intervals` says how sure their means are.

All measures are shares from 0 to 1. None stands for what was not measured, and is what a mean over nothing returns.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from rapidfuzz.distance import LCSseq

from raft.intervals import (
    DRAWS,
    TOO_FEW,
    Floats,
    Interval,
    bootstrap_mean,
    bootstrap_sums,
    paired_difference,
    percentile,
    win_rate,
)
from raft.raftformat import is_abstention
from raft.text import fact_values

__all__ = [
    "ANSWER_MEASURES",
    "DRAWS",
    "TOO_FEW",
    "Interval",
    "bootstrap_mean",
    "contains_reference",
    "exact_match",
    "f1",
    "fact_accuracy",
    "macro_f1_difference",
    "macro_f1_interval",
    "ndcg",
    "paired_difference",
    "percentile",
    "recall_at",
    "reciprocal_rank",
    "rouge_l",
    "score_answer",
    "win_rate",
]

ANSWER_MEASURES = ("f1", "exact_match", "contains", "rouge_l", "fact_accuracy")
"""What `score_answer` measures."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+")
_PUNCTUATION = frozenset(string.punctuation)


# answers


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the prediction is one of the references but for case, punctuation, articles and white space.

    The normal form is that of SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250) with typographic punctuation
    dropped too, as MLQA does (Lewis et al. 2019, arXiv 1910.07475); on ASCII text they are the same. Unlike in both, a
    text of nothing but articles or punctuation stays as it is: the grade "A" is neither "the" nor an empty reply.
    """
    return max((float(_squad(prediction) == _squad(reference)) for reference in references), default=0.0)


def f1(prediction: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall over words, of the best reference (arXiv 1606.05250).

    The normal form is that of `exact_match`. Two blank texts score 1, as in SQuAD 2.0 (arXiv 1806.03822).
    """
    return max((_word_f1(_squad(prediction).split(), _squad(one).split()) for one in references), default=0.0)


def contains_reference(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if one of the references stands in the prediction as whole words, in the form of `exact_match`."""
    reply = f" {_squad(prediction)} "
    return max((float(f" {_squad(reference)} " in reply) for reference in references), default=0.0)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the F measure of the longest common subsequence of lower-cased words, of the best reference.

    Precision and recall weigh the same; words are not stemmed.

    References:
        Lin: ROUGE: A package for automatic evaluation of summaries. ACL workshop Text Summarization Branches Out, 2004.
    """
    words = _words(prediction)
    return max((_subsequence_f(words, _words(reference)) for reference in references), default=0.0)


def fact_accuracy(prediction: str, references: Sequence[str]) -> float | None:
    """Return 1.0 if all numbers, dates and codes of one reference stand in the prediction, in any spelling.

    References without any are passed over, so that whether a question is measured depends on its references alone;
    None where no reference has one.
    """
    wanted = [values for values in map(fact_values, references) if values]
    if not wanted:
        return None
    given = fact_values(prediction)
    return float(any(values <= given for values in wanted))


def score_answer(answer: str, references: Sequence[str], *, abstained: bool) -> dict[str, float | None]:
    """Return `ANSWER_MEASURES` of a parsed answer, with abstention as one of the possible right answers.

    A question is unanswerable if all its references are abstentions: abstaining scores 1 on all measures, answering
    scores 0, and there are no facts to measure. On an answerable question abstaining scores 0, and an answer is
    compared with those references that are none. Without references nothing is measured.

    Args:
        answer: the answer without its quotes.
        references: right answers; `raftformat.ABSTENTION` for an unanswerable question.
        abstained: whether the answer says that there is none (`raftformat.Parsed.abstained`).
    """
    if not references:
        return dict.fromkeys(ANSWER_MEASURES)
    real = [reference for reference in references if not is_abstention(reference)]
    if not real or abstained:
        score = float(abstained and not real)
        measurable = any(map(fact_values, real))
        return {**dict.fromkeys(ANSWER_MEASURES, score), "fact_accuracy": score if measurable else None}
    return {
        "f1": f1(answer, real),
        "exact_match": exact_match(answer, real),
        "contains": contains_reference(answer, real),
        "rouge_l": rouge_l(answer, real),
        "fact_accuracy": fact_accuracy(answer, real),
    }


@lru_cache(maxsize=65536)
def _squad(text: str) -> str:
    lower = text.lower()
    kept = "".join(char for char in lower if char not in _PUNCTUATION and unicodedata.category(char)[0] != "P")
    return " ".join(_ARTICLES.sub(" ", kept).split()) or " ".join(lower.split())


def _word_f1(one: Sequence[str], other: Sequence[str]) -> float:
    common = (Counter(one) & Counter(other)).total()
    return 2 * common / (len(one) + len(other)) if one or other else 1.0


@lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()) or text.lower().split())


def _subsequence_f(one: Sequence[str], other: Sequence[str]) -> float:
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other)) if one or other else 1.0


# labels


def _confusion(arms: Sequence[Sequence[str | None]], labels: Sequence[str | None], classes: Sequence[str]) -> Floats:
    """Return for each row, arm and class whether it is a hit, predicted, and the label: (rows, arms, classes, 3).

    Rows without a label are NaN.
    """
    names = np.array(list(dict.fromkeys(classes)), dtype=object)
    actual = np.array(labels, dtype=object)[:, None] == names
    counts = np.empty((len(labels), len(arms), len(names), 3))
    for arm, predictions in enumerate(arms):
        predicted = np.array(predictions, dtype=object)[:, None] == names
        if len(predicted) != len(actual):
            raise ValueError(f"{len(predicted)} predictions for {len(actual)} labels")
        counts[:, arm] = np.stack([predicted & actual, predicted, actual], axis=-1)
    counts[[label is None for label in labels]] = np.nan
    return counts


def _macro(counts: Floats) -> Floats:
    """Return the macro F1 of counts of shape (..., classes, 3)."""
    hits, predicted, actual = np.moveaxis(counts, -1, 0)
    mean: Floats = (2 * hits / np.maximum(predicted + actual, 1)).mean(axis=-1)
    return mean


# rankings


def recall_at(ranks: Sequence[int | None], k: int) -> float | None:
    """Return the share of relevant chunks found among the first k, from their ranks (from 1; None: not found)."""
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks) if ranks else None


def reciprocal_rank(rank: int | None, depth: int = 10) -> float:
    """Return 1 / the rank (from 1) of the first relevant chunk, 0 if it is not among the first `depth`.

    Its mean over questions is the MRR (Voorhees: The TREC-8 question answering track report. TREC 1999).
    """
    return 1 / rank if rank is not None and rank <= depth else 0.0


def ndcg(relevant_ranks: Sequence[int | None], relevant: int, k: int) -> float | None:
    """Return the normalised discounted cumulated gain at k of binary relevance, discounted by log2(rank + 1).

    Args:
        relevant_ranks: ranks (from 1; None: not found) of the relevant chunks; ones not found may be left out.
        relevant: how many relevant chunks there are.
        k: how far down the ranking counts.

    Returns:
        0 to 1; None where nothing is relevant.

    References:
        Järvelin and Kekäläinen: Cumulated gain-based evaluation of IR techniques. ACM TOIS 20(4), 2002; with the
        discount of Burges et al.: Learning to rank using gradient descent. ICML 2005, which also discounts rank 2.
    """
    if relevant < 1:
        return None
    gain = math.fsum(1 / math.log2(rank + 1) for rank in relevant_ranks if rank is not None and rank <= k)
    return gain / math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, k) + 1))


def macro_f1_interval(
    predictions: Sequence[str | None],
    labels: Sequence[str | None],
    groups: Sequence[Hashable],
    classes: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return the mean over `classes` of each class's F1, with the interval of `bootstrap_mean`.

    A class that is neither predicted nor a label counts 0. Rows without a label are left out; a prediction that is
    none of the classes lowers the recall of its row's label, and no class's precision.
    """
    counts = _confusion([predictions], labels, classes)
    return bootstrap_sums(counts, groups, lambda sums: _macro(sums)[:, 0], seed=seed, draws=draws)


def macro_f1_difference(
    ours: Sequence[str | None],
    theirs: Sequence[str | None],
    labels: Sequence[str | None],
    groups: Sequence[Hashable],
    classes: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return how much greater our macro F1 is than theirs on the same rows, as `macro_f1_interval` measures it."""
    counts = _confusion([ours, theirs], labels, classes)

    def difference(sums: Floats) -> Floats:
        both = _macro(sums)
        return both[:, 0] - both[:, 1]

    return bootstrap_sums(counts, groups, difference, seed=seed, draws=draws)
