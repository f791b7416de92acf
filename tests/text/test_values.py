"""Exact facts: where they stand, and what they say however they are written."""

from datetime import date
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.text import values


@given(st.text())
def test_facts_stand_where_they_say(value):
    """Each fact is the text between its offsets, and no two overlap."""
    found = values.facts(value)
    assert all(value[fact.start : fact.end] == fact.text for fact in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_facts_are_numbers_dates_codes_and_names():
    """Exact facts are found with their kind."""
    text = "Refunds take 30 days, of 1,000 euros at most. Form E-104, by 12 March 2024, 14:30. We ask Maria de Lopez."
    found = {fact.text: fact.kind for fact in values.facts(text)}
    assert {"30 days": "number", "12 March 2024": "date", "E-104": "code"}.items() <= found.items()
    assert {"14:30": "date", "1,000 euros": "number", "Maria de Lopez": "name"}.items() <= found.items()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000 euros", "1000 euros"),
        ("12 March 2024", "March 12, 2024"),
        ("12th of March 2024", "12 Mar 2024"),
        ("2.50 m", "2.5 m"),
        ("form e-104", "form e-104"),
        ("form E-104", "FORM E-104"),
        ("2024-03-12", "12 March 2024"),
        ("2024-03-12", "12.3.24 "),
        ("1.5k", "1,500"),
        ("$5 million", "5,000,000 dollars"),
        ("€2bn", "2 billion euros"),
        ("-5 °C", "minus 5 degrees Celsius"),
        ("−5 °C", "–5°C"),
        ("30 kilometers", "30km"),
        ("24h", "24 hours"),
        ("5%", "5 per cent"),
        ("2:30 pm", "14:30"),
        ("3 to 5 million", "3-5M"),
        ("12 500 kg", "12,500 kg"),
        ("1 234 567", "1234567"),
        ("from 12 500 to 15 000 euros", "12500-15000 €"),
        ("EUR 12\u202f500.75", "12'500.75 euros"),
        ("5 mio", "5 million"),
        ("2 to 3 dozen", "24 to 36"),
        ("(- 5 °C)", "-5 °C"),
    ],
)
def test_spellings_of_one_value_are_equal(one, other):
    """Separators, zeros, case, the form of a date, words for signs and scales, a unit's spelling: nothing changes."""
    assert values.agree(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("30 days", "31 days"),
        ("1,000", "10,000"),
        ("12 March 2024", "12 May 2024"),
        ("E-104", "E-105"),
        ("10", "1"),
        ("0.5", "5"),
        ("-5 °C", "5 °C"),
        ("“-5”", "5"),
        ("-$5", "$5"),
        ("$5 million", "$5 thousand"),
        ("1.5k", "1.5"),
        *((f"12{space}500 litres", "500 litres") for space in " \u00a0\u2009\u202f'’"),
        *((f"5 {scale}", "5") for scale in ("mio", "Millionen", "Mrd", "million", "dozen")),
        ("- 5 °C", "5 °C"),
        ("[ − 5 % ]", "5 %"),
        ("5 days", "5 weeks"),
        ("5 km", "5 m"),
        ("5 euros", "5 dollars"),
        ("5 m", "5 m²"),
        ("2024-03-12", "2024-03-13"),
        ("13/03/2024", "3 January 2024"),
    ],
)
def test_other_values_differ(one, other):
    """Another figure, sign, scale, unit, month or code is another value, and no part of it."""
    for known, claimed in ((one, other), (other, one)):
        assert not values.covers(values.figures(known), values.figures(claimed))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("In 2019 500 people came.", {2019, 500}),
        ("Room 12 500 seats", {12, 500}),
        ("on page 12 500 words", {12, 500}),
        ("sizes 100 200 30", {100, 200, 30}),
        ("+49 30 123 456", {49, 30, 123, 456}),
        ("0 500 12", {0, 500, 12}),
        ("two 500 g packs", {2, 500}),
        ("10 − 5", {10, 5}),
        ("- 5 kg of flour", {5}),
    ],
)
def test_numbers_that_stand_side_by_side_are_not_put_together(text, said):
    """A year, a list, what a word numbers, and the mark of a list's item are no part of the number behind them."""
    assert {int(value.stated) for value in values.figures(text)} == said


SCALES = {"": 1, "k": 1000, " thousand": 1000, " million": 10**6, "bn": 10**9}
UNITS = {"": "", " days": "-day", " °C": " degrees Celsius", " kg": " kilograms", "%": " percent", " km": " kilometres"}
NUMBERS = st.tuples(st.booleans(), st.integers(0, 999), st.integers(0, 99))


def written(number, scale, unit, *, sign="-", group=False):
    """Return a quantity as a text has it: sign, number with two decimals at most, scale and unit."""
    negative, whole, cents = number
    digits = f"{whole * SCALES[scale]:,}" if group else f"{whole}{scale}"
    decimals = f".{cents:02}".rstrip("0").rstrip(".") if not group and not scale else ""
    return f"{sign if negative else ''}{digits}{decimals}{unit}"


def test_a_number_with_spaces_between_thousands_is_one_fact():
    """An answer is the whole number, never its last three figures; a decimal comma behind it leaves none."""
    for text in ("12 000 kg", "1 250 000 litres", "1’250 days", "$1 250"):
        assert [fact.text for fact in values.facts(f"It is {text} at most.")] == [text]
    assert values.facts("It costs 1 234,5 kg a year.") == []
    assert [fact.text for fact in values.facts("Room 12 000")] == ["12", "000"]


@pytest.mark.parametrize("said", ["2019\u00a02020", "5\u00a045", "2019\u00a0500"])
def test_numbers_with_a_no_break_space_between_them_are_two_facts(said):
    """Only three figures behind three at most go on with a number: two years are both kept."""
    assert [fact.text for fact in values.facts(f"Sold {said} in all.")] == said.split()


@given(st.integers(1000, 10**9), st.sampled_from(" \u00a0\u2009\u202f'’"), st.sampled_from([*UNITS]))
def test_thousands_may_be_parted_by_any_sign(number, sign, unit):
    """Commas, spaces of any width and apostrophes between thousands say the same number, and no part of it."""
    parted = f"it holds {number:,}{unit} or so".replace(",", sign)
    assert values.figures(parted) == values.figures(f"it holds {number}{unit} or so")


@given(NUMBERS, st.sampled_from([*SCALES]), st.sampled_from([*UNITS]), st.sampled_from(["-", "−", "–", "minus "]))
def test_a_quantity_says_the_same_in_all_its_spellings(number, scale, unit, sign):
    """Sign, scale and unit may be spelled otherwise; where no unit is said any will do."""
    number = (number[0], number[1], 0 if scale else number[2])
    first = written(number, scale, unit)
    other = written(number, scale, UNITS[unit], sign=sign, group=bool(scale))
    assert values.agree(f"It is {first}.", f"({other})")
    bare = written(number, scale, "")
    assert values.covers(values.fact_values(f"It is {first}, or so."), values.fact_values(bare))


@given(NUMBERS, NUMBERS, st.sampled_from([*product(SCALES, SCALES)]), st.sampled_from([*product(UNITS, UNITS)]))
def test_quantities_agree_only_in_number_and_unit(one, other, scales, units):
    """Two quantities say the same when sign times number times scale is equal and no other unit is said."""
    (scale, other_scale), (unit, other_unit) = scales, units
    texts = [written(one, scale, unit), written(other, other_scale, other_unit)]
    amounts = [
        (-1 if negative else 1) * (whole + (0 if size else cents / 100)) * SCALES[size]
        for (negative, whole, cents), size in ((one, scale), (other, other_scale))
    ]
    same = amounts[0] == amounts[1] and (unit == other_unit or not unit or not other_unit)
    assert values.agree(*texts) is same


@given(st.dates(date(1000, 1, 1)), st.dates(date(1000, 1, 1)))
def test_a_date_is_one_in_all_its_forms(day, other):
    """A date in figures is either of its readings, in words and in ISO's form it is one, and it says its parts."""
    forms = [f"{day:%Y-%m-%d}", f"{day.day} {day:%B} {day.year}", f"{day:%B} {day.day}, {day.year}"]
    for one in forms:
        for two in (*forms, f"{day:%d/%m/%Y}", f"{day:%m/%d/%Y}", f"{day.day}.{day.month}.{day.year}"):
            assert values.agree(one, two)
        for part in (f"{day.day} {day:%B}", f"{day:%B} {day.year}"):
            assert values.covers(values.fact_values(one), values.fact_values(part))
            assert not values.covers(values.fact_values(part), values.fact_values(one))
        if other != day:
            assert not values.agree(one, f"{other:%Y-%m-%d}")


@pytest.mark.parametrize(
    ("known", "claimed"), [("3 working days", "3 days"), ("12 March 2026", "2026"), ("20 °C", "20")]
)
def test_what_is_said_closer_says_the_rest_too(known, claimed):
    """Working days are days, a date has a year, a number may go without its unit; the other way round is a claim."""
    assert values.covers(values.fact_values(known), values.fact_values(claimed))
    assert known == "20 °C" or not values.covers(values.fact_values(claimed), values.fact_values(known))


@given(st.text(), st.text())
def test_texts_that_agree_share_their_key(one, other):
    """Any text agrees with itself, and texts of equal values have one key to be looked up by."""
    assert values.agree(one, one)
    if values.fact_values(one) == values.fact_values(other):
        assert values.rough_values(one) == values.rough_values(other)


@pytest.mark.parametrize("piece", ["A-", "A1-", "a.", "a-", "Ab-", "A-1-", "1-", "1.", "a@"])
def test_the_longest_code_is_read_in_one_go(piece):
    """A run of 300,000 characters that could begin a code anywhere is read about as fast as any other text."""
    run = piece * (300_000 // len(piece))
    assert all(run[fact.start : fact.end] == fact.text for fact in values.facts(run))
