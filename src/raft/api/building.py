"""Building: settings in, a run directory out."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from raft import prompts, settings
from raft.api import models
from raft.api.budgets import cost_context
from raft.api.engine import open_engine, shards_of
from raft.api.models import open_components
from raft.api.run import Built, one_of, tell_step, together
from raft.backends import hub
from raft.backends.hosted.providers import look_for
from raft.corpus import remote
from raft.corpus.documents import Source, find_sources
from raft.curation import decisions, learned, reading, user_questions
from raft.curation.pairs import pairs_of
from raft.errors import RaftError, UsageError, place
from raft.kinds import KINDS
from raft.pipeline.asking import asked_later, examples, survey_chunks
from raft.pipeline.build import STEPS, Components, cut_chunks, make_all, set_aside
from raft.pipeline.counting import count_calls
from raft.pipeline.estimate import Estimate, confirm
from raft.pipeline.read import changes, documents_listed, read_documents
from raft.pipeline.review import edited_by_hand
from raft.protocols import OnEvent
from raft.settings import Settings
from raft.store import folders, lineage
from raft.store.budget import Budget, enter
from raft.store.ledger import Ledger
from raft.store.run import Run
from raft.store.shards import merge_left
from raft.text import at_home, is_address


class Options(TypedDict, total=False):
    """What a build and its estimate are told beside corpus and run directory; see `build`."""

    pipeline: str | Path | None
    pipeline_file: str | Path | None
    generator: str | None
    embedder: str | None
    student: str | None
    questions_per_chunk: float | None
    limit: int | None
    seed: int | None
    eval: str | Path | None
    evaluation: str | Path | None
    qa: str | Path | Sequence[str | Path] | None
    engine: str | None
    decisions: str | Path | None
    max_cost: float | None
    price: tuple[float, float] | None
    local_only: bool | None
    settings: Mapping[str, Any] | None


_SETTINGS = {
    "generator": "generator.model",
    "embedder": "index.embedder",
    "questions_per_chunk": "questions.per_chunk",
    "limit": "questions.limit",
    "qa": "questions.qa",
    "engine": "engine.kind",
    "max_cost": "generator.max_cost",
}
"""Settings that an option names in short; the others are called as they are."""


@dataclass(frozen=True)
class Task:
    """A build that was described and not begun: `skipped` are files that are not read, each with the reason."""

    settings: Settings
    sources: Sequence[Source]
    skipped: Sequence[tuple[str, str]]
    folder: Path
    strategy: str
    pipeline: str | None = None


@dataclass
class OpenRun:
    """A run directory that is being written to, with what it takes; `step` is the one that it has come to."""

    task: Task
    run: Run
    ledger: Ledger
    collection: str
    components: Components
    step: str = ""


def build(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
    **options: Unpack[Options],
) -> Built:
    """Build a clean RAFT training set and an index from a corpus; what was done before is not done again.

    Args:
        corpus: files, folders or globs; None: those of the pipeline file.
        out: the run directory; None: `runs/<name of the corpus>`.
        on_event: told what happens: "begins", "made" and "reused" with a step's name, "changes" (names of files that
            are `changed`, `new` or `gone`), "edited" (`files` of rows that were changed by hand and are written anew),
            "left out" (sentences of what is not asked), "estimated", "planned", "asked", "embedded", "round" (with
            `questions.keep`: the number of the `round`, what was `asked` and `kept` so far, and `wanted`),
            "waiting" (the endpoint asks to), "refusing" (one of several endpoints, `where`, refuses all calls) and
            "stopping" (replies in flight are waited for). Where a model has several endpoints, "asked" and "embedded"
            have its `model` and `endpoints` (`where`, how many it `answered`, how often it was `left_out`, its last
            `words`, and whether it was `denied`).
        **options: any of these (`Options`), each None where it is not said:
            pipeline: a YAML file, or the name of one that comes with the package ("embedded", "hosted").
            generator: the model that writes the questions.
            embedder: the model that makes the vectors.
            student: the small model whose tokens training rows are counted in.
            questions_per_chunk: questions asked for, a chunk, on average.
            limit: at most so many questions, spread evenly over the documents.
            seed: seed of every random choice.
            eval: your own questions (JSONL with `question`, `answers` and optional `document`).
            qa: a file, or several, of questions and answers that you have already (CSV, JSON, JSONL), to learn from
                like generated ones; the chunk that bears each is found. With a `limit` of 0 there are no others.
            engine: "local", or "ray" to have the shards of a Ray cluster do the work (settings `engine`).
            decisions: what people have decided on rows, beside the run's own (JSONL, as `review` writes it).
            pipeline_file, evaluation: other names of `pipeline` and `eval`.
            max_cost: dollars that the run may cost in all, over all its builds; None: what was said last time.
            price: dollars per million tokens that the generator reads and writes; None: litellm's list.
            local_only: refuse every model, index and download that is not on this machine.
            settings: any other setting by its dotted name, e.g. `{"index.k": 8}`, or nested; one that contradicts an
                option is an error.

    Raises:
        TypeError: there is no such option.
        UsageError: an argument or a setting is wrong, or the build may cost more than `generator.confirm_above` (or
            nobody knows what) and has no `max_cost`; no model was asked.
        RaftError: a step failed, or the cap would be passed; what was done before is kept, and the same call goes on
            from there.
    """
    task = _described(corpus, out, options)
    on_event = on_event or (lambda event, facts: None)
    if _asks(task) and "questions" not in Run(task.folder).manifest["steps"]:
        look_for(task.settings.generator.model, task.settings.generator.api_base)
    with _opened(task, on_event, building=True) as site:
        if found := changes(site.run, site.task.sources):
            on_event("changes", found)
        if edited := edited_by_hand(site.run):
            on_event("edited", {"files": edited})
        make_all(
            site.run,
            site.task.settings,
            site.components,
            site.task.sources,
            strategy=task.strategy,
            on_event=on_event,
        )
    return Built(task.folder)


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
        **options: as for `build`.

    Raises:
        TypeError: there is no such option.
        UsageError: an argument or a setting is wrong.
        RaftError: no document can be read, or the sample cannot be asked for.
    """
    if sample < 0:
        raise UsageError(f"A sample of {sample} requests cannot be taken.", where="sample", hint="--sample 10")
    task = _described(corpus, out, options)
    if sample and _asks(task):
        models.check_keys({task.settings.generator.model: task.settings.generator.api_base})
    on_event = on_event or (lambda event, facts: None)
    with _opened(task, on_event, building=False) as site:
        found = _estimated(site.task, site, on_event, sample)
        spent = Budget(site.ledger, run=site.collection, model="", price=None, cap=None).spent
        return replace(found, spent=spent)


def _described(corpus: str | Path | Sequence[str | Path] | None, out: str | Path | None, options: Options) -> Task:
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        known = ", ".join(sorted(["out", "on_event", *Options.__annotations__]))
        raise TypeError(f"a build has no option {', '.join(sorted(unknown))}; it has {known}")
    given: dict[str, Any] = {_SETTINGS.get(name, name): value for name, value in options.items()}
    file = one_of(**{name: given.pop(name, None) for name in ("pipeline", "pipeline_file")})
    given["evaluation"] = one_of(**{name: given.pop(name, None) for name in ("eval", "evaluation")})
    more = given.pop("settings", None) or {}
    given["generator.input_price"], given["generator.output_price"] = given.pop("price", None) or (None, None)
    given["corpus"] = [str(part) for part in ([corpus] if isinstance(corpus, str | Path) else corpus or [])] or None
    chosen = settings.named(file, together(given, more))
    if not chosen.corpus:
        raise UsageError("No corpus is given.", hint="raft build .   (or the folder of your documents)")
    models.check(chosen)
    if chosen.evaluation:  # looked at before the work
        user_questions.register(chosen.evaluation)
    reading.chosen(chosen.cleaning, chosen.prompts, seed=chosen.seed)  # a rubric that is none is told at once
    if chosen.cleaning.learned:
        _check_scorer(chosen.cleaning.learned)
    examples(chosen)
    if chosen.questions.reword and chosen.generator.model.rpartition("/")[2].lower().startswith("smollm2-135m"):
        raise UsageError(
            f"{chosen.generator.model} cannot word questions anew: it repeats them, or asks for something else.",
            where="questions.reword",
            hint="--generator openai/gpt-4o-mini   (or another capable model), or --set questions.reword=0",
        )
    pairs_of(chosen.questions)  # looked at before the work
    if chosen.questions.limit == 0 and not chosen.questions.qa:
        hint = "--limit 1   (or more; or name a file of pairs that you have already behind --qa)"
        raise UsageError("questions.limit is 0, and no pairs are given.", where="questions.limit", hint=hint)
    if chosen.decisions:
        decisions.read(chosen.decisions)
    remote.check(chosen.corpus, local_only=chosen.local_only)
    sources, skipped = [], []  # type: list[Source], list[tuple[str, str]]
    if not any(map(is_address, chosen.corpus)):  # else they are found once the run directory is held
        sources, skipped = find_sources(chosen.corpus, besides=_not_documents(chosen, file))
    folder = place(out, "--out") if out is not None else Path("runs") / _name_of(chosen.corpus)
    if chosen.generator.max_cost is None:  # a cap that the run was given before holds until another one is given
        cap = Run(folder).manifest.get("settings", {}).get("generator", {}).get("max_cost")
        chosen = settings.changed(chosen, {"generator.max_cost": cap})
    if not chosen.answering.false_answers:  # so does what a refusal head was learned for
        rate = Run(folder).manifest.get("settings", {}).get("answering", {}).get("false_answers", 0.0)
        chosen = settings.changed(chosen, {"answering.false_answers": rate})
    strategy = chosen.questions.way
    if strategy == "auto":
        strategy = "items" if hub.is_hosted(chosen.generator.model) else "rules_first"
    _check_kinds(chosen, strategy)
    return Task(chosen, sources, skipped, folder, strategy, None if file is None else str(file))


def _check_kinds(chosen: Settings, strategy: str) -> None:
    asked = [kind for kind in chosen.questions.kinds if KINDS[kind].sentences]
    if asked and strategy != "items" and chosen.questions.limit != 0:
        others = [kind for kind in chosen.questions.kinds if kind not in asked]
        raise UsageError(
            f"Questions of the kind {asked[0]}, answered in sentences, are asked of capable models alone.",
            where=f"questions.way={strategy}, questions.kinds=[{', '.join(chosen.questions.kinds)}]",
            hint="--set questions.way=items with a model of 3 billion parameters or more, or --generator openai/NAME"
            + (f"; or --set questions.kinds=[{','.join(others)}]" if others else ""),
        )


def _check_scorer(name: str) -> None:
    if hub.is_hosted(model := learned.load(name).model):
        what = f"{model} is hosted, and tells no likelihoods: a learned filter needs a local model."
        hint = f"--set cleaning.learned={learned.BROUGHT[0]}"
        raise UsageError(what, where=f"cleaning.learned: {name}", hint=hint)


def _asks(task: Task) -> bool:
    """Tell whether a build may ask its generator anything."""
    writes = task.settings.questions.limit != 0 and task.strategy != "rules"
    return writes or any(asked_later(task.settings).values())


def _not_documents(chosen: Settings, file: str | Path | None) -> dict[Path, str]:
    """Return files and folders that may lie in a corpus and say nothing of its subject, with what they are."""
    home = at_home(file).parent if file is not None else Path()
    copies = [home / kind / name for kind in ("pipelines", "prompts") for name in prompts.packaged(kind)]
    found = {chosen.evaluation: "your questions to measure with", chosen.prompts: "a folder of prompts"}
    found |= dict.fromkeys(chosen.questions.qa, "your pairs of questions and answers")
    found |= {
        chosen.questions.like: "examples of how people ask",
        chosen.decisions: "what people decided",
        Path(chosen.cleaning.learned) if chosen.cleaning.learned else None: "weights of the learned filter",
        chosen.ledger: "the ledger",
        chosen.training.rehearsal_file: "rows to rehearse",
    }
    found |= {at_home(file): "the pipeline file", **dict.fromkeys(copies, "a copy of raft's")} if file else {}
    return {at_home(path).resolve(): what for path, what in found.items() if path is not None}


def _name_of(corpus: Sequence[str]) -> str:
    path = Path(corpus[0])
    if is_address(corpus[0]):
        return remote.name_of(corpus[0])
    if not path.exists():
        return "corpus"
    return (path.stem if path.is_file() else path.name) or path.resolve().name


@contextmanager
def _opened(task: Task, on_event: OnEvent, *, building: bool) -> Iterator[OpenRun]:
    """Hold the run directory for writing, with the models and indexes open.

    What the run was built with stays in the manifest until it is built with something else. Where a build may cost
    money, all of it is estimated before its first step, told ("estimated"), and refused where it has to be confirmed.
    """
    chosen, folder = task.settings, task.folder
    sites: list[OpenRun] = []
    unconfirmed = building and (hub.is_hosted(chosen.generator.model) or hub.is_hosted(chosen.index.embedder))

    def report(name: str, state: str) -> None:
        nonlocal unconfirmed
        if state == "begins" and sites:
            sites[0].step = name
            if unconfirmed:
                found = _estimated(
                    sites[0].task, sites[0], lambda event, facts: on_event(event, facts) if event == "begins" else None
                )
                on_event("estimated", found.summary())
                confirm(found)
                if any(part.purpose == "questions" and part.calls > part.answered for part in found.parts):
                    models.check_keys({chosen.generator.model: chosen.generator.api_base})
                unconfirmed = False
            if building:  # where it is stopped now, what goes on has to be told the same
                run.describe(begun=told)
            enter(sites[0].ledger, sites[0].collection, name)
        tell_step(run, on_event, name, state)

    run = Run(folder, meter=lambda: dict(sites[0].components.generator.totals) if sites else {}, report=report)  # type: ignore[attr-defined]
    place, is_new = chosen.ledger or folder / "ledger.sqlite", not folder.exists()
    with (
        run.writing(),
        nullcontext(_fetched(task, is_new=is_new, building=building)) as here,
        closing(Ledger(place)) as ledger,
        ExitStack() as stack,
    ):
        name, cap = ledger.run_at(folder)  # the ledger knows them where the manifest was lost
        collection = run.manifest.get("collection") or name or f"raft-{hashlib.sha256(os.urandom(16)).hexdigest()[:12]}"
        if chosen.generator.max_cost is None and cap is not None:
            chosen = settings.changed(chosen, {"generator.max_cost": cap})
        ledger.register(collection, folder, chosen.generator.max_cost if building else None)
        if building and "questions" not in run.manifest["steps"]:
            asks = {chosen.generator.model: chosen.generator.api_base} if _asks(task) else {}
            models.check_keys({chosen.index.embedder: chosen.index.api_base, **asks}, ledger)
        merge_left(shards_of(folder), ledger.path)  # what a build had been sent when it was killed
        engine = stack.enter_context(open_engine(folder, chosen, ledger, collection, on_event))
        components = open_components(folder, chosen, ledger, collection, on_event, engine=engine)
        facts: dict[str, Any] = {
            "settings": chosen.model_dump(mode="json"),
            "corpus": list(chosen.corpus),
            "home": os.path.relpath(Path.cwd(), folder.resolve()),
            "pipeline": task.pipeline,
            "skipped": [list(entry) for entry in here.skipped],
            "models": {name: getattr(components, name).identity for name in ("generator", "embedder", "student")},
        }
        before = run.manifest.get("settings")
        if not building:  # a cap is what a build is given
            facts["settings"]["generator"]["max_cost"] = None
        told = {name: facts[name] for name in ("settings", "corpus", "home", "pipeline")}
        if before is None or not run.manifest["steps"]:  # nothing is there that could be taken for built with them
            run.describe(**facts, collection=collection)
        elif building:  # money is the run's, however far this build comes
            money = {**before.get("generator", {}), "max_cost": chosen.generator.max_cost}
            run.describe(settings={**before, "generator": money}, collection=collection)
        lineage.trust(run.manifest["steps"], STEPS)
        sites.append(OpenRun(replace(here, settings=chosen), run, ledger, collection, components))
        yield sites[0]
        if building:
            run.describe(**facts, begun=None)
            run.end_trial()


def _fetched(task: Task, *, is_new: bool, building: bool) -> Task:
    """Return a build whose documents lie on this machine; those at addresses are fetched into the run directory.

    Where nothing can be had, a run directory that `is_new` goes again. What a build does not list any more goes, too.
    """
    chosen, cache = task.settings, task.folder / "scratch" / "fetched"
    if any(map(is_address, chosen.corpus)):
        try:
            corpus, apart = remote.fetch(chosen.corpus, cache)
            sources, skipped = find_sources(corpus, besides=_not_documents(chosen, task.pipeline))
        except RaftError:
            if is_new:
                folders.abandon(task.folder)
            raise
        task = replace(task, sources=sources, skipped=sorted([*skipped, *apart]))
    if building:
        remote.forget(chosen.corpus, cache)
    return task


def _estimated(task: Task, site: OpenRun, on_event: OnEvent, sample: int = 0) -> Estimate:
    """Return what a build would ask from where it has come to; what that takes is made in a trial, and kept for it."""
    trial = site.run.trial(lambda name, state: tell_step(trial, on_event, name, state))
    read_documents(trial, task.settings, task.sources, site.components.workers)
    if task.settings.evaluation:  # a page or a document that is not there ends the build; told before anything is paid
        user_questions.own_questions(task.settings, task.settings.evaluation, documents_listed(trial))
    aside = set_aside(trial, task.settings)
    cut_chunks(trial, task.settings, site.components.embedder, site.components.workers)
    survey_chunks(trial, task.settings, strategy=task.strategy, aside=aside)
    if sample:
        enter(site.ledger, site.collection, "sample")
    found = count_calls(
        trial,
        task.settings,
        cost_context(task.settings, site.ledger, site.collection, site.components),
        strategy=task.strategy,
        begin=site.step,
        sample=sample,
        ask=site.components.generator.complete,
    )
    lost = tuple((path, reason) for path, reason in trial.manifest["steps"]["documents"]["notes"].get("unreadable", []))
    return replace(found, run=str(site.run.folder), unreadable=lost)
