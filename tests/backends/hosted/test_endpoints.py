"""Several endpoints of one model: who is asked, who is left out, and that nothing depends on who answered."""

import asyncio
import sqlite3
import threading
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import raft
from fake_openai import ERRORS, FakeOpenAI, _error
from raft import settings as config
from raft.api import models
from raft.backends.embedding import HostedEmbedder
from raft.backends.hosted import endpoints as choosing
from raft.backends.hosted.calls import Call, RequestPool
from raft.backends.hosted.endpoints import Endpoint, Endpoints, Standing, Tally
from raft.backends.hosted.errors import AccessDenied, NoEndpoint, RateLimited, Transient
from raft.backends.hosted.rate_limit import RateLimiter
from raft.errors import RaftError, UsageError
from raft.protocols import Failure, Request
from raft.store.budget import Budget, Price
from raft.store.ledger import CachedEmbedder, Entry, Ledger, known_as, request_key
from raft.testing import HashEmbedder, WordTokenizer
from simulated import Endpoint as Memory
from simulated import SimulatedLoop
from simulated import run as simulated

MODEL = "openai/test-model"
REFUSED = Transient("connection refused", billed=False, reached=False)
BROKEN = Transient("HTTP status 500", billed=False)


class Choosing(RuleBasedStateMachine):
    """Calls come, go, fail and are given up while time passes, at up to four endpoints of small limits."""

    @initialize(limits=st.lists(st.integers(1, 4), min_size=2, max_size=4))
    def open(self, limits):
        """Open endpoints on a clock that jumps."""
        self.loop, self.tasks, self.places = SimulatedLoop(), [], []
        self.all = [Endpoint(f"e{place}", RateLimiter(most), lambda: None) for place, most in enumerate(limits)]
        self.endpoints = Endpoints(self.all)

    def run(self, action=lambda: None, seconds=0.0):
        """Do something in the loop, let time pass, and look at each call that was let in meanwhile."""

        async def go():
            action()
            await asyncio.sleep(seconds)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        denied, until = [one for one in self.all if one.standing.denied], [one.standing.until for one in self.all]
        self.loop.run_until_complete(go())
        came = [task for task in self.tasks if task.done() and not task.cancelled()]
        self.tasks = [task for task in self.tasks if not task.done()]
        self.places += [task.result() for task in came]
        assert not {task.result().endpoint for task in came} & {*denied}
        for place in (task.result() for task in came):
            was = until[self.all.index(place.endpoint)]
            assert not place.single or was is None or place.begun >= was - 1e-5

    @rule(failed=st.sets(st.integers(0, 3)))
    def ask(self, failed):
        """One more call wants to be sent, which some endpoints have failed before."""
        besides = {self.all[place] for place in failed if place < len(self.all)}
        self.run(lambda: self.tasks.append(self.loop.create_task(self.endpoints.enter(10, besides))))

    @precondition(lambda self: self.places)
    @rule(
        place=st.integers(0, 30),
        fault=st.sampled_from(
            [None, None, REFUSED, BROKEN, RateLimited("busy"), RateLimited("busy", retry_after=3.0), "cut"]
        ),
    )
    def end(self, place, fault):
        """A call ends: answered, failed, or cut by whoever sent it."""
        place = self.places.pop(place % len(self.places))
        found = None if fault == "cut" else fault
        self.run(lambda: self.endpoints.leave(place, found, answered=fault is None))

    @precondition(lambda self: self.places and sum(one.standing.denied for one in self.all) + 1 < len(self.all))
    @rule(place=st.integers(0, 30))
    def deny(self, place):
        """An endpoint refuses all calls; one is left that does not."""
        place = self.places.pop(place % len(self.places))
        self.run(lambda: self.endpoints.leave(place, AccessDenied("wrong key"), answered=False))

    @precondition(lambda self: self.tasks)
    @rule(number=st.integers(0, 30))
    def give_up(self, number):
        """Who waits is cancelled."""
        self.run(self.tasks[number % len(self.tasks)].cancel)

    @rule(seconds=st.sampled_from([0.1, 0.6, 5.0, 40.0]))
    def wait(self, seconds):
        """Time passes."""
        self.run(seconds=seconds)

    @invariant()
    def within_limits(self):
        """No endpoint has more in flight than its limit, nor is a place lost; one that is out is tried by one call."""
        for one in self.all:
            mine = [place for place in self.places if place.endpoint is one]
            assert len(mine) == one.limiter.in_flight <= one.limiter.most
            assert sum(place.single for place in mine) == one.standing.trying <= 1
            if one.standing.until is not None:
                since = one.went_out = getattr(one, "went_out", None) or self.loop.time()
                assert all(place.single or place.begun <= since for place in mine)
            else:
                one.went_out = None

    def teardown(self):
        """All calls end, once those that are sent are answered."""
        for _ in range(500):
            if not (self.tasks or self.places):
                break
            while self.places:
                place = self.places.pop()
                self.run(lambda place=place: self.endpoints.leave(place, None, answered=True))
            self.run(seconds=1.0)
        assert not self.tasks
        self.loop.close()


TestChoosing = Choosing.TestCase
TestChoosing.settings = how(
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_what_one_endpoint_has_failed_goes_to_another_that_has_more_to_do():
    """A call goes back to the endpoint that failed it only where no other takes calls, however idle that one is."""
    first, second = (Endpoint(name, RateLimiter(4), lambda: None) for name in "ab")
    places = Endpoints([first, second])

    async def go():
        busy = [await places.enter(1, {first}) for _ in range(3)]
        failed = await places.enter(1, {first})
        either = await places.enter(1)
        both = await places.enter(1, {first, second})
        return [*busy, failed, either, both]

    went = [place.endpoint for place in simulated(go())]
    assert went == [second, second, second, second, first, first]


def call(text):
    """Return a call with one user turn."""
    request = Request(({"role": "user", "content": text},), max_tokens=50)
    return Call(request_key(request, "m", 0), request, 0)


def ask(ledger, memories, texts, most=4, tallies=None):
    """Return what becomes of calls to endpoints in memory, and their tallies, which may be those of a pool before."""
    tallies = tallies or [Tally(f"http://e{place}/v1") for place in range(len(memories))]
    places = [
        Endpoint(tally.where, RateLimiter(most), memory.transport, tally)
        for tally, memory in zip(tallies, memories, strict=True)
    ]
    budget, waiting, results = Budget(ledger, run="r", model="m", price=Price(1, 1), cap=None), [*map(call, texts)], {}
    for memory in memories:
        memory.gate.clear()
    with RequestPool(Endpoints(places), budget=budget, model="m", loop=SimulatedLoop) as pool:
        while len(results) < len(texts):
            while waiting and pool.room:
                pool.submit(waiting.pop(0))
            for memory in memories:
                memory.gate.set()
            results |= {made.request.messages[-1]["content"]: outcome for made, outcome in pool.collect()}
    return results, tallies


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


class Failing(Memory):
    """An endpoint in memory that fails in some way while `fails` of the time says so."""

    def __init__(self, fault, fails=lambda now: True, seconds=0.01):
        super().__init__()
        self.fault, self.fails, self.seconds = fault, fails, seconds

    async def send(self, request):
        """Answer, or fail."""
        now = asyncio.get_running_loop().time()
        if not self.fails(now):
            return await super().send(request)
        self.times.append(now)
        await asyncio.sleep(self.seconds)
        raise self.fault


def test_calls_go_where_the_fewest_are_in_flight(ledger):
    """Three endpoints that are as fast as each other answer a third each."""
    _, tallies = ask(ledger, [Memory(), Memory(), Memory()], [f"number {i}" for i in range(60)])
    assert [one.answered for one in tallies] == [20, 20, 20]


def test_a_slower_endpoint_gets_fewer_calls(ledger):
    """An endpoint that takes four times as long holds its share in flight, and answers the fewer calls."""
    _, tallies = ask(ledger, [Memory(), Memory(latency=0.8)], [f"number {i}" for i in range(60)])
    assert tallies[0].answered > 2 * tallies[1].answered > 0


@pytest.mark.parametrize("fault", [REFUSED, BROKEN, RateLimited("busy", retry_after=30.0), RateLimited("busy")])
def test_a_call_that_fails_goes_elsewhere_at_once(ledger, fault):
    """What one endpoint fails another one answers without a wait, however often, and it is no failure of the call."""
    broken, good = Failing(fault), Memory()
    results, tallies = ask(ledger, [broken, good], [f"number {i}" for i in range(40)])
    assert all(isinstance(one, Entry) for one in results.values())
    assert [one.answered for one in tallies] == [0, 40]
    assert max(good.times) < 6.0  # 40 calls at 4 at once and 0.2 s each; one wait would be as long


def test_an_endpoint_is_left_out_for_a_growing_while_and_tried_by_one_call(ledger):
    """Each try of an endpoint that is away waits twice as long as the one before, and is a single call."""
    away = Failing(REFUSED)
    ask(ledger, [away, Memory()], [f"number {i}" for i in range(400)])
    tries = [now for now in away.times if now > 0.1]  # the first calls all go there at one moment
    waits = [later - now for now, later in pairwise(tries)]
    assert len(waits) >= 3
    assert all(later > 1.5 * wait for wait, later in pairwise(waits))


def test_an_endpoint_that_comes_back_gets_calls_again(ledger):
    """After one call was answered there, an endpoint that was away has as many in flight as the others."""
    back = Failing(REFUSED, lambda now: now < 3.0)
    results, tallies = ask(ledger, [back, Memory()], [f"number {i}" for i in range(300)])
    assert all(isinstance(one, Entry) for one in results.values())
    assert tallies[0].answered > 20
    assert back.peak == 4


def test_where_all_are_away_the_error_names_them(ledger):
    """Where no endpoint answers, the run waits, tries, and ends with an error that names each address to look at."""
    away = [Failing(REFUSED), Failing(BROKEN)]
    with pytest.raises(RaftError, match="None of the 2 endpoints of m answers") as caught:
        ask(ledger, away, [f"number {i}" for i in range(9)])
    assert "http://e0/v1" in caught.value.hint and "http://e1/v1" in caught.value.hint
    assert "connection refused" in str(caught.value) and "HTTP status 500" in str(caught.value)
    assert max(now for one in away for now in one.times) > 3  # of eight tries, with waits that double
    assert ledger.read("SELECT COUNT(*) FROM calls WHERE state = 'open'") == [(0,)]


def test_where_all_are_busy_for_longer_than_anybody_waits_the_run_ends(ledger):
    """Where the first endpoint to be back asks to wait for hours, that is told at once."""
    with pytest.raises(RaftError, match="asks to wait 7,200 seconds"):
        ask(ledger, [Failing(RateLimited("quota", retry_after=9000)), Failing(RateLimited("q", retry_after=7200))], "x")


def test_all_that_is_busy_for_a_while_is_waited_for(ledger):
    """Where all endpoints are away for a minute, no call is lost."""
    memories = [Failing(REFUSED, lambda now: now < 20), Failing(RateLimited("b", retry_after=9), lambda now: now < 8)]
    results, _ = ask(ledger, memories, [f"number {i}" for i in range(30)])
    assert all(isinstance(one, Entry) for one in results.values())


@pytest.mark.parametrize("fault", [AccessDenied("Incorrect API key"), NoEndpoint("404")])
def test_an_endpoint_that_refuses_all_does_not_stop_the_others(ledger, fault):
    """One with a wrong key or without the model is asked no more and told of; another answers."""
    denying = Failing(fault)
    results, tallies = ask(ledger, [denying, Memory()], [f"number {i}" for i in range(20)])
    assert all(isinstance(one, Entry) for one in results.values())
    assert (tallies[0].denied, tallies[0].words, tallies[1].denied) == (True, fault.words, False)
    assert len(denying.times) <= 4


def test_where_all_refuse_the_run_stops_with_the_words_of_each():
    """Where no endpoint takes the key, that is a usage error with each address and what it said."""
    with closing(Ledger(Path(":memory:"))) as ledger, pytest.raises(UsageError) as caught:
        ask(ledger, [Failing(AccessDenied("wrong key")), Failing(AccessDenied("no such model"))], "x")
    assert "http://e0/v1: wrong key" in str(caught.value) and "http://e1/v1: no such model" in str(caught.value)
    assert "OPENAI_API_KEY" in caught.value.hint or "_API_KEY" in caught.value.hint


def test_a_call_that_no_endpoint_bears_is_given_up_alone(ledger):
    """A request that breaks each endpoint is a failure of its own; the others are answered."""
    plan = {"poison": [BROKEN] * 40}
    results, _ = ask(ledger, [Memory(plan), Memory(plan)], ["poison", *(f"number {i}" for i in range(500))], most=2)
    assert isinstance(results.pop("poison"), Failure)
    assert all(isinstance(one, Entry) for one in results.values())


def test_pools_of_one_call_share_the_endpoints_too(ledger):
    """Where each question has a pool of its own, as in a server, endpoints take turns; one that is out is let be."""
    memories, tallies = [Memory(), Failing(REFUSED, lambda now: now < 1), Memory()], None
    for number in range(8):
        results, tallies = ask(ledger, memories, [f"number {number}"], tallies=tallies)
        assert all(isinstance(one, Entry) for one in results.values())
    assert [one.answered for one in tallies] == [4, 0, 4]
    assert len(memories[1].times) == 1


def test_a_pool_that_begins_where_all_were_out_asks_at_once(ledger):
    """What a former pool knew of endpoints, all of which were away, keeps nobody waiting."""
    tallies = [Tally("http://e0/v1", until=1e9, outs=99), Tally("http://e1/v1", until=1e9, outs=99)]
    memories = [Memory(), Memory()]
    ask(ledger, memories, ["one", "two"], tallies=tallies)
    assert all(len(memory.times) == 1 and memory.times[0] < 1 for memory in memories)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "no connection to http://e0:8000/v1/chat/completions: [Errno 111] refused",
            "no connection: [Errno 111] refused",
        ),
        ("the connection to http://e0:8000/v1/chat/completions broke: reset", "the connection broke: reset"),
        ("http://e0:8000/v1 is no home of http://e0:80", "is no home of http://e0:80"),
        ("overloaded", "overloaded"),
    ],
)
def test_what_an_endpoint_said_is_told_without_its_address(words, told):
    """The address stands beside the words already."""
    standing = Standing(Tally("http://e0:8000/v1"))
    standing.fail(0.0, 0.0, Transient(words, billed=False), single=False)
    assert standing.tally.words == told


def test_an_endpoint_that_is_away_for_days_stops_nobody():
    """However often an endpoint is left out, or asks for fewer calls, it is tried again within half a minute."""
    standing, now = Standing(Tally("http://e0/v1")), 0.0
    for number in range(3000):
        standing.fail(now, now, REFUSED, single=number > 0)
        assert standing.until is not None and 0 < standing.until - now <= 30
        now = standing.until
        standing.take()

    async def refused():
        limiter, loop = RateLimiter(4), asyncio.get_running_loop()
        for _ in range(3000):
            await limiter.enter(1)
            limiter.leave("busy", seconds=0.0)
        return loop.time()

    assert simulated(refused()) <= 3000 * 7


def test_calls_that_fail_while_each_endpoint_is_being_tried_wait_for_what_comes_of_it(ledger):
    """Where both endpoints are out and a single call is at each, others that fail meanwhile do not end the run."""

    class Waking(Memory):
        async def send(self, request):
            if asyncio.get_running_loop().time() >= 1:
                self.latency = 100.0
                return await super().send(request)
            self.seen.append(request)
            await asyncio.sleep(10 * len(self.seen))
            raise BROKEN

    results, _ = ask(ledger, [Waking(), Waking()], [f"number {i}" for i in range(8)])
    assert all(isinstance(one, Entry) for one in results.values())


def test_a_call_that_costs_each_time_is_not_sent_to_every_endpoint(ledger):
    """A request that times out wherever it is sent is given up after three tries that may be billed, not one each."""
    timeout = Transient("no reply within 60 seconds", billed=True)
    memories = [Memory({"poison": [timeout] * 40}) for _ in range(8)]
    results, _ = ask(ledger, memories, ["poison", *(f"number {i}" for i in range(200))], most=2)
    assert isinstance(results.pop("poison"), Failure) and all(isinstance(one, Entry) for one in results.values())
    assert sum(memory.texts.count("poison") for memory in memories) == 3


def test_a_call_that_moves_has_used_no_try(ledger):
    """What both endpoints turn away 19 times each is one try short of being given up: only the second of two counts."""
    plan = {"odd": [RateLimited("busy")] * 19}
    both = [Memory(plan), Memory(plan)]
    results, _ = ask(ledger, both, ["odd", *(f"number {i}" for i in range(200))])
    assert isinstance(results["odd"], Entry)
    assert sum(one.texts.count("odd") for one in both) > 20


def test_who_refuses_all_ends_nothing_while_another_is_away(ledger):
    """Where one endpoint refuses the key and the other comes back only later, the calls wait for that one."""
    away = Failing(REFUSED, lambda now: now < 5.0)
    denying = Failing(AccessDenied("wrong key"), seconds=0.2)  # by then the other one is left out
    results, tallies = ask(ledger, [denying, away], [f"number {i}" for i in range(20)])
    assert all(isinstance(one, Entry) for one in results.values())
    assert [one.answered for one in tallies] == [0, 20]


A, B, C = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", "http://127.0.0.1:3/v1"


@pytest.mark.parametrize("steps", [[A, [A, B], [B], [B, C], C], [[A, B, C], [C, A], [C], [B, C], B], [[A, B], [A]]])
def test_an_address_that_comes_or_goes_is_the_same_model(ledger, steps):
    """Whatever is added to a list or taken from it, the first included, replies are kept under one name."""
    assert {known_as(ledger, "m", step)[0] for step in steps} == {A}


def test_addresses_that_were_never_one_list_are_not_mixed(ledger):
    """An address by itself is itself, as ever; and what one model's endpoints are says nothing of another model."""
    assert known_as(ledger, "m", A) == (A,)
    assert known_as(ledger, "m", B) == (B,)
    known_as(ledger, "m", [A, C])
    assert known_as(ledger, "m", B) == (B,)
    assert known_as(ledger, "other", C) == (C,)
    assert known_as(ledger, "m", None) == ()


def test_replies_under_any_address_of_a_list_are_found(ledger):
    """A run that was begun with one address finds its replies also where that stands second in the list."""
    assert known_as(ledger, "m", [B, A]) == (B, A)
    assert known_as(ledger, "m", A) == (B, A)


def test_vectors_under_any_address_of_a_list_are_found(ledger):
    """Texts that were embedded at one address are not embedded again where it is one of several."""

    class Counting(HostedEmbedder):
        def embed(self, texts):
            asked.append(list(texts))
            return HashEmbedder().embed(texts)

    asked = []
    for base in (A, [B, A], [B], [C, B]):
        embedder = Counting(MODEL, api_base=base, known_as=known_as(ledger, MODEL, base))
        cached = CachedEmbedder(embedder, ledger)
        cached.embed(["one", "two"])
        assert cached.known(["one", "new"]) == [True, False]
    assert asked == [["one", "two"]]


def test_an_embedder_goes_from_one_endpoint_to_the_next(monkeypatch):
    """Texts that one endpoint fails are embedded by another at once; one with a wrong key is asked no more."""
    litellm = models.hub.import_litellm() if hasattr(models.hub, "import_litellm") else __import__("litellm")
    asked = []

    def embedding(*, input, api_base, **_):
        asked.append(api_base)
        if api_base == A:
            raise litellm.AuthenticationError("wrong key", llm_provider="openai", model="m")
        if api_base == B and asked.count(B) == 1:
            raise litellm.APIConnectionError("refused", llm_provider="openai", model="m")
        data = [{"index": place, "embedding": [1.0, 0.0]} for place, _ in enumerate(input)]
        return type("Reply", (), {"data": data})()

    monkeypatch.setattr(litellm, "embedding", embedding)
    embedder = HostedEmbedder(MODEL, api_base=[A, B, C], attempts=1)
    for _ in range(3):
        assert embedder.embed(["one"]).shape == (1, 2)
    assert asked[:3] == [A, B, C]
    assert asked.count(A) == 1
    assert [one.denied for one in embedder.tallies] == [True, False, False]


class Counted(FakeOpenAI):
    """A server that tells of each request before it takes it; `watch` returns True where it has seen to it itself."""

    def __init__(self, watch=lambda connection, data: False, **options):
        super().__init__(**options)
        self.watch = watch

    def __exit__(self, *_):
        with suppress(RuntimeError):  # it has died
            super().__exit__()

    def take(self, connection, data):
        """Take a request in."""
        if not self.watch(connection, data):
            super().take(connection, data)


class Storm:
    """Three servers: the first dies after some requests and comes back, the third answers 429 for a while.

    Once the first is to come back, the others keep their calls until it was asked: no clock decides what is met.
    """

    def __init__(self, stack, *, dies_after=8, back_after=12, busy=5):
        self.stack, self.dies_after, self.back_after, self.busy = stack, dies_after, back_after, busy
        self.servers = [stack.enter_context(Counted()) for _ in range(3)]
        self.urls = [server.url for server in self.servers]
        self.later, self.dead, self.keeps, self.held, self.lock = None, False, False, [], threading.Lock()
        first, second, third = self.servers
        first.watch, second.watch, third.watch = self._dying, self._reviving, self._busy

    def _dying(self, connection, data):
        self.dead = self.servers[0].came >= self.dies_after
        if self.dead:
            self.servers[0].stop()
        return self.dead

    def _reviving(self, connection, data):
        self.back_after -= self.dead
        if self.later is None and self.back_after <= 0:
            self.keeps = True
            self.servers[0]._thread.join()
            port = int(self.urls[0].removesuffix("/v1").rpartition(":")[2])
            self.later = self.stack.enter_context(Counted(port=port, watch=self._back))
        return self._kept(self.servers[1], connection, data)

    def _busy(self, connection, data):
        if self.busy > 0:
            self.busy -= 1
            connection.send(*_error(*ERRORS["429"]), "Retry-After: 1\r\nretry-after-ms: 20\r\n")
            return True
        return self._kept(self.servers[2], connection, data)

    def _kept(self, *request):
        with self.lock:
            if self.keeps:
                self.held.append(request)
            return self.keeps

    def _back(self, connection, data):
        with self.lock:
            self.keeps, held, self.held = False, self.held, []
        for server, *request in held:
            server._loop.call_soon_threadsafe(server.take, *request)
        return False

    @property
    def answered(self):
        """How many requests got a whole reply."""
        return sum(sum(server.answered.values()) for server in [*self.servers, *filter(None, [self.later])])


def built(folder, corpus, base, events=None):
    """Build, and return the bytes of all tables."""
    given = {"generator.api_base": base, "generator.concurrency": 4, "questions.way": "items", "index.hybrid": False}
    told = (lambda event, facts: events.append((event, facts))) if events is not None else None
    raft.build(corpus, out=folder, generator=MODEL, settings=given, on_event=told)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".jsonl")}


@pytest.fixture
def quick(monkeypatch):
    """Stand-ins for embedder and tokenizer, whose work is not what is tested; a key, no proxy, and short whiles."""
    monkeypatch.setattr(models, "open_embedder", lambda *_, **__: HashEmbedder())
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())
    monkeypatch.setattr(choosing, "_FIRST_OUT", 0.02)
    monkeypatch.setattr(choosing, "_LONGEST_OUT", 0.1)
    monkeypatch.setattr(choosing, "HOPELESS", 10_000)
    for name, value in {"OPENAI_API_KEY": "sk-dummy-0123456789abcdef", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_a_storm_over_three_endpoints_changes_no_byte_and_pays_nothing_twice(tmp_path, quick):
    """One dies and comes back, one is busy: all is answered once, as by one endpoint, and then by any of them."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(80):
        text = f"# Unit {number}\n\nThe unit {number} in hall {number % 7} weighs {100 + number} kg when it is dry."
        (corpus / f"unit-{number}.md").write_text(text)
    with FakeOpenAI() as alone:
        expected = built(tmp_path / "alone", corpus, alone.url)
    events = []
    with ExitStack() as stack:
        storm = Storm(stack)
        assert built(tmp_path / "storm", corpus, storm.urls, events) == expected
        answered = storm.answered
        with closing(sqlite3.connect(tmp_path / "storm" / "ledger.sqlite")) as db:
            replies = db.execute("SELECT COUNT(*) FROM completions").fetchone()[0]
            states = dict(db.execute("SELECT state, COUNT(*) FROM calls GROUP BY state").fetchall())
        assert replies == states["paid"] >= 80
        assert {*states} <= {"paid", "lost"}
        assert 0 <= answered - replies <= states.get("lost", 0) <= 4  # in flight at the one that died
        assert storm.later is not None and sum(storm.later.answered.values()) > 1
        assert storm.busy == 0
        told = [facts["endpoints"] for event, facts in events if event == "asked" and "endpoints" in facts][-1]
        assert [one["where"] for one in told] == storm.urls
        assert sum(one["answered"] for one in told) == replies
        assert told[0]["left_out"] >= 1 and told[2]["left_out"] >= 1
        for base in (storm.urls[1:], storm.urls[2], storm.urls[0], [*storm.urls[::-1]]):
            assert built(tmp_path / "storm", corpus, base) == expected
        assert storm.answered == answered


@pytest.mark.slow
def test_a_run_of_one_address_goes_on_with_a_list(tmp_path, quick):
    """From an address to a list with it, wherever it stands there, nothing is asked again and no byte changes."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for thing, weight in [("kettle", 14), ("ladder", 17), ("engine", 230)]:
        (corpus / f"{thing}.md").write_text(
            f"# The {thing}\n\nThe {thing} weighs {weight} kg when it is empty and dry."
        )
    with FakeOpenAI() as one, FakeOpenAI() as other:
        expected = built(tmp_path / "run", corpus, one.url)
        asked = one.came
        for base in ([other.url, one.url], [one.url, other.url], other.url):
            assert built(tmp_path / "run", corpus, base) == expected
        assert (one.came, other.came) == (asked, 0)
        (tmp_path / "run" / "questions.parquet").unlink()
        assert built(tmp_path / "run", corpus, other.url) == expected
        assert (one.came, other.came) == (asked, 0)


WRONG = [
    ([], "at least one", "generator.api_base=http://127.0.0.1:8000/v1"),
    ([A, "http://127.0.0.1:1/v1/"], "twice", f"generator.api_base={A}"),
    ([A, "127.0.0.1:2/v1"], "begins with http", f'generator.api_base=["{A}", "http://127.0.0.1:2/v1"]'),
    ([A, "http://me:geheim1@127.0.0.1:2/v1"], "password or a key", f'generator.api_base=["{A}", "{B}"]'),
    (f"{A},{B}", "2 addresses in one text", f'generator.api_base=["{A}", "{B}"]'),
    (f"{A}; http://me:geheim1@127.0.0.1:2/v1", "in one text", f'generator.api_base=["{A}", "{B}"]'),
]


@pytest.mark.parametrize(("base", "says", "mends"), WRONG)
def test_a_wrong_list_is_told_with_what_to_type(base, says, mends):
    """An empty list, an address twice, a bad one, or two in one text: one error, no secret, a whole command."""
    with pytest.raises(UsageError, match=says) as caught:
        config.load(None, {"generator.api_base": base})
    assert mends in caught.value.hint and caught.value.hint.startswith("--set ")
    assert "geheim1" not in str(caught.value) + str(caught.value.where) + caught.value.hint
    typed = caught.value.hint.removeprefix("--set ").strip("'")
    config.load(None, dict([config.parse_assignment(typed)]))  # it is taken as it stands


def test_a_list_of_one_is_that_one(tmp_path):
    """A list of one address is kept as the address, a list of two as a list, from a file as from a flag."""
    file = tmp_path / "raft.yaml"
    file.write_text(f"generator:\n  api_base: [{A}]\nindex:\n  api_base:\n    - {A}\n    - {B}\n")
    found = config.load(file)
    assert found.generator.api_base == A
    assert found.model_dump(mode="json")["index"]["api_base"] == [A, B]
    key, value = config.parse_assignment(f'generator.api_base=["{A}","{B}"]')
    assert config.load(None, {key: value}).generator.api_base == (A, B)
    assert config.changed(found, {"seed": 3}).index.api_base == (A, B)


def test_a_batch_is_asked_of_one_endpoint(tmp_path, quick):
    """A list and the batch endpoint together are refused before anything is asked, with the setting that mends it."""
    (tmp_path / "a.md").write_text("# The kettle\n\nThe kettle weighs 14 kg when it is empty and dry.")
    given = {"generator.api_base": [A, B], "generator.batch_endpoint": True}
    with pytest.raises(UsageError, match="one endpoint") as caught:
        raft.build(tmp_path / "a.md", out=tmp_path / "run", generator=MODEL, settings=given)
    assert "generator.batch_endpoint=false" in caught.value.hint
