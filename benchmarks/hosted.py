"""How fast, how politely and how safely a hosted model is asked; everything happens on this machine.

    python benchmarks/hosted.py throughput --in-flight 64 256      raft beside bare aiohttp, litellm and other tools
    python benchmarks/hosted.py limit --requests-per-minute 600    how close to a rate limit, how many calls wasted
    python benchmarks/hosted.py storm --chunks 10000 --kills 50    faults and SIGKILLs, compared with a quiet run
    python benchmarks/hosted.py memory --chunks 100000             memory and event loop while a corpus is asked about

The endpoint is `tests/fake_openai.py`, in a process of its own on 127.0.0.1. Each prints a Markdown table. Times are of
this machine, whose cores client and server share: compare rows of one run.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

import storm
from passages import passage
from raft import prompts
from raft.backends.hosted.errors import Transport
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.litellm import LitellmTransport
from raft.backends.hosted.model import HostedModel
from raft.generation import generate, items, plan
from raft.protocols import Completion, Request
from raft.store import tables
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger

PEERS = {
    "bespokelabs-curator": "ask_curator.py",
    "data-designer": "ask_data_designer.py",
    "synthetic-data-kit": "ask_synthetic_data_kit.py",
    "distilabel": "ask_distilabel.py",
}
"""Other tools, and the scripts in `peers/` that drive them; each runs in a virtual environment of its own."""

KEY = "sk-none-0000000000000000"
KINDS = ("fact", "number", "date", "name")
_SERVER = Path(__file__).parents[1] / "tests" / "fake_openai.py"
_PRICE = Price(0.15, 0.60)


@contextmanager
def serving(*options: str, limit: int, seconds: float = 3600) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the server in a process of its own; yield its address, and a dictionary that holds its counts afterwards."""
    command = [sys.executable, str(_SERVER), "--limit", str(limit), "--seconds", str(seconds), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    counts: dict[str, Any] = {}
    try:
        yield server.stdout.readline().strip(), counts
    finally:
        server.send_signal(signal.SIGTERM)
        told = server.stdout.read()
        server.wait(30)
        counts.update(json.loads(told or "{}"))


def chunk(number: int) -> dict[str, Any]:
    """Return one passage of about 150 words, different from all others."""
    text = passage(number)
    return {"chunk_id": f"c{number}", "doc_id": f"d{number // 100}", "heading": f"Unit {number}", "text": text}


def requests(count: int | None = None) -> Iterator[Request]:
    """Yield what a build asks of each passage, without a schema, so that all tools send the same."""
    prompt, number = prompts.load("items"), 0
    while count is None or number < count:
        yield replace(items.items_ask(prompt, chunk(number), 1, KINDS).request, schema=None)
        number += 1


class ThroughLitellm(HostedModel):
    """A hosted model that is asked through litellm even where it could be asked directly."""

    def _transport(self, given: str | None, key: str | None) -> Transport:
        return LitellmTransport(self.name, api_base=given, key=key, timeout=self._timeout)


def raft_calls(model: HostedModel, source: Iterator[Request]) -> int:
    """Ask all requests through ledger and budget; return how many replies passed their check."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        budget = Budget(ledger, run="benchmark", model=model.name, price=_PRICE, cap=1e9)
        outcomes = FlowingGenerator(model, ledger, budget, attempts=3).complete(source)
        good = sum(isinstance(outcome, Completion) for outcome in outcomes)
        ledger.close()
    return good


def by_raft(kind: type[HostedModel], name: str) -> Callable[[str, int, int], int]:
    """Return a contender: raft, with its model `name`."""

    def run(url: str, count: int, in_flight: int) -> int:
        return raft_calls(kind(name, api_base=url, concurrency=in_flight, timeout=60), requests(count))

    return run


def by_aiohttp(url: str, count: int, in_flight: int) -> int:
    """Send bare requests, with nothing kept and nothing checked: what cannot be beaten."""
    import aiohttp  # noqa: PLC0415

    async def post(session: aiohttp.ClientSession, call: Request) -> bool:
        body = {"model": "test-model", "messages": list(call.messages), "max_tokens": call.max_tokens, "temperature": 0}
        async with session.post(f"{url}/chat/completions", json=body) as response:
            return bool((await response.json())["choices"])

    async def run() -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
            return await gathered(lambda call: post(session, call), count, in_flight)

    return asyncio.run(run())


def by_litellm(name: str) -> Callable[[str, int, int], int]:
    """Return a contender: `litellm.acompletion` as it comes, under a semaphore."""

    def run(url: str, count: int, in_flight: int) -> int:
        from raft.backends.vendors import import_litellm  # noqa: PLC0415  so that no price list is fetched

        litellm = import_litellm()

        async def ask(call: Request) -> bool:
            response = await litellm.acompletion(
                model=name,
                messages=list(call.messages),
                max_tokens=call.max_tokens,
                temperature=0,
                api_base=url,
                api_key=KEY,
                timeout=60,
            )
            return bool(response.choices)

        return asyncio.run(gathered(ask, count, in_flight))

    return run


async def gathered(ask: Callable[[Request], Any], count: int, in_flight: int) -> int:
    """Ask under a semaphore; return how many were answered."""
    semaphore = asyncio.Semaphore(in_flight)

    async def one(call: Request) -> bool:
        async with semaphore:
            return bool(await ask(call))

    return sum(await asyncio.gather(*[one(call) for call in requests(count)]))


CONTENDERS: dict[str, Callable[[str, int, int], int]] = {
    "aiohttp, bare": by_aiohttp,
    "raft, direct": by_raft(HostedModel, "openai/test-model"),
    "raft, litellm openai/": by_raft(ThroughLitellm, "openai/test-model"),
    "raft, litellm hosted_vllm/": by_raft(ThroughLitellm, "hosted_vllm/test-model"),
    "litellm openai/": by_litellm("openai/test-model"),
    "litellm hosted_vllm/": by_litellm("hosted_vllm/test-model"),
}


def contend(name: str, url: str, count: int, in_flight: int) -> dict[str, float]:
    """Run a contender in this process: some calls to warm up, then all; return calls, seconds and processor time."""
    CONTENDERS[name](url, 8, 8)
    begun, cpu = time.perf_counter(), time.process_time()
    good = CONTENDERS[name](url, count, in_flight)
    return {"calls": good, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}


def measured(
    command: Sequence[str], count: int, in_flight: int, latency: float, limit_seconds: float
) -> dict[str, Any] | str:
    """Run one contender against a fresh server; return what it measured, or why there is nothing."""
    limit = 2 * count + 1000
    with serving("--latency", str(latency), limit=limit, seconds=limit_seconds + 60) as (url, counts):
        full = [*command, "--url", url, "--count", str(count), "--in-flight", str(in_flight)]
        try:
            done = subprocess.run(
                full, check=False, capture_output=True, text=True, timeout=limit_seconds, env=environment()
            )
        except subprocess.TimeoutExpired:
            return f"not done after {limit_seconds:.0f} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"calls"')]
    if not lines:
        return (done.stderr.strip().splitlines() or ["no result"])[-1][:150]
    return {**json.loads(lines[-1]), "most": counts.get("most_waiting"), "server": counts["processor_seconds"] / count}


def environment() -> dict[str, str]:
    """Return the variables that contenders run with: a key of no worth, no proxy, nothing sent to vendors."""
    off = ("NO_PROXY", "no_proxy", "127.0.0.1"), ("OPENAI_API_KEY", "HOSTED_VLLM_API_KEY", KEY)
    return {
        **os.environ,
        **{name: value for *names, value in off for name in names},
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NEMO_TELEMETRY_ENABLED": "false",
        "TELEMETRY_ENABLED": "False",
        "OMP_NUM_THREADS": "1",
    }


def throughput(chosen: argparse.Namespace) -> None:
    """Print calls a second of each contender at each number of calls in flight."""
    here = [sys.executable, str(Path(__file__).resolve()), "contend"]
    names = chosen.only or list(CONTENDERS)
    commands: dict[str, list[str]] = {name: [*here, "--name", name] for name in names}
    for package, script in PEERS.items() if chosen.peers else ():
        python = chosen.peers / package / "bin" / "python"
        commands[package] = [str(python), str(Path(__file__).resolve().parent / "peers" / script)]
    print(
        "| contender | in flight | calls a second | of the ideal | of bare aiohttp | most at once | client ms a call "
        "| server ms a call |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for in_flight in chosen.in_flight:
        ideal, bare = in_flight / chosen.latency, 0.0
        count = max(in_flight, int(ideal * chosen.seconds))
        for name, command in commands.items():
            if not Path(command[0]).exists():
                print(f"| {name} | {in_flight} | not installed: {command[0]} |")
                continue
            found = measured(command, count, in_flight, chosen.latency, 60 + 20 * chosen.seconds)
            if isinstance(found, str):
                print(f"| {name} | {in_flight} | {found} |", flush=True)
                continue
            rate = found["calls"] / found["seconds"]
            bare = rate if name.startswith("aiohttp") else bare
            beside = f"{rate / bare:.0%}" if bare else ""
            cpu = f"{1000 * found['cpu'] / count:.2f} | {1000 * found['server']:.2f}"
            missing = "" if found["calls"] == count else f" ({count - found['calls']:,.0f} of {count:,} unanswered)"
            share = f"{rate:,.0f}{missing} | {rate / ideal:.0%} | {beside}"
            print(f"| {name} | {in_flight} | {share} | {found['most']} | {cpu} |", flush=True)


def limit(chosen: argparse.Namespace) -> None:
    """Print how many calls a minute are accepted of those that the endpoint allows, and how many it turns away."""
    print(f"{chosen.requests_per_minute:g} requests a minute allowed, {chosen.latency:g} s a reply\n")
    print("| the endpoint tells | accepted a minute | of the limit | in the second half | turned away |")
    print("| --- | ---: | ---: | ---: | ---: |")
    ways = {
        "limit and Retry-After": [],
        "Retry-After": ["--no-headers"],
        "nothing": ["--no-headers", "--no-retry-after"],
    }
    for told, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            counts_file = Path(folder) / "counts"
            rate = ["--requests-per-minute", str(chosen.requests_per_minute), "--counts", str(counts_file)]
            most = int(20 * chosen.requests_per_minute * (1 + chosen.seconds / 60))
            with serving("--latency", str(chosen.latency), *rate, *options, limit=most) as (url, counts):
                model = HostedModel("openai/test-model", api_base=url, concurrency=chosen.in_flight, timeout=60)
                until = time.monotonic() + chosen.seconds
                raft_calls(model, timed_out(requests(), until))
            times = sorted(float(line.split()[0]) for line in counts_file.read_text().splitlines())
        turned_away = counts.get("limited", 0) / max(1, counts["requests"])
        length, middle = times[-1] - times[0], (times[0] + times[-1]) / 2
        late = 60 * sum(moment > middle for moment in times) / (length / 2)
        whole = 60 * len(times) / length
        share = [f"{one / chosen.requests_per_minute:.1%}" for one in (whole, late)]
        print(f"| {told} | {whole:,.0f} | {share[0]} | {share[1]} | {turned_away:.1%} |", flush=True)


def timed_out(source: Iterator[Request], until: float) -> Iterator[Request]:
    """Yield requests until a moment of the monotonic clock."""
    for request in source:
        if time.monotonic() > until:
            return
        yield request


class Watched(HostedModel):
    """A hosted model that notes how late its event loop is.

    Attributes:
        late: seconds by which a timer of 50 ms was late, each time.
    """

    late: list[float]

    def _transport(self, given: str | None, key: str | None) -> Transport:
        transport = super()._transport(given, key)
        watch, close = asyncio.get_running_loop().create_task(self._watch()), transport.close

        async def close_both() -> None:
            watch.cancel()
            await close()

        transport.close = close_both  # type: ignore[method-assign]
        return transport

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await asyncio.sleep(0.05)
            self.late.append(loop.time() - begun - 0.05)


def memory(chosen: argparse.Namespace) -> None:
    """Print memory and the event loop's lateness while the questions stage asks about so many chunks."""
    every = max(1, chosen.chunks // 10)
    print(
        "| questions | MiB | replies a second | loop late, 99 of 100 | at worst |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    with (
        serving("--latency", str(chosen.latency), limit=2 * chosen.chunks + 1000) as (url, _),
        tempfile.TemporaryDirectory() as folder,
    ):
        model = Watched("openai/test-model", api_base=url, concurrency=chosen.in_flight, timeout=60)
        model.late = []
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        budget = Budget(ledger, run="benchmark", model=model.name, price=_PRICE, cap=1e9)
        failures: list[dict[str, Any]] = []
        known = plan.survey(chunk_frames(chosen.chunks), [], plan.needed("items", KINDS))
        frames = generate.ask(
            chunk_frames(chosen.chunks),
            known,
            FlowingGenerator(model, ledger, budget, attempts=3),
            generate.read_prompts(None),
            strategy="items",
            kinds=KINDS,
            per_chunk=1.0,
            limit=None,
            model=model.name,
            failures=failures,
        )
        done, told, begun = 0, 0, time.perf_counter()
        for frame in frames:
            done += len(frame)
            if done - told >= every:
                late, model.late = sorted(model.late) or [0.0], []
                rate = (done - told) / (time.perf_counter() - begun)
                print(
                    f"| {done:,} | {resident():,.0f} | {rate:,.0f} | {1000 * late[int(0.99 * len(late))]:.0f} ms "
                    f"| {1000 * late[-1]:.0f} ms |",
                    flush=True,
                )
                told, begun = done, time.perf_counter()
        ledger.close()
    print(
        f"\n{done:,} questions, {len(failures):,} failures; at most "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
    )


def chunk_frames(count: int) -> Iterator[pl.DataFrame]:
    """Yield frames of chunks, a document each."""
    for begin in range(0, count, 100):
        rows = [chunk(number) for number in range(begin, min(count, begin + 100))]
        whole = [
            {
                **row,
                "position": place,
                "start": 0,
                "end": len(row["text"]),
                "tokens": 150,
                "boilerplate": False,
                "document_sha256": "",
            }
            for place, row in enumerate(rows)
        ]
        yield tables.frame(tables.CHUNKS, whole)


def resident() -> float:
    """Return the memory that this process holds now, in MiB."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Read the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="throughput | limit | storm | memory")
    for function in (throughput, limit, memory):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--latency", type=float, default=0.2, help="seconds a reply")
        if function is throughput:
            command.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
            command.add_argument("--seconds", type=float, default=20, help="of an ideal client")
            command.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="these contenders and no others")
            command.add_argument("--peers", type=Path, help="folder of virtual environments, named " + ", ".join(PEERS))
        else:
            command.add_argument("--in-flight", type=int, default=64 if function is limit else 128)
        if function is limit:
            command.add_argument("--requests-per-minute", type=float, default=600)
            command.add_argument("--seconds", type=float, default=180)
        if function is memory:
            command.add_argument("--chunks", type=int, default=100_000)
    storm.add_arguments(commands.add_parser("storm", help=storm.run.__doc__), serving, environment)
    command = commands.add_parser("contend")  # one contender of `throughput`, in a process of its own
    for name, kind in {"--name": str, "--url": str, "--count": int, "--in-flight": int}.items():
        command.add_argument(name, type=kind, required=True)
    command.set_defaults(
        function=lambda given: print(json.dumps(contend(given.name, given.url, given.count, given.in_flight)))
    )
    os.environ.update(environment())
    chosen = parser.parse_args()
    chosen.function(chosen)


if __name__ == "__main__":
    main()
