"""A hosted model asked in batches: the provider works on a file of requests for hours, at half the price.

A batch is in the ledger before its file is uploaded, and its id as soon as it is made; a build that was killed in
between finds it in the provider's list. Nothing is asked a second time while a batch may still answer it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import sleep, time
from typing import Any

from raft.backends.asking import RETRY_TEMPERATURE, Reply
from raft.backends.hosted.batch_api import BatchProvider, Stand, Unlisted
from raft.backends.hosted.errors import AccessDenied, Fault, RateLimited, Rejected, Transient
from raft.backends.hosted.manners import MOST_ROOM
from raft.backends.hosted.providers import identities_of
from raft.errors import RaftError, UsageError
from raft.protocols import Failure, Request
from raft.store.batches import Batch, BatchBook, Bill
from raft.store.budget import Budget, Price, believed, worst_case
from raft.store.ledger import request_key

_WINDOW = 20_000
_BYTES = 50_000_000
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 60.0
_KEPT_SECONDS = 30 * 86_400.0
"""How long providers keep a batch; one that is gone sooner is looked for with another account's key."""
_ATTEMPTS = 16
_DISCOUNT = 0.5
_CROWDED = "token_limit_exceeded"
_DIRECTLY = "--set generator.batch_endpoint=false   (asks the model directly)"


class BatchModel:
    """A chat model behind its provider's batch endpoint.

    Args:
        name: `provider/model`, for example `openai/gpt-4o-mini`.
        api_base: address of an endpoint of one's own.
        timeout: seconds for one HTTP request; a batch takes hours.
        effort: how long a reasoning model thinks; None: as little as it can.
        known_as: as for `HostedModel`.
        book: where the run's batches are written down.
        price: of the model when it is asked directly; a batch is reckoned at half of it. None when it is unknown.
        budget: what the run may still spend.
        say: told "batch" each time that one was looked at: `id`, `status`, `done`, `failed`, `total`, `seconds` so far.
    """

    def __init__(
        self,
        name: str,
        *,
        api_base: str | None,
        timeout: float,
        effort: str | None = None,
        known_as: Sequence[str] = (),
        book: BatchBook,
        price: Price | None,
        budget: Budget,
        say: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.name = name
        self.identities = identities_of(name, known_as or api_base, effort)
        self.identity = self.identities[0]
        self.window = _WINDOW
        self._open = partial(BatchProvider, name, api_base=api_base, timeout=timeout, effort=effort)
        self._refused: dict[str, frozenset[str]] = {}  # what was known when a batch was made, by its name
        self._book, self._budget = book, budget
        self._price = price.times(_DISCOUNT) if price else None
        self._say = say or (lambda event, facts: None)
        self._provider: BatchProvider | None = None
        self._most, self._crowded = _WINDOW, False

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, by position, a batch at a time.

        Raises:
            UsageError: the key is missing or wrong, or the provider has no batches for the model.
            CapReached: the next batch could cost more than may still be spent.
            RaftError: the provider does not answer, refuses a batch, or somebody cancelled it there.
            KeyboardInterrupt: with words that say that the batch goes on at the provider, and how to go on here.
        """
        try:
            provider = self._provider or self._opened()
            yield from self._answer(provider, calls, wanted)
        except AccessDenied as error:
            raise error.stop(self.name, self.identity) from None
        except Rejected as error:
            words = f"The provider refuses a batch to {self.name}: {error}"
            raise RaftError(words, where=self.identity, hint=_DIRECTLY) from None
        except (RateLimited, Transient) as error:
            raise RaftError(
                f"The batch endpoint of {self.name} does not answer: {error}",
                where=self.identity,
                hint="run the same command again later: batches go on at the provider and are not paid for twice",
            ) from None

    def _answer(
        self, provider: BatchProvider, calls: Sequence[Request], wanted: Sequence[bool]
    ) -> Iterator[list[tuple[int, Reply | Failure]]]:
        keys = {i: self._key(calls[i]) for i, one in enumerate(wanted) if one}
        places = {key: i for i, key in keys.items()}
        asked = {key: provider.manners.roomy(calls[i]) for key, i in places.items()}
        waiting = self._book.holding(list(places))
        held = {key for members in waiting.values() for key in members}
        rest = [key for key in places if key not in held]
        while rest or waiting:
            rest = self._send_what_fits(provider, rest, asked, waiting)
            batch, stand = self._next(provider, waiting)
            members = waiting.pop(batch)
            self._crowded = stand is not None and stand.status == "failed" and stand.code == _CROWDED
            outcomes, denied = self._close(provider, batch, stand, asked)
            if self._crowded and len(members) > 1:
                self._most = max(1, len(members) // 2)
                rest += members
                continue
            rest += [key for key in members if key not in outcomes]
            yield [(places[key], outcomes[key]) for key in members if key in outcomes]
            if denied is not None:
                raise denied
            self._stop_at(batch, stand)

    def _opened(self) -> BatchProvider:
        """Open the provider, and find out what became of the batches of an earlier process."""
        provider = self._open()
        for batch in self._book.unfinished(self.identity):
            sent = batch if batch.id else self._found(provider, batch)
            stand = provider.look(sent.id or "") if sent else None
            if sent and stand and stand.over:  # its calls are settled even if nobody asks for its replies any more
                self._close(provider, sent, stand, {})
        self._budget.recount()
        self._provider = provider
        return provider

    def _found(self, provider: BatchProvider, batch: Batch) -> Batch | None:
        """Find out whether a batch was made that an earlier process only planned."""
        try:
            name = provider.find(batch) if batch.file else None
        except Unlisted:
            self._book.settle(batch, {}, ())  # it may have been made: it counts, and is asked again
            return None
        if name is None:
            self._book.drop(batch)
            return None
        return self._book.sent(batch, name)

    def _key(self, call: Request) -> str:
        # The ledger's key, as far as it can be told without the attempt's number: an equal call that was answered
        # before, and is asked again, must not find its old reply in its old batch.
        attempt = 0
        if call.temperature >= RETRY_TEMPERATURE:
            attempt = len(self._book.known([request_key(call, self.identity, one) for one in range(_ATTEMPTS)]))
        return request_key(call, self.identity, attempt)

    def _send_what_fits(
        self, provider: BatchProvider, rest: list[str], asked: Mapping[str, Request], waiting: dict[Batch, list[str]]
    ) -> list[str]:
        while rest and not (self._crowded and waiting):
            piece: dict[str, float | None] = {}
            lines: list[bytes] = []
            size, cost = 0, 0.0
            for key in rest[: self._most]:
                worst = worst_case(asked[key], self._price)
                line = provider.line(key, asked[key])
                if piece and size + len(line) > _BYTES:
                    break
                if not self._budget.fits(None if worst is None else cost + worst):
                    if waiting:  # what they really cost leaves room for more than a few now
                        return rest
                    break
                piece[key] = worst
                lines.append(line)
                size, cost = size + len(line), cost + (worst or 0.0)
            if not piece:
                raise self._budget.cap_reached(worst_case(asked[rest[0]], self._price))
            batch = self._send(provider, piece, lines)
            if batch is None:
                sleep(_FIRST_WAIT)
            found = self._book.holding(rest) if batch is None else {batch: list(piece)}
            waiting |= found
            taken = {key for members in found.values() for key in members}
            rest = [key for key in rest if key not in taken]
        return rest

    def _send(self, provider: BatchProvider, piece: Mapping[str, float | None], lines: list[bytes]) -> Batch | None:
        batch = self._book.plan(self.identity, piece, model=self.name, purpose=self._budget.purpose)
        if batch is None:  # another run asks for some of these in a batch of its own
            return None
        self._budget.recount()
        self._refused[batch.name] = provider.manners.refused
        try:
            batch = self._book.filed(batch, provider.upload(lines))
        except Fault:
            self._book.drop(batch)  # a file alone is no batch
            raise
        try:
            return self._book.sent(batch, provider.make(batch))
        except (Rejected, AccessDenied):
            self._book.drop(batch)
            raise
        except Unlisted:
            self._book.settle(batch, {}, ())
            raise Transient("nobody knows whether the batch was made", billed=True) from None

    def _next(self, provider: BatchProvider, waiting: Mapping[Batch, list[str]]) -> tuple[Batch, Stand | None]:
        """Return the first batch that is over, with None where the provider has it no more."""
        pause = _FIRST_WAIT
        try:
            while True:
                for batch in waiting:
                    stand = provider.look(batch.id or "")
                    if stand is None and batch.state != "settled" and time() - batch.created < _KEPT_SECONDS:
                        raise UsageError(
                            f"The provider does not know the batch {batch.id}, which raft made there.",
                            where=self.identity,
                            hint="check that the key in the environment is of the account that made it",
                        )
                    if stand is not None:
                        self._tell(batch, stand)
                    if stand is None or stand.over:
                        return batch, stand
                sleep(pause)
                pause = min(1.5 * pause, _LONGEST_WAIT)
        except KeyboardInterrupt:
            ids = ", ".join(str(batch.id) for batch in waiting)
            raise KeyboardInterrupt(
                f"stopped waiting; the batch goes on at the provider ({ids}) and is paid for. Run the same command"
                " again to go on waiting for it: nothing is asked twice."
            ) from None

    def _close(
        self, provider: BatchProvider, batch: Batch, stand: Stand | None, asked: Mapping[str, Request]
    ) -> tuple[dict[str, Reply | Failure], UsageError | None]:
        """Settle a batch that is over, and return what it has for each of its members that were asked for."""
        members, before = set(self._book.keys(batch)), self._refused.get(batch.name, frozenset())
        bills: dict[str, Bill] = {}
        outcomes: dict[str, Reply | Failure] = {}
        free: set[str] = set()
        again: set[str] = set()
        denied: UsageError | None = None
        for key, came in provider.read(stand) if stand else ():
            if key not in members or key in bills or key in outcomes:
                continue
            if isinstance(came, Reply):
                provider.manners.learn(came, frozenset())
                bills[key], outcomes[key] = self._priced(came, asked.get(key))
                continue
            if not (isinstance(came, Transient) and came.billed):
                free.add(key)
            if key in asked and provider.adapts(came, asked[key], before):
                again.add(key)
                continue
            outcomes[key] = Failure(came.kind if isinstance(came, Rejected) else "error", str(came))
            denied = came.stop(self.name, self.identity) if isinstance(came, AccessDenied) else denied
        if batch.state == "settled":
            self._book.forget(batch, members - bills.keys())
        else:
            silent = members - outcomes.keys() - again
            if stand is not None and stand.status != "completed":
                free |= silent  # what was not done is not billed
            self._book.settle(batch, bills, free)
            self._budget.recount()
            if stand is not None:
                words = f"the batch {batch.id} came back without a reply to this request ({stand.status})"
                outcomes |= {key: Failure("error", words) for key in silent}
        return {key: one for key, one in outcomes.items() if key in asked}, denied

    def _priced(self, reply: Reply, request: Request | None) -> tuple[Bill, Reply]:
        bill = Bill(None, 0, 0)
        read, written = reply.input_tokens, reply.output_tokens
        if request is not None:  # it may have been made when the model was known to think at length
            read, written = believed((read, written), replace(request, max_tokens=request.max_tokens + MOST_ROOM))
        if read >= 0:
            bill = Bill(self._price.cost(read, written) if self._price else None, read, written)
        cost = bill.cost
        if read < 0 and request is not None:
            cost = worst_case(request, self._price)
        counted = Reply(reply.text, reply.finish_reason, bill.input_tokens, bill.output_tokens, cost, reply.seconds)
        return bill, counted

    def _stop_at(self, batch: Batch, stand: Stand | None) -> None:
        if stand and stand.status == "failed":
            words = f"The provider did not accept a batch to {self.name}: {stand.words}"
            raise RaftError(words, where=batch.id, hint=_DIRECTLY)
        if stand and stand.status == "cancelled":
            raise RaftError(
                f"The batch to {self.name} was cancelled at the provider; what it had answered is kept.",
                where=batch.id,
                hint="run the same command again to ask the rest in another batch",
            )

    def _tell(self, batch: Batch, stand: Stand) -> None:
        facts = {"status": stand.status, "done": stand.done, "failed": stand.failed, "total": stand.total}
        self._say("batch", {"id": batch.id, **facts, "seconds": max(0.0, time() - batch.created)})
