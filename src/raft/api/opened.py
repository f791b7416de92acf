"""A run directory, opened for reading."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from raft import adapters, lineage
from raft.answers import Answer
from raft.api import locality
from raft.api.asking import Answerer, Shelf
from raft.api.seams import open_retriever, searched
from raft.errors import DamagedArtifact
from raft.pipeline import STEPS
from raft.protocols import Retriever
from raft.run import existing
from raft.settings import Settings
from raft.stages.answering import WhenUnsupported

_UNTOLD = ("key", "basis", "artifacts", "inputs", "settings", "unfinished")
"""What a step's line holds for the run alone."""


class Built:
    """A run directory that was built, opened for reading.

    Args:
        folder: the run directory.

    Raises:
        UsageError: there is no run directory at `folder`.
        DamagedArtifact: its manifest is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._run = existing(self.folder)
        self.manifest: dict[str, Any] = self._run.manifest
        if "settings" not in self.manifest:
            raise DamagedArtifact(
                "The manifest is damaged, or its build was stopped before its first step.",
                where=self.folder / "manifest.json",
                hint=f"raft build CORPUS --out {self.folder}   (what is intact is used again)",
            )

    @property
    def settings(self) -> Settings:
        """The settings that the run was built with."""
        return Settings.model_validate(self.manifest["settings"])

    @property
    def documents(self) -> pl.DataFrame:
        """The documents with their texts, or why one could not be read (`tables.DOCUMENTS`)."""
        return self._run.read("documents.parquet")

    @property
    def chunks(self) -> pl.DataFrame:
        """The chunks (`tables.CHUNKS`)."""
        return self._run.read("chunks.parquet")

    @property
    def questions(self) -> pl.DataFrame:
        """The questions as they were written (`tables.QUESTIONS`)."""
        return self._run.read("questions.parquet")

    @property
    def failures(self) -> pl.DataFrame:
        """What the generator did not deliver, with its replies (`tables.FAILURES`)."""
        return self._run.read("failures.parquet")

    @property
    def cleaned(self) -> pl.DataFrame:
        """All questions, each with its split or the reason why it was dropped (`tables.CLEANED`)."""
        return self._run.read("cleaned.parquet")

    @property
    def examples(self) -> pl.DataFrame:
        """The training rows (`tables.EXAMPLES`)."""
        return self._run.read("examples.parquet")

    @property
    def evaluation(self) -> pl.DataFrame:
        """The questions to measure with (`tables.EVALUATION`)."""
        return self._run.read("eval.jsonl")

    @cached_property
    def index(self) -> Retriever:
        """The index: `run.index.search(["what is the refund limit?"], k=5)` returns a frame of `tables.HITS`.

        Raises:
            UsageError: `local_only` is set, and index or embedder is not on this machine.
        """
        locality.check(self.settings, asked={})
        self._run.require(*searched(self.settings))
        return open_retriever(self.folder, self.settings, self.manifest["collection"], self._shelf.paying)

    @property
    def adapters(self) -> list[dict[str, Any]]:
        """The cards of the run's adapters, oldest first; `current` of each says whether it is the one that answers."""
        chosen = adapters.current(self.folder)
        return [{**card, "current": card["adapter"] == chosen} for card in adapters.listed(self.folder)]

    def answerer(self, *, model: str | None = None, adapter: str | None = None) -> Answerer:
        """Return what answers questions from the index; its model is loaded with the first question.

        Answerers of one run share index and weights, so that changing the adapter costs no loading.

        Args:
            model: a model's name; None: the run's student.
            adapter: an adapter's id or the beginning of it, or "none"; None: the current one, unless `model` is given.

        Raises:
            UsageError: there is no such adapter, it was trained on another base model, the model is unknown, or
                `local_only` is set and something that would be asked is not on this machine.
        """
        chosen = model or self.settings.student
        locality.check(self.settings, asked={chosen: locality.address_of(chosen, self.settings)})
        return Answerer(self._shelf, model, adapter)

    def ask(
        self,
        question: str,
        *,
        model: str | None = None,
        adapter: str | None = None,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
    ) -> Answer:
        """Return the answer to a question, its quotes and figures checked against what was retrieved.

        Args:
            question: the question.
            model: as for `answerer`.
            adapter: as for `answerer`.
            k: most passages that are shown; None: `index.k`.
            when_unsupported: what becomes of an unsupported answer: "mark", "retry" or "refuse"; None: as set.

        Raises:
            UsageError: as for `answerer`, or the question is empty or too long.
            RaftError: index or model cannot be used.
        """
        return self.answerer(model=model, adapter=adapter).ask(question, k=k, when_unsupported=when_unsupported)

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        model: str | None = None,
        adapter: str | None = None,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
    ) -> list[Answer]:
        """Return the answers to many questions, in order; as `ask`, but in batches."""
        chosen = self.answerer(model=model, adapter=adapter)
        return chosen.ask_all(questions, k=k, when_unsupported=when_unsupported)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self._run, self.settings)

    def summary(self) -> dict[str, Any]:
        """Return what was built in numbers, as JSON values; a step that a build left behind is `stale`."""
        steps: dict[str, Any] = {}
        unused = set() if self.settings.index.hybrid else {"lexical"}
        stale = lineage.stale(self.manifest["steps"]) & {*STEPS} - unused
        for name, line in self.manifest["steps"].items():
            rows = {artifact: entry["rows"] for artifact, entry in line["artifacts"].items() if "rows" in entry}
            steps[name] = {"rows": rows, **{k: line[k] for k in line if k not in _UNTOLD}}
            steps[name] |= {"stale": True} if name in stale else {}
        about = {name: self.manifest.get(name) for name in ("raft", "corpus", "models", "skipped")}
        return {"run": str(self.folder), **about, "steps": steps}


def load(folder: str | Path) -> Built:
    """Open a run directory for reading.

    Raises:
        UsageError: there is none at `folder`.
    """
    return Built(folder)
