"""Why an answer has the score it has, in one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from raft.bearing import unanswerable
from raft.scoring import contains_reference, f1
from raft.text import contains, normalise

_ARTICLES = frozenset({"a", "an", "the"})


def why(answer: Mapping[str, Any], question: Mapping[str, Any], bearing: Sequence[str]) -> str:
    """Return the reason for a score in one sentence.

    Args:
        answer: a row of `tables.ANSWERS`.
        question: its row of `tables.EVALUATION`.
        bearing: ids of the chunks that bear the question's answer; empty where none is known.
    """
    if answer["error"] is not None:
        return f"There is no reply: {answer['error'].rstrip('.')}."
    if answer["condition"] == "withheld" or unanswerable(question):
        hidden = (
            "what bears the answer was withheld" if not unanswerable(question) else "the documents do not answer it"
        )
        return f"Abstained, and rightly: {hidden}." if answer["abstained"] else f"Answered, though {hidden}."
    shown = [name for name in answer["shown"] if name in set(bearing)]
    if answer["abstained"]:
        return f"Abstained, {_abstained(answer, bearing, shown)}."
    said = _compared(answer["answer"], question["answers"])
    if said.startswith("No word") and shown:
        said += f", though chunk {shown[0]} bears the answer"
    if answer["shown"] and bearing and not shown:
        said += "; the right chunk was not retrieved"
    if not answer["followed"]:
        said += "; the reply did not keep the form, and all of it was scored"
    return f"{said}."


def _abstained(answer: Mapping[str, Any], bearing: Sequence[str], shown: Sequence[str]) -> str:
    if shown:
        return f"though chunk {shown[0]} bears the answer"
    if not answer["shown"]:
        return "and no document was shown"
    return "and the right chunk was not retrieved" if bearing else "though the question has an answer"


def _compared(answer: str, references: Sequence[str]) -> str:
    if not references:
        return "There is no reference to compare with"
    best = max(references, key=lambda one: f1(answer, [one]))
    if f1(answer, [best]) == 1:
        return f"The answer has the same words as the reference '{best}'"
    contained = [one for one in references if contains_reference(answer, [one])]
    if contained:
        return f"The reference '{max(contained, key=len)}' is contained in a longer answer"
    if contains(best, answer):
        return f"The answer is a part of the reference '{best}'"
    given = set(normalise(answer).split())
    common = [word for word in dict.fromkeys(normalise(best).split()) if word in given and word not in _ARTICLES]
    if common:
        words = f"words '{' '.join(common)}' are" if len(common) > 1 else f"word '{common[0]}' is"
        return f"The {words} in both the answer and the reference '{best}'"
    return f"No word of the reference '{best}' is in the answer"
