"""Questions that are answered with yes, no or maybe: a sentence and the word are given, the model writes the question.

A negated sentence is answered with no, one that says that it is not certain with maybe. A small model that is given
"no" with a plain sentence asks for what the sentence says all the same (one of 1.5 billion parameters did so for nearly
all of some 35 sentences of abstracts), so that questions about plain ones are turned round by rule. Other plain
sentences are the most by far, and have to wait: a student that has mostly seen "yes" answers nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raft.generation.facts import plain
from raft.generation.tasks import QUESTION_TOKENS, Row, Task, check_wording, grounded, must, quote_of, row_of, section
from raft.prompts import Prompt
from raft.protocols import Request
from raft.text import STEM, content_words, stem

_BOTH_WAYS = """
    higher/lower highest/lowest larger/smaller largest/smallest longer/shorter longest/shortest faster/slower
    fastest/slowest earlier/later older/younger oldest/youngest stronger/weaker strongest/weakest heavier/lighter
    wider/narrower thicker/thinner deeper/shallower better/worse best/worst easier/harder cheaper/dearer more/less
    above/below increase/decrease increases/decreases increased/decreased increasing/decreasing
    positively/negatively
"""
_ONE_WAY = """
    greater/smaller greatest/smallest fewer/more fewest/most reduce/increase reduces/increases reduced/increased
    reducing/increasing reduction/increase reductions/increases improve/worsen improves/worsens improved/worsened
    improving/worsening improvement/worsening improvements/worsening
"""


_PAIRS = [(one, other) for one, other in (pair.split("/") for pair in _BOTH_WAYS.split())]
OPPOSITES: Mapping[str, str] = {
    **dict(pair.split("/") for pair in _ONE_WAY.split()),
    **{word: contrary for one, other in _PAIRS for word, contrary in ((one, other), (other, one))},
}
"""Words that say which way something goes, each with one that says the contrary."""

_WAY = re.compile(
    rf"(?:(?<![\w-])(?P<article>an?)\s+)?(?<![\w-])(?P<way>{'|'.join(OPPOSITES)})(?![\w-])", re.IGNORECASE
)
_NO_WAY = re.compile(
    r"\b(?:lower|higher|upper)\s(?:limbs?|extremit\w+|back|abdom\w+|body|urinary|respiratory|leg|legs|case|courts?"
    r"|education|house|jaw|lip|lobes?|eyelids?|gastro\w+|incisors?|teeth)\b"
    r"|\bmore\sor\sless\b|\b(?:once|any|what's|further)\smore\b|\bless\sthan\sor\b|\bat\s(?:best|worst)\b|\bno\sless\b",
    re.IGNORECASE,
)


def goes_one_way(statement: str) -> bool:
    """Tell whether a statement has a word of `OPPOSITES`, and none whose contrary it has too."""
    found = _ways(statement)
    return bool(found) and not any(_same(OPPOSITES[one], other) for one in found for other in found)


def reversed_question(question: str, statement: str) -> str | None:
    """Return a question that a statement answers with yes with its one word of `OPPOSITES` turned round: to no.

    None where it has no such word, several, or one that the statement does not have, or does not go one way with.
    """
    ways = _ways(question)
    if len(ways) != 1 or not goes_one_way(statement) or not any(_same(ways[0], one) for one in _ways(statement)):
        return None
    return _WAY.sub(_turned, question)


def _ways(text: str) -> list[str]:
    if _NO_WAY.search(text):
        return []
    return [found["way"].lower() for found in _WAY.finditer(text)]


def _same(one: str, other: str) -> bool:
    return one == other or (len(one) > STEM and stem(one) == stem(other))


def _turned(found: re.Match[str]) -> str:
    way = OPPOSITES[found["way"].lower()]
    if not found["article"]:
        return way.capitalize() if found["way"][0].isupper() else way
    return f"{found['article'][0]}{'n' if way[0] in 'aeiou' else ''} {way}"


GROUNDED = 0.5
"""Least share of a question's words that the sentence or its heading holds."""

_OPENS = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)\b", re.IGNORECASE
)
_NEGATED = re.compile(r"\b(?:not|never|no)\b|n['’]t\b", re.IGNORECASE)
_HEDGED = re.compile(
    r"\b(?:might|perhaps|possibly|suggest(?:s|ed|ing)?|seem(?:s|ed)?|appear(?:s|ed)?\sto|tend(?:s|ed)?\sto"
    r"|trend\stowards?)\b",
    re.IGNORECASE,
)
"""What comes behind it is not certain."""
_OPEN = re.compile(
    r"\b(?:remains?\sto\sbe\b|(?:is|are|was|were|remain(?:s|ed)?)\s(?:\w+\s)?(?:un(?:clear|known|certain)|inconclusive"
    r"|controversial|not\s(?:yet\s)?(?:clear|known|certain))\b)",
    re.IGNORECASE,
)
"""All of the clause is not certain."""
_SUPPOSED = re.compile(
    r"\b(?:whether|if\sthere|hypothes[ei]\w+|(?:aim|purpose|objective|goal)s?\b|we\ssought"
    r"|to\s(?:determine|elucidate|investigate|evaluate|assess|examine|explore|compare|test|clarify))\b",
    re.IGNORECASE,
)
"""What somebody asks or expects, and does not say to be so."""
_REFERS = re.compile(
    r"\b(?:sentence|passage|paragraph|text|section|statement|above|following|we|our|this\s(?:study|paper|work|article))\b"
    r"|^\w+\s(?:the\s)?(?:(?:aim|purpose|goal|objective)s?|study|paper|investigation|article)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\bnot\b(?!\s(?:only|just|(?:more|less|fewer)\sthan))|\bno\b(?!\s(?:more|less|fewer|later|sooner|earlier)\sthan)"
    r"|\b(?:never|none|neither|nor|cannot|fail(?:s|ed)?\sto|(?:was|were|is|are|remain(?:s|ed)?)\sun(?:changed|affected))\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;:(]|\b(?:but|with|than|that|who|whose|which|because|when|if|although|while|whether|only)\b", re.IGNORECASE
)
_RARE_FIRST = (("no",), ("maybe",), ("yes", "no"), ("yes",))


def verdict(sentence: str) -> str | None:
    """Return what a question that asks for a sentence in the positive is answered with: "yes", "no" or "maybe".

    None where a clause beside the first is negated, since nobody knows then which is asked for, and where something
    is supposed only.
    """
    if _OPEN.search(sentence) or _HEDGED.search(sentence):
        return "maybe"
    if _SUPPOSED.search(sentence):
        return None
    denied = _DENIES.search(sentence)
    if denied is None:
        return "yes"
    return None if _CLAUSE.search(sentence[: denied.start()]) else "no"


def answers(sentence: str) -> tuple[str, ...]:
    """Return what a question about a sentence is answered with: two words where it is asked both ways, or none."""
    answer = verdict(sentence)
    if answer == "yes" and goes_one_way(sentence):
        return "yes", "no"
    return (answer,) if answer else ()


class Balance:
    """Chooses sentences so that as many questions are answered with yes as with no, as far as a corpus allows.

    `share` (0 to 1) of the questions are decisions; one that is asked both ways counts once.
    """

    def __init__(self, share: float) -> None:
        self._share, self._part = share, 0.0
        self._asked = dict.fromkeys(("yes", "no", "maybe"), 0)

    def choose(self, sentences: Sequence[str], count: int) -> dict[int, tuple[str, ...]]:
        """Return which of a chunk's sentences are asked for decisions, by number, each with its `answers`.

        `count` is how many questions of all kinds the chunk may have.
        """
        self._part += self._share * count
        most = int(self._part + 1e-9)
        chosen: dict[int, tuple[str, ...]] = {}
        self._part -= most
        found = [(words, place) for place, words in enumerate(map(answers, sentences)) if words]
        for words, place in sorted(found, key=lambda pair: (_RARE_FIRST.index(pair[0]), pair[1])):
            ahead = "no" not in words and self._asked[words[0]] > self._asked["no"]
            if len(chosen) < most and not ahead:
                chosen[place] = words
                for answer in words:
                    self._asked[answer] += 1
        return chosen


def decision_ask(prompt: Prompt, chunk: Mapping[str, Any], start: int, end: int, words: Sequence[str]) -> Task:
    """Ask for the question that the sentence in the chunk's characters `start` to `end` answers.

    `words` are the sentence's `answers`; with two, the question is turned round by rule for the second.
    """
    statement = plain(chunk["text"][start:end])
    context = section(chunk)
    answer, *others = words
    messages = prompt.render(context=context, statement=statement, answer=answer)

    def questions(reply: str) -> list[str]:
        text = " ".join(reply.strip().split("\n", 1)[0].split())
        _check(text, statement, context, answer)
        if not others:
            return [text]
        turned = reversed_question(text, statement)
        if turned is None:
            raise ValueError("it leaves out which way something goes")
        return [text, turned]

    def read(reply: str) -> list[Row]:
        pairs, quote = zip(questions(reply), words, strict=True), quote_of(chunk, start, end)
        return [row_of(question, word, "decision", quote) for question, word in pairs]

    request = Request(messages, QUESTION_TOKENS, check=questions)
    return Task(request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt)


def _check(question: str, statement: str, context: str, answer: str) -> None:
    check_wording(question, "", statement, context)
    must(not _NEGATED.search(question), "it is asked in the negative")
    must(_OPENS.match(question), "it is no question for yes or no")
    must(not _REFERS.search(question), "it speaks of the sentence")
    known, stated = grounded(question, statement, context)
    must(stated >= 2 and known >= GROUNDED, "it is about something else")
    hedge = _HEDGED.search(statement)
    if answer == "maybe" and hedge and not _OPEN.search(statement):
        asked = content_words(question) & content_words(statement)
        uncertain = asked & content_words(statement[hedge.end() :])
        must(2 * len(uncertain) >= len(asked), "it asks for what is certain")
