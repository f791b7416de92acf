"""The story of a tuned retriever: a run's questions and the chunks that bear them, to what embeds questions.

Chunks keep their vectors, and the index stays as it is. A build goes on as if there was no tuned retriever: what it
searches for itself (round trip, distractors) it searches untuned, or else each training would change the rows of the
next one. Answers and benchmarks embed their questions tuned.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Template
from pydantic import BaseModel, ValidationError

from raft.backends.trainers.questions import Pairs
from raft.curation.split import collisions
from raft.errors import DamagedArtifact, RaftError, typed
from raft.evaluation.contexts import contexts
from raft.evaluation.scores import compared
from raft.examples.examples import bears
from raft.kinds import traits
from raft.pipeline.bench import sections
from raft.pipeline.build import searched
from raft.pipeline.read import documents_listed, questions_in
from raft.pipeline.refusal import wrong_references
from raft.pipeline.train import LEARNED
from raft.protocols import Embedder, OnEvent, Retriever
from raft.rag.format import title_line
from raft.rag.relevant import is_short, search_all
from raft.report.figures import spread
from raft.settings import Settings
from raft.store import artifacts, folders
from raft.store.again import again, more_questions
from raft.store.run import Run, Step
from raft.text import embedded_text

FOLDER, CARD, README = "retriever", "retriever/card.json", "retriever/README.md"
LEAST = 50
"""Questions to learn from, at least."""
MEASURED_WITH = ("user", "eval_unseen")
"""Questions that decide whether it is used: of no other was any dropped because the untuned retriever missed it."""
ENOUGH = 20
"""Of these, at least."""
DEPTH = 20
"""Chunks that search brings first: those that a question is most easily taken for."""
_MOST = 4096
"""Questions, and chunks, that are learned from at most."""
_NAME = re.compile(r"[0-9a-f]{12}")
_MADE = r"(?:\d+_\w+/)?[\w.]+"


class Card(BaseModel, frozen=True, extra="forbid"):
    """What was learned, and whether it is used; `retriever/card.json` in a run directory.

    Attributes:
        name: of the folder beside it that holds what embeds questions.
        identity: of what embeds questions.
        embedder: identity of the untuned embedder, which made the index.
        hybrid: whether words are searched beside vectors.
        k: chunks retrieved for a question.
        questions: how many were learned from.
        chunks: how many they were kept away from.
        hard: how many of the first chunks that search brings for them, and that do not bear their answers.
        losses: of each epoch.
        measured: for each set of questions, and "all" together, untuned against tuned (`evaluation.scores.compared`).
        used: whether it is better by the rule.
        why: the reason, in words.
    """

    name: str
    identity: str
    embedder: str
    hybrid: bool
    k: int
    questions: int
    chunks: int
    hard: int
    losses: tuple[float, ...]
    measured: dict[str, dict[str, Any]]
    used: bool
    why: str


Search = Callable[[Embedder | None], AbstractContextManager[Retriever]]
"""Opens the indexes for exact search, with what embeds the questions; None: the untuned embedder."""


@dataclass(frozen=True)
class Searching:
    """What a retriever is tuned with.

    Attributes:
        embedder: the untuned one, which made the index.
        search: opens the indexes.
        tune: writes what embeds questions into a folder; returns the loss of each epoch (`trainers.questions.tune`).
        open: opens the embedder of a folder.
        trainer: identity of what tunes.
    """

    embedder: Embedder
    search: Search
    tune: Callable[[Pairs, Path], Sequence[float]]
    open: Callable[[str], Embedder]
    trainer: str


def train_retriever(run: Run, settings: Settings, searching: Searching, *, on_event: OnEvent) -> Card:
    """Tune a run's retriever, measure it, and use it where it is better; return its card. It is done once.

    It is used if, over the questions about documents that were held out whole and those of the user, recall@k is not
    lower and MRR is higher than without it.

    Raises:
        RaftError: the run has too few questions.
    """

    def work(step: Step) -> dict[str, Any]:
        card = _learned(run, settings, searching)
        artifacts.atomically(run.folder / CARD, card.model_dump_json(indent=1) + "\n")
        for folder in (run.folder / FOLDER).iterdir():  # those of before
            if folder.is_dir() and _NAME.fullmatch(folder.name) and folder.name != card.name:
                folders.clear(folder, _MADE)
        step.stats.update(questions=card.questions, used=card.used)
        return {}

    path = run.folder / CARD
    run.step(
        "retriever",
        work,
        version=1,
        outputs={CARD: lambda: artifacts.digest(path) if _is_whole(run, searching.open) else None},
        inputs=["documents.parquet", "chunks.parquet", "cleaned.parquet", "eval.jsonl", *searched(settings)],
        using={
            "embedder": searching.embedder,
            "trainer": searching.trainer,
            "k": settings.index.k,
            "seed": settings.seed,
            **({"wrong": wrong} if (wrong := wrong_references(run)) else {}),
        },
    )
    card = read_card(run)
    assert card is not None
    template = Template((files(str(__package__)) / "retriever.md").read_text(encoding="utf-8"))
    artifacts.atomically(run.folder / README, template.render(card=card, spread=spread) + "\n")
    on_event("retriever", card.model_dump())
    return card


def read_card(run: Run) -> Card | None:
    """Return the card of a run's tuned retriever, whichever build it learned from; None where there is none.

    Raises:
        DamagedArtifact: it is not what a training wrote.
    """
    path, hint = run.folder / CARD, f"raft train {typed(run.folder)} --part retriever"
    if not path.is_file():
        return None
    line = run.manifest["steps"].get("retriever", {"unfinished": True})  # of that or the next training, whole
    if "unfinished" not in line and artifacts.digest(path) != line["artifacts"][CARD]["digest"]:
        raise DamagedArtifact("The tuned retriever's card is not what was written.", where=path, hint=hint)
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedArtifact(f"The tuned retriever's card cannot be read: {why}.", where=path, hint=hint) from None


def tuned(run: Run, embedder: Embedder, open_embedder: Callable[[str], Embedder]) -> Embedder | None:
    """Return what embeds questions to be answered, where a tuned one for this embedder's index is used; None: it does.

    Raises:
        DamagedArtifact: it is not what was trained.
    """
    card = read_card(run)
    return None if card is None or used(run, embedder.identity) is None else tuned_embedder(run, card, open_embedder)


def tuned_embedder(run: Run, card: Card, open_embedder: Callable[[str], Embedder]) -> Embedder:
    """Return what embeds questions, whether it is used or not.

    Raises:
        DamagedArtifact: it is not what was trained.
    """
    folder = run.folder / FOLDER / card.name
    try:
        found = open_embedder(str(folder))
    except RaftError as error:
        found, why = None, str(error).partition("\n")[0]
    if found is None or found.identity != card.identity:
        what = "is not what was trained." if found else f"cannot be read: {why}"
        hint = f"raft train {typed(run.folder)} --part retriever   (or rm -r {typed(folder.parent)}, to search untuned)"
        raise DamagedArtifact(f"The tuned retriever {what}", where=folder, hint=hint)
    return found


def opened(run: Run, embedder: Embedder, open_embedder: Callable[[str], Embedder]) -> tuple[Card, Embedder] | None:
    """Return card and embedder of a retriever that was tuned for this embedder's index, used or not; None without one.

    Raises:
        DamagedArtifact: it is not what was trained.
    """
    card = read_card(run)
    if card is None or card.embedder != embedder.identity:
        return None
    _taught_by(run, card)
    return card, tuned_embedder(run, card, open_embedder)


def used(run: Run, embedder: str) -> str | None:
    """Return the identity of what embeds questions, where a tuned one for the index of this embedder is used."""
    card = read_card(run)
    return card.identity if card is not None and card.used and card.embedder == embedder else None


def taught_by(run: Run, embedder: str) -> list[dict[str, str]]:
    """Return the questions that a tuned retriever in use was trained on; none where none is used.

    Raises:
        DamagedArtifact: they are not all there.
    """
    card = read_card(run)
    return _taught_by(run, card) if card is not None and used(run, embedder) else []


def _taught_by(run: Run, card: Card) -> list[dict[str, str]]:
    hint = f"raft train {typed(run.folder)} --part retriever"
    return questions_in(run.folder / FOLDER / card.name / LEARNED, least=card.questions, hint=hint)


def lacks(run: Run) -> str:
    """Return why a tuned retriever that was to be used cannot be; "" where it can, or there is none."""
    card = read_card(run)
    other = card is not None and card.used and card.embedder != (run.manifest.get("models") or {}).get("embedder")
    return "questions are searched for untuned, for the tuned retriever is of another embedder" if other else ""


def _is_whole(run: Run, open_embedder: Callable[[str], Embedder]) -> bool:
    try:
        card = Card.model_validate_json((run.folder / CARD).read_text(encoding="utf-8"))
        same = open_embedder(str(run.folder / FOLDER / card.name)).identity == card.identity
        return same and bool(_taught_by(run, card))
    except (OSError, ValueError, RaftError):
        return False


def check_questions(run: Run) -> None:
    """Check, before anything is loaded, that a run has enough questions to learn from.

    Raises:
        RaftError: it has not.
    """
    count = len(_taught(run))
    if count < LEAST:
        raise RaftError(
            f"A retriever is tuned on {LEAST} questions at least, and the run has {count} to train on.",
            where=run.folder,
            hint=again(run.folder, more_questions(run.manifest["settings"]), remark="asks for more"),
        )


def _taught(run: Run) -> list[dict[str, Any]]:
    rows = run.read("cleaned.parquet").filter(pl.col("split") == "train").to_dicts()
    return [row for row in rows if traits(row["kind"]).answered and row["golden_chunk_ids"]]


@dataclass(frozen=True)
class Lesson:
    """What a run's retriever learns from.

    Attributes:
        rows: the questions (`tables.CLEANED`).
        chunks: ids of the chunks that they are compared with.
        pairs: the same as texts, vectors and places.
        hard: how many of the first chunks that search brings do not bear the answers.
    """

    rows: Sequence[Mapping[str, Any]]
    chunks: Sequence[str]
    pairs: Pairs
    hard: int


def learned_from(run: Run, settings: Settings, embedder: Embedder, search: Search) -> Lesson:
    """Return what a run's retriever learns from: the questions to train on, and chunks of documents not held out.

    Raises:
        RaftError: the run has too few questions.
    """
    check_questions(run)
    chunks, documents = run.read("chunks.parquet"), documents_listed(run)
    known = {row["chunk_id"]: row for row in chunks.iter_rows(named=True)}
    held_out = set(run.manifest["steps"]["cleaned"]["notes"]["held_out"])
    pool = {name for name, row in known.items() if not row["boilerplate"] and row["doc_id"] not in held_out}
    rows = [row for row in _taught(run) if row["golden_chunk_ids"][0] in known]
    rows = sorted(rows, key=lambda row: _lot(settings.seed, row["question_id"]))[:_MOST]
    with search(None) as retriever:
        hits = search_all([row["question"] for row in rows], retriever, DEPTH)
    titles = dict(documents.select("doc_id", "title").iter_rows())
    barred = [_bearing(row, found, known, titles) for row, found in zip(rows, hits, strict=True)]
    hard = [set(found) & pool - own for found, own in zip(hits, barred, strict=True)]
    golden = [row["golden_chunk_ids"][0] for row in rows]
    wanted = set(golden).union(*hard)
    others = sorted(pool - wanted, key=lambda name: _lot(settings.seed, name))
    shown = [*sorted(wanted), *others[: max(0, _MOST - len(wanted))]]
    place = {name: at for at, name in enumerate(shown)}
    pairs = Pairs(
        questions=[row["question"] for row in rows],
        chunks=embedder.embed([embedded_text(known[name]["heading"], known[name]["text"]) for name in shown]),
        golden=[place[name] for name in golden],
        barred=[[place[one] for one in own - {name} if one in place] for own, name in zip(barred, golden, strict=True)],
    )
    return Lesson(rows, shown, pairs, sum(map(len, hard)))


def _learned(run: Run, settings: Settings, searching: Searching) -> Card:
    lesson = learned_from(run, settings, searching.embedder, searching.search)
    losses, name, asker = _tuned(run.folder / FOLDER, searching, lesson.pairs)
    artifacts.write(run.folder / FOLDER / name / LEARNED, _asked(lesson.rows))
    measured = _measured(run, settings, searching, asker)
    used, why = _verdict(measured)
    return Card(
        name=name,
        identity=asker.identity,
        embedder=searching.embedder.identity,
        hybrid=settings.index.hybrid,
        k=settings.index.k,
        questions=len(lesson.rows),
        chunks=len(lesson.chunks),
        hard=lesson.hard,
        losses=tuple(round(one, 4) for one in losses),
        measured=measured,
        used=used,
        why=why,
    )


def _lot(seed: int, name: str) -> str:
    return hashlib.sha256(f"retriever:{seed}:{name}".encode()).hexdigest()


def _asked(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    kept = ({"question_id": row["question_id"], "question": row["question"]} for row in rows)
    return [json.dumps(one, ensure_ascii=False) for one in kept]


def _tuned(home: Path, searching: Searching, pairs: Pairs) -> tuple[Sequence[float], str, Embedder]:
    """Tune what embeds questions, in a folder beside the others whose name says what it is."""
    draft = home / ".draft"
    folders.clear(draft, _MADE)
    home.mkdir(exist_ok=True)
    losses = searching.tune(pairs, draft)
    name = searching.open(str(draft)).identity.rpartition(":")[2][:12]
    folders.clear(home / name, _MADE)
    draft.replace(home / name)
    return losses, name, searching.open(str(home / name))


def _bearing(
    row: Mapping[str, Any], hits: Sequence[str], known: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]
) -> set[str]:
    """Return the golden chunks of a question, and those of its first hits (`DEPTH`) that bear its answer as well."""
    golden = [dict(known[one]) for one in row["golden_chunk_ids"] if one in known]
    answers = [] if is_short(row["answer"], row["question"]) else [row["answer"]]
    quotes = [quote["text"] for quote in row["quotes"]]
    found = {one["chunk_id"] for one in golden}
    for name in hits:
        chunk = dict(known[name])
        if bears(chunk, title_line(titles.get(chunk["doc_id"]), chunk["heading"]), golden, answers, quotes):
            found.add(name)
    return found


def _measured(run: Run, settings: Settings, searching: Searching, asker: Embedder) -> dict[str, dict[str, Any]]:
    """Return what search finds for the questions that decide, by set, and for "all" of them."""
    rows = run.read("eval.jsonl").filter(pl.col("split").is_in(MEASURED_WITH))
    rows = rows.filter(~pl.col("question_id").is_in(wrong_references(run)))
    rows = pl.concat([rows.with_columns(split=pl.lit("all")), rows])
    return compare(run, settings, searching.search, rows, asker)


def compare(
    run: Run, settings: Settings, search: Search, questions: pl.DataFrame, asker: Embedder
) -> dict[str, dict[str, Any]]:
    """Return what search finds untuned, and with what embeds questions tuned (`evaluation.scores.compared`), by set.

    `questions` are of `tables.EVALUATION`; their `split` is the set.
    """
    chunks, documents, k = run.read("chunks.parquet"), documents_listed(run), settings.index.k
    rows, found = questions.unique("question_id", maintain_order=True), []
    for one in (None, asker):
        with search(one) as retriever:
            known = contexts(rows, chunks, documents, retriever, k=k, share=0.0, seed=settings.seed)
            found.append(known.sources)
    sets = questions.group_by("split", maintain_order=True).agg("question_id").iter_rows()
    by_chunk = sections(run)
    return {name: compared(ids, *found, k=k, sections=by_chunk) for name, ids in sets}


def side_by_side(
    run: Run,
    settings: Settings,
    searching: tuple[Embedder, Search],
    questions: pl.DataFrame,
    tuned: tuple[Card, Embedder],
) -> dict[str, Any]:
    """Return what a benchmark says of a tuned retriever (`opened`): whether it is used, why, and `compare`, as `sets`.

    Questions that say the same as one that it learned from are left out, whether it is used or not. `searching` is the
    untuned embedder, and what opens the indexes.
    """
    (card, asker), (embedder, search) = tuned, searching
    kept = not_learned(run, settings, embedder, questions, card)
    sets = compare(run, settings, search, kept, asker) if kept.height else {}
    return {"used": card.used, "why": card.why, "k": settings.index.k, "sets": sets}


def not_learned(run: Run, settings: Settings, embedder: Embedder, questions: pl.DataFrame, card: Card) -> pl.DataFrame:
    """Return the questions that say the same as none that a tuned retriever learned from; `embedder` is the untuned.

    Raises:
        DamagedArtifact: what it learned from is not all there.
    """
    rows = _taught_by(run, card)
    found = collisions(rows, questions, embedder=embedder, similarity=settings.cleaning.similarity)
    return questions.filter(~pl.col("question_id").is_in([name for _, name in found]))


def _verdict(measured: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Return whether the tuned one is used, and why."""
    every = measured.get("all", {"questions": 0})
    if every["questions"] < ENOUGH:
        few = f"{every['questions']} questions are too few to tell by"
        return False, f"{few} (your own count: raft build takes a file of them with --eval)"
    recall, mrr = every["recall_at_k"]["difference"]["value"], every["mrr"]["difference"]["value"]
    if recall < 0:
        return False, "more questions do not find what bears their answers"
    if mrr <= 0:
        return False, "what bears the answers does not stand higher"
    return True, "as many questions or more find what bears their answers, and it stands higher"
