"""What an answer rests on: whether what was found is about the question, where quotes stand, and whether figures do."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np

from raft.rag.format import is_abstention, unmarked
from raft.report.shown import Shown
from raft.text import PAIRED, normalise, overlap, sentences
from raft.text.values import Value, covers, figures


class _Placed:
    document: str
    page: int | None

    @property
    def place(self) -> str:
        """Document and page as a person reads them."""
        return self.document + (f", page {self.page}" if self.page else "")


@dataclass(frozen=True)
class Passage(_Placed):
    """A chunk as an answer's context: where it stands in the corpus, and what it says.

    `document` is the document's path, and `title` the line above the text in a prompt. The page counts from 1 and is
    None where the document has none; `start` is the offset of the chunk's first character in the document's text; the
    retriever's `score` is higher for better, and 0 where it was not searched for.
    """

    chunk_id: str
    doc_id: str
    document: str
    title: str
    page: int | None
    start: int
    text: str
    score: float = 0.0


@dataclass(frozen=True)
class Citation(_Placed):
    """A quote of an answer, `text[start:end]` of the document whose path it names, that stands in a chunk as shown.

    The page counts from 1 and is None where the document has none.
    """

    chunk_id: str
    document: str
    page: int | None
    start: int
    end: int
    text: str


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """A checked answer to one question.

    Attributes:
        question: what was asked.
        text: the answer without its quotes.
        citations: quotes that were found in a passage that was shown.
        quotes_given: how many quotes the reply had, found or not.
        quotes_verbatim: whether each quote stands word for word in the passage that it names; None without quotes.
        supported: whether what the answer states stands in what it rests on (`is_supported`); None when it abstains,
            nothing was shown, or nothing in it can be checked.
        abstained: whether it says that the documents do not answer the question.
        followed: whether the reply kept the form (`raft.rag.format`).
        raw: the whole reply.
        passages: what was shown, in the prompt's order.
        model: the model's name.
        adapter: id of the adapter, None for the base model.
        tokens: `{"input", "output"}`.
        seconds: `{"retrieval", "generation"}`.
        cost: in US dollars; None when the price is unknown.
        error: why there is no reply; None when there is one.
        refused: whether an unsupported answer was replaced by the abstention (a setting).
        relevance: how far what was found seems to hold the answer (0 to 1), where that was too little for a model to
            be asked; otherwise None.
        min_relevance: the threshold that it fell under; otherwise None.
        promised: the share of unanswerable questions that reach the threshold, at most (`answering.false_answers`);
            None where a person chose the threshold, or nothing fell under it.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    quotes_given: int
    quotes_verbatim: bool | None
    supported: bool | None
    abstained: bool
    followed: bool
    raw: str
    passages: Sequence[Passage]
    model: str
    adapter: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: float | None = None
    error: str | None = None
    refused: bool = False
    relevance: float | None = None
    min_relevance: float | None = None
    promised: float | None = None

    def _head(self) -> str:
        grounds = {True: "supported", False: "not supported", None: "not checked"}[self.supported]
        said = self.error or self.text
        short = said if len(said) <= 80 else f"{said[:79]}…"
        return f"answer: {short!r}, {'abstained' if self.abstained else grounds}, {len(self.citations)} quotes"

    def _rows(self) -> Mapping[str, object]:
        quotes: dict[str, object] = {}
        for number, one in enumerate(self.citations, 1):
            quotes[f"quote {number}"] = f"{one.place}: “{one.text}”"
        for number, near in enumerate(self.passages if self.abstained else (), 1):
            quotes[f"nearest {number}"] = f"{near.place}: {near.title}"
        if self.relevance is not None:
            least = f"less than answering.min_relevance ({self.min_relevance})"
            if self.promised is not None:
                least = f"less than {self.min_relevance:.2f}, for at most {ceiled(self.promised)} false answers"
            quotes["relevance"] = f"{floored(self.relevance):.2f}, {least}"
        by = f"{self.model}, adapter {self.adapter}" if self.adapter else self.model
        return {"question": self.question, "answer": self.error or self.text, **quotes, "model": by}


def floored(share: float, parts: int = 100) -> float:
    """Return a share rounded down to one of so many parts: what misses a threshold is not shown as if it met it."""
    return int(share * parts) / parts


def ceiled(share: float) -> str:
    """Return a share in percent, rounded up to one decimal at most: no promise is shown better than it is."""
    return f"{math.ceil(1000 * share - 1e-9) / 10:g} %"


_ALIKE = ('"“”„‟«»', "'‘’‚‛`´", "-‐‑‒–—―−")
_CLASS = {character: f"[{re.escape(group)}]" for group in _ALIKE for character in group}
_MARKS = "".join(_ALIKE[:2])

_LEAST = 0.5  # share of an answer's words in the quote that bears it, and of a question's in what "it" points to
_POINTING = re.compile(r"(?:It|This|These|They)\b")
_ITEM = re.compile(r"^[ \t]*(\d{1,3})[.)](?=\s)", re.MULTILINE)
_REFERENCE = re.compile(r"\[(\d{1,2})\]")


def relevance(
    questions: Sequence[str], passages: Sequence[Sequence[Passage]], embed: Callable[[Sequence[str]], np.ndarray]
) -> list[float]:
    """Return how much of what was found for each question is about it (0 to 1), by its words and by its sense.

    The mean of two figures: `coverage`, and the highest cosine of the question and a sentence of its passages. Each
    tells questions that the passages answer from others worse than both together (`benchmarks/refusal.py`). Where
    nothing was found it is 0. `embed` is `protocols.Embedder.embed`.
    """
    places: dict[str, int] = {}
    said = [[one.text[start:end] for one in shown for start, end in sentences(one.text)] for shown in passages]
    for text in (*questions, *(text for own in said for text in own)):
        places.setdefault(text, len(places))
    vectors = embed(list(places)) if places else np.zeros((0, 1), dtype=np.float32)
    found = []
    for question, shown, own in zip(questions, passages, said, strict=True):
        near = vectors[[places[text] for text in own]] @ vectors[places[question]]
        nearest = max(0.0, min(1.0, float(near.max(initial=0.0))))
        found.append((coverage(question, shown) + nearest) / 2 if shown else 0.0)
    return found


def too_little(
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    embed: Callable[[Sequence[str]], np.ndarray],
    least: float,
) -> list[float | None]:
    """Return each `relevance` that is under `least`, None for the others; nothing is embedded where words suffice."""
    found: list[float | None] = [None if shown else 0.0 for shown in passages]
    left = [i for i, shown in enumerate(passages) if shown and coverage(questions[i], shown) / 2 < least]
    values = relevance([questions[i] for i in left], [passages[i] for i in left], embed) if left else []
    for place, value in zip(left, values, strict=True):
        found[place] = value if value < least else None
    return found


def coverage(question: str, passages: Iterable[Passage]) -> float:
    """Return the share (0 to 1) of a question's words that one passage and its title hold: the one that holds most.

    Words are compared by their first letters; articles, question words and auxiliaries do not count. A question
    without others is covered by whatever there is.
    """
    bare = overlap(question, "")
    return max((overlap(question, f"{one.title}\n{one.text}") for one in passages), default=bare)


def locate(quotes: Iterable[tuple[int | None, str]], passages: Sequence[Passage]) -> tuple[list[Citation], bool | None]:
    """Return the quotes that stand in the passages, and whether each stands in the one that it names.

    A quote with a wrong number that stands in another passage is a citation of that passage, and makes the second
    result false. A quote without a number may stand in any.

    Args:
        quotes: number and text, as `format.parse` has them.
        passages: what was shown, in the order of the prompt.

    Returns:
        One citation a quote that was found, in order; and whether all were found where they say, None without quotes.
    """
    citations, right = [], []
    for number, text in quotes:
        named = passages if number is None else passages[max(0, number - 1) : number]
        others = (passage for passage in passages if all(passage is not one for one in named))
        found = _first(text, named)
        right.append(found is not None)
        found = found or _first(text, others)
        if found:
            citations.append(found)
    return citations, all(right) if right else None


def _first(quote: str, passages: Iterable[Passage]) -> Citation | None:
    for passage in passages:
        span = find_verbatim(quote, passage.text)
        if span:
            start, end = span
            place = (passage.start + start, passage.start + end)
            return Citation(passage.chunk_id, passage.document, passage.page, *place, passage.text[start:end])
    return None


def find_verbatim(quote: str, text: str) -> tuple[int, int] | None:
    """Return start and end of a quote that stands word for word in a text, or None.

    Only white space and the typography of quotation marks and dashes may differ; letters, their case and all other
    punctuation count. It begins and ends where words and numbers do: "3 days" does not stand in "13 days" nor in
    "2.3 days". A quote without a letter or digit stands nowhere. A line's mark may be copied as a prompt shows it.
    """
    for wanted in dict.fromkeys((quote.strip(), quote.strip().strip(_MARKS).strip(), unmarked(quote).strip())):
        if any(map(str.isalnum, wanted)):
            match = _pattern(wanted, loose=False).search(text) or _pattern(wanted, loose=True).search(text)
            if match:
                return match.span()
    return None


@lru_cache(maxsize=1024)
def _pattern(quote: str, *, loose: bool) -> re.Pattern[str]:
    alike = _CLASS if loose else {}
    words = ("".join(alike.get(character) or re.escape(character) for character in word) for word in quote.split())
    before = r"(?<!\w)" if _is_word(quote[0]) else ""
    before += r"(?<!\d[.,:/])(?<![\s(][-−])(?<!^[-−])" if quote[0].isdigit() else ""  # 2.3 and -3 are no 3
    after = r"(?!\w)" if _is_word(quote[-1]) else ""
    after += r"(?![.,:/]\d)" if quote[-1].isdigit() else ""
    return re.compile(before + r"\s+".join(words) + after)


def _is_word(character: str) -> bool:
    return (character.isalnum() and not PAIRED.match(character)) or character == "_"


def is_supported(
    answer: str, citations: Sequence[Citation], passages: Sequence[Passage], *, question: str = "", quotes: int = 0
) -> bool | None:
    """Tell whether what an answer states exactly stands in what it rests on, where that is about its question.

    With figures (numbers, dates, codes, anything with a digit, and numbers in words), each must stand in a cited
    passage (not only in the quote), or in any that was shown if none is cited, with its sign, scale and unit
    (`values.says`), in a sentence (or title) that has a content word of the question: a figure about something else is
    no support. For a quoted sentence about "it" or "this", half of the words may stand in the one before.
    Without figures, an answer is supported when a verbatim quote holds most of its words, and sentence and question
    have one in common; it is not where `quotes` were given and none of them stands in what was shown.
    Numbers of list items, and references such as "[2]", are no figures.

    Returns:
        None when the answer (without its quotes) abstains, nothing was shown, or nothing can be checked: it has neither
        figures nor a quote that bears it, or its figures stand where no word is the question's (in another language).
    """
    if not passages or is_abstention(answer):
        return None
    if not normalise(answer):
        return False
    cited = {citation.chunk_id for citation in citations}
    read = [passage for passage in passages if passage.chunk_id in cited] or passages
    telling = [sentence for passage in read for sentence in _telling(question, passage, citations)]
    claimed = figures(_without_numbering(answer, len(passages)))
    if not claimed:
        if quotes and not citations:
            return False
        bearing = [one.text for one in citations if overlap(answer, one.text) >= _LEAST]
        near = any(overlap(question, one) or any(find_verbatim(one, said) for said in telling) for one in bearing)
        return near or None
    if covers(_figures(telling), claimed):
        return True
    anywhere = _figures(f"{passage.title}\n{passage.text}" for passage in read)
    return None if not telling and covers(anywhere, claimed) else False


def _telling(question: str, passage: Passage, citations: Sequence[Citation]) -> list[str]:
    """Return the sentences of a passage, and its title, that have a content word of the question.

    What is quoted of a sentence about "it" or "this" is told, too, where the sentence before has half of those words.
    """
    if overlap(question, "") == 1.0:  # it has none
        return [f"{passage.title}\n{passage.text}"]
    spans = list(sentences(passage.text))
    said = [passage.title, *(passage.text[start:end] for start, end in spans)]
    told = [one for one in said if overlap(question, one)]
    for quote in (one for one in citations if one.chunk_id == passage.chunk_id):
        first, last = quote.start - passage.start, quote.end - passage.start
        for (before, stop), (start, end) in pairwise(spans):
            if first < end and start < last and _POINTING.match(passage.text, start):
                quoted = passage.text[max(first, start) : min(last, end)]
                told += [quoted] if overlap(question, passage.text[before:stop]) >= _LEAST else []
    return told


def _figures(texts: Iterable[str]) -> frozenset[Value]:
    return frozenset[Value]().union(*map(figures, texts))


def _without_numbering(answer: str, shown: int) -> str:
    answer = _REFERENCE.sub(lambda match: " " if 1 <= int(match[1]) <= shown else match[0], answer)
    items = [int(number) for number in _ITEM.findall(answer)]
    counts = len(items) > 1 and items == list(range(1, len(items) + 1))
    return _ITEM.sub("", answer) if counts else answer
