"""The official `openai` clients over a gateway in the same process.

A client's HTTP library is given a transport that hands each request to the gateway's entrance and
reads the reply piece by piece; below it there is no connection, so no socket is ever opened.
Retries, timeouts and errors are the client's own.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import GatewayError

try:
    import httpx2 as httpx
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
except ImportError as missing:
    raise ImportError(
        "The official client, version 3 or later, is not installed: pip install 'llmgw[openai]'."
    ) from missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from llmgw_core.domain.access import Principal
    from llmgw_core.inprocess.calls import Calls, InProcessCall
    from llmgw_core.inprocess.portal import Portal

BASE_URL = "http://gateway.invalid/v1"
"""No address: names below `.invalid` do not exist (RFC 2606). Paths are those of the gateway."""


def asynchronous(
    calls: Calls, key: str | None, principal: Principal | None, options: dict[str, Any]
) -> AsyncOpenAI:
    """An `openai.AsyncOpenAI` for coroutines in the gateway's loop."""
    client = DefaultAsyncHttpxClient(transport=AsyncTransport(calls, principal), trust_env=False)
    return AsyncOpenAI(api_key=key or "none", base_url=BASE_URL, http_client=client, **options)


def blocking(
    calls: Calls, key: str | None, principal: Principal | None, options: dict[str, Any]
) -> OpenAI:
    """An `openai.OpenAI` for other threads than that of the gateway's loop."""
    transport = BlockingTransport(AsyncTransport(calls, principal), calls.portal)
    client = DefaultHttpxClient(transport=transport, trust_env=False)
    return OpenAI(api_key=key or "none", base_url=BASE_URL, http_client=client, **options)


class AsyncTransport(httpx.AsyncBaseTransport):
    """Requests of one client into one gateway; with a `principal`, the client's key is nothing."""

    def __init__(self, calls: Calls, principal: Principal | None) -> None:
        self._calls, self._principal = calls, principal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer when the head of the reply is there; its body follows as it comes."""
        status, headers, body = await self.answer(request, await request.aread())
        return httpx.Response(status, headers=headers, stream=body, request=request)

    async def answer(
        self, request: httpx.Request, content: bytes
    ) -> tuple[int, list[tuple[str, str]], ReplyBody]:
        """Status, header fields and body of the reply to a request whose body has been read."""
        url, timeouts = request.url, request.extensions.get("timeout", {})
        fields = tuple((name.lower(), value) for name, value in request.headers.raw)
        head = Head(request.method, url.path, fields, query=url.query)
        with _translated(request):
            call = self._calls.begin(head, content, self._principal)
            body = ReplyBody(call, request, timeouts.get("read"))
            try:
                async with asyncio.timeout(body.seconds):
                    status, headers = await call.head()
            except BaseException:
                await call.aclose()
                raise
        return status, headers, body


class ReplyBody(httpx.AsyncByteStream):
    """The body of a reply; `seconds` bounds the wait for each piece."""

    def __init__(self, call: InProcessCall, request: httpx.Request, seconds: float | None) -> None:
        self.seconds = seconds
        self._call, self._request = call, request

    async def read(self) -> bytes:
        """The next piece, b"" at the end."""
        with _translated(self._request):
            async with asyncio.timeout(self.seconds):
                return await self._call.read()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    async def aclose(self) -> None:
        """The client wants no more."""
        await self._call.aclose()

    def leave(self) -> None:
        """The same without waiting."""
        self._call.leave()


class BlockingTransport(httpx.BaseTransport):
    """The same for threads: the work is done in the gateway's loop."""

    def __init__(self, transport: AsyncTransport, portal: Portal) -> None:
        self._transport, self._portal = transport, portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `AsyncTransport`."""
        content = request.read()
        with _translated(request):
            status, headers, body = self._portal.run(self._transport.answer(request, content))
        stream = BlockingBody(body, self._portal, request)
        return httpx.Response(status, headers=headers, stream=stream, request=request)


class BlockingBody(httpx.SyncByteStream):
    """A `ReplyBody` for threads."""

    def __init__(self, body: ReplyBody, portal: Portal, request: httpx.Request) -> None:
        self._body, self._portal, self._request = body, portal, request

    def __iter__(self) -> Iterator[bytes]:
        with _translated(self._request):
            while piece := self._portal.run(self._body.read()):
                yield piece

    def close(self) -> None:
        """The client wants no more. Not waiting: a forgotten stream is closed by a finalizer."""
        self._portal.soon(self._body.leave)


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """Failures of the way, not of the call, as the HTTP library names them."""
    try:
        yield
    except TimeoutError:
        raise httpx.ReadTimeout("The reply did not come in time.", request=request) from None
    except GatewayError as error:  # only that the gateway is closed; all others are replies
        raise httpx.ConnectError(error.message, request=request) from None
