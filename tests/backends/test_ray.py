"""A build by the shards of a Ray cluster makes what one machine makes, whatever becomes of them, within one cap."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import grpc
import numpy as np
import pytest

import raft
from conftest import tables_of, write_corpus
from fake_openai import FakeOpenAI
from raft.api import models
from raft.api.engine import shards_of
from raft.backends.embedding import SentenceEmbedder
from raft.backends.hosted.calls import Call
from raft.backends.hosted.errors import Transient
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import Wire
from raft.backends.local.generate import LocalModel
from raft.backends.ray import cluster
from raft.backends.ray import engine as engines
from raft.backends.ray.models import SpreadEmbedder, SpreadHostedModel, SpreadModel, by_shards
from raft.backends.ray.shard import Asked, Opening, Shard, folder_of
from raft.cli import progress
from raft.errors import RaftError, UsageError
from raft.protocols import Request
from raft.store import shards
from raft.store.budget import Budget, CapReached, Payment, Price
from raft.store.ledger import Entry, Ledger
from raft.store.shards import ShardLedger, merge_left
from raft.testing import HashEmbedder, WordTokenizer

pytest.importorskip("ray")
cluster.import_ray()
from ray import cluster_utils  # noqa: E402  as raft imports it: without a word

pytestmark = pytest.mark.slow
MODEL = "openai/test-model"


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, for three shards, as raft starts it."""
    with cluster.connected(None, 3) as started:
        started.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # shards have no tests
        yield started


@pytest.fixture
def home(tmp_path, monkeypatch, on_this_machine):
    """A corpus, with an embedder that counts words and a key for the endpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy")
    monkeypatch.setattr(models, "open_embedder", lambda *_, **__: HashEmbedder())
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())
    write_corpus(tmp_path / "corpus")
    return tmp_path


@pytest.fixture
def engine(ray, tmp_path):
    """Two shards without a build."""
    opening = Opening(0, "run", "", str(shards_of(tmp_path)), {}, local_only=True)
    ledger = tmp_path / "ledger.sqlite"
    with engines.RayEngine(None, 2, cards=0, ledger=ledger, opening=opening, merged=lambda: None) as made:
        yield made


def build(home, out, url, *, shards=0, max_cost=5.0, on_event=None, more=None):
    """Build the corpus, by so many shards or by this process."""
    how = {"engine.kind": "ray", "engine.shards": shards} if shards else {}
    settings = {"generator.api_base": url, "questions.way": "items", **how, **(more or {})}
    place, price = home / out, (1, 1)
    return raft.build(
        home / "corpus",
        out=place,
        generator=MODEL,
        price=price,
        max_cost=max_cost,
        settings=settings,
        on_event=on_event,
    )


def states(home, out):
    """Return how many calls of a run are in each state."""
    with closing(Ledger(home / out / "ledger.sqlite")) as ledger:
        return dict(ledger.read("SELECT state, COUNT(*) FROM calls GROUP BY state"))


def kill(engine):
    """Kill the shard that has the most to do, as a machine's system does that is short of memory."""
    busy = max((place.seat for place in engine._places), key=lambda seat: seat.in_flight)
    os.kill(int(Path(busy.ledger).name.split("-")[1]), signal.SIGKILL)


def killing(method, work, asked):
    """Return an `ask` after whose second call for this work the shard that does it is killed."""
    seen = []

    def ask(self, name, *given):
        wait = asked(self, name, *given)
        if name == method and (not work or given[0].__name__ == work):
            seen.append(name)
            if len(seen) == 2:
                kill(self)
        return wait

    ask.seen = seen
    return ask


class Holding(FakeOpenAI):
    """A server that answers so many requests, and holds all others until it is told to answer."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.held = answers, []

    def take(self, connection, data):
        """Answer a request, or hold it."""
        if self.came < self.answers:
            super().take(connection, data)
        else:
            self.held.append((connection, data))

    def release(self):
        """Answer whatever was held of whoever is there still, and all that comes."""
        self._loop.call_soon_threadsafe(self._release)

    def _release(self):
        self.answers, held, self.held = 10**6, self.held, []
        for connection, data in held:
            if not connection.transport.is_closing():
                self.take(connection, data)


def test_shards_make_the_same_bytes(ray, home):
    """Two shards make the tables of one machine, byte for byte, with the same calls, and leave no ledger behind."""
    with FakeOpenAI() as fake:
        build(home, "alone", fake.url)
        asked = fake.answered.copy()
        build(home, "spread", fake.url, shards=2)
    assert tables_of(home / "spread") == tables_of(home / "alone")
    assert fake.answered == Counter(dict.fromkeys(asked, 2))
    assert states(home, "spread") == states(home, "alone")
    assert list(shards_of(home / "spread").iterdir()) == []


def test_a_killed_shard_costs_its_calls_in_flight_alone(ray, home, monkeypatch):
    """Where a shard is killed while one call hangs, that call counts as lost, and nothing else is asked again."""
    with FakeOpenAI() as fake:
        build(home, "alone", fake.url)
    last, lost, made, start = [], [], [], engines.RayEngine.start
    monkeypatch.setattr(engines.RayEngine, "start", lambda self: [start(self), made.append(self)])
    with FakeOpenAI({"EP-204": ["timeout"]}) as fake:

        def watch(event, facts):
            lost.extend([facts] if event == "shard lost" else [])
            if event == "asked" and not lost and fake.waiting == 1 and facts["in_flight"] == 1:
                last.append(fake.came)
                if last[-2:] == [fake.came, fake.came] and fake.came > 1:  # all others are settled
                    kill(made[0])

        build(home, "spread", fake.url, shards=2, on_event=watch)
    assert len(lost) == 1
    assert states(home, "spread") == {"paid": len(fake.answered), "lost": 1}
    assert set(fake.answered.values()) == {1}
    assert tables_of(home / "spread") == tables_of(home / "alone")
    assert list(shards_of(home / "spread").iterdir()) == []


@pytest.fixture
def another(ray):
    """Another node of that Ray, on this machine, which may `leave`; more may come, and all end with the test."""
    both = cluster_utils.Cluster()
    both.head_node = ray._private.worker._global_node
    node = both.add_node(num_cpus=1)
    both.leave = lambda: both.remove_node(node)
    yield both
    for left in list(both.worker_nodes):
        both.remove_node(left)


def test_a_node_that_leaves_costs_its_calls_in_flight_alone(another, home, monkeypatch):
    """Where a node leaves while its shard has a call in flight, that call alone is asked again."""
    lost, left, made, start = [], [], [], engines.RayEngine.start

    def started(self):
        start(self)
        if made:
            return
        nodes = [place.seat.ready.result()[0] for place in self._places]
        assert len(set(nodes)) == 2
        self._places.sort(key=lambda place: place.seat.node == self._opening.node)  # calls go to the first, if to one
        made.append(self)

    monkeypatch.setattr(engines.RayEngine, "start", started)
    with Holding(1) as fake:

        def watch(event, facts):
            if event == "shard lost":
                lost.append(facts)
                fake.release()
            if event == "asked" and fake.held and not left:
                in_flight = [place.seat.in_flight for place in made[0]._places]
                if in_flight[0] and sum(in_flight) == len(fake.held):  # all that was answered has come
                    left.append(in_flight)
                    another.leave()

        build(home, "spread", fake.url, shards=2, on_event=watch, more={"generator.concurrency": 1})
        assert left[0][0] == 1
        assert len(lost) == 1
        assert states(home, "spread") == {"paid": len(fake.answered), "lost": 1}
        assert sum(fake.answered.values()) - len(fake.answered) <= 1  # of the dying shard, which may hear it still
        build(home, "alone", fake.url)
    assert tables_of(home / "spread") == tables_of(home / "alone")
    shutil.rmtree(folder_of(made[0]._opening, "another"), ignore_errors=True)  # where that node had its shard's ledger


@pytest.mark.parametrize("work", ["_read_there", "_cut_there"])
def test_a_shard_killed_while_it_reads_or_cuts_changes_nothing(ray, home, monkeypatch, work):
    """A document that a killed shard was reading or cutting is read or cut by another one."""
    lost = []
    ask = killing("do", work, engines.RayEngine.ask)
    monkeypatch.setattr(engines.RayEngine, "ask", ask)
    with FakeOpenAI() as fake:
        build(home, "alone", fake.url)
        told = lambda event, facts: lost.extend([facts] if event == "shard lost" else [])  # noqa: E731
        build(home, "spread", fake.url, shards=2, on_event=told)
    assert len(ask.seen) == 6
    assert len(lost) == 1
    assert tables_of(home / "spread") == tables_of(home / "alone")


_KILLED = """
import asyncio, os, pathlib, signal, sys
sys.path[:0] = {paths}
import test_ray
from raft.api import models
from raft.store.budget import TransactionBatcher

came = []

async def pay(self, payment):
    came.append(payment)
    if len(came) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()

TransactionBatcher.pay = pay
models.open_embedder = lambda *_, **__: test_ray.HashEmbedder()
models.hub.tokenizer = lambda name: test_ray.WordTokenizer()
more = {{"generator.concurrency": 1, "engine.address": {address!r}}}
test_ray.build(pathlib.Path({home!r}), "spread", {url!r}, shards=1, more=more)
"""


def joining(program):
    """Run a program that joins the Ray that is there, and return how it ended."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_build_that_is_killed_goes_on_with_what_its_shards_have(ray, home):
    """Where the build itself is killed before its ledger has replies, the next one takes them over from the shard."""
    with FakeOpenAI() as fake:
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        address = ray.get_runtime_context().gcs_address
        ended = joining(_KILLED.format(paths=paths, home=str(home), url=fake.url, address=address))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert len(fake.answered) == 4 <= states(home, "spread")["open"]
        build(home, "spread", fake.url, shards=2)
        assert set(fake.answered.values()) == {1}
        build(home, "alone", fake.url)
    assert tables_of(home / "spread") == tables_of(home / "alone")


def test_ctrl_c_and_another_number_of_shards_ask_nothing_twice(ray, home):
    """A build that is interrupted waits for what is in flight, and goes on with other shards where it was."""
    with FakeOpenAI(latency=0.3) as fake:

        def stop(event, facts):
            if event == "asked" and facts["in_flight"]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(home, "spread", fake.url, shards=2, on_event=stop)
        assert 0 < len(fake.answered) == states(home, "spread")["paid"]
        build(home, "spread", fake.url, shards=1)
        assert set(fake.answered.values()) == {1}
        build(home, "alone", fake.url)
    assert tables_of(home / "spread") == tables_of(home / "alone")


def test_one_cap_holds_for_all_shards(ray, home):
    """Shards together stop before the cap, and a higher one goes on without asking anything twice."""
    with FakeOpenAI() as fake:
        with pytest.raises(CapReached):
            build(home, "spread", fake.url, shards=3, max_cost=0.004)
        with closing(Ledger(home / "spread" / "ledger.sqlite")) as ledger:
            ((spent,),) = ledger.read("SELECT TOTAL(COALESCE(cost, worst)) FROM calls")
        assert 0 < spent <= 0.004
        build(home, "spread", fake.url, shards=3)
    assert set(fake.answered.values()) == {1}


def test_a_reply_that_only_a_dead_shard_has_is_merged(tmp_path):
    """What a shard was sent before all died settles its call at what it cost, and is not asked for again."""
    entry = Entry("key", MODEL, 0, "{}", "a reply", "stop", 10, 5, 0.02, 1.0)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run="run", model=MODEL, price=Price(1, 1), cap=1.0)
        numbers = [budget.open("key", 0.5), budget.open("other", 0.25)]
    (place := shards_of(tmp_path)).mkdir(parents=True)
    shard = ShardLedger(place, 1)
    shard.write("run", [Payment(numbers[0], entry, 0.02, 10, 5)], [])
    shard._ledger.close()
    dead = shard.path.with_name("shard-999999999-1.sqlite")
    shard.path.rename(dead)
    assert merge_left(place, tmp_path / "ledger.sqlite") == 1
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert Budget(ledger, run="run", model=MODEL, price=Price(1, 1), cap=1.0).spent == pytest.approx(0.27)
        assert ledger.find(["key"])["key"].reply == "a reply"
    assert list(place.iterdir()) == []


def test_a_dead_shards_reply_is_taken_and_not_asked_for_again(tmp_path):
    """What a shard had kept of a call before it died is found by the call's number, what was taken is not."""
    entry = Entry("key", MODEL, 0, "{}", "a reply", "stop", 10, 5, 0.02, 1.0)
    shard = ShardLedger(tmp_path, 1)
    shard.write("run", [Payment(7, entry, 0.02, 10, 5)], [])
    shard.write("run", [Payment(8, replace(entry, key="another"), 0.02, 10, 5)], [7])
    shard._ledger.close()
    dead = shard.path.with_name("shard-999999999-1.sqlite")
    shard.path.rename(dead)
    opening = Opening(0, "run", "", str(tmp_path), {}, local_only=True)
    made = engines.RayEngine(None, 1, cards=0, ledger=tmp_path / "l", opening=opening, merged=lambda: None)
    seat = engines._Seat(None, Future(), ledger=str(dead))
    assert {number: left.entry.key for number, left in made._left_by(seat).items()} == {8: "another"}
    assert made._left_by(engines._Seat(None, Future())) == {}


def left(place, number, text="a reply"):
    """Lay the ledger of a shard that has died, with one reply, into a folder, and return its path."""
    place.mkdir(parents=True, exist_ok=True)
    shard = ShardLedger(place, number)
    shard.write("run", [Payment(number, Entry("key", MODEL, 0, "{}", text, "stop", 10, 5, 0.02, 1.0), 0.02, 10, 5)], [])
    shard._ledger.close()
    return shard.path.rename(place / f"shard-999999999-{number}.sqlite")


def test_the_ledger_of_a_shard_that_lives_is_merged_and_stays(tmp_path, monkeypatch):
    """A shard that outlives its build has replies still to come: what it has is merged, and its file is left."""
    monkeypatch.setattr(shards, "_DYING_SECONDS", 0.0)
    dead = left(shards_of(tmp_path), 1)
    alive = dead.rename(dead.with_name(f"shard-{os.getpid()}-1.sqlite"))
    assert merge_left(shards_of(tmp_path), tmp_path / "ledger.sqlite") == 1
    assert alive.is_file()


def test_what_a_dead_shard_kept_on_another_node_is_read_there(engine, tmp_path, monkeypatch):
    """A reply on the disk of another node is taken from there, and a ledger that is damaged there is one error."""
    engine.start()
    node = next(place.seat.node for place in engine._places if engine._is_ready(place))
    path = left(tmp_path / "there", 8)
    engine._opening = replace(engine._opening, node="elsewhere")
    monkeypatch.setattr(shards, "left_by", lambda path: pytest.fail("it was read here"))
    assert list(engine._left_by(engines._Seat(None, Future(), str(path), node))) == [8]
    path.write_text("no database")
    with pytest.raises(RaftError, match="database") as caught:
        engine._left_by(engines._Seat(None, Future(), f"{path.parent}//{path.name}", node))
    assert caught.value.where.endswith(f": {path}")
    assert caught.value.hint


def test_a_start_that_failed_fails_again_at_once(engine, tmp_path):
    """What shards of before have left and cannot be read ends the build each time that it is asked, as one error."""
    damaged = left(shards_of(tmp_path), 1)
    damaged.write_text("no database")
    with pytest.raises(RaftError, match="database") as caught:
        engine.start()
    with pytest.raises(RaftError) as again:
        engine.begin(len, [])
    assert again.value is caught.value
    damaged.unlink()


def test_a_call_that_no_shard_took_costs_nothing(engine, tmp_path, monkeypatch):
    """Where all shards are given up, a call that none of them was sent is forgotten, and not counted as billed."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy")
    engine.start()
    for place in engine._places:
        place.deaths = engines._DEATHS
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        with pytest.raises(RaftError, match="shard") as caught:
            list(ask_by(engine, ledger, "http://127.0.0.1:9/v1", 1))
        assert ledger.read("SELECT COUNT(*) FROM calls") == [(0,)]
    assert caught.value.hint


def test_one_shard_alone_sends_what_all_may(engine, tmp_path, monkeypatch):
    """Calls that are granted are sent, and wait for no connection, where fewer shards live than were asked for."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy")
    engine.start()
    next(place for place in engine._places if not engine._is_ready(place) or place.number == 2).deaths = engines._DEATHS
    with FakeOpenAI(latency=0.3) as fake, closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert len(list(ask_by(engine, ledger, fake.url, 12))) == 12
    assert fake.most_waiting == 2


def ask_by(engine, ledger, url, count):
    """Return what comes of so many calls by shards, of which each may have one in flight."""
    model = SpreadHostedModel(MODEL, engine, api_base=url, concurrency=1, timeout=30.0)
    budget = Budget(ledger, run="run", model=MODEL, price=Price(1, 1), cap=1.0)
    asked = [Request(({"role": "user", "content": f"How many {number}?"},), max_tokens=5) for number in range(count)]
    return FlowingGenerator(model, ledger, budget, attempts=1).complete(asked)


def test_models_that_litellm_asks_are_not_asked_by_nodes(engine):
    """What litellm looks for in the environment a node does not have; a key that is sent there is not shown."""
    assert by_shards("anthropic/claude-haiku-4-5", engine) is None
    assert by_shards(MODEL, engine) is not None
    assert "sk-secret" not in repr(Wire(MODEL, None, "sk-secret", 1.0, 1))


def test_a_reply_that_cannot_be_kept_is_told_and_the_next_one_is_kept(tmp_path):
    """Whatever goes wrong with one reply on a shard's disk, nobody waits for ever."""
    shard = Shard(Opening(0, "run", "", str(tmp_path), {}, local_only=True))
    shard._ledger = ShardLedger(tmp_path, 1)
    entry = Entry("key", MODEL, 0, "{}", "a reply", "stop", 10, 5, 0.02, 1.0)

    async def keep():
        with pytest.raises(AttributeError):
            await asyncio.wait_for(shard._kept(None), 60)
        await asyncio.wait_for(shard._kept(Payment(7, entry, 0.02, 10, 5)), 60)
        return await shard.end([])

    assert [one.number for one in asyncio.run(keep())] == [7]


def test_shards_have_the_threads_and_places_of_this_machine(tmp_path, monkeypatch):
    """Shards add up with as many threads as torch does here, and find models in the same folders from anywhere."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAFT_MODELS", "models")
    monkeypatch.setenv("RAFT_CACHE", "cache")
    monkeypatch.delenv("HF_HOME", raising=False)
    count = "import torch; print(torch.get_num_threads())"
    threads = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    told = cluster.environment()
    assert told["OMP_NUM_THREADS"] == threads
    places = [str(tmp_path / "models"), str(tmp_path / "cache"), None]
    assert [told[name] for name in ("RAFT_MODELS", "RAFT_CACHE", "HF_HOME")] == places


def test_ledgers_on_other_nodes_are_this_users_alone(tmp_path, monkeypatch):
    """The folder of shards among temporary files is closed to others, and one that somebody else laid is refused."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opening = Opening(0, "run", "elsewhere", "unused", {}, local_only=True)
    (own := tmp_path / f"raft-shards-{os.getuid()}").mkdir(mode=0o777)
    assert folder_of(opening, "here") == own / "run"
    assert own.stat().st_mode & 0o777 == 0o700
    own.rename(tmp_path / "another")
    own.symlink_to(tmp_path / "another")
    with pytest.raises(RaftError, match="another user's"):
        folder_of(opening, "here")


def test_local_models_make_the_same_on_shards(engine, tiny_student, monkeypatch):
    """Vectors and sampled replies by shards, one of which is killed at each, are those of one machine to the bit."""
    embedder, model = SentenceEmbedder("sentence-transformers/all-MiniLM-L6-v2"), LocalModel(str(tiny_student), batch=2)
    lots = [[f"Pump {lot} has {number} valves." for number in range(5)] for lot in range(3)]
    calls = [
        Request(({"role": "user", "content": f"How many {'x' * number}?"},), max_tokens=5, temperature=number % 2)
        for number in range(8)
    ]
    wanted = [True] * 7 + [False]
    asked = engines.RayEngine.ask
    monkeypatch.setattr(engines.RayEngine, "ask", killing("embed", "", asked))
    spread = SpreadEmbedder("sentence-transformers/all-MiniLM-L6-v2", embedder, engine)
    begun = [spread.begin(lot) for lot in lots]
    for lot, wait in zip(lots, begun, strict=True):
        assert np.array_equal(wait(), embedder.embed(lot))
    monkeypatch.setattr(engines.RayEngine, "ask", killing("answer", "", asked))
    replies = {place: reply for some in model.answer(calls, wanted) for place, reply in some}
    by_shards = [one for some in SpreadModel(model, 2, engine).answer(calls, wanted) for one in some]
    assert {place: reply.text for place, reply in by_shards} == {place: one.text for place, one in replies.items()}
    assert len(by_shards) == 7


def test_a_shard_that_always_dies_is_one_error(engine, monkeypatch):
    """Shards that die at once, each time, end the build with a command that goes on without them."""

    class Dying:
        def __init__(self, opening):
            os._exit(1)

        async def ready(self):
            return ""

        async def end(self, taken):
            return []

    monkeypatch.setattr(engines, "Shard", Dying)
    with pytest.raises(RaftError, match="Each of the 2 shards died 3 times") as caught:
        engine.start()
    assert caught.value.hint.startswith("the same command with --engine local")


def test_work_that_kills_each_shard_is_one_error(engine):
    """A piece of work that three shards die of is not tried for ever."""
    with pytest.raises(RaftError, match="3 shards died one after the other"):
        engine.begin(lambda *_: os._exit(1))()


def test_a_place_that_was_given_up_stays_given_up(ray, tmp_path):
    """What a shard did before it died for the last time brings nothing back, and its end is told once."""
    told, opening = [], Opening(0, "run", "", str(shards_of(tmp_path)), {}, local_only=True)
    say = lambda event, facts: told.extend([facts["given_up"]] if event == "shard lost" else [])  # noqa: E731
    how = {"cards": 0, "ledger": tmp_path / "l", "opening": opening, "merged": lambda: None, "say": say}
    with engines.RayEngine(None, 1, **how) as made:
        first, second = made.begin(lambda *_: 1), made.begin(lambda *_: 2)
        assert second() == 2
        made._places[0].deaths = engines._DEATHS - 1
        third, fourth = made.begin(lambda *_: os._exit(1)), made.begin(lambda *_: 4)
        with pytest.raises(RaftError, match="shards died 3 times"):
            third()
        assert first() == 1
        with pytest.raises(RaftError, match="shards died 3 times"):
            fourth()
    assert told == [True]


def test_a_shard_that_never_began_is_not_asked_what_it_has(engine, ray, monkeypatch):
    """A build does not wait at its end for shards that no node has room for."""
    asked, wait = [], ray.wait
    engine.start()
    place = next(place for place in engine._places if engine._is_ready(place))
    other = next(one for one in engine._places if one is not place)
    ray.kill(other.seat.actor)
    waiting = ray.remote(Shard).options(num_gpus=99).remote(engine._opening)
    other.seat = engines._Seat(waiting, waiting.ready.remote().future())
    monkeypatch.setattr(ray, "wait", lambda refs, **how: [asked.append(len(refs)), wait(refs, **how)][1])
    assert engine._end() == []
    assert asked == [1]


def seat(*, ready):
    """Return a shard of no Ray, which does what it is given at once if it is ready, and nothing else ever."""
    actor = SimpleNamespace(do=SimpleNamespace(remote=lambda work, given, shared: work(*given) if ready else None))
    made = engines._Seat(actor, Future())
    if ready:
        made.ready.set_result(("node", "ledger"))
    return made


def test_work_waits_for_no_shard_that_never_comes(tmp_path, monkeypatch):
    """Where shards die and there is no room for others, work goes to one that is ready, and else ends with a word."""

    def wait(refs, **_):
        assert refs != [None], "it waits for ever"
        return refs, []

    made = crew(tmp_path, 2, 0)
    made._ray = SimpleNamespace(wait=wait, get=lambda ref: ref, exceptions=engines.import_ray().exceptions)
    made._started, made._look_at = True, float("inf")  # nobody looks for its head
    made._places = [engines._Place(1, seat(ready=False)), engines._Place(2, seat(ready=True))]
    made._places[1].seat.in_flight = 9
    assert made.begin(lambda *_: 7)() == 7
    made._places[1] = engines._Place(2, seat(ready=False), deaths=1, why="it was out of memory")
    monkeypatch.setattr(engines, "_START_SECONDS", 0.1)
    with pytest.raises(RaftError, match=r"No shard was started.* One died before: it was out of memory") as caught:
        made.begin(lambda *_: 8)()
    assert caught.value.hint.startswith("ray status ")


async def until(so):
    """Wait until it is so, and no longer than a minute."""
    async with asyncio.timeout(60):
        while not so():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("patience", [60.0, -59.5])
def test_a_call_that_is_no_more_waited_for_weighs_on_no_shard(engine, monkeypatch, patience):
    """A shard whose call was cancelled, or not answered in time, has no more to do than before."""
    monkeypatch.setattr(engines, "_SPARE_SECONDS", patience)
    engine.start()
    call = Call("key", Request(({"role": "user", "content": "How many?"},), max_tokens=5), 0)

    async def send(url):
        asked = Asked(Wire(MODEL, url, "sk", 60.0, 1), None, None)
        sending = asyncio.get_running_loop().create_task(engine.send(asked, 1, call, None))
        if patience > 0:
            await until(lambda: fake.waiting)
            sending.cancel()
        with pytest.raises(asyncio.CancelledError if patience > 0 else Transient):
            await sending

    with FakeOpenAI({"": ["timeout"]}) as fake:
        asyncio.run(send(fake.url))
    assert [place.seat.in_flight for place in engine._places] == [0, 0]


def test_a_head_that_is_gone_is_told_once_and_stays_gone(engine, monkeypatch):
    """While one thread looks for the head, others wait for what it finds, an event loop free; it is told once."""
    told, seen = [], []
    engine._say = lambda event, facts: told.append(event)
    engine.start()
    told.clear()
    engine._look_at = 0.0
    monkeypatch.setattr(engines, "_HEAD_SECONDS", 0.0)

    def answers(ray):
        seen.append(threading.get_ident())
        if len(seen) == 1:
            others.append(at_once.submit(engine._check_head))
            futures.wait(others, timeout=0.3)
        return len(seen) > 1

    async def send():
        with pytest.raises(RaftError, match="head of the Ray cluster does not answer"):
            await engine._free()

    monkeypatch.setattr(engines, "answers", answers)
    with ThreadPoolExecutor(1) as at_once:
        others = []
        asyncio.run(send())
        others[0].result()
    engine._check_head()
    assert told == ["shard lost"] * 2
    assert threading.get_ident() not in seen
    assert len(seen) == 1


def test_what_a_dead_shard_left_is_read_beside_what_is_written(engine, tmp_path):
    """While it is looked for what a dead shard had, the threads that write the run's ledger are free."""
    engine.start()
    call = Call("key", Request(({"role": "user", "content": "How many?"},), max_tokens=5), 0)

    async def send(url):
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        sending = loop.create_task(engine.send(Asked(Wire(MODEL, url, "sk", 60.0, 1), None, None), 1, call, None))
        await until(lambda: fake.waiting)
        with engine._reading:
            kill(engine)
            await until(lambda: any(place.deaths for place in engine._places))
            assert await asyncio.wait_for(loop.run_in_executor(None, len, "it"), 60) == 2
        with pytest.raises(Transient, match="died"):
            await sending

    with FakeOpenAI({"": ["timeout"]}) as fake:
        asyncio.run(send(fake.url))


def test_an_error_of_a_document_comes_back_as_it_is(engine):
    """What work on a shard raises for the user is raised here, with its hint."""
    with pytest.raises(UsageError) as caught:
        engine.begin(_raise_usage)()
    assert caught.value.hint == "--out somewhere"


def test_an_error_that_nobody_foresaw_is_one_error(engine):
    """What fails on a shard without words for the user is one error that says what it was, with what goes on."""
    with pytest.raises(RaftError, match="ZeroDivisionError") as caught:
        engine.begin(lambda *_: 1 / 0)()
    assert "--engine local" in caught.value.hint


def _raise_usage(_):
    raise UsageError("It is wrong.", where="here", hint="--out somewhere")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://127.0.0.1:10001", "engine.address is host:port"),
        ("127.0.0.1:port", "engine.address is host:port"),
        ("127.0.0.1:99999", "engine.address is host:port"),
        ("ada:secret@127.0.0.1:6379", r"engine.address is host:port, and it is '\*\*\*@127"),
        ("..:6379", "No Ray cluster answers at"),
        ("127.0.0.1:{closed}", "No Ray cluster answers at"),
        ("127.0.0.1:{http}", "is no Ray, or one with TLS"),
        ("127.0.0.1:{silent}", "does not answer in 1 seconds"),
        ("127.0.0.1:{grpc}", "is no Ray"),
    ],
)
def test_an_address_that_is_no_ray_is_one_error(address, says, monkeypatch):
    """What is no Ray cluster is told at once, with the command that goes on, also where it speaks gRPC or nothing."""
    monkeypatch.setattr(cluster, "_REACH_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    other = grpc.server(ThreadPoolExecutor(1))
    with FakeOpenAI() as fake, socket.create_server(("127.0.0.1", 0)) as listening:
        ports = {"http": fake.url.rpartition(":")[2].removesuffix("/v1"), "silent": listening.getsockname()[1]}
        place = address.format(closed=closed, grpc=other.add_insecure_port("127.0.0.1:0"), **ports)
        other.start()
        with pytest.raises(UsageError, match=says) as caught, cluster.connected(place, 2):
            pass
    other.stop(None)
    assert "--engine local" in caught.value.hint or "engine.address=127.0.0.1:6379" in caught.value.hint


@pytest.mark.parametrize("lacking", ["grpc", "ray._private.grpc_utils"])
def test_a_ray_without_its_own_parts_speaks_for_itself(ray, monkeypatch, lacking):
    """Where this Ray has not what its head is asked with, or has it otherwise, nothing is told that nobody knows."""
    monkeypatch.setitem(sys.modules, lacking, None)
    cluster._check_ray(ray.get_runtime_context().gcs_address)
    monkeypatch.setitem(sys.modules, lacking, ModuleType(lacking))
    cluster._check_ray(ray.get_runtime_context().gcs_address)


def test_a_head_that_restarts_is_waited_for(monkeypatch):
    """A head that answers again after some seconds is there; one that does not is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = listening.getsockname()
    head = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(gcs_address="{}:{}".format(*place)))
    waited, back = [], []
    monkeypatch.setattr(cluster.time, "sleep", waited.append)
    assert not cluster.answers(head)
    assert sum(waited) >= 3

    def pause(seconds):
        waited.append(seconds)
        if sum(waited) >= 3:
            back.append(socket.create_server(place))

    waited.clear()
    monkeypatch.setattr(cluster.time, "sleep", pause)
    assert cluster.answers(head)
    back[0].close()


def test_a_cluster_of_another_ray_is_one_error(ray, monkeypatch):
    """What the head says of its Ray is read before Ray's own library speaks to it, and the versions are told."""
    there = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.1.0")
    address, says = ray.get_runtime_context().gcs_address, f"another Ray or Python.* Ray {there} there, and Ray 2.1.0"
    with pytest.raises(UsageError, match=says) as caught, cluster.connected(address, 2):
        pass
    assert caught.value.hint.startswith("pip install ray==2.1.0 ")


def test_a_cluster_that_asks_for_a_token_is_one_error(ray, monkeypatch):
    """A head that is not told its token is no other program: what to set is said."""
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr("ray._private.authentication.authentication_utils.is_token_auth_enabled", lambda: False)
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(UsageError, match="token is missing") as caught, cluster.connected(address, 2):
        pass
    assert caught.value.hint.startswith("export RAY_AUTH_MODE=token ")


_OTHER_PYTHON = """
from raft.backends.ray import cluster
from raft.errors import UsageError

ray = cluster.import_ray()
ray._private.utils.compute_version_info = lambda: (ray.__version__, "3.8.1")
try:
    with cluster.connected({address!r}, 2):
        print("it is used")
except UsageError as error:
    print(error)
"""


def test_a_cluster_of_another_python_is_one_error(ray):
    """A build of another Python than the cluster's is refused in one line, with both versions and what to install."""
    ended = joining(_OTHER_PYTHON.format(address=ray.get_runtime_context().gcs_address))
    assert "another Ray or Python" in ended.stdout, ended
    assert "Python: 3.8.1" in ended.stdout
    assert f"pip install ray=={ray.__version__}" in ended.stdout
    assert "Traceback" not in ended.stderr


def crew(tmp_path, count, cards, say=lambda event, facts: None):
    """Return so many shards that take so many cards each."""
    opening = Opening(0, "run", "", str(shards_of(tmp_path)), {}, local_only=True)
    how = {"cards": cards, "ledger": tmp_path / "l", "opening": opening, "merged": lambda: None, "say": say}
    return engines.RayEngine(None, count, **how)


def test_shards_that_there_is_no_room_for_are_told_and_not_waited_for(ray, tmp_path):
    """Where fewer shards have room than are asked for, those do the work, and it is said for how many there is."""
    told = []
    with crew(tmp_path, 5, 0, lambda event, facts: told.append(facts)) as made:
        assert [wait() for wait in [made.begin(lambda number, _: number, one) for one in range(6)]] == list(range(6))
    assert (told[0]["shards"], told[0]["room"]) == (5, 3)
    assert "5 on 1 node, " in progress._shards(told[0])
    assert progress._shards(told[0]).endswith("and there is room for 3 so far")


def test_a_cluster_may_grow_until_there_is_room(another, ray, tmp_path):
    """Where no node has room yet, a node that comes later has its shard."""
    with crew(tmp_path, 1, 1) as made, ThreadPoolExecutor(1) as beside:
        started = beside.submit(made.start)
        asyncio.run(until(lambda: made._places))
        another.add_node(num_cpus=1, num_gpus=1)
        started.result(60)
        assert made._places[0].seat.node != ray.get_runtime_context().get_node_id()
    shutil.rmtree(folder_of(made._opening, "another"), ignore_errors=True)


def test_a_cluster_that_never_has_room_is_one_error(ray, tmp_path, monkeypatch):
    """Where no node ever has what a shard takes, that is told after a while; by a Ray that is raft's own, at once."""
    with crew(tmp_path, 1, 2) as made, pytest.raises(RaftError, match=r"engine.cards=2\.") as caught:
        made.here = True
        made.start()
    assert "--set engine.cards=0" in caught.value.hint
    monkeypatch.setattr(engines, "_START_SECONDS", 0.5)
    with crew(tmp_path, 1, 2) as made, pytest.raises(RaftError, match="No shard was started") as caught:
        made.start()
    assert caught.value.hint.startswith("ray status ")


def test_a_cluster_with_another_raft_is_one_error(ray, monkeypatch):
    """A node whose raft is another one is named, with what to install there."""
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    says = r"has not the raft of this process, 0\.0\.1"
    with pytest.raises(UsageError, match=says) as caught, cluster.connected(None, 2):
        pass
    assert "pip install" in caught.value.hint


def test_local_only_refuses_a_ray_of_other_machines(ray, monkeypatch):
    """With local_only a cluster is taken that is on this machine, and refused with the addresses of what is not."""
    with cluster.connected(None, 2, local_only=True):
        pass
    found = [*cluster.nodes(ray), {"NodeID": "far", "NodeManagerAddress": "203.0.113.7"}]
    monkeypatch.setattr(cluster, "nodes", lambda ray: found)
    says = r"not this machine: 203\.0\.113\.7"
    with pytest.raises(UsageError, match=says), cluster.connected(None, 2, local_only=True):
        pass
