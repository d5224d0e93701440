"""What a reload means for plugins: unchanged ones stay, others come and go around the calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import Config, PluginConfig, ReloadConfig
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.pipeline.foreign_balancer import ForeignBalancer
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.plugins import distributions  # noqa: F401 -- a fixture
from llmgw_core.testing.reloads import HeldStreams, begun, changed, settled, with_models

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.distributions import Distributions
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView


class Counting:
    """Counts calls in its instance; notes in `log` what becomes of it."""

    log: list[str]

    class Config(msgspec.Struct, frozen=True):
        name: str = "first"
        fails: bool = False

    def __init__(self, config: Counting.Config, context: PluginContext) -> None:
        self.config, self.context = config, context
        self.calls = 0

    @hookimpl
    async def startup(self) -> None:
        if self.config.fails:
            raise RuntimeError("no luck")
        self.log.append(f"{self.config.name} started")

    @hookimpl
    async def shutdown(self) -> None:
        self.log.append(f"{self.config.name} shut down after {self.calls} calls")

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        self.calls += 1
        self.context.metrics.counters["calls"] += 1


@pytest.fixture
def counting() -> type[Counting]:
    """A class of this test alone."""
    return type("Counting", (Counting,), {"log": []})


def section(**config: Any) -> PluginConfig:
    return PluginConfig(name="counting", config=config)


async def test_a_stream_ends_on_what_it_began_with_and_then_its_plugin_is_shut_down(
    installed: Install, counting: type[Counting]
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed(
            {"m": [at(upstream)]}, plugins=[("counting", counting)], sections=[section()]
        )
        task, sink = await begun(here.client, "m")
        result = await here.gateway.reload(changed(here, plugins=(section(name="second"),)))
        assert result.changed == ("plugins.counting",)
        assert counting.log == ["first started", "second started"]
        assert here.gateway.generations == 2
        held.going_on.set()
        await task
        assert sink.body.endswith(b"data: [DONE]\n\n")
        await settled(lambda: here.gateway.generations == 1)
    assert counting.log[2:] == ["first shut down after 1 calls"]
    [record] = await here.records()
    assert record.status == "completed"


async def test_an_unchanged_plugin_keeps_its_state_and_what_it_counted(
    installed: Install, server: ModelServer, counting: type[Counting]
) -> None:
    here = await installed(
        {"m": [at(server)]}, plugins=[("counting", counting)], sections=[section()]
    )
    await here.client.chat("m")
    context = here.gateway.host.contexts["counting"]
    for tag in "ab":
        model = served_by(at(server), tags=(tag,))
        assert "counting" in (await here.gateway.reload(with_models(here, m=model))).kept
        await settled(lambda: here.gateway.generations == 1)
        await here.client.chat("m")
    assert here.gateway.host.contexts["counting"] is context
    assert context.metrics.counters["calls"] == 3
    [row] = [row for row in here.gateway.host.describe() if row.name == "counting"]
    assert row.calls >= 3
    assert counting.log == ["first started"]


async def test_a_kept_plugin_learns_of_the_deployments_of_now(
    installed: Install, server: ModelServer, counting: type[Counting]
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("counting", counting)])
    context = here.gateway.host.contexts["counting"]
    await here.gateway.reload(with_models(here, n=[at(server, "x"), at(server, "y")]))
    assert [each.id for each in context.deployments("canonical")] == ["n/x", "n/y"]


async def test_a_plugin_that_does_not_start_changes_nothing(
    installed: Install, server: ModelServer, counting: type[Counting]
) -> None:
    first: type[Counting] = type("First", (Counting,), {"log": counting.log})
    here = await installed({"m": [at(server)]}, plugins=[("first", first), ("counting", counting)])
    before = here.gateway.config
    sections = (
        PluginConfig("first", config={"name": "other"}),
        section(name="broken", fails=True),
    )
    with pytest.raises(ConfigError, match="`counting` failed in `startup`: RuntimeError: no luck"):
        await here.gateway.reload(changed(here, plugins=sections, models={}))
    assert (here.gateway.config, here.gateway.generation) == (before, 1)
    assert counting.log == [
        *("first started", "first started"),
        *("other started", "other shut down after 0 calls"),
    ]
    assert (await here.client.chat("m")).status == 200


async def test_what_cannot_change_while_it_runs_is_refused(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    config = here.gateway.config
    replace = msgspec.structs.replace
    wanted = changed(
        here,
        store=replace(config.store, url="sqlite:///other.db", staleness=1.0),
        accounting=replace(config.accounting, journal="other"),
        server=replace(config.server, port=4321),
    )
    with pytest.raises(ConfigError) as caught:
        await here.gateway.reload(wanted)
    remedy = "it cannot change while the gateway runs; restart the gateway, or set it back."
    assert str(caught.value).splitlines() == [
        f"{path}: {remedy}" for path in ("server.port", "store.url", "accounting.journal")
    ]
    allowed = changed(
        here,
        store=replace(config.store, staleness=1.0),
        accounting=replace(config.accounting, move_interval=7.0),
        reload=ReloadConfig(watch=1.0),
    )
    result = await here.gateway.reload(allowed)
    assert result.changed == (*("store.staleness", "accounting.move_interval", "reload.watch"),)


async def test_the_order_of_plugins_alone_is_a_change(
    installed: Install, server: ModelServer, counting: type[Counting]
) -> None:
    sections = [PluginConfig("canonical"), section()]
    here = await installed({"m": [at(server)]}, plugins=[("counting", counting)], sections=sections)
    result = await here.gateway.reload(changed(here, plugins=tuple(reversed(sections))))
    assert (result.changed, result.kept) == (("plugins",), ("canonical", "counting"))


class Slow(Counting):
    """Starts when it is let."""

    let: asyncio.Event

    @hookimpl
    async def startup(self) -> None:
        if self.config.name != "first":
            self.log.append("starting")
            await self.let.wait()


@pytest.fixture
def slow() -> type[Slow]:
    return type("Slow", (Slow,), {"log": [], "let": asyncio.Event()})


async def test_calls_go_on_while_the_next_generation_starts(
    installed: Install, server: ModelServer, slow: type[Slow]
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("counting", slow)])
    reload = asyncio.create_task(
        here.gateway.reload(changed(here, plugins=(section(name="second"),), models={}))
    )
    await settled(lambda: bool(slow.log))
    assert (await here.client.chat("m")).status == 200
    slow.let.set()
    await reload
    assert (await here.client.chat("m")).status == 404


async def test_a_reload_that_is_cancelled_changes_nothing(
    installed: Install, server: ModelServer, slow: type[Slow]
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("counting", slow)])
    wanted = changed(here, plugins=(section(name="second"),))
    reload = asyncio.create_task(here.gateway.reload(wanted))
    await settled(lambda: bool(slow.log))
    reload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reload
    assert here.gateway.generation == 1
    slow.let.set()
    assert (await here.gateway.reload(wanted)).generation == 2


async def test_a_gateway_that_closes_ends_the_reload_and_takes_no_other(
    tmp_path: Path, slow: type[Slow]
) -> None:
    async with Gateway.open(Config(), base_dir=tmp_path, plugins=[("counting", slow)]) as gateway:
        wanted = Config(plugins=(section(name="second"),))
        reload = asyncio.create_task(gateway.reload(wanted))
        await settled(lambda: bool(slow.log))
    with pytest.raises(ConfigError, match="was closed during the reload"):
        await reload
    with pytest.raises(ConfigError, match="is closing"):
        await gateway.reload(wanted)
    assert slow.log == ["starting", "first shut down after 0 calls"]


async def test_closing_settles_the_calls_of_all_generations(
    tmp_path: Path, installed: Install, counting: type[Counting]
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed(
            {"m": [at(upstream)]}, plugins=[("counting", counting)], sections=[section()]
        )
        first, _ = await begun(here.client, "m")
        await here.gateway.reload(changed(here, plugins=(section(name="second"),)))
        second, _ = await begun(here.client, "m")
        await here.gateway._close_generations()
        assert counting.log[2:] == [
            "first shut down after 1 calls",
            "second shut down after 1 calls",
        ]
        assert here.gateway.stats.in_flight == 0
        held.going_on.set()
        await asyncio.gather(first, second)
    assert [record.status for record in await here.records()] == ["incomplete"] * 2


async def test_a_plugin_of_another_distribution_comes_and_goes_with_its_section(
    tmp_path: Path,
    distributions: Distributions,  # noqa: F811
) -> None:
    module = """
from llmgw_core import hookimpl
log = []
class Plugin:
    def __init__(self, config, context):
        context.metrics.counters["made"] += 1
    @hookimpl
    def startup(self): log.append("up")
    @hookimpl
    def shutdown(self): log.append("down")
"""
    distributions.add(
        "llmgw-coming", plugins={"coming": "coming:Plugin"}, modules={"coming": module}
    )
    file = tmp_path / "llmgw.yaml"
    file.write_text("models: {}\n")
    async with Gateway.open(file) as gateway:
        file.write_text("plugins: [{name: coming}]\n")
        assert (await gateway.reload()).changed == ("plugins.coming",)
        import coming  # type: ignore[import-not-found]

        assert coming.log == ["up"]
        file.write_text("models: {}\n")
        await gateway.reload()
        await settled(lambda: gateway.generations == 1)
        assert coming.log == ["up", "down"]
        file.write_text("plugins: [{name: comming}]\n")
        with pytest.raises(ConfigError, match="did you mean `coming`"):
            await gateway.reload()
        assert (gateway.generation, gateway.file) == (3, file)


async def test_a_balancer_of_a_plugin_lives_as_long_as_somebody_uses_it(
    installed: Install, server: ModelServer
) -> None:
    class Closing(RoundRobin):
        closed = False

        async def aclose(self) -> None:
            Closing.closed = True

    class Brings:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def register_balancers(self) -> dict[str, Any]:
            return {"mine": Closing}

    here = await installed({"m": [at(server)]}, plugins=[("brings", Brings)])
    await here.gateway.reload(changed(here, routing=RoutingConfig(balancer="mine")))
    guarded = here.gateway._generation.balancers["m"]
    assert isinstance(guarded, ForeignBalancer)
    mine = guarded.made
    assert isinstance(mine, Closing)
    model = served_by(at(server), tags=("t",))
    await here.gateway.reload(with_models(here, m=model))
    await settled(lambda: here.gateway.generations == 1)
    assert (here.gateway._generation.balancers["m"] is guarded, mine.closed) == (True, False)
    await here.gateway.reload(changed(here, routing=RoutingConfig()))
    await settled(lambda: here.gateway.generations == 1)
    assert mine.closed


async def test_a_balancer_that_cannot_forget_keeps_no_configuration_from_coming_into_force(
    installed: Install, server: ModelServer
) -> None:
    class Stubborn(RoundRobin):
        def forget(self, deployments: object) -> None:
            raise RuntimeError("I forget nothing")

    class Brings:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def register_balancers(self) -> dict[str, Any]:
            return {"mine": Stubborn}

    here = await installed({"m": [at(server)]}, plugins=[("brings", Brings)])
    result = await here.gateway.reload(changed(here, routing=RoutingConfig(balancer="mine")))
    assert (result.generation, here.gateway.generation) == (2, 2)
    await settled(lambda: here.gateway.generations == 1)


async def test_what_was_made_for_a_configuration_that_did_not_start_is_closed(
    installed: Install, server: ModelServer
) -> None:
    closed: list[str] = []

    class Closing(RoundRobin):
        async def aclose(self) -> None:
            closed.append("balancer")

    class Fails:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def register_balancers(self) -> dict[str, Any]:
            return {"mine": Closing}

        @hookimpl
        def startup(self) -> None:
            if here:
                raise RuntimeError("not now")

    here: list[Any] = []
    here.append(await installed({"m": [at(server)]}, plugins=[("fails", Fails)]))
    again = (PluginConfig("fails", on_error="open"),)
    with pytest.raises(ConfigError, match="not now"):
        await here[0].gateway.reload(
            changed(here[0], plugins=again, routing=RoutingConfig(balancer="mine"))
        )
    assert closed == ["balancer"]
    assert (await here[0].client.chat("m")).status == 200


async def test_a_plugin_of_one_file_is_made_anew_when_its_file_has_changed(tmp_path: Path) -> None:
    plugin, file = tmp_path / "p.py", tmp_path / "llmgw.yaml"
    text = "class P:\n    version = {}\n    def __init__(self, config, context): pass\n{}"
    hook = "    from llmgw_core import hookimpl\n    @hookimpl\n    def shutdown(self): pass\n"
    plugin.write_text(text.format(1, hook))
    file.write_text("plugins: [{name: p, path: p.py}]\n")
    async with Gateway.open(file) as gateway:
        assert (await gateway.reload()).changed == ()
        plugin.write_text(text.format(2, hook))
        assert (await gateway.reload()).changed == ("plugins.p",)
        assert gateway.host.plugins[0].instance.version == 2
        plugin.write_text("no python")
        with pytest.raises(ConfigError, match=r"p\.py, line 1: SyntaxError"):
            await gateway.reload()
        assert gateway.generation == 2
