"""The steps of a build that ask: what a plan has to know of all chunks together, and the questions."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import polars as pl

from raft import prompts
from raft.curation import figures, learned, reading, wording
from raft.curation.pairs import pairs_of
from raft.curation.user_questions import register
from raft.errors import RaftError, typed
from raft.examples.examples import RESTYLED_TOKENS
from raft.generation import by_rule, generate, items, plan, rounds, titles
from raft.generation.facts import read_prefixes
from raft.generation.plan import Prompts, Survey
from raft.kinds import KINDS
from raft.pipeline.read import count_questions, documents_listed, languages, records_told, tallied
from raft.pipeline.rounds import Checks, Source, ask_in_rounds
from raft.prompts import Prompt
from raft.protocols import Generator, Indexes, OnEvent
from raft.rag.format import render_style
from raft.settings import Settings
from raft.store import artifacts, lineage, tables
from raft.store.artifacts import Output
from raft.store.run import Run, Step
from raft.text.languages import EN, VERSION

SURVEY = "survey.json"


def survey_chunks(run: Run, settings: Settings, *, strategy: str, aside: frozenset[str]) -> None:
    """Chunks, but those of `aside`, to `survey.json`: all that planning the questions has to know of them together.

    It comes before the index, since the estimate rests on it, and embedding may be the first thing that costs money.
    """
    needs = plan.needed(strategy, settings.questions.kinds)
    compared = not needs.isdisjoint({"alike", "pairs"})
    path, spoken = run.folder / SURVEY, languages(run)
    run.make(
        "survey",
        _survey,
        version=1,
        outputs={SURVEY: lambda: artifacts.digest(path) if path.is_file() else None},
        inputs=["chunks.parquet"],
        using={
            "needs": needs,
            **({"without": aside} if aside else {}),
            **({"languages": spoken} if spoken else {}),
            **(records_told(run) if needs else {}),
            **({"openings": prompts.load_text("openings.yaml", settings.prompts)} if compared else {}),
        },
    )


def _survey(
    step: Step,
    *,
    needs: frozenset[str],
    without: frozenset[str] = frozenset(),
    openings: str | None = None,
    languages: Mapping[str, str] | None = None,
    **_: int,
) -> Mapping[str, Output]:
    frames = step.run.stream("chunks.parquet", list(plan.COLUMNS))
    asked = (frame.filter(~pl.col("doc_id").is_in(list(without))) for frame in frames)
    found = plan.survey(asked, read_prefixes(openings) if openings else [], needs, languages)
    artifacts.atomically(step.folder / SURVEY, plan.to_json(found))
    return {}


def read_survey(run: Run) -> Survey:
    """Return what `survey_chunks` has kept."""
    return plan.from_json((run.folder / SURVEY).read_bytes())


def surveyed_languages(run: Run) -> dict[str, str]:
    """Return the language of each surveyed run's document that is not in English."""
    found: dict[str, str] = json.loads((run.folder / SURVEY).read_bytes()).get("languages", {})
    return found


def ask_questions(
    run: Run, settings: Settings, generator: Generator, *, strategy: str, on_event: OnEvent, checks: Checks | None
) -> None:
    """Chunks that were surveyed to `questions.parquet`; what is not delivered to `failures.parquet`.

    With `questions.keep`, and the `checks` that it takes, in rounds.
    """
    used, asked = question_prompts(settings), settings.questions
    kinds = [kind for kind, its in KINDS.items() if its.version and kind in asked.kinds]
    by_model = {
        "generator": generator,
        "attempts": settings.generator.attempts,
        "prompts": [
            *(used.answer_first, used.items, used.comparison, used.unanswerable, used.span),
            *(getattr(used, kind) for kind in kinds),
        ],
    }
    unasked, keyed = (by_model, {}) if strategy == "rules" else ({}, by_model)
    using = {
        **keyed,
        "openings": prompts.load_text("openings.yaml", settings.prompts),
        **{f"{kind}s": KINDS[kind].version for kind in kinds},
        **({"items": items.VERSION} if strategy == "items" else {}),
        **({"languages": VERSION, "wording": used.language} if surveyed_languages(run) else {}),
        **(records_told(run) if plan.needed(strategy, asked.kinds) else {}),
        **asked.model_dump(mode="json", include={"per_chunk", "limit", "kinds"}),
        **(
            {"candidates": candidates, "tasks": "named"}
            if (candidates := candidates_of(settings, strategy)) > 1
            else {}
        ),
        **({"like": used.like} if used.like and strategy == "items" else {}),
        **({"titled": titles.VERSION} if asked.titled else {}),
    }
    keep, pairs = asked.keep, len(pairs_of(asked))
    topped: dict[str, Any] = {}
    if checks is not None:
        topped = {"keep": keep, "pairs": pairs, "rounds": rounds.VERSION, "checks": checks.using}
        topped |= {"others": used.others} if strategy == "items" else {}
    asked_so = {
        **using,
        **topped,
        "way": strategy,
        **({"by_rule": by_rule.VERSION} if strategy.startswith("rules") else {}),
    }
    former = (
        [] if topped else [asked.way, *(["answer_first"] if asked.way == "auto" and strategy == "rules_first" else [])]
    )
    line = run.make(
        "questions",
        _ask,
        version=3,
        outputs=["questions.parquet", "failures.parquet"],
        inputs=[
            *("chunks.parquet", SURVEY, *(checks.inputs if checks else [])),
            *(["documents.parquet"] if asked.titled else []),
        ],
        using={**asked_so, **({"alike": 1} if topped else {})},
        formerly=[(3, asked_so)] if topped else [(3, {**using, "way": way}) for way in former],
        beside={
            **unasked,
            "used": used,
            "model": settings.generator.model,
            "embedder": settings.index.embedder,
            "on_event": on_event,
            "apply": checks.apply if checks else None,
            "of": wanted_of(settings),
        },
    )
    if not line["artifacts"]["questions.parquet"]["rows"] and not asked.qa:
        came = [f"{row['message']}: {row['reply'][:200]!r}" for row in run.read("failures.parquet").head(3).to_dicts()]
        why = "no sentence states a number, date, name or code"
        if strategy == "rules":
            why = "no sentence states one figure in a form that rules can ask for, and of rows and records a model asks"
        raise RaftError(
            "The generator wrote no usable question." if came else "Nothing in the corpus can be asked for.",
            where="; ".join([*came, *line["notes"].get("left_out", [])]) or why,
            hint=f"raft show {typed(run.folder)} failures"
            if came
            else "try a capable model: --generator openai/gpt-4o-mini",
        )


def _ask(
    step: Step,
    *,
    generator: Generator,
    way: str,
    kinds: Sequence[str],
    per_chunk: float,
    limit: int | None,
    used: Prompts,
    model: str,
    embedder: str,
    on_event: OnEvent,
    apply: Callable[[pl.DataFrame], pl.DataFrame] | None,
    of: str,
    candidates: int = 1,
    keep: int | None = None,
    pairs: int = 0,
    titled: int = 0,
    **_: Any,
) -> Mapping[str, Output]:
    failures: list[dict[str, Any]] = []
    known = read_survey(step.run)
    named = _titles(step.run, known) if titled else None
    missing = plan.left_out(way, kinds if limit != 0 else [], known, embedder)
    step.stats.update({"left_out": missing} if missing else {})

    def failed() -> Iterator[pl.DataFrame]:  # it is read after the questions: only then is the list complete
        step.stats["failures"] = dict(Counter(row["kind"] for row in failures))
        yield tables.frame(tables.FAILURES, failures)

    if keep is None or apply is None:
        frames = generate.ask(
            step.run.stream("chunks.parquet"),
            known,
            generator,
            used,
            strategy=way,
            kinds=kinds,
            per_chunk=per_chunk,
            limit=limit,
            model=model,
            failures=failures,
            candidates=candidates,
            titles=named,
            planned=lambda count: on_event("planned", {"questions": count, "left_out": missing}),
        )
    else:
        step.stats["of"] = of
        frames = ask_in_rounds(
            Source(step.run, known, used, way, kinds),
            generator,
            keep=keep,
            candidates=candidates,
            titles=named,
            limit=limit,
            per_chunk=per_chunk,
            pairs=pairs,
            model=model,
            failures=failures,
            apply=apply,
            stats=step.stats,
            on_event=on_event,
            left_out=missing,
        )
    questions = tallied(frames, partial(count_questions, step.stats))
    return {"questions.parquet": questions, "failures.parquet": failed()}


def _titles(run: Run, known: Survey) -> titles.Titles:
    """Return the titles of the documents in English."""
    rows = documents_listed(run).select("doc_id", "title").iter_rows()
    return titles.Titles({doc: title for doc, title in rows if title and known.language(doc) is EN})


def examples(settings: Settings) -> list[str]:
    """Return the user's own questions of `questions.like`, none of which is measured with; none without the file.

    Raises:
        UsageError: the file is not what it should be, or holds a question of `evaluation`.
        RaftError: personal data was found in it, and `privacy.found` is "refuse".
    """
    file, own = settings.questions.like, settings.evaluation
    return [] if file is None else [*_examples(file, own, settings.privacy.found, _state(file), own and _state(own))]


@lru_cache(maxsize=4)
def _examples(file: Path, own: Path | None, found: str, *_: Any) -> list[str]:
    """Read the examples once for all steps of a build that ask for them, while both files are what they were."""
    measured = register(own)["question"].to_list() if own else []
    return wording.read_examples(file, measured, found=found)


def _state(file: Path) -> Any:
    try:
        now = file.stat()
    except OSError:  # what reads it tells
        return None
    return now.st_ino, now.st_size, now.st_mtime_ns


def candidates_of(settings: Settings, strategy: str) -> int:
    """Return how often a model is asked for each question; the rewordings of one are as many with any strategy."""
    return settings.questions.candidates if strategy in generate.CHOSEN_OF else 1


def question_prompts(settings: Settings) -> Prompts:
    """Return the prompts that questions are asked with."""
    return generate.read_prompts(settings.prompts, like=wording.shown(examples(settings), settings.prompts))


def rewording(settings: Settings) -> wording.Rewording:
    """Return what is asked to word questions anew."""
    each, least = settings.questions.candidates, settings.cleaning.reader_minimum
    return wording.asked(settings.prompts, examples(settings), each=each, least=least)


def reworded_at_most(settings: Settings, questions: int) -> int:
    """Return how many of so many questions are worded anew at most: a drawn number, and four deviations.

    Candidates for one question are one: it is drawn among those that stay.
    """
    share = settings.questions.reword
    return min(questions, ceil(share * questions + 4 * sqrt(share * (1 - share) * questions)))


def reword_questions(
    run: Run,
    settings: Settings,
    generator: Generator,
    indexes: Indexes,
    *,
    searched: Sequence[str],
    held_out: frozenset[str],
    k: int,
    rules: int,
) -> None:
    """Questions to `reworded.parquet`: other wordings of a share of them; nothing where that is 0.

    `searched` are the steps that make what is searched, `held_out` the documents whose questions stay as they are, and
    `k` says among how many results a wording must find its chunk; `rules` is the version of those that judge it.
    """
    if not settings.questions.reword:
        return
    how, spoken = rewording(settings), surveyed_languages(run)
    using = {
        "how": how.identity,
        "share": settings.questions.reword,
        "seed": settings.seed,
        "k": k,
        "limits": settings.cleaning.model_dump(include={"min_words", "max_words", "max_answer_words"}),
        "held_out": sorted(held_out),
        "generator": generator,
        "attempts": settings.generator.attempts,
        "figures": figures.VERSION,
        "rules": rules,
        **({"languages": spoken, "spoken": VERSION} if spoken else {}),
    }
    run.make(
        "reworded",
        _reword,
        version=2,
        outputs=["reworded.parquet"],
        inputs=["questions.parquet", "chunks.parquet", *searched],
        using={**using, "alike": 1},
        formerly=[(2, using)],
        beside={
            "asked": how,
            "model": settings.generator.model,
            "indexes": indexes,
            "noted": asks(settings, "reworded"),
        },
    )


def _reword(
    step: Step,
    *,
    asked: wording.Rewording,
    indexes: Indexes,
    noted: Mapping[str, Any],
    held_out: Sequence[str],
    languages: Mapping[str, str] | None = None,
    generator: Generator,
    model: str,
    share: float,
    seed: int,
    k: int,
    limits: Mapping[str, int],
    **_: Any,
) -> Mapping[str, Output]:
    questions = step.run.read("questions.parquet")
    golden = set(questions["golden_chunk_ids"].explode().drop_nulls())
    parts = (part.filter(pl.col("chunk_id").is_in(golden)) for part in step.run.stream("chunks.parquet"))
    with indexes.searching() as retriever:
        reworded, stats = wording.reword(
            questions,
            pl.concat(parts),
            asked,
            generator=generator,
            model=model,
            retriever=retriever,
            share=share,
            seed=seed,
            k=k,
            limits=limits,
            languages=languages or {},
            held_out=frozenset(held_out),
            identify=generate.question_id,
        )
    step.stats.update(stats, **noted)
    return {"reworded.parquet": reworded}


def asked_later(settings: Settings) -> dict[str, list[tuple[str, Prompt, int]]]:
    """Return what "reworded", "cleaned" and "examples" ask about each question: identity, prompt and tokens of a reply.

    Raises:
        UsageError: a prompt cannot be read.
    """
    filters = reading.chosen(settings.cleaning, settings.prompts, seed=settings.seed)
    cleaned = [(one.identity, one.prompt, one.tokens) for one in filters]
    if settings.cleaning.judge:
        judge = prompts.load("judge", settings.prompts)
        cleaned.append((judge.digest, judge, reading.JUDGE_TOKENS))
    style, form = render_style(**settings.answer_style.model_dump()), settings.answer_style.format
    worded = prompts.load("restyle", settings.prompts)
    alone = isinstance(form, dict) and len(form.get("properties", {})) == 1  # a field that needs no model
    styled = [(f"{worded.digest} {style}", worded, RESTYLED_TOKENS)] if style and not alone else []
    found = {"cleaned": cleaned, "examples": styled}
    if not settings.questions.reword:
        return found
    how = rewording(settings)
    words = [(f"{how.identity} {turn}", how.prompt, wording.REWORD_TOKENS) for turn in range(how.each)]
    reads = [(f"{how.reader.digest} {turn}", how.reader, reading.READER_TOKENS) for turn in range(how.each)]
    return {"reworded": [*words, *reads], **found}


def asks(settings: Settings, step: str) -> dict[str, Any]:
    """Return for the notes of a step of `asked_later` what it asks: "by" identity, and "of" which questions."""
    later = {name: [identity for identity, *_ in asked] for name, asked in asked_later(settings).items()}
    if not later[step]:
        return {}
    cheap = {*type(settings.cleaning).model_fields} - {*reading.SETTINGS, "judge", "judge_minimum"}
    before: list[Any] = [later["cleaned"], settings.questions.keep] if step == "examples" else []
    if settings.questions.reword and step != "reworded":
        before.append([settings.questions.reword, later["reworded"]])
    cleaning = True if step == "examples" else cheap
    of = _digest_of(
        step, settings, before, split=True if step == "examples" else {"unseen", "hold_out"}, cleaning=cleaning
    )
    return {"asked": {"by": later[step], "of": of}}


def wanted_of(settings: Settings) -> str:
    """Return a digest of all settings that decide which rounds `questions.keep` takes, for the notes of the step."""
    before = [settings.questions.keep, settings.generator.attempts]
    return _digest_of("wanted", settings, before, split={"unseen", "hold_out"}, cleaning=True)


def _digest_of(step: str, settings: Settings, before: list[Any], *, split: Any, cleaning: Any) -> str:
    chosen = settings.model_dump(
        mode="json",
        include={
            "generator": {"model", "api_base"},
            "questions": {"way", "kinds", "per_chunk", "limit"},
            "index": {"embedder", "k", "hybrid"},
            "seed": True,
            "split": split,
            "cleaning": cleaning,
        },
        exclude={"cleaning": {"learned"}},
    )
    if isinstance(chosen["generator"]["api_base"], list):  # another endpoint is no other model
        chosen["generator"]["api_base"] = chosen["generator"]["api_base"][0]
    pairs = pairs_of(settings.questions)
    if settings.questions.candidates > 1 or settings.questions.like:
        before = [*before, [settings.questions.candidates, examples(settings)]]
    if settings.questions.titled:
        before = [*before, ["titled", titles.VERSION]]
    if settings.cleaning.learned:
        before = [*before, learned.load(settings.cleaning.learned).identity]
    return lineage.key(step, 1, {"chosen": chosen, "pairs": pairs, "before": before}, None, {})[0]
