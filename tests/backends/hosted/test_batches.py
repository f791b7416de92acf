"""A hosted model asked in batches, through litellm, against a server on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fake_batches import FakeBatches
from raft import settings as config
from raft.api import models
from raft.backends.asking import AskingGenerator
from raft.backends.hosted import batch_api, batches
from raft.backends.hosted.batches import BatchModel
from raft.errors import RaftError, UsageError
from raft.protocols import Completion, Failure, Request
from raft.store import run as store
from raft.store.batches import BatchBook, Bill
from raft.store.budget import Budget, CapReached, Price, worst_case
from raft.store.ledger import Ledger, request_key

KEY = "sk-dummy-0123456789abcdef"
NAME, RUN = "openai/test-model", "the run"
PRICE = Price(2.0, 4.0)
HALF = Price(1.0, 2.0)

slow = pytest.mark.slow


class Killed(BaseException):
    """Stands for `kill -9`: nothing of raft's catches it."""


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    """Give a key, keep requests on this machine, and do not sleep; return the naps that were wanted."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    wanted = []
    monkeypatch.setattr(batches, "sleep", wanted.append)
    monkeypatch.setattr(batch_api, "sleep", lambda seconds: None)
    return wanted


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def request(text, **changes):
    """Return a request with a system turn and a user turn."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    return Request(turns, **{"max_tokens": 9, **changes})


class Run:
    """What one process of a build has: a model, a budget, and what was said."""

    def __init__(self, server, ledger, *, attempts=1, cap=None, price=PRICE, name=NAME, run=RUN):
        self.said = []
        self.budget = Budget(ledger, run=run, model=name, price=price, cap=cap)
        book = BatchBook(ledger, run)
        say = lambda event, facts: self.said.append({"event": event, **facts})  # noqa: E731
        self.model = BatchModel(
            name, api_base=server.url, timeout=20, book=book, price=price, budget=self.budget, say=say
        )
        self.generator = AskingGenerator(self.model, ledger, attempts=attempts)

    def ask(self, *texts, **changes):
        """Return the outcome of each request."""
        return list(self.generator.complete([request(text, **changes) for text in texts]))


@contextmanager
def killed_at(monkeypatch, owner, name):
    """Have the process killed when it calls the function `name` of `owner`; afterwards all is as before."""

    def dying(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, dying)
        yield


def states(ledger):
    """Return how many calls are in which state."""
    return dict(ledger.read("SELECT state, COUNT(*) FROM calls GROUP BY state"))


def paid_once(server):
    """Tell whether no request was answered twice."""
    return set(server.billed.values()) == {1}


@slow
def test_a_batch_is_answered_and_costs_half(ledger):
    """All requests go into one batch; each reply comes in its place, with its tokens and half the model's price."""
    with FakeBatches() as server:
        run = Run(server, ledger)
        outcomes = run.ask("hello there", "good day", schema={"type": "object"})
        assert [one.text for one in outcomes] == ["echo: hello there", "echo: good day"]
        assert server.asked() == [["hello there", "good day"]]
    first = outcomes[0]
    assert (first.input_tokens, first.output_tokens, first.cost) == (4, 3, pytest.approx(10e-6))
    assert run.budget.spent == pytest.approx(20e-6)
    assert run.budget.in_flight == 0
    assert states(ledger) == {"paid": 2}
    (row,) = ledger.spending(RUN)
    assert (row["purpose"], row["model"], row["calls"], row["input_tokens"]) == ("questions", NAME, 2, 8)
    body = json.loads(next(iter(server.files.values())).splitlines()[0])["body"]
    assert body["messages"] == list(request("hello there").messages)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("test-model", 9, 0.0)
    assert set(body) <= {"model", "messages", "max_tokens", "temperature", "response_format"}


@slow
def test_a_second_build_asks_nothing(ledger):
    """What a batch has answered is in the ledger: a second generator neither makes a batch nor asks for one."""
    with FakeBatches() as server:
        first = Run(server, ledger).ask("one", "two")
        seen = len(server.seen)
        again = Run(server, ledger).ask("one", "two")
        assert len(server.seen) == seen
    assert [one.text for one in again] == [one.text for one in first]
    assert all(one.replayed for one in again)


@slow
def test_waiting_grows_to_a_minute_and_is_told(ledger, naps):
    """A batch is looked at ever more rarely, at least once a minute, and each look is told with its counts."""
    with FakeBatches() as server:
        look, looks = server.look, []
        server.look = lambda batch: looks.append(1) or (look(batch) if len(looks) > 15 else dict(batch))
        run = Run(server, ledger)
        run.ask("one", "two")
    assert naps[:3] == [2.0, 3.0, 4.5]
    assert naps == sorted(naps)
    assert max(naps) == naps[-1] == 60.0
    assert run.said[0] | {"seconds": 0} == {
        **{"event": "batch", "id": "batch-0", "status": "validating", "done": 0, "failed": 0, "total": 0},
        "seconds": 0,
    }
    assert (run.said[-1]["status"], run.said[-1]["done"], run.said[-1]["total"]) == ("completed", 2, 2)


@slow
def test_a_malformed_reply_is_asked_again_in_a_second_smaller_batch(ledger):
    """A reply that fails its check goes into another batch with the others that failed, and with no other."""

    def check(text):
        if "odd" in text and len(server.batches) < 3:
            raise ValueError("odd")

    with FakeBatches() as server:
        outcomes = Run(server, ledger, attempts=4).ask("even 1", "odd 2", "even 3", "odd 4", check=check)
        assert server.asked() == [["even 1", "odd 2", "even 3", "odd 4"], ["odd 2", "odd 4"], ["odd 2", "odd 4"]]
    assert [one.attempts for one in outcomes] == [1, 3, 1, 3]
    assert states(ledger) == {"paid": 8}


@slow
@pytest.mark.parametrize(
    ("fault", "kind"),
    [("policy", "refused"), ("context", "too long"), ("500", "error"), ("400", "refused"), ("429", "error")],
)
def test_an_error_of_one_line_is_a_failure_and_costs_nothing(ledger, fault, kind):
    """A request that the provider turned down in a batch fails with its words; the others are answered."""
    with FakeBatches({"bad": [fault]}) as server:
        good, bad = Run(server, ledger).ask("good", "bad")
    assert isinstance(good, Completion)
    assert isinstance(bad, Failure)
    assert (bad.kind, bool(bad.message)) == (kind, True)
    assert states(ledger) == {"paid": 1}


@slow
@pytest.mark.parametrize("fault", ["silent", "broken line", "garbled"])
def test_a_reply_that_cannot_be_read_counts_at_its_worst_case(ledger, fault):
    """Where nobody knows what a request cost, it fails, and the most that it can have cost is counted."""
    with FakeBatches({"bad": [fault]}) as server:
        run = Run(server, ledger)
        good, bad = run.ask("good", "bad")
    assert (good.text, bad.kind) == ("echo: good", "error")
    assert states(ledger) == {"paid": 1, "lost": 1}
    assert run.budget.spent == pytest.approx(good.cost + worst_case(request("bad"), HALF))


@slow
def test_absurd_token_counts_count_at_the_worst_case(ledger):
    """A reply whose usage cannot be believed is kept, and counts at the most that it can have cost."""
    with FakeBatches({"odd": ["usage"]}) as server:
        run = Run(server, ledger)
        (odd,) = run.ask("odd")
    assert odd.text == "echo: odd"
    assert odd.cost == run.budget.spent == pytest.approx(worst_case(request("odd"), HALF))
    assert (odd.input_tokens, odd.output_tokens) == (0, 0)


@slow
def test_what_the_lines_of_a_batch_are_refused_for_is_left_out_of_the_next(ledger):
    """A refused temperature is learned from the lines that came back; they are asked again, and billed once."""
    with FakeBatches({"word": ["temperature"]}) as server:
        run = Run(server, ledger)
        assert all(isinstance(one, Completion) for one in run.ask("word 1", "word 2"))
        asked = [["temperature" in row["body"] for row in server._rows(batch)] for batch in server.batches]
    assert asked == [[True, True], [False, False]]
    assert states(ledger) == {"paid": 2}


@slow
def test_an_expired_batch_keeps_what_it_has_and_the_rest_is_asked_again(ledger):
    """What a batch did not do in time is not billed, and goes into the next one."""
    with FakeBatches(endings=["expired"]) as server:
        run = Run(server, ledger, attempts=2)
        outcomes = run.ask("one", "two", "three", "four")
        assert [one.text for one in outcomes] == ["echo: one", "echo: two", "echo: three", "echo: four"]
        assert server.asked()[1] == ["three", "four"]
        assert paid_once(server)
    assert states(ledger) == {"paid": 4}


@slow
def test_a_cancelled_batch_stops_the_run_and_keeps_what_it_has(ledger):
    """Somebody who cancels a batch at the provider wants it to stop; the same command asks the rest later."""
    with FakeBatches(endings=["cancelled"]) as server:
        with pytest.raises(RaftError, match="cancelled at the provider") as caught:
            Run(server, ledger).ask("one", "two", "three", "four")
        assert "same command" in caught.value.hint
        assert states(ledger) == {"paid": 2}
        outcomes = Run(server, ledger).ask("one", "two", "three", "four")
        assert [one.replayed for one in outcomes] == [True, True, False, False]
        assert paid_once(server)


@slow
def test_a_failed_batch_stops_the_run_in_the_providers_words_and_costs_nothing(ledger):
    """A batch that the provider did not accept is not asked again and again, and nothing is counted for it."""
    with FakeBatches(endings=["failed"]) as server:
        with pytest.raises(RaftError, match="not parseable"):
            Run(server, ledger, attempts=3).ask("one", "two")
        assert len(server.batches) == 1
    assert states(ledger) == {}


@slow
def test_a_batch_that_is_too_large_for_the_account_is_halved(ledger):
    """Where too many tokens wait already, the requests go into smaller batches instead."""
    texts = [f"number {i}" for i in range(8)]
    with FakeBatches(endings=["limit", "limit"]) as server:
        outcomes = Run(server, ledger).ask(*texts)
        assert [one.text for one in outcomes] == [f"echo: {text}" for text in texts]
        assert [len(batch) for batch in server.asked()] == [8, 4, 2, 2, 2, 2]
        assert paid_once(server)
    assert states(ledger) == {"paid": 8}


@slow
def test_the_cap_splits_a_window_and_then_stops(ledger):
    """A batch holds no more than the cap leaves room for; what is left over stops the run and nothing is lost."""
    worst = worst_case(request("number 0"), HALF)
    with FakeBatches({"number": ["usage"] * 20}) as server:  # each is billed at its worst case
        with pytest.raises(CapReached):
            Run(server, ledger, cap=5.5 * worst).ask(*[f"number {i}" for i in range(8)])
        assert [len(texts) for texts in server.asked()] == [5]
        assert states(ledger) == {"paid": 5}
        outcomes = Run(server, ledger, cap=20 * worst).ask(*[f"number {i}" for i in range(8)])
        assert [one.replayed for one in outcomes] == [True] * 5 + [False] * 3
    with FakeBatches() as server:  # replies are cheaper than the worst case, so that the same cap does more
        run = Run(server, ledger, cap=30 * worst)
        run.budget.cap = run.budget.spent + 5.5 * worst
        assert len(run.ask(*[f"number {i}" for i in range(10, 18)])) == 8
        assert [len(texts) for texts in server.asked()] == [5, 3]


@slow
@pytest.mark.parametrize("moment", ["plan", "filed", "sent", "settle"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_moment_nothing_is_paid_for_twice(ledger, monkeypatch, moment, after):
    """A build that dies before or after any entry in its book asks nothing again that the provider works on."""
    real = getattr(BatchBook, moment)

    def dying(self, *arguments, **options):
        if after:
            real(self, *arguments, **options)
        raise Killed

    texts = [f"number {i}" for i in range(4)]
    with FakeBatches() as server:
        monkeypatch.setattr(BatchBook, moment, dying)
        with pytest.raises(Killed):
            Run(server, ledger).ask(*texts)
        monkeypatch.setattr(BatchBook, moment, real)
        run = Run(server, ledger)
        assert [one.text for one in run.ask(*texts)] == [f"echo: {text}" for text in texts]
        assert len(server.batches) == 1
        assert paid_once(server)
    assert states(ledger) == {"paid": 4}
    assert run.budget.in_flight == 0


@slow
def test_killed_between_settling_and_keeping_the_replies_are_read_again(ledger, monkeypatch):
    """Replies that were billed and did not reach the ledger are read from their batch once more."""
    with FakeBatches() as server:
        with killed_at(monkeypatch, Ledger, "add"):
            Run(server, ledger).ask("one", "two")
        assert [one.text for one in Run(server, ledger).ask("one", "two")] == ["echo: one", "echo: two"]
        assert len(server.batches) == 1
    assert states(ledger) == {"paid": 2}


@slow
def test_a_killed_build_goes_on_waiting_for_the_batch_it_has(ledger, monkeypatch):
    """While a batch is under way it counts at its worst case; the next build waits for it and asks the rest only."""
    texts = ["one", "two", "three"]

    with FakeBatches() as server:
        with killed_at(monkeypatch, batches, "sleep"):
            Run(server, ledger).ask(*texts)
        assert states(ledger) == {"batch": 3}
        run = Run(server, ledger)
        assert run.budget.in_flight == pytest.approx(sum(worst_case(request(text), HALF) for text in texts))
        monkeypatch.setattr(batches, "sleep", lambda seconds: None)
        outcomes = run.ask(*texts, "four")
        assert [one.text for one in outcomes] == ["echo: one", "echo: two", "echo: three", "echo: four"]
        assert server.asked() == [["one", "two", "three"], ["four"]]


@slow
def test_a_batch_that_nobody_wants_any_more_is_settled(ledger, monkeypatch):
    """What an abandoned batch has cost is counted by the next build, whatever that one asks."""
    with FakeBatches() as server:
        with killed_at(monkeypatch, batches, "sleep"):
            Run(server, ledger).ask("old prompt")
        monkeypatch.setattr(batches, "sleep", lambda seconds: None)
        for _ in range(4):
            server.look(server.batches[0])
        run = Run(server, ledger)
        run.ask("new prompt")
    assert states(ledger) == {"paid": 2}
    assert run.budget.spent == pytest.approx(20e-6)


@slow
@pytest.mark.parametrize("trouble", ["cut", "500", "429"])
def test_a_creation_without_an_answer_makes_one_batch(ledger, trouble):
    """Where the answer to the creation of a batch is lost, the batch is found in the list and not made twice."""
    with FakeBatches(troubles={"POST /batches": [trouble], "GET /batches": ["500"]}) as server:
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
        assert len(server.batches) == 1
    assert states(ledger) == {"paid": 1}


@slow
def test_the_list_is_read_page_by_page(ledger, monkeypatch):
    """A batch that was made just before a kill is found among many later ones."""
    with FakeBatches(page=1) as server:
        with killed_at(monkeypatch, BatchBook, "sent"):
            Run(server, ledger).ask("one")
        for _ in range(3):
            asked = {"endpoint": "/v1/chat/completions", "input_file_id": "of others", "completion_window": "24h"}
            server.make(asked, int(server.batches[0]["created_at"]))
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
        assert server.seen.count("GET /batches") == 4
        assert len(server.batches) == 4


@slow
def test_where_there_is_no_list_a_doubtful_batch_counts_and_is_asked_again(ledger, monkeypatch):
    """Where nobody can say whether a batch was made, its worst case is counted for ever, and the build goes on."""
    with FakeBatches(troubles={"GET /batches": ["404"] * 9}) as server:
        server.troubles["GET /batches/"] = []
        with killed_at(monkeypatch, BatchBook, "sent"):
            Run(server, ledger).ask("one")
        server.troubles = {"GET /batches": ["404"]}
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
    assert states(ledger) == {"lost": 1, "paid": 1}


@slow
@pytest.mark.parametrize("path", ["POST /files", "GET /batches/", "GET /files/"])
def test_what_passes_by_itself_is_tried_again(ledger, path):
    """An endpoint that fails once is asked once more, whatever was asked of it."""
    with FakeBatches(troubles={path: ["500", "429", "cut"]}) as server:
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
        assert len(server.batches) == 1


@slow
@pytest.mark.parametrize("path", ["POST /files", "POST /batches", "GET /batches/", "GET /files/"])
def test_an_endpoint_that_stays_away_stops_the_run_and_the_next_goes_on(ledger, path):
    """After a bounded number of tries the run stops with a hint, and nothing is lost or paid for twice by it."""
    with FakeBatches(troubles={path: ["503"] * batch_api._TRIES}) as server:
        with pytest.raises(RaftError, match="does not answer") as caught:
            Run(server, ledger).ask("one")
        assert "again later" in caught.value.hint
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
        assert len(server.batches) == 1
    assert states(ledger) == {"paid": 1}


@slow
@pytest.mark.parametrize("fault", ["401", "403", "402", "quota"])
@pytest.mark.parametrize("path", ["POST /files", "POST /batches"])
def test_a_wrong_key_stops_at_once(ledger, path, fault):
    """What no waiting mends stops the run in the provider's words, and nothing is counted."""
    with FakeBatches(troubles={path: [fault]}) as server, pytest.raises(UsageError) as caught:
        Run(server, ledger).ask("one")
    assert server.seen.count(path) == 1
    assert KEY not in str(caught.value)
    assert states(ledger) == {}


@slow
def test_a_model_that_no_line_may_use_stops_the_run(ledger):
    """A batch whose lines are refused for the key or the model stops the run instead of failing each chunk."""
    with FakeBatches({"": ["404"] * 4}) as server, pytest.raises(UsageError, match="does not exist"):
        Run(server, ledger, attempts=3).ask("one", "two")
    assert len(server.batches) == 1
    assert states(ledger) == {}


@slow
def test_ctrl_c_says_that_the_batch_goes_on(ledger, monkeypatch):
    """Whoever interrupts the waiting is told that the batch goes on, which one, and how to go on waiting."""

    def interrupted(seconds):
        raise KeyboardInterrupt

    with FakeBatches() as server:
        monkeypatch.setattr(batches, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"batch-0.*same command") as caught:
            Run(server, ledger).ask("one")
        assert "goes on at the provider" in str(caught.value)
        monkeypatch.setattr(batches, "sleep", lambda seconds: None)
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
        assert len(server.batches) == 1


@slow
def test_a_batch_that_the_provider_does_not_know_stops_the_run(ledger, monkeypatch):
    """Another account's key does not make a build pay for everything once more."""
    with FakeBatches() as server:
        with killed_at(monkeypatch, batches, "sleep"):
            Run(server, ledger).ask("one")
        hidden, server.batches = server.batches, []
        with pytest.raises(UsageError, match="does not know the batch batch-0"):
            Run(server, ledger).ask("one")
        assert states(ledger) == {"batch": 1}
        monkeypatch.setattr(batches, "sleep", lambda seconds: None)
        monkeypatch.setattr(batches, "time", lambda: 4e9)  # long after providers forget
        server.batches = [{**hidden[0], "id": "batch-x"}]
        assert Run(server, ledger).ask("one")[0].text == "echo: one"
    assert states(ledger) == {"lost": 1, "paid": 1}


@slow
def test_an_equal_warm_request_that_is_asked_again_does_not_find_its_old_reply(ledger, monkeypatch):
    """After a kill, a reply that failed its check is not served once more from its old batch."""
    sleeps = []

    def check(text):
        raise ValueError("never good")

    def dying(seconds):
        if len(server.batches) == 2:
            raise Killed
        sleeps.append(seconds)

    with FakeBatches() as server:
        monkeypatch.setattr(batches, "sleep", dying)
        with pytest.raises(Killed):
            Run(server, ledger, attempts=3).ask("warm", temperature=0.9, check=check)
        monkeypatch.setattr(batches, "sleep", sleeps.append)
        (failure,) = Run(server, ledger, attempts=3).ask("warm", temperature=0.9, check=check)
        assert len(server.batches) == 3
    assert (failure.kind, failure.attempts) == ("malformed", 3)
    assert states(ledger) == {"paid": 3}


@slow
@pytest.mark.parametrize(
    ("name", "base", "words"),
    [
        ("anthropic/claude-x", None, "cannot use the batch endpoint of anthropic"),
        ("nonsense/x", None, "does not know"),
        ("hosted_vllm/x", None, "address"),
        ("openai/x", None, "no key"),
    ],
)
def test_what_cannot_be_batched_is_said_before_anything_is_sent(ledger, monkeypatch, name, base, words):
    """A provider without a usable batch endpoint, an unknown one, and a missing key or address are usage errors."""
    monkeypatch.delenv("OPENAI_API_KEY")
    budget = Budget(ledger, run=RUN, model=name, price=None, cap=None)
    model = BatchModel(name, api_base=base, timeout=5, book=BatchBook(ledger, RUN), price=None, budget=budget)
    with pytest.raises(UsageError, match=words):
        list(model.answer([request("x")], [True]))
    assert states(ledger) == {}


@slow
def test_an_endpoint_of_ones_own_gets_no_key_of_openais(ledger, monkeypatch):
    """A self-hosted endpoint is asked without a key, and no key is written down."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeBatches() as server:
        assert Run(server, ledger, price=None).ask("one")[0].cost is None
        assert Run(server, ledger, name="hosted_vllm/test-model").ask("two")[0].text == "echo: two"


CLIENT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from types import SimpleNamespace
from test_batches import Run, Ledger
Run(SimpleNamespace(url={url!r}), Ledger(Path({ledger!r}))).ask("one", "two", "three")
"""


@slow
def test_kill_9_while_the_batch_is_being_made(tmp_path):
    """A process that is killed after the provider made its batch, and before it was told, is taken up again."""
    path = tmp_path / "ledger.sqlite"
    with FakeBatches() as server:
        paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
        program = CLIENT.format(paths=paths, url=server.url, ledger=str(path))
        options = {"env": {**os.environ, "OPENAI_API_KEY": KEY}, "stderr": subprocess.DEVNULL}
        client = subprocess.Popen([sys.executable, "-c", program], **options)
        server.made = lambda: os.kill(client.pid, signal.SIGKILL)
        assert client.wait(600) == -signal.SIGKILL
        server.made = lambda: None
        with closing(Ledger(path)) as ledger:
            assert states(ledger) == {"batch": 3}
            assert Run(server, ledger).ask("one", "two", "three")[0].text == "echo: one"
            assert states(ledger) == {"paid": 3}
        assert len(server.batches) == 1
        assert paid_once(server)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_book_counts_its_calls_from_the_plan_on(ledger):
    """A planned batch stands among the run's calls at its worst case, and a dropped one leaves nothing behind."""
    book = BatchBook(ledger, RUN)
    batch = book.plan("m", {"a": 1.0, "b": None}, model="m", purpose="questions")
    assert (batch.state, book.unfinished("m")) == ("planned", [batch])
    assert book.holding(["a", "b"]) == {}  # nobody knows whether it was made
    budget = Budget(ledger, run=RUN, model="m", price=PRICE, cap=2.0)
    assert (budget.in_flight, budget.fits(0.5), budget.fits(1.5)) == (1.0, True, False)
    book.drop(batch)
    assert (book.unfinished("m"), book.keys(batch), states(ledger)) == ([], [], {})


def test_a_book_settles_each_call_once(ledger):
    """What was paid, not done, and nobody knows is told apart; settling again changes nothing."""
    book = BatchBook(ledger, RUN)
    batch = book.sent(
        book.filed(book.plan("m", dict.fromkeys("abcd", 1.0), model="m", purpose="questions"), "file"), "id"
    )
    assert (batch.id, batch.file, batch.state) == ("id", "file", "sent")
    for _ in range(2):
        book.settle(batch, {"a": Bill(0.25, 5, 6), "b": Bill(None, -1, -1)}, {"c"})
    rows = ledger.read("SELECT key, state, cost, worst, input_tokens FROM calls ORDER BY key")
    assert rows == [("a", "paid", 0.25, 1.0, 5), ("b", "paid", 1.0, 1.0, 0), ("d", "lost", None, 1.0, 0)]
    assert book.unfinished("m") == []
    assert {one.state: sorted(keys) for one, keys in book.holding(list("abcd")).items()} == {"settled": ["a", "b"]}
    book.forget(batch, ["a"])
    assert list(book.holding(list("abcd")).values()) == [["b"]]


def test_another_run_finds_a_batch_that_was_made_and_leaves_its_plans_alone(ledger):
    """Two runs may share a ledger: what one has asked the other awaits, but never gives up in its place."""
    mine, other = BatchBook(ledger, "mine"), BatchBook(ledger, "other")
    made = other.sent(other.plan("m", {"a": 1.0}, model="m", purpose="questions"), "id")
    other.plan("m", {"b": 1.0}, model="m", purpose="questions")
    assert mine.holding(["a", "b"]) == {made: ["a"]}
    assert mine.unfinished("m") == []


def test_two_runs_that_batch_the_same_at_once_pay_once(ledger, tmp_path, monkeypatch):
    """What another run is just putting into a batch is waited for, and read from that batch."""
    napped, second, threads = threading.Event(), [], []
    monkeypatch.setattr(batches, "sleep", lambda seconds: napped.set())
    make = batch_api.BatchProvider.make
    with FakeBatches() as server, store.Run(tmp_path / "mine").writing():
        ledger.register(RUN, tmp_path / "mine", None)

        def make_later(provider, batch):
            other = Run(server, ledger, run="other")
            threads.append(threading.Thread(target=lambda: second.extend(other.ask("one", "two"))))
            threads[0].start()
            assert napped.wait(60)
            return make(provider, batch)

        monkeypatch.setattr(batch_api.BatchProvider, "make", make_later)
        first = Run(server, ledger).ask("one", "two")
        threads[0].join(60)
        assert [one.text for one in first] == [one.text for one in second]
        assert len(threads) == 1
        assert paid_once(server)
    assert states(ledger) == {"paid": 2}


def test_the_last_batch_of_a_key_counts(ledger):
    """A request that was asked again is read from its last batch; many keys are looked up at once."""
    book = BatchBook(ledger, RUN)
    keys = [request_key(request(str(i)), "m", 0) for i in range(1201)]
    first = book.sent(book.plan("m", dict.fromkeys(keys, 1.0), model="m", purpose="questions"), "first")
    last = book.sent(book.plan("m", {keys[700]: 1.0}, model="m", purpose="questions"), "last")
    found = book.holding(keys)
    assert (found[last], len(found[first])) == ([keys[700]], 1200)


def test_a_batch_under_way_is_not_asked_directly_as_well(ledger, tmp_path):
    """Where the run has a batch under way, a build without the batch endpoint stops and says how to wait for it."""
    settings = config.load(None, {"generator.model": NAME, "generator.api_base": "http://127.0.0.1:9/v1"})
    identity = f"{NAME}@http://127.0.0.1:9/v1"
    BatchBook(ledger, RUN).plan(identity, {"a key": 0.001}, model=NAME, purpose="questions")
    with pytest.raises(UsageError, match="under way") as stopped:
        models.open_components(tmp_path, settings, ledger, RUN, lambda event, facts: None)
    assert "generator.batch_endpoint=true" in str(stopped.value)
