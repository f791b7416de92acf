"""Hosted models, asked directly and through litellm, against a server on this machine."""

import asyncio
import json
import socket
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

import raft
from fake_openai import ERRORS, FakeOpenAI
from raft import api, prompts
from raft.api.run import state
from raft.backends.hosted import calls as retrying
from raft.backends.hosted.errors import RateLimited, Transient
from raft.backends.hosted.flowing import FlowingGenerator, UncachedGenerator
from raft.backends.hosted.model import HostedModel
from raft.backends.hosted.openai_http import DirectTransport
from raft.backends.hosted.providers import PROVIDERS, list_price
from raft.backends.vendors import import_litellm
from raft.errors import RaftError, UsageError
from raft.generation import items
from raft.protocols import Completion, Failure, Request
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger

KEY = "sk-dummy-0123456789abcdef"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    """Give a key, keep requests on this machine, and do not sleep between tries; return the naps that were wanted."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    wanted, waits = [], retrying._WAITS
    monkeypatch.setattr(retrying, "_WAITS", lambda state: wanted.append(waits(state)) or 0.0)
    return wanted


def request(text, **changes):
    """Return a request with a system turn and a user turn."""
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    return Request(turns, **{"max_tokens": 9, **changes})


@pytest.fixture(params=["direct", "litellm"])
def provider(request, monkeypatch):
    """Return a provider whose calls go directly, and one whose calls go through litellm."""
    if request.param == "direct":
        return "openai"
    monkeypatch.setenv("NOVITA_API_KEY", KEY)
    return "novita"


def model(server, name="openai/test-model", concurrency=2):
    """Return a hosted model at the server."""
    return HostedModel(name, api_base=server.url, concurrency=concurrency, timeout=20)


def complete(model, *requests, price=None):
    """Return what becomes of requests to a model without a memory, in their order."""
    with closing(Ledger(Path(":memory:"))) as ledger:
        budget = Budget(ledger, run="r", model=model.name, price=price, cap=None)
        return list(FlowingGenerator(model, ledger, budget, attempts=1).complete(requests))


def asking(server, ledger, attempts=1, concurrency=2, price=None):
    """Return a generator that asks the server through a ledger."""
    budget = Budget(ledger, run="r", model="openai/test-model", price=price, cap=None)
    return FlowingGenerator(model(server, concurrency=concurrency), ledger, budget, attempts=attempts)


def answer(server, *texts, provider="openai", **changes):
    """Return what a model answers, in the order of the texts."""
    return complete(model(server, f"{provider}/test-model"), *(request(text, **changes) for text in texts))


def test_replies_and_their_tokens_arrive(provider):
    """A reply comes with its text, its tokens and no price where none is known; what was asked is what was sent."""
    with FakeOpenAI() as server:
        replies = answer(server, "hello there", "good day", provider=provider, temperature=0.5)
    assert [reply.text for reply in replies] == ["echo: hello there", "echo: good day"]
    first = replies[0]
    assert (first.finish_reason, first.input_tokens, first.output_tokens, first.cost) == ("stop", 4, 3, None)
    sent = next(body for body in server.seen if body["messages"][-1]["content"] == "hello there")
    assert sent["messages"] == list(request("hello there").messages)
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("test-model", 9, 0.5)


def test_a_known_price_is_reckoned():
    """Where the list knows the model's price, the reply has its cost in dollars."""
    name = "openai/gpt-4o-mini"
    with FakeOpenAI() as server:
        (reply,) = complete(model(server, name), request("hello"), price=list_price(name))
    assert 0 < reply.cost < 0.01


@pytest.mark.parametrize("faults", [["429"], ["500"], ["503"], ["429", "500", "429"], ["close"]])
def test_what_passes_by_itself_is_tried_again(naps, faults, provider):
    """A server that fails is asked again after a wait, once a fault and no more: there is one retry layer."""
    with FakeOpenAI({"flaky": faults}) as server:
        assert answer(server, "flaky question", provider=provider)[0].text == "echo: flaky question"
    assert len(server.seen) == len(faults) + 1
    assert len(naps) == sum(fault in ("500", "close") for fault in faults)  # a busy endpoint is waited for by the pace


def test_waits_and_tries_are_bounded(naps):
    """A server that keeps failing is asked a fixed number of times, then the run stops with a hint."""
    with FakeOpenAI({"broken": ["500"] * 50}) as server, pytest.raises(RaftError) as caught:
        answer(server, "broken")
    assert not isinstance(caught.value, UsageError)
    assert "The server had an error" in caught.value.what
    assert "again later" in caught.value.hint
    assert len(server.seen) == retrying._TRIES
    assert 0 < len(naps) <= retrying._TRIES
    assert all(0 <= nap <= 30 for nap in naps)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "Incorrect API key"),
        ("403", "may not use"),
        ("404", "does not exist"),
        ("402", "exceeded your current quota"),
        ("quota", "exceeded your current quota"),
    ],
)
def test_a_wrong_key_or_model_stops_at_once(naps, fault, words, provider):
    """What no waiting mends stops the run in the provider's words, with a hint and without the key."""
    with FakeOpenAI({"x": [fault] * 9}) as server, pytest.raises(UsageError) as caught:
        answer(server, "x", provider=provider)
    assert words in caught.value.what
    assert KEY not in str(caught.value)
    assert "_API_KEY" in caught.value.hint
    assert len(server.seen) == 1
    assert naps == []


def test_a_missing_key_is_a_usage_error(monkeypatch, naps):
    """Without a key nothing is sent and nothing is waited for, and the words name the variable."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        complete(HostedModel("openai/test-model", api_base=None, concurrency=1, timeout=5), request("x"))
    assert naps == []


def test_where_a_call_goes(monkeypatch):
    """Who speaks as OpenAI does is asked directly, at the address given, a variable's or its own."""
    for name in ("GROQ", "ANTHROPIC", "NOVITA", "TOGETHER"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)

    def way(name, base=None):
        own = HostedModel(name, api_base=base, concurrency=1, timeout=5)
        transport = own._transport(base, own._key(base))
        return transport._url.removesuffix("/chat/completions") if isinstance(transport, DirectTransport) else None

    base = "http://127.0.0.1:1/v1"
    assert (
        way("openai/x", base) == way("hosted_vllm/x", base) == way("lm_studio/x", base) == way("groq/x", base) == base
    )
    assert way("openai/gpt-4o-mini") == "https://api.openai.com/v1"
    assert way("groq/x") == "https://api.groq.com/openai/v1"
    assert way("together_ai/x") == "https://api.together.ai/v1"  # its key has a second name
    assert way("anthropic/x") is way("novita/x", base) is None
    monkeypatch.setenv("OPENAI_API_BASE", base)
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", base)
    assert way("openai/x") == way("hosted_vllm/x") == base


def test_without_an_address_nothing_is_asked(naps):
    """A program of one's own has no address by itself, and the words say how to give one."""
    with pytest.raises(UsageError, match="The address of"):
        complete(HostedModel("hosted_vllm/x", api_base=None, concurrency=1, timeout=5), request("x"))


def test_the_table_of_providers_agrees_with_litellm(monkeypatch):
    """Providers that are asked directly are asked where litellm asks them, by the key that it looks for."""
    monkeypatch.delenv("OPENAI_API_KEY")
    litellm = import_litellm()
    for name, known in PROVIDERS.items():
        if known.direct and known.address and not known.own:
            needed = litellm.validate_environment(f"{name}/m")["missing_keys"]
            assert litellm.get_llm_provider(f"{name}/m")[3] in (known.address, None)
            assert set(needed) <= {*known.keys, f"{name.upper()}_API_KEY"}
            with pytest.raises(UsageError, match="_API_KEY"):
                HostedModel(f"{name}/m", api_base=None, concurrency=1, timeout=5)._key(None)


@pytest.mark.parametrize(("fault", "kind"), [("context", "too long"), ("policy", "refused"), ("400", "refused")])
def test_a_request_that_the_provider_refuses_is_a_failure_of_its_own(fault, kind, provider):
    """A request that is too long or not allowed fails alone; the others are answered."""
    with FakeOpenAI({"bad": [fault] * 9}) as server:
        outcomes = answer(server, "bad", "good", provider=provider)
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].kind == kind
    assert outcomes[0].message
    assert outcomes[1].text == "echo: good"
    assert len(server.seen) == 2


def test_a_refusal_that_speaks_of_the_provider_is_still_a_refusal(monkeypatch):
    """A refusal in which a gateway names its provider does not stop the run."""
    monkeypatch.setitem(ERRORS, "400", (400, "bad", "Provider returned error"))
    with FakeOpenAI({"bad": ["400"]}) as server:
        assert answer(server, "bad")[0].kind == "refused"


def test_an_odd_status_is_a_failure_and_no_traceback():
    """A 422 fails its own request."""
    with FakeOpenAI({"odd": ["422"] * 9}) as server:
        assert isinstance(answer(server, "odd")[0], Failure)


def test_a_reply_without_choices_is_an_empty_reply():
    """A server that sends no choice gives an empty text, which the request's check can refuse."""
    with FakeOpenAI({"nothing": ["empty"]}) as server:
        reply = answer(server, "nothing")[0]
    assert isinstance(reply, Completion)
    assert (reply.text, reply.finish_reason) == ("", "empty")


def test_a_reply_that_was_cut_off_says_so():
    """A reply that reached its limit has the finish reason "length"."""
    with FakeOpenAI({"long": ["length"]}) as server:
        assert answer(server, "a long story")[0].finish_reason == "length"


def test_a_garbled_response_is_tried_again_and_then_an_error_with_words():
    """A body that is no JSON is asked for again; where nothing else comes, the run stops with a hint."""
    with FakeOpenAI({"garbled": ["malformed"]}) as server:
        assert answer(server, "garbled")[0].text == "echo: garbled"
    with FakeOpenAI({"garbled": ["malformed"] * 20}) as server, pytest.raises(RaftError) as caught:
        answer(server, "garbled")
    assert "again later" in caught.value.hint
    assert len(server.seen) <= retrying._TRIES


def test_an_endpoint_that_is_down_is_an_error_with_a_hint():
    """Where nothing listens, the run stops, and says that nothing is lost."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    down = HostedModel("openai/test-model", api_base=url, concurrency=1, timeout=5)
    with pytest.raises(RaftError, match="does not answer") as caught:
        complete(down, request("x"))
    assert caught.value.where == url
    assert "not paid for twice" in caught.value.hint


def test_an_unknown_provider_is_a_usage_error():
    """A name that litellm does not know is said to be unknown, not that the endpoint is."""
    unknown = HostedModel("nobody/test-model", api_base=None, concurrency=1, timeout=5)
    with pytest.raises(UsageError, match="nobody/test-model"):
        complete(unknown, request("x"))


def test_models_are_known_by_name_and_endpoint():
    """The same name at another address is another model, for the ledger and for the steps' keys."""
    here, there, plain = (
        HostedModel("openai/test-model", api_base=base, concurrency=1, timeout=5).identity for base in ("a", "b", None)
    )
    assert len({here, there, plain}) == 3


def test_a_schema_goes_along_where_it_is_taken():
    """Structured output is asked for; an endpoint that turns it down is asked without it, then and from then on."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    with FakeOpenAI() as server:
        assert isinstance(answer(server, "x", schema=schema)[0], Completion)
    assert server.seen[0]["response_format"]["json_schema"]["schema"] == schema
    with FakeOpenAI({"first": ["schema"]}) as server:
        own = model(server, concurrency=1)
        replies = complete(own, *(request(text, schema=schema) for text in ("first", "second")))
    assert [reply.text for reply in replies] == ["echo: first", "echo: second"]
    assert ["response_format" in body for body in server.seen] == [True, False, False]


def test_an_error_keeps_the_replies_that_came_before_it(tmp_path):
    """When one request stops the run, replies that had come are in the ledger and are not asked for again."""
    with FakeOpenAI({"bad": ["401"]}) as server, closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        requests = [request(text) for text in ("one", "two", "bad", "three")]
        with pytest.raises(UsageError):
            list(asking(server, ledger, concurrency=1).complete(requests))
        outcomes = list(asking(server, ledger, concurrency=1).complete(requests))
        texts = [body["messages"][-1]["content"] for body in server.seen]
    assert [outcome.text for outcome in outcomes] == ["echo: one", "echo: two", "echo: bad", "echo: three"]
    assert texts.count("one") == texts.count("two") == 1


def test_an_error_keeps_the_replies_that_were_in_flight(tmp_path, monkeypatch):
    """A reply that is paid for while another request stops the run is kept as well."""
    both, send = threading.Barrier(2), DirectTransport.send

    async def together(self, call):
        await asyncio.to_thread(both.wait, 20)  # neither is answered before both are in the air
        return await send(self, call)

    monkeypatch.setattr(DirectTransport, "send", together)
    with FakeOpenAI({"bad": ["401"]}, latency=0.1) as server, closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        with pytest.raises(UsageError):
            list(asking(server, ledger).complete([request("bad"), request("good")]))
        assert [body["messages"][-1]["content"] for body in server.seen].count("good") == 1
        assert [row["calls"] for row in ledger.spent()] == [1]


def test_a_hosted_generator_replays_from_the_ledger(tmp_path):
    """A second generator on the same ledger sends nothing and gives the same completions."""
    with FakeOpenAI() as server, closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        requests = [request(f"number {i}") for i in range(5)]
        first = [one.text for one in asking(server, ledger).complete(requests)]
        again = list(asking(server, ledger).complete(requests))
        assert [one.text for one in again] == first
        assert all(isinstance(one, Completion) and one.replayed for one in again)
        assert len(server.seen) == 5
        assert ledger.spent()[0]["calls_without_price"] == 5


def test_many_replies_come_at_once_each_paid_for_once(tmp_path):
    """Under faults of all kinds every request has its reply, and the server charged for each only what was lost."""
    shares = {"429": 0.05, "500": 0.05, "close": 0.05, "malformed": 0.05}
    price = Price(input=1.0, output=2.0)
    with (
        FakeOpenAI(shares=shares, limit=5000, latency=0.01, keep=False) as server,
        closing(Ledger(tmp_path / "ledger.sqlite")) as ledger,
    ):
        requests = [request(f"number {i}") for i in range(300)]
        outcomes = list(asking(server, ledger, concurrency=32, price=price).complete(requests))
        (spent,) = ledger.spending("r")
    assert [one.text for one in outcomes] == [f"echo: number {i}" for i in range(300)]
    assert spent["calls"] == 300
    assert set(server.answered.values()) == {1}
    assert spent["lost"] == server.outcomes["close"] + server.outcomes["malformed"] > 0


def test_asking_anew_asks_each_time(tmp_path):
    """A model without memory is asked each time, one question after the other, over one flight."""
    with FakeOpenAI() as server, closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run="r", model="openai/test-model", price=None, cap=None, keeps=False)
        uncached = UncachedGenerator(model(server), budget)
        replies = [outcome.text for _ in range(3) for outcome in uncached.complete([request("hello")])]
    assert replies == ["echo: hello"] * 3
    assert len(server.seen) == 3


def test_the_fake_server_writes_items_that_pass_their_check():
    """The server's JSON is what the items prompt asks for, so that whole builds can be tried against it."""
    chunk = {
        "chunk_id": "c",
        "doc_id": "d",
        "heading": "Manual",
        "text": "The pump weighs 14 kg. Its hose is 3 m long.",
    }
    ask = items.items_ask(prompts.load("items"), chunk, 2, ["fact", "number"])
    with FakeOpenAI() as server:
        (reply,) = complete(model(server), ask.request)
    assert [row["quotes"][0]["text"] for row in ask.read(reply.text)] == [
        "The pump weighs 14 kg.",
        "Its hose is 3 m long.",
    ]


def test_the_fake_server_stops_at_its_limit():
    """Requests beyond the limit are turned away, so that a loop ends."""

    async def beyond(url):
        transport = DirectTransport("openai/test-model", api_base=url, key=None, timeout=20, connections=1)
        for text in ("a", "b"):
            await transport.send(request(text))
        with pytest.raises(RateLimited):
            await transport.send(request("c"))
        await transport.close()

    with FakeOpenAI(limit=2) as server:
        asyncio.run(beyond(server.url))
    assert len(server.seen) == 3


def test_an_endpoint_of_ones_own_needs_no_key(monkeypatch):
    """A self-hosted endpoint is asked without a key in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeOpenAI() as server:
        (reply,) = answer(server, "hello")
    assert reply.text == "echo: hello"


def test_a_whole_build_with_a_hosted_generator(tmp_path):
    """A build asks a hosted model for items, through litellm, and a second one asks nothing; no key is written down."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for thing, weight in [("kettle", 14), ("ladder", 17), ("engine", 230)]:
        text = f"# The {thing}\n\nThe {thing} in the cellar weighs {weight} kg when it is empty and dry."
        (corpus / f"{thing}.md").write_text(text)
    with FakeOpenAI() as server:
        settings = {"generator.api_base": server.url, "split.seen": 0.0}
        options = {"out": tmp_path / "run", "generator": "openai/test-model", "settings": settings}
        built = raft.build(corpus, **options)
        asked = len(server.seen)
        raft.build(corpus, **options)
        assert len(server.seen) == asked == 3
    assert built.questions["model"].unique().to_list() == ["openai/test-model"]
    assert built.summary()["steps"]["questions"]["unpriced"] == 0  # a server on this machine is free
    assert all(KEY.encode() not in path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file())


def test_keys_in_an_address_reach_the_endpoint_and_nothing_else(tmp_path):
    """A user and a key in an address are sent with each call, and stand in no file, no state and no error of a run."""
    secret = "s3cr3t-of-ours"
    (tmp_path / "kettle.md").write_text(
        "# The kettle\n\nThe kettle in the cellar weighs 14 kg when it is empty and dry."
    )
    with FakeOpenAI() as server:
        address = f"{server.url.replace('//', f'//user:{secret}@')}?api-key={secret}"
        settings = {"generator.api_base": address, "split.seen": 0.0}
        options = {"out": tmp_path / "run", "generator": "openai/test-model", "settings": settings}
        raft.build(tmp_path / "kettle.md", **options)
        asked = len(server.seen)
        raft.build(tmp_path / "kettle.md", **options)
        heads = "\n".join(server.heads)
        assert len(server.seen) == asked == 1
    assert f"/v1/chat/completions?api-key={secret} " in heads and "Authorization: Basic " in heads
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(secret.encode() in data for data in files)
    assert "***@127.0.0.1" in json.dumps(state(tmp_path / "run")) and secret not in json.dumps(state(tmp_path / "run"))

    async def ask():
        transport = DirectTransport("openai/m", api_base=address, key=None, timeout=2, connections=1)
        try:
            await transport.send(request("hello"))
        finally:
            await transport.close()

    with pytest.raises(Transient) as gone:  # nobody listens there any more
        asyncio.run(ask())
    assert "no connection to" in str(gone.value) and secret not in str(gone.value)


@pytest.mark.parametrize("cut", [True, False])
def test_a_lost_manifest_forgets_neither_name_nor_cap(tmp_path, cut):
    """Where the manifest is gone, or cut, the next build still has the run's name, its cap, and what it has spent."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "kettle.md").write_text("# The kettle\n\nThe kettle in the cellar weighs 14 kg when it is empty and dry.")
    manifest = tmp_path / "run" / "manifest.json"
    with FakeOpenAI() as server:
        settings = {"generator.api_base": server.url, "split.seen": 0.0}
        options = {"out": tmp_path / "run", "generator": "openai/test-model", "settings": settings}
        before = raft.build(corpus, price=(10.0, 10.0), max_cost=0.3, **options)
        spent = api.state(before.folder)["money"]["spent"]
        manifest.write_text(manifest.read_text()[:100]) if cut else manifest.unlink()
        after = raft.build(corpus, price=(10.0, 10.0), **options)
    assert after.manifest["collection"] == before.manifest["collection"]
    assert after.settings.generator.max_cost == 0.3
    assert api.state(after.folder)["money"]["spent"] == spent > 0


def test_who_is_timed_is_told_to_wait_too(monkeypatch):
    """A generator that asks one request after the other tells once for how long its endpoint asks to wait."""

    class Pausing:
        pause = (time.monotonic() + 900, "daily limit")
        turns = 0

        def submit(self, call):
            self.call = call

        def collect(self, seconds):
            self.turns += 1
            return [(self.call, Failure("refused", "no"))] if self.turns % 3 == 0 else []

    monkeypatch.setattr(HostedModel, "pool", lambda self, budget: nullcontext(Pausing()))
    heard, model = [], HostedModel("openai/m", api_base="http://127.0.0.1:9/v1", concurrency=1, timeout=5)
    generator = UncachedGenerator(model, object(), say=lambda event, facts: heard.append((event, facts)))
    assert len(list(generator.complete([request("a"), request("b")]))) == 2
    ((event, facts),) = heard
    assert (event, facts["model"], facts["words"]) == ("waiting", "openai/m", "daily limit")
    assert 890 <= facts["seconds"] <= 900
