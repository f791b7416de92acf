"""Questions whose answer a model copies from a sentence: for models that can choose, and stumble over JSON.

A sentence is chosen; the model copies a short answer from it and asks for it. The copy is checked word for word, so
that answers are as exact as those that rules choose, and are of more kinds: terms, causes, places, people. Where more
questions are wanted than there are sentences, the model is also given exact facts of them as answers to ask for: left
to itself it rarely chooses a number or a date, and never more than one name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl

from raft import decisions
from raft.asks import Ask, check_wording, grounded, section
from raft.planning import Prompts, budgets
from raft.prompts import Prompt
from raft.protocols import Request
from raft.surveying import Survey, documents, is_notice
from raft.targets import plain, statements
from raft.text import normalise
from raft.values import facts

_T = TypeVar("_T")

REPLY_TOKENS = 44
SHORTEST, LONGEST = 8, 45
"""Words of a sentence that is asked about."""
MOST_ANSWER_WORDS = 10
MOST_FACTS = 3
"""Facts of one sentence that are given as answers."""

GROUNDED = 0.4
"""Least share of a question's words that the sentence or its heading holds. A model that can choose an answer also
finds words of its own: of the replies below 0.7, which the smallest models must reach, most read well (XQuAD, seen)."""

_REFERS = re.compile(
    r"\b(?:sentences?|passage|paragraph|text|section|statement|above|following)\b"
    r"|\b(?:mentioned|discussed|described)\W*$",
    re.IGNORECASE,
)
_REPLY = re.compile(r"\A\s*(?:Answer:\s*)?(?P<answer>[^\n]+)\n+Question:\s*(?P<question>[^\n]+)")
_EDGES = " \t\"'“”‘’.,;:"


def plan_spans(
    frames: Iterable[pl.DataFrame], known: Survey, given: Mapping[str, int], used: Prompts, kinds: Sequence[str]
) -> Iterator[Ask]:
    """Yield what to ask: one question for each chosen sentence, spread evenly over a document's chunks.

    Where decisions are among the kinds, they get an even share of the questions, or less where they would all be
    answered with yes.

    Args:
        frames: frames of `tables.CHUNKS`.
        known: what `surveying.survey` returned.
        given: doc_id to questions, as `planning.budgets` returned it.
        used: the prompts; those of spans and decisions are taken.
        kinds: the kinds of question that are on; a reply of another kind is refused.
    """
    balance = decisions.Balance(1 / len(kinds) if "decision" in kinds else 0.0)
    copied = any(kind != "decision" for kind in kinds)
    for doc, rows in documents(frames):
        parts = budgets(
            {str(place): row["tokens"] for place, row in enumerate(rows)},
            len(rows),
            per_chunk=given.get(doc, 0) / len(rows),
            limit=None,
        )
        for place, row in enumerate(rows):
            count = parts.get(str(place), 0) if given.get(doc, 0) else 0
            sentences = [
                (statement.start, statement.end)
                for statement in statements(row["text"])
                if not statement.cells
                and not is_notice(statement.wording, known)
                and SHORTEST <= len(statement.wording.split()) <= LONGEST
            ]
            decided = balance.choose([row["text"][start:end] for start, end in sentences], count)
            for number, words in sorted(decided.items()):
                yield decisions.decision_ask(used.decision, row, *sentences[number], words)
            if not copied:
                continue
            count -= len(decided)
            for start, end in _spread(sentences, count):
                yield span_ask(used.span, row, start, end, kinds)
            given_answers = [
                (start, end, answer) for start, end in sentences for answer in _facts(row["text"][start:end], kinds)
            ]
            for start, end, answer in _spread(given_answers, count - len(sentences)):
                yield span_ask(used.span, row, start, end, kinds, answer=answer)


def _spread(choices: Sequence[_T], count: int) -> list[_T]:
    """Return up to `count` of the choices, evenly spread from first to last."""
    count = max(0, min(count, len(choices)))
    return [choices[step * len(choices) // count] for step in range(count)]


def _facts(text: str, kinds: Sequence[str]) -> list[str]:
    """Return facts of a sentence that can be asked for, first to last.

    A name that begins it is left out, since its first word may be capitalised for its place alone, and so is one that
    ends with an initial.
    """
    known = (fact for fact in facts(plain(text)) if fact.kind != "name" or (fact.start > 0 and fact.text[-2:-1] != " "))
    found = dict.fromkeys(fact.text for fact in known)
    return [answer for answer in found if kind_of(answer) in kinds][:MOST_FACTS]


def span_ask(
    prompt: Prompt, chunk: Mapping[str, Any], start: int, end: int, kinds: Sequence[str], *, answer: str | None = None
) -> Ask:
    """Ask about the chunk's characters `start` to `end`: for an answer copied from there and its question.

    With `answer`, which must stand there, only the question is left to the model.
    """
    statement = plain(chunk["text"][start:end])
    context = section(chunk)
    messages = prompt.render(context=context, statement=statement)
    begun = "" if answer is None else f"{answer}\nQuestion:"
    if begun:
        last = messages[-1]
        messages = (*messages[:-1], {"role": last["role"], "content": f"{last['content']} {begun}"})

    def read(reply: str) -> list[dict[str, Any]]:
        copied, question = parse_span(f"{begun} {reply}", statement)
        kind = kind_of(copied)
        if kind not in kinds:
            raise ValueError(f"{kind!r} is none of the kinds asked for")
        check_wording(question, copied, statement, context)
        if _REFERS.search(question):
            raise ValueError("it speaks of the sentence")
        known, stated = grounded(question, statement, context)
        if not stated or known < GROUNDED:
            raise ValueError("it is about something else")
        quote = {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": chunk["text"][start:end]}
        return [{"question": question, "answer": copied, "kind": kind, "quotes": [quote]}]

    request = Request(messages, REPLY_TOKENS, check=read)
    return Ask(request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt)


def parse_span(reply: str, statement: str) -> tuple[str, str]:
    """Return answer and question of a reply; the answer as the statement writes it.

    Raises:
        ValueError: there is no answer or question, or the answer is no short part of the statement.
    """
    found = _REPLY.match(reply)
    if not found:
        raise ValueError("it has no answer with a question below")
    words = normalise(found["answer"]).split()
    if not words:
        raise ValueError("the answer is empty")
    if len(words) > MOST_ANSWER_WORDS or len(words) * 2 > len(normalise(statement).split()):
        raise ValueError("the answer is most of the sentence")
    place = _find(found["answer"].strip(_EDGES).split(), r"\s+", statement) or _find(words, r"\W+", statement)
    if place is None:
        raise ValueError("the answer is not in the sentence")
    return _with_its_signs(statement, *place.span()), " ".join(found["question"].split())


def _find(words: Sequence[str], between: str, statement: str) -> re.Match[str] | None:
    """Find words one after the other, whole: neither "5" in "1.5 km" nor "000" in "1,000"."""
    loose = between.join(map(re.escape, words))
    return re.search(rf"(?<!\w)(?<!\d[.,:]){loose}(?!\w|[.,:]\d)", statement, re.IGNORECASE) if words else None


def kind_of(answer: str) -> str:
    """Return the kind of question that an answer belongs to: number, date, name, or fact for all others."""
    whole = [fact for fact in facts(answer) if len(fact.text) * 2 >= len(answer)]
    if whole:
        return whole[0].kind if whole[0].kind in ("number", "date", "name") else "fact"
    words = answer.split()
    return "name" if words and all(word[:1].isupper() for word in words) else "fact"


def _with_its_signs(statement: str, start: int, end: int) -> str:
    """Take a sign of currency before, or of percent or degree behind, into the answer."""
    while start > 0 and statement[start - 1] in "$€£¥#-−" and (start < 2 or not statement[start - 2].isalnum()):
        start -= 1
    while end < len(statement) and statement[end] in "%°":
        end += 1
    return statement[start:end].strip(_EDGES) or statement[start:end]
