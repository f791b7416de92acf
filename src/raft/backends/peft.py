"""LoRA with PEFT on any device; on a processor with the cheaper steps of `raft.backends.lean`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raft.backends import models, training
from raft.backends.lean import lean
from raft.backends.weights import keep_memory
from raft.errors import MissingExtra, RaftError, UsageError
from raft.protocols import Message, TrainingPlan, TrainingReport


class PeftTrainer:
    """The `Trainer` that runs everywhere."""

    identity = "peft:3"

    def train(
        self,
        rows: Sequence[Sequence[Message]],
        valid: Sequence[Sequence[Message]],
        plan: TrainingPlan,
        *,
        out: Path,
        checkpoints: Path,
        listen: Callable[[Mapping[str, float]], None],
    ) -> TrainingReport:
        """Train in this process; see `raft.protocols.Trainer`.

        Raises:
            UsageError: 4 bits are asked for, which need Unsloth and CUDA.
        """
        if plan.bits != 16:
            raise UsageError(
                "A base model in 4 bits needs the unsloth backend and a CUDA device.",
                where="training.bits",
                hint="raft train RUN --set training.bits=16",
            )
        return training.run(load, rows, valid, plan, out=out, checkpoints=checkpoints, listen=listen, backend="peft")


def load(plan: TrainingPlan) -> tuple[Any, Any]:
    """Return the student in bfloat16 with a new adapter (float32), and its tokenizer.

    Raises:
        MissingExtra: peft, transformers or torch is not installed.
        RaftError: the student cannot be loaded.
    """
    try:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    except ImportError as error:
        raise MissingExtra(error.name or "peft", extra="train", why="to tune a model") from None
    folder = models.resolve(plan.student)
    keep_memory()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise RaftError(
            f"The student {plan.student} cannot be loaded: {str(error).splitlines()[0]}",
            where=folder,
            hint="give a folder that holds a causal language model, set RAFT_MODELS, or check the name",
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    cuda = torch.cuda.is_available()
    set_seed(plan.seed)
    adapter = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model.to("cuda") if cuda else model, adapter)
    if not cuda:
        lean(tuned)
    return tuned, tokenizer
