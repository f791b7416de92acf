"""GGUF files, with a converter that stands in for llama.cpp's; with the real one where $LLAMA_CPP leads to it."""

import json
import os
import sys
from pathlib import Path

import pytest

from raft.backends.trainers import merge, unsloth
from raft.backends.trainers.merge import CONVERTER, export_gguf
from raft.errors import RaftError, UsageError

LLAMA_CPP = os.environ.get("LLAMA_CPP")
STAND_IN = """#!{python}
import argparse, json, os, sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
options = parser.parse_args()
if os.environ.get("STAND_IN") == "fails":
    import there_is_no_such_package
config = json.loads((options.model / "config.json").read_text())
tokenizer = json.loads((options.model / "tokenizer.json").read_text())
sentencepiece = tokenizer["model"]["byte_fallback"]  # the rule of llama.cpp's LlamaHfVocab
assert (options.model / "model.safetensors").read_bytes() == b"weights"
found = {{**config, "tokenizer": "llama" if sentencepiece else "gpt2", "outtype": options.outtype}}
options.outfile.write_text(json.dumps(found))
"""


@pytest.fixture
def merged(tmp_path):
    """A folder that has the files of a merged model, with the tokenizer of one that was read from a GGUF file."""
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    write_tokenizer(folder, byte_fallback=True, kind="ByteLevel")
    return folder


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """A folder with the stand-in, which LLAMA_CPP leads to."""
    home = tmp_path / "llama.cpp"
    home.mkdir()
    script = home / CONVERTER
    script.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP", str(home))
    return home


def write_tokenizer(folder, *, byte_fallback, kind):
    """Write a tokenizer's file as far as the converter looks at it."""
    found = {"model": {"type": "BPE", "byte_fallback": byte_fallback}, "pre_tokenizer": {"type": kind}}
    (folder / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")


def written(path):
    """Return what the stand-in wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_merged_model_becomes_one_file(merged, converter, tmp_path):
    """The converter is given the model and the precision; its file is moved to its place, and nothing else is left."""
    out = tmp_path / "exports" / "model.gguf"
    assert export_gguf(merged, out, precision="q8_0") == out
    assert written(out)["outtype"] == "q8_0"
    assert list(out.parent.iterdir()) == [out]
    assert sorted(path.name for path in merged.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_the_converter_is_found_on_the_path(merged, converter, tmp_path, monkeypatch):
    """Without LLAMA_CPP the converter is looked for on the path, and started by its own interpreter."""
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(converter))
    assert merge.find_converter() == [str(converter / CONVERTER)]
    assert written(export_gguf(merged, tmp_path / "model.gguf"))["model_type"] == "llama"


def test_llama_cpp_may_be_the_script_itself(converter, monkeypatch):
    """LLAMA_CPP leads to the converter as a folder or as a file."""
    of_folder = merge.find_converter()
    monkeypatch.setenv("LLAMA_CPP", str(converter / CONVERTER))
    assert merge.find_converter() == of_folder == [sys.executable, str(converter / CONVERTER)]


def test_a_byte_level_tokenizer_is_not_taken_for_sentencepiece(merged, converter, tmp_path):
    """A byte-level tokenizer is converted as one, even where its file speaks of a byte fallback; others stay as is."""
    before = (merged / "tokenizer.json").read_bytes()
    assert written(export_gguf(merged, tmp_path / "model.gguf"))["tokenizer"] == "gpt2"
    assert (merged / "tokenizer.json").read_bytes() == before
    write_tokenizer(merged, byte_fallback=True, kind="Metaspace")
    assert written(export_gguf(merged, tmp_path / "model.gguf"))["tokenizer"] == "llama"


def test_a_failed_conversion_leaves_the_old_file(merged, converter, tmp_path, monkeypatch):
    """When the converter fails, its last words are quoted, what it lacks is named, and the file of before stays."""
    out = tmp_path / "exports" / "model.gguf"
    export_gguf(merged, out)
    before = out.read_bytes()
    monkeypatch.setenv("STAND_IN", "fails")
    with pytest.raises(RaftError, match="there_is_no_such_package") as caught:
        export_gguf(merged, out)
    assert caught.value.hint == "pip install there_is_no_such_package"
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_without_a_converter_the_next_command_is_named(merged, tmp_path, monkeypatch):
    """Where nothing can convert, the error says what to get, and what the merged folder is good for meanwhile."""
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError) as caught:
        export_gguf(merged, tmp_path / "exports" / "model.gguf")
    assert "LLAMA_CPP" in caught.value.hint
    assert "vLLM" in caught.value.hint
    assert not (tmp_path / "exports").exists()


def test_a_wrong_llama_cpp_is_named(merged, tmp_path, monkeypatch):
    """LLAMA_CPP that leads nowhere is an error, not a reason to look elsewhere."""
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(UsageError, match="LLAMA_CPP"):
        export_gguf(merged, tmp_path / "model.gguf")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_what_is_no_merged_model_is_refused(merged, converter, tmp_path, lost):
    """A folder without configuration or weights is refused before anything is converted."""
    (merged / lost).unlink()
    with pytest.raises(UsageError, match="no merged model"):
        export_gguf(merged, tmp_path / "model.gguf")


def test_an_unknown_precision_is_refused(merged, converter, tmp_path):
    """The precisions that can be written are named where another is asked for."""
    with pytest.raises(UsageError, match="q2_k") as caught:
        export_gguf(merged, tmp_path / "model.gguf", precision="q2_k")
    assert "q8_0" in caught.value.hint


@pytest.mark.slow
def test_unsloth_converts_where_llama_cpp_is_missing(merged, tmp_path, monkeypatch):
    """With a card and Unsloth but without llama.cpp, the child that Unsloth works in writes the file."""
    fake = str(Path(__file__).parents[2] / "fake_unsloth")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", fake)
    monkeypatch.syspath_prepend(fake)
    monkeypatch.setenv("FAKE_UNSLOTH", "gguf")
    monkeypatch.setattr(unsloth, "has_cuda", lambda: True)
    out = tmp_path / "exports" / "model.gguf"
    assert export_gguf(merged, out) == out
    assert out.read_text(encoding="utf-8") == f"{merged} bf16"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.skipif(not LLAMA_CPP, reason="LLAMA_CPP does not lead to llama.cpp's converter")
def test_the_real_converter_keeps_the_tokenizer(tmp_path):
    """A tiny llama with the tokenizer of the embedded student becomes a GGUF file with that tokenizer and template."""
    pytest.importorskip("sentencepiece", reason="the converter imports it, whatever it converts")
    torch = pytest.importorskip("torch")
    from gguf import GGUFReader
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from raft.backends import hub

    tokenizer = AutoTokenizer.from_pretrained(hub.resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    fields = GGUFReader(export_gguf(tmp_path / "merged", tmp_path / "model.gguf")).fields
    found = {name: fields[f"tokenizer.{name}"].contents() for name in ("ggml.model", "ggml.pre", "chat_template")}
    assert found == {"ggml.model": "gpt2", "ggml.pre": "smollm", "chat_template": tokenizer.chat_template}
