from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.price_sheet import CLASSES, ClassRates, PriceSheet
from llmgw_core.accounting.sheet_shelf import FILE, PricedLedger, SheetShelf
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord


def sheet(rate: int) -> PriceSheet:
    side = ClassRates(**{each.name: rate for each in CLASSES})
    return PriceSheet(currency="USD", cost=side, charge=side)


class Books:
    """A store and a ledger that can be down, and the order of what was put there."""

    def __init__(self) -> None:
        self.down = False
        self.done: list[object] = []

    async def put(self, sheets: Sequence[PriceSheet]) -> None:
        if self.down:
            raise StoreUnavailable("down")
        self.done += [each.id for each in sheets]

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        self.done += [record.call_id for record in records]
        return len(records)


async def test_a_sheet_is_stored_once_and_before_the_rows_that_name_it(tmp_path: Path) -> None:
    books = Books()
    shelf = SheetShelf(tmp_path, books.put)
    ledger = PricedLedger(books, shelf)
    shelf.add(sheet(1))
    shelf.add(sheet(1))
    assert await ledger.insert([usage_record(1)], []) == 1
    shelf.add(sheet(1))
    assert await ledger.insert([usage_record(2)], []) == 1
    assert books.done == [sheet(1).id, "call-1", "call-2"]
    assert not (tmp_path / FILE).exists()


async def test_a_line_that_was_torn_does_not_take_the_next_one_along(tmp_path: Path) -> None:
    books = Books()
    (tmp_path / FILE).write_bytes(sheet(1).json()[:50])
    SheetShelf(tmp_path, books.put).add(sheet(2))
    assert list(SheetShelf(tmp_path, books.put).pending) == [sheet(2).id]


async def test_a_store_that_is_down_loses_no_sheet(tmp_path: Path) -> None:
    books = Books()
    shelf = SheetShelf(tmp_path, books.put)
    ledger = PricedLedger(books, shelf)
    shelf.add(sheet(1))
    books.down = True
    with pytest.raises(StoreUnavailable):
        await ledger.insert([usage_record(1)], [])
    shelf.add(sheet(2))
    assert books.done == []
    books.down = False
    await ledger.insert([usage_record(1)], [])
    assert books.done == [sheet(1).id, sheet(2).id, "call-1"]


async def test_a_sheet_that_comes_while_others_are_stored_waits_for_its_turn(
    tmp_path: Path,
) -> None:
    books = Books()

    async def put(sheets: Sequence[PriceSheet]) -> None:
        if not books.done:
            shelf.add(sheet(2))
        await books.put(sheets)

    shelf = SheetShelf(tmp_path, put)
    shelf.add(sheet(1))
    await shelf.store()
    assert list(shelf.pending) == [sheet(2).id]
    assert list(SheetShelf(tmp_path, put).pending) == [sheet(1).id, sheet(2).id]
    await shelf.store()
    assert books.done == [sheet(1).id, sheet(2).id]
    assert not shelf.pending
    assert not SheetShelf(tmp_path, put).pending


async def test_what_a_killed_process_has_kept_is_stored_by_the_next_one(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from llmgw_core.accounting.price_sheet import read_sheet
from llmgw_core.accounting.sheet_shelf import SheetShelf
SheetShelf(Path({str(tmp_path)!r}), None).add(read_sheet({sheet(1).json()!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    books = Books()
    with (tmp_path / FILE).open("ab") as file:
        file.write(sheet(2).json()[:-5])  # torn
    shelf = SheetShelf(tmp_path, books.put)
    await shelf.store()
    assert books.done == [sheet(1).id]


async def test_a_place_that_cannot_be_written_keeps_them_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    books = Books()
    shelf = SheetShelf(tmp_path, books.put)
    shelf.add(sheet(1))
    assert "cannot be written" in caplog.text
    await shelf.store()
    assert books.done == [sheet(1).id]
