"""Nothing reaches an upstream that the principal may not use."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgw_core.config.schema import RequestLimits
from llmgw_core.testing.installation import at, install, served_by
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = ("a", "b", "c")
ZONES = ("onprem", "eu", "world")


class Plan(msgspec.Struct, frozen=True):
    """A random installation. `places`: for each model the (zone, dead) of its deployments."""

    places: dict[str, list[tuple[str, bool]]]
    fallbacks: dict[str, list[str]]
    organization_models: list[str] | None
    organization_zones: list[str] | None
    team_models: list[str] | None
    key_models: list[str] | None
    key_zones: list[str] | None

    def granted(self, model: str) -> bool:
        """Said independently of the code under test."""
        levels = [self.organization_models or [], self.team_models, self.key_models]
        return all(listed is None or model in listed for listed in levels)

    def allowed(self, model: str, zone: str) -> bool:
        """Whether a deployment of `model` in `zone` may hear of a call."""
        levels = [self.organization_zones, self.key_zones]
        inside = all(listed is None or zone in listed for listed in levels)
        return inside and self.granted(model)


def some(values: Sequence[str]) -> st.SearchStrategy[list[str] | None]:
    return st.none() | st.lists(st.sampled_from(values), unique=True, min_size=1)


places = st.lists(st.tuples(st.sampled_from(ZONES), st.booleans()), min_size=1, max_size=3)
plans = st.builds(
    Plan,
    places=st.fixed_dictionaries(dict.fromkeys(MODELS, places)),
    fallbacks=st.fixed_dictionaries(
        {
            # Only later ones: circles are refused at start-up.
            name: st.lists(st.sampled_from(MODELS[index:]), unique=True)
            if index < 3
            else st.just([])
            for index, name in enumerate(MODELS, start=1)
        }
    ),
    organization_models=some(MODELS),
    organization_zones=some(ZONES),
    team_models=some(MODELS),
    key_models=some(MODELS),
    key_zones=some(ZONES),
)


async def run(plan: Plan, directory: Path) -> None:
    async with AsyncExitStack() as stack:
        servers: list[tuple[tuple[str, str], ModelServer]] = []
        models: dict[str, Any] = {}
        for name in MODELS:
            deployments = []
            for index, (zone, dead) in enumerate(plan.places[name]):
                server = await stack.enter_async_context(ModelServer())
                server.status = 503 if dead else 200
                servers.append(((name, zone), server))
                deployments.append(at(server, str(index), zone=zone))
            models[name] = served_by(*deployments, fallbacks=tuple(plan.fallbacks[name]))
        requests = RequestLimits(attempts=9)
        tenant = {
            "models": plan.organization_models,
            "zones": plan.organization_zones,
            "team_models": plan.team_models,
            "key_models": plan.key_models,
            "key_zones": plan.key_zones,
        }
        here = await stack.enter_async_context(
            install(directory, models, tenant=tenant, requests=requests)
        )
        for name in MODELS:
            for stream in (False, True):
                reply = await here.client.chat(name, stream=stream)
                assert reply.status == expected(plan, name)
        for (name, zone), server in servers:
            assert plan.allowed(name, zone) or server.accepted == 0
        listed = {one["id"] for one in (await here.client.get("/v1/models")).json()["data"]}
        assert listed == {name for name in MODELS if expected(plan, name) in {200, 503}}


def expected(plan: Plan, model: str) -> int:
    """200 if somebody alive may serve it whatever fails before, 503 if all are dead."""
    if not plan.granted(model):
        return 404
    tiers = [
        [dead for zone, dead in plan.places[name] if plan.allowed(name, zone)]
        for name in dict.fromkeys((model, *plan.fallbacks[model]))
    ]
    if not any(tiers):
        return 403
    return 200 if any(not dead for tier in tiers for dead in tier) else 503


@given(plans)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_upstream_outside_grant_and_zone_hears_of_a_call(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(plan, Path(directory)))
