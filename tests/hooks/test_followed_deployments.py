"""Plugins that go on from host to host and follow the deployments of their backends: who hears of
which deployment, when, and what a failure means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalBackend
from llmgw_core.testing.plugins import contexts_in
from llmgw_core.testing.reloads import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Load = Callable[..., PluginHost]


class Plain:
    """Has a backend of its own name, and notes in `log` what it hears."""

    log: list[str]
    fails: frozenset[str] = frozenset()
    let: asyncio.Event | None = None

    class Config(msgspec.Struct, frozen=True):
        level: int = 0

    def __init__(self, config: Config, context: Any) -> None:
        self.context = context

    def note(self, what: str, deployments: Sequence[Deployment]) -> None:
        ids = " ".join(each.id for each in deployments)
        self.log.append(f"{self.context.name}: {what} {ids}".rstrip())
        if what in self.fails:
            raise RuntimeError("no memory")

    @hookimpl
    def register_backends(self) -> Any:
        backend = CanonicalBackend()
        backend.name = self.context.name
        return [backend]

    @hookimpl
    async def shutdown(self) -> None:
        self.note("stop", ())


class Serving(Plain):
    """Follows the deployments of its backend."""

    @hookimpl
    async def startup(self) -> None:
        self.note("start", self.context.deployments(self.context.name))

    @hookimpl
    async def deployments_added(self, deployments: Sequence[Deployment]) -> None:
        self.note("added", deployments)
        if self.let is not None:
            await self.let.wait()

    @hookimpl
    async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
        self.note("dropped", deployments)


class Kinds:
    """The plugins of one test; all note in one log."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.s: Any = type("S", (Serving,), {"log": self.log})
        self.t: Any = type("T", (Serving,), {"log": self.log})

    def heard(self) -> list[str]:
        """What was noted since the last time."""
        heard = self.log[:]
        self.log.clear()
        return heard


@pytest.fixture
def kinds() -> Kinds:
    return Kinds()


@pytest.fixture
def load(tmp_path: Path, kinds: Kinds) -> Load:
    def loaded(
        *deployments: Deployment, reuse: PluginHost | None = None, level: int = 0, **more: type[Any]
    ) -> PluginHost:
        section = PluginConfig("s", {"level": level} if level else {})
        host = PluginHost.load(
            [section],
            context_for=contexts_in(tmp_path),
            extra=[("s", kinds.s), ("t", kinds.t), *more.items()],
            reuse=reuse,
            changed=("s", "t") if reuse else (),
        )
        host.bind_deployments(
            lambda backend: tuple(each for each in deployments if each.backend == backend)
        )
        return host

    return loaded


def at(name: str, backend: str = "s") -> Deployment:
    return Deployment(name, "m", backend, "z", "m")


A, B, C = at("A"), at("B"), at("C")


async def test_a_plugin_goes_on_and_hears_of_what_is_new_before_and_of_what_is_gone_after(
    load: Load, kinds: Kinds
) -> None:
    first = load(A, B, at("X", "t"))
    await first.startup()
    assert kinds.heard() == ["s: start A B", "t: start X"]
    second = load(B, C, at("Y", "t"), reuse=first)
    assert [plugin.instance for plugin in second.plugins] == [
        plugin.instance for plugin in first.plugins
    ]
    await second.startup()
    assert kinds.heard() == ["s: added C", "t: added Y"]
    await first.shutdown(5)
    await first.shutdown(5)
    assert kinds.heard() == ["t: dropped X", "s: dropped A"]
    await second.shutdown(5)
    assert kinds.heard() == ["t: stop", "s: stop"]


async def test_what_is_the_same_is_not_told_again(load: Load, kinds: Kinds) -> None:
    first = load(A)
    await first.startup()
    second = load(msgspec.structs.replace(A, weight=5), reuse=first)
    await second.startup()
    await first.shutdown(5)
    assert kinds.heard() == ["s: start A", "t: start"]
    assert [each.weight for each in second.contexts["s"].deployments("s")] == [5]


async def test_there_and_back_while_the_first_still_runs_keeps_what_the_first_has(
    load: Load, kinds: Kinds
) -> None:
    hosts = [load(A)]
    await hosts[0].startup()
    for deployments in ((B,), (A,)):
        hosts.append(load(*deployments, reuse=hosts[-1]))
        await hosts[-1].startup()
    assert kinds.heard() == ["s: start A", "t: start", "s: added B"]
    await hosts[0].shutdown(5)
    assert kinds.heard() == []
    await hosts[1].shutdown(5)
    assert kinds.heard() == ["s: dropped B"]
    await hosts[2].shutdown(5)
    assert kinds.heard() == ["t: stop", "s: stop"]


async def test_generations_may_end_in_any_order(load: Load, kinds: Kinds) -> None:
    hosts = [load(A)]
    await hosts[0].startup()
    for deployments in ((A, B), (C,)):
        hosts.append(load(*deployments, reuse=hosts[-1]))
        await hosts[-1].startup()
    kinds.heard()
    await hosts[1].shutdown(5)
    assert kinds.heard() == ["s: dropped B"]
    await hosts[0].shutdown(5)
    assert kinds.heard() == ["s: dropped A"]
    await hosts[2].shutdown(5)


async def test_a_plugin_that_is_made_anew_gets_everything_at_its_start(
    load: Load, kinds: Kinds
) -> None:
    first = load(A)
    await first.startup()
    second = load(A, B, reuse=first, level=2)
    await second.startup()
    await first.shutdown(5)
    assert kinds.heard() == ["s: start A", "t: start", "s: start A B", "s: stop"]
    third = load(B, reuse=second, level=2)
    await third.startup()
    await second.shutdown(5)
    assert kinds.heard() == ["s: dropped A"]


async def test_who_cannot_add_refuses_and_everybody_drops_what_was_added(
    load: Load, kinds: Kinds
) -> None:
    first = load(A, at("X", "t"))
    await first.startup()
    kinds.heard()
    kinds.t.fails = {"added"}
    second = load(B, at("Y", "t"), reuse=first)
    sentence = "the plugin `t` failed in `deployments_added`: RuntimeError: no memory"
    with pytest.raises(ConfigError, match=sentence):
        await second.startup()
    assert kinds.heard() == ["s: added B", "t: added Y", "t: dropped Y", "s: dropped B"]
    assert [each.id for each in first.contexts["s"].deployments("s")] == ["A"]
    assert [row.state for row in first.describe()] == ["started"] * 2
    kinds.t.fails = frozenset()
    third = load(B, at("Y", "t"), reuse=first)
    await third.startup()
    assert kinds.heard() == ["s: added B", "t: added Y"]


async def test_what_was_added_is_dropped_when_another_plugin_does_not_start(
    load: Load, kinds: Kinds
) -> None:
    class Broken(Serving):
        log = kinds.log
        fails = frozenset({"start"})

    first = load(A)
    await first.startup()
    kinds.heard()
    with pytest.raises(ConfigError, match="`broken` failed in `startup`"):
        await load(B, reuse=first, broken=Broken).startup()
    assert kinds.heard() == ["s: added B", "broken: start", "s: dropped B"]


async def test_a_start_that_is_cancelled_drops_what_is_being_added(
    load: Load, kinds: Kinds
) -> None:
    first = load(A)
    await first.startup()
    kinds.heard()
    kinds.s.let = asyncio.Event()
    second = load(A, B, reuse=first)
    starting = asyncio.ensure_future(second.startup())
    await settled(lambda: bool(kinds.log))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert kinds.heard() == ["s: added B", "s: dropped B"]


async def test_what_fails_while_it_is_dropped_is_logged_and_not_told_again(
    load: Load, kinds: Kinds, caplog: pytest.LogCaptureFixture
) -> None:
    first = load(A, at("X", "t"))
    await first.startup()
    second = load(reuse=first)
    await second.startup()
    kinds.heard()
    kinds.t.fails = {"dropped"}
    await first.shutdown(5)
    assert kinds.heard() == ["t: dropped X", "s: dropped A"]
    assert "Plugin t failed in deployments_dropped" in caplog.text
    assert second.failures == {("t", "deployments_dropped"): 1}
    await second.shutdown(5)
    assert kinds.heard() == ["t: stop", "s: stop"]


async def test_dropping_has_the_time_that_the_host_has_to_end(load: Load, kinds: Kinds) -> None:
    class Hanging(Serving):
        log = kinds.log

        @hookimpl
        async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
            await asyncio.Event().wait()

    kinds.s = Hanging
    first = load(A, at("X", "t"))
    await first.startup()
    second = load(reuse=first)
    await second.startup()
    kinds.heard()
    await first.shutdown(0.02)
    assert kinds.heard() == ["t: dropped X"]
    assert second.failures == {("s", "deployments_dropped"): 1}


async def test_adding_has_no_timeout(load: Load) -> None:
    first = load(A)
    timeouts = {hook.hook: hook.timeout for hook in first.plugins[0].hooks.values()}
    assert timeouts["deployments_added"] is None


async def test_only_who_has_no_deployments_added_is_made_anew(load: Load, kinds: Kinds) -> None:
    class Starting(Plain):
        log = kinds.log

        @hookimpl
        async def startup(self) -> None:
            self.note("start", self.context.deployments("s"))

    class Clearing(Plain):
        log = kinds.log

        @hookimpl
        async def deployments_dropped(self, deployments: Sequence[Deployment]) -> None:
            self.note("dropped", deployments)

    kinds.s, kinds.t = Starting, Clearing
    first = load(A, at("X", "t"))
    await first.startup()
    second = load(B, at("Y", "t"), reuse=first)
    assert [plugin in first.plugins for plugin in second.plugins] == [False, True]
    await second.startup()
    await first.shutdown(5)
    assert kinds.heard() == ["s: start A", "s: start B", "t: dropped X", "s: stop"]


async def test_a_plugin_in_standby_sees_everything_when_its_turn_comes(
    load: Load, kinds: Kinds, tmp_path: Path
) -> None:
    began = asyncio.Event()

    class Sole(Serving):
        log = kinds.log
        once_per = "installation"

        @hookimpl
        async def startup(self) -> None:
            await super().startup()
            began.set()

    kinds.s = Sole
    other = load()
    await other.startup()
    first = load(A)
    first.plugins[0].takeover_seconds = 0.001
    await first.startup()
    second = load(B, reuse=first)
    await second.startup()
    await first.shutdown(5)
    assert first.plugins[0].state == "standby"
    assert not [entry for entry in kinds.heard() if "added" in entry or "dropped" in entry]
    began.clear()
    await other.shutdown(5)
    await began.wait()
    assert "s: start B" in kinds.heard()
    third = load(C, reuse=second)
    await third.startup()
    await second.shutdown(5)
    assert kinds.heard() == ["s: added C", "s: dropped B"]
    await third.shutdown(5)


async def test_who_takes_over_during_a_reload_hears_of_what_its_startup_could_not_see(
    load: Load, kinds: Kinds
) -> None:
    began, going_on = asyncio.Event(), asyncio.Event()

    class Sole(Serving):
        log = kinds.log
        once_per = "installation"

        @hookimpl
        async def startup(self) -> None:
            await super().startup()
            began.set()
            await going_on.wait()

    kinds.s = Sole
    going_on.set()
    other = load()
    await other.startup()
    first = load(A)
    first.plugins[0].takeover_seconds = 0.001
    await first.startup()
    second = load(A, B, reuse=first)
    going_on.clear()
    began.clear()
    kinds.heard()
    await other.shutdown(5)
    await began.wait()
    starting = asyncio.ensure_future(second.startup())
    await asyncio.sleep(0)
    assert not starting.done()
    going_on.set()
    await starting
    assert [entry for entry in kinds.heard() if entry.startswith("s: ")] == [
        "s: stop",
        "s: start A",
        "s: added B",
    ]
    await first.shutdown(5)
    await second.shutdown(5)
