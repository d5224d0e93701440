"""The life of probes: when they are made, what a reload does to them, and backends that fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.backends.transport.port import TransportError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.health import ProbeSettings
from llmgw_core.pipeline.prober import Prober
from llmgw_core.pipeline.probing import Target
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalOptions
from llmgw_core.testing.engine_pages import Ticker
from llmgw_core.testing.probing import Asking, ProbedEngine
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    import pytest

    from llmgw_core.domain.deployment import Deployment, Origin

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
SETTINGS = ProbeSettings(enabled=True, timeout=5.0, models="require")


class Nowhere(Asking):
    """A backend whose engine is not running."""

    def origin(self, deployment: Deployment) -> Origin:
        raise UpstreamFailure("unavailable", "the engine is not ready")


class Lost(CanonicalBackend):
    """A backend that fails when it is asked where its upstream is."""

    def origin(self, deployment: Deployment) -> Origin:
        raise RuntimeError("lost")


class Broken(CanonicalBackend):
    """A backend that fails whatever it is asked."""

    def page(self, deployment: Deployment, credential: str, path: str) -> Any:
        raise RuntimeError("no page")

    def inquire(self, deployment: Deployment, credential: str) -> Any:
        raise RuntimeError("no inquiry")


async def test_an_engine_that_is_nowhere_is_not_ready(world: ProbedEngine) -> None:
    world.follow(world.deployment, backend=Nowhere())
    await world.ticker.round()
    assert world.obstacle() == "not ready: the engine is not ready"


async def test_a_backend_that_fails_is_logged_and_decides_nothing(
    world: ProbedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    world.follow(world.deployment, backend=Broken())
    await world.ticker.round()
    assert (world.obstacle(), world.engine.asked()) == ("", [])
    failed = [record.message for record in caplog.records]
    assert "Plugin canonical failed in page." in failed
    assert "Plugin canonical failed in inquire." in failed


async def test_who_fails_to_say_where_an_engine_is_has_none(world: ProbedEngine) -> None:
    world.follow(world.deployment, backend=Lost())
    await world.ticker.round()
    assert world.obstacle() == "not ready: its backend failed"


async def test_that_we_had_no_connection_left_says_nothing_about_the_engine(
    world: ProbedEngine,
) -> None:
    class Full(HttptoolsTransport):
        async def send(self, *arguments: Any, **options: Any) -> Any:
            raise TransportError("pool", "connect", "all connections are in use")

    world.probe_as(failures=1)
    full = Full()
    world.prober.follow([Target(world.deployment, Asking(), full)])
    await world.ticker.round()
    await full.aclose()
    assert world.obstacle() == ""


async def test_a_kept_connection_that_died_is_replaced_before_anything_is_concluded(
    world: ProbedEngine,
) -> None:
    world.probe_as(failures=1, metrics_path="", models="ignore")
    answered = 0

    async def once(peer: Peer) -> None:
        nonlocal answered
        await peer.request()
        await peer.send(http_reply(200))
        answered += 1
        await peer.head()
        peer.reset()

    async with Upstream(once) as upstream:
        world.deployment = msgspec.structs.replace(
            world.deployment, options=CanonicalOptions(upstream.port)
        )
        world.follow()
        for _ in range(3):
            await world.ticker.round()
        assert (world.obstacle(), answered) == ("", 3)


async def test_a_backend_with_nothing_to_ask_is_remarked(
    world: ProbedEngine, caplog: pytest.LogCaptureFixture
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


async def test_rounds_begin_at_a_random_moment_and_vary(world: ProbedEngine) -> None:
    drawn = iter([0.25, 0.0, 1.0])
    ticker = Ticker()
    prober = Prober(world.memory, world.health, lambda: next(drawn), ticker.sleep)
    prober.follow([Target(world.deployment, Asking(), world.transport)])
    prober.start()
    await ticker.round()
    await ticker.round()
    await prober.aclose()
    assert ticker.seconds == [2.5, 9.0, 11.0]


async def test_a_reload_starts_ends_and_redirects(world: ProbedEngine) -> None:
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


async def test_other_settings_hold_at_once_and_what_is_known_stays(world: ProbedEngine) -> None:
    world.engine.pages["/health"] = (503, b"")
    await world.ticker.round()
    world.probe_as(interval=60.0)
    assert world.state.ready is False
    await world.ticker.asleep(1)
    assert world.ticker.seconds[-1] == 30.0


async def test_nothing_is_left_when_it_is_closed(world: ProbedEngine) -> None:
    await world.ticker.asleep(1)
    before = {task.get_name() for task in asyncio.all_tasks()}
    assert "llmgw probe m/a" in before
    await world.prober.aclose()
    await world.prober.aclose()
    assert "llmgw probe m/a" not in {task.get_name() for task in asyncio.all_tasks()}
    world.follow()
    assert "llmgw probe m/a" not in {task.get_name() for task in asyncio.all_tasks()}
