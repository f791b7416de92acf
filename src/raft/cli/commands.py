"""Commands of a run directory: make one, look at it, take things out of it."""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raft.cli.group import JSON, QUIET, RUN, SET, Place, acting, echo, main, show, tell_of_writers, the_same
from raft.errors import RaftError, UsageError, typed
from raft.kinds import KINDS

if TYPE_CHECKING:
    from raft.api import Answerer


@main.command()
@click.argument("folder", type=Place())
@JSON
@acting
def init(folder: Path, as_json: bool) -> None:
    """Copy pipelines and prompts to FOLDER, for editing. A YAML file there explains every setting."""
    from raft import api

    written = api.initialise(folder)
    done = f"{len(written)} files written to {folder}" if written else f"{folder} has all files already"
    file = typed(folder / "raft.yaml")
    done += f"\n  next:  edit {file}, then raft build --pipeline {file}   # with your documents as corpus in it"
    show({"folder": str(folder), "written": [str(path) for path in written]}, as_json, lambda facts: done)


def price_pair(text: str | None) -> tuple[float, float] | None:
    """Read a price as typed, `0.15/0.60`: dollars per million tokens read and written."""
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(
            f"A price is two numbers, and {text!r} is not: dollars per million tokens read, and written.",
            where="--price",
            hint="--price 0.15/0.60",
        ) from None
    return read, written


@main.command(epilog=f"Kinds of question, for --set questions.kinds=[fact,date]: {', '.join(KINDS)}.")
@click.argument("corpus", nargs=-1)
@click.option("--out", type=Place(), help="The run directory.  [default: runs/NAME-OF-CORPUS]")
@click.option(
    "--pipeline", metavar="FILE", help="A YAML file, or one of the package's: embedded, local, hosted, multilingual."
)
@click.option("--generator", metavar="MODEL", help="The model that writes questions: hub name, folder, provider/name.")
@click.option("--embedder", metavar="MODEL", help="The model that makes vectors.")
@click.option("--student", metavar="MODEL", help="The small model that will be tuned.")
@click.option("--questions-per-chunk", type=float, metavar="N", help="Questions asked for, a chunk, on average.")
@click.option("--limit", type=int, metavar="N", help="At most N questions, spread evenly over the documents.")
@click.option("--seed", type=int, metavar="N", help="Seed of every random choice.")
@click.option(
    "--eval", "evaluation", metavar="FILE", help="Your own questions: JSONL with question, answers, document."
)
@click.option(
    "--qa", metavar="FILE", multiple=True, help="Questions with answers to learn from: CSV, JSON, JSONL; repeatable."
)
@click.option("--engine", metavar="KIND", help="Who does the work: local, or ray (engine.address, engine.shards).")
@click.option("--decisions", metavar="FILE", help="What people decided on rows, beside the run's own (raft review).")
@click.option("--estimate", is_flag=True, help="Say what it would ask and cost, and stop before the first call.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=0, metavar="N", help="With --estimate: ask N calls to know better."
)
@click.option("--max-cost", type=float, metavar="USD", help="Dollars that the run may cost in all, over restarts.")
@click.option("--price", metavar="IN/OUT", help="The generator's dollars per million tokens: 0.15/0.60.")
@click.option("--local-only", is_flag=True, default=None, help="Refuse what is not on this machine.")
@SET
@QUIET
@JSON
@acting
def build(
    *, assignments: tuple[str, ...], quiet: bool, as_json: bool, estimate: bool, sample: int, **told: Any
) -> None:
    """Build rows and an index from CORPUS (files, folders, addresses). Resumes by itself."""
    from raft import api, settings
    from raft.cli import messages
    from raft.cli.progress import Progress

    if sample and not estimate:
        raise UsageError("A sample belongs to an estimate.", where="--sample", hint="the same command with --estimate")
    corpus, qa = list(told.pop("corpus")) or None, told["qa"]
    told["qa"] = list(qa) if len(qa) > 1 else next(iter(qa), None)
    told["settings"], told["price"] = settings.parse_assignments(assignments), price_pair(told["price"])
    with Progress(silent=quiet) as progress:
        if estimate:
            facts = api.estimate(corpus, sample=sample, on_event=progress, **told).summary()
        else:
            facts = api.build(corpus, on_event=progress, **told).summary()
    build_it = the_same("--sample", flags=("--estimate",)) if estimate else None
    show(facts, as_json, partial(messages.estimate, build=build_it) if estimate else messages.summary)


@main.command()
@RUN
@JSON
@acting
def status(run: Path, as_json: bool) -> None:
    """Say what RUN holds, step by step, and what was spent on it."""
    from raft import api
    from raft.cli import messages

    show(api.state(run), as_json, lambda facts: messages.status(facts.pop("summary"), **facts))


@main.command("show")
@RUN
@click.argument("table", metavar="TABLE")
@click.option(
    "-n", "--rows", "count", type=click.IntRange(0, 10**9), default=10, show_default=True, help="How many rows."
)
@click.option("--only", metavar="WORD", help="kept, dropped, a split, a reason, a kind, or what was wrong.")
@click.option("--text", "document", metavar="NAME", help="With documents: the text of one, as it was read.")
@JSON
@acting
def show_rows(*, run: Path, table: str, count: int, only: str | None, document: str | None, as_json: bool) -> None:
    """Print rows of a table of RUN.

    TABLE: documents, chunks, questions, failures, qa, cleaned, duplicates, examples, eval or answers.
    """
    from raft import api
    from raft.cli import messages

    tell_of_writers(run)
    if document is not None:
        if table != "documents":
            raise UsageError(
                "Documents have a text.",
                where="--text",
                hint=f"raft show {typed(run)} documents --text {typed(document)}",
            )
        text = api.text_of(run, document)
        show({"document": document, "text": text}, as_json, lambda facts: text)
        return
    if table == "duplicates":
        all_clusters = api.duplicates(run)
        clusters = all_clusters[:count]
        for text in map(json.dumps, clusters) if as_json else messages.duplicates(clusters):
            echo(text)
        if not as_json:
            hint = "--set cleaning.similarity=X   (a higher cosine drops fewer)"
            echo(hint if all_clusters else "no question was dropped as a duplicate", err=True)
            _cut(run, table, len(clusters), len(all_clusters))
        return
    found = api.table(run, table, only=only)
    if table == "failures" and found.height and count and not as_json:
        echo(messages.faults(found))
    rows = api.located(run, found.head(count))
    if as_json:
        for row in rows.iter_rows(named=True):
            show(row, as_json, str)
    else:
        for text in messages.rows(rows, table):
            echo(text)
        _cut(run, table, rows.height, found.height, only)
    if found.is_empty():
        echo("there are no such rows", err=True)
    steps = api.load(run).summary()["steps"].values()
    if any(line.get("stale") and table in [name.split(".")[0] for name in line["rows"]] for line in steps):
        echo(
            f"raft: a later build was not finished, and {table} is of the one before (raft status {typed(run)})",
            err=True,
        )


def _cut(run: Path, table: str, shown: int, count: int, only: str | None = None) -> None:
    if shown < count:
        chosen = f" --only {typed(only)}" if only else ""
        all_of_them = f"raft show {typed(run)} {table}{chosen} -n {count}"
        echo(f"{shown:,} of {count:,} are shown\n  next:  {all_of_them}   # all of them", err=True)


@main.command()
@RUN
@click.option(
    "--format", "form", type=click.Choice(["openai", "axolotl", "hf"]), help="Training rows, and who will read them."
)
@click.option("--merged", is_flag=True, help="Student and adapter as one model, for transformers, vLLM and others.")
@click.option("--gguf", is_flag=True, help="Student and adapter as one GGUF file, for llama.cpp and others.")
@click.option("--4bit", "four_bits", is_flag=True, help="As --merged, with its linear layers in 4 bits (NF4).")
@click.option("--adapter", metavar="ID", help="Of a tuned model: the adapter.  [default: the current one]")
@click.option("--out", type=Place(), help="Where to.  [default: in RUN]")
@JSON
@acting
def export(
    *,
    run: Path,
    form: str | None,
    merged: bool,
    gguf: bool,
    four_bits: bool,
    adapter: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the rows of RUN for another trainer, or its tuned model."""
    from raft import api
    from raft.cli.registry import exported
    from raft.store import adapters

    if (form is not None) + merged + gguf + four_bits != 1:
        what = "One thing is exported at a time: --format, --merged, --gguf or --4bit."
        one = "--merged" if adapters.listed(run) else "--format openai"
        raise UsageError(what, hint=f"raft export {typed(run)} {one}")
    if form is not None and adapter is not None:
        raise UsageError("Training rows have no adapter.", where="--adapter", hint=f"raft export {typed(run)} --merged")
    if form is not None:
        made = api.export(run, format=form, out=out)
    else:
        made = api.export_model(run, adapter=adapter, gguf=gguf, four_bits=four_bits, out=out)
        for remark in [*exported(run, made), *api.export_remarks(run, adapter)]:
            echo(f"raft: {remark}", err=True)
    show({"path": str(made)}, as_json, lambda facts: made)


_HELP = ":adapter ID (or none) answers with another adapter, :context shows or hides what was found, an empty line ends"


@main.command()
@RUN
@click.argument("question", required=False)
@click.option("--model", metavar="MODEL", help="Any model: hub name, folder, provider/name.  [default: the student]")
@click.option("--adapter", metavar="ID", help="An adapter's id, or none.  [default: the current one]")
@click.option("--k", type=int, metavar="N", help="Most passages that the model is shown.")
@click.option(
    "--when-unsupported",
    type=click.Choice(["mark", "retry", "refuse"]),
    help="What becomes of an answer that no document supports.",
)
@click.option(
    "--min-relevance",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Ask no model where less of what was found is about the question.  [default: answering.min_relevance]",
)
@click.option("--show-context", is_flag=True, help="Also show the passages that the model was shown.")
@click.option("--no-stream", is_flag=True, help="Show an answer when it is whole and checked.")
@JSON
@acting
def ask(
    *,
    run: Path,
    question: str | None,
    model: str | None,
    adapter: str | None,
    show_context: bool,
    no_stream: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer QUESTION from RUN, with quotes that were checked. Without one, questions are read as they come."""
    from raft import api
    from raft.cli import answers, registry
    from raft.cli.progress import Progress

    progress, doing = Progress(), "loading the index and the models …"
    context, stream = show_context, sys.stdout.isatty() and not (no_stream or as_json)

    def opened(adapter: str | None) -> "Answerer":
        with progress.waiting(doing):
            answerer = built.answerer(model=model, adapter=adapter, on_event=progress.held_up)
        for remark in answerer.remarks:
            echo(f"raft: {remark}", err=True)
        return answerer

    def say(question: str) -> None:
        nonlocal doing
        heard: list[str] = []

        def on_event(piece: str) -> None:
            there()
            heard.append(piece)
            echo(piece, nl=False)

        with progress.waiting(doing) as there:
            said = answerer.ask(question, on_event=on_event if stream else None, **options)
        doing = "answering …"
        if heard:
            echo()
        if as_json:
            show(asdict(said), as_json, str)
        else:
            given = {"model": model, "adapter": adapter, **options}
            echo(answers.answer(said, run=run, options=given, context=context, heard=bool(heard)))

    with progress.waiting(doing):
        built = api.load(run)
    answerer = opened(adapter)
    if question is not None:
        say(question)
        return
    # the model stays loaded, and a question that fails does not end the session
    if sys.stdin.isatty():
        echo(_HELP, err=True)
    for line in _lines():
        try:
            if line == ":context":
                context = not context
            elif line.split()[0] == ":adapter":
                chosen = line.removeprefix(":adapter").strip() or None
                answerer, adapter = opened(chosen), chosen
                echo(f"raft: {registry.answers(run, answerer.model, answerer.adapter)}", err=True)
            elif line.startswith(":"):
                echo(f"raft: {_HELP}", err=True)
            else:
                say(line)
        except RaftError as error:
            echo(f"raft: {error}", err=True)


def _lines() -> Iterator[str]:
    prompt = "\n? " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line


@main.command()
@RUN
@click.option("--questions", metavar="FILE", help="Your own questions: JSONL with question, answers, document.")
@click.option("--adapter", metavar="ID", help="The adapter to measure.  [default: the current one]")
@click.option("--version", metavar="ID", help="A version of the registry, beside the adapter that it was made of.")
@click.option("--model", "larger", multiple=True, metavar="NAME", help="A larger model to compare with; repeatable.")
@click.option("--drop-leaks", is_flag=True, help="Leave out questions that the adapter was trained on.")
@click.option(
    "--blind",
    "blind_pairs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write blind.html: N anonymous pairs of answers for experts.",
)
@click.option("--ratings", metavar="FILE", help="What the experts chose, as blind.html saved it.")
@SET
@QUIET
@JSON
@acting
def bench(*, run: Path, assignments: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> None:
    """Measure RUN against plain RAG, and say which is the better buy."""
    from raft import api, settings
    from raft.cli import benchmarks
    from raft.cli.progress import Progress

    with Progress(silent=quiet) as progress:
        given = settings.parse_assignments(assignments)
        facts = api.bench(run, settings=given, on_event=progress, **options)
    show(facts, as_json, benchmarks.benchmark)


@main.command()
@RUN
@click.option("--part", type=click.Choice(["adapter", "refusal", "retriever"]), help="One part alone.")
@click.option("--backend", metavar="NAME", help="What trains: auto, peft, unsloth, ...  [default: as set]")
@click.option("--epochs", type=float, metavar="N", help="Most passes over the rows.")
@click.option("--learning-rate", type=float, metavar="X", help="The highest learning rate.")
@click.option("--rank", type=int, metavar="N", help="Rank of the adapter's matrices.")
@SET
@QUIET
@JSON
@acting
def train(*, run: Path, assignments: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> None:
    """Tune an adapter of the student on the rows of RUN. Resumes by itself."""
    from raft import api, settings
    from raft.cli import benchmarks, messages
    from raft.cli.progress import Progress

    if options["part"] != "refusal":
        looked = messages.seen(api.load(run).reviewed())
        for line in looked or [f"nobody has judged the rows that this learns from (raft review {typed(run)})"]:
            echo(f"raft: {line}", err=True)
    with Progress(silent=quiet) as progress:
        given = settings.parse_assignments(assignments)
        card = api.train(run, settings=given, on_event=progress, **options)
    said = {"refusal": messages.refusing, "retriever": benchmarks.tuned}.get(options["part"], messages.trained)
    show(card, as_json, lambda card: said(card, str(run)))


@main.command()
@RUN
@click.option("--by", required=True, metavar="NAME", help="Who approves.")
@click.option("--adapter", metavar="ID", help="The adapter.  [default: the current one]")
@click.option("--note", metavar="TEXT", default="", help="What the approval rests on.")
@JSON
@acting
def approve(run: Path, by: str, adapter: str | None, note: str, as_json: bool) -> None:
    """Write into an adapter's card who stands for it. Its history has it too, with the verdict of now."""
    from raft import api
    from raft.cli import messages

    card = api.approve(run, by, adapter=adapter, note=note)
    show(card, as_json, lambda card: messages.approved(card, str(run)))
