"""The kinds of question stand in one table."""

import json
from typing import get_args

import pytest

import raft
from raft.curation import clean
from raft.errors import UsageError
from raft.generation import generate, items, plan
from raft.kinds import KINDS, Kind, Traits
from raft.settings.sections import Questions
from raft.testing import ScriptedGenerator, make_chunks, make_question
from raft.text.languages import EN


def test_settings_name_the_kinds_of_the_table():
    """Each kind that can be set has its line, and each line can be set."""
    assert get_args(Kind) == tuple(KINDS)
    assert Questions(kinds=tuple(KINDS)).kinds == tuple(KINDS)


def test_a_kind_is_added_by_a_line(monkeypatch):
    """A model is asked for a new kind, with its meaning, and its replies are read, once the table has it."""
    monkeypatch.setitem(KINDS, "reason", Traits("the answer is why something is so"))
    reply = '{"items": [{"question": "Why is it wet?", "answer": "Rain.", "quote": "Rain fell.", "kind": "reason"}]}'
    generator, failures = ScriptedGenerator(lambda one: reply), []
    (made,) = generate.ask(
        iter([make_chunks({"d": ["Rain fell. It is wet."]})]),
        plan.survey([make_chunks({"d": ["Rain fell. It is wet."]})], [], plan.needed("items", ["reason"])),
        generator,
        generate.read_prompts(None),
        strategy="items",
        kinds=["reason"],
        per_chunk=1,
        limit=None,
        model="m",
        failures=failures,
    )
    assert "  - reason: the answer is why something is so" in generator.requests[0].messages[-1]["content"]
    assert (made["kind"].to_list(), failures) == (["reason"], [])


@pytest.mark.parametrize(
    ("strategy", "kinds", "needs"),
    [
        ("spans", tuple(KINDS), {"notices"}),
        ("items", ("fact", "unanswerable"), set()),
        ("items", ("fact", "comparison"), {"notices", "pairs"}),
        ("answer_first", ("fact",), {"notices", "alike"}),
        ("answer_first", ("comparison", "unanswerable"), {"notices", "alike", "pairs", "vocabulary"}),
    ],
)
def test_a_survey_holds_what_the_kinds_look_at(strategy, kinds, needs):
    """No more is found out about a corpus than the kinds need in the way in which they are asked for."""
    assert plan.needed(strategy, kinds) == needs


SAID = (
    "The pump is emptied before the winter. Water that freezes in it bursts the housing, and no warranty covers that. "
    "The dealer in Halden repairs it for 35 euros."
)
WHY = {
    "question": "Why is the Delta pump emptied before the winter?",
    "answer": "Water that freezes in it bursts the housing, and no warranty covers that.",
    "quote": "Water that freezes in it bursts the housing, and no warranty covers that.",
    "kind": "explanation",
}


def test_an_explanation_is_asked_of_capable_models_with_room_for_it():
    """The kind is told to a model that writes items, which gets more room; no other way asks for it."""
    chunk = make_chunks({"d": [SAID]}).row(0, named=True)
    prompt = generate.read_prompts(None).items
    asked, short = (items.items_ask(prompt, chunk, 2, kinds) for kinds in (["fact", "explanation"], ["fact"]))
    assert "one to three sentences" in asked.request.messages[-1]["content"]
    assert asked.request.max_tokens > short.request.max_tokens
    (row,) = asked.read(json.dumps({"items": [WHY]}))
    assert (row["kind"], row["answer"]) == ("explanation", WHY["answer"])
    ways = {way: plan.askable(way, ["fact", "explanation"], EN) for way in ("spans", "rules_first", "items")}
    assert ways == {"spans": ["fact"], "rules_first": ["fact"], "items": ["fact", "explanation"]}


def test_an_explanation_passes_the_rules_that_it_keeps():
    """A sentence of the text is a good answer to why; words that the text does not have are none."""
    chunk = make_chunks({"d": [SAID]}).row(0, named=True)
    row = make_question(chunk, WHY["question"], WHY["answer"]) | {"kind": "explanation", "model": "m"}
    limits = {"min_words": 4, "max_words": 40, "max_answer_words": 60}
    made_up = {**row, "answer": "Because the board of directors decided it at its meeting in Bergen long ago."}
    reasons = [clean.judged(one, {chunk["chunk_id"]: chunk}, limits, {}, {})["reason"] for one in (row, made_up)]
    assert reasons[0] is None and reasons[1] is not None


def test_a_way_that_cannot_ask_for_sentences_is_refused(tmp_path):
    """Explanations by a small model are refused before any work, with what would ask for them."""
    (tmp_path / "a.md").write_text("# A\n\nThe shop opens at 8.")
    chosen = {"questions.kinds": ["fact", "explanation"], "questions.way": "spans"}
    with pytest.raises(UsageError, match="capable models alone") as caught:
        raft.build(tmp_path, out=tmp_path / "run", generator="ollama_chat/small", settings=chosen)
    assert "questions.way=items" in str(caught.value) and "questions.kinds=[fact]" in str(caught.value)
    assert not (tmp_path / "run").exists()
