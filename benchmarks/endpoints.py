"""What several endpoints of one model give: calls a second at one, two and three, and while one of three is away.

Each endpoint is a process on this machine that takes 200 ms a call; so many calls may be in flight at each. In the
storm one of three is killed when a third of the calls are answered, and started again after two thirds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.protocols import Completion, Request
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger

SERVER = Path(__file__).parents[1] / "tests" / "fake_openai.py"
MODEL = "openai/test-model"
SECONDS = 0.2


@contextmanager
def served(port: int = 0) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start an endpoint, and give its address and its process."""
    command = [sys.executable, str(SERVER), "--latency", str(SECONDS), "--port", str(port), "--limit", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()


def ask(urls: list[str], calls: int, in_flight: int, at: Callable[[int], None] = lambda answered: None) -> list[float]:
    """Return when each call was answered, in seconds; `at` is told how many are."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder) / "ledger.sqlite")) as ledger:
        model = HostedModel(MODEL, api_base=urls, concurrency=in_flight, timeout=20)
        budget = Budget(ledger, run="r", model=MODEL, price=Price(1, 1), cap=None)
        begun = time.monotonic()

        def note(facts: Any) -> None:
            times.extend([time.monotonic() - begun] * facts["new"])
            at(len(times))

        asking = FlowingGenerator(model, ledger, budget, attempts=1, progress=note)
        asked = (Request(({"role": "user", "content": f"call {number}"},), max_tokens=20) for number in range(calls))
        came = list(asking.complete(asked))
        assert all(isinstance(one, Completion) for one in came) and len(times) == calls
        paid = ledger.read("SELECT state, COUNT(*) FROM calls GROUP BY state")
        sys.stderr.write(f"{json.dumps([vars(one) for one in model.tallies])} {paid}\n")
    return times


def main() -> None:
    """Print calls a second, and what they are of one endpoint's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1200)
    parser.add_argument("--in-flight", type=int, default=8, help="at each endpoint")
    chosen = parser.parse_args()
    os.environ |= {"OPENAI_API_KEY": "sk-dummy", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    rates: dict[str, float] = {}
    for number in (1, 2, 3):
        with ExitStack() as stack:
            urls = [stack.enter_context(served())[0] for _ in range(number)]
            times = ask(urls, chosen.calls, chosen.in_flight)
        rates[f"{number} endpoints"] = len(times) / times[-1]
    with ExitStack() as stack:
        places = [stack.enter_context(served()) for _ in range(3)]
        urls, (first, process) = [url for url, _ in places], places[0]
        turns: dict[str, float] = {}

        def at(answered: int) -> None:
            if answered >= chosen.calls // 3 and "away" not in turns:
                process.kill()
                process.wait()
                turns["away"] = answered
            elif answered >= 2 * chosen.calls // 3 and "back" not in turns:
                stack.enter_context(served(int(first.rpartition(":")[2].removesuffix("/v1"))))
                turns["back"] = answered

        times = ask(urls, chosen.calls, chosen.in_flight, at)
    begin, end = int(turns["away"]), int(turns["back"])
    rates["3, one away"] = (end - begin) / (times[end - 1] - times[begin - 1])
    rates["3, one back"] = (len(times) - end) / (times[-1] - times[end - 1])
    for name, rate in rates.items():
        beside = rate / rates["1 endpoints"]
        print(f"{name:<14} {rate:8.1f} calls a second {beside:6.2f} of one")
    print(f"one of three away, of two endpoints: {rates['3, one away'] / rates['2 endpoints']:.2f}")


if __name__ == "__main__":
    main()
