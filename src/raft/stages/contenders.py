"""Asking the contenders of a benchmark, and how long they take."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from raft.answers import Answer
from raft.arms import Arm
from raft.prompts import Prompt
from raft.protocols import Completion, Failure, Generator, Message, Request, Scorer
from raft.raftformat import up_to_answer


@dataclass(frozen=True)
class Contender:
    """An arm with what it works with.

    Attributes:
        arm: its description.
        generator: its model; what it said before is replayed.
        prompt: its prompt.
        exemplars: turns of worked examples.
        scorer: gives log-likelihoods; None where the model has none.
        fresh: the same model asked one question at a time, with nothing replayed; None where it is not timed.
    """

    arm: Arm
    generator: Generator
    prompt: Prompt
    exemplars: tuple[Message, ...] = ()
    scorer: Scorer | None = None
    fresh: Generator | None = None


@dataclass
class Stopwatch:
    """A generator that notes how long those replies took that were not replayed.

    Attributes:
        generator: what is asked.
        count: replies that were written now.
        seconds: what they took, each by itself.
        elapsed: what went by while they were waited for; less than `seconds` where several were written at a time.
    """

    generator: Generator
    count: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        """Take over the generator's identity."""
        self.identity = self.generator.identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield what the generator yields."""
        outcomes = iter(self.generator.complete(requests))
        while True:
            begun = time.monotonic()
            outcome = next(outcomes, None)
            self.elapsed += time.monotonic() - begun
            if outcome is None:
                return
            if isinstance(outcome, Completion) and not outcome.replayed:
                self.count += 1
                self.seconds += outcome.seconds
            yield outcome

    def rate(self) -> float | None:
        """Return questions a second, or None when every reply was replayed.

        Loading a model counts in `elapsed` alone, so the smaller of the two times is that of the replies.
        """
        taken = min(self.seconds, self.elapsed)
        return self.count / taken if self.count and taken else None


def beginnings(answers: Sequence[Answer], chats: Sequence[Sequence[Message]], scorer: Scorer) -> list[str]:
    """Return for each answer the text that a label of a closed set is chosen to follow.

    Of a reply that kept the form, the label takes the answer's place, behind the quotes that stand before it; else the
    label is the whole reply.

    Args:
        answers: what was said freely.
        chats: the turns that each was asked with.
        scorer: renders them.
    """
    return [
        scorer.render(chat) + (up_to_answer(answer.raw) if answer.followed else "")
        for answer, chat in zip(answers, chats, strict=True)
    ]


def labelled(answers: Sequence[Answer], labels: Sequence[str]) -> list[Answer]:
    """Return the answers with their text replaced by the labels that were chosen for them."""
    return [replace(answer, text=label, abstained=False) for answer, label in zip(answers, labels, strict=True)]
