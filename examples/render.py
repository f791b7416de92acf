"""Render the PDF and DOCX documents of the example handbook.

The two formats are written from plain sources in ``sources/``, a small subset
of Markdown: headings, paragraphs, numbered and bulleted lists, and tables.
The files come out byte for byte the same on every run: dates are fixed, and
nothing is compressed, so that the bytes do not depend on the zlib in use.

    python examples/render.py           # write the documents
    python examples/render.py --check   # only compare, exit 1 if one differs
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import docx
from docx.document import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Cm, Pt
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Spacer,
)
from reportlab.platypus import Paragraph as PdfParagraph
from reportlab.platypus import Table as PdfTable

HERE = Path(__file__).resolve().parent
COMPANY = "Larkmere Ventilation"
NAVIGATION = "Larkmere Handbook · Policies · Products · Support · People"
FOOTER = "Confidential - internal use only. Questions? Write to handbook@example.com."
DATE = dt.datetime(2025, 4, 1, 9, 0, 0)
OUTPUTS = {
    "quillon-2-manual.md": "products/quillon-2-manual.pdf",
    "quillon-3-manual.md": "products/quillon-3-manual.pdf",
    "leave.md": "people/leave.docx",
    "onboarding.md": "people/onboarding.docx",
}


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the document."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of running text."""

    text: str


@dataclass(frozen=True)
class Items:
    """A numbered or a bulleted list."""

    numbered: bool
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first row is its heading."""

    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Items | Table


def parse(source: str) -> Iterator[Block]:
    """Yield the blocks of a source text; blank lines separate blocks."""
    for chunk in re.split(r"\n\s*\n", source.strip()):
        lines = chunk.splitlines()
        first = lines[0]
        if match := re.match(r"(#+) (.+)", first):
            yield Heading(len(match[1]), match[2].strip())
        elif first.startswith("|"):
            rows = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in lines]
            yield Table((rows[0], *rows[2:]))
        elif first.startswith("- "):
            yield Items(False, tuple(line.removeprefix("- ") for line in lines))
        elif re.match(r"\d+\. ", first):
            yield Items(True, tuple(re.sub(r"^\d+\. ", "", line) for line in lines))
        else:
            yield Paragraph(" ".join(lines))


def title_of(blocks: Sequence[Block]) -> str:
    """Return the text of the level 1 heading."""
    return next(b.text for b in blocks if isinstance(b, Heading) and b.level == 1)


# PDF

INK = colors.HexColor("#1f3a4d")
BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=10, leading=14, spaceAfter=6)
CELL = ParagraphStyle("cell", parent=BODY, fontSize=9.5, leading=12, spaceAfter=0)
CELL_HEAD = ParagraphStyle("cell-head", parent=CELL, fontName="Helvetica-Bold")
HEADINGS = {
    level: ParagraphStyle(
        f"heading-{level}",
        fontName="Helvetica-Bold",
        fontSize=size,
        leading=size * 1.25,
        spaceBefore=before,
        spaceAfter=after,
        textColor=INK,
        keepWithNext=True,
    )
    for level, size, before, after in [(1, 20, 0, 10), (2, 14, 12, 5), (3, 11, 8, 3)]
}


def pdf_item(mark: str, text: str) -> PdfParagraph:
    """Return a list item whose mark is part of the line, so that it is extracted in place."""
    width = stringWidth(mark + " ", BODY.fontName, BODY.fontSize)
    style = ParagraphStyle("item", parent=BODY, leftIndent=6 * mm + width, firstLineIndent=-width, spaceAfter=3)
    return PdfParagraph(escape(f"{mark} {text}"), style)


def pdf_table(table: Table, width: float) -> PdfTable:
    """Return a ruled table which fills three quarters of the text width."""
    columns = len(table.rows[0])
    cells = [
        [PdfParagraph(escape(cell), CELL if number else CELL_HEAD) for cell in row]
        for number, row in enumerate(table.rows)
    ]
    flowable = PdfTable(
        cells,
        colWidths=[0.75 * width / columns] * columns,
        repeatRows=1,
        hAlign="LEFT",
        spaceBefore=2,
        spaceAfter=8,
    )
    flowable.setStyle(
        [
            ("GRID", (0, 0), (-1, -1), 0.5, colors.HexColor("#9aa7b0")),
            ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#e6edf1")),
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
        ]
    )
    return flowable


def pdf_flowables(blocks: Sequence[Block], width: float) -> Iterator[Flowable]:
    """Yield the page contents of a PDF document."""
    for block in blocks:
        match block:
            case Heading(level, text):
                yield PdfParagraph(escape(text), HEADINGS[level])
            case Paragraph(text):
                yield PdfParagraph(escape(text), BODY)
            case Items(numbered, texts):
                marks = [f"{n}." if numbered else "•" for n in range(1, len(texts) + 1)]
                items = [pdf_item(mark, text) for mark, text in zip(marks, texts, strict=True)]
                yield from items[:-2]
                yield KeepTogether([*items[-2:], Spacer(0, 3)])
            case Table():
                yield pdf_table(block, width)


def draw_header(canvas: Canvas, template: BaseDocTemplate) -> None:
    """Draw the navigation line at the head of a page."""
    canvas.saveState()
    canvas.setFont("Helvetica", 8)
    canvas.setFillColor(INK)
    canvas.drawString(template.leftMargin, A4[1] - 14 * mm, NAVIGATION)
    canvas.restoreState()


def draw_footer(canvas: Canvas, template: BaseDocTemplate) -> None:
    """Draw the notice and the page number at the foot of a page."""
    canvas.saveState()
    canvas.setFont("Helvetica", 8)
    canvas.setFillColor(INK)
    canvas.drawString(template.leftMargin, 12 * mm, FOOTER)
    canvas.drawRightString(A4[0] - template.rightMargin, 12 * mm, f"Page {template.page}")
    canvas.restoreState()


def render_pdf(blocks: Sequence[Block]) -> bytes:
    """Return a PDF document as bytes."""
    buffer = io.BytesIO()
    template = BaseDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=24 * mm,
        rightMargin=24 * mm,
        topMargin=24 * mm,
        bottomMargin=22 * mm,
        title=title_of(blocks),
        author=COMPANY,
        lang="en",
        invariant=1,
        pageCompression=0,
    )
    frame = Frame(
        template.leftMargin,
        template.bottomMargin,
        template.width,
        template.height,
        leftPadding=0,
        rightPadding=0,
    )
    page = PageTemplate("page", [frame], onPage=draw_header, onPageEnd=draw_footer)
    template.addPageTemplates([page])
    template.build(list(pdf_flowables(blocks, template.width)))
    return buffer.getvalue()


# DOCX


def slim(document: Document) -> None:
    """Drop what the default template brings along and the documents do not use."""
    for relations in (document.part.rels, document.part.package.rels):
        for key, relation in list(relations.items()):
            if relation.reltype.endswith(("/stylesWithEffects", "/thumbnail")):
                del relations[key]
    for style in list(document.styles):
        if style.type == WD_STYLE_TYPE.TABLE and style.name not in ("Normal Table", "Table Grid"):
            style.delete()


def new_numbering(document: Document) -> int:
    """Add a numbering which starts at 1 and return its number."""
    numbering = document.part.numbering_part.element
    style = document.styles["List Number"].element
    base = numbering.num_having_numId(style.pPr.numPr.numId.val)
    num = numbering.add_num(base.abstractNumId.val)
    num.add_lvlOverride(ilvl=0).add_startOverride(1)
    return int(num.numId)


def add_items(document: Document, items: Items) -> None:
    """Append a list; every numbered list starts at 1."""
    number = new_numbering(document) if items.numbered else None
    for text in items.texts:
        paragraph = document.add_paragraph(text, style="List Number" if items.numbered else "List Bullet")
        if number is not None:
            properties = paragraph._p.get_or_add_pPr().get_or_add_numPr()
            properties.get_or_add_ilvl().val = 0
            properties.get_or_add_numId().val = number


def add_table(document: Document, table: Table) -> None:
    """Append a ruled table with a bold heading row which is repeated on every page."""
    grid = document.add_table(rows=len(table.rows), cols=len(table.rows[0]), style="Table Grid")
    for number, row in enumerate(table.rows):
        for cell, text in zip(grid.rows[number].cells, row, strict=True):
            run = cell.paragraphs[0].add_run(text)
            run.bold = number == 0
            cell.paragraphs[0].paragraph_format.space_after = Pt(2)
    heading = OxmlElement("w:tblHeader")
    heading.set(qn("w:val"), "true")
    grid.rows[0]._tr.get_or_add_trPr().append(heading)
    document.add_paragraph()


def with_fixed_dates(package: bytes) -> bytes:
    """Return a ZIP archive with the same members, uncompressed and dated ``DATE``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            member = zipfile.ZipInfo(name, date_time=DATE.timetuple()[:6])
            member.create_system = 3
            member.external_attr = 0o644 << 16
            new.writestr(member, old.read(name), compress_type=zipfile.ZIP_STORED)
    return buffer.getvalue()


def render_docx(blocks: Sequence[Block]) -> bytes:
    """Return a DOCX document as bytes."""
    document = docx.Document()
    slim(document)
    properties = document.core_properties
    properties.title = title_of(blocks)
    properties.author = properties.last_modified_by = COMPANY
    properties.comments = ""
    properties.language = "en"
    properties.revision = 1
    properties.created = properties.modified = DATE
    section = document.sections[0]
    section.page_width, section.page_height = Cm(21), Cm(29.7)
    section.left_margin = section.right_margin = Cm(2.4)
    section.header.paragraphs[0].text = NAVIGATION
    section.footer.paragraphs[0].text = FOOTER
    section.footer.paragraphs[0].alignment = WD_ALIGN_PARAGRAPH.CENTER
    for block in blocks:
        match block:
            case Heading(level, text):
                document.add_heading(text, level=level)
            case Paragraph(text):
                document.add_paragraph(text)
            case Items():
                add_items(document, block)
            case Table():
                add_table(document, block)
    buffer = io.BytesIO()
    document.save(buffer)
    return with_fixed_dates(buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents, or compare them with ``--check``; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sources", type=Path, default=HERE / "sources", help="folder to read")
    parser.add_argument("--output", type=Path, default=HERE / "handbook", help="folder to write")
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    options = parser.parse_args(arguments)
    status = 0
    for source, name in OUTPUTS.items():
        blocks = list(parse((options.sources / source).read_text(encoding="utf-8")))
        data = render_pdf(blocks) if name.endswith(".pdf") else render_docx(blocks)
        target = options.output / name
        if options.check:
            same = target.is_file() and target.read_bytes() == data
            print(f"{'same' if same else 'differs'}: {target}")
            status |= not same
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            print(f"wrote {target}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
