"""What shards of a Ray cluster give: calls a second by 1, 2, 4 and 8 of them, at an endpoint that takes 200 ms a call.

The shards are processes of this machine, and the endpoint is one more. Few calls are in flight at each shard, so that
what is measured is how the work is spread, and not how many calls the cores of this machine can make. Beside it stands
what one process does with as many in flight, and how much of a processor a call costs where the build runs.
"""

import argparse
import os
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path

from endpoints import MODEL, SECONDS, served
from raft.api.engine import shards_of
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.backends.ray.engine import RayEngine
from raft.backends.ray.models import SpreadHostedModel
from raft.backends.ray.shard import Opening
from raft.protocols import Completion, Request
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger


def ask(url: str, calls: int, in_flight: int, shards: int) -> tuple[float, float]:
    """Return calls a second in the middle four fifths, and the processor's milliseconds a call in this process.

    With no shards this process asks by itself.
    """
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder) / "ledger.sqlite")) as ledger:
        opening = Opening(0, "r", "", str(shards_of(Path(folder))), {}, local_only=True)
        engine = RayEngine(None, max(1, shards), cards=0, ledger=ledger.path, opening=opening, merged=lambda: None)
        with engine:
            how = {"api_base": url, "timeout": 20.0}
            model = HostedModel(MODEL, concurrency=in_flight, **how)
            if shards:
                model = SpreadHostedModel(MODEL, engine, concurrency=in_flight, **how)
                engine.start()
                while not all(map(engine._is_ready, engine._places)):
                    time.sleep(0.1)
            budget = Budget(ledger, run="r", model=MODEL, price=Price(1, 1), cap=100.0)
            asked = (
                Request(({"role": "user", "content": f"{number} " * 300},), max_tokens=60) for number in range(calls)
            )
            times = []
            before = resource.getrusage(resource.RUSAGE_SELF)
            for outcome in FlowingGenerator(model, ledger, budget, attempts=1).complete(asked):
                assert isinstance(outcome, Completion)
                times.append(time.monotonic())
            after = resource.getrusage(resource.RUSAGE_SELF)
            states = ledger.read("SELECT state, COUNT(*) FROM calls GROUP BY state")
            assert states == [("paid", calls)], states
    begin, end = calls // 10, calls - calls // 10
    used = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return (end - begin) / (times[end] - times[begin]), 1000 * used / calls


def main() -> None:
    """Print calls a second, and the share of so many times what one shard does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0, help="about how long each measure takes")
    parser.add_argument("--in-flight", type=int, default=4, help="calls at each shard")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8])
    chosen = parser.parse_args()
    os.environ |= {"OPENAI_API_KEY": "sk-dummy", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    one = 0.0
    for shards in chosen.shards:
        most = shards * chosen.in_flight
        calls = int(chosen.seconds * most / SECONDS)
        with served() as (url, _):
            rate, cost = ask(url, calls, chosen.in_flight, shards)
        with served() as (url, _):
            alone, own = ask(url, calls, most, 0)
        one = one or rate / shards
        print(
            f"{shards} shards {rate:8.1f} calls a second, {rate / (one * shards):.0%} of linear,"
            f" {rate * SECONDS / most:.0%} of what the endpoint allows; {cost:.2f} ms here a call"
            f" | one process, {most} in flight: {alone:.1f}, {own:.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
