"""Balancers, limiters and queues by name: the gateway's own, and those of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import Config, LimitsConfig
from llmgw_core.config.schema_routing import ModelRouting, RoutingConfig
from llmgw_core.config.schema_streams import OverloadConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import Gateway, load_plugins
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.pipeline.foreign_balancer import ForeignBalancer
from llmgw_core.routing.balance import BalancerContext
from llmgw_core.routing.queue_fair import FairQueue
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.plugins import host_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import Member


class Letters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    first: str = "a"


class Alphabetical:
    Options = Letters

    def __init__(self, context: BalancerContext) -> None:
        self.options = context.options

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        return members[0]

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        pass


class Closing(MemoryLimiter):
    closed = False

    async def aclose(self) -> None:
        Closing.closed = True


class Newest(FairQueue):
    """A queue in which nobody is forgotten, and nothing else is different."""


def bringing(
    balancers: Any = None, limiters: Any = None, queues: Any = None, tokenizers: Any = None
) -> type[Any]:
    class Plugin:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def register_balancers(self) -> Any:
            return {} if balancers is None else balancers

        @hookimpl
        def register_limiters(self) -> Any:
            return {} if limiters is None else limiters

        @hookimpl
        def register_queues(self) -> Any:
            return {} if queues is None else queues

        @hookimpl
        def register_tokenizers(self) -> Any:
            return {} if tokenizers is None else tokenizers

    return Plugin


async def test_the_configuration_chooses_by_name_what_a_plugin_brings(tmp_path: Path) -> None:
    plugin = bringing(
        {"alphabetical": Alphabetical},
        {"closing": lambda: Closing(lambda: 0.0)},
        {"newest": Newest},
    )
    overload = OverloadConfig(queue="newest")
    routing = RoutingConfig(balancer="alphabetical", overload=overload)
    config = Config(routing=routing, limits=LimitsConfig("closing"))
    async with Gateway.open(config, base_dir=tmp_path, plugins=[("parts", plugin)]) as gateway:
        assert isinstance(gateway.limiter, Closing)
        assert set(gateway.host.balancers) == {*BALANCERS, "alphabetical"}
        assert set(gateway.host.queues) == {"none", "fair", "newest"}
        assert not Closing.closed
    assert Closing.closed


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            Config(routing=RoutingConfig(balancer="round-robin")),
            (
                "routing.balancer: no balancer `round-robin` is registered; did you mean"
                " `round_robin`? A plugin may bring it; is it enabled?"
            ),
        ),
        (
            Config(limits=LimitsConfig("redis")),
            (
                "limits.limiter: no limiter `redis` is registered; there are `memory`."
                " A plugin may bring it; is it enabled?"
            ),
        ),
        (
            Config(routing=RoutingConfig(overload=OverloadConfig(queue="fare"))),
            (
                "routing.overload.queue: no queue `fare` is registered; did you mean `fair`?"
                " A plugin may bring it; is it enabled?"
            ),
        ),
    ],
)
def test_a_name_that_nobody_registered_is_refused_with_those_there_are(
    tmp_path: Path, config: Config, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plugins(config, tmp_path)
    assert str(caught.value) == sentence


def refusal(tmp_path: Path, *plugins: type[Any]) -> str:
    def load_and_make() -> None:
        host = host_of(tmp_path, *((f"p{n}", plugin) for n, plugin in enumerate(plugins, 1)))
        for make in host.balancers.values():
            make(BalancerContext())
        for factory in (*host.limiters.values(), *host.queues.values()):
            factory()

    with pytest.raises(ConfigError) as caught:
        load_and_make()
    return str(caught.value)


def test_one_name_twice_names_both(tmp_path: Path) -> None:
    plugin = bringing({"x": Alphabetical})
    assert refusal(tmp_path, plugin, plugin) == (
        "plugins: the plugins `p1` and `p2` both register a balancer `x`; enable one of them."
    )


def test_the_gateways_own_names_are_taken(tmp_path: Path) -> None:
    plugin = bringing(limiters={"memory": Closing})
    with pytest.raises(ConfigError) as caught:
        load_plugins(Config(), tmp_path, [("p", plugin)])
    assert str(caught.value) == (
        "plugins: the plugin `p` registers a limiter `memory`, which is a name of the gateway's"
        " own; the plugin has to choose another one."
    )


def broken() -> Any:
    raise OSError(2, "no server")


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (
            bringing([Alphabetical]),
            "`register_balancers`: TypeError: registered list, which is no mapping of names to",
        ),
        (
            bringing(limiters={"x": 7}),
            "`register_limiters`: TypeError: registered dict, which is no mapping of names to",
        ),
        (
            bringing(limiters={"x": list}),
            (
                "`register_limiters`: TypeError: made list, which has no `aclose`, `bind`,"
                " `reserve`, `state`"
            ),
        ),
        (
            bringing(queues={"x": list}),
            "`register_queues`: TypeError: made list, which has no `leave`, `put`, `take`",
        ),
        (
            bringing({"x": str}),
            "`register_balancers`: TypeError: made str, which has no `pick`, `took`",
        ),
        (
            bringing(limiters={"x": broken}),
            "`register_limiters`: FileNotFoundError: [Errno 2] no server",
        ),
    ],
)
def test_what_is_none_of_these_is_refused(tmp_path: Path, plugin: type[Any], sentence: str) -> None:
    assert refusal(tmp_path, plugin).startswith(f"the plugin `p1` failed in {sentence}")


async def test_a_balancer_of_a_plugin_gets_its_typed_options(tmp_path: Path) -> None:
    plugin = bringing({"alphabetical": Alphabetical})
    config = Config(
        models={"m": served_by(at(1), routing=ModelRouting(balancer_options={"first": "z"}))},
        routing=RoutingConfig(balancer="alphabetical"),
    )
    plugins = [("canonical", CanonicalPlugin), ("parts", plugin)]
    async with Gateway.open(config, base_dir=tmp_path, plugins=plugins) as gateway:
        [balancer] = gateway._generation.balancers.values()
        assert isinstance(balancer, ForeignBalancer)
        assert isinstance(balancer.made, Alphabetical)
        assert balancer.made.options == Letters("z")


def test_options_of_a_balancer_that_are_no_struct_are_refused(tmp_path: Path) -> None:
    class Wrong(Alphabetical):
        Options = dict  # type: ignore[assignment]

    assert refusal(tmp_path, bringing({"x": Wrong})).startswith(
        "the plugin `p1` failed in `register_balancers`: TypeError: registered a factory whose"
        " `Options` is no msgspec.Struct"
    )
