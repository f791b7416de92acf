"""One ledger for several runs: what one of them awaits is not asked a second time by another."""

import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from fake_openai import FakeOpenAI
from raft.backends.hosted.flowing import FlowingGenerator
from raft.protocols import Request
from raft.store import ledger as ledgers
from raft.store.budget import Budget, PaidEmbedder, Price
from raft.store.ledger import CachedEmbedder, Ledger, request_key
from raft.store.run import Run
from raft.testing import HashEmbedder
from simulated import Endpoint, Hosted

PRICE = Price(input=10.0, output=20.0)
PROCESS = """
import sys
from pathlib import Path
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.protocols import Request
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger, request_key
from raft.store.run import Run

url, ledger, folder = sys.argv[1], Ledger(Path(sys.argv[2])), Path(sys.argv[3])
with Run(folder).writing():
    ledger.register(folder.name, folder, 1.0)
    budget = Budget(ledger, run=folder.name, model="hosted_vllm/m", price=Price(1.0, 1.0), cap=1.0)
    model = HostedModel("hosted_vllm/m", api_base=url, concurrency=16, timeout=20)
    print("ready", flush=True)
    sys.stdin.readline()
    asked = [Request(({"role": "user", "content": f"word {i}"},), max_tokens=9) for i in range(200)]
    for outcome in FlowingGenerator(model, ledger, budget, attempts=1).complete(asked):
        print(outcome.text, flush=True)
"""


def request(text):
    """Return a request with one user turn."""
    return Request(({"role": "user", "content": text},), max_tokens=8)


def opened(ledger, run, key_of):
    """Write a call of a run down, as if it were in the air."""
    budget = Budget(ledger, run=run, model="fake/model", price=PRICE, cap=None)
    return budget, budget.open(key_of, 0.1)


@pytest.mark.usefixtures("on_this_machine")
def test_two_processes_that_share_a_ledger_pay_each_reply_once(tmp_path):
    """Two builds that ask the same at the same time get every reply, and the provider answers each request once."""
    with FakeOpenAI(latency=0.05, limit=1000) as server:
        command = [sys.executable, "-c", PROCESS, server.url, str(tmp_path / "shared.sqlite")]
        both = [
            subprocess.Popen([*command, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for name in ("one", "two")
        ]
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0].splitlines() for process in both]
    assert said == [[f"echo: word {i}" for i in range(200)]] * 2
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 200


def test_two_runs_that_embed_the_same_pay_once(tmp_path, monkeypatch):
    """Texts that another run has sent to be embedded are waited for, and its vectors are taken."""
    looked, texts, sent, second = threading.Event(), ["some words", "others"], [], []
    monkeypatch.setattr(ledgers.time, "sleep", lambda seconds: looked.set())

    def cached(ledger, name, embedder):
        budget = Budget(ledger, run=name, model="m", price=PRICE, cap=None)
        return CachedEmbedder(PaidEmbedder(embedder, budget), ledger)

    class Counting(HashEmbedder):
        def embed(self, texts):
            sent.append(list(texts))
            return super().embed(texts)

    class Slow(Counting):
        def embed(self, texts):
            thread.start()
            assert looked.wait(60)
            return super().embed(texts)

    with (
        closing(Ledger(tmp_path / "shared.sqlite")) as ledger,
        closing(Ledger(tmp_path / "shared.sqlite")) as other,
        Run(tmp_path / "one").writing(),
    ):
        ledger.register("one", tmp_path / "one", None)
        asking = cached(other, "two", Counting())
        thread = threading.Thread(target=lambda: second.append(asking.embed(texts)))
        first = cached(ledger, "one", Slow()).embed(texts)
        thread.join(60)
        assert ledger.read("SELECT run, state FROM calls") == [("one", "paid")]
    assert sent == [texts]
    assert np.array_equal(first, second[0])


def test_what_nobody_keeps_is_waited_for_by_nobody(tmp_path):
    """A question that is embedded to be timed is embedded by each run, also while another does so."""
    with closing(Ledger(tmp_path / "shared.sqlite")) as ledger, Run(tmp_path / "one").writing():
        ledger.register("one", tmp_path / "one", None)
        one, two = (
            CachedEmbedder(
                PaidEmbedder(HashEmbedder(), Budget(ledger, run=name, model="m", price=PRICE, cap=None)), ledger
            )
            for name in ("one", "two")
        )
        assert np.array_equal(one.uncached(["a question"]), two.uncached(["a question"]))
        assert np.array_equal(two.embed(["a question"]), two.uncached(["a question"]))
        assert ledger.read("SELECT run, state, COUNT(*) FROM calls GROUP BY run") == [
            ("one", "paid", 1),
            ("two", "paid", 3),
        ]


def test_looking_for_calls_of_others_reads_no_table(tmp_path):
    """Calls are found by their key, however many there are."""
    with closing(Ledger(tmp_path / "shared.sqlite")) as ledger:
        for states in ("'open'", "'open', 'paid'", "'batch'"):
            plan = ledger.read(
                f"EXPLAIN QUERY PLAN SELECT key FROM calls WHERE state IN ({states}) AND key IN ('a', 'b')"
            )
            assert all("SCAN calls" not in row[-1] for row in plan)


def test_what_a_killed_process_left_open_is_asked_by_another(tmp_path):
    """A call that stands open in the name of a run that nobody writes to is taken over, and not waited for."""
    endpoint, asked = Endpoint(), request("hello")
    model = Hosted(endpoint, 4)
    with closing(Ledger(tmp_path / "shared.sqlite")) as ledger:
        for name in ("dead", "mine"):
            ledger.register(name, tmp_path / name, None)
        opened(ledger, "dead", request_key(asked, model.identity, 0))
        mine = Budget(ledger, run="mine", model="fake/model", price=PRICE, cap=None)
        (outcome,) = FlowingGenerator(model, ledger, mine, attempts=1).complete([asked])
        assert outcome.text == "echo: hello"
        assert len(endpoint.seen) == 1


def test_what_another_run_awaits_is_known_while_it_is_written_to(tmp_path):
    """A key counts as awaited elsewhere as long as the other run's directory is held, and never by the run itself."""
    other = tmp_path / "other"
    with closing(Ledger(tmp_path / "shared.sqlite")) as ledger:
        ledger.register("other", other, None)
        opened(ledger, "other", "k")
        assert ledger.awaited_elsewhere("mine", ["k", "l"]) == set()
        with Run(other).writing():
            assert ledger.awaited_elsewhere("mine", ["k", "l"]) == {"k"}
            assert ledger.awaited_elsewhere("other", ["k"]) == set()


def test_a_run_is_known_by_its_folder_without_its_manifest(tmp_path):
    """Name and cap are found again by the folder, also where folder and ledger were moved; None changes no cap."""
    home = tmp_path / "run"
    home.mkdir()
    with closing(Ledger(home / "ledger.sqlite")) as ledger:
        assert ledger.run_at(home) == (None, None)
        ledger.register("r", home, 0.3)
        ledger.register("r", home, None)
        ledger.register("other", tmp_path / "other", 0.1)
        assert ledger.run_at(home) == ("r", 0.3)
        assert ledger.run_at(tmp_path / "other") == ("other", 0.1)
    home.rename(tmp_path / "moved")
    with closing(Ledger(tmp_path / "moved" / "ledger.sqlite")) as ledger:
        assert ledger.run_at(tmp_path / "moved") == ("r", 0.3)


def test_all_that_was_spent_from_a_runs_own_ledger_counts(tmp_path):
    """What stands in a run's own ledger under names of lost manifests counts, and what is another run's does not."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for name in ("lost", "elsewhere"):
            budget, number = opened(ledger, name, "k")
            budget.pay(number, None, cost=0.2, input_tokens=1, output_tokens=1)
        assert ledger.run_at(tmp_path) == ("elsewhere", None)  # the last one, as long as nobody says otherwise
        ledger.register("elsewhere", tmp_path / "b", 1.0)
        assert ledger.run_at(tmp_path) == ("lost", None)
        ledger.register("mine", tmp_path, 0.3)
        mine = Budget(ledger, run="mine", model="m", price=PRICE, cap=0.3)
        assert mine.spent == pytest.approx(0.2)
        assert not mine.fits(0.2)
        assert sum(row["cost"] for row in ledger.spending("mine")) == pytest.approx(0.2)
