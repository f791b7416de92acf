"""The benchmark: from what each system answered to scores, intervals by document, and a verdict."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import polars as pl

from raft.errors import RaftError, typed
from raft.evaluation.form import cut_answers
from raft.evaluation.lengths import LONG, apart, typical
from raft.evaluation.metrics import bleu, score_answer
from raft.evaluation.scores import (
    ANSWERABLE,
    WITHHELD,
    Table,
    Unit,
    differences,
    document_count,
    intervals,
    missed,
    refused,
    resampled,
    retrieval,
    serving,
    why,
)
from raft.evaluation.systems import LARGER, TUNED, System, baseline
from raft.evaluation.verdict import decide, economics, evidence
from raft.rag.grounding import Passage
from raft.rag.relevant import Sources, unanswerable
from raft.report.measures import COLUMNS
from raft.text import normalise
from raft.text.languages import of_text

FORMAT = 1
SCORES = pl.Schema(
    {
        **dict.fromkeys(("arm", "question_set", "condition", "question_id"), pl.String()),
        **dict.fromkeys(COLUMNS.values(), pl.Float64()),
        **dict.fromkeys(("label", "predicted"), pl.String()),
    }
)
"""What `score` returns. Shares from 0 to 1; `label` is the right one of a closed set of labels, `predicted` the one
that the answer names (null: none)."""

MOST_LABELS = 5
_TELLING = 200  # questions that tell the language of all
_MOST_TEXT = 20_000_000  # characters of passages: what a browser opens at once
_QUESTIONS_A_LABEL = 4  # fewer, and a handful of questions for facts would look like a set of labels
_GENERATED = ("eval_unseen", "eval_seen", "valid", "train")
Row = Mapping[str, Any]


def labels(questions: pl.DataFrame) -> tuple[str, ...]:
    """Return the labels of a closed set, normalised and sorted; empty where the questions are no such set.

    A closed set has two to five labels; each question that can be answered has exactly one reference, a label, and
    there are at least four questions a label. The rows are those of one set in `tables.EVALUATION`.
    """
    asked = [row["answers"] for row in questions.iter_rows(named=True) if not unanswerable(row)]
    if any(len(answers) != 1 for answers in asked):
        return ()
    found = {normalise(answer) for (answer,) in asked}
    closed = 2 <= len(found) <= MOST_LABELS and len(asked) >= _QUESTIONS_A_LABEL * len(found)
    return tuple(sorted(found)) if closed else ()


def score(
    answers: pl.DataFrame, questions: pl.DataFrame, *, relevant: Mapping[str, Sequence[str]], with_bleu: bool = False
) -> pl.DataFrame:
    """Return the scores of each answer, in the order of the answers, as a frame of `SCORES`.

    Withheld questions are scored by whether they are answered at all (`false_answer`), and so are unanswerable ones; a
    question without a reply has no such score, and 0 on the others. `citation_precision` is the share of the verbatim
    quotes that come from a chunk that bears the answer (`relevant`, by question id), null where none is known. BLEU is
    measured `with_bleu` alone, of answerable questions. The frames
    are of `tables.ANSWERS` and `tables.EVALUATION`, whose `split` is the question set.

    Raises:
        RaftError: an answer's question is not among the questions.
    """
    classes = {str(name): labels(rows) for (name,), rows in questions.group_by("split")}
    asked = {(row["split"], row["question_id"]): row for row in questions.iter_rows(named=True)}
    likely = of_text(" ".join(questions["question"].head(_TELLING))).code
    rows = []
    for answer in answers.iter_rows(named=True):
        question = asked.get((answer["question_set"], answer["question_id"]))
        if question is None:
            raise RaftError(
                f"An answer's question is not among those of {answer['question_set']}.",
                where=f"answers.parquet, question {answer['question_id']}",
                hint="delete answers.parquet and run raft bench again",
            )
        known = relevant.get(answer["question_id"], ())
        language = of_text(question["question"], likely)
        row = _scored(answer, question, known, classes[answer["question_set"]], language.code)
        if with_bleu and row.get("f1") is not None and not unanswerable(question):
            row["bleu"] = 0.0 if answer["abstained"] else bleu(answer["answer"], question["answers"])
        rows.append(row)
    return pl.DataFrame([{name: row.get(name) for name in SCORES} for row in rows], schema=SCORES)


def _scored(
    answer: Row, question: Row, relevant: Sequence[str], classes: Sequence[str], language: str
) -> dict[str, Any]:
    replied, quotes = answer["error"] is None, answer["quotes"] or []
    answerable = not unanswerable(question)
    scores = {name: answer[name] for name in ("arm", "question_set", "condition", "question_id")}
    scores["followed"] = _share(answer["followed"])
    scores["supported"] = _share(answer["supported"])
    scores["quote_support"] = len(quotes) / answer["quotes_given"] if answer["quotes_given"] else None
    if answer["condition"] == WITHHELD or not answerable:
        scores["false_answer"] = _share(not answer["abstained"]) if replied else None
    if answer["condition"] == WITHHELD:
        return scores
    said = answer["answer"] if replied else ""
    scores |= score_answer(said, question["answers"], abstained=bool(answer["abstained"]), language=language)
    if answerable:
        scores["false_refusal"] = _share(answer["abstained"])
        if quotes and relevant:
            scores["citation_precision"] = sum(one["chunk_id"] in relevant for one in quotes) / len(quotes)
    if classes and answerable:
        named = normalise(answer["answer"])
        scores["label"] = normalise(question["answers"][0])
        scores["predicted"] = named if named in classes and not answer["abstained"] else None
        scores["accuracy"] = _share(scores["predicted"] == scores["label"])
    return scores


def _share(value: bool | None) -> float | None:
    return None if value is None else float(value)


def summary(
    answers: pl.DataFrame,
    questions: pl.DataFrame,
    *,
    systems: Sequence[System],
    sources: Sources,
    timings: Mapping[str, Mapping[str, Any]],
    capability: Mapping[str, Mapping[str, Any]] | None,
    training: Mapping[str, Any] | None,
    baseline_tuning: Sequence[Mapping[str, Any]],
    prices: Mapping[str, Mapping[str, float | None]],
    build_cost: float | None,
    min_gain: float,
    k: int,
    header: Mapping[str, Any],
    passages: Mapping[str, Passage] | None = None,
    sections: Mapping[str, str] | None = None,
    unasked: Collection[tuple[str, str]] | None = None,
    trained: Sequence[str] = (),
    with_bleu: bool = False,
) -> dict[str, Any]:
    """Return the contents of `benchmark.json`: what was asked, each system's figures with intervals, and the verdict.

    Documents are resampled, or what `scores.resampled` says; `against` pairs each system with the baseline on the same
    questions.

    Args:
        answers: a frame of `tables.ANSWERS`.
        questions: a frame of `tables.EVALUATION`; `split` is the question set.
        systems: in the order in which they are shown; those without answers are left out.
        sources: where the answers stand, and what search brings.
        timings: for each system `questions_per_second` and `latencies` (seconds a question); either may be missing.
        capability: as in `benchmark.json`, but `change` is an `Interval`. None: not measured.
        training: excerpt of the adapter's card, with `seconds`; None: not tuned.
        baseline_tuning: `{"arm", "exemplars", "split", "f1", "questions", "chosen"}` of the tuning of the baseline.
        prices: for a system `input` and `output` in US dollars per million tokens; they win over the answers' own cost.
        build_cost: what building the training rows cost, in US dollars; None: unknown.
        min_gain: least gain (0 to 1) at which tuning pays.
        k: chunks retrieved for a question.
        header: `raft`, `date`, `run`, `hardware`, `seconds`, `shortened`: how many questions show fewer than k chunks,
            so that they fit into each model's context, and `wrong_references`: `question_id` and `question` of those
            that were left out; `more_rows` as in `Evidence`; `refusal` is the threshold in use: `least`, `promised`,
            and how many were `left_out`.
        passages: by chunk id what the systems were shown.
        sections: by chunk id the section that it is of, named as no other section of the corpus.
        unasked: condition and question id of what was refused without a model; None: nothing is refused so.
        trained: the answers of the training rows, or of some of them, to compare their length with the references'.
        with_bleu: whether BLEU is measured too.
    """
    if answers.is_empty():
        raise RaftError("There is no answer to measure.", where="answers.parquet", hint="run raft bench again")
    scores = _tables(score(answers, questions, relevant=sources.relevant, with_bleu=with_bleu))
    sets = _ordered({name for _, name in scores})
    by_set = {name: questions.filter(pl.col("split") == name) for name in sets}
    classes = {name: labels(rows) for name, rows in by_set.items()}
    asked = {name: {key for (_, one), table in scores.items() if one == name for key in table} for name in sets}
    ids = {name: sorted({question_id for _, question_id in keys}) for name, keys in asked.items()}
    units = {name: resampled(ids[name], sources, sections or {}) for name in sets}
    measured = [system for system in systems if any(name == system.name for name, _ in scores)]
    to_beat = baseline(baseline_tuning, {system.name for system in measured})
    figures = {}
    for system in measured:
        rows = answers.filter(pl.col("arm") == system.name).to_dicts()
        served = serving(rows, timings.get(system.name, {}), prices.get(system.name, {}))
        figures[system.name] = {**asdict(system), "sets": _sets(system.name, to_beat, scores, units, classes), **served}
    costs = economics(
        figures,
        system=TUNED if TUNED in figures else None,
        baseline=to_beat,
        larger=[name for name in figures if name.startswith(LARGER)],
        training_seconds=(training or {}).get("seconds"),
        build_cost=build_cost,
    )
    known = evidence(
        scores,
        units[sets[0]][0],
        question_set=sets[0],
        cut=_cut(answers, by_set[sets[0]], to_beat, sources),
        by_people=sets[0] not in _GENERATED,
        baseline=to_beat,
        measure="accuracy" if classes[sets[0]] else "f1",
        missed=missed(ids[sets[0]], sources, k),
        run=typed(header["run"]),
        capability=capability,
        k=k,
        costs=costs["sentences"],
        apart=apart(trained, by_set[sets[0]]["answers"].explode().drop_nulls().to_list()),
        resampled=units[sets[0]][1],
        documents=document_count(ids[sets[0]], sources),
        **({"more_rows": header["more_rows"]} if header.get("more_rows") else {}),
    )
    shown = {one for row in answers["shown"].to_list() for one in row or []}
    told = ("raft", "date", "run", "hardware", "seconds", "shortened", "wrong_references", "refusal")
    return {
        "format": FORMAT,
        **{name: header.get(name) for name in told},
        "k": k,
        "verdict": decide(known, min_gain=min_gain),
        "question_sets": [
            {**_described(name, by_set[name], asked[name], sources), "resampled": units[name][1]} for name in sets
        ],
        "arms": list(figures.values()),
        "baseline_tuning": [dict(row) for row in baseline_tuning],
        "refused": None
        if unasked is None
        else {name: refused(by_set[name].to_dicts(), sorted(asked[name]), unasked, sources, k) for name in sets},
        "retrieval": {name: retrieval(ids[name], units[name][0]) for name in sets},
        "capability": _plain(capability),
        "training": None if training is None else dict(training),
        "economics": costs,
        "blind": None,  # until people have compared
        "questions": list(_questions(answers, by_set, scores, sources, k)),
        "passages": _passages({name: one for name, one in (passages or {}).items() if name in shown}),
    }


def digest_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a benchmark (the contents of `benchmark.json`) for the report of a later one."""
    verdict = facts["verdict"]
    by_name = {one["name"]: one for one in facts["arms"]}
    ours, theirs = (by_name.get(verdict[side]) or {} for side in ("contender", "baseline"))
    kept = {name: verdict[name] for name in ("decision", "question_set", "measure", "gain")}
    for side, one in (("contender", ours), ("baseline", theirs)):
        kept[side] = ((one.get("sets") or {}).get(verdict["question_set"]) or {}).get(verdict["measure"])
    return {"date": facts["date"], "adapter": ours.get("adapter"), **kept}


def _passages(shown: Mapping[str, Passage]) -> dict[str, Any]:
    """Return by chunk id what a person is shown of passages; no text of those behind `_MOST_TEXT` characters in all."""
    found, room = {}, _MOST_TEXT
    for name, one in shown.items():
        room -= len(one.text)
        text = one.text if room >= 0 else None
        found[name] = {"document": one.document, "page": one.page, "title": one.title, "text": text}
    return found


def _tables(scores: pl.DataFrame) -> dict[tuple[str, str], dict[tuple[str, str], Row]]:
    """Return the scores by system and question set, and there by condition and question id."""
    found: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in scores.iter_rows(named=True):
        table = found.setdefault((row["arm"], row["question_set"]), {})
        table[row["condition"], row["question_id"]] = row
    return found


def _cut(answers: pl.DataFrame, questions: pl.DataFrame, system: str | None, sources: Sources) -> Table:
    """Return the scores of a system's replies, cut to their answers by rule, to the questions of one set."""
    own = answers.filter(
        (pl.col("arm") == system)
        & (pl.col("condition") == ANSWERABLE)
        & pl.col("question_set").is_in(questions["split"].unique().implode())
    )
    tables = _tables(score(cut_answers(own, questions), questions, relevant=sources.relevant)) if own.height else {}
    return next(iter(tables.values()), {})


def _ordered(names: Iterable[str]) -> list[str]:
    """Return the question sets, the primary one first: the user's, others that people wrote, then generated ones."""
    return sorted(names, key=lambda name: (name != "user", _GENERATED.index(name) if name in _GENERATED else -1, name))


def _sets(
    system: str,
    to_beat: str | None,
    scores: Mapping[tuple[str, str], Table],
    units: Mapping[str, tuple[Sources, Unit]],
    classes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    found = {}
    for name, closed in classes.items():
        sources, _ = units[name]
        table, theirs = scores.get((system, name)), scores.get((str(to_beat), name))
        if table is not None:
            paired = theirs is not None and system != to_beat
            against = differences(table, theirs or {}, sources, closed) if paired else None
            found[name] = {**intervals(table, sources, closed), "against": against}
    return found


def _plain(capability: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any] | None:
    if capability is None:
        return None
    return {
        name: {**one, "change": asdict(one["change"]) if one["change"] else None} for name, one in capability.items()
    }


def _described(name: str, questions: pl.DataFrame, asked: set[tuple[str, str]], sources: Sources) -> dict[str, Any]:
    ids = {question_id for _, question_id in asked}
    rows = questions.filter(pl.col("question_id").is_in(list(ids))).sort("question_id")
    told = rows.select("question_id", "question", "answers").rows()
    words = typical(rows["answers"].explode().drop_nulls().to_list())
    return {
        "name": name,
        "questions": sum(condition != WITHHELD for condition, _ in asked),
        "withheld": sum(condition == WITHHELD for condition, _ in asked),
        "documents": document_count(ids, sources),
        "answer_words": words,
        "long_answers": words is not None and words >= LONG,
        "written_by": "a model" if name in _GENERATED else "people",
        "digest": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
    }


def _questions(
    answers: pl.DataFrame,
    by_set: Mapping[str, pl.DataFrame],
    scores: Mapping[tuple[str, str], Table],
    sources: Sources,
    k: int,
) -> Iterator[dict[str, Any]]:
    """Yield a question with what each system said; one that was also asked with its chunks withheld comes twice."""
    said: dict[tuple[str, str, str], list[Row]] = {}
    for row in answers.iter_rows(named=True):
        said.setdefault((row["question_set"], row["question_id"], row["condition"]), []).append(row)
    for name, questions in by_set.items():
        for question, condition in product(questions.to_dicts(), (ANSWERABLE, WITHHELD)):
            one = question["question_id"]
            rows = said.get((name, one, condition))
            if rows:
                shown = {row["arm"]: scores[row["arm"], name][condition, one] for row in rows}
                yield {
                    **{key: question[key] for key in ("question_id", "question")},
                    "question_set": name,
                    "document": question["document"] or sources.documents.get(one),
                    "references": question["answers"],
                    "golden": sources.golden(one),
                    "retrieved_bearing": sources.retrieved(one, k) if condition == ANSWERABLE else None,
                    "answers": {row["arm"]: _shown(row, shown[row["arm"]], question, sources) for row in rows},
                }


def _shown(answer: Row, scores: Row, question: Row, sources: Sources) -> dict[str, Any]:
    name = question["question_id"]
    return {
        **{name: answer[name] for name in ("condition", "answer", "abstained", "supported")},
        "quotes": [quote["text"] for quote in answer["quotes"] or []],
        "shown": answer["shown"] or [],
        **{name: scores[name] for name in ("f1", "exact_match")},
        "why": why(answer, question, sources.relevant.get(name, ()), sources.grain(name)),
    }
