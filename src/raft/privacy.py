"""Personal data and secrets in text: found by rule, and replaced by placeholders.

Rules ask for evidence beyond a shape (a checksum, an issuer's number, a label, a key's known beginning), so that dates,
prices, order numbers, versions and ISBNs stay. They know no names and no postal addresses. All patterns are bounded:
time grows with the length of a text, whatever it holds.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raft import credentials, personal

RULES = 2
"""Version of the rules; a change here looks through every document again."""

Kind = Literal["secret", "iban", "card", "ssn", "email", "phone", "ip"]

PLACEHOLDERS: Mapping[Kind, str] = {
    "secret": "[SECRET]",
    "iban": "[IBAN]",
    "card": "[CARD]",
    "ssn": "[SSN]",
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "ip": "[IP]",
}
"""What stands for each kind in redacted text; where findings overlap, the kind that comes first here is taken."""

_RULES: Mapping[Kind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "secret": credentials.secrets,
    "iban": personal.ibans,
    "card": personal.cards,
    "ssn": personal.social_security_numbers,
    "email": personal.emails,
    "phone": personal.phones,
    "ip": personal.addresses,
}
_RANKS = {kind: rank for rank, kind in enumerate(PLACEHOLDERS)}


@dataclass(frozen=True)
class Finding:
    """A stretch of text that says something about a person, or opens a door.

    Attributes:
        kind: what it is.
        start: its first character.
        end: the character behind its last.
    """

    kind: Kind
    start: int
    end: int


def scan(text: str) -> list[Finding]:
    """Return what the rules find in a text, in order and without overlaps: what overlaps is one finding."""
    spans = sorted((start, end, _RANKS[kind], kind) for kind, find in _RULES.items() for start, end in find(text))
    merged: list[Finding] = []
    for start, end, rank, kind in spans:
        last = merged[-1] if merged else None
        if last is None or start >= last.end:
            merged.append(Finding(kind, start, end))
        else:
            merged[-1] = Finding(kind if rank < _RANKS[last.kind] else last.kind, last.start, max(last.end, end))
    return merged


def redact(text: str, findings: Sequence[Finding]) -> str:
    """Return the text with a placeholder in the place of each finding.

    Args:
        text: the text that was scanned.
        findings: in order and without overlaps, as `scan` returns them.
    """
    parts, begin = [], 0
    for found in findings:
        parts += [text[begin : found.start], PLACEHOLDERS[found.kind]]
        begin = found.end
    return "".join([*parts, text[begin:]])


def moved(offsets: Sequence[int], findings: Sequence[Finding]) -> list[int]:
    """Return where offsets into a text stand once it is redacted; one within a finding goes to its placeholder.

    Args:
        offsets: in rising order, in characters.
        findings: in order and without overlaps.
    """
    places, shift, number = [], 0, 0
    for offset in offsets:
        while number < len(findings) and findings[number].end <= offset:
            found = findings[number]
            shift += len(PLACEHOLDERS[found.kind]) - (found.end - found.start)
            number += 1
        within = number < len(findings) and findings[number].start < offset
        places.append((findings[number].start if within else offset) + shift)
    return places


def cleaned(text: str, offsets: Sequence[int] = ()) -> tuple[str, list[int]]:
    """Return a text in which `scan` finds nothing more, and where offsets (rising, in characters) stand in it.

    A placeholder can lay bare what its neighbour hid, so text is looked through until nothing is found. It comes to an
    end: each round takes characters of the original away, and no rule matches a placeholder.
    """
    places = list(offsets)
    while found := scan(text):
        text, places = redact(text, found), moved(places, found)
    return text, places


def placeholders(text: str) -> Counter[Kind]:
    """Count the placeholders in a text by kind."""
    return +Counter({kind: text.count(word) for kind, word in PLACEHOLDERS.items()})


NAMES = {
    "secret": ("secret", "secrets"),
    "iban": ("IBAN", "IBANs"),
    "card": ("payment card", "payment cards"),
    "ssn": ("social security number", "social security numbers"),
    "email": ("e-mail address", "e-mail addresses"),
    "phone": ("phone number", "phone numbers"),
    "ip": ("IP address", "IP addresses"),
}
"""The kinds of finds in words, for one and for several."""


def counted(kinds: Mapping[str, int]) -> str:
    """Return counts by kind as words: "2 e-mail addresses, 1 phone number"."""
    return ", ".join(f"{count:,} {NAMES[kind][count != 1]}" for kind, count in kinds.items())
