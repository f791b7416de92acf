"""Rankings into one ranking."""

from collections.abc import Sequence

import polars as pl

from raft.tables import HITS


def fuse(hits: Sequence[pl.DataFrame], k: int, constant: int = 60) -> pl.DataFrame:
    """Fuse rankings by reciprocal rank: a chunk scores the sum of 1 / (constant + rank) over the lists that hold it.

    Only ranks count, so that lists whose scores have different scales can be fused. The order of the lists does not
    matter; chunks of equal score are ordered by chunk_id.

    Args:
        hits: frames of `tables.HITS`, one a retriever, for the same queries.
        k: chunks to keep for a query.
        constant: the larger, the less the first ranks weigh against the later ones; 60 is the paper's.

    Returns:
        A frame of `tables.HITS`, ordered by query and rank.

    References:
        Cormack, Clarke and Büttcher: Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods. SIGIR 2009.
    """
    return (
        pl.concat([pl.DataFrame(schema=HITS), *hits])
        .group_by("query", "chunk_id")
        .agg(
            pl.col("doc_id").first(),
            # sorted, because the last digit of a sum depends on the order of its terms
            score=(1 / (constant + pl.col("rank").sort())).sum(),
            text=pl.col("text").first(),
        )
        .sort("query", "score", "chunk_id", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("query"))
        .filter(pl.col("rank") <= k)
        .select(list(HITS))
    )
