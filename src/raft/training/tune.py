"""Tuning: training rows, and some general chats, make an adapter with its card."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from raft.errors import RaftError, UsageError
from raft.protocols import UNFINISHED, Completion, Failure, Message, Request, Trainer, TrainingPlan
from raft.store import adapters, tables
from raft.store.artifacts import parse_objects, read_objects

_HINT = 'a line reads {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_ROLES = ("system", "user", "assistant")

OWN_TOKENS = 128
"""Most tokens of a student's own reply to a general chat."""
Ask = Callable[[Sequence[Request]], Iterable[Completion | Failure]]
"""Has the untuned student answer, in the order of the requests."""


def load(path: Path | None) -> list[list[Message]]:
    """Return general chats: those of a file of JSON lines, or for None the package's own.

    Each line has `messages`, turns of the roles system, user and assistant, of which the last is the assistant's. Other
    keys of a line, and of a turn, are left out.

    Raises:
        UsageError: the file cannot be read, holds no chat, or a line is none.
    """
    if path is None:
        own = files("raft.training") / "replay.jsonl"
        return _general_chats(parse_objects(own.read_text(encoding="utf-8"), "replay.jsonl", _HINT), "replay.jsonl")
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
    """Return the rows, each once, and some general ones among them, in an order drawn from the seed.

    The share of general chats in the result, from 0 to less than 1, is kept to the nearest whole chat; each of them is
    taken once before any is taken twice, and so on.

    Raises:
        UsageError: the share is out of range, or general chats are wanted and there are none.
    """
    order = _order(len(rows), len(general), share, seed)
    return [list(rows[place] if place < len(rows) else general[place - len(rows)]) for place in order]


def _order(rows: int, general: int, share: float, seed: int) -> list[int]:
    """Return the places of a mixture: those of rows, and behind them those of general chats."""
    if not 0 <= share < 1:
        raise UsageError(f"The share of general rows is {share}; it is from 0 to less than 1.", hint="0.1 is a tenth")
    wanted = round(rows * share / (1 - share))
    if wanted and not general:
        raise UsageError("There are no general rows to mix in.", hint=_HINT)
    draw = random.Random(f"{seed}:rehearsal")  # noqa: S311
    drawn: list[int] = []
    while len(drawn) < wanted:
        drawn += draw.sample(range(rows, rows + general), min(general, wanted - len(drawn)))
    mixed = [*range(rows), *drawn]
    draw.shuffle(mixed)
    return mixed


def own_replies(chats: Sequence[Sequence[Message]], ask: Ask) -> list[list[Message] | None]:
    """Return each chat with what the untuned student replies, in place of its last turn; None where it says nothing.

    The reply is the most likely one, of `OWN_TOKENS` at most; one that was cut off there is `UNFINISHED`. To rehearse
    it asks a model to stay what it is, where a file's replies may ask it to become another.
    """
    outcomes = ask([Request(tuple(chat[:-1]), max_tokens=OWN_TOKENS) for chat in chats])
    return [_replied(chat, outcome) for chat, outcome in zip(chats, outcomes, strict=True)]


def _replied(chat: Sequence[Message], outcome: Completion | Failure) -> list[Message] | None:
    if isinstance(outcome, Failure) or not outcome.text.strip():
        return None
    cut = {UNFINISHED: "yes"} if outcome.finish_reason == "length" else {}
    return [*chat[:-1], {"role": "assistant", "content": outcome.text.strip(), **cut}]


FEW_ROWS = 200
"""Under so many training rows, tuning rarely beats plain retrieval."""


def tune(
    examples: pl.DataFrame,
    trainer: Trainer,
    plan: TrainingPlan,
    *,
    general: Sequence[Sequence[Message]],
    share: float,
    seed: int,
    ask: Ask | None = None,
    out: Path,
    checkpoints: Path,
    facts: Mapping[str, Any],
    on_event: Callable[[Mapping[str, float]], None],
) -> dict[str, Any]:
    """Train an adapter on the `train` rows of `tables.EXAMPLES`, choose its best step by `valid`, and write its card.

    A `share` (0 to less than 1) of the `general` chats is mixed in as `mix` does by the seed; with `ask` they have
    `own_replies`, and those without one are left out. `out` is an empty folder; `checkpoints`
    is this training's own, and an interrupted one goes on from there. `facts` are at least `adapters.FACTS`, but
    `adapter` may be missing: then it is the name of `out`.

    Returns:
        The card. Its `notes` have `few_rows`, the number of training questions, where these are under `FEW_ROWS`;
        `no_valid` where nothing decides which step is best; and `not_learned` where no step was better on the
        validation rows than the first that was measured.

    Raises:
        RaftError: there is nothing to train on, a row is held out or too long, or the trainer failed.
    """
    tables.check(examples, tables.EXAMPLES, where="examples.parquet")
    _check(examples, plan)
    rows, valid = _chats(examples, "train"), _chats(examples, "valid")
    mixed = [chat for chat, _ in _mixed(rows, general, ask, _order(len(rows), len(general), share, seed))]
    report = trainer.train(mixed, valid, plan, out=out, checkpoints=checkpoints, on_event=on_event)
    adapters.check_weights(out)
    card = adapters.card(
        {"adapter": out.name, **facts},
        plan=plan,
        report=report,
        rows=len(rows),
        valid=len(valid),
        rehearsal=len(mixed) - len(rows),
        rehearsal_seed=seed,
        notes=_notes(examples.filter(pl.col("split") == "train")["question_id"].n_unique(), report.curve),
    )
    adapters.write_card(out, card)
    return card


def _mixed(
    rows: Sequence[list[Message]], general: Sequence[Sequence[Message]], ask: Ask | None, order: Sequence[int]
) -> list[tuple[list[Message], bool]]:
    """Return the chats of an order, and whether each is a general one."""
    drawn = sorted({place - len(rows) for place in order if place >= len(rows)})
    chats = [general[number] for number in drawn]
    replied = dict(zip(drawn, own_replies(chats, ask) if ask and chats else chats, strict=True))
    found = [(rows[place] if place < len(rows) else replied[place - len(rows)], place >= len(rows)) for place in order]
    return [(list(chat), is_general) for chat, is_general in found if chat]


def _chats(examples: pl.DataFrame, split: str) -> list[list[Message]]:
    chats: list[list[Message]] = examples.filter(pl.col("split") == split)["messages"].to_list()
    return chats


def _check(examples: pl.DataFrame, plan: TrainingPlan) -> None:
    """Raise RaftError where the rows may not be learned from, or one would lose its answer."""
    file, again = "examples.parquet", "delete examples.parquet and run the same raft build again"
    splits = Counter(examples["split"].to_list())
    held_out = {split: count for split, count in splits.items() if split not in ("train", "valid")}
    if held_out:
        raise RaftError(f"Rows that are held out are among the examples: {held_out}.", where=file, hint=again)
    if not splits["train"]:
        raise RaftError(
            "There is no row to train on.",
            where=file,
            hint="raft show RUN cleaned --only dropped   (says why questions were dropped), then raft build with more "
            "--questions-per-chunk",
        )
    rows, valid = (examples.filter(pl.col("split") == split) for split in ("train", "valid"))
    both = valid.join(rows, on="question_id", how="semi")
    if both.height:
        raise RaftError(
            "A question is among the rows to train on and to validate with, so that validation would measure memory.",
            where=f"{file}, question {both['question_id'][0]}",
            hint=again,
        )
    long = examples.filter(pl.col("tokens") > plan.max_tokens)
    if long.height:
        longest = int(long["tokens"].max())  # type: ignore[arg-type]
        raise RaftError(
            f"{long.height} rows are longer than {plan.max_tokens} tokens, the longest has {longest}: they would lose "
            "their answers.",
            where=f"{file}, question {long['question_id'][0]}",
            hint=f"raft build again with --set examples.max_tokens={plan.max_tokens}   (drops distractors until a row "
            "fits)",
        )


def _notes(questions: int, curve: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    losses = [point["valid_loss"] for point in curve if "valid_loss" in point]
    notes = {
        "few_rows": questions if questions < FEW_ROWS else None,
        "no_valid": not losses or None,
        "not_learned": (len(losses) > 1 and min(losses) >= losses[0]) or None,
    }
    return {name: note for name, note in notes.items() if note is not None}
