"""Who takes part in a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

from raft.protocols import Generator, Scorer, Tokenizer


@dataclass(frozen=True)
class Opened:
    """A model, ready to be asked.

    Attributes:
        name: its name.
        adapter: id of its adapter, None for the model as it is.
        generator: asks it in batches, through the ledger.
        fresh: asks it one question at a time, nothing replayed.
        scorer: its likelihoods; None where it has none.
        room: its tokenizer, and how many tokens a prompt of it may have; None where the model doesn't tell.
    """

    name: str
    adapter: str | None
    generator: Generator
    fresh: Generator | None
    scorer: Scorer | None
    room: tuple[Tokenizer, int] | None = None


@dataclass(frozen=True)
class Field:
    """Who takes part.

    Attributes:
        base: the student as it is.
        tuned: with its adapter; None before the first training.
        previous: with the best adapter before this one, or None.
        other: with an adapter that was tuned on another corpus, or None.
        larger: larger models, untuned.
    """

    base: Opened
    tuned: Opened | None = None
    previous: Opened | None = None
    other: Opened | None = None
    larger: Sequence[Opened] = ()

    def rooms(self) -> list[tuple[Tokenizer, int]]:
        """Return the rooms of those that tell; what takes an adapter has the room of its base."""
        return [one.room for one in (self.base, *self.larger) if one.room is not None]
