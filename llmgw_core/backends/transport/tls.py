"""TLS contexts for origins: built once, in a thread, because loading the CA store takes tens of
milliseconds."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from llmgw_core.backends.transport.port import TransportError

if TYPE_CHECKING:
    from llmgw_core.domain.deployment import Origin


def build_context(origin: Origin) -> ssl.SSLContext:
    """A verifying client context. Blocking. Raises `OSError` or `ssl.SSLError` for files that
    are missing or are not what they should be."""
    context = ssl.create_default_context(cafile=origin.ca_file or None)
    context.set_alpn_protocols(["http/1.1"])
    if origin.client_cert:
        context.load_cert_chain(origin.client_cert, origin.client_key or None)
    return context


class TlsContext:
    """The context of one origin, built when first needed; concurrent first users share it."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._context: ssl.SSLContext | None = None
        self._building = asyncio.Lock()

    async def get(self) -> ssl.SSLContext:
        """Raises `TransportError` kind `tls`."""
        if self._context is None:
            async with self._building:
                if self._context is None:
                    self._context = await self._build()
        return self._context

    async def _build(self) -> ssl.SSLContext:
        try:
            return await asyncio.to_thread(build_context, self._origin)
        except OSError as error:
            raise TransportError(
                "tls", "connect", f"the certificate files cannot be used: {error}"
            ) from error
