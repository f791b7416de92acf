"""Questions for yes, no or maybe: each word in its turn, and a question that can be answered with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import tables
from raft.decisions import decision_ask, turns
from raft.planning import Survey
from raft.spans import plan_spans
from raft.stages.questions import read_prompts

USED = read_prompts(None)
PLAIN = "The carbon oars of the club were 300 grams lighter than the wooden ones last season."
UNSURE = "The results suggest that the new coating slows rust in salt water on small hulls."
OARS = "Are the carbon oars of the club lighter than wooden ones?"


def chunk(number, *sentences):
    """Return one row of chunks."""
    text = " ".join(sentences)
    return {"chunk_id": f"a{number}", "doc_id": "a", "position": number, "start": 0, "end": len(text), "page": 0,
            "heading": "Boathouse > Oars", "text": text, "tokens": len(text.split()), "boilerplate": False,
            "document_sha256": ""}  # fmt: skip


def asked(rows, kinds):
    """Return what is asked of some chunks, a question a sentence."""
    sentences = sum(row["text"].count(".") for row in rows)
    return list(plan_spans([tables.frame(tables.CHUNKS, rows)], Survey(), {"a": sentences}, USED, kinds))


@given(st.floats(0, 1), st.integers(0, 60))
def test_decisions_have_their_share(share, sentences):
    """Of any number of sentences, the share that is asked for a decision is the one wanted, to within one."""
    turn = turns(share)
    decided = [answer for answer in (turn(PLAIN) for _ in range(sentences)) if answer]
    assert abs(len(decided) - share * sentences) < 1 + 1e-6
    assert decided == [("yes", "no")[place % 2] for place in range(len(decided))]


def test_what_is_not_certain_is_asked_for_maybe():
    """A sentence that says that it is not certain is answered with maybe, and does not take a turn of the others."""
    turn = turns(1.0)
    assert [turn(text) for text in (PLAIN, UNSURE, PLAIN, UNSURE, PLAIN)] == ["yes", "maybe", "no", "maybe", "yes"]


@pytest.mark.parametrize("permission", ["Members may take two films home.", "You can return it within 30 days."])
def test_a_permission_is_certain(permission):
    """What may or can be done is no matter of doubt."""
    assert turns(1.0)(permission) == "yes"


def test_decisions_alone_take_every_sentence():
    """Where decisions are the only kind, each sentence is asked for one, with the sentence, heading and word shown."""
    found = asked([chunk(0, PLAIN, PLAIN.replace("300", "310")), chunk(1, UNSURE)], ("decision",))
    assert [ask.read(reply)[0]["answer"] for ask, reply in zip(found, [OARS, OARS, "Does the new coating slow rust?"],
                                                              strict=True)] == ["yes", "no", "maybe"]  # fmt: skip
    shown = found[1].request.messages[-1]["content"]
    assert shown == f"Section: Boathouse > Oars\nSentence: {PLAIN.replace('300', '310')}\nAnswer: no"
    assert {ask.prompt.name for ask in found} == {"decision"}


def test_decisions_share_the_sentences_with_other_kinds():
    """Among four kinds, one sentence of four is asked for a decision and no answer is copied from it."""
    rows = [chunk(number, PLAIN.replace("300", str(300 + number))) for number in range(8)]
    names = [ask.prompt.name for ask in asked(rows, ("fact", "number", "name", "decision"))]
    assert names == ["span", "span", "span", "decision"] * 2
    assert {ask.prompt.name for ask in asked(rows, ("fact", "number", "name"))} == {"span"}


def test_the_answer_has_its_sentence_as_quote():
    """A question comes with its word, its kind, and the sentence where it stands in the chunk."""
    row = chunk(0, UNSURE, PLAIN)
    start = row["text"].index(PLAIN)
    (found,) = decision_ask(USED.decision, row, start, len(row["text"]), "yes").read(f" {OARS}\nWhy?")
    assert found == {
        "question": OARS, "answer": "yes", "kind": "decision",
        "quotes": [{"chunk_id": "a0", "start": start, "end": len(row["text"]), "text": PLAIN}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "not one question"),
        ("The carbon oars are lighter than the wooden ones.", "not one question"),
        ("Are the carbon oars lighter? Are the wooden ones?", "not one question"),
        ("Which oars of the club are lighter than the wooden ones?", "no question for yes or no"),
        ("Are the carbon oars of the club not lighter than the wooden ones?", "in the negative"),
        ("Aren't the carbon oars of the club lighter than the wooden ones?", "in the negative"),
        ("Are carbon oars lighter than wooden ones in the sentence?", "speaks of the sentence"),
        ("Is the moon made of green cheese from France?", "about something else"),
        ("Is it lighter?", "about something else"),
    ],
)
def test_what_yes_or_no_does_not_answer_is_refused(reply, why):
    """No question, two questions, a question for something else, with a "not", or beside the point: of no use."""
    ask = decision_ask(USED.decision, chunk(0, PLAIN), 0, len(PLAIN), "yes")
    with pytest.raises(ValueError, match=why):
        ask.request.check(reply)
