"""How what Python returns shows itself: in one line at a prompt, as a small table in a notebook."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from raft.report import figures
from raft.report.measures import MEASURES
from raft.report.monitor import headline, sentences


class Shown(ABC):
    """What has a head of one line, and rows below it."""

    @abstractmethod
    def _head(self) -> str: ...

    @abstractmethod
    def _rows(self) -> Mapping[str, object]: ...

    def __repr__(self) -> str:
        return f"<{self._head()}>"

    def _repr_html_(self) -> str:
        row = Markup("<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>")
        rows = Markup("").join(row.format(name, value) for name, value in self._rows().items())
        return Markup("<table><caption>{}</caption>{}</table>").format(self._head(), rows)


class Verdict(Shown, dict[str, Any]):
    """The `verdict` of a benchmark: a dictionary, as in `benchmark.json`, that is shown in short."""

    def _head(self) -> str:
        gain = self.get("gain")
        said = f", {figures.full(gain, signed=True)} {MEASURES[self['measure']].title} points" if gain else ""
        return f"verdict: {self['decision']}{said}"

    def _rows(self) -> Mapping[str, object]:
        reasons = {f"reason {place}": reason for place, reason in enumerate(self["reasons"], 1)}
        return {"question set": self["question_set"], **reasons, "next": self.get("advice") or "nothing"}


class Benchmark(Shown, dict[str, Any]):
    """What `benchmark.json` holds: a dictionary that is shown in short."""

    def _head(self) -> str:
        return f"benchmark of {self['run']}, {self['date']}: {self['verdict']['decision']}"

    def _rows(self) -> Mapping[str, object]:
        name, measure = self["verdict"]["question_set"], self["verdict"]["measure"]
        scored = {one["title"]: (one["sets"].get(name) or {}).get(measure) for one in self["arms"]}
        return {
            f"{MEASURES[measure].title}, question set": name,
            **{k: figures.full(v) for k, v in scored.items() if v},
        }


class State(Shown, dict[str, Any]):
    """The state of a run: a dictionary that is shown in short."""

    def _head(self) -> str:
        money = figures.money(self["money"]["spent"])
        return f"state of {self['summary']['run']}: {len(self['adapters'])} adapters, {money} spent"

    def _rows(self) -> Mapping[str, object]:
        steps: dict[str, object] = {}
        for name, line in self["summary"]["steps"].items():
            rows = ", ".join(f"{count:,}" for count in list(line["rows"].values())[:1])
            stale = "made from what is gone" if line.get("stale") else ""
            steps[name] = " · ".join(filter(None, [rows and f"{rows} rows", f"finished {line.get('finished')}", stale]))
        return {**steps, **{f"adapter {one['adapter']}": f"{one['rows']:,} rows" for one in self["adapters"]}}


class Monitored(Shown, dict[str, Any]):
    """What `raft monitor` found: a dictionary that is shown in short."""

    def _head(self) -> str:
        return f"monitor of {self['run']}: {headline(self)}"

    def _rows(self) -> Mapping[str, object]:
        return {str(number): line for number, line in enumerate(sentences(self), 1)}
