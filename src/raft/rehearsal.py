"""Rehearsal: general instructions among the rows of a training, so that a tuned model keeps what it could do before.

A network that learns new rows alone forgets old ones, and forgets less when some old ones, or rows like them, are
learned along (Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal", Connection Science 7(2), 1995); for
instruction-tuned language models 1 percent of the earlier data kept most of the earlier skills (Scialom et al., arXiv
2205.12393). `rehearsal.jsonl` holds such rows, written for this package; they leave out school science, which ARC asks
about, so that a measure of general ability is not learned by heart.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from raft.errors import UsageError
from raft.jsonlines import parse_objects, read_objects
from raft.protocols import Message

_HINT = 'a line reads {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_ROLES = ("system", "user", "assistant")


def load(path: Path | None) -> list[list[Message]]:
    """Return general chats: those of a file of JSON lines, or for None the package's own.

    Each line has `messages`, turns of the roles system, user and assistant, of which the last is the assistant's. Other
    keys of a line, and of a turn, are left out.

    Raises:
        UsageError: the file cannot be read, holds no chat, or a line is none.
    """
    if path is None:
        own = files("raft") / "rehearsal.jsonl"
        return _general_chats(parse_objects(own.read_text(encoding="utf-8"), "rehearsal.jsonl", _HINT), "rehearsal.jsonl")
    return _general_chats(read_objects(path, _HINT), path)


def _general_chats(lines: Iterable[tuple[str, Mapping[str, Any]]], source: object) -> list[list[Message]]:
    chats = []
    for where, line in lines:
        turns = line.get("messages")
        if not isinstance(turns, list) or not all(map(_is_turn, turns)):
            raise UsageError("The line has no messages with role and content.", where=where, hint=_HINT)
        roles = [turn["role"] for turn in turns]
        if roles[-1:] != ["assistant"] or "user" not in roles:
            raise UsageError("The chat does not end with the assistant's reply to a user.", where=where, hint=_HINT)
        chats.append([{"role": turn["role"], "content": turn["content"]} for turn in turns])
    if not chats:
        raise UsageError("There are no chats.", where=source, hint=_HINT)
    return chats


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
        return False
    return isinstance(turn.get("content"), str) and bool(turn["content"].strip())


def mix(
    rows: Sequence[Sequence[Message]], general: Sequence[Sequence[Message]], share: float, seed: int
) -> list[list[Message]]:
    """Return the rows and some general ones among them, in an order drawn from the seed.

    Args:
        rows: chats of the domain; each stands in the result once.
        general: chats as `load` returns them. Each is taken once before any is taken twice, and so on.
        share: share of general chats in the result, from 0 to less than 1, kept to the nearest whole chat.
        seed: seed of the choice and of the order.

    Raises:
        UsageError: the share is out of range, or general chats are wanted and there are none.
    """
    if not 0 <= share < 1:
        raise UsageError(f"The share of general rows is {share}; it is from 0 to less than 1.", hint="0.1 is a tenth")
    wanted = round(len(rows) * share / (1 - share))
    if wanted and not general:
        raise UsageError("There are no general rows to mix in.", hint=_HINT)
    draw = random.Random(f"{seed}:rehearsal")  # noqa: S311
    drawn: list[Sequence[Message]] = []
    while len(drawn) < wanted:
        drawn += draw.sample(general, min(len(general), wanted - len(drawn)))
    mixed = [*rows, *drawn]
    draw.shuffle(mixed)
    return [list(chat) for chat in mixed]
