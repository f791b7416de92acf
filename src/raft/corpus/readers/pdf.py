"""PDF files: lines put together from the runs of text on each page, and paragraphs from the lines.

A PDF knows neither headings nor tables nor paragraphs, only text at places. What is set larger than the body is a
heading; pieces far apart at one height are the cells of a table row; a line that a paragraph's neighbours continue is
joined to them, and a word broken at its end is mended.
"""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.corpus.readers import MAX_FILE, Reading, Unreadable, clean, require

_ITEM = re.compile(r"(?:[-–•·▪◦*o]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_BULLET = re.compile(r"[•·▪◦]\s+")
_DIGITS = re.compile(r"\d+")


@dataclass
class _Line:
    text: str
    left: float
    height: float
    size: float
    bold: bool = False
    row: bool = False
    """Whether pieces stand far apart on it, as the cells of a table do (then `text` is a Markdown row)."""


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a PDF as one document, with the offset at which each page starts."""
    pypdf = require("pypdf", why="to read PDF files")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells every flaw that it mends
    with path.open("rb") as stream:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not _unlock(reader, pypdf):
            raise Unreadable("The file is protected by a password.")
        pages = _lines_of_pages(reader.pages)
        title = _title(reader)
    if not any(pages):
        raise Unreadable("There is no text in it: a scan? Run OCR on it first.")
    pages = _without_running_lines(pages)
    levels = _heading_levels(line for page in pages for line in page)
    words = {word for page in pages for line in page for word in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", line.text)}
    text, starts = _join_pages([_page_text(page, levels, words) for page in pages])
    top = max((line for page in pages[:1] for line in page), key=lambda line: line.size, default=None)
    largest = top.text if top and (top.size, top.bold) in levels else None
    return [Reading(title or largest or path.stem, text, kind, tuple(starts))]


def _unlock(reader: Any, pypdf: Any) -> bool:
    try:
        return bool(reader.decrypt(""))
    except (pypdf.errors.DependencyError, NotImplementedError):
        return False


def _title(reader: Any) -> str | None:
    title = reader.metadata.title if reader.metadata else None
    title = " ".join(clean(title).split()) if isinstance(title, str) else ""
    useful = title and not re.search(r"(?i)^untitled|\.(docx?|pdf|indd|xlsx?|pptx?|html?)$|^microsoft word", title)
    return title if useful else None


def _lines_of_pages(pages: Iterable[Any]) -> list[list[_Line]]:
    size, result = 0, []
    for page in pages:
        result.append(_lines(page))
        size += sum(len(line.text) for line in result[-1])
        if size > MAX_FILE:
            raise Unreadable("The file inflates to far more than a document does.")
    return result


def _lines(page: Any) -> list[_Line]:
    """Put the runs of a page together to lines, in the order in which the page draws them."""
    runs: list[tuple[float, float, float, bool, str, bool]] = []
    apart = True

    def visit(text: str, cm: Sequence[float], tm: Sequence[float], font: Any, size: float) -> None:
        nonlocal apart
        if not text.strip():
            apart = apart or bool(text)
            return
        scale = abs(tm[3] * cm[3]) or 1.0
        left, height = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        bold = "bold" in str((font or {}).get("/BaseFont", "")).lower()
        runs.append((left, height, round(size * scale, 1), bold, clean(text), apart or text[0].isspace()))
        apart = text[-1].isspace()

    page.extract_text(visitor_text=visit)
    lines: list[_Line] = []
    reach, letters = 0.0, 0
    for left, height, size, bold, text, separate in runs:
        first, *others = [" ".join(part.split()) for part in text.split("\n") if part.strip()]
        last = lines[-1] if lines else None
        if last and abs(last.height - height) < 0.3 * size and left >= last.left:
            gap = left - reach
            wide = separate and gap > 1.5 * size
            last.row = last.row or wide
            # Runs of one letter are a word spaced out by its typesetter.
            last.text += ("\t" if wide else " " if separate and (letters > 1 or gap > 0.15 * size) else "") + first
        else:
            lines.append(_Line(first, left, height, size, bold))
        lines += [
            _Line(other, left, height - 1.2 * size * number, size) for number, other in enumerate(others, start=1)
        ]
        # Half the font's size is about the mean width of a letter.
        reach, letters = left + 0.5 * size * len(first), len(first)
    return lines


def _without_running_lines(pages: list[list[_Line]]) -> list[list[_Line]]:
    """Leave out first and last lines that, but for their numbers, stand on most pages."""

    def edge(page: list[_Line]) -> set[str]:
        return {_DIGITS.sub("0", line.text) for line in (page[:2] + page[-2:])}

    counts = Counter(text for page in pages for text in edge(page))
    running = {text for text, count in counts.items() if count >= 2 and count > len(pages) / 2}
    kept = []
    for page in pages:
        marks = [_DIGITS.sub("0", line.text) in running for line in page]
        inside = range(2, len(page) - 2)
        kept.append([line for number, line in enumerate(page) if number in inside or not marks[number]])
    return kept


def _heading_levels(lines: Iterable[_Line]) -> dict[tuple[float, bool], int]:
    """Return the heading level of each size (and whether it is bold) that stands out from the body's."""
    letters: Counter[tuple[float, bool]] = Counter()
    for line in lines:
        letters[line.size, line.bold] += len(line.text)
    if not letters:
        return {}
    body = letters.most_common(1)[0][0][0]
    larger = sorted((face for face in letters if face[0] >= (1.05 if face[1] else 1.15) * body), reverse=True)
    return {face: level for level, face in enumerate(larger[:6], start=1)}


def _page_text(lines: list[_Line], levels: dict[tuple[float, bool], int], words: set[str]) -> str:
    widest = sorted(len(line.text) for line in lines)[int(0.9 * (len(lines) - 1))] if lines else 0
    gaps = Counter(round(a.height - b.height) for a, b in itertools.pairwise(lines) if a.size == b.size)
    usual = next((gap for gap, _ in gaps.most_common() if gap > 0), 0)
    parts: list[str] = []
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else None
        level = levels.get((line.size, line.bold), 0) if len(line.text) <= 200 and not line.row else 0
        if line.row:
            row = "| " + " | ".join(cell.replace("|", r"\|") for cell in line.text.split("\t")) + " |"
            in_table = before is not None and before.row
            parts.append(("\n" if in_table else "\n\n") + row)
            if not in_table:
                parts.append("\n|" + " --- |" * (line.text.count("\t") + 1))
        elif level:
            same = before is not None and before.size == line.size and 0 < before.height - line.height < 1.6 * line.size
            parts.append(f" {line.text}" if same else f"\n\n{'#' * level} {line.text}")
        elif before is None or before.row or (before.size, before.bold) in levels:
            parts.append(f"\n\n{_BULLET.sub('- ', line.text, count=1)}")
        else:
            parts.append(_continuation(parts, before, line, usual=usual, widest=widest, words=words))
    return "".join(parts).strip()


def _continuation(parts: list[str], before: _Line, line: _Line, *, usual: int, widest: int, words: set[str]) -> str:
    """Return a line of the body with what separates it from the line before; mend a word broken between them."""
    gap = before.height - line.height
    if _ITEM.match(line.text):
        return ("\n" if _ITEM.match(before.text) or gap <= 1.25 * usual else "\n\n") + _BULLET.sub("- ", line.text)
    ended = before.text.rstrip("\"'”’)").endswith((".", "!", "?", ":", ";"))
    short = len(before.text) < 0.75 * widest
    if (usual and gap > 1.3 * usual) or (ended and short) or (gap < 0 and ended):
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
    for page in pages:
        before = pieces[-1]
        if before and page:
            goes_on = page[0].islower() and (before[-1].isalnum() or before[-1] == ",")
            listed = _ITEM.match(page) and _ITEM.match(before[before.rfind("\n") + 1 :])
            pieces.append(" " if goes_on else "\n" if listed else "\n\n")
            length += len(pieces[-1])
        starts.append(length)
        if page:
            pieces.append(page)
            length += len(page)
    return "".join(pieces), starts
