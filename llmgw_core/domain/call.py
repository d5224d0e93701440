"""One call on its way through the gateway, and the HTTP-shaped entrance it comes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.usage import UsageRecord

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""

Endpoint = Literal["chat.completions", "embeddings"]


class State(msgspec.Struct, eq=False):
    """Base of what holds the state of a call: made in one step, which is faster than a constructor
    in Python, compared by identity, and shown without what is in it, which may be secret."""

    def __repr__(self) -> str:
        """No contents."""
        return object.__repr__(self)


class Head(State):
    """The head of a request: everything known before its body. Header names are lower case."""

    method: str
    path: str
    headers: Headers
    query: bytes = b""
    client: str = ""
    index: dict[bytes, bytes] | None = None
    """What `fields` returns, once somebody has asked for it."""

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The headers by name, of several values the first one."""
        fields = self.index
        if fields is None:
            # Backwards, so that of several values the first one stays.
            fields = self.index = dict(self.headers[::-1])
        return fields

    def get(self, name: bytes) -> bytes | None:
        """The first value of header `name` (lower case), or None."""
        return (self.index or self.fields).get(name)


class Body(Protocol):
    """The request body, read after the caller is known. What a body may have, which saves time:
    `arrived(limit)`, which is `read` as a plain function and returns None when more is to come or
    when there is something to refuse.
    """

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `GatewayError` 413 beyond `limit` bytes, 408 when it is too
        slow, and `ClientGone` when the client left.
        """
        ...


StartLines = Callable[[int, bytes], None]
"""`start_lines(status, lines)`: see `Sink`."""

ReplyLines = Callable[[int, bytes, bytes], bool]
"""`reply_lines(status, lines, body)`: see `Sink`."""


class Sink(Protocol):
    """Where the reply goes. `gone` turns true when the client has left; from then on writes
    are no-ops. `on_gone`, if set, is called once at that moment. Three things a sink may have,
    which save time: `task`, the task in which the call is handled; `start_lines`, which takes what
    `start` does as lines of an HTTP/1.1 head, each with its end; and `reply_lines`, which is that
    and `finish` as a plain function, and does nothing and returns False when it would have to wait.
    One with a true `local` needs no comments to know that its stream still lives: there is no
    connection.
    """

    gone: bool
    on_gone: Callable[[], None] | None

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the reply."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the body; returns when the client's backlog allows more."""
        ...

    async def finish(self, data: bytes = b"") -> None:
        """Send the last part and end the reply."""
        ...


class Handle(Protocol):
    """The HTTP-shaped entrance: answers one request completely, errors included. A `principal`
    that is given is believed; without one the request's credentials say who calls. `subcall`
    says that a plugin calls, in the course of another call."""

    async def __call__(
        self,
        head: Head,
        body: Body,
        sink: Sink,
        principal: Principal | None = None,
        subcall: Subcall | None = None,
    ) -> UsageRecord | None:
        """Raises only `asyncio.CancelledError`, after having settled. Returns the record of a
        call that was admitted."""
        ...


class ClientGone(Exception):
    """The client left before its request was complete."""


class Subcall:
    """That a call was made by a plugin in the course of another one. `parent` is the id of that
    call, `depth` how many calls it is inside of, and hooks of the plugins in `muted` are not
    run: of the one that made it, and of those that made the calls around it. `deadline` is that of
    the call around it (monotonic seconds), 0 if it has none: nobody waits longer for this one.
    """

    __slots__ = ("deadline", "depth", "muted", "parent")

    def __init__(
        self, parent: str, muted: frozenset[str], depth: int = 1, deadline: float = 0.0
    ) -> None:
        self.parent = parent
        self.muted = muted
        self.depth = depth
        self.deadline = deadline


class Call(State):
    """The state of one call. Hooks see it; only the pipeline writes it.

    `state` is the place of plugins for what they keep for one call, keyed by plugin name
    (`PluginContext.state` gives a plugin its own). `subcall` is None on a client's own call.
    `started` is monotonic seconds, `started_ns` nanoseconds since the epoch.
    """

    id: str
    endpoint: Endpoint
    head: Head
    started: float
    started_ns: int
    principal: Principal | None = None
    subcall: Subcall | None = None
    trace_id: str = ""
    span_id: str = ""
    parent_span: str = ""
    asked: str = ""
    """The model as the caller asked for it."""
    model: str = ""
    """The model after hooks; what is authorised and planned."""
    request: Any = None
    """The `wire.RequestView` once the body is read."""
    state: dict[str, Any] = msgspec.field(default_factory=dict)
    deadline: float = 0.0
    """When it must have content (monotonic seconds); 0 as long as nobody has set one."""
    cost_center: str = ""
    """The id of the cost centre that it goes on; "" if there is none."""
