"""What a build is going to ask, counted from its real chunks before the first call."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from raft.curation import learned
from raft.curation.pairs import read_pairs
from raft.errors import UsageError
from raft.generation import generate
from raft.generation.plan import left_out
from raft.pipeline.asking import asked_later, asks, question_prompts, read_survey, reworded_at_most
from raft.pipeline.build import chunk_count
from raft.pipeline.read import documents_listed
from raft.protocols import Completion, Failure, Generator, Request
from raft.rag.format import render_style
from raft.settings import Settings
from raft.store.budget import Price, dollars
from raft.store.run import Run
from raft.text import embedded_text

Pair = tuple[float, float]
"""A lowest and a highest value."""


@dataclass(frozen=True)
class Part:
    """What one step asks of one model.

    Attributes:
        purpose: the step, or "embeddings".
        model: what is asked.
        calls: how many it makes at most, those not counted that are made again.
        answered: how many of these the ledger answers already; they cost nothing.
        input_tokens: tokens read by the other calls, from and to.
        output_tokens: tokens that they write, from and to.
        dollars: what they cost, from and to; None when the price is unknown.
    """

    purpose: str
    model: str
    calls: int
    answered: int
    input_tokens: Pair
    output_tokens: Pair
    dollars: Pair | None


@dataclass(frozen=True)
class Estimate:
    """What a build would ask from now on.

    Attributes:
        run: the run directory.
        documents: how many could be read, and were cut into so many `chunks`.
        questions: how many the budget allows.
        parts: what each step asks.
        seconds: how long the endpoint takes, from and to; None for a local model and for a batch endpoint.
        measured: replies of this model, of a sample or an earlier build, that the estimate rests on.
        model: the generator; `own` where it is local or self-hosted: an unknown price is no obstacle.
        price: of the generator, in dollars per million tokens; None when it is unknown.
        spent: dollars that the run has cost so far.
        cap: `generator.max_cost`; without one, a build of more than `confirm_above` dollars is not begun.
        left_out: a sentence for each language in which kinds of question are not asked.
        attempts: how often one call is made at most, where its reply is of no use.
        scorer: the local model that reads the questions for `cleaning.learned`; None: none does.
    """

    run: str
    documents: int
    chunks: int
    questions: int
    parts: tuple[Part, ...]
    seconds: Pair | None
    measured: int
    model: str
    price: Price | None
    own: bool
    spent: float
    cap: float | None
    confirm_above: float
    left_out: tuple[str, ...] = ()
    attempts: int = 1
    scorer: str | None = None

    @property
    def calls(self) -> int:
        """Calls that are still to be made, at most; texts that are embedded are not counted."""
        return sum(part.calls - part.answered for part in self.parts if part.purpose != "embeddings")

    @property
    def unpriced(self) -> list[str]:
        """Models that are still to be asked, and whose price is unknown."""
        return sorted({part.model for part in self.parts if part.dollars is None and part.calls > part.answered})

    @property
    def known_dollars(self) -> Pair:
        """What the calls cost whose price is known, from and to."""
        known = [part.dollars for part in self.parts if part.dollars is not None]
        return sum(low for low, _ in known), sum(high for _, high in known)

    @property
    def dollars(self) -> Pair | None:
        """What all of it costs, from and to; None when some price is unknown."""
        return None if self.unpriced else self.known_dollars

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        derived = {name: getattr(self, name) for name in ("calls", "unpriced", "known_dollars", "dollars")}
        return {**asdict(self), **derived}


def confirm(found: Estimate) -> None:
    """Let a build go on to its first call, or say what is needed before.

    Raises:
        UsageError: it may cost more than `generator.confirm_above` and has no cap, or its price is unknown.
    """
    if found.cap is not None:
        return
    words = as_text(found.summary())
    if found.model in found.unpriced and not found.own:
        raise UsageError(
            f"What this build costs is unknown, since the price of {found.model} is. Nothing was asked yet.\n{words}",
            where="generator.input_price, generator.output_price",
            hint="raft build ... --price IN/OUT   (dollars per million tokens read and written, e.g. 0.15/0.60)",
        )
    high = found.known_dollars[1]
    if high > found.confirm_above:
        raise UsageError(
            f"This build may cost {dollars(high)}: say how much it may cost at most. Nothing was asked yet.\n{words}",
            where=f"generator.confirm_above is {dollars(found.confirm_above)}",
            hint=f"raft build ... --max-cost {rounded_up(found.spent + high)}",
        )


def rounded_up(amount: float) -> str:
    """Return an amount of dollars, rounded up to cents or to two digits."""
    step = 0.01 if amount < 10 else 10.0 ** (len(str(int(amount))) - 2)
    return f"{-(-amount // step) * step:.10g}"


DOING = {
    "questions": "writing questions",
    "reworded": "wording questions anew",
    "cleaned": "judging questions",
    "examples": "wording answers",
    "embeddings": "embedding texts",
    "sample": "the sample of an estimate",
    "benchmark": "measuring",
    "ask": "answering",
    "index": "embedding chunks",
}
"""What calls are made for, by the name of their step, in words."""


def as_text(facts: Mapping[str, Any]) -> str:
    """Return an estimate as text; `facts` is what `Estimate.summary` returns."""
    corpus = f"{facts['documents']:,} documents, {facts['chunks']:,} chunks, {facts['questions']:,} questions wanted"
    lines = [f"  {'corpus':<11} {corpus}", *(f"  {'left out':<11} {line}" for line in facts["left_out"])]
    for part in facts["parts"]:
        lines.append(f"  {'texts' if part['purpose'] == 'embeddings' else 'calls':<11} {_part_text(part)}")
    if facts["calls"] and facts["attempts"] > 1:
        most = facts["calls"] * facts["attempts"]
        again = f"replies of no use are asked for again: at most {most:,} calls in all (generator.attempts)"
        lines.append(f"  {'again':<11} {again}")
    if facts["scorer"]:
        read = f"{facts['scorer']} reads the questions on this machine, at most {facts['questions']:,}"
        lines.append(f"  {'filter':<11} {read}: it takes time and no money (cleaning.learned)")
    lines.append(f"  {'cost':<11} {cost_text(facts)}")
    if facts["seconds"] is not None and facts["calls"]:
        low, high = facts["seconds"]
        lines.append(f"  {'time':<11} {long(low)} to {long(high)} at the limits that are set")
    guessed = "experience with other models; --sample 10 asks ten calls and knows better"
    based = f"{facts['measured']:,} replies of this model" if facts["measured"] else guessed
    return "\n".join([*lines, f"  {'rests on':<11} {based}"])


def long(seconds: float) -> str:
    """Return a time span as a person says it."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def count(number: float) -> str:
    """Return a large number in short: 999, 12.3k, 4.5M."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 999_950 else f"{number / 1e6:.1f}M"


def _part_text(part: Mapping[str, Any]) -> str:
    text = f"{part['calls']:,} for {DOING.get(part['purpose'], part['purpose'])} with {part['model']}"
    text += f" ({part['answered']:,} in the ledger)" if part["answered"] else ""
    if part["calls"] == part["answered"]:
        return text
    text += f": {_span(part['input_tokens'])} tokens read"
    return text + (f", {_span(part['output_tokens'])} written" if part["output_tokens"][1] else "")


def cost_text(facts: Mapping[str, Any]) -> str:
    """Return what an estimate says of money, on one line."""
    low, high = facts["known_dollars"]
    known = "nothing" if not high else f"{dollars(low)} to {dollars(high)}"
    price = facts["price"]
    if facts["unpriced"]:
        text = f"unknown, for want of the price of {', '.join(facts['unpriced'])}"
        text += f"; {known} for the rest" if high else ""
    else:
        text = known
        text += f" at ${price['input']:g}/${price['output']:g} a million tokens" if high and price else ""
    text += f"; {dollars(facts['spent'])} spent before" if facts["spent"] else ""
    return text + (f"; the cap is {dollars(facts['cap'])}" if facts["cap"] is not None else "")


def _span(pair: Sequence[float]) -> str:
    low, high = (count(one) for one in pair)
    return low if low == high else f"{low} to {high}"


UNASKED = "unasked"
"""Kind of the failure with which a replaying generator answers what the ledger has no reply to."""

_BYTES_A_TOKEN: Pair = (4.8, 3.0)
"""Most and fewest bytes of a prompt that a token holds on average: prose in English, and tables or code."""
_BYTES_A_TURN = 32
"""What a chat template puts around a turn, as bytes of text."""
_FILLED: Pair = (0.3, 1.0)
"""How much of its room a reply fills, before one was seen."""
_TRIES: Pair = (1.0, 1.15)
"""Calls a request, those counted that are made again because a reply was of no use, before one was seen."""
_SECONDS: Pair = (0.5, 6.0)
"""How long a reply takes, before one was seen."""
_QUESTION_BYTES = 250
"""A question with its answer."""
_BYTES_A_CHUNK_TOKEN = 4.5
_STEPS = ("questions", "reworded", "cleaned", "examples")
_TEXTS = 500


@dataclass(frozen=True)
class CostContext:
    """What an estimate has to know beside the run and its settings.

    Attributes:
        price: of the generator, as `embedder_price` is; None when it is unknown, `Price(0, 0)` for a local model.
        hosted: the generator is behind an API.
        own: the generator is local or self-hosted.
        replay: answers what the ledger can answer, and fails with `UNASKED` otherwise; None: it can answer nothing.
        paid: returns how many calls of this run a step has paid for.
        embedded: tells of each text whether the ledger has its vector; None where embedding costs nothing.
        spent: dollars that the run has cost.
        room: tokens that each reply may have besides, for the generator's thoughts.
    """

    price: Price | None
    embedder_price: Price | None
    hosted: bool
    own: bool
    replay: Generator | None
    paid: Callable[[str], int]
    embedded: Callable[[Sequence[str]], Sequence[bool]] | None
    spent: float
    room: int


def count_calls(
    run: Run,
    settings: Settings,
    found: CostContext,
    *,
    strategy: str,
    begin: str,
    sample: int,
    ask: Callable[[list[Request]], Iterable[Completion | Failure]],
) -> Estimate:
    """Count what a build would ask, from its documents, chunks and survey, which are there.

    `strategy` is as in a build; `begin` is the step that the build has come to: earlier ones ask
    nothing any more. So many requests as `sample` says, spread evenly, are put to `ask`, which asks in earnest and
    keeps the replies, to learn from their usage.
    """
    left = _STEPS[_STEPS.index(begin) :] if begin in _STEPS else _STEPS
    part = partial(_part, model=settings.generator.model, price=found.price)
    survey, used, again = read_survey(run), question_prompts(settings), settings.questions.candidates
    asked_for = settings.questions.model_dump(include={"kinds", "per_chunk", "limit", "candidates"})

    def plan() -> generate.Plan:
        return generate.plan(run.stream("chunks.parquet"), survey, used, strategy=strategy, **asked_for)

    seen, load, known = _Seen(found.room), _Load(extra=found.room), plan()
    calls, missing = 0, []
    if "questions" in left:
        for request, outcome in _replayed((one.request for one in known.tasks if one.request), found.replay):
            if isinstance(outcome, Completion):
                seen.note(request, outcome)
            elif outcome.kind == UNASKED:
                missing.append(calls)
                load.add(request)
            calls += 1
    if sample and missing:
        chosen = {missing[turn * len(missing) // sample] for turn in range(sample)}
        requests = (one.request for one in plan().tasks if one.request)
        asked = [one for place, one in enumerate(requests) if place in chosen]
        for request, outcome in zip(asked, ask(asked), strict=True):
            load.add(request, -1)
            if isinstance(outcome, Completion):
                seen.note(request, outcome)
        missing = [place for place in missing if place not in chosen]
    own = settings.questions.qa
    pairs = len(read_pairs(own).rows) if own else 0
    parts, written, new = [], known.questions * again + pairs, reworded_at_most(settings, known.questions)
    if "questions" in left:
        parts.append(part("questions", load, seen, calls=calls, answered=calls - len(missing), fewest=1.0))
    replayed = 1 - len(missing) / calls if calls else 1.0
    chunks = run.manifest["steps"]["chunks"]["artifacts"]["chunks.parquet"]["digest"]
    for purpose, sizes in _later(run, settings):
        if purpose in left and sizes:
            about = {"reworded": new, "cleaned": written + new * again}.get(purpose, written)
            most = about * len(sizes)
            line, now = run.manifest["steps"].get(purpose, {}), asks(settings, purpose)["asked"]
            share, paid = replayed if calls else None, found.paid(purpose)
            had = _asked_before(line, now, most, chunks=chunks, replayed=share, paid=paid)
            rest = (most - had) / len(sizes)
            load = _Load(rest * sum(size for size, _ in sizes), rest * sum(room + found.room for _, room in sizes))
            # half of the questions, say, are dropped before it is their turn
            parts.append(part(purpose, load, seen, calls=most, answered=had, fewest=0.5))
    seconds = _seconds(parts, settings, seen) if found.hosted and not settings.generator.batch_endpoint else None
    if found.embedded is not None:
        parts.append(_embeddings(run, settings, written + new * again + pairs, found.embedded, found.embedder_price))
    kinds, filtered = asked_for["kinds"] if asked_for["limit"] != 0 else [], settings.cleaning.learned
    without = left_out(strategy, kinds, survey, settings.index.embedder) if "questions" in left else ()
    return Estimate(
        run=str(run.folder),
        documents=documents_listed(run)["error"].null_count(),
        chunks=chunk_count(run),
        questions=known.questions,
        parts=tuple(parts),
        seconds=seconds,
        measured=seen.replies,
        model=settings.generator.model,
        price=found.price,
        own=found.own,
        spent=found.spent,
        cap=settings.generator.max_cost,
        confirm_above=settings.generator.confirm_above,
        attempts=settings.generator.attempts,
        left_out=tuple(without),
        scorer=learned.load(filtered).model if filtered and "cleaned" in left and strategy != "rules" else None,
    )


@dataclass
class _Load:
    """What is still to be asked: bytes of text to read, bytes of schemas, and room to write in."""

    size: float = 0.0
    room: float = 0.0
    schemas: float = 0.0
    extra: int = 0

    def add(self, request: Request, times: int = 1) -> None:
        self.size += times * _size(request)
        self.room += times * (request.max_tokens + self.extra)
        self.schemas += times * len(str(request.schema or ""))


class _Seen:
    """What replies of this model were like."""

    def __init__(self, extra: int) -> None:
        self.extra = extra
        self.replies = self.size = self.read = self.room = self.written = self.attempts = 0
        self.seconds = 0.0

    def note(self, request: Request, outcome: Completion) -> None:
        """Take note of a reply, if it tells its tokens."""
        if outcome.input_tokens > 0:
            self.replies += 1
            self.size += _size(request)
            self.read += outcome.input_tokens
            self.room += request.max_tokens + self.extra
            self.written += max(0, outcome.output_tokens)
            self.attempts += outcome.attempts
            self.seconds += outcome.seconds

    def tokens_a_byte(self) -> Pair:
        return self._around(self.read / self.size) if self.replies else (1 / _BYTES_A_TOKEN[0], 1 / _BYTES_A_TOKEN[1])

    def filled(self) -> Pair:
        return self._around(self.written / self.room) if self.replies else _FILLED

    def tries(self) -> Pair:
        return (1.0, self._around(self.attempts / self.replies)[1]) if self.replies else _TRIES

    def latency(self) -> Pair:
        return self._around(self.seconds / self.replies) if self.replies and self.seconds else _SECONDS

    def _around(self, mean: float) -> Pair:
        error = 0.05 + 0.5 / self.replies**0.5
        return mean * (1 - error), mean * (1 + error)


def _replayed(requests: Iterable[Request], replay: Generator | None) -> Iterator[tuple[Request, Completion | Failure]]:
    if replay is None:
        yield from ((request, Failure(UNASKED, "")) for request in requests)
        return
    waiting: deque[Request] = deque()

    def remembered() -> Iterator[Request]:
        for request in requests:
            waiting.append(request)
            yield request

    for outcome in replay.complete(remembered()):
        yield waiting.popleft(), outcome


def _later(run: Run, settings: Settings) -> Iterator[tuple[str, list[tuple[float, int]]]]:
    """Yield the steps after the questions that ask something of each question, with bytes and room of each call."""
    tokens = run.manifest["steps"]["chunks"]["notes"].get("tokens", 0)
    shown = _QUESTION_BYTES + _BYTES_A_CHUNK_TOKEN * tokens / max(1, chunk_count(run))
    worded = len(render_style(**settings.answer_style.model_dump())) + 2 * _QUESTION_BYTES
    besides = {"reworded": shown, "cleaned": shown, "examples": worded}
    for purpose, asked in asked_later(settings).items():
        turns = ((_bytes(text for _, text in prompt.turns), room) for _, prompt, room in asked)
        yield purpose, [(size + besides[purpose], room) for size, room in turns]


def _asked_before(
    line: Mapping[str, Any], now: Mapping[str, Any], most: int, *, chunks: str, replayed: float | None, paid: int
) -> int:
    """Return how many of a step's calls the ledger answers.

    `line` is the step's in the manifest, `now` what it `asks`, `replayed` the share of the calls for questions that the
    ledger answers, None where there are none; `paid` are calls that such steps have paid for.
    """
    share = 1.0 if replayed is None else replayed
    was = line.get("notes", {}).get("asked")
    if was is None:  # it was broken off, or an earlier raft has done it
        return min(paid, round(most * share))
    if was["of"] != now["of"] or not {*was["by"]} <= {*now["by"]}:  # about other questions, or fewer of them
        return 0
    known = most * len(was["by"]) // len(now["by"])
    if share == 1 and line["inputs"]["chunks.parquet"] == chunks:
        return known
    return 0 if replayed is None else min(paid, round(known * share))


def _size(request: Request) -> int:
    return _bytes(message["content"] for message in request.messages)


def _bytes(turns: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) + _BYTES_A_TURN for text in turns)


def _part(
    purpose: str, load: _Load, seen: _Seen, *, model: str, price: Price | None, calls: int, answered: int, fewest: float
) -> Part:
    tries, size, room = seen.tries(), seen.tokens_a_byte(), seen.filled()
    most = load.size + (0 if seen.replies else load.schemas)  # providers differ in whether they count schemas
    read = round(load.size * size[0] * tries[0] * fewest), round(most * size[1] * tries[1])
    written = round(load.room * room[0] * tries[0] * fewest), round(load.room * min(1.0, room[1]) * tries[1])
    cost = None if price is None else (price.cost(read[0], written[0]), price.cost(read[1], written[1]))
    return Part(purpose, model, calls, answered, read, written, cost)


def _embeddings(
    run: Run, settings: Settings, count: int, embedded: Callable[[Sequence[str]], Sequence[bool]], price: Price | None
) -> Part:
    """Return what embedding all chunks and so many questions asks, a pair once more with its answer; each is a call."""
    known, size = 0, count * _QUESTION_BYTES
    for frame in run.stream("chunks.parquet", ["heading", "text"]):
        texts = [embedded_text(heading, text) for heading, text in frame.iter_rows()]
        for begin in range(0, len(texts), _TEXTS):
            part = texts[begin : begin + _TEXTS]
            there = embedded(part)
            known += sum(there)
            size += sum(len(text.encode()) for text, is_known in zip(part, there, strict=True) if not is_known)
    tokens = round(size / _BYTES_A_TOKEN[0]), round(size / _BYTES_A_TOKEN[1])
    cost = None if price is None else (price.cost(tokens[0], 0), price.cost(tokens[1], 0))
    return Part("embeddings", settings.index.embedder, chunk_count(run) + count, known, tokens, (0, 0), cost)


def _seconds(parts: Sequence[Part], settings: Settings, seen: _Seen) -> Pair:
    chosen, tries, latency = settings.generator, seen.tries(), seen.latency()

    def at(end: int) -> float:
        calls = sum(part.calls - part.answered for part in parts) * tries[end]
        tokens = sum(part.input_tokens[end] + part.output_tokens[end] for part in parts)
        return max(
            calls * latency[end] / chosen.concurrency,
            60 * calls / chosen.requests_per_minute if chosen.requests_per_minute else 0.0,
            60 * tokens / chosen.tokens_per_minute if chosen.tokens_per_minute else 0.0,
        )

    return at(0), at(1)
