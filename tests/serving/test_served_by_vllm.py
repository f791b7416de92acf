"""A vLLM behind `raft serve`: the registry holds there too; what it forgets, refuses or garbles harms nobody else."""

import json
import shutil
import threading
from collections import Counter
from contextlib import ExitStack, closing, contextmanager

import pytest
from test_adapters import write_adapter
from test_served_versions import FIRST, PLAIN, QUESTION, SECOND, Live, nominated, promoted

from conftest import FakeEmbedder, Fakes
from raft.api import models
from raft.backends.hosted import calls, lora
from raft.backends.hosted.flowing import FlowingGenerator
from raft.errors import RaftError, UsageError
from raft.protocols import Completion, Request
from raft.serving import server as servers
from raft.serving import versions
from raft.serving.versions import Versions
from raft.store import adapters, registry
from raft.store.budget import Budget
from raft.store.ledger import Ledger
from served import Callers, said, until
from stand_in import standing_in

BASE = "tiny"
MODEL = f"hosted_vllm/{BASE}"
SETTINGS = {"generator.attempts": 2}
LIE = "Which lie is told?"


class Engine:
    """What a vLLM says over HTTP: its models, adapters that are loaded and forgotten, and who answers.

    Attributes:
        root: the model that its base is.
        adapters: the names of the adapters that are loaded.
        loads: the names of those that were to be loaded, in order.
        asked: the names of the models that were asked, in order.
        unknown: how many requests met a model that it does not have.
        updates: whether it loads adapters.
        loading: called with the name of an adapter before that is loaded.
        lie: returns what a request with `LIE` gets.
    """

    def __init__(self):
        self.root, self.adapters, self.loads, self.asked = f"org/{BASE}", {}, [], []
        self.unknown, self.updates, self.lie = 0, True, None
        self.loading = lambda name: None
        self._lock = threading.Lock()

    def restart(self):
        """Forget the adapters."""
        self.adapters = {}

    def listed(self):
        """Return status and list of the models."""
        tuned = [{"id": name, "root": path, "parent": BASE} for name, path in self.adapters.items()]
        base = {"id": BASE, "object": "model", "root": self.root, "parent": None}
        return 200, {"object": "list", "data": [base, *tuned]}

    def answer(self, method, path, headers, body):
        """Return status and reply."""
        if path == "/v1/models":
            return self.listed()
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], body["lora_path"])
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        name = body["model"]
        if self.lie and LIE in json.dumps(body):
            return self.lie(name)
        with self._lock:
            self.asked.append(name)
            known = name == BASE or name in self.adapters
            self.unknown += not known
        return (200, self.reply(name)) if known else self.missing(name)

    def _load(self, name, path):
        with self._lock:
            self.loads.append(name)
        self.loading(name)
        if not self.updates:
            return 404, {"detail": "Not Found"}
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        self.adapters = {**self.adapters, name: path}
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    @staticmethod
    def missing(name):
        """Return what is said where there is no such model."""
        return 404, {"object": "error", "message": f"The model `{name}` does not exist.", "type": "NotFoundError"}

    @staticmethod
    def reply(name):
        """Return a reply that says who wrote it."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"Answer: by {name}"},
            "finish_reason": "stop",
        }
        return {"model": name, "choices": [choice], "usage": {"prompt_tokens": 90, "completion_tokens": 9}}


@pytest.fixture(scope="module")
def whole(whole):
    """A finished build with two adapters that no test writes to."""
    for name in (FIRST, SECOND):
        write_adapter(whole / "run", name)
    adapters.set_current(whole / "run", FIRST)
    return whole


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    """A copy of the build; what is asked again is asked at once."""
    fakes = Fakes()
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, fakes))
    monkeypatch.setattr(calls, "_WAITS", lambda state: 0.0)
    return shutil.copytree(whole / "run", tmp_path / "run")


@pytest.fixture
def engine(monkeypatch, on_this_machine):
    """An engine that listens, and whose address the environment has."""
    found = Engine()
    with standing_in(found.answer) as address:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", f"{address}/v1")
        yield found


@contextmanager
def live(run, adapter=None):
    """Serve a run through the engine; its `told` are the events of the versions."""
    told = []
    with Versions(run, MODEL, adapter, lambda *event: told.append(event)) as opened, Live(run, opened) as server:
        server.told = told
        yield server
        assert [event for event, _ in (*server.events, *told) if event == "stumbled"] == []


def digest(run, name):
    """Return what an adapter is called at the engine."""
    return adapters.digest(run / "adapters" / name)


def kept(server):
    """Return what was told of versions that cannot answer."""
    return [(facts.get("version"), facts["why"]) for event, facts in server.told if event == "kept"]


def asked(server, question=QUESTION, **more):
    """Return who a reply names, and who wrote it."""
    reply = server.chat(question, **more)
    return reply["raft"]["version"], reply["choices"][0]["message"]["content"].removeprefix("by ")


def failed(server, question=QUESTION):
    """Return status and message of an error in OpenAI's form."""
    body = {"model": "raft", "messages": [{"role": "user", "content": question}]}
    status, headers, text = server.ask("/v1/chat/completions", body)
    assert status >= 500, text
    assert dict(headers).get("content-type", "").startswith("application/json")
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in text
    return status, error["message"]


def test_the_registry_holds_at_a_vllm(run, engine):
    """Production, candidate, promotion, rollback and plain RAG answer as the registry says, each is loaded once."""
    promoted(run, FIRST)
    first, second = digest(run, FIRST), digest(run, SECOND)
    with live(run) as server:
        listed = json.loads(server.ask("/v1/models")[2])["data"][0]["raft"]
        assert (listed["version"], listed["adapter_digest"], listed["registry"]) == (FIRST, first, True)
        reply = server.of()
        assert (reply["model"], reply["adapter"], reply["arm"]) == (MODEL, FIRST, "production")
        server.watch()
        nominated(run, 0.5)
        until(lambda: server.engine.sources.candidate)
        met = {asked(server, user=f"user {number}") for number in range(30)}
        assert met == {(FIRST, first), (SECOND, second)}
        for change, expected in (
            (lambda: promoted(run, SECOND), (SECOND, second)),
            (lambda: registry.rollback(run, by="Ann"), (FIRST, first)),
            (lambda: registry.rollback(run, by="Ann", to=PLAIN), (PLAIN, BASE)),
        ):
            change()
            until(lambda expected=expected: server.engine.sources.production.version == expected[0])
            assert asked(server) == expected
        events = server.chat(QUESTION, stream=True)
        assert (said(events), events[-1]["raft"]["version"]) == (f"by {BASE}", PLAIN)
        assert kept(server) == []
    assert Counter(engine.loads) == {first: 1, second: 1}


def test_a_shadow_is_written_at_a_vllm(run, engine):
    """A sampled request is answered by production, and by the candidate for nobody's eyes."""
    promoted(run, FIRST)
    nominated(run, 0.0, 1.0)
    with live(run) as server:
        assert asked(server)[0] == FIRST
        until(lambda: digest(run, SECOND) in engine.asked)


def test_without_a_production_the_current_adapter_answers_there_too(run, engine):
    """As with a local model; an adapter that is given is no matter of the registry, and "none" is the base alone."""
    with live(run) as server:
        assert asked(server) == (FIRST, digest(run, FIRST))
        server.watch()
        promoted(run, SECOND)
        until(lambda: server.engine.sources.production.version == SECOND)
        assert asked(server) == (SECOND, digest(run, SECOND))
    for adapter, expected in (("none", BASE), (FIRST, digest(run, FIRST))):
        with live(run, adapter) as server:
            assert any("--adapter is given" in one for one in server.versions.remarks)
            assert (server.look(), asked(server)[1]) == (False, expected)


def test_a_restart_amid_traffic_and_changes_drops_no_request(run, engine):
    """While callers ask, the vLLM forgets all adapters, a promotion and a rollback come: nobody meets an error."""
    promoted(run, FIRST)
    named = {FIRST: digest(run, FIRST), SECOND: digest(run, SECOND), PLAIN: BASE}
    replies = []
    with live(run) as server:
        server.watch()

        def call(number):
            version, writer = asked(server, f"{QUESTION} {number}")
            assert writer == named[version], "it was written by whom it names"
            replies.append(version)

        with Callers(3, call, again=True) as callers:
            for change, version in (
                (engine.restart, FIRST),
                (lambda: promoted(run, SECOND), SECOND),
                (engine.restart, SECOND),
                (lambda: registry.rollback(run, by="Ann"), FIRST),
            ):
                seen = len(replies)
                until(lambda seen=seen: callers.problems or len(replies) >= seen + 6)
                change()
                seen = len(replies)
                until(lambda seen=seen, v=version: callers.problems or (len(replies) >= seen + 6 and replies[-1] == v))
        assert 'outcome="failed"' not in server.ask("/metrics")[2]
    assert Counter(engine.loads)[named[SECOND]] == 2 and engine.unknown >= 2, "it was forgotten, and loaded anew"


def test_callers_who_meet_a_lost_adapter_load_it_once(run, engine):
    """Five who are told at the same time that there is no such model make one load, and each gets an answer."""
    promoted(run, FIRST)
    with live(run) as server:
        assert asked(server)[0] == FIRST
        engine.restart()
        engine.loading = lambda name: until(lambda: engine.unknown == 5)
        replies = []
        with Callers(5, lambda number: replies.append(asked(server, f"{QUESTION} {number}"))):
            pass
        assert replies == [(FIRST, digest(run, FIRST))] * 5
    assert engine.loads == [digest(run, FIRST)] * 2


def test_what_is_not_loaded_again_is_said_with_what_to_do(run, engine):
    """A 502 has the command; the next request tries again, so that a mended vLLM needs no restart of the server."""
    promoted(run, FIRST)
    with live(run) as server:
        engine.restart()
        engine.updates = False
        status, message = failed(server)
        assert status == 502 and "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve" in message
        assert str(run) not in message
        engine.updates = True
        assert asked(server) == (FIRST, digest(run, FIRST))


def test_other_files_are_never_loaded_under_a_digest(run, engine):
    """Where an adapter's files changed meanwhile a lost one is not loaded again, and no reply comes in its name."""
    promoted(run, FIRST)
    with live(run) as server:
        assert asked(server)[0] == FIRST
        shutil.copy(run / "adapters" / SECOND / adapters.WEIGHTS, run / "adapters" / FIRST / adapters.WEIGHTS)
        engine.restart()
        status, message = failed(server)
        assert status == 502 and "have changed" in message and f"raft registry promote {run.name} " in message
        assert str(run.parent) not in message, "where the run lies is nothing for who asks"
        assert len(engine.loads) == 1 and not engine.adapters


def merged(run):
    """Put a model of its own into production; return its id."""
    folder = run / "merged"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    made = registry.register(run, adapter=FIRST, kind="merged", path=folder, by="Ann")
    return promoted(run, made.id)["version"]


def test_what_a_vllm_cannot_load_is_refused_at_the_start(run, engine, monkeypatch):
    """Another base, a merged model and a vLLM that is not there are refused, with commands, before anything listens."""

    def refused(kind=RaftError):
        with pytest.raises(kind) as told, Versions(run, MODEL, None, lambda *_: None):
            pass
        assert f"raft serve {run} --model {MODEL} --adapter none" in str(told.value)
        assert list((run / "scratch").glob("serving-*[!k]")) == []
        return str(told.value)

    promoted(run, FIRST)
    engine.root = "org/another"
    card = adapters.read_card(run / "adapters" / FIRST)
    adapters.write_card(run / "adapters" / FIRST, {**card, "base": "org/large"})
    assert "vllm serve org/large" in refused(UsageError)
    name = merged(run)
    said = refused(UsageError)
    assert name in said and f"raft registry promote {run} {FIRST}" in said
    promoted(run, SECOND)
    for answer in ((200, '{"data": [', {"content-length": "400"}), (500, PAGE), (200, PAGE), (200, "")):
        engine.listed = lambda answer=answer: answer
        assert "does not say which models it has" in refused()
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in refused()


def test_what_a_vllm_cannot_load_changes_nothing_in_a_running_server(run, engine, monkeypatch):
    """What was there goes on; it is told once, with the command; where the vLLM comes to load it, it is taken."""
    monkeypatch.setattr(versions, "_ENGINE_AGAIN", 0.01)
    promoted(run, FIRST)
    with live(run) as server:
        server.watch()
        name = merged(run)
        until(lambda: kept(server))
        assert [version for version, _ in kept(server)] == [name]
        assert f"raft registry promote {run} {FIRST}" in kept(server)[0][1]
        engine.updates = False
        promoted(run, SECOND)
        until(lambda: len(engine.loads) >= 4)
        assert [version for version, _ in kept(server)] == [name, SECOND], "once, however often it is tried"
        assert asked(server) == (FIRST, digest(run, FIRST))
        engine.updates = True
        until(lambda: server.engine.sources.production.version == SECOND)
        assert asked(server) == (SECOND, digest(run, SECOND))


def test_a_load_that_hangs_holds_up_neither_answers_nor_a_rollback(run, engine):
    """While the vLLM takes its time over an adapter, others are answered, and another promotion comes into effect."""
    gate = threading.Event()
    engine.loading = lambda name: name == digest(run, SECOND) and gate.wait(60)
    promoted(run, FIRST)
    with live(run) as server:
        promoted(run, SECOND)
        assert server.look()
        until(lambda: digest(run, SECOND) in engine.loads)
        assert asked(server)[0] == FIRST
        registry.rollback(run, by="Ann", to=PLAIN)
        assert server.look()
        assert asked(server) == (PLAIN, BASE)
        gate.set()


PAGE = "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
LIES = {
    "lists an adapter that it refuses": Engine.missing,
    "answers with another model": lambda name: (200, Engine.reply("f" * 64)),
    "an empty body": lambda name: (200, ""),
    "a page": lambda name: (200, PAGE),
    "ends in the middle": lambda name: (200, json.dumps(Engine.reply(name))[:60], {"content-length": "400"}),
    "JSON of another kind": lambda name: (200, [1, 2]),
    "a page of an error": lambda name: (404, PAGE),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_vllm_that_lies_harms_one_caller(run, engine, lie, streamed):
    """Whatever comes in place of a reply is a 502 in OpenAI's form for who asked, and others are answered beside."""
    promoted(run, FIRST)
    engine.lie = LIES[lie]
    with live(run) as server:
        outcomes = {}

        def call(number):
            question = LIE if number == 2 else f"{QUESTION} {number}"
            body = {"model": "raft", "messages": [{"role": "user", "content": question}], "stream": streamed}
            outcomes[number] = server.ask("/v1/chat/completions", body)

        with Callers(4, call):
            pass
        assert {number: one[0] for number, one in outcomes.items()} == {0: 200, 1: 200, 2: 502, 3: 200}
        error = json.loads(outcomes[2][2])["error"]
        assert error["type"] == "server_error" and error["message"] and "Traceback" not in outcomes[2][2]
        assert asked(server) == (FIRST, digest(run, FIRST))


def test_a_reply_that_never_comes_is_waited_for_by_its_caller_alone(run, engine, monkeypatch):
    """Who meets a vLLM that hangs is told so when their time is over; more others than a batch holds are answered."""
    gate = threading.Event()
    engine.lie = lambda name: (gate.wait(60), (200, Engine.reply(name)))[1]
    promoted(run, FIRST)
    with live(run) as server:
        monkeypatch.setattr(servers, "SECONDS", 2.0)
        told = []
        with Callers(1, lambda _: told.append(failed(server, LIE))):
            until(lambda: server.engine._flying.total() == 1)
            monkeypatch.setattr(servers, "SECONDS", 120.0)
            assert [asked(server, f"{QUESTION} {number}")[0] for number in range(4)] == [FIRST] * 4
        gate.set()
        assert told[0][0] == 504


def test_each_of_two_engines_loads_for_itself(tmp_path, monkeypatch):
    """One that lost an adapter and loads none is told of in its own words; the other is not asked to load it again."""
    adapter, engines = write_adapter(tmp_path / "run", FIRST, base=f"org/{BASE}"), [Engine(), Engine()]
    with ExitStack() as stack:
        where = [f"{stack.enter_context(standing_in(one.answer))}/v1" for one in engines]
        model = lora.TunedModel(MODEL, adapter, api_base=where, concurrency=2, timeout=30)
        ledger = stack.enter_context(closing(Ledger(tmp_path / "ledger.sqlite")))
        budget = Budget(ledger, run="r", model=model.name, price=None, cap=None)
        generator = FlowingGenerator(model, ledger, budget, attempts=1)

        def ask(number):
            return generator.complete([Request(({"role": "user", "content": f"{number}?"},), max_tokens=9)])

        said = [*ask(1), *ask(2)]
        assert [one.loads for one in engines] == [[adapters.digest(adapter)]] * 2
        engines[0].restart()
        engines[0].updates = False
        said += [*ask(3), *ask(4)]
    assert all(isinstance(one, Completion) for one in said)
    assert "does not load the adapter" in model.tallies[0].words and not model.tallies[1].words
    assert len(engines[1].loads) == 1
