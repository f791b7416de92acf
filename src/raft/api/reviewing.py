"""Review: people judge rows of a run on a page, and each verdict is on the disk before it is answered."""

import getpass
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from raft.api.run import Built
from raft.curation import clean, decisions, learned
from raft.curation.decisions import Decision
from raft.curation.duplicates import DUPLICATE
from raft.errors import RaftError, UsageError, typed
from raft.pipeline import review as reviewed
from raft.pipeline.read import documents_listed
from raft.protocols import OnEvent
from raft.report.page import fill
from raft.store import artifacts, tables
from raft.store.again import again
from raft.store.run import Run
from raft.text import find_quote

_AROUND = 1_500
"""Characters of a document that are shown before and after the chunk that a question is about."""
Row = dict[str, Any]


def review(
    folder: str | Path,
    *,
    reviewer: str | None = None,
    sample: int = 100,
    only: str | None = None,
    export: str | Path | None = None,
    learn: str | Path | None = None,
    port: int = 0,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Let a person judge rows of a run on a page that this machine alone can open, and return what the verdicts say.

    The page ends with its button, or with Ctrl-C. Verdicts are in `decisions.jsonl` of the run directory; the next
    `build` takes them.

    Args:
        folder: the run directory.
        reviewer: who judges; None: the user's name on this machine.
        sample: rows that are drawn to tell the share of wrong ones from; 100 tell 4 percent from 10.
        only: the one list that is shown: "sample", "suspicious", "dropped", "evaluation", or "human" (what people wrote
            or edited, and pairs of your own); None: all.
        export: a file; the evaluation questions that people approved so far are written to it, for `build(eval=...)`,
            and no page is opened.
        learn: a file; the learned filter of the run's build is taught by what people said of the rows that it has
            scored, and its weights are written there, for `cleaning.learned`. No page is opened.
        port: where the page listens; 0: any free port.
        on_event: told "opened" with the `address` of the page, `remarks` and what is `said` so far.

    Returns:
        What `pipeline.review.figures` returns, with `exported`: how many questions were written, `learned`: how many
        verdicts the filter was taught by, and `left`: how many rows of the sample nobody has judged (None where no page
        was opened).

    Raises:
        UsageError: there is no run, its cleaning is not done, a file of decisions is damaged, nothing is approved
            that could be exported, or `only` names no list, or one without rows.
        RaftError: the port is taken.
    """
    if sample < 1:
        raise UsageError(f"A sample of {sample} rows says nothing.", where="sample", hint="--sample 100")
    built = Built(folder)
    built._run.require("cleaned")
    if export is not None and learn is not None:
        raise UsageError("Two files are asked for at once.", where="--export, --learn", hint="name one of them")
    if export is not None:
        written = {"exported": _export(built, Path(export).expanduser()), "learned": 0, "left": None}
        return {**reviewed.figures(built._run, built.settings), **written}
    if learn is not None:
        written = {"exported": 0, "learned": _learn(built, Path(learn).expanduser()), "left": None}
        return {**reviewed.figures(built._run, built.settings), **written}
    from raft.api import review_page  # noqa: PLC0415  a server that other commands need not load

    session = Session(built, name_of(reviewer), sample, only)
    page = fill("review", title="Would you sign this row?", reviewer=session.reviewer, reasons=decisions.REASONS)
    review_page.serve(session, page, port, lambda address: (on_event or _nobody)("opened", session.about(address)))
    return {**session.figures(), "exported": 0, "learned": 0, "left": session.left()}


def _nobody(event: str, facts: Mapping[str, Any]) -> None:
    pass


def name_of(reviewer: str | None) -> str:
    """Return who judges; None: the user's name on this machine.

    Raises:
        UsageError: it is no name.
    """
    if reviewer is None:
        try:
            reviewer = getpass.getuser()
        except (OSError, KeyError):  # a container may give its user no name
            reviewer = "reviewer"
    name = " ".join(reviewer.split())
    if not name or len(name) > 80:
        raise UsageError("A reviewer's name has 1 to 80 characters.", where="--reviewer", hint="--reviewer Ada")
    return name


def _export(built: Built, path: Path) -> int:
    run, opinions = built._run, reviewed.Opinions(built._run, built.settings)
    found, _, _ = opinions.said()
    read = opinions.rows(found)
    questions = built.cleaned.filter(pl.col("question_id").is_in([*found])).iter_rows(named=True)
    paths = dict(documents_listed(run).select("doc_id", "path").iter_rows())
    rows = (_as_read(row, read[row["question_id"]]) for row in questions)
    lines = reviewed.evaluation_lines(rows, found, paths)
    if not lines:
        raise UsageError(
            "Nobody has approved a question to measure with yet.",
            where=run.folder,
            hint=f"raft review {typed(run.folder)}   (the list “evaluation” has them)",
        )
    before = _exported(path) if path.exists() else []
    if before is None:
        raise UsageError(
            "The file is there already, and is none of raft's.", where=path, hint="choose another --export"
        )
    if lost := sum(line not in lines for line in before):
        hint = f"mv {typed(path)} {typed(path)}.before   (then the same command again)"
        what = f"The file holds an export, and {lost:,} of its questions are not in this one, or written otherwise."
        raise UsageError(what, where=path, hint=hint)
    artifacts.atomically(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    return len(lines)


def _learn(built: Built, path: Path) -> int:
    name = built.settings.cleaning.learned
    if name is None:
        raise UsageError(
            "The run was built without a learned filter: there is nothing to teach.",
            where=built._run.folder,
            hint=again(built._run.folder, {"cleaning.learned": learned.BROUGHT[0]}),
        )
    found, _, _ = reviewed.Opinions(built._run, built.settings).said()
    said = {question: verdict for question, (verdict, *_) in decisions.decided(found).items()}
    rows, weights, told = built.cleaned.to_dicts(), learned.load(name), built.manifest.get("weights")
    made = learned.learn(rows, said, weights, keep=learned.KEEP, built_with=told, run=built._run.folder)
    if path.is_dir() or (path.exists() and not learned.is_weights(path)):
        raise UsageError("The file is there already, and is none of raft's.", where=path, hint="choose another --learn")
    artifacts.atomically(path, made.identity)
    return made.pairs


def _exported(path: Path) -> list[Row] | None:
    """Return the lines of an export; None: the file is none."""
    try:
        lines = [value for _, value in artifacts.read_objects(path, "-")]
    except RaftError:
        return None
    return lines if all("question" in line for line in lines) else None


def _as_read(row: Row, read: Row) -> Row:
    """Return a cleaned row as a person reads it, with nothing of what another one made of it."""
    return {**row, **{part: read[part] for part in ("question", "answer", "quotes", "original_quotes")}}


def _stamp(run: Path) -> tuple[int, int]:
    """Return what changes whenever a build makes the cleaned rows anew."""
    made = (run / "cleaned.parquet").stat()
    return made.st_ino, made.st_mtime_ns


@dataclass(frozen=True)
class Chunk:
    """A chunk with what stands around it in its document, as a person reads it."""

    text: str
    heading: str
    document: str
    page: int | None
    start: int
    before: str
    after: str

    def shown(self, quotes: Sequence[str], answer: str) -> dict[str, Any]:
        """Return it as the page shows a source: in pieces, with how bright each is."""
        spans = [span for quote in quotes if (span := find_quote(quote, self.text))]
        pieces = [[self.before, 0], *_pieces(self.text, spans, answer), [self.after, 0]]
        return {"document": self.document, "heading": self.heading, "page": self.page, "pieces": pieces}


def cut(run: Run, wanted: Collection[str]) -> dict[str, Chunk]:
    """Return chunks by id with what stands around them; of a document no more is kept."""
    columns = ["chunk_id", "doc_id", "heading", "text", "page", "start", "end"]
    by_document: dict[str, list[Row]] = {}
    for part in run.stream("chunks.parquet", columns):
        for row in part.filter(pl.col("chunk_id").is_in([*wanted])).iter_rows(named=True):
            by_document.setdefault(row["doc_id"], []).append(row)
    found = {}
    for part in run.stream("documents.parquet", ["doc_id", "path", "text"]):
        for doc_id, path, text in part.filter(pl.col("doc_id").is_in([*by_document])).iter_rows():
            for row in by_document[doc_id]:
                start, end = row["start"], row["end"]
                around = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
                found[row["chunk_id"]] = Chunk(row["text"], row["heading"], path, row["page"], start, *around)
    return found


class Session:
    """The rows that one reviewer is shown, and what they have said of them.

    Raises:
        UsageError: a file of decisions is damaged, or the `only` list that is wanted has no rows.
        DamagedArtifact: a table is.
    """

    def __init__(self, built: Built, reviewer: str, sample: int, only: str | None = None) -> None:
        self.run, self.settings, self.reviewer = built._run, built.settings, reviewer
        self._file, self._opinions = self.run.folder / decisions.FILE, reviewed.Opinions(self.run, self.settings)
        self._made = _stamp(self.run.folder)
        self._said, self._remarks, _ = self._opinions.said()
        rows = {row["question_id"]: row for row in built.cleaned.iter_rows(named=True)}
        self.lists = reviewed.listed(rows, self._said, size=sample, seed=self.settings.seed)
        self._sample = self.lists["sample"]
        if only is not None:
            if not self.lists.get(only):
                filled = " or ".join(name for name in self.lists if self.lists[name])
                known = ", ".join(self.lists)
                why = "No row is in the list" if only in self.lists else f"The lists are {known}; there is no"
                raise UsageError(f"{why} {only!r}.", where="--only", hint=f"--only {filled}")
            self.lists = {name: names if name == only else [] for name, names in self.lists.items()}
        shown = {name for names in self.lists.values() for name in names}
        read = self._opinions.rows(shown)
        self._rows: dict[str, Row] = {name: _as_read(rows[name], read[name]) for name in shown}
        self._chunks = cut(self.run, {one for row in self._rows.values() for one in row["golden_chunk_ids"]})

    def about(self, address: str) -> dict[str, Any]:
        """Return what is told when the page can be opened."""
        return {"address": address, "remarks": self._remarks, "said": self.figures()["text"]}

    def figures(self) -> dict[str, Any]:
        """Return what all verdicts say, as `pipeline.review.figures`."""
        return self._opinions.figures()

    def left(self) -> int:
        """Return how many rows of the sample nobody has judged."""
        return sum(name not in self._said for name in self._sample)

    def state(self) -> dict[str, Any]:
        """Return the lists, this reviewer's verdicts, and what all say."""
        mine = {name: own[self.reviewer].verdict for name, own in self._said.items() if self.reviewer in own}
        return {"lists": self.lists, "mine": mine, "said": self.figures()["text"]}

    def view(self, name: str) -> dict[str, Any] | None:
        """Return a row as the page shows it, its source in pieces with how bright each is; None: it is not shown."""
        row = self._rows.get(name)
        if row is None:
            return None
        mine = self._said.get(name, {}).get(self.reviewer)
        text = {**row, **((mine.edit if mine else None) or {})}
        quotes = [one["text"] for one in row["quotes"] if one["text"]]
        return {
            "id": name,
            "kind": row["kind"],
            "question": text["question"],
            "answer": text["answer"],
            "quote": text.get("quote") or (quotes[0] if len(quotes) == 1 else ""),
            "reason": self._reason(name),
            "split": row["split"],
            "doubts": [words for words, _ in reviewed.doubts(row)],
            "sources": [*self._sources(row, text)],
            "mine": None if mine is None else {"verdict": mine.verdict, "reason": mine.reason},
        }

    def _reason(self, name: str) -> str | None:
        own = next(iter(self._said.get(name, {}).values()), None)
        reason: str | None = own.was if own else self._rows[name]["reason"]
        return None if reason == clean.REJECTED else reason

    def _sources(self, row: Row, text: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk_id in row["golden_chunk_ids"]:
            chunk = self._chunks.get(chunk_id)
            if chunk is None:
                continue
            quotes = [one["text"] for one in row["quotes"] if one["chunk_id"] == chunk_id and one["text"]]
            yield chunk.shown([text["quote"]] if text.get("quote") else quotes, str(text["answer"]))

    def decide(
        self, name: str, verdict: str, *, reason: str | None, edit: Mapping[str, str] | None, shown: str
    ) -> None:
        """Write a verdict down, onto the disk; one that says what the last one said is written once.

        Raises:
            ValueError: it cannot be: what is wrong, in words for the reviewer.
            RaftError: the file of decisions is damaged, or a build has made other rows.
            OSError: the file cannot be written.
        """
        self._refresh()
        row, last = self._rows[name], self._said.get(name, {}).get(self.reviewer)
        if verdict == decisions.EDITED and edit is not None:
            now = {**row, **((last.edit if last else None) or {})}
            if "quote" not in edit and all(edit[part] == now[part] for part in ("question", "answer")):
                raise ValueError("nothing was changed: approve it")
            former = (last.edit if last else None) or {}
            edit = {**{part: text for part, text in former.items() if part == "quote"}, **edit}
        if verdict == decisions.EDITED or (verdict == decisions.APPROVED and row["reason"] is not None):
            self._check(row, verdict, edit)
        digest = decisions.digest_of(row["question"] or "", row["answer"] or "")
        shown = reviewed.BESIDE if name in self._sample and shown != "sample" else shown
        made = Decision(
            name, digest, verdict, self.reviewer, reason, edit, self._reason(name), shown, datetime.now(UTC).isoformat()
        )
        if last is not None and (last.verdict, last.reason, last.edit) == (verdict, reason, edit):
            return
        decisions.add(self._file, made)
        self._said.setdefault(name, {})[self.reviewer] = made

    def undo(self) -> str | None:
        """Take this reviewer's last verdict back, and return the id of its row; None: there is none."""
        mine = [own[self.reviewer] for own in self._said.values() if self.reviewer in own]
        made = max((one for one in mine if one.question_id in self._rows), key=lambda one: one.time, default=None)
        if made is None:
            return None
        stamp = datetime.now(UTC).isoformat()
        undone = Decision(made.question_id, made.digest, decisions.UNDONE, self.reviewer, time=stamp)
        decisions.add(self._file, undone)
        self._said, _, _ = self._opinions.said()
        return made.question_id

    def _refresh(self) -> None:
        """Take in what others have said meanwhile; what a build has made anew can no longer be judged here."""
        if _stamp(self.run.folder) != self._made:
            hint = f"raft review {typed(self.run.folder)}   (once more, for the rows that there are now)"
            raise RaftError("A build has made the rows anew.", where=self.run.folder, hint=hint)
        self._said, self._remarks, _ = self._opinions.said()

    def _check(self, written: Row, verdict: str, edit: Mapping[str, str] | None) -> None:
        """Check that the rules which no person overrules keep what was decided, so that it is not lost in the build."""
        name = written["question_id"]
        if not written["golden_chunk_ids"] and written["reason"] == clean.UNSAID:
            raise ValueError("no document says it: mend the pair in its file, or the document")
        frame = decisions.edited(tables.frame(tables.QUESTIONS, [written]), {name: [verdict, edit]})
        texts = {
            one: {"chunk_id": one, "heading": chunk.heading, "text": chunk.text}
            for one in written["golden_chunk_ids"]
            if (chunk := self._chunks.get(one))
        }
        limits, good = reviewed.limits_of(self.settings), {name: verdict}
        reason = clean.judged(frame.row(0, named=True), texts, limits, self._opinions.languages, good)["reason"]
        if reason is not None:
            raise ValueError(f"the build would drop it all the same: {reason}")


def duplicates(folder: str | Path) -> list[Row]:
    """Return the clusters of questions that say the same, the largest first: which is `kept`, and the `dropped` ones.

    Dropped ones come most alike first; `scores.similarity` is null where they have the words of the kept one.
    """
    rows = {row["question_id"]: row for row in Built(folder).cleaned.iter_rows(named=True)}
    clusters: dict[str, list[Row]] = {}
    for row in rows.values():
        if row["reason"] == DUPLICATE and row["duplicate_of"] in rows:
            clusters.setdefault(row["duplicate_of"], []).append(row)

    def alike(row: Row) -> tuple[float, str]:
        return -(row["scores"]["similarity"] or 1.0), row["question_id"]

    found = sorted(clusters.items(), key=lambda one: (-len(one[1]), one[0]))
    return [{"kept": rows[kept], "dropped": sorted(dropped, key=alike)} for kept, dropped in found]


def _pieces(text: str, spans: Sequence[tuple[int, int]], answer: str) -> list[list[Any]]:
    """Return a text in pieces: 1 is the chunk, 2 a quote in it, 3 the answer in a quote."""
    levels = bytearray(b"\1") * len(text)
    for start, end in spans:
        levels[start:end] = b"\2" * (end - start)
        place = text.find(answer, start, end) if answer else -1
        levels[place : place + len(answer)] = b"\3" * len(answer) if place >= 0 else b""
    cuts = [0, *(at for at in range(1, len(text)) if levels[at] != levels[at - 1]), len(text)]
    return [[text[start:end], levels[start]] for start, end in pairwise(cuts) if end > start]
