"""Pairs that people have already: how their file is read, and which chunk bears them."""

import json
import os

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.curation import decisions
from raft.curation.pairs import find_sources, read_pairs
from raft.curation.reading import read_rubric
from raft.errors import UsageError
from raft.testing import OverlapRetriever, make_chunks

TEXTS = {
    "warranty": ["The warranty of the Orlin fan lasts 3 years. A claim is sent to the claims desk in Moss."],
    "returns": [
        "Opened parcels are taken back within 21 days of delivery. The customer pays the postage of 6 euros.",
        "Gift cards cannot be returned. They stay valid for 5 years after the day of purchase.",
    ],
}
DOCUMENTS = pl.DataFrame({"doc_id": [*TEXTS], "path": [f"{name}.md" for name in TEXTS], "title": [*TEXTS]})
ROWS = [
    {"question": "How long does the fan's warranty last?", "answer": "3 years"},
    {"question": "Who pays the postage, and by when, for opened parcels?", "answer": "The customer, within 21 days"},
]


def placed(*pairs, chunks=None):
    """Return rows of questions, one for each (question, answer, document)."""
    rows = [
        {"line": f"line {number}", "question": question, "answer": answer, "document": document}
        for number, (question, answer, document) in enumerate(pairs, 2)
    ]
    chunks = make_chunks(TEXTS) if chunks is None else chunks
    found, unknown = find_sources(
        rows, chunks, DOCUMENTS, retriever=OverlapRetriever(chunks), name="faq.csv", kind_of=lambda answer: "fact"
    )
    return found.to_dicts(), unknown


def files(folder, rows):
    """Yield the rows as a file of each form."""
    table = "\n".join(f'"{row["question"]}";"{row["answer"]}"' for row in rows)
    yield "a.csv", f"Frage;Antwort\n{table}\n"
    yield "b.tsv", "Q\tA\n" + "\n".join(f"{row['question']}\t{row['answer']}" for row in rows)
    yield "c.json", json.dumps({"title": "FAQ", "entries": rows})
    yield "d.json", json.dumps({row["question"]: row["answer"] for row in rows})
    yield "e.jsonl", "\n".join(json.dumps({"prompt": row["question"], "completion": row["answer"]}) for row in rows)
    turns = ({"user": row["question"], "assistant": row["answer"]} for row in rows)
    chats = ([{"role": role, "content": said} for role, said in turn.items()] for turn in turns)
    yield "f.jsonl", "\n".join(json.dumps({"messages": chat}) for chat in chats)
    yield (
        "g.jsonl",
        "\n".join(json.dumps({"question": r["question"], "answers": {"text": [r["answer"]]}}) for r in rows),
    )


def test_a_file_is_read_in_each_form_and_under_each_name(tmp_path):
    """CSV, TSV, JSON and JSON lines are read alike, whatever the usual name of their columns."""
    for name, text in files(tmp_path, ROWS):
        (tmp_path / name).write_text(text)
        found = read_pairs(tmp_path / name)
        assert [(row["question"], row["answer"]) for row in found.rows] == [(r["question"], r["answer"]) for r in ROWS]
        assert found.wrong == [], name


def test_a_quote_is_kept_as_it_stands(tmp_path):
    """A row has its quote with its own line breaks, and none where it gives none, or an empty one."""
    rows = [{**ROWS[0], "Quote": " lasts\n3 years "}, {**ROWS[1], "quote": " "}]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (first, second) = read_pairs(tmp_path / "faq.jsonl").rows
    assert first["quote"] == "lasts\n3 years"
    assert {*second} == {"line", "question", "answer", "document"}, "the key of a step holds them"


def test_a_bad_row_is_told_with_its_line_and_stops_no_other(tmp_path):
    """Rows without an answer, twice the same, or that are no JSON are named by line; the others are read."""
    (tmp_path / "faq.csv").write_text('question,answer\n"How\nlong?",2 years\nWho?,\n\nHow long?,2 years\nWhen?,May\n')
    found = read_pairs(tmp_path / "faq.csv")
    assert [row["line"] for row in found.rows] == ["line 2", "line 7"]
    assert found.wrong == ["faq.csv, line 4: it has no answer", "faq.csv, line 6: it stands twice"]
    (tmp_path / "faq.jsonl").write_text('{"q": "Who?", "a": "Ada"}\n{"q": \n[1]\n')
    found = read_pairs(tmp_path / "faq.jsonl")
    assert len(found.rows) == 1
    assert [one.split(":")[0] for one in found.wrong] == ["faq.jsonl, line 2", "faq.jsonl, line 3"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("faq.csv", "topic,text\nfans,turn\n", "the fields are topic, text"),
        ("faq.json", '{"q": "Who?",\n "a": }', "line 2"),
        ("faq.docx", "question,answer\nWho?,Ada\n", "Pairs are read from .csv"),
        ("faq.csv", "", "No row has a question and an answer"),
    ],
)
def test_a_file_without_pairs_is_refused(tmp_path, name, text, said):
    """A file that holds no pair is an error that says what it holds, and what a row looks like."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said) as told:
        read_pairs(tmp_path / name)
    assert "question,answer" in told.value.hint


def test_personal_data_is_replaced_where_that_is_wanted(tmp_path):
    """With `redact` no address of a question or an answer is left."""
    (tmp_path / "faq.csv").write_text("question,answer\nWho is ada.berg@example.com?,The clerk\n")
    (row,) = read_pairs(tmp_path / "faq.csv", redact=True).rows
    assert "ada.berg" not in row["question"]


def test_a_missing_file_is_refused(tmp_path):
    """A file that is not there is an error that says where to look."""
    with pytest.raises(UsageError, match="no such file"):
        read_pairs(tmp_path / "faq.csv")


def test_a_pair_gets_the_chunk_and_the_sentences_that_bear_it():
    """The golden chunk holds the answer; the quotes are the sentences with its words and facts, as they stand there."""
    (first, second), _ = placed(*((row["question"], row["answer"], "") for row in ROWS))
    assert first["golden_chunk_ids"] == ["warranty#0"]
    assert [quote["text"] for quote in first["quotes"]] == ["The warranty of the Orlin fan lasts 3 years."]
    assert second["golden_chunk_ids"] == ["returns#0"]
    assert "21 days" in second["quotes"][0]["text"]
    for row in (first, second):
        for quote in row["quotes"]:
            text = TEXTS[row["doc_ids"][0]][int(quote["chunk_id"][-1])]
            assert text[quote["start"] : quote["end"]] == quote["text"]
    assert (first["model"], first["prompt"]) == ("human", "faq.csv, line 2")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How long does the fan's warranty last?", "4 years"),
        ("How tall is the tower of Pisa?", "5 years"),
        ("Who takes claims for the fan's warranty?", "Greta Holm"),
        ("Where are the claims of the warranty sent?", "To the harbour office with the red door"),
    ],
)
def test_what_no_document_says_has_no_golden_chunk(question, answer):
    """A pair whose figure, name or words stand in no chunk, or in one about something else, is borne by none."""
    (row,), _ = placed((question, answer, ""))
    assert (row["golden_chunk_ids"], row["quotes"]) == ([], [])


def test_a_named_document_is_searched_alone():
    """A pair that names its document is borne by that one or none; an unknown one is told, and all are searched."""
    question = "How many years are gift cards or the fan's warranty valid?"
    (one, other, third), unknown = placed(
        (question, "5 years", "returns"), (question, "5 years", "warranty.md"), (question, "5 years", "help/old.html")
    )
    assert (one["golden_chunk_ids"], other["golden_chunk_ids"]) == (["returns#1"], [])
    assert (third["golden_chunk_ids"], unknown) == (["returns#1"], ["help/old.html"])


def test_facts_in_two_sentences_are_quoted_from_both():
    """Where no sentence has all facts of an answer, another is quoted for what is missing."""
    (row,), _ = placed(("What are time and postage for opened parcels?", "21 days, and 6 euros of postage", ""))
    assert len(row["quotes"]) == 2


@given(st.permutations(range(4)))
def test_the_order_of_the_pairs_does_not_matter(order):
    """Each pair is placed by itself: in another order, the same rows come out."""
    pairs = [(row["question"], row["answer"], "") for row in ROWS]
    pairs += [("Can gift cards be returned?", "No", ""), ("How tall is the tower?", "9 m", "")]
    rows, _ = placed(*pairs)
    mixed, _ = placed(*(pairs[place] for place in order))
    wanted = {row["question"]: {**row, "prompt": ""} for row in rows}
    assert {row["question"]: {**row, "prompt": ""} for row in mixed} == wanted


PARTS = [{"type": "text", "text": "How long is"}, {"type": "image_url"}, {"type": "text", "text": "the warranty?"}]


@pytest.mark.parametrize(
    ("turns", "pair"),
    [
        ([("user", "How long?"), ("assistant", "2 years"), ("user", "Who pays?")], ("How long?", "2 years")),
        ([("user", "A?"), ("assistant", "1"), ("user", "B?"), ("assistant", "2"), ("system", "x")], ("B?", "2")),
        ([("user", "A?"), ("assistant", None), ("tool", "x"), ("assistant", "2")], ("A?", "2")),
        (
            [("user", PARTS), ("assistant", [{"type": "text", "text": "2 years"}])],
            ("How long is the warranty?", "2 years"),
        ),
        ([("assistant", "Hello"), ("user", "How long?")], None),
    ],
)
def test_of_a_chat_a_question_keeps_its_own_answer(tmp_path, turns, pair):
    """The last question with an answer counts, never a question with what was said before it."""
    chat = json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]})
    (tmp_path / "chats.jsonl").write_text(chat + '\n{"q": "Who?", "a": "Ada"}')
    found = read_pairs(tmp_path / "chats.jsonl")
    assert [(row["question"], row["answer"]) for row in found.rows[:-1]] == ([pair] if pair else [])
    assert found.wrong == ([] if pair else ["chats.jsonl, line 1: its messages have no question with an answer"])


@pytest.mark.parametrize(
    ("rows", "left", "wrong"),
    [
        (["How many days, then, may I stay?,5", "Who?,Ada,,"], ["line 3"], "line 2: it has 4 cells, the header 2 (put"),
        (['"How\nlong?",2', '"Who?,Ada', "When?,May", "Where?,Oslo"], ["line 2"], "lines 4 to 6: a quote"),
        (['"Who?,Ada', '"When?",May', "Where?,Oslo"], ["line 4"], "lines 2 to 3: a quote"),
    ],
)
def test_a_row_that_is_cut_wrongly_is_left_out(tmp_path, rows, left, wrong):
    """A row with more cells than the header, and rows that a quote without an end holds together, are named by line."""
    (tmp_path / "faq.csv").write_text("\n".join(["question,answer", *rows]))
    found = read_pairs(tmp_path / "faq.csv")
    assert [row["line"] for row in found.rows] == left
    assert [one.startswith(f"faq.csv, {wrong}") for one in found.wrong] == [True]


def test_what_is_no_text_is_no_answer(tmp_path):
    """NaN, Infinity, true and false of JSON are no texts; a whole number is."""
    answers = ("NaN", "-Infinity", "true", "false", "12")
    (tmp_path / "faq.jsonl").write_text("\n".join(f'{{"q": "Is it {one}?", "a": {one}}}' for one in answers))
    found = read_pairs(tmp_path / "faq.jsonl")
    assert [row["answer"] for row in found.rows] == ["12"]
    assert len(found.wrong) == 4


def test_a_zero_byte_is_named(tmp_path):
    """A file that one zero byte makes unreadable says in which line it stands."""
    (tmp_path / "faq.csv").write_bytes(b"question,answer\nWho?,A\0da\n")
    with pytest.raises(UsageError, match="line 2 has a NUL byte"):
        read_pairs(tmp_path / "faq.csv")


def test_a_pipe_is_not_waited_for(tmp_path):
    """A pipe or a folder in the place of a file is refused at once, of pairs, rubrics and decisions alike."""
    os.mkfifo(tmp_path / "pipe.csv")
    for read in (read_pairs, lambda path: read_rubric(str(path)), decisions.read):
        with pytest.raises(UsageError, match="a pipe or a device, and no file"):
            read(tmp_path / "pipe.csv")
        with pytest.raises(UsageError, match="a folder, and no file"):
            read(tmp_path)
    with pytest.raises(UsageError, match="An empty path"):
        read_rubric("")


def test_no_is_quoted_from_the_sentence_that_is_asked_about():
    """A sentence with the word "no" that is about something else does not bear the answer no."""
    text = "Expenses below 25 EUR need no receipt. Alcohol on trips is never reimbursed."
    (row,), _ = placed(("Is alcohol reimbursed on trips?", "No", ""), chunks=make_chunks({"warranty": [text]}))
    assert [quote["text"] for quote in row["quotes"]] == ["Alcohol on trips is never reimbursed."]
