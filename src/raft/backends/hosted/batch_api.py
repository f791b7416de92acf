"""A provider's batch endpoint through litellm: files of requests up, batches made and found, files of replies down.

tenacity alone retries; litellm's own retries are off. What could not be done is a `Fault`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import sleep
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential

from raft.backends.asking import Reply
from raft.backends.hosted.errors import Fault, NoEndpoint, RateLimited, Transient
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.openai_http import fault, is_plain, read_error, read_reply
from raft.backends.hosted.providers import PROVIDERS, litellm_key, no_address, whole_address
from raft.backends.vendors import import_litellm
from raft.errors import UsageError
from raft.protocols import Request
from raft.store.batches import Batch

_TRIES, _PATIENCE_SECONDS = 8, 600.0
_SETTLING_SECONDS = 10.0  # after which a batch that was made is surely in the provider's list
_CLOCKS_APART = 3600.0
_PAGES = 50
_NAMED = "raft_batch"


@dataclass(frozen=True)
class Stand:
    """How far a batch is at its provider.

    `status` is "validating", "in_progress", "finalizing", "cancelling", or an end: "completed", "failed" (nothing was
    done), "expired" or "cancelled" (some of it may have been done). `done`, `failed` and `total` count requests,
    `files` are names of files of replies and errors, `words` and `code` tell why it failed.
    """

    status: str
    done: int
    failed: int
    total: int
    files: tuple[str, ...]
    words: str
    code: str

    @property
    def over(self) -> bool:
        """Whether nothing more will be done."""
        return self.status in ("completed", "failed", "expired", "cancelled")


class Unlisted(Exception):
    """The provider does not say which batches it has."""


class BatchProvider:
    """The batch endpoint of a model's provider; arguments are those of `BatchModel`.

    Attributes:
        manners: how the model wants to be asked, as far as is known.

    Raises:
        UsageError: litellm does not know the provider or its batches, or there is no key.
    """

    def __init__(self, name: str, *, api_base: str | None, timeout: float, effort: str | None = None) -> None:
        self.litellm, api_base = import_litellm(), whole_address(name, api_base)
        try:
            self._model, provider, key, base = self.litellm.get_llm_provider(name, api_base=api_base)
        except self.litellm.exceptions.BadRequestError:
            hint = "--set generator.batch_endpoint=false   (asks the model directly)"
            raise UsageError(f"litellm does not know {name}.", where=name, hint=hint) from None
        if provider not in PROVIDERS or not PROVIDERS[provider].batches:
            able = ", ".join(one for one, known in PROVIDERS.items() if known.batches)
            raise UsageError(
                f"raft cannot use the batch endpoint of {provider}; it can use those of {able}.",
                where="generator.batch_endpoint",
                hint="--set generator.batch_endpoint=false",
            )
        own = PROVIDERS[provider].direct and PROVIDERS[provider].address is None
        if own and not (api_base or base):  # litellm would ask OpenAI instead
            raise no_address(name)
        self.manners = Manners(name, effort)
        if not self.litellm.supports_response_schema(model=name):
            self.manners.refused |= {"response_format"}
        self._name, self._provider = name, provider
        self._reach = {
            "custom_llm_provider": provider,
            "api_base": api_base or base,
            "api_key": (key or "none") if own else litellm_key(name, api_base),
            "timeout": timeout,
            "max_retries": 0,
            "num_retries": 0,
        }
        self._options: dict[str, dict[str, Any]] = {}

    def line(self, key: str, request: Request) -> bytes:
        """Return the line of a file of requests that asks one, under the name `key`."""
        turns = self.manners.messages(request, self.manners.refused)
        body = {"model": self._model, "messages": list(turns), **self._translated(request)}
        asked = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(asked, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def upload(self, lines: list[bytes]) -> str:
        """Upload a file of requests and return its name; nothing is billed for it."""
        file = ("raft.jsonl", b"".join(lines), "application/jsonl")
        return str(self._patiently(lambda: self.litellm.create_file(file=file, purpose="batch", **self._reach)).id)

    def make(self, batch: Batch) -> str:
        """Make a batch of an uploaded file, once, and return its id.

        Where an attempt failed and may have been heard, the provider's list says whether it was.

        Raises:
            Unlisted: such an attempt failed, and the provider has no list.
            RateLimited, Transient: it failed again and again; it may have been made.
            Rejected, AccessDenied: it was not made.
        """
        tried = False

        def work() -> str:
            nonlocal tried
            if tried and (found := self._find(batch)):
                return found
            tried = True
            made = self.litellm.create_batch(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=batch.file,
                metadata={_NAMED: batch.name},
                **self._reach,
            )
            return str(made.id)

        return str(self._patiently(work))

    def find(self, batch: Batch) -> str | None:
        """Return the id of a batch that may have been made, None where it was not.

        Raises:
            Unlisted: the provider has no list.
        """
        found: str | None = self._patiently(lambda: self._find(batch))
        return found

    def look(self, name: str) -> Stand | None:
        """Return how far the batch `name` is, None where the provider does not know it."""
        seen = self._patiently(lambda: self.litellm.retrieve_batch(batch_id=name, **self._reach), missing=None)
        if seen is None:
            return None
        counts, errors = seen.request_counts, getattr(seen.errors, "data", None) or []
        return Stand(
            status=seen.status,
            done=getattr(counts, "completed", 0),
            failed=getattr(counts, "failed", 0),
            total=getattr(counts, "total", 0),
            files=tuple(file for file in (seen.output_file_id, seen.error_file_id) if file),
            words="; ".join(str(one.message) for one in errors[:3]) or seen.status,
            code=str(errors[0].code if errors else ""),
        )

    def read(self, stand: Stand) -> Iterator[tuple[str, Reply | Fault]]:
        """Yield what a batch that is over has for each request: its name with a reply, or why there is none."""
        for file in stand.files:
            content = partial(self.litellm.file_content, file_id=file, **self._reach)
            got = self._patiently(content, missing=None)
            for line in (got.content if got is not None else b"").splitlines():
                try:
                    row = json.loads(line)
                    key, response = row["custom_id"], row.get("response")
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue
                yield key, _outcome(response if isinstance(response, dict) else {}, row.get("error"))

    def _find(self, batch: Batch) -> str | None:
        sleep(_SETTLING_SECONDS)
        after = None
        for _ in range(_PAGES):
            try:
                page = self.litellm.list_batches(after=after, limit=100, **self._reach)
            except Exception as error:
                if getattr(error, "status_code", None) in (400, 404, 405, 501):
                    raise Unlisted from None
                raise
            for one in page.data:
                named = (one.metadata or {}).get(_NAMED)
                if named == batch.name or (batch.file is not None and one.input_file_id == batch.file):
                    return str(one.id)
            if not page.data or not page.has_more or page.data[-1].created_at < batch.created - _CLOCKS_APART:
                return None
            after = page.data[-1].id
        return None

    def _patiently(self, work: Callable[[], Any], **otherwise: Any) -> Any:
        """Do what may fail, several times where waiting can mend it; `missing` is returned for what is not there."""
        from httpx import TransportError
        from openai import OpenAIError

        def once() -> Any:
            try:
                return work()
            except (OpenAIError, TransportError, json.JSONDecodeError) as error:
                if "missing" in otherwise and getattr(error, "status_code", None) == 404:
                    return otherwise["missing"]
                raise _meaning(error) from None

        retrying = Retrying(
            retry=retry_if_exception_type((RateLimited, Transient)),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_attempt(_TRIES) | stop_after_delay(_PATIENCE_SECONDS),
            sleep=sleep,
            reraise=True,
        )
        return retrying(once)

    def _translated(self, request: Request) -> dict[str, Any]:
        # what the model calls its limit of tokens, and what it takes; the same for most requests
        known = json.dumps(
            [request.max_tokens, request.temperature, request.schema, sorted(self.manners.refused)], sort_keys=True
        )
        if known not in self._options:
            asked = self.manners.options(request, self.manners.refused)
            options = self._patiently(
                lambda: self.litellm.utils.get_optional_params(
                    model=self._model, custom_llm_provider=self._provider, drop_params=True, **asked
                )
            )
            self._options[known] = {k: v for k, v in options.items() if k not in ("extra_body", "stream")}
        return self._options[known]

    def adapts(self, refusal: Fault, request: Request, refused: frozenset[str]) -> bool:
        """Tell whether to ask a request again as its refusal wants, whose batch was made when `refused` was known."""
        more = self.manners.objection(400, str(refusal), request, refused, plain=is_plain(refusal))
        more = self.manners.lasting(more)
        self.manners.refused |= more
        return bool(more)


def _meaning(error: Exception) -> Fault:
    status, body = getattr(error, "status_code", None), getattr(error, "body", None)
    if not isinstance(status, int):
        return Transient(str(error) or type(error).__name__, billed=False)
    words, code = read_error(json.dumps(body).encode(), status) if isinstance(body, dict) else (str(error), "")
    return fault(status, words, code=code)


def _outcome(response: dict[str, Any], error: Any) -> Reply | Fault:
    status, data = response.get("status_code"), json.dumps(response.get("body")).encode()
    if error or not isinstance(status, int):
        words = error.get("message") if isinstance(error, dict) else error
        return Transient(str(words or "no reply came"), billed=False)
    if status != 200:
        words, code = read_error(data, status)
        return fault(status, words, code=code)
    try:
        return read_reply(data, 0.0)
    except NoEndpoint as odd:  # what answers batches is one: this line alone is of no use
        return Transient(odd.words, billed=True)
    except Fault as meant:
        return meant
