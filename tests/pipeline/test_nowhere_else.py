"""Whatever leads a call on, it never leads to where the principal may not go.

Random hierarchies, zones, graphs of fallbacks (ordinary ones, for long requests, for refused ones),
aliases, canaries, routes and faults, over real sockets: an upstream whose model is not granted, or
whose zone is not allowed, by the principal's grants or by the header of the call, does not even see
a connection.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llmgw_core.config.schema import RequestLimits
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at, install, leading_to, served_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.testing.installation import Installation

MODELS = ("a", "b", "c", "d")
ALIASES = ("x", "y")
NAMES = (*MODELS, *ALIASES)
ZONES = ("onprem", "eu", "world")
USERS = ("ann", "bob")
FAULTS = (
    *(
        "ok",
        "ok",
        "ok",
        "refuse",
        "reset",
        "500",
        "503",
        "401",
        "429",
        "400",
        "html-200",
        "error-200",
    ),
    *("context-window", "content-policy", "role-reset", "reset-late", "error-event", "no-end"),
)
EASY = RoutingConfig(retries=0)
"""Nobody waits, since nobody is asked twice."""


class Canary(msgspec.Struct, frozen=True):
    """A rollout on the alias `x`."""

    model: str
    promoted: bool


class World(msgspec.Struct, frozen=True):
    """A random installation, and who calls it how. `places`: for each model the zone and the fault
    of its deployments."""

    places: dict[str, list[tuple[str, str]]]
    fallbacks: dict[str, list[str]]
    longer: dict[str, list[str]]
    lenient: dict[str, list[str]]
    aliases: dict[str, list[str]]
    canary: Canary | None
    route: tuple[str, str] | None
    levels: dict[str, list[str] | None]
    zones: dict[str, list[str] | None]
    header: list[str] | None

    def granted(self, name: str) -> bool:
        """Said independently of the code under test."""
        return name in (self.levels["models"] or []) and all(
            listed is None or name in listed for listed in self.levels.values()
        )

    def allowed(self, model: str, zone: str) -> bool:
        """Whether a deployment of `model` in `zone` may hear of a call."""
        lists = [*self.zones.values(), self.header]
        return self.granted(model) and all(listed is None or zone in listed for listed in lists)


def some(values: Sequence[str]) -> st.SearchStrategy[list[str] | None]:
    return st.none() | st.lists(st.sampled_from(values), unique=True, min_size=2)


def later(minimum: int = 0) -> st.SearchStrategy[dict[str, list[str]]]:
    """For each model some of those behind it: circles are refused at start-up."""
    return st.fixed_dictionaries(
        {
            name: st.lists(st.sampled_from(MODELS[index:]), unique=True)
            if index < len(MODELS)
            else st.just([])
            for index, name in enumerate(MODELS, start=1)
        }
    )


places = st.lists(
    st.tuples(st.sampled_from(ZONES), st.sampled_from(FAULTS)), min_size=1, max_size=2
)
worlds = st.builds(
    World,
    places=st.fixed_dictionaries(dict.fromkeys(MODELS, places)),
    fallbacks=later(),
    longer=later(),
    lenient=later(),
    aliases=st.fixed_dictionaries(
        dict.fromkeys(
            ALIASES, st.lists(st.sampled_from(MODELS), unique=True, min_size=1, max_size=3)
        )
    ),
    canary=st.none() | st.builds(Canary, st.sampled_from(MODELS), st.booleans()),
    route=st.none() | st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)),
    levels=st.fixed_dictionaries(
        {
            "models": st.lists(st.sampled_from(NAMES), unique=True, min_size=3),
            "team_models": some(NAMES),
            "user_models": some(NAMES),
            "key_models": some(NAMES),
        }
    ),
    zones=st.fixed_dictionaries({"zones": some(ZONES), "key_zones": some(ZONES)}),
    header=some(ZONES),
)


async def run(world: World, directory: Path) -> None:
    async with AsyncExitStack() as stack:
        servers: list[tuple[str, str, FaultServer]] = []
        models: dict[str, Any] = {}
        for name in MODELS:
            deployments = []
            for index, (zone, fault) in enumerate(world.places[name]):
                server = await stack.enter_async_context(FaultServer(fault))
                servers.append((name, zone, server))
                deployments.append(at(server, str(index), zone=zone))
            models[name] = served_by(
                *deployments,
                fallbacks=tuple(world.fallbacks[name]),
                context_fallbacks=tuple(world.longer[name]),
                content_policy_fallbacks=tuple(world.lenient[name]),
            )
        here = await stack.enter_async_context(
            install(
                directory,
                models,
                aliases={name: leading_to(*world.aliases[name]) for name in ALIASES},
                tenant={**world.levels, **world.zones},
                requests=RequestLimits(attempts=20),
                routing=EASY,
            )
        )
        await arrange(world, here)
        served = [status for name in NAMES for status in await calls(world, here, name)]
        event(f"{200 in served=}")
        for name, zone, server in servers:
            if not world.allowed(name, zone):
                assert (server.accepted, server.requests) == (0, []), (name, zone)
        for record in await here.records():
            for attempt in record.attempts:
                index = int(attempt.deployment.partition("/")[2])
                assert world.allowed(attempt.model, world.places[attempt.model][index][0])


async def arrange(world: World, here: Installation) -> None:
    """The canary and the route, if they make sense."""
    canary, rollouts = world.canary, here.gateway.rollouts
    if canary is not None and canary.model not in world.aliases["x"]:
        await rollouts.start("x", canary.model, share=50, actor="me")
        if canary.promoted:
            await rollouts.promote("x", actor="me")
    if world.route is not None and world.route[0] != world.route[1]:
        await here.gateway.switches.route(*world.route, reason="a test", actor="me")


async def calls(world: World, here: Installation, name: str) -> list[int]:
    """One call for each user and kind of reply; what is not granted does not exist."""
    headers = [] if world.header is None else [(b"x-llmgw-zone", ",".join(world.header).encode())]
    known = {zone for places in world.places.values() for zone, _ in places}
    statuses = []
    for user in USERS:
        for stream in (False, True):
            reply = await here.client.chat(name, user=user, stream=stream, headers=headers)
            statuses.append(reply.status)
    if world.header is not None and not known.issuperset(world.header):
        assert set(statuses) == {400}
    elif not world.granted(name):
        assert set(statuses) == {404}
    return statuses


@given(worlds)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_upstream_outside_grant_and_zone_hears_of_a_call_whatever_leads_it_on(
    world: World,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(world, Path(directory)))


async def test_with_every_right_each_way_on_is_taken(tmp_path: Path) -> None:
    """So that the silence above means something."""
    faults = {
        "failing": ("500", {"fallbacks": ("spare",)}),
        "short": ("context-window", {"context_fallbacks": ("long",)}),
        "strict": ("content-policy", {"content_policy_fallbacks": ("lenient",)}),
        "routed": ("ok", {}),
        "long": ("ok", {}),
        "lenient": ("ok", {}),
        "spare": ("ok", {}),
        "variant": ("ok", {}),
        "canary": ("ok", {}),
        "elsewhere": ("ok", {}),
    }
    async with AsyncExitStack() as stack:
        servers: dict[str, FaultServer] = {}
        models: dict[str, Any] = {}
        for name, (fault, fields) in faults.items():
            servers[name] = await stack.enter_async_context(FaultServer(fault))
            models[name] = served_by(at(servers[name], zone="world"), **fields)
        here = await stack.enter_async_context(
            install(tmp_path, models, aliases={"x": leading_to("variant")}, routing=EASY)
        )
        await here.gateway.rollouts.start("x", "canary", share=50, actor="me")
        await here.gateway.switches.route("routed", "elsewhere", reason="a test", actor="me")
        for name in ("failing", "short", "strict", "routed"):
            assert (await here.client.chat(name)).status == 200
        for number in range(20):
            assert (await here.client.chat("x", user=f"u{number}")).status == 200
        heard = {name for name, server in servers.items() if server.requests}
        assert heard == set(faults) - {"routed"}
