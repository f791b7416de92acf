"""Asking until a reply is good, and never twice for the same: the ledger between a generator and its model.

A window of requests is looked up, what is missing is asked, each reply is stored before anything else sees it, and
replies that fail their request's check are asked again, up to a limit. Another attempt has a key of its own, so that
a reply which failed is not served again in its place.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from raft.ledger import Entry, Ledger, request_key, request_text, whole_text
from raft.protocols import Completion, Failure, Request

RETRY_TEMPERATURE = 0.7
"""Another attempt must be able to differ from the first, so it samples at least this warm."""


@dataclass(frozen=True)
class Reply:
    """What a model sent back for one call, good or not. `cost` is in US dollars, None when unknown."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float


class Model(Protocol):
    """A model without memory: it answers calls, and knows nothing of checks and ledgers."""

    identity: str
    name: str
    window: int
    """How many requests are looked at together; memory and laziness are bounded by it."""

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, in any order, by position; each list yielded is stored as one.

        All calls of the window are given, so that a model which works in batches composes the same batches when a
        build that was killed goes on.
        """
        ...


class AskingGenerator:
    """A `Generator` made of a model and a ledger.

    Args:
        model: what answers.
        ledger: what was answered already.
        attempts: how often one request is asked before it is a failure.
        progress: told after each batch how many replies are new and how many were replayed.
    """

    def __init__(
        self, model: Model, ledger: Ledger, *, attempts: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._model, self._ledger, self._attempts = model, ledger, attempts
        self._progress = progress or (lambda new, replayed: None)
        self.identity = model.identity
        self.totals = {
            "calls": 0.0,
            "replayed": 0.0,
            "input_tokens": 0.0,
            "output_tokens": 0.0,
            "cost": 0.0,
            "unpriced": 0.0,
        }

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request, in the order of the requests."""
        source = iter(requests)
        while window := list(islice(source, self._model.window)):
            yield from self._settle(window)

    def _settle(self, window: Sequence[Request]) -> list[Completion | Failure]:
        outcomes: list[Completion | Failure | None] = [None] * len(window)
        calls = list(window)
        for attempt in range(self._attempts):
            waiting = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Completion)]
            if not waiting:
                break
            results = self._attempt([calls[i] for i in waiting], attempt)
            for i, result in zip(waiting, results, strict=True):
                outcomes[i] = _judge(window[i], result, attempt, self._model.name)
                calls[i] = _again(calls[i], result)
        return [outcome for outcome in outcomes if outcome is not None]

    def _attempt(self, calls: Sequence[Request], attempt: int) -> list[tuple[Entry | Failure, bool]]:
        keys = [request_key(call, self._model.identity, attempt) for call in calls]
        known: dict[str, Entry | Failure] = dict(self._ledger.find(keys))
        self._count([entry for entry in known.values() if isinstance(entry, Entry)], replayed=True)
        replayed = set(known)
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        wanted = [key not in known and first[key] == i for i, key in enumerate(keys)]
        if any(wanted):
            for batch in self._model.answer(calls, wanted):
                outcomes = {
                    keys[i]: self._entry(keys[i], calls[i], attempt, reply) if isinstance(reply, Reply) else reply
                    for i, reply in batch
                }
                entries = [entry for entry in outcomes.values() if isinstance(entry, Entry)]
                self._ledger.add(entries)
                self._count(entries, replayed=False)
                known |= outcomes
        lost = Failure("error", "the model gave no reply")
        return [(known.get(key, lost), key in replayed) for key in keys]

    def _entry(self, key: str, call: Request, attempt: int, reply: Reply) -> Entry:
        return Entry(
            key=key,
            model=self._model.name,
            attempt=attempt,
            request=request_text(call),
            reply=whole_text(reply.text),
            finish_reason=reply.finish_reason,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cost=reply.cost,
            seconds=reply.seconds,
        )

    def _count(self, entries: Sequence[Entry], *, replayed: bool) -> None:
        self.totals["calls"] += len(entries)
        self.totals["replayed"] += len(entries) if replayed else 0
        self.totals["input_tokens"] += sum(entry.input_tokens for entry in entries)
        self.totals["output_tokens"] += sum(entry.output_tokens for entry in entries)
        self.totals["unpriced"] += sum(entry.cost is None for entry in entries)
        self.totals["cost"] += sum(entry.cost or 0.0 for entry in entries)
        if entries:
            self._progress(0 if replayed else len(entries), len(entries) if replayed else 0)


def _judge(request: Request, result: tuple[Entry | Failure, bool], attempt: int, model: str) -> Completion | Failure:
    entry, replayed = result
    if isinstance(entry, Failure):
        return replace(entry, attempts=attempt + 1)
    try:
        if request.check is not None:
            request.check(entry.reply)
    except ValueError as error:
        kind = "length" if entry.finish_reason == "length" else "malformed"
        return Failure(kind, str(error), entry.reply, attempt + 1)
    return Completion(
        text=entry.reply,
        model=model,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cost=entry.cost,
        seconds=entry.seconds,
        attempts=attempt + 1,
        finish_reason=entry.finish_reason,
        replayed=replayed,
    )


def _again(call: Request, result: tuple[Entry | Failure, bool]) -> Request:
    # JSON that was cut off needs more room; a sentence that was cut off rambles, and needs another try.
    entry, _ = result
    cut = isinstance(entry, Entry) and entry.finish_reason == "length" and call.schema is not None
    room = 2 if cut else 1
    return replace(call, max_tokens=call.max_tokens * room, temperature=max(call.temperature, RETRY_TEMPERATURE))
