"""The one training path: TRL's SFTTrainer on a model that has its LoRA adapter, whichever backend loaded it.

Rows are encoded here, in the student's chat template, so that nothing is truncated in silence and the answer alone is
learned. Checkpoints lie in a folder of the training's own: what was interrupted goes on from the last whole one.
"""

import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from raft.backends.local.generate import in_template, in_text, tokens
from raft.backends.local.weights import pretrained
from raft.backends.trainers.cpu_kernels import beside, pack, use_cpu_kernels
from raft.backends.trainers.loss import NOT_LEARNED, trainer_class
from raft.backends.vendors import quiet
from raft.errors import MissingExtra, RaftError, UsageError
from raft.protocols import REHEARSED, UNFINISHED, Message, TrainingPlan, TrainingReport
from raft.settings.sections import LAYERS
from raft.store.adapters import WEIGHTS, tensors
from raft.store.artifacts import atomically

STATE = "trainer_state.json"
ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What a checkpoint holds besides weights and state; torch writes them as zip archives."""


def last_whole(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; one that was cut off is removed."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _is_whole(path: Path) -> bool:
    try:
        json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors(path / WEIGHTS)
        for name in ARCHIVES:
            with ZipFile(path / name) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, ValueError, BadZipFile):
        return False
    return True


def finished(trainer: Any, last: Path) -> bool:
    """Tell whether a checkpoint is the end of its training; if it is, put its best adapter into the model."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(last / STATE))
    control = state.stateful_callbacks.get("TrainerControl")
    stopped = isinstance(control, dict) and control.get("args", {}).get("should_training_stop")
    if not stopped and state.global_step < state.max_steps:
        return False
    best = last.parent / f"checkpoint-{state.best_global_step or state.global_step}"
    if not _is_whole(best):
        return False
    trainer.model.load_adapter(str(best), "default")
    trainer.state = state
    return True


def check_layers(model: Any, layers: str) -> None:
    """Check that a student has each layer of a choice: where it names them otherwise, fewer would be tuned unsaid.

    Raises:
        UsageError: it lacks one; with `all` none is missed, since PEFT finds linear layers by itself.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    lacking = " or ".join(name for name in LAYERS[layers] if layers != "all" and name not in names)
    if lacking:
        again = "raft train RUN --set training.layers=all"
        raise UsageError(f"The student has no layers called {lacking}.", where=f"training.layers={layers}", hint=again)


Load = Callable[[TrainingPlan], tuple[Any, Any]]
OnEvent = Callable[[Mapping[str, float]], None]
_SITTINGS = "seconds.json"
_MEASURED = {
    "loss": "training loss",
    "eval_loss": "validation loss",
    "grad_norm": "gradient's norm",
    "kl": "divergence",
}
_NO_THOUGHTS = re.compile(r"\s*</?think(?:ing)?>\s*|\s+\Z")


def _begun_and_whole(tokenizer: Any, chat: Sequence[Message]) -> tuple[str, str]:
    """Return a chat that is ready for its last turn, and with it; some write tags around no thoughts in one alone."""
    begun, whole = in_template(tokenizer, chat[:-1], add_generation_prompt=True), in_template(tokenizer, chat)
    said = in_text(tokenizer, chat[-1]["content"]).strip()
    if whole.startswith(begun) or not said:
        return begun, whole
    before, answer, end = whole.rpartition(said)
    if _NO_THOUGHTS.sub("", before) == _NO_THOUGHTS.sub("", begun):
        whole = begun + answer + end
    return begun, whole


def encode(tokenizer: Any, chat: Sequence[Message], *, max_tokens: int) -> dict[str, list[int]]:
    """Return `input_ids` and `labels` of a chat; the labels of all but the last turn are `NOT_LEARNED`.

    What a template writes behind the end of the last turn is left out: a model never has to write it. So is that end
    itself, where the turn is `UNFINISHED`.

    Raises:
        RaftError: the chat is longer than `max_tokens`, has no answer, or its template does not keep the beginning of
            a chat as it was when a turn is added.
    """
    begun, text = _begun_and_whole(tokenizer, chat)
    said = in_text(tokenizer, chat[-1]["content"]).strip()
    unfinished = UNFINISHED in chat[-1] and said in text
    asked, whole = tokens(tokenizer, (begun, text[: text.rindex(said) + len(said)] if unfinished else text))
    if whole[: len(asked)] != asked:
        raise RaftError(
            "The student's chat template changes earlier turns when an answer is added.",
            where="tokenizer_config.json or chat_template.jinja of the student",
            hint="choose another --student",
        )
    answer = whole[len(asked) :]
    if tokenizer.eos_token_id in answer:
        answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
    elif not unfinished:
        answer.append(tokenizer.eos_token_id)
    if len(answer) < 2:
        raise RaftError("A row has no answer to learn.", where=str(chat[-1])[:200], hint="raft show RUN examples")
    if len(asked) + len(answer) > max_tokens:
        raise RaftError(
            f"A row has {len(asked) + len(answer):,} tokens, more than the {max_tokens:,} of examples.max_tokens.",
            where=str(chat[-2]["content"])[-200:],
            hint="raft build again (it drops distractors until a row fits), or raise --set examples.max_tokens",
        )
    return {"input_ids": asked + answer, "labels": [NOT_LEARNED] * len(asked) + answer}


def run(
    load: Load,
    rows: Sequence[Sequence[Message]],
    valid: Sequence[Sequence[Message]],
    plan: TrainingPlan,
    *,
    out: Path,
    checkpoints: Path,
    on_event: OnEvent,
    backend: str,
    arguments: Mapping[str, Any] | None = None,
) -> TrainingReport:
    """Train an adapter on `rows` and write the best one, by the `valid` chats, to `out` with its tokenizer.

    `load` returns a model with its adapter attached, and its tokenizer; `checkpoints` is the training's own folder,
    `backend` its name for the report; `arguments` of TRL's SFTConfig replace those chosen here.

    Raises:
        MissingExtra: trl, peft or torch is not installed.
        RaftError: a row does not fit, the loss is no number, or memory is short.
    """
    quiet()
    try:
        import torch
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl.trainer.sft_config import SFTConfig
    except ImportError as error:
        raise MissingExtra(error.name or "trl", extra="train", why="to tune a model") from None
    model, tokenizer = load(plan)
    encoded = [encode(tokenizer, chat, max_tokens=plan.max_tokens) for chat in rows]
    if plan.kl:
        for row, chat in zip(encoded, rows, strict=True):
            row[REHEARSED] = [int(REHEARSED in chat[-1])] * len(row["input_ids"])
    held = [encode(tokenizer, chat, max_tokens=plan.max_tokens) for chat in valid]
    for weight in model.parameters():
        if weight.requires_grad:  # in half precision, small updates would be rounded away
            weight.data = weight.data.float()
    own = arguments or {}
    longest = max(len(row["input_ids"]) for row in [*encoded, *held])
    together = beside(model, longest, plan.batch, apart=backend == "unsloth")  # it tells rows apart by their positions
    config = SFTConfig(**{**_arguments(plan, len(encoded), bool(held), checkpoints, together), **own})
    config._n_gpu = min(1, config.n_gpu)  # the model stands on one card; with several, TRL refuses to begin
    watch = _Watch(plan, sum(len(row["input_ids"]) for row in encoded) / len(encoded), checkpoints, on_event)
    trainer: Any = trainer_class(plan.kl)(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(encoded),
        eval_dataset=Dataset.from_list(held) if held else None,
        processing_class=tokenizer,
        data_collator=pack if together > 1 or plan.kl else None,
        callbacks=watch.callbacks(stop_early=bool(held)),
    )
    trainer.remove_callback(PrinterCallback)
    last = last_whole(checkpoints)
    watch.begin()  # preparing the trainer is no part of the training
    try:
        if last is None or not finished(trainer, last):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _no_memory(plan, error) from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "out of memory" in str(error):
            raise _no_memory(plan, error) from None
        raise
    out.mkdir(parents=True, exist_ok=True)
    trainer.model.peft_config["default"].base_model_name_or_path = plan.student
    trainer.model.save_pretrained(out, safe_serialization=True, save_embedding_layers=False)
    tokenizer.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's own; the card is written from what this run knows
    state = trainer.state
    return TrainingReport(
        curve=tuple(_point(entry) for entry in state.log_history if "loss" in entry or "eval_loss" in entry),
        best_step=state.best_global_step or state.global_step,
        steps=state.global_step,
        tokens=round(sum(len(row["input_ids"]) for row in encoded) * (state.epoch or 0)),
        seconds=round(watch.seconds(), 1),
        versions=versions("torch", "transformers", "peft", "trl", "accelerate", "datasets"),
        hardware=hardware(),
        backend=backend,
    )


def _arguments(plan: TrainingPlan, rows: int, validated: bool, checkpoints: Path, together: int = 1) -> dict[str, Any]:
    a_pass = math.ceil(rows / plan.batch)
    steps = max(1, math.ceil(plan.epochs * a_pass))
    every = max(1, min(steps, round(a_pass / plan.evaluations)))
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": together,
        "gradient_accumulation_steps": plan.batch // together,
        "per_device_eval_batch_size": together,
        "num_train_epochs": plan.epochs,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.05 * steps)),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": validated,
        "restore_callback_states_from_checkpoint": True,  # how long nothing improved, before and after a pause
        "metric_for_best_model": "eval_loss" if validated else None,
        "greater_is_better": False if validated else None,
        "prediction_loss_only": True,
        "remove_unused_columns": not plan.kl,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "gradient_checkpointing": False,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": plan.seed,
        "data_seed": plan.seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


class _Watch:
    """Follows a training: progress, checkpoints by the clock, a loss that is no number, seconds of all sittings."""

    def __init__(self, plan: TrainingPlan, row_tokens: float, checkpoints: Path, on_event: OnEvent) -> None:
        self._plan, self._row_tokens, self._listen = plan, row_tokens, on_event
        checkpoints.mkdir(parents=True, exist_ok=True)
        self._file = checkpoints / _SITTINGS
        self._before, self._so_far = _seconds(self._file), ""
        self.begin()

    def begin(self) -> None:
        self._begun = self._saved = self._stepped = time.monotonic()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._begun

    def saved(self) -> None:
        self._saved = time.monotonic()
        atomically(self._file, json.dumps(self.seconds()))

    def logged(self, entry: Mapping[str, Any], step: int, steps: int, epoch: float) -> None:
        facts = {"step": step, "steps": steps, "epoch": round(epoch, 3)}
        for name, what in _MEASURED.items():
            value = entry.get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise RaftError(
                    f"The {what} is {value} at step {step}{self._so_far}. Where a checkpoint was written before, "
                    "the same command goes on from it.",
                    where=f"learning rate {self._plan.learning_rate}, rank {self._plan.rank}",
                    hint=f"raft train RUN --set training.learning_rate={self._plan.learning_rate / 4:g}",
                )
            facts[name.replace("eval", "valid")] = value
        self._so_far = f"; at step {step} the loss was {facts['loss']:.4g}" if "loss" in facts else self._so_far
        if "loss" in facts:
            now = time.monotonic()
            facts["tokens_per_second"] = self._plan.batch * self._row_tokens / max(1e-9, now - self._stepped)
            self._stepped = now
        if "loss" in facts or "valid_loss" in facts:
            self._listen(facts)
        if "valid_loss" in facts:  # validating took part of the time
            self._stepped = time.monotonic()

    def callbacks(self, *, stop_early: bool) -> list[Any]:
        from transformers import EarlyStoppingCallback, TrainerCallback

        watch = self

        class _Callback(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                # the scaler of float16 tries steps that are too large, and leaves them out
                logs = {name: value for name, value in (logs or {}).items() if name != "grad_norm" or not args.fp16}
                watch.logged(logs, state.global_step, state.max_steps, state.epoch or 0.0)

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                if time.monotonic() - watch._saved >= 60 * watch._plan.checkpoint_minutes:
                    control.should_save = True
                return control

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch.saved()

        return [_Callback(), *([EarlyStoppingCallback(self._plan.patience)] if stop_early else [])]


def _seconds(file: Path) -> float:
    try:
        return float(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return 0.0


def _point(entry: Mapping[str, Any]) -> dict[str, float]:
    told = {name: float(entry[name]) for name in _MEASURED if math.isfinite(entry.get(name, math.nan))}
    measured = {name.replace("eval", "valid"): round(value, 5) for name, value in told.items()}
    return {"step": entry["step"], "epoch": round(entry["epoch"], 4), **measured}


def _no_memory(plan: TrainingPlan, error: BaseException) -> RaftError:
    return RaftError(
        f"Memory is short: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        where=f"{plan.student}, rows of up to {plan.max_tokens:,} tokens",
        hint="raft train RUN --set training.batch=1   (or build with a smaller examples.max_tokens or --student)",
    )


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """Return the card, or the processor with its cores, and the memory, in words."""
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    processor = f"{platform.machine()} processor, {os.cpu_count()} cores"
    try:
        return f"{processor}, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return processor


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
        on_event: OnEvent,
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
        return run(load, rows, valid, plan, out=out, checkpoints=checkpoints, on_event=on_event, backend="peft")


def load(plan: TrainingPlan) -> tuple[Any, Any]:
    """Return the student, as `pretrained` holds it, with a new adapter (float32), and its tokenizer.

    Raises:
        MissingExtra: peft, transformers or torch is not installed.
        RaftError: the student cannot be loaded, or lacks layers that are to be tuned.
    """
    try:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed
    except ImportError as error:
        raise MissingExtra(error.name or "peft", extra="train", why="to tune a model") from None
    model, tokenizer = pretrained(plan.student, role="student")
    check_layers(model, plan.layers)
    cuda = torch.cuda.is_available()
    set_seed(plan.seed)
    adapter = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=list(LAYERS[plan.layers]) if plan.layers != "all" else "all-linear",  # whatever they are called
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model.to("cuda") if cuda else model, adapter)
    if not cuda:
        use_cpu_kernels(tuned)
    return tuned, tokenizer
