"""The use cases of statements: making one, closing it, reading it, explaining a line.

A statement is made in one transaction with what it is made of, so it shows one moment of the books.
An open one may be made anew as often as wanted; a closed one is never written again. Methods raise
`StatementError` with a sentence (`NotClosed` with all reasons), and `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.access import keys
from llmgw_core.statements import closing, reading
from llmgw_core.statements.backlog import backlog
from llmgw_core.statements.composing import encode_line
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.invoices import read_invoice
from llmgw_core.statements.periods import fit, month
from llmgw_core.statements.pools import pool_lines
from llmgw_core.statements.reconciling import Tolerance, booked_items, compare, days
from llmgw_core.statements.records import Statement, Summary
from llmgw_core.store import statement_queries as queries
from llmgw_core.store.statement_sums import newest
from llmgw_core.tenancy.changes import Change, change
from llmgw_core.tenancy.references import organization_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llmgw_core.config.schema_statements import StatementsConfig
    from llmgw_core.statements.closing import Why
    from llmgw_core.statements.composing import Books, Composer
    from llmgw_core.statements.invoices import Reading
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.reconciling import Comparison
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.records import AuditEntry

_KIND = "statement"


class Statements:
    """See the module. `journal` is where gateways keep their journals; `why` tells why something
    has no price. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        config: StatementsConfig,
        *,
        currency: str,
        journal: Path | None = None,
        why: Why = lambda model, deployment, at_ns: "",
        clock: Callable[[], float] = time.time,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        changed: Callable[[AuditEntry], None] | None = None,
    ) -> None:
        self.store = store
        self._config = config
        self._currency = currency
        self._journal = journal
        self._why = why
        self._clock = clock
        self._randomness = randomness
        self._changed = changed

    async def create(
        self, period: str, *, timezone: str = "", organization: str | None = None, actor: str
    ) -> Statement:
        """The statement of a month `YYYY-MM` of a time zone (default: the configured one), of one
        organisation if given. An open one of the same month is made anew."""
        span = month(period, timezone or self._config.timezone)
        async with change(self.store, actor, self._clock(), self._changed) as doing:
            now_ns = int(doing.now * 1e9)
            if span.start_ns > now_ns:
                raise StatementError(f"{period} has not begun yet.")
            scope = await organization_id(doing.connection, organization) or ""
            others = await reading.all_of_them(doing.connection)
            old = next((each for each in others if (each.scope, each.span) == (scope, span)), None)
            if old is not None and old.closed:
                raise StatementError(
                    f"The statement of {period} is closed and never changes; what comes later goes"
                    " into the next one."
                )
            fit(span, scope, [reading.standing(each) for each in others])
            draft = Statement(
                id=self._new_id() if old is None else old.id,
                scope=scope,
                period=period,
                timezone=span.timezone,
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                state="open",
                cursor=0,
                summary=_NOTHING,
                digest="",
                created_ns=now_ns,
                created_by=doing.actor,
                closed_ns=None,
                closed_by=None,
            )
            made, lines = await self._compose(doing, draft, others)
            await _write(doing, made, lines)
            details = {"period": period, "timezone": span.timezone, "scope": scope}
            await doing.record("create", _KIND, made.id, details)
        return made

    async def close(self, period: str, *, organization: str | None = None, actor: str) -> Statement:
        """Make it anew, for the last time. Raises `NotClosed` with everything that stands
        against it."""
        before = await self.get(period, organization=organization)
        found = []
        if self._journal is not None:
            # Before the transaction, so that what is moved meanwhile is seen by one of the two.
            found = await asyncio.to_thread(backlog, self._journal, before.start_ns, before.end_ns)
        async with change(self.store, actor, self._clock(), self._changed) as doing:
            now_ns = int(doing.now * 1e9)
            others = await reading.all_of_them(doing.connection)
            old = next((each for each in others if each.id == before.id), before)
            if old.closed:
                raise StatementError(f"The statement of {period} is closed already.")
            booked = await queries.booked(
                doing.connection, [call for each in found for call in each.calls]
            )
            made, lines, books, composer = await self._composed(doing, old, others)
            reasons = [
                *closing.too_early(old, now_ns, self._config.grace),
                *closing.still_open(old, others),
                *closing.on_the_way(found, booked),
                *closing.without_price(old, books, composer.sheets, self._why),
                *closing.does_not_add_up(made.summary.checks),
            ]
            if reasons:
                raise closing.NotClosed(period, reasons)
            stored = [encode_line(line) for line in lines]
            made = msgspec.structs.replace(
                made,
                state="closed",
                digest=reading.digest(made.summary, stored),
                closed_ns=now_ns,
                closed_by=doing.actor,
            )
            await _write(doing, made, lines)
            details = {"period": period, "digest": made.digest}
            await doing.record("close", _KIND, made.id, details)
        return made

    async def find_all(self, *, organization: str | None = None) -> list[Statement]:
        """Every statement, by scope and time; of one organisation, if given."""
        async with self.store.connect() as connection:
            scope = await organization_id(connection, organization)
            found = await reading.all_of_them(connection)
        return [each for each in found if scope is None or each.scope == scope]

    async def get(self, period: str, *, organization: str | None = None) -> Statement:
        """One, by its month or id."""
        async with self.store.connect() as connection:
            scope = await organization_id(connection, organization) or ""
            for each in await reading.all_of_them(connection):
                if each.id == period or (each.period, each.scope) == (period, scope):
                    return each
        raise StatementError(
            f"There is no statement of {period[:40]}; `statement create {period[:40]}` makes one."
        )

    async def lines(self, statement: Statement) -> list[Line]:
        """Its lines, in their order: line N is the one at N - 1."""
        async with self.store.connect() as connection:
            return await reading.read_lines(connection, statement)

    async def reconcile(
        self,
        statement: Statement,
        invoice: bytes,
        how: Reading,
        *,
        names: Mapping[str, str],
        patterns: Sequence[str] = (),
        tolerance: Tolerance = Tolerance(),  # noqa: B008 -- a constant
    ) -> tuple[list[Comparison], int]:
        """A provider's invoice (CSV) for the period of a statement against what the books say now
        that it costs; and how many lines of it are about another time. `names`: how the provider
        calls what a deployment serves; `patterns`: which deployments it is about."""
        async with self.store.connect() as connection:
            books = await reading.own_books(connection, statement)
            composer = await reading.composer_for(connection, (books,), statement.summary.decimals)
        booked = booked_items(books.groups, composer.sheets, names, patterns)
        known = {*names.values(), *(model for model, _ in booked)}
        first, last = days(statement.span)
        found = read_invoice(invoice, how, known, first, last, statement.summary.currency)
        return compare(booked, found.items, tolerance), found.outside

    async def _compose(
        self, doing: Change, draft: Statement, others: Sequence[Statement]
    ) -> tuple[Statement, list[Line]]:
        made, lines, _, _ = await self._composed(doing, draft, others)
        return made, lines

    async def _composed(
        self, doing: Change, draft: Statement, others: Sequence[Statement]
    ) -> tuple[Statement, list[Line], list[Books], Composer]:
        connection = doing.connection
        cursor = await newest(connection)
        own = await reading.own_books(connection, draft)
        earlier = await reading.earlier_books(connection, draft, others)
        composer = await reading.composer_for(connection, (own, *earlier), self._config.decimals)
        lines = composer.lines(own, "usage")
        checks = [composer.check(own, lines)]
        for books in earlier:
            adjustments = composer.lines(books, "adjustment")
            checks.append(composer.check(books, adjustments))
            lines += adjustments
        pools = []
        for use in await reading.pool_uses(connection, draft, self._config):
            share, shares = pool_lines(use, draft.span, draft.id, composer)
            pools.append(share)
            lines += shares
        summary = Summary(
            currency=reading.one_currency(draft, composer, self._currency, pools),
            decimals=self._config.decimals,
            cost=sum(line.cost for line in lines),
            charge=sum(line.charge for line in lines),
            calls=sum(group.sums["calls"] for group in own.groups),
            checks=tuple(checks),
            pools=tuple(pools),
        )
        made = msgspec.structs.replace(
            draft, cursor=cursor, summary=summary, created_ns=int(doing.now * 1e9)
        )
        return made, lines, [own, *earlier], composer

    def _new_id(self) -> str:
        return f"st_{keys.base62(int.from_bytes(self._randomness(16), 'big'), 22)}"


async def _write(doing: Change, statement: Statement, lines: Sequence[Line]) -> None:
    values = msgspec.structs.asdict(statement)
    values["summary"] = msgspec.json.encode(statement.summary, order="sorted").decode()
    await queries.put(doing.connection, values)
    await queries.replace_lines(
        doing.connection, statement.id, [(line.about, encode_line(line)) for line in lines]
    )


_NOTHING = Summary(currency="", decimals=0, cost=0, charge=0, calls=0, checks=())
