"""Settings that are given in several ways: nested and dotted ones mean the same, and none is dropped in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raft
from raft.api.building import _described
from raft.api.run import together
from raft.errors import UsageError

NAMES = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.integers(0, 9), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6
)


@pytest.fixture
def corpus(tmp_path):
    """A folder with one document."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("# A\n\nThe pump weighs 7 kg.\n", encoding="utf-8")
    return tmp_path / "corpus"


@pytest.mark.parametrize(
    "more", [{"generator": {"timeout": 60.0}, "index": {"k": 8}}, {"generator.timeout": 60.0, "index.k": 8}]
)
def test_a_named_generator_stays_beside_other_settings_of_generators(corpus, more):
    """A section that is given nested adds to what an argument names."""
    chosen = _described(corpus, None, {"generator": "hosted_vllm/m", "settings": more}).settings
    assert (chosen.generator.model, chosen.generator.timeout, chosen.index.k) == ("hosted_vllm/m", 60.0, 8)


@pytest.mark.parametrize(
    "more",
    [
        {"generator": {"model": "hosted_vllm/n"}},
        {"generator.model": "hosted_vllm/n"},
    ],
)
def test_settings_that_contradict_are_an_error(corpus, more, tmp_path):
    """Two values of one setting are named both, before anything is made."""
    with pytest.raises(
        UsageError, match=r"generator\.model is given twice: 'hosted_vllm/m' and 'hosted_vllm/n'"
    ) as caught:
        raft.build(corpus, out=tmp_path / "run", generator="hosted_vllm/m", settings=more)
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_nested_and_dotted_settings_mean_the_same(tree):
    """A tree of settings is its dotted names, however often it is read."""
    flat = together({}, tree)
    assert together(flat, tree) == together({}, flat) == flat
    assert all(not isinstance(value, dict) for value in flat.values())
