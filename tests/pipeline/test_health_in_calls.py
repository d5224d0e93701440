"""Calls through a whole gateway and the health of its deployments: what ejects one, what brings it
back, and what a reload leaves alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema_health import BreakerConfig, ProbesConfig
from llmgw_core.config.schema_routing import DeploymentRouting, ModelRouting, RoutingConfig
from llmgw_core.domain.ramp import Ramp
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.engine_pages import EnginePages
from llmgw_core.testing.installation import at, install, served_by
from llmgw_core.testing.model_server import JSON, SSE, chat_events
from llmgw_core.testing.reloads import changed, settled, with_models
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from llmgw_core.domain.health import HealthChange
    from llmgw_core.routing.breaker import Breaker
    from llmgw_core.routing.state import DeploymentState
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

NO_RAMP = RoutingConfig(ramp=Ramp(seconds=0.0))
TWICE = DeploymentRouting(breaker=BreakerConfig(consecutive=2, max_ejected=1.0), retries=0)
PROBED = DeploymentRouting(probes=ProbesConfig(enabled=True, interval=0.01, metrics_path=""))


def breaker(here: Installation, name: str) -> Breaker:
    breaker = found(here)[name].breaker
    assert breaker is not None
    return breaker


def found(here: Installation) -> dict[str, DeploymentState]:
    return {
        deployment.id: state
        for deployment, state in here.gateway.health.states(here.gateway.catalog.values())
    }


@pytest.fixture
async def engine() -> AsyncIterator[EnginePages]:
    engine = EnginePages()
    async with engine.upstream:
        yield engine


async def test_a_deployment_that_keeps_failing_gets_no_more_calls_and_everybody_hears_of_it(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    heard: list[HealthChange] = []

    class Hears:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def on_health(self, change: HealthChange) -> None:
            heard.append(change)

    sibling.status = 500
    here = await installed(
        {"m": [at(server, "good", routing=TWICE), at(sibling, "bad", routing=TWICE)]},
        plugins=[("hears", Hears)],
        routing=NO_RAMP,
    )
    for _ in range(12):
        assert (await here.client.chat("m")).status == 200
    assert len(sibling.requests) == 2
    await here.gateway.host.shutdown(5.0)
    assert [(each.deployment, each.after, each.reason, each.seconds) for each in heard] == [
        ("m/bad", "open", "2 failures in a row", 5.0)
    ]
    assert heard[0].at > 0


async def test_one_that_is_well_again_is_tried_by_one_call_and_then_by_all(
    installed: Install, server: ModelServer
) -> None:
    arrived, going_on = asyncio.Event(), asyncio.Event()
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        while True:
            await peer.request()
            count += 1
            arrived.set()
            await going_on.wait()
            await peer.send(http_reply(200, server.reply, JSON))

    async with Upstream(script) as recovering:
        here = await installed(
            {"m": [at(server, "a"), at(recovering, "b", routing=TWICE)]}, routing=NO_RAMP
        )
        trial = breaker(here, "m/b")
        for _ in range(2):
            trial.failed(trial.term, 0.0)
        trial.hasten(0.0)
        calls = [asyncio.create_task(here.client.chat("m")) for _ in range(20)]
        await arrived.wait()
        await settled(lambda: sum(call.done() for call in calls) == 19)
        assert count == 1
        going_on.set()
        assert {(await call).status for call in calls} == {200}
        assert trial.closed
        for _ in range(4):
            await here.client.chat("m")
        assert count == 3


async def test_streams_that_are_cut_eject_and_complete_ones_do_not(
    installed: Install, server: ModelServer
) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + chunk(b"".join(chat_events()[:2])))
        peer.reset()

    async with Upstream(cut) as cutting:
        here = await installed(
            {"m": [at(cutting, routing=TWICE)], "n": [at(server, routing=TWICE)]}
        )
        for _ in range(2):
            reply = await here.client.chat("m", stream=True)
            assert b"[DONE]" not in reply.body
            await here.client.chat("n", stream=True)
        assert not breaker(here, "m/a").closed
        assert breaker(here, "n/a").closed


@pytest.mark.parametrize(
    "status",
    [pytest.param(429, id="throttled"), 401, 403, pytest.param(400, id="at fault"), 404, 422],
)
async def test_what_is_not_the_deployments_fault_ejects_nobody(
    installed: Install, server: ModelServer, status: int
) -> None:
    server.status = status
    server.reply = b'{"error":{"message":"no"}}'
    here = await installed({"m": [at(server, routing=TWICE)]})
    for _ in range(6):
        assert (await here.client.chat("m")).status != 200
    assert breaker(here, "m/a").closed
    assert server.requests


async def test_clients_that_leave_eject_nobody(installed: Install) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()

    async with Upstream(script) as waiting:
        here = await installed({"m": [at(waiting, routing=TWICE)]})
        for _ in range(4):
            asked.clear()
            sink = MemorySink()
            call = asyncio.create_task(here.client.chat("m", sink=sink))
            await asked.wait()
            sink.leave()
            await call
        assert breaker(here, "m/a").closed


async def test_a_deadline_that_others_have_used_up_ejects_nobody(
    installed: Install, server: ModelServer
) -> None:
    async def stall(peer: Peer) -> None:
        await peer.request()
        await peer.stall()

    rules = DeploymentRouting(breaker=BreakerConfig(consecutive=1, max_ejected=1.0))
    async with Upstream(stall) as slow, Upstream(stall) as also_slow:
        first = at(slow, "a", routing=rules, priority=0)
        second = at(also_slow, "b", routing=rules, priority=1)
        model = served_by(first, second, routing=ModelRouting(deadline_seconds=0.2))
        here = await installed({"m": model})
        assert (await here.client.chat("m")).status == 504
        slow.release()
        also_slow.release()
    assert not breaker(here, "m/a").closed
    assert breaker(here, "m/b").closed


async def test_a_reload_keeps_the_health_of_those_that_stay(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    sibling.status = 503
    bad = at(sibling, "bad", routing=TWICE)
    here = await installed({"m": [at(server, "good"), bad]}, routing=NO_RAMP)
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    before, asked = breaker(here, "m/bad"), len(sibling.requests)
    assert not before.closed
    await here.gateway.reload(with_models(here, m=[bad, at(server, "good"), at(server, "new")]))
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert breaker(here, "m/bad") is before
    assert len(sibling.requests) == asked
    off = DeploymentRouting(breaker=BreakerConfig(enabled=False))
    await here.gateway.reload(
        with_models(here, m=[at(server, "good"), at(sibling, "bad", routing=off)])
    )
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert len(sibling.requests) > asked


async def test_an_engine_that_says_it_is_not_ready_gets_no_calls_until_it_is(
    installed: Install, server: ModelServer, engine: EnginePages
) -> None:
    engine.pages["/health"] = (503, b'{"error":{"message":"Loading model"}}')
    here = await installed(
        {"m": [at(server, "other"), at(engine, "engine", routing=PROBED)]}, routing=NO_RAMP
    )
    await settled(lambda: found(here)["m/engine"].ready is False)
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert not [each for each in engine.upstream.requests if each.method == "POST"]
    engine.pages["/health"] = (200, b"")
    await settled(lambda: found(here)["m/engine"].ready is True)
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert [each for each in engine.upstream.requests if each.method == "POST"]


async def test_an_engine_that_is_alone_is_tried_although_it_is_not_ready(
    installed: Install, engine: EnginePages
) -> None:
    engine.pages["/health"] = (503, b"")
    here = await installed({"m": [at(engine, routing=PROBED)]})
    await settled(lambda: found(here)["m/a"].ready is False)
    assert (await here.client.chat("m")).status == 200


async def test_nobody_is_asked_unless_it_is_configured_and_a_reload_is_followed(
    installed: Install, engine: EnginePages
) -> None:
    here = await installed({"m": [at(engine)]})
    assert (await here.client.chat("m")).status == 200
    assert {each.method for each in engine.upstream.requests} == {"POST"}
    await here.gateway.reload(with_models(here, m=[at(engine, routing=PROBED)]))
    await settled(lambda: found(here)["m/a"].ready is True)
    await here.gateway.reload(with_models(here, m=[at(engine)]))
    assert found(here)["m/a"].ready is None
    general = RoutingConfig(probes=ProbesConfig(enabled=True, interval=0.01, metrics_path=""))
    await here.gateway.reload(changed(here, routing=general))
    await settled(lambda: found(here)["m/a"].ready is True)


async def test_probes_end_with_the_gateway(tmp_path: Path, engine: EnginePages) -> None:
    def probing() -> bool:
        return "llmgw probe m/a" in {task.get_name() for task in asyncio.all_tasks()}

    async with install(tmp_path, {"m": [at(engine, routing=PROBED)]}) as here:
        await settled(lambda: found(here)["m/a"].ready is True)
        assert probing()
    assert not probing()


@pytest.mark.parametrize("ending", ["whole", "cut"])
async def test_the_first_content_of_a_stream_on_trial_brings_the_deployment_back(
    installed: Install, ending: str
) -> None:
    going_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        first, second, *rest = chat_events()
        await peer.send(chunked_head(200, SSE) + chunk(first + second))
        await going_on.wait()
        if ending == "whole":
            await peer.send(chunk(b"".join(rest)) + chunk(b""))
        peer.cut()

    async with Upstream(script) as slow:
        here = await installed({"m": [at(slow, routing=TWICE)]}, routing=NO_RAMP)
        trial = breaker(here, "m/a")
        for _ in range(2):
            trial.failed(trial.term, 0.0)
        trial.hasten(0.0)
        call = asyncio.create_task(here.client.chat("m", stream=True))
        await settled(lambda: trial.closed)
        assert not call.done()
        going_on.set()
        reply = await call
        assert (b"[DONE]" in reply.body) is (ending == "whole")
        assert trial.closed
        if ending == "cut":
            trial.failed(trial.term, 0.0)
            assert not trial.closed, "the cut was the first of two in a row"
