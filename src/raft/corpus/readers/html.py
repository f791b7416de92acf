"""HTML pages, turned into Markdown."""

import copy
import re
import textwrap
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from raft.corpus.readers import Reading, Unreadable, clean, decode, require, styles
from raft.corpus.readers.formulas import lowered, numeral, raised, told
from raft.corpus.readers.text import own_title, split_front_matter, spread

_TEMPLATE = re.compile(r"\{%[^{}]{0,1000}?%\}|\{\{[^{}]{0,1000}?\}\}")
_DECLARED = re.compile(r"\s*<\?xml\b[^>]*>")
_CLOSES_ITSELF = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)([a-z][\w:-]*)(\s[^<>]{0,2000})?/>",
    re.I,
)
_PREFIXED = re.compile(r"(</?)(?:m|mml|mathml):(?=[a-z])")
_PRINTED = re.compile(r"(?:doc-)?pagebreak")
"""Where a page of the printed book begins."""
_LONGEST_NUMBER = 12
_NOTED = re.compile(r"(?:doc-)?noteref")
_KANA = re.compile(r"[\u3040-\u30ff\u3105-\u312f\u02c7\u02ca\u02cb\u02d9\s]+")
_ROW = re.compile(r"^\|.*", re.MULTILINE)
_EMPTY = re.compile(r"^(?:\|[ |]*|#+)$\n?", re.MULTILINE)
_MAX_DEPTH = 1_000
"""Far more than the converter can follow; what looks for tables would take the square of it."""
_MANY = 50
_DROPPED = [
    "style",
    "head",
    "template",
    "noscript",
    "iframe",
    "svg",
    "canvas",
    "select",
    "datalist",
    "textarea",
    "input",
]
_ROLES = {"navigation", "search", "menu", "menubar", "contentinfo", "dialog", "alertdialog"}
_ASKING = re.compile(
    r"(?:cookie|consent|gdpr|ccpa)[\w-]*(?:banner|bar|notice|popup|modal|dialog|overlay|message|wall|layer|prompt|box)"
    r"|^(?:cookies?|cookie-?consent|cookie-?law\S*)$|onetrust|cybot|didomi|usercentrics|^cc-(?:window|banner)$|skip-?(?:link|to|nav)",
    re.IGNORECASE,
)
_HEADINGS = [f"h{level}" for level in range(1, 7)]
_LAYING_OUT = {"table", "pre", *_HEADINGS}
_ONE_BODY: tuple[list[str], ...] = ([], ["tbody"], ["thead", "tbody"])
_LEADING = {"breadcrumb", "breadcrumbs", "sidebar", "navbar", "nav", "navigation", "menu", "toc", "pagination", "pager"}
_BLOCKS = ("p", "br", "li", "div")
_TELLING = ("p", "li", "td", "dt", "summary", *_HEADINGS)
"""A button in these is a word of the text."""
_WRITTEN = "raft-mark"
"""An element that was a mark and is text by now."""
_LINE_NUMBERS = {"linenos", "lineno", "gutter", "line-numbers"}
_KEPT = ("main", "article", "body", "html", "h1", "[document]")
_NO_WORDS = re.compile(
    r"[\w-]+\.(?:png|jpe?g|gif|svg|webp|bmp)|(?:image|img|picture|photo|logo|icon)\s?\d*", re.IGNORECASE
)
_GENERATED = re.compile(
    r"\s*(?:description automatically generated|ai-generated content may be incorrect)\W*", re.IGNORECASE
)
_BACK = re.compile(r"[¶#🔗↑↩↵^⏎\ufe0e\s]+")


def read(path: Path, *, kind: str, drop_templates: bool, **_others: object) -> list[Reading]:
    """Read an HTML page as one document: what a browser shows of it, without menus, banners, footers and pictures.

    Of a picture the words that describe it stay; hidden parts go, but for those that a button opens.
    """
    left_out: dict[str, int] = {}
    title, source = split_front_matter(decode(path.read_bytes(), left_out))
    found, text = to_markdown(_TEMPLATE.sub("", source) if drop_templates else source, left_out)
    return [Reading(title or found or own_title(text) or path.stem, text, kind, left_out=left_out)]


def to_markdown(source: str, left_out: dict[str, int]) -> tuple[str | None, str]:
    """Return the title of an HTML page (None when it has none) and its body as Markdown; count what is left out."""
    markdownify = require("markdownify", why="to read HTML and DOCX files")
    declared = _DECLARED.match(source)
    if declared or "//DTD XHTML" in source[:400]:
        source = _CLOSES_ITSELF.sub(r"<\1\2></\1>", source[declared.end() if declared else 0 :])
    source = _PREFIXED.sub(r"\1", source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a page is XHTML, or looks like a file's name, is no news to the user
        page = require("bs4", why="to read HTML and DOCX files").BeautifulSoup(source, "lxml")
    title = " ".join(page.title.get_text().split()) if page.title else None
    for frame in page.find_all("iframe", srcdoc=True, limit=_MANY):
        inner = require("bs4", why="to read HTML and DOCX files").BeautifulSoup(frame["srcdoc"], "lxml")
        frame.name = "div"
        del frame["srcdoc"]
        frame.extend([*inner.find_all("style"), *(inner.body.contents if inner.body else ())])
    level: list[Any] = [page]
    for _ in range(_MAX_DEPTH):
        level = [child for element in level for child in getattr(element, "contents", ())]
    if level:
        raise Unreadable("The file is nested too deeply.")
    _drop(page, left_out)
    _write_out(page, left_out)
    _write_marks(page)
    for table in page.find_all("table"):
        _lay_out(page, table)
    for cell in page.find_all(["td", "th"]):
        for part in [cell, *cell.find_all(True)]:
            if any(child.name in _BLOCKS or (not child.name and "|" in child) for child in part.contents):
                children = list(part.contents)
                part.clear()
                for child in children:
                    part.append(child if child.name or child.PREFIX or "|" not in child else child.replace("|", r"\|"))
                    if child.name in _BLOCKS:
                        part.append(" ")
    converter = markdownify.MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
    )
    numbers: dict[int, str] = {}
    for listed in page.find_all("ol"):
        form = _form(listed)
        numbers.update({id(entry): numeral(number, form) for entry, number in _numbered(listed)})
    bulleted = converter.convert_li

    def item(element: Any, text: str, parent_tags: set[str]) -> str:
        """Number an item of a list: the converter itself counts those before it, one by one."""
        if id(element) not in numbers or not text.strip():
            return str(bulleted(element, text, parent_tags))
        mark = f"{numbers[id(element)]}. "
        return f"{mark}{textwrap.indent(text.strip(), ' ' * len(mark))[len(mark) :]}\n"

    converter.convert_li = item
    text = clean(converter.convert_soup(page))
    text = _ROW.sub(lambda row: " ".join(row[0].split()), text)
    text = _EMPTY.sub("", re.sub(r"(?<![ \t])[ \t]+\n", "\n", text))
    return title or None, re.sub(r"\n{3,}", "\n\n", text).strip()


def _numbered(listed: Any) -> Iterator[tuple[Any, int]]:
    """Yield the items of an ordered list with the numbers that a browser shows."""
    items = [child for child in listed.contents if child.name == "li"]
    down = "reversed" in listed.attrs
    number = _whole(listed.get("start"), len(items) if down else 1)
    for item in items:
        number = _whole(item.get("value"), number)
        yield item, number
        number += -1 if down else 1


def _form(listed: Any) -> str:
    """Return how an ordered list counts: "lowerAlpha", "upperRoman" and so on."""
    styled = re.search(
        r"list-style(?:-type)?\s*:[^;]{0,100}?\b(lower|upper)-(alpha|latin|roman)", str(listed.get("style", ""))
    )
    if styled:
        return styled[1] + ("Roman" if styled[2] == "roman" else "Alpha")
    return {"a": "lowerAlpha", "A": "upperAlpha", "i": "lowerRoman", "I": "upperRoman"}.get(listed.get("type"), "")


def _whole(said: str | None, otherwise: int) -> int:
    return int(said) if said and re.fullmatch(r"[0-9]{1,7}", said) else otherwise


def _drop(page: Any, left_out: dict[str, int]) -> None:
    """Take out what a browser does not show, and what belongs to no document."""
    opened = {
        one for element in page.find_all(attrs={"aria-controls": True}) for one in element["aria-controls"].split()
    }
    opened |= _as_printed(page)
    rules = list(styles.rules(page))
    concealed = styles.concealed(page, rules)
    styles.mark_aligned(page, rules)
    waiting = [page]
    while waiting:
        parent, gone = waiting.pop(), []
        for element in [child for child in parent.contents if child.name]:
            why = "" if _is_no_text(element) else _part(element, opened, concealed)
            if why is None:
                waiting.append(element)
                continue
            if why == "" and element.name == "svg" and element.find("text"):
                why = "pictures without text"
            if why and element.get_text(strip=True):
                left_out[why] = left_out.get(why, 0) + 1
            gone.append(element)
        if len(gone) > _MANY:  # each alone would be looked for among all its neighbours
            out = set(map(id, gone))
            kept = [child for child in parent.contents if id(child) not in out]
            parent.clear()
            parent.extend(kept)
        for element in gone:
            element.decompose()


def _as_printed(page: Any) -> set[str]:
    """Part marks of notes, readings and numbers of printed pages from the text; return what the marks open."""
    opened = set()
    for kind in ("epub:type", "role"):
        for link in page.find_all("a", attrs={kind: _NOTED}):
            opened.add(str(link.get("href", "")).removeprefix("#"))
            if not link.find_parent("sup") and not link.find("sup"):
                link.name, link.attrs = "sup", {"class": [*link.get("class", ()), "noteref"]}
        for one in page.find_all(attrs={kind: _PRINTED}):
            if len(one.get_text(strip=True)) <= _LONGEST_NUMBER:
                one.clear()
    for ruby in page.find_all("ruby"):
        reading = "".join(one.get_text() for one in ruby.find_all("rt"))
        for one in ruby.find_all(["rt", "rp"]):
            if _KANA.fullmatch(reading):  # as Word's furigana
                one.clear()
            elif one.name == "rt" and not ruby.find("rp"):
                one.string = f" ({one.get_text(strip=True)})"
    return opened


def _part(element: Any, opened: set[str], concealed: dict[str, styles.Rank]) -> str | None:
    if _is_furniture(element):
        return "menus and banners"
    names = [f".{name}" for name in element.get("class", ())] + [f"#{element.get('id')}"] if element.attrs else []
    strongest = max((concealed[name] for name in names if name in concealed), default=None)
    return "hidden parts" if _is_hidden(element, opened, strongest is not None and strongest[-1]) else None


def _is_no_text(element: Any) -> bool:
    if element.name == "button":
        return element.parent is None or element.parent.name not in _TELLING
    if element.name == "script":
        return "math/tex" not in element.get("type", "")
    if element.name == "input" and str(element.get("type", "")).lower() in ("checkbox", "radio"):
        if element.parent is None or element.parent.name not in (*_TELLING, "label"):
            return True  # it opens a menu, or the like
        ticked = "checked" in element.attrs
        shown = ticked or "disabled" in element.attrs
        element.name, element.attrs, element.string = _WRITTEN, {}, "[x] " if ticked else "[ ] "
        return not shown
    return element.name in _DROPPED or not _LINE_NUMBERS.isdisjoint(element.get("class", ()))


def _is_furniture(element: Any) -> bool:
    attributes = element.attrs
    if element.name in ("nav", "footer") or (not attributes and element.name != "header"):
        return bool(element.name in ("nav", "footer"))
    role = str(attributes.get("role", "")).lower()
    if element.name == "header" or role == "banner":
        inside = element.find(_HEADINGS) or element.find_parent(["main", "article", "section"])
        return not inside and bool(element.find(["a", "button"]))
    if element.name in _KEPT or role in _ROLES:
        return role in _ROLES and element.name not in _KEPT and not element.find(["main", "article"])
    if not _LEADING.isdisjoint(map(str.lower, attributes.get("class", ()))):
        linked = sum(len(link.get_text()) for link in element.find_all("a"))
        return linked > 0.7 * len(element.get_text(strip=True)) > 0
    asks = any(map(_ASKING.search, [*attributes.get("class", ()), attributes.get("id", "")]))
    return asks and not (element.find(["h1", "main"]) or element.find_parent(["main", "article"]))


def _is_hidden(element: Any, opened: set[str], concealed: bool) -> bool:
    attributes = element.attrs
    if not attributes and element.name != "dialog":
        return False
    hidden = (
        concealed
        or attributes.get("hidden", "until-found") != "until-found"
        or str(attributes.get("aria-hidden", "")).lower() == "true"
        or (element.name == "dialog" and "open" not in attributes)
        or bool(styles.HIDING.search(str(attributes.get("style", ""))))
    )
    revealed = attributes.get("role") == "tabpanel" or attributes.get("id") in opened or element.name in _KEPT
    return hidden and not revealed and not element.find(["main", "h1"])


def _write_out(page: Any, left_out: dict[str, int]) -> None:
    """Put words in the place of pictures and equations."""
    for picture in page.find_all("img"):
        words = described(str(picture.get("alt") or ""))
        if not words and picture.get("alt") != "":  # which says that it only adorns
            left_out["pictures without text"] = left_out.get("pictures without text", 0) + 1
        _say(picture, words)
    for formula in page.find_all(["math", "script"]):
        if formula.name == "script":
            formula.replace_with(f"${formula.get_text().strip()}$")
        elif not formula.decomposed:
            _say(formula, told(require("lxml.html", why="to read HTML files").fragment_fromstring(str(formula))))


def _say(element: Any, words: str) -> None:
    """Let an element be its words; to replace it would look for its place among all its neighbours."""
    element.name, element.attrs, element.string = _WRITTEN, {}, words


def described(words: str) -> str:
    """Return the words that describe a picture, "" where a program wrote them or they only name its file."""
    words = _GENERATED.sub("", " ".join(words.split()))
    return "" if _NO_WORDS.fullmatch(words) else words


def _write_marks(page: Any) -> None:
    """Put text in the place of exponents and marks of notes; leave out links that lead back, or nowhere."""
    for mark in page.find_all(["sup", "sub"]):
        if mark.decomposed:
            continue
        while mark.previous_sibling is None and mark.parent is not None and mark.parent.name in styles.INLINE:
            mark.parent.insert_before(mark.extract())  # what stands before it is before its parent
        while (beside := mark.next_sibling) is not None and beside.name == mark.name:
            mark.extend(list(beside.contents))
            beside.decompose()
        before, after = (_words(one) for one in (mark.previous_sibling, mark.next_sibling))
        if mark.name == "sub":
            text = lowered(mark.get_text(), before, after)
        else:
            named = " ".join(
                [*mark.get("class", ()), *(name for link in mark.find_all("a") for name in link.get("class", ()))]
            )
            note = mark.find("a", href=re.compile("#")) or re.search("(?i)foot-?note|reference|noteref", named)
            text = raised(mark.get_text(), before, note=bool(note))
        _say(mark, text)
    for parent in {id(mark.parent): mark.parent for mark in page.find_all(_WRITTEN)}.values():
        children = list(parent.contents)
        parent.clear()  # to replace them one by one would take the square of their number
        for is_text, run in groupby(children, lambda one: one.name == _WRITTEN if one.name else not one.PREFIX):
            parent.extend(run if not is_text else ["".join(map(_words, run))])  # noqa: B031  one of them
    for link in page.find_all("a", href=re.compile("^#")):
        if _BACK.fullmatch(link.get_text()):
            link.decompose()
    for link in page.find_all("a", href=re.compile(r"^\s*(?:data|javascript):", re.IGNORECASE)):
        del link["href"]
    page.smooth()


def _words(node: Any) -> str:
    return "" if node is None else str(node.get_text() if node.name else node)


def _lay_out(page: Any, table: Any) -> None:
    """Make a grid of a table whose cells span rows or columns, or a part of the page of one that only frames it."""
    if table.decomposed or table.parent is None:
        return
    inside = table.find_all(True)
    names, cells = {one.name for one in inside}, [one for one in inside if one.name in ("td", "th")]
    framing = len(cells) == 1 or table.get("role") in ("presentation", "none")
    named = any(cell.name == "th" and cell.find_parent("table") is table for cell in cells)
    if framing or (not named and not names.isdisjoint(_LAYING_OUT)):
        for part in [*table.find_all(["thead", "tbody", "tfoot", "tr", "td", "th"]), table]:
            if part is table or part.find_parent("table") is table:
                part.name, part.attrs = "div", {}
        return
    for inner in table.find_all("table") if "table" in names else ():
        if not inner.decomposed:
            lines = [" ".join(row.get_text(" ").split()) for row in inner.find_all("tr")]
            inner.replace_with(" " + "; ".join(filter(None, lines)) + " ")
    if "caption" in names and (caption := table.find("caption")):
        caption.name = "p"
        table.insert_before(caption.extract())
    shown = sorted((one for one in inside if one.name == "tr" and one.find_parent("table") is table), key=_is_below)
    rows = [[cell for cell in one.contents if cell.name in ("td", "th")] for one in shown]
    rows = [row for row in rows if row]
    heads = sum(1 for row in rows if row[0].find_parent("thead"))
    if not heads:
        heads = next((number for number, row in enumerate(rows) if any(cell.name != "th" for cell in row)), 0)
    if heads < 2 and not any(
        cell.get(span, "1") != "1" for row in rows for cell in row for span in ("rowspan", "colspan")
    ):
        _join_bodies(table, shown)
        return
    grid = spread([[(cell, cell.get("rowspan", ""), cell.get("colspan", "")) for cell in row] for row in rows])
    width = len(grid[0]) if grid else 0
    made = page.new_tag("table")
    while heads > 0 and len(grid) > 1 and len(rows[0]) == 1 and width > 1:  # a title above the columns
        heading = page.new_tag("p")
        heading.string = rows[0][0].get_text(" ", strip=True)
        table.insert_before(heading)
        rows, grid, heads = rows[1:], grid[1:], heads - 1
    if heads > 1:
        told_twice = [
            [cell.get_text(" ", strip=True) if cell else "" for cell in column]
            for column in zip(*grid[:heads], strict=True)
        ]
        made.append(_row(page, "th", [" ".join(filter(None, dict.fromkeys(name))) for name in told_twice]))
    for row in grid[heads if heads > 1 else 0 :]:
        alike = len({id(cell) for cell in row}) == 1 and width > 1
        made.append(_row(page, "th" if len(made) == 0 else "td", [row[0], *[None] * (width - 1)] if alike else row))
    table.replace_with(made)


def _join_bodies(table: Any, lines: list[Any]) -> None:
    """Put a table's rows into one body, where they are not: the converter would head each of several."""
    parts = [one for one in table.contents if one.name]
    if [one.name for one in parts] not in _ONE_BODY or not all(one.find("tr") for one in parts):
        table.clear()
        table.extend(lines)


def _is_below(row: Any) -> bool:
    """Tell whether a row is shown below all others, wherever it is written."""
    return bool(row.parent.name == "tfoot")


def _row(page: Any, kind: str, cells: list[Any]) -> Any:
    row = page.new_tag("tr")
    for cell in cells:
        made = page.new_tag(kind)
        if isinstance(cell, str):
            made.string = cell
        elif cell is not None:
            made.extend([copy.copy(child) for child in cell.contents])
        row.append(made)
    return row
