"""Generation by a hosted or self-hosted model: its name, its key, and the pool that its calls take.

A provider that speaks as OpenAI does is asked directly, every other one through litellm.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from raft.backends.asking import Reply
from raft.backends.hosted.calls import Call, Outcome, RequestPool
from raft.backends.hosted.errors import Transport
from raft.backends.hosted.litellm import LitellmTransport
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.openai_http import DirectTransport
from raft.backends.hosted.providers import address_of, identity_of, key_of, list_price, no_address, no_key, provider_of
from raft.backends.hosted.rate_limit import RateLimiter
from raft.backends.vendors import fastest_loop, import_litellm
from raft.protocols import Failure, Request
from raft.store.budget import Budget
from raft.store.ledger import Ledger


class HostedModel:
    """A chat model at an endpoint.

    Args:
        name: `provider/model`, for example `openai/gpt-4o-mini`.
        api_base: address of a self-hosted endpoint.
        concurrency: most requests in flight.
        timeout: seconds for one reply.
        requests_per_minute: most requests a minute; None for what the endpoint takes.
        tokens_per_minute: most tokens a minute; None for what the endpoint takes.
        effort: how long a reasoning model thinks; None: as little as it can.

    Attributes:
        name: as given.
        identity: name, address and effort, which can change what is replied.
        concurrency: as given.
        window: how many requests `answer` is given together.
    """

    def __init__(
        self,
        name: str,
        *,
        api_base: str | None,
        concurrency: int,
        timeout: float,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        effort: str | None = None,
    ) -> None:
        self.name, self.concurrency = name, concurrency
        self.identity = identity_of(name, api_base) + (f" effort={effort}" if effort else "")
        self.window = concurrency * 16
        self._direct, self._manners = provider_of(name).direct, Manners(name, effort)
        self._given, self._timeout = api_base, timeout
        self._idle: RequestPool | None = None
        self._limited = partial(
            RateLimiter, concurrency, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )

    def pool(self, budget: Budget) -> RequestPool:
        """Return what sends calls to this model and pays them from `budget`.

        Raises:
            UsageError: there is no key in the environment, or no address.
        """
        if self._direct and not self._address:
            raise no_address(self.name)
        key = self._key()
        where = self._address or self.name
        return RequestPool(
            partial(self._transport, key),
            limiter=self._limited(),
            budget=budget,
            model=self.name,
            where=where,
            loop=fastest_loop,
            roomy=self._manners.roomy,
        )

    def answer(self, calls: Sequence[Request], wanted: Sequence[bool]) -> Iterator[list[tuple[int, Reply | Failure]]]:
        """Answer those `calls` that are `wanted`, several at a time, each as soon as it is there; nothing is kept.

        Raises:
            UsageError: the key is missing or wrong, or the provider does not know the model.
            RaftError: the endpoint cannot be reached, or stays overloaded.
        """
        waiting = deque(Call(str(i), call, 0) for i, call in enumerate(calls) if wanted[i])
        left = len(waiting)
        if not left:
            return
        # connections outlive one answer, whose time would else be that of opening them; two answers at once share none
        pool, self._idle = self._idle or self._ready(), None
        try:
            while left:
                while waiting and pool.room:
                    pool.submit(waiting.popleft())
                came = pool.collect()
                left -= len(came)
                yield [_placed(call, outcome) for call, outcome in came]
        except KeyboardInterrupt:
            if rest := pool.drain():  # they are being paid for, and the caller may keep them
                yield [_placed(call, outcome) for call, outcome in rest]
            raise
        finally:
            if left:
                pool.drain()
                pool.close()
            else:
                self._idle = pool

    def close(self) -> None:
        """Close the connections that `answer` left open."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _ready(self) -> RequestPool:
        ledger = Ledger(Path(":memory:"))
        return self.pool(Budget(ledger, run="", model=self.name, price=list_price(self.name), cap=None)).__enter__()

    @property
    def _address(self) -> str | None:
        return address_of(self.name, self._given) if self._direct else self._given

    def _key(self) -> str | None:
        if self._direct:
            return key_of(self.name, self._given)
        needed = import_litellm().validate_environment(self.name)["missing_keys"]
        missing = tuple(name for name in needed if name.endswith("_API_KEY"))
        if not missing:
            return None
        if self._given:
            return "none"  # it may need none, but litellm does not ask it without one
        raise no_key(self.name, missing)

    def _transport(self, key: str | None) -> Transport:
        if not self._direct:
            return LitellmTransport(
                self.name, api_base=self._given, key=key, timeout=self._timeout, manners=self._manners
            )
        return DirectTransport(
            self.name,
            api_base=self._address or "",
            key=key,
            timeout=self._timeout,
            connections=self.concurrency,
            manners=self._manners,
        )


def _placed(call: Call, outcome: Outcome) -> tuple[int, Reply | Failure]:
    if isinstance(outcome, Failure):
        return int(call.key), outcome
    reply = Reply(
        text=outcome.reply,
        finish_reason=outcome.finish_reason,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        cost=outcome.cost,
        seconds=outcome.seconds,
    )
    return int(call.key), reply
