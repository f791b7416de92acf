"""The reference of the XQuAD study: a student tuned on people's questions about the same articles, scored alike.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/people.py --of runs/xquad

Needs a run that `benchmarks/xquad.py` has built. As many questions that people asked about the `seen` articles take the
place of the generated ones; rows, training and measuring are the study's. It tells what better questions are worth.
"""

import argparse
from pathlib import Path

import ablations
import raft
import studies
import xquad
from raft.evaluation.metrics import bootstrap_mean


def main() -> None:
    """Train, ask the tuned model and print its scores; what was done before is not done again."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--of", type=Path, default=Path("runs/xquad"), help="the folder of benchmarks/xquad.py")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--part", choices=xquad.STUDY.parts, default="unseen", help="whose questions are asked")
    args = parser.parse_args()
    files = xquad.prepare(args.of)
    folder = ablations.copied(args.of / "run", args.of / "people")
    student = "HuggingFaceTB/SmolLM2-135M-Instruct"
    given = ablations.Given(xquad.STUDY, {}, {}, args.of, files, {}, student, args.generator, None, None)
    ablations.built(folder, given, {})
    ablations.changed_rows(folder, ablations.Variant(people=True))
    raft.train(folder, settings=xquad.STUDY.training, on_event=studies.on_event)
    said = ablations.ask(folder, files[args.part], {**studies.MEASURED, **xquad.STUDY.measuring})
    print(f"tuned on people's questions, {args.part}:")
    for measure in ("f1", "exact_match", "false_answer", "false_refusal"):
        rows = [row for row in said if row[measure] is not None]
        found = bootstrap_mean([row[measure] for row in rows], [row["document"] for row in rows])
        if found:
            shares = (100 * share for share in (found.value, found.low, found.high))
            print("  {}: {:.1f} [{:.1f}, {:.1f}]".format(measure, *shares), f"of {found.questions} questions")


if __name__ == "__main__":
    main()
