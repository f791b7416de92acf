"""What each step of a build, `raft ask` and a build with nothing to do cost by the number of chunks, on one machine.

    python benchmarks/scale.py --chunks 10000,100000 --write NAME     # results/DATE-NAME.md and .svg
    python benchmarks/scale.py --chunks 10000 --only nothing,ask      # of a run that is there, these steps anew
    python benchmarks/scale.py --chunks 1000000                       # hours, and some 30 GB on the disk

Documents are invented, of twenty sections of about 60 words, which state figures, dates and names. Questions are made
by rule, and vectors are sums of drawn ones, a word each, so that neither a model nor its time is in the figures; the
tokens are words, and a model that says one thing at once stands in for the one that answers. Each step has a process of
its own. The growth is the exponent between two sizes: 1 is as the work, 2 as its square.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from itertools import chain, pairwise
from math import log10
from pathlib import Path
from typing import Any

import numpy as np

from publish import RESULTS

LEAST = 0.05  # seconds, under which no growth can be told
SECTIONS, DIMENSIONS = 20, 384
SETTINGS: Mapping[str, Any] = {"questions.way": "rules", "chunking.tokens": 75, "split.unseen": 0.05}
STEPS = ("read", "cut", "survey", "index", "words", "plan", "clean", "examples", "nothing", "ask")
TITLES = {
    "read": "read files",
    "cut": "cut into chunks",
    "survey": "survey",
    "index": "index of vectors, given ones",
    "words": "index of words",
    "plan": "plan and write questions by rule",
    "clean": "clean and split",
    "clean: rules": "- by rules",
    "clean: search": "- search, a question each (round trip)",
    "clean: duplicates": "- duplicates: equal, near, same meaning",
    "clean: split": "- split, with what leaks",
    "clean: leak check": "- last check for leaks",
    "clean: tell": "- what the summary tells",
    "examples": "examples",
    "examples: search": "- search, a question each",
    "nothing": "`raft build` with nothing to do",
    "ask": "`raft ask`, to the first answer",
    "ask: imports": "- imports",
    "ask: open": "- open index and tables",
    "ask: search": "- search and answer",
}
_SOUNDS = [
    one + two for one in (*"bcdfghklmnprstvwz", "br", "dr", "fl", "gr", "kr", "pl", "st", "tr") for two in "aeiou"
]


def word(number: int) -> str:
    """Return an invented word, another for each number."""
    parts = [_SOUNDS[number % 125], _SOUNDS[number // 125 % 125]]
    return "".join([*parts, *([_SOUNDS[number // 15625 % 125]] if number >= 15625 else []), "nlrst"[number % 5]])


def section(draw: random.Random, number: int) -> str:
    """Return about sixty words that state figures of a thing that no other section is about."""

    def noun() -> str:  # few of them are frequent, as in any language
        return word(int(30_000 * draw.random() ** 4))

    thing, place, person = f"{noun()} {noun()}", noun().capitalize(), f"{noun().capitalize()} {noun().capitalize()}"
    said = [
        f"The {thing} of {place} weighs {draw.randrange(10, 9999)} kg when the {noun()} is empty.",
        f"{person} inspects the {noun()} {noun()} every {draw.randrange(2, 90)} weeks, after the {noun()} is closed.",
        f"The {noun()} beside the {thing} was opened on {draw.randrange(1, 28)} March {draw.randrange(1900, 2020)}.",
        f"A {noun()} for the {thing} costs {draw.randrange(20, 9000)} euros and bears the code {place[:2].upper()}-"
        f"{number:07d}.",
        f"Whoever moves the {noun()} to the {noun()} of {place} has to tell the {noun()} desk {draw.randrange(2, 60)} "
        "days before.",
        f"The {noun()} {noun()} holds {draw.randrange(5, 900)} litres of {noun()}, which the {noun()} brings from "
        f"{noun().capitalize()}.",
        f"In {place} the {noun()} rests for {draw.randrange(5, 600)} minutes while the {noun()} is cleaned with "
        f"{noun()}.",
    ]
    return " ".join(draw.sample(said, 4))


def write_corpus(folder: Path, chunks: int) -> None:
    """Write so many sections, twenty a document."""
    folder.mkdir(parents=True)
    for first in range(0, chunks, SECTIONS):
        draw = random.Random(first)
        parts = [
            f"## {word(draw.randrange(30_000)).capitalize()} {number}\n\n{section(draw, number)}"
            for number in range(first, first + SECTIONS)
        ]
        title = f"# {word(draw.randrange(30_000)).capitalize()} {first}"
        (folder / f"d{first:07}.md").write_text("\n\n".join([title, *parts]) + "\n", encoding="utf-8")


class Given:
    """An embedder whose vectors are there already: a text's is the sum of those of its words."""

    identity, max_tokens, seconds = "given-384", 256, 0.0

    def __init__(self) -> None:
        from raft.testing import WordTokenizer  # noqa: PLC0415

        self.tokenizer = WordTokenizer()
        self._drawn = np.random.default_rng(0).standard_normal((1 << 15, DIMENSIONS), dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), 384) whose rows have length 1."""
        begun = time.thread_time()
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            places = [zlib.crc32(one.encode()) & 0x7FFF for one in text.lower().split()]
            vectors[row] = self._drawn[places or [0]].sum(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        Given.seconds += time.thread_time() - begun
        return vectors


class Instant:
    """A model that says at once that it does not know."""

    window = batch = 64
    identity = "instant"

    def __init__(self, name: str) -> None:
        self.name = name

    def answer(self, calls: Sequence[Any], wanted: Sequence[bool]) -> Iterator[Any]:
        """Answer the wanted calls."""
        from raft.backends.asking import Reply  # noqa: PLC0415

        said = Reply("I do not know.", "stop", 1, 1, 0.0, 0.0)
        yield [(place, said) for place, is_wanted in enumerate(wanted) if is_wanted]


def stand_in() -> None:
    """Put the embedder and the model in the place of those that cost time."""
    from raft.api import models  # noqa: PLC0415
    from raft.testing import WordTokenizer  # noqa: PLC0415

    parts: Any = models
    parts.open_embedder = lambda name, *_, **__: Given()
    parts.LocalModel = lambda name, **_: Instant(name)
    parts.hub.tokenizer = lambda name: WordTokenizer()


def processor() -> float:
    """Return the seconds that this process and its children have had of a processor."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class Clock:
    """Seconds by name, of a processor and of the clock on the wall."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Do some work, and count what it takes under a name."""
        begun, wall = processor() - Given.seconds, time.perf_counter()
        done = work(*given, **named)
        took = [processor() - Given.seconds - begun, time.perf_counter() - wall]
        self.seconds[name] = [one + more for one, more in zip(self.seconds.get(name, [0.0, 0.0]), took, strict=True)]
        return done

    def watch(self, home: Any, name: str, title: str) -> None:
        """Count what a function of a module takes."""
        setattr(home, name, partial(self.timed, title, getattr(home, name)))


def step(name: str, home: Path) -> dict[str, Any]:
    """Do one step in this process; return its seconds, those of its parts, and how many rows there are."""
    from raft import settings  # noqa: PLC0415
    from raft.api import models  # noqa: PLC0415
    from raft.corpus.documents import find_sources  # noqa: PLC0415
    from raft.curation import clean  # noqa: PLC0415
    from raft.examples import examples  # noqa: PLC0415
    from raft.pipeline import asking, build, read  # noqa: PLC0415
    from raft.store.ledger import Ledger  # noqa: PLC0415
    from raft.store.run import Run  # noqa: PLC0415

    stand_in()
    clock, folder = Clock(), home / "run"
    chosen = settings.named(None, {"corpus": [str(home / "corpus")], **SETTINGS})
    clock.watch(clean, "judged", "clean: rules")
    clock.watch(clean, "round_trip", "clean: search")
    clock.watch(clean, "drop_duplicates", "clean: duplicates")
    clock.watch(build.split, "split", "clean: split")
    clock.watch(build.split, "check_leaks", "clean: leak check")
    clock.watch(build, "coverage", "clean: tell")
    clock.watch(build, "likeness", "clean: tell")
    clock.watch(examples, "search_all", "examples: search")
    run = Run(folder)
    with run.writing(), closing(Ledger(folder / "ledger.sqlite")) as ledger:
        run.describe(collection="scale", settings=chosen.model_dump(mode="json"))
        parts = models.open_components(folder, chosen, ledger, "scale", lambda event, facts: None)
        asked: dict[str, Callable[[], Any]] = {
            "read": lambda: read.read_documents(run, chosen, find_sources(chosen.corpus)[0]),
            "cut": lambda: build.cut_chunks(run, chosen, parts.embedder),
            "survey": lambda: asking.survey_chunks(run, chosen, strategy="rules", aside=frozenset()),
            "index": lambda: build.fill_indexes(run, settings.changed(chosen, {"index.hybrid": False}), parts),
            "words": lambda: build.fill_indexes(run, chosen, parts),
            "plan": lambda: asking.ask_questions(
                run, chosen, parts.generator, strategy="rules", on_event=lambda event, facts: None, checks=None
            ),
            "clean": lambda: build.clean_and_split(run, chosen, parts, None),
            "examples": lambda: build.write_examples(run, chosen, parts),
        }
        clock.watch(parts.indexes, "build_lexical", "words")
        clock.timed("whole" if name == "words" else name, asked[name])  # without a look at the other index
        made = [one for line in run.manifest["steps"].values() for one in line["artifacts"].items()]
    return {"seconds": clock.seconds, "rows": {table: one["rows"] for table, one in made if "rows" in one}}


def nothing(home: Path) -> dict[str, Any]:
    """Build when all is built."""
    from raft import api  # noqa: PLC0415

    stand_in()
    made: list[str] = []

    def tell(event: str, facts: Mapping[str, Any]) -> None:
        made.extend([facts["step"]] if event == "made" else [])

    api.build(home / "corpus", out=home / "run", settings=dict(SETTINGS), on_event=tell)
    assert not made, made
    return {"seconds": {}}


def ask(home: Path) -> dict[str, Any]:
    """Answer a question."""
    from raft import api  # noqa: PLC0415

    stand_in()
    clock = Clock()
    clock.seconds["ask: imports"] = [processor(), time.time() - float(os.environ["SCALE_BEGUN"])]
    answerer = api.load(home / "run").answerer()
    clock.timed("ask: open", answerer._loaded.open)
    said = clock.timed("ask: search", answerer.ask, "How much does the babun weigh?")
    assert said.passages
    return {"seconds": clock.seconds}


def measure(name: str, home: Path) -> dict[str, Any]:
    """Do a step in a process of its own; return seconds of its parts, rows, and megabytes at the most."""
    command = [sys.executable, __file__, "--step", name, "--home", str(home)]
    told = {**os.environ, "PYTHONPYCACHEPREFIX": str(home.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    for _ in range(2 if name in ("nothing", "ask") else 1):  # modules are compiled where raft is installed
        now = {**told, "SCALE_BEGUN": str(time.time())}
        reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=now)
    return dict(json.loads(reply.stdout.splitlines()[-1]))


def measured(name: str, home: Path) -> dict[str, Any]:
    """Do a step in this process; return what `measure` does."""
    found = {"nothing": nothing, "ask": ask}.get(name, partial(step, name))(home)
    used = [processor() - Given.seconds, time.time() - float(os.environ["SCALE_BEGUN"])]
    found["seconds"] = {name: used, **found["seconds"]}
    memory = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
    return {**found, "megabytes": int(memory) / 1024}


def growth(less: float, more: float, ratio: float) -> str:
    """Return the exponent by which a cost grows; nothing where it is too small to tell."""
    return f"{log10(more / less) / log10(ratio):.2f}" if min(less, more) >= LEAST else ""


def table(found: Mapping[int, Mapping[str, Any]]) -> str:
    """Return a row a step, with its cost at each size and its growth between them, as Markdown."""
    sizes = sorted(found)
    heads = [head for size in sizes for head in (f"{size:,}: processor", "wall", "memory")]
    pairs = list(pairwise(sizes))
    lines = [
        f"| step | {' | '.join([*heads, *['growth'] * len(pairs)])} |",
        f"| --- |{' ---: |' * (len(heads) + len(pairs))}",
    ]
    for name, title in TITLES.items():
        cells = []
        for size in sizes:
            one = found[size].get(name.partition(":")[0], {})
            used = one.get("seconds", {}).get(name)
            memory = f"{one['megabytes']:,.0f} MB" if used and ":" not in name else ""
            cells += [*(f"{seconds:,.1f} s" for seconds in used or ()), *([] if used else ["", ""]), memory]
        for less, more in pairs:
            both = [found[size].get(name.partition(":")[0], {}).get("seconds", {}).get(name) for size in (less, more)]
            cells.append(growth(both[0][0], both[1][0], more / less) if all(both) else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Mapping[str, tuple[int, Mapping[str, Any]]]) -> str:
    """Return processor seconds a thousand chunks, a step, as SVG; `found` has sizes in chunks and figures by name."""
    values = {
        name: [1000 * one[name]["seconds"][name][0] / size if name in one else None for size, one in found.values()]
        for name in STEPS
    }
    low, high = log10(0.03), log10(max(filter(None, chain(*values.values())), default=1)) + 0.2
    left, wide, tall = 300, 420, 26
    scale = wide / (high - low)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 40}" height="{tall * len(STEPS) + 66}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        "<title>Processor seconds a thousand chunks</title>"
    ]
    bottom = 16 + tall * len(STEPS)
    for power in range(-1, int(high) + 1):
        x = left + scale * (power - low)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle" fill="#777">{10.0**power:g}</text>')
    colours = ("#56b4e9", "#0072b2", "#d55e00")
    for place, (name, seconds) in enumerate(values.items()):
        y = 20 + tall * place
        parts.append(f'<text x="8" y="{y + 4}" fill="#333">{TITLES[name].replace("`", "")}</text>')
        spots = [
            (left + scale * (log10(max(one, 0.03)) - low), colour)
            for one, colour in zip(seconds, colours, strict=False)
            if one
        ]
        if spots:
            parts.append(f'<line x1="{spots[0][0]:.1f}" x2="{spots[-1][0]:.1f}" y1="{y}" y2="{y}" stroke="#aaa"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"/>' for x, colour in spots]
    legend = "".join(
        f'<circle cx="{left + 130 * place + 6}" cy="{bottom + 33}" r="5" fill="{colour}"/>'
        f'<text x="{left + 130 * place + 16}" y="{bottom + 37}" fill="#333">{name}</text>'
        for place, (name, colour) in enumerate(zip(found, colours, strict=False))
    )
    told = f'<text x="8" y="{bottom + 37}" fill="#333">processor seconds a thousand chunks, of</text>'
    return "\n".join([*parts, legend, told, "</svg>"]) + "\n"


def main() -> None:
    """Measure, print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="10000,100000", help="how many, or several numbers with commas")
    parser.add_argument("--home", type=Path, default=Path("runs/scale"), help="what was measured there is kept")
    parser.add_argument("--only", help=f"these of {', '.join(STEPS)}; '': none  [default: what is not measured yet]")
    parser.add_argument("--write", metavar="NAME", help="of a table and a plot in results/")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(measured(chosen.step, chosen.home)))
        return
    found: dict[int, dict[str, Any]] = {}
    for size in map(int, chosen.chunks.split(",")):
        home = chosen.home / f"{size}"
        kept = home / "measured.json"
        if not home.is_dir():
            write_corpus(home / "corpus", size)
        found[size] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        new = [name for name in STEPS if name not in found[size]]
        for name in new if chosen.only is None else filter(None, chosen.only.split(",")):
            print(f"{size:,}: {TITLES[name]}", file=sys.stderr, flush=True)
            found[size][name] = measure(name, home)
            kept.write_text(json.dumps(found[size], indent=1), encoding="utf-8")
            print(json.dumps(found[size][name]), file=sys.stderr, flush=True)
    print(table(found))
    if chosen.write:
        stem = f"{datetime.now(UTC):%Y-%m-%d}-{chosen.write}"
        command = " ".join(["python", *sys.argv])
        text = f"# What steps cost by the number of chunks\n\n    {command}\n\n![plot]({stem}.svg)\n\n{table(found)}\n"
        (RESULTS / f"{stem}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"{stem}.svg").write_text(
            plot({f"{size:,} chunks": (size, found[size]) for size in sorted(found)}), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
