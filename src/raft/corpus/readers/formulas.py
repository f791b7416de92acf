"""What is raised, lowered or built up (exponents, note marks, equations) as a line of text; numbers of items."""

import re
from typing import Any

_RAISED = dict(zip("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ", strict=True))
_LOWERED = dict(zip("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎", strict=True))
_NOTES = re.compile(r"\[.*\]|\(\d{1,2}\)|[*†‡§¶,\s]+|\d+(?:[,;]\s*\d+)+")
_ORDINAL = re.compile(r"(?:st|nd|rd|th|[eè]|[èe]?re?|n?de?|te?|ers?|i?[èe]mes?|TM|SM|[®™©℠])\.?", re.IGNORECASE)
_ROMAN = (
    (1000, "m"),
    (900, "cm"),
    (500, "d"),
    (400, "cd"),
    (100, "c"),
    (90, "xc"),
    (50, "l"),
    (40, "xl"),
    (10, "x"),
    (9, "ix"),
    (5, "v"),
    (4, "iv"),
    (1, "i"),
)
_PARTS = {
    **dict.fromkeys(("f", "mfrac"), "{0}/{1}"),
    **dict.fromkeys(("sSup", "msup", "limUpp", "mover"), "{0}{raised}"),
    **dict.fromkeys(("sSub", "msub", "limLow", "munder"), "{0}{lowered}"),
    **dict.fromkeys(("sSubSup", "msubsup", "munderover"), "{0}{lowered}{raised}"),
    **{
        "nary": "{sign}{lowered}{raised} {0}",
        "msqrt": "√{0}",
        "rad": "√{0}",
        "mroot": "{raised}√{0}",
        "func": "{0} {1}",
    },
}
_LISTS = {
    **dict.fromkeys(("m", "eqArr", "mtable"), ("", "; ", "")),
    **dict.fromkeys(("mr", "mtr"), ("", ", ", "")),
    "mfenced": ("(", ", ", ")"),
}


def raised(mark: str, before: str = "", *, note: bool = False) -> str:
    """Return what stands raised behind `before`: 10⁶, x^k, 1st; the mark of a note never joins a number or word."""
    mark = " ".join(mark.split())
    if not mark:
        return ""
    if note or _NOTES.fullmatch(mark):
        numbers = re.findall(r"\d+", mark)
        words = "" if numbers else re.search(r"\w", mark) and f" [{mark.strip('[]() ')}]"
        return "".join(" " + "".join(map(_RAISED.__getitem__, number)) for number in numbers) or words or mark
    if before[-1:].isalnum() and _ORDINAL.fullmatch(mark):
        return mark
    if all(sign in _RAISED for sign in mark):
        is_note = mark.isdigit() and before[-1:].isalnum() and not _is_power(before[-12:], mark)
        return " " * is_note + "".join(map(_RAISED.__getitem__, mark))
    return f"^{mark}" if len(mark) == 1 else f"^({mark})"


def _is_power(before: str, mark: str) -> bool:
    if mark == "1":  # nobody writes it as an exponent
        return bool(re.search(r"(?<![\w.,])10$", before))
    if re.search(r"(?<![^\W\d_])[^\W\d_]{2,3}$", before):  # a unit, such as cm
        return mark in {"2", "3"}
    return bool(re.search(r"(?<![\w.,])(?:10|[2-9])$|(?<![^\W\d_])[^\W\d_]$", before))


def lowered(mark: str, before: str = "", after: str = "") -> str:
    """Return what stands lowered: H2O, log₂8, 4_b."""
    mark = " ".join(mark.split())
    if mark.isdigit() and before[-1:].isalpha() and not after[:1].isdigit():
        return mark
    if all(sign in _LOWERED for sign in mark):
        return "".join(map(_LOWERED.__getitem__, mark))
    return f"_{mark}" if mark.isalnum() else f"_({mark})"


def told(node: Any) -> str:
    """Return an equation of Word (OMML) or of a page (MathML), an element of lxml, as a line of text."""
    return " ".join(_told(node).split())


def _told(node: Any) -> str:
    name = node.tag.rpartition("}")[2] if isinstance(node.tag, str) else "Pr"  # else a comment
    if name.endswith("Pr") or name.startswith("annotation"):
        return ""
    parts = [part for part in map(_told, node) if part.strip()]
    if name == "d":
        ends = {child.tag.rpartition("}")[2]: _value(child) for child in node.iterfind("{*}dPr/*")}
        return ends.get("begChr", "(") + ends.get("sepChr", "|").join(parts) + ends.get("endChr", ")")
    if name in _LISTS:
        return _LISTS[name][0] + _LISTS[name][1].join(parts) + _LISTS[name][2]
    shape = _PARTS.get(name)
    if shape is None or not parts:
        between = (node.text or "").strip() if name.startswith("m") else node.text or ""
        return between + "".join(parts)
    if name == "nary":
        low, high = ("".join(map(_told, node.iterfind(f"{{*}}{side}"))) for side in ("sub", "sup"))
        sign = next((_value(child) for child in node.iterfind("{*}naryPr/{*}chr")), "∫")
        parts = parts[-1:]
    else:
        low = parts[1] if "lowered" in shape and len(parts) > 1 else ""
        high = parts[-1] if "raised" in shape and len(parts) > 1 else ""
        sign = ""
    if name in {"rad", "mroot"} and len(parts) > 1:
        shape, high, parts = "{raised}√{0}", parts[name == "mroot"], parts[:1] if name == "mroot" else parts[1:]
    base = [*map(_grouped, parts), ""]
    up = raised(high) if all(sign in _RAISED for sign in high) else f"^{_grouped(high)}"
    return shape.format(*base, raised=up, lowered=low and lowered(low), sign=sign)


def _grouped(part: str) -> str:
    return part if re.fullmatch(r"[\w.,°%⁰-₎]+|\([^()]*\)|\[[^\]]*\]", part.strip()) else f"({part.strip()})"


def _value(node: Any) -> str:
    return next((str(value) for name, value in node.attrib.items() if name.endswith("val")), "")


def numeral(number: int, form: str) -> str:
    """Return the number of an item as its list writes it: "lowerLetter", "upperRoman", "decimalZero"; else 3.

    Behind z Word goes on with aa, bb, cc ("lowerLetter"), and a browser with aa, ab, ac ("lowerAlpha").
    """
    text = ""
    if form.endswith("Letter") and 0 < number <= 780:
        text = chr(97 + (number - 1) % 26) * ((number - 1) // 26 + 1)
    elif form.endswith("Alpha") and number > 0:
        while number > 0:
            number, letter = divmod(number - 1, 26)
            text = chr(97 + letter) + text
    elif form.endswith("Roman") and 0 < number < 4000:
        for value, letters in _ROMAN:
            text, number = text + letters * (number // value), number % value
    else:
        text = f"{number:02}" if form == "decimalZero" else str(number)
    return text.upper() if form.startswith("upper") else text
