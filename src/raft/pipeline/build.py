"""The story of a build: documents, chunks, survey, index, questions, cleaned and split, examples.

Each step names what its result depends on; `Run.step` does it once per distinct input. Nothing here knows a vendor.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from raft import prompts
from raft.corpus.blocks import repeated_lines
from raft.corpus.chunking import chunk_documents
from raft.corpus.documents import Source
from raft.curation import clean, decisions, split
from raft.curation.decisions import Decided
from raft.curation.user_questions import own_questions
from raft.errors import RaftError, typed
from raft.examples.examples import build_examples, restyle
from raft.examples.export import chat_lines
from raft.generation import generate, items, plan
from raft.generation.facts import read_prefixes
from raft.generation.plan import Prompts, Survey
from raft.kinds import KINDS
from raft.pipeline.read import (
    count_chunks,
    count_questions,
    documents_listed,
    languages,
    read_documents,
    records_told,
    tallied,
    tell_languages,
)
from raft.pipeline.review import said
from raft.prompts import Prompt
from raft.protocols import Embedder, Generator, Indexes, OnEvent, Tokenizer
from raft.rag.format import PROMPTS, render_style, shown_text
from raft.settings import AnswerStyle, Cleaning, Examples, Settings, Split
from raft.similarity import near_copies
from raft.store import artifacts, tables
from raft.store.artifacts import Output
from raft.store.run import Run, Step
from raft.text.languages import VERSION

SURVEY = "survey.json"
STEPS = ("documents", "privacy", "chunks", "survey", "index", "lexical", "questions", "cleaned", "examples")
"""The steps of a build, in their order."""


@dataclass(frozen=True)
class Components:
    """The models and indexes that a build works with."""

    generator: Generator
    embedder: Embedder
    student: Tokenizer
    indexes: Indexes


def set_aside(run: Run, settings: Settings) -> frozenset[str]:
    """Return the doc_ids of documents that no question is written about.

    Raises:
        UsageError: a glob of `split.hold_out` matches no document, or they match all of them.
    """
    return split.matching(documents_listed(run), settings.split.hold_out)


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


def make_all(
    run: Run, settings: Settings, components: Components, sources: Sequence[Source], *, strategy: str, on_event: OnEvent
) -> None:
    """Make every artifact of a build that is not there yet, in a run directory that is held for writing.

    `strategy` is "answer_first", "spans" or "items".

    Raises:
        RaftError: a step failed, or came out empty; what was done before is kept.
    """
    read_documents(run, settings, sources)
    own = own_questions(settings, settings.evaluation, documents_listed(run)) if settings.evaluation else None
    aside = set_aside(run, settings)
    tell_languages(run, settings, strategy=strategy, aside=aside, on_event=on_event)
    cut_chunks(run, settings, components.embedder)
    survey_chunks(run, settings, strategy=strategy, aside=aside)
    fill_indexes(run, settings, components)
    ask_questions(run, settings, components.generator, strategy=strategy, on_event=on_event)
    clean_and_split(run, settings, components, own)
    write_examples(run, settings, components)


def _languages(run: Run) -> dict[str, str]:
    """Return the language of each surveyed run's document that is not in English."""
    found: dict[str, str] = json.loads((run.folder / SURVEY).read_bytes()).get("languages", {})
    return found


def cut_chunks(run: Run, settings: Settings, embedder: Embedder) -> None:
    """Documents to `chunks.parquet`, counted in the embedder's tokens."""
    run.make(
        "chunks",
        _cut,
        version=1,
        outputs=["chunks.parquet"],
        inputs=["documents.parquet"],
        using={
            **settings.chunking.model_dump(include={"tokens", "overlap"}),
            "max_tokens": embedder.max_tokens,
            "tokenizer": embedder.tokenizer,
            **({"languages": VERSION} if languages(run) else {}),
        },
    )


def _cut(step: Step, *, tokenizer: Tokenizer, languages: int = 0, **shape: int) -> Mapping[str, Output]:
    known = step.previous("chunks.parquet", _document_and_digest)
    frames = chunk_documents(
        step.run.stream("documents.parquet"),
        tokenizer,
        **shape,
        repeated=repeated_lines(step.run.stream("documents.parquet")),
        previous=None if known is None else (lambda doc_id, sha256: known((doc_id, sha256))),
    )
    return {"chunks.parquet": tallied(frames, partial(count_chunks, step.stats))}


def fill_indexes(run: Run, settings: Settings, components: Components) -> None:
    """Chunks to `index/` and, with hybrid search, `lexical/`."""
    indexes, chosen, read = components.indexes, settings.index, ["chunks.parquet"]
    chunks = partial(run.stream, "chunks.parquet", ["chunk_id", "doc_id", "heading", "text"])

    def dense(step: Step) -> Mapping[str, Output]:
        step.stats.update(indexes.sync(chunks))
        return {}

    def lexical(step: Step) -> Mapping[str, Output]:
        indexes.build_lexical(chunks)
        return {}

    run.step(
        "index",
        dense,
        version=1,
        outputs={"index": indexes.digest},
        inputs=read,
        using={"embedder": components.embedder, "url": chosen.url},
        settings={"index": chosen.model_dump(mode="json", include={"embedder", "api_base", "url"})},
    )
    if chosen.hybrid:
        using = {"languages": VERSION} if _languages(run) else None
        run.step("lexical", lexical, version=1, outputs={"lexical": indexes.lexical_digest}, inputs=read, using=using)


def ask_questions(run: Run, settings: Settings, generator: Generator, *, strategy: str, on_event: OnEvent) -> None:
    """Chunks that were surveyed to `questions.parquet`; what is not delivered to `failures.parquet`."""
    used = generate.read_prompts(settings.prompts)
    asked = settings.questions
    kinds = [kind for kind, its in KINDS.items() if its.version and kind in asked.kinds]
    using = {
        "generator": generator,
        "way": strategy,
        "attempts": settings.generator.attempts,
        "prompts": [
            *(used.answer_first, used.items, used.comparison, used.unanswerable, used.span),
            *(getattr(used, kind) for kind in kinds),
        ],
        "openings": prompts.load_text("openings.yaml", settings.prompts),
        **{f"{kind}s": KINDS[kind].version for kind in kinds},
        **({"items": items.VERSION} if strategy == "items" else {}),
        **({"languages": VERSION, "wording": used.language} if _languages(run) else {}),
        **(records_told(run) if plan.needed(strategy, asked.kinds) else {}),
        **asked.model_dump(mode="json", exclude={"way"}),
    }
    line = run.make(
        "questions",
        _ask,
        version=3,
        outputs=["questions.parquet", "failures.parquet"],
        inputs=["chunks.parquet", SURVEY],
        using=using,
        formerly={**using, "way": asked.way},
        beside={
            "used": used,
            "model": settings.generator.model,
            "embedder": settings.index.embedder,
            "on_event": on_event,
        },
    )
    if not line["artifacts"]["questions.parquet"]["rows"]:
        came = [f"{row['message']}: {row['reply'][:200]!r}" for row in run.read("failures.parquet").head(3).to_dicts()]
        raise RaftError(
            "The generator wrote no usable question." if came else "Nothing in the corpus can be asked for.",
            where="; ".join([*came, *line["notes"].get("left_out", [])])
            or "no sentence states a number, date, name or code",
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
    **_: Any,
) -> Mapping[str, Output]:
    failures: list[dict[str, Any]] = []
    known = read_survey(step.run)
    missing = plan.left_out(way, kinds, known, embedder)
    step.stats.update({"left_out": missing} if missing else {})

    def failed() -> Iterator[pl.DataFrame]:  # it is read after the questions: only then is the list complete
        step.stats["failures"] = dict(Counter(row["kind"] for row in failures))
        yield tables.frame(tables.FAILURES, failures)

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
        planned=lambda count: on_event("planned", {"questions": count, "left_out": missing}),
    )
    questions = tallied(frames, partial(count_questions, step.stats))
    return {"questions.parquet": questions, "failures.parquet": failed()}


def clean_and_split(run: Run, settings: Settings, components: Components, own: pl.DataFrame | None) -> None:
    """Questions to `cleaned.parquet` (each with its reason, or its split) and `eval.jsonl`; `own` are the user's."""
    parts, k, copies, spoken = settings.split, settings.index.k, _copies(run), _languages(run)
    judge = [prompts.load("judge", settings.prompts), components.generator] if settings.cleaning.judge else None
    decided = decisions.decided(said(run, settings)[0])
    run.make(
        "cleaned",
        _clean,
        version=3,
        outputs=["cleaned.parquet", "eval.jsonl"],
        inputs=["questions.parquet", "chunks.parquet", *searched(settings)],
        using={
            "rules": settings.cleaning,
            "split": parts.model_dump(mode="json", exclude=None if parts.hold_out else {"hold_out"}),
            "k": k,
            "seed": settings.seed,
            "embedder": components.embedder,
            "evaluation": own,
            "judge": judge,
            **({"copies": copies} if copies else {}),
            **({"decided": decided} if decided else {}),
            **({"languages": spoken, "spoken": VERSION} if spoken else {}),
        },
        beside={"indexes": components.indexes, "parts": parts},
        settings={"index": {"k": k, "hybrid": settings.index.hybrid}},
    )


def _clean(
    step: Step,
    *,
    rules: Cleaning,
    parts: Split,
    k: int,
    seed: int,
    embedder: Embedder,
    evaluation: pl.DataFrame | None,
    judge: tuple[Prompt, Generator] | None,
    indexes: Indexes,
    copies: Sequence[Sequence[str]] = (),
    languages: Mapping[str, str] | None = None,
    decided: Decided | None = None,
    **_: Any,
) -> Mapping[str, Output]:
    run, documents, written = step.run, documents_listed(step.run), step.run.read("questions.parquet")
    asked = decisions.edited(written, decided or {})
    held_out = split.hold_out(documents, share=parts.unseen, seed=seed, besides=parts.hold_out, copies=copies)
    prompt, generator = judge or (None, None)
    with indexes.open(exact=True) as retriever:
        cleaned = clean.clean(
            asked,
            _golden_chunks(run, asked),
            retriever=retriever,
            embedder=embedder,
            held_out=held_out,
            round_trip_k=min(rules.round_trip or k, k, max(1, chunk_count(run) // 3)),
            judge=generator,
            judge_prompt=prompt,
            languages=languages,
            decided=decided,
            **rules.model_dump(include={"min_words", "max_words", "max_answer_words", "similarity", "judge_minimum"}),
        )
    parted = split.split(
        cleaned,
        held_out=held_out,
        user_questions=evaluation,
        embedder=embedder,
        similarity=rules.similarity,
        seen=parts.seen,
        valid=parts.valid,
        seed=seed,
        copies=copies,
    )
    measured = split.evaluation_rows(parted, documents, evaluation)
    split.check_leaks(parted, measured, held_out=held_out)
    step.stats["held_out"] = sorted(held_out)
    step.stats["reasons"] = _counts(parted, "reason")
    step.stats["splits"] = _counts(parted, "split") | ({"user": evaluation.height} if evaluation is not None else {})
    return {"cleaned.parquet": parted, "eval.jsonl": measured}


def _counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    """Return how often each value of a column occurs, most frequent first; null is not counted."""
    found = Counter(table[column].drop_nulls())
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def write_examples(run: Run, settings: Settings, components: Components) -> None:
    """Kept questions to `examples.parquet`, `train.jsonl` and `valid.jsonl`."""
    wanted, style = settings.examples, settings.answer_style
    read = [prompts.load(PROMPTS[wanted.quotes], settings.prompts), prompts.load("restyle", settings.prompts)]
    line = run.make(
        "examples",
        _write_examples,
        version=4,
        outputs=["examples.parquet", "train.jsonl", "valid.jsonl"],
        inputs=["cleaned.parquet", "chunks.parquet", *searched(settings)],
        using={
            "examples": wanted,
            "style": style,
            "prompts": read,
            "generator": components.generator if render_style(**style.model_dump()) else None,
            "student": components.student,
            "seed": settings.seed,
            **({"told_apart": 1} if _imitates(run) else {}),
            **({"languages": VERSION} if _languages(run) else {}),
        },
        beside={"indexes": components.indexes},
        settings=settings.model_dump(mode="json", include={"student", "examples", "answer_style", "prompts"}),
    )
    if not line["artifacts"]["train.jsonl"]["rows"]:
        raise RaftError(
            "No question is left to train on.",
            where=json.dumps(run.manifest["steps"]["cleaned"]["notes"]["reasons"]),
            hint=f"raft show {typed(run.folder)} cleaned   (each question with the reason why it was dropped)",
        )


def _imitates(run: Run) -> bool:
    """Tell whether any text of the rows is shown otherwise than it is written (`rag.format.shown_text`)."""
    tables = [("chunks.parquet", ["heading", "text"]), ("cleaned.parquet", ["question", "answer"])]
    frames = (frame for name, columns in tables for frame in run.stream(name, columns))
    texts = (text for frame in frames for column in frame for text in column.filter(column.str.contains(_MAYBE_MARKED)))
    return any(shown_text(text) != text for text in texts)


_MAYBE_MARKED = r"(?i)[<\[]|(?:question|answer|quote|document)[ \t\d\[\]]*(?:\*\*)?[:：]"
"""What each text has that is shown otherwise, and is found fast."""


def _copies(run: Run) -> list[list[str]]:
    """Return the near-copies among the documents; they are looked for once for the same documents."""
    digest = run.manifest["steps"]["documents"]["artifacts"]["documents.parquet"]["digest"]
    known = run.manifest.get("copies", {})
    if known.get("documents") != digest:
        texts = (
            (doc_id, text)
            for frame in run.stream("documents.parquet", ["doc_id", "text"])
            for doc_id, text in frame.iter_rows()
            if text
        )
        known = {"documents": digest, "groups": near_copies(texts)}
        run.describe(copies=known)
    return list(known["groups"])


def _write_examples(
    step: Step,
    *,
    examples: Examples,
    style: AnswerStyle,
    prompts: tuple[Prompt, Prompt],
    generator: Generator | None,
    student: Tokenizer,
    seed: int,
    indexes: Indexes,
    **_: int,
) -> Mapping[str, Output]:
    run, cleaned, words = step.run, step.run.read("cleaned.parquet"), render_style(**style.model_dump())
    prompt, wording = prompts
    answers: dict[str, str] | None = None
    if generator is not None:
        schema = style.format if isinstance(style.format, dict) else None
        answers, failed = restyle(cleaned, generator, wording, style=words, schema=schema)
        step.stats["not_restyled"] = failed
        if schema is not None:
            cleaned = cleaned.filter(~pl.col("question_id").is_in(failed))
    with indexes.open(exact=True) as retriever:
        made, report = build_examples(
            cleaned,
            run.read("chunks.parquet"),
            examples,
            retriever=retriever,
            tokenizer=student,
            prompt=prompt,
            style=words,
            held_out=frozenset(run.manifest["steps"]["cleaned"]["notes"]["held_out"]),
            seed=seed,
            titles=dict(documents_listed(run).select("doc_id", "title").iter_rows()),
            styled_answers=answers,
        )
    step.stats.update(report)
    return {
        "examples.parquet": made,
        "train.jsonl": chat_lines(made, "train"),
        "valid.jsonl": chat_lines(made, "valid"),
    }


def _document_and_digest(table: pl.DataFrame) -> pl.Series:
    return table.select(pl.struct("doc_id", "document_sha256")).to_series()


def searched(settings: Settings) -> list[str]:
    """Return the steps that make what is searched."""
    return ["index", "lexical"] if settings.index.hybrid else ["index"]


def _golden_chunks(run: Run, asked: pl.DataFrame) -> pl.DataFrame:
    golden = set(asked["golden_chunk_ids"].explode().drop_nulls())
    parts = [part.filter(pl.col("chunk_id").is_in(golden)) for part in run.stream("chunks.parquet")]
    return pl.concat(parts)


def chunk_count(run: Run) -> int:
    """Return how many chunks there are."""
    return int(run.manifest["steps"]["chunks"]["artifacts"]["chunks.parquet"]["rows"])
