"""The kinds of question, and all that differs between them: one table.

A kind that a capable model is asked for (`items`) is a name in `Kind` and a line here. One that is asked for in another
way has its targets (`generation.facts`) or its asks (as `generation.yes_no`) besides.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fact", "number", "date", "name", "procedure", "explanation", "comparison", "decision", "unanswerable"]


@dataclass(frozen=True)
class Traits:
    """What the rest of raft asks about a kind.

    Attributes:
        meaning: what a model that writes items is told; empty: it is not asked for such.
        exact: its answer is a fact of the text, and its question must not hold it.
        compared: its facts are set against those of look-alike documents.
        worth: how gladly a small model's questions are spent on it.
        answered: the documents answer it.
        fixed: it is answered with one of a few words, so that equal answers do not make questions one.
        free: its question may hold words of its answer.
        special: it is asked of few chunks, as a share of a document's questions, and makes no worked example.
        steps: its answer is a list of steps, and it may be a request ("List ...").
        sentences: its answer is sentences of the text; capable models alone are asked for it (`items`).
        support: share (0 to 1) of an answer's words that the golden chunks must hold; 0: its facts alone.
        needs: what of a survey it looks at.
        version: of the rules and the prompt of its own that it is asked by, beside those of all; 0: it has none.
            Raised when other sentences are chosen, or answered otherwise: runs that ask for the kind ask anew.
    """

    meaning: str = ""
    exact: bool = False
    compared: bool = False
    worth: float = 0.0
    answered: bool = True
    fixed: bool = False
    free: bool = False
    special: bool = False
    steps: bool = False
    sentences: bool = False
    support: float = 0.8
    needs: frozenset[str] = frozenset()
    version: int = 0


KINDS: dict[str, Traits] = {
    "fact": Traits(
        "a fact other than a number, date or name, for example a code or a rule", exact=True, compared=True, worth=3.0
    ),
    "number": Traits("the answer is a number with its unit", exact=True, compared=True, worth=3.0),
    "date": Traits("the answer is a date or a time", exact=True, compared=True, worth=3.0),
    "name": Traits("the answer is the name of a person, team, place or product", exact=True, worth=2.5),
    "procedure": Traits("the answer is the steps to take, in order", steps=True, support=0.6),
    "explanation": Traits(
        "why or how something is so, or what happens in some case; the answer is one to three sentences of the passage"
        " that say it, of 50 words at most, copied character for character, and the quote is the first of them",
        sentences=True,
    ),
    "comparison": Traits(free=True, special=True, support=0.0, needs=frozenset({"notices", "pairs"})),
    "decision": Traits('the answer is "yes", "no" or "maybe"', worth=1.0, fixed=True, free=True, version=2),
    "unanswerable": Traits(
        "a question on the same subject that the passage does not answer; answer and quote are empty",
        answered=False,
        fixed=True,
        free=True,
        special=True,
        needs=frozenset({"vocabulary"}),
    ),
}


def traits(kind: str) -> Traits:
    """Return the line of a kind; a kind that a user made up has nothing special."""
    return KINDS.get(kind, Traits())
