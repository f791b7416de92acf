"""How models want to be asked: refusals by name, thoughts before replies, and replies with a reason for being empty."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_openai
from fake_openai import THOUGHT, FakeOpenAI
from raft.backends.asking import AskingGenerator, Reply, has_thoughts, without_thoughts
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.model import HostedModel
from raft.errors import RaftError, UsageError
from raft.protocols import Completion, Failure, Request
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger

KEY = "sk-dummy-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_this_machine")]


@pytest.fixture(params=["openai", "novita"])
def road(request, monkeypatch):
    """Return a provider that is asked directly, and one that is asked through litellm."""
    monkeypatch.setenv(f"{request.param.upper()}_API_KEY", KEY)
    return request.param


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def request(text, **changes):
    """Return a request with a system turn and a user turn."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    return Request(turns, **{"max_tokens": 9, **changes})


def opened(server, name, **options):
    """Return a model at the server."""
    return HostedModel(name, api_base=server.url, concurrency=4, timeout=20, **options)


def asked(ledger, server, name, *texts, **options):
    """Return the text of each reply; each is asked when the one before it is there, in new flights of one model."""
    model = opened(server, name, **options)
    budget = Budget(ledger, run="r", model=name, price=None, cap=None)
    generator = FlowingGenerator(model, ledger, budget, attempts=1)
    return [reply.text for text in texts for reply in generator.complete([request(text)])]


def through(ledger, server, name, *requests, attempts=3, max_failures=None, price=None, **options):
    """Return the outcomes of requests that go through the ledger."""
    budget = Budget(ledger, run="r", model=name, price=price, cap=None)
    model = opened(server, name, **options)
    return list(
        FlowingGenerator(model, ledger, budget, attempts=attempts, max_failures=max_failures).complete(requests)
    )


def must_be(word):
    """Return a check that only a text with a word passes."""

    def check(text):
        if word not in text:
            raise ValueError("it is of no use")

    return check


# what is refused by name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [["temperature"], ["system"], ["max_tokens"], ["system", "temperature"]])
def test_what_a_model_refuses_by_name_is_left_out_from_then_on(road, ledger, refused):
    """A temperature, a system turn or the limit's name is refused once for a model, not once for a call or a flight."""
    with FakeOpenAI(refuses=refused) as server:
        assert asked(ledger, server, f"{road}/test-model", "a", "b", "c", "d")[1:] == (
            ["echo: Be brief.\n\nb", "echo: Be brief.\n\nc", "echo: Be brief.\n\nd"]
            if "system" in refused
            else ["echo: b", "echo: c", "echo: d"]
        )
        assert len(server.seen) == 4 + len(refused)


def test_an_ordinary_model_is_sent_what_it_was_sent_before(road, ledger):
    """No field is added, left out or moved for a model that neither thinks nor refuses anything."""
    with FakeOpenAI() as server:
        asked(ledger, server, f"{road}/test-model", "hello")
    (body,) = server.seen
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    expected = {"model": "test-model", "messages": turns, "max_tokens": 9, "temperature": 0.0}
    if road == "openai":
        assert json.dumps(body) == json.dumps(expected)
    assert body == expected


def test_a_refusal_that_is_not_mended_is_not_remembered(ledger):
    """What was left out in vain is asked again as before: only a reply shows that it was the reason."""
    with FakeOpenAI({"odd": ["400"]}, refuses=["temperature"]) as server:
        model = opened(server, "openai/test-model")
        budget = Budget(ledger, run="r", model=model.name, price=None, cap=None)
        list(
            FlowingGenerator(model, ledger, budget, attempts=1).complete([request("odd")])
        )  # first the temperature is refused, then something else
    assert model._manners.refused == frozenset()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature"),
        ("Unsupported parameter (temperature)", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("System role not supported", "system"),
        ("This model doesn't support system messages. Try again without a system message.", "system"),
        ("Developer instruction is not enabled for models/gemma-3-4b-it", "system"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "system"),
        ("Unsupported parameter: use 'max_completion_tokens' instead.", "max_tokens"),
        ("messages[0].role: must be one of user, assistant", "system"),
        ("messages[0].role: must be one of user, assistant, system", None),
        ("Unrecognized request argument supplied: max_tokens", "max_tokens"),
        ("Unsupported value: max_tokens must be between 1 and 4096", None),
        ("[{'type': 'extra_forbidden', 'loc': ['body', 'max_tokens'], 'msg': 'Extra inputs'}]", "max_tokens"),
        ("Input should be a valid string", None),
    ],
)
def test_refusals_are_understood_in_many_words(words, name):
    """Endpoints say the same in different ways; what is not understood changes nothing."""
    found = Manners("openai/test-model").objection(400, words, request("x"), frozenset())
    assert found == (frozenset([name]) if name else frozenset())


# effort and room ------------------------------------------------------------------------------------------------------


def test_a_known_reasoning_model_is_asked_to_think_as_little_as_it_can(ledger):
    """The least effort that the model takes is found by its words, once, and thoughts get room beside the reply."""
    with FakeOpenAI(refuses=["max_tokens", "temperature", "effort"], thinks=500) as server:
        assert asked(ledger, server, "openai/gpt-5-mini", "a", "b") == ["echo: a", "echo: b"]
        assert [body.get("reasoning_effort") for body in server.seen[-2:]] == ["low", "low"]
        assert all(body["max_completion_tokens"] > 500 for body in server.seen[-2:])
        assert len(server.seen) == 2 + 3


def test_an_effort_of_the_users_is_sent_and_belongs_to_the_name(ledger):
    """A chosen effort goes along as it is, and its replies are kept apart; without one names are as they were."""
    with FakeOpenAI(thinks=500) as server:
        model = opened(server, "openai/test-model", effort="high")
        assert asked(ledger, server, "openai/test-model", "a", effort="high") == ["echo: a"]
        assert server.seen[0]["reasoning_effort"] == "high"
        assert model.identity != opened(server, "openai/test-model").identity == f"openai/test-model@{server.url}"


@pytest.mark.parametrize(
    ("words", "next_one"),
    [
        ("Unsupported value: 'none'. Supported values are: 'minimal', 'low', 'medium' (reasoning_effort)", "minimal"),
        ("`reasoning_effort` must be one of `low`, `medium`, or `high`", "low"),
        ("Budget 0 is invalid. This model only works in thinking mode.", "minimal"),
        ("Unrecognized request argument supplied: reasoning_effort", None),
    ],
)
def test_the_next_effort_is_the_least_that_a_refusal_leaves(words, next_one):
    """A refused effort is followed by the least one that its refusal names; an unknown field is left out."""
    manners = Manners("openai/o3-mini")
    refused = manners.objection(400, words, request("x"), frozenset())
    assert manners.options(request("x"), refused).get("reasoning_effort") == next_one


def test_a_model_that_turns_out_to_think_gets_room(road, ledger):
    """The first reply shows that a model thinks; from then on its replies are whole, and the room counts as cost."""
    with FakeOpenAI(thinks=300) as server:
        calls = [request(f"word {i}", check=must_be("echo")) for i in range(30)]
        outcomes = through(ledger, server, f"{road}/test-model", *calls, price=Price(1, 1))
    assert all(isinstance(one, Completion) for one in outcomes)
    assert len(server.seen) < 30 + 12
    worst = [row[0] for row in ledger.read("SELECT worst FROM calls ORDER BY id")]
    assert worst[-1] > 300 / 1e6 > 9 / 1e6


def test_where_all_is_cut_off_the_build_stops_soon_and_names_the_setting(ledger):
    """A model whose thoughts are longer than any room is asked a few times, and the words say what to set."""
    with FakeOpenAI(thinks=10**6) as server, pytest.raises(RaftError) as caught:
        calls = [request(f"word {i}", schema=SCHEMA, check=must_be("echo")) for i in range(300)]
        through(ledger, server, "openai/test-model", *calls, max_failures=0.5)
    assert len(server.seen) < 60
    assert "token limit" in caught.value.what
    assert "thinking" in caught.value.where
    assert "generator.reasoning_effort" in caught.value.hint
    assert "more capable" not in caught.value.hint


# thoughts in replies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["<think>\n", "", "<thinking>"])
def test_thoughts_are_no_part_of_a_reply(road, ledger, monkeypatch, head):
    """What stands before the closing tag is left out, braces and all, with and without an opening one."""
    reply = '{"items": [1]}'
    thought = THOUGHT.replace("/think>", "/thinking>") if head == "<thinking>" else THOUGHT
    monkeypatch.setattr(fake_openai, "reply_to", lambda body: head + thought + reply)
    with FakeOpenAI() as server:
        (outcome,) = through(ledger, server, f"{road}/test-model", request("x", check=json.loads))
    assert outcome.text.strip() == reply  # litellm may have taken the thoughts away, and left the space behind them
    if road == "openai":
        assert ledger.read("SELECT reply FROM completions")[0][0] == head + thought + reply


def test_thoughts_of_a_local_model_are_left_out_too(ledger):
    """A model without a flight is read in the same way."""

    class Local:
        name = identity = "local"
        window = 1

        def answer(self, calls, wanted):
            yield [(0, Reply(f"<think>{{}}</think>\n\n{calls[0].messages[-1]['content']}", "stop", 1, 9, 0.0, 0.0))]

    (outcome,) = AskingGenerator(Local(), ledger, attempts=1).complete([request("42", check=int)])
    assert outcome.text == "42"


PLAIN = st.text(st.characters(exclude_characters="<>[]{}◁▷", exclude_categories=["Cs"]), max_size=40)


@given(thought=PLAIN, reply=PLAIN, tag=st.sampled_from(["think", "reasoning", "seed:think"]))
def test_only_thoughts_are_taken_away(thought, reply, tag):
    """Whatever was thought, the reply is what is left; without a tag, or in JSON that holds one, nothing is taken."""
    assert without_thoughts(f"<{tag}>{thought}</{tag}>\n\n{reply}") == reply.lstrip()
    assert without_thoughts(f"{thought}\n</{tag}>\n\n{reply}") == reply.lstrip()
    assert without_thoughts(f"<{tag}>{thought}") == ""
    assert without_thoughts(reply) == reply
    whole = json.dumps({"question": f"What does </{tag}>\n{thought} close?"})
    assert without_thoughts(whole) == whole
    assert has_thoughts(f"<{tag}>{thought}</{tag}>{reply}") == bool(thought.strip())


@pytest.mark.parametrize(
    ("thoughts", "reply"),
    [
        ('Perhaps {"mark": 1}?\n\n{"mark":\n 4}\n', '{"mark":\n 4}'),
        ('I take these:\n```json\n[{"a": 1}]\n```', '[{"a": 1}]'),
        ('Perhaps {"mark": 1}', ""),
        ('{"mark": 1}\nor rather', ""),
        ('Perhaps\n{"mark": 1', ""),
    ],
)
def test_json_that_ends_open_thoughts_is_the_reply(thoughts, reply):
    """A model that forgets the closing tag has its JSON read where that is whole, in lines of its own, and the end."""
    assert without_thoughts(f"<think>\n{thoughts}") == reply


def test_spaces_within_open_thoughts_take_no_time():
    """Thoughts with spaces that nearly never end are read as any others."""
    assert without_thoughts("<think>" + " " * 20_000 + "so: }") == ""


# replies without words ------------------------------------------------------------------------------------------------


def test_a_model_that_refuses_is_not_asked_again(road, ledger):
    """A refusal is final, and the failure holds the model's own words."""
    with FakeOpenAI({"x": ["refusal"] * 3}) as server:
        (outcome,) = through(ledger, server, f"{road}/test-model", request("x", check=must_be("echo")))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "refused"
    assert "refuses" in outcome.message
    assert len(server.seen) == 1


def test_a_reply_of_thoughts_alone_says_so(ledger):
    """A limit that was spent on thoughts is named as the reason."""
    with FakeOpenAI(thinks=10**6) as server:
        (outcome,) = through(ledger, server, "openai/test-model", request("x", check=must_be("echo")))
    assert outcome.kind == "length"
    assert "thinking" in outcome.message


def test_a_web_page_is_no_reply_and_stops_at_once(road, ledger):
    """A page of HTML shows that the address is wrong; nothing is asked again."""
    with FakeOpenAI({"x": ["page"] * 9}) as server, pytest.raises(UsageError) as caught:
        through(ledger, server, f"{road}/test-model", request("x"))
    assert "Gateway login" in caught.value.what
    assert "address" in caught.value.what
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "<|channel|>analysis<|message|>We {x}<|end|><|start|>assistant<|channel|>final<|message|>45 days",
        "<|start|>assistant<|channel|>analysis<|message|>We<|end|><|channel|>final<|message|>45 days<|return|>",
        "<|channel|>final <|constrain|>json<|message|>45 days<|end|>",
        "<|channel|>analysis<|message|>We<|end|><|channel|>commentary to=reply <|constrain|>json<|message|>45 days",
        "analysisWe need the days. 60?assistantfinal45 days",
    ],
)  # fmt: skip
def test_of_channels_the_last_is_the_reply(reply):
    """What a model with channels thought is no part of its reply, whichever marks a server left in or took out."""
    assert without_thoughts(reply) == "45 days"
    assert without_thoughts("analysis of 60 days") == "analysis of 60 days"
