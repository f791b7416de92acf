"""The child process in which Unsloth works: `python -m raft.backends.trainers.unsloth_worker SPEC.json`.

Unsloth is the first heavy package that is imported here, because it rewrites the others. The child tells its parent
(`unsloth`) of its progress in lines of JSON on the standard output it was started with; whatever else is printed, by
anyone, goes to the standard error, which the parent keeps as a log.
"""

import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raft.backends.trainers import sft
from raft.backends.vendors import quiet
from raft.errors import RaftError, UsageError
from raft.protocols import Message, TrainingPlan
from raft.settings.sections import LAYERS

_READING_TOKENS = 2048
"""Context in which a model is loaded that is only to be written in another format."""

Tell = Callable[[Mapping[str, Any]], None]


def loading(model: str, *, max_tokens: int, bits: int, seed: int) -> dict[str, Any]:
    """Return the arguments of `FastLanguageModel.from_pretrained`; `bits` are 16, or 4 for a base in NF4."""
    return {
        "model_name": model,
        "max_seq_length": max_tokens,
        "dtype": None,  # bfloat16 where the card has it
        "load_in_4bit": bits == 4,
        "use_exact_model_name": True,  # otherwise a name is exchanged for Unsloth's own copy of the model
        "random_state": seed,
        "fix_tokenizer": False,
        "trust_remote_code": False,
        "use_safetensors": True,
    }


def adapting(plan: TrainingPlan) -> dict[str, Any]:
    """Return the arguments of `FastLanguageModel.get_peft_model`, besides the model."""
    return {
        "r": plan.rank,
        "target_modules": list(LAYERS[plan.layers]),
        "lora_alpha": plan.alpha,
        "lora_dropout": 0,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": plan.seed,
    }


def arguing(plan: TrainingPlan, *, bfloat16: bool) -> dict[str, Any]:
    """Return what is added to the arguments of the trainer; `bfloat16` says whether the card has it.

    Unsloth changes defaults of TRL's settings; those that change what is learned are given TRL's own value.
    """
    return {
        "bf16": bfloat16,
        "fp16": not bfloat16,
        "gradient_checkpointing": True,  # Unsloth's own way of it, which `adapting` chose
        "max_length": plan.max_tokens,
        "optim": "adamw_torch_fused",
        "padding_free": False,
    }


def exporting(out: str, tokenizer: Any, precision: str) -> dict[str, Any]:
    """Return the arguments of a loaded model's `save_pretrained_gguf`."""
    return {"save_directory": out, "tokenizer": tokenizer, "quantization_method": precision}


def main(arguments: Sequence[str]) -> int:
    """Do what the spec says, and return the exit code: 0, or 1 after having told what went wrong."""
    on_event = _own_output()
    _end_with_parent()
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        report = TASKS[spec["task"]](spec, on_event)
        draft = Path(spec["report"]).with_suffix(".draft")
        draft.write_text(json.dumps(report, default=float), encoding="utf-8")
        draft.replace(spec["report"])
    except RaftError as error:
        on_event(_told(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        on_event(_told(_explained(error, spec)))
        return 1
    return 0


def _train(spec: Mapping[str, Any], on_event: Tell) -> dict[str, Any]:
    unsloth = _import_unsloth()
    plan = TrainingPlan(**spec["plan"])

    def load(plan: TrainingPlan) -> tuple[Any, Any]:
        model, _ = _load(unsloth, spec["model"], max_tokens=plan.max_tokens, bits=plan.bits, seed=plan.seed)
        sft.check_layers(model, plan.layers)
        return unsloth.FastLanguageModel.get_peft_model(model, **adapting(plan)), _tokenizer(spec["model"])

    report = sft.run(
        load,
        _read_chats(spec["rows"]),
        _read_chats(spec["valid"]),
        plan,
        out=Path(spec["out"]),
        checkpoints=Path(spec["checkpoints"]),
        on_event=lambda facts: on_event({"progress": dict(facts)}),
        backend="unsloth",
        arguments=arguing(plan, bfloat16=bool(unsloth.is_bfloat16_supported())),
    )
    return dataclasses.asdict(report) | {"versions": {**report.versions, **sft.versions("unsloth", "unsloth_zoo")}}


def _export(spec: Mapping[str, Any], _tell: Tell) -> dict[str, Any]:
    unsloth = _import_unsloth()
    model, tokenizer = _load(unsloth, spec["model"], max_tokens=_READING_TOKENS, bits=16, seed=0)
    made = model.save_pretrained_gguf(**exporting(spec["out"], tokenizer, spec["precision"]))
    return {"files": [str(path) for path in (made["gguf_files"] if isinstance(made, dict) else made)]}


TASKS: Mapping[str, Callable[[Mapping[str, Any], Tell], dict[str, Any]]] = {"train": _train, "gguf": _export}


def _import_unsloth() -> Any:
    quiet()
    try:
        import unsloth
    except NotImplementedError as error:
        raise UsageError(
            f"Unsloth finds no card that it can use: {_first_line(error)}",
            where=f"torch {sft.versions('torch').get('torch', 'is not installed')}",
            hint="install torch for this machine's CUDA, or --set training.backend=peft",
        ) from None
    except ImportError as error:
        traceback.print_exc()
        raise UsageError(
            f"Unsloth is installed, but cannot be imported: {_first_line(error)}",
            hint="pip install --upgrade 'raft-pipeline[unsloth]', or --set training.backend=peft",
        ) from None
    return unsloth


def _load(unsloth: Any, name: str, *, max_tokens: int, bits: int, seed: int) -> tuple[Any, Any]:
    arguments = loading(name, max_tokens=max_tokens, bits=bits, seed=seed)
    try:
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(**arguments)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        if _is_memory(error):
            raise
        traceback.print_exc()
        raise RaftError(
            f"Unsloth cannot load the model: {_first_line(error)}",
            where=name,
            hint="give a model that Unsloth supports, in safetensors, or --set training.backend=peft",
        ) from None
    return model, tokenizer


def _tokenizer(name: str) -> Any:
    """Return the student's own tokenizer: Unsloth changes the padding and the template of the one that it returns."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _explained(error: Exception, spec: Mapping[str, Any]) -> RaftError:
    if not _is_memory(error):
        return RaftError(
            f"Unsloth failed: {type(error).__name__}: {_first_line(error)}",
            hint="read the log; or --set training.backend=peft",
        )
    fewer_bits = "--set training.bits=4, " if spec.get("plan", {}).get("bits") == 16 else ""
    return RaftError(
        f"The card's memory is too small: {_first_line(error)}",
        hint=f"{fewer_bits}a smaller --student, or end what else works on the card (nvidia-smi names it)",
    )


def _is_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


def _told(error: RaftError) -> dict[str, Any]:
    usage = isinstance(error, UsageError)
    return {"error": error.what, "where": error.where, "hint": error.hint, "usage": usage}


def _read_chats(path: str) -> list[list[Message]]:
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _own_output() -> Tell:
    """Keep the standard output for the parent, and let all others print to the standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def on_event(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message, default=float) + "\n")
        channel.flush()

    return on_event


def _end_with_parent() -> None:
    """End this process at once when its parent is gone: the next run must find the checkpoints to itself."""
    parent, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # whoever asks the user something finds nobody
    os.close(nothing)

    def wait() -> None:
        while os.read(parent, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
