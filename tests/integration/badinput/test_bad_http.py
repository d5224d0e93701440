"""The HTTP around a call: paths, methods, heads, and shapes that two readers read differently.

What is no request ends the connection with a 400 (431 for a head without end), so that nothing
which follows can be taken for a request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import World

CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
LENGTH = b"content-length: %d\r\n" % len(CHAT)


def head(key: str, *lines: bytes, first: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A head with the usual fields and the lines given, each with its own line end."""
    usual = b"host: gateway\r\ncontent-type: application/json\r\n"
    return (
        first
        + b"\r\n"
        + usual
        + b"authorization: Bearer "
        + key.encode()
        + b"\r\n"
        + b"".join(lines)
    )


SECOND = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n"
"""What an attacker would want to be taken for a request of its own."""
CHUNKED = b"transfer-encoding: chunked\r\n"

SMUGGLING: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "both lengths": ((LENGTH, CHUNKED), b"0\r\n\r\n" + SECOND),
    "both lengths, the other order": ((CHUNKED, b"content-length: 4\r\n"), b"0\r\n\r\n" + SECOND),
    "two lengths": ((LENGTH, b"content-length: 4\r\n"), CHAT),
    "two lengths in one line": ((b"content-length: 56, 4\r\n",), CHAT),
    "a signed length": ((b"content-length: +56\r\n",), CHAT),
    "a negative length": ((b"content-length: -1\r\n",), CHAT),
    "a hexadecimal length": ((b"content-length: 0x38\r\n",), CHAT),
    "a length in words": ((b"content-length: many\r\n",), CHAT),
    "an empty length": ((b"content-length:\r\n",), CHAT),
    "a length with a gap": ((b"content-length: 5 6\r\n",), CHAT),
    "a huge length": ((b"content-length: %d\r\n" % 10**30,), CHAT),
    "an unknown transfer coding": ((b"transfer-encoding: xchunked\r\n",), b"0\r\n\r\n"),
    "identity": ((b"transfer-encoding: identity\r\n", LENGTH), CHAT),
    "gzip, chunked": ((b"transfer-encoding: gzip, chunked\r\n",), b"0\r\n\r\n" + SECOND),
    "chunked, identity": ((b"transfer-encoding: chunked, identity\r\n",), b"0\r\n\r\n" + SECOND),
    "two codings": ((CHUNKED, b"transfer-encoding: identity\r\n"), b"0\r\n\r\n" + SECOND),
    "chunked twice": ((CHUNKED, CHUNKED), b"0\r\n\r\n" + SECOND),
    "space before the colon": ((b"content-length : 56\r\n",), CHAT),
    "space before the coding's colon": ((b"transfer-encoding : chunked\r\n", LENGTH), CHAT),
    "a space in a name": ((b"x y: 1\r\n", LENGTH), CHAT),
    "a folded line": ((b"x: 1\r\n y: 2\r\n", LENGTH), CHAT),
    "a folded coding": ((b"transfer-encoding:\r\n chunked\r\n",), b"0\r\n\r\n" + SECOND),
    "a bare LF": ((b"x: 1\ny: 2\r\n", LENGTH), CHAT),
    "a hidden length": ((b"x: 1\ncontent-length: 0\r\n", LENGTH), CHAT),
    "a bare CR": ((b"x: 1\ry: 2\r\n", LENGTH), CHAT),
    "NUL in a value": ((b"x: a\x00b\r\n", LENGTH), CHAT),
    "NUL in a name": ((b"x\x00: 1\r\n", LENGTH), CHAT),
    "no name": ((b": 1\r\n", LENGTH), CHAT),
    "no colon": ((b"nonsense\r\n", LENGTH), CHAT),
    "a control character in a name": ((b"x\x01: 1\r\n", LENGTH), CHAT),
}

FIRST_LINES = {
    "no version": b"POST /v1/chat/completions",
    "HTTP/2": b"POST /v1/chat/completions HTTP/2.0",
    "HTTP/1.2": b"POST /v1/chat/completions HTTP/1.2",
    "HTTP/0.9": b"GET /v1/models HTTP/0.9",
    "no such protocol": b"POST /v1/chat/completions ICE/1.1",
    "lower case": b"post /v1/chat/completions http/1.1",
    "a space in the path": b"POST /v1/chat completions HTTP/1.1",
    "a tab": b"POST\t/v1/chat/completions\tHTTP/1.1",
    "no path": b"POST  HTTP/1.1",
    "only a word": b"rubbish",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no ASCII": "POST /v1/größe HTTP/1.1".encode(),
    "NUL": b"POST /v1/\x00 HTTP/1.1",
    "connect": b"CONNECT gateway:443 HTTP/1.1",
}

CHUNKS = {
    "a size that is none": b"xyz\r\n",
    "a negative size": b"-1\r\n",
    "a signed size": b"+5\r\n{    \r\n",
    "a size with 0x": b"0x5\r\n{    \r\n",
    "a size that overflows": b"f" * 17 + b"\r\n",
    "a size that overflows to five": b"1" + b"0" * 15 + b"5\r\n{    \r\n",
    "no line end behind the data": b"2\r\n{}0\r\n\r\n",
    "more data than said": b"1\r\n{}\r\n0\r\n\r\n",
    "bare LF behind a size": b"2\n{}\r\n0\r\n\r\n",
    "bare LF at the end": b"2\r\n{}\r\n0\r\n\n" + SECOND,
    "a space before the size": b" 2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", SMUGGLING)
def test_a_head_with_two_meanings_is_400_and_the_end(world: World, kind: str, what: str) -> None:
    lines, body = SMUGGLING[what]
    raw = head(world.key, *lines, b"\r\n") + body
    world.exchange(kind, raw, 400, "invalid_http_request", ends=True)


@pytest.mark.parametrize("what", CHUNKS)
def test_a_body_in_broken_chunks_is_400_and_the_end(world: World, kind: str, what: str) -> None:
    raw = head(world.key, CHUNKED, b"\r\n") + CHUNKS[what]
    if kind == "hypercorn" and "overflows" in what:
        # h11 counts beyond 64 bits, and waits for more bytes than there are in the world.
        world.exchange(kind, raw, 408, "request_timeout", ends=True)
    else:
        world.exchange(kind, raw, 400, "invalid_http_request", ends=True)


@pytest.mark.parametrize("what", FIRST_LINES)
def test_what_is_no_request_line_is_400_and_the_end(world: World, kind: str, what: str) -> None:
    raw = head(world.key, b"\r\n", first=FIRST_LINES[what])
    world.exchange(kind, raw, 400, "invalid_http_request", ends=True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/health/live"])
@pytest.mark.parametrize("line", [b"x: " + b"a" * 70_000, b"a" * 70_000])
def test_a_head_without_end_is_431(world: World, kind: str, line: bytes, path: str) -> None:
    raw = head(world.key, line, first=f"POST {path} HTTP/1.1".encode())
    world.exchange(kind, raw, 431, "request_head_too_large", ends=True)


def test_a_path_without_end_is_431(world: World, kind: str) -> None:
    world.exchange(
        kind, b"GET /v1/models/" + b"a" * 70_000, 431, "request_head_too_large", ends=True
    )


def test_very_many_header_lines_are_431(world: World, kind: str) -> None:
    lines = b"".join(b"x-%d: a\r\n" % number for number in range(8000))
    world.exchange(kind, head(world.key, lines), 431, "request_head_too_large", ends=True)


def test_a_big_head_is_fine(world: World, kind: str) -> None:
    lines = b"".join(b"x-%d: %b\r\n" % (number, b"a" * 100) for number in range(300))
    with world.wire(kind) as wire:
        wire.send(head(world.key, lines, LENGTH, b"\r\n") + CHAT)
        assert wire.answer().status == 200


# ---------------------------------------------------------------------- paths and methods

NOWHERE = [
    "/v1",
    "/v1/",
    "/v2/models",
    "/",
    "/v1/chat/completions/",
    "/v1/completions",
    "/V1/models",
    "//v1/models",
    "/v1//models",
    "/v1/./models",
    "/v1/../metrics",
    "/v1/..%2fmetrics",
    "/v1/%2e%2e/metrics",
    "/v1/models%00",
    "/v1\\models",
    "/v1;x/models",
    "*",
    "/v1/%c0%ae",
    "/metrics/x",
    "/health/../metrics",
    "/" + "a" * 30_000,
    "/v1/" + "a/" * 10_000,
    "/v1/chat/completions%20",
    "http://other.example/v1",
    "http://other.example",
]


@pytest.mark.parametrize("path", NOWHERE, ids=lambda path: str(path)[:30])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_none_is_404(world: World, kind: str, path: str, method: str) -> None:
    request = world.request(b"", path=path, method=method, key=None, headers=())
    world.exchange(kind, request, 404, "not_found")


WRONG_METHODS = [
    ("GET", "/v1/chat/completions", "POST"),
    ("HEAD", "/v1/chat/completions", "POST"),
    ("PUT", "/v1/chat/completions", "POST"),
    ("OPTIONS", "/v1/embeddings", "POST"),
    ("TRACE", "/v1/embeddings", "POST"),
    ("PATCH", "/v1/embeddings", "POST"),
    ("POST", "/v1/models", "GET, HEAD"),
    ("DELETE", "/v1/models/m", "GET, HEAD"),
    ("POST", "/health/live", "GET, HEAD"),
    ("DELETE", "/metrics", "GET, HEAD"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
def test_a_wrong_method_is_405_and_says_which_are_right(
    world: World, kind: str, method: str, path: str, allowed: str
) -> None:
    request = world.request(b"", path=path, method=method, headers=())
    answer = world.exchange(kind, request, 405, "method_not_allowed", head_only=method == "HEAD")
    assert answer.status == 405
    assert sorted((answer.header("allow") or "").split(", ")) == allowed.split(", ")


@pytest.mark.parametrize("path", ["/v1/mod%65ls", "http://other.example/v1/models", "/v1/models?a"])
def test_a_path_may_be_written_in_several_ways(world: World, kind: str, path: str) -> None:
    with world.wire(kind) as wire:
        wire.send(world.request(b"", path=path, method="GET", headers=(), length=None))
        assert b'"object":"list"' in wire.answer().body


# ---------------------------------------------------------------------- connections


def test_pipelined_requests_are_answered_in_order(world: World, kind: str) -> None:
    asked = [b'{"model":"m%d"}' % number for number in range(5)]
    with world.wire(kind) as wire:
        wire.send(b"".join(world.request(body, path="/v1/embeddings") for body in asked))
        answers = [wire.answer() for _ in asked]
    assert [answer.error["param"] for answer in answers] == ["input"] * 5
    assert len({answer.header("x-request-id") for answer in answers}) == 5


@pytest.mark.parametrize("rubbish", [b"rubbish\r\n\r\n", b"\x00" * 100, b"GET / HTTP/9\r\n\r\n"])
def test_rubbish_behind_a_good_request_costs_it_nothing(
    world: World, kind: str, rubbish: bytes
) -> None:
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request() + rubbish)
        good = wire.answer()
        assert good.status == 200
        world.envelope(wire.answer(), 400, "invalid_http_request", None)
        assert wire.rest() == b""
    world.aftermath(kind, good, 1)


def test_a_bad_request_among_pipelined_ones_is_the_last(world: World, kind: str) -> None:
    world.new_rows()
    both = head(world.key, LENGTH, CHUNKED, b"\r\n") + CHAT
    with world.wire(kind) as wire:
        wire.send(world.request() + both + world.request())
        good = wire.answer()
        assert good.status == 200
        world.envelope(wire.answer(), 400, "invalid_http_request", None)
        assert wire.rest() == b""
    world.aftermath(kind, good, 1)


@pytest.mark.parametrize("model", ["m", "absent"])
@pytest.mark.parametrize("keep", [b"", b"connection: keep-alive\r\n"])
def test_http_1_0_is_answered_and_ended(world: World, kind: str, model: str, keep: bytes) -> None:
    world.new_rows()
    body = CHAT.replace(b'"m"', json.dumps(model).encode())
    first = b"POST /v1/chat/completions HTTP/1.0"
    length = b"content-length: %d\r\n" % len(body)
    with world.wire(kind) as wire:
        wire.send(head(world.key, keep, length, b"\r\n", first=first) + body)
        answer = wire.answer()
        assert "transfer-encoding" not in dict(answer.headers)
        assert wire.rest() == b""
    if model == "absent":
        world.envelope(answer, 404, "model_not_found", "model")
    assert answer.status == (200 if model == "m" else 404)
    world.aftermath(kind, answer, int(model == "m"))


@pytest.mark.parametrize("good", [True, False])
def test_a_client_that_has_shut_its_side_gets_what_is_ready(
    world: World, kind: str, good: bool
) -> None:
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request(None if good else b"{"))
        wire.socket.shutdown(1)
        answer = wire.answer()
        assert answer.status == (200 if good else 400)
        assert wire.rest() == b""
    world.aftermath(kind, answer, int(good))


@pytest.mark.parametrize("cut", [1, 20, 60, 100, 190, -1])
def test_a_client_that_leaves_in_the_middle_costs_nothing(
    world: World, kind: str, cut: int
) -> None:
    world.new_rows()
    request = world.request()
    with world.wire(kind) as wire:
        wire.send(request[:cut])
    with world.wire(kind) as wire:
        good = world.good_call(wire)
    world.aftermath(kind, good, 1)


@pytest.mark.parametrize("wish", ["websocket", "h2c", "TLS/1.0"])
def test_a_wish_for_another_protocol_is_not_followed(world: World, kind: str, wish: str) -> None:
    headers = (
        "connection: Upgrade, HTTP2-Settings",
        f"upgrade: {wish}",
        "http2-settings: AAMAAABk",
    )
    for method, path, status in (("GET", "/v1/models", 200), ("GET", "/v1/x", 404)):
        with world.wire(kind) as wire:
            wire.send(world.request(b"", path=path, method=method, headers=headers, length=None))
            assert wire.answer().status == status
            world.good_call(wire)
