"""Lines that are records: rows of tables, `name: value`, terms and what they mean, lines of logs."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

VERSION = 1
"""Raised when other lines come to be records: what was made of texts that have some is made anew."""

_PAIR = r"(?:[^:;\n]|:(?=[^\s:*_]))"
_MARK = r":[*_]{0,2} (?=\S)|："
_KEYED = re.compile(rf"(?![-*+#>|•] )(?P<key>[^\s:;|>#`<]{_PAIR}{{0,80}}?)(?:{_MARK})")
_NEXT = re.compile(rf"; (?={_PAIR}{{1,80}}?(?:{_MARK}))")
_GLOSSED = re.compile(r"(?![-*+#>|•] |\d+[.)] )[^\s|#>`]\S*(?: [^\s–—=-]\S*){0,4} (?:[–—=-]|:=) \S")
_CELLS = re.compile(r"\S(?:\t| {3})\s*\S")
_STAMPED = re.compile(
    r"[\[(<]?(?:\d{4}[-/.]\d\d?[-/.]\d\d?[T ,]+\d\d?:\d\d|\d\d?[/.]\d\d?[/.]\d{4},? \d\d?:\d\d|\d\d:\d\d:\d\d\b"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\b|(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)\b"
    r"|\d{1,3}(?:\.\d{1,3}){3} \S+ \S+ \[)"
)
_FENCE = re.compile(r" {0,3}(?:```|~~~)")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)*_]*\s+[\"'“‘(\[*_]*[A-Z\d]")
_NARROWEST, _WIDEST, _LONGEST = 40, 120, 400
"""Characters of the narrowest and the widest lines that are taken for wrapped ones, and of the longest row that is one
sentence whatever stands in its cells."""
_SHORT = 3
"""Words of a name that prose seldom has before a colon in two lines one below the other."""


class Record(NamedTuple):
    """A line, with those that go on with it; `whole` where the full stops in it end no sentence."""

    start: int
    end: int
    whole: bool


class _Line(NamedTuple):
    start: int
    text: str
    key: str
    row: bool
    glossed: bool
    cells: bool
    stamped: bool
    piped: bool
    explains: bool

    @classmethod
    def at(cls, start: int, text: str) -> "_Line":
        keyed = _KEYED.match(text) if ":" in text or "：" in text else None
        key = keyed["key"].strip("*_ ") if keyed and not _SENTENCE_END.search(keyed["key"]) else ""
        row = bool(key) and bool(_NEXT.search(text))
        is_like = (bool(_GLOSSED.match(text)), bool(_CELLS.search(text)), bool(_STAMPED.match(text)))
        return cls(start, text, key, row, *is_like, text.lstrip().startswith("|"), text.startswith((": ", ":\t")))


def records(text: str) -> list[Record]:
    """Return the records of a text in order; where a paragraph has some, each of its lines is part of one.

    What a line is, its neighbours tell: alone it may be prose with a colon, and a line that was wrapped goes on where
    the next word had no room on it. Of Markdown's tables, which stand apart anyhow, rows with full stops in them count.
    Fenced code has none.
    """
    if "\n" not in text and "|" not in text:
        return []
    told = (block for block in _blocks(text) if len(block) > 1 or "|" in block[0][1])
    return [record for block in told for record in _of_block([_Line.at(*line) for line in block])]


def pairs(record: str) -> list[tuple[str, str]]:
    """Return the names and values of a line `name: value; name: value`; none of another."""
    found = []
    for part in _NEXT.split(record):
        keyed = _KEYED.match(part)
        if not keyed:
            return []
        found.append((keyed["key"].strip("*_ "), part[keyed.end() :].strip("*_ ")))
    return found


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Yield the lines of each paragraph outside of fenced code, with their places."""
    block: list[tuple[int, str]] = []
    place, code = 0, False
    for raw in text.split("\n"):
        fence = bool(_FENCE.match(raw))
        if raw.strip() and not fence and not code:
            block.append((place, raw))
        elif block:
            yield block
            block = []
        code ^= fence
        place += len(raw) + 1
    if block:
        yield block


def _of_block(block: Sequence[_Line]) -> Iterator[Record]:
    width = min(_WIDEST, max(_NARROWEST, *(len(line.text) for line in block)))
    roomy = [
        len(above.text) > _WIDEST or len(above.text) + 1 + len(line.text.split(None, 1)[0]) <= width
        for above, line in pairwise(block)
    ]
    tell = _Telling(
        ragged=2 * sum(roomy) > len(roomy),
        named=sum(bool(line.key) for line in block),
        rows=sum(line.row for line in block),
        glossed=sum(line.glossed for line in block),
        stamped=sum(line.stamped for line in block),
        as_code=block[0].key[:1].islower() and " " not in block[0].key,
    )
    places = enumerate(zip(block, block[1:], [*block[2:], None], strict=False), start=1)
    begins = [number for number, of in places if _begins(*of, tell, meant=tell.ragged or roomy[number - 1])]
    for first, end in zip([0, *begins], [*begins, len(block)], strict=True):
        line, last = block[first], block[end - 1]
        start, stop = line.start, last.start + len(last.text)
        if line.piped:
            if _SENTENCE_END.search(line.text):
                yield Record(start, stop, whole=True)
        elif begins:
            whole = stop - start <= _LONGEST and (line.row or line.cells or (line.stamped and tell.stamped > 1))
            yield Record(start, stop, whole)


class _Telling(NamedTuple):
    """What a paragraph's lines tell together: most end before they are full, so many are what, it begins with a key."""

    ragged: bool
    named: int
    rows: int
    glossed: int
    stamped: int
    as_code: bool


def _begins(above: _Line, line: _Line, below: _Line | None, tell: _Telling, *, meant: bool) -> bool:
    """Return whether a line does not go on with the one above it; `meant` if the line above had room for more."""
    if line.explains:
        return False
    stands = line.piped or above.piped or (line.stamped and tell.stamped > 1) or (above.cells and line.cells)
    stands = stands or (below is not None and below.explains)
    if stands or ((above.row or line.row) and (tell.rows > 1 or meant)):
        return True
    if meant and ((line.key and tell.named > 1) or (line.glossed and tell.glossed > 1)):
        return True
    keys = (above.key, line.key)
    if not all(keys):
        return False
    paths = above.key == line.key or all(" > " in key for key in keys) or tell.as_code
    return paths or all(key.count(" ") < _SHORT and not key[0].islower() for key in keys)
