"""HTML pages, turned into Markdown."""

import re
import warnings
from pathlib import Path
from typing import Any

from raft.corpus.readers import Reading, Unreadable, clean, decode, require
from raft.corpus.readers.text import own_title, split_front_matter

_TEMPLATE = re.compile(r"\{%[^{}]{0,1000}?%\}|\{\{[^{}]{0,1000}?\}\}")
_DECLARED = re.compile(r"\s*<\?xml\b[^>]*>")
_ROW = re.compile(r"^\|.*", re.MULTILINE)
_EMPTY = re.compile(r"^(?:\|[ |]*\||#+)$\n?", re.MULTILINE)
_MAX_DEPTH = 1_000
"""Far more than the converter can follow; what looks for tables would take the square of it."""
_DROPPED = ["script", "style", "head", "nav", "footer", "template", "noscript", "iframe", "svg", "img", "picture"]


def read(path: Path, *, kind: str, drop_templates: bool, **_others: object) -> list[Reading]:
    """Read an HTML page as one document; navigation, footers, scripts and pictures are left out."""
    left_out: dict[str, int] = {}
    title, source = split_front_matter(_DECLARED.sub("", decode(path.read_bytes(), left_out)))
    found, text = to_markdown(_TEMPLATE.sub("", source) if drop_templates else source)
    return [Reading(title or found or own_title(text) or path.stem, text, kind, left_out=left_out)]


def to_markdown(source: str) -> tuple[str | None, str]:
    """Return the title of an HTML page (None when it has none) and its body as Markdown."""
    markdownify = require("markdownify", why="to read HTML and DOCX files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a page is XHTML, or looks like a file's name, is no news to the user
        page = require("bs4", why="to read HTML and DOCX files").BeautifulSoup(source, "html.parser")
    title = " ".join(page.title.get_text().split()) if page.title else None
    for element in page.find_all(_DROPPED):
        element.decompose()
    level: list[Any] = [page]
    for _ in range(_MAX_DEPTH):
        level = [child for element in level for child in getattr(element, "contents", ())]
    if level:
        raise Unreadable("The file is nested too deeply.")
    for table in page.find_all("table"):
        if len(table.find_all(["td", "th"])) == 1:  # a frame around a paragraph
            table.replace_with(*table.find(["td", "th"]).contents)
    for cell in page.find_all(["td", "th"]):
        for block in cell.find_all(["p", "br", "li", "div"]):
            block.insert_after(" ")
    converter = markdownify.MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
    )
    text = clean(converter.convert_soup(page)).replace("\N{NO-BREAK SPACE}", " ")
    text = _ROW.sub(lambda row: " ".join(row[0].split()), text)
    text = _EMPTY.sub("", re.sub(r"(?<![ \t])[ \t]+\n", "\n", text))
    return title or None, re.sub(r"\n{3,}", "\n\n", text).strip()
