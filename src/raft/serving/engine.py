"""The engine: one thread that owns the model, and answers what waits, several questions at once where it can.

Questions that arrive together are answered together: a batch of sixteen takes a local model little longer than one.
What is streamed is written alone, piece by piece. Streams and batches take turns, each kind in its order, so that
neither starves the other.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Any, Protocol

from raft.errors import RaftError

WAITING = 128
"""Most questions that wait; one more is sent away."""


GATHER = 0.005
"""Seconds that a batch which is not full waits for others: callers who were answered together come back together."""


class Source(Protocol):
    """Something to answer from (`snapshots.Snapshot`).

    Attributes:
        answerer: a `raft.api.asking.Answerer`, or what asks as one.
        batch: how many questions are answered together.
        longest: most tokens of an answer.
        index: the digest of the index.
        system: what answers, as benchmarks name it: "raft" with an adapter, else "rag".
        adapter_digest: of the adapter's weights; None without one.
    """

    answerer: Any
    batch: int
    longest: int
    index: str
    system: str
    adapter_digest: str | None

    def warm(self) -> None:
        """Load the models now."""

    def close(self) -> None:
        """Let go of the files."""


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
        tell: told, in the engine's thread, ("piece", text of a reply), then either ("answered", (answer, source,
            seconds that it waited)) or ("failed", an exception).
        left: set when nobody waits for it any more; then it is not answered, and a reply not written to its end.
    """

    question: str
    searched: str
    streamed: bool
    tell: Callable[[str, Any], None]
    left: Event = field(default_factory=Event)
    came: float = field(default_factory=time.monotonic)


class Engine:
    """Answers questions in a thread of its own, from one source at a time.

    Args:
        first: opens the first source.
        on_event: told "ready" with the `seconds` that loading took, and "failed" with the `error` where that failed.
    """

    def __init__(self, first: Source, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self.ready = Event()
        self._source, self._on_event = first, on_event
        self._next: Source | None = None
        self._waiting: deque[Job] = deque()
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

    def offer(self, source: Source) -> None:
        """Answer from another source as soon as what is being answered is done; the one of now is closed then."""
        with self._changed:
            superseded, self._next = self._next, source
            self._changed.notify()
        if superseded is not None:
            superseded.close()

    def end(self, seconds: float) -> None:
        """Answer what waits, for at most so many seconds, and close the source."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        begun = time.monotonic()
        try:
            self._source.warm()
        except Exception as error:
            self._on_event("failed", {"error": error})
            return
        self.ready.set()
        self._on_event("ready", {"seconds": time.monotonic() - begun})
        while (jobs := self._turn()) is not None:
            self._answer(jobs)
        for one in filter(None, (self._source, self._next)):
            one.close()

    def _turn(self) -> list[Job] | None:
        """Wait for something to do; return what is answered next, perhaps nothing, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._next or self._ended)
            if GATHER and self._waiting and not any(job.streamed for job in self._waiting):
                self._changed.wait_for(lambda: len(self._waiting) >= self._source.batch or self._ended, GATHER)
            taken, self._next = self._next, None
            jobs = self._due()
            ended = self._ended and not jobs and not self._waiting
        if taken is not None:
            former, self._source = self._source, taken
            former.close()
        return None if ended else jobs

    def _due(self) -> list[Job]:
        waiting = [job for job in self._waiting if not job.left.is_set()]
        streams = [job for job in waiting if job.streamed]
        wholes = [job for job in waiting if not job.streamed]
        source = self._next or self._source
        due = streams[:1] if streams and (self._streams_turn or not wholes) else wholes[: source.batch]
        self._streams_turn = not (due and due[0].streamed)
        self._waiting = deque(job for job in waiting if job not in due)
        return due

    def _answer(self, jobs: list[Job]) -> None:
        started, source = time.monotonic(), self._source
        if len(jobs) > 1:
            try:
                answers = source.answerer.ask_all(
                    [job.question for job in jobs], searched=[job.searched for job in jobs]
                )
            except Exception as error:  # one of them may be at fault, and no other shall suffer for it
                if not isinstance(error, RaftError):
                    self._on_event("stumbled", {"error": error})
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    job.tell("answered", (answer, source, started - job.came))
                return
        for job in jobs:
            self._answer_one(job, source)

    def _answer_one(self, job: Job, source: Source) -> None:
        started = time.monotonic()

        def heard(piece: str) -> None:
            if job.left.is_set():
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
            job.tell("answered", (answer, source, started - job.came))
