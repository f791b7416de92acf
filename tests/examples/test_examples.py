"""Examples: what a student is shown, and what it is to reply."""

import json
import re
from itertools import islice

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import prompts
from raft.errors import RaftError
from raft.examples import examples
from raft.examples.export import chat_lines
from raft.rag.format import ABSTENTION, parse
from raft.settings.sections import Examples
from raft.similarity import same_text
from raft.store import tables
from raft.testing import OverlapRetriever, WordTokenizer, make_chunks, make_question
from raft.text import contains

THINGS = ["kettle", "ladder", "bridge", "window", "garden", "engine", "violin", "saddle", "mirror", "hammer"]
TEXTS = {f"d{n}": [f"The {thing} costs {n + 100} euros.", f"A {thing} is blue."] for n, thing in enumerate(THINGS)}
TEXTS["copy"] = ["The kettle costs 100 euros, we hear.", "All say that the ladder costs 101 euros."]
CHUNKS = make_chunks(
    {**TEXTS, "held": ["The kettle costs a lot.", "The ladder costs a lot."], "note": ["Kettle costs: see price list"]}
)
CHUNKS = CHUNKS.with_columns(boilerplate=pl.col("doc_id") == "note")


def question(number, kind="number", **changes):
    """Return a kept question on a thing's price; for the kind "decision", whether it is blue."""
    thing = THINGS[number]
    if kind == "decision":
        row = make_question(
            CHUNKS.filter(chunk_id=f"d{number}#1").row(0, named=True), f"Is the {thing} blue?", "Yes", kind=kind
        )
    elif kind == "unanswerable":
        row = make_question(
            CHUNKS.filter(chunk_id=f"d{number}#0").row(0, named=True), f"Who broke the {thing}?", ABSTENTION, kind=kind
        )
    else:
        row = make_question(
            CHUNKS.filter(chunk_id=f"d{number}#0").row(0, named=True),
            f"How much does the {thing} cost?",
            f"{number + 100} euros",
            kind=kind,
        )
    return {**row, "split": "train", **changes}


def build(rows, chunks=CHUNKS, **changes):
    """Build examples with everyday settings."""
    usual = {
        "retriever": OverlapRetriever(chunks),
        "tokenizer": WordTokenizer(),
        "prompt": prompts.load("answer"),
        "style": "",
        "held_out": frozenset({"held"}),
        "seed": 0,
        "titles": {"d0": "Price list"},
        "styled_answers": None,
    }
    shape = {name: changes.pop(name) for name in Examples.model_fields.keys() & changes.keys()}
    wanted = Examples(documents=4).model_copy(update=shape)
    return examples.build_examples(tables.frame(tables.CLEANED, rows), chunks, wanted, **{**usual, **changes})


def target(row):
    """Return the parsed target of an example."""
    return parse(row["messages"][-1]["content"])


ROWS = [question(number) for number in range(len(THINGS))]
KINDS = st.sampled_from(["number", "decision", "unanswerable"])
QUESTIONS = st.lists(
    st.builds(question, st.integers(0, 9), KINDS, split=st.sampled_from(["train", "valid", "eval_seen", None])),
    max_size=12,
    unique_by=lambda row: row["question_id"],
)


@settings(max_examples=40, deadline=None)
@given(
    QUESTIONS, st.integers(1, 8), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99)
)
def test_each_example_is_what_it_says(rows, documents, golden_share, random_share, seed):
    """The golden chunk is where the row says, nothing is shown twice, and no distractor is forbidden."""
    table, report = build(rows, documents=documents, golden_share=golden_share, random_share=random_share, seed=seed)
    assert table.schema == tables.EXAMPLES
    examples.check_examples(table, CHUNKS)
    by_id = {row["question_id"]: row for row in rows}
    texts = {row["chunk_id"]: row for row in CHUNKS.iter_rows(named=True)}
    learned = [row["question_id"] for row in rows if row["split"] in ("train", "valid")]
    assert table["question_id"].to_list() == learned
    assert report["rows"] == len(learned)
    for row in table.iter_rows(named=True):
        asked, golden = by_id[row["question_id"]], set(row["golden_chunk_ids"])
        shown = row["document_chunk_ids"]
        assert len(shown) == len(set(shown)) == documents
        assert [shown[place] for place in row["golden_positions"]] == [name for name in shown if name in golden]
        assert bool(row["golden_positions"]) == bool(target(row).quotes) == (not target(row).abstained)
        for name in set(shown) - golden:
            assert texts[name]["doc_id"] not in ("held", "note")
            assert asked["kind"] != "number" or not contains(texts[name]["text"], asked["answer"])
            assert not any(same_text(texts[name]["text"], texts[one]["text"]) for one in golden)
        for number, quote in target(row).quotes:
            assert quote in texts[shown[number - 1]]["text"]


@settings(max_examples=20, deadline=None)
@given(QUESTIONS, st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_the_others(rows, chance):
    """A row is the same wherever it stands, whichever rows stand beside it, and in whichever order chunks come."""
    half = chance.sample(rows, len(rows) // 2)
    shuffled = CHUNKS.sample(fraction=1, shuffle=True, seed=chance.randrange(99))
    table, part = build(rows)[0], build(half, shuffled)[0]
    expected = table.filter(pl.col("question_id").is_in(part["question_id"].to_list()))
    assert part.sort("question_id").equals(expected.sort("question_id"))


@settings(max_examples=40, deadline=None)
@given(QUESTIONS, st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.8, 1.0]), st.integers(0, 99))
def test_rows_of_one_question_share_out_its_golden_chunk(rows, copies, golden_share, seed):
    """A train question has as many rows as asked for, of which the share, to one, shows its golden chunk."""
    table, _ = build(rows, per_question=copies, golden_share=golden_share, seed=seed)
    examples.check_examples(table, CHUNKS)
    for row in rows:
        own = table.filter(question_id=row["question_id"])
        wanted = {"train": copies, "valid": 1}.get(row["split"], 0)
        assert own.height == wanted
        showing = int((own["golden_positions"].list.len() > 0).sum())
        if row["kind"] != "unanswerable" and wanted > 1:
            assert abs(showing - copies * golden_share) < 1


@pytest.mark.parametrize("random_share", [0.0, 0.5, 1.0])
def test_rows_of_one_question_have_documents_of_their_own(random_share):
    """Beside the golden chunk the rows of a question show other distractors, the retriever's best in the first."""
    options = {"golden_share": 1.0, "random_share": random_share, "documents": 3}
    table, _ = build(ROWS, per_question=3, **options)
    once, _ = build(ROWS, **options)
    for (name,), rows in table.group_by("question_id", maintain_order=True):
        shown = [frozenset(row) for row in rows["document_chunk_ids"].to_list()]
        assert len(set(shown)) == 3
        assert shown[0] == frozenset(once.filter(question_id=name)["document_chunk_ids"].item())


def test_documents_in_the_order_of_retrieval():
    """Where the order is that of retrieval, what the retriever ranks better stands before what it ranks worse."""
    table, _ = build(ROWS, order="retrieved")
    retriever = OverlapRetriever(CHUNKS)
    asked = {row["question_id"]: row["question"] for row in ROWS}
    for row in table.iter_rows(named=True):
        ranked = retriever.search([asked[row["question_id"]]], 26)["chunk_id"].to_list()
        places = [ranked.index(name) if name in ranked else len(ranked) for name in row["document_chunk_ids"]]
        assert places == sorted(places)


def test_the_global_random_generator_is_left_alone():
    """Building draws nothing from the shared generator of the process."""
    import random

    state = random.getstate()
    build(ROWS)
    assert random.getstate() == state


def test_messages_are_the_prompt_and_the_target():
    """A row is the rendered prompt, with titles, followed by the answer and quotes that name their document."""
    row = build(ROWS[:1], golden_share=1.0, style="Tone: dry")[0].row(0, named=True)
    system, user, reply = row["messages"]
    number = row["golden_positions"][0] + 1
    assert system["content"].endswith("Tone: dry")
    assert f"[{number}] Price list\nThe kettle costs 100 euros." in user["content"]
    assert len(re.findall(r"^\[\d\]", user["content"], re.MULTILINE)) == 4
    assert reply == {
        "role": "assistant",
        "content": f'Answer: 100 euros\nQuote [{number}]: "The kettle costs 100 euros."',
    }
    assert row["tokens"] == WordTokenizer().count_chat(row["messages"])


def test_the_golden_chunk_has_no_favourite_place():
    """Over the rows the golden chunk stands in different places."""
    table, _ = build(ROWS, golden_share=1.0)
    assert len({places[0] for places in table["golden_positions"].to_list()}) > 2


def test_absent_rows_abstain_or_memorise():
    """Without its golden chunk a row abstains, or gives the bare answer where that is wanted; it never quotes."""
    abstaining, report = build(ROWS, golden_share=0.0)
    assert {row["messages"][-1]["content"] for row in abstaining.iter_rows(named=True)} == {f"Answer: {ABSTENTION}"}
    assert (report["with_golden"], report["abstaining"]) == (0, len(ROWS))
    recalled, _ = build([ROWS[3], question(3, "unanswerable")], golden_share=0.0, when_absent="memorise")
    assert [chat[-1]["content"] for chat in recalled["messages"]] == ["Answer: 103 euros", f"Answer: {ABSTENTION}"]


def test_styled_answers_replace_the_answers():
    """An answer in the wanted style is what the student learns, with the same quotes."""
    table, _ = build(ROWS[:1], golden_share=1.0, styled_answers={ROWS[0]["question_id"]: "It is 100 euros, dear."})
    assert target(table.row(0, named=True)).answer == "It is 100 euros, dear."
    assert target(table.row(0, named=True)).quotes[0][1] == "The kettle costs 100 euros."


def test_hard_distractors_come_first():
    """Without random ones the distractors are the retriever's best that are allowed."""
    table, _ = build([question(0, "decision")], golden_share=1.0, random_share=0.0, documents=3)
    assert set(table["document_chunk_ids"][0]) == {"d0#1", "d1#1", "d2#1"}


def test_look_alikes_with_other_figures_are_good_distractors():
    """A chunk of the same form with other figures may be shown: telling them apart is what is to be learned."""
    long = "The {} boiler needs a service every {} months by a fitter who holds the blue licence of the guild."
    chunks = make_chunks(
        {"a": [long.format("Aster", 12)], "b": [long.format("Aster", 18)], "c": [long.format("Aster", 12) + " Yes."]}
    )
    row = {**make_question(chunks.row(0, named=True), "How often is the service?", "every 12 months"), "split": "train"}
    table, _ = build([row], chunks, golden_share=1.0)
    assert set(table["document_chunk_ids"][0]) == {"a#0", "b#0"}


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("It ends on March 12, 2024.", "12 March 2024", True),
        ("It costs 1000 euros.", "1,000 euros", True),
        ("It lasts 2 weeks.", "2 years", False),
        ("It lasts 2 Years!", "2 years", True),
        ("Chapter 5", "5", True),
        ("The 14-day return period applies.", "14 days", True),
        ("It takes up to 5 days.", "within 5 days", True),
        ("Room 14 is open for some days.", "14 days", False),
        ("It takes 14 hours.", "14 days", False),
    ],
)
def test_an_answer_is_known_in_other_spellings(text, answer, holds):
    """Dates and long numbers hold an answer in any spelling; small ones only with their words or their unit."""
    assert examples.mentions_answer(text, answer) is holds


def test_small_corpora_show_fewer_documents():
    """Where chunks are few, fewer are shown, and the golden one at least."""
    chunks = CHUNKS.filter(pl.col("chunk_id").is_in(["d0#0", "d1#0"]))
    table, _ = build(ROWS[:1], chunks, golden_share=1.0)
    assert set(table["document_chunk_ids"][0]) == {"d0#0", "d1#0"}
    alone, _ = build(ROWS[:1], chunks.head(1), golden_share=0.0)
    assert alone["golden_positions"].to_list() == [[0]]


def test_an_unanswerable_question_needs_a_distractor():
    """A question without golden chunks and without distractors becomes no row, and is reported."""
    row = question(0, "unanswerable")
    table, report = build([row], CHUNKS.filter(doc_id="held"))
    assert (len(table), report["no_distractors"]) == (0, [row["question_id"]])


def test_long_rows_lose_distractors_never_the_golden_chunk():
    """A row that is too long loses distractors from the end until it fits, and that is reported."""
    full = build(ROWS, golden_share=1.0)[0]
    limit = int(full["tokens"].max()) - 8
    table, report = build(ROWS, golden_share=1.0, max_tokens=limit)
    assert int(table["tokens"].max()) <= limit
    assert all(len(places) == 1 for places in table["golden_positions"].to_list())
    before = {row["question_id"]: row["document_chunk_ids"] for row in full.iter_rows(named=True)}
    for row in table.iter_rows(named=True):
        dropped = report["shortened"].get(row["question_id"], 0)
        assert len(row["document_chunk_ids"]) == 4 - dropped
        assert [name for name in before[row["question_id"]] if name in row["document_chunk_ids"]] == row[
            "document_chunk_ids"
        ]
    assert report["shortened"]


def test_rows_that_cannot_fit_are_left_out():
    """A row whose golden chunk alone is too long is left out, and reported."""
    table, report = build(ROWS[:2], golden_share=1.0, max_tokens=20)
    assert len(table) == 0
    assert report["too_long"] == [row["question_id"] for row in ROWS[:2]]


def test_two_golden_chunks_are_shown_together():
    """A comparison shows both of its golden chunks or none."""
    both = {"golden_chunk_ids": ["d0#0", "d1#0"], "kind": "comparison", "answer": "the kettle"}
    table, _ = build([question(0, **{**both, "question_id": str(n)}) for n in range(20)], golden_share=0.5, documents=2)
    assert {len(places) for places in table["golden_positions"].to_list()} == {0, 2}


def spoil(**changes):
    """Return one good example with some columns changed."""
    row = build(ROWS[:1], golden_share=1.0)[0].row(0, named=True)
    return tables.frame(tables.EXAMPLES, [{**row, **changes}])


def chat(reply, role="assistant"):
    """Return messages that end with a reply."""
    return [{"role": "user", "content": "?"}, {"role": role, "content": reply}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": chat("Answer: 1", "user")}, "last turn"),
        ({"document_chunk_ids": ["d0#0", "d1#0", "d1#0"], "golden_positions": [0]}, "twice"),
        ({"document_chunk_ids": ["d1#0", "d0#0"], "golden_positions": [0]}, "not where"),
        ({"document_chunk_ids": ["d0#0"], "golden_positions": [0], "golden_chunk_ids": ["d0#0", "d5#0"]}, "only some"),
        ({"document_chunk_ids": ["d1#0"], "golden_positions": []}, "not shown"),
        ({"messages": chat('Quote [4]: "The kettle costs 105 euros."\nAnswer: 1')}, "not in the document"),
        ({"messages": chat('Quote [9]: "The kettle"\nAnswer: 1')}, "not in the document"),
    ],
)
def test_the_final_check_refuses_wrong_rows(changes, said):
    """A row whose labels, documents or quotes do not fit fails the build."""
    with pytest.raises(RaftError, match=said):
        examples.check_examples(spoil(**changes), CHUNKS)


def test_chat_lines_are_what_fine_tuning_takes():
    """Each line of a split is one JSON object with the messages, umlauts unescaped."""
    rows = [question(0), question(1, split="valid"), question(2, question="Wie groß, how much, is the bridge?")]
    table, _ = build(rows)
    lines = list(chat_lines(table, "train"))
    assert len(lines) == 2
    assert json.loads(lines[0]) == {"messages": table["messages"][0].to_list()}
    assert "groß" in lines[1]
    assert len(list(chat_lines(table, "valid"))) == 1


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 20), st.integers(0, 12))
def test_no_more_is_looked_at_than_is_taken(allowed, begin, taken):
    """What is looked at one by one comes in the order of the whole list, turned to its beginning, and no further."""
    looked = []

    def source():
        for place, good in enumerate(allowed):
            looked.append(place)
            if good:
                yield str(place)

    lazy = examples._Lazy(source())
    there = [str(place) for place, good in enumerate(allowed) if good]
    assert lazy.reaches(begin) == (begin < len(there))
    whole = begin >= len(there)  # then all has been looked at
    begin = begin if begin < len(there) else begin % max(1, len(there))
    assert list(islice(lazy.around(begin), taken)) == (there[begin:] + there[:begin])[:taken]
    if len(there) > begin + taken and taken and not whole:
        assert len(looked) <= int(there[begin + taken - 1]) + 1
