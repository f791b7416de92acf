"""Questions in rounds, each of which is cleaned as the step after it will do: until as many are kept as are wanted."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from raft.generation import generate, rounds
from raft.generation.plan import Prompts, Survey
from raft.generation.rounds import Asked
from raft.generation.tasks import Task
from raft.generation.titles import Titles
from raft.kinds import KINDS
from raft.protocols import Generator, OnEvent
from raft.store import tables
from raft.store.run import Run


@dataclass(frozen=True)
class Checks:
    """How the questions of a round are told to be kept or not.

    Attributes:
        using: all that can change what is kept, but what people decided: they reject no row to have another one paid.
        inputs: the artifacts that are read for it.
        apply: returns questions, and pairs of the user's own that there are, as `tables.CLEANED`.
    """

    using: Mapping[str, Any]
    inputs: Sequence[str]
    apply: Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Source:
    """What can be asked of a run's documents: chunks, their survey, prompts, strategy and kinds."""

    run: Run
    known: Survey
    used: Prompts
    strategy: str
    kinds: Sequence[str]

    @property
    def writes_items(self) -> bool:
        """Tell whether a model is asked for items, which have no end."""
        return self.strategy == "items" and any(KINDS[kind].meaning for kind in self.kinds)

    def first(self, per_chunk: float, limit: int | None) -> generate.Plan:
        """Return the plan of the first round, or of a build without rounds."""
        how = {"strategy": self.strategy, "kinds": self.kinds, "per_chunk": per_chunk, "limit": limit}
        return generate.plan(self.run.stream("chunks.parquet"), self.known, self.used, **how)  # type: ignore[arg-type]

    def room(self, asked: Asked) -> dict[str, int]:
        """Return how many more questions each document may be asked for."""
        if self.writes_items:
            return rounds.open_chunks(self._chunks(), self.known, asked, self.kinds)
        return rounds.room_of(self._all(), asked)

    def later(self, asked: Asked, given: Mapping[str, int]) -> Iterator[Task]:
        """Yield the tasks of a later round, so many `given` questions of each document."""
        if self.writes_items:
            return rounds.more_items(self._chunks(), self.known, asked, given, prompts=self.used, kinds=self.kinds)
        return rounds.left_of(self._all(), asked, given, self.kinds)

    def _all(self) -> Iterator[Task]:
        chunks = self.run.stream("chunks.parquet")
        return generate.everything(chunks, self.known, self.used, strategy=self.strategy, kinds=self.kinds)

    def _chunks(self) -> Iterator[pl.DataFrame]:
        return generate.surveyed(self.run.stream("chunks.parquet"), self.known)


def ask_in_rounds(
    source: Source,
    generator: Generator,
    *,
    keep: int,
    candidates: int,
    titles: Titles | None,
    limit: int | None,
    per_chunk: float,
    pairs: int,
    model: str,
    failures: list[dict[str, Any]],
    apply: Callable[[pl.DataFrame], pl.DataFrame],
    stats: dict[str, Any],
    on_event: OnEvent,
    left_out: Sequence[str],
) -> Iterator[pl.DataFrame]:
    """Yield frames of `tables.QUESTIONS`, round by round, until `keep` rows pass all rules that `apply` says.

    The user has so many `pairs`, of which the first round takes the best. What came of it is noted in
    `stats["wanted"]`: `keep`, `kept`, `asked`, `ended` (`rounds.ended`, or "all") and `rounds`, each
    with what was asked and kept until then.
    """
    asked, rows, kept, barren, told = Asked(), list[dict[str, Any]](), set[str](), 0, list[list[int]]()
    plan = source.first(per_chunk, rounds.first_limit(keep, limit, pairs=pairs))
    tasks, seen, planned, end = plan.tasks, set[str](), plan.questions, None
    while True:
        on_event("planned", {"questions": planned, "left_out": left_out})
        before = asked.count
        each = generate.again(asked.noting(tasks), candidates)
        how: dict[str, Any] = {"model": model, "failures": failures, "seen": seen, "candidates": candidates}
        how["titles"] = titles
        put = generate.put_tasks(each, generator, asks=source.strategy != "rules", **how)
        for task, came in put:
            asked.came(task.item_id, came)
            rows += came
            yield tables.frame(tables.QUESTIONS, came)
        checked = apply(tables.frame(tables.QUESTIONS, rows)).filter(pl.col("reason").is_null())
        before_kept, kept = kept, {*checked["question_id"]}
        asked.close(kept - before_kept)
        # the user's pairs are kept too, and no question that was asked has brought them
        progress = len(kept & asked.homes.keys()) - len(before_kept & asked.homes.keys())
        told.append([asked.count, len(kept)])
        barren = 0 if progress > 0 else barren + 1
        on_event("round", {"round": len(told), "asked": asked.count, "kept": len(kept), "wanted": keep})
        if len(kept) >= keep or (end := rounds.ended(asked.count, barren, len(told), keep=keep, limit=limit)):
            break
        of = Counter(doc_ids[-1] for doc_ids in checked["doc_ids"] if len(doc_ids))
        rate = (max(0, progress) + 1) / (asked.count - before + 2)
        most = rounds.most_of(keep, limit) - asked.count
        given = rounds.shared_out(of, source.room(asked), keep - len(kept), most, rate)
        if not given:
            end = "all"
            break
        tasks, planned = source.later(asked, given), asked.count + sum(given.values())
    stats["wanted"] = {"keep": keep, "kept": len(kept), "asked": asked.count, "ended": end, "rounds": told}
