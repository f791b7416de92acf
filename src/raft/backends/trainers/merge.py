"""An adapter and its base model made into one model, for servers that load no adapters."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raft.backends import hub
from raft.backends.trainers import unsloth
from raft.backends.vendors import quiet
from raft.errors import DamagedArtifact, MissingExtra, RaftError, UsageError, unwritable
from raft.store import adapters
from raft.text import at_home


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
    return _written(model, tokenizer, out)


def _written(model: Any, tokenizer: Any, out: Path) -> Path:
    """Write a model with its tokenizer into a folder, which is there whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".draft-") as work:
            draft = Path(work) / "model"
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            draft.replace(out)
    except OSError as error:
        raise unwritable("The model's folder", error, out) from None
    return out


def merged(base: str, adapter: Path, dtype: str = "bfloat16") -> Any:
    """Return the model of transformers that `merge` writes, on the processor.

    Layers are merged one after the other, so that only one is held in float32.

    Arguments and errors are those of `merge`; `dtype` is that of the result, in the words of torch.
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
    folder = hub.resolve(base)
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
    quiet()
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", extra="train", why="to merge an adapter") from None
    folder = str(adapter) if (adapter / "tokenizer.json").is_file() else hub.resolve(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        hint = f"raft train RUN   (trains {adapter.name} anew, with its tokenizer)"
        raise RaftError(f"The tokenizer cannot be loaded: {reason}", where=folder, hint=hint) from None
    if tokenizer.chat_template is None:
        raise UsageError(
            "There is no chat template, without which the merged model would be asked in another form than it learned.",
            where=folder,
            hint="train on an instruction-tuned model, whose name often ends in -Instruct or -it",
        )
    return tokenizer


def four_bits(merged: Path, out: Path) -> Path:
    """Write a merged model with its linear layers in 4 bits (NF4), for transformers and vLLM; return `out`.

    It is made and read on a processor and on a card alike; embeddings and the last layer stay in bfloat16. The form of
    the numbers: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3.

    Args:
        merged: the folder that `merge` wrote.
        out: a folder that is not there yet, or empty.

    Raises:
        UsageError: `out` is in use or cannot be written.
        MissingExtra: bitsandbytes, torch or transformers is not installed.
        RaftError: the model has no layer of that kind, or cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("The folder for the model in 4 bits is not empty.", where=out, hint="choose another --out")
    quiet()
    require_bitsandbytes()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    how: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            merged, dtype=torch.bfloat16, use_safetensors=True, quantization_config=how
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise RaftError(
            f"The model cannot be written in 4 bits: {reason}", where=merged, hint="raft export RUN --merged"
        ) from None
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    return _written(model, tokenizer, out)


def require_bitsandbytes() -> None:
    """Check that a model can be written in 4 bits here.

    Raises:
        MissingExtra: bitsandbytes, torch or transformers is not installed.
    """
    for package in ("torch", "transformers", "bitsandbytes"):
        if find_spec(package) is None:
            raise MissingExtra(package, extra="4bit", why="to write a model in 4 bits")


CONVERTER = "convert_hf_to_gguf.py"
PRECISIONS = ("f32", "f16", "bf16", "q8_0")
"""What llama.cpp's converter writes by itself; anything smaller is made from such a file by `llama-quantize`."""

_MISSING = re.compile(r"No module named '(\w+)")


def export_gguf(merged: Path, out: Path, *, precision: str = "bf16") -> Path:
    """Write a merged model as one GGUF file, with llama.cpp's converter or else with Unsloth; return `out`.

    The converter is looked for in `$LLAMA_CPP` (llama.cpp's folder, or the script itself), then on the path.

    Args:
        merged: folder of a model with its adapter merged into it: config, safetensors, tokenizer.
        out: the file to write; what was there is replaced once the new file is whole.
        precision: one of `PRECISIONS`.

    Raises:
        UsageError: nothing here can convert, `merged` holds no model, or there is no such precision.
        RaftError: the conversion failed.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r} for GGUF.", hint=f"take one of {', '.join(PRECISIONS)}")
    if not (merged / "config.json").is_file() or not any(merged.glob("*.safetensors")):
        raise UsageError(
            "The folder holds no merged model: config.json and safetensors are needed.",
            where=merged,
            hint="give the folder that the merge wrote",
        )
    converter = require(merged)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".draft-") as work:
        if converter is not None:
            draft = _convert(converter, merged, Path(work), precision)
        else:
            draft = _with_unsloth(merged, Path(work), out.with_suffix(".log"), precision)
        draft.replace(out)
    return out


def require(where: Path) -> list[str] | None:
    """Return llama.cpp's converter, or None where Unsloth is to convert; `where` is named in the error.

    Raises:
        UsageError: nothing here can convert.
    """
    converter = find_converter()
    if converter is None and not unsloth.available():
        raise UsageError(
            "Nothing on this machine writes GGUF: neither llama.cpp's converter nor Unsloth with a card is there.",
            where=where,
            hint="get llama.cpp (git clone https://github.com/ggml-org/llama.cpp), set LLAMA_CPP to its folder and "
            "repeat the command; vLLM and transformers read a merged folder as it is",
        )
    return converter


def find_converter() -> list[str] | None:
    """Return the command that llama.cpp's converter is started with; None where there is none.

    Raises:
        UsageError: `$LLAMA_CPP` is set, and the converter is not there.
    """
    home = os.environ.get("LLAMA_CPP")
    if home:
        script = at_home(home)
        script = script if script.is_file() else script / CONVERTER
        if not script.is_file():
            raise UsageError(
                f"LLAMA_CPP is set, but there is no {CONVERTER}.",
                where=home,
                hint="set LLAMA_CPP to llama.cpp's folder",
            )
        return [sys.executable, str(script)]
    found = shutil.which(CONVERTER)
    return [found] if found else None  # started by itself: its first line names the interpreter that has what it needs


def _convert(converter: list[str], merged: Path, work: Path, precision: str) -> Path:
    draft, log = work / "model.gguf", work / "log.txt"
    command = [*converter, str(_readable(merged, work)), "--outfile", str(draft), "--outtype", precision]
    # it is a script, which may import what lies beside it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    with log.open("wb") as sink:
        done = subprocess.run(  # noqa: S603
            command, check=False, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
    if done.returncode != 0 or not draft.is_file():
        missing = _MISSING.search(log.read_text(encoding="utf-8", errors="replace"))
        raise RaftError(
            f"llama.cpp's converter failed (exit code {done.returncode}). It last wrote:\n{unsloth.tail(log)}",
            where=converter[-1],
            hint=f"pip install {missing[1]}" if missing else "take a newer llama.cpp, or serve the merged folder",
        )
    return draft


def _readable(merged: Path, work: Path) -> Path:
    """Return a folder with the same model whose tokenizer the converter does not mistake for one of SentencePiece.

    It takes every BPE with `byte_fallback` for that, and writes a tokenizer that cuts texts otherwise. A byte-level
    BPE, which knows each byte, never falls back; one that transformers read from a GGUF file says that it does.
    """
    path = merged / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not tokenizer.get("model", {}).get("byte_fallback") or "ByteLevel" not in str(tokenizer.get("pre_tokenizer")):
        return merged
    view = work / merged.resolve().name
    view.mkdir()
    for file in merged.iterdir():
        if file.is_file() and file != path:
            try:
                (view / file.name).symlink_to(file.resolve())
            except OSError:  # some systems let few users link
                shutil.copy2(file, view / file.name)
    tokenizer["model"]["byte_fallback"] = False
    (view / path.name).write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return view


def _with_unsloth(merged: Path, work: Path, log: Path, precision: str) -> Path:
    spec = {"task": "gguf", "model": str(merged.resolve()), "out": str(work / "gguf"), "precision": precision}
    report = unsloth.run_worker(spec, work, log=log, on_event=lambda _: None)
    files = [Path(name) for name in report["files"]]
    if len(files) != 1 or not files[0].is_file():
        raise RaftError(
            f"Unsloth was to write one GGUF file, and reports {len(files)}.", where=log, hint="set LLAMA_CPP instead"
        )
    log.unlink()
    return files[0]
