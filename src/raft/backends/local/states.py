"""What a causal language model makes of a text by the middle of its layers: vectors, as an embedder's."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from raft.backends import hub
from raft.backends.local.generate import BATCH_TOKENS, BATCH_TOKENS_ELSEWHERE, batches, tokens
from raft.backends.local.weights import Weights
from raft.errors import RaftError
from raft.protocols import Tokenizer

DEPTH = 0.6
"""Share of the layers that a text passes. What a model knows of its prompt is told best by its middle layers, and the
rest is not computed (benchmarks/results, 2026-11-29-refusal)."""


class _Reached(Exception):
    """No error: it ends a pass through the layers early."""


class StateEmbedder:
    """Embeds a text as the hidden state at its end (`protocols.Embedder`), by an untuned model of this machine.

    Args:
        name: a hub name, a folder, or an embedded default.
        weights: the model's weights, where others share them.

    Raises:
        RaftError: there is no such model.
    """

    window = 64
    """Texts that are kept together: what a kill loses."""

    def __init__(self, name: str, weights: Weights | None = None) -> None:
        self._weights = weights or Weights(name)
        self.tokenizer: Tokenizer = hub.tokenizer(name)
        self.max_tokens = hub.context_length(name) or 2**31
        self.identity = f"{hub.identity(name)}:bfloat16:state {DEPTH}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), hidden size); a text may be a rendered chat.

        What is longer than the model reads loses its beginning.
        """
        import torch

        model, tokenizer = self._weights.use(None)
        rows: dict[tuple[int, ...], list[int]] = {}
        for place, ids in enumerate(tokens(tokenizer, texts) if texts else ()):
            rows.setdefault(tuple(ids[-self.max_tokens :]), []).append(place)
        blocks = _blocks(model)
        found = np.zeros((len(texts), model.config.get_text_config().hidden_size), dtype=np.float32)
        reached: list[Any] = []  # rows are padded on the right, since no position attends to what follows it

        def stop(_block: Any, _inputs: Any, output: Any) -> None:
            reached.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        hook = blocks[max(1, round(DEPTH * len(blocks))) - 1].register_forward_hook(stop)
        try:
            for batch in batches(rows, BATCH_TOKENS.get(model.device.type, BATCH_TOKENS_ELSEWHERE)):
                width = len(batch[0])
                padded = [[*row, *[row[-1]] * (width - len(row))] for row in batch]
                with torch.inference_mode(), suppress(_Reached):
                    model(input_ids=torch.tensor(padded, device=model.device), use_cache=False)
                state = reached.pop()[range(len(batch)), [len(row) - 1 for row in batch]].float().cpu().numpy()
                for row, own in zip(batch, state, strict=True):
                    found[rows[row]] = own
        finally:
            hook.remove()
        return found


def _blocks(model: Any) -> Any:
    """Return the model's layers: the list of modules that is as long as its configuration says."""
    import torch

    count = model.config.get_text_config().num_hidden_layers
    for part in model.modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == count:
            return part
    raise RaftError(
        f"The layers of a {type(model).__name__} are not where a refusal head looks for them.",
        hint="--set answering.false_answers=0   (and answering.min_relevance in its place)",
    )
