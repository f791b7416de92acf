"""Cheaper training steps: the loss and the gradients of plain PEFT, at any length, and nothing else changed."""

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from raft.backends.trainers.cpu_kernels import QUERIES, _functions, end_to_end, use_cpu_kernels  # noqa: E402  needs torch
from raft.settings.sections import LAYERS  # noqa: E402
from tiny_models import SIZES, makers  # noqa: E402  needs transformers

VOCABULARY = SIZES["vocab_size"]
MAKERS = makers(window=100)


def tuned(base, dtype=torch.float32, **lora):
    """Put an adapter whose update is not zero, in float32, on a base of some precision."""
    torch.manual_seed(1)
    for name, weight in base.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}
    model = peft.get_peft_model(base.to(dtype), peft.LoraConfig(**options | lora, task_type="CAUSAL_LM"))
    return model.train()


def pair(name, dtype=torch.float32):
    """Return a plain model and one with the kernels, with equal weights."""
    torch.manual_seed(0)
    plain = tuned(MAKERS[name](), dtype)
    cheap = copy.deepcopy(plain)
    assert use_cpu_kernels(cheap) == 14
    return plain, cheap


def tokens(length, rows=1):
    """Return `rows` random rows of token ids."""
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))


def learned(model, ids, labels=None, mask=None):
    """Return loss and gradients of one step."""
    model.zero_grad()
    loss = model(input_ids=ids, attention_mask=mask, labels=ids if labels is None else labels).loss
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(weight.grad is None for weight in model.parameters() if not weight.requires_grad)
    return loss.item(), found


def off(one, other):
    """Return how far two tensors are apart, relative to the length of the first."""
    return ((one - other).norm() / one.norm()).item()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("length", [5, QUERIES - 1, QUERIES, QUERIES + 1, 600])
def test_loss_and_gradients_are_those_of_plain_peft(name, length):
    """In float32 each gradient agrees to one part in ten thousand, whatever the length has to do with the blocks."""
    plain, cheap = pair(name)
    wanted, found = (learned(model, tokens(length)) for model in (plain, cheap))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert wanted[1].keys() == found[1].keys()
    assert all(float(gradient.norm()) > 0 for gradient in wanted[1].values())
    assert {key: off(wanted[1][key], found[1][key]) for key in found[1]} == pytest.approx(
        dict.fromkeys(found[1], 0.0), abs=1e-4
    )


@pytest.mark.parametrize("name", ["llama", "qwen2 with bias"])
@pytest.mark.parametrize("layers", LAYERS)
def test_layers_without_an_adapter_pass_gradients_on(name, layers):
    """Whichever layers carry the adapter, loss and gradients are those of plain PEFT, and those layers are replaced."""
    torch.manual_seed(0)
    plain = tuned(MAKERS[name](), target_modules=list(LAYERS[layers]))
    cheap = copy.deepcopy(plain)
    assert use_cpu_kernels(cheap) == 2 * len(LAYERS[layers])
    wanted, found = (learned(model, tokens(QUERIES + 30)) for model in (plain, cheap))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert {key: off(wanted[1][key], found[1][key]) for key in found[1]} == pytest.approx(
        dict.fromkeys(wanted[1], 0.0), abs=1e-4
    )


@pytest.mark.parametrize("name", ["llama", "qwen2 with bias"])
def test_gradients_of_a_bfloat16_base_point_the_same_way(name):
    """With the base in bfloat16, all gradients together and each alone have nearly the direction of plain PEFT's."""
    plain, cheap = pair(name, torch.bfloat16)
    wanted, found = (learned(model, tokens(300)) for model in (plain, cheap))
    assert found[0] == pytest.approx(wanted[0], rel=0.01)
    cosine = torch.nn.functional.cosine_similarity
    for key, gradient in wanted[1].items():
        assert found[1][key].dtype == torch.float32
        assert float(cosine(gradient.flatten(), found[1][key].flatten(), dim=0)) > 0.97, key
    whole = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (wanted[1], found[1])]
    assert float(cosine(*whole, dim=0)) > 0.99


def test_rows_padded_on_the_right_are_learned_as_alone():
    """Two rows in one batch, the shorter padded, have the loss and the gradients of both alone."""
    _, cheap = pair("llama")
    long, short = tokens(300), tokens(180)
    ids = torch.zeros(2, 300, dtype=torch.long)
    ids[0], ids[1, :180] = long[0], short[0]
    mask = torch.zeros_like(ids)
    mask[0], mask[1, :180] = 1, 1
    labels = ids.masked_fill(mask == 0, -100)
    together, gradients = learned(cheap, ids, labels, mask)
    (first, one), (second, other) = learned(cheap, long), learned(cheap, short)
    assert together == pytest.approx((first * 299 + second * 179) / 478, rel=1e-5)
    for key, gradient in gradients.items():
        assert off(gradient, (one[key] * 299 + other[key] * 179) / 478) < 1e-4


@pytest.mark.parametrize("name", MAKERS)
def test_rows_laid_end_to_end_are_learned_as_alone(name):
    """Rows computed as one have the loss and the gradients of each by itself, longer or shorter than a window."""
    plain, cheap = pair(name)
    rows = [tokens(length) for length in (40, QUERIES + 70, 3)]
    lengths = [row.shape[1] for row in rows]
    ids, places = torch.cat(rows, 1), torch.cat([torch.arange(length) for length in lengths])[None]
    labels = torch.cat([torch.cat([torch.full((1, 1), -100), row[:, 1:]], 1) for row in rows], 1)
    cheap.zero_grad()
    with end_to_end(lengths):
        loss = cheap(input_ids=ids, position_ids=places, labels=labels, use_cache=False).loss
    loss.backward()
    alone, learned_tokens = [learned(plain, row) for row in rows], sum(lengths) - len(rows)
    assert loss.item() == pytest.approx(
        sum(one[0] * (length - 1) for one, length in zip(alone, lengths, strict=True)) / learned_tokens, rel=1e-5
    )
    for key, weight in cheap.named_parameters():
        if weight.requires_grad:
            wanted = sum(one[1][key] * (length - 1) for one, length in zip(alone, lengths, strict=True))
            assert off(wanted / learned_tokens, weight.grad) < 1e-4, key


def test_rows_padded_on_the_left_keep_their_mask():
    """Padding before a row is never read: the loss is that of plain PEFT with the same mask."""
    plain, cheap = pair("llama")
    ids, mask = tokens(40, rows=2), torch.ones(2, 40, dtype=torch.long)
    mask[1, :15] = 0
    labels = ids.masked_fill(mask == 0, -100)
    wanted, found = (learned(model, ids, labels, mask) for model in (plain, cheap))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert learned(cheap, ids, labels)[0] != pytest.approx(wanted[0], rel=1e-3), "the mask matters"
    assert max(off(wanted[1][key], found[1][key]) for key in found[1]) < 1e-4


def test_generation_goes_on_as_before():
    """With a cache, a batch padded on the left is continued as plain PEFT continues it."""
    plain, cheap = (model.eval() for model in pair("llama"))
    ids, mask = tokens(20, rows=2), torch.ones(2, 20, dtype=torch.long)
    mask[1, :9] = 0
    wanted, found = (
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        for model in (plain, cheap)
    )
    assert found.tolist() == wanted.tolist()
    prefix = cheap(ids[:1, :15], use_cache=True).past_key_values
    with torch.no_grad():
        rest = cheap(ids[:1, 15:], past_key_values=prefix).logits
        assert torch.allclose(rest, plain(ids[:1]).logits[:, 15:], atol=1e-4)


def test_an_adapter_can_still_be_switched_off():
    """A model with the kernels says without its adapter what the base says."""
    plain, cheap = pair("llama")
    with torch.no_grad(), plain.disable_adapter(), cheap.disable_adapter():
        assert torch.equal(cheap(tokens(30)).logits, plain(tokens(30)).logits)
    with torch.no_grad():
        assert off(plain(tokens(30)).logits, cheap(tokens(30)).logits) < 1e-5


def test_the_base_learns_nothing():
    """A step changes weights of the adapter alone."""
    _, cheap = pair("qwen2 with bias")
    before = {name: weight.detach().clone() for name, weight in cheap.named_parameters()}
    learned(cheap, tokens(20))
    torch.optim.SGD([weight for weight in cheap.parameters() if weight.requires_grad], 1.0).step()
    changed = {name for name, weight in cheap.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_a_model_of_another_make_stays_as_it_is():
    """What has no such layers is left alone, and learns."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    model = tuned(transformers.GPT2LMHeadModel(config), fan_in_fan_out=True, target_modules=["c_attn"])
    before = learned(model, tokens(30))
    assert use_cpu_kernels(model) == 0
    assert model.config._attn_implementation == "sdpa"
    after = learned(model, tokens(30))
    assert after[0] == before[0]
    assert all(torch.equal(after[1][key], gradient) for key, gradient in before[1].items())


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_an_adapter_of_another_kind_stays_as_it_is(lora):
    """Adapters with dropout or a magnitude of their own are none of this module's business."""
    assert use_cpu_kernels(tuned(MAKERS["qwen2 with bias"](), **lora)) == 0


def test_a_layer_that_only_has_the_names_is_not_replaced():
    """A feed-forward layer with the same parts, which scales its results, keeps its own way of computing."""
    torch.manual_seed(0)
    plain = tuned(MAKERS["llama"]())
    mlp = plain.base_model.model.model.layers[0].mlp

    class Scaled(type(mlp)):
        def forward(self, x):
            return super().forward(x) * 0.5

    mlp.__class__ = Scaled
    cheap = copy.deepcopy(plain)
    assert use_cpu_kernels(cheap) == 14
    wanted, found = (learned(model, tokens(30)) for model in (plain, cheap))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert max(off(wanted[1][key], found[1][key]) for key in found[1]) < 1e-4


@pytest.mark.parametrize("strength", [1, 4])
def test_the_backward_pass_weighs_as_exactly_as_torch(strength):
    """In bfloat16 too, the weights that gradients are made of are off by their own rounding alone."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 64, 64).mul(scale).bfloat16() for scale in (strength, 1, 1))
    attend, true = (
        _functions(torch)[3],
        (query.double() @ key.double().mT / 8 + torch.full((64, 64), -torch.inf).triu(1)),
    )
    wanted, value = true.softmax(-1)[0, 0].T, value.requires_grad_()
    # with the unit matrix as its gradient, that of the values is the weights themselves
    attend.apply(query, key, value, 0.125, (64,)).backward(torch.eye(64).bfloat16()[None, None])
    found, seen = value.grad[0, 0].double(), wanted > 1e-6
    assert float(((found - wanted).abs() / wanted)[seen].max()) < 0.008
    assert float(found[~seen].max()) < 2e-6


def test_gradients_in_bfloat16_are_nearly_as_exact_as_those_of_torch():
    """Against attention in float64, each gradient is at most a fourth of a percent further off than torch's own."""
    torch.manual_seed(0)
    parts = [torch.randn(1, heads, 3 * QUERIES + 5, 64).bfloat16() for heads in (6, 2, 2, 6)]
    attend, found = _functions(torch)[3], []
    plain = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    ours = functools.partial(lambda *given: attend.apply(*given, 0.125, (given[0].shape[2],)))
    for function, dtype in ((plain, torch.float64), (plain, torch.bfloat16), (ours, torch.bfloat16)):
        *given, gradient = (part.to(dtype) for part in parts)
        given = [part.requires_grad_() for part in given]
        found.append([part.double() for part in torch.autograd.grad(function(*given), given, gradient)])
    for wanted, theirs, own in zip(*found, strict=True):
        assert off(wanted, own) < off(wanted, theirs) + 0.0025
