"""What a tuned retriever, or an adapter, learned from is all there, or it is said: they would be measured with it."""

import json
from types import SimpleNamespace

import polars as pl
import pytest

from raft.api import benchmarking
from raft.errors import DamagedArtifact
from raft.pipeline import retriever
from raft.settings import Settings
from raft.store import adapters
from raft.testing import HashEmbedder

LINES = [f'{{"question_id": "{name}", "question": "What is {name}?"}}\n' for name in "ab"]


@pytest.fixture
def run(tmp_path):
    """A run directory with the card of a tuned retriever that learned from two questions, and these."""
    same = HashEmbedder().identity
    card = retriever.Card(
        name="0123456789ab", identity=same, embedder=same, hybrid=False, k=2, questions=2, chunks=3, hard=1,
        losses=(0.5,), measured={}, used=True, why="it is better",
    )  # fmt: skip
    (tmp_path / "retriever" / card.name).mkdir(parents=True)
    (tmp_path / retriever.CARD).write_text(card.model_dump_json(), encoding="utf-8")
    (tmp_path / "retriever" / card.name / "learned.jsonl").write_text("".join(LINES), encoding="utf-8")
    return SimpleNamespace(folder=tmp_path, manifest={"steps": {}})


@pytest.mark.parametrize(
    "damage", [None, "", LINES[0], LINES[0] + LINES[1][:20], "1\n2\n", '{"question_id": "a"}\n' * 2]
)
def test_questions_that_are_not_all_there_are_told(run, damage):
    """A retriever whose questions are gone, cut short or something else is not measured; training it mends that."""
    embedder, (learned,) = HashEmbedder(), (run.folder / "retriever").glob("*/learned.jsonl")
    assert [row["question"] for row in retriever.taught_by(run, embedder.identity)] == ["What is a?", "What is b?"]
    assert retriever.opened(run, embedder, lambda folder: embedder)[1] is embedder
    assert retriever._is_whole(run, lambda folder: embedder)
    learned.unlink()
    if damage is not None:
        learned.write_text(damage, encoding="utf-8")
    for asked in (
        lambda: retriever.taught_by(run, embedder.identity),
        lambda: retriever.opened(run, embedder, lambda folder: embedder),
    ):
        with pytest.raises(DamagedArtifact, match="trained on are not all there") as caught:
            asked()
        assert caught.value.hint.endswith("--part retriever")
    assert not retriever._is_whole(run, lambda folder: embedder)


@pytest.mark.parametrize("damage", [None, "", LINES[0], LINES[0] + LINES[1][:20]])
def test_an_adapter_is_not_measured_with_what_it_learned(tmp_path, damage):
    """Where the questions of an adapter whose card counts them are not all there, a benchmark ends with the command."""
    card = {"base": "m", "hyperparameters": {}, "versions": {}, "loss_curve": [], "notes": {}, "seconds": 1}
    adapter = tmp_path / "adapters" / "0123abcd"
    adapter.mkdir(parents=True)
    (adapter / adapters.CARD).write_text(json.dumps({**card, "questions": 2}), encoding="utf-8")
    (adapter / "learned.jsonl").write_text("".join(LINES), encoding="utf-8")
    rows = pl.DataFrame({"question_id": ["x", "y"], "question": ["What is b?", "Why not?"], "split": ["user"] * 2})
    run = SimpleNamespace(folder=tmp_path, manifest={})

    def kept():
        return benchmarking._without_leaks(rows, adapter, run, Settings(), HashEmbedder(), again=None)

    assert kept()["question_id"].to_list() == ["y"]
    (adapter / "learned.jsonl").unlink()
    if damage is not None:
        (adapter / "learned.jsonl").write_text(damage, encoding="utf-8")
    with pytest.raises(DamagedArtifact, match="trained on are not all there") as caught:
        kept()
    assert caught.value.hint == f"rm -r {adapter} && raft train {tmp_path}"
    (adapter / adapters.CARD).write_text(json.dumps(card), encoding="utf-8")
    if not damage:  # one of before, whose card has no number
        assert kept().height == 2
