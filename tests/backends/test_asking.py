"""Asking: in order, never twice for the same, again when a reply is no good, and safe to kill."""

import json
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.backends.asking import RETRY_TEMPERATURE, AskingGenerator, Reply
from raft.protocols import Completion, Failure, Request
from raft.store.ledger import Ledger


class Model:
    """A model whose reply is a function of the call; it remembers what it answered.

    Args:
        reply: from a call to a text, a `Reply` or a `Failure`; it may raise.
        batch: how many replies are yielded together, last calls first.
    """

    identity = "fake@1"
    name = "fake"

    def __init__(self, reply=lambda call: call.messages[-1]["content"].upper(), *, window=4, batch=1):
        self.reply, self.window, self.batch = reply, window, batch
        self.calls = []

    def answer(self, calls, wanted):
        """Answer in reverse order, in batches."""
        places = [i for i in reversed(range(len(calls))) if wanted[i]]
        for begin in range(0, len(places), self.batch):
            yield [(i, self._one(calls[i])) for i in places[begin : begin + self.batch]]

    def _one(self, call):
        said = self.reply(call)
        self.calls.append(call)
        return Reply(said, "stop", 10, 2, 0.5, 0.1) if isinstance(said, str) else said


def request(text, **changes):
    """Return a request with one user turn."""
    return Request(({"role": "user", "content": text},), max_tokens=8, **changes)


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def ask(model, ledger, requests, attempts=3):
    """Return all outcomes of a fresh generator."""
    return list(AskingGenerator(model, ledger, attempts=attempts).complete(requests))


def test_outcomes_come_in_the_order_of_the_requests(ledger):
    """Whatever order a model answers in, outcomes are in the order of the requests."""
    words = [f"word {i}" for i in range(11)]
    for batch in (1, 3):
        outcomes = ask(Model(batch=batch), ledger, [request(f"{batch} {word}") for word in words])
        assert [outcome.text for outcome in outcomes] == [f"{batch} {word}".upper() for word in words]


def test_a_reply_is_reported_with_what_it_cost(ledger):
    """A completion says which model, how many tokens, dollars and attempts."""
    assert ask(Model(), ledger, [request("hi")]) == [
        Completion("HI", "fake", 10, 2, cost=0.5, seconds=0.1, attempts=1, finish_reason="stop", replayed=False)
    ]


def test_equal_requests_are_asked_once(ledger):
    """The same request in one window or a later one is one call; another sample is another."""
    model = Model(window=3)
    requests = [request("a"), request("a"), request("b"), request("a"), request("a", sample=1)]
    assert [outcome.text for outcome in ask(model, ledger, requests)] == ["A", "A", "B", "A", "A"]
    assert sorted((call.messages[-1]["content"], call.sample) for call in model.calls) == [("a", 0), ("a", 1), ("b", 0)]


def test_equal_requests_may_be_checked_differently(ledger):
    """The check belongs to the request, not to the reply: one may take what another refuses."""
    good, bad = ask(Model(), ledger, [request("7", check=int), request("7", check=json.JSONDecoder().raw_decode)], 1)
    assert (good.text, bad.text) == ("7", "7")
    fussy = ask(Model(), ledger, [request("7"), request("7", check=refuse)], 1)
    assert [type(outcome) for outcome in fussy] == [Completion, Failure]


def refuse(reply):
    """Refuse every reply."""
    raise ValueError(f"{reply} is no good")


def test_a_bad_reply_is_asked_again_warmer(ledger):
    """A reply that its check refuses is asked for again under another key, sampling at least so warm."""
    model = Model(lambda call: "7" if call.temperature else "x")
    (outcome,) = ask(model, ledger, [request("n", check=int)])
    assert (outcome.text, outcome.attempts) == ("7", 2)
    assert [call.temperature for call in model.calls] == [0, RETRY_TEMPERATURE]
    assert ledger.spent()[0]["calls"] == 2


def test_a_warm_request_is_not_cooled_down(ledger):
    """Another attempt never samples colder than the request asked for."""
    model = Model(lambda call: "x")
    ask(model, ledger, [request("n", check=int, temperature=1.5)], attempts=2)
    assert [call.temperature for call in model.calls] == [1.5, 1.5]


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_request_is_asked_only_so_often(ledger, attempts):
    """A request whose replies are all refused is a failure with the last reply and the reason."""
    replies = iter("abcdefgh")
    model = Model(lambda call: next(replies))
    (outcome,) = ask(model, ledger, [request("n", check=refuse)], attempts)
    last = "abcd"[attempts - 1]
    assert outcome == Failure("malformed", f"{last} is no good", last, attempts)
    assert len(model.calls) == attempts


def test_only_the_bad_ones_are_asked_again(ledger):
    """A bad reply does not make its neighbours be asked again."""
    model = Model(lambda call: "7" if call.temperature or call.messages[-1]["content"] != "bad" else "x")
    outcomes = ask(model, ledger, [request(word, check=int) for word in ("good", "bad", "fine")])
    assert [outcome.attempts for outcome in outcomes] == [1, 2, 1]
    assert len(model.calls) == 4


def test_a_reply_that_was_cut_off_gets_more_room(ledger):
    """Refused JSON that had reached the limit is asked for again with twice the tokens; at last it is "length"."""
    model = Model(lambda call: Reply("x", "length", 1, call.max_tokens, 0.0, 0.0))
    (outcome,) = ask(model, ledger, [request("n", check=int, schema={"type": "integer"})])
    assert [call.max_tokens for call in model.calls] == [8, 16, 32]
    assert (outcome.kind, outcome.attempts) == ("length", 3)


def test_a_cut_off_reply_that_passes_is_taken(ledger):
    """Where the reply is of use all the same, it is used."""
    model = Model(lambda call: Reply("7", "length", 1, 8, 0.0, 0.0))
    (outcome,) = ask(model, ledger, [request("n", check=int)])
    assert (outcome.text, outcome.finish_reason, len(model.calls)) == ("7", "length", 1)


def test_what_a_provider_refuses_is_a_failure_and_is_not_stored(ledger):
    """A refusal is reported in the provider's words at once, and asked anew by the next run alone."""
    model = Model(
        lambda call: Failure("refused", "against our rules") if "bad" in call.messages[-1]["content"] else "ok"
    )
    outcomes = ask(model, ledger, [request("good"), request("bad")], attempts=2)
    assert [type(outcome) for outcome in outcomes] == [Completion, Failure]
    assert outcomes[1] == Failure("refused", "against our rules", "", 1)
    assert len(ledger.spent()) == 1
    assert ledger.spent()[0]["calls"] == 1


def test_a_model_that_forgets_a_request_makes_it_a_failure(ledger):
    """A request that a model leaves without reply is an "error", not a missing row."""
    model = Model()
    model.answer = lambda calls, wanted: iter([])
    outcomes = ask(model, ledger, [request("a"), request("b")], attempts=1)
    assert [outcome.kind for outcome in outcomes] == ["error", "error"]


def flaky(call):
    """Reply by the call alone: some are refused for ever, some at first, some are cut off."""
    number = int(call.messages[-1]["content"])
    if number % 5 == 0:
        return Reply("cut", "length", 1, call.max_tokens, None, 0.0)
    return "7" if number % 3 or call.temperature else "x"


@given(numbers=st.lists(st.integers(0, 20), max_size=14), window=st.integers(1, 6), other=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_a_second_run_asks_nothing_and_gives_equal_outcomes(tmp_path_factory, numbers, window, other):
    """With the ledger, the same requests give the same outcomes without a call, whatever the window."""
    path = tmp_path_factory.mktemp("replay") / "ledger.sqlite"
    requests = [request(str(number), check=int) for number in numbers]
    with closing(Ledger(path)) as ledger:
        first = ask(Model(flaky, window=window), ledger, requests)
    with closing(Ledger(path)) as ledger:
        silent = Model(flaky, window=other)
        again = AskingGenerator(silent, ledger, attempts=3)
        second = list(again.complete(requests))
    assert silent.calls == []
    assert [same(outcome) for outcome in second] == [same(outcome) for outcome in first]
    assert all(outcome.replayed for outcome in second if isinstance(outcome, Completion))
    assert again.totals["calls"] == again.totals["replayed"]


def same(outcome):
    """Return an outcome without the mark that tells whether it was replayed."""
    return replace(outcome, replayed=False) if isinstance(outcome, Completion) else outcome


@pytest.mark.parametrize("dies_at", range(10))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_kill_loses_only_what_was_in_flight(ledger, dies_at, batch):
    """What was yielded by the model before it died is never asked again, and outcomes are those of a whole run."""
    requests = [request(f"word {i}") for i in range(10)]
    done = []

    def dying(call):
        if len(done) == dies_at:
            raise KeyboardInterrupt
        done.append(call)
        return call.messages[-1]["content"].upper()

    with pytest.raises(KeyboardInterrupt):
        ask(Model(dying, batch=batch), ledger, requests)
    model = Model(batch=batch)
    assert [outcome.text for outcome in ask(model, ledger, requests)] == [f"WORD {i}" for i in range(10)]
    lost = len(done) + len(model.calls) - 10
    assert 0 <= lost < batch


@given(window=st.integers(1, 5), wanted=st.integers(0, 8))
@settings(max_examples=20, deadline=None)
def test_no_more_than_a_window_is_taken_ahead(tmp_path_factory, window, wanted):
    """Requests are taken a window at a time, and a window is asked only when its first outcome is wanted."""
    taken = []

    def source():
        for i in range(20):
            taken.append(i)
            yield request(f"word {i}")

    with closing(Ledger(tmp_path_factory.mktemp("lazy") / "ledger.sqlite")) as ledger:
        model = Model(window=window)
        outcomes = AskingGenerator(model, ledger, attempts=1).complete(source())
        for _ in range(wanted):
            next(outcomes)
        assert len(taken) == len(model.calls) == -(-wanted // window) * window


def test_totals_count_new_and_replayed_replies(ledger):
    """Totals tell calls, tokens and dollars, unknown prices apart; each batch is told to the listener."""
    told = []
    priceless = Model(
        lambda call: Reply("ok", "stop", 10, 2, None if call.messages[-1]["content"] == "b" else 0.5, 0.1)
    )
    first = AskingGenerator(priceless, ledger, attempts=1, progress=lambda new, replayed: told.append((new, replayed)))
    list(first.complete([request("a"), request("b"), request("a")]))
    assert first.totals == {
        "calls": 2,
        "replayed": 0,
        "input_tokens": 20,
        "output_tokens": 4,
        "cost": 0.5,
        "unpriced": 1,
    }
    assert sum(new for new, _ in told) == 2
    list(first.complete([request("a"), request("c")]))
    assert (first.totals["calls"], first.totals["replayed"]) == (4, 1)
    assert told[2:] == [(0, 1), (1, 0)]


def test_another_model_does_not_answer_for_this_one(ledger):
    """Replies are kept by the model's identity."""
    ask(Model(), ledger, [request("a")])
    other = Model()
    other.identity = "fake@2"
    ask(other, ledger, [request("a")])
    assert len(other.calls) == 1


def test_no_requests_ask_nothing(ledger):
    """Nothing asked, nothing answered."""
    assert ask(Model(), ledger, []) == []
