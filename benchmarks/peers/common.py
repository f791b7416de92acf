"""What the drivers of other tools share: the command line of `hosted.py throughput`, the prompts, and the clock.

A driver runs in a virtual environment of its own, where raft is not installed: the requests are read from raft's
sources by path, so that every tool sends the same.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEY = "sk-none-0000000000000000"
MAX_TOKENS = 200

sys.path.insert(0, str(HERE.parent))


def prompts(count: int) -> list[tuple[str, str]]:
    """Return system and user turn of each request, as raft would send them."""
    from passages import passage  # noqa: PLC0415

    text = (HERE.parents[1] / "prompts" / "items.md").read_text(encoding="utf-8")
    system, user = (part.strip() for part in text.split("## system", 1)[1].split("## user", 1))
    user = user.replace("$count", "1").replace("$kinds", "  - fact: a fact\n  - number: a number with its unit")
    return [
        (system, user.replace("$context", f"Unit {number}").replace("$passage", passage(number)))
        for number in range(count)
    ]


def main(run: Callable[[str, list[tuple[str, str]], int], int]) -> None:
    """Run a tool and print what it took; `run` gets address, prompts and calls in flight, and returns the replies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    chosen = parser.parse_args()
    run(chosen.url, prompts(8 + random.Random(chosen.count).randrange(8)), 8)
    whole = prompts(chosen.count)
    begun, cpu = time.perf_counter(), processor_seconds()
    good = run(chosen.url, whole, chosen.in_flight)
    facts = {"calls": good, "seconds": time.perf_counter() - begun, "cpu": processor_seconds() - cpu}
    sys.stdout.write(f"\n{json.dumps(facts)}\n")


def processor_seconds() -> float:
    """Return what this process and its children have used of the processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
