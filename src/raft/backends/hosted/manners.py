"""How a hosted model wants to be asked: what its endpoint has refused by name, and whether it thinks before it writes.

Both are learned once for a model, from a refusal that its words explain or from the first reply with thoughts in it, on
whatever road it is asked. What an ordinary model is sent never changes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raft.backends.asking import Reply, has_thoughts, without_system
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
_WIDE, _HERE = "room", "here"
"""What stands before a number of tokens that all requests, or this one, may not pass."""
_SCHEMA, _LIMIT, _TEMPERATURE, _EFFORT, _SYSTEM = "response_format", "max_tokens", "temperature", "effort", "system"
_WHOLE, _COUNTS = "whole", "counts"
"""A reply that is no stream, and the tokens at a stream's end."""
_OBJECTIONS: Mapping[str, re.Pattern[str]] = {
    _SCHEMA: re.compile(
        r"response_format|response_schema|json.?schema|json.?mode|structured output|guided|\bschema\b|\bgrammar\b|"
        r"additionalProperties|\bstrict\b",
        re.I,
    ),
    _LIMIT: re.compile(
        r"max_completion_tokens|(?:unrecogni[sz]ed|unknown|unsupported|unexpected|extra(?:_forbidden)?)\b"
        r"(?! (?:value|error)).{0,60}max_tokens",
        re.I | re.S,
    ),
    _TEMPERATURE: re.compile(r"\btemperature\b", re.I),
    _EFFORT: re.compile(r"\breasoning|\bthinking\b", re.I),
    _SYSTEM: re.compile(
        r"\bsystem\W{0,3}(?:role|message|prompt|instruction|turn)|\brole\b.{0,30}\bsystem\b|developer (?:role|instruct|"
        r"message)|roles? must alternate|only user and assistant|"
        r"'user' or 'assistant'|"
        r"role\b.{0,30}\bone of\W{0,4}(?:user|assistant)\W{1,6}(?:(?:and|or)\W{0,3})?(?:user|assistant)\b"
        r"(?!.*system)|(?:first|last) (?:message|turn|role)\b",
        re.I,
    ),
    _COUNTS: re.compile(r"stream_options|include_usage", re.I),
    _WHOLE: re.compile(
        r"(?:only|must|requires?|enable|non|set)\b.{0,30}\bstream|\bstream(?:ing)?\b.{0,30}\b(?:only|must|required|true)",
        re.I,
    ),
}
_ROOM_NAMED = re.compile(
    r"max.?(?:completion.?|new.?|output.?)?tokens|in the (?:completion|output)|completion tokens", re.I
)
_TOO_MUCH = re.compile(
    r"too (?:large|big|high|many)|at most|<=|exceed|range|between|maximum|greater than|less than|limit|\d > \d", re.I
)
_CONTEXT = re.compile(r"context.?(?:length|window|size)\D{0,40}(\d+)", re.I)
_READ = re.compile(
    r"(\d+) (?:input|prompt) tokens|"
    r"(\d+) (?:tokens )?(?:in|from|of) (?:the |your )?(?:messages|prompt|text input|input)"
    r"|(?:prompt|input|messages) (?:contains?|has|resulted in) (?:at least )?(\d+)",
    re.I,
)
_MOST = re.compile(
    r"(?:at most|up to|less than or equal to|<=|maximum(?: allowed)?(?: value)?(?: of| is|:)?|\[\s*\d+\s*,|"
    r"limit(?: of| is|:)?)\s*(\d+)",
    re.I,
)
_LEAST = 16  # tokens of a reply below which it is of no use to ask


@dataclass
class Manners:
    """What is known of one model; requests in flight share it.

    Attributes:
        name: `provider/model`.
        effort: how long it is to think, as the user wants it; None: as little as it can.
        refused: what requests to it leave out, or say otherwise, and efforts that it does not know.
        thinks: whether it writes thoughts before its replies.
        met: whether it has replied yet.
    """

    name: str
    effort: str | None = None
    refused: frozenset[str] = field(default_factory=frozenset)
    thinks: bool = False
    met: bool = False

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
        return without_system(request.messages) if _SYSTEM in refused else request.messages

    def options(self, request: Request, refused: frozenset[str]) -> dict[str, Any]:
        """Return the fields of a request beside model and turns."""
        most = self._most(request, refused)
        found: dict[str, Any] = {"max_completion_tokens" if _LIMIT in refused else "max_tokens": most}
        if _TEMPERATURE not in refused:
            found["temperature"] = request.temperature
        if request.schema is not None and _SCHEMA not in refused:
            schema = {"name": "reply", "schema": dict(request.schema), "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        if effort := self._effort(refused):
            found["reasoning_effort"] = effort
        if _WHOLE in refused:
            found |= {"stream": True} | ({} if _COUNTS in refused else {"stream_options": {"include_usage": True}})
        return found

    def objection(
        self, status: int, words: str, request: Request, refused: frozenset[str], *, plain: bool = True
    ) -> frozenset[str]:
        """Return what more an endpoint refuses of a request, beside what was `refused` before; nothing if unclear.

        `status` is the HTTP status of its refusal, `words` what it said with the field that it named; one that is not
        `plain` is about the request's length, which less room for the reply may mend.
        """
        if status not in (400, 422, 500, 501):
            return frozenset()
        if _ROOM_NAMED.search(words) and _TOO_MUCH.search(words):
            most = _less_room(words.replace(",", ""), self._most(request, refused))
            if most:  # where a reply would be cut, the next one may well have more room
                whole = most >= request.max_tokens - self.room
                return frozenset([f"{_WIDE if whole else _HERE} {most}"])
        if not plain:
            return frozenset()
        effort = self._effort(refused)
        sent = {
            _SCHEMA: request.schema is not None,
            _LIMIT: True,
            _TEMPERATURE: True,
            _EFFORT: effort is not None and self.effort is None,
            _SYSTEM: any(turn["role"] == "system" for turn in request.messages),
            _COUNTS: _WHOLE in refused,
            _WHOLE: True,
        }
        name = next((one for one in sent if sent[one] and one not in refused and _OBJECTIONS[one].search(words)), None)
        if name == _EFFORT:
            return frozenset(_LADDER[: _next_effort(_LADDER.index(effort or ""), words)])
        return frozenset([name] if name else [])

    def lasting(self, refused: frozenset[str]) -> frozenset[str]:
        """Return what of that which is `refused` is so for all requests."""
        return frozenset(one for one in refused if not one.startswith(_HERE))

    def learn(self, reply: Reply, refused: frozenset[str]) -> None:
        """Take note of how a reply came: what was `refused` before it is from now on, and thoughts come again."""
        self.met = True
        if not refused <= self.refused:
            self.refused |= self.lasting(refused)
        if not self.thinks and has_thoughts(reply.text):
            self.thinks = True

    def _most(self, request: Request, refused: Iterable[str]) -> int:
        rooms = (int(one.partition(" ")[2]) for one in refused if one.startswith((_WIDE, _HERE)))
        return min((request.max_tokens, *rooms))

    def _effort(self, refused: Iterable[str]) -> str | None:
        if self.effort is not None or not self.thinks:
            return self.effort
        return next((level for level in _LADDER if level not in refused), None)


def _next_effort(place: int, words: str) -> int:
    """Return the place of the next least effort that a refusal names, or leaves open; past the end: there is none."""
    named = [later for later in range(place + 1, len(_LADDER)) if re.search(rf"\b{_LADDER[later]}\b", words)]
    return named[0] if named else len(_LADDER) if _UNKNOWN_FIELD.search(words) else place + 1


def _less_room(words: str, sent: int) -> int | None:
    """Return the most tokens of a reply that a refusal of `sent` leaves; None where the prompt alone is too long."""
    context, read, most = _CONTEXT.search(words), _READ.search(words), _MOST.search(words)
    if context and read:
        left = int(context[1]) - int(next(filter(None, read.groups())))
    elif context:
        asked = [number for number in map(int, re.findall(r"\d+", words)) if number > max(sent, int(context[1]))]
        left = int(context[1]) - (asked[0] - sent) if asked else sent // 2
    else:
        left = int(most[1]) if most and int(most[1]) < sent else sent // 2
    return left if _LEAST <= left < sent else None
