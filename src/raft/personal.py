"""Rules that find personal data in text: e-mail addresses, numbers of accounts, cards, people and phones, IP addresses.

Each rule yields (start, end) of what it found. A pattern begins with the sign that it looks for and looks behind it
afterwards: that way the search skips what cannot match, some times faster than the other way round.
"""

import ipaddress
import re
from collections.abc import Iterator

Spans = Iterator[tuple[int, int]]

_SPACE = " \u00a0\u202f"
_DASH = "\\-\u2010\u2011\u2013"
_GAP = rf"[{_SPACE}./{_DASH}]"

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
        number = "".join(filter(str.isdecimal, found[0]))
        digits = [int(digit) for digit in reversed(number)]
        luhn = sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
        if luhn % 10 == 0 and _ISSUERS[len(number)].match(number) and len(set(digits)) > 1:
            yield found.span()


_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in re.findall(
        r"\w+",
        """
        AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29
        ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20
        LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29
        PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
        YE30
        """,
    )
}
_IBAN = re.compile(rf"[A-Z](?<![^\W_].)[A-Z][{_SPACE}]?\d\d(?:[{_SPACE}]?[A-Z0-9]){{11,29}}")


def ibans(text: str) -> Spans:
    """Find IBANs: a country, as many signs as its IBANs have, and the right check digits."""
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2], 99)
        places = [found.start() + place for place, sign in enumerate(found[0]) if sign not in _SPACE]
        if len(places) < length:
            continue
        end = places[length - 1] + 1
        number = "".join(text[place] for place in places[:length])
        whole = end == len(text) or not text[end].isalnum()
        if whole and int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1:
            yield found.start(), end


_SSN = re.compile(
    rf"[0-8](?<![\w+.,/{_DASH}].)\d\d([{_SPACE}{_DASH}]?)(?!00)\d\d\1(?!0000)\d{{4}}(?![\w{_DASH}]|[.,/]\d)"
)
_SSN_LABEL = re.compile(r"(?:\bssn|social[ -]security(?:[ -](?:number|no\.?))?)[\s:#=*|]{1,6}$", re.I)


def social_security_numbers(text: str) -> Spans:
    """Find US social security numbers: written with hyphens, or behind their name."""
    for found in _SSN.finditer(text):
        possible = found[0][:3] not in ("000", "666")
        written = bool(found[1]) and found[1] not in _SPACE
        if possible and (written or _SSN_LABEL.search(text[max(0, found.start() - 40) : found.start()])):
            yield found.span()


_US = rf"\(?[2-9]\d\d\)?{_GAP}?[2-9]\d\d{_GAP}?\d{{4}}(?!\w)"
_PHONES = tuple(
    re.compile(pattern)
    for pattern in (
        # +49 30 1234567, +1 (415) 555-2671
        rf"\+(?<![\w+./{_DASH}].)(?:1{_GAP}?{_US}|[2-9](?:(?:{_GAP}|[{_SPACE}]?\(0?|\)[{_SPACE}]?)?\d){{7,14}}(?!\w))",
        # 0049 30 1234567
        rf"00(?<![\w+./{_DASH}]00)(?<!\d[{_SPACE}]00)[1-9]\d{{0,2}}(?:{_GAP}\d{{2,8}}){{2,5}}(?![\w{_DASH}]|[{_SPACE}.,]\d)",
        # (415) 555-2671
        rf"\((?<![\w$#=].)[2-9][0-8]\d\)[{_SPACE}{_DASH}]?[2-9]\d\d[{_SPACE}.{_DASH}]\d{{4}}(?![\w{_DASH}]|[.,]\d)",
        # 415-555-2671, 1-415-555-2671, 415.555.2671
        rf"[1-9](?<![\w.$#=/+{_DASH}].)(?:(?<=1)[{_SPACE}.{_DASH}][2-9]|(?<!1))[0-8]\d([.{_DASH}])[2-9]\d\d\1\d{{4}}"
        rf"(?![\w{_DASH}]|[.,]\d)",
        # 01 42 68 53 00
        rf"0(?<![\w.,$+/{_DASH}].)(?<!\d[{_SPACE}].)[1-9]([{_SPACE}.])\d\d(?:\1\d\d){{3}}(?![\w{_DASH}]|[{_SPACE}.,/]\d)",
        # 020 7946 0958, (020) 7946 0958, 030/1234567
        rf"[(0](?<![\w.,$+/{_DASH}].)(?<!\d[{_SPACE}].)(?:(?<=\()0)?[1-9]\d{{1,3}}"
        rf"(?:\)?[{_SPACE}]\d{{3,4}}[{_SPACE}]\d{{3,4}}|\d?\)?[{_SPACE}]?/[{_SPACE}]?\d{{5,8}})"
        rf"(?![\w{_DASH}]|[{_SPACE}.,/]\d)",
    )
)
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
    """Find phone numbers: international ones, those in a form of the US, UK, France or Germany, or behind a word."""
    for pattern in _PHONES:
        for found in pattern.finditer(text):
            if _is_phone(found[0]):
                yield _without_bracket(found)
    for found in _DIGITS.finditer(text):
        number = found[0]
        if sum(map(str.isdecimal, number)) < 7 or _DATE_OR_HOURS.match(number):
            continue
        label = _PHONE_LABEL.search(text[max(0, found.start() - 40) : found.start()])
        # "mobile 3000000 users" is none: digits alone need a colon, or begin with 0
        if label and (label[1].strip() or number[0] in "0(" or re.search(rf"[/{_DASH}]", number)):
            yield _without_bracket(found)


def _without_bracket(found: re.Match[str]) -> tuple[int, int]:
    """Return the span of a number; a bracket that is opened before it and not closed in it is not its own."""
    return found.start() + (found[0][0] == "(" and ")" not in found[0]), found.end()


def _is_phone(number: str) -> bool:
    """Tell a phone number from signed amounts, ranges and codes that have its shape."""
    groups = re.findall(r"\d+", number)
    digits = sum(map(len, groups))
    if number[0] == "+":
        return (
            digits >= (10 if len(groups) == 1 else 8)
            and not ("." in number and re.search(rf"[{_SPACE}]", number))
            and sum(len(group) == 1 for group in groups[1:]) <= 1
            and groups[-1] != "000"
        )
    return digits >= (12 if number.startswith("00") else 9)


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
