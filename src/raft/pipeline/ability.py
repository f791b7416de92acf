"""General ability before and after tuning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raft.pipeline.field import Field
from raft.protocols import Listen
from raft.stages import capability


def check_capability(
    names: Sequence[str], field: Field, rows: Callable[[str], Sequence[Mapping[str, Any]]], *, listen: Listen
) -> dict[str, dict[str, Any]] | None:
    """Measure general capability before and after tuning; None when nothing was asked for or nothing was tuned.

    Args:
        names: files or hub names of sets of questions.
        field: who takes part.
        rows: delivers what the hub holds.
        listen: told "asking".
    """
    if not names or field.tuned is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        check = capability.open_check(name, rows)
        facts = {"title": check.title, "measure": check.measure, "questions": len(check.questions)}
        if field.base.scorer is None or field.tuned.scorer is None:
            found[check.name] = {**facts, "before": None, "after": None, "change": None}
            continue
        listen("asking", {"arm": "base and tuned", "set": check.title, "condition": "", **facts})
        before = capability.measure(check, field.base.scorer)
        after = capability.measure(check, field.tuned.scorer)
        found[check.name] = capability.compare(check, before, after)
    return found
