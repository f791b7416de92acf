"""Questions that are answered with yes, no or maybe: a sentence and the word are given, the model writes the question.

The words come in turn, so that neither is learned by heart: a student that has only seen "yes" answers nothing else.
"""

import re
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from raft.asks import Ask, check_wording, grounded
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
_REFERS = re.compile(r"\b(?:sentence|passage|paragraph|text|section|statement|above|following)\b", re.IGNORECASE)


def turns(share: float) -> Callable[[str], str | None]:
    """Return what tells of one sentence after the other whether it is asked for a decision, and which one.

    Args:
        share: share (0 to 1) of the sentences that are; the others get None.

    Returns:
        A function of a sentence: "maybe" where it says of itself that it is not certain, else "yes" and "no" in turn.
    """
    part, words = 0.0, cycle(("yes", "no"))

    def turn(sentence: str) -> str | None:
        nonlocal part
        part += share
        if part < 1 - 1e-9:
            return None
        part -= 1
        return "maybe" if _OPEN.search(sentence) else next(words)

    return turn


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
    messages = prompt.render(context=chunk["heading"], statement=statement, answer=answer)

    def question(reply: str) -> str:
        text = " ".join(reply.strip().split("\n", 1)[0].split())
        check_wording(text, "", statement, chunk["heading"])
        if _NEGATED.search(text):
            raise ValueError("it is asked in the negative")
        if not _OPENS.match(text):
            raise ValueError("it is no question for yes or no")
        if _REFERS.search(text):
            raise ValueError("it speaks of the sentence")
        known, stated = grounded(text, statement, chunk["heading"])
        if stated < 2 or known < GROUNDED:
            raise ValueError("it is about something else")
        return text

    def read(reply: str) -> list[dict[str, Any]]:
        quote = {"chunk_id": chunk["chunk_id"], "start": start, "end": end, "text": chunk["text"][start:end]}
        return [{"question": question(reply), "answer": answer, "kind": "decision", "quotes": [quote]}]

    return Ask(Request(messages, QUESTION_TOKENS, check=question), read, chunk["chunk_id"], (chunk["doc_id"],), prompt)
