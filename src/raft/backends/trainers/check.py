"""Whether a model can be a student here: read from its small files, before anything is downloaded or loaded."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft.backends import hub
from raft.backends.local.weights import computed_in
from raft.backends.vendors import quiet
from raft.errors import MissingExtra, UsageError
from raft.store import adapters

_SMALLER = "choose a smaller student, e.g. HuggingFaceTB/SmolLM2-135M-Instruct"
_INSTRUCT = "choose an instruction-tuned model of text, e.g. HuggingFaceTB/SmolLM2-135M-Instruct"
_MARGIN = 1.2
"""Adapter, its gradients and optimiser state: some percent of the weights, more at a high rank."""
_BASIS = 3 << 29
"""1.5 GiB: Python and torch take 0.5, activations and logits of one row of 2,048 tokens 1 or more."""
_FLOATS = ("F64", "F32", "F16", "BF16")
"""What is loaded in the type that this machine computes in, whatever it is stored as."""
_FOUR_BITS = 0.6
"""Bytes of a weight in NF4 with its scales (QLoRA, arXiv 2305.14314); embeddings stay wider."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Student:
    """A model that can be tuned here.

    Attributes:
        model_type: its architecture, in the words of transformers ("llama").
        parameters: number of its weights; None where it is not known before the download.
        needed: bytes of memory that tuning takes at least; None where `parameters` is.
        available: bytes of memory that are free; None where the system does not tell.
    """

    name: str
    model_type: str
    parameters: int | None
    needed: int | None
    available: int | None


def check_student(name: str, *, bits: int = 16, available: int | None = None) -> Student:
    """Check that a model can be tuned on this machine.

    Args:
        name: a hub name, a folder, or an embedded default.
        bits: 16, or 4 for a quantised base.
        available: bytes of free memory; None to ask the graphics card, or the system where there is none.

    Raises:
        UsageError: it is hosted, an adapter, no causal language model, has no safetensors or no chat template, or
            needs more memory than there is.
        MissingExtra: transformers is not installed.
    """
    if hub.is_hosted(name):
        raise UsageError("A hosted model cannot be tuned: its weights are not to be had.", where=name, hint=_INSTRUCT)
    config = hub.model_json(name, "config.json")
    if hub.model_file(name, "adapter_config.json"):
        raise UsageError("The student is an adapter.", where=name, hint="give the base model that it was trained on")
    if not config:
        raise UsageError("The student has no config.json, so it is no model.", where=name, hint=_INSTRUCT)
    _check_causal(name, config)
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    hub.tokenizer(name).count_chat(chat)  # raises where there is no template, or one that refuses such a chat
    weights = _weights(name)
    free = _available() if available is None else available
    needed = None
    if weights is not None:
        each = computed_in().itemsize if bits == 16 else _FOUR_BITS
        size = sum(count * (each if dtype in _FLOATS else 1.0) for dtype, count in weights.items())
        needed = int(size * _MARGIN) + _BASIS
    if needed is not None and free is not None and needed > free:
        raise UsageError(
            f"Tuning {name} needs at least {needed / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB are free.",
            where=name,
            hint=f"{_SMALLER}, or tune on a machine with more memory (a run directory can be moved)",
        )
    return Student(name, str(config["model_type"]), sum(weights.values()) if weights else None, needed, free)


def _check_causal(name: str, config: Mapping[str, Any]) -> None:
    quiet()
    try:
        import torch  # noqa: F401  transformers may be there without it, and what follows asks it
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", extra="train", why=f"to tune {name}") from None
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        why = f"transformers knows no causal language model of the type {kind!r}"
        why += ", and raft runs no code that comes with a model" if "auto_map" in config else ""
    elif config.get("is_encoder_decoder"):
        why = f"a {kind} model encodes a text and decodes another"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        why = f"a {kind} model is an encoder: it fills gaps and does not write on"
    else:
        return
    raise UsageError(f"The student is no causal language model: {why}.", where=name, hint=_INSTRUCT)


def _weights(name: str) -> dict[str, int] | None:
    """Return how many weights are stored in each dtype of safetensors; None where it cannot be known yet.

    Raises:
        UsageError: there are no safetensors, or they are damaged.
    """
    config = hub.model_file(name, "config.json")
    folder = config.parent if config else Path(name)
    index = folder / "model.safetensors.index.json"
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else None
        files = [folder / part for part in sorted(parts or {"model.safetensors"})]
        if all(file.is_file() for file in files):
            return _counted(files)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"The student's weights are damaged: {error}.", where=folder, hint="download it anew"
        ) from None
    where = hub.resolve(name)
    if not Path(where).is_dir():
        return _from_hub(where)
    lost = next(file.name for file in files if not file.is_file())
    raise UsageError(
        f"The student has no {lost}: raft reads weights from safetensors alone, since a pickle can run code.",
        where=where,
        hint="model.save_pretrained(FOLDER) of transformers writes safetensors",
    )


def _counted(files: list[Path]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for file in files:
        for tensor in adapters.tensors(file).values():
            counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts


def _from_hub(name: str) -> dict[str, int] | None:
    quiet()
    import httpx
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        return {str(dtype): count for dtype, count in get_safetensors_metadata(name).parameter_count.items()}
    except NotASafetensorsRepoError:
        raise UsageError(
            "The student has no safetensors on the hub: raft reads no pickles, since they can run code.",
            where=name,
            hint=_INSTRUCT,
        ) from None
    except (OSError, ValueError, httpx.HTTPError):
        return None  # what the hub does not say now shows when the weights are downloaded


def _available() -> int | None:
    """Return the free memory in bytes: of the graphics card if there is one, otherwise of this process's machine."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return free_memory()


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the memory in bytes that processes here can still take, in a container what it leaves; None if unknown.

    Args:
        root: where `proc` and `sys` lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return _asked_psutil()
    group = root / "sys/fs/cgroup"
    try:
        limit, used = (int((group / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError, IndexError):  # no container, or one without a limit ("max")
        return free
    return min(free, max(0, limit - used + cached))


def _asked_psutil() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)
