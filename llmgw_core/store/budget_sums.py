"""What levels have spent in the periods of a moment, as far as the ledger has it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.limits.periods import period_at
from llmgw_core.store.budget_queries import spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.limits import BudgetPeriod
    from llmgw_core.limits.budget_counts import Measure
    from llmgw_core.limits.periods import Span

    Owner = tuple[LevelKind, str]


class Sum(NamedTuple):
    """Nano-units or tokens `spent` in the period `span`."""

    span: Span
    spent: int


class _Question(NamedTuple):
    """What is asked of many levels at once."""

    kind: LevelKind
    period: BudgetPeriod
    timezone: str


async def sums_of(
    connection: AsyncConnection, wanted: Mapping[Owner, Iterable[Measure]], now_ns: int
) -> dict[Owner, dict[Measure, Sum]]:
    """What each level has spent, by each measure that is `wanted` of it, in the period that
    `now_ns` (nanoseconds since the epoch) lies in. The time zones must be known."""
    asked: defaultdict[_Question, dict[str, list[Measure]]] = defaultdict(dict)
    found: dict[Owner, dict[Measure, Sum]] = {owner: {} for owner in wanted}
    for (kind, id), measures in wanted.items():
        for measure in measures:
            question = _Question(kind, measure.period, measure.timezone)
            asked[question].setdefault(id, []).append(measure)
    for question, levels in asked.items():
        span = period_at(question.period, question.timezone, now_ns)
        known = await spent(connection, question.kind, levels.keys(), span)
        for id, measures in levels.items():
            charge, tokens = known.get(id, (0, 0))
            for measure in measures:
                amount = charge if measure.unit == "money" else tokens
                found[question.kind, id][measure] = Sum(span, amount)
    return found
