"""`kill -9` under load: every reply whose last byte arrived is on the books, none is there twice.

The server is a real one in a process of its own (`kill_child.py`), which holds every last part
back from the gateway for a while; the killer strikes in the very moment in which a client has its
last byte. A settlement behind the final send cannot get through that, as the second test shows.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.schema import Config
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, install, served_by
from llmgw_core.testing.model_server import DONE, JSON, SSE, chat_events, completion
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.usage_report import UsageRow

STREAMS = 80
DOCUMENTS = 8
IN_FLIGHT = 50
"""Streams that have begun and not ended when the signal is sent, at least."""
WORDS = [f" word-{number}" for number in range(8)]
PACE = 0.04
"""Mean seconds between two events of a stream."""
LONGEST_WAIT = 0.6
"""The signal comes up to so many seconds after enough streams have begun."""
ROUND_SECONDS = 30.0
SERVERS = ["uvicorn", "hypercorn"]
"""In turn."""


class Pacer:
    """An upstream whose events come one by one, as a model makes them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._events = chat_events(WORDS)
        self._reply = http_reply(200, msgspec.json.encode(completion()), JSON)

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if not msgspec.json.decode(request.body).get("stream"):
                await asyncio.sleep(self._chance.uniform(0, 2 * PACE))
                await peer.send(self._reply)
                continue
            await peer.send(chunked_head(200, SSE))
            for piece in self._events:
                await peer.send(chunk(piece))
                await asyncio.sleep(self._chance.uniform(0, 2 * PACE))
            await peer.send(chunk(b""))


class Child:
    """One server process. It has imported everything and waits for `start`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.port = 0

    async def start(self) -> None:
        assert self.process.stdin is not None
        assert await self._line() == b"imported\n"
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        self.port = int(await self._line())

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        return await asyncio.to_thread(self.process.stdout.readline)


@contextmanager
def child(data: Path, upstream: Upstream, server: str, mode: str) -> Iterator[Child]:
    script = Path(__file__).with_name("kill_child.py")
    with (
        (data / "server.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, str(script), str(data), str(upstream.port), server, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process,
    ):
        try:
            yield Child(process)
        finally:
            process.kill()


class Round:
    """Clients on one server until it is killed. `arrived` are the ids of the replies whose last
    byte has come: the whole body of a document, the end marker of a stream."""

    def __init__(self, server: Child, key: str, wait: float) -> None:
        self.arrived: list[str] = []
        self.in_flight_at_kill = 0
        self._server = server
        self._key = key
        self._wait = wait
        self._streaming: set[str] = set()
        self._armed: asyncio.TimerHandle | None = None
        self._ripe = False
        self._killed = False

    async def run(self) -> None:
        """Raises what a client found wrong; that the server has gone is not wrong."""
        kinds = [True] * STREAMS + [False] * DOCUMENTS
        async with asyncio.timeout(ROUND_SECONDS), asyncio.TaskGroup() as clients:
            for stream in kinds:
                clients.create_task(self._client(stream))

    async def _client(self, stream: bool) -> None:
        body = msgspec.json.encode(
            {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Go"}]}
        )
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}"
            f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            try:
                while not self._killed:
                    writer.write(head.encode() + body)
                    await (self._stream if stream else self._document)(reader)
            finally:
                writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            assert self._killed, "the server closed a connection although it was alive"

    async def _document(self, reader: asyncio.StreamReader) -> None:
        headers = await self._head(reader)
        await reader.readexactly(int(headers["content-length"]))
        self._complete(headers["x-request-id"])

    async def _stream(self, reader: asyncio.StreamReader) -> None:
        call_id = (await self._head(reader))["x-request-id"]
        body = b""
        try:
            while not body.endswith(DONE):
                data = await self._chunk(reader)
                assert data, f"a stream ended without its end marker: {body[-500:]!r}"
                body += data
                self._begun(call_id)
        finally:
            self._streaming.discard(call_id)
        self._complete(call_id)
        assert await self._chunk(reader) == b""

    async def _head(self, reader: asyncio.StreamReader) -> dict[str, str]:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert status.split()[1] == "200", status
        return dict(line.lower().split(": ", 1) for line in lines if line)

    async def _chunk(self, reader: asyncio.StreamReader) -> bytes:
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:size]

    def _begun(self, call_id: str) -> None:
        self._streaming.add(call_id)
        if self._armed is None and len(self._streaming) >= IN_FLIGHT:
            loop = asyncio.get_running_loop()
            self._armed = loop.call_later(self._wait, setattr, self, "_ripe", True)

    def _complete(self, call_id: str) -> None:
        """The last byte is here. The killer acts within the same step of the loop."""
        self.arrived.append(call_id)
        if self._ripe and not self._killed and len(self._streaming) >= IN_FLIGHT:
            self._killed = True
            self._server.process.kill()
            self.in_flight_at_kill = len(self._streaming)


async def kill_again_and_again(data: Path, mode: str, rounds: int, seed: int) -> list[Round]:
    """Serve from `data`, kill, serve again. The next server gets ready beside the running one,
    but opens the data only when that one is dead."""
    chance = random.Random(seed)
    done = []
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream(Pacer(chance)))
        async with install(data, {"m": [at(upstream)]}) as installed:
            key = installed.tenant.key
        kinds = [SERVERS[number % len(SERVERS)] for number in range(rounds)]
        following = stack.enter_context(child(data, upstream, kinds.pop(0), mode))
        for _ in range(rounds):
            server = following
            if kinds:
                following = stack.enter_context(child(data, upstream, kinds.pop(0), mode))
            await server.start()
            this = Round(server, key, chance.uniform(0, LONGEST_WAIT))
            await this.run()
            assert server.process.wait() == -9
            done.append(this)
    return done


async def books(data: Path) -> tuple[list[UsageRecord], list[UsageRow]]:
    """The rows and the sums after one more start, with everything moved."""
    config = Config(models={"m": served_by(at(9))})
    plugins = [("canonical", CanonicalPlugin)]
    rows: list[UsageRecord] = []
    async with Gateway.open(config, base_dir=data, plugins=plugins) as gateway:
        await gateway.mover.move_once()
        cursor = 0
        while page := await gateway.ledger.rows(after=cursor):
            rows += [row.record for row in page]
            cursor = page[-1].cursor
        return rows, await gateway.ledger.usage([])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.mark.timeout(300)
async def test_every_reply_that_arrived_is_on_the_books_once_after_twenty_kills(
    data: Path,
) -> None:
    rounds = await kill_again_and_again(data, "honest", rounds=20, seed=20)
    rows, [sums] = await books(data)
    assert min(each.in_flight_at_kill for each in rounds) >= IN_FLIGHT
    booked = {row.call_id for row in rows}
    lost = [[id for id in each.arrived if id not in booked] for each in rounds]
    assert lost == [[]] * len(rounds)
    assert len(booked) == len(rows)
    assert sums.calls == len(rows)
    assert sums.input_tokens == sum(row.usage.input_tokens for row in rows)
    assert sums.output_tokens == sum(row.usage.output_tokens for row in rows)
    assert sums.cost == sum(row.cost for row in rows) > 0
    assert sums.charge == sum(row.charge for row in rows)
    arrived = {id for each in rounds for id in each.arrived}
    for row in rows:
        if row.call_id in arrived:
            assert (row.status, row.usage.source) == ("completed", "provider")
            assert row.cost == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
    assert {row.stream for row in rows} == {True, False}


@pytest.mark.timeout(300)
async def test_a_journal_written_behind_the_final_send_would_be_noticed(data: Path) -> None:
    rounds = await kill_again_and_again(data, "late", rounds=4, seed=4)
    rows, _ = await books(data)
    booked = {row.call_id for row in rows}
    assert booked, "the late journal is written, only too late"
    lost = [[id for id in each.arrived if id not in booked] for each in rounds]
    assert any(lost), f"losses per round: {[len(ids) for ids in lost]}"
