"""The encoding of a text that does not say it."""

import re
from collections import Counter

import charset_normalizer

_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "mac_roman", "cp850")
_LEGACY = [
    *_LATIN,
    *(
        "cp1251",
        "koi8_r",
        "cp866",
        "cp1253",
        "cp1255",
        "cp1256",
        "cp874",
        "cp932",
        "euc_jp",
        "gb18030",
        "big5",
        "euc_kr",
    ),
]
_ALPHABETS = (
    *("äöüß", "àâæçéèêëîïôœùûüÿ", "áéíñóúü", "àáâãçéêíóôõú", "àèéìíîòóùú", "åäöæøé", "áðéíóúýþæö", "ąćęłńóśźż"),
    *("áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîşţșț", "čćđšž", "çğıöşüâî", "āčēģīķļņšūž", "ąčęėįšųūž"),
)
"""Letters beyond ASCII of languages that share code pages."""
_SIGN_IN_WORD = re.compile(r"[^\W\d_](?:[ƒªº¹²³¼½¾]|[^\w\s!-/:-@’])+[^\W\d_]")
_BEYOND_ASCII_BYTES = re.compile(rb"[\x80-\xff]+")


def guessed(data: bytes) -> str | None:
    """Return the codec that bytes beyond UTF-8 are likeliest written in, or None where they are no text."""
    beyond = _BEYOND_ASCII_BYTES.search(data)
    start = data.rfind(b"\n", 0, beyond.start() if beyond else 0) + 1
    sample = data[start : start + 65_536]
    found = charset_normalizer.from_bytes(sample, cp_isolation=_LEGACY).best()
    if found and found.encoding not in _LATIN and not _is_within_words(sample.decode(found.encoding, "replace")):
        return found.encoding
    few = sum(map(len, _BEYOND_ASCII_BYTES.findall(sample))) <= 0.3 * len(sample)
    return min(_LATIN, key=lambda encoding: _misfits(sample.decode(encoding, "replace"))) if found or few else None


def _is_within_words(text: str) -> bool:
    """Tell whether most of what is beyond ASCII stands beside ASCII letters, as in languages of Latin letters alone."""
    runs: list[str] = re.findall(r"[A-Za-z]?[^\x00-\x7f]+[A-Za-z]?", text)
    return sum(run[0].isascii() or run[-1].isascii() for run in runs) * 2 > len(runs)


def _misfits(text: str) -> int:
    """Count signs within words, and letters that the language with the fewest of them does not have."""
    letters = Counter(mark for mark in text.lower() if "\u00c0" <= mark <= "\u024f")
    foreign = min(sum(count for mark, count in letters.items() if mark not in one) for one in _ALPHABETS)
    return foreign + len(_SIGN_IN_WORD.findall(text)) + text.count("\ufffd")
