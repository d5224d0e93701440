from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting import segments
from llmgw_core.accounting.journal import Journal
from llmgw_core.domain.usage import DeliveryRecord
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.accounting.framing import Record

LEFT = DeliveryRecord("call-0", "client_left", 7)


def on_disk(root: Path) -> list[Record]:
    """Everything in all journals below `root`, as an adopter would read it."""
    return [
        record
        for path in directories.others(root, None)
        for segment in sorted(path.glob("*.segment"))
        for record, _ in segments.read(segment)
    ]


def fill(ballast: Path) -> None:
    """Let `ballast` grow until the disk is full."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_what_was_appended_is_in_the_file_at_once(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    for number in range(3):
        journal.append_usage(usage_record(number))
        assert on_disk(root) == [usage_record(n) for n in range(number + 1)]
    assert journal.healthy


def test_a_delivery_rides_along_with_the_next_record(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_usage(usage_record(0))
    journal.append_delivery(LEFT)
    assert on_disk(root) == [usage_record(0)]
    journal.append_usage(usage_record(1))
    assert on_disk(root) == [usage_record(0), usage_record(1), LEFT]


def test_a_delivery_without_company_is_written_by_a_flush(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_delivery(LEFT)
    journal.flush()
    journal.flush()
    assert on_disk(root) == [LEFT]


def test_a_full_segment_is_followed_by_the_next(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    for number in range(100):
        journal.append_usage(usage_record(number))
    assert on_disk(root) == [usage_record(number) for number in range(100)]
    *closed, last = journal.extents()
    assert len(closed) > 5
    assert all(extent.closed for extent in closed)
    assert not last.closed


def test_a_record_larger_than_a_segment_gets_one_of_its_size(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    record = usage_record(1, model="m" * 10_000)
    journal.append_usage(record)
    journal.append_usage(usage_record(2))
    assert on_disk(root) == [record, usage_record(2)]


def test_a_segment_prepared_ahead_is_the_next_one(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    at_first = journal.wants_spare
    for number in range(10):
        journal.append_usage(usage_record(number))
    past_the_middle = journal.wants_spare
    journal.prepare()
    assert (at_first, past_the_middle, journal.wants_spare) == (False, True, False)
    spare = journal.directory.path / "spare"
    inode = spare.stat().st_ino
    while len(journal.extents()) == 1:
        journal.append_usage(usage_record())
    assert journal.extents()[-1].path.stat().st_ino == inode
    assert not spare.exists()


def test_a_spare_that_somebody_deleted_is_replaced(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.prepare()
    (journal.directory.path / "spare").unlink()
    for number in range(20):
        journal.append_usage(usage_record(number))
    assert len(on_disk(root)) == 20
    assert journal.healthy


def test_every_append_may_go_through_to_the_disk(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal(fsync="always")
    for number in range(20):
        journal.append_usage(usage_record(number))
    assert len(on_disk(root)) == 20


def test_two_journals_of_one_process_do_not_meet(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    one, two = open_journal(), open_journal()
    assert one.directory.path != two.directory.path
    assert directories.adopt(one.directory.path) is None
    assert directories.adopt(two.directory.path) is None


def test_the_mode_of_files_keeps_other_users_out(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    assert journal.directory.path.stat().st_mode & 0o077 == 0
    assert journal.extents()[0].path.stat().st_mode & 0o077 == 0


def test_on_a_full_disk_records_wait_and_are_written_once_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = small_disk / "journal"
    journal = Journal(root, segment_bytes=16_384)
    ballast = small_disk / "ballast"
    fill(ballast)
    number = 0
    while journal.healthy:
        journal.append_usage(usage_record(number))
        number += 1
    journal.append_usage(usage_record(number))
    journal.append_delivery(LEFT)
    journal.flush()
    assert not journal.retry()
    assert "No space left" in journal.failure
    assert len(journal.queued()) == 2
    ballast.unlink()
    assert journal.retry()
    assert not journal.queued()
    journal.flush()
    journal.append_usage(usage_record(number + 1))
    assert on_disk(root) == [
        *(usage_record(n) for n in range(number + 1)),
        LEFT,
        usage_record(number + 1),
    ]
    journal.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_delivery_that_does_not_fit_on_a_full_disk_waits_too(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal", segment_bytes=4096)
    ballast = small_disk / "ballast"
    fill(ballast)
    flushed = 0
    while journal.healthy:
        journal.append_delivery(LEFT)
        journal.flush()
        flushed += 1
    ballast.unlink()
    assert journal.retry()
    assert on_disk(small_disk / "journal") == [LEFT] * flushed
    journal.close()


def test_a_limit_on_file_size_is_survived_the_same_way(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal(segment_bytes=200_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        number = 0
        while journal.healthy:
            journal.append_usage(usage_record(number))
            number += 1
        assert not journal.retry()
        journal.append_usage(usage_record(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "too large" in journal.failure
    assert journal.retry()
    # The write that was cut short left its beginning in the first segment.
    assert on_disk(root) == [usage_record(n) for n in range(number + 1)]


def test_a_read_only_file_system_is_noticed_at_the_next_segment(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(small_disk / "journal", segment_bytes=4096)
    point = str(small_disk)
    subprocess.run(["mount", "--bind", point, point], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        with pytest.raises(OSError, match="Read-only"):
            Journal(small_disk / "another")
        number = 0
        while journal.healthy:
            journal.append_usage(usage_record(number))
            number += 1
        journal.prepare()
        assert "Read-only" in journal.failure
        assert not journal.retry()
    finally:
        subprocess.run(["umount", point], check=True)
    assert journal.retry()
    assert on_disk(small_disk / "journal") == [usage_record(n) for n in range(number)]
    journal.close()
    assert "allocated ahead" in caplog.text


def test_a_deleted_journal_is_noticed_and_nothing_in_its_open_segment_is_lost(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    for number in range(3):
        journal.append_usage(usage_record(number))
    journal.prepare()
    shutil.rmtree(root)
    journal.append_usage(usage_record(3))  # Succeeds, into a file that has no name any more.
    assert journal.healthy
    assert not journal.check()
    journal.append_usage(usage_record(4))
    assert journal.retry()
    assert journal.check()
    assert on_disk(root) == [usage_record(number) for number in range(5)]


def test_a_disk_that_takes_no_more_is_noticed_though_memory_does(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_usage(usage_record(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        journal.append_usage(usage_record(1))
        assert not journal.check()
        assert "File too large" in journal.failure
        assert not journal.retry()
        journal.append_usage(usage_record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.retry()
    assert journal.check()
    assert on_disk(root) == [usage_record(number) for number in range(3)]


def test_a_journal_that_was_cut_is_noticed_and_what_is_whole_is_kept(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_usage(usage_record(0))
    journal.append_usage(usage_record(1))
    os.truncate(journal.extents()[-1].path, journal.extents()[-1].end - 1)
    assert not journal.check()
    assert journal.retry()
    journal.append_usage(usage_record(2))
    assert on_disk(root) == [usage_record(0), usage_record(2)]


def test_a_journal_waits_until_its_place_can_be_a_directory_again(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_usage(usage_record(0))
    shutil.rmtree(root)
    root.write_text("in the way")
    assert not journal.check()
    assert not journal.retry()
    journal.append_usage(usage_record(1))
    root.unlink()
    assert journal.retry()
    assert on_disk(root) == [usage_record(0), usage_record(1)]


def test_an_empty_journal_that_was_deleted_comes_back_empty(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    shutil.rmtree(root)
    assert not journal.check()
    assert journal.retry()
    assert on_disk(root) == []


def test_a_journal_that_cannot_begin_says_so_and_leaves_nothing(root: Path) -> None:
    with pytest.raises(OSError, match=r"large|space|argument|overflow"):
        Journal(root, segment_bytes=2**62)
    assert list(root.iterdir()) == []
    root.rmdir()
    root.write_text("in the way")
    with pytest.raises(FileExistsError):
        Journal(root)


def test_closing_writes_what_waits_and_leaves_it_for_an_adopter(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    journal.append_usage(usage_record(0))
    journal.append_delivery(LEFT)
    journal.close()
    journal.close()
    assert on_disk(root) == [usage_record(0), LEFT]
    adopted = directories.adopt(journal.directory.path)
    assert adopted is not None
    adopted.close()


def test_closing_in_front_of_a_dead_disk_says_how_much_is_lost(
    root: Path, open_journal: Callable[..., Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal()
    shutil.rmtree(root)
    root.write_text("in the way")
    journal.check()
    journal.append_usage(usage_record(0))
    journal.close()
    assert "1 records are lost" in caplog.text


def test_dropping_queued_items_never_drops_another_one(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    shutil.rmtree(root)
    journal.check()
    journal.append_usage(usage_record(0))
    stale = journal.queued()
    assert journal.retry()
    shutil.rmtree(root)
    journal.check()
    newer = journal.queued()
    journal.drop(stale)
    assert journal.queued() == newer
    journal.drop(newer)
    assert journal.queued() == []


def test_a_lock_file_that_was_replaced_is_not_the_lock(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    lock = journal.directory.path / "lock"
    lock.unlink()
    lock.touch()
    assert not journal.directory.present()


def test_a_damaged_checkpoint_counts_as_none(open_journal: Callable[..., Journal]) -> None:
    directory = open_journal().directory
    directory.save_progress({"a": directories.Progress(5, True)})
    assert directory.load_progress() == {"a": directories.Progress(5, True)}
    (directory.path / "checkpoint").write_bytes(os.urandom(3) + b"\xc1")
    assert directory.load_progress() == {}
