"""Whether what production answers got worse, whether people ask something else, and what nobody answers them.

Pure functions: from scores, vectors and the tables of the traffic to figures.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl

from raft.evaluation.metrics import TOO_FEW, Interval, paired_difference, randomisation_test, score_answer, win_rate
from raft.text import normalise

State = Literal["first", "fine", "perhaps", "look", "act"]
"""What is said of a measure: the first of its kind; no fall that counts; one that may be nothing; a certain one from
`monitor.look` on; a certain one from `monitor.act` on."""

CERTAIN = 0.05
"""Most a certain fall may have of a chance, where nothing but noise changed: of the interval, and of the test."""
LOOKS = 52
"""Looks over which all chances of a fall that is acted upon together are at most `CERTAIN` (Bonferroni): one a week for
a year."""
TRAFFIC_ENOUGH = 20
"""Under so many replies, or questions, neither rates nor drift are told of them."""
_SAMPLE = 500  # vectors a side of the test of drift; its matrix has the square of twice as many numbers
_PERMUTATIONS = 1000
_SHARE_FAR = 0.05
_MOST_CLUSTERED = 1000  # questions; their matrix has the square of it
_PAIRS = 200_000

Floats = np.ndarray
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """What became of the same questions between two measures.

    Attributes:
        state: what it amounts to.
        difference: now minus then, with its 95 percent interval; None where no question was measured both times.
        p: how likely so large a fall is by chance (`metrics.randomisation_test`).
        certain: it is a fall, and hardly chance: the interval lies below zero, `p` is at most `CERTAIN`, and there are
            `TOO_FEW` groups or more.
        sure: it is so unlikely that a program may act upon it: `p` is at most `CERTAIN` shared over `LOOKS`.
        replies: how many replies have other words.
        worse: of how many questions the score fell.
        better: of how many it rose.
    """

    state: State
    difference: Interval | None
    p: float | None
    certain: bool
    sure: bool
    replies: int
    worse: int
    better: int


def change(now: Mapping[str, Row], then: Mapping[str, Row], *, look: float, act: float) -> Change:
    """Compare two measures by question: rows have `score` (0 to 1; None: no reply), `answer` and `group`.

    The groups are those of `now`. A fall counts from `look` (0 to 1) on, and for more from `act` on.
    """
    both = sorted(now.keys() & then.keys())  # sorted, because the draws of a bootstrap depend on the order
    ours, theirs = ([table[key]["score"] for key in both] for table in (now, then))
    groups: list[Hashable] = [now[key]["group"] for key in both]
    difference, p = paired_difference(ours, theirs, groups), randomisation_test(ours, theirs, groups)
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    counts = {
        "replies": sum(_words(now[key]["answer"]) != _words(then[key]["answer"]) for key in both),
        "worse": sum(one < other for one, other in pairs),
        "better": sum(one > other for one, other in pairs),
    }
    if difference is None or p is None:
        return Change("first", None, None, certain=False, sure=False, **counts)
    fall, enough = -difference.value, difference.groups >= TOO_FEW
    certain = enough and difference.high < 0 and p <= CERTAIN
    state: State = "fine"
    if fall >= look - 1e-9 and fall > 0:
        state = "perhaps" if not certain else "act" if fall >= act - 1e-9 else "look"
    return Change(state, difference, p, certain, state == "act" and p <= CERTAIN / LOOKS, **counts)


def _words(answer: str | None) -> str:
    return " ".join((answer or "").split())


def score(question: Row, reply: Row, labels: Sequence[str], language: str) -> float | None:
    """Return the score of a reply (0 to 1): whether its label is right where there are `labels`, else F1.

    `question` is a row of `tables.EVALUATION`, `reply` has `answer` and `abstained`. None without a reply.
    """
    if reply["answer"] is None:
        return None
    found = score_answer(reply["answer"], question["answers"], abstained=reply["abstained"], language=language)
    said = normalise(reply["answer"])
    right = [normalise(one) for one in question["answers"]]
    if labels and any(one in labels for one in right):
        return float(not reply["abstained"] and said in labels and said in right)
    return found["f1"]


@dataclass(frozen=True)
class Drift:
    """Whether two sets of questions are of one distribution.

    Attributes:
        p: how likely so large a discrepancy is where they are (0 to 1).
        mmd: the squared maximum mean discrepancy, unbiased; about 0 where they are, at most 2.
        ours: how many questions were compared.
        theirs: with how many.
    """

    p: float
    mmd: float
    ours: int
    theirs: int


def drift(ours: Floats, theirs: Floats) -> Drift | None:
    """Test whether two sets of vectors of length 1 come from one distribution; None with fewer than 20 of either.

    The kernel is Gaussian, as wide as the median distance of all; of more than 500 vectors as many are drawn, the
    same each time. Which side a vector is on is drawn anew 1,000 times, so each of them must be independent: one a
    conversation.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola: A kernel two-sample test. JMLR 13, 2012: the unbiased statistic
        (equation 3), the median heuristic (section 8), the null distribution by permutation.
    """
    if min(len(ours), len(theirs)) < TRAFFIC_ENOUGH:
        return None
    random = np.random.default_rng(0)
    sides = [side if len(side) <= _SAMPLE else side[random.permutation(len(side))[:_SAMPLE]] for side in (ours, theirs)]
    every = np.concatenate(sides).astype(np.float64)
    squares = np.maximum(0.0, 2.0 - 2.0 * every @ every.T)
    width = float(np.median(squares[np.triu_indices(len(every), 1)]))
    kernel = np.exp(-squares / width) if width > 0 else np.ones_like(squares)
    np.fill_diagonal(kernel, 0.0)
    first, count = len(sides[0]), len(every)
    chosen = np.zeros((count, _PERMUTATIONS + 1))
    chosen[:first, 0] = 1.0
    for column in range(1, _PERMUTATIONS + 1):
        chosen[random.permutation(count)[:first], column] = 1.0
    within = (chosen * (kernel @ chosen)).sum(axis=0)
    across = kernel.sum(axis=1) @ chosen - within
    others, second = kernel.sum() - 2 * across - within, count - first
    found = within / (first * (first - 1)) + others / (second * (second - 1)) - 2 * across / (first * second)
    hits = int((found[1:] >= found[0] - 1e-12).sum())
    return Drift((1 + hits) / (1 + _PERMUTATIONS), float(found[0]), first, second)


def far(asked: Floats, known: Floats) -> tuple[list[bool], list[float]]:
    """Tell of each question asked whether it is far from everything, and return from which cosines on it is not.

    Both have a row a question and a column for each of what it may be near to (chunks, other questions), with the
    highest cosine. Far is what is below 19 of 20 of the `known` questions in each column.
    """
    least = [float(np.quantile(column, _SHARE_FAR)) for column in known.T]
    return [bool(np.all(row < least)) for row in asked], least


def topic_similarity(vectors: Floats, documents: Sequence[str]) -> float:
    """Return the cosine from which two questions are about one thing, by an embedder's own scale.

    It is what one of 200 pairs of questions about different documents reaches; 0.6 where 50 such pairs are not there.
    """
    random = np.random.default_rng(0)
    pairs = random.integers(max(1, len(vectors)), size=(_PAIRS if len(vectors) > 1 else 0, 2))
    names = np.array(documents, dtype=object)
    apart = pairs[names[pairs[:, 0]] != names[pairs[:, 1]]] if len(pairs) else pairs
    if len(vectors) < TRAFFIC_ENOUGH or len(apart) < 50:
        return 0.6
    cosines = np.einsum("ij,ij->i", vectors[apart[:, 0]], vectors[apart[:, 1]])
    return float(min(0.95, np.quantile(cosines, 0.995)))


def grouped(vectors: Floats, similarity: float) -> list[int]:
    """Return for each vector of length 1 the number of its cluster: two are joined while their mean cosine reaches it.

    Average linkage (Sokal and Michener 1958): no chain of near ones joins what is far apart. Numbers follow the order
    of the vectors; among equals the first are joined, so bring them in an order that does not depend on how they came.
    """
    count = len(vectors)
    labels, sizes, sums = list(range(count)), np.ones(count), vectors.astype(np.float64)
    means = sums @ sums.T
    np.fill_diagonal(means, -np.inf)
    while count > 1:
        place = int(np.argmax(means))
        one, other = sorted(divmod(place, count))
        if means[one, other] < similarity - 1e-9:
            break
        weights = sizes[one], sizes[other]
        joined = (weights[0] * means[one] + weights[1] * means[other]) / sum(weights)
        means[one], means[:, one] = joined, joined
        means[other], means[:, other], means[one, one] = -np.inf, -np.inf, -np.inf
        sizes[one] += sizes[other]
        labels = [one if label == other else label for label in labels]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def unanswered(replies: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """Return the replies that left a question open, with `why`: "refused" by rule, "abstained", or "rated down"."""
    down = (
        feedback.filter(pl.col("rating") == "down")["reply_id"] if feedback.height else pl.Series([], dtype=pl.String)
    )
    why = (
        pl.when(pl.col("refused"))
        .then(pl.lit("refused"))
        .when(pl.col("abstained"))
        .then(pl.lit("abstained"))
        .when(pl.col("reply_id").is_in(down.implode()))
        .then(pl.lit("rated down"))
    )
    return replies.filter(pl.col("outcome") == "answered").with_columns(why.alias("why")).drop_nulls("why")


def distinct(rows: pl.DataFrame) -> list[str]:
    """Return the different questions of some rows, those asked most often first, at most 1,000."""
    counts = Counter(_plain(one) for one in rows["question"])
    return [text for text, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))][:_MOST_CLUSTERED]


def _plain(question: str) -> str:
    return " ".join(question.split())


def topics(
    rows: pl.DataFrame, questions: Sequence[str], vectors: Floats, similarity: float, far: Sequence[bool]
) -> list[dict[str, Any]]:
    """Return what people ask that is not answered, the most asked first: the list for owners of the documents.

    Each has how many `times` it was asked, in how many `conversations`, an `example` (the question nearest to all of
    its topic), `others` (up to four more), the dates of the `first` and the `last`, how often each `why`, and whether
    it is `far` from everything that is indexed or trained on (most of its questions are).

    Args:
        rows: of `unanswered`.
        questions: their different texts (`distinct`).
        vectors: one a text, of length 1.
        similarity: the cosine of one topic.
        far: for each text whether it is far.
    """
    order = sorted(range(len(questions)), key=lambda place: questions[place])
    numbers = grouped(vectors[order], similarity) if order else []
    members = defaultdict[int, list[int]](list)
    for place, number in zip(order, numbers, strict=True):
        members[number].append(place)
    asked = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows.select("question", "at", "conversation", "reply_id", "why").to_dicts():
        asked[_plain(row["question"])].append(row)
    found = []
    for places in members.values():
        own = [row for place in places for row in asked[questions[place]]]
        nearness = vectors[places] @ vectors[places].mean(axis=0)
        ranked = sorted(zip(-np.round(nearness, 6), [questions[place] for place in places], strict=True))
        found.append(
            {
                "times": len(own),
                "conversations": len({row["conversation"] or row["reply_id"] for row in own}),
                "example": ranked[0][1],
                "others": [text for _, text in ranked[1:5]],
                "wordings": len(places),
                "first": day(min(row["at"] for row in own)),
                "last": day(max(row["at"] for row in own)),
                "why": dict(sorted(Counter(row["why"] for row in own).items())),
                "far": 2 * sum(far[place] for place in places) > len(places) if len(far) else None,
            }
        )
    return sorted(found, key=lambda one: (-one["times"], -one["conversations"], one["example"]))


def questions_needed(difference: Interval, look: float) -> int:
    """Return how many questions tell a fall of `look` (0 to 1) from none in four of five cases, as these ones vary."""
    spread = (difference.high - difference.low) / 3.92
    return math.ceil(difference.questions * (2.8 * spread / look) ** 2) if look > 0 else difference.questions


def day(at: float) -> str:
    """Return the day (UTC) of a time in seconds."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


RATES = ("unsupported", "abstained", "failed", "slow")
_PERIODS_SHOWN = 31
_PERIODS = {"day": "1d", "week": "1w", "month": "1mo"}


def rates(replies: pl.DataFrame, *, slow: float) -> dict[str, Any]:
    """Return how often replies were unsupported, abstained, failed or slow: over time, and by system.

    `periods` has a row a `period` ("day", "week" or "month": the shortest that holds enough replies) and system,
    `systems` one a system: its `arm` and `version`, how many `replies`, and for each of `RATES` the interval of Wilson
    as a dictionary with `hits`, None where nothing can be told: of fewer than `TRAFFIC_ENOUGH`. Unsupported is of those
    that can be checked, abstained and slow of those that were answered, failed of all. `slow` is in seconds.
    """
    failed = pl.col("outcome") == "failed"
    flags = replies.with_columns(
        pl.from_epoch(pl.col("at").cast(pl.Int64)).alias("time"),
        failed.alias("failed"),
        *(
            pl.when(failed).then(None).otherwise(flag).alias(name)
            for name, flag in (
                ("slow", pl.col("seconds") >= slow),
                ("unsupported", ~pl.col("supported")),
                ("abstained", pl.col("abstained")),
            )
        ),
    )
    for name, length in _PERIODS.items():
        period = name
        over_time = flags.with_columns(pl.col("time").dt.truncate(length).dt.date().cast(pl.String).alias("begin"))
        counts = over_time.group_by("begin", "arm", "version").len()["len"]
        if (
            over_time["begin"].n_unique() <= _PERIODS_SHOWN
            and counts.filter(counts >= TRAFFIC_ENOUGH).sum() > 0.5 * replies.height
        ):
            break
    parts = {"periods": _parts(over_time, ["begin", "arm", "version"]), "systems": _parts(flags, ["arm", "version"])}
    return {"period": period, **{name: [_rates(*one) for one in found] for name, found in parts.items()}}


def _parts(rows: pl.DataFrame, columns: Sequence[str]) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    parts = rows.partition_by(columns, as_dict=True)
    found = [(dict(zip(columns, keys, strict=True)), part) for keys, part in parts.items()]
    return sorted(found, key=lambda one: [str(value) for value in one[0].values()])


def _rates(keys: dict[str, Any], rows: pl.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {**keys, "replies": rows.height}
    for name in RATES:
        told = rows[name].drop_nulls()
        hits = int(told.sum())
        share = win_rate(hits, len(told) - hits, 0) if len(told) >= TRAFFIC_ENOUGH else None
        found[name] = None if share is None else {**asdict(share), "hits": hits}
    return found


def one_a_conversation(replies: pl.DataFrame) -> pl.DataFrame:
    """Return the first question of each conversation, oldest first: what follows it is no new evidence."""
    whose = pl.when(pl.col("conversation") == "").then(pl.col("reply_id")).otherwise(pl.col("conversation"))
    ordered = replies.sort("at", "reply_id").with_columns(whose.alias("_whose"))
    return ordered.unique("_whose", keep="first", maintain_order=True).drop("_whose")
