"""Exports: training rows as trainers and services take them."""

import json

import pytest
import yaml

from raft.errors import UsageError
from raft.examples import export
from raft.settings.sections import Settings, Training
from raft.store import tables


def example(number, split):
    """Return a training row."""
    return {
        "question_id": f"q{number}",
        "split": split,
        "messages": [
            {"role": "system", "content": "Answer from the documents."},
            {"role": "user", "content": f'[1] "Ümlaut"\n\nQuestion {number}?'},
            {"role": "assistant", "content": f"Answer {number}"},
        ],
        "golden_chunk_ids": ["c1"] if number % 2 else [],
        "golden_positions": [0] if number % 2 else [],
        "document_chunk_ids": ["c1", "c2"],
        "tokens": 300 + number,
    }


def table(train, valid):
    """Return a frame of examples."""
    splits = ["train"] * train + ["valid"] * valid
    return tables.frame(tables.EXAMPLES, [example(number, split) for number, split in enumerate(splits)])


EXAMPLES = table(5, 2)


def lines(path):
    """Return the JSON values of a file's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("format", ["openai", "axolotl"])
def test_chat_lines_hold_the_messages_and_nothing_else(tmp_path, format):
    """Each line is one chat, in the order of the examples, split into train and valid."""
    out = export.export(EXAMPLES, Settings(), format=format, out=tmp_path / "deep" / "out")
    assert out == tmp_path / "deep" / "out"
    for split, count in (("train", 5), ("valid", 2)):
        found = lines(out / f"{split}.jsonl")
        assert len(found) == count
        assert found == [{"messages": chat} for chat in EXAMPLES.filter(split=split)["messages"].to_list()]


def test_openai_needs_chats_that_end_with_the_assistant(tmp_path):
    """Fine-tuning services want known roles, text in each turn, and the target last."""
    out = export.export(EXAMPLES, Settings(), format="openai", out=tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["train.jsonl", "valid.jsonl"]
    for line in lines(out / "train.jsonl"):
        assert [turn["role"] for turn in line["messages"]] == ["system", "user", "assistant"]
        assert all(isinstance(turn["content"], str) and turn["content"] for turn in line["messages"])


def test_axolotl_finds_what_its_settings_name(tmp_path):
    """The YAML loads, names the student and files that exist, and leaves room for the longest row."""
    out = export.export(EXAMPLES, Settings(student="org/student"), format="axolotl", out=tmp_path)
    tree = yaml.safe_load((out / "axolotl.yaml").read_text())
    assert tree["base_model"] == "org/student"
    for entry in (*tree["datasets"], *tree["test_datasets"]):
        assert (out / entry["path"]).is_file()
        assert lines(out / entry["path"])
        assert set(lines(out / entry["path"])[0]) == {entry["field_messages"]}
    assert tree["sequence_len"] >= EXAMPLES["tokens"].max()
    assert tree["train_on_inputs"] is False


def test_axolotl_trains_as_the_run_does(tmp_path):
    """Rank, alpha, layers, rate, epochs, batch, bits and seed are those of the run's settings."""
    training = Training(rank=4, alpha=9, learning_rate=3e-5, epochs=1.5, batch=6, bits=4, evaluations=3, patience=5)
    chosen = Settings(student="org/student", seed=77, training=training)
    tree = yaml.safe_load(
        (export.export(EXAMPLES, chosen, format="axolotl", out=tmp_path) / "axolotl.yaml").read_text()
    )
    names = {"rank": "lora_r", "alpha": "lora_alpha", "learning_rate": "learning_rate", "epochs": "num_epochs"}
    names |= {"evaluations": "evals_per_epoch", "patience": "early_stopping_patience"}
    assert {name: tree[other] for name, other in names.items()} == training.model_dump(include=set(names))
    assert tree["micro_batch_size"] * tree["gradient_accumulation_steps"] == 6
    assert (tree["adapter"], tree["load_in_4bit"], tree["seed"]) == ("qlora", True, 77)
    assert tree["lora_target_linear"] is True
    few = Settings(training=Training(layers="qv"))
    tree = yaml.safe_load((export.export(EXAMPLES, few, format="axolotl", out=tmp_path) / "axolotl.yaml").read_text())
    assert tree["lora_target_modules"] == ["q_proj", "v_proj"]
    assert "lora_target_linear" not in tree
    plain = export.export(table(3, 0), Settings(), format="axolotl", out=tmp_path) / "axolotl.yaml"
    tree = yaml.safe_load(plain.read_text())
    assert tree["adapter"] == "lora"
    assert tree.keys().isdisjoint(["load_in_4bit", "evals_per_epoch", "early_stopping_patience"])


def test_axolotl_is_not_given_an_empty_file(tmp_path):
    """Where no row validates, the settings name no validation file."""
    out = export.export(table(3, 0), Settings(student="org/student"), format="axolotl", out=tmp_path)
    tree = yaml.safe_load((out / "axolotl.yaml").read_text())
    assert all(lines(out / entry["path"]) for entry in tree.get("test_datasets", []))


@pytest.mark.slow
def test_a_dataset_can_be_loaded_from_disk(tmp_path, capfd):
    """`datasets.load_from_disk` gives both splits with their chats, and a later export replaces an earlier one."""
    import datasets

    out = export.export(EXAMPLES, Settings(), format="hf", out=tmp_path / "out")
    assert capfd.readouterr().err == "", "no bars where nobody sees them move"
    loaded = datasets.load_from_disk(str(out))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "valid": 2}
    assert loaded["train"][1]["messages"] == EXAMPLES["messages"].to_list()[1]
    assert loaded["train"]["question_id"][:2] == ["q0", "q1"]
    del loaded
    export.export(table(3, 0), Settings(), format="hf", out=out)
    assert {split: len(rows) for split, rows in datasets.load_from_disk(str(out)).items()} == {"train": 3}


@pytest.mark.parametrize("format", ["", "OpenAI", "csv"])
def test_an_unknown_format_is_a_usage_error(tmp_path, format):
    """A format that does not exist is refused with those that do, and nothing is written."""
    with pytest.raises(UsageError, match="openai, axolotl, hf"):
        export.export(EXAMPLES, Settings(), format=format, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path):
    """A file in the folder's place is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        export.export(EXAMPLES, Settings(), format="openai", out=tmp_path / "file")


def test_an_export_replaces_the_one_before(tmp_path):
    """Exporting again leaves no row of the last time."""
    export.export(EXAMPLES, Settings(), format="openai", out=tmp_path)
    export.export(table(1, 0), Settings(), format="openai", out=tmp_path)
    assert len(lines(tmp_path / "train.jsonl")) == 1
    assert lines(tmp_path / "valid.jsonl") == []
