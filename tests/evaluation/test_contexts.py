"""What contenders are shown: the same chunks, the golden one given or withheld, and worked examples."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import prompts
from raft.evaluation import contexts
from raft.rag.format import ABSTENTION
from raft.rag.refusal import by_rule
from raft.store import tables
from raft.testing import OverlapRetriever, make_chunks, make_question

PLACES = ("Halden", "Moss", "Bergen", "Drammen", "Larvik", "Skien")
CHUNKS = make_chunks(
    {
        f"d{number}": [
            f"The pump shop in {place} was opened in {1950 + number} by its first owner.",
            f"A pump from {place} costs {number + 1}70 euros, and the shop has a yard.",
        ]
        for number, place in enumerate(PLACES)
    }
)
DOCUMENTS = tables.frame(
    tables.DOCUMENTS,
    [{"doc_id": f"d{number}", "path": f"{place}.md", "title": place} for number, place in enumerate(PLACES)],
)
RETRIEVER = OverlapRetriever(CHUNKS)


def asked(number, *answers, **changes):
    """Return a user's question about one of the shops."""
    row = {"question_id": f"q{number}", "question": f"What does a pump from {PLACES[number]} cost?", "split": "user"}
    row |= {"answers": list(answers or [f"{number + 1}70 euros"]), "document": f"{PLACES[number]}.md"}
    return {**row, "golden_chunk_ids": [], "kind": "fact", **changes}


ASKED = [asked(number) for number in range(len(PLACES))]


def chosen(rows=ASKED, chunks=CHUNKS, **changes):
    """Return the contexts of questions with everyday settings."""
    usual = {"k": 3, "share": 0.5, "seed": 0, **changes}
    return contexts.contexts(tables.frame(tables.EVALUATION, rows), chunks, DOCUMENTS, RETRIEVER, **usual)


def ids(passages):
    """Return the chunk ids of passages."""
    return [passage.chunk_id for passage in passages]


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 5))
def test_golden_is_always_given_and_never_withheld(k, share, seed):
    """The golden context holds a relevant chunk, the withheld one none; no chunk comes twice, and none over k."""
    known = chosen(k=k, share=share, seed=seed)
    for name, shown in known.passages.items():
        relevant = set(known.sources.relevant[name])
        assert relevant
        assert relevant & set(ids(shown["golden"]))
        assert not relevant & set(ids(shown.get("withheld", ())))
        assert shown["none"] == []
        for passages in shown.values():
            assert len(set(ids(passages))) == len(passages) <= k
        assert len(shown["retrieved"]) == len(shown.get("withheld", shown["retrieved"])) == k


def test_what_is_shown_must_be_about_the_question_to_be_worth_asking():
    """With a least relevance, a context is worth asking in where it reaches that; one without documents always is."""
    known = chosen([asked(0)], share=1.0)
    known = contexts.judged(known, by_rule(0.5, RETRIEVER.embedder.embed))
    values = known.relevance["q0"]
    assert set(values) == {"retrieved", "golden", "withheld"}
    assert 0 < values["withheld"] < values["golden"] <= 1
    between = (values["withheld"] + values["golden"]) / 2
    known = replace(known, least=between)
    worth = {context: known.worth_asking("q0", context) for context in ("none", *values)}
    assert worth == {"none": True, "retrieved": True, "golden": True, "withheld": False}


def test_where_documents_are_wanted_and_none_is_found_nobody_is_asked():
    """Without a least relevance anything shown is worth asking about, and nothing shown is not."""
    known = chosen([asked(0)], share=1.0)
    assert known.worth_asking("q0", "withheld")
    bare = replace(known, passages={"q0": {"none": [], "retrieved": []}})
    assert (bare.worth_asking("q0", "retrieved"), bare.worth_asking("q0", "none")) == (False, True)


def test_golden_given_differs_from_retrieval_in_one_chunk():
    """A golden chunk that search missed takes the last place; one that it found leaves the chunks as they are."""
    (found,) = chosen([ASKED[0]]).passages.values()
    assert ids(found["golden"]) == ids(found["retrieved"])
    assert "d0#1" in ids(found["retrieved"])
    (missed,) = chosen([asked(0, question="Which shop has its first owner, opened in 1950?")], k=1).passages.values()
    assert (ids(missed["retrieved"]), ids(missed["golden"])) == (["d0#0"], ["d0#1"])


def test_the_withheld_are_a_fixed_share():
    """Which questions are also asked without what bears the answer depends on seed and question alone."""
    first, again = chosen(share=0.5), chosen(ASKED[::-1], share=0.5)
    assert set(first.ids("user", "withheld")) == set(again.ids("user", "withheld"))
    assert chosen(share=0).ids("user", "withheld") == []
    assert chosen(share=1).ids("user", "withheld") == [row["question_id"] for row in ASKED]
    assert any(0 < len(chosen(seed=seed).ids("user", "withheld")) < len(ASKED) for seed in range(3))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("In our price list: a pump from Halden is 170 euros.", "170 euros"),
        ("A pump from Halden costs no more than 7 notes.", "7"),
        ("A pump from Halden costs 170 euros, and the shop has a yard!", "yes"),
    ],
)
def test_removed_means_removed_in_whichever_document(text, answer):
    """What bears an answer is withheld wherever it stands: said in other words, a short number, or copied."""
    texts = {"d0": CHUNKS["text"].to_list()[:2], "d1": [text, "A pump from Moss costs 270 euros."]}
    if answer == "7":
        texts["d0"][1] = "A pump from Halden costs 7 notes."
    chunks = make_chunks(texts)
    known = contexts.contexts(
        tables.frame(tables.EVALUATION, [asked(0, answer)]),
        chunks,
        DOCUMENTS,
        OverlapRetriever(chunks),
        k=3,
        share=1,
        seed=0,
    )
    shown = known.passages["q0"]
    assert "d1#0" in ids(shown["retrieved"])
    assert "d1#0" not in ids(shown["withheld"])
    assert "d1#1" in ids(shown["withheld"])


def test_what_nothing_is_known_to_bear():
    """Where no chunk is known to hold the answer, none is given as golden, and nothing can be withheld."""
    rows = [asked(0, "yes", document=None), asked(1, ABSTENTION), asked(2, "1 gold coin", document=None)]
    known = chosen(rows, share=1)
    assert known.ids("user", "golden") == known.ids("user", "withheld") == []
    assert known.ids("user", "retrieved") == known.ids("user", "none") == ["q0", "q1", "q2"]


def test_the_document_is_where_the_answer_is_looked_for():
    """Only chunks of the question's document bear its answer; without a document all do, and one given is added."""
    here, anywhere, told = (
        {"answers": ["the shop"], **more}
        for more in ({}, {"document": None}, {"document": None, "golden_chunk_ids": ["d3#0"]})
    )
    relevant = [chosen([asked(2, **row)]).sources.relevant["q2"] for row in (here, anywhere, told)]
    assert [len(one) for one in relevant] == [1, 6, 2]
    assert relevant[2] == ["d3#0", "d3#1"]


def test_a_yes_or_no_stands_in_its_document():
    """Any chunk of the document that is named bears a yes or no; the best of them is the golden one."""
    known = chosen([asked(0, "Yes", question="Is there a yard at the pump shop in Skien?")], k=1, share=1)
    assert known.sources.relevant["q0"] == ["d0#0", "d0#1"]
    (golden,) = ids(known.passages["q0"]["golden"])
    assert golden == next(name for name in known.sources.hits["q0"] if name.startswith("d0#"))
    assert not ids(known.passages["q0"]["retrieved"])[0].startswith("d0#")


LONG = "The board will look after all of the costs that nobody else has taken over so far"
"""An answer that stands nowhere word for word."""


def placed(number, *places, **changes):
    """Return a question with a long answer about places: paths, or pairs of a path and its pages."""
    named = [one if isinstance(one, tuple) else (one, None) for one in places]
    told = [{"document": path, "pages": pages} for path, pages in named]
    return asked(number, LONG, document=named[0][0], places=told, **changes)


PAGED = CHUNKS.with_columns(page=pl.col("position") + 1)
BOOKS = DOCUMENTS.with_columns(
    pages=pl.Series([[0, PAGED.filter(doc_id=f"d{number}")["start"][1]] for number in range(len(PLACES))])
)


def of_places(rows, chunks=PAGED, documents=BOOKS, **changes):
    """Return the contexts of questions about documents with two pages, a chunk each."""
    usual = {"k": 3, "share": 1.0, "seed": 0, **changes}
    return contexts.contexts(tables.frame(tables.EVALUATION, rows), chunks, documents, RETRIEVER, **usual)


def test_an_answer_in_other_words_is_borne_by_its_document():
    """Where an answer stands nowhere word for word, all chunks of the named document are relevant, and are withheld."""
    known = of_places([placed(0, "Halden.md")])
    assert known.sources.relevant["q0"] == ["d0#0", "d0#1"]
    assert known.sources.measured_by(["q0"]) == {"document": 1}
    assert {"d0#0", "d0#1"} <= set(ids(known.passages["q0"]["golden"]))
    assert not {"d0#0", "d0#1"} & set(ids(known.passages["q0"]["withheld"]))
    assert len(known.passages["q0"]["withheld"]) == 3


def test_an_answer_in_other_words_is_borne_by_its_page():
    """Where a page is named too, its chunks alone are relevant, and the rest of the document may be shown."""
    known = of_places([placed(0, ("Halden.md", [2]))])
    assert known.sources.relevant["q0"] == ["d0#1"]
    assert known.sources.measured_by(["q0"]) == {"page": 1}
    assert "d0#1" in ids(known.passages["q0"]["golden"])
    assert "d0#1" not in ids(known.passages["q0"]["withheld"])


def test_an_answer_that_stands_there_is_measured_by_its_chunk():
    """Where the answer stands on the named page, or in the document, the chunks that hold it stay the relevant ones."""
    places = [{"document": "Halden.md", "pages": [2]}]
    rows = [asked(0, places=places), asked(1)]
    known = of_places(rows)
    assert [known.sources.relevant[row["question_id"]] for row in rows] == [["d0#1"], ["d1#1"]]
    assert known.sources.measured_by(["q0", "q1"]) == {"chunk": 2}
    elsewhere = of_places([asked(0, places=[{"document": "Halden.md", "pages": [1]}])])
    assert elsewhere.sources.relevant["q0"] == ["d0#0"]
    assert elsewhere.sources.measured_by(["q0"]) == {"page": 1}


def test_a_chunk_over_two_pages_is_of_both():
    """A chunk that begins on one page and ends on the next bears what stands on either."""
    whole = PAGED.filter(pl.col("chunk_id") != "d0#1").with_columns(
        end=pl.when(pl.col("chunk_id") == "d0#0").then(10_000).otherwise(pl.col("end"))
    )
    known = of_places([placed(0, ("Halden.md", [2]))], whole)
    assert known.sources.relevant["q0"] == ["d0#0"]
    assert known.sources.measured_by(["q0"]) == {"page": 1}


def test_a_page_without_text_is_its_document():
    """Where nothing of a named page can be shown, the document is what retrieval is measured by, and so it says."""
    marked = PAGED.with_columns(boilerplate=pl.col("chunk_id") == "d0#0")
    known = of_places([placed(0, ("Halden.md", [1]))], marked)
    assert known.sources.relevant["q0"] == ["d0#1"]
    assert known.sources.measured_by(["q0"]) == {"document": 1}


def test_a_document_that_is_all_there_is_tells_nothing():
    """Any search finds some chunk of the only document: what is measured by it is not measured."""
    alone = PAGED.filter(doc_id="d0")
    known = contexts.contexts(
        tables.frame(tables.EVALUATION, [placed(0, "Halden.md"), asked(0) | {"question_id": "said"}]),
        alone,
        BOOKS,
        OverlapRetriever(alone),
        k=1,
        share=1,
        seed=0,
    )
    assert known.sources.measured_by(["q0", "said"]) == {"chunk": 1}
    assert known.ids("user", "golden") == ["said"]


def test_a_long_document_is_withheld_and_others_are_shown():
    """Where search brings chunks of the named document alone, it is asked for more, so that others can be shown."""
    many = [f"What a pump from Halden costs is said in its part {number} of the list." for number in range(40)]
    chunks = make_chunks({"d0": many, "d1": CHUNKS.filter(doc_id="d1")["text"].to_list()})
    retriever = OverlapRetriever(chunks)
    known = contexts.contexts(
        tables.frame(tables.EVALUATION, [asked(0, LONG)]), chunks, DOCUMENTS, retriever, k=2, share=1, seed=0
    )
    assert {name.partition("#")[0] for name in known.sources.hits["q0"]} == {"d0"}
    assert set(ids(known.passages["q0"]["withheld"])) == {"d1#0", "d1#1"}


@given(st.integers(1, 6), st.sampled_from(["comparison", "bridge"]))
def test_what_needs_several_documents_is_given_all_of_them(k, kind):
    """A question of several documents is shown a chunk of each as golden, as far as there is room, or none."""
    known = of_places([placed(0, "Halden.md", ("Skien.md", [2]), kind=kind)], k=k)
    golden, without = (set(ids(known.passages["q0"][context])) for context in ("golden", "withheld"))
    assert len(golden) == k
    assert known.sources.needed["q0"] == [["d0#0", "d0#1"], ["d5#1"]]
    assert sum(not golden.isdisjoint(part) for part in known.sources.needed["q0"]) == min(k, 2)
    assert not without & {"d0#0", "d0#1", "d5#1"}
    both = known.sources.retrieved("q0", 12)
    assert both and not known.sources.retrieved("q0", 1)


def test_of_compared_documents_the_name_of_one_does_not_tell():
    """The answer to a comparison names a document and bears nothing; that of a bridge stands where it stands."""
    compared, bridged = (
        of_places([asked(0, "170 euros", kind=kind, places=[{"document": path, "pages": None} for path in paths])])
        for kind, paths in (("comparison", ["Halden.md", "Moss.md"]), ("bridge", ["Halden.md", "Moss.md"]))
    )
    assert compared.sources.needed["q0"] == [["d0#0", "d0#1"], ["d1#0", "d1#1"]]
    assert bridged.sources.needed["q0"] == [["d0#1"], ["d1#0", "d1#1"]]
    assert bridged.sources.measured_by(["q0"]) == {"document": 1}


def test_boilerplate_is_never_shown():
    """A chunk that is boilerplate is neither shown nor counted among what search brings."""
    marked = CHUNKS.with_columns(boilerplate=pl.col("chunk_id") == "d0#0")
    for shown in (chosen(chunks=marked, k=12, share=1).passages).values():
        assert all("d0#0" not in ids(passages) for passages in shown.values())
    assert "d0#0" not in chosen(chunks=marked).sources.hits["q0"]
    assert "d0#0" in chosen().sources.hits["q0"]


def test_passages_say_where_they_are_from():
    """A passage has the path, title and offset of its chunk, for what is quoted from it."""
    (passage,) = (one for one in chosen().passages["q0"]["golden"] if one.chunk_id == "d0#1")
    row = CHUNKS.row(by_predicate=pl.col("chunk_id") == "d0#1", named=True)
    assert (passage.document, passage.start, passage.text) == ("Halden.md", row["start"], row["text"])
    assert "Halden" in passage.title


def learned(*rows):
    """Return training questions as a cleaned table."""
    return tables.frame(tables.CLEANED, [{**row, "split": "train"} for row in rows])


ROWS = [
    make_question(CHUNKS.row(2 * number + 1, named=True), f"What is the price in {place}?", f"{number + 1}70 euros")
    for number, place in enumerate(PLACES)
]


def worked(rows=ROWS, prompt="short", count=4, **changes):
    """Return worked examples with everyday settings."""
    usual = {"style": "", "seed": 0, "abstaining": True, **changes}
    return contexts.exemplars(learned(*rows), CHUNKS, DOCUMENTS, prompts.load(prompt), count, **usual)


def test_worked_examples_are_turns():
    """Examples are pairs of turns: a training question with its golden chunk, and the short answer."""
    turns = worked(count=2)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        (row,) = (row for row in ROWS if row["question"] in question["content"])
        assert answer["content"] == row["answer"]
        assert row["answer"] in question["content"]
    assert turns == worked(ROWS[::-1], count=2)
    assert turns != worked(count=2, seed=1)


def test_the_last_of_four_shows_when_to_abstain():
    """One of four examples has a document that does not answer it and the abstention, and none where so is wished."""
    *_, question, answer = worked()
    (row,) = (row for row in ROWS if row["question"] in question["content"])
    assert answer["content"] == ABSTENTION
    assert row["answer"] not in question["content"]
    assert ABSTENTION not in [turn["content"] for turn in worked(count=3)]
    assert ABSTENTION not in [turn["content"] for turn in worked(abstaining=False)]


def test_no_example_abstains_beside_its_own_answer():
    """Where all examples are about one chunk, none abstains: the chunk would answer it."""
    chunk = CHUNKS.row(1, named=True)
    rows = [make_question(chunk, f"What costs a pump in way {number}?", "170 euros") for number in range(4)]
    assert [turn["content"] for turn in worked(rows)[1::2]] == ["170 euros"] * 4


def test_examples_of_a_closed_book_show_no_document():
    """With a prompt that has no documents the examples have none, and none abstains unless it is wanted."""
    turns = worked(prompt="closed", abstaining=False)
    assert len(turns) == 8
    assert not any("yard" in turn["content"] for turn in turns)


def test_what_makes_no_example():
    """Questions that nothing answers, comparisons, and those of several chunks are no examples."""
    two = {**ROWS[0], "golden_chunk_ids": ["d0#0", "d0#1"]}
    rows = [two, {**ROWS[1], "kind": "comparison"}, {**ROWS[2], "kind": "unanswerable"}]
    assert worked(rows) == ()
    assert len(worked([*rows, ROWS[3]])) == 2
