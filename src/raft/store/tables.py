"""One polars schema per artifact: its columns, their order and types; `Run` stores and hands out none that differs."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from raft.errors import DamagedArtifact

QUOTE = pl.Struct({"chunk_id": pl.String, "start": pl.Int64, "end": pl.Int64, "text": pl.String})
"""A quote: `text` stands verbatim in the chunk, at characters `start` to `end` of the chunk's text."""

_TYPES: dict[str, Any] = {
    "text": pl.String,
    "texts": pl.List(pl.String),
    "number": pl.Int64,
    "numbers": pl.List(pl.Int64),
    "real": pl.Float64,
    "flag": pl.Boolean,
    "quotes": pl.List(QUOTE),
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "tokens": pl.Struct({"input": pl.Int64, "output": pl.Int64}),
    "scores": pl.Struct({"golden_rank": pl.Int64, "similarity": pl.Float64, "judge": pl.Float64}),
}


def _schema(columns: str) -> pl.Schema:
    """Return a schema from its columns in order, each `name:type`, or a name alone where it holds text."""
    pairs = [column.partition(":") for column in columns.split()]
    return pl.Schema({name: _TYPES[kind or "text"] for name, _, kind in pairs})


DOCUMENTS = _schema("doc_id path title format sha256 characters:number text pages:numbers error")
"""`sha256` is the file's; `pages` the offset in `text` at which each page starts (empty when it has no pages);
`error` says why a file could not be read (null when it was, and then `text` is not empty)."""

CHUNKS = _schema(
    "chunk_id doc_id position:number start:number end:number page:number heading text tokens:number boilerplate:flag"
    " document_sha256"
)
"""`text` is the document's `text[start:end]`; `heading` the path of headings above it ("Title > Section");
`tokens` counts heading and text with the embedder's tokenizer; `document_sha256` names the text it was cut from."""

READINGS = pl.List(pl.Struct({"asked": pl.String, "verdict": pl.Float64, "said": pl.String}))
"""What a model was asked about a question: what, its verdict from 0 (bad) to 1, and the words that it said."""

PLACES = pl.List(pl.Struct({"document": pl.String, "pages": pl.List(pl.Int64)}))
"""Documents that the answer to a question needs, all of them, each with the pages (1 is the first) one of which bears
it; no pages stand for the whole document."""

OPTIONAL: Mapping[str, Any] = {"readings": READINGS, "places": PLACES}
"""Columns that a table has only where something stands in them: tables of before, and of most builds, lack them."""

QUESTIONS = _schema(
    "question_id kind question answer quotes:quotes golden_chunk_ids:texts doc_ids:texts reasoning model prompt"
)

FAILURES = _schema("stage item_id kind attempts:number reply message")
"""What the generator was asked for and did not deliver; `kind` is the field's word for the fault ("malformed",
"length", "refused", ...), `reply` the last text that came back."""

CLEANED = pl.Schema({**QUESTIONS, **_schema("reason duplicate_of scores:scores original_quotes:quotes split")})
"""All rows of questions; `reason` says why a row was dropped (null = kept); `split` is null where dropped. `scores` are
the golden chunk's rank (1 is best; null = not among the results or not asked), the cosine to the nearest kept question,
and the judge's mark from 0 to 1. Where filters asked a model there is `readings` too."""

EXAMPLES = _schema(
    "question_id split messages:messages golden_chunk_ids:texts golden_positions:numbers document_chunk_ids:texts"
    " tokens:number"
)
"""`document_chunk_ids` in prompt order; `golden_positions` index into it (empty when the golden chunk is absent)."""

EVALUATION = _schema("question_id question answers:texts document golden_chunk_ids:texts kind split")
"""Questions to measure with, generated (`eval_seen`, `eval_unseen`) or a user's own (`user`). Where a user named a page
or several documents there is `places` too, and `document` is the first of them."""

HITS = _schema("query:number rank:number chunk_id doc_id score:real text")
"""What a retriever brings: `query` is the position of the question asked, `rank` starts at 1."""

ANSWERS = _schema(
    "arm question_set condition question_id retrieved:texts shown:texts raw answer quotes:quotes quotes_given:number"
    " abstained:flag followed:flag supported:flag quotes_verbatim:flag adapter tokens:tokens cost:real error"
)
"""What each system of a benchmark said. `condition` is "answerable" or "withheld" (each chunk that bears the answer was
kept from the retriever); `retrieved` the chunk ids that search brought, best first, `shown` those in the prompt, in
its order; `quotes` those that stand verbatim in a shown chunk (offsets into its text), of `quotes_given` that the
reply had; `supported` and `quotes_verbatim` are null where there is nothing to check; `error` says why there is no
reply (then `raw` and `answer` are empty); `cost` in US dollars, null when the price is unknown."""

ARTIFACTS: Mapping[str, pl.Schema] = {
    "documents.parquet": DOCUMENTS,
    "chunks.parquet": CHUNKS,
    "questions.parquet": QUESTIONS,
    "qa.parquet": QUESTIONS,
    "reworded.parquet": QUESTIONS,
    "failures.parquet": FAILURES,
    "cleaned.parquet": CLEANED,
    "examples.parquet": EXAMPLES,
    "eval.jsonl": EVALUATION,
    "answers.parquet": ANSWERS,
}


def frame(schema: pl.Schema, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Build a frame of `schema` from dictionaries; a missing key becomes null.

    A column of `OPTIONAL` is added to its table (`readings` to `CLEANED`, `places` to `EVALUATION`) where a row has a
    value for it.

    Raises:
        polars.exceptions.PolarsError: a value has another type than its column.
    """
    rows = list(rows)
    wide = optional(schema)
    told = {name: kind for name, kind in wide.items() if any(row.get(name) is not None for row in rows)}
    schema = pl.Schema({**schema, **told})
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def optional(schema: pl.Schema) -> dict[str, Any]:
    """Return the columns of `OPTIONAL` that a table with a schema may have."""
    homes = {"readings": CLEANED, "places": EVALUATION}
    return {name: kind for name, kind in OPTIONAL.items() if schema.keys() >= homes[name].keys()}


def check(table: pl.DataFrame, schema: pl.Schema, *, where: object) -> pl.DataFrame:
    """Return `table` unchanged if its columns are those of `schema`, in order and type, but for those of `OPTIONAL`.

    Raises:
        DamagedArtifact: a column is missing, unknown, or of another type.
    """
    more = [name for name in table.schema if name not in schema and OPTIONAL.get(name) == table.schema[name]]
    if table.schema == schema or table.drop(more).schema == schema:
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
