"""What a training makes smaller: the loss over the answers, and how far the student strays in what it rehearses."""

from collections.abc import Mapping
from typing import Any

from raft.backends.trainers.cpu_kernels import unpacked
from raft.protocols import REHEARSED

NOT_LEARNED = -100
"""The label of a token that carries no loss, as PyTorch's cross entropy has it."""


def trainer_class(kl: float = 0.0) -> Any:
    """Return TRL's trainer; without a CUDA device with a loss that computes logits of learned tokens alone.

    TRL's own loss does so too, in a kernel that only runs on a card. With a weight `kl`, the loss of an optimiser step
    of N learned tokens, of which those of R are in rehearsed rows, is

        (sum over all t of -log p(t) + kl * sum over t in R of KL(p0(. | before t) || p(. | before t))) / N

    where p is the student, and p0 the same with its adapter switched off: learning without forgetting (arXiv
    1606.09282), at temperature 1. The loss of validation rows, by which the best step is chosen, has no such part.
    """
    import torch
    from trl.trainer.sft_trainer import SFTTrainer

    if torch.cuda.is_available() and not kl:
        return SFTTrainer

    class _OwnLossTrainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            rehearsed = inputs.pop(REHEARSED, None)
            taught = None
            if rehearsed is not None and bool(rehearsed.any()):
                rows = {name: tensor[:, rehearsed[0].bool()] for name, tensor in inputs.items()}
                with torch.no_grad(), model.disable_adapter():
                    taught = _read(model, rows)[0].logits[0].float().log_softmax(-1)
            outputs, places = _read(model, inputs)
            wanted, logits = inputs["labels"][:, 1:][:, places], outputs.logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=NOT_LEARNED, reduction="sum"
            )
            if taught is not None:
                said = logits[0, rehearsed[0, 1:][places].bool()].log_softmax(-1)
                far = torch.nn.functional.kl_div(said, taught, log_target=True, reduction="sum")
                self._metrics["train"]["kl"].append(far.item() / len(taught))
                loss = loss + kl * far
            count = (wanted != NOT_LEARNED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = loss / torch.as_tensor(count).clamp(min=1)  # rows without a learned token weigh nothing, not 0 / 0
            return (loss, outputs) if return_outputs else loss

    return _OwnLossTrainer


def _read(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what a model says at the places before learned tokens, and these places."""
    labels = inputs["labels"][:, 1:]  # the first token of a row is never learned, so that rows do not mix here
    places = (labels != NOT_LEARNED).any(0).nonzero().squeeze(1)
    given = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids")}
    with unpacked(inputs):
        return model(**given, use_cache=False, logits_to_keep=places), places
