"""Pure functions over text."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from raft import text
from raft.text import from_json, values, whole

PROSE = (
    "Refunds are paid within 30 days, e.g. by card. The limit is 1,000 euros! Dr. Lopez signs form E-104.\n\n"
    "The “final” date is 12 March 2024 – not later. Call   Mara at 14:30."
)


@given(st.text(), st.data())
def test_any_part_of_a_text_is_found_verbatim(whole, data):
    """Any part of a text is found as a quote, and what is found are its words (quotation marks at its edges aside)."""
    start = data.draw(st.integers(0, len(whole)))
    part = whole[start : data.draw(st.integers(start, len(whole)))]
    bare = part.strip().strip("\"“”'‘’").strip()
    span = text.find_quote(part, whole)
    assert (span is None) == (not bare)
    if span:
        assert whole[slice(*span)] == bare


@pytest.mark.parametrize(
    "quote",
    [
        "Refunds are paid within 30 days",
        '"refunds are  paid\nwithin 30 days"',
        'The "final" date is 12 March 2024 - not later.',
        "Refunds are payed within 30 days, e.g. by card",
        "Call Mara at 14:30",
    ],
)
def test_a_quote_is_found_in_other_spacing_and_typography(quote):
    """Spaces, typographic characters, case and small slips do not hide a quote; the span is the text's own."""
    start, end = text.find_quote(quote, PROSE)
    assert values.agree(PROSE[start:end], quote)


@pytest.mark.parametrize(
    "quote",
    ["", "  ", '""', "Refunds are paid within 31 days", "The limit is 1,000,000 euros!", "Nobody calls Mara", "xyz"],
)
def test_another_claim_is_not_found(quote):
    """An empty quote, another figure or other words are not found."""
    assert text.find_quote(quote, PROSE) is None


@given(st.text())
def test_normal_form_is_final(value):
    """Normalising twice changes nothing, and leaves single spaces."""
    once = text.normalise(value)
    assert text.normalise(once) == once or not once.isascii()
    assert once == " ".join(once.split())


def test_normal_form_drops_case_and_punctuation():
    """Case and punctuation at the edges of words go; inside words it stays."""
    assert text.normalise(" “The Co-op’s” fee: 1,000.50 (net)! ") == "the co-op’s fee 1,000.50 net"


def test_an_exponent_is_no_digit_and_a_note_mark_no_word():
    """10⁶ is another value than 106; the mark of a note does not keep an answer from being found."""
    assert text.normalise("10⁶ Pa") != text.normalise("106 Pa")
    assert text.contains("It lasts 36 ¹ months ².", "36 months") and text.normalise("5 m²") == "5 m2"


def test_content_words_carry_the_meaning():
    """Articles, question words and auxiliaries carry none."""
    assert text.content_words("What is the refund limit of the shop?") == {"refund", "limit", "shop"}


@given(st.text())
def test_sentences_are_parts_of_the_text_in_order(value):
    """Sentences do not overlap, are stripped, and together hold all that is no space or closing mark."""
    spans = list(text.sentences(value))
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(value[start:end] == value[start:end].strip() != "" for start, end in spans)


def test_abbreviations_end_no_sentence():
    """A title or an abbreviation before a capital is no end."""
    found = [PROSE[start:end] for start, end in text.sentences(PROSE)]
    assert found[0] == "Refunds are paid within 30 days, e.g. by card."
    assert "Dr. Lopez signs form E-104." in found


def test_lines_are_wrapped_and_items_are_not():
    """A wrapped line goes on; a blank line, a list item, a heading and a table row end a sentence."""
    value = "# Fees\nA fee is\ndue now\n\nNo end\n- one\n- two\n\n| a | b |\n| c | d |"
    found = [value[start:end] for start, end in text.sentences(value)]
    assert found == ["# Fees", "A fee is\ndue now", "No end", "- one", "- two", "| a | b |", "| c | d |"]


def test_an_answer_is_contained_word_by_word():
    """Words in a row count in any case and punctuation; parts of words do not, and nothing is contained in nothing."""
    assert text.contains("It takes “Thirty Days”.", "thirty days")
    assert not text.contains("It takes 30 days.", "0 days")
    assert not text.contains("anything", "")


@given(st.text(), st.text(), st.text())
def test_a_text_contains_its_whole_words(before, words, after):
    """Words between spaces are contained in the text around them."""
    assume(text.normalise(words))
    assert text.contains(f"{before} {words} {after}", words)


@given(st.recursive(st.text() | st.integers() | st.none() | st.characters(categories=["Cs"]), st.lists, max_leaves=8))
def test_what_json_holds_can_be_stored(value):
    """Whatever half characters JSON spells, what is read of it can be written as UTF-8; whole texts stay as is."""
    read = from_json(json.dumps({"a": value, "b": "50 € 🙂"}))
    assert json.dumps(read, ensure_ascii=False).encode("utf-8")
    assert read["b"] == "50 € 🙂"
    assert whole(read) == read


def test_json_that_is_nested_without_end_is_an_error():
    """A hundred thousand brackets are no JSON that can be read, and end in the error of any other."""
    with pytest.raises(ValueError, match="nested too deeply"):
        from_json("[" * 100_000 + "]" * 100_000)


@given(st.text(alphabet="ab1., _", max_size=4), st.text(alphabet="ab1., _", max_size=24))
@example("a a", "ba a a")
def test_places_are_those_of_a_pattern(wanted, around):
    """A text is found where a pattern of it would find it, between characters that do not make it go on."""
    assume(wanted)
    before, after = re.compile(r"[\w.,]"), re.compile(r"\w|[.,:]\d")
    pattern = rf"(?<![\w.,]){re.escape(wanted)}(?!\w|[.,:]\d)"
    found = [match.span() for match in re.finditer(pattern, around)]
    assert [*text.places(wanted, around, before, after)] == found
    assert not [*text.places("", around, before, after)]
