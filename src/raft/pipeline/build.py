"""The story of a build: documents, chunks, survey, index, questions, cleaned and split, examples.

Each step names what its result depends on; `Run.step` does it once per distinct input. Nothing here knows a vendor.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from raft import prompts
from raft.corpus.blocks import repeated_lines
from raft.corpus.chunking import chunk_documents
from raft.corpus.documents import Source
from raft.curation import clean, decisions, figures, learned, reading, split
from raft.curation.coverage import COVERED, choose, coverage
from raft.curation.decisions import Decided
from raft.curation.duplicates import WORDINGS
from raft.curation.likeness import likeness
from raft.curation.user_questions import own_questions
from raft.errors import RaftError, typed
from raft.examples.examples import build_examples, restyle
from raft.examples.export import chat_lines
from raft.pipeline.asking import ask_questions, asks, examples, reword_questions, survey_chunks, surveyed_languages
from raft.pipeline.pairs import asked_in, place_pairs
from raft.pipeline.read import count_chunks, documents_listed, languages, read_documents, tallied, tell_languages
from raft.pipeline.review import said
from raft.pipeline.rounds import Checks
from raft.prompts import Prompt
from raft.protocols import Embedder, Generator, Indexes, OnEvent, Scorer, Tokenizer, Workers
from raft.rag.format import PROMPTS, render_style, shown_text
from raft.settings.sections import AnswerStyle, Cleaning, Examples, Settings, Split
from raft.similarity import near_copies
from raft.store.artifacts import Output
from raft.store.run import Run, Step
from raft.text.languages import VERSION

STEPS = (
    *("documents", "privacy", "chunks", "survey", "index", "lexical"),
    *("questions", "qa", "reworded", "cleaned", "examples"),
)
"""The steps of a build, in their order."""
_CLEANED = 3
"""Version of the step "cleaned"; once it is raised, no run of before counts as cleaned."""


@dataclass(frozen=True)
class Components:
    """The models and indexes that a build works with."""

    generator: Generator
    embedder: Embedder
    student: Tokenizer
    indexes: Indexes
    scorer: Scorer | None = None
    """The model whose likelihoods the learned filter weighs."""
    workers: Workers | None = None
    """Who reads and cuts documents, where this process does not."""


def set_aside(run: Run, settings: Settings) -> frozenset[str]:
    """Return the doc_ids of documents that no question is written about.

    Raises:
        UsageError: a glob of `split.hold_out` matches no document, or they match all of them.
    """
    return split.matching(documents_listed(run), settings.split.hold_out)


def make_all(
    run: Run, settings: Settings, components: Components, sources: Sequence[Source], *, strategy: str, on_event: OnEvent
) -> None:
    """Make every artifact of a build that is not there yet, in a run directory that is held for writing.

    `strategy` is "rules", "rules_first", "answer_first", "spans" or "items".

    Raises:
        RaftError: a step failed, or came out empty; what was done before is kept.
    """
    read_documents(run, settings, sources, components.workers)
    own = own_questions(settings, settings.evaluation, documents_listed(run)) if settings.evaluation else None
    aside = set_aside(run, settings)
    tell_languages(run, settings, strategy=strategy, aside=aside, on_event=on_event)
    cut_chunks(run, settings, components.embedder, components.workers)
    survey_chunks(run, settings, strategy=strategy, aside=aside)
    fill_indexes(run, settings, components)
    place_pairs(run, settings, components.embedder, components.indexes, searched(settings))
    checks = checks_of(run, settings, components) if settings.questions.keep else None
    ask_questions(run, settings, components.generator, strategy=strategy, on_event=on_event, checks=checks)
    if settings.questions.reword:
        reword_questions(
            run,
            settings,
            components.generator,
            components.indexes,
            searched=searched(settings),
            held_out=_held_out(run, settings.split, settings.seed, _copies(run)),
            k=_round_trip_k(run, settings.cleaning, settings.index.k),
            rules=_CLEANED,
        )
    clean_and_split(run, settings, components, own)
    write_examples(run, settings, components)


def cut_chunks(run: Run, settings: Settings, embedder: Embedder, workers: Workers | None = None) -> None:
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
        beside={"workers": workers},
    )


def _cut(
    step: Step, *, tokenizer: Tokenizer, workers: Workers | None, languages: int = 0, **shape: int
) -> Mapping[str, Output]:
    known = step.previous("chunks.parquet", _document_and_digest)
    frames = chunk_documents(
        step.run.stream("documents.parquet"),
        tokenizer,
        **shape,
        workers=workers,
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
        using = {"languages": VERSION} if surveyed_languages(run) else None
        run.step("lexical", lexical, version=1, outputs={"lexical": indexes.lexical_digest}, inputs=read, using=using)


def _rules(run: Run, settings: Settings, components: Components) -> dict[str, Any]:
    """Return all that decides which questions pass, but what people decided and the user's own questions."""
    parts, k, copies, spoken = settings.split, settings.index.k, _copies(run), surveyed_languages(run)
    asked = settings.questions
    several = asked.reword or (asked.candidates > 1 and asked.way not in ("rules", "items"))
    judge = [prompts.load("judge", settings.prompts), components.generator] if settings.cleaning.judge else None
    filters = reading.chosen(settings.cleaning, settings.prompts, seed=settings.seed)
    weights = learned.load(settings.cleaning.learned) if settings.cleaning.learned else None
    scorer = [prompts.load("right", settings.prompts), components.scorer] if weights else None
    return {
        "rules": settings.cleaning.model_dump(mode="json", exclude=set(reading.SETTINGS)),
        "split": parts.model_dump(mode="json", exclude=None if parts.hold_out else {"hold_out"}),
        "k": k,
        "seed": settings.seed,
        "embedder": components.embedder,
        "judge": judge,
        **({"weights": weights, "scorer": scorer} if weights else {}),
        **({"filters": filters, "reader": components.generator} if filters else {}),
        **({"copies": copies} if copies else {}),
        **({"wordings": WORDINGS} if several else {}),
        **({"languages": spoken, "spoken": VERSION} if spoken else {}),
    }


def checks_of(run: Run, settings: Settings, components: Components) -> Checks:
    """Return how the rounds of `questions.keep` tell what is kept: as the step "cleaned" does."""
    using = _rules(run, settings, components)
    pairs = [name for name in asked_in(settings) if name not in ("questions.parquet", "reworded.parquet")]
    held_out = _held_out(run, settings.split, settings.seed, using.get("copies", ()))

    def apply(questions: pl.DataFrame) -> pl.DataFrame:
        whole = pl.concat([questions, *map(run.read, pairs)])
        return _passed(run, whole, held_out, components.indexes, **using)[0]

    keyed = {**using, "version": _CLEANED, "figures": figures.VERSION}
    return Checks(keyed, ["chunks.parquet", *pairs, *searched(settings)], apply)


def clean_and_split(run: Run, settings: Settings, components: Components, own: pl.DataFrame | None) -> None:
    """Questions to `cleaned.parquet` (each with its reason, or its split) and `eval.jsonl`; `own` are the user's."""
    parts, k, noted = settings.split, settings.index.k, asks(settings, "cleaned")
    decided = decisions.decided(said(run, settings)[0])
    using = {
        **_rules(run, settings, components),
        "evaluation": own,
        **({"decided": decided} if decided else {}),
        **({"keep": settings.questions.keep} if settings.questions.keep else {}),
        **({"like": examples(settings)} if settings.questions.keep and settings.questions.like else {}),
    }
    now, weights = {**using, "figures": figures.VERSION}, using.get("weights")
    run.make(
        "cleaned",
        _clean,
        version=_CLEANED,
        outputs=["cleaned.parquet", "eval.jsonl"],
        inputs=[*asked_in(settings), "chunks.parquet", *searched(settings)],
        using={**now, "alike": 1},
        formerly=[(3, now), (3, using), (2, using)] if _CLEANED == 3 else [],  # else a raised version would do nothing
        beside={"indexes": components.indexes, "parts": parts, "asked": asked_in(settings), "noted": noted},
        settings={"index": {"k": k, "hybrid": settings.index.hybrid}},
    )
    # not among the notes, which a step that is reused keeps
    shown = examples(settings) or None
    run.describe(**({"like": shown} if shown or run.manifest.get("like") else {}))  # none of which may be measured with
    run.describe(decided=decisions.digests(decided), weights=weights.model_dump(mode="json") if weights else None)


def _clean(
    step: Step,
    *,
    parts: Split,
    seed: int,
    embedder: Embedder,
    evaluation: pl.DataFrame | None,
    indexes: Indexes,
    asked: Sequence[str],
    noted: Mapping[str, Any],
    keep: int | None = None,
    like: Sequence[str] = (),
    copies: Sequence[Sequence[str]] = (),
    decided: Decided | None = None,
    **rules: Any,
) -> Mapping[str, Output]:
    run, documents = step.run, documents_listed(step.run)
    questions = decisions.edited(pl.concat(map(run.read, asked)), decided or {})
    held_out = _held_out(run, parts, seed, copies)
    cleaned, golden = _passed(run, questions, held_out, indexes, embedder=embedder, decided=decided, **rules)
    if keep:
        approved = {name for name, (verdict, *_) in (decided or {}).items() if verdict != decisions.REJECTED}
        headings = dict(golden.select("chunk_id", "heading").iter_rows())
        cleaned = choose(cleaned, headings, keep, seed=seed, first=approved, like=like)
    parted = split.split(
        cleaned,
        held_out=held_out,
        user_questions=evaluation,
        embedder=embedder,
        similarity=rules["rules"]["similarity"],
        seen=parts.seen,
        valid=parts.valid,
        seed=seed,
        copies=copies,
    )
    measured = split.evaluation_rows(parted, documents, evaluation)
    split.check_leaks(parted, measured, held_out=held_out)
    step.stats.update(noted, held_out=sorted(held_out))
    step.stats["coverage"] = coverage(parted, run.stream("chunks.parquet", [*COVERED]))
    paths = dict(documents.select("doc_id", "path").iter_rows())
    kept = parted.filter(pl.col("reason").is_null())
    step.stats["likeness"] = likeness(kept, evaluation, run.stream("chunks.parquet", [*COVERED]), paths)
    step.stats["reasons"] = _counts(parted, "reason")
    if "qa.parquet" in asked:
        pairs = kept.join(run.read("qa.parquet").select("question_id"), on="question_id", how="semi")
        step.stats["pairs"] = Counter(prompt.rpartition(", ")[0] for prompt in pairs["prompt"])  # by their file
    step.stats["splits"] = _counts(parted, "split") | ({"user": evaluation.height} if evaluation is not None else {})
    return {"cleaned.parquet": parted, "eval.jsonl": measured}


def _held_out(run: Run, parts: Split, seed: int, copies: Sequence[Sequence[str]]) -> frozenset[str]:
    listed = documents_listed(run)
    return split.hold_out(listed, share=parts.unseen, seed=seed, besides=parts.hold_out, copies=copies)


def _passed(
    run: Run,
    questions: pl.DataFrame,
    held_out: frozenset[str],
    indexes: Indexes,
    *,
    rules: Mapping[str, Any],
    k: int,
    embedder: Embedder,
    judge: tuple[Prompt, Generator] | None,
    languages: Mapping[str, str] | None = None,
    decided: Decided | None = None,
    weights: learned.Weights | None = None,
    scorer: tuple[Prompt, Scorer] | None = None,
    filters: Sequence[reading.Filter] = (),
    reader: Generator | None = None,
    wordings: int = 0,
    **_: Any,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return questions with the reason why each is dropped, before any is chosen or split, and their golden chunks."""
    limits = Cleaning.model_validate(rules)
    prompt, generator = judge or (None, None)
    golden = _golden_chunks(run, questions)
    with indexes.searching() as retriever:
        cleaned = clean.clean(
            questions,
            golden,
            retriever=retriever,
            embedder=embedder,
            held_out=held_out,
            round_trip_k=_round_trip_k(run, limits, k),
            judge=generator,
            judge_prompt=prompt,
            languages=languages,
            decided=decided,
            weights=weights,
            scorer=scorer,
            filters=filters,
            reader=reader,
            wordings=wordings > 0,
            **limits.model_dump(include={"min_words", "max_words", "max_answer_words", "similarity", "judge_minimum"}),
        )
    return cleaned, golden


def _round_trip_k(run: Run, limits: Cleaning, k: int) -> int:
    """Return among how many results a golden chunk must be: never among most of a small corpus."""
    return min(limits.round_trip or k, k, max(1, chunk_count(run) // 3))


def _counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    """Return how often each value of a column occurs, most frequent first; null is not counted."""
    found = Counter(table[column].drop_nulls())
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def write_examples(run: Run, settings: Settings, components: Components) -> None:
    """Kept questions to `examples.parquet`, `train.jsonl` and `valid.jsonl`."""
    wanted, style = settings.examples, settings.answer_style
    read = [prompts.load(PROMPTS[wanted.quotes], settings.prompts), prompts.load("restyle", settings.prompts)]
    using = {
        "examples": wanted,
        "style": style,
        "prompts": read,
        "generator": components.generator if render_style(**style.model_dump()) else None,
        "student": components.student,
        "seed": settings.seed,
        **({"told_apart": 1} if _imitates(run) else {}),
        **({"languages": VERSION} if surveyed_languages(run) else {}),
    }
    line = run.make(
        "examples",
        _write_examples,
        version=6,
        outputs=["examples.parquet", "train.jsonl", "valid.jsonl"],
        inputs=["cleaned.parquet", "chunks.parquet", *searched(settings)],
        using=using,
        beside={"indexes": components.indexes, "noted": asks(settings, "examples")},
        formerly=[(5, using), (4, using), (3, using)],  # finished runs keep theirs: 1 distractor in 100 held the answer
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
    noted: Mapping[str, Any],
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
    with indexes.searching() as retriever:
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
    step.stats.update(report, **noted)
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
