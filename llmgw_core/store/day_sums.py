"""What limits by the day need of the database: who has any, and what was used hour by hour."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import or_, select

from llmgw_core.domain.access import Level
from llmgw_core.domain.limits import Limits, limits_of
from llmgw_core.limits.specs import DAY_LIMITS
from llmgw_core.store.ledger_tables import usage_groups, usage_hours
from llmgw_core.store.tenancy_tables import LEVELS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

log = logging.getLogger(__name__)

_GROUP = ("organization_id", "team_id", "user_id", "key_id", "model", "deployment")
_SUMS = ("calls", "input_tokens", "output_tokens")


async def levels_with_day_limits(connection: AsyncConnection) -> list[Level]:
    """The levels that have limits by the day, with these and nothing else."""
    found = []
    for kind, table in LEVELS.items():
        limited = or_(table.c.limits.is_not(None), table.c.model_limits.is_not(None))
        query = select(table.c.id, table.c.limits, table.c.model_limits).where(limited)
        for id, limits, pairs in await connection.execute(query):
            if _by_the_day(limits) or any(_by_the_day(each) for _, each in pairs or ()):
                try:
                    models = msgspec.convert(pairs or (), tuple[tuple[str, Limits], ...])
                    whole = limits_of(None, None, None, limits)
                except msgspec.ValidationError as error:
                    # Its callers are told as soon as they come.
                    log.error("the limits of %s make no sense: %s", id, error)  # noqa: TRY400 - expected
                else:
                    found.append(Level(kind, id, limits=whole, model_limits=models))
    return found


def _by_the_day(limits: Any) -> bool:
    return isinstance(limits, dict) and any(limits.get(name) is not None for name in DAY_LIMITS)


async def used_by_the_hour(
    connection: AsyncConnection, first: int, last: int
) -> list[tuple[Any, ...]]:
    """From hour `first` to `last` since the epoch: the hour, organisation, team, user, key, model,
    deployment ("" where there is none), and the calls, input and output tokens."""
    columns = [
        *(usage_groups.c[name] for name in _GROUP),
        *(usage_hours.c[name] for name in _SUMS),
    ]
    joined = usage_hours.join(usage_groups, usage_groups.c.id == usage_hours.c.group_id)
    query = select(usage_hours.c.hour, *columns).select_from(joined)
    query = query.where(usage_hours.c.hour.between(first, last))
    return [tuple(row) for row in await connection.execute(query)]
