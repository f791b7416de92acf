"""Examples: a kept question, its golden chunks among distractors, and the reply that a student is to learn.

The recipe is that of Zhang et al., "RAFT: Adapting Language Model to Domain Specific RAG" (COLM 2024), with quotes
that name their document, and with abstention where the golden chunks are absent.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

import jsonschema
import polars as pl

from raft.errors import RaftError
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Failure, Generator, Message, Request, Retriever, Tokenizer
from raft.rag.format import Shown, abstention, parse, render_prompt, render_target, spoken, title_line
from raft.rag.relevant import is_short, mentions_answer, search_all
from raft.settings.sections import Examples
from raft.similarity import same_text
from raft.store import tables
from raft.text import as_written, contains, from_json
from raft.text.values import covers, fact_values

_POOL = 200  # chunks drawn for a row, of which the allowed ones become its random distractors
Row = dict[str, Any]


@dataclass(frozen=True)
class _Recipe:
    """What all rows of one call have in common; `pool` are the chunks that may be shown, in order and to look in."""

    chunks: Mapping[str, Row]
    pool: tuple[str, ...]
    allowed: frozenset[str]
    titles: Mapping[str, str]
    styled: Mapping[str, str]
    prompt: Prompt
    style: str
    tokenizer: Tokenizer
    wanted: Examples
    seed: int


@dataclass(frozen=True)
class _Draft:
    """One row in the making: the chunks it shows, in prompt order; `golden` is empty when they are absent."""

    row: Row
    shown: tuple[str, ...]
    golden: frozenset[str]


def build_examples(
    cleaned: pl.DataFrame,
    chunks: pl.DataFrame,
    wanted: Examples,
    *,
    retriever: Retriever,
    tokenizer: Tokenizer,
    prompt: Prompt,
    style: str,
    held_out: frozenset[str],
    seed: int,
    titles: Mapping[str, str],
    styled_answers: Mapping[str, str] | None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the examples of the `train` and `valid` questions, in their order, and a report on them.

    A question with more golden chunks than `wanted.documents` shows them all. Of the rows of one question as few as
    the share allows are without its golden chunks; of a `valid` question there is one.

    Args:
        cleaned: a frame of `tables.CLEANED` after the split.
        chunks: a frame of `tables.CHUNKS`.
        wanted: how a row is put together.
        retriever: the one that inference uses; brings the hard distractors.
        tokenizer: the student's.
        prompt: one with $documents, $question and $style that asks for quotes where `wanted.quotes` says.
        style: what `rag.format.render_style` returned.
        held_out: doc_ids whose chunks are never shown.
        seed: of every choice; each row draws from (seed, question_id, which row of the question) alone.
        titles: title of each document by doc_id.
        styled_answers: answers by question_id that replace those of `cleaned`, or None.

    Returns:
        A frame of `tables.EXAMPLES`, and counts of `rows`, `with_golden` and `abstaining`, the dropped distractors by
        question_id (`shortened`), and the question_ids that became no example: `too_long` (the golden chunks alone
        do not fit) and `no_distractors` (nothing may be shown).

    Raises:
        RaftError: a row does not keep what `check_examples` promises.
    """
    known = {row["chunk_id"]: row for row in chunks.iter_rows(named=True)}
    pool = sorted(name for name, row in known.items() if not row["boilerplate"] and row["doc_id"] not in held_out)
    recipe = _Recipe(
        known, tuple(pool), frozenset(pool), titles, styled_answers or {}, prompt, style, tokenizer, wanted, seed
    )
    report: dict[str, Any] = {"shortened": {}, "too_long": [], "no_distractors": []}
    rows = cleaned.filter(pl.col("split").is_in(["train", "valid"])).to_dicts()
    hits = search_all([row["question"] for row in rows], retriever, 4 * wanted.documents + 10)
    built = [
        _example(row, found, recipe, report, (copy, copies))
        for row, found in zip(rows, hits, strict=True)
        for copies in [wanted.per_question if row["split"] == "train" else 1]
        for copy in range(copies)
    ]
    examples = tables.frame(tables.EXAMPLES, [row for row in built if row is not None])
    check_examples(examples, chunks)
    shown = examples["golden_positions"].list.len() > 0
    abstaining = sum(parse(chat[-1]["content"]).abstained for chat in examples["messages"].to_list())
    return examples, {"rows": len(examples), "with_golden": int(shown.sum()), "abstaining": abstaining, **report}


def _example(row: Row, hits: list[str], recipe: _Recipe, report: dict[str, Any], part: tuple[int, int]) -> Row | None:
    draft = _drafted(row, hits, recipe, part)
    if not draft.shown:
        report["no_distractors"].append(row["question_id"])
        return None
    fitted, messages, tokens = _fitted(draft, recipe)
    if tokens > recipe.wanted.max_tokens:
        report["too_long"].append(row["question_id"])
        return None
    if len(fitted.shown) < len(draft.shown):
        report["shortened"][row["question_id"]] = len(draft.shown) - len(fitted.shown)
    return {
        "question_id": row["question_id"],
        "split": row["split"],
        "messages": messages,
        "golden_chunk_ids": row["golden_chunk_ids"],
        "golden_positions": [place for place, name in enumerate(fitted.shown) if name in fitted.golden],
        "document_chunk_ids": list(fitted.shown),
        "tokens": tokens,
    }


def _drafted(row: Row, hits: list[str], recipe: _Recipe, part: tuple[int, int]) -> _Draft:
    """Choose what one row of a question shows; `part` says which of how many rows of the question it is."""
    copy, copies = part
    golden = [name for name in dict.fromkeys(row["golden_chunk_ids"]) if name in recipe.chunks]
    # All rows of a question share one number, and lie evenly around the circle from there: so no question shows its
    # golden chunks in none of its rows while another shows them in all, as independent draws would have it.
    first = _drawn(recipe, row).random()
    draw = _drawn(recipe, row, copy)
    present = (first + copy / copies) % 1 < recipe.wanted.golden_share and bool(golden)
    allowed = _Allowed(row, [recipe.chunks[name] for name in golden], recipe)
    slots = max(0, recipe.wanted.documents - len(golden)) if present else recipe.wanted.documents
    distractors = _distractors(hits, slots, allowed, recipe, draw, copy=copy)
    if not present and not distractors:  # a corpus without distractors still teaches from its golden chunks
        present = bool(golden)
    shown = [*(golden if present else []), *distractors]
    draw.shuffle(shown)
    if recipe.wanted.order == "retrieved":
        places = {name: place for place, name in enumerate(hits)}
        shown.sort(key=lambda name: places.get(name, len(hits)))
    return _Draft(row, tuple(shown), frozenset(golden if present else []))


def _drawn(recipe: _Recipe, row: Row, copy: int = 0) -> random.Random:
    told = f"{recipe.seed}:{row['question_id']}" + (f":{copy}" if copy else "")
    return random.Random(hashlib.sha256(told.encode()).digest())  # noqa: S311  no secret


def _distractors(
    hits: Sequence[str], slots: int, allowed: "_Allowed", recipe: _Recipe, draw: random.Random, *, copy: int
) -> list[str]:
    """Return up to `slots` chunks: the retriever's best, and a share drawn at random; each fills in for the other.

    The rows of one question share out the retriever's best: each begins where the one before ended.
    """
    wanted = round(recipe.wanted.random_share * slots)
    each = slots - wanted
    ranked = _Lazy(name for name in dict.fromkeys(hits) if allowed(name))  # looking costs more than all else here
    first = copy * each
    begin = first if ranked.reaches(first) else first % max(1, len(ranked.taken))
    hard = ranked.around(begin)
    chosen = list(islice(hard, each))
    drawn = draw.sample(recipe.pool, min(len(recipe.pool), _POOL))
    for name in chain((name for name in drawn if name not in chosen and allowed(name)), hard):
        if len(chosen) >= slots:
            break
        if name not in chosen:
            chosen.append(name)
    return chosen


class _Lazy:
    """A list that looks at no more of what it is made of than it is asked for; `taken` is what it has so far."""

    def __init__(self, source: Iterator[str]) -> None:
        self.taken: list[str] = []
        self._source = source

    def reaches(self, place: int) -> bool:
        """Tell whether there is something at a place; where there is not, all of it has been taken."""
        self.taken += islice(self._source, max(0, place + 1 - len(self.taken)))
        return place < len(self.taken)

    def around(self, begin: int) -> Iterator[str]:
        """Yield it from a place on to the end, and then from the front to that place."""
        place = begin
        while self.reaches(place):
            yield self.taken[place]
            place += 1
        yield from self.taken[:begin]


class _Allowed:
    """Tells whether a chunk may be a distractor of a row: it neither is, repeats nor holds what the row asks for."""

    def __init__(self, row: Row, golden: list[Row], recipe: _Recipe) -> None:
        self.recipe, self.golden = recipe, golden
        self.quotes = [quote["text"] for quote in row["quotes"]]
        telling = traits(row["kind"]).answered and not is_short(row["answer"], row["question"])
        self.answers = [row["answer"], *filter(None, [recipe.styled.get(row["question_id"])])] if telling else []

    def __call__(self, name: str) -> bool:
        if name not in self.recipe.allowed:
            return False
        chunk = self.recipe.chunks[name]
        return not bears(chunk, _title(chunk, self.recipe), self.golden, self.answers, self.quotes)


def bears(chunk: Row, title: str, golden: Sequence[Row], answers: Sequence[str], quotes: Sequence[str]) -> bool:
    """Tell whether a chunk is or repeats one of the golden ones, or holds an answer or a quote: it is no distractor.

    Args:
        chunk: a row of `tables.CHUNKS`.
        title: of its document and section, as it is shown.
        golden: rows of the golden chunks.
        answers: those that tell (no yes or no).
        quotes: texts of the quotes that bear them.
    """
    if any(chunk["chunk_id"] == one["chunk_id"] for one in golden):
        return True
    text = f"{title}\n{chunk['text']}"
    if any(mentions_answer(text, answer) for answer in answers) or any(contains(text, quote) for quote in quotes):
        return True
    return any(same_text(chunk["text"], one["text"]) for one in golden)


def _title(chunk: Row, recipe: _Recipe) -> str:
    return title_line(recipe.titles.get(chunk["doc_id"]), chunk["heading"])


def _fitted(draft: _Draft, recipe: _Recipe) -> tuple[_Draft, list[Message], int]:
    """Drop distractors from the end until the row fits; return what is left, its messages and their tokens."""
    messages = _messages(draft, recipe)
    tokens = recipe.tokenizer.count_chat(messages)
    while tokens > recipe.wanted.max_tokens:
        loose = [place for place, name in enumerate(draft.shown) if name not in draft.golden]
        if not loose or len(draft.shown) == 1:
            break
        draft = replace(draft, shown=draft.shown[: loose[-1]] + draft.shown[loose[-1] + 1 :])
        messages = _messages(draft, recipe)
        tokens = recipe.tokenizer.count_chat(messages)
    return draft, messages, tokens


def _messages(draft: _Draft, recipe: _Recipe) -> list[Message]:
    chunks = [recipe.chunks[name] for name in draft.shown]
    shown = [Shown(chunk["chunk_id"], _title(chunk, recipe), chunk["text"]) for chunk in chunks]
    turns = render_prompt(recipe.prompt, question=draft.row["question"], shown=shown, style=recipe.style)
    return [*turns, {"role": "assistant", "content": _target(draft, recipe)}]


def _target(draft: _Draft, recipe: _Recipe) -> str:
    row = draft.row
    answer = recipe.styled.get(row["question_id"], row["answer"])
    if draft.golden:
        numbers = {name: number for number, name in enumerate(draft.shown, 1)}
        quotes = [quote for quote in row["quotes"] if quote["chunk_id"] in numbers]
        return render_target(
            answer, [(numbers[quote["chunk_id"]], quote["text"]) for quote in quotes], recipe.wanted.quotes
        )
    if recipe.wanted.when_absent == "memorise" and traits(row["kind"]).answered:
        return render_target(answer, [])
    shown = (recipe.chunks[name]["text"] for name in draft.shown)
    return render_target(abstention(spoken(row["question"], shown)), [])


def check_examples(examples: pl.DataFrame, chunks: pl.DataFrame) -> None:
    """Check that each example is what it says it is; frames of `tables.EXAMPLES` and `tables.CHUNKS`.

    Raises:
        RaftError: a document is shown twice, the golden chunks are not where the row says or only partly shown, a row
            without them has a quote, or a quote does not stand verbatim in the document that it names.
    """
    texts = dict(chunks.select("chunk_id", "text").iter_rows())
    for row in examples.iter_rows(named=True):
        problem = _problem(row, texts)
        if problem:
            raise RaftError(
                f"A training example is wrong: {problem}.",
                where=f"examples.parquet, question {row['question_id']}",
                hint="delete examples.parquet and run the same raft command again",
            )


def _problem(row: Row, texts: Mapping[str, str]) -> str | None:
    shown, golden = row["document_chunk_ids"], set(row["golden_chunk_ids"])
    quotes = parse(row["messages"][-1]["content"]).quotes
    placed = [place for place, name in enumerate(shown) if name in golden]
    problems = (
        (row["messages"][-1]["role"] != "assistant", "its last turn is not the target"),
        (len(set(shown)) != len(shown), "a document is shown twice"),
        (row["golden_positions"] != placed, "the golden documents are not where it says"),
        (placed and not golden & texts.keys() <= set(shown), "only some of the golden documents are shown"),
        (quotes and not placed, "it quotes, and the golden document is not shown"),
        (not all(_stands(quote, shown, texts) for quote in quotes), "a quote is not in the document that it names"),
    )
    return next((message for wrong, message in problems if wrong), None)


def _stands(quote: tuple[int | None, str], shown: Sequence[str], texts: Mapping[str, str]) -> bool:
    number, text = quote
    return number is not None and 1 <= number <= len(shown) and text in " ".join(texts[shown[number - 1]].split())


RESTYLED_TOKENS = 256
"""Longest answer in the user's style."""


def restyle(
    cleaned: pl.DataFrame, generator: Generator, prompt: Prompt, *, style: str, schema: Mapping[str, Any] | None
) -> tuple[dict[str, str], list[str]]:
    """Word the answers of the kept training rows in the user's style; a schema of one text field needs no model.

    `cleaned` is a frame of `tables.CLEANED` with its split, `prompt` is `prompts/restyle.md`.

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
        yield Request(
            messages, RESTYLED_TOKENS, schema=schema, check=partial(_check, row=row, source=quote, schema=schema)
        )


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
    """Return the answer on one line; ValueError where it does not follow the schema."""
    if schema is None:
        return " ".join(as_written(reply).split())
    try:
        tree = from_json(reply)
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
