"""The form of prompts and replies."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import prompts
from raft.rag import format
from raft.rag.format import ABSTENTION, PROMPTS, Shown, parse, render_prompt, render_style, render_target, title_line
from raft.rag.grounding import find_verbatim
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
    answer=st.one_of(st.text(), TRICKY).filter(str.strip),
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


MARKS = [
    "[2] Fake",
    "Question: x",
    "Answer: 42",
    "Quote [1]: a",
    "Quote: a",
    "Document 3: a",
    "**Answer:** 42",
    "ANSWER : 1",
]
CONTROL = [
    "<|im_end|>",
    "<|im_start|>system",
    "[INST]",
    "[/INST]",
    "</s>",
    "<<SYS>>",
    "<start_of_turn>",
    "<｜User｜>",
    "<|turn>",
]
PIECES = st.sampled_from(
    [*MARKS, *CONTROL, "\\", "_", "\n", " ", "a", "\r", "\u2028", "<", "[", "\\[2] x", "<_|im_end|>"]
)
HOSTILE = st.lists(PIECES, max_size=12).map("".join)


@given(text=HOSTILE, title=HOSTILE, question=HOSTILE)
def test_only_the_prompt_has_marks_of_its_own(text, title, question):
    """Whatever a title, a text and a question hold, no line of a prompt begins as one of its marks but its own."""
    shown = [Shown("a", title, text), Shown("b", "", text)]
    (_, turn) = render_prompt(prompts.load("answer"), question=question, shown=shown, style="")
    marks = re.compile(
        r"[ \t]*(?:\*\*)?(\[\d+\]|(?:question|answer|quote|document)[ \t]*(?:\[?\d+\]?)?[ \t]*(?:\*\*)?:)", re.I
    )
    found = [found[1] for line in re.split(r"[\n\r\u2028]", turn["content"]) if (found := marks.match(line))]
    assert found == ["[1]", "[2]", "Question:"]
    assert not any(
        token in turn["content"] for token in ("<|im_end|>", "<|im_start|>", "[INST]", "</s>", "<<SYS>>", "<|turn>")
    )


@given(
    answer=HOSTILE.filter(str.strip),
    quotes=st.lists(st.tuples(st.integers(1, 9), HOSTILE), max_size=3),
    where=st.sampled_from(["first", "last"]),
)
def test_hostile_answers_and_quotes_are_read_back(answer, quotes, where):
    """Marks and control tokens in an answer and its quotes are read back as they were, wherever the quotes stand."""
    target = render_target(answer, quotes, where)
    parsed = parse(target)
    assert (parsed.followed, parsed.answer) == (True, answer.strip())
    whole = [(number, " ".join(text.split())) for number, text in quotes]
    assert list(parsed.quotes) == [(number, text) for number, text in whole if text]
    assert not any(token in target for token in ("<|im_end|>", "[INST]", "</s>", "<start_of_turn>"))


@given(st.text())
def test_harmless_text_is_shown_as_it_is(text):
    """A text without marks and control tokens stands in a prompt to the byte."""
    if not re.search(r"(?i)\[\d|question|answer|quote|document|[<\[]", text):
        (_, turn) = render_prompt(prompts.load("answer"), question="Why?", shown=[Shown("a", "T", text)], style="")
        assert turn["content"] == f"[1] T\n{text.strip()}\n\nQuestion: Why?"


@pytest.mark.parametrize("line", [*MARKS, *CONTROL])
def test_a_quote_of_what_looks_like_a_mark_is_found(line):
    """What a model copies from a prompt stands word for word in the chunk, escaped as it is shown or not."""
    text = f"Before it, five words.\n{line} and the pump weighs 3 kg.\nAfter."
    (_, turn) = render_prompt(prompts.load("answer"), question="Why?", shown=[Shown("a", "T", text)], style="")
    as_shown = " ".join(turn["content"].split("\n\n")[0].removeprefix("[1] T\n").split())
    for copied in (as_shown, " ".join(text.split())):
        ((_, quote),) = parse(f'Answer: 3 kg\nQuote [1]: "{copied}"').quotes
        assert find_verbatim(quote, text) == (0, len(text))


PIECES = (
    "Answer:",
    "Answer",
    "Quote [1]:",
    "Quote",
    "**",
    "\n",
    " ",
    "\\",
    "[1]",
    "Question:",
    ' "30 days"',
    "30 days",
    "<_|",
)
PIECES += ("im_end|>", "<", "_", "|>", "[_", "INST]", "*", ":", "Q", "\r", "\x85", "e.")


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.integers(0, 3))
def test_what_is_settled_of_an_answer_is_never_taken_back(pieces, form):
    """However a reply is cut, what was settled of it begins the next that is settled, and the answer of the whole."""
    reply = ("", "Answer: ", 'Quote [1]: "30 days"\nAnswer: ', "Answer: 30 days\n")[form] + "".join(pieces)
    answer, before = parse(reply).answer, ""
    for end in range(len(reply) + 1):
        now = format.settled(reply[:end])
        assert now.startswith(before), (reply[:end], before)
        assert answer.startswith(now), reply[:end]
        before = now


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Answ", ""),
        ("Answer: 30", "30"),
        ("Answer: 30 days\n", "30 days"),
        ("Answer: 30 days\nQuo", "30 days"),
        ('Answer: 30 days\nQuote [1]: "within 30', "30 days"),
        ("Answer: 30 days\nQuickly", "30 days\nQuickly"),
        ('Quote [1]: "within 30', ""),
        ('Quote [1]: "x"\nAnswer: 30', "30"),
        ("It is 30", "It is 30"),
    ],
)
def test_an_answer_is_settled_word_by_word(reply, said):
    """All of an answer that can be read already is settled, and nothing of its quotes or marks."""
    assert format.settled(reply) == said
