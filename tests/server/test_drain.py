"""SIGTERM under load, in a real process on its own event loop: no reply is cut, every call is on
the books, and nothing new is taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import Config
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import DONE, JSON, SSE, chat_events, completion
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

from .conftest import read_head, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from llmgw_core.config.schema import Config, ListenerConfig, ServerConfig
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.tenants import create_tenant
from llmgw_server.listening import open_listeners
from llmgw_server.serve import run

settings = ServerConfig(port=0, metrics=ListenerConfig(), drain_seconds={drain})
config = Config(models={{"m": served_by(at({port}))}}, server=settings)
listeners = open_listeners(settings, server={kind!r})

async def ready(gateway, url):
    tenant = await create_tenant(gateway.store)
    print(*(listener.url.rpartition(":")[2] for listener in listeners), tenant.key, flush=True)

opening = Gateway.open(config, plugins=[("canonical", CanonicalPlugin)])
run(opening, listeners, server={kind!r}, ready=ready)
"""
STREAMS, CALLS = 12, 4
"""Clients that ask again as soon as they have their reply."""


class Process:
    """The gateway's process, its port, that of its metrics listener, and a key."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: str, metrics: str, key: str
    ) -> None:
        self.process = process
        self.port = int(port)
        self.metrics = int(metrics)
        self.key = key

    def request(self, *, stream: bool) -> bytes:
        """One chat."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        body = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {self.key}"
        return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def gateway(
    directory: Path, port: int, kind: str, *, drain: float = 20.0
) -> AsyncIterator[Process]:
    root = str(Path(__file__).parents[2])
    program = PROGRAM.format(root=root, port=port, kind=kind, drain=drain)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=directory, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode().split()
        assert line, (await process.communicate())[1].decode()
        yield Process(process, *line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Load:
    """Clients and what became of their requests."""

    def __init__(self, target: Process) -> None:
        self.target = target
        self.complete = 0
        self.refused = 0
        self.cut: list[str] = []
        self.enough = asyncio.Event()

    async def client(self, *, stream: bool) -> None:
        """Ask over one connection after the other until nobody answers any more."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.target.port)
            except OSError:
                return
            try:
                while await self._ask(reader, writer, stream=stream):
                    pass
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, stream: bool
    ) -> bool:
        """Whether the connection may be used again."""
        writer.write(self.target.request(stream=stream))
        try:
            first = await reader.readexactly(1)
        except (OSError, asyncio.IncompleteReadError):
            self.refused += 1  # not one byte: nobody has begun to answer
            return False
        try:
            rest = asyncio.StreamReader()
            rest.feed_data(first + await reader.readuntil(b"\r\n\r\n"))
            status, headers = await read_head(rest)
            if stream:
                body = await reader.readuntil(b"\r\n0\r\n\r\n")
                assert DONE in body
            else:
                body = await reader.readexactly(int(headers["content-length"]))
                assert json.loads(body)["choices"]
            assert status == 200
        except (OSError, asyncio.IncompleteReadError, AssertionError, KeyError) as error:
            self.cut.append(repr(error))
            return False
        self.complete += 1
        if self.complete >= STREAMS + CALLS:
            self.enough.set()
        return headers.get("connection") != "close"


async def slow(peer: Peer) -> None:
    """An upstream that takes its time for every part of a reply."""
    while True:
        request = await peer.request()
        if not json.loads(request.body).get("stream"):
            await asyncio.sleep(0.02)
            await peer.send(http_reply(200, json.dumps(completion()).encode(), JSON))
            continue
        await peer.send(chunked_head(200, SSE))
        for event in chat_events(["word"] * 8):
            await asyncio.sleep(0.02)
            await peer.send(chunk(event))
        await peer.send(chunk(b""))


async def rows(directory: Path, port: int) -> int:
    config = Config(models={"m": served_by(at(port))})
    plugins = [("canonical", CanonicalPlugin)]
    async with Gateway.open(config, base_dir=directory, plugins=plugins) as opened:
        await opened.mover.move_once()
        return len(await opened.ledger.rows(limit=1_000_000))


async def test_sigterm_under_load_cuts_no_reply_and_loses_no_row(kind: str, tmp_path: Path) -> None:
    async with Upstream(slow) as upstream, gateway(tmp_path, upstream.port, kind) as running:
        load = Load(running)
        clients = [
            asyncio.create_task(load.client(stream=number < STREAMS))
            for number in range(STREAMS + CALLS)
        ]
        await load.enough.wait()
        before = load.complete
        running.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        _, errors = await running.process.communicate()
        assert running.process.returncode == 0, errors.decode()
        assert load.cut == []
        assert load.complete >= before + STREAMS  # those that were under way
        assert b"Traceback" not in errors
        assert await rows(tmp_path, upstream.port) == load.complete


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_readiness_falls_at_once_nothing_new_is_taken_and_a_second_signal_ends_it(
    kind: str, tmp_path: Path, number: signal.Signals
) -> None:
    async def held(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE))
        await peer.send(chunk(b"".join(chat_events(["word"])[:2])))
        await peer.stall()

    async with Upstream(held) as upstream, gateway(tmp_path, upstream.port, kind) as running:
        stream, writer = await asyncio.open_connection("127.0.0.1", running.port)
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(running.request(stream=True))
        await stream.readuntil(b"word")
        running.process.send_signal(signal.SIGTERM)
        assert await idle.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", running.port)
        # A connection that is busy takes no second call either.
        writer.write(running.request(stream=True))
        probe, probe_writer = await asyncio.open_connection("127.0.0.1", running.metrics)
        probe_writer.write(b"GET /health/ready HTTP/1.1\r\nhost: a\r\n\r\n")
        status, _, body = await read_reply(probe)
        assert (status, json.loads(body)["reasons"]) == (503, ["The server is about to end."])
        assert upstream.accepted == 1
        running.process.send_signal(number)
        assert await running.process.wait() == 128 + number
        for each in (writer, idle_writer, probe_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()
