"""What is known of a whole corpus before the first question: sizes, and what several documents say alike.

A survey reads every chunk, and is kept in the run directory, so that estimating and asking share it and a build that
goes on does not repeat it. It finds out no more than the questions to come look at.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import polars as pl

from raft.asks import stems
from raft.kinds import KINDS
from raft.targets import Opening, Target, statements, targets

Chunk = dict[str, Any]
COLUMNS = ("chunk_id", "doc_id", "heading", "text", "tokens", "boilerplate")
"""What a survey reads of chunks."""
COMPARED = tuple(kind for kind, its in KINDS.items() if its.compared)
_NOTICE = 3
"""A statement that so many documents make word for word is a notice, not knowledge of one of them."""


@dataclass
class Survey:
    """What is known of the whole corpus before the first question; what `needed` does not name is empty.

    Attributes:
        sizes: tokens of content by doc_id, of the documents that are asked about.
        chunks: how many chunks have content.
        alike: patterns of statements that several documents make with other facts.
        notices: digests of statements that several documents make word for word.
        pairs: by (chunk_id, start, answer) of a target, the chunk and target of another document to compare it with.
        vocabulary: stems of all words.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    alike: frozenset[str] = frozenset()
    notices: frozenset[str] = frozenset()
    pairs: dict[tuple[str, int, str], tuple[Chunk, Target]] = field(default_factory=dict)
    vocabulary: set[str] = field(default_factory=set)

    @cached_property
    def paired(self) -> frozenset[str]:
        """Return the chunk_ids of the targets in `pairs`."""
        return frozenset(chunk_id for chunk_id, _, _ in self.pairs)


def needed(way: str, kinds: Sequence[str]) -> frozenset[str]:
    """Return what of a survey, beside the sizes, is looked at when questions of these kinds are asked in this way."""
    if way == "spans":
        return frozenset({"notices"})
    if way == "answer_first":
        return frozenset({"notices", "alike"}).union(*(KINDS[kind].needs for kind in kinds))
    return frozenset().union(*(KINDS[kind].needs for kind in kinds if not KINDS[kind].meaning))


def survey(frames: Iterable[pl.DataFrame], openings: Sequence[Opening], needs: Set[str]) -> Survey:
    """Read all chunks once and return what has to be known of them together.

    Args:
        frames: frames with `COLUMNS`, of the documents that are asked about.
        openings: how questions begin; what none of them fits is no target.
        needs: what `needed` returned.
    """
    found = Survey()
    by_pattern: dict[str, set[str]] = {}
    by_wording: dict[str, set[str]] = {}
    first: dict[tuple[str, str], tuple[Chunk, Target]] = {}
    for doc, rows in documents(frames):
        found.sizes[doc] = sum(row["tokens"] for row in rows)
        found.chunks += len(rows)
        for row in rows:
            if "vocabulary" in needs:
                found.vocabulary |= stems(row["text"])
            stated = list(statements(row["text"])) if needs & {"alike", "notices", "pairs"} else []
            if "notices" in needs:
                for statement in stated:
                    by_wording.setdefault(digest(statement.wording), set()).add(doc)
            if needs.isdisjoint({"alike", "pairs"}):
                continue
            for target in targets(row["text"], openings, COMPARED, stated=stated):
                if "alike" in needs:
                    by_pattern.setdefault(target.pattern, set()).add(doc)
                if "pairs" not in needs:
                    continue
                partner = first.setdefault((target.pattern, target.opening), (row, target))
                if partner[0]["doc_id"] != doc and partner[1].answer != target.answer:
                    found.pairs.setdefault((row["chunk_id"], target.start, target.answer), partner)
    found.alike = frozenset(pattern for pattern, where in by_pattern.items() if len(where) > 1)
    found.notices = frozenset(wording for wording, where in by_wording.items() if len(where) >= _NOTICE)
    return found


def documents(frames: Iterable[pl.DataFrame]) -> Iterator[tuple[str, list[Chunk]]]:
    """Yield each document's chunks that are no boilerplate."""
    rows = (row for frame in frames for row in frame.filter(~pl.col("boilerplate")).iter_rows(named=True))
    for doc, group in groupby(rows, key=lambda row: row["doc_id"]):
        yield doc, list(group)


def is_notice(wording: str, known: Survey) -> bool:
    """Tell whether several documents make a statement word for word, so that it is no knowledge of one of them."""
    return digest(wording) in known.notices


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_json(known: Survey) -> str:
    """Return a survey as JSON, the same for equal surveys; the partner of many pairs is written once."""
    places: dict[tuple[str, Target], int] = {}
    compared: dict[str, Chunk] = {}
    pairs = []
    for key, (chunk, target) in sorted(known.pairs.items(), key=lambda pair: pair[0]):
        compared[chunk["chunk_id"]] = chunk
        pairs.append([*key, places.setdefault((chunk["chunk_id"], target), len(places))])
    whole = {
        "sizes": known.sizes,
        "chunks": known.chunks,
        "alike": sorted(known.alike),
        "notices": sorted(known.notices),
        "vocabulary": sorted(known.vocabulary),
        "compared": compared,
        "partners": [[chunk_id, vars(target)] for chunk_id, target in places],
        "pairs": pairs,
    }
    return json.dumps(whole, ensure_ascii=False, sort_keys=True) + "\n"


def from_json(text: str | bytes) -> Survey:
    """Return the survey that `to_json` wrote."""
    whole = json.loads(text)
    partners = [(whole["compared"][name], Target(**target)) for name, target in whole["partners"]]
    return Survey(
        sizes=whole["sizes"],
        chunks=whole["chunks"],
        alike=frozenset(whole["alike"]),
        notices=frozenset(whole["notices"]),
        pairs={(chunk_id, start, answer): partners[place] for chunk_id, start, answer, place in whole["pairs"]},
        vocabulary=set(whole["vocabulary"]),
    )
