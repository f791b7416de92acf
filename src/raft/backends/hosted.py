"""Generation by a hosted or self-hosted model, through litellm.

One layer of retries (tenacity, exponential with jitter, transient errors only; litellm's own are off). An endpoint
that stays out of reach stops the run, since its replies are only postponed; what was answered is in the ledger.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from raft.backends.asking import Reply
from raft.backends.quiet import import_litellm
from raft.errors import RaftError, UsageError
from raft.protocols import Failure, Request

_TRIES, _PATIENCE_SECONDS = 8, 600.0


class HostedModel:
    """A chat model behind litellm.

    Args:
        name: `provider/model`, for example `openai/gpt-4o-mini`.
        api_base: address of a self-hosted endpoint.
        concurrency: requests in flight.
        timeout: seconds for one reply.

    Raises:
        UsageError: litellm does not know the provider.
    """

    def __init__(self, name: str, *, api_base: str | None, concurrency: int, timeout: float) -> None:
        self.name = name
        self.identity = f"{name}@{api_base}" if api_base else name
        self.window = concurrency * 16
        self._api_base, self._concurrency, self._timeout = api_base, concurrency, timeout
        self._key: str | None = None
        self._litellm: Any = None

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, several at a time, each as soon as it is there.

        Raises:
            UsageError: the key is missing or wrong, or the provider does not know the model.
            RaftError: the endpoint cannot be reached, or stays overloaded.
        """
        self._litellm = self._litellm or import_litellm()
        self._check_key()
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._concurrency)
        flying = {pool.submit(self._ask, call, stop): i for i, call in enumerate(calls) if wanted[i]}
        waiting = set(flying)
        try:
            for done in as_completed(flying):
                waiting.discard(done)
                yield [(flying[done], done.result())]
        except RaftError:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for late in waiting:  # they are paid for
                if not late.cancelled() and late.exception() is None:
                    yield [(flying[late], late.result())]
            raise
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _check_key(self) -> None:
        needed = self._litellm.validate_environment(self.name)["missing_keys"]
        missing = [name for name in needed if name.endswith("_API_KEY")]
        if missing and self._api_base:
            self._key = "none"  # a self-hosted endpoint needs no key, but litellm does not ask it without one
        elif missing:
            raise UsageError(
                f"There is no key for {self.name} in the environment.",
                where=", ".join(missing),
                hint=f"export {missing[0]}=...",
            )

    def _ask(self, call: Request, stop: threading.Event) -> Reply | Failure:
        errors = self._litellm.exceptions
        transient = (
            errors.RateLimitError,
            errors.APIConnectionError,
            errors.Timeout,
            errors.InternalServerError,
            errors.ServiceUnavailableError,
            errors.BadGatewayError,
        )
        retrying = Retrying(
            retry=retry_if_exception_type(transient),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_attempt(_TRIES) | stop_after_delay(_PATIENCE_SECONDS) | stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            reraise=True,
        )
        try:
            return retrying(self._complete, call)
        except (errors.AuthenticationError, errors.NotFoundError, errors.PermissionDeniedError) as error:
            raise self._refusal(error) from None
        except transient as error:
            raise RaftError(
                f"The endpoint of {self.name} does not answer: {_words(error)}",
                where=self._api_base or self.name,
                hint="run the same command again later: replies that came are kept and not paid for twice",
            ) from None
        except errors.ContentPolicyViolationError as error:
            return Failure("refused", _words(error))
        except errors.ContextWindowExceededError as error:
            return Failure("too long", _words(error))
        except errors.BadRequestError as error:
            if "LLM Provider NOT provided" in str(error):
                raise UsageError(f"litellm does not know {self.name}: {_words(error)}", where=self.name) from None
            return Failure("refused", _words(error))
        except errors.APIError as error:
            if getattr(error, "status_code", None) in (401, 403):
                raise self._refusal(error) from None
            raise RaftError(f"The endpoint of {self.name} fails: {_words(error)}", where=self.name) from None

    def _refusal(self, error: Exception) -> UsageError:
        return UsageError(
            f"The provider refuses {self.name}: {_words(error)}",
            where=self._api_base or self.name,
            hint="check the model's name and the key in the environment, for example OPENAI_API_KEY",
        )

    def _complete(self, call: Request) -> Reply:
        begun = time.monotonic()
        options: dict[str, Any] = {}
        if call.schema is not None and self._litellm.supports_response_schema(model=self.name):
            schema = {"name": "reply", "schema": dict(call.schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        response = self._litellm.completion(
            model=self.name,
            messages=list(call.messages),
            max_tokens=call.max_tokens,
            temperature=call.temperature,
            api_base=self._api_base,
            api_key=self._key,
            timeout=self._timeout,
            num_retries=0,
            max_retries=0,
            **options,
        )
        if not response.choices:
            return Reply("", "empty", 0, 0, self._cost(response), time.monotonic() - begun)
        usage = getattr(response, "usage", None)
        return Reply(
            text=response.choices[0].message.content or "",
            finish_reason=response.choices[0].finish_reason or "stop",
            input_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            output_tokens=getattr(usage, "completion_tokens", 0) or 0,
            cost=self._cost(response),
            seconds=time.monotonic() - begun,
        )

    def _cost(self, response: Any) -> float | None:
        try:
            return float(self._litellm.completion_cost(completion_response=response, model=self.name))
        except Exception:  # litellm raises a bare Exception for a model whose price it does not know
            return None


def _words(error: Exception) -> str:
    return str(getattr(error, "message", error)).splitlines()[0][:500]
