"""Notes of calls under way, and what becomes of them when their process has been killed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, cast

import pytest

from llmgw_core.accounting import framing
from llmgw_core.accounting.directory import NOTES
from llmgw_core.accounting.framing import Unreadable
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.notes import Notes, noted
from llmgw_core.testing.usage_records import append_calls, call_ids, stored_ids, usage_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.ledger import Ledger


def under_way(number: int, microseconds: int = 10) -> UsageRecord:
    """What call `number` would be if it ended so long after its beginning."""
    return usage_record(number, status="failed", error_code="interrupted", duration_us=microseconds)


def note(notes: Notes, numbers: Iterable[int]) -> None:
    """As the gateway does: anew when there is no room."""
    records = [under_way(number) for number in numbers]
    assert notes.append(records) or notes.begin_anew(records)


def kill(journal: Journal) -> None:
    """Nobody holds its directory any more, and nothing else is done."""
    journal.directory.close()


def test_of_every_call_the_last_note_counts(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    notes = Notes(journal)
    assert not notes.append([under_way(1)])  # there is no file yet
    assert not notes.present()
    assert notes.begin_anew([under_way(1, 10)])
    assert notes.append([under_way(1, 30), under_way(2, 5)])
    assert notes.append([under_way(1, 20)])
    assert notes.present()
    found = noted(journal.directory.path)
    assert {id: each.duration_us for id, each in found.items()} == {"call-1": 30, "call-2": 5}


def test_a_full_file_gives_way_to_what_is_still_under_way(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal, size=2048)
    assert notes.begin_anew([under_way(0)])
    for number in range(1, 100):
        if not notes.append([under_way(number)]):
            assert notes.begin_anew([under_way(0), under_way(number)])
    found = noted(journal.directory.path)
    assert {"call-0", "call-99"} <= found.keys()
    assert len(found) < 12
    files = [path for path in journal.directory.path.iterdir() if path.name in NOTES]
    assert sum(path.stat().st_size for path in files) == 2 * 2048


def test_what_is_under_way_may_need_more_room_than_a_file_has(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal, size=512)
    assert notes.begin_anew([under_way(number) for number in range(300)])
    assert notes.append([under_way(300)])
    assert len(noted(journal.directory.path)) == 301


def test_a_torn_note_costs_nothing_that_was_noted_before(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, [1])
    frame = framing.frame_notes([under_way(2)])
    path = journal.directory.path / NOTES[1]
    start = len(framing.frame_notes([under_way(1)]))
    for length in range(len(frame)):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(frame[:length] + bytes(len(frame) - length))
        assert list(noted(journal.directory.path)) == ["call-1"]


def test_notes_of_another_version_are_left_out(
    open_journal: Callable[..., Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal()
    (journal.directory.path / NOTES[0]).write_bytes(framing.frame_usage(usage_record()))
    assert noted(journal.directory.path) == {}
    assert "a note cannot be read" in caplog.text
    with pytest.raises(Unreadable):
        framing.decode_notes(b"\x01N\xff")


def test_notes_whose_file_was_deleted_are_taken_anew(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, [1])
    note(notes, [2])
    for name in NOTES:
        (journal.directory.path / name).unlink(missing_ok=True)
    assert not notes.present()
    note(notes, [3])  # nobody looks at every note
    assert notes.begin_anew([under_way(4)])
    assert notes.present()
    assert list(noted(journal.directory.path)) == ["call-4"]


def test_a_disk_that_takes_nothing_is_said_once_and_tried_again(
    open_journal: Callable[..., Journal], caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    folder = journal.directory.path
    for name in NOTES:
        (folder / name).mkdir()
    assert not notes.begin_anew([under_way(1)])
    assert not notes.append([under_way(1)])
    assert not notes.begin_anew([under_way(1)])
    assert caplog.text.count("cannot be noted") == 1
    for name in NOTES:
        (folder / name).rmdir()
    assert notes.begin_anew([under_way(1)])
    assert "noted again" in caplog.text
    assert list(noted(folder)) == ["call-1"]


def test_notes_follow_the_journal_into_a_new_directory(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, [1])
    shutil.rmtree(journal.directory.path)
    assert not journal.check()
    assert journal.retry()
    assert not notes.append([under_way(2)])
    assert notes.begin_anew([under_way(1), under_way(2)])
    assert sorted(noted(journal.directory.path)) == ["call-1", "call-2"]


def test_whoever_ends_properly_leaves_no_notes(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    notes = Notes(journal)
    notes.close()
    note(notes, [1])
    notes.close()
    notes.close()
    assert noted(journal.directory.path) == {}
    assert not {path.name for path in journal.directory.path.iterdir()} & set(NOTES)


def test_what_could_not_be_put_on_the_books_stays_noted(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, [1])
    journal.healthy = False
    notes.close()
    assert list(noted(journal.directory.path)) == ["call-1"]
    journal.healthy = True


async def test_calls_under_way_in_a_killed_process_are_booked_once(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, range(5))
    append_calls(journal, range(3))
    note(notes, [3])
    await Mover(root, journal, ledger).move_once()
    assert await stored_ids(ledger) == call_ids(range(3))  # it lives
    append_calls(journal, [3])
    kill(journal)
    mover = Mover(root, None, ledger)
    lying = [each.call_id for part in mover.orphaned() for each in cast("list[UsageRecord]", part)]
    assert sorted(lying) == call_ids(range(5))
    assert await mover.move_once() == 2
    assert await stored_ids(ledger) == call_ids(range(5))
    statuses = {row.record.call_id: row.record.status for row in await ledger.rows()}
    assert [statuses[id] for id in call_ids(range(5))] == ["completed"] * 4 + ["failed"]
    assert not journal.directory.path.exists()
    assert list(mover.orphaned()) == [[]]
    assert await mover.move_once() == 0


async def test_a_crash_while_they_are_booked_doubles_and_loses_nothing(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    note(notes, range(10))
    append_calls(journal, range(4))
    kill(journal)
    kept = {name: (journal.directory.path / name).read_bytes() for name in NOTES[1:]}
    await Mover(root, None, ledger).move_once()
    # As if it had died just before the directory was removed.
    again = open_journal()
    for name, data in kept.items():
        (again.directory.path / name).write_bytes(data)
    kill(again)
    await Mover(root, None, ledger).move_once()
    assert sorted(await stored_ids(ledger)) == sorted(call_ids(range(10)))
    [sums] = await ledger.usage([])
    assert sums.calls == 10


async def test_a_call_is_not_over_for_its_note_lying_where_its_process_was(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    own, before = open_journal(), open_journal()
    note(Notes(before), [1, 2])
    kill(before)
    mover = Mover(root, own, ledger)
    mover.running_calls = lambda: ["call-2"]
    await mover.move_once()
    assert await stored_ids(ledger) == ["call-1"]


async def test_what_was_settled_in_another_journal_is_not_booked_as_interrupted(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    first, second = open_journal(), open_journal()
    note(Notes(first), [1])
    append_calls(second, [1])
    kill(first)
    kill(second)
    await Mover(root, None, ledger).move_once()
    [row] = await ledger.rows()
    assert row.record.status == "completed"
