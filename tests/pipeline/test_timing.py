"""How long a contender's latencies are measured."""

from itertools import count
from types import SimpleNamespace

import polars as pl
import pytest

from raft import prompts, settings
from raft.pipeline import bench
from raft.protocols import Completion


@pytest.fixture
def measure(monkeypatch):
    """Return a function that times a contender whose every reply takes 10 seconds; it returns asked and timed."""
    clock = count(0.0, 10.0)
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(clock))

    def run(questions, former=()):
        asked = []

        def complete(requests):
            for request in requests:
                asked.append(request)
                yield Completion("reply", "model")

        running = SimpleNamespace(
            system=SimpleNamespace(context="none", title="base"),
            prompt=prompts.load("closed"),
            exemplars=(),
            uncached=SimpleNamespace(complete=complete),
        )
        names = [f"q{number}" for number in range(questions)]
        known = SimpleNamespace(
            questions=pl.DataFrame({"question_id": names, "question": names}),
            passages={name: {"none": []} for name in names},
        )
        options = {
            "settings": settings.load(None, {"benchmark.latency_questions": 50}),
            "on_event": lambda *event: None,
        }
        return asked, bench.latencies(running, known, lambda *shown: None, former=former, **options)

    return run


def test_slow_contenders_are_timed_on_fewer_questions(measure):
    """No further question is asked once the time is up, whatever is left of them."""
    asked, seconds = measure(50)
    assert seconds == [10.0, 10.0, 10.0]
    assert len(asked) == 1 + 3  # one before the clock runs


@pytest.mark.parametrize("former", [(1.0, 1.0), (10.0, 10.0, 10.0)])
def test_what_was_timed_enough_is_not_timed_again(measure, former):
    """All questions there are, or the whole time, need no second look."""
    assert measure(2, former) == ([], list(former))


class Clock:
    """A clock that moves only when something takes time."""

    now = 0.0

    def takes(self, seconds):
        """Let time go by."""
        self.now += seconds


def test_a_latency_is_what_a_user_waits_for(monkeypatch):
    """Search and reply of each question are timed; what is loaded at the first of them, and the corpus, are not."""
    clock, begun, shown = Clock(), [], []
    monkeypatch.setattr(bench.time, "monotonic", lambda: clock.now)

    def first(number, seconds):
        clock.takes(seconds if begun.count(number) else 1000.0)
        begun.append(number)

    def complete(requests):
        for _ in requests:
            first("model", 3.0)
            yield Completion("reply", "model")

    def latencies(context):
        running = SimpleNamespace(
            system=SimpleNamespace(context=context, title="rag"),
            prompt=prompts.load("closed"),
            exemplars=(),
            uncached=SimpleNamespace(complete=complete),
        )
        names = ["q1", "q2", "q3"]
        known = SimpleNamespace(
            questions=pl.DataFrame({"question_id": names, "question": names}),
            passages={name: {context: []} for name in names},
        )
        asking = settings.load(None, {"benchmark.latency_questions": 2})
        options = {"former": (), "settings": asking, "on_event": lambda *event: None}
        return bench.latencies(running, known, lambda *pair: shown.append(pair) or first("index", 2.0), **options)

    assert latencies("retrieved") == [5.0, 5.0]
    assert len(shown) == 3
    assert latencies("none") == [3.0, 3.0]
    assert len(shown) == 3
