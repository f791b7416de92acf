"""The engine: who waits together is answered together, nobody starves, and who leaves is not written for."""

import queue
import threading

import pytest

from raft.errors import RaftError, UsageError
from raft.serving import engine as engines
from raft.serving.engine import Busy, Engine, Job, Sources
from served import REPLY, Source, until


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


def named(version):
    """Return a source that answers as a version."""
    made = Source(version=version)
    made.reply = lambda question: f"Answer: {version}"
    return made


@pytest.fixture
def two():
    """Production, a candidate, and an engine that answers with both."""
    sources = Sources(named("old"), named("new"))
    made = Engine(sources, lambda event, facts: None)
    made.start()
    assert made.ready.wait(30)
    yield sources.production, sources.candidate, made
    for one in sources.each():
        one.gate.set()
    made.end(30)


class Sent(Asked):
    """A question that is to meet an arm."""

    def __init__(self, engine, question, arm, *, streamed=False):
        queue.Queue.__init__(self)
        self.job = Job(question, question, streamed, lambda *told: self.put(told), arm)
        engine.submit(self.job)


def test_no_batch_mixes_two_versions(two):
    """What waits together is answered by version, each with its own, in the order in which they came."""
    old, new, engine = two
    old.gate.clear()
    first = Sent(engine, "first", "production")
    assert old.inside.wait(30)
    arms = ["candidate", "production", "candidate", "production", "candidate"]
    others = [Sent(engine, f"{arm} {number}", arm) for number, arm in enumerate(arms)]
    old.gate.set()
    for asked in (first, *others):
        (kind, told), _ = asked.end()
        expected = "new" if asked.job.arm == "candidate" else "old"
        assert (kind, told.answer.text, told.source.version, told.arm) == (
            "answered",
            expected,
            expected,
            asked.job.arm,
        )
    assert new.asked == [["candidate 0", "candidate 2", "candidate 4"]]
    assert old.asked == [["first"], ["production 1", "production 3"]]


def test_how_long_a_call_took_is_told_of_one_answer_alone(two):
    """Answers that one call made together tell no seconds: the larger share has larger calls, and would look slower."""
    old, _, engine = two
    old.gate.clear()
    first = Sent(engine, "first", "production")
    assert old.inside.wait(30)
    others = [Sent(engine, f"{number}", "production") for number in range(4)]
    old.gate.set()
    took = [asked.end()[0][1].took for asked in (first, *others)]
    assert [one is not None for one in took] == [True, False, False, False, False]


def test_without_a_candidate_production_answers_all(two):
    """Whoever waits for a candidate that is withdrawn meanwhile is answered by production, which says so."""
    old, new, engine = two
    old.gate.clear()
    first = Sent(engine, "first", "production")
    assert old.inside.wait(30)
    waiting = Sent(engine, "waits", "candidate")
    engine.offer(Sources(old))
    old.gate.set()
    assert first.end()[0][0] == "answered"
    told = waiting.end()[0][1]
    assert (told.arm, told.source.version) == ("production", "old")
    assert new.closed.wait(30)
    assert not old.closed.is_set()


def test_a_shadow_is_written_while_nobody_waits(two):
    """A shadow's turn comes after all who wait; somebody who asks while it is written ends it, and is answered."""
    old, new, engine = two
    old.gate.clear()
    first, told = Sent(engine, "first", "production"), queue.Queue()
    assert old.inside.wait(30)
    engine.shadow(Job("shadow", "shadow", False, lambda *one: told.put(one), "candidate", shadow=True))
    second = Sent(engine, "second", "candidate")
    new.gate.clear()
    old.gate.set()
    assert first.end()[0][0] == "answered"
    assert new.inside.wait(30)
    new.gate.set()
    assert second.end()[0][0] == "answered"
    assert told.get(timeout=30)[1].answer.text == "new"
    assert new.asked == [["second"], ["shadow"]]
    new.inside.clear()
    new.gate.clear()
    engine.shadow(Job("given up", "given up", False, lambda *one: told.put(one), "candidate", shadow=True))
    assert new.inside.wait(30)
    third = Sent(engine, "third", "production")
    new.gate.set()
    assert third.end()[0][0] == "answered"
    assert told.empty()
    assert new.left.is_set()


def test_a_shadow_does_not_keep_the_server(two):
    """A shadow that is being written when the server ends is given up: nobody waits for it."""
    _, new, engine = two
    told = queue.Queue()
    new.gate.clear()
    engine.shadow(Job("shadow", "shadow", False, lambda *one: told.put(one), "candidate", shadow=True))
    assert new.inside.wait(30)
    ending = threading.Thread(target=engine.end, args=(30,))
    ending.start()
    until(lambda: engine._ended)
    new.gate.set()
    ending.join(30)
    assert new.left.is_set()
    assert told.empty()


def test_shadows_do_not_pile_up(two):
    """Of more shadows than may wait the oldest is given up, and none is written by another than the candidate."""
    old, _, engine = two
    old.gate.clear()
    first, told = Sent(engine, "first", "production"), queue.Queue()
    assert old.inside.wait(30)
    for number in range(engines.SHADOWS + 3):
        engine.shadow(Job(f"{number}", "", False, lambda *one: told.put(one), "candidate", shadow=True))
    old.gate.set()
    assert first.end()[0][0] == "answered"
    said = [told.get(timeout=30)[1].answer.question for _ in range(engines.SHADOWS)]
    assert said == [str(number) for number in range(3, engines.SHADOWS + 3)]
    old.inside.clear()
    old.gate.clear()
    second = Sent(engine, "second", "production")
    assert old.inside.wait(30)
    engine.shadow(Job("nobody's", "", False, lambda *one: told.put(one), "candidate", shadow=True))
    engine.offer(Sources(old))
    old.gate.set()
    assert second.end()[0][0] == "answered"
    assert Sent(engine, "third", "production").end()[0][0] == "answered"
    assert told.empty()


def test_what_does_not_load_is_left_out(two):
    """Of what is offered, what cannot be loaded is told and left out; production stays what it was."""
    old, _, _ = two
    told, bad = queue.Queue(), named("bad")

    def warm():
        raise RaftError("It does not fit.", hint="train another")

    bad.warm = warm
    engine = Engine(Sources(old), lambda *event: told.put(event))
    engine.start()
    assert told.get(timeout=30)[0] == "ready"
    engine.offer(Sources(bad, named("other"), (old,)))
    answered = Sent(engine, "first", "production").end()[0][1]
    assert answered.source is old
    event, facts = told.get(timeout=30)
    assert (event, facts["source"]) == ("unfit", bad)
    assert bad.closed.is_set()
    assert not old.closed.is_set()
    assert Sent(engine, "second", "candidate").end()[0][1].source.version == "other"
    engine.end(30)


def test_what_is_asked_aside_waits_for_no_other(engine, source):
    """As many as a batch are asked at once, each alone; one more waits for a place; a change closes none of them."""
    aside, later = Source(version="aside"), Source(version="later")
    aside.aside = later.aside = True
    aside.gate.clear()
    engine.offer(Sources(aside))
    hung = [Asked(engine, f"hung {number}") for number in range(aside.batch)]
    until(lambda: len(aside.asked) == aside.batch)
    waits = Asked(engine, "one more")
    assert engine.waiting == 1
    engine.offer(Sources(later))
    (kind, told), _ = waits.end()
    assert (kind, told.source, told.answer.question) == ("answered", later, "one more")
    assert not aside.closed.is_set(), "it is still being asked"
    aside.gate.set()
    assert [asked.end()[0][0] for asked in hung] == ["answered"] * aside.batch
    assert aside.closed.wait(30)
    assert sorted(aside.asked) == [[f"hung {number}"] for number in range(aside.batch)]


def test_where_no_thread_can_be_started_the_asker_is_told_and_others_are_answered(engine, monkeypatch):
    """A system without a thread left fails one question; the engine lives, and gives its place to the next."""
    aside = Source(version="aside")
    aside.aside, aside.batch = True, 1
    engine.offer(Sources(aside))
    assert Asked(engine, "before").end()[0][0] == "answered"

    class Full:
        def __init__(self, **_):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(engines, "Thread", Full)
        (kind, error), _ = Asked(engine, "one").end()
    assert kind == "failed" and isinstance(error, RaftError) and "thread" in error.what
    assert Asked(engine, "after").end()[0][0] == "answered"


def test_what_comes_back_while_it_is_asked_stays_open(two):
    """A candidate that was taken back and named again is not closed by the answer that came in between."""
    old, new, engine = two
    new.aside = True
    new.gate.clear()
    asked = Sent(engine, "first", "candidate")
    assert new.inside.wait(30)
    engine.offer(Sources(old))
    assert Sent(engine, "second", "production").end()[0][1].source is old
    assert not new.closed.is_set()

    def warm():
        new.gate.set()
        assert asked.end()[0][0] == "answered"
        until(lambda: not engine._flying.total())

    new.warm = warm
    engine.offer(Sources(old, new))
    assert Sent(engine, "third", "candidate").end()[0][1].source is new
    assert not new.closed.is_set()
