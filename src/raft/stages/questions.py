"""Chunks and a generator in, questions with exact answers and verbatim quotes out.

Every document gets the same budget in proportion to its content. There are two ways: `answer_first` chooses exact
facts and asks the model for the question alone; `items` asks a capable model for questions, answers and quotes as
JSON. What the model does not deliver is recorded as a failure, with its reply.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from raft import tables
from raft.asks import Ask, answer_first_ask, comparison_ask, items_ask, unanswerable_ask
from raft.prompts import Prompt
from raft.protocols import Failure, Generator
from raft.targets import Opening, Target, lookalikes, statements, targets
from raft.text import normalise

Chunk = dict[str, Any]
_NOTICE = 3


@dataclass(frozen=True)
class Prompts:
    """The prompts of this stage, by the way and kind they serve."""

    answer_first: Prompt
    items: Prompt
    comparison: Prompt
    unanswerable: Prompt
    openings: tuple[Opening, ...]


def budgets(sizes: Mapping[str, int], chunks: int, *, per_chunk: float, limit: int | None) -> dict[str, int]:
    """Return how many questions each document gets: in proportion to its size, largest remainders first.

    Args:
        sizes: doc_id to tokens of content.
        chunks: how many chunks all documents have together.
        per_chunk: questions a chunk, on average.
        limit: the most questions in all, or None.
    """
    total = sum(sizes.values())
    wanted = max(1, round(per_chunk * chunks)) if chunks else 0
    wanted = min(wanted, limit) if limit is not None else wanted
    if not total:
        return dict.fromkeys(sizes, 0)
    exact = {doc: wanted * size / total for doc, size in sizes.items()}
    given = {doc: math.floor(share) for doc, share in exact.items()}
    rest = sorted(exact, key=lambda doc: (given[doc] - exact[doc], _hash(doc)))
    for doc in rest[: wanted - sum(given.values())]:
        given[doc] += 1
    return given


def ask(
    chunks: Callable[[], Iterator[pl.DataFrame]],
    generator: Generator,
    prompts: Prompts,
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
        chunks: returns the chunks' frames from the beginning; called up to three times.
        generator: writes the questions.
        prompts: what it is asked with.
        way: "answer_first" or "items".
        kinds: the kinds of question that are on.
        per_chunk: questions a chunk, on average.
        limit: the most questions asked for, or None.
        model: the name recorded in each row.
        failures: rows of `tables.FAILURES` are appended here.
        planned: told how many questions the budget allows.
    """
    given = _budget(chunks(), per_chunk, limit)
    planned(sum(given.values()))
    plan = _plan_facts if way == "answer_first" else _plan_items
    asks = plan(chunks, given, prompts, kinds)
    kept: list[Ask] = []
    seen: set[str] = set()

    def requests() -> Iterator[Any]:
        for one in asks:
            kept.append(one)
            yield one.request

    for outcome in generator.complete(requests()):
        one = kept.pop(0)
        if isinstance(outcome, Failure):
            failures.append({"stage": "questions", "item_id": one.item_id, **_failure(outcome)})
            continue
        rows = [_row(row, one, model) for row in one.read(outcome.text)]
        fresh = [row for row in rows if not (row["question_id"] in seen or seen.add(row["question_id"]))]  # type: ignore[func-returns-value]
        repeated = Failure("repeated", "the same question was asked of the same chunk before", outcome.text)
        failures += [{"stage": "questions", "item_id": one.item_id, **_failure(repeated)} for _ in rows[len(fresh) :]]
        if fresh:
            yield tables.frame(tables.QUESTIONS, fresh)


def question_id(golden_chunk_ids: Sequence[str], kind: str, question: str) -> str:
    """Return the id of a question: a hash of its golden chunks, kind and normalised wording."""
    return _hash("\n".join([*sorted(golden_chunk_ids), kind, normalise(question)]))


def _budget(frames: Iterable[pl.DataFrame], per_chunk: float, limit: int | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    count = 0
    for frame in frames:
        content = frame.filter(~pl.col("boilerplate"))
        count += content.height
        for doc, tokens in content.select("doc_id", "tokens").iter_rows():
            sizes[doc] = sizes.get(doc, 0) + tokens
    return budgets(sizes, count, per_chunk=per_chunk, limit=limit)


def _documents(frames: Iterable[pl.DataFrame]) -> Iterator[tuple[str, list[Chunk]]]:
    rows = (row for frame in frames for row in frame.filter(~pl.col("boilerplate")).iter_rows(named=True))
    for doc, group in groupby(rows, key=lambda row: row["doc_id"]):
        yield doc, list(group)


def _plan_facts(
    chunks: Callable[[], Iterator[pl.DataFrame]], given: Mapping[str, int], prompts: Prompts, kinds: Sequence[str]
) -> Iterator[Ask]:
    alike, pairs = _alike(chunks(), prompts.openings, kinds)
    common = repeated_statements(chunks())
    for doc, rows in _documents(chunks()):
        found = [(row, _own(targets(row["text"], prompts.openings, kinds), common)) for row in rows]
        for row, target in _round_robin(found, given.get(doc, 0)):
            context = row["heading"]
            pair = pairs.pop((row["chunk_id"], target.start), None)
            if pair is not None:
                yield comparison_ask(prompts.comparison, row, target, *pair)
            yield answer_first_ask(prompts.answer_first, row, target, context, name_document=target.pattern in alike)
    if "unanswerable" in kinds:
        yield from _plan_unanswerable(chunks, given, prompts)


def repeated_statements(frames: Iterable[pl.DataFrame]) -> frozenset[str]:
    """Return the statements that three or more documents make word for word: notices, not knowledge of one of them."""
    documents: dict[str, set[str]] = {}
    for doc, rows in _documents(frames):
        for row in rows:
            for statement in statements(row["text"]):
                documents.setdefault(_hash(statement.wording), set()).add(doc)
    return frozenset(wording for wording, found in documents.items() if len(found) >= _NOTICE)


def _own(found: Sequence[Target], common: frozenset[str]) -> list[Target]:
    return [target for target in found if _hash(target.statement) not in common]


def _round_robin(found: Sequence[tuple[Chunk, list[Target]]], count: int) -> Iterator[tuple[Chunk, Target]]:
    """Yield the best target of each chunk, then the second of each, ..., in the order of the chunks."""
    chosen: list[tuple[int, int, Chunk, Target]] = []
    deepest = max((len(options) for _, options in found), default=0)
    for depth in range(deepest):
        for position, (row, options) in enumerate(found):
            if depth < len(options) and len(chosen) < count:
                chosen.append((position, depth, row, options[depth]))
    for _, _, row, target in sorted(chosen, key=lambda entry: entry[:2]):
        yield row, target


def _alike(
    frames: Iterable[pl.DataFrame], openings: Sequence[Opening], kinds: Sequence[str]
) -> tuple[frozenset[str], dict[tuple[str, int], tuple[Chunk, Target]]]:
    """Find statements that several documents make with other facts, and for comparisons the partner of each."""
    documents: dict[str, set[str]] = {}
    first: dict[str, tuple[Chunk, Target]] = {}
    pairs: dict[tuple[str, int], tuple[Chunk, Target]] = {}
    for doc, rows in _documents(frames):
        for row in rows:
            for target in targets(row["text"], openings, ("fact", "number", "date")):
                documents.setdefault(target.pattern, set()).add(doc)
                if "comparison" not in kinds:
                    continue
                partner = first.setdefault(target.pattern, (row, target))
                if partner[0]["doc_id"] != doc and partner[1].answer != target.answer:
                    pairs.setdefault((row["chunk_id"], target.start), partner)
    return lookalikes(documents), pairs


def _plan_unanswerable(
    chunks: Callable[[], Iterator[pl.DataFrame]], given: Mapping[str, int], prompts: Prompts
) -> Iterator[Ask]:
    vocabulary: set[str] = set()
    for frame in chunks():
        for text in frame["text"]:
            vocabulary.update(normalise(text).split())
    for doc, rows in _documents(chunks()):
        share = math.ceil(given.get(doc, 0) / 10)
        found = [(row, targets(row["text"], prompts.openings, ("fact", "number", "date"))) for row in rows]
        for row, target in _round_robin(found, share):
            yield unanswerable_ask(prompts.unanswerable, row, target, vocabulary)


def _plan_items(
    chunks: Callable[[], Iterator[pl.DataFrame]], given: Mapping[str, int], prompts: Prompts, kinds: Sequence[str]
) -> Iterator[Ask]:
    pairs = _alike(chunks(), prompts.openings, kinds)[1] if "comparison" in kinds else {}
    partners = {chunk_id: (start, pair) for (chunk_id, start), pair in pairs.items()}
    single = [kind for kind in kinds if kind != "comparison"]
    for doc, rows in _documents(chunks()):
        counts = _spread(given.get(doc, 0), [row["tokens"] for row in rows])
        for row, count in zip(rows, counts, strict=True):
            if count and single:
                yield items_ask(prompts.items, row, count, single)
            if count and row["chunk_id"] in partners:
                start, pair = partners[row["chunk_id"]]
                own = [
                    t for t in targets(row["text"], prompts.openings, ("fact", "number", "date")) if t.start == start
                ]
                yield comparison_ask(prompts.comparison, row, own[0], *pair)


def _spread(count: int, weights: Sequence[int]) -> list[int]:
    names = {str(i): weight for i, weight in enumerate(weights)}
    shares = budgets(names, len(weights), per_chunk=count / max(1, len(weights)), limit=None) if count else {}
    return [shares.get(str(i), 0) for i in range(len(weights))]


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
