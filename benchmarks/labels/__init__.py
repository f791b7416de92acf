"""Generated pairs that a person has labelled, to measure filters with; `RUBRIC.md` says how.

`pairs.jsonl` holds a pair a line: who asked what in which way, the pipeline's reason for dropping it (null: kept), and
the label. Passage and quote are no part of it: they are offsets into the document's text as raft reads it, with
digests, and `load` finds them again, in `examples/handbook` or in `$RAFT_DATA`. `second.jsonl` holds the labels of a
second reader, who saw neither these labels nor the reasons. `by_rule.jsonl` has pairs that rules made of documents that
their author had not read, labelled by the author before a rule was changed for them. `benchmarks/` must be on the path.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from data import data_file
from raft.corpus.documents import find_sources, read_documents
from raft.errors import RaftError

HERE = Path(__file__).parent
PAIRS, SECOND, BY_RULE = HERE / "pairs.jsonl", HERE / "second.jsonl", HERE / "by_rule.jsonl"
HANDBOOK = HERE.parents[1] / "examples" / "handbook"
LABELS = (
    "right",
    "garbled",
    "wrong type",
    "not said",
    "wrong answer",
    "does not stand alone",
    "many documents",
    "trivial",
    "twice",
)
CORPORA = ("example", "18f", "xquad")
OTHERS = ("18f others", "xquad others", "pubmedqa")
"""The corpora of `by_rule.jsonl`."""


def corpus(name: str, work: Path) -> Path:
    """Return the folder with the documents of a corpus; what `$RAFT_DATA` holds of it is copied to `work`.

    Of the 18F handbook these are 28 pages, drawn by a seed; of XQuAD the articles that are `seen`; and `others` are the
    rest of either.

    Raises:
        UsageError: RAFT_DATA is not set, or lacks the corpus.
    """
    if name == "example":
        return HANDBOOK
    if name.startswith("xquad"):
        from xquad import prepare  # noqa: PLC0415  it needs all that a study needs

        prepare(work)
        if name == "xquad":
            return work / "corpus" / "seen"
        shutil.rmtree(work / "corpus" / "seen")
        return work / "corpus"
    if name == "pubmedqa":
        from pubmedqa import prepare as abstracts  # noqa: PLC0415

        abstracts(work)
        return work / "corpus"
    whole = data_file("kb_18f_handbook/SOURCE.txt").parent
    pages = {path.relative_to(whole).as_posix(): path.stat().st_size for path in (whole / "pages").rglob("*.md")}
    sized = sorted(page for page, size in pages.items() if 2_500 <= size <= 14_000)
    drawn = {*random.Random("18f").sample(sized, 28)}
    for page in drawn if name == "18f" else pages.keys() - drawn:
        copy = work / page
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / page, copy)
    return work


@cache
def documents(name: str) -> pl.DataFrame:
    """Return the documents of a corpus, as raft reads them (`raft.store.tables.DOCUMENTS`).

    Raises:
        UsageError: RAFT_DATA is not set, or lacks the corpus.
    """
    with TemporaryDirectory() as work:
        sources, _ = find_sources([str(corpus(name, Path(work)))])
        return pl.concat(read_documents(sources, text_field="text"))


def load(corpora: Sequence[str] = CORPORA, file: Path = PAIRS) -> pl.DataFrame:
    """Return the labelled pairs of these corpora in a file, with the texts of `passage` and `quotes`.

    A text that stands elsewhere in its document by now, since it is read otherwise, is found by its digest, and
    `passage_start` and `quote_starts` say where it stands.

    Raises:
        UsageError: RAFT_DATA is not set, or lacks a corpus.
        RaftError: documents are missing, or hold a passage or a quote no more; all of them are named.
    """
    rows = [row for row in read(file) if row["corpus"] in corpora]
    found = {name: documents(name) for name in {row["corpus"] for row in rows}}
    texts = {(name, path): text for name in found for path, text in found[name].select("path", "text").iter_rows()}
    full = [{**row, **_texts(row, texts.get((row["corpus"], row["document"]), ""))} for row in rows]
    lost = sorted({f"{row['corpus']}: {row['document']}" for row in full if None in (row["passage"], *row["quotes"])})
    if lost:
        raise RaftError(
            "Texts that were labelled are not there as they were.",
            where="; ".join(lost),
            hint="use the sources that benchmarks/README.md names, or label the pairs of these documents anew",
        )
    return pl.DataFrame(full, infer_schema_length=None)


def _texts(row: dict[str, Any], document: str) -> dict[str, Any]:
    start = _find(document, row["passage"])
    quotes = [_find(document, span) for span in row["quotes"]]
    return {
        "passage_start": start,
        "passage": _part(document, start, row["passage"]),
        "quote_starts": quotes,
        "quotes": [_part(document, place, span) for place, span in zip(quotes, row["quotes"], strict=True)],
    }


def _part(text: str, start: int | None, span: dict[str, Any]) -> str | None:
    return None if start is None else text[start : start + span["end"] - span["start"]]


def _find(text: str, span: dict[str, Any]) -> int | None:
    """Return where the text of a span stands: at its start, or nearest to it."""
    if digest(text[span["start"] : span["end"]]) == span["sha256"]:
        return int(span["start"])
    length = span["end"] - span["start"]
    starts = sorted(range(len(text) - length + 1), key=lambda start: abs(start - span["start"]))
    return next((start for start in starts if digest(text[start : start + length]) == span["sha256"]), None)


def digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def agreement(first: Iterable[str], second: Iterable[str]) -> tuple[float, float]:
    """Return the share of pairs with one label of two readers, and Cohen's kappa: how far that is above chance.

    Kappa is 1 where both always agree, 0 where they agree as often as two who label at random with the same shares.

    Raises:
        ValueError: there are no labels, or not as many of one reader as of the other.

    Source:
        Cohen: A coefficient of agreement for nominal scales. Educational and Psychological Measurement 20(1), 1960.
    """
    one, two = list(first), list(second)
    if not one or len(one) != len(two):
        raise ValueError(f"there are {len(one)} labels of one reader and {len(two)} of the other")
    same = sum(a == b for a, b in zip(one, two, strict=True)) / len(one)
    chance = sum(one.count(label) * two.count(label) for label in {*one}) / len(one) ** 2
    return same, 1.0 if chance == 1 else (same - chance) / (1 - chance)


def readers_agree() -> dict[str, tuple[float, float]]:
    """Return the `agreement` of both readers, on all labels and on right against all else.

    Raises:
        FileNotFoundError: nobody has labelled a second time.
        KeyError: a pair of the second reader is unknown.
    """
    mine = {row["id"]: row["label"] for row in read(PAIRS)}
    both = [(mine[row["id"]], row["label"]) for row in read(SECOND)]
    return {
        "label": agreement(*zip(*both, strict=True)),
        "right or not": agreement(*([str(label == "right") for label in side] for side in zip(*both, strict=True))),
    }
