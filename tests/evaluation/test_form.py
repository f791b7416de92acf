"""What of a gain is form: the rule that cuts a reply to its answer, and the parts that add up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_summary import SOURCES, answer, question, summarised
from test_verdict import GOOD, decide, gain

from raft.evaluation.form import Parts, cut, parts
from raft.rag.format import ABSTENTION
from raft.rag.relevant import Sources
from raft.report import figures
from raft.report.measures import f1

FORM_ALONE = Parts(gain(0.08, 0.04), gain(0.01, -0.02), "cut")


@pytest.mark.parametrize(
    ("question", "reply", "left"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", "Paris"),
        ("What is the name of Doctor Who granddaughter?", "The name of Doctor Who's granddaughter is Susan.", "Susan"),
        ("Was ist die Hauptstadt von Frankreich?", "Die Hauptstadt von Frankreich ist Paris.", "Paris"),
        ("How long may it be kept?", "Based on the documents, it may be kept 30 days [2]. More is a fee.", "30 days"),
        ("How long may it be kept?", 'Sure!\n\nAnswer: 30 days\nQuote [1]: "kept 30 days"', "30 days"),
        ("In what year was it founded?", "It was founded in 1998 by Ada Byron.", "1998"),
        ("Who founded Byron Ltd?", "Byron Ltd was founded by Ada Byron in 1998.", "Ada Byron"),
        ("Who oversees a Pharmacy Technician?", "The Pharmacy Technician is overseen by Ada Byron.", "Ada Byron"),
        ("Who must approve big home refunds?", "Marta Quill must approve big home refunds.", "Marta Quill"),
        ("May it be returned?", "Yes, within 30 days.", "Yes"),
        ("Darf man es zurückgeben?", "Ja, man darf es zurückgeben.", "Ja"),
        ("Who may enter?", "No employee may enter.", "No employee may enter"),
        ("How is it reset?", "To reset it:\n1. Hold the button.\n2. Wait.", "Hold the button"),
        (
            "How much do adults pay?",
            "Members under 18 pay 20 euros; adults pay 45 euros. More is a gift.",
            "Members under 18 pay 20 euros; adults pay 45 euros.",
        ),
        (
            "For how many years is the fabric covered?",
            "The warranty is 12 years for the frame and 3 years for the fabric.",
            "The warranty is 12 years for the frame and 3 years for the fabric.",
        ),
        ("How long may it be kept?", "It may be kept 30 days, 30 days and no more.", "30 days"),
        ("Is it the Delta?", "The Delta is it.", "The Delta is it"),
        ("How long?", ABSTENTION, ABSTENTION),
        ("How long?", '{"days": 30}', '{"days": 30}'),
        ("How long?", "", ""),
    ],
)
def test_a_reply_is_cut_to_its_answer_by_rule(question, reply, left):
    """Preamble, citations, quotes, what is said again of the question and later sentences go; the asked value stays."""
    assert cut(reply, question) == left


PIECES = (
    "Answer:|Quote [1]:|\n|\n\n|the|Paris|Ada Byron|30 days.|1998|[2]|**x**|Yes,|- |Based on the documents,"
    "|the answer is|How|long|may|it|be|kept?|。|Who"
)
WORDS = st.lists(st.sampled_from(PIECES.split("|")), max_size=14).map(" ".join)


@given(reply=WORDS | st.text(max_size=80), question=WORDS | st.text(max_size=40))
def test_the_cut_never_lengthens_and_never_invents(reply, question):
    """Whatever was said, the characters that are left stand in the reply in their order, and something is left."""
    left = cut(reply, question)
    rest = iter(reply)
    assert all(char in rest for char in left)
    assert bool(left) == bool(reply.strip())


SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(rows=st.lists(st.tuples(SHARES, SHARES, SHARES, SHARES, st.integers(0, 5)), min_size=1, max_size=40))
def test_form_and_substance_add_up_to_the_gain(rows):
    """On the questions that they share the two parts are the gain, told by the other adapter before the cut."""
    tables = [{("answerable", f"q{n}"): {"f1": row[system]} for n, row in enumerate(rows)} for system in range(4)]
    ours, theirs, other, short = tables
    sources = Sources({}, {}, {f"q{n}": f"{row[4]}.md" for n, row in enumerate(rows)}, {})
    of = {"measure": "f1", "sources": sources}
    whole = sum(row[0] - row[1] for row in rows) / len(rows)
    for by, told in (("other", {"other": other, "cut": short}), ("cut", {"other": {}, "cut": short})):
        found = parts(ours, theirs, **told, **of)
        assert found.by == by
        assert found.form.value + found.substance.value == pytest.approx(whole, abs=1e-12)
        assert found.form.questions == found.substance.questions == len(rows)
    lacking = {key: row for key, row in other.items() if key != ("answerable", "q0")}
    assert parts(ours, theirs, other=lacking, cut=short, **of).by == "cut"
    assert parts(ours, theirs, other=lacking, cut={}, **of) is None


def test_a_gain_of_form_alone_is_not_shipped():
    """Where substance is not above zero and no more replies hold the answer, the advice is an answer format."""
    found = decide(parts=FORM_ALONE, contained=gain(0.0, -0.05))
    assert found["decision"] == "investigate"
    assert any("form alone" in reason for reason in found["reasons"])
    assert any("at least +8.0 points" in reason and "at most +1.0" in reason for reason in found["reasons"])
    assert "answer format would buy this" in found["advice"] and "answer_style.format" in found["advice"]
    assert found["form"]["value"] == 0.08 and found["substance"]["value"] == 0.01 and found["form_by"] == "cut"
    smaller = decide(gain=gain(0.02, 0.01), parts=FORM_ALONE, contained=gain(0.0, -0.05))
    assert "answer format would buy this" in smaller["advice"], "more rows would not help"


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": FORM_ALONE, "contained": gain(0.1, 0.02)},
        {"parts": Parts(gain(0.05, 0.02), gain(0.03, 0.01), "other"), "contained": gain(0.0, -0.05)},
    ],
)
def test_substance_is_shipped(changes):
    """A gain with substance above zero, or with more replies that hold the answer, is shipped."""
    assert decide(**changes)["decision"] == "ship"


def test_a_loss_has_no_parts_to_talk_about():
    """Where nothing was gained, no reason tells form and substance, and the decision stays."""
    lost = replace(GOOD, gain=gain(-0.08, -0.1))
    assert decide(lost, parts=FORM_ALONE)["reasons"] == decide(lost)["reasons"]


def test_the_headline_says_what_was_gained():
    """One line has the gain and its parts with intervals; of a benchmark before there were parts, the gain alone."""
    told = {"gain": vars(gain(0.313, 0.269, 0.359)), "form": vars(gain(0.195, 0.15, 0.24))}
    told["substance"] = vars(gain(0.118, 0.08, 0.15))
    said = "gain 31.3 points [26.9, 35.9]: 19.5 of form [15.0, 24.0], 11.8 of substance [8.0, 15.0]"
    assert figures.headline({**told, "form_by": "other"}) == said
    bounds = said.replace("19.5", "at least 19.5").replace("11.8", "at most 11.8")
    assert figures.headline({**told, "form_by": "cut"}) == bounds, "a rule finds not all that is form"
    assert figures.headline({"gain": told["gain"]}) == "gain 31.3 points [26.9, 35.9]"
    assert figures.headline({"gain": None}) == figures.headline({}) == ""


def test_what_people_chose_is_said():
    """Wins, losses, ties and both wrong are told apart, with interval and test; of earlier ratings what is known."""
    blind = {"pairs": 30, "rated": 28, "wins": 9, "losses": 1, "ties": 6, "both_wrong": 12}
    blind |= {"preferred": {"value": 0.9, "low": 0.6, "high": 0.98, "questions": 10, "groups": 10}, "sign_test": 0.0215}
    said = figures.chosen_blindly(blind)
    assert "28 of 30" in said and "chosen 9 times" in said and "baseline's 1 times" in said
    assert "equally good 6 times and both wrong 12 times" in said
    assert "90.0 percent (95 % interval 60.0 to 98.0, sign test p = 0.021)" in said
    assert "never better" in figures.chosen_blindly({**blind, "wins": 0, "losses": 0, "preferred": None})
    earlier = {"pairs": 9, "rated": 8, "wins": 4, "losses": 2, "ties": 2, "win_rate": None}
    assert "neither 2 times" in figures.chosen_blindly(earlier)


def test_a_benchmark_tells_form_and_substance():
    """The baseline's replies, cut by rule, tell what a format buys; an adapter of another corpus tells it better."""
    names = [f"q{number:02}" for number in range(24)]
    asked = [question(name, document=f"{name}.md") for name in names]
    paragraph = "According to the documents, it may be kept 30 days. Whatever is kept longer has to be paid for."
    said = [answer(paragraph, name, "rag") for name in names] + [answer("30 days", name, "raft") for name in names]
    sources = Sources({}, {}, {name: name for name in names}, {})
    verdict = summarised(said, asked, sources)["verdict"]
    assert verdict["form_by"] == "cut"
    assert verdict["substance"]["value"] == 0.0 and verdict["form"]["value"] == pytest.approx(verdict["gain"]["value"])
    other = [answer("for 30 days", name, "other") for name in names]
    verdict = summarised([*said, *other], asked, sources)["verdict"]
    assert verdict["form_by"] == "other"
    assert verdict["substance"]["value"] == pytest.approx(1 - f1("for 30 days", ["30 days"]))
    untuned = summarised(said[:24], asked, sources)["verdict"]
    assert (untuned["form"], untuned["substance"], untuned["form_by"]) == (None, None, None)
    assert summarised([answer()], [question()], SOURCES)["verdict"]["gain"] is None
