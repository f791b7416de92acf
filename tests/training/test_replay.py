"""General rows among those of a training."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import UsageError
from raft.protocols import Completion, Failure
from raft.text import normalise
from raft.training import tune


def chat(question, answer="Yes."):
    """Return a chat of two turns."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def questions(chats):
    """Return what is asked in each chat."""
    return [turns[-2]["content"] for turns in chats]


def test_the_packages_own_rows_are_fit_to_learn_from():
    """There are 160 short chats of one question and one answer, none of them twice."""
    chats = tune.load(None)
    assert len(chats) == 160
    for turns in chats:
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        assert all(turn["content"] == turn["content"].strip() for turn in turns)
        assert 1 <= len(turns[1]["content"].split()) <= 60, turns[1]["content"]
        assert 2 <= len(turns[0]["content"].split()) <= 60, turns[0]["content"]
    assert len({normalise(question) for question in questions(chats)}) == 160


def test_the_packages_own_rows_are_of_many_kinds():
    """No first word begins many questions, and answers come in words, lists, code and numbers."""
    chats = tune.load(None)
    first = Counter(question.split()[0] for question in questions(chats))
    assert max(first.values()) <= 40
    assert len(first) >= 40
    answers = [turns[-1]["content"] for turns in chats]
    assert sum("```" in answer for answer in answers) >= 5
    assert sum("\n" in answer and "```" not in answer for answer in answers) >= 8
    assert sum(len(answer.split()) == 1 for answer in answers) >= 20


def test_sums_of_the_packages_own_rows_are_right():
    """Each plain sum, difference, product and quotient in an answer is correct."""
    found = 0
    for turns in tune.load(None):
        for a, sign, b, result in re.findall(r"([\d.]+) ([-+×/]) ([\d.]+) = ([\d.]*\d)", turns[-1]["content"]):
            one, other = float(a), float(b)
            right = {"+": one + other, "-": one - other, "×": one * other, "/": one / other}[sign]
            assert right == pytest.approx(float(result)), turns[-1]["content"]
            found += 1
    assert found >= 5


def test_a_file_of_chats_is_read(tmp_path):
    """Turns keep role and content; other keys and blank lines are left out."""
    turns = [{"role": "system", "content": "Be brief."}, *chat("Tea?")]
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": [{**turn, "name": "x"} for turn in turns], "source": "me"}) + "\n\n")
    assert tune.load(path) == [turns]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("3", "no JSON object"),
        ('{"text": "a"}', "no messages"),
        ('{"messages": ["a"]}', "no messages"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "no messages"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}', "no messages"),
        ('{"messages": []}', "does not end"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "does not end"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "does not end"),
    ],
)
def test_a_wrong_line_is_said_with_its_number(tmp_path, line, said):
    """A line that is no chat is an error with its number and the right form."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": chat("Tea?")}) + f"\n{line}\n")
    with pytest.raises(UsageError, match=said) as caught:
        tune.load(path)
    assert caught.value.where == f"{path}, line 2"
    assert '"messages"' in caught.value.hint


def test_a_file_without_chats_is_an_error(tmp_path):
    """A missing and an empty file are said."""
    with pytest.raises(UsageError, match="There is no such file"):
        tune.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no chats"):
        tune.load(tmp_path / "empty.jsonl")


@given(st.integers(0, 60), st.integers(1, 8), st.floats(0, 0.9), st.integers(0, 5))
def test_general_rows_have_their_share(own, general, share, seed):
    """Each row stands once, general ones have the share to the nearest whole, and each as often as any other."""
    rows = [chat(f"own {number}") for number in range(own)]
    others = [chat(f"general {number}") for number in range(general)]
    mixed = tune.mix(rows, others, share, seed)
    counts = Counter(questions(mixed))
    assert all(counts.pop(question) == 1 for question in questions(rows))
    drawn = sum(counts.values())
    assert abs(drawn - share * (own + drawn)) <= 0.5 + 1e-9
    times = [counts[question] for question in questions(others)]
    assert sum(times) == drawn
    assert max(times) - min(times) <= 1


def test_a_mixture_is_the_same_again():
    """The same seed gives the same order; another seed another; nothing is changed in place."""
    rows, general = [chat(f"own {number}") for number in range(20)], [chat(f"g {number}") for number in range(30)]
    mixed = tune.mix(rows, general, 0.2, 1)
    assert mixed == tune.mix(rows, general, 0.2, 1)
    assert mixed != tune.mix(rows, general, 0.2, 2)
    assert questions(rows) == [f"own {number}" for number in range(20)]
    assert len(mixed) == 25


def test_a_share_that_cannot_be_kept_is_an_error():
    """A share outside of 0 to 1, or one of nothing, is said; no share of nothing is fine."""
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="share"):
            tune.mix([chat("a")], [chat("b")], share, 0)
    with pytest.raises(UsageError, match="no general rows"):
        tune.mix([chat("a")], [], 0.5, 0)
    assert tune.mix([chat("a")], [], 0.0, 0) == [chat("a")]


def test_a_chat_is_rehearsed_in_the_students_own_words():
    """A reply takes the place of the last turn; one that was cut off is marked; where none came the chat is empty."""
    asked = [{"role": "system", "content": "Be brief."}, *chat("Tea?", "theirs")]
    assert tune.own_reply(asked, Completion(" Mine.\n", "m")) == [
        *asked[:-1],
        {"role": "assistant", "content": "Mine."},
    ]
    cut = tune.own_reply(asked, Completion("I go on and", "m", finish_reason="length"))
    assert cut == [*asked[:-1], {"role": "assistant", "content": "I go on and", "unfinished": "yes"}]
    assert tune.own_reply(asked, Completion("  ", "m")) == tune.own_reply(asked, Failure("error", "too long")) == []
