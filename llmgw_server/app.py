"""The ASGI application: calls go straight to the core, everything else through Starlette.

`/v1/` is decided by a prefix check in the outermost callable, because a router and a middleware
stack cost more than the rest of the adapter. What Starlette serves (health, metrics, errors) may
be slow and is written for clarity.
"""

from __future__ import annotations

import os
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from llmgw_core.domain.errors import (
    ConfigError,
    GatewayError,
    StoreUnavailable,
    internal_error,
    not_found,
    overloaded,
    wrong_method,
)
from llmgw_core.wire.envelope import error_body, error_headers
from llmgw_server.asgi import CallEndpoint

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from llmgw_core.gateway import Gateway
    from llmgw_server.uvicorn_calls import CallCycle
    from llmgw_server.uvicorn_protocol import CallProtocol

CALLS = "/v1/"
"""Everything below belongs to the core."""
CONFIG_VARIABLE = "LLMGW_CONFIG"
"""Environment variable with the configuration file for `factory`; default `llmgw.yaml`."""
REQUEST_ID = b"x-request-id"


class Application:
    """The outermost ASGI callable of one gateway.

    `source` is either an open gateway, or a context manager that opens one; the latter is
    entered and left by the server's lifespan events.
    """

    def __init__(self, source: Gateway | AbstractAsyncContextManager[Gateway]) -> None:
        self._opening: AbstractAsyncContextManager[Gateway] | None = None
        self._gateway: Gateway | None = None
        self._calls: CallEndpoint | None = None
        self._pages: Starlette | None = None
        self._cycles: set[CallCycle] = set()
        if isinstance(source, AbstractAsyncContextManager):
            self._opening = source
        else:
            self._serve(source)

    def _serve(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._calls = CallEndpoint(
            gateway.handle, body_seconds=gateway.config.requests.body_seconds
        )
        self._pages = Pages(gateway).application()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        kind = scope["type"]
        if kind == "http":
            if self._calls is None:
                await _send_error(send, overloaded("The gateway has not started."), _random_id())
            elif scope["path"].startswith(scope.get("root_path", "") + CALLS):
                await self._calls(scope, receive, send)
            else:
                await self._page(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    def end_calls(self) -> None:
        """Cancel every call in flight; for a server whose drain is over."""
        if self._calls is not None:
            self._calls.end_calls()
        for cycle in self._cycles:
            cycle.end()

    def uvicorn_protocol(self) -> type[CallProtocol]:
        """The protocol class with which uvicorn hands calls straight to the core; needs an open
        gateway."""
        from llmgw_server.uvicorn_protocol import protocol_class  # noqa: PLC0415 - needs uvicorn

        assert self._gateway is not None
        seconds = self._gateway.config.requests.body_seconds
        return protocol_class(self._gateway.handle, body_seconds=seconds, cycles=self._cycles)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._gateway is not None
        assert self._pages is not None
        request_id = self._gateway.new_call_id()
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(event: Message) -> None:
            if event["type"] == "http.response.start":
                others = [pair for pair in event["headers"] if pair[0] != REQUEST_ID]
                event["headers"] = [*others, (REQUEST_ID, request_id.encode())]
            await send(event)

        await self._pages(scope, receive, send_with_id)

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
            if self._calls is not None:
                self._calls.close()
        await send({"type": "lifespan.shutdown.complete"})


class Pages:
    """What is not a call: health, metrics, and OpenAI's envelope for every error."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._registry: CollectorRegistry | None = None

    def application(self) -> Starlette:
        """The Starlette application of these pages."""
        return Starlette(
            routes=[
                Route("/health/live", self.live),
                Route("/health/ready", self.ready),
                Route("/metrics", self.metrics),
            ],
            exception_handlers={HTTPException: self._refuse, Exception: self._fail},
        )

    async def live(self, request: Request) -> Response:
        """200 as long as the process answers."""
        return _json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 when calls can be served, else 503 with the reasons."""
        reasons = self._gateway.readiness()
        if reasons:
            return _json({"status": "not_ready", "reasons": reasons}, 503)
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics, in the format that the scraper asks for."""
        # Imported by the first scrape: half as big as the rest of the server.
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - first use

        from llmgw_server.metrics import registry_of  # noqa: PLC0415 - first use

        if self._registry is None:
            self._registry = registry_of(self._gateway)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    async def _refuse(self, request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 404:
            error = not_found()
        elif exc.status_code == 405:
            error = wrong_method((exc.headers or {}).get("Allow", "GET"))
        else:
            error = GatewayError(exc.status_code, "invalid_request", exc.detail, should_retry=False)
        return _error(error, request, exc.headers)

    async def _fail(self, request: Request, exc: Exception) -> Response:
        self._gateway.stats.bugs_total += 1
        return _error(internal_error(), request)


def create_app(gateway: Gateway) -> Application:
    """The ASGI application of an open gateway; whoever opened it closes it."""
    return Application(gateway)


def factory() -> Application:
    """For any ASGI server, e.g. `uvicorn --factory llmgw_server.app:factory`.

    Reads the configuration file that LLMGW_CONFIG names (default `llmgw.yaml` in the working
    directory). The gateway is opened and closed by the server's lifespan events.
    """
    from llmgw_core.gateway import Gateway  # noqa: PLC0415 - first use

    return Application(Gateway.open(Path(os.environ.get(CONFIG_VARIABLE, "llmgw.yaml"))))


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(error: GatewayError, request: Request, extra: Any = None) -> Response:
    request_id: str = request.state.request_id
    response = Response(error_body(error, request_id), error.status, headers=extra)
    for name, value in error_headers(error, request_id):
        response.headers[name.decode()] = value.decode()
    return response


async def _send_error(send: Send, error: GatewayError, request_id: str) -> None:
    body = error_body(error, request_id)
    headers = [*error_headers(error, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _random_id() -> str:
    return uuid.uuid4().hex
