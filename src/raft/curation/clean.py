"""Cleaning: the questions with a reason for each that is dropped. Rows in equals rows out; nothing is deleted.

In this order: a question is judged by itself (`raft.rules`), by whether its golden chunk is found again (round
trip), by a model if there is one, and last against the other questions. Duplicates come last so that the one which
is kept for the others can never be dropped itself.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from raft.curation import filters
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Completion, Embedder, Generator, Request, Retriever
from raft.similarity import BLOCK, NearIndex, cosine_blocks, holds_text, nearest, same_answer, same_marks, turned_round
from raft.store import tables
from raft.text import content_words, normalise
from raft.text.values import rough_values

ROUND_TRIP, JUDGED, DUPLICATE = "round trip", "judged poor", "duplicate"
JUDGE_TOKENS = 64
JUDGE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"mark": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mark"],
    "additionalProperties": False,
}
_BATCH = 256
Row = dict[str, Any]


def clean(
    questions: pl.DataFrame,
    chunks: pl.DataFrame,
    *,
    retriever: Retriever,
    embedder: Embedder,
    held_out: frozenset[str],
    min_words: int,
    max_words: int,
    max_answer_words: int,
    similarity: float,
    round_trip_k: int,
    judge: Generator | None,
    judge_prompt: Prompt | None,
    judge_minimum: float,
) -> pl.DataFrame:
    """Return all questions, in their order, each with the reason why it is dropped, or none.

    Args:
        questions: a frame of `tables.QUESTIONS`.
        chunks: a frame of `tables.CHUNKS` with at least the golden ones.
        retriever: finds the golden chunks again.
        embedder: compares questions by meaning.
        held_out: doc_ids whose questions no rule that asks the retriever may drop.
        min_words: fewest words in a question.
        max_words: most words in a question.
        max_answer_words: most words in an answer.
        similarity: cosine (0 to 1) from which two questions with one answer or one source are duplicates.
        round_trip_k: the golden chunks must be among so many results; few enough that it means something, say at most
            a third of all chunks.
        judge: marks the questions with `judge_prompt`; None: no marks.
        judge_prompt: a prompt with $question, $answer and $passage; None: no marks.
        judge_minimum: lowest mark (0 to 1) that is kept; a question whose mark cannot be had is kept.

    Returns:
        A frame of `tables.CLEANED` whose `split` is null. A quote that nearly stands in its chunk is replaced by the
        words that do, and `original_quotes` then holds what came.
    """
    texts = {row["chunk_id"]: row for row in chunks.select("chunk_id", "heading", "text").iter_rows(named=True)}
    limits = {"min_words": min_words, "max_words": max_words, "max_answer_words": max_answer_words}
    rows = [_judged(row, texts, limits) for row in questions.iter_rows(named=True)]
    _round_trip(_kept(rows), texts, retriever=retriever, k=round_trip_k, held_out=held_out)
    if judge is not None and judge_prompt is not None:
        _mark(_kept(rows), texts, judge=judge, prompt=judge_prompt, minimum=judge_minimum)
    _deduplicate(_kept(rows), embedder=embedder, similarity=similarity)
    return tables.frame(tables.CLEANED, rows)


def _kept(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["reason"] is None]


def _judged(row: Row, texts: Mapping[str, Row], limits: Mapping[str, int]) -> Row:
    golden = [texts[chunk_id] for chunk_id in row["golden_chunk_ids"] if chunk_id in texts]
    aligned = filters.align_quotes(row["quotes"], {chunk["chunk_id"]: chunk["text"] for chunk in golden})
    candidate = filters.Candidate(
        kind=row["kind"],
        question=row["question"] or "",
        answer=row["answer"] or "",
        quotes=bool(aligned),
        golden=tuple(_passage(chunk) for chunk in golden),
        **limits,
    )
    changed = aligned is not None and aligned != row["quotes"]
    return {
        **row,
        "quotes": aligned if changed else row["quotes"],
        "original_quotes": row["quotes"] if changed else None,
        "reason": filters.judge(candidate),
        "scores": {"golden_rank": None, "similarity": None, "judge": None},
    }


def _passage(chunk: Row) -> str:
    return f"{chunk['heading']}\n{chunk['text']}" if chunk["heading"] else str(chunk["text"])


def _round_trip(
    rows: list[Row], texts: Mapping[str, Row], *, retriever: Retriever, k: int, held_out: frozenset[str]
) -> None:
    """Drop each row one of whose golden chunks is not found again; `scores.golden_rank` is the last one's rank."""
    asked = [row for row in rows if traits(row["kind"]).answered and held_out.isdisjoint(row["doc_ids"])]
    for batch in (asked[start : start + _BATCH] for start in range(0, len(asked), _BATCH)):
        most = max(max(k, len(row["golden_chunk_ids"])) for row in batch)
        hits = retriever.search([row["question"] for row in batch], most).sort("query", "rank")
        found: list[dict[str, str]] = [{} for _ in batch]
        for query, chunk_id, text in hits.select("query", "chunk_id", "text").iter_rows():
            found[query][chunk_id] = text
        for row, results in zip(batch, found, strict=True):
            golden = row["golden_chunk_ids"]
            ranks = [_rank(texts[name], results) for name in golden if name in texts]
            worst = max((rank or most + 1 for rank in ranks), default=most + 1)
            row["scores"]["golden_rank"] = worst if worst <= max(k, len(golden)) else None
            if row["scores"]["golden_rank"] is None:
                row["reason"] = ROUND_TRIP


def _rank(golden: Row, results: Mapping[str, str]) -> int | None:
    """Return the rank of the golden chunk, or of the first chunk that repeats it, among texts by chunk_id."""
    found = [*results]
    if golden["chunk_id"] in results:
        return found.index(golden["chunk_id"]) + 1
    return next((rank for rank, name in enumerate(found, 1) if holds_text(results[name], golden["text"])), None)


def _mark(rows: list[Row], texts: Mapping[str, Row], *, judge: Generator, prompt: Prompt, minimum: float) -> None:
    asked = [row for row in rows if traits(row["kind"]).answered]
    outcomes = judge.complete(_requests(asked, texts, prompt))
    for row, outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, Completion):
            row["scores"]["judge"] = mark = read_mark(outcome.text)
            row["reason"] = JUDGED if mark < minimum else None


def _requests(rows: Iterable[Row], texts: Mapping[str, Row], prompt: Prompt) -> Iterator[Request]:
    for row in rows:
        passage = "\n\n".join(_passage(texts[chunk_id]) for chunk_id in row["golden_chunk_ids"] if chunk_id in texts)
        chat = prompt.render(question=row["question"], answer=row["answer"], passage=passage)
        yield Request(chat, max_tokens=JUDGE_TOKENS, schema=JUDGE_SCHEMA, check=read_mark)


def read_mark(reply: str) -> float:
    """Return the mark in a judge's reply, `{"mark": 1}` to `{"mark": 5}`, as a number from 0 to 1.

    Raises:
        ValueError: the reply holds no such mark.
    """
    match = re.search(r"\{[^{}]*\}", reply)
    mark = json.loads(match.group()).get("mark") if match else None
    if isinstance(mark, bool) or not isinstance(mark, (int, float)) or not 1 <= mark <= 5:
        raise ValueError('the reply is not {"mark": 1 to 5}')
    return (mark - 1) / 4


def _deduplicate(rows: list[Row], *, embedder: Embedder, similarity: float) -> None:
    """Drop each row that says the same as a better one that is kept, best rows first."""
    first: dict[str, Row] = {}
    for row in sorted(rows, key=_worth):
        first.setdefault(normalise(row["question"]), row)
    distinct = list(first.values())
    if distinct:
        vectors = embedder.embed([row["question"] for row in distinct])
        same = _same(distinct, vectors, similarity)
        better = {text: distinct[same.get(number, number)] for number, text in enumerate(first)}
        _measure(distinct, vectors, [number for number in range(len(distinct)) if number not in same])
        for row in rows:
            kept = better[normalise(row["question"])]
            if row is not kept:
                row["reason"], row["duplicate_of"] = DUPLICATE, kept["question_id"]


def _worth(row: Row) -> tuple[Any, ...]:
    """Sort the better question first: untouched quotes, more to be understood by, found sooner; then by id."""
    rank = row["scores"]["golden_rank"]
    specific = len(content_words(row["question"]))
    return (row["original_quotes"] is not None, -specific, rank is None, rank or 0, row["question_id"])


def _same(rows: list[Row], vectors: np.ndarray, similarity: float) -> dict[int, int]:
    """Return, for each row that says the same as an earlier row that is kept, that row's number."""
    same: dict[int, int] = {}
    kept: list[int] = []
    lexical = NearIndex(row["question"] for row in rows)
    alike = _Alike(rows, vectors, similarity)
    for start in range(0, len(rows), BLOCK):
        block = range(start, min(start + BLOCK, len(rows)))
        candidates = alike.pairs([*block], [*kept, *block])
        for number in block:
            near = (kept[place] for place in lexical.find(rows[number]["question"]))
            meant = (one for one in candidates.get(number, ()) if one not in same and alike.confirmed(number, one))
            match = next(chain(near, meant), None)
            if match is None:
                kept.append(number)
                lexical.add(rows[number]["question"])
            else:
                same[number] = match
    return same


class _Alike:
    """Rows that mean the same: a cosine of at least `similarity`, the same marks, and one answer or one source."""

    def __init__(self, rows: list[Row], vectors: np.ndarray, similarity: float) -> None:
        self.rows, self.vectors, self.similarity = rows, vectors, similarity
        self.facts = _codes(rough_values(row["question"]) for row in rows)
        self.answers = _codes(  # "yes" to two questions does not make them one
            number if traits(row["kind"]).fixed else normalise(row["answer"]) for number, row in enumerate(rows)
        )
        self.sources = _codes(tuple(sorted(row["golden_chunk_ids"] or row["doc_ids"])) for row in rows)

    def pairs(self, block: list[int], others: list[int]) -> dict[int, list[int]]:
        """Return for each row of the block the earlier ones among the others that may mean the same."""
        found: dict[int, list[int]] = {}
        one, two = np.array(block), np.array(others)
        for left, right in cosine_blocks(self.vectors[one], self.vectors[two], self.similarity):
            mine, theirs = one[left], two[right]
            fits = (theirs < mine) & (self.facts[mine] == self.facts[theirs])
            fits &= (self.answers[mine] == self.answers[theirs]) | (self.sources[mine] == self.sources[theirs])
            for number, other in zip(mine[fits].tolist(), theirs[fits].tolist(), strict=True):
                found.setdefault(number, []).append(other)
        return found

    def confirmed(self, number: int, other: int) -> bool:
        """Tell whether two rows that may mean the same do, by their names and answers."""
        one, two = self.rows[number], self.rows[other]
        asked = one["question"], two["question"]
        return same_marks(*asked) and not turned_round(*asked) and same_answer(one["answer"], two["answer"])


def _measure(rows: list[Row], vectors: np.ndarray, kept: list[int]) -> None:
    """Note each row's cosine to the nearest kept row other than itself."""
    columns = {number: column for column, number in enumerate(kept)}
    own = [columns.get(number, -1) for number in range(len(rows))]
    for row, cosine in zip(rows, nearest(vectors, vectors[kept], own=own).tolist(), strict=True):
        row["scores"]["similarity"] = None if np.isnan(cosine) else round(cosine, 4)


def _codes(values: Iterable[Any]) -> np.ndarray:
    """Number equal values alike, so that blocks of them can be compared at once."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)
