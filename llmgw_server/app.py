"""The ASGI application: calls go straight to the core, everything else through Starlette.

`/v1/` is decided by a prefix check in the outermost callable, because a router and a middleware
stack cost more than the rest of the adapter. What Starlette serves (health, metrics, admin pages,
errors) may be slow and is written for clarity.
"""

from __future__ import annotations

import os
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import (
    ConfigError,
    StoreUnavailable,
    head_too_large,
    not_found,
    overloaded,
)
from llmgw_core.wire.envelope import error_body, error_headers
from llmgw_server.admin.assembly import AdminPages
from llmgw_server.asgi import CallEndpoint
from llmgw_server.identity import refuse
from llmgw_server.pages import Pages

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import Message, Receive, Scope, Send

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.gateway import Gateway
    from llmgw_server.asgi import Handle
    from llmgw_server.listening import Listener
    from llmgw_server.pages import Part
    from llmgw_server.uvicorn_calls import CallCycle
    from llmgw_server.uvicorn_protocol import CallProtocol

CALLS = "/v1/"
"""Everything below belongs to the core, but for what belongs to `PAGES`."""
PAGES = "/v1/organization/"
"""OpenAI has its usage API below the same prefix as calls."""
CONFIG_VARIABLE = "LLMGW_CONFIG"
"""Environment variable with the configuration file for `factory`; default `llmgw.yaml`."""
REQUEST_ID = b"x-request-id"


class Surface:
    """What one listener serves: calls if there is a `handle` for them, and pages. With another
    `handle`, what one connection is served whose certificate says who calls."""

    def __init__(
        self, gateway: Gateway, calls: CallEndpoint, handle: Handle | None, pages: Starlette
    ) -> None:
        self.gateway = gateway
        self.handle = handle
        self._calls = calls
        self._pages = pages
        self._head_bytes = gateway.config.server.head_bytes
        self.protocols: list[type[CallProtocol]] = []
        """Those that hand calls to `handle` the short way."""

    def follow(self) -> None:
        """Another configuration is in force: calls that begin from now on are handled by it."""
        if self.handle is None:
            return
        self.handle = self.gateway.handle
        for protocol in self.protocols:
            protocol.handle = staticmethod(self.handle)
            protocol.body_seconds = self.gateway.config.requests.body_seconds

    def with_handle(self, handle: Handle) -> Surface:
        """The same with another entrance for calls."""
        return Surface(self.gateway, self._calls, handle, self._pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        kind = scope["type"]
        if kind == "http":
            if _head_size(scope) > self._head_bytes:
                await send_error(send, head_too_large(), self.gateway.new_call_id())
            elif self.handle is not None and _is_call(scope):
                await self._calls(scope, receive, send, self.handle)
            else:
                await self._page(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def no_calls(self, head: Head, body: Body, sink: Sink) -> None:
        """The entrance for calls of a listener that serves none."""
        await refuse(sink, not_found(), self.gateway.new_call_id())

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self.gateway.new_call_id()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(event: Message) -> None:
            if event["type"] == "http.response.start":
                others = [pair for pair in event["headers"] if pair[0] != REQUEST_ID]
                event["headers"] = [*others, (REQUEST_ID, request_id.encode())]
            await send(event)

        await self._pages(scope, receive, send_with_id)


class Application:
    """Everything that is served of one gateway, and for ASGI servers of other people's the public
    surface and its lifespan.

    `source` is either an open gateway, or a context manager that opens one; the latter is
    entered and left by the server's lifespan events.
    """

    def __init__(self, source: Gateway | AbstractAsyncContextManager[Gateway]) -> None:
        self._opening: AbstractAsyncContextManager[Gateway] | None = None
        self._surface: Surface | None = None
        self._surfaces: list[Surface] = []
        self.draining = False
        """The server is about to end; it is not ready any more."""
        self.cycles: set[CallCycle] = set()
        """Calls in flight that came the short way."""
        if isinstance(source, AbstractAsyncContextManager):
            self._opening = source
        else:
            self._serve(source)

    def _serve(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._calls = CallEndpoint(
            gateway.handle,
            body_seconds=gateway.config.requests.body_seconds,
            write_seconds=gateway.config.server.write_seconds,
        )
        self._pages = Pages(gateway, lambda: self.draining)
        self._admin = AdminPages(self, self._pages)
        server = gateway.config.server
        apart: dict[Part, object] = {"admin": server.admin, "metrics": server.metrics}
        here = frozenset(part for part, section in apart.items() if section is None)
        self._surface = self._made(frozenset(("calls", *here)))
        gateway.after_reload(self._follow)

    def _follow(self) -> None:
        self._calls.handle = self.gateway.handle
        self._calls.body_seconds = self.gateway.config.requests.body_seconds
        for surface in self._surfaces:
            surface.follow()

    def surface(self, listener: Listener) -> Surface:
        """What `listener` serves; needs an open gateway."""
        return self._made(listener.pages)

    def _made(self, parts: frozenset[Part]) -> Surface:
        pages = self._pages.application(self._admin.routes(), parts)
        handle = self.gateway.handle if "calls" in parts else None
        surface = Surface(self.gateway, self._calls, handle, pages)
        self._surfaces.append(surface)
        return surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._surface is not None:
            await self._surface(scope, receive, send)
        elif scope["type"] == "http":
            await send_error(send, overloaded("The gateway has not started."), _random_id())

    @property
    def in_flight(self) -> int:
        """Requests below `/v1/` that are being answered."""
        return self._calls.in_flight + len(self.cycles)

    def end_calls(self) -> None:
        """Cancel every call in flight; for a server whose drain is over."""
        self._calls.end_calls()
        for cycle in self.cycles:
            cycle.end()

    def close(self) -> None:
        """Nobody is served any more."""
        if self._surface is not None:
            self._calls.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            await receive()
            if self._opening is not None:
                try:
                    self._serve(await stack.enter_async_context(self._opening))
                except (ConfigError, StoreUnavailable, OSError) as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.draining = True
            self.close()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(gateway: Gateway) -> Application:
    """The ASGI application of an open gateway; whoever opened it closes it."""
    return Application(gateway)


def factory() -> Application:
    """For any ASGI server, e.g. `uvicorn --factory llmgw_server.app:factory`.

    Reads the configuration file that LLMGW_CONFIG names (default `llmgw.yaml` in the working
    directory). The gateway is opened and closed by the server's lifespan events. Listeners, TLS
    and deadlines of connections are that server's business.
    """
    from llmgw_core.gateway import Gateway  # noqa: PLC0415 - first use

    return Application(Gateway.open(Path(os.environ.get(CONFIG_VARIABLE, "llmgw.yaml"))))


def _is_call(scope: Scope) -> bool:
    root, path = scope.get("root_path", ""), scope["path"]
    return path.startswith(root + CALLS) and not path.startswith(root + PAGES)


def _head_size(scope: Scope) -> int:
    """About the bytes of the request head."""
    size = len(scope["query_string"]) + len(scope["path"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    return size


async def send_error(send: Send, error: GatewayError, request_id: str) -> None:
    """Answer with an error in OpenAI's envelope."""
    body = error_body(error, request_id)
    headers = [*error_headers(error, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _random_id() -> str:
    return uuid.uuid4().hex
