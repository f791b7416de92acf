"""The direct transport against a server on this machine, and what an endpoint's words mean."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_openai import ERRORS, FakeOpenAI
from raft.backends.asking import Reply
from raft.backends.hosted import openai_http
from raft.backends.hosted.errors import AccessDenied, NoEndpoint, RateLimited, Rejected, Transient, UnknownModel
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.openai_http import DirectTransport
from raft.protocols import Request
from transport_faults import EXPECTED

KEY = "my own key 0123456789"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Keep requests on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def request(text, **changes):
    """Return a request with a system turn and a user turn."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    return Request(turns, **{"max_tokens": 9, **changes})


def ask(url, *requests, key=KEY, timeout=20, together=True, name="openai/test-model"):
    """Return the reply or the error of each request, and the transport that sent them."""

    async def all_of_them():
        transport = DirectTransport(name, api_base=url, key=key, timeout=timeout, connections=8)
        try:
            if together:
                return await asyncio.gather(*map(transport.send, requests), return_exceptions=True), transport
            found = [await asyncio.gather(transport.send(one), return_exceptions=True) for one in requests]
            return [one for (one,) in found], transport
        finally:
            await transport.close()

    return asyncio.run(all_of_them())


def one(url, text="hello there", **options):
    """Return the reply or the error of one request."""
    ((found,), _) = ask(url, request(text), **options)
    return found


def test_a_chat_of_parts_is_answered_and_an_empty_one_refused():
    """The server on this machine takes what other tools send too: contents in parts, and a probe without any turn."""
    parts = ({"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]},)
    with FakeOpenAI() as server:
        ((reply, error), _) = ask(server.url, Request(parts, max_tokens=9), Request((), max_tokens=9))
    assert reply.text == "echo: hello there"
    assert isinstance(error, Rejected)


@asynccontextmanager
async def saying(raw):
    """Serve the same bytes to everybody; yield the address, and the requests that came."""
    came = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        came.append(head.decode())
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", came


def said(status, body, headers=""):
    """Return what a transport makes of one whole response, and how many requests the server got."""
    raw = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body.encode())}\r\n{headers}\r\n{body}".encode()

    async def asked():
        async with saying(raw) as (url, came):
            transport = DirectTransport("openai/m", api_base=url, key=KEY, timeout=5, connections=1)
            (found,) = await asyncio.gather(transport.send(request("x")), return_exceptions=True)
            await transport.close()
            return found, len(came)

    return asyncio.run(asked())


def test_a_reply_and_its_tokens_arrive():
    """A reply has its text, its tokens and no price; model, turns and key are sent as they are."""
    with FakeOpenAI() as server:
        reply = one(server.url, name="hosted_vllm/org/test-model")
    assert (reply.text, reply.finish_reason, reply.cost) == ("echo: hello there", "stop", None)
    assert (reply.input_tokens, reply.output_tokens) == (4, 3)
    assert reply.seconds > 0
    (body,) = server.seen
    assert body == {
        "model": "org/test-model",
        "messages": list(request("hello there").messages),
        "max_tokens": 9,
        "temperature": 0.0,
    }
    assert f"Authorization: Bearer {KEY}" in server.heads[0]


def test_an_endpoint_without_a_key_is_sent_none():
    """Where there is no key, no authorization is sent."""
    with FakeOpenAI() as server:
        assert one(server.url, key=None).text == "echo: hello there"
    assert "authorization" not in server.heads[0].lower()


def test_text_that_is_no_unicode_is_sent_all_the_same():
    """A lone surrogate in a passage is no traceback."""
    with FakeOpenAI() as server:
        assert one(server.url, "half a \ud83d sign, and a whole €").text == "echo: half a ? sign, and a whole €"


@pytest.mark.parametrize(
    ("name", "kind", "facts"),
    EXPECTED,
)
def test_each_fault_is_told_from_the_others(name, kind, facts):
    """What goes wrong is said in one of four ways, with the provider's words; nothing is sent twice."""
    with FakeOpenAI({"x": [name] * 5}) as server:
        error = one(server.url, "x")
    assert type(error) is kind
    assert {fact: getattr(error, fact) for fact in facts} == facts
    assert error.words in (ERRORS[name][2] if name in ERRORS else error.words)
    assert error.words
    assert len(server.seen) == 1


def test_a_reply_that_does_not_come_may_have_been_billed():
    """A call that times out counts as one that the provider may charge for."""
    with FakeOpenAI({"x": ["timeout"]}) as server:
        error = one(server.url, "x", timeout=0.2)
    assert isinstance(error, Transient)
    assert error.billed
    assert "0.2 seconds" in error.words


def test_an_endpoint_that_is_down_has_charged_nothing():
    """Where nothing listens, nothing was billed, and the address is named."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        error = one(url)
    assert isinstance(error, Transient)
    assert not error.billed
    assert url in error.words


@pytest.mark.parametrize(
    "url", ["nonsense", "localhost:8000/v1", "ftp://127.0.0.1/v1", "http://", "http://127.0.0.1:99999999/v1"]
)
def test_an_address_that_is_none_is_no_traceback(url):
    """An address that cannot be asked stops the run in words."""
    error = one(url, timeout=2)
    assert isinstance(error, AccessDenied | Transient)
    assert url in error.words


def test_a_reply_without_choices_is_an_empty_reply():
    """No choice gives an empty text with its tokens; a reply that was cut off by its limit says so."""
    with FakeOpenAI({"nothing": ["empty"], "long": ["length"]}) as server:
        (empty, cut), _ = ask(server.url, request("nothing"), request("a long story"))
    assert (empty.text, empty.finish_reason, empty.input_tokens) == ("", "empty", 3)
    assert cut.finish_reason == "length"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        [],
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": 0, "completion_tokens": 3},
        {"prompt_tokens": -5, "completion_tokens": 3},
        {"prompt_tokens": 5, "completion_tokens": -3},
        {"prompt_tokens": "5", "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": 5.5, "completion_tokens": 3},
    ],
)
def test_usage_that_cannot_be_believed_is_unknown(usage):
    """Counts that are missing, negative, no whole numbers, or zero for the input are unknown, not zero."""
    assert openai_http.read_usage(usage) == (-1, -1)
    assert openai_http.read_usage({"prompt_tokens": 5, "completion_tokens": 0}) == (5, 0)


def test_odd_usage_of_a_server_is_unknown():
    """Whatever numbers come with a reply, its text is kept."""
    texts = [f"number {number}" for number in range(12)]
    with FakeOpenAI({"number": ["usage"]}) as server:
        replies, _ = ask(server.url, *map(request, texts))
    assert [reply.text for reply in replies] == [f"echo: {text}" for text in texts]
    assert {(reply.input_tokens, reply.output_tokens) for reply in replies} == {(-1, -1)}


def test_a_schema_goes_along():
    """A schema is sent in full, as one that must be kept to."""
    with FakeOpenAI() as server:
        ask(server.url, request("x", schema=SCHEMA))
    asked = server.seen[0]["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}


def test_an_endpoint_without_schemas_is_asked_without():
    """An endpoint that refuses a schema gets the request without, at once and from then on."""
    with FakeOpenAI({"x": ["schema"]}) as server:
        replies, _ = ask(server.url, request("x", schema=SCHEMA), request("y", schema=SCHEMA), together=False)
    assert [reply.text for reply in replies] == ["echo: x", "echo: y"]
    assert ["response_format" in body for body in server.seen] == [True, False, False]


def test_a_refusal_of_something_else_is_not_asked_again():
    """A bad request with a schema is a refusal where the schema is not what is refused."""
    with FakeOpenAI({"x": ["400"]}) as server:
        (error,), _ = ask(server.url, request("x", schema=SCHEMA))
    assert isinstance(error, Rejected)
    assert len(server.seen) == 1


def test_the_other_name_of_the_token_limit_is_found():
    """A model that wants `max_completion_tokens` is given that."""
    with FakeOpenAI({"x": ["max_tokens"]}) as server:
        assert one(server.url, "x").text == "echo: x"
    assert [("max_tokens" in body, "max_completion_tokens" in body) for body in server.seen] == [
        (True, False),
        (False, True),
    ]


def test_limits_are_read_from_headers():
    """What the endpoint says of its limits is known after the first reply."""
    with FakeOpenAI(requests_per_minute=600) as server:
        _, transport = ask(server.url, request("x"))
        assert transport.limits == {"requests_per_minute": 600.0}
    assert openai_http.read_limits({"x-ratelimit-limit-tokens": "1e5", "x-ratelimit-limit-requests": "lots"}) == {
        "tokens_per_minute": 100000.0
    }
    assert openai_http.read_limits({"x-ratelimit-limit-requests": "-1", "x-ratelimit-limit-tokens": "inf"}) == {}


def test_a_limited_endpoint_says_how_long_to_wait():
    """A request too many is turned away with the time until the next may come."""
    with FakeOpenAI(requests_per_minute=60) as server:
        (first, second), _ = ask(server.url, request("x"), request("y"), together=False)
    assert isinstance(first, Reply)
    assert isinstance(second, RateLimited)
    assert 0 < second.retry_after <= 1


def test_waits_are_read_in_all_their_forms():
    """Seconds, milliseconds and dates are read; what is none of them is no wait."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < openai_http.retry_after({"retry-after": later}) <= 100
    assert openai_http.retry_after({"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}) == 0
    assert openai_http.retry_after({"retry-after": "2.5"}) == 2.5
    assert openai_http.retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    assert openai_http.retry_after({"retry-after": "-3"}) == 0
    for odd in ("soon", "nan", "inf", ""):
        assert openai_http.retry_after({"retry-after": odd}) is None


def test_a_redirect_is_not_followed():
    """Documents and key go to the address that was given and to no other."""
    error, came = said(307, "", "Location: /v1/chat/completions\r\n")
    assert isinstance(error, AccessDenied)
    assert came == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (502, "<html><title>Bad gateway</title></html>", Transient, "HTTP status 502"),
        (503, "no healthy upstream", Transient, "no healthy upstream"),
        (500, '{"error": "out of memory"}', Transient, "out of memory"),
        (
            400,
            '[{"error": {"message": "API key not valid. Please pass a valid one.", "code": 400}}]',
            AccessDenied,
            "API key",
        ),
        (400, '{"object": "error", "message": "it is longer than max_model_len"}', Rejected, "max_model_len"),
        (413, "", Rejected, "HTTP status 413"),
        (422, '{"detail": [{"msg": "field required"}]}', Rejected, "field required"),
        (403, '{"error": {"message": "flagged by moderation"}}', Rejected, "moderation"),
        (200, '{"error": {"message": "upstream is busy", "code": 429}}', RateLimited, "upstream is busy"),
        (200, '{"error": {"message": "it failed", "code": "upstream"}}', Transient, "it failed"),
        (200, '{"id": 1}', NoEndpoint, "no chat completion"),
        (200, "[1]", NoEndpoint, "no chat completion"),
        (200, '{"choices": null}', Transient, "no chat completion"),
        (404, '{"detail": "Not Found"}', NoEndpoint, "Not Found"),
        (200, "", Transient, "no JSON"),
        (200, "[" * 100_000, Transient, "no JSON"),
    ],
)
def test_errors_of_other_shapes_are_understood(status, body, kind, words):
    """Gateways and other servers word their errors in their own ways; each is understood and none is a traceback."""
    error, _ = said(status, body)
    assert type(error) is kind
    assert words in error.words


@pytest.mark.parametrize(("status", "billed"), [(408, True), (504, True), (524, True), (500, False), (409, False)])
def test_a_gateway_that_gave_up_may_have_been_billed(status, billed):
    """Where a gateway stopped waiting for a reply, the provider may charge for it; a server that failed does not."""
    error, _ = said(status, "gone")
    assert isinstance(error, Transient)
    assert error.billed is billed


def test_no_error_shows_the_key():
    """A provider that repeats the key in its words does not make us repeat it."""
    error, _ = said(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}))
    assert isinstance(error, AccessDenied)
    assert KEY not in str(error)
    assert "Incorrect API key" in error.words


def test_parts_of_a_message_are_joined():
    """Content in parts is one text; content that is missing is an empty one."""
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, {"type": "image"}]
    body = {"choices": [{"message": {"content": parts}, "finish_reason": None}], "usage": None}
    assert openai_http.read_reply(json.dumps(body).encode(), 1.0) == Reply("one two", "stop", -1, -1, None, 1.0)
    body["choices"][0]["message"] = {"content": None}
    assert openai_http.read_reply(json.dumps(body).encode(), 1.0).text == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "usage",
                    "error",
                    "code",
                    "prompt_tokens",
                    "finish_reason",
                    "detail",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([0, 200, 302, 400, 401, 404, 429, 500, 503]))
def test_no_body_ends_in_a_traceback(tree, status):
    """Whatever JSON comes back, it is a reply or one of the four faults."""
    data = json.dumps(tree).encode()
    for body in (data, b"data: " + data):
        try:
            assert isinstance(openai_http.read_reply(body, 0.0).text, str)
        except (RateLimited, Transient, Rejected, AccessDenied) as error:
            assert isinstance(error.words, str)
    words, code = openai_http.read_error(data, status)
    assert isinstance(openai_http.fault(status, words, code=code), RateLimited | Transient | Rejected | AccessDenied)


def test_connections_are_used_again():
    """Requests one after the other share a connection, and closing lets go of it."""
    with FakeOpenAI() as server:
        before = server.connections
        ask(server.url, *map(request, "abcdef"), together=False)
        assert server.connections - before == 1


def test_proxies_of_the_environment_are_used(monkeypatch):
    """A proxy is used where the environment names one, and not for addresses that it excepts."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert openai_http._proxy_for("http://far.example/v1") == "http://127.0.0.1:1"
    assert openai_http._proxy_for("http://127.0.0.1:8000/v1") is None
    assert openai_http._proxy_for("https://far.example/v1") is None


def endings(server, count):
    """Return how each of some requests ended at a server, in words."""
    found, _ = ask(server.url, *(request(f"number {number}") for number in range(count)), timeout=0.5)
    return [type(one).__name__ for one in found]


def test_the_servers_faults_depend_on_request_and_attempt_alone():
    """Two servers with the same shares fail the same requests, at each attempt, in about that share."""
    shares = {"429": 0.2, "cut": 0.2, "malformed": 0.1}
    with FakeOpenAI(shares=shares) as first, FakeOpenAI(shares=shares) as second:
        firsts = [endings(first, 100), endings(first, 100)]
        assert [endings(second, 100), endings(second, 100)] == firsts
    assert firsts[0] != firsts[1]
    assert 10 <= firsts[0].count("RateLimited") <= 30
    assert 20 <= firsts[0].count("Transient") <= 40


def test_the_server_counts_what_it_would_charge_for(tmp_path):
    """Each attempt is a line of the file: which request, which attempt, how it ended; whole replies are counted."""
    with FakeOpenAI({"x": ["cut", "", "429", "timeout"]}, counts=tmp_path / "counts") as server:
        ask(server.url, *[request("x")] * 6, together=False, timeout=0.5)
    lines = [line.split() for line in (tmp_path / "counts").read_text().splitlines()]
    assert [(attempt, ending) for _, _, attempt, ending in lines] == [
        ("0", "cut"),
        ("1", "answered"),
        ("2", "429"),
        ("3", "timeout"),
        ("4", "answered"),
        ("5", "answered"),
    ]
    assert len({digest for _, digest, _, _ in lines}) == 1
    assert list(server.answered.values()) == [3]


def test_the_server_says_what_it_does_not_know():
    """A fault without a meaning is an error and not a server without faults."""
    with pytest.raises(ValueError, match="430"):
        FakeOpenAI(shares={"430": 0.1})


def test_a_huge_reply_ends_as_an_empty_one():
    """A body of 30 MB is not read to its end, and counts as a reply of no use that may have been billed."""
    body = b'{"choices": [{"message": {"content": "' + b"x" * 30_000_000
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    async def go():
        async with saying(head.encode() + body) as (url, _):
            transport = DirectTransport("openai/m", api_base=url, key=None, timeout=20, connections=1)
            try:
                return await transport.send(request("hi"))
            finally:
                await transport.close()

    reply = asyncio.run(go())
    assert (reply.text, reply.finish_reason, reply.input_tokens) == ("", "too large", -1)


@pytest.mark.parametrize(
    ("given", "likely"),
    [
        ("http://127.0.0.1:8000", "=http://127.0.0.1:8000/v1 "),
        ("http://127.0.0.1:11434/api/chat", "=http://127.0.0.1:11434/v1 "),
        ("https://host.test/v1/models", "=https://host.test/v1 "),
        ("https://host.test/v1", "check the address"),
        ("novita/m", "=http://127.0.0.1:8000/v1 "),
        ("http://127.0.0.1:8000/v1/v1", "=http://127.0.0.1:8000/v1 "),
        ("https://host.test/v1/messages", "=https://host.test/v1 "),
    ],
)
def test_the_address_that_was_likely_meant_is_named(given, likely):
    """Where no chat endpoint is at an address, the hint is the setting to type."""
    assert likely in NoEndpoint("Not Found").stop("novita/m", given).hint


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached on requests per day. Please try again in 7m12s.", 432.0),
        ("Please retry in 1.5s.", 1.5),
        ("Try again in 20ms", 0.02),
        ("Slow down", None),
    ],
)
def test_a_wait_that_is_told_in_words_is_kept(words, seconds):
    """Endpoints that send no header say in their words how long to wait."""
    assert openai_http.retry_after({}, words) == seconds


@pytest.mark.parametrize(
    "message",
    [
        {"content": ['{"a": ', "1}"]},
        {"content": {"a": 1}},
        {"content": {"type": "text", "text": '{"a": 1}'}},
        {"content": [{"type": "text", "text": {"value": '{"a": 1}', "annotations": []}}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": '{"a": 1}'}]},
        {"content": None, "tool_calls": [{"function": {"name": "reply", "arguments": {"a": 1}}}]},
        {"content": None, "reasoning_content": '{"a": 1}'},
    ],
)
def test_a_reply_is_found_wherever_a_server_puts_it(message):
    """Parts as texts or objects, JSON that was read already, and a reply that was taken for thoughts are not lost."""
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert openai_http.read_reply(json.dumps(body).encode(), 1.0).text == '{"a": 1}'


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": "[1] says 5, but [2] says 6, so I should"},
        {"content": None, "reasoning": "```\nhm"},
        {"content": None, "reasoning": {"effort": "low"}},
        {"content": json.loads("[" * 600 + "]" * 600)},
    ],
)
def test_thoughts_and_settings_are_no_reply(message):
    """Thoughts that only begin like JSON, what was set of them, and lists without an end are no reply."""
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    said = openai_http.read_reply(json.dumps(body).encode(), 1.0).text
    assert not said or said.startswith("<think>")


def test_a_stray_byte_or_line_end_costs_no_reply():
    """A body in an old encoding, or with a bare line end in a text, is a reply all the same."""
    body = '{"choices": [{"message": {"content": "Geb\u00fchr\n45"}, "finish_reason": "stop"}]}'
    assert openai_http.read_reply(body.encode("latin-1"), 1.0).text == "Geb\ufffdhr\n45"


def test_errors_in_a_list_are_told():
    """What an endpoint says of several errors is its first."""
    assert openai_http.read_error(b'{"errors": [{"message": "no such thing"}]}', 400)[0] == "no such thing"


@pytest.mark.parametrize(
    ("fault", "likely"),
    [
        (NoEndpoint("moved", there="https://host.test/v2/chat/completions"), "=https://host.test/v2 "),
        (NoEndpoint("moved", there="https://host.test/login"), "check the address"),
        (NoEndpoint("Client sent an HTTP request to an HTTPS server."), "=https://host.test/v1 "),
        (NoEndpoint("no safe connection: certificate verify failed: self-signed certificate"), "SSL_CERT_FILE="),
        (UnknownModel("Model Not Exist"), "http://host.test/v1/models "),
    ],
)
def test_what_to_type_goes_by_what_was_said(fault, likely):
    """A redirect, the wrong scheme, a certificate and an unknown model each name the next command."""
    assert likely in fault.stop("openai/m", "http://host.test/v1").hint


def test_https_where_there_is_none_is_told():
    """At a server without a certificate http is what to type."""
    words = "no safe connection to https://host.test/v1: [SSL: WRONG_VERSION_NUMBER] wrong version number"
    assert "=http://host.test/v1 " in NoEndpoint(words).stop("openai/m", "https://host.test/v1").hint


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("STOP", "stop"),
        (None, "stop"),
    ],
)
def test_an_ending_in_other_words_is_known(said, finish):
    """Servers of other makers say in their own words that a reply was cut off or withheld."""
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": said}]}
    assert openai_http.read_reply(json.dumps(body).encode(), 1.0).finish_reason == finish


def pieces(*deltas, finish="stop", end="data: [DONE]\n\n"):
    """Return an event stream of pieces of a completion."""
    told = [{"choices": [{"delta": delta}]} for delta in deltas] + [
        {"choices": [{"delta": {}, "finish_reason": finish}]}
    ]
    return "".join(f"data: {json.dumps(one)}\n\n" for one in told) + end


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (": waiting\n\n" + pieces({"content": "one "}, {"content": "two"}), "one two"),
        (pieces({"content": "one "}, {"content": "two"}).replace("data: ", "data: data: "), "one two"),
        (pieces({"content": "one "}, {"content": "two"}, end=""), "one two"),
        (pieces({"content": "one "}, {"content": "two"}, finish=None), "one two"),
        (pieces({"reasoning_content": "hm"}, {"reasoning_content": "."}), "<think>hm."),
        ('data: {"choices": [{"message": {"content": "one two"}, "finish_reason": "stop"}]}', "one two"),
    ],
)
def test_a_stream_is_the_reply_that_its_pieces_make(stream, text):
    """Whatever stands between them or twice before them, the pieces of a stream are one reply."""
    assert openai_http.read_reply(stream.encode(), 1.0).text == text


def test_a_stream_that_breaks_off_is_no_reply():
    """Half a stream may have been billed, and is asked for again; a failure in it is that failure."""
    with pytest.raises(Transient, match="broke off"):
        openai_http.read_reply(pieces({"content": "one"}, finish=None, end="").encode(), 1.0)
    with pytest.raises(RateLimited):
        openai_http.read_reply(b'data: {"error": {"message": "slow down", "code": 429}}\n\n', 1.0)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Model produced invalid sequence as part of ToolUse.", Rejected),
        ("Failed to generate JSON: the model generated invalid JSON", Rejected),
        ("Model output is invalid", Rejected),
        ("The model `m` is invalid", UnknownModel),
        ("Model Not Exist", UnknownModel),
    ],
)
def test_what_a_model_wrote_is_not_its_name(words, kind):
    """A reply that could not be made costs itself alone; only a name that nobody knows stops a build."""
    assert type(openai_http.fault(400, words)) is kind


def test_a_setting_that_a_model_is_not_asked_with_may_be_left_out():
    """What is said of a model and names a part of the request is taken for that part first."""
    words = "response_format json_schema on model m is not supported by this endpoint"
    found = openai_http.fault(400, words)
    request = Request(messages=({"role": "user", "content": "x"},), max_tokens=64, schema={"type": "object"})
    plain = openai_http.is_plain(found)
    assert Manners("openai/m").objection(400, words, request, frozenset(), plain=plain) == {"response_format"}


def test_a_failure_that_may_pass_is_asked_again():
    """Who asks to wait has no balance that is used up, a timeout is not a request's length, a broken model not busy."""
    assert isinstance(openai_http.fault(429, "insufficient credits", retry_after=20.0), RateLimited)
    assert isinstance(openai_http.fault(429, "insufficient credits"), AccessDenied)
    assert isinstance(openai_http.fault(408, "input too large"), Transient)
    assert isinstance(openai_http.fault(503, "Error loading model: out of memory"), Transient)


@pytest.mark.parametrize("location", ["http://[bad", "http://[bad/v1/chat/completions", "//[::", ""])
def test_a_redirect_to_no_address_is_no_traceback(location):
    """Whatever stands where a redirect leads, it is told, with something to type."""

    class Sent(DirectTransport):
        async def _post(self, body):
            return 302, {"Location": location}, b""

    sender = Sent("openai/m", api_base="http://host.test/v1", key=None, timeout=1.0, connections=1)
    with pytest.raises(NoEndpoint) as caught:
        asyncio.run(sender.send(Request(messages=({"role": "user", "content": "x"},), max_tokens=64)))
    assert "http://host.test/v1" in caught.value.stop("openai/m", "http://host.test/v1").hint
