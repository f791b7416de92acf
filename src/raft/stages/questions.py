"""Chunks and a generator in, questions with exact answers and verbatim quotes out.

Every document gets the same budget in proportion to its content. There are three ways: `answer_first` chooses exact
facts and asks the model for the question alone; `spans` has it copy an answer from a chosen sentence first; `items`
asks a capable model for questions, answers and quotes as JSON. What the model does not deliver is recorded as a
failure, with its reply.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from raft import planning, prompts, spans, tables
from raft.asks import Ask
from raft.planning import Prompts
from raft.protocols import Failure, Generator
from raft.surveying import Survey
from raft.targets import read_openings
from raft.text import normalise


@dataclass(frozen=True)
class Plan:
    """What is going to be asked: so many questions, in these asks, which are made lazily."""

    questions: int
    asks: Iterator[Ask]


def read_prompts(folder: Path | None) -> Prompts:
    """Return the prompts that questions are asked with; `folder` holds those that replace the package's."""
    return Prompts(
        answer_first=prompts.load("answer_first", folder),
        items=prompts.load("items", folder),
        comparison=prompts.load("comparison", folder),
        unanswerable=prompts.load("unanswerable", folder),
        span=prompts.load("span", folder),
        decision=prompts.load("decision", folder),
        openings=tuple(read_openings(prompts.load_text("openings.yaml", folder))),
    )


def plan(
    chunks: Iterator[pl.DataFrame],
    known: Survey,
    used: Prompts,
    *,
    way: str,
    kinds: Sequence[str],
    per_chunk: float,
    limit: int | None,
) -> Plan:
    """Return what `ask` would ask; the arguments are its own."""
    surveyed = list(known.sizes)
    wanted = (frame.filter(pl.col("doc_id").is_in(surveyed)) for frame in chunks)
    given = planning.budgets(known.sizes, known.chunks, per_chunk=per_chunk, limit=limit)
    if way == "spans":
        asks = spans.plan_spans(wanted, known, given, used, kinds)
    else:
        chosen = planning.plan_facts if way == "answer_first" else planning.plan_items
        asks = chosen(wanted, known, given, used, kinds)
    return Plan(sum(given.values()), asks)


def ask(
    chunks: Iterator[pl.DataFrame],
    known: Survey,
    generator: Generator,
    used: Prompts,
    *,
    way: str,
    kinds: Sequence[str],
    per_chunk: float,
    limit: int | None,
    model: str,
    failures: list[dict[str, Any]],
    planned: Callable[[int], None] = lambda count: None,
) -> Iterator[pl.DataFrame]:
    """Yield frames of `tables.QUESTIONS`, lazily, in the order of the chunks.

    Args:
        chunks: frames of `tables.CHUNKS`; documents that the survey does not know are not asked about.
        known: the survey of these chunks, with what this way and these kinds need.
        generator: writes the questions.
        used: the prompts that it is asked with.
        way: "answer_first", "spans" or "items".
        kinds: the kinds of question that are on.
        per_chunk: questions a chunk, on average.
        limit: the most questions asked for, or None.
        model: the name recorded in each row.
        failures: rows of `tables.FAILURES` are appended here.
        planned: told how many questions the budget allows.
    """
    found = plan(chunks, known, used, way=way, kinds=kinds, per_chunk=per_chunk, limit=limit)
    planned(found.questions)
    kept: deque[Ask] = deque()
    seen: set[str] = set()

    def requests() -> Iterator[Any]:
        for one in found.asks:
            kept.append(one)
            yield one.request

    for outcome in generator.complete(requests()):
        one = kept.popleft()
        if isinstance(outcome, Failure):
            failures.append({"stage": "questions", "item_id": one.item_id, **_failure(outcome)})
            continue
        rows = [_row(row, one, model) for row in one.read(outcome.text)]
        fresh = list({row["question_id"]: row for row in rows if row["question_id"] not in seen}.values())
        seen.update(row["question_id"] for row in fresh)
        repeated = ["the same question was asked of the same chunk before"] * (len(rows) - len(fresh))
        lost = [("repeated", why) for why in repeated] + [("malformed", why) for why in one.refused(outcome.text)]
        for kind, why in lost:
            failure = Failure(kind, why, outcome.text, outcome.attempts)
            failures.append({"stage": "questions", "item_id": one.item_id, **_failure(failure)})
        if fresh:
            yield tables.frame(tables.QUESTIONS, fresh)


def question_id(golden_chunk_ids: Sequence[str], kind: str, question: str) -> str:
    """Return the id of a question: a hash of its golden chunks, kind and normalised wording."""
    return _hash("\n".join([*sorted(golden_chunk_ids), kind, normalise(question)]))


def _row(row: dict[str, Any], one: Ask, model: str) -> dict[str, Any]:
    golden = list(dict.fromkeys(quote["chunk_id"] for quote in row["quotes"])) or row.pop("golden_chunk_ids", [])
    return {
        **row,
        "question_id": question_id(golden or [one.item_id], row["kind"], row["question"]),
        "golden_chunk_ids": golden,
        "doc_ids": list(one.doc_ids),
        "model": model,
        "prompt": f"{one.prompt.name}@{one.prompt.digest[:12]}",
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind,
        "attempts": failure.attempts,
        "reply": failure.reply,
        "message": failure.message,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
