"""Bearing: which chunks hold a question's answer, and what retrieval made of them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raft.rag import relevant
from raft.rag.format import ABSTENTION
from raft.store import tables
from raft.testing import make_chunks

CHUNKS = make_chunks(
    {
        "refunds": [
            "Parcels may be sent back within 30 days.",
            "The fee is 1,250 euros, due on March 12, 2024.",
            "Yes, we are open. No refund after thirty days.",
        ]
    }
)
NAMES = st.lists(st.sampled_from([f"c{n}" for n in range(12)]), unique=True)


def question(*answers, golden=(), **changes):
    """Return a row of an evaluation file."""
    row = {"question_id": "q", "question": "How long?", "answers": list(answers), "golden_chunk_ids": list(golden)}
    return tables.frame(tables.EVALUATION, [{**row, **changes}]).row(0, named=True)


def borne(asked, chunks=CHUNKS):
    """Return the relevant chunks of a question."""
    return relevant.relevant(asked, chunks.to_dicts())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["30 Days"], ["refunds#0"]),
        (["a month", "30 days"], ["refunds#0"]),
        (["12 March 2024"], ["refunds#1"]),
        (["1250 euros"], ["refunds#1"]),
        (["30 weeks"], []),
        (["yes"], []),
        ([ABSTENTION], []),
        ([], []),
    ],
)
def test_a_chunk_bears_an_answer_that_it_holds(answers, expected):
    """Any of the answers counts, in any spelling of its figures; yes and no stand everywhere and tell nothing."""
    assert borne(question(*answers)) == expected


def test_golden_chunks_come_first_and_once():
    """A question's golden chunks bear its answer whatever they say, and other chunks may hold it too."""
    assert borne(question("30 days", golden=["refunds#2"])) == ["refunds#2", "refunds#0"]
    assert borne(question("30 days", golden=["refunds#0"])) == ["refunds#0"]
    assert borne(question("no", golden=["refunds#2"])) == ["refunds#2"]


def test_boilerplate_bears_nothing():
    """A chunk that is boilerplate holds no answer, whatever words it has."""
    furniture = [{**row, "boilerplate": True} for row in CHUNKS.iter_rows(named=True)]
    assert relevant.relevant(question("30 days"), furniture) == []


def test_nothing_bears_what_cannot_be_answered():
    """A question is unanswerable when each of its answers is an abstention; one without answers is just unmeasured."""
    assert relevant.unanswerable(question(ABSTENTION, ""))
    assert not relevant.unanswerable(question(ABSTENTION, "30 days"))
    assert not relevant.unanswerable(question())
    assert borne(question(ABSTENTION, golden=["refunds#0"])) == []


@given(NAMES, NAMES)
def test_ranks_are_places_among_the_hits(known, hits):
    """A rank counts from 1 and names its chunk among the hits; a chunk that is not there has none."""
    places = relevant.ranks(known, hits)
    assert len(places) == len(known)
    for name, rank in zip(known, places, strict=True):
        assert (rank is None) == (name not in hits)
        assert rank is None or hits[rank - 1] == name


@given(NAMES, NAMES)
def test_the_golden_chunk_is_the_best_ranked(known, hits):
    """Of several relevant chunks the one that is found first is golden, the first of them where none is found."""
    golden = relevant.golden_of(known, hits)
    found = [rank for rank in relevant.ranks(known, hits) if rank is not None]
    if found:
        assert hits.index(golden) + 1 == min(found)
    else:
        assert golden == (known[0] if known else None)


def test_a_chunk_that_is_found_twice_has_its_better_rank():
    """A hit list that repeats a chunk ranks it where it stands first."""
    assert relevant.ranks(["a"], ["b", "a", "a"]) == [2]


def test_about_a_fifth_is_withheld_and_always_the_same():
    """The share is kept over many questions, a larger share holds all of a smaller one, and the seed changes both."""
    names = [f"q{n}" for n in range(2000)]
    fifth = {name for name in names if relevant.withheld(name, 0.2, 0)}
    assert 330 < len(fifth) < 470
    assert fifth < {name for name in names if relevant.withheld(name, 0.4, 0)}
    assert fifth != {name for name in names if relevant.withheld(name, 0.2, 1)}
    assert not any(relevant.withheld(name, 0.0, 0) for name in names)
    assert all(relevant.withheld(name, 1.0, 0) for name in names)


def test_a_question_is_resampled_with_its_document():
    """A question belongs to the document it names, or to its golden chunk's, or to none but itself."""
    paths = {"refunds#0": "refunds.md"}
    assert relevant.group_of(question("x", document="fees.md"), "refunds#0", paths) == "fees.md"
    assert relevant.group_of(question("x"), "refunds#0", paths) == "refunds.md"
    assert relevant.group_of(question("x"), None, paths) == "q"


def test_sources_say_what_was_found():
    """A question's sources tell whether a relevant chunk is among the first k, and what the golden one says."""
    sources = relevant.Sources({"q": ["a", "b"]}, {"q": ["x", "b"], "p": ["x"]}, {"q": "doc"}, {"b": "text of b"})
    assert (sources.retrieved("q", 1), sources.retrieved("q", 2)) == (False, True)
    assert sources.retrieved("p", 2) is None
    assert (sources.golden("q"), sources.golden("p")) == ("text of b", "")
    assert (sources.group("q"), sources.group("p")) == ("doc", "p")


@pytest.mark.parametrize(
    "answer", ["No information is stored about visitors.", "Unknown", "The document does not cover it."]
)
def test_a_reference_that_says_no_is_an_answer(answer):
    """Only the abstention itself makes a question unanswerable: what sounds like it is what the documents say."""
    assert not relevant.unanswerable(question(answer))
    assert borne(question(answer), make_chunks({"rules": [f"Rule 3. {answer}"]})) == ["rules#0"]


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("Chapter 5", "5", False),
        ("Chapter 5", "Chapter 5", True),
        ("Stored at -15 °C.", "15 °C", False),
        ("It costs $5 million.", "$5 thousand", False),
        ("It costs 5,000,000 dollars.", "$5 million", True),
        ("Signed on 2024-03-12.", "12 March 2024", True),
        ("It takes 130 days.", "130 weeks", False),
    ],
)
def test_a_text_holds_an_answer_with_sign_scale_and_unit(text, answer, held):
    """A short number alone is no answer, and another sign, scale or unit is another answer."""
    assert relevant.holds_answer(text, answer) is held


def test_a_short_number_is_borne_where_the_text_is_about_the_question():
    """An answer of one digit stands anywhere, so that the chunk must hold words of the question too."""
    chunks = make_chunks({"a": ["Chapter 5", "The warranty of the pump lasts 5 years."]})
    assert borne(question("5", question="How many years does the pump's warranty last?"), chunks) == ["a#1"]


PIECES = ["12", "1,250", "2.5", "98", "days", "thousand", "kg", "dozen", "months", "$", "12/03/98", "percent", "to"]


@given(st.lists(st.sampled_from(PIECES), max_size=9), st.lists(st.sampled_from(PIECES), min_size=1, max_size=3))
@example(["5", "dozen", "days"], ["60", "days"])
@example(["12/03/98"], ["1998"])
@example(["1.5", "thousand", "kg"], ["1,500", "kg"])
def test_what_a_text_lacks_by_its_digits_it_does_not_hold(text, answer):
    """That a text is passed over for its digits alone never changes whether it holds an answer."""
    text, answer = " ".join(text), " ".join(answer)
    told = relevant.holds_answer(text, answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relevant, "_lacks_digits", lambda *_: False)
        assert relevant.holds_answer(text, answer) is told
