"""Exact facts of a text: numbers with their units, dates, names and codes; and whether two say the same value.

A value is what is said, however it is written: "1.5k" is 1500, "$5 million" 5,000,000 dollars, "-5 °C" is not "5 °C",
and 2024-03-12 is 12 March 2024. Units are told apart and never converted: 60 minutes do not say "1 hour".

Three digits after one to three, the first no 0, are one number where a comma, a no-break or thin space or an apostrophe
joins them; where an ordinary space does (12 500), they are two behind a word that may be what is numbered (Room 12 500
seats: one with a capital, but for the commonest, or one of `_NUMBERED`), behind or before another number (a list, a
year), and one elsewhere. A minus that a space parts from its number is one behind an opening bracket or the line of a
cell, and at the beginning of a text; a hyphen there is a list's mark, unless nothing else stands in the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from typing import Literal

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
    \b[A-Z]{1,6}\d*(?:-[A-Z][A-Z0-9]*){0,16}-\d[A-Z0-9]*(?:[-/][A-Z0-9]+)*\b
  | \b[A-Z]{2,6}\d{2}[A-Z0-9]*\b
  | \bv?\d+\.\d+\.\d+\b
  | \b[\w.+-]{1,64}@[\w-]+\.[\w.]*\w
"""
# what repeats is bounded in codes and names: a long run of pieces that comes to nothing is not read again at each piece
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
_NUMERAL = r"(?:\d{1,3}(?:,\d{3})+|[1-9]\d{0,2}(?:[\u00a0\u2009\u202f'’]\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = rf"""
    [$€£¥]\ ?{_NUMERAL}(?:\ ?(?:thousand|million|billion|trillion|[kKmMbB])\b)?
  | (?<![\w.,/#-])[-−+]?{_NUMERAL}(?:\ ?(?:to|–|-)\ ?{_NUMERAL})?(?:[\ -]?(?:{_UNIT}))?(?!\w|[.,/-]\d)
    (?:(?<=\d{{4}})|(?!\u00a0\d{{3}}(?!\d)))
"""
_CAPITAL = r"[A-Z][\w'’&]*(?:-\w+){0,8}"
_NAME = rf"(?<![\w])(?:{_CAPITAL}|[A-Z]\.)(?:\ (?:(?:of|the|de|van|von|der|and|for|&)\ )?(?:{_CAPITAL}|[A-Z]\.))+(?!\w)"

_PATTERNS: tuple[tuple[FactKind, re.Pattern[str]], ...] = (
    ("date", re.compile(_DATE, re.VERBOSE)),
    ("code", re.compile(_CODE, re.VERBOSE)),
    ("number", re.compile(_NUMBER, re.VERBOSE)),
    ("name", re.compile(_NAME)),
)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_SCALES = {"hundred": 2, "k": 3, "thousand": 3, "lakh": 5, "m": 6, "mn": 6, "mln": 6, "million": 6, "crore": 7}
_SCALES |= {"b": 9, "bn": 9, "billion": 9, "tn": 12, "trillion": 12}
_SCALES |= {"mio": 6, "millions": 6, "millionen": 6, "mrd": 9, "milliard": 9, "milliards": 9, "milliarden": 9}
_SCALE = "|".join(sorted((*filter(lambda word: len(word) > 1, _SCALES), "dozen"), key=len, reverse=True))
_SPELLINGS = """
    percent: % pct percent per_cent|percentage_point: percentage_points|permille: ‰
    celsius_degree: °C ℃ degrees_Celsius degree_Celsius degrees_C|fahrenheit_degree: °F ℉ degrees_Fahrenheit degrees_F
    degree: ° degrees|kelvin: K
    dollar: $ US$ dollars USD|euro: € euros EUR|pound: £ pounds GBP lb lbs|yen: ¥ JPY|franc: francs CHF|cent: cents ct
    second: seconds sec secs s|millisecond: milliseconds ms|minute: minutes min mins|hour: hours h hr hrs|day: days
    night: nights|week: weeks|month: months|quarter: quarters|year: years yr yrs|century: centuries
    working_day: working_days business_day business_days|calendar_day: calendar_days
    consecutive_day: consecutive_days
    metre: m metres meter meters|kilometre: km kilometres kilometer kilometers|millimetre: mm millimetres millimeters
    centimetre: cm centimetres centimeter centimeters|micrometre: µm|nanometre: nm
    mile: miles mi|foot: feet ft|inch: inches|yard: yards yd|acre: acres|hectare: hectares ha
    metre²: m² m2 square_metres square_meters square_metre square_meter|kilometre²: km² km2 square_kilometres
    metre³: m³ m3 cubic_metres cubic_meters cubic_metre cubic_meter|foot²: square_feet|mile²: square_miles
    gram: g grams|kilogram: kg kilograms kilo kilos|milligram: mg milligrams|microgram: µg|ounce: oz ounces
    tonne: t tonnes ton tons|litre: l L litres liter liters|millilitre: ml mL millilitres milliliters
    watt: W watts|kilowatt: kW kilowatts|megawatt: MW|gigawatt: GW|volt: V volts|kilovolt: kV|ampere: A amps amp amperes
    milliampere: mA|milliampere_hour: mAh|watt_hour: Wh|kilowatt_hour: kWh|megawatt_hour: MWh|joule: J|newton: N
    newton_metre: Nm N_m newton_metres newton_meters|pascal: Pa|hectopascal: hPa|kilopascal: kPa|megapascal: MPa
    bar: bar
    hertz: Hz|kilohertz: kHz|megahertz: MHz|gigahertz: GHz|kilobyte: kB KB|megabyte: MB|gigabyte: GB|terabyte: TB
    decibel: dB dBA|rpm: rpm|mph: mph|km/h: km/h kph|px: px|ppm: ppm|psi: psi|kcal: kcal|fps: fps
"""


def _spelled() -> dict[str, str]:
    """Return each spelling of a unit with the unit."""
    found = {}
    for line in _SPELLINGS.replace("|", "\n").split("\n"):
        unit, _, spellings = line.strip().partition(": ")
        for one in (unit, *spellings.split()):
            found[one.replace("_", " ")] = unit.replace("_", " ")
    return found | {one.casefold(): unit for one, unit in found.items() if len(one) > 4}


_UNITS = _spelled()
_SYMBOLS, _LONG = (
    "|".join(
        re.escape(one).replace(r"\ ", r"\s") for one in sorted(_UNITS, key=len, reverse=True) if (len(one) > 4) == long
    )
    for long in (False, True)
)
_NUMERALS = r"(?:\d{1,3}(?:,\d{3})+|[1-9]\d{0,2}(?:[\u00a0\u2009\u202f'’]\d{3})+|\d+)(?:\.\d+)?"
_NUMBERED = r"(?i:(?:room|page|day|week|table|figure|section|chapter|step|line|level|type|number)s?|no)"
_COMMON = "The|Over|About|Around|Nearly|Almost|Some|Only|In|Of|At|For|To|From|By|With|Than|USD|EUR|GBP|CHF|JPY"
_SPACED = re.compile(
    r"(?P<one>(?<![\w.,:/#])(?<!\d[-–])[1-9]\d{0,2}(?:\ \d{3})+(?!\w|\ ?\d))"
    rf"|\b(?:(?!(?:{_COMMON})\b)[A-Z]\w*|{_NUMBERED}|\d[\d.,]{{0,20}})\.?\s+\d{{1,3}}(?:\ \d{{3}})+"
)
_APART = re.compile(
    r"(?:(?<=[(\[{|])\s?|^\s*(?:(?=−)|(?=\S\s[$€£¥]?[\d.,]{1,20}\s?[^\d\s]{0,20}$)))([-−–+])\s(?=[$€£¥]?\d)"
)
_QUANTITY = re.compile(
    rf"""(?:(?P<sign>(?:(?<![\w)\]%°.,/\#–-])[-−–+]|\b(?:minus|negative)\s)(?=[$€£¥\d]))|(?<![\w.,/\#-]))
    (?:(?P<money>(?:US)?[$€£¥]|(?:USD|EUR|GBP|CHF|JPY)(?=\s))\s?)?
    (?P<low>(?<![.,]){_NUMERALS})
    (?:\s?(?:to\s|[–-])\s?(?P<to>[-−])?[$€£¥]?(?P<high>{_NUMERALS}))?
    (?:(?P<scale>[\s-]?(?i:{_SCALE})|[kKMB]|(?(money)\s?[mb]|(?!)))(?!\w))?
    (?:[\s-]?(?P<unit>{_SYMBOLS}|(?i:{_LONG})))?
    (?!\w|[.,/-]\d)""",
    re.VERBOSE,
)
_ONES = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: SIM905
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_WORDS = {word: value for value, word in enumerate([*_ONES, *_TEENS])}
_WORDS |= {ten: 10 * value for value, ten in enumerate(_TENS, 2)}
_WORDS |= {f"{ten} {one}": _WORDS[ten] + _WORDS[one] for ten in _TENS for one in _ONES[1:]}
_ONE = (
    "".join(rf"(?<!\b{word}\s)" for word in ("no", "any", "every", "each", "some", "this", "that", "the", "which"))
    + r"one(?!\s(?:of|who|that|which|another|can|may|must|should|will|would|is|has)\b|['’]s\b)"
)
_NUMBER_WORD = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[\s-]({'|'.join(_ONES[1:])}))?"
    rf"|({_ONE}|{'|'.join(word for word in (*_ONES, *_TEENS) if word != 'one')})"
    r"|(?=an?\s(?:hundred|thousand|million|billion)\b)an?)(\shundred)?\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\w+(?:[.,:/]\w+)*")
UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese."""
SYLLABLES = r"\uac00-\ud7af"
"""Hangul, which puts endings to words, and words to numbers."""
_LETTERS = f"[{UNSPACED}{SYLLABLES}]"
_TOUCHING = re.compile(rf"(?<=\d)(?={_LETTERS})|(?<={_LETTERS})(?=[-−+]?\d)")


@dataclass(frozen=True)
class Fact:
    """An exact fact: `text` stands at characters `start` to `end` of the text it was found in."""

    kind: FactKind
    text: str
    start: int
    end: int


def facts(text: str) -> list[Fact]:
    """Return the exact facts of a text in reading order; where two overlap, dates win over codes, numbers and names."""
    return [*_facts(text)]


@lru_cache(maxsize=1024)  # rules ask several times for those of a question and of its quote
def _facts(text: str) -> tuple[Fact, ...]:
    found: list[Fact] = []
    taken = bytearray(len(text))
    telling, plain = _telling(text), text
    if telling:  # 12 000 is one number
        text = _SPACED.sub(lambda spaced: spaced[0].replace(" ", "\u00a0") if spaced["one"] else spaced[0], text)
    for kind, pattern in _PATTERNS:
        if kind != "name" and not telling:
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Fact(kind, plain[start:end], start, end))
    return tuple(sorted(found, key=lambda fact: fact.start))


def _telling(text: str) -> bool:
    return "@" in text or any(map(str.isdigit, text))  # dates, codes and numbers have a digit, or are addresses


Day = tuple[int, int, int]
"""Year, month and day; 0 for what is not said."""


@dataclass(frozen=True)
class Value:
    """What a number, a date or a code says.

    Attributes:
        stated: a number with its sign and scale; of a date each way to read it (12/03/2024 has two); a code or a time
            as text, case-folded.
        unit: unit of a number in one spelling; empty where none that is known follows.
    """

    stated: Decimal | frozenset[Day] | str
    unit: str = ""

    @property
    def rough(self) -> object:
        """Return what is equal for values that `agree`: the unit is left out, and the order of a date."""
        if isinstance(self.stated, frozenset):
            return tuple(sorted(part for part in min(self.stated) if part))
        return self.stated


def says(known: Value, claimed: Value) -> bool:
    """Tell whether a text with the value `known` says `claimed` too.

    A number without a unit agrees with any unit, "3 working days" are "3 days" (and not the other way round), and a
    date says its parts: "12 March 2026" says "12 March", "March 2026" and 2026.
    """
    if isinstance(claimed.stated, frozenset):
        read = known.stated if isinstance(known.stated, frozenset) else ()
        return any(
            all(part in (0, own) for part, own in zip(one, day, strict=True)) for one in claimed.stated for day in read
        )
    if isinstance(known.stated, frozenset):
        return not claimed.unit and any(claimed.stated == year for year, _, _ in known.stated)
    alike = not known.unit or not claimed.unit or f" {known.unit}".endswith(f" {claimed.unit}")
    return known.stated == claimed.stated and alike


def covers(known: Iterable[Value], claimed: Iterable[Value]) -> bool:
    """Tell whether a text with the values `known` `says` each of `claimed`."""
    known = frozenset(known)
    return all(one in known or any(says(value, one) for value in known) for one in claimed)


def agree(one: str, other: str) -> bool:
    """Tell whether two texts have the same numbers, dates and codes, in whatever spelling."""
    left, right = fact_values(one), fact_values(other)
    return left == right or (covers(left, right) and covers(right, left))


@lru_cache(maxsize=8192)
def fact_values(text: str) -> frozenset[Value]:
    """Return the values of the numbers, dates and codes of a text.

    Names are left out: they have too many spellings to be compared as strings.
    """
    return _read(_joined(text))[0]


@lru_cache(maxsize=8192)
def figures(text: str) -> frozenset[Value]:
    """Return the values of all figures of a text: `fact_values`, numbers in words, and all else that has a digit.

    "three" has the value 3, "#5" the value 5, and "5th" is a text of its own.
    """
    values, rest = _read(_NUMBER_WORD.sub(_in_digits, _joined(text)))
    rest = rest if rest.isascii() else re.sub(_LETTERS, " ", rest)
    tokens = (token.casefold() for token in _TOKEN.findall(rest) if any(map(str.isdigit, token)))
    return values.union(Value(Decimal(one) if one.isdecimal() else one) for one in tokens)


def _joined(text: str) -> str:
    """Return a text with what a space parts of a number put to it."""
    if not _telling(text):
        return text
    text = _SPACED.sub(lambda match: match[0].replace(" ", "") if match["one"] else match[0], text)
    return _APART.sub(r"\1", text)


def rough_values(text: str) -> frozenset[object]:
    """Return `Value.rough` of the numbers, dates and codes of a text: a key that is equal for texts that `agree`."""
    return frozenset(value.rough for value in fact_values(text))


def _read(text: str) -> tuple[frozenset[Value], str]:
    """Return the values of a text, and the text with what they were read from blanked out."""
    found: set[Value] = set()

    if not text.isascii():  # 5 in 长5公里 is a number too
        text = _TOUCHING.sub(" ", text)
    for pattern, read in _READERS if _telling(text) else ():
        text = pattern.sub(partial(_taken, read, found), text)
    return frozenset(found), text


def _taken(read: Callable[[re.Match[str]], Iterator[Value]], found: set[Value], match: re.Match[str]) -> str:
    found.update(read(match))
    return "\0" * len(match[0])


def _codes(match: re.Match[str]) -> Iterator[Value]:
    yield Value(match[0].casefold())


def _dates(match: re.Match[str]) -> Iterator[Value]:
    words = re.findall(r"[a-z]+|\d+", match[0].casefold())
    numbers = [int(word) for word in words if word.isdigit()]
    months = [_MONTHS.index(word[:3]) + 1 for word in words if word[:3] in _MONTHS]
    if months:
        year = next((number for number in numbers if number > 31), 0)
        yield Value(frozenset({(year, months[0], next((number for number in numbers if number <= 31), 0))}))
    elif len(numbers) == 1 and words == [match[0]]:  # a year alone may as well be written as a number
        yield Value(Decimal(numbers[0]))
    elif ":" in match[0] or len(numbers) < 3:
        half = next((word[0] for word in words if word in ("am", "pm", "a", "p")), "")
        hour = numbers[0] % 12 + 12 * (half == "p") if half else numbers[0]
        yield Value(f"{hour}:{numbers[1] if len(numbers) > 1 else 0:02}")
    else:
        yield Value(_days(*numbers))


def _days(first: int, second: int, third: int) -> frozenset[Day]:
    if first > 31:  # 2024-03-12
        return frozenset({(first, second, third)})
    year = third if third > 99 else third + (1900 if third > 68 else 2000)
    both = [(year, second, first), (year, first, second)]  # the day may come first, or the month
    return frozenset(day for day in both if day[1] <= 12) or frozenset(both)


def _quantities(match: re.Match[str]) -> Iterator[Value]:
    low, high = match["low"], match["high"]
    scale = (match["scale"] or "").strip(" \t\n\xa0-").casefold()
    power = _SCALES.get(scale, 0)
    unit = _unit(match["money"] or match["unit"] or "")
    numbers = [_number(match["sign"], low, power)]
    if high:
        numbers.append(_number(match["to"], high, power))
        if power and numbers[0] >= numbers[1]:  # from 500 to 2 million
            numbers[0] = _number(match["sign"], low, 0)
    numbers = [12 * number for number in numbers] if scale == "dozen" else numbers
    yield from (Value(number, unit) for number in numbers)


def _number(sign: str | None, numeral: str, power: int) -> Decimal:
    digits = re.sub(r"[^\d.]", "", numeral)
    return Decimal(f"{'-' if sign and sign.strip() not in ('', '+') else ''}{digits}E{power}")


def _unit(written: str) -> str:
    spelled = " ".join(written.split())
    return _UNITS.get(spelled) or _UNITS.get(spelled.casefold(), "")


_READERS = ((_PATTERNS[0][1], _dates), (_PATTERNS[1][1], _codes), (_QUANTITY, _quantities))


def _in_digits(match: re.Match[str]) -> str:
    ten, unit, word, hundred = match.groups()
    value = _WORDS[" ".join(filter(None, (ten, unit or word))).lower() or "one"]
    return str(value * 100 if hundred else value)
