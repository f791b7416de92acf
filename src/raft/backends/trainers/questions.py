"""Tunes what embeds questions, so that they lie near the chunks that answer them; these keep their vectors."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raft.backends.embedding import SentenceEmbedder
from raft.errors import RaftError

IDENTITY = "questions:1"
"""The number is raised when the same pairs come to make another embedder."""
SCALE = 20.0
"""Cosines are multiplied by it before the softmax (sentence-transformers' default; SimCSE's temperature of 0.05, arXiv
2104.08821)."""
LEARNING_RATE, EPOCHS, BATCH = 5e-5, 2, 32
"""Chosen on XQuAD's `dev` (benchmarks/results/2026-11-29-retriever.md)."""
_DECAY, _WARMING, _CLIPPED = 0.01, 0.1, 1.0


@dataclass(frozen=True)
class Pairs:
    """Questions to learn from, with what they are compared with.

    Attributes:
        questions: their texts.
        chunks: unit vectors of chunks by the untuned embedder, float32 of shape (chunks, dimensions).
        golden: for each question the row of the chunk that bears its answer.
        barred: for each question the rows of chunks that it is not kept away from: they bear the answer too.
    """

    questions: Sequence[str]
    chunks: np.ndarray
    golden: Sequence[int]
    barred: Sequence[Sequence[int]]


def tune(
    name: str,
    pairs: Pairs,
    out: Path,
    *,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    epochs: int = EPOCHS,
) -> list[float]:
    """Write an embedder of questions into the folder `out`; return the mean loss of each epoch.

    All weights of the embedder are tuned, and its vectors of chunks are not made again: as in RAG (Lewis et al., arXiv
    2005.11401, section 2.4), an index of before serves the questions of after. The loss is multiple negatives ranking
    (Henderson et al., arXiv 1705.00652; InfoNCE of van den Oord et al., arXiv 1807.03748): the cross entropy of the
    golden chunk among all the others. Since these have their vectors already, a batch sees all of them, the hard ones
    too, and not those of its own questions alone.

    Args:
        name: the untuned embedder, a folder or a hub name.
        pairs: what it learns from.
        out: a folder that is not there yet.
        seed: of the order of the questions, and of dropout.
        learning_rate: the highest one; it rises over a tenth of the steps, and falls to zero.
        epochs: how often each question is seen.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        RaftError: the loss is no number.
    """
    model = SentenceEmbedder(name).load()
    losses = tune_model(model, pairs, seed=seed, learning_rate=learning_rate, epochs=epochs)
    model.save(str(out), create_model_card=False)
    for path in out.rglob("*.safetensors"):  # written for the owner alone; who may read the run may search with it
        path.chmod((out / "modules.json").stat().st_mode)
    return losses


def tune_model(model: Any, pairs: Pairs, *, seed: int, learning_rate: float, epochs: int) -> list[float]:
    """Tune a SentenceTransformer that is loaded, as `tune` does; return the mean loss of each epoch."""
    import torch

    chunks = torch.as_tensor(pairs.chunks, device=model.device)
    prompt = (model.prompts or {}).get(model.default_prompt_name or "", "")
    tuned = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(tuned, lr=learning_rate, weight_decay=_DECAY)
    steps = epochs * math.ceil(len(pairs.questions) / BATCH)
    warming = max(1, round(_WARMING * steps))
    order, drawn, step, losses = list(range(len(pairs.questions))), random.Random(seed), 0, []  # noqa: S311  no secret
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        for _ in range(epochs):
            drawn.shuffle(order)
            total = 0.0
            for begin in range(0, len(order), BATCH):
                batch = order[begin : begin + BATCH]
                loss = _loss(model, [prompt + pairs.questions[row] for row in batch], chunks, pairs, batch)
                step += 1
                if not math.isfinite(loss.item()):
                    hint = "build the run with another --embedder: the weights of this one take no training"
                    raise RaftError("The loss is no number.", where=f"step {step} of {steps}", hint=hint)
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate * min(step / warming, (steps - step + 1) / max(1, steps - warming), 1.0)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(tuned, _CLIPPED)
                optimiser.step()
                optimiser.zero_grad()
                total += loss.item() * len(batch)
            losses.append(total / len(order))
        model.eval()
    return losses


def _loss(model: Any, questions: Sequence[str], chunks: Any, pairs: Pairs, batch: Sequence[int]) -> Any:
    import torch

    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize  # as version 5 calls it
    inputs = {key: value.to(model.device) for key, value in read(list(questions)).items() if hasattr(value, "to")}
    asked = torch.nn.functional.normalize(model(inputs)["sentence_embedding"], dim=-1)
    scores = SCALE * asked @ chunks.T
    for row, place in enumerate(batch):
        scores[row, list(pairs.barred[place])] = -math.inf
    golden = torch.tensor([pairs.golden[place] for place in batch], device=chunks.device)
    return torch.nn.functional.cross_entropy(scores, golden)
