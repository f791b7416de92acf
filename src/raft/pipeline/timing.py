"""How fast the contenders of a benchmark are: measured once, on replies that are written then and there, and kept."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from raft import artifacts
from raft.answers import Passage
from raft.protocols import Completion, Listen, Request
from raft.run import Step
from raft.stages import answering
from raft.stages.contenders import Contender, Stopwatch
from raft.stages.contexts import Contexts

Search = Callable[[str, Sequence[Passage]], object]
"""Does for a question, and what is shown for it, all that comes before a model is asked."""
MOST_SECONDS = 30.0
"""What timing one contender may take: one that fills it is timed on fewer questions, and the report says on how many.
A model of 135 million parameters on two cores takes some seconds a question, and fifty of each contender an hour."""


class Timings:
    """What was timed of each contender, kept while the step goes on.

    Args:
        step: the step of the answers; what is timed lies in its scratch folder, and at the end in its notes.
        former: the notes of the last time.
    """

    def __init__(self, step: Step, former: Mapping[str, Mapping[str, Any]]) -> None:
        self._step, self._file = step, step.scratch / "timings.json"
        kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        step.notes.update({**former, **kept})

    def former(self, contender: Contender) -> dict[str, Any]:
        """Return what was timed of this contender before, if it was the same one; else an empty dictionary."""
        known = self._step.notes.get(contender.arm.name, {})
        return dict(known) if known.get("who") == who(contender) else {}

    def latencies(self, contender: Contender) -> list[float]:
        """Return the latencies that were measured before; those that held the loading of an index do not count."""
        former = self.former(contender)
        return list(former["latencies"]) if former.get("warm") else []

    def keep(self, contender: Contender, watch: Stopwatch, latencies: Sequence[float]) -> None:
        """Keep the throughput of whichever sitting wrote more replies, and these latencies (seconds a question)."""
        former = self.former(contender)
        rate, count = watch.rate(), watch.count
        if rate is None or former.get("timed", 0) > count:
            rate, count = former.get("questions_per_second"), former.get("timed", 0)
        self._step.notes[contender.arm.name] = {
            "who": who(contender),
            "questions_per_second": rate,
            "timed": count,
            "latencies": list(latencies),
            "warm": True,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        artifacts.atomically(self._file, json.dumps(self._step.notes))


def who(contender: Contender) -> str:
    """Return what a contender is known by: a digest (SHA-256, hex) of its name, model, prompt and examples."""
    told = [contender.arm.name, contender.generator.identity, contender.prompt.digest, contender.exemplars]
    return hashlib.sha256(json.dumps(told, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def latencies(
    contender: Contender,
    known: Contexts,
    search: Search,
    *,
    count: int,
    former: Sequence[float],
    style: str,
    max_tokens: int,
    listen: Listen,
) -> list[float]:
    """Return seconds a question: what a user waits for who asks one at a time, search included, nothing replayed.

    One question is asked before the clock runs, so that no loading is timed. A question without a reply is not timed,
    and none is begun once `MOST_SECONDS` have gone by.

    Args:
        contender: who is asked; without `fresh` nothing is timed.
        known: the questions, and what is shown for them.
        search: called for each question where documents are shown.
        count: how many questions, at most.
        former: what was timed before, returned as it is where no more questions are to be timed.
        style: what `raftformat.render_style` returned.
        max_tokens: longest reply.
        listen: told "asking".
    """
    context = contender.arm.context
    ids = [name for name in known.questions["question_id"] if context in known.passages[name]]
    drawn = sorted(ids, key=lambda name: hashlib.sha256(f"latency:{name}".encode()).hexdigest())
    chosen = drawn[:count]
    if contender.fresh is None or len(former) >= len(chosen) or sum(former) >= MOST_SECONDS:
        return list(former)
    listen("asking", {"arm": contender.arm.title, "set": "latency", "condition": "", "questions": len(chosen)})
    asked = dict(known.questions.select("question_id", "question").iter_rows())

    def request(name: str) -> Request:
        if context != "none":
            search(asked[name], known.passages[name][context])
        return answering.request(
            asked[name],
            known.passages[name][context],
            prompt=contender.prompt,
            style=style,
            exemplars=contender.exemplars,
            max_tokens=max_tokens,
        )

    seconds: list[float] = []
    # requests are made lazily, so that each search falls into its question's time
    with closing(contender.fresh.complete(map(request, [drawn[-1], *chosen]))) as replies:  # type: ignore[type-var]
        next(replies)
        while sum(seconds) < MOST_SECONDS:
            begun = time.monotonic()
            outcome = next(replies, None)
            if outcome is None:
                break
            if isinstance(outcome, Completion):
                seconds.append(time.monotonic() - begun)
    return seconds
