"""Statements as the database has them, and what the database says that a new one is made of."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.statements.composing import Books, Composer, Named, decode_line
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.periods import Standing
from llmgw_core.statements.pools import PoolUse, pool_span
from llmgw_core.statements.records import Statement, Summary
from llmgw_core.store import statement_queries as queries
from llmgw_core.store.cost_queries import all_centers
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.store.statement_sums import (
    complete,
    period_sums,
    sums_behind,
    touched_since,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.config.schema_statements import StatementsConfig
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import PoolShare

_decode_summary = msgspec.json.Decoder(Summary).decode


def statement_of(row: dict[str, Any]) -> Statement:
    """The statement of a row."""
    return Statement(**{**row, "summary": _decode_summary(row["summary"])})


async def all_of_them(connection: AsyncConnection) -> list[Statement]:
    """Every statement, by scope and time."""
    return [statement_of(row) for row in await queries.all_statements(connection)]


async def read_lines(connection: AsyncConnection, statement: Statement) -> list[Line]:
    """The lines of a statement. Raises `StatementError` when those of a closed one are not what
    they were."""
    stored = await queries.lines(connection, statement.id)
    if statement.closed and digest(statement.summary, stored) != statement.digest:
        raise StatementError(
            f"The statement of {statement.period} is not what was closed: somebody has changed"
            " it in the database. Restore it from a backup."
        )
    return [decode_line(line) for line in stored]


def digest(summary: Summary, lines: Iterable[str]) -> str:
    """What a closed statement is recognised by."""
    content = msgspec.json.encode(summary, order="sorted") + b"\n" + "\n".join(lines).encode()
    return hashlib.sha256(content).hexdigest()


def standing(statement: Statement) -> Standing:
    """As far as others have to fit to it."""
    return Standing(statement.scope, statement.span, statement.state)


async def own_books(connection: AsyncConnection, statement: Statement) -> Books:
    """What the books say about its period. Raises `StatementError` when retention has deleted
    some of it."""
    if not await complete(connection, statement.start_ns, statement.end_ns):
        raise StatementError(
            f"Retention has deleted what the books had about {statement.period}; it cannot be"
            " billed any more."
        )
    groups = await period_sums(connection, statement.start_ns, statement.end_ns, statement.scope)
    return Books(statement.id, statement.period, groups)


async def earlier_books(
    connection: AsyncConnection, statement: Statement, others: Sequence[Statement]
) -> list[Books]:
    """What the books say about closed periods that something has come into since the last
    statement was closed."""
    closed = [each for each in others if each.scope == statement.scope and each.closed]
    closed = [each for each in closed if each.id != statement.id]
    known = max((each.cursor for each in closed), default=0)
    found = []
    for each in closed:
        if not await touched_since(connection, each.start_ns, each.end_ns, known):
            continue
        if await complete(connection, each.start_ns, each.end_ns):
            billed = [decode_line(line) for line in await queries.lines_about(connection, each.id)]
            books = await own_books(connection, each)
            found.append(books._replace(billed=billed))
        else:
            # What was is deleted; what came later is there as rows.
            span = (each.start_ns, each.end_ns)
            groups = await sums_behind(connection, span, known, each.scope)
            found.append(Books(each.id, each.period, groups))
    return found


async def pool_uses(
    connection: AsyncConnection, statement: Statement, config: StatementsConfig
) -> list[PoolUse]:
    """What the pools of the period have served, while they were paid. A statement of one
    organisation has none: they are everybody's."""
    found = []
    for name, pool in sorted(config.pools.items() if not statement.scope else ()):
        since, until = pool_span(pool, statement.span)
        if since < until:
            groups = await period_sums(connection, since, until)
            found.append(PoolUse(name, pool, since, until, groups))
    return found


def one_currency(
    statement: Statement, composer: Composer, configured: str, pools: Sequence[PoolShare]
) -> str:
    """The currency of everything that is billed: what the books were kept in, and of `pools` what
    is configured now. Raises `StatementError` where there are several, which do not add up."""
    currencies = {sheet.currency for sheet in composer.sheets.values()}
    found = sorted(currencies | {configured}) if pools or not currencies else sorted(currencies)
    if len(found) > 1:
        raise StatementError(
            f"What belongs on the statement of {statement.period} is in {' and in '.join(found)},"
            " because `accounting.currency` was changed: amounts of several currencies cannot be"
            " added up, and nothing is billed. `llmgw-server reprice --from-currency` books the"
            " calls of the other one anew."
        )
    return found[0]


async def composer_for(
    connection: AsyncConnection, books: Iterable[Books], decimals: int
) -> Composer:
    """With the price sheets of `books` and the names of today."""
    prices = {group.price for each in books for group in each.groups if group.price}
    centers = {
        row["id"]: Named(row["code"], row["name"], row["owner"])
        for row in await all_centers(connection)
    }
    return Composer(decimals, await read_sheets(connection, sorted(prices)), centers)
