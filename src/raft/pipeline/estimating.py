"""What a build is going to ask, counted from its real chunks before the first call."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from raft import prompts
from raft.estimates import Estimate, Pair, Part
from raft.pipeline.reading import documents_listed
from raft.pipeline.surveying import read_survey
from raft.protocols import Completion, Failure, Generator, Request
from raft.raftformat import render_style
from raft.run import Run
from raft.settings import Settings
from raft.spending import Price
from raft.stages import questions, styling
from raft.stages.cleaning import JUDGE_TOKENS
from raft.surveying import Survey
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
_STEPS = ("questions", "cleaned", "examples")
_TEXTS = 500


@dataclass(frozen=True)
class Circumstances:
    """What an estimate has to know beside the run and its settings.

    Attributes:
        price: of the generator; None when it is unknown, `Price(0, 0)` for a local model.
        embedder_price: of the embedder, likewise.
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


def estimate(
    run: Run,
    settings: Settings,
    found: Circumstances,
    *,
    way: str,
    begin: str = "questions",
    sample: int = 0,
    ask: Callable[[list[Request]], Iterable[Completion | Failure]] | None = None,
) -> Estimate:
    """Count what a build would ask, from its documents, chunks and survey, which are there.

    Args:
        run: the run directory.
        settings: the experiment.
        found: prices, and what the ledger knows.
        way: "answer_first", "spans" or "items".
        begin: the step that the build has come to; earlier ones ask nothing any more.
        sample: so many requests, spread evenly, are asked to learn from their usage.
        ask: asks them in earnest, and keeps the replies.
    """
    left = _STEPS[_STEPS.index(begin) :] if begin in _STEPS else _STEPS
    part = partial(_part, model=settings.generator.model, price=found.price)
    plan = partial(_plan, run, settings, way, read_survey(run))
    seen, load, known = _Seen(found.room), _Load(extra=found.room), plan()
    calls, missing = 0, []
    if "questions" in left:
        for request, outcome in _replayed((one.request for one in known.asks), found.replay):
            if isinstance(outcome, Completion):
                seen.note(request, outcome)
            elif outcome.kind == UNASKED:
                missing.append(calls)
                load.add(request)
            calls += 1
    if sample and ask is not None and missing:
        chosen = {missing[turn * len(missing) // sample] for turn in range(sample)}
        asked = [one.request for place, one in enumerate(plan().asks) if place in chosen]
        for request, outcome in zip(asked, ask(asked), strict=True):
            load.add(request, -1)
            if isinstance(outcome, Completion):
                seen.note(request, outcome)
        missing = [place for place in missing if place not in chosen]
    parts = []
    if "questions" in left:
        parts.append(part("questions", load, seen, calls=calls, answered=calls - len(missing)))
    replayed = 1 - len(missing) / calls if calls else 1.0
    for purpose, size, room in _later(run, settings):
        if purpose in left:
            # what is asked about questions is not known before them; where the ledger answers all calls for questions,
            # a step that was done once asks the same again
            done = replayed == 1 and run.manifest["steps"].get(purpose, {}).get("calls")
            had = known.questions if done else min(found.paid(purpose), round(known.questions * replayed))
            rest = known.questions - had
            load = _Load(rest * size, rest * (room + found.room))
            # half of the questions, say, are dropped before it is their turn
            parts.append(part(purpose, load, seen, calls=known.questions, answered=had, fewest=0.5))
    seconds = _seconds(parts, settings, seen) if found.hosted and not settings.generator.batch_endpoint else None
    if found.embedded is not None:
        parts.append(_embeddings(run, settings, known.questions, found.embedded, found.embedder_price))
    return Estimate(
        run=str(run.folder),
        documents=documents_listed(run)["error"].null_count(),
        chunks=_chunks(run),
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
    )


@dataclass
class _Load:
    """What is still to be asked: bytes of text to read, bytes of schemas, and room to write in."""

    size: float = 0.0
    room: float = 0.0
    schemas: float = 0.0
    extra: int = 0

    def add(self, request: Request, times: int = 1) -> None:
        """Count a request."""
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
        """Return the tokens that a byte of a prompt makes."""
        return self._around(self.read / self.size) if self.replies else (1 / _BYTES_A_TOKEN[0], 1 / _BYTES_A_TOKEN[1])

    def filled(self) -> Pair:
        """Return how much of its room a reply fills."""
        return self._around(self.written / self.room) if self.replies else _FILLED

    def tries(self) -> Pair:
        """Return calls a request."""
        return (1.0, self._around(self.attempts / self.replies)[1]) if self.replies else _TRIES

    def latency(self) -> Pair:
        """Return the seconds that a reply takes."""
        return self._around(self.seconds / self.replies) if self.replies and self.seconds else _SECONDS

    def _around(self, mean: float) -> Pair:
        error = 0.05 + 0.5 / self.replies**0.5
        return mean * (1 - error), mean * (1 + error)


def _plan(run: Run, settings: Settings, way: str, known: Survey) -> questions.Plan:
    asked = settings.questions
    return questions.plan(
        run.stream("chunks.parquet"),
        known,
        questions.read_prompts(settings.prompts),
        way=way,
        kinds=asked.kinds,
        per_chunk=asked.per_chunk,
        limit=asked.limit,
    )


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


def _later(run: Run, settings: Settings) -> Iterator[tuple[str, float, int]]:
    """Yield the steps after the questions that ask something of each question, with bytes and room of a call."""
    if settings.cleaning.judge:
        tokens = run.manifest["steps"]["chunks"]["notes"].get("tokens", 0)
        passage = _BYTES_A_CHUNK_TOKEN * tokens / max(1, _chunks(run))
        yield "cleaned", _length("judge", settings) + _QUESTION_BYTES + passage, JUDGE_TOKENS
    style, form = render_style(**settings.answer_style.model_dump()), settings.answer_style.format
    if style and not (isinstance(form, dict) and len(form.get("properties", {})) == 1):
        yield "examples", _length("restyle", settings) + len(style) + 2 * _QUESTION_BYTES, styling.ROOM


def _length(prompt: str, settings: Settings) -> int:
    turns = prompts.load(prompt, settings.prompts).turns
    return sum(len(text.encode()) + _BYTES_A_TURN for _, text in turns)


def _size(request: Request) -> int:
    texts = [message["content"] for message in request.messages]
    return sum(len(text.encode("utf-8", "surrogatepass")) + _BYTES_A_TURN for text in texts)


def _chunks(run: Run) -> int:
    return int(run.manifest["steps"]["chunks"]["artifacts"]["chunks.parquet"]["rows"])


def _part(
    purpose: str,
    load: _Load,
    seen: _Seen,
    *,
    model: str,
    price: Price | None,
    calls: int,
    answered: int,
    fewest: float = 1.0,
) -> Part:
    tries, size, room = seen.tries(), seen.tokens_a_byte(), seen.filled()
    most = load.size + (0 if seen.replies else load.schemas)  # providers differ in whether they count schemas
    read = round(load.size * size[0] * tries[0] * fewest), round(most * size[1] * tries[1])
    written = round(load.room * room[0] * tries[0] * fewest), round(load.room * min(1.0, room[1]) * tries[1])
    cost = None if price is None else (price.cost(read[0], written[0]), price.cost(read[1], written[1]))
    return Part(purpose, model, calls, answered, read, written, cost)


def _embeddings(
    run: Run,
    settings: Settings,
    count: int,
    embedded: Callable[[Sequence[str]], Sequence[bool]],
    price: Price | None,
) -> Part:
    """Return what embedding all chunks and so many questions asks; each text is a call."""
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
    return Part("embeddings", settings.index.embedder, _chunks(run) + count, known, tokens, (0, 0), cost)


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
