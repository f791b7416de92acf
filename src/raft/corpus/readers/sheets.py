"""Tables: XLSX workbooks, CSV and TSV. Each row becomes one line that can be understood alone."""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import chain, dropwhile, islice, pairwise
from math import isfinite
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from raft.corpus.readers import Reading, clean, decode, office, require
from raft.corpus.readers.formulas import lowered, raised

_DELIMITERS = "\t;|,"
_MOST_UNCLOSED = 20
_AHEAD = 60
"""So many rows tell where the headers are."""
_NUMBER = re.compile(r"\W*\d[\d.,:/'’\s-]*(?:%|[€$£¥]|\w{1,3})?\W*$")
_NONE = re.compile(r"[-–—./?*]+|n\.?/?a\.?|none|null|nil|tb[acd]|unknown|k\.\s?a\.|#n/a", re.IGNORECASE)
"""What stands in a cell for which there is no value."""
_YEAR = re.compile(r"(?:19|20)\d\d")
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
_ROW_NUMBER = re.compile(rb'<(?:\w+:)?row\s(?:[^>]*?\s)?r="(\d{1,9})"')
_HIDDEN_ROW = re.compile(rb'<(?:\w+:)?row\s(?=[^>]*\bhidden="(?:1|true)")(?![^>]*outlineLevel)[^>]*?\br="(\d{1,7})"')
_HIDDEN_COLUMN = re.compile(
    rb'<(?:\w+:)?col\s(?=[^>]*\bhidden="(?:1|true)")(?=[^>]*min="\d)(?=[^>]*max="\d)(?![^>]*outlineLevel)[^>]*>'
)
_ENDS = re.compile(rb'\bm(?:in|ax)="(\d{1,5})')
_NO_VALUE = re.compile(
    rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f\b[^>]*/>)\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</"
)
_LITERAL = re.compile(r'"([^"]*)"|\\(.)|\[\$([^\]-]*)[^\]]*\]|_.|\*.|\[[^\]]*\]')
_DIGITS = re.compile(r"[0#?][0#?,.]*(?:E[+-]0+)?")
_PARTERS = " '’\u00a0\u202f"
_THOUSANDS = re.compile(rf"#{{1,3}}([{_PARTERS}])[#?0]{{3}}(?:\1[#?0]{{3}})*(?:\.[0#?]+)?,*(?![#?0])")
"""Digits of a number that a sign other than a comma parts, as in most of Europe."""


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a table as one document of lines `header: value; header: value`, under a heading for each sheet.

    Rows above the headers are told as they are; of a sheet of names and values each row is a line `name: value`. Cells
    of a workbook are told as it shows them, but dates as 2026-05-31.
    """
    left_out: dict[str, int] = {}
    if kind == "xlsx":
        return [Reading(path.stem, "\n\n".join(_sheets(path, left_out)), kind, left_out=left_out)]
    text = decode(path.read_bytes(), left_out)
    named = re.match(r'"?sep=([^"\n])"?[ \t]*\n', text, re.IGNORECASE)
    lines = text[named.end() if named else 0 :].split("\n")
    # A quoted cell may be as large as the file, and the file's size is limited already.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = _records(lines, named[1] if named else _delimiter(lines))
    told = "\n".join(_row_lines((row, frozenset()) for row in rows))
    return [Reading(path.stem, told, kind, left_out=left_out)]


def _records(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the rows; a quote that nothing closes is a sign like others, and takes no rows below into its cell."""
    start = 0
    for left in reversed(range(_MOST_UNCLOSED)):
        rows, before = _parted(islice(lines, start, None), delimiter), 0
        for row in rows:
            spans = lines[start + before : start + rows.line_num]
            if left and len(spans) > 1 and start + rows.line_num == len(lines) and _quotes(spans) % 2:
                yield next(csv.reader([spans[0]], delimiter=delimiter, quoting=csv.QUOTE_NONE))
                start += before + 1
                break
            yield row
            before = rows.line_num
        else:
            return


def _parted(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True)


def _quotes(lines: Iterable[str]) -> int:
    return sum(line.count('"') for line in lines)


def _delimiter(lines: Sequence[str]) -> str:
    """Return what parts most of the first lines alike; of several the one that stands in numbers and prose least."""
    shares = dict.fromkeys(_DELIMITERS, 0.0)
    for mark in _DELIMITERS:
        widths = [len(row) for row in islice(_parted(lines, mark), 100) if any(map(str.strip, row))]
        width, count = Counter(widths).most_common(1)[0] if widths else (1, 0)
        shares[mark] = count / len(widths) if width > 1 else 0.0
    best = max(shares, key=lambda mark: shares[mark])
    return best if shares[best] else ","


_Row = tuple[Sequence[str], frozenset[int]]
"""The cells of a row, and the columns whose cell belongs to the one left of it."""


def _row_lines(rows: Iterable[_Row]) -> Iterator[str]:
    """Yield one line for each row below the headers; a column without a name is `column 3`.

    Behind an empty row a row of names begins another table.
    """
    cells: Iterator[_Row] = (([" ".join(cell.split()) for cell in row], joined) for row, joined in rows)
    begun = dropwhile(lambda row: not any(row[0]), cells)
    ahead = list(islice(begun, _AHEAD))
    rest = chain(ahead, begun)
    filled = [(row, joined) for row, joined in ahead if any(row)]
    if _are_pairs([[cell for at, cell in enumerate(row) if at not in joined] for row, joined in filled]):
        told = ([cell for column, cell in enumerate(row) if cell and column not in joined] for row, joined in rest)
        yield from map(_pairs, filter(None, told))
        return
    titles, found = _headers(filled)
    tops: list[Sequence[str]] = [*found]
    for row, _ in islice((one for one in rest if any(one[0])), len(titles) + len(tops)):
        if row in titles:
            yield ": ".join(dict.fromkeys(cell.rstrip(":") for cell in row if cell))
    headers = _names(tops)
    seen_any = gap = False
    counted: set[int] = set()
    for row, joined in rest:
        columns = {column for column, cell in enumerate(row) if cell}
        if not columns:
            gap = True
            continue
        if gap and len(columns) > 1 and _is_header(row) and (counted & columns or len(columns) != len(tops[-1])):
            headers, tops, counted = _names([row]), [row], set()
        elif row not in tops:
            seen_any = True
            one = next(filter(None, row))
            if set(map(row.__getitem__, columns)) == {one} and (joined or (gap and counted)):
                yield one
                continue
            headers += [f"column {number}" for number in range(len(headers) + 1, len(row) + 1)]
            counted |= {column for column in columns - counted if _is_number(row[column])}
            yield "; ".join(f"{header}: {cell}" for header, cell in zip(headers, row, strict=False) if cell)
        gap = False
    if headers and not seen_any:
        yield "; ".join(headers)


def _names(tops: Sequence[Sequence[str]]) -> list[str]:
    """Return the name of each column from the rows of headers."""
    parts = [[row[column] for row in tops if column < len(row)] for column in range(max(map(len, tops), default=0))]
    names = [" ".join(filter(None, dict.fromkeys(part))).rstrip(": ") for part in parts]
    return [name or f"column {number}" for number, name in enumerate(names, start=1)]


def _are_pairs(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether rows are names and their values, without headers above."""
    pairs = [[cell for cell in row if cell] for row in rows]
    pairs = [pair for pair in pairs if len(pair) > 1]
    if len(pairs) < 2 or any(_is_number(pair[0]) for pair in pairs):
        return False
    if all(name.endswith(":") for pair in pairs for name in pair[::2]):
        return True
    names, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if max(map(len, pairs)) > 2 or len(set(names)) < len(names):
        return False
    told = [value for value in values[1:] if not _NONE.fullmatch(value)]
    kinds = {re.sub(r"[-−+]?[\d.,'’\s]+", "0", value.strip("()")) if _is_number(value) else "" for value in told}
    return _is_number(values[0]) or len(kinds) > 1


def _pairs(cells: Sequence[str]) -> str:
    said = [cell.rstrip(": ") for cell in cells]
    return "; ".join(": ".join(said[number : number + 2]) for number in range(0, len(said), 2))


def _headers(rows: Sequence[_Row]) -> tuple[list[Sequence[str]], list[list[str]]]:
    """Return the rows above the headers, and those of the headers."""
    widths = [len({cell for cell in row if cell}) for row, _ in rows]
    usual = max(widths[-1], Counter(widths).most_common(1)[0][0]) if widths else 0
    left = min((next(filter(row.__getitem__, range(len(row)))) for row, _ in rows), default=0)
    first = 0
    while first < len(rows) - 2 and widths[first] < 0.67 * usual and widths[first] <= 2:
        cells = [cell for cell in rows[first][0][left:] if cell]
        if rows[first][0][left : left + len(set(cells))] != list(dict.fromkeys(cells)):
            break  # something stands further right, as above a group of columns
        first += 1
    if first and not _is_header(rows[first][0]):
        first = 0
    below = first + 1
    while below < min(first + 3, len(rows) - 1) and _goes_on(rows, below):
        below += 1
    tops: list[list[str]] = [list(row) for row, _ in rows[first:below]]
    for row, under in pairwise(tops):
        for column in range(1, min(len(row), len(under))):  # what stands above several columns is in the first of them
            if not row[column] and under[column] and under[column - 1]:
                row[column] = row[column - 1]
    return [row for row, _ in rows[:first]], tops


def _goes_on(rows: Sequence[_Row], number: int) -> bool:
    """Return whether a row below headers names their columns once more."""
    (above, joined), (row, _) = rows[number - 1], rows[number]
    if not _is_header(row):
        return False
    if joined:
        return len(set(filter(None, above))) > 1
    gaps = [column for column, cell in enumerate(row) if cell and not (column < len(above) and above[column])]
    below = [later for later, _ in rows[number + 1 : number + 4]]
    counted = any(
        _is_number(later[column]) for later in below for column in range(min(len(row), len(later))) if row[column]
    )
    return bool(gaps) and gaps != [0] and any(above[: gaps[-1]]) and counted


def _is_header(row: Sequence[str]) -> bool:
    cells = [cell for cell in row if cell]
    return bool(cells) and not any(_is_number(cell) and not _YEAR.fullmatch(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.match(cell))


def _sheets(path: Path, left_out: dict[str, int]) -> Iterator[str]:
    openpyxl = require("openpyxl", why="to read XLSX files")
    file = office(path)
    workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
    with zipfile.ZipFile(file) as archive:
        _raise(workbook, archive)
        parts = archive.namelist()
        notes = [name for name in parts if re.fullmatch(r"xl/comments/?\w*\.xml", name)]  # copies of threads among them
        if said := sum(len(re.findall(rb"<(?:\w+:)?comment\s", archive.read(name))) for name in notes):
            left_out["comments"] = left_out.get("comments", 0) + said
        filtered = any(b"filterColumn" in archive.read(name) for name in parts if name.startswith("xl/tables/"))
        for sheet in workbook.worksheets:
            source = archive.read(sheet._worksheet_path)
            if sheet.sheet_state != "visible":
                left_out["hidden sheets"] = left_out.get("hidden sheets", 0) + 1
                continue
            if empty := len(_NO_VALUE.findall(source)):
                left_out["formulas without a value"] = left_out.get("formulas without a value", 0) + empty
            rows = _rows(openpyxl.worksheet, sheet, source, left_out)
            if any(int(one) >= int(next_) for one, next_ in pairwise(_ROW_NUMBER.findall(source))):
                rows = iter(sorted(rows, key=lambda row: row[0]))
            lines = list(_row_lines(_merged(rows, _merges(source), *_hidden(source, left_out, filtered=filtered))))
            if lines:
                yield clean(f"## {' '.join(sheet.title.split())}\n\n" + "\n".join(lines))


def _raise(workbook: Any, archive: zipfile.ZipFile) -> None:
    """Set apart what is raised or lowered in the texts of a workbook, such as the mark of a note beside a number."""
    name = "xl/sharedStrings.xml"
    if name not in archive.namelist() or b"vertAlign" not in (source := archive.read(name)) or not workbook.worksheets:
        return
    strings = workbook.worksheets[0]._shared_strings  # one list for all sheets
    for number, item in enumerate(ElementTree.fromstring(source).iterfind("{*}si")):  # noqa: S314  expat is bounded
        if number < len(strings) and item.find("{*}r/{*}rPr/{*}vertAlign") is not None:
            strings[number] = _with_scripts(item)


def _with_scripts(item: Any) -> str:
    text, runs = "", item.findall("{*}r")
    for run, later in zip(runs, [*runs[1:], None], strict=True):
        words, place = run.findtext("{*}t") or "", run.find("{*}rPr/{*}vertAlign")
        side = "" if place is None else place.get("val", "")
        if side == "superscript":
            words = raised(words, text)
        elif side == "subscript":
            words = lowered(words, text, later.findtext("{*}t") or "" if later is not None else "")
        text += words
    return text


def _rows(library: Any, sheet: Any, source: bytes, left_out: dict[str, int]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield each row of a sheet with its number from 0, as they come; a value that is none is told as it is written.

    The library's own way leaves out rows and cells that are out of order, and ends with the first wrong value.
    """
    parser = library._reader.WorkSheetParser(
        None,
        sheet._shared_strings,
        data_only=True,
        epoch=sheet.parent.epoch,
        date_formats=sheet.parent._date_formats,
        timedelta_formats=sheet.parent._timedelta_formats,
    )
    parse_cell = parser.parse_cell

    def tolerant(element: Any) -> dict[str, Any]:
        before = parser.col_counter
        try:
            if (inline := element.find("{*}is")) is not None and inline.find("{*}r/{*}rPr/{*}vertAlign") is not None:
                text = _with_scripts(inline)
                runs = inline.findall("{*}r/{*}t")
                for run in runs:
                    run.text = text if run is runs[0] else ""
            told: dict[str, Any] = parse_cell(element)
            if int(told["style_id"]) < len(sheet.parent._cell_styles):
                return told
        except (ValueError, LookupError, TypeError, OverflowError):
            parser.col_counter += parser.col_counter == before
            told = {"row": parser.row_counter, "column": parser.col_counter}
            told["value"] = element.findtext(library._reader.VALUE_TAG) if element.get("t") != "s" else None
            if told["value"] is None:
                left_out["cells without a value"] = left_out.get("cells without a value", 0) + 1
        return {**told, "style_id": 0}

    parser.parse_cell = tolerant
    for _, element in library._reader.iterparse(io.BytesIO(source)):
        if element.tag != library._reader.ROW_TAG:
            continue
        try:
            number, cells = parser.parse_row(element)
        except (ValueError, OverflowError):
            del element.attrib["r"]
            number, cells = parser.parse_row(element)
        element.clear()
        row = [library._read_only.EMPTY_CELL] * max((cell["column"] for cell in cells), default=0)
        for cell in cells:
            row[cell["column"] - 1] = library._read_only.ReadOnlyCell(sheet, **cell)
        yield number - 1, row


def _merges(source: bytes) -> dict[int, list[tuple[int, int, int]]]:
    """Return the merged cells of a sheet by their first row: first column, last row, last column, all from 0."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for left, top, right, bottom in _MERGED.findall(source):
        found.setdefault(int(top) - 1, []).append((_column(left), int(bottom) - 1, _column(right)))
    return found


def _hidden(source: bytes, left_out: dict[str, int], *, filtered: bool) -> tuple[set[int], set[int]]:
    """Return the rows and columns that a sheet hides, but for those that a filter or a closed group hides for now."""
    filtered = filtered or b"filterColumn" in source or b'filterMode="1"' in source
    rows = [] if filtered else _HIDDEN_ROW.findall(source)
    spans = [sorted(map(int, _ENDS.findall(one)[:2])) for one in _HIDDEN_COLUMN.findall(source)]
    columns = {number - 1 for first, *_, last in spans if last - first < 100 for number in range(first, last + 1)}
    for name, count in (("hidden rows", len(rows)), ("hidden columns", len(columns))):
        left_out.update({name: left_out.get(name, 0) + count} if count else {})
    return {int(row) - 1 for row in rows}, columns


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number - 1


def _merged(
    rows: Iterable[tuple[int, Sequence[Any]]],
    merges: dict[int, list[tuple[int, int, int]]],
    hidden: Container[int],
    columns: Container[int],
) -> Iterator[_Row]:
    """Yield the rows of a sheet as it shows them; each of merged cells holds what they say together."""
    under: list[tuple[int, int, int, str]] = []
    width = 0
    last = -1
    for number, row in rows:
        if number not in merges and all(cell.value is None for cell in row):
            continue
        if number > last + 1:
            yield [], frozenset()
        last = number
        if number in hidden and number not in merges:
            continue
        cells = [_shown(cell.value, cell.number_format) if cell.value is not None else "" for cell in row]
        joined: set[int] = set()
        width = max(width, len(cells))
        under = [one for one in under if one[1] >= number]
        for left, bottom, right in merges.get(number, ()):
            under.append((left, bottom, min(right, max(width, left + 1, 50)), cells[left] if left < len(cells) else ""))
        cells = ["" if column in columns else cell for column, cell in enumerate(cells)]
        for left, _, right, value in under:
            cells += [""] * (right + 1 - len(cells) if value else 0)
            over = [column for column in range(left, right + 1 if value else left) if column not in columns]
            for column in over:  # also where the first of them, which holds the value, is hidden
                cells[column] = value
            joined.update(over[1:])
        if number not in hidden:
            yield cells, frozenset(joined)


def _shown(value: Any, form: str) -> str:
    """Return a value in the number format of its cell; dates are 2026-05-31, and the locale is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | date | time | timedelta):
        return str(value).upper()
    if form == "General" and not isinstance(value, date | time | timedelta):
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    sections = form.split(";")
    if isinstance(value, date | time | timedelta):
        return _shown_time(value, _LITERAL.sub("", form).lower(), form.lower())
    own_sign = value < 0 and len(sections) > 1
    section = sections[1] if own_sign else sections[2] if value == 0 and len(sections) > 2 else sections[0]
    plain, said = f"{value:.15g}" if isinstance(value, float) else str(value), []

    def literal(found: re.Match[str]) -> str:
        words = next(filter(None, found.groups()), "")
        if words and words in _PARTERS:
            return words
        said.append(words)
        return "\x00"

    bare = _LITERAL.sub(literal, section)
    bare = bare.replace("General", "\x01", 1)
    pattern = re.search("\x01", bare) or _DIGITS.search(bare)
    pattern = (pattern and _THOUSANDS.match(bare, pattern.start())) or pattern
    groups = bool(pattern and _DIGITS.search(bare, pattern.end()))  # as of a telephone number
    odd = "/" in bare or (groups and ("." in bare or not isfinite(value)))
    if not pattern or odd or re.search(r"\[[<>=]|@", section):
        alone = not pattern and not bare.strip("\x00 ") and not re.search(r"\[[<>=]", section)
        return (alone and " ".join("".join(said).split())) or plain  # words alone, such as "none"
    number = abs(value) if own_sign else value
    own = f"{number:.15g}" if isinstance(number, float) else str(number)
    text = own if pattern[0] == "\x01" else _in_digits(number * 100 ** bare.count("%"), pattern[0])
    shown = bare[: pattern.start()] + text + bare[pattern.end() :]
    if groups:
        digits = iter(reversed(str(abs(round(number))).zfill(len(re.findall("[0#?]", bare)))))
        shown = "".join(reversed([next(digits) if mark in "0#?" else mark for mark in reversed(bare)]))
        shown = "".join(reversed(list(digits))) + shown
    for words in said:
        shown = shown.replace("\x00", words, 1)
    if own_sign and re.search(r"\[(?:red|colou?r\s?\d)", section, re.IGNORECASE) and not re.search("[-−–(]", shown):
        shown = f"-{shown}"  # it is the colour that says so
    return " ".join(shown.split()) or plain


def _in_digits(value: float, pattern: str) -> str:
    if not value and "0" not in pattern:
        return ""  # as in the "-"?? of bookkeepers
    if parted := _THOUSANDS.fullmatch(pattern):
        return _in_digits(value, pattern.replace(parted[1], ",")).replace(",", parted[1])
    digits, _, exponent = pattern.partition("E")
    scaled = digits.rstrip(",")
    whole, _, decimals = scaled.partition(".")
    value = value / 1000 ** (len(digits) - len(scaled)) if digits != scaled else value
    places, needed = len(decimals), decimals.count("0")
    if exponent:
        return f"{value:.{places}E}"
    # of 1.005 as of 2.5 the last half is rounded up, as sheets show them
    exact = Decimal(value) if isinstance(value, int) else Decimal(f"{value:.15g}")
    if exact.is_finite() and exact.adjusted() + places < 28:
        exact = exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP) + 0
    text = f"{exact:{',' if ',' in whole else ''}.{places}f}"
    for _ in range(places - needed):
        text = text[:-1] if text.endswith("0") else text
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    head, dot, tail = text.partition(".")
    return sign + head.zfill(whole.count("0")) + (dot + tail if tail else "")


def _shown_time(value: date | time | timedelta, bare: str, form: str) -> str:
    seconds = ":%S" if "s" in bare or "[s" in form else ""
    if isinstance(value, timedelta):
        total = round(value.total_seconds())
        sign, total = ("-", -total) if total < 0 else ("", total)
        if "[m" in form:
            return f"{sign}{total // 60}:{total % 60:02}"
        return f"{sign}{total // 3600}:{total // 60 % 60:02}" + (f":{total % 60:02}" if seconds else "")
    if isinstance(value, time):
        return value.strftime("%H:%M" + seconds)
    if isinstance(value, datetime) and value.microsecond:
        value = (value + timedelta(seconds=0.5)).replace(microsecond=0)
    days = "%Y-%m-%d" if "d" in bare else "%Y-%m" if "m" in bare and "h" not in bare else "%Y" if "y" in bare else ""
    hours = isinstance(value, datetime) and ("h" in bare or value.time() != time()) and "h" in bare
    return value.strftime(" ".join(filter(None, [days, "%H:%M" + seconds if hours else ""])) or "%Y-%m-%d")
