"""How long answers are: those that were trained on, those that are asked for, those that a user's examples show."""

from collections.abc import Sequence
from statistics import median

from raft.kinds import traits
from raft.rag.format import is_no_answer
from raft.text import word_count

LONG = 10
"""Words from which an answer is a sentence rather than a fact: "at most 5 working days" has five."""
_TIMES = 3
"""So many times as long, answers are of another kind."""
_LEAST = 5
"""Words by which they differ then, so that two words against six do not count."""


def typical(answers: Sequence[str]) -> float | None:
    """Return the median number of words of the answers that answer something; None without any."""
    counts = [word_count(one) for one in answers if not is_no_answer(one)]
    return median(counts) if counts else None


def apart(trained: Sequence[str], asked: Sequence[str]) -> str | None:
    """Return a sentence where the answers trained on have other lengths than the references asked for; else None."""
    one, other = typical(trained), typical(asked)
    if one is None or other is None:
        return None
    low, high = sorted((one, other))
    if high < _TIMES * low or high - low < _LEAST:
        return None
    said = f"the training answers have {one:g} words at the median, the references {other:g}"
    more = "a gain may be one of length alone, and a loss may be as well"
    return f"what is trained on and what is asked for differ: {said}; {more}."


def unlike_examples(examples: Sequence[str], kinds: Sequence[str]) -> str | None:
    """Return a sentence where the examples' answers are sentences and no kind asked for has such; else None."""
    words = typical(examples)
    if words is None or words < LONG or any(traits(kind).sentences or traits(kind).steps for kind in kinds):
        return None
    return (
        f"answers like those of answer_style.examples, of {words:g} words: the kinds asked for ({', '.join(kinds)}) are"
        " answered in some words, which are then worded in that style; --set questions.kinds=[explanation] has a"
        " capable model (questions.way=items) ask for one to three sentences"
    )
