"""What was used of limits by the day before the gateway ended counts when it starts again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.limits import Limits
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.window import tick_of
from llmgw_core.pipeline import day_meters
from llmgw_core.store.contributions import HOUR_NS
from llmgw_core.store.tenancy_tables import teams
from llmgw_core.tenancy.records import TEAM
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.budgeted_calls import BODY
from llmgw_core.testing.client import Client
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.installation import at, install, leading_to, served_by
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.installation import Installation
    from llmgw_core.testing.model_server import ModelServer

DAY = 86_400.0
HOUR = 3_600.0
SLOT = 641.0
"""Seconds that something may stay longer than a day."""


async def down(*_: object) -> None:
    raise StoreUnavailable("down")


@pytest.mark.parametrize("moved", [True, False])
async def test_what_was_used_before_a_restart_counts_and_leaves_in_time(
    tmp_path: Path, metered: ModelServer, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    """Also if the store got nothing of it: then it lies in the journal of the last process."""
    models, clock = {"m": [at(metered)]}, FakeClock(100.0)
    async with install(tmp_path, models, tenant={"team_limits": Limits(rpd=3)}) as first:
        assert [(await first.client.chat("m", **BODY)).status for _ in range(2)] == [200, 200]
        key = first.tenant.key
        if not moved:
            monkeypatch.setattr(first.gateway.ledger, "insert", down)
    other = {"name": "another"}
    async with install(tmp_path, models, tenant=other, limiter_clock=clock) as second:
        client = Client(second.gateway, key)
        left = [await client.chat("m", **BODY) for _ in range(2)]
        assert [reply.status for reply in left] == [200, 429]
        assert left[0].headers["x-ratelimit-remaining-requests"] == "0"
        # The hour in which they came may not be over, so it counts as if they came now.
        clock.now += DAY + SLOT
        assert [(await client.chat("m", **BODY)).status for _ in range(4)] == [200] * 3 + [429]


async def test_every_kind_of_meter_goes_on_where_it_was(
    tmp_path: Path, metered: ModelServer
) -> None:
    """Of all levels, pairs with models that stand in, models and caps of deployments."""
    day = Limits(rpd=1000, tpd=1000, input_tpd=1000, output_tpd=1000, shadow=("tpd",))
    cap = Limits(rpd=1000, tpd=1000)
    models = {
        "m": served_by(at(metered, caps=cap), limits=day),
        "other": served_by(at(metered, "b", caps=cap), limits=day),
    }
    aliases = {"alias": leading_to("m")}
    limited: dict[str, Any] = {f"{level}limits": day for level in ("", "team_", "user_", "key_")}
    async with install(tmp_path, models, aliases=aliases, tenant=limited) as first:
        team = first.tenant.team_id
        await Tenancy(first.gateway.store).update(
            TEAM, team, model_limits=(("*", day),), actor="test"
        )
        await first.gateway._foundation.recognize_anew()
        for name in ("m", "alias"):
            assert (await first.client.chat(name, **BODY)).status == 200
        before = counted(first)
    another = {"name": "another"}
    async with install(tmp_path, models, aliases=aliases, tenant=another) as second:
        assert counted(second) == before
    assert before[f"team:{team}:model:m:rpd"] == before["model:m:rpd"] == 2
    assert before[f"team:{team}:model:alias:output_tpd"] == 3
    # Four levels, two pairs, a model, and two caps.
    assert len(before) == 4 * 4 + 2 * 4 + 4 + 2


def counted(here: Installation) -> dict[str, int]:
    """What windows of a day hold."""
    gateway = here.gateway
    assert isinstance(gateway.limiter, MemoryLimiter)
    return {
        id: meter.window.total
        for limiter in (gateway.limiter, gateway.caps)
        for id, meter in limiter._meters.items()
        if meter.window.seconds == DAY and meter.window.total
    }


async def test_hours_leave_one_after_the_other_and_none_too_early(
    tmp_path: Path, metered: ModelServer
) -> None:
    """Those of a clock that was put back count as if they were now."""
    models = {"m": [at(metered)]}
    async with install(tmp_path, models, tenant={"limits": Limits(tpd=10**6)}) as first:
        organization = first.tenant.organization_id
        now = time.time_ns()
        calls = [
            usage_record(hours, organization_id=organization, started_ns=now - hours * HOUR_NS)
            for hours in (-30, -1, 0, 1, 12, 22, 24, 26)
        ]
        await first.gateway.ledger.insert(calls, ())
    clock = FakeClock(100.0)
    async with install(tmp_path, models, tenant={"name": "another"}, limiter_clock=clock) as second:
        limiter = second.gateway.limiter
        assert isinstance(limiter, MemoryLimiter)
        window = limiter._meters[f"organization:{organization}:tpd"].window
        found = []
        for hours in (0, 3.5, 13.5, 24.5):
            window.advance(tick_of(clock.now + hours * HOUR + SLOT))
            found.append(window.total // 15)
        # The oldest ended up to an hour less than a day ago, if its hour has begun just now.
        assert found[0] in {5, 6}
        assert found[1:] == [4, 3, 0]


async def test_without_a_limit_by_the_day_nothing_is_read(
    tmp_path: Path, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits that make no sense do not keep the gateway from starting."""
    read: list[object] = []

    async def spy(*arguments: object) -> list[Any]:
        read.append(arguments)
        return []

    monkeypatch.setattr(day_meters, "used_by_the_hour", spy)
    models = {"m": [at(metered)]}
    plain = Limits(rpm=7, input_tpm=9)
    async with (
        install(tmp_path, models, tenant={"limits": plain}) as first,
        first.gateway.store.begin() as connection,
    ):
        await connection.execute(update(teams).values(limits={"rpd": "many"}))
    async with install(tmp_path, models, tenant={"name": "another"}):
        assert read == []
    async with install(tmp_path, models, tenant={"name": "third", "key_limits": Limits(rpd=1)}):
        assert read == []  # it was made by a gateway that was running
    async with install(tmp_path, models, tenant={"name": "fourth"}):
        assert len(read) == 1
