"""An adapter's card: what it was made of and how, for programs (`card.json`) and for people (`README.md`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from raft import __version__
from raft.measures import MEASURES
from raft.protocols import TrainingPlan, TrainingReport

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
    base = _shown_name(str(card["base"]))
    front = {
        **({"base_model": base} if base == card["base"] else {}),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "other",
        "tags": ["raft", "lora", "retrieval-augmented-generation"],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# Adapter {card['adapter']}",
        f"A LoRA adapter of {base}, tuned with raft {card['raft']} to answer questions from retrieved documents: with "
        "verbatim quotes where they hold the answer, and by saying so where they do not.",
        f"Approved by: {_approval(card)}.",
        *_usage(card, base),
        *_data(card),
        *_training(card),
        *_evaluation(card, benchmark),
        *_limits(),
    ]
    return "\n\n".join(parts) + "\n"


def _shown_name(base: str) -> str:
    """Return the name of a base model without the folders above it, which are nobody's business."""
    local = base.count("/") > 1 or "\\" in base or base.startswith(("/", ".", "~"))
    return PureWindowsPath(PurePosixPath(base).name).name if local else base


def _approval(card: Mapping[str, Any]) -> str:
    if not card.get("approved_by"):
        return "nobody yet"
    return _line(f"{card['approved_by']}, {card['approved']}" if card.get("approved") else card["approved_by"])


def _usage(card: Mapping[str, Any], base: str) -> Iterator[str]:
    yield "## Use"
    yield (
        "With raft, from the run directory that it was trained in (it brings the index, the prompt and the checks of "
        "quotes and figures):"
    )
    yield f"```sh\nraft ask RUN 'your question' --adapter {card['adapter']}\n```"
    yield "With peft, where FOLDER is the folder of this file and BASE the base model:"
    yield (
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'base = AutoModelForCausalLM.from_pretrained(BASE, dtype="bfloat16")\n'
        "model = PeftModel.from_pretrained(base, FOLDER)\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        "```"
    )
    yield (
        f"BASE is {base}" + (f" at revision {card['revision']}" if card.get("revision") else "") + ". Ask it with the "
        "prompt that it was trained with (`raft.raftformat.render_prompt`, digest below); with another one it answers "
        "worse."
    )


def _data(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield _table(
        ("what", "value"),
        [
            ("training rows", f"{card['rows']:,}"),
            ("validation rows", f"{card['valid']:,}"),
            ("general chats mixed in (rehearsal)", f"{card['rehearsal']:,}"),
            ("digest of the rows", card["data_digest"]),
            ("digest of the prompt", card["prompt_digest"]),
            ("answer style", card["style"] or "none"),
        ],
    )
    yield (
        "The rows were written by a model from the documents of one corpus; they and this adapter may hold passages of "
        "it. License: `other`, because the base model's terms and those of the documents both apply; name yours before "
        "you publish it."
    )


def _training(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training"
    plan = {**card["hyperparameters"], "student": _shown_name(str(card["hyperparameters"]["student"]))}
    yield _table(("hyperparameter", "value"), list(plan.items()))
    yield _table(
        ("what", "value"),
        [
            ("identity of the base model", card["base_identity"]),
            ("steps", f"{card['steps']:,}, of which step {card['best_step']:,} was kept"),
            ("tokens read", f"{card['tokens']:,}"),
            ("seconds", f"{card['seconds']:,.0f}"),
            ("hardware", card["hardware"]),
            ("backend", card["backend"]),
            ("versions", ", ".join(f"{name} {version}" for name, version in sorted(card["versions"].items()))),
            ("trained", card["created"]),
        ],
    )
    if card["loss_curve"]:
        yield "Loss in nats a token, over the answers alone:"
        yield _table(("step", "epoch", "training loss", "validation loss"), _points(card["loss_curve"]))


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


def _evaluation(card: Mapping[str, Any], benchmark: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Evaluation"
    if benchmark is None:
        yield "Not measured yet: see the run's benchmark (`raft bench RUN`), which compares it with plain RAG."
        return
    verdict = benchmark["verdict"]
    yield f"Verdict of the run's benchmark ({benchmark['date']}): **{verdict['decision']}**."
    if verdict["reasons"]:
        yield "\n".join(f"- {_line(reason)}" for reason in verdict["reasons"])
    rows = [
        (name, arm["title"], MEASURES[measure].title, _interval(scores[measure]))
        for arm in benchmark["arms"]
        if arm.get("adapter") in (None, card["adapter"])
        for name, scores in arm["sets"].items()
        for measure in _MEASURES
        if scores.get(measure)
    ]
    if rows:
        yield "In percent, with 95 percent intervals over documents:"
        yield _table(("questions", "contender", "measure", "value"), rows)


def _limits() -> Iterator[str]:
    yield "## Intended use and limits"
    yield (
        "- It answers from the documents that it is shown, and only from them; it is no source of facts by itself. "
        "Numbers, dates and names are right only where they stand in a document that was shown.\n"
        "- It was tuned on one corpus: on other documents, languages or tasks it may do worse than its base model.\n"
        "- Where retrieval brings the wrong documents, it can abstain from what could be answered, or answer wrongly.\n"
        "- It inherits the biases of its base model. Check its quotes before you act on an answer."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(value: Cell) -> str:
    return " ".join(str(value).split())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(scores: Mapping[str, Any]) -> str:
    value, low, high = (100 * float(scores[name]) for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f}), {scores['questions']} questions"
