"""The engine of a build, opened from the settings: who does its work, where this process does not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from raft.backends.ray.cluster import import_ray
from raft.backends.ray.engine import RayEngine
from raft.backends.ray.shard import Opening
from raft.protocols import OnEvent
from raft.settings import Settings
from raft.store.budget import recount
from raft.store.ledger import Ledger


@contextmanager
def open_engine(
    folder: Path, settings: Settings, ledger: Ledger, run: str, on_event: OnEvent
) -> Iterator[RayEngine | None]:
    """Give the engine of a build, whose shards start with the first work; None where this process does all of it.

    `run` is the name of the run directory `folder` in the ledger.

    Raises:
        MissingExtra: Ray is not installed.
    """
    chosen = settings.engine
    if chosen.kind == "local":
        yield None
        return
    import_ray()
    opening = Opening(
        number=0,
        run=run,
        node="",
        folder=str(shards_of(folder)),
        variables={},
        local_only=settings.local_only,
    )
    with RayEngine(
        chosen.address,
        chosen.shards or len(os.sched_getaffinity(0)),
        cards=chosen.cards,
        ledger=ledger.path,
        opening=opening,
        merged=partial(recount, ledger, run),
        say=on_event,
    ) as engine:
        yield engine


def shards_of(folder: Path) -> Path:
    """Return the folder of a run directory that shards have their ledgers in."""
    return folder.resolve() / "scratch" / "shards"
