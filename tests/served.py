"""A server of answers in a thread, for tests and benchmarks, with a source that answers by rule."""

import http.client
import json
import threading
from contextlib import closing
from dataclasses import replace
from threading import Event
from urllib.parse import urlsplit

from raft.api.http import HOME, config, listen
from raft.rag.answering import read_reply
from raft.rag.grounding import Passage
from raft.serving.engine import Engine, Sources
from raft.serving.feedback import Recorder
from raft.serving.metrics import Metrics
from raft.serving.server import Application, Server, ServerConnection
from raft.settings import Settings

PASSAGE = Passage(
    "c1", "d1", "refunds/home page.pdf", "Refunds", 3, 40, "A parcel may be returned within 30 days of delivery.", 0.9
)
REPLY = 'Answer: 30 days\nQuote [1]: "may be returned within 30 days"'


class Source:
    """Answers at once, or when it is let; it remembers what it was asked.

    Attributes:
        asked: what was asked, a list a call.
        searched: what was searched for.
        reply: returns the text of a reply to a question, or raises.
        gate: what each call waits for.
        pause: what a stream waits for in the middle.
        inside: set when a call has begun.
        left: set when a reply was not listened to until its end.
        closed: set when nobody answers from it any more.
    """

    batch, longest, system, adapter_digest, aside = 4, 192, "raft", "f" * 64, False

    def __init__(self, index="a" * 64, version="0123abcd"):
        self.index, self.answerer, self.version = index, self, version
        self.model = "tiny"
        self.asked, self.searched, self.reply = [], [], lambda question: REPLY
        self.gate, self.inside, self.left, self.closed = Event(), Event(), Event(), Event()
        self.pause = Event()
        self.gate.set()
        self.pause.set()

    def warm(self):
        """There is nothing to load."""

    def close(self):
        """Nobody asks any more."""
        self.closed.set()

    def _enter(self, questions, searched):
        self.asked.append(list(questions))
        self.searched += searched
        self.inside.set()
        assert self.gate.wait(30)

    def _answer(self, question):
        answer = read_reply(question, self.reply(question), [PASSAGE], model="tiny", adapter="0123abcd")
        seconds = {"retrieval": 0.001, "generation": 0.002}
        return replace(answer, tokens={"input": 50, "output": 9}, seconds=seconds, cost=0.0)

    def ask_all(self, questions, *, searched):
        """Answer several questions."""
        self._enter(questions, searched)
        return [self._answer(question) for question in questions]

    def ask(self, question, *, searched, on_event):
        """Answer one question, and tell its reply word by word."""
        self._enter([question], [searched])
        answer = self._answer(question)
        try:
            for place in range(0, len(answer.raw), 3):
                assert place < len(answer.raw) // 3 or self.pause.wait(30)
                on_event(answer.raw[place : place + 3])
        except BaseException:
            self.left.set()
            raise
        return answer


class Served:
    """A server in a thread, a context manager; `ask` and `chat` ask it.

    Args:
        source: what answers first, or several `Sources`.
        name: the run's.
        keys: names by digests of keys; None: nobody needs one.
        run: the folder that traffic is kept in; None: nothing is kept.
        settings: of the run.
        parts: others of the application (`router`, `follow_ups`, `spans`).
    """

    def __init__(self, source, name="handbook", keys=None, *, run=None, settings=None, **parts):
        self.events = []
        sources = source if isinstance(source, Sources) else Sources(source)
        self.engine = Engine(sources, lambda event, facts: self.events.append((event, facts)))
        self.count = Metrics()

        def told(event, facts):
            self.events.append((event, facts))

        self.recorder = Recorder(run, settings or Settings(), told) if run is not None else None
        app = Application(self.engine, name, keys, self.count, told, recorder=self.recorder, **parts)
        self._socket = listen(HOME, 0)
        self.port = self._socket.getsockname()[1]
        self.address = f"http://{HOME}:{self.port}"
        self._server = Server(config(app, ServerConnection))
        self._thread = threading.Thread(target=lambda: self._server.run(sockets=[self._socket]), daemon=True)

    def __enter__(self):
        self.engine.start()
        self._thread.start()
        assert self.engine.ready.wait(600)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(30)
        self.engine.end(30)
        if self.recorder:
            self.recorder.close()
        self._socket.close()
        assert not self._thread.is_alive()

    def ask(self, path, sent=None, *, body=None, method=None, headers=None):
        """Return status, headers and text of the answer to a request."""
        return ask(self.address, path, sent, body=body, method=method, headers=headers)

    def chat(self, question, **more):
        """Return the whole reply to a question; `more` is of the request."""
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        status, _, text = self.ask("/v1/chat/completions", {"model": "raft", "messages": messages, **more})
        assert status == 200, text
        return pieces(text) if more.get("stream") else json.loads(text)


class Callers:
    """Threads that call a function with their numbers, a context manager; all have ended when it ends.

    Args:
        count: how many.
        call: what each calls, with its number; whoever raises makes no more calls.
        again: call it again and again until the end, rather than once.

    Attributes:
        problems: what was raised. At the end there is none.
    """

    def __init__(self, count, call, *, again=False):
        self.problems, self._over = [], Event()

        def run(number):
            try:
                call(number)
                while again and not self._over.is_set():
                    call(number)
            except BaseException as error:
                self.problems.append(error)

        self._threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(120)
        if kind is None:
            assert self.problems == []
            assert not any(thread.is_alive() for thread in self._threads), "somebody is still calling"


def ask(address, path, sent=None, *, body=None, method=None, headers=None):
    """Return status, headers and text of the answer to a request."""
    place = urlsplit(address)
    with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=120)) as line:
        body = json.dumps(sent) if sent is not None else body
        usual = {"content-type": "application/json"} if body is not None else {}
        line.request(method or ("GET" if body is None else "POST"), path, body, {**usual, **(headers or {})})
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def pieces(text):
    """Return the events of a stream, which ends as it should."""
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], text
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def said(events):
    """Return the text of a stream's pieces."""
    choices = [choice for event in events for choice in event.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def until(holds, process=None):
    """Wait until something holds that another process brings about; not for ever."""
    for _ in range(30_000):
        if holds():
            return
        assert process is None or process.poll() is None, "the process has ended"
        Event().wait(0.01)
    raise AssertionError("it never came to be")
