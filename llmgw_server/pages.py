"""What is not a call: health, metrics and admin pages, and OpenAI's envelope for every error.

A route says by itself on which listener it is served (`part`) and who may ask (`access`); what a
request says has no part in that. Health is served everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from llmgw_core.domain.errors import GatewayError, internal_error, not_found, wrong_method
from llmgw_core.wire.envelope import error_body, error_headers
from llmgw_server.openapi import document
from llmgw_server.openapi import page as readable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from llmgw_core.gateway import Gateway

    Endpoint = Callable[[Request], Awaitable[Response]]

Part = Literal["calls", "admin", "metrics"]
"""What a listener may serve."""
Access = Literal["public", "admin"]
"""`public`: everybody who reaches the listener. `admin`: who has the admin key."""
_BEARER = "bearer "
_HTML = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}


class Page(Route):
    """A route with its authorisation. `part` None: served on every listener."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        access: Access,
        part: Part | None = None,
        methods: tuple[str, ...] = ("GET",),
        admin_key: str = "",
        listed: bool = True,
        body: type[msgspec.Struct] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        self.access = access
        self.part = part
        self.listed = listed
        """Whether descriptions show it."""
        self.body = body
        """The JSON object that it takes."""
        self.query = dict(query or {})
        """The parameters in its address: name → what it says."""
        self.allowed = frozenset(self.methods or ())
        """Of this page and of others at the same path."""
        self._digest = hashlib.sha256(admin_key.encode()).digest() if admin_key else b""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette's, for whoever may. Raises `HTTPException` 401."""
        if self.access == "admin" and not self._is_admin(scope):
            raise HTTPException(401, headers={"www-authenticate": "Bearer"})
        if scope["method"] not in self.allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await super().handle(scope, receive, send)

    def _is_admin(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                text = value.decode("latin-1")
                if text[: len(_BEARER)].lower() != _BEARER:
                    return False
                given = hashlib.sha256(text[len(_BEARER) :].strip().encode()).digest()
                # Digests, so that the time says nothing about the length either.
                return bool(self._digest) and hmac.compare_digest(given, self._digest)
        return False


class Pages:
    """Makes the Starlette application of each listener. `draining` says whether the server is
    about to end."""

    def __init__(self, gateway: Gateway, draining: Callable[[], bool]) -> None:
        self._gateway = gateway
        self._draining = draining
        self._registry: CollectorRegistry | None = None

    def application(self, routes: Iterable[Page], parts: frozenset[Part]) -> Starlette:
        """Those of `routes`, and of the pages here, that belong to `parts`."""
        own = [
            Page("/health/live", self.live, access="public"),
            Page("/health/ready", self.ready, access="public"),
            Page("/metrics", self.metrics, access="public", part="metrics"),
        ]
        pages = [page for page in (*own, *routes) if page.part is None or page.part in parts]
        for page in pages:
            page.allowed = frozenset().union(
                *(other.methods or () for other in pages if other.path == page.path)
            )
        described = document(pages, calls="calls" in parts)

        async def description(request: Request) -> Response:
            return as_json(described)

        async def documentation(request: Request) -> Response:
            return Response(readable(described), headers=_HTML)

        application = Starlette(
            routes=[
                *pages,
                Page("/openapi.json", description, access="public", listed=False),
                Page("/docs", documentation, access="public", listed=False),
            ],
            exception_handlers={HTTPException: self._refuse, Exception: self._fail},
        )
        # Where to is made of the header `host`, which whoever asks can choose.
        application.router.redirect_slashes = False
        return application

    async def live(self, request: Request) -> Response:
        """200 as long as the process answers."""
        return as_json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 when calls can be served, else 503 with the reasons. `notices` say what somebody
        should look into."""
        reasons, notices = self.reasons(), self._gateway.notices()
        more = {"notices": notices} if notices else {}
        if reasons:
            return as_json({"status": "not_ready", "reasons": reasons, **more}, 503)
        return as_json({"status": "ready", **more})

    def reasons(self) -> list[str]:
        """Why no new calls should be sent here."""
        reasons = self._gateway.readiness()
        return [*reasons, "The server is about to end."] if self._draining() else reasons

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
        elif exc.status_code == 401:
            error = GatewayError(
                401,
                "invalid_admin_key",
                "This page needs the admin key: authorization: Bearer KEY.",
                type="authentication_error",
                should_retry=False,
            )
        else:
            error = GatewayError(exc.status_code, "invalid_request", exc.detail, should_retry=False)
        return as_error(error, request, exc.headers)

    async def _fail(self, request: Request, exc: Exception) -> Response:
        self._gateway.stats.bugs_total += 1
        return as_error(internal_error(), request)


def as_json(value: Any, status: int = 200) -> Response:
    """A JSON reply."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def as_error(error: GatewayError, request: Request, extra: Any = None) -> Response:
    """An error in OpenAI's envelope, with headers `extra`."""
    request_id: str = request.state.request_id
    response = Response(error_body(error, request_id), error.status, headers=extra)
    for name, value in error_headers(error, request_id):
        response.headers[name.decode()] = value.decode()
    return response
