"""Which labelled questions do rules still ask? Of the example, and of documents that the rules' author had not read.

RAFT_DATA=FOLDER python benchmarks/by_rule.py
python benchmarks/by_rule.py --corpora example

Each question that `questions.way=rules` can make of a corpus is made, and looked up among the labels: asked as it was,
asked with its document's title, or asked no more. A question that was completed keeps the label of what was read.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from filters import EMBEDDER, TOKENS, share
from labels import BY_RULE, CORPORA, OTHERS, PAIRS, documents, read
from raft.backends.embedding import open_embedder
from raft.corpus.chunking import chunk_documents
from raft.generation import generate, plan
from raft.protocols import Embedder
from raft.text import normalise

KINDS = ("fact", "number", "date", "name")
_TITLED = re.compile(r"^According to .*?, (?=[a-z])")
Key = tuple[str, str, str]


def made(corpus: str, embedder: Embedder) -> Iterator[dict[str, Any]]:
    """Yield all questions that rules make of a corpus: document, chunk, question, answer, kind and quote."""
    read_ = documents(corpus)
    tokens = TOKENS.get(corpus.partition(" ")[0], 240)
    cut = pl.concat(
        chunk_documents([read_], embedder.tokenizer, tokens=tokens, overlap=0, max_tokens=embedder.max_tokens)
    )
    used, paths = generate.read_prompts(None), dict(read_.select("doc_id", "path").iter_rows())
    known = plan.survey([cut], used.prefixes, plan.needed("rules", KINDS))
    for task in generate.everything(iter([cut]), known, used, strategy="rules", kinds=KINDS):
        for row in task.read(""):
            quote = row["quotes"][0]
            yield {**row, "document": paths[task.doc_ids[0]], "chunk_id": task.item_id, "quote": quote["text"]}


def key(row: dict[str, Any]) -> Key:
    """Return what tells a question of a document from others, whether its document is named in it or not."""
    return row["document"], normalise(_TITLED.sub("", row["question"])), normalise(row["answer"])


def report(corpora: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table."""
    embedder = open_embedder(EMBEDDER)
    yield "| corpus | asked now | labelled | right | still asked | of these right | of the right: kept | titled since |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for corpus in corpora:
        rows = [
            row for file in (PAIRS, BY_RULE) for row in read(file) if row["corpus"] == corpus and row["way"] == "rules"
        ]
        now = {key(row): row["question"] for row in made(corpus, embedder)}
        kept = [row for row in rows if key(row) in now]
        right, left = (sum(row["label"] == "right" for row in part) for part in (rows, kept))
        titled = [row for row in kept if now[key(row)] != row["question"]]
        cells = [
            len(now),
            len(rows),
            share(right, len(rows)),
            len(kept),
            share(left, len(kept)),
            share(left, right),
            f"{len(titled)} ({dict(Counter(row['label'] for row in titled))})",
        ]
        yield f"| {corpus} | {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", choices=(*CORPORA, *OTHERS), default=(*CORPORA, *OTHERS))
    for line in report(parser.parse_args().corpora):
        print(line)


if __name__ == "__main__":
    main()
