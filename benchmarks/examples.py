"""What building examples costs without the search: a question of each of so many chunks, with chunks drawn as hits.

python benchmarks/examples.py --questions 2000,10000

Chunks are of 60 made-up words. Prints seconds of processor time, and a digest of the rows, which says that another
version of the code makes the same ones.
"""

import argparse
import hashlib
import random
import time
from collections.abc import Sequence

import polars as pl

from raft import prompts
from raft.examples.examples import build_examples
from raft.settings.sections import Examples
from raft.store import tables
from raft.testing import WordTokenizer


class Drawn:
    """A retriever that brings chunks by chance."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return `k` chunks a query, drawn from the query alone."""
        rows = []
        for number, query in enumerate(queries):
            draw = random.Random(query)
            rows += [(number, rank, f"c{draw.randrange(self._chunks)}", "", 0.5, "") for rank in range(1, k + 1)]
        return pl.DataFrame(rows, schema=tables.HITS, orient="row")


def made(count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return so many kept questions, and the chunks that they are about."""
    draw = random.Random(0)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(5000)]
    chunks, questions = [], []
    for number in range(count):
        words, days = draw.choices(known, k=60), draw.randint(10, 9999)
        words[10:12] = [str(days), "days"]
        parts = [" ".join(words[start : start + 20]).capitalize() + "." for start in (0, 20, 40)]
        own, home = f"c{number}", f"d{number // 10}"
        chunks.append(
            {
                "chunk_id": own,
                "doc_id": home,
                "position": number % 10,
                "start": 0,
                "end": len(" ".join(parts)),
                "heading": "Guide > Part",
                "text": " ".join(parts),
                "tokens": 80,
                "boilerplate": False,
                "document_sha256": "",
            }
        )
        questions.append(
            {
                "question_id": f"q{number}",
                "kind": "number",
                "answer": f"{days} days",
                "split": "train",
                "question": f"For how many days is {words[3]} {words[4]} {words[5]}?",
                "golden_chunk_ids": [own],
                "doc_ids": [home],
                "quotes": [{"chunk_id": own, "start": 0, "end": len(parts[0]), "text": parts[0]}],
            }
        )
    return tables.frame(tables.CLEANED, questions), tables.frame(tables.CHUNKS, chunks)


def main() -> None:
    """Build examples of each size, and print what that took."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--questions", default="2000", help="how many, or several numbers with commas")
    for count in map(int, parser.parse_args().questions.split(",")):
        cleaned, chunks = made(count)
        begun = time.process_time()
        rows, _ = build_examples(
            cleaned,
            chunks,
            Examples(),
            retriever=Drawn(count),
            tokenizer=WordTokenizer(),
            style="",
            seed=0,
            prompt=prompts.load("answer", None),
            held_out=frozenset(),
            titles={},
            styled_answers=None,
        )
        seconds = time.process_time() - begun
        digest = hashlib.sha256(str(rows.to_dicts()).encode()).hexdigest()[:12]
        print(
            f"{count:,} questions: {seconds:.1f} s of a processor, {1e3 * seconds / count:.2f} ms each; rows {digest}"
        )


if __name__ == "__main__":
    main()
