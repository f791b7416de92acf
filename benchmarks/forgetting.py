"""What a student forgets while it learns to answer, by layers, rate, rehearsal and nearness to itself.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/forgetting.py --of runs/xquad NAME ... [--student NAME]

Needs a run that `benchmarks/xquad.py` has built. Each variant of `VARIANTS` (all, where none is named) is trained on
the same rows of it, and then measured: the F1 of its answers to questions of `dev` that people asked, and how much of
ARC-easy and LAMBADA it lost beside the untuned student. What was trained or answered before is not done again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ablations
import raft
import studies
import xquad
from data import data_file
from raft.api.models import open_model
from raft.evaluation import capability
from raft.evaluation.metrics import bootstrap_mean
from raft.settings import Settings
from raft.store import adapters
from raft.store.ledger import Ledger
from raft.store.run import existing

LEARNING = {"training.learning_rate": 4e-4, "training.epochs": 1.0, "training.rehearsal": 0.2}
"""What all variants have in common."""
ASKING = {"answering.min_relevance": 0.0, "benchmark.withheld": 0.0, "benchmark.latency_questions": 1}
"""Each question is asked of the model, once."""
OWN_REPLIES = {"training.rehearsal_replies": "own", "training.learning_rate": 2e-4}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "q and v": {"training.layers": "qv"},
    "attention": {"training.layers": "attention"},
    "rate 1e-4": {"training.learning_rate": 1e-4},
    "rate 2e-4": {"training.learning_rate": 2e-4},
    "no rehearsal": {"training.rehearsal": 0.0},
    "own replies": {"training.rehearsal_replies": "own"},
    "kl": {"training.kl": 1.0},
    "own replies, kl": {"training.rehearsal_replies": "own", "training.kl": 1.0},
    "own replies, rate 2e-4": OWN_REPLIES,
    "own replies, rate 2e-4, seed 1": {**OWN_REPLIES, "seed": 1},
    "own replies, rate 2e-4, seed 2": {**OWN_REPLIES, "seed": 2},
    "own replies, q and v": {"training.rehearsal_replies": "own", "training.layers": "qv"},
}


def checks(most: int) -> list[capability.Check]:
    """Return the sets that general capability is measured with, each evenly thinned to so many questions."""
    found = [capability.read(data_file(name)) for name in studies.CAPABILITY]
    return [
        capability.Check(one.name, one.title, one.measure, tuple(one.questions[:: max(1, len(one.questions) // most)]))
        for one in found
    ]


def lost(folder: Path, asked: Sequence[capability.Check]) -> list[dict[str, Any]]:
    """Return what the run's current adapter changed in each set."""
    run = existing(folder)
    chosen = Settings.model_validate(run.manifest["settings"])
    with closing(Ledger(chosen.ledger or folder / "ledger.sqlite")) as ledger:
        opener = partial(open_model, chosen.student, chosen, ledger)
        before, after = opener().scorer, opener(adapter=adapters.find(folder, None)).scorer
        assert before is not None and after is not None
        return [capability.compare(one, *(capability.measure(one, by) for by in (before, after))) for one in asked]


def measured(
    folder: Path, name: str, asked: Path, general: Sequence[capability.Check], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Train a variant in a run, with settings of one's own, and return its `card`, what was `said`, and `general`."""
    card = raft.train(folder, settings={**LEARNING, **studies.of_training(own), **VARIANTS[name]})
    measuring = {**studies.MEASURED, **xquad.STUDY.measuring, **studies.of_measuring(own), **ASKING}
    said = ablations.ask(folder, asked, measuring)
    return {"card": card, "said": said, "general": lost(folder, general)}


def line(name: str, card: Mapping[str, Any], said: Sequence[Mapping[str, Any]], general: Sequence[Any]) -> str:
    """Return a row of the table."""
    answered = [row for row in said if row["f1"] is not None and row["condition"] == "answerable"]
    f1 = bootstrap_mean([row["f1"] for row in answered], [row["document"] for row in answered])
    cells = [f"{100 * f1.value:.1f} [{100 * f1.low:.1f}, {100 * f1.high:.1f}]" if f1 else ""]
    for one in general:
        change = one["change"]
        cells.append(f"{100 * change.value:.1f} [{100 * change.low:.1f}, {100 * change.high:.1f}]")
    return f"| {name} | {card['seconds'] / 60:.1f} | {' | '.join(cells)} |"


def main() -> None:
    """Train and measure the variants, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--of", type=Path, default=Path("runs/xquad"), help="the folder of benchmarks/xquad.py")
    parser.add_argument("--student", default="qwen2.5-coder-0.5b")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--rows", type=int, default=100, help="training rows")
    parser.add_argument("--questions", type=int, default=100, help="of dev, asked of each")
    parser.add_argument(
        "--registered", choices=["all", *xquad.STUDY.parts], default="all", help="as of benchmarks/xquad.py"
    )
    parser.add_argument("--general", type=int, default=200, help="questions of each general set")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, for all steps"
    )
    args = parser.parse_args()
    files, own = dict(xquad.prepare(args.of)), studies.settings_of(args.set)
    files["all"] = files[args.registered]
    home = args.of / "forgetting" / f"{Path(args.student).name}-{args.rows}"
    folder = ablations.copied(args.of / "run", home)
    given = ablations.Given(
        xquad.STUDY, {}, {}, args.of, files, own, args.student, args.generator, None, args.questions
    )
    ablations.built(folder, given, {"examples.per_question": 1})
    ablations.changed_rows(folder, ablations.Variant(rows=args.rows))
    asked = studies.some(files["dev"], each=None, most=args.questions)
    general = checks(args.general)
    print(f"{args.student}, {args.rows} rows, {args.questions} questions of dev, {args.general} of each general set")
    print(f"| variant | minutes | F1 | {' | '.join(one.title for one in general)} |")
    print(f"| --- |{' ---: |' * (2 + len(general))}")
    for name in args.names or VARIANTS:
        found = measured(folder, name, asked, general, own)
        (home / f"{name}.json").write_text(json.dumps(found, default=asdict), encoding="utf-8")
        print(line(name, found["card"], found["said"], found["general"]), flush=True)


if __name__ == "__main__":
    main()
