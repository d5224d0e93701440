"""The pieces that a stream is made of: the pipe, and events of any kind in any chunking."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from llmgw_core import ChatStream, GatewayError
from llmgw_core.inprocess.calls import InProcessCall
from llmgw_core.inprocess.pipe import Pipe
from llmgw_core.testing.model_server import WORD, chat_events, event


async def played(*pieces: bytes) -> ChatStream:
    """A stream of a call that writes `pieces`."""
    pipe = Pipe()

    async def write() -> None:
        await pipe.start(200, [(b"x-request-id", b"req_1")])
        for piece in pieces:
            await pipe.write(piece)
        await pipe.finish()

    task: asyncio.Task[Any] = asyncio.create_task(write())
    return ChatStream(lambda: InProcessCall(pipe, task))


@pytest.mark.parametrize(
    ("kind", "status"),
    [("rate_limit_error", 429), ("permission_error", 403), ("server_error", 502)],
)
async def test_an_error_event_has_the_status_of_its_type(kind: str, status: int) -> None:
    envelope = event({"error": {"message": "no", "type": kind, "code": "c"}})
    async with await played(WORD, envelope) as stream:
        assert (await anext(stream)).text == "Hello"
        with pytest.raises(GatewayError, match="no") as caught:
            await anext(stream)
        assert await stream.batch() == []
    assert (caught.value.status, caught.value.code) == (status, "c")
    assert caught.value.request_id == "req_1"


async def test_an_event_that_cannot_be_read_is_an_error() -> None:
    for broken in (b"data: {\n\n", b"data: [1]\n\n", b"data: " + b"[" * 100_000 + b"\n\n"):
        async with await played(WORD + broken) as stream:
            assert [each.text for each in await stream.batch()] == ["Hello"]
            with pytest.raises(GatewayError, match="cannot be read"):
                await stream.batch()


async def test_any_chunking_gives_the_same_events() -> None:
    whole = b"".join(chat_events(["Hello", " ", "there"]))
    for size in (1, 7, len(whole)):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        async with await played(*pieces) as stream:
            found = [msgspec.json.encode(each) async for each in stream]
        expected = [piece[6:-2] for piece in chat_events(["Hello", " ", "there"])[:-1]]
        assert found == expected


async def test_a_pipe_has_room_for_one_piece() -> None:
    pipe = Pipe()
    await pipe.write(b"")
    await pipe.write(b"one")
    waiting = asyncio.ensure_future(pipe.write(b"two"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert [await pipe.read(), await pipe.read()] == [b"one", b"two"]
    await waiting
    blocked = [asyncio.ensure_future(pipe.write(b"three")) for _ in range(2)]
    await asyncio.sleep(0)
    pipe.leave()
    pipe.leave()
    await asyncio.gather(*blocked)
    await pipe.finish(b"four")
    assert (await pipe.read(), pipe.finished) == (b"", False)
