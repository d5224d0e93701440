"""The use cases of budgets: setting, removing, and how they are as far as the ledger knows.

Every change is one transaction with its audit entry, and raises the version that caches watch. All
methods raise `TenancyError` (or its subclasses) with a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.limits import Budget
from llmgw_core.limits.budget_counts import Measure
from llmgw_core.limits.budget_state import state_of
from llmgw_core.limits.periods import known_zone
from llmgw_core.store import budget_queries as queries
from llmgw_core.store.budget_sums import sums_of
from llmgw_core.tenancy import budget_rules
from llmgw_core.tenancy.changes import set_columns
from llmgw_core.tenancy.errors import NotFound
from llmgw_core.tenancy.use_cases import UseCases, level_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.limits import BudgetPeriod, BudgetUnit
    from llmgw_core.limits.budget_state import BudgetState
    from llmgw_core.store.budget_queries import BudgetRow
    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import Kind, LevelInfo


class Budgeting(UseCases):
    """See the module."""

    async def set(
        self,
        kind: Kind[Any],
        reference: str,
        budget: Budget,
        *,
        organization: str | None = None,
        actor: str,
    ) -> LevelInfo:
        """Give a level this budget. It takes the place of one with the same unit and period that
        reacts in the same way: refuses, leads to another model, or does neither (shadow)."""
        place = budget_rules.place_of(budget)
        async with self._change(actor) as doing:
            row, old = await _budgets(doing, kind, reference, organization)
            kept = [each for each in old if budget_rules.place_of(each) != place]
            info = await _put(doing, kind, row, [*kept, budget])
        await self._apply()
        return info

    async def remove(
        self,
        kind: Kind[Any],
        reference: str,
        *,
        unit: BudgetUnit | None = None,
        period: BudgetPeriod | None = None,
        organization: str | None = None,
        actor: str,
    ) -> tuple[LevelInfo, int]:
        """Take the budgets of a level away: all, or those in a unit or by a period. Returns how
        many. Raises `NotFound` if there are none."""
        async with self._change(actor) as doing:
            row, old = await _budgets(doing, kind, reference, organization)
            kept = [
                each
                for each in old
                if unit not in {None, each.unit} or period not in {None, each.period}
            ]
            if len(kept) == len(old):
                raise NotFound(f"The {kind.word} has no such budget.")
            info = await _put(doing, kind, row, kept)
        await self._apply()
        return info, len(old) - len(kept)

    async def find_all(self) -> list[BudgetRow]:
        """The levels that have budgets."""
        async with self._store.connect() as connection:
            return await queries.all_budgets(connection)

    async def states(self) -> list[BudgetState]:
        """How every budget is, as far as calls have come to the ledger. A gateway that runs knows
        of more, and of what calls under way have reserved."""
        now_ns = int(self._clock() * 1e9)
        async with self._store.connect() as connection:
            rows = await queries.all_budgets(connection)
            counted = {
                (row.kind, row.id): [each for each in row.budgets if known_zone(each.timezone)]
                for row in rows
            }
            wanted = {owner: set(map(Measure.of, each)) for owner, each in counted.items()}
            sums = await sums_of(connection, wanted, now_ns)
        found = []
        for row in rows:
            owner = row.kind, row.id
            for each in counted[owner]:
                span, spent = sums[owner][Measure.of(each)]
                found.append(state_of(owner, row.name, each, span, spent, 0))
        return found


async def _budgets(
    doing: Change, kind: Kind[Any], reference: str, organization: str | None
) -> tuple[dict[str, Any], tuple[Budget, ...]]:
    row = await level_row(doing, kind, reference, organization)
    return row, msgspec.convert(row["budgets"] or (), tuple[Budget, ...])


async def _put(
    doing: Change, kind: Kind[Any], row: dict[str, Any], budgets: Sequence[Budget]
) -> LevelInfo:
    values = {"budgets": budget_rules.budgets(budgets)}
    info: LevelInfo = await set_columns(doing, kind, row, "budget", values)
    return info
