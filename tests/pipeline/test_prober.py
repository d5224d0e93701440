"""Probes of engines over real sockets: what they put into the routing memory."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.health import HealthChange, ProbeSettings
from llmgw_core.domain.load import EngineLoad
from llmgw_core.routing.breaker import HALF_OPEN, OPEN
from llmgw_core.testing.canonical_plugin import CanonicalOptions
from llmgw_core.testing.upstream import Peer, Upstream

if TYPE_CHECKING:
    import pytest

    from llmgw_core.testing.probing import ProbedEngine

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
SETTINGS = ProbeSettings(enabled=True, timeout=5.0, models="require")


async def test_a_healthy_engine_is_asked_for_everything_and_stays_a_candidate(
    world: ProbedEngine,
) -> None:
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 2\n")
    await world.ticker.round()
    assert [request.target for request in world.engine.upstream.requests] == [
        "/health",
        "/v1/models",
        "/metrics",
    ]
    assert dict(world.engine.upstream.requests[0].headers)[b"authorization"] == b"Bearer sk-probe"
    assert (world.obstacle(), world.told) == ("", [])
    assert world.state.load == EngineLoad(4, 2, None, 1000.0)
    assert world.state.others == 6
    assert world.state.ready is True


async def test_calls_of_ours_are_not_counted_twice(world: ProbedEngine) -> None:
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 2\n")
    world.state.in_flight = 5
    await world.ticker.round()
    assert world.state.others == 1
    world.state.in_flight = 9
    await world.ticker.round()
    assert world.state.others == 0


async def test_an_engine_that_loads_its_model_is_not_ready_until_it_is(
    world: ProbedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgw.health")
    world.engine.pages["/health"] = (503, LOADING)
    await world.ticker.round()
    assert world.obstacle() == "not ready: it answers /health with status 503"
    assert world.engine.asked() == ["/health"]
    assert world.state.ready is False
    await world.ticker.round()
    world.engine.pages["/health"] = (200, b"")
    await world.ticker.round()
    assert world.obstacle() == ""
    reason = "it answers /health with status 503"
    assert world.told == [
        HealthChange("m/a", "probe", "ready", "not_ready", reason, at=7),
        HealthChange("m/a", "probe", "not_ready", "ready", "it answers again", at=7),
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_cut_connection_counts_when_it_happens_again(world: ProbedEngine) -> None:
    world.engine.pages["/health"] = None
    await world.ticker.round()
    assert world.obstacle() == ""
    await world.ticker.round()
    assert world.obstacle().startswith("not ready: it does not answer: ")


async def test_an_engine_that_does_not_answer_in_time_is_silent(world: ProbedEngine) -> None:
    world.probe_as(timeout=0.01, failures=1)
    release = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await release.wait()

    async with Upstream(slow) as upstream:
        stuck = msgspec.structs.replace(
            world.deployment, options=CanonicalOptions(upstream.port), id="m/stuck"
        )
        world.deployment = stuck
        world.follow()
        await world.ticker.round()
        release.set()
    assert world.obstacle().startswith("not ready: it does not answer: ")


async def test_an_engine_that_is_back_is_tried_at_once(world: ProbedEngine) -> None:
    breaker = world.state.breaker
    assert breaker is not None
    breaker.failed(breaker.term, world.now)
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    assert breaker.state is OPEN
    assert not breaker.admits(world.now)
    world.engine.pages["/health"] = (200, b"")
    await world.ticker.round()
    assert breaker.admits(world.now)
    breaker.enter(world.now)
    assert breaker.state is HALF_OPEN


async def test_a_good_health_page_alone_does_not_shorten_an_ejection(world: ProbedEngine) -> None:
    breaker = world.state.breaker
    assert breaker is not None
    breaker.failed(breaker.term, world.now)
    await world.ticker.round()
    assert not breaker.admits(world.now)


async def test_a_model_that_is_not_listed_makes_not_ready_or_is_only_remarked(
    world: ProbedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    world.engine.pages["/v1/models"] = (200, b'{"data":[{"id":"other"}]}')
    await world.ticker.round()
    assert world.obstacle() == "not ready: it does not list the model `m`"
    world.probe_as(models="warn")
    caplog.clear()
    for _ in range(3):
        await world.ticker.round()
    assert world.obstacle() == ""
    remark = "deployment=m/a probe: it does not list the model `m`"
    assert [record.message for record in caplog.records].count(remark) <= 1
    world.probe_as(models="ignore")
    world.engine.asked()
    await world.ticker.round()
    assert world.engine.asked() == ["/health", "/metrics"]


async def test_what_cannot_be_learned_is_remarked_once_and_holds_nobody_back(
    world: ProbedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    world.probe_as(models="warn")
    world.engine.pages |= {
        "/health": (404, b""),
        "/v1/models": (401, b""),
        "/metrics": (200, b"<html>"),
    }
    for _ in range(3):
        await world.ticker.round()
    no_metrics = "/metrics has no metrics of a known engine (status 200)"
    assert (world.obstacle(), world.state.load) == ("", None)
    assert [record.message for record in caplog.records] == [
        "deployment=m/a probe: it has no page /health (status 404)",
        "deployment=m/a probe: its models cannot be listed: the credential is refused",
        "deployment=m/a probe: its load is not known: " + no_metrics,
    ]
    world.engine.pages["/metrics"] = (200, b"tgi_queue_size x\n")
    await world.ticker.round()
    assert "its metrics cannot be read" in caplog.records[-1].message


async def test_a_report_that_is_too_old_is_forgotten(world: ProbedEngine) -> None:
    await world.ticker.round()
    assert world.loaded()
    world.engine.pages["/metrics"] = None
    world.now += 44.9
    await world.ticker.round()
    assert world.loaded()
    world.now += 0.2
    await world.ticker.round()
    assert not world.loaded()
    assert world.state.others == 0


async def test_an_engine_that_is_too_full_gets_no_calls_for_the_time_being(
    world: ProbedEngine,
) -> None:
    world.probe_as(max_waiting=3)
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 3\n")
    await world.ticker.round()
    assert world.obstacle() == "busy: 3 requests wait in front of it"
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 2\n")
    await world.ticker.round()
    assert world.obstacle() == ""


async def test_what_was_said_long_ago_holds_nobody_back(world: ProbedEngine) -> None:
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    assert world.obstacle()
    world.now += 45.1
    assert world.obstacle() == ""


async def test_paths_that_are_empty_are_not_asked(world: ProbedEngine) -> None:
    world.probe_as(health_path="", metrics_path="", models="ignore")
    await world.ticker.round()
    assert world.engine.asked() == []
    assert world.state.ready is True
