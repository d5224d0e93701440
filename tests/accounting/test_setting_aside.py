from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.directory import KEPT_NAME
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.accounting.refused import RefusedFile, retry
from llmgw_core.accounting.setting_aside import SettingAside
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
    return [record.call_id for record in RefusedFile(root).read().records]


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
    assert await mover.move_once() == 0
    assert mover.refused == 2
    # It stays to be seen to after a restart.
    assert ["refused records" in notice for notice in Mover(root, None, ledger).notices()] == [True]


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


async def test_what_the_ledger_takes_at_another_try_is_taken_out(
    root: Path, ledger: Ledger
) -> None:
    careful = SettingAside(Picky(ledger), root)
    assert await careful.insert([usage_record(n) for n in (3, 4, 7)], []) == 1
    assert await careful.insert([usage_record(3)], []) == 0  # as a crash repeats it
    assert put_aside(root) == ["call-3", "call-7"]
    assert await retry(careful.file, Picky(ledger)) == (0, dict.fromkeys(sorted(BAD), "not these"))
    BAD.remove("call-3")
    try:
        assert await retry(careful.file, Picky(ledger)) == (1, {"call-7": "not these"})
    finally:
        BAD.add("call-3")
    assert put_aside(root) == ["call-7"]
    assert sorted(await stored_ids(ledger)) == ["call-3", "call-4"]
    assert careful.file.path.stat().st_mode & 0o777 == 0o600


async def test_a_file_with_a_place_that_cannot_be_read_stays_as_it_is(
    root: Path, ledger: Ledger
) -> None:
    file = RefusedFile(root)
    for number in range(3):
        file.add(usage_record(number))
    data = bytearray(file.path.read_bytes())
    data[len(data) // 2] ^= 1
    file.path.write_bytes(data)
    assert await retry(file, ledger) == (2, {})
    assert file.path.read_bytes() == data
    assert len(file.read().damage) == 1


async def test_what_a_full_disk_takes_only_a_part_of_is_not_put_aside(
    root: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    careful = SettingAside(Picky(ledger), root)
    await careful.insert([usage_record(3)], [])
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:9]))
    with pytest.raises(OSError, match="part"):
        await careful.insert([usage_record(7)], [])
    monkeypatch.undo()
    await careful.insert([usage_record(7)], [])
    content = careful.file.read()
    assert [record.call_id for record in content.records] == sorted(BAD)
    assert content.damage == []
