"""Unsloth on a card: real kernels, a real small student."""

import json

import pytest

from raft.backends import hub
from raft.backends.trainers.unsloth import UnslothTrainer, available
from raft.protocols import TrainingPlan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # of torchao's source, the first time that it is compiled
    pytest.mark.skipif(not available(), reason="needs an NVIDIA card and pip install 'raft-pipeline[unsloth]'"),
]

STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"
TOWNS = ("Halden", "Moss", "Horten", "Narvik", "Bergen", "Alta", "Molde", "Hamar")
CHATS = [
    [
        {"role": "user", "content": f"Where is depot {number}?"},
        {"role": "assistant", "content": f"Depot {number} is in {town}, says the register of {2000 + number}."},
    ]
    for number, town in enumerate(TOWNS)
]


def plan(**changes):
    """Return a plan that learns eight answers by heart."""
    found = {
        "student": STUDENT,
        "rank": 16,
        "alpha": 32,
        "learning_rate": 1e-3,
        "epochs": 12.0,
        "batch": 4,
        "evaluations": 1,
        "patience": 50,
        "checkpoint_minutes": 10.0,
        "bits": 16,
        "max_tokens": 256,
        "seed": 0,
    }
    return TrainingPlan(**{**found, **changes})


def train(folder, plan, on_event=lambda _: None):
    """Train in `folder` and return the report."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return UnslothTrainer().train(
        CHATS, CHATS, plan, out=folder / "out", checkpoints=folder / "checkpoints", on_event=on_event
    )


def losses(report, name):
    """Return the losses of a kind, in the order of steps."""
    return [point[name] for point in report.curve if name in point]


def said(adapter):
    """Return what the student answers to each question, with the adapter on plain transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = hub.resolve(STUDENT)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to("cuda")
    tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
    found = []
    for question, _ in CHATS:
        asked = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_dict=False)
        ids = torch.tensor([asked], device="cuda")
        written = tuned.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        found.append(tokenizer.decode(written[0][ids.shape[1] :], skip_special_tokens=True))
    return found


@pytest.mark.parametrize("bits", [16, 4])
def test_what_is_trained_is_answered_without_unsloth(tmp_path, bits):
    """An adapter that Unsloth trained gives the learned answers on plain transformers and PEFT."""
    told = []
    report = train(tmp_path, plan(bits=bits), told.append)
    assert report.backend == "unsloth"
    assert "unsloth" in report.versions
    assert losses(report, "valid_loss")[-1] < 0.5 < losses(report, "loss")[0]
    assert told[-1]["step"] == report.steps
    config = json.loads((tmp_path / "out/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (16, 32, STUDENT)
    right = [town in answer for town, answer in zip(TOWNS, said(tmp_path / "out"), strict=True)]
    assert sum(right) >= 6


def test_a_training_goes_on_from_its_last_checkpoint(tmp_path):
    """A training that was interrupted ends with the steps and the curve of one that was not."""
    whole = train(tmp_path / "whole", plan(epochs=4.0))
    seen = []

    def interrupt(facts):
        seen.append(facts["step"])
        if facts["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", plan(epochs=4.0), interrupt)
    rest = []
    cut = train(tmp_path / "cut", plan(epochs=4.0), lambda facts: rest.append(facts["step"]))
    assert min(rest) > 2, "it began anew"
    assert cut.steps == whole.steps
    assert losses(cut, "valid_loss")[-1] == pytest.approx(losses(whole, "valid_loss")[-1], rel=0.05)
