"""Word documents (DOCX)."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from posixpath import join, normpath
from typing import Any

from raft.corpus.readers import Reading, office, require
from raft.corpus.readers.formulas import numeral, told
from raft.corpus.readers.html import described, to_markdown
from raft.corpus.readers.text import own_title

_STYLES = "p[style-name='Title'] => h1:fresh"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_PART = re.compile(r"word/(?:document\d*|footnotes|endnotes)\.xml")
_RUNNING = re.compile(r"word/(?:header|footer)\d*\.xml")
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_ALTERNATES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_WRAPPED = [f"{_W}{name}" for name in ("fldSimple", "bdo", "dir", "rubyBase", "ruby")]
"""What holds text that mammoth does not look for."""
_BOX = re.compile(r'<input(?=[^>]*type="checkbox")( checked="checked")?[^>]*>')
_SYMBOL = re.compile("[\uf020-\uf0ff]")
_TELLING = re.compile(r"/(?:chart(?:ex)?|diagram)$")
"""What a drawing is that says something; a line or a shape does not."""
_LEAST_RAISED = 4  # half points; less only sets a line straight
_LABEL = "\ue000"
"""Stands before the number of a paragraph, and the digit of its level."""
_LABELLED = re.compile(rf"(?:^|\n\n){_LABEL}(\d)")


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a Word document as one document, with its headings, lists, tables and equations.

    The numbers of headings and clauses are those that Word shows; hidden text, running lines, lines of a table of
    contents and pictures are left out, but for the words that describe them.
    """
    mammoth = require("mammoth", why="to read DOCX files")
    left_out: dict[str, int] = {}

    def no_picture(_image: Any) -> dict[str, str]:
        return {}

    result = mammoth.convert_to_html(
        _prepared(office(path), left_out), style_map=_STYLES, convert_image=mammoth.images.img_element(no_picture)
    )
    _, text = to_markdown(_BOX.sub(lambda box: "[x]" if box[1] else "[ ]", result.value), left_out)
    text = _in_place(text)
    return [Reading(own_title(text) or path.stem, text, kind, left_out=left_out)]


def _in_place(text: str) -> str:
    """Return the text with numbered paragraphs that follow each other as lines of one list."""
    parts, done, first = text.split("\n\n"), [], -1
    for number, part in enumerate(parts):
        level = int(part[1]) if part.startswith(_LABEL) else -1
        listed = level >= 0 and first >= 0
        first = first if listed else level
        done.append(("\n" if listed else "\n\n" if number else "") + "   " * max(0, level - first) + part)
    return re.sub(rf"{_LABEL}\d", "", "".join(done))


def _prepared(path: Path | io.BytesIO, left_out: dict[str, int]) -> io.BytesIO:
    """Return the document with what mammoth does not read as text: equations and the numbers of paragraphs."""
    etree = require("lxml.etree", why="to read DOCX files")
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as copy:
        names = set(archive.namelist())
        trees = [
            etree.fromstring(archive.read(name), parser) if name in names else None
            for name in ("word/numbering.xml", "word/styles.xml")
        ]
        numbers = _Numbers(*trees)
        for name in archive.namelist():
            data = b"" if name.startswith("word/media/") else archive.read(name)
            if _RUNNING.fullmatch(name) and "".join(etree.fromstring(data, parser).itertext()).strip():
                left_out["running lines"] = left_out.get("running lines", 0) + 1
            if name == "word/comments.xml":
                said = [one for one in etree.fromstring(data, parser) if "".join(one.itertext()).strip()]
                left_out.update({"comments": len(said)} if said else {})
            if _PART.fullmatch(name):
                root = etree.fromstring(data, parser)
                _write_out(root, _Related(archive, name, parser), left_out)
                _prepare(root, numbers, left_out)
                data = etree.tostring(root)
            copy.writestr(name, data)
    made.seek(0)
    return made


class _Related:
    """The words of the parts that a part of the document refers to, such as its charts."""

    def __init__(self, archive: zipfile.ZipFile, name: str, parser: Any) -> None:
        folder, _, file = name.rpartition("/")
        self._archive, self._parser, self._folder = archive, parser, folder
        relations = f"{folder}/_rels/{file}.rels"
        found = self._parsed(relations) if relations in archive.namelist() else ()
        self._targets = {one.get("Id"): one.get("Target", "") for one in found}

    def words(self, key: str) -> list[str]:
        """Return the texts of the part with this id, one a paragraph; none where there is no such part."""
        name = normpath(join("/" + self._folder, self._targets.get(key, "")))[1:]
        if not name.endswith(".xml") or name not in self._archive.namelist():
            return []
        said = ("".join(one.itertext(f"{_A}t")).strip() for one in self._parsed(name).iter(f"{_A}p"))
        return list(filter(None, said))

    def _parsed(self, name: str) -> Any:
        etree = require("lxml.etree", why="to read DOCX files")
        return etree.fromstring(self._archive.read(name), self._parser)


def _write_out(root: Any, related: _Related, left_out: dict[str, int]) -> None:
    """Put what mammoth passes over into forms that it reads: fields, ruby, text boxes, charts, symbols, raised text."""
    for base in list(root.iter(f"{_W}rt")):
        base.getparent().remove(base)
    for wrapped in list(root.iter(_WRAPPED)):
        for child in list(wrapped):
            wrapped.addprevious(child)
        wrapped.getparent().remove(wrapped)
    for tag, other in (("cr", "br"), ("ptab", "tab")):
        for one in list(root.iter(f"{_W}{tag}")):
            one.tag = f"{_W}{other}"
            one.attrib.clear()
    for chosen in list(root.iter(f"{_W}ddList")):
        entries = [one.get(f"{_W}val", "") for one in chosen.iterfind(f"{_W}listEntry")]
        run = next(chosen.iterancestors(f"{_W}r"), None)
        if run is not None and (picked := entries[_whole(_value(chosen, "result")) :][:1]):
            words = run.makeelement(f"{_W}r")
            _add_text(words, picked[0])
            run.addprevious(words)
    for drawing in list(root.iter(f"{_W}drawing")):
        if next(drawing.iter(f"{_W}txbxContent", f"{_A}blip"), None) is None:
            _describe(drawing, related, left_out)
    for box in list(root.iter(f"{_W}txbxContent")):
        _take_out(box)
    _set_apart(root)
    if embedded := len(list(root.iter(f"{_W}altChunk"))):
        left_out["embedded documents"] = left_out.get("embedded documents", 0) + embedded


def _set_apart(root: Any) -> None:
    """Mark text as raised or lowered that only its position shows so, and put letters where symbols of a font stand."""
    for moved in list(root.iter(f"{_W}position")):
        run, up = moved.getparent().getparent(), moved.get(f"{_W}val", "")
        paragraph = next(run.iterancestors(f"{_W}p"), run)
        if paragraph.find(f"{_W}pPr/{_W}framePr") is not None:  # a letter as high as lines of the next paragraph
            continue
        if re.fullmatch(r"-?\d{1,4}", up) and abs(int(up)) >= _LEAST_RAISED and len("".join(run.itertext())) <= 6:
            raised = {f"{_W}val": "subscript" if up.startswith("-") else "superscript"}
            moved.getparent().append(moved.makeelement(f"{_W}vertAlign", raised))
    dingbats = require("mammoth.docx.dingbats", why="to read DOCX files").dingbats
    for text in root.iter(f"{_W}t"):
        if text.text and _SYMBOL.search(text.text):
            fonts = text.getparent().find(f"{_W}rPr/{_W}rFonts")
            font = "Symbol" if fonts is None else fonts.get(f"{_W}ascii") or fonts.get(f"{_W}hAnsi") or "Symbol"
            known = {sign: dingbats.get((font, ord(sign) - 0xF000)) for sign in _SYMBOL.findall(text.text)}
            text.text = text.text.translate({ord(sign): code for sign, code in known.items() if code})


def _describe(drawing: Any, related: _Related, left_out: dict[str, int]) -> None:
    """Put words in the place of a chart or a diagram: those that describe it, else those that stand in it."""
    about = (one.get("descr", "") for one in drawing.iter() if isinstance(one.tag, str) and one.tag.endswith("}docPr"))
    words = described(next(about, ""))
    if not words:
        keys = [value for one in drawing.iter() for name, value in one.attrib.items() if name in (f"{_R}dm", f"{_R}id")]
        words = "; ".join(said for key in keys for said in related.words(key))
    if words:
        _add_text(drawing.getparent(), words)
    elif any(_TELLING.search(one.get("uri", "")) for one in drawing.iter(f"{_A}graphicData")):
        left_out["pictures without text"] = left_out.get("pictures without text", 0) + 1


def _take_out(box: Any) -> None:
    """Put the paragraphs of a text box behind the one that holds it, where mammoth would not find them."""
    shapes = next(box.iterancestors(f"{_ALTERNATES}AlternateContent"), None)
    later = None if shapes is None else shapes.find(f"{_ALTERNATES}Fallback")
    found = later is not None and next(later.iter(f"{_W}txbxContent"), None) is not None
    host = next(box.iterancestors(f"{_W}p"), None)
    if found or host is None or next(box.iterancestors(f"{_W}pict"), None) is not None:
        return
    for block in reversed(list(box)):
        host.addnext(block)


def _prepare(root: Any, numbers: "_Numbers", left_out: dict[str, int]) -> None:
    for equation in list(root.iter(f"{_M}oMath")):
        run = equation.makeelement(f"{_W}r")
        _add_text(run, told(equation))
        run.tail = None
        equation.getparent().replace(equation, run)
    for block in list(root.iter(f"{_M}oMathPara")):  # mammoth looks into no part that it does not know
        for run in list(block):
            block.addprevious(run)
        block.getparent().remove(block)
    for hidden in list(root.iter(f"{_W}vanish")):
        run = hidden.getparent().getparent()
        if hidden.get(f"{_W}val") not in {"0", "false", "off"} and run.tag == f"{_W}r" and run.getparent() is not None:
            run.getparent().remove(run)
            left_out["hidden parts"] = left_out.get("hidden parts", 0) + 1
    for paragraph in list(root.iter(f"{_W}p")):
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        name = "" if style is None else style.get(f"{_W}val", "")
        if re.match(r"(?i)toc\s?\d|(?:inhalts)?verzeichnis\d", name):
            paragraph.getparent().remove(paragraph)
            left_out["lines of contents"] = left_out.get("lines of contents", 0) + 1
        elif label := numbers.of(paragraph, name):
            _number(paragraph, label)


def _number(paragraph: Any, label: str) -> None:
    properties = paragraph.find(f"{_W}pPr")
    if properties is None:
        properties = paragraph.makeelement(f"{_W}pPr")
        paragraph.insert(0, properties)
    for old in properties.findall(f"{_W}numPr"):
        properties.remove(old)
    none = paragraph.makeelement(f"{_W}numPr")
    for tag in ("ilvl", "numId"):  # of the style, too
        none.append(paragraph.makeelement(f"{_W}{tag}", {f"{_W}val": "0"}))
    properties.append(none)
    run = paragraph.makeelement(f"{_W}r")
    _add_text(run, label + " ")
    paragraph.insert(paragraph.index(properties) + 1, run)


def _add_text(run: Any, text: str) -> None:
    words = run.makeelement(f"{_W}t", {"{http://www.w3.org/XML/1998/namespace}space": "preserve"})
    words.text = text
    run.append(words)


class _Numbers:
    """Counts numbered paragraphs as Word does: levels of one list share counters, a higher level begins them anew."""

    def __init__(self, numbering: Any, styles: Any) -> None:
        self._levels: dict[str, dict[int, tuple[int, str, str]]] = {}
        self._lists: dict[str, tuple[str, dict[int, int]]] = {}
        self._by_style: dict[str, tuple[str, int]] = {}
        self._based: dict[str, str] = {}
        self._counts: dict[str, dict[int, int]] = {}
        self._begun: set[str] = set()
        style_levels: dict[tuple[str, str], int] = {}
        links: dict[str, str] = {}
        for abstract in () if numbering is None else numbering.iterfind(f"{_W}abstractNum"):
            name = abstract.get(f"{_W}abstractNumId")
            self._levels[name] = {}
            if link := _value(abstract, "numStyleLink"):
                links[name] = link
            for level in abstract.iterfind(f"{_W}lvl"):
                depth = _whole(level.get(f"{_W}ilvl", ""))
                said = {one: _value(level, one) for one in ("start", "numFmt", "lvlText", "pStyle", "isLgl")}
                form = "legal" if level.find(f"{_W}isLgl") is not None else said["numFmt"]
                self._levels[name][depth] = (_whole(said["start"], 1), form, said["lvlText"])
                style_levels[name, said["pStyle"]] = depth
        for one in () if numbering is None else numbering.iterfind(f"{_W}num"):
            starts = {
                _whole(level.get(f"{_W}ilvl", "")): _whole(_value(level, "startOverride"), 1)
                for level in one.iterfind(f"{_W}lvlOverride")
                if level.find(f"{_W}startOverride") is not None
            }
            self._lists[one.get(f"{_W}numId")] = (_value(one, "abstractNumId"), starts)
        for style in () if styles is None else styles.iterfind(f"{_W}style"):
            name = style.get(f"{_W}styleId", "")
            self._based[name] = _value(style, "basedOn")
            own = style.find(f"{_W}pPr/{_W}numPr")
            if own is not None and (number := _value(own, "numId")):
                depth = style_levels.get((self._lists.get(number, ("",))[0], name), _whole(_value(own, "ilvl")))
                self._by_style[name] = (number, depth)
        for name, link in links.items():  # a list that is defined where a style is
            shared = self._lists.get(self._by_style.get(link, ("",))[0], ("",))[0]
            self._levels[name] = self._levels.get(shared, {})

    def of(self, paragraph: Any, style: str) -> str:
        """Return the next number for a paragraph behind the mark of its level; "" if it has none, or a bullet."""
        own = paragraph.find(f"{_W}pPr/{_W}numPr")
        number, depth = next((self._by_style[name] for name in self._styles(style) if name in self._by_style), ("", 0))
        if own is not None:
            number, depth = _value(own, "numId") or number, _whole(_value(own, "ilvl"), depth)
        name, starts = self._lists.get(number, ("", {}))
        levels = self._levels.get(name, {})
        if depth not in levels or levels[depth][1] in {"bullet", "none"}:
            return ""
        counts = self._counts.setdefault(name, {})
        if number not in self._begun:
            self._begun.add(number)
            for level, start in starts.items():
                counts[level] = start - 1
        counts[depth] = counts.get(depth, levels[depth][0] - 1) + 1
        for level in [level for level in counts if level > depth]:
            del counts[level]

        def count(found: re.Match[str]) -> str:
            level = int(found[1]) - 1
            start, form, _ = levels.get(level, (1, "decimal", ""))
            return numeral(counts.setdefault(level, start), "decimal" if levels[depth][1] == "legal" else form)

        label = re.sub(r"%(\d)", count, levels[depth][2]).strip()
        return f"{_LABEL}{min(depth, 9)}{label}" if label else ""

    def _styles(self, style: str) -> Iterator[str]:
        seen: set[str] = set()
        while style and style not in seen:
            seen.add(style)
            yield style
            style = self._based.get(style, "")


def _value(parent: Any, tag: str) -> str:
    child = parent.find(f"{_W}{tag}")
    return "" if child is None else child.get(f"{_W}val", "")


def _whole(text: str, default: int = 0) -> int:
    return int(text) if text.isdecimal() else default
