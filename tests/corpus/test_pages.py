"""Promises of pages and Word documents: what a reader of them sees, and nothing else."""

import pytest
from test_readers import docx, paragraph

from raft.corpus.readers import Unreadable
from raft.corpus.readers.formulas import lowered, raised

NAMESPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'

MATH = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("<p HIDDEN>gone</p>", "hidden parts"),
        ("<div STYLE='Color: red; Display : none'><p>gone</p></div>", "hidden parts"),
        ("<p style='visibility:hidden'>gone</p>", "hidden parts"),
        ("<span aria-hidden=TRUE>gone</span>", "hidden parts"),
        ("<dialog>gone</dialog>", "hidden parts"),
        (
            "<style>@media print {.old {color: red}} .new, .old {display:none}</style><p class='a old'>gone</p>",
            "hidden parts",
        ),
        ("<style>p.old {display:none}</style><p class=old>gone</p>", "hidden parts"),
        ("<style><!-- .a {content:'}'} .old {display:none} --></style><p class=old>gone</p>", "hidden parts"),
        ("<style>.old {display:block} .new, .old {display:none}</style><p class=old>gone</p>", "hidden parts"),
        (
            "<style>.m {display:none} @media (max-width:9em) {.m {display:block}}</style><p class=m>gone</p>",
            "hidden parts",
        ),
        ("<style>ul.old > li, .a .b {display:none}</style><ul class=old><li>gone</ul>", "hidden parts"),
        ("<NAV>gone</NAV>", "menus and banners"),
        ("<div role=navigation>gone</div>", "menus and banners"),
        ("<header><a href=/>gone</a></header>", "menus and banners"),
        ("<div class='cookie-banner big'>gone <button>All</button></div>", "menus and banners"),
        ("<section id=onetrust-consent-sdk>gone</section>", "menus and banners"),
        ("<a class=skip-link href=#m>gone</a>", "menus and banners"),
        ("<footer>gone</footer>", "menus and banners"),
        ("<div role=dialog>gone</div>", "menus and banners"),
        ("<ul class='Breadcrumbs top'><li><a href=/>gone</a> ›</ul>", "menus and banners"),
    ],
)
def test_what_is_no_part_of_a_document_is_left_out_and_counted(one, part, kind):
    """What a browser hides, leads through a site or asks for consent is not read, and the reading says so."""
    reading = one("a.html", f"{part}<h1>Rules</h1><p>Keep.</p>")
    assert (reading.text, reading.left_out) == ("# Rules\n\nKeep.", {kind: 1})


@pytest.mark.parametrize(
    "shown",
    [
        "<header><h2>Head</h2>Kept</header>",
        "<div class=menu>Soup of the day. Kept <a href=a>5 €</a></div>",
        "<article><header>By <a href=a>Bo</a>. Kept</header></article>",
        "<main><div class=cookie-notice>Kept: how cookies are used.</div></main>",
        "<div role=tabpanel hidden>Kept</div>",
        "<button aria-controls='x y'>More</button><div id=y hidden>Kept</div>",
        "<details><summary>More</summary>Kept</details>",
        "<p hidden=until-found>Kept</p>",
        "<style>@media print {.on-screen {display: none}}</style><p class=on-screen>Kept</p>",
        "<style>.tab {display:none} .tab.on {display:block}</style><p class=tab>Kept</p>",
        "<style>.tab {display:none}</style><script>open('.tab')</script><p class=tab>Kept</p>",
        "<main aria-hidden=true><h1>Kept</h1></main>",
        "<style>.d {display:none} @media (min-width:768px) {.d {display:block}}</style><p class=d>Kept</p>",
        "<style>.d {display:none} @media (min-width:9em) {.d-md {display:block}}</style><p class='d d-md'>Kept</p>",
        "<style>.hidden {display:none} @media (min-width:9em) {.md\\:block {display:block}}</style>"
        "<p class='hidden md:block'>Kept</p>",
        "<style>.d {display:none} .b\\' {color:red} @media (min-width:9em) {.d {display:block}}</style>"
        "<p class=d>Kept</p>",
        "<style>.tab {display:none} .active {display:block}</style><p class='tab active'>Kept</p>",
        "<style>p.tab {display:none} .active {display:block !important}</style><p class='tab active'>Kept</p>",
        "<style media=print>.on-screen {display:none}</style><p class=on-screen>Kept</p>",
        "<style>@media print {@supports (a: b) {i {color: red}} .p {display:none}}</style><p class=p>Kept</p>",
        "<noscript><style>.late {display:none}</style></noscript><p class=late>Kept</p>",
        "<style>.card {color: red; .note {display:none} > .note {display:none}}</style><p class=note>Kept</p>",
        "<style>> .note {display:none}</style><p class=note>Kept</p>",
        "<style>.wow {visibility:hidden}</style><script src=wow.js></script><p class=wow>Kept</p>",
        "<p style='backface-visibility:hidden'>Kept</p>",
    ],
)
def test_what_a_click_shows_is_kept(one, shown):
    """Tabs, folded parts, bylines, pages about cookies, and what a style shows on wide screens are text."""
    assert "Kept" in one("a.html", f"<p>First.</p>{shown}").text


def test_end_tags_may_be_left_out(one):
    """Lists, tables and paragraphs without end tags are read as browsers do."""
    page = "<UL><LI>one<LI>two<UL><LI>deep</UL></UL><TABLE><TR><TH>A<TH>B<TR><TD>1<TD>2</TABLE><P>x<P>y"
    assert one("a.html", page).text == ("- one\n- two\n  - deep\n\n| A | B |\n| --- | --- |\n| 1 | 2 |\n\nx\n\ny")


def test_an_xhtml_page_is_read_as_one(one):
    """Its declaration is no text, and elements that close themselves swallow nothing."""
    page = '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="t"/><h1>T</h1>x</body></html>'
    assert one("a.xhtml", page).text == "# T\n\nx"


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("<tr><th>A<th>B<tr><td rowspan=2>x<td>1<tr><td>2", ["A | B", "x | 1", "x | 2"]),
        ("<tr><th rowspan=2>A<th colspan=2>D<tr><th>f<th>t<tr><td>x<td>1<td>2", ["A | D f | D t", "x | 1 | 2"]),
        ("<thead><tr><td>A<td colspan=2>B</thead><tr><td>x<td>1<td>2", ["A | B | B", "x | 1 | 2"]),
        ("<tr><th colspan=2>Title<tr><th>A<th>B<tr><td>1<td>2", ["A | B", "1 | 2"]),
        ("<tr><th>A<th>B<tr><td colspan=2>all", ["A | B", "all | "]),
        ("<tr><th>A<th>B<tr><td rowspan=0>x<td>1<tr><td>2", ["A | B", "x | 1", "x | 2"]),
        ("<tr><th>A<th>B<tr><td>x<td><table><tr><td>1<td>2<tr><td>3</table>", ["A | B", "x | 1 2; 3"]),
        ("<tr><td><table><tr><th>A<th>B<tr><td>1<td>2</table><td>aside", ["A | B", "1 | 2"]),
        (
            "<thead><tr><th>A<th>B</thead><tfoot><tr><td>y<td>2</tfoot><tbody><tr><td>x<td>1",
            ["A | B", "x | 1", "y | 2"],
        ),
        (
            "<tr><th>A<th>B<tr><td>x<td>1<tbody><tr><td>y<td>2<tbody><tr><td>z<td>3",
            ["A | B", "x | 1", "y | 2", "z | 3"],
        ),
        ("<thead></thead><tbody><tr><td>A<td>B<tr><td>x<td>1", ["A | B", "x | 1"]),
        ("<caption>About<tbody><tr><th>A|B<th>C<tr><td>1<td>2", [r"A\|B | C", "1 | 2"]),
    ],
)
def test_each_row_of_a_table_has_all_its_cells(one, table, rows):
    """Spans hold for each row and column, headers of two rows become one, frames and titles are no rows."""
    lines = [line for line in one("a.html", f"<table>{table}</table>").text.split("\n") if line.startswith("|")]
    wanted = [" ".join(f"| {row} |".split()) for row in rows]
    assert lines == [wanted[0], "|" + " --- |" * (len(rows[-1].split(" | "))), *wanted[1:]]


@pytest.mark.parametrize("number", ["9" * 5_000, "²", "-1"])
def test_what_is_no_sane_number_is_no_number(one, number):
    """Lists that begin nowhere and spans without end cost no page."""
    table = f'<table><tr><th>A<th>B<tr><td rowspan="{number}">x<td>y</table>'
    text = one("a.html", f'<ol start="{number}"><li>Oil it.</ol>{table}').text
    assert text == "1. Oil it.\n\n| A | B |\n| --- | --- |\n| x | y |"


def test_a_comment_in_a_cell_is_no_text(one):
    """What a page's author noted for himself stays out of tables, too."""
    text = one("a.html", "<table><tr><th>A<th>B<tr><td>x<!-- a|b --><td>y|z</table>").text
    assert text.endswith("| x | y\\|z |")


def test_a_table_of_endless_spans_is_refused(one):
    """Spans cannot make a page grow without end."""
    with pytest.raises(Unreadable, match="too many cells"):
        one("a.html", "<table>" + "<tr><td colspan=1000 rowspan=65000>x" * 900 + "</table>")


def test_a_table_of_a_page_in_markdown_is_as_whole(one):
    """Spans hold in Markdown's own tables of HTML too."""
    table = (
        "<table>\n<tr><th>A</th><th>B</th></tr>\n<tr><td rowspan='2'>x</td><td>1</td></tr>\n<tr><td>2</td></tr></table>"
    )
    assert one("a.md", table).text == "| A | B |\n| --- | --- |\n| x | 1 |\n| x | 2 |"


def test_pictures_are_the_words_that_describe_them(one):
    """A picture without such words is counted, one that only adorns is not."""
    reading = one("a.html", "<p>x<img src=a><img alt='' src=b><img alt=image7.png><img alt=' A pump at work'></p>")
    assert (reading.text, reading.left_out) == ("xA pump at work", {"pictures without text": 2})


@pytest.mark.parametrize(
    ("mark", "before", "text"),
    [
        ("6", "up to 10", "⁶"),
        ("−3", "4 × 10", "⁻³"),
        ("2", "7 cm", "²"),
        ("3", "x", "³"),
        ("k", "x", "^k"),
        ("n+k", "x", "^(n+k)"),
        ("th", "the 5", "th"),
        ("1", "after 36", " ¹"),
        ("2", "costs 2,400", " ²"),
        ("1", "a warranty", " ¹"),
        ("3,4", "after 36", " ³ ⁴"),
        ("[15]", "after 36", " ¹⁵"),
        ("(5)", "after 36", " ⁵"),
        ("[b]", "after 36", " [b]"),
        ("*", "after 36", "*"),
        ("®", "Orlin", "®"),
    ],
)
def test_what_is_raised_never_changes_a_number(mark, before, text):
    """Exponents and units are raised in Unicode or behind ^, ordinals joined, and marks of notes stand apart."""
    assert raised(mark, before) == text


def test_what_is_lowered_is_told_apart():
    """Formulas of chemistry stay words; an index is none of a number."""
    assert lowered("2", "CO") == "2" and lowered("2", "log", "8") == "₂" and lowered("b", "4") == "_b"


@pytest.mark.parametrize("name", ["a.html", "a.md"])
def test_raised_text_is_told_in_pages_and_markdown(one, name):
    """Powers, notes with and without links, and indices are told alike wherever they are written."""
    source = "10<sup>6</sup> Pa, 36<sup>2</sup> months, 36<sup><a href='#n1'>1</a></sup> days, CO<sub>2</sub>"
    assert one(name, source).text == "10⁶ Pa, 36 ² months, 36 ¹ days, CO2"


def test_equations_of_a_page_are_told_once(one):
    """MathML is told in a line, its copies for other programs are not; TeX in a script is kept."""
    page = (
        "<p>so <math><semantics><mrow><msup><mn>10</mn><mn>6</mn></msup><mo>/</mo><mfrac><mi>a</mi><mrow><mi>b</mi>"
        "<mo>+</mo><mn>1</mn></mrow></mfrac></mrow><annotation>10^6</annotation></semantics></math> and"
        " <script type='math/tex'>x^2</script>"
    )
    assert one("a.html", page).text == "so 10⁶/a/(b+1) and $x^2$"


def test_equations_of_word_are_told(one):
    """Powers, fractions, roots and sums stand in the sentence where they stood."""

    def run(text):
        return f"<m:r><m:t>{text}</m:t></m:r>"

    parts = [
        run("F=40 kN"),
        f"<m:sSup><m:e>{run('10')}</m:e><m:sup>{run('6')}</m:sup></m:sSup>",
        f"<m:f><m:num>{run('a+b')}</m:num><m:den>{run('2')}</m:den></m:f>",
        f"<m:rad><m:deg/><m:e>{run('x+1')}</m:e></m:rad>",
        f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr><m:sub>{run('i=1')}</m:sub><m:sup>{run('n')}</m:sup>"
        f"<m:e>{run('i')}</m:e></m:nary>",
    ]
    start, end = "<w:p><w:r><w:t xml:space='preserve'>Is </w:t></w:r>", "<w:r><w:t>.</w:t></w:r></w:p>"
    body = "".join(f"{start}<m:oMath {MATH}>{part}</m:oMath>{end}" for part in parts)
    body += f"<w:p><m:oMathPara {MATH}><m:oMath>{run('alone')}</m:oMath></m:oMathPara></w:p>"
    assert one("a.docx", docx(body)).text.split("\n\n") == [
        *("Is F=40 kN.", "Is 10⁶.", "Is (a+b)/2.", "Is √(x+1).", "Is ∑_(i=1)ⁿ i.", "alone")
    ]


def numbered(*levels):
    """Return parts of a Word document that define list 5, with these (format, text) as its levels, and bullets as 6."""
    made = "".join(
        f'<w:lvl w:ilvl="{depth}"><w:start w:val="1"/><w:numFmt w:val="{form}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for depth, (form, text) in enumerate(levels)
    )
    bullets = '<w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="•"/></w:lvl>'
    return {
        "word/numbering.xml": f'<w:numbering {WORD}><w:abstractNum w:abstractNumId="1">{made}</w:abstractNum>'
        f'<w:abstractNum w:abstractNumId="2">{bullets}</w:abstractNum>'
        '<w:num w:numId="5"><w:abstractNumId w:val="1"/></w:num><w:num w:numId="6"><w:abstractNumId w:val="2"/></w:num>'
        "</w:numbering>",
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'wordprocessingml.document.main+xml"/><Override PartName="/word/numbering.xml" ContentType="application/vnd.'
        'openxmlformats-officedocument.wordprocessingml.numbering+xml"/></Types>',
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        'relationships"><Relationship Id="n" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
        'numbering" Target="numbering.xml"/></Relationships>',
    }


def item(text, level, number=5, style=""):
    """Return a numbered paragraph of WordprocessingML."""
    style = f'<w:pStyle w:val="{style}"/>' if style else ""
    numbering = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
    return f"<w:p><w:pPr>{style}{numbering}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_headings_and_clauses_have_the_numbers_that_word_shows(one):
    """Levels count on through text, begin anew below a higher one, and keep their letters; bullets stay bullets."""
    body = (
        item("Scope", 0, style="Heading1")
        + item("Who", 1)
        + item("What", 1)
        + item("near", 2)
        + item("far", 2)
        + paragraph("Text between.")
        + item("When", 1)
        + item("Money", 0, style="Heading1")
        + item("Fee", 1)
        + item("dot", 0, number=6)
    )
    levels = numbered(("upperRoman", "%1."), ("decimal", "%1.%2"), ("lowerLetter", "(%3)"))
    assert one("a.docx", docx(body, **levels)).text == (
        "# I. Scope\n\nI.1 Who\nI.2 What\n   (a) near\n   (b) far\n\nText between.\n\nI.3 When\n\n"
        "# II. Money\n\nII.1 Fee\n\n- dot"
    )


def test_hidden_words_and_contents_of_a_word_document_are_counted(one):
    """Hidden text, lines of a table of contents, and headers and footers with words are no text of the document."""
    hidden = "<w:p><w:r><w:t>Kept.</w:t></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>gone</w:t></w:r></w:p>"
    running = {
        "word/header1.xml": f"<w:hdr {NAMESPACE}>{paragraph('Draft')}</w:hdr>",
        "word/footer2.xml": f"<w:ftr {NAMESPACE}/>",
    }
    reading = one("a.docx", docx(paragraph("Scope 3", "TOC1") + hidden, **running))
    counted = {"hidden parts": 1, "lines of contents": 1, "running lines": 1}
    assert (reading.text, reading.left_out) == ("Kept.", counted)


def test_merged_cells_of_word_hold_for_each_row(one):
    """A cell that is merged downwards is said in each row."""

    def cell(text, merged=""):
        return f"<w:tc><w:tcPr>{merged}</w:tcPr>{paragraph(text)}</w:tc>"

    first, more = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = [cell("Hall") + cell("Lead"), cell("North", first) + cell("Ada"), cell("", more) + cell("Bo")]
    table = "".join(f"<w:tr>{row}</w:tr>" for row in rows)
    assert one("a.docx", docx(f"<w:tbl>{table}</w:tbl>")).text.split("\n")[2:] == ["| North | Ada |", "| North | Bo |"]


def test_items_have_the_numbers_that_a_browser_shows(one):
    """Lists that begin elsewhere, count down or skip numbers keep theirs, each list its own."""
    inner = "<ol start=3><li>Shut it.<ol><li>Turn it.<li>Lock it.</ol><li value=7>Drain it.<p>Twice.<li>Dry.</ol>"
    down = "<ol reversed><li>Last<li>Last but one</ol><ol start=x><li>One</ol>"
    assert one("a.html", inner).text.split("\n") == [
        *("3. Shut it.", "   1. Turn it.", "   2. Lock it.", "7. Drain it.", "", "   Twice.", "8. Dry."),
    ]
    assert one("b.html", down).text.split() == ["2.", "Last", "1.", "Last", "but", "one", "1.", "One"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ('24<span style="vertical-align: super; font-size: 70%">1</span> months', "24 ¹ months"),
        ("<style>.fn {vertical-align: super}</style>24<span class=fn>1</span> months", "24 ¹ months"),
        ("15<small><sup>4</sup></small> weeks", "15 ⁴ weeks"),
        ("H<span style='vertical-align:sub'>2</span>O", "H2O"),
        ("<iframe srcdoc='<p>Kept 45 days.</p>'></iframe>", "Kept 45 days."),
        ("<ul><li><input type=checkbox checked> a<li><input type=checkbox disabled> b</ul>", "- [x] a\n- [ ] b"),
        ("<input type=checkbox id=menu><label for=menu>Kept</label>", "Kept"),
        ("<ol type=a start=3><li>third<li>fourth</ol>", "c. third\nd. fourth"),
        ("<ol style='list-style-type: upper-roman'><li>one<li>two</ol>", "I. one\nII. two"),
        ("<style>.a .b {display:none} .a .b.on {display:block}</style><div class=a><p class=b>Kept</div>", "Kept"),
        ("<style>.a .b {display:none} .b.on {display:block}</style><div class=a><p class=b>Kept</div>", "Kept"),
        ("<style>.2col li {display:none} .a. b {display:none}</style><ul><li>Kept</ul>", "- Kept"),
        ("<style>.f {vertical-align:super}</style>Kept<span class=f style='display:none'>no</span>", "Kept"),
        ("Kept<iframe hidden srcdoc='<p>no</p>'></iframe>", "Kept"),
        ("<iframe srcdoc='<style>.n {display:none}</style><p class=n>no<p>Kept'></iframe>", "Kept"),
        ("<ol type=a start=26><li>one<li>two<li value=703>three</ol>", "z. one\naa. two\naaa. three"),
        ("<ol type=A start=0><li>one<li>two</ol>", "0. one\nA. two"),
        ("<ol type=I start=499><li>one<li value=4000>two</ol>", "CDXCIX. one\n4000. two"),
        ("<style>td .f, i.g {vertical-align:super}</style>4<span class=f>1</span> or 3<i class=g>2</i>", "4 ¹ or 3²"),
    ],
)  # fmt: skip
def test_what_a_browser_shows_is_what_is_read(one, page, text):
    """Marks raised by a style, frames within the page, ticked boxes and letters of items are as they are seen."""
    assert one("a.html", page).text == text


def test_many_hidden_parts_go_and_all_others_stay_in_order(one):
    """A page with a hundred hidden parts keeps what stands between them, in its order."""
    page = "".join(f"<div hidden>old</div>new{number}<b>bold</b>" for number in range(100))
    assert one("a.html", page).text == "".join(f"new{number}**bold**" for number in range(100))
    assert one("a.html", page).left_out == {"hidden parts": 100}
