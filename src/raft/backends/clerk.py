"""The clerk of a flight: writes calls down and settles them, those of a few milliseconds in one transaction.

A transaction of its own for each would cost more than sending the call. Nothing gets past the clerk: a call is sent
when it is written down, and its reply is seen when it is in the ledger. The disk is waited for in another thread.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from raft.spending import Payment, Purse

GROUP_SECONDS = 0.003
"""Least seconds between two transactions; calls that come meanwhile are written down together."""


class Clerk:
    """Writes for one event loop, in its thread.

    Args:
        purse: what calls are paid from.
        loop: the event loop.
    """

    def __init__(self, purse: Purse, loop: asyncio.AbstractEventLoop) -> None:
        self._purse, self._loop = purse, loop
        self._opening: list[tuple[str, float | None, asyncio.Future[int]]] = []
        self._paying: list[tuple[Payment, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._written_at = float("-inf")

    async def open(self, key: str, worst: float | None) -> int:
        """Return the number of a call once it is written down; `purse.reserve` has granted it.

        Raises:
            RaftError: the ledger cannot be used; what was reserved is free again.
        """
        written: asyncio.Future[int] = self._loop.create_future()
        self._opening.append((key, worst, written))
        self._soon()
        return await written

    async def pay(self, payment: Payment) -> None:
        """Return once a reply is kept and its call settled.

        Raises:
            RaftError: the ledger cannot be used.
        """
        written: asyncio.Future[None] = self._loop.create_future()
        self._paying.append((payment, written))
        self._soon()
        await written

    async def flush(self) -> None:
        """Return when nothing waits any more."""
        while self._writing is not None:
            await self._writing

    def _soon(self) -> None:
        if self._writing is None:
            self._writing = self._loop.create_task(self._write_groups())

    async def _write_groups(self) -> None:
        """Write what waits, one transaction after the other, until nothing does."""
        while self._opening or self._paying:
            await asyncio.sleep(max(0.0, self._written_at + GROUP_SECONDS - self._loop.time()))
            opening, paying, self._opening, self._paying = self._opening, self._paying, [], []
            self._written_at = self._loop.time()
            rows, payments = [(key, worst) for key, worst, _ in opening], [one for one, _ in paying]
            try:
                numbers = await self._loop.run_in_executor(None, self._purse.write, rows, payments)
            except Exception as error:
                waiting: list[asyncio.Future[Any]] = [one[-1] for one in opening]
                for written in [*waiting, *(one[-1] for one in paying)]:
                    if not written.done():
                        written.set_exception(error)
            else:
                self._tell(numbers, opening, paying)
        self._writing = None

    def _tell(
        self,
        numbers: Sequence[int],
        opening: Sequence[tuple[str, float | None, asyncio.Future[int]]],
        paying: Sequence[tuple[Payment, asyncio.Future[None]]],
    ) -> None:
        for number, (_, _, opened) in zip(numbers, opening, strict=True):
            if opened.done():  # who asked for it has been cancelled, and will not send it
                self._purse.release(number)
            else:
                opened.set_result(number)
        for _, paid in paying:
            if not paid.done():
                paid.set_result(None)
