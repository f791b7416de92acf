"""Estimating: what a build would ask and cost, before a call is made."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from raft import pipeline
from raft.api.building import Options, described, estimated, opened
from raft.errors import UsageError
from raft.estimates import Estimate
from raft.ledger import Ledger
from raft.spending import Purse


def estimate(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path | None = None,
    sample: int = 0,
    listen: pipeline.Listen | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Say what a build would ask and cost; nothing is spent, but for a sample.

    Documents are read, chunks are cut and surveyed as the build would, and kept for it; nothing of a run that is there
    already is changed.

    Args:
        corpus: as for `build`.
        out: as for `build`.
        sample: so many requests, spread evenly, are asked to learn from their usage; they cost money, and their
            replies are kept.
        listen: as for `build`.
        options: the other arguments of `build`.

    Raises:
        UsageError: an argument or a setting is wrong.
        RaftError: no document can be read, or the sample cannot be asked for.
    """
    if sample < 0:
        raise UsageError(f"A sample of {sample} requests cannot be taken.", where="sample", hint="--sample 10")
    task = described(corpus, out, **options)
    tell = listen or (lambda event, facts: None)
    with opened(task, tell, building=False) as site:
        found = estimated(task, site, tell, sample)
        return replace(found, spent=_spent(site.ledger, site.collection))


def _spent(ledger: Ledger, run: str) -> float:
    return Purse(ledger, run=run, model="", price=None, cap=None).spent
