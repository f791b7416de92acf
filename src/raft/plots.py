"""Plots as SVG strings that fit any width: no library, no script, and a text for those who cannot see them.

Positions are percentages and sizes are pixels, without a view box, so that letters keep their size on a telephone.
Colours are left to the page: `.contender`, `.baseline`, `.other`, `.train` and `.valid` (see `pages/page.css`), and
shapes differ too, for readers who do not see the colours and for paper.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raft.pages import render

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
