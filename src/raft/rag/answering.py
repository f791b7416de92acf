"""Answering: questions and what was found for them go to a model; its replies come back as checked answers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import polars as pl

from raft.prompts import Prompt
from raft.protocols import Completion, Failure, Generator, Message, Request, Tokenizer
from raft.rag.format import ABSTENTION, Shown, parse, render_prompt, title_line
from raft.rag.grounding import Answer, Citation, Passage, is_supported, locate
from raft.store import tables

WhenUnsupported = Literal["mark", "retry", "refuse"]

_WINDOW = 64  # answers of which the unsupported ones are asked again together
_WARMER = 0.7
_KEPT = ("raw", "quotes_given", "abstained", "followed", "supported", "quotes_verbatim", "cost", "error")


def passages_of(
    hits: pl.DataFrame,
    chunks: Mapping[str, Mapping[str, Any]],
    *,
    paths: Mapping[str, str],
    titles: Mapping[str, str | None],
    queries: int,
    k: int | None = None,
) -> list[list[Passage]]:
    """Return what to show for each query, best first: known chunks without the boilerplate, and unknown hits as found.

    A hit whose chunk is not known (its document was added to the index by other means) has the text of the hit, and
    its offsets count from there.

    Args:
        hits: a frame of `tables.HITS`.
        chunks: rows of `tables.CHUNKS` by chunk_id.
        paths: path of each document by doc_id; the doc_id stands in for one that is missing.
        titles: title of each document by doc_id.
        queries: number of queries; one without hits has an empty list.
        k: most passages of a query; None for all.
    """
    found: list[dict[str, Passage]] = [{} for _ in range(queries)]
    for hit in hits.sort("query", "rank").iter_rows(named=True):
        chunk, shown = chunks.get(hit["chunk_id"]), found[hit["query"]]
        if (chunk and chunk["boilerplate"]) or hit["chunk_id"] in shown or (k is not None and len(shown) >= k):
            continue
        chunk = chunk or {"heading": None, "page": None, "start": 0, "text": hit["text"]}
        shown[hit["chunk_id"]] = Passage(
            chunk_id=hit["chunk_id"],
            doc_id=hit["doc_id"],
            document=paths.get(hit["doc_id"], hit["doc_id"]),
            title=title_line(titles.get(hit["doc_id"]), chunk["heading"]),
            page=chunk["page"],
            start=chunk["start"],
            text=chunk["text"],
            score=hit["score"],
        )
    return [list(shown.values()) for shown in found]


def request(
    question: str,
    passages: Sequence[Passage],
    *,
    prompt: Prompt,
    style: str,
    max_tokens: int,
    exemplars: Sequence[Message] = (),
) -> Request:
    """Return what asks `question` of the passages; a model's most likely reply is wanted.

    Args:
        question: the question.
        passages: what to show, in this order; none for a question without documents.
        prompt: a prompt with $question, and with $documents and $style where they are to be seen.
        style: what `raftformat.render_style` returned; may be empty.
        max_tokens: longest reply.
        exemplars: turns of worked examples, put before the last turn of the user.

    Raises:
        UsageError: the prompt has another placeholder.
    """
    return Request(_chat(question, passages, prompt=prompt, style=style, exemplars=exemplars), max_tokens)


def _chat(
    question: str, passages: Sequence[Passage], *, prompt: Prompt, style: str, exemplars: Sequence[Message]
) -> tuple[Message, ...]:
    shown = [Shown(passage.chunk_id, passage.title, passage.text) for passage in passages]
    turns = render_prompt(prompt, question=question, shown=shown, style=style)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
    return (*turns[:last], *exemplars, *turns[last:])


def fit(
    passages: Sequence[Passage],
    question: str,
    *,
    prompt: Prompt,
    style: str,
    tokenizer: Tokenizer,
    limit: int,
    exemplars: Sequence[Message] = (),
    keep: Collection[str] = (),
) -> tuple[list[Passage], int]:
    """Return the passages that fit into a prompt, dropped from the end, and how many were dropped.

    All are dropped where not even one fits.

    Args:
        passages: what is to be shown, best first.
        question: the question.
        prompt: as for `request`.
        style: as for `request`.
        tokenizer: the model's.
        limit: most tokens of the prompt; what the model takes, less the longest reply.
        exemplars: as for `request`.
        keep: ids of chunks that are dropped last.
    """
    kept = list(passages)
    while kept:
        chat = _chat(question, kept, prompt=prompt, style=style, exemplars=exemplars)
        if tokenizer.count_chat(chat) <= limit:
            break
        spare = [place for place, passage in enumerate(kept) if passage.chunk_id not in keep]
        kept.pop(spare[-1] if spare else -1)
    return kept, len(passages) - len(kept)


def answer_all(
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    generator: Generator,
    *,
    prompt: Prompt,
    style: str,
    max_tokens: int,
    when_unsupported: WhenUnsupported,
    model: str,
    adapter: str | None,
    retrieval_seconds: Sequence[float] | None = None,
    exemplars: Sequence[Message] = (),
    asked: Sequence[bool] | None = None,
) -> Iterator[Answer]:
    """Yield one checked answer a question, in order, as the generator delivers.

    Args:
        questions: what is asked.
        passages: what is shown for each question.
        generator: the model, with its adapter.
        prompt: as for `request`.
        style: as for `request`.
        max_tokens: as for `request`.
        when_unsupported: what becomes of an answer that is not supported: "mark" it, "retry" once, warmer, and keep
            the second reply if that is supported, or "refuse": see `refusal`.
        model: name of the model, for the answers.
        adapter: id of its adapter, None for the base model.
        retrieval_seconds: how long the search for each question took; None counts as 0.
        exemplars: as for `request`.
        asked: whether the model is asked each question at all; where it is not, the answer is that the documents do not
            answer the question. None: it is asked where anything is shown.

    Raises:
        ValueError: not as many lists of passages, durations or decisions as questions.
    """
    if any(len(given or questions) != len(questions) for given in (passages, retrieval_seconds, asked)):
        raise ValueError("questions, passages, retrieval_seconds and asked differ in length")
    searched = retrieval_seconds or [0.0] * len(questions)

    def ask(place: int) -> Request:
        return request(
            questions[place], passages[place], prompt=prompt, style=style, max_tokens=max_tokens, exemplars=exemplars
        )

    def read(place: int, outcome: Completion | Failure | None) -> Answer:
        return _read(questions[place], outcome, passages[place], searched[place], model=model, adapter=adapter)

    asked = [bool(shown) for shown in passages] if asked is None else asked
    outcomes = generator.complete(ask(place) for place, wanted in enumerate(asked) if wanted)
    answers = ((place, read(place, next(outcomes) if wanted else None)) for place, wanted in enumerate(asked))
    if when_unsupported != "retry":
        for _, answer in answers:
            yield refusal(answer) if when_unsupported == "refuse" and answer.supported is False else answer
        return
    while window := dict(islice(answers, _WINDOW)):
        doubtful = [place for place, answer in window.items() if answer.supported is False]
        again = generator.complete(replace(ask(place), temperature=_WARMER, sample=1) for place in doubtful)
        for place, outcome in zip(doubtful, again, strict=True):
            window[place] = _better(window[place], read(place, outcome))
        yield from window.values()


def _read(
    question: str,
    outcome: Completion | Failure | None,
    passages: Sequence[Passage],
    searched: float,
    *,
    model: str,
    adapter: str | None,
) -> Answer:
    nothing = nothing_found(question, model, adapter, searched)
    if outcome is None:
        return replace(nothing, passages=tuple(passages))
    if isinstance(outcome, Failure):
        lost = replace(nothing, text="", abstained=False, followed=False, tokens={}, cost=None)
        return replace(lost, passages=tuple(passages), error=f"{outcome.kind}: {outcome.message}")
    tokens = {"input": outcome.input_tokens, "output": outcome.output_tokens}
    seconds = {"retrieval": searched, "generation": outcome.seconds}
    answer = read_reply(question, outcome.text, passages, model=model, adapter=adapter)
    return replace(answer, tokens=tokens, seconds=seconds, cost=outcome.cost)


def read_reply(
    question: str,
    raw: str,
    passages: Sequence[Passage],
    *,
    model: str,
    adapter: str | None = None,
    tokens: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
    cost: float | None = None,
) -> Answer:
    """Return what a reply says, its quotes and figures checked against the passages that were shown.

    Args:
        question: what was asked.
        raw: the whole reply.
        passages: what was shown, in the prompt's order.
        model: name of the model.
        adapter: id of its adapter, None for the base model.
        tokens: `{"input", "output"}`.
        seconds: `{"retrieval", "generation"}`.
        cost: in US dollars, None when unknown.
    """
    parsed = parse(raw)
    citations, verbatim = locate(parsed.quotes, passages)
    return Answer(
        question=question,
        text=parsed.answer,
        citations=tuple(citations),
        quotes_given=len(parsed.quotes),
        quotes_verbatim=verbatim,
        supported=is_supported(parsed.answer, citations, passages),
        abstained=parsed.abstained,
        followed=parsed.followed,
        raw=raw,
        passages=tuple(passages),
        model=model,
        adapter=adapter,
        tokens=dict(tokens or {}),
        seconds=dict(seconds or {}),
        cost=cost,
    )


def nothing_found(question: str, model: str, adapter: str | None = None, searched: float = 0.0) -> Answer:
    """Return the abstention that answers a question for which nothing was found; no model is asked for it.

    `searched` are the seconds of the search.
    """
    tokens, seconds = {"input": 0, "output": 0}, {"retrieval": searched, "generation": 0.0}
    answer = read_reply(
        question, ABSTENTION, (), model=model, adapter=adapter, tokens=tokens, seconds=seconds, cost=0.0
    )
    return replace(answer, raw="", followed=True)


def refusal(answer: Answer) -> Answer:
    """Return the abstention in place of an unsupported answer; the reply stays in `raw`, and nothing is cited."""
    nothing_cited = replace(answer, citations=(), quotes_given=0, quotes_verbatim=None, supported=None)
    return replace(nothing_cited, text=ABSTENTION, abstained=True, refused=True)


def _better(first: Answer, second: Answer) -> Answer:
    """Return the second answer if it is supported, else the first; either with what both together took."""
    cost = None if first.cost is None or second.cost is None else first.cost + second.cost
    return replace(
        second if second.supported else first,
        tokens={name: count + second.tokens.get(name, 0) for name, count in first.tokens.items()},
        seconds={**first.seconds, "generation": first.seconds["generation"] + second.seconds["generation"]},
        cost=cost,
    )


def answer_rows(
    answers: Sequence[Answer],
    question_ids: Sequence[str],
    *,
    arm: str,
    question_set: str,
    condition: str,
    retrieved: Sequence[Sequence[str]],
    adapter: str | None,
) -> pl.DataFrame:
    """Return answers as a frame of `tables.ANSWERS`.

    Args:
        answers: in the order of their questions.
        question_ids: one an answer.
        arm: the contender that answered.
        question_set: the set that the questions are from.
        condition: "answerable" or "withheld".
        retrieved: chunk_ids that the search brought for each question, best first.
        adapter: id of the adapter, None for the base model.

    Raises:
        ValueError: the sequences differ in length.
    """
    rows = [
        {
            "arm": arm,
            "question_set": question_set,
            "condition": condition,
            "question_id": question_id,
            "retrieved": list(brought),
            "shown": [passage.chunk_id for passage in answer.passages],
            "answer": answer.text,
            "quotes": _quotes(answer.citations, answer.passages),
            "adapter": adapter,
            "tokens": {name: answer.tokens.get(name) for name in ("input", "output")},
            **{name: getattr(answer, name) for name in _KEPT},
        }
        for answer, question_id, brought in zip(answers, question_ids, retrieved, strict=True)
    ]
    return tables.frame(tables.ANSWERS, rows)


def _quotes(citations: Sequence[Citation], passages: Sequence[Passage]) -> list[dict[str, Any]]:
    starts = {passage.chunk_id: passage.start for passage in passages}
    rows = []
    for citation in citations:
        start = starts[citation.chunk_id]
        place = {"start": citation.start - start, "end": citation.end - start}
        rows.append({"chunk_id": citation.chunk_id, **place, "text": citation.text})
    return rows
