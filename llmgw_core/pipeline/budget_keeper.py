"""Budgets and the books: what was spent before is read before the first call counts on it.

Callers whose budgets have not been read wait for it, and are refused while the store is down. What
administrators change arrives as everything else that a running gateway reads from the store does.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.domain.errors import ConfigError, StoreUnavailable, overloaded
from llmgw_core.limits.budget_counts import Measure
from llmgw_core.limits.budget_state import state_of
from llmgw_core.limits.periods import Span, known_zone
from llmgw_core.pipeline.budget_reading import read_budgets
from llmgw_core.store import budget_queries as queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.accounting.mover import Mover
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.limits import Budget
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.budget_book import BudgetBook, Owner
    from llmgw_core.limits.budget_counts import Account
    from llmgw_core.limits.budget_state import BudgetState
    from llmgw_core.pipeline.budget_reading import Listener, Wanted
    from llmgw_core.store.budget_queries import BudgetRow
    from llmgw_core.store.engine import Store

log = logging.getLogger("llmgw.budgets")

READ_SECONDS: Final = 10.0
"""For the budgets of a caller to be read; after that the call is refused."""


class BudgetKeeper:
    """Reads budgets into `book`. `wall_clock_ns` is in nanoseconds since the epoch."""

    def __init__(
        self, book: BudgetBook, store: Store, mover: Mover, wall_clock_ns: Callable[[], int]
    ) -> None:
        self.book = book
        self._store = store
        self._mover = mover
        self._wall_clock_ns = wall_clock_ns
        self._version: int | None = None
        self._cursor: int | None = None
        self._rows: tuple[BudgetRow, ...] = ()
        self._wanted: Wanted = {}
        self._reading: asyncio.Task[None] | None = None
        self._held: list[Account] = []
        """What was read a moment ago, until whoever wanted it holds it."""

    # What the store says

    async def start(self, also: Listener | None = None) -> None:
        """Read every budget that there is. Comes before the first call. `also` hears of what lies
        in journals and not in the ledger. Raises `StoreUnavailable` and `ConfigError`."""
        try:
            async with self._store.connect() as connection:
                rows = tuple(await queries.all_budgets(connection))
            self._rows = rows
            await self._read(self.book.missing(self._countable(rows)), also)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            message = (
                f"the journals cannot be read, which meters begin with: {error.strerror}{place}."
            )
            raise ConfigError(message, path="accounting.journal") from None
        except msgspec.ValidationError as error:
            raise ConfigError(f"a budget in the database makes no sense: {error}.") from None
        self._define()

    async def read(self, connection: AsyncConnection) -> tuple[Any, ...]:
        """What there is now, for `apply`: for the watch of the store."""
        version = await queries.version(connection)
        rows = self._rows
        if version != self._version:
            rows = tuple(await queries.all_budgets(connection))
        last = await queries.last_cursor(connection)
        found: tuple[tuple[int, UsageRecord], ...] = ()
        if self._cursor is not None and last > self._cursor and self.book.active:
            found = tuple(await queries.corrections(connection, self._cursor, last))
        return version, rows, last, found

    def apply(self, found: tuple[Any, ...]) -> None:
        """Budgets may be new, changed or gone; re-pricing may have corrected what was charged."""
        self._version, self._rows, self._cursor, corrections = found
        self._held.clear()
        self.book.correct(corrections)
        missing = {
            **_turned_back(self.book, self._wall_clock_ns()),
            **self.book.missing(self._countable(self._rows)),
        }
        if missing:
            self._begin(missing)
        else:
            self._define()

    def _define(self) -> None:
        book = self.book
        countable = self._countable(self._rows)
        for row in self._rows:
            owner = (row.kind, row.id)
            if owner in countable and not book.missing({owner: row.budgets}):
                book.define(owner, row.name, row.budgets)
        book.retain(countable)

    def _countable(self, rows: Iterable[BudgetRow]) -> dict[Owner, tuple[Budget, ...]]:
        found = {}
        for row in rows:
            unknown = {each.timezone for each in row.budgets if not known_zone(each.timezone)}
            if unknown:
                log.error("the budgets of %s cannot be counted: no time zone %s", row.id, unknown)
            else:
                found[row.kind, row.id] = row.budgets
        return found

    def states(self) -> list[BudgetState]:
        """How every budget is at the moment, by level."""
        now = self._wall_clock_ns()
        found = []
        for account in self.book.accounts():
            for budget in account.budgets:
                count = account.counters[Measure.of(budget)].at(now)
                span = Span(count.start_ns, count.end_ns)
                owner = (account.kind, account.id)
                found.append(
                    state_of(owner, account.name, budget, span, count.spent, count.reserved)
                )
        return sorted(found, key=lambda each: (each.level, each.name, each.id))

    # Who waits

    def lacking(self, principal: Principal) -> bool:
        """Whether budgets of `principal` have to be read before it may call."""
        return bool(self._missing(principal))

    async def ready(self, principal: Principal) -> None:
        """Wait until what `principal` may spend from has been read. Raises `GatewayError` 503 when
        that cannot be done."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                while missing := self._missing(principal):
                    self._check_zones(principal)
                    await asyncio.shield(self._begin(missing))
        except (StoreUnavailable, TimeoutError, OSError):
            raise overloaded(
                "The gateway cannot read your budgets at the moment.", retry_after=1.0
            ) from None

    def _missing(self, principal: Principal) -> Wanted:
        levels = principal.levels
        return self.book.missing(
            {(level.kind, level.id): level.budgets for level in levels if level.budgets}
        )

    def _check_zones(self, principal: Principal) -> None:
        for level in principal.levels:
            for budget in level.budgets:
                if not known_zone(budget.timezone):
                    raise overloaded(
                        "A budget that applies to this call cannot be counted.",
                        code="limit_unsupported",
                        should_retry=False,
                    ).decided_by(f"no time zone {budget.timezone}")

    def _begin(self, missing: Mapping[Owner, set[Measure]]) -> asyncio.Task[None]:
        """Have it read: all that anybody waits for at once."""
        for owner, measures in missing.items():
            self._wanted.setdefault(owner, set()).update(measures)
        if self._reading is None:
            self._reading = asyncio.create_task(self._run(), name="llmgw budgets")
            self._reading.add_done_callback(_retrieve)
        return self._reading

    async def settle_down(self) -> None:
        """Wait until everything is read that anybody waits for. Raises `StoreUnavailable`."""
        if self._reading is not None:
            await asyncio.shield(self._reading)

    async def _run(self) -> None:
        try:
            await self._mover.move_once()
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._read(wanted)
            self._define()
        finally:
            self._wanted = {}
            self._reading = None

    async def _read(self, wanted: Wanted, also: Listener | None = None) -> None:
        if wanted or also is not None:
            now, book = self._wall_clock_ns(), self.book
            self._held += await read_budgets(book, self._store, self._mover, wanted, now, also)

    async def aclose(self) -> None:
        """Stop reading. May be repeated."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})


def _turned_back(book: BudgetBook, now_ns: int) -> Wanted:
    """What is counted for a future that a clock has been put back from."""
    found: Wanted = {}
    for account in book.accounts():
        for measure, counter in account.counters.items():
            if counter.current.start_ns > now_ns and not counter.holds(now_ns):
                found.setdefault((account.kind, account.id), set()).add(measure)
    return found


def _retrieve(task: asyncio.Task[None]) -> None:
    """Nobody may be left to hear of a failure; whoever calls next tries again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("budgets could not be read: %s", error)
