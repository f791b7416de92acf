"""Building: settings in, a run directory out."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from raft import config, pipeline, prompts
from raft.api.opened import Built
from raft.api.seams import open_seams
from raft.backends import models
from raft.errors import UsageError
from raft.ledger import Ledger
from raft.run import Run
from raft.settings import Settings
from raft.stages import corpus as corpus_stage


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
        seams = open_seams(folder, chosen, ledger, collection, tell)
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


def _settings(file: str | Path | None, overrides: Mapping[str, Any]) -> Settings:
    given = {key: value for key, value in overrides.items() if value is not None}
    if file is None:
        return config.load(None, given)
    path = Path(file)
    known = prompts.packaged("pipelines")
    if not path.exists() and f"{file}.yaml" in known:
        return config.load_text(known[f"{file}.yaml"], given, where=f"{file}.yaml")
    return config.load(path, given)


def _way(settings: Settings) -> str:
    if settings.questions.way != "auto":
        return settings.questions.way
    return "items" if models.is_hosted(settings.generator.model) else "answer_first"


def _name_of(corpus: Sequence[str]) -> str:
    path = Path(corpus[0])
    plain = path.name if path.exists() else ""
    return (Path(plain).stem if path.is_file() else plain) or (path.resolve().name if path.exists() else "corpus")
