"""The step of a build that takes pairs of questions and answers which the user has already."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from raft.corpus.pii import counted
from raft.curation.pairs import find_sources, lost, read_pairs
from raft.curation.user_questions import personal_data, refused
from raft.generation.generate import kind_of
from raft.kinds import traits
from raft.pipeline.read import documents_listed
from raft.protocols import Embedder, Indexes
from raft.settings import Settings
from raft.store import tables
from raft.store.artifacts import Output
from raft.store.run import Run, Step


def asked_in(settings: Settings) -> list[str]:
    """Return the tables that hold the questions."""
    asked = settings.questions
    more = {"qa.parquet": asked.qa, "reworded.parquet": asked.reword}
    return ["questions.parquet", *(name for name, on in more.items() if on)]


def place_pairs(run: Run, settings: Settings, embedder: Embedder, indexes: Indexes, searched: Sequence[str]) -> None:
    """Write the pairs of `questions.qa` to `qa.parquet`, each with the chunk that bears it; nothing without a file.

    `searched` are the steps that make what is searched.

    Raises:
        UsageError: a file is not what it should be.
        RaftError: personal data was found in one, and `privacy.found` is "refuse".
    """
    given, found, files = list[dict[str, Any]](), settings.privacy.found, settings.questions.qa
    for file in files:
        if found == "refuse" and (kinds := personal_data(file)):
            raise refused("questions", [f"{file}: {counted(kinds)}"])
        name = file.name if [one.name for one in files].count(file.name) == 1 else str(file)
        read = read_pairs(file, name=name, redact=found == "redact")
        given.append({"name": name, "pairs": read.rows, "wrong": read.wrong})
    if not given:
        return
    # one file is keyed as it was when there could be no more
    using = {**(given[0] if len(given) == 1 else {"files": given}), "embedder": embedder}
    run.make(
        "qa",
        _place,
        version=1,
        outputs=["qa.parquet"],
        inputs=["documents.parquet", "chunks.parquet", *searched],
        using={**using, "alike": 1},
        formerly=[(1, using)],
        beside={"indexes": indexes},
    )


def _place(
    step: Step, *, embedder: Embedder, indexes: Indexes, files: Sequence[Mapping[str, Any]] = (), **only: Any
) -> Mapping[str, Output]:
    chunks, documents = step.run.read("chunks.parquet"), documents_listed(step.run)
    placed, step.stats["files"] = tables.frame(tables.QUESTIONS, []), []
    with indexes.searching() as retriever:
        for file in files or [only]:
            name, pairs = file["name"], file["pairs"]
            rows, unknown = find_sources(pairs, chunks, documents, retriever=retriever, name=name, kind_of=kind_of)
            away = [
                f"{row['prompt']}: {lost(pair, unknown)}"
                for row, pair in zip(rows.iter_rows(named=True), pairs, strict=True)
                if traits(row["kind"]).answered and not row["golden_chunk_ids"]
            ]
            new = rows.filter(~pl.col("question_id").is_in(placed["question_id"].to_list()))
            told = {"rows": rows.height, "twice": rows.height - new.height, "unknown": unknown, "lost": away}
            step.stats["files"].append({"file": name, "wrong": file["wrong"], **told})
            placed = pl.concat([placed, new])
    return {"qa.parquet": placed}
