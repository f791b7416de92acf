"""Asking a server as its users do: patient with one that is busy, and wary of one that is none of raft's."""

import json
import socket
import threading
from contextlib import closing, contextmanager, suppress

import pytest

from raft.backends.hosted import endpoint as hosted
from raft.backends.hosted.endpoint import Endpoint
from raft.errors import NotMeasured, UsageError
from stand_in import standing_in

MEND = {"run": "raft serve RUN", "key": "--key-file FILE"}
MODELS = json.dumps({"data": [{"id": "run", "raft": {"version": "0"}}]})
GOOD = json.dumps({"choices": [{"message": {"content": "30 days"}}], "raft": {"index": "i"}})


@contextmanager
def server(*answers):
    """Answer one request after the other with these (status, headers, text), the last one for ever; yield what came."""
    left, came = list(answers), []

    def answer(_, path, headers, body):
        came.append((path, dict(headers), body))
        status, more, text = left.pop(0) if len(left) > 1 else left[0]
        return status, text, more

    with standing_in(answer) as address:
        yield address, came


def endpoint(url, key=None, waited=None):
    """Return an endpoint that waits in no time."""
    return Endpoint(url, key, mend=MEND, wait=(waited if waited is not None else []).append)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/raft/v1"])
def test_an_address_is_that_of_the_server_or_of_its_v1(path):
    """The models are asked for below /v1, whether that was typed or not."""
    with server((200, {}, MODELS)) as (url, came):
        assert endpoint(url + path).models()[0]["raft"] == {"version": "0"}
    assert came[0][0] == ("/raft/v1/models" if "raft" in path else "/v1/models")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "<html>hello</html>"),
        (200, "[]"),
        (200, '{"data": 7}'),
        (200, '{"data": [{"id": "x"}]}'),
        (200, "{}"),
        (200, '{"data": [7]}'),
        (200, "[" * 100_000),
        (404, "not here"),
        (500, "<h1>Oops</h1>"),
        (302, ""),
        (200, ""),
    ],
)
def test_what_is_no_server_of_rafts_is_said_to_be_none(status, text):
    """Pages, other programs and other APIs are told from a server of raft's, in one sentence with a command."""
    with server((status, {"Location": "http://127.0.0.1:1/"}, text)) as (url, _), pytest.raises(NotMeasured) as raised:
        endpoint(url).models()
    assert "no server of raft's" in str(raised.value) and "raft serve RUN" in str(raised.value)
    assert raised.value.exit_code == 12


def test_a_key_goes_to_the_address_alone():
    """A server that sends a request elsewhere does not have the key sent there."""
    with server((200, {}, MODELS)) as (other, elsewhere):
        with server((307, {"Location": f"{other}/v1/models"}, "")) as (url, came), pytest.raises(NotMeasured):
            endpoint(url, "raft-key").models()
        assert came[0][1]["Authorization"] == "Bearer raft-key"
        assert elsewhere == []


@pytest.mark.parametrize(
    ("name", "value"), [("version", {"a": 1}), ("index", ["x"]), ("model", 7.5), ("model", "m" * 5000)]
)
def test_what_answers_is_named_by_texts(name, value):
    """A server that names what answers by anything else is none of raft's: what it says would be kept for good."""
    listed = {"data": [{"id": "run", "raft": {"version": "0", name: value}}]}
    with server((200, {}, json.dumps(listed))) as (url, _), pytest.raises(NotMeasured, match="no server of raft's"):
        endpoint(url).models()


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_known_ends_it(status):
    """Without a right key nothing more is asked, and the way to give one is told."""
    refusal = json.dumps({"error": {"message": "a key is needed"}})
    with server((status, {}, refusal)) as (url, came), pytest.raises(NotMeasured, match="key-file"):
        [*endpoint(url, "wrong-key-123").ask_all("run", ["a?", "b?"])]
    assert len(came) <= 2


@pytest.mark.parametrize(
    ("after", "waits"), [("7", 7.0), ("86400", 30.0), ("soon", 1.0), ("\u00b2", 1.0), ("-3", 1.0), ("0", 1.0)]
)
def test_a_busy_server_is_asked_again_but_not_waited_for_without_end(after, waits):
    """As long as a server asks for, but half a minute at most; what is no number is passed over."""
    waited = []
    with server((503, {"Retry-After": after}, "{}"), (200, {}, GOOD)) as (url, _):
        ((_, reply),) = endpoint(url, waited=waited).ask_all("run", ["How long?"])
    assert reply["answer"] == "30 days" and waited == [waits]


def test_a_question_that_fails_each_time_is_given_up():
    """After four tries a question is lost, with the reason; others are still asked."""
    waited = []
    with server((502, {}, '{"error": {"message": "the model did not answer"}}')) as (url, came):
        ((_, reply),) = endpoint(url, waited=waited).ask_all("run", ["How long?"])
    assert reply == "it answers 502: the model did not answer"
    assert (len(came), waited) == (4, [1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {"content": "x"}}]}',
        "[1]",
        "no",
        '{"choices": [{"message": {"content": ["x"]}}], "raft": {}}',
        '{"choices": [{"message": {"content": null}}], "raft": {}}',
        '{"choices": [{"message": {"content": "x"}}], "raft": [["a", 1]]}',
    ],
)
def test_a_reply_of_another_form_is_no_reply(text):
    """What lacks the answer or the object `raft` counts as lost, or as no server of raft's; never as an answer."""
    with server((200, {}, text)) as (url, _):
        try:
            ((_, reply),) = endpoint(url).ask_all("run", ["How long?"])
        except NotMeasured as error:
            reply = str(error)
    assert isinstance(reply, str)


def test_a_wrong_request_is_not_repeated():
    """What the server refuses for good is asked once."""
    with server((400, {}, '{"error": {"message": "too long"}}')) as (url, came):
        ((_, reply),) = endpoint(url).ask_all("run", ["x" * 10])
    assert "too long" in reply and len(came) == 1


def test_replies_come_with_the_number_of_their_question():
    """Several questions are under way at once, and each reply is that of its question."""
    with server((200, {}, GOOD)) as (url, came):
        found = [*endpoint(url).ask_all("run", [f"{n}?" for n in range(10)])]
    assert sorted(place for place, _ in found) == [*range(10)]
    assert sorted(body["messages"][0]["content"] for _, _, body in came) == [f"{n}?" for n in range(10)]


@pytest.mark.parametrize("url", ["localhost:18802", "localhost:18802/v1/", "//me:geheim1@h/v1"])
def test_an_address_without_a_scheme_is_told_with_it(url):
    """Where only the scheme is missing the hint is that address; of any other an example, and no password."""
    with pytest.raises(UsageError) as raised:
        endpoint(url)
    place = "localhost:18802" if "localhost" in url else "127.0.0.1:8080"
    assert raised.value.hint.startswith(f"--url http://{place}/v1   ("), raised.value.hint


def test_a_key_that_goes_over_a_network_in_the_clear_is_told_once(caplog):
    """A key for http to another machine is warned of on one line, without the key; https and this machine are not."""
    for url in ("https://far.example", "http://127.0.0.1:8080", "http://localhost/v1", "http://[::1]:1/v1"):
        endpoint(url, "raft-key")
    endpoint("http://keyless.example", None)
    assert caplog.messages == []
    for _ in range(2):
        endpoint("http://far.example:8080/v1", "raft-key")
    (said,) = caplog.messages
    assert "http://far.example:8080/v1 unencrypted" in said and "raft-key" not in said and "\n" not in said


@pytest.mark.parametrize(
    "url", ["http://ada:secret@127.0.0.1/v1", "http://127.0.0.1:99999/v1", "http://h/v1?key=secret"]
)
def test_an_address_with_more_in_it_is_refused(url):
    """A password or a key in the address is refused, and not repeated."""
    with pytest.raises(UsageError) as raised:
        endpoint(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("head", ["", "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"])
def test_who_drips_without_end_is_not_waited_for(monkeypatch, head):
    """A server that sends a byte now and then, in its head or its body, is hung up on when the time is over."""
    monkeypatch.setattr(hosted, "_SECONDS", 0.3)
    over = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def drip():
            line, _ = listening.accept()
            with line, suppress(OSError):
                line.sendall(head.encode() or b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.02):
                    line.sendall(b" ")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(NotMeasured):
            endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}").models()
        over.set()
        thread.join(30)


def test_half_a_pair_of_surrogates_does_not_come_through():
    """What is read can be written: half a character in an answer is left out."""
    text = GOOD.replace("30 days", "30 \\ud800days")
    with server((200, {}, text)) as (url, _):
        ((_, reply),) = endpoint(url).ask_all("run", ["How long?"])
    assert reply["answer"] == "30 days"
