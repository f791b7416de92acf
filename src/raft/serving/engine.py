"""The engine: one thread that owns the model, and answers what waits, several questions at once where it can.

Questions that arrive together are answered together: a batch of sixteen takes a local model little longer than one.
What is streamed is written alone, piece by piece. Streams and batches take turns, each kind in its order, so that
neither starves the other. What makes batches itself, as a vLLM does, is asked by a thread a question, so that no answer
waits for another one.

Several systems may answer (`Sources`): production, and for some a candidate. Which one does is settled when a
question's turn has come, and no batch mixes two. Nobody waits for a shadow, an answer that no caller sees: it is
written while nothing else is to do, and given up when somebody asks.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Condition, Event, Thread
from typing import Any, Literal, Protocol

from raft.errors import RaftError
from raft.rag.grounding import Answer

Arm = Literal["production", "candidate"]

WAITING = 128
"""Most questions that wait; one more is sent away."""
SHADOWS = 8
"""Most shadows that wait; the oldest is given up for one more."""

_NO_THREAD = "ulimit -u   (how many processes and threads this user may have)"

GATHER = 0.005
"""Seconds that a batch which is not full waits for others: callers who were answered together come back together."""


class Source(Protocol):
    """Something to answer from (`versions.Voice`).

    Attributes:
        answerer: a `raft.api.asking.Answerer`, or what asks as one.
        batch: how many questions are answered together.
        aside: whether each of them is asked in a thread of its own.
        longest: most tokens of an answer.
        index: the digest of the index.
        system: what answers, as benchmarks name it: "raft" with an adapter, else "rag".
        adapter_digest: of the adapter's weights; None without one.
        version: what answers, as the registry calls it; "" where it knows nothing of it.
    """

    answerer: Any
    batch: int
    aside: bool
    longest: int
    index: str
    system: str
    adapter_digest: str | None
    version: str

    def warm(self) -> None:
        """Load the models now; nothing where they are."""

    def close(self) -> None:
        """Let go of what is not needed any more."""


@dataclass(frozen=True)
class Sources:
    """What answers at one time: production, a candidate where there is one, and what is kept loaded to change to.

    `follows`: whether that goes by the registry, so that a promotion there changes it.
    """

    production: Source
    candidate: Source | None = None
    ready: tuple[Source, ...] = ()
    follows: bool = True

    def of(self, arm: Arm) -> tuple[Arm, Source]:
        """Return who answers those who are to meet an arm: without a candidate production answers them all."""
        if arm == "candidate" and self.candidate is not None:
            return arm, self.candidate
        return "production", self.production

    def each(self) -> list[Source]:
        """Return each of them once, production first."""
        every = (self.production, *((self.candidate,) if self.candidate else ()), *self.ready)
        return list({id(one): one for one in every}.values())


@dataclass(frozen=True)
class Answered:
    """An answer, and where it came from.

    Attributes:
        answer: the answer.
        source: what answered.
        arm: whether as production or as the candidate.
        waited: for how many seconds the question waited for its turn.
        took: the seconds of its call of the model; None where one call made several answers: how long that takes
            depends on how many they are, and whoever answers more has larger ones.
    """

    answer: Answer
    source: Source
    arm: Arm
    waited: float
    took: float | None


class Busy(Exception):
    """More questions wait than may."""


class _Left(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class Job:
    """A question, and who is told of its answer.

    Attributes:
        question: what is asked.
        searched: what is searched for.
        streamed: whether the reply is told piece by piece.
        tell: told, in a thread of the engine's, ("piece", text of a reply), then either ("answered", an `Answered`) or
            ("failed", an exception).
        arm: whom it is to meet.
        shadow: nobody waits for it; given up, and not told of, when somebody does for another.
        left: set when nobody waits for it any more; then it is not answered, and a reply not written to its end.
        met: who answers it; None while it waits.
    """

    question: str
    searched: str
    streamed: bool
    tell: Callable[[str, Any], None]
    arm: Arm = "production"
    shadow: bool = False
    left: Event = field(default_factory=Event)
    met: tuple[Arm, Source] | None = None
    came: float = field(default_factory=time.monotonic)


class Engine:
    """Answers questions in a thread of its own.

    Args:
        first: what answers at first.
        on_event: told "ready" with the `seconds` that loading took, and "failed" with the `error` where that failed;
            "unfit" with a `source` that was offered and could not be loaded, and the `error`; "stumbled" with an
            `error` that nobody foresaw.
    """

    def __init__(self, first: Sources, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self.ready = Event()
        self.sources, self._on_event = first, on_event
        self._next: Sources | None = None
        self._waiting: deque[Job] = deque()
        self._shadows: deque[Job] = deque(maxlen=SHADOWS)
        self._flying, self._leaving = Counter[int](), dict[int, Source]()  # by the ids of sources that are asked aside
        self._changed, self._ended, self._streams_turn = Condition(), False, True
        self._thread = Thread(target=self._work, name="raft-engine", daemon=True)

    def start(self) -> None:
        """Load the models, then answer."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Take on a question.

        Raises:
            Busy: too many wait.
        """
        with self._changed:
            if len(self._waiting) >= WAITING:
                self._waiting = deque(one for one in self._waiting if not one.left.is_set())
            if len(self._waiting) >= WAITING or self._ended:
                raise Busy
            self._waiting.append(job)
            self._changed.notify()

    def shadow(self, job: Job) -> None:
        """Take on a question for whose answer nobody waits; it may be given up, and then nothing is told."""
        with self._changed:
            self._shadows.append(job)
            self._changed.notify()

    def offer(self, sources: Sources) -> None:
        """Answer from other sources as soon as what is being answered is done; what is not among them is closed."""
        with self._changed:
            superseded, self._next = self._next, sources
            unused = _without(superseded, self.sources, sources)
            self._changed.notify()
        self._close(unused)

    def end(self, seconds: float) -> None:
        """Answer what waits, for at most so many seconds, and close the sources."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread.ident is not None:  # it was started
            self._thread.join(seconds)

    def _work(self) -> None:
        begun = time.monotonic()
        try:
            self.sources.production.warm()
        except Exception as error:
            self._on_event("failed", {"error": error})
            return
        self.sources = self._loaded(self.sources)
        self.ready.set()
        self._on_event("ready", {"seconds": time.monotonic() - begun})
        while (jobs := self._turn()) is not None:
            self._answer(jobs)
        with self._changed:
            self._changed.wait_for(lambda: not self._flying.total())
        for one in [*self.sources.each(), *_without(self._next, self.sources)]:
            one.close()

    def _loaded(self, sources: Sources) -> Sources:
        """Load what is offered; return it without what cannot be: then production stays what it was."""
        unfit: list[Source] = []
        for one in sources.each():
            try:
                one.warm()
            except Exception as error:
                unfit.append(one)
                self._on_event("unfit", {"source": one, "error": error})
        return replace(
            sources,
            production=self.sources.production if sources.production in unfit else sources.production,
            candidate=None if sources.candidate in unfit else sources.candidate,
            ready=tuple(one for one in sources.ready if one not in unfit),
        )

    def _turn(self) -> list[Job] | None:
        """Wait for something to do; return what is answered next, perhaps nothing, or None at the end."""
        with self._changed:
            self._changed.wait_for(self._something)
            alone = self.sources.production.aside or any(job.streamed for job in self._waiting)
            if GATHER and self._waiting and not alone:
                batch = self.sources.production.batch
                self._changed.wait_for(lambda: len(self._waiting) >= batch or self._ended or self._next, GATHER)
            taken, self._next = self._next, None
            for one in taken.each() if taken is not None else ():
                self._leaving.pop(id(one), None)  # it stays open, though its last answer may come now
        if taken is not None:
            self._change(self._loaded(taken), taken)
        with self._changed:
            jobs = self._due() or self._spare()
            return None if self._ended and not jobs and not self._waiting else jobs

    def _something(self) -> bool:
        if self._next or (self._ended and not self._waiting) or (self._shadows and not self._flying.total()):
            return True
        return any(self._has_room(self.sources.of(job.arm)[1]) for job in self._waiting)

    def _has_room(self, source: Source) -> bool:
        return not source.aside or self._flying[id(source)] < source.batch

    def _change(self, sources: Sources, offered: Sources) -> None:
        with self._changed:
            former, self.sources = self.sources, sources
            unused = _without(former, sources, self._next) + _without(offered, former, sources, self._next)
        self._close(unused)

    def _close(self, sources: list[Source]) -> None:
        """Close sources, those that are being asked when they have answered."""
        with self._changed:
            self._leaving |= {id(one): one for one in sources if self._flying[id(one)]}
            idle = [one for one in sources if not self._flying[id(one)]]
        for one in idle:
            one.close()

    def _fly(self, job: Job) -> None:
        """Have a question answered in a thread of its own."""
        _, source = job.met or self.sources.of("production")
        self._flying[id(source)] += 1

        def answer() -> None:
            try:
                self._answer_one(job)
            finally:
                with self._changed:
                    self._flying[id(source)] -= 1
                    left = self._leaving.pop(id(source), None) if not self._flying[id(source)] else None
                    self._changed.notify()
                if left is not None:
                    left.close()

        try:
            Thread(target=answer, name="raft-aside", daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            self._flying[id(source)] -= 1
            job.tell("failed", RaftError(f"No thread can be started to ask the model: {error}.", hint=_NO_THREAD))

    def _due(self) -> list[Job]:
        waiting = [job for job in self._waiting if not job.left.is_set()]
        for job in [job for job in waiting if self.sources.of(job.arm)[1].aside]:
            arm, source = self.sources.of(job.arm)
            if self._has_room(source):
                job.met = arm, source
                waiting.remove(job)
                self._fly(job)
        full = [job for job in waiting if self.sources.of(job.arm)[1].aside]
        waiting = [job for job in waiting if job not in full]
        streams = [job for job in waiting if job.streamed]
        wholes = [job for job in waiting if not job.streamed]
        due = streams[:1]
        if wholes and not (streams and self._streams_turn):
            first = self.sources.of(wholes[0].arm)
            due = [job for job in wholes if self.sources.of(job.arm) == first][: first[1].batch]
        for job in due:
            job.met = self.sources.of(job.arm)
        self._streams_turn = not (due and due[0].streamed)
        self._waiting = deque([*full, *(job for job in waiting if job not in due)])
        return due

    def _spare(self) -> list[Job]:
        """Return a shadow to write, where there is one whose system still answers."""
        while self._shadows and not self._ended and not self._flying.total():
            job = self._shadows.popleft()
            job.met = self.sources.of(job.arm)
            if job.met[0] == job.arm and job.met[1].aside:
                self._fly(job)
            elif job.met[0] == job.arm:
                return [job]
        return []

    def _answer(self, jobs: list[Job]) -> None:
        started = time.monotonic()
        if len(jobs) > 1:
            arm, source = jobs[0].met or self.sources.of("production")
            try:
                answers = source.answerer.ask_all(
                    [job.question for job in jobs], searched=[job.searched for job in jobs]
                )
            except Exception as error:  # one of them may be at fault, and no other shall suffer for it
                if not isinstance(error, RaftError):
                    self._on_event("stumbled", {"error": error})
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    job.tell("answered", Answered(answer, source, arm, started - job.came, None))
                return
        for job in jobs:
            self._answer_one(job)

    def _answer_one(self, job: Job) -> None:
        started = time.monotonic()
        arm, source = job.met or self.sources.of("production")

        def heard(piece: str) -> None:
            if job.left.is_set() or (job.shadow and (self._waiting or self._ended)):
                raise _Left
            if job.streamed:
                job.tell("piece", piece)

        try:
            answer = source.answerer.ask(job.question, searched=job.searched, on_event=heard)
        except _Left:
            return
        except Exception as error:
            if not isinstance(error, RaftError):
                self._on_event("stumbled", {"error": error})
            job.tell("failed", error)
        else:
            ended = time.monotonic()
            job.tell("answered", Answered(answer, source, arm, started - job.came, ended - started))


def _without(sources: Sources | None, *others: Sources | None) -> list[Source]:
    """Return what is in some sources, and in none of the others."""
    kept = {id(one) for other in others if other is not None for one in other.each()}
    return [one for one in (sources.each() if sources is not None else ()) if id(one) not in kept]
