"""The statements on the table of price sheets. Their ids are derived from their content, so that a
sheet is never changed and storing it again does nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import insert, select

from llmgw_core.accounting.price_sheet import read_sheet
from llmgw_core.store.ledger_tables import price_sheets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.store.engine import Store

_QUESTION = 500
"""Ids per question: far below every database's limit on parameters."""


async def put_sheets(
    connection: AsyncConnection, sheets: Iterable[PriceSheet], first_used_ns: int
) -> None:
    """Store those of `sheets` that are not there yet."""
    wanted = {sheet.id: sheet for sheet in sheets}
    known = await read_sheets(connection, wanted)
    rows = [
        {"id": id, "sheet": sheet.json().decode(), "first_used_ns": first_used_ns}
        for id, sheet in wanted.items()
        if id not in known
    ]
    if rows:
        await connection.execute(insert(price_sheets), rows)


async def store_sheets(store: Store, sheets: Iterable[PriceSheet]) -> None:
    """As `put_sheets`, used since now, in a transaction. Raises `StoreUnavailable`."""
    async with store.begin() as connection:
        await put_sheets(connection, sheets, time.time_ns())


async def read_sheets(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, PriceSheet]:
    """The sheets with these ids, by id, as far as they are stored."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, PriceSheet] = {}
    for start in range(0, len(wanted), _QUESTION):
        some = price_sheets.c.id.in_(wanted[start : start + _QUESTION])
        rows = await connection.execute(select(price_sheets.c.id, price_sheets.c.sheet).where(some))
        found.update({row.id: read_sheet(row.sheet) for row in rows})
    return found


async def has_other_currency(connection: AsyncConnection, currency: str) -> bool:
    """Whether some sheet is in another currency than this one."""
    written = f'"currency":{msgspec.json.encode(currency).decode()}'
    other = ~price_sheets.c.sheet.contains(written, autoescape=True)
    found = await connection.execute(select(price_sheets.c.id).where(other).limit(1))
    return found.first() is not None
