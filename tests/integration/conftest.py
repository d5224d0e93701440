"""The real server on a free port, and a client that sees every byte of what it answers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from llmgw_core.testing.upstream import http_reply
from llmgw_server.app import create_app
from llmgw_server.serve import bind, listen, serve_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from llmgw_core.gateway import Gateway
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.upstream import Peer

    Serve = Callable[[Installation], Awaitable["Server"]]

CHAT = "/v1/chat/completions"


class HttpReply(msgspec.Struct, frozen=True):
    """A reply as it came; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header line of that name."""
        return next((value for known, value in self.headers if known == name), None)

    def json(self) -> Any:
        """The decoded body."""
        return msgspec.json.decode(self.body)


class HttpConnection:
    """One connection to a server, kept alive between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(
        self, path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> HttpReply:
        """Send one request and read its reply; `headers` come besides host and length."""
        lines = [b"POST " + path.encode() + b" HTTP/1.1", b"host: gateway"]
        lines += [name + b": " + value for name, value in headers]
        lines.append(b"content-length: %d" % len(body))
        self._writer.write(b"\r\n".join([*lines, b"", body]))
        return await self._reply()

    async def aclose(self) -> None:
        """Close it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _reply(self) -> HttpReply:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        headers = tuple(
            (name.lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines)
        )
        fields = dict(headers)
        length = fields.get(b"content-length")
        if length is not None:
            body = await self._reader.readexactly(int(length))
        else:
            assert fields[b"transfer-encoding"] == b"chunked"
            body = await self._chunks()
        return HttpReply(int(first.split()[1]), headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        assert await self._reader.readline() == b"\r\n"
        return body


class Server:
    """A served gateway; `port` is where. Connections are closed with it."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key
        self._stack = AsyncExitStack()

    async def connect(self) -> HttpConnection:
        """A new connection."""
        connection = HttpConnection(*await asyncio.open_connection("127.0.0.1", self.port))
        self._stack.push_async_callback(connection.aclose)
        return connection

    async def post(
        self,
        path: str,
        body: bytes,
        *headers: tuple[bytes, bytes],
        key: str | None = None,
        on: HttpConnection | None = None,
    ) -> HttpReply:
        """One POST of JSON with a key (the tenant's by default), over a connection of its own
        unless one is given."""
        connection = on or await self.connect()
        own = [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + (key or self.key).encode()),
        ]
        return await connection.post(path, body, [*own, *headers])

    async def aclose(self) -> None:
        """Close every connection."""
        await self._stack.aclose()


@asynccontextmanager
async def running(gateway: Gateway, key: str, kind: str) -> AsyncIterator[Server]:
    """`gateway` behind the ASGI server `kind`, in this loop, on a free port."""
    listener = bind("127.0.0.1", 0)
    listen(listener)
    stop = asyncio.Event()
    server = Server(listener.getsockname()[1], key)
    app = create_app(gateway)
    serving = asyncio.create_task(
        serve_app(app, listener, server=kind, drain_seconds=5.0, stop=stop)
    )
    try:
        yield server
    finally:
        await server.aclose()
        stop.set()
        await serving
        listener.close()


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    """The ASGI server that a test runs on."""
    return cast("str", request.param)


@pytest.fixture
async def serve(kind: str, installed: Install) -> AsyncIterator[Serve]:
    """Serves installations by the server `kind`; the servers end before the gateways do."""
    async with AsyncExitStack() as stack:

        async def served(installation: Installation) -> Server:
            key = installation.tenant.key
            return await stack.enter_async_context(running(installation.gateway, key, kind))

        yield served


class Answering:
    """The script of an upstream that sends what the test has put into `pieces`, each piece by
    itself as far as TCP allows, in answer to every request."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: tuple[bytes, ...] = pieces

    def document(
        self, body: bytes, *headers: tuple[bytes, bytes], status: int = 200, kind: bytes = b""
    ) -> None:
        """From now on answer with `body`, of content type `kind` (default JSON)."""
        fields = [(b"content-type", kind or b"application/json"), *headers]
        self.pieces = (http_reply(status, body, fields),)

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            for piece in self.pieces:
                await peer.send(piece)
                await asyncio.sleep(0)
