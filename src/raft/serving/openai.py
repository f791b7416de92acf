"""OpenAI's chat completions: what a request asks, what cannot be honoured, and the form of answers and errors.

Of a request count `model`, the turns of the user, `user`, `stream`, `stream_options` and raft's own `raft`. A run has
its own prompt and its own way to answer, so turns of other roles (system prompts, answers of before) and what tunes a
model's writing (temperature, seed, max_tokens, stop, tools, response_format, ...) are read over. What would change the
kind of what comes back, and cannot be had, is refused: several choices, a tool that must be called, sound, pictures.

Each quote of an answer is an annotation `url_citation`, the one kind that OpenAI's schema of a message has: `url` is
the document's path with `#page=N` where it has pages, `title` says both for people, and the span is that of the whole
answer, which the quote supports. Where in the document it stands is in `raft.citations`.
"""

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from raft.api.http import Refused
from raft.curation.clean import RULES, Candidate
from raft.rag.format import spoken
from raft.rag.grounding import Answer, Citation
from raft.serving.engine import Answered, Source, Sources

MOST_MESSAGES, LONGEST_QUESTION, MOST_CHARACTERS = 512, 100_000, 400_000
"""Messages of a request, characters of its question, and of all messages together."""
_EARLIER = 1_000  # characters of turns before that a question is searched with
_LEANS = dict(RULES)["does not stand alone"]
_GOES_ON = re.compile(r"\W*(?:(?:and|but|or|so|also|then)\b|(?:what|how) about\b|\w+(?:\W+\w+)?\W*$)", re.IGNORECASE)
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        question: the last turn of the user.
        searched: what is searched for: the question, behind turns of before where it does not stand alone.
        streamed: piece by piece.
        usage: with a last piece of a stream that counts tokens.
        passages: with the passages that the model was shown.
        probe: asked by who watches the system, and not by a user: production answers it, and it is no traffic.
        user: who asks, as the caller calls them; "" where they say nothing.
        first: the first turn of the user.
        leans_on: the turns before that the question does not stand without, oldest first.
        worded: the question as a model has worded it (`serving.rewrite`), "" where it is the user's own.
    """

    question: str
    searched: str
    streamed: bool
    usage: bool
    passages: bool
    probe: bool = False
    user: str = ""
    first: str = ""
    leans_on: tuple[str, ...] = ()
    worded: str = ""


def read_request(body: Mapping[str, Any], names: Sequence[str]) -> Asked:
    """Return what a request asks for; `names` are those of the models that there are.

    Raises:
        Refused: there is no such model, something is no value of its kind, or cannot be honoured.
    """
    model = body.get("model")
    if not isinstance(model, str):
        raise _invalid("model", "the name of a model is missing")
    if model not in names:
        raise unknown_model(model, names)
    if body.get("n") not in (None, 1):
        raise _invalid("n", "one choice is answered, not several")
    if body.get("tool_choice") not in (None, "none", "auto") or body.get("function_call") not in (None, "none", "auto"):
        raise _invalid("tool_choice", "no tools are called here")
    if body.get("audio") is not None or body.get("modalities") not in (None, ["text"]):
        raise _invalid("modalities", "answers are text")
    turns = _turns(body.get("messages"))
    options = {name: _object(body, name) for name in ("stream_options", "raft")}
    flags = {"stream": body.get("stream"), "include_usage": options["stream_options"].get("include_usage")}
    flags |= {name: options["raft"].get(name) for name in ("passages", "probe")}
    for name, value in flags.items():
        if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
            raise _invalid(name, "it is true or false")
    user = body.get("user")
    if user is not None and not isinstance(user, str):
        raise _invalid("user", "it is text")
    *earlier, question = turns
    streamed, usage, passages, probe = (bool(value) for value in flags.values())
    leans_on = _leans_on(question, earlier)
    searched = "\n".join((*leans_on, question))
    return Asked(question, searched, streamed, usage, passages, probe, user or "", turns[0], leans_on)


def unknown_model(model: str, names: Sequence[str]) -> Refused:
    """Return the refusal of a model that there is none of."""
    return Refused(404, f"the model {model[:200]!r} does not exist; there is {' and '.join(names)}", "model_not_found")


def _turns(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "there are no messages")
    if len(messages) > MOST_MESSAGES:
        raise _invalid("messages", f"there are {len(messages):,} messages, and {MOST_MESSAGES} at most are read")
    turns, length, role = [], 0, None
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _invalid(f"messages[{place}]", "it is no message: a role and a content")
        role, text = message["role"], _text(message.get("content"), place)
        length += len(text)
        if length > MOST_CHARACTERS:
            raise _invalid("messages", f"they have more than {MOST_CHARACTERS:,} characters")
        if role == "user":
            turns.append(text.strip())
    if role != "user" or not turns[-1]:
        raise _invalid("messages", "the last message is no question of the user's")
    if len(turns[-1]) > LONGEST_QUESTION:
        raise _invalid("messages", f"the question has more than {LONGEST_QUESTION:,} characters")
    return turns


def _text(content: Any, place: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    where = f"messages[{place}].content"
    if not isinstance(content, list):
        raise _invalid(where, "it is neither text nor a list of parts")
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") in ("text", "refusal"):
            said = part.get(part["type"])
            if isinstance(said, str):
                parts.append(said)
                continue
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise _invalid(where, f"a part is {str(kind)[:40]!r}, and text alone is read")
    return "\n".join(parts)


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise _invalid(name, "it is no object")
    return value or {}


def _invalid(param: str, why: str) -> Refused:
    return Refused(400, f"{param}: {why}", "invalid_value", param=param)


def stands_alone(question: str) -> bool:
    """Tell whether a question can be searched for without what was said before it.

    The rule is that by which cleaning drops questions to learn from; nor may it begin in the middle of something ("And
    for trade customers?", "Why?").
    """
    candidate = Candidate("fact", question, "", False, "", 0, 0, 0, spoken(question, ()))
    return not (_LEANS(candidate) or _GOES_ON.match(question))


def _leans_on(question: str, earlier: Sequence[str]) -> tuple[str, ...]:
    """Return the turns before a question, back to one that stands alone; none where the question does itself."""
    found, now = list[str](), question
    for turn in reversed(earlier):
        if stands_alone(now) or sum(map(len, found)) + len(turn) > _EARLIER:
            break
        found.append(turn)
        now = turn
    return tuple(reversed(found))


def facts(reply_id: str, answered: Answered, *, passages: bool) -> dict[str, Any]:
    """Return what raft says of an answer beside it: the object `raft` of a reply."""
    answer, source = answered.answer, answered.source
    return {
        "id": reply_id,
        "version": source.version,
        "arm": answered.arm,
        "index": source.index,
        "system": source.system,
        "model": answer.model,
        "adapter": answer.adapter,
        "adapter_digest": source.adapter_digest,
        "supported": answer.supported,
        "abstained": answer.abstained,
        "refused": answer.refused,
        "relevance": answer.relevance,
        "min_relevance": answer.min_relevance,
        "citations": [_cited(one) for one in answer.citations],
        "cost": answer.cost,
        **({"passages": [asdict(one) for one in answer.passages]} if passages else {}),
    }


def _cited(one: Citation) -> dict[str, Any]:
    place = {"document": one.document, "page": one.page, "start": one.start, "end": one.end}
    return {**place, "quote": one.text, "chunk_id": one.chunk_id}


def annotations(answer: Answer) -> list[dict[str, Any]]:
    """Return the quotes of an answer as a message's annotations."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": 0,
                "end_index": len(answer.text),
                "url": quote(one.document) + (f"#page={one.page}" if one.page else ""),
                "title": one.place,
            },
        }
        for one in answer.citations
    ]


def usage(answer: Answer) -> dict[str, int]:
    """Return how many tokens an answer took."""
    read, written = answer.tokens.get("input", 0), answer.tokens.get("output", 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Reply:
    """The reply to one request, whole or in pieces; `name` is the model's.

    Attributes:
        id: by which feedback names it.
        begun: when the request came, in seconds since 1970.
    """

    def __init__(self, name: str, asked: Asked) -> None:
        self._asked, self.id, self.begun = asked, f"chatcmpl-{secrets.token_hex(12)}", time.time()
        self._head = {"id": self.id, "created": int(self.begun), "model": name}
        self._begun, self._since = False, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self._since

    def whole(self, answered: Answered) -> dict[str, Any]:
        """Return a whole reply."""
        answer, source = answered.answer, answered.source
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": annotations(answer)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _end(answer, source)}
        return self._of("chat.completion", [choice], usage=usage(answer), **self._facts(answered))

    def piece(self, text: str) -> dict[str, Any]:
        """Return a piece of a stream with some of the answer's text."""
        delta = {**({} if self._begun else {"role": "assistant"}), "content": text}
        self._begun = True
        return self._chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})

    def last(self, answered: Answered) -> Iterator[dict[str, Any]]:
        """Yield what ends a stream: a piece with annotations and `raft`; where it was asked for, one with the usage."""
        answer, source = answered.answer, answered.source
        delta, said = {"annotations": annotations(answer)}, self._facts(answered)
        yield self._chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": _end(answer, source)}, **said)
        if self._asked.usage:
            yield self._chunk(usage=usage(answer))

    def _facts(self, answered: Answered) -> dict[str, Any]:
        said = facts(self.id, answered, passages=self._asked.passages)
        said |= {"question": self._asked.worded} if self._asked.worded else {}
        fingerprint = f"{answered.answer.adapter or 'none'}-{answered.source.index[:12]}"
        return {"system_fingerprint": fingerprint, "raft": said}

    def _chunk(self, *choices: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self._of("chat.completion.chunk", list(choices), **more)

    def _of(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices, **more}


def _end(answer: Answer, source: Source) -> str:
    return "length" if answer.tokens.get("output", 0) >= source.longest else "stop"


def models(names: Iterable[str], sources: Sources, since: float) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [model(name, sources, since) for name in names]}


def model(name: str, sources: Sources, since: float) -> dict[str, Any]:
    """Return one model; its object `raft` says what answers in production, and which version is the candidate.

    `registry` in it says whether that goes by the run's registry.
    """
    now, candidate = sources.production, sources.candidate
    said = {
        "version": now.version,
        "adapter_digest": now.adapter_digest,
        "index": now.index,
        "model": now.answerer.model,
        "candidate": candidate.version if candidate else None,
        "registry": sources.follows,
    }
    return {"id": name, "object": "model", "created": int(since), "owned_by": "raft", "raft": said}


def error(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
