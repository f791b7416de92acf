"""The story of a refusal head: a run's own questions, with and without what bears their answers, to `refusal/`."""

import hashlib
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jinja2 import Template
from pydantic import ValidationError

from raft.errors import DamagedArtifact, RaftError, UsageError, typed
from raft.evaluation.contexts import Contexts, contexts
from raft.kinds import traits
from raft.pipeline.build import searched
from raft.pipeline.read import documents_listed
from raft.protocols import OnEvent, Retriever
from raft.rag.grounding import ceiled
from raft.rag.refusal import DIGITS, Head, Learned, Pair, Seen, learn, question_digest, threshold
from raft.settings import Settings
from raft.store import artifacts, lineage, tables
from raft.store.again import again, more_questions
from raft.store.run import Run, Step

HEAD, CARD = "refusal/head.json", "refusal/README.md"
WRONG = "wrong_references.jsonl"
"""In the run directory: the questions whose reference a person said to be wrong, as the report's page saves them."""
RATE = 0.1
"""What is promised where nothing is set."""
RATES = (0.05, 0.1, 0.2, 0.3)
"""Rates whose price is told."""
LEAST = 20
"""Questions to learn from, and to set the threshold on, at least."""
_FOLDS = 5
_CASES = ("answerable", "unanswerable")
_ENOUGH = 29
"""Passages without the answer from which a rate of 10 percent can be proven (`rag.refusal.threshold`)."""


class Reader(NamedTuple):
    """What a head looks with, and who that is: the identities of embedder and reader (with its prompt)."""

    seen: Seen
    embedder: str
    reader: str | None
    retriever: str | None = None
    """What embeds the questions that are searched for; None: the embedder."""


def train_head(
    run: Run, settings: Settings, retriever: Retriever, reader: Reader, *, on_event: OnEvent
) -> dict[str, Any]:
    """Learn a refusal head from a run's questions, unless that was done; return what it promises (`facts`).

    The questions to train on and those of `valid` teach it. The threshold is set on half of a person's own questions,
    where these are enough, with which nothing is measured afterwards; or else on the run's, each scored by a head that
    was learned without it.

    Raises:
        RaftError: the run has too few questions.
    """

    def work(step: Step) -> dict[str, Any]:
        head = learn_head(run, settings, retriever, reader)
        path = run.folder / HEAD
        path.parent.mkdir(exist_ok=True)
        artifacts.atomically(path, head.model_dump_json(indent=1) + "\n")
        step.stats.update(questions=head.questions, threshold_on=len(head.unanswerable))
        return {}

    using = {
        "embedder": reader.embedder,
        "reader": reader.reader,
        "k": settings.index.k,
        "seed": settings.seed,
        **({"retriever": reader.retriever} if reader.retriever else {}),
        **({"wrong": wrong} if (wrong := wrong_references(run)) else {}),
    }
    run.step(
        "refusal",
        work,
        version=1,
        outputs={HEAD: lambda: _digest(run.folder / HEAD)},
        inputs=["documents.parquet", "chunks.parquet", "cleaned.parquet", "eval.jsonl", *searched(settings)],
        using=using,
        settings={"answering": {"false_answers": settings.answering.false_answers or RATE}},
    )
    head = read_head(run)
    assert head is not None
    artifacts.atomically(run.folder / CARD, card(head, settings))
    found = facts(head, settings)
    on_event("refusal", found)
    return found


def read_head(run: Run) -> Head | None:
    """Return a run's refusal head, None where it has none, or none that belongs to its questions of now.

    Raises:
        DamagedArtifact: the file is not what a training wrote.
    """
    path, steps = run.folder / HEAD, run.manifest["steps"]
    if "refusal" not in steps or "refusal" in lineage.stale(steps) or not path.is_file():
        return None
    hint = f"raft train {typed(run.folder)} --part refusal"
    if artifacts.digest(path) != steps["refusal"]["artifacts"][HEAD]["digest"]:
        raise DamagedArtifact("The refusal head is not what was learned.", where=path, hint=hint)
    try:
        return Head.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedArtifact(f"The refusal head cannot be read: {why}.", where=path, hint=hint) from None


def _digest(path: Path) -> str | None:
    return artifacts.digest(path) if path.is_file() else None


def learn_head(run: Run, settings: Settings, retriever: Retriever, reader: Reader, *, theirs: bool = True) -> Head:
    """Return a head learned from a run's questions; its threshold is set on a person's own only where `theirs` is true.

    Raises:
        RaftError: the run has too few questions.
    """
    chunks, documents = run.read("chunks.parquet"), documents_listed(run)

    def looked(rows: pl.DataFrame) -> _Looked:
        found = contexts(rows, chunks, documents, retriever, k=settings.index.k, share=1.0, seed=settings.seed)
        return _Looked(found, reader.seen, settings.seed)

    check_questions(run)
    own = looked(_own(run, documents))
    if len(own.taught) < LEAST:
        raise _too_few(run, len(own.taught))
    head = own.learn()
    users = run.read("eval.jsonl").filter(pl.col("split") == "user", theirs)
    users = users.filter(~pl.col("question_id").is_in(wrong_references(run)))
    half = sorted(users["question_id"], key=lambda name: _drawn(settings.seed, name))[: users.height // 2]
    asked = looked(users.filter(pl.col("question_id").is_in(half if len(half) >= _ENOUGH else [])))
    given = len(asked.without) >= _ENOUGH
    scores = asked.scores(head) if given else own.unseen()
    set_on = users.filter(pl.col("question_id").is_in(half))["question"]
    return Head(
        embedder=reader.embedder,
        reader=reader.reader,
        signals=head.signals,
        reading=head.reading,
        questions=len(own.taught),
        whose="yours" if given else "the run's",
        calibrated=tuple(sorted(map(question_digest, set_on))) if given else (),
        hybrid=settings.index.hybrid,
        retriever=reader.retriever,
        k=settings.index.k,
        **scores,
    )


def check_questions(run: Run) -> None:
    """Check, before anything is looked at, that a run has enough questions to learn from.

    Raises:
        RaftError: it has not.
    """
    count = _own(run, documents_listed(run)).height
    if count < LEAST:
        raise _too_few(run, count)


def _too_few(run: Run, count: int) -> RaftError:
    what = f"A refusal head learns from {LEAST} questions at least, and the run has {count} for it."
    remark = "asks for more; without a head, answering.min_relevance decides"
    hint = again(run.folder, more_questions(run.manifest["settings"]), remark=remark)
    return RaftError(what, where=run.folder, hint=hint)


def wrong_references(run: Run) -> list[str]:
    """Return the ids of questions whose reference a person called wrong (`WRONG`).

    Raises:
        UsageError: the file is not what the report saves.
    """
    file = run.folder / WRONG
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["question_id"]) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        hint = f"save it from {run.folder / 'report.html'} anew, or delete it"
        raise UsageError("It is not what the report saves.", where=f"{file}: {error}", hint=hint) from None


def _own(run: Run, documents: pl.DataFrame) -> pl.DataFrame:
    """Return the run's kept questions to train on and of `valid` that its documents answer (`tables.EVALUATION`)."""
    paths = dict(documents.select("doc_id", "path").iter_rows())
    kept = run.read("cleaned.parquet").filter(pl.col("split").is_in(["train", "valid"]))
    rows = [
        {**row, "answers": [row["answer"]], "document": paths.get(next(iter(row["doc_ids"]), ""))}
        for row in kept.iter_rows(named=True)
        if traits(row["kind"]).answered and not traits(row["kind"]).special
    ]
    return tables.frame(tables.EVALUATION, rows)


class _Looked:
    """Questions with what is shown for them, each question and passage looked at once.

    Attributes:
        taught: ids of the questions that can be learned from: some passage bears their answer, and some other does not.
        borne: ids and passages of those whose answer is among what search brings.
        without: ids and passages of those that what is shown does not answer.
    """

    def __init__(self, found: Contexts, seen: Seen, seed: int) -> None:
        asked = dict(found.questions.select("question_id", "question").iter_rows())
        unanswerable = set(found.questions.filter(pl.col("kind") == "unanswerable")["question_id"])
        groups = {name: found.sources.group(name) for name in asked}
        drawn = sorted({*groups.values()}, key=lambda name: _drawn(seed, name))
        fold = {name: place % _FOLDS for place, name in enumerate(drawn)}
        self._fold = {name: fold[group] for name, group in groups.items()}
        pairs: dict[tuple[str, str], Pair] = {}
        bears: list[bool] = []
        for name, own in found.passages.items():
            known = set(found.sources.relevant.get(name, ()))
            for one in (one for shown in own.values() for one in shown):
                if (name, one.chunk_id) not in pairs:
                    pairs[name, one.chunk_id] = asked[name], one
                    bears.append(one.chunk_id in known)
        self._place = {key: place for place, key in enumerate(pairs)}
        self._bears = np.array(bears, dtype=bool)
        self._of = np.array([self._fold[name] for name, _ in pairs], dtype=int)
        self._columns: np.ndarray = np.zeros((0, 3))
        self._states: np.ndarray | None = None
        if pairs:
            self._columns, self._states = seen.look(list(pairs.values()))
        self.borne: dict[str, list[int]] = {}
        self.without: dict[str, list[int]] = {}
        for name, own in found.passages.items():
            brought = [self._place[name, one.chunk_id] for one in own.get("retrieved", ())]
            if self._bears[brought].any():
                self.borne[name] = brought
            if "withheld" in own:
                self.without[name] = [self._place[name, one.chunk_id] for one in own["withheld"]]
            elif name in unanswerable:
                self.without[name] = brought
        both = Counter(name for name, _ in {(name, bears[place]) for (name, _), place in self._place.items()})
        self.taught = [name for name in asked if both[name] == 2]

    def learn(self, without: int | None = None) -> Learned:
        """Return what was learned from all questions, or from those that are not in a fold."""
        part = self._of != without if without is not None else np.ones(len(self._of), dtype=bool)
        states = None if self._states is None else self._states[part]
        return learn(self._columns[part], states, self._bears[part], self._of[part])

    def scores(self, head: Learned, fold: int | None = None) -> dict[str, tuple[float, ...]]:
        """Return the scores of the questions (of a fold) with and without what bears their answers, by `_CASES`."""
        likely = head.probabilities(self._columns, self._states) if len(self._columns) else self._columns
        return {
            case: tuple(
                round(float(likely[places].max(initial=0.0)), DIGITS)
                for name, places in asked.items()
                if fold in (None, self._fold[name])
            )
            for case, asked in zip(_CASES, (self.borne, self.without), strict=True)
        }

    def unseen(self) -> dict[str, tuple[float, ...]]:
        """Return the scores of each question by a head that was learned without it (cross-conformal; Vovk 2015)."""
        parts = [self.scores(self.learn(fold), fold) for fold in range(_FOLDS)]
        return {case: tuple(score for part in parts for score in part[case]) for case in _CASES}


def _drawn(seed: int, name: str) -> str:
    return hashlib.sha256(f"refusal:{seed}:{name}".encode()).hexdigest()


def facts(head: Head, settings: Settings) -> dict[str, Any]:
    """Return what a person is told of a head, as JSON values; shares are 0 to 1, of the questions it was set on."""
    wanted = settings.answering.false_answers or RATE
    borne, without = np.array(head.answerable), np.array(head.unanswerable)

    def at(rate: float) -> dict[str, Any]:
        least, promised = threshold(head.unanswerable, rate)
        passing = {"answered": int((without >= least).sum()), "refused": int((borne < least).sum())}
        return {"wanted": rate, "promised": promised, "share": ceiled(promised), "threshold": least, **passing}

    return {
        **at(wanted),
        "learned_from": head.questions,
        "whose": head.whose,
        "unanswerable": len(without),
        "answerable": len(borne),
        "area": area(borne, without) if len(borne) else None,
        "reader": head.reader,
        "rates": [at(rate) for rate in sorted({wanted, *RATES})],
    }


def area(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the share of pairs in which the first is higher (ties are half): the area under the ROC curve."""
    return float((higher[:, None] > lower).mean() + (higher[:, None] == lower).mean() / 2)


def card(head: Head, settings: Settings) -> str:
    """Return the card of a head (Markdown): what it looks at, what it was set on, and what it promises."""
    template = (files(str(__package__)) / "refusal.md").read_text(encoding="utf-8")
    weights = dict(zip(("words", "sense", "topic", "reading"), head.signals.weights, strict=False))
    made = Template(template).render(head=head, weights=weights, k=settings.index.k, **facts(head, settings))
    return f"{made}\n"
