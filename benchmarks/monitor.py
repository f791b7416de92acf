"""How often `raft monitor` warns without cause, and how often it finds a fall: simulated looks at held-out questions.

    python benchmarks/monitor.py                    # some minutes on one core

Of the questions a share is unstable: their replies are right or wrong by a coin at each measure, as where documents
come and go; all others are always right or always wrong. So a look at a system that did not change differs from the
reference on half of the unstable ones. A fall makes right replies wrong, for good.
"""

import argparse
import time
from typing import Any

import numpy as np

from raft.evaluation import monitor as figures

LIMITS = {"look": 0.03, "act": 0.05}
SAID = ("fell, certain", "look or act", "act", "by itself")


class System:
    """A system that answers questions: a share of them by a coin, half of the others right."""

    def __init__(self, questions: int, unstable: float, random: np.random.Generator) -> None:
        self._random = random
        coins = np.arange(questions) < round(unstable * questions)
        self.chance = np.where(coins, 0.5, random.random(questions) < 0.6)
        self._groups = [f"q{number}" for number in range(questions)]

    def worse(self, fall: float) -> None:
        """Answer so many points (0 to 1) of the questions wrongly that were answered rightly."""
        right = np.flatnonzero(self.chance == 1.0)
        self.chance[self._random.choice(right, round(fall * len(self.chance)), replace=False)] = 0.0

    def measure(self) -> dict[str, Any]:
        """Return a measure, as `evaluation.monitor.change` takes it."""
        right = self._random.random(len(self.chance)) < self.chance
        return {
            group: {"score": float(one), "answer": str(one), "group": group}
            for group, one in zip(self._groups, right, strict=True)
        }


def said(now: dict[str, Any], then: dict[str, Any]) -> list[bool]:
    """Return which of `SAID` a look comes to."""
    if sum(now[one]["score"] - then[one]["score"] for one in now) >= 0:
        return [False] * len(SAID)
    change = figures.change(now, then, **LIMITS)
    return [change.certain, change.state in ("look", "act"), change.state == "act", change.sure]


def looks(questions: int, unstable: float, fall: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Return the share of single looks, each against a reference of its own, that come to each of `SAID`."""
    found = np.zeros(len(SAID))
    for _ in range(count):
        system = System(questions, unstable, random)
        then = system.measure()
        system.worse(fall)
        found += said(system.measure(), then)
    return found / count


def years(questions: int, unstable: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Return the share of years, 52 looks against one reference, in which each of `SAID` came at least once."""
    found = np.zeros(len(SAID))
    for _ in range(count):
        system = System(questions, unstable, random)
        then = system.measure()
        found += np.any([said(system.measure(), then) for _ in range(52)], axis=0)
    return found / count


def drift(shift: float, count: int, random: np.random.Generator, *, size: int = 100, width: int = 64) -> float:
    """Return how often a drift is seen (p at most 0.05) where a share of the questions is about something else."""
    hits = 0
    for number in range(count):
        sides = random.normal(size=(2, size, width)) + 1.5 * np.eye(width)[0]
        sides[0, : round(shift * size)] += 4.0 * np.eye(width)[1]
        sides /= np.linalg.norm(sides, axis=2, keepdims=True)
        test = figures.drift(sides[0], sides[1], seed=number)
        hits += test is not None and test.p <= 0.05
    return hits / count


def tell(name: str, shares: np.ndarray) -> None:
    """Print a row of a table."""
    print(f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |", flush=True)


def main() -> None:
    """Simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=400, help="looks a row")
    parser.add_argument("--years", type=int, default=40, help="years a row")
    given = parser.parse_args()
    random, begun = np.random.default_rng(20261130), time.monotonic()
    head = f"| {' | '.join(SAID)} |\n|{' --- |' * (len(SAID) + 1)}"
    print(f"\nNothing changed, {given.looks} single looks\n\n| questions, replies that differ {head}")
    for questions in (100, 300):
        for unstable in (0.1, 0.2, 0.4):
            name = f"{questions}, {100 * unstable / 2:.0f} %"
            tell(name, looks(questions, unstable, 0.0, given.looks, random))
    print(f"\nNothing changed, {given.years} years of 52 looks\n\n| questions, replies that differ {head}")
    for questions, unstable in ((100, 0.1), (100, 0.2), (100, 0.4), (300, 0.2)):
        tell(f"{questions}, {100 * unstable / 2:.0f} %", years(questions, unstable, given.years, random))
    print(f"\nA fall, found at one look of {given.looks}\n\n| fall, questions, other replies that differ {head}")
    for fall in (0.05, 0.1):
        for questions in (100, 300):
            for unstable in (0.0, 0.1, 0.2):
                name = f"{100 * fall:.0f} points, {questions}, {100 * unstable / 2:.0f} %"
                tell(name, looks(questions, unstable, fall, given.looks, random))
    print("\nThe test of drift, 100 against 100 questions\n\n| about something else | drift is seen |\n| --- | --- |")
    for shift in (0.0, 0.05, 0.1, 0.2):
        print(f"| {100 * shift:.0f} % | {100 * drift(shift, max(1, given.looks // 4), random):.1f} % |", flush=True)
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
