"""How a hosted model wants to be asked: what its endpoint has refused by name, and whether it thinks before it writes.

Both are learned once for a model, from a refusal that its words explain or from the first reply with thoughts in it, on
whatever road it is asked. What an ordinary model is sent never changes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raft.backends.asking import Reply, has_thoughts
from raft.backends.hosted.providers import listed
from raft.protocols import Message, Request

_ROOM = {"medium": 8_000, "high": 16_000}
MOST_ROOM = max(_ROOM.values())
_LEAST_ROOM = 4_000
"""Tokens that a reasoning model gets for its thoughts beside the reply's own."""

_LADDER = ("none", "minimal", "low")
_UNKNOWN_FIELD = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported param|extra (?:inputs|fields)|not permitted", re.I
)
_SCHEMA, _LIMIT, _TEMPERATURE, _EFFORT, _SYSTEM = "response_format", "max_tokens", "temperature", "effort", "system"
_OBJECTIONS: Mapping[str, re.Pattern[str]] = {
    _SCHEMA: re.compile(r"response_format|json_schema|structured output|guided|\bschema\b", re.I),
    _LIMIT: re.compile(r"max_completion_tokens"),
    _TEMPERATURE: re.compile(r"\btemperature\b", re.I),
    _EFFORT: re.compile(r"\breasoning|\bthinking\b", re.I),
    _SYSTEM: re.compile(
        r"\bsystem\W{0,3}(?:role|message|prompt|instruction|turn)|\brole\b.{0,30}\bsystem\b|developer (?:role|instruct|"
        r"message)|roles must alternate",
        re.I,
    ),
}


@dataclass
class Manners:
    """What is known of one model; requests in flight share it.

    Attributes:
        name: `provider/model`.
        effort: how long it is to think, as the user wants it; None: as little as it can.
        refused: what requests to it leave out, or say otherwise, and efforts that it does not know.
        thinks: whether it writes thoughts before its replies.
    """

    name: str
    effort: str | None = None
    refused: frozenset[str] = field(default_factory=frozenset)
    thinks: bool = False

    def __post_init__(self) -> None:
        known = listed(self.name)
        self.thinks = self.effort is not None or bool(known.get("supports_reasoning"))
        self.refused |= {level for level in _LADDER if known.get(f"supports_{level}_reasoning_effort") is False}

    @property
    def room(self) -> int:
        """Tokens that its replies need for thoughts."""
        return _ROOM.get(self.effort or "", _LEAST_ROOM) if self.thinks else 0

    def roomy(self, request: Request) -> Request:
        """Return what is sent for a request: with room for thoughts, which is paid for and counts in the worst case."""
        return replace(request, max_tokens=request.max_tokens + self.room) if self.thinks else request

    def messages(self, request: Request, refused: Iterable[str]) -> tuple[Message, ...]:
        """Return the turns of a request; where system turns are refused, the turn that follows begins with them."""
        if _SYSTEM not in refused:
            return request.messages
        system = [turn["content"] for turn in request.messages if turn["role"] == "system"]
        rest = [turn for turn in request.messages if turn["role"] != "system"]
        if not rest:
            return ({"role": "user", "content": "\n\n".join(system)},)
        return {**rest[0], "content": "\n\n".join([*system, rest[0]["content"]])}, *rest[1:]

    def options(self, request: Request, refused: frozenset[str]) -> dict[str, Any]:
        """Return the fields of a request beside model and turns."""
        found: dict[str, Any] = {"max_completion_tokens" if _LIMIT in refused else "max_tokens": request.max_tokens}
        if _TEMPERATURE not in refused:
            found["temperature"] = request.temperature
        if request.schema is not None and _SCHEMA not in refused:
            schema = {"name": "reply", "schema": dict(request.schema), "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        if effort := self._effort(refused):
            found["reasoning_effort"] = effort
        return found

    def objection(self, status: int, words: str, request: Request, refused: frozenset[str]) -> frozenset[str]:
        """Return what more an endpoint refuses of a request, beside what was `refused` before; nothing if unclear.

        `status` is the HTTP status of its refusal, `words` what it said with the field that it named.
        """
        if status not in (400, 422, 500, 501):
            return frozenset()
        effort = self._effort(refused)
        sent = {
            _SCHEMA: request.schema is not None,
            _LIMIT: True,
            _TEMPERATURE: True,
            _EFFORT: effort is not None and self.effort is None,
            _SYSTEM: any(turn["role"] == "system" for turn in request.messages),
        }
        name = next((one for one in sent if sent[one] and one not in refused and _OBJECTIONS[one].search(words)), None)
        if name == _EFFORT:
            return frozenset(_LADDER[: _next_effort(_LADDER.index(effort or ""), words)])
        return frozenset([name] if name else [])

    def learn(self, reply: Reply, refused: frozenset[str]) -> None:
        """Take note of how a reply came: what was `refused` before it is from now on, and thoughts come again."""
        if not refused <= self.refused:
            self.refused |= refused
        if not self.thinks and has_thoughts(reply.text):
            self.thinks = True

    def _effort(self, refused: Iterable[str]) -> str | None:
        if self.effort is not None or not self.thinks:
            return self.effort
        return next((level for level in _LADDER if level not in refused), None)


def _next_effort(place: int, words: str) -> int:
    """Return the place of the next least effort that a refusal names, or leaves open; past the end: there is none."""
    named = [later for later in range(place + 1, len(_LADDER)) if re.search(rf"\b{_LADDER[later]}\b", words)]
    return named[0] if named else len(_LADDER) if _UNKNOWN_FIELD.search(words) else place + 1
