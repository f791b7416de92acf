"""Training rows in the form that a trainer or a fine-tuning service takes."""

import shutil
from pathlib import Path

import polars as pl
import yaml

from raft import artifacts
from raft.errors import UsageError
from raft.stages.examples import chat_lines

FORMATS = ("openai", "axolotl", "hf")


def export(examples: pl.DataFrame, student: str, *, format: str, out: Path) -> Path:
    """Write examples to a folder and return it.

    Args:
        examples: a frame of `tables.EXAMPLES`.
        student: the model that will be tuned, for axolotl's YAML.
        format: one of `FORMATS`.
        out: the folder; files of an earlier export in it are replaced.

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
            artifacts.atomically(out / "axolotl.yaml", _axolotl(student, examples))
    except OSError as error:
        raise UsageError(
            f"The folder cannot be written to: {error.strerror}.",
            where=error.filename or out,
            hint="choose another folder with --out",
        ) from None
    return out


def _datasets(examples: pl.DataFrame, out: Path) -> None:
    import datasets  # noqa: PLC0415  seconds to import, needed here alone

    columns = ["question_id", "messages", "golden_chunk_ids", "document_chunk_ids"]
    parts = {
        split: datasets.Dataset.from_list(examples.filter(pl.col("split") == split).select(columns).to_dicts())
        for split in ("train", "valid")
        if (examples["split"] == split).any()
    }
    draft = out / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    datasets.DatasetDict(parts).save_to_disk(str(draft))
    for split in ("train", "valid"):
        shutil.rmtree(out / split, ignore_errors=True)
    for made in draft.iterdir():
        made.replace(out / made.name)
    draft.rmdir()


def _axolotl(student: str, examples: pl.DataFrame) -> str:
    longest = int(examples["tokens"].max() or 0)  # type: ignore[arg-type]
    data = {"ds_type": "json", "type": "chat_template", "field_messages": "messages", "roles_to_train": ["assistant"]}
    measured = bool((examples["split"] == "valid").any())
    settings = {
        "base_model": student,
        "datasets": [{"path": "train.jsonl", **data}],
        "test_datasets": [{"path": "valid.jsonl", "split": "train", **data}] if measured else None,
        "sequence_len": max(512, -(-longest // 256) * 256),
        "train_on_inputs": False,
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "learning_rate": 2e-4,
        "num_epochs": 3,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "bf16": "auto",
        "output_dir": "adapter",
    }
    return "# axolotl train axolotl.yaml\n" + yaml.safe_dump(
        {name: value for name, value in settings.items() if value is not None}, sort_keys=False
    )
