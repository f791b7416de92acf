"""The verdict: each rule with its figures, and at its boundary."""

import json
import re
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import settings
from raft.evaluation import verdict
from raft.evaluation.metrics import TOO_FEW, Interval
from raft.evaluation.verdict import Evidence, break_even, economics

HEADROOM = {"golden": 0.6, "retrieved": 0.4, "missed": 0.1}


def gain(value, low, high=None, groups=40, questions=120):
    """Return the interval of a gain."""
    return Interval(value, low, high if high is not None else 2 * value - low, questions, groups)


def changed(*values):
    """Return changes of general capability."""
    return {f"set{n}": {"title": f"Set {n}", "change": gain(value, value - 0.02)} for n, value in enumerate(values)}


GOOD = Evidence(
    run="runs/demo",
    question_set="user",
    by_people=True,
    measure="f1",
    system="raft",
    baseline="rag_few",
    gain=gain(0.08, 0.03),
    capability=changed(-0.01, 0.02),
    headroom=HEADROOM,
    false_answers=0.1,
    k=5,
    costs=("Training took 512 seconds.",),
)
UNTUNED = replace(GOOD, system=None, gain=None)


def decide(evidence=GOOD, **changes):
    """Decide at the usual least gain."""
    return verdict.decide(replace(evidence, **changes), min_gain=0.05)


def test_a_clear_gain_that_costs_nothing_elsewhere_is_shipped():
    """A gain above zero and above the least one, without harm, on people's questions about enough documents ships."""
    found = decide()
    assert found["decision"] == "ship"
    assert "+8.0 points" in found["reasons"][0]
    assert "+3.0 to +13.0" in found["reasons"][0]
    assert "120 questions of user" in found["reasons"][0]
    assert (found["contender"], found["baseline"], found["measure"]) == ("raft", "rag_few", "f1")
    assert found["gain"] == {"value": 0.08, "low": 0.03, "high": 0.13, "questions": 120, "groups": 40}
    assert "raft ask runs/demo" in found["advice"]


def test_advice_tells_nothing_of_this_machine_but_the_run(tmp_path):
    """A verdict stands in files that are shared: what the run was built from is not in it, secret or not."""
    told = {"corpus": ["/home/me/private docs"], "settings": {"generator": {"api_base": "http://***@intern/v1"}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "steps": {}, **told}))
    lost, missed = {"gain": gain(-0.1, -0.2)}, {"headroom": {"golden": 0.6, "retrieved": 0.4, "missed": 0.5}}
    for changes in ({"gain": gain(0.02, 0.01)}, {"by_people": False}, lost, {**lost, **missed}):
        advice = decide(run=str(tmp_path), **changes)["advice"]
        assert f"raft build CORPUS --out {tmp_path}" in advice
        assert "private" not in advice and "intern" not in advice


def test_systems_are_called_as_the_tables_call_them():
    """No reason of a verdict calls a system by its name in the files: raft, rag_few."""
    weaker = {"gain": gain(0.02, -0.01, 0.05, groups=9), "stronger": ("rag", gain(0.04, -0.01))}
    for changes in ({}, {"contained": gain(0.0, -0.1), "refused": gain(0.3, 0.2)}, weaker, {"gain": None}):
        for one in (GOOD, UNTUNED):
            said = " ".join(decide(one, **changes)["reasons"])
            assert not re.search(r"\braft\b|rag_few|\brag\b|\barm", said), said
    assert "tuned + RAG" in decide()["reasons"][0]


def test_what_a_gain_does_not_tell_is_said_beside_it():
    """Where no more replies hold the answer, or more is refused, the reasons say so; the decision stays."""
    found = decide(contained=gain(0.015, -0.05, 0.08), refused=gain(0.31, 0.2, 0.4))
    assert found["decision"] == "ship"
    alone, refused = found["reasons"][-2:]
    assert "+1.5 points (95 percent interval -5.0 to +8.0)" in alone and "stands alone" in alone
    assert "+31.0 points" in refused and "refused" in refused
    assert decide(contained=gain(0.2, 0.1), refused=gain(0.0, -0.1))["reasons"] == decide()["reasons"]
    lost = {"gain": gain(-0.1, -0.2), "contained": gain(-0.1, -0.2), "refused": gain(0.3, 0.2)}
    assert decide(**lost)["reasons"] == decide(gain=gain(-0.1, -0.2))["reasons"], "nothing was gained"


@pytest.mark.parametrize(
    ("against", "decision", "said"),
    [
        (gain(0.06, 0.01), "ship", "+6.0 points (95 percent interval +1.0 to +11.0)."),
        (gain(0.04, -0.01, 0.09), "investigate", "may be as good."),
        (gain(0.04, 0.0, 0.08), "investigate", "may be as good."),
        (gain(-0.05, -0.1, 0.0), "investigate", "may be as good."),
        (gain(-0.05, -0.1, -0.01), "keep plain RAG", "it is a loss."),
    ],
)
def test_nothing_is_shipped_that_does_not_beat_the_other_plain_rag(against, decision, said):
    """Where another untuned contender did better than the baseline, the gain over that one must be above zero too."""
    found = decide(stronger=("rag", against))
    assert found["decision"] == decision
    better = "“base model + RAG” did better on these questions than “base model + RAG, with examples”, which was chosen"
    assert found["reasons"][1].startswith(better)
    assert found["reasons"][1].endswith(said)
    assert ("More training rows" in found["advice"]) == (decision != "ship")
    lost = {"gain": gain(-0.1, -0.2), "stronger": ("rag", against)}
    assert decide(**lost)["reasons"] == decide(gain=gain(-0.1, -0.2))["reasons"], "nothing was gained"


@pytest.mark.parametrize(
    ("value", "low", "decision"),
    [
        (0.05, 0.01, "ship"),
        (0.35 - 0.30, 0.01, "ship"),
        (0.0499, 0.01, "investigate"),
        (0.08, 0.0, "keep plain RAG"),
        (0.08, 0.0001, "ship"),
        (0.08, -0.01, "keep plain RAG"),
        (-0.08, -0.1, "keep plain RAG"),
    ],
)
def test_the_gain_must_be_above_zero_and_worth_it(value, low, decision):
    """The lower end must be above zero, not at it; a gain that is exactly the least one is enough, a smaller is not."""
    assert decide(gain=gain(value, low))["decision"] == decision


@pytest.mark.parametrize(
    ("change", "decision"),
    [
        (0.04, "ship"),
        (-0.0299, "ship"),
        (-0.03, "investigate"),
        (0.38 - 0.41, "investigate"),
        (-0.05, "investigate"),
        (-0.0501, "keep plain RAG"),
    ],
)
def test_the_worst_set_of_general_capability_counts(change, decision):
    """A fall under 3 points on each set is accepted, one to 5 looked into, a larger one not accepted."""
    found = decide(capability=changed(0.1, change))
    assert found["decision"] == decision
    assert sum("General capability" in reason for reason in found["reasons"]) == 2
    if decision != "ship":
        assert "raft train runs/demo --set training.rehearsal" in found["advice"]


def test_who_lost_general_ability_is_told_to_rehearse_the_students_own_replies():
    """The advice is one command, whose settings are those that were measured to lose nothing."""
    found = decide(capability=changed(0.1, -0.04))
    (command,) = re.findall(r"raft train runs/demo (.+)", found["advice"])
    chosen = settings.load(None, settings.parse_assignments(command.removeprefix("--set ").split(" --set "))).training
    assert (chosen.rehearsal_replies, chosen.rehearsal, chosen.learning_rate) == ("own", 0.2, 2e-4)


@pytest.mark.parametrize("capability", [None, {}, {"arc": {"title": "ARC", "change": None}}])
def test_without_general_capability_nothing_is_shipped(capability):
    """What was not measured elsewhere is at most worth a look, and the advice says how to measure it."""
    found = decide(capability=capability)
    assert found["decision"] == "investigate"
    assert "raft bench runs/demo" in found["advice"]


@pytest.mark.parametrize(("groups", "decision"), [(TOO_FEW, "ship"), (TOO_FEW - 1, "investigate"), (1, "investigate")])
def test_few_documents_are_too_few_to_tell(groups, decision):
    """Under twenty documents nothing is shipped, and the reason says so."""
    found = decide(gain=gain(0.08, 0.03, groups=groups))
    assert found["decision"] == decision
    assert any("too few to tell" in reason for reason in found["reasons"]) == (decision == "investigate")


@pytest.mark.parametrize(
    ("value", "low", "high", "decision"),
    [
        (0.02, -0.06, 0.10, "investigate"),
        (0.02, -0.01, 0.05, "investigate"),
        (0.0, -0.04, 0.04, "keep plain RAG"),
        (-0.1, -0.2, -0.01, "keep plain RAG"),
    ],
)
def test_few_documents_cannot_rule_out_a_gain_that_they_may_hold(value, low, high, decision):
    """Where a worthwhile gain lies in the interval of few documents, more are asked for, else none."""
    found = decide(gain=gain(value, low, high, groups=17))
    assert found["decision"] == decision
    assert ("--eval questions.jsonl" in found["advice"]) == (decision == "investigate")


@pytest.mark.parametrize("unit", ["sections", "questions"])
def test_few_documents_ship_for_themselves(unit):
    """Where sections or questions of few documents are resampled, a clear gain ships for these, which is said."""
    found = decide(resampled=unit, documents=5, gain=gain(0.08, 0.03, groups=40))
    assert found["decision"] == "ship" and "for these documents: raft ask" in found["advice"]
    (said,) = [reason for reason in found["reasons"] if "about 5 documents" in reason]
    assert f"40 {unit} were resampled" in said and "say nothing of others" in said
    assert (found["resampled"], found["documents"]) == (unit, 5)
    unclear = decide(resampled=unit, documents=5, gain=gain(0.06, -0.02, groups=40))
    assert unclear["decision"] == "investigate" and "more questions about these documents" in unclear["advice"]
    assert "20 documents" not in unclear["advice"], "a corpus of five has no twenty"


def test_it_is_said_how_many_more_questions_would_tell():
    """The number is that at which four of five measurements tell the gain: 2.8 of its standard errors are under it."""
    few = gain(0.06, -0.06, 0.18, groups=12, questions=50)
    assert verdict.more_questions(few, 0.05) == 359, "50 questions, twice as narrow, 2.04 times for 80 percent, and one"
    advice = decide(gain=few, resampled="questions")["advice"]
    assert "about 359 more would tell a gain of 6.0 points from none in four of five cases" in advice
    assert verdict.more_questions(gain(0.01, -0.09, 0.11, questions=50), 0.05) == 359, "less than pays is not sought"
    assert verdict.more_questions(gain(1.0, 1.0, questions=8), 0.05) == TOO_FEW - 8
    assert verdict.more_questions(gain(0.0, 0.0, questions=80), 0.0) == 1


@given(st.floats(-0.5, 0.5), st.floats(0.0, 0.5), st.integers(1, 500), st.floats(0.0, 0.2))
def test_with_so_many_more_questions_the_gain_is_told(value, half, questions, least):
    """At the width of so many questions in all, four of five draws of the gain sought have an interval above zero."""
    found = gain(value, value - half, value + half, questions=questions)
    more = verdict.more_questions(found, least)
    assert more >= 1 and questions + more >= TOO_FEW
    narrower = half * (questions / (questions + more)) ** 0.5
    if narrower:
        error = NormalDist(max(value, least, 0.01), narrower / 1.96)
        assert 1 - error.cdf(narrower) >= 0.799, "the share of gains whose interval begins above zero"


def test_more_questions_are_asked_for_by_what_the_run_was_built_with():
    """Advice of more rows names the setting that brings them, and documents that nobody knows are not counted."""
    lost = decide(gain=gain(-0.1, -0.2, -0.01), more_rows="--set questions.keep=80")["advice"]
    assert "--set questions.keep=80" in lost and "per-chunk" not in lost
    less = decide(gain=gain(0.02, 0.01, 0.03), more_rows="--set questions.keep=80")["advice"]
    assert "--set questions.keep=80, then raft train" in less
    said = " ".join(decide(resampled="questions", documents=0, gain=gain(0.08, 0.03, groups=40))["reasons"])
    assert "about no known documents" in said


def test_generated_questions_alone_never_ship():
    """On questions that a model wrote a good gain is worth a look, and a missing one still keeps plain RAG."""
    found = decide(by_people=False, question_set="eval_unseen")
    assert found["decision"] == "investigate"
    assert "eval_unseen were written by a model" in found["reasons"][-1]
    assert "--eval" in found["advice"]
    assert decide(by_people=False, gain=gain(0.01, -0.02))["decision"] == "keep plain RAG"


def test_keeping_plain_rag_is_said_outright_with_its_costs():
    """The reasons say to keep plain RAG and what tuning costs; the advice is the next thing to try."""
    found = decide(gain=gain(0.01, -0.02, 0.04))
    assert found["decision"] == "keep plain RAG"
    assert any(reason.startswith("Keep plain RAG") for reason in found["reasons"])
    assert found["reasons"][-1] == "Training took 512 seconds."
    assert "--questions-per-chunk" in found["advice"]
    missing = decide(gain=gain(0.01, -0.02, 0.04), headroom={"golden": 0.8, "retrieved": 0.4, "missed": 0.5})
    assert "--set index.k=8" in missing["advice"]


@given(
    st.floats(-0.5, 0.5),
    st.floats(0.0, 0.3),
    st.integers(1, 60),
    st.booleans(),
    st.one_of(st.none(), st.lists(st.floats(-0.2, 0.2), max_size=3)),
)
def test_shipping_needs_every_rule(value, half, groups, by_people, changes):
    """Whatever the figures, what ships keeps all the rules, and each verdict has reasons and a command."""
    capability = None if changes is None else changed(*changes)
    found = decide(gain=gain(value, value - half, groups=groups), by_people=by_people, capability=capability)
    assert found["reasons"]
    assert "raft " in found["advice"]
    if found["decision"] == "ship":
        assert value - half > 0
        assert value >= 0.05 - 1e-9
        assert groups >= TOO_FEW
        assert by_people
        assert changes
        assert min(changes) > -0.03


def test_without_a_question_in_common_no_gain_can_be_told():
    """A tuned arm that shares no question with plain RAG is worth a look, and has no gain."""
    found = decide(gain=None, baseline=None)
    assert (found["decision"], found["gain"]) == ("investigate", None)


@pytest.mark.parametrize(
    ("changes", "said", "command"),
    [
        ({"headroom": HEADROOM}, "tuning is worth trying", "raft train runs/demo"),
        ({"headroom": {"golden": 0.9, "retrieved": 0.8, "missed": 0.05}, "false_answers": 0.5}, "tuning", "raft train"),
        ({"headroom": {"golden": 0.9, "retrieved": 0.4, "missed": 0.31}}, "retriever first", "--set index.k=8"),
        ({"headroom": {"golden": 0.6, "retrieved": 0.4, "missed": 0.3}}, "tuning is worth trying", "raft train"),
        ({"headroom": {"golden": 0.9, "retrieved": 0.5, "missed": 0.1}}, "documents that were found", "raft train"),
        (
            {"headroom": {"golden": None, "retrieved": 0.9, "missed": 0.0}},
            "with examples” reaches F1 90.0",
            "raft bench",
        ),
        ({"headroom": {"golden": 0.7, "retrieved": 0.65, "missed": 0.1}}, "Little is left", "raft ask"),
        ({"headroom": {"golden": 0.69, "retrieved": 0.65, "missed": 0.1}}, "tuning is worth trying", "raft train"),
        ({"headroom": {"golden": 0.9, "retrieved": 0.8, "missed": 0.1}, "false_answers": 0.2}, "Little", "raft ask"),
        ({"headroom": None, "false_answers": None}, "not measured", "raft bench"),
    ],
)
def test_what_is_not_tuned_gets_advice(changes, said, command):
    """Without a tuned model the verdict says what holds plain RAG back: its retriever, its behaviour, or little."""
    found = decide(UNTUNED, **changes)
    assert found["decision"] == "not tuned yet"
    assert said in found["reasons"][0]
    assert command in found["advice"]
    assert found["headroom"] == changes["headroom"]


def test_headroom_is_told_with_its_figures():
    """The reason of an untuned run has the scores, the misses and the false answers."""
    (reason,) = decide(UNTUNED)["reasons"]
    for figure in (
        "“base model + RAG, with examples” reaches F1 40.0",
        "60.0 with the golden chunk",
        "answer of 10.0 percent of the questions",
        "answers are",
    ):
        assert figure in reason


@pytest.mark.parametrize(
    ("cost", "saving", "count"),
    [(1.1, 0.1, 11), (1.0, 0.3, 4), (0.0, 0.1, 0), (1.0, 0.0, None), (1.0, -0.1, None), (0.0, -0.1, None)],
)
def test_training_pays_for_itself_after_enough_questions(cost, saving, count):
    """The count is rounded up; nothing is paid back by a saving that is none."""
    assert break_even(cost, saving) == count


def arm(cost=0.0, speed=2.0, tokens=800.0):
    """Return what serving an arm takes."""
    return {
        "cost_per_thousand": cost,
        "questions_per_second": speed,
        "tokens": {"input": tokens, "output": 20.0},
    }


ARMS = {"raft": arm(0.1), "rag_few": arm(0.2, tokens=1400.0), "model:big": arm(0.6), "model:bigger": arm(2.0)}


def costs(arms=ARMS, **changes):
    """Return the economics of an hour of training on rows that cost two dollars and a half."""
    usual = {"system": "raft", "baseline": "rag_few", "larger": [name for name in arms if "model:" in name]}
    usual |= {"training_seconds": 3600.0, "build_cost": 2.5}
    return economics(arms, **{**usual, **changes})


def test_economics_break_even_with_the_cheapest_larger_model():
    """2.50 dollars are earned back at half a dollar per thousand questions after 5,000 of them."""
    found = costs()
    assert found["break_even_questions"] == 5000
    assert "2.50 dollars with this machine's time counted as free" in found["sentences"][0]
    assert "“tuned + RAG” reads 800 tokens a question" in found["sentences"][1]
    assert "with examples” reads 1,400 tokens a question" in found["sentences"][2]
    assert "after 5,000 questions" in found["sentences"][-1]
    assert "Against “big + RAG” at" in found["sentences"][-1]


def test_economics_say_what_is_not_known():
    """A larger model without a price breaks even with nothing."""
    unpriced = costs({**ARMS, "model:big": arm(None), "model:bigger": arm(0.0)})
    assert unpriced["break_even_questions"] is None
    assert "No larger model with a known price" in unpriced["sentences"][-1]
    assert "never pays" in costs({**ARMS, "raft": arm(3.0)})["sentences"][-1]
    assert costs(system=None)["sentences"] == []
    for unknown in (costs(build_cost=None), costs({**ARMS, "raft": arm(None)})):
        assert unknown["break_even_questions"] is None
        assert "it is unknown when tuning has paid for itself" in unknown["sentences"][-1]
    assert (
        "0.00 dollars with this machine's time counted as free; what building its rows cost is unknown"
        in (costs(build_cost=None)["sentences"][0])
    )
    assert "not measured" in costs({**ARMS, "raft": arm(None, None, None)})["sentences"][1]


def test_other_lengths_are_told_and_decide_nothing():
    """That training answers and references differ in length is said, tuned or not, and changes no decision."""
    for evidence in (GOOD, UNTUNED):
        found, told = decide(evidence), decide(evidence, apart="the answers differ.")
        assert told["reasons"] == [*found["reasons"], "To know: the answers differ."]
        assert told["decision"] == found["decision"]
