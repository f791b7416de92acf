"""Whether builds of the same corpus have the same bytes, undisturbed and killed, where Chroma's graph no longer does.

    python benchmarks/same_bytes.py --documents 300 --builds 3 --kills 12

Builds a corpus of synthetic passages with models that cost nothing (those of the tests; index, ledger and run directory
are real), several times undisturbed and then once for each kill, which comes at a call that renames, syncs, deletes or
makes a file, evenly drawn; each killed build is built again. Prints how many digests of the tables there are.
"""

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from passages import passage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from killing import Dying

PARTS = 10  # passages of a document
KINDS = "rename fsync unlink mkdir"


def write(folder: Path, documents: int) -> None:
    """Write the corpus."""
    folder.mkdir(parents=True)
    for number in range(documents):
        texts = [f"## Unit {place}\n\n{passage(number * PARTS + place)}" for place in range(PARTS)]
        (folder / f"d{number:04}.md").write_text(f"# Site {number}\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8")


def digest(run: Path) -> str:
    """Return a digest of all tables of a run."""
    whole = hashlib.sha256()
    for path in sorted(one for one in run.iterdir() if one.suffix in (".parquet", ".jsonl")):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def main() -> None:
    """Build, kill, build again, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--questions", type=int, default=400)
    chosen = parser.parse_args()
    draw, begun = random.Random(0), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Dying(Path(folder)) as dying:
        home = Path(folder) / "home"
        write(home / "corpus", chosen.documents)
        command = ["build", "corpus", "--out", "run", "--quiet", "--limit", str(chosen.questions)]
        command += ["--set", "chunking.tokens=150", "--set", "split.unseen=0.05"]
        found, seen = [], 0
        for number in range(chosen.builds + chosen.kills):
            shutil.rmtree(home / "run", ignore_errors=True)
            (home / "log").write_text("")
            at = 0 if number < chosen.builds else draw.randrange(1, seen + 1)
            told = dying.do("command", home, *command, at=at, kinds=KINDS)
            seen = seen or told["seen"]
            if at:
                assert told["ended"] == -9, told
                told = dying.do("command", home, *command)
            assert told["ended"] == 0, told["output"] + told["error"]
            found.append(digest(home / "run"))
            print(f"{'killed at call ' + str(at) if at else 'undisturbed'}: {found[-1][:12]}", flush=True)
        import polars as pl  # noqa: PLC0415

        chunks = pl.read_parquet(home / "run" / "chunks.parquet").height
        rows = sum(1 for _ in (home / "run" / "train.jsonl").open())
    kills = f"{chosen.kills} killed at one of {seen} calls"
    print(
        f"\n{chunks:,} chunks, {rows:,} training rows; {chosen.builds} builds undisturbed, {kills}: "
        f"{len(set(found))} digest(s), {time.monotonic() - begun:,.0f} s"
    )


if __name__ == "__main__":
    main()
