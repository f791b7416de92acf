"""What scripts and the command line call: settings in, a run directory out."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from raft import artifacts, config, exporting, pipeline, prompts, tables
from raft.backends import models
from raft.backends.asking import AskingGenerator
from raft.backends.embedding import open_embedder
from raft.backends.hosted import HostedModel
from raft.backends.indexes import Indexes
from raft.backends.local import LocalModel
from raft.errors import DamagedArtifact, UsageError
from raft.ledger import CachedEmbedder, Ledger
from raft.protocols import Retriever
from raft.run import Run, existing, is_locked
from raft.stages import corpus as corpus_stage


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
    def settings(self) -> config.Settings:
        """The settings that the run was built with."""
        return config.Settings.model_validate(self.manifest["settings"])

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
        """The index: `run.index.search(["what is the refund limit?"], k=5)` returns a frame of `tables.HITS`."""
        settings = self.settings
        embedder = open_embedder(settings.index.embedder, settings.index.api_base)
        return _indexes(self.folder, settings, embedder, self.manifest["collection"]).open()

    def summary(self) -> dict[str, Any]:
        """Return what was built in numbers, as JSON values."""
        steps: dict[str, Any] = {}
        for name, line in self.manifest["steps"].items():
            rows = {artifact: entry["rows"] for artifact, entry in line["artifacts"].items() if "rows" in entry}
            steps[name] = {"rows": rows, **{k: line[k] for k in line if k not in ("key", "basis", "artifacts")}}
        about = {name: self.manifest.get(name) for name in ("raft", "corpus", "models", "skipped")}
        return {"run": str(self.folder), **about, "steps": steps}


def build(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    pipeline_file: str | Path | None = None,
    generator: str | None = None,
    embedder: str | None = None,
    student: str | None = None,
    questions_per_chunk: float | None = None,
    limit: int | None = None,
    seed: int | None = None,
    evaluation: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    listen: pipeline.Listen | None = None,
) -> Built:
    """Build a clean RAFT training set and an index from a corpus; what was done before is not done again.

    Args:
        corpus: files, folders or globs; None: those of the pipeline file.
        out: the run directory; None: `runs/<name of the corpus>`.
        pipeline_file: a YAML file, or the name of one that comes with the package ("embedded", "hosted").
        generator: the model that writes the questions.
        embedder: the model that makes the vectors.
        student: the small model whose tokens training rows are counted in.
        questions_per_chunk: questions asked for, a chunk, on average.
        limit: at most so many questions, spread evenly over the documents.
        seed: seed of every random choice.
        evaluation: your own questions (JSONL with `question`, `answers` and optional `document`).
        settings: any other setting by its dotted name, e.g. `{"index.k": 8}`.
        listen: told what happens: "begins", "made" and "reused" with a step's name, "planned", "asked".

    Raises:
        UsageError: an argument or a setting is wrong; nothing was started.
        RaftError: a step failed; what was done before is kept, and the same call goes on from there.
    """
    chosen = _settings(
        pipeline_file,
        {
            "corpus": [str(part) for part in ([corpus] if isinstance(corpus, str | Path) else corpus or [])] or None,
            "generator.model": generator,
            "index.embedder": embedder,
            "student": student,
            "questions.per_chunk": questions_per_chunk,
            "questions.limit": limit,
            "seed": seed,
            "evaluation": evaluation,
            **(settings or {}),
        },
    )
    if not chosen.corpus:
        raise UsageError("No corpus is given.", hint="raft build FOLDER")
    sources, skipped = corpus_stage.find_sources(chosen.corpus)
    folder = Path(out) if out is not None else Path("runs") / _name_of(chosen.corpus)
    tell = listen or (lambda event, facts: None)
    meter: list[Callable[[], dict[str, float]]] = []
    run = Run(
        folder,
        meter=lambda: meter[0]() if meter else {},
        report=lambda name, state: tell(state, {"step": name, "line": run.manifest["steps"].get(name, {})}),
    )
    with run.writing(), closing(Ledger(chosen.ledger or folder / "ledger.sqlite")) as ledger:
        collection = run.manifest.get("collection") or f"raft-{hashlib.sha256(os.urandom(16)).hexdigest()[:12]}"
        seams = _seams(folder, chosen, ledger, collection, tell)
        meter.append(lambda: dict(seams.generator.totals))  # type: ignore[attr-defined]
        run.describe(
            settings=chosen.model_dump(mode="json"),
            corpus=list(chosen.corpus),
            skipped=[list(entry) for entry in skipped],
            collection=collection,
            models={
                "generator": seams.generator.identity,
                "embedder": seams.embedder.identity,
                "student": seams.student.identity,
            },
        )
        pipeline.build(run, chosen, seams, sources, way=_way(chosen), listen=tell)
    return Built(folder)


def load(folder: str | Path) -> Built:
    """Open a run directory for reading.

    Raises:
        UsageError: there is none at `folder`.
    """
    return Built(folder)


def state(folder: str | Path) -> dict[str, Any]:
    """Return the summary of a run, what its ledger was ever asked (`spent`), and whether a build is `running`.

    Raises:
        UsageError: there is no run directory at `folder`.
    """
    built = Built(folder)
    path = built.settings.ledger or built.folder / "ledger.sqlite"
    spent: list[dict[str, Any]] = []
    if path.is_file():
        with closing(Ledger(path)) as ledger:
            spent = ledger.spent()
    return {"summary": built.summary(), "spent": spent, "running": is_locked(built.folder)}


def table(folder: str | Path, name: str, *, only: str | None = None) -> pl.DataFrame:
    """Return a table of a run by its short name ("cleaned"), with `only` the rows that have that word.

    Args:
        folder: the run directory.
        name: documents, chunks, questions, failures, cleaned, examples or eval.
        only: "kept", "dropped", or the value of a row's split, reason or kind.

    Raises:
        UsageError: there is no run, or no such table.
        DamagedArtifact: the table is missing or damaged.
    """
    known = {file.split(".")[0]: file for file in tables.ARTIFACTS}
    if name not in known:
        raise UsageError(
            f"There is no table {name!r}; there are {', '.join(known)}.", hint=f"raft show {folder} cleaned"
        )
    found = Built(folder)._run.read(known[name])
    if only is None:
        return found
    columns = [pl.col(column) for column in ("split", "reason", "kind") if column in found.columns]
    if not columns:
        raise UsageError(f"The rows of {name} have no split, reason or kind.", hint=f"raft show {folder} {name}")
    if only in ("kept", "dropped") and "reason" in found.columns:
        return found.filter(pl.col("reason").is_null() == (only == "kept"))
    return found.filter(pl.any_horizontal([column == only for column in columns]))


def export(folder: str | Path, *, format: str, out: str | Path | None = None) -> Path:
    """Write the training rows of a run in the form that a trainer or service takes.

    Args:
        folder: the run directory.
        format: "openai" (chat JSONL), "axolotl" (chat JSONL and its YAML) or "hf" (a `datasets.DatasetDict` on disk).
        out: where to; None: `export-<format>` in the run directory.

    Returns:
        The folder that was written.

    Raises:
        UsageError: there is no run, or the format is unknown.
    """
    run = Built(folder)
    target = Path(out) if out is not None else run.folder / f"export-{format}"
    return exporting.export(run.examples, run.settings.student, format=format, out=target)


def initialise(folder: str | Path) -> list[Path]:
    """Copy the package's pipelines and prompts into `folder` for editing, and write a commented YAML beside them.

    Files that are there already are left alone.

    Returns:
        The files that were written.
    """
    target = Path(folder)
    files = {
        f"{kind}/{name}": text for kind in ("pipelines", "prompts") for name, text in prompts.packaged(kind).items()
    }
    head = f"# raft build CORPUS --pipeline {target / 'raft.yaml'}\n# Paths are relative to this file.\n\n"
    files["raft.yaml"] = head + config.commented_yaml({"prompts": "prompts"})
    written = []
    try:
        for name, text in files.items():
            path = target / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                artifacts.atomically(path, text)
                written.append(path)
    except OSError as error:
        raise UsageError(
            f"The folder cannot be written to: {error.strerror}.", where=error.filename, hint="raft init another-folder"
        ) from None
    return written


def _settings(file: str | Path | None, overrides: Mapping[str, Any]) -> config.Settings:
    given = {key: value for key, value in overrides.items() if value is not None}
    if file is None:
        return config.load(None, given)
    path = Path(file)
    known = prompts.packaged("pipelines")
    if not path.exists() and f"{file}.yaml" in known:
        return config.load_text(known[f"{file}.yaml"], given, where=f"{file}.yaml")
    return config.load(path, given)


def _seams(
    folder: Path, settings: config.Settings, ledger: Ledger, collection: str, tell: pipeline.Listen
) -> pipeline.Seams:
    embedder = CachedEmbedder(open_embedder(settings.index.embedder, settings.index.api_base), ledger)
    chosen = settings.generator
    model: HostedModel | LocalModel
    if models.is_hosted(chosen.model):
        model = HostedModel(
            chosen.model, api_base=chosen.api_base, concurrency=chosen.concurrency, timeout=chosen.timeout
        )
    else:
        model = LocalModel(chosen.model, batch=chosen.batch)
    return pipeline.Seams(
        generator=AskingGenerator(
            model,
            ledger,
            attempts=chosen.attempts,
            progress=lambda new, replayed: tell("asked", {"new": new, "replayed": replayed}),
        ),
        embedder=embedder,
        student=models.tokenizer(settings.student),
        indexes=_indexes(folder, settings, embedder, collection),
    )


def _indexes(folder: Path, settings: config.Settings, embedder: Any, collection: str) -> Indexes:
    return Indexes(folder, embedder, hybrid=settings.index.hybrid, url=settings.index.url, collection=collection)


def _way(settings: config.Settings) -> str:
    if settings.questions.way != "auto":
        return settings.questions.way
    return "items" if models.is_hosted(settings.generator.model) else "answer_first"


def _name_of(corpus: Sequence[str]) -> str:
    path = Path(corpus[0])
    plain = path.name if path.exists() else ""
    return (Path(plain).stem if path.is_file() else plain) or (path.resolve().name if path.exists() else "corpus")
