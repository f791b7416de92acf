"""Questions for yes, no or maybe: the word that follows from a sentence, in balance, and a question for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.generation.generate import plan_spans, read_prompts
from raft.generation.plan import Survey
from raft.generation.yes_no import Balance, answers, decision_ask, verdict
from raft.store import tables

USED = read_prompts(None)
PLAIN = "The carbon oars of the club were 300 grams too light for the wooden boats last season."
BOTH_WAYS = "The carbon oars of the club were 300 grams lighter than the wooden ones last season."
UNSURE = "The results suggest that the new coating slows rust in salt water on small hulls."
DENIED = "The club did not find that the new oars break more often than the wooden ones do."
OARS = "Are the carbon oars of the club lighter than wooden ones?"
TURNED = "Are the carbon oars of the club heavier than wooden ones?"


def chunk(number, *sentences):
    """Return one row of chunks."""
    text = " ".join(sentences)
    return {
        "chunk_id": f"a{number}",
        "doc_id": "a",
        "position": number,
        "start": 0,
        "end": len(text),
        "page": 0,
        "heading": "Boathouse > Oars",
        "text": text,
        "tokens": len(text.split()),
        "boilerplate": False,
        "document_sha256": "",
    }


def asked(rows, kinds):
    """Return what is asked of some chunks, a question a sentence."""
    sentences = sum(row["text"].count(".") for row in rows)
    return list(plan_spans([tables.frame(tables.CHUNKS, rows)], Survey(), {"a": sentences}, USED, kinds))


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        (PLAIN, "yes"),
        (DENIED, "no"),
        (UNSURE, "maybe"),
        ("It is not clear yet whether the coating, perhaps, slows rust.", "maybe"),
        ("Whether the coating slows rust remains largely unknown.", "maybe"),
        ("It is not yet known whether the coating slows rust.", "maybe"),
        ("A hull of unknown origin was painted.", "yes"),
        ("Members may take two films home.", "yes"),
        ("You can't return it within 30 days.", "no"),
        ("Not only members but also guests may row.", "yes"),
        ("A parcel of no more than 5 kg is sent by post.", "yes"),
        ("Neither of the two hulls was painted.", "no"),
        ("The price remained unchanged.", "no"),
        ("The northern annotated notes are knotted.", "yes"),
        ("The unaffected hulls were compared with the others.", "yes"),
        ("The engine was started, and no oil was added for ten minutes.", None),
        ("Boats that have no engine pay half.", None),
        ("We looked at whether the coating slows rust.", None),
        ("The hypothesis was that the coating slows rust.", None),
        ("The aim was to assess the coating.", None),
        ("The mean was 5 kg with no difference between clubs.", None),
        ("No difference between the clubs was found, with rain on both days.", "no"),
    ],
)
def test_the_answer_follows_from_the_sentence(sentence, answer):
    """No where the first clause is negated, maybe where it is not certain, nothing for the unclear; else yes."""
    assert verdict(sentence) == answer


def test_a_sentence_that_says_which_way_something_goes_is_asked_both_ways():
    """Only a plain sentence with a word that has a contrary, and not the contrary itself, has two answers."""
    assert answers(BOTH_WAYS) == ("yes", "no")
    assert answers(PLAIN) == ("yes",)
    assert answers(DENIED.replace("more often", "earlier")) == ("no",)
    assert answers("Boats that have no engine pay half.") == ()
    assert answers("Lighter oars bend, heavier ones break.") == ("yes",)


@given(
    st.floats(0, 1),
    st.lists(st.tuples(st.lists(st.sampled_from([PLAIN, DENIED, UNSURE, BOTH_WAYS])), st.integers(0, 5))),
)
def test_decisions_are_balanced_and_have_their_share(share, chunks):
    """Whatever the chunks hold, no answer is ahead of "no" by more than one, and the share is not passed."""
    balance, given_words, asked, made = Balance(share), [], 0, 0
    for sentences, count in chunks:
        asked += count
        chosen = balance.choose(sentences, count)
        assert all(answers(sentences[place]) == words for place, words in chosen.items())
        made += len(chosen)
        given_words += [word for words in chosen.values() for word in words]
        assert made <= share * asked + 1e-6
        assert max(given_words.count("yes"), given_words.count("maybe")) <= given_words.count("no") + 1


def test_a_share_adds_up_over_chunks():
    """Chunks with one question each come to a decision in turn, though none has a whole one to give."""
    balance = Balance(0.25)
    assert [len(balance.choose([DENIED], 1)) for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_what_is_asked_both_ways_does_not_wait():
    """Where one question for yes is ahead, another plain sentence waits, and one that is asked both ways does not."""
    balance = Balance(1.0)
    assert balance.choose([PLAIN], 1) == {0: ("yes",)}
    assert balance.choose([PLAIN], 1) == {}
    assert balance.choose([BOTH_WAYS], 1) == {0: ("yes", "no")}


def test_what_is_rare_is_asked_first():
    """First come negated sentences, then what is not certain, then what is asked both ways, and plain ones last."""
    sentences = [PLAIN, BOTH_WAYS, UNSURE, DENIED]
    assert [[*Balance(1.0).choose(sentences, count)] for count in range(5)] == [[3, 2, 1, 0][:n] for n in range(5)]


def test_decisions_alone_are_all_that_is_asked():
    """Where decisions are the only kind, nothing else is asked, and plain sentences wait for negated ones."""
    (denied, plain) = asked([chunk(0, PLAIN, DENIED)], ("decision",))
    assert plain.request.messages[-1]["content"].startswith("Section: Boathouse > Oars\nSentence: ")
    assert {ask.request.messages[-1]["content"].rpartition("Answer: ")[2] for ask in (denied, plain)} == {"yes", "no"}
    assert len(asked([chunk(0, PLAIN), chunk(1, PLAIN), chunk(2, PLAIN)], ("decision",))) == 1, "yes waits for no"


def test_decisions_share_the_questions_with_other_kinds():
    """Among four kinds, one question of four is a decision; what finds no sentence for one is asked otherwise."""
    rows = [chunk(number, PLAIN, PLAIN.replace("300", "310"), DENIED, UNSURE) for number in range(2)]
    names = [ask.prompt.name for ask in asked(rows, ("fact", "number", "name", "decision"))]
    assert sorted(names) == ["decision"] * 2 + ["span"] * 6
    plain = [chunk(number, PLAIN.replace("300", str(300 + number))) for number in range(8)]
    assert len(asked(plain, ("fact", "number", "name", "decision"))) == 8
    assert {ask.prompt.name for ask in asked(rows, ("fact", "number", "name"))} == {"span"}


def test_the_answer_has_its_sentence_as_quote():
    """A question comes with its word, its kind, and the sentence where it stands in the chunk."""
    row = chunk(0, UNSURE, PLAIN)
    start = row["text"].index(PLAIN)
    question = "Were the carbon oars too light for the wooden boats?"
    (found,) = decision_ask(USED.decision, row, start, len(row["text"]), ("yes",)).read(f" {question}\nWhy?")
    assert found == {
        "question": question,
        "answer": "yes",
        "kind": "decision",
        "quotes": [{"chunk_id": "a0", "start": start, "end": len(row["text"]), "text": PLAIN}],
    }


def test_a_question_is_turned_round_by_rule():
    """Who is asked for one question gives two, for yes and for no; one that leaves the way out is refused."""
    ask = decision_ask(USED.decision, chunk(0, BOTH_WAYS), 0, len(BOTH_WAYS), ("yes", "no"))
    assert ask.request.messages[-1]["content"].endswith("Answer: yes")
    assert [(row["question"], row["answer"]) for row in ask.read(OARS)] == [(OARS, "yes"), (TURNED, "no")]
    with pytest.raises(ValueError, match="which way"):
        ask.request.check("Did the club have carbon oars and wooden ones last season?")


def test_what_a_sentence_is_sure_of_is_not_answered_with_maybe():
    """Where a sentence says one thing and supposes another, maybe is no answer to a question about the first."""
    sentence = "The hull was painted blue in the spring, and this seemed to slow rust in salt water."
    ask = decision_ask(USED.decision, chunk(0, sentence), 0, len(sentence), ("maybe",))
    assert ask.read("Does blue paint slow rust in salt water?")[0]["answer"] == "maybe"
    with pytest.raises(ValueError, match="what is certain"):
        ask.request.check("Was the hull painted blue in the spring?")
    with pytest.raises(ValueError, match="what is certain"):
        ask.request.check("Was the hull painted blue in the spring against salt?")


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
        ("Is the aim of the club to have lighter carbon oars?", "speaks of the sentence"),
        ("Did we weigh the carbon oars of the club?", "speaks of the sentence"),
    ],
)
def test_what_yes_or_no_does_not_answer_is_refused(reply, why):
    """No question, two questions, a question for something else, with a "not", or beside the point: of no use."""
    ask = decision_ask(USED.decision, chunk(0, BOTH_WAYS), 0, len(BOTH_WAYS), ("yes",))
    with pytest.raises(ValueError, match=why):
        ask.request.check(reply)
