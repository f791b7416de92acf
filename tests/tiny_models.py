"""Tiny models of several makes with random weights, for what must be the same in all of them."""

from functools import partial

import transformers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}


def _made(model, config, **sizes):
    return model(config(**(SIZES | sizes)))


def makers(*, window):
    """Return by its name what makes a model; the last one sees `window` tokens back."""
    llama = transformers.LlamaForCausalLM, transformers.LlamaConfig
    return {
        "llama": partial(_made, *llama),
        "llama without groups": partial(_made, *llama, num_key_value_heads=4),
        "qwen2 with bias": partial(_made, transformers.Qwen2ForCausalLM, transformers.Qwen2Config),
        "qwen3": partial(_made, transformers.Qwen3ForCausalLM, transformers.Qwen3Config, head_dim=8),
        "mistral with a window": partial(
            _made, transformers.MistralForCausalLM, transformers.MistralConfig, sliding_window=window
        ),
    }
