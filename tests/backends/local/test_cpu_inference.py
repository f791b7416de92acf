"""Writing one token at a time: the same tokens as with torch's own attention."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raft.backends.local import cpu_inference  # noqa: E402  needs torch
from tiny_models import makers  # noqa: E402  needs transformers

MAKERS = makers(window=12)


def pair(name):
    """Return a plain model and one with the cheaper attention, with equal weights."""
    torch.manual_seed(0)
    plain = MAKERS[name]().eval()
    light = copy.deepcopy(plain)
    assert cpu_inference.use_cpu_attention(light)
    return plain, light


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_tokens_are_written(name, monkeypatch):
    """Rows of unequal length, padded in front or in between, are continued as torch's own attention continues them."""
    plain, light = pair(name)
    steps = []
    monkeypatch.setattr(cpu_inference, "_read_next", _noting(cpu_inference._read_next, steps))
    ids = torch.randint(3, 96, (3, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    mask[2, 5:11] = 0
    options = {
        "input_ids": ids,
        "attention_mask": mask,
        "max_new_tokens": 14,
        "do_sample": False,
        "pad_token_id": 0,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    wanted = plain.generate(**options)
    steps.clear()
    found = light.generate(**options)
    assert len(steps) == 13 * 2, "each layer of each step but the first"
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found.logits, wanted.logits, strict=True))


def _noting(call, steps):
    def noting(*given):
        steps.append(1)
        return call(*given)

    return noting


def test_without_padding_there_is_nothing_to_mask():
    """A single row has the logits of torch's own attention at every step."""
    plain, light = pair("llama")
    ids = torch.arange(5, 17)[None]
    with torch.inference_mode():
        wanted = plain(ids).logits
        cache = light(ids[:, :8], use_cache=True).past_key_values
        for place in range(8, 12):
            step = light(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            assert torch.allclose(step.logits[:, -1], wanted[:, place], atol=1e-4)


def test_a_model_with_another_attention_stays_as_it_is():
    """A model that was loaded with eager attention keeps it."""
    plain = MAKERS["llama"]()
    plain.config._attn_implementation = "eager"
    assert not cpu_inference.use_cpu_attention(plain)
    assert plain.config._attn_implementation == "eager"


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_read_behind_other_tokens(name, learning):
    """Several tokens behind others have the logits of torch's own attention, with gradients or without."""
    plain, light = pair(name)
    ids = torch.randint(3, 96, (2, 30), generator=torch.Generator().manual_seed(2))
    with torch.set_grad_enabled(learning):
        found = []
        for model in (plain, light):
            cache = model(ids[:, :9], use_cache=True).past_key_values
            found.append(model(ids[:, 9:], past_key_values=cache).logits)
    assert found[0].requires_grad == learning
    assert torch.allclose(*found, atol=1e-4)


def test_the_next_token_weighs_as_exactly_as_torch():
    """In bfloat16 too, the weights of what stands before a token are off by their own rounding alone."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 6, 1, 64).mul(4).bfloat16(), torch.randn(2, 2, 64, 64).bfloat16()
    mask = torch.ones(2, 1, 1, 64, dtype=torch.bool)
    mask[1, :, :, :20] = False
    scores = query.double() @ key.double().repeat_interleave(3, 1).mT / 8
    wanted = scores.masked_fill(~mask, -torch.inf).softmax(-1).transpose(1, 2)
    # with the unit matrix as its values, attention is the weights themselves
    values = torch.eye(64).bfloat16().expand(2, 2, 64, 64)
    found, seen = cpu_inference._attention(None, query, key, values, mask)[0].double(), wanted > 1e-6
    assert float(((found - wanted).abs() / wanted)[seen].max()) < 0.008
    assert float(found[~seen].max()) < 2e-6
