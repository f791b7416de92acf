"""What an answer rests on: quotes word for word, figures to the digit."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raft.rag.format import ABSTENTION, parse, render_target
from raft.rag.grounding import Passage, coverage, find_verbatim, is_supported, locate, relevance, too_little
from raft.testing import HashEmbedder
from raft.text import normalise
from raft.text.values import figures

RETURNS = "Goods can be returned within 30 days.\n\nThe buyer’s refund – less $4.50 – takes 3 working\ndays."
DELIVERY = "Parcels of up to 12 kg are delivered within three days. Call Maria Lopez before 12 March 2026."


def passage(text, chunk_id="a", *, start=100, title=""):
    """Return a passage of a document of the same name."""
    return Passage(chunk_id, f"doc-{chunk_id}", f"{chunk_id}.md", title, None, start, text)


SHOWN = [passage(RETURNS, "a"), passage(DELIVERY, "b", start=7, title="Shop 24 > Delivery")]
WORDS = st.sampled_from(
    ["refund", "Goods", "3", "kg,", "“new”", "buyer’s", "–", "(12.5", "days)", "-", "[1]", "x_y", "é"]
)
SPACES = st.sampled_from([" ", "\n", "  ", "\u00a0", "\n\n"])
PIECES = st.lists(st.tuples(WORDS, SPACES), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("question", "share"),
    [
        ("Within how many days can goods be returned?", 4 / 4),  # within, days, goods, returned
        ("When do the buyers return damaged goods?", 3 / 4),  # "buyer’s" has the same beginning; damaged is nowhere
        ("Who delivers parcels in Shop 24?", 4 / 4),  # the title counts
        ("Who delivers goods?", 1 / 2),  # each in one passage, both in none
        ("What about 31 days?", 1 / 3),  # numbers are compared whole
        ("Who is it?", 1.0),  # no word to be covered
    ],
)
def test_a_question_is_covered_by_the_passage_that_holds_most_of_its_words(question, share):
    """Coverage is the share of the question's own words in one passage, however inflected."""
    assert coverage(question, SHOWN) == share


@given(st.text(max_size=60))
def test_coverage_is_a_share(question):
    """A question covers itself, and is covered by nothing where nothing is shown, unless it has no words."""
    alone = coverage(question, [])
    assert coverage(question, [passage(question)]) == 1.0
    assert alone in (0.0, 1.0)
    assert alone <= coverage(question, SHOWN) <= 1.0


def vectors(**known):
    """Return what embeds these texts as given, and all others as a vector that is near to none of them."""
    return lambda texts: np.array([known.get(text, (0.0, 0.0, 1.0)) for text in texts], dtype=np.float32)


def test_relevance_is_the_mean_of_words_and_of_the_nearest_sentence():
    """Half of it is the share of the question's words, half the cosine to the nearest sentence of any passage."""
    question, sentence = "Who delivers goods?", "Call Maria Lopez before 12 March 2026."
    embed = vectors(**{question: (1.0, 0.0, 0.0), sentence: (0.6, 0.8, 0.0)})
    (found,) = relevance([question], [SHOWN], embed)
    assert found == pytest.approx((1 / 2 + 0.6) / 2)
    assert relevance([question], [SHOWN[:1]], embed) == [1 / 4]  # that sentence stands in the other passage


def test_the_opposite_of_a_question_is_as_little_about_it_as_nothing():
    """A negative cosine counts as none, and without passages there is no relevance."""
    question = "Who delivers goods?"
    embed = lambda texts: np.array([[1.0] if text == question else [-1.0] for text in texts], dtype=np.float32)  # noqa: E731
    assert relevance([question, question], [SHOWN, []], embed) == [1 / 4, 0.0]
    assert relevance([], [], embed) == []


@given(question=st.text(max_size=40), text=st.text(max_size=80))
def test_relevance_is_a_share(question, text):
    """Whatever is asked and shown, the relevance lies between 0 and 1, and that of a sentence to itself is 1."""
    embed = HashEmbedder().embed
    (found,) = relevance([question], [[passage(text)]], embed)
    assert 0.0 <= found <= 1.0
    assert relevance(["Who delivers goods?"], [[passage("Who delivers goods?")]], embed) == [pytest.approx(1.0)]


@given(before=st.text(max_size=20), pieces=PIECES, data=st.data())
def test_a_quote_cut_from_a_passage_is_found_where_the_document_has_it(before, pieces, data):
    """Any run of whole words that is quoted is cited with offsets at which the document says the same."""
    text = "".join(word + space for word, space in pieces)
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first + 1, len(pieces)))
    cut = "".join(word + space for word, space in pieces[first:last])
    assume(any(map(str.isalnum, cut)))
    quotes = parse(render_target("x", [(2, cut)])).quotes
    citations, verbatim = locate(quotes, [passage("Else.", "z"), passage(text, "d", start=len(before))])
    assert verbatim is True
    (citation,) = citations
    assert (before + text)[citation.start : citation.end] == citation.text
    assert citation.text.split() == cut.split()
    assert citation.chunk_id == "d"


@given(place=st.integers(0, 15), data=st.data())
def test_a_quote_with_one_changed_word_is_not_verbatim(place, data):
    """A word that is replaced, cut short, lengthened or in another case makes a quote another text."""
    words = DELIVERY.split()
    word = words[place]
    changes = ["never", f"{word}s", f"x{word}", word[:-1], word.swapcase()]
    changed = data.draw(st.sampled_from([one for one in changes if one not in ("", word)]))
    assume(place < len(words) - 1 or changed != word[:-1])  # without its full stop the last word is still the word
    quote = " ".join([*words[:place], changed, *words[place + 1 :]])
    assume(quote != " ".join(words))
    assert locate([(1, quote)], [passage(DELIVERY)]) == ([], False)


@pytest.mark.parametrize(
    ("quote", "words"),
    [
        ("The buyer's refund - less $4.50 - takes 3 working days.", RETURNS.split("\n\n")[1]),
        ("The buyer\u2018s refund \u2014 less $4.50 \u2212 takes 3\u00a0working days.", RETURNS.split("\n\n")[1]),
        (" refund \u2011   less ", "refund – less"),
        ('"takes 3 working\tdays."', "takes 3 working\ndays."),
        ("30 days. The buyer's", "30 days.\n\nThe buyer’s"),
        ("$4.50", "$4.50"),
    ],
)
def test_white_space_and_typography_make_no_difference(quote, words):
    """A quote with plain marks, other dashes or other spaces is the same quote, and is cited as the document has it."""
    start, end = find_verbatim(quote, RETURNS)
    assert RETURNS[start:end] == words


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("3 days", "within 13 days"),
        ("3 days", "within 2.3 days"),
        ("000 people", "1,000 people"),
        ("3 °C", "at -3 °C"),
        ("3 °C", "−3 °C"),
        ("costs 2", "costs 2.50"),
        ("return", "returned"),
        ("Returned goods", "returned goods"),
        ("goods, returned", "goods returned"),
        ("…", "and so on …"),
        ('""', 'the sign "" is empty'),
        ("all of the goods and more", "the goods"),
    ],
)
def test_part_of_a_word_or_a_number_is_no_quote(quote, text):
    """A quote ends where words and numbers end; case and punctuation count; marks alone say nothing."""
    assert find_verbatim(quote, text) is None


@pytest.mark.parametrize("quote", ["10 days", "(within 10 days)", "10 days)", "10"])
def test_a_range_can_be_quoted_from_its_inside(quote):
    """Brackets and sentence marks beside a quote do not hide it."""
    assert find_verbatim(quote, "It takes time (within 10 days). Not 10.5.") is not None


def test_a_wrong_number_is_a_citation_of_the_right_passage_and_not_verbatim():
    """A quote that names the wrong passage is cited from the one it stands in, and the reply is marked."""
    quotes = [(1, "delivered within three days"), (2, "Call Maria Lopez")]
    citations, verbatim = locate(quotes, SHOWN)
    assert [(one.chunk_id, one.text) for one in citations] == [("b", quotes[0][1]), ("b", quotes[1][1])]
    assert citations[0].start == 7 + DELIVERY.index("delivered")
    assert verbatim is False


@pytest.mark.parametrize("number", [0, 3, 999])
def test_a_number_that_was_not_shown_is_wrong(number):
    """A quote that names a passage that does not exist is looked for in those that do, and is not verbatim."""
    citations, verbatim = locate([(number, "within 30 days")], SHOWN)
    assert [one.chunk_id for one in citations] == ["a"]
    assert verbatim is False


def test_a_quote_without_a_number_may_stand_anywhere():
    """An unnumbered quote is verbatim in whichever passage it stands; the named passage comes first otherwise."""
    assert locate([(None, "three days")], SHOWN)[1] is True
    twice = [passage("Same words.", "x"), passage("Same words.", "y")]
    assert [one.chunk_id for one in locate([(2, "Same words"), (None, "Same words")], twice)[0]] == ["y", "x"]


def test_the_same_typography_is_preferred():
    """Where a text says a thing in two typographies, the quote is found in its own."""
    assert find_verbatim("a – a", "a - a – a") == (4, 9)
    assert find_verbatim("a — a", "a - a – a") == (0, 5)


def test_without_quotes_there_is_nothing_to_judge():
    """No quote is neither verbatim nor not; an invented one, or one that was never shown, is not."""
    assert locate([], SHOWN) == ([], None)
    assert locate([(1, "Goods are free.")], SHOWN) == ([], False)
    assert locate([(1, "Goods are free.")], []) == ([], False)


SHAPES = [
    "{} days",
    "It costs ${}.50",
    "{}h",
    "#{}",
    "the {}rd",
    "AB-{}",
    "16/{}",
    "2,{}",
    "{} March 2026",
    "A{}",
    "v1.{}.2",
]


@given(right=st.integers(1, 400), wrong=st.integers(1, 400), shape=st.sampled_from(SHAPES))
def test_a_changed_digit_is_never_supported(right, wrong, shape):
    """An answer whose figure differs in a digit from the passage's is not supported, however it is written."""
    assume(right != wrong)
    text = f"As agreed: {shape.format(right)} for all."
    citations, _ = locate([(1, "for all.")], [passage(text)])
    assert citations
    if "March" in shape:
        assume(right <= 31 and wrong <= 31)
    assert is_supported(shape.format(right), citations, [passage(text)]) is True
    assert is_supported(shape.format(wrong), citations, [passage(text)]) is False


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("three days", "within 3 days"),
        ("3 days", "Three days later"),
        ("twenty-five people", "25 people"),
        ("two hundred people", "200 people"),
        ("1000 people", "1,000 people"),
        ("12 March", "on March 12, 2026"),
        ("2026", "on 12 March 2026"),
        ("2026-03-12", "on 12 March 2026"),
        ("12 March 2026", "on 12/03/2026"),
        ("1,500 users", "1.5k users"),
        ("a million users", "1M users"),
        ("One of the managers decides, as that one can.", "A manager decides; 'One of the managers decides'."),
        ("1. Goods\n2. Refunds", "Goods and refunds"),
        ("30 days [1]", "within 30 days"),
    ],
)
def test_a_figure_in_other_spelling_is_the_same_figure(answer, text):
    """Words for numbers, separators and parts of a date stand for what the passage says."""
    citations, _ = locate([(1, text)], [passage(text)])
    assert is_supported(answer, citations, [passage(text)]) is True


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("four days", "within 3 days"),
        ("one day", "within 3 days"),
        ("13 March", "on March 12, 2026"),
        ("2025", "on 12 March 2026"),
        ("12 days", "on 12 March 2026"),
        ("March 2027", "on 12 March 2026"),
        ("1. Goods\n3. Refunds", "Goods and refunds"),
        ("[2]", "within 30 days"),
        ("3 to 5 days", "within 3 days"),
        ("5 °C", "at -5 °C"),
        ("$5 thousand", "about $5 million"),
        ("1.5", "1.5k users"),
        ("3 weeks", "within 3 days"),
        ("3 January 2024", "on 13/03/2024"),
        ("500 litres", "it holds 12 500 litres"),
        ("5 people", "about 5 mio people"),
    ],
)
def test_another_figure_is_not_supported(answer, text):
    """A number word, a date or a range that the passage does not hold is not supported by a quote of it."""
    citations, _ = locate([(1, text)], [passage(text)])
    assert is_supported(answer, citations, [passage(text)]) is False


def test_figures_are_sought_where_the_answer_says_it_looked():
    """Figures count from the whole of a cited passage and its title, and from all passages where none is cited."""
    returns, _ = locate([(1, "Goods can be returned")], SHOWN)
    delivery, _ = locate([(2, "Call Maria Lopez")], SHOWN)
    assert is_supported("12 kg", delivery, SHOWN) is True
    assert is_supported("12 kg", returns, SHOWN) is False
    assert is_supported("24 hours", delivery, SHOWN) is True
    assert is_supported("12 kg", [], SHOWN) is True
    assert is_supported("99 kg", [], SHOWN) is False


def test_words_need_a_quote_that_bears_them():
    """An answer without figures is supported by a verbatim quote that holds it and is about the question."""
    asked = {"question": "Whom do I call about a delivery?", "quotes": 1}
    maria, _ = locate([(2, "Call Maria Lopez")], SHOWN)
    returns, _ = locate([(1, "Goods can be returned")], SHOWN)
    assert is_supported("maria lopez", maria, SHOWN, **asked) is True
    assert is_supported("Maria Lopez", maria, SHOWN, question="How high is the salary?", quotes=1) is None
    assert is_supported("Maria Lopez", returns, SHOWN, **asked) is None
    assert is_supported("Yes, they can.", returns, SHOWN, **asked) is None
    assert is_supported("Maria Lopez", [], SHOWN) is None
    assert is_supported("Maria Lopez", [], SHOWN, **asked) is False
    assert is_supported("", [], SHOWN) is False


@given(number=st.integers(2, 400), other=st.integers(2, 400))
def test_a_figure_about_something_else_is_no_support(number, other):
    """A figure counts where its sentence has a word of the question, and for a question in other words not at all."""
    assume(number != other)
    shown = [passage(f"The warranty of the pump lasts {number} years. A loan unit arrives after {other} days.")]
    asked = {"question": "How long is the warranty?"}
    assert is_supported(f"{number}", [], shown, **asked) is True
    assert is_supported(f"{other}", [], shown, **asked) is False
    assert is_supported(f"{number}", [], shown, question="Wann schließt das Lager?") is None
    assert is_supported(f"{number + 400}", [], shown, question="Wann schließt das Lager?") is False


@pytest.mark.parametrize(
    ("quote", "supported"),
    [("It costs 138 euros.", True), ("138 euros", True), ("A new fan is sold with a grille.", False), (None, False)],
)
def test_what_is_quoted_of_it_is_about_the_sentence_before(quote, supported):
    """A quoted figure of "it" counts where the sentence before has half of the question's words, if quoted alone."""
    shown = [passage("A new fan is sold with a grille. It costs 138 euros. The repair is free. It takes 20 euros off.")]
    asked = {"question": "What is the price of a new fan?"}
    citations = locate([(1, quote)] if quote else [], shown)[0]
    assert is_supported("138 euros", citations, shown, **asked) is supported
    off = locate([(1, "It takes 20 euros off.")], shown)[0]
    assert is_supported("20 euros", off, shown, **asked) is False


def test_an_abstention_and_an_answer_without_passages_are_not_judged():
    """There is nothing to check in an abstention, nor where nothing was shown."""
    assert is_supported(ABSTENTION, [], SHOWN) is None
    assert is_supported("30 days", [], []) is None


@given(st.text())
def test_any_text_has_figures_and_stands_in_itself(text):
    """No text makes the checks fail; what a text says is supported by the text, unless it says nothing."""
    assert figures(text) == figures(text + "\n")
    if figures(text) and normalise(text):
        assert is_supported(text, [], [passage(text)]) in (True, None)
    if any(map(str.isalnum, text)):
        assert find_verbatim(text, text) is not None


@given(
    st.lists(st.tuples(st.text("ab w", max_size=8), st.lists(st.text("abc w.", max_size=20), max_size=3)), max_size=4),
    st.sampled_from([0.01, 0.2, 0.4, 0.5, 0.55, 0.6, 0.75, 1.0]),
)
def test_what_words_decide_is_decided_as_before(pairs, least):
    """What was found is too little where its relevance says so; where words alone suffice, nothing is embedded."""
    questions = [question for question, _ in pairs]
    shown = [[passage(text, f"{place}") for place, text in enumerate(texts)] for _, texts in pairs]
    embedded, embedder = [], HashEmbedder()

    def embed(texts):
        embedded.extend(texts)
        return embedder.embed(texts)

    found = too_little(questions, shown, embed, least)
    assert found == [value if value < least else None for value in relevance(questions, shown, embedder.embed)]
    for question, passages in zip(questions, shown, strict=True):
        if not passages or coverage(question, passages) / 2 >= least:
            embedded.clear()
            too_little([question], [passages], embed, least)
            assert not embedded
