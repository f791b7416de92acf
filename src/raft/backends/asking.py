"""Asking until a reply is good, and never twice for the same: the ledger between a generator and its model.

Each reply is stored before anything else sees it. One that fails its request's check is asked again under another key,
so that it is not served again in its place.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from raft.protocols import Completion, Failure, Message, Request
from raft.store.ledger import Entry, Ledger, request_key, request_text
from raft.text import whole

FINAL = ("refused", "too long")
"""Kinds of failure that asking again does not mend."""

RETRY_TEMPERATURE = 0.7
"""Another attempt must be able to differ from the first, so it samples at least this warm."""

_TAG = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)(?:\s[^<>]{0,80})?"
_OPENED = re.compile(rf"\s*[<\[◁]{_TAG}[>\]▷]", re.I)
_CLOSED = re.compile(rf"[<\[◁]/{_TAG}[>\]▷]\s*", re.I)
_CLOSED_ALONE = re.compile(rf"(?:^|\n)\s*{_CLOSED.pattern}|{_CLOSED.pattern.removesuffix('*')}*(?:\n\s*|$)", re.I)
_CHANNELS = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
_LAST_CHANNEL = re.compile(r"<\|channel\|>(?:final|commentary)\b(?:[^<]|<\|constrain\|>)*<\|message\|>")
_BARE_CHANNELS = re.compile(r"\s*analysis[A-Z\W].*assistantfinal", re.DOTALL)
"""Where a server has dropped the marks of the channels."""
_MOST_STARTS = 500  # lines of thoughts at which a reply may begin
_TAGS = re.compile(rf"[<\[◁]/?{_TAG}[>\]▷]", re.I)


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

    A request is a failure after so many `attempts`; `progress` is told how many replies are new, and how many replayed.
    """

    def __init__(
        self, model: Model, ledger: Ledger, *, attempts: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._model, self._ledger, self._attempts = model, ledger, attempts
        self._progress = progress or (lambda new, replayed: None)
        self.identity = model.identity
        self.identities: Sequence[str] = getattr(model, "identities", (model.identity,))
        self.totals = no_totals()

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request, in the order of the requests."""
        source = iter(requests)
        while window := list(islice(source, self._model.window)):
            yield from self._settle(window)

    def _settle(self, window: Sequence[Request]) -> list[Completion | Failure]:
        outcomes: list[Completion | Failure | None] = [None] * len(window)
        calls = list(window)
        for attempt in range(self._attempts):
            waiting = [i for i, outcome in enumerate(outcomes) if _may_be_asked(outcome)]
            if not waiting:
                break
            results = self._attempt([calls[i] for i in waiting], attempt)
            for i, result in zip(waiting, results, strict=True):
                outcomes[i] = judge(window[i], *result, attempt=attempt, model=self._model.name)
                calls[i] = asked_again(calls[i], result[0])
        return [outcome for outcome in outcomes if outcome is not None]

    def _attempt(self, calls: Sequence[Request], attempt: int) -> list[tuple[Entry | Failure, bool]]:
        keys = [request_key(call, self._model.identity, attempt) for call in calls]
        asked = [(key, call, attempt) for key, call in zip(keys, calls, strict=True)]
        known: dict[str, Entry | Failure] = dict(known_replies(self._ledger, asked, self.identities[1:]))
        self._count([entry for entry in known.values() if isinstance(entry, Entry)], replayed=True)
        replayed = set(known)
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        wanted = [key not in known and first[key] == i for i, key in enumerate(keys)]
        if any(wanted):
            for batch in self._model.answer(calls, wanted):
                outcomes = {
                    keys[i]: entry_of(reply, keys[i], calls[i], attempt=attempt, model=self._model.name)
                    if isinstance(reply, Reply)
                    else reply
                    for i, reply in batch
                }
                entries = [entry for entry in outcomes.values() if isinstance(entry, Entry)]
                self._ledger.add(entries)
                self._count(entries, replayed=False)
                known |= outcomes
        lost = Failure("error", "the model gave no reply")
        return [(known.get(key, lost), key in replayed) for key in keys]

    def _count(self, entries: Sequence[Entry], *, replayed: bool) -> None:
        add_up(self.totals, entries, replayed=replayed)
        if entries:
            self._progress(0 if replayed else len(entries), len(entries) if replayed else 0)


def known_replies(ledger: Ledger, asked: Sequence[tuple[str, Request, int]], others: Sequence[str]) -> dict[str, Entry]:
    """Return what a ledger has of calls (key, request, attempt), by key.

    `others` are more identities that they may have been asked under: of endpoints that answer the same. What stands
    under the key itself counts first.
    """
    found = ledger.find(list({key for key, _, _ in asked}))
    for identity in others:
        left = {request_key(call, identity, attempt): key for key, call, attempt in asked if key not in found}
        found |= {left[entry.key]: entry for entry in ledger.find(list(left)).values()} if left else {}
    return found


def no_totals() -> dict[str, float]:
    """Return totals of what was asked, all zero: calls (`replayed` of them from the ledger), tokens, dollars."""
    return dict.fromkeys(("calls", "replayed", "input_tokens", "output_tokens", "cost", "unpriced"), 0.0)


def add_up(totals: dict[str, float], entries: Sequence[Entry], *, replayed: bool) -> None:
    """Add entries to totals; `replayed` when they came from the ledger."""
    totals["calls"] += len(entries)
    totals["replayed"] += len(entries) if replayed else 0
    totals["input_tokens"] += sum(entry.input_tokens for entry in entries)
    totals["output_tokens"] += sum(entry.output_tokens for entry in entries)
    totals["unpriced"] += sum(entry.cost is None for entry in entries)
    totals["cost"] += sum(entry.cost or 0.0 for entry in entries)


def entry_of(reply: Reply, key: str, call: Request, *, attempt: int, model: str) -> Entry:
    """Return a reply as the ledger keeps it; tokens that are not known (negative) count as none, attempts from 0."""
    return Entry(
        key=key,
        model=model,
        attempt=attempt,
        request=request_text(call),
        reply=whole(reply.text),
        finish_reason=reply.finish_reason,
        input_tokens=max(0, reply.input_tokens),
        output_tokens=max(0, reply.output_tokens),
        cost=reply.cost,
        seconds=reply.seconds,
    )


def _may_be_asked(outcome: Completion | Failure | None) -> bool:
    return outcome is None or (isinstance(outcome, Failure) and outcome.kind not in FINAL)


def judge(
    request: Request, entry: Entry | Failure, replayed: bool, *, attempt: int, model: str
) -> Completion | Failure:
    """Return what has become of a request, whose check its reply (or why there is none) must pass.

    `replayed` says that the reply comes from the ledger; attempts are counted from 0.
    """
    if isinstance(entry, Failure):
        return replace(entry, attempts=attempt + 1)
    text = without_thoughts(whole(entry.reply))
    try:
        if request.check is not None:
            request.check(text)
    except ValueError as error:
        return Failure(*_no_use(entry, text, error), entry.reply, attempt + 1)
    return Completion(
        text=text,
        model=model,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cost=entry.cost,
        seconds=entry.seconds,
        attempts=attempt + 1,
        finish_reason=entry.finish_reason,
        replayed=replayed,
    )


def _no_use(entry: Entry, text: str, error: ValueError) -> tuple[str, str]:
    """Return the kind of failure that a reply is which did not pass its check, and why."""
    if entry.finish_reason in ("refusal", "content_filter"):
        return "refused", f"the model refuses to answer: {text}" if text else "the provider's filter withheld the reply"
    if entry.finish_reason.startswith("tool call"):
        return "malformed", f"it calls a tool ({entry.finish_reason.removeprefix('tool call: ')}) instead of answering"
    kind = "length" if entry.finish_reason == "length" else "malformed"
    if text.strip():
        return kind, str(error)
    if kind == "length":
        return kind, f"its {entry.output_tokens} tokens were spent on thinking, before a word of the reply"
    return kind, "nothing but thinking came" if entry.reply else f"an empty reply came ({entry.finish_reason})"


def has_thoughts(text: str) -> bool:
    """Tell whether a reasoning model wrote thoughts before its reply, between tags such as `<think>`."""
    return bool(_TAGS.sub("", text.removesuffix(without_thoughts(text))).strip())


def without_thoughts(text: str) -> str:
    """Return a reply without what was thought before it: all up to a closing tag, whose opening one may be missing.

    Thoughts without an end are all that came, but for whole JSON that ends them, which is the reply; a tag inside of a
    JSON reply is part of it. Where a model's channels came as they are, the last one is the reply.
    """
    if _CHANNELS.match(text):
        *_, final = [None, *_LAST_CHANNEL.finditer(text)]
        return re.split(r"<\|(?:return|end|call)\|>", text[final.end() :])[0] if final else ""
    if bare := _BARE_CHANNELS.match(text):
        return text[bare.end() :]
    while _OPENED.match(text):
        closed = _CLOSED.search(text)
        text = text[closed.end() :] if closed else _ending(text)
    closed = _CLOSED_ALONE.search(text)
    return text[closed.end() :] if closed and not _is_json(text) else text


def _ending(thoughts: str) -> str:
    """Return the list or object in JSON that ends a text and begins one of its lines; nothing where there is none."""
    bare = thoughts.rstrip().removesuffix("```").rstrip()
    if not bare.endswith(("}", "]")):
        return ""
    starts = islice(re.finditer(r"^[ \t]*(?=[{\[])", bare, re.MULTILINE), _MOST_STARTS)
    return next((bare[one.end() :] for one in starts if _is_json(bare[one.end() :])), "")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return a chat for a model that takes no system turns: the turn that follows begins with their words."""
    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [turn for turn in messages if turn["role"] != "system"]
    if not rest:
        return ({"role": "user", "content": "\n\n".join(system)},)
    return {**rest[0], "content": "\n\n".join([*system, rest[0]["content"]])}, *rest[1:]


def needs_room(call: Request, entry: Entry | Failure) -> bool:
    """Tell whether a refused reply is JSON that was cut off; a sentence that was cut off rambles instead."""
    return isinstance(entry, Entry) and entry.finish_reason == "length" and call.schema is not None


def asked_again(call: Request, entry: Entry | Failure) -> Request:
    """Return the next attempt at a request whose last reply was `entry`: warmer, with more room where it was cut."""
    room = 2 if needs_room(call, entry) else 1
    return replace(call, max_tokens=call.max_tokens * room, temperature=max(call.temperature, RETRY_TEMPERATURE))
