"""Cheaper attention on a processor for the one token that each row of a batch writes at a time.

Heads that share keys and values are computed together. torch's attention wants a copy of keys and values for each head
instead, made anew for every token: measured on two cores, half of the time of a batch went there.
"""

import math
from typing import Any

IMPLEMENTATION = "raft_decoding"
"""What transformers calls the attention of a model that was lightened."""


def lighten(model: Any) -> bool:
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
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    model.config._attn_implementation = IMPLEMENTATION
    return True


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    masked = mask is None or mask.dtype == torch.bool
    special = options.get("dropout") or options.get("position_bias") is not None or options.get("softcap")
    if query.shape[2] != 1 or query.device.type != "cpu" or not masked or special or query.requires_grad:
        found: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
        return found
    batch, heads, _, size = query.shape
    groups, length = key.shape[1:3]
    scaling = options.get("scaling")
    scale = scaling if scaling is not None else 1 / math.sqrt(size)
    rows = query.reshape(batch * groups, heads // groups, size)
    shares = (rows @ key.reshape(batch * groups, length, size).transpose(1, 2)).float().mul_(scale)
    shares = shares.view(batch, heads, length)
    if mask is not None:
        shares.masked_fill_(~mask[:, 0], -math.inf)
    shares = shares.softmax(-1).to(value.dtype).view(batch * groups, heads // groups, length)
    return (shares @ value.reshape(batch * groups, length, size)).view(batch, 1, heads, size), None
