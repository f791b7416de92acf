"""The real Unsloth, without a card: its arguments, its defaults, its trainer, and a training on the processor.

Not part of the ordinary run: `make unsloth-check` unpacks Unsloth's two pure packages without the CUDA packages that
they ask for, and puts them on the path of this file alone. What is looked at are the real modules, imported: with
`UNSLOTH_ALLOW_CPU=1` Unsloth shows a machine without a card the functions that it has for cards; its own processor
path, which trains for real, is chosen with `UNSLOTH_FORCE_CPU=1`. Neither runs its kernels: that takes a card.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_unsloth import CHATS, PLAN, train, write_student

from raft.backends.trainers import sft, unsloth, unsloth_worker
from raft.errors import RaftError, UsageError
from raft.settings.sections import LAYERS

ROOT = Path(__file__).parents[2]
TRAINING_STACK = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}
FREE_TO_CHANGE = {"eval_accumulation_steps", "include_num_input_tokens_seen", "torch_empty_cache_steps"}
"""Defaults of TRL's settings that Unsloth changes and we leave alone: memory and statistics, not what is learned."""

SIGNATURES = """
import inspect, json, sys
import unsloth
from unsloth.save import unsloth_save_pretrained_gguf
from raft.backends.trainers import unsloth_worker as worker
from raft.protocols import TrainingPlan

plan = TrainingPlan(**json.loads(sys.argv[1]))
model = unsloth.FastLanguageModel
calls = {
    "from_pretrained": (
        model.from_pretrained, worker.loading("name", max_tokens=plan.max_tokens, bits=plan.bits, seed=plan.seed)
    ),
    "get_peft_model": (model.get_peft_model, {"model": None, **worker.adapting(plan)}),
    "is_bfloat16_supported": (unsloth.is_bfloat16_supported, {}),
    "save_pretrained_gguf": (unsloth_save_pretrained_gguf, {"self": None, **worker.exporting("out", None, "bf16")}),
}
found = {}
for name, (function, arguments) in calls.items():
    signature = inspect.signature(function)
    signature.bind(**arguments)
    found[name] = sorted(set(arguments) - set(signature.parameters))
print(json.dumps(found))
"""

DEFAULTS = """
import inspect, json
import unsloth
from trl.trainer.sft_config import SFTConfig as Plain
from unsloth.models import rl

rl.patch_trl_rl_trainers()  # what UNSLOTH_ALLOW_CPU leaves out, and every machine with a card has
import trl
from trl.trainer.sft_trainer import SFTTrainer

ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (Plain, trl.SFTConfig))
changed = [name for name in theirs if name in ours and repr(ours[name].default) != repr(theirs[name].default)]
print(json.dumps({"trainer": SFTTrainer.__name__, "changed": changed}))
"""

TRAINING = """
import json, sys
from pathlib import Path
import unsloth
from unsloth.models import rl

rl.patch_trl_rl_trainers()
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from raft.backends.trainers import sft, unsloth_worker as worker
from raft.protocols import TrainingPlan

plan, folder = TrainingPlan(**json.loads(sys.argv[1])), Path(sys.argv[2])
chats = json.loads(Path(sys.argv[3]).read_text())

def load(plan):
    adapter = LoraConfig(task_type="CAUSAL_LM", r=plan.rank, lora_alpha=plan.alpha, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(plan.student), adapter)
    return model, worker._tokenizer(plan.student)

arguments = {**worker.arguing(plan, bfloat16=True), "bf16": False, "use_cpu": True}
report = sft.run(
    load, chats, chats[:2], plan, out=folder / "out", checkpoints=folder / "checkpoints", on_event=lambda _: None,
    backend="unsloth", arguments=arguments,
)
print(json.dumps([point["loss"] for point in report.curve if "loss" in point]))
"""


def run(program, folder, *arguments, **environment):
    """Return what a program prints last, in a process that Unsloth may rewrite as it likes."""
    known = {**os.environ, **environment, "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**known, **unsloth._SETTINGS}, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def plan_of(student):
    """Return the plan of the ordinary tests for a student, as JSON."""
    return json.dumps({**PLAN.__dict__, "student": str(student)})


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """A folder with a tiny student."""
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def processor(monkeypatch):
    """Unsloth's own path for processors, which versions before 2026.10.9 lack, is open, here and in the child."""
    if not (Path(find_spec("unsloth").origin).parent / "_cpu_init.py").is_file():
        pytest.skip(f"Unsloth {version('unsloth')} has no path for processors")
    monkeypatch.setattr(unsloth, "has_cuda", lambda: True)
    monkeypatch.setenv("UNSLOTH_FORCE_CPU", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return monkeypatch


@pytest.mark.parametrize("package", ["unsloth", "unsloth_zoo"])
def test_unsloth_allows_the_locked_versions(package):
    """Each locked version of what trains is one that Unsloth's metadata allows; the rest pip may raise by itself."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    wanted = [Requirement(line) for line in requires(package) or ()]
    wanted = [
        one for one in wanted if one.name in TRAINING_STACK and (not one.marker or one.marker.evaluate({"extra": ""}))
    ]
    assert {one.name for one in wanted} == TRAINING_STACK
    assert [str(one) for one in wanted if not one.specifier.contains(locked[one.name].split("+")[0])] == []


def test_unsloth_has_the_version_that_the_extra_asks_for():
    """What is looked at here is what `pip install 'raft-pipeline[unsloth]'` may bring."""
    lines = [Requirement(line) for line in requires("raft-pipeline") or () if line.startswith("unsloth")]
    assert [line.specifier.contains(version("unsloth")) for line in lines] == [True]


def test_every_argument_is_one_of_unsloths_own(tmp_path):
    """Each argument we give is a parameter of that name; what Unsloth hands on to transformers is one of theirs."""
    found = run(SIGNATURES, tmp_path, plan_of("name"), UNSLOTH_ALLOW_CPU="1")
    assert found == {
        "from_pretrained": ["use_safetensors"],
        "get_peft_model": [],
        "is_bfloat16_supported": [],
        "save_pretrained_gguf": [],
    }


def test_unsloths_other_defaults_do_not_change_what_is_learned(tmp_path):
    """Each setting of TRL's trainer whose default Unsloth changes is given by us, but for memory and statistics."""
    found = run(DEFAULTS, tmp_path, UNSLOTH_ALLOW_CPU="1")
    given = {*sft._arguments(PLAN, 8, True, tmp_path), *unsloth_worker.arguing(PLAN, bfloat16=True)}
    assert found["trainer"] == "UnslothSFTTrainer"
    assert "optim" in found["changed"]
    assert set(found["changed"]) - given <= FREE_TO_CHANGE


def test_the_trainer_that_unsloth_writes_for_cards_takes_our_rows(student, tmp_path):
    """Unsloth's rewritten SFTTrainer trains on rows that are encoded by us, with our settings; the loss falls."""
    (tmp_path / "chats.json").write_text(json.dumps(CHATS), encoding="utf-8")
    losses = run(TRAINING, tmp_path, plan_of(student), tmp_path, tmp_path / "chats.json", UNSLOTH_ALLOW_CPU="1")
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert (tmp_path / "out/adapter_model.safetensors").is_file()


def test_unsloth_trains_an_adapter(student, tmp_path, processor):
    """Real Unsloth, in the real child, writes an adapter that PEFT loads onto the base, with the base's tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    report = train(student, tmp_path)
    losses = [point["loss"] for point in report.curve if "loss" in point]
    assert losses[-1] < losses[0]
    assert report.versions["unsloth"] == version("unsloth")
    assert report.versions["unsloth_zoo"] == version("unsloth_zoo")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0)
    assert sorted(config["target_modules"]) == sorted(LAYERS["all"])
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student), str(tmp_path / "out"))
    updates = [weight.abs().max() for name, weight in tuned.named_parameters() if "lora_B" in name]
    assert len(updates) == 14
    assert min(updates) > 0
    log = (tmp_path / "checkpoints" / unsloth.WORKPLACE / unsloth.LOG).read_text(encoding="utf-8")
    assert "Unsloth" in log


@pytest.mark.parametrize("layers", ["attention", "qv"])
def test_unsloth_tunes_the_chosen_layers(student, tmp_path, processor, layers):
    """The real Unsloth puts the adapter on the chosen layers alone, and they learn."""
    train(student, tmp_path, replace(PLAN, layers=layers))
    config = json.loads((tmp_path / "out/adapter_config.json").read_text(encoding="utf-8"))
    assert sorted(config["target_modules"]) == sorted(LAYERS[layers])


def test_pickles_are_not_read(student, tmp_path, processor):
    """A student whose weights are a pickle is refused by the real loader, since a pickle can run code."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "pickled"
    shutil.copytree(student, folder)
    torch.save(AutoModelForCausalLM.from_pretrained(student).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RaftError, match="cannot load the model"):
        train(folder, tmp_path)


def test_unsloth_refuses_a_machine_without_a_card(student, tmp_path, monkeypatch):
    """Where the system shows a card and torch has none, the real Unsloth refuses, and the refusal reaches the user."""
    monkeypatch.setattr(unsloth, "has_cuda", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="no card") as caught:
        train(student, tmp_path)
    assert "training.backend=peft" in caught.value.hint
