"""Adapters of a run directory: which there are, which one is meant, and whether it is whole.

Each lies in `adapters/<id>/` with its card; the text file `adapters/current` names the one that answers. Weights are
read from safetensors alone: a pickle (`adapter_model.bin`) can run code when it is loaded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from jinja2 import Template

from raft.errors import DamagedArtifact, UsageError, typed
from raft.protocols import Message, TrainingPlan, TrainingReport
from raft.report.measures import MEASURES
from raft.store import artifacts
from raft.text import at_home
from raft.version import __version__

FORMAT = 1
FACTS = ("adapter", "base", "base_identity", "data_digest", "prompt_digest", "style")
"""What a card needs to be told about a training beside its plan and its report."""

_MOST_POINTS = 20
_MEASURES = ("f1", "accuracy", "exact_match", "false_refusals", "false_answers")


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

    `facts` are at least `FACTS`; others (`revision` of the base model, ...) are kept as they are. `rows` are those of
    the run, without the `rehearsal`: general chats mixed in, so that the model unlearns less. `notes` are what a person
    should be told about this training.

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
    names = ("adapter", "current", "created", "base", "rows", "valid", "best_step", "approved_by", "approval")
    return {**{name: card.get(name) for name in names}, "valid_loss": min(losses, default=None)}


def readme(card: Mapping[str, Any], benchmark: Mapping[str, Any] | None = None, *, merged: bool = False) -> str:
    """Return a model card as the Hugging Face hub reads it (Markdown behind a YAML front matter).

    `benchmark` is what the run's `benchmark.json` holds, or None while there is none; `merged` stands for a folder that
    holds base and adapter as one model.
    """
    base = _shown_name(str(card["base"]))
    front = {
        **({"base_model": base} if base == card["base"] else {}),
        "library_name": "transformers" if merged else "peft",
        "license": "other",
        "pipeline_tag": "text-generation",
        "tags": ["raft", "lora", "retrieval-augmented-generation"],
    }
    template = (files(str(__package__)) / "modelcard.md").read_text(encoding="utf-8")
    made = Template(template).render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        card=card,
        base=base,
        plan={**card["hyperparameters"], "student": _shown_name(str(card["hyperparameters"]["student"]))},
        versions=", ".join(f"{name} {version}" for name, version in sorted(card["versions"].items())),
        points=_points(card["loss_curve"]),
        benchmark=benchmark,
        scores=_scores(card, benchmark) if benchmark else [],
    )
    return f"{made}\n"


def write_served(
    folder: Path, adapter: Path, turns: Sequence[Message], *, tokens: int, bits: int, remarks: Sequence[str]
) -> None:
    """Write beside a merged model its card, the turns of its prompt, and a README that says how it is served.

    `tokens` is how many prompt and reply may have together, `bits` how many a weight of a linear layer has; `remarks`
    are what a person should know of the adapter.
    """
    card = read_card(adapter)
    template = (files(str(__package__)) / "served.md").read_text(encoding="utf-8")
    serving = Template(template).render(
        card=card, base=_shown_name(str(card["base"])), tokens=tokens, bits=bits, remarks=remarks
    )
    artifacts.atomically(folder / CARD, (adapter / CARD).read_text(encoding="utf-8"))
    artifacts.atomically(folder / "prompt.json", json.dumps(list(turns), ensure_ascii=False, indent=1) + "\n")
    artifacts.atomically(folder / README, f"{readme(card, _benchmark(adapter), merged=True)}{serving}\n")


def _shown_name(base: str) -> str:
    """Return the name of a base model without the folders above it, which are nobody's business."""
    local = base.count("/") > 1 or "\\" in base or base.startswith(("/", ".", "~"))
    return PureWindowsPath(PurePosixPath(base).name).name if local else base


def _points(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return one point a step; of a long curve the measurements on validation rows and as many others as fit."""
    steps: dict[int, dict[str, float]] = {}
    for point in curve:
        steps.setdefault(int(point["step"]), {}).update(point)
    every = -(-len(steps) // _MOST_POINTS)
    return [point for place, point in enumerate(steps.values()) if "valid_loss" in point or place % every == 0]


def _scores(card: Mapping[str, Any], benchmark: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, system["title"], MEASURES[measure].title, _interval(scores[measure]))
        for system in benchmark["arms"]
        if system.get("adapter") in (None, card["adapter"])
        for name, scores in system["sets"].items()
        for measure in _MEASURES
        if scores.get(measure)
    ]


def _interval(scores: Mapping[str, Any]) -> str:
    value, low, high = (100 * float(scores[name]) for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f}), {scores['questions']} questions"


CONFIG, WEIGHTS, CARD, README = "adapter_config.json", "adapter_model.safetensors", "card.json", "README.md"
APPROVALS = "approvals.jsonl"
"""Beside an adapter: who approved it, when, with which note and verdict; one line each time."""

_VARIES = ("base_model_name_or_path", "peft_version")
"""Keys of a configuration that tell where and with what an adapter was written, not what it does."""

_SHAPE = {
    "base": str,
    "hyperparameters": dict,
    "versions": dict,
    "loss_curve": list,
    "notes": dict,
    "seconds": int | float,
}
"""What is read of a card, and is of this kind in each."""

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


def listed(run_folder: Path) -> list[dict[str, Any]]:
    """Return the cards of a run's adapters, oldest first; what is unfinished or damaged is left out.

    `adapter` of each card is the name of its folder.
    """
    cards = []
    for name in _names(run_folder):
        try:
            cards.append({**read_card(run_folder / "adapters" / name), "adapter": name})
        except DamagedArtifact:
            continue
    return sorted(cards, key=lambda card: (str(card.get("created", "")), card["adapter"]))


def find(run_folder: Path, wanted: str | None = None) -> Path:
    """Return the folder of an adapter that is whole.

    `wanted` is an id, a beginning that only one id has, or the path of an adapter's folder; None: the current one.

    Raises:
        UsageError: there is no adapter yet, none or several are meant, or it has no safetensors.
        DamagedArtifact: its weights, configuration or card are missing or damaged.
    """
    return _whole(_located(run_folder, wanted))


def _located(run_folder: Path, wanted: str | None) -> Path:
    names, home = _names(run_folder), run_folder / "adapters"
    if wanted is not None:
        matching = [wanted] if wanted in names else [name for name in names if wanted and name.startswith(wanted)]
        if len(matching) == 1:
            return home / matching[0]
        if not matching and wanted and at_home(wanted).is_dir():
            return at_home(wanted)
        if matching:
            raise UsageError(
                f"Several adapters begin with {wanted}: {', '.join(matching)}.",
                where=home,
                hint="give more of its id",
            )
    if not names:
        raise UsageError(
            "There is no adapter in this run yet.", where=run_folder, hint=f"raft train {typed(run_folder)}"
        )
    chosen = wanted if wanted is not None else current(run_folder)
    if chosen in names:
        return home / str(chosen)
    what = f"There is no adapter {chosen}" if chosen else "No adapter is chosen"
    hint = f"--adapter {typed(names[-1])}" + "   (or another one of them)" * (len(names) > 1)
    raise UsageError(f"{what}; there are {', '.join(names)}.", where=home, hint=hint)


def current(run_folder: Path) -> str | None:
    """Return the id that `adapters/current` names; None where there is no such file, or it is empty."""
    try:
        return (run_folder / "adapters" / "current").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def set_current(run_folder: Path, adapter: str) -> None:
    """Make an adapter the one that answers.

    Raises:
        UsageError: the run has no adapter of that id.
        DamagedArtifact: it is not whole.
    """
    if adapter not in _names(run_folder):
        raise UsageError(f"There is no adapter {adapter}.", where=run_folder, hint=f"raft train {typed(run_folder)}")
    _whole(run_folder / "adapters" / adapter)
    artifacts.atomically(run_folder / "adapters" / "current", adapter + "\n")


def check_base(folder: Path, student_identity: str, student: str | None = None) -> None:
    """Check that an adapter was trained on the base model of this identity: on another one it would be noise.

    Raises:
        UsageError: it was trained on another one.
        DamagedArtifact: its card cannot be read.
    """
    card = read_card(folder)
    if card.get("base_identity") == student_identity:
        return
    run = folder.parent.parent if folder.parent.name == "adapters" else "RUN"
    theirs = f"{card.get('base')} ({_short(str(card.get('base_identity')))})"
    ours = f"{student} ({_short(student_identity)})" if student else _short(student_identity)
    raise UsageError(
        f"The adapter {folder.name} was trained on {theirs}, and the student is {ours}.",
        where=folder,
        hint=f"raft train {typed(run)}   (trains one on this student), or set `student` to {card.get('base')}",
    )


def digest(folder: Path) -> str | None:
    """Return the digest (SHA-256, hex) of what an adapter does: its weights and configuration; None if it is not whole.

    Card and README do not count: approving an adapter leaves it the same.
    """
    try:
        _whole(folder)
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return content_digest(settings, folder / WEIGHTS)
    except (DamagedArtifact, UsageError, OSError, ValueError):
        return None


def content_digest(settings: Mapping[str, Any], weights: Path) -> str:
    """Return the digest (SHA-256, hex) of an adapter's settings and its file of weights."""
    kept = {key: sorted(value) if _is_set(value) else value for key, value in settings.items() if key not in _VARIES}
    whole = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    whole.update(artifacts.digest(weights).encode())
    return whole.hexdigest()


def _is_set(value: Any) -> bool:
    # the names of tuned modules are a set, which is written in another order each time
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def approve(folder: Path, who: str, note: str = "") -> dict[str, Any]:
    """Write into an adapter's card and README who approved it, and on which day (UTC); return the card.

    Each approval, with its note and the verdict of that time, becomes a line of `approvals.jsonl` beside the card; the
    card holds the last (`approval`).

    Raises:
        UsageError: no name is given.
        DamagedArtifact: the adapter is not whole.
    """
    if not who.strip():
        raise UsageError("An approval needs the name of the person who approves.", hint="--by 'Marta Quill'")
    card, now = read_card(_whole(folder)), datetime.now(UTC)
    told = (_benchmark(folder) or {}).get("verdict")
    verdict = told and {name: told.get(name) for name in ("decision", "gain", "question_set")}
    by, at = " ".join(who.split()), now.isoformat(timespec="seconds")
    approval = {"by": by, "at": at, "note": " ".join(note.split()), "verdict": verdict}
    history = folder / APPROVALS
    kept = history.read_text(encoding="utf-8") if history.is_file() else ""
    artifacts.atomically(history, kept + json.dumps(approval, ensure_ascii=False) + "\n")
    card.update(approved_by=who.strip(), approved=now.date().isoformat(), approval=approval)
    write_card(folder, card)
    return card


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write an adapter's card, and the README that says the same to people, with the run's benchmark if it has one.

    Call it again after a benchmark to bring its figures into the README.
    """
    text = json.dumps(card, ensure_ascii=False, indent=1, allow_nan=False)
    artifacts.atomically(folder / CARD, text + "\n")
    artifacts.atomically(folder / README, readme(card, _benchmark(folder)))


def read_card(folder: Path) -> dict[str, Any]:
    """Return an adapter's card.

    Raises:
        DamagedArtifact: it is missing, or no JSON object.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(folder, f"There is no {CARD} beside the adapter") from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"The adapter's {CARD} cannot be read: {error}") from None
    if not isinstance(card, dict) or any(not isinstance(card.get(name), kind) for name, kind in _SHAPE.items()):
        raise _damaged(folder, f"The adapter's {CARD} holds no card of raft's")
    return card


def check_weights(folder: Path) -> None:
    """Check that an adapter has a configuration and whole weights as safetensors.

    Raises:
        UsageError: its weights are a pickle alone.
        DamagedArtifact: something is missing or cut off.
    """
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise UsageError(
            "The adapter's weights are a pickle, which can run code when it is loaded; raft reads safetensors alone.",
            where=folder / "adapter_model.bin",
            hint="where you trust it: load it with peft, then save_pretrained(FOLDER) writes safetensors",
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise _damaged(folder, f"There is no {name} in the adapter's folder")
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"The adapter cannot be read: {error}") from None


def tensors(path: Path) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and data_offsets of each tensor of a safetensors file, from its header alone.

    The form of the file: github.com/huggingface/safetensors#format.

    Raises:
        ValueError: it is no such file, or it was cut off.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            raise ValueError(f"{path.name} is no safetensors file")
        text = file.read(size)
    try:
        header = json.loads(text)
        found = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in found.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise ValueError(f"{path.name} is no safetensors file") from None
    if path.stat().st_size != 8 + size + end:
        raise ValueError(f"{path.name} is cut off or damaged")
    return found


def _names(run_folder: Path) -> list[str]:
    home = run_folder / "adapters"
    folders = home.iterdir() if home.is_dir() else ()
    return sorted(path.name for path in folders if path.is_dir() and not path.name.startswith("."))


def _whole(folder: Path) -> Path:
    check_weights(folder)
    read_card(folder)
    return folder


def _damaged(folder: Path, what: str) -> DamagedArtifact:
    run = folder.parent.parent if folder.parent.name == "adapters" else "RUN"
    return DamagedArtifact(f"{what}.", where=folder, hint=f"raft train {typed(run)}   (trains it anew)")


def _short(identity: str) -> str:
    return identity[:19] + "…" if identity.startswith("sha256:") else identity


def _benchmark(folder: Path) -> dict[str, Any] | None:
    """Return the benchmark of the run that an adapter lies in, if it measured this adapter."""
    try:
        found = json.loads((folder.parent.parent / "benchmark.json").read_text(encoding="utf-8"))
        measured = any(system.get("adapter") == folder.name for system in found["arms"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if measured else None
