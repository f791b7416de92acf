"""What serving costs: the server's own time and memory, and a local model behind it.

    python benchmarks/serving.py               # the server alone: 1,000 questions to an engine that answers at once
    python benchmarks/serving.py --run RUN     # and 16 callers of its local model, beside ask_all
    RAFT_REQUESTS=1000 python -m pytest tests/serving/test_snapshots.py -k three_builds    # questions during rebuilds

Callers keep their connections. The server alone is a process of its own, and so are its 16 callers or one.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

CALLERS = 16


def resident(pid: int) -> float:
    """Return the megabytes that a process has in memory now; no number where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024 if status.exists() else float("nan")


def ask_many(port: int, questions: list[str], *, stream: bool, callers: int) -> tuple[float, list[float]]:
    """Ask all questions by so many callers; return the seconds of all, and those of each."""
    left, times = iter(questions), []
    lock = threading.Lock()

    def call() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as line:
            while True:
                with lock:
                    question = next(left, None)
                if question is None:
                    return
                body = {"model": "raft", "messages": [{"role": "user", "content": question}], "stream": stream}
                begun = time.perf_counter()
                line.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
                answer = line.getresponse()
                text = answer.read()
                times.append(time.perf_counter() - begun)
                assert answer.status == 200, text

    threads = [threading.Thread(target=call) for _ in range(callers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, times


def tell(name: str, seconds: float, times: list[float]) -> None:
    """Print one line of figures."""
    cuts = statistics.quantiles(times, n=100)
    rate, middle, late = len(times) / seconds, 1000 * cuts[49], 1000 * cuts[98]
    print(f"{name:44} {len(times):6,} {seconds:9.2f} s {rate:9.1f} /s   p50 {middle:9.1f} ms   p99 {late:9.1f} ms")


def instant() -> None:
    """Serve an engine that answers at once, until the standard input ends; print its port."""
    from raft.serving import engine  # noqa: PLC0415
    from served import Served, Source  # noqa: PLC0415

    engine.GATHER = 0.0
    source = Source()
    source.asked = source.searched = Forgetful()
    with TemporaryDirectory() as run, Served(source, run=Path(run)) as served:  # with its traffic on disk
        print(served.port, flush=True)
        sys.stdin.read()


class Forgetful(list[object]):
    """A list that keeps nothing: what a source remembers for tests is no part of a server's memory."""

    def append(self, _: object) -> None:
        """Keep nothing."""

    def __iadd__(self, _: object) -> "Forgetful":  # type: ignore[misc,override]
        return self


def alone(requests: int) -> None:
    """Measure the server, in a process of its own, with an engine that answers at once."""
    command = [sys.executable, __file__, "--instant"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        port, asked = int(child.stdout.readline()), 0
        questions = [f"How long may parcel {number} be returned?" for number in range(requests)]
        ask_many(port, questions[:200], stream=False, callers=CALLERS)
        ask_many(port, questions[:200], stream=True, callers=CALLERS)
        before = resident(child.pid)
        for stream in (False, True):
            for callers in (1, CALLERS):
                how = f"server alone, {'streamed' if stream else 'whole'}, {callers} caller{'s' * (callers > 1)}"
                tell(how, *ask_many(port, questions, stream=stream, callers=callers))
                asked += requests
        print(f"memory of the server before {before:.1f} MB, after {asked:,} questions {resident(child.pid):.1f} MB")
        child.stdin.close()


def local(run: Path, requests: int) -> None:
    """Measure a run's local model behind the server, and beside it without one."""
    import raft  # noqa: PLC0415
    from raft.serving.versions import Versions  # noqa: PLC0415
    from served import Served  # noqa: PLC0415

    asked = raft.load(run).evaluation["question"].to_list()
    questions = [asked[number % len(asked)] for number in range(requests)]
    ignored: Callable[..., None] = lambda event, facts: None  # noqa: E731
    with Versions(run, None, None, ignored) as versions:
        sources = versions.take()
        with Served(sources) as served:
            sources.production.answerer.ask_all(questions[:2])
            begun = time.perf_counter()
            sources.production.answerer.ask_all(questions)
            seconds = time.perf_counter() - begun
            print(f"{'ask_all':44} {requests:6,} {seconds:9.2f} s {requests / seconds:9.1f} /s")
            tell(f"{CALLERS} callers", *ask_many(served.port, questions, stream=False, callers=CALLERS))
            few = questions[: max(4, requests // 8)]
            tell("1 caller", *ask_many(served.port, few, stream=False, callers=1))
            tell("1 caller, streamed", *ask_many(served.port, few, stream=True, callers=1))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="questions to the server alone")
    parser.add_argument("--run", type=Path, help="a run whose local model is asked too")
    parser.add_argument("--questions", type=int, default=32, help="questions to the local model")
    parser.add_argument("--instant", action="store_true", help=argparse.SUPPRESS)  # what the measuring process starts
    given = parser.parse_args()
    if given.instant:
        instant()
        return
    alone(given.requests)
    if given.run:
        local(given.run, given.questions)


if __name__ == "__main__":
    main()
