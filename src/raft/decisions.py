"""Questions that are answered with yes, no or maybe: a sentence and the word are given, the model writes the question.

The word follows from the sentence: a negated one is answered with no, one that says that it is not certain with maybe.
A small model that is given "no" with a plain sentence asks for what the sentence says all the same (a model of 1.5
billion parameters did so for nearly all of some 35 sentences of abstracts). Plain sentences are the most by far, so
they have to wait for the others: a student that has mostly seen "yes" answers nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raft.asks import Ask, check_wording, grounded, section
from raft.prompts import Prompt
from raft.protocols import Request
from raft.targets import plain

QUESTION_TOKENS = 40
GROUNDED = 0.5
"""Least share of a question's words that the sentence or its heading holds."""

_OPENS = re.compile(
    r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)\b", re.IGNORECASE
)
_NEGATED = re.compile(r"\b(?:not|never|no)\b|n['’]t\b", re.IGNORECASE)
_OPEN = re.compile(
    r"\b(?:might|perhaps|possibly|unclear|unknown|uncertain|inconclusive|remains?\sto\sbe|suggest(?:s|ed|ing)?|seem(?:s|ed)?"
    r"|appear(?:s|ed)?\sto|tend(?:s|ed)?\sto|trend\stowards?)\b",
    re.IGNORECASE,
)
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
_RARE_FIRST = ("no", "maybe", "yes")


def verdict(sentence: str) -> str | None:
    """Return what a question that asks for a sentence in the positive is answered with.

    Returns:
        "yes", "no" or "maybe"; None where a clause beside the first is negated: then nobody knows which is asked for.
    """
    if _OPEN.search(sentence):
        return "maybe"
    denied = _DENIES.search(sentence)
    if denied is None:
        return "yes"
    return None if _CLAUSE.search(sentence[: denied.start()]) else "no"


class Balance:
    """Chooses sentences so that as many questions are answered with yes as with no, as far as a corpus allows.

    Args:
        share: share (0 to 1) of the questions that are decisions.
    """

    def __init__(self, share: float) -> None:
        self._share, self._part = share, 0.0
        self._asked = dict.fromkeys(_RARE_FIRST, 0)

    def choose(self, sentences: Sequence[str], count: int) -> dict[int, str]:
        """Return places of sentences that are asked for decisions, each with its answer; none twice.

        Args:
            sentences: of a chunk, first to last.
            count: questions that the chunk may have, of all kinds.
        """
        self._part += self._share * count
        most = int(self._part + 1e-9)
        chosen: dict[int, str] = {}
        self._part -= most
        found = [(answer, place) for place, answer in enumerate(map(verdict, sentences)) if answer]
        for answer, place in sorted(found, key=lambda pair: (_RARE_FIRST.index(pair[0]), pair[1])):
            ahead = answer != "no" and self._asked[answer] > self._asked["no"]
            if len(chosen) < most and not ahead:
                chosen[place] = answer
                self._asked[answer] += 1
        return chosen


def decision_ask(prompt: Prompt, chunk: Mapping[str, Any], start: int, end: int, answer: str) -> Ask:
    """Ask for the question that the chunk's characters `start` to `end` answer with `answer`.

    Args:
        prompt: `prompts/decision.md`.
        chunk: a row of `tables.CHUNKS`.
        start: where the sentence begins in the chunk's text.
        end: where it ends.
        answer: "yes", "no" or "maybe".
    """
    statement = plain(chunk["text"][start:end])
    context = section(chunk)
    messages = prompt.render(context=context, statement=statement, answer=answer)

    def question(reply: str) -> str:
        text = " ".join(reply.strip().split("\n", 1)[0].split())
        check_wording(text, "", statement, context)
        if _NEGATED.search(text):
            raise ValueError("it is asked in the negative")
        if not _OPENS.match(text):
            raise ValueError("it is no question for yes or no")
        if _REFERS.search(text):
            raise ValueError("it speaks of the sentence")
        known, stated = grounded(text, statement, context)
        if stated < 2 or known < GROUNDED:
            raise ValueError("it is about something else")
        return text

    def read(reply: str) -> list[dict[str, Any]]:
        quote = {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": chunk["text"][start:end]}
        return [{"question": question(reply), "answer": answer, "kind": "decision", "quotes": [quote]}]

    return Ask(Request(messages, QUESTION_TOKENS, check=question), read, chunk["chunk_id"], (chunk["doc_id"],), prompt)
