"""What a reload means for a plugin that prepares its deployments: each one comes before the first
call that uses it and goes after the last, whatever the others do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import DeploymentConfig
from llmgw_core.domain.deployment import Origin, Timeouts
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalOptions
from llmgw_core.testing.installation import install
from llmgw_core.testing.reloads import HeldStreams, begun, settled, with_models

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer


class EngineOptions(CanonicalOptions, frozen=True, forbid_unknown_fields=True):
    size: int = 1


class EngineBackend(CanonicalBackend):
    """Serves only what was prepared."""

    name = "engines"
    Options = EngineOptions

    def __init__(self) -> None:
        self.running: dict[object, str] = {}

    def origin(self, deployment: Deployment) -> Origin:
        if deployment.identity not in self.running:
            raise UpstreamFailure("unavailable", f"{deployment.id} is not running")
        return super().origin(deployment)


class EnginePlugin:
    """Notes in `log` the engines that it starts and stops, by deployment and size."""

    log: list[str]
    let: asyncio.Event
    broken = 13

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context
        self.backend = EngineBackend()

    @hookimpl
    def register_backends(self) -> Any:
        return [self.backend]

    @hookimpl
    async def startup(self) -> None:
        await self.deployments_added(self.context.deployments("engines"))

    @hookimpl
    async def deployments_added(self, deployments: Sequence[Deployment]) -> None:
        for each in deployments:
            name = f"{each.id} {each.options.size}"
            self.log.append(f"start {name}")
            await self.let.wait()
            if each.options.size == self.broken:
                raise MemoryError("too big")
            assert each.identity not in self.backend.running
            self.backend.running[each.identity] = name

    @hookimpl
    async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
        for each in deployments:
            name = self.backend.running.pop(each.identity, "what did not run")
            self.log.append(f"stop {name}")

    @hookimpl
    async def shutdown(self) -> None:
        self.log.append("shutdown")


@pytest.fixture
def engines() -> type[EnginePlugin]:
    let = asyncio.Event()
    let.set()
    return type("EnginePlugin", (EnginePlugin,), {"log": [], "let": let})


def engine(upstream: Any, size: int = 1, name: str = "a", **fields: Any) -> DeploymentConfig:
    options = {"port": upstream.port, "size": size}
    return DeploymentConfig(name, "engines", "onprem", options=options, **fields)


def heard(engines: type[EnginePlugin]) -> list[str]:
    found = engines.log[:]
    engines.log.clear()
    return found


def running(here: Installation) -> list[str]:
    backend = here.gateway.host.backends["engines"]
    assert isinstance(backend, EngineBackend)
    return sorted(backend.running.values())


async def alone(here: Installation) -> None:
    await settled(lambda: here.gateway.generations == 1)


async def test_one_deployment_comes_changes_and_goes_and_the_others_do_not_notice(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    here = await installed({"m": [engine(server)]}, plugins=[("engines", engines)])
    steps: list[tuple[list[DeploymentConfig], list[str]]] = [
        ([engine(server), engine(server, name="b")], ["start m/b 1"]),
        ([engine(server), engine(server, 2, "b")], ["start m/b 2", "stop m/b 1"]),
        ([engine(server, 2, "b")], ["stop m/a 1"]),
    ]
    assert heard(engines) == ["start m/a 1"]
    for deployments, expected in steps:
        result = await here.gateway.reload(with_models(here, m=deployments))
        assert result.kept == ("canonical", "engines")
        await alone(here)
        assert heard(engines) == expected
        assert (await here.client.chat("m")).status == 200
    assert running(here) == ["m/b 2"]


async def test_what_a_backend_is_not_told_moves_no_engine(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    here = await installed({"m": [engine(server)]}, plugins=[("engines", engines)])
    wanted = engine(server, weight=3, timeouts=Timeouts(connect=1.0))
    await here.gateway.reload(with_models(here, m=[wanted]))
    await alone(here)
    assert heard(engines) == ["start m/a 1"]
    assert (await here.client.chat("m")).status == 200


async def test_a_stream_ends_on_the_engine_that_it_began_on(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed({"m": [engine(upstream)]}, plugins=[("engines", engines)])
        task, sink = await begun(here.client, "m")
        await here.gateway.reload(with_models(here, m=[engine(server, 2)]))
        assert (await here.client.chat("m")).status == 200
        assert running(here) == ["m/a 1", "m/a 2"]
        held.going_on.set()
        await task
        assert sink.body.endswith(b"data: [DONE]\n\n")
        await alone(here)
    assert heard(engines) == ["start m/a 1", "start m/a 2", "stop m/a 1"]


async def test_there_and_back_while_a_stream_runs_goes_back_to_the_same_engine(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed({"m": [engine(upstream)]}, plugins=[("engines", engines)])
        task, _ = await begun(here.client, "m")
        await here.gateway.reload(with_models(here, m=[engine(server)]))
        await here.gateway.reload(with_models(here, m=[engine(upstream)]))
        await settled(lambda: here.gateway.generations == 2)
        assert heard(engines) == ["start m/a 1", "start m/a 1", "stop m/a 1"]
        again, _ = await begun(here.client, "m")
        held.going_on.set()
        await asyncio.gather(task, again)
        await alone(here)
        assert heard(engines) == []
        assert len(running(here)) == 1
        await here.gateway.reload(with_models(here, m=[engine(server)]))
        await alone(here)
        await here.gateway.reload(with_models(here, m=[engine(upstream)]))
        await alone(here)
    assert [entry.split()[0] for entry in heard(engines)] == ["start", "stop", "start", "stop"]


async def test_an_engine_that_is_being_stopped_is_not_used_again(
    installed: Install, server: ModelServer
) -> None:
    stopping, may_stop = asyncio.Event(), asyncio.Event()

    class Lingering(EnginePlugin):
        log: list[str] = []  # noqa: RUF012 -- of this test alone
        let = asyncio.Event()

        @hookimpl
        async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
            stopping.set()
            await may_stop.wait()
            await super().deployments_dropped(deployments)

    Lingering.let.set()
    here = await installed({"m": [engine(server)]}, plugins=[("engines", Lingering)])
    await here.gateway.reload(with_models(here, m=[engine(server, 2)]))
    await stopping.wait()
    await here.gateway.reload(with_models(here, m=[engine(server)]))
    assert (await here.client.chat("m")).status == 200
    assert heard(Lingering) == ["start m/a 1", "start m/a 2", "start m/a 1"]
    may_stop.set()
    await alone(here)
    assert heard(Lingering) == ["stop m/a 1", "stop m/a 2"]
    assert (await here.client.chat("m")).status == 200


async def test_a_reload_that_is_refused_leaves_what_was_and_drops_what_was_added(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    here = await installed({"m": [engine(server)]}, plugins=[("engines", engines)])
    heard(engines)
    wanted = [engine(server), engine(server, name="b"), engine(server, 13, "c")]
    with pytest.raises(ConfigError, match="`engines` failed in `deployments_added`: MemoryError"):
        await here.gateway.reload(with_models(here, m=wanted))
    assert heard(engines) == [
        *("start m/b 1", "start m/c 13"),
        *("stop m/b 1", "stop what did not run"),
    ]
    assert (running(here), here.gateway.generation) == (["m/a 1"], 1)
    assert (await here.client.chat("m")).status == 200
    await here.gateway.reload(with_models(here, m=wanted[:2]))
    await alone(here)
    assert (heard(engines), running(here)) == (["start m/b 1"], ["m/a 1", "m/b 1"])


async def test_a_reload_that_is_cancelled_drops_what_it_was_adding(
    installed: Install, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    here = await installed({"m": [engine(server)]}, plugins=[("engines", engines)])
    engines.let.clear()
    heard(engines)
    wanted = with_models(here, m=[engine(server), engine(server, 2, "b")])
    reload = asyncio.create_task(here.gateway.reload(wanted))
    await settled(lambda: bool(engines.log))
    assert (await here.client.chat("m")).status == 200
    reload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reload
    assert heard(engines) == ["start m/b 2", "stop what did not run"]
    engines.let.set()
    await here.gateway.reload(wanted)
    await alone(here)
    assert (heard(engines), running(here)) == (["start m/b 2"], ["m/a 1", "m/b 2"])


async def test_closing_ends_a_reload_that_adds_and_then_the_plugin_once(
    tmp_path: Path, server: ModelServer, engines: type[EnginePlugin]
) -> None:
    async with install(tmp_path, {"m": [engine(server)]}, plugins=[("engines", engines)]) as here:
        heard(engines)
        engines.let.clear()
        wanted = with_models(here, m=[engine(server, 2)])
        reload = asyncio.create_task(here.gateway.reload(wanted))
        await settled(lambda: bool(engines.log))
    with pytest.raises(ConfigError, match="was closed during the reload"):
        await reload
    assert heard(engines) == ["start m/a 2", "stop what did not run", "shutdown"]
