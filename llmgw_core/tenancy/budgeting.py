"""The use cases of budgets: setting, removing, and how they are as far as the ledger knows.

Every change is one transaction with its audit entry, and raises the version that caches watch. All
methods raise `TenancyError` (or its subclasses) with a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.limits import Budget
from llmgw_core.limits.budget_state import state_of
from llmgw_core.limits.periods import known_zone, period_at
from llmgw_core.store import budget_queries as queries
from llmgw_core.tenancy import budget_rules
from llmgw_core.tenancy.changes import change, set_columns
from llmgw_core.tenancy.errors import NotFound
from llmgw_core.tenancy.references import find, organization_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.limits import BudgetPeriod, BudgetUnit
    from llmgw_core.limits.budget_state import BudgetState
    from llmgw_core.store.budget_queries import BudgetRow
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import AuditEntry, Kind, LevelInfo


class Budgeting:
    """See the module. `clock` gives seconds since the epoch; `changed` is called with the audit
    entry of every change that is in the database, and then `applied` is awaited, which brings it
    into force in this process."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._applied = applied

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
        async with self._doing(actor) as doing:
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
        async with self._doing(actor) as doing:
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
        groups: defaultdict[tuple[LevelKind, str, str], set[str]] = defaultdict(set)
        async with self._store.connect() as connection:
            rows = await queries.all_budgets(connection)
            for row in rows:
                for each in row.budgets:
                    if known_zone(each.timezone):
                        groups[row.kind, each.period, each.timezone].add(row.id)
            sums: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
            for (kind, period, timezone), ids in groups.items():
                span = period_at(period, timezone, now_ns)  # type: ignore[arg-type]
                sums[kind, period, timezone] = await queries.spent(connection, kind, ids, span)
        found = []
        for row in rows:
            for each in row.budgets:
                spent = sums.get((row.kind, each.period, each.timezone))
                if spent is not None:
                    span = period_at(each.period, each.timezone, now_ns)
                    used = spent.get(row.id, (0, 0))[each.unit == "tokens"]
                    found.append(state_of((row.kind, row.id), row.name, each, span, used, 0))
        return found

    def _doing(self, actor: str) -> Any:
        return change(self._store, actor, self._clock(), self._changed)

    async def _apply(self) -> None:
        if self._applied is not None:
            await self._applied()


async def _budgets(
    doing: Change, kind: Kind[Any], reference: str, organization: str | None
) -> tuple[dict[str, Any], tuple[Budget, ...]]:
    inside = await organization_id(doing.connection, organization)
    row = await find(doing.connection, kind, reference, inside)
    return row, msgspec.convert(row["budgets"] or (), tuple[Budget, ...])


async def _put(
    doing: Change, kind: Kind[Any], row: dict[str, Any], budgets: Sequence[Budget]
) -> LevelInfo:
    values = {"budgets": budget_rules.budgets(budgets)}
    info: LevelInfo = await set_columns(doing, kind, row, "budget", values)
    return info
