"""How far an exchange of the transport on aiohttp has come, as aiohttp's own tracing tells, and the
deadline that follows from it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import aiohttp

from llmgw_core.backends.transport.port import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from llmgw_core.backends.transport.port import TransportKind, TransportPhase
    from llmgw_core.domain.deployment import Timeouts

Stage = Literal["connect", "pool", "send", "head"]


class Progress:
    """How far one exchange has come, and the deadline that follows from it."""

    def __init__(self, timeouts: Timeouts, on_sent: Callable[[], None] | None) -> None:
        self._on_sent = on_sent
        self.stage: Stage = "connect"
        self.reused = False
        self.started = asyncio.get_running_loop().time()
        self.total = self.started + timeouts.total
        self.timeouts = timeouts
        self.deadline = asyncio.timeout_at(min(self.started + timeouts.connect, self.total))

    def connected(self, *, reused: bool) -> None:
        """There is a connection; the request goes out now."""
        self.reused = reused
        self.stage = "send"
        if self._on_sent is not None:
            self._on_sent()
        self._extend(self.timeouts.first_byte)

    def sent(self) -> None:
        """A part of the request has gone out."""
        self.stage = "head"
        self._extend(self.timeouts.first_byte)

    def _extend(self, seconds: float) -> None:
        if not self.deadline.expired():
            now = asyncio.get_running_loop().time()
            self.deadline.reschedule(min(now + seconds, self.total))

    def error(self, kind: TransportKind, message: str, *, received: bool = False) -> TransportError:
        """What went wrong, with where it did."""
        phase: TransportPhase = "connect" if self.stage == "pool" else self.stage
        return TransportError(kind, phase, message, reused=self.reused, received=received)


def tracing() -> aiohttp.TraceConfig:
    """Tells the `Progress` of each request how far it has come."""
    config = aiohttp.TraceConfig()

    def progress(context: SimpleNamespace) -> Progress:
        found = context.trace_request_ctx
        assert isinstance(found, Progress)
        return found

    async def queued(_: object, context: SimpleNamespace, __: object) -> None:
        progress(context).stage = "pool"

    async def dequeued(_: object, context: SimpleNamespace, __: object) -> None:
        progress(context).stage = "connect"

    async def created(_: object, context: SimpleNamespace, __: object) -> None:
        progress(context).connected(reused=False)

    async def reused(_: object, context: SimpleNamespace, __: object) -> None:
        progress(context).connected(reused=True)

    async def sent(_: object, context: SimpleNamespace, __: object) -> None:
        progress(context).sent()

    config.on_connection_queued_start.append(queued)
    config.on_connection_queued_end.append(dequeued)
    config.on_connection_create_end.append(created)
    config.on_connection_reuseconn.append(reused)
    config.on_request_headers_sent.append(sent)
    config.on_request_chunk_sent.append(sent)
    return config
