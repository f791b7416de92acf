"""Exact answers in the wording that the user asked for; the facts stay as they are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jsonschema
import polars as pl

from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Failure, Generator, Request
from raft.text import contains
from raft.values import covers, fact_values

ROOM = 256


def restyle(
    cleaned: pl.DataFrame,
    generator: Generator,
    prompt: Prompt,
    *,
    style: str,
    schema: Mapping[str, Any] | None,
) -> tuple[dict[str, str], list[str]]:
    """Word the answers of the kept training rows in the user's style.

    A JSON schema with one required text field is filled without a model.

    Args:
        cleaned: a frame of `tables.CLEANED` with its split.
        generator: writes the answers.
        prompt: `prompts/restyle.md`.
        style: the style in words.
        schema: the JSON schema that answers follow, or None.

    Returns:
        Answers by question_id, and the ids of the questions whose answer could not be worded so. They keep their
        exact answer, unless there is a schema: then they cannot be used.
    """
    learned = cleaned.filter(pl.col("split").is_in(["train", "valid"])).iter_rows(named=True)
    rows = [row for row in learned if traits(row["kind"]).answered]
    field = _only_field(schema)
    answers: dict[str, str] = {}
    failed: list[str] = []
    if field is not None:
        for row in rows:
            try:
                answers[row["question_id"]] = _tidy(json.dumps({field: row["answer"]}), schema)
            except ValueError:
                failed.append(row["question_id"])
        return answers, failed
    for row, outcome in zip(rows, generator.complete(_requests(rows, prompt, style, schema)), strict=True):
        if isinstance(outcome, Failure):
            failed.append(row["question_id"])
        else:
            answers[row["question_id"]] = _tidy(outcome.text, schema)
    return answers, failed


def _requests(
    rows: Sequence[Mapping[str, Any]], prompt: Prompt, style: str, schema: Mapping[str, Any] | None
) -> Iterator[Request]:
    for row in rows:
        quote = " ".join(quote["text"] for quote in row["quotes"])
        messages = prompt.render(question=row["question"], answer=row["answer"], quote=quote, style=style)
        yield Request(messages, ROOM, schema=schema, check=partial(_check, row=row, source=quote, schema=schema))


def _check(reply: str, *, row: Mapping[str, Any], source: str, schema: Mapping[str, Any] | None) -> None:
    text, exact = _tidy(reply, schema), row["answer"]
    if not text:
        raise ValueError("the reply is empty")
    if not covers(fact_values(text), fact_values(exact)) or (row["kind"] == "name" and not contains(text, exact)):
        raise ValueError("a number, date, code or name of the exact answer is missing")
    known = fact_values(exact) | fact_values(source) | fact_values(row["question"])
    if not covers(known, fact_values(text)):
        raise ValueError("it holds a number, date or code that the source does not")


def _tidy(reply: str, schema: Mapping[str, Any] | None) -> str:
    """Return the answer on one line.

    Raises:
        ValueError: it does not follow the schema.
    """
    if schema is None:
        return " ".join(reply.split())
    try:
        tree = json.loads(reply)
        jsonschema.validate(tree, schema)
    except jsonschema.ValidationError as error:
        raise ValueError(error.message) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return json.dumps(tree, ensure_ascii=False)


def _only_field(schema: Mapping[str, Any] | None) -> str | None:
    fields = (schema or {}).get("properties", {})
    if len(fields) == 1:
        ((name, kind),) = fields.items()
        return str(name) if isinstance(kind, dict) and kind.get("type") == "string" and "enum" not in kind else None
    return None
