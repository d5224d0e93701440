"""Full segments are added up while the store is down, so that the next start need not read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.accounting import framing, segments, summaries
from llmgw_core.accounting.mover import Mover
from llmgw_core.accounting.notes import Notes
from llmgw_core.accounting.summaries import QUARTER_NS, Used, summarize, summary_of, summed
from llmgw_core.accounting.unmoved import Summed
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import AttemptRecord, Usage
from llmgw_core.testing.usage_records import (
    STARTED_NS,
    append_calls,
    call_ids,
    stored_ids,
    usage_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.ledger import Ledger

QUARTER = STARTED_NS // QUARTER_NS


class Down:
    """A ledger that cannot be reached."""

    async def insert(self, *_: Any) -> int:
        raise StoreUnavailable("down")


def test_calls_are_added_up_by_what_meters_are_about() -> None:
    """What a failed attempt elsewhere was paid for is with the deployment that did it."""
    paid = AttemptRecord("m/b", "small", "timeout", 504, 1, 70, 90, usage=Usage(4, 2))
    late = STARTED_NS + QUARTER_NS
    records = [
        usage_record(1),
        usage_record(2),
        usage_record(3, team_id=None, started_ns=late),
        usage_record(4, started_ns=late, attempts=(paid, *usage_record().attempts)),
    ]
    levels = ("org-1", "team-1", "user-1", "key-1", "small")
    alone = ("org-1", None, "user-1", "key-1", "small")
    assert summed(records) == [
        Used(QUARTER, *levels, "small/local", 2, 20, 10, 5_000),
        Used(QUARTER + 1, *alone, "small/local", 1, 10, 5, 2_500),
        Used(QUARTER + 1, *levels, "small/local", 1, 6, 3, 2_410),
        Used(QUARTER + 1, *levels, "m/b", 0, 4, 2, 90),
    ]


async def test_only_a_store_that_is_down_has_full_segments_added_up(
    root: Path, open_journal: Callable[..., Journal], ledger: Ledger
) -> None:
    journal = open_journal()
    append_calls(journal, range(60))
    folder = journal.directory.path
    mover = Mover(root, journal, Down())
    await mover._try()
    full = [extent for extent in journal.extents() if extent.closed]
    assert len(full) > 1
    assert sorted(path.name for path in folder.glob("*.sums*")) == [
        f"{extent.path.stem}.sums" for extent in full
    ]
    ids = []
    for extent in full:
        summary = summary_of(extent.path)
        assert summary is not None
        assert summary.used == summed(record for record, _ in segments.read(extent.path))  # type: ignore[misc]
        ids += summary.call_ids()
    assert ids == call_ids(range(len(ids)))
    before = [path.stat().st_ino for path in sorted(folder.glob("*.sums"))]
    await mover._try()
    assert [path.stat().st_ino for path in sorted(folder.glob("*.sums"))] == before
    mover = Mover(root, journal, ledger)
    await mover._try()
    assert sorted(await stored_ids(ledger)) == sorted(call_ids(range(60)))
    assert list(folder.glob("*.sums*")) == []
    # A segment whose file somebody has deleted leaves its sums, which the end takes along.
    (folder / "00000099.sums").touch()
    await mover.aclose()
    journal.close()
    assert not folder.exists()


def test_what_cannot_be_read_is_not_added_up_and_sums_that_cannot_be_read_are_none(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    append_calls(journal, range(60))
    first, second = (extent for extent in journal.extents()[:2])
    summarize(first.path, first.end)
    sums = first.path.with_suffix(summaries.SUFFIX)
    whole = sums.read_bytes()
    for broken in (b"", whole[:-1], whole[:50] + b"?" + whole[51:], bytes(len(whole))):
        sums.write_bytes(broken)
        assert summary_of(first.path) is None
    data = bytearray(second.path.read_bytes())
    data[second.end // 2] ^= 1
    second.path.write_bytes(data)
    summarize(second.path, second.end)
    assert summary_of(second.path) is None


async def test_a_disk_that_is_full_costs_the_sums_and_nothing_else(
    root: Path,
    open_journal: Callable[..., Journal],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = open_journal()
    append_calls(journal, range(60))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(framing, "frame_of", full)
    mover = Mover(root, journal, Down())
    await mover._try()
    assert mover.failures == 1
    assert mover.bugs == 0
    assert "is not added up" in caplog.text


async def test_a_call_that_was_noted_and_settled_in_a_summed_segment_is_there_once(
    root: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal()
    notes = Notes(journal)
    assert notes.begin_anew(
        [msgspec.structs.replace(usage_record(n), duration_us=1) for n in (1, 99)]
    )
    append_calls(journal, range(60))
    await Mover(root, journal, Down())._try()
    journal.directory.close()  # what the kernel does to the lock of a process that is gone
    found: list[str] = []
    for part in Mover(root, None, Down()).orphaned():
        if isinstance(part, Summed):
            found += part.summary.call_ids()
        else:
            found += [each.call_id for each in part]
    assert found == call_ids([*range(60), 99])
    notes.close()
