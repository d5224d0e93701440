"""The task that a call runs in belongs to somebody, who may cancel it or set it a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.upstream import Peer, Scripted


async def test_a_client_that_leaves_as_the_owner_cancels_does_not_hide_the_cancellation(
    installed: Install, scripted: Scripted
) -> None:
    async def patient(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    upstream = await scripted(patient)
    here = await installed({"m": [at(upstream)]})
    sink = MemorySink()
    task = asyncio.ensure_future(here.client.chat("m", sink=sink))
    await upstream.until(lambda: bool(upstream.requests))
    sink.leave()
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await here.only_record()).status == "client_left"


async def test_a_call_inside_a_timeout_of_its_owner_respects_it(
    installed: Install, scripted: Scripted
) -> None:
    async def patient(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    here = await installed({"m": [at(await scripted(patient))]})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await here.client.chat("m")
    record = await here.only_record()
    assert (record.status, record.error_code) == ("failed", "interrupted")
    assert record.usage.input_tokens > 0
