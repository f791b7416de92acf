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
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raft.corpus.readers import MAX_FILE, Reading, Unreadable, clean, require
from raft.corpus.readers.pdf_page import numbered, read_page, without_running_lines
from raft.corpus.readers.pdf_pieces import WIDE, Frame, Page, Piece, Row, Rule, Table, frame_text, join_pages, walled

_LEADERS = re.compile(r"\s*(?:[.·…]\s?){5,}")
_MARK = re.compile(r"[-–•·▪◦*‣➢]|\(?(?:\d{1,3}|[a-z])[.)]")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN = re.compile(r"\S+-$")
MOST_COLUMNS = 60


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
        left_out["attachments"] += document.count_attachments()
        left_out["forms that Adobe's programs alone show"] += document.get_formtype() == pdfium.raw.FORMTYPE_XFA_FULL
        title = _title(document.get_metadata_value("Title"))
    finally:
        document.close()
    pieces = [piece for page in pages for frame in page.frames for piece in frame.pieces]
    if not pieces:
        damaged = left_out["pages that cannot be opened"] and "The file is damaged: its pages cannot be opened."
        raise Unreadable(damaged or "There is no text in it: a scan? Run OCR on it first.")
    frames = [[(frame, _rows(frame)) for frame in page.frames] for page in pages]
    running = without_running_lines(frames, _heading_levels(pieces))
    levels = _heading_levels(
        piece for page in frames for frame, its in page if not frame.slanted for row in its for piece in row
    )
    scans = sum(page.pictures and not any(its for _, its in left) for page, left in zip(pages, frames, strict=True))
    left_out["pictures without text"] += scans
    left_out["running lines"] += sum(running.values())
    words = {word for piece in pieces for word in _WORD.findall(_BROKEN.sub("", piece.text))}
    blocks = [[(frame, _blocks(its, frame)) for frame, its in page] for page in frames]
    drawn = sum(len(piece.text) for piece in pieces)
    code = sum(len(piece.text) for piece in pieces if piece.even) < drawn / 2  # else all is typewritten
    text, starts = join_pages(
        [
            "\n\n".join(filter(None, (frame_text(its, frame, levels, words, code=code) for frame, its in page)))
            for page in blocks
        ],
        words,
    )
    if not text:
        scan = ": a scan? Run OCR on it first." if scans else "."
        raise Unreadable(f"There is no text in it but page numbers and running lines{scan}")
    across = {piece.text for page in pages for frame in page.frames if frame.slanted for piece in frame.pieces}
    title = title or _largest([block for frame, its in blocks[0] if not frame.slanted for block in its], levels)
    title = title or next((line for line in running if line not in across), None)
    return [Reading(title or path.stem, text, kind, tuple(starts), left_out={k: n for k, n in left_out.items() if n})]


def _title(text: object) -> str | None:
    title = " ".join(clean(text).split()) if isinstance(text, str) else ""
    useful = title and not re.search(
        r"(?i)^untitled|^\(?(anonymous|unspecified)|\.(docx?|pdf|indd|xlsx?|pptx?|html?)$|^microsoft word", title
    )
    return title if useful else None


def _largest(blocks: list[Piece | Table], levels: dict[tuple[float, bool], int]) -> str | None:
    """Return the heading that is set largest, if it is more than a number."""
    lines = [block for block in blocks if isinstance(block, Piece)]
    named = [line for line in lines if len(re.findall(r"[^\W\d_]", line.text)) >= 2 and not numbered(line.text)]
    top = max(named, key=lambda line: line.size, default=None)
    return top.text if top and (top.size, top.bold) in levels else None


def _pages(document: Any, left_out: Counter[str]) -> Iterator[Page]:
    if document.get_formtype():
        document.init_forms()
    size = 0
    for number in range(len(document)):
        try:
            page = document[number]
        except RuntimeError:  # PDFium's own
            left_out["pages that cannot be opened"] += 1
            yield Page([])
            continue
        result = read_page(page, form=document.formenv)
        page.close()
        left_out["characters without a letter"] += result.no_letter
        left_out["hidden parts"] += result.hidden
        left_out["comments"] += result.comments
        left_out["stamps"] += result.stamps
        size += sum(len(piece.text) for frame in result.frames for piece in frame.pieces)
        if size > MAX_FILE:
            raise Unreadable("The file inflates to far more than a document does.")
        yield result


def _rows(frame: Frame) -> list[Row]:
    """Return the pieces that stand at one height, from the left, in rows from the top."""
    result: list[Row] = []
    for piece in sorted(frame.pieces, key=lambda piece: -piece.height):
        level = result and result[-1][0].height - piece.height < 0.35 * min(piece.size, result[-1][0].size)
        if level:
            result[-1].append(piece)
        else:
            result.append([piece])
    rows = [_joined(sorted(row, key=lambda piece: piece.left), frame.down) for row in result]
    for piece in itertools.chain.from_iterable(rows):
        piece.text = _LEADERS.sub(" … ", piece.text).strip()
    return rows


def _joined(row: Row, walls: list[Rule]) -> Row:
    result = row[:1]
    for piece in row[1:]:
        last = result[-1]
        gap, size = piece.left - last.right, min(piece.size, last.size)
        mark = len(row) == 2 and gap < 4 * size and _MARK.fullmatch(last.text)
        if (mark or -0.3 * size < gap <= WIDE * size) and not walled(last, piece, walls):
            text = last.text + (" " if gap > 0.15 * size else "") + piece.text
            even, place = last.even and piece.even, min(last.place, piece.place)
            result[-1] = replace(last, text=text, right=piece.right, place=place, even=even)
        else:
            result.append(piece)
    return result


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


def _blocks(its: list[Row], frame: Frame, *, depth: int = 0) -> list[Piece | Table]:
    """Return lines and tables from top to bottom, columns of prose one after the other.

    Where pieces stand at one height and belong to neither, the order is that of drawing.
    """
    found: list[tuple[int, list[Piece | Table]]] = []
    grids = _grids(its, frame)
    number, drawn = 0, False
    while number < len(its):
        if number in grids:
            table, stop = grids[number]
            place = min(piece.place for row in its[number:stop] for piece in row)
            found.append((place, [Table(table)]))
            number = stop
            continue
        band, gaps = _band(its, number, min((one for one in grids if one > number), default=len(its)))
        place = min((piece.place for row in band for piece in row), default=0)
        columns = _columns(band, gaps)
        if depth < 3 and band and _is_prose(columns, band, frame):
            found.append((place, [b for column in columns for b in _blocks(column, frame, depth=depth + 1)]))
        elif band and (band := _ended(band)):
            found.append((place, [Table(_table(band, frame))]))
        else:
            line = _one_line(its[number])
            drawn = drawn or len(line) > 1
            found += [(piece.place, [piece]) for piece in line]
        number += len(band) or 1
    return [block for _, blocks in (sorted(found, key=lambda one: one[0]) if drawn else found) for block in blocks]


def _grids(its: list[Row], frame: Frame) -> dict[int, tuple[list[list[str]], int]]:
    """Return by their first row the tables whose rows have lines between them, and the row behind each."""
    heights: dict[float, tuple[float, float]] = {}
    for height, left, right in frame.across:
        near = next((h for h in (height, height + 1, height + 2) if h in heights), height)
        low, high = heights.get(near, (left, right))
        heights[near] = (min(low, left), max(high, right))
    lines: dict[tuple[int, int], list[float]] = defaultdict(list)
    for height, (left, right) in heights.items():
        lines[round(left / 5), round(right / 5)].append(height)
    found = {}
    for (low, high), levels in lines.items():
        run: list[list[Row]] = []
        start = stop = 0
        for top, bottom in [*itertools.pairwise(levels), (0, 0)]:
            first = bisect.bisect_left(its, -top, key=lambda row: -row[0].height)
            last = bisect.bisect_left(its, -bottom, key=lambda row: -row[0].height)
            cell = its[first:last] if top > bottom else []
            inside = all(5 * low - 8 < row[0].left and row[-1].right < 5 * high + 8 for row in cell)
            walls = [
                x for x, y1, y2 in frame.down if 5 * low + 5 < x < 5 * high - 5 and y1 < bottom + 3 and y2 > top - 3
            ]
            if cell and inside and (walls or any(len(row) > 1 for row in cell)):
                start, stop = (start, last) if run and stop == first else (first, last)
                run.append(cell)
                continue
            table = _grid(run, [x for x, y1, y2 in frame.down if 5 * low + 5 < x < 5 * high - 5])
            if table:
                found[start] = (table, stop)
            run = []
    return found


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


def _band(rows: list[Row], start: int, end: int) -> tuple[list[Row], list[tuple[float, float]]]:
    """Return the rows from `start` on that leave a common gap free, and the gaps; none if they are no two."""
    row, size = rows[start], rows[start][0].size
    if len(row) == 1 and start + 1 < end and row[0].height - rows[start + 1][0].height < 0.8 * size:
        row = sorted(row + rows[start + 1], key=lambda piece: piece.left)  # columns whose lines stand at other heights
    gaps = [(a.right, b.left) for a, b in itertools.pairwise(row) if b.left - a.right > 0.8 * size]
    gaps = gaps if len(gaps) < MOST_COLUMNS else []
    stop = start + 1
    while gaps and stop < end:
        step, row = rows[stop - 1][0].height - rows[stop][0].height, rows[stop]
        if step > (5 if 1 < len(row) == len(rows[start]) else 3.2) * size:
            break
        narrowed = _narrowed(gaps, row)
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


def _is_prose(columns: list[list[Row]], band: list[Row], frame: Frame) -> bool:
    """Tell columns of prose, whose lines fill them and go on in the next, from the columns of a table."""
    if min(map(len, columns)) < 2 or _ruled(band, frame) > 1:
        return False
    places = [[piece.place for row in column for piece in row] for column in columns]
    if min(map(len, columns)) > 3 and all(max(a) < min(b) for a, b in itertools.pairwise(places)):
        return any(_goes_on_as_prose(column) >= 0.3 for column in columns)  # set one after the other
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(band)]
    narrow = sorted(steps)[len(steps) // 4]
    wide = [step > 1.3 * narrow for step in steps]
    if sum(far and len(row) > 1 for far, row in zip(wide, band[1:], strict=True)) > max(1, len(band) / 12):
        return False  # rows of cells, with room between them
    shares = [_goes_on_as_prose(column) for column in columns]
    return min(shares) >= 0.15 and statistics.mean(shares) >= 0.3


def _goes_on_as_prose(column: list[Row]) -> float:
    """Return the share of lines that go on in the middle of a sentence, 0 for lines that are no prose."""
    lines = [" ".join(piece.text for piece in row) for row in column]
    widths = [row[-1].right - row[0].left for row in column]
    widest = max(widths)
    full = statistics.mean(width > 0.7 * widest for width in widths[:-1])
    words = statistics.mean(len(line.split()) for line in lines)
    if not any(letter.islower() for line in lines for letter in line):  # a script that has no small letters
        return 0.5 * (full > 0.8 and statistics.mean(map(len, lines)) >= 10)
    return statistics.mean(line[0].islower() for line in lines[1:]) if full >= 0.5 and words >= 2.5 else 0.0


def _ruled(band: list[Row], frame: Frame) -> int:
    """Return how many of the horizontal lines of a page go between the rows, over most of their width."""
    left, right = min(row[0].left for row in band), max(row[-1].right for row in band)
    heights = {h for h, low, high in frame.across if min(high, right) - max(low, left) > 0.6 * (right - left)}
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


def _grid(cells: list[list[Row]], walls: list[float]) -> list[list[str]] | None:
    """Return the rows of a table from what stands between its lines, or None if that is none."""
    if len(cells) < 3:
        return None
    if not walls:
        strips = [row for cell in cells for row in cell]
        spans = _spans(strips)
        if len(strips) > 2.5 * len(cells) or any(
            len(cell) > 1 and all(len(r) == len(spans) for r in cell) for cell in cells
        ):
            return None
        walls = [(a[1] + b[0]) / 2 for a, b in itertools.pairwise(spans)]
    table = []
    for cell in cells:
        texts: dict[int, list[Piece]] = defaultdict(list)
        for row in cell:
            for piece in row:
                texts[bisect.bisect(walls, piece.left + 1)].append(piece)
        table.append([" ".join(piece.text for piece in texts[index]) for index in range(len(walls) + 1)])
    used = [index for index in range(len(walls) + 1) if any(row[index] for row in table)]
    return [[row[index] for index in used] for row in table] if len(used) > 1 else None


def _spans(band: list[Row]) -> list[list[float]]:
    """Return where the columns of a table begin and end: by all rows, or by those that have as many cells as most."""
    counts = Counter(len(row) for row in band if len(row) > 1)
    most = max(counts, key=lambda number: (counts[number], number), default=0)
    found = []
    for chosen in ([row for row in band if len(row) == most], band):
        spans: list[list[float]] = []
        for piece in sorted((piece for row in chosen for piece in row), key=lambda piece: piece.left):
            if spans and piece.left < spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], piece.right)
            else:
                spans.append([piece.left, piece.right])
        found.append(spans)
    return max(found, key=len)


def _table(band: list[Row], frame: Frame) -> list[list[str]]:
    spans = _spans(band)
    lines: list[dict[int, list[Piece]]] = []
    for row in band:
        cells: dict[int, list[Piece]] = defaultdict(list)
        for piece in row:
            over = [min(piece.right, right) - max(piece.left, left) for left, right in spans]
            cells[over.index(max(over))].append(piece)
        lines.append(cells)
    goes_on = _goes_on(lines, band, spans, frame)
    table: list[list[str]] = []
    for wraps, cells in zip(goes_on, lines, strict=True):
        texts = [" ".join(piece.text for piece in cells[index]) for index in range(len(spans))]
        if wraps:
            table[-1] = [f"{above} {text}".strip() for above, text in zip(table[-1], texts, strict=True)]
        else:
            table.append(texts)
    return table


def _goes_on(lines: list[Any], band: list[Row], spans: list[list[float]], frame: Frame) -> list[bool]:
    """Tell of each row of a table whether it goes on in the cells of the row above it."""
    steps = [above[0].height - below[0].height for above, below in itertools.pairwise(band)]
    least = min(steps)
    loose = [step > 1.25 * least or _ruled(band[n : n + 2], frame) > 0 for n, step in enumerate(steps)]
    spaced, result = sum(loose) > 1, [False]
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
        elif spaced:
            result.append(len(filled) < len(spans) or any(lower))
        else:
            result.append(len(filled) < len(spans) and (all(lower) or (0 not in filled and not figures and full)))
    return result
