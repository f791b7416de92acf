"""What embeds questions learns where the chunks lie, and leaves alone what it is not to be kept away from."""

import numpy as np
import pytest

from raft.backends.embedding import SentenceEmbedder
from raft.backends.trainers.questions import Pairs, tune
from raft.settings.sections import Index

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

pytestmark = pytest.mark.slow

NAME = Index().embedder
CHUNKS = ("The valve weighs 3 kg.", "The valve weighs three kilograms in all.", "Parcels return within 30 days.")
QUESTIONS = ("how heavy is it?", "send back until when")


@pytest.fixture(scope="module")
def vectors():
    """Vectors of the chunks."""
    return SentenceEmbedder(NAME).embed(CHUNKS)


def cosines(folder, vectors):
    """Return the cosine of each question with each chunk."""
    return SentenceEmbedder(str(folder)).embed(QUESTIONS) @ vectors.T


def test_a_question_comes_nearer_to_its_chunk_than_to_others(vectors, tmp_path):
    """Tuned, each question stands further ahead with its own chunk; equal pairs and seeds make equal weights."""
    pairs = Pairs(QUESTIONS, vectors, [0, 2], [[1], []])
    losses = tune(NAME, pairs, tmp_path / "one", seed=3, epochs=6)
    before, after = SentenceEmbedder(NAME).embed(QUESTIONS) @ vectors.T, cosines(tmp_path / "one", vectors)
    assert losses[-1] < losses[0]
    for row, golden, other in ((0, 0, 2), (1, 2, 0)):
        assert after[row, golden] - after[row, other] > before[row, golden] - before[row, other]
    tune(NAME, pairs, tmp_path / "two", seed=3, epochs=6)
    assert np.array_equal(after, cosines(tmp_path / "two", vectors))


def test_what_is_barred_changes_nothing(vectors, tmp_path):
    """A chunk that a question is not kept away from is, for the training, as if it was not there."""
    barred = Pairs(QUESTIONS, vectors, [0, 2], [[1], [1]])
    without = Pairs(QUESTIONS, vectors[[0, 2]], [0, 1], [[], []])
    tune(NAME, barred, tmp_path / "barred", seed=3)
    tune(NAME, without, tmp_path / "without", seed=3)
    assert np.allclose(cosines(tmp_path / "barred", vectors), cosines(tmp_path / "without", vectors), atol=1e-5)
