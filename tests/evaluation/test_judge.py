"""A judge of pairs: both orders, the rubric, and how far it judges as people do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_human import BASELINE, CONTENDER, QUESTIONS

from raft import prompts
from raft.evaluation import human, judge
from raft.evaluation.metrics import kappa
from raft.report import figures
from raft.testing import ScriptedGenerator

SEED = 7
PAIRS = human.pairs(QUESTIONS, CONTENDER, BASELINE, 12, SEED)
RUBRIC = ["Is it right?", "Is it complete?"]
PROMPT = prompts.load("preference")


def shown(request):
    """Return question, answer A and answer B of a request."""
    text = request.messages[-1]["content"]
    return [text.split(f"{name}: ")[1].split("\n")[0] for name in ("Question", "Answer A", "Answer B")]


def judged(reply, ratings=None, pairs=PAIRS):
    """Judge with a model that replies so to (question, A, B)."""
    model = ScriptedGenerator(lambda request: reply(*shown(request)))
    return judge.judged(pairs, model, prompt=PROMPT, rubric=RUBRIC, seed=SEED, ratings=ratings)


def said(a, b, better):
    """Return a reply: whether each point is yes for A and B, and which is better."""
    words = {True: "yes", False: "no"}
    points = {str(number): {"A": words[a], "B": words[b]} for number in (1, 2)}
    return json.dumps({**points, "better": better})


def short_is_better(_question, a, b):
    """Prefer the contender's answers: they are the shorter ones."""
    return said(len(a) < len(b), len(b) < len(a), "A" if len(a) < len(b) else "B")


def test_each_pair_is_asked_in_both_orders():
    """Each pair is asked twice with A and B exchanged; what is preferred in both counts, for the side that said it."""
    asked = []
    found = judged(lambda *one: asked.append(one) or short_is_better(*one))
    assert len(asked) == 2 * len(PAIRS)
    assert all(first[1:] == second[:0:-1] for first, second in zip(asked[::2], asked[1::2], strict=True))
    assert (found["wins"], found["losses"], found["ties"], found["disagreed"]) == (len(PAIRS), 0, 0, 0)
    assert found["preferred"]["value"] == 1.0 and found["sign_test"] == pytest.approx(2 / 2 ** len(PAIRS))
    assert found["yes"] == [{"question": one, "contender": 1.0, "baseline": 0.0} for one in RUBRIC]
    assert found["people"] is None


def test_what_stands_first_does_not_count():
    """A judge that prefers whatever it reads first chose nothing, and both sides get as many yes."""
    found = judged(lambda *_: said(True, False, "A"))
    assert found["disagreed"] == len(PAIRS) and found["preferred"] is None and found["sign_test"] is None
    assert {(one["contender"], one["baseline"]) for one in found["yes"]} == {(0.5, 0.5)}


def test_replies_of_no_use_are_counted():
    """A pair with a reply that cannot be read is not counted as chosen, and that is said; all may be so."""
    first = PAIRS[0].question
    found = judged(lambda *one: "I would rather not" if one[0] == first else short_is_better(*one))
    assert (found["unusable"], found["wins"]) == (1, len(PAIRS) - 1)
    nothing = judged(lambda *_: "no")
    assert nothing["unusable"] == len(PAIRS) and nothing["yes"][0]["contender"] is None
    assert judged(short_is_better, pairs=[])["pairs"] == 0
    for one in (found, nothing):
        assert all(figures.judged({"model": "m", **one}))


def test_how_far_it_chooses_as_people_do():
    """On pairs that people rated, share and kappa tell it; both wrong is neither, to a judge."""
    short = {pair.pair_id: "a" if len(pair.a) < len(pair.b) else "b" for pair in PAIRS}
    assert judged(short_is_better, short)["people"] == {"pairs": len(PAIRS), "share": 1.0, "kappa": None}
    long = {name: "b" if choice == "a" else "a" for name, choice in short.items()}
    assert judged(short_is_better, long)["people"]["share"] == 0.0
    wrong = dict.fromkeys(list(short)[:3], "both wrong")
    assert judged(lambda *_: said(False, False, "neither"), wrong)["people"]["share"] == 1.0
    told = figures.judged({"model": "m", **judged(short_is_better, {**short, **wrong})})
    assert told[-1].startswith("It chose as people did on 75.0 percent of 12 pairs, Cohen's kappa ")


@pytest.mark.parametrize(
    "reply",
    [
        *("", "A", "[]", '{"better": "A"}', '{"1": {"A": "yes"}, "2": {"A": "no", "B": "no"}, "better": "A"}'),
        *(said(True, True, "C"), '{"1": "yes", "2": "no", "better": "B"}'),
    ],
)
def test_a_reply_without_a_verdict_is_refused(reply):
    """What lacks a point, a side or a choice is no verdict."""
    with pytest.raises(ValueError, match="better"):
        judge.read_comparison(reply, 2)


def test_a_verdict_is_read_whatever_it_is_wrapped_in():
    """Fences, words before it and spelling do not matter."""
    wrapped = "Here it is:\n```json\n" + said(True, False, "Neither").replace("yes", "Yes") + "\n```"
    assert judge.read_comparison(wrapped, 2) == ([(True, False), (True, False)], "tie")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_kappa_is_at_most_one_and_one_for_full_agreement(pairs):
    """Kappa lies from -1 to 1, is the same from either side, and 1 where all agree on more than one name."""
    share, found = kappa(pairs)
    assert 0 <= share <= 1
    assert found is None or -1 <= found <= 1
    assert kappa([(two, one) for one, two in pairs])[1] == (found if found is None else pytest.approx(found))
    same = kappa([(one, one) for one, _ in pairs])
    assert same[0] == 1 and same[1] in (None, pytest.approx(1))
    assert kappa([]) is None
