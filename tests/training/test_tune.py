"""Tuning: what is given to a trainer, and what is written about it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from raft.errors import DamagedArtifact, RaftError
from raft.protocols import Completion, TrainingPlan, TrainingReport
from raft.store import adapters, tables
from raft.training.tune import tune

PLAN = TrainingPlan(
    student="org/tiny",
    rank=8,
    alpha=16,
    learning_rate=2e-4,
    epochs=3.0,
    batch=8,
    evaluations=2,
    patience=2,
    checkpoint_minutes=10.0,
    bits=16,
    max_tokens=512,
    seed=7,
)
CURVE = ({"step": 5, "epoch": 0.5, "loss": 2.0}, {"step": 5, "epoch": 0.5, "valid_loss": 1.5})
REPORT = TrainingReport(CURVE, 5, 5, 1000, 2.5, {"torch": "2.13.0"}, "2 cores", "peft")
FACTS = {"base": "org/tiny", "base_identity": "sha256:a", "data_digest": "d", "prompt_digest": "p", "style": ""}


class NotingTrainer:
    """A trainer that learns nothing and remembers what it was given."""

    identity = "noting"

    def __init__(self, report=REPORT, *, finishes=True):
        self.report, self.finishes = report, finishes

    def train(self, rows, valid, plan, *, out, checkpoints, on_event):
        """Write an adapter of zeros."""
        self.rows, self.valid, self.plan, self.checkpoints = rows, valid, plan, checkpoints
        on_event({"step": 1, "steps": 5, "epoch": 0.1, "loss": 2.0, "tokens_per_second": 100.0})
        (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        if self.finishes:
            save_file({"w": np.zeros((2, 2), np.float32)}, out / "adapter_model.safetensors")
        return self.report


def example(number, split, tokens=100):
    """Return a training row."""
    return {
        "question_id": f"q{number}",
        "split": split,
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer: {number}"},
        ],
        "golden_chunk_ids": ["c1"],
        "golden_positions": [0],
        "document_chunk_ids": ["c1"],
        "tokens": tokens,
    }


def table(*splits):
    """Return a frame of examples with these splits."""
    return tables.frame(tables.EXAMPLES, [example(number, split) for number, split in enumerate(splits)])


def general(count):
    """Return chats about anything."""
    return [
        [{"role": "user", "content": f"Chat {number}"}, {"role": "assistant", "content": "Yes"}]
        for number in range(count)
    ]


@pytest.fixture
def tuned(tmp_path):
    """Tune into a new folder `3fa`, with what a test wants otherwise; return the card and the folder."""

    def tuned(examples, trainer=None, plan=PLAN, on_event=lambda _: None, **options):
        out = tmp_path / "run" / "adapters" / "3fa"
        out.mkdir(parents=True, exist_ok=True)
        options = {"general": [], "share": 0.0, "seed": 3, "facts": FACTS, **options}
        checkpoints = tmp_path / "checkpoints"
        card = tune(
            examples, trainer or NotingTrainer(), plan, out=out, checkpoints=checkpoints, on_event=on_event, **options
        )
        return card, out

    return tuned


def questions(chats):
    """Return what is asked in chats."""
    return [chat[0]["content"] for chat in chats]


def test_each_split_goes_where_it_belongs(tuned):
    """Train rows are learned from, valid rows decide, and the trainer gets the plan as it is."""
    trainer = NotingTrainer()
    tuned(table("train", "valid", "train"), trainer)
    assert sorted(questions(trainer.rows)) == ["Question 0?", "Question 2?"]
    assert questions(trainer.valid) == ["Question 1?"]
    assert trainer.rows[0][-1]["role"] == "assistant"
    assert trainer.plan is PLAN


def test_general_chats_are_mixed_into_what_is_learned_alone(tuned):
    """Rehearsal chats are added to the train rows, none of which is lost, and never to the valid rows."""
    trainer = NotingTrainer()
    card, _ = tuned(table(*["train"] * 80, *["valid"] * 8), trainer, general=general(200), share=0.2)
    asked = questions(trainer.rows)
    assert {f"Question {number}?" for number in range(80)} <= set(asked)
    chats = [text for text in asked if text.startswith("Chat")]
    assert len(chats) == card["rehearsal"] == len(asked) - 80
    assert 10 <= len(chats) <= 30
    assert len(trainer.valid) == card["valid"] == 8
    assert card["rows"] == 80


def test_only_what_is_rehearsed_is_asked_of_the_student(tuned):
    """The student answers those general chats that were drawn, each once; silence is left out."""
    asked = []

    def ask(requests):
        asked.extend(requests)
        return [Completion("" if number == 0 else f"Mine {number}", "m") for number in range(len(requests))]

    rows, plain, own = table(*["train"] * 40), NotingTrainer(), NotingTrainer()
    tuned(rows, plain, general=general(6), share=0.2)
    card, _ = tuned(rows, own, general=general(6), share=0.2, ask=ask)
    assert [[turn["content"] for turn in request.messages] for request in asked] == [[f"Chat {n}"] for n in range(6)]
    assert {(request.max_tokens, request.temperature) for request in asked} == {(128, 0.0)}
    assert questions(own.rows) == [text for text in questions(plain.rows) if text != "Chat 0"]
    replies = {turns[0]["content"]: turns[1]["content"] for turns in own.rows}
    assert replies["Chat 3"] == "Mine 3"
    assert replies["Question 3?"] == "Answer: 3"
    assert card["rehearsal"] == len(own.rows) - 40 < len(plain.rows) - 40


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_rehearsed_rows_are_marked_where_the_student_shall_stay_near_itself(tuned, kl):
    """With a weight of the divergence the general rows alone have a mark; without one no row has any."""
    trainer = NotingTrainer()
    tuned(table(*["train"] * 8), trainer, replace(PLAN, kl=kl), general=general(3), share=0.2)
    marked = [turns[0]["content"] for turns in trainer.rows if "rehearsed" in turns[-1]]
    assert marked == ([text for text in questions(trainer.rows) if text.startswith("Chat")] if kl else [])


def test_the_adapter_lies_beside_its_card(tuned):
    """What is returned is what the card says; the folder is an adapter of the run."""
    card, out = tuned(table("train", "valid"))
    assert adapters.read_card(out) == card
    assert card["adapter"] == "3fa"
    assert card["loss_curve"] == list(CURVE)
    assert (out / "README.md").read_text(encoding="utf-8").count("# Adapter 3fa") == 1
    assert adapters.find(out.parent.parent, "3fa") == out
    assert adapters.digest(out)


def test_a_draft_can_be_told_its_name(tuned):
    """An adapter that is renamed when it is whole has the id that it will have."""
    assert tuned(table("train", "valid"), facts={**FACTS, "adapter": "f00d"})[0]["adapter"] == "f00d"


def test_progress_is_passed_on(tuned):
    """Whoever listens hears what the trainer says."""
    heard = []
    tuned(table("train", "valid"), on_event=heard.append)
    assert [fact["step"] for fact in heard] == [1]


@pytest.mark.parametrize("split", ["eval_seen", "eval_unseen", "user", None])
def test_held_out_rows_are_never_learned(tuned, split):
    """A row of any other split among the examples stops the training before it begins."""
    trainer = NotingTrainer()
    with pytest.raises(RaftError, match="held out"):
        tuned(table("train", "valid", split), trainer)
    assert not hasattr(trainer, "rows")


def test_a_question_is_not_validated_by_what_was_learned(tuned):
    """A question that is in train and valid stops the training."""
    twice = tables.frame(tables.EXAMPLES, [example(1, "train"), example(1, "valid")])
    with pytest.raises(RaftError, match="to train on and to validate with"):
        tuned(twice)


def test_a_question_may_have_several_rows_to_learn(tuned):
    """Rows of one question with documents of their own are all learned from."""
    trainer = NotingTrainer()
    card, _ = tuned(tables.frame(tables.EXAMPLES, [example(1, "train"), example(1, "train")]), trainer)
    assert card["rows"] == len(trainer.rows) == 2


@pytest.mark.parametrize("splits", [(), ("valid",)])
def test_nothing_to_train_on_is_an_error(tuned, splits):
    """Without a train row the error says how to find out why."""
    with pytest.raises(RaftError, match="raft show RUN cleaned"):
        tuned(table(*splits))


def test_a_row_that_would_lose_its_answer_is_an_error(tuned):
    """Rows longer than the trainer reads are refused, with their number and the longest."""
    rows = tables.frame(tables.EXAMPLES, [example(1, "train", 512), example(2, "train", 513), example(3, "valid", 600)])
    with pytest.raises(RaftError, match=r"2 rows are longer than 512 tokens, the longest has 600"):
        tuned(rows)
    assert tuned(rows.head(1))[0]["rows"] == 1


@pytest.mark.parametrize(("rows", "said"), [(199, {"few_rows": 199}), (200, {})])
def test_few_rows_are_noted(tuned, rows, said):
    """Under 200 training rows the card notes how few they are; rehearsal chats do not count."""
    card, _ = tuned(table(*["train"] * rows, "valid"), general=general(50), share=0.1)
    assert card["notes"] == said


@pytest.mark.parametrize(
    ("losses", "said"),
    [([], {"no_valid": True}), ([1.0], {}), ([1.0, 1.0, 1.5], {"not_learned": True}), ([1.0, 0.9, 1.5], {})],
)
def test_a_training_that_did_not_help_is_noted(tuned, losses, said):
    """The card notes when nothing was validated, and when no step was better than the first."""
    curve = tuple({"step": step, "epoch": 1.0, "valid_loss": loss} for step, loss in enumerate(losses, 1))
    card, _ = tuned(table(*["train"] * 200), NotingTrainer(replace(REPORT, curve=curve)))
    assert card["notes"] == said


def test_a_trainer_that_leaves_no_weights_is_found_out(tuned):
    """Without whole weights there is no card, so that nothing passes for an adapter."""
    with pytest.raises(DamagedArtifact, match=r"adapter_model\.safetensors"):
        tuned(table("train", "valid"), NotingTrainer(finishes=False))
