"""The transports of a gateway: made when a configuration first names one, shared by all that
follow, closed when none does any more. A reload leaves warm connections alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from llmgw_core.backends.transport.port import Transport
    from llmgw_core.domain.deployment import Origin


class TransportRegistry:
    """Belongs to the event loop that its transports are used in."""

    def __init__(self) -> None:
        self._open: dict[str, Transport] = {}

    def take(self, names: Iterable[str]) -> dict[str, Transport]:
        """The transports of those names, made if they are not there yet."""
        for name in names:
            if name not in self._open:
                self._open[name] = _make(name)
        return {name: self._open[name] for name in names}

    async def retain(self, names: Set[str], origins: Set[Origin]) -> None:
        """Nobody uses other transports, or other origins, any more: close what is left of
        them."""
        for name in [name for name in self._open if name not in names]:
            await self._open.pop(name).aclose()
        for transport in self._open.values():
            transport.retain(origins)

    async def aclose(self) -> None:
        """Close all. Idempotent."""
        while self._open:
            _, transport = self._open.popitem()
            await transport.aclose()


def _make(name: str) -> Transport:
    if name == "httptools":
        return HttptoolsTransport()
    from llmgw_core.backends.transport.aiohttp_transport import (  # noqa: PLC0415 -- heavy
        AiohttpTransport,
    )

    return AiohttpTransport()
