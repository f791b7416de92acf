"""Tuning: training rows, and some general chats, make an adapter with its card."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from raft.errors import RaftError, UsageError
from raft.protocols import REHEARSED, UNFINISHED, Completion, Failure, Message, Request, Trainer, TrainingPlan
from raft.store import adapters, tables
from raft.store.artifacts import parse_objects, read_objects

_HINT = 'a line reads {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_ROLES = ("system", "user", "assistant")

OWN_TOKENS = 128
"""Most tokens of a student's own reply to a general chat."""
Chat = list[Message]
Ask = Callable[[Sequence[Request]], Iterable[Completion | Failure]]


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


def _general_chats(lines: Iterable[tuple[str, Mapping[str, Any]]], source: object) -> list[Chat]:
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
    rows: Sequence[Chat], general: Sequence[Chat], share: float, seed: int, retold: Callable[[list[Chat]], Any] = list
) -> list[Chat]:
    """Return the rows, each once, and some general ones among them, in an order drawn from the seed.

    The share of general chats in the result, from 0 to less than 1, is kept to the nearest whole chat; each of them is
    taken once before any is taken twice, and so on. `retold` is given those that are taken, each once, and returns what
    stands for each: an empty chat is left out.

    Raises:
        UsageError: the share is out of range, or general chats are wanted and there are none.
    """
    if not 0 <= share < 1:
        raise UsageError(f"The share of general rows is {share}; it is from 0 to less than 1.", hint="0.1 is a tenth")
    wanted = round(len(rows) * share / (1 - share))
    if wanted and not general:
        raise UsageError("There are no general rows to mix in.", hint=_HINT)
    draw = random.Random(f"{seed}:rehearsal")  # noqa: S311
    drawn: list[int] = []
    while len(drawn) < wanted:
        drawn += draw.sample(range(len(general)), min(len(general), wanted - len(drawn)))
    numbers = sorted(set(drawn))
    found = dict(zip(numbers, retold([general[number] for number in numbers]), strict=True))
    mixed = [*rows, *(found[number] for number in drawn)]
    draw.shuffle(mixed)
    return [list(chat) for chat in mixed if chat]


def own_reply(chat: Chat, outcome: Completion | Failure) -> Chat:
    """Return a chat with what the untuned student replied in place of its last turn, or an empty one for no reply."""
    if isinstance(outcome, Failure) or not outcome.text.strip():
        return []
    cut = {UNFINISHED: "yes"} if outcome.finish_reason == "length" else {}
    return [*chat[:-1], {"role": "assistant", "content": outcome.text.strip(), **cut}]


FEW_ROWS = 200
"""Under so many training rows, tuning rarely beats plain retrieval."""


def tune(
    examples: pl.DataFrame,
    trainer: Trainer,
    plan: TrainingPlan,
    *,
    general: Sequence[Chat],
    share: float,
    seed: int,
    ask: Ask | None = None,
    out: Path,
    checkpoints: Path,
    facts: Mapping[str, Any],
    on_event: Callable[[Mapping[str, float]], None],
) -> dict[str, Any]:
    """Train an adapter on the `train` rows of `tables.EXAMPLES`, choose its best step by `valid`, and write its card.

    `mix` takes a `share` (0 to less than 1) of the `general` chats by the seed, with the student's replies where it can
    be asked. `out` is an empty folder; `checkpoints` is this training's own, and an interrupted one goes on from there.
    `facts` are at least `adapters.FACTS`, but `adapter` may be missing: then it is the name of `out`.

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

    def retold(chats: list[Chat]) -> list[Chat]:
        if ask:
            replies = ask([Request(tuple(chat[:-1]), OWN_TOKENS) for chat in chats])
            chats = [own_reply(*one) for one in zip(chats, replies, strict=True)]
        return [[*chat[:-1], {**chat[-1], REHEARSED: "yes"}] if chat and plan.kl else chat for chat in chats]

    mixed = mix(rows, general, share, seed, retold)
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
            hint="raft show RUN cleaned --only dropped   (says why questions were dropped; then build with more "
            "--questions-per-chunk, or a larger questions.keep)",
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
