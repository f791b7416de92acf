"""The kinds of question stand in one table."""

from typing import get_args

import pytest

from raft.generation import generate, plan
from raft.kinds import KINDS, Kind, Traits
from raft.settings import Questions
from raft.testing import ScriptedGenerator, make_chunks


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
