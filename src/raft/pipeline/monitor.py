"""The story of a measure of what production serves: ask the held-out questions, keep the replies, compare.

The reference is the first measure of the version that answers: the last one would hide a slow fall, and the best one
was lucky, so that any other falls behind it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from raft.backends.hosted.endpoint import Endpoint
from raft.errors import NotMeasured, UsageError, typed
from raft.evaluation import monitor as figures
from raft.evaluation.metrics import bootstrap_mean
from raft.evaluation.scores import resampled
from raft.evaluation.summary import labels
from raft.pipeline.bench import sections
from raft.pipeline.refusal import wrong_references
from raft.protocols import OnEvent
from raft.rag.relevant import Sources, group_of
from raft.settings.sections import Monitor
from raft.store.fitness import PLAIN
from raft.store.points import Points
from raft.store.run import Run
from raft.text.languages import of_text

SERVED = ("version", "adapter_digest", "index", "model")
"""What a server tells of what answers; while none of it changes, nothing is asked anew."""
_LOST = 0.05  # of the questions may go without a reply
_TRIES = 3  # of a measure during which production changes
_TELLING = 200  # questions that tell the language of all
_SHOWN = 30

Row = dict[str, Any]


def held_out(run: Run, questions: pl.DataFrame) -> list[Row]:
    """Return the questions of a frame of `tables.EVALUATION` to ask, with what a reply is scored and resampled by.

    They are those of the user, where there are any, as a benchmark's verdict rests on them; else generated ones of
    which nothing was learned. Those whose reference a person called wrong are left out.

    Raises:
        UsageError: there are none.
    """
    own = questions.filter(pl.col("split") == "user")
    wrong = pl.Series(wrong_references(run), dtype=pl.String)
    chosen = (own if own.height else questions).filter(~pl.col("question_id").is_in(wrong.implode()))
    if chosen.is_empty():
        hint = f"raft monitor {typed(run.folder)} --questions questions.jsonl   (a file of yours)"
        raise UsageError("The run holds no questions to measure with.", where=run.folder / "eval.jsonl", hint=hint)
    rows = chosen.to_dicts()
    documents = {row["question_id"]: group_of(row, None, {}) for row in rows}
    golden = {row["question_id"]: row["golden_chunk_ids"] or [] for row in rows}
    sources, unit = resampled([*documents], Sources(golden, {}, documents, {}), sections(run))
    closed, likely = labels(chosen), of_text(" ".join(chosen["question"].head(_TELLING))).code
    for row in rows:
        told = json.dumps([row["question"], sorted(row["answers"])])
        row |= {
            "group": sources.group(row["question_id"]),
            "unit": unit,
            "labels": closed,
            "language": of_text(row["question"], likely).code,
            "key": hashlib.sha256(told.encode()).hexdigest()[:16],
        }
    return rows


class Measuring:
    """Measures of one run through the endpoint that serves it.

    Args:
        run: the run directory.
        rows: of `held_out`.
        points: where measures are kept.
        limits: from when on a fall counts.
        on_event: told "asking" and "asked", how many questions.
        asked: what these are, in words; None: the run's own, by who wrote them.

    Attributes:
        asked: what the questions are, in words.
        follows: whether the server that was asked last goes by the registry.
    """

    def __init__(
        self,
        run: Run,
        rows: Sequence[Row],
        points: Points,
        limits: Monitor,
        on_event: OnEvent,
        *,
        asked: str | None = None,
    ) -> None:
        by_people = bool(rows) and rows[0]["split"] == "user"
        self.asked = asked or ("questions that people wrote" if by_people else "the held-out questions")
        self._run, self._rows, self._points = run, rows, points
        self._limits, self._on_event, self.follows = limits, on_event, True
        self._digest = hashlib.sha256(json.dumps(sorted(row["key"] for row in rows)).encode()).hexdigest()[:16]

    def measure(self, endpoint: Endpoint, *, again: bool, reference: bool) -> Row:
        """Return the `measure` of now, its `worst` questions, and how many were `asked` for it.

        With nothing changed since the last one that is the last one, and nobody is asked, unless `again`, or it shall
        be the `reference` of later ones.

        Raises:
            NotMeasured: nobody answers, another run is served, too many questions got no reply, or production changed
                each time while it was measured.
        """
        for _ in range(_TRIES):
            name, served = self._serving(endpoint)
            made_of = {**served, "questions": self._digest}
            history = self._points.all()
            last = history[-1] if history else None
            if last and not (again or reference) and all(last[part] == made_of[part] for part in made_of):
                told = self._told(last["id"], made_of, history[:-1], marked=last["reference_from_here"])
                return self._with_worst({**last, **told}, asked=0)  # by the limits of now
            number = self._points.begin(made_of)
            asked = self._ask(endpoint, name, served, number)
            if asked is not None:
                told = self._told(number, made_of, history, marked=reference)
                return self._with_worst(self._points.end(number, told), asked=asked)
        command = f"raft monitor {typed(self._run.folder)} --url {typed(endpoint.shown)}"
        hint = f"{command}   (when no build, promotion or rollback is under way)"
        raise NotMeasured("What is in production changed while it was measured.", where=endpoint.shown, hint=hint)

    def plain(self) -> tuple[str, dict[str, Row]] | None:
        """Return when plain RAG was asked these questions, and the replies: the last measure of it, or benchmark."""
        keys = {row["key"] for row in self._rows}
        for one in reversed(self._points.all()):
            found = self._replies(one["id"]) if one["version"] == PLAIN else {}
            if 2 * len(keys & found.keys()) >= len(keys):
                return f"measured on {figures.day(one['at'])}", found
        if not (self._run.folder / "answers.parquet").is_file():
            return None
        by_id = {row["question_id"]: row for row in self._rows}
        said = self._run.read("answers.parquet").filter(
            (pl.col("arm") == "rag") & (pl.col("condition") == "answerable") & pl.col("error").is_null()
        )
        rows = [row for row in said.iter_rows(named=True) if row["question_id"] in by_id]
        replies = [_reply(by_id[row["question_id"]], row["answer"], row) for row in rows]
        found = {reply["key"]: reply for reply in replies}
        return ("in the last benchmark", found) if 2 * len(found) >= len(keys) else None

    def better_than(self, replies: Mapping[str, Row], point: Row) -> float | None:
        """Return how much more a point scores (0 to 1) than other replies to the same questions; None: not known."""
        difference = figures.change(self._replies(point["id"]), replies, look=1.0, act=1.0).difference
        return None if difference is None else difference.value

    def _serving(self, endpoint: Endpoint) -> tuple[str, Row]:
        """Return the name to ask by, and what is in production, as the server tells."""
        listed, folder = endpoint.models(), self._run.folder
        chosen = next((one for one in listed if one["id"] == folder.resolve().name), None)
        told = (chosen or listed[0])["raft"]
        self.follows = told.get("registry") is not False
        here = self._run.manifest["steps"].get("index", {}).get("artifacts", {}).get("index", {}).get("digest")
        if chosen is None and told.get("index") != here:  # a copy has another name, a build that is new another index
            names = ", ".join(str(one["id"])[:80] for one in listed[:3])
            what = f"Another run is served there: {names}, with another index than this run's."
            hint = f"raft serve {typed(folder)}   (or --url where it is served)"
            raise NotMeasured(what, where=endpoint.shown, hint=hint)
        return (chosen or listed[0])["id"], {name: told.get(name) for name in SERVED}

    def _ask(self, endpoint: Endpoint, name: str, served: Row, number: int) -> int | None:
        """Ask what was not asked yet, keep each reply, and return how many; None: production changed meanwhile."""
        known = self._points.replies(number)
        left = [row for row in self._rows if row["question_id"] not in known]
        asking = {"arm": "production", "set": self.asked, "condition": "", "questions": len(left)}
        self._on_event("asking", asking)
        lost: list[tuple[Row, str]] = []
        for place, said in endpoint.ask_all(name, [row["question"] for row in left]):
            if isinstance(said, str):
                lost.append((left[place], said))
                continue
            told = said["raft"]
            if any(part in told and told[part] != served[part] for part in SERVED):
                return None
            self._points.reply(number, left[place]["question_id"], _reply(left[place], said["answer"], told))
            self._on_event("asked", {"new": 1, "replayed": 0})
        if len(lost) > _LOST * len(self._rows):
            what = f"{len(lost)} of {len(self._rows)} questions were not answered; the first, for {lost[0][1]}."
            raise NotMeasured(what, where=endpoint.shown, hint="the same command again   (what was answered is kept)")
        for row, why in lost:
            self._points.reply(number, row["question_id"], {**_reply(row, None, {}), "error": why})
        return len(left)

    def _told(self, number: int, made_of: Row, history: Sequence[Row], *, marked: bool) -> Row:
        """Return what a measure has come to, against the one that it is compared with.

        Where it is `marked` as the reference from here on, somebody knows of the change, and it counts as the first.
        """
        now = self._replies(number)
        replies = [one for _, one in sorted(now.items())]  # sorted, because the draws of a bootstrap depend on it
        value = bootstrap_mean([one["score"] for one in replies], [one["group"] for one in replies])
        found: Row = {
            **made_of,
            "measure": "accuracy" if self._rows[0]["labels"] else "f1",
            "count": len(self._rows),
            "lost": sum(one["answer"] is None for one in replies),
            "resampled": self._rows[0]["unit"],
            "value": asdict(value) if value else None,
            "abstained": sum(one["abstained"] for one in replies),
            "unsupported": sum(one["supported"] is False for one in replies),
            "reference_from_here": marked,
        }
        for against, then in _references(found, history):
            others = self._replies(then["id"])
            # with few questions in common a fall could hide for good: then it is a new beginning
            if 2 * len(now.keys() & others.keys()) < len(now):
                continue
            change = figures.change(now, others, look=self._limits.look, act=self._limits.act)
            if against == "before":
                change = _between_versions(change, found["version"])
            changed = [part for part in SERVED if then[part] != found[part]]
            unclear = change.difference if change.state == "perhaps" else None
            needed = figures.questions_needed(unclear, self._limits.look) if unclear else None
            told = {"against": against, "reference": then["id"], "change": asdict(change)}
            told |= {"changed": changed, "needed": needed}
            return {**found, "state": "first" if marked else change.state, **told}
        return {
            **found,
            "state": "first",
            "against": None,
            "reference": None,
            "change": None,
            "changed": [],
            "needed": None,
        }

    def _with_worst(self, point: Row, *, asked: int) -> Row:
        """Return a point with the questions whose score changed since its reference, the greatest fall first."""
        found = []
        if point["reference"] is not None:
            now, then = self._replies(point["id"]), self._replies(point["reference"])
            for row in self._rows:
                after, before = now.get(row["key"]), then.get(row["key"])
                if not after or not before or None in (before["score"], after["score"]):
                    continue
                if change := after["score"] - before["score"]:
                    said = {"before": before["answer"], "now": after["answer"], "change": change}
                    found.append({"question": row["question"], "answers": row["answers"], **said})
        worst = sorted(found, key=lambda one: (one["change"], one["question"]))[:_SHOWN]
        return {"measure": point, "worst": worst, "asked": asked}

    def _replies(self, number: int) -> dict[str, Row]:
        """Return the replies of a point by what was asked and is right, so that another file of questions tells too."""
        return {one["key"]: one for one in self._points.replies(number).values()}


def _reply(question: Row, answer: str | None, told: Mapping[str, Any]) -> Row:
    supported = told.get("supported")
    said = {"answer": answer, "abstained": told.get("abstained") is True}
    said |= {"supported": supported if isinstance(supported, bool) else None}
    own = {"score": figures.score(question, said, question["labels"], question["language"]), "key": question["key"]}
    return {**said, **own, "group": question["group"]}


def _references(found: Row, history: Sequence[Row]) -> list[tuple[str, Row]]:
    """Return what a measure may be compared with, the best first: its own system, or else what was measured before.

    Of its own system that is what was chosen as the reference last, or else the first measure.
    """
    alike = [one for one in history if one["measure"] == found["measure"]]
    same = ("version", "adapter_digest", "model")
    own = [one for one in alike if all(one[part] == found[part] for part in same)]
    start = max((place for place, one in enumerate(own) if one["reference_from_here"]), default=0)
    return [*(("itself", one) for one in own[start:]), *(("before", one) for one in reversed(alike))]


def _between_versions(change: figures.Change, version: str) -> figures.Change:
    """Return what is said of a change that came of another version, which somebody chose: at most to look into it.

    Whoever went back to plain RAG knows that it may score lower.
    """
    state: figures.State = change.state
    if state == "act":
        state = "look"
    return replace(change, state="first" if version == PLAIN else state, sure=False)
