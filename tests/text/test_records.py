"""Lines that are records: each is a sentence of its own, and prose that was wrapped stays one."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.text import sentences
from raft.text.records import pairs, records


def parts(text):
    """Return the sentences of a text."""
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "lines",
    [
        [
            "Tool: Rake Orlo; Price: 19.90 €; Weight: 1.1 kg",
            "Tool: Saw; Price: 24 €",
            "Shears",
            "Tool: Marlow; Price: 3",
        ],
        ["Tool: Rake; Remark: Made of ash. Not for gravel", "Tool: Saw; Remark: Cuts green wood. Folds"],
        [
            "Warranty: 24 months",
            "Return within: 30 days",
            "Delivered by: Pell & Daughters, who also take old tools back",
        ],
        ["site > owner: Ada Quill", "site > telephone: 555", "site > about: a shop for tools of all kinds, since 1998"],
        [
            "question: how long may a tool be kept, and by whom?",
            "answer: for two weeks",
            "by: the staff of the library",
        ],
        ["2026-03-01 10:00:00 pump started. Pressure 3 bar", "2026-03-01 10:00:07 valve open"],
        ["Mar  1 10:00:00 shed kernel: pump up", "Mar  1 10:00:07 shed kernel: valve open"],
        ["ERROR the pump stands still", "INFO the pump runs again"],
        ["ETA – when something is to arrive", "POD – proof that it did, signed by whoever took it"],
        ["Rake Orlo\t19.90\t1.1 kg", "Saw Teal\t24.00\t0.6 kg"],
        ["Rake Orlo      19.90", "Saw Teal       24.00"],
        ["**Owner:** Ada Quill", "**Telephone:** 555"],
        ["| Tool | Remark |", "| --- | --- |", "| Rake | Made of ash. Not for gravel |"],
        ["Rake\n: has teeth", "Saw\n: has teeth, too, and cuts"],
        ["价格：30元", "重量：5公斤"],
    ],
)
def test_each_record_is_a_sentence(lines):
    """Rows, names with values, lines of logs and terms with what they mean are sentences, whatever ends in them."""
    assert parts("\n".join(lines)) == [line.strip() for line in lines]


def test_a_record_goes_on_until_the_next_begins():
    """What stands below a line of a log, or of an address, belongs to it."""
    log = ["2026-03-01 10:00:00 it failed\n  at pump\n  at valve", "2026-03-01 10:00:07 it runs"]
    address = ["Address: Mill Lane 5\n12345 Osterhaven", "Telephone: 555"]
    assert parts("\n".join(log)) == log
    assert parts("\n".join(address)) == address


@given(
    st.lists(st.text("abcdefghij", min_size=1, max_size=12), min_size=3, max_size=120),
    st.integers(45, 120),
    st.sampled_from([": ", " – ", "; "]),
)
def test_wrapped_prose_is_one_sentence(words, width, mark):
    """Prose that was wrapped at any width stays one sentence, though there is a colon in each thirty words."""
    marked = "".join(word + (mark if number % 30 == 4 else " ") for number, word in enumerate(words)).strip(" :;–")
    wrapped = textwrap.fill(f"The {marked}.", width, break_long_words=False, break_on_hyphens=False)
    assert parts(wrapped) == [wrapped]


def test_code_has_no_records():
    """What stands in fenced code is no record, nor a line with a colon that stands alone."""
    assert records("```yaml\nname: a\nport: 80\n```") == []
    assert records("Note: the shop is shut on Mondays,\nand on days when nobody comes.") == []


def test_a_long_row_is_parted_where_its_sentences_end():
    """A row with a page of prose in a cell is parted as prose is, and still ends with its line."""
    prose = " ".join(f"Part {number} of the pump is made of brass." for number in range(20))
    found = parts(f"Tool: Pump; About: {prose}\nTool: Saw; About: cuts")
    assert found[-1] == "Tool: Saw; About: cuts"
    assert found[1] == "Part 1 of the pump is made of brass."


def test_the_pairs_of_a_record_are_its_names_and_values():
    """A record is taken apart where a name follows; prose has no pairs."""
    assert pairs("Tool: Saw; Open: 8:00; Remark: short; sharp") == [
        ("Tool", "Saw"),
        ("Open", "8:00"),
        ("Remark", "short; sharp"),
    ]
    assert pairs("The saw is sharp.") == []


@given(st.text("ab:; .|\n\t–0123Z*#`", max_size=80))
def test_records_are_lines_in_order(text):
    """Records neither overlap nor stand in the middle of a line, whatever a text is made of."""
    place = 0
    for one in records(text):
        assert place <= one.start < one.end <= len(text)
        assert one.start in (0, text.rfind("\n", 0, one.start) + 1)
        assert one.end == len(text) or text[one.end] == "\n"
        place = one.end
