"""The story of a training: the rows of a build, and some general chats, to an adapter under its own name.

An adapter's id says what it was made of, so that equal trainings meet in one folder and different ones never do.
Draft and checkpoints lie in the step's scratch folder: a training that was killed goes on when it is started again.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import polars as pl

from raft.errors import DamagedArtifact, RaftError, typed
from raft.protocols import OnEvent, Trainer, TrainingPlan
from raft.store import adapters, artifacts
from raft.store.again import again
from raft.store.artifacts import Output
from raft.store.run import Run, Step
from raft.training.tune import OWN_TOKENS, Ask, Chat, tune

LEARNED = "learned.jsonl"
"""Beside an adapter: the questions that it was trained on."""

_VERSION = 1
_NO_MATTER = ("student", "checkpoint_minutes")
"""Parts of a plan that do not change an adapter: the name of its base (the identity counts), when work is saved."""

_NEWER = (("layers", "all"), ("kl", 0.0))
"""Parts of a plan that earlier rafts did not have, with what they did: as that, they are no part of an adapter's id."""


@dataclass(frozen=True)
class Replay:
    """General chats, mixed in as a `share` (0 to less than 1) drawn by `seed`; with `ask` the student replies anew."""

    chats: Sequence[Chat]
    share: float
    seed: int
    ask: Ask | None = None


def train_adapter(
    run: Run, plan: TrainingPlan, trainer: Trainer, *, rehearsal: Replay, facts: Mapping[str, Any], on_event: OnEvent
) -> dict[str, Any]:
    """Make an adapter unless it is there already, make it the current one, and return its card.

    The run directory is held for writing. `facts` are for the card: at least `base`, `base_identity`, `prompt_digest`
    and `style`. `on_event` is told "rows" before the training, and "training" while it goes on.

    Raises:
        RaftError: there are no examples, or the training failed; its checkpoints are kept.
    """
    data = examples_digest(run)
    made_of = {
        "plan": dict(part for part in asdict(plan).items() if part[0] not in _NO_MATTER and part not in _NEWER),
        "trainer": trainer.identity,
        "student": facts["base_identity"],
        "examples": data,
        "rehearsal": _digest(rehearsal.chats) if rehearsal.share else None,
        "share": rehearsal.share,
        "version": _VERSION,
        **({"own replies": OWN_TOKENS} if rehearsal.ask and rehearsal.share else {}),
    }
    name = _digest(made_of)[:12]
    folder = run.folder / "adapters" / name

    def work(step: Step) -> Mapping[str, Output]:
        draft = step.scratch / "adapter"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        examples = run.read("examples.parquet")
        learned = _learned(run, examples)
        on_event("rows", _announced(run, examples, plan, rehearsal))
        card = tune(
            examples,
            trainer,
            plan,
            general=rehearsal.chats,
            share=rehearsal.share,
            seed=rehearsal.seed,
            ask=rehearsal.ask,
            out=draft,
            checkpoints=step.scratch / "checkpoints",
            facts={**facts, "adapter": name, "data_digest": data, "questions": len(learned)},
            on_event=partial(on_event, "training"),
        )
        artifacts.write(draft / LEARNED, learned)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        draft.replace(folder)
        step.stats.update(rows=card["rows"], seconds=card["seconds"], **card["notes"])
        return {}

    run.step(
        f"adapter-{name}",
        work,
        version=_VERSION,
        outputs={f"adapters/{name}": partial(adapters.digest, folder)},
        inputs=["examples.parquet"],
        using=made_of,
        settings={"student": plan.student},
    )
    adapters.set_current(run.folder, name)
    return adapters.read_card(folder)


def examples_digest(run: Run) -> str:
    """Return the digest of the run's training rows.

    Raises:
        RaftError: there are none yet.
        RaftError: somebody has edited `train.jsonl` or `valid.jsonl`, which no training reads.
        DamagedArtifact: they are not what the build made.
    """
    line = run.manifest["steps"].get("examples")
    if line is None:
        raise RaftError("The run has no training rows yet.", where=run.folder, hint=again(run.folder))
    path, known = run.folder / "examples.parquet", str(line["artifacts"]["examples.parquet"]["digest"])
    if not path.is_file():
        raise artifacts.missing(path)
    if artifacts.digest(path) != known:
        raise DamagedArtifact(
            "The training rows are not those that the build made.",
            where=path,
            hint=again(run.folder, remark="builds them anew from the ledger"),
        )
    for name in ("train.jsonl", "valid.jsonl"):
        if (run.folder / name).is_file() and artifacts.digest(run.folder / name) != line["artifacts"][name]["digest"]:
            raise RaftError(
                f"{name} is not as the build made it, and a training does not read it: what was changed would be lost.",
                where=run.folder / name,
                hint=f"raft review {typed(run.folder)}   (changes made there count; to give these up, delete the file)",
            )
    run.require("examples")
    return known


def _announced(run: Run, examples: pl.DataFrame, plan: TrainingPlan, rehearsal: Replay) -> dict[str, Any]:
    rows = examples.filter(pl.col("split") == "train")
    return {
        "rows": rows.height,
        "valid": examples.height - rows.height,
        "shortened": len(run.manifest["steps"]["examples"]["notes"].get("shortened") or {}),
        "tokens": int(rows["tokens"].sum()),
        "epochs": plan.epochs,
        "batch": plan.batch,
        "rehearsal": rehearsal.share,
    }


def _learned(run: Run, examples: pl.DataFrame) -> list[str]:
    asked = dict(run.read("cleaned.parquet").select("question_id", "question").iter_rows())
    names = examples["question_id"].unique(maintain_order=True)
    rows = [{"question_id": name, "question": asked[name]} for name in names if name in asked]
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
