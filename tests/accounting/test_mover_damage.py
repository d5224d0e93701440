from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.mover import Mover
from llmgw_core.testing.usage_records import append_calls, call_ids, stored_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.ledger import Ledger


async def test_a_closed_segment_that_was_deleted_is_reported(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(20))
    journal.extents()[0].path.unlink()
    mover = Mover(root, journal, ledger)
    await mover.move_once()
    assert "bytes not moved" in caplog.text
    moved = await stored_ids(ledger)
    assert moved
    assert moved == call_ids(range(20 - len(moved), 20))
    assert mover.backlog == 0


async def test_damage_is_counted_reported_and_the_segment_kept(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(20))
    first = journal.extents()[0].path
    data = bytearray(first.read_bytes())
    data[50] ^= 0xFF
    first.write_bytes(data)
    mover = Mover(root, journal, ledger)
    await mover.move_once()
    assert await stored_ids(ledger) == call_ids(range(1, 20))
    assert mover.damage == {"corrupt": 1}
    (kept,) = (root / "damaged").iterdir()
    assert kept.read_bytes() == data
    assert str(kept) in caplog.text
    await mover.move_once()
    assert kept.exists()


async def test_damage_in_the_open_segment_outlives_the_process(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(3))
    journal.take_recent()  # now they have to be read
    with journal.extents()[0].path.open("r+b") as file:
        file.seek(50)
        file.write(b"\xff\xff")
    await Mover(root, journal, ledger).aclose()
    journal.close()
    await Mover(root, None, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(1, 3))
    (kept,) = (root / "damaged").iterdir()
    assert kept.stat().st_size == 3072


async def test_a_torn_end_is_reported_and_forgotten(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(2))
    path, end, _ = journal.extents()[0]
    journal.close()
    with path.open("r+b") as file:
        file.seek(end - 20)
        file.write(bytes(20))
    mover = Mover(root, None, ledger)
    await mover.move_once()
    assert await stored_ids(ledger) == call_ids(range(1))
    assert mover.damage == {"torn": 1}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert list(root.iterdir()) == []


async def test_a_journal_that_cannot_be_read_stops_no_other(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(20))
    blocked = journal.extents()[0].path
    blocked.rename(root / "aside")
    blocked.mkdir()
    mover = Mover(root, journal, ledger)
    await mover.move_once()
    assert "cannot be read" in caplog.text
    assert 0 < await ledger.count() < 20
    blocked.rmdir()
    (root / "aside").rename(blocked)
    await mover.move_once()
    assert sorted(await stored_ids(ledger)) == sorted(call_ids(range(20)))


@pytest.mark.parametrize("blocked", ["00000000.segment", "lock"])
async def test_an_orphan_that_cannot_be_adopted_is_told_of_once_and_keeps_no_other_back(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
    blocked: str,
) -> None:
    """What lies there and is no journal is left alone."""
    folder = root / "1-1-1"
    (folder / blocked).mkdir(parents=True)
    (root / "lost+found").mkdir()
    orphan = open_journal()
    append_calls(orphan, range(3))
    orphan.directory.close()  # what the kernel does to the lock of a process that is gone
    mover = Mover(root, None, ledger)
    assert [await mover.move_once() for _ in range(2)] == [3, 0]
    assert caplog.text.count("cannot be adopted") == 1
    assert [str(folder) in notice for notice in mover.notices()] == [True]
    assert (folder / blocked).exists()
    assert (root / "lost+found").exists()
