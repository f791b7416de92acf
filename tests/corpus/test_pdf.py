"""Promises of the reader of PDF files: what stands on the page is in the text, once, and where it belongs."""

import io

import pypdfium2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from raft.corpus.readers import Unreadable, read

HEIGHT = 842
PROSE = [
    "The Alder valve is closed by hand before the",
    "winter begins, since water that stays within",
    "it freezes and breaks the body. It opens with",
    "a quarter turn, and no tool is needed for it",
    "as long as the seal is greased twice a year.",
]
OTHER = [
    "Spare seals are kept for ten years by all of",
    "the dealers that are named on the last page.",
    "Send the old one back in the box so that its",
    "brass can be used again; the postage is paid",
    "by us for parcels of less than two kilograms.",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Read the PDF that functions of a canvas draw, one a page."""

    def read_drawn(*drawn, size=10):
        path = tmp_path_factory.mktemp("pdf") / "drawn.pdf"
        canvas = Canvas(str(path), pagesize=(595, HEIGHT))
        for draw in drawn:
            canvas.setFont("Helvetica", size)
            draw(canvas)
            canvas.showPage()
        canvas.save()
        (reading,) = read(path, text_field="text")
        return reading

    return read_drawn


def lines(rows, left=60, top=700, step=14, across=130):
    """Return a function that draws rows of cells (or lines), row by row."""

    def draw(canvas):
        for number, row in enumerate(rows):
            for column, cell in enumerate([row] if isinstance(row, str) else row):
                canvas.drawString(left + column * across, top - number * step, cell)

    return draw


def both(*drawn):
    """Return a function that draws one thing after the other."""
    return lambda canvas: [draw(canvas) for draw in drawn]


def at(left, height, text):
    """Return a function that draws a text at a place."""
    return lambda canvas: canvas.drawString(left, height, text)


def table(rows):
    """Return the Markdown of a table."""
    first, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([first, "|" + " --- |" * len(rows[0]), *others])


def filler(number):
    """Return lines of a body that differ from page to page."""
    return lines(
        [f"Sentence {line} of part {number} says that machine {13 * number + line} runs." for line in range(9)]
    )


FORM = ("Oil of grade 15W-40", "Interval of 250 hours", "Torque of 50 Nm")


@pytest.mark.parametrize(
    "name",
    ["Machine M-{}", "Machine {}", "Machine M–{}", "Sheet no. {}", "Machine no.\t{}", "{}0 kg of mass", "Machine: {}"],
)
@pytest.mark.parametrize("height", [800, 740])
def test_data_sheets_in_one_form_stay_whole(pages, name, height):
    """A line whose number grows from page to page is no running line unless the number is the page's."""
    sheets = [
        both(lines([name.format(number).split("\t")], top=height), lines([*FORM, f"Weight of {30 + number} kg"]))
        for number in range(1, 5)
    ]
    reading = pages(*sheets, size=12)
    for number in range(1, 5):
        assert name.format(number).replace("\t", " ") in reading.text
        assert f"Weight of {30 + number} kg" in reading.text
    assert all(reading.text.count(line) == 4 for line in FORM)
    assert "running lines" not in reading.left_out


@pytest.mark.parametrize(
    ("top", "bottom"),
    [
        (lambda n: [], lambda n: [(300, ["i", "ii", "iii", "iv", "v", "vi"][n - 1])]),
        (lambda n: [(60, "Alder manual, edition 4")], lambda n: [(500, f"Page {n} of 6")]),
        (lambda n: [(60, str(n)), (480, "Alder")] if n % 2 else [(60, "Care of valves"), (520, str(n))], lambda n: []),
        (lambda n: [], lambda n: [(280, f"- {n} -")]),
        (lambda n: [(60, f"Alder manual | Seite {n}")], lambda n: [(60, "Strictly for members")]),
        (lambda n: [], lambda n: [(280, ["i", "ii", "iii", "1", "2", "3"][n - 1])]),
    ],
)
def test_running_lines_are_left_out_and_counted(pages, top, bottom):
    """Lines at one place on most pages, alike but for the page's number in any form, are counted and no text."""

    def page(number):
        edges = [(left, 805, text) for left, text in top(number)] + [(x, 40, text) for x, text in bottom(number)]
        return both(*(at(*edge) for edge in edges), filler(number))

    reading = pages(*map(page, range(1, 7)))
    alone = pages(*map(filler, range(1, 7)))
    assert reading.text == alone.text
    assert reading.left_out == {"running lines": 6 * (bool(top(1)) + bool(bottom(1)))}


def test_the_name_of_a_chapter_is_kept_once(pages):
    """Of running lines that change with the chapter the first stays."""
    names = ["Intro", "Intro", "Setup", "Setup", "Care", "Care"]
    drawn = [both(at(60, 805, names[n]), at(520, 805, str(n + 1)), filler(n)) for n in range(6)]
    text = pages(*drawn).text
    assert [text.count(name) for name in ("Intro", "Setup", "Care")] == [1, 1, 1]


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(5, 90), columns=st.integers(2, 4), repeated=st.booleans(), numbered=st.booleans())
def test_a_table_over_pages_keeps_its_rows_and_one_header(pages, rows, columns, repeated, numbered):
    """Each row of a table that goes on over pages is in the text once, in order, under one header."""
    assume(repeated or rows % 30 != 1)  # one row alone on a page, without lines or a header, is words side by side
    head = ["Number", "Meter", "Reading", "Place"][:columns]
    body = [[str(n), f"W-{n % 7}", f"{1000 + 7 * n} kWh", f"Hall {n % 5}"][:columns] for n in range(1, rows + 1)]
    drawn = []
    for page, start in enumerate(range(0, rows, 30)):
        part = body[start : start + 30]
        foot = at(300, 40, str(page + 1)) if numbered else both()
        drawn.append(both(lines([head, *part] if repeated or not page else part, top=780), foot))
    text = pages(*drawn).text
    assert text.removesuffix("\n\n1") == table([head, *body])


def test_a_row_like_the_first_is_no_header(pages):
    """A row at the top of a page goes only if it is the header again; tables in one form on two pages stay two."""
    rows = [["Hall 3", "open" if n % 2 else "shut"] for n in range(60)]
    assert pages(lines(rows[:30], top=780), lines(rows[30:], top=780)).text == table(rows)
    sheets = [[["Power", f"{n} W"], ["Mass", f"{3 * n} kg"]] for n in (40, 50)]
    assert pages(*map(lines, sheets)).text == "\n\n".join(map(table, sheets))


def test_cells_are_parted_by_the_lines_between_them(pages):
    """Where a line is drawn between two cells, they are two, however near they stand."""

    def draw(canvas):
        lines([["4471", "Ring", "12"], ["4472", "Bolt", "15"], ["4473", "Seal", "18"]], across=26, step=16)(canvas)
        for left in (57, 84, 109, 140):
            canvas.line(left, 712, left, 664)
        for height in (712, 696, 680, 664):
            canvas.line(57, height, 140, height)

    assert pages(draw).text == table([["4471", "Ring", "12"], ["4472", "Bolt", "15"], ["4473", "Seal", "18"]])


def test_filled_fields_stand_beside_their_labels(pages):
    """What a person has written, chosen or ticked is in the text; a field without a label keeps its name."""

    def draw(canvas):
        form = canvas.acroForm
        canvas.drawString(60, 750, "Contract:")
        form.textfield(name="a", value="AV-2291", x=200, y=745, width=200, height=20)
        canvas.drawString(60, 700, "Term")
        options = [("18 months", "m18"), ("24 months", "m24")]
        form.choice(name="b", value="m18", options=options, x=200, y=695, width=100, height=20)
        canvas.drawString(100, 650, "Express")
        form.checkbox(name="c", checked=True, x=75, y=646, size=16)
        canvas.drawString(100, 600, "Gift")
        form.checkbox(name="d", checked=False, x=75, y=596, size=16)
        form.textfield(name="serial", value="SN-12", x=60, y=400, width=200, height=20)

    text = pages(draw).text
    for line in ("Contract: AV-2291", "Term: 18 months", "[x] Express", "[ ] Gift", "serial: SN-12"):
        assert line in text.splitlines()


PARTS = [["Part", "Torque", "Interval"], ["Bolt A", "25 Nm", "100 hours"], ["Bolt B", "45 Nm", "200 hours"]]


@pytest.mark.parametrize("angle", [90, 180, 270, -90])
def test_a_table_that_is_set_sideways_is_read_as_one(pages, angle):
    """Text is read in the direction in which it is set, whatever the page's."""

    def draw(canvas):
        canvas.saveState()
        canvas.translate(300, 420)
        canvas.rotate(angle)
        lines(PARTS, left=-150, top=100)(canvas)
        canvas.restoreState()

    assert pages(draw).text == table(PARTS)
    upright = pages(both(at(60, 800, "The table is set sideways on this page."), draw)).text
    assert upright == "The table is set sideways on this page.\n\n" + table(PARTS)


@pytest.mark.parametrize("lower", [0, 3, 6])
@pytest.mark.parametrize("by_row", [True, False])
def test_columns_of_prose_are_read_one_after_the_other(pages, lower, by_row):
    """Columns are told from a table, in whatever order and at whatever heights their lines are drawn."""
    placed = [(0, n, line) for n, line in enumerate(PROSE)] + [(1, n, line) for n, line in enumerate(OTHER)]
    placed = sorted(placed, key=lambda one: one[1]) if by_row else placed
    drawn = [at(40 + 270 * column, 700 - 13 * n - lower * column, line) for column, n, line in placed]
    assert pages(both(*drawn)).text == " ".join(PROSE) + "\n\n" + " ".join(OTHER)


def test_a_table_drawn_by_columns_is_read_by_rows(pages):
    """The cells of a table make rows in whatever order they are drawn; an empty cell keeps its place."""
    rows = [*PARTS, ["Bolt C", "", "300 hours"], ["Bolt D", "60 Nm", ""]]
    placed = [at(60 + 130 * x, 700 - 14 * y, rows[y][x]) for x in range(3) for y in range(5)]
    assert pages(both(*placed)).text == table(rows)


@pytest.mark.parametrize(("ruled", "middle"), [(True, 0), (False, 0), (True, 7)])
def test_cells_that_wrap_are_one_cell(pages, ruled, middle):
    """Lines of a cell are joined; where lines are drawn between rows, wherever the other cells stand."""
    whole = ["drain the oil while it is warm and then replace the filter", "clean it with cold water and a soft brush"]

    def draw(canvas):
        for left, text in ((60, "Task"), (160, "What to do"), (360, "Hours")):
            canvas.drawString(left, 700, text)
        for number, text in enumerate(whole):
            top, words = 670 - 50 * number, text.split()
            for line, part in enumerate([words[:6], words[6:]]):
                canvas.drawString(160, top - 13 * line, " ".join(part))
            canvas.drawString(60, top - middle, f"Task {number}")
            canvas.drawString(360, top - middle, f"{number}00")
        for height in (715, 690, 640, 590) if ruled else ():
            canvas.line(55, height, 420, height)

    rows = [["Task", "What to do", "Hours"], ["Task 0", whole[0], "000"], ["Task 1", whole[1], "100"]]
    assert pages(draw).text == table(rows)


@pytest.mark.parametrize("shift", [(0, 0), (0.4, 0), (0.3, 0.3)])
def test_what_is_drawn_twice_is_read_once(pages, shift):
    """Words drawn again, or slightly beside, to look bold are one word, also where all are drawn again later."""
    words = [at(60, 700, "Never open"), at(60, 600, "the lid of the pump"), at(200, 500, "50 Nm")]
    again = [
        at(60 + shift[0], 700 + shift[1], "Never open"),
        at(60 + shift[0], 600 + shift[1], "the lid of the pump"),
        at(200 + shift[0], 500 + shift[1], "50 Nm"),
    ]
    assert pages(both(*words, *again)).text.split() == ["Never", "open", "the", "lid", "of", "the", "pump", "50", "Nm"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a pressure of 10", "^6", " Pa"], "a pressure of 10⁶ Pa"),
        (["5 times 10", "^-3", " m", "^2"], "5 times 10⁻³ m²"),
        (["lasts 24", "^1", " months"], "lasts 24¹ months"),
        (["lasts 24", "^a", " months"], "lasts 24ᵃ months"),
        (["lasts 24", "^*", " months"], "lasts 24* months"),
        (["the 2", "^nd", " stage"], "the 2nd stage"),
        (["the power k", "^max", " counts"], "the power k^max counts"),
        (["H", "_2", "O and CO", "_2"], "H₂O and CO₂"),
        (["at P", "_max", " only"], "at P_max only"),
        (["^1", " From the day of purchase."], "¹ From the day of purchase."),
    ],
)
@pytest.mark.parametrize("way", ["rise", "placed", "last"])
def test_raised_and_lowered_characters_are_kept_apart(pages, parts, text, way):
    """A power is no digit of its base, and the mark of a note no digit of the number before it."""

    def draw(canvas):
        left, late = 60, []
        writing = canvas.beginText(60, 700)
        for part in parts:
            kind, shown = (part[0], part[1:]) if part[0] in "^_" else ("", part)
            size, rise = (7 if kind else 11), {"^": 4, "_": -2, "": 0}[kind]
            if way == "rise":
                writing.setFont("Helvetica", size)
                writing.setRise(rise)
                writing.textOut(shown)
            elif way == "last" and kind and part is not parts[0]:
                late.append((size, left, 700 + rise, shown))
            else:
                canvas.setFont("Helvetica", size)
                canvas.drawString(left, 700 + rise, shown)
            left += canvas.stringWidth(shown, "Helvetica", size)
        canvas.drawText(writing)
        for size, x, y, shown in late:
            canvas.setFont("Helvetica", size)
            canvas.drawString(x, y, shown)
        canvas.setFont("Helvetica", 11)

    assert pages(both(draw, at(60, 600, "A line of the body that is longer than the one above."))).text.startswith(text)


def test_ligatures_are_letters(tmp_path):
    """The code points of ligatures, as fonts name them, become the letters that they stand for."""
    names = ["ff", "fi", "fl", "ffi", "ffl", "longst", "st"]
    codes = "".join(f"<{33 + n:02x}> <{0xFB00 + n:04x}>\n" for n in range(len(names)))
    cmap = f"1 begincodespacerange <00> <ff> endcodespacerange {len(names)} beginbfchar\n{codes}endbfchar"
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>"
    content = "BT /F1 12 Tf 60 700 Td (!) Tj ET " + " ".join(
        f"BT /F1 12 Tf {60 + 30 * n} 600 Td <{33 + n:02x}> Tj ET" for n in range(1, len(names))
    )
    path = tmp_path / "a.pdf"
    path.write_bytes(raw_pdf(font, content, f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream"))
    assert read(path, text_field="text")[0].text.split() == ["ff", "fi", "fl", "ffi", "ffl", "st", "st"]


def raw_pdf(font, content, *more):
    """Return a PDF of one page with a font F1 (object 5) and what it needs (from object 6 on)."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R /F2 "
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        font,
        *more,
    ]
    body = "".join(f"{number} 0 obj\n{one}\nendobj\n" for number, one in enumerate(objects, start=1))
    return f"%PDF-1.4\n{body}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\n%%EOF".encode("latin-1")


def test_glyphs_without_letters_are_counted(tmp_path):
    """What a font draws without saying which letters it is counts as left out, and is no gibberish in the text."""
    font = (
        "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [0.1 0 0 0.1 0 0] /FirstChar 65 /LastChar 66 "
        "/Widths [6 6] /CharProcs << /g1 6 0 R /g2 6 0 R >> /Encoding << /Differences [65 /g1 /g2] >> >>"
    )
    content = "BT /F2 12 Tf 60 700 Td (It weighs 4 kg.) Tj ET BT /F1 12 Tf 60 600 Td (ABBA) Tj ET"
    path = tmp_path / "a.pdf"
    path.write_bytes(raw_pdf(font, content, "<< /Length 17 >>\nstream\n6 0 d0 0 0 5 5 re f\nendstream"))
    (reading,) = read(path, text_field="text")
    assert (reading.text, reading.left_out) == ("It weighs 4 kg.", {"characters without a letter": 4})


def test_a_page_that_is_a_picture_is_counted(pages):
    """A scanned page among pages of text is left out, and said to be."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(picture, "png")
    scan = lambda canvas: canvas.drawImage(ImageReader(picture), 0, 0, 500, 700)  # noqa: E731
    reading = pages(at(60, 700, "First page."), scan, at(60, 700, "Third page."))
    assert reading.text == "First page.\n\nThird page."
    assert reading.left_out == {"pictures without text": 1} and len(reading.pages) == 3


def test_a_number_is_no_title(pages):
    """The largest line of the first page is the title, unless it is a number."""

    def draw(canvas):
        for size, height, text in ((40, 760, "3"), (30, 720, "Page 1"), (18, 690, "Care of the valve")):
            canvas.setFont("Helvetica-Bold", size)
            canvas.drawString(60, height, text)
        canvas.setFont("Helvetica", 10)
        lines(PROSE, top=650)(canvas)

    assert pages(draw).title == "Care of the valve"


def test_what_nobody_sees_is_left_out_and_counted(pages):
    """Text outside what is shown of a page, white on white, or in hidden and secret fields is no text."""

    def draw(canvas):
        canvas.setCropBox((50, 400, 500, 800))
        for left, height, said in ((60, 700, "Seen."), (900, 700, "Beside."), (60, 100, "Cropped.")):
            canvas.drawString(left, height, said)
        canvas.setFillColorRGB(0, 0, 0.5)
        canvas.rect(50, 590, 300, 30, fill=1)
        canvas.setFillColorRGB(1, 1, 1)
        canvas.drawString(60, 600, "White on blue.")
        canvas.drawString(60, 500, "White on white.")
        field = canvas.acroForm.textfield
        field(name="a", value="hidden", x=60, y=640, width=90, height=15, fieldFlags="", annotationFlags="hidden")
        field(name="b", value="secret", x=60, y=450, width=90, height=15, fieldFlags="password")

    reading = pages(draw)
    assert (reading.text, reading.left_out) == ("Seen.\n\nWhite on blue.", {"hidden parts": 5})


def test_text_that_only_is_told_as_white_is_read(pages, tmp_path):
    """Text that is outlined, filled with a pattern, or stands on one or on a thick line, can be seen."""

    def draw(canvas):
        canvas.setLineWidth(24)
        canvas.line(50, 700, 400, 700)
        canvas.setLineWidth(1)
        for mode, height, said in ((0, 696, "On a line."), (0, 500, "Hidden."), (2, 600, "Outlined.")):
            text = canvas.beginText(60, height)
            text.setTextRenderMode(mode)
            text.setFillColorRGB(1, 1, 1)
            text.textLine(said)
            canvas.drawText(text)

    reading = pages(draw)
    assert (reading.text, reading.left_out) == ("On a line.\n\nOutlined.", {"hidden parts": 1})
    drawn = (
        "/Pattern cs /P scn 60 690 400 30 re f 1 g BT /F 12 Tf 70 700 Td (On a pattern.) Tj ET "
        "/Pattern cs /P scn BT /F 12 Tf 70 600 Td (In a pattern.) Tj ET"
    )
    shading = "/ShadingType 2/ColorSpace/DeviceGray/Coords[0 0 500 0]/Function<</FunctionType 2/Domain[0 1]/N 1>>"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>"
        f"/Pattern<</P<</PatternType 2/Shading<<{shading}>>>>>>>>>>",
        f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    path = tmp_path / "pattern.pdf"
    body = "\n".join(f"{number} 0 obj\n{one}\nendobj" for number, one in enumerate(objects, start=1))
    path.write_text(f"%PDF-1.7\n{body}\ntrailer<</Root 1 0 R>>\n%%EOF")
    (reading,) = read(path, text_field="text")
    assert (reading.text, reading.left_out) == ("On a pattern.\n\nIn a pattern.", {})


def test_comments_stamps_and_attachments_are_counted(pages, tmp_path):
    """What is pinned to a page, or to the document, is left out, and said to be."""
    notes = " ".join(
        f"<< /Type /Annot /Subtype /{kind} /Rect [60 700 90 720] /Contents ({said}) >>"
        for kind, said in (("Text", "Why?"), ("Highlight", "Check."), ("Highlight", ""), ("Stamp", "Draft"))
    )
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    path = tmp_path / "a.pdf"
    made = raw_pdf(font, "BT /F1 12 Tf 60 600 Td (The limit.) Tj ET")
    path.write_bytes(made.replace(b"/Contents 4 0 R", b"/Contents 4 0 R /Annots [" + notes.encode() + b"]"))
    with pypdfium2.PdfDocument(path) as document:
        document.new_attachment("a.txt").set_data(b"x")
        document.save(tmp_path / "b.pdf")
    (reading,) = read(tmp_path / "b.pdf", text_field="text")
    assert (reading.text, reading.left_out) == ("The limit.", {"comments": 2, "stamps": 1, "attachments": 1})


def test_scans_with_numbers_are_told(pages):
    """A page that is a picture but for its number is counted as one, and a file of such pages is a scan."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(picture, "png")

    def scan(canvas):
        canvas.drawImage(ImageReader(picture), 0, 0, 595, HEIGHT)
        canvas.drawString(280, 20, f"Page {canvas.getPageNumber()}")

    reading = pages(lines(["The limit", "is 45 days."]), scan, scan, scan)
    assert reading.left_out == {"pictures without text": 3, "running lines": 3}
    with pytest.raises(Unreadable, match="a scan"):
        pages(scan, scan, scan)


@pytest.mark.parametrize("initial", ["T", "A "])
def test_an_initial_belongs_to_its_word(pages, initial):
    """A letter as high as several lines begins the first of them, as a letter of its word or as a word."""
    letter = initial.strip()
    rest = "he hall" if letter == "T" else "hall"

    def draw(canvas):
        canvas.setFont("Helvetica", 32)
        canvas.drawString(60, 686, letter)
        canvas.setFont("Helvetica", 10)
        beside = [f"{rest} in the north has a limit of 45 days for the", "goods that come by ship to the hall, and for"]
        lines(beside, 85)(canvas)
        lines(["those of the south, which has a hall of its own,", "there is none."], top=672)(canvas)

    assert pages(draw).text == (
        f"{initial}{rest} in the north has a limit of 45 days for the goods that come by ship to the hall, and for "
        "those of the south, which has a hall of its own, there is none."
    )


def test_a_large_letter_beside_words_that_begin_by_themselves_is_a_word(pages):
    """The letter of a class or the like is not put into the word beside it."""

    def draw(canvas):
        canvas.setFont("Helvetica", 32)
        canvas.drawString(60, 686, "B")
        canvas.setFont("Helvetica", 10)
        lines(["Business class tickets are sold at the", "counter on the first floor."], 85)(canvas)

    assert pages(draw).text == "B Business class tickets are sold at the counter on the first floor."


def test_a_watermark_is_no_title_and_no_heading(pages):
    """Large words across the page come last, and are no name of the document."""

    def draw(canvas):
        canvas.saveState()
        canvas.translate(300, 400)
        canvas.rotate(45)
        canvas.setFont("Helvetica", 60)
        canvas.drawCentredString(0, 0, "DRAFT")
        canvas.restoreState()
        canvas.setFont("Helvetica", 20)
        canvas.drawString(60, 740, "Limits")
        canvas.setFont("Helvetica", 10)
        lines(["The limit is 45 days."])(canvas)

    reading = pages(draw)
    assert (reading.title, reading.text) == ("Limits", "# Limits\n\nThe limit is 45 days.\n\nDRAFT")


def test_code_keeps_its_lines_and_indents(pages):
    """Lines in a typewriter's letters among others are code if they look so; all else that is typewritten is prose."""
    code = ["if open:", "    close()", "    wait()"]

    def draw(canvas):
        lines(["The program below closes all halls of the yard, and waits for"])(canvas)
        canvas.setFont("Courier", 10)
        lines(code, top=672)(canvas)

    reading = pages(draw)
    assert reading.text.endswith("\n\n```\nif open:\n    close()\n    wait()\n```")

    def typed(canvas):
        canvas.setFont("Courier", 10)
        lines(["All halls of the yard are closed,", "and then they wait."])(canvas)

    set_apart = both(typed, lambda canvas: canvas.setFont("Times-Roman", 10), lines(PROSE, top=600))
    assert pages(set_apart).text.startswith("All halls of the yard are closed, and then they wait.\n\nThe Alder")
    assert pages(typed).text == "All halls of the yard are closed, and then they wait."


@pytest.mark.parametrize(
    ("upper", "lower", "text"),
    [
        ("the doors are at the Ein-", "und Ausgang of the hall", "Ein- und Ausgang"),
        ("the doors are those of Baden-", "Baden in the south of it", "Baden-Baden"),
        ("the doors are made in the form AB-", "12 and in no other form", "AB-12"),
        ("the doors of ELEMENT make each ELE-", "MENT of the hall in the north", "each ELEMENT of"),
        ("the doors and the temper-", "ature of the hall in the north", "temperature"),
        ("die Stellung der Frau-", "en in der Stadt im Norden", "der Frauen in"),
        ("the things that are meant by pre-", "1. First of all things", "by pre-\n1. First"),
    ],
)
def test_words_that_a_line_breaks_are_mended(pages, upper, lower, text):
    """A hyphen at the end of a line stays where it belongs to the words; so does one at the end of a page."""
    first = ["This is a line of the body that is as long as others are", f"and {upper}"]
    assert text in pages(lines([*first, lower])).text
    if lower[0].islower():
        assert text in pages(lines(first), lines([lower])).text


def test_labels_with_a_dash_are_no_broken_words(pages):
    """Short lines that each end with a dash stay lines."""
    assert pages(lines(["Name-", "City-", "Date of birth-"])).text == "Name-\nCity-\nDate of birth-"


def test_pages_start_in_their_order_where_a_word_is_broken_over_an_empty_one(pages):
    """A hyphen that goes at the end of a page puts no page without text behind the one that follows it."""
    reading = pages(lines(["It is broken over the pages, as in exam-"]), lambda _: None, lines(["ples that go on."]))
    assert reading.text == "It is broken over the pages, as in examples that go on."
    assert list(reading.pages) == sorted(reading.pages)


def test_dots_that_lead_to_a_number_are_no_text(pages):
    """Dots between a name and its page, as in a table of contents, are one sign."""
    names = [(f"{name} {'.' * 40}", page) for name, page in (("Limits", "3"), ("Fees", "12"), ("Halls", "40"))]
    assert pages(lines(names, across=300)).text == table([("Limits …", "3"), ("Fees …", "12"), ("Halls …", "40")])


def test_lines_that_go_down_are_read_from_the_right(pages):
    """Vertical text has its first line on the right."""
    font = UnicodeCIDFont("HeiseiMin-W3", isVertical=True)
    pdfmetrics.registerFont(font)

    def draw(canvas):
        canvas.setFont(font.fontName, 12)
        for column, line in enumerate(("会議は十二号室です。", "期限は四十五日です。")):
            canvas.drawString(500 - 20 * column, 780, line)

    assert pages(draw).text == "会議は十二号室です。\n期限は四十五日です。"
