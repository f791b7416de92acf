"""Promises of the smaller formats: notebooks, slides, e-mails, books, subtitles, MDX; and of the table of all."""

import json
import re
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_readers import archive

from raft.corpus.readers import SUFFIXES, Unreadable

DRAWING = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
SLIDE = f'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" {DRAWING}'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def test_the_table_of_formats_is_whole():
    """The documentation names each suffix that is read, and none that is not."""
    page = (Path(__file__).parents[2] / "docs" / "build.md").read_text(encoding="utf-8")
    table = page.partition("| files | what is read |")[2].partition("\n\n")[0]
    named = re.findall(r"(?<=[| ])\.\w+", "\n".join(row.split("|")[1] + "|" for row in table.splitlines() if row))
    assert sorted(named) == sorted(SUFFIXES)


def test_mdx_is_markdown_without_its_program(one):
    """Imports, exports, comments and tags of components go, their titles and contents stay, and code is untouched."""
    source = (
        "import {Tabs} from './tabs'\nexport const meta = {\n  a: 1\n}\n\n# Yard\n\nimport duties are due.\n\n"
        '<Card title="Cold room" icon={<Icon/>}>\nKept {/* not\nlong */}cold.\n</Card>\n\n'
        "```jsx\nimport x from 'y'\n<Card/>\n```\n\nWrite `<Card/>`.<Tabs.Item/>"
    )
    assert one("a.mdx", source).text == (
        "# Yard\n\nimport duties are due.\n\nCold room\n\nKept cold.\n\n"
        "```jsx\nimport x from 'y'\n<Card/>\n```\n\nWrite `<Card/>`."
    )


def test_a_notebook_is_its_texts_and_code(one):
    """Cells stay in their order, code is fenced, outputs are counted; older formats are read too."""
    cells = [
        {"cell_type": "markdown", "source": ["# Pumps\n", "\n", "Turn <b>on</b>."]},
        {"cell_type": "code", "source": "pump.on()", "outputs": [{"text": "done"}]},
    ]
    reading = one("a.ipynb", json.dumps({"nbformat": 4, "cells": cells}))
    assert (reading.title, reading.text) == ("Pumps", "# Pumps\n\nTurn on.\n\n```\npump.on()\n```")
    assert reading.left_out == {"outputs of cells": 1}
    old = [{"cell_type": "heading", "level": 2, "source": "Old"}, {"cell_type": "code", "input": ["a = 1"]}]
    assert one("b.ipynb", json.dumps({"worksheets": [{"cells": old}]})).text == "## Old\n\n```\na = 1\n```"
    odd = [{"cell_type": "heading", "level": level, "source": "Odd"} for level in (10**9, "x", None)]
    assert one("c.ipynb", json.dumps({"cells": odd})).text == "\n\n".join(["###### Odd"] * 3)


def test_an_email_is_its_headers_and_text(one):
    """Who wrote when about what, and the text; attachments are counted, HTML is read where there is nothing else."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Gebühr der Tür", "Ada <ada@example.org>", "bo@example.org"
    message["Date"] = "Mon, 01 Jun 2026 10:00:00 +0200"
    message.set_content("Sie beträgt 45 €.\n")
    message.add_alternative("<p>Sie beträgt <b>45</b> €.", subtype="html")
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename="a.pdf")
    reading = one("a.eml", message.as_bytes())
    assert reading.text == (
        "Subject: Gebühr der Tür\nFrom: Ada <ada@example.org>\nTo: bo@example.org\n"
        "Date: Mon, 01 Jun 2026 10:00:00 +0200\n\nSie beträgt 45 €."
    )
    assert (reading.title, reading.left_out) == ("Gebühr der Tür", {"attachments": 1})
    page = b"Subject: x\nContent-Type: text/html; charset=none\n\n<p hidden>gone</p><p>T\xfcr"
    assert one("b.eml", page).text == "Subject: x\n\nTür"
    flowed = b"Subject: x\nContent-Type: text/plain; format=flowed\n\none \ntwo\n-- \nAda"
    assert one("c.eml", flowed).text == "Subject: x\n\none two\n-- \nAda"
    with pytest.raises(Unreadable, match="no headers"):
        one("d.eml", "Just text.")


def multipart(kind, *parts, head=b""):
    """Return a part of several, each a pair of headers and content."""
    mark = f"={kind}=".encode()
    inner = b"".join(b"--" + mark + b"\n" + part + b"\n" for part in parts)
    return head + b'Content-Type: multipart/%s; boundary="%s"\n\n%s--%s--\n' % (kind.encode(), mark, inner, mark)


def test_all_texts_of_an_email_are_read_in_their_order(one):
    """What is written around a picture or below a list's mail is text; attachments of an alternative are counted."""
    text, html = b"Content-Type: text/plain\n\n%s\n", b"Content-Type: text/html\n\n<p>%s</p>\n"
    picture = b"Content-Type: image/png\nContent-Disposition: inline; filename=a.png\n\nx\n"
    file = b"Content-Type: text/plain\nContent-Disposition: attachment\n\ngone\n"
    head = b"Subject: x\n"
    reading = one("a.eml", multipart("mixed", text % b"Before.", picture, text % b"After.", file, head=head))
    assert (reading.text, reading.left_out) == ("Subject: x\n\nBefore.\n\nAfter.", {"attachments": 2})
    page = multipart("mixed", html % b"One", picture, html % b"Two")
    reading = one("b.eml", multipart("alternative", text % b"One Two", page, head=head))
    assert (reading.text, reading.left_out) == ("Subject: x\n\nOne Two", {"attachments": 1})
    listed = multipart("related", html % b"Body", b"Content-Type: image/gif\n\nx\n")
    reading = one("c.eml", multipart("mixed", listed, text % b"-- \nTo leave: write.", head=head))
    assert (reading.text, reading.left_out) == ("Subject: x\n\nBody\n\n-- \nTo leave: write.", {})


def test_an_email_is_what_its_reader_sees(one):
    """A plain text that only says to open the page gives way to the page, and an invitation stands beside either."""
    text, html = b"Content-Type: text/plain\n\n%s\n", b"Content-Type: text/html\n\n<p>%s</p>\n"
    calendar = (
        b"Content-Type: text/calendar\n\nBEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY;LANGUAGE=en:Audit\\, cold room\n"
        b"DTSTART;TZID=Europe/Berlin:20260601T080000\nDTEND:20260601T080000Z\nLOCATION:Hall\n  7\n"
        b"DESCRIPTION:Please come.\\nBring keys.\nBEGIN:VALARM\nDESCRIPTION:gone\nEND:VALARM\nEND:VEVENT\n"
    )
    head = b"Subject: x\n"
    stub = multipart("alternative", text % b"View this in a browser.", html % b"The pump is 45 EUR.", head=head)
    assert one("a.eml", stub).text == "Subject: x\n\nThe pump is 45 EUR."
    event = (
        "Event: Audit, cold room\nBegins: 2026-06-01 08:00 (Europe/Berlin)\nEnds: 2026-06-01 08:00 UTC\nPlace: Hall 7"
    )
    invited = one("b.eml", multipart("alternative", text % b"Please come.", calendar, head=head))
    assert invited.text == f"Subject: x\n\nPlease come.\n\n{event}\nBring keys."
    assert one("c.eml", head + calendar).text == f"Subject: x\n\n{event}\nPlease come.\nBring keys."


def test_messages_within_an_email_are_read(one):
    """What is forwarded as a message of its own is text; signatures are none, and what is encrypted is told."""
    inner = b"Content-Type: message/rfc822\n%s\nFrom: Bo <b@x.org>\nSubject: Lease\n\nIt ends in 2027.\n"
    signature = b"Content-Type: application/pgp-signature\n\nx\n"
    for more in (b"", b"Content-Disposition: attachment; filename=a.eml\n"):
        reading = one("a.eml", multipart("mixed", inner % more, signature, head=b"Subject: x\n"))
        assert reading.text == "Subject: x\n\nSubject: Lease\nFrom: Bo <b@x.org>\n\nIt ends in 2027."
        assert reading.left_out == {}
    secret = multipart("encrypted", signature, signature, head=b"Subject: x\n")
    assert one("b.eml", secret).left_out == {"encrypted parts": 1}
    mark = "-----{} PGP {}-----\n"
    armour = mark.format("BEGIN", "SIGNED MESSAGE") + "Hash: SHA256\n\nSeen.\n"
    armour += mark.format("BEGIN", "SIGNATURE") + "Comment: a - b\n\nqQ==\n" + mark.format("END", "SIGNATURE")
    armour += mark.format("BEGIN", "MESSAGE") + "\nqQ==\n" + mark.format("END", "MESSAGE")
    reading = one("c.eml", f"Subject: x\n\n{armour}begin 644 a.bin\n#86)C\n`\nend\n[cid:a@b]")
    assert reading.text == "Subject: x\n\nSeen."
    assert reading.left_out == {"encrypted parts": 1, "attachments": 1, "pictures without text": 1}


@pytest.mark.parametrize("boundary", ['; boundary="other"', ""])
def test_parts_of_a_wrong_boundary_are_found(one, boundary):
    """Parts whose boundary is not the one that is named, or that is named nowhere, cost no text."""
    part = "Content-Type: text/plain; charset=utf-8\r\n\r\nDie Tür.\r\n"
    parts = f"--B\r\n{part}--B\r\n{part.replace('Tür', 'Uhr')}--B--"
    mail = f"Subject: x\r\nContent-Type: multipart/mixed{boundary}\r\n\r\n{parts}"
    assert one("a.eml", mail.encode()).text == "Subject: x\n\nDie Tür.\n\nDie Uhr."


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"\xef\xbb\xbf", "Die Tür.".encode()),
        (b"\r\n\n", "Die Tür.".encode()),
        (b"Content-Type: text/plain; charset=iso-8859-1\n", "Die Tür.".encode()),
        (b"Content-Type: text/markdown\n", "Die Tür.".encode()),
        (b"Content-Type: text/enriched\n", "Die <bold>Tür</bold>.".encode()),
        (b"Content-Type: text/plain; format=Flowed; delsp=yes\n", "Die T \nür.".encode()),
    ],
)
def test_an_email_is_read_as_mail_programs_do(one, head, body):
    """Marks before the headers, a charset that is not so, and the less common forms of text cost nothing."""
    assert one("a.eml", head + b"Subject: x\n\n" + body).text == "Subject: x\n\nDie Tür."


def test_an_email_whose_headers_are_bytes_is_read(one):
    """Headers that are not encoded are read in the charset of the text, and a mail of other headers is one."""
    mail = "Subject: Gebühr\nContent-Type: text/plain; charset=%s\n\nDie Tür."
    assert [one("a.eml", (mail % code).encode(code)).title for code in ("iso-8859-1", "utf-8")] == ["Gebühr"] * 2
    assert one("b.eml", (mail % "utf-16").replace("Content-Type", "X").encode("utf-16")).title == "Gebühr"
    assert one("c.eml", "Received: by x\n\nThe limit.").text == "The limit."


def test_an_email_of_odd_headers_is_read(one):
    """Thousands of addresses take no minute, and a charset that decodes nothing costs no mail."""
    many = ",\n ".join(f"=?utf-8?q?J=C3=B6?= <p{number}@example.org>" for number in range(30_000))
    assert "Jö <p29999@example.org>" in one("a.eml", f"Subject: x\nTo: {many}\n\nBody").text
    odd = "Subject: x\nContent-Type: text/plain; charset=undefined\n\nThe door — shut."
    assert one("b.eml", odd).text.endswith("The door — shut.")


def test_subtitles_are_sentences(one):
    """Numbers, times, marks of style and repeated lines go; speakers and turns begin paragraphs."""
    srt = "1\n00:00:01,000 --> 00:00:02,000\nKeep the <i>door</i>\n\n2\n00:00:03,000 --> 00:00:04,000\n{\\an8}shut.\n"
    assert one("a.srt", srt).text == "Keep the door shut."
    vtt = (
        "WEBVTT\n\nNOTE gone\n\nintro\n00:01.000 --> 00:02.000 align:start\n<v Ada>Keep it\n\n"
        "00:02.000 --> 00:03.000\n<v Ada>Keep it\n<v Ada>shut &amp; dry.\n\nNOTE gone\n\n"
        "00:03.000 --> 00:04.000\n<v Bo>Why?\n"
    )
    assert one("a.vtt", vtt).text == "Ada: Keep it shut & dry.\n\nBo: Why?"


def test_a_book_is_its_chapters_in_order(one):
    """The spine says which chapters there are, and in what order; its table of contents is no text."""
    container = '<container><rootfiles><rootfile full-path="O/c.opf"/></rootfiles></container>'
    package = (
        '<package><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The book</dc:title></metadata>'
        '<manifest><item id="a" href="t/ch%201.xhtml"/><item id="b" href="t/2.xhtml"/>'
        '<item id="n" href="n.xhtml" properties="nav"/>'
        '<item id="x" href="x.xhtml"/></manifest><spine><itemref idref="n"/><itemref idref="b"/><itemref idref="a"/>'
        '<itemref idref="x"/></spine></package>'
    )
    chapters = {
        "O/t/ch 1.xhtml": '<?xml version="1.0"?><html><head><title/></head><body><h1>One</h1></body></html>',
        "O/t/2.xhtml": "<html><body><h1>Two</h1></body></html>",
        "O/n.xhtml": "<html><body>gone</body></html>",
    }
    reading = one("a.epub", archive(**{"META-INF/container.xml": container, "O/c.opf": package, **chapters}))
    assert (reading.title, reading.text) == ("The book", "# Two\n\n# One")
    assert reading.left_out == {"missing chapters": 1}


def test_subtitles_lose_no_lines(one):
    """Empty lines within a cue, none between two, odd times, names that speak and several voices cost no words."""
    srt = (
        "1\n00:00:01,000 --> 00:00:02,000\nKeep the door\n\nshut at <degrees> of\n2\n0:0:3,5 --> 0:0:4,5\n"
        "45\n\n3\n00:00:05,000 --> 00:00:06,000\nADA: In the hall of\n46\n"
    )
    assert one("a.srt", srt).text == "Keep the door shut at <degrees> of 45\n\nADA: In the hall of 46"
    marked = "1\n00:00:01,000 --> 00:00:02,000\n<p>Keep the<br>door<BR />shut</p> <sub>now</sub>\n"
    assert one("c.srt", marked).text == "Keep the door shut now"
    assert one("b.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ada>Hi</v> <v.loud Bo>Ho\n").text == "Ada: Hi\n\nBo: Ho"


def test_a_notebook_keeps_fences_and_no_base64(one):
    """Code that has fences in it is fenced by longer ones; pictures in base64 are the words that describe them."""
    cells = [
        {"cell_type": "code", "source": 's = """\n```\nx\n```\n"""'},
        {"cell_type": "markdown", "source": f"Seen: ![the pump](data:image/png;base64,{'A' * 300})"},
    ]
    text = one("a.ipynb", json.dumps({"cells": cells})).text
    assert text == '````\ns = """\n```\nx\n```\n"""\n````\n\nSeen: the pump'


def book(chapters, *more, container="O/c.opf", **files):
    """Return a book of chapters: the bodies (or bytes) of pages by what the package calls them."""
    package = "<package><manifest>" + "".join(
        f'<item id="c{number}" href="{name}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(chapters)
    )
    package += "".join(f'<item href="{name}" {about}/>' for name, about in more) + "</manifest><spine>"
    package += "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters))) + "</spine></package>"
    pages = {
        f"O/{unquote(name)}": page if isinstance(page, bytes) else f"<html><body>{page}</body></html>"
        for name, page in chapters.items()
        if page
    }
    start = f'<container><rootfile full-path="x.pdf"/><rootfile full-path="{container}"/></container>'
    return archive(**{"META-INF/container.xml": start, "O/c.opf": package, **pages, **files})


@pytest.mark.parametrize("href", ["t/ch%201.xhtml", "T/CH 1.xhtml", "t/ch 1.xhtml#start", "/O/t/ch 1.xhtml"])
@pytest.mark.parametrize("container", ["O/c.opf", "/O/c.opf", "none.opf"])
def test_the_files_of_a_book_are_found(one, href, container):
    """Names that are encoded, have another case, a place behind them or begin at the root are found as readers do."""
    page = "<html><body><p>The limit &amp; more.</p></body></html>"
    assert one("a.epub", book({href: ""}, container=container, **{"O/t/ch 1.xhtml": page})).text == "The limit & more."


def test_a_book_with_encrypted_or_damaged_chapters_keeps_the_others(one):
    """A chapter that is encrypted, a picture or no text is counted; a book of these alone is told to be protected."""
    secret = "".join(
        f'<EncryptedData><EncryptionMethod Algorithm="{method}"/><CipherReference URI="O/{name}"/></EncryptedData>'
        for name, method in (("b.xhtml", "aes"), ("f.otf", "http://www.idpf.org/2008/embedding"))
    )
    hidden = {"META-INF/encryption.xml": f"<encryption>{secret}</encryption>"}
    reading = one("a.epub", book({"a.xhtml": "Free.", "b.xhtml": b"\0\1" * 99, "c.xhtml": b"\0\1" * 99}, **hidden))
    assert reading.text == "Free."
    assert reading.left_out == {"encrypted chapters": 1, "chapters that cannot be read": 1}
    with pytest.raises(Unreadable, match="protected"):
        one("b.epub", book({"b.xhtml": b"\0\1" * 99}, **hidden))


def test_a_chapter_without_a_heading_has_its_name_from_the_contents(one):
    """What only the table of contents says is the heading of the chapter; one that has a heading keeps it."""
    names = [("a.xhtml", "One: Limits"), ("b.xhtml", "Two")]
    points = "".join(f'<navPoint><navLabel>{name}</navLabel><content src="{at}#x"/></navPoint>' for at, name in names)
    links = '<nav><a href="c.xhtml">Three</a></nav><nav type="page-list"><a href="d.xhtml">12</a></nav>'
    links += "<nav>" + "".join(f'<a href="{at}">{name}</a>' for at, name in names) + "</nav>"
    chapters = {
        "a.xhtml": "<p>It is 45 days.</p>",
        "b.xhtml": "<h2>Fees</h2>",
        "c.xhtml": "<p>THREE</p>",
        "d.xhtml": "d",
    }
    for name, about, content in (("t.ncx", "", points), ("n.xhtml", 'properties="nav"', links)):
        reading = one("a.epub", book(chapters, (name, about), **{f"O/{name}": f"<x>{content}</x>"}))
        assert reading.text == "# One: Limits\n\nIt is 45 days.\n\n## Fees\n\nTHREE\n\nd"


def test_pages_of_books_are_read_as_they_are_seen(one):
    """Marks of notes and powers stand apart, printed page numbers go, notes that are hidden until opened stay."""
    page = (
        '<p>24<a epub:type="noteref" href="#n">1</a> months <span epub:type="pagebreak">12</span>long, '
        '10<span class="up">6</span> and <m:math><m:msup><m:mi>x</m:mi><m:mn>2</m:mn></m:msup></m:math>, '
        "<ruby>東京<rt>とうきょう</rt></ruby>, <ruby>WWW<rt>web</rt></ruby></p>"
        '<p class="off">gone</p><footer><aside class="off" id="n">By law.</aside></footer>'
    )
    style = ".up { vertical-align: super } .off { display: none }"
    made = book({"a.xhtml": f'<link rel="stylesheet" href="../s.css"/>{page}'.encode()}, **{"s.css": style})
    reading = one("a.epub", made)
    assert reading.text == "24 ¹ months long, 10⁶ and x², 東京, WWW (web)\n\nBy law."
    assert reading.left_out == {"hidden parts": 1}


@pytest.mark.parametrize("name", ["t.ncx", "n.xhtml", "META-INF/encryption.xml"])
@pytest.mark.parametrize("data", ["", " ", "\0\1 no XML"])
def test_a_book_whose_contents_are_damaged_keeps_its_chapters(one, name, data):
    """A table of contents that is empty or no XML costs no book."""
    about = 'properties="nav"' if name == "n.xhtml" else ""
    made = book({"a.xhtml": "The limit."}, (name, about), **{name if "/" in name else f"O/{name}": data})
    assert one("a.epub", made).text == "The limit."


@pytest.mark.parametrize(
    "kind", ["text/xml", "text/plain", "application/xhtml", "application/xhtml+xml; charset=utf-8"]
)
def test_a_chapter_is_read_whatever_it_is_said_to_be(one, kind):
    """Files that are named as pages are read, also where the package tells their kind wrongly."""
    package = (
        f'<package><manifest><item id="c" href="a.html" media-type="{kind}"/></manifest><spine><itemref idref="c"/>'
    )
    start = '<container><rootfile full-path="c.opf"/></container>'
    files = {"META-INF/container.xml": start, "c.opf": f"{package}</spine></package>", "a.html": "<p>The limit.</p>"}
    assert one("a.epub", archive(**files)).text == "The limit."


@pytest.mark.parametrize("link", ['rel="alternate stylesheet"', 'rel="stylesheet" media="print"'])
def test_a_style_of_a_book_for_paper_or_by_choice_hides_nothing(one, link):
    """What only a style hides that is for paper, or that readers may choose, is text of a book."""
    made = book(
        {"a.xhtml": f'<link {link} href="s.css"/><p class="off">The limit.</p>'}, **{"O/s.css": ".off{display:none}"}
    )
    assert one("a.epub", made).text == "The limit."


def shape(text, role="", more=""):
    """Return a shape of a slide; a role makes it a placeholder, a paragraph is a line."""
    place = f'<p:nvSpPr><p:nvPr><p:ph type="{role}"/></p:nvPr></p:nvSpPr>' if role else ""
    lines = "".join(f"<a:p>{more}<a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
    return f"<p:sp>{place}<p:txBody>{lines}</p:txBody></p:sp>"


def relations(**targets):
    """Return what a part refers to."""
    made = "".join(
        f'<Relationship Id="{name}" Type="{OFFICE}/{"notesSlide" if name == "n" else "slide"}" Target="{target}"/>'
        for name, target in targets.items()
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{made}</Relationships>'


def test_slides_are_pages_with_titles_lists_tables_and_notes(one):
    """What stands on a slide is told in Markdown with its notes; hidden slides, their numbers and pictures are not."""

    def cell(text, more=""):
        return f"<a:tc {more}><a:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody></a:tc>"

    rows = (cell("Hall") + cell("Lead"), cell("North") + cell("Ada"), cell("", 'vMerge="1"') + cell("Bo"))
    table = "<a:tbl>" + "".join(f"<a:tr>{row}</a:tr>" for row in rows) + "</a:tbl>"
    power = '<a:p><a:r><a:t>10</a:t></a:r><a:r><a:rPr baseline="30000"/><a:t>6</a:t></a:r></a:p>'
    first = shape("Limits", "title") + shape("cold\ndry", "body") + shape("7", "sldNum") + "<p:pic/>"
    second = f"<p:graphicFrame>{table}</p:graphicFrame><p:sp><p:txBody>{power}</p:txBody></p:sp>"

    ids = "".join(f'<p:sldId r:id="{name}"/>' for name in ("r2", "r3", "r1"))
    parts = {
        "ppt/presentation.xml": f'<p:x {SLIDE} xmlns:r="{OFFICE}"><p:sldIdLst>{ids}</p:sldIdLst></p:x>',
        "ppt/_rels/presentation.xml.rels": relations(r1="slides/s1.xml", r2="/ppt/slides/s2.xml", r3="slides/s3.xml"),
        "ppt/slides/s1.xml": f"<p:sld {SLIDE}>{second}</p:sld>",
        "ppt/slides/s2.xml": f"<p:sld {SLIDE}>{first}</p:sld>",
        "ppt/slides/s3.xml": f'<p:sld show="0" {SLIDE}>{shape("gone")}</p:sld>',
        "ppt/slides/_rels/s2.xml.rels": relations(n="../notes/n.xml"),
        "ppt/notes/n.xml": f"<p:notes {SLIDE}>{shape('Say it slowly.', 'body')}</p:notes>",
    }
    reading = one("a.pptx", archive(**parts))
    assert reading.title == "Limits"
    assert reading.text.split("\n\n") == [
        *("## Limits", "- cold\n- dry", "Notes: Say it slowly."),
        *("| Hall | Lead |\n| --- | --- |\n| North | Ada |\n| North | Bo |", "10⁶"),
    ]
    assert [reading.text[start : start + 6] for start in reading.pages[::2]] == ["## Lim", "| Hall"]
    assert reading.left_out == {"pictures without text": 1, "hidden slides": 1}


def test_slides_of_newer_and_stricter_programs_are_read_once(one):
    """What is there in several ways is told in the first; percents in place of numbers, or no numbers, lose nothing."""
    power = '<a:p><a:r><a:t>10</a:t></a:r><a:r><a:rPr baseline="30%"/><a:t>6</a:t></a:r></a:p>'
    ways = f"<mc:Choice>{shape('new')}</mc:Choice><mc:Fallback>{shape('old')}</mc:Fallback>"
    compatible = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    levels = "".join(shape("deep", "body", f'<a:pPr lvl="{level}"/>') for level in ("x", "9" * 9))
    slide = f"<mc:AlternateContent {compatible}>{ways}</mc:AlternateContent>{levels}"
    parts = {
        "_rels/.rels": relations(r1="ppt/presentation.xml"),
        "ppt/presentation.xml": f'<p:x {SLIDE} xmlns:r="{OFFICE}"><p:sldIdLst><p:sldId r:id="r"/></p:sldIdLst></p:x>',
        "ppt/_rels/presentation.xml.rels": relations(r="s.xml"),
        "ppt/s.xml": f"<p:sld {SLIDE}>{slide}<p:sp><p:txBody>{power}</p:txBody></p:sp></p:sld>",
    }
    usually = re.compile(r"http://schemas\.openxmlformats\.org/(?!package|markup)(\w+)/2006/")
    strict = {part: usually.sub(r"http://purl.oclc.org/ooxml/\1/", text) for part, text in parts.items()}
    assert one("a.pptx", archive(**strict)).text == "new\n\n- deep\n\n                - deep\n\n10⁶"


def deck(*slides, related="", **parts):
    """Return a presentation of slides, each given by its shapes, that refer to parts."""
    ids = "".join(f'<p:sldId r:id="r{number}"/>' for number in range(len(slides)))
    named = {f"r{number}": f"slides/s{number}.xml" for number in range(len(slides))}
    made = {"ppt/presentation.xml": f'<p:x {SLIDE} xmlns:r="{OFFICE}"><p:sldIdLst>{ids}</p:sldIdLst></p:x>'}
    made["ppt/_rels/presentation.xml.rels"] = relations(**named)
    for number, slide in enumerate(slides):
        made[f"ppt/slides/s{number}.xml"] = slide and f'<p:sld {SLIDE} xmlns:r="{OFFICE}">{slide}</p:sld>'
        made[f"ppt/slides/_rels/s{number}.xml.rels"] = related or relations()
    return archive(**made, **parts)


def frame(content, about=""):
    """Return a frame with a chart or the like."""
    return (
        f"<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr {about}/></p:nvGraphicFramePr><a:graphic>"
        f"<a:graphicData>{content}</a:graphicData></a:graphic></p:graphicFrame>"
    )


def test_charts_and_diagrams_of_slides_are_read(one):
    """A chart says its titles and the values of its series, a diagram its items in order."""
    c, d = (
        f'xmlns:{name[0]}="http://schemas.openxmlformats.org/drawingml/2006/{name}"' for name in ("chart", "diagram")
    )

    def cache(tag, values, form=""):
        points = "".join(f'<c:pt idx="{number}"><c:v>{value}</c:v></c:pt>' for number, value in enumerate(values))
        form = form and f"<c:formatCode>{form}</c:formatCode>"
        return f"<c:{tag}><c:numRef><c:numCache>{form}{points}</c:numCache></c:numRef></c:{tag}>"

    series = "".join(
        f"<c:ser>{cache('tx', [name])}{cache('cat', cats, dates)}{cache('val', values, form)}</c:ser>"
        for name, cats, dates, values, form in (
            ("2026", ("North", "South"), "", ("41", "57.10000000000001"), "General"),
            ("2027", ("46174",), "yyyy", ("0.07",), "0%"),
        )
    )
    title = "<c:title><c:tx><c:rich><a:p><a:r><a:t>Output</a:t></a:r></a:p></c:rich></c:tx></c:title>"
    chart = f"<c:chartSpace {c} {DRAWING}>{title}{series}</c:chartSpace>"
    points = "".join(
        f'<d:pt modelId="{key}"><d:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></d:t></d:pt>'
        for key, text in ((3, "Ship"), (1, "Plan"), (2, "Ask"))
    )
    links = "".join(
        f'<d:cxn srcId="{above}" destId="{below}" srcOrd="{order}"/>'
        for above, below, order in ((0, 3, 1), (0, 1, 0), (1, 2, 0))
    )
    diagram = f'<d:dataModel {d} {DRAWING}><d:pt modelId="0" type="doc"/>{points}{links}</d:dataModel>'
    slide = frame(f'<c:chart {c} r:id="c"/>', 'descr="By hall"') + frame(f'<d:relIds {d} r:dm="d"/>')
    related = relations(c="../c.xml", d="../d.xml")
    reading = one("a.pptx", deck(slide, related=related, **{"ppt/c.xml": chart, "ppt/d.xml": diagram}))
    assert reading.text.split("\n\n") == [
        *("By hall", "Output\n2026: North 41; South 57.1\n2027: 2026-06-01 7%", "- Plan\n  - Ask\n- Ship"),
    ]


def test_slides_are_read_as_they_are_seen(one):
    """The title comes first, items have their numbers, equations are read; what is hidden or struck out is told."""
    number = '<a:pPr><a:buAutoNum type="alphaLcPeriod" startAt="2"/></a:pPr>'
    none = "<a:pPr><a:buNone/></a:pPr>"
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    formula = (
        f"<p:sp><p:txBody><a:p><a:r><a:t>F is </a:t></a:r><x:m xmlns:x='x'><m:oMath {math}><m:sSup><m:e>"
        "<m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath></x:m></a:p></p:txBody></p:sp>"
    )
    struck = '<p:sp><p:txBody><a:p><a:r><a:rPr strike="sngStrike"/><a:t>90</a:t></a:r></a:p></p:txBody></p:sp>'
    hidden = f'<p:grpSp><p:nvGrpSpPr><p:cNvPr hidden="1"/></p:nvGrpSpPr>{shape("gone")}</p:grpSp>'
    adorning = '<p:pic><p:nvPicPr><p:cNvPr><x:decorative xmlns:x="x" val="1"/></p:cNvPr></p:nvPicPr></p:pic>'
    named = '<p:pic><p:nvPicPr><p:cNvPr title="The pump"/></p:nvPicPr></p:pic>'
    parts = (shape("Two_x000B_lines", "title"), shape("foot", "ftr"), hidden, adorning, named, formula, struck)
    slide = shape("one\ntwo", "body", number) + shape("Prose.\nMore.", "body", none) + "".join(parts)
    reading = one("a.pptx", deck(slide, ""))
    assert reading.text.split("\n\n") == [
        *("## Two lines", "b. one\nc. two", "Prose.", "More.", "The pump", "F is x²", "~~90~~"),
    ]
    assert reading.left_out == {"running lines": 1, "hidden parts": 1, "slides that cannot be read": 1}
    assert len(reading.pages) == 2


def test_shapes_that_stand_below_each_other_are_read_so(one):
    """Boxes in a stack are read from the top, whenever they were drawn; columns stay as they were drawn."""

    def at(x, y, text):
        place = f'<p:spPr><a:xfrm><a:off x="{x}" y="{y}"/><a:ext cx="9" cy="9"/></a:xfrm></p:spPr>'
        return shape(text).replace("<p:txBody>", f"{place}<p:txBody>")

    stack, columns = [(0, 20, "c"), (0, 0, "a"), (5, 10, "b")], [(20, 0, "a"), (0, 0, "b"), (0, 10, "c")]
    for boxes, text in ((stack, "a\n\nb\n\nc"), (columns, "a\n\nb\n\nc")):
        tree = "".join(at(*box) for box in boxes)
        assert one("a.pptx", deck(f"<p:cSld><p:spTree>{tree}</p:spTree></p:cSld>")).text == text


@pytest.mark.parametrize("suffix", [".pptx", ".docx", ".xlsx"])
def test_an_office_document_with_a_password_is_told(one, suffix):
    """Office puts what it encrypts into its older form: that is a password, and else an older file."""
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    with pytest.raises(Unreadable, match="protected by a password"):
        one(f"a{suffix}", old + "EncryptedPackage".encode("utf-16-le"))
    with pytest.raises(Unreadable, match="older Office"):
        one(f"a{suffix}", old)


@pytest.mark.parametrize("suffix", [".pptx", ".epub"])
def test_archives_of_something_else_are_damaged(one, suffix):
    """A zip of something else, or none at all, under such a name is an error in one sentence."""
    for content in (b"text", archive(**{"x.txt": "y"})):
        with pytest.raises(Unreadable, match="damaged"):
            one(f"a{suffix}", content)
