"""Does it help to search words as well as vectors? Recall and rank of the right paragraph on the dev part of XQuAD.

RAFT_DATA=FOLDER python benchmarks/retrieval.py

The index holds all 240 paragraphs, one chunk each; only the questions about dev articles are asked. Paragraphs that
are longer than the embedder's limit are cut off by it, for the vectors alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from data import xquad_articles
from raft.backends.embedding import open_embedder
from raft.backends.index.bm25 import LexicalIndex
from raft.backends.index.chroma import ChromaIndex
from raft.backends.index.hybrid import DEPTH, fuse
from raft.errors import RaftError
from raft.settings.sections import Index

CONSTANTS = (10, 30, 60, 100)
COMPARED = (
    ("both, constant 60", "vectors"),
    ("both, constant 60", "words"),
    ("both, constant 10", "both, constant 60"),
)
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recall@5": lambda found: (found <= 5).astype(float),
    "MRR@10": lambda found: np.where(found <= 10, 1 / found, 0.0),
}


def paragraphs() -> pl.DataFrame:
    """All paragraphs of all articles as chunks, with the article's title as the heading, and their split."""
    return pl.DataFrame(
        [
            {
                "chunk_id": f"{article['title']}/{number}",
                "doc_id": article["title"],
                "heading": article["title"].replace("_", " "),
                "text": paragraph["context"],
                "split": split,
                "questions": [question["question"] for question in paragraph["qas"]],
            }
            for split, articles in xquad_articles().items()
            for article in articles
            for number, paragraph in enumerate(article["paragraphs"])
        ]
    )


def ranks(hits: pl.DataFrame, golden: list[str]) -> np.ndarray:
    """Rank of each question's golden chunk among its hits, infinity where it is not there; shape (questions,)."""
    found = hits.join(pl.DataFrame({"chunk_id": golden}).with_row_index("query"), on=["query", "chunk_id"])
    out = np.full(len(golden), np.inf)
    out[found["query"].to_numpy()] = found["rank"].to_numpy()
    return out


def figures(found: np.ndarray) -> str:
    """Recall at 1, 3 and 5 and the mean reciprocal rank (over the first 10), as cells of a table."""
    recalls = [f"{np.mean(found <= k):.3f}" for k in (1, 3, 5)]
    return " | ".join([*recalls, f"{SCORES['MRR@10'](found).mean():.3f}"])


def interval(better: np.ndarray, worse: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of two paired scores with its 95 % bootstrap interval; whole paragraphs are drawn."""
    rng = np.random.default_rng(0)
    difference = better - worse
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = [
        difference[np.concatenate([members[row] for row in rng.integers(0, len(members), len(members))])].mean()
        for _ in range(2000)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return difference.mean(), low, high


def weighted(dense: pl.DataFrame, lexical: pl.DataFrame, weight: float) -> pl.DataFrame:
    """Reciprocal rank fusion in which the vectors count `weight` times as much as the words."""
    both = pl.concat([dense.with_columns(w=pl.lit(weight)), lexical.with_columns(w=pl.lit(1.0))])
    return (
        both.group_by("query", "chunk_id")
        .agg(score=(pl.col("w") / (60 + pl.col("rank"))).sum())
        .sort("query", "score", "chunk_id", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("query"))
    )


def measure(headings: bool) -> Iterator[str]:
    """Yield the lines of one table: search by vectors, by words, and by both."""
    chunks = paragraphs().with_columns(heading=pl.col("heading") if headings else pl.lit(""))
    asked = chunks.filter(pl.col("split") == "dev").explode("questions")
    queries, golden = asked["questions"].to_list(), asked["chunk_id"].to_list()
    with tempfile.TemporaryDirectory() as work:
        embedder = open_embedder(Index().embedder)
        with ChromaIndex(embedder, folder=Path(work) / "index") as index:
            index.sync([chunks])
            dense = index.search(queries, DEPTH)
        lexical = LexicalIndex.build([chunks], Path(work) / "lexical").search(queries, DEPTH)
    rows: dict[str, Callable[[], pl.DataFrame]] = {
        "vectors": lambda: dense,
        "words": lambda: lexical,
        **{f"both, constant {c}": lambda c=c: fuse([dense, lexical], 10, constant=c) for c in CONSTANTS},
        **{f"both, constant 60, vectors x {w}": lambda w=w: weighted(dense, lexical, w) for w in (0.5, 2.0)},
    }
    found = {name: ranks(make(), golden) for name, make in rows.items()}
    title = "with the article's title as heading" if headings else "without headings"
    yield f"\n{len(queries)} questions about {asked['doc_id'].n_unique()} articles, {len(chunks)} chunks, {title}:\n"
    yield "| search | recall@1 | recall@3 | recall@5 | MRR@10 |"
    yield "| --- | --- | --- | --- | --- |"
    yield from (f"| {name} | {figures(outcome)} |" for name, outcome in found.items())
    yield "\nDifferences, each with its 95 % interval:\n"
    for one, other in COMPARED:
        for score, worth in SCORES.items():
            mean, low, high = interval(worth(found[one]), worth(found[other]), np.array(golden))
            yield f"- {one} minus {other}, {score}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> int:
    """Print both tables."""
    argparse.ArgumentParser(description=str(__doc__).splitlines()[0]).parse_args()
    try:
        for headings in (False, True):
            print("\n".join(measure(headings)))
    except RaftError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
