"""What reader, retriever and refusal each add: the same questions with each of them learned, and as it was before.

Every pairing that a run offers is asked: 2 x 2 x 2 where all three were learned.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from raft.evaluation import contexts, scores, summary
from raft.evaluation.scores import ANSWERABLE, WITHHELD, Table
from raft.evaluation.systems import TUNED, BenchmarkModels, RunningSystem
from raft.pipeline.bench import answer_set, line_up, prepare, sections
from raft.pipeline.retriever import Card, not_learned
from raft.protocols import Embedder, OnEvent, Retriever
from raft.rag.refusal import Refusal
from raft.rag.relevant import Sources
from raft.settings import Settings
from raft.store.run import Run

MEASURES = ("false_answers", "false_refusals")
"""What is told beside the verdict's measure."""


class Learned(NamedTuple):
    """Which parts are the learned ones; the others are as they were before."""

    reader: bool
    retriever: bool
    refusal: bool


@dataclass(frozen=True)
class Offered:
    """What there is of retriever and refusal.

    Attributes:
        embedder: what the index was made with.
        tuned: a tuned retriever, used or not.
        refusal: what decides that no model is asked, a head that was learned or a rule.
        rule: what decides without a head; None: each question is asked.
    """

    embedder: Embedder
    tuned: tuple[Card, Embedder] | None
    refusal: Refusal | None
    rule: Refusal | None

    @property
    def head(self) -> Refusal | None:
        """The refusal, where it was learned."""
        return self.refusal if self.refusal and self.refusal.promised is not None else None

    def learned(self) -> bool:
        """Tell whether anything but the reader was learned."""
        return self.tuned is not None or self.head is not None

    def used(self) -> Learned:
        """Return what answers users."""
        return Learned(True, self.tuned is not None and self.tuned[0].used, self.head is not None)


def each_part(
    run: Run,
    settings: Settings,
    questions: pl.DataFrame,
    models: BenchmarkModels,
    *,
    offered: Offered,
    search: Callable[[Embedder | None], AbstractContextManager[Retriever]],
    verdict: Mapping[str, Any],
    exemplars: int,
    on_event: OnEvent,
) -> dict[str, Any] | None:
    """Ask the tuned model, and what it has to beat, the verdict's questions with each retriever and each refusal.

    This is done where all systems are wanted (`benchmark.contenders`), and more than a reader was learned. What was
    said before to the same passages is taken from the ledger.

    Args:
        run: the run directory.
        settings: the experiment.
        questions: a frame of `tables.EVALUATION`; what the tuned retriever learned from is left out.
        models: who takes part, a tuned model among them.
        offered: what there is of the other two parts.
        search: opens search, with what embeds questions; None: the embedder.
        verdict: its `question_set`, `baseline` and `measure` (`evaluation.verdict.decide`).
        exemplars: worked examples that plain RAG is shown.
        on_event: told what is asked.

    Returns:
        `questions`: how many. `by_rule`: whether a rule refuses where no head does. `rows`: each pairing, by part if
        it is the learned one, `used`, whether it is what answers users, and an interval (as a dictionary, or None) of
        each measure. `adds`: by part the difference, learned less untouched, of each measure, paired, the other parts
        as they are used. None where there is nothing to ask.
    """
    if settings.benchmark.contenders != "all" or not offered.learned():
        return None
    questions = questions.filter(split=verdict["question_set"])
    used = offered.used()
    askers: dict[bool, Embedder | None] = {False: None}
    if offered.tuned:
        card, askers[True] = offered.tuned
        questions = not_learned(run, settings, offered.embedder, questions, card)
    if questions.is_empty():
        return None
    refusals = {False: offered.rule, **({True: offered.head} if offered.head else {})}
    tables: dict[Learned, Table] = {}
    units = None
    for retriever in sorted(askers, key=used.retriever.__ne__):  # what is in use tells what is resampled
        with search(askers[retriever]) as searching:
            found = prepare(run, settings, questions, searching, models)
        units = units or scores.resampled(questions["question_id"].to_list(), found.sources, sections(run))[0]
        for refusal, decides in refusals.items():
            known = contexts.judged(found, decides) if decides else found
            lineup = {one.system.name: one for one in line_up(run, settings, models, known, exemplars)}
            for reader in (False, True):
                asked = lineup[TUNED if reader else verdict["baseline"]]
                tables[Learned(reader, retriever, refusal)] = _table(asked, known, settings, on_event)
    assert units is not None
    told = _told(tables, units, summary.labels(questions), used, (verdict["measure"], *MEASURES))
    by_rule = offered.rule is not None
    return {"measure": verdict["measure"], "questions": questions.height, "by_rule": by_rule, **told}


def _told(
    tables: Mapping[Learned, Table], units: Sources, classes: Sequence[str], used: Learned, shown: Sequence[str]
) -> dict[str, Any]:
    rows = []
    for learned in sorted(tables):
        of_all = scores.intervals(tables[learned], units, classes)
        rows.append({**learned._asdict(), "used": learned == used, **{name: of_all[name] for name in shown}})
    adds = {}
    for part in Learned._fields:
        with_it, without = (tables.get(used._replace(**{part: one})) for one in (True, False))
        if with_it and without:
            differs = scores.differences(with_it, without, units, classes)
            adds[part] = {name: differs.get(name) for name in shown}
    return {"rows": rows, "adds": adds}


def _table(running: RunningSystem, known: contexts.Contexts, settings: Settings, on_event: OnEvent) -> Table:
    name = known.questions["split"][0]
    conditions = (ANSWERABLE, WITHHELD)
    said = [answer_set(running, known, name, one, settings=settings, on_event=on_event) for one in conditions]
    found = summary.score(pl.concat(said), known.questions, relevant=known.sources.relevant)
    return {(row["condition"], row["question_id"]): row for row in found.iter_rows(named=True)}
