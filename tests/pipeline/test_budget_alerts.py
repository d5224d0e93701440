"""What is told of budgets: once for each period, and to whom."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.tenancy.records import TEAM
from llmgw_core.testing.budgeted_calls import BODY, PRICE, chat, month, priced
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at, install, served_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

BY = "test"


class Listening:
    """Hears of what is audited."""

    heard: list[AuditEntry]

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def on_audit(self, entry: AuditEntry) -> None:
        if entry.kind == "budget":
            self.heard.append(entry)


async def heard(entries: list[AuditEntry], number: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(5):
        while len([each for each in entries if each.action == "reach"]) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return [(entry.details["level"], entry.details["percent"]) for entry in entries]


async def test_each_threshold_is_told_once_also_after_a_restart(
    tmp_path: Path, metered: ModelServer
) -> None:
    entries: list[AuditEntry] = []
    listening = type("Listening", (Listening,), {"heard": entries})
    models = {"m": [at(metered)]}
    options: dict[str, Any] = {"plugins": [("listening", listening)]}
    budget = month(4)
    async with install(tmp_path, models, tenant={"team_budgets": [budget]}, **options) as first:
        tenant = first.tenant
        for _ in range(2):
            assert (await chat(first)).status == 200
        assert await heard(entries, 1) == [("team", 50)]
        assert (entries[0].actor, entries[0].action, entries[0].object_id) == (
            "gateway",
            "reach",
            tenant.team_id,
        )
        assert entries[0].details["spent"] == 2 * PRICE
        started = dt.datetime.fromtimestamp(entries[0].details["start_ns"] / 1e9, dt.UTC)
        assert (started.day, started.hour) == (1, 0)
    async with install(tmp_path, models, tenant={"name": "another"}, **options) as second:
        client = Client(second.gateway, tenant.key)
        assert (await client.chat("m", **BODY)).status == 200
        assert (await client.chat("m", **BODY)).status == 200
        for _ in range(3):
            assert (await client.chat("m", **BODY)).status == 429
        told = [("team", 50), ("team", 80), ("team", 100), ("team", 0)]
        assert await heard(entries, 4) == told
        assert [entry.details["refused"] for entry in entries] == [False, False, False, True]
        # Another amount is another budget, whose thresholds have not been told.
        await second.gateway.budgeting.set(TEAM, tenant.team_id, month(5), actor=BY)
        await heard(entries, 6)
        again = [each for each in entries if each.details.get("amount") == 5 * PRICE]
        assert [each.details["percent"] for each in again] == [50, 80]
        log = await second.gateway.tenancy.list_audit(object_id=tenant.team_id)
        assert len([each for each in log if each.action == "reach"]) == 6


async def test_budgets_of_one_amount_that_react_in_different_ways_are_told_apart(
    tmp_path: Path, metered: ModelServer
) -> None:
    own = served_by(at(metered), prices=priced(0, 0))
    models: dict[str, Any] = {"m": [at(metered)], "own": own}
    budgets = [
        month(1, alerts=(100,)),
        month(1, alerts=(100,), shadow=True),
        month(1, alerts=(100,), fallback="own"),
    ]

    async def told(here: Installation) -> list[tuple[int, bool, str]]:
        assert (await Client(here.gateway, tenant.key).chat("m", **BODY)).status == 429
        await here.gateway.budget_alerts.aclose()
        log = await here.gateway.tenancy.list_audit(object_id=tenant.team_id)
        facts = [each.details for each in log if each.action == "reach"]
        return sorted((each["percent"], each["shadow"], each["fallback"]) for each in facts)

    ways = [(False, ""), (False, "own"), (True, "")]
    expected = [(percent, *way) for percent in (0, 100) for way in ways]
    async with install(tmp_path, models, tenant={"team_budgets": budgets}) as here:
        tenant = here.tenant
        assert (await chat(here)).status == 200
        assert await told(here) == expected
    async with install(tmp_path, models, tenant={"name": "another"}) as here:
        assert await told(here) == expected


async def test_events_wait_for_the_store(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_core.pipeline.budget_alerts._PAUSE", 0.01)
    entries: list[AuditEntry] = []
    listening = type("Listening", (Listening,), {"heard": entries})
    here = await installed(
        {"m": [at(metered)]},
        tenant={"team_budgets": [month(1)]},
        plugins=[("listening", listening)],
    )
    alerts = here.gateway.budget_alerts
    failed = asyncio.Event()
    begin = here.gateway.store.begin

    def broken() -> Any:
        failed.set()
        raise StoreUnavailable("down")

    monkeypatch.setattr(here.gateway.store, "begin", broken)
    assert (await chat(here)).status == 200
    await failed.wait()
    assert entries == []
    monkeypatch.setattr(here.gateway.store, "begin", begin)
    assert await heard(entries, 3) == [("team", 50), ("team", 80), ("team", 100)]
    assert alerts.waiting == 0


async def test_an_end_right_after_the_commit_tells_nothing_twice(
    installed: Install, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(metered)]}, tenant={"team_budgets": [month(1, alerts=(100,))]})
    store, alerts = here.gateway.store, here.gateway.budget_alerts
    begin, committed, going_on = store.begin, asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def late() -> AsyncIterator[Any]:
        async with begin() as connection:
            yield connection
        committed.set()
        await going_on.wait()

    monkeypatch.setattr(store, "begin", late)
    assert (await chat(here)).status == 200
    async with asyncio.timeout(5):
        await committed.wait()
        end = asyncio.create_task(alerts.aclose())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        going_on.set()
        await end
    log = await here.gateway.tenancy.list_audit(object_id=here.tenant.team_id)
    assert [each.details["percent"] for each in log if each.action == "reach"] == [100]
    assert alerts.waiting == 0
