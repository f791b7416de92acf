"""Tuning: training rows, and some general chats, make an adapter with its card."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from raft import adapters, modelcard, tables
from raft.errors import RaftError
from raft.protocols import Message, Trainer, TrainingPlan
from raft.rehearsal import mix

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
    out: Path,
    checkpoints: Path,
    facts: Mapping[str, Any],
    listen: Callable[[Mapping[str, float]], None],
) -> dict[str, Any]:
    """Train an adapter on the `train` rows, choose its best step by the `valid` rows, and write its card.

    Args:
        examples: a frame of `tables.EXAMPLES`.
        trainer: trains.
        plan: how.
        general: chats about anything, for rehearsal.
        share: share (0 to less than 1) of the mixture that they make up.
        seed: seed of their choice.
        out: an empty folder for the adapter, its card and its README.
        checkpoints: a folder of this training's own; an interrupted one goes on from there.
        facts: at least `modelcard.FACTS`, but `adapter` may be missing: then it is the name of `out`.
        listen: told the trainer's progress.

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
    mixed = mix(rows, general, share, seed)
    report = trainer.train(mixed, valid, plan, out=out, checkpoints=checkpoints, listen=listen)
    adapters.check_weights(out)
    card = modelcard.card(
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
    """Check that the rows may be learned from, and that none would lose its answer.

    Raises:
        RaftError: they may not.
    """
    splits = Counter(examples["split"].to_list())
    held_out = {split: count for split, count in splits.items() if split not in ("train", "valid")}
    if held_out:
        raise RaftError(
            f"Rows that are held out are among the examples: {held_out}.",
            where="examples.parquet",
            hint="delete examples.parquet and run the same raft build again",
        )
    if not splits["train"]:
        raise RaftError(
            "There is no row to train on.",
            where="examples.parquet",
            hint="raft show RUN cleaned --only dropped   (says why questions were dropped), then raft build with more "
            "--questions-per-chunk",
        )
    rows, valid = (examples.filter(pl.col("split") == split) for split in ("train", "valid"))
    both = valid.join(rows, on="question_id", how="semi")
    if both.height:
        raise RaftError(
            "A question is among the rows to train on and to validate with, so that validation would measure memory.",
            where=f"examples.parquet, question {both['question_id'][0]}",
            hint="delete examples.parquet and run the same raft build again",
        )
    long = examples.filter(pl.col("tokens") > plan.max_tokens)
    if long.height:
        longest = int(long["tokens"].max())  # type: ignore[arg-type]
        raise RaftError(
            f"{long.height} rows are longer than {plan.max_tokens} tokens, the longest has {longest}: they would lose "
            "their answers.",
            where=f"examples.parquet, question {long['question_id'][0]}",
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
