"""The batcher of a flight: calls that come together are written down together, or not at all."""

import asyncio
import threading
from contextlib import closing

import pytest

from raft.errors import RaftError
from raft.store.budget import Budget, Payment, Price, TransactionBatcher
from raft.store.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def budget(ledger, cap=10.0):
    """Return a budget."""
    return Budget(ledger, run="run", model="m", price=Price(1.0, 1.0), cap=cap)


def counted(ledger, monkeypatch):
    """Return a list that grows by one with each transaction."""
    done, real = [], ledger.write_all
    monkeypatch.setattr(ledger, "write_all", lambda writings: done.append(1) or real(writings))
    return done


async def opened(own, keys):
    """Reserve and write down calls at once; return batcher and numbers."""
    batcher = TransactionBatcher(own, asyncio.get_running_loop())
    assert all(own.reserve(1.0) for _ in keys)
    return batcher, await asyncio.gather(*(batcher.open(key, 1.0) for key in keys))


def test_calls_that_come_together_share_a_transaction(ledger, monkeypatch):
    """Several calls are written down in one transaction, each with a number of its own, and settled in another."""
    own, done = budget(ledger), counted(ledger, monkeypatch)

    async def go():
        batcher, numbers = await opened(own, "abc")
        await asyncio.gather(*(batcher.pay(Payment(number, None, 0.25, 5, 1)) for number in numbers))
        return numbers

    numbers = asyncio.run(go())
    assert len(done) == 2
    assert dict(ledger.read("SELECT id, key FROM calls")) == dict(zip(numbers, "abc", strict=True))
    assert (own.spent, own.in_flight) == (0.75, 0.0)


def test_what_is_set_aside_counts_before_it_is_written(ledger):
    """Two calls that are reserved at the same moment cannot pass the cap together."""
    own = budget(ledger, cap=1.5)
    assert own.reserve(1.0)
    assert not own.reserve(1.0)
    assert own.in_flight == 1.0
    assert ledger.read("SELECT * FROM calls") == []


def test_a_ledger_that_cannot_be_used_fails_all_and_frees_what_was_set_aside(ledger, monkeypatch):
    """Nobody is told that a call is written down when it is not, and what it could have cost is free again."""
    own = budget(ledger)

    def broken(writings):
        raise RaftError("The disk is full.")

    monkeypatch.setattr(ledger, "write_all", broken)

    async def go():
        batcher = TransactionBatcher(own, asyncio.get_running_loop())
        assert own.reserve(1.0) and own.reserve(2.0)
        return await asyncio.gather(batcher.open("a", 1.0), batcher.open("b", 2.0), return_exceptions=True)

    assert [str(one) for one in asyncio.run(go())] == ["The disk is full."] * 2
    assert own.in_flight == 0.0


def test_a_call_that_nobody_waits_for_any_more_is_released(ledger):
    """A call that was cancelled before it was written down is not sent, and costs nothing."""
    own = budget(ledger)

    async def go():
        batcher = TransactionBatcher(own, asyncio.get_running_loop())
        assert own.reserve(1.0)
        task = asyncio.ensure_future(batcher.open("a", 1.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await batcher.flush()

    asyncio.run(go())
    assert (own.spent, own.in_flight) == (0.0, 0.0)
    assert ledger.read("SELECT * FROM calls") == []


def test_nobody_else_waits_for_the_disk(ledger, monkeypatch):
    """While a transaction is under way the loop goes on, and what the next call may cost can be set aside."""
    own, free, real = budget(ledger), threading.Event(), ledger.write_all

    def slow(writings):
        assert free.wait(20)
        return real(writings)

    monkeypatch.setattr(ledger, "write_all", slow)

    async def go():
        batcher = TransactionBatcher(own, asyncio.get_running_loop())
        assert own.reserve(1.0)
        first = asyncio.ensure_future(batcher.open("a", 1.0))
        for _ in range(3):
            await asyncio.sleep(0)
        assert own.reserve(1.0)
        second = asyncio.ensure_future(batcher.open("b", 1.0))
        free.set()
        return await asyncio.gather(first, second)

    assert asyncio.run(go()) == [1, 2]
    assert own.in_flight == 2.0
