"""Pure functions over text: normal forms, sentences, exact facts (numbers, dates, names, codes), quote alignment."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rapidfuzz import fuzz

FactKind = Literal["number", "date", "name", "code"]

_MONTH = (
    r"(?:Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Mar(?:ch|\.)?|Apr(?:il|\.)?|May|June?\.?|July?\.?|Aug(?:ust|\.)?"
    r"|Sept?(?:ember|\.)?|Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)"
)
_DATE = rf"""
    \b\d{{4}}-\d{{2}}-\d{{2}}\b
  | \b\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b
  | \b\d{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?{_MONTH}(?:,?\ \d{{4}})?\b
  | \b{_MONTH}\ \d{{1,2}}(?:st|nd|rd|th)?(?:,?\ \d{{4}})?\b
  | \b{_MONTH}\ \d{{4}}\b
  | (?<=\b[Ii]n\ )(?:1[0-9]|20)\d{{2}}\b(?!\ ?[-%°a-z\d])
  | \b\d{{1,2}}:\d{{2}}(?:\ ?[ap]\.?m\.?\b)?(?:\ (?:UTC|GMT|CET|ET|EST|PST|PT))?
  | \b\d{{1,2}}\ ?[ap]\.?m\.?\b
"""
_CODE = r"""
    \b[A-Z]{1,6}\d*(?:-[A-Z0-9]+)*-\d+[A-Z0-9]*(?:[-/][A-Z0-9]+)*\b
  | \b[A-Z]{2,6}\d{2,}[A-Z0-9]*\b
  | \bv?\d+\.\d+\.\d+\b
  | \b[\w.+-]+@[\w-]+\.[\w.]*\w
"""
_UNIT = r"""
    %|percent(?:age\ points)?|per\ cent
  | °\ ?[CF]|degrees(?:\ (?:Celsius|Fahrenheit))?
  | (?:m|k|c|µ|n)?(?:m|g|l|L|W|V|A|Hz|Pa|J|N|s)(?:²|³|2|3)?(?![\w'’])
  | (?:kWh|Wh|MWh|bar|psi|rpm|dB|dBA|Nm|N\ ?m|GB|MB|TB|kB|GHz|MHz|kHz|mAh|Ah)\b
  | (?:mph|km/h|km|cm|mm|kg|lb|oz|ft|fps|px|ppm|kcal)\b
  | (?:thousand|million|billion|trillion)(?:\ (?:euros?|dollars?|people|years?|tons?|tonnes))?
  | (?:euros?|dollars?|pounds?|cents?|EUR|USD|GBP)\b
  | (?:(?:business|working|calendar|consecutive)\ )?
    (?:seconds?|minutes?|hours?|days?|nights?|weeks?|months?|quarters?|years?|centuries)\b
  | (?:square|cubic)\ (?:metres?|meters?|kilometres?|kilometers?|miles?|feet|inch(?:es)?|centimetres?|centimeters?)
  | (?:kilo|centi|milli)?met(?:re|er)s?\b
  | (?:miles?|feet|foot|inch(?:es)?|yards?|acres?|hectares?)\b
  | (?:grams?|kilograms?|tons?|tonnes|lit(?:re|er)s?|millilit(?:re|er)s?|watts?|volts?|amps?|newton\ met(?:re|er)s)\b
"""
_NUMERAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = rf"""
    [$€£¥]\ ?{_NUMERAL}(?:\ ?(?:thousand|million|billion|trillion|[kKmMbB])\b)?
  | (?<![\w.,/#-])[-−+]?{_NUMERAL}(?:\ ?(?:to|–|-)\ ?{_NUMERAL})?(?:[\ -]?(?:{_UNIT}))?(?!\w|[.,/-]\d)
"""
_CAPITAL = r"[A-Z][\w'’&]*(?:-\w+)*"
_NAME = rf"(?<![\w])(?:{_CAPITAL}|[A-Z]\.)(?:\ (?:(?:of|the|de|van|von|der|and|for|&)\ )?(?:{_CAPITAL}|[A-Z]\.))+(?!\w)"

_PATTERNS: tuple[tuple[FactKind, re.Pattern[str]], ...] = (
    ("date", re.compile(_DATE, re.VERBOSE)),
    ("code", re.compile(_CODE, re.VERBOSE)),
    ("number", re.compile(_NUMBER, re.VERBOSE)),
    ("name", re.compile(_NAME)),
)
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[*_]*[A-Z0-9])"  # a full stop and a capital
    r"|\n[ \t]*\n\s*"  # a blank line
    r"|\n(?=[ \t]*(?:[-*+•|#>]|\d+[.)]\s|```))"  # the next item, table row or heading
    r"|(?<=\|)[ \t]*\n"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|No|Nos|St|Inc|Ltd|Co|Fig|approx|ext|cf)|(?<!\d )(?<![°\w])[A-Z])\.$"
)
_WORD = re.compile(r"\w+(?:[.,'’-]\w+)*")
STOP_WORDS = frozenset(
    "a an the of in on at to for from by with and or is are was were be been do does did how what which who whom whose "  # noqa: SIM905
    "when where why many much can may must should will would there it its this that these those as".split()
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


@dataclass(frozen=True)
class Fact:
    """An exact fact: `text` stands at characters `start` to `end` of the text it was found in."""

    kind: FactKind
    text: str
    start: int
    end: int


def normalise(text: str) -> str:
    """Return the text case-folded, without punctuation at the words' edges, with single spaces."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def content_words(text: str) -> frozenset[str]:
    """Return the normalised words of a text that carry its meaning: no articles, question words or auxiliaries."""
    return frozenset(normalise(text).split()) - STOP_WORDS


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each sentence; blank lines, list items and table rows end one, wrapped lines do not."""
    start = 0
    for gap in _SENTENCE_END.finditer(text):
        if "\n" not in gap.group() and _ABBREVIATION.search(text, max(start, gap.start() - 12), gap.start()):
            continue
        yield from _piece(text, start, gap.start())
        start = gap.end()
    yield from _piece(text, start, len(text))


def _piece(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    line_end = text.find("\n", start, end)
    if text.startswith("#", start) and line_end >= 0:  # a heading ends with its line
        yield from _stripped(text, start, line_end)
        start = line_end
    yield from _stripped(text, start, end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    if piece.strip():
        yield start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


def facts(text: str) -> list[Fact]:
    """Return the exact facts of a text in reading order; where two overlap, dates win over codes, numbers and names."""
    found: list[Fact] = []
    taken = bytearray(len(text))
    telling = "@" in text or any(map(str.isdigit, text))  # dates, codes and numbers have a digit, or are addresses
    for kind, pattern in _PATTERNS:
        if kind != "name" and not telling:
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Fact(kind, match.group(), start, end))
    return sorted(found, key=lambda fact: fact.start)


@lru_cache(maxsize=65536)
def fact_values(text: str) -> frozenset[str]:
    """Return the values of the numbers, dates and codes of a text in one normal form.

    "1,000" and "1000" have the same value, and so have "12 March 2024" and "March 12, 2024". Names are left out:
    they have too many spellings to be compared as strings.
    """
    values: set[str] = set()
    for fact in facts(text):
        if fact.kind == "date":
            values.add(_date_value(fact.text))
        elif fact.kind == "code":
            values.add(fact.text.casefold())
        elif fact.kind == "number":
            values.update(_number_values(fact.text))
    return frozenset(values)


def _date_value(text: str) -> str:
    words = re.findall(r"[a-z]+|\d+", text.casefold())
    months = [str(_MONTHS.index(word[:3]) + 1) for word in words if word[:3] in _MONTHS]
    numbers = [str(int(word)) for word in words if word.isdigit()]
    clock = [word for word in words if word in ("am", "pm", "a", "p")]
    if not months:
        return "/".join(numbers) + "".join(word[0] for word in clock)
    return "/".join([*sorted(numbers, key=lambda number: (len(number), number), reverse=True), "m" + months[0]])


def _number_values(text: str) -> list[str]:
    return [
        (value.replace(",", "").rstrip("0").rstrip(".") if "." in value else value.replace(",", "").lstrip("0") or "0")
        for value in re.findall(_NUMERAL, text)
    ]


def contains(text: str, answer: str) -> bool:
    """Tell whether the words of `answer` stand in `text`, one after the other, in any case and punctuation."""
    wanted = normalise(answer)
    return bool(wanted) and f" {wanted} " in f" {normalise(text)} "


def find_quote(quote: str, text: str, *, least: float = 90.0) -> tuple[int, int] | None:
    """Return where a quote stands in a text: exactly, but for spaces and typography, or nearly.

    A near miss is accepted when rapidfuzz's partial ratio is at least `least` (0 to 100) and the span holds the same
    numbers, dates and codes: a quote with another figure is another claim.
    """
    quote = quote.strip().strip("\"“”'‘’").strip()
    if not quote:
        return None
    start = text.find(quote)
    if start >= 0:
        return start, start + len(quote)
    loose = r"\s+".join(re.escape(word) for word in _plain(quote).split())
    match = re.search(loose, _plain(text), re.IGNORECASE)
    if match:
        return match.span()
    if len(quote) < 12:
        return None
    near = fuzz.partial_ratio_alignment(_plain(quote), _plain(text), score_cutoff=least)
    if near is None or near.dest_end <= near.dest_start:
        return None
    start, end = _whole_words(text, near.dest_start, near.dest_end)
    return (start, end) if fact_values(text[start:end]) == fact_values(quote) else None


def _plain(text: str) -> str:
    """Replace typographic characters one for one, so that offsets stay."""
    return text.translate(str.maketrans("“”„‘’–—−\u00a0\u202f", '"""\'\'---  '))


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def embedded_text(heading: str, text: str) -> str:
    """Return what is embedded and counted of a chunk: its heading path, if it has one, a line end, and its text."""
    return f"{heading}\n{text}" if heading else text
