"""An adapter and its base model made into one model, for servers that load no adapters."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

from raft import adapters
from raft.backends import models
from raft.backends.quiet import quiet
from raft.errors import DamagedArtifact, MissingExtra, RaftError, UsageError


def merge(base: str, adapter: Path, out: Path) -> Path:
    """Write base model and adapter as one model: bfloat16 safetensors, tokenizer and chat template; return `out`.

    Each weight is the base's bfloat16 weight plus the update, added in float32 and rounded once.

    Args:
        base: the base model: a hub name, a folder, or an embedded default.
        adapter: folder of an adapter that was trained on it.
        out: a folder that is not there yet, or empty.

    Raises:
        UsageError: `out` is in use or cannot be written, the adapter does not fit the base, or there is no chat
            template.
        DamagedArtifact: the adapter is not whole, or its weights are no numbers.
        RaftError: the base cannot be loaded.
        MissingExtra: peft or transformers is not installed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("The folder for the merged model is not empty.", where=out, hint="choose another --out")
    adapters.check_weights(adapter)
    tokenizer = _tokenizer(base, adapter)
    model = merged(base, adapter)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".draft-") as work:
            draft = Path(work) / "model"
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            draft.replace(out)
    except OSError as error:
        raise UsageError(
            f"The merged model cannot be written: {error.strerror or error}.",
            where=error.filename or out,
            hint="choose another folder with --out",
        ) from None
    return out


def merged(base: str, adapter: Path, dtype: str = "bfloat16") -> Any:
    """Return the model of transformers that `merge` writes, on the processor.

    Layers are merged one after the other, so that only one is held in float32.

    Args:
        base: the base model.
        adapter: the adapter's folder.
        dtype: of the result, in the words of torch.

    Raises:
        UsageError: the adapter does not fit the base.
        DamagedArtifact: its weights are no numbers.
        RaftError: the base cannot be loaded.
        MissingExtra: peft or transformers is not installed.
    """
    quiet()
    try:
        import torch
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingExtra(error.name or "peft", extra="train", why="to merge an adapter") from None
    kind = getattr(torch, dtype)
    folder = models.resolve(base)
    try:
        plain = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise RaftError(
            f"The base model {base} cannot be loaded: {str(error).splitlines()[0]}",
            where=folder,
            hint="give the base model that the adapter's card names",
        ) from None
    plain.to(kind)
    with warnings.catch_warnings():  # peft remarks on tied weights, and later that the layers are merged already
        warnings.simplefilter("ignore")
        try:
            tuned = PeftModel.from_pretrained(plain, str(adapter), torch_device="cpu", use_safetensors=True)
        except (RuntimeError, ValueError, KeyError) as error:
            raise _unfit(base, adapter, str(error)) from None
        layers = [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]
        if not layers:
            raise _unfit(base, adapter, "it changes no layer")
        try:
            for layer in layers:
                layer.float()
                layer.merge(safe_merge=True)  # type: ignore[operator]
                layer.to(kind)
        except ValueError as error:
            raise DamagedArtifact(
                f"The adapter's weights are no numbers: {error}.", where=adapter, hint="raft train RUN   (trains anew)"
            ) from None
        return tuned.merge_and_unload().eval()  # type: ignore[operator]


def _unfit(base: str, adapter: Path, why: str) -> UsageError:
    lines = [line.strip() for line in why.splitlines() if line.strip()] or ["no reason given"]
    return UsageError(
        f"The adapter does not fit {base}: {' '.join(lines[:2])}",
        where=adapter,
        hint="give the base model that the adapter's card names",
    )


def _tokenizer(base: str, adapter: Path) -> Any:
    """Return the adapter's tokenizer, or where it has none the base's."""
    quiet()
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", extra="train", why="to merge an adapter") from None
    folder = str(adapter) if (adapter / "tokenizer.json").is_file() else models.resolve(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RaftError(f"The tokenizer cannot be loaded: {reason}", where=folder) from None
    if tokenizer.chat_template is None:
        raise UsageError(
            "There is no chat template, without which the merged model would be asked in another form than it learned.",
            where=folder,
            hint="train on an instruction-tuned model, whose name often ends in -Instruct or -it",
        )
    return tokenizer
