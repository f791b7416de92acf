"""A build in a storm: faults at the endpoint, and SIGKILL at random moments; see `hosted.py storm`.

A corpus is built up to its questions twice from the same chunks: once quietly, once against an endpoint that fails in
all ways while the process is killed and started again. Then three things are checked: each chunk ended as questions or
as a recorded failure; nothing was answered twice by the endpoint but calls that were open when the process was killed
(the ledger knows those: each is written down before it is sent); and the tables are byte for byte those of the quiet
run, for every chunk without a recorded failure.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from passages import passage

FAULTS = "429=0.05,500=0.05,cut=0.05,timeout=0.05,malformed=0.05"
"""The default storm: rate limits, errors, cut connections, replies that never come, bodies that are no JSON."""

_WHOLE = ("answered", "abandoned", "truncated", "length", "empty", "usage")
"""Endings after which a provider would charge; the counts of the server name them."""
_BROKEN = ("cut", "timeout", "malformed", "close")


def write_corpus(folder: Path, chunks: int) -> None:
    """Write documents of fifty sections, each of which becomes a chunk."""
    folder.mkdir(parents=True)
    for begin in range(0, chunks, 50):
        sections = [f"## Unit {number}\n\n{passage(number)}" for number in range(begin, min(chunks, begin + 50))]
        text = "\n\n".join([f"# Register {begin // 50}", *sections])
        (folder / f"register-{begin // 50:05d}.md").write_text(text, encoding="utf-8")


def build(corpus: str, out: str, url: str, *, until: str, timeout: float, in_flight: int) -> None:
    """Build up to a step, with a stand-in for the embedder, whose work is not what is tested here."""
    import raft  # noqa: PLC0415
    from raft.api import models  # noqa: PLC0415
    from raft.testing import HashEmbedder, WordTokenizer  # noqa: PLC0415

    class Done(Exception):
        pass

    def on_event(event: str, facts: Mapping[str, Any]) -> None:
        if event == "begins" and facts["step"] == until:
            raise Done

    models.open_embedder = lambda *_, **__: HashEmbedder()  # type: ignore[assignment]
    models.hub.tokenizer = lambda name: WordTokenizer()  # type: ignore[assignment]
    settings = {
        "generator.api_base": url,
        "generator.timeout": timeout,
        "generator.concurrency": in_flight,
        "questions.way": "items",
        "index.hybrid": False,
        "chunking.tokens": 170,
    }
    try:
        raft.build(
            corpus,
            out=out,
            generator="openai/test-model",
            price=(0.15, 0.60),
            max_cost=1e6,
            settings=settings,
            on_event=on_event,
        )
    except Done:
        return


def run(chosen: argparse.Namespace) -> None:
    """Print what a storm did to a build, and whether it shows."""
    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        home = Path(folder)
        write_corpus(home / "corpus", chosen.chunks)
        started = child(chosen, home, "seed", "http://127.0.0.1:9/v1", until="questions")
        if started.wait():
            raise SystemExit("the chunks could not be made")
        for name in ("quiet", "storm"):
            shutil.copytree(home / "seed", home / name)
        options = ["--latency", str(chosen.latency)]
        begun = time.perf_counter()
        with chosen.serving(*options, limit=20 * chosen.chunks + 1000) as (url, _):
            if child(chosen, home, "quiet", url).wait():
                raise SystemExit("the quiet run failed")
        quiet_seconds, begun = time.perf_counter() - begun, time.perf_counter()
        counts_file = home / "counts"
        options += ["--faults", chosen.faults, "--counts", str(counts_file)]
        with chosen.serving(*options, limit=20 * chosen.chunks + 1000) as (url, counts):
            killed = storm_through(chosen, home, url, counts_file=counts_file, draw=draw)
        report(chosen, home, counts, killed, (quiet_seconds, time.perf_counter() - begun))


def storm_through(chosen: argparse.Namespace, home: Path, url: str, *, counts_file: Path, draw: random.Random) -> int:
    """Build, kill after so many attempts and a random time besides, build again; return how often."""
    moments = sorted(draw.uniform(0, 1.2 * chosen.chunks) for _ in range(chosen.kills))
    killed, since = 0, 0.0
    for moment in [*moments, float("inf")]:
        process = child(chosen, home, "storm", url)
        while process.poll() is None:
            answered = counts_file.read_bytes().count(b"\n") if counts_file.exists() else 0
            if answered >= max(moment, since + 1):  # at least one attempt between two kills, else nothing would move
                time.sleep(draw.uniform(0, 0.5))
                since = float(answered)
                break
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        elif process.returncode:
            raise SystemExit(f"the build ended with {process.returncode} before it was killed")
        process.wait()
        if not process.returncode:
            break
    return killed


def child(
    chosen: argparse.Namespace, home: Path, name: str, url: str, until: str = "cleaned"
) -> subprocess.Popen[bytes]:
    """Start a build in a process of its own."""
    places = (str(home / "corpus"), str(home / name), url)
    options = {"until": until, "timeout": chosen.timeout, "in_flight": chosen.in_flight}
    here = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {here!r}); import storm; storm.build(*{places!r}, **{options!r})"
    return subprocess.Popen([sys.executable, "-c", program], env=chosen.environment())


def report(
    chosen: argparse.Namespace, home: Path, counts: Mapping[str, Any], killed: int, seconds: tuple[float, float]
) -> None:
    """Compare the two runs and the server's counts, and print the table."""
    quiet, storm = (
        {table: pl.read_parquet(home / name / f"{table}.parquet") for table in ("questions", "failures")}
        for name in ("quiet", "storm")
    )
    failed = set(storm["failures"]["item_id"]) | set(quiet["failures"]["item_id"])
    ended = {chunk for ids in storm["questions"]["golden_chunk_ids"] for chunk in ids} | set(
        storm["failures"]["item_id"]
    )
    asked = {chunk for ids in quiet["questions"]["golden_chunk_ids"] for chunk in ids} | set(
        quiet["failures"]["item_id"]
    )
    doubles, unexplained, lost = paid_twice(home / "storm" / "ledger.sqlite", home / "counts")
    whole = digest(home / "quiet") == digest(home / "storm")
    alike = without(quiet["questions"], failed) == without(storm["questions"], failed)
    same = "yes" if whole else "no (there are failures)" if failed else "NO"
    rows = [
        ("chunks that something was asked of", f"{len(asked):,}"),
        ("faults, as shares of all attempts", chosen.faults.replace(",", ", ")),
        ("kills", f"{killed:,}"),
        ("attempts that the endpoint saw", f"{counts['requests']:,}"),
        (
            "their endings",
            ", ".join(f"{name} {counts[name]:,}" for name in (*_WHOLE, *_BROKEN, "429", "500") if counts.get(name)),
        ),
        ("seconds: quiet, storm", f"{seconds[0]:.0f}, {seconds[1]:.0f}"),
        ("chunks without questions or recorded failure", f"{len(asked - ended):,}"),
        (
            "recorded failures",
            f"{len(storm['failures']):,} ("
            + ", ".join(f"{kind} {count}" for kind, count in Counter(storm["failures"]["kind"]).items())
            + ")",
        ),
        ("calls that were open at a kill, or may have been billed and broke", f"{lost:,}"),
        ("completions answered more than once", f"{doubles:,}"),
        ("of these not open at a kill", f"{unexplained:,}"),
        ("questions.parquet is that of the quiet run", same),
        ("and without the chunks that failed", "yes, byte for byte" if alike else "NO"),
    ]
    print("| | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")
    if asked - ended or unexplained or not alike:
        raise SystemExit("The storm left its mark.")


def without(frame: pl.DataFrame, failed: set[str]) -> bytes:
    """Return a table as the bytes of a parquet file, without the questions of chunks that failed."""
    kept = frame.filter(~pl.col("golden_chunk_ids").list.eval(pl.element().is_in(list(failed))).list.any())
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        kept.write_parquet(file.name)
        return Path(file.name).read_bytes()


def digest(run_folder: Path) -> str:
    """Return the digest of a run's questions as they lie there."""
    return hashlib.sha256((run_folder / "questions.parquet").read_bytes()).hexdigest()


def paid_twice(ledger: Path, counts_file: Path) -> tuple[int, int, int]:
    """Return how many whole replies were repetitions, how many of those no lost call explains, and the lost calls.

    The endpoint knows a request by the digest of its body; the ledger has the requests, so that body and key can be
    brought together. A call that was lost is one that was open when its process was killed, or that broke in a way
    that the endpoint counts as broken; what is left over explains one repetition each.
    """
    endings: dict[str, Counter[str]] = {}
    for line in counts_file.read_text(encoding="utf-8").splitlines():
        _, name, _, ending = line.split()
        endings.setdefault(name, Counter())[ending] += 1
    with closing(sqlite3.connect(ledger)) as db:
        known = db.execute("SELECT key, request FROM completions").fetchall()
        lost = dict(db.execute("SELECT key, COUNT(*) FROM calls WHERE state = 'lost' GROUP BY key").fetchall())
    keys: dict[str, list[str]] = {}  # a second and a third attempt ask the same, and are two completions
    for key, request in known:
        keys.setdefault(body_digest(json.loads(request)), []).append(key)
    doubles = unexplained = 0
    for name, found in endings.items():
        kept = keys.get(name, [])
        again = sum(found[ending] for ending in _WHOLE) - max(1, len(kept))
        if again > 0:
            broken = sum(found[ending] for ending in _BROKEN)
            open_at_kills = sum(lost.get(key, 0) for key in kept) - broken if kept else found["abandoned"]
            doubles += again
            unexplained += max(0, again - max(0, open_at_kills))
    return doubles, unexplained, sum(lost.values())


def body_digest(request: Mapping[str, Any]) -> str:
    """Return the digest under which the server knows a request."""
    body = {name: request[name] for name in ("messages", "max_tokens", "temperature")}
    body["model"] = "test-model"
    if request["schema"] is not None:
        schema = {"name": "reply", "schema": request["schema"], "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def add_arguments(
    parser: argparse.ArgumentParser, serving: Callable[..., Any], environment: Callable[[], dict[str, str]]
) -> None:
    """Describe the command line of the storm."""
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--faults", default=FAULTS)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds after which the client gives a reply up")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs are made; they are deleted in the end")
    parser.set_defaults(function=run, serving=serving, environment=environment)
