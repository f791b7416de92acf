"""What people's questions are worth to train on: in the place of generated ones, and beside them in a build.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/people.py --of runs/xquad
RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/people.py --of runs/xquad --part dev --beside 0
RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/people.py --of runs/xquad --part dev --beside 500
... --against runs/xquad/beside-0/said-dev.json

The first needs a run that `benchmarks/xquad.py` has built, and is the reference of the XQuAD study: as many questions
that people asked about the `seen` articles take the place of the generated ones; rows, training and measuring are the
study's. The others build with so many of these questions in `questions.qa`, as a build takes what people said of a
server's answers, beside the generated ones (which come from the ledger of the study's run, where that is there), and
say what the second changes on the same questions; `--against` says so of any two. Only `dev` and `unseen` are
registered as measured with there: what is measured with is never trained on. `--file` writes the file of people's rows
alone.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ablations
import raft
import studies
import xquad
from data import xquad_articles
from raft.evaluation.metrics import bootstrap_mean
from raft.text import sentences

MEASURES = ("f1", "exact_match", "false_answer", "false_refusal")
STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"


def rows_of_people() -> list[dict[str, str]]:
    """Return people's questions about the `seen` articles, as `questions.qa` reads them."""
    rows = []
    for article in xquad_articles()["seen"]:
        document = f"seen/{article['title'].replace('/', '-')}.md"
        for paragraph in article["paragraphs"]:
            text = paragraph["context"].replace("\n", " ")
            for asked in paragraph["qas"]:
                answer, start = asked["answers"][0]["text"], asked["answers"][0]["answer_start"]
                spans = [span for span in sentences(text) if span[0] <= start and start + len(answer) <= span[1]]
                quote = text[slice(*spans[0])] if spans else answer
                row = {"question": asked["question"].strip(), "answer": answer, "document": document, "quote": quote}
                rows.append(row)
    return rows


def written(file: Path, count: int | None) -> Path:
    """Write so many of the rows, evenly spread, or all; return the file."""
    rows = rows_of_people()
    count = len(rows) if count is None else min(count, len(rows))
    chosen = [rows[place * len(rows) // count] for place in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in chosen), encoding="utf-8")
    return file


def main() -> None:
    """Build and train, ask the tuned model and print its scores; what was done before is not done again."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--of", type=Path, default=Path("runs/xquad"), help="the folder of benchmarks/xquad.py")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--part", choices=xquad.STUDY.parts, default="unseen", help="whose questions are asked")
    parser.add_argument("--beside", type=int, metavar="N", help="build with so many of them beside the generated ones")
    parser.add_argument("--against", type=Path, help="the kept answers of another one, to compare with")
    parser.add_argument("--file", type=Path, help="write all of them to this file, and do nothing else")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting")
    args = parser.parse_args()
    if args.file is not None:
        print(written(args.file, None))
        return
    files, own = xquad.prepare(args.of), studies.settings_of(args.set)
    if args.beside is None:
        folder = ablations.copied(args.of / "run", args.of / "people")
        given = ablations.Given(xquad.STUDY, {}, {}, args.of, files, own, STUDENT, args.generator, None, None)
        ablations.built(folder, given, {})
        ablations.changed_rows(folder, ablations.Variant(people=True))
    else:
        folder = built_beside(args.of, files, args.beside, args.generator, own)
    raft.train(folder, settings=xquad.STUDY.training, on_event=studies.on_event)
    measuring = {**studies.MEASURED, **xquad.STUDY.measuring, **studies.of_measuring(own)}
    said = ablations.ask(folder, files[args.part], measuring)
    print("tuned on people's questions," if args.beside is None else f"{args.beside} of people's questions,", args.part)
    show(said)
    (folder / f"said-{args.part}.json").write_text(json.dumps(said), encoding="utf-8")
    before = args.against or args.of / "beside-0" / f"said-{args.part}.json"
    if before.is_file() and (args.against or args.beside):
        print(f"beside what {before} has, on the same questions:")
        show(differences(json.loads(before.read_text(encoding="utf-8")), said))


def built_beside(home: Path, files: dict[str, Path], count: int, generator: str, own: dict[str, Any]) -> Path:
    """Build with so many of people's questions beside the generated ones; return the run."""
    folder, measured = home / f"beside-{count}", home / "dev-and-unseen.jsonl"
    measured.write_text("".join(files[part].read_text(encoding="utf-8") for part in ("dev", "unseen")), "utf-8")
    ledger = home / "run" / "ledger.sqlite"
    built = raft.build(
        home / "corpus",
        out=folder,
        generator=generator,
        student=STUDENT,
        evaluation=measured,
        qa=written(home / f"people-{count}.jsonl", count) if count else None,
        settings={
            **studies.BUILT,
            **xquad.STUDY.settings,
            "ledger": str(ledger if ledger.is_file() else home / "ledger.sqlite"),
            **own,
        },
        on_event=studies.on_event,
    )
    print("rows", built.summary()["steps"]["cleaned"]["notes"].get("pairs"), built.examples.height)
    return folder


def differences(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what changed in each answer, on the same question under the same condition."""
    known = {(row["question_id"], row["condition"]): row for row in before}
    found = []
    for row in after:
        old = known[row["question_id"], row["condition"]]
        both = {name: row[name] is not None and old[name] is not None for name in MEASURES}
        found.append({**row, **{name: row[name] - old[name] if both[name] else None for name in MEASURES}})
    return found


def show(said: Sequence[dict[str, Any]]) -> None:
    """Print the scores, or how they changed, times 100, with intervals over documents."""
    for measure in MEASURES:
        rows = [row for row in said if row[measure] is not None]
        found = bootstrap_mean([row[measure] for row in rows], [row["document"] for row in rows])
        if found:
            shares = (100 * share for share in (found.value, found.low, found.high))
            print("  {}: {:.1f} [{:.1f}, {:.1f}]".format(measure, *shares), f"of {found.questions} questions")


if __name__ == "__main__":
    main()
