"""Promises of the readers: every format to text, every fault to one sentence."""

import io
import json
import re
import sys
import time
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from raft.corpus.readers import SUFFIXES, Unreadable, decode, read
from raft.corpus.readers.text import plain_markdown
from raft.errors import MissingExtra


def many(folder, name, content, *, text_field="text", drop_templates=False):
    """Write a file and read the documents in it."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, text_field=text_field, drop_templates=drop_templates)


def archive(**members):
    """Return a zip archive of the members; `__` stands for `/`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def docx(body, **more):
    """Return a Word document with this XML in its body."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    office = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    return archive(
        **{
            "[Content_Types].xml": f'<Types xmlns="{types}"><Override PartName="/word/document.xml" '
            f'ContentType="{office}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{kind}" '
            'Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
            "word/styles.xml": f'<w:styles xmlns:w="{word}"><w:style w:type="paragraph" w:styleId="Heading1">'
            '<w:name w:val="heading 1"/></w:style></w:styles>',
            **more,
        }
    )


def paragraph(text, style=""):
    """Return a paragraph of WordprocessingML."""
    style = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"


def xlsx(rows):
    """Return a workbook of one sheet called Prices."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    cells = "".join(
        f'<row r="{number}">'
        + "".join(
            f'<c r="{chr(65 + column)}{number}" t="inlineStr"><is><t>{value}</t></is></c>'
            for column, value in enumerate(row)
        )
        + "</row>"
        for number, row in enumerate(rows, start=1)
    )
    return archive(
        **{
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Override PartName="/xl/workbook.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="Prices" sheetId="1" '
            'r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" '
            f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
        }
    )


def pdf(*pages):
    """Return a PDF; a page is a list of (left, height, size, bold, text)."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    fonts = ["Helvetica", "Helvetica-Bold"]
    objects += [f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} >>" for font in fonts]
    kids = []
    for page in pages:
        drawn = "\n".join(f"BT /F{int(bold)} {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, size, bold, text in page)
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F0 3 0 R /F1 4 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    result, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(result))
        result += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\n"
    return (result + end + f"startxref\n{len(result)}\n%%EOF").encode("latin-1")


MANUAL = [
    [
        (70, 800, 18, True, "Pump manual"),
        (70, 770, 10, False, "The pump runs for many years when its instal-"),
        (70, 756, 10, False, "lation was done by somebody who knows how"),
        (70, 742, 10, False, "to do it."),
        (70, 715, 12, True, "Data"),
        (70, 690, 10, False, "Power"),
        (300, 690, 10, False, "94 W"),
        (70, 676, 10, False, "Weight"),
        (300, 676, 10, False, "31 kg"),
    ],
    [(70, 800, 10, False, "The second page tells how to clean the pump.")],
]


def test_front_matter_gives_the_title_and_goes(one):
    """YAML front matter is no text; its title is the document's."""
    reading = one("a.md", "---\ntitle: 'Leave: types'\nkeywords: x\n---\n\nBody.\n")
    assert (reading.title, reading.text, reading.format) == ("Leave: types", "Body.", "md")


def test_toml_front_matter_gives_the_title_and_goes(one):
    """Settings between plus signs are no text either."""
    reading = one("a.md", '+++\ntitle = "Leave"\n[extra]\nx = 1\n+++\nBody.\n')
    assert (reading.title, reading.text) == ("Leave", "Body.")


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nFirst rule.\n\n---\n\nSecond.",
        "---\nFirst rule.\n---\nSecond.",
        "---\n# Rules\n---\nSecond.",
        "---\n- one\n- two\n---\nSecond.",
        "+++\n\nFirst rule.\n\n+++\n\nSecond.",
        "---\n\nNote: keep it shut.\n\n---\nSecond.",
        "---\nWhoever leaves the house last does this: lock it.\n---\nSecond.",
    ],
)
def test_what_stands_between_ruled_lines_is_text(one, text):
    """A page that begins with a ruled line loses nothing."""
    assert one("a.md", text).text == text


@pytest.mark.parametrize(
    "settings", ["", "a: 1\n\nb:\n- x\n- y: 2\nc: >\n  long\n# note\n", '"a b: c": 1\nlast updated on: x\n']
)
def test_front_matter_of_any_shape_goes(one, settings):
    """Lists, folded values, comments and no settings at all are front matter still."""
    assert one("a.md", f"---\n{settings}---\nBody.").text == "Body."


def test_pictures_in_the_text_itself_are_their_words(one):
    """A picture of many lines of base64 becomes the words that describe it, however it is written; others stay."""
    data = "data:image/png;base64," + "iVBORw0KGgo" * 5000
    source = (
        f'A ![plan of the yard]({data}) B ![]({data} "t") C <img alt="a gate" src="{data}"> D ![][img1] E ![map][Img2]'
        f" F ![kept](a.png) ![kept][c]\n\n[img1]: <{data}>\n[img2]: {data}\n[c]: c.png\n"
    )
    reading = one("a.md", source)
    assert reading.text == "A plan of the yard B  C a gate D  E map F ![kept](a.png) ![kept][c]\n\n[c]: c.png"
    assert reading.left_out == {"pictures without text": 2}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# One *more*\n\nx", "One more"),
        ("Banner\n\n# Top\n\n## Sub", "Top"),
        ("Setext\n===\n\nx", "Setext"),
        ("Words\n\n## Sub\n\nx", "name"),
        ("```\n# code\n```\n", "name"),
    ],
)
def test_without_front_matter_the_heading_is_the_title(one, text, title):
    """The first heading, or the only one of the first level; else the file's name."""
    assert one("name.md", text).title == title


def test_template_tags_comments_and_html_leave_their_text(one):
    """Comments, inline HTML and, where asked for, Liquid tags are gone; what they say stays, and all else too."""
    source = (
        "{% include 'low.html' %}\nPost in {% slack_channel \"people-ops\" %}<!-- hidden\nover lines --> now,\n"
        'see [trips]({% page "/travel/" %}).\n{% comment %}TODO{% endcomment %}\n'
        "<strong>Bold</strong> &amp; <a href='x'\n class='y'>link</a><br/>next <your-name> 1 < 2 {{ name }}\n"
    )
    assert one("a.md", source, drop_templates=True).text == (
        "Post in people-ops\n now,\nsee [trips](/travel/).\n\nBold & link\nnext <your-name> 1 < 2 {{ name }}"
    )


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("<p>45</p><p>60</p>", "45\n60"),
        ("# <center>Title</center>", "# Title"),
        ("## Part <div align=center>Sub</div>", "## Part Sub"),
        ("> # <center>Title</center>", "> # Title"),
        ("- [ ] <p>do it</p>", "- [ ] do it"),
        ("> > <p>quoted</p>", "> > quoted"),
        (">> <p>quoted</p>", ">> quoted"),
        ("1. <p>one</p>", "1. one"),
        ("**<div>b</div>**", "**b**"),
        ("Note: **<div><p>b</p></div>**, *<div>c</div>*", "Note: **b**, *c*"),
        ("<p>45*</p><p>60</p><p>*net</p>", "45*\n60\n*net"),
        ("x <p>y</p> | z", "x y | z"),
        (r"<p>a \| b</p><p>c</p>", "a \\| b\nc"),
        ("<div><h1><p>Title</p></h1><p>45</p></div>", "# Title\n45"),
    ],
)
def test_block_tags_part_lines_but_no_heading_item_or_row(source, plain):
    """Paragraphs in HTML are a line each; what Markdown has on one line stays on it."""
    assert plain_markdown(source).strip() == plain


def test_code_is_left_as_it_is_written():
    """Tags and comments inside code are what the document is about."""
    source = "Use `<br>` and `{% page %}`:\n\n```html\n<b>x</b> <!-- y --> {% raw %}\n```\n"
    assert plain_markdown(source) == source


def test_a_comment_of_markdown_is_left_out_but_in_code(one):
    """A link to nowhere that only comments is gone; a line of a code block that shows one stays."""
    code = "```\n[//]: # (shown)\nx\n```"
    source = f"One.\n\n[//]: # (gone)\n<!--\n```\n-->\n{code}\n\n[comment]: <> (gone)\nTwo."
    assert re.sub("\n{2,}", "\n\n", one("a.md", source).text) == f"One.\n\n{code}\n\nTwo."


TEMPLATE = (
    "Set {{ site.name }} to {{ user.name | default(value='<b>x</b>') }} {% if 'a' %}{% comment %}b{% endcomment %}"
)


@pytest.mark.parametrize("frame", ["{}", "```\n{}\n```", "x <b>bold</b>\n\n{}"])
def test_template_syntax_in_markdown_is_text(one, frame):
    """A document about templates keeps them, in its text and in its code."""
    assert TEMPLATE in one("a.md", frame.replace("{}", TEMPLATE)).text


@pytest.mark.parametrize("tag", ["p", "pre", "pre><code"])
def test_template_syntax_in_html_is_text(one, tag):
    """A page about templates keeps them, and loses them where that is asked for."""
    page = f"<h1>Templates</h1><{tag}>Set {{{{ name }}}} in {{% block 'a' %}} now</p></code></pre>"
    assert "Set {{ name }} in {% block 'a' %} now" in one("a.html", page).text
    assert re.search("Set +in +now", one("a.html", page, drop_templates=True).text)


def test_a_tag_without_its_partner_is_text():
    """What stands for a word of the reader's own is no markup; pairs, and tags that need no partner, are."""
    source = (
        "Run raft show <section>, then <time of day>.\n\n<details>\n<summary>More</summary>\none<br>two\n</details>"
    )
    assert plain_markdown(source) == "Run raft show <section>, then <time of day>.\n\nMore\none\ntwo"


def test_indented_code_is_left_as_it_is_written():
    """Lines indented below a blank line are code, unless they belong to a list or an element of HTML."""
    source = (
        "Write:\n\n    <b>x</b> <!-- y -->\n\n    &amp;\n\nor <i>this</i>\n    <b>on</b>.\n\n- item\n\n    <b>more</b>"
    )
    plain = "Write:\n\n    <b>x</b> <!-- y -->\n\n    &amp;\n\nor this\n    on.\n\n- item\n\n    more"
    assert plain_markdown(source) == plain
    assert plain_markdown("<div>\n\n    <b>x</b>\n\n</div>").strip() == "x"


def test_an_html_table_in_markdown_becomes_a_markdown_table():
    """Cells over several lines become one row each."""
    source = "<table>\n<tr><th>A</th>\n<th>B</th></tr>\n<tr><td>1<br>2</td><td>\n {% x 'y' %} </td></tr></table>"
    assert plain_markdown(source, drop_templates=True).strip() == "| A | B |\n| --- | --- |\n| 1 2 | y |"


def test_an_unclosed_comment_hides_nothing():
    """A comment that nobody closes is text."""
    assert plain_markdown("a <!-- b\nc") == "a <!-- b\nc"


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab <>{}%!-`~/\n#|&;\"'", max_size=200))
def test_plain_markdown_never_fails(source):
    """Any soup of markup characters comes through."""
    plain_markdown(source)
    plain_markdown(source, drop_templates=True)


@pytest.mark.parametrize(
    "soup", ["<!--", "<!-- -->", "{%", "`", "<a ", "<table>", "&amp", "```\n", "<b", "{% comment %}"]
)
def test_markup_soup_does_not_take_long(soup):
    """Reading time stays in proportion to length, whatever is left open."""
    begun = time.monotonic()
    plain_markdown(soup * 20_000, drop_templates=True)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "data", ["Viele Grüße, das macht 5 €".encode(c) for c in ("utf-8", "utf-8-sig", "utf-16", "cp1252")]
)
def test_common_encodings_are_read(one, data):
    """UTF-8 with or without a mark, UTF-16 with one, and Windows-1252."""
    assert one("a.txt", data).text == "Viele Grüße, das macht 5 €"


def test_line_ends_are_one_kind(one):
    """All line ends become newlines."""
    assert one("a.txt", "a\r\nb\rc").text == "a\nb\nc"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(1, 256)) * 20,
        b"\x01\x02\x03 text \x04",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_text_is_refused(one, data):
    """A binary file with the name of a text is an error, and so is an encoding nobody can guess."""
    with pytest.raises(Unreadable, match="not a text file"):
        one("a.md", data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_decoding_any_bytes_gives_text_or_unreadable(data):
    """No bytes raise anything else, and what comes out can be stored as UTF-8."""
    with suppress(Unreadable):
        decode(data).encode()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_an_empty_file_is_an_error_in_every_format(one, suffix):
    """Zero bytes are said to be empty."""
    with pytest.raises(Unreadable, match="empty"):
        one(f"a{suffix}", b"")


@pytest.mark.parametrize("suffix", [".md", ".txt", ".html", ".csv", ".json", ".jsonl", ".yaml"])
def test_whitespace_alone_is_an_error(one, suffix):
    """A document always has a text."""
    with pytest.raises(Unreadable):
        one(f"a{suffix}", b" \n\n")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SUFFIXES)), st.binary(min_size=1, max_size=200))
def test_noise_is_read_or_refused_in_every_format(tmp_path_factory, suffix, data):
    """Whatever the bytes, a reader returns readings with text or raises Unreadable."""
    path = tmp_path_factory.mktemp("noise") / f"a{suffix}"
    path.write_bytes(data)
    try:
        assert all(reading.text.strip() or reading.error for reading in read(path, text_field="text"))
    except Unreadable as error:
        assert "Traceback" not in error.what and len(error.what) < 400


def test_html_keeps_headings_lists_and_tables(one):
    """A page becomes Markdown without its navigation, scripts and footer; its title element names it."""
    page = (
        "<html><head><title>Parts &amp; prices</title><style>x</style></head><body><nav>Menu</nav><h2>List</h2>"
        "<ul><li>one</li></ul><table><tr><td>Part</td><td>Price</td></tr><tr><td>a_b</td><td><p>5</p><p>euros</p></td>"
        "</tr></table><script>x()</script><footer>Imprint</footer></body></html>"
    )
    reading = one("a.html", page)
    assert reading.title == "Parts & prices"
    assert reading.text == "## List\n\n- one\n\n| Part | Price |\n| --- | --- |\n| a_b | 5 euros |"


def test_pdf_has_headings_tables_paragraphs_and_pages(one):
    """Larger type is a heading, far pieces are cells, broken lines and words are joined, pages have their offsets."""
    reading = one("manual.pdf", pdf(*MANUAL))
    first, second = reading.text[: reading.pages[1]].strip(), reading.text[reading.pages[1] :]
    assert reading.title == "Pump manual"
    assert first == (
        "# Pump manual\n\nThe pump runs for many years when its installation was done by somebody who knows how to do "
        "it.\n\n## Data\n\n| Power | 94 W |\n| --- | --- |\n| Weight | 31 kg |"
    )
    assert second == "The second page tells how to clean the pump." and len(reading.pages) == 2


def test_a_running_header_is_left_out(one):
    """A line that stands on top of most pages, but for its number, is no text."""
    pages = [
        [(70, 800, 10, False, f"Manual, page {n}"), (70, 700, 10, False, f"Part {word} is here.")]
        for n, word in enumerate(["one", "two", "three"], start=1)
    ]
    assert "page" not in one("a.pdf", pdf(*pages)).text


def test_a_scan_is_sent_to_ocr(one):
    """A PDF without a text layer says what to do."""
    with pytest.raises(Unreadable, match="OCR"):
        one("scan.pdf", pdf([]))


@pytest.mark.parametrize(("password", "readable"), [("secret", False), ("", True)])
def test_an_encrypted_pdf_opens_only_without_a_password(one, password, readable):
    """The empty password is tried; any other makes an error."""
    stream = io.BytesIO()
    canvas = Canvas(stream, encrypt=StandardEncryption(password, ownerPassword="owner", strength=128))
    canvas.drawString(70, 700, "It takes 94 W.")
    canvas.save()
    if readable:
        assert "94 W" in one("a.pdf", stream.getvalue()).text
    else:
        with pytest.raises(Unreadable, match="password"):
            one("a.pdf", stream.getvalue())


def test_a_damaged_pdf_is_an_error(one):
    """Half a file is a sentence, no traceback."""
    with pytest.raises(Unreadable):
        one("a.pdf", pdf(*MANUAL)[:400])


def test_docx_keeps_headings_and_tables(one):
    """A Word document becomes Markdown."""
    cell = "<w:tc>{}</w:tc>"
    rows = [("Part", "Price"), ("Pump", "5")]
    table = "".join("<w:tr>" + "".join(cell.format(paragraph(c)) for c in row) + "</w:tr>" for row in rows)
    reading = one("a.docx", docx(paragraph("Care", "Heading1") + paragraph("Oil it.") + f"<w:tbl>{table}</w:tbl>"))
    assert reading.title == "Care"
    assert reading.text == "# Care\n\nOil it.\n\n| Part | Price |\n| --- | --- |\n| Pump | 5 |"


@pytest.mark.parametrize(
    ("name", "content"), [("a.docx", docx(paragraph("Oil it."))), ("a.xlsx", xlsx([["Oil", "it"]]))]
)
def test_a_strict_office_document_is_read_as_others(one, name, content):
    """What was saved in the strict form of its format says the same."""
    usual = one(name, content).text
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = {part: file.read(part).decode() for part in file.namelist()}
    usually = re.compile(r"http://schemas\.openxmlformats\.org/(?!package)(\w+)/2006/")
    strict = {part: usually.sub(r"http://purl.oclc.org/ooxml/\1/", text) for part, text in parts.items()}
    assert "purl" in strict["_rels/.rels"] and one(name, archive(**strict)).text == usual


def test_a_zip_bomb_is_refused_before_a_library_sees_it(one):
    """A document of a few kilobytes that inflates to gigabytes does not inflate."""
    begun = time.monotonic()
    with pytest.raises(Unreadable, match="inflates"):
        one("a.docx", docx(paragraph("x"), **{"word/media/x.bin": b"\0" * 30_000_000}))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx"])
def test_an_archive_that_is_none_or_another_is_damaged(one, name):
    """A text, or a zip of something else, under an office name is an error."""
    for content in (b"plain text", archive(**{"x.txt": "y"})):
        with pytest.raises(Unreadable, match="damaged"):
            one(name, content)


def test_a_spreadsheet_row_can_be_understood_alone(one):
    """Each row is a line with its headers, under the name of its sheet."""
    reading = one("prices.xlsx", xlsx([["Part", "Price"], ["Pump", "5 euros"], ["Hose", ""]]))
    assert reading.text == "## Prices\n\nPart: Pump; Price: 5 euros\nPart: Hose"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'Part,Note\nPump,"runs,\nloud"\n,\nHose,'),
        ("a.csv", 'Part;Note\nPump;"runs,\nloud"\nHose;'),
        ("a.tsv", 'Part\tNote\nPump\t"runs,\nloud"\nHose\t'),
    ],
)
def test_delimited_text_is_read_with_its_headers(one, name, content):
    """Commas, semicolons or tabs; cells over several lines; empty cells left out."""
    assert one(name, content).text == "Part: Pump; Note: runs, loud\nPart: Hose"


def test_a_row_longer_than_its_headers_loses_nothing(one):
    """Cells without a header are called by their column."""
    assert one("a.csv", "A,\n1,2,3").text == "A: 1; column 2: 2; column 3: 3"


def test_json_records_become_documents(tmp_path):
    """Each record with the text field is a document of its own, in its place."""
    records = [{"body": "First.", "title": "One"}, {"body": "Second."}]
    for name, content in (("a.json", json.dumps(records)), ("a.jsonl", "\n".join(map(json.dumps, records)))):
        readings = many(tmp_path, name, content, text_field="body")
        assert [(r.title, r.text, r.record) for r in readings] == [("One", "First.", 0), ("a 2", "Second.", 1)]


def test_other_json_is_told_in_lines(one):
    """Data becomes lines that name their place; numbers stay as they are written."""
    data = (
        '{"shop": {"open": true, "fee": 1.50, "none": null}, "parts": [{"id": "007", "tags": ["a", "b"]}, {"id": 8}]}'
    )
    assert one("a.json", data).text == (
        "shop > open: true\nshop > fee: 1.50\nparts 1: id: 007\nparts 1 > tags: a, b\nparts 2: id: 8"
    )


def test_records_are_found_where_they_are(tmp_path):
    """Lines in a .json file, a list in a key, and a text within a field are records like others."""
    records = [{"title": "One", "text": "First."}, {"title": "Two", "text": "Second."}]
    for content, field in (
        ("\n".join(map(json.dumps, records)), "text"),
        (json.dumps({"count": 2, "data": {"tags": ["x"], "items": records}}), "text"),
        (json.dumps([{"title": one["title"], "content": {"text": one["text"]}} for one in records]), "content.text"),
        (json.dumps([{"title": one["title"], "content.text": one["text"]} for one in records]), "content.text"),
        (json.dumps([{"title": one["title"], "paragraphs": [one["text"]]} for one in records]), "paragraphs"),
    ):
        readings = many(tmp_path, "a.json", content, text_field=field)
        assert [(r.title, r.text, r.record) for r in readings] == [("One", "First.", 0), ("Two", "Second.", 1)]


def test_values_beside_records_are_counted(tmp_path):
    """What stands in a file of records and in none of them is said to be left out."""
    beside = {"fact": "Closed in May.", "empty": "", "notes": [{"text": "A note."}, ["a", None, 0]]}
    content = {**beside, "items": [{"text": "One."}, {"text": "Two."}, {"text": "Three."}]}
    assert many(tmp_path, "a.json", json.dumps(content))[0].left_out == {"values beside the records": 4}
    assert many(tmp_path, "b.json", json.dumps(content["items"]))[0].left_out == {}


def test_questions_with_answers_are_a_document_each(tmp_path):
    """A list of questions with answers is a document a record, with both in its text; a record without is told."""
    records = [{"Question": "How long is it?", "answers": ["2 m", "or 3"], "tag": "x"}, {"q": "Who?", "a": "Ada"}]
    for content in (records, {"about": "fans", "faq": records}):
        first, second = many(tmp_path, "faq.json", json.dumps(content))
        assert (first.text, second.text) == ("How long is it?\n\n2 m\n\nor 3", "Who?\n\nAda")
    *_, last = many(tmp_path, "faq.jsonl", "\n".join(map(json.dumps, [*records, {"q": "Why?", "note": "open"}])))
    assert last.text == "q: Why?\nnote: open"
    with pytest.raises(Unreadable, match="the fields are: Question, tag, q, a"):
        many(tmp_path, "faq.json", json.dumps(records), text_field="body")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.jsonl", '[\n{"text": "One."},\n{"text": "Two."}\n]\n'),
        ("a.jsonl", '{"text": "One."},\n{"text": "Two."},\n'),
        ("a.jsonl", '{\n  "text": "One."\n}\n{\n  "text": "Two."\n}\n'),
        ("a.json", '{"text": "One."}{"text": "Two."}'),
        ("a.json", '{\n  "text": "One."\n}\n{\n  "text": "Two."\n}\n'),
        ("a.json", '[{"text": "One.", "text": "One."}, {"text": "Two.", "days": NaN}]'),
    ],
)
def test_records_one_behind_the_other_are_read_however_they_are_parted(tmp_path, name, source):
    """A list in a file of JSON lines, commas behind lines and records over several lines lose no record."""
    (tmp_path / name).write_text(source)
    assert [found.text for found in read(tmp_path / name, text_field="text")] == ["One.", "Two."]


def test_a_key_that_is_said_twice_keeps_both_values(one):
    """What JSON says twice in other words is told in both, and what no number is (NaN) not at all."""
    assert (
        one("a.json", '{"limit": 45, "limit": 60, "rate": NaN, "most": Infinity}').text
        == "limit: 45, 60\nmost: Infinity"
    )


def test_a_wrong_line_in_a_json_file_costs_only_itself(tmp_path):
    """Lines in a .json file are judged one by one, as in a .jsonl file."""
    readings = many(tmp_path, "a.json", '{"text": "good"}\n{"text": bad}')
    assert [(r.text, bool(r.error)) for r in readings] == [("good", False), ("", True)]


def test_a_text_field_that_no_record_has_is_answered_with_those_that_there_are(one):
    """Whoever names a wrong field sees the right one in the message, in the form in which it can be given."""
    with pytest.raises(Unreadable, match=r"'txt'; the fields are: head, n, content\.body\."):
        one("a.jsonl", json.dumps({"head": "x", "n": 1, "content": {"body": "y"}}), text_field="txt")


def test_a_long_list_of_texts_is_told_line_by_line(one):
    """Paragraphs in a list stay apart; a few words stay together."""
    assert one("a.json", json.dumps([f"Paragraph {n} says a thing. " * 4 for n in range(9)])).text.count("\n") == 8
    assert one("b.json", json.dumps([f"word {n}" for n in range(9)])).text.count("\n") == 0


def test_a_malformed_line_is_named_and_costs_only_itself(tmp_path):
    """The other records are read; the fault says which line."""
    readings = many(tmp_path, "a.jsonl", '{"text": "good"}\n\n{"text": bad}\n{"text": "fine"}')
    assert [(r.text, r.record) for r in readings] == [("good", 0), ("", 1), ("fine", 2)]
    assert "Line 3" in readings[1].error


def test_jsonl_without_one_good_line_is_an_error(one):
    """A file of another kind under this name does not become a thousand errors."""
    with pytest.raises(Unreadable, match="Line 1 "):
        one("a.jsonl", "not\njson\n")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.yaml"])
@pytest.mark.parametrize("depth", [200, 100_000])
def test_deep_nesting_is_an_error(one, name, depth):
    """A tower of brackets does not exhaust the stack."""
    with pytest.raises(Unreadable, match="nested too deeply"):
        one(name, "[" * depth + "]" * depth)


def test_half_a_character_in_json_can_be_stored(one):
    """A lone surrogate is replaced."""
    one("a.json", r'{"text": "a \ud800 b"}').text.encode()


def test_yaml_is_told_as_it_is_written(one):
    """Values keep their form, merged keys their place, and no tag makes an object."""
    source = (
        "base: &b {fee: 1.50}\nshop:\n  <<: *b\n  since: 2024-05-01\n  run: !!python/object/apply:os.system ['false']\n"
    )
    assert (
        one("a.yml", source).text == "base > fee: 1.50\nshop > fee: 1.50\nshop > since: 2024-05-01\nshop > run: false"
    )


def test_yaml_keys_of_any_kind_and_merged_lists_are_told(one):
    """A key that is a list or a mapping has its content as its name, and of merged mappings the first holds."""
    source = "? [a, b]\n: one\n? {c: d}\n: two\n? [e, f]\n: three\n"
    assert one("a.yaml", source).text == "a, b: one\nc: d: two\ne, f: three"
    source = "x: &x {fee: 1}\ny: &y {fee: 2, day: 3}\nz:\n  <<: [*x, *y]\n"
    assert one("b.yaml", source).text.endswith("z > fee: 1\nz > day: 3")


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}", "{{? [{}] : x}}"])
def test_a_yaml_bomb_does_not_go_off(one, form):
    """Aliases of aliases are refused, or stay small, at once."""
    lines = ["a0: &a0 [lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} " + form.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 30)]
    begun = time.monotonic()
    with suppress(Unreadable):
        assert len(one("a.yaml", "\n".join(lines)).text) < 2_000_000
    assert time.monotonic() - begun < 10


def test_yaml_that_refers_to_itself_is_an_error(one):
    """A list that holds itself does not go round forever."""
    with pytest.raises(Unreadable):
        one("a.yaml", "a: &a [*a, *a]")


def test_malformed_yaml_names_the_line(one):
    """The fault says where it is."""
    with pytest.raises(Unreadable, match="line 2"):
        one("a.yaml", "a: 1\nb: ]")


def test_a_missing_package_names_its_command(one, monkeypatch):
    """Without the package of a format, the pip command is in the message."""
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingExtra) as caught:
        one("a.pdf", pdf(*MANUAL))
    assert "pip install 'raft-pipeline[docs]'" in str(caught.value)


def test_a_file_that_is_too_large_is_not_opened(one, monkeypatch):
    """Size is checked first."""
    monkeypatch.setattr("raft.corpus.readers.MAX_FILE", 10)
    with pytest.raises(Unreadable, match="too large"):
        one("a.txt", "x" * 11)


def test_a_format_without_a_reader_says_so(one):
    """An unknown suffix is named."""
    with pytest.raises(Unreadable, match=r"\.doc"):
        one("a.doc", "x")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("heading.md", "# a" + " " * 100_000 + "b"),
        ("breaks.md", "<br>" * 200_000 + "b"),
        ("data.md", "![a](data:image/png;base64," * 20_000),
        ("rules.md", "---\n" + "a: b\n" * 100_000),
        ("comments.md", "<!-- a -->b" * 200_000 + "\n</script></style>"),
        ("tables.html", "<table><tr><td>" * 20_000),
        ("notes.html", "<p>" + "a<sup>1</sup>" * 10_000),
        ("cell.html", "<table><tr><th>A<th>B<tr><td>" + "a|b<br>" * 10_000 + "<td>c</table>"),
        ("rules.html", f"<style>{'.a .b {display:none} .c {vertical-align:sub}' * 20_000}</style>{'<i>a</i>' * 9_000}"),
    ],
)
def test_reading_takes_no_square_of_the_length(tmp_path, name, content):
    """A line, comments, breaks and nesting of any length end within seconds: in a text, or in an error."""
    with suppress(Unreadable):
        assert many(tmp_path, name, content)[0].text
