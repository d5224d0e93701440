"""The official clients over a gateway in the same process: no socket, everything else as usual."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import openai
import pytest

from llmgw_core import GatewayError, Limits, Principal
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import DONE, JSON, SSE, WORD, chat_chunk, completion, event
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

from .conftest import MESSAGES, one_word, silent, two_words_and_a_cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from openai.types.chat import ChatCompletionChunk

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted

    from .conftest import Beside

ASK: Any = {"model": "m", "messages": MESSAGES}


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call of this on, every new socket and every look-up of a name fails."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    class Refused(socket.socket):
        __init__ = refused

    def block() -> None:
        monkeypatch.setattr(socket, "socket", Refused)
        monkeypatch.setattr(socket, "getaddrinfo", refused)
        monkeypatch.setattr(socket, "create_connection", refused)

    return block


def texts(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_the_asynchronous_client_does_everything_without_a_socket(
    installed: Install, server: ModelServer, no_sockets: Callable[[], None]
) -> None:
    here = await installed({"m": [at(server)], "e": served_by(at(server), kind="embedding")})
    await here.client.chat("m")  # the gateway's own connection to the model
    no_sockets()
    with pytest.raises(AssertionError, match="a socket was opened"):
        socket.create_connection(("127.0.0.1", server.port))
    async with here.gateway.async_openai(key=here.tenant.key) as client:
        reply = await client.chat.completions.create(**ASK)
        assert reply.choices[0].message.content == "Hello there"
        stream = await client.chat.completions.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [each async for each in stream]
        assert texts(chunks) == "Hello there"
        assert chunks[-1].usage is not None
        assert (await client.embeddings.create(model="e", input="x")).data[0].embedding == [
            *(0.5, -0.25)
        ]
        assert [model.id async for model in await client.models.list()] == ["m", "e"]
        raw = await client.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["content-type"] == "application/json"
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert (await response.parse()).usage == reply.usage
    records = await here.records()
    assert len(records) == 6
    assert records[1].call_id == reply._request_id
    assert records[4].call_id == raw.headers["x-request-id"]


def test_the_blocking_client_does_everything_without_a_socket(
    blocking: Beside, no_sockets: Callable[[], None]
) -> None:
    gateway, key = blocking.gateway, blocking.tenant.key
    gateway.chat(**ASK, key=key)
    no_sockets()
    with gateway.openai(key=key) as client:
        reply = client.chat.completions.create(**ASK)
        assert reply.choices[0].message.content == "Hello there"
        assert texts(list(client.chat.completions.create(**ASK, stream=True))) == "Hello there"
        assert [model.id for model in client.models.list()] == ["m"]
        with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert msgspec.json.decode("".join(response.iter_text())) == completion()
    assert {record.status for record in blocking.settled(4)} == {"completed"}


async def test_a_stream_comes_chunk_by_chunk_as_it_is_read(
    installed: Install, scripted: Scripted
) -> None:
    seen = asyncio.Event()

    async def waits(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(WORD))
        await seen.wait()
        await peer.send(chunk(event(chat_chunk({}, "stop")) + DONE) + chunk(b""))

    here = await installed({"m": [at(await scripted(waits))]})
    client = here.gateway.async_openai(key=here.tenant.key)
    stream = await client.chat.completions.create(**ASK, stream=True)
    first = await anext(stream)
    assert first.choices[0].delta.content == "Hello"
    seen.set()
    assert [c.choices[0].finish_reason async for c in stream] == ["stop"]


async def close_it(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**ASK, stream=True)
    await anext(stream)
    await stream.close()


async def leave_the_block(client: openai.AsyncOpenAI) -> None:
    async with await client.chat.completions.create(**ASK, stream=True) as stream:
        async for _ in stream:
            break


async def leave_the_bytes(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(**ASK, stream=True) as response:
        async for _ in response.iter_bytes():
            break


async def be_cancelled(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(leave_never(client), 0.05)


async def leave_never(client: openai.AsyncOpenAI) -> None:
    async with await client.chat.completions.create(**ASK, stream=True) as stream:
        async for _ in stream:
            pass


async def wait_too_long(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        await leave_never(client.with_options(timeout=0.05, max_retries=0))


@pytest.mark.parametrize(
    "leave",
    [close_it, leave_the_block, leave_the_bytes, be_cancelled, wait_too_long],
    ids=lambda leave: leave.__name__.replace("_", " "),
)
async def test_a_stream_that_is_left_settles_and_stops_the_upstream(
    installed: Install, scripted: Scripted, leave: Callable[[openai.AsyncOpenAI], Awaitable[None]]
) -> None:
    upstream = await scripted(one_word)
    here = await installed({"m": [at(upstream)]})
    await leave(here.gateway.async_openai(key=here.tenant.key))
    assert not here.gateway.books.open
    await upstream.until(lambda: upstream.open == 0)
    [record] = await here.records()
    assert record.status == "client_left"


async def test_a_reply_that_does_not_come_times_out(installed: Install, scripted: Scripted) -> None:
    upstream = await scripted(silent)
    here = await installed({"m": [at(upstream)]})
    client = here.gateway.async_openai(key=here.tenant.key, timeout=0.05, max_retries=1)
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(**ASK)
    records = await here.records()
    assert [record.status for record in records] == ["client_left"] * 2
    await upstream.until(lambda: upstream.open == 0)


async def test_errors_are_those_of_the_official_client(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(rpm=1)})
    stranger = here.gateway.async_openai(key="sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        await stranger.chat.completions.create(**ASK)
    with pytest.raises(openai.AuthenticationError):
        await here.gateway.async_openai().models.list()
    client = here.gateway.async_openai(key=here.tenant.key, max_retries=0)
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="x", messages=ASK["messages"])
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="m", messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        await client.files.list()
    await client.chat.completions.create(**ASK)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(**ASK, stream=stream)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 61
    assert len(await here.records()) == 1


async def test_the_client_tries_again_as_it_does_with_a_server(
    installed: Install, scripted: Scripted
) -> None:
    broken = http_reply(500, b'{"error": {}}', JSON)
    good = http_reply(200, msgspec.json.encode(completion()), JSON)
    replies = iter([broken, good])

    async def first_fails(peer: Peer) -> None:
        await peer.request()
        await peer.send(next(replies))

    once = RoutingConfig(retries=0)
    here = await installed({"m": [at(await scripted(first_fails))]}, routing=once)
    client = here.gateway.async_openai(key=here.tenant.key, max_retries=1)
    reply = await client.chat.completions.create(**ASK)
    assert reply.choices[0].message.content == "Hello there"
    assert [record.status for record in await here.records()] == ["failed", "completed"]


async def test_a_stream_that_breaks_off_raises(installed: Install, scripted: Scripted) -> None:
    here = await installed({"m": [at(await scripted(two_words_and_a_cut))]})
    client = here.gateway.async_openai(key=here.tenant.key)
    stream = await client.chat.completions.create(**ASK, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["Hello"] * 2
    with pytest.raises(openai.APIError, match="cut"):
        await anext(stream)


async def test_a_principal_needs_no_key(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    client = here.gateway.async_openai(principal=Principal.of("us", user="u-7"))
    await client.chat.completions.create(**ASK)
    bound = here.gateway.caller(principal=Principal.of("us", user="u-8")).async_openai()
    await bound.chat.completions.create(**ASK)
    assert [record.user_id for record in await here.records()] == ["u-7", "u-8"]


async def test_a_closed_gateway_is_a_connection_error(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(one_word)
    here = await installed({"m": [at(upstream)]})
    client = here.gateway.async_openai(key=here.tenant.key, max_retries=0)
    stream = await client.chat.completions.create(**ASK, stream=True)
    await anext(stream)
    await here.gateway.calls.aclose()
    with pytest.raises(openai.APIConnectionError):
        await anext(stream)
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(**ASK)


# ---------------------------------------------------------------------------- the blocking client


async def test_the_blocking_client_is_for_threads_beside_a_running_loop(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    client = here.gateway.caller(key=here.tenant.key).openai(max_retries=0)

    def work() -> str:
        return texts(list(client.chat.completions.create(**ASK, stream=True)))

    assert await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8))) == ["Hello there"] * 8
    with pytest.raises(RuntimeError, match="would block the event loop"):
        client.models.list()


def test_leaving_a_stream_of_the_blocking_client_settles(beside: Beside) -> None:
    upstream = beside.scripted(one_word)
    beside.open(at(upstream))
    client = beside.gateway.caller(key=beside.tenant.key).openai()
    for each in client.chat.completions.create(**ASK, stream=True):
        assert each.choices[0].delta.content == "Hello"
        break
    gc.collect()  # a stream of the official client refers to itself
    stream = client.chat.completions.create(**ASK, stream=True)
    next(iter(stream))
    stream.close()
    short = client.with_options(timeout=0.05)
    with pytest.raises(openai.APITimeoutError):
        list(short.chat.completions.create(**ASK, stream=True))
    assert {record.status for record in beside.settled(3)} == {"client_left"}
    beside.elsewhere.run(upstream.until(lambda: upstream.open == 0))


def test_errors_of_the_blocking_client(beside: Beside) -> None:
    upstream = beside.scripted(silent)
    beside.open(at(upstream))
    client = beside.gateway.openai(key=beside.tenant.key, max_retries=0, timeout=0.05)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**ASK)
    with pytest.raises(openai.AuthenticationError):
        beside.gateway.openai().models.list()
    stream = beside.gateway.openai(key=beside.tenant.key, timeout=60)
    beside.gateway.close()
    with pytest.raises(openai.APIConnectionError):
        stream.with_options(max_retries=0).models.list()
    with pytest.raises(GatewayError):
        beside.gateway.models(key=beside.tenant.key)


WITHOUT = """
import asyncio, sys, tempfile
sys.modules["openai"] = None
from pathlib import Path
from llmgw_core import Config, Gateway

async def main():
    async with Gateway.open(Config(), base_dir=Path(tempfile.mkdtemp())) as gateway:
        for make in (gateway.openai, gateway.async_openai):
            try:
                make(key="k")
            except ImportError as error:
                print(error)

asyncio.run(main())
"""


def test_without_the_official_client_the_remedy_is_told() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WITHOUT]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert said.count("pip install 'llmgw[openai]'") == 2
