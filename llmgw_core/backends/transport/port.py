"""The transport port: one HTTP exchange with an upstream, and what retrying needs to know.

Two implementations pass one conformance suite (`llmgw_core.testing.transport_suite`):
`httptools_transport` (the default) and `aiohttp_transport`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from llmgw_core.domain.deployment import Origin, Timeouts

TransportPhase = Literal["connect", "send", "head", "body"]
TransportKind = Literal[
    "dns", "refused", "tls", "timeout", "reset", "protocol", "too_large", "pool"
]


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request as an adapter wants it sent. Header names are lower case; `host`,
    `content-length`, `connection` and `accept-encoding: identity` are the transport's.
    `common` are further headers that stand in every request of a deployment: the transport keeps
    their encoded form, so they must be the same object every time."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    common: tuple[tuple[bytes, bytes], ...] = ()


class TransportError(Exception):
    """The exchange failed. `phase` says how far it got: `connect` (nothing sent), `send`
    (request possibly in part sent), `head` (request sent, no complete reply head), `body`
    (head received). `reused`: it was a kept-alive connection, so that a failure before
    `received` any byte of a reply may mean no more than that the peer had closed it.
    The text is for logs and never for clients."""

    def __init__(
        self,
        kind: TransportKind,
        phase: TransportPhase,
        message: str,
        *,
        reused: bool = False,
        received: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: TransportKind = kind
        self.phase: TransportPhase = phase
        self.reused = reused
        self.received = received


class UpstreamReply(Protocol):
    """A reply whose head has arrived. It owns its connection: reading to the end returns the
    connection to the pool (if the peer allows), `abort()` closes it. Both are idempotent;
    one of them must happen."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    reused: bool

    async def chunk(self) -> bytes:
        """The next piece of the body, `b""` at its end. Raises `TransportError` (phase
        `body`) on a cut, a framing error or after `timeouts.idle` without a byte. Buffers at
        most a bounded amount and pauses reading from the socket beyond it."""
        ...

    async def read(self, limit: int) -> bytes:
        """The whole body; `TransportError` kind `too_large` beyond `limit` bytes."""
        ...

    def whole(self, limit: int) -> bytes | None:
        """What `read` gives, if it is there already; None when it has to be waited for, or when
        there is an error to raise."""
        ...

    def abort(self) -> None:
        """Give the exchange up now: close the connection. Synchronous, idempotent, harmless
        after the end of the body."""
        ...


class Transport(Protocol):
    """Pools connections by origin. Safe to cancel at every await: a cancelled `send` leaves no
    connection behind and the pool's counts right."""

    async def send(
        self,
        origin: Origin,
        request: HttpRequest,
        timeouts: Timeouts,
        *,
        fresh: bool = False,
        on_sent: Callable[[], None] | None = None,
    ) -> UpstreamReply:
        """Send and return when the head of the final (not 1xx) reply has arrived. `fresh`
        insists on a new connection; `on_sent` is called when the request is about to leave, so
        that who is cancelled knows whether it did. Raises `TransportError`."""
        ...

    def retain(self, origins: Set[Origin]) -> None:
        """No more requests go to other origins: close their idle connections now, and those in
        use when their exchange ends. A request that comes all the same is served."""
        ...

    async def aclose(self) -> None:
        """Close idle connections and abort the others. Idempotent."""
        ...
