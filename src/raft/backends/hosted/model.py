"""Generation by a hosted or self-hosted model: its name, its key, and the pool that its calls take.

A provider that speaks as OpenAI does is asked directly, every other one through litellm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from raft.backends.hosted.calls import RequestPool
from raft.backends.hosted.endpoints import Endpoint, Endpoints, Tally
from raft.backends.hosted.errors import Transport
from raft.backends.hosted.litellm import LitellmTransport
from raft.backends.hosted.manners import Manners
from raft.backends.hosted.openai_http import DirectTransport
from raft.backends.hosted.providers import (
    address_of,
    check_key,
    identities_of,
    key_of,
    litellm_key,
    no_address,
    provider_of,
    whole_address,
)
from raft.backends.hosted.rate_limit import RateLimiter
from raft.backends.vendors import fastest_loop
from raft.store.budget import Budget
from raft.text.secrets import ApiBase, each_address, shown_address


class HostedModel:
    """A chat model at an endpoint, or at several that answer the same.

    Args:
        name: `provider/model`, for example `openai/gpt-4o-mini`.
        api_base: address of a self-hosted endpoint, or of several.
        concurrency: most requests in flight at one endpoint.
        timeout: seconds for one reply.
        requests_per_minute: most requests a minute at one endpoint; None for what it takes.
        tokens_per_minute: most tokens a minute at one endpoint; None for what it takes.
        effort: how long a reasoning model thinks; None: as little as it can.
        known_as: addresses that it has in keys of replies, as `store.addresses.known_as` says; none: the given ones.

    Attributes:
        identities: name, address and effort, which can change what is replied; replies are looked for under each, and
            kept under the first, which is its `identity`.
        tallies: what became of the calls, an endpoint each.
        exact: whether a reply counts for nothing that says that another model wrote it.
    """

    exact = False
    _pool = RequestPool

    def __init__(
        self,
        name: str,
        *,
        api_base: ApiBase,
        concurrency: int,
        timeout: float,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        effort: str | None = None,
        known_as: Sequence[str] = (),
    ) -> None:
        self._given: tuple[str | None, ...] = each_address(api_base) or (None,)
        self.name, self.concurrency = name, concurrency * len(self._given)
        self.identities = identities_of(name, known_as or api_base, effort)
        self.identity = self.identities[0]
        self.tallies: tuple[Tally, ...] = ()
        self._direct, self._manners = provider_of(name).direct, Manners(name, effort)
        self._timeout, self._connections = timeout, concurrency
        self._limited = partial(
            RateLimiter, concurrency, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )

    def pool(self, budget: Budget) -> RequestPool:
        """Return what sends calls to this model and pays them from `budget`.

        Raises:
            UsageError: there is no key in the environment, or no address that can be asked.
        """
        self._given = tuple(whole_address(self.name, one) for one in self._given)
        for given in self._given:
            if self._direct and not self._address(given):
                raise no_address(self.name)
            check_key(self.name, given)
        self.tallies = self.tallies or tuple(Tally(self._where(given)) for given in self._given)
        endpoints = [
            Endpoint(
                self._where(given),
                self._limited(alone=not self._manners.met),
                partial(self._transport, given, self._key(given)),
                tally,
            )
            for given, tally in zip(self._given, self.tallies, strict=True)
        ]
        return self._pool(
            Endpoints(endpoints), budget=budget, model=self.name, loop=fastest_loop, roomy=self._manners.roomy
        )

    def _address(self, given: str | None) -> str | None:
        return address_of(self.name, given) if self._direct else given

    def _where(self, given: str | None) -> str:
        return shown_address(self._address(given) or self.name)

    def _key(self, given: str | None) -> str | None:
        return (key_of if self._direct else litellm_key)(self.name, given)

    def _transport(self, given: str | None, key: str | None) -> Transport:
        wire = Wire(self.name, self._address(given), key, self._timeout, self._connections, exact=self.exact)
        return wire.transport(self._manners)


@dataclass(frozen=True)
class Wire:
    """What it takes to ask one address of a model: `address` is None where litellm knows it, `key` where there is none.

    `timeout` are the seconds for one reply, `connections` the most that are open at once.
    """

    name: str
    address: str | None
    key: str | None = field(repr=False)
    timeout: float
    connections: int
    exact: bool = False

    def transport(self, manners: Manners) -> Transport:
        """Return what sends requests there."""
        if not provider_of(self.name).direct:
            return LitellmTransport(
                self.name, api_base=self.address, key=self.key, timeout=self.timeout, manners=manners
            )
        return DirectTransport(
            self.name,
            api_base=self.address or "",
            key=self.key,
            timeout=self.timeout,
            connections=self.connections,
            manners=manners,
            exact=self.exact,
        )
