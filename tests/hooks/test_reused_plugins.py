"""When the configuration is loaded again: which plugins go from one host to the next, running, and
who closes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import contexts_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from llmgw_core.domain.call import Call


class Options(msgspec.Struct):
    pass


class FakeBackend:
    Options = Options
    name = "fake"

    def origin(self, deployment: Any) -> Any: ...

    def begin(self, call: Any, deployment: Any, credential: str) -> Any: ...

    def check(self, deployment: Any) -> None: ...


class Noting:
    """Notes its life in `log`."""

    log: list[str]

    class Config(msgspec.Struct, frozen=True):
        level: int = 0
        fails: bool = False

    def __init__(self, config: Config, context: Any) -> None:
        self.config, self.context = config, context
        self.log.append(f"*{context.name}{config.level}")

    @hookimpl
    def startup(self) -> None:
        if self.config.fails:
            raise RuntimeError
        self.log.append(f"+{self.context.name}{self.config.level}")

    @hookimpl
    def shutdown(self) -> None:
        self.log.append(f"-{self.context.name}{self.config.level}")

    @hookimpl
    def on_usage(self, record: Any) -> None:
        self.log.append(f"{record} to {self.context.name}{self.config.level}")

    @hookimpl
    def authorize(self) -> None: ...


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def load(tmp_path: Path, log: list[str]) -> Callable[..., PluginHost]:
    class Noted(Noting):
        pass

    Noted.log = log

    class Serving(Noted):
        @hookimpl
        def register_backends(self) -> Any:
            return [FakeBackend()]

    kinds = {"a": Noted, "b": Noted, "serving": Serving}

    def loaded(
        *sections: PluginConfig, reuse: PluginHost | None = None, changed: Collection[str] = ()
    ) -> PluginHost:
        return PluginHost.load(
            sections,
            context_for=contexts_in(tmp_path),
            extra=[(section.name, kinds[section.name]) for section in sections],
            reuse=reuse,
            changed=changed,
        )

    return loaded


async def test_what_has_not_changed_keeps_running_and_is_closed_once(
    load: Callable[..., PluginHost], log: list[str], call: Call
) -> None:
    first = load(PluginConfig("a"), PluginConfig("b"))
    await first.startup()
    second = load(PluginConfig("b", {"level": 2}), PluginConfig("a"), reuse=first)
    assert second.plugins[1] is first.plugins[0]
    await second.startup()
    first.observe_usage("1")  # type: ignore[arg-type]
    second.observe_usage("2")  # type: ignore[arg-type]
    await first.shutdown(5)
    assert second.describe()[1].state == "started"
    second.observe_usage("3")  # type: ignore[arg-type]
    assert second.run_authorize(call, "m") is None
    await second.shutdown(5)
    await first.shutdown(5)
    assert log[:7] == ["*a0", "*b0", "+a0", "+b0", "*b2", "+b2", log[6]]
    assert sorted(entry for entry in log if " to " in entry) == [
        "1 to a0", "1 to b0", "2 to a0", "2 to b2", "3 to a0", "3 to b2",
    ]  # fmt: skip
    assert [entry for entry in log if entry.startswith("-")] == ["-b0", "-a0", "-b2"]


async def test_meters_and_observers_go_with_the_plugin(
    load: Callable[..., PluginHost], call: Call
) -> None:
    first = load(PluginConfig("a"))
    first.run_authorize(call, "m")
    second = load(PluginConfig("a"), reuse=first)
    second.run_authorize(call, "m")
    assert second.describe()[0].calls == 2
    assert second.on_usage == first.on_usage
    assert second.contexts["a"] is first.contexts["a"]


async def test_a_host_that_does_not_start_leaves_the_one_before_it_alone(
    load: Callable[..., PluginHost], log: list[str]
) -> None:
    first = load(PluginConfig("a"))
    await first.startup()
    second = load(PluginConfig("a"), PluginConfig("b", {"fails": True}), reuse=first)
    with pytest.raises(ConfigError, match="the plugin `b` failed in `startup`"):
        await second.startup()
    load(PluginConfig("a"), reuse=first)  # and one that nobody ever starts or closes
    assert first.describe()[0].state == "started"
    await first.shutdown(5)
    assert log == ["*a0", "+a0", "*b0", "-a0"]


async def test_a_plugin_cannot_be_taken_over_from_a_host_that_has_ended(
    load: Callable[..., PluginHost],
) -> None:
    first = load(PluginConfig("a"))
    await first.startup()
    second = load(PluginConfig("a"), reuse=first)
    await first.shutdown(5)
    with pytest.raises(ConfigError, match="the plugin `a` was closed before"):
        await second.startup()
    third = load(PluginConfig("a"), reuse=first)
    assert third.plugins[0] is not first.plugins[0]


@pytest.mark.parametrize(
    ("section", "changed", "kept"),
    [
        (PluginConfig("serving"), (), True),
        (PluginConfig("serving"), ("other",), True),
        (PluginConfig("serving"), ("fake",), False),
        (PluginConfig("serving", timeout=1.0), (), False),
        (PluginConfig("serving", on_error="open"), (), False),
    ],
)
async def test_a_plugin_that_prepares_deployments_starts_anew_when_they_have_changed(
    load: Callable[..., PluginHost], section: PluginConfig, changed: tuple[str, ...], kept: bool
) -> None:
    first = load(PluginConfig("serving"))
    second = load(section, reuse=first, changed=changed)
    assert (second.plugins[0] is first.plugins[0]) == kept
    assert (second.backends["fake"] is first.backends["fake"]) == kept


async def test_deployments_are_those_of_the_newest_host_that_lives(
    load: Callable[..., PluginHost],
) -> None:
    def deployments(name: str) -> Callable[[str], tuple[Deployment, ...]]:
        found = (Deployment(f"m/{name}", "m", "fake", "z", "m"),)
        return lambda _: found

    def seen(host: PluginHost) -> str:
        [deployment] = host.contexts["a"].deployments("fake")
        return deployment.id

    first = load(PluginConfig("a"))
    first.bind_deployments(deployments("1"))
    await first.startup()
    second = load(PluginConfig("a"), reuse=first)
    second.bind_deployments(deployments("2"))
    assert seen(first) == "m/1"
    await second.startup()
    assert seen(first) == "m/2"
    third = load(PluginConfig("a"), reuse=second)
    third.bind_deployments(deployments("3"))
    await third.startup()
    await third.shutdown(5)  # taken back
    assert seen(first) == "m/2"
    await first.shutdown(5)
    assert seen(second) == "m/2"
    await second.shutdown(5)
