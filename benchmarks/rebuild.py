"""What starting up, a build with nothing to do, and a build after one changed file cost.

Copies a corpus, builds it, builds it again, changes one file and builds a third time; prints one table:

    python benchmarks/rebuild.py FOLDER --limit 200
    python benchmarks/rebuild.py FOLDER --run RUN      begin from a copy of a run that was built before

Seconds are of whole processes, as a user waits for them; "after start-up" leaves out importing packages.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_BUILD = """
import json, sys, time
begun = time.perf_counter()
from raft import api
import chromadb, sqlite3
imported = time.perf_counter()
events = {}
def listen(event, facts):
    if event in ("made", "reused"):
        events.setdefault(event, []).append(facts["step"])
    if event == "asked":
        events["new"] = events.get("new", 0) + facts["new"]
built = api.build(sys.argv[1], out=sys.argv[2], limit=int(sys.argv[3]) or None, on_event=listen)
done = time.perf_counter()
steps = {name: line["seconds"] for name, line in built.manifest["steps"].items()}
print(json.dumps({"import": imported - begun, "build": done - imported, "events": events, "steps": steps,
                  "embedded": built.manifest["steps"]["index"]["notes"]}))
"""


def measure(corpus: Path, run: Path, limit: int) -> dict[str, Any]:
    """Build in a process of its own and return what it measured, with the whole wall time in seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", _BUILD, str(corpus), str(run), str(limit)]
    reply = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(reply.stdout.splitlines()[-1]), "wall": time.perf_counter() - begun}


def timed(*command: str) -> float:
    """Return the best of five wall times of a command, in seconds."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--limit", type=int, default=0, help="questions in all; 0: no limit")
    parser.add_argument("--run", type=Path, help="a run directory of this corpus to begin from")
    args = parser.parse_args()
    raft = str(Path(sys.executable).with_name("raft"))
    print(f"raft --help             {timed(raft, '--help'):6.2f} s")
    print(f"import raft             {timed(sys.executable, '-c', 'import raft'):6.2f} s")
    with tempfile.TemporaryDirectory() as work:
        corpus, run = Path(work) / "corpus", Path(work) / "run"
        shutil.copytree(args.corpus, corpus)
        if args.run:
            shutil.copytree(args.run, run)
        rows = [(name, measure(corpus, run, args.limit)) for name in ("first build", "nothing changed")]
        pages = sorted(corpus.rglob("*.md"))
        target = pages[len(pages) // 2]
        text = target.read_text(encoding="utf-8")
        more = "The spare key of the archive is kept by the desk for 45 days."
        target.write_text(f"{text}\n\n{more}\n", encoding="utf-8")
        rows.append((f"one file changed ({len(text):,} characters)", measure(corpus, run, args.limit)))
        rows.append(("nothing changed again", measure(corpus, run, args.limit)))
    for name, result in rows:
        events, about = result["events"], result["embedded"]
        made, reused = ", ".join(events.get("made", [])) or "nothing", len(events.get("reused", []))
        print(
            f"\n{name}: {result['wall']:.1f} s, of these {result['import']:.1f} imports, {result['build']:.1f} work"
            f"\n  made {made}; unchanged {reused} steps"
            f"; {events.get('new', 0)} new replies; last index update embedded {about['embedded']} chunks"
            f"\n  seconds a step: {', '.join(f'{step} {seconds:.1f}' for step, seconds in result['steps'].items())}"
        )


if __name__ == "__main__":
    main()
