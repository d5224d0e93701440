"""The two sides of the soak: upstreams that count what they did, clients that count what they got.

A call is known by its number, which is the number of its input tokens, too: its messages have four
bytes per token, and so has everything that upstreams say. So an estimate that sees all bytes is
exact, and the row of a call can be found by its usage.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.testing.installation import INPUT_PRICE
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    SSE,
    chat_chunk,
    completion,
    event,
    usage_object,
)
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    import random

TOKEN = "tok "
NUMBER = re.compile(rb"<(\d+)>")
FAILURES = {429, 500, 502, 503, 504}
"""What a client may be told when every attempt failed, or the gateway is not well."""
MOST_WORDS = 24
POOR = 10_000_000
"""Nano-units that the poor one may spend, which are gone in a few seconds."""
POOR_TOKENS = POOR // INPUT_PRICE // 2
"""Input of its largest call."""


class Served(msgspec.Struct):
    """One request as an upstream remembers it. `sent` is when how many tokens had been sent,
    `reports` the usages that it has told, in order; `failing`: it told one and broke before any
    content. Times are monotonic."""

    number: int
    kind: str
    began: float
    sent: list[tuple[float, int]] = msgspec.field(default_factory=list)
    reports: list[tuple[int, int]] = msgspec.field(default_factory=list)
    whole: bool = False
    failing: bool = False
    ended: float = 0.0

    @property
    def tokens(self) -> int:
        """All that were sent."""
        return self.sent[-1][1] if self.sent else 0


class Counting:
    """An upstream of one `kind`: it tells usage at the `end`, `grows` with every chunk, or `never`;
    `clean` is like `end` and never fails; `embed` makes embeddings; `refuse` answers 400."""

    def __init__(self, kind: str, chance: random.Random, served: list[Served]) -> None:
        self._kind = kind
        self._chance = chance
        self._served = served

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if self._kind == "refuse":
                await peer.send(http_reply(400, b'{"error":{"message":"no"}}', JSON))
                continue
            found = NUMBER.search(request.body)
            assert found is not None
            served = Served(int(found[1]), self._kind, time.monotonic())
            self._served.append(served)
            try:
                if not await self._answer(peer, served, b'"stream":true' in request.body):
                    return
            finally:
                served.ended = time.monotonic()

    async def _answer(self, peer: Peer, served: Served, stream: bool) -> bool:
        """False: the connection has ended."""
        mood = 1.0 if self._kind == "clean" else self._chance.random()
        if mood < 0.05:
            await peer.send(http_reply(self._chance.choice([429, 500, 503]), b"{}", JSON))
            return True
        if mood < 0.08:
            peer.cut()
            return False
        if not stream:
            await asyncio.sleep(self._chance.uniform(0, 0.15))
            return await self._document(peer, served, broken=mood < 0.12)
        if mood < 0.13 and self._kind == "grows":
            # It has read the request, says so, and breaks before it has said anything else.
            served.failing = True
            served.reports.append((served.number, 1))
            told = {**chat_chunk({"role": "assistant"}), "usage": usage_object(served.number, 1)}
            await peer.send(chunked_head(200, SSE) + chunk(event(told)))
            peer.cut()
            return False
        return await self._stream(peer, served, broken=mood < 0.3)

    async def _document(self, peer: Peer, served: Served, *, broken: bool) -> bool:
        number, tokens = served.number, self._chance.randint(1, MOST_WORDS)
        if self._kind == "embed":
            document: dict[str, Any] = {
                "object": "list",
                "model": "e",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                "usage": {"prompt_tokens": number, "total_tokens": number},
            }
            tokens = 0
        else:
            document = completion(TOKEN * tokens, input=number, output=tokens)
        if self._kind == "never":
            del document["usage"]
        else:
            served.reports.append((number, tokens))
        reply = http_reply(200, msgspec.json.encode(document), JSON)
        if broken:
            served.reports.clear()
            await peer.send(reply[: self._chance.randrange(len(reply) // 2)])
            peer.cut()
            return False
        served.sent.append((time.monotonic(), tokens))
        served.whole = True
        await peer.send(reply)
        return True

    async def _stream(self, peer: Peer, served: Served, *, broken: bool) -> bool:
        await peer.send(chunked_head(200, SSE))
        words = self._chance.randint(2, MOST_WORDS)
        stop = self._chance.randrange(1, words) if broken else words
        pace = self._chance.choice([0.005, 0.02, 0.12])
        for count in range(1, stop + 1):
            told: dict[str, Any] = chat_chunk({"content": TOKEN})
            if self._kind == "grows":
                told["usage"] = usage_object(served.number, count)
                served.reports.append((served.number, count))
            served.sent.append((time.monotonic(), count))
            await peer.send(chunk(event(told)))
            await asyncio.sleep(self._chance.uniform(0, 2 * pace))
        if broken:
            self._chance.choice([peer.cut, peer.reset])()
            return False
        rest = event(chat_chunk({}, "stop"))
        if self._kind in ("end", "clean"):
            served.reports.append((served.number, words))
            usage = usage_object(served.number, words)
            rest += event({**chat_chunk({}), "choices": [], "usage": usage})
        served.whole = True
        await peer.send(chunk(rest + DONE) + chunk(b""))
        return True


class Call(msgspec.Struct):
    """One call as its client remembers it. `got` is when how many tokens had been received."""

    number: int
    poor: bool = False
    id: str = ""
    status: int = 0
    got: list[tuple[float, int]] = msgspec.field(default_factory=list)
    whole: bool = False
    left: bool = False

    def got_by(self, moment: float) -> int:
        """Tokens that had been received then."""
        return max((count for at, count in self.got if at <= moment), default=0)


class Door:
    """Where the gateway is; clients wait while it is closed."""

    def __init__(self) -> None:
        self.port = 0
        self.open = asyncio.Event()


class Crowd:
    """Clients, each with one connection at a time."""

    def __init__(self, chance: random.Random, door: Door, keys: tuple[str, str]) -> None:
        self.calls: list[Call] = []
        self.ending = False
        self.refused = asyncio.Event()
        """The poor one's money is gone."""
        self._chance = chance
        self._door = door
        self._keys = keys
        self._numbers = iter(range(20, 10**9))

    async def client(self, *, poor: bool = False) -> None:
        while not self._over(poor):
            await self._door.open.wait()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._door.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                # Now and then, as people do.
                while not self._over(poor) and await self._call(  # noqa: ASYNC110
                    reader, writer, poor=poor
                ):
                    await asyncio.sleep(self._chance.uniform(0, 0.3))
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)
            finally:
                writer.close()

    def _over(self, poor: bool) -> bool:
        """Calls grow. One that alone may cost more than the poor one ever had is a 400, and says
        nothing of what has been spent."""
        return self.ending or (poor and bool(self.calls) and self.calls[-1].number > POOR_TOKENS)

    async def _call(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, poor: bool
    ) -> bool:
        """False: the connection has ended."""
        chance = self._chance
        call = Call(next(self._numbers), poor)
        self.calls.append(call)
        model = "clean" if poor else chance.choice(["end", "end", "grows", "never", "embed"])
        writer.write(request(self._keys[poor], call.number, model, stream=chance.random() < 0.7))
        patience = chance.randrange(3000) if not poor and chance.random() < 0.2 else 10**9
        data = b""
        async for data in _received(reader, patience):
            _note(call, data)
        if len(data) >= patience:
            call.left = True
            return False
        _note(call, data, ended=True)
        if poor and call.status == 429:
            self.refused.set()
        if call.status in FAILURES:
            await asyncio.sleep(0.1)
        assert call.status in {200, *FAILURES}, data
        return b"connection: close" not in data.lower()


async def _received(reader: asyncio.StreamReader, patience: int) -> Any:
    """What has come so far, whenever there is more, until the reply is whole or `patience` bytes
    are there."""
    data = b""
    while len(data) < patience and not _whole(data):
        more = await reader.read(min(65536, patience - len(data)))
        if not more:
            raise ConnectionResetError
        data += more
        yield data
    if patience == 0:
        yield data


def _whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def _note(call: Call, data: bytes, *, ended: bool = False) -> None:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return
    if not call.status:
        call.status = int(head.split(b" ", 2)[1])
        id = re.search(rb"(?i)x-request-id: (\S+)", head)
        call.id = id[1].decode() if id else ""
    call.got.append((time.monotonic(), body.count(TOKEN.encode())))
    if ended:
        call.whole = call.status == 200 and b'"error"' not in body


def request(key: str, number: int, model: str, *, stream: bool) -> bytes:
    """A request whose input is four bytes for each of `number` tokens."""
    text = f"<{number}>"
    if model == "embed":
        fields: dict[str, Any] = {
            "model": model,
            "input": text + "x" * (4 * number - len(text) - 2),
        }
        path = "embeddings"
    else:
        messages = [{"role": "user", "content": text}]
        missing = 4 * number - len(msgspec.json.encode(messages))
        messages[0]["content"] += "x" * missing
        fields = {"model": model, "messages": messages, "max_tokens": 2 * MOST_WORDS}
        fields["stream"] = stream
        path = "chat/completions"
    body = msgspec.json.encode(fields)
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
