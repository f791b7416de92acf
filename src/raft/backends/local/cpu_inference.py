"""Reading prompts on a processor: each by itself, without padding, behind what all of them begin with.

A batch pays for every row what its longest costs, and with a mask for pairs of tokens that do not see each other.
Measured on two cores, three quarters of the time of a batch of 32 prompts went into reading it.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

WORTH_IT = 128
"""Fewest tokens of an average prompt that are read by themselves: few at a time are no work for a matrix product."""


def read_alone(model: Any, ids: Sequence[Sequence[int]], shared: int, prefix: Any) -> Any:
    """Return keys and values of all tokens of each prompt but its last, padded in front to equal length.

    Args:
        model: the model (transformers).
        ids: the tokens of each prompt.
        shared: how many tokens all prompts begin with; 0 where `prefix` is None.
        prefix: keys and values of these (transformers' cache of one row), or None.

    Returns:
        None where it is not worth it: for a single prompt or short ones, on a card, and for models that keep other
        things than keys and values of all tokens.
    """
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    own = sum(map(len, ids)) / len(ids) - shared
    if len(ids) == 1 or own < WORTH_IT or model.device.type != "cpu":
        return None
    empty = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in empty.layers):
        return None
    width = max(map(len, ids)) - 1
    stacked: list[list[Any]] = []
    with torch.inference_mode():
        for place, row in enumerate(ids):
            cache = copy.deepcopy(prefix) if prefix is not None else DynamicCache(config=model.config)
            rest = torch.tensor([row[shared:-1]])
            cache = model(rest, use_cache=True, past_key_values=cache, logits_to_keep=1).past_key_values
            for number, layer in enumerate(cache.layers):
                parts = layer.keys, layer.values
                if not place:
                    stacked.append([part.new_zeros(len(ids), part.shape[1], width, part.shape[3]) for part in parts])
                for whole, part in zip(stacked[number], parts, strict=True):
                    whole[place, :, width - len(row) + 1 :] = part[0]
        for number, (keys, values) in enumerate(stacked):
            empty.update(keys, values, number)
    return empty


IMPLEMENTATION = "raft_decoding"
"""What transformers calls the attention of a model that decodes with the cheaper one."""


def use_cpu_attention(model: Any) -> bool:
    """Have `model` (transformers, in use for inference alone) write tokens with the cheaper attention.

    Whatever else is asked of its attention (several tokens at once, another device or mask) goes the way it went.

    Returns:
        Whether it does; not where it has another attention than torch's own, or does not stand on a processor.
    """
    if model.device.type != "cpu" or getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, _attention)

    def mask(*args: Any, **options: Any) -> Any:
        return None if _reads_behind(**options) else sdpa_mask(*args, **options)

    AttentionMaskInterface.register(IMPLEMENTATION, mask)
    model.config._attn_implementation = IMPLEMENTATION
    return True


def _reads_behind(
    *,
    q_length: int = 0,
    kv_length: int = 0,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    attention_mask: Any = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> bool:
    """Tell whether several tokens are read behind others, and see all of those and their own: nothing needs a mask."""
    whole = kv_length == int(q_offset) + q_length and not int(kv_offset) and (local_size or kv_length) >= kv_length
    return attention_mask is None and allow_is_causal_skip and 1 < q_length < kv_length and whole


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    masked = mask is None or mask.dtype == torch.bool
    special = options.get("dropout") or options.get("position_bias") is not None or options.get("softcap")
    tokens, size = query.shape[2:]
    length = key.shape[2]
    scaling = options.get("scaling")
    scale = scaling if scaling is not None else 1 / math.sqrt(size)
    plain = query.device.type == "cpu" and not special and not query.requires_grad
    behind = mask is None and 1 < tokens < length
    if plain and behind:
        return _read_behind(query, key, value, scale), None
    if not plain or tokens != 1 or not masked:
        if behind:
            mask = torch.ones(tokens, length, dtype=torch.bool, device=query.device).tril(length - tokens)
        found: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
        return found
    return _read_next(query, key, value, mask, scale), None


def _read_next(query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
    """Return the attention of one token a row: the heads that share keys are given to torch as tokens of one head.

    So keys are neither repeated nor read twice, and their scores stay in float32.
    """
    import torch

    batch, heads, _, size = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch, groups, heads // groups, size)
    seen = None if mask is None else mask[:, :1]
    out = torch.nn.functional.scaled_dot_product_attention(rows, key, value, attn_mask=seen, scale=scale)
    return out.reshape(batch, 1, heads, size)


def _read_behind(query: Any, key: Any, value: Any, scale: float) -> Any:
    """Return the attention of the last tokens to what stands before each: (rows, tokens, heads, size)."""
    import torch

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    shared = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(shared, 1) if shared > 1 else part for part in (key, value))
    before = key.shape[2] - query.shape[2]
    out, weight = flash(query, keys[:, :, :before], values[:, :, :before], 0.0, False, scale=scale)
    own, own_weight = flash(query, keys[:, :, before:], values[:, :, before:], 0.0, True, scale=scale)
    share = torch.sigmoid(own_weight - weight).unsqueeze(-1)  # of the tokens' own part in the sum of exponentials
    return torch.lerp(out.float(), own.float(), share).to(query.dtype).transpose(1, 2)
