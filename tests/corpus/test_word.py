"""Promises of Word documents: what a program that converts them passes over is text, or is counted."""

import pytest
from test_readers import docx, paragraph

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
NAMES = (
    f'xmlns:w="{W}" xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
FIELD = '<w:r><w:fldChar w:fldCharType="{}">{}</w:fldChar></w:r>'
CHART = (
    '<w:r><w:drawing><wp:inline><wp:docPr id="1" name="Chart 1" {}/><a:graphic><a:graphicData '
    'uri="http://schemas.openxmlformats.org/drawingml/2006/chart"><c:chart r:id="c"/></a:graphicData></a:graphic>'
    "</wp:inline></w:drawing></w:r>"
)
LINE = CHART.format("").replace('/chart"><c:chart r:id="c"/>', '/wordprocessingShape">')


def word(body, **more):
    """Return a Word document that knows all these names."""
    return docx("", **{"word/document.xml": f"<w:document {NAMES}><w:body>{body}</w:body></w:document>", **more})


def run(text, properties=""):
    """Return a run of text."""
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def form(kind, inner):
    """Return a field of a form of before 2010."""
    return FIELD.format("begin", f"<w:ffData>{inner}</w:ffData>") + (
        f"<w:r><w:instrText> {kind} </w:instrText></w:r>" + FIELD.format("end", "")
    )


def box(inner):
    """Return a shape with a text box."""
    return f"<w:drawing><wp:anchor><w:txbxContent>{inner}</w:txbxContent></wp:anchor></w:drawing>"


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (run("Due ") + f'<w:fldSimple w:instr=" DOCPROPERTY due ">{run("7 May")}</w:fldSimple>', "Due 7 May"),
        (run("於") + f"<w:ruby><w:rt>{run('かん')}</w:rt><w:rubyBase>{run('漢12')}</w:rubyBase></w:ruby>", "於漢12"),
        (f'<w:bdo w:val="rtl">{run("one ")}</w:bdo><w:dir w:val="ltr">{run("two")}</w:dir>', "one two"),
        ("<w:r><w:t>12</w:t><w:cr/><w:t>45</w:t><w:ptab/><w:t>60</w:t></w:r>", "12\n45 60"),
        (
            f'<w:sdt><w:sdtPr><w14:checkbox><w14:checked w14:val="1"/></w14:checkbox></w:sdtPr><w:sdtContent>{run("☒")}'
            f"</w:sdtContent></w:sdt>{run(' agreed')}",
            "[x] agreed",
        ),
        (form("FORMCHECKBOX", '<w:checkBox><w:default w:val="0"/></w:checkBox>') + run(" paid"), "[ ] paid"),
        (
            run("Colour: ")
            + form(
                "FORMDROPDOWN",
                '<w:ddList><w:result w:val="1"/><w:listEntry w:val="red"/><w:listEntry w:val="green"/></w:ddList>',
            ),
            "Colour: green",
        ),
        (run("24") + run("1", '<w:position w:val="8"/>') + run(" months"), "24 ¹ months"),
        (run("H") + run("2", '<w:position w:val="-6"/>') + run("O"), "H2O"),
        (run("the same line", '<w:position w:val="2"/>'), "the same line"),
        ('<w:pPr><w:framePr w:dropCap="drop"/></w:pPr>' + run("O", '<w:position w:val="-9"/>'), "O"),
        (run("5\uf0b0C", '<w:rFonts w:ascii="Symbol"/>'), "5°C"),
        (run("Host") + f"<w:r>{box(paragraph('Boxed 45'))}</w:r>", "Host\n\nBoxed 45"),
        (
            f'<w:r><mc:AlternateContent><mc:Choice Requires="wps">{box(paragraph("Boxed"))}</mc:Choice><mc:Fallback>'
            f"<w:pict><w:txbxContent>{paragraph('Boxed')}</w:txbxContent></w:pict></mc:Fallback></mc:AlternateContent></w:r>",
            "Boxed",
        ),
        (CHART.format('descr="Loads fell to 45"'), "Loads fell to 45"),
    ],
)
def test_what_a_converter_passes_over_is_read(one, inner, text):
    """Fields, furigana, ticked boxes, choices, raised figures, symbols, text boxes and charts lose nothing."""
    reading = one("a.docx", word(f"<w:p>{inner}</w:p>"))
    assert " ".join(reading.text.replace("\n", "¶").split()).replace("¶", "\n") == text
    assert reading.left_out == {}


def test_what_of_a_word_document_cannot_be_told_is_counted(one):
    """Comments, charts without a word and documents within the document are said to be left out; no mere line is."""
    comments = f'<w:comments xmlns:w="{W}"><w:comment w:id="0">{paragraph("Really?")}</w:comment></w:comments>'
    body = f'{paragraph("Kept.")}<w:p>{CHART.format("")}{LINE}</w:p><w:altChunk r:id="x"/>'
    reading = one("a.docx", word(body, **{"word/comments.xml": comments}))
    counted = {"comments": 1, "pictures without text": 1, "embedded documents": 1}
    assert (reading.text, reading.left_out) == ("Kept.", counted)
