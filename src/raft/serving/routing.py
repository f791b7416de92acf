"""Who meets the candidate, and the guard that takes it out again.

A share of the conversations meets it, by a hash of what stands for a conversation: the request's `user`, else its
header `X-Conversation-Id`, else the name of the key that it came with, else its first question, which a chat sends
again with each turn. So a conversation always meets the same system, and one that meets the candidate goes on to when
the share grows. The hash is of the candidate too: with the next one, others try it.

Each reply of either system goes through the guard (`evaluation.guard`) that stands since the two stand against each
other; a server that starts anew takes in from the traffic what it saw before. Only how fast replies are it learns anew:
that is of the process.

Shadows do not count: those that are given up are the longer ones, and what is left says abstentions too often.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any

from raft.evaluation.guard import Figure, Guard, Seen
from raft.protocols import OnEvent
from raft.serving.engine import Answered, Arm, Job, Sources
from raft.store import registry, traffic
from raft.store.registry import Standing

HEADER = "X-Conversation-Id"
GUARD = "guard"
"""The name by which the guard is in the history."""


@dataclass(frozen=True)
class Route:
    """Where a request goes.

    Attributes:
        arm: who answers it.
        conversation: stands for its conversation: 32 hexadecimal digits.
        shadow: whether the candidate answers it too, unseen.
    """

    arm: Arm = "production"
    conversation: str = ""
    shadow: bool = False


@dataclass(frozen=True)
class _Trial:
    """A candidate beside what is in production, by their ids, and since when they stand so (seconds since 1970)."""

    production: str
    candidate: str
    since: float
    share: float
    shadow: float
    guard: Guard


def conversation(salt: str, caller: str, *, user: str = "", header: str = "", first: str = "") -> str:
    """Return what stands for a conversation: 32 hexadecimal digits.

    Args:
        salt: the run's, so that the same name is another one elsewhere.
        caller: the name of the key; "" where none is needed.
        user: of the request.
        header: its `X-Conversation-Id`.
        first: its first question.
    """
    kinds = {"user": user, "header": header, "key": caller, "question": first}
    kind = next((name for name, value in kinds.items() if value), "question")
    written = json.dumps([salt, caller, kind, kinds[kind]])  # in ASCII, whatever it is
    return hashlib.sha256(written.encode()).hexdigest()[:32]


def meets(conversation: str, candidate: str, share: float) -> bool:
    """Tell whether a conversation meets a candidate that answers so large a share of them, and so any larger one."""
    drawn = hashlib.sha256(f"{candidate} {conversation}".encode()).hexdigest()[:13]
    return int(drawn, 16) / 16**13 < share


def since(history: Iterable[Mapping[str, Any]]) -> float:
    """Return since when production and candidate are those of now, in seconds since 1970; 0 without a history."""
    pair, begun = ("", ""), ""
    for line in history:
        production, candidate = pair
        if line["action"] in ("promote", "rollback"):
            production = line["version"]
        elif line["action"] == "candidate":
            candidate = line["version"]
        if line["action"] == "withdraw" or candidate == production:
            candidate = ""
        if (production, candidate) != pair:
            pair, begun = (production, candidate), line["at"]
    return datetime.fromisoformat(begun).timestamp() if begun else 0.0


def shadow(reply_id: str, question: str, searched: str, keep: Callable[[str, Answered], object]) -> Job:
    """Return the candidate's turn at a question whose reply the caller has seen already; `keep` is told its answer."""

    def tell(kind: str, value: Any) -> None:
        if kind == "answered" and value.answer.error is None:
            keep(reply_id, value)

    return Job(question, searched, False, tell, "candidate", shadow=True)


class Router:
    """Sends requests to production or to a candidate, and withdraws one that the guard finds worse.

    Args:
        run: the run directory.
        salt: see `conversation`.
        on_event: told "stopped" with the `candidate`, `why` and `figures` when the guard withdraws it; "stumbled" with
            an `error` where that could not be written down.
        withdrawn: called when it is.
    """

    def __init__(self, run: Path, salt: str, on_event: OnEvent, withdrawn: Callable[[], object]) -> None:
        self._run, self._salt, self._on_event, self._withdrawn = run, salt, on_event, withdrawn
        self._trial: _Trial | None = None

    def change(self, sources: Sources, standing: Standing) -> None:
        """Go by what answers from now on, and by the shares that the registry says."""
        if sources.candidate is None or standing.candidate is None:
            self._trial = None
            return
        pair, former = (sources.production.version, sources.candidate.version), self._trial
        begun = since(registry.history(self._run))
        if former is None or (former.production, former.candidate, former.since) != (*pair, begun):
            guard = self._replayed(*pair, begun)
        else:
            guard = former.guard
        self._trial = _Trial(*pair, begun, standing.share, standing.shadow, guard)
        if guard.crossed is not None and (former is None or former.guard is not guard):
            self._stop(self._trial, guard.crossed)

    def route(self, *, caller: str, user: str, header: str, first: str, probe: bool) -> Route:
        """Return where a request goes; see `conversation`. A probe goes to production."""
        name, trial = conversation(self._salt, caller, user=user, header=header, first=first), self._trial
        if trial is None or probe or trial.guard.crossed is not None:
            return Route(conversation=name)
        if meets(name, trial.candidate, trial.share):
            return Route("candidate", name)
        return Route(conversation=name, shadow=random.random() < trial.shadow)  # noqa: S311  a sample

    def saw(self, conversation: str, question: str, arm: Arm, version: str, answered: Answered | None) -> None:
        """Show the guard a reply that a version gave as an arm; None: it failed."""
        trial = self._trial
        if trial is None or trial.guard.crossed is not None or version != getattr(trial, arm):
            return
        seen = Seen(failed=True)
        if answered is not None:
            answer = answered.answer
            seen = Seen(answer.supported is False, answer.abstained, seconds=answered.took)
        crossed = trial.guard.saw(arm, seen, conversation, question)
        if crossed is not None:
            self._stop(trial, crossed)

    def _stop(self, trial: _Trial, crossed: Figure) -> None:
        """Withdraw a candidate, in the history too; nobody waits for that."""
        why = f"the candidate is worse: {crossed}"
        others = "; ".join(str(one) for one in trial.guard.figures() if one.name != crossed.name)
        self._on_event("stopped", {"candidate": trial.candidate, "why": why, "figures": others})

        def withdraw() -> None:
            try:
                registry.withdraw(self._run, by=GUARD, because=why, version_id=trial.candidate)
            except Exception as error:  # it gets nothing to answer here all the same
                self._on_event("stumbled", {"error": error})
            self._withdrawn()

        Thread(target=withdraw, name="raft-guard", daemon=True).start()

    def _replayed(self, production: str, candidate: str, begun: float) -> Guard:
        guard, arms = Guard(), {("production", production): "production", ("candidate", candidate): "candidate"}
        try:
            rows = traffic.replies(self._run, begun).select(
                "arm", "version", "supported", "abstained", "outcome", "conversation", "question"
            )
        except Exception as error:  # the guard begins anew
            self._on_event("stumbled", {"error": error})
            return guard
        for arm, version, supported, abstained, outcome, name, question in rows.iter_rows():
            known: Any = arms.get((arm, version))
            if known is not None:
                guard.saw(
                    known, Seen(supported is False, bool(abstained), outcome == "failed"), name or "", question or ""
                )
        return guard
