"""The transport on aiohttp, for installations that want its connector: happy eyeballs, another
resolver, one client for everything.

aiohttp's own conveniences are off: no redirects, no cookies, no decompression, no proxies or
credentials from the environment. Its exceptions are mapped here, where the library is called.
Where it cannot do what `httptools_transport` does: a `fresh` connection comes from a second
connector with a limit of its own; idempotent requests on a reused connection that turns out to be
closed are repeated by aiohttp itself; `received` is only true once a head has been parsed; the
cap is one of single lines of a head; a broken chunk is noticed by the idle timeout only.

aiohttp takes a reply that arrives on a resting connection for the reply to the next request: one
caller's answer in another caller's hands. So every request has a connection of its own, unless a
`keepalive` says that the upstreams are trusted never to send what nobody asked for.
"""

from __future__ import annotations

import asyncio
import io
import warnings
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp
from aiohttp import http_exceptions
from yarl import URL

from llmgw_core.backends.transport.aiohttp_progress import Progress, tracing
from llmgw_core.backends.transport.port import TransportError
from llmgw_core.backends.transport.request_bytes import RequestEncoder, refused
from llmgw_core.backends.transport.tls import TlsContext, files_for
from llmgw_core.backends.transport.tunnel import proxy_authorization, refusal
from llmgw_core.domain.outgoing import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from llmgw_core.backends.transport.port import HttpRequest, TransportKind
    from llmgw_core.domain.deployment import Origin, Timeouts
    from llmgw_core.domain.outgoing import Outgoing, Proxy

_IN_ONE_WRITE: Final = 1 << 18


class _Way(NamedTuple):
    """How requests of one origin go."""

    encoder: RequestEncoder
    encrypted: bool
    tls: TlsContext | None
    proxy: Proxy | None


class AiohttpReply:
    """See `UpstreamReply`. Header names are in lower case."""

    __slots__ = (
        "__weakref__",
        "_ended",
        "_failure",
        "_progress",
        "_response",
        "headers",
        "reused",
        "status",
    )

    def __init__(self, response: aiohttp.ClientResponse, progress: Progress) -> None:
        self._ended = False
        self._failure: TransportError | None = None
        self._response = response
        self._progress = progress
        self.status = response.status
        self.headers = tuple((name.lower(), value) for name, value in response.raw_headers)
        self.reused = progress.reused

    async def chunk(self) -> bytes:
        """See `UpstreamReply.chunk`."""
        return await self._next(asyncio.get_running_loop().time() + self._progress.timeouts.idle)

    def whole(self, limit: int) -> None:
        """See `UpstreamReply.whole`."""

    async def read(self, limit: int) -> bytes:
        """See `UpstreamReply.read`."""
        pieces: list[bytes] = []
        size = 0
        while True:
            idle = asyncio.get_running_loop().time() + self._progress.timeouts.idle
            piece = await self._next(min(idle, self._progress.total))
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > limit:
                raise self._fail("too_large", f"the reply is larger than {limit} bytes")
            pieces.append(piece)

    def abort(self) -> None:
        """See `UpstreamReply.abort`."""
        if not self._ended:
            if not self._response.content.is_eof():
                self._fail("reset", "the reply was given up")
            self._ended = True
            self._response.close()

    def __del__(self) -> None:
        if not self._ended:
            warnings.warn(
                "a reply was neither read to its end nor aborted",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._response.close()

    async def _next(self, deadline: float) -> bytes:
        if self._failure is not None:
            raise self._copy(self._failure)
        if self._ended:
            return b""
        try:
            async with asyncio.timeout_at(deadline):
                piece = await self._response.content.readany()
        except TimeoutError:
            raise self._fail("timeout", "the upstream took too long") from None
        except http_exceptions.HttpProcessingError as error:
            raise self._fail("protocol", f"the body is not HTTP/1.1: {error}") from error
        except aiohttp.ClientPayloadError as error:
            raise self._fail(_payload_kind(error), f"the body ended early: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._fail("reset", f"the connection was lost: {error}") from error
        if not piece:
            self._ended = True
        return piece

    def _fail(self, kind: TransportKind, message: str) -> TransportError:
        self._ended = True
        self._response.close()
        self._failure = TransportError(kind, "body", message, reused=self.reused, received=True)
        return self._failure

    def _copy(self, failure: TransportError) -> TransportError:
        return TransportError(failure.kind, "body", str(failure), reused=self.reused, received=True)


class AiohttpTransport:
    """See `Transport`; the limits mean the same as those of `HttptoolsTransport`, but that
    connections are used once: `keepalive` (seconds of rest, 0 = never used again) is for trusted
    upstreams alone. Belongs to the event loop that it is first used in."""

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        keepalive: float = 0.0,
        max_head: int = 65536,
        high_water: int = 65536,
        outgoing: Outgoing = DIRECT,
    ) -> None:
        self._outgoing = outgoing
        self._max_connections = max_connections
        self._keepalive = keepalive
        self._max_head = max_head
        self._high_water = high_water
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._origins: dict[Origin, _Way] = {}
        self._replies: weakref.WeakSet[AiohttpReply] = weakref.WeakSet()
        self._closed = False

    async def send(
        self,
        origin: Origin,
        request: HttpRequest,
        timeouts: Timeouts,
        *,
        fresh: bool = False,
        on_sent: Callable[[], None] | None = None,
    ) -> AiohttpReply:
        """See `Transport.send`."""
        if self._is_closed():
            raise TransportError("pool", "connect", "the transport is closed")
        way = self._way(origin)
        way.encoder.encode(request)
        progress = Progress(timeouts, on_sent)
        try:
            async with progress.deadline:
                context = True if way.tls is None else await way.tls.get()
                response = await self._session(fresh=fresh).request(
                    request.method,
                    _url(origin, request.target),
                    data=_body(request),
                    headers=_headers(request, way),
                    proxy=_proxy_url(way.proxy),
                    proxy_headers=_proxy_headers(way),
                    allow_redirects=False,
                    ssl=context,
                    trace_request_ctx=progress,
                )
        except TimeoutError:
            kind: TransportKind = "pool" if progress.stage == "pool" else "timeout"
            raise progress.error(kind, "the upstream took too long") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _send_error(error, progress) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed() and task is not None and not task.cancelling():
                # Closing the connector cancels those who wait for a connection.
                raise progress.error("pool", "the transport was closed") from None
            raise
        if response.status == 101:
            response.close()
            raise progress.error("protocol", "unexpected reply status 101", received=True)
        reply = AiohttpReply(response, progress)
        self._replies.add(reply)
        return reply

    def retain(self, origins: Set[Origin]) -> None:
        """See `Transport.retain`. Connections that rest end with their `keepalive`."""
        self._origins = {
            origin: known for origin, known in self._origins.items() if origin in origins
        }

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._closed = True
        for reply in tuple(self._replies):
            reply.abort()
        for session in self._sessions.values():
            await session.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _way(self, origin: Origin) -> _Way:
        known = self._origins.get(origin)
        if known is None:
            proxy = self._outgoing.proxy_for(origin.scheme, origin.host, origin.port)
            encrypted = origin.scheme == "https"
            if encrypted or (proxy is not None and proxy.scheme == "https"):
                tls = TlsContext(files_for(origin, self._outgoing))
            else:
                tls = None
            known = self._origins[origin] = _Way(RequestEncoder(origin), encrypted, tls, proxy)
        return known

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(fresh)
        if session is None:
            session = self._sessions[fresh] = self._open_session(fresh=fresh)
        return session

    def _open_session(self, *, fresh: bool) -> aiohttp.ClientSession:
        once = fresh or self._keepalive <= 0
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._max_connections,
            force_close=once,
            keepalive_timeout=None if once else self._keepalive,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("user-agent", "accept", "content-type"),
            read_bufsize=self._high_water,
            max_line_size=self._max_head,
            max_field_size=self._max_head,
            trace_configs=[tracing()],
        )


def _url(origin: Origin, target: str) -> URL:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return URL(f"{origin.scheme}://{host}:{origin.port}{target}", encoded=True)


def _body(request: HttpRequest) -> bytes | io.BytesIO | None:
    if len(request.body) > _IN_ONE_WRITE:
        return io.BytesIO(request.body)
    return request.body or None


def _headers(request: HttpRequest, way: _Way) -> list[tuple[str, str]]:
    try:
        fields = (*request.common, *request.headers)
        pairs = [(name.decode("ascii"), value.decode()) for name, value in fields]
    except UnicodeDecodeError:
        raise refused("aiohttp sends header values in UTF-8 only") from None
    pairs.append(("accept-encoding", "identity"))
    if way.proxy is not None and not way.encrypted:
        pairs += _proxy_headers(way).items()
    return pairs


def _proxy_url(proxy: Proxy | None) -> URL | None:
    """Without user and password, which would be in aiohttp's messages."""
    if proxy is None:
        return None
    return URL.build(scheme=proxy.scheme, host=proxy.host, port=proxy.port)


def _proxy_headers(way: _Way) -> dict[str, str]:
    value = proxy_authorization(way.proxy) if way.proxy is not None else b""
    return {"proxy-authorization": value.decode("ascii")} if value else {}


def _send_error(error: Exception, progress: Progress) -> TransportError:
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return progress.error("dns", message)
    if isinstance(error, aiohttp.ClientSSLError):
        return progress.error("tls", message)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        reset = isinstance(cause, ConnectionResetError | ConnectionAbortedError)
        return progress.error("reset" if reset else "refused", message)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return refusal(error.status)
    if isinstance(error, aiohttp.ClientResponseError):
        if _caused_by_size(error):
            return progress.error("too_large", "the head of the reply is too large", received=True)
        return progress.error("protocol", "the reply is not HTTP/1.1", received=True)
    return progress.error("reset", message)


def _caused_by_size(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, http_exceptions.LineTooLong):
        error = error.__cause__
    return error is not None


def _payload_kind(error: aiohttp.ClientPayloadError) -> TransportKind:
    """A body that is cut is a reset; one that breaks the rules of chunks is not."""
    return "reset" if "not completed" in str(error) else "protocol"
