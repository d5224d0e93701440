from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from llmgw_core.accounting.price_sheet import CLASSES, ClassRates, PriceSheet
from llmgw_core.store.ledger_tables import price_sheets
from llmgw_core.store.price_sheets import put_sheets, read_sheets

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store


def sheet(rate: int) -> PriceSheet:
    side = ClassRates(**{each.name: rate for each in CLASSES})
    return PriceSheet(currency="USD", cost=side, charge=side)


async def test_a_sheet_is_stored_once_and_comes_back_by_its_id(store: Store) -> None:
    one, other = sheet(1), sheet(2)
    async with store.begin() as connection:
        await put_sheets(connection, [one, one], 100)
    async with store.begin() as connection:
        await put_sheets(connection, [other, one], 200)
        rows = await connection.execute(select(price_sheets.c.id, price_sheets.c.first_used_ns))
        assert {row.id: row.first_used_ns for row in rows} == {one.id: 100, other.id: 200}
        found = await read_sheets(connection, [one.id, "unknown", one.id])
    assert found == {one.id: one}


async def test_many_ids_are_asked_for_at_once(store: Store) -> None:
    many = [sheet(rate) for rate in range(1_200)]
    async with store.begin() as connection:
        await put_sheets(connection, many, 1)
        assert len(await read_sheets(connection, [each.id for each in many])) == 1_200
