"""Does raft work in other languages? The people's own questions of XQuAD through cleaning, and how often search finds.

    RAFT_DATA=FOLDER python benchmarks/languages.py en de es ru zh hi
    RAFT_DATA=FOLDER python benchmarks/languages.py --words-alone de      (without the embedder)

Each of the 240 paragraphs is a chunk without a heading, and each of the 1,190 questions is taken as a generated one
whose answer is that of the people and whose quote is the whole paragraph. Printed are two tables: what cleaning keeps,
and recall and rank of the right paragraph by words, by the packaged pipelines' English embedder, and by both.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from data import XQUAD, data_file
from raft.backends.embedding import open_embedder
from raft.backends.index.bm25 import LexicalIndex
from raft.backends.index.chroma import ChromaIndex
from raft.backends.index.hybrid import DEPTH, fuse
from raft.curation.clean import clean
from raft.errors import RaftError
from raft.settings.sections import Cleaning, Index
from raft.store import tables
from raft.testing import HashEmbedder
from raft.text.languages import known, of_documents
from retrieval import figures, ranks

CODES = ("en", "de", "es", "ru", "zh", "hi")
_BATCH = 200  # questions that the index of vectors is asked at once
LATER = ("round trip", "duplicate")
"""Reasons that other questions or the index give, and not the question's own form."""


def paragraphs(code: str) -> list[dict[str, Any]]:
    """The paragraphs of XQuAD in a language, each with its article's title."""
    file = data_file(XQUAD if code == "en" else f"xquad_more/xquad.{code}.json")
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    return [{**paragraph, "title": one["title"]} for one in articles for paragraph in one["paragraphs"]]


def frames(code: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The paragraphs as chunks, and the people's questions as generated ones."""
    chunks, asked = [], []
    for number, one in enumerate(paragraphs(code)):
        name, text = f"{number:04}", one["context"]
        chunks.append({"chunk_id": name, "doc_id": one["title"], "heading": "", "text": text, "boilerplate": False})
        quote = {"chunk_id": name, "start": 0, "end": len(text), "text": text}
        asked += [
            {
                "question_id": row["id"],
                "kind": "fact",
                "question": row["question"],
                "quotes": [quote],
                "answer": row["answers"][0]["text"],
                "golden_chunk_ids": [name],
                "doc_ids": [one["title"]],
            }
            for row in one["qas"]
        ]
    return tables.frame(tables.CHUNKS, chunks), tables.frame(tables.QUESTIONS, asked)


def cleaned(code: str, index: LexicalIndex, chunks: pl.DataFrame, asked: pl.DataFrame) -> str:
    """Return a row of the first table."""
    texts = {str(name): "\n".join(rows["text"]) for (name,), rows in chunks.group_by("doc_id", maintain_order=True)}
    spoken, rules = of_documents(texts.items()), Cleaning()
    begun = time.perf_counter()
    limits = rules.model_dump(include={"min_words", "max_words", "max_answer_words", "similarity", "judge_minimum"})
    judge: dict[str, Any] = {"judge": None, "judge_prompt": None}
    found = clean(
        asked,
        chunks,
        retriever=index,
        embedder=HashEmbedder(),
        held_out=frozenset(),
        round_trip_k=Index().k,
        languages=spoken,
        **judge,
        **limits,
    )
    seconds = time.perf_counter() - begun
    reasons = Counter(found["reason"].drop_nulls())
    formed = found.height - sum(count for why, count in reasons.items() if why not in LATER)
    told = sum(spoken.get(name, "en") == code for name in texts)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    kept = found["reason"].null_count()
    shares = f"**{formed / found.height:.1%}** | {kept / found.height:.1%}"
    return f"| {known(code).name} | {told} of {len(texts)} | {shares} | {why} | {seconds:.1f} |"


def searched(code: str, index: LexicalIndex, chunks: pl.DataFrame, asked: pl.DataFrame, words: bool) -> Iterator[str]:
    """Yield rows of the second table."""
    queries, golden = asked["question"].to_list(), [names[0] for names in asked["golden_chunk_ids"].to_list()]
    lexical = index.search(queries, DEPTH)
    tried = {"words": lexical}
    if not words:
        with (
            tempfile.TemporaryDirectory() as work,
            ChromaIndex(open_embedder(Index().embedder), folder=Path(work) / "index") as vectors,
        ):
            vectors.sync([chunks])
            parts = [queries[start : start + _BATCH] for start in range(0, len(queries), _BATCH)]
            found = [
                vectors.search(part, DEPTH).with_columns(pl.col("query") + n * _BATCH) for n, part in enumerate(parts)
            ]
            dense = pl.concat(found)
        tried |= {"English vectors": dense, "both": fuse([dense, lexical], 10)}
    for name, hits in tried.items():
        yield f"| {known(code).name} | {name} | {figures(ranks(hits, golden))} |"


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], epilog="RAFT_DATA names the folder that holds xquad_en, xquad_more."
    )
    parser.add_argument(
        "codes", nargs="*", default=["en", "de", "es", "ru", "zh", "hi"], help="languages by their codes"
    )
    parser.add_argument("--words-alone", action="store_true", help="search by words alone, without an embedder")
    given = parser.parse_args()
    first = ["| language | articles recognised | kept by form | kept in all | dropped | seconds |", "| --- " * 6 + "|"]
    second = ["", "| language | search | recall@1 | recall@3 | recall@5 | MRR@10 |", "| --- " * 6 + "|"]
    try:
        for code in given.codes:
            chunks, asked = frames(code)
            with tempfile.TemporaryDirectory() as work:
                index = LexicalIndex.build([chunks], Path(work) / "lexical")
                first.append(cleaned(code, index, chunks, asked))
                second += searched(code, index, chunks, asked, given.words_alone)
    except RaftError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join([*first, *second]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
