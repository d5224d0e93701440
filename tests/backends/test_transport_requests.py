"""What the conformance suite cannot see from outside, and rules of this implementation alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.backends.transport.pool import PoolCounts
from llmgw_core.backends.transport.port import HttpRequest, TransportError
from llmgw_core.backends.transport.request_bytes import RequestEncoder, host_header
from llmgw_core.domain.deployment import Origin, Timeouts
from llmgw_core.testing.recorded_request import parse_head
from llmgw_core.testing.transport_cases.base import PATIENT, failure, fetch, get, origin_of, post
from llmgw_core.testing.transport_cases.base import turns as let_pass
from llmgw_core.testing.upstream import Peer, Upstream, chunked_head, http_reply, repeating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOCAL = Origin("http", "127.0.0.1", 80)


@pytest.fixture
async def transport() -> AsyncIterator[HttptoolsTransport]:
    transport = HttptoolsTransport(max_connections=2, max_idle=1, max_headers=5)
    yield transport
    await transport.aclose()


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("http", "example.org", 80), b"example.org"),
        (Origin("https", "example.org", 443), b"example.org"),
        (Origin("https", "example.org", 80), b"example.org:80"),
        (Origin("http", "::1", 8080), b"[::1]:8080"),
        (Origin("http", "fe80::1%eth0", 80), b"[fe80::1]"),
        (Origin("http", "bücher.example", 80), b"xn--bcher-kva.example"),
    ],
)
def test_the_host_header_names_the_authority(origin: Origin, expected: bytes) -> None:
    assert host_header(origin) == expected


@pytest.mark.parametrize(
    "origin",
    [
        Origin("ftp", "example.org", 21),
        Origin("http", "", 80),
        Origin("http", "a b", 80),
        Origin("http", "a\r\nx: y", 80),
        Origin("http", "user@host", 80),
        Origin("http", "a" * 64, 80),
    ],
)
def test_an_impossible_origin_is_refused(origin: Origin) -> None:
    with pytest.raises(TransportError) as caught:
        host_header(origin)
    assert (caught.value.kind, caught.value.phase) == ("protocol", "connect")


@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=20)), max_size=4),
    st.binary(max_size=10),
)
def test_an_encoded_head_is_always_exactly_one_head(
    target: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    request = HttpRequest("POST", "/" + target, tuple(headers), body)
    try:
        head = RequestEncoder(LOCAL).encode(request)
    except TransportError:
        return
    assert head.index(b"\r\n\r\n") == len(head) - 4
    method, seen, lines = parse_head(head)
    assert (method, seen) == ("POST", "/" + target)
    assert lines[2:] == (
        *((name, value.strip()) for name, value in headers),
        (b"content-length", b"%d" % len(body)),
    )


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=20)), max_size=4))
def test_common_headers_stand_in_every_head_and_are_checked_like_others(
    fields: list[tuple[bytes, bytes]],
) -> None:
    encoder, common, own = RequestEncoder(LOCAL), tuple(fields), ((b"x-own", b"1"),)
    try:
        expected = parse_head(encoder.encode(HttpRequest("POST", "/", (*common, *own))))
    except TransportError:
        with pytest.raises(TransportError):
            encoder.encode(HttpRequest("POST", "/", own, common=common))
        return
    for body in (b"", b"{}"):
        head = encoder.encode(HttpRequest("POST", "/", own, body, common))
        assert parse_head(head)[2][:-1] == expected[2][:-1]


def test_the_memory_of_an_encoder_is_bounded() -> None:
    encoder = RequestEncoder(LOCAL)
    for number in range(2000):
        header = (b"x-%d" % number, b"")
        head = encoder.encode(HttpRequest("GET", f"/{number}", (header,)))
        assert head.startswith(b"GET /%d HTTP/1.1\r\n" % number)
    assert len(encoder._starts) <= 512
    assert len(encoder._names) <= 512


async def test_two_readers_of_one_reply_are_a_mistake(transport: HttptoolsTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head())
        await peer.gone()

    async with Upstream(script) as upstream:
        reply = await transport.send(origin_of(upstream), get(), PATIENT)
        first = asyncio.create_task(reply.chunk())
        await let_pass(1)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await reply.chunk()
        reply.abort()
        assert (await failure(first)).kind == "reset"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
    ],
)
async def test_other_codings_and_statuses_are_refused(
    transport: HttptoolsTransport, head: bytes
) -> None:
    async with Upstream(repeating(head)) as upstream:
        error = await failure(transport.send(origin_of(upstream), get(), PATIENT))
        assert (error.kind, error.phase) == ("protocol", "head")


async def test_the_number_of_header_lines_is_capped(transport: HttptoolsTransport) -> None:
    data = http_reply(200, b"x", [(b"a", b"b")] * 5)
    async with Upstream(repeating(data)) as upstream:
        error = await failure(transport.send(origin_of(upstream), get(), PATIENT))
        assert (error.kind, error.phase) == ("too_large", "head")


@pytest.mark.parametrize("noise", [b"0\r\n" + b"a: b\r\n" * 20000, b"1;" + b"x" * 100000])
async def test_framing_without_content_is_capped(
    transport: HttptoolsTransport, noise: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head())
        await peer.trickle(noise, 10000)
        await peer.gone()

    async with Upstream(script) as upstream:
        reply = await transport.send(origin_of(upstream), get(), PATIENT)
        error = await failure(reply.read(10))
        assert (error.kind, error.phase) == ("protocol", "body")


async def test_a_reply_to_head_followed_by_bytes_costs_the_connection(
    transport: HttptoolsTransport,
) -> None:
    async with Upstream(repeating(http_reply(200, b"body"))) as upstream:
        for _ in range(2):
            reply = await transport.send(origin_of(upstream), HttpRequest("HEAD", "/", ()), PATIENT)
            assert await reply.read(10) == b""
        assert upstream.accepted == 2


async def test_no_more_than_the_allowed_number_of_connections_rests(
    transport: HttptoolsTransport,
) -> None:
    async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
        origin = origin_of(upstream)
        first = await transport.send(origin, get(), PATIENT)
        second = await transport.send(origin, get(), PATIENT)
        await first.read(10)
        await second.read(10)
        assert transport.counts(origin) == PoolCounts(1, 1, 0)
        assert transport.counts(LOCAL) == PoolCounts(0, 0, 0)


async def test_an_unread_reply_that_is_complete_frees_a_paused_connection(
    transport: HttptoolsTransport,
) -> None:
    transport = HttptoolsTransport(high_water=10)
    async with Upstream(repeating(http_reply(200, b"x" * 1000))) as upstream:
        origin = origin_of(upstream)
        for _ in range(3):
            reply = await transport.send(origin, post(), PATIENT)
            reply.abort()
        assert len(await fetch(transport, origin, post())) == 1000
        assert upstream.accepted == 1
        await transport.aclose()


async def test_bytes_and_an_end_after_a_complete_unread_reply_do_not_spoil_it(
    transport: HttptoolsTransport,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, b"x"))
        await peer.stall()
        await peer.send(b"surplus")

    async with Upstream(script) as upstream:
        origin = origin_of(upstream)
        reply = await transport.send(origin, get(), PATIENT)
        upstream.release()
        await upstream.until(lambda: upstream.open == 0)
        await let_pass(10)
        assert await reply.read(10) == b"x"
        assert transport.counts(origin) == PoolCounts(0, 0, 0)


async def test_a_connection_handed_on_that_died_meanwhile_is_replaced() -> None:
    transport = HttptoolsTransport(max_connections=1)
    async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
        origin = origin_of(upstream)
        reply = await transport.send(origin, get(), PATIENT)
        waiting = asyncio.create_task(fetch(transport, origin, get()))
        await let_pass(2)
        assert transport.counts(origin).waiting == 1
        connection = reply._connection
        assert connection is not None
        assert await reply.read(10) == b"x"
        connection.give_up()
        assert await waiting == b"x"
        assert transport.counts(origin) == PoolCounts(1, 1, 0)
        assert upstream.accepted == 2
        await transport.aclose()


async def test_a_fresh_connection_is_opened_in_the_slot_of_one_handed_on() -> None:
    transport = HttptoolsTransport(max_connections=1)
    async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
        origin = origin_of(upstream)
        reply = await transport.send(origin, get(), PATIENT)
        waiting = asyncio.create_task(transport.send(origin, get(), PATIENT, fresh=True))
        await let_pass(2)
        await reply.read(10)
        other = await waiting
        assert not other.reused
        await other.read(10)
        assert transport.counts(origin) == PoolCounts(1, 1, 0)
        await transport.aclose()


@pytest.mark.parametrize("dies", [False, True])
async def test_a_cancelled_waiter_passes_on_what_it_was_handed(dies: bool) -> None:
    transport = HttptoolsTransport(max_connections=1)
    async with Upstream(repeating(http_reply(200, b"x"))) as upstream:
        origin = origin_of(upstream)
        reply = await transport.send(origin, get(), PATIENT)
        connection = reply._connection
        assert connection is not None
        cancelled = asyncio.create_task(fetch(transport, origin, get()))
        await let_pass(2)
        after = asyncio.create_task(fetch(transport, origin, get()))
        await let_pass(2)
        await reply.read(10)
        cancelled.cancel()
        if dies:
            connection.give_up()
        assert await after == b"x"
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert transport.counts(origin) == PoolCounts(1, 1, 0)
        assert upstream.accepted == 1 + dies
        await transport.aclose()


async def test_an_unknown_name_is_a_dns_error(
    transport: HttptoolsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    error = await failure(transport.send(Origin("http", "no.invalid", 80), get(), PATIENT))
    assert (error.kind, error.phase) == ("dns", "connect")


async def test_an_upstream_that_resets_during_the_handshake_is_a_reset(
    transport: HttptoolsTransport,
) -> None:
    async def script(peer: Peer) -> None:
        peer.reset()

    async with Upstream(script) as upstream:
        origin = Origin("https", upstream.host, upstream.port)
        error = await failure(transport.send(origin, get(), PATIENT))
        assert (error.kind, error.phase) == ("reset", "connect")


async def test_a_closed_transport_opens_no_new_pool(transport: HttptoolsTransport) -> None:
    await transport.aclose()
    error = await failure(transport.send(LOCAL, get(), PATIENT))
    assert (error.kind, error.phase) == ("pool", "connect")


async def test_a_deadline_that_moved_away_does_not_fire(transport: HttptoolsTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, b"x"))
        await peer.request()
        await asyncio.sleep(0.6)
        await peer.send(http_reply(200, b"y"))

    async with Upstream(script) as upstream:
        origin = origin_of(upstream)
        short = await transport.send(origin, get(), Timeouts(first_byte=0.5))
        assert await short.read(10) == b"x"
        assert await fetch(transport, origin, get()) == b"y"
        assert upstream.accepted == 1
