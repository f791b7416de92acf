"""Hidden states of a real small model: what its middle layers make of a text."""

import numpy as np
import pytest

from raft.backends.local.generate import tokens
from raft.backends.local.states import DEPTH, StateEmbedder
from raft.backends.local.weights import Weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = [
    "The pump weighs 7.5 kg.",
    "How heavy is it?",
    "The refund office closes at 16:30, it is said.",
]


STUDENT = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.slow
def test_a_state_is_that_of_the_whole_model_at_the_end_of_the_text():
    """What is computed of some layers alone is what all of them would have had there, whatever it is batched with."""
    weights = Weights(STUDENT)
    found = StateEmbedder(STUDENT, weights).embed(TEXTS)
    model, tokenizer = weights.use(None)
    layer = max(1, round(DEPTH * model.config.num_hidden_layers))
    for text, state in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            whole = model(input_ids=torch.tensor(tokens(tokenizer, [text])), output_hidden_states=True)
        wanted = whole.hidden_states[layer][0, -1].float().numpy()
        assert state.dtype == np.float32
        assert np.allclose(state, wanted, atol=0.05 * np.abs(wanted).max())


def test_states_belong_to_their_texts_in_any_order(tiny_student):
    """Texts in another order, and the same text twice, have the states of each; none leave nothing behind."""
    embedder = StateEmbedder(str(tiny_student))
    found = embedder.embed(TEXTS)
    again = embedder.embed([TEXTS[2], TEXTS[0], TEXTS[2]])
    assert np.array_equal(again[0], again[2])
    assert np.allclose(again, found[[2, 0, 2]], atol=0.05 * np.abs(found).max())
    assert embedder.embed([]).shape == (0, found.shape[1])
    assert "state" in embedder.identity
