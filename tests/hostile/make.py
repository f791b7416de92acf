"""Makes some 430 files that mean no good, in all formats, beside good ones; the same ones each time.

`make(folder)` returns the names of the good ones, each with the text that must be read from it.
"""

import io
import json
import os
import random
import socket
import struct
import zipfile
import zlib

SAID = "The pump weighs 14 kg and runs at night."
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
LAUGHS = (
    "<!DOCTYPE a ["
    + '<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    + "]>"
)


def archive(members, method=zipfile.ZIP_DEFLATED):
    """Return a zip archive of texts by their names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, text in members.items():
            file.writestr(zipfile.ZipInfo(name), text, method)
    return stream.getvalue()


def related(target, kind):
    """Return a file of relationships with one in it."""
    return (
        f'<Relationships xmlns="{RELATIONS}"><Relationship Id="r1" Type="{OFFICE}/{kind}" Target="{target}"/>'
        "</Relationships>"
    )


def docx(body, before="", **more):
    """Return a Word document."""
    text = f'{before}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    begin = {"[Content_Types].xml": TYPES, "_rels/.rels": related("word/document.xml", "officeDocument")}
    return archive({**begin, "word/document.xml": text, **more})


def paragraph(text):
    """Return a paragraph of Word."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def xlsx(cells, before="", sheets=1, **more):
    """Return a workbook."""
    names = "".join(f'<sheet name="s{n}" sheetId="{n + 1}" r:id="r1"/>' for n in range(sheets))
    return archive(
        {
            "[Content_Types].xml": TYPES.replace(
                "/>",
                '><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.'
                'spreadsheetml.sheet.main+xml"/></Types>',
            ),
            "_rels/.rels": related("xl/workbook.xml", "officeDocument"),
            "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": related("worksheets/sheet1.xml", "worksheet"),
            "xl/worksheets/sheet1.xml": f'{before}<worksheet xmlns="{SHEET}">{cells}</worksheet>',
            **more,
        }
    )


def cell(place, text):
    """Return a row of a workbook with one cell."""
    row = "".join(filter(str.isdigit, place))
    return f'<row r="{row}"><c r="{place}" t="inlineStr"><is><t>{text}</t></is></c></row>'


def pdf(content=f"BT /F1 12 Tf 50 700 Td ({SAID}) Tj ET", *, page="", kids="[3 0 R]", filters="", tail="", more=()):
    """Return a PDF of one page; `more` are objects from number 6 on."""
    stream = content if isinstance(content, bytes) else content.encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids {kids} /Count 1 >>".encode(),
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R {page}"
        "/Resources << /Font << /F1 5 0 R >> /XObject << /X 6 0 R >> >> >>".encode(),
        f"<< /Length {len(stream)} {filters} >>\nstream\n".encode() + stream + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 7 0 R >>"
        if more
        else b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *(one if isinstance(one, bytes) else one.encode() for one in more),
    ]
    file, places = b"%PDF-1.7\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n" % number + one + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    start = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % size + table
    return file + f"trailer\n<< /Size {size} /Root 1 0 R {tail} >>\nstartxref\n{start}\n%%EOF\n".encode()


GOOD = {
    "md": f"# Pump\n\n{SAID}\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n",
    "txt": f"{SAID}\n\nIt is blue.\n",
    "rst": f"Pump\n====\n\n{SAID}\n",
    "html": f"<html><head><title>Pump</title></head><body><h1>Pump</h1><p>{SAID}</p></body></html>",
    "pdf": pdf(),
    "docx": docx(paragraph(SAID) + paragraph("It is blue.")),
    "xlsx": xlsx(f"<sheetData>{cell('A1', 'Note')}{cell('A2', SAID)}</sheetData>"),
    "csv": f"part,note\npump,{SAID}\n",
    "tsv": f"part\tnote\npump\t{SAID}\n",
    "json": json.dumps([{"title": "Pump", "text": SAID}]),
    "jsonl": json.dumps({"title": "Pump", "text": SAID}) + "\n",
    "yaml": f"pump:\n  note: {SAID}\n",
}
GOOD = {kind: content if isinstance(content, bytes) else content.encode() for kind, content in GOOD.items()}


def damaged():
    """Yield (name, bytes): each good file, damaged in each way, and under each other's suffix."""
    rng = random.Random(7)
    for kind, good in GOOD.items():
        for quarter in (1, 2, 3):
            yield f"cut{quarter}.{kind}", good[: len(good) * quarter // 4]
        yield f"cut-last.{kind}", good[:-1]
        for number in range(6):
            flipped = bytearray(good)
            for _ in range(1 + number):
                flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            yield f"flipped{number}.{kind}", bytes(flipped)
        yield f"empty.{kind}", b""
        yield f"blank.{kind}", b" \n\t\n" * 100
        yield f"zeros.{kind}", bytes(5000)
        yield f"zero-within.{kind}", good[: len(good) // 2] + b"\0" + good[len(good) // 2 :]
        yield f"noise.{kind}", rng.randbytes(5000)
        yield f"twice.{kind}", good + good
        yield f"controls.{kind}", good + bytes(range(1, 32)) * 20 + b"\x7f\xc2\x9b"
        yield f"utf16.{kind}", b"\xff\xfe" + good + b"\0"
        yield f"half-letter.{kind}", good + b"\xe2\x82"
        yield f"no-encoding.{kind}", good + b"\x81\xfe\xff\x90" * 50
        for other in rng.sample([one for one in GOOD if one != kind], 3):
            yield f"really-{kind}.{other}", good


DEEP = 100_000


def texts():
    """Yield (name, content) of Markdown and plain text that is nested, long or unclosed beyond reason."""
    yield "comments.md", "<!-- a --> b <!--\n" * 20_000
    yield "comments-in-a-line.md", "<!-- a -->b" * 50_000 + "\n</script></style>"
    yield "comments-open.md", "<!--" * DEEP + "\n\n" + SAID
    yield "comments-ending.md", "<!-- " * DEEP + "-->" * 3
    yield "comments-mixed.html", "<!--<script><style>-->" * 20_000
    yield "quotes-deep.md", "> " * 50_000 + "a"
    yield "lists-deep.md", "\n".join("  " * n + "- a" for n in range(1_000))
    yield "ticks.md", "`" * DEEP + "\n" + "`a " * DEEP
    yield "brackets.md", "[" * DEEP + "](" * DEEP
    yield "stars.md", "# " + "**_" * 50_000
    yield "tables.md", "<table><tr><td>a\n" * 20_000
    yield "tables-closed.md", "<table><tr><td>a</td></tr></table>" * 20_000
    yield "tables-of-pipes.md", "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n" * 20_000
    yield "images.md", "<img alt='" * 50_000
    yield "entities.md", "&#99999999;&#xd800;&#x110000;&amp" * 10_000
    yield "templates.md", "{{ a {% b " * 50_000
    yield "heading.md", "# a" + " " * DEEP + "b"
    yield "breaks.md", "<br>" * DEEP + SAID
    yield "title.md", "---\ntitle: a" + " " * 20_000 + "b\n---\n" + SAID
    yield "columns.md", "| a |\n" + " " * DEEP + "| b |\n| c |"
    yield "rules.md", "---\n" * DEEP
    yield "fences.md", "```\n~~~\n" * 50_000
    yield "front-matter.md", "---\ntitle: a\n" + "b: c\n" * DEEP
    yield "line.md", "word " * 400_000
    yield "line.txt", "x" * 2_000_000
    yield "blank-lines.txt", "\n" * 2_000_000 + SAID
    yield "underlines.rst", "=" * 500_000 + "\n" + "a\n=\n" * 20_000
    yield "paragraphs.md", "a b\n\n" * 200_000


def pages():
    """Yield (name, content) of HTML that is nested, spans or is malformed beyond reason."""
    yield "paragraphs.html", "<p>a b</p>" * 20_000
    yield "blocks-deep.html", "<div>" * DEEP + SAID
    yield "quotes-deep.html", "<blockquote>" * 20_000 + SAID
    yield "lists-deep.html", "<ul><li>a" * 20_000
    yield "spans-deep.html", "<b><i>" * 10_000 + SAID
    yield "tables.html", "<table><tr><td>a</td><td>b</td></tr></table>" * 3_000
    yield "tables-deep.html", "<table><tr><td>" * 20_000
    yield "tables-deep-closed.html", "<table><tr><td>" * 500 + SAID + "</td></tr></table>" * 500
    yield "span.html", f"<table><tr><td colspan=999999999 rowspan=999999999>{SAID}</td><td>b</td></tr></table>"
    yield "span-of-digits.html", f"<table><tr><td colspan={'9' * 5_000}>{SAID}</td><td>b</td></tr></table>"
    yield "odd.html", f"<![CDATA[<!DOCTYPE [<!ENTITY % x '<?php <![if ]>&#xd800;&#x110000;<p>{SAID}<!--"
    yield "attribute.html", f"<p title='{'a' * 1_000_000}'>{SAID}</p>" + "<a href=" * 1_000


def records():
    """Yield (name, content) of tables, JSON and YAML that are wide, deep or refer to themselves."""
    yield "commas.csv", "," * 1_000_000
    yield "columns.csv", ",".join(f"c{n}" for n in range(50_000)) + "\n" + "1," * 50_000
    yield "widening.csv", "\n".join("a," * n for n in range(1, 700))
    yield "quoted.csv", 'a,b\n"' + "x\n" * 500_000
    yield "deep.json", "[" * DEEP + "]" * DEEP
    yield "deep-open.json", '{"a":' * DEEP
    yield "digits.json", '{"a": ' + "9" * DEEP + ', "b": 1e999999999, "c": NaN, "d": -Infinity}'
    yield "half.json", '[{"text": "half \\ud83d of one", "title": "\\ud83d"}, {"text": "\\udc00\\ud800"}]'
    yield "half-key.json", '{"\\ud83d": {"\\udfff": ["\\ud800 a"]}}'
    yield "keys.json", json.dumps({f"k{n}": {"a": n} for n in range(30_000)})
    yield "lines.jsonl", '{"text": "a b c"}\n[\n' * 300
    yield "deep.jsonl", "[" * DEEP + "\n" + json.dumps({"text": SAID})
    yield "aliases.yaml", "a0: &a0 ha\n" + "\n".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}x]" for n in range(1, 30))
    yield "itself.yaml", "a: &a [*a, *a]\nb: &b {c: *b, <<: *b}"
    yield "deep.yaml", "[" * DEEP
    yield "indents.yaml", "\n".join(" " * n + "a:" for n in range(2_000))
    yield "objects.yaml", "!!python/object/apply:os.system ['touch hacked']\n---\n? [a, {b: c}]\n: !!binary x\n"
    yield "keys.yaml", "? " * DEEP + "a"


def offices():
    """Yield (name, content) of Word documents and workbooks that grow, nest or lie about their size."""
    yield "paragraphs.docx", docx(paragraph("a b") * 10_000)
    yield "tables.docx", docx(f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc></w:tr></w:tbl>" * 2_000)
    yield "tables-deep.docx", docx("<w:tbl><w:tr><w:tc>" * 5_000 + "</w:tc></w:tr></w:tbl>" * 5_000)
    yield "runs-deep.docx", docx("<w:sdt><w:sdtContent>" * 20_000 + "</w:sdtContent></w:sdt>" * 20_000)
    yield (
        "span.docx",
        docx(
            '<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val="999999999"/></w:tcPr>'
            + paragraph(SAID)
            + "</w:tc></w:tr></w:tbl>"
        ),
    )
    yield "laughs.docx", docx(paragraph("&a11;"), before=LAUGHS)
    yield "entity.docx", docx(paragraph("&e;"), before='<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>')
    yield "bomb.docx", docx(paragraph("a"), **{"word/media/a.png": bytes(60_000_000)})
    yield "members.docx", docx(paragraph(SAID), **{f"word/{n}.xml": "" for n in range(5_000)})
    yield "no-document.docx", archive({"[Content_Types].xml": TYPES})
    yield "outside.docx", archive({"../../hacked": "a", "/hacked": "b", "word/document.xml": "<a/>"})
    yield "zip-in-zip.docx", archive({"word/document.xml": GOOD["docx"]})
    far = cell("A1", "a") + cell("XFD1048576", "b")
    yield "far.xlsx", xlsx(f"<sheetData>{far}</sheetData>")
    yield "far-sheets.xlsx", xlsx(f"<sheetData>{far}</sheetData>", sheets=50)
    yield "beyond.xlsx", xlsx(f"<sheetData>{cell('A1', 'a')}{cell('ZZZZ99999999', 'b')}</sheetData>")
    yield "beyond-all.xlsx", xlsx(f"<sheetData>{cell('A' * 40 + '9' * 40, 'b')}</sheetData>")
    yield "dimension.xlsx", xlsx(f'<dimension ref="A1:XFD1048576"/><sheetData>{cell("A1", SAID)}</sheetData>')
    yield "sheets.xlsx", xlsx(f"<sheetData>{cell('A1', 'a')}</sheetData>", sheets=3_000)
    yield "laughs.xlsx", xlsx(f"<sheetData>{cell('A1', '&a11;')}</sheetData>", before=LAUGHS)
    yield "bomb.xlsx", xlsx("<sheetData/>", **{"xl/sharedStrings.xml": bytes(60_000_000)})
    yield "rows-unclosed.xlsx", xlsx("<sheetData>" + "<row><c>" * DEEP)


def pdfs():
    """Yield (name, content) of PDFs that refer to themselves, grow or hold what is no number."""
    yield "cyclic-pages.pdf", pdf(kids="[2 0 R 3 0 R]")
    yield "kids.pdf", pdf(kids=f"[{'3 0 R ' * 500}]")
    yield "parent.pdf", pdf(page="/Parent 3 0 R /Contents 3 0 R ")
    yield "contents.pdf", pdf(page=f"/Contents [{'4 0 R ' * 5_000}] ")
    yield (
        "itself-drawn.pdf",
        pdf(
            f"/X Do BT /F1 12 Tf 9 9 Td ({SAID}) Tj ET",
            more=[
                "<< /Type /XObject /Subtype /Form /Resources << /XObject << /X 6 0 R >> >> /Length 11 >>\nstream\n"
                "/X Do /X Do\nendstream",
                "<< /Length 0 >>\nstream\n\nendstream",
            ],
        ),
    )
    ranges = "1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfrange <00000000> <ffffffff> <0041> endbfrange"
    yield "ranges.pdf", pdf(more=["null", f"<< /Length {len(ranges)} >>\nstream\n{ranges}\nendstream"])
    yield "previous.pdf", pdf(tail="/Prev 0").replace(b"/Prev 0", b"/Prev 9")
    yield "encrypted.pdf", pdf(tail="/Encrypt << /Filter /Standard /V 9 /R 9 /O () /U () /P 0 >> /ID [() ()]")
    yield "arrays.pdf", pdf(page="/A " + "[" * DEEP)
    yield "dictionaries.pdf", pdf(page="/A " + "<<" * 5_000 + ">>" * 5_000)
    yield "operators.pdf", pdf("q " * DEEP + "BT (a) Tj " * 5_000)
    yield "inflating.pdf", pdf(zlib.compress(bytes(90_000_000)), filters="/Filter /FlateDecode")
    yield (
        "inflating-twice.pdf",
        pdf(zlib.compress(zlib.compress(bytes(90_000_000))), filters="/Filter [/FlateDecode /FlateDecode]"),
    )
    yield "filters.pdf", pdf(filters=f"/Filter [{'/ASCIIHexDecode ' * 500}]")
    yield "font-size.pdf", pdf(f"BT /F1 {'9' * 400} Tf 1e308 -1e308 Td ({SAID}) Tj ET")
    yield "no-numbers.pdf", pdf(f"BT /F1 nan Tf inf nan Td ({SAID}) Tj ET")
    yield "length.pdf", pdf().replace(b"/Length 6", b"/Length 99999999999996")


NAMES = [
    *("\x1b[31mred.md", "a\nb.md", "\x9b31m.md", "\u202egpj.md", "caf\u00e9.md", "cafe\u0301.md", "-rf.md", " .md"),
    *("a#0.jsonl.md", "%s%n.md", "$HOME.md", "`ls`.md", "'\".md", "a;b.md", "CON.md", "LOUD.MD", "n" * 250 + ".md"),
    *("\U0001f600.md", "\u200b.md", "\ufeff.md", "a\\b.md", "a b\t.md", "[a].md", "{a}.md", "*.md", "?.md", "&lt;.md"),
]


def make(folder):
    """Fill a folder, and return the text that is in each file whose content is good, by the file's path."""
    folder.mkdir()
    good = {}

    def put(name, content, text=None):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        if text:
            good[path] = text

    for kind, content in GOOD.items():
        put(f"a-good.{kind}", content, SAID)
        put(f"z-good.{kind}", content + (b"\n" if b"\0" not in content else b""), SAID)
    for name, content in [*damaged(), *texts(), *pages(), *records(), *offices(), *pdfs()]:
        put(name, content)
    for name in [*NAMES, os.fsdecode(b"not-utf8-\xff.md"), os.fsdecode(b"not-utf8-\xfe.md")]:
        put(name, f"{SAID} {name!a}", SAID)
    os.mkfifo(folder / "pipe.md")
    os.mkfifo(folder / "pipe.pdf")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(folder, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{here}/socket.md")
        os.close(here)
    for name, target in {
        "itself.md": "itself.md",
        "nowhere.md": "nowhere",
        "first.md": "second.md",
        "second.md": "first.md",
        "device.md": "/dev/zero",
        "outside.md": "/etc/hostname",
        "above": "..",
        "round": ".",
    }.items():
        (folder / name).symlink_to(target)
    (folder / "folder.md").mkdir()
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes/manifest.json")
    os.mkfifo(folder / "pipes/ledger.sqlite")
    (folder / "closed").mkdir(mode=0)
    below = folder
    for _ in range(60):
        below = below / "below"
        below.mkdir()
    (below / "deep.md").write_text(SAID)
    good[below / "deep.md"] = SAID
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(2 << 30)
    with (folder / "sparse.xlsx").open("wb") as file:
        file.write(struct.pack("<I", 0x04034B50))
        file.truncate(300_000_000)
    return good
