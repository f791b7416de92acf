"""What a server keeps of what it is asked, and what people say of its answers: `POST /v1/feedback`.

A request names the `id` of a reply, with at least one of `rating` ("up" or "down"), `correction` (what the answer
should have been) and `comment`. It is acknowledged once it is on disk. A later one of the same caller on the same reply
counts in the place of the earlier.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from raft.api.http import Refused
from raft.corpus import pii
from raft.errors import RaftError
from raft.protocols import OnEvent
from raft.serving import openai
from raft.serving.engine import Answered, Arm
from raft.serving.routing import Route
from raft.settings.sections import Privacy, Serving, Settings
from raft.store.traffic import Reply, Traffic, UnknownReply

LARGEST = 256 << 10
"""Most bytes of a request."""
LONGEST = 20_000
"""Most characters of a correction, and of a comment."""
_FIELDS = ("reply_id", "rating", "correction", "comment")
_RATINGS = ("up", "down")
_LONGEST_ID = 200
_SAME = (
    *("arm", "version", "index", "model", "adapter_digest", "supported", "abstained", "refused", "relevance"),
    *("citations", "cost"),
)
"""What is kept of an answer as its object `raft` has it."""


def read_feedback(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request says of a reply: reply_id, and those of rating, correction and comment that it has.

    Raises:
        Refused: something is missing, unknown, or no value of its kind.
    """
    for name in body:
        if name not in _FIELDS:
            raise _invalid(name[:100], f"it is none of {', '.join(_FIELDS)}")
    reply_id, rating = body.get("reply_id"), body.get("rating")
    if not isinstance(reply_id, str) or not 0 < len(reply_id) <= _LONGEST_ID:
        raise _invalid("reply_id", "it is the `id` of a reply")
    if rating is not None and rating not in _RATINGS:
        raise _invalid("rating", 'it is "up" or "down"')
    found = {"reply_id": reply_id, **({"rating": rating} if rating else {})}
    for name in ("correction", "comment"):
        text = body.get(name)
        if text is not None and not isinstance(text, str):
            raise _invalid(name, "it is a text")
        if text and len(text) > LONGEST:
            raise _invalid(name, f"it has more than {LONGEST:,} characters")
        if text and text.strip():
            found[name] = text.strip()
    if len(found) == 1:
        raise _invalid("rating", "there is no rating, no correction and no comment")
    return found


def _invalid(param: str, why: str) -> Refused:
    return Refused(400, f"{param}: {why}", "invalid_value", param=param)


class Exchange(Protocol):
    """A request that was taken on.

    Attributes:
        asked: what is asked.
        reply: the reply to it.
        caller: the name of the key, "" without keys.
        route: where it goes.
        met: as what, and which version, answers it; it is told once its turn has come.
    """

    asked: openai.Asked
    reply: openai.Reply
    caller: str
    route: Route

    @property
    def met(self) -> tuple[Arm, str]:
        """Return the two."""


class Recorder:
    """Keeps replies and feedback in the run's traffic, as the settings of its last build have it.

    Args:
        run: the run directory.
        settings: of the run; with `serving.traffic` off nothing is written, and no file is made.
        on_event: as for `Traffic`.

    Raises:
        RaftError: the file cannot be used.
    """

    def __init__(self, run: Path, settings: Settings, on_event: OnEvent) -> None:
        self._run, self._on_event = run, on_event
        self._settings = _wanted(settings)
        self._traffic = self._opened()

    def _opened(self) -> Traffic | None:
        serving, privacy = self._settings
        redact = _redacted if privacy.found in ("redact", "refuse") else None
        given: dict[str, Any] = {"redact": redact, "on_event": self._on_event}
        return Traffic(self._run, retention_days=serving.retention_days, **given) if serving.traffic else None

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._traffic is not None

    def follow(self, settings: Settings) -> None:
        """Go on with the settings of a build that has finished since."""
        if _wanted(settings) == self._settings:
            return
        before, self._settings = self._traffic, _wanted(settings)
        try:
            self._traffic = self._opened()
        except RaftError as error:  # answers go on without it
            self._traffic = None
            self._on_event("stumbled", {"error": error})
        if before is not None:
            before.close()

    def answered(self, exchange: Exchange, answered: Answered) -> None:
        """Keep a reply."""
        self._keep(exchange, **_facts(exchange.reply.id, answered))

    def shadowed(self, reply_id: str, answered: Answered) -> None:
        """Keep what the candidate says to the question of a reply."""
        if self._traffic is not None:
            seconds = sum(answered.answer.seconds.values())
            self._traffic.shadowed(reply_id, seconds=seconds, **_facts(reply_id, answered))

    def failed(self, exchange: Exchange) -> None:
        """Keep that a question was not answered, and that it was the server's fault."""
        arm, version = exchange.met
        self._keep(exchange, arm=arm, version=version, outcome="failed")

    def _keep(self, exchange: Exchange, **facts: Any) -> None:
        asked, reply, traffic = exchange.asked, exchange.reply, self._traffic
        if traffic is not None and not asked.probe:
            facts |= {"at": reply.begun + reply.seconds, "seconds": reply.seconds, "streamed": asked.streamed}
            facts |= {"caller": exchange.caller, "conversation": exchange.route.conversation}
            traffic.record(Reply(reply_id=reply.id, question=asked.question, **facts))

    def feedback(self, caller: str, **said: Any) -> "Future[int]":
        """Keep what a caller says of a reply (`read_feedback`); the future has its number once it is on disk.

        Raises:
            Refused: nothing is kept here.
        """
        if self._traffic is None:
            raise feedback_is_off()
        return self._traffic.submit(caller=caller, **said)

    def close(self) -> None:
        """Write what waits."""
        if self._traffic is not None:
            self._traffic.close()


def _facts(reply_id: str, answered: Answered) -> dict[str, Any]:
    answer, said = answered.answer, openai.facts(reply_id, answered, passages=False)
    facts = {name: said[name] for name in _SAME} | {"answer": answer.text, "waited": answered.waited}
    return facts | {f"{kind}_tokens": answer.tokens.get(kind, 0) for kind in ("input", "output")}


def _wanted(settings: Settings) -> tuple[Serving, Privacy]:
    return settings.serving, settings.privacy


def _redacted(text: str) -> str:
    return pii.cleaned(text)[0]


def feedback_is_off() -> Refused:
    """Return how feedback is refused where nothing is kept."""
    why = "this server keeps no feedback: serving.traffic is off in the settings of the run"
    return Refused(403, why, "feedback_is_off")


def not_kept(error: RaftError) -> Refused:
    """Return how feedback is refused that could not be kept."""
    if isinstance(error, UnknownReply):
        return Refused(404, "reply_id: there is no such reply, or it is deleted", "unknown_reply", param="reply_id")
    return Refused(503, "it could not be written, and is not kept", "not_kept", headers={"Retry-After": "2"})
