"""How many tokens a second are learned from: raft's training, a plain bfloat16 loop, and TRL as it comes.

    python benchmarks/training.py --student HuggingFaceTB/SmolLM2-135M-Instruct --run runs/demo --rows 8

The same rows (documents, a question and its answer) are read by each in turn, for some rounds in one process; a round
is one optimiser step over all of them. Without `--run` the rows are made of the documents in `examples/handbook`.
Prints a Markdown table with medians; times are of this machine, ratios of each round may be compared with others.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from raft.backends import hub
from raft.backends.trainers import sft
from raft.backends.trainers.sft import PeftTrainer
from raft.corpus.documents import find_sources, read_documents
from raft.protocols import Message, TrainingPlan

HANDBOOK = Path(__file__).parents[1] / "examples" / "handbook"
ROW_TOKENS, ANSWER_TOKENS, RANK, RATE = 1200, 60, 16, 2e-4
LONGEST = 1 << 20

Chat = list[Message]


def rows_of_run(run: Path, count: int) -> list[Chat]:
    """Return `count` training rows of a run directory, evenly spaced."""
    lines = (run / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[place * len(lines) // count])["messages"] for place in range(min(count, len(lines)))]


def synthetic_rows(tokenizer: Any, count: int) -> list[Chat]:
    """Return rows of about 1,200 tokens with answers of about 60, cut from the handbook; always the same."""
    sources, _ = find_sources([str(HANDBOOK)])
    text = "\n\n".join(text for frame in read_documents(sources, text_field="text") for text in frame["text"])
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    rows = []
    for number in range(count):
        length = ROW_TOKENS - ANSWER_TOKENS - 60 + (number % 5 - 2) * 60  # rows differ in length, as real ones do
        begin = number * 997 % max(1, len(ids) - length)
        piece = ids[begin : begin + length]
        place = number * 131 % max(1, len(piece) - ANSWER_TOKENS)
        rows.append(
            [
                {"role": "system", "content": "Answer the question from the numbered documents only."},
                {"role": "user", "content": f"{tokenizer.decode(piece)}\n\nQuestion: What is said in part {number}?"},
                {"role": "assistant", "content": tokenizer.decode(piece[place : place + ANSWER_TOKENS])},
            ]
        )
    return rows


def ours(student: str, rows: Sequence[Chat]) -> float:
    """Return the seconds of one step of raft's training."""
    plan = TrainingPlan(
        student=student,
        rank=RANK,
        alpha=2 * RANK,
        learning_rate=RATE,
        epochs=1,
        batch=len(rows),
        evaluations=1,
        patience=1,
        checkpoint_minutes=60,
        bits=16,
        max_tokens=LONGEST,
        seed=0,
    )
    told: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        report = PeftTrainer().train(
            rows, [], plan, out=home / "out", checkpoints=home / "c", on_event=lambda facts: told.append(dict(facts))
        )
    return report.tokens / told[0]["tokens_per_second"]


def plain_loop(student: str, rows: Sequence[Chat]) -> float:
    """Return the seconds of one step of what most scripts do: bfloat16, one row at a time, all logits."""
    tokenizer, model = loaded(student)
    tuned: Any = get_peft_model(model, lora()).train()
    encoded = [sft.encode(tokenizer, row, max_tokens=LONGEST) for row in rows]
    optimiser = torch.optim.AdamW([weight for weight in tuned.parameters() if weight.requires_grad], lr=RATE)
    begun = time.perf_counter()
    for row in encoded:
        ids, labels = (torch.tensor([row[name]], device=tuned.device) for name in ("input_ids", "labels"))
        loss = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss / len(rows)
        loss.backward()
        loss.item()
    optimiser.step()
    optimiser.zero_grad()
    return time.perf_counter() - begun


def trl_defaults(student: str, rows: Sequence[Chat]) -> float:
    """Return the seconds of one step of TRL's SFTTrainer with its defaults; nothing is cut off."""
    tokenizer, model = loaded(student)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_length=LONGEST,
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            per_device_train_batch_size=min(8, len(rows)),
            gradient_accumulation_steps=-(-len(rows) // 8),
            learning_rate=RATE,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer: Any = (SFTTrainer if torch.cuda.is_available() else WithoutTriton)(
            model=model,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows]),
            processing_class=tokenizer,
            peft_config=lora(),
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return clock.seconds


class WithoutTriton(SFTTrainer):
    """TRL's trainer with the loss of transformers' Trainer: its own needs a kernel that runs on cards alone."""

    compute_loss = transformers.Trainer.compute_loss


class Clock(transformers.TrainerCallback):
    """Adds up the seconds of optimiser steps."""

    seconds, begun = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self.begun


def loaded(student: str) -> tuple[Any, Any]:
    """Return tokenizer and model in bfloat16."""
    folder = hub.resolve(student)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu")


def lora() -> LoraConfig:
    """Return the adapter that all three train."""
    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")


CONTENDERS: dict[str, Callable[[str, Sequence[Chat]], float]] = {
    "TRL's defaults (float32 adapter, checkpointing, batches of 8)": trl_defaults,
    "plain bfloat16 loop (batches of 1, all logits)": plain_loop,
    "raft": ours,
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=Path, help="a built run, whose train.jsonl has the rows")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS), help="these alone")
    parser.add_argument("--threads", type=int, help="of torch (default: one for each core)")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(hub.resolve(given.student))
    rows = rows_of_run(given.run, given.rows) if given.run else synthetic_rows(tokenizer, given.rows)
    encoded = [sft.encode(tokenizer, row, max_tokens=LONGEST) for row in rows]
    tokens = sum(len(row["input_ids"]) for row in encoded)
    learned = sum(label != sft.NOT_LEARNED for row in encoded for label in row["labels"])
    contenders = {name: CONTENDERS[name] for name in given.only}
    for measure in contenders.values():  # kernels are chosen and memory is taken at the first step
        measure(given.student, rows[:1])
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, measure in contenders.items():
            gc.collect()
            speeds[name].append(tokens / measure(given.student, rows))
    print_table(
        given, speeds, f"{len(rows)} rows of {tokens / len(rows):,.0f} tokens, {learned / len(rows):,.0f} learned"
    )


def print_table(given: argparse.Namespace, speeds: dict[str, list[float]], rows: str) -> None:
    """Print what was measured, with the median of each round's ratio to raft's speed."""
    found = sft.versions("torch", "transformers", "peft", "trl")
    print(f"{datetime.now(UTC).date()}; {sft.hardware()}, {torch.get_num_threads()} threads")
    print(f"{given.student}; {rows}; median of {given.rounds} rounds in turn")
    print(", ".join(f"{name} {number}" for name, number in found.items()))
    if not torch.cuda.is_available():
        print("TRL's own loss needs Triton: without a card its trainer runs with the loss of transformers' Trainer.")
    print("\n| training | tokens a second (least to most) | raft is faster by |\n| --- | --- | --- |")
    best = list(speeds.values())[-1]
    for name, each in speeds.items():
        ratio = statistics.median(our / their for our, their in zip(best, each, strict=True))
        print(f"| {name} | {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}) | {ratio:.2f} times |")


if __name__ == "__main__":
    main()
