"""The step of a build that takes pairs of questions and answers which the user has already."""

from collections.abc import Mapping, Sequence
from typing import Any

from raft.corpus.pii import counted
from raft.curation.pairs import find_sources, read_pairs
from raft.curation.user_questions import personal_data, refused
from raft.generation.generate import kind_of
from raft.pipeline.read import documents_listed
from raft.protocols import Embedder, Indexes
from raft.settings import Settings
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
        UsageError: the file is not what it should be.
        RaftError: personal data was found in it, and `privacy.found` is "refuse".
    """
    file, found = settings.questions.qa, settings.privacy.found
    if file is None:
        return
    if found == "refuse" and (kinds := personal_data(file)):
        raise refused("questions", [f"{file}: {counted(kinds)}"])
    read = read_pairs(file, redact=found == "redact")
    run.make(
        "qa",
        _place,
        version=1,
        outputs=["qa.parquet"],
        inputs=["documents.parquet", "chunks.parquet", *searched],
        using={"name": file.name, "pairs": read.rows, "wrong": read.wrong, "embedder": embedder},
        beside={"indexes": indexes},
    )


def _place(
    step: Step, *, name: str, pairs: Sequence[dict[str, Any]], wrong: Sequence[str], indexes: Indexes, **_: Any
) -> Mapping[str, Output]:
    chunks, documents = step.run.read("chunks.parquet"), documents_listed(step.run)
    with indexes.open(exact=True) as retriever:
        placed, unknown = find_sources(pairs, chunks, documents, retriever=retriever, name=name, kind_of=kind_of)
    step.stats.update({"file": name, "wrong": wrong, "unknown": unknown})
    return {"qa.parquet": placed}
