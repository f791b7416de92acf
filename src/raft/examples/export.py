"""Training rows in the form that a trainer or a fine-tuning service takes."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import yaml

from raft.errors import UsageError, unwritable
from raft.settings import Settings
from raft.settings.sections import LAYERS
from raft.store import artifacts

FORMATS = ("openai", "axolotl", "hf")


def chat_lines(examples: pl.DataFrame, split: str) -> Iterator[str]:
    """Yield a split ("train", "valid") of `tables.EXAMPLES` as JSON `{"messages": [...]}`, without line ends."""
    for messages in examples.filter(pl.col("split") == split)["messages"].to_list():
        yield json.dumps({"messages": messages}, ensure_ascii=False)


def export(examples: pl.DataFrame, settings: Settings, *, format: str, out: Path) -> Path:
    """Write examples (a frame of `tables.EXAMPLES`) to a folder and return it.

    `format` is one of `FORMATS`; axolotl's YAML follows the run's settings. Files of an earlier export are replaced.

    Raises:
        UsageError: the format is unknown, or the folder cannot be written to.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}; there are {', '.join(FORMATS)}.", hint="format='openai'")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if format == "hf":
            _datasets(examples, out)
            return out
        for split in ("train", "valid"):
            artifacts.write(out / f"{split}.jsonl", chat_lines(examples, split))
        if format == "axolotl":
            artifacts.atomically(out / "axolotl.yaml", _axolotl(settings, examples))
    except OSError as error:
        raise unwritable("The folder", error, out) from None
    return out


def _datasets(examples: pl.DataFrame, out: Path) -> None:
    import datasets  # noqa: PLC0415  seconds to import, needed here alone

    silenced = not sys.stderr.isatty() and datasets.is_progress_bar_enabled()
    if silenced:
        datasets.disable_progress_bars()
    columns = ["question_id", "messages", "golden_chunk_ids", "document_chunk_ids"]
    parts = {
        split: datasets.Dataset.from_list(examples.filter(pl.col("split") == split).select(columns).to_dicts())
        for split in ("train", "valid")
        if (examples["split"] == split).any()
    }
    draft = out / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        datasets.DatasetDict(parts).save_to_disk(str(draft))
    finally:
        if silenced:
            datasets.enable_progress_bars()
    for split in ("train", "valid"):
        shutil.rmtree(out / split, ignore_errors=True)
    for made in draft.iterdir():
        made.replace(out / made.name)
    draft.rmdir()


def _axolotl(chosen: Settings, examples: pl.DataFrame) -> str:
    plan, measured = chosen.training, bool((examples["split"] == "valid").any())
    longest = int(examples["tokens"].max() or 0)  # type: ignore[arg-type]
    data = {"ds_type": "json", "type": "chat_template", "field_messages": "messages", "roles_to_train": ["assistant"]}
    settings = {
        "base_model": chosen.student,
        "datasets": [{"path": "train.jsonl", **data}],
        "test_datasets": [{"path": "valid.jsonl", "split": "train", **data}] if measured else None,
        "sequence_len": max(512, -(-longest // 256) * 256),
        "train_on_inputs": False,
        "adapter": "lora" if plan.bits == 16 else "qlora",
        "load_in_4bit": plan.bits == 4 or None,
        "lora_r": plan.rank,
        "lora_alpha": plan.alpha,
        "lora_dropout": 0.0,
        "lora_target_linear": plan.layers == "all" or None,
        "lora_target_modules": None if plan.layers == "all" else list(LAYERS[plan.layers]),
        "learning_rate": plan.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.05,
        "weight_decay": 0.0,
        "num_epochs": plan.epochs,
        "evals_per_epoch": plan.evaluations if measured else None,
        "saves_per_epoch": plan.evaluations if measured else None,
        "early_stopping_patience": plan.patience if measured else None,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": plan.batch,
        "seed": chosen.seed,
        "bf16": "auto",
        "output_dir": "adapter",
    }
    return "# axolotl train axolotl.yaml\n" + yaml.safe_dump(
        {name: value for name, value in settings.items() if value is not None}, sort_keys=False
    )
