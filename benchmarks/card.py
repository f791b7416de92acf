"""What one CUDA card does with raft: training, answering, measuring, merging; NaN by learning rate; forgetting.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/card.py --out runs/card

Prepared for a machine that is lent for minutes and has no network: each step is a process of its own, with a limit of
time, and what fails does not end the rest. Steps that were done before in `--out` are not done again; `--only` chooses
groups of them. Rows to train on are people's questions about XQuAD's `seen` articles, or (`--of`) those of a run of
`benchmarks/xquad.py`, so that no model writes any. `--check`, without a card, sees whether all that is called exists.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import ablations
import calls
import forgetting
import raft
import steps
import studies
import xquad
from raft.backends.asking import Reply
from raft.backends.local.generate import LocalModel
from raft.backends.trainers import merge, unsloth
from raft.protocols import Request
from raft.settings import Settings
from raft.store import adapters
from raft.store.run import existing
from steps import Step

HERE = Path(__file__).parent
LEARNING = {"training.learning_rate": 2e-4, "training.epochs": 1.0, "training.rehearsal": 0.1}
BENCH = {
    "benchmark.contenders": "verdict",
    "benchmark.exemplars": [0],
    "benchmark.withheld": 0.0,
    "benchmark.latency_questions": 1,
    "answering.max_tokens": 64,
    "answering.min_relevance": 0.0,
}
RATES = (2e-4, 4e-4, 8e-4)
"""4e-4 is where a training of 0.5 billion parameters once ended with a loss that was no number, at step 12."""
BACKENDS = (("unsloth", 16), ("peft", 16), ("unsloth", 4))
GROUPS = ("unsloth-16", "peft-16", "unsloth-4", "nan", "forgetting")


class Enough(Exception):
    """As many steps were seen as were wanted."""


def waves(args: argparse.Namespace) -> list[list[Step]]:
    """Return all steps, in order; those of a wave run beside each other, and are no measure of speed."""
    found = [[Step("build", build, 150, (), ("run", args.student))]]
    small = [[Step("build-small", build, 150, (), ("small", args.small))]]
    for backend, bits in BACKENDS:
        group, parts = f"{backend}-{bits}", (backend, bits)
        trained, merged = f"{group} train", f"{group} merge"
        found += [
            [Step(trained, train, 150, ("build",), parts)],
            [Step(f"{group} answer", answer, 60, (trained,), parts)],
            [Step(f"{group} bench", bench, 100, (trained,), parts), Step(merged, export, 100, (trained,), parts)],
            [Step(f"{group} gguf", gguf, 60, (merged,), parts)],
        ]
        if group == GROUPS[0]:
            found += [*small, [Step(f"nan {rate:g}", rated, 150, ("build-small",), (rate,)) for rate in RATES]]
    names = list(forgetting.VARIANTS)
    for begin in range(0, len(names), args.beside):
        some = names[begin : begin + args.beside]
        found.append([Step(f"forgetting {name}", forgets, 150, ("build-small",), (name,)) for name in some])
    wanted = ("build", *(args.only or GROUPS))
    return [wave for wave in ([one for one in wave if one.name.startswith(wanted)] for wave in found) if wave]


def given(args: argparse.Namespace, student: str) -> ablations.Given:
    """Return what the builds have in common, and write corpus and questions where they are not yet."""
    home = args.of or args.out / "work"
    own = {} if args.of else {"questions.way": "rules"}
    generator = args.generator if args.of else student  # by rule none is asked
    return ablations.Given(xquad.STUDY, {}, {}, home, xquad.prepare(home), own, student, generator, None, None)


def build(args: argparse.Namespace, name: str, student: str) -> dict[str, Any]:
    """Build a run for a student; without `--of`, people's questions take the place of those by rule."""
    known, folder = given(args, student), args.out / "work" / name
    if args.of:
        ablations.copied(args.of / "run", folder)
    ablations.built(folder, known, {})
    if not args.of:
        run = existing(folder)
        rows = [{**row, "split": "train" if n % 10 else "valid"} for n, row in enumerate(ablations.answered(run))]
        with run.writing():
            ablations.train_on(run, Settings.model_validate(run.manifest["settings"]), rows)
    return {"note": f"{existing(folder).read('examples.parquet').height} rows"}


def copy(args: argparse.Namespace, name: str, of: str, rows: int | None) -> Path:
    """Return a copy of a run with so many rows to train on (None: all), in which nobody else works."""
    folder = args.out / "work" / name
    if not folder.exists():
        ablations.changed_rows(ablations.copied(args.out / "work" / of, folder), ablations.Variant(rows=rows))
    return folder


def watched(args: argparse.Namespace, name: str, most: int | None = None) -> Callable[[str, Mapping[str, Any]], None]:
    """Return what writes each step of a training down at once, and raises `Enough` after `most` of them."""
    file = args.out / f"{name}.curve.jsonl"
    file.unlink(missing_ok=True)

    def on_event(event: str, facts: Mapping[str, Any]) -> None:
        print(event, dict(facts), flush=True)
        if event == "training" and "loss" in facts:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(dict(facts)) + "\n")
            if most is not None and facts["step"] >= most:
                raise Enough

    return on_event


def train(args: argparse.Namespace, backend: str, bits: int) -> dict[str, Any]:
    """Train the student on `--rows` rows."""
    group = f"{backend}-{bits}"
    settings = {**LEARNING, "training.backend": backend, "training.bits": bits}
    card = raft.train(copy(args, group, "run", args.rows), settings=settings, on_event=watched(args, f"{group} train"))
    losses = [point["valid_loss"] for point in card["loss_curve"] if "valid_loss" in point]
    note = f"{card['rows']} rows, {card['steps']} steps, validation loss {min(losses, default=math.nan):.4f}"
    return {"note": note, "tokens_per_second": card["tokens"] / card["seconds"], "versions": card["versions"]}


def answer(args: argparse.Namespace, backend: str, bits: int) -> dict[str, Any]:
    """Ask the adapter, on raft's own local model (plain PEFT), what it was trained on."""
    folder = args.out / "work" / f"{backend}-{bits}"
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[: args.questions]
    chats = [json.loads(line)["messages"] for line in lines]
    model = LocalModel(args.student, batch=32, adapter=adapters.find(folder, None))
    model.render(chats[0][:-1])  # loads the weights
    asked, begun = [Request(tuple(chat[:-1]), 96) for chat in chats], time.monotonic()
    said = {place: one for group in model.answer(asked, [True] * len(asked)) for place, one in group}
    seconds, replies = time.monotonic() - begun, {n: one for n, one in said.items() if isinstance(one, Reply)}
    right = sum(one.text.split("\n")[0] == chats[n][-1]["content"].split("\n")[0] for n, one in replies.items())
    written = sum(one.output_tokens for one in replies.values())
    return {"note": f"{right} of {len(chats)} begin as learned", "tokens_per_second": written / seconds}


def bench(args: argparse.Namespace, backend: str, bits: int) -> dict[str, Any]:
    """Measure tuned and untuned student on a few questions of `dev`."""
    asked = studies.some(given(args, args.student).files["dev"], each=None, most=args.questions)
    found = raft.bench(
        args.out / "work" / f"{backend}-{bits}", questions=asked, settings=BENCH, on_event=studies.on_event
    )
    return {"note": "; ".join(line.strip() for line in str(found).splitlines())}


def export(args: argparse.Namespace, backend: str, bits: int) -> dict[str, Any]:
    """Write student and adapter as one model."""
    work = args.out / "work"
    made = raft.export_model(work / f"{backend}-{bits}", out=work / f"{backend}-{bits}-merged")
    return {"note": f"{sum(file.stat().st_size for file in made.iterdir()) / 2**30:.2f} GiB"}


def gguf(args: argparse.Namespace, backend: str, bits: int) -> dict[str, Any]:
    """Write the merged model as GGUF, with llama.cpp's converter."""
    if merge.find_converter() is None:
        raise steps.LeftOut(f"no {merge.CONVERTER} on the path, and LLAMA_CPP is not set")
    work, group = args.out / "work", f"{backend}-{bits}"
    made = merge.export_gguf(work / f"{group}-merged", work / f"{group}.gguf")
    return {"note": f"{made.stat().st_size / 2**30:.2f} GiB"}


def rated(args: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Train the small student with Unsloth on all rows at a rate, up to `--steps` steps or the first failure."""
    settings = {**xquad.STUDY.training, "training.backend": "unsloth", "training.learning_rate": rate}
    try:
        raft.train(
            copy(args, f"nan-{rate:g}", "small", None),
            settings=settings,
            on_event=watched(args, f"nan {rate:g}", args.steps),
        )
    except Enough:
        return {"note": f"numbers up to step {args.steps}"}
    return {"note": "numbers up to the end"}


def forgets(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train the small student as a variant of the forgetting study, and measure it."""
    folder = copy(args, f"forgetting-{name.replace(' ', '-').replace(',', '')}", "small", args.rows)
    asked = studies.some(given(args, args.small).files["dev"], each=None, most=4 * args.questions)
    own = {"training.backend": "peft"}  # for all alike: one of them cannot be trained otherwise
    told = forgetting.measured(folder, name, asked, forgetting.checks(8 * args.questions), own)
    titles = " | ".join(one["title"] for one in told["general"])
    (args.out / f"forgetting {name}.measured").write_text(json.dumps(told, default=asdict), encoding="utf-8")
    note = forgetting.line(name, told["card"], told["said"], told["general"])
    return {"note": f"minutes, F1, {titles}: {note}".replace(" | ", ", ").replace("|", "").strip()}


def curves(out: Path) -> str:
    """Return loss and gradient norm of each step of each training, as Markdown; a curve ends where its training did."""
    told: dict[str, dict[int, str]] = {}
    for file in sorted(out.glob("*.curve.jsonl")):
        points = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        told[file.name.removesuffix(".curve.jsonl")] = {
            point["step"]: f"{point['loss']:.3f}, {point.get('grad_norm', math.nan):.2f}" for point in points
        }
    lines = [f"| step: loss, gradient norm | {' | '.join(told)} |", f"| ---: |{' ---: |' * len(told)}"]
    for step in sorted({step for points in told.values() for step in points}):
        lines.append(f"| {step} | {' | '.join(points.get(step, '') for points in told.values())} |")
    return "\n".join(lines) if told else ""


def main() -> None:
    """Check, refuse, do one step, or see to it that all are done; print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/card"), help="everything is written here")
    parser.add_argument("--of", type=Path, help="the folder of benchmarks/xquad.py, for its rows")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b", help="who wrote the questions of --of")
    parser.add_argument("--student", default="qwen2.5-coder-1.5b")
    parser.add_argument("--small", default="qwen2.5-coder-0.5b", help="the student of nan and forgetting")
    parser.add_argument("--rows", type=int, default=100, help="training rows")
    parser.add_argument("--questions", type=int, default=16, help="asked of each; four times as many for forgetting")
    parser.add_argument("--steps", type=int, default=60, help="most steps of each rate")
    parser.add_argument("--beside", type=int, default=5, help="forgetting's variants that are tuned beside each other")
    parser.add_argument("--minutes", type=float, default=10.0, help="it ends by itself before")
    parser.add_argument("--only", nargs="+", choices=GROUPS)
    parser.add_argument("--check", action="store_true", help="see whether all that is called exists; no card is needed")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        files = ("card", "steps", "ablations", "forgetting", "studies", "xquad", "data")
        wrong = [line for name in files for line in calls.wrong(HERE / f"{name}.py")]
        print("\n".join(wrong) or "All that is called exists, with these parameters, and so do the settings.")
        raise SystemExit(1 if wrong else 0)
    args.out = args.out.resolve()
    planned = waves(args)
    if args.step:
        steps.do(next(one for wave in planned for one in wave if one.name == args.step), args)
        return
    if not (unsloth.has_cuda() and torch.cuda.is_available()):
        raise SystemExit("This machine has no CUDA device: python benchmarks/card.py --check does without.")
    steps.run(planned, Path(__file__), args.out, seconds=60 * args.minutes, more=lambda: curves(args.out))


if __name__ == "__main__":
    main()
