"""A plugin of the forward proxy: hosts that exist for nobody but the proxy."""

from __future__ import annotations

from proxy.http.proxy import HttpProxyBasePlugin


class Names(HttpProxyBasePlugin):  # type: ignore[misc, unused-ignore]
    """Everything below `.test` is this machine."""

    def resolve_dns(self, host: str, port: int) -> tuple[str | None, tuple[str, int] | None]:
        """See the base class."""
        return ("127.0.0.1" if host.endswith(".test") else None), None
