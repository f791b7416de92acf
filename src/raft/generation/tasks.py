"""What is asked of a generator for one question, and how its reply is read and checked."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raft.generation.facts import StatedFact
from raft.generation.titles import according
from raft.kinds import traits
from raft.prompts import Prompt, also
from raft.protocols import Message, Request
from raft.rag.format import ABSTENTION
from raft.text import as_written, contains, content_words, normalise
from raft.text.languages import EN, Language
from raft.text.values import rough_values

QUESTION_TOKENS = 40
GROUNDED = 0.7
"""Least share of a question's words that the statement, its heading or the opening must hold: the rest is invented.
Chosen on the handbook in `examples/`, where a 135M model's replies below it are about other things."""

_SECOND = re.compile(r"(?:,|\band|\bor)\s(?:what|when|who|which|how|where|why)\b", re.IGNORECASE)
_GARBLED = re.compile(
    r"\b(?:did|does|do|can|will|may|must)\b[^?]*\b(?:was|were|is|are)\s\w+(?:ed|ing)?\?", re.IGNORECASE
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A request, whose check decides whether the reply is of use, with the reading of a reply that passed.

    Without a request the rows are known already, and `read` is told nothing.
    `read` makes rows as `row_of` does of it, `refused` says what is wrong with those of its parts that are not read;
    `item_id` is the chunk that it is about, `count` how many questions it asks for; `asked` names what is asked where
    it is asked several times, to choose from what comes.
    """

    request: Request | None
    read: Callable[[str], list[Row]]
    item_id: str
    doc_ids: tuple[str, ...]
    prompt: Prompt | None
    refused: Callable[[str], list[str]] = lambda reply: []
    count: int = 1
    asked: str = ""


def in_language(messages: tuple[Message, ...], prompt: Prompt, language: Language) -> tuple[Message, ...]:
    """Return a chat whose first turn also says, by `prompts/language.md`, what language is written in but English."""
    return messages if language is EN else also(messages, prompt.render(language=language.name)[0]["content"])


def room(tokens: int, text: str, language: Language) -> int:
    """Return how many tokens a reply about a text may have: models spend more on other languages than English."""
    return tokens if language is EN else round(tokens * max(1.5, len(text.encode()) / max(1, len(text))))


def row_of(question: str, answer: str, kind: str, *quotes: Row) -> Row:
    """Return what is known of a question when its reply is read."""
    return {"question": as_written(question), "answer": as_written(answer), "kind": kind, "quotes": [*quotes]}


def quote_of(chunk: Mapping[str, Any], start: int, end: int) -> Row:
    """Return the chunk's characters `start` to `end` as a quote, a row of `tables.QUOTE`."""
    return {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": chunk["text"][start:end]}


def must(condition: object, message: str) -> None:
    """Raise ValueError with the message, which says of a reply ("it ...") why it is of no use, unless condition."""
    if not condition:
        raise ValueError(message)


def section(chunk: Mapping[str, Any]) -> str:
    """Return what a chunk stands below: its heading path, or the heading that it begins with where there is none."""
    first = str(chunk["text"]).split("\n", 1)[0]
    return chunk["heading"] or (first.lstrip("#").strip() if first.startswith("#") else "")


def answer_first_ask(
    prompt: Prompt, chunk: Mapping[str, Any], target: StatedFact, context: str, *, name_document: bool
) -> Task:
    """Ask for the question whose answer is the target's; look-alike documents are named in it."""
    target = replace(target, opening=target.opening.replace("$title", _title(context)))
    messages = prompt.render(
        context=context,
        statement=target.statement,
        answer=" ".join(target.answer.split())[:300],
        opening=target.opening,
    )

    def question(reply: str) -> str:
        text = _joined(target.opening, reply)
        check_question(text, target, context)
        return _named(text, context) if name_document else text

    def read(reply: str) -> list[Row]:
        return [row_of(question(reply), target.answer, target.kind, quote_of(chunk, target.start, target.end))]

    request = Request(messages, QUESTION_TOKENS, check=question)
    return Task(request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt)


def comparison_ask(
    prompt: Prompt, chunk: Mapping[str, Any], target: StatedFact, other_chunk: Mapping[str, Any], other: StatedFact
) -> Task:
    """Ask for a question that compares one statement of two look-alike documents."""
    first, second = _title(other_chunk["heading"]), _title(chunk["heading"])
    opening = f"How do {first} and {second} differ in"
    messages = prompt.render(
        first_context=first,
        first_statement=other.statement,
        second_context=second,
        second_statement=target.statement,
        opening=opening,
    )

    def check(reply: str) -> str:
        text = _joined(opening, reply)
        _check_single(text)
        must(_stemmed(text.removeprefix(opening)) & _stemmed(target.statement), "it compares something else")
        return text

    answer = f"{first}: {other.answer}; {second}: {target.answer}"
    quotes = quote_of(other_chunk, other.start, other.end), quote_of(chunk, target.start, target.end)

    def read(reply: str) -> list[Row]:
        return [row_of(check(reply), answer, "comparison", *quotes)]

    documents = (other_chunk["doc_id"], chunk["doc_id"])
    return Task(Request(messages, QUESTION_TOKENS, check=check), read, chunk["chunk_id"], documents, prompt)


def unanswerable_ask(prompt: Prompt, chunk: Mapping[str, Any], target: StatedFact, vocabulary: set[str]) -> Task:
    """Ask for a question on the target's subject that has a word whose stem is not in the corpus's vocabulary."""
    messages = prompt.render(context=chunk["heading"], statement=target.statement)

    def check(reply: str) -> str:
        text = _joined("", reply)
        _check_single(text)
        words = _stemmed(text)
        about = words & _stemmed(f"{chunk['heading']} {target.statement}")
        must(len(about) >= 2, "it is about something else")
        must(words - vocabulary, "the corpus may answer it: it holds each of its words")
        return text

    def read(reply: str) -> list[Row]:
        return [row_of(check(reply), ABSTENTION, "unanswerable")]

    return Task(Request(messages, QUESTION_TOKENS, check=check), read, chunk["chunk_id"], (chunk["doc_id"],), prompt)


def check_question(text: str, target: StatedFact, context: str) -> None:
    """Raise ValueError unless a text is one question about the target's statement that does not hold its answer."""
    kind = traits(target.kind)
    check_wording(text, target.answer if kind.exact else "", target.statement, context)
    if kind.fixed:
        must(not re.search(r"\b(?:not|never|no)\b|n't", text, re.IGNORECASE), "it is asked in the negative")
    telling = content_words(text)
    words = [_stem(word) for word in normalise(text).split() if word in telling]
    stated = {_stem(word) for word in content_words(target.statement) - content_words(target.answer)}
    known = stated | _stemmed(context)
    asking = stems(target.opening) - stated
    body = [word for word in words if word not in asking]
    must(body, "it asks for nothing")
    must(sum(word in known for word in body) >= GROUNDED * len(body), "it is about something else")
    needed = max(2, math.ceil(0.3 * min(len(stated), 10)))
    must(len(set(body) & stated) >= min(needed, len(stated)), "it leaves out what the statement is about")
    must(len(set(words)) > 0.6 * len(words), "it repeats itself")


def check_wording(text: str, answer: str, statement: str, context: str, language: Language = EN) -> None:
    """Raise ValueError unless a text is one question without its answer (which may be empty), and in good English."""
    _check_single(text, language.marks if language is not EN else ("?",))
    english = language is EN
    must(not (english and _SECOND.search(text)), "it asks for two things")
    must(not (english and _GARBLED.search(text)), "its grammar is broken")
    must(not _lowered_names(text, statement), "it writes a name in lower case")
    if answer:
        must(not contains(text, answer), "it gives the answer away")
        given = rough_values(answer) & rough_values(text)
        must(not given - rough_values(context), "it gives the answer away")


def grounded(text: str, statement: str, context: str) -> tuple[float, int]:
    """Return the share of a question's words that statement or context hold, and how many the statement holds."""
    words, stated = _stemmed(text), _stemmed(statement)
    known = stated | _stemmed(context)
    return len(words & known) / max(1, len(words)), len(words & stated)


def _check_single(text: str, marks: tuple[str, ...] = ("?",)) -> None:
    must(text.endswith(marks) and sum(map(text.count, marks)) == 1, "it is not one question")


def _lowered_names(question: str, statement: str) -> set[str]:
    """Return the names of a statement that the question spells in lower case."""
    words = set(re.findall(r"[^\W\d_]\w+", statement))
    inside = re.findall(r"(?<=[a-z,;] )[A-Z][a-z]\w+", statement)
    names = {word for word in inside if word.lower() not in words}
    return {name for name in names if name.lower() in question.split() and name not in question}


def _joined(opening: str, reply: str) -> str:
    line = reply.strip("\n").split("\n", 1)[0].rstrip()
    if opening and not line.lower().lstrip().startswith(opening.lower()):
        line = opening + ("" if line[:1] in (" ", "?", ",") else " ") + line
    return " ".join(line.split())


def _named(question: str, context: str) -> str:
    title = _title(context)
    named = _stemmed(title) & _stemmed(question)
    if not title or len(named) * 2 > len(content_words(title)):
        return question
    return according(title, question)


def _title(heading: str) -> str:
    return heading.split(" > ", 1)[0]


def stems(text: str) -> set[str]:
    """Return the words of a text, each without its ending."""
    return {_stem(word) for word in normalise(text).split()}


def _stemmed(text: str) -> set[str]:
    """Return the stems of the words that carry a text's meaning."""
    return {_stem(word) for word in content_words(text)}


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|ed|es|s|ly)$", "", word)[:6]
