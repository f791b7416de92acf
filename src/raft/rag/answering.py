"""Answering: questions and what was found for them go to a model; its replies come back as checked answers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import polars as pl

from raft.prompts import Prompt
from raft.protocols import Completion, Failure, Generator, Message, Request, Tokenizer
from raft.rag.format import Shown, abstention, parse, render_prompt, spoken, title_line
from raft.rag.grounding import Answer, Citation, Passage, is_supported, locate
from raft.store import tables

WhenUnsupported = Literal["mark", "retry", "refuse"]

_WINDOW = 64  # answers of which the unsupported ones are asked again together
_WARMER = 0.7
_KEPT = ("adapter", "raw", "quotes_given", "abstained", "followed", "supported", "quotes_verbatim", "cost", "error")


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
        queries: how many; one without hits has an empty list.
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
    """Return what asks `question` of the passages, shown in their order; a model's most likely reply is wanted.

    The prompt has $question, and $documents and $style where they are to be seen; `style` is what
    `format.render_style` returned. `exemplars`, turns of worked examples, come before the last turn of the user.

    Raises:
        UsageError: the prompt has another placeholder.
    """
    shown = [Shown(passage.chunk_id, passage.title, passage.text) for passage in passages]
    turns = render_prompt(prompt, question=question, shown=shown, style=style)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
    return Request((*turns[:last], *exemplars, *turns[last:]), max_tokens)


def fit(
    passages: Sequence[Passage],
    question: str,
    *,
    prompt: Prompt,
    style: str,
    tokenizer: Tokenizer,
    limit: int,
    keep: Collection[str] = (),
) -> list[Passage]:
    """Return the passages (best first) that fit into a prompt, dropped from the end; none where not even one fits.

    `limit` is the most tokens of the prompt: what the model takes, less the longest reply. `keep` are ids of chunks
    that are dropped last.
    """
    kept = list(passages)
    while kept:
        asked = request(question, kept, prompt=prompt, style=style, max_tokens=1)
        if tokenizer.count_chat(asked.messages) <= limit:
            break
        spare = [place for place, passage in enumerate(kept) if passage.chunk_id not in keep]
        kept.pop(spare[-1] if spare else -1)
    return kept


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

    Prompt, style, `max_tokens` and exemplars are as for `request`. `when_unsupported` says what becomes of an answer
    that is not supported: "mark" it, "retry" once, warmer, and keep the second reply if that is supported, or "refuse":
    the abstention in its place. `model` and `adapter` (None for the base model) are noted in the answers, and so is how
    long the search for each question took, in seconds; None counts as 0.
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
            yield _refusal(answer) if when_unsupported == "refuse" and answer.supported is False else answer
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
    if isinstance(outcome, Completion):
        tokens = {"input": outcome.input_tokens, "output": outcome.output_tokens}
        seconds = {"retrieval": searched, "generation": outcome.seconds}
        answer = read_reply(question, outcome.text, passages, model=model, adapter=adapter)
        return replace(answer, tokens=tokens, seconds=seconds, cost=outcome.cost)
    unsaid = replace(
        read_reply(question, "", passages, model=model, adapter=adapter),
        supported=None,
        seconds={"retrieval": searched, "generation": 0.0},
    )
    if outcome is not None:
        return replace(unsaid, error=f"{outcome.kind}: {outcome.message}")
    none = {"input": 0, "output": 0}
    return replace(unsaid, text=_abstention(unsaid), abstained=True, followed=True, tokens=none, cost=0.0)


def read_reply(
    question: str, raw: str, passages: Sequence[Passage], *, model: str, adapter: str | None = None
) -> Answer:
    """Return what a whole reply says, its quotes and figures checked against what was shown, in the prompt's order."""
    parsed = parse(raw)
    citations, verbatim = locate(parsed.quotes, passages)
    return Answer(
        question=question,
        text=parsed.answer,
        citations=tuple(citations),
        quotes_given=len(parsed.quotes),
        quotes_verbatim=verbatim,
        supported=is_supported(parsed.answer, citations, passages, question=question, quotes=len(parsed.quotes)),
        abstained=parsed.abstained,
        followed=parsed.followed,
        raw=raw,
        passages=tuple(passages),
        model=model,
        adapter=adapter,
    )


def _refusal(answer: Answer) -> Answer:
    """Return the abstention in place of an unsupported answer; the reply stays in `raw`, and nothing is cited."""
    nothing_cited = replace(answer, citations=(), quotes_given=0, quotes_verbatim=None, supported=None)
    return replace(nothing_cited, text=_abstention(answer), abstained=True, refused=True)


def _abstention(answer: Answer) -> str:
    return abstention(spoken(answer.question, (passage.text for passage in answer.passages)))


def _better(first: Answer, second: Answer) -> Answer:
    """Return the second answer if it is supported, else the first; either with what both together took."""
    return replace(
        second if second.supported else first,
        tokens={name: count + second.tokens.get(name, 0) for name, count in first.tokens.items()},
        seconds={**first.seconds, "generation": first.seconds["generation"] + second.seconds["generation"]},
        cost=None if first.cost is None or second.cost is None else first.cost + second.cost,
    )


def answer_rows(
    answers: Sequence[Answer],
    question_ids: Sequence[str],
    *,
    system: str,
    question_set: str,
    condition: str,
    retrieved: Sequence[Sequence[str]],
) -> pl.DataFrame:
    """Return answers as a frame of `tables.ANSWERS`.

    Args:
        answers: in the order of their questions.
        question_ids: one an answer.
        system: the system that answered.
        question_set: the set that the questions are from.
        condition: "answerable" or "withheld".
        retrieved: chunk_ids that the search brought for each question, best first.

    Raises:
        ValueError: the sequences differ in length.
    """
    rows = [
        {
            "arm": system,
            "question_set": question_set,
            "condition": condition,
            "question_id": question_id,
            "retrieved": list(brought),
            "shown": [passage.chunk_id for passage in answer.passages],
            "answer": answer.text,
            "quotes": _quotes(answer.citations, answer.passages),
            "tokens": {name: answer.tokens.get(name) for name in ("input", "output")},
            **{name: getattr(answer, name) for name in _KEPT},
        }
        for answer, question_id, brought in zip(answers, question_ids, retrieved, strict=True)
    ]
    return tables.frame(tables.ANSWERS, rows)


def _quotes(citations: Sequence[Citation], passages: Sequence[Passage]) -> list[dict[str, Any]]:
    starts = {passage.chunk_id: passage.start for passage in passages}
    return [
        {
            "chunk_id": one.chunk_id,
            "start": one.start - starts[one.chunk_id],
            "end": one.end - starts[one.chunk_id],
            "text": one.text,
        }
        for one in citations
    ]
