"""A gateway whose `handle` the test writes, served over real sockets by both servers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from llmgw_core.config.schema import Config, RequestLimits
from llmgw_core.domain.call import ClientGone
from llmgw_core.domain.errors import GatewayError
from llmgw_core.pipeline.stats import Stats
from llmgw_core.wire.envelope import error_body, error_headers
from llmgw_server.app import Application, create_app
from llmgw_server.serve import bind, listen, serve_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.gateway import Gateway

    Handle = Callable[[Head, Body, Sink], Awaitable[None]]


class Entrance:
    """What the server needs of a gateway; `handle` is the test's, errors become envelopes."""

    def __init__(self, handle: Handle, *, body_seconds: float = 60.0) -> None:
        self.config = Config(requests=RequestLimits(body_seconds=body_seconds))
        self.stats = Stats()
        self.reasons: list[str] = []
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self._handle = handle
        self._ids = 0

    def readiness(self) -> list[str]:
        return self.reasons

    def new_call_id(self) -> str:
        self._ids += 1
        return f"call-{self._ids}"

    async def handle(self, head: Head, body: Body, sink: Sink) -> None:
        failure: BaseException | None = None
        try:
            await self._handle(head, body, sink)
        except GatewayError as error:
            failure = error
            text = error_body(error, "call-x")
            length = (b"content-length", b"%d" % len(text))
            await sink.start(error.status, [*error_headers(error, "call-x"), length])
            await sink.finish(text)
        except ClientGone as error:
            failure = error
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            self.ended.put_nowait(failure)

    def application(self) -> Application:
        return create_app(cast("Gateway", self))


async def reply(sink: Sink, text: bytes, status: int = 200) -> None:
    """A complete reply."""
    await sink.start(status, [(b"content-length", b"%d" % len(text))])
    await sink.finish(text)


class Running:
    """A server in this loop and raw connections to it."""

    def __init__(self, port: int, stop: asyncio.Event) -> None:
        self.port = port
        self.stop = stop
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(raw)
        return reader, writer

    async def exchange(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send `raw`, read one reply."""
        reader, _ = await self.send(raw)
        return await read_reply(reader)

    async def aclose(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), headers


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, headers = await read_head(reader)
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readline()
    return status, headers, body


@asynccontextmanager
async def running(
    application: Any, kind: str, *, drain_seconds: float = 5.0
) -> AsyncIterator[Running]:
    listener = bind("127.0.0.1", 0)
    listen(listener)
    stop = asyncio.Event()
    server = Running(listener.getsockname()[1], stop)
    serving = asyncio.create_task(
        serve_app(application, listener, server=kind, drain_seconds=drain_seconds, stop=stop)
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
