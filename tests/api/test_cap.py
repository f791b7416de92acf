"""The cap: what the provider charges for never passes it, whatever goes wrong, and however often the run is killed."""

import asyncio
import random
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft.backends.asking import Reply
from raft.backends.hosted.errors import AccessDenied, RateLimited, Rejected, Transient
from raft.backends.hosted.flowing import FlowingGenerator
from raft.errors import RaftError
from raft.protocols import Completion, Request
from raft.store.budget import Budget, CapReached, Price, most_tokens, worst_case
from raft.store.ledger import Ledger
from simulated import Hosted

PRICE = Price(input=10.0, output=40.0)
SHARES = {"busy": 0.1, "failing": 0.1, "cut": 0.1, "uncounted": 0.1, "refused": 0.02, "denied": 0.002}


class Killed(Exception):
    """The process is gone: nothing that it does from now on has any effect."""


class Mortal(Ledger):
    """A ledger that outlives its processes, each of which is killed just before or just after one of its writes."""

    def __init__(self, path):
        self.writes, self.dies_at, self.after = 0, None, False
        super().__init__(path)

    @property
    def dead(self):
        """Whether the process is gone."""
        return self.dies_at is not None and self.writes >= self.dies_at

    def begin(self, dies_at=None, *, after=False):
        """Begin another process, which knows only what is in the file; it dies at its write of that number."""
        self.writes, self.dies_at, self.after = 0, dies_at, after
        self.shared.clear()

    def write_all(self, writings):
        """Write, unless the process is gone."""
        self.writes += 1
        if self.dead:
            if self.after and self.writes == self.dies_at:
                super().write_all(writings)
            raise Killed
        return super().write_all(writings)


class Provider:
    """An endpoint that charges: it draws what becomes of each call, and counts what it asks for.

    Attributes:
        bill: dollars charged so far.
        calls: how many came.
    """

    def __init__(self, seed):
        self.random, self.bill, self.calls, self.limits = random.Random(seed), 0.0, 0, {}

    def transport(self):
        """Return a transport: it is this endpoint."""
        return self

    async def send(self, request):
        """Answer or fail, charging at once for whatever may be charged."""
        draw, self.calls = self.random, self.calls + 1
        fate = draw.choices([*SHARES, "answered"], [*SHARES.values(), 1 - sum(SHARES.values())])[0]
        # any tokenizer: from a few bytes a token to the most that there can be
        read = draw.choice([most_tokens(request), draw.randint(1, most_tokens(request))])
        written = draw.choice([request.max_tokens, draw.randint(1, request.max_tokens)])
        if fate in ("answered", "uncounted") or (fate == "cut" and draw.random() < 0.7):
            self.bill += PRICE.cost(read, written)
        await asyncio.sleep(draw.choice([0.0, draw.random(), 20 * draw.random()]))
        if fate == "busy":
            raise RateLimited("slow down", retry_after=draw.choice([None, 0.0, 3.0]))
        if fate in ("failing", "cut"):
            raise Transient(fate, billed=fate == "cut")
        if fate == "refused":
            raise Rejected("not allowed", kind="refused")
        if fate == "denied":
            raise AccessDenied("no balance")
        usage = (read, written) if fate == "answered" else draw.choice([(-1, -1), (read, -1)])
        return Reply(draw.choice(["yes", "no"]), "stop", *usage, None, 0.1)

    async def close(self):
        """Nothing is open."""


def check(reply):
    """Refuse one of the two replies."""
    if reply == "no":
        raise ValueError("no good")


def requests(seed, count):
    """Return requests of different sizes, some of them equal."""
    draw = random.Random(seed)
    return [
        Request(
            ({"role": "user", "content": f"{draw.randint(0, count)} " + "word " * draw.randint(0, 60)},),
            max_tokens=draw.choice([5, 40, 200]),
            check=check,
        )
        for _ in range(count)
    ]


def build(ledger, provider, asked, cap, concurrency):
    """Ask until all is answered, the cap is reached or the process is killed; return how it ended, and the outcomes."""
    outcomes, budget = [], None
    try:
        budget = Budget(ledger, run="r", model=Hosted.name, price=PRICE, cap=cap)
        generator = FlowingGenerator(Hosted(provider, concurrency), ledger, budget, attempts=2)
        outcomes += generator.complete(asked)
    except (Killed, RaftError) as error:
        return type(error), outcomes
    finally:
        if not ledger.dead:
            assert budget.in_flight == 0
            assert provider.bill <= budget.spent + 1e-9
            assert budget.spent <= cap
    return None, outcomes


@st.composite
def schedules(draw):
    """Return a seed, how many requests, how many at once, the cap in shares of the worst case, and some deaths."""
    return (
        draw(st.integers(0, 2**32)),
        draw(st.integers(1, 16)),
        draw(st.integers(1, 12)),
        draw(st.floats(0.02, 1.5)),
        draw(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=3)),
    )


@pytest.mark.slow
@given(schedule=schedules())
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_bill_never_passes_the_cap(schedule):
    """Over random latencies, faults, usage, kills and restarts, the provider never charges more than the cap."""
    seed, count, concurrency, tightness, deaths = schedule
    asked, provider = requests(seed, count), Provider(seed)
    cap = tightness * sum(worst_case(one, PRICE) for one in asked)
    with closing(Mortal(Path(":memory:"))) as ledger:
        for dies_at, after in [*deaths, (None, False)]:
            ledger.begin(dies_at, after=after)
            build(ledger, provider, asked, cap, concurrency)
            assert provider.bill <= cap + 1e-9


def test_a_build_under_a_cap_can_be_finished(tmp_path):
    """A cap that is raised again and again lets the run end, with every reply paid for and none asked for twice."""
    provider, asked, cap = Provider(7), requests(7, 60), 0.01
    ends, outcomes = [], []
    while len(outcomes) < len(asked):
        with closing(Mortal(tmp_path / "ledger.sqlite")) as ledger:
            end, outcomes = build(ledger, provider, asked, cap, 8)
        ends.append(end)
        cap *= 1.5
    assert CapReached in ends
    assert sum(isinstance(outcome, Completion) for outcome in outcomes) > 30
    calls = provider.calls
    with closing(Mortal(tmp_path / "ledger.sqlite")) as ledger:
        assert build(ledger, provider, asked, cap, 8)[0] is None
        (spent,) = ledger.spending("r")
    assert spent["calls"] + spent["lost"] <= provider.calls
    assert provider.calls - calls < 10  # refusals alone are asked anew
