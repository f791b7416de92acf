"""Slides (PPTX): what stands on each, and its notes."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from posixpath import join, normpath
from xml.etree import ElementTree as ET

from raft.corpus.readers import Reading, clean, office
from raft.corpus.readers.formulas import raised
from raft.corpus.readers.html import described

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_ALTERNATES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_FURNITURE = {"sldNum", "dt", "ftr", "hdr", "sldImg"}


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read slides as one document in Markdown, a page each; hidden slides and pictures without words are left out."""
    left_out: dict[str, int] = {}
    pages: list[str] = []
    with zipfile.ZipFile(office(path)) as archive:
        start = "ppt/presentation.xml"
        related = _related(archive, start)
        for one in _xml(archive, start).iterfind(f"{_P}sldIdLst/{_P}sldId"):
            name = related[one.get(_ID, "")][0]
            slide = _xml(archive, name)
            if slide.get("show") in {"0", "false"}:
                left_out["hidden slides"] = left_out.get("hidden slides", 0) + 1
                pages.append("")
                continue
            parts = list(_parts(slide, left_out))
            for note, type_ in _related(archive, name).values():
                if type_.endswith("/notesSlide"):
                    said = " ".join(_parts(_xml(archive, note), {}, listed=False))
                    parts += [f"Notes: {said}"] if said else []
            pages.append(clean("\n\n".join(parts)).strip())
    starts, text = [], ""
    for page in pages:
        text += "\n\n" if text and page else ""
        starts.append(len(text))
        text += page
    first = next((page.partition("\n")[0] for page in pages if page.startswith("## ")), "")
    return [Reading(first.removeprefix("## ") or path.stem, text, kind, tuple(starts), left_out=left_out)]


def _xml(archive: zipfile.ZipFile, name: str) -> ET.Element:
    root = ET.fromstring(archive.read(name))  # noqa: S314  expat is bounded, and so is the process
    for alternates in root.iter(_ALTERNATES):  # the same in several ways, the best first
        del alternates[1:]
    return root


def _related(archive: zipfile.ZipFile, name: str) -> dict[str, tuple[str, str]]:
    """Return by its id each part that a part refers to, with the kind of reference."""
    folder, _, file = name.rpartition("/")
    relations = f"{folder}/_rels/{file}.rels"
    found = _xml(archive, relations) if relations in archive.namelist() else ()
    targets = {one.get("Id", ""): (one.get("Target", ""), one.get("Type", "")) for one in found}
    return {key: (normpath(join("/" + folder, target))[1:], kind) for key, (target, kind) in targets.items()}


def _parts(slide: ET.Element, left_out: dict[str, int], *, listed: bool = True) -> Iterator[str]:
    for shape in slide.iter():
        if shape.tag == f"{_P}pic":
            words = described(next((one.get("descr", "") for one in shape.iter(f"{_P}cNvPr")), ""))
            left_out.update({} if words else {"pictures without text": left_out.get("pictures without text", 0) + 1})
            if words:
                yield words
        elif shape.tag == f"{_A}tbl":
            yield _table(shape)
        elif shape.tag == f"{_P}sp" and (body := shape.find(f"{_P}txBody")) is not None:
            place = shape.find(f".//{_P}ph")
            role = "" if place is None else place.get("type", "body")
            items = listed and role in {"body", "obj"}
            lines = [] if role in _FURNITURE else list(_lines(body, listed=items))
            if lines and role in {"title", "ctrTitle"}:
                yield "## " + " ".join(lines)
            elif lines:
                yield ("\n" if items else "\n\n").join(lines)


def _lines(body: ET.Element, *, listed: bool = False) -> Iterator[str]:
    for paragraph in body.iterfind(f"{_A}p"):
        text = ""
        for run in paragraph:
            said = run.findtext(f"{_A}t") or ""
            properties = run.find(f"{_A}rPr")
            if properties is not None and _number(properties.get("baseline", "0")) > 0:
                said = raised(said, text)
            text += " " if run.tag == f"{_A}br" else said
        if text := " ".join(text.split()):
            level = paragraph.find(f"{_A}pPr")
            yield (
                "  " * min(8, 0 if level is None else _number(level.get("lvl", "0"))) + "- " if listed else ""
            ) + text


def _number(said: str) -> int:
    found = re.match(r"-?\d{1,6}", said, re.ASCII)  # strict documents write 30% for 30000
    return int(found[0]) if found else 0


def _table(table: ET.Element) -> str:
    rows: list[list[str]] = []
    for row in table.iterfind(f"{_A}tr"):
        cells: list[str] = []
        for cell in row.iterfind(f"{_A}tc"):
            body = cell.find(f"{_A}txBody")
            text = " ".join(_lines(body)).replace("|", r"\|") if body is not None else ""
            if cell.get("hMerge") and cells:
                text = cells[-1]
            elif cell.get("vMerge") and rows and len(rows[-1]) > len(cells):
                text = rows[-1][len(cells)]
            cells.append(text)
        rows.append(cells)
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines[:1], "|" + " --- |" * len(rows[0] if rows else ()), *lines[1:]])
