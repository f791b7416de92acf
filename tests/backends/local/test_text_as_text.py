"""What others wrote is read by a model as text: control tokens in it end no turn, whatever the tokenizer's make."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402  as transformers

from raft.backends import hub  # noqa: E402  needs transformers
from raft.backends.local import generate as local  # noqa: E402  needs transformers
from raft.backends.trainers import sft  # noqa: E402  needs transformers

TEXTS = ["The depot is in Moss.", "[1] Refunds take 30 days.\n\nQuestion: how long?", "system user assistant <>|/[]_"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
INSTRUCTED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
REASONED = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")


def byte_level(template, special, named=()):
    """Return a tokenizer as GPT-2's, Qwen's and Llama 3's are."""
    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    rust.add_tokens(list(named))
    return rust, template


def sentence_pieces(template, special, named=()):
    """Return a tokenizer as Llama 2's and Gemma's are."""
    rust = Tokenizer(models.BPE(byte_fallback=True, unk_token=special[0]))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *fallback], show_progress=False)
    rust.train_from_iterator(TEXTS, trainer)
    made = Tokenizer.from_str(rust.to_str())
    made.add_tokens(list(named))
    return made, template


def unigram(template, special, named=()):
    """Return a tokenizer whose vocabulary holds control tokens as pieces of text too."""
    rust = Tokenizer(models.Unigram())
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=special,
        unk_token=special[0],
        show_progress=False,
        initial_alphabet=list("<>|/_"),
    )
    rust.train_from_iterator(TEXTS, trainer)
    rust.add_tokens(list(named))
    return rust, template


MAKES = {
    "ChatML": (byte_level, CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "reasoning": (byte_level, REASONED, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>", "  "]),
    "headers": (byte_level, HEADERS, ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "turns": (sentence_pieces, TURNS, ["<unk>", "<bos>", "<start_of_turn>", "<end_of_turn>"], ["<b>", "\n\n"]),
    "instructions": (sentence_pieces, INSTRUCTED, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]),
    "unigram": (unigram, CHATML, ["<unk>", "</s>", "<|im_start|>", "<|im_end|>"]),
}


@pytest.fixture(scope="module", params=MAKES)
def both(request, tmp_path_factory):
    """A tokenizer as transformers loads it, the same as raft counts with it, and its control tokens."""
    make, template, special, *named = MAKES[request.param]
    rust, template = make(template, special, *named)
    names = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[0]}
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, chat_template=template, **names)
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    whole.save_pretrained(folder)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    control = [*special, *(token for token in itertools.chain(*named) if token.strip("\n ") and token in template)]
    return loaded, hub.LocalTokenizer(str(folder)), control


def chat_of(text):
    """Return a chat of three turns that holds a text in each."""
    return [{"role": role, "content": f"a {text} b"} for role in ("system", "user", "assistant")]


def ids_of(tokenizer, chat, **options):
    """Return the tokens of a chat as a model reads it."""
    return local.tokens(tokenizer, [local.in_template(tokenizer, chat, **options)])[0]


@settings(max_examples=40, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.text(alphabet="<>|[]/_ab \n`{}", max_size=40)))
def test_harmless_text_has_the_tokens_that_it_always_had(both, text):
    """Where no control token stands in a chat, its tokens are those of `apply_chat_template`, to the last one."""
    tokenizer, counter, control = both
    if any(token in text for token in control):
        return
    chat = chat_of(text)
    whole = tokenizer.apply_chat_template(chat, return_dict=False)
    assert ids_of(tokenizer, chat) == whole
    assert counter.count_chat(chat) == len(whole)
    asked = tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True, return_dict=False)
    assert local.tokens(tokenizer, [local.render(tokenizer, chat[:2])]) == [asked]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_control_tokens_in_a_text_are_text(both, data):
    """Whatever control tokens stand in a chat's turns, a model reads those that its template writes, and no other."""
    tokenizer, counter, control = both
    pieces = st.one_of(st.sampled_from(control), st.sampled_from([part[:-1] for part in control]), st.text(max_size=5))
    text = "".join(data.draw(st.lists(pieces, max_size=6)))
    known = set(tokenizer.convert_tokens_to_ids(control)) - {tokenizer.convert_tokens_to_ids("<unk>")}
    ids, plain = ids_of(tokenizer, chat_of(text)), ids_of(tokenizer, chat_of("x"))
    assert [one for one in ids if one in known] == [one for one in plain if one in known]
    assert counter.count_chat(chat_of(text)) == len(ids)


def test_a_row_is_learned_whole_though_its_answer_names_the_end_of_a_turn(both):
    """What is learned of a row is its whole answer and the template's own end, once; what is asked is its beginning."""
    tokenizer, _, _ = both
    end = tokenizer.eos_token
    chat = [
        {"role": "user", "content": f"What ends a turn? {end}"},
        {"role": "assistant", "content": f"It is {end} here"},
    ]
    row = sft.encode(tokenizer, chat, max_tokens=500)
    learned = [label for label in row["labels"] if label != sft.NOT_LEARNED]
    assert learned.count(tokenizer.eos_token_id) == 1 and learned[-1] == tokenizer.eos_token_id
    assert "here" in tokenizer.decode(learned)
    assert row["input_ids"][: -len(learned)] == local.tokens(tokenizer, [local.render(tokenizer, chat[:1])])[0]


def test_a_continuation_is_scored_as_text(both):
    """A continuation that names a control token is scored by the tokens of its letters."""
    tokenizer, _, control = both
    (asked,) = local._encode(tokenizer, [(local.render(tokenizer, chat_of("x")[:2]), f"It is {control[2]} b")], None)
    assert not set(asked.wanted) & (
        set(tokenizer.convert_tokens_to_ids(control)) - {tokenizer.convert_tokens_to_ids("<unk>")}
    )
