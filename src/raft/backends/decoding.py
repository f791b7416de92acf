"""Cheaper attention on a processor, for reading a prompt behind what was read before and for writing token by token.

Writing, each row of a batch adds one token: heads that share keys and values are computed together. torch's attention
wants a copy of keys and values for each head instead, made anew for every token: measured on two cores, half of the
time of a batch went there.

Reading, tokens see all that was read before and of their own only what stands before them. With a mask torch computes
all pairs; here the two parts are computed by themselves, the second without the pairs that nobody sees, and put
together by the sums of their exponentials (FlashAttention, arXiv 2205.14135, section 3.1).
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
    batch, heads, tokens, size = query.shape
    groups, length = key.shape[1:3]
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
    rows = query.reshape(batch * groups, heads // groups, size)
    shares = (rows @ key.reshape(batch * groups, length, size).transpose(1, 2)).float().mul_(scale)
    shares = shares.view(batch, heads, length)
    if mask is not None:
        shares.masked_fill_(~mask[:, 0], -math.inf)
    shares = shares.softmax(-1).to(value.dtype).view(batch * groups, heads // groups, length)
    return (shares @ value.reshape(batch * groups, length, size)).view(batch, 1, heads, size), None


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
