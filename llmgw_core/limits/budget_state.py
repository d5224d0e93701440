"""How budgets are at a moment, for people and programs that ask."""

from __future__ import annotations

import msgspec

from llmgw_core.domain.access import LevelKind  # noqa: TC001 -- msgspec reads the annotations
from llmgw_core.domain.limits import Budget, BudgetPeriod, BudgetUnit  # noqa: TC001 -- as above
from llmgw_core.limits.periods import EVER, Span


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """One budget of a level. Amounts are nano-units or tokens; `remaining` is below 0 when more was
    spent than there was. Instants are nanoseconds since the epoch; `end_ns` is None in total."""

    level: LevelKind
    id: str
    name: str
    unit: BudgetUnit
    period: BudgetPeriod
    timezone: str
    amount: int
    spent: int
    reserved: int
    remaining: int
    start_ns: int
    end_ns: int | None
    alerts: tuple[int, ...]
    fallback: str
    shadow: bool


def state_of(
    owner: tuple[LevelKind, str], name: str, budget: Budget, span: Span, spent: int, reserved: int
) -> BudgetState:
    """The state of `budget` in a period of which so much is spent and reserved."""
    return BudgetState(
        level=owner[0],
        id=owner[1],
        name=name,
        unit=budget.unit,
        period=budget.period,
        timezone=budget.timezone,
        amount=budget.amount,
        spent=spent,
        reserved=reserved,
        remaining=budget.amount - spent - reserved,
        start_ns=span.start_ns,
        end_ns=None if span.end_ns == EVER else span.end_ns,
        alerts=budget.alerts,
        fallback=budget.fallback,
        shadow=budget.shadow,
    )
