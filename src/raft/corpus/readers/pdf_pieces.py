"""The pieces of text on a page of a PDF, and how they join: what is drawn twice, raised or lowered."""

import bisect
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

WIDE = 1.0
"""The gap, in font sizes, from which on two pieces on a line belong to two cells or columns."""
_RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTERS, _RAISED_LETTERS = "abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
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


Row = list[Piece]
Rule = tuple[float, float, float]


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


@dataclass
class Page:
    """What stands on a page; the frame that is drawn first comes first."""

    frames: list[Frame]
    no_letter: int = 0
    pictures: bool = False


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
