"""The step of a build that takes pairs of questions and answers which the user has already, or which people gave."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from raft.corpus.pii import counted
from raft.curation.pairs import files_of, find_sources, lost, read_pairs
from raft.curation.user_questions import personal_data, refused
from raft.generation.generate import kind_of
from raft.kinds import traits
from raft.pipeline.read import documents_listed
from raft.protocols import Embedder, Indexes, Retriever
from raft.settings import Settings
from raft.store.artifacts import Output
from raft.store.run import Run, Step


def asked_in(settings: Settings) -> list[str]:
    """Return the tables that hold the questions."""
    asked = settings.questions
    more = {"qa.parquet": files_of(asked), "reworded.parquet": asked.reword}
    return ["questions.parquet", *(name for name, on in more.items() if on)]


def place_pairs(run: Run, settings: Settings, embedder: Embedder, indexes: Indexes, searched: Sequence[str]) -> None:
    """Write the pairs of `questions.qa` and `questions.people` to `qa.parquet`, each with the chunk that bears it.

    Without a file nothing is written. `searched` are the steps that make what is searched.

    Raises:
        UsageError: a file is not what it should be.
        RaftError: personal data was found in one, and `privacy.found` is "refuse".
    """
    asked, found = settings.questions, settings.privacy.found
    for file in files_of(asked):
        if found == "refuse" and (kinds := personal_data(file)):
            raise refused("questions", [f"{file}: {counted(kinds)}"])
    using: dict[str, Any] = {"embedder": embedder}
    if asked.qa:
        read = read_pairs(asked.qa, redact=found == "redact")
        using |= {"name": asked.qa.name, "pairs": read.rows, "wrong": read.wrong}
    if asked.people:
        read = read_pairs(asked.people, redact=found == "redact", located=True)
        using["people"] = {"name": asked.people.name, "pairs": read.rows, "wrong": read.wrong}
    if files_of(asked):
        run.make(
            "qa",
            _place,
            version=1,
            outputs=["qa.parquet"],
            inputs=["documents.parquet", "chunks.parquet", *searched],
            using=using,
            beside={"indexes": indexes},
        )


def _place(
    step: Step,
    *,
    indexes: Indexes,
    name: str | None = None,
    pairs: Sequence[dict[str, Any]] = (),
    wrong: Sequence[str] = (),
    people: Mapping[str, Any] | None = None,
    **_: Any,
) -> Mapping[str, Output]:
    chunks, documents = step.run.read("chunks.parquet"), documents_listed(step.run)
    tables: list[pl.DataFrame] = []

    def placed(file: str, given: Sequence[dict[str, Any]], retriever: Retriever) -> list[str]:
        table, unknown = find_sources(given, chunks, documents, retriever=retriever, name=file, kind_of=kind_of)
        tables.append(table)
        return unknown

    with indexes.open(exact=True) as retriever:
        if name is not None:
            step.stats.update({"file": name, "wrong": wrong, "unknown": placed(name, pairs, retriever)})
        if people is not None:
            unknown = placed(people["name"], people["pairs"], retriever)
            away = [
                f"{row['prompt']}: {lost(pair, unknown)}"
                for row, pair in zip(tables[-1].iter_rows(named=True), people["pairs"], strict=True)
                if traits(row["kind"]).answered and not row["golden_chunk_ids"]
            ]
            told = {"file": people["name"], "rows": tables[-1].height, "wrong": people["wrong"], "lost": away}
            step.stats["people"] = told
    both = pl.concat(tables)
    once = both.unique("question_id", keep="first", maintain_order=True)
    if people is not None and once.height < both.height:
        step.stats["people"]["twice"] = both.height - once.height
    return {"qa.parquet": once}
