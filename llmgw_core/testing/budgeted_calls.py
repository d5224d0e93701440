"""Calls whose price is known beforehand: what they reserve is what they are charged."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.limits import Budget
from llmgw_core.testing.model_server import ModelServer, chat_events, completion, usage_object

if TYPE_CHECKING:
    from llmgw_core.domain.access import LevelKind
    from llmgw_core.gateway import Gateway
    from llmgw_core.limits.budget_counts import Count
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Installation
    from llmgw_core.testing.tenants import Tenant

PRICE = 15_000
"""Of one call with 9 tokens of input and 3 of output, in nano-units."""
BODY: dict[str, Any] = {"max_tokens": 3, "messages": [{"role": "user", "content": "Hello!"}]}
"""Nine tokens by the first estimate, and three of output."""


def nine_and_three() -> ModelServer:
    """An upstream that says so, in streams too."""
    server = ModelServer()
    server.reply = msgspec.json.encode(completion(input=9, output=3))
    server.events = chat_events(usage=usage_object(9, 3))
    return server


def priced(input: int, output: int, **others: Decimal) -> tuple[PriceEntry, ...]:
    """Prices since long ago, in whole units of the currency."""
    cost = TokenPrices(input=Decimal(input), output=Decimal(output), **others)
    return (PriceEntry(dt.date(2020, 1, 1), cost),)


def month(calls: float, **fields: Any) -> Budget:
    """A budget for so many calls."""
    return Budget("money", int(calls * PRICE), "month", **fields)


def count_of(gateway: Gateway, tenant: Tenant, kind: LevelKind = "team") -> Count:
    """What is counted for the first budget of a level of `tenant`."""
    account = gateway.budgets.book.account((kind, getattr(tenant, f"{kind}_id")))
    assert account is not None
    return next(iter(account.counters.values())).current


def count(here: Installation, kind: LevelKind = "team") -> Count:
    """The same for the tenant of an installation."""
    return count_of(here.gateway, here.tenant, kind)


async def chat(here: Installation, model: str = "m", **fields: Any) -> MemorySink:
    """One such call, or a longer one."""
    return await here.client.chat(model, **{**BODY, **fields})


def code(reply: MemorySink) -> tuple[int, str]:
    """Of a refusal: its status and code."""
    return reply.status, msgspec.json.decode(reply.body)["error"]["code"]
