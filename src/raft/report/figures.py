"""Figures as a person reads them: shares times 100, intervals, durations and money."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raft.report.page import render

NOT_MEASURED = "not measured"
UNKNOWN = "unknown"
TOO_FEW = "too few to tell"
FEW_GROUPS = 20
"""Under so many resampled documents a bootstrap interval is too narrow to be believed."""

DECISIONS: Mapping[str, tuple[str, str]] = {
    "ship": ("Ship the tuned model.", "It answers better than plain RAG, and the rules for shipping are met."),
    "investigate": ("Look closer before you decide.", "The figures do not settle it yet."),
    "keep plain RAG": ("Keep plain RAG.", "What tuning gains is not worth what it costs; the reasons say why."),
    "not tuned yet": ("Not tuned yet.", "These are the figures that a tuned model has to beat."),
}
"""Each verdict in plain words."""


def known(value: Any) -> bool:
    """Tell whether a number was measured: it is there, and finite."""
    return value is not None and math.isfinite(value)


def measured(interval: Mapping[str, Any] | None) -> bool:
    """Tell whether an interval (the JSON form of `raft.evaluation.metrics.Interval`) has a value."""
    return interval is not None and known(interval.get("value"))


def few(interval: Mapping[str, Any]) -> bool:
    """Tell whether an interval rests on too few documents."""
    return interval["groups"] < FEW_GROUPS or not (known(interval.get("low")) and known(interval.get("high")))


def share(value: float | None, *, signed: bool = False) -> str:
    """Return a share (0 to 1) or a difference of shares times 100 with one decimal."""
    if value is None or not known(value):
        return NOT_MEASURED
    digits = f"{abs(100 * value):.1f}"
    if digits == "0.0":
        return digits
    return ("−" if value < 0 else "+" if signed else "") + digits


def spread(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    """Return the bounds of an interval, or that there are too few documents to tell."""
    if few(interval):
        return TOO_FEW
    return f"{share(interval['low'], signed=signed)} to {share(interval['high'], signed=signed)}"


def full(interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return value and bounds in one line: "42.1 (36.0 to 48.2)"."""
    if interval is None or not measured(interval):
        return NOT_MEASURED
    return f"{share(interval['value'], signed=signed)} ({spread(interval, signed=signed)})"


def amount(value: float | None, *, digits: int = 1, unit: str = "") -> str:
    """Return a number with its unit, thousands separated."""
    return NOT_MEASURED if value is None or not known(value) else f"{value:,.{digits}f}{unit}"


def money(dollars: float | None) -> str:
    """Return US dollars, with as many decimals as a small amount needs; None: some price is not known."""
    if dollars is None or not known(dollars):
        return UNKNOWN
    return f"${dollars:,.2f}" if dollars == 0 or abs(dollars) >= 0.1 else f"${dollars:,.4f}"


def documents_shown(facts: Mapping[str, Any]) -> str:
    """Return how many documents were shown for a question, in words; `facts` is what `benchmark.json` holds."""
    fewer = facts.get("shortened") or 0
    where = f", fewer for {amount(fewer, digits=0)} questions: more do not fit into a model's context"
    return f"{facts['k']} documents a question{where if fewer else ''}"


def duration(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds, the two greatest of them."""
    if seconds is None or not known(seconds):
        return NOT_MEASURED
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def tick(mark: float) -> str:
    """Return the number at a mark of an axis, as short as it can be."""
    return f"{mark:g}".replace("-", "−")


_LONGEST = 40  # characters of a label that fit a telephone, or the space beside the dots


@dataclass(frozen=True)
class Dot:
    """A row of a dot-and-whisker plot.

    Attributes:
        label: what was measured.
        shown: the value as text, at the row's end.
        value: the value in the plot's unit; None draws no dot.
        low: the interval's lower bound; None draws no whisker.
        high: its upper bound.
        role: "contender", "baseline" or "other".
        few: whether too few documents were measured to tell; the dot is hollow then, and the whisker dashed.
    """

    label: str
    shown: str
    value: float | None
    low: float | None
    high: float | None
    role: str = "other"
    few: bool = False

    @property
    def short(self) -> str:
        """The label, cut where it is too long to be drawn."""
        return self.label if len(self.label) <= _LONGEST else self.label[: _LONGEST - 1] + "…"


def dots(
    rows: Sequence[Dot], *, title: str, reference: float | None = None, reference_label: str = "", beside: bool = False
) -> Markup:
    """Return a horizontal dot-and-whisker plot, one row a dot.

    Args:
        rows: from top to bottom.
        title: what the plot shows, for those who cannot see it; the figures should stand in a table too.
        reference: where the dashed vertical line stands; None: there is none.
        reference_label: what the line is.
        beside: whether labels stand beside the dots, for a plot of 800 pixels or more, or above them.
    """
    values = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    marks = ticks([*values, *([] if reference is None else [reference])])
    scale = _Scale(marks[0], marks[-1], *((33, 58) if beside else (3, 94)))
    row_height, label_at, dot_at = (28, 18, 14) if beside else (36, 12, 25)
    share = scale.share(reference or 0.0)
    top = 20 if reference_label else 4
    return render(
        "dots.svg",
        rows=rows,
        title=title,
        marks=marks,
        scale=scale,
        reference=reference,
        reference_label=reference_label,
        anchor="start" if share < 0.3 else "middle" if share < 0.7 else "end",
        row_height=row_height,
        label_at=label_at,
        dot_at=dot_at,
        top=top,
        end=top + len(rows) * row_height,
    )


def curve(
    train: Sequence[tuple[float, float]], valid: Sequence[tuple[float, float]], *, title: str, best: float | None = None
) -> Markup:
    """Return a loss curve: a line for training, a dashed line with dots for validation, over the steps.

    Args:
        train: (step, loss) in the order of the steps.
        valid: the same of the validation rows.
        title: what the plot shows, for those who cannot see it.
        best: the step whose weights were kept.
    """
    points = [point for point in (*train, *valid) if all(math.isfinite(number) for number in point)]
    steps, losses = ticks([step for step, _ in points]), ticks([loss for _, loss in points])
    across, up = _Scale(steps[0], steps[-1], 9, 88), _Scale(losses[0], losses[-1], 86, -80)
    return render(
        "curve.svg",
        title=title,
        steps=steps,
        losses=losses,
        across=across,
        up=up,
        best=best if best is not None and steps[0] <= best <= steps[-1] else None,
        lines={"train": _points(train, across, up), "valid": _points(valid, across, up)},
        dotted=[point for point in valid if point in points] + (list(train) if len(train) == 1 else []),
    )


def _points(series: Iterable[tuple[float, float]], across: "_Scale", up: "_Scale") -> str:
    return " ".join(
        f"{1000 * across.share(step):.1f},{1000 - 1000 * up.share(loss):.1f}"
        for step, loss in series
        if math.isfinite(step) and math.isfinite(loss)
    )


def ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """Return about `count` round numbers, evenly spaced, from under the least to above the greatest of `values`.

    Steps are 1, 2 or 5 times a power of ten (Heckbert, "Nice Numbers for Graph Labels", Graphics Gems, 1990).
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """From a value to a percentage: `low` stands at `begin` percent, `high` is `length` percent further."""

    low: float
    high: float
    begin: float
    length: float

    def share(self, value: float) -> float:
        """Return how far from low to high a value is, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def __call__(self, value: float) -> str:
        return f"{self.begin + self.length * self.share(value):.2f}%"
