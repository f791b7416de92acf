"""Whatever habits an endpoint has, good items are kept, what is lost says why, and no more is asked than it takes."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from habits import HABITS, ITEMS, STATED
from tenacity import wait_none

from raft.backends.hosted import calls
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.errors import RaftError
from raft.generation import generate, plan
from raft.store.budget import Budget
from raft.store.ledger import Ledger
from raft.testing import make_chunks

CHUNKS = make_chunks({place: [" ".join(stated)] for place, stated in STATED.items()})
KINDS = ("fact", "number", "date", "name")
KEY = "sk-dummy-0123456789abcdef"


class Handler(BaseHTTPRequestHandler):
    """Answers each request as the server's habit does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        """Answer with the items whose quotes stand in what was asked."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number, self.server.requests = self.server.requests, self.server.requests + 1
        asked = " ".join(str(turn["content"]) for turn in body["messages"])
        status, answer, headers = self.server.does(body, [one for one in ITEMS if one["quote"] in asked], number)
        raw = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture(scope="module")
def server():
    """A server on this machine whose habit each test sets."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.lock = True, threading.Lock()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


ROADS = [(habit, road) for habit in HABITS for road in ("hosted_vllm", "novita")[: 1 if habit.directly else 2]]


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
@pytest.mark.parametrize(("habit", "road"), ROADS, ids=[f"{habit.name}-{road}" for habit, road in ROADS])
def test_no_habit_of_an_endpoint_costs_more_than_it_must(habit, road, server, tmp_path, monkeypatch):
    """Directly and through litellm: so many of six items are kept, or the words say why, in so many requests."""
    monkeypatch.setattr(calls, "_WAITS", wait_none())
    monkeypatch.setenv(f"{road.upper()}_API_KEY", KEY)
    server.does, server.requests = habit.does, 0
    name, address = f"{road}/m", f"http://127.0.0.1:{server.server_address[1]}/v1"
    model = HostedModel(name, api_base=address, concurrency=4, timeout=10.0)
    failures, rows, said = [], [], ""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    generator = FlowingGenerator(
        model, ledger, Budget(ledger, run="r", model=name, price=None, cap=None), attempts=2, max_failures=0.5
    )
    try:
        for frame in generate.ask(
            iter([CHUNKS]),
            plan.survey([CHUNKS], (), frozenset()),
            generator,
            generate.read_prompts(None),
            strategy="items",
            kinds=KINDS,
            per_chunk=3.0,
            limit=None,
            model=name,
            failures=failures,
        ):
            rows += frame.to_dicts()
    except RaftError as error:
        assert error.hint
        said = f"{error} {error.hint}"
    finally:
        ledger.close()
    said += "".join(f"\n{one['kind']}: {one['message']}" for one in failures)
    answers = {one["quote"]: one for one in ITEMS}
    good = [row for row in rows if " ".join(row["quotes"][0]["text"].split()) in answers]
    assert (len(good), server.requests <= habit.most) == (habit.kept, True), f"{server.requests} requests; {said}"
    assert all(re.search(words, said, re.IGNORECASE) for words in habit.says), said
    assert KEY not in said
