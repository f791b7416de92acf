"""Merging: an adapter and its base as one model that says the same."""

import json
import re
import shutil

import pytest
from test_adapters import make_card

from raft.backends.trainers.merge import merge, merged
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.store import adapters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
IDS = [[1, 5, 9, 30, 7, 2, 44, 3], [4, 4, 8, 15, 16, 23, 42, 0]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny llama in bfloat16 with random weights, and an adapter of it whose update is not zero."""
    home = tmp_path_factory.mktemp("models")
    from tokenizers import ByteLevelBPETokenizer

    rust = ByteLevelBPETokenizer()
    rust.train_from_iterator(["the pump"], vocab_size=300, special_tokens=["<s>"], show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=rust._tokenizer, bos_token="<s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(home / "base")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(home / "base")
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    peft.get_peft_model(model, lora).save_pretrained(home / "adapter")
    tokenizer.save_pretrained(home / "adapter")
    return home


def logits(model):
    """Return what a model says of some tokens."""
    with torch.inference_mode():
        return model(torch.tensor(IDS)).logits.float()


def plain(made):
    """Return the base in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(made / "base", dtype=torch.float32)


def tuned(made):
    """Return the base in float32 with the adapter on it."""
    return peft.PeftModel.from_pretrained(plain(made), str(made / "adapter")).eval()


def test_the_merged_model_says_what_base_and_adapter_say(made):
    """In float32 the logits are those of the base with its adapter, and far from those of the base alone."""
    one = logits(merged(str(made / "base"), made / "adapter", "float32"))
    assert torch.allclose(one, logits(tuned(made)), atol=1e-5)
    assert (one - logits(plain(made))).abs().max() > 0.5


def test_weights_are_merged_in_float32_and_rounded_once(made, tmp_path):
    """Each weight on disk is the bfloat16 nearest to the one that was merged in float32."""
    out = merge(str(made / "base"), made / "adapter", tmp_path / "deep" / "one")
    written = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    exact = merged(str(made / "base"), made / "adapter", "float32").state_dict()
    assert written.keys() == exact.keys()
    for name, weight in exact.items():
        assert written[name].dtype == torch.bfloat16
        assert torch.equal(written[name], weight.to(torch.bfloat16)), name


def test_the_merged_folder_is_a_whole_model(made, tmp_path):
    """It holds safetensors, the tokenizer and the chat template, nothing of peft and no draft."""
    out = merge(str(made / "base"), made / "adapter", tmp_path / "one")
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if "adapter" in name or name.endswith(".bin")]
    assert {tensor["dtype"] for tensor in adapters.tensors(out / "model.safetensors").values()} == {"BF16"}
    assert not [name for name in adapters.tensors(out / "model.safetensors") if "lora" in name]
    chat = [{"role": "user", "content": "the pump"}]
    rendered = transformers.AutoTokenizer.from_pretrained(out).apply_chat_template(chat, tokenize=False)
    assert rendered == "<s>user: the pump\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("module", ["norm", "lm_head"])
def test_whole_modules_that_were_trained_are_kept(made, tmp_path, module):
    """A module that the adapter brings as a whole takes the place of the base's, on disk too, tied weights or not."""
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[module], task_type="CAUSAL_LM")
    model = peft.get_peft_model(plain(made), lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f"{module}.modules_to_save" in name:
                weight.mul_(-2.0)  # exact in bfloat16
    model.save_pretrained(tmp_path / "adapter")
    out = merge(str(made / "base"), tmp_path / "adapter", tmp_path / "one")
    written = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tuned = peft.PeftModel.from_pretrained(plain(made), str(tmp_path / "adapter")).eval()
    assert torch.allclose(logits(written), logits(tuned), atol=1e-5)
    assert not torch.allclose(logits(written), logits(plain(made)), atol=0.1)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is (module != "lm_head")


def test_a_folder_in_use_is_left_alone(made, tmp_path):
    """Nothing is written over."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        merge(str(made / "base"), made / "adapter", tmp_path / "one")
    with pytest.raises(UsageError, match="not empty"):
        merge(str(made / "base"), made / "adapter", tmp_path / "one" / "mine.txt")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["mine.txt"]


def test_an_adapter_of_another_shape_does_not_fit(made, tmp_path):
    """An adapter of a wider model is refused, and nothing is left behind."""
    config = transformers.LlamaConfig.from_pretrained(made / "base")
    config.hidden_size = 64
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wider")
    shutil.copy(made / "base" / "tokenizer.json", tmp_path / "wider")
    with pytest.raises(UsageError, match="does not fit"):
        merge(str(tmp_path / "wider"), made / "adapter", tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_an_adapter_that_is_no_numbers_is_refused(made, tmp_path):
    """Weights that are not finite never become a model."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    from safetensors.torch import load_file, save_file

    weights = load_file(made / "adapter" / "adapter_model.safetensors")
    weights = {name: weight * float("nan") for name, weight in weights.items()}
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(DamagedArtifact, match="no numbers"):
        merge(str(made / "base"), tmp_path / "adapter", tmp_path / "one")


def test_pickles_are_refused(made, tmp_path):
    """Neither a base nor an adapter is read from a pickle."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UsageError, match="can run code"):
        merge(str(made / "base"), tmp_path / "adapter", tmp_path / "one")
    shutil.copytree(made / "base", tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save(plain(made).state_dict(), tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(RaftError, match="cannot be loaded"):
        merge(str(tmp_path / "base"), made / "adapter", tmp_path / "one")


def test_without_a_chat_template_nothing_is_merged(made, tmp_path):
    """A merged model that could not be asked as it was trained is not written."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "adapter" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "adapter" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="no chat template"):
        merge(str(made / "base"), tmp_path / "adapter", tmp_path / "one")


def test_the_readme_tells_how_to_load_with_peft(made):
    """The lines that the model card shows load the adapter on its base."""
    text = adapters.readme(make_card("abc1"))
    world = {"BASE": str(made / "base"), "FOLDER": str(made / "adapter")}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1), world)
    assert torch.allclose(logits(world["model"].float()), logits(tuned(made)), atol=1e-5)
    assert world["tokenizer"].chat_template == TEMPLATE
