"""PDF files: rows put together from the pieces of text on each page, and tables, columns and paragraphs from the rows.

A PDF knows neither headings nor tables nor paragraphs, only text at places. What is set larger than the body is a
heading; rows that leave a common gap free are columns of prose or a table; a line that a paragraph's neighbours
continue is joined to them, and a word broken at its end is mended.
"""

import bisect
import itertools
import logging
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raft.corpus.readers import MAX_FILE, Reading, Unreadable, clean, require
from raft.corpus.readers.pdf_page import WIDE, Page, Piece, read_page

_ITEM = re.compile(r"(?:[-–•·▪◦*o]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_BULLET = re.compile(r"[•·▪◦]\s+")
_MARK = re.compile(r"[-–•·▪◦*‣➢]|\(?(?:\d{1,3}|[a-z])[.)]")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_PARTS = re.compile(r"\s*[\t|·•—–]\s*|\s{2,}|\s-\s")
_OF = r"(?:\s*(?:of|/|von|de|di|sur|van|z|из|av|af)\s*\d{1,4})?"
_PAGE_NUMBER = re.compile(
    rf"(?:(?P<before>.*?)(?:^|\s)(?:pages?|pg?|seite|s|página|pagina|pág|pag|strona|str|стр|страница|sida|side)\.?\s*"
    rf"(?:\d{{1,3}}\s?[-–.]\s?)?|[^\w+]*)(?P<number>\d{{1,4}}|[ivxlc]+){_OF}[^\w%°]*|第?\s*(?P<cjk>\d+)\s*[頁页쪽]",
    re.IGNORECASE,
)
_ROMAN = re.compile(r"(x[lc]|l?x{0,3})(i[vx]|v?i{0,3})", re.IGNORECASE)
MOST_COLUMNS = 60

Row = list[Piece]


@dataclass
class _Table:
    rows: list[list[str]]


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a PDF as one document, with the offset at which each page starts.

    Raises:
        Unreadable: it is protected by a password, or holds no text.
    """
    pdfium = require("pypdfium2", why="to read PDF files")
    logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)  # it tells what it cannot show
    try:
        document = pdfium.PdfDocument(path.read_bytes(), password="")
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium.raw.FPDF_ERR_PASSWORD:
            raise Unreadable("The file is protected by a password.") from error
        raise
    try:
        left_out: Counter[str] = Counter()
        pages = list(_pages(document, left_out))
        title = _title(document.get_metadata_value("Title"))
    finally:
        document.close()
    if not any(page.pieces for page in pages):
        raise Unreadable("There is no text in it: a scan? Run OCR on it first.")
    rows = [[_rows(pieces) for pieces in page.pieces] for page in pages]
    levels = _heading_levels(piece for page in pages for pieces in page.pieces for piece in pieces)
    running = _without_running_lines(pages, rows, levels)
    left_out["running lines"] += sum(running.values())
    words = {word for page in pages for pieces in page.pieces for piece in pieces for word in _WORD.findall(piece.text)}
    blocks = [
        [b for frame in frames for b in _blocks(frame, page.rules)] for page, frames in zip(pages, rows, strict=True)
    ]
    text, starts = _join_pages([_page_text(*one, levels, words) for one in zip(blocks, pages, strict=True)])
    if not text:  # nothing but lines that run
        raise Unreadable("There is no text in it but page numbers and running lines.")
    title = title or _largest(blocks, levels) or next(iter(running), None)
    return [Reading(title or path.stem, text, kind, tuple(starts), left_out={k: n for k, n in left_out.items() if n})]


def _title(text: object) -> str | None:
    title = " ".join(clean(text).split()) if isinstance(text, str) else ""
    useful = title and not re.search(r"(?i)^untitled|\.(docx?|pdf|indd|xlsx?|pptx?|html?)$|^microsoft word", title)
    return title if useful else None


def _largest(blocks: list[list[Piece | _Table]], levels: dict[tuple[float, bool], int]) -> str | None:
    """Return the heading of the first page that is set largest, if it is more than a number."""
    lines = [line for page in blocks[:1] for line in page if isinstance(line, Piece)]
    named = [line for line in lines if len(re.findall(r"[^\W\d_]", line.text)) >= 2 and not _numbered(line.text)]
    top = max(named, key=lambda line: line.size, default=None)
    return top.text if top and (top.size, top.bold) in levels else None


def _pages(document: Any, left_out: Counter[str]) -> Iterator[Page]:
    if document.get_formtype():
        document.init_forms()
    size = 0
    for number in range(len(document)):
        page = document[number]
        result = read_page(page, form=document.formenv)
        page.close()
        left_out["characters without a letter"] += result.no_letter
        left_out["pictures without text"] += result.pictures
        size += sum(len(piece.text) for pieces in result.pieces for piece in pieces)
        if size > MAX_FILE:
            raise Unreadable("The file inflates to far more than a document does.")
        yield result


def _rows(pieces: Iterable[Piece]) -> list[Row]:
    """Return the pieces that stand at one height, from the left, in rows from the top."""
    rows: list[Row] = []
    for piece in sorted(pieces, key=lambda piece: -piece.height):
        level = rows and rows[-1][0].height - piece.height < 0.35 * min(piece.size, rows[-1][0].size)
        if level:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return [_joined_row(sorted(row, key=lambda piece: piece.left)) for row in rows]


def _joined_row(row: Row) -> Row:
    result = row[:1]
    for piece in row[1:]:
        last = result[-1]
        gap, size = piece.left - last.right, min(piece.size, last.size)
        mark = len(row) == 2 and gap < 4 * size and _MARK.fullmatch(last.text)
        if mark or -0.3 * size < gap <= WIDE * size:
            text = last.text + (" " if gap > 0.15 * size else "") + piece.text
            result[-1] = replace(last, text=text, right=piece.right, place=min(last.place, piece.place))
        else:
            result.append(piece)
    return result


def _without_running_lines(pages: list[Page], rows: list[list[list[Row]]], levels: Any) -> Counter[str]:
    """Take lines out that stand at the same place on most pages, in the same words but for the page's number.

    Returns what was taken out, and how often.
    """
    same: dict[Any, list[tuple[int, Row]]] = defaultdict(list)
    counting: dict[Any, list[tuple[int, int, Row]]] = defaultdict(list)
    for number, (page, frames) in enumerate(zip(pages, rows, strict=True)):
        for row, place in _edges(page, frames):
            text = "\t".join(piece.text for piece in row)
            numbered = _numbered(text)
            if numbered:
                counting[place, numbered[0]].append((number, numbered[1] - number, row))
            elif all((piece.size, piece.bold) not in levels for piece in row):
                same[place, text].append((number, row))
    for key, counted in counting.items():
        offsets = Counter(offset for _, offset, _ in counted)
        same[key] += [(number, row) for number, offset, row in counted if offsets[offset] > 1]
    count = sum(any(frames) for frames in rows)
    gone, running = set(), Counter[str]()
    for (_, text), lines in same.items():
        on = {number for number, _ in lines}
        one_side = len(on) > 2 and len({number % 2 for number in on}) == 1
        if len(on) > max(1, count / 4 if one_side else count / 2):
            gone |= {id(row) for _, row in lines}
            running[text.replace("\t", " ")] += len(lines)
    for frames in rows:
        frames[:] = [[row for row in frame if id(row) not in gone] for frame in frames]
    return running


def _edges(page: Page, frames: list[list[Row]]) -> Iterator[tuple[Row, tuple[Any, ...]]]:
    """Yield rows at the edges of a page that stand apart from what is between them, and where each stands."""
    for frame in frames[1:]:
        yield from ((row, ("turned", round(row[0].height / 3), round(row[0].left / 3))) for row in frame)
    rows = frames[0] if frames else []
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(rows)]
    usual = statistics.median(steps) if len(steps) > 1 else 1.9 * rows[0][0].size if rows else 0.0
    margin = 0.15 * (page.top - page.bottom)
    for side, edge, ordered, between in (
        ("top", page.top, rows, steps),
        ("bottom", page.bottom, rows[::-1], steps[::-1]),
    ):
        near = [row for row in ordered[:3] if abs(edge - row[0].height) < margin]
        apart = [n + 1 for n in range(len(near)) if n >= len(between) or between[n] >= 1.3 * usual]
        for row in near[: apart[-1] if apart else 0]:
            yield row, (side, round(abs(edge - row[0].height) / 3))


def _numbered(text: str) -> tuple[str, int] | None:
    """Return the words beside a page's number, and the number, if the line holds one."""
    parts = _PARTS.split(text)
    for number in (len(parts) - 1, 0):
        found = _PAGE_NUMBER.fullmatch(parts[number].strip())
        if found:
            digits = found["number"] or found["cjk"]
            value = int(digits) if digits.isdecimal() else _roman(digits)
            if value:
                return " ".join([found["before"] or "", *parts[:number], *parts[number + 1 :]]).strip(), value
    return None


def _roman(digits: str) -> int:
    if not _ROMAN.fullmatch(digits):
        return 0
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[digit] for digit in digits.lower()]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))


def _heading_levels(pieces: Iterable[Piece]) -> dict[tuple[float, bool], int]:
    """Return the heading level of each size (and whether it is bold) that stands out from the body's."""
    letters: Counter[tuple[float, bool]] = Counter()
    for piece in pieces:
        letters[piece.size, piece.bold] += len(piece.text)
    if not letters:
        return {}
    body = letters.most_common(1)[0][0][0]
    larger = sorted((face for face in letters if face[0] >= (1.05 if face[1] else 1.15) * body), reverse=True)
    return {face: level for level, face in enumerate(larger[:6], start=1)}


def _blocks(rows: list[Row], rules: Sequence[Any], *, depth: int = 0) -> list[Piece | _Table]:
    """Return lines and tables in the order in which they are read: that of drawing, but for columns and tables."""
    found: list[tuple[int, list[Piece | _Table]]] = []
    number = 0
    while number < len(rows):
        band, gaps = _band(rows, number)
        place = min((piece.place for row in band for piece in row), default=0)
        columns = _columns(band, gaps)
        if depth < 3 and band and _is_prose(columns, band, rules):
            found.append((place, [b for column in columns for b in _blocks(column, rules, depth=depth + 1)]))
        elif band and (band := _ended(band)):
            found.append((place, [_Table(_table(band, rules))]))
        else:
            found += [(piece.place, [piece]) for piece in _one_line(rows[number])]
        number += len(band) or 1
    return [block for _, blocks in sorted(found, key=lambda one: one[0]) for block in blocks]


def _one_line(row: Row) -> Row:
    """Join pieces that stand alone on a row, and are drawn one after the other."""
    result = row[:1]
    for piece in row[1:]:
        last = result[-1]
        if piece.place - last.place == 1:
            result[-1] = replace(
                piece, text=f"{last.text} {piece.text}", left=last.left, size=max(last.size, piece.size)
            )
        else:
            result.append(piece)
    return result


def _band(rows: list[Row], start: int) -> tuple[list[Row], list[tuple[float, float]]]:
    """Return the rows from `start` on that leave a common gap free, and the gaps; none if they are no two."""
    row, size = rows[start], rows[start][0].size
    if len(row) == 1 and start + 1 < len(rows) and row[0].height - rows[start + 1][0].height < 0.8 * size:
        row = sorted(row + rows[start + 1], key=lambda piece: piece.left)  # columns whose lines stand at other heights
    gaps = [(a.right, b.left) for a, b in itertools.pairwise(row) if b.left - a.right > 0.8 * size]
    gaps = gaps if len(gaps) < MOST_COLUMNS else []
    stop = start + 1
    while gaps and stop < len(rows) and rows[stop - 1][0].height - rows[stop][0].height < 3.2 * size:
        narrowed = _narrowed(gaps, rows[stop])
        if not narrowed:
            break
        gaps, stop = narrowed, stop + 1
    band = rows[start:stop]
    columns = _columns(band, gaps)
    return (band, gaps) if sum(len(column) > 1 for column in columns) > 1 else ([], [])


def _narrowed(gaps: list[tuple[float, float]], row: Row) -> list[tuple[float, float]]:
    for piece in row:
        least = 0.8 * piece.size
        sides = [(low, min(high, piece.left)) for low, high in gaps] + [
            (max(low, piece.right), high) for low, high in gaps
        ]
        gaps = sorted({(low, high) for low, high in sides if high - low >= least})
    return gaps


def _columns(band: list[Row], gaps: list[tuple[float, float]]) -> list[list[Row]]:
    cuts = [(low + high) / 2 for low, high in gaps]
    columns: list[list[Row]] = [[] for _ in range(len(cuts) + 1)]
    for row in band:
        for index, pieces in itertools.groupby(row, key=lambda piece: bisect.bisect(cuts, piece.left)):
            columns[index].append(list(pieces))
    return [column for column in columns if column]


def _is_prose(columns: list[list[Row]], band: list[Row], rules: Sequence[Any]) -> bool:
    """Tell columns of prose, whose lines fill them and go on in the next, from the columns of a table."""
    if min(map(len, columns)) < 2 or _ruled(band, rules) > 1:
        return False
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(band)]
    wide = [step > 1.3 * statistics.median_low(steps) for step in steps]
    if sum(far and len(row) > 1 for far, row in zip(wide, band[1:], strict=True)) > max(1, len(band) / 12):
        return False  # rows of cells, with room between them
    shares = []
    for column in columns:
        lines = [" ".join(piece.text for piece in row) for row in column]
        widths = [row[-1].right - row[0].left for row in column]
        full = statistics.mean(width > 0.7 * max(widths) for width in widths[:-1])
        on = statistics.mean(line[0].islower() for line in lines[1:])
        words = statistics.mean(len(line.split()) for line in lines)
        if not any(map(str.islower, lines)) and not any(letter.islower() for line in lines for letter in line):
            on, words = (0.5, 9) if statistics.mean(map(len, lines)) >= 10 and full > 0.8 else (0, 0)
        if full < 0.5 or words < 2.5 or on < 0.15:
            return False
        shares.append(on)
    return statistics.mean(shares) >= 0.3


def _ruled(band: list[Row], rules: Sequence[Any]) -> int:
    """Return how many of the horizontal lines of a page go between the rows, over most of their width."""
    left, right = min(row[0].left for row in band), max(row[-1].right for row in band)
    heights = {h for low, high, h in rules if min(high, right) - max(low, left) > 0.6 * (right - left)}
    return len({sum(row[0].height > height for row in band) for height in heights} - {0, len(band)})


def _ended(band: list[Row]) -> list[Row]:
    """Return the band up to a line that stands apart from the table above it."""
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(band)]
    usual = statistics.median(steps)
    for number, (step, row) in enumerate(zip(steps, band[1:], strict=True), start=1):
        other = (row[0].size, row[0].bold) != (band[number - 1][0].size, band[number - 1][0].bold)
        if len(row) == 1 and (step > 1.35 * usual or (other and row[0].size > band[0][0].size)):
            band = band[:number]
            break
    return band if sum(len(row) > 1 for row in band) > 1 else []


def _table(band: list[Row], rules: Sequence[Any]) -> list[list[str]]:
    counts = Counter(len(row) for row in band if len(row) > 1)
    most = max(counts, key=lambda number: (counts[number], number))
    spans: list[list[float]] = []
    for piece in sorted((piece for row in band if len(row) == most for piece in row), key=lambda piece: piece.left):
        if spans and piece.left < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], piece.right)
        else:
            spans.append([piece.left, piece.right])
    lines: list[dict[int, list[Piece]]] = []
    for row in band:
        cells: dict[int, list[Piece]] = defaultdict(list)
        for piece in row:
            over = [min(piece.right, right) - max(piece.left, left) for left, right in spans]
            cells[over.index(max(over))].append(piece)
        lines.append(cells)
    goes_on = _goes_on(lines, band, spans, rules)
    table: list[list[str]] = []
    for wraps, cells in zip(goes_on, lines, strict=True):
        texts = [" ".join(piece.text for piece in cells[index]) for index in range(len(spans))]
        if wraps:
            table[-1] = [f"{above} {text}".strip() for above, text in zip(table[-1], texts, strict=True)]
        else:
            table.append(texts)
    return table


def _goes_on(lines: list[Any], band: list[Row], spans: list[list[float]], rules: Sequence[Any]) -> list[bool]:
    """Tell of each row of a table whether it goes on in the cells of the row above it."""
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(band)]
    loose = [step > 1.25 * min(steps) or _ruled(band[n : n + 2], rules) > 0 for n, step in enumerate(steps)]
    result = [False]
    for number, (step, apart) in enumerate(zip(steps, loose, strict=True), start=1):
        above, here = lines[number - 1], lines[number]
        filled = [index for index in range(len(spans)) if here.get(index)]
        lower = [here[index][0].text[0].islower() for index in filled]
        figures = any(re.match(r"[\W\d]", here[index][0].text) for index in filled)
        full = all(
            above.get(index) and above[index][-1].right - spans[index][0] > 0.75 * (spans[index][1] - spans[index][0])
            for index in filled
        )
        if apart or step > 1.6 * band[number][0].size:
            result.append(False)
        elif sum(loose) > 1:
            result.append(len(filled) < len(spans) or any(lower))
        else:
            result.append(len(filled) < len(spans) and (all(lower) or (0 not in filled and not figures and full)))
    return result


def _page_text(blocks: list[Piece | _Table], page: Page, levels: dict[tuple[float, bool], int], words: set[str]) -> str:
    lines = [block for block in blocks if isinstance(block, Piece)]
    reach = max((line.right for line in lines), default=0.0) - min((line.left for line in lines), default=0.0)
    widest = sorted(len(line.text) for line in lines)[int(0.9 * (len(lines) - 1))] if lines else 0
    gaps = Counter(round(a.height - b.height) for a, b in itertools.pairwise(lines) if a.size == b.size)
    usual = next((gap for gap, _ in gaps.most_common() if gap > 0), 0)
    if reach < 0.5 * page.width:  # no line is full: each is ended by who wrote it
        widest = 2 * widest
    parts: list[str] = []
    for number, line in enumerate(blocks):
        before = blocks[number - 1] if number else None
        if isinstance(line, _Table):
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
        if f"{broken[1]}-{rest[0]}" not in words:
            parts[-1] = parts[-1][:-1]
        return line.text
    return f" {line.text}"


def _join_pages(pages: list[str]) -> tuple[str, list[int]]:
    pieces, starts, length = [""], [], 0
    header = ""
    for page in pages:
        before = pieces[-1]
        if before and page:
            last = before[before.rfind("\n") + 1 :]
            first, _, others = page.partition("\n")
            rule, _, body = others.partition("\n")
            if last.startswith("| ") and rule.startswith("| ---") and _cells(last) == _cells(first):
                page = body if first == header else f"{first}\n{body}".rstrip()  # noqa: PLW2901  a table that goes on
            goes_on = page[0].islower() and (before[-1].isalnum() or before[-1] == ",")
            listed = page.startswith("| ") or (_ITEM.match(page) and _ITEM.match(last))
            pieces.append(" " if goes_on else "\n" if listed else "\n\n")
            length += len(pieces[-1])
        starts.append(length)
        if page:
            pieces.append(page)
            length += len(page)
            tables = re.findall(r"(?m)^(\| .*)\n\| --- \|", page)
            header = tables[-1] if tables else header
    return "".join(pieces), starts


def _cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))
