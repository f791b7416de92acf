"""What a run has spent and may still spend: prices, worst cases, and the budget that no call gets past.

Each call is written into the ledger before it is sent, with the most that it can cost, and settled in the same
transaction that stores its reply. So at any instant, after `kill -9` too, what may have been billed is counted: a call
of which nobody knows what became of it counts at its worst case for ever.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from raft.errors import RaftError, UsageError
from raft.protocols import Embedder, Request, Tokenizer
from raft.store.ledger import AwaitedElsewhere, Entry, Ledger, Writing, adding, kept_under

_TOKENS_A_TURN = 16
"""What a chat template puts around one turn, at most."""
_TOKENS_A_REQUEST = 512
"""What a provider adds to a request of its own: a standing system prompt, instructions for a schema or a tool."""
_UNTIL_STORED = ("open", "paid")
"""States of another run's call whose result is not in the ledger yet: vectors are stored after they are paid for."""
_OPEN = "INSERT INTO calls (run, purpose, model, key, worst, state, created) VALUES (?,?,?,?,?,?,?)"
_PAY = "UPDATE calls SET state = 'paid', cost = ?, input_tokens = ?, output_tokens = ? WHERE id = ?"


@dataclass(frozen=True)
class Price:
    """What a model costs: US dollars per million tokens read (`input`) and written (`output`)."""

    input: float
    output: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return the dollars that so many tokens cost."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6

    def times(self, factor: float) -> "Price":
        """Return this price with a discount."""
        return Price(self.input * factor, self.output * factor)


class CapReached(RaftError):
    """The next call could pass the cap; what was answered is kept."""


def most_tokens(request: Request) -> int:
    """Return the most tokens that a request's input can count, in any tokenizer: a token holds at least one byte."""
    texts = [text for message in request.messages for text in message.values()]
    if request.schema is not None:
        texts.append(json.dumps(request.schema))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return size + _TOKENS_A_TURN * len(request.messages) + _TOKENS_A_REQUEST


def worst_case(request: Request, price: Price | None) -> float | None:
    """Return the most dollars that one call of a request can cost; None where the price is unknown."""
    return None if price is None else price.cost(most_tokens(request), request.max_tokens)


def believed(tokens: tuple[int, int], request: Request) -> tuple[int, int]:
    """Return the tokens read and written that a reply claims, (-1, -1) where its request cannot hold them."""
    read, written = tokens
    return tokens if 0 <= read <= most_tokens(request) and 0 <= written <= request.max_tokens else (-1, -1)


@dataclass(frozen=True)
class Payment:
    """The reply that came for the call that `Budget.open` gave this number; no `entry`: there is nothing to keep.

    Where the reply does not tell, tokens are negative and the dollars None: then it counts at its worst case.
    """

    number: int
    entry: Entry | None
    cost: float | None
    input_tokens: int
    output_tokens: int


class Budget:
    """What a run has spent and may still spend; every call is written down before it is sent.

    All budgets of a run that are made for one open ledger share what is spent and under way, whatever their models.
    Calls that an earlier process left open were under way when it was killed, and are lost (but see `enter`). Threads
    may share a budget.

    Args:
        ledger: where calls are written down.
        run: the run's name in the ledger, the same over all its builds.
        model: what is asked.
        price: of the model; None when it is unknown.
        cap: dollars that the run may cost in all; None for no limit.
        keeps: whether replies are kept, beside what they cost.

    Raises:
        UsageError: there is a cap and no price: nobody could keep it.
    """

    def __init__(
        self, ledger: Ledger, *, run: str, model: str, price: Price | None, cap: float | None, keeps: bool = True
    ) -> None:
        if cap is not None and price is None:
            raise UsageError(
                f"The price of {model} is unknown, so a cap of {dollars(cap)} could not be kept.",
                where="max_cost",
                hint="--price 0.15/0.60   (with yours: dollars per million tokens read and written)",
            )
        self.price, self.cap = price, cap
        self._model, self._keeps = model, keeps
        self._book = _book(ledger, run)

    @property
    def purpose(self) -> str:
        """The step that asks ("questions", "cleaned", "examples", "sample", "benchmark"); it may be set."""
        return self._book.purpose

    @purpose.setter
    def purpose(self, name: str) -> None:
        """Say which step asks from now on, through any budget of this run."""
        self._book.purpose = name

    @property
    def spent(self) -> float:
        """Dollars of this run over its whole life, all models; lost calls at their worst case."""
        return self._book.spent

    @property
    def in_flight(self) -> float:
        """Dollars that the calls which are not settled yet can cost at most, those of awaited batches included."""
        return self._book.in_flight

    def fits(self, worst: float | None) -> bool:
        """Tell whether a call that may cost `worst` dollars can be sent without passing the cap; true without one."""
        return self.cap is None or (worst is not None and self.spent + self.in_flight + worst <= self.cap)

    def open(self, key: str, worst: float | None, *, shared: Sequence[str] = ()) -> int | None:
        """Write a call down before it is sent, and return its number, None while another run awaits the same reply.

        The arguments are those of `write`.

        Raises:
            CapReached: it could pass the cap; nothing was written.
        """
        if not self.reserve(worst):
            raise self.cap_reached(worst)
        return cast("int | None", self.write([(key, worst)], [], shared=shared)[0])

    def reserve(self, worst: float | None) -> bool:
        """Set aside what a call may cost, if that fits; it is to be written down with `write` before it is sent."""
        with self._book.lock:
            if not self.fits(worst):
                return False
            self._book.in_flight += worst or 0.0
            self._book.reserved += 1
            self._book.set_aside += worst or 0.0
            return True

    def write(
        self, opening: Sequence[tuple[str, float | None]], paying: Sequence[Payment], *, shared: Sequence[str] = ()
    ) -> list[int | Entry | None]:
        """Write calls down and settle others, in one transaction; return the numbers of the former.

        Args:
            opening: key and worst case (dollars; None when the price is unknown) of calls that `reserve` has granted.
            paying: calls whose replies came.
            shared: leave out what is paid for already; instead of a number there is its reply, or None while another
                run has a call for it in one of these states. What was set aside is free again.

        Raises:
            RaftError: the ledger cannot be used; nothing was written, and what was set aside is free again.
        """
        book, now = self._book, time.time()
        with book.writing:
            paid = [book.open[one.number] if one.cost is None else one.cost for one in paying]
            settled = [
                (cost, max(0, one.input_tokens), max(0, one.output_tokens), one.number)
                for one, cost in zip(paying, paid, strict=True)
            ]
            kept = [one.entry for one in paying if one.entry is not None and self._keeps]
            there: dict[str, Entry | None] = {}
            sent: list[tuple[str, float | None]] = []

            def writings() -> Iterator[Writing]:
                if shared and opening and self._keeps and not book.ledger.untouched():
                    # here no other process can come between
                    keys = [key for key, _ in opening]
                    there.update(dict.fromkeys(book.ledger.awaited_elsewhere(book.run, keys, shared)))
                    there.update(book.ledger.find(keys))
                sent.extend(one for one in opening if one[0] not in there)
                yield adding(kept)
                yield _PAY, settled
                yield _OPEN, [(book.run, book.purpose, self._model, key, worst, "open", now) for key, worst in sent]

            try:
                last = book.ledger.write_all(writings())
            except BaseException:
                with book.lock:
                    book.in_flight -= sum(worst or 0.0 for _, worst in opening)
                    book.written(opening)
                raise
            places = iter(range(last - len(sent) + 1, last + 1))  # rows of one transaction
            numbers = [there[key] if key in there else next(places) for key, _ in opening]
            with book.lock:
                book.written(opening)
                for number, (_, worst) in zip(numbers, opening, strict=True):
                    if isinstance(number, int):
                        book.open[number] = worst
                    else:
                        book.in_flight -= worst or 0.0
                for one, cost in zip(paying, paid, strict=True):
                    book.close(one.number, cost)
            return numbers

    def pay(
        self, number: int, entry: Entry | None, *, cost: float | None, input_tokens: int, output_tokens: int
    ) -> None:
        """Store the reply that came and settle its call, in one transaction; the arguments are those of `Payment`."""
        self.write([], [Payment(number, entry, cost, input_tokens, output_tokens)])

    def release(self, number: int) -> None:
        """Forget a call for which nothing was billed."""
        book = self._book
        with book.writing:
            book.ledger.write("DELETE FROM calls WHERE id = ?", [(number,)])
            with book.lock:
                book.close(number, 0.0)

    def lose(self, number: int) -> None:
        """Settle a call of which nobody knows what it cost: it counts at its worst case for ever."""
        book = self._book
        with book.writing:
            book.ledger.write("UPDATE calls SET state = 'lost' WHERE id = ?", [(number,)])
            with book.lock:
                book.close(number, book.open[number])

    def recount(self) -> None:
        """Read anew what was spent and what is awaited, where something else than a budget wrote it down."""
        with self._book.writing, self._book.lock:
            self._book.read()

    def cap_reached(self, worst: float | None) -> CapReached:
        """Return the error that says that a call which may cost `worst` dollars would pass the cap."""
        cap = self.cap or 0.0
        measuring = self.purpose == "benchmark"
        way = f"the same command with {'--set generator.max_cost=' if measuring else '--max-cost '}"
        if self.purpose == "ask":
            way = "build the run again, which raises its cap, and then ask again: raft build with --max-cost "
        flying = f", up to {dollars(self.in_flight)} more are under way" if self.in_flight else ""
        return CapReached(
            f"The cap of {dollars(cap)} would be passed: {dollars(self.spent)} are spent{flying}, and the next call"
            f" may cost {dollars(worst or 0.0)}. Everything that came is kept and not paid for twice.",
            where=f"{self._model}, {self.purpose}",
            hint=f"{way}{2 * max(cap, self.spent):.2g}",
        )


class _Book:
    """What the budgets of one run in one process have in common.

    Who changes it holds `lock`; who changes the ledger's calls holds `writing` until both are, for as long as the disk
    takes, so that nobody who only sets something aside has to wait for it.
    """

    def __init__(self, ledger: Ledger, run: str, *, alone: bool) -> None:
        self.ledger, self.run, self.purpose = ledger, run, "questions"
        self.lock, self.writing = threading.Lock(), threading.Lock()
        self.open: dict[int, float | None] = {}
        self.spent = self.in_flight = self.set_aside = 0.0
        self.reserved = 0
        if alone:
            lost = "UPDATE calls SET state = 'lost' WHERE run = ? AND state = 'open'"
            ledger.write(lost, [(name,) for name in ledger.names(run)])
        self.read()

    def read(self) -> None:
        runs = (json.dumps(self.ledger.names(self.run)),)
        own = "FROM calls WHERE run IN (SELECT value FROM json_each(?))"
        self.open = dict(self.ledger.read(f"SELECT id, worst {own} AND state IN ('open', 'batch')", runs))
        self.in_flight = self.set_aside + sum(worst or 0.0 for worst in self.open.values())
        settled = f"SELECT TOTAL(CASE state WHEN 'paid' THEN cost WHEN 'lost' THEN worst END) {own}"
        self.spent = float(self.ledger.read(settled, runs)[0][0])

    def written(self, opening: Sequence[tuple[str, float | None]]) -> None:
        self.reserved -= len(opening)
        self.set_aside -= sum(worst or 0.0 for _, worst in opening)
        if not self.reserved:
            self.set_aside = 0.0

    def close(self, number: int, paid: float | None) -> None:
        self.spent += paid or 0.0
        self.in_flight -= self.open.pop(number) or 0.0
        if not self.open and not self.reserved:
            self.in_flight = 0.0  # what rounding left


_MAKING = threading.Lock()


def _book(ledger: Ledger, run: str, *, alone: bool = True) -> _Book:
    with _MAKING:
        book: _Book = ledger.shared.get(run) or _Book(ledger, run, alone=alone)
        ledger.shared[run] = book
    return book


class PaidEmbedder:
    """An embedder whose texts are paid for, each lot of them written down before it is sent.

    No usage comes back from it, so that what was read is what its tokenizer counts.
    """

    def __init__(self, embedder: Embedder, budget: Budget) -> None:
        self._embedder, self._budget = embedder, budget
        self.identity: str = embedder.identity
        self.identities = kept_under(embedder)
        self.tokenizer: Tokenizer = embedder.tokenizer
        self.max_tokens: int = embedder.max_tokens
        self.window: int = getattr(embedder, "window", 512)
        self._kept = True
        self._tells = hasattr(embedder, "each_try")
        if self._tells:
            embedder.each_try = self._paid  # type: ignore[attr-defined]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return what the embedder returns; where it has `each_try`, each try is a call of its own.

        Raises:
            CapReached: it could pass the cap; nothing was sent.
            AwaitedElsewhere: another run of the ledger embeds the same texts now.
        """
        if self._tells:
            return self._embedder.embed(texts)
        return cast("np.ndarray", self._paid(texts, lambda: self._embedder.embed(texts)))

    def uncached(self, texts: Sequence[str]) -> np.ndarray:
        """Return what `embed` does, for what nobody keeps: so nobody waits for it, nor it for anybody."""
        self._kept = False
        try:
            return self.embed(texts)
        finally:
            self._kept = True

    def _paid(self, texts: Sequence[str], send: Callable[[], Any]) -> Any:
        price = self._budget.price
        most = sum(len(text.encode("utf-8", "surrogatepass")) + _TOKENS_A_TURN for text in texts)
        key = hashlib.sha256("\n".join([self.identity, *texts]).encode("utf-8", "surrogatepass")).hexdigest()
        shared = _UNTIL_STORED if self._kept else ()
        number = self._budget.open(key if shared else "", price.cost(most, 0) if price else None, shared=shared)
        if number is None:
            raise AwaitedElsewhere
        try:
            reply = send()
            tokens = sum(self.tokenizer.count(texts))
        except BaseException as error:
            (self._budget.lose if getattr(error, "billed", True) else self._budget.release)(number)
            raise
        cost = price.cost(tokens, 0) if price else None
        self._budget.pay(number, None, cost=cost, input_tokens=tokens, output_tokens=0)
        return reply


def enter(ledger: Ledger, run: str, step: str, *, alone: bool = True) -> None:
    """Say which step of a run asks from now on, through any budget; what others have spent meanwhile is counted.

    With `alone`, this process holds the run's lock, so that open calls of others are lost, and not under way.
    """
    book = _book(ledger, run, alone=alone)
    with book.writing, book.lock:
        book.purpose = step
        book.read()


def recount(ledger: Ledger, run: str) -> None:
    """Read anew what a run has spent and awaits, where something else than a budget wrote it down."""
    if book := ledger.shared.get(run):
        with book.writing, book.lock:
            book.read()


def dollars(amount: float) -> str:
    """Return an amount as a person reads it: cents, and up to four digits after the point below a dollar."""
    if 0 < amount < 1e-4:
        return "under $0.0001"
    text = f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"
    whole, _, part = text.partition(".")
    return f"${whole}.{part[:2]}{part[2:].rstrip('0')}"


GROUP_SECONDS = 0.003
"""Least seconds between two transactions; calls that come meanwhile are written down together."""


class TransactionBatcher:
    """Writes calls and payments of a budget for one event loop, in its thread."""

    def __init__(self, budget: Budget, loop: asyncio.AbstractEventLoop) -> None:
        self._budget, self._loop = budget, loop
        self._opening: list[tuple[str, float | None, asyncio.Future[int | Entry | None]]] = []
        self._paying: list[tuple[Payment, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._written_at = float("-inf")

    async def open(self, key: str, worst: float | None) -> int | Entry | None:
        """Return the number of a call once it is written down, or what `Budget.write` returns for a shared one.

        `budget.reserve` has granted it.

        Raises:
            RaftError: the ledger cannot be used; what was reserved is free again.
        """
        written: asyncio.Future[int | Entry | None] = self._loop.create_future()
        self._opening.append((key, worst, written))
        self._soon()
        try:
            return await written
        except asyncio.CancelledError:  # it may have come between the writing and here
            if written.done() and not written.cancelled() and isinstance(number := written.result(), int):
                self._budget.release(number)
            raise

    async def pay(self, payment: Payment) -> None:
        """Return once a reply is kept and its call settled; it raises as `open` does."""
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
        write = partial(self._budget.write, shared=["open"])
        while self._opening or self._paying:
            await asyncio.sleep(max(0.0, self._written_at + GROUP_SECONDS - self._loop.time()))
            opening, paying, self._opening, self._paying = self._opening, self._paying, [], []
            self._written_at = self._loop.time()
            rows, payments = [(key, worst) for key, worst, _ in opening], [one for one, _ in paying]
            try:
                numbers = await self._loop.run_in_executor(None, write, rows, payments)
            except Exception as error:
                waiting: list[asyncio.Future[Any]] = [one[-1] for one in opening]
                for written in [*waiting, *(one[-1] for one in paying)]:
                    if not written.done():
                        written.set_exception(error)
                continue
            for number, (_, _, opened) in zip(numbers, opening, strict=True):
                if not opened.done():
                    opened.set_result(number)
                elif isinstance(number, int):  # who asked for it has been cancelled, and will not send it
                    self._budget.release(number)
            for _, paid in paying:
                if not paid.done():
                    paid.set_result(None)
        self._writing = None
