"""Stands in for Unsloth, which trains on no machine without a card: transformers and PEFT behind Unsloth's names.

Like Unsloth it wants to be imported before what it rewrites, prints to the standard output, and raises
NotImplementedError where there is no card. `FAKE_UNSLOTH` says how it shall fail, if at all; `FAKE_UNSLOTH_PIPE` is a
named pipe that it holds open as long as its process lives, with the process's id as the first line.
"""

import os
import sys
import threading
from pathlib import Path

MODE = os.environ.get("FAKE_UNSLOTH", "")
EARLY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate"} & sys.modules.keys()

print("🦥 Unsloth: Will patch your computer to enable 2x faster free finetuning.")  # noqa: T201  as the real one does
if EARLY:
    raise ImportError(f"imported before Unsloth: {sorted(EARLY)}")
if MODE == "no card":
    raise NotImplementedError("Unsloth cannot find any torch accelerator? You need a GPU.")
if MODE == "broken":
    raise ImportError("Unsloth: bitsandbytes is not installed")
if "FAKE_UNSLOTH_PIPE" in os.environ:
    PIPE = Path(os.environ["FAKE_UNSLOTH_PIPE"]).open("w", buffering=1, encoding="utf-8")  # noqa: SIM115
    PIPE.write(f"{os.getpid()}\n")
sys.stdout.flush()
if MODE == "hangs":
    threading.Event().wait()
if MODE == "killed":
    os.kill(os.getpid(), 9)
if MODE == "ended":
    os._exit(7)
if MODE == "defect":
    raise ZeroDivisionError("division by zero")


def is_bfloat16_supported():
    """Say no: what is trained here is float32."""
    return False


class FastLanguageModel:
    """Loads a model of transformers and attaches an adapter of PEFT, on the processor."""

    @staticmethod
    def from_pretrained(  # noqa: PLR0917  as the real one
        model_name,
        max_seq_length,
        dtype,
        load_in_4bit,
        use_exact_model_name,
        random_state,
        fix_tokenizer,
        trust_remote_code,
        use_safetensors,
    ):
        """Load a model and its tokenizer, or fail as the mode says."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if MODE == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")
        if MODE == "unknown model":
            raise RuntimeError("Unsloth: No config file found - are you sure the `model_name` is correct?")
        if MODE == "gguf":
            return Exported(model_name), None
        torch.manual_seed(random_state)
        model = AutoModelForCausalLM.from_pretrained(model_name, use_safetensors=use_safetensors)
        return model, AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(  # noqa: PLR0917  as the real one
        model, r, target_modules, lora_alpha, lora_dropout, bias, use_gradient_checkpointing, random_state
    ):
        """Attach a fresh adapter."""
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(random_state)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=r,
            target_modules=target_modules,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            bias=bias,
        )
        return get_peft_model(model, config)


class Exported:
    """A loaded model that says of itself what it would write as a GGUF file."""

    def __init__(self, name):
        self.name = name

    def save_pretrained_gguf(self, save_directory, tokenizer, quantization_method):
        """Write one file into the folder that the real one writes into, and return what the real one returns."""
        path = Path(f"{save_directory}_gguf") / "model.GGUF"
        path.parent.mkdir()
        path.write_text(f"{self.name} {quantization_method}", encoding="utf-8")
        return {"gguf_files": [str(path)]}
