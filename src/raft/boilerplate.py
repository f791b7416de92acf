"""Boilerplate: lines that stand in many documents of a corpus (menus, notices, footers), and chunks made of them."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import polars as pl

from raft.blocks import is_heading

_LINES_IN_MEMORY = 2_000_000
_BOILERPLATE_SHARE = 0.5


def repeated_lines(documents: Iterable[pl.DataFrame]) -> frozenset[int]:
    """Find the lines that stand in so many documents that they are furniture: menus, notices, footers.

    That is a fifth of the documents, and at least five, so that a few editions of one manual do not take each other
    for furniture; in a corpus of three or four documents it is all of them, and of fewer none.

    Memory is bounded: of more than two million different lines, the rarest are forgotten, and as much as they may
    have counted is taken off the bar.

    Args:
        documents: frames of `tables.DOCUMENTS`.

    Returns:
        64-bit digests of the lines, without case and outer whitespace, for `is_boilerplate`.
    """
    hashes, counts = np.empty(0, np.uint64), np.empty(0, np.uint32)
    pending: list[np.ndarray] = []
    total = waiting = forgotten = 0
    for frame in documents:
        for text in frame.filter(pl.col("error").is_null())["text"]:
            total += 1
            found = {_line_hash(line) for line in _telling_lines(text)}
            pending.append(np.fromiter(found, np.uint64, len(found)))
            waiting += len(found)
            if waiting > _LINES_IN_MEMORY:
                hashes, counts, lost = _merge(hashes, counts, pending)
                forgotten += lost
                pending, waiting = [], 0
    hashes, counts, lost = _merge(hashes, counts, pending)
    if total < 3:
        return frozenset()
    bar = max(3, max(min(total, 5), math.ceil(0.2 * total)) - forgotten)
    return frozenset(hashes[counts >= bar].tolist())


def is_boilerplate(text: str, repeated: Collection[int]) -> bool:
    """Return whether half or more of a text's characters, headings apart, stand in lines found by `repeated_lines`."""
    if not repeated:
        return False
    everything = furniture = 0
    for line in _telling_lines(text):
        everything += len(line)
        furniture += len(line) if _line_hash(line) in repeated else 0
    return everything > 0 and furniture >= _BOILERPLATE_SHARE * everything


def _telling_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text that say something: no headings, no rules, nothing without a letter or digit."""
    for raw in text.split("\n"):
        line = raw.strip().lower()
        if line and not is_heading(line) and any(map(str.isalnum, line)):
            yield line


def _line_hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big")


def _merge(hashes: np.ndarray, counts: np.ndarray, pending: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Add the lines of more documents to the counts; return them and how often a forgotten line may have been seen."""
    every = np.concatenate([hashes, *pending])
    weights = np.concatenate([counts, *(np.ones(len(part), np.uint32) for part in pending)])
    merged, where = np.unique(every, return_inverse=True)
    sums = np.bincount(where, weights=weights, minlength=len(merged)).astype(np.uint32)
    lost = 0
    while len(merged) > _LINES_IN_MEMORY:
        lost = int(sums.min())
        merged, sums = merged[sums > lost], sums[sums > lost]
    return merged, sums, lost
