"""What a processor computes models faster in: bfloat16, which not every one has products of, or float32.

    python benchmarks/processors.py --run runs/demo [--model NAME] [--replies 16] [--rows 8]

The same weights, rounded to bfloat16, answer questions of a run's training rows (a batch, and one alone), and
learn from such rows (one optimiser step), in both types in turn and in one process. Prints a Markdown table with
medians, and which of the two raft takes here.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raft.backends.local.generate import LocalModel
from raft.backends.local.weights import Weights, computed_in
from raft.backends.trainers import sft
from raft.protocols import Request, TrainingPlan


def answered(local: LocalModel, chats: list[Any], tokens: int) -> float:
    """Return the seconds that answering all chats takes; replies end where the model ends them."""
    calls = [Request(tuple(chat[:-1]), tokens) for chat in chats]
    begun = time.perf_counter()
    for _ in local.answer(calls, [True] * len(calls)):
        pass
    return time.perf_counter() - begun


def learned(name: str, rows: list[Any], kind: torch.dtype) -> float:
    """Return the seconds of one optimiser step over all rows."""

    def load(plan: TrainingPlan) -> tuple[Any, Any]:
        model, tokenizer = sft.load(plan)
        return model.to(kind), tokenizer

    plan = TrainingPlan(
        name,
        rank=16,
        alpha=32,
        learning_rate=2e-4,
        epochs=1.0,
        batch=len(rows),
        evaluations=1,
        patience=1,
        checkpoint_minutes=60,
        bits=16,
        max_tokens=1 << 20,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as home:
        out, checkpoints = Path(home) / "adapter", Path(home) / "checkpoints"
        report = sft.run(load, rows, [], plan, out=out, checkpoints=checkpoints, on_event=print, backend="peft")
    return report.seconds


def main() -> None:
    """Measure both types in turn, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--run", type=Path, required=True, help="a run directory with train.jsonl")
    parser.add_argument("--replies", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="longest reply")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    lines = (args.run / "train.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(lines[n * len(lines) // args.replies])["messages"] for n in range(args.replies)]
    weights = Weights(args.model)
    model = weights.use(None)[0]
    local = LocalModel(args.model, batch=args.replies, weights=weights)
    ways: dict[str, Callable[[torch.dtype], float]] = {
        f"{args.replies} answers together": lambda _: answered(local, chats, args.tokens),
        "one answer": lambda _: answered(local, chats[:1], args.tokens),
        f"a step of training, {args.rows} rows": lambda kind: learned(args.model, chats[: args.rows], kind),
    }
    print("| | bfloat16 | float32 | float32 is faster by |\n| --- | ---: | ---: | ---: |")
    for name, way in ways.items():
        taken: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
        for _ in range(args.rounds):
            for kind, seconds in taken.items():
                model.to(kind)
                local = LocalModel(args.model, batch=args.replies, weights=weights)  # a beginning read before is anew
                seconds.append(way(kind))
        half, full = (statistics.median(seconds) for seconds in taken.values())
        print(f"| {name} | {half:.2f} s | {full:.2f} s | {half / full:.1f} times |", flush=True)
    print(f"\nraft computes in {computed_in()} here")


if __name__ == "__main__":
    main()
