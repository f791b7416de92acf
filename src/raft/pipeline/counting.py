"""Counting what a build is going to ask, from its real chunks, before the first call."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from raft.curation import learned
from raft.curation.pairs import pairs_of
from raft.generation import generate, rounds
from raft.generation.plan import left_out
from raft.generation.rounds import Asked
from raft.generation.tasks import Task
from raft.pipeline.asking import (
    asked_later,
    asks,
    candidates_of,
    question_prompts,
    read_survey,
    reworded_at_most,
    wanted_of,
)
from raft.pipeline.build import chunk_count
from raft.pipeline.estimate import Estimate, Pair, Part
from raft.pipeline.read import documents_listed
from raft.pipeline.rounds import Source
from raft.protocols import Completion, Failure, Generator, Request
from raft.rag.format import render_style
from raft.settings import Settings
from raft.store.budget import Price
from raft.store.run import Run
from raft.text import embedded_text

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
    survey, used, asked_for = read_survey(run), question_prompts(settings), settings.questions
    again, each = candidates_of(settings, strategy), asked_for.candidates
    pairs = len(pairs_of(asked_for))
    source, most, noted = Source(run, survey, used, strategy, asked_for.kinds), asked_for.limit, Asked()
    if asked_for.keep:
        most = rounds.first_limit(asked_for.keep, asked_for.limit, pairs=pairs)

    def plan() -> generate.Plan:
        return source.first(asked_for.per_chunk, most)

    seen, load, known = _Seen(found.room), _Load(extra=found.room), plan()
    calls, missing = 0, 0
    if "questions" in left:
        tasks = generate.again(noted.noting(known.tasks) if asked_for.keep else known.tasks, again)
        anew = partial(generate.again, plan().tasks, again)
        calls, missing = _first(tasks, anew, load, seen, replay=found.replay, sample=sample, ask=ask)
    chunks = run.manifest["steps"]["chunks"]["artifacts"]["chunks.parquet"]["digest"]
    done, later = _done(run, settings, chunks), _Later()
    if asked_for.keep and not done and "questions" in left:
        later = _rounds(source, noted, rounds.most_of(asked_for.keep, asked_for.limit), found.room, again)
    first = max(known.questions, done)
    parts, written = [], (first + later.questions) * again + pairs
    new = reworded_at_most(settings, first + later.questions)
    if "questions" in left:
        least = load.size / (load.size + later.load.size) if later.load.size else 1.0
        load.join(later.load)
        parts.append(part("questions", load, seen, calls=calls + later.calls, answered=calls - missing, fewest=least))
    replayed = 1 - missing / calls if calls else 1.0
    for purpose, sizes in _later(run, settings):
        if purpose in left and sizes:
            about = {"reworded": new, "cleaned": written + new * each}.get(purpose, written)
            calls_most = about * len(sizes)
            line, now = run.manifest["steps"].get(purpose, {}), asks(settings, purpose)["asked"]
            share, paid = replayed if calls else None, found.paid(purpose)
            had = _asked_before(line, now, calls_most, chunks=chunks, replayed=share, paid=paid)
            rest = (calls_most - had) / len(sizes)
            load = _Load(rest * sum(size for size, _ in sizes), rest * sum(room + found.room for _, room in sizes))
            # half of the questions, say, are dropped before it is their turn
            least = 0.5 * (first * again + pairs) / max(1, written)
            parts.append(part(purpose, load, seen, calls=calls_most, answered=had, fewest=least))
    seconds = _seconds(parts, settings, seen) if found.hosted and not settings.generator.batch_endpoint else None
    if found.embedded is not None:
        parts.append(_embeddings(run, settings, written + new * each + pairs, found.embedded, found.embedder_price))
    kinds, filtered = asked_for.kinds if asked_for.limit != 0 else (), settings.cleaning.learned
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
        keep=asked_for.keep,
        batched=settings.generator.batch_endpoint,
        most=first + later.questions,
        left_out=tuple(without),
        scorer=learned.load(filtered).model if filtered and "cleaned" in left and strategy != "rules" else None,
    )


def _first(
    tasks: Iterable[Task],
    anew: Callable[[], Iterable[Task]],
    load: "_Load",
    seen: "_Seen",
    *,
    replay: Generator | None,
    sample: int,
    ask: Callable[[list[Request]], Iterable[Completion | Failure]],
) -> tuple[int, int]:
    """Return how many calls a plan's tasks make, and how many of them the ledger does not answer, nor the sample."""
    calls, missing = 0, []
    for request, outcome in _replayed((one.request for one in tasks if one.request), replay):
        if isinstance(outcome, Completion):
            seen.note(request, outcome)
        elif outcome.kind == UNASKED:
            missing.append(calls)
            load.add(request)
        calls += 1
    if not (sample and missing):
        return calls, len(missing)
    chosen = {missing[turn * len(missing) // sample] for turn in range(sample)}
    requests = (one.request for one in anew() if one.request)
    asked = [one for place, one in enumerate(requests) if place in chosen]
    for request, outcome in zip(asked, ask(asked), strict=True):
        load.add(request, -1)
        if isinstance(outcome, Completion):
            seen.note(request, outcome)
    return calls, len(missing) - len(chosen)


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

    def join(self, other: "_Load", times: float = 1.0) -> None:
        self.size += times * other.size
        self.room += times * other.room
        self.schemas += times * other.schemas


@dataclass
class _Later:
    """What later rounds may ask at most."""

    questions: int = 0
    calls: int = 0
    load: _Load = field(default_factory=_Load)


def _done(run: Run, settings: Settings, chunks: str) -> int:
    """Return how many questions were asked by rounds that came to their end with these settings and chunks."""
    line = run.manifest["steps"].get("questions", {})
    same = settings.questions.keep and line.get("notes", {}).get("of") == wanted_of(settings)
    return line["notes"]["wanted"]["asked"] if same and line["inputs"]["chunks.parquet"] == chunks else 0


def _rounds(source: Source, asked: Asked, most: int, extra: int, again: int) -> _Later:
    """Return what rounds after the first ask at most, of `most` questions in all; those by rule cost nothing."""
    left, load, calls, questions = max(0, most - asked.count), _Load(extra=extra), 0, 0
    room = source.room(asked) if left else {}
    for task in source.later(asked, room) if left else ():
        questions += task.count
        if task.request:
            calls += 1
            load.add(task.request)
            load.size += source.writes_items * rounds.NAMED * _QUESTION_BYTES
    if source.writes_items and calls:  # they have no end, and each may ask for one question
        questions = wanted = min(left, (rounds.ROUNDS - 1) * sum(room.values()))
    else:
        wanted = min(calls, left)
    found = _Later(min(left, questions), wanted * again, _Load(extra=extra))
    found.load.join(load, wanted * again / max(1, calls))
    return found


class _Seen:
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
        yield (
            purpose,
            [(_bytes(text for _, text in prompt.turns) + besides[purpose], room) for _, prompt, room in asked],
        )


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
