"""A client that does not read: the upstream is not read either, so that memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import ServerConfig, TlsConfig
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import SSE, chat_chunk, event
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head
from llmgw_server.app import create_app

from .conftest import Authority, running

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install

PART = chunk(event(chat_chunk({"content": "x" * 8000})))
BOUND = 128 * 1024 * 1024
"""More than the operating system keeps in the sockets between the two ends (some 10 MB, up to
what it is configured for); without backpressure it is passed in no time."""
MEMORY = 8 * 1024 * 1024
"""What the process itself may keep of it, upstream and client included."""
QUIET = 0.3
"""Seconds in which nothing more is taken: then everything in between is full."""


class Endless:
    """An upstream whose stream has no end; it counts what is taken of it."""

    def __init__(self) -> None:
        self.taken = 0
        self.more = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        while True:
            await peer.send(PART)
            self.taken += len(PART)
            assert self.taken < BOUND
            self.more.set()

    async def blocked(self) -> None:
        """Until nothing more is taken."""
        while True:
            self.more.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self.more.wait()
            except TimeoutError:
                return


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_slow_reader_slows_its_upstream(
    kind: str, secure: bool, installed: Install, authority: Authority
) -> None:
    endless = Endless()
    certificate, key = authority.issue("server")
    settings = ServerConfig(port=0, tls=TlsConfig(certificate, key) if secure else None)
    async with Upstream(endless) as upstream:
        installation = await installed({"m": [at(upstream)]}, server=settings)
        application = create_app(installation.gateway)
        async with running(application, kind, configured=True) as served:
            link = socket.socket()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            link.setblocking(False)
            await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", served.port))
            options = {"ssl": authority.trusting(), "server_hostname": "localhost"}
            reader, writer = await asyncio.open_connection(
                sock=link,
                limit=65536,
                **(options if secure else {}),  # type: ignore[arg-type]
            )
            asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            body = json.dumps(asked).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer "
                + installation.tenant.key.encode()
                + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            before = resident()
            await endless.blocked()
            held = endless.taken
            assert resident() - before < MEMORY
            # The stream goes on where it stopped once its client reads again.
            wanted = held + 256 * 1024
            received = 0
            while received < wanted:
                received += len(await reader.read(65536))
            assert endless.taken > held
            await endless.blocked()
            writer.transport.abort()
    [record] = await installation.records()
    assert record.status == "client_left"
