"""Does cleaning pay? A student tuned on the questions of one build, chosen in seven ways, measured on `dev` of XQuAD.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/curation.py --of runs/xquad --cascade cleaning.reader=true

Needs a run that `benchmarks/xquad.py --only build` has built. Each choice is trained on with every seed, alike in all
else, and the student alone is asked the questions of `dev`, with what the index brings. Differences are paired: of a
question the mean over the seeds, resampled by article. What was done before is not done again.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import raft
import studies
import xquad
from ablations import ASKED, Given, ask, built, copied, train_on
from raft.curation import coverage
from raft.evaluation.metrics import Interval, bootstrap_mean, paired_difference
from raft.settings import Settings
from raft.store.run import existing

READ_THE_QUOTE = ("asks for another figure", "bound of a condition", "wrong type of answer", "not what the quote says")
"""Reasons of the rules of `curation/figures.py`."""
Rows = list[dict[str, Any]]


def raw(plain: Rows, _cascade: Rows, _share: int) -> Rows:
    """All that the generator wrote and a row can be made of."""
    return plain


def distinct(plain: Rows, _cascade: Rows, _share: int) -> Rows:
    """Without what means the same as another one."""
    return [row for row in plain if row["reason"] != "duplicate"]


def rules(plain: Rows, _cascade: Rows, _share: int) -> Rows:
    """What the rules keep but for those that read the quote, with a round trip by retrieval."""
    return [row for row in plain if row["reason"] is None or row["reason"] in READ_THE_QUOTE]


def cascade(_plain: Rows, full: Rows, _share: int) -> Rows:
    """What all rules and the filters that ask a model keep."""
    return [row for row in full if row["reason"] is None]


def covering(_plain: Rows, full: Rows, count: int) -> Rows:
    """Of these so many, chosen for coverage as `questions.keep` does."""
    frame = pl.DataFrame(full, infer_schema_length=None)
    return coverage.choose(frame, {}, count, seed=0).filter(pl.col("reason").is_null()).to_dicts()


def thinned(plain: Rows, full: Rows, _share: int) -> Rows:
    """Of what the generator wrote as many as the cascade keeps, at random."""
    return sorted(plain, key=_drawn)[: len(cascade(plain, full, 0))]


def thinned_twice(plain: Rows, full: Rows, count: int) -> Rows:
    """Of what the cascade keeps as many as are chosen for coverage, at random."""
    return sorted(cascade(plain, full, count), key=_drawn)[:count]


CHOICES: Mapping[str, Callable[[Rows, Rows, int], Rows]] = {
    "raw": raw,
    "without duplicates": distinct,
    "rules": rules,
    "cascade": cascade,
    "cascade, for coverage": covering,
    "as many as the cascade, at random": thinned,
    "of the cascade, at random": thinned_twice,
}


def _drawn(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"thinned:{row['question_id']}".encode()).hexdigest()


def questions(given: Given, home: Path, filters: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Return the questions of `seen` that a row can be made of, as the rules and as the whole cascade see them."""
    found = []
    for name, settings in (("plain", {}), ("cascade", dict(filters))):
        folder = copied(given.folder / "run", home / name)
        built(folder, given, {**given.built, **settings})
        run = existing(folder)
        leaks = pl.col("reason").eq_missing("leak")  # equal to a question that is measured with: of no choice
        cleaned = run.read("cleaned.parquet").filter(~leaks & (pl.col("golden_chunk_ids").list.len() > 0))
        found.append([row for row in cleaned.iter_rows(named=True) if row["quotes"] and row["answer"]])
    return found[0], found[1]


def measure(name: str, chosen: Rows, seed: int, home: Path, given: Given) -> None:
    """Train on the chosen questions with a seed, ask, and write what was measured to `NAME-SEED.json` in `home`."""
    file = home / f"{_slug(name)}-{seed}.json"
    if file.is_file():
        return
    folder = copied(home / "plain", home / f"trained-{_slug(name)}")
    run = existing(folder)
    with run.writing():
        rows = train_on(run, Settings.model_validate(run.manifest["settings"]), _split(chosen))
    training = {**given.study.training, **given.trained, **studies.of_training(given.own), "seed": seed}
    card = raft.train(folder, settings=training, on_event=studies.on_event)
    asked = studies.some(given.files["dev"], each=given.per_document, most=given.questions)
    measuring = {**studies.MEASURED, **given.study.measuring, **ASKED, "benchmark.withheld": 0.0}
    answers = ask(folder, asked, {**measuring, **studies.of_measuring(given.own)})
    told = {"rows": rows, "questions": len(chosen), "seconds": card["seconds"], "answers": answers}
    file.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _split(rows: Rows) -> Rows:
    """Return rows of which one in twelve is for validation, drawn by its id; none of them is dropped."""
    return [
        {**row, "reason": None, "split": "valid" if int(_drawn(row)[:8], 16) % 12 == 0 else "train"} for row in rows
    ]


def table(home: Path, seeds: Sequence[int]) -> str:
    """Return what the choices reached, as Markdown, beside what training on all that was written does."""
    lines = [
        "| trained on | questions | F1 | of each seed | to raw | to as many at random | exact match |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    scored = {name: _scores(home, name, seeds) for name in CHOICES}
    for name, (count, by_seed) in ((name, one) for name, one in scored.items() if one[1]):
        means = [f"{np.mean([row['f1'] for row in one.values()]) * 100:.1f}" for one in by_seed]
        ids, groups = _questions(by_seed)
        rivals = [scored[other] for other in ("raw", "as many as the cascade, at random")]
        cells = [
            _told(paired_difference(_f1(by_seed, ids), _f1(other, ids), groups), "+") if other else ""
            for _, other in rivals
        ]
        exact = np.mean([row["exact_match"] for one in by_seed for row in one.values()])
        score = _told(bootstrap_mean(_f1(by_seed, ids), groups))
        lines.append(
            f"| {name} | {count} | {score} | {', '.join(means)} | {cells[0]} | {cells[1]} | {100 * exact:.0f} % |"
        )
    return "\n".join(lines)


def _scores(home: Path, name: str, seeds: Sequence[int]) -> tuple[int, list[dict[str, dict[str, Any]]]]:
    files = [file for file in (home / f"{_slug(name)}-{seed}.json" for seed in seeds) if file.is_file()]
    measured = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    by_seed = [
        {row["question_id"]: row for row in one["answers"] if row["condition"] == "answerable"} for one in measured
    ]
    return (measured[0]["questions"] if measured else 0), by_seed


def _questions(by_seed: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    ids = sorted(by_seed[0])
    return ids, [by_seed[0][one]["document"] for one in ids]


def _f1(by_seed: Sequence[Mapping[str, Mapping[str, Any]]], ids: Sequence[str]) -> list[float]:
    return [100 * float(np.mean([one[name]["f1"] for one in by_seed])) for name in ids]


def _told(interval: Interval | None, sign: str = "") -> str:
    return (
        ""
        if interval is None
        else f"{interval.value:{sign}.1f} ({interval.low:{sign}.1f} to {interval.high:{sign}.1f})"
    )


def main() -> None:
    """Train on each choice with each seed, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {'; '.join(CHOICES)}")
    parser.add_argument("--of", type=Path, default=Path("runs/xquad"), help="the folder in which the study was built")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--student", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--keep", type=float, default=0.6, help="share of the cascade's questions chosen for coverage")
    parser.add_argument("--per-document", type=int, help="ask so many questions of each document of dev")
    parser.add_argument("--cascade", action="append", default=[], metavar="KEY=VALUE", help="a filter's setting")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting, for all")
    args = parser.parse_args()
    given = Given(
        study=xquad.STUDY,
        built={"examples.per_question": 1},
        trained={"training.learning_rate": 8e-4, "training.epochs": 1.0, "training.rehearsal": 0.1},
        folder=args.of,
        files=xquad.prepare(args.of),
        own=studies.settings_of(args.set),
        student=args.student,
        generator=args.generator,
        per_document=args.per_document,
        questions=None,
    )
    home = args.of / "curation"
    home.mkdir(parents=True, exist_ok=True)
    plain, full = questions(given, home, studies.settings_of(args.cascade))
    count = round(args.keep * len(cascade(plain, full, 0)))
    for seed in args.seeds:
        for name in args.names or CHOICES:
            chosen = CHOICES[name](plain, full, count)
            print("trained on", name, len(chosen), "seed", seed, flush=True)
            measure(name, chosen, seed, home, given)
            print(table(home, args.seeds), flush=True)


if __name__ == "__main__":
    main()
