"""The use case of re-pricing: calls of a past period at the prices that are configured now.

It books differences and edits nothing, in batches, each of them one transaction. When it is broken
off, doing it again goes on where it was: what has the right amount is left alone.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.accounting.repricing import repriced
from llmgw_core.store.price_sheets import store_sheets
from llmgw_core.store.repricing_queries import on_books, other_currencies, whole_since
from llmgw_core.store.statement_queries import closed_periods
from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.correcting import correct
from llmgw_core.tenancy.cost_rules import open_time
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.accounting.repricing import Repriced
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger import Ledger
    from llmgw_core.store.repricing_queries import OnBooks

BATCH: Final = 1000
"""Calls in one transaction."""


class ModelChange(msgspec.Struct):
    """What re-pricing does to the calls of one model that were booked in `currency_before`, amounts
    in nano-units. `kept`: attempts on deployments that have no price now, which keep what they
    had."""

    model: str
    currency_before: str
    calls: int = 0
    changed: int = 0
    kept: int = 0
    cost_before: int = 0
    cost_after: int = 0
    charge_before: int = 0
    charge_after: int = 0


class Repricing:
    """`prices` are the ones to go by, amounts in `currency`. `clock` gives seconds since the
    epoch."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        prices: PriceBook,
        currency: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._prices = prices
        self._currency = currency
        self._clock = clock

    async def run(
        self,
        since_ns: int,
        until_ns: int,
        *,
        actor: str,
        model: str = "",
        from_currency: str = "",
        dry_run: bool = False,
        batch: int = BATCH,
    ) -> list[ModelChange]:
        """Book what calls that began in [`since_ns`, `until_ns`) cost more or less now; with
        `model` only those that it was asked for, or that it served; with `from_currency` those as
        well that are booked in that one, which no closed statement may have billed. `dry_run` books
        nothing. Returns what it did, by the model that was asked for. Raises `TenancyError` when
        rows of the period are gone or are in another currency, and `StoreUnavailable`."""
        await self._check(since_ns, until_ns, from_currency)
        if not dry_run:
            await self._audit(since_ns, until_ns, actor, model)
        found: dict[tuple[str, str], ModelChange] = {}
        place = None
        while True:
            async with self._store.connect() as connection:
                rows, after = await on_books(connection, since_ns, until_ns, place, batch)
            wanted = [row for row in rows if not model or _is_of(row.record, model)]
            corrected = [
                (row, repriced(row.record, self._prices, self._currency)) for row in wanted
            ]
            changed = [(row, each) for row, each in corrected if each.changed]
            if not dry_run and not await self._book(changed):
                continue  # somebody else has corrected some of them: look at them anew
            for _, each in corrected:
                _count(found, each)
            if after is None:
                return [found[name] for name in sorted(found)]
            place = after

    async def _check(self, since_ns: int, until_ns: int, from_currency: str) -> None:
        if since_ns >= until_ns:
            raise TenancyError("The period ends before it begins.")
        async with self._store.connect() as connection:
            whole = await whole_since(connection)
            foreign = await other_currencies(connection, since_ns, until_ns, self._currency)
            closed = await closed_periods(connection)
        if since_ns < whole:
            raise TenancyError(
                f"Calls before {_shown(whole)} are gone from the ledger, which keeps them only for"
                " a time; re-pricing can begin there at the earliest."
            )
        for currency in foreign:
            if currency != from_currency:
                raise TenancyError(
                    f"There are calls booked in {currency} in this period, and prices are in"
                    f" {self._currency} now. `--from-currency {currency}` takes those back and"
                    f" books them anew in {self._currency}, at the prices that are configured for"
                    " their time."
                )
        if foreign:
            open_time(since_ns, closed, until_ns)

    async def _audit(self, since_ns: int, until_ns: int, actor: str, model: str) -> None:
        details = {"since": _shown(since_ns), "until": _shown(until_ns), "model": model}
        async with change(self._store, actor, self._clock()) as doing:
            await doing.record("reprice", "ledger", "calls", details)

    async def _book(self, corrected: list[tuple[OnBooks, Repriced]]) -> bool:
        sheets = {id: sheet for _, each in corrected for id, sheet in each.sheets.items()}
        if sheets:
            await store_sheets(self._store, sheets.values())
        pairs = [entry for row, each in corrected for entry in each.entries(row.rebookings + 1)]
        return await correct(self._ledger, pairs)


def _is_of(record: UsageRecord, model: str) -> bool:
    return model == record.model or any(attempt.model == model for attempt in record.attempts)


def _count(found: dict[tuple[str, str], ModelChange], each: Repriced) -> None:
    before, after = each.before, each.after
    key = before.model, before.currency
    line = found.setdefault(key, ModelChange(*key))
    line.calls += 1
    line.changed += each.changed
    line.kept += len(each.unknown)
    line.cost_before += before.cost
    line.cost_after += after.cost
    line.charge_before += before.charge
    line.charge_after += after.charge


def _shown(ns: int) -> str:
    moment = dt.datetime.fromtimestamp(ns // 10**9, dt.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
