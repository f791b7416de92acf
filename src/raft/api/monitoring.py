"""Watching: what production answers now against what it answered, and what its users ask; a run in, a page out."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from raft.api import models
from raft.api.run import Built, settings_of, together
from raft.backends.hosted.endpoint import URL, Endpoint
from raft.curation.user_questions import own_questions
from raft.errors import NotMeasured, RaftError, UsageError, regular, typed
from raft.evaluation import monitor as figures
from raft.evaluation.metrics import win_rate
from raft.pipeline.monitor import Measuring, held_out
from raft.protocols import Embedder, OnEvent
from raft.rag.relevant import unanswerable
from raft.report import monitor as page
from raft.report.shown import Monitored
from raft.settings import Settings
from raft.similarity import nearest
from raft.store import artifacts, registry, traffic
from raft.store.budget import enter
from raft.store.fitness import PLAIN
from raft.store.ledger import CachedEmbedder, Ledger
from raft.store.points import Points
from raft.text import embedded_text
from raft.version import __version__

KEY = "RAFT_API_KEY"
"""The variable of the environment that holds the key, where no file does."""
PAGE = "monitor.html"
FORMAT = 1
_RECENT, _DAYS = 2000, 7  # conversations that are looked at, and the days that are compared with those before
_EXAMPLES = 10
_WEEK = 86_400.0 * _DAYS

Row = dict[str, Any]


def monitor(
    folder: str | Path,
    *,
    url: str = URL,
    key: str | None = None,
    key_file: str | Path | None = None,
    questions: str | Path | None = None,
    traffic_only: bool = False,
    again: bool = False,
    reference: bool = False,
    act: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
) -> Monitored:
    """Ask what production serves the held-out questions, compare, look at the traffic, and write `monitor.html`.

    With nothing changed since the last measure no question is asked. The reference is the first measure of the version
    that answers: the last one would hide a slow fall, the best one is lucky, and falls by that alone.

    Args:
        folder: the run directory.
        url: where the run is served.
        key: the key for it; None: what `key_file` holds, or the variable RAFT_API_KEY, or none.
        key_file: a file that holds a key alone.
        questions: your own questions (JSONL); None: the run's, those that people wrote where there are any.
        traffic_only: ask nobody, and look at the traffic alone.
        again: ask although nothing has changed.
        reference: ask, and compare later measures of this version with this one.
        act: go back to plain RAG where the fall is of `monitor.act` or more, surely none of chance, and plain RAG is
            not known to score lower.
        settings: settings by dotted name that differ from the run's, e.g. `{"monitor.act": 0.08}`.
        on_event: told "asking" and "asked" (how many questions), and "embedded".

    Returns:
        The contents of the page as a dictionary. `measure` is the point of now, None where `not_measured` says why.

    Raises:
        UsageError: there is no run, no question to ask, or an argument is wrong.
        RaftError: another one measures now, or what was measured cannot be read.
    """
    tell = on_event or (lambda event, facts: None)
    built = Built(folder)
    chosen = settings_of(built, together({}, settings))
    facts: Row = {
        "format": FORMAT,
        "raft": __version__,
        "run": str(folder),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "look": chosen.monitor.look,
        "act": chosen.monitor.act,
        "measure": None,
        "not_measured": None,
        "asked": 0,
        "acted": None,
    }
    with _alone(built.folder), Points(built.folder) as points:
        if not traffic_only:
            endpoint = _endpoint(built.folder, url, key, key_file, chosen)
            rows = held_out(built._run, _questions(built, questions))
            of_file = None if questions is None else f"the questions in {questions}"
            measuring = Measuring(built._run, rows, points, chosen.monitor, tell, asked=of_file)
            try:
                facts |= measuring.measure(endpoint, again=again, reference=reference)
            except NotMeasured as error:
                facts["not_measured"] = {"what": error.what, "where": error.where, "hint": error.hint}
            facts["acted"] = _act(built.folder, facts["measure"], measuring) if facts["measure"] and act else None
        facts["history"] = points.all()
        facts["traffic"] = _traffic(built, chosen, tell)
        artifacts.atomically(built.folder / PAGE, page.html(facts))
    return Monitored(facts)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    (folder / "scratch").mkdir(exist_ok=True)
    try:
        with FileLock(folder / "scratch" / "monitor.lock", timeout=0):
            yield
    except Timeout:
        hint = "the same command again   (when it is done)"
        raise NotMeasured("Another raft monitor is at work on this run.", where=folder, hint=hint) from None


def _endpoint(folder: Path, url: str, key: str | None, key_file: str | Path | None, settings: Settings) -> Endpoint:
    run = typed(folder)
    models.check(settings, asked={"hosted_vllm/endpoint": url})  # under local_only it has to be on this machine
    where: object = "key"
    if key is None and key_file is not None:
        where = key_file
        try:
            key = regular(Path(key_file).expanduser()).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            hint = f"raft serve --new-key monitor --keys keys.txt > {typed(key_file)}   (prints a key once)"
            raise UsageError(f"The file of the key cannot be read: {why}.", where=key_file, hint=hint) from None
    elif key is None:
        key, where = os.environ.get(KEY), KEY
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable() and " " not in key):  # it is not shown
        raise UsageError(
            "That is no key: one line of letters and digits.",
            where=where,
            hint="--key-file key.txt   (a file with the key alone)",
        )
    shown = "" if url == URL else f" --url {typed(url)}"
    mend = {
        "run": f"raft serve {run}   (or --url where it is served; or raft monitor {run} --traffic-only)",
        "key": f"raft monitor {run}{shown} --key-file key.txt   (or {KEY}; raft serve --new-key makes one)",
    }
    return Endpoint(url, key, mend=mend)


def _questions(built: Built, file: str | Path | None) -> pl.DataFrame:
    if file is None:
        return built.evaluation
    return own_questions(built.settings, Path(file), built.documents.select("doc_id", "path", "pages"))


def _act(folder: Path, point: Row, measuring: Measuring) -> Row | None:
    """Go back to plain RAG where that is called for; return whether it was `done`, and why; None: not called for."""
    if point["state"] != "act" or point["version"] == PLAIN:
        return None
    change = point["change"]
    if not change["sure"] or not measuring.follows:
        told = f"it may still be chance: p is {change['p']:.2g}, and at most 0.05 / {figures.LOOKS} goes back by itself"
        if change["sure"]:
            told = "the server goes not by the registry (--adapter, or a --model that is no vLLM): start it without"
        return {"done": False, "why": told}
    standing = registry.standing(folder).production
    if standing is not None and standing.id != point["version"]:
        return {"done": False, "why": f"{standing.id} is in production now, and {point['version']} was measured"}
    if plain := measuring.plain():
        source, replies = plain
        more = measuring.better_than(replies, point)
        if more is not None and more > 0:
            told = f"plain RAG scores lower still, by {100 * more:.1f} points on the same questions ({source})"
            return {"done": False, "why": told}
    fell = change["difference"]
    size = f"{-100 * fell['value']:.1f} points ({-100 * fell['high']:.1f} to {-100 * fell['low']:.1f})"
    because = f"version {point['version']} fell by {size} on {fell['questions']} of {measuring.asked}"
    found = standing.id if standing else ""
    try:
        registry.rollback(folder, by="monitor", because=because, to=PLAIN, instead_of=found)
    except UsageError as error:  # somebody has put another one there since
        return {"done": False, "why": f"{error.what.rstrip('.')}, and {point['version']} was measured"}
    return {"done": True, "why": because}


def _traffic(built: Built, settings: Settings, tell: OnEvent) -> Row | None:
    replies = traffic.replies(built.folder)
    # what a clock that went wrong dated later than now would be the latest for as long as that
    replies = replies.with_columns(pl.min_horizontal("at", pl.lit(time.time()))).sort("at", "reply_id")
    if replies.is_empty():
        return None
    feedback = traffic.feedback(built.folder)
    openly = figures.unanswered(replies, feedback)
    first, last = (float(replies["at"].to_list()[place]) for place in (0, -1))
    found: Row = {
        "replies": replies.height,
        "conversations": figures.one_a_conversation(replies).height,
        "first": figures.day(first),
        "last": figures.day(last),
        "enough": replies.height >= figures.TRAFFIC_ENOUGH,
        "slow": settings.monitor.slow,
        "rates": figures.rates(replies, slow=settings.monitor.slow),
        "feedback": {rating: feedback.filter(pl.col("rating") == rating).height for rating in ("up", "down")},
        "unanswered": openly.height,
        **dict.fromkeys(("known", "recently", "far", "topics")),
        "without_vectors": None,
    }
    path = settings.ledger or built.folder / "ledger.sqlite"
    try:
        with closing(Ledger(path)) as ledger:
            name = built.manifest.get("collection", "")
            enter(ledger, name, "monitor", alone=False)
            models.check(settings, asked={})
            embedder = models.question_embedder(settings, ledger, name, tell)
            return found | _by_vectors(built, embedder, replies, openly)
    except RaftError as error:  # the rest can be told all the same
        return found | {"without_vectors": error.what}


def _by_vectors(built: Built, embedder: Embedder, replies: pl.DataFrame, openly: pl.DataFrame) -> Row:
    """Return what the vectors of questions tell: whether they drift, which are far, what is asked and not answered."""
    own = _Own(built, embedder)
    asked = figures.one_a_conversation(replies.filter(pl.col("question") != "")).tail(_RECENT)
    texts, times = asked["question"].to_list(), np.array(asked["at"].to_list())
    vectors = embedder.embed(texts)
    late = times > times[-1] - _WEEK if len(times) else times.astype(bool)
    open_texts = figures.distinct(openly)
    open_vectors = embedder.embed(open_texts)
    far, whole = own.far(vectors), own.far(open_vectors)
    cosine = figures.topic_similarity(own.vectors, own.documents)
    return {
        "known": _plain_drift(figures.drift(vectors[late], own.held_out) if len(own.held_out) else None),
        "by_people": own.by_people,
        "recently": _plain_drift(figures.drift(vectors[late], vectors[~late]) if len(vectors) else None),
        "days": _DAYS,
        "far": far and _far(texts, vectors, far, cosine),
        "similarity": cosine,
        "topics": figures.topics(openly, open_texts, open_vectors, cosine, whole[0] if whole else []),
    }


def _plain_drift(found: figures.Drift | None) -> Row | None:
    return None if found is None else asdict(found)


def _far(
    texts: Sequence[str], vectors: np.ndarray, found: tuple[list[bool], np.ndarray, np.ndarray], cosine: float
) -> Row | None:
    """Return how many questions are far, the farthest of them, one of each topic, and how near all are."""
    flags, asked, known = found
    if len(texts) < figures.TRAFFIC_ENOUGH:
        return None
    share = win_rate(sum(flags), len(flags) - sum(flags), 0)
    nearness = asked.max(axis=1)
    examples: list[int] = []
    for place in sorted(np.flatnonzero(flags).tolist(), key=lambda one: (float(nearness[one]), texts[one])):
        if len(examples) < _EXAMPLES and not any(vectors[place] @ vectors[one] >= cosine for one in examples):
            examples.append(place)
    places = np.linspace(0, 1, 21)
    return {
        "share": asdict(share) if share else None,
        "examples": [texts[place] for place in examples],
        "quantiles": {
            name: np.quantile(values, places).round(4).tolist()
            for name, values in (("asked", nearness), ("known", known.max(axis=1)))
        },
    }


class _Own:
    """What the run holds, as vectors: chunks, questions that were trained on, and questions to measure with.

    Attributes:
        held_out: vectors of the questions to measure with that the documents answer: people's, where there are enough.
        by_people: whether people wrote them.
        vectors: of all its questions.
        documents: what each of these is about.
    """

    def __init__(self, built: Built, embedder: Embedder) -> None:
        self._run, self._embedder = built._run, embedder
        measured = [row for row in built.evaluation.to_dicts() if not unanswerable(row)]
        own = [row for row in measured if row["split"] == "user"]
        self.by_people = len(own) >= figures.TRAFFIC_ENOUGH
        measured = own if self.by_people else measured
        cleaned = built.cleaned.filter(pl.col("split").is_in(["train", "valid"])).select("question", "doc_ids")
        trained = [(question, (documents or [""])[0]) for question, documents in cleaned.iter_rows()]
        self.held_out = embedder.embed([row["question"] for row in measured])
        self._trained = embedder.embed([question for question, _ in trained])
        named = [row["document"] or row["question_id"] for row in measured]
        parts = [one for one in (self.held_out, self._trained) if len(one)]
        self.vectors = np.concatenate(parts) if parts else np.empty((0, 1), dtype=np.float32)
        self.documents = [*named, *(document for _, document in trained)]

    def far(self, vectors: np.ndarray) -> tuple[list[bool], np.ndarray, np.ndarray] | None:
        """Tell which questions are far from all chunks and questions, with cosines of these and of held-out ones.

        None where the run has too few questions to know what is far, or nothing to be near to.
        """
        if len(self.held_out) < figures.TRAFFIC_ENOUGH or not len(vectors):
            return None
        both = np.concatenate([vectors, self.held_out])
        columns = [one for one in (self._to_chunks(both), self._to_questions(both)) if one is not None]
        if not columns:
            return None
        table = np.stack(columns, axis=1)
        asked, known = table[: len(vectors)], table[len(vectors) :]
        return figures.far(asked, known)[0], asked, known

    def _to_questions(self, vectors: np.ndarray) -> np.ndarray | None:
        return nearest(vectors, self._trained) if len(self._trained) else None

    def _to_chunks(self, vectors: np.ndarray) -> np.ndarray | None:
        """Return the cosine to the nearest chunk; None where the ledger lacks one: nothing is embedded for it."""
        best = np.full(len(vectors), -1.0, dtype=np.float32)
        for part in self._run.stream("chunks.parquet", ["heading", "text", "boilerplate"]):
            rows = part.filter(~pl.col("boilerplate")).select("heading", "text").iter_rows()
            texts = [embedded_text(heading, text) for heading, text in rows]
            for start in range(0, len(texts), CachedEmbedder.WINDOW):
                some = texts[start : start + CachedEmbedder.WINDOW]
                if isinstance(self._embedder, CachedEmbedder) and not all(self._embedder.known(some)):
                    return None
                best = np.maximum(best, nearest(vectors, self._embedder.embed(some)))
        return best if best.max(initial=-1.0) > -1.0 else None
