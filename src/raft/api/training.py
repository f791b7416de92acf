"""Training: a run directory in, an adapter out; its approval, and its export as one model."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, cast

from raft import prompts
from raft.api import models, registry
from raft.api.run import Built, adapter_for, settings_of, together, writable
from raft.backends import hub
from raft.backends.embedding import open_embedder
from raft.backends.local.weights import give_back_memory
from raft.backends.trainers import merge, questions, unsloth
from raft.backends.trainers.check import check_student
from raft.errors import UsageError, names_run, place, typed
from raft.pipeline.build import searched
from raft.pipeline.refusal import check_questions, train_head
from raft.pipeline.retriever import Searching, train_retriever, used
from raft.pipeline.train import Replay, examples_digest, train_adapter
from raft.protocols import OnEvent, Request, Trainer, TrainingPlan
from raft.rag.format import PROMPTS, render_style
from raft.settings.sections import TRAINERS, Index, Settings
from raft.store import adapters, lineage
from raft.store.again import again
from raft.store.budget import enter
from raft.store.fitness import Kind
from raft.store.ledger import Ledger
from raft.store.run import Run
from raft.training import tune

_CHANGEABLE: Mapping[str | None, tuple[str, ...]] = {
    "adapter": ("training.", "seed", "student", "examples.max_tokens"),
    "refusal": ("answering.false_answers",),
    "retriever": (),
}
"""Settings that a training reads; others have had their effect when the run was built."""


@names_run
def train(
    folder: str | Path,
    *,
    part: Literal["adapter", "refusal", "retriever"] | None = None,
    backend: str | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    rank: int | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Tune an adapter of the run's student on its training rows, make it the current one, and learn when to refuse.

    A training that was interrupted goes on from its last checkpoint when it is called again with equal arguments. One
    that was done before is not done again.

    Args:
        folder: the run directory.
        part: "adapter", that alone; "refusal", the refusal head alone, for `answering.false_answers` or else
            0.1 (0: nothing is promised any more); "retriever", what embeds the questions; None: the adapter, and the
            head where a rate is set.
        backend: "auto", "peft" or "unsloth".
        epochs: most passes over the rows.
        learning_rate: the highest learning rate.
        rank: rank of the adapter's matrices.
        settings: other settings of the training by their dotted names, e.g. `{"training.rehearsal": 0}`. Another
            `student` (which must have the same tokenizer) becomes the run's.
        on_event: told "begins", "rows", "training" (each step with its loss), "refusal" (what the head promises),
            "retriever" (its card), "made" or "reused".

    Returns:
        The adapter's card, as in `adapters/<id>/card.json`; of a refusal head alone, what it promises; of a
        retriever, its card (`pipeline.retriever.Card`).

    Raises:
        UsageError: a setting is wrong, or the student cannot be trained here; nothing was started.
        RaftError: there are no training rows, somebody has edited their file (`review` is the road to that), or the
            training failed; its checkpoints are kept.
    """
    others = together({}, settings)
    if part not in (None, *_CHANGEABLE):
        hint = "--part adapter, --part refusal or --part retriever"
        raise UsageError(f"There is no part {part}.", where="part", hint=hint)
    _check_changeable(others, folder, part)
    built = Built(folder)
    own = {"backend": backend, "epochs": epochs, "learning_rate": learning_rate, "rank": rank}
    chosen = settings_of(built, together({f"training.{name}": value for name, value in own.items()}, others))
    models.check(chosen, asked={} if part == "retriever" else {chosen.student: None})
    on_event = on_event or (lambda event, facts: None)
    run = writable(built, on_event)
    given = [name for name, value in own.items() if value is not None]
    if given and part in ("refusal", "retriever"):
        hint = f"raft train {typed(folder)} --part {part}"
        raise UsageError(f"The part {part} has no {', '.join(given)}.", where=f"--part {part}", hint=hint)
    if part == "retriever":
        return _retriever(run, chosen, on_event)
    if part == "refusal":
        if "answering.false_answers" in others and not chosen.answering.false_answers:
            with run.writing():
                run.describe(settings=chosen.model_dump(mode="json"))
            return {"wanted": 0.0}
        return _refusal(run, chosen, on_event)
    examples_digest(run)
    if part is None and chosen.answering.false_answers:
        check_questions(run)
    check_student(chosen.student, bits=chosen.training.bits)
    _check_tokenizer(built, chosen)
    general = tune.load(chosen.training.rehearsal_file)
    facts = {
        "base": chosen.student,
        "base_identity": hub.identity(chosen.student),
        "revision": hub.revision(hub.resolve(chosen.student)),
        "prompt_digest": prompts.load(PROMPTS[chosen.examples.quotes], chosen.prompts).digest,
        "style": render_style(**chosen.answer_style.model_dump()),
        "rehearsal_replies": chosen.training.rehearsal_replies,
    }
    trainer = open_trainer(chosen.training.backend)
    ask = partial(_ask_student, run, chosen, on_event) if chosen.training.rehearsal_replies == "own" else None
    rehearsal = Replay(general, chosen.training.rehearsal, chosen.seed, ask)
    with run.writing():
        card = train_adapter(run, _plan(chosen), trainer, rehearsal=rehearsal, facts=facts, on_event=on_event)
    if part is None and chosen.answering.false_answers:
        _refusal(run, chosen, on_event)
    return card


def _refusal(run: Run, chosen: Settings, on_event: OnEvent) -> dict[str, Any]:
    name = run.manifest["collection"]
    with run.writing(), closing(Ledger(chosen.ledger or run.folder / "ledger.sqlite")) as ledger:
        enter(ledger, name, "refusal")
        run.require(*searched(chosen), "cleaned")
        models.check_keys({chosen.index.embedder: chosen.index.api_base}, ledger)
        with models.open_retriever(run.folder, chosen, name, lambda: ledger) as retriever:
            reader = models.open_reader(chosen, retriever.embedder, ledger)
            reader = reader._replace(retriever=used(run, reader.embedder))
            return train_head(run, chosen, retriever, reader, on_event=on_event)


def _retriever(run: Run, chosen: Settings, on_event: OnEvent) -> dict[str, Any]:
    name = run.manifest["collection"]
    with run.writing(), closing(Ledger(chosen.ledger or run.folder / "ledger.sqlite")) as ledger:
        run.require(*searched(chosen), "cleaned")
        searching = _searching(run.folder, chosen, ledger, name)
        return train_retriever(run, chosen, searching, on_event=on_event).model_dump()


def _searching(folder: Path, settings: Settings, ledger: Ledger, collection: str) -> Searching:
    """Open what a retriever is tuned with; the vectors of its chunks are taken from the ledger.

    Raises:
        UsageError: the embedder is hosted.
    """
    name = settings.index.embedder
    if hub.is_hosted(name):
        what = f"{name} is hosted: its weights are not to be had, so it cannot be tuned."
        hint = again(folder, {"index.embedder": Index().embedder}, remark="or another local one; then the same command")
        raise UsageError(what, where="index.embedder", hint=hint)
    embedder = models.question_embedder(settings, ledger, collection)
    return Searching(
        embedder=embedder,
        search=lambda asker: models.open_indexes(folder, settings, embedder, collection).open(exact=True, asker=asker),
        tune=partial(questions.tune, name, seed=settings.seed),
        open=open_embedder,
        trainer=questions.IDENTITY,
    )


def _check_changeable(changes: Mapping[str, Any], folder: str | Path, part: str | None = None) -> None:
    every = tuple(one for names in _CHANGEABLE.values() for one in names)
    fixed = [name for name in changes if not name.startswith(_CHANGEABLE.get(part, every))]
    if others := [name for name in fixed if name.startswith(every)]:
        raise UsageError(
            f"The part {part} does not read {', '.join(others)}.",
            where="--set",
            hint=f"raft train {typed(folder)}   (both parts), or the other --part",
        )
    if fixed:
        raise UsageError(
            f"A training does not read {', '.join(fixed)}: it had its effect when the run was built.",
            where="--set",
            hint=again(folder, {name: changes[name] for name in fixed}, remark=f"then raft train {typed(folder)}"),
        )


def _check_tokenizer(built: Built, settings: Settings) -> None:
    """Check that the rows were measured in the student's own tokens: otherwise some may lose their answers."""
    measured = (built.manifest.get("models") or {}).get("student")
    if hub.tokenizer(settings.student).identity != measured:
        raise UsageError(
            "The training rows were measured in the tokens of another student, or of another version of it.",
            where=f"{built.folder}, student {settings.student}",
            hint=again(built.folder, {"student": settings.student}, remark="measures them anew"),
        )


def _ask_student(run: Run, settings: Settings, on_event: OnEvent, requests: Sequence[Request]) -> list[Any]:
    """Have the untuned student answer; what it says is kept in the ledger, and its memory is free for the training."""
    with closing(Ledger(settings.ledger or run.folder / "ledger.sqlite")) as ledger:
        opened = models.open_model(settings.student, settings, ledger, on_event=on_event)
        replies = list(opened.generator.complete(requests))
    del opened
    give_back_memory()
    return replies


def _plan(settings: Settings) -> TrainingPlan:
    if settings.training.kl and not settings.training.rehearsal:
        what = "training.kl counts in rows that are rehearsed, and there are none."
        raise UsageError(what, where="training.rehearsal=0", hint="--set training.rehearsal=0.1")
    return TrainingPlan(
        student=settings.student,
        max_tokens=settings.examples.max_tokens,
        seed=settings.seed,
        **settings.training.model_dump(exclude={"backend", "rehearsal", "rehearsal_file", "rehearsal_replies"}),
    )


def approve(folder: str | Path, by: str, *, adapter: str | None = None, note: str = "") -> dict[str, Any]:
    """Write into an adapter's card and its history who approved it, with the verdict of now; return the card.

    Args:
        folder: the run directory.
        by: the person's name.
        adapter: the adapter's id, or the beginning of it; None: the current one.
        note: what the approval rests on.

    Raises:
        UsageError: there is no such adapter, or no name.
    """
    return adapters.approve(adapters.find(Built(folder).folder, adapter), by, note)


@names_run
def export_model(
    folder: str | Path,
    *,
    adapter: str | None = None,
    gguf: bool = False,
    four_bits: bool = False,
    out: str | Path | None = None,
) -> Path:
    """Write student and adapter as one model, for servers that load no adapters; return where it lies.

    It becomes a version of its own in the registry (`raft registry list RUN`), where that can be written. A folder also
    holds the adapter's card, its prompt, and a README that says how to serve it.

    Args:
        folder: the run directory.
        adapter: the adapter's id, or the beginning of it; None: the current one.
        gguf: write one GGUF file, for llama.cpp and what builds on it, rather than a folder of safetensors.
        four_bits: write the folder's linear layers in 4 bits (NF4), a quarter of the size.
        out: the folder (or, for GGUF, the file); None: `export-merged-<id>`, `export-4bit-<id>` or `<id>.gguf` in the
            run directory.

    Raises:
        UsageError: there is no such adapter, it is of another base model, `out` is in use, or nothing here writes GGUF.
        MissingExtra: 4 bits are wanted, and bitsandbytes is not installed.
        RaftError: base or adapter cannot be read, or the conversion failed.
    """
    built = Built(folder)
    student = built.settings.student
    models.check(built.settings, asked={student: None})
    found = adapter_for(built.folder, adapter, student)
    kind: Kind = "gguf" if gguf else "4bit" if four_bits else "merged"
    usual = f"{found.name}.gguf" if gguf else f"export-{kind}-{found.name}"
    target = built.folder / usual if out is None else place(out, "--out")
    if kind == "gguf":
        merge.require(found)
    elif kind == "4bit":
        merge.require_bitsandbytes()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The folder cannot be made: {error.strerror}.", where=target.parent, hint="choose another --out"
        ) from None
    if kind == "merged":
        merge.merge(student, found, target)
    else:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".draft-") as work:
            whole = merge.merge(student, found, Path(work) / "model")
            (merge.export_gguf if gguf else merge.four_bits)(whole, target)
    if not gguf:
        chosen = built.settings
        prompt, style = prompts.load(PROMPTS[chosen.examples.quotes], chosen.prompts), chosen.answer_style.model_dump()
        turns = prompt.render(documents="$documents", question="$question", style=render_style(**style))
        remarks = [remark.replace(str(folder), "RUN") for remark in export_remarks(folder, adapter)]
        tokens = chosen.examples.max_tokens + chosen.answering.max_tokens
        adapters.write_served(target, found, turns, tokens=tokens, bits=4 if four_bits else 16, remarks=remarks)
    if found.parent == built.folder / "adapters":
        registry.note(built.folder, found.name, kind, target)
    return target


def export_remarks(folder: str | Path, adapter: str | None = None) -> list[str]:
    """Return what a person should know before an adapter is served: that its rows are not those of the run any more."""
    run, place = Built(folder), typed(folder)
    found, line = adapters.find(run.folder, adapter), run.manifest["steps"].get("examples")
    if line is None or "examples" in lineage.stale(run.manifest["steps"]):
        return [f"a later build was not finished, and {found.name} learned from the one before (raft status {place})"]
    rows = line["artifacts"]["examples.parquet"]["digest"]
    if adapters.read_card(found).get("data_digest") != rows:
        return [f"{found.name} learned from rows of another build (raft train {place} learns from those of now)"]
    return []


def open_trainer(backend: str) -> Trainer:
    """Return what trains: `backend` is a name of `TRAINERS`, or "auto" for Unsloth where it is at hand."""
    if backend == "auto":
        backend = "unsloth" if unsloth.available() else "peft"
    return cast("Trainer", resolve_name(f"raft.backends.trainers.{TRAINERS[backend]}")())
