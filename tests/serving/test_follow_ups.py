"""Follow-ups: worded so that they stand alone, or searched as they are, whatever the model says."""

import json
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import UsageError
from raft.serving.follow_ups import FollowUps, checked
from raft.serving.openai import stands_alone
from raft.settings import Settings
from raft.store.ledger import Ledger
from served import Served, Source
from stand_in import standing_in

EARLIER, QUESTION = ("How long may a parcel be returned?",), "And for trade customers?"
WORDED = "How long may trade customers return a parcel?"


@pytest.fixture
def model():
    """A hosted model: its address, what it says, and what it was asked."""

    class Model:
        said, status, asked = WORDED, 200, []

    def answer(method, path, headers, body):
        Model.asked.append(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": Model.said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 120, "completion_tokens": 9}
        return Model.status, {"choices": [choice], "usage": usage, "error": {"message": "no"}}

    Model.asked = []
    with standing_in(answer) as Model.address:
        yield Model


def opened(model, tmp_path, **more):
    """Return what words follow-ups with that model."""
    generator = {"model": "hosted_vllm/any", "api_base": f"{model.address}/v1", "attempts": 1, **more}
    told = {"serving": {"rewrite": "hosted_vllm/any"}, "generator": generator, "ledger": tmp_path / "ledger.sqlite"}
    return FollowUps(Settings.model_validate(told), "run", lambda event, facts: None)


def test_a_follow_up_is_worded_with_what_it_leans_on(model, tmp_path):
    """The model sees the turns before and the question, and its wording is what counts; the call is in the ledger."""
    follow_ups = opened(model, tmp_path)
    assert follow_ups.alone(QUESTION, EARLIER) == WORDED
    assert model.asked == [f"Turns before:\n{EARLIER[0]}\nQuestion: {QUESTION}"]
    assert follow_ups.alone(QUESTION, EARLIER) == WORDED and len(model.asked) == 2, "a conversation is not kept"
    follow_ups.close()
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        (spent,) = ledger.spending("run")
    assert (spent["purpose"], spent["calls"]) == ("ask", 2)


@pytest.mark.parametrize(
    "said", ["", "And for them?", f"{WORDED}\nThirty days.", "word " * 200, "Why?", "What about trade customers?"]
)
def test_what_is_no_question_of_its_own_is_not_used(model, tmp_path, said):
    """Where the model answers, goes on, or leaves the follow-up as it is, it is searched with the turns before."""
    model.said = said
    follow_ups = opened(model, tmp_path)
    assert follow_ups.alone(QUESTION, EARLIER) is None
    follow_ups.close()


def test_a_model_that_fails_costs_no_answer(model, tmp_path):
    """An endpoint that refuses is no error of the caller's: the follow-up is searched as it is."""
    model.status = 400
    follow_ups = opened(model, tmp_path)
    assert follow_ups.alone(QUESTION, EARLIER) is None
    follow_ups.close()


def test_a_model_on_this_machine_is_refused(tmp_path):
    """It would take the processor from the one that answers; what can be named is said."""
    settings = Settings.model_validate({"serving": {"rewrite": "HuggingFaceTB/SmolLM2-135M-Instruct"}})
    with pytest.raises(UsageError, match="processor") as refused:
        FollowUps(settings, "run", lambda event, facts: None)
    assert "ollama_chat/NAME" in refused.value.hint


@given(st.text(max_size=60))
def test_whatever_is_used_stands_alone_in_one_line(text):
    """Of any reply at most one line is used, and it stands alone."""
    said = checked(text)
    assert said is None or (stands_alone(said) and len(said.splitlines()) == 1 and json.dumps(said))


def test_a_follow_up_is_asked_and_searched_as_it_was_worded(model, tmp_path):
    """Through the server the wording is what is searched and asked, and told; what stands alone costs no call."""
    source = Source()
    with Served(source, follow_ups=opened(model, tmp_path)) as served:
        turns = [{"role": "user", "content": EARLIER[0]}, {"role": "assistant", "content": "30 days"}]
        reply = served.chat([*turns, {"role": "user", "content": QUESTION}])
        assert (source.asked[-1], source.searched[-1], reply["raft"]["question"]) == ([WORDED], WORDED, WORDED)
        assert "question" not in served.chat(EARLIER[0])["raft"] and len(model.asked) == 1
        model.status = 500
        served.chat([*turns, {"role": "user", "content": QUESTION}])
        assert (source.asked[-1], source.searched[-1]) == ([QUESTION], f"{EARLIER[0]}\n{QUESTION}")
