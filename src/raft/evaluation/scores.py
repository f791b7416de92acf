"""From the scores of single answers to the figures of a benchmark: means with intervals, differences, costs, speed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from raft.evaluation.metrics import (
    TOO_FEW,
    Interval,
    bootstrap_mean,
    macro_f1_difference,
    macro_f1_interval,
    ndcg,
    paired_difference,
    percentile,
    recall_at,
    reciprocal_rank,
)
from raft.rag.relevant import GRAINS, Grain, Sources, golden_of, ranks, unanswerable
from raft.report.measures import COLUMNS, contains_reference, f1
from raft.text import contains, normalise

MACRO_F1 = "macro_f1"
ANSWERABLE, WITHHELD = "answerable", "withheld"
"""The conditions of `tables.ANSWERS`."""

_ARTICLES = frozenset({"a", "an", "the"})
_RECALLS = (1, 3, 5)
_DEPTH = 10  # ranks that MRR and nDCG look at
Table = Mapping[tuple[str, str], Mapping[str, Any]]
"""Scores of one system's answers to one question set, by condition and question id."""


Unit = Literal["documents", "sections", "questions"]
"""What a bootstrap resamples."""


def resampled(question_ids: Sequence[str], sources: Sources, sections: Mapping[str, str]) -> tuple[Sources, Unit]:
    """Return the sources with the groups that these questions are resampled in, and what the groups are.

    These are documents where there are `TOO_FEW` or more. With fewer, nothing can be told of other documents, whatever
    is resampled; of new questions about the same documents it can: their sections are resampled (by chunk id, those of
    the chunks that bear the answers), and where these are as few or not known, single questions.
    """
    if document_count(question_ids, sources) >= TOO_FEW:
        return sources, "documents"
    chunks = {one: golden_of(sources.relevant.get(one, ()), sources.hits.get(one, ())) or "" for one in question_ids}
    found = {one: sections[chunk] for one, chunk in chunks.items() if chunk in sections}
    if len(set(found.values())) >= TOO_FEW:
        return replace(sources, documents={one: found.get(one, one) for one in question_ids}), "sections"
    return replace(sources, documents={one: one for one in question_ids}), "questions"


def document_count(question_ids: Iterable[str], sources: Sources) -> int:
    """Return how many documents questions are about; one of which no document is known is a group, and no document."""
    return len({group for one in question_ids if (group := sources.group(one)) != one})


def intervals(table: Table, sources: Sources, classes: Sequence[str]) -> dict[str, Any]:
    """Return each measure's mean with its interval as a dictionary, None where it was not measured.

    `false_answers` is over what nothing shown answers, all others are over the questions as they are. `classes` are the
    labels of a closed set, or nothing.
    """
    found: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        keys = _keys(table, name)
        found[name] = _plain(bootstrap_mean([table[key][column] for key in keys], _groups(keys, sources)))
    keys = _keys(table, MACRO_F1)
    predicted, right = ([table[key][column] for key in keys] for column in ("predicted", "label"))
    macro = macro_f1_interval(predicted, right, _groups(keys, sources), classes) if classes else None
    return {**found, MACRO_F1: _plain(macro)}


def differences(ours: Table, theirs: Table, sources: Sources, classes: Sequence[str]) -> dict[str, Any]:
    """Return ours minus theirs on the same questions, for each measure that both have, as `intervals` does."""
    found = {name: difference(ours, theirs, name, sources) for name in COLUMNS}
    keys = [key for key in _keys(ours, MACRO_F1) if key in theirs]
    if classes and keys:
        mine, other = ([table[key]["predicted"] for key in keys] for table in (ours, theirs))
        right = [ours[key]["label"] for key in keys]
        found[MACRO_F1] = macro_f1_difference(mine, other, right, _groups(keys, sources), classes)
    return {name: asdict(one) for name, one in found.items() if one is not None}


def difference(ours: Table, theirs: Table, name: str, sources: Sources) -> Interval | None:
    """Return the paired difference of one measure; None where both measured no question in common."""
    keys = [key for key in _keys(ours, name) if key in theirs]
    column = COLUMNS[name]
    mine, other = ([table[key][column] for key in keys] for table in (ours, theirs))
    return paired_difference(mine, other, _groups(keys, sources))


def shared_means(one: Table, other: Table, name: str) -> tuple[float | None, float | None]:
    """Return the means of a measure in two tables over the questions that both measured; None without any."""
    column = COLUMNS[name]
    keys = [key for key in _keys(one, name) if key in other]
    pairs = [(one[key][column], other[key][column]) for key in keys]
    both = [pair for pair in pairs if None not in pair]
    return _mean([ours for ours, _ in both]), _mean([theirs for _, theirs in both])


def mean(table: Table, name: str) -> float | None:
    """Return the mean of a measure over the answers that have it; None without any."""
    return _mean([value for key in _keys(table, name) if (value := table[key][COLUMNS[name]]) is not None])


def stronger(
    untuned: Mapping[str, Table], ours: Table, theirs: Table, measure: str, sources: Sources
) -> tuple[str, Interval] | None:
    """Return an untuned system that scored higher than the baseline, and what the tuned system gains over it."""
    to_beat = mean(theirs, measure)
    for name, table in untuned.items():
        reached, gain = mean(table, measure), difference(ours, table, measure, sources)
        if to_beat is not None and reached is not None and reached > to_beat and gain is not None:
            return name, gain
    return None


def _keys(table: Table, name: str) -> list[tuple[str, str]]:
    # sorted, because the draws of a bootstrap depend on the order of the groups
    return sorted(key for key in table if name == "false_answers" or key[0] != WITHHELD)


def _groups(keys: Sequence[tuple[str, str]], sources: Sources) -> list[str]:
    return [sources.group(question_id) for _, question_id in keys]


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)


def retrieval(question_ids: Sequence[str], sources: Sources) -> dict[str, Any]:
    """Return how well search finds the relevant chunks, over the questions for which one is known.

    Recall at k is the share of what a question needs (one thing, or each of its documents) of which at least one
    relevant chunk is among the first k, averaged over the questions: one chunk of each is enough to answer. MRR and
    nDCG look at ten ranks, MRR at the first relevant chunk of any. nDCG counts each chunk that bears the answer word
    for word; where a page or a document is all that is known, it counts each once, at the best rank of its chunks, as
    documents are ranked by their best passage (Dai and Callan 2019, arXiv 1905.09217).

    `measured_by` says by how many questions retrieval is measured in which way (`rag.relevant.Grain`), `measured` the
    same in words. `together` is there where some questions need several documents: how many they are, and `all_found`
    at k, the share of them of which each document is found.
    """
    known = sorted(name for name in question_ids if sources.retrieved(name, 1) is not None)
    firsts = [[_first(part, sources.hits[name]) for part in sources.sought(name)] for name in known]
    best = [_least_rank(row) for row in firsts]
    placed = [
        ranks(sources.relevant[name], sources.hits[name]) if sources.grain(name) == "chunk" else row
        for name, row in zip(known, firsts, strict=True)
    ]
    several = [place for place, row in enumerate(firsts) if len(row) > 1]
    groups = [sources.group(name) for name in known]

    def resampled(values: Sequence[float | None]) -> dict[str, Any] | None:
        return _plain(bootstrap_mean(values, groups))

    def together(k: int) -> dict[str, Any] | None:
        whole = [float(recall_at(firsts[place], k) == 1) for place in several]
        return _plain(bootstrap_mean(whole, [groups[place] for place in several]))

    counts = sources.measured_by(known)
    return {
        "recall": {str(k): resampled([recall_at(row, k) for row in firsts]) for k in _RECALLS},
        "mrr": resampled([reciprocal_rank(rank, _DEPTH) for rank in best]),
        "ndcg": resampled([ndcg(row, len(row), _DEPTH) for row in placed]),
        "bearing": len(known),
        "measured_by": counts,
        "measured": measured_by(counts),
        **(
            {"together": {"questions": len(several), "all_found": {str(k): together(k) for k in _RECALLS}}}
            if several
            else {}
        ),
    }


def measured_by(counts: Mapping[Grain, int]) -> str:
    """Return in words by how many questions retrieval is measured in which way; empty without any."""
    told = (f"by {GRAINS[grain]}: {count:,} question{'s' * (count != 1)}" for grain, count in counts.items())
    return "; ".join(told)


def _first(chunks: Sequence[str], hits: Sequence[str]) -> int | None:
    return _least_rank(ranks(chunks, hits))


def _least_rank(row: Sequence[int | None]) -> int | None:
    return min((rank for rank in row if rank is not None), default=None)


def refused(
    questions: Sequence[Mapping[str, Any]],
    asked: Collection[tuple[str, str]],
    unasked: Collection[tuple[str, str]],
    sources: Sources,
    k: int,
) -> dict[str, int]:
    """Return how many questions no model was asked, since what was found seemed not to be about them.

    Of those `answerable` so many were `answerable_refused`, `found_refused` of them although search had brought a chunk
    that bears the answer; of those that nothing shown answers (`unanswerable`) so many were `unanswerable_refused`.

    Args:
        questions: rows of `tables.EVALUATION`, of one set.
        asked: condition and question id of what the systems were given.
        unasked: those of it that were refused without a model.
        sources: where the answers stand, and what search brings.
        k: chunks retrieved for a question.
    """
    rows = {row["question_id"]: row for row in questions}
    names = ("answerable", "answerable_refused", "found_refused", "unanswerable", "unanswerable_refused")
    found = dict.fromkeys(names, 0)
    for condition, name in asked:
        kind = "unanswerable" if condition == WITHHELD or unanswerable(rows[name]) else "answerable"
        away = (condition, name) in unasked
        found[kind] += 1
        found[f"{kind}_refused"] += away
        found["found_refused"] += away and kind == "answerable" and bool(sources.retrieved(name, k))
    return found


def compared(
    question_ids: Sequence[str], before: Sources, after: Sources, *, k: int, sections: Mapping[str, str]
) -> dict[str, Any]:
    """Return how well two ways to search find the same relevant chunks, each with its interval, and the difference.

    Of the questions for which a relevant chunk is known: `questions`, how many; `recall_at_1`, `recall_at_k` and `mrr`
    as `retrieval` tells them. Each of these has `before`, `after` and `difference`; `resampled` is what their
    intervals resample (`resampled`, which takes the `sections`).
    """
    known = sorted(name for name in question_ids if before.retrieved(name, 1) is not None)
    by_unit, unit = resampled(known, before, sections)
    groups = [by_unit.group(name) for name in known]

    def firsts(sources: Sources) -> list[list[int | None]]:
        return [[_first(part, sources.hits[name]) for part in sources.sought(name)] for name in known]

    pairs = firsts(before), firsts(after)
    measures: dict[str, Callable[[list[int | None]], float | None]] = {
        "recall_at_1": lambda row: recall_at(row, 1),
        "recall_at_k": lambda row: recall_at(row, k),
        "mrr": lambda row: reciprocal_rank(_least_rank(row), _DEPTH),
    }
    found: dict[str, Any] = {"questions": len(known), "resampled": unit}
    for name, measure in measures.items():
        old, new = ([measure(row) for row in part] for part in pairs)
        both = {"before": bootstrap_mean(old, groups), "after": bootstrap_mean(new, groups)}
        found[name] = {
            **{one: _plain(value) for one, value in both.items()},
            "difference": _plain(paired_difference(new, old, groups)),
        }
    return found


def missed(question_ids: Sequence[str], sources: Sources, k: int) -> float | None:
    """Return the share of questions of which something sought is not in the first k; None where none is known."""
    found = [retrieved for name in question_ids if (retrieved := sources.retrieved(name, k)) is not None]
    return 1 - sum(found) / len(found) if found else None


def serving(
    rows: Sequence[Mapping[str, Any]], timing: Mapping[str, Any], price: Mapping[str, float | None]
) -> dict[str, Any]:
    """Return what a system takes to serve: tokens, cost, speed, latency; None for what was not measured.

    Args:
        rows: of `tables.ANSWERS`; those without a reply are left out.
        timing: `questions_per_second` and `latencies` (seconds a question); either may be missing.
        price: `input` and `output` in US dollars per million tokens; without both, the answers' own cost counts.
    """
    replies = [row for row in rows if row["error"] is None]
    counted = [row["tokens"] for row in replies if row["tokens"] is not None]
    tokens = {name: _mean([one[name] for one in counted]) for name in ("input", "output")}
    latencies = timing.get("latencies") or []
    cost = _listed(tokens, price)
    if cost is None:
        cost = _mean([row["cost"] for row in replies])
    return {
        "tokens": tokens,
        "cost_per_thousand": None if cost is None else 1000 * cost,
        "questions_per_second": timing.get("questions_per_second"),
        "latency": {
            "median": percentile(latencies, 0.5),
            "p95": percentile(latencies, 0.95),
            "questions": len(latencies),
        }
        if latencies
        else None,
    }


def _listed(tokens: Mapping[str, float | None], price: Mapping[str, float | None]) -> float | None:
    """Return the cost of a question by its price list, in US dollars; None where something is unknown."""
    given, said, paid, earned = tokens["input"], tokens["output"], price.get("input"), price.get("output")
    if given is None or said is None or paid is None or earned is None:
        return None
    return (given * paid + said * earned) / 1_000_000


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None without values, or where one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def why(answer: Mapping[str, Any], question: Mapping[str, Any], relevant: Sequence[str], grain: Grain = "chunk") -> str:
    """Return the reason for a score in one sentence.

    `answer` and `question` are rows of `tables.ANSWERS` and `tables.EVALUATION`; `relevant` are the ids of the chunks
    that bear the question's answer, empty where none is known, or those of the page or the document (`grain`) that is
    named for it.
    """
    if answer["error"] is not None:
        return f"There is no reply: {answer['error'].rstrip('.')}."
    if answer["condition"] == WITHHELD or unanswerable(question):
        bears = "what bears the answer" if grain == "chunk" else GRAINS[grain]
        hidden = "the documents do not answer it" if unanswerable(question) else f"{bears} was withheld"
        return f"Abstained, and rightly: {hidden}." if answer["abstained"] else f"Answered, though {hidden}."
    known = set(relevant)
    shown = [name for name in answer["shown"] if name in known]
    bears = "bears the answer" if grain == "chunk" else f"is of {GRAINS[grain]}"
    found = f"though chunk {shown[0]} {bears}" if shown else ""
    missing = f"{'the right chunk' if grain == 'chunk' else GRAINS[grain]} was not retrieved" if relevant else ""
    if answer["abstained"]:
        return f"Abstained, {_abstained(answer, found, missing)}."
    said = _compared(answer["answer"], question["answers"])
    if said.startswith("No word") and shown:
        said += f", {found}"
    if answer["shown"] and relevant and not shown:
        said += f"; {missing}"
    if not answer["followed"]:
        said += "; the reply did not keep the form, and all of it was scored"
    return f"{said}."


def _abstained(answer: Mapping[str, Any], found: str, missing: str) -> str:
    if found:
        return found
    if not answer["shown"]:
        return "and no document was shown"
    return f"and {missing}" if missing else "though the question has an answer"


def _compared(answer: str, references: Sequence[str]) -> str:
    if not references:
        return "There is no reference to compare with"
    best = max(references, key=lambda one: f1(answer, [one]))
    if f1(answer, [best]) == 1:
        return f"The answer has the same words as the reference '{best}'"
    contained = [one for one in references if contains_reference(answer, [one])]
    if contained:
        return f"The reference '{max(contained, key=len)}' is contained in a longer answer"
    if contains(best, answer):
        return f"The answer is a part of the reference '{best}'"
    given = set(normalise(answer).split())
    common = [word for word in dict.fromkeys(normalise(best).split()) if word in given and word not in _ARTICLES]
    if common:
        words = f"words '{' '.join(common)}' are" if len(common) > 1 else f"word '{common[0]}' is"
        return f"The {words} in both the answer and the reference '{best}'"
    return f"No word of the reference '{best}' is in the answer"
