"""The form of prompts and replies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import prompts
from raft.rag import format
from raft.rag.format import ABSTENTION, PROMPTS, Shown, parse, render_prompt, render_style, render_target, title_line
from raft.text import find_quote

SHOWN = [Shown("a", "Handbook > Refunds", "Refunds take 30 days."), Shown("b", "", "Costs $5.\n\nNo VAT.")]
QUOTES = st.lists(st.tuples(st.integers(1, 99), st.text()), max_size=4)
TRICKY = st.text(alphabet='aQ"“”\n :[1]*Answer', max_size=40)


@given(
    answer=st.one_of(st.text(), TRICKY).filter(str.strip),
    quotes=st.one_of(QUOTES, st.lists(st.tuples(st.just(1), TRICKY))),
)
def test_round_trip(answer, quotes):
    """What is rendered as a target is parsed back: the answer stripped, each quote on one line, empty ones left out."""
    expected = [(number, " ".join(text.split())) for number, text in quotes]
    parsed = parse(render_target(answer, quotes, "first"))
    assert parsed.followed
    assert parsed.answer == answer.strip()
    assert list(parsed.quotes) == [(number, text) for number, text in expected if text]


@given(
    answer=st.text().filter(str.strip).filter(lambda answer: "Quote" not in answer),
    quotes=st.one_of(QUOTES, st.lists(st.tuples(st.just(1), TRICKY))),
)
def test_round_trip_with_the_answer_first(answer, quotes):
    """A target whose quotes stand behind the answer is parsed back to the same answer and quotes."""
    expected = [(number, " ".join(text.split())) for number, text in quotes]
    parsed = parse(render_target(answer, quotes, "last"))
    assert (parsed.followed, parsed.answer) == (True, answer.strip())
    assert list(parsed.quotes) == [(number, text) for number, text in expected if text]


def test_quotes_behind_an_answer_are_quotes_only_at_the_end():
    """A line in the form of a quote inside an answer, or behind one that has its quotes before it, belongs to it."""
    inside = 'Answer: He wrote\nQuote [1]: "a"\nand left.'
    assert parse(inside).quotes == () and parse(inside).answer.endswith("and left.")
    both = 'Quote [1]: "a"\nAnswer: b\nQuote [2]: "c"'
    assert parse(both).quotes == ((1, "a"),) and parse(both).answer == 'b\nQuote [2]: "c"'


def test_a_target_without_quotes_is_the_answer_alone():
    """Where no quotes are wanted, only the answer is learned."""
    assert render_target(" 30 days ", [(1, "Refunds take 30 days.")], "none") == "Answer: 30 days"


@given(text=st.text(alphabet="ab \n\t\u00a0.", min_size=1), data=st.data())
def test_a_quote_that_was_put_on_one_line_is_still_found_in_its_document(text, data):
    """Any part of a document that is quoted in a target can be found again in the document."""
    start = data.draw(st.integers(0, len(text) - 1))
    part = text[start:]
    quotes = parse(render_target("x", [(1, part)])).quotes
    assert all(find_quote(quote, text) for _, quote in quotes)
    assert bool(quotes) == bool(part.strip())


@given(st.text())
def test_parse_reads_any_reply(reply):
    """No reply makes the parser fail, and one that keeps no form is the answer as a whole."""
    parsed = parse(reply)
    assert parsed.followed or (parsed.answer == reply.strip() and parsed.quotes == ())


def test_documents_are_numbered_under_their_titles():
    """Documents are numbered from 1, each with its title above its text."""
    rendered = format.render_documents(SHOWN)
    assert rendered == "[1] Handbook > Refunds\nRefunds take 30 days.\n\n[2]\nCosts $5.\n\nNo VAT."


@pytest.mark.parametrize(
    ("title", "heading", "line"),
    [
        ("Handbook", "Refunds", "Handbook > Refunds"),
        ("Handbook", "Handbook > Refunds", "Handbook > Refunds"),
        ("Handbook", "Handbook", "Handbook"),
        ("Handbook", None, "Handbook"),
        (None, "Refunds", "Refunds"),
    ],
)
def test_the_title_stands_once_above_a_document(title, heading, line):
    """A heading that begins with the title does not repeat it."""
    assert title_line(title, heading) == line


@pytest.mark.parametrize("name", PROMPTS.values())
def test_the_prompt_holds_the_form_and_ends_its_system_turn_with_the_style(name):
    """Each packaged prompt tells the abstention, and puts the style last in the system turn."""
    chat = render_prompt(prompts.load(name), question="How long?", shown=SHOWN, style="Tone: dry")
    assert [turn["role"] for turn in chat] == ["system", "user"]
    assert ABSTENTION in chat[0]["content"]
    assert chat[0]["content"].endswith("Tone: dry")
    assert chat[1]["content"] == f"{format.render_documents(SHOWN)}\n\nQuestion: How long?"


@pytest.mark.parametrize(("where", "name"), PROMPTS.items())
def test_the_form_in_the_prompt_is_the_form_that_is_parsed(where, name):
    """The example reply and the abstention in each prompt keep the form that it teaches."""
    system = prompts.load(name).render(documents="", question="", style="")[0]["content"]
    example, abstention = (piece for piece in system.split("\n\n") if piece.startswith(("Quote", "Answer:")))
    assert example == render_target("three days", [(2, "Parcels are delivered within three days.")], where)
    assert parse(abstention) == format.Parsed(ABSTENTION, (), abstained=True, followed=True)


def test_style_is_empty_when_nothing_is_wanted():
    """No wish for a style adds nothing to a prompt."""
    assert render_style(tone=None, format=None, examples=()) == ""


def test_style_holds_tone_form_and_examples():
    """Tone, form (words or JSON schema) and examples all reach the prompt."""
    words = render_style(tone="dry", format="one line", examples=[{"question": "Who?", "answer": "Ann."}])
    assert all(part in words for part in ("dry", "one line", "Question: Who?\nAnswer: Ann."))
    assert '{"type": "object"}' in render_style(tone=None, format={"type": "object"}, examples=())


@pytest.mark.parametrize(
    "answer",
    [
        ABSTENTION,
        "I don't know.",
        "I don’t know",
        "Not mentioned in the documents",
        "The documents do not mention the price.",
        "The provided context doesn't contain any information about it.",
        "It is not stated.",
        "This cannot be answered from the documents.",
        "There is no information on that.",
        "Sorry, I can't answer this.",
        "Based on the documents, the answer is not mentioned in the text.",
        "The documents do not mention the price. They only mention the size.",
        "No information about the price is given in the documents.",
        "I don't know. The documents do not say it.",
        "Unknown",
    ],
)
def test_common_ways_to_abstain_are_understood(answer):
    """Replies that say in other words that there is no answer count as abstention."""
    assert parse(answer).abstained
    assert parse(f"Answer: {answer}").abstained


@pytest.mark.parametrize(
    "answer",
    [
        "30 days",
        "No",
        "It is not covered",
        "The documents do not need a signature",
        "Not before 1 May",
        "No details needed",
        "No information is stored about visitors.",
        "No information about visitors is stored.",
        "The document does not cover water damage.",
        "Unknown persons may not enter.",
        "This cannot be answered by phone.",
        "I don't know. It is 30 days.",
        "The documents do not mention the price, but the fee is 30 euros.",
        "The documents do not answer this question. However, the fee is 30 euros.",
    ],
)
def test_answers_with_a_no_in_them_are_no_abstention(answer):
    """A negative answer is an answer, and so is one behind words that sound like an abstention."""
    assert not parse(answer).abstained


def test_lenient_labels_are_understood():
    """Bold labels, typographic quotation marks and a missing number do not break the form."""
    parsed = parse("**Quote [1]:** “Refunds take\n30 days.”\nQuote: 'No VAT.'\n\n**Answer:** 30 days\nat most")
    assert parsed.quotes == ((1, "Refunds take 30 days."), (None, "No VAT."))
    assert parsed.answer == "30 days\nat most"


def test_a_reply_without_an_answer_line_did_not_keep_the_form():
    """Quotes alone, or words before the form, make the whole reply the answer."""
    for reply in ('Quote [1]: "a"', "Well. Answer: 3", "Well.\nAnswer: 3", "Answer:"):
        assert parse(reply) == format.Parsed(reply, (), abstained=False, followed=False)
