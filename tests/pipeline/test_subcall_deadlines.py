"""A plugin's own call takes no longer than the call around it may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.hooks.specs import hookimpl
from llmgw_core.hooks.subcalls import SubcallError
from llmgw_core.testing.installation import at
from llmgw_core.testing.upstream import Peer, Upstream

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView

QUESTION = {"model": "guard", "messages": [{"role": "user", "content": "Is it safe?"}]}


class Patient:
    """Asks before every call, and goes on when there is no answer."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context
        self.told: list[str] = []

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        try:
            await self.context.chat(call, QUESTION)
        except SubcallError as error:
            self.told.append(error.error.code)


async def stalled(peer: Peer) -> None:
    await peer.request()
    await peer.stall()


async def test_the_time_that_a_client_gives_holds_for_what_plugins_ask_too(
    installed: Install, server: ModelServer
) -> None:
    async with Upstream(stalled) as slow:
        models = {"m": [at(server)], "guard": [at(slow)]}
        here = await installed(models, plugins=[("patient", Patient)])
        async with asyncio.timeout(10):
            reply = await here.client.chat("m", headers=[(b"x-llmgw-timeout-ms", b"200")])
    assert (reply.status, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert server.requests == []
    inner, outer = await here.records()
    assert (inner.model, inner.error_code) == ("guard", "deadline_exceeded")
    assert (outer.model, outer.error_code, outer.attempts) == ("m", "deadline_exceeded", ())
