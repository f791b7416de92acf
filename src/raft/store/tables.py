"""One polars schema per artifact, checked on write and on read.

Each artifact of a run directory is a table whose columns, order and types stand here and nowhere else. Stages build
their frames with `frame`, and `Run` refuses to store or to hand out one that differs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from raft.errors import DamagedArtifact


def _schema(columns: dict[str, Any]) -> pl.Schema:
    return pl.Schema(columns)


QUOTE = pl.Struct({"chunk_id": pl.String, "start": pl.Int64, "end": pl.Int64, "text": pl.String})
"""A quote: `text` stands verbatim in the chunk, at characters `start` to `end` of the chunk's text."""

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
SCORES = pl.Struct({"golden_rank": pl.Int64, "similarity": pl.Float64, "judge": pl.Float64})
"""What cleaning measured: the golden chunk's rank (1 is best; null = not among the results or not asked),
the cosine to the nearest kept question, the judge's mark from 0 to 1."""

DOCUMENTS = _schema(
    {
        "doc_id": pl.String,
        "path": pl.String,
        "title": pl.String,
        "format": pl.String,
        "sha256": pl.String,
        "characters": pl.Int64,
        "text": pl.String,
        "pages": pl.List(pl.Int64),
        "error": pl.String,
    }
)
"""`sha256` is the file's; `pages` the offset in `text` at which each page starts (empty when it has no pages);
`error` says why a file could not be read (null when it was, and then `text` is not empty)."""

CHUNKS = _schema(
    {
        "chunk_id": pl.String,
        "doc_id": pl.String,
        "position": pl.Int64,
        "start": pl.Int64,
        "end": pl.Int64,
        "page": pl.Int64,
        "heading": pl.String,
        "text": pl.String,
        "tokens": pl.Int64,
        "boilerplate": pl.Boolean,
        "document_sha256": pl.String,
    }
)
"""`text` is the document's `text[start:end]`; `heading` the path of headings above it ("Title > Section");
`tokens` counts heading and text with the embedder's tokenizer; `document_sha256` names the text it was cut from."""

QUESTIONS = _schema(
    {
        "question_id": pl.String,
        "kind": pl.String,
        "question": pl.String,
        "answer": pl.String,
        "quotes": pl.List(QUOTE),
        "golden_chunk_ids": pl.List(pl.String),
        "doc_ids": pl.List(pl.String),
        "reasoning": pl.String,
        "model": pl.String,
        "prompt": pl.String,
    }
)

FAILURES = _schema(
    {
        "stage": pl.String,
        "item_id": pl.String,
        "kind": pl.String,
        "attempts": pl.Int64,
        "reply": pl.String,
        "message": pl.String,
    }
)
"""What the generator was asked for and did not deliver; `kind` is the field's word for the fault ("malformed",
"length", "refused", ...), `reply` the last text that came back."""

CLEANED = _schema(
    {
        **QUESTIONS,
        "reason": pl.String,
        "duplicate_of": pl.String,
        "scores": SCORES,
        "original_quotes": pl.List(QUOTE),
        "split": pl.String,
    }
)
"""All rows of questions; `reason` says why a row was dropped (null = kept); `split` is null where dropped."""

EXAMPLES = _schema(
    {
        "question_id": pl.String,
        "split": pl.String,
        "messages": pl.List(MESSAGE),
        "golden_chunk_ids": pl.List(pl.String),
        "golden_positions": pl.List(pl.Int64),
        "document_chunk_ids": pl.List(pl.String),
        "tokens": pl.Int64,
    }
)
"""`document_chunk_ids` in prompt order; `golden_positions` index into it (empty when the golden chunk is absent)."""

EVALUATION = _schema(
    {
        "question_id": pl.String,
        "question": pl.String,
        "answers": pl.List(pl.String),
        "document": pl.String,
        "golden_chunk_ids": pl.List(pl.String),
        "kind": pl.String,
        "split": pl.String,
    }
)
"""Questions to measure with, generated (`eval_seen`, `eval_unseen`) or a user's own (`user`)."""

HITS = _schema(
    {
        "query": pl.Int64,
        "rank": pl.Int64,
        "chunk_id": pl.String,
        "doc_id": pl.String,
        "score": pl.Float64,
        "text": pl.String,
    }
)
"""What a retriever brings: `query` is the position of the question asked, `rank` starts at 1."""

ANSWERS = _schema(
    {
        "arm": pl.String,
        "question_set": pl.String,
        "condition": pl.String,
        "question_id": pl.String,
        "retrieved": pl.List(pl.String),
        "shown": pl.List(pl.String),
        "raw": pl.String,
        "answer": pl.String,
        "quotes": pl.List(QUOTE),
        "quotes_given": pl.Int64,
        "abstained": pl.Boolean,
        "followed": pl.Boolean,
        "supported": pl.Boolean,
        "quotes_verbatim": pl.Boolean,
        "adapter": pl.String,
        "tokens": pl.Struct({"input": pl.Int64, "output": pl.Int64}),
        "cost": pl.Float64,
        "error": pl.String,
    }
)
"""What each arm of a benchmark said. `condition` is "answerable" or "withheld" (every chunk that bears the answer was
kept from the retriever); `retrieved` the chunk ids that search brought, best first, `shown` those in the prompt, in
its order; `quotes` those that stand verbatim in a shown chunk (offsets into its text), of `quotes_given` that the
reply had; `supported` and `quotes_verbatim` are null where there is nothing to check; `error` says why there is no
reply (then `raw` and `answer` are empty); `cost` in US dollars, null when the price is unknown."""

ARTIFACTS: Mapping[str, pl.Schema] = {
    "documents.parquet": DOCUMENTS,
    "chunks.parquet": CHUNKS,
    "questions.parquet": QUESTIONS,
    "failures.parquet": FAILURES,
    "cleaned.parquet": CLEANED,
    "examples.parquet": EXAMPLES,
    "eval.jsonl": EVALUATION,
    "answers.parquet": ANSWERS,
}


def frame(schema: pl.Schema, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Build a frame of `schema` from dictionaries; a missing key becomes null.

    Raises:
        polars.exceptions.PolarsError: a value has another type than its column.
    """
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def check(table: pl.DataFrame, schema: pl.Schema, *, where: object) -> pl.DataFrame:
    """Return `table` unchanged if its columns are those of `schema`, in order and type.

    Raises:
        DamagedArtifact: a column is missing, unknown, or of another type.
    """
    if table.schema == schema:
        return table
    problems = [f"no column {name}" for name in schema if name not in table.schema]
    problems += [f"unknown column {name}" for name in table.schema if name not in schema]
    problems += [
        f"column {name} is {table.schema[name]}, expected {kind}"
        for name, kind in schema.items()
        if name in table.schema and table.schema[name] != kind
    ]
    raise DamagedArtifact(
        "A table does not have the columns it should: " + "; ".join(problems or ["columns in another order"]) + ".",
        where=where,
        hint="delete the file and run the same raft command again: it is built anew",
    )
