"""The adapter on events in memory: what servers differ in, and what a socket does not show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_server.asgi import SMALL_BODY, CallEndpoint

from .conftest import reply, watchers
from .test_asgi import echo

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from llmgw_core.domain.call import Body, Head, Sink


class Wire:
    """An ASGI server in memory: `incoming` is what `receive` yields, `sent` what was sent."""

    def __init__(self, *incoming: dict[str, Any], broken: bool = False) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in incoming:
            self.incoming.put_nowait(event)
        self.sent: list[MutableMapping[str, Any]] = []
        self.broken = broken

    async def receive(self) -> MutableMapping[str, Any]:
        return await self.incoming.get()

    async def send(self, event: MutableMapping[str, Any]) -> None:
        if self.broken:
            raise OSError("client disconnected")
        self.sent.append(event)

    def scope(self, **changes: Any) -> dict[str, Any]:
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/x",
            "query_string": b"",
            "headers": [],
            "client": None,
        }
        return scope | changes


WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}


async def test_a_complete_reply_is_two_sends() -> None:
    wire = Wire(WHOLE)
    await CallEndpoint(echo, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert [event["type"] for event in wire.sent] == ["http.response.start", "http.response.body"]
    assert wire.sent[1] == {"type": "http.response.body", "body": b"{}", "more_body": False}


@pytest.mark.parametrize(("method", "length"), [("POST", b"5"), ("HEAD", None)])
async def test_a_complete_reply_without_a_length_gets_one(
    method: str, length: bytes | None
) -> None:
    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await sink.start(200, [(b"content-type", b"application/json")])
        await sink.finish(b"" if method == "HEAD" else b"hello")

    wire = Wire(WHOLE)
    endpoint = CallEndpoint(answer, body_seconds=60)
    await endpoint(wire.scope(method=method), wire.receive, wire.send)
    assert dict(wire.sent[0]["headers"]).get(b"content-length") == length
    assert len(wire.sent) == 2


async def test_the_head_of_a_stream_leaves_before_its_body() -> None:
    sent: list[int] = []

    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await sink.start(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
        sent.append(len(wire.sent))
        await sink.finish(b"data: [DONE]\n\n")

    wire = Wire(WHOLE)
    await CallEndpoint(answer, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert sent == [1]


async def test_a_mounted_application_sees_its_own_paths() -> None:
    paths: list[str] = []

    async def keep(head: Head, body: Body, sink: Sink) -> None:
        paths.append(head.path)

    wire = Wire()
    scope = wire.scope(path="/llm/v1/models", root_path="/llm", client=("10.0.0.1", 5))
    await CallEndpoint(keep, body_seconds=60)(scope, wire.receive, wire.send)
    assert paths == ["/v1/models"]


@pytest.mark.parametrize("step", ["start", "write", "finish"])
async def test_a_server_whose_send_raises_says_that_the_client_left(step: str) -> None:
    outcome: list[tuple[bool, int]] = []

    async def answer(head: Head, body: Body, sink: Sink) -> None:
        calls: list[int] = []
        sink.on_gone = lambda: calls.append(1)
        await body.read(100)
        wire.broken = step == "start"
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        assert sink.gone == (step == "start")
        wire.broken = wire.broken or step == "write"
        await sink.write(b"x")
        assert sink.gone == (step in {"start", "write"})
        wire.broken = True
        await sink.finish()
        outcome.append((sink.gone, len(calls)))

    wire = Wire(WHOLE)
    await CallEndpoint(answer, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert outcome == [(True, 0 if step == "finish" else 1)]


async def test_a_stream_is_watched_from_its_first_part_to_its_last() -> None:
    seen: list[int] = []

    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        await sink.start(200, [])
        seen.append(len(watchers()))
        for _ in range(2):
            await sink.write(b"x")
            seen.append(len(watchers()))
        await sink.finish()

    wire = Wire(WHOLE)
    await CallEndpoint(answer, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert seen == [0, 1, 1]
    assert watchers() == []


async def test_finishing_twice_sends_once() -> None:
    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"")
        await sink.finish(b"again")

    wire = Wire(WHOLE)
    await CallEndpoint(answer, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert len(wire.sent) == 2


async def test_the_disconnect_that_follows_a_complete_reply_is_not_the_client_leaving() -> None:
    gone: list[bool] = []

    async def answer(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        await sink.start(200, [])
        await sink.write(b"x")
        await sink.finish()
        wire.incoming.put_nowait({"type": "http.disconnect"})
        await watchers()[0]
        gone.append(sink.gone)

    wire = Wire(WHOLE)
    await CallEndpoint(answer, body_seconds=60)(wire.scope(), wire.receive, wire.send)
    assert gone == [False]


async def test_a_cancelled_read_is_cancelled_and_not_late() -> None:
    wire = Wire()
    endpoint = CallEndpoint(echo, body_seconds=60)
    call = asyncio.ensure_future(endpoint(wire.scope(), wire.receive, wire.send))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    endpoint.close()


async def test_an_unwanted_body_that_never_ends_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmgw_server.asgi.LINGER_SECONDS", 0.01)

    async def refuse(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"no", 401)

    wire = Wire()
    scope = wire.scope(headers=[(b"content-length", b"%d" % (SMALL_BODY + 1))])
    await CallEndpoint(refuse, body_seconds=60)(scope, wire.receive, wire.send)
    assert [event.get("more_body") for event in wire.sent] == [None, True, False]


async def test_a_sweep_between_head_and_body_takes_no_part_of_the_body() -> None:
    ready = asyncio.Event()

    async def slow_authentication(head: Head, body: Body, sink: Sink) -> None:
        await ready.wait()
        await reply(sink, await body.read(100))

    wire = Wire(WHOLE)
    endpoint = CallEndpoint(slow_authentication, body_seconds=0, sweep_interval=0.001)
    call = asyncio.ensure_future(endpoint(wire.scope(), wire.receive, wire.send))
    for _ in range(3):
        await asyncio.sleep(0.002)  # sweeps go by
    assert watchers() == []
    ready.set()
    await call
    assert wire.sent[1]["body"] == b"{}"
