"""Good requests with a few bytes changed: whatever comes of it, it is the client's fault or a good
answer, it comes in time, and it reaches an upstream once at most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgw_core.testing.model_server import completion
from llmgw_core.testing.upstream import http_reply

from .conftest import REQUEST_ID

if TYPE_CHECKING:
    from llmgw_core.testing.upstream import Peer

    from .conftest import World

ANY_REPLY = http_reply(
    200,
    json.dumps({**completion(), "data": [{"embedding": [0.5]}]}).encode(),
    [(b"content-type", b"application/json"), (b"connection", b"close")],
)
BODIES = (
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5,"n":1}',
    b'{"model":"m", "messages":[], "stream":true, "stream_options":{"include_usage":true}}',
    b'{"model":"e","input":["a","b"]}',
)
TELLING = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b"0",
        b"-",
        b'"',
        b"\\",
        b"{",
        b"]",
        b"\xff",
    ]
)

change = st.tuples(
    st.sampled_from(["flip", "insert", "cut", "end"]),
    st.floats(0, 1, exclude_max=True),
    TELLING | st.binary(min_size=1, max_size=4),
)
changes = st.lists(change, min_size=1, max_size=3)


def changed(data: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, what in steps:
        at = int(where * len(data))
        if how == "flip":
            data = data[:at] + what + data[at + len(what) :]
        elif how == "insert":
            data = data[:at] + what + data[at:]
        elif how == "cut":
            data = data[:at] + data[at + len(what) * 3 :]
        else:
            data = data[:at]
    return data


async def answers_all(peer: Peer) -> None:
    await peer.request()
    await peer.send(ANY_REPLY)


def bear(world: World, kind: str, raw: bytes) -> None:
    """Send `raw` and nothing more, and look at all that comes back."""
    world.script = answers_all
    before = len(world.upstream.requests)
    statuses = []
    with world.wire(kind) as wire:
        wire.socket.settimeout(5)
        wire.send(raw)
        wire.socket.shutdown(1)
        try:
            while True:
                answer = wire.answer()
                statuses.append(answer.status)
                assert REQUEST_ID.fullmatch(answer.header("x-request-id") or "")
                world.no_internals(answer)
                if answer.status != 200:
                    assert answer.error["request_id"] == answer.header("x-request-id")
        except EOFError:
            pass
    assert all(status < 500 for status in statuses), statuses
    assert len(world.upstream.requests) - before <= 1
    assert world.here.gateway.stats.bugs_total == 0


BOTH = pytest.mark.parametrize("kind", ["hypercorn", "uvicorn"])
SOME = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@BOTH
@SOME
@given(body=st.sampled_from(BODIES), steps=changes, chunked=st.booleans())
def test_changed_bytes_of_a_request(
    living_world: World,
    kind: str,
    body: bytes,
    steps: list[tuple[str, float, bytes]],
    chunked: bool,
) -> None:
    path = "/v1/embeddings" if b"input" in body else "/v1/chat/completions"
    if chunked:
        headers = ("content-type: application/json", "transfer-encoding: chunked")
        whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        raw = living_world.request(whole, path=path, headers=headers, length=None)
    else:
        raw = living_world.request(body, path=path)
    bear(living_world, kind, changed(raw, steps))


@BOTH
@SOME
@given(body=st.sampled_from(BODIES), steps=changes)
def test_changed_bytes_of_a_body(
    living_world: World, kind: str, body: bytes, steps: list[tuple[str, float, bytes]]
) -> None:
    path = "/v1/embeddings" if b"input" in body else "/v1/chat/completions"
    bear(living_world, kind, living_world.request(changed(body, steps), path=path))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["m", "e", "user", "\x00", 10**30, -1, 0, 2**63, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = ["model", "messages", "stream", "stream_options", "max_tokens", "n", "input", "tools"]


@BOTH
@SOME
@given(fields=st.dictionaries(st.sampled_from(NAMES), json_values, max_size=5), embed=st.booleans())
def test_any_values_of_the_fields_that_are_read(
    living_world: World, kind: str, fields: dict[str, object], embed: bool
) -> None:
    path = "/v1/embeddings" if embed else "/v1/chat/completions"
    usual = {"model": "e", "input": "x"} if embed else {"model": "m", "messages": [1]}
    body = json.dumps(usual | fields).encode()
    bear(living_world, kind, living_world.request(body, path=path))


@BOTH
def test_after_all_that_the_books_and_the_meters_agree(living_world: World, kind: str) -> None:
    living_world.calm()
    living_world.script = living_world.good
    living_world.new_rows()
    with living_world.wire(kind) as wire:
        answer = living_world.good_call(wire)
    living_world.aftermath(kind, answer, 1)
