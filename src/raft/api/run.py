"""A run directory, opened for reading."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from raft import prompts, settings
from raft.api import models
from raft.api.asking import Answerer, LoadedRun
from raft.api.models import open_retriever
from raft.backends import hub
from raft.curation import user_questions
from raft.errors import DamagedArtifact, UsageError, place, typed
from raft.examples import export as exporting
from raft.pipeline import review as reviewed
from raft.pipeline.build import STEPS, searched
from raft.pipeline.pairs import asked_in
from raft.pipeline.read import documents_listed
from raft.protocols import OnEvent, Retriever
from raft.rag.answering import WhenUnsupported
from raft.rag.grounding import Answer
from raft.report.shown import Shown, State
from raft.settings import Settings
from raft.store import adapters, artifacts, folders, lineage, registry, tables
from raft.store.again import again
from raft.store.ledger import Ledger
from raft.store.run import Run, existing, is_locked
from raft.text.secrets import shown

_UNTOLD = ("key", "basis", "artifacts", "inputs", "settings", "unfinished")
"""What a step's line holds for the run alone."""
_Made = TypeVar("_Made")


def one_of(**names: _Made | None) -> _Made | None:
    """Return the value of whichever of several names of one argument was given; None: none was.

    Raises:
        UsageError: more than one was given.
    """
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) > 1:
        what = f"{' and '.join(given)} are two names of one argument."
        raise UsageError(what, hint=f"give {next(iter(given))} alone")
    return next(iter(given.values()), None)


class Built(Shown):
    """A run directory that was built, opened for reading.

    Raises:
        UsageError: there is no run directory at `folder`.
        DamagedArtifact: its manifest is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = place(folder, "RUN")
        self._run = existing(self.folder)
        self.manifest: dict[str, Any] = self._run.manifest
        if "settings" not in self.manifest:
            raise DamagedArtifact(
                "The manifest is damaged, or its build was stopped before its first step.",
                where=self.folder / "manifest.json",
                hint=again(self.folder, remark="what is intact is used again"),
            )

    def _head(self) -> str:
        told = ("documents", "questions", "examples")
        counts = [f"{rows} {name}" for name, rows in self._rows().items() if name in told]
        return f"run {self.folder}: {', '.join(counts)}"

    def _rows(self) -> Mapping[str, object]:
        made = [entry for line in self.manifest["steps"].values() for entry in line["artifacts"].items()]
        rows = {name.removesuffix(".parquet"): f"{entry['rows']:,}" for name, entry in made if "rows" in entry}
        return {**rows, "generator": self.settings.generator.model, "student": self.settings.student}

    @property
    def settings(self) -> Settings:
        """The settings that the run was built with."""
        return settings.of_manifest(self.manifest["settings"], self.folder)

    @property
    def documents(self) -> pl.DataFrame:
        """The documents with their texts, or why one could not be read (`tables.DOCUMENTS`)."""
        return self._run.read("documents.parquet")

    @property
    def chunks(self) -> pl.DataFrame:
        """The chunks (`tables.CHUNKS`)."""
        return self._run.read("chunks.parquet")

    @property
    def questions(self) -> pl.DataFrame:
        """The questions as they were written (`tables.QUESTIONS`)."""
        return self._run.read("questions.parquet")

    @property
    def failures(self) -> pl.DataFrame:
        """What the generator did not deliver, with its replies (`tables.FAILURES`)."""
        return self._run.read("failures.parquet")

    @property
    def cleaned(self) -> pl.DataFrame:
        """All questions, each with its split or the reason why it was dropped (`tables.CLEANED`)."""
        return self._run.read("cleaned.parquet")

    @property
    def examples(self) -> pl.DataFrame:
        """The training rows (`tables.EXAMPLES`)."""
        return self._run.read("examples.parquet")

    @property
    def evaluation(self) -> pl.DataFrame:
        """The questions to measure with (`tables.EVALUATION`)."""
        return self._run.read("eval.jsonl")

    @cached_property
    def index(self) -> Retriever:
        """The index: `run.index.search(["what is the refund limit?"], k=5)` returns a frame of `tables.HITS`.

        Raises:
            UsageError: `local_only` is set, and index or embedder is not on this machine.
        """
        models.check(self.settings, asked={})
        self._run.require(*searched(self.settings))
        return open_retriever(self.folder, self.settings, self.manifest["collection"], self._loaded.paying)

    @property
    def adapters(self) -> list[dict[str, Any]]:
        """The cards of the run's adapters, oldest first; `current` of each says whether it is the one that answers."""
        chosen = adapters.current(self.folder)
        return [{**card, "current": card["adapter"] == chosen} for card in adapters.listed(self.folder)]

    def answerer(
        self, *, model: str | None = None, adapter: str | None = None, on_event: OnEvent | None = None
    ) -> Answerer:
        """Return what answers questions from the index; its model is loaded with the first question.

        Answerers of one run share index and weights, so that changing the adapter costs no loading.

        Args:
            model: a model's name; None: the run's student.
            adapter: an adapter's id or the beginning of it, or "none"; None: the current one, unless `model` is given.
            on_event: told "waiting" where a hosted model asks to wait, "asked" and "stopping".

        Raises:
            UsageError: there is no such adapter, it was trained on another base model, the model is unknown, or
                `local_only` is set and something that would be asked is not on this machine.
        """
        chosen = model or self.settings.student
        models.check(self.settings, asked={chosen: models.address_of(chosen, self.settings)})
        return Answerer(self._loaded, model, adapter, on_event or (lambda event, facts: None))

    def ask(
        self,
        question: str,
        *,
        model: str | None = None,
        adapter: str | None = None,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
        min_relevance: float | None = None,
    ) -> Answer:
        """Return the answer to a question, its quotes and figures checked against what was retrieved.

        Args:
            question: the question.
            model: as for `answerer`.
            adapter: as for `answerer`.
            k: most passages that are shown; None: `index.k`.
            when_unsupported: what becomes of an unsupported answer: "mark", "retry" or "refuse"; None: as set.
            min_relevance: below it no model is asked (`answering.min_relevance`); None: as set.

        Raises:
            UsageError: as for `answerer`, or the question is empty or too long.
            RaftError: index or model cannot be used.
        """
        chosen = self.answerer(model=model, adapter=adapter)
        return chosen.ask(question, k=k, when_unsupported=when_unsupported, min_relevance=min_relevance)

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        model: str | None = None,
        adapter: str | None = None,
        k: int | None = None,
        when_unsupported: WhenUnsupported | None = None,
        min_relevance: float | None = None,
    ) -> list[Answer]:
        """Return the answers to many questions, in order; as `ask`, but in batches."""
        chosen = self.answerer(model=model, adapter=adapter)
        return chosen.ask_all(questions, k=k, when_unsupported=when_unsupported, min_relevance=min_relevance)

    @cached_property
    def _loaded(self) -> LoadedRun:
        return LoadedRun(self._run, self.settings)

    def summary(self) -> dict[str, Any]:
        """Return what was built, as JSON; `left`: to be made yet, `stale`: left behind, `wrong`: what stops a build."""
        steps: dict[str, Any] = {}
        unused = set() if self.settings.index.hybrid else {"lexical"}
        unused |= {"qa", "reworded"} - {name.partition(".")[0] for name in asked_in(self.settings)}
        stale = lineage.stale(self.manifest["steps"]) & {*STEPS} - unused
        for name, line in self.manifest["steps"].items():
            if name in ("qa", "reworded") and name in unused:  # the rows of a build before
                continue
            rows = {artifact: entry["rows"] for artifact, entry in line["artifacts"].items() if "rows" in entry}
            steps[name] = {"rows": rows, **{k: line[k] for k in line if k not in _UNTOLD}}
            steps[name] |= {"stale": True} if name in stale else {}
            gone = [artifact for artifact in line["artifacts"] if not (self.folder / artifact).exists()]
            steps[name] |= {"gone": gone} if gone and not (name == "index" and self.settings.index.url) else {}
        fit = {name for name in STEPS if name in steps and not steps[name].keys() & {"stale", "gone"}}
        whole = self.manifest.get("begun") is None and "examples" in fit and fit >= ({*STEPS} & {*steps}) - unused
        about = {name: self.manifest.get(name) for name in ("raft", "corpus", "models", "skipped")}
        about["left"] = None if whole else [name for name in STEPS if name not in fit | unused]
        if about["left"] is not None and (wrong := self._wrong_questions("documents" in fit)):
            about["wrong"] = wrong
        about["models"] = {role: shown(str(identity)) for role, identity in (about["models"] or {}).items()}
        return {"run": str(self.folder), **about, "steps": steps, "reviewed": self.reviewed()}

    def _wrong_questions(self, read: bool) -> str | None:
        """Return what is wrong with the file of questions to measure with, at which a build would stop again."""
        try:
            if file := self.settings.evaluation:
                file = self.folder / str(self.manifest.get("home") or "") / file  # where the build was typed
                user_questions.register(file, documents_listed(self._run) if read else None)
        except (UsageError, DamagedArtifact) as error:  # damaged documents are read anew before questions are
            return str(error) if isinstance(error, UsageError) else None
        return None

    def reviewed(self) -> dict[str, Any]:
        """Return what people's verdicts say of the rows (`pipeline.review.figures`)."""
        return reviewed.figures(self._run, self.settings)


def load(folder: str | Path) -> Built:
    """Open a run directory for reading.

    Raises:
        UsageError: there is none at `folder`.
    """
    return Built(folder)


def settings_of(built: Built, changes: Mapping[str, Any]) -> Settings:
    """Return the settings that a run was built with, with those replaced that are given by their dotted names."""
    return settings.changed(built.settings, {name: value for name, value in changes.items() if value is not None})


def together(named: Mapping[str, Any], others: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return all settings that are given, by their dotted names: by arguments of their own, and others, also nested.

    Raises:
        UsageError: one setting is given two values.
    """
    found: dict[str, Any] = {}
    for key, value in [*_dotted(named), *_dotted(others or {})]:
        if value is None:
            continue
        if key in found and str(found[key]) != str(value):
            what = f"{key} is given twice: {found[key]!r} and {value!r}."
            raise UsageError(what, where=key, hint="leave one of the two out")
        found[key] = value
    return found


def _dotted(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        yield from _dotted(value, f"{before}{name}.") if isinstance(value, Mapping) else [(f"{before}{name}", value)]


def adapter_for(folder: Path, wanted: str | None, student: str) -> Path:
    """Return the folder of an adapter of a student, by its id or the beginning of it; None: the current one.

    Raises:
        UsageError: there is no such adapter, or it is of another base model.
    """
    found = adapters.find(folder, wanted)
    adapters.check_base(found, hub.identity(student), student)
    return found


def writable(built: Built, on_event: OnEvent) -> Run:
    """Return the run for writing; `on_event` is told of its steps."""
    run = Run(built.folder, report=lambda name, state: tell_step(run, on_event, name, state))
    return run


def tell_step(run: Run, on_event: OnEvent, name: str, state: str) -> None:
    """Tell that a step has come to a state ("begins", "made", "reused"), with its line of the manifest."""
    on_event(state, {"step": name, "line": run.manifest["steps"].get(name, {})})


def state(folder: str | Path) -> State:
    """Return the summary of a run, its `adapters`, what its ledger was ever asked (`spent`), and whether it is written.

    That is `running`: another raft builds, trains or measures. `money` is what the run itself spent: `rows` by step and
    model (`Ledger.spending`), `spent` in dollars with lost calls at their worst case, `open` for what is under way at
    most, `cap` and what is `left` of it (None without one). `registered` is what is in production, if anything is.

    Raises:
        UsageError: there is no run directory at `folder`.
    """
    built = Built(folder)
    path = built.settings.ledger or built.folder / "ledger.sqlite"
    spent, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    if path.is_file():
        with closing(Ledger(path)) as ledger:
            spent, rows = ledger.spent(), ledger.spending(built.manifest.get("collection", ""))
    if not (running := is_locked(built.folder)):  # what a killed process left open was perhaps billed
        for row in rows:
            row["lost"], row["lost_cost"] = row["lost"] + row["open"], row["lost_cost"] + row["open_cost"]
            row["open"], row["open_cost"] = 0, 0.0
    paid = sum(row["cost"] + row["lost_cost"] for row in rows)
    under_way = sum(row["open_cost"] + row["batch_cost"] for row in rows)
    cap = built.settings.generator.max_cost
    left = None if cap is None else cap - paid - under_way
    return State(
        summary=built.summary(),
        spent=spent,
        money={"rows": rows, "spent": paid, "open": under_way, "cap": cap, "left": left},
        adapters=[adapters.line(card) for card in built.adapters],
        running=running,
        registered=registry.told(built.folder),
    )


status = state


def table(folder: str | Path, name: str, *, only: str | None = None) -> pl.DataFrame:
    """Return a table of a run: documents, chunks, questions, failures, cleaned, examples, eval or answers.

    With `only` the rows that are "kept" or "dropped", or have that value as split, reason or kind; of failures also
    those with which that was wrong.

    Raises:
        UsageError: there is no run, no such table, or `only` is a word that no row of it has.
        DamagedArtifact: the table is missing or damaged.
    """
    known = {file.split(".")[0]: file for file in tables.ARTIFACTS}
    if name not in known:
        raise UsageError(
            f"There is no table {name!r}; there are {', '.join(known)}, and raft show has duplicates.",
            hint=f"raft show {typed(folder)} cleaned",
        )
    built = Built(folder)
    if name == "qa" and "qa.parquet" not in asked_in(built.settings):
        hint = again(folder, {"questions.qa": "pairs.jsonl"}, remark="a file that you have already")
        raise UsageError("The run was built without pairs of your own.", where=folder, hint=hint)
    found = built._run.read(known[name])
    if only is None:
        return found
    columns = _chosen_by(found)
    if not columns:
        raise UsageError(f"The rows of {name} have no split, reason or kind.", hint=f"raft show {typed(folder)} {name}")
    if only in ("kept", "dropped") and "reason" in found.columns:
        return found.filter(pl.col("reason").is_null() == (only == "kept"))
    chosen = found.filter(pl.any_horizontal([column == only for column in columns]))
    if chosen.is_empty():
        there = ", ".join([*_words(found)[:25], *["…"] * (len(_words(found)) > 25)]) or "none"
        hint = f"raft show {typed(folder)} {name}"
        raise UsageError(f"No row of {name} is {only!r}; they are {there}.", where="--only", hint=hint)
    return chosen


def text_of(folder: str | Path, name: str) -> str:
    """Return the text of a document of a run as it was read; `name` is its path, or the end of one.

    Raises:
        UsageError: there is no run, no such document, or several; it names near ones.
        DamagedArtifact: the documents are missing or damaged.
    """
    run = Built(folder)._run
    paths = documents_listed(run)["path"].to_list()
    found = [path for path in paths if path == name] or [path for path in paths if path.endswith(f"/{name}")]
    if len(found) != 1:
        near = found or get_close_matches(name, paths, n=5, cutoff=0.3) or paths[:5]
        raise UsageError(
            f"{'Several documents are' if found else 'There is no document'} named {name!r}; "
            f"{'they' if found else 'near ones'} are: {', '.join(near[:5])}.",
            where=folder,
            hint=f"raft show {typed(folder)} documents -n {len(paths)}",
        )
    for frame in run.stream("documents.parquet", ["path", "text", "error"]):
        for row in frame.filter(pl.col("path") == found[0]).iter_rows(named=True):
            return row["text"] or f"It could not be read: {row['error']}"
    return ""


FAULT = pl.col("message").str.replace_all(r"(?s)'.*?'|: .*", "…").alias("fault")
"""What was wrong with a reply, without what it says of this one alone."""


def _chosen_by(found: pl.DataFrame) -> list[pl.Expr]:
    columns = [pl.col(column) for column in ("split", "reason", "kind") if column in found.columns]
    return columns + [FAULT] * ("message" in found.columns)


def _words(found: pl.DataFrame) -> list[str]:
    """Return what the rows of a table can be chosen by, as `only` of `table` takes it."""
    special = ["kept", "dropped"] if "reason" in found.columns else []
    own = [word for column in _chosen_by(found) for word in found.select(column).to_series().drop_nulls().unique()]
    return [*special, *sorted(dict.fromkeys(own))]


def located(folder: str | Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a table with the path of the `document` that each is about, where the run still knows it.

    Of failures, whose rows name a chunk alone, also with its `heading` and its `passage`.
    """
    columns = ["doc_ids", "doc_id", "item_id", *([] if "document" in rows.columns else ["golden_chunk_ids"])]
    named = next((one for one in columns if one in rows.columns), None)
    if named is None or "path" in rows.columns or rows.is_empty():
        return rows
    run, ids = Built(folder)._run, [[one] if isinstance(one, str) else one or [] for one in rows[named].to_list()]
    wanted, chunks = [one for own in ids for one in own], dict[str, tuple[str, ...]]()
    try:
        for part in run.stream("chunks.parquet", ["chunk_id", "doc_id", "heading", "text"]):
            chunks |= {row[0]: row[1:] for row in part.filter(pl.col("chunk_id").is_in(wanted)).iter_rows()}
        paths = dict(row for part in run.stream("documents.parquet", ["doc_id", "path"]) for row in part.iter_rows())
    except DamagedArtifact:
        return rows
    about = [dict.fromkeys(paths.get(chunks[one][0] if one in chunks else one) for one in own) for own in ids]
    found = {"document": [", ".join(filter(None, own)) or None for own in about]}
    if named == "item_id":
        for place, name in enumerate(("heading", "passage"), 1):
            found[name] = [chunks[one][place] if one in chunks else None for (one,) in ids]
    return rows.with_columns(pl.Series(name, values, pl.String) for name, values in found.items())


def show(folder: str | Path, name: str, *, rows: int = 10, only: str | None = None) -> pl.DataFrame:
    """Return the first rows of a table of a run, each with the path of the `document` that it is about.

    Args:
        folder: the run directory.
        name: the table's, as `raft show` takes it.
        rows: at most so many.
        only: "kept", "dropped", a split, a reason, a kind, or what was wrong with a reply.

    Raises:
        UsageError: there is no run, no such table, or none of its rows is chosen by `only`; or `rows` is negative.
        DamagedArtifact: the table is missing or damaged.
    """
    if rows < 0:
        raise UsageError(f"{rows} rows cannot be shown.", where="rows", hint="rows=10")
    found = table(folder, name, only=only)
    return located(folder, found.head(rows))


def export(folder: str | Path, *, format: str, out: str | Path | None = None) -> Path:
    """Write the training rows of a run in the form that a trainer or service takes; return the folder.

    Args:
        folder: the run directory.
        format: "openai" (chat JSONL), "axolotl" (chat JSONL and its YAML) or "hf" (a `datasets.DatasetDict` on disk).
        out: where to; None: `export-<format>` in the run directory.

    Raises:
        UsageError: there is no run, or the format is unknown.
    """
    run = Built(folder)
    run._run.require("examples")
    target = run.folder / f"export-{format}"
    if out is not None:
        folders.claim(target := place(out, "--out"))
    return exporting.export(run.examples, run.settings, format=format, out=target)


def initialise(folder: str | Path) -> list[Path]:
    """Copy the package's pipelines and prompts into `folder` for editing, and write a commented YAML beside them.

    Files that are there already are left alone; those that were written are returned.
    """
    target = place(folder, "raft init")
    files = {
        f"{kind}/{name}": text for kind in ("pipelines", "prompts") for name, text in prompts.packaged(kind).items()
    }
    head = f"# raft build --pipeline {typed(target / 'raft.yaml')}\n# Paths are relative to this file.\n\n"
    files["raft.yaml"] = head + settings.commented_yaml({"prompts": "prompts"})
    written = []
    try:
        for name, text in files.items():
            path = target / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                artifacts.atomically(path, text)
                written.append(path)
    except OSError as error:
        raise UsageError(
            f"The folder cannot be written to: {error.strerror}.", where=error.filename, hint="raft init another-folder"
        ) from None
    return written
