"""Any hosted model that litellm knows, with what litellm does around a call left out.

A third to a half of the processor time of `litellm.acompletion` goes into reckoning costs and into logs that nobody
reads. A log that notes nothing is given to it instead, and the function under its wrappers is called; where a litellm
of another version has no such places, its public function is called as it is.
"""

import asyncio
import inspect
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from raft.backends.asking import Reply
from raft.backends.hosted import openai_http as wire
from raft.backends.hosted.errors import AccessDenied, Fault, NoEndpoint, Rejected, Transient
from raft.backends.hosted.manners import Manners
from raft.backends.vendors import import_litellm
from raft.protocols import Request

_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)(?:: | - ))+")
_NO_COMPLETION = re.compile(
    r"invalid response from LLM endpoint. Received: '(.*)'|(provider returned 'choices'.*)", re.S
)
_NOT_SENT = ("ClientConnectorError", "ClientConnectorDNSError", "ConnectionTimeoutError", "ConnectError", "gaierror")
"""Names of errors, of aiohttp, httpx and Python, after which no provider has seen the request."""


class LitellmTransport:
    """Sends requests to a provider through litellm, whose own retries are off.

    Args:
        name: `provider/model`.
        api_base: the address of a self-hosted endpoint; None: the provider's.
        key: the provider's key; None: litellm looks into the environment.
        timeout: seconds for one reply.
        manners: how the model wants to be asked, as far as is known; None: nothing is.
    """

    def __init__(
        self, name: str, *, api_base: str | None, key: str | None, timeout: float, manners: Manners | None = None
    ) -> None:
        self._name, self._key, self._timeout = name, key, timeout
        self._litellm = import_litellm()
        self._options = {
            "model": name,
            "api_base": api_base,
            "api_key": key,
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,  # a temperature that a model does not take is no reason to ask nothing
        }
        self._manners = manners or Manners(name)
        if not self._litellm.supports_response_schema(model=name):
            self._manners.refused |= {"response_format"}
        self._complete = inspect.unwrap(self._litellm.acompletion)
        self._log = _silent_log(self._litellm)
        self.limits: Mapping[str, float] = {}

    async def send(self, request: Request) -> Reply:
        """Return the reply to one request; see `Transport.send` for what is raised.

        What the provider turns down by name is left out or said otherwise in another try at once, and from then on.
        """
        refused: frozenset[str] = frozenset()
        while True:
            refused |= self._manners.refused
            begun = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    response = await self._call(request, refused)
            except TimeoutError:
                raise Transient(f"no reply of {self._name} within {self._timeout:g} seconds", billed=True) from None
            except Transient:
                raise
            except Exception as error:
                words, code = self._words(error)
                found = self._fault(error, words, code)
                status = getattr(error, "status_code", None) or 0
                more = self._manners.objection(status, words, request, refused, plain=wire.is_plain(found))
                if not more:
                    raise found from None
                refused |= more
                continue
            reply = self._reply(response, time.monotonic() - begun)
            self._manners.learn(reply, refused)
            return reply

    async def close(self) -> None:
        """Close the connections that litellm holds open in this event loop."""
        loop = asyncio.get_running_loop()
        cache = getattr(getattr(self._litellm, "in_memory_llm_clients_cache", None), "cache_dict", {})
        for handler in list(cache.values()):
            client = getattr(handler, "client", None) or getattr(handler, "_client", None)
            session = getattr(getattr(client, "_transport", None), "client", None)
            if getattr(session, "_loop", None) is loop:
                await session.close()  # type: ignore[union-attr]

    async def _call(self, request: Request, refused: frozenset[str]) -> Any:
        options = self._manners.options(request, refused)
        messages = [dict(message) for message in self._manners.messages(request, refused)]
        if self._log is None or "stream" in options:
            came = await self._litellm.acompletion(messages=messages, **options, **self._options)
            if "stream" not in options:
                return came
            pieces = [one async for one in came]
            if getattr(came, "received_finish_reason", "stop") is None:  # litellm puts an end of its own to it
                raise Transient("the stream broke off before its end", billed=True)
            return self._litellm.stream_chunk_builder(pieces)
        log = self._log(self._name, messages)
        return await self._complete(messages=messages, litellm_logging_obj=log, **options, **self._options)

    def _reply(self, response: Any, seconds: float) -> Reply:
        self._listen(response)
        usage = getattr(response, "usage", None)
        tokens = wire.read_usage({name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")})
        choices = getattr(response, "choices", None)
        if not choices:
            return Reply("", "empty", *tokens, None, seconds)
        if isinstance(broken := (getattr(choices[0], "provider_specific_fields", None) or {}).get("error"), dict):
            raise wire.choice_fault(broken)
        told = choices[0].message
        message = {name: getattr(told, name, None) for name in ("content", "refusal", "reasoning_content")}
        message |= getattr(told, "provider_specific_fields", None) or {}
        for name in ("tool_calls", "function_call"):
            if called := getattr(told, name, None):
                message[name] = [one.model_dump() for one in called] if name == "tool_calls" else called.model_dump()
        text, finish = wire.read_message(message, choices[0].finish_reason or "stop")
        return Reply(text, finish, *tokens, None, seconds)

    def _listen(self, response: Any) -> None:
        hidden = getattr(response, "_hidden_params", None) or {}
        headers = hidden.get("additional_headers") or {}
        if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
            self.limits = {**self.limits, **wire.read_limits(headers)}

    def _fault(self, error: Exception, words: str, code: str) -> Fault:
        kinds = {type(one).__name__ for one in _chain(error)}
        headers = getattr(error, "litellm_response_headers", None)
        status = getattr(error, "status_code", None)
        bodies = [one.doc for one in _chain(error) if isinstance(one, json.JSONDecodeError)]
        bodies += [found[1] or found[2] for found in [_NO_COMPLETION.search(str(error))] if found]
        if bodies and isinstance(found := wire.no_reply(bodies[0]), NoEndpoint):
            return found
        if kinds & {"ModuleNotFoundError", "ImportError"} or "LLM Provider NOT provided" in words:
            return AccessDenied(words)
        for name, kind in (("ContextWindowExceededError", "too long"), ("ContentPolicyViolationError", "refused")):
            if name in kinds:
                return Rejected(words, kind=kind)
        if isinstance(status, int) and (headers or 400 <= status < 500) and status not in (200, 408):
            return wire.fault(status, words, code=code, retry_after=wire.retry_after(headers or {}, words))
        return Transient(words, billed=was_sent(error), reached=was_sent(error))

    def _words(self, error: Exception) -> tuple[str, str]:
        for one in _chain(error):  # what came, before anybody put it into other words
            response: Any = getattr(one, "response", None)
            if raw := getattr(response, "content", None):
                words, code = wire.read_error(raw, response.status_code)
                return (words.replace(self._key, "***") if self._key else words), code
        message = str(getattr(error, "message", "") or error)
        words, code = _PREFIX.sub("", message), ""
        brace = words.find("{")
        if brace >= 0:
            end = words.rfind("}") + 1
            told, code = wire.read_error(words[brace:end].encode("utf-8", "replace"), 0)
            words = told if code or not told.startswith(("{", "HTTP status 0")) else words
        body = getattr(error, "body", None)
        if isinstance(body, dict):
            code = str(body.get("code") or body.get("type") or code)
            words = f"{words} ({body['param']})" if body.get("param") else words
        words = words.replace(self._key, "***") if self._key else words
        return words or type(error).__name__, code


def was_sent(error: BaseException) -> bool:
    """Tell whether a provider may have seen the request that ended in an error."""
    return {type(one).__name__ for one in _chain(error)}.isdisjoint(_NOT_SENT)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error with all that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _silent_log(litellm: Any) -> Callable[[str, list[dict[str, str]]], Any] | None:
    """Return what makes the log of one call that notes nothing and reckons no cost; None where litellm takes none."""
    try:
        from litellm.litellm_core_utils.litellm_logging import Logging
    except ImportError:
        return None

    def nothing(*_: object, **__: object) -> None: ...

    base: Any = Logging
    kind = type("SilentLog", (base,), {"pre_call": nothing, "post_call": nothing})

    def make(model: str, messages: list[dict[str, str]]) -> Any:
        log = kind(
            model=model,
            messages=messages,
            stream=False,
            call_type="acompletion",
            start_time=datetime.now(),  # litellm subtracts it from other naive times
            litellm_call_id="",
            function_id="",
            kwargs={},
        )
        log.update_environment_variables(model=model, user="", optional_params={}, litellm_params={"api_base": ""})
        return log

    try:
        make("openai/none", [])
    except (TypeError, AttributeError, KeyError):
        return None
    return make
