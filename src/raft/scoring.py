"""Measures of answers, labels and rankings: pure functions; `raft.intervals` says how sure their means are.

All measures are shares from 0 to 1. None stands for what was not measured, and is what a mean over nothing returns.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

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
from raft.measures import ANSWER_MEASURES, contains_reference, exact_match, f1, fact_accuracy, rouge_l
from raft.raftformat import is_no_answer

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

# answers


def score_answer(answer: str, references: Sequence[str], *, abstained: bool) -> dict[str, float | None]:
    """Return `ANSWER_MEASURES` of a parsed answer, with abstention as one of the possible right answers.

    A question is unanswerable if each reference is empty or `raftformat.ABSTENTION`: abstaining scores 1 on all
    measures, answering scores 0, and there are no facts to measure. On an answerable question abstaining scores 0, and
    an answer is compared with those references that are none. Without references nothing is measured.

    Args:
        answer: the answer without its quotes.
        references: right answers.
        abstained: whether the answer says that there is none (`raftformat.Parsed.abstained`).
    """
    if not references:
        return dict.fromkeys(ANSWER_MEASURES)
    real = [reference for reference in references if not is_no_answer(reference)]
    if not real or abstained:
        score = float(abstained and not real)
        return {name: None if of("", real) is None else score for name, of in ANSWER_MEASURES.items()}
    return {name: of(answer, real) for name, of in ANSWER_MEASURES.items()}


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
