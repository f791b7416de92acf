"""How far the generated questions are from those that people ask: words taken from the source, first words, lengths."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import polars as pl

from raft.kinds import traits
from raft.rag.format import is_no_answer
from raft.text import embedded_text, normalise, overlap, word_count

_READ = ("chunk_id", "doc_id", "heading", "text", "boilerplate")
_FIRST = 5
_OWN = 300
"""Most of the user's own questions whose source is looked for."""
_LONG = 3
"""Characters from which an answer is looked for in a chunk: a shorter one stands everywhere."""


def likeness(
    kept: pl.DataFrame, own: pl.DataFrame | None, chunks: Iterable[pl.DataFrame], paths: Mapping[str, str]
) -> dict[str, Any]:
    """Return figures of the kept questions, as "generated", and of the user's own, as "own", where there are some.

    Of each: `questions` (how many); `begin`, the commonest first words with their share of all (0 to 1); `words`, the
    lower quartile, the median and the upper quartile of lengths in words; and of those whose source is known,
    `overlap`: `of` how many, the `mean` share (0 to 1) of a question's content words whose stems stand in its golden
    chunk or the headings above it, and the share of questions that have them `all` there.

    The golden chunk of an own question is, of the chunks that hold one of its answers word for word (those of its
    document, where it names one), the one with most of its words. `kept` has columns of `tables.CLEANED` and `own` of
    `tables.EVALUATION`; `chunks` are frames with chunk_id, doc_id, heading, text and boilerplate; `paths` are those of
    the documents by doc_id.
    """
    golden = dict.fromkeys((name for names in kept["golden_chunk_ids"] for name in names), "")
    asked = {} if own is None else _sought(own)
    best: dict[str, float] = {}
    for frame in chunks:
        for name, doc_id, heading, text, boilerplate in frame.select(_READ).iter_rows():
            whole = embedded_text(heading, text)
            if name in golden:
                golden[name] = whole
            plain = f" {normalise(text)} " if asked and not boilerplate else ""
            for word in asked.keys() & plain.split():
                for row, answer in asked[word]:
                    if row["document"] in (None, paths.get(doc_id)) and answer in plain:
                        share = overlap(row["question"], whole)
                        best[row["question_id"]] = max(best.get(row["question_id"], 0.0), share)
    shares = [
        overlap(row["question"], "\n".join(golden[name] for name in row["golden_chunk_ids"]))
        for row in kept.iter_rows(named=True)
        if row["golden_chunk_ids"] and traits(row["kind"]).answered
    ]
    found = {"generated": _figures(kept["question"].to_list(), shares)}
    return found if own is None else {**found, "own": _figures(own["question"].to_list(), [*best.values()])}


def _sought(own: pl.DataFrame) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Return own questions with each answer as it is looked for, by its longest word: where that is, it may be.

    Where there are many they are evenly spread.
    """
    rows = own.to_dicts()
    chosen = (rows[place * len(rows) // min(_OWN, len(rows))] for place in range(min(_OWN, len(rows))))
    found = defaultdict[str, list[tuple[dict[str, Any], str]]](list)
    for row in chosen:
        for answer in row["answers"]:
            plain = normalise(answer)
            if plain and len(answer) >= _LONG and not is_no_answer(answer):
                found[max(plain.split(), key=len)].append((row, f" {plain} "))
    return found


def _figures(questions: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
    count = max(1, len(questions))
    begun = Counter(normalise(question).partition(" ")[0] for question in questions)
    first = sorted(begun.items(), key=lambda one: (-one[1], one[0]))[:_FIRST]
    lengths = sorted(map(word_count, questions))
    low, high = (quantiles(lengths, n=4, method="inclusive")[::2]) if len(lengths) > 1 else (lengths or [0]) * 2
    found: dict[str, Any] = {
        "questions": len(questions),
        "begin": {word: round(times / count, 3) for word, times in first},
        "words": [round(low, 1), median(lengths or [0]), round(high, 1)],
    }
    if shares:
        found["overlap"] = {"of": len(shares), **repeated(shares)}
    return found


def repeated(shares: Sequence[float]) -> dict[str, float]:
    """Return of the shares (0 to 1) of questions' words that stand in their chunks the `mean`, and how many are 1."""
    whole = sum(share == 1.0 for share in shares) / len(shares)
    return {"mean": round(sum(shares) / len(shares), 3), "all": round(whole, 3)}
