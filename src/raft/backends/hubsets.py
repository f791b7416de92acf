"""Public data sets: the rows of one split, from the hub of Hugging Face or from a folder."""

from typing import Any

from raft.backends.quiet import quiet
from raft.errors import UsageError

SPLITS = ("validation", "test", "train")
"""Splits in the order in which they are taken where none is named: answers of a test split are not always public."""


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a public data set.

    Args:
        name: `org/set`, `org/set:configuration` or `org/set:configuration:split`, e.g. `allenai/ai2_arc:ARC-Easy:test`.

    Raises:
        UsageError: there is no such set, configuration or split, or the hub cannot be reached.
    """
    quiet()
    import datasets

    path, _, rest = name.partition(":")
    configuration, _, split = rest.partition(":")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(path, configuration or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unknown(name, reason) from None
    chosen = split or next((one for one in SPLITS if one in found), "")
    if chosen not in found:
        raise _unknown(name, f"it has no split {chosen or ' or '.join(SPLITS)}, but {', '.join(map(str, found))}")
    return [dict(row) for row in found[chosen]]


def _unknown(name: str, reason: str) -> UsageError:
    return UsageError(
        f"The data set cannot be loaded: {reason.rstrip('.')}.",
        where=name,
        hint="give a file of JSON lines, or org/set:configuration:split of a set on the hub",
    )
