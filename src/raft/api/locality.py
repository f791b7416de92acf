"""Whether what a command is about to ask stands on this machine: the one place that decides it for `local_only`."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from raft.backends import models
from raft.backends.providers import addresses_in_environment, provider_of
from raft.errors import UsageError
from raft.settings import Settings


def check(settings: Settings, *, asked: Mapping[str, str | None] | None = None) -> None:
    """Let a command go on, or refuse it under `local_only`; from then on hub downloads are refused too, or allowed.

    Args:
        settings: the experiment.
        asked: names of the models that the command asks, with their addresses (None: the provider's own); None: the
            generator, as in a build. Embedder and index are looked at in any case.

    Raises:
        UsageError: `local_only` is set, and a model or the index is not on this machine; nothing was started.
    """
    models.offline(settings.local_only)
    if not settings.local_only:
        return
    generator = settings.generator
    wanted = {generator.model: generator.api_base} if asked is None else asked
    named = [("the model", name, address) for name, address in wanted.items()]
    named.append(("index.embedder", settings.index.embedder, settings.index.api_base))
    found = [f"{role} {name}: {why}" for role, name, address in named for why in _why_remote(name, address)]
    url = settings.index.url
    found += [f"index.url: {why}" for why in (_why_off_loopback(url) if url else ())]
    if found:
        raise UsageError(
            "local_only is set, and not everything that would be asked is on this machine.",
            where="; ".join(found),
            hint="name local models, or servers at 127.0.0.1, ::1 or localhost; or --set local_only=false",
        )


def address_of(name: str, settings: Settings) -> str | None:
    """Return the address that the settings give for a model that answers; None: its provider's own."""
    if name == settings.generator.model:
        return settings.generator.api_base
    return next((one.api_base for one in settings.benchmark.larger if one.model == name), None)


def _why_remote(name: str, api_base: str | None) -> Iterator[str]:
    """Say why a model is not on this machine; nothing where it is."""
    if not models.is_hosted(name):
        return
    provider = provider_of(name)
    if not provider.local:
        yield f"{name.partition('/')[0]} is not on this machine"
        return
    # which of the variables wins is the vendor's affair: each one that is set has to name this machine
    given = [api_base] if api_base else addresses_in_environment(name) or [provider.address or ""]
    for address in given:
        yield from _why_off_loopback(address) if address else ["it has no address (api_base)"]


def _why_off_loopback(address: str) -> Iterator[str]:
    """Say why an address is not this machine's own; nothing where it is. No name is looked up."""
    if not address.isprintable() or set(address) & set(" \\"):
        yield "its address is malformed"
        return
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host = (parts.hostname or "").removesuffix(".")
    except ValueError:
        yield "its address is malformed"
        return
    if not _is_loopback(host):
        yield f"{host or 'its address'} is not the loopback"
    elif parts.scheme in getproxies() and not proxy_bypass(host):
        yield f"a proxy is set for {parts.scheme}, and NO_PROXY does not name {host}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
