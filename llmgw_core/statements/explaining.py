"""A line down to its calls: which rows of the ledger it is made of, and what each adds to it.

Rows come page by page, so that a line of millions of calls needs no memory.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.accounting.price_sheet import MILLION
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.lines import OTHER, Exact, exact_lines, unexplained
from llmgw_core.statements.reading import all_of_them
from llmgw_core.store import statement_queries as queries
from llmgw_core.store.price_sheets import read_sheets
from llmgw_core.store.statement_sums import sums_of, whole_since

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Statement
    from llmgw_core.store.engine import Store
    from llmgw_core.store.statement_sums import PeriodSums


class CallShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one row of the ledger adds to a line. Amounts are exact: millionths of a nano-unit."""

    call_id: str
    corrects: str | None
    entry: str
    started_ns: int
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    deployment: str
    status: str
    usage_source: str
    quantity: int
    cost: int
    charge: int


async def explained(
    store: Store, statement: Statement, line: Line
) -> AsyncGenerator[list[CallShare], None]:
    """The calls behind a line of a statement, page by page. Raises `StatementError` for a line that
    is not made of calls, and when retention has deleted their rows."""
    if line.kind in {"pool", "idle"}:
        raise StatementError(
            f"The line is a part of what {line.model} costs by the month, and not made of calls;"
            " the other lines of its cost centre show what was used."
        )
    async with store.connect() as connection:
        others = await all_of_them(connection)
        about = next(each for each in others if each.id == line.about)
        before = [
            each.cursor
            for each in others
            if each.scope == statement.scope and each.closed and each.cursor < statement.cursor
        ]
        sheets = await read_sheets(connection, [line.price] if line.price else [])
        if await whole_since(connection, "ledger") > about.start_ns:
            raise StatementError(
                f"Retention has deleted calls of {line.period}; only the sums are left."
            )
        first = max(before, default=0) if line.kind == "adjustment" else 0
        pages = queries.rows_of(
            connection,
            (about.start_ns, about.end_ns),
            (first, statement.cursor),
            line.cost_center,
            statement.scope,
        )
        async with aclosing(pages) as rows:
            async for page in rows:
                shares = [share for record in page for share in shares_of(record, line, sheets)]
                if shares:
                    yield shares


def shares_of(record: UsageRecord, line: Line, sheets: Mapping[str, PriceSheet]) -> list[CallShare]:
    """What a row adds to a line: nothing, or one share; another one if a failed attempt of it is
    paid at the same price."""
    groups = [
        group
        for group in sums_of([record])
        if (group.cost_center, group.model, group.price)
        == (line.cost_center, line.model, line.price)
    ]
    found = _share(groups, line, sheets)
    if not (found.quantity or found.cost or found.charge):
        return []
    return [
        CallShare(
            call_id=record.call_id,
            corrects=record.corrects,
            entry=record.entry,
            started_ns=record.started_ns,
            organization_id=record.organization_id,
            team_id=record.team_id,
            user_id=record.user_id,
            key_id=record.key_id,
            deployment=groups[0].deployment,
            status=record.status,
            usage_source=record.usage.source,
            quantity=found.quantity,
            cost=found.cost,
            charge=found.charge,
        )
    ]


def _share(groups: Sequence[PeriodSums], line: Line, sheets: Mapping[str, PriceSheet]) -> Exact:
    sheet = sheets.get(line.price)
    if line.token_class != OTHER or sheet is None:
        return exact_lines(groups, sheets).get(line.key) or Exact()
    # In one row it may be no more than its rounding, and that is a part of the line as well.
    rests = [unexplained(sheet, group.sums) for group in groups]
    return Exact(cost=sum(each.cost for each in rests), charge=sum(each.charge for each in rests))


def exact(numerator: int) -> str:
    """Millionths of a nano-unit as a decimal number of the currency, without rounding."""
    whole, rest = divmod(abs(numerator), MILLION * 10**9)
    text = f"{whole}.{rest:015d}".rstrip("0")
    sign = "-" if numerator < 0 else ""
    return f"{sign}{text}0" if text.endswith(".") else f"{sign}{text}"


def together(shares: Sequence[CallShare]) -> tuple[int, int, int]:
    """Quantity, cost and charge of some calls."""
    return (
        sum(share.quantity for share in shares),
        sum(share.cost for share in shares),
        sum(share.charge for share in shares),
    )
