"""Tables: XLSX workbooks, CSV and TSV. Each row becomes one line that can be understood alone."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raft.corpus.readers import Reading, check_archive, clean, decode, require

_DELIMITERS = ",;\t|"


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a table as one document of lines `header: value; header: value`, under a heading for each sheet."""
    if kind == "xlsx":
        return [Reading(path.stem, "\n\n".join(_sheets(path)), kind)]
    text = decode(path.read_bytes())
    delimiter = "\t" if kind == "tsv" else _delimiter(text)
    # A quoted cell may be as large as the file, and the file's size is limited already.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.reader((f"{line}\n" for line in text.split("\n")), delimiter=delimiter)
    return [Reading(path.stem, "\n".join(_row_lines(rows)), kind)]


def _row_lines(rows: Iterable[Sequence[str | None]]) -> Iterator[str]:
    """Yield one line for each row below the headers, the first with any cell; one without a name is `column 3`."""
    headers: list[str] = []
    seen_any = False
    for row in rows:
        cells = [" ".join((cell or "").split()) for cell in row]
        if not any(cells):
            continue
        if not headers:
            headers = [cell.rstrip(":") or f"column {number}" for number, cell in enumerate(cells, start=1)]
            continue
        seen_any = True
        headers += [f"column {number}" for number in range(len(headers) + 1, len(cells) + 1)]
        yield "; ".join(f"{header}: {cell}" for header, cell in zip(headers, cells, strict=False) if cell)
    if headers and not seen_any:
        yield "; ".join(headers)


def _delimiter(text: str) -> str:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return max(_DELIMITERS, key=first.count) if any(mark in first for mark in _DELIMITERS) else ","


def _sheets(path: Path) -> Iterator[str]:
    fastexcel = require("fastexcel", why="to read XLSX files")
    check_archive(path)
    workbook = fastexcel.read_excel(path)
    for name in workbook.sheet_names:
        table = workbook.load_sheet(name, header_row=None, dtypes="string").to_polars()
        lines = list(_row_lines(table.iter_rows()))
        if lines:
            yield clean(f"## {' '.join(name.split())}\n\n" + "\n".join(lines))
