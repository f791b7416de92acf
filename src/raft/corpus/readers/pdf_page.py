"""What stands on a page of a PDF, as PDFium tells it: pieces of text at their places, filled fields, ruled lines.

Method: PDFium's text page lists the characters in the order in which they are drawn, each with its place, font size and
text object. A piece is what one object draws without a wide gap; raised and lowered figures become those of Unicode.
"""

import ctypes
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from raft.corpus.readers import clean, require

WIDE = 1.0
"""The gap, in font sizes, from which on two pieces on a line belong to two cells or columns."""

_LIGATURES = {0xFB00 + number: letters for number, letters in enumerate(["ff", "fi", "fl", "ffi", "ffl", "st", "st"])}
_RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_NO_LETTER = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff\U000f0000-\U0010fffd]")
_PLAIN_RAISED = re.compile(r"(?:st|nd|rd|th|er|re|e|o|a|[^\w\s()+−=-]+)")
MOST_OBJECTS = 20_000


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
    """Where it stands in the order of drawing."""


@dataclass
class Page:
    """A page: its pieces by the angle of the text, the angle of most letters first."""

    pieces: list[list[Piece]] = field(default_factory=list)
    bottom: float = 0.0
    top: float = 0.0
    width: float = 0.0
    rules: list[tuple[float, float, float]] = field(default_factory=list)
    """(left, right, height) of horizontal lines, in the frame of the first angle."""
    no_letter: int = 0
    pictures: bool = False


def read_page(page: Any, *, form: Any) -> Page:
    """Return what stands on a page of pypdfium2; `form` is the document's form environment or None."""
    c = require("pypdfium2.raw", why="to read PDF files")
    result = Page()
    angles: dict[int, list[Piece]] = defaultdict(list)
    for angle, piece in _drawn(page, c):
        piece.text, lost = _NO_LETTER.subn("", piece.text.translate(_LIGATURES))
        piece.text = " ".join(clean(piece.text).split())
        result.no_letter += lost
        if piece.text:
            angles[angle].append(piece)
    for piece, label in _filled(page, form, c):
        _put(angles[0], piece, label)
    frames = sorted((angle for angle in angles if angles[angle]), key=lambda a: -sum(len(p.text) for p in angles[a]))
    result.pieces = [_with_scripts(_once(angles[angle])) for angle in frames]
    main = frames[0] if frames else 0
    left, bottom, right, top = page.get_bbox()
    across, up = zip(*(_turned(x, y, main) for x in (left, right) for y in (bottom, top)), strict=True)
    result.bottom, result.top, result.width = min(up), max(up), max(across) - min(across)
    if not frames:
        result.pictures = any(kind == c.FPDF_PAGEOBJ_IMAGE for kind, _ in _objects(page, c))
    elif len({round(piece.left) for piece in result.pieces[0]}) > 1:
        result.rules = _rules(page, main, c)
    return result


def _turned(x: float, y: float, angle: int) -> tuple[float, float]:
    if not angle:
        return x, y
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return x * cos + y * sin, y * cos - x * sin


def _drawn(page: Any, c: Any) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of a page with the angle of each, in the order of drawing."""
    holder = page.get_textpage()
    text_page, count = holder.raw, c.FPDFText_CountChars(holder.raw)
    matrix, box, x, y = c.FS_MATRIX(), c.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
    name, flags = ctypes.create_string_buffer(100), ctypes.c_int()
    buffer = (ctypes.c_ushort * (count + 2))()
    all_text = ctypes.string_at(buffer, 2 * max(0, c.FPDFText_GetText(text_page, 0, count, buffer) - 1))
    drawn = all_text.decode("utf-16-le", "surrogatepass")
    exact = len(drawn) == count

    def owner(number: int) -> int:
        found = c.FPDFText_GetTextObject(text_page, number) if number < count else None
        return ctypes.addressof(found.contents) if found else 0

    def begin(number: int) -> tuple[float, float]:
        c.FPDFText_GetCharOrigin(text_page, number, x, y)
        return _turned(x.value, y.value, angle)

    def end(number: int) -> float:
        c.FPDFText_GetLooseCharBox(text_page, number, box)
        if not angle:
            return float(box.right)
        return max(_turned(x, y, angle)[0] for x in (box.left, box.right) for y in (box.bottom, box.top))

    start, place = 0, 0
    while start < count:
        its = owner(start)
        stop, step = start + 1, 1
        end_of_line = drawn.find("\r", start) if exact else -1
        if its and end_of_line > start and owner(end_of_line - 1) == its:
            stop, step = end_of_line, 0
        while its and step:  # the characters of an object stand together
            same = stop + step - 1 < count and owner(stop + step - 1) == its
            stop, step = (stop + step, 2 * step) if same else (stop, step // 2)
        text = drawn[start:stop] if its and exact else ""
        if its and not exact:
            length = c.FPDFText_GetText(text_page, start, stop - start, buffer) - 1
            text = ctypes.string_at(buffer, 2 * max(length, 0)).decode("utf-16-le", "surrogatepass")
        text = text.replace("\x02", "-").replace("\ufffe", "-")
        if text and not text.isspace():
            c.FPDFText_GetMatrix(text_page, start, matrix)
            angle = round(math.degrees(math.atan2(matrix.b, matrix.a))) % 360 if matrix.b else 180 * (matrix.a < 0)
            size = round(c.FPDFText_GetFontSize(text_page, start) * math.hypot(matrix.c, matrix.d), 1)
            c.FPDFText_GetFontInfo(text_page, start, name, 100, flags)
            bold = b"bold" in name.value.lower() or b"black" in name.value.lower()
            if math.isfinite(size):
                space = text.find(" ", 1)
                loose = len(text) == stop - start and space > 0 and c.FPDFText_IsGenerated(text_page, start + space)
                parts = _parts(text, start, begin, end, WIDE * size if loose else math.inf)
                for first, last in parts:
                    left, height = begin(start + first)
                    right = end(min(start + last, stop) - 1)
                    if not (math.isfinite(left) and math.isfinite(height)):
                        continue
                    yield angle, Piece(text[first:last], left, max(left, right), height, size or 1.0, bold, place)
                    place += 1
        start = stop


def _parts(text: str, start: int, begin: Any, end: Any, wide: float) -> list[tuple[int, int]]:
    """Return where the parts between wide gaps begin and end."""
    parts, first = [], len(text) - len(text.lstrip())
    stripped = text.rstrip()
    for match in re.finditer(r"\s+", stripped) if wide < math.inf else ():
        before, after = match.span()
        if before > first and begin(start + after)[0] - end(start + before - 1) > wide:
            parts.append((first, before))
            first = after
    return [*parts, (first, len(stripped))]


def _once(pieces: list[Piece]) -> list[Piece]:
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


def _with_scripts(pieces: list[Piece]) -> list[Piece]:
    """Join pieces that follow each other on a line; raised and lowered ones become such characters."""
    lines: list[Piece] = []
    for piece in pieces:
        last = lines[-1] if lines else None
        gap = piece.left - last.right if last else 0.0
        if last and _joins(last, piece, gap):
            last.text += (" " if gap > 0.15 * min(last.size, piece.size) else "") + piece.text
            last.right = max(last.right, piece.right)
        elif last and (kind := _script(piece, last, gap)):
            last.text, last.right = last.text + _as_script(piece.text, kind), max(last.right, piece.right)
        elif last and (kind := _script(last, piece, gap)) and len(last.text) <= 4:
            text = _as_script(last.text, kind) + (" " if gap > 0.15 * piece.size else "") + piece.text
            lines[-1] = replace(piece, text=text, left=last.left, place=last.place)
        else:
            lines.append(piece)
    lines = _with_late_scripts(lines)
    for place, line in enumerate(lines):
        line.place = place
    return lines


def _joins(last: Piece, piece: Piece, gap: float) -> bool:
    size = min(last.size, piece.size)
    level = abs(last.height - piece.height) < (0.3 if last.size == piece.size else 0.1) * size
    return level and -0.5 * size < gap <= WIDE * size


def _script(piece: Piece, host: Piece, gap: float) -> int:
    """Return 1 if a piece is raised above its neighbour, -1 if it is lowered, 0 if it is neither."""
    raised = (piece.height - host.height) / host.size
    if not -0.25 * host.size < gap < 0.4 * host.size or len(piece.text) > 12:
        return 0
    if piece.size <= 0.85 * host.size:
        return 1 if 0.12 < raised < 0.9 else -1 if -0.5 < raised < -0.04 else 0
    short = re.fullmatch(r"[-+−]?\d{1,3}", piece.text) and piece.size <= host.size
    return 1 if short and 0.25 < raised < 0.7 else -1 if short and -0.4 < raised < -0.12 else 0


def _as_script(text: str, kind: int) -> str:
    text = text.strip()
    if kind > 0 and _PLAIN_RAISED.fullmatch(text):
        return text
    shown = text.translate(_RAISED if kind > 0 else _LOWERED)
    changed = all(a != b for a, b in zip(text, shown, strict=True) if a not in " ,.*")
    return shown if changed else f"{'^' if kind > 0 else '_'}{text}"


def _with_late_scripts(lines: list[Piece]) -> list[Piece]:
    """Put raised and lowered figures that are drawn apart from their neighbours to the end of these."""
    by_size: Counter[float] = Counter()
    for line in lines:
        by_size[line.size] += len(line.text)
    body = by_size.most_common(1)[0][0] if by_size else 0.0
    late = [line for line in lines if line.size <= 0.85 * body and len(line.text) <= 3]
    if not late:
        return lines
    ends: dict[tuple[int, int], list[Piece]] = defaultdict(list)
    for line in lines:
        if line.size > 0.85 * body:
            ends[round(line.right / body), round(line.height / body)].append(line)
    gone = set()
    for line in late:
        column, row = round(line.left / body), round(line.height / body)
        near = [end for x in (-1, 0, 1) for y in (-1, 0, 1) for end in ends.get((column + x, row + y), ())[:9]]
        for host in near:
            if kind := _script(line, host, line.left - host.right):
                host.text, host.right = host.text + _as_script(line.text, kind), line.right
                gone.add(id(line))
                break
    return [line for line in lines if id(line) not in gone]


def _filled(page: Any, form: Any, c: Any) -> Iterator[tuple[Piece, str]]:
    """Yield what is written into the fields of a form, or onto the page, with the name of the field."""
    size, buffer = 200_000, (ctypes.c_ushort * 100_000)()

    def said(ask: Any, *arguments: Any) -> str:
        length = ask(*arguments, buffer, size)
        return ctypes.string_at(buffer, max(0, min(length, size) - 2)).decode("utf-16-le", "replace")

    for number in range(c.FPDFPage_GetAnnotCount(page)):
        note, box = c.FPDFPage_GetAnnot(page, number), c.FS_RECTF()
        kind = c.FPDFAnnot_GetSubtype(note)
        text = label = ""
        if kind == c.FPDF_ANNOT_FREETEXT:
            text = said(c.FPDFAnnot_GetStringValue, note, b"Contents")
        elif kind == c.FPDF_ANNOT_WIDGET and form:
            label = said(c.FPDFAnnot_GetFormFieldAlternateName, form, note)
            label = label or said(c.FPDFAnnot_GetFormFieldName, form, note)
            text = _value(form, note, said, c)
        if text.strip() and c.FPDFAnnot_GetRect(note, box):
            height = (box.bottom + box.top) / 2 - 4
            yield Piece(clean(" ".join(text.split())), box.left, box.right, height, box.top - box.bottom), label
        c.FPDFPage_CloseAnnot(note)


def _value(form: Any, note: Any, said: Any, c: Any) -> str:
    kind = c.FPDFAnnot_GetFormFieldType(form, note)
    if kind in (c.FPDF_FORMFIELD_CHECKBOX, c.FPDF_FORMFIELD_RADIOBUTTON):
        means = said(c.FPDFAnnot_GetFormFieldExportValue, form, note)
        checked = c.FPDFAnnot_IsChecked(form, note)
        return f"[x] {means if means not in ('On', 'Off', '1') else ''}".strip() if checked else "[ ]"
    if kind in (c.FPDF_FORMFIELD_COMBOBOX, c.FPDF_FORMFIELD_LISTBOX):
        count = min(1000, c.FPDFAnnot_GetOptionCount(form, note))
        chosen = [number for number in range(count) if c.FPDFAnnot_IsOptionSelected(form, note, number)]
        if chosen:
            return ", ".join(said(c.FPDFAnnot_GetOptionLabel, form, note, number) for number in chosen)
    shown = kind in (c.FPDF_FORMFIELD_TEXTFIELD, c.FPDF_FORMFIELD_COMBOBOX, c.FPDF_FORMFIELD_LISTBOX)
    return said(c.FPDFAnnot_GetFormFieldValue, form, note) if shown else ""


def _put(pieces: list[Piece], value: Piece, label: str) -> None:
    """Put a field's value behind the text beside it; a field with no text beside it keeps its name."""
    low, high = value.height + 4 - value.size / 2 - 3, value.height + 4 + value.size / 2
    beside = [piece for piece in pieces if low <= piece.height <= high]
    before = [piece for piece in beside if piece.left < value.left]
    near = min(before or beside, key=lambda piece: abs(value.left - piece.right), default=None)
    if near:
        value.height, value.size, value.place = near.height, near.size, near.place
        value.left = max(value.left, near.right + 0.5 * near.size) if before else value.left
        value.right = max(value.right, value.left)
        pieces.insert(pieces.index(near) + bool(before), value)
    else:
        value.text, value.size = f"{label}: {value.text}" if label else value.text, min(value.size, 10.0)
        above = [number for number, piece in enumerate(pieces) if piece.height > value.height]
        pieces.insert(above[-1] + 1 if above else 0, value)


def _objects(page: Any, c: Any) -> Iterator[tuple[int, Any]]:
    """Yield the kind and the handle of the objects of a page, those in its forms too."""
    held = [c.FPDFPage_GetObject(page, number) for number in range(min(MOST_OBJECTS, c.FPDFPage_CountObjects(page)))]
    for one in held:
        kind = c.FPDFPageObj_GetType(one)
        yield kind, one
        if kind == c.FPDF_PAGEOBJ_FORM and len(held) < MOST_OBJECTS:
            count = min(MOST_OBJECTS, c.FPDFFormObj_CountObjects(one))
            held += [c.FPDFFormObj_GetObject(one, number) for number in range(count)]


def _rules(page: Any, angle: int, c: Any) -> list[tuple[float, float, float]]:
    """Return the horizontal edges of drawn lines and boxes."""
    rules, sides = set(), [ctypes.c_float() for _ in range(4)]
    for kind, one in _objects(page, c):
        if kind == c.FPDF_PAGEOBJ_PATH and c.FPDFPageObj_GetBounds(one, *sides):
            left, bottom, right, top = (side.value for side in sides)
            (x1, y1), (x2, y2) = _turned(left, bottom, angle), _turned(right, top, angle)
            if abs(x2 - x1) > 15:
                rules |= {(round(min(x1, x2)), round(max(x1, x2)), round(y)) for y in (y1, y2)}
    return sorted(rules, key=lambda rule: -rule[2])
