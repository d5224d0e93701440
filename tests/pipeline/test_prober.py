"""Probes of engines over real sockets: what they put into the routing memory, and their life."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.backends.inquiry import ModelsInquiry
from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.health import BreakerSettings, HealthChange, ProbeSettings
from llmgw_core.domain.load import EngineLoad
from llmgw_core.domain.rules import Rules
from llmgw_core.pipeline.prober import Prober
from llmgw_core.pipeline.probing import Target
from llmgw_core.routing.breaker import HALF_OPEN, OPEN
from llmgw_core.routing.health import Health
from llmgw_core.routing.state import DeploymentState, RoutingMemory
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalOptions
from llmgw_core.testing.engine import Engine, Ticker
from llmgw_core.testing.upstream import Peer, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.domain.deployment import Origin

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
SETTINGS = ProbeSettings(enabled=True, timeout=5.0, models="require")


class Asking(CanonicalBackend):
    """A backend with everything to ask."""

    def inquire(self, deployment: Deployment, credential: str) -> ModelsInquiry:
        return ModelsInquiry("/v1", [])


class Nowhere(Asking):
    """A backend whose engine is not running."""

    def origin(self, deployment: Deployment) -> Origin:
        raise UpstreamFailure("unavailable", "the engine is not ready")


class Broken(CanonicalBackend):
    """A backend that fails whatever it is asked."""

    def page(self, deployment: Deployment, credential: str, path: str) -> Any:
        raise RuntimeError("no page")

    def inquire(self, deployment: Deployment, credential: str) -> Any:
        raise RuntimeError("no inquiry")


class World:
    """A memory, its prober and one engine."""

    def __init__(self, engine: Engine) -> None:
        self.now = 1000.0
        self.engine = engine
        self.ticker = Ticker()
        self.told: list[HealthChange] = []
        self.memory = RoutingMemory(lambda: self.now)
        self.health = Health(self.memory, lambda: 7, self.told.append)
        self.prober = Prober(self.memory, self.health, lambda: 0.5, self.ticker.sleep)
        self.transport = HttptoolsTransport()
        self.deployment = self.made("a")
        self.follow()

    def made(self, name: str, settings: ProbeSettings = SETTINGS) -> Deployment:
        return Deployment(
            f"m/{name}",
            "m",
            "canonical",
            "onprem",
            "m",
            credential=Credential("sk-probe"),
            options=CanonicalOptions(self.engine.upstream.port),
            rules=Rules(probes=settings, breaker=BreakerSettings(consecutive=1)),
        )

    def follow(self, *deployments: Deployment, backend: CanonicalBackend | None = None) -> None:
        probed = deployments or (self.deployment,)
        self.memory.adopt(probed)
        models = [Model("m", tuple(probed))]
        self.health.adopt(models)
        self.health.configure(models)
        self.prober.follow(Target(each, backend or Asking(), self.transport) for each in probed)

    def probe_as(self, **changes: Any) -> None:
        """The same deployment with other settings, as after a reload."""
        settings = msgspec.structs.replace(SETTINGS, **changes)
        rules = msgspec.structs.replace(self.deployment.rules, probes=settings)
        self.deployment = msgspec.structs.replace(self.deployment, rules=rules)
        self.follow()

    @property
    def state(self) -> DeploymentState:
        return self.memory.states[self.deployment.identity]

    def loaded(self) -> bool:
        return self.state.load is not None

    def obstacle(self) -> str:
        found = self.memory.obstacle(self.deployment, self.now)
        return found.reason if found is not None else ""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    engine = Engine()
    async with engine.upstream:
        world = World(engine)
        world.prober.start()
        yield world
        await world.prober.aclose()
        await world.transport.aclose()


async def test_a_healthy_engine_is_asked_for_everything_and_stays_a_candidate(
    world: World,
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


async def test_calls_of_ours_are_not_counted_twice(world: World) -> None:
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 2\n")
    world.state.in_flight = 5
    await world.ticker.round()
    assert world.state.others == 1
    world.state.in_flight = 9
    await world.ticker.round()
    assert world.state.others == 0


async def test_an_engine_that_loads_its_model_is_not_ready_until_it_is(
    world: World, caplog: pytest.LogCaptureFixture
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


async def test_a_cut_connection_counts_when_it_happens_again(world: World) -> None:
    world.engine.pages["/health"] = None
    await world.ticker.round()
    assert world.obstacle() == ""
    await world.ticker.round()
    assert world.obstacle().startswith("not ready: it does not answer: ")


async def test_an_engine_that_does_not_answer_in_time_is_silent(world: World) -> None:
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


async def test_an_engine_that_is_back_is_tried_at_once(world: World) -> None:
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


async def test_a_good_health_page_alone_does_not_shorten_an_ejection(world: World) -> None:
    breaker = world.state.breaker
    assert breaker is not None
    breaker.failed(breaker.term, world.now)
    await world.ticker.round()
    assert not breaker.admits(world.now)


async def test_a_model_that_is_not_listed_makes_not_ready_or_is_only_remarked(
    world: World, caplog: pytest.LogCaptureFixture
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
    world: World, caplog: pytest.LogCaptureFixture
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


async def test_a_report_that_is_too_old_is_forgotten(world: World) -> None:
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


async def test_an_engine_that_is_too_full_gets_no_calls_for_the_time_being(world: World) -> None:
    world.probe_as(max_waiting=3)
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 3\n")
    await world.ticker.round()
    assert world.obstacle() == "busy: 3 requests wait in front of it"
    world.engine.pages["/metrics"] = (200, b"tgi_batch_current_size 4\ntgi_queue_size 2\n")
    await world.ticker.round()
    assert world.obstacle() == ""


async def test_what_was_said_long_ago_holds_nobody_back(world: World) -> None:
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    assert world.obstacle()
    world.now += 45.1
    assert world.obstacle() == ""


async def test_paths_that_are_empty_are_not_asked(world: World) -> None:
    world.probe_as(health_path="", metrics_path="", models="ignore")
    await world.ticker.round()
    assert world.engine.asked() == []
    assert world.state.ready is True


async def test_an_engine_that_is_nowhere_is_not_ready(world: World) -> None:
    world.follow(world.deployment, backend=Nowhere())
    await world.ticker.round()
    assert world.obstacle() == "not ready: the engine is not ready"


async def test_a_backend_that_fails_is_logged_and_decides_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.follow(world.deployment, backend=Broken())
    await world.ticker.round()
    assert (world.obstacle(), world.engine.asked()) == ("", [])
    failed = [record.message for record in caplog.records]
    assert "Plugin canonical failed in page." in failed
    assert "Plugin canonical failed in inquire." in failed


async def test_a_backend_with_nothing_to_ask_is_remarked(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute:
        def origin(self, deployment: Deployment) -> Origin:
            return CanonicalBackend().origin(deployment)

    world.prober.follow([Target(world.deployment, Mute(), world.transport)])
    for _ in range(2):
        await world.ticker.round()
    assert [record.message for record in caplog.records] == [
        "deployment=m/a probe: the backend `canonical` knows nothing to ask its upstreams"
    ]
    assert (world.obstacle(), world.engine.asked()) == ("", [])


async def test_rounds_begin_at_a_random_moment_and_vary(world: World) -> None:
    drawn = iter([0.25, 0.0, 1.0])
    ticker = Ticker()
    prober = Prober(world.memory, world.health, lambda: next(drawn), ticker.sleep)
    prober.follow([Target(world.deployment, Asking(), world.transport)])
    prober.start()
    await ticker.round()
    await ticker.round()
    await prober.aclose()
    assert ticker.seconds == [2.5, 9.0, 11.0]


async def test_a_reload_starts_ends_and_redirects(world: World) -> None:
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    assert world.obstacle()
    other = world.made("b")
    world.follow(world.deployment, other)
    await world.ticker.round(2)
    assert world.memory.obstacle(other, world.now) is not None
    world.follow(other)
    assert world.obstacle() == "", "nobody asks any more"
    assert world.state.ready is None
    world.engine.asked()
    await world.ticker.round(1)
    assert world.engine.asked() == ["/health"]


async def test_other_settings_hold_at_once_and_what_is_known_stays(world: World) -> None:
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    world.probe_as(interval=60.0)
    assert world.state.ready is False
    await world.ticker.asleep(1)
    assert world.ticker.seconds[-1] == 30.0


async def test_nothing_is_left_when_it_is_closed(world: World) -> None:
    await world.ticker.asleep(1)
    before = {task.get_name() for task in asyncio.all_tasks()}
    assert "llmgw probe m/a" in before
    await world.prober.aclose()
    await world.prober.aclose()
    assert "llmgw probe m/a" not in {task.get_name() for task in asyncio.all_tasks()}
    world.follow()
    assert "llmgw probe m/a" not in {task.get_name() for task in asyncio.all_tasks()}
