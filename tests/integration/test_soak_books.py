"""The books after a long time with moody upstreams and fickle clients.

`LLMGW_SOAK_SECONDS` (default 60) says how long. Clients leave only after an upstream has seen their
request, so that every request of theirs is an admitted call and must have exactly one row. What an
upstream reports as input tokens is the number of its reply, and so is the reply's id: which reply
was booked for which call is known exactly.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.schema import AccountingConfig
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, install, served_by
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    SSE,
    chat_events,
    completion,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

from .conftest import running

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.installation import Installation

SECONDS = float(os.environ.get("LLMGW_SOAK_SECONDS", "60"))
CLIENTS = 40
PACE = 0.01
"""Seconds between two events of a stream, at most."""
REPLY_ID = re.compile(rb'"id":"chatcmpl-(\d+)"')
FAILURES = {429, 502, 503, 504}
"""What a client may be told when every attempt failed."""


class Moody:
    """An upstream that answers, refuses, or breaks off at any point, as chance has it."""

    def __init__(self, chance: random.Random, numbers: itertools.count[int]) -> None:
        self.seen: dict[str, asyncio.Event] = {}
        self.reported: dict[int, int] = {}
        """Number of the reply → output tokens, from the moment before they are sent."""
        self.broken: set[int] = set()
        """Numbers of the replies that broke off somewhere."""
        self._chance = chance
        self._numbers = numbers

    async def __call__(self, peer: Peer) -> None:
        while True:
            body = msgspec.json.decode((await peer.request()).body)
            self.seen[body["messages"][0]["content"]].set()
            mood = self._chance.random()
            if mood < 0.08:
                return self._leave(peer)
            if mood < 0.14:
                await peer.send(http_reply(self._chance.choice([429, 500, 503]), b"{}", JSON))
                continue
            pieces = self._stream() if body.get("stream") else self._document()
            number = next(reversed(self.reported))
            stop = self._chance.randrange(2 * len(pieces)) if mood < 0.4 else len(pieces)
            for piece in pieces[:stop]:
                await peer.send(piece)
                await asyncio.sleep(self._chance.uniform(0, PACE))
            if stop < len(pieces):
                self.broken.add(number)
                return self._leave(peer)

    def _leave(self, peer: Peer) -> None:
        self._chance.choice([peer.cut, peer.reset])()

    def _usage(self) -> tuple[int, bytes, dict[str, int]]:
        number, output = next(self._numbers), self._chance.randint(1, 50)
        self.reported[number] = output
        return number, b'"id":"chatcmpl-%d"' % number, usage_object(number, output)

    def _stream(self) -> list[bytes]:
        _, id, usage = self._usage()
        words = [f" word-{place}" for place in range(self._chance.randint(1, 12))]
        events = [REPLY_ID.sub(id, event) for event in chat_events(words, usage=usage)]
        return [chunked_head(200, SSE), *map(chunk, events), chunk(b"")]

    def _document(self) -> list[bytes]:
        number, id, usage = self._usage()
        document = completion(input=number, output=usage["completion_tokens"])
        reply = http_reply(200, REPLY_ID.sub(id, msgspec.json.encode(document)), JSON)
        middle = self._chance.randrange(len(reply))
        return [reply[:middle], reply[middle:]]


class Fickle:
    """Clients, each with one connection at a time. `received` are the calls whose reply came
    whole: the id of the call and the number of the reply."""

    def __init__(self, chance: random.Random, upstream: Moody, key: str, ports: list[int]) -> None:
        self.calls = 0
        self.received: list[tuple[str, int]] = []
        self._chance = chance
        self._upstream = upstream
        self._key = key
        self._ports = ports

    async def run(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._client(until))

    async def _client(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            port = self._chance.choice(self._ports)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while await self._call(reader, writer):
                    if asyncio.get_running_loop().time() >= until:
                        return
            finally:
                writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One call; False if the client left or the server closed the connection."""
        self.calls += 1
        mark, stream = f"call-{self.calls}", self._chance.random() < 0.6
        seen = self._upstream.seen[mark] = asyncio.Event()
        writer.write(self._request(mark, stream))
        patience = self._chance.randrange(1, 15) if self._chance.random() < 0.3 else 1000
        await seen.wait()
        if patience == 1:
            return False
        status, headers = await self._head(reader)
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
            if status == 200:
                self._complete(headers["x-request-id"], body)
            else:
                assert status in FAILURES, (status, body)
            return "close" not in headers.get("connection", "")
        body = b""
        for _ in range(patience):
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:size]
            if not size:
                if body.endswith(DONE):
                    self._complete(headers["x-request-id"], body)
                else:
                    assert b'"error"' in body
                return True
        return False

    def _request(self, mark: str, stream: bool) -> bytes:
        request = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": mark}]}
        body = msgspec.json.encode(request)
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}"
            f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines if line)

    def _complete(self, call_id: str, body: bytes) -> None:
        [number] = {int(found) for found in REPLY_ID.findall(body)}  # never parts of two replies
        self.received.append((call_id, number))


async def check(installed: Installation, clients: Fickle, moody: Moody) -> None:
    """Compare the books with what both sides saw."""
    reported = moody.reported
    rows = {row.call_id: row for row in await installed.records()}
    assert len(rows) == clients.calls
    [sums] = await installed.gateway.ledger.usage([])
    assert sums.calls == clients.calls
    assert sums.input_tokens == sum(row.usage.input_tokens for row in rows.values())
    assert sums.output_tokens == sum(row.usage.output_tokens for row in rows.values())
    assert sums.cost == sum(row.cost for row in rows.values())
    for call_id, number in clients.received:
        row = rows[call_id]
        assert row.status == "completed"
        if row.usage.source == "provider":
            assert (row.usage.input_tokens, row.usage.output_tokens) == (number, reported[number])
        else:  # it broke off between the end of its text and its usage
            assert (row.usage.source, number in moody.broken) == ("estimated", True)
    exact = [row.usage for row in rows.values() if row.usage.source == "provider"]
    booked = {usage.input_tokens: usage.output_tokens for usage in exact}
    assert len(booked) == len(exact), "one reply was booked for two calls"
    assert booked.items() <= reported.items()
    assert len(exact) >= len({number for _, number in clients.received} - moody.broken) > 0
    for row in rows.values():
        usage = row.usage
        assert row.cost == usage.input_tokens * INPUT_PRICE + usage.output_tokens * OUTPUT_PRICE
    assert {row.status for row in rows.values()} == {
        "completed",
        "incomplete",
        "client_left",
        "failed",
    }
    assert {row.stream for row in rows.values()} == {True, False}


@pytest.mark.soak
async def test_books_agree_with_both_sides_after_a_long_time_of_trouble(tmp_path: Path) -> None:
    chance = random.Random(2)
    moody = Moody(chance, itertools.count(1))
    accounting = AccountingConfig(move_interval=0.05, segment_bytes=256 * 1024)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream(moody))
        places = [at(upstream, name) for name in ("a", "b")]
        models = {"m": served_by(*places, fallbacks=("n",)), "n": served_by(at(upstream, "c"))}
        installed = await stack.enter_async_context(
            install(tmp_path, models, accounting=accounting)
        )
        async with AsyncExitStack() as servers:
            ports = []
            for kind in ("hypercorn", "uvicorn"):
                serving = running(installed.gateway, installed.tenant.key, kind)
                ports.append((await servers.enter_async_context(serving)).port)
            clients = Fickle(chance, moody, installed.tenant.key, ports)
            await clients.run(SECONDS)
        await check(installed, clients, moody)
