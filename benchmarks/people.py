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


def main() -> None:
    """Train, measure and print the report; what was done before is not done again."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--of", type=Path, default=Path("runs/xquad"), help="the folder of benchmarks/xquad.py")
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--part", choices=xquad.STUDY.parts, default="unseen", help="whose questions are asked")
    args = parser.parse_args()
    files = xquad.prepare(args.of)
    folder = ablations.copied(args.of, args.of / "people")
    ablations.built(args.of, folder, files["all"], generator=args.generator, settings={})
    ablations.changed_rows(folder, ablations.Variant(people=True))
    raft.train(folder, settings=xquad.STUDY.training, listen=studies.tell)
    raft.bench(
        folder,
        questions=files[args.part],
        drop_leaks=True,
        settings={**studies.MEASURED, **xquad.STUDY.measuring, "benchmark.contenders": "verdict"},
        listen=studies.tell,
    )
    print((folder / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
