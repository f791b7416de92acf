"""A causal language model on this machine: its weights are loaded once, and adapters swap on top of them."""

import ctypes
import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from raft.backends import hub
from raft.backends.local.cpu_inference import use_cpu_attention
from raft.backends.vendors import quiet
from raft.errors import MissingExtra, RaftError, typed
from raft.store.adapters import CONFIG, WEIGHTS, check_weights, tensors

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Names of glibc's mallopt, from malloc.h."""


class Weights:
    """Base weights, rounded to bfloat16, with any number of adapters, of which one or none is in use at a time.

    Args:
        name: a hub name, a folder, or an embedded default.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._base: tuple[Any, Any] | None = None
        self._tuned: Any = None
        self._known: dict[Path, str] = {}

    @property
    def loaded(self) -> bool:
        """Whether they are in memory."""
        return self._base is not None

    def use(self, adapter: Path | None) -> tuple[Any, Any]:
        """Return model and tokenizer with this adapter in use, or with none; loads what is not there yet.

        Raises:
            MissingExtra: torch, transformers or peft is not installed.
            RaftError: there is no such model, it is no causal language model, or the adapter does not fit it.
        """
        self._base = self._base or _load(self.name)
        model, tokenizer = self._base
        if adapter is not None:
            self._attach(model, adapter)
        elif self._tuned is not None:
            self._tuned.base_model.disable_adapter_layers()
        return model, tokenizer

    def _attach(self, model: Any, adapter: Path) -> None:
        if adapter not in self._known:  # what is in memory answers on, whatever becomes of its files
            check_weights(adapter)
        try:
            from peft import PeftModel
        except ImportError as error:
            raise MissingExtra(error.name or "peft", extra="train", why="to use an adapter") from None
        if adapter not in self._known:
            self._known[adapter] = self._add(PeftModel, model, adapter)
            self._tuned.eval()
        self._tuned.base_model.enable_adapter_layers()
        self._tuned.set_adapter(self._known[adapter])
        self._tuned.requires_grad_(False)

    def _add(self, peft_model: Any, model: Any, adapter: Path) -> str:
        name = f"adapter_{len(self._known)}"
        options: dict[str, Any] = {"adapter_name": name, "autocast_adapter_dtype": False, "is_trainable": False}
        try:
            _check_kind(adapter)
            with warnings.catch_warnings(action="ignore"):  # of tensors that are missing: refused below
                if self._tuned is None:
                    self._tuned = peft_model.from_pretrained(model, str(adapter), **options)
                else:
                    self._tuned.load_adapter(str(adapter), **options)
            _check_all_used(self._tuned, name, adapter)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            # Layers of the adapter may be in the model by now: it is loaded anew when it is next used.
            self._base, self._tuned, self._known = None, None, {}
            run = adapter.parent.parent if adapter.parent.name == "adapters" else adapter.parent
            raise RaftError(
                f"The adapter does not fit {self.name}: {str(error).splitlines()[0]}",
                where=adapter,
                hint=f"raft train {typed(run)}   (tunes an adapter of this student)",
            ) from None
        return name


def _check_kind(adapter: Path) -> None:
    kind = json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get("peft_type")
    if kind != "LORA":
        raise ValueError(f"it is of the kind {kind}, and LORA alone can be swapped")


def _check_all_used(tuned: Any, name: str, adapter: Path) -> None:
    from peft import get_peft_model_state_dict

    held = {key for key in tensors(adapter / WEIGHTS) if "lora_" in key}
    used = {key for key in get_peft_model_state_dict(tuned, None, name, save_embedding_layers=False) if "lora_" in key}
    if held - used:
        raise ValueError(f"the model has no place for {len(held - used)} of its tensors, e.g. {min(held - used)}")
    if used - held:
        raise ValueError(f"it lacks {len(used - held)} tensors, e.g. {min(used - held)}")


def _load(name: str) -> tuple[Any, Any]:
    quiet()
    try:
        import torch

        model, tokenizer = pretrained(name, padding_side="left")
    except ImportError as error:
        why = f"to run {name} on this machine"
        raise MissingExtra(error.name or "transformers", extra="local", why=why) from None
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    use_cpu_attention(model)
    return model, tokenizer


def pretrained(name: str, *, role: str = "model", **tokenizing: Any) -> tuple[Any, Any]:
    """Return a model on the processor, and its tokenizer with a token to pad with.

    Its weights are rounded to bfloat16, so that it is the same model everywhere, and held in the type of `computed_in`.

    Raises:
        ImportError: torch or transformers is not installed.
        RaftError: there is no such model, or it is no causal language model; `role` is what it is called there.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = hub.resolve(name)
    keep_memory()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **tokenizing)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True)
        if (kind := computed_in()) != torch.bfloat16:  # else tables of positions, which are float32, would be rounded
            model.to(kind)
    except (OSError, ValueError) as error:
        raise RaftError(
            f"The {role} {name} cannot be loaded: {str(error).splitlines()[0]}",
            where=folder,
            hint="give a folder that holds a causal language model, set RAFT_MODELS, or check the name",
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def computed_in() -> Any:
    """Return the type (torch.dtype) that models are computed in: bfloat16, or float32 where the processor lacks it.

    One without AVX-512, as in most laptops, widens each number of a product in bfloat16: a prompt takes several times
    as long to read there as in float32, which needs twice the memory (benchmarks/results, 2026-12-01-processors).
    """
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16
    try:
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch without oneDNN, as on a Mac
        native = False
    return torch.bfloat16 if native else torch.float32


def give_back_memory() -> None:
    """Return to the card what models held that nobody uses any more: another process may train there."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_memory() -> None:
    """Have the C library keep the memory that torch gives back, where it is glibc.

    Tensors of some megabytes are otherwise mapped and zeroed by the kernel each time they are made: measured on two
    cores, up to 44 percent of the time of generation went there.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
        mallopt(name, value)
