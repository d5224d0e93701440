"""What a client that hardly reads costs: memory of a whole gateway process, on both servers, plain,
under TLS and over HTTP/2, with and without a filter on the stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import pytest

from llmgw_core.testing.model_server import DONE, SSE, chat_chunk, event
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head
from llmgw_server.cli import main

from .test_tls_processes import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from .conftest import Authority

BOUND = 1_000_000
"""Bytes that one stalled client may cost."""
CLIENTS = 4
SIZE = 50_000_000
"""Of a stream; more than the sockets between the two ends hold."""
PART = chunk(event(chat_chunk({"content": "x" * 8000})))
READS = 5
"""Of one byte each, while the upstream presses."""
QUIET = 0.15
"""Seconds in which nothing more is taken: then everything in between is full."""

CONFIG = """
server:
  port: 0
  {tls}
accounting: {{unpriced: zero}}
plugins:
  - {{name: canonical, path: parts.py:Canonical}}
  - {{name: passing, path: parts.py:Passing}}
models:
  plain: &model
    deployments: [{{name: a, backend: canonical, zone: onprem, options: {{port: {port}}}}}]
  filtered: *model
"""
PARTS = """
from llmgw_core import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalPlugin


class Canonical(CanonicalPlugin):
    pass


class Pass:
    def feed(self, event):
        return event

    def finish(self):
        return None


class Passing:
    def __init__(self, config, context):
        pass

    @hookimpl
    def open_stream(self, call):
        return Pass() if call.model == "filtered" else None
"""


class Fast:
    """An upstream that sends as fast as anybody takes it; `taken` counts."""

    def __init__(self) -> None:
        self.taken = 0
        self.finished = 0
        self._more = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        for _ in range(SIZE // len(PART)):
            await peer.send(PART)
            self.taken += len(PART)
            self._more.set()
        await peer.send(chunk(DONE) + chunk(b""))
        self.finished += 1

    async def blocked(self) -> None:
        """Until nothing more is taken."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._more.clear()
                async with asyncio.timeout(QUIET):
                    await self._more.wait()


class Client:
    """One connection with one call. HTTP/1.1, or HTTP/2 with a window that nobody opens."""

    def __init__(self, port: int, key: str, model: str, context: ssl.SSLContext | None) -> None:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        self._body = json.dumps(body).encode()
        self._port, self._key, self._context = port, key, context
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", self._port))
        options: dict[str, Any] = {}
        if self._context is not None:
            options = {"ssl": self._context, "server_hostname": "localhost"}
        self._reader, self._writer = await asyncio.open_connection(sock=link, limit=1, **options)
        secure = self._writer.get_extra_info("ssl_object")
        two = secure is not None and secure.selected_alpn_protocol() == "h2"
        self._writer.write(self._http2() if two else self._http1())

    def _http1(self) -> bytes:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {self._key}"
        return f"{head}\r\ncontent-length: {len(self._body)}\r\n\r\n".encode() + self._body

    def _http2(self) -> bytes:
        connection = h2.connection.H2Connection(h2.config.H2Configuration())
        connection.initiate_connection()
        head = [(":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "https")]
        head += [(":authority", "a"), ("authorization", f"Bearer {self._key}")]
        connection.send_headers(1, head)
        connection.send_data(1, self._body, end_stream=True)
        return bytes(connection.data_to_send())

    async def read(self, size: int) -> int:
        """At most so many bytes; how many it was."""
        return len(await self._reader.read(size))

    async def leave(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextlib.asynccontextmanager
async def stalled(clients: list[Client], fast: Fast) -> AsyncIterator[None]:
    """Clients that read a byte now and then while everything in between is full."""
    for client in clients:
        await client.open()
    await fast.blocked()
    for _ in range(READS):
        for client in clients:
            assert await client.read(1) == 1
        await asyncio.sleep(0.02)
    await fast.blocked()
    try:
        yield
    finally:
        for client in clients:
            await client.leave()


async def warm_up(clients: list[Client]) -> None:
    """Let the gateway do all of it once, so that only what stalling costs is measured."""
    for client in clients:
        await client.open()
    for client in clients:
        received = 0
        with contextlib.suppress(TimeoutError):  # over HTTP/2 there is no more
            while received < 1_000_000:
                async with asyncio.timeout(QUIET):
                    received += await client.read(65536)
        assert received > 60_000
    for client in clients:
        await client.leave()


@contextlib.asynccontextmanager
async def installation(
    directory: Path, tls: str, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[tuple[Fast, str]]:
    """An upstream, a configuration in `directory` and a key."""
    fast = Fast()
    config = directory / "llmgw.yaml"
    (directory / "parts.py").write_text(PARTS)
    async with Upstream(fast) as upstream:
        config.write_text(CONFIG.format(tls=tls, port=upstream.port))
        words = (["orgs", "create", "acme", "--models", "*"], ["keys", "create", "--org", "acme"])
        for each in words:
            assert await asyncio.to_thread(main, [*each, "--config", str(config)]) == 0
        found = re.search(r"sk-llmgw-\S+", capsys.readouterr().out)
        assert found is not None
        yield fast, found[0]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_stalled_client_costs_less_than_a_megabyte(
    kind: str,
    tmp_path: Path,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    *,
    secure: bool,
) -> None:
    certificate, key_file = authority.issue("server")
    tls = f"tls: {{certificate: {certificate}, key: {key_file}}}" if secure else ""
    contexts: dict[str, ssl.SSLContext | None] = {"": None}
    if secure:
        contexts = {"http/1.1": authority.trusting(alpn=("http/1.1",))}
        if kind == "hypercorn":
            contexts["h2"] = authority.trusting(alpn=("h2",))
    async with (
        installation(tmp_path, tls, capsys) as (fast, key),
        serving(tmp_path, kind) as (process, url),
    ):
        port = int(url.rpartition(":")[2])
        for context in contexts.values():
            for model in ("plain",) if secure else ("plain", "filtered"):
                make = partial(Client, port, key, model, context)
                await warm_up([make() for _ in range(CLIENTS)])
                await fast.blocked()
                before = resident(process.pid)
                async with stalled([make() for _ in range(CLIENTS)], fast):
                    cost = (resident(process.pid) - before) / CLIENTS
                assert cost < BOUND
                assert fast.finished == 0
