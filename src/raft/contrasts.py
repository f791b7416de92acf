"""Questions that differ in one word and are answered differently, as in contrast sets (arXiv 2004.02709).

Where a text says that a value rose, whether it rose is answered with yes, and whether it fell with no. Both questions
name the same things, so that only who reads the text can tell them apart.
"""

import re
from collections.abc import Mapping

from raft.text import STEM, stem

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


def _opposites() -> dict[str, str]:
    found = dict(pair.split("/") for pair in _ONE_WAY.split())
    for pair in _BOTH_WAYS.split():
        one, other = pair.split("/")
        found |= {one: other, other: one}
    return found


OPPOSITES: Mapping[str, str] = _opposites()
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
    """Return the question with its one word of `OPPOSITES` turned round.

    Args:
        question: a statement answers it with yes.
        statement: that statement; see `goes_one_way`.

    Returns:
        A question that the statement answers with no; None where the question has no such word, several, or one that
        the statement does not have.
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
