"""Measuring: a run directory in, answers of every system, a verdict and a report out."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from raft import prompts
from raft.api import measured, models
from raft.api.models import open_model, open_refusal, open_retriever, question_embedder, refusal_lacks, uncached_search
from raft.api.run import Built, adapter_for, one_of, settings_of, together, writable
from raft.backends import hub
from raft.backends.embedding import open_embedder
from raft.backends.local.weights import Weights
from raft.backends.trainers.sft import hardware
from raft.curation import split
from raft.curation.user_questions import own_questions
from raft.errors import DamagedArtifact, UsageError, typed
from raft.evaluation import capability, human, judge, summary
from raft.evaluation.metrics import sign_test, win_rate
from raft.evaluation.systems import BenchmarkModels, OpenedModel
from raft.pipeline.bench import ask_all, choose_exemplars, line_up, prepare, sections, trained_answers
from raft.pipeline.build import searched
from raft.pipeline.parts import Offered, each_part
from raft.pipeline.read import questions_in
from raft.pipeline.refusal import WRONG, wrong_references
from raft.pipeline.retriever import Card, opened, side_by_side, taught_by, used
from raft.pipeline.train import LEARNED
from raft.protocols import Embedder, OnEvent
from raft.rag.refusal import Refusal, question_digest
from raft.report.shown import Benchmark, Verdict
from raft.settings import Settings
from raft.settings.sections import Judge
from raft.store import adapters, artifacts
from raft.store.again import again, more_questions, option
from raft.store.budget import enter
from raft.store.fitness import Version
from raft.store.ledger import Ledger
from raft.store.run import Run
from raft.text.secrets import ApiBase
from raft.version import __version__

_BUILT_WITH = ("corpus", "evaluation", "chunking.", "questions.", "cleaning.", "split.", "examples.", "training.")
"""Settings that had their effect before there was anything to measure."""

_SHOWN = "generator was shown in questions.like"


def bench(
    folder: str | Path,
    *,
    questions: str | Path | None = None,
    adapter: str | None = None,
    version: str | None = None,
    larger: Sequence[str] = (),
    drop_leaks: bool = False,
    blind_pairs: int | None = None,
    blind: int | None = None,
    ratings: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
) -> Benchmark:
    """Measure the tuned model with retrieval against plain RAG and the other systems; write the report.

    Before the first training the untuned systems are measured: what there is to gain. What was answered before is
    taken from the ledger.

    Args:
        folder: the run directory.
        questions: your own questions (JSONL); None: the run's evaluation sets.
        adapter: id of the adapter; None: the current one.
        version: one of the registry's (`store.registry`). One that was made of an adapter is measured beside it, and
            its report lies in `benchmarks/<version>/`.
        larger: more models to compare with, by name.
        drop_leaks: leave out questions that the adapter was trained on, instead of refusing the file.
        blind_pairs: also write `blind.html` with so many anonymous pairs of answers for experts.
        blind: the same, as the flag is called.
        ratings: the file of choices that the blind page saved.
        settings: settings by dotted name that differ from the run's, e.g. `{"benchmark.min_gain": 0.1}`.
        on_event: told what happens ("asking", "begins", "made", "reused").

    Returns:
        The contents of `benchmark.json`.

    Raises:
        UsageError: there is no run, a file or a name is wrong, the questions collide with what was trained on, or
            `local_only` is set and something that would be asked is not on this machine.
    """
    begun = time.monotonic()
    changes = together({}, settings)
    _check_changeable(changes, folder)
    blind_pairs = one_of(blind=blind, blind_pairs=blind_pairs)
    on_event = on_event or (lambda event, facts: None)
    built = Built(folder)
    chosen = settings_of(built, changes)
    adapter, made, place = measured.to_measure(built, version, adapter)
    addresses = _addresses(chosen, larger)
    others = addresses | _judge(chosen)
    models.check(chosen, asked={chosen.student: None, **others})
    if ratings is not None and blind_pairs is None:  # looked at before the work
        human.read_ratings(ratings, _pairs(place))
    untrained = adapter is None and adapters.current(built.folder) is None
    checks = _checks(chosen.benchmark.capability, files_alone=untrained)
    run = writable(built, on_event)
    name = run.manifest["collection"]
    with run.writing(), closing(Ledger(chosen.ledger or run.folder / "ledger.sqlite")) as ledger, ExitStack() as stack:
        models.check_keys(others, ledger)
        enter(ledger, name, "benchmark")
        run.require(*searched(chosen), "examples")
        rows, wrong = _without_wrong(_questions(built, questions), run)
        tuned = None if untrained else adapter_for(run.folder, adapter, chosen.student)
        if tuned is None and (blind_pairs is not None or ratings is not None):
            raise UsageError(
                "There is no tuned model whose answers could be compared blindly.",
                where=run.folder,
                hint=f"raft train {typed(run.folder)}",
            )
        rows = _without_leaks(
            rows,
            tuned,
            run,
            chosen,
            question_embedder(chosen, ledger, name),
            again=None
            if drop_leaks
            else f"raft bench {typed(folder)} {f'--questions {questions} ' if questions else ''}--drop-leaks",
        )
        opener = partial(open_model, settings=chosen, ledger=ledger, run=name, on_event=on_event)
        weights = Weights(chosen.student)
        taking_part = _taking_part(run.folder, chosen, tuned, addresses, opener, weights=weights, made=made)
        retriever = stack.push(open_retriever(run.folder, chosen, name, lambda: ledger))
        searching = opened(run, retriever.embedder, open_embedder)  # before the work: it may be damaged
        refusals = partial(open_refusal, run, chosen, retriever.embedder, weights=weights)
        refusal = _promised(run, chosen, retriever.embedder, refusals(ledger=ledger))
        every, rows = rows.height, _without_calibrated(rows, refusal, run.folder)
        known = prepare(run, chosen, rows, retriever, taking_part, refusal=refusal)
        exemplars, tuning = choose_exemplars(run, chosen, taking_part, retriever, refusal=refusal, on_event=on_event)
        lineup = line_up(run, chosen, taking_part, known, exemplars)
        timings = ask_all(
            run,
            chosen,
            lineup,
            known,
            uncached_search(retriever, chosen, refusals(anew=True)),
            asker=used(run, retriever.embedder.identity),
            on_event=on_event,
        )
        general = capability.check_capability(checks, taking_part, on_event=on_event)
        card = adapters.read_card(tuned) if tuned is not None else None
        facts = summary.summary(
            run.read("answers.parquet"),
            known.questions,
            systems=[running.system for running in lineup],
            sources=known.sources,
            timings=timings,
            capability=general,
            training=adapters.excerpt(card) if card else None,
            baseline_tuning=tuning,
            prices={
                f"model:{one.model}": {"input": one.input_price, "output": one.output_price}
                for one in chosen.benchmark.larger
            },
            build_cost=_build_cost(run.manifest, ledger.spending(name), chosen.index.embedder),
            min_gain=chosen.benchmark.min_gain,
            k=chosen.index.k,
            header={
                "raft": __version__,
                "date": datetime.now(UTC).date().isoformat(),
                "run": str(folder),
                "hardware": hardware(),
                "shortened": known.shortened,
                "more_rows": option(more_questions(run.manifest["settings"])),
                "seconds": round(time.monotonic() - begun, 1),
                "wrong_references": wrong,
                "wording": run.manifest["steps"].get("cleaned", {}).get("notes", {}).get("likeness"),
                "refusal": refusal
                and {"least": refusal.least, "promised": refusal.promised, "left_out": every - rows.height},
            },
            trained=trained_answers(run),
            with_bleu=chosen.benchmark.bleu,
            sections=sections(run),
            unasked=known.unasked(),
            passages={p.chunk_id: p for own in known.passages.values() for shown in own.values() for p in shown},
        )
        facts |= {
            "version": made and made.id,
            "retriever": searching and _side_by_side(run, chosen, rows, retriever.embedder, searching),
            "parts": None,
            "earlier": measured.remembered(place, summary.digest_of(facts)),
        }
        measured.write(place, facts)  # what is asked from here on may fail, or be stopped
        if tuned is not None:
            apart = each_part(
                run,
                chosen,
                rows,
                taking_part,
                offered=Offered(
                    retriever.embedder,
                    searching,
                    refusal,
                    rule=refusals(ledger=ledger, least=chosen.answering.min_relevance),
                ),
                search=lambda asker: models.open_indexes(run.folder, chosen, retriever.embedder, name).open(
                    asker=asker
                ),
                verdict=facts["verdict"],
                exemplars=exemplars,
                on_event=on_event,
            )
            facts = _judged(
                _rated({**facts, "parts": apart}, place, chosen.seed, blind_pairs, ratings),
                place,
                chosen,
                taking_part.judge,
                on_event,
            )
            measured.write(place, facts)
        if tuned is not None and card is not None and tuned.parent == run.folder / "adapters":
            adapters.write_card(tuned, card)
    return Benchmark({**facts, "verdict": Verdict(facts["verdict"])})


def _checks(names: Sequence[str], *, files_alone: bool) -> list[capability.Check]:
    """Open what general capability is measured with, before anybody is asked; without an adapter nothing is fetched."""
    files = [name for name in names if Path(name).is_file() or name.endswith((".json", ".jsonl"))]
    return [capability.open_check(name, hub.rows) for name in (files if files_alone else names)]


def _check_changeable(changes: Mapping[str, Any], folder: str | Path) -> None:
    fixed = [name for name in changes if name.startswith(_BUILT_WITH) and name != "cleaning.similarity"]
    if "evaluation" in fixed:
        raise UsageError(
            "A benchmark takes your own questions as a file.",
            where="--set",
            hint=f"raft bench {typed(folder)} --questions {changes['evaluation']}",
        )
    if fixed:
        raise UsageError(
            f"A benchmark does not read {', '.join(fixed)}: it had its effect when the run was built or trained.",
            where="--set",
            hint=again(folder, {name: changes[name] for name in fixed}, remark="then raft train, and raft bench"),
        )


def _questions(built: Built, file: str | Path | None) -> pl.DataFrame:
    if file is not None:
        return own_questions(built.settings, Path(file), built.documents.select("doc_id", "path", "pages"))
    found = built.evaluation
    if found.is_empty():
        raise UsageError(
            "The run holds no questions to measure with.",
            where=built.folder / "eval.jsonl",
            hint=f"raft bench {typed(built.folder)} --questions questions.jsonl   (a file of yours)",
        )
    return found


def _without_wrong(rows: pl.DataFrame, run: Run) -> tuple[pl.DataFrame, list[dict[str, str]]]:
    """Return the questions but for those whose reference is wrong (`WRONG`), and these: their id and question."""
    left_out = pl.col("question_id").is_in(pl.Series(wrong_references(run), dtype=pl.String))
    kept = rows.filter(~left_out)
    if kept.is_empty():
        file = run.folder / WRONG
        hint = f"save it from {run.folder / 'report.html'} anew, or delete it"
        raise UsageError("The reference of each question is said to be wrong.", where=file, hint=hint)
    return kept, rows.filter(left_out).select("question_id", "question").unique(maintain_order=True).to_dicts()


def _promised(run: Run, settings: Settings, embedder: Embedder, refusal: Refusal | None) -> Refusal | None:
    """Return a refusal that keeps what is promised; without one, the report would be of another threshold."""
    if settings.answering.false_answers and (lack := refusal_lacks(run, settings, embedder)):
        hint = f"raft train {typed(run.folder)} --part refusal   (or --set answering.false_answers=0)"
        raise UsageError(f"Nothing can be promised: {lack}.", where="answering.false_answers", hint=hint)
    return refusal


def _without_calibrated(rows: pl.DataFrame, refusal: Refusal | None, folder: Path) -> pl.DataFrame:
    """Return the questions but for those that the threshold of refusals was set on: of them it promises too much."""
    digests = [question_digest(one) for one in rows["question"]] if refusal and refusal.calibrated else []
    kept = rows.filter([one not in refusal.calibrated for one in digests]) if refusal and digests else rows
    if kept.is_empty():
        raise UsageError(
            "The threshold of refusals was set on each of these questions.",
            where=folder / "refusal",
            hint=f"raft bench {typed(folder)} --questions questions.jsonl   (a file of yours, with others)",
        )
    return kept


def _side_by_side(
    run: Run, settings: Settings, rows: pl.DataFrame, embedder: Embedder, tuned: tuple[Card, Embedder]
) -> dict[str, Any]:
    """Return what search finds untuned and tuned, by question set, and whether the latter is used."""
    indexes = models.open_indexes(run.folder, settings, embedder, run.manifest["collection"])
    return side_by_side(run, settings, (embedder, lambda one: indexes.open(exact=True, asker=one)), rows, tuned)


def _without_leaks(
    rows: pl.DataFrame, adapter: Path | None, run: Run, settings: Settings, embedder: Embedder, *, again: str | None
) -> pl.DataFrame:
    """Return the questions that nothing measured learned from or was shown; `again` is said where some are refused."""
    parts = {"adapter was trained on": [], "tuned retriever was trained on": taught_by(run, embedder.identity)}
    if adapter:
        least = adapters.read_card(adapter).get("questions", 0)  # those of before told no number
        remade = f"rm -r {typed(adapter)} && raft train {typed(run.folder)}"
        parts["adapter was trained on"] = questions_in(adapter / LEARNED, least=least, hint=remade)
    shown = run.manifest.get("like") or []
    parts[_SHOWN] = [{"question_id": one, "question": one} for one in shown]
    for part, learned in parts.items():
        among = rows.filter(split="user") if part == _SHOWN else rows  # what was generated is of the corpus
        found = split.collisions(learned, among, embedder=embedder, similarity=settings.cleaning.similarity)
        if found and again:
            question, other = found[0]
            raise UsageError(
                f"{len(found)} of the {len(rows)} questions say the same as one that the {part}.",
                where=f"{other} and {question!r}",
                hint=f"{again}   (measures without them)",
            )
        rows = rows.filter(~pl.col("question_id").is_in([name for _, name in found]))
        if rows.is_empty():
            raise UsageError(
                f"The {part} each of these questions.",
                where=run.folder,
                hint=f"raft bench {typed(run.folder)} --questions questions.jsonl   (a file of yours, with others)",
            )
    return rows


def _taking_part(
    folder: Path,
    settings: Settings,
    tuned: Path | None,
    larger: Mapping[str, ApiBase],
    open_one: Callable[..., OpenedModel],
    *,
    weights: Weights,
    made: Version | None,
) -> BenchmarkModels:
    student = settings.student
    other = settings.benchmark.other_adapter if tuned is not None else None
    other = adapter_for(folder, str(other), student) if other is not None else None
    marking = settings.benchmark.judge
    before = measured.previous(folder, tuned, hub.identity(student)) if tuned is not None else None
    found = BenchmarkModels(
        base=open_one(student, weights=weights),
        tuned=open_one(student, adapter=tuned, weights=weights) if tuned else None,
        previous=open_one(student, adapter=before, weights=weights) if before else None,
        other=open_one(student, adapter=other, weights=weights) if other else None,
        larger=[open_one(name, api_base=address) for name, address in larger.items()],
        judge=open_one(marking.model, api_base=marking.api_base) if marking and tuned else None,
    )
    return measured.beside(found, folder, made, open_one) if made else found


def _addresses(settings: Settings, names: Sequence[str]) -> dict[str, ApiBase]:
    """Return the larger models of a benchmark, set and given by name, with their addresses."""
    known: dict[str, ApiBase] = {settings.generator.model: settings.generator.api_base}
    known |= {one.model: one.api_base for one in settings.benchmark.larger if one.api_base}
    return {name: known.get(name) for name in [*(one.model for one in settings.benchmark.larger), *names]}


def _build_cost(manifest: Mapping[str, Any], spending: Sequence[Mapping[str, Any]], embedder: str) -> float | None:
    """Return what the replies of a build cost, and its embeddings; None where some price is unknown."""
    lines = list(manifest["steps"].values())
    building = [row for row in spending if row["purpose"] not in ("benchmark", "ask")]
    rows = [row for row in building if row["model"] == embedder]
    if any(line.get("unpriced") for line in lines) or any(row["calls_without_price"] for row in rows):
        return None
    lost = sum(row["lost_cost"] for row in building)
    return float(sum(line.get("cost", 0.0) for line in lines) + sum(row["cost"] for row in rows) + lost)


def _pairs(folder: Path) -> list[human.Pair]:
    pages, hint = folder / "blind.json", f"raft bench {typed(folder)} --blind 50"
    try:
        return [human.Pair(**row) for row in json.loads(pages.read_bytes())]
    except FileNotFoundError:
        raise UsageError("There is no blind page to which ratings belong.", where=pages, hint=hint) from None
    except (OSError, ValueError, TypeError) as error:
        raise DamagedArtifact(f"What the blind page shows cannot be read: {error}.", where=pages, hint=hint) from None


def _every_pair(facts: Mapping[str, Any], seed: int) -> list[human.Pair]:
    """Return the pairs of the tuned model's and the baseline's answers, in the order in which they are drawn."""
    systems = facts["verdict"]["contender"], facts["verdict"]["baseline"]
    asked: list[dict[str, Any]] = []
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for row in facts["questions"]:
        mine, other = (row["answers"].get(system) for system in systems)
        # a question that was also asked with its chunks withheld comes twice
        if mine and other and mine["condition"] == "answerable":
            asked.append(row)
            ours[row["question_id"]], theirs[row["question_id"]] = mine["answer"], other["answer"]
    return human.pairs(asked, ours, theirs, len(asked), seed)


def _judge(settings: Settings) -> dict[str, ApiBase]:
    """Return the model of `benchmark.judge` with its address; its rubric is looked at before the work."""
    chosen = settings.benchmark.judge
    return {chosen.model: chosen.api_base} if chosen and _rubric(chosen, settings) else {}


def _rubric(chosen: Judge, settings: Settings) -> list[str]:
    own = settings.prompts
    return prompts.rubric(
        chosen.rubric, lambda: prompts.load_text("preference.yaml", own), setting="benchmark.judge.rubric"
    )


def _judged(
    facts: dict[str, Any], folder: Path, settings: Settings, model: OpenedModel | None, on_event: OnEvent
) -> dict[str, Any]:
    """Return the facts with what the judge says of as many pairs as it is to compare, in two calls each."""
    chosen = settings.benchmark.judge
    if chosen is None or model is None:
        return facts
    pairs = human.in_one_form(_every_pair(facts, settings.seed))[: chosen.questions]
    calls = {"arm": f"the judge {chosen.model}", "set": "both orders", "condition": "", "questions": 2 * len(pairs)}
    on_event("asking", calls)
    prompt, ratings = prompts.load("preference", settings.prompts), human.kept_ratings(folder / "ratings.jsonl")
    found = judge.judged(
        pairs, model.generator, prompt=prompt, rubric=_rubric(chosen, settings), seed=settings.seed, ratings=ratings
    )
    return {**facts, "judge": {"model": chosen.model, "prompt_digest": prompt.digest, **found}}


def _rated(
    facts: dict[str, Any], folder: Path, seed: int, count: int | None, ratings: str | Path | None
) -> dict[str, Any]:
    pages, kept = folder / "blind.json", folder / "ratings.jsonl"
    every = _every_pair(facts, seed)
    if count is not None:
        drawn = human.in_one_form(every)[: max(0, count)]
        artifacts.atomically(folder / "blind.html", human.page(drawn))
        artifacts.atomically(pages, json.dumps([asdict(pair) for pair in drawn], ensure_ascii=False))
    if ratings is None and not (kept.is_file() and pages.is_file()):
        return facts
    pairs = _pairs(folder)
    shown = {pair.pair_id for pair in pairs}
    if not shown <= {pair.pair_id for pair in every}:
        if ratings is None:
            return facts
        raise UsageError(
            "The answers are not those of the blind page any more: its ratings are of another model or seed.",
            where=pages,
            hint=f"raft bench {typed(folder)} --blind {len(pairs)}   (and have those rated), or name the --adapter",
        )
    if ratings is not None:  # the file only grows: a later benchmark of the same answers still shows what was chosen
        artifacts.atomically(kept, human.added_ratings(kept, human.read_ratings(ratings, pairs)))
    chosen = human.kept_ratings(kept)
    counted = human.count(chosen, (pair for pair in every if pair.pair_id in shown | chosen.keys()), seed)
    if not counted["rated"]:
        return facts
    wins, losses = counted["wins"], counted["losses"]
    rate, preferred = win_rate(wins, losses, counted["rated"] - wins - losses), win_rate(wins, losses, 0)
    told = {"win_rate": rate and asdict(rate), "preferred": preferred and asdict(preferred)}
    return {**facts, "blind": {**counted, **told, "sign_test": sign_test(wins, losses)}}
