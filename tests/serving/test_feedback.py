"""Feedback over HTTP: kept with the reply it is about, refused where it is none, and off with one setting."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from raft.api import http as served_http
from raft.errors import RaftError
from raft.serving.feedback import LARGEST, LONGEST
from raft.serving.keys import new_key, read
from raft.settings.sections import Privacy, Serving, Settings
from raft.store import traffic
from served import Served, Source, ask

PATH, QUESTION = "/v1/feedback", "How long may a parcel be returned?"


@pytest.fixture
def served(tmp_path):
    """A server that keeps what it is asked."""
    with Served(Source(), run=tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server that several tests ask."""
    with Served(Source(), run=tmp_path_factory.mktemp("shared")) as made:
        yield made


def error_of(text):
    """Return the error in a body, which has OpenAI's form."""
    found = json.loads(text)
    assert list(found) == ["error"]
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in text
    return found["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_feedback_is_kept_with_its_reply(served, tmp_path, stream):
    """Whoever was answered, whole or streamed, rates the reply by its id; both are on disk as they were."""
    reply = served.chat(QUESTION, stream=stream)
    name = (reply[-1] if stream else reply)["id"]
    said = {"reply_id": name, "rating": "down", "correction": " 60 days ", "comment": "since May"}
    status, _, text = served.ask(PATH, said)
    assert (status, json.loads(text)) == (
        200,
        {"object": "feedback", "id": 1, **said, "correction": "60 days"},
    )
    (row,) = traffic.replies(tmp_path).to_dicts()
    assert (row["reply_id"], row["question"], row["answer"], row["streamed"]) == (name, QUESTION, "30 days", stream)
    assert (row["outcome"], row["supported"], row["input_tokens"], row["index"]) == ("answered", True, 50, "a" * 64)
    assert row["citations"][0]["quote"] == "may be returned within 30 days"
    assert row["seconds"] >= row["waited"] >= 0
    (kept,) = traffic.feedback(tmp_path).to_dicts()
    assert (kept["reply_id"], kept["rating"], kept["correction"], kept["comment"]) == (
        name,
        "down",
        "60 days",
        "since May",
    )


def test_a_later_feedback_of_a_caller_counts(tmp_path):
    """Whoever was answered has one feedback on a reply that counts, the last; to others' keys it is unknown."""
    keys = {name: new_key(tmp_path / "keys.txt", name) for name in ("ada", "bob")}
    with Served(Source(), keys=read(tmp_path / "keys.txt"), run=tmp_path) as served:
        heads = {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}
        messages = [{"role": "user", "content": QUESTION}]
        sent = {"model": "raft", "messages": messages}
        name = json.loads(served.ask("/v1/chat/completions", sent, headers=heads["ada"])[2])["id"]
        for who, rating in [("ada", "up"), ("bob", "up"), ("ada", "down"), ("bob", "up")]:
            status, _, text = served.ask(PATH, {"reply_id": name, "rating": rating}, headers=heads[who])
            assert status == (200 if who == "ada" else 404)
            assert status == 200 or error_of(text)["code"] == "unknown_reply"
        status, _, text = served.ask(PATH, {"reply_id": name, "rating": "up"})
        assert (status, error_of(text)["type"]) == (401, "authentication_error")
    assert traffic.replies(tmp_path)["caller"].to_list() == ["ada"]
    counted = {row["caller"]: row["rating"] for row in traffic.feedback(tmp_path).to_dicts()}
    assert counted == {"ada": "down"}
    assert traffic.feedback(tmp_path, history=True).height == 2
    with Served(Source(), run=tmp_path) as served:
        assert served.ask(PATH, {"reply_id": name, "rating": "up"})[0] == 200, "where no keys are needed, anybody"


def test_what_fails_is_kept_and_probes_are_not(served, tmp_path):
    """A question that the server could not answer is traffic; one of who watches the server, or no request, is none."""
    served.chat(QUESTION, raft={"probe": True})
    served.ask("/v1/chat/completions", body="{")

    def fails(question):
        raise RaftError("It is gone.", hint="x")

    served.engine.sources.production.reply = fails
    messages = [{"role": "user", "content": QUESTION}]
    assert served.ask("/v1/chat/completions", {"model": "raft", "messages": messages})[0] == 502
    served.recorder.close()
    (row,) = traffic.replies(tmp_path).to_dicts()
    assert (row["outcome"], row["question"], row["answer"], row["supported"]) == ("failed", QUESTION, "", None)


@pytest.mark.parametrize("run", [True, False])
def test_without_traffic_nothing_is_written(tmp_path, run):
    """With serving.traffic off no file is made, and feedback is refused with the setting's name; answers come."""
    settings = Settings(serving=Serving(traffic=False))
    with Served(Source(), run=tmp_path if run else None, settings=settings) as served:
        name = served.chat(QUESTION)["id"]
        status, _, text = served.ask(PATH, {"reply_id": name, "rating": "up"})
        error = error_of(text)
        assert (status, error["code"]) == (403, "feedback_is_off")
        assert "serving.traffic" in error["message"]
        assert '<body class="quiet">' in served.ask("/")[2]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("found", "kept"), [("redact", "[EMAIL]"), ("refuse", "[EMAIL]"), ("warn", "a@b.com")])
def test_privacy_of_the_run_holds_for_traffic(tmp_path, found, kept):
    """Where the run redacts or refuses personal data it is replaced in questions and feedback before it is written."""
    with Served(Source(), run=tmp_path, settings=Settings(privacy=Privacy(found=found))) as served:
        name = served.chat("Was it a@b.com?")["id"]
        served.ask(PATH, {"reply_id": name, "correction": "Ask a@b.com", "comment": "of a@b.com"})
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert (b"a@b.com" in on_disk) == (found == "warn")
    assert traffic.replies(tmp_path)["question"].to_list() == [f"Was it {kept}?"]
    assert traffic.feedback(tmp_path)["correction"].to_list() == [f"Ask {kept}"]


def test_a_build_changes_what_is_kept(served, tmp_path):
    """A server follows the settings of a build that finished meanwhile: off, nothing is written; on again, it is."""
    served.chat(QUESTION)
    served.recorder.follow(Settings(serving=Serving(traffic=False)))
    name = served.chat(QUESTION)["id"]
    assert served.ask(PATH, {"reply_id": name, "rating": "up"})[0] == 403
    served.recorder.follow(Settings())
    name = served.chat(QUESTION)["id"]
    assert served.ask(PATH, {"reply_id": name, "rating": "up"})[0] == 200
    assert traffic.replies(tmp_path).height == 2


def given(**said):
    """Return the body of a request."""
    return json.dumps({"reply_id": "chatcmpl-0", "rating": "up", **said})


HOSTILE = {
    "nothing": ("", 400, None),
    "half": ('{"reply_id": "x", "rating": ', 400, None),
    "deep": ("[" * 100_000, 400, None),
    "a list": ("[]", 400, None),
    "no text": (b"\xff\xfe\x00", 400, None),
    "no reply": ('{"rating": "up"}', 400, "reply_id"),
    "an empty id": (given(reply_id=""), 400, "reply_id"),
    "a number as id": (given(reply_id=7), 400, "reply_id"),
    "a huge id": (given(reply_id="x" * 10_000), 400, "reply_id"),
    "a list as id": (given(reply_id=["x"]), 400, "reply_id"),
    "an unknown id": (given(), 404, "reply_id"),
    "SQL": (given(reply_id="' OR 1=1; DROP TABLE replies; --"), 404, "reply_id"),
    "NUL": (given(reply_id="\0"), 404, "reply_id"),
    "half an emoji": (given(reply_id="\ud83d"), 400, None),
    "another rating": (given(rating="sideways"), 400, "rating"),
    "a number as rating": (given(rating=1), 400, "rating"),
    "true as rating": (given(rating=True), 400, "rating"),
    "an object as rating": (given(rating={"up": 1}), 400, "rating"),
    "nothing said": (given(rating=None, correction=" \n", comment=""), 400, "rating"),
    "a list as correction": (given(correction=["60 days"]), 400, "correction"),
    "a long correction": (given(correction="x" * (LONGEST + 1)), 400, "correction"),
    "a long comment": (given(comment="x" * (LONGEST + 1)), 400, "comment"),
    "too much": (" " * (LARGEST + 1), 413, None),
    "another field": (given(raiting="up"), 400, "raiting"),
    "a huge field": (given(**{"x" * 10_000: 1}), 400, "x" * 100),
    "a huge number": ('{"reply_id": "x", "rating": ' + "9" * 10_000 + "}", 400, None),
}


@pytest.mark.parametrize(("body", "status", "param"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_feedback_is_refused(shared, body, status, param):
    """Whatever is no feedback on a reply of this server has an error in OpenAI's form, and nothing of it is kept."""
    got, _, text = shared.ask(PATH, body=body, method="POST", headers={"content-type": "application/json"})
    assert got == status
    assert error_of(text)["param"] == param or param is None
    assert traffic.feedback(shared.recorder._run).is_empty()
    assert [event for event, _ in shared.events if event == "stumbled"] == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "DELETE"}, 405),
        ({"body": given(), "headers": {"content-type": "text/plain"}}, 415),
        ({"body": given(), "headers": {"host": "evil.example"}}, 421),
        ({"body": given(), "headers": {"origin": "https://evil.example"}}, 403),
        ({"body": given(), "headers": {"origin": "null"}}, 403),
    ],
)
def test_the_rules_of_other_requests_hold(shared, options, status):
    """Methods, types, hosts and origins are checked as those of questions are."""
    got, _, text = shared.ask(PATH, **options)
    assert got == status
    error_of(text)


def test_odd_texts_are_kept_as_text(served, tmp_path):
    """Markup, control characters and what is no character are kept as text that can be read again."""
    name = served.chat(QUESTION)["id"]
    odd = ["<script>alert(1)</script>", "\0\x1b[2J", "\u202e" + "\u0301" * 500, "x" * LONGEST]
    for text in [*odd, "half \ud83d"]:
        assert served.ask(PATH, {"reply_id": name, "correction": text})[0] == 200
    assert traffic.feedback(tmp_path, history=True)["correction"].to_list() == [*odd, "half"]


def test_a_slow_body_is_refused(served, monkeypatch):
    """Who does not send in time what was announced is told so, and closed; others give feedback."""
    name = served.chat(QUESTION)["id"]
    with monkeypatch.context() as patch, closing(socket.create_connection(("127.0.0.1", served.port), 30)) as line:
        patch.setattr(served_http, "PATIENCE", 0.05)
        head = b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        line.sendall(head + b"Content-Length: 99\r\n\r\n{")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 408")
    assert served.ask(PATH, {"reply_id": name, "rating": "up"})[0] == 200


def test_who_hangs_up_disturbs_nobody(served, tmp_path):
    """Feedback whose sender does not wait for the answer is kept, and others with it."""
    name = served.chat(QUESTION)["id"]
    body = json.dumps({"reply_id": name, "rating": "up"}).encode()
    head = (
        b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    for _ in range(5):
        with closing(socket.create_connection(("127.0.0.1", served.port), 30)) as line:
            line.sendall(head % len(body) + body)
    with ThreadPoolExecutor(8) as pool:
        sent = {"reply_id": name, "rating": "down"}
        assert {*pool.map(lambda _: served.ask(PATH, sent)[0], range(40))} == {200}
    assert traffic.feedback(tmp_path, history=True).filter(rating="down").height == 40
    assert [event for event, _ in served.events if event == "stumbled"] == []


def test_a_full_disk_is_told(served, monkeypatch):
    """Where feedback cannot be written who gave it is told so with 503, and not that it was kept."""
    name = served.chat(QUESTION)["id"]

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(traffic, "_insert", fails)
    status, headers, text = served.ask(PATH, {"reply_id": name, "rating": "up"})
    assert (status, error_of(text)["code"], headers["Retry-After"]) == (503, "not_kept", "2")


SERVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from served import Served, Source
for _ in sys.stdin:
    child = os.fork()
    if not child:
        with Served(Source(), run=Path(sys.argv[1])) as made:
            print(os.getpid(), made.address, flush=True)
            signal.pause()
    os.waitpid(child, 0)
"""


def test_a_killed_server_keeps_what_it_acknowledged(tmp_path):
    """Killed at fifty moments between requests and within them, a server has all feedback that it said it kept."""
    command = [sys.executable, "-c", SERVER, str(tmp_path), str(Path(__file__).parents[1])]
    acknowledged = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        for turn in range(50):
            process.stdin.write("again\n")
            process.stdin.flush()
            pid, address = process.stdout.readline().split()
            acknowledged += _until_killed(int(pid), address, turn)
            rows = traffic.feedback(tmp_path, history=True)
            assert {*acknowledged} <= {*rows["comment"]}
            assert {*rows["reply_id"]} <= {*traffic.replies(tmp_path)["reply_id"]}
        process.stdin.close()
    assert len(acknowledged) >= 100


def _until_killed(pid, address, turn):
    """Give feedback until the server is killed while some is given; return the comments that it acknowledged."""
    sent = {"model": "raft", "messages": [{"role": "user", "content": QUESTION}]}
    name, kept = json.loads(ask(address, "/v1/chat/completions", sent)[2])["id"], []
    with ThreadPoolExecutor(1) as pool:
        for number in range(turn % 5 + 1):
            comment = f"{turn}-{number}"
            told = pool.submit(ask, address, PATH, {"reply_id": name, "comment": comment})
            if number == turn % 5:
                for _ in range(turn * 397 % 20_000):  # somewhere in between, elsewhere each time
                    told.done()
                os.kill(pid, signal.SIGKILL)
            with suppress(OSError, HTTPException):  # it was killed before it answered
                kept += [comment] * (told.result()[0] == 200)
    return kept
