"""A gateway whose `handle` the test writes, served over real sockets by both servers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trustme
import uvicorn

from llmgw_core.config.schema import Config, RequestLimits, ServerConfig
from llmgw_core.domain.call import ClientGone
from llmgw_core.domain.errors import GatewayError
from llmgw_core.pipeline.stats import Stats
from llmgw_core.wire.envelope import error_body, error_headers
from llmgw_server.app import Application, create_app
from llmgw_server.cli import main
from llmgw_server.listening import Listener, bind, close_all, listen, open_listeners
from llmgw_server.serve import serve_app

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.gateway import Gateway

    Handle = Callable[[Head, Body, Sink], Awaitable[object]]


class Entrance:
    """What the server needs of a gateway; `handle` is the test's, errors become envelopes."""

    def __init__(self, handle: Handle, *, body_seconds: float = 60.0, **server: Any) -> None:
        self.config = Config(
            requests=RequestLimits(body_seconds=body_seconds), server=ServerConfig(**server)
        )
        self.file = None
        self.stats = Stats()
        self.reasons: list[str] = []
        self.told: list[str] = []
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self._handle = handle
        self._listeners: list[Callable[[], None]] = []
        self._ids = 0

    def after_reload(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def reload(self, handle: Handle) -> None:
        """Go on with another handle."""
        self.handle = Entrance(handle).handle  # type: ignore[method-assign]
        for tell in self._listeners:
            tell()

    def readiness(self) -> list[str]:
        return self.reasons

    def notices(self) -> list[str]:
        return self.told

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


def watchers() -> list[asyncio.Task[Any]]:
    """The tasks that look out for clients that leave."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "llmgw client watch"]


async def reply(sink: Sink, text: bytes, status: int = 200) -> None:
    """A complete reply."""
    await sink.start(status, [(b"content-length", b"%d" % len(text))])
    await sink.finish(text)


PLAIN = "uvicorn, ASGI only"


class Running:
    """A server in this loop and raw connections to it."""

    def __init__(self, urls: list[str], stop: asyncio.Event) -> None:
        self.urls = urls
        """Of every listener, the public one first."""
        self.port = port_of(urls[0])
        self.stop = stop
        self.serving: asyncio.Task[None] | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(
        self, port: int | None = None, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port, **options)
        self._writers.append(writer)
        return reader, writer

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(raw)
        return reader, writer

    async def exchange(
        self, raw: bytes, port: int | None = None, **options: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """Send `raw`, read one reply."""
        reader, writer = await self.connect(port, **options)
        writer.write(raw)
        return await read_reply(reader)

    async def aclose(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2]) if url.startswith("http") else 0


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
    application: Application,
    kind: str,
    *,
    drain_seconds: float = 5.0,
    configured: bool = False,
    instead: ServerConfig | None = None,
) -> AsyncIterator[Running]:
    """`application` on a free port, or on the listeners that it is `configured` for, or on those
    of `instead`."""
    settings = instead or application.gateway.config.server
    if configured or instead is not None:
        listeners = open_listeners(settings, server=kind)
    else:
        listeners = [Listener(bind("127.0.0.1", 0))]
    for listener in listeners:
        listen(listener.socket)
    stop = asyncio.Event()
    server = Running([listener.url for listener in listeners], stop)
    if kind == PLAIN:
        work = serve_plain(application, listeners[0].socket, stop)
    else:
        settings = msgspec.structs.replace(settings, drain_seconds=drain_seconds)
        work = serve_app(application, listeners, server=kind, settings=settings, stop=stop)
    serving = server.serving = asyncio.create_task(work)
    try:
        yield server
    finally:
        await server.aclose()
        stop.set()
        await serving
        close_all(listeners)


async def serve_plain(application: Application, bound: socket.socket, stop: asyncio.Event) -> None:
    """Serve as uvicorn serves any other application."""

    class Embedded(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def on_tick(self, counter: int) -> bool:
            return stop.is_set() or await super().on_tick(counter)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    config = uvicorn.Config(app, loop="none", ws="none", log_config=None, http="httptools")
    await Embedded(config).serve(sockets=[bound])


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    """The ASGI server that a test runs on."""
    return cast("str", request.param)


class Authority:
    """A certificate authority and the PEM files that it makes in `directory`."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.file = str(directory / f"{name}.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *identities: str, **options: Any) -> tuple[str, str]:
        """The files of a certificate with its chain, and of its key."""
        issued = self.ca.issue_cert(*(identities or ("127.0.0.1", "localhost")), **options)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return str(certificate), str(key)

    def trusting(self, *files: str, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """The context of a client that trusts this authority, with a certificate if given."""
        context = ssl.create_default_context(cafile=self.file)
        if files:
            context.load_cert_chain(*files)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


CONFIG = """
models:
  smart:
    fallbacks: [small]
    prices:
      - {from: 2026-01-01, cost: {input: 1, output: 2}, charge: {input: 1.5, output: 3, call: 0.1}}
    deployments:
      - {name: a, backend: nothing, zone: eu}
      - name: b
        backend: nothing
        zone: onprem
        prices: [{from: 2026-01-01, cost: {input: 0.25, output: 0.5}}]
  small:
    prices: [{from: 2026-01-01, cost: {}}]
    deployments: [{name: a, backend: nothing, zone: onprem}]
"""


@pytest.fixture
def llmgw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed, on one configuration; returns its standard output."""
    config = tmp_path / "llmgw.yaml"
    config.write_text(CONFIG)

    def run(*words: str) -> str:
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, captured.err if "create" in words else "")
        return captured.out

    return run


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with 1; returns its sentence."""

    def run(*words: str) -> str:
        code = main([*words, "--config", str(tmp_path / "llmgw.yaml")])
        captured = capsys.readouterr()
        assert (code, captured.out) == (1, "")
        assert captured.err.startswith("llmgw-server: ")
        assert "Traceback" not in captured.err
        return captured.err.removeprefix("llmgw-server: ").strip()

    return run
