"""Pure functions over text: normal forms, words, sentences, quote alignment, in whatever language and script."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from raft.text.languages import EN, Language, of_text
from raft.text.records import records
from raft.text.values import SYLLABLES, UNSPACED, agree

_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[*_]*[A-Z0-9])"  # a full stop and a capital
    r"|\n[ \t]*\n\s*"  # a blank line
    r"|\n(?=[ \t]*(?:[-*+•|#>]|\d+[.)]\s|```))"  # the next item, table row or heading
    r"|(?<=\|)[ \t]*\n"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|No|Nos|St|Inc|Ltd|Co|Fig|approx|ext|cf)|(?<!\d )(?<![°\w])[A-Z])\.$"
)
_SMALL = "a-zß-öø-ÿа-яё"
_OTHER_SENTENCE_END = re.compile(  # of other languages: small letters do not follow it
    rf"(?<=[.!?؟])[\"'”’»)\]]*\s+(?=[\"'“‘«„¿¡(\[*_]*[^\W_])(?![\"'“‘«„(\[*_]*[{_SMALL}])"
    r"|(?<=[।॥۔])\s*|(?<=[。！？])[」』”’）)]*(?=[^\s。！？」』”’）)])"
    rf"|(?<=[!?])(?=[{UNSPACED}])|{_SENTENCE_END.pattern}"
)
_OTHER_ABBREVIATION = re.compile(
    r"(?<![\w°])(?:[^\W\d_]|Abs|Art|Bd|bzw|ca|Dr|etc|Hr|Fr|Mr|Mme|núm|Nr|nr|pág|Prof|S[rt]a?|tzw|ul|usw|vgl|гг|им|рис"
    r"|см|стр|ул)\.$"
)
MARKS = "".join(mark for mark in map(chr, range(0x591, 0x1AAB)) if unicodedata.category(mark)[0] == "M")
_WORD = re.compile(r"\w+(?:[.,'’-]\w+)*")
_MARKED = re.compile(rf"[\w{MARKS}]+(?:(?:[.,'’-]|(?<=[\u0600-\u0dff])[\u200c\u200d])[\w{MARKS}]+)*")
"""With the vowel signs and other marks that carry letters; the accents of Latin letters are composed."""
PIECE = re.compile(rf"[\w{MARKS}]+")
_ONE_BY_ONE = re.compile(rf"[{UNSPACED}][{MARKS}]*")
PAIRED = re.compile(rf"[{UNSPACED}{SYLLABLES}]+")
"""What is told apart by pairs of neighbours, since a word has no end in it that could be seen."""

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]"
)

_EXPONENT, _NOTE_MARK = re.compile("(?<=\\d)(?=[⁰¹²³⁴-⁹⁺⁻])"), re.compile(r"(?<!\S)[⁰¹²³⁴-⁹]+(?!\w)")

STEM = 5
"""Letters by which words are told apart where their endings do not matter."""


def draw(name: str) -> float:
    """Return a number from 0 to 1 that depends on a text alone, as drawn evenly from all such numbers."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16


def whole(value: Any) -> Any:
    """Return a JSON value whose texts can be stored: half a pair of surrogates, as of a cut emoji, is left out."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "ignore").decode("utf-8")
    if isinstance(value, dict):
        return {whole(name): whole(one) for name, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


def from_json(text: str | bytes, **options: Any) -> Any:
    """Return what JSON holds, its texts whole; `options` are those of `json.loads`.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return whole(json.loads(text, **options))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_address(text: str) -> bool:
    """Tell whether documents are named by where they lie elsewhere, as s3://bucket/docs, and not by a path."""
    return re.match(r"[A-Za-z][\w+.-]+(?:::[A-Za-z][\w+.-]+)*://", text) is not None


def at_home(path: str | Path) -> Path:
    """Return a path with `~` as the user's folder; a user that is not known here stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  which raises nothing


def printable(text: str) -> str:
    """Return a text with control characters, what has no width, marks of direction and half characters escaped.

    They are escaped as in JSON, which so stays what it says; lines stay.
    """
    return _HIDDEN.sub(_escaped, text)


def _escaped(mark: re.Match[str]) -> str:
    units = mark[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def shortened(text: str, most: int) -> str:
    """Return a text on one line, in at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def normalise(text: str) -> str:
    """Return the text case-folded, without punctuation at the words' edges, with single spaces.

    Where a script has no spaces between words, each of its characters is a word (as in MLQA, arXiv 1910.07475). An
    exponent is none of its number's digits (10⁶ is not 106), and the mark of a note that stands apart is no word.
    """
    return _passage_normalised(text) if len(text) <= _PASSAGE else _normalised(text)


def _normalised(text: str) -> str:
    if not text.isascii():
        text = _EXPONENT.sub("^", _NOTE_MARK.sub("", text))
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(words(folded))


_PASSAGE = 4096  # characters; of what is longer, a document, nothing is kept
_passage_normalised = lru_cache(maxsize=4096)(_normalised)
"""A passage is found for many questions, and compared with each of their answers and quotes."""


def words(text: str) -> list[str]:
    """Return the words of a text as they are written; each character is one where a script has no spaces."""
    if text.isascii():
        return _WORD.findall(text)
    return _MARKED.findall(spaced(text))


def spaced(text: str) -> str:
    """Return a text with spaces around each character of a script that has none between words."""
    return text if text.isascii() else _ONE_BY_ONE.sub(r" \g<0> ", text)


def word_count(text: str) -> int:
    """Return how many words a text has: what stands between spaces; two characters are one where there are none."""
    count = len(text.split())
    if text.isascii() or not (unspaced := _ONE_BY_ONE.findall(text)):
        return count
    others = sum(any(map(str.isalnum, word)) for word in _ONE_BY_ONE.sub(" ", text).split())
    return (len(unspaced) + 1) // 2 + others


def content_words(text: str, language: Language | None = None) -> frozenset[str]:
    """Return the normalised words of a text that carry its meaning: no articles, question words or auxiliaries.

    Where a script has no spaces, and in Hangul, whose words have endings, each two neighbours are one. Without a
    language, the text tells it.
    """
    language = language or of_text(text)
    if text.isascii():
        return frozenset(normalise(text).split()) - language.words
    folded = unicodedata.normalize("NFKC", text).casefold()
    pieces = PAIRED.findall(folded)
    rest = frozenset(_MARKED.findall(PAIRED.sub(" ", folded))) - language.words
    if not pieces:
        return rest
    known = sorted(language.words, key=len, reverse=True)
    telling = (part for piece in pieces for part in re.split("|".join(map(re.escape, known)) or "$", piece) if part)
    return rest.union(*(neighbours(part) for part in telling))


def neighbours(text: str) -> list[str]:
    """Return each two neighbours of a text's characters; a single one as it is."""
    return [text[place : place + 2] for place in range(max(1, len(text) - 1))]


def stem(word: str) -> str:
    """Return the first letters of a word, so that "founded" and "founding" are one; a number stays whole."""
    return word if word.isdigit() else word[:STEM]


@lru_cache(maxsize=8192)
def _stems(text: str) -> frozenset[str]:
    return frozenset(map(stem, content_words(text)))


def overlap(question: str, text: str) -> float:
    """Return the share (0 to 1) of a question's content words whose stems stand in a text; 1 if it has none."""
    wanted = _stems(question)
    return len(wanted & _stems(text)) / len(wanted) if wanted else 1.0


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each sentence; blank lines, list items and records end one, wrapped lines do not."""
    english = text.isascii() or of_text(text) is EN
    ends, abbreviation = (_SENTENCE_END, _ABBREVIATION) if english else (_OTHER_SENTENCE_END, _OTHER_ABBREVIATION)
    place = 0
    for record in records(text):
        yield from _parted(text, place, record.start, ends, abbreviation)
        yield from _parted(text, record.start, record.end, None if record.whole else ends, abbreviation)
        place = record.end
    yield from _parted(text, place, len(text), ends, abbreviation)


def _parted(
    text: str, start: int, end: int, ends: re.Pattern[str] | None, abbreviation: re.Pattern[str]
) -> Iterator[tuple[int, int]]:
    for gap in ends.finditer(text, start, end) if ends else ():
        if "\n" not in gap.group() and abbreviation.search(text, max(start, gap.start() - 12), gap.start()):
            continue
        yield from _piece(text, start, gap.start())
        start = gap.end()
    yield from _piece(text, start, end)


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


def contains(text: str, answer: str) -> bool:
    """Tell whether the words of `answer` stand in `text`, one after the other, in any case and punctuation."""
    wanted = normalise(answer)
    return bool(wanted) and f" {wanted} " in f" {normalise(text)} "


def places(wanted: str, text: str, before: re.Pattern[str], after: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield where a text holds another that is not behind a character of `before`, nor in front of what is `after`.

    It finds what a pattern of the escaped text would, which takes as long to compile as a hundred such searches.
    """
    start = text.find(wanted) if wanted else -1
    while start >= 0:
        end = start + len(wanted)
        if (start and before.match(text, start - 1)) or after.match(text, end):
            start = text.find(wanted, start + 1)
        else:
            yield start, end
            start = text.find(wanted, end)


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
    return (start, end) if agree(text[start:end], quote) else None


def _plain(text: str) -> str:
    # one for one, so that offsets stay
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


_CONTROL = re.compile(
    r"(?<=<)_*(?=\|[\w/.:-]{1,40}\|?>|[\w/.:-]{1,40}\|>|｜[^<>\n]{1,40}｜>|/?(?:s|think|tool_call|tool_response)>|</?SYS>>"
    r"|(?:start|end)_of_(?:turn|image|audio)>|(?:[bes]op|[be]os|pad|unk|mask|sep|cls)>|(?:extra_id|SPECIAL)_\d+>)"
    r"|(?<=\[)_*(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT))\]|gMASK\])"
)
"""Behind the first sign of a token that begins or ends a turn for some model."""


def as_text(text: str) -> str:
    """Return a text in which no control token of a model stands: `<|im_end|>` becomes `<_|im_end|>`."""
    return _CONTROL.sub(r"\g<0>_", text)


def as_written(text: str) -> str:
    """Return the text that `as_text` was given."""
    return _CONTROL.sub(lambda found: found[0][1:], text)


def embedded_text(heading: str, text: str) -> str:
    """Return what is embedded and counted of a chunk: its heading path, if it has one, a line end, and its text."""
    return f"{heading}\n{text}" if heading else text
