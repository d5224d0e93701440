"""A fast fake upstream: complete replies at once, streams paced by one shared ticker.

Run as `python upstream.py PORT CHUNKS INTERVAL_MS`. A body that asks for a stream gets a role
chunk, CHUNKS content chunks (one every INTERVAL_MS), a chunk with the finish reason, one with the
usage and `[DONE]`; with 0 CHUNKS it gets one and stays open. Paths that contain `embeddings` get
one vector of 1,536 numbers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any, cast

import httptools
import uvloop

PHASES = 20
"""Streams are spread over this many moments of an interval, as real ones would be."""
EXTRA_EVENTS = 3
"""Events of a stream besides its content chunks: role, finish reason with usage, `[DONE]`."""


def _json_reply(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


def _event(value: Any) -> bytes:
    return _framed(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _event({**_CHUNK, "choices": [choice]})


_CHUNK = {
    "id": "chatcmpl-bench",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "fake",
    "system_fingerprint": "fp_bench",
}
CHAT = _json_reply(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A plain answer, " * 5},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40},
    }
)
EMBEDDING = _json_reply(
    {
        "object": "list",
        "model": "fake",
        "data": [{"object": "embedding", "index": 0, "embedding": [i / 1000 for i in range(1536)]}],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
FIRST = _delta({"role": "assistant", "content": ""})
TOKEN = _delta({"content": " token"})


def _last(chunks: int) -> bytes:
    usage = {"prompt_tokens": 19, "completion_tokens": chunks, "total_tokens": 19 + chunks}
    end = _delta({}, "stop") + _event({**_CHUNK, "choices": [], "usage": usage})
    return end + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Ticker:
    """Writes the next chunk of every running stream, one phase of them per tick."""

    def __init__(self, chunks: int, interval: float) -> None:
        self._chunks = chunks
        self._interval = interval
        self._last = _last(chunks)
        self._phases: list[dict[asyncio.Transport, int]] = [{} for _ in range(PHASES)]
        self._order = deque(range(PHASES))

    def start(self, transport: asyncio.Transport) -> None:
        """Begin a stream in the phase that has the fewest."""
        transport.write(STREAM_HEAD + FIRST)
        if not self._chunks:
            transport.write(TOKEN)
            return
        min(self._phases, key=len)[transport] = self._chunks

    async def run(self) -> None:
        """Tick for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._interval / PHASES, loop.time() - 1)
            await asyncio.sleep(max(due - loop.time(), 0))
            self._order.rotate()
            self._tick(self._phases[self._order[0]])

    def _tick(self, streams: dict[asyncio.Transport, int]) -> None:
        for transport, left in list(streams.items()):
            if transport.is_closing():
                del streams[transport]
            elif left:
                transport.write(TOKEN)
                streams[transport] = left - 1
            else:
                del streams[transport]
                transport.write(self._last)


class Upstream(asyncio.Protocol):
    """One connection; httptools calls the `on_...` methods."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        if b'"stream":true' in body:
            self._ticker.start(self._transport)
        elif b"embeddings" in self._url:
            self._transport.write(EMBEDDING)
        else:
            self._transport.write(CHAT)


async def serve(port: int, chunks: int, interval: float) -> None:
    """Listen on 127.0.0.1:`port`; `interval` in seconds."""
    ticker = Ticker(chunks, interval)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Upstream(ticker), "127.0.0.1", port, backlog=4096)
    await ticker.run()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
