"""The clerk of a flight: writes calls down and settles them, those of a few milliseconds in one transaction.

A transaction of its own for each would cost more than sending the call. Nothing gets past the clerk: a call is sent
when it is written down, and its reply is seen when it is in the ledger.
"""

import asyncio
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
        self._due: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0

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

    def flush(self) -> None:
        """Write what waits, in one transaction."""
        if self._due is not None:
            self._due.cancel()
        self._flushed_at = self._loop.time()
        opening, paying, self._opening, self._paying, self._due = self._opening, self._paying, [], [], None
        if not opening and not paying:
            return
        try:
            numbers = self._purse.write([(key, worst) for key, worst, _ in opening], [one for one, _ in paying])
        except Exception as error:
            waiting: list[asyncio.Future[Any]] = [one[-1] for one in opening]
            for written in [*waiting, *(one[-1] for one in paying)]:
                if not written.done():
                    written.set_exception(error)
            return
        for number, (_, _, opened) in zip(numbers, opening, strict=True):
            if opened.done():  # who asked for it has been cancelled, and will not send it
                self._purse.release(number)
            else:
                opened.set_result(number)
        for _, paid in paying:
            if not paid.done():
                paid.set_result(None)

    def _soon(self) -> None:
        if self._due is None:
            self._due = self._loop.call_at(max(self._loop.time(), self._flushed_at + GROUP_SECONDS), self.flush)
