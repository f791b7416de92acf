"""An adapter's card: what it was made of and how, for programs (`card.json`) and for people (`README.md`)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from raft.measures import MEASURES
from raft.protocols import TrainingPlan, TrainingReport
from raft.version import __version__

FORMAT = 1
FACTS = ("adapter", "base", "base_identity", "data_digest", "prompt_digest", "style")
"""What a card needs to be told about a training beside its plan and its report."""

_MOST_POINTS = 20
_MEASURES = ("f1", "accuracy", "exact_match", "false_refusals", "false_answers")
Cell = object


def card(
    facts: Mapping[str, Any],
    *,
    plan: TrainingPlan,
    report: TrainingReport,
    rows: int,
    valid: int,
    rehearsal: int,
    rehearsal_seed: int,
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card of an adapter that was just trained, as JSON values.

    Args:
        facts: at least `FACTS`: the adapter's id, name and identity of its base model, digests of examples and
            prompt, and the answer style. Others (`revision` of the base model, ...) are kept as they are.
        plan: how it was to be trained.
        report: what the training did.
        rows: training rows of the run, without rehearsal.
        valid: validation rows.
        rehearsal: general chats mixed in, so that the model unlearns less.
        rehearsal_seed: seed of their choice.
        notes: what a person should be told about this training.

    Raises:
        ValueError: one of `FACTS` is missing.
    """
    lacking = [name for name in FACTS if name not in facts]
    if lacking:
        raise ValueError(f"the card is not told {', '.join(lacking)}")
    return {
        **facts,
        "format": FORMAT,
        "raft": __version__,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "approved_by": "",
        "hyperparameters": asdict(plan),
        "seeds": {"training": plan.seed, "rehearsal": rehearsal_seed},
        "rows": rows,
        "valid": valid,
        "rehearsal": rehearsal,
        "loss_curve": [dict(point) for point in report.curve],
        "best_step": report.best_step,
        "steps": report.steps,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "hardware": report.hardware,
        "backend": report.backend,
        "versions": dict(report.versions),
        "notes": dict(notes),
    }


def excerpt(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a benchmark shows of a training (`training` of benchmark.json)."""
    names = ("adapter", "base", "rows", "valid", "seconds", "best_step", "hardware")
    return {**{name: card[name] for name in names}, "curve": card["loss_curve"]}


def line(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a list of adapters says of one; `valid_loss` is that of the step that was kept, None without any."""
    losses = [point["valid_loss"] for point in card.get("loss_curve", ()) if "valid_loss" in point]
    names = ("adapter", "current", "created", "base", "rows", "valid", "best_step", "approved_by")
    return {**{name: card.get(name) for name in names}, "valid_loss": min(losses, default=None)}


def readme(card: Mapping[str, Any], benchmark: Mapping[str, Any] | None = None) -> str:
    """Return a model card as the Hugging Face hub reads it (Markdown behind a YAML front matter).

    Args:
        card: what `card` returned.
        benchmark: what a run's `benchmark.json` holds, or None while there is none.
    """
    import huggingface_hub  # noqa: PLC0415  a second to import, needed here alone

    base = _shown_name(str(card["base"]))
    front = huggingface_hub.ModelCardData(
        base_model=base if base == card["base"] else None,
        library_name="peft",
        pipeline_tag="text-generation",
        license="other",
        tags=["raft", "lora", "retrieval-augmented-generation"],
    )
    made = huggingface_hub.ModelCard.from_template(
        front,
        template_str=(files(str(__package__)) / "modelcard.md").read_text(encoding="utf-8"),
        card=card,
        base=base,
        line=_line,
        approval=_approval(card),
        data=_data(card),
        plan={**card["hyperparameters"], "student": _shown_name(str(card["hyperparameters"]["student"]))},
        training=_training(card),
        points=_points(card["loss_curve"]),
        benchmark=benchmark,
        scores=_scores(card, benchmark) if benchmark else [],
    )
    return f"{made}\n"


def _shown_name(base: str) -> str:
    """Return the name of a base model without the folders above it, which are nobody's business."""
    local = base.count("/") > 1 or "\\" in base or base.startswith(("/", ".", "~"))
    return PureWindowsPath(PurePosixPath(base).name).name if local else base


def _approval(card: Mapping[str, Any]) -> str:
    if not card.get("approved_by"):
        return "nobody yet"
    return _line(f"{card['approved_by']}, {card['approved']}" if card.get("approved") else card["approved_by"])


def _data(card: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    return [
        ("training rows", f"{card['rows']:,}"),
        ("validation rows", f"{card['valid']:,}"),
        ("general chats mixed in (rehearsal)", f"{card['rehearsal']:,}"),
        ("digest of the rows", card["data_digest"]),
        ("digest of the prompt", card["prompt_digest"]),
        ("answer style", card["style"] or "none"),
    ]


def _training(card: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    return [
        ("identity of the base model", card["base_identity"]),
        ("steps", f"{card['steps']:,}, of which step {card['best_step']:,} was kept"),
        ("tokens read", f"{card['tokens']:,}"),
        ("seconds", f"{card['seconds']:,.0f}"),
        ("hardware", card["hardware"]),
        ("backend", card["backend"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(card["versions"].items()))),
        ("trained", card["created"]),
    ]


def _points(curve: Sequence[Mapping[str, float]]) -> list[tuple[Cell, ...]]:
    """Return one row a step; of a long curve the measurements on validation rows and as many others as fit."""
    steps: dict[int, dict[str, float]] = {}
    for point in curve:
        steps.setdefault(int(point["step"]), {}).update(point)
    every = -(-len(steps) // _MOST_POINTS)
    kept = [point for place, point in enumerate(steps.values()) if "valid_loss" in point or place % every == 0]
    return [
        (int(point["step"]), f"{point['epoch']:.2f}", _number(point.get("loss")), _number(point.get("valid_loss")))
        for point in kept
    ]


def _scores(card: Mapping[str, Any], benchmark: Mapping[str, Any]) -> list[tuple[Cell, ...]]:
    return [
        (name, arm["title"], MEASURES[measure].title, _interval(scores[measure]))
        for arm in benchmark["arms"]
        if arm.get("adapter") in (None, card["adapter"])
        for name, scores in arm["sets"].items()
        for measure in _MEASURES
        if scores.get(measure)
    ]


def _line(value: Cell) -> str:
    return " ".join(str(value).split())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(scores: Mapping[str, Any]) -> str:
    value, low, high = (100 * float(scores[name]) for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f}), {scores['questions']} questions"
