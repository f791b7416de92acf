"""The rules that tell whether a question asks for the figure that it is answered with."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.curation import clean as cleaning
from raft.curation.figures import Said, another_figure, completed, of_a_condition, other_type, unsaid
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, make_chunks, make_question
from raft.text import contains
from raft.text.languages import known

FEES = "The ferry charges 12 euros for each bicycle and 30 euros for each car, and dogs travel free."
CREW = "The harbour office is open from Tuesday to Friday between 8:15 and 16:45."
PUMP = "A pump that ran for more than 900 hours within 14 months is sent to the workshop in Tornby."


def said(question, answer, quote, heading="", code="en"):
    """Return a question on a quote that is all of its chunk."""
    return Said(question, answer, quote, heading, quote, known(code))


@pytest.mark.parametrize(
    ("question", "answer", "quote", "whole"),
    [
        ("At what time is the harbour office open?", "16:45", CREW, "between 8:15 and 16:45"),
        ("Until what time is the harbour office open?", "16:45", CREW, "16:45"),
        ("How many nights may a guest moor?", "9 nights", "A guest may moor for up to 9 nights.", "up to 9 nights"),
        ("Up to how many nights may a guest moor?", "9 nights", "A guest may moor for up to 9 nights.", "9 nights"),
        (
            "How many hours of training does a skipper get?",
            "1.5 hours",
            "A skipper gets 1.5 hours of training per full week.",
            "1.5 hours of training per full week",
        ),
        ("How many euros do moorings cost?", "7 euros", "Moorings cost 7 euros each.", "7 euros each"),
        ("How many euros per night do moorings cost?", "7 euros", "Moorings cost 7 euros per night.", "7 euros"),
        ("How long may a boat stay?", "9 days", "A boat may stay no longer than 9 days.", "no longer than 9 days"),
        ("How long may a stay be?", "9 days", "A stay may not exceed 9 days.", "9 days"),
        ("Who runs the harbour office?", "Ada Lindt", "Ada Lindt runs the harbour office.", "Ada Lindt"),
        ("Wie viele Nächte darf ein Gast bleiben?", "9 nights", "A guest may moor for up to 9 nights.", "9 nights"),
    ],
)
def test_an_answer_is_completed_with_what_belongs_to_its_figure(question, answer, quote, whole):
    """What the quote says beside a figure and the question does not becomes part of the answer, word for word."""
    code = "de" if question.startswith("Wie") else "en"
    made = completed(said(question, answer, quote, code=code))
    assert made == whole
    assert contains(quote, made)
    assert completed(said(question, made, quote, code=code)) == made


@pytest.mark.parametrize(
    ("question", "answer", "quote", "wrong"),
    [
        ("How many euros does a bicycle on the ferry cost?", "12 euros", FEES, False),
        ("How many euros does a car on the ferry cost?", "12 euros", FEES, True),
        ("How many euros does the ferry cost for a bicycle and a car?", "12 euros", FEES, True),
        ("At what time is the harbour office open?", "16:45", CREW, False),
        ("Wie viel kostet ein Auto?", "12 Euro", "Ein Rad kostet 12 Euro, und ein Auto kostet 30 Euro.", True),
    ],
)
def test_a_question_for_another_figure_of_the_quote_is_told(question, answer, quote, wrong):
    """Where a quote has two figures of a kind, the question must be nearer to the one that answers it."""
    assert another_figure(said(question, answer, quote, code="de" if "Ein Rad" in quote else "en")) == wrong


@pytest.mark.parametrize(
    ("question", "answer", "quote", "wrong"),
    [
        ("Within how many months can a pump be bought in Tornby?", "14 months", PUMP, True),
        ("Within how many months must a pump reach 900 hours to be sent away?", "14 months", PUMP, False),
        (
            "How many days does it take to drain the tank?",
            "5 days",
            "If the boat lies still for more than 5 days, drain the tank.",
            True,
        ),
        ("For how many days may the boat stay?", "5 days", "The boat may stay for 5 days.", False),
    ],
)
def test_the_bound_of_a_condition_is_no_answer_to_another_question(question, answer, quote, wrong):
    """A figure that says when something applies answers no question that leaves the condition out."""
    assert of_a_condition(said(question, answer, quote)) == wrong


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("How many boats lie in Tornby?", "the harbour", True),
        ("How many boats lie in Tornby?", "thirty-one boats", False),
        ("How many days does the trip take?", "3 hours", True),
        ("How many working days does the trip take?", "3 days", False),
        ("When was the pier built?", "40 metres", True),
        ("When was the pier built?", "after the war", False),
        ("Where is the pier?", "12 March 2019", True),
        ("Who built the pier?", "1908", True),
        ("How was the pier built?", "Port Sunlight", True),
        ("How was the pier built?", "with oak from the island", False),
        ("Which pier is the longest?", "3 metres", False),
    ],
)
def test_an_answer_of_another_type_is_told(question, answer, wrong):
    """What a question asks for and what it is answered with are of one type, where both are plain."""
    assert other_type(said(question, answer, answer)) == wrong


@pytest.mark.parametrize(
    ("question", "answer", "quote", "wrong"),
    [
        ("Within how many days must a leak be reported?", "3 days", "A leak must be reported within 3 days.", False),
        ("Within how many days can a leak occur?", "3 days", "A leak must be reported within 3 days.", True),
        ("Within how many days is a tax of 25% paid?", "3 days", "A tax must be paid within 3 days.", True),
        ("How heavy is the anchor?", "40 kg", "The anchor weighs 40 kg.", False),
        ("What percentage of the fee does a club pay?", "20 percent", "A club pays 20 percent of the rent.", True),
        ("What percentage of the rent does a club pay?", "20 percent", "A club pays 20 percent of the rent.", False),
        ("What share of the crew lives ashore?", "40 percent", "40 percent of all hands live on land.", False),
    ],
)
def test_a_question_says_what_its_quote_says(question, answer, quote, wrong):
    """A question has no figure that its passage lacks, nor a word of its own for the one that its figure is said of."""
    assert unsaid(said(question, answer, quote)) == wrong


def test_each_value_of_a_row_has_its_own_name():
    """A row of a sheet has several figures, and none is taken for another's."""
    row = "Part: SP-1; Length: 40; Price: 34.00; Stock: 12"
    assert not another_figure(said("What is the stock of SP-1?", "12", row))


def test_people_may_use_other_words_than_the_sentence():
    """What a small model was led to is held to its sentence's words; what people ask, or larger models, is not."""
    led = said("Within how many days can a leak occur?", "3 days", "A leak must be reported within 3 days.")
    assert unsaid(led) and not unsaid(led._replace(led=False))
    near_to_both = said("What does the ferry charge for each bicycle and each car?", "12 euros", FEES)
    assert another_figure(near_to_both) and not another_figure(near_to_both._replace(led=False))
    other = said("How many euros does the ferry charge for each car?", "12 euros", FEES)
    assert another_figure(other) and another_figure(other._replace(led=False))


SENTENCES = [FEES, CREW, PUMP, "A guest may moor for up to 9 nights.", "The anchor weighs 40 kg."]
CHUNKS = make_chunks({f"d{place}": [text] for place, text in enumerate(SENTENCES)})
ROWS = [*CHUNKS.iter_rows(named=True)]
ASKED = st.builds(
    lambda place, question, answer: make_question(ROWS[place], question, answer, kind="number"),
    st.integers(0, len(ROWS) - 1),
    st.sampled_from(
        [
            "How many euros does a car cost on the ferry?",
            "At what time is the harbour office open?",
            "How heavy is it?",
            "How many nights may a guest moor?",
            "Within how many months is a pump sent to Tornby?",
        ]
    ),
    st.sampled_from(["12 euros", "16:45", "14 months", "9 nights", "40 kg", "dogs"]),
)


def clean(rows):
    """Clean with the fakes."""
    return cleaning.clean(
        tables.frame(tables.QUESTIONS, rows),
        CHUNKS,
        retriever=OverlapRetriever(CHUNKS),
        embedder=HashEmbedder(),
        held_out=frozenset(),
        min_words=4,
        max_words=40,
        max_answer_words=60,
        similarity=0.92,
        round_trip_k=5,
        judge=None,
        judge_prompt=None,
        judge_minimum=0.6,
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(ASKED, max_size=6, unique_by=lambda row: row["question_id"]), st.randoms())
def test_rules_look_at_one_row_and_may_be_asked_again(rows, random):
    """No row is lost or added, order changes nothing, and what was cleaned is cleaned to the same."""
    cleaned = clean(rows)
    assert cleaned["question_id"].to_list() == [row["question_id"] for row in rows]
    columns = ["question_id", "answer", "reason"]
    again = clean(cleaned.select(tables.QUESTIONS.names()).to_dicts())
    assert again.select(columns).equals(cleaned.select(columns))
    mixed = random.sample(rows, len(rows))
    assert (
        pl.DataFrame(clean(mixed))
        .sort("question_id")
        .select(columns)
        .equals(cleaned.sort("question_id").select(columns))
    )
