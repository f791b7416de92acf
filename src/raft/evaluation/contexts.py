"""What each system of a benchmark is shown: what search brings, the golden chunk, nothing that bears the answer.

All systems that retrieve see the same chunks in the same order. Where the golden chunk is given it takes the place
of the last chunk that search brought, unless it is among them: so the two conditions differ in retrieval alone.

The answer to a question may stand nowhere word for word: it is long, or said in other words. Then the page that is
named for it bears it, or the document, and all their chunks are relevant. What is given of them is up to half of the
chunks shown, those that the retriever ranks best, for nobody knows in which of them the answer stands. Of a question
that needs several documents each is given, and all are withheld.
"""

import hashlib
import random
from bisect import bisect_right
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
    GRAINS,
    Grain,
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
from raft.text import as_text, overlap

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

    def unasked(self) -> set[tuple[str, str]] | None:
        """Return condition and id of the questions that no model is asked; None where none is refused before."""
        conditions: list[tuple[str, Context]] = [("answerable", "retrieved"), ("withheld", "withheld")]
        places = [(name, condition, context) for name in self.passages for condition, context in conditions]
        unasked = {
            (condition, name)
            for name, condition, context in places
            if context in self.passages[name] and not self.worth_asking(name, context)
        }
        return unasked if self.least else None


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
    withheld. `documents` come with doc_id, path and title, and `pages` as in `tables.DOCUMENTS` where pages are named.
    """
    book = _Book(chunks, documents)
    rows = questions.to_dicts()
    hits = search_all([row["question"] for row in rows], retriever, depth(k))
    borne, ranked, groups = dict[str, list[str]](), dict[str, list[str]](), dict[str, str]()
    needed, grains, golden = dict[str, list[list[str]]](), dict[str, Grain](), dict[str, list[str]]()
    shown: dict[str, dict[Context, list[Passage]]] = {}
    for row, found in zip(rows, hits, strict=True):
        name = row["question_id"]
        brought = book.usable(found)
        sought, grain = book.sought(row)
        known = list(dict.fromkeys(one for part in sought for one in part))
        best = _best(sought, brought, row["question"], book, 0 if grain == "chunk" else -(-k // 2))
        borne[name], groups[name] = known, group_of(row, best[0] if best else None, book.path_of_chunk)
        ranked[name], top = brought, brought[:k]
        shown[name] = {"none": [], "retrieved": [book.passage(one) for one in top]}
        if best:
            shown[name]["golden"] = [book.passage(one) for one in _with(top, best[:k], k)]
            grains[name], golden[name] = grain, best[:k]
        if len(sought) > 1:
            needed[name] = sought
        if known and not unanswerable(row) and withheld(name, share, seed):
            removed = set(known)
            if grain != "chunk" and len(removed.intersection(brought)) > len(brought) - k:
                more = search_all([row["question"]], retriever, depth(k) + len(known))[0]
                brought = [*brought, *(one for one in book.usable(more) if one not in brought)]
            rest = (one for one in brought if one not in removed and not book.says_too(one, row, known))
            shown[name]["withheld"] = [book.passage(one) for one in islice(rest, k)]
    texts = {name: book.chunks[name]["text"] for known in borne.values() for name in known}
    return Contexts(questions, Sources(borne, ranked, groups, texts, needed, grains, golden), dict(shown))


def _best(sought: Sequence[Sequence[str]], hits: Sequence[str], question: str, book: "_Book", most: int) -> list[str]:
    """Return the best chunk of each group, and the next best of all groups as long as there are fewer than `most`.

    What the retriever brought comes in its order, the rest by the share of the question's words that it holds, equals
    in their order.
    """
    places = {name: rank for rank, name in enumerate(hits)}

    def order(name: str) -> tuple[float, float]:
        rank = places.get(name)
        return (len(places), -overlap(question, book.chunks[name]["text"])) if rank is None else (rank, 0.0)

    if not most:  # where all bear the answer, one of each group is enough, and golden ones stand first
        return list(dict.fromkeys(one for part in sought if (one := golden_of(part, hits))))
    ranked = [sorted(part, key=order) for part in sought]
    firsts = list(dict.fromkeys(part[0] for part in ranked if part))
    others = sorted(dict.fromkeys(one for part in ranked for one in part if one not in firsts), key=order)
    return [*firsts, *others[: max(0, most - len(firsts))]]


def _with(top: Sequence[str], given: Sequence[str], k: int) -> list[str]:
    """Return what search brought with what is given: that which it missed takes the last places of `k`."""
    missing = [one for one in given if one not in top]
    spare = [one for one in top if one not in given]
    kept = {*spare[: max(0, k - len(given))], *given}
    return [*(one for one in top if one in kept), *missing]


def _last_page(row: Row, starts: Sequence[int]) -> int:
    """Return the page on which a chunk ends, by the offsets at which the pages of its document start; 0 without."""
    return max(row["page"] or 0, bisect_right(starts, row["end"] - 1))


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
    def __init__(self, chunks: pl.DataFrame, documents: pl.DataFrame) -> None:
        self.chunks: dict[str, Row] = {row["chunk_id"]: row for row in chunks.iter_rows(named=True)}
        self.paths = dict(documents.select("doc_id", "path").iter_rows())
        self.titles = dict(documents.select("doc_id", "title").iter_rows())
        self._starts = dict(documents.select("path", "pages").iter_rows()) if "pages" in documents.columns else {}
        self._content = sum(not row["boilerplate"] for row in self.chunks.values())
        self.path_of_chunk = {name: self.paths.get(row["doc_id"], "") for name, row in self.chunks.items()}
        self._by_path: dict[str, list[Row]] = {}
        for name, row in self.chunks.items():
            self._by_path.setdefault(self.path_of_chunk[name], []).append(row)

    def usable(self, found: Sequence[str]) -> list[str]:
        """Return those of the chunks found that can be shown."""
        return [one for one in found if one in self.chunks and not self.chunks[one]["boilerplate"]]

    def sought(self, question: Row) -> tuple[list[list[str]], Grain]:
        """Return groups of chunks of each of which the answer needs one, and what retrieval is measured by.

        There is a group for each document that is named, or one. Its chunks are those that hold the answer, on the
        named pages or else in the whole document. Where none does, they are all of the page or the document, unless
        that is the whole corpus, which any search would find. So they are where documents are compared: the answer is
        the name of one of them, and tells nothing of where it is from.
        """
        if unanswerable(question):
            return [], "chunk"
        places = question.get("places") or [{"document": question["document"], "pages": None}]
        compared = len(places) > 1 and question["kind"] == "comparison"
        found: list[list[str]] = []
        grains: list[Grain] = []
        for place in places:
            chunks, grain = self._at(place, question)
            known = [] if compared else [name for name in relevant(question, chunks) if name in self.chunks]
            whole = [chunk["chunk_id"] for chunk in chunks if not chunk["boilerplate"] and place["document"]]
            found.append(known or (whole if len(whole) < self._content else []))
            grains.append("chunk" if known else grain)
        coarsest = max(grains, key=[*GRAINS].index)
        return (found, coarsest) if all(found) else ([], "chunk")

    def _at(self, place: Row, question: Row) -> tuple[list[Row], Grain]:
        """Return the chunks among which an answer is looked for, and what they are of.

        Of a page these are those of which a part stands on it; of one without text, those of its document.
        """
        if place["document"] is None:
            return self._candidates(question), "chunk"
        rows, starts = self._by_path.get(place["document"], []), self._starts.get(place["document"]) or []
        pages = set(place["pages"] or ())
        here = [row for row in rows if pages.intersection(range(row["page"] or 0, 1 + _last_page(row, starts)))]
        return (here, "page") if any(not row["boilerplate"] for row in here) else (rows, "document")

    def says_too(self, name: str, question: Row, known: Sequence[str]) -> bool:
        """Tell whether a chunk of whichever document answers a question, or repeats one of the chunks that bear it."""
        passage = self.passage(name)
        said = f"{passage.title}\n{passage.text}"
        if any(states_answer(said, answer, question["question"]) for answer in question["answers"]):
            return True
        return any(same_text(passage.text, self.chunks[one]["text"]) for one in known)

    def _candidates(self, question: Row) -> list[Row]:
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
