"""Cheaper training steps on a processor, with the same gradients.

Measured on two cores, half of a plain bfloat16 LoRA step goes into the backward pass of torch's attention for
processors and into casts between bfloat16 and float32. This module replaces, in a model that has its adapter:

- attention's backward pass, by matrix products over blocks of queries (the recomputation of FlashAttention-2,
  arXiv 2307.08691, section 3.1.2); the forward pass stays torch's;
- the linear layers with LoRA, whose two small products are done in the base's precision from float32 weights, and
  whose backward pass is written out;
- RMSNorm and SwiGLU, whose backward passes are written out and keep fewer tensors.

A module is replaced only where what replaces it gives the same for some numbers: names alone promise nothing. What the
replacements do not cover (a cache, a mask, another device, an adapter that is switched off) goes the way it went.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from raft.protocols import REHEARSED

QUERIES = 192
"""Most queries of one block of attention's backward pass; smaller blocks skip more of the upper triangle."""
TILE = 16
"""Rows that a processor's matrix products take at once: blocks are made of whole tiles, but for the last."""

IMPLEMENTATION = "raft_cpu_kernels"
"""What transformers calls the attention of a model with these kernels."""

_LENGTHS: ContextVar[tuple[int, ...]] = ContextVar("lengths", default=())


@contextmanager
def end_to_end(lengths: Sequence[int]) -> Iterator[None]:
    """Tell a model with these kernels that the one row it is given is several, laid end to end, of so many tokens each.

    Their `position_ids` must begin at 0 each; a layer that is not replaced reads the same from those.
    """
    token = _LENGTHS.set(tuple(lengths))
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def use_cpu_kernels(model: Any) -> int:
    """Replace what `model` (transformers, with its PEFT adapter) computes slowly on a processor.

    Returns:
        How many linear layers were replaced; 0 when the model's layers are of another make: then all stays as it is.
    """
    from peft.tuners.lora import Linear
    from transformers import AttentionInterface, AttentionMaskInterface

    layers = [module for module in model.modules() if isinstance(module, Linear) and _plain_lora(module)]
    if not layers:
        return 0
    ops = _operations()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            _replace_equal(module, ops.norm_forward, module)
        elif all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            _replace_equal(module, ops.swiglu_forward, module.gate_proj)
    for module in layers:
        module.forward = partial(ops.lora_forward, module.forward, module)  # type: ignore[method-assign]
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(IMPLEMENTATION, ops.attention)
        AttentionMaskInterface.register(IMPLEMENTATION, ops.mask)
        model.config._attn_implementation = IMPLEMENTATION
    return len(layers)


def _replace_equal(module: Any, forward: Any, reader: Any) -> None:
    """Replace a module's forward where both give the same for three vectors of the length that `reader` takes."""
    import torch

    weight = getattr(getattr(reader, "base_layer", reader), "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.requires_grad:
        return
    numbers = torch.linspace(-3.0, 3.0, 3 * weight.shape[-1]).sin().mul_(10).view(1, 3, -1).to(weight)
    with torch.no_grad():
        try:
            theirs, ours = module(numbers), forward(module, numbers)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return
        if isinstance(theirs, torch.Tensor) and bool((theirs - ours).float().norm() <= 1e-4 * theirs.float().norm()):
            module.forward = partial(forward, module)


def _plain_lora(module: Any) -> bool:
    names = module.active_adapters
    if len(names) != 1 or module.merged or type(module.base_layer).__name__ != "Linear":
        return False
    (name,) = names
    if name not in module.lora_A or module.base_layer.weight.requires_grad or getattr(module, "lora_variant", None):
        return False
    plain = not module.use_dora.get(name, False) and not module.lora_bias.get(name, False)
    return plain and type(module.lora_dropout[name]).__name__ == "Identity"


@cache
def _operations() -> Any:
    """The replaced computations; made once torch is there."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    lora, norm, swiglu, attend = _functions(torch)

    def lora_forward(before: Any, module: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        names = module.active_adapters
        if module.disable_adapters or module.merged or len(names) != 1 or args or kwargs:
            return before(x, *args, **kwargs)
        (name,) = names
        base = module.base_layer
        down, up = module.lora_A[name].weight, module.lora_B[name].weight
        return lora.apply(x, base.weight, base.bias, down, up, module.scaling[name])

    def norm_forward(module: Any, x: Any) -> Any:
        return norm.apply(x, module.weight, module.variance_epsilon)

    def swiglu_forward(module: Any, x: Any) -> Any:
        return module.down_proj(swiglu.apply(module.gate_proj(x), module.up_proj(x)))

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        plain = mask is None and query.device.type == "cpu" and query.shape[2:] == key.shape[2:] == value.shape[2:]
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        if not plain or not causal or options.get("dropout") or options.get("position_bias") is not None:
            found: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
            return found
        scaling = options.get("scaling")
        scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
        return attend.apply(query, key, value, scale, _lengths(query)).transpose(1, 2), None

    def mask(*args: Any, attention_mask: Any = None, **options: Any) -> Any:
        new = options.get("q_length") == options.get("kv_length") and not options.get("q_offset")
        lengths = _LENGTHS.get()
        window = options.get("local_size")
        if lengths and new and attention_mask is None and (window is None or window >= max(lengths)):
            return None  # attention keeps the rows apart by itself
        # Padding on the right is behind all that a causal row reads.
        if attention_mask is not None and attention_mask.dim() == 2 and new:
            seen = attention_mask.bool()
            attention_mask = None if bool((seen[:, :-1] >= seen[:, 1:]).all()) else attention_mask
        return sdpa_mask(*args, attention_mask=attention_mask, **options)

    made = SimpleNamespace(lora_forward=lora_forward, norm_forward=norm_forward, swiglu_forward=swiglu_forward)
    made.attention, made.mask = attention, mask
    return made


def _lengths(query: Any) -> tuple[int, ...]:
    batch, _, length, _ = query.shape
    lengths = _LENGTHS.get()
    return lengths if batch == 1 and sum(lengths) == length else (length,)


def _functions(torch: Any) -> tuple[Any, Any, Any, Any]:
    """Return the autograd functions of linear layer with LoRA, RMSNorm, SwiGLU and causal attention."""

    class _Lora(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            x, weight, bias, down, up, scale = given
            flat = x.reshape(-1, x.shape[-1])
            small_down, small_up = down.to(x.dtype), (up * scale).to(x.dtype)
            inner = flat @ small_down.T
            out = torch.addmm(bias, flat, weight.T) if bias is not None else flat @ weight.T
            out.addmm_(inner, small_up.T)
            ctx.save_for_backward(flat, weight, inner, small_down, small_up)
            ctx.scale, ctx.shape = scale, x.shape
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            flat, weight, inner, down, up = ctx.saved_tensors
            grad = grad.reshape(-1, grad.shape[-1])
            through = grad @ up
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight
                grad_x.addmm_(through, down)
                grad_x = grad_x.view(ctx.shape)
            grad_down = (through.T @ flat).float()
            grad_up = (grad.T @ inner).float() * ctx.scale
            return grad_x, None, None, grad_down, grad_up, None

    class _Norm(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, eps: float) -> Any:
            wide = x.float()
            factor = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
            ctx.save_for_backward(x, weight, factor)
            return (wide * factor).to(x.dtype) * weight

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight, factor = ctx.saved_tensors
            inner = (grad * weight).float()
            normed = x.float() * factor
            grad_x = (inner - normed * (inner * normed).mean(-1, keepdim=True)) * factor
            return grad_x.to(x.dtype), None, None

    class _Swiglu(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, gate: Any, up: Any) -> Any:
            ctx.save_for_backward(gate, up)
            return torch.nn.functional.silu(gate).mul_(up)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            gate, up = ctx.saved_tensors
            grad_up = torch.nn.functional.silu(gate).mul_(grad)
            grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
            return grad_gate, grad_up

    def _with_columns(rows: Any, extra: Any) -> Any:
        # What is subtracted from every product of a row rides along as two columns, so that products come out near
        # zero and lose nothing to bfloat16; two, because one would round it.
        high = extra.to(rows.dtype)
        return torch.cat([rows, high, (extra - high.float()).to(rows.dtype)], -1)

    def _with_ones(rows: Any) -> Any:
        return torch.cat([rows, rows.new_ones(*rows.shape[:2], 2)], -1)

    def _grouped(part: Any, groups: int) -> Any:
        # [rows, heads, tokens, size] to [rows x groups, heads of a group x tokens, size]
        rows, heads, tokens, size = part.shape
        return part.reshape(rows * groups, heads // groups * tokens, size)

    def _shares(rows: Any, keys: Any, own: int) -> Any:
        # A product in bfloat16 lacks up to 1 part in 256 of the exponent. What it lacks is the same product once more
        # with the first subtracted before anything is rounded, and is near zero. The last `own` keys are the queries'.
        scores = rows @ keys
        shares = scores.exp()
        shares.view(len(shares), -1, own, shares.shape[-1])[..., -own:].tril_()
        if scores.dtype == torch.bfloat16:
            shares.addcmul_(shares, scores.baddbmm_(rows, keys, beta=-1))
        return shares

    class _Attend(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            query, key, value, scale, lengths = given
            shared = query.shape[1] // key.shape[1]
            wide_key = key.repeat_interleave(shared, 1) if shared > 1 else key
            wide_value = value.repeat_interleave(shared, 1) if shared > 1 else value
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            parts = zip(*(part.split(lengths, 2) for part in (query, wide_key, wide_value)), strict=True)
            found = [flash(*part, 0.0, True, scale=scale) for part in parts]
            out, lse = found[0] if len(found) == 1 else (torch.cat(part, 2) for part in zip(*found, strict=True))
            ctx.save_for_backward(query, key, value, out, lse)
            ctx.scale, ctx.lengths = scale, lengths
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            query, key, value, out, lse = ctx.saved_tensors
            grads = [torch.empty_like(part) for part in (query, key, value)]
            given = (query, key, value, grad, out, lse.unsqueeze(-1), *grads)
            for row in zip(*(part.split(ctx.lengths, 2) for part in given), strict=True):
                _backward(row[:6], row[6:], ctx.scale)
            return *grads, None, None

    def _backward(given: Any, grads: Any, scale: float) -> None:
        (query, key, value, grad, out, lse), (to_query, to_key, to_value) = given, grads
        batch, heads, length, size = query.shape
        groups = key.shape[1]
        shared = heads // groups
        rows, parts = _grouped(query, groups), _grouped(grad, groups)
        offset = (parts.float() * _grouped(out, groups).float()).sum(-1, keepdim=True)
        wide_rows = _with_columns(rows * scale, -_grouped(lse, groups).float())
        wide_parts = _with_columns(parts, -offset)
        keys, values = key.reshape(-1, length, size), value.reshape(-1, length, size)
        wide_keys, wide_values = _with_ones(keys).transpose(1, 2), _with_ones(values).transpose(1, 2)
        key_sum, value_sum = (torch.zeros(keys.shape, dtype=torch.float32) for _ in range(2))
        # blocks of one size: a short rest would pay for a whole block's reading and writing
        queries = math.ceil(length / math.ceil(length / QUERIES) / TILE) * TILE
        for start in range(0, length, queries):
            end = min(start + queries, length)

            def block(part: Any, start: int = start, end: int = end) -> Any:
                if end - start == length:
                    return part
                return part.view(-1, shared, length, part.shape[-1])[:, :, start:end].flatten(1, 2)

            share = _shares(block(wide_rows), wide_keys[:, :, :end], end - start)
            inner = (block(wide_parts) @ wide_values[:, :, :end]).mul_(share)
            by_value = share.transpose(1, 2) @ block(parts)
            by_key = inner.transpose(1, 2) @ block(rows)
            query_grad = (inner @ keys[:, :end]).view(batch, heads, end - start, size)
            torch.mul(query_grad, scale, out=to_query[:, :, start:end])
            if end - start == length:
                value_sum, key_sum = by_value, by_key
            else:
                value_sum[:, :end] += by_value
                key_sum[:, :end] += by_key
        to_value.copy_(value_sum.view(to_value.shape))
        torch.mul(key_sum.view(to_key.shape).to(to_key.dtype), scale, out=to_key)

    return _Lora, _Norm, _Swiglu, _Attend


TOGETHER = 2**21
"""Numbers of one layer's input that rows computed together may have: it bounds the memory that they take."""
LAYER_BYTES = 34
"""Bytes that one number of a layer's input costs until the backward pass, attention scores left out (arXiv 2205.05198,
section 4.1)."""
LOGIT_BYTES = 10
"""Bytes of one logit: in half precision, as float32, and its gradient."""
SHARE_OF_CARD = 0.5
"""Share of a card's free memory that rows computed together may take; the rest is for what the estimate leaves out."""


def beside(model: Any, longest: int, batch: int, *, apart: bool = False) -> int:
    """Return how many rows of an optimiser step are computed at once: a divisor of `batch`, 1 where layers mix rows.

    Args:
        model: the student with its adapter; one on a processor without these kernels computes rows one by one.
        longest: tokens of the longest row.
        batch: rows of an optimiser step.
        apart: the model is known to keep rows apart; otherwise it is tried out.
    """
    config = model.config.get_text_config()
    if model.device.type == "cuda":
        import torch

        most = rows_on_card(config, longest, torch.cuda.mem_get_info(model.device)[0])
    elif getattr(model.config, "_attn_implementation", None) == IMPLEMENTATION:
        most = TOGETHER // (config.hidden_size * longest)
    else:
        return 1
    rows = max((rows for rows in range(1, batch + 1) if batch % rows == 0 and rows <= most), default=1)
    return rows if rows > 1 and (apart or _kept_apart(model)) else 1


def rows_on_card(config: Any, longest: int, free: int) -> int:
    """Return how many rows of `longest` tokens fit on a card together, as far as can be told beforehand.

    Args:
        config: of the student (transformers).
        longest: tokens of the longest row.
        free: bytes of the card that are free once the student is loaded.
    """
    token = LAYER_BYTES * config.hidden_size * config.num_hidden_layers + LOGIT_BYTES * config.vocab_size
    return int(SHARE_OF_CARD * free / (token * longest))


def pack(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Return rows (`input_ids`, `labels`, maybe `REHEARSED`) as tensors (1, tokens), with positions that begin anew."""
    import torch

    names = [name for name in ("input_ids", "labels", REHEARSED) if name in rows[0]]
    return {
        **{name: torch.tensor([[number for row in rows for number in row[name]]]) for name in names},
        "position_ids": torch.tensor([[place for row in rows for place in range(len(row["input_ids"]))]]),
    }


def unpacked(inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return the context in which those kernels keep the rows of `pack` apart; without positions there is one row."""
    positions = inputs.get("position_ids")
    begins = [] if positions is None else positions[0].eq(0).nonzero().squeeze(1).tolist()
    ends = [*begins[1:], inputs["input_ids"].shape[1]]
    return end_to_end([end - begin for begin, end in zip(begins, ends, strict=False)])


def _kept_apart(model: Any) -> bool:
    """Tell whether a row says the same behind another as alone: a layer that looks back too far says else."""
    import torch

    ids = torch.arange(2, 14) % model.config.get_text_config().vocab_size
    rows = [{"input_ids": part.tolist(), "labels": part.tolist()} for part in (ids, ids.flip(0)[:7])]
    told = []
    with torch.no_grad():
        for given in (rows, rows[1:]):
            inputs = {name: tensor.to(model.device) for name, tensor in pack(given).items()}
            with unpacked(inputs):
                told.append(model(**{**inputs, "labels": None}, use_cache=False).logits[0, -7:].float())
    return bool((told[0] - told[1]).norm() <= 0.05 * told[1].norm())
