from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting.mover import MAX_PAUSE, Mover, pause
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import DeliveryRecord, UsageRecord
from llmgw_core.testing.usage_records import append_calls, call_ids, stored_ids, usage_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.engine import Store
    from llmgw_core.store.ledger import Ledger


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until `condition` holds; the caller bounds the time."""
    while not condition():  # noqa: ASYNC110 - the mover sets no event for a test
        await asyncio.sleep(0)


class Bystander:
    """A ledger in front of the real one: counts, and does `then` after each insertion."""

    def __init__(self, ledger: Ledger, then: Callable[[], None] = lambda: None) -> None:
        self._ledger = ledger
        self._then = then
        self.records = 0

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        self.records += len(records)
        new = await self._ledger.insert(records, deliveries)
        self._then()
        return new


async def test_everything_that_was_appended_is_moved_once(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    mover = Mover(root, journal, ledger, batch=7)
    append_calls(journal, range(50))
    assert mover.backlog > 0
    assert await mover.move_once() == 50
    assert mover.backlog == 0
    assert await mover.move_once() == 0
    append_calls(journal, range(50, 60))
    assert await mover.move_once() == 10
    assert await stored_ids(ledger) == call_ids(range(60))
    assert mover.moved == 60


async def test_moved_segments_are_deleted_and_the_open_one_stays(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(50))
    assert len(journal.directory.segments()) > 1
    await Mover(root, journal, ledger).move_once()
    assert journal.directory.segments() == [journal.extents()[0].path]


async def test_the_next_segment_is_allocated_by_the_mover(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(10))
    await Mover(root, journal, ledger).move_once()
    assert (journal.directory.path / "spare").exists()


async def test_a_delivery_updates_the_row_of_its_call_early_or_late(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(2))
    journal.append_delivery(DeliveryRecord("call-0", "client_left", 77))
    await mover.move_once()
    journal.append_delivery(DeliveryRecord("call-1", "client_left", 88))
    await mover.move_once()
    for number, duration in ((0, 77), (1, 88)):
        record = await ledger.get(f"call-{number}")
        assert record is not None
        assert (record.status, record.duration_us) == ("client_left", duration)
        assert record.charge == usage_record().charge


async def test_a_crash_between_insertion_and_checkpoint_doubles_nothing(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    journal = open_journal()
    append_calls(journal, range(30))
    journal.append_delivery(DeliveryRecord("call-3", "client_left", 1))
    journal.close()
    with pytest.raises(Crash):
        await Mover(root, None, Bystander(ledger, crash), batch=10).move_once()
    assert await ledger.count() == 10
    assert await Mover(root, None, ledger, batch=10).move_once() == 31
    assert await stored_ids(ledger) == call_ids(range(30))
    (total,) = await ledger.usage([])
    assert total.calls == 30


async def test_a_restart_reads_again_only_what_the_checkpoint_does_not_cover(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal(segment_bytes=100_000)
    append_calls(journal, range(40))
    await Mover(root, journal, ledger).move_once()
    append_calls(journal, range(40, 45))
    journal.close()
    bystander = Bystander(ledger)
    await Mover(root, None, bystander).move_once()
    assert bystander.records == 5
    assert await ledger.count() == 45


async def test_without_its_checkpoint_an_orphan_is_replayed_with_the_same_result(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(20))
    await Mover(root, journal, ledger).move_once()
    append_calls(journal, range(20, 25))
    journal.close()
    (journal.directory.path / "checkpoint").unlink()
    await Mover(root, None, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(25))


async def test_an_orphan_is_adopted_and_removed_and_a_living_journal_is_left_alone(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    orphan, living, own = open_journal(), open_journal(), open_journal()
    append_calls(orphan, range(20))
    append_calls(living, range(20, 40))
    orphan.close()
    await Mover(root, own, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(20))
    assert directories.others(root, None) == [living.directory.path, own.directory.path]
    living.close()
    await Mover(root, own, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(40))


async def test_without_any_journal_there_is_nothing_to_move(root: Path, ledger: Ledger) -> None:
    mover = Mover(root, None, ledger)
    assert await mover.move_once() == 0
    assert mover.backlog == 0


async def test_an_orphan_that_vanishes_before_it_is_locked_is_no_loss(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.close()
    path = journal.directory.path
    shutil.rmtree(path)
    assert directories.adopt(path) is None
    path.write_text("a file")
    assert directories.adopt(path) is None


async def test_two_movers_at_once_adopt_every_orphan_exactly_once(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    for start in range(0, 100, 10):
        journal = open_journal()
        append_calls(journal, range(start, start + 10))
        journal.close()
    one, two = Bystander(ledger), Bystander(ledger)
    movers = [Mover(root, None, bystander, batch=3) for bystander in (one, two)]
    await asyncio.gather(*(mover.move_once() for mover in movers))
    assert one.records + two.records == 100
    assert sorted(await stored_ids(ledger)) == sorted(call_ids(range(100)))
    assert directories.others(root, None) == []


async def test_a_closed_journal_that_was_moved_leaves_no_directory(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(3))
    await mover.aclose()
    await mover.aclose()
    journal.close()
    assert list(root.iterdir()) == []
    assert await ledger.count() == 3


async def test_a_closed_journal_with_a_record_after_the_last_move_stays(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(3))
    await mover.aclose()
    append_calls(journal, range(3, 4))
    journal.close()
    await Mover(root, None, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(4))


async def test_while_the_store_is_down_nothing_is_lost_and_the_mover_keeps_trying(
    root: Path,
    open_journal: Callable[..., Journal],
    store: Store,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    await store.aclose()
    mover = Mover(root, journal, ledger, interval=0.001)
    append_calls(journal, range(30))
    with pytest.raises(StoreUnavailable):
        await mover.move_once()
    mover.start()
    async with asyncio.timeout(20):
        await until(lambda: mover.failures >= 3)
        await store.open()
        await until(lambda: not mover.backlog)
        await until(lambda: mover.running)
        await mover.aclose()
        await until(lambda: not mover.running)
    assert await stored_ids(ledger) == call_ids(range(30))
    assert caplog.text.count("waits for the store") == 1


async def test_closing_while_the_store_is_down_leaves_the_records_for_the_next_start(
    root: Path,
    open_journal: Callable[..., Journal],
    store: Store,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(5))
    await store.aclose()
    await Mover(root, journal, ledger).aclose()
    journal.close()
    assert "stay in the journal" in caplog.text
    await store.open()
    await Mover(root, None, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(5))


def test_pauses_double_and_stay_bounded() -> None:
    assert [pause(1.0, failures) for failures in range(4)] == [1.0, 2.0, 4.0, 8.0]
    assert pause(1.0, 1_000) == MAX_PAUSE
    assert pause(60.0, 5) == 60.0


async def test_the_mover_outlives_a_bug_and_says_so(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter(range(3))

    def bug() -> None:
        if next(times, None) is not None:
            raise ZeroDivisionError

    journal = open_journal()
    append_calls(journal, range(1))
    mover = Mover(root, journal, Bystander(ledger, bug), interval=0.001)
    mover.start()
    async with asyncio.timeout(20):
        await until(lambda: mover.bugs == 3 and mover.failures == 0)
    assert mover.running
    assert "failed unexpectedly" in caplog.text
    assert await stored_ids(ledger) == call_ids(range(1))
    await mover.aclose()


async def test_records_that_the_journal_cannot_take_go_straight_to_the_ledger(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(3))
    shutil.rmtree(root)
    root.write_text("in the way")
    append_calls(journal, range(3, 5))
    assert await mover.move_once() == 5
    assert journal.failure
    append_calls(journal, range(5, 7))
    assert mover.backlog > 0
    assert await mover.move_once() == 2
    root.unlink()
    await mover.move_once()
    append_calls(journal, range(7, 8))
    await mover.move_once()
    assert journal.healthy
    assert await stored_ids(ledger) == call_ids(range(8))
