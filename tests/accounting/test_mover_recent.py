"""What the journal still knows is moved from memory, and nothing depends on that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting import segments
from llmgw_core.accounting.mover import Mover
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import DeliveryRecord
from llmgw_core.testing.usage_records import append_calls, call_ids, stored_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.ledger import Ledger

LARGE = 1024 * 1024
"""Bytes of a segment that takes everything here."""


class Failing:
    """A ledger that takes so many batches, and then none until it is mended."""

    def __init__(self, ledger: Ledger, batches: int) -> None:
        self._ledger = ledger
        self.batches = batches

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        if not self.batches:
            raise StoreUnavailable("down")
        self.batches -= 1
        return await self._ledger.insert(records, deliveries)


async def test_recent_records_are_not_read_back(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = open_journal(segment_bytes=LARGE)
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(5))
    with monkeypatch.context() as patch:
        patch.delattr(segments, "read_batch")
        assert await mover.move_once() == 5
        append_calls(journal, range(5, 8))
        assert await mover.move_once() == 3
    assert await stored_ids(ledger) == call_ids(range(8))
    assert mover.backlog == 0


async def test_a_batch_that_the_store_did_not_take_is_read_the_next_time(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal(segment_bytes=LARGE)
    failing = Failing(ledger, batches=1)
    mover = Mover(root, journal, failing, batch=3)
    append_calls(journal, range(8))
    with pytest.raises(StoreUnavailable):
        await mover.move_once()
    assert await stored_ids(ledger) == call_ids(range(3))
    assert mover.backlog > 0
    append_calls(journal, range(8, 10))
    failing.batches = 100
    await mover.move_once()
    assert await stored_ids(ledger) == call_ids(range(10))
    assert mover.backlog == 0


async def test_a_fact_of_delivery_among_recent_records_is_moved_with_them(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal(segment_bytes=LARGE)
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(2))
    journal.append_delivery(DeliveryRecord("call-0", "client_left", 77))
    append_calls(journal, range(2, 4))
    assert await mover.move_once() == 5
    assert await stored_ids(ledger) == call_ids(range(4))
    record = await ledger.get("call-0")
    assert record is not None
    assert (record.status, record.duration_us) == ("client_left", 77)


def test_a_journal_remembers_no_more_than_its_open_segment(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal(segment_bytes=LARGE)
    append_calls(journal, range(3))
    end = journal.extents()[-1].end
    recent = journal.take_recent()
    assert recent.start == 0
    assert [record.call_id for record in recent.records] == call_ids(range(3))
    assert journal.take_recent() == (end, [])
    small = open_journal()
    append_calls(small, range(20))
    assert 0 < len(small.take_recent().records) < 20
