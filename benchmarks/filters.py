"""What are the filters worth? All rules of cleaning on pairs that a person has labelled (`labels/RUBRIC.md`).

RAFT_DATA=FOLDER python benchmarks/filters.py --out benchmarks/results/DATE-filters.md
python benchmarks/filters.py --corpora example

The pairs of each build (corpus, way of asking, generator) are cleaned as a build cleans them, by the rules as they
stand now, with the embedder and the index of the embedded pipeline. Precision is the share of what is kept that is
right, recall the share of what is right that is kept, both with Wilson's interval.
"""

import argparse
import inspect
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from labels import CORPORA, documents, load
from raft.backends.embedding import open_embedder
from raft.backends.index.hybrid import Indexes
from raft.corpus.chunking import chunk_documents
from raft.curation.clean import clean
from raft.evaluation.metrics import win_rate
from raft.generation.generate import question_id
from raft.protocols import Embedder
from raft.settings.sections import Cleaning
from raft.store import tables

EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
TOKENS = {"example": 200, "18f": 200, "xquad": 80}
RESULTS = {"example": 3, "18f": 3, "xquad": 2}
"""How long a chunk is, and how many are found for a question (`index.k`), where the pairs come from."""
Row = dict[str, Any]


def questions(pairs: Iterable[Row], chunks: pl.DataFrame) -> tuple[list[str], pl.DataFrame]:
    """Return the ids of pairs, and these as `tables.QUESTIONS`; without pairs whose passage is cut in two by now."""
    by_path: dict[str, list[Row]] = {}
    for chunk in chunks.to_dicts():
        by_path.setdefault(chunk["path"], []).append(chunk)
    ids, rows = [], []
    for pair in pairs:
        spans = [(start, start + len(text)) for start, text in zip(pair["quote_starts"], pair["quotes"], strict=True)]
        first = spans[0][0] if spans else pair["passage_start"]
        chunk = next((one for one in by_path[pair["document"]] if one["start"] <= first < one["end"]), None)
        if chunk is None or any(end > chunk["end"] for _, end in spans):
            continue
        quotes = [
            {"chunk_id": chunk["chunk_id"], "start": start - chunk["start"], "end": end - chunk["start"], "text": text}
            for (start, end), text in zip(spans, pair["quotes"], strict=True)
        ]
        golden = [chunk["chunk_id"]]
        row = {key: pair[key] for key in ("kind", "question", "answer")}
        asked = question_id(golden, pair["kind"], pair["question"])
        rows.append(
            {
                **row,
                "question_id": asked,
                "quotes": quotes,
                "golden_chunk_ids": golden,
                "doc_ids": [chunk["doc_id"]],
                "model": pair["generator"],
                "prompt": f"{pair['way']}@labels",
            }
        )
        ids.append(pair["id"])
    return ids, tables.frame(tables.QUESTIONS, rows)


def cleaned(pairs: pl.DataFrame, corpus: str, embedder: Embedder) -> Iterator[Row]:
    """Yield each pair of a corpus with what cleaning says of it now (`now`, `scores`) and its seconds."""
    read = documents(corpus)
    shape = {"tokens": TOKENS[corpus], "overlap": 0, "max_tokens": embedder.max_tokens}
    cut = pl.concat(chunk_documents([read], embedder.tokenizer, **shape))
    chunks = cut.join(read.select("doc_id", "path"), on="doc_id")
    rules = {
        name: value for name, value in Cleaning().model_dump().items() if name in inspect.signature(clean).parameters
    }
    with TemporaryDirectory() as work:
        indexes = Indexes(Path(work), embedder, hybrid=True, url=None, collection="chunks")
        indexes.sync(lambda: iter([cut]))
        indexes.build_lexical(lambda: iter([cut]))
        with indexes.open(exact=True) as retriever:
            for _, build in pairs.group_by("way", "generator", maintain_order=True):
                ids, asked = questions(build.to_dicts(), chunks)
                begun = time.perf_counter()
                found = clean(
                    asked,
                    cut,
                    retriever=retriever,
                    embedder=embedder,
                    held_out=frozenset(),
                    round_trip_k=min(RESULTS[corpus], max(1, cut.height // 3)),
                    **{**rules, "judge": None, "judge_prompt": None},
                )
                seconds = (time.perf_counter() - begun) / max(1, len(ids))
                known = {row["id"]: row for row in build.to_dicts()}
                for name, row in zip(ids, found.to_dicts(), strict=True):
                    yield {**known[name], "now": row["reason"], "scores": row["scores"], "seconds": seconds}


def right(rows: Iterable[Row]) -> int:
    """Count the rows that are right."""
    return sum(row["label"] == "right" for row in rows)


def share(part: int, whole: int) -> str:
    """Return a share in percent with Wilson's interval."""
    found = win_rate(part, whole - part, 0)
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})" if found else "-"


def measured(rows: Sequence[Row], column: str) -> str:
    """Return kept, precision and recall of what a column says, as cells of a table."""
    kept = [row for row in rows if row[column] is None]
    return f"{len(kept)} | {share(right(kept), len(kept))} | {share(right(kept), right(rows))}"


def auc(rows: Sequence[Row], name: str) -> tuple[int, float] | None:
    """Return of how many rows a score is known, and how often it is higher for a right one than for another.

    Ties count half: the area under the ROC curve.
    """
    pairs = [(row["scores"][name], row["label"] == "right") for row in rows if row["scores"].get(name) is not None]
    good = np.array([float(score) for score, is_right in pairs if is_right])
    bad = np.array([float(score) for score, is_right in pairs if not is_right])
    if not len(good) or not len(bad):
        return None
    above = (good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2
    return len(pairs), float(above)


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the tables."""
    ways = dict.fromkeys((row["way"], row["generator"]) for row in rows)
    groups: Mapping[str, Sequence[Row]] = {
        "all": rows,
        **{name: [row for row in rows if row["corpus"] == name] for name in CORPORA},
        **{
            f"{way}, {model.rpartition('/')[2]}": [
                row for row in rows if (row["way"], row["generator"]) == (way, model)
            ]
            for way, model in ways
        },
    }
    yield "| pairs | labelled | right | kept when made | precision | recall | kept now | precision | recall |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, part in groups.items():
        if part:
            cells = (
                f"{len(part)} | {share(right(part), len(part))} | {measured(part, 'reason')} | {measured(part, 'now')}"
            )
            yield f"| {name} | {cells} |"
    yield "\n| rule | drops | of these rightly | of all that is right, lost | drops of each label |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for reason, _ in Counter(row["now"] for row in rows if row["now"]).most_common():
        part = [row for row in rows if row["now"] == reason]
        labels = ", ".join(f"{name} {count}" for name, count in Counter(row["label"] for row in part).most_common())
        cells = [share(len(part) - right(part), len(part)), share(right(part), right(rows)), labels]
        yield f"| {reason} | {len(part)} | {' | '.join(cells)} |"
    yield "\n| label | pairs | kept when made | kept now |\n| --- | ---: | ---: | ---: |"
    for label, count in Counter(row["label"] for row in rows).most_common():
        kept = [sum(row["label"] == label and row[column] is None for row in rows) for column in ("reason", "now")]
        yield f"| {label} | {count} | {kept[0]} | {kept[1]} |"
    yield "\n| score | known of | higher for a right pair than for another |\n| --- | ---: | ---: |"
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        found = auc(rows, name)
        if found:
            yield f"| {name} | {found[0]} | {found[1]:.2f} |"
    yield f"\nSeconds a pair, without the index: {np.mean([row['seconds'] for row in rows]):.4f}."


def main() -> None:
    """Clean the labelled pairs anew, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--out", type=Path, help="write them to this file")
    args = parser.parse_args()
    pairs, embedder = load(args.corpora), open_embedder(EMBEDDER)
    rows = [row for name in args.corpora for row in cleaned(pairs.filter(pl.col("corpus") == name), name, embedder)]
    if lost := pairs.height - len(rows):
        print(f"{lost} pairs are left out: their passages are cut in two by now")
    text = "\n".join(report(rows))
    if args.out:
        args.out.write_text(f"# Filters, on labelled pairs\n\n{text}\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
