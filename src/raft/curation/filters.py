"""What makes a question unusable by itself: a table of reasons, each with the function that finds it.

The heuristics know English. They judge one question and the chunks it was written from; what needs other questions,
a retriever or a model is done by cleaning.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raft.kinds import traits
from raft.rag.format import ABSTENTION
from raft.similarity import names
from raft.text import contains, content_words, find_quote, normalise
from raft.text.values import covers, fact_values, facts

_DEBRIS = re.compile(
    r"""^\W*(?:sure|certainly|of\ course|okay|ok|great|absolutely)\b\s*[,!.:]
      | ^\W*here\ (?:is|are|'s)\b
      | \b(?:question|answer|passage|response|output)\s*\d*\s*:
      | ^\W*(?:q|a)\s*[:.)]\s
      | <\|\w+\|> | \[/?INST\] | </?s> | ``` | ^\s*[\[{] | "\s*:\s*["\[{\d] | [}\]]\s*$
      | \bas\ an?\ \w+\ (?:language\ )?model\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERED = re.compile(r"\W*q?\d+\s*[:.)]\s", re.IGNORECASE)
_CUT = re.compile(r"(?:[,;:(/]|[a-z ][-–—]|\b(?:the|an?|of|and|or|to|with|by|from|than|because))$")
_ASKS = (
    r"(?:what|which|who|whom|whose|when|where|why|how)(?:['’](?:s|re|d|ll))?"
    r"|(?:is|are|was|were|am|do|does|did|can|could|may|might|must|should|shall|will|would|has|have|had)(?:n['’]t)?"
)
_QUESTION = re.compile(rf"\W*(?:{_ASKS}|can['’]t|cannot|won['’]t)\b", re.IGNORECASE)
_LED_IN = re.compile(
    r"\W*(?:in|on|at|by|for|from|to|under|with|within|until|till|after|before|since|during|about|above|over|through"
    r"|if|as|according|among|besides|between|into|against|of|per|once|unless|apart|upon|out|prior|other|because|due"
    r"|although|though|despite|while|whether|aside|along|outside|inside|given|regarding|instead|together|like|unlike)\b"
    rf".*\b(?:{_ASKS})\b",
    re.IGNORECASE | re.DOTALL,
)
_ASKED_LATE = re.compile(  # "Manning took how many teams there?", "Parcels over 2 kg: are they insured?"
    r"\b(?:what|whose|how (?:many|much|long|often|far|old|high|large))\b"
    r"|\b(?:in|on|at|to|from|by|for|of|with|under) (?:which|whom)\b"
    rf"|[:;–—]\s*(?:{_ASKS})\b",
    re.IGNORECASE,
)
_IMPERATIVE = re.compile(
    r"(?:list|describe|explain|outline|give|name|state|summari[sz]e|provide|walk|show)\b", re.IGNORECASE
)
_TEXT = (
    r"(?:passage|section|text|document|excerpt|paragraph|article|context|chapter|page|snippet|table|figure|sentence)s?"
)
_POINTS = re.compile(
    rf"""\b(?:the|this)\ (?:\w+\ )?(?:passage|excerpt|snippet|paragraph)s?\b
      | \bthe\ (?:text|context|author)\b
      | \b(?:this|these|that|those|above|given|provided|following|preceding|previous)\ (?:\w+\ )?{_TEXT}\b
      | \b(?:according\ to|based\ on|(?:mentioned|described|stated|listed|shown|discussed|given)\ (?:in|by))
        \ (?:the|this|that)\ {_TEXT}(?!\ (?:of|on|about|for)\b)
      | \b(?:mentioned|described|listed|shown|stated|given|noted|see|as|the)\ (?:above|below)\b
      | \b(?:above|below)-?mentioned\b | \b(?:above|below)\W*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_AUXILIARY = r"(?:is|are|was|were|do|does|did|can|could|may|might|must|should|shall|will|would)"
_PRONOUN = re.compile(
    rf"""^\W*(?:\w+\W+){{0,6}}?(?:
        {_AUXILIARY}\ (?:this|that|these|those|its|his|her|their)
      | (?:{_AUXILIARY}|has|have|had)\ (?:he|she|they
          |it(?!\ (?:takes?|taken|possible|impossible|allowed|permitted|forbidden|prohibited|necessary|required
                 |mandatory|optional|enough|sufficient|safe|legal|illegal|okay|ok|true|advisable|recommended|appropriate
                 |important|useful|helpful|common|normal|usual|customary|likely|easy|hard|difficult|good|bad|best|better
                 |worth|time|mean|costs?|make\ sense
                 |(?:called|determined|decided|said|known|expected)\ (?:when|how|that|if|whether))\b)))\b
      | \b(?:this|these)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DECIDED = re.compile(r"\W*(?:yes|no|maybe|it depends)\b", re.IGNORECASE)
_STEP = re.compile(r"(?:^|(?<=\s))\d+[.)]\s")


@dataclass(frozen=True)
class Candidate:
    """A question with what it is judged by.

    Attributes:
        kind: kind of the question, of `raft.kinds.Kind`.
        question: the question.
        answer: its answer.
        quotes: whether there are quotes and all of them stand in the golden chunks.
        golden: heading and text of each golden chunk.
        min_words: fewest words in a question.
        max_words: most words in a question.
        max_answer_words: most words in an answer.
    """

    kind: str
    question: str
    answer: str
    quotes: bool
    golden: tuple[str, ...]
    min_words: int
    max_words: int
    max_answer_words: int


def judge(candidate: Candidate) -> str | None:
    """Return the first reason of `RULES` that applies, or None."""
    return next((reason for reason, applies in RULES if applies(candidate)), None)


def align_quotes(quotes: list[dict[str, Any]], golden: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return the quotes as they stand verbatim in the golden chunks, or None when one stands in none of them.

    Args:
        quotes: rows of `tables.QUOTE`.
        golden: text of each golden chunk by chunk_id.
    """
    aligned = [_align(quote, golden) for quote in quotes]
    found = [quote for quote in aligned if quote is not None]
    return found if len(found) == len(aligned) else None


def _align(quote: dict[str, Any], golden: Mapping[str, str]) -> dict[str, Any] | None:
    text, start, end = quote["text"] or "", quote["start"], quote["end"]
    own = golden.get(quote["chunk_id"])
    if text and own is not None and start is not None and own[start:end] == text:
        return quote
    for chunk_id in sorted(golden, key=lambda name: name != quote["chunk_id"]):
        span = find_quote(text, golden[chunk_id])
        if span:
            return {"chunk_id": chunk_id, "start": span[0], "end": span[1], "text": golden[chunk_id][slice(*span)]}
    return None


def _malformed(candidate: Candidate) -> bool:
    question, answer = candidate.question.strip(), candidate.answer.strip()
    if not traits(candidate.kind).answered and answer != ABSTENTION:
        return True
    return (
        not normalise(question)
        or not normalise(answer)
        or _DEBRIS.search(question) is not None
        or _DEBRIS.match(answer) is not None
        or _NUMBERED.match(question) is not None
        or len(re.findall(r"[?？](?=\s|$)", question)) > 1
        or _CUT.search(question) is not None
        or _CUT.search(answer) is not None
        or _loops(question)
        or _loops(answer)
    )


def _loops(text: str) -> bool:
    """Tell whether one to six words come three times in a row."""
    words = normalise(text).split()
    return any(
        words[at : at + size] == words[at + size : at + 2 * size] == words[at + 2 * size : at + 3 * size]
        for size in range(1, 7)
        for at in range(len(words) - 3 * size + 1)
    )


def _too_short(candidate: Candidate) -> bool:
    return len(candidate.question.split()) < candidate.min_words


def _too_long(candidate: Candidate) -> bool:
    return (
        len(candidate.question.split()) > candidate.max_words
        or len(candidate.answer.split()) > candidate.max_answer_words
    )


def _not_a_question(candidate: Candidate) -> bool:
    question = candidate.question.strip()
    if traits(candidate.kind).steps and _IMPERATIVE.match(question):
        return False
    if not question.rstrip("\"'”’)").endswith(("?", "？")):
        return True
    return not (_QUESTION.match(question) or _LED_IN.match(question) or _ASKED_LATE.search(question))


def _leans_on_a_text(candidate: Candidate) -> bool:
    question = candidate.question
    if _POINTS.search(question):
        return True
    named = names(question) or any(fact.kind in ("name", "code") for fact in facts(question))
    return not named and _PRONOUN.search(question) is not None


def _answer_absent(candidate: Candidate) -> bool:
    kind, answer, source = traits(candidate.kind), candidate.answer, "\n\n".join(candidate.golden)
    if not kind.answered:
        return False
    if not source:
        return True
    if kind.fixed and _DECIDED.match(answer):
        return False
    if not kind.support:
        return not covers(fact_values(source), fact_values(answer))
    return not supported(_STEP.sub(" ", answer) if kind.steps else answer, source, share=kind.support)


def supported(answer: str, source: str, *, share: float) -> bool:
    """Tell whether an answer stands in a text.

    It does word for word, or when all its numbers, dates, codes and names do and so does a share of its words, from
    0 to 1; an answer of up to four words needs all.
    """
    if contains(source, answer) or _stands(answer.strip(), source):
        return True
    wanted, there = content_words(answer), content_words(source)
    if not wanted or not covers(fact_values(source), fact_values(answer)) or not _named(answer) <= there:
        return False
    return len(wanted & there) >= (1.0 if len(wanted) <= 4 else share) * len(wanted)


def _stands(answer: str, source: str) -> bool:
    """Tell whether an answer stands in a text as it is: between markup, or in "6pm-6am", where its word goes on."""
    return bool(re.search(rf"(?<![^\W_]){re.escape(answer)}(?![^\W_])", source)) if answer else False


def _named(answer: str) -> frozenset[str]:
    """Return the names of an answer but for its first word, which is capitalised as any sentence's."""
    _, _, rest = answer.strip().partition(" ")
    return names(rest) & content_words(answer)


def _not_verbatim(candidate: Candidate) -> bool:
    return traits(candidate.kind).answered and not candidate.quotes


def _given_away(candidate: Candidate) -> bool:
    kind, question, answer = candidate.kind, candidate.question, candidate.answer
    if traits(kind).free:
        return False
    if kind == "date" and fact_values(answer):
        given = frozenset(value for fact in facts(question) if fact.kind == "date" for value in fact_values(fact.text))
        return contains(question, answer) or covers(given, fact_values(answer))
    if kind == "number":  # the 2 of "Quillon 2" does not give "2 years" away
        return contains(question, answer)
    words = content_words(answer)
    return contains(question, answer) or (bool(words) and words <= content_words(question))


RULES: tuple[tuple[str, Callable[[Candidate], bool]], ...] = (
    ("malformed", _malformed),
    ("too short", _too_short),
    ("too long", _too_long),
    ("not a question", _not_a_question),
    ("does not stand alone", _leans_on_a_text),
    ("answer not in chunk", _answer_absent),
    ("quote not verbatim", _not_verbatim),
    ("gives the answer away", _given_away),
)
"""The first rule that applies gives the reason."""
