"""Asking contenders: what is timed, and how a label of a closed set is chosen."""

from dataclasses import replace

import numpy as np
import pytest

from raft.evaluation import capability, systems
from raft.evaluation.systems import Stopwatch
from raft.protocols import Completion, Failure, Request
from raft.rag.answering import read_reply
from raft.store.ledger import CachedScorer, Ledger

CHAT = ({"role": "user", "content": "Is it open?"},)
SLOW = Completion("yes", "m", seconds=1000.0)


class Scripted:
    """A generator that replies from a list."""

    identity = "scripted"

    def __init__(self, *outcomes):
        self.outcomes = outcomes

    def complete(self, requests):
        """Yield the outcomes."""
        for outcome, _ in zip(self.outcomes, requests, strict=True):
            yield outcome


class Liking:
    """A scorer that likes one word, and remembers what it was asked."""

    identity = "liking"

    def __init__(self, word):
        self.word, self.pairs = word, []

    def score(self, pairs):
        """Score what holds the word higher."""
        self.pairs += pairs
        return [(-0.1 if self.word in text else -2.5, self.word in text, len(text.split())) for _, text in pairs]

    def render(self, messages):
        """Return the last turn."""
        return messages[-1]["content"] + "\n"


def watched(*outcomes):
    """Return a stopwatch that has seen all of these replies, and what it passed on."""
    watch = Stopwatch(Scripted(*outcomes))
    return watch, list(watch.complete([Request(CHAT, 8)] * len(outcomes)))


def test_replayed_replies_enter_no_timing():
    """Replies from the ledger and failures pass through and are not timed; without others there is no rate."""
    replayed, lost = replace(SLOW, replayed=True), Failure("error", "no reply")
    watch, passed = watched(replayed, SLOW, lost, SLOW)
    assert passed == [replayed, SLOW, lost, SLOW]
    assert (watch.count, watch.seconds, watch.identity) == (2, 2000.0, "scripted")
    assert watched(replayed, lost)[0].rate() is None
    assert watched()[0].rate() is None


def test_replies_that_are_written_side_by_side_are_not_added_up():
    """Where less time went by than the replies took each by itself, that time counts."""
    watch, _ = watched(SLOW, SLOW)
    assert watch.rate() == pytest.approx(2 / watch.elapsed)
    watch.elapsed = 5000.0
    assert watch.rate() == pytest.approx(2 / 2000)


def test_a_label_stands_where_the_answer_of_a_reply_stood():
    """A label stands where a reply that kept the form has its answer, and replaces another one from the beginning."""
    said = [
        read_reply("Is it open?", raw, (), model="m")
        for raw in (
            'Quote [1]: "It opens at 8."\nQuote: "Daily."\nAnswer: It is.',
            'Answer: It is.\nQuote [1]: "It opens at 8."',
            "Sure it is",
        )
    ]
    assert systems.beginnings(said, [CHAT] * 3, Liking("no")) == [
        'Is it open?\nQuote [1]: "It opens at 8."\nQuote: "Daily."\nAnswer:',
        "Is it open?\nAnswer:",
        "Is it open?\n",
    ]


def test_each_answer_is_one_of_the_labels():
    """The label that the model likes best replaces the text, and an abstention is none any more."""
    said = [read_reply("Is it open?", raw, (), model="m") for raw in ("I do not know.", "Answer: yes")]
    scorer = Liking("no")
    picked = capability.choose(scorer, systems.beginnings(said, [CHAT, CHAT], scorer), ("maybe", "no", "yes"))
    answers = systems.labelled(said, picked)
    assert [(one.text, one.abstained) for one in answers] == [("no", False), ("no", False)]
    assert [one.raw for one in answers] == [one.raw for one in said]


def test_likelihoods_are_computed_once(tmp_path):
    """What a model was asked is taken from the ledger, equal after rounding; another model is asked for itself."""
    pairs = [(f"{number} is", text) for number in range(300) for text in (" yes", " no")]
    first, again, other = Liking("no"), Liking("no"), Liking("yes")
    other.identity = "another"
    ledger = Ledger(tmp_path / "ledger.sqlite")
    scores = CachedScorer(first, ledger).score(pairs[:200]) + CachedScorer(first, ledger).score(pairs[200:])
    assert scores == CachedScorer(again, ledger).score(pairs)
    assert scores[:2] == [(float(np.float32(-2.5)), False, 1), (float(np.float32(-0.1)), True, 1)]
    assert (first.pairs, again.pairs) == (pairs, [])
    assert [greedy for _, greedy, _ in CachedScorer(other, ledger).score(pairs[:2])] == [True, False]
    assert CachedScorer(first, ledger).score([]) == []
    assert CachedScorer(first, ledger).render(CHAT) == "Is it open?\n"
    ledger.close()
