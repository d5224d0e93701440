from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting import segments
from llmgw_core.accounting.directory import KEPT_NAME
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.accounting.setting_aside import REFUSED_NAME, SettingAside
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import DeliveryRecord, UsageRecord
from llmgw_core.testing.usage_records import append_calls, stored_ids, usage_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.ledger import Ledger

BAD = {"call-3", "call-7"}


class Picky:
    """A ledger that does not take some calls."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.down = False

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        if self.down:
            raise StoreUnavailable("down")
        if BAD & {record.call_id for record in records}:
            raise RecordsRefused("not these")
        return await self._ledger.insert(records, deliveries)


def put_aside(root: Path) -> list[str]:
    path = root / KEPT_NAME / REFUSED_NAME
    found = [record for record, _ in segments.read(path)] if path.exists() else []
    return [record.call_id for record in found]


async def test_a_record_that_is_refused_keeps_no_other_off_the_books(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(10))
    journal.append_delivery(DeliveryRecord("call-9", "client_left", 99))
    mover = Mover(root, journal, Picky(ledger))
    assert await mover.move_once() == 11
    assert sorted(await stored_ids(ledger)) == [f"call-{n}" for n in (0, 1, 2, 4, 5, 6, 8, 9)]
    last = await ledger.get("call-9")
    assert last is not None
    assert last.status == "client_left"
    assert sorted(put_aside(root)) == sorted(BAD)
    assert mover.refused == 2
    assert "refused 2 records" in mover.notices()[0]
    assert await mover.move_once() == 0
    assert mover.refused == 2


async def test_a_store_that_is_down_puts_nothing_aside(root: Path, ledger: Ledger) -> None:
    picky = Picky(ledger)
    picky.down = True
    careful = SettingAside(picky, root)
    with pytest.raises(StoreUnavailable):
        await careful.insert([usage_record(3)], [])
    assert put_aside(root) == []


async def test_what_cannot_be_put_aside_stays_in_the_journal(root: Path, ledger: Ledger) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / KEPT_NAME).write_text("in the way")
    careful = SettingAside(Picky(ledger), root)
    with pytest.raises(OSError, match="exists"):
        await careful.insert([usage_record(3)], [])
    assert careful.refused == 0


async def test_a_record_that_breaks_a_rule_of_the_database_is_put_aside(
    root: Path, ledger: Ledger
) -> None:
    careful = SettingAside(ledger, root)
    records = [usage_record(1), usage_record(2, organization_id=None), usage_record(3)]
    assert await careful.insert(records, []) == 2
    assert careful.refused == 1
