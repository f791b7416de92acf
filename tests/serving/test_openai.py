"""OpenAI's form: what counts in a request, what is refused, and what an answer looks like."""

import http.client
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from raft.api.http import Refused
from raft.errors import RaftError
from raft.serving.openai import read_request, stands_alone
from raft.serving.server import _failure
from served import PASSAGE, REPLY, Served, Source, pieces, said

NAMES = ("handbook", "raft")


def body(*turns, **more):
    """A request with turns of the user."""
    return {"model": "raft", "messages": [{"role": "user", "content": turn} for turn in turns], **more}


@pytest.fixture(scope="module")
def source():
    """What answers."""
    return Source()


@pytest.fixture(scope="module")
def served(source):
    """A server that answers by rule."""
    with Served(source) as server:
        yield server


def test_a_whole_reply_has_openais_form_and_the_quotes(served):
    """A reply has text, usage and an annotation for each quote, and says beside it what raft knows of it."""
    reply = served.chat("How long may a parcel be returned?")
    (choice,) = reply["choices"]
    assert (choice["message"]["role"], choice["message"]["content"], choice["finish_reason"]) == (
        *("assistant", "30 days"),
        "stop",
    )
    assert reply["usage"] == {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    (note,) = choice["message"]["annotations"]
    assert note["url_citation"] == {
        "start_index": 0,
        "end_index": len("30 days"),
        "url": "refunds/home%20page.pdf#page=3",
        "title": "refunds/home page.pdf, page 3",
    }
    own = reply["raft"]
    (cited,) = own["citations"]
    assert PASSAGE.text[cited["start"] - 40 : cited["end"] - 40] == cited["quote"] == "may be returned within 30 days"
    assert (cited["document"], cited["page"]) == ("refunds/home page.pdf", 3)
    assert (own["supported"], own["abstained"], own["index"], own["system"]) == (True, False, "a" * 64, "raft")
    assert (own["adapter"], own["adapter_digest"], own["model"]) == ("0123abcd", "f" * 64, "tiny")
    assert (own["relevance"], own["min_relevance"], own["refused"]) == (None, None, False)
    assert reply["id"].startswith("chatcmpl-")
    assert "passages" not in own


def test_a_refusal_says_why(served, source, monkeypatch):
    """A reply that no model was asked for has its relevance and the threshold; one that was replaced says so."""
    answer = source._answer
    for told in ({"relevance": 0.25, "min_relevance": 0.5, "refused": False}, {"refused": True}):
        monkeypatch.setattr(source, "_answer", lambda one, told=told: replace(answer(one), **told))
        own = served.chat("How long may a parcel be returned?")["raft"]
        assert {name: own[name] for name in ("relevance", "min_relevance", "refused")} == {
            **{"relevance": None, "min_relevance": None},
            **told,
        }


def test_a_stream_says_the_answer_alone_and_ends_with_the_quotes(served):
    """The pieces of a stream make the answer, without marks and quotes; the last has annotations and raft's object."""
    events = served.chat("How long may a parcel be returned?", stream=True, stream_options={"include_usage": True})
    *written, last, usage = events
    assert said(written) == "30 days"
    whole = served.chat("How long may a parcel be returned?")
    assert last["choices"][0]["delta"]["annotations"] == whole["choices"][0]["message"]["annotations"]
    assert last["raft"] == {**whole["raft"], "id": last["id"]}
    assert (last["choices"][0]["finish_reason"], usage["choices"], usage["usage"]) == ("stop", [], whole["usage"])
    assert {event["id"] for event in events} == {last["id"]}
    assert written[0]["choices"][0]["delta"]["role"] == "assistant"


def test_a_stream_begins_before_the_reply_is_whole(served, source):
    """What has been written is sent while the rest is still being written, and nothing of it is lost."""
    source.reply = lambda question: "Answer: " + " ".join(str(number) for number in range(40))
    source.pause.clear()
    sent = {**body("How long may a parcel be returned?"), "stream": True}
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as line:
        line.request("POST", "/v1/chat/completions", json.dumps(sent), {"content-type": "application/json"})
        answer, begun = line.getresponse(), b""
        while begun.count(b"\n\n") < 2:  # whose turn it is, and then the first words
            begun += answer.read1(4096) or pytest.fail("the stream has ended")
        source.pause.set()
        text = (begun + answer.read()).decode()
    source.reply = lambda question: REPLY
    assert said(pieces(text)) == " ".join(str(number) for number in range(40))


def test_passages_come_where_they_are_asked_for(served):
    """With raft.passages a reply holds what the model was shown."""
    (passage,) = served.chat("How long?", raft={"passages": True})["raft"]["passages"]
    assert (passage["document"], passage["page"], passage["text"]) == (PASSAGE.document, 3, PASSAGE.text)


@pytest.mark.parametrize(("said", "probe"), [({}, False), ({"raft": {}}, False), ({"raft": {"probe": True}}, True)])
def test_a_request_says_that_it_is_a_probe(said, probe):
    """Who watches the system says so with raft.probe; whoever says nothing is a user."""
    assert read_request(body("How long?", **said), NAMES).probe is probe


def test_models_are_the_run(served):
    """The run is the one model, by its name and as raft, each of which can be looked up."""
    status, _, text = served.ask("/v1/models")
    assert status == 200
    assert '"id":"handbook"' in text
    assert '"owned_by":"raft"' in text
    assert served.ask("/v1/models/handbook")[0] == 200
    assert served.ask("/v1/models/gpt-4o")[0] == 404


def test_turns_of_others_do_not_change_the_question(served, source):
    """The last turn of the user is asked; system prompts, answers of before and settings of writing are read over."""
    turns = [
        {"role": "system", "content": "Say arr."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How long may a parcel"}, {"type": "text", "text": "be kept?"}],
        },
    ]
    reply = served.chat(turns, temperature=2, tools=[], max_tokens=1, stop=["a"], seed=1, user="me", top_p=0.1)
    assert reply["choices"][0]["message"]["content"] == "30 days"
    assert source.asked[-1] == ["How long may a parcel\nbe kept?"]


@pytest.mark.parametrize(
    ("turns", "searched"),
    [
        (["How heavy is the Delta pump?", "Who may return a pump?"], "Who may return a pump?"),
        (
            ["How heavy is the Delta pump?", "And how high does it lift?"],
            "How heavy is the Delta pump?\nAnd how high does it lift?",
        ),
        (["Old?", "How heavy is the Delta pump?", "Why?"], "How heavy is the Delta pump?\nWhy?"),
        (["Why?"], "Why?"),
    ],
)
def test_what_does_not_stand_alone_is_searched_with_what_was_said_before(turns, searched):
    """A question that leans on turns before is searched with them, back to one that stands alone; others alone."""
    asked = read_request(body(*turns), NAMES)
    assert (asked.question, asked.searched) == (turns[-1], searched)


@pytest.mark.parametrize(
    "question", ["What about trade customers?", "Why?", "Is it waterproof?", "What does this cost?"]
)
def test_some_questions_do_not_stand_alone(question):
    """Questions that point at something unseen, or begin in the middle, do not stand alone."""
    assert not stands_alone(question)


@pytest.mark.parametrize(
    ("changed", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, None),
        ({"model": 5}, 400, "model"),
        ({"n": 2}, 400, "n"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "tool_choice"),
        ({"modalities": ["text", "audio"]}, 400, "modalities"),
        ({"audio": {"voice": "alloy"}}, 400, "modalities"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream": 1}, 400, "stream"),
        ({"stream_options": []}, 400, "stream_options"),
        ({"raft": "passages"}, 400, "raft"),
        ({"raft": {"probe": "yes"}}, 400, "probe"),
        ({"messages": []}, 400, "messages"),
        ({"messages": {}}, 400, "messages"),
        ({"messages": ["How?"]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": " \n"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, 400, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages[0].content",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [["How?"]]}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "How?"}] * 600}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "why " * 30_000}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "why " * 20_000}] * 6}, 400, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused(changed, status, param):
    """What no answer could honour, or is no value of its kind, is refused with the part that is at fault."""
    with pytest.raises(Refused) as refused:
        read_request({**body("How long?"), **changed}, NAMES)
    assert (refused.value.status, refused.value.param) == (status, param)


@pytest.mark.parametrize(
    ("question", "alone"),
    [("a" * 99_000 + " b c", True), ("_" * 99_000 + "? b c", True), ("!" * 50_000 + "ä" * 49_000 + "!", False)],
)
def test_a_question_is_looked_at_in_a_time_that_grows_with_its_length(question, alone):
    """The longest question, of one word, keeps nobody else waiting: with the square of it, it would for minutes."""
    program = "import sys; from raft.serving.openai import stands_alone; print(stands_alone(sys.stdin.read()))"
    told = subprocess.run(
        [sys.executable, "-c", program], input=question, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == str(alone)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no run:/srv/secret/x", "no run:x"),
        ("no file:///srv/secret/x", "no x"),
        ("no /srv/my data/adapters/0a1 here", "no 0a1 here"),
        ("no /srv/my data here", "no  here"),
        ("no /srv/my database", "no my database"),
        ("no http://srv/my data/v1", "no http://srv/my data/v1"),
        ("there is /v1/chat/completions", "there is /v1/chat/completions"),
        ("at https://host:1/v1/chat/completions", "at https://host:1/v1/chat/completions"),
    ],
)
def test_who_asks_is_not_told_where_files_lie(said, told):
    """Of a path the last part alone is told, and nothing of the run's folder, spaces and all; addresses stay."""
    assert str(_failure(RaftError(said, hint="none"), Path("/srv/my data"))) == told
