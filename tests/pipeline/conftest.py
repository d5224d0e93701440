"""Upstreams that fail, each in its own way, and what a caller is told of it."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.budgeted_calls import nine_and_three
from llmgw_core.testing.busy_engine import Engine
from llmgw_core.testing.engine_pages import EnginePages
from llmgw_core.testing.model_server import JSON
from llmgw_core.testing.probing import ProbedEngine
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply, repeating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Script

SECRET = "pw-of-the-upstream"
"""Text of upstreams that no client may see."""


class Failing(NamedTuple):
    """An upstream that fails. `status` and `code` are what a caller gets when it is alone,
    `outcome` is the attempt's on the books."""

    name: str
    port: int
    requests: list[object]
    status: int
    code: str
    outcome: str
    timeouts: Timeouts


async def _reset(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def _half(peer: Peer) -> None:
    await peer.request()
    await peer.send(http_reply(200, b'{"choices": []}', JSON)[:-5])


async def _half_chunked(peer: Peer) -> None:
    await peer.request()
    await peer.send(chunked_head(200, JSON) + chunk(b'{"choices"'))


async def _stall(peer: Peer) -> None:
    await peer.request()
    await peer.stall()


async def _garbage(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"SSH-2.0-" + SECRET.encode() + b"\r\n\r\n")


def _reply(status: int, body: str, *headers: tuple[bytes, bytes]) -> Script:
    return repeating(http_reply(status, body.encode(), JSON + headers))


_ERROR = f'{{"error":{{"message":"{SECRET}"}}}}'
_FAILURES: dict[str, tuple[Script, int, str, str]] = {
    "reset": (_reset, 502, "upstream_error", "cut"),
    "cut in the body": (_half, 502, "upstream_error", "cut"),
    "cut between chunks": (_half_chunked, 502, "upstream_error", "cut"),
    "no answer": (_stall, 504, "upstream_timeout", "timeout"),
    "not HTTP": (_garbage, 502, "upstream_error", "protocol"),
    "a page": (_reply(200, f"<html>{SECRET}"), 502, "upstream_error", "protocol"),
    "a page with 404": (_reply(404, f"<html>{SECRET}"), 502, "upstream_error", "protocol"),
    "an error in a 200": (_reply(200, _ERROR), 502, "upstream_error", "server"),
    "500": (_reply(500, _ERROR), 502, "upstream_error", "server"),
    "503": (_reply(503, _ERROR), 503, "upstream_overloaded", "overloaded"),
    "429": (
        _reply(429, _ERROR, (b"retry-after", b"7")),
        429,
        "upstream_rate_limited",
        "rate_limited",
    ),
    "401": (_reply(401, _ERROR), 502, "upstream_credentials_exhausted", "credentials"),
    "403": (_reply(403, _ERROR), 502, "upstream_credentials_exhausted", "credentials"),
}


@pytest.fixture(params=[*_FAILURES, "refused"])
async def failing(request: pytest.FixtureRequest) -> AsyncIterator[Failing]:
    """Each kind of failure in turn."""
    name: str = request.param
    if name == "refused":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            yield Failing(name, port, [], 503, "upstream_unavailable", "connect", Timeouts())
        return
    script, status, code, outcome = _FAILURES[name]
    timeouts = Timeouts(first_byte=0.05) if name == "no answer" else Timeouts()
    async with Upstream(script) as upstream:
        requests: list[object] = upstream.requests  # type: ignore[assignment]
        yield Failing(name, upstream.port, requests, status, code, outcome, timeouts)


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[Script], Awaitable[Upstream]]]:
    """Opens upstreams that follow a script."""
    async with AsyncExitStack() as stack:

        async def opened(script: Script) -> Upstream:
            return await stack.enter_async_context(Upstream(script))

        yield opened


@pytest.fixture
def engine() -> Engine:
    """The script of an engine that answers when it is told to."""
    return Engine()


@pytest.fixture
async def world() -> AsyncIterator[ProbedEngine]:
    """An engine that is probed."""
    engine = EnginePages()
    async with engine.upstream:
        world = ProbedEngine(engine)
        world.prober.start()
        yield world
        await world.prober.aclose()
        await world.transport.aclose()


@pytest.fixture
async def metered() -> AsyncIterator[ModelServer]:
    """An upstream of calls that are charged `budgeted_calls.PRICE`."""
    async with nine_and_three() as server:
        yield server
