"""How much of a gain is form: what an answer format alone would buy, without tuning.

A reply that holds the answer in a paragraph scores low by F1. `cut` is what anybody can do about that by rule, without
a reference: it sees the question and the reply alone. An adapter that was tuned on another corpus tells it better,
where there is one: it has learned the form, and nothing of these documents.
"""

import re
from dataclasses import dataclass
from typing import Literal

import polars as pl

from raft.evaluation.metrics import Interval
from raft.evaluation.scores import Table, difference
from raft.rag.format import is_abstention
from raft.rag.relevant import Sources
from raft.text import normalise, sentences
from raft.text.languages import of_text
from raft.text.values import FactKind, facts

_ANSWER = re.compile(r"^[ \t>*_#]{0,8}answer[ \t*_]{0,8}[:：][ \t*_]{0,8}(?=\S)", re.IGNORECASE | re.MULTILINE)
_QUOTES = re.compile(r"\n[ \t>*_]{0,8}quote[ \t]{0,8}(?:\[?\d{1,6}\]?)?[ \t*_]{0,8}[:：].*", re.IGNORECASE | re.DOTALL)
_MARKS = re.compile(r"[ \t]*\[\d{1,6}\]|\*\*")
_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+", re.MULTILINE)
_CHATTER = re.compile(r"(?:sure|certainly|of course|great question|hello|hi)\b[^.:]{0,40}[.!:]*", re.IGNORECASE)
_SHOWN = r"(?:documents?|context|passages?|texts?|excerpts?|sources?|information)"
_PREAMBLE = re.compile(
    r"(?:(?:(?:according to|as (?:stated|mentioned|described|given|per))(?:\s+[\w'’-]+){0,6}?"
    # what else begins so may be a condition: "In addition to the documents, you need ..."
    r"|(?:based on|in|from|given)(?:\s+(?:the|these|this|your|all|provided|given|above|available|following|shown"
    rf"|relevant|retrieved|in|of|from|{_SHOWN})){{0,6}}?)"
    rf"\s+{_SHOWN}(?:\s+(?:\d+|above|below|provided|given|shown|available|you\s+(?:gave|provided)(?:\s+me)?))?,\s*"
    r"|(?:based on|according to),\s*)?"
    r"(?:(?:the|my|your)?\s*(?:\w+\s+)?answer(?:\s+to\b[^,.:]{0,60}?)?\s+(?:is|would be)\s*:?\s+(?:that\s+)?)?",
    re.IGNORECASE,
)
_ASKS: tuple[tuple[FactKind, frozenset[str]], ...] = (
    ("date", frozenset({"time"})),
    ("number", frozenset({"count", "amount", "length"})),
    ("name", frozenset({"person"})),
)
"""By what a question asks for (`Grammar.asks`): which value answers it."""
_YEAR = re.compile(r"(?:1\d|20)\d\d")
_OWNED = re.compile(r"['’]s$")
_RESTATES = 3  # words of the question in a row: less may be chance
_EDGES = " \t\n.,;:!。，、"


def cut(reply: str, question: str) -> str:
    """Return the part of a reply that answers, by rule: what an answer format would leave of it.

    Of the form's `Answer:` line, where there is one, or else of all, this is the first sentence without preamble,
    citations and emphasis. Of that sentence it is, where the question asks for a number, a date or a person, the one of
    that kind which the question does not name (all of the sentence where there are several: no rule tells which is
    right); else what is left where three or more words of the question are said again at its beginning or its end. A
    yes or no that stands alone is all. A reply that abstains, or is JSON, stays as it is.

    What another sentence answers is lost, so that a measurement with it says at least how much is form.

    The characters of the result stand in the reply in their order: it is never longer, and nothing is added.
    """
    whole = reply.strip()
    if not whole or whole[0] in "{[" or is_abstention(whole):
        return whole
    said = _ITEM.sub("\n", _unmarked(whole)).strip()  # an empty line ends a sentence
    if not said or is_abstention(said):
        return said or whole
    first = _first_sentence(said)
    decided = first.split(",")[0].strip(_EDGES)
    if normalise(decided) in map(normalise, of_text(question).decided):
        return decided
    values = _values(first, question)
    if values:
        return first if len(values) > 1 else values[0]
    return _not_restated(first, question).strip(_EDGES) or first


def bare(reply: str) -> str:
    """Return a reply without what belongs to its form: marks, preamble, quotes, citations and emphasis.

    All that it says stays, other than in `cut`. A reply that abstains, or is JSON, stays as it is.
    """
    whole = reply.strip()
    if not whole or whole[0] in "{[" or is_abstention(whole):
        return whole
    return _without_preamble(_unmarked(whole)) or whole


def _unmarked(whole: str) -> str:
    marked = _ANSWER.search(whole)
    return _MARKS.sub("", _QUOTES.sub("", whole[marked.end() :] if marked else whole)).strip()


def _without_preamble(text: str) -> str:
    begun = _PREAMBLE.match(text)
    return text[begun.end() :] if begun and text[begun.end() :].strip(_EDGES) else text


def _first_sentence(text: str) -> str:
    """Return the first sentence that is more than a greeting or an announcement, without its preamble."""
    parts = [text[start:end] for start, end in sentences(text)] or [text]
    telling = (one for one in parts if not (_CHATTER.fullmatch(one) or one.rstrip().endswith(":")))
    return _without_preamble(next(telling, parts[0]))


def _values(sentence: str, question: str) -> list[str]:
    """Return the values of the kind that a question asks for, and does not name itself."""
    grammar = of_text(question).grammar
    wanted = {name for name, asks in grammar.asks.items() if asks.search(question)} if grammar else set()
    kind = next((kind for kind, names in _ASKS if names & wanted), None)
    if kind is None:
        return []
    asked = {*normalise(question).split(), "the", "a", "an"}
    fitting = [
        one.text for one in facts(sentence) if one.kind == kind or (kind == "date" and _YEAR.fullmatch(one.text))
    ]
    told = {normalise(one): one for one in reversed(fitting) if not asked.issuperset(normalise(one).split())}
    return list(told.values())


def _not_restated(sentence: str, question: str) -> str:
    """Return a sentence without what it says again of the question at its beginning and its end."""
    asked = {_OWNED.sub("", word) for word in normalise(question).split()}
    found = list(re.finditer(r"\S+", sentence))
    again = [_OWNED.sub("", normalise(word.group())) in asked for word in found]
    if all(again):
        return sentence
    begins, ends = again.index(False), len(again) - again[::-1].index(False)
    begins = begins if begins >= _RESTATES else 0
    ends = ends if len(again) - ends >= _RESTATES else len(again)
    return sentence[found[begins].start() : found[ends - 1].end()]


def cut_answers(answers: pl.DataFrame, questions: pl.DataFrame) -> pl.DataFrame:
    """Return answers (`tables.ANSWERS`) cut by rule; what abstains, or did not come, stays as it is."""
    asked = dict(questions.select("question_id", "question").iter_rows())
    rows = answers.select("question_id", "answer", "abstained", "error").iter_rows()
    said = [
        answer if abstained or error is not None or not answer else cut(answer, asked.get(name) or "")
        for name, answer, abstained, error in rows
    ]
    return answers.with_columns(pl.Series("answer", said, dtype=pl.String))


@dataclass(frozen=True)
class Parts:
    """A gain in its parts, each paired on the same questions: `form` and `substance` add up to it.

    Form is told `by` an adapter of another corpus ("other") or by cutting the baseline's replies ("cut").
    """

    form: Interval
    substance: Interval
    by: Literal["other", "cut"]


def parts(
    ours: Table, theirs: Table, *, other: Table, cut: Table, measure: Literal["f1", "accuracy"], sources: Sources
) -> Parts | None:
    """Return what of the gain of one system over another is form, and what substance; None where nothing tells.

    `other` has the scores of the adapter of another corpus, `cut` those of their replies cut by rule; either may be
    empty. Who answered not every question that counts for the gain is passed over, so that the parts add up. A label of
    a closed set has no form: a cut tells nothing of its accuracy.
    """
    gain = difference(ours, theirs, measure, sources)
    thirds: list[tuple[Literal["other", "cut"], Table]] = [("other", other), ("cut", cut if measure == "f1" else {})]
    for by, third in thirds:
        form, substance = difference(third, theirs, measure, sources), difference(ours, third, measure, sources)
        if gain and form and substance and gain.questions == form.questions == substance.questions:
            return Parts(form, substance, by)
    return None
