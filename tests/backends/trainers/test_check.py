"""Whether a model can be tuned here, told before anything is loaded."""

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer as Rust
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from raft.backends.trainers import check  # noqa: E402  needs torch
from raft.backends.trainers.check import check_student, free_memory  # noqa: E402
from raft.errors import MissingExtra, UsageError  # noqa: E402

GIB = 1 << 30
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}"


pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.fixture
def folder(tmp_path):
    """A folder with all files of a llama of 1,024 weights that the check reads."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    rust = Rust(WordLevel({"[UNK]": 0, "user": 1}, unk_token="[UNK]"))
    rust.pre_tokenizer = Whitespace()
    rust.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"a": np.zeros((16, 48), np.float16), "b": np.zeros(256, np.float32)}, folder / "model.safetensors")
    return folder


def set_config(folder, **config):
    """Write a model's configuration."""
    (folder / "config.json").write_text(json.dumps(config))


def test_a_student_is_measured(folder):
    """A causal language model with template and weights passes, with its number of weights."""
    student = check_student(str(folder), available=8 * GIB)
    assert (student.model_type, student.parameters, student.available) == ("llama", 1024, 8 * GIB)
    assert GIB < student.needed < 2 * GIB


def test_the_memory_of_this_machine_is_asked(folder):
    """Without a figure, what is free here is found out."""
    assert check_student(str(folder)).available > 0


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "xlm-roberta"}, "encoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encodes a text"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "no causal language model of the type 't5'"),
        ({"model_type": "vit"}, "'vit'"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "runs no code"),
        ({"architectures": ["X"]}, "None"),
    ],
)
def test_what_does_not_write_on_is_no_student(folder, config, why):
    """Encoders, translators and unknown architectures are refused, each with its reason."""
    set_config(folder, **config)
    with pytest.raises(UsageError, match="no causal language model") as error:
        check_student(str(folder), available=8 * GIB)
    assert why in error.value.what


@pytest.mark.parametrize("config", [{"model_type": "bert", "is_decoder": True}, {"model_type": "qwen3"}])
def test_a_decoder_is_a_student(folder, config):
    """What writes on passes, a BERT that was made a decoder too."""
    set_config(folder, **config)
    assert check_student(str(folder), available=8 * GIB).model_type == config["model_type"]


def test_without_torch_the_extra_is_named(folder, monkeypatch):
    """Where transformers is installed and torch is not, the extra that brings it is named, and nothing else fails."""
    importlib.import_module("transformers.models.auto.modeling_auto")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="torch") as caught:
        check_student(str(folder))
    assert "raft-pipeline[train]" in str(caught.value)


def test_a_model_without_a_chat_template_is_refused(folder):
    """A base model without a template is told to be replaced by an instruction-tuned one."""
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match=r"no chat template[\s\S]*instruction-tuned"):
        check_student(str(folder), available=8 * GIB)


def test_a_template_that_refuses_a_chat_is_refused(folder):
    """A template that raises on question and answer is found before the training."""
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no assistants') }}")
    with pytest.raises(UsageError, match="no assistants"):
        check_student(str(folder), available=8 * GIB)


def huge(folder, parameters, dtype="BF16", width=2):
    """Give a model a file of weights of any size, of which nothing but the header takes space on the disk."""
    entry = {"dtype": dtype, "shape": [parameters], "data_offsets": [0, parameters * width]}
    header = json.dumps({"w": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + parameters * width)


@pytest.mark.parametrize(("dtype", "width"), [("BF16", 2), ("F32", 4)])
def test_a_model_that_does_not_fit_is_refused(folder, monkeypatch, dtype, width):
    """The error says how much is needed and how much there is; weights count as they are loaded, not as stored."""
    monkeypatch.setattr(check, "computed_in", lambda: torch.bfloat16)
    huge(folder, 7_000_000_000, dtype, width)
    with pytest.raises(UsageError, match=r"needs at least 17\.1 GiB of memory, and 16\.0 GiB are free"):
        check_student(str(folder), available=16 * GIB)
    assert check_student(str(folder), available=18 * GIB).parameters == 7_000_000_000


def test_a_processor_without_bfloat16_needs_twice_as_much(folder, monkeypatch):
    """What is computed in float32 is held so, and counted so before anything is loaded."""
    huge(folder, 7_000_000_000)
    monkeypatch.setattr(check, "computed_in", lambda: torch.float32)
    with pytest.raises(UsageError, match=r"needs at least 32\.8 GiB of memory, and 18\.0 GiB are free"):
        check_student(str(folder), available=18 * GIB)


def test_four_bits_need_less(folder):
    """A quantised base fits where the whole one does not."""
    huge(folder, 7_000_000_000)
    assert check_student(str(folder), bits=4, available=8 * GIB).needed < 8 * GIB


def test_shards_are_counted_together(folder):
    """Weights in several files are added up, and one that is missing is named."""
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check_student(str(folder), available=8 * GIB).parameters == 2048
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model-2\.safetensors"):
        check_student(str(folder), available=8 * GIB)


def test_pickles_are_no_weights(folder):
    """A model that has only a pickle is refused, because a pickle can run code."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="a pickle can run code"):
        check_student(str(folder), available=8 * GIB)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "config.json"])
def test_damaged_files_are_told(folder, name):
    """A file that holds something else is an error that a user can act on."""
    (folder / name).write_bytes(b"[]")
    with pytest.raises(UsageError) as error:
        check_student(str(folder), available=8 * GIB)
    assert error.value.hint


def test_an_adapter_is_no_student(folder):
    """The folder of an adapter is told from a base model."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="is an adapter"):
        check_student(str(folder), available=8 * GIB)


def test_a_folder_without_a_model_is_refused(tmp_path):
    """An empty folder is no model."""
    with pytest.raises(UsageError, match=r"no config\.json"):
        check_student(str(tmp_path), available=8 * GIB)


def test_a_hosted_model_is_refused():
    """What lies at a provider cannot be tuned here."""
    with pytest.raises(UsageError, match="hosted"):
        check_student("openai/gpt-4o-mini", available=8 * GIB)


def test_a_model_of_the_hub_is_judged_by_what_is_here(folder, tmp_path, monkeypatch):
    """Before its weights are fetched a model's size is unknown where the hub cannot be asked; then it is measured."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--org--tiny" / "snapshots" / "c0ffee"
    shutil.copytree(folder, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (cache / "models--org--tiny" / "refs").mkdir()
    (cache / "models--org--tiny" / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    student = check_student("org/tiny", available=8 * GIB)
    assert (student.parameters, student.needed) == (None, None)
    shutil.copy(folder / "model.safetensors", snapshot)
    assert check_student("org/tiny", available=8 * GIB).parameters == 1024


@pytest.fixture
def root(tmp_path):
    """A machine with 4 GiB free."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {4 * GIB // 1024} kB\n")
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"),
    [(None, 0, 0, 4), ("max", 2, 0, 4), (3, 2, 0, 1), (3, 2, 1, 2), (1, 2, 0, 0), (64, 2, 0, 4)],
)
def test_a_container_has_what_it_is_given(root, limit, used, cached, free):
    """In a container with a limit that is what counts, less what is used but for cached files."""
    group = root / "sys" / "fs" / "cgroup"
    if limit is not None:
        (group / "memory.max").write_text(f"{limit if limit == 'max' else limit * GIB}\n")
        (group / "memory.current").write_text(f"{used * GIB}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached * GIB}\n")
    assert free_memory(root) == free * GIB


def test_where_the_system_does_not_tell_psutil_does(tmp_path):
    """Without /proc the memory is asked of psutil."""
    psutil = pytest.importorskip("psutil")
    assert 0 < free_memory(tmp_path) <= psutil.virtual_memory().total
