"""The blocks of a text, and in them the units between which it may be cut, each with what it costs to cut before it.

A block is a heading, a paragraph, a list item, a table, fenced code or a line that stands for a record; a unit is a
sentence, a table row or a line of code.
"""

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t](.*)|#*[ \t]*)$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#.:`_])\1{2,}$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,9}[.)]|[a-zA-Z][.)])[ \t]+\S")
_SEPARATOR = re.compile(r"\|?[ \t:]*-{2,}[-| \t:]*$")
_SENTENCE = re.compile(r"(?<=[.!?…؟।॥۔])[\"')\]*_”’»]*\s+(?=[^\sa-zß-ÿа-яё])|(?<=[。！？])[」』”）]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|\d{1,2}|approx|ca|cf|Dr|Fig|Figs|Inc|Jr|Ltd|Mr|Mrs|Ms|No|Nos|Nr|p|pp|Prof|Sec|Sr|St|vs|Vol)|"
    r"\b[a-z]\.[a-z])\.$"
)
_LINEWISE = {"csv", "tsv", "xlsx", "json", "jsonl", "yaml"}
_UNDERLINED = {"rst", "txt"}

_BETWEEN_BLOCKS, _BETWEEN_ITEMS, _NESTED_ITEM, _BETWEEN_ROWS = 0.05, 0.1, 0.3, 0.15
_IN_PARAGRAPH, _IN_CODE, _AFTER_COLON, _NEVER = 0.4, 0.6, 0.8, 5.0
IN_SENTENCE = 0.8
_SECTION_JOINED = 1.0


class Block(NamedTuple):
    """A part of a text, `text[start:end]`; `kind` is heading (of `level`), para, item, table, code or line."""

    kind: str
    start: int
    end: int
    level: int = 0


class Unit(NamedTuple):
    """A piece of a text that is best left whole; its first and last characters are no whitespace.

    `price` is what it costs to cut before it (a chunk of half the wanted size costs a quarter), `section` the index of
    its section, `above` the headings above it, outermost first, and below them the columns of its table.
    """

    start: int
    end: int
    price: float
    section: int
    above: tuple[str, ...]


class Section(NamedTuple):
    """What stands under one heading; `joined` is what it costs that a chunk goes on into it from the one before."""

    level: int
    joined: float


def units_of(text: str, title: str, format: str) -> tuple[list[Unit], list[Section]]:
    """Return the units of a text, in order, and its sections; `section` of a unit is an index into them.

    The title, if any, is the outermost heading of all; the format says what is a heading and what a record.
    """
    units: list[Unit] = []
    sections = [Section(0, _SECTION_JOINED)]
    path: list[tuple[int, str]] = [(0, title)] if title else []
    above = tuple(name for _, name in path)
    before = Block("", 0, 0, 0)
    for block in _Scanner(format).scan(text):
        if block.kind == "heading":
            path = [step for step in path if step[0] < block.level]
            name = _heading_text(text[block.start : block.end], format)
            outer = tuple(step for _, step in path)
            bare = before.kind == "heading" and before.level < block.level
            sections.append(Section(block.level, 0.0 if bare else _SECTION_JOINED))
            # A title that the text itself begins with is not told twice.
            outer = () if outer == (name,) else outer
            units.append(Unit(block.start, block.end, _NEVER if bare else 0.0, len(sections) - 1, outer))
            path += [(block.level, name)] if name and (not path or path[-1][1] != name) else []
            above = tuple(step for _, step in path)
        else:
            price = _price(text, before, block)
            for start, end, inner, columns in _pieces(text, block):
                place = (*above, columns) if columns else above
                units.append(Unit(start, end, price if start == block.start else inner, len(sections) - 1, place))
        before = block
    # Units begin and end with a character that is no whitespace, so that chunks do.
    trimmed = (trimmed_unit(text, unit) for unit in units)
    return [unit for unit in trimmed if unit.start < unit.end], sections


def trimmed_unit(text: str, unit: Unit) -> Unit:
    """Return the unit without the whitespace at its ends."""
    piece = text[unit.start : unit.end]
    start = unit.start + len(piece) - len(piece.lstrip())
    return unit._replace(start=start, end=start + len(piece.strip()))


def _heading_text(lines: str, format: str) -> str:
    if format not in _UNDERLINED and (atx := _ATX.match(lines)):
        return " ".join((atx[2] or "").rstrip(" \t").rstrip("#").split())
    return " ".join(next((line for line in lines.split("\n") if not _UNDERLINE.match(line.strip())), "").split())


def _price(text: str, before: Block, block: Block) -> float:
    """Return what it costs to cut between two blocks."""
    if before.kind == "heading":
        return _NEVER
    if before.kind in {"para", "item"} and text[before.end - 1 : before.end] == ":":
        return _AFTER_COLON
    if block.kind == "line":
        return _BETWEEN_ROWS
    if block.kind == "item" and before.kind == "item":
        return _NESTED_ITEM if text[block.start].isspace() else _BETWEEN_ITEMS
    return _NESTED_ITEM if text[block.start].isspace() and before.kind == "item" else _BETWEEN_BLOCKS


def _pieces(text: str, block: Block) -> Iterator[tuple[int, int, float, str]]:
    """Yield (start, end, price of a cut before it, columns of its table) for each unit of a block."""
    if block.kind in {"code", "table"}:
        columns, position = "", block.start
        for number, line in enumerate(text[block.start : block.end].split("\n")):
            price = _IN_CODE if block.kind == "code" else _NEVER if number < 3 and columns else _BETWEEN_ROWS
            if block.kind == "table" and number == 1 and _SEPARATOR.match(line.lstrip(" \t")):
                header = text[block.start : position - 1]
                columns, price = " | ".join(cell.strip() for cell in header.strip(" |").split("|")), _NEVER
            yield position, position + len(line), price, columns if number > 1 else ""
            position += len(line) + 1
        return
    start = block.start
    for match in _SENTENCE.finditer(text, block.start, block.end):
        if match.end() >= block.end or _ABBREVIATION.search(text, max(start, match.start() - 8), match.start()):
            continue
        yield start, match.end(), _IN_PARAGRAPH, ""
        start = match.end()
    yield start, block.end, _IN_PARAGRAPH, ""


class _Scanner:
    """Goes through the lines of a text once and collects its blocks."""

    def __init__(self, format: str) -> None:
        self.format, self.underlined = format, format in _UNDERLINED
        self.blocks: list[Block] = []
        self.kind, self.begin, self.end, self.lines, self.fence = "", 0, 0, 0, ""
        self.overline = False
        self.styles: list[tuple[str, bool]] = []

    def scan(self, text: str) -> list[Block]:
        position = 0
        for line in text.split("\n"):
            stripped = line.strip()
            if self.fence:
                self.end = position + len(line)
                mark = _FENCE.match(line)
                if mark and mark[1].startswith(self.fence) and not stripped.strip("`~"):
                    self.close()
            elif not stripped:
                self.close()
            else:
                self.take(line, stripped, position)
            position += len(line) + 1
        self.close()
        return self.blocks

    def close(self) -> None:
        if self.kind:
            self.blocks.append(Block(self.kind, self.begin, self.end))
        self.kind, self.fence = "", ""

    def take(self, line: str, stripped: str, start: int) -> None:
        """Take a line that is not blank and not in fenced code."""
        end = start + len(line)
        if level := self.underline_level(stripped):
            self.blocks.append(Block("heading", self.begin, end, level))
            self.kind = ""
            return
        kind, level = self.classify(line, stripped[0])
        goes_on = (kind == self.kind and kind in {"para", "table"}) or (kind == "para" and self.kind == "item")
        if not goes_on:
            self.close()
        if kind == "heading":
            self.blocks.append(Block(kind, start, end, level))
        elif goes_on:
            self.end, self.lines = end, self.lines + 1
        else:
            self.kind, self.begin, self.end, self.lines = kind, start, end, 1
            self.overline = self.underlined and bool(_UNDERLINE.match(stripped))
            mark = _FENCE.match(line) if kind == "code" else None
            self.fence = mark[1] if mark else ""

    def classify(self, line: str, first: str) -> tuple[str, int]:
        if self.format in _LINEWISE and not (first == "#" and self.format == "xlsx"):
            return "line", 0
        if not self.underlined:
            if first == "|":
                return "table", 0
            if first == "#" and (atx := _ATX.match(line)):
                return "heading", len(atx[1])
            if first in "`~" and _FENCE.match(line):
                return "code", 0
        return ("item" if _ITEM.match(line) else "para"), 0

    def underline_level(self, stripped: str) -> int:
        """Return the level of the heading that this line makes of the paragraph before it, or 0 if it makes none."""
        if self.kind != "para" or self.lines != 1 + self.overline or not _UNDERLINE.match(stripped):
            return 0
        if not self.underlined:
            return {"=": 1, "-": 2}.get(stripped[0], 0)
        # As long as the heading, about: a ruled line across the page separates, it does not underline.
        if not self.overline and not -2 <= len(stripped) - (self.end - self.begin) <= 12:
            return 0
        style = (stripped[0], self.overline)
        if style not in self.styles:
            self.styles.append(style)
        return self.styles.index(style) + 1


_LINES_IN_MEMORY = 2_000_000
_BOILERPLATE_SHARE = 0.5


def repeated_lines(documents: Iterable[pl.DataFrame]) -> frozenset[int]:
    """Find the lines that stand in so many documents (`tables.DOCUMENTS`) that they are furniture: menus, footers.

    That is a fifth of the documents, and at least five, so that a few editions of one manual do not take each other
    for furniture; in a corpus of three or four documents it is all of them, and of fewer none. Memory is bounded: of
    more than two million different lines, the rarest are forgotten, and as much as they may have counted is taken off
    the bar. The result are 64-bit digests of the lines, for `is_boilerplate`.
    """
    hashes, counts = np.empty(0, np.uint64), np.empty(0, np.uint32)
    pending: list[np.ndarray] = []
    total = waiting = forgotten = 0
    for frame in documents:
        for text in frame.filter(pl.col("error").is_null())["text"]:
            total += 1
            found = {_line_hash(line) for line in _telling_lines(text)}
            pending.append(np.fromiter(found, np.uint64, len(found)))
            waiting += len(found)
            if waiting > _LINES_IN_MEMORY:
                hashes, counts, lost = _merge(hashes, counts, pending)
                forgotten += lost
                pending, waiting = [], 0
    hashes, counts, lost = _merge(hashes, counts, pending)
    if total < 3:
        return frozenset()
    bar = max(3, max(min(total, 5), math.ceil(0.2 * total)) - forgotten)
    return frozenset(hashes[counts >= bar].tolist())


def is_boilerplate(text: str, repeated: Collection[int]) -> bool:
    """Return whether half or more of a text's characters, headings apart, stand in lines found by `repeated_lines`."""
    if not repeated:
        return False
    everything = furniture = 0
    for line in _telling_lines(text):
        everything += len(line)
        furniture += len(line) if _line_hash(line) in repeated else 0
    return everything > 0 and furniture >= _BOILERPLATE_SHARE * everything


def _telling_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text that say something: no headings, no rules, nothing without a letter or digit."""
    for raw in text.split("\n"):
        line = raw.strip().lower()
        if any(map(str.isalnum, line)) and not (line[0] == "#" and _ATX.match(line)):
            yield line


def _line_hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big")


def _merge(hashes: np.ndarray, counts: np.ndarray, pending: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Add the lines of more documents to the counts; return them and how often a forgotten line may have been seen."""
    every = np.concatenate([hashes, *pending])
    weights = np.concatenate([counts, *(np.ones(len(part), np.uint32) for part in pending)])
    merged, where = np.unique(every, return_inverse=True)
    sums = np.bincount(where, weights=weights, minlength=len(merged)).astype(np.uint32)
    lost = 0
    while len(merged) > _LINES_IN_MEMORY:
        lost = int(sums.min())
        merged, sums = merged[sums > lost], sums[sums > lost]
    return merged, sums, lost
