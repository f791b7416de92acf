"""Whether a question asks for the figure that it is answered with, told by rule from the sentence that is quoted.

A sentence of a manual has several figures, with bounds, ranges and amounts for each of something; small models ask for
the wrong one, or lose what belongs to it. Where what is lost stands beside the figure, the answer is completed from the
quote; where the question is about something else, a rule says so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from raft.text import content_words, places, sentences
from raft.text.grammar import Grammar
from raft.text.languages import EN, Language, stems
from raft.text.records import pairs
from raft.text.values import Fact, covers, fact_values, facts, figures
from raft.text.verbs import FORMS

_ENGLISH = replace(EN, stemmer="english")
VERSION = 1
"""Raised when these rules come to say something else; runs that were cleaned without them stay as they are."""
_GOES_ON, _GOES_ON_BEHIND = re.compile(r"[\w.,]"), re.compile(r"\w|[.,:]\d")
"""What makes a word or a figure go on that stands before or behind a place."""
_MARKUP = re.compile(r"[*_`|\[\]<>\n]")
_DURATIONS = "second minute hour day night week month quarter year century working_day".replace("_", " ")
_DENIED = re.compile(r"\b(?:no|not)\s$", re.IGNORECASE)
_CLOCK = re.compile(r"\d:\d\d|\d ?[ap]\.?m", re.IGNORECASE)


class Said(NamedTuple):
    """A question with the answer and the one sentence of its quote that holds it.

    `heading` is what the quote stands below, `passage` all of its chunk; `language` is the question's. `led`: a small
    model was given the sentence and the answer, and had the question's opening to complete; people, and models that
    choose what to ask, use other words than the sentence and are right.
    """

    question: str
    answer: str
    quote: str
    heading: str
    passage: str
    language: Language = EN
    led: bool = True


@dataclass(frozen=True)
class Stated:
    """A figure that answers a question, at characters `start` to `end` of the quote, which is on one line.

    `fact` is the figure within the answer; `others` are the rest of the quote's figures of its kind.
    """

    quote: str
    start: int
    end: int
    fact: Fact
    others: tuple[Fact, ...]

    @property
    def before(self) -> str:
        """Return what stands before the answer."""
        return self.quote[: self.start]

    @property
    def after(self) -> str:
        """Return what stands behind the answer."""
        return self.quote[self.end :]


def sentence_of(quote: str, answer: str) -> str:
    """Return the first sentence of a quote that holds the answer; the quote, where none does."""
    return next((quote[start:end] for start, end in sentences(quote) if answer in quote[start:end]), quote)


@lru_cache(maxsize=4096)
def stated(answer: str, quote: str) -> Stated | None:
    """Return where a quote states an answer with a figure; None where it has none or several, or stands there twice."""
    line = " ".join(quote.split())
    there = [*places(" ".join(answer.split()), line, _GOES_ON, _GOES_ON_BEHIND)]
    if len(there) != 1:
        return None
    ((start, end),) = there
    found = [fact for fact in facts(line) if fact.kind in ("number", "date")]
    inside = [fact for fact in found if fact.start < end and fact.end > start]
    if len(inside) != 1:
        return None
    fact = inside[0]
    rest = (one for one in found if one.end <= start or one.start >= end)
    return Stated(line, start, end, fact, tuple(one for one in rest if _kind(one) == _kind(fact)))


def _kind(fact: Fact) -> str:
    """Return what a figure is one of: two of a kind can be taken for each other."""
    if fact.kind == "date":
        return "clock" if _CLOCK.search(fact.text) else "year" if fact.text.isdigit() else "date"
    units = {value.unit for value in fact_values(fact.text)}
    return units.pop() if len(units) == 1 else ""


def completed(said: Said) -> str:
    """Return the answer with what belongs to its figure in the quote and neither it nor the question says.

    That is the rest of a range, a bound before ("within 12 months") and an amount behind ("2.25 days per full month").
    """
    question, answer, grammar = said.question, said.answer, said.language.grammar
    found = stated(answer, said.quote)
    if found is None or grammar is None or _of_row(said):
        return answer
    start, end = _range(found, grammar) if not _one_end(question, found, grammar) else (found.start, found.end)
    if (start, end) == (found.start, found.end) and not _ends(found, grammar):
        limit = grammar.limits.search(found.before)
        compared = grammar.compared.search(found.before)
        bound = limit or (compared if compared and not _conditional(question, found, grammar) else None)
        denied = _DENIED.search(found.before, 0, bound.start()) if bound else None
        if bound and not _said(bound[0], question) and (denied is None or "than" in bound[0]):
            start = denied.start() if denied else bound.start()
        behind = grammar.each.match(found.after) or (
            grammar.share.match(found.after) if "percent" in _kind(found.fact) else None
        )
        if behind and not _told(behind[behind.lastgroup or 0], question):
            end += behind.end()
    whole = found.quote[start:end].rstrip()
    return answer if (start, end) == (found.start, found.end) or _MARKUP.search(whole) else whole


def _said(bound: str, question: str) -> bool:
    words = bound.lower().split()
    return re.search(rf"\b{re.escape(words[0])}\b", question, re.IGNORECASE) is not None or (
        words[-1] == "than" and " than " in question
    )


def _told(behind: str, question: str) -> bool:
    """Tell whether a question says what a figure is for each of, or a share of."""
    return any(re.search(rf"\b{re.escape(word)}", question, re.IGNORECASE) for word in behind.split()[1:] or ["each"])


def _ends(found: Stated, grammar: Grammar) -> tuple[Fact, Fact] | None:
    """Return the two ends of the range of which the figure is one, if it is."""
    own = [fact for fact in facts(found.quote) if fact.kind in ("number", "date")]
    for low, high in pairwise(own):
        if found.fact not in (low, high):
            continue
        between = found.quote[low.end : high.start]
        opens = grammar.opens.search(found.quote[: low.start])
        near = between.strip().lower() not in ("and", "to") or opens
        pairs = "and" not in between or (opens and opens[0].lower().startswith("between"))
        if near and pairs and grammar.joins.fullmatch(between):
            return low, high
    return None


def _range(found: Stated, grammar: Grammar) -> tuple[int, int]:
    """Return the place of the whole range of which the figure is one end, or that of the answer."""
    ends = _ends(found, grammar)
    if ends is None:
        return found.start, found.end
    opens = grammar.opens.search(found.quote[: ends[0].start])
    return opens.start() if opens else ends[0].start, max(ends[1].end, found.end)


def _one_end(question: str, found: Stated, grammar: Grammar) -> bool:
    """Tell whether a question asks for the end of a range that the figure is."""
    ends = _ends(found, grammar)
    asked = grammar.lower if ends and found.fact == ends[0] else grammar.upper
    return ends is None or asked.search(question) is not None


def of_a_condition(said: Said) -> bool:
    """Tell whether the answer's figure is the bound of a condition, and the question does not ask for it.

    "An employee who was ill within 12 months is invited to a talk" tells of no time within which anybody is invited.
    """
    found, grammar = stated(said.answer, said.quote), said.language.grammar
    return found is not None and grammar is not None and _conditional(said.question, found, grammar)


def _conditional(question: str, found: Stated, grammar: Grammar) -> bool:
    clause = _clause(found, grammar)
    compared = grammar.compared.search(found.before)
    limiting = compared and (clause is not None or grammar.limiting.search(found.before[: compared.start()]))
    if compared and limiting and not _said(compared[0], question):
        return True
    if clause is None:
        return False
    own = stemmed(clause) - stemmed(found.quote[found.start : found.end])
    return bool(own) and not own & stemmed(question)


def _clause(found: Stated, grammar: Grammar) -> str | None:
    """Return the part of the sentence with the figure in it, if it is a condition or tells more of a thing."""
    begins = [*grammar.clause.finditer(found.before)]
    if not begins:
        return None
    head = found.before[begins[-1].end() :]
    verb = len(re.findall(grammar.breaks, head))  # a clause has one verb; behind it the sentence goes on
    if re.search(r"[,;:()]", head) or verb > 1:
        return None
    stop = grammar.breaks.search(found.after)
    return head + found.quote[found.start : found.end] + found.after[: stop.start() if stop else None]


def another_figure(said: Said) -> bool:
    """Tell whether the quote has another figure of the answer's kind that the question is as near to as to the answer.

    Each figure has the words around it, up to the comma, "and" or "or" that parts it from the next; the question is
    nearer to the one of whose words, or words behind it, it has the greater share. Where nobody led it, only a question
    that is nearer to the other one in both is told: of people's questions (XQuAD) the stricter bound would drop 2 to 5
    in a hundred.
    """
    found, grammar = stated(said.answer, said.quote), said.language.grammar
    if found is None or not found.others or _of_row(said):
        return False
    asked = stemmed(said.question, said.language)
    own = sorted((found.fact, *found.others), key=lambda one: one.start)
    noise = frozenset[str]().union(*(stemmed(fact.text, said.language) for fact in own))

    def fit(words: str) -> float:
        telling = stemmed(words, said.language) - noise
        return len(telling & asked) / len(telling) if telling else 0.0

    fits = {fact: (fit(part), fit(behind)) for fact, part, behind in _parts(found.quote, own)}
    ends = (grammar and _ends(found, grammar)) or ()
    rivals = [one for one in found.others if one not in ends and fact_values(one.text) != fact_values(found.fact.text)]
    whole, behind = fits[found.fact]
    if not said.led:
        return any(fits[one][0] > whole and fits[one][1] >= behind for one in rivals)
    return any(fits[one][0] >= whole or fits[one][1] >= max(behind, 0.01) for one in rivals)


def _parts(line: str, own: list[Fact]) -> Iterator[tuple[Fact, str, str]]:
    """Yield each figure with the words around it, and those of them that stand behind it."""
    cuts = [max((line.rfind(mark, 0, own[0].start) + 1 for mark in (";", ":")), default=0)]
    for left, right in pairwise(own):
        between = line[left.end : right.start]
        marks = [*re.finditer(r"[,;:.]|\b(?:and|or|but|than|while|whereas)\b", between)]
        cuts.append(left.end + (marks[-1].start() if marks else len(between) // 2))
    stop = re.search(r"[,;:]|\.\s", line[own[-1].end :])
    cuts.append(own[-1].end + stop.start() if stop else len(line))
    for fact, (start, end) in zip(own, pairwise(cuts), strict=True):
        yield fact, line[start:end], line[fact.end : end]


def other_type(said: Said) -> bool:
    """Tell whether the question asks for another type of thing than its answer is.

    Only where both are plain: "how many" is not answered without a figure, "when" not with a weight, "where" and "who"
    not with a figure, and "how" and "why" not with a name, a date or a figure alone.
    """
    question, answer, grammar = said.question, said.answer, said.language.grammar
    kinds = {kind for kind, asks in grammar.asks.items() if asks.search(question)} if grammar else set()
    if grammar is None or not kinds:
        return False
    whole = [fact for fact in facts(answer) if len(fact.text) * 3 >= len(answer) * 2]
    kind = whole[0].kind if whole else ""
    counted = any(map(str.isdigit, answer)) or grammar.counted.search(answer) is not None
    units = {value.unit for value in fact_values(answer)} - {""}
    if kinds & {"count", "amount", "length"}:
        wanted = {value.unit for value in fact_values("1 " + _unit_asked(question))} - {""}
        return not counted or bool(wanted and units and not _kin(wanted, units))
    if "time" in kinds:
        return kind in ("number", "code") and bool(units) and not any(unit in _DURATIONS for unit in units)
    if kinds & {"place", "person"}:
        return kind in ("number", "date") and not re.search(r"[A-Z]", answer.split()[0])
    return kind in ("name", "date", "number", "code") and bool(kinds & {"manner", "reason"})


def _unit_asked(question: str) -> str:
    asked = re.search(r"\bhow\smany\s((?:[\w-]+\s){0,2}?[\w-]+)\b", question, re.IGNORECASE)
    if asked is None:
        return "percent" if re.search(r"\bpercent", question, re.IGNORECASE) else ""
    words = asked[1].split()
    return " ".join(words) if fact_values("1 " + " ".join(words)) else words[0]


def _kin(wanted: set[str], units: set[str]) -> bool:
    return any(one.endswith(other) or other.endswith(one) for one in wanted for other in units)


def unsaid(said: Said) -> bool:
    """Tell whether the question says what its passage does not: a figure, or a word in the place of its figure's own.

    A question that leaves out the word before its figure ("reported within 3 days"), and has one of its own in its
    place ("can an accident occur"), asks for something else. A share of such words alone tells nothing: it drops a
    third of people's questions (XQuAD), and none that this does not.
    """
    if not said.led:
        return False
    told = f"{said.heading} {said.answer} {said.passage}"
    if not covers(figures(f"{said.heading} {said.passage} {said.answer}"), figures(said.question)):
        return True
    words = stemmed(said.question, said.language)
    new = words - stemmed(told, said.language)
    found, grammar = stated(said.answer, said.quote), said.language.grammar
    if found is None or grammar is None or _of_row(said):
        return False
    share, asked = grammar.share.match(found.after), re.search(r"\bpercent\w*\sof\b", said.question, re.IGNORECASE)
    if share and asked and not stemmed(share[0]) & words:
        return True
    if not new:
        return False
    before = [stemmed(word, said.language) for word in found.before.split()]
    governing = next((one for one in reversed(before) if one), frozenset[str]())
    return bool(governing) and not governing & words


def _of_row(said: Said) -> bool:
    """Tell whether the quote is a row: the heads of a table stand elsewhere, and in a record each value has its own."""
    return said.quote.lstrip().startswith("|") or len(pairs(said.quote)) > 1


@lru_cache(maxsize=16384)
def stemmed(text: str, language: Language = EN) -> frozenset[str]:
    """Return the stems of the words that carry a text's meaning."""
    known = _ENGLISH if language is EN else language
    light = known.grammar.light if known.grammar else frozenset[str]()
    words = content_words(text.replace("-", " "), known) - light
    plain = [FORMS.get(word, ("", word))[1] for word in words] if language is EN else words  # "began" is "begin"
    return frozenset(stems(plain, known))
