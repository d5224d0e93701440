"""Attempts with a limit in time: whom it concerns, and whom it does not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_routing import ModelRouting, StreamTimeoutsConfig, TimeoutsConfig
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.pipeline.patience import Patience
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON, completion
from llmgw_core.testing.upstream import Peer, Upstream, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

LIMIT = 0.1


class Slow(MemorySink):
    """A client that takes longer for the end of its reply than the call had."""

    async def finish(self, data: bytes = b"") -> None:
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * LIMIT, passed.set)
        await passed.wait()
        await super().finish(data)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_is_there_is_not_cut_because_its_client_is_slow(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    model = served_by(at(server), routing=ModelRouting(deadline_seconds=LIMIT))
    here = await installed({"m": model})
    reply = await here.client.chat("m", stream=stream, sink=Slow())
    assert reply.status == 200
    assert reply.body.endswith(b"data: [DONE]\n\n" if stream else server.reply)
    [record] = await here.records()
    assert record.status == "completed"


async def test_streams_with_timeouts_of_reads_alone_have_no_further_limit(
    installed: Install, server: ModelServer
) -> None:
    timeouts = TimeoutsConfig(stream=StreamTimeoutsConfig(idle=5.0))
    here = await installed({"m": [at(server, timeouts=timeouts)]})
    assert (await here.client.chat("m", stream=True)).status == 200
    assert (await here.client.chat("m")).status == 200


async def test_a_secret_that_changed_while_it_was_refused_is_tried_at_once(
    installed: Install,
) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            shown = dict((await peer.request()).headers)[b"authorization"]
            seen.append(shown)
            [deployment] = here.gateway.catalog["m"].deployments
            deployment.credential.value = "new"
            good = http_reply(200, msgspec.json.encode(completion()), JSON)
            await peer.send(good if shown.endswith(b"new") else http_reply(401, b"{}"))

    async with Upstream(script) as upstream:
        here = await installed({"m": [at(upstream, credential="old")]})
        assert (await here.client.chat("m")).status == 200
    assert seen == [b"Bearer old", b"Bearer new"]
    [record] = await here.records()
    assert [attempt.outcome for attempt in record.attempts] == ["ok"]
    assert here.gateway.stats.refused_credentials == {}


async def test_a_secret_that_cannot_be_looked_up_in_time_does_not_hold_the_call_up(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Credential) -> str:
        await asyncio.Event().wait()
        return self.value

    monkeypatch.setattr(Credential, "invalidate", lambda self: True)
    monkeypatch.setattr(Credential, "get", never)
    async with Upstream(repeating(http_reply(401, b"{}", JSON))) as upstream:
        rules = ModelRouting(deadline_seconds=LIMIT)
        here = await installed({"m": served_by(at(upstream, credential="old"), routing=rules)})
        async with asyncio.timeout(10):
            reply = await here.client.chat("m")
    assert (reply.status, len(upstream.requests)) == (502, 1)
    assert reply.json()["error"]["code"] == "upstream_credentials_exhausted"
    [record] = await here.records()
    assert [attempt.outcome for attempt in record.attempts] == ["credentials"]


async def test_a_reply_that_comes_in_the_moment_of_the_deadline_is_whole_or_none() -> None:
    loop, written = asyncio.get_running_loop(), []
    deadline = loop.time() + 0.02
    request: Any = SimpleNamespace(stream=False)
    ticket = SimpleNamespace(settled=False, first_content=0.0)
    call: Any = SimpleNamespace(request=request, deadline=deadline)
    exchange: Any = SimpleNamespace(call=call, lane=None, ticket=ticket)
    patience = Patience(exchange, Deployment("m/a", "m", "canonical", "eu", "m"), loop.time)
    arrived = loop.create_future()
    # Both are due when the loop comes back, the reply first.
    loop.call_at(deadline - 0.01, time.sleep, 0.02)
    loop.call_at(deadline - 0.005, arrived.set_result, None)
    with contextlib.suppress(UpstreamFailure):
        async with patience.held(exchange):
            await arrived
            ticket.settled = True
            for part in "reply":
                await asyncio.sleep(0)
                written.append(part)
    assert written == (list("reply") if ticket.settled else [])
