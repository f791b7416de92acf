"""Building: settings in, a run directory out."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from raft import prompts
from raft import settings as config
from raft.api import models
from raft.api.models import cost_context, open_components
from raft.api.run import Built
from raft.backends import hub
from raft.corpus import documents as corpus_stage
from raft.errors import UsageError
from raft.pipeline import build as steps
from raft.pipeline.build import STEPS, Components
from raft.pipeline.estimate import Estimate, confirm
from raft.pipeline.estimate import estimate as count_calls
from raft.protocols import OnEvent
from raft.settings import Settings
from raft.store import lineage
from raft.store.budget import Budget, enter
from raft.store.ledger import Ledger
from raft.store.run import Run


class Options(TypedDict, total=False):
    """What a build and its estimate are told beside corpus and run directory; see `build`."""

    pipeline_file: str | Path | None
    generator: str | None
    embedder: str | None
    student: str | None
    questions_per_chunk: float | None
    limit: int | None
    seed: int | None
    evaluation: str | Path | None
    max_cost: float | None
    price: tuple[float, float] | None
    local_only: bool | None
    settings: Mapping[str, Any] | None


@dataclass(frozen=True)
class Task:
    """A build that was described and not begun.

    Attributes:
        settings: the experiment.
        sources: the corpus' files.
        skipped: files that are none of it, with the reason.
        folder: the run directory.
        way: how questions are asked.
    """

    settings: Settings
    sources: Sequence[corpus_stage.Source]
    skipped: Sequence[tuple[str, str]]
    folder: Path
    way: str


@dataclass
class OpenRun:
    """A run directory that is being written to, with what it takes; `step` is the one that it has come to."""

    run: Run
    ledger: Ledger
    collection: str
    components: Components
    step: str = ""


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
    max_cost: float | None = None,
    price: tuple[float, float] | None = None,
    local_only: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
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
        max_cost: dollars that the run may cost in all, over all its builds; None: what was said last time.
        price: dollars per million tokens that the generator reads and writes; None: litellm's list.
        local_only: refuse every model, index and download that is not on this machine.
        settings: any other setting by its dotted name, e.g. `{"index.k": 8}`.
        on_event: told what happens: "begins", "made" and "reused" with a step's name, "estimated", "planned", "asked".

    Raises:
        UsageError: an argument or a setting is wrong, or the build may cost more than `generator.confirm_above` (or
            nobody knows what) and has no `max_cost`; no model was asked.
        RaftError: a step failed, or the cap would be passed; what was done before is kept, and the same call goes on
            from there.
    """
    task = described(
        corpus,
        out,
        pipeline_file=pipeline_file,
        generator=generator,
        embedder=embedder,
        student=student,
        questions_per_chunk=questions_per_chunk,
        limit=limit,
        seed=seed,
        evaluation=evaluation,
        max_cost=max_cost,
        price=price,
        local_only=local_only,
        settings=settings,
    )
    on_event = on_event or (lambda event, facts: None)
    with opened(task, on_event, building=True) as site:
        steps.build(site.run, task.settings, site.components, task.sources, way=task.way, on_event=on_event)
    return Built(task.folder)


def described(
    corpus: str | Path | Sequence[str | Path] | None, out: str | Path | None, **options: Unpack[Options]
) -> Task:
    """Return what is to be built, with all files that belong to it.

    Raises:
        UsageError: an argument or a setting is wrong, or `local_only` is set and something is not on this machine.
    """
    prices = options.get("price") or (None, None)
    chosen = _settings(
        options.get("pipeline_file"),
        {
            "corpus": [str(part) for part in ([corpus] if isinstance(corpus, str | Path) else corpus or [])] or None,
            "generator.model": options.get("generator"),
            "index.embedder": options.get("embedder"),
            "student": options.get("student"),
            "questions.per_chunk": options.get("questions_per_chunk"),
            "questions.limit": options.get("limit"),
            "seed": options.get("seed"),
            "evaluation": options.get("evaluation"),
            "generator.max_cost": options.get("max_cost"),
            "generator.input_price": prices[0],
            "generator.output_price": prices[1],
            "local_only": options.get("local_only"),
            **(options.get("settings") or {}),
        },
    )
    if not chosen.corpus:
        raise UsageError("No corpus is given.", hint="raft build FOLDER")
    models.check(chosen)
    sources, skipped = corpus_stage.find_sources(chosen.corpus)
    folder = Path(out) if out is not None else Path("runs") / _name_of(chosen.corpus)
    if chosen.generator.max_cost is None:
        chosen = config.changed(chosen, {"generator.max_cost": _cap(folder)})
    return Task(chosen, sources, skipped, folder, _way(chosen))


@contextmanager
def opened(task: Task, on_event: OnEvent, *, building: bool) -> Iterator[OpenRun]:
    """Hold the run directory for writing, with the models and indexes open.

    What the run was built with stays in the manifest until it is built with something else.

    Args:
        task: what is to be built.
        on_event: told of steps and replies.
        building: it is built now. Where that may cost money, the whole build is estimated before its first step, told
            ("estimated"), and refused where it has to be confirmed.
    """
    chosen, folder = task.settings, task.folder
    paid = hub.is_hosted(chosen.generator.model) or hub.is_hosted(chosen.index.embedder)
    sites: list[OpenRun] = []
    passed: list[Estimate] = []

    def report(name: str, state: str) -> None:
        if state == "begins" and sites:
            sites[0].step = name
            if paid:
                check()
            enter(sites[0].ledger, sites[0].collection, name)
        on_event(state, {"step": name, "line": run.manifest["steps"].get(name, {})})

    def check() -> None:
        if building and sites and not passed:
            found = estimated(
                task, sites[0], lambda event, facts: on_event(event, facts) if event == "begins" else None
            )
            on_event("estimated", found.summary())
            confirm(found)
            passed.append(found)

    run = Run(folder, meter=lambda: dict(sites[0].components.generator.totals) if sites else {}, report=report)  # type: ignore[attr-defined]
    with run.writing(), closing(Ledger(chosen.ledger or folder / "ledger.sqlite")) as ledger:
        collection = run.manifest.get("collection") or f"raft-{hashlib.sha256(os.urandom(16)).hexdigest()[:12]}"
        components = open_components(folder, chosen, ledger, collection, on_event, check=check)
        facts: dict[str, Any] = {
            "settings": chosen.model_dump(mode="json"),
            "corpus": list(chosen.corpus),
            "skipped": [list(entry) for entry in task.skipped],
            "models": {
                "generator": components.generator.identity,
                "embedder": components.embedder.identity,
                "student": components.student.identity,
            },
        }
        told = run.manifest.get("settings")
        if told is None or not run.manifest["steps"]:  # nothing is there that could be taken for built with them
            run.describe(**facts, collection=collection)
        elif building:  # money is the run's, however far this build comes
            cap = chosen.generator.max_cost
            run.describe(
                settings={**told, "generator": {**told.get("generator", {}), "max_cost": cap}}, collection=collection
            )
        lineage.trust(run.manifest["steps"], STEPS)
        sites.append(OpenRun(run, ledger, collection, components))
        yield sites[0]
        if building:
            run.describe(**facts)
            run.end_trial()


def estimated(task: Task, site: OpenRun, on_event: OnEvent, sample: int = 0) -> Estimate:
    """Return what a build would ask from where it has come to; what that takes is made in a trial, and kept for it.

    Args:
        task: what is to be built.
        site: its run directory, of which nothing is changed.
        on_event: told of the steps of the trial.
        sample: so many requests are asked in earnest, to learn from them.
    """
    trial = site.run.trial(
        lambda name, state: on_event(state, {"step": name, "line": trial.manifest["steps"].get(name, {})})
    )
    steps.read_documents(trial, task.settings, task.sources)
    aside = steps.set_aside(trial, task.settings)
    steps.cut_chunks(trial, task.settings, site.components.embedder)
    steps.survey_chunks(trial, task.settings, way=task.way, aside=aside)
    if sample:
        enter(site.ledger, site.collection, "sample")
    found = count_calls(
        trial,
        task.settings,
        cost_context(task.settings, site.ledger, site.collection, site.components),
        way=task.way,
        begin=site.step,
        sample=sample,
        ask=site.components.generator.complete,
    )
    return replace(found, run=str(site.run.folder))


def _settings(file: str | Path | None, overrides: Mapping[str, Any]) -> Settings:
    given = {key: value for key, value in overrides.items() if value is not None}
    if file is None:
        return config.load(None, given)
    path = Path(file)
    known = prompts.packaged("pipelines")
    if not path.exists() and f"{file}.yaml" in known:
        return config.load_text(known[f"{file}.yaml"], given, where=f"{file}.yaml")
    return config.load(path, given)


def _cap(folder: Path) -> float | None:
    """Return the cap that a run was given before: it holds until another one is given."""
    cap = Run(folder).manifest.get("settings", {}).get("generator", {}).get("max_cost")
    return None if cap is None else float(cap)


def _way(settings: Settings) -> str:
    if settings.questions.way != "auto":
        return settings.questions.way
    return "items" if hub.is_hosted(settings.generator.model) else "answer_first"


def _name_of(corpus: Sequence[str]) -> str:
    path = Path(corpus[0])
    plain = path.name if path.exists() else ""
    return (Path(plain).stem if path.is_file() else plain) or (path.resolve().name if path.exists() else "corpus")


def estimate(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    sample: int = 0,
    on_event: OnEvent | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Say what a build would ask and cost; nothing is spent, but for a sample.

    Documents are read, chunks are cut and surveyed as the build would, and kept for it; nothing of a run that is there
    already is changed.

    Args:
        corpus: as for `build`.
        out: as for `build`.
        sample: so many requests, spread evenly, are asked to learn from their usage; they cost money, and their
            replies are kept.
        on_event: as for `build`.
        options: the other arguments of `build`.

    Raises:
        UsageError: an argument or a setting is wrong.
        RaftError: no document can be read, or the sample cannot be asked for.
    """
    if sample < 0:
        raise UsageError(f"A sample of {sample} requests cannot be taken.", where="sample", hint="--sample 10")
    task = described(corpus, out, **options)
    on_event = on_event or (lambda event, facts: None)
    with opened(task, on_event, building=False) as site:
        found = estimated(task, site, on_event, sample)
        return replace(found, spent=_spent(site.ledger, site.collection))


def _spent(ledger: Ledger, run: str) -> float:
    return Budget(ledger, run=run, model="", price=None, cap=None).spent
