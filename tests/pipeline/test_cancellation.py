"""A call is ended from outside after every number of steps of the loop: the books always hold."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from llmgw_core.domain.reply import Reply
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.wire.request import RequestView

RPM = 100_000
LIMITS = Limits(rpm=RPM, tpm=10_000_000, parallel=1)
STEPS = 400


class Awaiting:
    """Suspends in every hook that may."""

    def __init__(self, config: None, context: Any) -> None:
        pass

    @hookimpl
    async def pre_route(self, request: RequestView) -> None:
        await asyncio.sleep(0)

    @hookimpl
    async def post_process(self, reply: Reply) -> None:
        await asyncio.sleep(0)


class SlowSink(MemorySink):
    """Suspends wherever a real one may."""

    async def start(self, status: int, headers: Any) -> None:
        await asyncio.sleep(0)
        await super().start(status, headers)

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        await super().write(data)


async def ended_after(
    here: Installation, steps: int, by: str, **request: Any
) -> tuple[bool, SlowSink]:
    """Whether the call was finished before it was ended, and what its client has."""
    sink = SlowSink()
    task = asyncio.ensure_future(here.client.chat("m", sink=sink, **request))
    for _ in range(steps):
        await asyncio.sleep(0)
    finished = task.done()
    if by == "the owner":
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    else:
        sink.leave()
        await task
        assert task.cancelling() == 0
    return finished, sink


@pytest.mark.parametrize("by", ["the owner", "the client"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
@pytest.mark.parametrize("hooks", [False, True])
async def test_whenever_a_call_is_ended_it_has_one_record_or_was_never_admitted(
    installed: Install,
    server: ModelServer,
    *,
    stream: bool,
    on_disconnect: str,
    hooks: bool,
    by: str,
) -> None:
    server.events = [server.events[0], *server.events[1:3] * 3, *server.events[3:]]
    async with ModelServer() as broken:
        broken.status = 500
        here = await installed(
            {
                "m": served_by(
                    at(broken, "x", weight=9, on_disconnect=on_disconnect),
                    at(server, "y", on_disconnect=on_disconnect),
                    limits=LIMITS,
                )
            },
            tenant={"limits": LIMITS, "key_limits": LIMITS},
            plugins=[("awaiting", Awaiting)] if hooks else [],
        )
        admitted = 0
        statuses = set()
        for steps in range(STEPS):
            before = here.gateway.stats.in_flight
            finished, sink = await ended_after(here, steps, by, stream=stream)
            assert here.gateway.stats.in_flight == before == 0
            records = await here.records()
            assert len(records) - admitted in {0, 1}
            if len(records) > admitted:
                statuses.add(records[-1].status)
                assert records[-1].charge == sum(a.charge for a in records[-1].attempts)
            elif sink.status:
                assert sink.status in {401, 404, 429}
            if not sink.gone and (b"[DONE]" in sink.body or (not stream and sink.finished)):
                assert records[-1].status == "completed"
            admitted = len(records)
            if finished:
                break
        assert finished
        # The slot is free again: `parallel` is 1 on every level.
        reply = await here.client.chat("m")
        assert reply.status == 200
        # Some requests are in the meter, as many as there are records, and this one.
        remaining = int(reply.headers["x-ratelimit-remaining-requests"])
        assert remaining == RPM - admitted - 1
        assert {"completed", "failed" if by == "the owner" else "client_left"} <= statuses
