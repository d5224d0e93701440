"""A budget for exactly 100 calls, and 500 that come at once over real sockets, with hooks that
sleep between every two steps: 100 are served, the others hear when the budget begins anew."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.limits import Budget
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.limits.periods import period_at
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import ModelServer, chat_events, completion, usage_object
from llmgw_core.testing.tenants import create_tenant

from .conftest import CHAT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from llmgw_core.domain.call import Call, Head
    from llmgw_core.domain.reply import Reply
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.limits.budget_counts import Count
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.wire.request import RequestView

    from .conftest import HttpConnection, HttpReply, Serve

CLIENTS, SERVED = 500, 100
INPUT, OUTPUT = 9, 3
"""Tokens of a call, by the first estimate as well as by the upstream."""
PRICE = INPUT * INPUT_PRICE + OUTPUT * OUTPUT_PRICE
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": OUTPUT,
    "messages": [{"role": "user", "content": "Hello!"}],
}
ZONE = "Europe/Berlin"


def slow_plugin(seed: int) -> type[Any]:
    """A plugin that sleeps between every two steps of a call."""
    chance = random.Random(seed)

    async def pause() -> None:
        await asyncio.sleep(chance.random() * 0.002)

    class Slow:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        async def pre_auth(self, head: Head) -> None:
            await pause()

        @hookimpl
        async def authenticate(self, head: Head) -> None:
            await pause()

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            await pause()

        @hookimpl
        async def post_process(self, reply: Reply) -> None:
            await pause()

    return Slow


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.reply = msgspec.json.encode(completion(input=INPUT, output=OUTPUT))
        server.events = chat_events(usage=usage_object(INPUT, OUTPUT))
        yield server


def team_count(here: Installation) -> Count:
    account = here.gateway.budgets.book.account(("team", here.tenant.team_id))
    assert account is not None
    return next(iter(account.counters.values())).current


@pytest.mark.parametrize(
    "budget",
    [
        Budget("money", SERVED * PRICE, "month", ZONE),
        Budget("tokens", SERVED * (INPUT + OUTPUT), "day", ZONE),
    ],
    ids=["money", "tokens"],
)
async def test_of_500_calls_at_once_100_are_served(
    serve: Serve, installed: Install, server: ModelServer, budget: Budget
) -> None:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("slow", slow_plugin(1))],
        tenant={"team_budgets": [budget]},
    )
    await create_tenant(here.gateway.store, "somebody else")
    served = await serve(here)
    connections = [await served.connect() for _ in range(CLIENTS)]
    bodies = [msgspec.json.encode({**BODY, "stream": number % 3 == 0}) for number in range(CLIENTS)]
    random.Random(2).shuffle(bodies)
    now = int(dt.datetime.now(dt.UTC).timestamp()) * 10**9

    def post(connection: HttpConnection, body: bytes) -> Awaitable[HttpReply]:
        return served.post(CHAT, body, on=connection)

    # Nobody is known yet: the first of them all have to be looked up at the same time.
    replies = await asyncio.gather(*map(post, connections, bodies))
    refused = [reply for reply in replies if reply.status == 429]
    assert [reply.status for reply in replies if reply not in refused] == [200] * SERVED
    assert len(refused) == CLIENTS - SERVED
    end = period_at(budget.period, ZONE, now).end_ns
    for reply in refused:
        assert reply.json()["error"]["code"] == "budget_exceeded"
        reset = (reply.header(b"x-llmgw-budget-reset") or b"").decode()
        assert int(dt.datetime.fromisoformat(reset).timestamp()) * 10**9 == end
        assert reset in reply.json()["error"]["message"]
    records = await here.records()
    spent = sum(record.charge for record in records)
    if budget.unit == "tokens":
        spent = sum(record.usage.total_tokens for record in records)
    count = team_count(here)
    assert (len(records), len(server.requests)) == (SERVED, SERVED)
    assert (count.spent, count.reserved) == (spent, 0)
    assert spent == budget.amount
    last = await served.post(CHAT, bodies[0])
    assert last.status == 429
    assert last.header(b"x-should-retry") == b"false"
    left = end / 1e9 - dt.datetime.now(dt.UTC).timestamp()
    assert left - 5 <= int(last.header(b"retry-after") or 0) <= left + 5


async def test_what_is_spent_beyond_a_budget_is_what_calls_under_way_cost_beyond_their_estimates(
    serve: Serve, installed: Install, server: ModelServer
) -> None:
    """The upstream reports four times what was reserved: every admitted call goes over, and no
    other is admitted once that is known."""
    budget = Budget("money", 20 * PRICE, "month")
    server.reply = msgspec.json.encode(completion(input=4 * INPUT, output=4 * OUTPUT))
    here = await installed(
        {"m": [at(server)]}, plugins=[("slow", slow_plugin(3))], tenant={"team_budgets": [budget]}
    )
    served = await serve(here)
    connections = [await served.connect() for _ in range(60)]
    body = msgspec.json.encode(BODY)
    for _ in range(2):
        await asyncio.gather(*(served.post(CHAT, body, on=each) for each in connections))
    records = await here.records()
    excess = sum(record.charge - PRICE for record in records)
    count = team_count(here)
    assert count.spent == sum(record.charge for record in records)
    assert budget.amount < count.spent <= budget.amount + excess
    assert (len(records), count.reserved) == (20, 0)
