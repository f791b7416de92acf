"""Questions made from the sentence itself, by rule: no model is asked, and nothing is said that it does not say.

The figure's phrase becomes the question word, the verb or its auxiliary goes before the subject, and the rest stays
with all its conditions: "An account is locked for 20 minutes after 6 wrong passwords" becomes "For how many minutes is
an account locked after 6 wrong passwords?" (Heilman and Smith 2010, Good Question! Statistical Ranking for Question
Generation). Of a sentence that is not understood to its last word nothing is asked. English alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from raft.generation import leaning
from raft.generation.facts import StatedFact, Statement, pattern_of, statements
from raft.generation.tasks import Row, Task, check_wording, must, quote_of, row_of
from raft.generation.titles import according
from raft.text import content_words
from raft.text.grammar import NEAR, RANGE
from raft.text.languages import EN
from raft.text.values import Fact, facts
from raft.text.verbs import AUXILIARIES, FORMS, HAVE, PARTICIPLES


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


VERSION = 2
"""Raised when other sentences are asked about, or otherwise."""
MODEL = "rules"
"""What stands in the place of a model's name."""
MOST_WORDS, LEAST_TELLING, LONGEST_SUBJECT = 34, 3, 12
"""Words of a question, those of them that say something, and words of a subject."""
_LEAD = re.compile(
    r"(?:during|after|before|in|on|at|for|from|under|within|with|without|if|when|once|until|since|by|unless)\b[^,]*",
    re.IGNORECASE,
)
_SAYS_NOTHING = re.compile(r"In\s(?:addition|all|contrast|fact|general|particular|sum|total|turn)$|By\scontrast$")
_CONDITION = re.compile(r"(?:if|when|once|unless|until|since\s\w+\s\w+\s)\b", re.IGNORECASE)
_REFERS = re.compile(
    r"\b(?:it|he|she|they|them|him|this|these|those|such|his|her|we|our|us|i|my|me|here|there|latter|former|above|below"
    r"|not|never|cannot|no|nor|neither|only|even|respectively|versus|vs|example|instance)\b|n['’]t\b",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r",?\s(?:of\swhich|which|who|whose|where|while|although|whereas|because|so\sthat|since|as|but)\b|,\s(?:and|so|or|with)\b"
)
_KEPT = re.compile(r"\b(?:if|unless|only|except|provided|whichever|but\snot|when|until)\b", re.IGNORECASE)
_DANGLES = re.compile(r"\b(?:in|on|at|by|for|from|to|of|with|under|into)$|,\s(?:the|an?)\s[a-z]+$")
_INNER = _set(
    "who which that whose whom where when if whether because while although as until unless once since than how why"
    " what so whichever"
)
"""What begins a clause within a clause."""
_AGENTS = _set("by before at under from with in as to")
_ASIDE = re.compile(r"\s\([^()]{0,80}\)(?=[\s,.])")
_UNREAD = re.compile(r":(?!\d)|[?!;()\[\]\"“”|*—]|\.\s|--|[^\W\d]–|–[^\W\d]")
_SECOND = re.compile(r"\b(?:and|or|to)\s(?:[a-z]+\s){0,3}[$€£]?\d")
# "more than 8" is a figure here, and in a question of others a bound; "within" is asked for as a preposition
_LIMIT = rf"(?:{NEAR}|(?:more|less|fewer)\sthan|the\s(?:first|last|next|following)|a\stotal\sof)\s"
_PREPOSITION = r"(?:within|for|after|before|until|since|by|in|at|on|to|during|from)"
_BEFORE = re.compile(rf"(?:(?<=\s)|^)(?:(?P<prep>{_PREPOSITION})\s)?(?P<limit>{_LIMIT})?$", re.IGNORECASE)
_MEASURE = re.compile(r"(?:^|(?<=\s))an?\s(?P<noun>(?:[a-z-]+\s){1,3})of\s(?P<limit>up\sto\s|at\sleast\s)?$")
_NAMED = re.compile(r"(?:^|(?<=\s))the\s(?P<noun>(?:(?!with|of|for|in|to|and|on)[a-z-]+\s){1,3})$")
_NUMBER = re.compile(
    r"(?P<sign>[$€£])?\d[\d,.]*(?:\s(?:thousand|million|billion|trillion))?"
    r"(?:[\s-](?P<unit>[a-z][a-z ]+)|(?P<part>%))?"
)
_COUNTED = re.compile(
    r"\s(?!(?:or|and|to|versus|vs|of|times)\b)"
    r"(?P<noun>(?:[a-z]+\s){0,2}?(?:[a-z]{2,}(?<!s)s|people|men|women|children|staff))\b(?!['’])"
)
_STOP = (
    r"(?=$|,|\s(?:in|on|at|for|from|per|by|with|within|without|during|after|before|until|since|to|when|if|as|and|or"
    r"|an?|each|is|are|was|were|has|have|had|can|could|may|might|must|shall|should|will|would|lies?|ahead|every)\b)"
)
_OF = re.compile(rf"\sof(?:\s[\w'’-]+){{1,5}}?{_STOP}")
_GOES_ON = re.compile(rf"{_STOP}|\s(?:of|ahead|ago|later|earlier|old|long|wide|high|deep|tall|thick|together|once)\b")
_AWAY = re.compile(
    r"\s(?:ahead|ago|later|earlier)\b|\s(?:before|after|from)\b(?:(?!\s(?:if|when|unless|so|at|in|on|by|for|to)\b)[^,])*$"
)
_SIZED = re.compile(r"\s(?:old|long|wide|high|deep|tall|thick)\b(?!\s(?:and|or))")
_OF_ITS_OWN = re.compile(r"(?:with|without|who|whose|that|from|[a-z]{3,}ing|[a-z]{2,}ed)\b")
"""What goes on about the things that are counted, and not about the sentence."""
_BEFORE_DATE = re.compile(r"\b(?:after|before|since|until|despite|following)\s[^,]*$|(?<!the\s)\b[a-z]{3,}ing$")
_SPELLED = {
    "km": "kilometres",
    "kg": "kilograms",
    "cm": "centimetres",
    "mm": "millimetres",
    "m": "metres",
    "g": "grams",
}
_RANGE = re.compile(rf"(?:(?<=\s)|^){RANGE}\s$")
_PAID = _set("cost pay charge spend")


class _Phrase(NamedTuple):
    """A figure with what belongs to it: its place in the sentence, how it is asked for, and the answer."""

    start: int
    end: int
    asked: str
    answer: str
    free: bool = False  # it may stand anywhere, not behind the verb alone
    counts: bool = False  # it is a number of things, of which more may be said behind


class _Clause(NamedTuple):
    subject: str
    verb: str
    rest: str


def rule_ask(chunk: Mapping[str, Any], target: StatedFact, context: str, *, name_document: bool) -> Task:
    """Return the question of a target of `rule_targets` as a task without a request; look-alikes are named in it."""
    title = context.split(" > ", 1)[0]
    words, named = content_words(title), content_words(target.opening)
    question = target.opening
    general = name_document or _general(question, target.statement, chunk["text"])
    if title and len(words & named) * 2 <= len(words) and general:
        question = according(title, question)
    row = row_of(question, target.answer, target.kind, quote_of(chunk, target.start, target.end))

    def read(_: str) -> list[Row]:
        return [row]

    return Task(None, read, chunk["chunk_id"], (chunk["doc_id"],), None)


_DEFINITE = re.compile(
    rf"\bthe\s[a-z]+\?$|\b(?:{'|'.join(sorted(AUXILIARIES))}|do|does|did)\sthe\s[a-z]+\s"
    rf"(?:{'|'.join(sorted(PARTICIPLES | {base for _, base in FORMS.values()}))})\b"
)


def _general(question: str, statement: str, passage: str) -> bool:
    """Tell whether a question has no name and no figure, or is about "the network": many documents might answer it.

    The word that begins the statement is no name for its capital, unless it has one within a sentence too.
    """
    first = statement.split(" ", 1)[0]
    inside = re.search(rf"[a-z,;]\s{re.escape(first)}\b", passage)
    bare = question if inside else question.replace(f" {first} ", " ")
    return not re.search(r"\s(?:[A-Z]|\S*\d)", bare) or _DEFINITE.search(question) is not None


def rule_targets(
    text: str, kinds: Sequence[str], *, stated: Iterable[Statement] | None = None, heading: str = ""
) -> list[StatedFact]:
    """Return what can be asked of a chunk's text by rule, the sentences that say most first.

    `opening` is the whole question. Of a sentence, as many figures are asked for as it is understood of, at most two;
    of one that leans on its neighbours (`leaning`), or on the `heading` that the chunk stands below, nothing is.
    """
    found: list[StatedFact] = []
    for statement in statements(text) if stated is None else stated:
        if statement.cells or leaning.is_aim(text, statement.start, heading):
            continue
        raw, wording = " ".join(text[statement.start : statement.end].split()), statement.wording
        bare = _ASIDE.sub("", wording)
        own = facts(bare)
        made = []
        for fact in own:
            kind = "fact" if fact.kind == "code" else fact.kind
            if kind not in kinds or wording.count(fact.text) != 1:
                continue
            if pair := question_of(bare, fact, own, text, heading):
                question, answer = pair
                if answer in raw and not leaning.leans(question, answer, wording, text, statement.start):
                    made.append(StatedFact(kind, answer, statement.start, statement.end, wording, question, ""))
        found += [replace(one, pattern=pattern_of(wording)) for one in made[:2]]
    return sorted(found, key=lambda one: -min(10, len(content_words(one.statement))))


def question_of(
    sentence: str, fact: Fact, own: Sequence[Fact], passage: str = "", heading: str = ""
) -> tuple[str, str] | None:
    """Return the question that a sentence answers with one of its `own` facts, and the answer; None where unsure.

    The answer is the fact with its bound, as it stands in the sentence. `passage` tells names from common words, and
    `heading` what needs no more naming.
    """
    try:
        return _question(sentence, fact, own, passage, heading)
    except ValueError:
        return None


def _question(sentence: str, fact: Fact, own: Sequence[Fact], passage: str, heading: str) -> tuple[str, str]:
    body = sentence.removesuffix(".").strip()
    must(body[:1].isupper() and not _UNREAD.search(body), "it is no plain sentence")
    lead, main, offset = "", body, 0
    head = _LEAD.match(body)
    if head and body[head.end() : head.end() + 2] == ", ":
        lead, offset = head[0], head.end() + 2
        main = body[offset:]
    cut = next((one.start() for one in _TAIL.finditer(main) if _finite(main[one.end() :]) or one[0][0] == ","), None)
    if cut is not None:
        must(not _KEPT.search(main[cut:]) and fact.start < offset + cut, "what is left out matters")
        must(not _DANGLES.search(main[:cut]), "what is left out belongs to what stands before")
        must("," not in main[:cut] or main[cut] != "," or _finite(main[cut:]), "a list would be cut")
        main = main[:cut]
    must(not _SAYS_NOTHING.match(lead), "its first words say nothing")
    must(not _REFERS.search(f"{lead} {main}"), "it refers to something else, or denies it")
    clause = _parsed(main)
    must(not leaning.points_back(clause.subject, heading), "its subject is one that was told of before")
    place = offset + len(clause.subject) + 1 + len(clause.verb) + 1
    if fact.end <= offset:
        phrase = _phrase(lead, fact, [one for one in own if one.end <= len(lead)], clause.verb)
        must(phrase.start == 0 and phrase.free and not _CONDITION.match(lead), "the figure is a condition's")
        return _told(f"{phrase.asked}{lead[phrase.end :]} {_inverted(clause, clause.rest, passage)}", phrase, sentence)
    if fact.end <= offset + len(clause.subject):
        phrase = _phrase(clause.subject, _moved(fact, offset), [], clause.verb)
        must(phrase.start == 0 and not phrase.answer.startswith("The "), "the figure is not what the sentence is about")
        asked = f"{phrase.asked}{clause.subject[phrase.end :]} {clause.verb} {clause.rest}"
        return _told(f"{asked} {_lower(lead)}", phrase, sentence)
    must(fact.start >= place, "the figure is the verb")
    rest, fact = clause.rest, _moved(fact, place)
    within = _words(rest[: fact.start])
    must(not _INNER & {*within} and "and" not in within, "the figure is in a clause of its own")
    phrase = _phrase(rest, fact, [_moved(one, place) for one in own if one.start >= place], clause.verb)
    ahead, left = rest[: phrase.start].strip(), rest[phrase.end :].strip()
    must(not left.startswith((",", "and ", "or ")) and not _SECOND.search(left), "the figure is one of several")
    must(not phrase.counts or not _OF_ITS_OWN.match(left), "what is counted goes on")
    of_noun = phrase.asked.startswith("to ") or _BEFORE_DATE.search(ahead)
    must(fact.kind != "date" or not of_noun, "the date is of what stands before it")
    rivals = (one for one in own if place <= one.start < place + phrase.start)
    alike = (one for one in rivals if one.kind == fact.kind == "number" and _unit(one) == _unit(fact))
    must(next(alike, None) is None, "the figure is one of several")
    last = within[-1:] if not ahead else _words(ahead)[-1:]
    passive = clause.verb in AUXILIARIES and not any(map(_participle, _words(ahead)[:-1]))
    must(passive or not any(map(_participle, last)), "the figure is a thing's, not the sentence's")
    beside = not ahead or (clause.verb in AUXILIARIES and _is_verbal(ahead))
    must(phrase.free or beside, "the figure does not stand behind the verb")
    return _told(f"{phrase.asked} {_inverted(clause, f'{ahead} {left}', passage)} {_lower(lead)}", phrase, sentence)


def _moved(fact: Fact, by: int) -> Fact:
    return replace(fact, start=fact.start - by, end=fact.end - by)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _told(question: str, phrase: _Phrase, sentence: str) -> tuple[str, str]:
    whole = " ".join(question.split()).strip(" ,")
    whole = f"{whole[:1].upper()}{whole[1:]}?"
    check_wording(whole, phrase.answer, sentence, "")
    must(
        len(whole.split()) <= MOST_WORDS and len(content_words(whole)) > LEAST_TELLING, "it is too long, or says little"
    )
    return whole, phrase.answer


def _unit(fact: Fact) -> str:
    return re.sub(r"[\d.,\s–-]+", "", fact.text)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text.lower())


def _finite(text: str) -> bool:
    """Tell whether a text may have a verb of its own."""
    return any(word in AUXILIARIES or word in FORMS for word in _words(text))


def _parsed(main: str) -> _Clause:
    """Return subject, finite verb and the rest of a clause that has one finite verb, beside those of clauses within."""
    words = main.split(" ")
    place = next((at for at, word in enumerate(words) if _is_finite(words, at)), 0)
    subject, verb, rest = words[:place], words[place], words[place + 1 :]
    told = [word.lower() for word in subject]
    must(0 < place <= LONGEST_SUBJECT and "," not in "".join(subject), "its subject is not plain")
    must(
        not _INNER & {*told} and not (told[0] in ("you", "your") and verb not in AUXILIARIES),
        "its subject is not plain",
    )
    must(rest[:1] not in (["and"], ["or"]), "it has a second verb")
    for at, word in enumerate(rest):
        bare, before = word.strip(",").lower(), rest[at - 1].strip(",").lower() if at else ""
        if bare in _INNER:
            break
        if bare in ("and", "or", "but") and _coordinated(rest, at, verb):
            rest = rest[:at]
            break
        again = bare in AUXILIARIES and not (bare in ("have", "has") and verb in AUXILIARIES)
        clause = any(one in ("after", "before") for one in rest[:at])  # "after the notice appears"
        again = again or (FORMS.get(bare, ("",))[0] == "does" and before not in ("", *_OPENS) and not clause)
        must(not again, "it has a second verb")
        must(
            not (word.endswith(",") and re.match(r"to$|.*(?:ing|ed)$", (rest[at + 1 :] or [""])[0])),
            "it has a second verb",
        )
    return _Clause(" ".join(subject), verb, " ".join(rest).rstrip(","))


_OPENS = _set("a an the of to for and or in on by with at from its their per each every any all no")
"""Behind these no verb stands."""


def _is_finite(words: Sequence[str], at: int) -> bool:
    word, before = words[at], words[at - 1].lower()
    asked = FORMS.get(word, ("",))[0]
    following = words[at + 1].lower() if at + 1 < len(words) else ""
    if at == 0 or not (asked or word in AUXILIARIES) or (asked and (before in _OPENS or following in AUXILIARIES)):
        return False
    if before in ("to", "need") or (asked == "does" and _participle(before)):
        return False
    plural = before.endswith("s") and not before.endswith("ss")
    if asked == "did":
        alone = not any(one.lower() in FORMS for one in words[:at])
        return alone and (word not in PARTICIPLES or following not in _AGENTS)
    return word in AUXILIARIES or (plural or before == "people" if asked == "do" else not plural)


def _coordinated(rest: Sequence[str], at: int, verb: str) -> bool:
    """Tell whether a clause follows an "and", with or without its subject; ValueError where that is not plain."""
    following = [word.strip(",").lower() for word in rest[at + 1 :]]
    while following and (following[0] in ("then", "also", "usually", "often", "later") or following[0].endswith("ly")):
        following.pop(0)
    first = following[0] if following else ""
    infinitive = "to" in rest[:at] and FORMS.get(first, ("",))[0] == "do"  # "to plan and attend" is one deed of two
    must(not infinitive, "what is joined is not plain")
    if first in AUXILIARIES | {"be"} or first in FORMS or any(word in AUXILIARIES for word in following):
        return True
    singular = verb in ("is", "was", "has") or FORMS.get(verb, ("",))[0] == "does"
    alone = first.endswith("s") and not first.endswith("ss") and not rest[at - 1].strip(",").endswith("s")
    must(first and first not in _INNER | PARTICIPLES and not (alone and singular), "what is joined is not plain")
    return False


def _participle(word: str) -> bool:
    return word in PARTICIPLES or word.endswith("ed")


def _is_verbal(ahead: str) -> bool:
    """Tell whether words between an auxiliary and the figure are a verb alone: "may spend"."""
    words = ahead.split()
    return len(words) == 1 and (words[0] in FORMS or words[0] in PARTICIPLES)


def _inverted(clause: _Clause, rest: str, passage: str) -> str:
    first = rest.strip().split(" ", 1)[0].strip(",")
    subject, verb = _lowered(clause.subject, clause.verb, passage), clause.verb
    own = HAVE.get(verb) if first not in PARTICIPLES and not first.endswith("ed") else None
    if verb in AUXILIARIES and not own:
        return f"{verb} {subject} {rest}"
    helper, base = own or FORMS[verb]
    return f"{helper} {subject} {base} {rest}"


_SMALL = EN.words | _set(
    "every all any some no both each most many several up about only new part you your staff people"
)


_BEHIND_MANY = r"of|for|on|in|to|from|with|about|under|(?:and|or)\s[a-z]+s"


def _lowered(subject: str, verb: str, passage: str) -> str:
    """Return a subject as it stands within a sentence: a name keeps its capital."""
    first = subject.split(" ", 1)[0]
    low, rest = first[:1].lower() + first[1:], subject[len(first) :]
    ends = first.endswith("s") and not first.endswith("ss")
    many = verb in AUXILIARIES - {"is", "was", "has"} or FORMS.get(verb, ("",))[0] == "do"
    plural = ends and not rest and many
    plural = plural or (ends and re.match(rf"\s(?:{_BEHIND_MANY})\s", rest) is not None)
    seen = re.search(rf"\b{re.escape(low)}\b", passage) is not None and low != first
    common = low in _SMALL or plural or seen or re.match(r"[A-Z][a-z]+-[a-z]", first) is not None
    return low + rest if common and not first[1:2].isupper() else subject


def _phrase(text: str, fact: Fact, own: Sequence[Fact], verb: str) -> _Phrase:
    """Return the phrase of a fact at `fact.start` of a text; ValueError where it is not plain what it says."""
    before, after = text[: fact.start], text[fact.end :]
    if fact.kind == "name":
        must(before.endswith(" by ") and verb in ("is", "are", "was", "were"), "it does not say who")
        must(" " in fact.text and not re.match(r"\s(?:of|and|or|[A-Z\d])|,|['’]", after), "the name goes on")
        must(re.match(_STOP, after) and any(map(_participle, _words(before))), "nobody does it")
        return _Phrase(fact.start - 3, fact.end, "by whom", fact.text, free=True)
    if fact.kind == "code":
        named = _NAMED.search(before)
        must(named and named.start() == 0 and verb not in AUXILIARIES - {*HAVE}, "it does not say what the code is of")
        return _Phrase(0, fact.end, f"which {named['noun'].strip() if named else ''}", fact.text)
    if re.match(r"\s?(?:to|and|or|until|–|-)\s?\$?\d|[-/]\w", after) or re.search(r"\d\s?(?:to|and|or|–|-)\s$", before):
        return _range(text, fact, own)
    if fact.kind == "date":
        lead = _BEFORE.search(before)
        must(lead and lead["prep"] and not lead["limit"], "nothing says what the date is for")
        must(not re.match(r"\s(?:to|until)\b", after), "the date begins a time")
        must(not re.match(r"\s(?:[A-Z]|season\b|of\b)", after), "the date is a name's, or goes on")
        prep = lead["prep"].lower() if lead else ""
        return _Phrase(fact.start - len(prep) - 1, fact.end, f"{prep} {_date(fact.text)}", fact.text, free=True)
    return _number(before, after, fact, verb)


def _date(text: str) -> str:
    if re.fullmatch(r"\d{4}", text):
        return "which year"
    if re.search(r"\d:\d\d|\d ?[ap]\.?m", text):
        return "what time"
    return "which month" if re.fullmatch(r"[A-Za-z.]+ \d{4}", text) else "which date"


def _range(text: str, fact: Fact, own: Sequence[Fact]) -> _Phrase:
    other = next((one for one in own if one.kind == fact.kind == "date" and one.start > fact.start), fact)
    opens = _RANGE.search(text[: fact.start])
    must(opens and text[fact.end : other.start].strip() in ("and", "to", "until"), "the range is not plain")
    start = opens.start() if opens else fact.start
    return _Phrase(start, other.end, f"between {_date(fact.text)}s", text[start : other.end], free=True)


def _number(before: str, after: str, fact: Fact, verb: str) -> _Phrase:
    figure = _NUMBER.fullmatch(fact.text)
    if figure is None or after[:1] in ("%", "-", "/", "'", "’"):
        raise ValueError("the figure goes on")
    unit, sign = figure["unit"] or "", figure["sign"]
    share = unit.startswith(("percent", "per cent")) or bool(figure["part"])
    measure = _MEASURE.search(before)
    if measure and (unit or sign) and not share:
        limit = measure["limit"] or ""
        return _Phrase(measure.start(), fact.end, f"what {measure['noun'].strip()}", limit + fact.text)
    lead = _BEFORE.search(before)
    if lead is None:
        raise ValueError("something else stands before the figure")
    counted = _COUNTED.match(after) if not (unit or sign or share) else None
    must(unit or sign or share or counted, "the figure counts nothing")
    asked, end = "what percentage", fact.end + (counted.end() if counted else 0)
    if sign or (unit in ("euros", "dollars", "pounds") and FORMS.get(verb, ("", ""))[1] in _PAID):
        asked = "how much"
    elif not share:
        asked = f"how many {counted['noun'] if counted else _SPELLED.get(unit, unit)}"
        must(asked.endswith(("s", "feet", "people", "men", "women", "children", "staff")), "the unit has no plural")
    tail = after[end - fact.end :]
    must(share or not unit or _GOES_ON.match(tail), "the unit goes on")
    part = _OF.match(tail) if not sign else None
    prep = f"{lead['prep'].lower()} " if lead["prep"] else ""
    must(part or not (tail.startswith(" of ") or (share and prep in ("", "in "))), "it is not plain of what")
    sized = _SIZED.match(tail) if verb in ("is", "are", "was", "were") else None
    away = _AWAY.match(tail) if unit and not lead["prep"] else None
    must(away is None or away[0].strip() not in ("later", "earlier"), "than what is not said")
    for piece in (part or sized, away):
        asked, end = (asked + piece[0], end + len(piece[0])) if piece else (asked, end)
    answer = (lead["limit"] or "") + fact.text
    return _Phrase(lead.start(), end, prep + asked, answer, free=bool(prep or away), counts=counted is not None)
