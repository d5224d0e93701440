"""The brake over time: set and lifted while the gateway runs, what a restart keeps, reloads."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_brake import BrakeConfig
from llmgw_core.domain.brake import Brake
from llmgw_core.limits.velocity import History
from llmgw_core.pipeline.explanation import Question
from llmgw_core.tenancy.brakes import Brakes
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import KEY, TEAM
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at, install
from llmgw_core.testing.model_server import ModelServer, completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install, Installation

BY = "test"
FLOOR = Brake(velocity_floor=30_000)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.reply = msgspec.json.encode(completion(input=9, output=3))
        yield server


async def chat(here: Installation, text: str = "Hello!") -> int:
    messages = [{"role": "user", "content": text}]
    reply: MemorySink = await here.client.chat("m", max_tokens=3, messages=messages)
    return reply.status


async def test_a_brake_is_set_and_removed_while_it_runs_and_each_change_is_audited(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    braking, key = here.gateway.braking, here.tenant.key_id
    assert await chat(here) == 200
    info = await braking.set(TEAM, here.tenant.team_id, {"key_calls": 2}, actor=BY)
    assert info.brake == Brake(key_calls=2)
    await braking.set(KEY, key, {"session_money": 5, "shadow": ("session_money",)}, actor=BY)
    assert [await chat(here, str(number)) for number in range(3)] == [200, 200, 429]
    assert [(kind.level, each.id) for kind, each in await braking.find_all()] == [
        ("team", here.tenant.team_id),
        ("key", key),
    ]
    await braking.remove(TEAM, here.tenant.team_id, actor=BY)
    assert await chat(here) == 200
    with pytest.raises(NotFound, match="no brake of its own"):
        await braking.remove(TEAM, here.tenant.team_id, actor=BY)
    with pytest.raises(TenancyError, match="Of the brake, key_calls is a whole number from 1"):
        await braking.set(KEY, key, {"key_calls": 0}, actor=BY)
    entries = await here.gateway.tenancy.list_audit(object_id=here.tenant.team_id)
    assert [each.action for each in entries][:2] == ["brake", "brake"]


async def test_the_owner_lifts_the_velocity_for_an_hour_and_takes_it_back(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"team_brake": FLOOR})
    key = here.tenant.key_id
    assert [await chat(here) for _ in range(3)] == [200, 200, 429]
    # As the command line does it: another process, of which this one hears.
    _, until = await Brakes(here.gateway.store).lift(key, actor=BY)
    await here.gateway.principals.poll()
    assert await chat(here) == 200
    [state] = [each for each in here.gateway.brakes.states() if each.id == key]
    assert state.recent == 45_000
    [entry, *_] = await here.gateway.tenancy.list_audit(object_id=key)
    assert (entry.action, entry.details["brake"]) == ("lift", {"lifted_until": until})
    await here.gateway.braking.lift(key, seconds=0, actor=BY)
    assert await chat(here) == 429
    with pytest.raises(TenancyError, match="lifted for 0 to 86400 seconds"):
        await here.gateway.braking.lift(key, seconds=float("nan"), actor=BY)


async def test_an_explanation_tells_of_the_brake_and_counts_nothing(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, brake=BrakeConfig(key_calls=1))
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    question = Question(model="m", body=body, key=here.tenant.key)
    for _ in range(3):
        assert (await here.gateway.explain(question)).refusal is None
    assert await chat(here) == 200
    refusal = (await here.gateway.explain(question)).refusal
    assert refusal is not None
    assert (refusal.code, refusal.decided) == (
        "run_limit_exceeded",
        f"brake key:{here.tenant.key_id}:key_calls",
    )


async def test_what_is_usual_survives_a_restart_and_runs_begin_anew(
    tmp_path: Path, server: ModelServer
) -> None:
    config = {"brake": BrakeConfig(velocity_floor=Decimal(1), key_calls=3)}
    models = {"m": [at(server)]}
    async with install(tmp_path, models, **config) as first:  # type: ignore[arg-type]
        tenant = first.tenant
        assert [await chat(first, str(number)) for number in range(4)] == [200] * 3 + [429]
        [key] = first.gateway.brakes.runs.known()
        key.pace.history = History(600.0, 2.0)
    async with install(tmp_path, models, tenant={"name": "other"}, **config) as second:  # type: ignore[arg-type]
        owner: Any = ("key", tenant.key_id)
        assert second.gateway.brakes.runs.histories() == {owner: History(600.0, 2.0)}
        reply = await Client(second.gateway, tenant.key).chat("m")
        assert reply.status == 200
        [state] = second.gateway.brakes.states()
        assert (state.calls, state.usual) == (1, 300)


async def test_another_configuration_holds_for_calls_that_begin_then(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, brake=BrakeConfig(key_calls=2))
    assert [await chat(here) for _ in range(3)] == [200, 200, 429]
    config = msgspec.structs.replace(here.gateway.config, brake=BrakeConfig(key_calls=3))
    await here.gateway.reload(config)
    assert [await chat(here) for _ in range(2)] == [200, 429]
    off = msgspec.structs.replace(here.gateway.config, brake=BrakeConfig())
    await here.gateway.reload(off)
    assert await chat(here) == 200


async def test_of_many_calls_at_once_only_so_many_are_let_in(
    installed: Install, server: ModelServer
) -> None:
    bound = Decimal(10 * 15_000) / 10**9
    here = await installed({"m": [at(server)]}, brake=BrakeConfig(session_money=bound))
    statuses = await asyncio.gather(*(chat(here) for _ in range(50)))
    assert (statuses.count(200), statuses.count(429)) == (10, 40)
    assert here.gateway.brakes.open == {}
