"""What each choice of a study is worth: one thing changed at a time, trained alike, measured on `dev`.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/ablations.py --of runs/xquad standard "quotes first" ...

Needs a run that `benchmarks/xquad.py` or `benchmarks/pubmedqa.py` has built. Its questions are taken over; rows are put
together anew, a model is tuned on them, and it alone is asked the questions of `dev`, each with and without what bears
its answer. What was done before is not done again. Without names all variants are measured; the table has those that
were measured so far.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

import pubmedqa
import raft
import studies
import xquad
from raft import prompts
from raft.api.models import open_model, open_refusal, open_retriever, uncached_search
from raft.backends import hub
from raft.curation import user_questions
from raft.evaluation import summary
from raft.evaluation.metrics import Interval, bootstrap_mean, macro_f1_difference, macro_f1_interval, paired_difference
from raft.evaluation.systems import BenchmarkModels
from raft.examples import examples, export
from raft.generation.facts import statements
from raft.pipeline import bench
from raft.pipeline import build as building
from raft.rag.format import PROMPTS
from raft.settings import Settings
from raft.store import adapters, tables
from raft.store.ledger import Ledger
from raft.store.run import Run, existing

ASKED = {"benchmark.withheld": 1.0, "benchmark.latency_questions": 1, "answering.min_relevance": 0.0}
STANDARD = "standard"


@dataclass(frozen=True)
class Variant:
    """One thing changed.

    Attributes:
        build: settings of the build that differ.
        training: settings of the training that differ.
        asked: settings of the asking that differ; a variant that differs in these alone trains nothing.
        rows: how many rows are trained on, evenly spread; None: all.
        people: train on the questions that people asked about the same articles, as many as there are generated ones.
        prompt: what is replaced in the prompt, and by what.
    """

    build: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    people: bool = False
    prompt: tuple[str, str] | None = None


VARIANTS = {
    STANDARD: Variant(),
    "people's questions": Variant(people=True),
    "question before the documents too": Variant(prompt=("$documents", "Question: $question\n\n$documents")),
    "documents shuffled": Variant(build={"examples.order": "shuffled"}),
    "quotes first": Variant(build={"examples.quotes": "first"}),
    "no quotes": Variant(build={"examples.quotes": "none"}),
    "golden shown in 80 percent": Variant(build={"examples.golden_share": 0.8}),
    "golden shown in 60 percent": Variant(build={"examples.golden_share": 0.6}),
    "two rows a question": Variant(build={"examples.per_question": 2}),
    "random distractors": Variant(build={"examples.random_share": 1.0}),
    "hard distractors": Variant(build={"examples.random_share": 0.0}),
    "100 rows": Variant(rows=100),
    "200 rows": Variant(rows=200),
    "two epochs": Variant(training={"training.epochs": 2.0}),
    "three epochs": Variant(training={"training.epochs": 3.0}),
    "rate 2e-4": Variant(training={"training.learning_rate": 2e-4}),
    "rate 4e-4": Variant(training={"training.learning_rate": 4e-4}),
    "rate 1.6e-3": Variant(training={"training.learning_rate": 1.6e-3}),
    "seed 1": Variant(training={"seed": 1}),
    "seed 2": Variant(training={"seed": 2}),
    "rank 64": Variant(training={"training.rank": 64, "training.alpha": 128}),
    "k = 1": Variant(asked={"index.k": 1}),
    "k = 3": Variant(asked={"index.k": 3}),
    "k = 5": Variant(asked={"index.k": 5}),
}


@dataclass(frozen=True)
class Given:
    """What all variants have in common.

    Attributes:
        study: the study.
        built: settings of the build that differ from the study's.
        trained: settings of the training that do.
        folder: where the study was built.
        files: files of questions by part.
        own: further settings, for all steps.
        student: the model that is tuned.
        generator: the model that wrote the questions.
        per_document: questions asked of each document of dev, or all.
        questions: questions asked in all, or all.
    """

    study: studies.Study
    built: Mapping[str, Any]
    trained: Mapping[str, Any]
    folder: Path
    files: Mapping[str, Path]
    own: Mapping[str, Any]
    student: str
    generator: str
    per_document: int | None
    questions: int | None


STUDIES: Mapping[str, tuple[studies.Study, Mapping[str, Any], Mapping[str, Any]]] = {
    "xquad": (
        xquad.STUDY,
        {"examples.per_question": 1},
        {"training.learning_rate": 8e-4, "training.epochs": 1.0, "training.rehearsal": 0.1},
    ),
    "pubmedqa": (pubmedqa.STUDY, {}, pubmedqa.STUDY.training),
}


def folder_of(name: str, variant: Variant, home: Path) -> Path:
    """Return where a variant's run lies: with the standard one where nothing is trained differently."""
    own = variant.build or variant.training or variant.rows or variant.people or variant.prompt
    return home / (name if own else STANDARD).replace(" ", "-").replace("'", "")


def measure(name: str, variant: Variant, home: Path, given: Given) -> None:
    """Build, train and ask a variant; write what was measured to `NAME.json` in `home`."""
    folder = copied(given.folder / "run", folder_of(name, variant, home))
    own: dict[str, Any] = {**given.built, **variant.build}
    if variant.prompt:
        own["prompts"] = str(changed_prompt(folder, given.study, *variant.prompt))
    built(folder, given, own)
    if variant.rows or variant.people:
        changed_rows(folder, variant)
    training = {**given.study.training, **given.trained, **studies.of_training(given.own), **variant.training}
    card = raft.train(folder, settings=training, on_event=studies.on_event)
    asked = studies.some(given.files["dev"], each=given.per_document, most=given.questions)
    measuring = {**studies.MEASURED, **given.study.measuring, **ASKED, **given.own, **variant.asked}
    measured = {
        "rows": card["rows"],
        "minutes": card["seconds"] / 60,
        "hardware": card["hardware"],
        "answers": ask(folder, asked, measuring),
    }
    (home / f"{name}.json").write_text(json.dumps(measured, ensure_ascii=False), encoding="utf-8")


def copied(run: Path, folder: Path) -> Path:
    """Copy a run, without what was trained and measured there, unless that was done before; return it."""
    if not folder.exists():
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        left = shutil.ignore_patterns("adapters", "answers.parquet", "benchmark.json", "report.*", "ledger*", "scratch")
        shutil.copytree(run, draft, ignore=left)
        draft.replace(folder)
    return folder


def built(folder: Path, given: Given, settings: Mapping[str, Any]) -> None:
    """Build a copy of the study's run with other settings; what was asked for the study is in its ledger."""
    raft.build(
        given.folder / "corpus",
        out=folder,
        generator=given.generator,
        student=given.student,
        evaluation=given.files["all"],
        settings={
            **studies.BUILT,
            **given.study.settings,
            "ledger": str(given.folder / "run" / "ledger.sqlite"),
            **given.own,
            **settings,
        },
        on_event=studies.on_event,
    )


def changed_prompt(folder: Path, study: studies.Study, old: str, new: str) -> Path:
    """Write the study's prompt with one thing replaced; return the folder that holds it."""
    home, name = folder / "prompts", f"{PROMPTS[study.settings.get('examples.quotes', 'last')]}.md"
    note, turns = prompts.load_text(name).split("## system", 1)
    if old not in turns:
        raise SystemExit(f"{name} does not hold what was to be replaced: {old!r}")
    home.mkdir(exist_ok=True)
    (home / name).write_text(f"{note}## system{turns.replace(old, new)}", encoding="utf-8")
    return home


def ask(folder: Path, questions: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ask the run's tuned model alone; return document, condition and scores of each answer."""
    run = existing(folder)
    chosen = Settings.model_validate(run.manifest["settings"])
    for name, value in settings.items():
        section, _, key = name.partition(".")
        chosen = chosen.model_copy(update={section: getattr(chosen, section).model_copy(update={key: value})})
    adapter = adapters.find(folder, None)
    with run.writing(), closing(Ledger(chosen.ledger or folder / "ledger.sqlite")) as ledger:
        rows = user_questions.register(questions, building.documents_listed(run))
        opener = partial(open_model, chosen.student, chosen, ledger)
        models = BenchmarkModels(base=opener(), tuned=opener(adapter=adapter))
        retriever = open_retriever(folder, chosen, run.manifest["collection"], lambda: ledger)
        refusal = open_refusal(run, chosen, retriever.embedder, ledger=ledger)
        known = bench.prepare(run, chosen, rows, retriever, models, refusal=refusal)
        (tuned,) = (one for one in bench.line_up(run, chosen, models, known, 0) if one.system.name == "raft")
        bench.ask_all(
            run, chosen, [tuned], known, uncached_search(retriever, chosen, refusal), on_event=studies.on_event
        )
    scores = summary.score(run.read("answers.parquet"), rows, relevant=known.sources.relevant)
    kept = ("question_id", "condition", "f1", "exact_match", "false_answer", "false_refusal", "label", "predicted")
    return [
        {"document": known.sources.group(row["question_id"]), **{name: row[name] for name in kept}}
        for row in scores.iter_rows(named=True)
    ]


def changed_rows(folder: Path, variant: Variant) -> None:
    """Put other training rows in the place of those that the build made."""
    run = existing(folder)
    settings = Settings.model_validate(run.manifest["settings"])
    with run.writing():
        if variant.people:
            _peoples(run, settings)
        else:
            kept = run.read("examples.parquet")
            rows, valid = (kept.filter(pl.col("split") == split) for split in ("train", "valid"))
            count = min(variant.rows or rows.height, rows.height)
            chosen = rows[[place * rows.height // count for place in range(count)]]
            _replace(run, "examples", {"examples.parquet": pl.concat([chosen, valid])}, {"rows": count})


def _replace(run: Run, step: str, frames: Mapping[str, pl.DataFrame], using: Mapping[str, Any]) -> None:
    made: dict[str, Any] = dict(frames)
    if step == "examples":
        made |= {f"{split}.jsonl": export.chat_lines(frames["examples.parquet"], split) for split in ("train", "valid")}
    run.step(step, lambda _: made, version=1, outputs=list(made), using=dict(using))


def _peoples(run: Run, settings: Settings) -> None:
    """Train on people's questions about the same articles, as many as the generated ones, and validate with theirs."""
    generated = run.read("cleaned.parquet")
    splits = {"train": int((generated["split"] == "train").sum()), "valid": int((generated["split"] == "valid").sum())}
    found = list(answered(run))
    found.sort(key=lambda row: hashlib.sha256(row["question_id"].encode()).hexdigest())
    wanted = [split for split, count in splits.items() for _ in range(count)]
    train_on(run, settings, [{**row, "split": split} for row, split in zip(found, wanted, strict=False)])


def train_on(run: Run, settings: Settings, rows: Sequence[Mapping[str, Any]]) -> int:
    """Put these questions (rows of `tables.CLEANED`, with a split) in the place of the run's; return how many rows.

    Only their own documents are shown in the examples made of them.
    """
    cleaned = tables.frame(tables.CLEANED, rows)
    chunks = run.read("chunks.parquet")
    seen = {name for row in rows for name in row["doc_ids"]}
    prompt = prompts.load(PROMPTS[settings.examples.quotes], settings.prompts)
    file = settings.ledger or run.folder / "ledger.sqlite"
    retriever = open_retriever(run.folder, settings, run.manifest["collection"], lambda: Ledger(file))
    made, report = examples.build_examples(
        cleaned,
        chunks,
        settings.examples,
        retriever=retriever,
        tokenizer=hub.tokenizer(settings.student),
        prompt=prompt,
        style="",
        held_out=frozenset(chunks["doc_id"].unique()) - seen,
        seed=settings.seed,
        titles=dict(building.documents_listed(run).select("doc_id", "title").iter_rows()),
        styled_answers=None,
    )
    print("questions", len(rows), "rows", report["rows"], flush=True)
    using = {"questions": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()}
    _replace(run, "cleaned", {"cleaned.parquet": cleaned}, using)
    _replace(run, "examples", {"examples.parquet": made}, using)
    return int(report["rows"])


def answered(run: Run) -> Iterator[dict[str, Any]]:
    """Yield people's questions about `seen` as rows of `tables.CLEANED`; the sentence with the answer is the quote."""
    documents = dict(building.documents_listed(run).select("path", "doc_id").iter_rows())
    chunks: dict[str, list[dict[str, Any]]] = {}
    for chunk in run.read("chunks.parquet").iter_rows(named=True):
        chunks.setdefault(chunk["doc_id"], []).append(chunk)
    for article in xquad.xquad_articles()["seen"]:
        doc_id = documents[f"seen/{article['title'].replace('/', '-')}.md"]
        for paragraph in article["paragraphs"]:
            text = paragraph["context"].replace("\n", " ")
            for asked in paragraph["qas"]:
                quote = _quote(chunks[doc_id], text, asked["answers"][0])
                if quote is not None:
                    yield {
                        "question_id": asked["id"],
                        "kind": "fact",
                        "question": asked["question"],
                        "answer": asked["answers"][0]["text"],
                        "quotes": [quote],
                        "golden_chunk_ids": [quote["chunk_id"]],
                        "doc_ids": [doc_id],
                        "model": "people",
                        "prompt": "",
                    }


def _quote(chunks: Sequence[Mapping[str, Any]], paragraph: str, answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the sentence of a chunk that holds an answer at its place in the paragraph; None where chunks cut it."""
    begins, ends = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    for chunk in chunks:
        for sentence in statements(chunk["text"]):
            words = chunk["text"][sentence.start : sentence.end]
            place = paragraph.find(words)
            if place >= 0 and place <= begins and ends <= place + len(words):
                return {"chunk_id": chunk["chunk_id"], "start": sentence.start, "end": sentence.end, "text": words}
    return None


def table(home: Path) -> str:
    """Return what the variants reached, as Markdown; differences are paired with the standard one.

    The F1 of a closed set of labels is that of each label, averaged (macro-F1).
    """
    lines = [
        "| variant | rows | F1 | to the standard | exact match | false answers | false refusals | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    standard = _answerable(json.loads((home / f"{STANDARD}.json").read_text(encoding="utf-8")))
    for name in VARIANTS:
        file = home / f"{name}.json"
        if not file.is_file():
            continue
        measured = json.loads(file.read_text(encoding="utf-8"))
        said = _answerable(measured)
        ids = [one for one in said if one in standard]
        groups = [said[one]["document"] for one in ids]
        ours, theirs = ([100 * rows[one]["f1"] for one in ids] for rows in (said, standard))
        change = None if name == STANDARD else paired_difference(ours, theirs, groups)
        score = bootstrap_mean(ours, groups)
        labels = [said[one]["label"] for one in ids]
        if all(labels):  # a closed set: the F1 of each label, averaged
            chosen, before = ([rows[one]["predicted"] for one in ids] for rows in (said, standard))
            classes = sorted(set(labels))
            score = _percent(macro_f1_interval(chosen, labels, groups, classes))
            change = change and _percent(macro_f1_difference(chosen, before, labels, groups, classes))
        shares = [_share(measured["answers"], key) for key in ("exact_match", "false_answer", "false_refusal")]
        lines.append(
            f"| {name} | {measured['rows']} | {_told(score)} | "
            f"{_told(change, sign='+')} | {' | '.join(shares)} | {measured['minutes']:.0f} |"
        )
    return "\n".join(lines)


def _answerable(measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["question_id"]: row for row in measured["answers"] if row["condition"] == "answerable"}


def _share(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    found = [row[measure] for row in rows if row[measure] is not None]
    return f"{100 * sum(found) / len(found):.0f} %" if found else "not measured"


def _told(interval: Interval | None, *, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{interval.value:{sign}.1f} ({interval.low:{sign}.1f} to {interval.high:{sign}.1f})"


def _percent(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    return replace(interval, value=100 * interval.value, low=100 * interval.low, high=100 * interval.high)


def main() -> None:
    """Measure the named variants, and print the table of all."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--study", choices=sorted(STUDIES), default="xquad")
    parser.add_argument("--of", type=Path, help="the folder in which the study was built; runs/STUDY")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--student", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--per-document", type=int, help="ask so many questions of each document of dev")
    parser.add_argument("--questions", type=int, help="ask so many questions in all, evenly spread")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, for all steps"
    )
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in VARIANTS]
    if unknown:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    study, build, training = STUDIES[args.study]
    of = args.of or Path("runs") / args.study
    given = Given(
        study=study,
        built=build,
        trained=training,
        folder=of,
        files=study.prepare(of),
        own=studies.settings_of(args.set),
        student=args.student,
        generator=args.generator,
        per_document=args.per_document,
        questions=args.questions,
    )
    home = of / "ablations" / args.student.rpartition("/")[2].lower()
    home.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys([STANDARD, *(args.names or VARIANTS)]):
        print("variant", name, flush=True)
        measure(name, VARIANTS[name], home, given)
    print(table(home))


if __name__ == "__main__":
    main()
