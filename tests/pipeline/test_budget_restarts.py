"""What was spent before the gateway ended, in whatever way, is spent when it starts again."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import update

from llmgw_core.accounting.journal import Journal
from llmgw_core.accounting.summaries import summarize
from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.domain.limits import Budget, Limits
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.tenancy_tables import teams
from llmgw_core.testing.budgeted_calls import BODY, PRICE, chat, count_of, month
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at, install
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from llmgw_core.testing.model_server import ModelServer

BY = "test"


@pytest.mark.parametrize("moved", [True, False])
async def test_what_was_spent_before_a_restart_still_is(
    tmp_path: Path, metered: ModelServer, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    """Also if the store got nothing of it: then it lies in the journal of the last process."""
    models = {"m": [at(metered)]}
    async with install(tmp_path, models, tenant={"team_budgets": [month(3)]}) as first:
        for _ in range(2):
            assert (await chat(first)).status == 200
        tenant = first.tenant
        if not moved:
            monkeypatch.setattr(first.gateway.ledger, "insert", down)
    store = Store(f"sqlite:///{tmp_path}/llmgw.db")
    await store.open()
    assert await Ledger(store).count() == (2 if moved else 0)
    await store.aclose()
    async with install(tmp_path, models, tenant={"name": "another"}) as second:
        client = Client(second.gateway, tenant.key)
        assert count_of(second.gateway, tenant).spent == 2 * PRICE
        statuses = [(await client.chat("m", **BODY)).status for _ in range(2)]
        assert statuses == [200, 429]
        await second.records()
        await second.gateway._foundation.control.refresh()
        assert count_of(second.gateway, tenant).spent == 3 * PRICE


async def down(*_: object) -> None:
    raise StoreUnavailable("down")


async def test_what_is_in_the_journal_and_in_the_store_is_counted_once(
    tmp_path: Path, metered: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between the commit and the checkpoint."""
    models = {"m": [at(metered)]}
    async with install(tmp_path, models, tenant={"team_budgets": [month(3)]}) as first:
        assert (await chat(first)).status == 200
        tenant, insert = first.tenant, first.gateway.ledger.insert

        async def committed(*args: Any) -> int:
            await insert(*args)
            raise StoreUnavailable("the answer was lost")

        monkeypatch.setattr(first.gateway.ledger, "insert", committed)
    async with install(tmp_path, models, tenant={"name": "another"}) as second:
        assert await second.gateway.ledger.count() == 1
        assert count_of(second.gateway, tenant).spent == PRICE


@pytest.mark.parametrize("booked", [0, 5])
async def test_a_backlog_that_was_added_up_is_spent_once(
    tmp_path: Path, metered: ModelServer, booked: int
) -> None:
    """Also if the process died between the commit of a part of it and the checkpoint."""
    models, limits = {"m": [at(metered)]}, Limits(rpd=1000)
    made = {"budgets": [Budget("tokens", 10**6, "total")], "key_limits": limits}
    async with install(tmp_path, models, tenant=made) as first:
        tenant, root = first.tenant, first.gateway.journal.root
        owners = (tenant.organization_id, tenant.team_id, tenant.user_id, tenant.key_id)
        names = ("organization_id", "team_id", "user_id", "key_id")
        now = time.time_ns()
        calls = [
            usage_record(n, started_ns=now, **dict(zip(names, owners, strict=True)))
            for n in range(60)
        ]
        await first.gateway.ledger.insert(calls[:booked], ())
    journal = Journal(root, segment_bytes=4096)
    for call in calls:
        journal.append_usage(call)
    full = [extent for extent in journal.extents() if extent.closed]
    assert len(full) > 1
    for extent in full:
        summarize(extent.path, extent.end)
    journal.directory.close()  # what the kernel does to the lock of a process that is gone
    async with install(tmp_path, models, tenant={"name": "another"}) as second:
        account = second.gateway.budgets.book.account(("organization", owners[0]))
        assert account is not None
        [counter] = account.counters.values()
        assert counter.current.spent == 60 * 15
        reply = await Client(second.gateway, tenant.key).chat("m", **BODY)
        assert reply.headers["x-ratelimit-remaining-requests"] == str(1000 - 60 - 1)
        assert len(await second.records()) == 61
    journal.close()


async def test_what_a_killed_process_has_spent_is_known_to_the_next(
    tmp_path: Path, metered: ModelServer
) -> None:
    """It had no time to move anything into the store, or to close the journal."""
    program = Path(__file__).with_name("spending_process.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(tmp_path), str(metered.port), stdout=PIPE
    )
    assert process.stdout is not None
    team = (await process.stdout.readline()).decode().strip()
    assert await process.wait() == -signal.SIGKILL
    async with install(tmp_path, {"m": [at(metered)]}, tenant={"name": "another"}) as second:
        account = second.gateway.budgets.book.account(("team", team))
        assert account is not None
        [counter] = account.counters.values()
        assert (counter.current.spent, counter.current.reserved) == (2 * PRICE, 0)


async def test_budgets_that_make_no_sense_end_the_start_and_zones_that_are_gone_do_not(
    tmp_path: Path, metered: ModelServer
) -> None:
    models = {"m": [at(metered)]}
    async with install(tmp_path, models, tenant={"team_budgets": [month(2)]}) as first:
        tenant, key = first.tenant, first.client.key

    async def write(budgets: list[dict[str, Any]]) -> None:
        store = Store(f"sqlite:///{tmp_path}/llmgw.db")
        await store.open()
        async with store.begin() as connection:
            await connection.execute(update(teams).values(budgets=budgets))
        await store.aclose()

    await write([{"unit": "money", "amount": 5, "period": "month", "timezone": "Gone/Away"}])
    async with install(tmp_path, models, tenant={"name": "another"}) as second:
        reply = await Client(second.gateway, key).chat("m", **BODY)
        assert reply.status == 503
        assert msgspec.json.decode(reply.body)["error"]["code"] == "limit_unsupported"
        assert second.gateway.budgets.states() == await second.gateway.budgeting.states() == []
    await write([{"unit": "marbles"}])
    with pytest.raises(ConfigError, match="a budget in the database makes no sense"):
        async with install(tmp_path, models, tenant={"name": "third"}):
            pass
    assert tenant.team_id
