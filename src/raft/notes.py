"""Facts about a step's result for the manifest and the summary, counted while frames pass by."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import polars as pl

from raft import tables

Notes = dict[str, Any]


def counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    """Return how often each value of a column occurs, most frequent first; null is not counted."""
    present = table.filter(pl.col(column).is_not_null())
    return dict(present.group_by(column).len().sort("len", column, descending=[True, False]).iter_rows())


def noting(frames: Iterable[pl.DataFrame], note: Callable[[pl.DataFrame], None]) -> Iterator[pl.DataFrame]:
    """Yield the frames, each after `note` has seen it."""
    for frame in frames:
        note(frame)
        yield frame


def documents(notes: Notes, frame: pl.DataFrame) -> None:
    """Count characters, and list what could not be read."""
    notes["characters"] = notes.get("characters", 0) + int(frame["characters"].sum() or 0)
    notes.setdefault("unreadable", []).extend(
        [row["path"], row["error"]] for row in frame.filter(pl.col("error").is_not_null()).iter_rows(named=True)
    )


def chunks(notes: Notes, frame: pl.DataFrame) -> None:
    """Count tokens and boilerplate."""
    notes["tokens"] = notes.get("tokens", 0) + int(frame["tokens"].sum() or 0)
    notes["boilerplate"] = notes.get("boilerplate", 0) + int(frame["boilerplate"].sum() or 0)


def questions(notes: Notes, frame: pl.DataFrame) -> None:
    """Count questions by kind."""
    kinds = notes.setdefault("kinds", {})
    for kind, count in sorted(Counter(frame["kind"].to_list()).items()):
        kinds[kind] = kinds.get(kind, 0) + count


def failures_frame(failures: list[dict[str, Any]], notes: Notes) -> Iterator[pl.DataFrame]:
    """Yield the failures as one frame, and count them by kind.

    It is lazy, and read after the questions: only then is the list complete.
    """
    notes["failures"] = {}
    for row in failures:
        notes["failures"][row["kind"]] = notes["failures"].get(row["kind"], 0) + 1
    yield tables.frame(tables.FAILURES, failures)
