"""What the studies of RAFT against plain RAG have in common: they build, train and measure with raft's own calls."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raft
from data import data_file

CAPABILITY = ("arc_easy_val/validation.jsonl", "lambada_test/lambada_500.jsonl")
BUILT = {
    "split.unseen": 0.0,
    "split.seen": 0.0,
    "split.valid": 0.1,
    "questions.way": "spans",
    "generator.attempts": 1,
}
"""Settings of every build: whole documents are held out by name, and a middling model writes the questions."""
MEASURED = {"benchmark.tuning_questions": 33}
"""Settings of every measurement: few questions for what two cores are slow at."""
BEFORE = ("corpus", "evaluation", "seed", "chunking", "questions", "cleaning", "split", "examples", "training")
"""Settings, by section, that had their effect before there was anything to measure."""


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: names its folder under `runs/`.
        prepare: writes `corpus/` and a file of questions a part into a folder, and returns these files; "all" are
            registered with the build, so that nothing is learned from them.
        settings: of the build, beside `BUILT`.
        training: of the training.
        measuring: of the measuring, beside `MEASURED`.
        parts: whose questions can be asked; the last is the one to report.
    """

    name: str
    prepare: Callable[[Path], Mapping[str, Path]]
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    measuring: Mapping[str, Any]
    parts: Sequence[str]


def write_questions(folder: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Path]:
    """Write a file of questions for each part, and one of "all"; return them."""
    files = {}
    every = [row for rows in parts.values() for row in rows]
    for part, asked in {**parts, "all": every}.items():
        files[part] = folder / f"{part}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) for row in asked]
        files[part].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def some(file: Path, *, each: int | None, most: int | None) -> Path:
    """Return a file with at most `each` questions of each document, and `most` in all, evenly spread."""
    if each is None and most is None:
        return file
    documents: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        documents.setdefault(json.loads(line)["document"], []).append(line)
    kept = _spread([line for lines in documents.values() for line in _spread(lines, each)], most)
    part = file.with_name(f"{file.stem}-{len(kept)}.jsonl")
    part.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return part


def _spread(lines: Sequence[str], count: int | None) -> list[str]:
    count = len(lines) if count is None else min(count, len(lines))
    return [lines[place * len(lines) // count] for place in range(count)]


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command line's `KEY=VALUE`, each value as JSON, or else as text."""
    found: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def of_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that a training reads; it refuses others."""
    return {name: value for name, value in settings.items() if name == "seed" or name.startswith("training.")}


def of_measuring(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that a benchmark reads; it refuses those of a build or a training."""
    return {name: value for name, value in settings.items() if name.partition(".")[0] not in BEFORE}


def on_event(event: str, facts: Mapping[str, Any]) -> None:
    """Print what happens."""
    if event not in ("asked", "step"):
        print(event, {key: value for key, value in facts.items() if key != "line"}, flush=True)


def run(study: Study, description: str) -> None:
    """Do all of a study, or what the command line asks for; what was done before is not done again."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / study.name)
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--student", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--part", choices=study.parts, default=study.parts[-1], help="whose questions are asked")
    whose = ["all", *study.parts]
    parser.add_argument("--registered", choices=whose, default="all", help="whose questions the build is told of")
    parser.add_argument("--per-document", type=int, help="ask so many questions of each document, evenly spread")
    parser.add_argument("--questions", type=int, help="ask so many questions in all, evenly spread")
    parser.add_argument("--run", type=Path, help="what is trained or measured, in the place of the study's own run")
    parser.add_argument("--only", choices=["build", "train", "bench"])
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, for all steps"
    )
    args = parser.parse_args()
    own, home = settings_of(args.set), args.run or args.out / "run"
    files = study.prepare(args.out)
    if args.only in (None, "build"):
        raft.build(
            args.out / "corpus",
            out=home,
            generator=args.generator,
            student=args.student,
            evaluation=files[args.registered],
            settings={**BUILT, **study.settings, **own},
            on_event=on_event,
        )
    if args.only in (None, "train"):
        card = raft.train(home, settings={**study.training, **of_training(own)}, on_event=on_event)
        print("adapter", card["adapter"], "seconds", card["seconds"])
    if args.only in (None, "bench"):
        raft.bench(
            home,
            questions=some(files[args.part], each=args.per_document, most=args.questions),
            settings={
                "benchmark.capability": [str(data_file(name)) for name in CAPABILITY],
                **MEASURED,
                **study.measuring,
                **of_measuring(own),
            },
            on_event=on_event,
        )
        print((home / "report.md").read_text(encoding="utf-8"))
