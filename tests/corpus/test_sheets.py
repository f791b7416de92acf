"""Promises of tables: where headers are, what cells show, and what parts them."""

import io
import re
import zipfile
from datetime import date, datetime, time, timedelta

import openpyxl
import pytest
from openpyxl.comments import Comment


def workbook(rows, *merged):
    """Return an XLSX file; a cell may be a pair of value and number format."""
    book = openpyxl.Workbook()
    sheet = book.active
    for number, row in enumerate(rows, start=1):
        for column, value in enumerate(row, start=1):
            cell = sheet.cell(number, column)
            cell.value, form = value if isinstance(value, tuple) else (value, None)
            cell.number_format = form or cell.number_format
    for area in merged:
        sheet.merge_cells(area)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (0.075, "0.0%", "7.5%"),
        (2, "0%", "200%"),
        (42, "00000", "00042"),
        (1234.5, "#,##0.00", "1,234.50"),
        (19.9, '#,##0.00 "€"', "19.90 €"),
        (-5, "[$£-809]0.00;[Red]-[$£-809]0.00", "-£5.00"),
        (12, '0" kg"', "12 kg"),
        (5551234, "000-0000", "555-1234"),
        (2500000, '0.0,,"M"', "2.5M"),
        (123456, "0.00E+00", "1.23E+05"),
        (1.5, "0.0##", "1.5"),
        (2.5, "0", "3"),
        (1.005, "0.00", "1.01"),
        (0.285, "0%", "29%"),
        (-0.2, "0", "0"),
        (1e22, "0", "1" + "0" * 22),
        (-45, "0.00;[Red]0.00", "-45.00"),
        (-45, "0;[Red](0)", "(45)"),
        (3, 'General" pcs"', "3 pcs"),
        (0, '0;-0;"none"', "none"),
        (1, '"yes";;"no"', "yes"),
        (5, '[<5]"low";[>=5]"high"', "5"),
        (0.1 + 0.2, None, "0.3"),
        (0.5, "# ?/?", "0.5"),
        (True, None, "TRUE"),
        (time(6, 5), "h:mm", "06:05"),
        (timedelta(hours=31, minutes=4), "[h]:mm", "31:04"),
        (timedelta(minutes=75, seconds=9), "[mm]:ss", "75:09"),
        (date(2026, 5, 31), "dd.mm.yyyy", "2026-05-31"),
        (date(2026, 5, 1), "mmmm yyyy", "2026-05"),
        (datetime(2026, 5, 31, 14, 30), "d.m.yy h:mm", "2026-05-31 14:30"),
    ],
)
def test_a_cell_is_told_as_the_sheet_shows_it(one, value, form, shown):
    """Percent, leading zeros, currencies, units, times and durations stay what they are; dates are ISO dates."""
    assert one("a.xlsx", workbook([["Name", "Data"], ["Bo", (value, form)], ["Cy", "x"]])).text.split("\n")[2:] in (
        [f"Name: Bo; Data: {shown}", "Name: Cy; Data: x"],
        ["Name: Data", f"Bo: {shown}", "Cy: x"],
    )


def test_merged_cells_hold_for_all_their_rows_and_columns(one):
    """Headers of two rows become one, a title is a line, and each row says all that is merged into it."""
    rows = [
        ["Plan of halls", None, None, None],
        ["Hall", "Weekday", None, "Lead"],
        [None, "from", "to", None],
        ["North", (time(7), "h:mm"), (time(9), "h:mm"), "Ada"],
        [None, (time(10), "h:mm"), (time(12), "h:mm"), "Bo"],
        ["Closed in May", None, None, None],
    ]
    data = workbook(rows, "A1:D1", "A2:A3", "B2:C2", "D2:D3", "A4:A5", "A6:D6")
    assert one("a.xlsx", data).text.split("\n")[2:] == [
        "Plan of halls",
        "Hall: North; Weekday from: 07:00; Weekday to: 09:00; Lead: Ada",
        "Hall: North; Weekday from: 10:00; Weekday to: 12:00; Lead: Bo",
        "Closed in May",
    ]


def test_a_sheet_of_names_and_values_may_have_a_title(one):
    """A title that is merged above names and their values is a line of its own."""
    rows = [["Data sheet", None], ["Type", "P-7"], ["Power", (94, '0" W"')], ["Built", 2019]]
    text = one("a.xlsx", workbook(rows, "A1:B1")).text
    assert text.split("\n")[2:] == ["Data sheet", "Type: P-7", "Power: 94 W", "Built: 2019"]


def test_a_formula_without_a_value_is_counted(one):
    """What a program wrote as a formula, and no sheet has ever calculated, is said to be missing."""
    reading = one("a.xlsx", workbook([["Part", "Sum", "Tax"], ["Nut", "=1+1", 3], ["Bolt", "=2+2", 4]]))
    assert reading.left_out == {"formulas without a value": 2}
    assert "Part: Nut; Tax: 3" in reading.text


def test_what_a_workbook_hides_is_left_out_and_counted(one):
    """Hidden sheets, rows and columns and comments are no text; what a filter or a closed group hides for now stays."""
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Part", "Cost", "Days"], ["Nut", 90, 45], ["Old", 91, 92], ["Pin", 93, 60], ["Cog", 94, 61]):
        sheet.append(row)
    sheet["A2"].comment = Comment("Really?", "Ada")
    sheet.row_dimensions[3].hidden = sheet.column_dimensions["B"].hidden = True
    sheet.row_dimensions.group(5, 5, hidden=True)
    for name, state in (("Lists", "hidden"), ("Older", "veryHidden")):
        book.create_sheet(name).sheet_state = state
        book[name].append(["Limit", 95])
    stream = io.BytesIO()
    book.save(stream)
    reading = one("a.xlsx", stream.getvalue())
    lines = [f"Part: {part}; Days: {days}" for part, days in (("Nut", 45), ("Pin", 60), ("Cog", 61))]
    assert reading.text.split("\n") == ["## Sheet", "", *lines]
    assert reading.left_out == {"comments": 1, "hidden sheets": 2, "hidden rows": 1, "hidden columns": 1}


def test_rows_that_a_table_filters_stay(one):
    """What the filter of a table hides for now is read: the filter stands in another part than the sheet."""
    book = openpyxl.Workbook()
    for row in (["Part", "Cost"], ["Nut", 90], ["Bolt", 91], ["Gear", 92]):
        book.active.append(row)
    table = openpyxl.worksheet.table.Table(displayName="Parts", ref="A1:B4")
    table.autoFilter = openpyxl.worksheet.filters.AutoFilter(ref="A1:B4")
    table.autoFilter.add_filter_column(0, ["Nut"])
    book.active.add_table(table)
    for row in (3, 4):
        book.active.row_dimensions[row].hidden = True
    stream = io.BytesIO()
    book.save(stream)
    reading = one("a.xlsx", stream.getvalue())
    assert "Part: Gear; Cost: 92" in reading.text and not reading.left_out


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (1234567890123456, "0", "1234567890123456"),
        (1.5, "0." + "0" * 30, "1.5" + "0" * 29),
        (12345678901234, "0." + "0" * 15, "12345678901234." + "0" * 15),
    ],
)
def test_long_numbers_are_shown_whole(one, value, form, shown):
    """A number with more digits than a calculation keeps is neither changed nor costs it the workbook."""
    book = openpyxl.Workbook()
    for row in (["Part", "Code"], ["Nut", value]):
        book.active.append(row)
    book.active["B2"].number_format = form
    stream = io.BytesIO()
    book.save(stream)
    assert f"Part: Nut; Code: {shown}" in one("a.xlsx", stream.getvalue()).text


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (1234.5, r"#\ ##0.00", "1 234.50"),
        (-1234567.891, r"#\ ##0.00\ _€;[Red]\-#\ ##0.00\ _€", "-1 234 567.89"),
        (12, r"#\ ##0", "12"),
        (0.125, r"#\ ##0.0%", "12.5%"),
        (12345, "#'##0", "12'345"),
        (1.5, "0.0 00", "1.5"),
        (0, '#,##0.00;-#,##0.00;"-"??\\ "€"', "- €"),
        (0, "#,###", "0"),
        (5551234567, "(000) 000-0000", "(555) 123-4567"),
    ],
)
def test_numbers_are_parted_as_their_format_parts_them(one, value, form, shown):
    """A space between thousands moves no decimals and adds no zeros; a zero shown as a dash has no figure."""
    book = openpyxl.Workbook()
    for row in (["Part", "Cost"], ["Nut", value]):
        book.active.append(row)
    book.active["B2"].number_format = form
    stream = io.BytesIO()
    book.save(stream)
    assert f"Part: Nut; Cost: {shown}" == one("a.xlsx", stream.getvalue()).text.split("\n")[-1]


@pytest.mark.parametrize("hidden", ["row", "column"])
def test_what_merged_cells_say_stays_where_their_first_one_is_hidden(one, hidden):
    """The words of merged cells are shown in those of them that are not hidden, and are read there."""
    book = openpyxl.Workbook()
    for row in (["Prices of May"], ["Id", "Part", "Cost"], [7, "Nut", 90], [8, None, 91], [9, "Gear", 92]):
        book.active.append(row)
    for cells in ("A1:C1", "B3:B4"):
        book.active.merge_cells(cells)
    if hidden == "row":
        book.active.row_dimensions[3].hidden = True
    else:
        book.active.column_dimensions["A"].hidden = True
    stream = io.BytesIO()
    book.save(stream)
    rows = one("a.xlsx", stream.getvalue()).text.split("\n")[2:]
    if hidden == "row":
        assert rows == ["Prices of May", "Id: 8; Part: Nut; Cost: 91", "Id: 9; Part: Gear; Cost: 92"]
    else:
        assert rows == ["Prices of May", *("Part: Nut; Cost: 90", "Part: Nut; Cost: 91", "Part: Gear; Cost: 92")]


@pytest.mark.parametrize("shared", [True, False])
def test_raised_figures_in_a_cell_never_join_a_number(one, shared):
    """The mark of a note is no digit of the number that it stands at, wherever the workbook keeps its texts."""
    parts = (("24", ""), ("1", "superscript"), (" months, m", ""), ("2", "superscript"))
    runs = "".join(
        f"<r><rPr>{f'<vertAlign val={side!r}/>' if side else ''}</rPr><t xml:space='preserve'>{text}</t></r>"
        for text, side in parts
    )
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    made = io.BytesIO()
    data = workbook([["Name", "Fee"], ["Nut", "RICH"], ["Pin", "y"]])
    with zipfile.ZipFile(io.BytesIO(data)) as book, zipfile.ZipFile(made, "w") as copy:
        for name in book.namelist():
            part = book.read(name).decode()
            rich = 't="s"><v>0</v>' if shared else f't="inlineStr"><is>{runs}</is>'
            part = part.replace('t="inlineStr"><is><t>RICH</t></is>', rich)
            override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
            copy.writestr(name, part.replace("</Types>", override))
        copy.writestr("xl/sharedStrings.xml", f'<sst xmlns="{main}"><si>{runs}</si></sst>')
    assert one("a.xlsx", made.getvalue()).text.split("\n")[2] == "Name: Nut; Fee: 24 ¹ months, m²"


def altered(data, old, new):
    """Return a workbook with something else in its first sheet."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as book, zipfile.ZipFile(made, "w") as copy:
        for name in book.namelist():
            part = book.read(name).decode()
            copy.writestr(name, re.sub(old, new, part) if name.endswith("sheet1.xml") else part)
    return made.getvalue()


BOOK = workbook([["Part", "Price"], ["Nut", 4], ["Pin", 5]])


@pytest.mark.parametrize(
    ("old", "new", "nut", "pin"),
    [
        (r'(<row r="2".*?</row>)(<row r="3".*?</row>)', r"\2\1", "Nut; Price: 4", "Pin; Price: 5"),
        ('<row r="3"', '<row r="2"', "Nut; Price: 4", "Pin; Price: 5"),
        ('<row r="3"', '<row r="999999999"', "Nut; Price: 4", "Pin; Price: 5"),
        ('<row r="3"', f'<row r="{"9" * 5_000}"', "Nut; Price: 4", "Pin; Price: 5"),
        (r'(<c r="A3".*?</c>)(<c r="B3".*?</c>)', r"\2\1", "Nut; Price: 4", "Pin; Price: 5"),
        ("<v>4</v>", "<v>4.5.6</v>", "Nut; Price: 4.5.6", "Pin; Price: 5"),
        ('<c r="B2" t="n">', '<c r="B2" t="s">', "Nut", "Pin; Price: 5"),
        ('<c r="B3"', '<c s="77" r="B3"', "Nut; Price: 4", "Pin; Price: 5"),
        ("</sheetData>", r'\g<0><mergeCells><mergeCell ref="x"/></mergeCells>', "Nut; Price: 4", "Pin; Price: 5"),
    ],
)
def test_odd_rows_and_wrong_values_cost_no_other(one, old, new, nut, pin):
    """Rows and cells in any order or of any number are read, and what is broken in a sheet costs itself alone."""
    reading = one("a.xlsx", altered(BOOK, old, new))
    assert reading.text.split("\n")[2:] == [f"Part: {nut}", f"Part: {pin}"]
    assert reading.left_out == ({"cells without a value": 1} if nut == "Nut" else {})


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("Size;to 2,5 m;to 3,5 m\nBeam;4;5", ["Size: Beam; to 2,5 m: 4; to 3,5 m: 5"]),
        ("Part;Price;Sum\nNut;1,50;3,00\nPin;2,50;5,00", ["Part: Nut; Price: 1,50; Sum: 3,00"]),
        ('"Last, first";"Born, in"\n"Ada";1815', ["Last, first: Ada; Born, in: 1815"]),
        ('"a, b", "c"\n1,2', ["a, b: 1; c: 2"]),
        ("sep=;\nA;B\n1,2;3", ["A: 1,2; B: 3"]),
        ("A|B\n1|2,3\n4|5", ["A: 1; B: 2,3", "A: 4; B: 5"]),
        ("Stock list\nAs of;May\n\nPart;Bay;Row\nNut;B;4", ["Stock list", "As of: May", "Part: Nut; Bay: B; Row: 4"]),
        (";2024;;2025;\nHall;A;B;A;B\nC;1;2;3;4", ["Hall: C; 2024 A: 1; 2024 B: 2; 2025 A: 3; 2025 B: 4"]),
        ("Town:,Lund\nKeeper:,Ada\nBay:,B,Row:,4", ["Town: Lund", "Keeper: Ada", "Bay: B; Row: 4"]),
        ("Town;Lund\nFounded;1998\nKeeper;Ada", ["Town: Lund", "Founded: 1998", "Keeper: Ada"]),
        ("Part,,Price\nNut,red,5", ["Part: Nut; column 2: red; Price: 5"]),
        ("A;B;C\nx;5;y\n\nD;E;F\nw;z;3", ["A: x; B: 5; C: y", "D: w; E: z; F: 3"]),
        ('a\tb\n"in\t5\n6\t7\n8\t9', ['a: "in; b: 5', "a: 6; b: 7", "a: 8; b: 9"]),
        ('a,b\n"x\ny",5\n6,7', ["a: x y; b: 5", "a: 6; b: 7"]),
        ("Part,Limit\nNut,45\nPin,n/a\nCog,−5", ["Part: Nut; Limit: 45", "Part: Pin; Limit: n/a"]),
        ("Part,Sum\nx,1\n\ny,2\nPart,Sum\nz,3", ["Part: x; Sum: 1", "Part: y; Sum: 2", "Part: z; Sum: 3"]),
    ],
)  # fmt: skip
def test_delimiters_and_headers_are_found_as_people_write_them(one, source, lines):
    """Decimal commas, quoted headers, lines above, headers of two rows, names with values, several tables."""
    assert one("a.csv", source).text.split("\n")[: len(lines)] == lines
