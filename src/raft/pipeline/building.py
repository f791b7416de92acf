"""The story of a build: documents, chunks, survey, index, questions, cleaned and split, examples.

Each step names what its result depends on; `Run.step` does it once per distinct input. Nothing here knows a vendor.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from raft import decisions, notes, prompts
from raft.artifacts import Output
from raft.boilerplate import repeated_lines
from raft.errors import RaftError
from raft.pipeline.reading import documents_listed, own_questions, read_documents
from raft.pipeline.surveying import SURVEY, read_survey, set_aside, survey_chunks
from raft.protocols import Embedder, Generator, Indexes, Tokenizer
from raft.raftformat import PROMPTS, render_style
from raft.run import Run, Step
from raft.settings import Settings
from raft.stages import cleaning, corpus, examples, questions, split, styling

__all__ = ["Listen", "Seams", "build", "cut_chunks", "documents_listed", "read_documents"]


@dataclass(frozen=True)
class Seams:
    """The models and indexes that a build works with."""

    generator: Generator
    embedder: Embedder
    student: Tokenizer
    indexes: Indexes


Listen = Callable[[str, Mapping[str, Any]], None]
"""Told what happens while it happens: an event's name and its facts."""


def build(
    run: Run, settings: Settings, seams: Seams, sources: Sequence[corpus.Source], *, way: str, listen: Listen
) -> None:
    """Make every artifact of a build that is not there yet.

    Args:
        run: the run directory, held for writing.
        settings: the experiment.
        seams: its models and indexes.
        sources: the corpus' files.
        way: "answer_first", "spans" or "items".
        listen: told of progress.

    Raises:
        RaftError: a step failed, or came out empty; what was done before is kept.
    """
    read_documents(run, settings, sources)
    own = own_questions(settings, settings.evaluation, documents_listed(run)) if settings.evaluation else None
    aside = set_aside(run, settings)
    cut_chunks(run, settings, seams.embedder)
    survey_chunks(run, settings, way=way, aside=aside)
    fill_indexes(run, settings, seams)
    ask_questions(run, settings, seams.generator, way=way, listen=listen)
    clean_and_split(run, settings, seams, own)
    build_examples(run, settings, seams)


def cut_chunks(run: Run, settings: Settings, embedder: Embedder) -> None:
    """Documents to `chunks.parquet`, counted in the embedder's tokens."""
    shape = {
        "tokens": settings.chunking.tokens,
        "overlap": settings.chunking.overlap,
        "max_tokens": embedder.max_tokens,
    }

    def work(step: Step) -> Mapping[str, Output]:
        known = step.previous("chunks.parquet", _document_and_digest)
        frames = corpus.chunk_documents(
            run.stream("documents.parquet"),
            embedder.tokenizer,
            **shape,
            repeated=repeated_lines(run.stream("documents.parquet")),
            previous=None if known is None else (lambda doc_id, sha256: known((doc_id, sha256))),
        )
        return {"chunks.parquet": notes.noting(frames, partial(notes.chunks, step.notes))}

    run.step(
        "chunks",
        work,
        version=1,
        outputs=["chunks.parquet"],
        inputs=["documents.parquet"],
        using={**shape, "tokenizer": embedder.tokenizer.identity},
    )


def fill_indexes(run: Run, settings: Settings, seams: Seams) -> None:
    """Chunks to `index/` and, with hybrid search, `lexical/`."""
    indexes, chunks = seams.indexes, partial(run.stream, "chunks.parquet", ["chunk_id", "doc_id", "heading", "text"])

    def dense(step: Step) -> Mapping[str, Output]:
        step.notes.update(indexes.sync(chunks))
        return {}

    def lexical(step: Step) -> Mapping[str, Output]:
        indexes.build_lexical(chunks)
        return {}

    using = {"embedder": seams.embedder.identity, "url": settings.index.url}
    read = ["chunks.parquet"]
    run.step("index", dense, version=1, outputs={"index": indexes.digest}, inputs=read, using=using)
    if settings.index.hybrid:
        run.step("lexical", lexical, version=1, outputs={"lexical": indexes.lexical_digest}, inputs=read)


def ask_questions(run: Run, settings: Settings, generator: Generator, *, way: str, listen: Listen) -> None:
    """Chunks that were surveyed to `questions.parquet`; what is not delivered to `failures.parquet`."""
    openings = prompts.load_text("openings.yaml", settings.prompts)
    used = questions.read_prompts(settings.prompts)
    asked = settings.questions

    def work(step: Step) -> Mapping[str, Output]:
        failures: list[dict[str, Any]] = []
        frames = questions.ask(
            run.stream("chunks.parquet"),
            read_survey(run),
            generator,
            used,
            way=way,
            kinds=asked.kinds,
            per_chunk=asked.per_chunk,
            limit=asked.limit,
            model=settings.generator.model,
            failures=failures,
            planned=lambda count: listen("planned", {"questions": count}),
        )
        return {
            "questions.parquet": notes.noting(frames, partial(notes.questions, step.notes)),
            "failures.parquet": notes.failures_frame(failures, step.notes),
        }

    line = run.step(
        "questions",
        work,
        version=3,
        outputs=["questions.parquet", "failures.parquet"],
        inputs=["chunks.parquet", SURVEY],
        using={
            "generator": generator.identity,
            "way": way,
            "attempts": settings.generator.attempts,
            "prompts": [
                one.digest
                for one in (
                    *(used.answer_first, used.items, used.comparison, used.unanswerable, used.span),
                    *([used.decision] if "decision" in asked.kinds else []),
                )
            ],
            "openings": openings,
            **({"decisions": decisions.VERSION} if "decision" in asked.kinds else {}),
            **asked.model_dump(mode="json"),
        },
    )
    if not line["artifacts"]["questions.parquet"]["rows"]:
        came = [f"{row['message']}: {row['reply'][:200]!r}" for row in run.read("failures.parquet").head(3).to_dicts()]
        raise RaftError(
            "The generator wrote no usable question." if came else "Nothing in the corpus can be asked for.",
            where="; ".join(came) or "no sentence states a number, date, name or code",
            hint=f"raft show {run.folder} failures" if came else "try a capable model: --generator openai/gpt-4o-mini",
        )


def clean_and_split(run: Run, settings: Settings, seams: Seams, own: pl.DataFrame | None) -> None:
    """Questions to `cleaned.parquet` (each with its reason, or its split) and `eval.jsonl`; `own` are the user's."""
    documents = documents_listed(run)
    parts = settings.split
    held_out = split.hold_out(documents, share=parts.unseen, seed=settings.seed, besides=parts.hold_out)
    rules = settings.cleaning
    judge = prompts.load("judge", settings.prompts) if rules.judge else None
    limits = rules.model_dump(include={"min_words", "max_words", "max_answer_words", "similarity", "judge_minimum"})

    def work(step: Step) -> Mapping[str, Output]:
        asked = run.read("questions.parquet")
        with seams.indexes.open() as retriever:
            cleaned = cleaning.clean(
                asked,
                _golden_chunks(run, asked),
                retriever=retriever,
                embedder=seams.embedder,
                held_out=held_out,
                round_trip_k=min(
                    rules.round_trip or settings.index.k, settings.index.k, max(1, _rows(run, "chunks") // 3)
                ),
                judge=seams.generator if judge else None,
                judge_prompt=judge,
                **limits,
            )
        parted = split.split(
            cleaned,
            held_out=held_out,
            user_questions=own,
            embedder=seams.embedder,
            similarity=rules.similarity,
            seen=parts.seen,
            valid=parts.valid,
            seed=settings.seed,
        )
        split.check_leaks(
            parted, held_out=held_out, user_questions=own, embedder=seams.embedder, similarity=rules.similarity
        )
        step.notes["held_out"] = sorted(held_out)
        step.notes["reasons"] = notes.counts(parted, "reason")
        step.notes["splits"] = notes.counts(parted, "split") | ({"user": own.height} if own is not None else {})
        return {"cleaned.parquet": parted, "eval.jsonl": split.evaluation_rows(parted, documents, own)}

    run.step(
        "cleaned",
        work,
        version=2,
        outputs=["cleaned.parquet", "eval.jsonl"],
        inputs=["questions.parquet", "chunks.parquet", *_index_inputs(settings)],
        using={
            "rules": rules.model_dump(mode="json"),
            "split": parts.model_dump(mode="json", exclude=None if parts.hold_out else {"hold_out"}),
            "k": settings.index.k,
            "seed": settings.seed,
            "embedder": seams.embedder.identity,
            "evaluation": own.to_dicts() if own is not None else None,
            "judge": [judge.digest, seams.generator.identity] if judge else None,
        },
    )


def build_examples(run: Run, settings: Settings, seams: Seams) -> None:
    """Kept questions to `examples.parquet`, `train.jsonl` and `valid.jsonl`."""
    wanted, style = settings.examples, settings.answer_style
    prompt = prompts.load(PROMPTS[wanted.quotes], settings.prompts)
    restyle = prompts.load("restyle", settings.prompts)
    words = render_style(**style.model_dump())
    schema = style.format if isinstance(style.format, dict) else None

    def work(step: Step) -> Mapping[str, Output]:
        cleaned = run.read("cleaned.parquet")
        held_out = frozenset(run.manifest["steps"]["cleaned"]["notes"]["held_out"])
        answers: dict[str, str] | None = None
        if words:
            answers, failed = styling.restyle(cleaned, seams.generator, restyle, style=words, schema=schema)
            step.notes["not_restyled"] = failed
            if schema is not None:
                cleaned = cleaned.filter(~pl.col("question_id").is_in(failed))
        with seams.indexes.open() as retriever:
            made, report = examples.build_examples(
                cleaned,
                run.read("chunks.parquet"),
                retriever=retriever,
                tokenizer=seams.student,
                prompt=prompt,
                style=words,
                held_out=held_out,
                seed=settings.seed,
                titles=dict(documents_listed(run).select("doc_id", "title").iter_rows()),
                styled_answers=answers,
                **wanted.model_dump(),
            )
        step.notes.update(report)
        return {
            "examples.parquet": made,
            "train.jsonl": examples.chat_lines(made, "train"),
            "valid.jsonl": examples.chat_lines(made, "valid"),
        }

    line = run.step(
        "examples",
        work,
        version=3,
        outputs=["examples.parquet", "train.jsonl", "valid.jsonl"],
        inputs=["cleaned.parquet", "chunks.parquet", *_index_inputs(settings)],
        using={
            "examples": wanted.model_dump(mode="json"),
            "style": style.model_dump(mode="json"),
            "prompts": [prompt.digest, restyle.digest],
            "generator": seams.generator.identity if words else None,
            "student": seams.student.identity,
            "seed": settings.seed,
        },
    )
    if not line["artifacts"]["train.jsonl"]["rows"]:
        raise RaftError(
            "No question is left to train on.",
            where=json.dumps(run.manifest["steps"]["cleaned"]["notes"]["reasons"]),
            hint=f"raft show {run.folder} cleaned   (each question with the reason why it was dropped)",
        )


def _document_and_digest(table: pl.DataFrame) -> pl.Series:
    return table.select(pl.struct("doc_id", "document_sha256")).to_series()


def _index_inputs(settings: Settings) -> list[str]:
    return ["index", "lexical"] if settings.index.hybrid else ["index"]


def _golden_chunks(run: Run, asked: pl.DataFrame) -> pl.DataFrame:
    golden = set(asked["golden_chunk_ids"].explode().drop_nulls())
    parts = [part.filter(pl.col("chunk_id").is_in(golden)) for part in run.stream("chunks.parquet")]
    return pl.concat(parts)


def _rows(run: Run, step: str) -> int:
    return int(run.manifest["steps"][step]["artifacts"][f"{step}.parquet"]["rows"])
