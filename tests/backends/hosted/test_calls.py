"""Calls in flight, on a clock that jumps: each written down before it is sent, retried in one place, never lost."""

import asyncio
from contextlib import closing
from itertools import pairwise

import pytest

from raft.backends.asking import Reply
from raft.backends.hosted import endpoints
from raft.backends.hosted.calls import Call, RequestPool
from raft.backends.hosted.errors import AccessDenied, RateLimited, Rejected, Transient
from raft.backends.hosted.openai_http import read_usage
from raft.backends.hosted.rate_limit import RateLimiter
from raft.errors import MissingExtra, RaftError, UsageError
from raft.protocols import Failure, Request
from raft.store.budget import Budget, CapReached, Price, worst_case
from raft.store.ledger import Entry, Ledger, request_key
from simulated import Endpoint, SimulatedLoop

PRICE = Price(input=10.0, output=20.0)
ABSURD = [2**63, 10**9, -1, 1.5, True, "9"]


def call(text, **changes):
    """Return a call with one user turn."""
    request = Request(({"role": "user", "content": text},), **{"max_tokens": 50, **changes})
    return Call(request_key(request, "m", 0), request, 0)


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def budget(ledger, cap=None, price=PRICE):
    """Return a budget on a ledger."""
    return Budget(ledger, run="r", model="m", price=price, cap=cap)


def pool(endpoint, budget, most=4, **options):
    """Return a flight to an endpoint."""
    options = {"limiter": RateLimiter(most), "model": "m", "where": "here", "loop": SimulatedLoop, **options}
    place = endpoints.Endpoint(options.pop("where"), options.pop("limiter"), endpoint.transport)
    return RequestPool(endpoints.Endpoints([place]), budget=budget, **options)


def send(endpoint, budget, *texts, **options):
    """Return what becomes of calls with these texts, by text."""
    waiting, results = [call(text) for text in texts], {}
    endpoint.gate.clear()  # the clock stands still until all that there is room for are submitted
    with pool(endpoint, budget, **options) as sending:
        while len(results) < len(texts):
            while waiting and sending.room:
                sending.submit(waiting.pop(0))
            endpoint.gate.set()
            results |= {made.request.messages[-1]["content"]: outcome for made, outcome in sending.collect()}
    return results


def states(ledger):
    """Return the states of the calls in a ledger."""
    return [state for (state,) in ledger.read("SELECT state FROM calls ORDER BY id")]


def test_a_reply_is_in_the_ledger_with_what_it_cost(ledger):
    """What is collected is stored already: text, tokens, dollars; and the run has spent exactly that."""
    own = budget(ledger)
    entry = send(Endpoint(), own, "hello there")["hello there"]
    assert entry == next(iter(ledger.find([call("hello there").key]).values()))
    assert (entry.reply, entry.model, entry.attempt, entry.finish_reason) == ("echo: hello there", "m", 0, "stop")
    assert (entry.input_tokens, entry.output_tokens, entry.cost) == (10, 3, PRICE.cost(10, 3))
    assert own.spent == pytest.approx(PRICE.cost(10, 3))
    assert own.in_flight == 0


def test_a_call_is_written_down_before_it_is_sent(ledger):
    """At the moment when the endpoint sees a request, the ledger has it with the most that it can cost."""
    endpoint, found = Endpoint(), []
    endpoint.watch = lambda request: found.extend(ledger.read("SELECT state, worst, key FROM calls"))
    send(endpoint, budget(ledger), "hello")
    assert found == [("open", worst_case(call("hello").request, PRICE), call("hello").key)]
    assert states(ledger) == ["paid"]


def test_many_calls_are_in_the_air_at_once(ledger):
    """As many calls fly as the pace allows, and each comes back once."""
    endpoint = Endpoint()
    results = send(endpoint, budget(ledger), *(f"number {i}" for i in range(100)), most=16)
    assert {entry.reply for entry in results.values()} == {f"echo: number {i}" for i in range(100)}
    assert endpoint.peak == 16
    assert endpoint.closed == 1


@pytest.mark.parametrize(
    "faults",
    [
        [RateLimited("slow down")],
        [RateLimited("slow down", retry_after=3.0)] * 12,
        [Transient("500", billed=False)] * 7,
        [Transient("cut", billed=False), RateLimited("full"), Transient("500", billed=False)],
    ],
)
def test_what_passes_by_itself_is_sent_again_and_costs_nothing(ledger, faults):
    """A busy or failing endpoint is asked again, once a fault and no more; only the reply is paid for."""
    endpoint, own = Endpoint({"x": faults}), budget(ledger)
    assert send(endpoint, own, "x")["x"].reply == "echo: x"
    assert len(endpoint.seen) == len(faults) + 1
    assert states(ledger) == ["paid"]
    assert own.spent == pytest.approx(PRICE.cost(10, 2))


def test_a_call_that_may_have_been_charged_counts_at_its_worst_case(ledger):
    """A call that was cut off counts as the most it can have cost, besides the reply of the next try."""
    own = budget(ledger)
    assert send(Endpoint({"x": [Transient("cut", billed=True)]}), own, "x")["x"].reply == "echo: x"
    assert states(ledger) == ["lost", "paid"]
    assert own.spent == pytest.approx(worst_case(call("x").request, PRICE) + PRICE.cost(10, 2))


@pytest.mark.parametrize("usage", [(-1, -1), (10, 0), (-1, 5)])
def test_a_reply_without_believable_usage_is_paid_at_its_worst_case(ledger, usage):
    """Where a reply does not say what it counted, it counts as much as it can have."""
    own = budget(ledger)
    entry = send(Endpoint({"x": [Reply("some text", "stop", *usage, None, 0.1)]}), own, "x")["x"]
    worst = worst_case(call("x").request, PRICE)
    assert own.spent == entry.cost == pytest.approx(worst)
    assert (entry.input_tokens, entry.output_tokens) == (0, 0)


def test_a_model_without_a_price_is_counted_in_tokens_alone(ledger):
    """Where no price is known, the reply says so and is no less kept."""
    entry = send(Endpoint(), budget(ledger, price=None), "x")["x"]
    assert (entry.cost, entry.input_tokens) == (None, 10)


def test_retry_after_is_waited_for(ledger):
    """The second try comes no sooner than the endpoint asked for."""
    endpoint = Endpoint({"x": [RateLimited("later", retry_after=42.0)]})
    send(endpoint, budget(ledger), "x")
    first, second = endpoint.times
    assert second - first >= 42


def test_tries_of_an_endpoint_that_fails_are_bounded(ledger):
    """An endpoint that only fails is asked eight times, with waits; then the run stops, and says how to go on."""
    endpoint = Endpoint({"x": [Transient("500 out of order", billed=False)] * 50})
    with pytest.raises(RaftError, match="does not answer: 500 out of order") as caught:
        send(endpoint, budget(ledger), "x")
    assert not isinstance(caught.value, UsageError)
    assert caught.value.where == "here"
    assert "not paid for twice" in caught.value.hint
    assert len(endpoint.seen) == 8
    assert all(later - sooner <= 31 for sooner, later in pairwise(endpoint.times))
    assert states(ledger) == []


def test_an_endpoint_that_stays_busy_is_away_after_ten_minutes(ledger):
    """An endpoint that turns everything away is given time rather than tries, and not much more than ten minutes."""
    endpoint = Endpoint({"x": [RateLimited("overloaded")] * 5000})
    with pytest.raises(RaftError, match="overloaded"):
        send(endpoint, budget(ledger), "x")
    assert 8 < len(endpoint.seen) < 200
    assert 550 <= endpoint.times[-1] - endpoint.times[0] <= 700


def test_an_endpoint_that_asks_for_hours_is_away_at_once(ledger):
    """A wait longer than our patience is not begun."""
    endpoint = Endpoint({"x": [RateLimited("quota of the day", retry_after=40_000.0)] * 9})
    with pytest.raises(RaftError, match="40,000 seconds"):
        send(endpoint, budget(ledger), "x")
    assert len(endpoint.seen) == 1


@pytest.mark.parametrize(
    ("fault", "tries"),
    [(Transient("timed out", billed=True), 3), (Transient("500", billed=False), 8), (RateLimited("no"), 20)],
)
def test_a_call_that_fails_alone_is_given_up_alone(ledger, fault, tries):
    """While others are answered, one that never is becomes a failure; it does not stop the run."""

    def latency(request):
        text = request.messages[-1]["content"]
        return 0.1 if text == "bad" else 2.0 * int(text)

    endpoint = Endpoint({"bad": [fault] * 99}, latency=latency)
    failed = send(endpoint, budget(ledger), *(str(i) for i in range(7)), "bad", *(str(i) for i in range(7, 60)))["bad"]
    assert failed == Failure("error", fault.words)
    assert endpoint.texts.count("bad") == tries


@pytest.mark.parametrize("kind", ["refused", "too long"])
def test_what_the_provider_refuses_is_sent_once_and_costs_nothing(ledger, kind):
    """A refusal fails its own call, in the provider's words."""
    endpoint, own = Endpoint({"bad": [Rejected("against our rules", kind=kind)] * 9}), budget(ledger)
    results = send(endpoint, own, "bad", "good")
    assert results["bad"] == Failure(kind, "against our rules")
    assert results["good"].reply == "echo: good"
    assert endpoint.texts.count("bad") == 1
    assert states(ledger) == ["paid"]


def test_a_wrong_key_stops_the_run_after_what_was_in_the_air(ledger):
    """Nothing is sent after the provider said no; calls that were in flight are returned first, and are kept."""
    endpoint = Endpoint(
        {"bad": [AccessDenied("Incorrect API key")]},
        latency=lambda request: 0.1 if "bad" in str(request.messages) else 5.0,
    )
    settled = []
    endpoint.gate.clear()
    with pool(endpoint, budget(ledger), most=3) as sending:
        for text in ("good", "fine", "bad", "late", "later", "last"):
            sending.submit(call(text))
        endpoint.gate.set()
        with pytest.raises(UsageError, match="Incorrect API key") as caught:
            while True:
                settled += sending.collect()
    assert "M_API_KEY" in caught.value.hint
    assert {made.request.messages[-1]["content"] for made, _ in settled} == {"good", "fine"}
    assert sorted(endpoint.texts) == ["bad", "fine", "good"]
    assert len(ledger.find([call("good").key, call("fine").key])) == 2
    assert sorted(states(ledger)) == ["paid", "paid"]


def test_the_cap_stops_the_run_before_it_is_passed(ledger):
    """When the next call could pass the cap, the run stops; what came is kept, and the words say what is spent."""
    worst = worst_case(call("number 10").request, PRICE)
    endpoint, own = Endpoint(), budget(ledger, cap=worst + 3 * PRICE.cost(10, 3))
    settled = []
    with pool(endpoint, own) as sending, pytest.raises(CapReached, match="The cap of"):
        for i in range(10, 30):
            sending.submit(call(f"number {i}"))
        while True:
            settled += sending.collect()
    assert len(settled) == len(endpoint.seen) == 4
    assert endpoint.peak == 1
    assert own.spent <= own.cap


def test_a_call_that_does_not_fit_waits_for_what_is_in_the_air(ledger):
    """Calls in flight count at their worst case; when they turn out cheaper, the next one is sent."""
    worst = worst_case(call("number 10").request, PRICE)
    endpoint = Endpoint()
    results = send(endpoint, budget(ledger, cap=2.5 * worst), *(f"number {i}" for i in range(10, 20)))
    assert len(results) == 10
    assert endpoint.peak == 2


def test_draining_sends_nothing_more_and_keeps_what_is_in_the_air(ledger):
    """What is in flight is waited for and returned; what was only submitted is not sent."""
    endpoint = Endpoint({"wait": [Transient("500", billed=False)] * 99}, latency=1.0)
    with pool(endpoint, budget(ledger), most=2) as sending:
        for text in ("one", "two", "three", "four"):
            sending.submit(call(text))
        first = sending.collect()
        rest = sending.drain()
        assert sending.drain() == sending.collect() == []
    kept = [made for made, _ in first + rest]
    assert len(kept) == len(endpoint.seen) == len(ledger.find([made.key for made in kept]))
    assert set(states(ledger)) == {"paid"}


def test_a_pool_that_is_cut_off_counts_its_calls_at_their_worst_case(ledger):
    """Leaving without draining is quick, and nothing that may be charged is forgotten."""
    endpoint, own = Endpoint(latency=lambda request: 0.1 if "quick" in str(request.messages) else 1e9), budget(ledger)
    # a clock that jumps would jump to the end of the long call
    with pool(endpoint, own, loop=asyncio.new_event_loop) as sending:
        sending.submit(call("slow"))
        sending.submit(call("quick"))
        (_, entry), *_ = sending.collect()
    assert isinstance(entry, Entry)
    assert sorted(states(ledger)) == ["lost", "paid"]
    assert own.in_flight == 0


def test_only_so_many_calls_are_taken_ahead(ledger):
    """There is room for a bounded number of calls, however many there are to come."""
    with pool(Endpoint(), budget(ledger), most=4) as sending:
        submitted = 0
        while sending.room:
            sending.submit(call(f"number {submitted}"))
            submitted += 1
        assert submitted <= 2 * 4 + 8
        assert sending.collect()
        assert sending.room


def test_limits_that_the_endpoint_states_are_kept(ledger):
    """What the endpoint's headers say of its limits sets the pace."""
    endpoint = Endpoint()
    endpoint.limits = {"requests_per_minute": 60.0}
    send(endpoint, budget(ledger), *(f"number {i}" for i in range(40)))
    late = [sent for sent in endpoint.times if sent > 1]
    assert len(late) >= 30
    assert all(later - sooner > 0.9 for sooner, later in pairwise(late))


def test_a_transport_that_cannot_be_opened_says_so(ledger):
    """A missing package or an unknown provider is an error for the caller, not for the thread."""

    class Missing:
        def transport(self):
            raise MissingExtra("aiohttp", extra="hosted", why="to ask")

    with pool(Missing(), budget(ledger)) as sending, pytest.raises(MissingExtra):
        sending.submit(call("x"))
        while True:
            sending.collect()


def test_a_transport_that_breaks_its_promise_is_an_error_and_no_silence(ledger):
    """An error that no transport may raise ends the run with that error; the call counts at its worst case."""
    with pytest.raises(ZeroDivisionError):
        send(Endpoint({"x": [ZeroDivisionError()]}), budget(ledger), "x")
    assert states(ledger) == ["lost"]


def test_nothing_submitted_is_nothing_to_wait_for(ledger):
    """Collecting from an idle flight returns at once."""
    with pool(Endpoint(), budget(ledger)) as sending:
        assert sending.collect() == sending.drain() == []


@pytest.mark.parametrize("told", ABSURD)
def test_absurd_usage_loses_no_reply_and_counts_at_its_worst(ledger, told):
    """Whatever a provider says of tokens, the reply is kept, its call costs at most its worst case, and it is told."""
    usage = read_usage({"prompt_tokens": told, "completion_tokens": told})
    endpoint = Endpoint(
        {"hi": [Reply("yes", "stop", *usage, None, 0.1)], "ho": [Reply("no", "stop", 2**63, 9, None, 0.1)]}
    )
    mine = budget(ledger)
    results = send(endpoint, mine, "hi", "ho")
    assert [results[text].reply for text in ("hi", "ho")] == ["yes", "no"]
    worst = sum(worst_case(call(text).request, PRICE) for text in ("hi", "ho"))
    assert mine.spent == pytest.approx(worst)
    assert ledger.spending("r")[0]["calls_without_usage"] == 2
