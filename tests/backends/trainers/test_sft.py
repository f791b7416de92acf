"""Training: what is learned of a chat, which adapter is kept, and going on after an interruption."""

import dataclasses
import itertools
import json
import math
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import RaftError, UsageError
from raft.protocols import TrainingPlan
from raft.store import adapters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("trl")

from raft.backends.local.generate import render  # noqa: E402
from raft.backends.local.weights import Weights, computed_in  # noqa: E402
from raft.backends.trainers import cpu_kernels, sft  # noqa: E402  needs torch
from raft.backends.trainers.merge import merged  # noqa: E402
from raft.backends.trainers.sft import PeftTrainer, load  # noqa: E402
from raft.settings.sections import LAYERS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAME = "org/tiny-student"
NOT_LEARNED = sft.NOT_LEARNED
TOWNS = ("Halden", "Moss", "Horten", "Narvik", "Bergen", "Alta")


def save_student(folder, **config):
    """Write a tiny llama with random weights in bfloat16, with the tokenizer and template of its like."""
    from tokenizers import ByteLevelBPETokenizer

    rust = ByteLevelBPETokenizer()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    text = ["Where is depot 1? The depot is in " + " ".join(TOWNS) + ". user assistant"] * 4
    rust.train_from_iterator(text, vocab_size=340, min_frequency=2, special_tokens=specials, show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust._tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | config)))
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(loaded):
    """The student's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(loaded / "tiny-student")


def chat(question, answer):
    """Return one row."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


ROWS = [chat(f"Where is depot {number}?", f"The depot is in {town}.") for number, town in enumerate(TOWNS)]
VALID = ROWS[:2]
OTHER = [chat("Where is depot 7?", "1 1 1 ? depot Where")]
PLAN = TrainingPlan(
    student=NAME,
    rank=4,
    alpha=8,
    learning_rate=0.04,
    epochs=4,
    batch=2,
    evaluations=1,
    patience=20,
    checkpoint_minutes=60,
    bits=16,
    max_tokens=80,
    seed=3,
)


def train(home, rows=ROWS, valid=VALID, on_event=lambda facts: None, **changes):
    """Train in a folder, and return the report."""
    plan = dataclasses.replace(PLAN, **changes)
    return PeftTrainer().train(rows, valid, plan, out=home / "out", checkpoints=home / "checkpoints", on_event=on_event)


def weights(home):
    """Return the bytes of the adapter that was kept."""
    return (home / "out" / adapters.WEIGHTS).read_bytes()


def losses(report, name="valid_loss"):
    """Return step to loss of one curve of a report."""
    return {point["step"]: point[name] for point in report.curve if name in point}


def valid_loss(home, loaded, tokenizer, rows=VALID):
    """Return the loss of rows as the kept adapter has it, in plain transformers and PEFT."""
    base = transformers.AutoModelForCausalLM.from_pretrained(loaded / "tiny-student", dtype=computed_in())
    model = peft.PeftModel.from_pretrained(base, str(home / "out")).eval()
    found = []
    for row in rows:
        encoded = sft.encode(tokenizer, row, max_tokens=80)
        ids, labels = (torch.tensor([encoded[name]]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            found.append(model(input_ids=ids, labels=labels).loss.item())
    return sum(found) / len(found)


def interrupt_at(step):
    """Return a listener that ends a training as Ctrl-C does, the first time the step is reached."""

    def on_event(facts):
        if facts["step"] == step and "loss" in facts:
            raise KeyboardInterrupt

    return on_event


# what is learned of a row


def test_the_answer_and_its_end_alone_are_learned(tokenizer):
    """Labels are the answer's tokens and the token that ends it; the line end that the template adds is left out."""
    row = [{"role": "system", "content": "Be short."}, *chat("Where?", "old"), *chat("Where is it?", "In Moss.\n\n1")]
    encoded = sft.encode(tokenizer, row, max_tokens=200)
    learned = [label for label in encoded["labels"] if label != NOT_LEARNED]
    assert tokenizer.decode(learned) == "In Moss.\n\n1<|im_end|>"
    assert encoded["input_ids"][-len(learned) :] == learned
    assert encoded["labels"][: -len(learned)] == [NOT_LEARNED] * (len(encoded["labels"]) - len(learned))


def test_what_is_read_before_the_answer_is_what_the_model_is_asked_with(tokenizer):
    """The tokens before the answer are those of the prompt that `LocalModel` continues."""
    encoded = sft.encode(tokenizer, ROWS[0], max_tokens=80)
    before = [token for token, label in zip(*encoded.values(), strict=True) if label == NOT_LEARNED]
    assert before == tokenizer(render(tokenizer, ROWS[0][:-1]), add_special_tokens=False)["input_ids"]


def test_a_template_without_an_end_gets_one(tokenizer, monkeypatch):
    """Where the template writes no end of a text, it is learned all the same."""
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    encoded = sft.encode(tokenizer, ROWS[0], max_tokens=80)
    learned = [label for label in encoded["labels"] if label != NOT_LEARNED]
    assert tokenizer.decode(learned) == "The depot is in Halden.\n<|im_end|>"


@pytest.mark.parametrize("ended", [True, False], ids=["template ends a turn", "template ends nothing"])
def test_a_reply_that_was_cut_off_does_not_teach_to_end_there(tokenizer, monkeypatch, ended):
    """All of an unfinished reply is learned, and no end of it."""
    if not ended:
        monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    row = chat("Where is it? In Moss.", "In Moss.")
    whole, cut = (
        sft.encode(tokenizer, [row[0], {**row[1], **more}], max_tokens=80) for more in ({}, {"unfinished": "yes"})
    )
    learned = [label for label in cut["labels"] if label != NOT_LEARNED]
    assert tokenizer.decode(learned) == "In Moss."
    assert whole["input_ids"][: len(cut["input_ids"])] == cut["input_ids"]


def test_a_row_that_is_too_long_is_refused(tokenizer):
    """Nothing is cut off in silence: one token too many is an error that names the setting."""
    length = len(sft.encode(tokenizer, ROWS[0], max_tokens=1000)["input_ids"])
    assert len(sft.encode(tokenizer, ROWS[0], max_tokens=length)["input_ids"]) == length
    with pytest.raises(RaftError, match=f"{length} tokens, more than the {length - 1}") as error:
        sft.encode(tokenizer, ROWS[0], max_tokens=length - 1)
    assert "examples.max_tokens" in error.value.hint
    assert "depot 0" in error.value.where


def test_a_row_without_an_answer_is_refused(tokenizer):
    """A row that teaches nothing but to be silent is an error."""
    with pytest.raises(RaftError, match="no answer"):
        sft.encode(tokenizer, chat("Where?", ""), max_tokens=80)


def test_a_template_that_changes_what_was_said_is_refused(tokenizer, monkeypatch):
    """Where adding an answer changes the turns before it, what is learned could not be told."""
    changing = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", changing)
    with pytest.raises(RaftError, match="changes earlier turns"):
        sft.encode(tokenizer, ROWS[0], max_tokens=80)


# training


@pytest.fixture(scope="module")
def whole(loaded, tmp_path_factory):
    """A training to its end: its folder, its report, and what its listener was told."""
    home, told = tmp_path_factory.mktemp("whole"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAFT_MODELS", str(loaded))
        torch.set_num_threads(1)
        report = train(home, on_event=lambda facts: told.append(dict(facts)))
    return home, report, told


def test_the_loss_falls(whole, loaded, tokenizer):
    """A tiny task is learned: on rows that it has seen, the loss of the kept adapter is far below the first one."""
    home, report, _ = whole
    measured = losses(report, "loss")
    assert min(losses(report).values()) < 0.5 * measured[1]
    assert valid_loss(home, loaded, tokenizer) < 0.5 * measured[1]


def test_rows_computed_together_are_learned_as_one_by_one(tmp_path, monkeypatch):
    """Rows of one step are computed as one long row, and every step has the loss that it has without."""
    seen = []
    monkeypatch.setattr(sft, "pack", lambda rows: seen.append(len(rows)) or cpu_kernels.pack(rows))
    together = train(tmp_path / "together", learning_rate=0.004, batch=4)
    assert set(seen) > {4}, "four rows are one"
    seen.clear()
    monkeypatch.setattr(cpu_kernels, "TOGETHER", 0)
    alone = train(tmp_path / "alone", learning_rate=0.004, batch=4)
    assert not seen, "rows that take too much memory are not laid end to end"
    for name in ("loss", "valid_loss"):
        assert losses(together, name) == pytest.approx(losses(alone, name), rel=0.02)


def test_positions_alone_keep_rows_apart(loaded):
    """Without the kernels' attention, as on a card, a row says behind another what it says alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(loaded / "tiny-student", dtype=torch.float32)
    rows = [{"input_ids": list(range(5, 17)), "labels": []}, {"input_ids": list(range(40, 33, -1)), "labels": []}]
    told = []
    for given_rows in (rows, rows[1:]):
        inputs = {**cpu_kernels.pack(given_rows), "labels": None}
        with torch.no_grad():
            told.append(model(**inputs, use_cache=False).logits[0, -7:])
    assert torch.allclose(*told, atol=1e-4)


@given(st.integers(1, 4096), st.integers(0, 80 << 30), st.integers(1, 64))
def test_rows_on_a_card_leave_half_of_its_memory(longest, free, layers):
    """Whatever a student's size, rows computed together are estimated at no more than half of what is free."""
    config = SimpleNamespace(hidden_size=576, num_hidden_layers=layers, vocab_size=49152)
    rows = cpu_kernels.rows_on_card(config, longest, free)
    token = cpu_kernels.LAYER_BYTES * 576 * layers + cpu_kernels.LOGIT_BYTES * 49152
    assert 0 <= rows * longest * token <= free / 2 < (rows + 1) * longest * token


@pytest.mark.parametrize(("longest", "rows"), [(64, 8), (65, 4), (128, 4), (513, 1), (100_000, 1)])
def test_memory_bounds_how_many_rows_are_computed_together(loaded, monkeypatch, longest, rows):
    """As many rows of a step of eight as have room, and such that steps are whole."""
    model, _ = load(PLAN)
    monkeypatch.setattr(cpu_kernels, "TOGETHER", 8 * 64 * model.config.hidden_size)
    assert cpu_kernels.beside(model, longest, 8) == rows


def test_a_model_that_reads_past_the_beginning_of_a_row_learns_them_one_by_one(loaded):
    """A layer that knows nothing of rows that are laid end to end is found out, and gets one row at a time."""
    model, _ = load(PLAN)
    assert cpu_kernels.beside(model, 64, 8) == 8
    layer = model.base_model.model.model.layers[0]
    before = layer.forward
    layer.forward = lambda x, *given, **named: before(x + x.cumsum(1).roll(1, 1), *given, **named)
    assert cpu_kernels.beside(model, 64, 8) == 1


def test_the_report_says_what_was_done(whole):
    """Steps, curves, tokens, seconds, versions and machine are those of the training."""
    _, report, told = whole
    assert report.steps == 4 * math.ceil(len(ROWS) / 2) == 12
    assert list(losses(report, "loss")) == list(range(1, 13))
    assert list(losses(report)) == [3, 6, 9, 12]
    assert [point["step"] for point in report.curve] == sorted(point["step"] for point in report.curve)
    assert [point["epoch"] for point in report.curve][-1] == 4.0
    assert report.best_step in losses(report)
    assert report.seconds > 0
    assert report.backend == "peft"
    assert {"torch", "transformers", "peft", "trl", "python"} <= set(report.versions)
    assert "cores" in report.hardware or "GiB" in report.hardware
    assert [facts["step"] for facts in told if "loss" in facts] == list(range(1, 13))
    assert [facts["step"] for facts in told if "valid_loss" in facts] == [3, 6, 9, 12]
    assert all(facts["steps"] == 12 and facts["epoch"] <= 4 for facts in told)
    assert all(facts["tokens_per_second"] > 0 for facts in told if "loss" in facts)


def test_tokens_are_counted_without_padding(whole, tokenizer):
    """The report's tokens are those of all rows, in all passes."""
    _, report, _ = whole
    assert report.tokens == 4 * sum(len(sft.encode(tokenizer, row, max_tokens=80)["input_ids"]) for row in ROWS)


def test_the_adapter_folder_is_whole(whole):
    """It names the student as it was asked for, holds safetensors and the tokenizer, and no pickle."""
    home, _, _ = whole
    settings = json.loads((home / "out" / adapters.CONFIG).read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == NAME
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert {name.rpartition(".")[2] for name in settings["target_modules"]} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    adapters.check_weights(home / "out")
    names = {path.name for path in (home / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".md"))]
    assert len(adapters.tensors(home / "out" / adapters.WEIGHTS)) == 2 * 7 * 2


@pytest.mark.parametrize("layers", ["attention", "qv"])
def test_an_adapter_may_change_some_layers_alone(loaded, tmp_path, layers):
    """The chosen layers alone carry the adapter; the loss falls, and what is merged or swapped in says the same."""
    report = train(tmp_path, layers=layers, epochs=2)
    assert losses(report, "loss")[report.steps] < losses(report, "loss")[1]
    settings = json.loads((tmp_path / "out" / adapters.CONFIG).read_text(encoding="utf-8"))
    assert sorted(settings["target_modules"]) == sorted(LAYERS[layers])
    assert len(adapters.tensors(tmp_path / "out" / adapters.WEIGHTS)) == 2 * len(LAYERS[layers]) * 2
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        swapped = Weights(NAME).use(tmp_path / "out")[0](ids).logits.float()
        whole = merged(NAME, tmp_path / "out")(ids).logits.float()
        untuned = transformers.AutoModelForCausalLM.from_pretrained(loaded / "tiny-student")(ids).logits.float()
    assert (swapped - whole).norm() < 0.1 * (swapped - untuned).norm()


def test_layers_that_a_student_names_otherwise_are_refused():
    """Where a student lacks one of the chosen layers, it is named, with the choice that fits every student."""
    student = transformers.OPTForCausalLM(
        transformers.OPTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, vocab_size=9)
    )
    sft.check_layers(student, "all")
    sft.check_layers(student, "qv")
    with pytest.raises(UsageError, match="no layers called o_proj") as error:
        sft.check_layers(student, "attention")
    assert error.value.hint == "raft train RUN --set training.layers=all"


def test_the_same_seed_gives_the_same_adapter(whole, tmp_path):
    """Equal rows, plan and seed give equal bytes; another seed gives others."""
    home, report, _ = whole
    again = train(tmp_path / "again")
    assert weights(tmp_path / "again") == weights(home)
    assert again.curve == report.curve
    train(tmp_path / "other", seed=4, epochs=1)
    train(tmp_path / "short", epochs=1)
    assert weights(tmp_path / "other") != weights(tmp_path / "short")


def test_the_best_step_is_kept(tmp_path, loaded, tokenizer):
    """Where learning the rows makes the validation loss rise again, the adapter of its lowest point is kept."""
    report = train(tmp_path, valid=OTHER, epochs=8)
    measured = losses(report)
    best = min(measured, key=measured.get)
    assert measured[best] < measured[report.steps], "it did rise again"
    assert report.best_step == best
    assert valid_loss(tmp_path, loaded, tokenizer, OTHER) == pytest.approx(measured[best], rel=0.02)


def test_training_stops_when_nothing_improves(tmp_path):
    """After `patience` measurements without improvement no further step is done."""
    report = train(tmp_path, valid=OTHER, epochs=40, patience=2)
    measured = losses(report)
    best = min(measured, key=measured.get)
    steps = list(measured)
    assert report.steps < 120
    assert steps[-1] == report.steps
    assert len(steps) - 1 - steps.index(best) == 2
    assert report.best_step == best


def test_without_validation_rows_the_last_step_is_kept(tmp_path):
    """With nothing to choose by, all epochs are done and the end is kept."""
    report = train(tmp_path, valid=[], epochs=1)
    assert losses(report) == {}
    assert report.best_step == report.steps == 3
    adapters.check_weights(tmp_path / "out")


def test_few_rows_make_a_step(tmp_path):
    """Fewer rows than a batch, and half an epoch, are one step."""
    assert train(tmp_path / "few", rows=ROWS[:1], epochs=1, batch=8).steps == 1
    assert train(tmp_path / "half", rows=ROWS, epochs=0.5, batch=8).steps == 1


# interruptions


@pytest.fixture(scope="module")
def cut_at_eight(loaded, tmp_path_factory):
    """What an interruption in the eighth step left: checkpoints of the third and the sixth."""
    home = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setenv("RAFT_MODELS", str(loaded))
        torch.set_num_threads(1)
        train(home, on_event=interrupt_at(8))
    return home


@pytest.fixture
def cut(cut_at_eight, tmp_path):
    """The same, in a folder of the test's own: a run directory can be moved."""
    shutil.copytree(cut_at_eight, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_an_interrupted_training_goes_on(whole, cut):
    """Interrupted after a checkpoint and called again, it ends with the same steps, curves and adapter."""
    home, report, _ = whole
    assert not (cut / "out").exists()
    told = []
    again = train(cut, on_event=told.append)
    assert [facts["step"] for facts in told if "loss" in facts] == [7, 8, 9, 10, 11, 12]
    assert (again.steps, again.best_step, again.tokens) == (report.steps, report.best_step, report.tokens)
    assert again.curve == report.curve
    assert weights(cut) == weights(home)


def test_seconds_of_all_sittings_count(cut):
    """What was measured before an interruption is in the report's seconds."""
    assert float((cut / "checkpoints" / "seconds.json").read_text()) > 0
    (cut / "checkpoints" / "seconds.json").write_text("5000.0")
    assert train(cut).seconds > 5000


def test_a_checkpoint_is_due_by_the_clock(tmp_path):
    """With no minutes between checkpoints each step is one, so that an interruption costs a step at most."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_event=interrupt_at(3), checkpoint_minutes=0.0)
    assert {path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.parametrize("file", [*sft.ARCHIVES, adapters.WEIGHTS, sft.STATE])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_half_written_checkpoint_is_not_whole(cut, file, harm):
    """A checkpoint that lacks a file, or holds half of one, is removed, and the one before it is found."""
    newest = cut / "checkpoints" / "checkpoint-6" / file
    data = newest.read_bytes()
    if harm == "changed":
        newest.write_bytes(b"{" * len(data))
    elif harm == "cut":
        newest.write_bytes(data[: len(data) // 2])
    else:
        newest.unlink()
    assert sft.last_whole(cut / "checkpoints") == cut / "checkpoints" / "checkpoint-3"
    assert not newest.parent.exists()


def test_after_a_half_written_checkpoint_training_goes_on_from_the_one_before(whole, cut):
    """What a crash left of the newest checkpoint is thrown away; the adapter is the same in the end."""
    (cut / "checkpoints" / "checkpoint-6" / "optimizer.pt").write_bytes(b"")
    told = []
    report = train(cut, on_event=told.append)
    assert told[0]["step"] == 4
    assert report.steps == 12
    assert weights(cut) == weights(whole[0])


def test_damage_everywhere_begins_anew(cut):
    """With no whole checkpoint left, and a damaged record of the time, training begins at its first step."""
    for name in ("checkpoint-3", "checkpoint-6"):
        (cut / "checkpoints" / name / "trainer_state.json").unlink()
    (cut / "checkpoints" / "seconds.json").write_text("")
    told = []
    train(cut, on_event=told.append, epochs=1)
    assert told[0]["step"] == 1


@pytest.mark.parametrize("ending", ["last step", "stopped early"])
def test_a_training_that_was_over_is_not_done_again(tmp_path, ending):
    """Where only the writing of the adapter is missing, no step is done, and the adapter is the same."""
    changes = {"epochs": 2} if ending == "last step" else {"valid": OTHER, "patience": 1, "epochs": 40}
    report = train(tmp_path, **changes)
    assert ending == "last step" or report.steps < 120
    kept = weights(tmp_path)
    shutil.rmtree(tmp_path / "out")
    told = []
    again = train(tmp_path, on_event=told.append, **changes)
    assert told == []
    assert weights(tmp_path) == kept
    assert (again.curve, again.steps, again.best_step) == (report.curve, report.steps, report.best_step)


def test_patience_is_not_forgotten_by_an_interruption(tmp_path):
    """Measurements without improvement before an interruption count after it."""
    changes = {"valid": OTHER, "patience": 2, "epochs": 40}
    report = train(tmp_path / "whole", **changes)
    before_last = list(losses(report))[-2]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", on_event=interrupt_at(before_last + 1), **changes)
    assert train(tmp_path / "cut", **changes).steps == report.steps


# what goes wrong


def test_a_loss_that_is_no_number_ends_it(tmp_path):
    """Training stops with an error that tells the command with a lower learning rate."""
    with pytest.raises(RaftError, match=r"loss is (nan|inf) at step") as error:
        train(tmp_path, learning_rate=1e30)
    assert error.value.hint == "raft train RUN --set training.learning_rate=2.5e+29"
    assert "1e+30" in error.value.where
    assert not (tmp_path / "out").exists()


def test_short_memory_is_said(tmp_path):
    """An allocation that fails becomes an error with what to change."""

    def on_event(facts):
        raise MemoryError("Unable to allocate 9 GiB")

    with pytest.raises(RaftError, match="Memory is short: Unable to allocate 9 GiB") as error:
        train(tmp_path, on_event=on_event)
    assert "max_tokens" in error.value.hint


def test_other_failures_stay_what_they_are(tmp_path):
    """An error that is not about memory is not called one."""

    def on_event(facts):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(tmp_path, on_event=on_event)


def test_four_bits_need_the_other_backend(tmp_path):
    """This backend refuses a quantised base before anything is loaded."""
    with pytest.raises(UsageError, match="unsloth"):
        train(tmp_path, bits=4, student="org/nothing")


def test_a_student_that_cannot_be_loaded_is_said(tmp_path, loaded):
    """Weights that are no safetensors are not read, and the student is named."""
    broken = tmp_path / "broken"
    shutil.copytree(loaded / "tiny-student", broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(RaftError, match="cannot be loaded"):
        train(tmp_path, student=str(broken))


def test_nothing_is_printed(tmp_path, capfd):
    """Progress goes to the listener alone."""
    train(tmp_path, epochs=1)
    assert capfd.readouterr().out == ""


def test_versions_of_what_is_not_installed_are_left_out():
    """Only packages that are there have a version."""
    assert list(itertools.islice(sft.versions("torch", "no-such-package"), 5)) == ["python", "torch"]
