"""How connections leave this machine: through which forward proxy, and whom TLS trusts.

Pure values and one decision, `Outgoing.proxy_for`. Transports and plugins' HTTP follow it.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from llmgw_core.domain.credential import NO_CREDENTIAL, Credential

LOOPBACK: Final = ("localhost", "127.0.0.0/8", "::1")
"""What a proxy would look for on itself: never sent through one that is configured."""


class Proxy(msgspec.Struct, frozen=True):
    """A forward proxy. `scheme` (`http` or `https`) is how the gateway speaks to it."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: Credential = NO_CREDENTIAL

    def __repr__(self) -> str:
        """Without user and password."""
        return f"Proxy({self.scheme}://{self.host}:{self.port})"


class Exemption(msgspec.Struct, frozen=True):
    """One entry of `no_proxy`. `port` 0 = any. Of `host`, `suffix` and `network` one is set, or
    none: then it is `*`."""

    host: str = ""
    suffix: str = ""
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    port: int = 0

    def covers(self, host: str, port: int) -> bool:
        """Whether connections to `host` (lower case, no final dot) go directly."""
        if self.port not in {0, port}:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        if self.host:
            return host == self.host or host.endswith("." + self.host)
        return host.endswith(self.suffix)


class Outgoing(msgspec.Struct, frozen=True):
    """The default is a direct connection that trusts the system's certificate authorities.

    `http_proxy` and `https_proxy` serve origins of these schemes, but for what `no_proxy`
    covers. `ca_file`: further authorities, or with `system_ca` false the only ones.
    `client_cert` and `client_key`: what is shown to upstreams that ask. Paths of PEM files.
    """

    http_proxy: Proxy | None = None
    https_proxy: Proxy | None = None
    no_proxy: tuple[Exemption, ...] = ()
    ca_file: str = ""
    system_ca: bool = True
    client_cert: str = ""
    client_key: str = ""

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for an origin; None: directly. Names are compared, never resolved."""
        proxy = self.https_proxy if scheme == "https" else self.http_proxy
        if proxy is None:
            return None
        name = host.lower().rstrip(".")
        return None if any(entry.covers(name, port) for entry in self.no_proxy) else proxy


DIRECT: Final = Outgoing()


def exemption(text: str) -> Exemption:
    """One entry of `no_proxy` as people write it: `*`, a host (and every host below it),
    `.example.com` or `*.example.com` (only those below), an address, a network such as
    `10.0.0.0/8`; all but the last may end in `:PORT`. Raises `ValueError`."""
    entry = text.strip().lower()
    if entry == "*":
        return Exemption()
    network = _network(entry)
    if network is not None:
        return Exemption(network=network)
    host, colon, digits = entry.rpartition(":")
    if not colon:
        host, port = entry, 0
    else:
        port = int(digits) if digits.isascii() and digits.isdigit() else -1
        if not 0 < port < 65536:
            raise ValueError("is neither a host, an address nor a network")
    host = host.removeprefix("*").rstrip(".")
    network = _network(host)
    if network is not None:
        return Exemption(network=network, port=port)
    if not host.strip(".") or any(mark in host for mark in "*/:@ []"):
        raise ValueError("is neither a host, an address nor a network")
    if host.startswith("."):
        return Exemption(suffix=host, port=port)
    return Exemption(host=host, port=port)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
