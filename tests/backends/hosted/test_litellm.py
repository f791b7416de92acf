"""The transport through litellm, against a server on this machine."""

import asyncio
import socket
from contextlib import closing

import pytest

from fake_openai import ERRORS, FakeOpenAI
from raft.backends.hosted import litellm as through_litellm
from raft.backends.hosted.errors import AccessDenied, Transient
from raft.backends.hosted.litellm import LitellmTransport
from raft.protocols import Request
from transport_faults import EXPECTED

KEY = "sk-dummy-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
WAYS = ("openai/test-model", "deepseek/test-model")
"""Providers that litellm asks in its two ways: through a vendor's package, and by itself."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_this_machine")]


def request(text, **changes):
    """Return a request with a system turn and a user turn."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    return Request(turns, **{"max_tokens": 9, **changes})


def ask(url, *requests, name=WAYS[0], timeout=20, key=KEY):
    """Return the reply or the error of each request, one after the other, and the transport that sent them."""

    async def in_turn():
        transport = LitellmTransport(name, api_base=url, key=key, timeout=timeout)
        found = []
        for call in requests:
            found += await asyncio.gather(transport.send(call), return_exceptions=True)
        await transport.close()
        return found, transport

    return asyncio.run(in_turn())


def one(url, text, **options):
    """Return the reply or the error of one request."""
    ((found,), _) = ask(url, request(text), **options)
    return found


@pytest.mark.parametrize("name", WAYS)
def test_a_reply_and_its_tokens_arrive(name):
    """A reply has its text, its tokens and no price; turns, limit and key are sent as they are."""
    with FakeOpenAI() as server:
        ((reply,), transport) = ask(server.url, request("hello there", temperature=0.5), name=name)
    assert (reply.text, reply.finish_reason, reply.cost) == ("echo: hello there", "stop", None)
    assert (reply.input_tokens, reply.output_tokens) == (4, 3)
    assert reply.seconds > 0
    (body,) = server.seen
    assert body["messages"] == list(request("hello there").messages)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("test-model", 9, 0.5)
    assert f"authorization: bearer {KEY}".lower() in server.heads[0].lower()
    assert transport.limits == {}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    ("fault", "kind", "facts"),
    EXPECTED,
)
def test_each_fault_is_told_from_the_others(name, fault, kind, facts):
    """What goes wrong is said in one of four ways, with the provider's words; nothing is sent twice."""
    with FakeOpenAI({"x": [fault] * 5}) as server:
        error = one(server.url, "x", name=name)
    assert type(error) is kind
    assert {fact: getattr(error, fact) for fact in facts} == facts
    assert error.words == (ERRORS[fault][2] if fault in ERRORS else error.words)
    assert error.words
    assert KEY not in str(error)
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", WAYS)
def test_a_reply_that_does_not_come_may_have_been_billed(name):
    """A call that times out counts as one that the provider may charge for."""
    with FakeOpenAI({"x": ["timeout"]}) as server:
        error = one(server.url, "x", timeout=0.5, name=name)
    assert isinstance(error, Transient)
    assert error.billed


@pytest.mark.parametrize("name", WAYS)
def test_an_endpoint_that_is_down_has_charged_nothing(name):
    """Where nothing listens, nothing was billed."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        error = one(f"http://127.0.0.1:{free.getsockname()[1]}/v1", "x", name=name)
    assert isinstance(error, Transient)
    assert not error.billed


@pytest.mark.parametrize("name", WAYS)
def test_odd_replies_are_replies(name):
    """No choice is an empty text; odd token counts are unknown; a reply that was cut off says so."""
    with FakeOpenAI({"none": ["empty"], "odd": ["usage"], "long": ["length"]}) as server:
        (empty, odd, cut), _ = ask(server.url, *map(request, ("none", "odd", "a long story")), name=name)
    assert (empty.text, empty.finish_reason) == ("", "empty")
    assert (odd.text, odd.input_tokens, odd.output_tokens) == ("echo: odd", -1, -1)
    assert cut.finish_reason == "length"


def test_an_unknown_provider_stops_at_once():
    """A name that litellm does not know is denied, not retried."""
    error = one(None, "x", name="nobody/test-model")
    assert isinstance(error, AccessDenied)
    assert "nobody/test-model" in error.words


def test_a_schema_goes_along_where_the_model_takes_one():
    """Structured output is asked for only of models that are known to give it."""
    with FakeOpenAI() as server:
        for name in ("openai/gpt-4o-mini", "openai/test-model"):
            ask(server.url, request("x", schema=SCHEMA), name=name)
    assert server.seen[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in server.seen[1]


def test_an_endpoint_without_schemas_is_asked_without():
    """A provider that refuses a schema gets the request without, at once and from then on."""
    with FakeOpenAI({"x": ["schema"]}) as server:
        calls = [request("x", schema=SCHEMA), request("y", schema=SCHEMA)]
        replies, _ = ask(server.url, *calls, name="openai/gpt-4o-mini")
    assert [reply.text for reply in replies] == ["echo: x", "echo: y"]
    assert ["response_format" in body for body in server.seen] == [True, False, False]


@pytest.mark.parametrize("name", WAYS)
def test_limits_are_read_from_headers(name):
    """What the provider says of its limits is known after the first reply."""
    with FakeOpenAI(requests_per_minute=600) as server:
        _, transport = ask(server.url, request("x"), name=name)
    assert transport.limits == {"requests_per_minute": 600.0}


@pytest.mark.parametrize("name", WAYS)
def test_another_pool_finds_open_doors(name):
    """After a transport was closed, another one in another event loop sends its requests."""
    with FakeOpenAI() as server:
        assert [one(server.url, f"{number}", name=name).text for number in range(3)] == [
            "echo: 0",
            "echo: 1",
            "echo: 2",
        ]


@pytest.mark.parametrize("name", WAYS)
def test_closing_lets_go_of_connections(name):
    """A transport that was closed leaves no session open behind it."""
    import litellm

    with FakeOpenAI() as server:
        one(server.url, "x", name=name)
    handlers = litellm.in_memory_llm_clients_cache.cache_dict.values()
    clients = [getattr(handler, "client", None) or getattr(handler, "_client", None) for handler in handlers]
    sessions = [getattr(getattr(client, "_transport", None), "client", None) for client in clients]
    open_ones = [session for session in sessions if getattr(session, "closed", True) is False]
    assert any(hasattr(session, "closed") for session in sessions)
    assert open_ones == []


@pytest.mark.parametrize("name", WAYS)
def test_no_error_shows_the_key(monkeypatch, name):
    """A provider that repeats the key in its words does not make us repeat it, whatever form the key has."""
    key = "my own key 0123456789"
    monkeypatch.setitem(ERRORS, "401", (401, "invalid_api_key", f"Incorrect API key provided: {key}."))
    with FakeOpenAI({"x": ["401"]}) as server:
        error = one(server.url, "x", name=name, key=key)
    assert isinstance(error, AccessDenied)
    assert key not in str(error)
    assert "Incorrect API key" in error.words


@pytest.mark.parametrize("name", WAYS)
def test_litellm_reckons_and_notes_nothing(monkeypatch, name):
    """No cost is reckoned and no log written by litellm for a call of ours."""
    import litellm
    from litellm.litellm_core_utils import litellm_logging

    asked = []
    monkeypatch.setattr(litellm, "response_cost_calculator", lambda **_: asked.append("cost"))
    monkeypatch.setattr(litellm, "completion_cost", lambda **_: asked.append("cost"))
    monkeypatch.setattr(litellm_logging, "get_standard_logging_object_payload", lambda **_: asked.append("log"))
    with FakeOpenAI() as server:
        assert one(server.url, "x", name=name).text == "echo: x"
        assert asked == []
        monkeypatch.setattr(through_litellm, "_silent_log", lambda litellm: None)
        assert one(server.url, "y", name=name).text == "echo: y"
    assert "cost" in asked


def test_a_litellm_without_those_places_is_called_as_it_is(monkeypatch):
    """Where the log of another version cannot be made, the public function answers all the same."""
    from litellm.litellm_core_utils import litellm_logging

    class Other:
        def __init__(self, name):
            pass

    monkeypatch.setattr(litellm_logging, "Logging", Other)
    with FakeOpenAI() as server:
        assert one(server.url, "x").text == "echo: x"
