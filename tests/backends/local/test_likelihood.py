"""Log-likelihoods of continuations: those of a plain loop, whatever is shared and batched."""

import math
import random

import pytest

from raft.errors import RaftError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raft.backends.local.generate import score  # noqa: E402  needs torch

WINDOW = 24
TEXT = "The pump is returned within 30 days. Is it? yes no maybe. Question: who pays?\nAnswer: the trade desk pays."
PAIRS = [
    ("Is the pump returned?\nAnswer:", " yes"),
    ("Is the pump returned?\nAnswer:", " no"),
    ("Is the pump returned?\nAnswer:", " maybe the trade desk"),
    ("Is the pump returned?\nAnswer:", " maybe"),
    ("Is the pump returned?\nAnswer: ", "yes"),
    ("Who pays?", " the trade desk pays."),
    ("Who pays?", " the trade desk pays."),
    ("", "yes"),
    ("the", " trade"),
    ("Who pays? the trade", " desk pays."),
    ("xqz" * 30, " pays"),
]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level tokenizer with some words of its own."""
    from tokenizers import ByteLevelBPETokenizer

    rust = ByteLevelBPETokenizer()
    rust.train_from_iterator([TEXT] * 4, vocab_size=330, min_frequency=2, special_tokens=["<s>"], show_progress=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rust._tokenizer, bos_token="<s>")


@pytest.fixture(scope="module")
def model(tokenizer):
    """A tiny llama with random weights, in float32, whose choices are far from even."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.4,
    )
    return transformers.LlamaForCausalLM(config).eval()


def naive(model, ids, length):
    """Return the score of the last `length` tokens of one text: one text, all logits, one token after the other."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    total, greedy = 0.0, True
    for place in range(len(ids) - length, len(ids)):
        total += float(torch.log_softmax(logits[place - 1], -1)[ids[place]])
        greedy = greedy and int(logits[place - 1].argmax()) == ids[place]
    return total, greedy, length


def expected(model, tokenizer, context, continuation):
    """Return the score of a pair of which the context's tokens begin the whole's."""
    context, continuation = context.rstrip(" "), context[len(context.rstrip(" ")) :] + continuation
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    assert len(whole) > len(before)
    length = len(whole) - len(before)
    whole = whole if before else [tokenizer.bos_token_id, *whole]
    return naive(model, whole[-WINDOW - 1 :], length)


def same(got, wanted):
    """Tell whether two lists of scores agree, but for rounding."""
    return len(got) == len(wanted) and all(
        math.isclose(a[0], b[0], abs_tol=1e-3) and a[1:] == b[1:] for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("batch_tokens", [None, 1, 40])
def test_scores_are_those_of_a_plain_loop(model, tokenizer, batch_tokens):
    """Batches, shared reading and picked logits give what one text at a time gives."""
    wanted = [expected(model, tokenizer, *pair) for pair in PAIRS]
    assert same(score(model, tokenizer, PAIRS, batch_tokens=batch_tokens), wanted)
    assert {length for _, _, length in wanted} >= {1, 3}, "one token and several are tried"


def test_what_a_model_does_to_its_logits_is_done(tokenizer):
    """A model that caps its logits, and has an adapter, is scored as it speaks."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=WINDOW,
        initializer_range=0.4,
        final_logit_softcapping=2.0,
    )
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(transformers.Gemma2ForCausalLM(config), lora).eval()
    scores = score(model, tokenizer, PAIRS)
    assert same(scores, [expected(model, tokenizer, *pair) for pair in PAIRS])
    with model.disable_adapter():
        assert not same(score(model, tokenizer, PAIRS), scores)


def test_what_a_model_would_write_is_greedy(model, tokenizer):
    """A continuation that the model writes itself is greedy, and with another last token it is not."""
    context = tokenizer("Who pays?", add_special_tokens=False)["input_ids"]
    out = model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False, pad_token_id=0)[0].tolist()
    written = [tokenizer.decode(out[len(context) : end]) for end in (len(out) - 1, len(out))]
    others = [written[1] + " pays", written[0] + " trade"]
    texts = [*written, *others]
    scores = score(model, tokenizer, [("Who pays?", text) for text in texts])
    again = [tokenizer("Who pays?" + text, add_special_tokens=False)["input_ids"] for text in texts]
    for ids, (_, greedy, _) in zip(again, scores, strict=True):
        assert greedy is naive(model, ids, len(ids) - len(context))[1]
    assert {greedy for _, greedy, _ in scores} == {True, False}


def test_the_order_of_pairs_changes_no_figure(model, tokenizer):
    """The same pairs in another order have exactly the same scores."""
    draw = random.Random(0)
    plain = dict(zip(PAIRS, score(model, tokenizer, PAIRS, batch_tokens=64), strict=True))
    for _ in range(5):
        shuffled = draw.sample(PAIRS, len(PAIRS))
        assert score(model, tokenizer, shuffled, batch_tokens=64) == [plain[pair] for pair in shuffled]


def test_labels_of_one_context_are_read_once(model, tokenizer):
    """Continuations that differ in their last token are scored with one reading, and few logits are computed."""
    read, computed = [], []
    inner = model.model.register_forward_pre_hook(
        lambda _m, _a, given: read.append(given["input_ids"].shape), with_kwargs=True
    )
    outer = model.lm_head.register_forward_hook(lambda _m, _a, logits: computed.append(logits.shape[:-1].numel()))
    try:
        scores = score(model, tokenizer, PAIRS[:2] + PAIRS[3:4])
    finally:
        inner.remove()
        outer.remove()
    assert [length for _, _, length in scores] == [1, 1, 1]
    assert [shape[0] for shape in read] == [1]
    assert computed == [1]
    assert not model.lm_head._forward_pre_hooks, "nothing is left behind in the model"


def test_a_token_across_the_boundary_belongs_to_the_continuation(model, tokenizer):
    """Where the last letters of a context and the first of its continuation are one token, that token is scored."""
    whole = tokenizer("Is the", add_special_tokens=False)["input_ids"]
    alone = tokenizer("Is th", add_special_tokens=False)["input_ids"]
    assert whole[: len(alone)] != alone
    (got,) = score(model, tokenizer, [("Is th", "e")])
    assert same([got], [naive(model, whole, 1)])


def test_a_rendered_chat_keeps_its_line_end(model, tokenizer):
    """The line end that a chat's template ends with stays in the context, and nothing is put before it."""
    context = "<s>user who pays?\n<s>desk\n"
    (got,) = score(model, tokenizer, [(context, "yes")])
    ids = tokenizer(context + "yes", add_special_tokens=False)["input_ids"]
    length = len(ids) - len(tokenizer(context, add_special_tokens=False)["input_ids"])
    assert ids.count(tokenizer.bos_token_id) == 2
    assert same([got], [naive(model, ids[-WINDOW - 1 :], length)])


def test_nothing_costs_nothing(model, tokenizer):
    """An empty continuation is certain, and no pairs have no scores."""
    assert score(model, tokenizer, []) == []
    assert score(model, tokenizer, [("Who pays?", ""), ("", "")]) == [(0.0, True, 0)] * 2


def test_what_cannot_be_scored_is_said(model, tokenizer):
    """A continuation that does not fit the window, and an empty context without a first token, are errors."""
    with pytest.raises(RaftError, match=f"reads {WINDOW} at most"):
        score(model, tokenizer, [("Who?", "xq" * WINDOW)])
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(RaftError, match="context is empty"):
        score(model, bare, [("", "yes")])
