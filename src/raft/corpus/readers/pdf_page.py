"""What stands on a page of a PDF, as PDFium tells it: pieces of text at their places, filled fields, ruled lines.

Method: PDFium's text page lists the characters in the order in which they are drawn, each with its place, font size and
text object. A piece is what one object draws without a wide gap; raised and lowered figures become those of Unicode.
"""

import ctypes
import itertools
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from raft.corpus.readers import clean, require
from raft.corpus.readers.pdf_pieces import (
    TO_LEFT,
    WIDE,
    Frame,
    Page,
    Piece,
    Row,
    Rule,
    once,
    with_initials,
    with_scripts,
)

_LETTERS_OF = ["ff", "fi", "fl", "ffi", "ffl", "st", "st"]
_LIGATURES = {0x17F: "s", **{0xFB00 + number: letters for number, letters in enumerate(_LETTERS_OF)}}
_NO_LETTER = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff\U000f0000-\U0010fffd]")
_PARTS = re.compile(r"\s*[\t|]\s*|\s[·•—–-]\s")
_OF = r"(?:\s*(?:of|/|von|de|di|sur|van|z|из|av|af)\s*\d{1,4})?"
_PAGE_NUMBER = re.compile(
    rf"(?:(?P<before>.*?)(?:^|\s)(?:pages?|pg?|seite|s|página|pagina|pág|pag|strona|str|стр|страница|sida|side)\.?\s*"
    rf"(?:\d{{1,3}}\s?[-–.]\s?)?|[^\w+]*(?:\d{{1,3}}[-–])?)(?P<number>\d{{1,4}}|[ivxlc]+){_OF}[^\w%°]*|第?\s*(?P<cjk>\d+)\s*[頁页쪽]",
    re.IGNORECASE,
)
_ROMAN = re.compile(r"(x[lc]|l?x{0,3})(i[vx]|v?i{0,3})", re.IGNORECASE)
MOST_OBJECTS, MOST_FIELDS = 20_000, 2_000
_LITTLE = 300
"""Characters: a page of fewer may be a scan with a number or a stamp of text."""
_WHITE = 250
_LARGEST_PICTURE, _MOST_GROUNDS = 1_000, 200
_TYPEWRITER = re.compile(rb"courier|mono(?!type)|consol|menlo|cmtt|typewriter|sourcecode|firacode")
_HIDDEN = 2 | 32
_PASSWORD = 1 << 13
"""Flags of annotations and of fields."""


def read_page(page: Any, *, form: Any) -> Page:
    """Return what stands on a page of pypdfium2; `form` is the document's form environment or None."""
    c = require("pypdfium2.raw", why="to read PDF files")
    result = Page([])
    angles: dict[int, list[Piece]] = defaultdict(list)
    for angle, piece in _drawn(page, c, result):
        text, lost = _NO_LETTER.subn("", piece.text.translate(_LIGATURES))
        piece.text = " ".join(clean(text).split())
        result.no_letter += lost
        if piece.text:
            angles[angle].append(piece)
    _fill(angles, list(_fields(page, form, c, result)))
    left, bottom, right, top = page.get_bbox()
    sides = {
        angle: list(zip(*(_turned(x, y, angle) for x in (left, right) for y in (bottom, top)), strict=True))
        for angle in angles
    }
    seen = {angle: [piece for piece in pieces if _is_inside(piece, *sides[angle])] for angle, pieces in angles.items()}
    if any(seen.values()):  # else it is the page's size that is wrong
        result.hidden += sum(map(len, angles.values())) - sum(map(len, seen.values()))
        angles = {angle: pieces for angle, pieces in seen.items() if pieces}
    for angle, pieces in angles.items():
        x, y = sides[angle]
        frame = Frame(with_initials(once(pieces)), min(y), max(y), max(x) - min(x), slanted=10 < angle % 90 < 80)
        if angle % 90 == 0 and len({round(piece.left) for piece in frame.pieces}) > 1:
            frame.across, frame.down = _rules(page, angle, c)
        frame.pieces = with_scripts(frame.pieces, frame.down)
        result.frames.append(frame)
    result.frames.sort(key=lambda frame: frame.slanted)
    little = sum(len(piece.text) for frame in result.frames for piece in frame.pieces) < _LITTLE
    result.pictures = little and any(kind == c.FPDF_PAGEOBJ_IMAGE for kind, _ in _objects(page, c))
    return result


def _is_inside(piece: Piece, x: tuple[float, ...], y: tuple[float, ...]) -> bool:
    """Tell whether a piece is on the part of the page that is shown."""
    across = min(x) - 1 < piece.right and piece.left < max(x) + 1
    return across and min(y) - piece.size < piece.height < max(y) + 1


def _turned(x: float, y: float, angle: int) -> tuple[float, float]:
    if not angle:
        return x, y
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return x * cos + y * sin, y * cos - x * sin


class _Characters:
    """The characters of a page, by number, as PDFium's text page tells them."""

    def __init__(self, page: Any, c: Any) -> None:
        self._c, self._holder = c, page.get_textpage()
        self._page = self._holder.raw
        self._count = c.FPDFText_CountChars(self._page)
        self._matrix, self._box, self._x, self._y = c.FS_MATRIX(), c.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
        self._name, self._flags = ctypes.create_string_buffer(100), ctypes.c_int()
        self._buffer = (ctypes.c_ushort * (self._count + 2))()

    def text(self, start: int, stop: int) -> str:
        """Return characters; a longer or shorter text than their number has no places of its own."""
        length = self._c.FPDFText_GetText(self._page, start, stop - start, self._buffer) - 1
        return ctypes.string_at(self._buffer, 2 * max(0, length)).decode("utf-16-le", "surrogatepass")

    def objects(self) -> Iterator[tuple[int, int, str]]:
        """Yield where the text of each object starts and stops, and the text, in the order of drawing."""
        drawn = self.text(0, self._count)
        exact, start = len(drawn) == self._count, 0
        while start < self._count:
            its = self._owner(start)
            stop, step = start + 1, 1
            end_of_line = drawn.find("\r", start) if exact else -1
            if its and end_of_line > start and self._owner(end_of_line - 1) == its:
                stop, step = end_of_line, 0
            while its and step:  # the characters of an object stand together
                same = stop + step - 1 < self._count and self._owner(stop + step - 1) == its
                stop, step = (stop + step, 2 * step) if same else (stop, step // 2)
            text = (drawn[start:stop] if exact else self.text(start, stop)) if its else ""
            if text and self._c.FPDFText_HasUnicodeMapError(self._page, start):  # what is told are numbers of glyphs
                text = "\ufffd" * len(text)
            if text and not text.isspace():
                yield start, stop, text.replace("\x02", "-").replace("\ufffe", "-")  # hyphens at the end of a line
            start = stop

    def _owner(self, number: int) -> int:
        found = self._c.FPDFText_GetTextObject(self._page, number)
        return ctypes.addressof(found.contents) if found else 0

    def runs_down(self, start: int, stop: int, size: float) -> bool:
        """Tell whether characters stand one below the other."""
        (left, top), (right, bottom) = self.begin(start, 0), self.begin(stop - 1, 0)
        return abs(right - left) < size and top - bottom > 0.7 * size * (stop - start - 1)

    def face(self, number: int) -> tuple[int, float, bool, bool]:
        """Return the angle, the size, whether it is bold, and whether all characters are as wide."""
        c, matrix, name = self._c, self._matrix, self._name
        c.FPDFText_GetMatrix(self._page, number, matrix)
        angle = round(math.degrees(math.atan2(matrix.b, matrix.a))) % 360 if matrix.b else 180 * (matrix.a < 0)
        c.FPDFText_GetFontInfo(self._page, number, name, 100, self._flags)
        called = name.value.lower()
        size = round(c.FPDFText_GetFontSize(self._page, number) * math.hypot(matrix.c, matrix.d), 1)
        return angle, size, b"bold" in called or b"black" in called, bool(_TYPEWRITER.search(called))

    def is_white(self, number: int) -> bool:
        """Tell whether it is filled with white."""
        parts = [ctypes.c_uint() for _ in range(4)]
        return self._c.FPDFText_GetFillColor(self._page, number, *parts) and _is_white(parts)

    def is_blank(self, start: int, stop: int, page: Any, shown: Any) -> bool:
        """Tell whether nothing is seen where characters stand: those in a pattern, or outlined, are told as white."""
        c, x, y, sides = self._c, ctypes.c_int(), ctypes.c_int(), [ctypes.c_double() for _ in range(4)]
        corners = []
        for number in (start, stop - 1):
            c.FPDFText_GetCharBox(self._page, number, *sides)
            left, right, bottom, top = (side.value for side in sides)
            for corner in ((left, bottom), (right, top)):
                c.FPDF_PageToDevice(page, 0, 0, shown.width, shown.height, 0, *corner, x, y)
                corners.append((x.value, y.value))
        first, last = max(0, min(x for x, _ in corners)), max(0, max(x for x, _ in corners) + 1)
        lines = range(max(0, min(y for _, y in corners)), min(shown.height, max(y for _, y in corners) + 1))
        return all(
            part >= _WHITE
            for line in lines
            for part in shown.buffer[line * shown.stride + first : line * shown.stride + min(last, shown.width)]
        )

    def begin(self, number: int, angle: int) -> tuple[float, float]:
        """Return where it begins, and the height of its line."""
        self._c.FPDFText_GetCharOrigin(self._page, number, self._x, self._y)
        return _turned(self._x.value, self._y.value, angle)

    def end(self, number: int, angle: int) -> float:
        """Return where it ends."""
        box = self._box
        self._c.FPDFText_GetLooseCharBox(self._page, number, box)
        if not angle:
            return float(box.right)
        return max(_turned(x, y, angle)[0] for x in (box.left, box.right) for y in (box.bottom, box.top))

    def parts(self, text: str, start: int, stop: int, angle: int, size: float) -> list[tuple[int, int]]:
        """Return where the parts between wide gaps begin and end; a space is no gap if it is drawn as a character."""
        parts, first, stripped = [], len(text) - len(text.lstrip()), text.rstrip()
        space = text.find(" ", 1)
        if space > 0 and len(text) == stop - start and self._c.FPDFText_IsGenerated(self._page, start + space):
            for match in re.finditer(r"\s+", stripped):
                before, after = match.span()
                gap = self.begin(start + after, angle)[0] - self.end(start + before - 1, angle)
                if before > first and gap > WIDE * size:
                    parts.append((first, before))
                    first = after
        return [*parts, (first, len(stripped))]


def _drawn(page: Any, c: Any, result: Page) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of a page with the angle of each, in the order of drawing; count what is white on white."""
    characters = _Characters(page, c)
    grounds: list[tuple[float, ...]] | None = None
    shown: Any = None
    for start, stop, text in characters.objects():
        if characters.is_white(start):
            grounds = list(itertools.islice(_grounds(page, c), _MOST_GROUNDS)) if grounds is None else grounds
            x, y = characters.begin(start, 0)
            if not any(x1 <= x + 1 and x <= x2 and y1 <= y + 1 and y <= y2 for x1, y1, x2, y2 in grounds):
                shown = _shown(page) if shown is None else shown
                if characters.is_blank(start, stop, page, shown):
                    result.hidden += 1
                    continue
        angle, size, bold, even = characters.face(start)
        if not math.isfinite(size):
            continue
        if angle == 0 and not text.isascii() and stop - start > 1 and characters.runs_down(start, stop, size):
            angle = 270  # lines that go down, the first on the right
        to_left = not text.isascii() and TO_LEFT.search(text)
        for first, last in characters.parts(text, start, stop, angle, size):
            ends = [start + first, min(start + last, stop) - 1]
            left, height = characters.begin(ends[bool(to_left)], angle)
            right = characters.end(ends[not to_left], angle)
            if math.isfinite(left) and math.isfinite(height):
                yield angle, Piece(text[first:last], left, max(left, right), height, size or 1.0, bold, even=even)


class _Field(NamedTuple):
    piece: Piece
    name: str
    mark: bool = False
    """Whether it is a box to be ticked, whose label stands behind it."""


def _fields(page: Any, form: Any, c: Any, result: Page) -> Iterator[_Field]:
    """Yield what is written into the fields of a form, or onto the page; count what is hidden, and comments."""
    comments = {c.FPDF_ANNOT_TEXT, c.FPDF_ANNOT_HIGHLIGHT, c.FPDF_ANNOT_UNDERLINE, c.FPDF_ANNOT_STRIKEOUT}
    comments |= {c.FPDF_ANNOT_SQUIGGLY, c.FPDF_ANNOT_CARET}
    size, buffer = 200_000, (ctypes.c_ushort * 100_000)()

    def said(ask: Any, *arguments: Any) -> str:
        length = ask(*arguments, buffer, size)
        text = ctypes.string_at(buffer, max(0, min(length, size) - 2)).decode("utf-16-le", "replace")
        return " ".join(clean(text).split())

    for number in range(c.FPDFPage_GetAnnotCount(page)):
        note, box = c.FPDFPage_GetAnnot(page, number), c.FS_RECTF()
        kind = c.FPDFAnnot_GetSubtype(note)
        text, name, mark = "", "", False
        if kind == c.FPDF_ANNOT_FREETEXT:
            text = said(c.FPDFAnnot_GetStringValue, note, b"Contents")
        elif kind == c.FPDF_ANNOT_WIDGET and form:
            name = said(c.FPDFAnnot_GetFormFieldAlternateName, form, note)
            name = name or said(c.FPDFAnnot_GetFormFieldName, form, note)
            text, mark = _value(form, note, said, c)
        elif kind in comments:
            result.comments += bool(said(c.FPDFAnnot_GetStringValue, note, b"Contents"))
        hidden = c.FPDFAnnot_GetFlags(note) & _HIDDEN
        secret = name and c.FPDFAnnot_GetFormFieldFlags(form, note) & _PASSWORD and not mark
        result.stamps += kind == c.FPDF_ANNOT_STAMP and not hidden
        result.hidden += bool(text and (hidden or secret))
        if text and not hidden and not secret and c.FPDFAnnot_GetRect(note, box):
            place = Piece(text, box.left, box.right, (box.bottom + box.top) / 2, box.top - box.bottom)
            yield _Field(place, name, mark)
        c.FPDFPage_CloseAnnot(note)


def _value(form: Any, note: Any, said: Any, c: Any) -> tuple[str, bool]:
    """Return what a field holds, and whether it is a box to be ticked."""
    kind = c.FPDFAnnot_GetFormFieldType(form, note)
    if kind in (c.FPDF_FORMFIELD_CHECKBOX, c.FPDF_FORMFIELD_RADIOBUTTON):
        means = said(c.FPDFAnnot_GetFormFieldExportValue, form, note)
        means = "" if means in ("On", "Off", "1") else f" {means}"
        return (f"[x]{means}" if c.FPDFAnnot_IsChecked(form, note) else "[ ]"), True
    if kind in (c.FPDF_FORMFIELD_COMBOBOX, c.FPDF_FORMFIELD_LISTBOX):
        count = min(1000, c.FPDFAnnot_GetOptionCount(form, note))
        chosen = [number for number in range(count) if c.FPDFAnnot_IsOptionSelected(form, note, number)]
        if chosen:
            return ", ".join(said(c.FPDFAnnot_GetOptionLabel, form, note, number) for number in chosen), False
    shown = kind in (c.FPDF_FORMFIELD_TEXTFIELD, c.FPDF_FORMFIELD_COMBOBOX, c.FPDF_FORMFIELD_LISTBOX)
    return (said(c.FPDFAnnot_GetFormFieldValue, form, note) if shown else ""), False


def _fill(angles: dict[int, list[Piece]], fields: list[_Field]) -> None:
    """Put the values of fields behind the labels on their left, boxes that are ticked before those on their right."""
    labels = {id(piece) for piece in angles.get(0, ())}
    for one in sorted(fields[:MOST_FIELDS], key=lambda one: (-one.piece.height, one.piece.left)):
        pieces, value = angles.setdefault(0, []), one.piece
        middle, half = value.height, max(value.size / 2, 6.0)
        beside = [piece for piece in pieces if -half - 3 <= piece.height - middle <= half]
        before = max((p for p in beside if p.left < value.left), key=lambda p: p.left, default=None)
        after = min((p for p in beside if p.left >= value.left), key=lambda p: p.left, default=None)
        near = after if one.mark and after and after.left - value.right < 2 * after.size else before
        if near and near is after:
            near.text, near.left = f"{value.text[:3]} {near.text}", min(near.left, value.left)
        elif near and id(near) in labels and value.left - near.right < 25 * near.size:
            near.text = f"{near.text.rstrip(': ')}: {value.text}"
            near.right = max(near.right, value.right)
            labels.discard(id(near))
        elif near:
            value.left = max(value.left, near.right + WIDE * near.size)
            value.height, value.size, value.right = near.height, near.size, max(value.left, value.right)
            pieces.insert(pieces.index(near) + 1, value)
        else:
            value.text = f"{one.name}: {value.text}" if one.name else value.text
            value.height, value.size = value.height - 4, min(value.size, 10.0)
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


def _is_white(parts: list[ctypes.c_uint]) -> bool:
    return all(part.value >= _WHITE for part in parts[:3])


def _shown(page: Any) -> Any:
    """Return a page as it is shown, in shades of grey."""
    return page.render(scale=min(0.5, _LARGEST_PICTURE / max(*page.get_size(), 1.0)), grayscale=True)


def _grounds(page: Any, c: Any) -> Iterator[tuple[float, ...]]:
    """Yield where white text can be seen: the bounds of pictures and of what is drawn in another colour."""
    sides, colour = [ctypes.c_float() for _ in range(4)], [ctypes.c_uint() for _ in range(4)]
    for number in range(min(MOST_OBJECTS, c.FPDFPage_CountObjects(page))):
        one = c.FPDFPage_GetObject(page, number)
        kind = c.FPDFPageObj_GetType(one)
        filled = kind == c.FPDF_PAGEOBJ_PATH and c.FPDFPageObj_GetFillColor(one, *colour)
        paper = filled and _is_white(colour)
        if kind != c.FPDF_PAGEOBJ_TEXT and not paper and c.FPDFPageObj_GetBounds(one, *sides):
            yield tuple(side.value for side in sides)


def _rules(page: Any, angle: int, c: Any) -> tuple[list[Rule], list[Rule]]:
    """Return the horizontal and the vertical edges of drawn lines and boxes."""
    across, down, sides = set(), set(), [ctypes.c_float() for _ in range(4)]
    for kind, one in _objects(page, c):
        if kind == c.FPDF_PAGEOBJ_PATH and c.FPDFPageObj_GetBounds(one, *sides):
            left, bottom, right, top = (side.value for side in sides)
            (x1, y1), (x2, y2) = _turned(left, bottom, angle), _turned(right, top, angle)
            (x1, x2), (y1, y2) = sorted((round(x1), round(x2))), sorted((round(y1), round(y2)))
            across |= {(y, x1, x2) for y in (y1, y2) if x2 - x1 > 15}
            down |= {(x, y1, y2) for x in (x1, x2) if y2 - y1 > 8}
    return sorted(across, reverse=True), sorted(down)


def without_running_lines(pages: list[list[tuple[Frame, list[Row]]]], levels: Any) -> Counter[str]:
    """Take lines out that stand at the same place on most pages, in the same words but for the page's number.

    Returns what was taken out, and how often.
    """
    same: dict[Any, list[tuple[int, Row]]] = defaultdict(list)
    counting: dict[Any, list[tuple[int, int, str, Row]]] = defaultdict(list)
    for number, page in enumerate(pages):
        for row, place, text in _edges(page):
            found = numbered(text)
            if found:
                counting[place].append((number, found[1] - number, found[0], row))
            elif place[0] not in ("top", "bottom") or all((piece.size, piece.bold) not in levels for piece in row):
                same[place, text].append((number, row))
    count = sum(map(bool, pages))

    def most(lines: list[tuple[int, Row]]) -> bool:
        on = {number for number, _ in lines}
        one_side = len(on) > 2 and len({number % 2 for number in on}) == 1
        return len(on) > max(1, count / 4 if one_side else count / 2)

    gone: dict[int, str] = {}
    for place, counted in counting.items():
        offsets = Counter(offset for _, offset, _, _ in counted)
        sure = [(number, words, row) for number, offset, words, row in counted if offsets[offset] > 1]
        for number, words, row in sure:
            same[place, words].append((number, row))
        if most([(number, row) for number, _, row in sure]):  # of the names of chapters the first is kept
            gone |= {
                id(row): words for n, (_, words, row) in enumerate(sure) if words in [w for _, w, _ in sure[n - 1 : n]]
            }
    for (_, text), lines in same.items():
        if most(lines):
            gone |= {id(row): text.replace("\t", " ") for _, row in lines}
    for page in pages:
        page[:] = [(frame, [row for row in its if id(row) not in gone]) for frame, its in page]
    return Counter(gone.values())


def _edges(page: list[tuple[Frame, list[Row]]]) -> Iterator[tuple[Row, tuple[Any, ...], str]]:
    """Yield rows at the edges of a page that stand apart from what is between them, where each stands, and its text."""
    for frame, its in page:
        if len(page) > 1 and len(its) < 4:  # beside the text, or across it
            for row in its:
                yield row, (round(row[0].height / 3), round(row[0].left / 3)), " ".join(piece.text for piece in row)
            continue
        steps = [above[0].height - below[0].height for above, below in itertools.pairwise(its)]
        usual = statistics.median(steps) if len(steps) > 1 else 1.9 * its[0][0].size if its else 0.0
        sides = (("top", frame.top, its, steps), ("bottom", frame.bottom, its[::-1], steps[::-1]))
        for side, edge, ordered, between in sides:
            near = [row for row in ordered[:3] if abs(edge - row[0].height) < 0.15 * (frame.top - frame.bottom)]
            apart = [n + 1 for n in range(len(near)) if n >= len(between) or between[n] >= 1.3 * usual]
            for row in near[: apart[-1] if apart else 0]:
                text = row[0].text
                for last, piece in itertools.pairwise(row):  # a number beside its label is near
                    text += ("\t" if piece.left - last.right > 0.2 * frame.width else " ") + piece.text
                yield row, (side, round(abs(edge - row[0].height) / 3)), text


def numbered(text: str) -> tuple[str, int] | None:
    """Return the words beside a page's number, and the number, if the line holds one."""
    parts = _PARTS.split(text)
    for number in (len(parts) - 1, 0):
        found = _PAGE_NUMBER.fullmatch(parts[number].strip()[:200])
        if found:
            digits = found["number"] or found["cjk"]
            value = int(digits) if digits.isdecimal() else _roman(digits)
            words = " ".join([found["before"] or "", *parts[:number], *parts[number + 1 :]]).strip()
            if value and not words.endswith(":"):
                return words, value
    return None


def _roman(digits: str) -> int:
    if not _ROMAN.fullmatch(digits):
        return 0
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[digit] for digit in digits.lower()]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))
