"""What each system of a benchmark is shown: what search brings, the golden chunk, nothing that bears the answer.

All systems that retrieve see the same chunks in the same order. Where the golden chunk is given it takes the place
of the last chunk that search brought, unless it is among them: so the two conditions differ in retrieval alone.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import polars as pl

from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Message, Retriever
from raft.rag.format import Shown, abstention, render_prompt, spoken, title_line
from raft.rag.grounding import Passage
from raft.rag.refusal import Refusal
from raft.rag.relevant import (
    Sources,
    golden_of,
    group_of,
    is_short,
    mentions_answer,
    relevant,
    search_all,
    states_answer,
    unanswerable,
    withheld,
)
from raft.similarity import same_text
from raft.text import as_text

DEPTH = 20
"""Chunks searched for, at least: what MRR and nDCG look at, and what replaces chunks that are withheld."""

Row = dict[str, Any]
Context = Literal["none", "retrieved", "golden", "withheld"]


@dataclass(frozen=True)
class Contexts:
    """The questions of a benchmark with what can be shown for them.

    Attributes:
        questions: a frame of `tables.EVALUATION`.
        sources: where the answers stand, and what search brings (boilerplate, which is never shown, left out).
        passages: for each question id and context the passages to show; "golden" only where a chunk is known to bear
            the answer, "withheld" only for the questions that are also asked without what bears their answer, in
            whichever document it stands.
        relevance: for each question id and context how far what is shown seems to hold the answer
            (`rag.refusal.Refusal.scores`); empty where nobody needs to know.
        least: the figure of `relevance` from which a model is asked; 0: always.
        head: identity of the refusal head whose figures they are; empty without one.
        shortened: how many questions show fewer passages than were chosen, in any context, so that a prompt fits each
            of the models.
    """

    questions: pl.DataFrame
    sources: Sources
    passages: Mapping[str, Mapping[Context, Sequence[Passage]]]
    relevance: Mapping[str, Mapping[Context, float]] = field(default_factory=dict)
    least: float = 0.0
    head: str = ""
    shortened: int = 0

    def ids(self, question_set: str, context: Context) -> list[str]:
        """Return the questions of a set that can be asked in a context, in their order."""
        rows = self.questions.filter(pl.col("split") == question_set)["question_id"].to_list()
        return [name for name in rows if context in self.passages[name]]

    def worth_asking(self, name: str, context: Context) -> bool:
        """Tell whether a model is asked a question in a context: where documents belong to it, they are about it."""
        if context == "none":
            return True
        shown = self.passages[name][context]
        return bool(shown) and (not self.least or self.relevance[name][context] >= self.least)


def contexts(
    questions: pl.DataFrame,
    chunks: pl.DataFrame,
    documents: pl.DataFrame,
    retriever: Retriever,
    *,
    k: int,
    share: float,
    seed: int,
) -> Contexts:
    """Search for each question, find what bears its answer, and choose what each context shows: `k` chunks.

    A `share` (0 to 1) of the questions (`tables.EVALUATION`), drawn by the seed, is also asked with the relevant chunks
    withheld. `documents` come with doc_id, path and title.
    """
    book = _Book(chunks, documents)
    rows = questions.to_dicts()
    hits = search_all([row["question"] for row in rows], retriever, depth(k))
    borne, ranked, groups = dict[str, list[str]](), dict[str, list[str]](), dict[str, str]()
    shown: dict[str, dict[Context, list[Passage]]] = {}
    for row, found in zip(rows, hits, strict=True):
        name = row["question_id"]
        brought = [one for one in found if one in book.chunks and not book.chunks[one]["boilerplate"]]
        known = book.relevant(row)
        golden = golden_of(known, brought)
        borne[name], groups[name] = known, group_of(row, golden, book.path_of_chunk)
        ranked[name], top = brought, brought[:k]
        shown[name] = {"none": [], "retrieved": [book.passage(one) for one in top]}
        if golden is not None:
            given = top if golden in top else [*top[: k - 1], golden]
            shown[name]["golden"] = [book.passage(one) for one in given]
        if known and not unanswerable(row) and withheld(name, share, seed):
            rest = (one for one in brought if one not in known and not book.says_too(one, row, known))
            shown[name]["withheld"] = [book.passage(one) for one in islice(rest, k)]
    texts = {name: book.chunks[name]["text"] for known in borne.values() for name in known}
    return Contexts(questions, Sources(borne, ranked, groups, texts), dict(shown))


def depth(k: int) -> int:
    """Return how many chunks are searched for where `k` are shown."""
    return max(DEPTH, 4 * k)


def judged(known: Contexts, refusal: Refusal) -> Contexts:
    """Return the contexts with how far what each shows seems to hold the question's answer."""
    asked = dict(known.questions.select("question_id", "question").iter_rows())
    places = [(name, context) for name, own in known.passages.items() for context in own if context != "none"]
    shown = [known.passages[name][context] for name, context in places]
    found: dict[str, dict[Context, float]] = {}
    values = refusal.scores([asked[name] for name, _ in places], shown)
    for (name, context), value in zip(places, values, strict=True):
        found.setdefault(name, {})[context] = value
    return replace(known, relevance=found, least=refusal.least, head=refusal.identity)


class _Book:
    """The corpus by id."""

    def __init__(self, chunks: pl.DataFrame, documents: pl.DataFrame) -> None:
        self.chunks: dict[str, Row] = {row["chunk_id"]: row for row in chunks.iter_rows(named=True)}
        self.paths = dict(documents.select("doc_id", "path").iter_rows())
        self.titles = dict(documents.select("doc_id", "title").iter_rows())
        self.path_of_chunk = {name: self.paths.get(row["doc_id"], "") for name, row in self.chunks.items()}
        self._by_path: dict[str, list[Row]] = {}
        for name, row in self.chunks.items():
            self._by_path.setdefault(self.path_of_chunk[name], []).append(row)

    def relevant(self, question: Row) -> list[str]:
        """Return the chunks that hold the answer; where yes or no is the answer, all of the document that is named."""
        chunks = self._candidates(question)
        known = [name for name in relevant(question, chunks) if name in self.chunks]
        if (
            known
            or not question["document"]
            or not all(is_short(one, question["question"]) for one in question["answers"])
        ):
            return known
        return [chunk["chunk_id"] for chunk in chunks if not chunk["boilerplate"]]

    def says_too(self, name: str, question: Row, known: Sequence[str]) -> bool:
        """Tell whether a chunk of whichever document answers a question, or repeats one of the chunks that bear it."""
        passage = self.passage(name)
        said = f"{passage.title}\n{passage.text}"
        if any(states_answer(said, answer, question["question"]) for answer in question["answers"]):
            return True
        return any(same_text(passage.text, self.chunks[one]["text"]) for one in known)

    def _candidates(self, question: Row) -> list[Row]:
        if question["document"]:
            return self._by_path.get(question["document"], [])
        paths = {self.path_of_chunk[name] for name in question["golden_chunk_ids"] if name in self.path_of_chunk}
        if paths:
            return [row for path in sorted(paths) for row in self._by_path[path]]
        return list(self.chunks.values())

    def passage(self, name: str) -> Passage:
        row = self.chunks[name]
        title = title_line(self.titles.get(row["doc_id"]), row["heading"])
        return Passage(name, row["doc_id"], self.path_of_chunk[name], title, row["page"], row["start"], row["text"])


def exemplars(
    learned: pl.DataFrame,
    chunks: pl.DataFrame,
    documents: pl.DataFrame,
    prompt: Prompt,
    count: int,
    *,
    style: str,
    seed: int,
    abstaining: bool,
) -> tuple[Message, ...]:
    """Return worked examples as turns, from training questions alone: the short answers to short golden chunks.

    Where `abstaining`, the last of four or more is shown another's chunk and abstains. The rows of `tables.CLEANED`
    that are `learned` from are those whose split is `train`; the other frames are as for `contexts`.
    """
    book = _Book(chunks, documents)
    rows = [
        row
        for row in learned.iter_rows(named=True)
        if not traits(row["kind"]).special
        and len(row["golden_chunk_ids"]) == 1
        and row["golden_chunk_ids"][0] in book.chunks
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"{seed}:{row['question_id']}".encode()).digest())
    rows = sorted(rows[: 4 * count], key=lambda row: len(book.chunks[row["golden_chunk_ids"][0]]["text"]))[:count]
    random.Random(seed).shuffle(rows)  # noqa: S311  no secret
    turns: list[Message] = []
    for place, row in enumerate(rows):
        last = abstaining and len(rows) >= 4 and place == len(rows) - 1
        own = row["golden_chunk_ids"][0]
        others = [other["golden_chunk_ids"][0] for other in rows[:-1]] if last else []
        absent = next((one for one in others if one != own and not _tells(book.chunks[one]["text"], row)), None)
        passage = book.passage(absent or own)
        shown = [Shown(passage.chunk_id, passage.title, passage.text)]
        asked = render_prompt(prompt, question=row["question"], shown=shown, style=style)
        turns += [turn for turn in asked if turn["role"] == "user"]
        refusal = abstention(spoken(row["question"], [passage.text]))
        turns.append({"role": "assistant", "content": refusal if absent else as_text(row["answer"])})
    return tuple(turns)


def _tells(text: str, row: Mapping[str, Any]) -> bool:
    return not is_short(row["answer"], row["question"]) and mentions_answer(text, row["answer"])
