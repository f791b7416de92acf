"""The story of a benchmark: what each system is shown, what it says, and what follows.

A reply that was paid for once is taken from the ledger, so that a benchmark which was stopped goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Literal

import polars as pl

from raft import prompts
from raft.errors import UsageError
from raft.evaluation import capability, contexts, summary, systems
from raft.evaluation.contexts import Contexts
from raft.evaluation.metrics import score_answer
from raft.evaluation.systems import LARGER, BenchmarkModels, OpenedModel, RunningSystem, Stopwatch, System, title
from raft.evaluation.verdict import dispensable
from raft.pipeline.build import searched
from raft.pipeline.read import documents_listed
from raft.protocols import Completion, Message, OnEvent, Request, Retriever
from raft.rag import answering, format
from raft.rag.grounding import Answer, Passage
from raft.rag.refusal import Refusal
from raft.settings import Settings
from raft.store import artifacts, tables
from raft.store.again import again
from raft.store.run import Run, Step
from raft.text.languages import of_text

Search = Callable[[str, Sequence[Passage]], object]
"""Does for a question, and what is shown for it, all that comes before a model is asked."""
_ENOUGH_ANSWERS = 500
MOST_SECONDS = 30.0
"""What timing one system may take: one that fills it is timed on fewer questions, and the report says on how many.
A model of 135 million parameters on two cores takes some seconds a question, and fifty of each system an hour."""


class Timings:
    """What was timed of each system, and the last time: in the step's scratch folder, at the end in its statistics."""

    def __init__(self, step: Step, former: Mapping[str, Mapping[str, Any]], head: str = "") -> None:
        self._head = head
        self._step, self._file = step, step.scratch / "timings.json"
        kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        step.stats.update({**former, **kept})

    def former(self, running: RunningSystem) -> dict[str, Any]:
        """Return what was timed of this system before, if it was the same one; else an empty dictionary."""
        known = self._step.stats.get(running.system.name, {})
        return dict(known) if known.get("who") == who(running, self._head) else {}

    def latencies(self, running: RunningSystem) -> list[float]:
        """Return the latencies that were measured before; those that held the loading of an index do not count."""
        former = self.former(running)
        return list(former["latencies"]) if former.get("warm") else []

    def keep(self, running: RunningSystem, watch: Stopwatch, latencies: Sequence[float]) -> None:
        """Keep the throughput of whichever sitting wrote more replies, and these latencies (seconds a question)."""
        former = self.former(running)
        rate, count = watch.rate(), watch.count
        if rate is None or former.get("timed", 0) > count:
            rate, count = former.get("questions_per_second"), former.get("timed", 0)
        found = {"who": who(running, self._head), "questions_per_second": rate, "timed": count}
        self._step.stats[running.system.name] = {**found, "latencies": list(latencies), "warm": True}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        artifacts.atomically(self._file, json.dumps(self._step.stats))


def who(running: RunningSystem, head: str = "") -> str:
    """Return what a system is known by: a digest (SHA-256, hex) of name, model, prompt, examples, refusal head."""
    made_of = [running.system.name, running.generator.identity, running.prompt.digest, running.exemplars]
    return _digest([*made_of, *([head] if head else [])])


def latencies(
    running: RunningSystem,
    known: Contexts,
    search: Search,
    *,
    former: Sequence[float],
    settings: Settings,
    on_event: OnEvent,
) -> list[float]:
    """Return seconds a question: what a user waits for who asks one at a time, search included, nothing replayed.

    One question is asked before the clock runs, so that no loading is timed. A question without a reply is not timed,
    and none is begun once `MOST_SECONDS` have gone by. Without `uncached` nothing is timed. `former`, timed before, is
    returned as it is where no more questions are to be timed; `search` is called where documents are shown.
    """
    context = running.system.context
    ids = [name for name in known.questions["question_id"] if context in known.passages[name]]
    drawn = sorted(ids, key=lambda name: hashlib.sha256(f"latency:{name}".encode()).hexdigest())
    chosen = drawn[: settings.benchmark.latency_questions]
    if running.uncached is None or len(former) >= len(chosen) or sum(former) >= MOST_SECONDS:
        return list(former)
    on_event("asking", {"arm": running.system.title, "set": "latency", "condition": "", "questions": len(chosen)})
    asked = dict(known.questions.select("question_id", "question").iter_rows())

    def request(name: str) -> Request:
        if context != "none":
            search(asked[name], known.passages[name][context])
        return answering.request(
            asked[name],
            known.passages[name][context],
            max_tokens=settings.answering.max_tokens,
            **_options(running, settings),
        )

    seconds: list[float] = []
    # requests are made lazily, so that each search falls into its question's time
    with closing(running.uncached.complete(map(request, [drawn[-1], *chosen]))) as replies:  # type: ignore[type-var]
        next(replies)
        while sum(seconds) < MOST_SECONDS:
            begun = time.monotonic()
            outcome = next(replies, None)
            if outcome is None:
                break
            if isinstance(outcome, Completion):
                seconds.append(time.monotonic() - begun)
    return seconds


def prepare(
    run: Run,
    settings: Settings,
    questions: pl.DataFrame,
    retriever: Retriever,
    models: BenchmarkModels,
    *,
    refusal: Refusal | None = None,
) -> contexts.Contexts:
    """Search for the questions (a frame of `tables.EVALUATION`); choose what is shown: as much as all of `models` take.

    Where there is a `refusal`, what it says of each is noted.

    Raises:
        UsageError: not even one passage fits into a model's context, for any question.
    """
    closed = {name for name in questions["split"].unique() if summary.labels(_of(questions, name))}
    found = contexts.contexts(
        questions,
        run.read("chunks.parquet"),
        documents_listed(run),
        retriever,
        k=settings.index.k,
        share=settings.benchmark.withheld,
        seed=settings.seed,
    )
    # one of the labels is always chosen, so there is nothing to learn where what bears it is withheld
    choosing = set(questions.filter(pl.col("split").is_in(list(closed)))["question_id"])
    passages = {
        name: {context: shown for context, shown in own.items() if context != "withheld" or name not in choosing}
        for name, own in found.passages.items()
    }
    found = _fitting(replace(found, passages=passages), run, settings, models)
    return contexts.judged(found, refusal) if refusal else found


def _fitting(known: contexts.Contexts, run: Run, settings: Settings, models: BenchmarkModels) -> contexts.Contexts:
    """Return the contexts with as many passages as fit into every model's prompt; what bears an answer goes last."""
    asked = dict(known.questions.select("question_id", "question").iter_rows())
    used = [prompts.load(name, settings.prompts) for name in ("short", format.PROMPTS[settings.examples.quotes])]
    style, shortened, shown = _style(settings), set(), 0
    passages: dict[str, dict[contexts.Context, Sequence[Passage]]] = {}
    for name, own in known.passages.items():
        passages[name] = {}
        for context, chosen in own.items():
            kept = list(chosen)
            keep = known.sources.relevant.get(name, ()) if context == "golden" else ()
            for (tokenizer, limit), prompt in product(models.prompt_limits() if kept else (), used):
                kept = answering.fit(
                    kept, asked[name], prompt=prompt, style=style, tokenizer=tokenizer, limit=limit, keep=keep
                )
            if len(kept) < len(chosen):
                shortened.add(name)
            shown += len(kept)
            passages[name][context] = kept
    if shortened and not shown:
        raise UsageError(
            "Not even one passage and a question fit into the context of each model.",
            where=f"{min(limit for _, limit in models.prompt_limits()):,} tokens, beside the answer, of {run.folder}",
            hint=again(
                run.folder,
                {"chunking.tokens": settings.chunking.tokens // 2},
                remark="smaller chunks; or take a model that reads more",
            ),
        )
    return replace(known, passages=passages, shortened=len(shortened))


def choose_exemplars(
    run: Run,
    settings: Settings,
    models: BenchmarkModels,
    retriever: Retriever,
    *,
    refusal: Refusal | None = None,
    on_event: OnEvent,
) -> tuple[int, list[dict[str, Any]]]:
    """Choose on `valid` how many worked examples the few-shot system gets; return the number and all that was tried.

    Plain RAG with the common prompt is measured on the same questions, so that the better of the two is known.
    """
    cleaned = run.read("cleaned.parquet")
    paths = dict(documents_listed(run).select("doc_id", "path").iter_rows())
    rows = [
        {**row, "answers": [row["answer"]], "document": paths.get(next(iter(row["doc_ids"]), ""))}
        for row in _of(cleaned, "valid").iter_rows(named=True)
    ][: settings.benchmark.tuning_questions]
    tried: list[dict[str, Any]] = []
    if not rows:
        return settings.benchmark.exemplars[0], tried
    known = prepare(run, settings, tables.frame(tables.EVALUATION, rows), retriever, models, refusal=refusal)
    make = partial(_contender, run=run, settings=settings, known=known)
    plain = make("rag", models.base, 0)
    few = [make("rag_few", models.base, count) for count in settings.benchmark.exemplars]
    likely = of_text(" ".join(row["question"] for row in rows)).code
    spoken = [of_text(row["question"], likely).code for row in rows]
    for running in (plain, *{running.system.exemplars: running for running in few}.values()):
        on_event("asking", {"arm": running.system.title, "set": "valid", "condition": "", "questions": len(rows)})
        said = _ask(running, known, "valid", "retrieved", settings)
        scores = [
            score_answer(answer.text, row["answers"], abstained=answer.abstained, language=language)["f1"] or 0.0
            for answer, row, language in zip(said, rows, spoken, strict=True)
        ]
        asked = {"arm": running.system.name, "exemplars": running.system.exemplars, "split": "valid"}
        tried.append({**asked, "f1": sum(scores) / len(scores), "questions": len(rows), "chosen": False})
    best = max((one for one in tried if one["arm"] == "rag_few"), key=lambda one: (one["f1"], -one["exemplars"]))
    for one in tried:
        one["chosen"] = one is best or one["arm"] == "rag"
    return int(best["exemplars"]), tried


def line_up(
    run: Run, settings: Settings, models: BenchmarkModels, known: contexts.Contexts, exemplars: int
) -> list[RunningSystem]:
    """Return the systems in the order in which they are shown; `exemplars` are the worked examples of few-shot."""
    wanted: list[tuple[str, OpenedModel | None, int]] = [
        ("closed", models.base, 0),
        ("closed_few", models.base, max(exemplars, 2)),
        ("rag", models.base, 0),
        ("rag_few", models.base, exemplars),
        ("golden", models.base, 0),
        ("tuned_closed", models.tuned, 0),
        ("raft", models.tuned, 0),
        ("original", models.original, 0),
        ("tuned_golden", models.tuned, 0),
        ("other", models.other, 0),
        ("previous", models.previous, 0),
        *((f"{LARGER}{one.name}", one, exemplars) for one in models.larger),
    ]
    tuned = models.tuned is not None
    chosen = [one for one in wanted if settings.benchmark.contenders == "all" or not dispensable(one[0], tuned=tuned)]
    make = partial(_contender, run=run, settings=settings, known=known)
    return [make(name, model, count) for name, model, count in chosen if model is not None]


def _contender(
    name: str, model: OpenedModel, count: int, *, run: Run, settings: Settings, known: contexts.Contexts
) -> RunningSystem:
    if name in ("closed", "closed_few", "tuned_closed"):
        prompt = prompts.load("closed", settings.prompts)
    elif name == "rag_few" or name.startswith(LARGER):
        prompt = prompts.load("short", settings.prompts)
    else:
        prompt = prompts.load(format.PROMPTS[settings.examples.quotes], settings.prompts)
    turns: tuple[Message, ...] = ()
    if count:
        turns = contexts.exemplars(
            _of(run.read("cleaned.parquet"), "train"),
            run.read("chunks.parquet"),
            documents_listed(run),
            prompt,
            count,
            style=_style(settings),
            seed=settings.seed,
            abstaining=prompt.name == "short",
        )
    golden = name in ("golden", "tuned_golden")
    context: Literal["none", "retrieved", "golden"]
    context = "none" if prompt.name == "closed" else "golden" if golden else "retrieved"
    if turns and model.prompt_limit is not None:
        tokenizer, limit = model.prompt_limit
        options: dict[str, Any] = {"prompt": prompt, "style": _style(settings), "max_tokens": 1}
        asked = dict(known.questions.select("question_id", "question").iter_rows())
        chats = [
            answering.request(asked[place], shown, **options).messages
            for place, own in known.passages.items()
            for one, shown in own.items()
            if one == context or (one, context) == ("withheld", "retrieved")
        ]
        longest = max(map(tokenizer.count_chat, chats), default=0)
        while turns and longest + tokenizer.count_chat(turns) > limit:
            turns = turns[:-2]  # as many worked examples as fit beside every question
    system = System(
        name=name,
        title=title(name),
        model=model.name,
        adapter=model.adapter,
        prompt=prompt.name,
        prompt_digest=prompt.digest,
        exemplars=len(turns) // 2,
        context=context,
        tuned=model.adapter is not None,
    )
    return RunningSystem(system, model.generator, prompt, turns, model.scorer, model.uncached)


def ask_all(
    run: Run,
    settings: Settings,
    lineup: Sequence[RunningSystem],
    known: contexts.Contexts,
    search: Search,
    *,
    asker: str | None = None,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Ask every system every question; returns the timings by system. Makes `answers.parquet`.

    What a question is searched with, by `search`, is part of a retrieving system's latency; `asker` is the identity of
    a tuned retriever.
    """
    sets = known.questions["split"].unique(maintain_order=True).to_list()

    def work(step: Step) -> Mapping[str, pl.DataFrame]:
        frames = [tables.frame(tables.ANSWERS, [])]
        timings = Timings(step, run.manifest["steps"].get("answers", {}).get("notes", {}), known.head)
        for running in lineup:
            watch = Stopwatch(running.generator)
            asked = replace(running, generator=watch)
            conditions = ["answerable"] if running.system.context != "retrieved" else ["answerable", "withheld"]
            former = timings.latencies(running)
            try:
                for name, one in product(sets, conditions):
                    frames.append(answer_set(asked, known, name, one, settings=settings, on_event=on_event))
            finally:  # also of what is interrupted: its replies are not written again
                timings.keep(running, watch, former)
            taken = latencies(running, known, search, former=former, settings=settings, on_event=on_event)
            timings.keep(running, watch, taken)
        return {"answers.parquet": pl.concat(frames)}

    line = run.step(
        "answers",
        work,
        version=2,
        outputs=["answers.parquet"],
        inputs=["documents.parquet", "chunks.parquet", "cleaned.parquet", *searched(settings)],
        using={
            "arms": [who(running) for running in lineup],
            "questions": _digest(known.questions.to_dicts()),
            "k": settings.index.k,
            "seed": settings.seed,
            "style": _style(settings),
            "withheld": settings.benchmark.withheld,
            "latency_questions": settings.benchmark.latency_questions,
            "answering": settings.answering.model_dump(mode="json", exclude={"false_answers"}),
            **({"refusal": known.head, "least": known.least} if known.head else {}),
            **({"places": places} if (places := _named_places(known)) else {}),
            **({"retriever": asker} if asker else {}),
        },
    )
    return dict(line["notes"])


def trained_answers(run: Run) -> list[str]:
    """Return the answers of some training rows (`_ENOUGH_ANSWERS`), as the student is to give them, in their style."""
    rows = run.read("examples.parquet").filter(split="train").head(_ENOUGH_ANSWERS)
    return [format.parse(messages[-1]["content"]).answer for messages in rows["messages"]]


def _named_places(known: Contexts) -> str | None:
    """Return a digest of what was chosen by the places that questions name (`evaluation.contexts`); None for none."""
    sources = known.sources
    named = sorted({*sources.needed, *(name for name, grain in sources.grains.items() if grain != "chunk")})
    return _digest([[name, sources.relevant[name]] for name in named]) if named else None


def answer_set(
    running: RunningSystem, known: Contexts, split: str, condition: str, *, settings: Settings, on_event: OnEvent
) -> pl.DataFrame:
    """Ask one system one set of questions; return its answers (`tables.ANSWERS`).

    `condition` is "answerable", or "withheld": what bears the answer is not shown then.
    """
    context = running.system.context if condition == "answerable" else "withheld"
    ids = known.ids(split, context)
    if ids:
        told = {"arm": running.system.title, "set": split, "condition": condition, "questions": len(ids)}
        on_event("asking", told)
    return answering.answer_rows(
        _ask(running, known, split, context, settings),
        ids,
        system=running.system.name,
        question_set=split,
        condition=condition,
        retrieved=[known.sources.hits[name] if running.system.context != "none" else [] for name in ids],
    )


def _ask(
    running: RunningSystem, known: Contexts, question_set: str, context: contexts.Context, settings: Settings
) -> list[Answer]:
    ids = known.ids(question_set, context)
    asked = dict(known.questions.select("question_id", "question").iter_rows())
    passages = [known.passages[name][context] for name in ids]
    options = _options(running, settings)
    said = list(
        answering.answer_all(
            [asked[name] for name in ids],
            passages,
            running.generator,
            max_tokens=settings.answering.max_tokens,
            when_unsupported=settings.answering.when_unsupported,
            model=running.system.model,
            adapter=running.system.adapter,
            asked=[known.worth_asking(name, context) for name in ids],
            **options,
        )
    )
    labels = summary.labels(_of(known.questions, question_set))
    if labels and running.scorer is not None:
        chats = [
            answering.request(asked[name], shown, max_tokens=1, **options).messages
            for name, shown in zip(ids, passages, strict=True)
        ]
        begun = systems.beginnings(said, chats, running.scorer)
        said = systems.labelled(said, capability.choose(running.scorer, begun, labels))
    return said


def _options(running: RunningSystem, settings: Settings) -> dict[str, Any]:
    return {"prompt": running.prompt, "style": _style(settings), "exemplars": running.exemplars}


def _style(settings: Settings) -> str:
    return format.render_style(**settings.answer_style.model_dump())


def _of(questions: pl.DataFrame, name: str) -> pl.DataFrame:
    return questions.filter(pl.col("split") == name)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, default=str, sort_keys=True).encode()).hexdigest()


def sections(run: Run) -> dict[str, str]:
    """Return by chunk id the section that it is of, with its document; chunks without a heading are left out."""
    chunks = run.read("chunks.parquet").select("chunk_id", "doc_id", "heading")
    return {name: f"{document} {heading}" for name, document, heading in chunks.iter_rows() if heading}
