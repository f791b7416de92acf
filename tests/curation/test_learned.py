"""The learned filter: likelihoods of a local model, weighed as labelled pairs have taught."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raft import prompts
from raft.curation import decisions, learned
from raft.curation.decisions import APPROVED, EDITED, HUMAN, REJECTED
from raft.errors import UsageError

GOOD, BAD = "How many minutes may a pump of the type K4 run at full load", "Who likes tea here"
SENTENCE = "A pump of the type K4 may run for up to 90 minutes at full load."


class Words:
    """A scorer that finds a text likelier the more of its words the context holds."""

    identity = "words"

    def score(self, pairs: Any) -> list[tuple[float, bool, int]]:
        """Return how many words of each continuation its context lacks, as nats."""
        return [
            (sum(0.0 if word in context else -1.0 for word in text.split()), False, max(1, len(text.split())))
            for context, text in pairs
        ]

    def render(self, messages: Any) -> str:
        """Return the turns, a line each."""
        return "\n".join(message["content"] for message in messages)


def row(name: str, question: str, **more: Any) -> dict[str, Any]:
    """Return a question about the sentence, as cleaning has it."""
    quote = {"chunk_id": "c", "start": 0, "end": len(SENTENCE), "text": SENTENCE}
    given = {"question_id": name, "kind": "number", "question": question, "answer": "90 minutes", "quotes": [quote]}
    return {**given, "model": "m", "prompt": "span@1", "reason": None, **more}


def weights(minimum: float = 0.5) -> learned.Weights:
    """Return weights for which what the sentence says is right."""
    columns = {"centre": (0.3, 0.3), "spread": (0.2, 0.2), "weights": (2.0, 2.0)}
    return learned.Weights(model="m", scores=("said", "asked"), **columns, bias=0.0, minimum=minimum, pairs=40)


def altered(**changes: Any) -> str:
    """Return the file of weights with something changed."""
    return json.dumps({**json.loads(weights().identity), **changes})


def dropped(rows: list[dict[str, Any]], **how: Any) -> list[str]:
    """Filter rows; return the ids of those that are dropped."""
    learned.drop(rows, weights(), prompts.load("right"), Words(), **how)
    return [one["question_id"] for one in rows if one["reason"] == learned.UNLIKELY]


def test_a_question_about_something_else_is_dropped_and_its_probability_is_told() -> None:
    """What the sentence says nothing of is less likely than what it says; both verdicts stand among the readings."""
    rows = [
        row("good", "How many minutes may a pump of the type K4 run at full load"),
        row("bad", "Who likes tea here"),
    ]
    assert dropped(rows) == ["bad"]
    verdicts = [one["readings"][0] for one in rows]
    assert verdicts[0]["verdict"] > 0.5 > verdicts[1]["verdict"]
    assert all(one["asked"] == learned.NAME and "said" in one["said"] for one in verdicts)


@pytest.mark.parametrize(
    "more", [{"model": HUMAN}, {"prompt": "by_rule@1"}, {"quotes": []}, {"kind": "decision"}, {"kind": "procedure"}]
)
def test_what_no_model_wrote_or_no_sentence_answers_is_left_alone(more: dict[str, Any]) -> None:
    """Pairs of people, questions made by rule, yes and no, and lists of steps are neither scored nor dropped."""
    rows = [row("one", "Who likes tea here", **more)]
    assert not dropped(rows)
    assert "readings" not in rows[0]


def test_what_a_person_has_judged_is_scored_and_not_dropped() -> None:
    """A verdict of a person outweighs the filter's, which is noted all the same, so that it can be taught by it."""
    rows = [row("bad", "Who likes tea here")]
    assert not dropped(rows, spared={"bad"})
    assert rows[0]["readings"]


@given(st.permutations(range(6)))
def test_the_order_of_the_rows_changes_no_verdict(order: list[int]) -> None:
    """Each row gets the probability that it gets alone."""
    asked = ["Who likes tea", "How many minutes may a pump run", "What is K4", "Why at full load", "How", "up to 90"]
    alone = [row(str(number), text) for number, text in enumerate(asked)]
    for one in alone:
        dropped([one])
    mixed = [row(str(number), asked[number]) for number in order]
    dropped(mixed)
    assert {one["question_id"]: one["readings"] for one in mixed} == {
        one["question_id"]: one["readings"] for one in alone
    }


@example(seed=33664, keep=0.9375)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 0.95))
def test_weights_keep_the_share_of_right_pairs_that_was_asked_for(seed: int, keep: float) -> None:
    """On the pairs that were learned from at least that share is kept, and right ones are the likelier."""
    draw = np.random.default_rng(seed)
    right = np.arange(60) % 2 == 0
    scores = draw.normal(size=(60, 2)) + right[:, None]
    made = learned.fit(scores, right, "m", ["said", "asked"], keep=keep)
    likely = made.probabilities(scores)
    assert np.mean(likely[right] >= made.minimum) >= keep
    assert likely[right].mean() > likely[~right].mean()


def test_a_regression_is_the_one_that_textbooks_tell() -> None:
    """At the weights found, the slope of the ridge-penalised likelihood is nought."""
    draw = np.random.default_rng(0)
    scores, right = draw.normal(size=(80, 2)), np.arange(80) % 3 == 0
    made = learned.fit(scores, right, "m", ["said", "asked"], keep=0.7)
    centred = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    slope = centred.T @ (made.probabilities(scores) - right) + np.array(made.weights)
    assert np.abs(slope).max() < 1e-3


@pytest.mark.parametrize("name", learned.BROUGHT)
def test_the_weights_that_are_brought_can_be_read(name: str) -> None:
    """Both files are whole: what the sentence says makes a question likelier to be right."""
    found = learned.load(name)
    assert found.pairs >= 100
    assert all(one > 0 for one in found.weights)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"model": "m"}', "scores: Field required"),
        (altered(scores=["beauty", "asked"]), "scores.0"),
        (altered(spread=[0, 1]), "spread.0"),
        (altered(weights=[1, 2, 3]), "one centre, one spread and one weight"),
        (altered(model=None), "model: Input should be a valid string"),
        (altered().replace("40", "Infinity"), "pairs"),
        (altered().replace("0.3", "NaN", 1), "centre.0"),
        (altered(more=1), "more"),
    ],
)
def test_a_file_that_is_none_of_weights_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong with it is said, and how to go on."""
    file = tmp_path / "weights.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=told) as caught:
        learned.load(str(file))
    assert learned.BROUGHT[0] in str(caught.value.hint)


def test_a_file_that_is_not_there_or_cannot_be_read_is_said_in_words(tmp_path: Path) -> None:
    """Of neither weights nor decisions a number or a name of the operating system's is shown."""
    (tmp_path / "latin").write_bytes(b"\xff\n")
    for read in (lambda name: learned.load(str(tmp_path / name)), lambda name: decisions.read(tmp_path / name)):
        for name, told in (("none", "here is no such file"), ("latin", "cannot be read"), (".", "no file")):
            with pytest.raises(UsageError, match=told) as caught:
                read(name)
            assert not {"[Errno", "codec"} & {*caught.value.what.replace("'", " ").split()}


def test_a_filter_is_taught_by_what_people_said(tmp_path: Path) -> None:
    """Approved rows are right, rejected and edited ones wrong; what was learned drops the wrong ones."""
    rows = [row(f"{number}", GOOD if number % 2 else BAD) for number in range(2 * learned.LEAST)]
    learned.drop(rows, weights(0.0), prompts.load("right"), Words())
    said = {str(n): APPROVED if n % 2 else (REJECTED, EDITED)[n % 4 // 2] for n in range(len(rows))}
    made = learned.learn(rows, said, weights(), keep=0.9)
    file = tmp_path / "own.json"
    file.write_text(made.identity, encoding="utf-8")
    fresh = [row("good", GOOD), row("bad", BAD)]
    learned.drop(fresh, learned.load(str(file)), prompts.load("right"), Words())
    assert [one["reason"] for one in fresh] == [None, learned.UNLIKELY]


def test_too_few_verdicts_teach_nothing() -> None:
    """With fewer than twenty of each sort it is refused, with what there is and how to judge more."""
    rows = [row("one", "Who likes tea here")]
    learned.drop(rows, weights(0.0), prompts.load("right"), Words())
    with pytest.raises(UsageError, match="called 0 right and 1 wrong") as caught:
        learned.learn(rows, {"one": REJECTED}, weights(), keep=0.7, run="my run")
    assert caught.value.hint == "raft review 'my run' --sample 200"


@pytest.mark.parametrize("noted", [True, False])
def test_only_the_weights_of_the_build_are_taught(noted: bool) -> None:
    """Other numbers are refused, in earlier runs by the scores; so is the name of another model, where it was noted."""
    rows = [row("one", "Who likes tea here")]
    learned.drop(rows, weights(0.0), prompts.load("right"), Words())
    told = json.loads(weights(0.0).identity) if noted else None
    others = [weights(0.0).model_copy(update={name: one}) for name, one in (("bias", 1.0), ("model", "n"))]
    for other in others[: 1 + noted]:
        with pytest.raises(UsageError, match="not those that the run was built with"):
            learned.learn(rows, {"one": REJECTED}, other, keep=0.7, built_with=told)
    with pytest.raises(UsageError, match="0 right and 1 wrong"):
        learned.learn(rows, {"one": REJECTED}, weights(0.0), keep=0.7, built_with=told)


def test_a_foreign_file_is_no_file_of_weights(tmp_path: Path) -> None:
    """A file is judged by what it holds, also where it is called like weights that raft brings."""
    file = tmp_path / learned.BROUGHT[0]
    file.write_text("mine", encoding="utf-8")
    assert not learned.is_weights(file)
    assert not learned.is_weights(tmp_path)
    file.write_text(weights().identity, encoding="utf-8")
    assert learned.is_weights(file)
