"""Asking in rounds until a wanted number of questions is kept: how many of which documents next, and of what there.

The first round is the plan of any build. Each round after it asks for facts that no round asked for, most of the
documents with the fewest kept questions, and as many as the last round's yield says. What a round asks rests on what
was kept before it and on nothing else, so that all rounds come again from the ledger, one after the other.
"""

import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby

import polars as pl

from raft.generation.facts import digest
from raft.generation.items import items_ask
from raft.generation.plan import Prompts, Shares, Survey, askable, budgets, documents
from raft.generation.tasks import Row, Task
from raft.kinds import KINDS

VERSION = 2
"""Raised when other rounds are asked."""
MORE, MOST, ROUNDS, BARREN = 1.25, 4, 8, 2
"""Questions that the first round asks for each wanted one, and most in all; most rounds, and most in a row that keep
nothing new."""
_LEAST_YIELD = 0.1
AGAIN = 3
"""Most questions that a chunk is asked for in a later round, where a model writes items."""
NAMED = 10
"""Most of a chunk's earlier questions that a later round names, the newest of them: an estimate counts so many."""


@dataclass
class Asked:
    """What was asked so far.

    Attributes:
        names: of the tasks.
        count: questions that were asked for; `chunks` counts them by chunk_id.
        homes: by question_id the chunk that it came from.
        questions: by chunk_id those that came.
        last: chunks that the last round asked.
        closed: chunks that brought nothing that is kept when they were last asked.
    """

    names: set[str] = field(default_factory=set)
    count: int = 0
    chunks: Counter[str] = field(default_factory=Counter)
    homes: dict[str, str] = field(default_factory=dict)
    questions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    last: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    def noting(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Yield a round's tasks, and take note of each."""
        self.last = set()
        for task in tasks:
            self.names.add(name_of(task))
            self.count += task.count
            self.chunks[task.item_id] += task.count
            self.last.add(task.item_id)
            yield task

    def came(self, chunk_id: str, rows: Iterable[Row]) -> None:
        """Take note of the questions that a task about a chunk brought."""
        for row in rows:
            self.homes[row["question_id"]] = chunk_id
            self.questions[chunk_id].append(row["question"])

    def close(self, gained: Set[str]) -> None:
        """Close the chunks of the last round from which none of the questions came that it `gained`, by their ids."""
        self.closed |= self.last - {self.homes[one] for one in gained if one in self.homes}


def name_of(task: Task) -> str:
    """Return what tells a task from all others: what is asked, or the question that a rule has made."""
    said = [turn["content"] for turn in task.request.messages] if task.request else [task.read("")[0]["question"]]
    return hashlib.sha256("\n".join([task.item_id, *said]).encode("utf-8", "surrogatepass")).hexdigest()


def first_limit(keep: int, limit: int | None, *, pairs: int = 0) -> int:
    """Return how many questions the first round asks at most, of a build that wants `keep` and has so many `pairs`."""
    first = math.ceil(MORE * max(0, keep - pairs))
    return first if limit is None else min(first, limit)


def most_of(keep: int, limit: int | None) -> int:
    """Return how many questions all rounds together ask at most."""
    return MOST * keep if limit is None else min(MOST * keep, limit)


def shared_out(kept: Mapping[str, int], room: Mapping[str, int], wanted: int, most: int, rate: float) -> dict[str, int]:
    """Return how many questions each document is asked for, so that about `wanted` more are kept, as evenly as may be.

    One after the other they go to the document that has the fewest `kept`, those counted that its new ones bring at
    this `rate` of kept to asked (0 to 1); at most `room` of each, and `most` in all. A tenth more is asked than that.
    """
    rate = max(_LEAST_YIELD, min(1.0, rate))
    given: Counter[str] = Counter()
    heap = [(float(kept.get(doc, 0)), digest(doc), doc) for doc, free in room.items() if free > 0]
    heapq.heapify(heap)
    for _ in range(min(most, math.ceil(1.1 * wanted / rate))):
        if not heap:
            break
        level, tie, doc = heapq.heappop(heap)
        given[doc] += 1
        if given[doc] < room[doc]:
            heapq.heappush(heap, (level + rate, tie, doc))
    return dict(given)


def room_of(tasks: Iterable[Task], asked: Asked) -> dict[str, int]:
    """Return how many of all tasks that there are nobody has asked yet, by document."""
    return dict(Counter(task.doc_ids[-1] for task in tasks if name_of(task) not in asked.names))


def left_of(tasks: Iterable[Task], asked: Asked, given: Mapping[str, int], kinds: Sequence[str]) -> Iterator[Task]:
    """Yield those of all tasks that a round asks, so many `given` of a document, in their order.

    First come those without a model, then those of chunks that were asked for least; kinds that are asked of few chunks
    have their share.
    """
    shares = Shares(kinds)
    for doc, group in groupby(tasks, key=lambda task: task.doc_ids[-1]):
        if not (left := given.get(doc, 0)):
            continue
        new = [task for task in group if name_of(task) not in asked.names]
        special: defaultdict[str, list[int]] = defaultdict(list)
        plain: list[int] = []
        for place, task in enumerate(new):
            named = task.prompt.name if task.prompt else ""
            (special[named] if named in KINDS and KINDS[named].special else plain).append(place)
        chosen = [one for kind in special for one in special[kind][: shares.take(kind, left, len(special[kind]))]]
        levels: defaultdict[tuple[bool, int], list[int]] = defaultdict(list)
        depth = Counter(asked.chunks)
        for place in plain:
            levels[new[place].request is not None, depth[new[place].item_id]].append(place)
            depth[new[place].item_id] += 1
        for _, level in sorted(levels.items()):
            count = min(left - len(chosen), len(level))
            chosen += [level[step * len(level) // count] for step in range(count)]
        yield from (new[place] for place in sorted(chosen))


def open_chunks(frames: Iterable[pl.DataFrame], known: Survey, asked: Asked, kinds: Sequence[str]) -> dict[str, int]:
    """Return how many more items each document may be asked for in a round."""
    return {
        doc: AGAIN * sum(row["chunk_id"] not in asked.closed for row in rows)
        for doc, rows in documents(frames)
        if _single(known, doc, kinds)
    }


def more_items(
    frames: Iterable[pl.DataFrame],
    known: Survey,
    asked: Asked,
    given: Mapping[str, int],
    *,
    prompts: Prompts,
    kinds: Sequence[str],
) -> Iterator[Task]:
    """Yield what to ask a capable model in a later round: items other than those that came of the chunk before.

    Chunks that brought nothing that is kept are not asked again; comparisons are of the first round alone.
    """
    for doc, rows in documents(frames):
        free = [row for row in rows if row["chunk_id"] not in asked.closed]
        if not given.get(doc) or not free:
            continue
        sizes = {row["chunk_id"]: row["tokens"] for row in free}
        parts = budgets(sizes, len(free), per_chunk=given[doc] / len(free), limit=None)
        for row in free:
            if count := min(AGAIN, parts[row["chunk_id"]]):
                yield items_ask(
                    prompts.items,
                    row,
                    count,
                    _single(known, doc, kinds),
                    language=known.language(doc),
                    wording=prompts.language,
                    like=prompts.like,
                    others=prompts.others,
                    had=asked.questions.get(row["chunk_id"], [])[-NAMED:],
                )


def _single(known: Survey, doc: str, kinds: Sequence[str]) -> list[str]:
    return [kind for kind in askable("items", kinds, known.language(doc)) if KINDS[kind].meaning]


def ended(asked: int, barren: int, rounds: int, *, keep: int, limit: int | None) -> str | None:
    """Return why no further round is asked although fewer than wanted are kept; None: one is."""
    if asked >= most_of(keep, limit):
        return "limit" if limit is not None and limit <= MOST * keep else "most"
    return "barren" if barren >= BARREN else "rounds" if rounds >= ROUNDS else None
