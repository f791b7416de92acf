"""Feedback on a server's answers: a person reviews it, and what they accept becomes rows to learn from.

A row has the question that was asked, the right answer (the correction, or the answer that was rated right), the
document that says so, and the quote where one sentence of it does. Decisions are kept beside the feedback, with who and
when.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from raft.api.reviewing import cut, name_of
from raft.api.run import Built
from raft.corpus import pii
from raft.corpus.readers import clean
from raft.curation.decisions import APPROVED, EDITED, REASONS, REJECTED
from raft.curation.pairs import bears, means, quoted, quotes, rarity
from raft.errors import UsageError, typed
from raft.protocols import OnEvent
from raft.rag.format import is_no_answer
from raft.report.page import fill
from raft.store import artifacts, traffic
from raft.text import normalise

LISTS = ("corrected", "wrong", "right")
"""Feedback with a correction, without one on a wrong answer, and on a right one; who rated nothing said it is wrong."""
_UNDONE = "undone"
_TITLE = "Would you teach this answer?"
Row = dict[str, Any]


def feedback(
    folder: str | Path,
    *,
    by: str | None = None,
    accept: Sequence[int] = (),
    reject: Sequence[int] = (),
    export: str | Path | None = None,
    page: bool = True,
    port: int = 0,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Let a person review what users said of a server's answers; what they accept can be learned from.

    Args:
        folder: the run directory.
        by: who decides; None: the user's name on this machine.
        accept: numbers of feedback that is accepted as it is; then no page is opened.
        reject: numbers of feedback that is not to be learned from; likewise.
        export: a file; all rows that were accepted so far are written to it, for `build(qa=...)`; likewise.
        page: whether a page is opened, which ends with its button, or with Ctrl-C.
        port: where the page listens; 0: any free port.
        on_event: told "opened" with the `address` of the page, `remarks` and what is `said` so far.

    Returns:
        `rows`: the feedback that counts, each with the reply that it is about and its `decision`; `text`: what it says
        in all; `accepted`, `rejected` and `open`: how many; `exported`: how many rows were written.

    Raises:
        UsageError: there is no run or no feedback, a number is none, what is accepted cannot be learned from, or
            nothing is accepted that could be exported.
        RaftError: the traffic cannot be used, or the port is taken.
    """
    built = Built(folder)
    session = Session(built, name_of(by))
    exported = 0
    if accept or reject:
        session.settle(accept, reject)
    if export is not None:
        exported = _export(built, Path(export).expanduser())
    elif page and not accept and not reject:
        from raft.api import review_page  # noqa: PLC0415  a server that other commands need not load

        if not session.rows:
            hint = f"raft serve {typed(built.folder)}   (its page has thumbs, and POST /v1/feedback)"
            raise UsageError("Nobody has said anything of an answer yet.", where=built.folder, hint=hint)
        shown = fill("review", title=_TITLE, reviewer=session.reviewer, reasons=REASONS)
        told = on_event or (lambda event, facts: None)
        about = {"remarks": [], "said": session.figures()["text"]}
        review_page.serve(session, shown, port, lambda address: told("opened", {"address": address, **about}))
    return {**session.figures(), "rows": [*session.listed()], "exported": exported}


def _export(built: Built, path: Path) -> int:
    rows = accepted(built.folder)
    if not rows:
        hint = f"raft feedback {typed(built.folder)}   (accept what is right)"
        raise UsageError("Nothing is accepted yet that could be learned from.", where=built.folder, hint=hint)
    if path.exists() and not _is_export(path):
        raise UsageError("The file is there already, and is none of raft's.", where=path, hint="--export another.jsonl")
    artifacts.atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return len(rows)


def _is_export(path: Path) -> bool:
    try:
        return all("accepted_by" in value for _, value in artifacts.read_objects(path, "-"))
    except UsageError:
        return False


def accepted(run: Path) -> list[Row]:
    """Return the rows that people accepted, as `questions.qa` reads them: of each question the last."""
    found: dict[str, Row] = {}
    for one in _last(run).values():
        if one["decision"] != traffic.ACCEPTED:
            continue
        row = {part: one[part] for part in ("question", "answer", "document", "quote") if one[part]}
        day = datetime.fromtimestamp(one["at"], UTC).date().isoformat()
        found.pop(normalise(one["question"]), None)
        found[normalise(one["question"])] = {**row, "accepted_by": one["by"], "accepted_on": day}
    return [*found.values()]


def _last(run: Path) -> dict[int, Row]:
    """Return the decision that counts on each feedback, in the order of decisions."""
    found: dict[int, Row] = {}
    for one in traffic.decisions(run).iter_rows(named=True):
        found.pop(one["feedback_id"], None)
        found[one["feedback_id"]] = one
    return {name: one for name, one in found.items() if one["decision"] != _UNDONE}


class Session:
    """The feedback of a run as one reviewer is shown it, and what was decided (as `reviewing.Session`)."""

    def __init__(self, built: Built, reviewer: str) -> None:
        self.run, self.settings, self.reviewer = built._run, built.settings, reviewer
        said = traffic.feedback(built.folder)
        replies = {row["reply_id"]: row for row in traffic.replies(built.folder).iter_rows(named=True)}
        rows = ({**row, **_reply(replies.get(row["reply_id"]))} for row in said.to_dicts())
        self.rows = {str(row["id"]): _seen(row) for row in rows}
        self._decided = _last(built.folder)
        self.lists: dict[str, list[str]] = {name: [] for name in LISTS}
        for name, row in self.rows.items():
            if row["question"]:
                which = "corrected" if row["correction"] else "right" if row["rating"] == "up" else "wrong"
                self.lists[which].append(name)

    def listed(self) -> Iterator[Row]:
        """Yield all feedback that counts, with its decision."""
        for row in self.rows.values():
            one = self._decided.get(row["id"], {})
            asked = row["question"] or one.get("question")  # the reply may be deleted by now
            yield {
                **row,
                "question": asked,
                "decision": one.get("decision"),
                "by": one.get("by"),
                "note": one.get("note"),
                "document": one.get("document"),
                "quote": one.get("quote"),
            }

    def figures(self) -> dict[str, Any]:
        """Return how much feedback there is and what became of it, in numbers, and as `text`."""
        verdicts = [one["decision"] for one in self.listed()]
        kept = len(accepted(self.run.folder))
        several = sum(one["decision"] == traffic.ACCEPTED for one in self._decided.values()) > kept
        once = " (of one question the last)" if several else ""
        found = {"accepted": kept, "rejected": verdicts.count(traffic.REJECTED), "open": verdicts.count(None)}
        up, down = (sum(row["rating"] == rating for row in self.rows.values()) for rating in ("up", "down"))
        corrected = sum(bool(row["correction"]) for row in self.rows.values())
        answers = "answer was" if len(self.rows) == 1 else "answers were"
        text = [
            f"{len(self.rows):,} {answers} spoken of: {up:,} rated right, {down:,} wrong, {corrected:,} corrected",
            f"{kept:,} accepted to learn from{once}, {found['rejected']:,} rejected, {found['open']:,} open",
        ]
        return {**found, "text": text}

    def state(self) -> dict[str, Any]:
        """Return the lists, what was decided, and what all of it says."""
        words = {traffic.ACCEPTED: APPROVED, traffic.REJECTED: REJECTED}
        mine = {str(name): words[one["decision"]] for name, one in self._decided.items()}
        return {"lists": self.lists, "mine": mine, "said": self.figures()["text"]}

    def view(self, name: str) -> dict[str, Any] | None:
        """Return feedback as the page shows it, with the passage that bears its answer; None: there is none such."""
        row = self.rows.get(name)
        if row is None or not row["question"]:
            return None
        one = self._decided.get(row["id"])
        told = one if one and one["answer"] else {"question": row["question"], "answer": _answer(row), "quote": None}
        taught, place = self._taught(row, told["question"], told["answer"], told["quote"] or "")
        place = place or next((cited["chunk_id"] for cited in row["citations"]), None)
        source = cut(self.run, [place]) if place else {}
        said = [f"It was answered: {row['answer'] or 'nothing'}"] * bool(row["correction"] or not _answer(row))
        said += [f"Said with it: {row['comment']}"] * bool(row["comment"])
        said += ["No passage of the documents bears this answer."] * bool(not taught["document"] and taught["answer"])
        whose = f" by {row['caller']}" if row["caller"] else ""
        day = datetime.fromtimestamp(row["at"], UTC).date().isoformat()
        rated = {"up": "rated right", "down": "rated wrong"}.get(row["rating"], "not rated")
        return {
            "id": name,
            "kind": f"{rated}{whose} on {day}",
            "question": taught["question"],
            "answer": taught["answer"] or "(no answer yet: edit it, or reject)",
            "quote": taught["quote"] or "",
            "reason": None,
            "split": f"version {row['version']}",
            "doubts": said,
            "sources": [one.shown([taught["quote"] or ""], taught["answer"]) for one in source.values()],
            "mine": one and {"verdict": self.state()["mine"][name], "reason": one["note"]},
        }

    def decide(
        self, name: str, verdict: str, *, reason: str | None, edit: Mapping[str, str] | None, shown: str
    ) -> None:
        """Write a decision down, onto the disk.

        Raises:
            ValueError: it cannot be learned from: why, in words for the reviewer.
            RaftError: the traffic cannot be written.
        """
        self._write([self._decision(name, verdict, reason, edit)])

    def undo(self) -> str | None:
        """Take this reviewer's last decision back, and return the number of its feedback; None: there is none.

        What somebody else had decided on that feedback before counts again.
        """
        self._decided = _last(self.run.folder)  # others review too
        mine = [
            one for one in self._decided.values() if one["by"] == self.reviewer and str(one["feedback_id"]) in self.rows
        ]
        if not mine:
            return None
        last = int(max(mine, key=lambda one: int(one["id"]))["feedback_id"])
        before: list[Row] = []
        for one in traffic.decisions(self.run.folder).filter(feedback_id=last).iter_rows(named=True):
            if one["decision"] != _UNDONE:
                before.append(one)
            elif before:
                before.pop()
        again = [one for one in before[-2:-1] if one["by"] != self.reviewer]
        kept = [{name: value for name, value in one.items() if name not in ("id", "at")} for one in again]
        self._write([{"feedback_id": last, "decision": _UNDONE, "by": self.reviewer}, *kept])
        return str(last)

    def settle(self, accept: Sequence[int], reject: Sequence[int]) -> None:
        """Accept and reject feedback by its numbers, all or none.

        Raises:
            UsageError: a number is none, stands twice, or cannot be learned from.
        """
        rows = []
        for number, verdict in [*((one, APPROVED) for one in accept), *((one, REJECTED) for one in reject)]:
            where = f"{'--accept' if verdict == APPROVED else '--reject'} {number}"
            hint = f"raft feedback {typed(self.run.folder)} --list"
            if str(number) not in self.rows:
                raise UsageError(f"There is no feedback {number}.", where=where, hint=hint)
            if [*accept, *reject].count(number) > 1:
                raise UsageError(f"Feedback {number} is named twice.", where=where, hint=hint)
            try:
                rows.append(self._decision(str(number), verdict, None, None))
            except ValueError as wrong:
                hint = f"raft feedback {typed(self.run.folder)}   (where it can be edited)"
                raise UsageError(f"Feedback {number} is not accepted: {wrong}.", where=where, hint=hint) from None
        self._write(rows)

    def _write(self, rows: Sequence[Row]) -> None:
        traffic.decide(self.run.folder, rows)
        self._decided = _last(self.run.folder)

    def _decision(self, name: str, verdict: str, reason: str | None, edit: Mapping[str, str] | None) -> Row:
        row, made = self.rows[name], {"feedback_id": int(name), "by": self.reviewer}
        if verdict == REJECTED:
            return {**made, "decision": traffic.REJECTED, "note": reason}
        last = self._decided.get(row["id"]) or {}
        said = edit if verdict == EDITED and edit else {}
        question = said.get("question") or last.get("question") or row["question"]
        answer = said.get("answer") or last.get("answer") or _answer(row)
        if self.settings.privacy.found in ("redact", "refuse"):
            question, answer = (pii.cleaned(text or "")[0] for text in (question, answer))
        if not question:
            raise ValueError("what was asked is no longer kept")
        if not answer:
            raise ValueError("nobody has said what is right: edit the answer")
        quote = said.get("quote") or ""
        taught, _ = self._taught(row, question, answer, quote)
        if quote and not taught["document"]:
            raise ValueError("no passage has this quote together with the numbers, dates and codes of the answer")
        if not taught["document"] and not is_no_answer(answer):
            raise ValueError("no passage of the documents bears this answer: mend the answer, or the documents")
        return {**made, "decision": traffic.ACCEPTED, **taught}

    @cached_property
    def _chunks(self) -> dict[str, Row]:
        columns = ["chunk_id", "doc_id", "heading", "text", "boilerplate"]
        parts = self.run.stream("chunks.parquet", columns)
        return {row["chunk_id"]: row for part in parts for row in part.iter_rows(named=True) if not row["boilerplate"]}

    @cached_property
    def _paths(self) -> dict[str, str]:
        parts = self.run.stream("documents.parquet", ["doc_id", "path"])
        return {doc_id: path for part in parts for doc_id, path in part.iter_rows()}

    @cached_property
    def _plain(self) -> dict[str, str]:
        return {name: f" {normalise(chunk['text'])} " for name, chunk in self._chunks.items()}

    def _taught(self, row: Row, question: str, answer: str, quote: str = "") -> tuple[Row, str | None]:
        """Return the row to learn from, and its chunk; without a document where no passage bears the answer.

        It is looked for in what the reply cited, then in the documents of that, then wherever the answer stands;
        where a person gave a quote, it decides.
        """
        taught: Row = {"question": question, "answer": answer, "document": None, "quote": None}
        if quote:
            cited = [one["chunk_id"] for one in row["citations"] if one["chunk_id"] in self._chunks]
            chunks = [self._chunks[name] for name in (*cited, *self._chunks)]
            if not (stands := quoted({"quote": quote, "answer": answer}, chunks)):
                return taught, None
            name = str(stands[1]["chunk_id"])
            return {**taught, "document": self._path(name), "quote": stands[1]["text"]}, name
        for places in () if not answer or is_no_answer(answer) else self._places(row, question, answer):
            how = {name: bears(question, answer, self._chunks[name]) for name in places}
            borne = {name: worth for name, worth in how.items() if worth}
            if borne:
                name = max(borne, key=lambda one: borne[one])  # of equals the first
                stand = quotes(question, answer, self._chunks[name])
                return {
                    **taught,
                    "document": self._path(name),
                    "quote": stand[0]["text"] if len(stand) == 1 else None,
                }, name
        return taught, None

    def _path(self, chunk_id: str) -> str:
        return self._paths[self._chunks[chunk_id]["doc_id"]]

    def _places(self, row: Row, question: str, answer: str) -> Iterator[list[str]]:
        cited = list(dict.fromkeys(one["chunk_id"] for one in row["citations"]))
        documents = {one["document"] for one in row["citations"]}
        wanted = f" {normalise(answer)} "
        yield [name for name in cited if name in self._chunks]
        yield [name for name, chunk in self._chunks.items() if self._paths[chunk["doc_id"]] in documents]
        weights = rarity(question, self._plain.values())
        there = [name for name in self._chunks if wanted in self._plain[name]]  # "60 days" stand in many a text
        yield [name for name in there if means(weights, question, answer, self._chunks[name])]


def _reply(row: Row | None) -> Row:
    """Return what a reviewer is shown of a reply; of one that was deleted nothing is left."""
    parts = ("question", "answer", "citations", "version", "arm", "model")
    return {part: row[part] for part in parts} if row else {**dict.fromkeys(parts), "citations": []}


def _seen(row: Row) -> Row:
    """Return feedback without what nobody sees: what is learned from it is what a person has read."""
    return {**row, **{name: clean(row[name]) for name in ("question", "answer", "correction", "comment") if row[name]}}


def _answer(row: Row) -> str:
    """Return the answer that feedback says is right; "" where it says none."""
    return row["correction"] or (row["answer"] if row["rating"] == "up" else "") or ""
