"""Spending: every call is written down before it is sent, and no call gets past the cap."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import RaftError, UsageError
from raft.protocols import Request
from raft.store.batches import BatchBook
from raft.store.budget import (
    Budget,
    CapReached,
    PaidEmbedder,
    Price,
    believed,
    dollars,
    enter,
    most_tokens,
    worst_case,
)
from raft.store.ledger import Entry, Ledger
from raft.testing import HashEmbedder

PRICE = Price(input=2.0, output=8.0)
ENTRY = Entry(
    key="k",
    model="m",
    attempt=0,
    request="{}",
    reply="yes",
    finish_reason="stop",
    input_tokens=100,
    output_tokens=10,
    cost=0.25,
    seconds=0.5,
)


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def budget_of(ledger, **changes):
    """Return a budget of a run with a price and a cap of five dollars."""
    return Budget(ledger, **{"run": "one", "model": "m", "price": PRICE, "cap": 5.0, **changes})


def states(ledger):
    """Return the state of each call that is written down."""
    return [state for (state,) in ledger.read("SELECT state FROM calls ORDER BY id")]


def test_a_price_is_per_million_tokens():
    """Half a million tokens read and a quarter of a million written cost what the two prices say."""
    assert Price(2.0, 8.0).cost(500_000, 250_000) == pytest.approx(3.0)
    assert Price(2.0, 8.0).times(0.5) == Price(1.0, 4.0)


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=4), schema=st.none() | st.just({"type": "object"}))
def test_no_tokenizer_counts_more_than_the_bound(texts, schema):
    """A token holds at least one byte, so that the bound is never less than the bytes of all turns and the schema."""
    messages = tuple({"role": "user", "content": text} for text in texts)
    size = sum(len(text.encode()) for text in texts) + (len(json.dumps(schema)) if schema else 0)
    assert most_tokens(Request(messages, 10, schema=schema)) >= size + 8 * len(texts)


def test_the_worst_case_is_all_room_filled():
    """A call costs at most its longest input and all the tokens it may write; without a price nobody knows."""
    request = Request(({"role": "user", "content": "a" * 1000},), 500)
    assert worst_case(request, PRICE) == pytest.approx((most_tokens(request) * 2 + 500 * 8) / 1e6)
    assert worst_case(request, None) is None


def test_half_a_letter_can_be_counted():
    """A lone surrogate in a document does not stop a build."""
    assert most_tokens(Request(({"role": "user", "content": "\ud83d"},), 5)) > 3


def test_a_cap_needs_a_price(ledger):
    """Without a price a cap is refused, with what to type; without a cap no price is needed."""
    with pytest.raises(UsageError, match="--price"):
        budget_of(ledger, price=None)
    free = budget_of(ledger, price=None, cap=None)
    assert free.fits(None)
    free.pay(free.open("k", None), ENTRY, cost=None, input_tokens=5, output_tokens=5)
    assert free.spent == 0
    assert ledger.spending("one")[0]["calls_without_price"] == 1


def test_a_call_is_written_down_before_it_is_sent(tmp_path, ledger):
    """Another process sees an open call, its purpose and what it can cost at most."""
    budget = budget_of(ledger)
    budget.purpose = "cleaned"
    budget.open("k", 1.5)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as other:
        (row,) = other.spending("one")
    assert (row["purpose"], row["model"], row["open"], row["open_cost"]) == ("cleaned", "m", 1, 1.5)
    assert (budget.spent, budget.in_flight) == (0, 1.5)


def test_a_reply_is_stored_and_its_call_settled_in_one(ledger):
    """The reply is in the ledger and the call is paid; where the reply cannot be stored, the call stays open."""
    budget = budget_of(ledger)
    budget.pay(budget.open("k", 1.5), ENTRY, cost=0.25, input_tokens=100, output_tokens=10)
    assert ledger.find(["k"]) == {"k": ENTRY}
    assert (budget.spent, budget.in_flight) == (0.25, 0)
    number = budget.open("l", 1.0)
    with pytest.raises(RaftError):
        budget.pay(number, replace(ENTRY, key="l", reply=None), cost=0.25, input_tokens=1, output_tokens=1)
    assert states(ledger) == ["paid", "open"]
    assert (budget.spent, budget.in_flight) == (0.25, 1.0)


def test_a_reply_without_usage_counts_at_its_worst(ledger):
    """What the provider does not tell is taken to be the most that it can be."""
    budget = budget_of(ledger)
    budget.pay(budget.open("k", 1.5), ENTRY, cost=None, input_tokens=-1, output_tokens=-1)
    (row,) = ledger.spending("one")
    assert (budget.spent, row["cost"], row["input_tokens"], row["output_tokens"]) == (1.5, 1.5, 0, 0)


def test_what_was_not_billed_is_forgotten(ledger):
    """A call that was turned away leaves no trace and no cost."""
    budget = budget_of(ledger)
    budget.release(budget.open("k", 1.5))
    assert (budget.spent, budget.in_flight, states(ledger)) == (0, 0, [])


def test_a_lost_call_counts_at_its_worst_for_ever(tmp_path, ledger):
    """A call that was cut off counts at its worst case, in every later build too."""
    budget = budget_of(ledger)
    budget.lose(budget.open("k", 1.5))
    assert (budget.spent, budget.in_flight) == (1.5, 0)
    ledger.close()
    with closing(Ledger(tmp_path / "ledger.sqlite")) as again:
        assert budget_of(again).spent == 1.5
        (row,) = again.spending("one")
    assert (row["calls"], row["lost"], row["lost_cost"]) == (0, 1, 1.5)


def test_what_a_killed_build_left_open_is_lost(tmp_path, ledger):
    """The next build counts open calls at their worst case; a batch goes on; another run is left alone."""
    mine, other = budget_of(ledger), budget_of(ledger, run="two")
    mine.open("a", 1.0)
    BatchBook(ledger, "one").plan("m", {"b": 0.5}, model="m", purpose="questions")
    other.open("c", 2.0)
    ledger.close()
    with closing(Ledger(tmp_path / "ledger.sqlite")) as again:
        budget = budget_of(again)
        assert (budget.spent, budget.in_flight) == (1.0, 0.5)
        assert states(again) == ["lost", "batch", "open"]
        budget.pay(2, None, cost=0.2, input_tokens=1, output_tokens=1)
        assert (budget.spent, budget.in_flight) == (1.2, 0)


def test_budgets_of_one_run_know_of_each_other(ledger):
    """What is spent on one model counts for the cap of another, and a second budget loses no open call."""
    cheap = budget_of(ledger)
    cheap.open("a", 3.0)
    dear = budget_of(ledger, model="n", price=Price(10, 10))
    dear.purpose = "index"
    assert (dear.in_flight, cheap.purpose, states(ledger)) == (3.0, "index", ["open"])
    assert not dear.fits(2.5)
    assert budget_of(ledger, run="two").fits(2.5)


def test_the_cap_is_held_before_the_call(ledger):
    """A call that fits exactly is let through; one that could pass the cap is refused and not written down."""
    budget = budget_of(ledger)
    budget.pay(budget.open("a", 3.0), None, cost=2.5, input_tokens=1, output_tokens=1)
    number = budget.open("b", 2.5)
    assert not budget.fits(0.01)
    with pytest.raises(CapReached):
        budget.open("c", 0.01)
    assert states(ledger) == ["paid", "open"]
    budget.release(number)
    assert budget.fits(0.01)


def test_a_reached_cap_says_how_to_go_on(ledger):
    """The error names the cap, what is spent and what the next call may cost, and the command that goes on."""
    budget = budget_of(ledger)
    budget.pay(budget.open("a", 4.98), None, cost=4.98, input_tokens=1, output_tokens=1)
    error = budget.cap_reached(0.0325)
    assert error.exit_code == 1
    for words in ("The cap of $5.00 would be passed", "$4.98 are spent", "$0.0325", "--max-cost 10"):
        assert words in str(error)


WORST = 100
STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "pay", "usage unknown", "release", "lose", "killed"]), st.integers(1, WORST)),
    max_size=60,
)


@given(steps=STEPS, cap=st.integers(50, 1000))
def test_what_may_have_been_billed_never_passes_the_cap(steps, cap):
    """Whatever becomes of calls, builds that are killed included, all that could have been billed fits the cap."""
    path = Path(":memory:")
    ledger = Ledger(path)
    budget = budget_of(ledger, cap=float(cap))
    billed, flying = 0, {}
    for what, amount in steps:
        if what == "open":
            if budget.fits(float(amount)):
                flying[budget.open("k", float(amount))] = amount
            else:
                with pytest.raises(CapReached):
                    budget.open("k", float(amount))
        elif what == "killed":
            billed += sum(flying.values())
            flying = {}
            ledger.shared.clear()
            budget = budget_of(ledger, cap=float(cap))
        elif flying:
            number, worst = flying.popitem()
            if what == "pay":
                paid = min(worst, amount)
                budget.pay(number, None, cost=float(paid), input_tokens=1, output_tokens=1)
                billed += paid
            elif what == "release":
                budget.release(number)
            elif what == "lose":
                budget.lose(number)
                billed += worst
            else:
                budget.pay(number, None, cost=None, input_tokens=-1, output_tokens=-1)
                billed += worst
        assert billed + sum(flying.values()) <= cap
        assert budget.spent == pytest.approx(billed)
        assert budget.in_flight == pytest.approx(sum(flying.values()))
    ledger.close()


def test_threads_share_a_budget(ledger):
    """Many threads that open and settle calls at once never pass the cap together."""
    budget, over = budget_of(ledger, cap=1.0), []

    def spend():
        for _ in range(20):
            try:
                number = budget.open("k", 0.1)
            except CapReached:
                continue
            over.append(budget.spent + budget.in_flight > 1.0 + 1e-9)
            budget.pay(number, None, cost=0.03, input_tokens=1, output_tokens=1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(over)
    assert 0.9 < budget.spent <= 1.0
    assert ledger.spending("one")[0]["cost"] == pytest.approx(budget.spent)


@pytest.mark.slow
def test_a_call_outlives_kill_9(tmp_path):
    """A process that is killed the moment after it has opened a call leaves the call in the ledger."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from raft.store.ledger import Ledger; from raft.store.budget import Budget, Price\n"
        "budget = Budget(Ledger(Path(sys.argv[1])), run='one', model='m', price=Price(1, 1), cap=5.0)\n"
        "budget.open('k', 1.5); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "ledger.sqlite"
    done = subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    with closing(Ledger(path)) as ledger:
        assert budget_of(ledger).spent == 1.5


def test_what_something_else_wrote_is_read_anew(ledger):
    """A budget that is told to recount knows of calls that were written past it."""
    budget = budget_of(ledger)
    ledger.write(
        "INSERT INTO calls (run, purpose, model, key, worst, cost, state, created) VALUES (?,?,?,?,?,?,?,?)",
        [
            ("one", "questions", "m", "a", 2.0, 1.0, "paid", 0.0),
            ("one", "questions", "m", "b", 2.0, None, "batch", 0.0),
        ],
    )
    assert (budget.spent, budget.in_flight) == (0, 0)
    budget.recount()
    assert (budget.spent, budget.in_flight) == (1.0, 2.0)


def test_the_step_is_said_for_all_budgets_of_a_run(ledger):
    """A step that begins is what calls are for from then on; a run without budgets has none to tell."""
    budget = budget_of(ledger)
    enter(ledger, "one", "examples")
    enter(ledger, "no such run", "examples")
    assert budget.purpose == "examples"


def test_embedded_texts_are_paid_for(ledger):
    """Texts are written down before they are sent, and cost what their tokenizer counts."""
    budget = budget_of(ledger, price=Price(1000.0, 0.0))
    embedder = PaidEmbedder(HashEmbedder(), budget)
    vectors = embedder.embed(["one two three", "four"])
    (row,) = ledger.spending("one")
    assert (vectors.shape, embedder.identity, embedder.max_tokens) == ((2, 256), "hash-256", 256)
    assert (row["calls"], row["input_tokens"], row["cost"]) == (1, 4, pytest.approx(0.004))


def test_texts_that_do_not_fit_the_cap_are_not_sent(ledger):
    """Where embedding could pass the cap, the embedder is not asked."""

    class Never(HashEmbedder):
        def embed(self, texts):
            raise AssertionError("it was asked")

    with pytest.raises(CapReached):
        PaidEmbedder(Never(), budget_of(ledger, price=Price(1e6, 0.0))).embed(["a long text"])
    assert states(ledger) == []


def test_texts_whose_vectors_did_not_come_are_lost(ledger):
    """Where the embedder fails, nobody knows what was billed."""

    class Transient(HashEmbedder):
        def embed(self, texts):
            raise RaftError("no answer")

    with pytest.raises(RaftError, match="no answer"):
        PaidEmbedder(Transient(), budget_of(ledger)).embed(["a text"])
    assert states(ledger) == ["lost"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (0.00001, "under $0.0001"),
        (0.0325, "$0.0325"),
        (0.9, "$0.90"),
        (4.98, "$4.98"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars_are_written_as_people_read_them(amount, text):
    """Cents for dollars, more digits for less, and never nothing for something."""
    assert dollars(amount) == text


def test_what_another_process_has_under_way_is_not_lost(tmp_path, ledger):
    """Who asks without the run's lock counts the calls of a build as under way, and leaves them as they are."""
    budget_of(ledger).open("k", 4.0)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as other:
        enter(other, "one", "ask", alone=False)
        asking = budget_of(other)
        assert (states(other), asking.in_flight) == (["open"], 4.0)
        with pytest.raises(CapReached, match="--max-cost"):
            asking.open("a", 2.0)
        asking.pay(asking.open("b", 1.0), None, cost=0.5, input_tokens=1, output_tokens=1)
    enter(ledger, "one", "cleaned")
    assert budget_of(ledger).spent == 0.5


def test_a_budget_may_keep_no_replies(ledger):
    """What such a call costs is written down, and what came is not."""
    budget = budget_of(ledger, keeps=False)
    budget.pay(budget.open("k", 1.0), ENTRY, cost=0.25, input_tokens=100, output_tokens=10)
    assert (states(ledger), budget.spent, ledger.find(["k"])) == (["paid"], 0.25, {})


def test_a_cap_that_a_benchmark_reaches_names_its_own_command(ledger):
    """A benchmark takes the cap as a setting."""
    enter(ledger, "one", "benchmark")
    with pytest.raises(CapReached, match=r"the same command with --set generator.max_cost=10"):
        budget_of(ledger).open("k", 6.0)


@given(read=st.integers(), written=st.integers())
def test_more_tokens_than_a_request_holds_are_not_believed(read, written):
    """What a reply claims is believed as far as the request can hold it, and else not at all."""
    asked = Request(({"role": "user", "content": "hello"},), max_tokens=9)
    possible = 0 <= read <= most_tokens(asked) and 0 <= written <= 9
    assert believed((read, written), asked) == ((read, written) if possible else (-1, -1))
    assert believed((most_tokens(asked), 9), asked) == (most_tokens(asked), 9)


def test_a_recount_keeps_what_is_set_aside(ledger):
    """What was granted to a call that is not written down yet still counts after a batch was settled beside it."""
    budget = budget_of(ledger)
    assert budget.reserve(3.0)
    budget.recount()
    assert budget.in_flight == 3.0
    budget.write([("k", 3.0)], [])
    budget.recount()
    assert budget.in_flight == 3.0


def test_a_reply_that_another_run_paid_for_is_taken_over(ledger):
    """A shared call whose reply is in the ledger by now is not written down, and what it would cost is free again."""
    mine = budget_of(ledger)
    with closing(Ledger(ledger.path)) as theirs:
        other = budget_of(theirs, run="other")
        other.pay(other.open("k", 1.0), ENTRY, cost=0.25, input_tokens=100, output_tokens=10)
    assert mine.reserve(1.0)
    assert mine.reserve(2.0)
    (found, number) = mine.write([("k", 1.0), ("new", 2.0)], [], shared=["open"])
    assert found == ENTRY
    assert ledger.read("SELECT key FROM calls WHERE id = ?", (number,)) == [("new",)]
    assert (mine.spent, mine.in_flight) == (0.0, 2.0)


def test_who_asks_past_the_cap_is_told_how_to_ask_again(ledger):
    """Where a question would pass the cap, the next step is to raise it for the run, and to ask again."""
    budget = budget_of(ledger)
    budget.purpose = "ask"
    assert "then ask again" in str(budget.cap_reached(9.0))
