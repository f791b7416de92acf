"""Models on this machine: what a batch writes is what each of its rows would write."""

import functools

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raft.backends.local import cpu_inference  # noqa: E402  needs torch
from raft.backends.local import generate as local  # noqa: E402  needs torch
from tiny_models import makers  # noqa: E402  needs transformers

MAKERS = makers(window=12)
MOST = 24


def batch():
    """Return the token ids and the mask of six rows, some padded in front and some in between."""
    ids = torch.randint(3, 96, (6, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    mask[2, 5:11] = 0
    mask[4, 2:13] = 0
    return ids, mask


def until(tokens, ends):
    """Return the tokens before the first end."""
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0]] if places else tokens


def ends_of(continued):
    """Return tokens that end some rows early and others late: what each other row wrote at places far apart."""
    return {row[place] for row, place in zip(continued[::2], (1, 8, 15), strict=True)}


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", MAKERS)
@torch.inference_mode()
def test_rows_that_go_on_alone_write_the_same(name, cached, monkeypatch):
    """Rows whose neighbours have ended are continued as if they had not, with fewer rows in each later step."""
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    cpu_inference.use_cpu_attention(model)
    ids, mask = batch()
    model.generation_config.eos_token_id = None
    whole = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MOST, do_sample=False, pad_token_id=0)
    continued = whole[:, ids.shape[1] :].tolist()
    ends = ends_of(continued)
    model.generation_config.eos_token_id = sorted(ends)
    sizes, prepare = [], model.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def noting(given, **options):
        sizes.append(len(given))
        return prepare(given, **options)

    monkeypatch.setattr(model, "prepare_inputs_for_generation", noting)
    if not cached:
        monkeypatch.delattr(transformers.cache_utils.DynamicLayer, "batch_select_indices")
    found = local._written(model, ids, mask, None, ends={0, *ends}, most=MOST, do_sample=False, pad_token_id=0)
    assert [until(row, {0, *ends}) for row in found] == [until(row, {0, *ends}) for row in continued]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] == len(ids)


@torch.inference_mode()
def test_rows_that_are_sampled_stay_together(monkeypatch):
    """Where tokens are drawn, a batch is one call from its beginning to its end."""
    torch.manual_seed(0)
    model = MAKERS["llama"]().eval()
    ids, mask = batch()
    calls, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **options: (calls.append(1), generate(**options))[1])
    model.generation_config.eos_token_id = list(range(48))
    found = local._written(model, ids, mask, None, ends=set(range(48)), most=MOST, do_sample=True, pad_token_id=0)
    assert len(calls) == 1
    assert len(found) == len(ids)


def rows_of(ids, mask):
    """Return the tokens of each row without its padding, all behind the same six."""
    return [
        [5, 6, 7, 8, 9, 10, *(token for token, seen in zip(*row, strict=True) if seen)]
        for row in zip(ids.tolist(), mask.tolist(), strict=True)
    ]


@pytest.mark.parametrize("shared", [0, 6])
@pytest.mark.parametrize("name", [name for name in MAKERS if "window" not in name])
@torch.inference_mode()
def test_prompts_read_alone_are_continued_as_in_a_batch(name, shared, monkeypatch):
    """Prompts that were read by themselves, behind a prefix or not, go on as transformers' padded batch does."""
    monkeypatch.setattr(cpu_inference, "WORTH_IT", 1)
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    model.generation_config.eos_token_id = None
    rows = rows_of(*batch())
    pads = [max(map(len, rows)) - len(row) for row in rows]
    ids = torch.tensor([[0] * count + row for count, row in zip(pads, rows, strict=True)])
    mask = torch.tensor([[0] * count + [1] * len(row) for count, row in zip(pads, rows, strict=True)])
    wanted = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=MOST,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert cpu_inference.use_cpu_attention(model)
    prefix = model(torch.tensor([rows[0][:shared]]), use_cache=True).past_key_values if shared else None
    cache = cpu_inference.read_alone(model, rows, shared, prefix)
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=MOST,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        past_key_values=cache,
    )
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found.logits, wanted.logits, strict=True))
    if shared:
        assert prefix.get_seq_length() == shared, "the prefix is left as it was"


@torch.inference_mode()
def test_what_is_not_worth_reading_alone(monkeypatch):
    """A single prompt, short ones, and a model whose layers look back a little only are read together."""
    model = MAKERS["llama"]().eval()
    rows = rows_of(*batch())
    assert cpu_inference.read_alone(model, rows, 0, None) is None
    monkeypatch.setattr(cpu_inference, "WORTH_IT", 1)
    assert cpu_inference.read_alone(model, rows[:1], 0, None) is None
    assert cpu_inference.read_alone(model, rows, 0, None) is not None
    assert cpu_inference.read_alone(MAKERS["mistral with a window"]().eval(), rows, 0, None) is None
