"""Generation by a hosted or self-hosted model: its name, its key, and the pool that its calls take.

A provider that speaks as OpenAI does is asked directly, every other one through litellm.
"""

from functools import partial

from raft.backends.hosted.calls import RequestPool
from raft.backends.hosted.errors import Transport
from raft.backends.hosted.litellm import LitellmTransport
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.openai_http import DirectTransport
from raft.backends.hosted.providers import (
    address_of,
    check_key,
    identity_of,
    key_of,
    litellm_key,
    no_address,
    provider_of,
    whole_address,
)
from raft.backends.hosted.rate_limit import RateLimiter
from raft.backends.vendors import fastest_loop
from raft.store.budget import Budget
from raft.text.secrets import shown_address


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
        identity: name, address and effort, which can change what is replied.
        exact: whether a reply counts for nothing that says that another model wrote it.
    """

    exact = False

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
        self.identity = identity_of(name, api_base, effort)
        self._direct, self._manners = provider_of(name).direct, Manners(name, effort)
        self._given, self._timeout = api_base, timeout
        self._limited = partial(
            RateLimiter, concurrency, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )

    def pool(self, budget: Budget) -> RequestPool:
        """Return what sends calls to this model and pays them from `budget`.

        Raises:
            UsageError: there is no key in the environment, or no address that can be asked.
        """
        self._given = whole_address(self.name, self._given)
        if self._direct and not self._address:
            raise no_address(self.name)
        check_key(self.name, self._given)
        return RequestPool(
            partial(self._transport, self._key()),
            limiter=self._limited(alone=not self._manners.met),
            budget=budget,
            model=self.name,
            where=shown_address(self._address or self.name),
            loop=fastest_loop,
            roomy=self._manners.roomy,
        )

    @property
    def _address(self) -> str | None:
        return address_of(self.name, self._given) if self._direct else self._given

    def _key(self) -> str | None:
        return (key_of if self._direct else litellm_key)(self.name, self._given)

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
            exact=self.exact,
        )
