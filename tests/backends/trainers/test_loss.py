"""What a training makes smaller, and what it does where the loss or its gradient is no number."""

import dataclasses
import json
import math

import pytest
from test_sft import NAME, PLAN, ROWS, VALID, chat, losses, train, weights

from raft.errors import RaftError
from raft.store import adapters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("trl")

from raft.backends.local.weights import computed_in  # noqa: E402  needs torch
from raft.backends.trainers import cpu_kernels, loss, sft  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
GENERAL = [
    [turn, {**answer, "rehearsed": "yes"}] for turn, answer in (chat("Where?", "1 1 depot"), chat("is", "user 2 Moss"))
]


def distributions(model, tokenizer, rows):
    """Return the log-probabilities that a model gives at each token of the replies."""
    found = []
    for row in rows:
        encoded = sft.encode(tokenizer, row, max_tokens=80)
        learned = [place - 1 for place, label in enumerate(encoded["labels"]) if label != sft.NOT_LEARNED]
        with torch.no_grad():
            said = model(input_ids=torch.tensor([encoded["input_ids"]])).logits[0, learned]
        found.append(said.float().log_softmax(-1))
    return torch.cat(found)


def strayed(home, loaded):
    """Return how far the kept adapter takes the student from itself in the general rows, in nats a token."""
    base = transformers.AutoModelForCausalLM.from_pretrained(loaded / "tiny-student", dtype=computed_in())
    tokenizer = transformers.AutoTokenizer.from_pretrained(loaded / "tiny-student")
    before = distributions(base, tokenizer, GENERAL)
    after = distributions(peft.PeftModel.from_pretrained(base, str(home / "out")).eval(), tokenizer, GENERAL)
    return float((before.exp() * (before - after)).sum(-1).mean())


@pytest.fixture
def tried(loaded):
    """Return what gives the loss of a batch of rows under a weight, on a student whose adapter is not zero."""
    model, tokenizer = sft.load(dataclasses.replace(PLAN, student=NAME))
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3, generator=generator)

    def tried(rows, kl):
        batch = []
        for row in rows:
            encoded = sft.encode(tokenizer, row, max_tokens=80)
            batch.append({**encoded, "rehearsed": [int("rehearsed" in row[-1])] * len(encoded["labels"])})
        trainer = object.__new__(loss.trainer_class(kl))
        trainer._metrics = {"train": {"kl": []}}
        found = trainer.compute_loss(model, cpu_kernels.pack(batch))
        return found, trainer._metrics["train"]["kl"], model, tokenizer

    return tried


@pytest.mark.parametrize("order", [ROWS[:1] + GENERAL[:1] + ROWS[1:2] + GENERAL[1:], GENERAL, GENERAL[:1]])
def test_the_divergence_of_general_rows_is_added_to_the_loss(tried, order):
    """The loss grows by the weight times the divergence in general rows' replies, over the number of learned tokens."""
    plain, _, model, tokenizer = tried(order, 0.0)
    found, told, *_ = tried(order, 0.5)
    general = [row for row in order if "rehearsed" in row[-1]]
    with model.disable_adapter():
        before = distributions(model, tokenizer, general)
    after = distributions(model, tokenizer, general)
    far = float((before.exp() * (before - after)).sum())
    learned = len(distributions(model, tokenizer, order))
    assert far > 0.1
    assert (found - plain).item() == pytest.approx(0.5 * far / learned, rel=0.05)
    assert told == [pytest.approx(far / len(before), rel=0.05)]


def test_rows_of_the_run_alone_are_not_held_back(tried):
    """A batch without a general row has the loss that it has without the weight."""
    assert tried(ROWS[:2], 5.0)[0].item() == tried(ROWS[:2], 0.0)[0].item()


def test_gradients_pull_towards_the_untuned_student(tried):
    """The adapter learns, the student does not: gradients are those of a teacher that stands still."""
    found, _, model, _ = tried(GENERAL, 2.0)
    found.backward()
    learned = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert learned == {name for name, weight in model.named_parameters() if weight.requires_grad} != set()
    assert all("lora_" in name for name in learned)


def test_a_student_that_is_held_strays_less(tmp_path, loaded):
    """With the weight the tuned student stays nearer to itself in general rows; report and curve say how near."""
    free = train(tmp_path / "free", rows=[*ROWS, *GENERAL])
    held = train(tmp_path / "held", rows=[*ROWS, *GENERAL], kl=10.0)
    assert strayed(tmp_path / "held", loaded) < 0.5 * strayed(tmp_path / "free", loaded)
    assert not losses(free, "kl")
    assert min(losses(held, "kl").values()) >= 0
    assert losses(held, "kl").keys() <= losses(held, "loss").keys()
    assert min(losses(held).values()) < losses(held)[min(losses(held))], "the rows are learned all the same"


def test_a_held_training_goes_on_as_it_was(tmp_path):
    """Interrupted and called again, a training with the weight ends with the adapter of one sitting."""
    changes = {"rows": [*ROWS, *GENERAL], "kl": 0.5, "epochs": 2}
    train(tmp_path / "whole", **changes)

    def cut(facts):
        if facts["step"] == 6 and "loss" in facts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", on_event=cut, **changes)
    train(tmp_path / "cut", **changes)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


# numbers that are none


def test_an_adapter_learns_in_float32(loaded, tmp_path):
    """Weights that are learned are float32 over whatever base, also where whatever loaded them made them bfloat16."""
    model, _ = sft.load(PLAN)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, computed_in())}

    def load(plan):
        model, tokenizer = sft.load(plan)
        return model.to(torch.bfloat16), tokenizer

    home = {"out": tmp_path / "out", "checkpoints": tmp_path / "checkpoints"}
    sft.run(load, ROWS, VALID, PLAN, **home, on_event=lambda facts: None, backend="peft")
    assert {tensor["dtype"] for tensor in adapters.tensors(tmp_path / "out" / adapters.WEIGHTS).values()} == {"F32"}


@pytest.mark.parametrize("items", [None, torch.tensor(0)])
def test_rows_without_a_learned_token_weigh_nothing(loaded, items):
    """Where no token of a batch is learned its loss is zero, and so are its gradients: not 0 / 0."""
    model, _ = sft.load(PLAN)
    ids = torch.arange(5, 25)[None]
    inputs = {"input_ids": ids, "labels": torch.full_like(ids, sft.NOT_LEARNED), "position_ids": ids - 5}
    found = object.__new__(loss.trainer_class()).compute_loss(model, inputs, num_items_in_batch=items)
    found.backward()
    assert found.item() == 0
    assert all(bool((weight.grad == 0).all()) for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("together", [True, False])
def test_no_token_is_padding(tmp_path, monkeypatch, together):
    """Rows are laid end to end or come alone, so that no attention has only masked tokens to look at."""
    masks, before = [], loss.unpacked

    def unpacked(inputs):
        masks.append(inputs.get("attention_mask"))
        return before(inputs)

    monkeypatch.setattr(loss, "unpacked", unpacked)
    if not together:
        monkeypatch.setattr(cpu_kernels, "TOGETHER", 0)
    train(tmp_path, epochs=1)
    assert len(masks) > 3
    assert all(mask is None or bool(mask.all()) for mask in masks)
    assert any(mask is None for mask in masks) is together


def test_the_gradients_norm_is_told_and_kept(tmp_path):
    """Each step has the norm of its gradient before it was clipped, for the listener and in the curve."""
    told = []
    report = train(tmp_path, epochs=1, on_event=told.append)
    norms = losses(report, "grad_norm")
    assert norms.keys() == losses(report, "loss").keys()
    assert all(norm > 0 for norm in norms.values())
    heard = {facts["step"]: round(facts["grad_norm"], 5) for facts in told if "grad_norm" in facts}
    assert heard == norms


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_ends_it_before_it_is_kept(tmp_path, monkeypatch, value):
    """The step whose gradient is no number is named, no checkpoint has its weights, and the same command goes on."""
    calls, before = [], sft.load

    def load(plan):
        model, tokenizer = before(plan)
        weight = next(weight for weight in model.parameters() if weight.requires_grad)
        weight.register_hook(lambda grad: calls.append(1) or (grad * value if len(calls) == 5 else grad))
        return model, tokenizer

    changes = {"checkpoint_minutes": 0.0, "batch": 1, "epochs": 1, "valid": []}
    monkeypatch.setattr(sft, "load", load)
    with pytest.raises(RaftError, match=r"gradient's norm is (inf|nan) at step 5; at step 4 the loss was \d") as error:
        train(tmp_path, **changes)
    assert "Where a checkpoint was written before" in error.value.what
    assert error.value.hint == "raft train RUN --set training.learning_rate=0.01"
    last = sft.last_whole(tmp_path / "checkpoints")
    assert json.loads((last / sft.STATE).read_text(encoding="utf-8"))["global_step"] == 4
    assert train(tmp_path, **changes).steps == 6
