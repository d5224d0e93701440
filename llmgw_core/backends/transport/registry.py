"""The transports of a gateway: one for every way out that a configuration names, made when it
first does, shared by all that follow, closed when none does any more. A reload leaves warm
connections alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from llmgw_core.backends.transport.port import Transport
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.domain.outgoing import Outgoing


class Way(NamedTuple):
    """A kind of transport (`httptools` or `aiohttp`) and how its connections leave. Deployments
    that say the same share their connections."""

    kind: str
    outgoing: Outgoing


def way_of(deployment: Deployment) -> Way:
    """How calls of `deployment` go."""
    return Way(deployment.transport, deployment.outgoing)


class TransportRegistry:
    """Belongs to the event loop that its transports are used in."""

    def __init__(self) -> None:
        self._open: dict[Way, Transport] = {}

    def take(self, deployments: Iterable[Deployment]) -> dict[str, Transport]:
        """The transports by the ids of deployments, made if they are not there yet."""
        taken = {}
        for deployment in deployments:
            way = way_of(deployment)
            if way not in self._open:
                self._open[way] = _make(way)
            taken[deployment.id] = self._open[way]
        return taken

    async def retain(self, ways: Set[Way], origins: Set[Origin]) -> None:
        """Nobody uses other transports, or other origins, any more: close what is left of
        them."""
        for way in [way for way in self._open if way not in ways]:
            await self._open.pop(way).aclose()
        for transport in self._open.values():
            transport.retain(origins)

    async def aclose(self) -> None:
        """Close all. Idempotent."""
        while self._open:
            _, transport = self._open.popitem()
            await transport.aclose()


def _make(way: Way) -> Transport:
    if way.kind == "httptools":
        return HttptoolsTransport(outgoing=way.outgoing)
    from llmgw_core.backends.transport.aiohttp_transport import (  # noqa: PLC0415 -- heavy
        AiohttpTransport,
    )

    return AiohttpTransport(outgoing=way.outgoing)
