"""Questions that are completed with the title of their document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.generation.titles import MOST_WORDS, Titles, according
from raft.text import contains

TITLES = Titles(
    {
        "sula": "Berth Rules of the Sula Harbour",
        "moss": "Berth Rules of the Moss Harbour",
        "plan": "warranty-2025",
        "old": "warranty-2023",
        "number": "10430303",
        "asks": "Who may sail?",
        "loud": "Welcome aboard!",
        "long": "Rules " * 13,
    }
)


def test_a_question_that_names_nothing_of_its_document_is_completed():
    """A question that any document of the kind would answer says by which one it is to be answered."""
    assert TITLES.complete("How many traps are set?", "4", "sula") == (
        "According to Berth Rules of the Sula Harbour, how many traps are set?"
    )
    assert TITLES.complete("How long is a berth kept?", "9 days", "moss").startswith(
        "According to Berth Rules of the Moss"
    )
    assert TITLES.complete("What is kept?", "ropes", "loud") == "According to Welcome aboard, what is kept?"


def test_i_stays_large():
    """The first letter of a completed question is made small, but for the word "I"."""
    assert according("Security Handbook", "I pay how much?") == "According to Security Handbook, I pay how much?"
    assert according("Security Handbook", "Is it paid?") == "According to Security Handbook, is it paid?"


@pytest.mark.parametrize(
    ("question", "answer", "doc_id"),
    [
        ("How many traps does Ada Lindt set?", "4", "sula"),
        ("What may a boat of the sula carry?", "9 kg", "sula"),
        ("How long does the 2025 warranty last?", "4 years", "plan"),
        ("According to warranty-2025, how long are parts covered?", "4 years", "plan"),
        ("How many harbours are there?", "the Sula Harbour", "sula"),
        ("In which year is it renewed?", "2025", "plan"),
        ("What is named in it?", "the harbours", "sula"),
        ("How many patients were treated?", "31", "number"),
        ("How many sails are there?", "4", "asks"),
        ("How many sails are there?", "4", "long"),
        ("How many sails are there?", "4", "unknown"),
        (f"How many {'old ' * 36}sails are there?", "4", "sula"),
    ],
)
def test_all_others_stay_as_they_are(question, answer, doc_id):
    """Untouched: what has a name or a word of its title alone, what would be given away; titles without words."""
    assert TITLES.complete(question, answer, doc_id) == question


@given(st.text(max_size=60), st.text(max_size=20), st.sampled_from([*TITLES.of, "unknown"]))
def test_whatever_is_asked_it_stays_a_question_of_the_same_words(question, answer, doc_id):
    """What comes back is the question, alone or behind its title; completing it again changes nothing."""
    once = TITLES.complete(question, answer, doc_id)
    assert once == question or once.endswith(question[1:])
    assert once == question or not contains(TITLES.of[doc_id], answer)
    assert len(once.split()) <= max(MOST_WORDS, len(question.split()))
    assert TITLES.complete(once, answer, doc_id) == once


def test_a_title_stands_before_the_question():
    """The question goes on behind the title, in small letters."""
    assert according("Terms", "How long?") == "According to Terms, how long?"
