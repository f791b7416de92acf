"""How many replies a second a model on this machine writes: raft's way, and transformers' as it comes.

    python benchmarks/generation.py --run runs/demo --replies 32 --tokens 48
    python benchmarks/generation.py --run runs/demo --replies 64 --tokens 96 --batch 32 --ending --adapter FOLDER

Both answer the same questions of a run's training rows in batches of equal size, in bfloat16, in turn and in one
process. Every reply is written to its full length, so that both do the same work; with `--ending` it ends where the
model ends it, as in use. Prints a Markdown table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raft.backends.local.generate import LocalModel, render
from raft.backends.local.weights import Weights
from raft.protocols import Request


def ours(model: LocalModel, chats: Sequence[Any], tokens: int) -> None:
    """Answer all chats as raft does."""
    calls = [Request(tuple(chat), tokens) for chat in chats]
    for _ in model.answer(calls, [True] * len(calls)):
        pass


def plain(weights: Weights, adapter: Path | None, chats: Sequence[Any], tokens: int, batch: int) -> None:
    """Answer all chats with `generate` on batches padded on the left."""
    model, tokenizer = weights.use(adapter)
    kept, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    try:
        for begin in range(0, len(chats), batch):
            texts = [render(tokenizer, chat) for chat in chats[begin : begin + batch]]
            inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
            with torch.inference_mode():
                model.generate(
                    **inputs.to(model.device),
                    max_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
    finally:
        model.config._attn_implementation = kept


def main() -> None:
    """Measure both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--run", type=Path, required=True, help="a run directory with train.jsonl")
    parser.add_argument("--replies", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapter", type=Path, help="the folder of an adapter")
    parser.add_argument("--ending", action="store_true", help="let replies end")
    args = parser.parse_args()
    lines = (args.run / "train.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(lines[n * len(lines) // args.replies])["messages"][:-1] for n in range(args.replies)]
    weights = Weights(args.model)
    if not args.ending:
        weights.use(args.adapter)[0].generation_config.eos_token_id = None
    local = LocalModel(args.model, batch=args.batch, adapter=args.adapter, weights=weights)
    ways = {
        "transformers' generate, padded on the left": lambda: plain(
            weights, args.adapter, chats, args.tokens, args.batch
        ),
        "raft": lambda: ours(local, chats, args.tokens),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):  # the first warms up
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - begun)
    print("| generation | replies a second (least to most) | raft is faster by |\n| --- | --- | --- |")
    for name, seconds in taken.items():
        rates = sorted(args.replies / one for one in seconds)
        ratio = statistics.median(theirs / mine for theirs, mine in zip(seconds, taken["raft"], strict=True))
        print(f"| {name} | {statistics.median(rates):.2f} ({rates[0]:.2f} to {rates[-1]:.2f}) | {ratio:.2f} times |")


if __name__ == "__main__":
    main()
