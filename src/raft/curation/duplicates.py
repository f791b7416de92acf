"""Which questions say the same, and which of these stays: duplicates, and several wordings of one question."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from raft.curation.decisions import HUMAN
from raft.kinds import traits
from raft.protocols import Embedder
from raft.similarity import (
    BLOCK,
    NearIndex,
    cosine_blocks,
    same_answer,
    same_marks,
    set_apart,
    turned_round,
)
from raft.text import content_words, normalise, overlap
from raft.text.values import rough_values

DUPLICATE, OTHER_WORDING = "duplicate", "other wording"
REWORDED = "reword@"
"""What the `prompt` of a question begins with that was worded anew; it ends in the question_id of the one before."""
WORDINGS = 2
"""Raised when another wording stays."""
_TASK = re.compile(r"@[0-9a-f]{12} of ([0-9a-f]{12})\Z")
Row = dict[str, Any]


def one_wording(
    rows: list[Row], chunk: Callable[[Row], str], *, approved: Container[str] = (), rejected: Container[str] = ()
) -> None:
    """Drop, of the kept wordings of one question, all but the best one; the others get the reason "other wording".

    Wordings of one question came of one task that was asked several times (`questions.candidates`), or were reworded
    from one of these; what two tasks brought are two questions, whatever their answers. The best is one that a person
    wrote or `approved` (question_ids), which is never dropped here, then one that was reworded, then that which repeats
    least of its golden chunks: `chunk` returns a row's headings and texts. What people `rejected` counts for none.
    """
    origins = {row["question_id"]: row for row in rows}
    groups: dict[str, list[Row]] = {}

    def judged(row: Row) -> bool:
        return row["model"] == HUMAN or row["question_id"] in approved

    for row in rows:
        first = origins.get(origin(row) or "", row)
        if first["reason"] is not None and row["reason"] is None:  # what holds of an answer, however it is asked for
            row["reason"] = first["reason"]
        if row["reason"] is None and row["question_id"] not in rejected:
            groups.setdefault(_task(first), []).append(row)
    for group in groups.values():
        best, *others = sorted(
            group,
            key=lambda row: (
                not judged(row),
                origin(row) is None,
                round(overlap(row["question"], chunk(row)), 4),
                _worth(row),
            ),
        )
        for row in others:
            if not judged(row):
                row["reason"], row["duplicate_of"] = OTHER_WORDING, best["question_id"]


def stand_ins(rows: Iterable[Row]) -> dict[str, str]:
    """Return of each other wording, by its question_id, that of the row which is kept in its place."""
    known = {row["question_id"]: row for row in rows}
    found: dict[str, str] = {}
    for name, row in known.items():
        best = row
        while best["reason"] in (OTHER_WORDING, DUPLICATE) and best["duplicate_of"] in known:
            best = known[best["duplicate_of"]]
        if row["reason"] == OTHER_WORDING and best["reason"] is None:
            found[name] = best["question_id"]
    return found


def origin(row: Mapping[str, Any]) -> str | None:
    """Return the question_id of what a question was reworded from, or None where it was not."""
    prompt = row["prompt"] or ""
    return prompt.rpartition(" ")[2] if prompt.startswith(REWORDED) else None


def _task(row: Row) -> str:
    """Name what was asked for a row, of rows that came of one task alike; a row of none is its own."""
    found = _TASK.search(row["prompt"] or "")
    return f"task {found[1]}" if found else str(row["question_id"])


def drop_duplicates(rows: list[Row], *, embedder: Embedder, similarity: float) -> None:
    """Drop each row that says the same as a better one that is kept, best rows first.

    `scores.similarity` of what is dropped is its cosine with the kept one, and null where both have the same words.
    """
    first: dict[str, Row] = {}
    for row in sorted(rows, key=_worth):
        first.setdefault(normalise(row["question"]), row)
    distinct = list(first.values())
    if distinct:
        vectors = embedder.embed([row["question"] for row in distinct])
        same = _same(distinct, vectors, similarity)
        better = {text: distinct[same.get(number, number)] for number, text in enumerate(first)}
        for number, other in same.items():
            cosine = np.einsum("i,i", vectors[number].astype(float), vectors[other].astype(float))
            distinct[number]["scores"]["similarity"] = round(float(cosine), 4)
        for row in rows:
            kept = better[normalise(row["question"])]
            if row is not kept:
                row["reason"], row["duplicate_of"] = DUPLICATE, kept["question_id"]


def _worth(row: Row) -> tuple[Any, ...]:
    """Sort the better question first: a person's, untouched quotes, more to be understood by, found sooner; by id."""
    rank = row["scores"]["golden_rank"]
    specific = len(content_words(row["question"]))
    told = (row["model"] != HUMAN, row["original_quotes"] is not None, -specific)
    return (*told, rank is None, rank or 0, row["question_id"])


def _same(rows: list[Row], vectors: np.ndarray, similarity: float) -> dict[int, int]:
    """Return, for each row that says the same as an earlier row that is kept, that row's number."""
    same: dict[int, int] = {}
    kept: list[int] = []
    lexical = NearIndex(row["question"] for row in rows)
    alike = _Alike(rows, vectors, similarity)
    for start in range(0, len(rows), BLOCK):
        block = range(start, min(start + BLOCK, len(rows)))
        candidates = alike.pairs(block)
        for number in block:
            near = (kept[place] for place in lexical.find(rows[number]["question"]))
            meant = (one for one in candidates.get(number, ()) if one not in same and alike.confirmed(number, one))
            match = next(chain(near, meant), None)
            if match is None:
                kept.append(number)
                lexical.add(rows[number]["question"])
                alike.keep(number)
            else:
                same[number] = match
    return same


class _Alike:
    """Rows that mean the same: a cosine of at least `similarity`, the same marks, and one answer or one source."""

    def __init__(self, rows: list[Row], vectors: np.ndarray, similarity: float) -> None:
        self.rows, self.vectors, self.similarity = rows, vectors, similarity
        facts = _codes(rough_values(row["question"]) for row in rows)
        answers = _codes(  # "yes" to two questions does not make them one
            number if traits(row["kind"]).fixed else normalise(row["answer"]) for number, row in enumerate(rows)
        )
        sources = _codes(tuple(sorted(row["golden_chunk_ids"] or row["doc_ids"])) for row in rows)
        self._groups = _codes(zip(facts, answers, strict=True)), _codes(zip(facts, sources, strict=True))
        self._kept: tuple[dict[int, list[int]], ...] = ({}, {})  # by group

    def keep(self, number: int) -> None:
        """Note that a row is kept; of the others those of later blocks are compared with it."""
        for groups, kept in zip(self._groups, self._kept, strict=True):
            kept.setdefault(groups[number], []).append(number)

    def pairs(self, block: Sequence[int]) -> dict[int, list[int]]:
        """Return for each row of the next block the earlier ones, in it or kept, that may mean the same, in order.

        Only rows with the facts and the answer, or the facts and the source, of one another are compared as vectors.
        """
        found: dict[int, set[int]] = {}
        for groups, kept in zip(self._groups, self._kept, strict=True):
            together: dict[int, list[int]] = {}
            for number in block:
                together.setdefault(groups[number], []).append(number)
            for group, mine in together.items():
                one, two = np.array(mine), np.array([*kept.get(group, ()), *mine])
                if len(two) == 1:
                    continue
                for left, right in cosine_blocks(self.vectors[one], self.vectors[two], self.similarity):
                    for number, other in zip(one[left].tolist(), two[right].tolist(), strict=True):
                        if other < number:
                            found.setdefault(number, set()).add(other)
        return {number: sorted(others) for number, others in found.items()}

    def confirmed(self, number: int, other: int) -> bool:
        """Tell whether two rows that may mean the same do, by their names and answers."""
        one, two = self.rows[number], self.rows[other]
        asked = one["question"], two["question"]
        apart = turned_round(*asked) or set_apart(*asked)
        return not apart and same_marks(*asked) and same_answer(one["answer"], two["answer"])


def _codes(values: Iterable[Any]) -> list[int]:
    seen: dict[Any, int] = {}
    return [seen.setdefault(value, len(seen)) for value in values]
