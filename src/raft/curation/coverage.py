"""How much of a corpus the kept questions are about, and which of them to keep for the most of it."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from math import log
from typing import Any

import polars as pl

from raft.curation.decisions import HUMAN
from raft.curation.wording import Likeness
from raft.text import draw, normalise, sentences

NOT_CHOSEN = "not chosen"
COVERED = ("chunk_id", "doc_id", "heading", "text", "boilerplate")
_FIRST = 5
_STATES = re.compile(r"(?!#|\W*\d+[.)](?:\s\D*)?\Z)\D*\d")  # a digit that does not merely number the line
Row = Mapping[str, Any]


def choose(
    cleaned: pl.DataFrame,
    headings: Mapping[str, str],
    keep: int,
    *,
    seed: int,
    first: Container[str] = (),
    like: Sequence[str] = (),
) -> pl.DataFrame:
    """Return all rows of `tables.CLEANED`; of the kept ones all but `keep` get the reason "not chosen".

    The chosen are what a greedy choice takes that prefers documents with the fewest chosen questions, in one of those
    the section with the fewest, and there the kind with the fewest; ties by a hash of (seed, question_id). What is
    chosen does not depend on the rows' order, and a larger `keep` only adds to it. `headings` are by chunk_id; `first`
    are the ids of rows that people approved, which come before all others, as pairs of the user's own do.

    Where there are examples of how people ask (`like`), ties are broken so that first words and lengths follow theirs
    (weighted sampling without replacement by Efraimidis and Spirakis, 2006): what is chosen then depends on all rows.
    """
    kept = [row for row in cleaned.iter_rows(named=True) if row["reason"] is None]
    ranks: dict[str, Any] = {row["question_id"]: _tie(seed, row["question_id"]) for row in kept}
    if like and kept:
        alike = Likeness(like, [row["question"] for row in kept])
        for row in kept:
            drawn = max(draw(f"keep:{seed}:{row['question_id']}"), 16.0**-16)  # never 0
            ranks[row["question_id"]] = (-log(drawn) / alike.weight(row["question"]), row["question_id"])
    parts: tuple[Callable[[Row], Any], ...] = (
        lambda row: (row["doc_ids"], _section(row, headings), row["kind"]),
        lambda row: (row["doc_ids"], _section(row, headings)),
        lambda row: row["doc_ids"],
        lambda row: None,
    )
    order = sorted(kept, key=lambda row: ranks[row["question_id"]])
    for part in parts:  # the first of each kind, section or document come before all second ones
        seen: Counter[str] = Counter()
        places = {}
        for row in order:
            places[row["question_id"]] = seen[name := repr(part(row))]
            seen[name] += 1
        order = sorted(order, key=lambda row: (places[row["question_id"]], ranks[row["question_id"]]))
    order = sorted(order, key=lambda row: row["question_id"] not in first and row["model"] != HUMAN)
    left = [row["question_id"] for row in order[keep:]]
    reason = pl.when(pl.col("question_id").is_in(left)).then(pl.lit(NOT_CHOSEN)).otherwise(pl.col("reason"))
    return cleaned.with_columns(reason=reason)


def coverage(cleaned: pl.DataFrame, chunks: Iterable[pl.DataFrame]) -> dict[str, Any]:
    """Return how many documents, sections and facts have a kept question, of how many; and how these begin.

    `chunks` are frames with the columns `COVERED`; a section is what stands under one heading, a fact a sentence with
    a figure, a date or a code (one that chunks of a document share is one), and has a question that quotes it.
    """
    kept = cleaned.filter(pl.col("reason").is_null())
    golden = set(kept["golden_chunk_ids"].explode().drop_nulls())
    quoted: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for quote in kept["quotes"].explode().drop_nulls():
        quoted[quote["chunk_id"]].append((quote["start"], quote["end"]))
    places: dict[str, list[set[Any]]] = {part: [set(), set()] for part in ("documents", "sections", "facts")}
    for frame in chunks:
        for chunk_id, doc, heading, text in frame.filter(~pl.col("boilerplate")).select(COVERED[:4]).iter_rows():
            for part, place in (("documents", doc), ("sections", (doc, heading))):
                places[part][1].add(place)
                if chunk_id in golden:
                    places[part][0].add(place)
            for start, end in sentences(text):
                if _STATES.match(sentence := text[start:end]):
                    fact = (doc, hash(sentence))
                    places["facts"][1].add(fact)
                    if any(first < end and start < last for first, last in quoted.get(chunk_id, ())):
                        places["facts"][0].add(fact)
    begun = Counter(normalise(question).partition(" ")[0] for question in kept["question"])
    return {
        **{part: [len(one) for one in sets] for part, sets in places.items()},
        "kinds": dict(sorted(Counter(kept["kind"]).items())),
        "begin": dict(sorted(begun.items(), key=lambda one: (-one[1], one[0]))[:_FIRST]),
    }


def _tie(seed: int, name: str) -> str:
    return hashlib.sha256(f"keep:{seed}:{name}".encode()).hexdigest()


def _section(row: Row, headings: Mapping[str, str]) -> list[str]:
    return [headings.get(chunk_id) or "" for chunk_id in row["golden_chunk_ids"]]
