"""Rules that find personal data in text: e-mail addresses, numbers of accounts, cards, people and phones, IP addresses.

Each rule yields (start, end) of what it found. A pattern begins with the sign that it looks for and looks behind it
afterwards: that way the search skips what cannot match, some times faster than the other way round.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from stdnum import iban, luhn
from stdnum.us import ssn

from raft.text import secrets

Spans = Iterator[tuple[int, int]]

_SPACE = " \u00a0\u202f"
_DASH = "\\-\u2010\u2011\u2013"

_AT = re.compile(r"@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24}|xn--[^\W_][\w-]{1,57}))(?![^\W_]|\()")
_LOCAL_BACKWARDS = re.compile(r"(?:[\w.%+'-]|(?<=_)\\)*[^\W_]")
r"""The part before the @, read from its end; `\_` is Markdown's way to write an underscore."""
_SUFFIXES = frozenset(("css", "gif", "htm", "html", "ico", "jpeg", "jpg", "js", "json", "pdf", "png", "svg", "txt"))
"""Ends of file names that are no top-level domain: `logo@2x.png`."""


def emails(text: str) -> Spans:
    """Find e-mail addresses, not repositories (`git@host:path`), versions (`name@1.2.3`) or file names."""
    # in links the @ may be encoded
    for sign, width in (("@", 1), ("%40", 3)):
        at = text.find(sign)
        while at >= 0:
            end = _domain_end(text, at + width - 1, sign)
            local = _LOCAL_BACKWARDS.match(text[max(0, at - 64) : at][::-1]) if end else None
            if local and not (local[0] in ("tig", "gh") and re.match(r"[:/][\w~]", text[end : end + 2])):
                yield at - local.end(), end
            at = text.find(sign, at + width)


def _domain_end(text: str, at: int, sign: str) -> int:
    """Return the end of the domain behind the @ (or the last sign of what stands for it), 0 where there is none."""
    found = _AT.match(text, at) if sign == "@" else _AT.match("@" + text[at + 1 : at + 300])
    if not found or found[2].lower() in _SUFFIXES or re.match(r"\d+\.\d+\.", found[1]):
        return 0
    return found.end() if sign == "@" else at + found.end()


_CARD = re.compile(
    rf"[2-6](?<![\w+{_DASH}].)(?<!\d[.,].)(?:\d{{14,15}}|\d{{3}}([{_SPACE}{_DASH}])\d{{4}}\1\d{{4}}\1\d{{4}}"
    rf"|\d{{3}}([{_SPACE}{_DASH}])\d{{6}}\2\d{{4,5}})(?![\w{_DASH}]|[{_SPACE}.,]\d)"
)
_ISSUERS = {
    16: re.compile(r"4|5[1-5]|2[2-7]|6[0245]|35(?:2[89]|[3-8])"),
    15: re.compile(r"3[47]"),
    14: re.compile(r"3[0689]"),
}
"""How card numbers of so many digits begin."""


def cards(text: str) -> Spans:
    """Find numbers of payment cards: an issuer's beginning, and the right check digit (Luhn)."""
    for found in _CARD.finditer(text):
        number = re.sub(r"\D", "", found[0])
        if luhn.is_valid(number) and _ISSUERS[len(number)].match(number) and len(set(number)) > 1:
            yield found.span()


_IBAN = re.compile(rf"[A-Z](?<![^\W_].)[A-Z][{_SPACE}]?\d\d(?:[{_SPACE}]?[A-Z0-9]){{11,30}}")


def ibans(text: str) -> Spans:
    """Find IBANs: a country, as many signs as its IBANs have, and the right check digits."""
    for found in _IBAN.finditer(text):
        # words in capitals that follow look like a part of it
        for word in reversed(list(re.finditer(r"[A-Z0-9]+", found[0]))):
            end = found.start() + word.end()
            if not text[end : end + 1].isalnum() and iban.is_valid(
                re.sub(rf"[{_SPACE}]", "", text[found.start() : end])
            ):
                yield found.start(), end
                break


_SSN = re.compile(
    rf"[0-8](?<![\w+.,/{_DASH}].)\d\d([{_SPACE}{_DASH}]?)(?!00)\d\d\1(?!0000)\d{{4}}(?![\w{_DASH}]|[.,/]\d)"
)
_SSN_LABEL = re.compile(r"(?:\bssn|social[ -]security(?:[ -](?:number|no\.?))?)[\s:#=*|]{1,6}$", re.I)


def social_security_numbers(text: str) -> Spans:
    """Find US social security numbers: written with hyphens, or behind their name."""
    for found in _SSN.finditer(text):
        possible = ssn.is_valid(re.sub(r"\D", "", found[0]))
        written = bool(found[1]) and found[1] not in _SPACE
        if possible and (written or _SSN_LABEL.search(text[max(0, found.start() - 40) : found.start()])):
            yield found.span()


_RUN = re.compile(rf"(?:\+[{_SPACE}]?)?\(?\d[\d(){_SPACE}./{_DASH}]{{5,}}\d")
_TRUNK = re.compile(r"(?<![\d.,])\(?00?[1-9]")
_AT_HOME = {"US": re.compile(rf"\d{{3}}[./{_DASH}]\d{{4}}(?!\d)|\)"), "GB": _TRUNK, "FR": _TRUNK, "DE": _TRUNK}
"""Countries whose numbers are known as they are written at home, and what is in all of them: looking at every column of
figures takes long."""
_DIGITS = re.compile(
    rf"[(0-9](?<![\w+].)(?:(?<=\()\d)?(?:[{_SPACE}]?[./()]?[{_SPACE}]?[{_SPACE}/{_DASH}]?\d){{5,14}}(?!\w|[:%€$])"
)
_PHONE_LABEL = re.compile(
    r"(?:\b|_)(?:tele(?:phone|fon|fax)|tel|phone|fon|fax|mobile|mobil(?:e|nummer|telefon)|cell(?:phone)?|handy|hotline"
    r"|whatsapp|rufnummer|t[ée]l[ée]phone|t[ée]l|tel[ée]fono|m[óo]vil)((?: ?(?:number|no|nr|n°|#))?[.:=|*_\s]{0,8})$",
    re.I,
)
_DATE_OR_HOURS = re.compile(
    r"(?:19|20)\d\d[-/. ]\d{1,2}[-/. ]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)?\d\d(?!\d)"
    r"|\d{1,2}[.:]\d\d ?[-–] ?\d{1,2}[.:]\d\d"
)


def phones(text: str) -> Spans:
    """Find phone numbers: international ones, those written as in the US, UK, France or Germany, or behind a word."""
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415  who asks needs none of it

    for run in _RUN.finditer(text):
        abroad = run[0].lstrip("(").startswith(("+", "00"))
        # who writes the country's code seldom groups the rest as the book has it
        strict = Leniency.VALID if abroad else Leniency.EXACT_GROUPING
        for country in ("GB",) if abroad else [name for name, sign in _AT_HOME.items() if sign.search(run[0])]:
            for match in PhoneNumberMatcher(run[0], country, leniency=strict):
                start, end = run.start() + match.start + _alone(match.raw_string), run.start() + match.end
                if _is_written(match.raw_string) and _stands_alone(text, start, end):
                    yield start, end
    for found in _DIGITS.finditer(text):
        number = found[0]
        if sum(map(str.isdecimal, number)) < 7 or _DATE_OR_HOURS.match(number):
            continue
        label = _PHONE_LABEL.search(text[max(0, found.start() - 40) : found.start()])
        # "mobile 3000000 users" is none: digits alone need a colon, or begin with 0
        if label and (label[1].strip() or number[0] in "0(" or re.search(rf"[/{_DASH}]", number)):
            yield found.start() + _alone(number), found.end()


def _alone(number: str) -> bool:
    """Tell whether a number begins with a bracket that is closed behind it, which is not its own."""
    return number[0] == "(" and ")" not in number


def _is_written(number: str) -> bool:
    """Tell a phone number as people write it from amounts, codes and columns of a table."""
    if "." in number and re.search(rf"[{_SPACE}]", number):
        return False
    parted = len(re.findall(r"\d+", number)) > 2 or "/" in number
    return number[0] == "+" or (parted and (number[0] in "0(" or bool(re.search(rf"[./{_DASH}]", number))))


def _stands_alone(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 2]
    return not (before.isalnum() or before in tuple("$#=/+.,-")) and not re.match(rf"[^\W_]|[{_DASH}]|[.,]\d", after)


_IPS = (
    re.compile(rf"\d(?<![\w.{_DASH}].)\d{{0,2}}(?:\.\d{{1,3}}){{3}}(?![\w{_DASH}]|\.\d)"),
    re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?:::)?(?![\w:])"),
)
_NUMBERED = re.compile(
    r"(?:versions?|release|build|firmware|driver|section|chapter|clause|rule|oid|rev|ver|v|§|[=~<>!]=)[\s.:=]*$", re.I
)
_SMALL = 20


def addresses(text: str) -> Spans:
    """Find public IP addresses, not versions or numbers of sections; private, reserved and example ones stay."""
    for pattern in _IPS:
        for found in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(found[0])
            except ValueError:
                continue
            # four small numbers are a version or a section far more often than a host
            small = address.version == 4 and all(int(part) < _SMALL for part in found[0].split("."))
            numbered = _NUMBERED.search(text[max(0, found.start() - 20) : found.start()])
            if address.is_global and not address.is_multicast and not small and not numbered:
                yield found.span()


RULES = 2
"""Version of the rules; a change here looks through every document again."""

Kind = Literal["secret", "iban", "card", "ssn", "email", "phone", "ip"]

_RULES: Mapping[Kind, Callable[[str], Spans]] = {
    "secret": secrets.secrets,
    "iban": ibans,
    "card": cards,
    "ssn": social_security_numbers,
    "email": emails,
    "phone": phones,
    "ip": addresses,
}
"""Where findings overlap, the kind that comes first here is taken."""

_RANKS = {kind: rank for rank, kind in enumerate(_RULES)}
PLACEHOLDERS: Mapping[Kind, str] = {kind: f"[{kind.upper()}]" for kind in _RULES}
"""What stands for each kind in redacted text."""


class Finding(NamedTuple):
    """A stretch of text, `text[start:end]`, that says something about a person, or opens a door."""

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
    """Return the text that was scanned with a placeholder in the place of each finding."""
    parts, begin = [], 0
    for found in findings:
        parts += [text[begin : found.start], PLACEHOLDERS[found.kind]]
        begin = found.end
    return "".join([*parts, text[begin:]])


def _moved(offsets: Sequence[int], findings: Sequence[Finding]) -> list[int]:
    """Return where rising offsets stand once the text is redacted; one within a finding goes to its placeholder."""
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

    A placeholder can lay bare what its neighbour hid, so it goes on until nothing is found. It comes to an end: each
    round takes characters of the original away, and no rule matches a placeholder.
    """
    places = list(offsets)
    while found := scan(text):
        text, places = redact(text, found), _moved(places, found)
    return text, places


def placeholders(text: str) -> Counter[Kind]:
    """Count the placeholders in a text by kind."""
    return +Counter({kind: text.count(word) for kind, word in PLACEHOLDERS.items()})


_NAMES = {
    "secret": "secret",
    "iban": "IBAN",
    "card": "payment card",
    "ssn": "social security number",
    "email": "e-mail address",
    "phone": "phone number",
    "ip": "IP address",
}


def counted(kinds: Mapping[str, int]) -> str:
    """Return counts by kind as words: "2 e-mail addresses, 1 phone number"."""
    return ", ".join(f"{count:,} {_named(kind, count)}" for kind, count in kinds.items())


def _named(kind: str, count: int) -> str:
    name = _NAMES[kind]
    return name if count == 1 else f"{name}es" if name.endswith("s") else f"{name}s"
