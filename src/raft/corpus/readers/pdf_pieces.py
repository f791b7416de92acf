"""The pieces of text on a page of a PDF, how they join (what is drawn twice, raised or lowered), and their Markdown."""

import bisect
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

WIDE = 1.0
"""The gap, in font sizes, from which on two pieces on a line belong to two cells or columns."""
_RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTERS, _RAISED_LETTERS = "abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_MOST_INITIALS = 50
_WIDTH_OF_CODE = 0.6
"""How wide a character of code is, in font sizes."""
_ITEM = re.compile(r"(?:[-–•·▪◦*o]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_BULLET = re.compile(r"^[•·▪◦]\s+")
_AND = {"and", "und", "oder", "bzw", "sowie", "ou", "y", "e", "o", "of", "i"}
_AND_OR_END = {"or": "the", "en": "het", "et": "les"}
"""What words end with as well (Frau-en), and a word of the language in which it means "and"."""
_CAPITAL = re.compile(r"[\dA-ZÀ-Þ][^\W_]*")
_SIGN = re.compile(r"[][{}();=<>$#|\\_@]|::|\s--?\w")
"""What lines of code have and those of prose have not."""
_LONGEST_LABEL = 20
"""Characters: shorter lines may be labels, each with a dash behind it."""
_PLAIN_RAISED = re.compile(r"(?:st|nd|rd|th|er|re|[^\w\s()+−=-]+)")


@dataclass(slots=True)
class Piece:
    """Text on one line without a wide gap; places are in the frame in which the text is upright."""

    text: str
    left: float
    right: float
    height: float
    size: float
    bold: bool = False
    place: int = 0
    """Its number in the order of drawing."""
    even: bool = False
    """Whether all characters are as wide, as those of code are."""


Row = list[Piece]
Rule = tuple[float, float, float]


@dataclass
class Table:
    """Rows of cells."""

    rows: list[list[str]]


@dataclass
class Frame:
    """The pieces of a page that are set at one angle, in the order of drawing, and the lines drawn beside them."""

    pieces: list[Piece]
    bottom: float
    top: float
    width: float
    across: list[Rule] = field(default_factory=list)
    """(height, left, right) of horizontal lines, from the top."""
    down: list[Rule] = field(default_factory=list)
    """(left, bottom, top) of vertical ones."""
    slanted: bool = False
    """Whether it is set across the page, as a watermark is."""


@dataclass
class Page:
    """What stands on a page; the frame that is drawn first comes first, one that is slanted last."""

    frames: list[Frame]
    no_letter: int = 0
    pictures: bool = False
    """Whether a page of little text has a picture."""
    hidden: int = 0
    comments: int = 0
    stamps: int = 0


def with_initials(pieces: list[Piece]) -> list[Piece]:
    """Put a letter that is as high as several lines before the first of them."""
    kept = list(pieces)
    for initial in [piece for piece in pieces if len(piece.text) == 1 and piece.text.isupper()][:_MOST_INITIALS]:
        beside = [
            piece
            for piece in pieces
            if piece.size < 0.6 * initial.size
            and -0.3 * initial.size < piece.left - initial.right < 0.6 * initial.size
            and -0.3 * piece.size < piece.height - initial.height < 0.9 * initial.size
        ]
        first = max(beside, key=lambda piece: (piece.height, -piece.left), default=None)
        lower = first and any(first.height - piece.height > 0.6 * piece.size for piece in beside)
        if first and lower and first.text[0].isalpha():
            known = {word for piece in pieces if piece is not first for word in piece.text.split()}
            word = first.text.split()[0]
            alone = initial.text in "AI" and len(word) > 1 and word in known and initial.text + word not in known
            alone = alone or (word[0].isupper() and word[1:2].islower())  # a word of its own: what it begins is not one
            first.text, first.left = initial.text + " " * alone + first.text, initial.left
            kept = [piece for piece in kept if piece is not initial]
    return kept


def _with_code(blocks: list[Piece | Table], levels: dict[tuple[float, bool], int]) -> Iterator[Piece | Table | str]:
    """Yield blocks, with lines of code that follow each other as one fenced text."""

    def is_code(block: Piece | Table) -> bool:
        return isinstance(block, Piece) and block.even and (block.size, block.bold) not in levels

    for code, run in itertools.groupby(blocks, key=is_code):
        its = list(run)
        lines = [line for line in its if code and isinstance(line, Piece)]
        left = min((line.left for line in lines), default=0.0)
        signs = sum(bool(_SIGN.search(line.text)) or line.left > left + line.size / 2 for line in lines)
        if len(lines) > 1 and signs > len(lines) / 3:  # else a letter or the like
            yield _as_code(lines)
        else:
            yield from its


def _as_code(lines: list[Piece]) -> str:
    """Return lines of code as they stand, each behind as much room."""
    left = min(line.left for line in lines)
    said = []
    for number, line in enumerate(lines):
        apart = number and lines[number - 1].height - line.height > 1.8 * line.size
        said += [""] * bool(apart) + [" " * round((line.left - left) / (_WIDTH_OF_CODE * line.size)) + line.text]
    return "\n".join(["```", *said, "```"])


def once(pieces: list[Piece]) -> list[Piece]:
    """Leave out what is drawn again at the same place, or slightly beside it, to make it bold."""
    kept: list[Piece] = []
    seen: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for piece in pieces:
        near = 0.12 * piece.size
        cell = (piece.text, piece.size, round(piece.height / (4 * near)), round(piece.left / (4 * near)))
        around = [(*cell[:2], cell[2] + up, cell[3] + right) for up in (-1, 0, 1) for right in (-1, 0, 1)]
        if any(
            abs(left - piece.left) <= near and abs(height - piece.height) <= near
            for key in around
            for left, height in seen.get(key, ())
        ):
            continue
        seen[cell].append((piece.left, piece.height))
        kept.append(piece)
    return kept


def with_scripts(pieces: list[Piece], walls: list[Rule]) -> list[Piece]:
    """Join pieces that follow each other on a line; raised and lowered ones become such characters."""
    lines: list[Piece] = []
    for piece in _beside_hosts(pieces):
        last = lines[-1] if lines else None
        gap = piece.left - last.right if last else 0.0
        if last and gap < 0 and not last.text.isascii() and TO_LEFT.search(last.text):
            gap = last.left - piece.right
        if last and _joins(last, piece, gap, walls):
            last.text += (" " if gap > 0.15 * min(last.size, piece.size) else "") + piece.text
            last.left, last.right = min(last.left, piece.left), max(last.right, piece.right)
            last.even = last.even and piece.even
        elif last and (kind := _script(piece, last, gap)):
            last.text, last.right = last.text + _as_script(piece.text, kind), max(last.right, piece.right)
        elif last and (kind := _script(last, piece, gap)) and len(last.text) <= 4:
            text = _as_script(last.text, kind) + (" " if gap > 0.15 * piece.size else "") + piece.text
            lines[-1] = replace(piece, text=text, left=last.left)
        else:
            lines.append(replace(piece))
    for place, line in enumerate(lines):
        line.place = place
    return lines


def _beside_hosts(pieces: list[Piece]) -> list[Piece]:
    """Move raised and lowered figures that are drawn apart from what they belong to behind it."""
    by_size: Counter[float] = Counter()
    for piece in pieces:
        by_size[piece.size] += len(piece.text)
    body = by_size.most_common(1)[0][0] if by_size else 0.0
    ends: dict[tuple[int, int], list[int]] = defaultdict(list)
    late = []
    for number, piece in enumerate(pieces):
        if piece.size > 0.85 * body:
            ends[round(piece.right / body), round(piece.height / body)].append(number)
        elif len(piece.text) <= 3:
            late.append(number)
    places = list(range(len(pieces)))
    for number in late:
        piece = pieces[number]
        column, row = round(piece.left / body), round(piece.height / body)
        near = [end for x in (-1, 0, 1) for y in (-1, 0, 1) for end in ends.get((column + x, row + y), ())[:9]]
        hosts = (host for host in near if _script(piece, pieces[host], piece.left - pieces[host].right))
        places[number] = next(hosts, number)
    return [pieces[number] for number in sorted(range(len(pieces)), key=lambda n: (places[n], n != places[n], n))]


def _joins(last: Piece, piece: Piece, gap: float, walls: list[Rule]) -> bool:
    size = min(last.size, piece.size)
    level = abs(last.height - piece.height) < (0.3 if last.size == piece.size else 0.1) * size
    return level and -0.5 * size < gap <= WIDE * size and not walled(last, piece, walls)


def walled(last: Piece, piece: Piece, walls: list[Rule]) -> bool:
    """Tell whether a vertical line stands between two pieces."""
    number = bisect.bisect(walls, (last.right - 2, 0.0, 0.0))
    while number < len(walls) and walls[number][0] < piece.left + 2:
        if walls[number][1] <= piece.height <= walls[number][2]:
            return True
        number += 1
    return False


def _script(piece: Piece, host: Piece, gap: float) -> int:
    """Return 1 if a piece is raised above its neighbour, -1 if it is lowered, 0 if it is neither."""
    raised = (piece.height - host.height) / host.size
    if not -0.25 * host.size < gap < 0.4 * host.size or len(piece.text) > 12:
        return 0
    if piece.size <= 0.85 * host.size:
        return 1 if 0.12 < raised < 0.9 else -1 if -0.65 < raised < -0.04 else 0
    short = re.fullmatch(r"[-+−]?\d{1,3}", piece.text) and piece.size <= host.size
    return 1 if short and 0.25 < raised < 0.7 else -1 if short and -0.4 < raised < -0.12 else 0


def _as_script(text: str, kind: int) -> str:
    text = text.strip()
    if kind > 0 and _PLAIN_RAISED.fullmatch(text):
        return text
    if kind > 0 and len(text) == 1 and text in _LETTERS:
        return _RAISED_LETTERS[_LETTERS.index(text)]
    shown = text.translate(_RAISED if kind > 0 else _LOWERED)
    changed = all(a != b for a, b in zip(text, shown, strict=True) if a not in " ,.*")
    return shown if changed else f"{'^' if kind > 0 else '_'}{text}"


def frame_text(
    blocks: list[Piece | Table], frame: Frame, levels: dict[tuple[float, bool], int], words: set[str], *, code: bool
) -> str:
    """Return a frame as Markdown; with `code` what is set in characters as wide as each other is code."""
    shown = list(_with_code(blocks, levels) if code else blocks)
    lines = [block for block in shown if isinstance(block, Piece)]
    reach = max((line.right for line in lines), default=0.0) - min((line.left for line in lines), default=0.0)
    widest = sorted(len(line.text) for line in lines)[int(0.9 * (len(lines) - 1))] if lines else 0
    gaps = Counter(round(a.height - b.height) for a, b in itertools.pairwise(lines) if a.size == b.size)
    usual = next((gap for gap, _ in gaps.most_common() if gap > 0), 0)
    if reach < 0.5 * frame.width:  # no line is full: each is ended by who wrote it
        widest = 2 * widest
    parts: list[str] = []
    for number, line in enumerate(shown):
        before = shown[number - 1] if number else None
        if isinstance(line, str):
            parts.append(f"\n\n{line}")
            continue
        if isinstance(line, Table):
            rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in line.rows]
            parts.append("\n\n" + "\n".join([rows[0], "|" + " --- |" * len(line.rows[0]), *rows[1:]]))
            continue
        level = levels.get((line.size, line.bold), 0) if len(line.text) <= 200 else 0
        if level:
            same = isinstance(before, Piece) and before.size == line.size
            same = same and 0 < before.height - line.height < 1.6 * line.size  # type: ignore[union-attr]
            parts.append(f" {line.text}" if same else f"\n\n{'#' * level} {line.text}")
        elif not isinstance(before, Piece) or (before.size, before.bold) in levels:
            parts.append(f"\n\n{_BULLET.sub('- ', line.text, count=1)}")
        else:
            parts.append(_continuation(parts, before, line, usual=usual, widest=widest, words=words))
    return "".join(parts).strip()


def _continuation(parts: list[str], before: Piece, line: Piece, *, usual: int, widest: int, words: set[str]) -> str:
    """Return a line of the body with what separates it from the line before; mend a word broken between them."""
    gap = before.height - line.height
    near = 0 < gap <= (1.3 * usual if usual else 2.6 * line.size)
    kept = re.search(r"([^\W_]+)-$", before.text)
    prose = len(before.text) > _LONGEST_LABEL and not _ITEM.match(line.text)
    if near and prose and kept and (begin := _CAPITAL.match(line.text)):  # AB-12, Baden-Baden; but not ELE-MENT
        if kept[1].isupper() and begin[0].isupper() and kept[1] + begin[0] in words:
            parts[-1] = parts[-1][:-1]
        return line.text
    if _ITEM.match(line.text):
        return ("\n" if _ITEM.match(before.text) or gap <= 1.25 * usual else "\n\n") + _BULLET.sub("- ", line.text)
    ended = before.text.rstrip("\"'”’)").endswith((".", "!", "?", ":", ";"))
    short = len(before.text) < 0.75 * widest
    if (usual and gap > 1.3 * usual) or gap > 2.6 * line.size or (ended and short) or (gap < 0 and ended):
        return f"\n\n{line.text}"
    if short and not line.text[:1].islower():
        return f"\n{line.text}"
    broken = re.search(r"(?<![^\W\d_])([^\W\d_]+)-$", before.text)
    rest = re.match(r"[^\W\d_]+", line.text)
    if broken and rest and line.text[0].islower():
        between = _between(broken[1], rest[0], words)
        parts[-1] = parts[-1] if between else parts[-1][:-1]
        return between.removeprefix("-") + line.text
    return f" {line.text}"


def _between(begin: str, rest: str, words: set[str]) -> str:
    """Return what stands between the parts of a word that is broken at the end of a line: nothing, "-" or "- "."""
    if (rest in _AND or _AND_OR_END.get(rest) in words) and begin + rest not in words:  # as in "on- and offline"
        return "- "
    parted = begin in words and rest in words and begin + rest not in words
    return "-" if f"{begin}-{rest}" in words or parted else ""


def join_pages(pages: list[str], words: set[str]) -> tuple[str, list[int]]:
    """Return the text of all pages and where each begins; what goes on over pages is joined."""
    pieces, length = [""], 0
    starts: list[int] = []
    header = ""
    for page in pages:
        between, text = _continued(pieces[-1], page, header) if page and pieces[-1] else ("", page)
        broken = re.search(r"(?<![^\W\d_])([^\W\d_]+)-$", pieces[-1]) if between else None
        rest = re.match(r"[^\W\d_]+", text)
        if broken and rest and text[0].islower():
            between = _between(broken[1], rest[0], words)
            if not between:
                pieces[-1], length = pieces[-1][:-1], length - 1
                starts = [min(start, length) for start in starts]  # of pages without text between the two
            between = between.removeprefix("-")
        starts.append(length + len(between))
        if text:
            pieces += [between, text]
            length += len(between) + len(text)
            tables = re.findall(r"(?m)^(\| .*)\n\| --- \|", text)
            header = tables[-1] if tables else header
    return "".join(pieces), starts


def _continued(before: str, page: str, header: str) -> tuple[str, str]:
    """Return what stands between two pages, and the second without the header of a table that goes on."""
    last = before[before.rfind("\n") + 1 :]
    first, _, others = page.partition("\n")
    rule, _, body = others.partition("\n")
    if last.startswith("| ") and rule.startswith("| ---") and _cells(last) == _cells(first):
        if first == header and first not in body and before.count(first) < 2:
            return "\n", body
        other = first.split(" | ", maxsplit=1)[0] != header.split(" | ", maxsplit=1)[0]
        if first == header or other:  # else another table in the same form
            return "\n", f"{first}\n{body}".rstrip()
    goes_on = page[0].islower() and (before[-1].isalnum() or before[-1] == ",")
    listed = _ITEM.match(page) and _ITEM.match(last)
    return " " if goes_on else "\n" if listed else "\n\n", page


def _cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))
