"""Training with Unsloth: a real child process, in which a stand-in for the vendor loads a tiny model."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raft.backends.trainers import unsloth, unsloth_worker
from raft.backends.trainers.unsloth import UnslothTrainer, available, has_cuda, require
from raft.errors import MissingExtra, RaftError, UsageError
from raft.protocols import TrainingPlan

FAKE = Path(__file__).parents[2] / "fake_unsloth"
CHATS = [
    [
        {"role": "user", "content": f"Who checks pump {number}?"},
        {"role": "assistant", "content": f"The clerk of desk {number} checks it."},
    ]
    for number in range(8)
]
PLAN = TrainingPlan(
    student="",
    rank=4,
    alpha=8,
    learning_rate=1e-2,
    epochs=2.0,
    batch=4,
    evaluations=1,
    patience=2,
    checkpoint_minutes=10.0,
    bits=16,
    max_tokens=64,
    seed=3,
)


def write_student(folder):
    """Write a tiny llama with random weights, and a tokenizer with a chat template, into `folder` and return it."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rust = ByteLevelBPETokenizer()
    text = [turn["content"] for chat in CHATS for turn in chat]
    rust.train_from_iterator(text, vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust._tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """A folder with a tiny student."""
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def card(monkeypatch):
    """The machine has a card, and the vendor's package is the stand-in, in this process and in the child."""
    monkeypatch.setattr(unsloth, "has_cuda", lambda: True)
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return monkeypatch


def train(student, folder, plan=PLAN, on_event=lambda _: None, valid=CHATS[:2]):
    """Train in `folder` and return the report."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    return UnslothTrainer().train(
        CHATS,
        valid,
        replace(plan, student=str(student)),
        out=folder / "out",
        checkpoints=folder / "checkpoints",
        on_event=on_event,
    )


def failure(student, folder, mode, card, kind=RaftError, **changes):
    """Return the error that a training ends with in which the vendor fails as `mode` says."""
    card.setenv("FAKE_UNSLOTH", mode)
    with pytest.raises(kind) as caught:
        train(student, folder, replace(PLAN, **changes))
    assert list((folder / "out").iterdir()) == []
    return caught.value


def is_running(pid):
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_machine_without_a_card_is_told_so_before_anything_starts(monkeypatch, tmp_path):
    """Without a CUDA device nothing is started or written, and the hint names the trainer that works."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(str(FAKE))
    with pytest.raises(UsageError) as caught:
        train("none", tmp_path)
    assert caught.value.exit_code == 2
    assert "training.backend=peft" in caught.value.hint
    assert "CUDA" in caught.value.what
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    """Where there is a card but no unsloth, the error says what to install."""
    monkeypatch.setattr(unsloth, "has_cuda", lambda: True)
    monkeypatch.setattr(unsloth, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="unsloth") as caught:
        require()
    assert caught.value.hint == "pip install 'raft-pipeline[unsloth]'"
    assert not available()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_card_is_none(monkeypatch, hidden):
    """A card that CUDA_VISIBLE_DEVICES hides does not count, whatever the machine has."""
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert has_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not has_cuda()


def test_asking_whether_it_is_available_loads_nothing_heavy():
    """Whether Unsloth can be used is found out without importing it, torch or transformers."""
    program = "import sys\nfrom raft.backends.trainers.unsloth import available\navailable()\n"
    program += "print([name for name in ('torch', 'unsloth', 'transformers', 'trl') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(FAKE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_an_adapter_is_trained_in_a_child(student, tmp_path, card):
    """The parent gets progress, report and a PEFT adapter with the plan's rank, the same for the same seed."""
    told = []
    report = train(student, tmp_path, on_event=told.append)
    assert report.backend == "unsloth"
    assert report.steps == 4
    assert {"peft", "trl"} <= report.versions.keys()
    assert {"step", "loss"} <= told[0].keys()
    assert told[-1]["step"] == report.steps
    losses = [point["loss"] for point in report.curve if "loss" in point]
    assert losses[-1] < losses[0]
    config = json.loads((tmp_path / "out/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (4, 8, 0, "none")
    assert len(config["target_modules"]) == 7
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    log = tmp_path / "checkpoints" / unsloth.WORKPLACE / unsloth.LOG
    assert "Unsloth: Will patch" in log.read_text(encoding="utf-8")
    # the seed reaches the child: another training with it gives the same adapter, another seed another
    found = {}
    for seed in (3, 4):
        train(student, tmp_path / str(seed), replace(PLAN, seed=seed))
        found[seed] = (tmp_path / str(seed) / "out/adapter_model.safetensors").read_bytes()
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == found[3] != found[4]


@pytest.mark.slow
def test_layers_that_are_chosen_reach_the_child(student, tmp_path, card):
    """Under Unsloth too the chosen layers alone carry the adapter."""
    train(student, tmp_path, replace(PLAN, layers="qv", epochs=1.0))
    config = json.loads((tmp_path / "out/adapter_config.json").read_text(encoding="utf-8"))
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]


def test_what_unsloth_cannot_do_is_refused(card, tmp_path):
    """A weight of the divergence from the untuned student needs the other backend, which the error names."""
    with pytest.raises(UsageError, match=r"training\.kl needs backend peft") as caught:
        train("none", tmp_path, replace(PLAN, kl=0.1))
    assert caught.value.hint == "raft train RUN --set training.backend=peft"
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_child(student, tmp_path, card):
    """When the parent is interrupted, the child is gone before the interruption goes on."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    card.setenv("FAKE_UNSLOTH_PIPE", str(pipe))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(student, tmp_path, on_event=interrupt)
    pid = int(os.read(reader, 99))
    os.close(reader)
    assert not is_running(pid)


def test_a_child_does_not_outlive_its_parent(student, tmp_path, card):
    """When the parent is killed, its child ends too: the next run finds the checkpoints to itself."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    card.setenv("FAKE_UNSLOTH_PIPE", str(pipe))
    card.setenv("FAKE_UNSLOTH", "hangs")
    program = "import sys, test_unsloth\nfrom pathlib import Path\ntest_unsloth.unsloth.has_cuda = lambda: True\n"
    program += "test_unsloth.train(sys.argv[1], Path(sys.argv[2]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FAKE), *sys.path])}
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen([sys.executable, "-c", program, str(student), str(tmp_path)], env=environment) as parent:
        select.select([reader], [], [], 120)
        pid = int(os.read(reader, 99))
        assert is_running(pid)
        parent.kill()
    ready, _, _ = select.select([reader], [], [], 120)
    assert ready, "the child still holds its pipe open"
    assert os.read(reader, 99) == b""
    os.close(reader)


@pytest.mark.parametrize("way", ["", ".", "here"])
def test_nothing_of_the_working_directory_is_imported(way, tmp_path, monkeypatch):
    """The child and what it starts in turn run no module that lies in the working directory, whatever the path says."""
    (tmp_path / "json.py").write_text("print('ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path) if way == "here" else way, *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) if way == "here" else way)
    started = [sys.executable, "-c", "import json"]
    done = subprocess.run(started, cwd=tmp_path, env=unsloth._environment(tmp_path), capture_output=True, check=True)
    assert done.stdout == b""


def test_a_killed_child_is_reported(student, tmp_path, card):
    """When the system kills the child, the error says so, quotes its log, and says how to go on."""
    error = failure(student, tmp_path, "killed", card)
    assert "killed" in error.what
    assert "memory" in error.what
    assert "Unsloth: Will patch" in error.what
    assert "last checkpoint" in error.hint
    assert Path(error.where).is_file()


def test_a_child_that_ends_without_a_word_is_reported(student, tmp_path, card):
    """When the child ends by itself and says nothing, the error gives its exit code and the end of its log."""
    error = failure(student, tmp_path, "ended", card)
    assert "exit code 7" in error.what
    assert "Unsloth: Will patch" in error.what


@pytest.mark.slow
def test_a_full_card_has_a_way_out(student, tmp_path, card):
    """When the card's memory is too small, the hint is a setting that needs less of it."""
    error = failure(student, tmp_path, "memory", card)
    assert "memory" in error.what
    assert "See the documentation" not in error.what
    assert error.hint.startswith("--set training.bits=4, a smaller --student")
    assert not isinstance(error, UsageError)


def test_a_full_card_is_not_told_to_do_what_it_does():
    """A training that has a base in 4 bits already is not told to take 4 bits."""
    error = unsloth_worker._explained(RuntimeError("CUDA error: out of memory"), {"plan": {"bits": 4}})
    assert "memory" in error.what
    assert error.hint.startswith("a smaller --student")


def test_a_card_that_unsloth_cannot_use_is_refused(student, tmp_path, card):
    """Where Unsloth itself finds no card, the refusal says so and names torch, which may be one without CUDA."""
    error = failure(student, tmp_path, "no card", card, UsageError)
    assert "no card" in error.what
    assert error.where.startswith("torch ")
    assert "training.backend=peft" in error.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("broken", "bitsandbytes is not installed"),
        ("defect", "ZeroDivisionError: division by zero"),
        ("unknown model", "No config file found"),
    ],
)
def test_what_the_vendor_says_is_passed_on(student, tmp_path, card, mode, what):
    """An error in the child reaches the user in one line, with the traceback in the log."""
    error = failure(student, tmp_path, mode, card)
    assert what in error.what
    assert error.hint
    log = tmp_path / "checkpoints" / unsloth.WORKPLACE / unsloth.LOG
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_a_report_of_an_earlier_training_is_not_taken_for_this_one(student, tmp_path, card):
    """A child that fails leaves no report, even if a report of another training lay there."""
    left = tmp_path / "checkpoints" / unsloth.WORKPLACE / "report.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}", encoding="utf-8")
    failure(student, tmp_path, "no card", card, UsageError)
    assert not left.exists()


def test_a_signal_is_named(tmp_path):
    """A child that another signal than a kill ended is reported with the signal's name."""
    error = unsloth._failure(None, -signal.SIGTERM, tmp_path / "no.log")
    assert "SIGTERM" in error.what
