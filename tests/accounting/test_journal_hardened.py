from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting.mover import Mover
from llmgw_core.domain.usage import DeliveryRecord
from llmgw_core.testing.usage_records import append_calls, stored_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.ledger import Ledger


async def test_journals_are_in_the_order_of_making_when_the_clock_goes_back(
    root: Path,
    open_journal: Callable[..., Journal],
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hour = 3_600 * 10**9
    clock = iter(range(time.time_ns(), 0, -hour))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    for number in range(3):
        journal = open_journal()
        if number == 1:
            # What happened to a call is told behind the call, so it must be read behind it.
            journal.append_delivery(DeliveryRecord("call-0", "client_left", 99))
        append_calls(journal, range(number, number + 1))
        journal.close()
    found = directories.others(root, None)
    assert found == sorted(found)
    await Mover(root, None, ledger).move_once()
    assert await stored_ids(ledger) == ["call-0", "call-1", "call-2"]
    first = await ledger.get("call-0")
    assert first is not None
    assert first.status == "client_left"


async def test_a_directory_with_another_name_is_no_reason_to_stop(root: Path) -> None:
    (root / "lost+found").mkdir(parents=True)
    directory = directories.create(root)
    assert directory.path.name.split("-")[0].isdigit()
    directory.remove()


async def test_a_record_of_which_only_a_part_was_written_is_not_acknowledged(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    journal = open_journal(fsync="always")
    append_calls(journal, range(1))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[: len(data) // 2], at))
    append_calls(journal, range(1, 2))
    assert not journal.healthy
    assert len(journal.queued()) == 1
    monkeypatch.undo()
    assert journal.retry()
    assert not journal.queued()
