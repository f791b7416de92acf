"""A file of questions as people bring it: the page or the documents that each names."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.curation import split, user_questions
from raft.errors import UsageError
from raft.store import artifacts, tables

DOCUMENTS = tables.frame(
    tables.DOCUMENTS,
    [
        {"doc_id": "a", "path": "plans/a.pdf", "pages": [0, 100, 200]},
        {"doc_id": "b", "path": "plans/b.pdf", "pages": [0]},
        {"doc_id": "c", "path": "rules.md", "pages": []},
    ],
)


def registered(home, *lines, documents=DOCUMENTS):
    """Return the rows of a file with these lines."""
    path = home / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return user_questions.register(path, documents)


def asked(**more):
    """Return a line."""
    return {"question": "How long is it?", "answers": ["2 years"], **more}


def test_a_page_is_kept_with_its_document(tmp_path):
    """A page is one number or several, and stands with its document; a number of a data frame (3.0) is one too."""
    table = registered(
        tmp_path,
        asked(document="plans/a.pdf", page=3),
        asked(question="Who?", document="plans/a.pdf", page=[3.0, 1]),
        asked(question="What?", document="rules.md"),
    )
    assert table["document"].to_list() == ["plans/a.pdf", "plans/a.pdf", "rules.md"]
    assert table["places"].to_list() == [
        [{"document": "plans/a.pdf", "pages": [3]}],
        [{"document": "plans/a.pdf", "pages": [1, 3]}],
        None,
    ]


def test_documents_are_all_that_the_answer_needs(tmp_path):
    """Documents are paths, or objects with a page, and a list of one says the same as that document alone."""
    two = ["plans/b.pdf", {"document": "plans/a.pdf", "page": 2}]
    several, one = registered(
        tmp_path, asked(documents=two, kind="comparison"), asked(documents=["rules.md"])
    ).to_dicts()
    assert (several["document"], several["kind"]) == ("plans/b.pdf", "comparison")
    assert several["places"] == [{"document": "plans/b.pdf", "pages": None}, {"document": "plans/a.pdf", "pages": [2]}]
    assert (one["document"], one["places"]) == ("rules.md", None)
    assert one["question_id"] == registered(tmp_path, asked(document="rules.md"))["question_id"][0]


def test_a_file_that_names_documents_alone_is_read_as_ever(tmp_path):
    """Without pages and several documents the table has no column more, so that runs of before keep their keys."""
    table = registered(tmp_path, asked(document="rules.md"), asked(question="Who?", answers=[]))
    assert table.schema == tables.EVALUATION


def test_pages_of_several_lines_count(tmp_path):
    """One question of one document in several lines is borne by the pages of all; one without means all of it."""
    lines = [asked(document="plans/a.pdf", page=page) for page in (1, [2, 1])]
    (row,) = registered(tmp_path, *lines).to_dicts()
    assert row["places"] == [{"document": "plans/a.pdf", "pages": [1, 2]}]
    assert "places" not in registered(tmp_path, *lines, asked(document="plans/a.pdf")).columns


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"document": "plans/a.pdf", "page": 4}, "plans/a.pdf has no page 4: it has pages 1 to 3"),
        ({"document": "plans/b.pdf", "page": [1, 2]}, "plans/b.pdf has no page 2: it has one page"),
        ({"document": "rules.md", "page": 1}, "rules.md has no pages"),
        ({"document": "plans/a.pdf", "page": 0}, "a number from 1 on"),
        ({"document": "plans/a.pdf", "page": True}, "a number from 1 on"),
        ({"document": "plans/a.pdf", "page": "3"}, "a number from 1 on"),
        ({"document": "plans/a.pdf", "page": []}, "a number from 1 on"),
        ({"page": 2}, "names none"),
        ({"document": ["rules.md"]}, "named by its path"),
        ({"documents": "rules.md"}, "list of paths"),
        ({"documents": []}, "list of paths"),
        ({"documents": [3]}, "named by its path"),
        ({"documents": ["rules.md", "plan/a.pdf"]}, "Did you mean plans/a.pdf"),
        ({"documents": ["rules.md", {"document": "plans/a.pdf", "page": 9}]}, "it has pages 1 to 3"),
        ({"documents": ["rules.md", "rules.md"]}, "stands twice"),
        ({"documents": ["rules.md"], "document": "rules.md"}, "not both"),
        ({"documents": ["rules.md"], "page": 1}, "not both"),
        ({"documents": ["rules.md", {"document": "plans/a.pdf", "pages": [3]}]}, "document and page"),
    ],
)
def test_a_wrong_place_is_named(tmp_path, line, said):
    """A place that is not there, or not said as it should be, is refused with its line and what there is."""
    with pytest.raises(UsageError) as caught:
        registered(tmp_path, asked(), asked(question="Who?", **line))
    assert said in str(caught.value) and "line 2" in str(caught.value)


def test_a_key_that_is_typed_wrongly_is_named_with_the_one_that_is_meant(tmp_path):
    """What is no key is told as such, with the key that is like it and with all that there are."""
    with pytest.raises(UsageError) as caught:
        registered(tmp_path, {"question": "How long is it?", "answer": ["2 years"]})
    assert "There is no key 'answer'. Did you mean 'answers'? The keys of a question are question," in str(caught.value)
    with pytest.raises(UsageError, match=r"There is no key 'sheet'. The keys of a document are document and page"):
        registered(tmp_path, asked(documents=[{"document": "plans/a.pdf", "sheet": 2}]))


def test_a_file_of_records_is_told_by_its_records(tmp_path):
    """Who names a file whose records are documents each is told what these are called, and one of them is taken."""
    rows = [{"doc_id": f"f{number}", "path": f"faq.json#{number}", "pages": []} for number in range(3)]
    documents = tables.frame(tables.DOCUMENTS, rows)
    assert registered(tmp_path, asked(document="faq.json#1"), documents=documents)["document"].to_list() == [
        "faq.json#1"
    ]
    with pytest.raises(UsageError, match=r"read as 3 documents.* faq.json#0 .the first. to faq.json#2"):
        registered(tmp_path, asked(document="faq.json"), documents=documents)


def test_before_documents_are_read_pages_are_not_judged(tmp_path):
    """A file that is looked at before the work is refused for its form alone."""
    table = registered(tmp_path, asked(document="nowhere.pdf", page=70), documents=None)
    assert table["places"].to_list() == [[{"document": "nowhere.pdf", "pages": [70]}]]
    with pytest.raises(UsageError):
        registered(tmp_path, asked(document="nowhere.pdf", page=-1), documents=None)


@given(st.lists(st.one_of(st.none(), st.lists(st.integers(1, 3), min_size=1)), min_size=1, max_size=5))
def test_places_survive_the_run_directory(tmp_path_factory, pages):
    """What eval.jsonl holds of pages is read back as it was, beside questions that have none."""
    home = tmp_path_factory.mktemp("kept")
    lines = [
        asked(question=f"Who is {number}?", document="plans/a.pdf", **({"page": one} if one else {}))
        for number, one in enumerate(pages)
    ]
    cleaned = tables.frame(tables.CLEANED, [])
    table = split.evaluation_rows(cleaned, DOCUMENTS, registered(home, *lines))
    artifacts.write(home / "eval.jsonl", table)
    assert artifacts.read(home / "eval.jsonl").equals(table)
    assert ("places" in table.columns) == any(pages)


def test_a_table_of_before_is_read(tmp_path):
    """A file of questions without the column of places opens, and one with a column that nobody knows is none."""
    row = {**dict.fromkeys(tables.EVALUATION), "question_id": "q", "answers": ["2"], "golden_chunk_ids": []}
    (tmp_path / "eval.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = artifacts.read(tmp_path / "eval.jsonl")
    assert found.schema == tables.EVALUATION
    tables.check(found.with_columns(places=pl.lit(None, tables.PLACES)), tables.EVALUATION, where="here")
