"""Which questions are asked of which chunks: an even budget for what a survey found.

The chunks are read twice: once to survey them (`surveying.py`), once to ask. Between the two only counts, digests and
the partners of comparisons are held.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from raft.asks import Ask, answer_first_ask, comparison_ask, section, unanswerable_ask
from raft.items import items_ask
from raft.kinds import KINDS
from raft.prompts import Prompt
from raft.surveying import COMPARED, Chunk, Survey, digest, documents, is_notice
from raft.targets import Opening, Target, targets

_SPECIAL_SHARE = 0.1
"""Share of a document's budget for comparisons, and as much for unanswerable questions, where they are on."""


@dataclass(frozen=True)
class Prompts:
    """The prompts that questions are asked with, by the way and kind they serve."""

    answer_first: Prompt
    items: Prompt
    comparison: Prompt
    unanswerable: Prompt
    span: Prompt
    decision: Prompt
    openings: tuple[Opening, ...]


def budgets(sizes: Mapping[str, int], chunks: int, *, per_chunk: float, limit: int | None) -> dict[str, int]:
    """Return how many questions each document gets: in proportion to its size, largest remainders first.

    Args:
        sizes: doc_id to tokens of content.
        chunks: how many chunks all documents have together.
        per_chunk: questions a chunk, on average.
        limit: the most questions in all, or None.
    """
    total = sum(sizes.values())
    wanted = max(1, round(per_chunk * chunks)) if chunks else 0
    wanted = min(wanted, limit) if limit is not None else wanted
    if not total:
        return dict.fromkeys(sizes, 0)
    exact = {doc: wanted * size / total for doc, size in sizes.items()}
    given = {doc: math.floor(share) for doc, share in exact.items()}
    rest = sorted(exact, key=lambda doc: (given[doc] - exact[doc], digest(doc)))
    for doc in rest[: wanted - sum(given.values())]:
        given[doc] += 1
    return given


def plan_facts(
    frames: Iterable[pl.DataFrame], known: Survey, given: Mapping[str, int], prompts: Prompts, kinds: Sequence[str]
) -> Iterator[Ask]:
    """Yield what to ask a small model: one question for each chosen fact."""
    shares = _Shares(kinds)
    for doc, rows in documents(frames):
        left = given.get(doc, 0)
        left -= yield from _comparisons(rows, known, prompts, shares, left)
        left -= yield from _unanswerable(rows, known, prompts, shares, left)
        options = [(row, _own(targets(row["text"], prompts.openings, kinds), known)) for row in rows]
        for row, target in spread_out(options, left):
            named = target.pattern in known.alike
            yield answer_first_ask(prompts.answer_first, row, target, section(row), name_document=named)


def plan_items(
    frames: Iterable[pl.DataFrame], known: Survey, given: Mapping[str, int], prompts: Prompts, kinds: Sequence[str]
) -> Iterator[Ask]:
    """Yield what to ask a capable model: several questions with answers and quotes, a chunk."""
    single = [kind for kind in kinds if KINDS[kind].meaning]
    shares = _Shares(kinds)
    for doc, rows in documents(frames):
        left = given.get(doc, 0)
        left -= yield from _comparisons(rows, known, prompts, shares, left)
        weights = {str(position): row["tokens"] for position, row in enumerate(rows)}
        parts = budgets(weights, len(rows), per_chunk=left / len(rows), limit=None) if left and single else {}
        for position, row in enumerate(rows):
            if parts.get(str(position)):
                yield items_ask(prompts.items, row, parts[str(position)], single)


def spread_out(options: Sequence[tuple[Chunk, list[Target]]], count: int) -> Iterator[tuple[Chunk, Target]]:
    """Yield `count` targets: the best of each chunk first, then the second of each; what is left over evenly spaced."""
    chosen: list[tuple[int, int]] = []
    for depth in range(max((len(found) for _, found in options), default=0)):
        deep = [position for position, (_, found) in enumerate(options) if depth < len(found)]
        room = min(count - len(chosen), len(deep))
        chosen += [(deep[step * len(deep) // room], depth) for step in range(room)]
    for position, depth in sorted(chosen):
        yield options[position][0], options[position][1][depth]


class _Shares:
    """Grants comparisons and unanswerable questions their share of the budget; fractions are carried on."""

    def __init__(self, kinds: Sequence[str]) -> None:
        special = [kind for kind, its in KINDS.items() if its.special and kind in kinds]
        self._part = _SPECIAL_SHARE if len(special) < len(kinds) else 1 / max(1, len(special))
        self._carried = dict.fromkeys(special, 1.0 - self._part)

    def take(self, kind: str, budget: int, available: int) -> int:
        """Return how many of a document's `budget` are of this kind, where `available` can be had."""
        if kind not in self._carried:
            return 0
        self._carried[kind] += self._part * budget
        taken = min(budget, available, math.floor(self._carried[kind] + 1e-9))
        self._carried[kind] -= taken
        return taken


def _comparisons(
    rows: Sequence[Chunk], known: Survey, prompts: Prompts, shares: _Shares, budget: int
) -> Generator[Ask, None, int]:
    options = []
    for row in (row for row in rows if row["chunk_id"] in known.paired):
        found = _own(targets(row["text"], prompts.openings, COMPARED), known)
        options.append((row, [t for t in found if (row["chunk_id"], t.start, t.answer) in known.pairs]))
    count = shares.take("comparison", budget, sum(len(found) for _, found in options))
    for row, target in spread_out(options, count):
        partner = known.pairs[row["chunk_id"], target.start, target.answer]
        yield comparison_ask(prompts.comparison, row, target, *partner)
    return count


def _unanswerable(
    rows: Sequence[Chunk], known: Survey, prompts: Prompts, shares: _Shares, budget: int
) -> Generator[Ask, None, int]:
    options = []
    for row in rows if known.vocabulary else []:
        options.append((row, _own(targets(row["text"], prompts.openings, COMPARED), known)))
    count = shares.take("unanswerable", budget, sum(len(found) for _, found in options))
    for row, target in spread_out(options, count):
        yield unanswerable_ask(prompts.unanswerable, row, target, known.vocabulary)
    return count


def _own(found: Sequence[Target], known: Survey) -> list[Target]:
    return [target for target in found if not is_notice(target.statement, known)]
