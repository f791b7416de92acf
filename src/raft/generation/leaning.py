"""What a sentence leaves to its neighbours, so that a question made of it alone would be wrong, or about nothing named.

What is told under a word such as "targets" is no fact; a figure may lack what the sentence before says of its own
("within 15 days" behind "within 10 days of the request"); and "the fee" may be one that is told of before. In English.
"""

import re

from raft.text import content_words, sentences, stem

_AIM = re.compile(
    r"\b(?:targets?|goals?|aims?|objectives?|forecasts?|estimates?|proposals?|scenarios?|examples?|drafts?)\b",
    re.IGNORECASE,
)
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d+[.)]|[a-z]\))\s")
_BEGINS = re.compile(rf"\n(?=[ \t]*\n|{_ITEM.pattern})")
_OTHER = r"(?:new|old|other|same|first|second|last|next|final)"
_TOLD = re.compile(rf"the (?P<which>{_OTHER} )?(?P<noun>[a-z]+)", re.IGNORECASE)
_PERSON = re.compile(r"\w{3,}(?:er|or|ee|ant|ent|ist|ian)s?$|\w*(?:man|woman|men|women|people)$|staff$|company$")
_OWN = r"(?:of|after|from|before|since|per|each|every|an?)\b"
_COUNT = re.compile(
    rf"(?P<verb>[a-z]+)\s(?:(?:up\sto|at\s(?:least|most)|within|for|by|to|only|about)\s){{0,2}}"
    rf"\d[\d,.]*\s(?:(?:working|calendar|business)\s)?(?P<unit>[a-z]+?)s?(?P<own>\s{_OWN})?(?=\s|[.,;]|$)",
    re.IGNORECASE,
)


def is_aim(text: str, start: int, heading: str) -> bool:
    """Tell whether what stands at a place of a chunk is told as a target, a forecast or an example, and not as a fact.

    The heading says so, or the sentence with a colon that leads into the list of which it is an item.
    """
    return _AIM.search(f"{heading.rpartition(' > ')[2]}\n{_led_in(text, start)}") is not None


def _led_in(text: str, start: int) -> str:
    """Return what ends in a colon above the list of which a place is in an item; "" where nothing does."""
    begun = text.rfind("\n", 0, start) + 1
    if not _ITEM.match(text, begun):
        return ""
    above = (block.strip("\n") for block in reversed(_BEGINS.split(text[:begun])))
    lead = next((block for block in above if block.strip() and not _ITEM.match(block)), "")
    return lead if lead.rstrip().endswith(":") else ""


def leans(question: str, answer: str, statement: str, text: str, start: int) -> bool:
    """Tell whether a question lacks what the sentence before its statement, at a place of a text, says for both."""
    before = _before(text, start)
    return _belongs(question, before) or _is_short(statement, answer, before)


def _is_short(statement: str, answer: str, before: str) -> bool:
    """Tell whether the sentence before says of a figure in the same place what a statement leaves out of its own.

    "Parents may take up to 12 days per year. Single parents may take up to 20 days."
    """
    own = next((one for one in _COUNT.finditer(statement) if one.end() > statement.find(answer) >= one.start()), None)
    if own is None or own["own"]:
        return False
    others = (one for one in _COUNT.finditer(before) if one["own"])
    return any((one["verb"], one["unit"]) == (own["verb"], own["unit"]) for one in others)


def points_back(subject: str, heading: str) -> bool:
    """Tell whether a subject is "the fee" alone, "the new owner" or "their fee": of what, only the passage says.

    Not where a heading names it, nor where it is somebody: "the customer" is a customer.
    """
    if subject.partition(" ")[0].lower() in ("their", "its"):
        return True
    told = _TOLD.fullmatch(subject)
    if told is None or (not told["which"] and _PERSON.match(told["noun"])):
        return False
    return stem(told["noun"].lower()) not in _stems(heading)


def _belongs(question: str, before: str) -> bool:
    """Tell whether a question has a thing alone of which the sentence before says whose it is."""
    things = re.findall(r"\bthe ([a-z]+)(?=[?,]| (?:and|or|if|when)\b)", question)
    things += re.findall(r"\bof the ([a-z]+) (?:is|are|was|were|can|may|must|should|will|do|does|did)\b", question)
    return any(re.search(rf"\b{thing} (?:of|for)\b", before, re.IGNORECASE) for thing in things)


def _before(text: str, start: int) -> str:
    """Return the sentence before a place, if it is of the same paragraph, on one line."""
    ends = [(first, last) for first, last in sentences(text) if last <= start]
    first, last = ends[-1] if ends else (0, 0)
    apart = "\n\n" in text[last:start] or text.startswith("#", first)
    return "" if apart else " ".join(text[first:last].split())


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(stem, content_words(text)))
