"""Questions about the example as colleagues type them: as many that the handbook answers as others, each checked."""

import re
from pathlib import Path

import pytest

from raft.curation.user_questions import register
from raft.rag.relevant import unanswerable
from raft.text import contains

EXAMPLES = Path(__file__).parents[1] / "examples"
ROWS = register(EXAMPLES / "colleagues.jsonl").to_dicts()
EXPERTS = register(EXAMPLES / "questions.jsonl")["question"].to_list()


def text_of(document):
    """Return the text of a document of the handbook; of a PDF or a Word file, that of its source."""
    path = EXAMPLES / "handbook" / document
    assert path.is_file(), document
    binary = path.suffix in (".pdf", ".docx")
    return (EXAMPLES / "sources" / f"{path.stem}.md" if binary else path).read_text(encoding="utf-8")


def test_half_of_them_have_no_answer():
    """There are at least sixty, no two alike and none the experts'; the handbook is silent on every second one."""
    asked = [row["question"] for row in ROWS]
    assert len(asked) >= 60
    assert len({*asked, *EXPERTS}) == len(asked) + len(EXPERTS)
    assert len({row["question_id"] for row in ROWS}) == len(ROWS)
    assert sum(map(unanswerable, ROWS)) * 2 == len(ROWS)


def test_each_names_a_document_of_the_handbook():
    """All documents that are named exist, those of unanswerable questions too, which stand near to them."""
    assert all(text_of(row["document"]) for row in ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if not unanswerable(row)], ids=lambda row: row["question_id"])
def test_each_answer_stands_in_its_document(row):
    """The first answer of each question, except for yes/no questions, stands word for word in its document."""
    first, text = row["answers"][0], re.sub(r"<[^>]+>", " ", text_of(row["document"]))
    assert first in ("Yes", "No") or contains(text, first)


def test_they_are_asked_as_people_type():
    """They are short, and most begin without a capital."""
    asked = [row["question"] for row in ROWS]
    assert max(len(one.split()) for one in asked) <= 18
    assert sum(one[0].islower() for one in asked) > len(asked) / 2
