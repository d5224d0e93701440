"""Calls and the budgets of their callers: reserved before, settled by what was charged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.limits import Budget
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.limits.budget_counts import Count
    from llmgw_core.testing.installation import Install, Installation


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def count(here: Installation, kind: str = "team") -> Count:
    """What is counted for the first budget of a level of the tenant."""
    owner: Any = (kind, getattr(here.tenant, f"{kind}_id"))
    account = here.gateway.budgets.book.account(owner)
    assert account is not None
    return next(iter(account.counters.values())).current


async def test_what_was_charged_is_spent_and_nothing_stays_reserved(
    installed: Install, server: ModelServer
) -> None:
    budget = Budget("money", 10**9, "month")
    here = await installed({"m": [at(server)]}, tenant={"team_budgets": [budget]})
    for stream in (False, True):
        assert (await here.client.chat("m", stream=stream)).status == 200
    records = await here.records()
    assert count(here).spent == sum(record.charge for record in records) > 0
    assert count(here).reserved == 0
