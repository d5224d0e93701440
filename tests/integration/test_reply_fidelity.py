"""What an upstream answers reaches the client byte for byte: documents, errors and streams, in
whatever pieces they arrive. Only a usage chunk that the client did not ask for is left out."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.testing.installation import at
from llmgw_core.testing.upstream import chunk, chunked_head

from .conftest import CHAT, composed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.upstream import Upstream

    from .conftest import Answering, HttpConnection, HttpReply, Serve, Server

FIELDS = (("model", '"m"'), ("messages", '[{"role":"user","content":"Hi"}]'))

DOCUMENTS = tuple(
    text.encode()
    for text in (
        (
            '\r\n { "choices" : [ { "index" : 0.0 , "finish_reason" : null , "message" : {"role" : '
            '"assistant" , "content" : "h\u00e9 😀 \\u00e9 \\/" , "x" : 1E+5 } } ] ,\t"usage" : '
            '{ "prompt_tokens" : 7.0 , "completion_tokens" : 3e0 , "x" : [ ] } } \n\n'
        ),
        '{"x":{"a":1,"a":2},"choices":[],"usage":null,"created":1.7e9,"id":null}',
        (
            '{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"arguments":'
            '"{\\"a\\":1}"},"x":-0}]},"finish_reason":"tool_calls"}],"error":null,"":0.10}'
        ),
        (
            '{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":99},"choices":[{}],'
            '"usage":{"prompt_tokens":123456789012345678901234567890}}'
        ),
    )
)
REFUSALS = (
    (400, b' { "error" : { "message" : "N\xc3\xb6", "code" : null , "x":1e2 } }\n', "N\u00f6"),
    (404, b'{"detail":"not the usual form","a":1,"a":2}', "not the usual form"),
    (413, b"{}", "The model's backend refused the request."),
    (422, b'{"object":"error","message":"[{}]","code":400.0}', "[{}]"),
)
"""Status and body as the upstream sends them, and the sentence that the caller gets."""


async def test_documents_come_back_byte_for_byte(proxy: Server, answering: Answering) -> None:
    connection = await proxy.connect()
    for document in DOCUMENTS:
        answering.document(document, kind=b"application/json; charset=utf-8")
        reply = await proxy.post(CHAT, composed(FIELDS), on=connection)
        assert (reply.status, reply.body) == (200, document)
        assert reply.header(b"content-type") == b"application/json"
        answering.pieces = in_chunks(
            JSON_HEAD, [document[at : at + 1] for at in range(len(document))]
        )
        reply = await proxy.post(CHAT, composed(FIELDS), on=connection)
        assert (reply.status, reply.body) == (200, document)


async def test_refusals_of_the_upstream_come_back_with_their_status_and_their_words(
    proxy: Server, answering: Answering
) -> None:
    for status, body, message in REFUSALS:
        for stream in ("true", "false"):
            answering.document(body, status=status)
            reply = await proxy.post(CHAT, composed([*FIELDS, ("stream", stream)]))
            error = reply.json()["error"]
            assert (reply.status, error["message"]) == (status, message)
            assert error["request_id"].encode() == reply.header(b"x-request-id")


# ---------------------------------------------------------------------- streams

BEFORE = (
    ": a comment first\n\n",
    "retry: 3000\n\n",
    (
        'data: { "choices" : [ { "index":0, "delta":{"role":"assistant","content":""},'
        '"finish_reason":null,"x":[1E2,0.10,-0] } ], "x_filter":{"a":1,"a":2} }\n\n'
    ),
    'id: 41\ndata: {"choices":[{"index":0,"delta":{"content":"h\u00e9 😀"}}]}\n\n',
    ": keep-alive\n\n",
    "event: message\nx-unknown: field\n\n",
    'data: {"choices":[{"delta":{"content":"\\"usage\\":1 data: [DONE] \\n\\n \\"error\\""}}]}\n\n',
    (
        'data:{"choices":[\ndata:{"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
        '"{\\u0022"}}]}}],\ndata: "usage": null}\nid: 43\n\n'
    ),
    'data: {"choices":[],"x_progress":0.50}\n\n',
    'data: {"choices":[],"usage":null}\n\n',
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n',
)
USAGE = (
    'id: 44\ndata: {"choices":[],"usage":{"prompt_tokens":7.0,"completion_tokens":3,"x":1E0}}\n\n'
)
AFTER = (": nearly\n\n", "data: [DONE]\n\n")
ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}
JSON_HEAD = chunked_head(200, [(b"content-type", b"application/json")])
SSE_HEAD = chunked_head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])


def stream(*, usage: bool, end: bytes) -> bytes:
    """The whole stream with its lines ended by `end`."""
    events = [*BEFORE, *([USAGE] if usage else []), *AFTER]
    return "".join(events).encode().replace(b"\n", end)


def in_chunks(head: bytes, parts: Iterable[bytes]) -> tuple[bytes, ...]:
    """A reply whose body comes in these parts."""
    return (head, *(chunk(part) for part in parts if part), chunk(b""))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces."""
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


async def streamed(proxy: Server, connection: HttpConnection, *, usage: bool) -> HttpReply:
    fields = [*FIELDS, ("stream", "true")]
    if usage:
        fields.append(("stream_options", '{"include_usage":true}'))
    reply = await proxy.post(CHAT, composed(fields), on=connection)
    assert reply.status == 200
    assert reply.header(b"content-type") == b"text/event-stream; charset=utf-8"
    return reply


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("usage", [True, False], ids=["usage asked for", "usage hidden"])
async def test_a_stream_comes_back_byte_for_byte_whatever_its_pieces(
    proxy: Server, answering: Answering, usage: bool, end: bytes
) -> None:
    connection = await proxy.connect()
    sent = stream(usage=True, end=end)
    for size in (1, 2, 3, 7, 64, len(sent)):
        parts = [sent[at : at + size] for at in range(0, len(sent), size)]
        answering.pieces = in_chunks(SSE_HEAD, parts)
        reply = await streamed(proxy, connection, usage=usage)
        assert reply.body == stream(usage=usage, end=end), size


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_stream_cut_anywhere_comes_back_byte_for_byte(
    proxy: Server, answering: Answering, end: bytes
) -> None:
    loop = asyncio.get_running_loop()
    connection = await proxy.connect()
    sent = stream(usage=True, end=end)

    async def exchange(places: list[int], usage: bool) -> None:
        answering.pieces = in_chunks(SSE_HEAD, cut(sent, places))
        reply = await streamed(proxy, connection, usage=usage)
        assert reply.body == stream(usage=usage, end=end)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, len(sent)), max_size=8), st.booleans())
    def check(places: list[int], usage: bool) -> None:
        asyncio.run_coroutine_threadsafe(exchange(places, usage), loop).result(20)

    await asyncio.to_thread(check)


async def test_every_place_around_the_hidden_usage_may_be_a_cut(
    proxy: Server, answering: Answering
) -> None:
    connection = await proxy.connect()
    for end in ENDS.values():
        sent = stream(usage=True, end=end)
        for place in range(sent.index(b"id: 44") - 5, len(sent)):
            answering.pieces = in_chunks(SSE_HEAD, cut(sent, [place]))
            reply = await streamed(proxy, connection, usage=False)
            assert reply.body == stream(usage=False, end=end), (end, place)


async def test_a_chunk_with_content_goes_on_without_the_usage_that_came_with_it(
    proxy: Server, answering: Answering
) -> None:
    first = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1}}\n\n'
    last = (
        b'data: {"choices":[{"delta": {},"finish_reason":"stop"}],"usage":{"prompt_tokens":1.0,'
        b'"completion_tokens":1}}\n\n'
    )
    end = b"data: [DONE]\n\n"
    answering.pieces = in_chunks(SSE_HEAD, [first + last + end])
    reply = await streamed(proxy, await proxy.connect(), usage=False)
    left = b'data: {"choices":[{"delta": {},"finish_reason":"stop"}]}\n\n'
    assert reply.body == b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' + left + end
    answering.pieces = in_chunks(SSE_HEAD, [first + last + end])
    asked = await streamed(proxy, await proxy.connect(), usage=True)
    assert asked.body == first + last + end


async def test_the_other_transport_changes_nothing_either(
    serve: Serve, installed: Install, upstream: Upstream, answering: Answering
) -> None:
    proxy = await serve(await installed({"m": [at(upstream, transport="aiohttp")]}))
    connection = await proxy.connect()
    for document in DOCUMENTS:
        answering.document(document, (b"set-cookie", b"a=b"), (b"openai-organization", b"x"))
        reply = await proxy.post(CHAT, composed(FIELDS), (b"cookie", b"c=d"), on=connection)
        assert (reply.status, reply.body) == (200, document)
        assert b"set-cookie" not in dict(reply.headers)
        assert b"openai-organization" not in dict(reply.headers)
        assert upstream.requests[-1].body == composed(FIELDS)
        assert upstream.requests[-1].header(b"cookie") is None
        assert upstream.requests[-1].header(b"accept-encoding") == b"identity"
        assert proxy.key.encode() not in upstream.requests[-1].head
    for end in ENDS.values():
        sent = stream(usage=True, end=end)
        answering.pieces = in_chunks(SSE_HEAD, cut(sent, range(len(sent))))
        for usage in (True, False):
            reply = await streamed(proxy, connection, usage=usage)
            assert reply.body == stream(usage=usage, end=end)
