"""Questions that benchmarks measure with: each answer stands in its document, and in no look-alike of it."""

import json
import os
import re
from pathlib import Path

import pytest

from raft.curation.user_questions import personal_data, register
from raft.rag.relevant import unanswerable
from raft.text import contains

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HANDBOOK = BENCHMARKS / "questions" / "handbook_18f.jsonl"
LOOKALIKES = BENCHMARKS / "lookalikes"
ASKED = register(HANDBOOK).to_dicts()
NAMED = register(LOOKALIKES / "questions.jsonl").to_dicts()
TEXTS = {
    path.relative_to(LOOKALIKES / "documents").as_posix(): path.read_text(encoding="utf-8")
    for path in (LOOKALIKES / "documents").rglob("*.md")
}
ELSEWHERE = {
    line["question_id"]: line["elsewhere"]
    for line in map(json.loads, (LOOKALIKES / "elsewhere.jsonl").read_text(encoding="utf-8").splitlines())
}


def word(row, place):
    """Return one of the words of a row's id: `dev-careful-01`, `differs-01`."""
    return row["question_id"].split("-")[place]


def lookalikes(document):
    """Return the other documents of a document's folder, and their texts."""
    folder = document.split("/")[0]
    return {path: text for path, text in TEXTS.items() if path.split("/")[0] == folder and path != document}


@pytest.mark.parametrize("file", [HANDBOOK, LOOKALIKES / "questions.jsonl"], ids=["handbook", "lookalikes"])
def test_they_are_told_apart_and_hold_no_personal_data(file):
    """No two questions are alike, and a build that refuses personal data takes them."""
    asked = register(file)["question"].to_list()
    assert len(set(map(str.casefold, asked))) == len(asked)
    assert not personal_data(file)


@pytest.mark.parametrize("style", ["careful", "typed"])
def test_a_third_of_each_half_has_no_answer_in_the_handbook(style):
    """Careful people and colleagues ask about as many, a third without an answer; of each, seven in ten are `dev`."""
    rows = [row for row in ASKED if word(row, 1) == style]
    assert 0.45 <= len(rows) / len(ASKED) <= 0.55
    assert 0.3 <= sum(map(unanswerable, rows)) / len(rows) <= 0.36
    for silent in (True, False):
        some = [word(row, 0) for row in rows if unanswerable(row) is silent]
        assert set(some) == {"dev", "held"}
        assert 0.65 <= some.count("dev") / len(some) <= 0.75


def test_no_page_is_in_both_parts():
    """What is chosen on `dev` has seen no page that `held` asks about; many pages are asked about."""
    dev, held = ({row["document"] for row in ASKED if word(row, 0) == part} for part in ("dev", "held"))
    assert dev.isdisjoint(held)
    assert len({row["document"] for row in ASKED if not unanswerable(row)}) >= 30


@pytest.mark.skipif("RAFT_DATA" not in os.environ, reason="RAFT_DATA names no folder with the handbook")
@pytest.mark.parametrize("row", ASKED, ids=lambda row: row["question_id"])
def test_an_answer_stands_in_its_page(row):
    """Each page exists, and the first answer to an answerable question stands word for word in it."""
    page = Path(os.environ["RAFT_DATA"]) / "kb_18f_handbook" / row["document"]
    assert page.is_file()
    assert unanswerable(row) or contains(page.read_text(encoding="utf-8"), row["answers"][0])


def test_lookalikes_are_short_and_stand_in_groups():
    """There are ten folders with two or three documents of 150 to 350 words, and each is asked about."""
    assert len({path.split("/")[0] for path in TEXTS}) == 10
    assert all(1 <= len(lookalikes(path)) <= 2 for path in TEXTS)
    assert all(150 <= len(re.findall(r"\S+", text)) <= 350 for text in TEXTS.values())
    assert {row["document"] for row in NAMED} == set(TEXTS)


def test_a_third_asks_what_the_document_named_does_not_state():
    """Ids tell what is asked; a third has no answer, and the look-alikes' answers are noted where they have some."""
    kinds = {row["question_id"]: word(row, 0) for row in NAMED}
    assert set(kinds.values()) == {"differs", "only", "lookalike", "neither"}
    assert all(unanswerable(row) is (word(row, 0) in ("lookalike", "neither")) for row in NAMED)
    assert 0.3 <= sum(map(unanswerable, NAMED)) / len(NAMED) <= 0.37
    assert set(ELSEWHERE) == {name for name, kind in kinds.items() if kind in ("differs", "lookalike")}


@pytest.mark.parametrize("row", NAMED, ids=lambda row: row["question_id"])
def test_an_answer_stands_in_the_document_named_alone(row):
    """The first answer stands in the document meant and in no look-alike, and what these say does not stand in it."""
    own, others = TEXTS[row["document"]], lookalikes(row["document"])
    if not unanswerable(row):
        assert contains(own, row["answers"][0])
        assert not [path for path, text in others.items() if contains(text, row["answers"][0])]
    for path, said in ELSEWHERE.get(row["question_id"], {}).items():
        assert contains(others[path], said)
        assert not contains(own, said)


@pytest.mark.parametrize("name", sorted(row["question_id"] for row in NAMED if word(row, 0) == "lookalike"))
def test_what_only_a_lookalike_states_stands_nowhere_else(name):
    """No document but those noted holds the answer that a look-alike has to a question about another one."""
    said = ELSEWHERE[name]
    silent = {path: text for path, text in TEXTS.items() if path not in said}
    assert not [path for path, text in silent.items() for one in said.values() if contains(text, one)]
