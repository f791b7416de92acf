"""Styling: the user's wording, and the facts as they are."""

import json

import jsonschema
import pytest

from raft import prompts
from raft.examples import examples
from raft.rag.format import ABSTENTION
from raft.store import tables
from raft.testing import ScriptedGenerator, make_chunks, make_question

PROMPT = prompts.load("restyle")
CHUNK = make_chunks({"d": ["The Quillon heater weighs 14 kg. Maria Lopez signs before 12 March 2026."]}).row(
    0, named=True
)
ROWS = {
    "weight": {**make_question(CHUNK, "How heavy is the heater?", "14 kg", kind="number"), "split": "train"},
    "date": {**make_question(CHUNK, "When does she sign?", "12 March 2026", kind="date"), "split": "valid"},
    "who": {**make_question(CHUNK, "Who signs?", "Maria Lopez", kind="name"), "split": "train"},
    "none": {**make_question(CHUNK, "Who sang?", ABSTENTION, kind="unanswerable"), "split": "train"},
    "held": {**make_question(CHUNK, "How heavy is it?", "14 kg", kind="number"), "split": "eval_seen"},
    "gone": {**make_question(CHUNK, "What?", "14 kg", kind="number"), "split": None, "reason": "malformed"},
}
IDS = {name: row["question_id"] for name, row in ROWS.items()}
CLEANED = tables.frame(tables.CLEANED, ROWS.values())
ANSWER = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
MARKED = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "unit": {"enum": ["kg", "none"]}},
    "required": ["answer", "unit"],
}


def exact(request):
    """Return the exact answer that a request holds."""
    return request.messages[-1]["content"].split("Exact answer: ")[1].split("\n")[0]


def restyle(reply, *, schema=None, style="friendly, one sentence"):
    """Return answers and failures by the names of the rows, and the generator."""
    generator = ScriptedGenerator(reply)
    answers, failed = examples.restyle(CLEANED, generator, PROMPT, style=style, schema=schema)
    names = {question_id: name for name, question_id in IDS.items()}
    return {names[one]: text for one, text in answers.items()}, [names[one] for one in failed], generator


def test_only_rows_that_are_trained_on_are_worded_anew():
    """Held-out, dropped and unanswerable questions are not sent to the model."""
    answers, failed, generator = restyle(lambda request: f"Gladly:  it is\n{exact(request)}!")
    assert answers == {
        "weight": "Gladly: it is 14 kg!",
        "date": "Gladly: it is 12 March 2026!",
        "who": "Gladly: it is Maria Lopez!",
    }
    assert failed == []
    assert len(generator.requests) == 3


def test_the_style_and_the_source_reach_the_model():
    """The request holds the question, the exact answer, its quote and the style."""
    *_, generator = restyle(exact, style="as a pirate")
    chat = "\n".join(turn["content"] for turn in generator.requests[0].messages)
    for part in ("How heavy is the heater?", "14 kg", "Maria Lopez signs before", "as a pirate"):
        assert part in chat


@pytest.mark.parametrize("reply", ["It is heavy.", "It weighs 15 kg.", "", "  \n "])
def test_an_answer_without_its_fact_is_a_failure(reply):
    """A wording that loses or changes a number or date is refused; the row keeps its exact answer."""
    answers, failed, _ = restyle(lambda request: reply if "kg" in exact(request) else f"On {exact(request)}.")
    assert failed == ["weight"]
    assert "weight" not in answers


def test_a_fact_in_other_spelling_is_the_same_fact():
    """March 12, 2026 is 12 March 2026."""
    answers, failed, _ = restyle(lambda request: exact(request).replace("12 March 2026", "March 12, 2026"))
    assert (answers["date"], failed) == ("March 12, 2026", [])


def test_an_invented_fact_is_a_failure():
    """A wording that adds a figure which is neither in the answer nor in its quote is refused."""
    _, failed, _ = restyle(lambda request: f"{exact(request)}, or 99 pounds.")
    assert "weight" in failed


def test_a_lost_name_is_a_failure():
    """Where the answer is a name, a wording without it is refused."""
    _, failed, _ = restyle(lambda request: "She does." if exact(request) == "Maria Lopez" else exact(request))
    assert failed == ["who"]


def test_a_schema_with_one_text_field_needs_no_model():
    """The exact answer is put into the only field, and no model is asked."""
    answers, failed, generator = restyle(lambda request: "never", schema=ANSWER)
    assert {name: json.loads(text) for name, text in answers.items()} == {
        "weight": {"answer": "14 kg"},
        "date": {"answer": "12 March 2026"},
        "who": {"answer": "Maria Lopez"},
    }
    assert (failed, generator.requests) == ([], [])


@pytest.mark.parametrize(
    "limits",
    [{"properties": {"answer": {"type": "string", "maxLength": 6}}}, {"required": ["answer", "source"]}],
    ids=["length", "another required field"],
)
def test_a_filled_field_follows_the_schema_too(limits):
    """No answer that is used violates the schema, also where no model was needed."""
    schema = {**ANSWER, **limits}
    answers, failed, _ = restyle(lambda request: "never", schema=schema)
    assert len(answers) + len(failed) == 3
    for text in answers.values():
        jsonschema.validate(json.loads(text), schema)


def test_answers_follow_the_schema():
    """A reply that follows the schema is kept as JSON on one line; the request carries the schema."""
    reply = '{\n "answer": "%s",\n "unit": "kg"}'
    answers, failed, generator = restyle(lambda request: reply % exact(request), schema=MARKED)
    assert answers["weight"] == '{"answer": "14 kg", "unit": "kg"}'
    assert failed == []
    assert generator.requests[0].schema == MARKED


@pytest.mark.parametrize(
    "reply", ["It is 14 kg.", '{"answer": "14 kg"}', '{"answer": "14 kg", "unit": "pounds"}', '["14 kg"]', ""]
)
def test_a_reply_beside_the_schema_is_a_failure(reply):
    """A reply that is no JSON or violates the schema is refused after the attempts."""
    good = '{"answer": "%s", "unit": "none"}'
    answers, failed, _ = restyle(lambda one: reply if "kg" in exact(one) else good % exact(one), schema=MARKED)
    assert failed == ["weight"]
    assert set(answers) == {"date", "who"}


def test_no_rows_ask_nothing():
    """Without rows to train on there is nothing to word."""
    generator = ScriptedGenerator(exact)
    held = CLEANED.filter(split="eval_seen")
    assert examples.restyle(held, generator, PROMPT, style="x", schema=None) == ({}, [])
    assert generator.requests == []
