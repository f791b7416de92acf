"""Slides (PPTX): what stands on each, and its notes."""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from posixpath import join, normpath
from xml.etree import ElementTree as ET

from raft.corpus.readers import Reading, clean, office
from raft.corpus.readers.formulas import numeral, raised, told
from raft.corpus.readers.html import described

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_D = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_DATA = _ID.replace("}id", "}dm")
_ALTERNATES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_FURNITURE = {"sldNum", "dt", "ftr", "hdr", "sldImg"}
_FORMS = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman", "romanUc": "upperRoman"}
_ESCAPED = re.compile("_x00[01][0-9A-Fa-f]_")
_DRAWN = ("/chart", "/chartex", "/diagram")
_DATE = re.compile(r"yy|\bd{1,2}\W+m|\bm{1,2}\W+d", re.IGNORECASE)
_MOST_POINTS = 200
_Related = Callable[[str], ET.Element | None]


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read slides as one document in Markdown, a page each; what is hidden and pictures without words are left out."""
    left_out: dict[str, int] = {}
    pages: list[str] = []
    with zipfile.ZipFile(office(path)) as archive:
        start = "ppt/presentation.xml"
        related = _related(archive, start)
        for one in _xml(archive, start).iterfind(f"{_P}sldIdLst/{_P}sldId"):
            try:
                pages.append(_page(archive, related[one.get(_ID, "")][0], left_out))
            except (KeyError, ET.ParseError):
                _count(left_out, "slides that cannot be read")
                pages.append("")
    starts, text = [], ""
    for page in pages:
        text += "\n\n" if text and page else ""
        starts.append(len(text))
        text += page
    first = next((page.partition("\n")[0] for page in pages if page.startswith("## ")), "")
    return [Reading(first.removeprefix("## ") or path.stem, text, kind, tuple(starts), left_out=left_out)]


def _count(left_out: dict[str, int], what: str, number: int = 1) -> None:
    if number:
        left_out[what] = left_out.get(what, 0) + number


def _page(archive: zipfile.ZipFile, name: str, left_out: dict[str, int]) -> str:
    """Return what stands on a slide, its title first, and its notes."""
    slide = _xml(archive, name)
    if slide.get("show") in {"0", "false"}:
        _count(left_out, "hidden slides")
        return ""
    targets = _related(archive, name)

    def part(key: str) -> ET.Element | None:
        target = targets.get(key, ("", ""))[0]
        return _xml(archive, target) if target in archive.namelist() else None

    _put_in_order(slide)
    parts = sorted(_parts(slide, left_out, part), key=lambda one: not one.startswith("## "))
    for target, type_ in targets.values():
        if type_.endswith("/notesSlide"):
            said = "\n\n".join(_parts(_xml(archive, target), {}, part, listed=False))
            parts += [f"Notes: {said}"] if said else []
        elif type_.endswith("/comments") and target in archive.namelist():
            _count(left_out, "comments", sum(one.tag.endswith("}cm") for one in _xml(archive, target)))
    return clean("\n\n".join(parts)).strip()


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


def _parts(slide: ET.Element, left_out: dict[str, int], part: _Related, *, listed: bool = True) -> Iterator[str]:
    """Yield what the shapes of a slide say; `part` finds what they refer to."""
    waiting = [slide]
    while waiting:
        shape = waiting.pop()
        about = shape.find("*/{*}cNvPr")
        if about is not None and about.get("hidden") in {"1", "true"}:
            _count(left_out, "hidden parts", any(text.text for text in shape.iter(f"{_A}t")))
        elif shape.tag == f"{_P}pic":
            words, adorns = _described(about)
            _count(left_out, "pictures without text", not words and not adorns)
            yield from filter(None, [words])
        elif shape.tag == f"{_P}graphicFrame" and (table := shape.find(f".//{_A}tbl")) is not None:
            yield _table(table)
        elif shape.tag == f"{_P}graphicFrame" and (said := _drawn(shape, part)):
            yield from filter(None, [_described(about)[0], said])
        elif shape.tag == f"{_P}graphicFrame" and (words := _described(about)[0]):
            yield words
        elif any(one.get("uri", "").endswith(_DRAWN) for one in shape.iterfind(f"{_A}graphic/{_A}graphicData")):
            _count(left_out, "pictures without text")
        elif shape.tag == f"{_P}sp" and (body := shape.find(f"{_P}txBody")) is not None:
            place = shape.find(f".//{_P}ph")
            role = "" if place is None else place.get("type", "body")
            lines = list(_lines(body, bulleted=listed and role in {"body", "obj"}))
            if role in _FURNITURE:
                _count(left_out, "running lines", bool(lines) and role in {"ftr", "hdr"})
            elif lines and role in {"title", "ctrTitle"}:
                yield "## " + " ".join(text for _, text in lines)
            else:
                yield from filter(None, [_joined(lines)])
        else:
            waiting += reversed(shape)


def _put_in_order(slide: ET.Element) -> None:
    """Put shapes that stand one below the other into that order; others stay in the order in which they were drawn."""
    tree = slide.find(f"{_P}cSld/{_P}spTree")
    shapes = [] if tree is None else list(tree)
    told: list[tuple[int, int, int]] = []
    for slot, shape in enumerate(shapes):
        place = shape.find(f".//{_P}ph")
        role = "" if place is None else place.get("type", "body")
        if role in {"title", "ctrTitle", *_FURNITURE} or not any(text.text for text in shape.iter(f"{_A}t")):
            continue
        box = next((one for one in shape.iter() if one.tag.endswith("}xfrm")), None)
        start, size = (None, None) if box is None else (box.find(f"{_A}off"), box.find(f"{_A}ext"))
        if start is None or size is None:  # it stands where the layout says
            return
        told.append((_number(start.get("y", "0")), _number(size.get("cy", "0")), slot))
    below = sorted(told)
    if tree is None or any(y + 0.75 * height > lower for (y, height, _), (lower, _, _) in pairwise(below)):
        return
    for (_, _, slot), (_, _, other) in zip(told, below, strict=True):
        tree[slot] = shapes[other]


def _described(about: ET.Element | None) -> tuple[str, bool]:
    """Return the words that describe a shape, and whether it only adorns."""
    if about is None:
        return "", False
    adorns = any(one.tag.endswith("}decorative") and one.get("val") in {"1", "true"} for one in about.iter())
    return described(about.get("descr") or about.get("title") or ""), adorns


def _drawn(frame: ET.Element, part: _Related) -> str:
    """Return what a chart or a diagram says."""
    for reference in frame.iter():
        data = part(reference.get(_DATA) or reference.get(_ID) or "")
        if data is not None and reference.tag.endswith("}chart"):
            return "\n".join(filter(None, _chart(data)))
        if data is not None and reference.tag.endswith("}relIds"):
            return "\n".join(_diagram(data))
    return ""


def _chart(chart: ET.Element) -> Iterator[str]:
    """Yield the titles of a chart, and a line for each of its series with its values as they are cached."""
    for title in (one for one in chart.iter() if one.tag.endswith("}title")):
        lines = [one for one in title.iter() if one.tag in {f"{_A}p", f"{_C}v"}]
        yield " ".join("".join(one.itertext()).strip() for one in lines).strip()
    for series in chart.iter(f"{_C}ser"):
        name = " ".join(one.text or "" for one in series.iterfind(f"{_C}tx//{_C}v"))
        labels, values = (_points(series, *tags) for tags in (("cat", "xVal"), ("val", "yVal")))
        points = values.items() if len(values) <= _MOST_POINTS else ()
        said = "; ".join(f"{labels.get(key, '')} {value}".strip() for key, value in points)
        yield f"{name}: {said}" if name and said else name or said


def _points(series: ET.Element, *tags: str) -> dict[str, str]:
    """Return by their number the points of a series, dates and percents as such."""
    found: dict[str, str] = {}
    for cache in (cache for tag in tags for one in series.iterfind(f"{_C}{tag}") for cache in one.iter()):
        if not cache.tag.endswith(("Cache", "Lit", "}lvl")) or cache.find(f"{_C}lvl") is not None:
            continue
        form = cache.findtext(f"{_C}formatCode") or ""
        for point in cache.iterfind(f"{_C}pt"):
            text = (point.findtext(f"{_C}v") or "").strip()
            with suppress(ValueError, OverflowError):
                if _DATE.search(form):
                    text = str(date(1899, 12, 30) + timedelta(int(float(text))))
                elif form:
                    text = f"{100 * float(text):.10g}%" if "%" in form else f"{float(text):.10g}"
            found.setdefault(point.get("idx", ""), text)
    return found


def _diagram(model: ET.Element) -> Iterator[str]:
    """Yield the items of a diagram in their order, each behind what it belongs to."""
    points = {one.get("modelId", ""): one for one in model.iter(f"{_D}pt")}
    below: dict[str, list[tuple[int, str]]] = {}
    for link in model.iter(f"{_D}cxn"):
        if link.get("type", "parOf") == "parOf":
            order = (_number(link.get("srcOrd", "0")), link.get("destId", ""))
            below.setdefault(link.get("srcId", ""), []).append(order)
    waiting = [*((key, 0) for key in reversed(points)), *((k, -1) for k in points if points[k].get("type") == "doc")]
    while waiting:
        key, level = waiting.pop()
        point = points.pop(key, None)
        lines = () if point is None else point.iter(f"{_A}p")
        if text := " ".join("".join(one.itertext()).strip() for one in lines).strip():
            yield "  " * max(0, min(8, level)) + f"- {text}"
        if point is not None:
            waiting += [(child, level + 1) for _, child in sorted(below.get(key, ()), reverse=True)]


def _joined(lines: list[tuple[str, str]]) -> str:
    """Join lines as paragraphs, items of lists without a line between them."""
    text, last = "", ""
    for mark, line in lines:
        text += ("\n" if mark and last else "\n\n") + mark + line
        last = mark
    return text.strip("\n")


def _lines(body: ET.Element, *, bulleted: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of a text, each with what begins it in a list: "  - ", "1. "."""
    numbers: dict[int, int] = {}
    for paragraph in body.iterfind(f"{_A}p"):
        text = ""
        for run in paragraph:
            if run.tag.endswith(("}m", "}oMath", "}oMathPara")):
                text += told(run)
                continue
            said = run.findtext(f"{_A}t") or ""
            properties = run.find(f"{_A}rPr")
            if properties is not None and _number(properties.get("baseline", "0")) > 0:
                said = raised(said, text)
            if properties is not None and said.strip() and properties.get("strike", "noStrike") != "noStrike":
                said = f"~~{said}~~"
            text += " " if run.tag == f"{_A}br" else said
        if text := " ".join(_ESCAPED.sub(" ", text.replace("~~~~", "")).split()):
            yield _mark(paragraph.find(f"{_A}pPr"), numbers, bulleted=bulleted), text


def _mark(properties: ET.Element | None, numbers: dict[int, int], *, bulleted: bool) -> str:
    """Return what begins a paragraph in a list, else ""; `numbers` has those that were given on each level."""
    if properties is None:
        numbers.clear()
        return "- " if bulleted else ""
    level = min(8, max(0, _number(properties.get("lvl", "0"))))
    counted = properties.find(f"{_A}buAutoNum")
    for deeper in [one for one in numbers if one > level or (one == level and counted is None)]:
        del numbers[deeper]
    if counted is not None:
        numbers[level] = numbers.get(level, _number(counted.get("startAt", "1")) - 1) + 1
        form = re.match("alphaLc|alphaUc|romanLc|romanUc|", counted.get("type", ""))
        return "  " * level + numeral(numbers[level], _FORMS.get(form[0] if form else "", "")) + ". "
    shown = properties.find(f"{_A}buChar") is not None or properties.find(f"{_A}buBlip") is not None
    return "  " * level + "- " if shown or (bulleted and properties.find(f"{_A}buNone") is None) else ""


def _number(said: str) -> int:
    found = re.match(r"-?\d{1,12}", said, re.ASCII)  # strict documents write 30% for 30000
    return int(found[0]) if found else 0


def _table(table: ET.Element) -> str:
    rows: list[list[str]] = []
    for row in table.iterfind(f"{_A}tr"):
        cells: list[str] = []
        for cell in row.iterfind(f"{_A}tc"):
            body = cell.find(f"{_A}txBody")
            lines = [] if body is None else [mark.lstrip() + line for mark, line in _lines(body)]
            text = " ".join(lines).replace("|", r"\|")
            if cell.get("hMerge") and cells:
                text = cells[-1]
            elif cell.get("vMerge") and rows and len(rows[-1]) > len(cells):
                text = rows[-1][len(cells)]
            cells.append(text)
        rows.append(cells)
    made = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*made[:1], "|" + " --- |" * len(rows[0] if rows else ()), *made[1:]])
