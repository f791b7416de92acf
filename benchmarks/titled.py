"""Which labelled questions does `questions.titled` complete with their document's title?

RAFT_DATA=FOLDER python benchmarks/titled.py --show 30

Those labelled `many documents` or `does not stand alone` need it; a `right` one is completed needlessly.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from typing import Any

from labels import CORPORA, documents, load
from raft.generation.titles import Titles

NEEDED = ("many documents", "does not stand alone")


def completed(corpora: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each labelled pair of the corpora with its question as it would be (`now`)."""
    for corpus in corpora:
        read = documents(corpus).select("doc_id", "path", "title")
        titles = Titles(dict(read.select("doc_id", "title").iter_rows()))
        ids = dict(read.select("path", "doc_id").iter_rows())
        for row in load([corpus]).to_dicts():
            yield {**row, "now": titles.complete(row["question"], row["answer"], ids[row["document"]])}


def main() -> None:
    """Print how many of each label are completed, and some of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--show", type=int, default=0, help="so many completed questions, drawn by a seed")
    args = parser.parse_args()
    rows = [*completed(args.corpora)]
    print("| label | all | " + " | ".join(args.corpora) + " |\n| --- |" + " ---: |" * (len(args.corpora) + 1))
    for label in (*NEEDED, *sorted({row["label"] for row in rows} - {*NEEDED})):
        cells = []
        for corpus in (None, *args.corpora):
            part = [row for row in rows if row["label"] == label and corpus in (None, row["corpus"])]
            cells.append(f"{sum(row['now'] != row['question'] for row in part)} of {len(part)}")
        print(f"| {label} | {' | '.join(cells)} |")
    changed = [row for row in rows if row["now"] != row["question"]]
    for row in random.Random("titled").sample(changed, min(args.show, len(changed))):
        print(f"\n{row['label']} ({row['way']}): {row['now']} - {row['answer']}")


if __name__ == "__main__":
    main()
