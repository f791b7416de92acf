"""The engine: who waits together is answered together, nobody starves, and who leaves is not written for."""

import queue
import threading

import pytest

from raft.errors import RaftError, UsageError
from raft.serving import engine as engines
from raft.serving.engine import Busy, Engine, Job, Sources
from served import REPLY, Source


@pytest.fixture
def engine(source):
    """An engine that has loaded."""
    made = Engine(Sources(source), lambda event, facts: None)
    made.start()
    assert made.ready.wait(30)
    yield made
    source.gate.set()
    made.end(30)


class Asked(queue.Queue):
    """A question, and what its asker is told."""

    def __init__(self, engine, question, *, streamed=False):
        super().__init__()
        self.job = Job(question, question, streamed, lambda *told: self.put(told))
        engine.submit(self.job)

    def end(self):
        """Return what was told last, and the pieces before it."""
        pieces = []
        while (told := self.get(timeout=30))[0] == "piece":
            pieces.append(told[1])
        return told, pieces


def test_what_waits_together_is_answered_together(engine, source):
    """Questions that arrive while one is answered share calls of the model, of at most its batch, in their order."""
    source.gate.clear()
    first = Asked(engine, "first")
    assert source.inside.wait(30)
    others = [Asked(engine, f"other {number}") for number in range(6)]
    source.gate.set()
    for asked in (first, *others):
        (kind, told), _ = asked.end()
        assert (kind, told.answer.question, told.waited >= 0) == ("answered", asked.job.question, True)
    assert source.asked == [["first"], [f"other {n}" for n in range(4)], ["other 4", "other 5"]]


def test_streams_and_batches_take_turns(engine, source):
    """Neither many streams nor many whole answers keep the other kind waiting for more than one turn."""
    source.gate.clear()
    first = Asked(engine, "first")
    assert source.inside.wait(30)
    waiting = [Asked(engine, f"stream {number}", streamed=True) for number in range(3)]
    waiting += [Asked(engine, f"whole {number}") for number in range(6)]
    source.gate.set()
    for asked in (first, *waiting):
        asked.end()
    assert [one[0].split()[0] for one in source.asked] == ["first", "stream", "whole", "stream", "whole", "stream"]


def test_a_stream_is_told_as_it_is_written(engine):
    """Whoever streams is told each piece of the reply before the answer."""
    (kind, _), pieces = Asked(engine, "first", streamed=True).end()
    assert (kind, "".join(pieces)) == ("answered", REPLY)
    assert len(pieces) > 5


@pytest.mark.parametrize("streamed", [False, True])
def test_who_leaves_is_not_written_for(engine, source, streamed):
    """A reply is not written to its end when its asker has left, and who leaves while waiting is not answered."""
    source.gate.clear()
    first = Asked(engine, "first", streamed=streamed)
    assert source.inside.wait(30)
    second, third = Asked(engine, "second"), Asked(engine, "third")
    first.job.left.set()
    second.job.left.set()
    source.gate.set()
    assert third.end()[0][0] == "answered"
    assert source.left.is_set()
    assert source.asked == [["first"], ["third"]]
    assert second.empty()


def test_one_question_that_fails_fails_alone(engine, source):
    """Where one of several questions is at fault, the others are answered."""

    def reply(question):
        if question == "bad":
            raise UsageError("It is too long.", hint="ask less")
        if question == "worse":
            raise ZeroDivisionError
        return REPLY

    source.reply = reply
    source.gate.clear()
    asked = [Asked(engine, question) for question in ("good", "bad", "worse", "fine")]
    source.gate.set()
    kinds = [one.end()[0] for one in asked]
    assert [kind for kind, _ in kinds] == ["answered", "failed", "failed", "answered"]
    assert isinstance(kinds[1][1], RaftError)
    assert Asked(engine, "next").end()[0][0] == "answered"


def test_more_than_may_wait_are_sent_away(engine, source, monkeypatch):
    """Of more questions than may wait the last is sent away; one whose asker has left makes room."""
    monkeypatch.setattr(engines, "WAITING", 2)
    source.gate.clear()
    Asked(engine, "first")
    assert source.inside.wait(30)
    second = Asked(engine, "second")
    Asked(engine, "third")
    with pytest.raises(Busy):
        Asked(engine, "fourth")
    second.job.left.set()
    Asked(engine, "fifth")


def test_another_source_takes_over_between_two_answers(engine, source):
    """What is being answered ends with the source it began with; what waits has the new one, and the old one closes."""
    after, later = Source("b" * 64), Source("c" * 64)
    source.gate.clear()
    first = Asked(engine, "first")
    assert source.inside.wait(30)
    engine.offer(Sources(after))
    engine.offer(Sources(later))
    assert after.closed.is_set(), "it was superseded before anybody asked it"
    second = Asked(engine, "second")
    assert not source.closed.is_set()
    source.gate.set()
    assert first.end()[0][1].source is source
    assert second.end()[0][1].source is later
    assert source.closed.wait(30)


def test_models_that_do_not_load_are_told():
    """Where loading fails, it is told once, and the engine is never ready."""
    source, told = Source(), queue.Queue()

    def warm():
        raise RaftError("There is no such model.", hint="name another")

    source.warm = warm
    engine = Engine(Sources(source), lambda *event: told.put(event))
    engine.start()
    event, facts = told.get(timeout=30)
    assert (event, facts["error"].what) == ("failed", "There is no such model.")
    assert not engine.ready.is_set()


def test_the_end_waits_for_what_waits(source):
    """An engine that is ended answers what waits, and takes nothing on."""
    engine = Engine(Sources(source), lambda event, facts: None)
    engine.start()
    source.gate.clear()
    asked = [Asked(engine, question) for question in ("first", "second")]
    ending = threading.Thread(target=engine.end, args=(30,))
    ending.start()
    source.gate.set()
    ending.join(30)
    assert [one.end()[0][0] for one in asked] == ["answered", "answered"]
    assert source.closed.is_set()
    with pytest.raises(Busy):
        Asked(engine, "late")
