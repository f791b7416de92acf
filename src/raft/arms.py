"""The contenders of a benchmark, and which of them the tuned model has to beat."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

TUNED = "raft"
"""The arm that the verdict is about."""

UNTUNED = ("rag", "rag_few")
"""Plain RAG, without and with worked examples in the prompt; the better one is the baseline."""

GOLDEN = "golden"
"""The untuned model with the chunk that bears the answer given: what perfect retrieval would bring."""

LARGER = "model:"
"""The name of a larger model's arm begins so."""

TITLES: Mapping[str, str] = {
    "closed": "base model, no documents",
    "closed_few": "base model, no documents, with examples",
    "rag": "base model + RAG",
    "rag_few": "base model + RAG, with examples",
    "golden": "base model, golden document given",
    "tuned_closed": "tuned model, no documents",
    "raft": "tuned + RAG (RAFT)",
    "tuned_golden": "tuned model, golden document given",
    "other": "tuned on another corpus + RAG",
    "previous": "the adapter before this one + RAG",
}


@dataclass(frozen=True)
class Arm:
    """One contender.

    Attributes:
        name: a key of `TITLES`, or "model:" and a larger model's name.
        title: the name for people.
        model: name of the model.
        adapter: id of the adapter; None for the model as it is.
        prompt: name of the prompt.
        prompt_digest: its digest.
        exemplars: worked examples in the prompt.
        context: which chunks the prompt shows.
        tuned: whether an adapter is loaded.
    """

    name: str
    title: str
    model: str
    adapter: str | None
    prompt: str
    prompt_digest: str
    exemplars: int
    context: Literal["none", "retrieved", "golden"]
    tuned: bool


def title(name: str) -> str:
    """Return the name of an arm for people."""
    return TITLES.get(name, f"{name.removeprefix(LARGER)} + RAG")


def dispensable(name: str, *, tuned: bool) -> bool:
    """Tell whether the verdict stands without an arm, and nobody asked for it by name.

    Args:
        name: of the arm.
        tuned: there is an adapter; before, the verdict is whether one is worth it, which the golden arm tells.
    """
    return name in TITLES and name not in (TUNED, *UNTUNED, "other", *(() if tuned else (GOLDEN,)))


def baseline(tuning: Iterable[Mapping[str, Any]], measured: Collection[str]) -> str | None:
    """Return the arm to beat: of plain RAG with and without examples the one with the higher F1 on `valid`.

    Of equals the one with fewer examples is taken; without any figures, plain RAG.

    Args:
        tuning: rows with the keys `arm`, `exemplars` and `f1` (0 to 1, or None).
        measured: names of the arms that have answers.

    Returns:
        None where neither has answers.
    """
    usable = [row for row in tuning if row["arm"] in UNTUNED and row["arm"] in measured and row["f1"] is not None]
    best = max(usable, key=lambda row: (row["f1"], -row["exemplars"]), default=None)
    return str(best["arm"]) if best else next((name for name in UNTUNED if name in measured), None)
