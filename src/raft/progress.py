"""Progress for a person: a live line in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

_EVERY_SECONDS = 30.0
_DOING = {
    "documents": "reading documents",
    "chunks": "cutting chunks",
    "index": "embedding chunks",
    "lexical": "indexing words",
    "questions": "writing questions",
    "cleaned": "cleaning and splitting",
    "examples": "building examples",
}


class Progress:
    """A listener for `raft.build` that writes to standard error.

    Args:
        silent: write nothing.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._live: Any = None
        self._planned = self._answered = self._replayed = 0
        self._begun = self._told = time.monotonic()
        self._step = ""

    def __enter__(self) -> Self:
        if not self._silent and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  not needed where there is no terminal

            self._live = Console(stderr=True).status("starting")
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take note of an event of the build."""
        if event == "begins":
            self._step, self._begun = facts["step"], time.monotonic()
            self._answered = self._replayed = 0
            self._say(f"{_DOING.get(self._step, self._step)} …", lasting=False)
        elif event == "reused":
            self._say(f"{facts['step']:<10} unchanged")
        elif event == "made":
            self._say(f"{facts['step']:<10} {_made(facts['line'])}")
        elif event == "planned":
            self._planned = facts["questions"]
        elif event == "asked":
            self._answered += facts["new"]
            self._replayed += facts["replayed"]
            self._say(self._rate(), lasting=False)

    def _rate(self) -> str:
        seconds = max(1e-3, time.monotonic() - self._begun)
        planned = f" for {self._planned:,} questions" if self._step == "questions" and self._planned else ""
        replayed = f", {self._replayed:,} from the ledger" if self._replayed else ""
        doing = _DOING.get(self._step, self._step)
        return f"{doing}: {self._answered:,} new replies{planned}{replayed}, {self._answered / seconds:.1f} a second"

    def _say(self, text: str, *, lasting: bool = True) -> None:
        if self._silent:
            return
        if self._live is not None:
            self._live.update(text)
            if lasting:
                self._live.console.print(text, highlight=False, markup=False)
        elif lasting or time.monotonic() - self._told > _EVERY_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _made(line: Mapping[str, Any]) -> str:
    rows = [f"{entry['rows']:,} {name.split('.')[0]}" for name, entry in line["artifacts"].items() if "rows" in entry]
    return f"{', '.join(rows) or 'ready'} in {line['seconds']:.1f} s"
