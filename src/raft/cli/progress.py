"""Progress for a person: a live line in a terminal or a notebook, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from raft.cli import messages
from raft.pipeline.estimate import DOING, count, long
from raft.text import printable, shortened
from raft.training.tune import FEW_ROWS

_EVERY_SECONDS = 30.0
_WORDS = 300
"""Letters that are shown of why an endpoint was left out."""
_NAMED = 3
"""Most files that are named of those that have changed."""
_DOING = {
    **DOING,
    "documents": "reading documents",
    "privacy": "looking for personal data",
    "chunks": "cutting chunks",
    "survey": "surveying the chunks",
    "lexical": "indexing words",
    "cleaned": "cleaning and splitting",
    "examples": "building examples",
    "refusal": "learning when to refuse",
    "retriever": "tuning the retriever",
}

_WORKED = ("index", "questions", "reworded", "cleaned", "refusal", "retriever")
"""Steps of models, which may be silent for minutes: that they began is said in plain lines too."""


class Progress:
    """A listener for `raft.build`, `raft.train` and `raft.bench` that writes to standard error, or is `silent`.

    A context manager, as in `with raft.Progress() as progress: raft.build("docs/", on_event=progress)`.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._live: Any = None
        self._planned = self._answered = self._replayed = self._embedded = self._chunks = 0
        self._left_out: set[str] = set()
        self._endpoints: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._calls: dict[str, int] = {}
        self._begun = self._told = time.monotonic()
        self._step = ""
        self._first: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        if not self._silent and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from rich.console import Console  # noqa: PLC0415  not needed where there is no terminal

            self._live = Console(stderr=sys.stderr.isatty()).status("starting")
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        for model, endpoints in self._endpoints.items():
            self._say(_endpoints(model, endpoints))
        self._endpoints.clear()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take note of an event."""
        self._endpoints.update({facts["model"]: facts["endpoints"]} if "endpoints" in facts else {})
        if event == "begins":
            self._step, self._begun = facts["step"], time.monotonic()
            self._answered = self._replayed = self._embedded = 0
            self._say(f"{_doing(self._step)} …", lasting=self._live is None and self._step in _WORKED)
        elif event in ("made", "reused"):
            self._chunks = (
                facts.get("line", {}).get("artifacts", {}).get("chunks.parquet", {}).get("rows", self._chunks)
            )
            told = "unchanged" if event == "reused" else _made(facts["line"]) + self._anew()
            self._say(f"{facts['step']:<10} {told}")
        elif event in _TOLD:
            self._say(_TOLD[event](facts))
        elif event == "embedded":
            self._embedded += facts["new"]
            self._say(self._embedding(), lasting=False)
        elif event in ("planned", "left out"):
            self._planned = facts.get("questions", self._planned)
            self._leave_out(facts)
        elif event == "estimated":
            self._calls = {part["purpose"]: part["calls"] for part in facts["parts"]}
            self._say(f"{'estimate':<10} {messages.estimated(facts)}")
            self._leave_out(facts)
        elif event == "asked":
            self._answered += facts["new"]
            self._replayed += facts["replayed"]
            self._say(self._rate() if "in_flight" not in facts else self._calls_in_flight(facts), lasting=False)
        elif event in ("waiting", "refusing", "stopping"):
            self._say(_held_up(facts))
        elif event == "batch":
            self._say(_batch(facts), lasting=False)
        elif event == "asking":
            self._asking(facts)
        elif event == "rows":
            self._rows(facts)
        elif event in ("training", "refusal"):
            told = self._training(facts) if event == "training" else f"{event:<10} {messages.promised(facts)}"
            self._say(told, lasting=event == "refusal" or "valid_loss" in facts)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[], None]]:
        """Show in a terminal what is waited for, until it is there, or what is given is called."""
        with self:
            if self._live is not None:
                self._live.update(printable(text))
            yield self.__exit__

    def held_up(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take note of an event if it says what is being waited for."""
        if event in ("waiting", "refusing", "stopping"):
            self(event, facts)

    def _leave_out(self, facts: Mapping[str, Any]) -> None:
        for line in facts.get("left_out", ()):
            if line not in self._left_out:
                self._say(f"{'left out':<10} {line}")
        self._left_out.update(facts.get("left_out", ()))

    def _rate(self) -> str:
        planned = f" for {self._planned:,} questions" if self._step in ("questions", "asking") and self._planned else ""
        replayed = f", {self._replayed:,} from the ledger" if self._replayed else ""
        rate = self._pace(self._answered, self._planned - self._replayed if planned else 0)
        return f"{_doing(self._step)}: {self._answered:,} new replies{planned}{replayed}, {rate}"

    def _embedding(self) -> str:
        most = f" of at most {self._chunks:,} chunks" if self._step == "index" and self._chunks else " texts"
        rate = self._pace(self._embedded, self._chunks if self._step == "index" else 0)
        return f"{_doing(self._step)}: {self._embedded:,}{most} embedded, {rate}"

    def _pace(self, done: int, total: int) -> str:
        rate = done / max(1e-3, time.monotonic() - self._begun)
        left = f", {long((total - done) / rate)} left" if total > done > 0 else ""
        return f"{rate:.1f} a second{left}"

    def _anew(self) -> str:
        return f"; {self._answered:,} replies asked anew, {self._replayed:,} kept" if self._replayed else ""

    def _calls_in_flight(self, facts: Mapping[str, Any]) -> str:
        seconds = max(1e-3, time.monotonic() - self._begun)
        done, rate = self._answered + self._replayed, self._answered / seconds
        planned = max(self._calls.get(self._step, 0), done) if self._step in self._calls else 0
        parts = [
            f"{done:,} of {planned:,} calls" if planned else f"{done:,} calls",
            f"{self._replayed:,} from the ledger" if self._replayed else "",
            f"{facts['in_flight']:,} in flight",
            f"{rate:.1f} a second",
            f"{count(facts['input_tokens'] + facts['output_tokens'])} tokens",
            _money(facts),
            f"{long((planned - done) / rate)} left" if planned > done and self._answered else "",
            f"{facts['failures']:,} failed" if facts["failures"] else "",
        ]
        return f"{_doing(self._step)}: {', '.join(part for part in parts if part)}"

    def _asking(self, facts: Mapping[str, Any]) -> None:
        self._begun, self._answered, self._replayed, self._planned = time.monotonic(), 0, 0, facts["questions"]
        self._step = "asking"
        without = " without what bears the answer" if facts["condition"] == "withheld" else ""
        self._say(f"asking     {facts['arm']}: {facts['questions']:,} of {facts['set']}{without}")

    def _rows(self, facts: Mapping[str, Any]) -> None:
        self._first = None
        self._say(_rows(facts))
        if facts["rows"] < FEW_ROWS:
            self._say(f"{'few rows':<10} {_few(facts)}")

    def _training(self, facts: Mapping[str, Any]) -> str:
        step, steps, now = facts["step"], facts["steps"], time.monotonic()
        self._first = self._first or (now, step)
        begun, first = self._first
        text = f"step {step:,} of {steps:,} (epoch {facts['epoch']:.2f})"
        if "valid_loss" in facts:
            text += f", validation loss {facts['valid_loss']:.4f}"
        if "loss" in facts:
            text += f", loss {facts['loss']:.4f}"
        if "tokens_per_second" in facts:
            text += f", {facts['tokens_per_second']:,.0f} tokens a second"
        if step > first:  # the first step, which also warms up, has no beginning
            text += f", at most {long((now - begun) / (step - first) * (steps - step))} left"
        return text

    def _say(self, text: str, *, lasting: bool = True) -> None:
        if self._silent:
            return
        text = printable(text)
        if self._live is not None:
            self._live.update(text)
            if lasting:
                self._live.console.print(text, highlight=False, markup=False)
        elif lasting or time.monotonic() - self._told > _EVERY_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _changes(facts: Mapping[str, Any]) -> str:
    def named(names: Sequence[str]) -> str:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more

    return f"{'corpus':<10} " + ", ".join(f"{len(names):,} {state} ({named(names)})" for state, names in facts.items())


def _edited(facts: Mapping[str, Any]) -> str:
    files = " and ".join(facts["files"])
    return f"{'edited':<10} {files}, by hand: written anew now (changes that are to last are made in raft review)"


def _round(facts: Mapping[str, Any]) -> str:
    asked, kept = f"{facts['asked']:,} asked for so far", f"{facts['kept']:,} of {facts['wanted']:,} wanted are kept"
    return f"{'round':<10} {facts['round']}: {asked}, {kept}"


def _shards(facts: Mapping[str, Any]) -> str:
    ready = f", {facts['ready']:,} of them ready" if facts["ready"] < facts["shards"] else ""
    room = f", and there is room for {facts['room']:,} so far" if facts["room"] < facts["shards"] else ""
    return f"{'shards':<10} {facts['shards']:,} on {facts['nodes']:,} node{'s' * (facts['nodes'] > 1)}{ready}{room}"


def _lost(facts: Mapping[str, Any]) -> str:
    after = "given up" if facts["given_up"] else "started again"
    return f"{'lost':<10} shard {facts['shard']}, which is {after}: {facts['why'][:_WORDS]}"


_TOLD = {"changes": _changes, "edited": _edited, "round": _round, "shards": _shards, "shard lost": _lost}


def _money(facts: Mapping[str, Any]) -> str:
    if facts["cost"] is None:
        return "price unknown"
    spent = f"${facts['cost']:,.2f}"
    return f"{spent} of ${facts['cap']:,.2f}" if facts["cap"] is not None else spent


def _held_up(facts: Mapping[str, Any]) -> str:
    if "seconds" in facts:
        return f"{'waiting':<10} {facts['model']} asks to wait {facts['seconds']:,} s: {facts['words']}"
    if "where" in facts:
        return f"{'refused':<10} {facts['model']} by {facts['where']}, and others go on: {facts['words']}"
    again = "Ctrl-C again" if facts["interrupted"] else "Ctrl-C"
    return f"waiting for {facts['replies']:,} replies that are being paid for; {again} to drop them"


def _endpoints(model: str, endpoints: Sequence[Mapping[str, Any]]) -> str:
    """Return how many calls each endpoint answered, a line each, and why one was left out, on a line below."""
    lines, width = [f"{'endpoints':<10} {model}, calls answered:"], max(len(one["where"]) for one in endpoints)
    most = max(len(f"{one['answered']:,}") for one in endpoints)
    for one in endpoints:
        times = f"left out {one['left_out']:,} time{'s' * (one['left_out'] > 1)}" if one["left_out"] else ""
        why = "refuses all calls" if one["denied"] else times
        lines.append(f"{'':<10}   {one['where']:<{width}} {one['answered']:>{most},}{f'   {why}:' if why else ''}")
        lines += [f"{'':<10}     {shortened(one['words'], _WORDS)}"] if why else []
    return "\n".join(lines)


def _batch(facts: Mapping[str, Any]) -> str:
    failed = f", {facts['failed']:,} failed" if facts["failed"] else ""
    done = f"{facts['done']:,} of {facts['total']:,} answered{failed}"
    return f"batch {facts['id']}: {facts['status']}, {done}, {long(facts['seconds'])} old"


def _made(line: Mapping[str, Any]) -> str:
    rows = [f"{entry['rows']:,} {name.split('.')[0]}" for name, entry in line["artifacts"].items() if "rows" in entry]
    return f"{', '.join(rows) or 'ready'} in {line['seconds']:.1f} s"


def _doing(step: str) -> str:
    return "training" if step.startswith("adapter-") else _DOING.get(step, step)


def _rows(facts: Mapping[str, Any]) -> str:
    text = f"training on {facts['rows']:,} rows of {facts['tokens']:,} tokens in all"
    text += f" ({facts['shortened']:,} lost distractors to fit)" if facts["shortened"] else ""
    text += f" and {facts['rehearsal']:.0%} general ones" if facts["rehearsal"] else ""
    valid = (
        f"{facts['valid']:,} rows to validate with"
        if facts["valid"]
        else "no rows to validate with: the last state is kept"
    )
    return f"{text}, {facts['epochs']:g} epochs at most; {valid}"


def _few(facts: Mapping[str, Any]) -> str:
    rows, step = facts["rows"], facts["batch"]
    more = "more come from more documents, from pairs of your own (--qa) and, where the documents state more than was"
    more += " asked, from a build with more --questions-per-chunk (or a larger questions.keep)"
    if rows < step:
        return f"{rows:,} do not fill one step of {step:,} (training.batch): little is learned from so few; {more}"
    return f"{rows:,} are under {FEW_ROWS}, where tuning rarely beats plain RAG; {more}"
