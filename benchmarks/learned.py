"""Learn the filter that raft brings from the labelled pairs, and measure it on corpora that it was not trained on.

RAFT_DATA=FOLDER python benchmarks/learned.py HuggingFaceTB/SmolLM2-135M-Instruct
RAFT_DATA=FOLDER python benchmarks/learned.py Qwen/Qwen2.5-Coder-1.5B-Instruct --scores affirmed --write FILE

Only pairs that the pipeline's rules kept, and that a model wrote. For each corpus the weights are learned from the
others; precision is the share of what is kept that is right, recall the share of what is right that is kept.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labels import CORPORA, load
from model_filters import area
from raft import prompts
from raft.api.models import open_model
from raft.curation import learned
from raft.settings import Settings
from raft.store.ledger import Ledger

Rows = Sequence[dict[str, Any]]


def pairs(corpora: Sequence[str] = CORPORA) -> list[dict[str, Any]]:
    """Return the labelled pairs that a model wrote and the pipeline kept."""
    kept = load(corpora).filter(pl.col("reason").is_null() & (pl.col("way") != "rules"))
    return kept.to_dicts()


def line(title: str, likely: np.ndarray, right: np.ndarray, minimum: float) -> str:
    """Return a row of the table."""
    kept = likely >= minimum
    shown = [right[kept].mean() if kept.any() else float("nan"), kept[right].mean()]
    cells = " | ".join(f"{100 * share:.0f} %" for share in shown)
    return f"| {title} | {len(right)} | {100 * right.mean():.0f} % | {area(likely, right):.2f} | {cells} |"


def held_out(rows: Rows, scores: np.ndarray, right: np.ndarray, model: str, names: Sequence[str]) -> list[str]:
    """Return the rows of the table: each corpus by weights of the others, and its pairs by who wrote them."""
    lines = []
    corpus = np.array([row["corpus"] for row in rows])
    writer = np.array([f"{row['generator'].rpartition('/')[2]}, {row['way']}" for row in rows])
    for name in CORPORA:
        weights = learned.fit(scores[corpus != name], right[corpus != name], model, names, keep=learned.KEEP)
        for who in ("", *sorted({*writer[corpus == name]})):
            part = (corpus == name) & (writer == who if who else True)
            if 0 < right[part].sum() < part.sum():
                title = f"{name}{', ' if who else ''}{who}"
                lines.append(line(title, weights.probabilities(scores[part]), right[part], weights.minimum))
    return lines


def main() -> None:
    """Measure, print, and write the weights where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--scores", nargs="+", choices=learned.SCORES, default=["said", "asked"])
    parser.add_argument("--without", nargs="+", choices=CORPORA, default=[], help="corpora not to learn from")
    parser.add_argument("--ledger", type=Path, default=Path("runs/learned.sqlite"))
    parser.add_argument("--write", type=Path, metavar="FILE", help="learn from all pairs, and write the weights")
    given = parser.parse_args()
    rows = pairs()
    right = np.array([row["label"] == "right" for row in rows])
    shown = [learned.shown_of(one["question"], one["answer"], one["quotes"]) for one in rows]
    with closing(Ledger(given.ledger)) as ledger:
        scorer = open_model(given.model, Settings(), ledger).scorer
        if scorer is None:
            raise SystemExit("the model tells no likelihoods")
        begun = time.monotonic()
        scores = learned.measure(shown, scorer, prompts.load("right"), given.scores)
        took = (time.monotonic() - begun) / len(rows)
    print("| learned from the others | pairs | right | area | kept: right | of the right: kept |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(held_out(rows, scores, right, given.model, given.scores)))
    for place, name in enumerate(given.scores):
        print(f"{name} alone: area {area(scores[:, place], right):.2f}")
    print(f"{took:.3f} s a pair")
    use = np.array([row["corpus"] not in given.without for row in rows])
    weights = learned.fit(scores[use], right[use], given.model, given.scores, keep=learned.KEEP)
    print(weights.identity)
    if given.write:
        given.write.write_text(weights.identity, encoding="utf-8")


if __name__ == "__main__":
    main()
