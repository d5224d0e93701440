"""Upstreams that refuse, hang, lie or break: 502, 503 or 504 in our envelope, a truthful end of a
stream, and not a word about where the call went."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.testing.model_server import DONE, chat_chunk, chat_events, completion, event
from llmgw_core.testing.upstream import chunk, chunked_head, http_reply

from .conftest import SECRET, UPSTREAM_MODEL

if TYPE_CHECKING:
    from llmgw_core.testing.upstream import Peer, Script

    from .conftest import World

JSON = [(b"content-type", b"application/json")]
SSE = [(b"content-type", b"text/event-stream")]
HTML = b"<html><body>nginx on 10.0.0.5</body></html>"
GOOD = json.dumps(completion()).encode()
EVENTS = chat_events()
ERROR = {"error": {"message": f"at http://10.0.0.5/{UPSTREAM_MODEL}", "type": "x", "code": "y"}}
ASK = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
STREAM = ASK[:-1] + b',"stream":true}'
TWO = ASK[:-1] + b',"stream":true,"n":2}'


GATE = b"until the client has the content"
arrived = threading.Event()
"""Set by the client when it has the content."""


def sends(*pieces: bytes, then: str = "close") -> Script:
    """Answers a request with `pieces`; then closes, resets, or holds the connection open."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            if piece is GATE:
                await asyncio.to_thread(arrived.wait, 5)
            else:
                await peer.send(piece)
        if then == "reset":
            peer.reset()
        elif then == "hold":
            await peer.gone()

    return script


async def hang_up(peer: Peer) -> None:
    """Closes before it has read anything."""


async def reset_early(peer: Peer) -> None:
    peer.reset()


async def reset_in_request(peer: Peer) -> None:
    await peer.head()
    peer.reset()


async def endless(peer: Peer) -> None:
    """A stream in which no event ever ends."""
    await peer.request()
    await peer.send(chunked_head(200, SSE))
    while True:
        await peer.send(chunk(b"data: " + b"x" * 262_144))


async def interim_storm(peer: Peer) -> None:
    await peer.request()
    while True:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 200)


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def redirect(status: int) -> bytes:
    return http_reply(status, GOOD, [*JSON, (b"location", b"http://127.0.0.1/elsewhere")])


E, BACKEND = "upstream_error", 502
BROKEN: dict[str, tuple[Script, int, str]] = {
    "hangs up": (hang_up, BACKEND, E),
    "resets": (reset_early, BACKEND, E),
    "resets in the request": (reset_in_request, BACKEND, E),
    "closes without an answer": (sends(), BACKEND, E),
    "closes in the status line": (sends(b"HTTP/1.1 20"), BACKEND, E),
    "closes in the head": (sends(b"HTTP/1.1 200 OK\r\ncontent-le"), BACKEND, E),
    "closes behind the head": (sends(head(b"content-length: 9")), BACKEND, E),
    "closes in the body": (sends(http_reply(200, GOOD, JSON)[:-9]), BACKEND, E),
    "closes in a chunk": (sends(chunked_head(200, JSON), chunk(GOOD)[:-9]), BACKEND, E),
    "closes before the last chunk": (sends(chunked_head(200, JSON), chunk(GOOD)), BACKEND, E),
    "resets in the body": (sends(http_reply(200, GOOD, JSON)[:-9], then="reset"), BACKEND, E),
    "never answers": (sends(then="hold"), 504, "upstream_timeout"),
    "stops in the head": (sends(b"HTTP/1.1 200", then="hold"), 504, "upstream_timeout"),
    "stops in the body": (
        sends(head(b"content-length: 99", b"content-type: application/json"), then="hold"),
        504,
        "upstream_timeout",
    ),
    "1xx without end": (interim_storm, BACKEND, E),
    "speaks no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), BACKEND, E),
    "HTML": (sends(http_reply(200, HTML, [(b"content-type", b"text/html")])), BACKEND, E),
    "HTML as JSON": (sends(http_reply(200, HTML, JSON)), BACKEND, E),
    "nothing": (sends(http_reply(200, b"", JSON)), BACKEND, E),
    "half an object": (sends(http_reply(200, GOOD[:-1], JSON)), BACKEND, E),
    "a list": (sends(http_reply(200, b"[" + GOOD + b"]", JSON)), BACKEND, E),
    "null": (sends(http_reply(200, b"null", JSON)), BACKEND, E),
    "an object without choices": (sends(http_reply(200, b'{"id":"x"}', JSON)), BACKEND, E),
    "choices that are none": (sends(http_reply(200, b'{"choices":7}', JSON)), BACKEND, E),
    "text behind the object": (sends(http_reply(200, GOOD + b"x", JSON)), BACKEND, E),
    "depth": (sends(http_reply(200, b'{"choices":' + b"[" * 5000, JSON)), BACKEND, E),
    "an error in a 200": (sends(http_reply(200, json.dumps(ERROR).encode(), JSON)), BACKEND, E),
    "gzip": (
        sends(
            http_reply(200, b"\x1f\x8b\x08" + b"x" * 20, [*JSON, (b"content-encoding", b"gzip")])
        ),
        BACKEND,
        E,
    ),
    "a body over the cap": (sends(http_reply(200, b" " * 100_001 + GOOD, JSON)), BACKEND, E),
    "an endless body": (
        sends(head(b"content-type: application/json"), b" " * 200_000, then="hold"),
        BACKEND,
        E,
    ),
    "a head over the cap": (sends(head(b"x: " + b"a" * 70_000)), BACKEND, E),
    "too many headers": (sends(head(*(b"x: a" for _ in range(1000)))), BACKEND, E),
    "two lengths": (sends(head(b"content-length: 2", b"content-length: 3")), BACKEND, E),
    "a length that is too long": (sends(head(b"content-length: 9999") + GOOD), BACKEND, E),
    "a length that is too short": (sends(head(b"content-length: 5") + GOOD), BACKEND, E),
    "a length that is none": (sends(head(b"content-length: many") + GOOD), BACKEND, E),
    "an unknown coding": (sends(head(b"transfer-encoding: gzip, chunked")), BACKEND, E),
    "switching protocols": (sends(head(b"upgrade: x", status=b"101 Switching")), BACKEND, E),
    "status 999": (sends(head(b"content-length: 0", status=b"999 Odd")), BACKEND, E),
    "204": (sends(head(status=b"204 No Content")), BACKEND, E),
    "304": (sends(head(status=b"304 Not Modified")), BACKEND, E),
    **{f"redirects with {n}": (sends(redirect(n)), BACKEND, E) for n in (301, 302, 303, 307, 308)},
    **{
        f"answers {n}": (sends(http_reply(n, json.dumps(ERROR).encode(), JSON)), BACKEND, E)
        for n in (405, 406, 415, 421, 426, 500, 501, 502, 520)
    },
    **{
        f"refuses our key with {n}": (
            sends(http_reply(n, json.dumps(ERROR).encode(), JSON)),
            BACKEND,
            "upstream_credentials_exhausted",
        )
        for n in (401, 402, 403)
    },
    "is overloaded": (sends(http_reply(503, b"", JSON)), 503, "upstream_overloaded"),
    "is overloaded (529)": (sends(http_reply(529, b"{}", JSON)), 503, "upstream_overloaded"),
    "is slow itself": (sends(http_reply(504, HTML)), 504, "upstream_timeout"),
    "is slow itself (408)": (sends(http_reply(408, b"{}", JSON)), 504, "upstream_timeout"),
    "limits us": (
        sends(http_reply(429, json.dumps(ERROR).encode(), [*JSON, (b"retry-after", b"7")])),
        429,
        "upstream_rate_limited",
    ),
    "an HTML 400": (sends(http_reply(400, HTML)), BACKEND, E),
}
HEADER_NOISE = [
    (b"set-cookie", b"session=1"),
    (b"server", b"internal-proxy"),
    (b"openai-organization", b"org-internal"),
    (b"x-ratelimit-limit-requests", b"7"),
    (b"x-request-id", b"theirs"),
    (b"via", b"1.1 internal"),
]


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["complete", "stream"])
def test_a_broken_upstream_is_not_the_clients_fault(
    world: World, kind: str, what: str, body: bytes
) -> None:
    script, status, code = BROKEN[what]
    world.script = script
    answer = world.exchange(kind, world.request(body), status, code, admitted=1, ends=False)
    assert answer.error["type"] in {"server_error", "rate_limit_error"}
    retry = answer.header("x-should-retry")
    assert retry == ("false" if "credentials" in code else "true" if status == 503 else None)
    assert answer.header("retry-after") == ("7" if what == "limits us" else None)


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["complete", "stream"])
def test_an_upstream_that_is_not_there_is_503(world: World, kind: str, body: bytes) -> None:
    request = world.request(body.replace(b'"m"', b'"nowhere"'))
    answer = world.exchange(kind, request, 503, "upstream_unavailable", admitted=1, ends=False)
    assert answer.header("x-should-retry") == "true"


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 451])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["complete", "stream"])
def test_what_is_the_clients_fault_is_said_in_the_upstreams_words(
    world: World, kind: str, status: int, body: bytes
) -> None:
    said = f"'messages' is odd for {UPSTREAM_MODEL} at http://127.0.0.1:{world.upstream.port}/v1"
    error = {
        "message": f"{said} ({SECRET}, org-abcdef1234)",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "odd",
        "account": "acme",
    }
    reply = http_reply(status, json.dumps({"error": error}).encode(), [*JSON, *HEADER_NOISE])
    world.script = sends(reply)
    answer = world.exchange(kind, world.request(body), status, "odd", "messages", admitted=1)
    assert answer.error["message"] == "'messages' is odd for m at [hidden] ([hidden], [hidden])"
    assert answer.header("x-should-retry") == "false"
    assert answer.header("x-ratelimit-limit-requests") == "1000000"


@pytest.mark.parametrize("kind_of_reply", ["JSON", "SSE"])
def test_headers_of_the_upstream_stay_where_they_are(
    world: World, kind: str, kind_of_reply: str
) -> None:
    stream = kind_of_reply == "SSE"
    body = b"".join(EVENTS) if stream else GOOD
    world.script = sends(http_reply(200, body, [*(SSE if stream else JSON), *HEADER_NOISE]))
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request(STREAM if stream else ASK))
        answer = wire.answer()
    assert answer.status == 200
    assert not {"via", "openai-organization", "set-cookie"} & {name for name, _ in answer.headers}
    assert answer.header("x-request-id") != "theirs"
    world.aftermath(kind, answer, 1)


# ---------------------------------------------------------------------- streams


def stream_of(*pieces: bytes, then: str = "close", end: bool = True) -> Script:
    parts = [piece if piece is GATE else chunk(piece) for piece in pieces]
    return sends(chunked_head(200, SSE), *parts, *([chunk(b"")] if end else []), then=then)


ERROR_EVENT = event(ERROR)
BEGUN = (*EVENTS[:2], GATE)
BEFORE_CONTENT: dict[str, tuple[Script, int, str]] = {
    "an error event": (stream_of(ERROR_EVENT), BACKEND, E),
    "a named error event": (stream_of(b"event: error\ndata: {}\n\n"), BACKEND, E),
    "an event that is no JSON": (stream_of(b"data: {oops\n\n"), BACKEND, E),
    "an event that is no object": (stream_of(b"data: [1]\n\n"), BACKEND, E),
    "an event in bad UTF-8": (stream_of(b'data: {"choices":"\xff"}\n\n'), BACKEND, E),
    "nothing at all": (stream_of(), BACKEND, E),
    "comments only": (stream_of(b": x\n\n" * 5), BACKEND, E),
    "a role, then the end": (stream_of(EVENTS[0]), BACKEND, E),
    "a role, then a cut": (stream_of(EVENTS[0], end=False), BACKEND, E),
    "a role, then silence": (stream_of(EVENTS[0], then="hold", end=False), 504, "upstream_timeout"),
    "no end of an event": (endless, BACKEND, E),
    "HTML": (sends(http_reply(200, HTML, SSE)), BACKEND, E),
    "an unknown type": (sends(http_reply(200, GOOD, [(b"content-type", b"x/y")])), BACKEND, E),
}
AFTER_CONTENT: dict[str, Script] = {
    "an error event": stream_of(*BEGUN, ERROR_EVENT),
    "an event that is no JSON": stream_of(*BEGUN, b'data: {"error"\n\n'),
    "a cut": stream_of(*BEGUN, end=False),
    "a reset": stream_of(*BEGUN, end=False, then="reset"),
    "silence": stream_of(*BEGUN, end=False, then="hold"),
    "the end without an end": stream_of(*BEGUN),
    "a broken chunk": sends(chunked_head(200, SSE), chunk(EVENTS[1]), GATE, b"xyz\r\n"),
    "half an event": stream_of(*BEGUN, b'data: {"choices', end=False),
}


@pytest.mark.parametrize("what", BEFORE_CONTENT)
def test_a_stream_that_breaks_before_its_content_is_an_error_reply(
    world: World, kind: str, what: str
) -> None:
    script, status, code = BEFORE_CONTENT[what]
    world.script = script
    world.exchange(kind, world.request(STREAM), status, code, admitted=1, ends=False)


def data_of(body: bytes) -> list[Any]:
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) if line != b"[DONE]" else "[DONE]" for line in lines]


def broken_stream(world: World, kind: str, body: bytes) -> list[Any]:
    """The events of a stream that ends truthfully; everything around it is checked."""
    world.new_rows()
    arrived.clear()
    with world.wire(kind) as wire:
        wire.send(world.request(body))
        wire.see(b'"Hello"')
        arrived.set()
        answer = wire.answer()
        world.good_call(wire)
    world.no_internals(answer)
    assert answer.status == 200
    events = data_of(answer.body)
    assert "[DONE]" not in events
    error = events[-1]["error"]
    assert (error["code"], error["type"]) == ("stream_cut", "server_error")
    assert error["request_id"] == answer.header("x-request-id")
    world.calm()
    first, second = world.new_rows()
    assert (first.status, first.call_id) == ("incomplete", error["request_id"])
    assert first.usage.output_tokens > 0
    assert second.status == "completed"
    return events


@pytest.mark.parametrize("what", AFTER_CONTENT)
def test_a_stream_that_breaks_after_its_content_says_so(world: World, kind: str, what: str) -> None:
    script = AFTER_CONTENT[what]
    asked = 0

    async def once(peer: Peer) -> None:
        nonlocal asked
        asked += 1
        await (script if asked == 1 else world.good)(peer)

    world.script = once
    events = broken_stream(world, kind, STREAM)
    assert events[-2]["choices"][0]["delta"] == {"content": "Hello"}
    world.new_rows()


def test_a_choice_that_is_finished_does_not_finish_the_others(world: World, kind: str) -> None:
    other = chat_chunk({"content": "more"})
    other["choices"][0]["index"] = 1
    script = stream_of(EVENTS[1], GATE, event(chat_chunk({}, "stop")), event(other))
    asked = 0

    async def once(peer: Peer) -> None:
        nonlocal asked
        asked += 1
        await (script if asked == 1 else world.good)(peer)

    world.script = once
    broken_stream(world, kind, TWO)


@pytest.mark.parametrize(
    "script",
    [
        sends(http_reply(200, GOOD, JSON)),
        stream_of(*EVENTS[:-1]),
        stream_of(b"\xef\xbb\xbf" + b"".join(EVENTS)),
        stream_of(b"".join(EVENTS).replace(b"\n", b"\r\n")),
        stream_of(*EVENTS, b"data: rubbish behind the end\n\n"),
        sends(http_reply(200, b"".join(EVENTS), SSE) + b"rubbish behind the reply"),
        stream_of(*EVENTS, end=False),
        stream_of(EVENTS[1], event(chat_chunk({}, "stop")) + DONE),
    ],
)
def test_what_is_odd_and_whole_is_delivered(world: World, kind: str, script: Script) -> None:
    """JSON for a stream, no end marker, rubbish behind the end."""
    world.script = script
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request(STREAM))
        answer = wire.answer()
    assert (answer.status, answer.header("content-type")) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert answer.body.rstrip().endswith(b"data: [DONE]")
    assert b"rubbish" not in answer.body
    world.aftermath(kind, answer, 1)


def test_events_for_a_client_that_wants_a_document_are_502(world: World, kind: str) -> None:
    world.script = stream_of(*EVENTS)
    world.exchange(kind, world.request(ASK), BACKEND, E, admitted=1, ends=False)
