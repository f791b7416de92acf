"""Plots as SVG strings that fit any width: no library, no script, and a text for those who cannot see them.

Positions are percentages and sizes are pixels, without a view box, so that letters keep their size on a telephone.
Colours are left to the page: `.contender`, `.baseline`, `.other`, `.train` and `.valid` (see `pages/page.css`), and
shapes differ too, for readers who do not see the colours and for paper.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raft.pages import Html, tag

_LONGEST = 40  # characters of a label that fit a telephone, or the space beside the dots
_SHAPES = {
    "contender": "M0-7 7 0 0 7-7 0z",
    "baseline": "M-5.5-5.5h11v11h-11z",
    "other": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "valid": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
}


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


def dots(
    rows: Sequence[Dot], *, title: str, reference: float | None, reference_label: str = "", beside: bool = False
) -> Html:
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
    top = 20 if reference_label else 4
    end = top + len(rows) * row_height
    parts = [tag("line", x1=scale(mark), x2=scale(mark), y1=top, y2=end, class_="grid") for mark in marks]
    ends = {"y": end + 16, "class_": "tick", "text_anchor": "middle"}
    parts += [tag("text", _number(mark), x=scale(mark), **ends) for mark in marks]
    if reference is not None:
        place, share = scale(reference), scale.share(reference)
        anchor = "start" if share < 0.3 else "middle" if share < 0.7 else "end"
        parts.append(tag("line", x1=place, x2=place, y1=top - 4, y2=end, class_="reference"))
        parts.append(tag("text", reference_label, x=place, y=11, class_="tick", text_anchor=anchor))
    for number, row in enumerate(rows):
        y = top + number * row_height
        parts.append(tag("g", *_labels(row, y + label_at), *_dot(row, scale, y + dot_at), class_=row.role))
    return _svg(parts, title=title, height=end + 22)


def _labels(row: Dot, y: int) -> Iterable[Html]:
    short = row.label if len(row.label) <= _LONGEST else row.label[: _LONGEST - 1] + "…"
    yield tag("title", f"{row.label}: {row.shown}")
    yield tag("text", short, x="0", y=y, class_="label")
    yield tag("text", row.shown, x="100%", y=y, class_="value", text_anchor="end")


def _dot(row: Dot, scale: "_Scale", y: int) -> Iterable[Html]:
    if row.low is not None and row.high is not None:
        ends = {"x1": scale(row.low), "x2": scale(row.high), "y1": y, "y2": y}
        yield tag("line", **ends, class_="whisker few" if row.few else "whisker")
    if row.value is not None:
        yield _mark(row.role, scale(row.value), y, few=row.few)


def _mark(role: str, x: str, y: float | str, *, few: bool = False) -> Html:
    # an inner picture takes a percentage as its place, which a path does not
    path = tag("path", d=_SHAPES[role], class_="mark few" if few else "mark")
    return tag("svg", path, x=x, y=y, width="1", height="1", overflow="visible")


def curve(
    train: Sequence[tuple[float, float]], valid: Sequence[tuple[float, float]], *, title: str, best: float | None = None
) -> Html:
    """Return a loss curve: a line for training, a dashed line with dots for validation, over the steps.

    Args:
        train: (step, loss) in the order of the steps.
        valid: the same of the validation rows.
        title: what the plot shows, for those who cannot see it.
        best: the step whose weights were kept.
    """
    points = [point for point in (*train, *valid) if all(math.isfinite(number) for number in point)]
    steps = ticks([step for step, _ in points])
    losses = ticks([loss for _, loss in points])
    across, up = _Scale(steps[0], steps[-1], 9, 88), _Scale(losses[0], losses[-1], 86, -80)
    parts = [tag("line", x1="9%", x2="97%", y1=up(mark), y2=up(mark), class_="grid") for mark in losses]
    beside = {"x": "8%", "dy": "4", "class_": "tick", "text_anchor": "end"}
    parts += [tag("text", _number(mark), y=up(mark), **beside) for mark in losses]
    parts += [
        tag("text", _number(mark), x=across(mark), y="94%", class_="tick", text_anchor="middle") for mark in steps
    ]
    if best is not None and steps[0] <= best <= steps[-1]:
        place, side = across(best), "end" if across.share(best) > 0.5 else "start"
        parts.append(tag("line", x1=place, x2=place, y1="6%", y2="86%", class_="reference"))
        label = tag("text", f"kept: step {best:g}", x=place, y="6%", dy="-2", class_="tick", text_anchor=side)
        parts.append(label)
    frame = {"x": "9%", "y": "6%", "width": "88%", "height": "80%", "viewBox": "0 0 1000 1000"}
    lines = [
        tag("polyline", points=_points(series, across, up), class_=name, vector_effect="non-scaling-stroke")
        for name, series in (("train", train), ("valid", valid))
    ]
    parts.append(tag("svg", *lines, **frame, preserveAspectRatio="none", overflow="visible"))
    shown = [point for point in valid if point in points] + ([point for point in train if len(train) == 1])
    parts += [tag("g", _mark("valid", across(step), up(loss)), class_="valid") for step, loss in shown]
    return _svg(parts, title=title, height=260)


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


def _number(mark: float) -> str:
    return f"{mark:g}".replace("-", "−")


def _svg(parts: Iterable[Html], *, title: str, height: int) -> Html:
    return tag("svg", *parts, role="img", aria_label=title, width="100%", height=height, class_="plot")
