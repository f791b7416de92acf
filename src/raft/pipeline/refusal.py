"""The story of a refusal head: a run's own questions, with and without what bears their answers, to `refusal/`."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jinja2 import Template
from pydantic import ValidationError

from raft.errors import DamagedArtifact, RaftError, typed
from raft.evaluation.contexts import Contexts, contexts
from raft.kinds import traits
from raft.pipeline.build import searched
from raft.pipeline.read import documents_listed
from raft.protocols import OnEvent, Retriever
from raft.rag.refusal import Case, Head, Seen, learn, threshold
from raft.settings import Settings
from raft.store import artifacts, lineage, tables
from raft.store.run import Run, Step

HEAD, CARD = "refusal/head.json", "refusal/README.md"
RATE = 0.1
"""What is promised where nothing is set."""
LEAST = 20
"""Questions to learn from, and to set the threshold on, at least."""
_ENOUGH = 29
"""Passages without the answer from which a rate of 10 percent can be proven (`rag.refusal.threshold`)."""


class Reader(NamedTuple):
    """What a head looks with, and who that is: the identities of embedder and reader, the digest of the prompt."""

    seen: Seen
    embedder: str
    reader: str | None
    prompt: str


def train_head(
    run: Run, settings: Settings, retriever: Retriever, reader: Reader, *, on_event: OnEvent
) -> dict[str, Any]:
    """Learn a refusal head from a run's questions, unless that was done; return what it promises (`facts`).

    Half of the questions to train on teach it; the threshold is set on the other half and on those of `valid`, or on
    half of a person's own questions, where these are enough. None of them is measured with afterwards.

    Raises:
        RaftError: the run has too few questions.
    """

    def work(step: Step) -> dict[str, Any]:
        head = learn_head(run, settings, retriever, reader)
        path = run.folder / HEAD
        path.parent.mkdir(exist_ok=True)
        artifacts.atomically(run.folder / CARD, card(head, settings))
        artifacts.atomically(path, head.model_dump_json(indent=1) + "\n")
        step.stats.update(questions=head.questions, threshold_on=len(head.unanswerable))
        return {}

    using = {
        "embedder": reader.embedder,
        "reader": reader.reader,
        "prompt": reader.prompt,
        "k": settings.index.k,
        "seed": settings.seed,
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
    try:
        return Head.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        hint = f"raft train {typed(run.folder)} --part refusal"
        raise DamagedArtifact(f"The refusal head cannot be read: {why}.", where=path, hint=hint) from None


def _digest(path: Path) -> str | None:
    return artifacts.digest(path) if path.is_file() else None


def learn_head(run: Run, settings: Settings, retriever: Retriever, reader: Reader, *, theirs: bool = True) -> Head:
    """Return a head learned from a run's questions; its threshold is set on a person's own only where `theirs` is true.

    Raises:
        RaftError: the run has too few questions.
    """
    chunks, documents = run.read("chunks.parquet"), documents_listed(run)

    def shown(rows: pl.DataFrame) -> Contexts:
        return contexts(rows, chunks, documents, retriever, k=settings.index.k, share=1.0, seed=settings.seed)

    own = _own(run, documents)
    drawn = sorted(own["question_id"], key=lambda name: _drawn(settings.seed, name))
    teaching = set(own.filter(split="train")["question_id"])
    names = [name for name in drawn if name in teaching]
    learning = names[: (len(names) + 1) // 2]
    found = shown(own)
    cases = _cases(found, learning)
    if len(cases) < LEAST:
        raise RaftError(
            f"A refusal head learns from {LEAST} questions at least, and the run has {len(cases)} for it.",
            where=run.folder,
            hint="raft build CORPUS --questions-per-chunk 2   (more questions; or set answering.min_relevance instead)",
        )
    signals, reading = learn(cases, reader.seen)
    users = run.read("eval.jsonl").filter(pl.col("split") == "user", theirs)
    half = sorted(users["question_id"], key=lambda name: _drawn(settings.seed, name))[: users.height // 2]
    chosen, ids = found, [name for name in drawn if name not in learning]
    asked_by = shown(users.filter(pl.col("question_id").is_in(half)))
    given = sum(_unanswered(asked_by, name) is not None for name in half) >= _ENOUGH
    if given:
        chosen, ids = asked_by, half
    blank = Head(
        embedder=reader.embedder,
        reader=reader.reader,
        signals=signals,
        reading=reading,
        questions=len(cases),
        whose="yours" if given else "the run's",
        answerable=(),
        unanswerable=(0.0,),
        calibrated=tuple(sorted(half)) if given else (),
    )
    k = settings.index.k
    borne = [(name, chosen.passages[name]["retrieved"]) for name in ids if chosen.sources.retrieved(name, k)]
    without = [(name, passages) for name in ids if (passages := _unanswered(chosen, name)) is not None]
    if not without:
        raise RaftError("No question of the run can be asked without what bears its answer.", where=run.folder)
    asked = dict(chosen.questions.select("question_id", "question").iter_rows())
    scores = [
        blank.scores([asked[name] for name, _ in part], [shown for _, shown in part], reader.seen)
        for part in (borne, without)
    ]
    rounded = [tuple(round(one, 6) for one in part) for part in scores]
    return blank.model_copy(update=dict(zip(("answerable", "unanswerable"), rounded, strict=True)))


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


def _cases(found: Contexts, names: Sequence[str]) -> list[Case]:
    asked = dict(found.questions.select("question_id", "question").iter_rows())
    cases = []
    for name in names:
        own, bears = found.passages[name], set(found.sources.relevant.get(name, ()))
        borne = own["retrieved"] if any(one.chunk_id in bears for one in own["retrieved"]) else own.get("golden")
        if borne and own.get("withheld"):
            cases.append(Case(asked[name], borne, own["withheld"]))
    return cases


def _unanswered(found: Contexts, name: str) -> Any:
    """Return what is found for a question that it does not answer; None where that is not known."""
    own = found.passages[name]
    if "withheld" in own:
        return own["withheld"]
    return None if found.sources.relevant.get(name) else own["retrieved"]


def _drawn(seed: int, name: str) -> str:
    return hashlib.sha256(f"refusal:{seed}:{name}".encode()).hexdigest()


def facts(head: Head, settings: Settings) -> dict[str, Any]:
    """Return what a person is told of a head, as JSON values; shares are 0 to 1, of the questions it was set on."""
    rate = settings.answering.false_answers or RATE
    least, promised = threshold(head.unanswerable, rate)
    borne, without = np.array(head.answerable), np.array(head.unanswerable)
    return {
        "wanted": rate,
        "promised": promised,
        "threshold": least,
        "learned_from": head.questions,
        "whose": head.whose,
        "unanswerable": len(without),
        "answered": int((without >= least).sum()),
        "answerable": len(borne),
        "refused": int((borne < least).sum()),
        "area": float((borne[:, None] > without).mean() + (borne[:, None] == without).mean() / 2)
        if len(borne)
        else None,
        "reader": head.reader,
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
