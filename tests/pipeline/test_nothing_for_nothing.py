"""Calls that end at an awkward moment: what was used is charged, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.usage import NO_USAGE
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


class Waiting:
    """Takes no configuration and waits for ever."""

    begun: asyncio.Event

    def __init__(self, config: None, context: Any) -> None:
        self.context = context

    async def wait(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()


class WaitingJudge(Waiting):
    @hookimpl
    async def post_process(self) -> None:
        await self.wait()


class WaitingGuard(Waiting):
    @hookimpl
    async def pre_route(self) -> None:
        await self.wait()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the plugin waits."""
    event = asyncio.Event()
    monkeypatch.setattr(Waiting, "begun", event, raising=False)
    return event


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where connections are neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # more than its queue takes
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_is_judged_when_the_client_leaves_is_paid_as_the_upstream_said(
    installed: Install, server: ModelServer, begun: asyncio.Event, stream: bool
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("judge", WaitingJudge)])
    sink = MemorySink()
    call = asyncio.ensure_future(here.client.chat("m", sink=sink, stream=stream))
    await begun.wait()
    sink.leave()
    await call
    [record] = await here.records()
    assert (record.status, record.usage.source) == ("client_left", "provider")
    assert record.charge == 7 * INPUT_PRICE + 3 * OUTPUT_PRICE


async def test_who_leaves_while_the_upstream_is_being_connected_pays_nothing(
    installed: Install, deaf: int
) -> None:
    here = await installed({"m": [at(deaf)]})
    sink = MemorySink()
    call = asyncio.ensure_future(here.client.chat("m", sink=sink))
    while not any(settlement.attempt for settlement in here.gateway.books.open):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    sink.leave()
    await call
    [record] = await here.records()
    assert (record.status, record.usage, record.charge) == ("client_left", NO_USAGE, 0)


async def test_a_call_that_outlives_its_gateway_is_on_the_books(
    tmp_path: Path, server: ModelServer, begun: asyncio.Event
) -> None:
    guard = [("guard", WaitingGuard)]
    async with install(tmp_path, {"m": [at(server)]}, plugins=guard) as here:
        call = asyncio.ensure_future(here.client.chat("m"))
        await begun.wait()
    call.cancel()
    await asyncio.wait([call])
    late = await here.client.chat("m")
    assert late.status == 503
    async with install(tmp_path, {"m": [at(server)]}, tenant={"name": "other"}) as again:
        [record] = await again.records()
    assert (record.status, record.error_code) == ("failed", "interrupted")
