"""A hosted generator: requests in order, each reply paid for once, and nothing lost when it ends early."""

import threading
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.backends.asking import RETRY_TEMPERATURE, AskingGenerator, Reply
from raft.backends.hosted.calls import RequestPool
from raft.backends.hosted.errors import AccessDenied, Rejected, Transient
from raft.backends.hosted.flowing import FlowingGenerator
from raft.errors import RaftError, UsageError
from raft.protocols import Completion, Failure, Request
from raft.store.budget import Budget, CapReached, Price
from raft.store.ledger import Ledger
from simulated import Endpoint, Hosted

PRICE = Price(input=10.0, output=20.0)


def request(text, **changes):
    """Return a request with one user turn."""
    return Request(({"role": "user", "content": text},), **{"max_tokens": 8, **changes})


def generator(endpoint, ledger, *, attempts=3, cap=None, concurrency=4, **options):
    """Return a generator that asks an endpoint."""
    budget = Budget(ledger, run="r", model="fake/model", price=PRICE, cap=cap)
    return FlowingGenerator(Hosted(endpoint, concurrency), ledger, budget, attempts=attempts, **options)


def ask(endpoint, ledger, requests, **options):
    """Return all outcomes of a fresh generator."""
    return list(generator(endpoint, ledger, **options).complete(requests))


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def refuse(reply):
    """Refuse every reply."""
    raise ValueError(f"{reply} is no good")


def test_outcomes_come_in_the_order_of_the_requests(ledger):
    """However long each reply takes, outcomes are in the order of the requests."""
    endpoint = Endpoint(latency=lambda asked: (hash(asked.messages[-1]["content"]) % 50) / 10)
    outcomes = ask(endpoint, ledger, [request(f"word {i}") for i in range(200)], concurrency=16)
    assert [outcome.text for outcome in outcomes] == [f"echo: word {i}" for i in range(200)]


def test_a_completion_says_what_it_cost(ledger):
    """A completion has the model, tokens, dollars, seconds and attempts of its reply."""
    assert ask(Endpoint(), ledger, [request("hi")]) == [
        Completion("echo: hi", "fake/model", 10, 2, cost=PRICE.cost(10, 2), seconds=0.2, attempts=1)
    ]


def test_equal_requests_are_asked_once(ledger):
    """The same request, near or far, is one call; another sample is another."""
    requests = [request("a"), request("a"), request("b"), *(request(f"{i}") for i in range(100)), request("a")]
    endpoint = Endpoint()
    outcomes = ask(endpoint, ledger, [*requests, request("a", sample=1)])
    assert [outcome.text for outcome in outcomes if outcome.text == "echo: a"] == ["echo: a"] * 4
    assert endpoint.texts.count("a") == 2
    assert len(endpoint.seen) == 103


def test_equal_requests_may_be_checked_differently(ledger):
    """The check belongs to the request, not to the reply: one may take what another refuses."""
    outcomes = ask(Endpoint(), ledger, [request("7"), request("7", check=refuse)], attempts=1)
    assert [type(outcome) for outcome in outcomes] == [Completion, Failure]


def test_what_is_known_is_not_asked_and_opens_no_connection(ledger):
    """A second build takes everything from the ledger; a key or a network is not needed for it."""
    requests = [request(f"word {i}", check=str.upper) for i in range(30)]
    first = ask(Endpoint(), ledger, requests)
    silent = generator(Endpoint(), ledger)
    again = list(silent.complete(requests))
    assert [replace(one, replayed=False) for one in again] == first
    assert all(one.replayed for one in again)
    assert silent._model.flights == 0
    assert (silent.totals["calls"], silent.totals["replayed"]) == (30, 30)


def test_replies_of_the_other_generator_are_taken_over(ledger):
    """Both ways of asking keep replies under the same keys, later attempts included."""

    class Model:
        name, identity, window = Hosted.name, Hosted.identity, 8

        def answer(self, calls, wanted):
            yield [
                (i, Reply("7" if call.temperature else "x", "stop", 1, 1, 0.0, 0.0))
                for i, call in enumerate(calls)
                if wanted[i]
            ]

    requests = [request(f"word {i}", check=int) for i in range(20)]
    first = list(AskingGenerator(Model(), ledger, attempts=2).complete(requests))
    endpoint = Endpoint()
    again = ask(endpoint, ledger, requests, attempts=2)
    assert endpoint.seen == []
    assert [(one.text, one.attempts) for one in again] == [(one.text, one.attempts) for one in first] == [("7", 2)] * 20


def test_a_bad_reply_is_asked_again_warmer(ledger):
    """A reply that its check refuses is asked for again under another key, sampling at least so warm."""
    endpoint = Endpoint({"n": ["x", "7"]})
    (outcome,) = ask(endpoint, ledger, [request("n", check=int)])
    assert (outcome.text, outcome.attempts) == ("7", 2)
    assert [asked.temperature for asked in endpoint.seen] == [0, RETRY_TEMPERATURE]
    assert ledger.spent()[0]["calls"] == 2


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_request_is_asked_only_so_often(ledger, attempts):
    """A request whose replies are all refused is a failure with the last reply and the reason."""
    endpoint = Endpoint({"n": list("abcd")})
    (outcome,) = ask(endpoint, ledger, [request("n", check=refuse)], attempts=attempts)
    last = "abcd"[attempts - 1]
    assert outcome == Failure("malformed", f"{last} is no good", last, attempts)
    assert len(endpoint.seen) == attempts


def test_json_that_was_cut_off_gets_more_room_once(ledger):
    """Cut off JSON is asked for again with twice the tokens; cut off again, it is a failure of its kind."""
    endpoint = Endpoint({"n": [Reply("x", "length", 10, 8, None, 0.1)] * 9})
    (outcome,) = ask(endpoint, ledger, [request("n", check=int, schema={"type": "integer"})], attempts=5)
    assert [asked.max_tokens for asked in endpoint.seen] == [8, 16]
    assert (outcome.kind, outcome.attempts) == ("length", 2)


def test_a_cut_off_reply_that_passes_is_taken(ledger):
    """Where the reply is of use all the same, it is used."""
    (outcome,) = ask(Endpoint({"n": [Reply("7", "length", 10, 8, None, 0.1)]}), ledger, [request("n", check=int)])
    assert (outcome.text, outcome.finish_reason) == ("7", "length")


@pytest.mark.parametrize("kind", ["refused", "too long"])
def test_a_refusal_is_final(ledger, kind):
    """What the provider refuses is not asked again, whatever the attempts, and is not stored."""
    endpoint = Endpoint({"bad": [Rejected("against our rules", kind=kind)] * 9})
    outcomes = ask(endpoint, ledger, [request("good"), request("bad")])
    assert outcomes[1] == Failure(kind, "against our rules", "", 1)
    assert endpoint.texts.count("bad") == 1
    assert ledger.spent()[0]["calls"] == 1


def test_requests_are_taken_as_they_are_needed(ledger):
    """Only a bounded number of requests is looked at ahead, however many there are."""
    taken = []

    def source():
        for i in range(100_000):
            taken.append(i)
            yield request(f"word {i}")

    outcomes = generator(Endpoint(), ledger).complete(source())
    for i in range(150):
        next(outcomes)
        assert len(taken) <= i + 1 + 64
    outcomes.close()


def test_leaving_early_keeps_what_is_in_the_air(ledger):
    """When nobody wants further outcomes, calls in flight are waited for and kept."""
    endpoint = Endpoint()
    outcomes = generator(endpoint, ledger).complete(request(f"word {i}") for i in range(50))
    next(outcomes)
    outcomes.close()
    assert ledger.spent()[0]["calls"] == len(endpoint.seen) < 50
    assert endpoint.closed == 1


def test_an_error_keeps_what_came_and_what_was_in_the_air(ledger):
    """When the run stops, every reply that was paid for is in the ledger and is not asked for again."""
    endpoint = Endpoint({"word 20": [AccessDenied("no such model")]})
    requests = [request(f"word {i}") for i in range(40)]
    with pytest.raises(UsageError, match="no such model"):
        ask(endpoint, ledger, requests)
    kept = ledger.spent()[0]["calls"]
    assert kept == len(endpoint.seen) - 1
    assert [one.text for one in ask(endpoint, ledger, requests)] == [f"echo: word {i}" for i in range(40)]
    assert len(endpoint.seen) == 41


def test_what_was_never_sent_is_not_counted(ledger):
    """Where the first replies end the run, calls that were written down ahead of their turn cost nothing."""
    endpoint = Endpoint({f"word {i}": [AccessDenied("no such key")] for i in range(40)})
    with pytest.raises(UsageError, match="no such key"):
        ask(endpoint, ledger, [request(f"word {i}") for i in range(40)], concurrency=64)
    assert ledger.read("SELECT state FROM calls") == []


def test_the_cap_ends_a_run_and_a_higher_one_goes_on(ledger):
    """At the cap the run stops with everything kept; the same requests under a higher cap pay for the rest alone."""
    requests = [request(f"word {i}") for i in range(40)]
    with pytest.raises(CapReached):
        ask(Endpoint(), ledger, requests, cap=0.01)
    paid = ledger.spent()[0]["calls"]
    assert 0 < paid < 40
    endpoint = Endpoint()
    assert len(ask(endpoint, ledger, requests, cap=1.0)) == 40
    assert len(endpoint.seen) == 40 - paid


def test_ctrl_c_drains_and_keeps(ledger, monkeypatch):
    """Ctrl-C while replies are awaited waits for those in flight, keeps them, and is then passed on."""
    endpoint, interrupted = Endpoint(), []
    collect = RequestPool.collect

    def interrupt(self, *_):
        if len(interrupted) == 5:
            raise KeyboardInterrupt
        interrupted.append(1)
        return collect(self)

    monkeypatch.setattr(RequestPool, "collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(endpoint, ledger, [request(f"word {i}") for i in range(100)])
    assert ledger.spent()[0]["calls"] == len(endpoint.seen) < 100
    assert not [thread for thread in threading.enumerate() if thread.name == "raft-pool"]


def test_a_second_ctrl_c_leaves_at_once(ledger, monkeypatch):
    """Ctrl-C while waiting for what is in flight cuts it off; it counts at its worst case."""
    collect, calls = RequestPool.collect, []

    def interrupt(self, *_):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return collect(self)

    monkeypatch.setattr(RequestPool, "collect", interrupt)
    monkeypatch.setattr(RequestPool, "drain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(Endpoint(), ledger, [request(f"word {i}") for i in range(100)])
    states = {state for (state,) in ledger.read("SELECT DISTINCT state FROM calls")}
    assert "open" not in states


def test_too_many_failures_stop_the_run_with_examples(ledger):
    """When most replies are of no use, the run stops early, shows three of them, and says what to do."""
    endpoint = Endpoint()
    requests = [request(f"word {i}", check=refuse) for i in range(500)]
    with pytest.raises(RaftError) as caught:
        ask(endpoint, ledger, requests, attempts=1, max_failures=0.5)
    assert len(endpoint.seen) < 200
    assert caught.value.where.count("malformed: echo: word") == 3
    assert "max_failures" in caught.value.hint
    assert ledger.spent()[0]["calls"] == len(endpoint.seen)


def test_failures_below_the_share_do_not_stop_the_run(ledger):
    """Some failures are part of every run."""
    requests = [request(f"word {i}", check=refuse if i % 3 == 0 else None) for i in range(200)]
    assert len(ask(Endpoint(), ledger, requests, attempts=1, max_failures=0.5)) == 200
    few = [request(f"few {i}", check=refuse) for i in range(40)]
    assert len(ask(Endpoint(), ledger, few, attempts=1, max_failures=0.5)) == 40


def test_progress_adds_up(ledger):
    """What is told while it goes on adds up to all replies, and ends with the totals and what is spent of the cap."""
    told = []
    own = generator(Endpoint(), ledger, cap=1.0, progress=told.append)
    list(own.complete([request(f"word {i}", check=refuse if i == 3 else None) for i in range(20)]))
    list(own.complete([request("word 0")]))
    assert sum(facts["new"] for facts in told) == 22
    assert sum(facts["replayed"] for facts in told) == 1
    last = told[-1]
    assert set(last) == {
        *("new", "replayed", "in_flight", "limit", "cost", "cap", "input_tokens", "output_tokens", "failures")
    }
    assert (last["cap"], last["failures"], last["in_flight"]) == (1.0, 1, 0)
    assert last["cost"] == pytest.approx(own.totals["cost"] - PRICE.cost(10, 3))
    assert last["input_tokens"] == own.totals["input_tokens"]


def test_no_requests_ask_nothing(ledger):
    """Nothing asked, nothing answered."""
    assert ask(Endpoint(), ledger, []) == []


@given(
    words=st.lists(st.integers(0, 12), max_size=40),
    concurrency=st.integers(1, 8),
    slow=st.lists(st.floats(0, 3), min_size=13, max_size=13),
)
@settings(max_examples=25, deadline=None)
def test_any_order_of_replies_gives_the_same_outcomes(tmp_path_factory, words, concurrency, slow):
    """Outcomes depend on requests and replies alone: not on who was faster, nor on faults in between."""

    def check(reply):
        if reply.endswith(("3", "7")):
            raise ValueError("no good")

    def latency(asked):
        return slow[int(asked.messages[-1]["content"])]

    expected = [f"echo: {word}" if word not in (3, 7) else "no good" for word in words]
    with closing(Ledger(tmp_path_factory.mktemp("any") / "ledger.sqlite")) as ledger:
        endpoint = Endpoint({"5": [Transient("500", billed=False)]}, latency=latency)
        requests = [request(str(word), check=check) for word in words]
        outcomes = ask(endpoint, ledger, requests, attempts=2, concurrency=concurrency)
    assert [one.text if isinstance(one, Completion) else one.message for one in outcomes] == expected
    retried = {word for word in words if word in (3, 7)}
    assert len(endpoint.seen) == len(set(words)) + len(retried) + (5 in words)
